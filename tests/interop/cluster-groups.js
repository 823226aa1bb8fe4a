// The tests of a cluster: two servers of Node and one of this crate, with official clients on each, whatever
// connects them.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { after, before, test } from "node:test";

import { encode } from "@msgpack/msgpack";
import { Emitter } from "@socket.io/redis-emitter";

import { connect, ids, portIsFree } from "./cluster.js";
import { EXAMPLES, PATIENCE, freePort, until, within } from "./support.js";

/** How long a server that stops may take to leave, in milliseconds: less than others take to miss it. */
const LEAVES = 5_000;

/**
 * The tests of the cluster that `run` starts: all of them or few, and those of its parts: what only
 * some adapters of Node and some examples have. "redis cluster" is a part that is not stopped. Returns a
 * function that returns the cluster.
 */
export function groups(run, which, parts) {
  const has = (part) => which === "all" && parts.includes(part);
  /** A test of the clusters of all tests. */
  const full = (title, run) => which === "all" && test(title, run);
  /** A test of the clusters that have a part. */
  const where = (part, title, run) => has(part) && test(title, run);

  let cluster, redis, a, b, rust, at_a, at_b, at_rust;
  const clients = () => [at_a, at_b, at_rust];

  before(async () => {
    cluster = await run();
    ({ redis, a, b, rust, at_a, at_b, at_rust } = cluster);
  });

  after(() => cluster?.close());

  test("each server counts all three", () => cluster.whole());

  test("events with values of all kinds reach the clients of all servers", async () => {
    const values = [
      ["text", "aé€😀\u2028\0\"\\"],
      [null, true, false, 0, -1, 0.1, 2 ** 53, -129, 65_536],
      [{ a: [1, { b: {} }], "": [] }, []],
      [Buffer.from([0, 1, 254, 255]), { n: { b: Buffer.from("hi") } }, "after"],
      [],
    ];
    for (const value of values) {
      a.io.emit("hello", ...value);
      for (const client of clients()) assert.deepEqual(await client.events.take("hello"), value);
      await at_rust.emitWithAck("emit", [], [], {}, "hello", ...value);
      for (const client of clients()) assert.deepEqual(await client.events.take("hello"), value);
    }
    a.io.emit("hello", new Date(1_700_000_000_123), undefined, { toJSON: () => "J" });
    const value = ["2023-11-14T22:13:20.123Z", null, "J"];
    for (const client of clients()) {
      const heard = await client.events.take("hello");
      assert.deepEqual(JSON.parse(JSON.stringify(heard)), value);
    }
  });

  test("rooms, exceptions and ids select sockets on all servers", async () => {
    a.io.of("/").sockets.get(at_a.id).join(["red", "blue"]);
    b.io.of("/").sockets.get(at_b.id).join("red");
    await at_rust.emitWithAck("join", [at_rust.id], "blue");
    await cluster.subscribed("red", 2);
    await cluster.subscribed("blue", 2);
    const emits = [
      [["red"], [], [at_a, at_b]],
      [["red", "blue"], [], clients()],
      [["red", "blue"], [at_rust.id], [at_a, at_b]],
      [["blue"], ["red"], [at_rust]],
      [[], ["blue"], [at_b]],
      [[at_rust.id], [], [at_rust]],
      [[at_b.id], [], [at_b]],
      [["nobody"], [], []],
    ];
    let n = 0;
    for (const [rooms, except, expected] of emits) {
      a.io.to(rooms).except(except).emit("n", ++n);
      for (const client of expected) assert.deepEqual(await client.events.take("n"), [n]);
      await at_rust.emitWithAck("emit", rooms, except, {}, "n", ++n);
      for (const client of expected) assert.deepEqual(await client.events.take("n"), [n]);
    }
    await at_rust.emitWithAck("emit", [], [], { local: true }, "n", ++n);
    assert.deepEqual(await at_rust.events.take("n"), [n]);
    // What comes last shows that nothing else came.
    a.io.emit("end");
    await at_rust.emitWithAck("emit", [], [], {}, "end");
    for (const client of clients()) {
      await client.events.take("end");
      await client.events.take("end");
      assert.equal(client.events.count("n"), 0);
    }
  });

  test("a socket's broadcast reaches all but the socket", async () => {
    at_a.emit("broadcast", "hello", 1);
    for (const client of [at_b, at_rust]) assert.deepEqual(await client.events.take("hello"), [1]);
    await at_rust.emitWithAck("emit", [], [at_rust.id], {}, "hello", 2);
    for (const client of [at_a, at_b]) assert.deepEqual(await client.events.take("hello"), [2]);
    assert.equal(at_a.events.count("hello") + at_rust.events.count("hello"), 0);
  });

  test("sockets of all servers are fetched", async () => {
    const sockets = await a.io.fetchSockets();
    assert.deepEqual(ids(sockets), ids(clients()));
    const remote = sockets.find((socket) => socket.id === at_rust.id);
    assert.deepEqual(remote.data, { user: "rust" });
    assert.deepEqual([...remote.rooms].sort(), [at_rust.id, "blue", "room1"].sort());
    assert.equal(remote.handshake.query.transport, "websocket");
    assert.equal(remote.handshake.headers.connection, "Upgrade");
    assert.deepEqual(ids(await b.io.in("blue").except(at_a.id).fetchSockets()), [at_rust.id]);
    assert.deepEqual(await a.io.in("nobody").fetchSockets(), []);

    const fetched = await at_rust.emitWithAck("fetch", []);
    assert.deepEqual(ids(fetched), ids(clients()));
    const node = fetched.find((socket) => socket.id === at_a.id);
    assert.deepEqual(node.data, { user: "node" });
    assert.deepEqual(node.rooms.sort(), ["blue", "red", "room1"]);
    assert.match(node.url, /^\/socket\.io\/\?EIO=4&transport=websocket/);
    assert.deepEqual(await at_rust.emitWithAck("fetch", ["nobody"]), []);
  });

  where("all rooms", "the rooms of all servers are fetched", async () => {
    const rooms = [...ids(clients()), "blue", "red", "room1"].sort();
    assert.deepEqual([...(await a.io.of("/").adapter.allRooms())].sort(), rooms);
  });

  full("the clients of all servers are asked", async () => {
    const answers = await a.io.timeout(PATIENCE).emitWithAck("ask", 1);
    assert.deepEqual(ids(answers), ids(clients()));
    const bytes = await a.io.timeout(PATIENCE).emitWithAck("ask_bytes", 1);
    assert.deepEqual(bytes.map((answer) => [...answer]), clients().map(() => [1, 2, 3]));
    assert.deepEqual(await a.io.to("nobody").timeout(PATIENCE).emitWithAck("ask", 1), []);
    await assert.rejects(a.io.to(at_rust.id).timeout(200).emitWithAck("silent"));

    const asked = await at_rust.emitWithAck("ask", [], "ask", 2, PATIENCE);
    assert.deepEqual(ids(asked.answers), ids(clients()));
    assert.equal(asked.missing, 0);
    const nobody = await at_rust.emitWithAck("ask", ["nobody"], "ask", 2, PATIENCE);
    assert.deepEqual(nobody, { answers: [], missing: 0 });
    // A server has to say in time how many clients it asks.
    let time = 100;
    await until(async () => {
      const silent = await at_rust.emitWithAck("ask", [], "silent", 2, (time *= 2));
      assert.deepEqual(silent.answers, []);
      return silent.missing === 3;
    }, "a count of each server");
  });

  test("servers send events to each other", async () => {
    a.io.serverSideEmit("sse", 1, "two");
    assert.deepEqual(await b.events.take("sse"), [1, "two"]);
    assert.deepEqual(await at_rust.events.take("server_event"), ["sse", 1, "two"]);
    await at_rust.emitWithAck("server_emit", "sse", { three: 3 }, 4);
    for (const node of [a, b]) assert.deepEqual(await node.events.take("sse"), [{ three: 3 }, 4]);

    const pongs = await a.io.serverSideEmitWithAck("hey", 1);
    assert.deepEqual(pongs.sort(), ["node-pong", "rust-pong"]);
    assert.deepEqual(await at_rust.emitWithAck("server_ask", "ask", 5), [{ value: 5 }, { value: 5 }]);
  });

  full("sockets join, leave and are disconnected on all servers", async () => {
    const members = async (room) => ids(await a.io.in(room).fetchSockets());
    a.io.socketsJoin("all");
    await until(async () => (await members("all")).length === 3, "all in the room");
    a.io.in("all").socketsLeave("all");
    await until(async () => (await members("all")).length === 0, "nobody in the room");
    await at_rust.emitWithAck("join", [], "all");
    await until(async () => (await members("all")).length === 3, "all in the room");
    await at_rust.emitWithAck("leave", [at_b.id], "all");
    await until(async () => (await members("all")).length === 2, "two in the room");

    const [x, y] = await Promise.all([rust, b].map((server) => cluster.join(server)));
    const reasons = [x, y].map((client) => once(client, "disconnect"));
    a.io.in(x.id).disconnectSockets();
    assert.deepEqual((await reasons[0])[0], "io server disconnect");
    await at_rust.emitWithAck("disconnect_sockets", [y.id], true);
    // Node's server closes the connection, and sends no packet for it.
    assert.match((await reasons[1])[0], /io server disconnect|transport close/);
  });

  full("a fetched socket is used", async () => {
    const remote = (await a.io.in(at_rust.id).fetchSockets())[0];
    remote.emit("hello", 1, Buffer.from([7]));
    assert.deepEqual(await at_rust.events.take("hello"), [1, Buffer.from([7])]);
    const answer = await remote.timeout(PATIENCE).emitWithAck("ask", 3);
    assert.deepEqual(answer, { value: 3, id: at_rust.id });
    remote.join("remote");
    await until(async () => (await b.io.in("remote").fetchSockets()).length === 1, "the join");
    remote.leave("remote");
    await until(async () => (await b.io.in("remote").fetchSockets()).length === 0, "the leave");
    const client = await cluster.join(rust);
    const left = once(client, "disconnect");
    (await a.io.in(client.id).fetchSockets())[0].disconnect(true);
    await left;
  });

  where("emitter", "an emitter reaches all servers", async () => {
    const emitter = new Emitter(redis.admin);
    emitter.emit("hello", 1, Buffer.from([9]));
    for (const client of clients()) {
      assert.deepEqual(await client.events.take("hello"), [1, Buffer.from([9])]);
    }
    emitter.to(at_rust.id).volatile.emit("hello", 2);
    assert.deepEqual(await at_rust.events.take("hello"), [2]);
    emitter.in(at_rust.id).socketsJoin("emitted");
    await until(async () => (await a.io.in("emitted").fetchSockets()).length === 1, "the join");
    emitter.serverSideEmit("sse", "emitter");
    assert.deepEqual(await at_rust.events.take("server_event"), ["sse", "emitter"]);
    for (const node of [a, b]) await node.events.take("sse");
    const client = await cluster.join(rust);
    const left = once(client, "disconnect");
    emitter.in(client.id).disconnectSockets(true);
    await left;
  });

  where("emitter of this crate", "the emitter of this crate reaches all servers", async () => {
    const emit = async (...args) => {
      const child = spawn(`${EXAMPLES}/emitter`, [redis.url, ...args], { stdio: ["ignore", "inherit", "inherit"] });
      assert.deepEqual(await once(child, "exit"), [0, null]);
    };
    await emit("hello", "to all");
    for (const client of clients()) assert.deepEqual(await client.events.take("hello"), ["to all"]);
    await emit("hello", "to two", at_a.id, at_rust.id);
    for (const client of [at_a, at_rust]) assert.deepEqual(await client.events.take("hello"), ["to two"]);
    await emit("hello", "to one", at_b.id);
    assert.deepEqual(await at_b.events.take("hello"), ["to one"]);
  });

  where("streams emitter", "what Node's emitter adds to a stream reaches all servers", async () => {
    // As @socket.io/redis-streams-emitter writes it.
    const add = (type, data) =>
      redis.admin.xAdd("socket.io", "*", { uid: "emitter", nsp: "/", type: `${type}`, data });
    const opts = (...rooms) => ({ rooms, flags: {}, except: [] });
    const emit = (...data) => ({ packet: { type: 2, data, nsp: "/" }, opts: opts() });
    await add(3, JSON.stringify(emit("hello", 1)));
    await add(3, Buffer.from(encode(emit("hello", Buffer.from([9])))).toString("base64"));
    for (const client of clients()) {
      assert.deepEqual(await client.events.take("hello"), [1]);
      assert.deepEqual(await client.events.take("hello"), [Buffer.from([9])]);
    }
    await add(4, JSON.stringify({ opts: opts(at_rust.id), rooms: ["emitted"] }));
    await until(async () => (await a.io.in("emitted").fetchSockets()).length === 1, "the join");
    await add(5, JSON.stringify({ opts: opts("emitted"), rooms: ["emitted"] }));
    await until(async () => (await a.io.in("emitted").fetchSockets()).length === 0, "the leave");
    await add(9, JSON.stringify({ packet: ["sse", "emitter"] }));
    assert.deepEqual(await at_rust.events.take("server_event"), ["sse", "emitter"]);
    for (const node of [a, b]) await node.events.take("sse");
    const client = await cluster.join(rust);
    const left = once(client, "disconnect");
    await add(6, JSON.stringify({ opts: opts(client.id), close: true }));
    await left;
  });

  where("example", "the example `cluster` is two servers", async () => {
    let port;
    do {
      port = await freePort();
    } while ((await portIsFree(port + 1)) === false);
    const child = spawn(`${EXAMPLES}/cluster`, [port, `${redis.url}/0`].map(String), { stdio: "ignore" });
    const stopped = once(child, "exit");
    try {
      const pages = await until(async () => {
        const pages = [port, port + 1].map((port) => fetch(`http://127.0.0.1:${port}/`).then((page) => page.text()));
        return Promise.all(pages).catch(() => undefined);
      }, "both pages");
      for (const page of pages) assert.match(page, /Connected to server/);
      const [x, y] = await Promise.all([port, port + 1].map((port) => connect(`http://127.0.0.1:${port}`)));
      const heard = [x, y].map((client) => once(client, "said"));
      const counts = () => Promise.all([x, y].map((client) => client.emitWithAck("count")));
      await until(async () => (await counts()).every((count) => count === 5), "all sockets");
      x.emit("say", "hello");
      // The offset is the last argument: the example recovers clients.
      for (const said of heard) assert.deepEqual((await said).slice(0, -1), [port, "hello"]);
      [x, y].forEach((client) => client.disconnect());
    } finally {
      child.kill("SIGKILL");
      await stopped;
    }
    await cluster.whole();
  });

  full("a namespace may exist on some servers only", async () => {
    a.io.of("/only-a");
    await until(async () => (await a.io.of("/only-a").adapter.serverCount()) === 1, "one server");
    assert.deepEqual(await a.io.of("/only-a").fetchSockets(), []);
    a.io.of("/only-a").emit("hello", 1);
    assert.deepEqual(ids(await a.io.fetchSockets()), ids(clients()));
  });

  full("ten thousand messages arrive in order, both ways", async () => {
    const count = 10_000;
    const numbers = Array.from({ length: count }, (_, n) => n);
    const heard = (client) => {
      const { id } = client;
      const all = [];
      client.on("number", (n) => all.push(n));
      return async () => {
        try {
          await until(() => all.length >= count, "ten thousand messages", 3 * PATIENCE);
        } catch (error) {
          const missing = numbers.filter((n) => !all.includes(n));
          const status = await at_rust.timeout(PATIENCE).emitWithAck("status").catch(String);
          const what = { arrived: all.length, missing: missing.slice(0, 5), id, now: client.id, status };
          throw new Error(`${error.message}: ${JSON.stringify(what)}`);
        } finally {
          client.off("number");
        }
        assert.deepEqual(all, numbers);
      };
    };
    const all_at_other = heard(at_rust);
    for (const n of numbers) a.io.to(at_rust.id).emit("number", n);
    await all_at_other();
    const all_at_node = heard(at_a);
    for (const n of numbers) at_rust.emit("emit", [at_a.id], [], {}, "number", n, () => {});
    await all_at_node();
  });

  where("redis", "a server whose connections are ended connects again", async () => {
    // The subscribers of Node's servers, too: their clients connect again as well.
    await redis.command("CLIENT", "KILL", "TYPE", "pubsub");
    await cluster.whole();
    await cluster.subscribed("room1", 3);
    await cluster.sees(3);
    a.io.to("room1").emit("hello", "room1");
    for (const client of clients()) assert.deepEqual(await client.events.take("hello"), ["room1"]);
    const list = await redis.command("CLIENT", "LIST", "TYPE", "normal");
    const connections = list.split("\n").filter((line) => line.includes("name=tower-socketio"));
    assert.equal(connections.length, has("stream") ? 2 : 1);
    for (const connection of connections) {
      await redis.command("CLIENT", "KILL", "ID", /id=(\d+)/.exec(connection)[1]);
    }
    await until(async () => (await at_rust.emitWithAck("fetch", [])).length === 3, "all sockets");
    await cluster.whole();
  });

  full("a server that is killed is not counted any longer", async () => {
    at_rust.disconnect();
    await rust.kill();
    await until(async () => (await a.io.of("/").adapter.serverCount()) === 2, "two servers");
    assert.deepEqual(ids(await a.io.fetchSockets()), ids([at_a, at_b]));
    at_rust = await cluster.startRust();
    await cluster.whole();
    assert.deepEqual(ids(await b.io.fetchSockets()), ids(clients()));
  });

  full("a server that stops leaves at once", async () => {
    at_rust.disconnect();
    await rust.kill("SIGTERM");
    await until(async () => (await a.io.of("/").adapter.serverCount()) === 2, "two servers", LEAVES);
    at_rust = await cluster.startRust();
    await cluster.whole();
  });

  const stops = (title, run) => !parts.includes("redis cluster") && full(title, run);
  stops("local clients notice nothing while the broker is away, and the cluster comes back", async () => {
    await cluster.broker.stop();
    const local = await connect(rust.url);
    await until(async () => {
      const failed = await at_rust.emitWithAck("fetch", []);
      return failed.error !== undefined;
    }, "an error");
    await at_rust.emitWithAck("emit", [], [], {}, "hello", "local");
    assert.deepEqual(await local.events.take("hello"), ["local"]);
    assert.deepEqual(await at_rust.events.take("hello"), ["local"]);
    await cluster.broker.start();
    await cluster.whole();
    local.disconnect();
    await cluster.sees(3);
    await at_rust.emitWithAck("emit", [], [], {}, "hello", "again");
    // What waited while Redis was away arrives as well, if there is somebody to get it.
    if (has("stream")) assert.deepEqual(await at_a.events.take("hello"), ["local"]);
    await until(async () => (await at_a.events.take("hello"))[0] === "again", "an event");
  });

  return () => cluster;
}
