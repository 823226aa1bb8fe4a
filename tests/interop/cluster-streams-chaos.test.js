// Clients that are cut, and servers that are killed, closed and started, while numbered events are sent.
//
// SECONDS=300 goes on for so long, by default for 40 seconds. SEED=2 draws other faults; NODE=1 puts
// servers of Node in all places.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { Chance } from "./chance.js";
import { Redis } from "./cluster.js";
import { Counter, Load } from "./load.js";
import { Emitter, LOSSES, Log, Server } from "./streams.js";
import { until } from "./support.js";

const SECONDS = Number(process.env.SECONDS ?? 40);
const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000);
const CLIENTS = 200;

/**
 * The times at which a client was told that it was not recovered, and nothing explains it: it came from
 * a server of this crate to one, its server was not killed, and no other one ended meanwhile, which might
 * have taken the session.
 */
function unexplained(visits, ends) {
  return visits.slice(1).flatMap((visit, n) => {
    const before = visits[n];
    if (visit.recovered || !before.server.isOurs || !visit.server.isOurs) return [];
    const isReason = ({ server, signal, begin, end }) => {
      if (begin > visit.time) return false;
      return server === before.server ? signal === "SIGKILL" && end >= before.time : end >= before.left;
    };
    if (ends.some(isReason)) return [];
    return [{ from: before.time, left: before.left, offset: before.offset, back: visit.time }];
  });
}

test(`chaos of ${SECONDS} seconds`, { timeout: (SECONDS + 240) * 1000 }, async (t) => {
  t.diagnostic(`SEED=${SEED}`);
  const chance = new Chance(SEED);
  const redis = await Redis.run();
  const log = await Log.run(redis);
  const emitter = new Emitter(redis);
  const servers = await Promise.all(["ours", "ours", "node-redis"].map((kind) => Server.run(kind, redis)));
  const isUp = (server) => server.control.connected;
  const load = new Load(log, chance, () => [...servers.filter(isUp), emitter]);

  // Each client chooses one of the servers, whether it runs or not.
  const counters = Array.from({ length: CLIENTS }, (_, n) => {
    const own = new Chance(SEED + n);
    let server;
    const place = () => (server = own.of(servers)).url;
    const rooms = [load.rooms[n % load.rooms.length], load.rooms[own.below(load.rooms.length)]];
    return new Counter(load, [...new Set(rooms)], place, () => server);
  });
  const closed = [];
  try {
    for (const counter of counters) await until(() => counter.isCounting, "a first connection");

    const end = Date.now() + SECONDS * 1000;
    const ends = [];
    const counts = { cuts: 0, killed: 0, closed: 0 };
    const cuts = async () => {
      while (Date.now() < end) {
        const counter = chance.of(counters);
        if (counter.socket.connected) {
          counts.cuts++;
          LOSSES[chance.of(Object.keys(LOSSES))](counter.socket);
        }
        await sleep(chance.below(100));
      }
    };
    const restarts = async () => {
      for (let n = 0; Date.now() < end; n++) {
        await sleep(2_000 + chance.below(2_000));
        const server = servers[n % servers.length];
        const signal = chance.of(["SIGKILL", "SIGTERM"]);
        counts[signal === "SIGKILL" ? "killed" : "closed"]++;
        const begin = Date.now();
        await server.end(signal);
        ends.push({ server, signal, begin, end: Date.now() });
        await sleep(chance.below(1_000));
        await server.start();
      }
    };
    await Promise.all([cuts(), restarts()]);

    for (const counter of counters) await until(() => counter.isCounting, "a last connection");
    await load.stop();
    await Promise.all(counters.map((counter) => counter.settle()));
    const sums = { recovered: 0, told: 0, heard: 0, overtaken: 0, between: 0, twice: 0 };
    for (const [n, counter] of counters.entries()) {
      const excused = counter.check(`client ${n}`);
      sums.recovered += counter.recovered;
      sums.told += counter.told;
      sums.heard += counter.heard.length;
      for (const [reason, count] of Object.entries(excused)) sums[reason] += count;
    }
    t.diagnostic(JSON.stringify({ ...counts, sent: load.entries().list.length, ...sums }));
    assert.deepEqual(counters.flatMap(({ visits }) => unexplained(visits, ends)), []);
  } finally {
    clearInterval(load.timer);
    counters.forEach((counter) => counter.close());
    await Promise.all(servers.map((server) => server.end("SIGKILL").catch((error) => closed.push(error))));
    log.close();
    await redis.stop();
  }
  assert.deepEqual(closed, []);
});
