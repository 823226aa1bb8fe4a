// The fixture `cluster_node` for Node's servers: node_server.js PORT REDIS_URL MODE [DRIVER]
//
// MODE is `classic`, `sharded`, `sharded-dynamic`, `sharded-dynamic-private`, `streams`, `streams-sharded`,
// or `streams-recovery`, with which clients may be away for a minute and recover. DRIVER is the client of Redis, `node-redis` or `ioredis`; without
// one it is `node-redis`. The server prints `listening` when it is ready, and closes at SIGTERM. Its
// clients use it through the events of `cluster_node`.

import { createServer } from "node:http";
import { createRequire } from "node:module";

const require = createRequire(new URL("../../tests/interop/package.json", import.meta.url));
const { Server } = require("socket.io");
const { createClient } = require("redis");
const { Redis } = require("ioredis");
const { createAdapter, createShardedAdapter } = require("@socket.io/redis-adapter");
const streams = require("@socket.io/redis-streams-adapter");

const [port, url, mode, driver = "node-redis"] = process.argv.slice(2);
// A command that has waited for five seconds is dropped, by default.
const client =
  driver === "ioredis"
    ? new Redis(url)
    : await createClient({ url, commandOptions: { timeout: 0 } }).on("error", () => {}).connect();
const isLog = mode.startsWith("streams");
const second = isLog ? undefined : client.duplicate().on("error", () => {});
if (driver === "node-redis") await second?.connect();
const adapter = {
  classic: () => createAdapter(client, second),
  sharded: () => createShardedAdapter(client, second, { subscriptionMode: "static" }),
  "sharded-dynamic": () => createShardedAdapter(client, second),
  "sharded-dynamic-private": () =>
    createShardedAdapter(client, second, { subscriptionMode: "dynamic-private" }),
  streams: () => streams.createAdapter(client),
  "streams-sharded": () => streams.createAdapter(client, { useShardedPubSub: true }),
  "streams-recovery": () => streams.createAdapter(client),
}[mode]();
const recovery = { maxDisconnectionDuration: 60_000, skipMiddlewares: true };

const http = createServer();
const io = new Server(http, {
  adapter,
  ...(mode === "streams-recovery" ? { connectionStateRecovery: recovery } : {}),
});

const described = ({ id, rooms, data, recovered }) => ({ id, rooms: [...rooms], data, recovered });

function serve(namespace) {
  namespace.on("connection", (socket) => {
    const io = socket.nsp;
    const select = (rooms) => (rooms.length ? io.to(rooms) : io);
    if (!socket.recovered) {
      socket.data = { user: "node" };
      socket.join("room1");
    }
    socket.on("emit", (rooms, except, flags, name, ...args) => {
      const answer = typeof args.at(-1) === "function" ? args.pop() : undefined;
      let operator = select(rooms).except(except);
      if (flags.volatile) operator = operator.volatile;
      if (flags.local) operator = operator.local;
      operator.emit(name, ...args);
      answer?.(true);
    });
    socket.on("time_fetch", async (rooms, answer) => {
      const begin = performance.now();
      const sockets = await select(rooms).fetchSockets();
      answer([performance.now() - begin, sockets.length]);
    });
    socket.on("fetch", async (rooms, answer) => {
      const sockets = await select(rooms).fetchSockets().catch(() => undefined);
      answer(sockets?.map(described) ?? { error: "no answer" });
    });
    socket.on("local", async (rooms, answer) => {
      answer((await (rooms.length ? io.local.to(rooms) : io.local).fetchSockets()).map(described));
    });
    socket.on("join", (rooms, room, answer) => {
      select(rooms).socketsJoin(room);
      answer?.(true);
    });
    socket.on("leave", (rooms, room, answer) => {
      select(rooms).socketsLeave(room);
      answer?.(true);
    });
    socket.on("disconnect_sockets", (rooms, close, answer) => {
      select(rooms).disconnectSockets(close);
      answer?.(true);
    });
    socket.on("count", async (answer) => answer(await io.adapter.serverCount()));
    socket.on("me", (answer) => answer(described(socket)));
    socket.on("subscribe", (rooms, answer) => {
      socket.join(rooms);
      answer(true);
    });
    socket.on("join_after", (room, name, ...args) => {
      const answer = args.pop();
      io.to(room).emit(name, ...args);
      socket.join(room);
      answer(true);
    });
    socket.on("set_data", (data, answer) => {
      socket.data = data;
      answer(true);
    });
    socket.on("to_me", (name, ...args) => {
      const answer = args.pop();
      socket.emit(name, ...args);
      answer(true);
    });
    socket.on("ask_me", async (name, arg, answer) => answer(await socket.emitWithAck(name, arg)));
  });
}
serve(io.of("/"));
serve(io.of(/^\/room-\d+$/));

/** Waits until the adapter gets messages: it subscribes, and begins to read, after it was made. */
async function ready() {
  const command = (...args) =>
    driver === "ioredis" ? client.call(...args) : client.sendCommand(args);
  const until = async (ask) => {
    while (!(await ask())) await new Promise((resolve) => setTimeout(resolve, 10));
  };
  const channel = `socket.io${mode === "classic" ? "-response" : ""}#/#${io.of("/").adapter.uid}#`;
  await until(async () => {
    const counts = ["NUMSUB", "SHARDNUMSUB"].map((kind) => command("PUBSUB", kind, channel));
    return (await Promise.all(counts)).some(([, count]) => count === 1);
  });
  if (!isLog) return;
  // A reader asks for what comes from now on, until it has read once. Other servers do not have the
  // namespace.
  const namespace = `/ready-${port}`;
  let reads = false;
  io.of(namespace).on("ready", () => (reads = true));
  const entry = ["uid", "emitter", "nsp", namespace, "type", "9", "data", '{"packet":["ready"]}'];
  await until(async () => {
    await command("XADD", "socket.io", "*", ...entry);
    return reads;
  });
}

process.once("SIGTERM", async () => {
  await io.close();
  // What the adapter has asked of Redis is answered first.
  for (const each of [client, second]) await (driver === "ioredis" ? each?.quit() : each?.close());
  process.exit();
});

await ready();
http.listen(port, "127.0.0.1", () => console.log("listening"));
