// Presence on two servers of this crate, in a cluster with a server of Node, which has none.
//
// ROW=streams runs only the modes whose names contain this.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { MODES, Node, Redis, Rust, connect } from "./cluster.js";
import { until } from "./support.js";

process.env.PRESENCE = "1";

/** An official client that applies the events as a page does. */
async function viewer(server, key) {
  const client = await connect(server.url);
  client.rooms = new Map();
  client.left = [];
  client.on("presence_state", ({ room, users }) => client.rooms.set(room, new Map(Object.entries(users))));
  client.on("presence_diff", ({ room, joins, updates, leaves }) => {
    client.left.push(...Object.keys(leaves));
    const present = client.rooms.get(room);
    // Its connect handler has joined the room before it is tracked.
    if (!present) return;
    for (const key in leaves) present.delete(key);
    for (const [key, metas] of Object.entries({ ...joins, ...updates })) present.set(key, metas);
  });
  assert.equal(await client.emitWithAck("track", "room1", key), true);
  return client;
}

const sees = (client, ...keys) =>
  until(() => [...(client.rooms.get("room1")?.keys() ?? [])].sort().join() === keys.join(), `${keys} in the room`);

describe("presence", { concurrency: 3 }, () => {
  for (const mode of MODES) {
    describe(mode, { concurrency: false }, () => {
      let redis, node, servers, at_node;

      before(async () => {
        redis = await Redis.run();
        node = await Node.run(redis, "node-redis", mode);
        servers = await Promise.all([1, 2].map(() => Rust.run(redis, mode)));
        at_node = await connect(node.url);
      });

      after(async () => {
        at_node?.close();
        await Promise.all((servers ?? []).map((server) => server.kill()));
        await node?.close();
        await redis?.stop();
      });

      test("clients of both servers see each other, and Node goes on", async () => {
        const unknown = [];
        at_node.onAny((name) => unknown.push(name));
        const ada = await viewer(servers[0], "ada");
        const bob = await viewer(servers[1], "bob");
        await Promise.all([sees(ada, "ada", "bob"), sees(bob, "ada", "bob")]);
        assert.deepEqual(ada.rooms, bob.rooms);
        assert.deepEqual(ada.rooms.get("room1").get("ada"), [{ on: "rust" }]);

        // Another tab, on the other server.
        const tab = await viewer(servers[1], "ada");
        await sees(tab, "ada", "bob");
        ada.close();
        const eve = await viewer(servers[0], "eve");
        await Promise.all([sees(bob, "ada", "bob", "eve"), sees(eve, "ada", "bob", "eve")]);
        const hostile = await viewer(servers[0], "__proto__");
        await Promise.all([bob, hostile].map((each) => sees(each, "__proto__", "ada", "bob", "eve")));
        hostile.close();
        tab.close();
        await Promise.all([sees(bob, "bob", "eve"), sees(eve, "bob", "eve")]);
        assert.deepEqual(bob.left.sort(), ["__proto__", "ada"]);

        // The cluster is as it was: Node's server asks all, and sends to all.
        assert.equal((await node.io.fetchSockets()).length, 3);
        node.io.to("room1").emit("n", 7);
        for (const client of [bob, eve, at_node]) assert.deepEqual(await client.events.take("n"), [7]);
        assert.deepEqual(unknown, ["n"]);
        bob.close();
        await sees(eve, "eve");
        eve.close();
      });

      test("a server that crashes takes its users along", async () => {
        const ada = await viewer(servers[0], "ada");
        const bob = await viewer(servers[1], "bob");
        await sees(ada, "ada", "bob");
        await servers[1].kill();
        await sees(ada, "ada");
        bob.close();
        await servers[1].start();
        const eve = await viewer(servers[1], "eve");
        await Promise.all([sees(ada, "ada", "eve"), sees(eve, "ada", "eve")]);
        ada.close();
        eve.close();
      });
    });
  }
});
