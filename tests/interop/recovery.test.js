// The official client loses its connection to the example `recovery`, and comes back.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { io } from "socket.io-client";
import { Inbox, PATIENCE, Server, until, within } from "./support.js";

const WAYS = {
  "polling only": { transports: ["polling"] },
  "websocket only": { transports: ["websocket"] },
  "polling, then websocket": {},
};

// How a connection is lost, as the client can bring it about.
const ENDS = {
  // The server is told. A client that closes while it upgrades waits for the end of the upgrade,
  // and closes before it has handled what came with its last poll: its listeners hear that, but the
  // offset with which it comes back is the one before, and they hear it twice.
  closed: async (engine) => {
    await until(() => !engine.upgrading, "end of the upgrade");
    engine.close();
  },
  // The server is not told: it learns of it by the next connection.
  gone: (engine) => {
    engine.transport.close = () => {};
    engine._onClose("transport close");
  },
};

const open = new Set();
let server;

before(async () => (server = await Server.run("recovery")));
after(() => server?.kill());
test.afterEach(() => {
  open.forEach((socket) => socket.disconnect());
  open.clear();
});

async function connected(options) {
  const socket = io(server.url, {
    forceNew: true,
    reconnectionDelay: 10,
    reconnectionDelayMax: 20,
    ...options,
  });
  open.add(socket);
  await event(socket, "connect");
  return socket;
}

const event = (socket, name) =>
  within(new Promise((resolve) => socket.once(name, (...args) => resolve(args))), `event ${name}`);

const ask = (socket, ...args) => socket.timeout(PATIENCE).emitWithAck(...args);

/** Loses the connection, does what is to be done meanwhile, and waits until it is back. */
async function lose(socket, end, meanwhile = () => {}) {
  const [lost, back] = [event(socket, "disconnect"), event(socket, "connect")];
  const { id } = socket;
  await end(socket.io.engine);
  await lost;
  await meanwhile();
  await back;
  assert.equal(socket.recovered, true);
  assert.equal(socket.id, id);
}

/** What the socket hears, without the offset behind it. */
function hears(socket, name) {
  const inbox = new Inbox();
  socket.on(name, (...args) => {
    assert.match(args.pop(), /^[\w-]{8}$/);
    inbox.push(args);
  });
  return inbox;
}

for (const [way, options] of Object.entries(WAYS)) {
  describe(way, () => {
    for (const [how, end] of Object.entries(ENDS)) {
      test(`${how}: before anything was sent`, async () => {
        const socket = await connected(options);
        for (let round = 0; round < 3; round++) {
          await lose(socket, end);
        }
      });

      test(`${how}: many times, and no event is lost, doubled or out of order`, async () => {
        const socket = await connected(options);
        const other = await connected({ transports: ["websocket"] });
        const said = hears(socket, "said");
        let next = 0;
        let sent = 0;
        for (let round = 0; round < 25; round++) {
          const meanwhile = async () => {
            for (let n = 0; n < round % 5; n++) other.emit("say", sent++);
            if (round % 2) await ask(other, "say", sent++);
          };
          other.emit("say", sent++);
          // The upgrade may be under way when the connection breaks.
          if (round % 3 === 0) await new Promise((resolve) => setTimeout(resolve, round));
          await lose(socket, end, meanwhile);
          other.emit("say", sent++);
          if (round % 4 === 0) {
            while (next < sent) assert.deepEqual(await said.take(), [next++]);
          }
        }
        while (next < sent) assert.deepEqual(await said.take(), [next++]);
        assert.deepEqual(said.items, []);
      });

      test(`${how}: its rooms, its extensions and its missed events are restored`, async () => {
        const socket = await connected(options);
        const other = await connected(options);
        const [told, said] = [hears(socket, "told"), hears(socket, "said")];
        socket.emit("join", "mine");
        assert.equal(await ask(socket, "say", Buffer.from([1])), 1);
        await lose(socket, end, async () => {
          other.emit("tell", "mine", "to my room");
          other.emit("tell", "another", "to another room");
          await ask(other, "say", "hello", { bytes: Buffer.from([2, 3]) });
        });
        assert.equal(await ask(socket, "say", "again"), 2);
        assert.deepEqual(await told.take(), ["to my room"]);
        assert.deepEqual(await said.take(), [Buffer.from([1])]);
        assert.deepEqual(await said.take(), ["hello", { bytes: Buffer.from([2, 3]) }]);
        assert.deepEqual(await said.take(), ["again"]);
        assert.deepEqual(told.items, []);
      });
    }

    test("a client that leaves gets a new socket when it connects again", async () => {
      const socket = await connected(options);
      await ask(socket, "say", 1);
      const { id } = socket;
      socket.disconnect();
      socket.connect();
      await event(socket, "connect");
      assert.equal(socket.recovered, false);
      assert.notEqual(socket.id, id);
      assert.equal(await ask(socket, "say", 1), 1);
    });
  });
}

test("a connection lost between CONNECT and the missed events doubles none", async () => {
  const socket = await connected({ transports: ["websocket"] });
  const other = await connected({ transports: ["websocket"] });
  const said = hears(socket, "said");
  // Each of them takes several reads.
  const large = "x".repeat(500_000);
  let sent = 0;
  await ask(other, "say", sent++, large);
  assert.deepEqual(await said.take(), [0, large]);
  for (let packets = 1; packets <= 4; packets++) {
    let cuts = 0;
    socket.io.reconnection(false);
    await lose(socket, ENDS.gone, async () => {
      for (let n = 0; n < 4; n++) await ask(other, "say", sent++, large);
      let left = packets;
      socket.io.on("packet", function cut() {
        if (--left > 0) return;
        socket.io.off("packet", cut);
        cuts++;
        setImmediate(() => ENDS.gone(socket.io.engine));
      });
      socket.io.reconnection(true);
      socket.connect();
    });
    await until(() => cuts === 1 && socket.connected && said.items.length >= 4, "the missed events");
    assert.equal(socket.recovered, true);
    // An event that came twice would be here by now.
    await ask(socket, "say", sent++);
    const heard = said.items.splice(0).map(([n]) => n);
    assert.deepEqual(heard, [5, 4, 3, 2, 1].map((n) => sent - n));
  }
});

test("after a restart the client gets a new socket, and recovers from then on", async () => {
  const own = await Server.run("recovery");
  try {
    const socket = io(own.url, { forceNew: true, reconnectionDelay: 10, reconnectionDelayMax: 20 });
    open.add(socket);
    await event(socket, "connect");
    await ask(socket, "say", 1);
    const lost = event(socket, "disconnect");
    await own.kill();
    await lost;
    const back = event(socket, "connect");
    await own.start();
    await back;
    assert.equal(socket.recovered, false);
    // It still has the offset of before, and nothing else.
    const said = hears(socket, "said");
    const { id } = socket;
    const again = event(socket, "connect");
    socket.io.engine.close();
    await again;
    assert.equal(socket.recovered, true);
    assert.equal(socket.id, id);
    await ask(socket, "say", 2);
    assert.deepEqual(await said.take(), [2]);
  } finally {
    await own.kill();
  }
});
