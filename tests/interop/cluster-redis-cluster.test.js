// Two servers of Node and one of this crate on a Redis Cluster of three masters.
//
// ROW=streams runs only the rows whose names contain this.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { groups } from "./cluster-groups.js";
import { Cluster, connect, MODES, Rust } from "./cluster.js";
import { RedisCluster } from "./redis-cluster.js";
import { Client, saved, Server } from "./streams.js";
import { until } from "./support.js";

const DRIVERS = ["node-redis cluster", "ioredis cluster"];

/** What has a slot: the channel of a namespace, that of a room, the stream. */
const NAMES = ["socket.io#/#", "socket.io#/#room1#", "socket.io"];

/** The rows of all tests. In the others, slots move and a master dies. */
const ALL = ["sharded-dynamic, node-redis cluster", "streams, ioredis cluster"];

describe("Redis Cluster", { concurrency: 2 }, () => {
  for (const mode of MODES) {
    for (const driver of DRIVERS) {
      const row = `${mode}, ${driver}`;
      describe(row, { concurrency: false }, () => {
        const run = () => Cluster.run(mode, driver, undefined, RedisCluster);
        const cluster = ALL.includes(row) ? groups(run, "all", ["redis cluster"]) : runs(run);
        withNode(cluster, mode, driver);
      });
    }
    describe(`${mode}, faults`, { concurrency: false }, () => faults(mode));
  }
  if (MODES.includes("streams")) describe("recovery over streams", { concurrency: false }, recovery);
});

/** Runs a cluster during the tests. Returns a function that returns it. */
function runs(run) {
  let cluster;
  before(async () => {
    cluster = await run();
  });
  after(() => cluster?.close());
  return () => cluster;
}

/** What happens to all servers when slots move and a master dies. The clients of Node follow the slots, too. */
function withNode(cluster, mode, driver) {
  /** Sends from each server until the events of all arrive at the clients of all. */
  const goesOn = async () => {
    const { a, b, clients, at_rust } = cluster();
    const heard = clients.map(() => new Set());
    clients.forEach((client, at) => client.on("goes on", (from) => heard[at].add(from)));
    await until(async () => {
      for (const [from, node] of Object.entries({ a, b })) {
        node.io.emit("goes on", `${from} to all`);
        node.io.to("room1").emit("goes on", `${from} to a room`);
      }
      await at_rust.emitWithAck("emit", [], [], {}, "goes on", "rust to all");
      await at_rust.emitWithAck("emit", ["room1"], [], {}, "goes on", "rust to a room");
      return heard.every((events) => events.size === 6);
    }, "events of all servers");
    clients.forEach((client) => client.removeAllListeners("goes on"));
    await cluster().whole();
    await cluster().sees(3);
    await until(async () => (await at_rust.emitWithAck("fetch", [])).length === 3, "all sockets");
  };

  for (const name of NAMES) {
    test(`the slot of ${name} moves`, async () => {
      await cluster().redis.move(name);
      await goesOn();
    });
  }

  // When a master dies, node-redis rejects promises that nobody has, and Node ends the process then. With
  // ioredis, servers of Node count 0 servers afterwards in the other modes.
  if (driver.startsWith("node-redis") || !mode.startsWith("sharded")) return;

  test("a master dies, and a replica takes its place", async () => {
    const { redis } = cluster();
    const master = await redis.owner(await redis.slot(NAMES[0]));
    await redis.addReplica(master);
    await redis.kill(master);
    await goesOn();
  });
}

/** What happens to servers of this crate when slots move and masters die. */
function faults(mode) {
  let redis, servers, clients;
  // The numbers of a test begin where those of the one before have ended: its last ones may be late.
  const sent = { first: 0, n: 0 };
  const isStreams = mode.startsWith("streams");
  const status = (client) => client.emitWithAck("status");

  before(async () => {
    redis = await RedisCluster.run();
    servers = [await Rust.run(redis, mode), await Rust.run(redis, mode)];
    clients = await Promise.all(servers.map((server) => connect(server.url)));
    await whole();
  });

  after(async () => {
    clients?.forEach((client) => client.disconnect());
    await Promise.all(servers?.map((server) => server.kill()) ?? []);
    await redis?.stop();
  });

  const whole = async () => {
    const counts = () => Promise.all(clients.map((client) => client.emitWithAck("count")));
    await until(async () => (await counts()).every((count) => count === 2), "two servers");
  };

  /** Sends numbers to a room from each server until those of the others arrive. */
  const goesOn = async (heard) => {
    const begin = sent.n;
    await until(async () => {
      const n = sent.n++;
      const emits = clients.map((client, at) => client.emitWithAck("emit", ["room1"], [], {}, "number", at, n));
      await Promise.all(emits);
      return heard.every((numbers) => numbers.at(-1) >= begin);
    }, "messages both ways");
  };

  const listen = () => {
    const heard = clients.map(() => []);
    sent.first = sent.n;
    clients.forEach((client, at) => {
      client.removeAllListeners("number");
      client.on("number", (from, n) => from !== at && n >= sent.first && heard[at].push(n));
    });
    return heard;
  };

  const check = (heard) => {
    for (const numbers of heard) {
      const sorted = [...new Set(numbers)].sort((a, b) => a - b);
      assert.deepEqual(numbers, sorted, "doubled or out of order");
      if (isStreams) assert.equal(numbers.length, sent.n - sent.first, "missing");
    }
  };

  test("slots move while messages flow", async () => {
    const heard = listen();
    await goesOn(heard);
    for (const name of NAMES) {
      const gaps = (await status(clients[0])).gaps;
      await redis.move(name);
      await goesOn(heard);
      await whole();
      // Messages may be lost if the slot of a channel moves that this server is subscribed to.
      const isLossy = {
        sharded: name === NAMES[0],
        "sharded-dynamic": name !== NAMES[2],
        "sharded-dynamic-private": name !== NAMES[2],
      };
      const expected = gaps + (isLossy[mode] ? 1 : 0);
      await until(async () => (await status(clients[0])).is_connected, "a connection");
      assert.equal((await status(clients[0])).gaps, expected, `gaps after ${name} has moved`);
    }
    if (isStreams) await until(() => heard.every((numbers) => numbers.length === sent.n - sent.first), "all messages");
    check(heard);
  });

  test("a master dies, and a replica takes its place", async () => {
    const heard = listen();
    const master = await redis.owner(await redis.slot(isStreams ? NAMES[2] : NAMES[0]));
    await redis.addReplica(master);
    await goesOn(heard);
    await redis.kill(master);
    await goesOn(heard);
    await whole();
    for (const client of clients) {
      await until(async () => (await status(client)).is_connected, "a connection");
      assert.equal((await client.emitWithAck("fetch", [])).length, 2);
      if (mode.startsWith("sharded")) assert.notEqual((await status(client)).gaps, 0);
    }
    // What the master had confirmed and its replica had not got is lost.
    for (const numbers of heard) assert.deepEqual(numbers, [...new Set(numbers)].sort((a, b) => a - b));
  });
}

/** What happens to clients that come back to another server of this crate. */
function recovery() {
  let redis, servers;
  const open = new Set();

  before(async () => {
    redis = await RedisCluster.run();
    servers = [await Server.run("ours", redis), await Server.run("ours", redis)];
    for (const server of servers) server.control.on("number", (n) => (server.last = n));
  });

  after(async () => {
    open.forEach((client) => client.close());
    await Promise.all(servers?.map((server) => server.end("SIGKILL")) ?? []);
    await redis?.stop();
  });

  let next = 0;

  /** Sends a number from a server, and waits until all servers have read it in the stream. */
  const emit = async (server) => {
    const n = next++;
    await server.ask("emit", ["room1"], [], {}, "number", n);
    await until(() => servers.every(({ last }) => last === n), "the number in the stream");
    return n;
  };

  /** Clients of the first server that have heard a first number, and so have offsets. */
  const listening = async (count) => {
    const connects = Array.from({ length: count }, () => Client.connect(servers[0].url));
    const clients = await Promise.all(connects);
    clients.forEach((client) => open.add(client));
    const first = await emit(servers[1]);
    await until(() => clients.every((client) => client.numbers("number").at(-1) === first), "a first number");
    return [clients, first];
  };

  const lose = async (clients) => {
    await Promise.all(clients.map((client) => client.lose()));
    await Promise.all(clients.map((client) => saved(redis, client)));
  };

  const comeBack = (clients, server) => Promise.all(clients.map((client) => client.back(server.url)));

  /** Checks that a client is restored and has heard these numbers, once and in order. */
  const check = async (client, numbers) => {
    await until(() => client.numbers("number").length >= numbers.length, "all numbers");
    assert.deepEqual(client.numbers("number"), numbers);
    assert.equal(client.recovered, true);
  };

  test("clients come back to another server with what they missed", async () => {
    const [clients, first] = await listening(20);
    // Their sessions are on all masters.
    const owners = new Set();
    for (const { key } of clients) owners.add(await redis.owner(await redis.slot(key)));
    assert.equal(owners.size, 3);
    await lose(clients);
    const missed = [await emit(servers[0]), await emit(servers[1])];
    await comeBack(clients, servers[1]);
    const numbers = [first, ...missed, await emit(servers[0])];
    for (const client of clients) await check(client, numbers);
  });

  test("a server that starts later has what they missed", async (t) => {
    const [clients, first] = await listening(5);
    await lose(clients);
    const missed = await emit(servers[1]);
    const later = await Server.run("ours", redis);
    t.after(async () => {
      clients.forEach((client) => client.close());
      await later.end("SIGKILL");
    });
    await comeBack(clients, later);
    for (const client of clients) await check(client, [first, missed]);
  });

  test("slots move while they are away", async () => {
    const [clients, first] = await listening(5);
    await lose(clients);
    const before = await emit(servers[0]);
    for (const name of ["socket.io", ...clients.map(({ key }) => key)]) {
      await redis.move(name);
      await redis.agrees();
    }
    const after = [await emit(servers[1]), await emit(servers[0])];
    for (const server of servers) {
      await until(async () => (await server.ask("status")).is_connected, "a connection");
    }
    await comeBack(clients, servers[1]);
    for (const client of clients) await check(client, [first, before, ...after]);
  });

  test("after the master of the stream has died they are restored, or told", async () => {
    const [clients, first] = await listening(10);
    const master = await redis.owner(await redis.slot("socket.io"));
    await redis.addReplica(master);
    await lose(clients);
    const before = await emit(servers[0]);
    await until(() => isReplicated(master), "a replica that has all");
    await redis.kill(master);
    const after = await emit(servers[1]);
    for (const server of servers) {
      await until(async () => (await server.ask("status")).is_connected, "a connection");
    }
    await comeBack(clients, servers[1]);
    const last = await emit(servers[0]);
    for (const client of clients) {
      await until(() => client.numbers("number").at(-1) === last, "the last number");
      const missed = client.recovered ? [before, after] : [];
      assert.deepEqual(client.numbers("number"), [first, ...missed, last]);
    }
    // The replica had all that the master had.
    assert.ok(clients.some((client) => client.recovered));
  });

  /** Returns whether the replica of a master has all that it has. */
  const isReplicated = async (master) => {
    const info = await master.command("INFO", "replication");
    const offsets = [/offset=(\d+)/, /master_repl_offset:(\d+)/].map((pattern) => pattern.exec(info)[1]);
    return offsets[0] === offsets[1];
  };
}
