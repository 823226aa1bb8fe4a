// Servers, clients, rooms and namespaces come and go, and every question is answered at once.
//
// ROUNDS=1000 runs a thousand rounds in each mode; by default there are as many as fit into 40 seconds.
// ROW=streams runs only the modes whose names contain this, and SEED=2 draws other rounds.

import assert from "node:assert/strict";
import { once } from "node:events";
import { after, before, describe, test } from "node:test";

import { Chance } from "./chance.js";
import { Cluster, connect, ids, MODES, Node, Rust } from "./cluster.js";
import { PATIENCE, pause, until, within } from "./support.js";

const ROUNDS = Number(process.env.ROUNDS ?? 100);

const NAMESPACES = ["/", "/room-1", "/room-2"];
const ROOMS = ["red", "blue"];
const SERVERS = ["a", "b", "rust"];

describe("soak", { concurrency: 3 }, () => {
  for (const mode of MODES) {
    describe(mode, { concurrency: false }, () => tests(mode));
  }
});

function tests(mode) {
  const chance = new Chance(Number(process.env.SEED ?? 1));
  let cluster;
  /** The clients that come and go, as the servers should know them. */
  let clients = [];

  before(async () => {
    cluster = await Cluster.run(mode, "node-redis");
  });

  after(async () => {
    clients.forEach(({ client }) => client.disconnect());
    await cluster?.close();
  });

  const come = async (server, namespace) => {
    const client = await connect(cluster[server].url + (namespace === "/" ? "" : namespace));
    clients.push({ client, server, namespace, rooms: new Set(["room1"]), isNew: true });
  };

  const go = async (gone) => {
    const { client, server, namespace } = gone;
    clients = clients.filter((client) => client !== gone);
    client.disconnect();
    if (server === "rust" || serversOf(namespace).includes(server)) return;
    // node-redis loses a subscription that begins anew while it ends.
    await until(() => !cluster[server].io._nsps.has(namespace), "the end of the namespace");
    await cluster[server].clients[1].ping();
  };

  /** The clients of a namespace, with those that stay. */
  const present = (namespace) => {
    const staying = cluster.clients.map((client, n) => {
      return { client, server: SERVERS[n], namespace: "/", rooms: new Set(["room1"]) };
    });
    return [...staying, ...clients].filter((client) => client.namespace === namespace);
  };

  /** Where a namespace exists. Node's servers keep it where its adapter cannot leave it. */
  const serversOf = (namespace) =>
    SERVERS.filter(
      (server) =>
        present(namespace).some((client) => client.server === server) ||
        (server !== "rust" && cluster[server].reads && cluster[server].io._nsps.has(namespace)),
    );

  /** What a server of a namespace can be asked. */
  const asker = (server, namespace) => {
    if (server !== "rust") {
      const io = cluster[server].io._nsps.get(namespace);
      return {
        fetch: () => io.fetchSockets(),
        ask: (value) => io.timeout(2 * PATIENCE).emitWithAck("ask", value),
        pongs: () => io.serverSideEmitWithAck("hey", 1),
        join: (id, room) => io.in(id).socketsJoin(room),
        leave: (id, room) => io.in(id).socketsLeave(room),
      };
    }
    const { client } = present(namespace).find((client) => client.server === "rust");
    return {
      fetch: () => client.emitWithAck("fetch", []),
      ask: async (value) => {
        const { answers, missing } = await client.emitWithAck("ask", [], "ask", value, 2 * PATIENCE);
        assert.equal(missing, 0);
        return answers;
      },
      pongs: () => client.emitWithAck("server_ask", "hey", 1),
      join: (id, room) => client.emit("join", [id], room, () => {}),
      leave: (id, room) => client.emit("leave", [id], room, () => {}),
    };
  };

  /** One client comes or goes, joins or leaves, by chance. */
  const change = async () => {
    const namespace = chance.of(NAMESPACES);
    // What two servers do to one socket at a time has no order.
    const client = chance.of(clients.filter((client) => client.namespace === namespace && !client.isNew));
    if (client === undefined || clients.length < 6) return come(chance.of(SERVERS), namespace);
    if (clients.length > 12) return go(client);
    const room = chance.of(ROOMS);
    const { join, leave } = asker(chance.of(serversOf(namespace)), namespace);
    client.isNew = true;
    switch (chance.below(4)) {
      case 0:
        return come(chance.of(SERVERS), namespace);
      case 1:
        return go(client);
      case 2:
        client.rooms.add(room);
        return join(client.client.id, room);
      default:
        client.rooms.delete(room);
        return leave(client.client.id, room);
    }
  };

  /** Waits until the servers of a namespace are counted: Node asks first for their number. */
  const counted = async (namespace) => {
    const channel = `socket.io${mode === "classic" ? "-request" : ""}#${namespace}#`;
    const servers = serversOf(namespace);
    await until(async () => (await cluster.redis.subscribers(channel)) === servers.length, "servers");
    for (const server of servers) if (server !== "rust") await cluster[server].subscribed(namespace);
  };

  /** A list of sockets as text. */
  const described = (sockets) => {
    const lines = sockets.map(({ id, rooms }) => {
      return [id, ...[...rooms].filter((room) => room !== id).sort()].join(" ");
    });
    return lines.sort().join("\n");
  };

  /** The answers to a question. One that has ended by its time-out is an error. */
  const question = async (promise, what) => {
    const answers = await within(promise, what);
    assert.ok(Array.isArray(answers), answers.error);
    return answers;
  };

  /** All servers of a namespace have the same answers. */
  const agree = async (namespace) => {
    await counted(namespace);
    const expected = described(
      present(namespace).map(({ client, rooms }) => ({ id: client.id, rooms })),
    );
    const everybody = ids(present(namespace).map(({ client }) => client));
    const servers = serversOf(namespace);
    for (const server of servers) {
      const { fetch, ask, pongs } = asker(server, namespace);
      const what = `answer to ${server} in ${namespace}`;
      let sockets;
      // A join reaches the servers one by one.
      await until(async () => {
        sockets = described(await question(fetch(), what));
        return sockets === expected;
      }, "sockets").catch(() => assert.equal(sockets, expected, what));
      const answers = question(ask(server), what);
      const others = servers.filter((other) => other !== server);
      const expectedPongs = others.map((other) => (other === "rust" ? "rust-pong" : "node-pong"));
      assert.deepEqual((await question(pongs(), what)).sort(), expectedPongs.sort(), what);
      assert.deepEqual(ids(await answers), everybody, what);
    }
  };

  /** The server of this crate, or one of Node, is started again. */
  const restart = async (server, signal) => {
    for (const client of clients.filter((client) => client.server === server)) await go(client);
    if (server === "rust") {
      cluster.at_rust.disconnect();
      await cluster.rust.kill(signal);
      await cluster.startRust();
    } else {
      cluster.at_b.disconnect();
      await cluster.b.close();
      cluster.b = await Node.run(cluster.redis, "node-redis", mode);
      cluster.at_b = await cluster.join(cluster.b);
    }
  };

  test(`${ROUNDS} rounds`, async () => {
    for (let round = 1; round <= ROUNDS; round++) {
      // The server of this crate may be asked while clients come and go. So may Node's in a namespace
      // that all servers have.
      const questions = [];
      for (let n = 0; n < 4; n++) {
        for (const server of ["a", "rust"]) {
          const { fetch, pongs } = asker(server, "/");
          questions.push(question(fetch(), `answer to ${server}`), question(pongs(), `pong to ${server}`));
        }
        await change();
      }
      await Promise.all(questions);
      for (const namespace of NAMESPACES) await agree(namespace);
      for (const client of clients) client.isNew = false;
      if (round % 20 === 0) await restart("rust", round % 40 === 0 ? "SIGKILL" : "SIGTERM");
      if (round % 20 === 10) await restart("b");
    }
  });

  /** One more server of this crate, with a client. */
  const another = async (t) => {
    const other = await Rust.run(cluster.redis, mode);
    const at_other = await cluster.join(other);
    t.after(async () => {
      at_other.disconnect();
      await other.kill();
    });
    const count = () => cluster.at_rust.emitWithAck("count");
    await until(async () => (await count()) === 4, "four servers");
    return { other, at_other };
  };

  test("a server that is killed in mid-question ends the wait for it", async (t) => {
    const { at_rust } = cluster;
    const { other } = await another(t);
    await pause(other.child);
    let ended = 0;
    const questions = [
      at_rust.emitWithAck("fetch", []),
      at_rust.emitWithAck("server_ask", "hey", 1),
      at_rust.emitWithAck("ask", [], "ask", 1, 2 * PATIENCE),
    ].map((question) => question.finally(() => ended++));
    const open = async () => (await at_rust.emitWithAck("status")).questions;
    await until(async () => (await open()) === 3, "questions");
    assert.equal(ended, 0);
    await other.kill();
    const [sockets, pongs, asked] = await within(Promise.all(questions), "end of the questions");
    const rest = ids(present("/").map(({ client }) => client));
    assert.deepEqual(ids(sockets), rest);
    assert.deepEqual(pongs, ["node-pong", "node-pong"]);
    assert.deepEqual(ids(asked.answers), rest);
    assert.equal(await open(), 0);
  });

  test("a server whose clients are silent, and that is killed, ends the wait for them", async (t) => {
    const { at_rust } = cluster;
    const { other, at_other } = await another(t);
    const asked = once(at_other, "silent");
    const question = at_rust.emitWithAck("ask", [at_other.id], "silent", 1, 2 * PATIENCE);
    await asked;
    await other.kill();
    const { answers } = await within(question, "end of the question");
    assert.deepEqual(answers, []);
  });
}
