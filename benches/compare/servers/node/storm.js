// The server of benches/storm, on Node. Usage: node storm.js PORT; the README of benches/storm has the
// environment variables.
"use strict";

const { createServer } = require("node:http");
const { Server } = require("socket.io");

const port = Number(process.argv[2] || process.env.PORT);
if (!port) {
  console.error("usage: node storm.js PORT");
  process.exit(2);
}
const recovery = { maxDisconnectionDuration: 120_000, skipMiddlewares: true };

const httpServer = createServer(serve);
const io = new Server(httpServer, {
  transports: ["websocket"],
  pingInterval: Number(process.env.PING_INTERVAL || 3000),
  pingTimeout: Number(process.env.PING_TIMEOUT || 6000),
  ...(process.env.SOCKETIO_CSR === "1" ? { connectionStateRecovery: recovery } : {}),
});

let connections = 0;
io.on("connection", (socket) => {
  connections += 1;
  socket.on("disconnect", () => {
    connections -= 1;
  });
  socket.on("join", (stream, ack) => {
    socket.join(stream);
    ack?.();
  });
  socket.on("echo", (data, ack) => ack(data));
});

async function serve(request, response) {
  const answer = (value) => response.end(JSON.stringify(value));
  response.setHeader("Content-Type", "application/json");
  const { pathname } = new URL(request.url, "http://localhost");
  if (pathname === "/health") return answer({ status: "ok" });
  if (pathname === "/stats") return answer({ connections });
  if (pathname === "/_broadcast") {
    const body = [];
    for await (const chunk of request) body.push(chunk);
    const { stream, data } = JSON.parse(Buffer.concat(body).toString());
    io.to(stream).emit("message", JSON.parse(data));
    return answer({ ok: true });
  }
  response.statusCode = 404;
  answer({});
}

httpServer.listen({ port, host: "127.0.0.1", backlog: Number(process.env.BACKLOG || 4096) }, () => {
  console.log(`listening on ${port}`);
});
