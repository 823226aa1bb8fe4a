// Servers of a cluster: Redis, servers of Node and of this crate on it, and official clients.
//
// Each Redis server is one of its own (Debian's package redis-server) on a free port.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";

import { createAdapter } from "@socket.io/redis-adapter";
import IoRedis from "ioredis";
import { createClient } from "redis";
import { Server as NodeServer } from "socket.io";
import { io } from "socket.io-client";

import { EXAMPLES, freePort, until } from "./support.js";

/** A Redis server that can be stopped and started again. */
export class Redis {
  static async run() {
    const redis = new Redis();
    redis.port = await freePort();
    await redis.start();
    return redis;
  }

  get url() {
    return `redis://127.0.0.1:${this.port}`;
  }

  async start() {
    const options = ["--port", this.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
    this.child = spawn("redis-server", options.map(String), { stdio: "ignore" });
    this.exited = once(this.child, "exit");
    const admin = createClient({ url: this.url });
    admin.on("error", () => {});
    await admin.connect();
    this.admin = admin;
  }

  async stop() {
    this.admin.destroy();
    this.child.kill("SIGKILL");
    await this.exited;
  }
}

/** The clients of Redis that Node's servers use. */
export const DRIVERS = {
  "node-redis": async (url) => {
    const client = createClient({ url });
    client.on("error", () => {});
    await client.connect();
    return { client, copy: async () => client.duplicate().on("error", () => {}).connect() };
  },
  ioredis: async (url) => {
    const client = new IoRedis(url);
    client.on("error", () => {});
    return { client, copy: async () => client.duplicate().on("error", () => {}) };
  },
};

/** A server of Node. */
export class Node {
  static async run(redis, driver, options) {
    const node = new Node();
    const { client, copy } = await DRIVERS[driver](redis.url);
    node.redis = [client, await copy()];
    node.http = createServer();
    node.io = new NodeServer(node.http, { adapter: createAdapter(...node.redis, options) });
    node.io.on("connection", (socket) => {
      socket.data = { user: "node" };
      socket.join("room1");
      socket.on("broadcast", (...args) => socket.broadcast.emit(...args));
    });
    node.events = new Events((name, listener) => node.io.on(name, listener), ["sse"]);
    node.io.on("ask", (value, answer) => answer({ value }));
    node.http.listen(0, "127.0.0.1");
    await once(node.http, "listening");
    return node;
  }

  get url() {
    return `http://127.0.0.1:${this.http.address().port}`;
  }

  async close() {
    await this.io.close();
    // What the adapters have asked of Redis is answered first.
    for (const client of this.redis) await (client.close ?? client.quit).call(client);
  }
}

/** A server of this crate. */
export class Rust {
  static async run(redis, mode) {
    const rust = new Rust();
    rust.port = await freePort();
    rust.arguments = [rust.port, redis.url, mode].map(String);
    await rust.start();
    return rust;
  }

  async start() {
    this.child = spawn(`${EXAMPLES}/cluster_node`, this.arguments, { stdio: ["ignore", "pipe", "inherit"] });
    this.exited = once(this.child, "exit");
    let output = "";
    this.child.stdout.on("data", (data) => (output += data));
    await until(() => output.includes("listening"), "the server of this crate");
  }

  get url() {
    return `http://127.0.0.1:${this.port}`;
  }

  async kill(signal = "SIGKILL") {
    this.child.kill(signal);
    await this.exited;
  }
}

/** The events of an emitter, to be taken one by one. */
export class Events {
  constructor(on, names) {
    this.queues = new Map(names.map((name) => [name, []]));
    for (const name of names) on(name, (...args) => this.queues.get(name).push(args));
  }

  async take(name) {
    const queue = this.queues.get(name);
    await until(() => queue.length > 0, `the event ${name}`);
    return queue.shift();
  }

  count(name) {
    return this.queues.get(name).length;
  }
}

export const EVENTS = ["hello", "n", "end", "server_event"];

export async function connect(url) {
  const client = io(url, { transports: ["websocket"], forceNew: true });
  client.events = new Events((name, listener) => client.on(name, listener), EVENTS);
  client.on("ask", (value, answer) => answer({ value, id: client.id }));
  client.on("ask_bytes", (value, answer) => answer(Buffer.from([1, 2, 3])));
  client.on("silent", () => {});
  await new Promise((resolve, reject) => {
    client.once("connect", resolve);
    client.once("connect_error", reject);
  });
  return client;
}

/** Whether nobody listens on a port. */
export async function portIsFree(port) {
  const server = createServer().listen(port, "127.0.0.1");
  const free = await new Promise((resolve) => {
    server.once("listening", () => resolve(true));
    server.once("error", () => resolve(false));
  });
  if (free) await new Promise((resolve) => server.close(resolve));
  return free;
}

export const ids = (sockets) => sockets.map((socket) => socket.id).sort();
