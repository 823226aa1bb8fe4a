"""Starts servers, has the load generator measure them, and reads what it prints."""

import json
import os
import resource
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
OURS = "tower-socketio"


def target(of):
    return Path(os.environ.get("CARGO_TARGET_DIR", of / "target")).resolve()


RELEASE = target(HERE) / "release"
SERVERS = {
    "socketioxide": f"{RELEASE}/peer-socketioxide {{port}}",
    "node": f"node {HERE}/servers/node/server.js {{port}}",
    OURS: f"{target(ROOT)}/release/examples/echo {{port}}",
    "floor-tungstenite": f"{RELEASE}/floor-tungstenite {{port}}",
    "floor-tokio": f"{RELEASE}/floor-tokio {{port}}",
    "floor-epoll": f"{RELEASE}/floor-epoll {{port}}",
    "floor-polling": f"{RELEASE}/floor-polling {{port}}",
}
FLOORS = {name for name in SERVERS if name.startswith("floor-")}
POLLING_ONLY = {"floor-polling"}
# They have one thread that serves, however many cores there are.
SINGLE = {"node", "floor-epoll"}


@dataclass(frozen=True)
class Run:
    """What sioload is told to do, and for whom."""

    args: list = field(default_factory=list)
    # How many workers and cores the server gets; the load then sleeps while it waits.
    workers: int | None = None
    without: frozenset = frozenset(POLLING_ONLY)


@dataclass(frozen=True)
class Cores:
    """The server's, the load's, and one for a second worker: the load's if there is no third."""

    server: int
    load: int
    second: int

    @classmethod
    def of(cls, numbers):
        if len(numbers) < 2:
            sys.exit("two cores are needed")
        return cls(numbers[0], numbers[1], numbers[2] if len(numbers) > 2 else numbers[1])

    def of_server(self, workers):
        return [self.server, self.second] if workers == 2 else [self.server]


def free_port():
    # Below the ephemeral range, so that no connection of a run takes it.
    for port in range(20000 + os.getpid() % 5000, 32000):
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    sys.exit("no free port")


class Server:
    def __init__(self, name, command, cores, workers=None, syscount=None):
        self.port, self.counters = free_port(), None
        env = dict(os.environ)
        env.pop("TOKIO_WORKER_THREADS", None)
        if workers:
            env["TOKIO_WORKER_THREADS"] = str(workers)
        if syscount:
            self.counters = Path(tempfile.gettempdir()) / f"syscount.{os.getpid()}"
            env |= {"LD_PRELOAD": str(syscount), "SYSCOUNT_FILE": str(self.counters)}

        def set_up():
            os.sched_setaffinity(0, cores)
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

        self.process = subprocess.Popen(
            shlex.split(command.format(port=self.port)),
            preexec_fn=set_up, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )
        try:
            self.wait_until_it_listens(name, command)
        except BaseException:
            self.stop()
            raise

    def wait_until_it_listens(self, name, command):
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                time.sleep(0.3)
                return
            except OSError:
                if self.process.poll() is not None:
                    sys.exit(f"{name} ended with {self.process.returncode}: {command}")
                time.sleep(0.05)
        sys.exit(f"{name} does not listen: {command}")

    def stop(self):
        self.process.kill()
        self.process.wait()
        if self.counters:
            self.counters.unlink(missing_ok=True)


def measure(options, name, command, run):
    """The lines that one run of the load generator printed."""
    cores = options.cores.of_server(run.workers)
    server = Server(name, command, cores, run.workers, options.syscount)
    load = [
        str(RELEASE / "sioload"), "--server", name, "--pid", str(server.process.pid),
        "--addr", f"127.0.0.1:{server.port}", "--core", str(options.cores.load),
        "--server-cores", ",".join(map(str, cores)),
        "--warmup", str(options.warmup), "--secs", str(options.secs),
    ]
    if server.counters:
        load += ["--counters", str(server.counters)]
    if run.workers:
        load += ["--sleep"]
    failed = {"server": name, "scenario": "".join(run.args), "errors": 1, "failed": True}
    try:
        done = subprocess.run(load + run.args, stdout=subprocess.PIPE, text=True, timeout=400)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        if done.returncode != 0:
            lines.append(failed)
    except subprocess.TimeoutExpired:
        lines = [failed]
    finally:
        server.stop()
    for line in lines:
        if run.workers:
            line["scenario"] += f"-workers{run.workers}"
    return lines


def measure_quietly(options, name, command, run):
    """Measures again, some times, while others keep the cores from the run."""
    best = None
    for attempt in range(1 + options.retries):
        if attempt:
            time.sleep(2)
        lines = measure(options, name, command, run)
        contended = max((line.get("contended") or 0 for line in lines), default=0)
        if best is None or contended < best[0]:
            best = (contended, lines)
        if contended <= options.max_contended or any(line["errors"] for line in lines):
            break
    return best[1]
