// Two servers of Node and one of this crate on one Redis, with official clients on each.
//
// ROW=streams runs only the rows whose names contain this.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { groups } from "./cluster-groups.js";
import { Cluster, ids } from "./cluster.js";
import { until } from "./support.js";

const DRIVERS = ["node-redis", "ioredis"];
const OLDER_DRIVERS = ["node-redis 5", "ioredis 5"];

/** What only some adapters of Node and some examples have. */
const CLASSIC = ["redis", "all rooms", "emitter", "emitter of this crate"];
const PARTS = {
  classic: CLASSIC,
  "classic-specific": CLASSIC,
  sharded: ["redis"],
  "sharded-dynamic": ["redis"],
  "sharded-dynamic-private": ["redis"],
  streams: ["redis", "stream", "streams emitter", "example"],
  "streams-sharded": ["redis", "stream", "streams emitter"],
};

/** Rows of all tests, and rows of the tests of what an older version could do differently. */
const ROWS = [
  ...Object.keys(PARTS).flatMap((mode) => DRIVERS.map((driver) => [mode, driver, "all"])),
  ...["classic", "sharded-dynamic", "streams"].flatMap((mode) =>
    OLDER_DRIVERS.map((driver) => [mode, driver, "few"]),
  ),
  ["classic 7", "node-redis", "few"],
  ["classic 7", "ioredis", "few"],
];

// Rows wait more than they compute.
describe("cluster", { concurrency: 2 }, () => {
  const row = (name, run) =>
    name.includes(process.env.ROW ?? "") && describe(name, { concurrency: false }, run);
  for (const [adapter, driver, which] of ROWS) {
    const run = () => Cluster.run(adapter, driver);
    row(`${adapter}, ${driver}`, () => groups(run, which, PARTS[adapter.split(" ")[0]]));
  }
  for (const driver of ["ioredis", "ioredis 5"]) {
    row(`streams 0.2, ${driver}`, () => streamsV02(driver));
  }
});

/** This version has all messages in the stream, answers too, and counts servers by their heartbeats. */
function streamsV02(driver) {
  let cluster, a, at_a, at_b, at_rust;

  before(async () => {
    cluster = await Cluster.run("streams 0.2", driver);
    ({ a, at_a, at_b, at_rust } = cluster);
  });

  after(() => cluster?.close());

  test("events reach the clients of all servers", async () => {
    for (const value of [["text", { a: [null] }], [Buffer.from([0, 255])]]) {
      a.io.to("room1").emit("hello", ...value);
      for (const client of cluster.clients) assert.deepEqual(await client.events.take("hello"), value);
      await at_rust.emitWithAck("emit", ["room1"], [at_b.id], {}, "hello", ...value);
      for (const client of [at_a, at_rust]) assert.deepEqual(await client.events.take("hello"), value);
    }
  });

  test("sockets join on all servers", async () => {
    a.io.socketsJoin("node");
    const members = () => at_rust.emitWithAck("fetch", ["node"]);
    await until(async () => (await members()).some((socket) => socket.id === at_rust.id), "the join");
    await at_rust.emitWithAck("join", [], "rust");
    await until(() => a.io.of("/").sockets.get(at_a.id).rooms.has("rust"), "the join");
  });

  test("Node's servers fetch the sockets of all servers", async () => {
    await until(async () => (await a.io.of("/").adapter.serverCount()) === 3, "three servers");
    assert.deepEqual(ids(await a.io.fetchSockets()), ids(cluster.clients));
  });
}
