// Servers that share a Redis stream and recover each other's clients, and what they write there.
//
// With NODE=1 Node's servers stand in all places: the tests then show what holds for Node.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

import { decode } from "@msgpack/msgpack";
import { createClient } from "redis";
import { io } from "socket.io-client";

import { EXAMPLES, freePort, until, within } from "./support.js";

/** Whether servers of this crate take part. */
export const HAS_OURS = process.env.NODE !== "1";

const NODE_SERVER = fileURLToPath(new URL("../../benches/cluster/node_server.js", import.meta.url));

const running = new Set();
process.on("exit", () => running.forEach((child) => child.kill("SIGKILL")));

let marks = 0;

/** A server of a kind: `ours`, `node-redis`, or `ioredis`, that is Node's with this client of Redis. */
export class Server {
  /** With `seconds`, clients of a server of this crate may be away for so long. */
  static async run(kind, redis, mode = "streams-recovery", ...seconds) {
    const server = new Server();
    server.kind = kind;
    server.isOurs = kind === "ours" && HAS_OURS;
    server.port = await freePort();
    const driver = kind === "ours" ? "node-redis" : kind;
    const nodeMode = mode.endsWith("-early") || seconds.length > 0 ? "streams-recovery" : mode;
    server.command = server.isOurs
      ? [`${EXAMPLES}/cluster_node`, server.port, redis.url, mode, ...seconds]
      : ["node", NODE_SERVER, server.port, redis.url, nodeMode, driver];
    await server.start();
    return server;
  }

  get url() {
    return `http://127.0.0.1:${this.port}`;
  }

  async start() {
    const [program, ...args] = this.command.map(String);
    const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"] });
    this.child = child;
    running.add(child);
    this.exited = once(child, "exit").finally(() => running.delete(child));
    const ends = this.exited.then(([code, signal]) => {
      throw new Error(`a server of the kind ${this.kind} ended with ${code ?? signal}`);
    });
    ends.catch(() => {});
    await within(Promise.race([once(child.stdout, "data"), ends]), "the server");
    // A client that the tests never cut.
    this.control = io(this.url, { transports: ["websocket"], forceNew: true, reconnection: false });
    this.control.on("read", (n) => (this.read = n));
    await within(once(this.control, "connect"), "a client of the server");
  }

  /** Asks the server, by an event of its fixture. */
  async ask(event, ...args) {
    const answer = await within(this.control.emitWithAck(event, ...args), `answer to ${event}`);
    if (answer?.error) throw new Error(`${event}: ${JSON.stringify(answer)}`);
    return answer;
  }

  /**
   * Waits until it has read what the stream has now. To a client that comes back earlier, Node's server
   * sends some events twice: as missed, and when it reads them.
   */
  async hasRead(redis) {
    const n = ++marks;
    await new Emitter(redis).ask("emit", [this.control.id], [], {}, "read", n);
    await until(() => this.read >= n, "the end of the stream");
  }

  /** The number of its sockets with an id. */
  async owns(id) {
    return (await this.ask("local", [id])).length;
  }

  /** Ends it: `SIGTERM` closes it, `SIGKILL` does not. */
  async end(signal) {
    this.control.disconnect();
    this.child.kill(signal);
    await within(this.exited, `end after ${signal}`);
  }
}

/** Reads the entries of a stream. */
export class Log {
  static async run(redis) {
    const log = new Log();
    log.client = await createClient({ url: redis.url, commandOptions: { timeout: 0 } })
      .on("error", () => {})
      .connect();
    log.#read();
    return log;
  }

  /** The events, in order: `{id, uid, nsp, opts, args}`. */
  events = [];

  async #read() {
    let last = "0";
    try {
      for (;;) {
        const read = await this.client.xRead({ key: "socket.io", id: last }, { BLOCK: 1_000, COUNT: 1_000 });
        for (const { id, message } of read?.[0].messages ?? []) {
          last = id;
          const read = event(id, message);
          if (read) this.events.push(read);
        }
      }
    } catch (error) {
      if (!this.isClosed) throw error;
    }
  }

  close() {
    this.isClosed = true;
    this.client.destroy();
  }
}

function event(id, { uid, nsp, type, data }) {
  if (type !== "3") return;
  try {
    const { packet, opts } = data.startsWith("{") ? JSON.parse(data) : decode(Buffer.from(data, "base64"));
    return { id, uid, nsp, opts, args: packet.data };
  } catch {
    // Some entries of the tests are no messages.
  }
}

/** What Node's emitter adds to a stream. */
export class Emitter {
  constructor(redis) {
    this.redis = redis;
  }

  /** As a server is asked. */
  async ask(event, rooms, ...args) {
    const opts = { rooms, flags: {}, except: [] };
    switch (event) {
      case "emit": {
        const [except, flags, ...data] = args;
        return this.#add(3, { packet: { type: 2, data, nsp: "/" }, opts: { rooms, flags, except } });
      }
      case "join":
        return this.#add(4, { opts, rooms: args });
      case "leave":
        return this.#add(5, { opts, rooms: args });
      case "disconnect_sockets":
        return this.#add(6, { opts, close: args[0] });
      default:
        throw new Error(`an emitter has no ${event}`);
    }
  }

  #add(type, data) {
    const entry = { uid: "emitter", nsp: "/", type: String(type), data: JSON.stringify(data) };
    return this.redis.admin.xAdd("socket.io", "*", entry);
  }
}

const OFFSET = /^\d+-\d+$/;

/** How a client loses its connection, as it can bring it about. */
export const LOSSES = {
  // The server is told by a closing frame.
  closed: (client) => client.io.engine.close(),
  // The server reads the end of the connection.
  destroyed: (client) => client.io.engine.transport.ws._socket.destroy(),
};

/** The official client, which comes back when it is told to. */
export class Client {
  static async connect(url, { auth, ...options } = {}) {
    const client = new Client();
    const defaults = { transports: ["websocket"], forceNew: true, reconnection: false };
    client.socket = io(url, { ...defaults, ...options });
    client.socket.onAny((...args) => {
      const hasOffset = OFFSET.test(args.at(-1));
      client.heard.push({ args: hasOffset ? args.slice(0, -1) : args, offset: hasOffset && args.at(-1) });
    });
    await client.event("connect");
    return client;
  }

  /** What it has heard, in order: `{args, offset}`. */
  heard = [];

  get id() {
    return this.socket.id;
  }

  get recovered() {
    return this.socket.recovered;
  }

  /** The name of its session at Redis. */
  get key() {
    return `sio:session:${this.socket._pid}`;
  }

  async event(name) {
    const failed = new Promise((_, reject) => this.socket.once("connect_error", reject));
    return within(Promise.race([once(this.socket, name), failed]), name);
  }

  ask(...args) {
    return within(this.socket.emitWithAck(...args), `answer to ${args[0]}`);
  }

  /** The first arguments of the events with this name. */
  numbers(name) {
    return this.heard.filter(({ args }) => args[0] === name).map(({ args }) => args[1]);
  }

  /** Loses the connection. */
  async lose(how = "closed") {
    const lost = once(this.socket, "disconnect");
    LOSSES[how](this.socket);
    await within(lost, "disconnect");
  }

  /** Comes back to a server, or through something before it. */
  async back(url) {
    this.socket.io.uri = url;
    const connected = this.event("connect");
    this.socket.connect();
    await connected;
  }

  close() {
    this.socket.disconnect();
  }
}

/** The session of a client that a server has saved. */
export async function session(redis, client) {
  const saved = await redis.admin.get(client.key);
  return saved === null ? undefined : decode(Buffer.from(saved, "base64"));
}

/** Waits until the session of a client is saved. */
export const saved = (redis, client) => until(() => session(redis, client), "the saved session");
