// The fixture `cluster_node` for Node's servers: node_server.js PORT REDIS_URL MODE

import { createServer } from "node:http";
import { createRequire } from "node:module";

const require = createRequire(new URL("../../tests/interop/package.json", import.meta.url));
const { Server } = require("socket.io");
const { createClient } = require("redis");
const { createAdapter, createShardedAdapter } = require("@socket.io/redis-adapter");
const streams = require("@socket.io/redis-streams-adapter");

const [port, url, mode] = process.argv.slice(2);
const client = await createClient({ url }).connect();
const second = await client.duplicate().connect();
const adapter = {
  classic: () => createAdapter(client, second),
  sharded: () => createShardedAdapter(client, second, { subscriptionMode: "static" }),
  "sharded-dynamic": () => createShardedAdapter(client, second),
  streams: () => streams.createAdapter(client),
}[mode]();

const http = createServer();
const io = new Server(http, { adapter });
const select = (rooms) => (rooms.length ? io.to(rooms) : io.of("/"));
io.on("connection", (socket) => {
  socket.data = { user: "node" };
  socket.join("room1");
  socket.on("emit", (rooms, except, flags, name, ...args) => {
    const answer = typeof args.at(-1) === "function" ? args.pop() : undefined;
    select(rooms).except(except).emit(name, ...args);
    answer?.(true);
  });
  socket.on("time_fetch", async (rooms, answer) => {
    const begin = performance.now();
    const sockets = await select(rooms).fetchSockets();
    answer([performance.now() - begin, sockets.length]);
  });
});
http.listen(port, "127.0.0.1", () => console.log("listening"));
