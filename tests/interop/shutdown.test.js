// The example `graceful_shutdown` ends while official clients are connected, and they come back.

import assert from "node:assert/strict";
import { once } from "node:events";
import net from "node:net";
import { after, test } from "node:test";
import { io } from "socket.io-client";
import { PATIENCE, Server, until, within } from "./support.js";

const EXAMPLE = "graceful_shutdown";

/** The time in which the example closes its clients. */
const SPREAD = 2_000;

const open = new Set();
const servers = new Set();

test.afterEach(() => {
  open.forEach((socket) => socket.disconnect());
  open.clear();
});
after(() => Promise.all([...servers].map((server) => server.kill())));

async function run() {
  const server = await Server.run(EXAMPLE);
  servers.add(server);
  return server;
}

/** Asks the server to end, and returns the report that it prints. */
async function terminate(server) {
  // Its end is no crash.
  server.killed = server.child;
  server.child.kill("SIGTERM");
  await until(() => server.output.includes("shutting down"), "beginning of the shutdown");
  return server.ended.then((code) => {
    servers.delete(server);
    assert.equal(code, 0, server.output);
    return server.output.trim().split("\n").at(-1);
  });
}

/** A TCP load balancer: all new connections go to one server. */
class Balancer {
  static async run(server) {
    const balancer = new this();
    balancer.server = server;
    balancer.listener = net.createServer((client) => {
      const upstream = net.connect(balancer.server.ports[0], "127.0.0.1");
      for (const [from, to] of [[client, upstream], [upstream, client]]) {
        from.on("error", () => to.destroy());
        from.pipe(to);
      }
    });
    balancer.listener.listen(0, "127.0.0.1");
    await once(balancer.listener, "listening");
    return balancer;
  }

  get url() {
    return `http://127.0.0.1:${this.listener.address().port}`;
  }
}

/** A client, with the times and reasons of its disconnects. */
function client(url, transports) {
  const socket = io(url, { forceNew: true, transports });
  open.add(socket);
  socket.losses = [];
  socket.on("disconnect", (reason) => {
    socket.losses.push({ reason, active: socket.active, at: performance.now() });
  });
  return socket;
}

const connected = (socket) => until(() => socket.connected, "connection");

async function echoes(socket, text) {
  const answer = new Promise((resolve) => socket.once("message", resolve));
  socket.emit("message", text);
  assert.equal(await within(answer, "message"), text);
}

/** The most of some times that lie in one window. */
function most(times, window) {
  times.sort((a, b) => a - b);
  const counts = times.map((begin) => times.filter((at) => at >= begin && at < begin + window).length);
  return Math.max(...counts);
}

test("200 clients go to another server, one after another", async () => {
  const [former, next] = await Promise.all([run(), run()]);
  const balancer = await Balancer.run(former);
  try {
    const sockets = Array.from({ length: 200 }, () => client(balancer.url, ["websocket"]));
    await Promise.all(sockets.map(connected));
    const ids = new Set(sockets.map((socket) => socket.id));
    balancer.server = next;
    const report = terminate(former);

    await until(() => sockets.some((socket) => socket.losses.length > 0), "first close");
    // A client that asks the former server is refused, and may ask another.
    const refused = await fetch(`${former.url}/socket.io/?EIO=4&transport=polling`);
    assert.equal(refused.status, 503);
    assert.equal(refused.headers.get("retry-after"), "1");
    assert.deepEqual(await refused.json(), { code: 4, message: "Service unavailable" });

    await until(() => sockets.every((socket) => socket.losses.length === 1), "close of each client");
    await Promise.all(sockets.map(connected));
    for (const { losses, id } of sockets) {
      assert.deepEqual(losses.map(({ reason, active }) => [reason, active]), [["transport close", true]]);
      assert.ok(!ids.has(id));
    }
    // An even spread closes 20 in 200 ms. The limit allows for a machine that stands still.
    const times = sockets.map((socket) => socket.losses[0].at);
    assert.ok(most(times, SPREAD / 10) <= 100, `${times}`);
    assert.ok(Math.max(...times) - Math.min(...times) >= SPREAD / 2, `${times}`);

    assert.match(await (await report), /^200 sessions closed, 0 ended by themselves, 0 cut with 0 handlers, in /);
    await Promise.all(sockets.map((socket, at) => echoes(socket, `${at}`)));
  } finally {
    balancer.listener.close();
  }
});

for (const [name, transports] of [
  ["polling only", ["polling"]],
  ["websocket only", ["websocket"]],
  ["polling, then websocket", ["polling", "websocket"]],
]) {
  test(`clients come back to a server that starts anew: ${name}`, async () => {
    const server = await run();
    const sockets = Array.from({ length: 10 }, () => client(server.url, transports));
    await Promise.all(sockets.map(connected));
    const last = transports.at(-1);
    await until(() => sockets.every((socket) => socket.io.engine.transport.name === last), "transport");
    const errors = [];
    sockets.forEach((socket) => socket.io.on("reconnect_error", (error) => errors.push(error)));

    const report = await (await terminate(server));
    assert.match(report, /^10 sessions closed, 0 ended by themselves, 0 cut with 0 handlers, in /);
    await server.start();
    servers.add(server);

    await within(Promise.all(sockets.map(connected)), "connections", PATIENCE);
    for (const { losses } of sockets) {
      assert.deepEqual(losses.map(({ reason, active }) => [reason, active]), [["transport close", true]]);
    }
    // Meanwhile they were refused, or nobody listened.
    const refusals = ["xhr poll error", "websocket error"];
    for (const { message } of errors) assert.ok(refusals.includes(message), message);
    await Promise.all(sockets.map((socket, at) => echoes(socket, `${at}`)));
    await server.kill();
    servers.delete(server);
  });
}
