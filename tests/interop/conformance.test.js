// Both protocol documents, word by word, in raw frames against the example `conformance`:
// docs/engine.io-protocol/v4-current.md and docs/socket.io-protocol/v5-current.md.

import assert from "node:assert/strict";
import { once } from "node:events";
import http from "node:http";
import { after, before, describe, test } from "node:test";
import { WebSocket } from "ws";
import { Inbox, Server, until, within } from "./support.js";

/** No ping comes during a test, and nothing ends for want of time. */
const CALM = { PING_INTERVAL: 60_000, PING_TIMEOUT: 50_000, CONNECT_TIMEOUT: 60_000 };
/** Pings come often, and there is time for each pong. */
const BEATING = { ...CALM, PING_INTERVAL: 300 };
/** There is little time for a pong, and for the first CONNECT. */
const STRICT = { PING_INTERVAL: 1000, PING_TIMEOUT: 1500, CONNECT_TIMEOUT: 1000 };

const TRANSPORT_UNKNOWN = [400, '{"code":0,"message":"Transport unknown"}'];
const SESSION_UNKNOWN = [400, '{"code":1,"message":"Session ID unknown"}'];
const BAD_METHOD = [400, '{"code":2,"message":"Bad handshake method"}'];
const BAD_REQUEST = [400, '{"code":3,"message":"Bad request"}'];
const UNSUPPORTED_VERSION = [400, '{"code":5,"message":"Unsupported protocol version"}'];
const OK = [200, "ok"];

let calm, beating, strict;
before(async () => {
  const servers = [CALM, BEATING, STRICT].map((env) => Server.run("conformance", 2, env));
  [calm, beating, strict] = await Promise.all(servers);
});
after(() => Promise.all([calm, beating, strict].map((server) => server?.kill())));

const engineOf = (server) => (query) => `${server.ports[0]}/engine.io/${query}`;
const socketioOf = (server) => (query) => `${server.ports[1]}/socket.io/${query}`;
const engine = (query) => engineOf(calm)(query);
const socketio = (query) => socketioOf(calm)(query);

const request = (place, options) => fetch(`http://127.0.0.1:${place}`, options);
const answer = async (response) => [response.status, await response.text()];
const ask = async (place, options) => answer(await request(place, options));

/** A session over HTTP long-polling. */
class Polling {
  static async open(path = engine) {
    const [status, body] = await ask(path("?EIO=4&transport=polling"));
    assert.equal(status, 200);
    assert.equal(body[0], "0");
    return new Polling(path, JSON.parse(body.slice(1)));
  }

  constructor(path, handshake) {
    this.path = path;
    this.handshake = handshake;
    this.place = path(`?EIO=4&transport=polling&sid=${handshake.sid}`);
    this.websocket = path(`?EIO=4&transport=websocket&sid=${handshake.sid}`);
  }

  get() {
    return ask(this.place);
  }

  post(body, headers) {
    return ask(this.place, { method: "POST", body, headers });
  }

  /** The next packets, pings aside, which are answered. */
  async receive() {
    for (;;) {
      const [status, body] = await this.get();
      assert.equal(status, 200, body);
      const packets = body.split("\x1e").filter((packet) => packet !== "2");
      if (packets.length > 0) return packets;
      await this.post("3");
    }
  }

  /**
   * A GET that the server holds, and its abort. Nothing says that a server holds a request; but
   * what it answers on connections that were opened later it has got later.
   */
  async hold() {
    const { request } = sending("GET", this.place);
    const response = new Promise((resolve) => {
      request.once("response", (incoming) => resolve(bodyOf(incoming)));
      request.once("error", () => resolve(undefined));
    });
    request.end();
    await finished(request);
    for (let n = 0; n < 3; n++) {
      const later = sending("GET", this.path("?EIO=4")).request.end();
      await bodyOf((await once(later, "response"))[0]);
    }
    return { response, abort: () => request.destroy() };
  }

  /** Resolves when the session is gone. */
  async closed() {
    await until(async () => {
      const [status, body] = await this.post("3");
      if (status === 200) return false;
      assert.deepEqual([status, body], SESSION_UNKNOWN);
      return true;
    }, "end of the session");
  }
}

function sending(method, place, headers = {}) {
  const request = http.request(`http://127.0.0.1:${place}`, { method, headers, agent: false });
  return { request };
}

async function finished(request) {
  if (!request.writableFinished) await once(request, "finish");
}

async function bodyOf(incoming) {
  let body = "";
  for await (const chunk of incoming) body += chunk;
  return [incoming.statusCode, body];
}

/** A WebSocket whose messages and close are taken one by one. */
class Socket {
  static async open(place) {
    const socket = new Socket(place);
    await within(socket.opened, "open WebSocket");
    return socket;
  }

  constructor(place) {
    this.inbox = new Inbox();
    this.raw = new WebSocket(`ws://127.0.0.1:${place}`);
    this.raw.on("message", (data, isBinary) => this.inbox.push(isBinary ? data : data.toString()));
    this.raw.on("error", () => {});
    this.opened = new Promise((resolve) => this.raw.once("open", resolve));
    this.end = new Promise((resolve) => this.raw.once("close", resolve));
  }

  send(...messages) {
    messages.forEach((message) => this.raw.send(message));
  }

  /** The next message, a ping too. */
  next(what) {
    return this.inbox.take(what);
  }

  /** The next message that is no ping; pings are answered. */
  async receive(what) {
    for (;;) {
      const message = await this.next(what);
      if (message !== "2") return message;
      this.send("3");
    }
  }

  closed() {
    return within(this.end, "close of the WebSocket");
  }

  close() {
    this.raw.close();
    return this.closed();
  }
}

/** A session over WebSocket. */
async function openWebSocket(path = engine) {
  const socket = await Socket.open(path("?EIO=4&transport=websocket"));
  const open = await socket.next("open packet");
  assert.equal(open[0], "0");
  socket.handshake = JSON.parse(open.slice(1));
  return socket;
}

/** A Socket.IO connection over WebSocket that has joined the main namespace. */
async function connect(path = socketio) {
  const socket = await openWebSocket(path);
  socket.send("40");
  assert.match(await socket.receive(), /^40\{"sid":"[^"]+"\}$/);
  assert.equal(await socket.receive(), '42["auth",{}]');
  return socket;
}

/** What the upgrade request is answered when it is refused. */
async function refusal(place) {
  const raw = new WebSocket(`ws://127.0.0.1:${place}`);
  raw.on("error", () => {});
  const refused = new Promise((resolve) => {
    raw.once("unexpected-response", (_, response) => resolve(response.statusCode));
    raw.once("close", () => resolve("closed"));
  });
  return within(refused, "refusal");
}

describe("Engine.IO: handshake", () => {
  const KEYS = ["sid", "upgrades", "pingInterval", "pingTimeout", "maxPayload"];

  test("by polling", async () => {
    const response = await request(engine("?EIO=4&transport=polling"));
    assert.match(response.headers.get("content-type"), /^text\/plain; charset=utf-8$/i);
    const [status, body] = await answer(response);
    assert.equal(status, 200);
    assert.equal(body[0], "0");
    const { sid, ...rest } = JSON.parse(body.slice(1));
    assert.match(sid, /^[\w-]{20,}$/);
    assert.deepEqual(rest, {
      upgrades: ["websocket"],
      pingInterval: CALM.PING_INTERVAL,
      pingTimeout: CALM.PING_TIMEOUT,
      maxPayload: 1_000_000,
    });
    assert.deepEqual(Object.keys(JSON.parse(body.slice(1))), KEYS);
  });

  test("by websocket, from where there is no upgrade", async () => {
    const { handshake } = await openWebSocket();
    assert.deepEqual(Object.keys(handshake), KEYS);
    assert.deepEqual(handshake.upgrades, []);
    assert.equal(handshake.pingInterval, CALM.PING_INTERVAL);
    assert.equal(handshake.pingTimeout, CALM.PING_TIMEOUT);
    assert.equal(handshake.maxPayload, 1_000_000);
  });

  test("each session has an id of its own", async () => {
    const all = await Promise.all(Array.from({ length: 20 }, () => Polling.open()));
    assert.equal(new Set(all.map(({ handshake }) => handshake.sid)).size, 20);
  });

  const REFUSED = {
    "?transport=polling": UNSUPPORTED_VERSION,
    "?EIO=abc&transport=polling": UNSUPPORTED_VERSION,
    "?EIO=3&transport=polling": UNSUPPORTED_VERSION,
    "": TRANSPORT_UNKNOWN,
    "?EIO=4": TRANSPORT_UNKNOWN,
    "?EIO=4&transport=abc": TRANSPORT_UNKNOWN,
    "?EIO=4&transport=__proto__": TRANSPORT_UNKNOWN,
    "?EIO=4&transport=polling&sid=abc": SESSION_UNKNOWN,
    "?EIO=4&transport=websocket": BAD_REQUEST,
  };
  for (const [query, expected] of Object.entries(REFUSED)) {
    test(`GET ${query || "without a query"} is refused: ${expected[1]}`, async () => {
      const response = await request(engine(query));
      assert.match(response.headers.get("content-type"), /^application\/json/);
      assert.deepEqual(await answer(response), expected);
    });
  }

  for (const method of ["POST", "PUT", "DELETE"]) {
    test(`${method} without a session is refused`, async () => {
      const options = { method, body: method === "POST" ? "4x" : undefined };
      assert.deepEqual(await ask(engine("?EIO=4&transport=polling"), options), BAD_METHOD);
    });
  }

  test("a WebSocket without a protocol version, transport or known session is refused", async () => {
    const queries = [
      "?transport=websocket",
      "?EIO=abc&transport=websocket",
      "?EIO=4",
      "?EIO=4&transport=abc",
      "?EIO=4&transport=websocket&sid=abc",
    ];
    for (const query of queries) {
      assert.ok([400, "closed"].includes(await refusal(engine(query))), query);
    }
  });
});

describe("Engine.IO: messages by polling", () => {
  test("one packet", async () => {
    const session = await Polling.open();
    assert.deepEqual(await session.post("4hello"), OK);
    assert.deepEqual(await session.get(), [200, "4hello"]);
  });

  test("several packets go and come in one payload", async () => {
    const session = await Polling.open();
    assert.deepEqual(await session.post("4one\x1e4two\x1e4three"), OK);
    assert.deepEqual(await session.get(), [200, "4one\x1e4two\x1e4three"]);
  });

  test("text and bytes in one payload", async () => {
    const session = await Polling.open();
    assert.deepEqual(await session.post("4hello\x1ebAQIDBA=="), OK);
    assert.deepEqual(await session.get(), [200, "4hello\x1ebAQIDBA=="]);
  });

  test("text beyond ASCII", async () => {
    const session = await Polling.open();
    const text = "4été ☃ 😀 \u2028";
    assert.deepEqual(await session.post(text), OK);
    assert.deepEqual(await session.get(), [200, text]);
  });

  test("a GET is held until there is a packet", async () => {
    const session = await Polling.open();
    const held = await session.hold();
    assert.deepEqual(await session.post("4late"), OK);
    assert.deepEqual(await held.response, [200, "4late"]);
  });

  test("a POST in chunks, in the middle of a character", async () => {
    const session = await Polling.open();
    const { request } = sending("POST", session.place, { Expect: "100-continue" });
    const response = once(request, "response");
    request.flushHeaders();
    await within(once(request, "continue"), "100 Continue");
    const body = Buffer.from("4a€b");
    request.write(body.subarray(0, 3));
    request.end(body.subarray(3));
    assert.deepEqual(await bodyOf((await response)[0]), OK);
    assert.deepEqual(await session.get(), [200, "4a€b"]);
  });

  test("a payload over the limit is refused, and the session stays", async () => {
    const session = await Polling.open();
    const [status] = await session.post("4" + "x".repeat(1_000_000));
    assert.equal(status, 413);
    assert.deepEqual(await session.post("4small"), OK);
    assert.deepEqual(await session.receive(), ["4small"]);
  });

  test("bytes as the body itself are not part of version 4", async () => {
    const session = await Polling.open();
    const headers = { "content-type": "application/octet-stream" };
    assert.equal((await session.post(Buffer.from([4, 1, 2]), headers))[0], 400);
    await session.closed();
  });

  for (const packet of ["abc", "", "4a\x1eabc", "2"]) {
    test(`${JSON.stringify(packet)} is not a packet for a server: the session ends`, async () => {
      const session = await Polling.open();
      await session.post(packet);
      await session.closed();
    });
  }

  test("a POST for an unknown session", async () => {
    const place = engine("?EIO=4&transport=polling&sid=abc");
    assert.deepEqual(await ask(place, { method: "POST", body: "4x" }), SESSION_UNKNOWN);
  });

  test("two GETs at a time end the session", async () => {
    const session = await Polling.open();
    const both = await Promise.all([session.get(), session.get()]);
    const statuses = both.map(([status]) => status).sort();
    assert.deepEqual(statuses, [200, 400]);
    assert.equal(both.find(([status]) => status === 200)[1], "1");
    assert.deepEqual(await session.get(), SESSION_UNKNOWN);
  });

  test("two POSTs at a time end the session", async () => {
    const session = await Polling.open();
    const { request } = sending("POST", session.place, { Expect: "100-continue" });
    request.on("error", () => {});
    request.flushHeaders();
    await within(once(request, "continue"), "100 Continue");
    request.write("4fir");
    assert.equal((await session.post("4second"))[0], 400);
    request.destroy();
    await session.closed();
  });

  test("a GET that its client aborts ends the session", async () => {
    const session = await Polling.open();
    const held = await session.hold();
    held.abort();
    await session.closed();
  });
});

describe("Engine.IO: messages by websocket", () => {
  test("text", async () => {
    const socket = await openWebSocket();
    socket.send("4hello", "4", "4été ☃ 😀");
    assert.equal(await socket.receive(), "4hello");
    assert.equal(await socket.receive(), "4");
    assert.equal(await socket.receive(), "4été ☃ 😀");
  });

  test("bytes, as they are", async () => {
    const socket = await openWebSocket();
    const bytes = Buffer.from([0, 1, 2, 3, 4, 255]);
    socket.send(bytes);
    assert.deepEqual(await socket.receive(), bytes);
  });

  test("a hundred in a row keep their order", async () => {
    const socket = await openWebSocket();
    for (let n = 0; n < 100; n++) socket.send(`4${n}`);
    for (let n = 0; n < 100; n++) assert.equal(await socket.receive(), `4${n}`);
  });

  test("a message over the limit closes with 1009", async () => {
    const socket = await openWebSocket();
    socket.send("4" + "x".repeat(1_000_000));
    assert.equal(await socket.closed(), 1009);
  });

  for (const packet of ["abc", "2"]) {
    test(`${packet} is not a packet for a server: the connection closes`, async () => {
      const socket = await openWebSocket();
      socket.send(packet);
      await socket.closed();
    });
  }
});

describe("Engine.IO: heartbeat", () => {
  test("by polling: pings that are answered keep the session", async () => {
    const session = await Polling.open(engineOf(beating));
    for (let n = 0; n < 3; n++) {
      assert.deepEqual(await session.get(), [200, "2"]);
      assert.deepEqual(await session.post("3"), OK);
    }
    assert.deepEqual(await session.post("4still here"), OK);
    assert.deepEqual(await session.receive(), ["4still here"]);
  });

  test("by websocket: pings come at the interval", async () => {
    const begin = performance.now();
    const socket = await openWebSocket(engineOf(beating));
    for (let n = 1; n <= 3; n++) {
      assert.equal(await socket.next("ping"), "2");
      const passed = performance.now() - begin;
      assert.ok(passed > n * BEATING.PING_INTERVAL - 5, `ping ${n} after ${passed} ms`);
      socket.send("3");
    }
    socket.send("4still here");
    assert.equal(await socket.receive(), "4still here");
  });

  test("by polling: without a pong the session ends", async () => {
    const session = await Polling.open(engineOf(strict));
    assert.deepEqual(await session.get(), [200, "2"]);
    const [status, body] = await session.get();
    if (status === 200) assert.equal(body, "1");
    assert.deepEqual(await session.get(), SESSION_UNKNOWN);
  });

  test("by websocket: without a pong the connection closes, messages do not count", async () => {
    const begin = performance.now();
    const socket = await openWebSocket(engineOf(strict));
    const talk = setInterval(() => socket.send("4x"), 20);
    await socket.closed();
    clearInterval(talk);
    const passed = performance.now() - begin;
    const { PING_INTERVAL, PING_TIMEOUT } = STRICT;
    assert.ok(passed > PING_INTERVAL + PING_TIMEOUT - 5, `closed after ${passed} ms`);
  });
});

describe("Engine.IO: close", () => {
  test("by polling: the pending GET is answered, then the session is unknown", async () => {
    const session = await Polling.open();
    const held = await session.hold();
    assert.deepEqual(await session.post("1"), OK);
    assert.deepEqual(await held.response, [200, "6"]);
    assert.deepEqual(await session.get(), SESSION_UNKNOWN);
  });

  test("by websocket: a close packet ends the connection", async () => {
    const socket = await openWebSocket();
    socket.send("1");
    await socket.closed();
  });

  test("by websocket: the client's close is answered", async () => {
    const socket = await openWebSocket();
    await socket.close();
  });
});

describe("Engine.IO: upgrade", () => {
  async function probe(session) {
    const socket = await Socket.open(session.websocket);
    socket.send("2probe");
    assert.equal(await socket.next("answer to the probe"), "3probe");
    return socket;
  }

  test("from polling to websocket", async () => {
    const session = await Polling.open();
    const socket = await probe(session);
    socket.send("5", "4hello");
    assert.equal(await socket.receive(), "4hello");
  });

  test("a pending GET is released by the probe", async () => {
    const session = await Polling.open();
    const held = await session.hold();
    const socket = await probe(session);
    assert.deepEqual(await held.response, [200, "6"]);
    socket.send("5", "4hello");
    assert.equal(await socket.receive(), "4hello");
  });

  test("packets sent by polling before it are received after it", async () => {
    const session = await Polling.open();
    assert.deepEqual(await session.post("4before"), OK);
    const socket = await probe(session);
    socket.send("5", "4after");
    assert.equal(await socket.receive(), "4before");
    assert.equal(await socket.receive(), "4after");
  });

  test("polling is over after it", async () => {
    const session = await Polling.open();
    const socket = await probe(session);
    socket.send("5", "4hello");
    assert.equal(await socket.receive(), "4hello");
    assert.deepEqual(await session.get(), BAD_REQUEST);
    assert.deepEqual(await session.post("4x"), BAD_REQUEST);
    socket.send("4still");
    assert.equal(await socket.receive(), "4still");
  });

  test("a second WebSocket is closed, during it and after it", async () => {
    const session = await Polling.open();
    const socket = await probe(session);
    const during = new Socket(session.websocket);
    await during.closed();
    socket.send("5", "4hello");
    assert.equal(await socket.receive(), "4hello");
    const after = new Socket(session.websocket);
    await after.closed();
    socket.send("4still");
    assert.equal(await socket.receive(), "4still");
  });

  for (const packet of ["4hello", "2", "abc"]) {
    test(`${packet} instead of the probe closes the WebSocket, not the session`, async () => {
      const session = await Polling.open();
      const socket = await Socket.open(session.websocket);
      socket.send(packet);
      await socket.closed();
      assert.deepEqual(await session.post("4by polling"), OK);
      assert.deepEqual(await session.receive(), ["4by polling"]);
    });
  }

  test("a WebSocket that goes away after the probe leaves polling as it was", async () => {
    const session = await Polling.open();
    const socket = await probe(session);
    await socket.close();
    assert.deepEqual(await session.post("4by polling"), OK);
    const got = (await session.receive()).filter((packet) => packet !== "6");
    assert.deepEqual(got.length ? got : await session.receive(), ["4by polling"]);
  });

  test("the heartbeat goes on after it", async () => {
    const session = await Polling.open(engineOf(strict));
    const socket = await probe(session);
    socket.send("5");
    for (let n = 0; n < 2; n++) {
      assert.equal(await socket.next("ping"), "2");
      socket.send("3");
    }
    assert.equal(await socket.next("ping"), "2");
    await socket.closed();
  });

  test("a session that began by websocket has no polling", async () => {
    const { handshake } = await openWebSocket();
    const place = engine(`?EIO=4&transport=polling&sid=${handshake.sid}`);
    assert.deepEqual(await ask(place), BAD_REQUEST);
  });
});

describe("Socket.IO: connect", () => {
  test("to the main namespace; then the server's first event", async () => {
    const socket = await openWebSocket(socketio);
    socket.send("40");
    const { sid, ...rest } = JSON.parse((await socket.receive()).slice(2));
    assert.equal(typeof sid, "string");
    assert.notEqual(sid, socket.handshake.sid);
    assert.deepEqual(rest, {});
    assert.equal(await socket.receive(), '42["auth",{}]');
  });

  test("with a payload", async () => {
    const socket = await openWebSocket(socketio);
    socket.send('40{"token":"123","z":1,"a":[2]}');
    assert.match(await socket.receive(), /^40\{"sid":"[^"]+"\}$/);
    assert.equal(await socket.receive(), '42["auth",{"token":"123","z":1,"a":[2]}]');
  });

  for (const name of ["/custom", "/custom,"]) {
    test(`to another namespace, written 40${name}`, async () => {
      const socket = await openWebSocket(socketio);
      socket.send(`40${name}`);
      assert.match(await socket.receive(), /^40\/custom,\{"sid":"[^"]+"\}$/);
      assert.equal(await socket.receive(), '42/custom,["auth",{}]');
    });
  }

  test("to another namespace with a payload", async () => {
    const socket = await openWebSocket(socketio);
    socket.send('40/custom,{"token":"abc"}');
    assert.match(await socket.receive(), /^40\/custom,\{"sid":"[^"]+"\}$/);
    assert.equal(await socket.receive(), '42/custom,["auth",{"token":"abc"}]');
  });

  test("to two namespaces on one connection, with an id each", async () => {
    const socket = await connect();
    socket.send("40/custom,");
    const custom = await socket.receive();
    assert.match(custom, /^40\/custom,/);
    assert.equal(await socket.receive(), '42/custom,["auth",{}]');
    socket.send('42["message",1]');
    assert.equal(await socket.receive(), '42["message-back",1]');
  });

  test("to an unknown namespace is refused, and the connection stays", async () => {
    const socket = await openWebSocket(socketio);
    socket.send("40/random");
    assert.equal(await socket.receive(), '44/random,{"message":"Invalid namespace"}');
    socket.send("40");
    assert.match(await socket.receive(), /^40\{"sid"/);
  });

  test("by polling", async () => {
    const session = await Polling.open(socketio);
    assert.deepEqual(await session.post("40"), OK);
    let packets = [];
    while (packets.length < 2) packets.push(...(await session.receive()));
    assert.match(packets[0], /^40\{"sid":"[^"]+"\}$/);
    assert.equal(packets[1], '42["auth",{}]');
  });

  test("must come in time", async () => {
    const begin = performance.now();
    const socket = await openWebSocket(socketioOf(strict));
    // So that it is not closed for want of a pong.
    socket.raw.on("message", () => socket.send("3"));
    await socket.closed();
    const passed = performance.now() - begin;
    assert.ok(passed > STRICT.CONNECT_TIMEOUT - 5, `closed after ${passed} ms`);
  });
});

describe("Socket.IO: disconnect", () => {
  test("from the only namespace keeps the connection", async () => {
    const socket = await connect(socketioOf(beating));
    socket.send("41");
    assert.equal(await socket.next("ping"), "2");
  });

  test("and connect again: another id", async () => {
    const socket = await openWebSocket(socketio);
    socket.send("40");
    const first = await socket.receive();
    await socket.receive();
    socket.send("41", "40");
    const second = await socket.receive();
    assert.match(second, /^40\{"sid"/);
    assert.notEqual(second, first);
  });

  test("from one namespace leaves the other", async () => {
    const socket = await connect();
    socket.send("40/custom");
    await socket.receive();
    await socket.receive();
    socket.send("41/custom,", '42["message","still here"]');
    assert.equal(await socket.receive(), '42["message-back","still here"]');
  });
});

describe("Socket.IO: events and acknowledgements", () => {
  const TEXT = [
    ["an event", '42["message",1,"2",{"3":[true]}]', '42["message-back",1,"2",{"3":[true]}]'],
    ["no arguments", '42["message"]', '42["message-back"]'],
    ["the namespace written out", '42/,["message",1]', '42["message-back",1]'],
    ["numbers as they were sent", '42["message",1.5,-3,1e21]', '42["message-back",1.5,-3,1e+21]'],
    ["keys in their order", '42["message",{"z":1,"a":2}]', '42["message-back",{"z":1,"a":2}]'],
    ["an acknowledgement", '42456["message-with-ack",1,"2"]', '43456[1,"2"]'],
    ["an acknowledgement of id 0", '420["message-with-ack"]', "430[]"],
  ];
  for (const [what, sent, expected] of TEXT) {
    test(what, async () => {
      const socket = await connect();
      socket.send(sent);
      const got = await socket.receive();
      // A number may be written another way if it is the same.
      const [head, json] = [expected.match(/^[^[]*/)[0], expected.replace(/^[^[]*/, "")];
      assert.equal(got.slice(0, head.length), head);
      assert.equal(JSON.stringify(JSON.parse(got.slice(head.length))), json);
    });
  }

  const placeholder = (num) => `{"_placeholder":true,"num":${num}}`;

  test("bytes", async () => {
    const socket = await connect();
    const [one, two] = [Buffer.from([1, 2, 3]), Buffer.from([4, 5])];
    socket.send(`452-["message",${placeholder(0)},{"a":[${placeholder(1)}]}]`, one, two);
    const expected = `452-["message-back",${placeholder(0)},{"a":[${placeholder(1)}]}]`;
    assert.equal(await socket.receive(), expected);
    assert.deepEqual(await socket.receive(), one);
    assert.deepEqual(await socket.receive(), two);
  });

  test("bytes with an acknowledgement", async () => {
    const socket = await connect();
    const bytes = Buffer.from([1, 2, 3]);
    socket.send(`451-789["message-with-ack",${placeholder(0)}]`, bytes);
    assert.equal(await socket.receive(), `461-789[${placeholder(0)}]`);
    assert.deepEqual(await socket.receive(), bytes);
  });

  test("bytes by polling", async () => {
    const session = await Polling.open(socketio);
    assert.deepEqual(await session.post("40"), OK);
    const packets = [];
    while (packets.length < 2) packets.push(...(await session.receive()));
    assert.deepEqual(await session.post(`451-["message",${placeholder(0)}]\x1ebAQID`), OK);
    while (packets.length < 4) packets.push(...(await session.receive()));
    assert.deepEqual(packets.slice(2), [`451-["message-back",${placeholder(0)}]`, "bAQID"]);
  });

  test("an unexpected acknowledgement is ignored", async () => {
    const socket = await connect();
    socket.send("4399[1]", '42["message"]');
    assert.equal(await socket.receive(), '42["message-back"]');
  });
});

describe("Socket.IO: violations close the connection", () => {
  const BEFORE_CONNECT = ['42["message"]', "41", "430[]", "4abc", "4", '44{"message":"x"}'];
  for (const packet of BEFORE_CONNECT) {
    test(`${packet} before CONNECT`, async () => {
      const socket = await openWebSocket(socketio);
      socket.send(packet);
      await socket.closed();
    });
  }

  const AFTER_CONNECT = [
    "4abc",
    "4",
    "47",
    "40",
    "40[]",
    '41{"x":1}',
    "42{}",
    "42[]",
    "42[{}]",
    '42["x"',
    "42abc[]",
    '42abc["message-with-ack"]',
    '42["disconnect"]',
    "430{}",
    '44{"message":"x"}',
    '42/custom,["message"]',
    '45-["message"]',
    '45x-["message"]',
  ];
  for (const packet of AFTER_CONNECT) {
    test(packet, async () => {
      const socket = await connect();
      socket.send(packet);
      await socket.closed();
    });
  }

  test("bytes that no event has announced", async () => {
    const socket = await connect();
    socket.send(Buffer.from([1]));
    await socket.closed();
  });

  test("text where bytes were announced", async () => {
    const socket = await connect();
    socket.send('451-["message",{"_placeholder":true,"num":0}]', '42["message"]');
    await socket.closed();
  });

  test("a placeholder for bytes that do not come", async () => {
    const socket = await connect();
    socket.send('451-["message",{"_placeholder":true,"num":1}]', Buffer.from([1]));
    await socket.closed();
  });
});
