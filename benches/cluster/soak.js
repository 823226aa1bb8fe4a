// A cluster of two servers of Node and two of this crate, while clients do something by chance for half
// an hour: node benches/cluster/soak.js MODE
//
// MODE is `classic`, `sharded`, `sharded-dynamic`, `sharded-dynamic-private`, `streams`, `streams-sharded`
// or `streams-recovery`. MINUTES=5 goes on for so long, by default for 30 minutes; SEED=2 draws other
// operations. It needs what `move.js` needs.
//
// Clients connect, are cut, disconnect, join and leave, and are made to by any of the servers; events are
// sent to rooms, to single clients and to all. Each ten seconds the operations pause, and then all four
// servers must have the same sockets in the same rooms, as the clients expect it, and every client must
// have heard each event once that was sent to it. The command ends with an error at the first difference.
// At its end it prints how often it did what, and the memory of the servers.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

import { Chance } from "../../tests/interop/chance.js";
import { Redis } from "../../tests/interop/cluster.js";
import { Client, HAS_OURS, Server } from "../../tests/interop/streams.js";
import { until, within } from "../../tests/interop/support.js";

const MINUTES = Number(process.env.MINUTES ?? 30);
const SEED = Number(process.env.SEED ?? 1);
const [MODE = "streams"] = process.argv.slice(2);
const PAUSES = 10_000;
const [FEWEST, MOST] = [20, 60];
const ROOMS = ["red", "green", "blue", "white"];

const chance = new Chance(SEED);
const counts = {};
const did = (what) => (counts[what] = (counts[what] ?? 0) + 1);

let redis, servers;
/** The clients: `{client, server, rooms, wanted}`. */
let clients = [];
let events = 0;

/** Of a server's process, in MiB. */
function memory({ child }) {
  const status = readFileSync(`/proc/${child.pid}/status`, "utf8");
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)[1]) / 1024;
}

async function come() {
  const server = chance.of(servers);
  const client = await Client.connect(server.url);
  // Node's server recovers only a client that has had an event.
  await client.ask("to_me", "first", 0);
  clients.push({ client, server, rooms: new Set(["room1"]), wanted: [] });
  did("connect");
}

/** What two servers do to one socket at a time has no order, so each waits for its effect, and has one. */
const isIn = (one, room, expected) =>
  until(async () => (await one.client.ask("me")).rooms.includes(room) === expected, "the join or leave");

/** What is done to a client, by itself, by its own server or by any. */
const OPERATIONS = {
  come: () => (clients.length < MOST ? come() : undefined),
  async go(one) {
    if (clients.length <= FEWEST) return;
    clients = clients.filter((other) => other !== one);
    one.client.close();
    did("disconnect");
  },
  async end(one) {
    if (clients.length <= FEWEST) return;
    const { id } = one.client;
    clients = clients.filter((other) => other !== one);
    await chance.of(servers).ask("disconnect_sockets", [id], chance.below(2) === 1);
    await until(() => !one.client.socket.connected, "the end of a client");
    did("disconnected by a server");
  },
  async join(one) {
    const room = chance.of(ROOMS);
    one.rooms.add(room);
    await one.client.ask("subscribe", [room]);
    did("join");
  },
  async joined(one) {
    const room = chance.of(ROOMS);
    if (one.rooms.has(room)) return;
    one.rooms.add(room);
    await chance.of(servers).ask("join", [one.client.id], room);
    await isIn(one, room, true);
    did("join by a server");
  },
  async left(one) {
    const room = chance.of(ROOMS);
    if (!one.rooms.delete(room)) return;
    await chance.of(servers).ask("leave", [one.client.id], room);
    await isIn(one, room, false);
    did("leave by a server");
  },
  async fetch() {
    await chance.of(servers).ask("fetch", chance.below(2) ? [] : [chance.of(ROOMS)]);
    did("fetch");
  },
  async cut(one) {
    if (MODE !== "streams-recovery") return OPERATIONS.go(one);
    const { client } = one;
    const { id } = client;
    // To a client with an older offset, Node's server sends what its rooms had before it joined.
    const heard = client.numbers("first").length;
    await client.ask("to_me", "first", 0);
    await until(() => client.numbers("first").length > heard, "an event");
    await client.lose(chance.of(["closed", "destroyed"]));
    // Node's server saves the session, and does not answer one of this crate that asks for it.
    await until(async () => (await redis.admin.exists(client.key)) === 1, "the saved session");
    const server = chance.of(servers);
    if (!server.isOurs) await server.hasRead(redis);
    await client.back(server.url);
    assert.deepEqual({ recovered: client.recovered, id: client.id }, { recovered: true, id });
    one.server = server;
    did("recovery");
  },
};

/** An event that everybody must hear who is selected now. The rooms of the clients do not change meanwhile. */
async function emit() {
  const n = events++;
  const from = chance.of(servers);
  const targets = [
    [[], () => true],
    [["green", "blue"], ({ rooms }) => rooms.has("green") || rooms.has("blue")],
    [["red"], ({ rooms }) => rooms.has("red")],
    [[clients[0].client.id], (one) => one === clients[0]],
  ];
  // In these modes the other two have channels of their own. Node's server subscribes after a join, and
  // does not say when.
  const [target, isSelected] = chance.of(MODE.includes("dynamic") ? targets.slice(0, 2) : targets);
  for (const one of clients.filter(isSelected)) one.wanted.push(n);
  await from.ask("emit", target, [], {}, "n", n);
  did("emit");
}

const described = (sockets) =>
  sockets
    .map(({ id, rooms }) => [id, ...rooms.filter((room) => room !== id).sort()].join(" "))
    .sort()
    .join("\n");

/** All servers have the same sockets in the same rooms. */
async function agree() {
  const controls = servers.map(({ control }) => ({ id: control.id, rooms: ["room1"] }));
  const own = clients.map(({ client, rooms }) => ({ id: client.id, rooms: [...rooms] }));
  const expected = described([...controls, ...own]);
  for (const server of servers) {
    let sockets;
    await until(async () => {
      sockets = described(await server.ask("fetch", []));
      return sockets === expected;
    }, "sockets").catch(() => assert.deepEqual(sockets.split("\n"), expected.split("\n"), server.kind));
  }
  did("comparison");
}

/** All clients have heard what they must. */
async function heard() {
  for (const { client, wanted } of clients) {
    await until(() => client.numbers("n").length >= wanted.length, "events").catch(() => {});
    assert.deepEqual([...client.numbers("n")].sort((a, b) => a - b), wanted);
    // What was compared is not kept.
    client.heard.length = 0;
    wanted.length = 0;
  }
}

async function main() {
  redis = await Redis.run();
  const kinds = ["node-redis", "node-redis", "ours", "ours"];
  servers = await Promise.all(kinds.map((kind) => Server.run(kind, redis, MODE)));
  await until(async () => {
    const counts = await Promise.all(servers.map((server) => server.ask("count")));
    return counts.every((count) => count === servers.length);
  }, "four servers");
  while (clients.length < FEWEST) await come();
  await agree();
  const before = servers.map(memory);
  const end = Date.now() + MINUTES * 60_000;
  while (Date.now() < end) {
    const pause = Math.min(end, Date.now() + PAUSES);
    while (Date.now() < pause) {
      const operation = chance.of(Object.values(OPERATIONS));
      await within(Promise.resolve(operation(chance.of(clients))), `end of ${operation.name}`);
      // Events select by rooms that all servers have: a join reaches them one by one.
      if (chance.below(10) === 0) {
        await agree();
        for (let n = 0; n < 10; n++) await emit();
        await heard();
      }
    }
    await agree();
  }
  console.log(`${MODE}, ${MINUTES} minutes, SEED=${SEED}${HAS_OURS ? "" : ", servers of Node alone"}\n`);
  console.log("| operation | times |\n|---|---|");
  for (const [what, count] of Object.entries(counts)) console.log(`| ${what} | ${count} |`);
  console.log("\n| server | memory, before (MiB) | after (MiB) |\n|---|---|---|");
  for (const [n, server] of servers.entries()) {
    console.log(`| ${server.kind} | ${before[n].toFixed(1)} | ${memory(server).toFixed(1)} |`);
  }
}

await main();
// What is still open ends with the process.
process.exit(0);
