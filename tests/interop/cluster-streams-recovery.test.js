// Clients that lose their connection to a server, and come back to another one, over Redis streams.
//
// ROW='ours → ours' runs only the rows whose names contain this. With NODE=1 all servers are Node's, and
// what only servers of this crate do is skipped.

import assert from "node:assert/strict";
import { once } from "node:events";
import { after, afterEach, before, describe, test } from "node:test";

import { Redis } from "./cluster.js";
import { Proxy } from "./proxy.js";
import { Client, Emitter, HAS_OURS, LOSSES, Log, Server, saved, session } from "./streams.js";
import { freePort, until } from "./support.js";

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
    await until(all, "events", 10_000).catch(() => {});
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

/** On all servers, waits until a socket has so many owners. */
async function owners(id, count) {
  const all = async () => {
    const owned = await Promise.all(Object.values(servers).map((server) => server.owns(id)));
    return owned.reduce((sum, n) => sum + n);
  };
  await until(async () => (await all()) === count, `${count} owners`, 10_000);
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

      await client.lose(how);
      await saved(redis, client);
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
      await client.back(second.url);
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
      await client.lose(how);
      await saved(redis, client);
      for (const from of senders()) await talk.sayNow(from, ["red"], true);
      await client.back(first.url);
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
    await Promise.all(clients.map((client) => client.back(second.url)));
    for (const [n, client] of clients.entries()) {
      await isTheSame(client, idle[n]);
      await talk.check(client);
    }
  });

  // A server of Node loses what comes between its last read of the stream and the join. It also may
  // send an event of its own before an older one of another server: a client that breaks in between
  // does not get the older one.
  test("events that go on meanwhile", { skip: !secondIsOurs }, async () => {
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
        await client.lose(how);
        if (!firstIsOurs) await saved(redis, client);
        await client.back(second.url);
        await isTheSame(client, id, { rooms: ["room1", "flow"] });
        await more();
        if (!firstIsOurs) break;
        await client.lose(how);
        await client.back(first.url);
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
    await client.lose();
    await saved(redis, client);
    const isKept = firstIsOurs && secondIsOurs;
    await talk.sayNow(emitter, [], isKept);
    await client.back(second.url);
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
    await client.back(second.url);
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
    await client.back(second.url);
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
    await Promise.all(clients.map((client) => client.back(second.url)));
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
    await client.back(second.url);
    await isTheSame(client, id, { rooms: ["room1", "kept"], data: { user: "u", of: [1, null] } });
    assert.equal(await redis.admin.exists(client.key), 0, "it is there once");
  });

  test("a namespace has its own events", async () => {
    const client = await connect(`${first.url}/room-7`);
    const main = new Talk();
    const { id } = client;
    await client.ask("emit", [], [], {}, "inside", 0);
    await until(() => client.numbers("inside").length === 1, "an event");
    await client.lose();
    await saved(redis, client);
    const other = await connect(`${second.url}/room-7`);
    await main.sayNow(first, [], false);
    await other.ask("emit", ["room1"], [], {}, "inside", 1);
    await until(() => other.numbers("inside").length === 1, "an event");
    await client.back(second.url);
    await isTheSame(client, id, { rooms: ["room1"] });
    await until(() => client.numbers("inside").length >= 2, "what was missed");
    assert.deepEqual(client.numbers("inside"), [0, 1]);
    await main.check(client);
  });

  test("offsets that are none", async () => {
    const talk = new Talk();
    for (const offset of ["", "x", "1-2-3", "-", "1-", "-1", "1", "1_1", "99999999999999999999-1", "0-0", 7, null, {}, [], true, "9".repeat(10_000)]) {
      const client = await listening(first, talk);
      const { id } = client;
      await client.lose();
      await saved(redis, client);
      client.socket._lastOffset = offset;
      await client.back(second.url);
      await isNew(client, id);
      client.close();
      talk.wanted.clear();
      Object.assign(talk, new Talk());
    }
  });

  test("private ids that are none", async () => {
    for (const pid of ["", "x", "a".repeat(20), "*", "..", "a b\r\n", "é".repeat(20), "z".repeat(100_000), 7, {}, [], true]) {
      const talk = new Talk();
      const client = await listening(first, talk);
      const { id } = client;
      await client.lose();
      await saved(redis, client);
      client.socket._pid = pid;
      await client.back(second.url);
      await isNew(client, id);
      client.close();
    }
  });
}
