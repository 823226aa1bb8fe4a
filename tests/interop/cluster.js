// Servers of a cluster: Redis, servers of Node and of this crate on it, and official clients.
//
// Each Redis server is one of its own (Debian's package redis-server) on a free port.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";

import { createAdapter, createShardedAdapter } from "@socket.io/redis-adapter";
import { createAdapter as createStreamsAdapter } from "@socket.io/redis-streams-adapter";
import IoRedis from "ioredis";
import IoRedisV5 from "ioredis-v5";
import { createClient, createCluster } from "redis";
import { createAdapter as createAdapterV7 } from "redis-adapter-v7";
import { createAdapter as createStreamsAdapterV02 } from "redis-streams-adapter-v0.2";
import { createClient as createClientV5 } from "redis-v5";
import { Server as NodeServer } from "socket.io";
import { io } from "socket.io-client";

import { EXAMPLES, freePort, until, within } from "./support.js";

const ALL_MODES = [
  "classic",
  "sharded",
  "sharded-dynamic",
  "sharded-dynamic-private",
  "streams",
  "streams-sharded",
];

/** The modes of a cluster. ROW=streams selects those whose names contain this. */
export const MODES = ALL_MODES.filter((mode) => mode.includes(process.env.ROW ?? ""));

const running = new Set();
process.on("exit", () => running.forEach((child) => child.kill("SIGKILL")));
// The runner ends a file so that takes too long.
process.once("SIGTERM", () => process.exit(1));

/** A program that ends with the tests at the latest. */
export function run(program, args, options) {
  const child = spawn(program, args.map(String), options);
  running.add(child);
  child.once("exit", () => running.delete(child));
  return child;
}

/** By default a command that has waited for five seconds is dropped. */
export const PATIENT = { timeout: 0 };

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
    this.child = run("redis-server", options, { stdio: "ignore" });
    this.exited = once(this.child, "exit");
    const admin = createClient({ url: this.url, commandOptions: PATIENT });
    admin.on("error", () => {});
    await admin.connect();
    this.admin = admin;
  }

  async stop() {
    this.admin.destroy();
    this.child.kill("SIGKILL");
    await this.exited;
  }

  command(...args) {
    return this.admin.sendCommand(args.map(String));
  }

  /** The number of connections that are subscribed to a channel of either kind. */
  async subscribers(channel) {
    const counts = ["NUMSUB", "SHARDNUMSUB"].map((kind) => this.command("PUBSUB", kind, channel));
    return (await Promise.all(counts)).reduce((sum, [, count]) => sum + count, 0);
  }
}

/** The nodes of a Redis Cluster in a list of URLs. */
const nodes = (urls) => urls.split(",").map((url) => ({ url }));
const addresses = (urls) => nodes(urls).map(({ url }) => ({ host: new URL(url).hostname, port: new URL(url).port }));

/** The clients of Redis that Node's servers use. */
const DRIVERS = {
  "node-redis": (url) => createClient({ url, commandOptions: PATIENT }),
  "node-redis 5": (url) => createClientV5({ url }),
  ioredis: (url) => new IoRedis(url),
  "ioredis 5": (url) => new IoRedisV5(url),
  "node-redis cluster": (urls) => createCluster({ rootNodes: nodes(urls), commandOptions: PATIENT }),
  "ioredis cluster": (urls) => new IoRedis.Cluster(addresses(urls), { shardedSubscribers: true }),
};

const SPECIFIC = { publishOnSpecificResponseChannel: true };
const STATIC = { subscriptionMode: "static" };
const PRIVATE = { subscriptionMode: "dynamic-private" };

/** The adapters of Node's servers, made of two clients of Redis or of one. */
const ADAPTERS = {
  classic: (...clients) => createAdapter(...clients),
  "classic-specific": (...clients) => createAdapter(...clients, SPECIFIC),
  sharded: (...clients) => createShardedAdapter(...clients, STATIC),
  "sharded-dynamic": (...clients) => createShardedAdapter(...clients),
  "sharded-dynamic-private": (...clients) => createShardedAdapter(...clients, PRIVATE),
  streams: (client) => createStreamsAdapter(client),
  "streams-sharded": (client) => createStreamsAdapter(client, { useShardedPubSub: true }),
  "classic 7": (...clients) => createAdapterV7(...clients),
  "streams 0.2": (client) => createStreamsAdapterV02(client),
};

/** A server of Node. */
export class Node {
  static async run(redis, driver, adapter) {
    const node = new Node();
    node.redis = redis;
    node.reads = adapter.includes("streams");
    const client = () => DRIVERS[driver](redis.url).on("error", () => {});
    node.clients = node.reads ? [client()] : [client(), client()];
    for (const client of node.clients) if (client.isOpen === false) await client.connect();
    // The adapter of streams leaves its subscriptions, and what is subscribed answers.
    node.create({ adapter: ADAPTERS[adapter](...node.clients), cleanupEmptyChildNamespaces: !node.reads });
    await node.#ready(adapter);
    await node.listen();
    return node;
  }

  /** Creates the server, which does not listen yet. */
  create(options) {
    this.http = createServer();
    this.io = new NodeServer(this.http, options);
    for (const namespace of [this.io.of("/"), this.io.of(/^\/room-\d+$/)]) {
      namespace.on("connection", (socket) => {
        socket.data = { user: "node" };
        socket.join("room1");
        socket.on("broadcast", (...args) => socket.broadcast.emit(...args));
      });
    }
    this.events = new Events((name, listener) => this.io.on(name, listener), ["sse", "ready"]);
    const answer = (namespace) => {
      namespace.on("ask", (value, answer) => answer({ value }));
      namespace.on("hey", (value, answer) => answer("node-pong"));
    };
    answer(this.io.of("/"));
    this.io.on("new_namespace", answer);
  }

  async listen() {
    this.http.listen(0, "127.0.0.1");
    await once(this.http, "listening");
  }

  /** Waits until the adapter gets messages: it subscribes, and begins to read, after it was made. */
  async #ready(adapter) {
    this.isClassic = adapter.startsWith("classic");
    if (adapter !== "streams 0.2") await this.subscribed("/");
    // A reader asks for what comes from now on, until it has read once.
    if (this.reads) {
      const event = { uid: "emitter", nsp: "/", type: "9", data: '{"packet":["ready"]}' };
      await until(async () => {
        await this.redis.admin.xAdd("socket.io", "*", event);
        return this.events.count("ready") > 0;
      }, "a reader of the stream");
    }
  }

  /** Waits until answers to this server's questions arrive: of its subscriptions it begins that one last. */
  async subscribed(namespace) {
    const { uid } = this.io._nsps.get(namespace).adapter;
    const channel = `socket.io${this.isClassic ? "-response" : ""}#${namespace}#${uid}#`;
    await until(async () => (await this.redis.subscribers(channel)) === 1, "a subscription");
  }

  get url() {
    return `http://127.0.0.1:${this.http.address().port}`;
  }

  async close() {
    await this.io.close();
    // A reader of a stream ends when it has read.
    if (this.reads) await this.redis.admin.xAdd("socket.io", "*", { end: "1" });
    // What the adapters have asked of Redis is answered first.
    for (const client of this.clients) await (client.close ?? client.quit).call(client);
  }
}

/** A server of this crate. */
export class Rust {
  /** With `seconds`, clients may be away for so long and recover. */
  static async run(redis, mode, ...seconds) {
    const rust = new Rust();
    rust.port = await freePort();
    rust.arguments = [rust.port, redis.url, mode, ...seconds];
    await rust.start();
    return rust;
  }

  async start() {
    this.child = run(`${EXAMPLES}/cluster_node`, this.arguments, { stdio: ["ignore", "pipe", "inherit"] });
    this.exited = once(this.child, "exit");
    const prints = once(this.child.stdout, "data");
    const ends = this.exited.then(([code, signal]) => {
      throw new Error(`the server of this crate ended with ${code ?? signal}`);
    });
    ends.catch(() => {});
    await within(Promise.race([prints, ends]), "the server of this crate");
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

const EVENTS = ["hello", "n", "end", "server_event"];

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

/** The modes in which a room has a channel, and the rooms that have one. */
const ROOM_CHANNELS = { "sharded-dynamic": "public", "sharded-dynamic-private": "all" };

/** Two servers of Node and one of this crate on one Redis, with a client on each. */
export class Cluster {
  static async run(...options) {
    const cluster = new this();
    try {
      await cluster.start(...options);
      return cluster;
    } catch (error) {
      await cluster.close();
      throw error;
    }
  }

  /** `between` stands between Redis and the server of this crate. `redis` is the class of that Redis. */
  async start(adapter, driver, between = async (redis) => redis, redis = Redis) {
    [this.mode] = adapter.split(" ");
    this.redis = await redis.run();
    this.between = await between(this.redis);
    this.a = await Node.run(this.redis, driver, adapter);
    this.b = await Node.run(this.redis, driver, adapter);
    await this.startClients();
  }

  /** The service that connects the servers. */
  get broker() {
    return this.redis;
  }

  /** Starts the server of this crate, and a client on each server. */
  async startClients() {
    this.rust = await Rust.run(this.between, this.mode);
    const clients = [this.a, this.b, this.rust].map((server) => this.join(server));
    [this.at_a, this.at_b, this.at_rust] = await Promise.all(clients);
    await this.subscribed("room1", 3);
  }

  get clients() {
    return [this.at_a, this.at_b, this.at_rust];
  }

  /** Connects a client. */
  async join(server) {
    const client = await connect(server.url);
    if (ROOM_CHANNELS[this.mode] === "all") await this.subscribed(client.id, 1);
    return client;
  }

  /** Starts the server of this crate again, with a client. */
  async startRust() {
    await this.rust.start();
    this.at_rust = await this.join(this.rust);
    return this.at_rust;
  }

  /** Waits until messages to a room reach this many servers: Node's servers subscribe after a join. */
  async subscribed(room, servers) {
    if (!(this.mode in ROOM_CHANNELS)) return;
    const channel = `socket.io#/#${room}#`;
    const subscribers = () => this.redis.subscribers(channel);
    await until(async () => (await subscribers()) === servers, `channel of ${room}`);
  }

  /** Waits until all three servers count three. */
  async whole() {
    const counts = async () => [
      await this.a.io.of("/").adapter.serverCount(),
      await this.b.io.of("/").adapter.serverCount(),
      await this.at_rust.emitWithAck("count"),
    ];
    await until(async () => (await counts()).every((count) => count === 3), "three servers");
  }

  /** Waits until Node's servers fetch this many sockets: their subscriptions begin one by one. */
  async sees(sockets) {
    for (const node of [this.a, this.b]) {
      const fetched = () => node.io.fetchSockets().catch(() => []);
      await until(async () => (await fetched()).length === sockets, "all sockets");
    }
  }

  async close() {
    this.clients.forEach((client) => client?.disconnect());
    await this.rust?.kill();
    await Promise.all([this.a?.close(), this.b?.close()]);
    await this.between?.close?.();
    await this.broker?.stop();
  }
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

export const range = (begin, end) => Array.from({ length: end - begin }, (_, n) => begin + n);
