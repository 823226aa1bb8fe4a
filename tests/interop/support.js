// Starts the examples as programs, and waits for what a test wants to see.
//
// EXAMPLES is the folder of the built examples, by default that in CARGO_TARGET_DIR; tests/run sets
// both.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import net from "node:net";
import path from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");

export const TARGET = path.resolve(ROOT, process.env.CARGO_TARGET_DIR || "target");

export const EXAMPLES = path.resolve(ROOT, process.env.EXAMPLES || path.join(TARGET, "debug/examples"));

const running = new Set();
process.on("exit", () => running.forEach((child) => child.kill("SIGKILL")));

/** How long something may take that takes a moment on an idle machine. */
export const PATIENCE = 60_000;

/**
 * A port that nobody listens on. It is below those that the system gives to outgoing connections,
 * so that none of them takes it before the server does, or while the server is started anew.
 */
export async function freePort() {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 20_000);
    const server = net.createServer().listen(port, "127.0.0.1");
    const isFree = await new Promise((resolve) => {
      server.once("listening", () => resolve(true));
      server.once("error", () => resolve(false));
    });
    if (!isFree) continue;
    server.close();
    await once(server, "close");
    return port;
  }
}

/** An example that runs with these ports as its arguments, until `kill`; `start` again after it. */
export class Server {
  static async run(name, count = 1, env = {}) {
    const ports = new Set();
    while (ports.size < count) ports.add(await freePort());
    const server = new Server(name, [...ports], env);
    await server.start();
    return server;
  }

  constructor(name, ports, env) {
    this.name = name;
    this.ports = ports;
    this.env = { ...process.env, ...env };
    this.output = "";
  }

  get url() {
    return `http://127.0.0.1:${this.ports[0]}`;
  }

  async start() {
    const program = path.join(EXAMPLES, this.name);
    const options = { stdio: ["ignore", "pipe", "pipe"], env: this.env };
    const child = spawn(program, this.ports.map(String), options);
    this.child = child;
    running.add(child);
    const ended = new Promise((resolve, reject) => {
      child.once("error", reject);
      child.once("exit", (code, signal) => resolve(code ?? signal));
    });
    this.ended = ended.finally(() => running.delete(child));
    this.ended.catch(() => {});
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (data) => (this.output += data));
    }
    const failed = this.ended.then((code) => {
      throw new Error(`${this.name} ended with ${code}:\n${this.output}`);
    });
    await Promise.race([failed, Promise.all(this.ports.map(listening))]);
    // A crash is seen in the tests' output, whatever the tests make of it.
    failed.catch((error) => this.killed === child || console.error(error.message));
  }

  /** Ends it as a crash would. */
  async kill() {
    this.killed = this.child;
    this.child.kill("SIGKILL");
    await this.ended;
  }

}

/** Stops a process until `resume`: to its clients the network is gone meanwhile. */
export async function pause(child) {
  child.kill("SIGSTOP");
  // One thread takes the signal. The others go on until that thread runs, which may take a while.
  const tasks = `/proc/${child.pid}/task`;
  if (!existsSync(tasks)) return;
  const stopped = (task) => / T /.test(readFileSync(`${tasks}/${task}/stat`, "utf8"));
  await until(() => readdirSync(tasks).every(stopped), "stop of all threads");
}

export const resume = (child) => child.kill("SIGCONT");

/** Resolves when something listens on the port. */
async function listening(port) {
  await until(
    () =>
      new Promise((resolve) => {
        const socket = net.connect(port, "127.0.0.1");
        socket.once("connect", () => resolve(true));
        socket.once("error", () => resolve(false));
        socket.once("connect", () => socket.destroy());
      }),
    `a listener on port ${port}`,
  );
}

/** Asks again and again until the answer is truthy, and returns it. */
export async function until(ask, what, milliseconds = PATIENCE) {
  const end = Date.now() + milliseconds;
  while (Date.now() < end) {
    const answer = await ask();
    if (answer) return answer;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`no ${what} within ${milliseconds} ms`);
}

/** The promise's value, or an error that says what did not come. */
export async function within(promise, what, milliseconds = PATIENCE) {
  let timer;
  const late = new Promise((_, reject) => {
    const error = new Error(`no ${what} within ${milliseconds} ms`);
    timer = setTimeout(() => reject(error), milliseconds);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** What comes in, in order, to be taken one by one. */
export class Inbox {
  items = [];
  waiting = [];

  push(item) {
    const next = this.waiting.shift();
    if (next) return next(item);
    this.items.push(item);
  }

  take(what = "message") {
    if (this.items.length > 0) return Promise.resolve(this.items.shift());
    return within(new Promise((resolve) => this.waiting.push(resolve)), what);
  }
}
