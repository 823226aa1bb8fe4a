// Several streams: servers with `streamCount`, of Node and of this crate.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { test } from "node:test";

import { createAdapter } from "@socket.io/redis-streams-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";
import { io } from "socket.io-client";

import { PATIENT, Redis, Rust } from "./cluster.js";
import { until } from "./support.js";

/** The stream of a namespace, as the adapter computes it: the number can be negative. */
function stream(namespace) {
  let hash = 0;
  for (const char of namespace) hash = (31 * hash + char.charCodeAt(0)) | 0;
  return hash % 4;
}

async function connect(url) {
  const client = io(url, { transports: ["websocket"], forceNew: true });
  client.heard = [];
  client.on("n", (n) => client.heard.push(n));
  await once(client, "connect");
  return client;
}

test("the streams of all namespaces are read, also those with negative numbers", async () => {
  const redis = await Redis.run();
  const rust = await Rust.run(redis, "streams-4");
  const driver = await createClient({ url: redis.url, commandOptions: PATIENT }).connect();
  const http = createServer();
  const node = new Server(http, { adapter: createAdapter(driver, { streamCount: 4 }) });
  node.of(/^\/room-\d+$/);
  http.listen(0, "127.0.0.1");
  await once(http, "listening");

  const names = Array.from({ length: 100 }, (_, n) => `/room-${n ** 4}`);
  const negative = names.find((name) => stream(name) < 0);
  const positive = names.find((name) => stream(name) > 0);
  assert.ok(negative && positive);
  for (const name of ["/", positive, negative]) {
    const at_rust = await connect(`http://127.0.0.1:${rust.port}${name}`);
    const at_node = await connect(`http://127.0.0.1:${http.address().port}${name}`);
    await until(async () => (await at_rust.emitWithAck("count")) === 2, "both servers");
    node.of(name).emit("n", 1);
    await until(() => at_rust.heard.length === 1, `a message of Node's server in ${name}`);
    await at_rust.emitWithAck("emit", [], [], {}, "n", 2);
    await until(() => at_rust.heard.length === 2, "the local message");
    // Node's server does not read the streams with negative numbers itself.
    if (stream(name) >= 0) await until(() => at_node.heard.length === 2, `a message in ${name}`);
    // The local message is heard before it is in the stream.
    await until(async () => (await redis.admin.xLen(`socket.io-${stream(name)}`)) >= 2, "two entries");
    [at_rust, at_node].forEach((client) => client.disconnect());
  }
  await node.close();
  driver.destroy();
  await rust.kill();
  await redis.stop();
});
