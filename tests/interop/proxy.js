// A TCP proxy before Redis: its connections are cut, held up and slowed down.

import { once } from "node:events";
import net from "node:net";

export class Proxy {
  static async run(redis) {
    const proxy = new this();
    proxy.redis = redis;
    proxy.server = net.createServer((client) => new Connection(proxy, client));
    proxy.server.listen(0, "127.0.0.1");
    await once(proxy.server, "listening");
    return proxy;
  }

  connections = new Set();
  /** The numbers of bytes of both directions after which the next connections are cut. */
  cuts = [];
  /** Whether commands, and what Redis sends, are not forwarded. */
  isStalled = [false, false];
  resets = false;
  /** The most bytes that are forwarded at once, with a pause after them. */
  chunk = Infinity;

  get url() {
    return this.urlOf("");
  }

  /** The URL with a user and a password. */
  urlOf(user) {
    return `redis://${user}127.0.0.1:${this.server.address().port}`;
  }

  /** Cuts all connections. */
  cut() {
    for (const connection of this.connections) connection.cut();
  }

  /** Forwards nothing more on the connections of now, and leaves both sides open. */
  halfOpen() {
    for (const connection of this.connections) connection.isHalfOpen = true;
  }

  /** Forwards nothing until `goOn`, or no commands, or nothing that Redis sends. */
  stall(...isStalled) {
    this.isStalled = isStalled.length === 0 ? [true, true] : isStalled;
  }

  goOn() {
    this.isStalled = [false, false];
    for (const connection of this.connections) connection.forward();
  }

  async close() {
    this.cut();
    this.server.close();
    await once(this.server, "close");
  }
}

/** A connection of a client, and one to Redis. */
class Connection {
  isHalfOpen = false;

  constructor(proxy, client) {
    this.proxy = proxy;
    this.left = proxy.cuts.shift() ?? Infinity;
    this.sockets = [client, net.connect(proxy.redis.port, "127.0.0.1")];
    this.waiting = [[], []];
    this.timers = [];
    for (const [side, socket] of this.sockets.entries()) {
      socket.setNoDelay();
      socket.on("data", (data) => {
        this.waiting[side].push(data);
        this.forward(side);
      });
      socket.on("error", () => {});
      socket.on("close", () => this.isHalfOpen || this.cut());
    }
    proxy.connections.add(this);
  }

  cut() {
    if (!this.proxy.connections.delete(this)) return;
    // Redis gets an end, and reads what came before it, or a reset, and does not.
    this.proxy.resets = !this.proxy.resets;
    const [client, redis] = this.sockets;
    client.destroy();
    if (this.proxy.resets) redis.resetAndDestroy();
    else redis.destroy();
  }

  forward(side) {
    if (side === undefined) return [0, 1].forEach((side) => this.forward(side));
    const { chunk } = this.proxy;
    const isStalled = this.isHalfOpen || this.proxy.isStalled[side];
    const [from, to] = [this.sockets[side], this.sockets[1 - side]];
    const waiting = this.waiting[side];
    if (isStalled) from.pause();
    else from.resume();
    while (waiting.length > 0 && !isStalled && !this.timers[side]) {
      const data = waiting.shift();
      const now = data.subarray(0, Math.min(data.length, chunk, this.left));
      if (now.length < data.length) waiting.unshift(data.subarray(now.length));
      to.write(now);
      this.left -= now.length;
      if (this.left === 0) return this.cut();
      if (chunk === Infinity) continue;
      this.timers[side] = setTimeout(() => {
        this.timers[side] = undefined;
        this.forward(side);
      }, 1);
    }
  }
}
