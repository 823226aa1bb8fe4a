// Clients that lose their connection to a server, and come back to another one, over Redis streams.
//
// ROW='ours → ours' runs only the rows whose names contain this. With NODE=1 all servers are Node's, and
// what only servers of this crate do is skipped.

import assert from "node:assert/strict";
import { once } from "node:events";
import { after, afterEach, before, describe, test } from "node:test";

import { encode } from "@msgpack/msgpack";
import { io } from "socket.io-client";

import { Redis } from "./cluster.js";
import { Proxy } from "./proxy.js";
import { Client, Emitter, HAS_OURS, LOSSES, Log, Server, saved, session } from "./streams.js";
import { freePort, until, within } from "./support.js";

const ROWS = [
  ["node-redis", "ours"],
  ["ioredis", "ours"],
  ["ours", "node-redis"],
  ["ours", "ioredis"],
  ["ours", "ours"],
  ["node-redis", "node-redis"],
].filter((row) => row.join(" → ").includes(process.env.ROW ?? ""));

/** What Node's servers do not do. */
const ours = (title, body) => test(title, { skip: !HAS_OURS }, body);

let redis, log, emitter, servers;
const open = new Set();

before(async () => {
  redis = await Redis.run();
  log = await Log.run(redis);
  emitter = new Emitter(redis);
  const kinds = { a: "ours", b: "ours", node: "node-redis", other: "node-redis", io: "ioredis" };
  const run = async ([name, kind]) => [name, await Server.run(kind, redis)];
  servers = Object.fromEntries(await Promise.all(Object.entries(kinds).map(run)));
});

after(async () => {
  await Promise.all(Object.values(servers ?? {}).map((server) => server.end("SIGKILL")));
  log?.close();
  await redis?.stop();
});

afterEach(() => {
  open.forEach((one) => one.close());
  open.clear();
});

async function connect(server, options) {
  const client = await Client.connect(server.url ?? server, options);
  open.add(client);
  return client;
}

async function proxyTo(server) {
  const proxy = await Proxy.run(server);
  open.add(proxy);
  return { proxy, url: `http://127.0.0.1:${proxy.server.address().port}` };
}

let talks = 0;

/** Numbered events of a test, from several servers. */
class Talk {
  name = `n${talks++}`;
  next = 0;
  /** The numbers of those that the client must hear. */
  wanted = new Set();

  /** Sends an event. `isWanted` says whether the client must hear it. */
  async say(from, rooms, isWanted, { except = [], flags = {}, rest = [] } = {}) {
    const n = this.next++;
    if (isWanted) this.wanted.add(n);
    await from.ask("emit", rooms, except, flags, this.name, n, ...rest);
    return n;
  }

  /** Sends an event, and waits until it has its place in the stream. */
  async sayNow(...args) {
    const n = await this.say(...args);
    await until(() => this.written().includes(n), "the event in the stream");
    return n;
  }

  /** The numbers of its events, in the order of the stream. */
  written() {
    return log.events.filter(({ args }) => args[0] === this.name).map(({ args }) => args[1]);
  }

  /** Waits until a client has heard as much as it must: all of it, once, in the order of the stream. */
  async check(client) {
    const heard = () => client.numbers(this.name);
    const all = () => this.written().length === this.next && heard().length >= this.wanted.size;
    await until(all, "events").catch(() => {});
    assert.deepEqual(heard(), this.written().filter((n) => this.wanted.has(n)));
  }
}

/** A client of a server that has heard a first event, and so has an offset. */
async function listening(server, talk, ...options) {
  const client = await connect(server, ...options);
  await talk.sayNow(server.ask ? server : servers.a, [client.id], true);
  await talk.check(client);
  return client;
}

/** A client comes back to a server that has read the stream, or through something before it. */
async function comesBack(client, server, url = server.url) {
  await server.hasRead(redis);
  await client.back(url);
}

/** A client comes back to a server of this crate whatever that has read, or to one of Node. */
async function comesBackAtOnce(client, server) {
  if (server.isOurs) await client.back(server.url);
  else await comesBack(client, server);
}

/** Loses a client and waits until its session is saved. */
async function isLost(client, how) {
  await client.lose(how);
  await saved(redis, client);
}

const own = (client, rooms) => rooms.filter((room) => room !== client.id).sort();

/** A client is what it was. */
async function isTheSame(client, id, { rooms, data } = {}) {
  assert.deepEqual({ recovered: client.recovered, id: client.id }, { recovered: true, id });
  const me = await client.ask("me");
  assert.equal(me.id, id);
  if (rooms) assert.deepEqual(own(client, me.rooms), [...rooms].sort());
  if (data) assert.deepEqual(me.data, data);
}

async function isNew(client, id) {
  assert.ok(!client.recovered);
  assert.notEqual(client.id, id);
  await client.ask("me");
}

/** Waits until this number of servers have a socket. */
async function owners(id, count) {
  const all = async () => {
    const owned = await Promise.all(Object.values(servers).map((server) => server.owns(id)));
    return owned.reduce((sum, n) => sum + n);
  };
  await until(async () => (await all()) === count, `${count} owners`);
}

for (const row of ROWS) describe(row.join(" → "), () => rows(...row));

function rows(...kinds) {
  let first, second;
  const [firstIsOurs, secondIsOurs] = kinds.map((kind) => kind === "ours" && HAS_OURS);

  before(() => {
    const places = {
      ours: [servers.a, servers.b],
      "node-redis": [servers.node, servers.other],
      ioredis: [servers.io, servers.io],
    };
    [first, second] = kinds.map((kind, n) => places[kind][n]);
  });

  /** The first row that sends through all servers and the emitter. */
  const senders = () => [...Object.values(servers), emitter];

  for (const how of Object.keys(LOSSES)) {
    test(`${how}: id, rooms, data and what was missed`, async () => {
      const talk = new Talk();
      const client = await connect(first);
      const other = await connect(first);
      const { id } = client;
      const data = { user: "u", n: 1, list: [1, "2", null, { deep: true }] };
      await client.ask("subscribe", ["red", "blue"]);
      await client.ask("set_data", data);
      await other.ask("subscribe", ["green"]);
      await talk.sayNow(first, ["red"], true);
      await talk.check(client);

      await isLost(client, how);
      for (const from of senders()) {
        await talk.sayNow(from, [], true);
        await talk.sayNow(from, ["red"], true);
        await talk.sayNow(from, [id], true, { rest: ["a string"] });
        await talk.sayNow(from, ["red", "blue", "room1"], true, { rest: [{ of: ["three", "rooms"] }] });
        await talk.sayNow(from, ["green"], false);
        await talk.sayNow(from, [other.id], false);
        await talk.sayNow(from, [], false, { except: ["blue"] });
        await talk.sayNow(from, ["red"], false, { except: [id] });
        await talk.sayNow(from, ["red"], true, { except: ["green", other.id] });
        if (from !== emitter) await talk.sayNow(from, ["blue"], true, { rest: [Buffer.from([0, 255]), { b: Buffer.from([7]) }] });
      }
      await comesBackAtOnce(client, second);
      await isTheSame(client, id, { rooms: ["room1", "red", "blue"], data });
      await talk.check(client);
      const binary = client.heard.filter(({ args }) => Buffer.isBuffer(args[2]));
      assert.equal(binary.length, senders().length - 1);
      for (const { args } of binary) assert.deepEqual(args.slice(2), [Buffer.from([0, 255]), { b: Buffer.from([7]) }]);
      assert.ok(client.heard.every(({ offset }) => offset));

      // It hears what comes, and can be lost again.
      for (const from of senders()) await talk.sayNow(from, ["blue"], true);
      await talk.check(client);
      await owners(id, 1);
      await isLost(client, how);
      for (const from of senders()) await talk.sayNow(from, ["red"], true);
      await comesBackAtOnce(client, first);
      await isTheSame(client, id, { rooms: ["room1", "red", "blue"], data });
      await talk.check(client);
      await owners(id, 1);
    });
  }

  test("many at once, and a burst of all servers", async () => {
    const talk = new Talk();
    const clients = await Promise.all(Array.from({ length: 20 }, () => connect(first)));
    await Promise.all(clients.map((client) => client.ask("subscribe", ["burst"])));
    const idle = clients.map((client) => client.id);
    await talk.sayNow(first, ["burst"], true);
    for (const client of clients) await talk.check(client);
    await Promise.all(clients.map((client) => client.lose()));
    await Promise.all(clients.map((client) => saved(redis, client)));
    const burst = senders().flatMap((from) => Array.from({ length: 50 }, () => talk.say(from, ["burst"], true)));
    await Promise.all(burst);
    // All of them have their place in the stream, so Node's servers lose none between two reads of it.
    await until(() => talk.written().length === talk.next, "the events in the stream");
    await Promise.all(clients.map((client) => comesBackAtOnce(client, second)));
    for (const [n, client] of clients.entries()) {
      await isTheSame(client, idle[n]);
      await talk.check(client);
    }
  });

  // A server of Node loses what comes between its last read of the stream and the join. It also may
  // send an event of its own before an older one of another server: a client that breaks in between
  // does not get the older one.
  if (secondIsOurs) test("events that go on meanwhile", async () => {
    const talk = new Talk();
    const client = await connect(first);
    const { id } = client;
    await client.ask("subscribe", ["flow"]);
    const flowing = firstIsOurs ? senders() : senders().filter((from) => from !== first);
    await talk.sayNow(first, [id], true);
    await talk.check(client);
    let goesOn = true;
    const flows = flowing.map(async (from) => {
      while (goesOn) await talk.say(from, ["flow"], true);
    });
    const more = async (count = 100) => {
      const end = talk.next + count;
      await until(() => talk.next >= end, "more events");
    };
    try {
      await more();
      for (const how of ["closed", "destroyed", "closed"]) {
        // The first server of Node has to have saved the session; ours is asked for it.
        await (firstIsOurs ? client.lose(how) : isLost(client, how));
        await comesBackAtOnce(client, second);
        await isTheSame(client, id, { rooms: ["room1", "flow"] });
        await more();
        if (!firstIsOurs) break;
        await client.lose(how);
        await comesBackAtOnce(client, first);
        await isTheSame(client, id, { rooms: ["room1", "flow"] });
        await more();
      }
    } finally {
      goesOn = false;
    }
    await Promise.all(flows);
    await talk.check(client);
    await owners(id, 1);
  });

  test("by itself, through a proxy that passes it to the other server", async () => {
    const talk = new Talk();
    const { proxy, url } = await proxyTo(first);
    const client = await connect(url, { reconnection: true, reconnectionDelay: 50, reconnectionDelayMax: 100 });
    const { id } = client;
    await client.ask("subscribe", ["auto"]);
    await talk.sayNow(first, ["auto"], true);
    await talk.check(client);
    const lost = once(client.socket, "disconnect");
    proxy.redis = { port: await freePort() };
    proxy.cut();
    await lost;
    await saved(redis, client);
    for (const from of senders()) await talk.sayNow(from, ["auto"], true);
    await second.hasRead(redis);
    const back = once(client.socket, "connect");
    proxy.redis = second;
    await back;
    await isTheSame(client, id);
    await talk.check(client);
  });

  test("before a first event", async () => {
    const client = await connect(first);
    const { id } = client;
    const talk = new Talk();
    await isLost(client);
    const isKept = firstIsOurs && secondIsOurs;
    await talk.sayNow(emitter, [], isKept);
    await comesBackAtOnce(client, second);
    if (isKept) await isTheSame(client, id, { rooms: ["room1"] });
    else await isNew(client, id);
    await talk.check(client);
    await owners(id, isKept ? 1 : 0);
  });

  test("a client that leaves has no session", async () => {
    const talk = new Talk();
    const client = await listening(first, talk);
    const { id, key } = client;
    client.socket.disconnect();
    await owners(id, 0);
    await comesBackAtOnce(client, second);
    await isNew(client, id);
    assert.equal(await redis.admin.exists(key), 0);
  });

  test("a client that a server made leave has no session", async () => {
    const talk = new Talk();
    const client = await listening(first, talk);
    const { id, key } = client;
    const left = once(client.socket, "disconnect");
    await second.ask("disconnect_sockets", [id], false);
    await left;
    await owners(id, 0);
    await comesBackAtOnce(client, second);
    await isNew(client, id);
    assert.equal(await redis.admin.exists(key), 0);
  });

  test("a server that closes keeps the sessions", async () => {
    const talk = new Talk();
    const ending = await Server.run(kinds[0], redis);
    const clients = await Promise.all(Array.from({ length: 20 }, () => connect(ending)));
    const old = clients.map((client) => client.id);
    await Promise.all(clients.map((client) => client.ask("subscribe", ["ending"])));
    await talk.sayNow(ending, ["ending"], true);
    for (const client of clients) await talk.check(client);
    const lost = clients.map((client) => once(client.socket, "disconnect"));
    await ending.end("SIGTERM");
    await Promise.all(lost);
    for (const from of senders()) await talk.sayNow(from, ["ending"], true);
    await Promise.all(clients.map((client) => comesBackAtOnce(client, second)));
    for (const [n, client] of clients.entries()) {
      await isTheSame(client, old[n], { rooms: ["room1", "ending"] });
      await talk.check(client);
    }
  });

  test("the session at Redis", async () => {
    const talk = new Talk();
    const client = await listening(first, talk);
    const { id } = client;
    await client.ask("set_data", { user: "u", of: [1, null] });
    await client.ask("subscribe", ["kept"]);
    await client.lose();
    const session = await saved(redis, client);
    assert.equal(session.sid, id);
    assert.equal(session.pid, client.socket._pid);
    assert.match(session.pid, /^[\w-]{20,64}$/);
    assert.deepEqual([...session.rooms].sort(), [id, "kept", "room1"].sort());
    assert.deepEqual(session.data, { user: "u", of: [1, null] });
    const left = await redis.admin.pTTL(client.key);
    assert.ok(left > 0 && left <= 60_000, `${left} ms`);
    await comesBackAtOnce(client, second);
    await isTheSame(client, id, { rooms: ["room1", "kept"], data: { user: "u", of: [1, null] } });
    assert.equal(await redis.admin.exists(client.key), 0, "it is there once");
  });

  test("a namespace has its own events", async () => {
    const client = await connect(`${first.url}/room-7`);
    const main = new Talk();
    const { id } = client;
    await client.ask("emit", [], [], {}, "inside", 0);
    await until(() => client.numbers("inside").length === 1, "an event");
    await isLost(client);
    const other = await connect(`${second.url}/room-7`);
    await main.sayNow(first, [], false);
    await other.ask("emit", ["room1"], [], {}, "inside", 1);
    await until(() => other.numbers("inside").length === 1, "an event");
    await comesBackAtOnce(client, second);
    await isTheSame(client, id, { rooms: ["room1"] });
    await until(() => client.numbers("inside").length >= 2, "what was missed");
    assert.deepEqual(client.numbers("inside"), [0, 1]);
    await main.check(client);
  });

  test("offsets that are none", async () => {
    for (const offset of ["", "x", "1-2-3", "-", "1-", "-1", "1", "1_1", "99999999999999999999-1", "9999999999999-0", 7, {}, [], true, "9".repeat(1_000)]) {
      const client = await listening(first, new Talk());
      const { id } = client;
      await isLost(client);
      client.socket._lastOffset = offset;
      await comesBackAtOnce(client, second);
      assert.ok(!client.recovered, JSON.stringify(offset));
      await isNew(client, id);
      client.close();
    }
  });

  test("private ids that are none", async () => {
    for (const pid of ["", "x", "a".repeat(20), "*", "..", "a b\r\n", "é".repeat(20), "z".repeat(1_000), 7, {}, [], true]) {
      const client = await listening(first, new Talk());
      const { id } = client;
      await isLost(client);
      client.socket._pid = pid;
      await comesBackAtOnce(client, second);
      await isNew(client, id);
      client.close();
    }
  });
}

// What only servers of this crate do.

ours("what was sent to a room before the join, or between leave and join, is not missed", async () => {
  const { a, b, node } = servers;
  for (const from of [a, b, node, emitter]) {
    const talk = new Talk();
    const client = await listening(a, talk);
    const { id } = client;
    const room = talk.name;
    await talk.sayNow(from, [room], false);
    await a.hasRead(redis);
    await client.ask("subscribe", [room]);
    await b.ask("leave", [id], room);
    await until(async () => !(await client.ask("me")).rooms.includes(room), "the leave");
    await talk.sayNow(from, [room], false);
    await a.hasRead(redis);
    await client.ask("subscribe", [room]);
    await isLost(client);
    await talk.sayNow(from, [room], true);
    await comesBack(client, b);
    await isTheSame(client, id, { rooms: ["room1", room] });
    await talk.check(client);
  }
});

ours("what was on its way to a room at the join is not missed", async () => {
  const { a, b } = servers;
  const talk = new Talk();
  const client = await listening(a, talk);
  const { id } = client;
  await client.ask("join_after", talk.name, talk.name, talk.next++);
  await isLost(client);
  await talk.sayNow(b, [talk.name], true);
  await comesBack(client, b);
  await isTheSame(client, id, { rooms: ["room1", talk.name] });
  await talk.check(client);
});

ours("volatile events are not missed, and do not end the recovery", async () => {
  const { a, b, node } = servers;
  for (const from of [a, b, node, emitter]) {
    const [talk, brief] = [new Talk(), new Talk()];
    const client = await listening(a, talk);
    const { id } = client;
    const flags = { volatile: true };
    await brief.say(from, [id], true, { flags, rest: ["a string"] });
    await until(() => client.numbers(brief.name).length === 1, "a volatile event");
    await isLost(client);
    await brief.say(from, [id], false, { flags, rest: ["a string"] });
    await brief.say(from, ["room1"], false, { flags });
    await talk.sayNow(from, [id], true);
    await comesBack(client, b);
    await isTheSame(client, id);
    await talk.sayNow(from, [id], true);
    await talk.check(client);
    assert.deepEqual(client.numbers(brief.name), [0]);
    await brief.say(from, [id], true, { flags, rest: ["a string"] });
    await until(() => client.numbers(brief.name).length === 2, "a volatile event");
    await isLost(client);
    await comesBack(client, a);
    await isTheSame(client, id);
    await talk.check(client);
    assert.deepEqual(client.numbers(brief.name), [0, 3]);
  }
});

ours("questions are not asked again", async () => {
  const { a, b, node } = servers;
  for (const first of [a, node]) {
    const talk = new Talk();
    const client = await listening(first, talk);
    const { id } = client;
    client.socket.on("question", (arg, answer) => {
      if (typeof answer === "function") answer(`yes ${arg}`);
    });
    assert.equal(await client.ask("ask_me", "question", 1), "yes 1");
    await isLost(client);
    await talk.sayNow(node, [id], true);
    await comesBack(client, b);
    await isTheSame(client, id);
    await talk.check(client);
    assert.equal(client.heard.filter(({ args }) => args[0] === "question").length, 1);
    assert.equal(await client.ask("ask_me", "question", 2), "yes 2");
  }
});

ours("joins and leaves while it is away", async () => {
  const { a, b, node } = servers;
  for (const by of [a, b, node, emitter]) {
    const talk = new Talk();
    const client = await listening(a, talk);
    const { id } = client;
    const [base, left, joined, both] = ["base", "left", "joined", "both"].map((room) => `${room}-${talk.name}`);
    await client.ask("subscribe", [base, left]);
    await isLost(client);
    // An event of the same server is behind its joins and leaves in the stream.
    await talk.sayNow(by, [left], true);
    await by.ask("leave", [id], left);
    await talk.sayNow(by, [left], false);
    await talk.sayNow(by, [joined], false);
    await by.ask("join", [id], joined);
    await talk.sayNow(by, [joined], true);
    await talk.sayNow(by, [base], false, { except: [joined] });
    await by.ask("join", [base], both);
    await talk.sayNow(by, [both], true);
    await by.ask("leave", [joined], both);
    await talk.sayNow(by, [both], false);
    await by.ask("join", [left], both);
    await by.ask("leave", [], base);
    await talk.sayNow(by, [base], false);
    await comesBack(client, b);
    await isTheSame(client, id, { rooms: ["room1", joined] });
    await talk.check(client);
    await talk.sayNow(node, [joined], true);
    await talk.sayNow(node, [left, base, both], false);
    await talk.sayNow(node, [id], true);
    await talk.check(client);
  }
});

ours("a disconnect while it is away", async () => {
  const { a, b, node } = servers;
  for (const by of [a, b, node, emitter]) {
    for (const close of [true, false]) {
      const talk = new Talk();
      const client = await listening(a, talk);
      const { id } = client;
      await client.ask("subscribe", [talk.name]);
      await isLost(client);
      await talk.sayNow(by, [id], false);
      await by.ask("disconnect_sockets", [talk.name], close);
      await talk.sayNow(by, [id], false);
      await comesBack(client, b);
      await isNew(client, id);
      await owners(id, 0);
      await talk.check(client);
      client.close();
    }
  }
});

ours("a session that has expired", async () => {
  const [c, d] = await Promise.all([1, 1].map((seconds) => Server.run("ours", redis, "streams", seconds)));
  try {
    for (const second of [c, d]) {
      const talk = new Talk();
      const client = await listening(c, talk);
      const { id } = client;
      await client.lose();
      await until(async () => (await redis.admin.exists(client.key)) === 1, "the session");
      await until(async () => (await redis.admin.exists(client.key)) === 0, "its end");
      await comesBack(client, second);
      await isNew(client, id);
    }
  } finally {
    await Promise.all([c, d].map((server) => server.end("SIGKILL")));
  }
});

ours("sessions that are garbage", async () => {
  const { a, b } = servers;
  const base64 = (value) => Buffer.from(encode(value)).toString("base64");
  const deep = Buffer.concat([Buffer.from([0x81, 0xa4]), Buffer.from("data"), Buffer.alloc(100_000, 0x91), Buffer.from([0xc0])]);
  const broken = (session) => [
    "",
    "%%%",
    "AAAA",
    "\0\xff",
    "x".repeat(1_000_000),
    deep.toString("base64"),
    base64(7),
    base64([]),
    base64({}),
    base64("session").slice(1),
    base64(session).slice(0, -8),
    ...["sid", "rooms"].map((key) => base64({ ...session, [key]: undefined })),
    ...[7, null, {}, [], ""].map((sid) => base64({ ...session, sid })),
    ...[7, null, {}, "room1"].map((rooms) => base64({ ...session, rooms })),
  ];
  const model = await listening(a, new Talk());
  await isLost(model);
  const count = broken(await session(redis, model)).length;
  for (let n = 0; n < count; n++) {
    const client = await listening(a, new Talk());
    const { id } = client;
    await isLost(client);
    await redis.admin.set(client.key, broken(await session(redis, client))[n], { PX: 60_000 });
    await comesBack(client, b);
    assert.ok(!client.recovered, `garbage ${n}`);
    await isNew(client, id);
    client.close();
  }
  // A key of another type.
  const client = await listening(a, new Talk());
  const { id } = client;
  await isLost(client);
  await redis.admin.del(client.key);
  await redis.admin.lPush(client.key, "session");
  await comesBack(client, b);
  await isNew(client, id);
});

ours("rooms that are numbers", async () => {
  const { a, node } = servers;
  const talk = new Talk();
  const client = await listening(node, talk);
  const { id } = client;
  await client.ask("subscribe", [7]);
  await isLost(client);
  assert.ok((await session(redis, client)).rooms.includes(7));
  await talk.sayNow(node, [7], true);
  await talk.sayNow(a, ["7"], true);
  await talk.sayNow(node, [], false, { except: [7] });
  await comesBack(client, a);
  await isTheSame(client, id, { rooms: ["room1", "7"] });
  await talk.sayNow(node, [7], true);
  await talk.check(client);
});

/** Runs with a Redis of its own, and with two servers of this crate. */
async function alone(body) {
  const redis = await Redis.run();
  const log = await Log.run(redis);
  const servers = [];
  const run = async () => servers[servers.push(await Server.run("ours", redis)) - 1];
  const written = (id) => log.events.filter(({ opts }) => opts.rooms.includes(id)).length;
  /** A client of the first server that has heard one event, and has missed three of the second one. */
  const away = async ([c, d]) => {
    const client = await connect(c);
    const { id } = client;
    await c.ask("emit", [id], [], {}, "n", 0);
    await until(() => client.numbers("n").length === 1, "a first event");
    await client.lose();
    await saved(redis, client);
    for (const n of [1, 2, 3]) await d.ask("emit", [id], [], {}, "n", n);
    await until(() => written(id) === 4, "the events in the stream");
    return { client, id };
  };
  try {
    await Promise.all([run(), run()]);
    await body({ redis, servers, run, away });
  } finally {
    await Promise.all(servers.map((server) => server.end("SIGKILL")));
    log.close();
    await redis.stop();
  }
}

// Such entries end the reading of Node's servers.
ours("entries of a stream that are no messages", () =>
  alone(async ({ redis, servers, away }) => {
    const { client, id } = await away(servers);
    const broken = [
      { end: "1" },
      { nsp: "/" },
      { nsp: "/", type: "3" },
      { nsp: "/", type: "3", uid: "x", data: "" },
      { nsp: "/", type: "3", uid: "x", data: "{" },
      { nsp: "/", type: "3", uid: "x", data: "%%%" },
      { nsp: "/", type: "3", uid: "x", data: "{}" },
      { nsp: "/", type: "3", uid: "x", data: '{"packet":{},"opts":{}}' },
      { nsp: "/", type: "3", uid: "x", data: '{"packet":{"type":2,"data":[]},"opts":{"rooms":[],"except":[]}}' },
      { nsp: "/", type: "99", uid: "x", data: "{}" },
      { nsp: "/", type: "many", uid: "x", data: "{}" },
      { nsp: "", type: "3", uid: "x", data: "{}" },
    ];
    for (const entry of broken) await redis.admin.xAdd("socket.io", "*", entry);
    await servers[0].ask("emit", [id], [], {}, "n", 4);
    await client.back(servers[1].url);
    await isTheSame(client, id);
    await until(() => client.numbers("n").at(-1) === 4, "the last event");
    assert.deepEqual(client.numbers("n"), [0, 1, 2, 3, 4]);
  }));

ours("a stream that is trimmed", () =>
  alone(async ({ redis, servers, run, away }) => {
    for (const isFresh of [true, false]) {
      const { client, id } = await away(servers);
      await redis.command("XTRIM", "socket.io", "MAXLEN", 0);
      // A server that has just come has not read what was missed; another one may have it in memory.
      const second = isFresh ? await run() : servers[1];
      await client.back(second.url);
      if (client.recovered) assert.equal(client.id, id);
      assert.ok(!isFresh || !client.recovered);
      const before = client.recovered ? [0, 1, 2, 3] : [0];
      await servers[1].ask("emit", [client.id], [], {}, "n", 4);
      await until(() => client.numbers("n").at(-1) === 4, "the next event");
      assert.deepEqual(client.numbers("n"), [...before, 4]);
    }
  }));

ours("a server that has just come recovers clients of before", () =>
  alone(async ({ servers, run, away }) => {
    const { client, id } = await away(servers);
    const second = await run();
    await client.back(second.url);
    await isTheSame(client, id);
    await servers[1].ask("emit", [id], [], {}, "n", 4);
    await until(() => client.numbers("n").at(-1) === 4, "the next event");
    assert.deepEqual(client.numbers("n"), [0, 1, 2, 3, 4]);
  }));

ours("a gap in the stream", async () => {
  const { a, b, node } = servers;
  for (const first of [a, node]) {
    for (const second of [a, b]) {
      const talk = new Talk();
      const client = await listening(first, talk);
      const { id } = client;
      await isLost(client);
      await talk.sayNow(first, [id], false);
      await redis.admin.xAdd("socket.io", "*", { gap: "1" });
      await comesBack(client, second);
      await isNew(client, id);
      await talk.check(client);

      const later = new Talk();
      const next = await listening(first, later);
      const nextId = next.id;
      await isLost(next);
      await later.sayNow(first, [nextId], true);
      await comesBack(next, second);
      await isTheSame(next, nextId);
      await later.check(next);
    }
  }
});

/** Clients that claim what another has, all at once. */
async function claim({ socket: { _pid, _lastOffset } }, ...urls) {
  const clients = urls.map((url) => {
    const options = { transports: ["websocket"], forceNew: true, reconnection: false, autoConnect: false };
    const socket = io(url, options);
    Object.assign(socket, { _pid, _lastOffset });
    open.add({ close: () => socket.disconnect() });
    return socket;
  });
  // A later claim may end the connection of an earlier one before its CONNECT.
  const ends = (client) => Promise.race([once(client, "connect"), once(client.io, "close")]);
  const ended = clients.map((client) => within(ends(client), "answer to a claim"));
  clients.forEach((client) => client.connect());
  await Promise.all(ended);
  return clients;
}

ours("a private id that is used while its owner is connected", async () => {
  const { a, b } = servers;
  for (const second of [a, b]) {
    const talk = new Talk();
    const client = await listening(a, talk);
    const { id } = client;
    const [thief] = await claim(client, second.url);
    await owners(id, 1);
    const isOwner = (socket) => socket.connected && socket.id === id;
    await until(() => isOwner(client.socket) !== isOwner(thief), "one owner");
    if (!isOwner(thief)) assert.ok(!thief.recovered);
  }
});

ours("a private id that is used while its owner is connected to Node's server", async () => {
  const { a, b, node } = servers;
  const talk = new Talk();
  const client = await listening(a, talk);
  const { id } = client;
  await isLost(client);
  await comesBack(client, node);
  await isTheSame(client, id);
  for (const second of [a, b]) {
    const [thief] = await claim(client, second.url);
    assert.ok(!thief.recovered);
    assert.notEqual(thief.id, id);
  }
  await isTheSame(client, id);
  await owners(id, 1);
});

ours("a private id that is used by several at once", async () => {
  const { a, b } = servers;
  for (let round = 0; round < 5; round++) {
    const talk = new Talk();
    const client = await listening(a, talk);
    const { id } = client;
    await isLost(client);
    const clients = await claim(client, a.url, b.url, a.url, b.url);
    const isOwner = (socket) => socket.connected && socket.id === id;
    await until(() => clients.filter(isOwner).length === 1, "one owner");
    await owners(id, 1);
    for (const socket of clients) assert.equal(socket.id === id, isOwner(socket));
    assert.equal(await redis.admin.exists(client.key), 0);
  }
});

ours("at once, before its server has noticed or saved anything", async () => {
  const { a, b } = servers;
  for (const second of [a, b]) {
    const talk = new Talk();
    const clients = await Promise.all(Array.from({ length: 20 }, () => connect(a)));
    const old = clients.map((client) => client.id);
    await Promise.all(clients.map((client) => client.ask("subscribe", [talk.name])));
    await talk.sayNow(a, [talk.name], true);
    for (const client of clients) await talk.check(client);
    await Promise.all(
      clients.map(async (client, n) => {
        await client.lose(n % 2 ? "closed" : "destroyed");
        await client.back(second.url);
      }),
    );
    await talk.sayNow(a, [talk.name], true);
    for (const [n, client] of clients.entries()) {
      await isTheSame(client, old[n], { rooms: ["room1", talk.name] });
      await talk.check(client);
    }
  }
});

ours("while its connection is half-open", async () => {
  const { a, b, node } = servers;
  for (const second of [b, a]) {
    const talk = new Talk();
    const { proxy, url } = await proxyTo(a);
    const client = await connect(url);
    const { id } = client;
    const data = { user: "half", n: 1 };
    await client.ask("set_data", data);
    await client.ask("subscribe", [talk.name]);
    await talk.sayNow(a, [id], true);
    await talk.check(client);
    proxy.halfOpen();
    for (const from of [a, b, node, emitter]) await talk.sayNow(from, [talk.name], true);
    await client.lose("destroyed");
    for (const from of [a, b, node, emitter]) await talk.sayNow(from, [id], true);
    assert.equal(await a.owns(id), 1, "its server believes in the connection");
    await comesBack(client, second);
    await isTheSame(client, id, { rooms: ["room1", talk.name], data });
    for (const from of [a, b, node, emitter]) await talk.sayNow(from, [talk.name, id], true);
    await talk.check(client);
    await owners(id, 1);
    assert.equal(await second.owns(id), 1);
    assert.equal(await redis.admin.exists(client.key), 0);
  }
});

ours("a socket of Node's server with the same id ends", async () => {
  const { a, b, node } = servers;
  const talk = new Talk();
  const { proxy, url } = await proxyTo(node);
  const client = await listening(url, talk);
  const { id } = client;
  await isLost(client);
  // Two servers of Node can have the session: one has it in memory, another one reads it.
  const copy = await redis.admin.get(client.key);
  await comesBack(client, node, url);
  await isTheSame(client, id);
  proxy.halfOpen();
  await client.lose("destroyed");
  await talk.sayNow(node, [id], true);
  assert.equal(await node.owns(id), 1, "Node's server believes in the connection");
  await redis.admin.set(client.key, copy, { PX: 60_000 });
  await comesBack(client, b);
  await isTheSame(client, id);
  await until(async () => (await node.owns(id)) === 0, "the end of the other socket");
  for (const from of [a, b, node, emitter]) await talk.sayNow(from, [id], true);
  await talk.check(client);
  await owners(id, 1);
  // That was no disconnect.
  await isLost(client);
  await talk.sayNow(node, [id], true);
  await comesBack(client, a);
  await isTheSame(client, id);
  await talk.check(client);
});

ours("after its server was killed, without early sessions", async () => {
  const c = await Server.run("ours", redis);
  const client = await listening(c, new Talk());
  const { id } = client;
  const lost = once(client.socket, "disconnect");
  await c.end("SIGKILL");
  await lost;
  await comesBack(client, servers.b);
  await isNew(client, id);
});

ours("after its server was killed, with early sessions", async () => {
  const early = () => Server.run("ours", redis, "streams-recovery-early");
  for (const second of ["ours", "node-redis"]) {
    const [c, d] = await Promise.all([early(), early()]);
    const talk = new Talk();
    const [client, idle] = await Promise.all([connect(c), connect(c)]);
    const [id, idleId] = [client.id, idle.id];
    await saved(redis, idle);
    const data = { user: "early", n: 1 };
    await client.ask("subscribe", [talk.name]);
    await client.ask("set_data", data);
    await talk.sayNow(c, [id], true);
    await talk.check(client);
    const isSaved = async () => {
      const { rooms = [], data } = (await session(redis, client)) ?? {};
      return rooms.includes(talk.name) && data?.user === "early";
    };
    await until(isSaved, "the session with its rooms and data");
    const killed = async (server, ...clients) => {
      const lost = clients.map((client) => once(client.socket, "disconnect"));
      await server.end("SIGKILL");
      await Promise.all(lost);
    };
    await killed(c, client, idle);
    for (const from of [servers.a, servers.node, emitter]) await talk.sayNow(from, [talk.name], true);
    const back = second === "ours" ? d : servers.node;
    await comesBack(client, back);
    await isTheSame(client, id, { rooms: ["room1", talk.name], data });
    await talk.check(client);
    await owners(id, second === "ours" ? 0 : 1);
    if (second === "ours") {
      // One that has heard nothing yet, and one that was restored already.
      await comesBack(idle, d);
      await isTheSame(idle, idleId, { rooms: ["room1"] });
      await until(isSaved, "the session, again");
      await talk.sayNow(servers.b, [talk.name], true);
      await talk.check(client);
      await killed(d, client, idle);
      await talk.sayNow(emitter, [talk.name], true);
      await comesBack(client, servers.a);
      await isTheSame(client, id, { rooms: ["room1", talk.name], data });
      await talk.check(client);
      // Nobody saves for a client that is gone.
      client.socket.disconnect();
      await until(async () => (await redis.admin.exists(client.key)) === 0, "the end of the session");
    } else {
      await d.end("SIGKILL");
    }
  }
});

ours("a client that leaves has no early session", async () => {
  const c = await Server.run("ours", redis, "streams-recovery-early");
  try {
    const client = await listening(c, new Talk());
    await saved(redis, client);
    client.socket.disconnect();
    await until(async () => (await redis.admin.exists(client.key)) === 0, "the end of the session");
  } finally {
    await c.end("SIGKILL");
  }
});

for (const transports of [["polling"], ["polling", "websocket"]]) {
  ours(`over ${transports.join(", then ")}`, async () => {
    const { a, b } = servers;
    const talk = new Talk();
    const client = await listening(a, talk, { transports });
    const { id } = client;
    for (const [first, second] of [[a, b], [b, a]]) {
      await until(() => client.socket.io.engine.transport.name === transports.at(-1), "the upgrade");
      // A client that has not polled again has an answer under way.
      await talk.sayNow(first, [id], true);
      await talk.check(client);
      await client.lose();
      await talk.sayNow(first, ["room1"], true);
      await comesBack(client, second);
      await isTheSame(client, id, { rooms: ["room1"] });
      await talk.check(client);
    }
  });
}
