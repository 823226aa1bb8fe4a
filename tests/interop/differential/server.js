// The servers of the differential tests, with Node's `socket.io`: node server.js NAME...
//
// It listens on a port for each configuration named, and prints NAME=PORT.
//
// tests/servers/differential.rs is the same with ours: the same configurations, and in each the same
// handlers.

import http from "node:http";
import { attach } from "engine.io";
import { Server } from "socket.io";
import msgpack from "socket.io-msgpack-parser";

function main() {
  for (const name of process.argv.slice(2)) {
    // What the engine does not serve comes to the listeners that were there before.
    const server = http.createServer((_, response) => response.writeHead(404).end());
    const facts = new Facts();
    const io = name === "engine" ? engine(server) : socketio(name, server, facts);
    const before = server.listeners("request").slice();
    server.removeAllListeners("request");
    server.on("request", (request, response) => {
      if (request.url.startsWith("/control/")) return control(io, facts, request, response);
      before.forEach((listener) => listener.call(server, request, response));
    });
    server.listen(0, "127.0.0.1", () => console.log(`${name}=${server.address().port}`));
  }
}

function socketio(name, server, facts) {
  const io = new Server(server, { serveClient: false, ...configuration(name) });
  if (name === "hooks") hooks(io.engine);
  for (const path of ["/", "/chat", /^\/room-[^/]+$/, isAllowed]) namespace(io.of(path), facts);
  return io;
}

/** What a configuration is called in the scripts, and what differs from the defaults in it. */
function configuration(name) {
  switch (name) {
    case "default":
    case "alone":
    case "shutdown":
      return {};
    case "pings":
      return { pingInterval: 500, pingTimeout: 30_000 };
    case "short pings":
      return { pingInterval: 1000, pingTimeout: 1500 };
    case "small":
      return { maxHttpBufferSize: 100 };
    case "connect":
      return { connectTimeout: 1500 };
    case "upgrade":
      return { upgradeTimeout: 1500 };
    case "polling":
      return { transports: ["polling"] };
    case "websocket":
      return { transports: ["websocket"] };
    case "no upgrades":
      return { allowUpgrades: false };
    case "any origin":
      return { cors: { origin: "*" } };
    case "some origins":
      return {
        cors: {
          origin: ["https://one.example", "https://two.example"],
          credentials: true,
          methods: ["GET", "POST"],
          allowedHeaders: ["x-asked"],
          exposedHeaders: ["x-told"],
          maxAge: 600,
        },
      };
    case "cookie":
      return { cookie: true };
    case "another cookie":
      return {
        cookie: {
          name: "sticky",
          path: "/there",
          domain: "example.com",
          maxAge: 60,
          httpOnly: false,
          secure: true,
          sameSite: "strict",
        },
      };
    case "jsonp":
      return {};
    case "files":
      return { serveClient: true };
    case "eio3":
      return { allowEIO3: true };
    case "eio3 pings":
      return { allowEIO3: true, pingInterval: 1000, pingTimeout: 1500 };
    case "recovery":
      return { connectionStateRecovery: {} };
    case "msgpack":
      return { parser: msgpack };
    case "hooks":
      return { allowRequest };
    default:
      throw new Error(`no configuration is called ${name}`);
  }
}

/** A namespace that there is for those who know the word. */
function isAllowed(name, { word }, next) {
  next(null, name.startsWith("/allowed-") && word === "please");
}

function allowRequest({ headers }, callback) {
  const blocked = headers["x-blocked"];
  callback(blocked === "why" ? "because" : null, blocked === undefined);
}

function hooks(engine) {
  engine.on("initial_headers", (headers) => {
    headers["x-first"] = "yes";
    headers["set-cookie"] = ["a=1", "b=2"];
  });
  engine.on("headers", (headers) => (headers["x-each"] = "yes"));
}

function namespace(nsp, facts) {
  nsp.use(async (socket, next) => {
    const { gate, refuse, data } = socket.handshake.auth;
    if (gate) {
      facts.set(`at/${gate}`, "");
      await facts.wait(`gate/${gate}`);
    }
    if (refuse === undefined) return next();
    const error = new Error(refuse);
    if (data !== undefined) error.data = data;
    next(error);
  });
  nsp.on("connection", (socket) => connected(socket, facts));
}

function connected(socket, facts) {
  const { join, greet, dismiss } = socket.handshake.auth;
  if (join) socket.join(join);
  if (greet !== undefined) socket.emit("hello", greet);
  handlers(socket, facts);
  socket.on("disconnect", (reason) => facts.set(`reason/${socket.id}`, reason));
  if (dismiss !== undefined) socket.disconnect(dismiss);
}

function handlers(socket, facts) {
  const on = (event, handler) => socket.on(event, handler);
  on("sync", (ack) => ack?.());
  on("echo", (...args) => socket.emit("echoed", ...args));
  on("ack", (...args) => {
    const ack = args.pop();
    if (typeof ack === "function") ack(...args);
  });
  on("ack late", async (gate, ack) => {
    await facts.wait(`gate/${gate}`);
    ack("late", socket.connected);
  });
  on("ack and emit", (ack) => {
    socket.emit("before");
    ack("answer");
  });
  on("no ack", () => {});
  on("ask", async ({ event, args, timeout }) => {
    try {
      const asking = timeout === undefined ? socket : socket.timeout(timeout);
      socket.emit("answer", await asking.emitWithAck(event, ...args));
    } catch {
      socket.emit("no answer", "timeout");
    }
  });
  on("ask for bytes", async () => socket.emit("answer", await socket.emitWithAck("question")));
  on("ask all", async (say, timeout) => {
    const asking = chosen(socket, say).timeout(timeout);
    const [all, answers] = await asking.emitWithAck(say.event, ...(say.args ?? [])).then(
      (answers) => [true, answers],
      (error) => [false, error.responses],
    );
    const byText = (a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1);
    socket.emit("answers", all, answers.sort(byText));
  });
  on("bytes", () => bytes(socket));
  on("many", (count) => {
    for (let n = 0; n < count; n++) socket.emit("n", n);
  });
  on("volatile", (after) => {
    if (after) socket.emit("first");
    socket.volatile.emit("volatile");
  });
  on("join", (rooms, ack) => {
    socket.join(rooms);
    ack?.();
  });
  on("leave", (room, ack) => {
    socket.leave(room);
    ack?.();
  });
  on("rooms", (ack) => ack([...socket.rooms].filter((room) => room !== socket.id).sort()));
  on("say", (say, ack) => {
    chosen(socket, say).emit(say.event, ...(say.args ?? []));
    ack?.();
  });
  on("say bytes", (room, data) => socket.to(room).emit("bytes", data));
  on("members", async (room, ack) => {
    const target = room ? socket.nsp.in(room) : socket.nsp;
    ack((await target.fetchSockets()).length);
  });
  on("move", (room, joined, left, ack) => {
    socket.nsp.in(room).socketsJoin(joined);
    socket.nsp.in(room).socketsLeave(left);
    ack?.();
  });
  on("dismiss", (room, close) => socket.nsp.in(room).disconnectSockets(close));
  on("disconnect me", (close) => {
    socket.emit("bye", "first");
    socket.disconnect(close);
  });
  on("disconnect me and speak", () => {
    socket.disconnect();
    socket.emit("bye", "too late");
  });
  on("handshake", (ack) => ack(socket.handshake));
  on("recovered", (ack) => ack(socket.recovered));
  on("remember", (value, ack) => {
    socket.data.value = value;
    ack();
  });
  on("recall", (ack) => ack(socket.data.value));
  on("plain", (length) => socket.compress(false).emit("plain", "x".repeat(length)));
  on("transport", (ack) => ack(socket.conn.transport.name));
}

/** Whom to say something. */
function chosen(socket, { all, ...rest }) {
  return narrow(all ? socket.nsp : socket.broadcast, rest);
}

function narrow(everybody, { to = [], except = [], volatile }) {
  let target = everybody;
  for (const room of to) target = target.to(room);
  for (const room of except) target = target.except(room);
  return volatile ? target.volatile : target;
}

function bytes(socket) {
  const many = [Buffer.alloc(0), Buffer.from([255])];
  const nested = { one: Buffer.from([1, 2]), many, text: "é€😀" };
  socket.emit("bytes", nested, Buffer.from("last"));
}

/** Engine.IO alone. */
function engine(server) {
  const engine = attach(server);
  engine.on("connection", (socket) => {
    socket.on("message", (message) => {
      if (message === "close") return socket.close();
      if (message !== "data, then close") return socket.send(message);
      socket.send("some");
      socket.send("data");
      socket.close();
    });
  });
  return engine;
}

/** What is known, by name: why a socket left, which gates are open. */
class Facts {
  known = new Map();
  waiting = new Map();

  set(name, value) {
    this.known.set(name, value);
    this.waiting.get(name)?.forEach((resolve) => resolve(value));
    this.waiting.delete(name);
  }

  /** The fact, as soon as there is one. */
  wait(name) {
    if (this.known.has(name)) return Promise.resolve(this.known.get(name));
    return new Promise((resolve) => {
      this.waiting.set(name, [...(this.waiting.get(name) ?? []), resolve]);
    });
  }
}

/** What tests do beside the client: they read facts, open gates, and act on sockets. */
async function control(io, facts, request, response) {
  const url = new URL(request.url, "http://localhost");
  const [, , action, ...rest] = url.pathname.split("/").map(decodeURIComponent);
  let text = "";
  for await (const chunk of request) text += chunk;
  const nsp = () => io.of(url.searchParams.get("of") ?? "/");
  const answer = (status, body = "") => response.writeHead(status).end(body);
  switch (action) {
    case "ping":
      return answer(200, "pong");
    case "fact": {
      const late = new Promise((resolve) => setTimeout(resolve, 20_000));
      const value = await Promise.race([facts.wait(rest.join("/")), late]);
      return value === undefined ? answer(404) : answer(200, value);
    }
    case "open":
      facts.set(`gate/${rest[0]}`, "");
      return answer(200);
    case "say": {
      const { event, args = [], ...target } = JSON.parse(text);
      narrow(nsp(), target).emit(event, ...args);
      return answer(200);
    }
    case "socket": {
      const socket = nsp().sockets.get(rest[0]);
      if (!socket) return answer(404);
      return answer(act(socket, rest[1]) ? 200 : 400);
    }
    case "close":
      answer(200);
      return io.close();
    default:
      return answer(404);
  }
}

function act(socket, action) {
  switch (action) {
    case "disconnect":
      return socket.disconnect();
    case "close":
      return socket.disconnect(true);
    case "emit":
      return socket.emit("from outside", 1);
    case "volatile":
      return socket.volatile.emit("volatile", 1);
    case "bytes":
      bytes(socket);
      return true;
    case "emit and close":
      socket.emit("from outside", 1);
      return socket.disconnect(true);
    default:
      return false;
  }
}

main();
