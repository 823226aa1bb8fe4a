// What a server of this crate does when its connections to Redis fail, or Redis itself.
//
// A proxy stands between it and Redis. Node's servers connect to Redis directly. ROW=streams runs only
// the rows whose names contain this.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { Cluster, MODES, range, Redis, Rust } from "./cluster.js";
import { Proxy } from "./proxy.js";
import { EXAMPLES, PATIENCE, freePort, pause, resume, until, within } from "./support.js";
import { Traffic } from "./traffic.js";

/** Numbers of bytes within the first commands of a connection, and within messages. */
const CUTS = [1, 30, 100, 300, 700, 2_000];

/** Faults after which a stream has what was sent meanwhile. */
const CONNECTIONS = {
  "connections are cut": async ({ proxy, traffic }) => {
    proxy.cut();
    await traffic.goesOnLocally();
  },
  "connections are cut at any byte": async ({ proxy, traffic }) => {
    for (const bytes of CUTS) {
      // The connection for messages that leave, that for those that arrive, and that for a stream.
      for (const whole of [0, 1, 2]) {
        proxy.cuts = [...Array(whole).fill(Infinity), bytes];
        proxy.cut();
        await traffic.goesOnLocally();
        await traffic.goesOn();
      }
    }
    proxy.cuts = [];
  },
  "replies are lost": async ({ proxy, traffic }) => {
    proxy.stall(false, true);
    await traffic.goesOnLocally();
    await sleep(300);
    proxy.cut();
    proxy.goOn();
  },
  "commands are lost": async ({ proxy, traffic }) => {
    proxy.stall(true, false);
    await traffic.goesOnLocally();
    await sleep(300);
    proxy.cut();
    proxy.goOn();
  },
  "connections are half-open": async ({ cluster, proxy, traffic }) => {
    proxy.halfOpen();
    await traffic.goesOnLocally();
    await within(cluster.whole(), "whole cluster");
  },
  "the network stalls for a second": async ({ proxy, traffic }) => {
    proxy.stall();
    await traffic.goesOnLocally();
    await sleep(1_000);
    proxy.goOn();
  },
  "the network stalls for three seconds": async ({ proxy, traffic }) => {
    proxy.stall();
    await traffic.goesOnLocally();
    await sleep(3_000);
    proxy.goOn();
  },
  "the network is slow": async ({ proxy, traffic }) => {
    proxy.chunk = 200;
    await traffic.goesOnLocally();
    await sleep(2_000);
    proxy.chunk = Infinity;
  },
  "Redis is paused": async ({ redis, traffic }) => {
    await pause(redis.child);
    await traffic.goesOnLocally();
    await sleep(6_000);
    await traffic.goesOnLocally();
    resume(redis.child);
  },
  "the server is paused": async ({ cluster }) => {
    await pause(cluster.rust.child);
    await sleep(6_000);
    resume(cluster.rust.child);
  },
};

/** Faults of the connections of Node's servers too, or of what Redis keeps. */
const REDIS = {
  "Redis ends all connections": async ({ redis, traffic }) => {
    for (const type of ["normal", "pubsub"]) await redis.command("CLIENT", "KILL", "TYPE", type);
    await traffic.goesOnLocally();
  },
  "Redis is flushed": async ({ redis, traffic }) => {
    await redis.command("FLUSHALL");
    await traffic.goesOnLocally();
  },
  "Redis is started again": async ({ redis, traffic }) => {
    await redis.stop();
    await traffic.goesOnLocally();
    await redis.start();
  },
};

// Rows wait more than they compute.
describe("faults", { concurrency: 3 }, () => {
  for (const mode of MODES) {
    describe(mode, { concurrency: false }, () => tests(mode));
  }
});

function tests(mode) {
  const isLog = mode.startsWith("streams");
  let cluster, redis, proxy;

  before(async () => {
    cluster = await Cluster.run(mode, "node-redis", (redis) => Proxy.run(redis));
    ({ redis, between: proxy } = cluster);
    // What Node's clients were asked while a connection ended fails.
    for (const client of [...cluster.a.clients, ...cluster.b.clients]) {
      for (const name of ["publish", "sPublish"]) {
        const publish = client[name];
        client[name] = (...args) => publish.apply(client, args).catch(() => 0);
      }
    }
  });

  after(() => cluster?.close());

  const isWhole = async () => {
    await cluster.whole();
    await cluster.subscribed("room1", 3);
    await cluster.sees(3);
  };

  /** The number of messages of the server of this crate that have left it, or never will. */
  const accounted = async () => {
    const { published, unconfirmed, dropped } = await cluster.at_rust.emitWithAck("status");
    return published + unconfirmed + dropped;
  };

  /** Messages go on while something fails, and afterwards the cluster is as it was. */
  const survives = async (fault, lossy, mayDouble = false) => {
    const before = await accounted();
    const traffic = new Traffic(cluster);
    const begin = await traffic.goesOn();
    await fault({ cluster, redis, proxy, traffic });
    await isWhole();
    const end = await traffic.goesOn();
    await traffic.stop();
    traffic.check(lossy([begin, end]), mayDouble);
    const all = before + traffic.sent;
    await until(async () => (await accounted()) === all, "account of all messages");
  };

  /** A stream has everything. */
  const lossy = (span) => (isLog ? { node: [0, 0], rust: [0, 0] } : { node: span, rust: span });

  for (const [title, fault] of Object.entries(CONNECTIONS)) {
    test(title, () => survives(fault, lossy));
  }

  for (const [title, fault] of Object.entries(REDIS)) {
    // What a stream has lost again may have been read already, and is sent again.
    const mayDouble = isLog && title === "Redis is started again";
    test(title, () => survives(fault, (span) => ({ node: span, rust: span }), mayDouble));
  }

  /** A stream has no subscriber that could be too slow. */
  if (!isLog) test("Redis ends the connection of a subscriber that is too slow", async () => {
    const { a, at_b, at_rust } = cluster;
    await redis.command("CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 1mb 1");
    const slow = async ({ traffic }) => {
      proxy.stall();
      await traffic.goesOnLocally();
      // What the proxy's sockets hold is no longer in the buffer of Redis.
      await until(async () => {
        const heard = once(at_b, "big");
        a.io.to([at_b.id, at_rust.id]).emit("big", "x".repeat(256 * 1024));
        await heard;
        const list = await redis.command("CLIENT", "LIST", "TYPE", "pubsub");
        return !list.includes("name=tower-socketio");
      }, "the end of the subscriber");
      proxy.goOn();
    };
    await survives(slow, (span) => ({ node: span, rust: span }));
  });

  if (isLog) test("ten thousand messages each way arrive once, in order, whatever is cut", async () => {
    const { a, at_a, at_b, at_rust } = cluster;
    const numbers = range(0, 10_000);
    const heard = [at_rust, at_a, at_b].map((client) => {
      const heard = [];
      client.on("number", (n) => heard.push(n));
      return heard;
    });
    const before = await accounted();
    for (const [slot, begin] of numbers.filter((n) => n % 250 === 0).entries()) {
      for (const n of numbers.slice(begin, begin + 250)) {
        a.io.to(at_rust.id).emit("number", n);
        at_rust.emit("emit", [at_a.id, at_b.id], [], {}, "number", n, () => {});
      }
      if (slot === 13 || slot === 27) {
        await pause(redis.child);
        await sleep(slot === 13 ? 6_000 : 1_000);
        resume(redis.child);
      }
      await sleep(200);
      // The stream has ten thousand entries of both sides.
      const near = (list) => (list.at(-1) ?? 0) >= begin - 2_000;
      await until(() => heard.every(near), "messages");
      proxy.cut();
    }
    for (const [i, name] of ["of this crate", "of Node", "of Node"].entries()) {
      await until(() => heard[i].at(-1) === numbers.at(-1), `last message on a server ${name}`);
      assert.deepEqual(heard[i], numbers, `on a server ${name}`);
    }
    const all = before + numbers.length;
    await until(async () => (await accounted()) === all, "account of all messages");
    const { dropped } = await at_rust.emitWithAck("status");
    assert.equal(dropped, 0);
  });

  if (isLog) test("messages between questions arrive once, in order, whatever is cut", async (t) => {
    const { at_rust } = cluster;
    const other = await Rust.run(redis, mode);
    const at_other = await cluster.join(other);
    t.after(async () => {
      at_other.disconnect();
      await other.kill();
      await isWhole();
    });
    const numbers = range(0, 2_000);
    const heard = [];
    at_rust.on("between", (n) => heard.push(n));
    for (const begin of numbers.filter((n) => n % 50 === 0)) {
      for (const n of numbers.slice(begin, begin + 50)) {
        at_other.emit("fetch", [], () => {});
        at_other.emit("emit", [at_rust.id], [], {}, "between", n, () => {});
      }
      await sleep(100);
      proxy.cut();
    }
    // A question whose answer is cut off waits for its time-out, and the events behind it wait too.
    await until(() => heard.at(-1) === numbers.at(-1), "the last message", 5 * PATIENCE);
    assert.deepEqual(heard, numbers);
  });

  if (isLog) test("a server that reads too late knows that it has missed messages", async () => {
    const { a, at_rust } = cluster;
    const heard = [];
    at_rust.on("late", (n) => heard.push(n));
    const { gaps } = await at_rust.emitWithAck("status");
    proxy.stall();
    // A stream has ten thousand entries, and some more.
    for (const n of range(0, 15_000)) a.io.to(at_rust.id).emit("late", n);
    await until(async () => (await redis.admin.xLen("socket.io")) < 12_000, "a shorter stream");
    proxy.goOn();
    await until(() => heard.at(-1) === 14_999, "the last message");
    assert.ok(heard.length < 15_000);
    assert.deepEqual(heard, [...new Set(heard)].sort((a, b) => a - b));
    assert.ok((await at_rust.emitWithAck("status")).gaps > gaps, "a gap");
    await isWhole();
  });

  if (isLog) test("a Redis that has lost what it had confirmed is read anew", async () => {
    const { a, at_rust } = cluster;
    const heard = [];
    at_rust.on("older", (n) => heard.push(n));
    a.io.to(at_rust.id).emit("older", 1);
    await until(() => heard.length === 1, "a message");
    const { gaps } = await at_rust.emitWithAck("status");
    // As after a fail-over to an older copy.
    await redis.command("DEL", "socket.io");
    await redis.command("XADD", "socket.io", "1-1", "other", "entry");
    proxy.cut();
    await until(async () => (await at_rust.emitWithAck("status")).gaps > gaps, "a gap");
    a.io.to(at_rust.id).emit("older", 2);
    await until(() => heard.length === 2, "a message");
    assert.deepEqual(heard, [1, 2]);
    await isWhole();
  });

  test("a server that stops sends its queued messages", async () => {
    const { at_a, at_b, at_rust } = cluster;
    const numbers = range(0, 1_000);
    const heard = [at_a, at_b].map((client) => {
      const heard = [];
      client.on("last", (n) => heard.push(n));
      return heard;
    });
    await Promise.all(numbers.map((n) => at_rust.emitWithAck("emit", ["room1"], [], {}, "last", n)));
    at_rust.disconnect();
    await cluster.rust.kill("SIGTERM");
    for (const list of heard) {
      await until(() => list.at(-1) === numbers.at(-1), "the last message");
      assert.deepEqual(list, numbers);
    }
    await cluster.startRust();
    await isWhole();
  });

  test("a server that is killed is missed at once, and comes back", async () => {
    const { a, at_rust } = cluster;
    at_rust.disconnect();
    await cluster.rust.kill();
    await until(async () => (await a.io.of("/").adapter.serverCount()) === 2, "two servers");
    await cluster.sees(2);
    await cluster.startRust();
    await isWhole();
    await survives(CONNECTIONS["connections are cut"], lossy);
  });

  test("a user without permission for CLIENT", async () => {
    const rules = ["on", ">secret", "~*", "&*", "+@all", "-client"];
    await redis.command("ACL", "SETUSER", "limited", ...rules);
    const [, url] = cluster.rust.arguments;
    for (const user of ["limited:secret@", undefined]) {
      cluster.at_rust.disconnect();
      await cluster.rust.kill();
      cluster.rust.arguments[1] = user ? proxy.urlOf(user) : url;
      await cluster.startRust();
      await isWhole();
      await survives(CONNECTIONS["connections are cut"], lossy);
    }
  });
}

test("a wrong password", async () => {
  const redis = await Redis.run();
  const url = `redis://somebody:wrong-secret@127.0.0.1:${redis.port}`;
  const options = { stdio: ["ignore", "ignore", "pipe"] };
  for (const mode of MODES) {
    const child = spawn(`${EXAMPLES}/cluster_node`, [await freePort(), url, mode].map(String), options);
    let output = "";
    child.stderr.on("data", (data) => (output += data));
    const [code] = await within(once(child, "exit"), "the end of the server");
    assert.equal(code, 1);
    assert.match(output, /WRONGPASS|password/i);
    assert.doesNotMatch(output, /wrong-secret/);
  }
  await redis.stop();
});
