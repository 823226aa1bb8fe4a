// Clients of version 2 against the example `conformance`, which has a server for them: they speak
// revision 3 of Engine.IO, where the client pings and a payload has lengths, and revision 4 of the
// protocol above it, where the main namespace is joined without asking.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import io from "socket.io-client-v2";
import { Inbox, Server, until, within } from "./support.js";

const WAYS = {
  "polling only": { transports: ["polling"] },
  "polling only, bytes as text": { transports: ["polling"], forceBase64: true },
  "websocket only": { transports: ["websocket"] },
  "websocket only, bytes as text": { transports: ["websocket"], forceBase64: true },
  "polling, then websocket": {},
};

const TEXTS = ["", "hello", "é€😀", "a:1:b", "\u2028\u0000\u001e", "x".repeat(100_000)];

/** Pings come often, and there is time for each pong. */
const PINGS = { PING_INTERVAL: 300, PING_TIMEOUT: 30_000 };

const open = new Set();
let server;
before(async () => (server = await Server.run("conformance", 4, PINGS)));
after(() => server?.kill());
test.afterEach(() => {
  open.forEach((socket) => socket.close());
  open.clear();
});

const url = (namespace = "") => `http://127.0.0.1:${server.ports[3]}${namespace}`;

function client(options = {}, place = url()) {
  const socket = io(place, { forceNew: true, reconnectionDelay: 50, reconnectionDelayMax: 100, ...options });
  open.add(socket);
  return socket;
}

const event = (socket, name) =>
  within(new Promise((resolve) => socket.once(name, (...args) => resolve(args))), `event ${name}`);

async function connected(options, place) {
  const socket = client(options, place);
  await event(socket, "connect");
  return socket;
}

const ask = (socket, ...args) =>
  within(new Promise((resolve) => socket.emit(...args, (...answer) => resolve(answer))), "answer");

async function told(socket, ...args) {
  const answer = event(socket, "message-back");
  socket.emit("message", ...args);
  return answer;
}

const bytes = (value) => Buffer.from(value);

for (const [way, options] of Object.entries(WAYS)) {
  describe(way, () => {
    test("values are echoed unchanged", async () => {
      const socket = await connected(options);
      for (const text of TEXTS) assert.deepEqual(await told(socket, text), [text]);
      const values = [1, "2", null, [true, { three: -0.5 }], { ключ: ["значение"] }];
      assert.deepEqual(await told(socket, ...values), values);
    });

    test("bytes are echoed unchanged, together with text", async () => {
      const socket = await connected(options);
      const all = bytes(Array.from({ length: 256 }, (_, i) => i));
      for (const value of [bytes([]), all, Buffer.alloc(200_000, 7)]) {
        const [text, { data }] = await told(socket, "é€😀", { data: value });
        assert.equal(text, "é€😀");
        assert.deepEqual(bytes(data), value);
      }
    });

    test("acknowledgements go both ways, with bytes too", async () => {
      const socket = await connected(options);
      assert.deepEqual(await ask(socket, "message-with-ack", 1, "two"), [1, "two"]);
      const [answer] = await ask(socket, "message-with-ack", bytes([1, 2, 3]));
      assert.deepEqual(bytes(answer), bytes([1, 2, 3]));
      socket.on("question", (value, reply) => reply(value));
      const [back] = await ask(socket, "ask", bytes([4, 5]));
      assert.deepEqual(bytes(back), bytes([4, 5]));
    });

    test("hundreds of events keep their order", async () => {
      const socket = await connected(options);
      const inbox = new Inbox();
      socket.on("message-back", (number) => inbox.push(number));
      for (let n = 0; n < 500; n++) socket.emit("message", n);
      for (let n = 0; n < 500; n++) assert.equal(await inbox.take(), n);
    });

    test("the server's id is the beginning of the client's", async () => {
      const socket = await connected(options);
      const [id] = await ask(socket, "id");
      assert.match(id, /^[\w-]{20}$/);
      assert.equal(socket.id.slice(0, 20), id);
      // A session that begins with WebSocket has no requests, so its id is no secret.
      assert.equal(socket.id === id, way.startsWith("websocket"));
    });

    test("the heartbeat keeps the connection", async () => {
      const socket = await connected(options);
      const pongs = new Inbox();
      let lost = false;
      socket.on("pong", () => pongs.push());
      socket.on("disconnect", () => (lost = true));
      for (let n = 0; n < 3; n++) await pongs.take("pong");
      assert.equal(lost, false);
      assert.deepEqual(await ask(socket, "message-with-ack", "still here"), ["still here"]);
    });

    test("the query of a namespace is its auth", async () => {
      const socket = client(options, url("/custom"));
      socket.query = { token: "a,b&c=é", n: "1" };
      const auth = event(socket, "auth");
      await event(socket, "connect");
      assert.deepEqual(await auth, [{ n: "1", token: "a,b&c=é" }]);
      assert.deepEqual(await ask(socket, "message-with-ack", bytes([1]), "x").then(([, x]) => x), "x");
    });

    test("an unknown namespace is refused", async () => {
      const socket = client(options, url("/nowhere"));
      assert.deepEqual(await event(socket, "error"), [{ message: "Invalid namespace" }]);
    });

    test("a refusal is a text, or data alone", async () => {
      const socket = client(options, url("/refused"));
      assert.deepEqual(await event(socket, "error"), ["not authorized"]);
      const other = client(options, url("/refused"));
      other.query = "code=7";
      assert.deepEqual(await event(other, "error"), [{ code: "7" }]);
      assert.equal(other.connected, false);
    });

    test("a refusal in the main namespace", async () => {
      const socket = client({ ...options, query: { refuse: 1 } });
      assert.deepEqual(await event(socket, "error"), ["not today"]);
      assert.equal(socket.connected, false);
    });

    test("either side can disconnect", async () => {
      const socket = await connected(options);
      const gone = event(socket, "disconnect");
      socket.emit("leave");
      assert.deepEqual(await gone, ["io server disconnect"]);

      const other = await connected(options);
      const ended = event(other, "disconnect");
      other.disconnect();
      assert.deepEqual(await ended, ["io client disconnect"]);
    });

    test("reconnects by itself, with another id", async () => {
      const socket = await connected(options);
      const { id } = socket;
      const again = event(socket, "reconnect");
      socket.io.engine.close();
      await again;
      await until(() => socket.connected, "connection");
      assert.notEqual(socket.id, id);
      assert.deepEqual(await ask(socket, "message-with-ack", 1), [1]);
    });
  });
}

test("the upgrade completes and loses nothing", async () => {
  const socket = client();
  const inbox = new Inbox();
  socket.on("message-back", (number) => inbox.push(number));
  const upgraded = new Promise((resolve) => socket.io.engine.once("upgrade", resolve));
  for (let n = 0; n < 100; n++) socket.emit("message", n);
  await within(upgraded, "upgrade");
  for (let n = 100; n < 200; n++) socket.emit("message", n);
  for (let n = 0; n < 200; n++) assert.equal(await inbox.take(), n);
  assert.equal(socket.io.engine.transport.name, "websocket");
});

test("two namespaces share a connection", async () => {
  const main = await connected({ forceNew: false });
  const custom = io(url("/custom"));
  open.add(custom);
  await event(custom, "connect");
  assert.equal(custom.io, main.io);
  assert.equal(custom.id, `/custom#${main.id}`);
  custom.disconnect();
  assert.deepEqual(await ask(main, "message-with-ack", 1), [1]);
});

test("a server without allow_eio3 refuses them", async () => {
  for (const transports of [["polling"], ["websocket"]]) {
    const place = `http://127.0.0.1:${server.ports[1]}`;
    const socket = client({ transports, reconnection: false }, place);
    const connected = () => assert.fail("it must not connect");
    socket.on("connect", connected);
    await event(socket, "connect_error");
  }
});

test("Socket.IO 4 clients are served too", async () => {
  const { io: current } = await import("socket.io-client");
  const socket = current(url(), { forceNew: true });
  open.add(socket);
  await event(socket, "connect");
  assert.deepEqual(await ask(socket, "id"), [socket.id]);
});
