// A client of the example `typed`, with the types that the server has written.
//
// Compile it with `tsc --strict`, and run it with the address of the server.

import { io, type Socket } from "socket.io-client";
import type { ClientToServerEvents, ServerToClientEvents } from "./events";

type Client = Socket<ServerToClientEvents, ClientToServerEvents>;

const url = process.argv[2] ?? "http://localhost:3000";
const ann: Client = io(url);
const bob: Client = io(url);

/** Resolves with what a client receives next. */
const posted = (client: Client) =>
  new Promise<Parameters<ServerToClientEvents["message:posted"]>[0]>((resolve) =>
    client.once("message:posted", (message) => resolve(message)),
  );

await ann.emitWithAck("join", { room: "tea" });
const people = await bob.emitWithAck("join", { room: "tea" });
console.log(`${people} people are here`);

const text = posted(bob);
const { number } = await ann.emitWithAck("post", {
  room: "tea",
  content: { kind: "text", text: "Who wants tea?" },
});
const first = await text;
// `answers` is `number | null` here, and may be missing above.
console.log(first.number === number, first.answers, first.content);

const image = posted(ann);
const sent = new Promise<number>((resolve) => bob.emit("post", {
  room: "tea",
  content: { kind: "image", bytes: new Uint8Array([1, 2, 3]) },
  answers: number,
}, (receipt) => resolve(receipt.number)));
console.log(`sent as ${await sent}`);
const second = await image;
if (second.content.kind === "image") {
  // An `ArrayBuffer` in a browser, a `Buffer` in Node.js.
  const bytes = new Uint8Array(second.content.bytes);
  console.log(`answers ${second.answers}:`, [...bytes], second.content.altText);
}

const pointer = new Promise<[number, number]>((resolve) =>
  ann.once("pointer", (_room, x, y) => resolve([x, y])),
);
bob.emit("pointer", "tea", 0.25, 0.5);
console.log("pointer at", await pointer);

bob.on("confirm", ({ question }, ack) => ack(question === "leave tea?"));
console.log("left:", await bob.emitWithAck("leave", { room: "tea" }));

ann.close();
bob.close();
