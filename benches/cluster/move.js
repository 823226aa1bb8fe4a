// A cluster of Node's servers becomes one of this crate, server by server, and the other way round, while
// clients are connected: node benches/cluster/move.js
//
// It needs redis-server, the packages of tests/interop (`npm ci` there), and the fixture: cargo build
// --features postgres,redis --example cluster_node. EXAMPLES is its folder, by default that of the debug build.
// SECONDS=600 takes so long for the moves, by default 50 seconds. NODE=1 puts servers of Node in all
// places, to see what holds for Node alone.
//
// Three servers of Node share a Redis stream. 200 official clients come through a TCP balancer, and each
// counts the numbered events of its rooms, which all servers and an emitter send. Then for one server
// after another: its successor starts, the balancer passes new connections to that one, and the former
// server closes. The command fails if a client is told that it was not recovered, or if an event is
// lost, doubled, or out of order. There are exceptions for three faults of Node's server, each of them
// for an event of which it is known that this was the reason: `tests/interop/load.js` describes them.
// They occur with NODE=1 too. So that Node's server recovers a client at all, each client gets a first
// event when it has its rooms.

import assert from "node:assert/strict";
import { once } from "node:events";
import net from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

import { Chance } from "../../tests/interop/chance.js";
import { Redis } from "../../tests/interop/cluster.js";
import { Counter, Load } from "../../tests/interop/load.js";
import { Emitter, Log, Server } from "../../tests/interop/streams.js";
import { until } from "../../tests/interop/support.js";

const SECONDS = Number(process.env.SECONDS ?? 50);
const SEED = Number(process.env.SEED ?? 1);
const CLIENTS = 200;
const SERVERS = 3;

/** A TCP balancer. A connection stays with its server. */
class Balancer {
  /** The servers that get new connections. */
  servers = [];
  next = 0;
  /** The server of each connection, by the port of the client. */
  byPort = new Map();

  static async run() {
    const balancer = new Balancer();
    balancer.listener = net.createServer((client) => balancer.#pass(client));
    balancer.listener.listen(0, "127.0.0.1");
    await once(balancer.listener, "listening");
    return balancer;
  }

  get url() {
    return `http://127.0.0.1:${this.listener.address().port}`;
  }

  #pass(client) {
    const server = this.servers[this.next++ % this.servers.length];
    const { remotePort } = client;
    this.byPort.set(remotePort, server);
    const upstream = net.connect(server.port, "127.0.0.1");
    for (const [from, to] of [[client, upstream], [upstream, client]]) {
      from.setNoDelay();
      from.pipe(to);
      from.on("error", () => to.destroy());
      from.on("close", () => to.destroy());
    }
    client.on("close", () => this.byPort.delete(remotePort));
  }

  serverOf(counter) {
    return this.byPort.get(counter.socket.io.engine.transport.ws._socket.localPort);
  }
}

const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];

/** How long each client was away in its last reconnect. */
function away(counters, since) {
  const replays = counters.flatMap((counter) =>
    counter.visits.filter(({ time }) => time > since).map((visit) => counter.missed(visit)),
  );
  const reconnects = replays.length;
  const times = counters.flatMap((counter) =>
    counter.visits.slice(1).flatMap((visit, n) => (visit.time > since ? [visit.time - counter.visits[n].left] : [])),
  );
  const missed = replays.reduce((sum, count) => sum + count, 0);
  return { reconnects, missed, median: median(times) ?? 0, longest: Math.max(0, ...times) };
}

async function main() {
  const chance = new Chance(SEED);
  const redis = await Redis.run();
  const log = await Log.run(redis);
  const run = (kind) => Server.run(kind, redis);
  const servers = await Promise.all(Array.from({ length: SERVERS }, () => run("node-redis")));
  const balancer = await Balancer.run();
  balancer.servers = [...servers];
  const emitter = new Emitter(redis);
  const load = new Load(log, chance, () => [...servers.filter(({ control }) => control.connected), emitter]);

  const counters = Array.from({ length: CLIENTS }, (_, n) => {
    const rooms = [load.rooms[n % load.rooms.length], load.rooms[chance.below(load.rooms.length)]];
    return new Counter(load, [...new Set(rooms)], () => balancer.url, (counter) => balancer.serverOf(counter));
  });
  const all = () => until(() => counters.every((counter) => counter.isCounting), "all clients");
  await all();

  console.log("| server | reconnects | events missed and sent again | away, median (ms) | away, longest (ms) |");
  console.log("|---|---|---|---|---|");
  for (const kind of ["ours", "node-redis"]) {
    for (let n = 0; n < SERVERS; n++) {
      const begin = Date.now();
      const former = servers[n];
      servers[n] = await run(kind);
      balancer.servers = [...servers];
      await former.end("SIGTERM");
      await until(() => counters.every((counter) => counter.visits.at(-1).server !== former), "its clients");
      await all();
      const { reconnects, missed, median, longest } = away(counters, begin);
      console.log(`| ${n + 1}: ${former.kind} → ${kind} | ${reconnects} | ${missed} | ${median} | ${longest} |`);
      await sleep(Math.max(0, begin + (SECONDS * 1000) / (2 * SERVERS) - Date.now()));
    }
  }
  await load.stop();
  await Promise.all(counters.map((counter) => counter.settle()));

  const sums = { sent: load.entries().list.length, heard: 0, recovered: 0, told: 0, overtaken: 0, between: 0, twice: 0 };
  for (const [n, counter] of counters.entries()) {
    const excused = counter.check(`client ${n}`);
    sums.heard += counter.heard.length;
    sums.recovered += counter.recovered;
    sums.told += counter.told;
    for (const [reason, count] of Object.entries(excused)) sums[reason] += count;
  }
  console.log(`\n${JSON.stringify(sums)}`);
  assert.equal(sums.told, 0, "a client was told that it was not recovered");
  assert.ok(sums.recovered > CLIENTS, "each server had clients");
}

await main();
// What is still open ends with the process.
process.exit(0);
