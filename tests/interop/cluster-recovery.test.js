// A client that recovers gets the messages that another server has sent while it was away.

import assert from "node:assert/strict";
import { once } from "node:events";
import { describe, test } from "node:test";

import { MODES, Redis, Rust, connect } from "./cluster.js";
import { until } from "./support.js";

describe("recovery", { concurrency: 3 }, () => {
  for (const mode of MODES) {
    test(mode, async () => {
      const redis = await Redis.run();
      const servers = await Promise.all([Rust.run(redis, mode, 60), Rust.run(redis, mode, 60)]);
      const [away, other] = await Promise.all(servers.map((server) => connect(server.url)));
      assert.equal(await other.emitWithAck("join", [away.id], "red"), true);
      await until(async () => (await other.emitWithAck("fetch", ["red"])).length === 1, "the join");
      const id = away.id;
      const heard = [];
      away.on("n", (n) => heard.push(n));
      // Without a first event a client has nothing to recover from.
      await other.emitWithAck("emit", [], [], {}, "n", 0);
      await until(() => heard.length === 1, "the first event");

      const left = once(away, "disconnect");
      away.io.reconnectionDelay(500);
      away.io.engine.close();
      await left;
      await until(async () => (await other.emitWithAck("fetch", ["red"])).length === 0, "the loss");
      // It is the only one in the room, and its server has no other client.
      await other.emitWithAck("emit", ["red"], [], {}, "n", 1);
      await other.emitWithAck("emit", [id], [], {}, "n", 2);
      await other.emitWithAck("emit", [], [], {}, "n", 3);

      await until(() => away.connected, "the client");
      assert.equal(away.recovered, true);
      assert.equal(away.id, id);
      await until(() => heard.length >= 4, "what was missed");
      assert.deepEqual(heard, [0, 1, 2, 3]);
      [away, other].forEach((client) => client.disconnect());
      await Promise.all(servers.map((server) => server.kill()));
      await redis.stop();
    });
  }
});
