// What the server of this crate publishes, read by the decoders of Node's adapters.
//
// ROW=streams runs only the modes whose names contain this.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import * as msgpack from "@msgpack/msgpack";
import notepack from "notepack.io";
import notepackV2 from "notepack.io-v2";

import { connect, MODES, range, Redis, Rust } from "./cluster.js";
import { Inbox, until } from "./support.js";

const DECODERS = {
  "notepack.io 3": notepack.decode,
  "notepack.io 2": notepackV2.decode,
  "@msgpack/msgpack 2": msgpack.decode,
};

/** A date as JavaScript writes it. */
const TIME = /^[A-Z][a-z]{2} [A-Z][a-z]{2} \d\d \d{4} \d\d:\d\d:\d\d GMT[+-]\d{4} \(.+\)$/;

/** The id of a server that asks. */
const ASKER = "feedfeedfeedfeed";

/** The type of a message of this crate: a question to clients has ended. */
const END = 22;

/** Rooms, one with the length of an id. */
const ROOMS = ["red", "a room of 20 letters", "é😀 *?[]\\#"];

const deep = (levels) => (levels === 0 ? "end" : [{ deeper: deep(levels - 1) }]);
const keys = (count) => Object.fromEntries(range(0, count).map((n) => [`key ${n}`, n]));
const bytes = (length) => Buffer.from(range(0, length).map((n) => n % 256));

/** Each side of the limits between MessagePack's formats. */
const VALUES = {
  "no values": [],
  texts: [0, 1, 31, 32, 255, 256, 65_535, 65_536].map((length) => "x".repeat(length)),
  "texts that are not ASCII": ["aé€😀\u2028\0\"\\\x7f", "\u{10ffff}", "é".repeat(16), "😀".repeat(64)],
  "positive numbers": [0, ...[7, 8, 16, 32, 53, 63, 64].flatMap((n) => [2 ** n - 1, 2 ** n])],
  "negative numbers": [-1, ...[5, 7, 15, 31, 53, 63, 64].flatMap((n) => [-(2 ** n), -(2 ** n) - 1])],
  fractions: [0.1, -1.5, 1e300, 5e-324, 1e21, Number.MAX_VALUE],
  "other values": [null, true, false],
  arrays: [[], range(0, 15), range(0, 16), range(0, 65_535), range(0, 65_536), [[[]]]],
  objects: [{}, keys(15), keys(16), keys(300), { "": { "": null } }, { _placeholder: true, num: 0 }],
  "nested values": [deep(50)],
  bytes: [0, 1, 255, 256, 65_535, 65_536].map(bytes),
  "bytes among other values": [{ a: [bytes(2), { b: bytes(3) }], "": 2 ** 53, c: -0.5 }, "é", bytes(2)],
};

/** A value in which bytes are equal whatever type a decoder has for them. */
function plain(value) {
  if (ArrayBuffer.isView(value)) return { bytes: Buffer.from(value).toString("hex") };
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, value]) => [key, plain(value)]));
}

/** All that is published. */
class Tap {
  inbox = new Inbox();

  static async run(redis, channels) {
    const tap = new Tap();
    tap.client = await redis.admin.duplicate().on("error", () => {}).connect();
    const take = (bytes, channel) => tap.inbox.push({ channel: `${channel}`, bytes });
    await tap.client.pSubscribe("*", take, true);
    for (const channel of channels) await tap.client.sSubscribe(channel, take, true);
    tap.reader = await redis.admin.duplicate().on("error", () => {}).connect();
    tap.#read().catch(() => {});
    return tap;
  }

  async #read() {
    for (let id = "0-0"; ; ) {
      const streams = await this.reader.xRead({ key: "socket.io", id }, { BLOCK: 0 });
      for (const { id: last, message } of streams[0].messages) {
        id = last;
        this.inbox.push({ channel: "stream", entry: message });
      }
    }
  }

  /** The next message of the server of this crate, as each decoder has it. */
  async next() {
    const json = (text) => JSON.parse(text.toString());
    for (;;) {
      const { channel, bytes, entry } = await this.inbox.take();
      const messages = Object.entries(DECODERS).map(([name, decode]) => {
        if (bytes) return [name, (bytes[0] === 0x7b ? json : decode)(bytes)];
        const { type, data, uid, nsp } = entry;
        assert.match(type, /^\d+$/);
        const isJson = data.startsWith("{");
        const decoded = isJson ? json(data) : decode(Buffer.from(data, "base64"));
        return [name, { type: Number(type), data: decoded, uid, nsp }];
      });
      if (messages[0][1].uid !== ASKER) return { channel, messages };
    }
  }

  close() {
    this.client.destroy();
    this.reader.destroy();
  }
}

const MAIN = "socket.io#/#";
const REQUESTS = "socket.io-request#/#";

const event = (data) => ({ type: 2, data });
const opts = (rooms = [], except = [], flags = {}) => ({ rooms, except, flags });

/** The messages of the classic adapter, with their channels. */
function classic() {
  const packet = (data) => ({ ...event(data), nsp: "/" });
  const selects = (rooms) => ({ rooms, except: [] });
  const request = (type, rest) => [REQUESTS, { type, ...rest }];
  const question = (type, rest) => request(type, { requestId: "id", ...rest });
  const answer = (rest) => [`socket.io-response#/#${ASKER}#`, { requestId: "r", ...rest }];
  const ask = (type, rest) => ({ uid: ASKER, requestId: "r", type, ...rest });
  return {
    broadcast: (data, opts) => {
      const room = opts.rooms.length === 1 ? `${opts.rooms[0]}#` : "";
      return [MAIN + room, ["uid", packet(data), opts]];
    },
    // All servers read it as JSON.
    serverEvent: (data) => request(6, { data: JSON.parse(JSON.stringify(data)) }),
    join: (rooms, room) => request(2, { opts: selects(rooms), rooms: [room] }),
    leave: (rooms, room) => request(3, { opts: selects(rooms), rooms: [room] }),
    disconnect: (rooms, close) => request(4, { opts: selects(rooms), close }),
    fetch: () => question(5, { opts: selects([]) }),
    serverQuestion: (data) => question(6, { data }),
    question: (data, opts) => question(7, { packet: packet(data), opts }),
    sockets: (sockets) => answer({ sockets }),
    reply: (data) => answer({ type: 6, data }),
    clients: (clientCount) => answer({ type: 8, clientCount }),
    acknowledgement: (packet) => answer({ type: 9, packet }),
    askSockets: () => [REQUESTS, JSON.stringify(ask(5, { opts: selects([]) }))],
    askServers: (data) => [REQUESTS, JSON.stringify(ask(6, { data }))],
    askClients: (data) => [REQUESTS, notepack.encode(ask(7, { packet: packet(data), opts: opts() }))],
  };
}

/** The messages of the adapters that share a base class, with their channels or the stream. */
function clusterAdapter(mode) {
  const isLog = mode.startsWith("streams");
  const hasChannel = (rooms) =>
    rooms.length === 1 &&
    (mode === "sharded-dynamic-private" || (mode === "sharded-dynamic" && rooms[0].length !== 20));
  const message = (channel, type, data) => [channel, { type, data, nsp: "/" }];
  const operation = (...rest) => message(isLog ? "stream" : MAIN, ...rest);
  const question = (type, data) => message(MAIN, type, { requestId: "id", ...data });
  const answer = (type, data) => message(`${MAIN}${ASKER}#`, type, { requestId: "r", ...data });
  const ask = (type, data) => {
    const message = { type, data: { requestId: "r", ...data }, uid: ASKER, nsp: "/" };
    return [MAIN, isLog ? Buffer.from(msgpack.encode(message)) : JSON.stringify(message)];
  };
  return {
    broadcast: (data, opts) => {
      const content = { packet: event(data), opts };
      return hasChannel(opts.rooms)
        ? message(`${MAIN}${opts.rooms[0]}#`, 3, content)
        : operation(3, content);
    },
    serverEvent: (packet) => operation(9, { packet }),
    join: (rooms, room) => operation(4, { opts: opts(rooms), rooms: [room] }),
    leave: (rooms, room) => operation(5, { opts: opts(rooms), rooms: [room] }),
    disconnect: (rooms, close) => operation(6, { opts: opts(rooms), close }),
    fetch: () => question(7, { opts: opts() }),
    serverQuestion: (packet) => question(9, { packet }),
    question: (data, opts) => question(3, { packet: event(data), opts }),
    sockets: (sockets) => answer(8, { sockets }),
    reply: (packet) => answer(10, { packet }),
    clients: (clientCount) => answer(11, { clientCount }),
    acknowledgement: (packet) => answer(12, { packet }),
    askSockets: () => ask(7, { opts: opts() }),
    askServers: (packet) => ask(9, { packet }),
    askClients: (data) => ask(3, { packet: event(data), opts: opts() }),
  };
}

/** Malformed messages, in JSON, in MessagePack, or in both. */
const GARBAGE = [
  ...["", "{", "[]", "null", "{}", "[".repeat(200_000), '{"type":3}', '{"uid":"e","type":6,"data":[]}'],
  '{"type":3,"uid":"e","nsp":"/","data":{"packet":{},"opts":null}}',
  '{"uid":"e","requestId":5,"type":5,"opts":{}}',
  // Ends too early; longer than its length; deep.
  ...["c1", "ddffffffff", "dfffffffff", "dbffffffff01", "c6ffffffff"].map((hex) => Buffer.from(hex, "hex")),
  ...[0x91, 0x81].map((byte) => Buffer.alloc(200_000, byte)),
  ...[["e", event([])], ["e", event(["x"]), { rooms: 1, except: "x" }], { uid: "e", type: 7 }].map(
    (value) => Buffer.from(msgpack.encode(value)),
  ),
];

describe("wire", { concurrency: 2 }, () => {
  for (const mode of MODES) {
    const form = mode === "classic" ? classic() : clusterAdapter(mode);
    describe(mode, { concurrency: false }, () => tests(mode, form));
  }
});

function tests(mode, form) {
  let redis, rust, client, tap;

  before(async () => {
    redis = await Redis.run();
    rust = await Rust.run(redis, mode);
    client = await connect(rust.url);
    client.on("echo", (name, answer) => answer(VALUES[name]));
    const rooms = [...ROOMS, client.id, ASKER].map((room) => `${MAIN}${room}#`);
    tap = await Tap.run(redis, [MAIN, ...rooms]);
  });

  after(async () => {
    client?.disconnect();
    tap?.close();
    await rust?.kill();
    await redis?.stop();
  });

  /** The next message is this one, but for ids, and for fields that Node's adapters do not know. */
  const publishes = async ([channel, expected], what, adapt = () => {}) => {
    let next = await tap.next();
    // Of a question to which nobody has answered in time.
    while (next.messages.some(([, message]) => message?.type === END)) next = await tap.next();
    assert.equal(next.channel, channel, what);
    for (const [decoder, message] of next.messages) {
      if (Array.isArray(message)) message[0] = typeof message[0] === "string" ? "uid" : message[0];
      else delete message.uid;
      for (const fields of [message, message.data ?? {}]) {
        delete fields.sid;
        if (fields.requestId && fields.requestId !== "r") fields.requestId = "id";
      }
      adapt(message);
      assert.deepEqual(plain(message), plain(expected), `${what}, by ${decoder}`);
    }
  };

  const ask = ([channel, message]) => {
    const publish = mode.includes("sharded") ? "sPublish" : "publish";
    return redis.admin[publish](channel, message);
  };

  test("broadcasts", async () => {
    for (const [name, values] of Object.entries(VALUES)) {
      client.emit("emit", [], [], {}, "event", ...values);
      await publishes(form.broadcast(["event", ...values], opts()), name);
    }
  });

  test("broadcasts to rooms", async () => {
    const targets = [...ROOMS, client.id].map((room) => opts([room]));
    targets.push(opts(["red", "blue"]), opts([], ["red"]), opts(["red"], [client.id], { volatile: true }));
    for (const target of targets) {
      const { rooms, except, flags } = target;
      client.emit("emit", rooms, except, flags, "event", 1);
      await publishes(form.broadcast(["event", 1], target), `to ${rooms}`);
    }
  });

  test("server events", async () => {
    for (const [name, values] of Object.entries(VALUES)) {
      client.emit("server_emit", "event", ...values);
      await publishes(form.serverEvent(["event", ...values]), name);
    }
  });

  test("operations", async () => {
    client.emit("join", [], "red");
    await publishes(form.join([], "red"), "join");
    client.emit("leave", ["red", "blue"], "red");
    await publishes(form.leave(["red", "blue"], "red"), "leave");
    for (const close of [false, true]) {
      client.emit("disconnect_sockets", ["nobody"], close);
      await publishes(form.disconnect(["nobody"], close), "disconnect");
    }
  });

  test("questions", async () => {
    client.emit("fetch", []);
    await publishes(form.fetch(), "fetch");
    client.emit("server_ask", "ask", { a: [1] });
    await publishes(form.serverQuestion(["ask", { a: [1] }]), "server_ask");
    client.emit("ask", ["red"], "ask", { a: [1] }, 1_000);
    // No adapter reads the time that another server waits.
    const target = opts(["red"], [], { timeout: "any" });
    await publishes(form.question(["ask", { a: [1] }], target), "ask", (message) => {
      const { flags } = (message.data ?? message).opts;
      assert.ok(flags.timeout > 0);
      flags.timeout = "any";
    });
  });

  test("answers", async () => {
    await ask(form.askServers(["hey", 1]));
    await publishes(form.reply("rust-pong"), "reply");
    for (const [name, values] of Object.entries(VALUES)) {
      await ask(form.askClients(["echo", name]));
      await publishes(form.clients(1), name);
      await publishes(form.acknowledgement(values), name);
    }
  });

  test("descriptions of sockets", async () => {
    await ask(form.askSockets());
    const url = "/socket.io/?EIO=4&transport=websocket";
    const query = { EIO: "4", transport: "websocket" };
    const times = { time: "time", issued: "issued" };
    const peer = { headers: "headers", address: "127.0.0.1", xdomain: false, secure: false };
    const handshake = { ...peer, ...times, url, query, auth: {} };
    const described = { id: client.id, handshake, rooms: ["room1", client.id], data: { user: "rust" } };
    await publishes(form.sockets([described]), "sockets", (message) => {
      const [socket] = (message.data ?? message).sockets;
      assert.equal(socket.handshake.headers.upgrade, "websocket");
      assert.match(socket.handshake.time, TIME);
      const seconds = [Date.parse(socket.handshake.time), socket.handshake.issued];
      assert.equal(...seconds.map((time) => Math.trunc(time / 1000)));
      Object.assign(socket.handshake, { ...times, headers: "headers" });
      socket.rooms.sort((a, b) => a.length - b.length);
    });
  });

  test("malformed messages do no harm", async () => {
    const channels = [MAIN, REQUESTS, "socket.io-response#/#", `${MAIN}room1#`];
    for (const garbage of GARBAGE) {
      for (const channel of channels) {
        await redis.admin.publish(channel, garbage);
        await redis.admin.sPublish(channel, garbage);
      }
      const data = Buffer.from(garbage).toString("base64");
      for (const entry of [{ nsp: "/" }, { nsp: "/", uid: "e", type: "3", data }]) {
        await redis.admin.xAdd("socket.io", "*", entry);
      }
    }
    const malformed = async () => (await client.emitWithAck("status")).malformed;
    await until(async () => (await malformed()) >= GARBAGE.length / 2, "the count of malformed messages");
    await ask(form.askServers(["hey", 1]));
    while (!(await tap.inbox.take("answer")).channel.includes(ASKER));
  });
}
