// Two servers of Node and one of this crate on one PostgreSQL, with official clients on each.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { Emitter } from "@socket.io/postgres-emitter";

import { groups } from "./cluster-groups.js";
import { ids, range, Rust } from "./cluster.js";
import { PostgresCluster, PostgresProxy, TABLE } from "./postgres.js";
import { EXAMPLES, PATIENCE, freePort, pause, resume, until, within } from "./support.js";
import { Traffic } from "./traffic.js";

describe("a cluster", { concurrency: false }, () => {
  groups(() => PostgresCluster.run(), "all", []);
});

describe("PostgreSQL", { concurrency: false }, () => {
  let cluster, postgres, proxy, a, b, rust, at_a, at_b, at_rust;

  before(async () => {
    cluster = await PostgresCluster.run((postgres) => PostgresProxy.run(postgres));
    ({ postgres, between: proxy, a, b, rust, at_a, at_b, at_rust } = cluster);
  });

  after(() => cluster?.close());

  const status = () => at_rust.emitWithAck("status");

  test("messages on each side of the longest notification arrive, both ways", async () => {
    const tap = await postgres.tap();
    /** The notification of a message, which ends with a mark. */
    const notification = async (send, mark) => {
      const before = tap.payloads.length;
      await send();
      await until(() => tap.payloads.slice(before).some((payload) => payload.includes(mark)), "a notification");
      return tap.payloads.slice(before).find((payload) => payload.includes(mark));
    };
    const from_rust = (text) => at_rust.emitWithAck("emit", ["room1"], [], {}, "hello", text);
    const from_node = (text) => a.io.to("room1").emit("hello", text);
    for (const [send, longest] of [
      [from_rust, 7_999],
      [from_node, 8_000],
    ]) {
      const empty = await notification(() => send("é"), '"hello"');
      for (const client of cluster.clients) assert.deepEqual(await client.events.take("hello"), ["é"]);
      for (const length of [7_999, 8_000, 8_001]) {
        const text = "é" + "x".repeat(length - Buffer.byteLength(empty));
        // Node's adapter 0.5.0 sends 8 000 bytes as a notification, which PostgreSQL refuses.
        const is_lost = send === from_node && length === 8_000;
        if (is_lost) {
          await send(text);
          assert.deepEqual(await at_a.events.take("hello"), [text]);
          continue;
        }
        const is_long = length > longest;
        const payload = await notification(() => send(text), is_long ? '"attachmentId"' : '"hello"');
        if (!is_long) assert.equal(Buffer.byteLength(payload), length);
        for (const client of cluster.clients) assert.deepEqual(await client.events.take("hello"), [text]);
      }
    }
    await tap.close();
  });

  test("messages of all sizes arrive in order", async (t) => {
    const other = await Rust.run(postgres, "postgres");
    const at_other = await cluster.join(other);
    t.after(async () => {
      at_other.disconnect();
      await other.kill("SIGTERM");
      await cluster.whole();
    });
    // Fewer bytes than may wait for the broker.
    const numbers = range(0, 500);
    const heard = [];
    at_other.on("sized", (n) => heard.push(n));
    const values = ["", "x".repeat(9_000), Buffer.alloc(20), "x".repeat(100_000), Buffer.alloc(50_000)];
    await until(async () => (await at_rust.emitWithAck("count")) === 4, "four servers");
    for (const n of numbers) {
      const value = values[(n * 7) % 11] ?? "";
      at_rust.emit("emit", [at_other.id], [], {}, "sized", n, value, () => {});
    }
    await until(() => heard.at(-1) === numbers.at(-1), "the last message");
    assert.deepEqual(heard, numbers);
  });

  test("Node's emitter reaches the server of this crate", async () => {
    // Its messages do not say their namespace, and Node's adapter ignores them.
    const emitter = new Emitter(a.pool);
    emitter.emit("hello", 1, Buffer.from([9]));
    assert.deepEqual(await at_rust.events.take("hello"), [1, Buffer.from([9])]);
    emitter.to(at_rust.id).volatile.emit("hello", "x".repeat(10_000));
    assert.deepEqual(await at_rust.events.take("hello"), ["x".repeat(10_000)]);
    emitter.in(at_rust.id).socketsJoin("emitted");
    await until(async () => (await a.io.in("emitted").fetchSockets()).length === 1, "the join");
    emitter.in(at_rust.id).socketsLeave("emitted");
    await until(async () => (await a.io.in("emitted").fetchSockets()).length === 0, "the leave");
    emitter.serverSideEmit("sse", "emitter");
    assert.deepEqual(await at_rust.events.take("server_event"), ["sse", "emitter"]);
    const client = await cluster.join(rust);
    const left = once(client, "disconnect");
    emitter.in(client.id).disconnectSockets(true);
    await left;
    assert.equal(await at_rust.emitWithAck("count"), 3);
  });

  test("answers to other servers are not malformed", async () => {
    const before = await status();
    assert.equal(before.malformed, 0);
    assert.deepEqual(ids(await a.io.fetchSockets()), ids(cluster.clients));
    const bytes = await b.io.timeout(PATIENCE).emitWithAck("ask_bytes", 1);
    assert.equal(bytes.length, 3);
    assert.equal((await a.io.serverSideEmitWithAck("hey", 1)).length, 2);
    const later = await status();
    assert.equal(later.malformed, 0);
    assert.ok(later.received > before.received);
  });

  test("servers that send nothing else are counted by their heartbeats", async () => {
    for (const _ of range(0, 3)) {
      await sleep(5_000);
      const counts = [a, b].map((node) => node.io.of("/").adapter.serverCount());
      assert.deepEqual(await Promise.all([...counts, at_rust.emitWithAck("count")]), [3, 3, 3]);
    }
  });

  /** Messages go on while something fails, and afterwards the cluster is as it was. */
  const survives = async (fault, gaps = 1) => {
    const accounted = ({ published, unconfirmed, dropped }) => published + unconfirmed + dropped;
    const before = await status();
    const traffic = new Traffic(cluster);
    const begin = await traffic.goesOn();
    await fault(traffic);
    await traffic.goesOnLocally();
    await until(async () => (await status()).gaps >= before.gaps + gaps, "a gap");
    await until(async () => (await status()).is_connected, "a connection");
    const end = await traffic.goesOn();
    await cluster.whole();
    await traffic.stop();
    traffic.check({ node: [begin, end], rust: [begin, end] });
    await cluster.sees(3);
    const all = accounted(before) + traffic.sent;
    await until(async () => accounted(await status()) === all, "account of all messages");
    assert.equal((await status()).gaps, before.gaps + gaps);
  };

  for (const [title, ends] of [
    ["the connection that listens is ended", (listens) => listens],
    ["the connection that sends is ended", (listens) => !listens],
  ]) {
    test(title, () =>
      survives(async () => {
        const connections = [...(await postgres.connections())];
        const [[pid]] = connections.filter(([, listens]) => ends(listens));
        assert.equal(connections.length, 2);
        await postgres.query("SELECT pg_terminate_backend($1)", pid);
      }),
    );
  }

  test("connections are cut", () => survives(async () => proxy.cut()));

  test("connections are half-open", async () => {
    const former = [...(await postgres.connections()).keys()];
    await survives(async () => proxy.halfOpen());
    // They are ended, so that they keep no notifications.
    const left = await postgres.connections();
    assert.equal(left.size, 2);
    assert.ok(!former.some((pid) => left.has(pid)));
  });

  test("the network stalls for three seconds", () =>
    survives(async (traffic) => {
      proxy.stall();
      await traffic.goesOnLocally();
      await sleep(3_000);
      proxy.goOn();
    }, 0));

  test("the server is paused for longer than a heartbeat may take", async () => {
    await pause(rust.child);
    await until(async () => (await a.io.of("/").adapter.serverCount()) === 2, "two servers");
    resume(rust.child);
    await cluster.whole();
    await cluster.sees(3);
  });

  test("a server that is killed is forgotten, and questions to its clients end", async () => {
    const other = await Rust.run(postgres, "postgres");
    const at_other = await cluster.join(other);
    await until(async () => (await at_rust.emitWithAck("count")) === 4, "four servers");
    at_other.off("ask");
    const tap = await postgres.tap();
    const answers = at_rust.emitWithAck("ask", [], "ask", 1, 2 * PATIENCE);
    // Each server has said how many clients it has asked.
    const counts = () => tap.payloads.filter((payload) => payload.includes('"clientCount":1'));
    await until(() => counts().length === 3, "the counts of all servers");
    await tap.close();
    await other.kill();
    at_other.disconnect();
    const { answers: got, missing } = await within(answers, "the end of the question");
    assert.deepEqual(ids(got), ids(cluster.clients));
    assert.equal(missing, 1);
    await until(async () => (await a.io.of("/").adapter.serverCount()) === 3, "three servers");
    await cluster.whole();
  });

  test("a database without the table", async () => {
    await postgres.query("CREATE DATABASE empty");
    const url = postgres.url.replace("/postgres?", "/empty").replace(/postgres$/, "empty");
    const child = spawn(`${EXAMPLES}/cluster_node`, [`${await freePort()}`, url, "postgres"], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    let output = "";
    child.stderr.on("data", (data) => (output += data));
    const [code] = await within(once(child, "exit"), "the end of the server");
    assert.equal(code, 1);
    for (const word of TABLE.split(/[\s,()]+/)) assert.ok(output.includes(word), `${word} in ${output}`);
  });
});
