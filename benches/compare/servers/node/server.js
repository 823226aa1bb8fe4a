// socket.io as its README sets it up. Usage: node server.js PORT
"use strict";

const { createServer } = require("node:http");
const { Server } = require("socket.io");

const port = Number(process.argv[2]);
if (!port) {
  console.error("usage: node server.js PORT");
  process.exit(2);
}

const httpServer = createServer();
const io = new Server(httpServer);

io.on("connection", (socket) => {
  socket.on("echo", (data, ack) => ack(data));
  socket.on("echo-bin", (data, ack) => ack(data));
  socket.on("broadcast", (data) => io.emit("broadcast", data));
  socket.on("join", (room, ack) => {
    socket.join(room);
    ack();
  });
  socket.on("leave", (room, ack) => {
    socket.leave(room);
    ack();
  });
  socket.on("room", (room, data) => io.to(room).emit("room", data));
});

// The listen backlog is raised so that a burst of connects measures the
// server and not the kernel's SYN retry timer.
httpServer.listen({ port, host: "127.0.0.1", backlog: 4096 });
