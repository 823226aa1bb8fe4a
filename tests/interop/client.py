"""python-socketio, a client that shares no code with the official ones, against `interop`.

EXAMPLES is the folder of the built examples; tests/run sets it, and installs what is needed.
"""

import os
import queue
import random
import re
import socket
import subprocess
import sys
import threading
import time
import unittest
from pathlib import Path

import engineio
import socketio

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = Path(os.environ.get("EXAMPLES", ROOT / "target/debug/examples"))
PATIENCE = 60

# Each parser with its place among the ports of the example.
PARSERS = {"default": 0, "msgpack": 1}
WAYS = {"Polling": ["polling"], "Websocket": ["websocket"], "Upgrade": None}


def free_ports(count):
    """Ports that nobody listens on. They are below those that the system gives to outgoing
    connections, so that none of these takes one before the example does."""
    probes = []
    while len(probes) < count:
        try:
            probes.append(socket.create_server(("127.0.0.1", random.randrange(10_000, 30_000))))
        except OSError:
            continue
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Server:
    """The example, on free ports. It can be killed and started again."""

    def __init__(self):
        self.ports = free_ports(3)
        self.start()

    def start(self):
        self.process = subprocess.Popen([EXAMPLES / "interop", *map(str, self.ports)])
        for port in self.ports:
            self.wait_for(port)

    def wait_for(self, port):
        for _ in range(100 * PATIENCE):
            if self.process.poll() is not None:
                sys.exit(f"the example ended with {self.process.returncode}")
            try:
                return socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                time.sleep(0.01)
        sys.exit("the example does not listen")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def url(self, parser, query=""):
        return f"http://127.0.0.1:{self.ports[PARSERS[parser]]}{query}"


class OrderedEngine(engineio.Client):
    """python-engineio's client, which handles messages in their order.

    The original starts a thread for each message. The attachment of a packet can then reach the
    parser before the packet does, and the end of the connection before the last packet.
    """

    def _trigger_event(self, event, *args, run_async=False, **kwargs):
        return super()._trigger_event(event, *args, **kwargs)

    def disconnect(self, *args, **kwargs):
        # A message may disconnect. The thread that reads messages cannot wait for its own end.
        if threading.current_thread() is self.read_loop_task:
            return self.start_background_task(self.disconnect, *args, **kwargs)
        # The original drops packets that its thread for writing has not taken yet.
        for _ in range(100 * PATIENCE):
            if self.state != "connected" or self.queue.unfinished_tasks == 0:
                break
            time.sleep(0.01)
        return super().disconnect(*args, **kwargs)


class Client(socketio.Client):
    """python-socketio's client, which parses packets in their order."""

    def _engineio_client_class(self):
        return OrderedEngine


class Heard:
    """Everything that a client hears, to be taken one by one for each event."""

    def __init__(self, client):
        self.queues = {}
        client.on("*", self.put, namespace="*")
        for name in ("connect", "connect_error", "disconnect"):
            client.on(name, lambda *args, name=name: self.put(name, *args), namespace="*")

    def put(self, event, namespace, *args):
        self.queue(event, namespace).put(list(args))

    def queue(self, event, namespace):
        return self.queues.setdefault((event, namespace), queue.Queue())

    def take(self, event, namespace="/"):
        try:
            return self.queue(event, namespace).get(timeout=PATIENCE)
        except queue.Empty:
            raise AssertionError(f"no {event} in {namespace}") from None

    def count(self, event, namespace="/"):
        return self.queue(event, namespace).qsize()


class Cases:
    """Tests for one parser and one way; a class below has both."""

    parser: str
    way: list

    @classmethod
    def setUpClass(cls):
        cls.server = Server()

    @classmethod
    def tearDownClass(cls):
        cls.server.kill()

    def setUp(self):
        self.clients = []

    def tearDown(self):
        for client in self.clients:
            client.shutdown()

    def client(self):
        client = Client(
            serializer=self.parser,
            reconnection_delay=0.05,
            reconnection_delay_max=0.1,
            randomization_factor=0,
        )
        self.clients.append(client)
        return client, Heard(client)

    def connect(self, *namespaces, auth=None, query="", server=None):
        client, heard = self.client()
        url = (server or self.server).url(self.parser, query)
        namespaces = list(namespaces) or ["/"]
        client.connect(
            url, auth=auth, transports=self.way, namespaces=namespaces, wait_timeout=PATIENCE
        )
        return client, heard

    def call(self, client, event, *args, namespace="/"):
        return client.call(event, args, namespace=namespace, timeout=PATIENCE)

    def test_connects_with_a_query_and_credentials(self):
        auth = {"token": "é", "deep": [1, {"two": None}]}
        client, heard = self.connect(auth=auth, query="?a=1%20%26%202")
        [welcome] = heard.take("welcome")
        self.assertEqual(welcome["auth"], auth)
        self.assertEqual(welcome["query"]["a"], "1 & 2")
        self.assertRegex(client.get_sid(), re.compile(r"^[\w-]{20}$"))
        self.assertEqual(client.transport(), (self.way or ["websocket"])[0])

    def test_namespaces_share_a_connection(self):
        client, heard = self.connect("/", "/chat", "/rooms/a")
        self.assertEqual(self.call(client, "where", namespace="/rooms/a"), "a")
        client.emit("back", "main")
        client.emit("back", "chat", namespace="/chat")
        self.assertEqual(heard.take("back", "/chat"), ["chat"])
        self.assertEqual(heard.take("back"), ["main"])

    def test_acknowledges_and_emits_values_of_all_kinds(self):
        client, heard = self.connect()
        for args in [
            [None, True, False, 0, -1, 0.1, 2.0, 2**53 - 1, -(2**40), ""],
            ["aé€😀\u2028\0\"\\", "x" * 70_000],
            [[], {}, [[{"a": [1, {"b": "c"}]}]], {"ключ": 1, "": 2}],
            [b"\1\2", {"deep": [b"", {"er": b"\xff"}]}, "text", b"\3"],
            [list(range(20)), b"\7" * 70_000],
        ]:
            self.assertEqual(list(self.call(client, "echo", *args)), args)
            client.emit("back", tuple(args))
            self.assertEqual(heard.take("back"), args)
        self.assertIsNone(self.call(client, "echo"))

    def test_is_asked_and_answers(self):
        client, heard = self.connect()
        asked = []

        def question(_namespace, *args):
            asked.append(list(args))
            return {"text": "yes", "data": b"\4\2"}

        client.on("question", question, namespace="*")
        client.emit("ask", ("why", {"data": b"\1"}))
        self.assertEqual(heard.take("answered"), [{"text": "yes", "data": b"\4\2"}])
        self.assertEqual(asked, [["why", {"data": b"\1"}]])

    def test_broadcasts_reach_all_others_or_a_room(self):
        (a, at_a), (b, at_b), (c, at_c) = [self.connect("/chat") for _ in range(3)]
        for client in (a, b):
            self.call(client, "join", "room", namespace="/chat")
        a.emit("others", (1, b"\1"), namespace="/chat")
        a.emit("room", ("room", {"data": b"\2"}, "two"), namespace="/chat")
        self.assertEqual(at_b.take("room", "/chat"), [{"data": b"\2"}, "two"])
        self.call(b, "leave", "room", namespace="/chat")
        a.emit("room", ("room", "nobody is there"), namespace="/chat")
        a.emit("all", ("last", b"\4"), namespace="/chat")
        for heard in (at_a, at_b, at_c):
            self.assertEqual(heard.take("all", "/chat"), ["last", b"\4"])
        for heard in (at_b, at_c):
            self.assertEqual(heard.take("others", "/chat"), [1, b"\1"])
        counts = [heard.count(event, "/chat") for heard in (at_a, at_b, at_c) for event in ("others", "room")]
        self.assertEqual(counts, [0] * 6)

    def test_volatile_events_arrive_while_the_client_is_there(self):
        client, heard = self.connect()
        # Over polling the server may have no poll to answer in this very moment.
        for _ in range(100 * PATIENCE):
            client.emit("volatile", b"\1")
            if heard.count("volatile"):
                break
            time.sleep(0.01)
        self.assertEqual(heard.take("volatile"), [b"\1"])

    def test_is_refused_with_a_message_and_data_and_let_in_with_credentials(self):
        client, heard = self.client()
        with self.assertRaises(socketio.exceptions.ConnectionError):
            client.connect(
                self.server.url(self.parser),
                auth={"token": "guess"},
                transports=self.way,
                namespaces=["/closed"],
                wait_timeout=PATIENCE,
            )
        refusal = {"message": "not authorized", "data": {"code": 401, "again": False}}
        self.assertEqual(heard.take("connect_error", "/closed"), [refusal])
        client, _ = self.connect("/closed", auth={"token": "sesame"})
        self.assertEqual(self.call(client, "echo", 1, namespace="/closed"), 1)
        with self.assertRaises(socketio.exceptions.ConnectionError):
            self.connect("/nowhere")

    def test_both_sides_know_why_a_connection_ended(self):
        _, witness = self.connect()
        leaving, at_leaving = self.connect()
        sid = leaving.get_sid()
        leaving.disconnect()
        self.assertEqual(at_leaving.take("disconnect"), [leaving.reason.CLIENT_DISCONNECT])
        # It closes its WebSocket at once; what it has said last may stay behind.
        self.assert_left(witness, sid, "client namespace disconnect", "transport close")
        for event in ("kick", "close"):
            leaving, at_leaving = self.connect()
            sid = leaving.get_sid()
            leaving.emit(event)
            self.assertEqual(at_leaving.take("disconnect"), [leaving.reason.SERVER_DISCONNECT])
            self.assert_left(witness, sid, "server namespace disconnect")

    def assert_left(self, witness, sid, *reasons):
        # A client of an earlier test may leave late.
        left = {"id": None}
        while left["id"] != sid:
            [left] = witness.take("left")
        self.assertIn(left["reason"], reasons)

    def test_comes_back_by_itself_after_the_server_has_crashed(self):
        server = Server()
        try:
            client, heard = self.connect(auth={"n": 1}, server=server)
            heard.take("connect")
            heard.take("welcome")
            server.kill()
            heard.take("disconnect")
            server.start()
            heard.take("connect")
            self.assertEqual(heard.take("welcome")[0]["auth"], {"n": 1})
            self.assertEqual(list(self.call(client, "echo", b"\1", "again")), [b"\1", "again"])
            client.shutdown()
        finally:
            server.kill()


for parser in PARSERS:
    for name, way in WAYS.items():
        name = f"{parser.title()}{name}"
        globals()[name] = type(name, (Cases, unittest.TestCase), {"parser": parser, "way": way})


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    sys.exit(not result.wasSuccessful() or bool(result.skipped) or not result.testsRun)
