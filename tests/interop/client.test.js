// The official client in Node against the example `echo`.

import assert from "node:assert/strict";
import { once } from "node:events";
import { after, before, describe, test } from "node:test";
import { io } from "socket.io-client";
import { Inbox, PATIENCE, Server, within } from "./support.js";

const WAYS = {
  "polling only": { transports: ["polling"] },
  "websocket only": { transports: ["websocket"] },
  "polling, then websocket": {},
};

const VALUES = {
  null: null,
  true: true,
  false: false,
  zero: 0,
  "a negative number": -17,
  "a fraction": 0.1,
  "a large integer": Number.MAX_SAFE_INTEGER,
  "an exponent": 1e300,
  "an empty string": "",
  "a string": "hello",
  "every plane of Unicode": "aé€😀\u2028\u2029\u0000\u001e\uffff",
  "quotes and backslashes": "\"\\/\b\f\n\r\t",
  "an empty list": [],
  "an empty object": {},
  "a nested list": [1, "2", [3, [4, { five: [null, true] }]]],
  "a nested object": { a: { b: { c: { d: [1, { e: "f" }] } } }, "ключ": "значение", "": 0 },
  "numbers as keys": { 1: "one", 0: "zero", "-1": "minus one" },
  "dangerous keys": JSON.parse('{"__proto__":{"x":1},"constructor":2}'),
  "what looks like a placeholder's key": { num: 0, placeholder: true },
  "a long string": "x".repeat(100_000),
};

const bytes = (...values) => Buffer.from(values);

const BINARY = {
  "bytes alone": bytes(1, 2, 3, 4),
  "no bytes": bytes(),
  "all byte values": Buffer.from(Array.from({ length: 256 }, (_, i) => i)),
  "bytes in an object": { name: "a.png", data: bytes(0, 255) },
  "bytes deep inside": { a: [{ b: { c: [bytes(1), "text", bytes(2)] } }], d: bytes(3) },
  "a list of bytes": [bytes(1), bytes(2), bytes(3), bytes(4), bytes(5)],
  "200 kB": Buffer.alloc(200_000, 7),
};

const open = new Set();
let server;

before(async () => (server = await Server.run("echo")));
after(() => server?.kill());
test.afterEach(() => {
  open.forEach((socket) => socket.disconnect());
  open.clear();
});

function client(options, url = server.url) {
  const socket = io(url, { forceNew: true, reconnectionDelay: 50, reconnectionDelayMax: 100, ...options });
  open.add(socket);
  return socket;
}

async function connected(options) {
  const socket = client(options);
  await event(socket, "connect");
  return socket;
}

async function event(socket, name) {
  const wait = new Promise((resolve) => socket.once(name, (...args) => resolve(args)));
  return within(wait, `event ${name}`);
}

const ask = (socket, ...args) => socket.timeout(PATIENCE).emitWithAck(...args);

for (const [way, options] of Object.entries(WAYS)) {
  describe(way, () => {
    test("connects, with an id that is not the session's", async () => {
      const socket = await connected(options);
      assert.match(socket.id, /^[\w-]{20}$/);
      assert.notEqual(socket.id, socket.io.engine.id);
    });

    test("JSON of all kinds is echoed unchanged", async () => {
      const socket = await connected(options);
      for (const [kind, value] of Object.entries(VALUES)) {
        assert.deepEqual(await ask(socket, "echo", value), value, kind);
      }
    });

    for (const event of ["echo", "echo-bin"]) {
      test(`${event}: bytes come back wherever they stand`, async () => {
        const socket = await connected(options);
        for (const [kind, value] of Object.entries(BINARY)) {
          assert.deepEqual(await ask(socket, event, value), value, kind);
        }
      });
    }

    test("typed arrays and array buffers arrive as bytes", async () => {
      const socket = await connected(options);
      const array = new Uint8Array([9, 8, 7]);
      assert.deepEqual(await ask(socket, "echo", { array }), { array: bytes(9, 8, 7) });
      assert.deepEqual(await ask(socket, "echo", array.buffer), bytes(9, 8, 7));
      const part = new Uint8Array([0, 1, 2, 3]).subarray(1, 3);
      assert.deepEqual(await ask(socket, "echo", part), bytes(1, 2));
    });

    test("a broadcast reaches every client", async () => {
      const all = await Promise.all([1, 2, 3].map(() => connected(options)));
      const heard = all.map((socket) => event(socket, "broadcast"));
      all[1].emit("broadcast", { n: 1, data: bytes(1, 2) });
      for (const args of await Promise.all(heard)) {
        assert.deepEqual(args, [{ n: 1, data: bytes(1, 2) }]);
      }
    });

    test("a room's event reaches its members only", async () => {
      const [a, b, stranger] = await Promise.all([1, 2, 3].map(() => connected(options)));
      const room = `room of ${way}`;
      await Promise.all([ask(a, "join", room), ask(b, "join", room)]);
      const strangers = [];
      stranger.on("room", (data) => strangers.push(data));
      const heard = event(b, "room");
      a.emit("room", room, { text: "psst" });
      assert.deepEqual(await heard, [{ text: "psst" }]);
      // What everybody hears comes after what the stranger must not have heard.
      const last = event(stranger, "broadcast");
      a.emit("broadcast", "last");
      await last;
      assert.deepEqual(strangers, []);
    });

    test("2000 events are acknowledged in order, bytes among them", async () => {
      // Emitted before the connection stands, they cross the upgrade if there is one.
      const socket = client(options);
      const order = [];
      const answers = [];
      for (let n = 0; n < 2000; n++) {
        const sent = n % 10 === 0 ? { n, data: bytes(n % 256) } : n;
        const answer = ask(socket, "echo", sent).then((got) => {
          order.push(n);
          assert.deepEqual(got, sent);
        });
        answers.push(answer);
      }
      await Promise.all(answers);
      assert.deepEqual(order, Array.from({ length: 2000 }, (_, n) => n));
    });

    test("reconnects after a disconnect, with another id", async () => {
      const socket = await connected(options);
      const { id } = socket;
      const gone = event(socket, "disconnect");
      socket.disconnect();
      assert.deepEqual((await gone)[0], "io client disconnect");
      socket.connect();
      await event(socket, "connect");
      assert.notEqual(socket.id, id);
      assert.equal(await ask(socket, "echo", "again"), "again");
    });

    test("reconnects by itself after the server has crashed", async () => {
      const other = await Server.run("echo");
      try {
        const socket = client(options, other.url);
        await event(socket, "connect");
        const gone = event(socket, "disconnect");
        await other.kill();
        assert.match((await gone)[0], /^transport (close|error)$/);
        const sent = ask(socket, "echo", "kept while away");
        await Promise.all([event(socket, "connect"), other.start()]);
        assert.equal(await sent, "kept while away");
      } finally {
        await other.kill();
      }
    });
  });
}

describe("the upgrade", () => {
  const upgraded = (socket) => within(once(socket.io.engine, "upgrade"), "upgrade");

  test("completes, and polling ends", async () => {
    const socket = client({});
    await event(socket, "connect");
    if (socket.io.engine.transport.name === "polling") await upgraded(socket);
    assert.equal(socket.io.engine.transport.name, "websocket");
    assert.equal(await ask(socket, "echo", "over websocket"), "over websocket");
  });

  test("neither loses nor reorders events that are sent during it", async () => {
    const socket = client({});
    await event(socket, "connect");
    const got = new Inbox();
    socket.on("broadcast", (n) => got.push(n));
    let sent = 0;
    // A few in each turn of the loop, until the upgrade is done and 2000 are sent.
    const done = new Promise((resolve) => {
      const more = () => {
        for (let i = 0; i < 20; i++) socket.emit("broadcast", sent++);
        const websocket = socket.io.engine.transport.name === "websocket";
        if (websocket && sent >= 2000) return resolve();
        setImmediate(more);
      };
      more();
    });
    await within(done, "upgrade");
    for (let n = 0; n < sent; n++) assert.equal(await got.take(`number ${n}`), n);
  });

  test("clients of all three kinds receive each other's events", async () => {
    const all = await Promise.all(Object.values(WAYS).map(connected));
    for (const speaker of all) {
      const heard = all.map((socket) => event(socket, "broadcast"));
      speaker.emit("broadcast", speaker.id);
      for (const args of await Promise.all(heard)) assert.deepEqual(args, [speaker.id]);
    }
  });

  test("thirty clients at a time", async () => {
    const all = await Promise.all(Array.from({ length: 30 }, () => connected({})));
    const answers = all.map((socket, n) => ask(socket, "echo", n));
    assert.deepEqual(await Promise.all(answers), all.map((_, n) => n));
    const heard = all.map((socket) => event(socket, "broadcast"));
    all[0].emit("broadcast", "all");
    await Promise.all(heard);
  });
});
