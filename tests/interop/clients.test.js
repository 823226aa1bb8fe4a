// Clients of version 3 and 4, with each parser, against the example `interop`.

import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { after, before, describe, test } from "node:test";
import { io as version4 } from "socket.io-client";
import { io as version3 } from "socket.io-client-v3";
import msgpack from "socket.io-msgpack-parser";
import { Server, until, within } from "./support.js";

const VERSIONS = { "version 4": version4, "version 3": version3 };

const WAYS = {
  "polling only": { transports: ["polling"] },
  "websocket only": { transports: ["websocket"] },
  "polling, then websocket": {},
};

/** A parser of one's own: each packet is a JSON object. */
const objects = {
  Encoder: class {
    encode({ type, nsp, id, data }) {
      return [JSON.stringify({ type, nsp, id, data })];
    }
  },
  Decoder: class extends EventEmitter {
    add(chunk) {
      this.emit("decoded", JSON.parse(chunk));
    }
    destroy() {}
  },
};

// Each with its place among the ports of the example.
const PARSERS = {
  "the default parser": { port: 0, options: {} },
  MessagePack: { port: 1, options: { parser: msgpack } },
};

const bytes = (...values) => Buffer.from(values);

const open = new Set();
let server;

before(async () => (server = await Server.run("interop", 3)));
after(() => server?.kill());
test.afterEach(() => {
  open.forEach((socket) => socket.disconnect());
  open.clear();
});

const url = (port, namespace = "/", at = server) => `http://127.0.0.1:${at.ports[port]}${namespace}`;

/** Opens sockets of one version, way and parser. */
function opener(io, parser, way) {
  const options = { forceNew: true, reconnectionDelay: 50, reconnectionDelayMax: 100 };
  return (namespace, more, at) => {
    const to = url(parser.port, namespace, at);
    const socket = io(to, { ...options, ...parser.options, ...way, ...more });
    open.add(socket);
    return socket;
  };
}

function event(socket, name) {
  const wait = new Promise((resolve) => socket.once(name, (...args) => resolve(args)));
  return within(wait, `event ${name}`);
}

function ask(socket, ...args) {
  const answer = new Promise((resolve) => socket.emit(...args, (...answer) => resolve(answer)));
  return within(answer, `answer to ${args[0]}`);
}

/** Whether the way has been gone to its end. */
async function settled(socket, way) {
  if (way.transports) return;
  await until(() => socket.io.engine.transport.name === "websocket", "upgrade");
}

for (const [version, io] of Object.entries(VERSIONS))
  for (const [parser, known] of Object.entries(PARSERS))
    for (const [wayName, way] of Object.entries(WAYS))
      describe(`${version}, ${parser}, ${wayName}`, () => {
        const connect = opener(io, known, way);

        async function connected(namespace, more) {
          const socket = connect(namespace, more);
          await event(socket, "connect");
          await settled(socket, way);
          return socket;
        }

        test("connects with a query and credentials", async () => {
          const auth = { token: "é", deep: [1, { two: null }] };
          const socket = connect("/", { auth, query: { a: "1 & 2" } });
          const [welcome] = await event(socket, "welcome");
          assert.deepEqual(welcome.auth, auth);
          assert.equal(welcome.query.a, "1 & 2");
          assert.match(socket.id, /^[\w-]{20}$/);
          await settled(socket, way);
          assert.deepEqual(await ask(socket, "echo", "there"), ["there"]);
        });

        test("credentials may come from a function, or be none", async () => {
          const named = connect("/", { auth: (give) => give({ from: "function" }) });
          assert.deepEqual((await event(named, "welcome"))[0].auth, { from: "function" });
          const none = connect("/");
          assert.deepEqual((await event(none, "welcome"))[0].auth, {});
        });

        test("namespaces share a connection", async () => {
          const main = await connected("/");
          const [chat, room] = ["/chat", "/rooms/a"].map((name) => main.io.socket(name));
          for (const socket of [chat, room]) if (!socket.active) socket.connect();
          open.add(chat).add(room);
          await Promise.all([chat, room].map((socket) => event(socket, "connect")));
          assert.deepEqual(await ask(room, "where"), ["a"]);
          assert.deepEqual(await ask(chat, "echo", 1), [1]);
          const heard = event(chat, "back");
          main.emit("back", "main");
          chat.emit("back", "chat");
          assert.deepEqual(await heard, ["chat"]);
          chat.disconnect();
          assert.deepEqual(await ask(main, "echo", 2), [2]);
        });

        test("acknowledges and emits values of all kinds", async () => {
          const socket = await connected("/");
          const values = [
            [],
            [null, true, false, 0, -1, 0.1, 2 ** 53 - 1, -(2 ** 40), ""],
            ["aé€😀\u2028\0\"\\", "x".repeat(70_000)],
            [[], {}, [[{ a: [1, { b: "c" }] }]], { "ключ": 1, "": 2 }],
            [bytes(1, 2), { deep: [bytes(), { er: bytes(255) }] }, "text", bytes(3)],
            [Array.from({ length: 20 }, (_, n) => n), Buffer.alloc(70_000, 7)],
          ];
          for (const args of values) {
            assert.deepEqual(await ask(socket, "echo", ...args), args);
            const heard = event(socket, "back");
            socket.emit("back", ...args);
            assert.deepEqual(await heard, args);
          }
        });

        test("values that JSON lacks are converted", async () => {
          const socket = await connected("/");
          const answer = await ask(socket, "echo", new Date(0), undefined, { none: NaN });
          assert.deepEqual(answer, ["1970-01-01T00:00:00.000Z", null, { none: null }]);
        });

        test("acknowledges events of the server", async () => {
          const socket = await connected("/");
          const got = new Promise((resolve) =>
            socket.once("question", (...args) => {
              args.pop()({ text: "yes", data: bytes(4, 2) });
              resolve(args);
            }),
          );
          const answered = event(socket, "answered");
          socket.emit("ask", "why", { data: bytes(1) });
          assert.deepEqual(await within(got, "question"), ["why", { data: bytes(1) }]);
          assert.deepEqual(await answered, [{ text: "yes", data: bytes(4, 2) }]);
        });

        test("broadcasts reach all, others, or a room", async () => {
          const [a, b, c] = await Promise.all([1, 2, 3].map(() => connected("/chat")));
          const room = `${version} ${parser} ${wayName}`;
          await Promise.all([ask(a, "join", room), ask(b, "join", room)]);
          const heard = new Map([a, b, c].map((socket) => [socket, []]));
          for (const [socket, list] of heard)
            for (const name of ["others", "room"]) socket.on(name, (...args) => list.push([name, ...args]));
          const inRoom = event(b, "room");
          a.emit("others", 1, bytes(1));
          a.emit("room", room, { data: bytes(2) }, "two");
          await inRoom;
          await ask(b, "leave", room);
          const last = [a, b, c].map((socket) => event(socket, "all"));
          a.emit("room", room, "nobody is there");
          a.emit("all", "last", bytes(4));
          for (const args of await Promise.all(last)) assert.deepEqual(args, ["last", bytes(4)]);
          const others = ["others", 1, bytes(1)];
          assert.deepEqual(heard.get(a), []);
          assert.deepEqual(heard.get(b), [others, ["room", { data: bytes(2) }, "two"]]);
          assert.deepEqual(heard.get(c), [others]);
        });

        test("volatile events arrive while the client is connected", async () => {
          const socket = await connected("/");
          const heard = event(socket, "volatile");
          // Over polling the server may have no poll to answer in this very moment.
          const again = setInterval(() => socket.volatile.emit("volatile", bytes(1)), 20);
          try {
            assert.deepEqual(await heard, [bytes(1)]);
          } finally {
            clearInterval(again);
          }
        });

        test("is refused with a message and data, and let in with credentials", async () => {
          const socket = connect("/closed", { auth: { token: "guess" } });
          const [error] = await event(socket, "connect_error");
          assert.ok(error instanceof Error);
          assert.equal(error.message, "not authorized");
          assert.deepEqual(error.data, { code: 401, again: false });
          socket.auth = { token: "sesame" };
          socket.connect();
          await event(socket, "connect");
          assert.deepEqual(await ask(socket, "echo", 1), [1]);

          const unknown = connect("/nowhere");
          assert.equal((await event(unknown, "connect_error"))[0].message, "Invalid namespace");
        });

        test("both sides know why a connection ended", async () => {
          const [witness, leaving, kicked, closed] = await Promise.all([1, 2, 3, 4].map(() => connected("/")));
          const left = new Map();
          witness.on("left", ({ id, reason }) => left.set(id, reason));
          const expected = [
            [leaving, () => leaving.disconnect(), "io client disconnect", "client namespace disconnect"],
            [kicked, () => kicked.emit("kick"), "io server disconnect", "server namespace disconnect"],
            [closed, () => closed.emit("close"), "io server disconnect", "server namespace disconnect"],
          ];
          for (const [socket, leave, here, there] of expected) {
            const { id } = socket;
            const gone = event(socket, "disconnect");
            leave();
            assert.equal((await gone)[0], here);
            assert.equal(await until(() => left.get(id), "end at the server"), there);
          }
        });

        test("reconnects by itself after the server has crashed", async () => {
          const other = await Server.run("interop", 3);
          try {
            const socket = connect("/", { auth: { n: 1 } }, other);
            await event(socket, "connect");
            const gone = event(socket, "disconnect");
            await other.kill();
            assert.match((await gone)[0], /^transport (close|error)$/);
            const sent = ask(socket, "echo", bytes(1), "kept while away");
            const welcome = event(socket, "welcome");
            await other.start();
            assert.deepEqual((await welcome)[0].auth, { n: 1 });
            assert.deepEqual(await sent, [bytes(1), "kept while away"]);
          } finally {
            await other.kill();
          }
        });
      });

for (const [version, io] of Object.entries(VERSIONS))
  for (const [wayName, way] of Object.entries(WAYS))
    test(`${version}, a custom parser, ${wayName}`, async () => {
      const connect = opener(io, { port: 2, options: { parser: objects } }, way);
      const socket = connect("/", { auth: { a: 1 } });
      assert.deepEqual((await event(socket, "welcome"))[0].auth, { a: 1 });
      await settled(socket, way);
      assert.deepEqual(await ask(socket, "echo", 1, { two: [3] }), [1, { two: [3] }]);
      const heard = event(socket, "all");
      socket.emit("all", "é");
      assert.deepEqual(await heard, ["é"]);
      socket.on("question", (answer) => answer({ text: "yes", data: [] }));
      const answered = event(socket, "answered");
      socket.emit("ask");
      assert.equal((await answered)[0].text, "yes");
      const refused = connect("/closed");
      assert.equal((await event(refused, "connect_error"))[0].message, "not authorized");
      const gone = event(socket, "disconnect");
      socket.emit("kick");
      assert.deepEqual((await gone)[0], "io server disconnect");
    });

test("clients of both versions and all transports reach each other, with each parser", async () => {
  for (const known of Object.values(PARSERS)) {
    const all = Object.values(VERSIONS).flatMap((io) =>
      Object.values(WAYS).map((way) => opener(io, known, way)("/chat")),
    );
    await Promise.all(all.map((socket) => event(socket, "connect")));
    for (const speaker of all) {
      const heard = all.map((socket) => event(socket, "all"));
      speaker.emit("all", speaker.id, bytes(7));
      for (const args of await Promise.all(heard)) assert.deepEqual(args, [speaker.id, bytes(7)]);
    }
  }
});

test("a client with another parser than the server's cannot connect", async () => {
  const wrong = opener(version4, { port: 0, options: { parser: msgpack } }, { reconnection: false });
  const socket = wrong("/");
  let connected = false;
  socket.once("connect", () => (connected = true));
  await within(new Promise((resolve) => socket.io.once("close", resolve)), "close");
  assert.equal(connected, false);
});
