// Scripts with the official clients.

import { script } from "./script.js";

const WEBSOCKET = { transports: ["websocket"] };
const POLLING = { transports: ["polling"] };

export const clients = [
  script("client: an event and its answer by polling", "default", [
    ["a", "client", POLLING],
    ["a", "emits", "echo", 1, "é€😀", { a: [null] }],
    ["a", "hears"],
    ["a", "asks", "ack", 1, [2]],
  ]),
  script("client: an event and its answer by WebSocket", "default", [
    ["a", "client", WEBSOCKET],
    ["a", "emits", "echo", 1, "é€😀", { a: [null] }],
    ["a", "hears"],
    ["a", "asks", "ack", 1, [2]],
  ]),
  script("client: an upgrade", "default", [
    ["a", "client"],
    ["a", "upgraded"],
    ["a", "asks", "transport"],
  ]),
  script("client: bytes", "default", [
    ["a", "client", WEBSOCKET],
    ["a", "emits", "echo", Buffer.from([1, 2]), { deep: Buffer.from([3]) }],
    ["a", "hears"],
    ["a", "emits", "bytes"],
    ["a", "hears"],
    ["b", "client", POLLING],
    ["b", "emits", "bytes"],
    ["b", "hears"],
  ]),
  script("client: a payload of the connection", "default", [
    ["a", "client", { ...WEBSOCKET, auth: { greet: "hi" } }],
    ["a", "hears"],
  ]),
  script("client: a refusal, with data", "default", [
    ["a", "client", { ...WEBSOCKET, auth: { refuse: "no", data: { code: 7 } } }],
    ["b", "client", { ...POLLING, auth: { refuse: "no" } }],
  ]),
  script("client: an unknown namespace", "default", [
    ["a", "client", { ...WEBSOCKET, namespace: "/unknown" }],
  ]),
  script("client: it leaves and comes again", "default", [
    ["a", "client", WEBSOCKET],
    ["a", "leaves"],
    ["a", "hears"],
    ["a", "comes"],
    ["a", "hears"],
    ["a", "asks", "ack"],
  ]),
  script("client: the server makes it leave", "default", [
    ["a", "client", WEBSOCKET],
    ["a", "emits", "disconnect me", false],
    ["a", "hears", 2],
    ["b", "client", WEBSOCKET],
    ["b", "emits", "disconnect me", true],
    ["b", "hears", 2],
  ]),
  script("client: the server makes it leave by polling", "default", [
    ["a", "client", POLLING],
    ["a", "emits", "disconnect me", true],
    ["a", "hears", 2],
  ]),
  script("client: the server asks", "default", [
    ["a", "client", WEBSOCKET],
    ["a", "emits", "ask", { event: "question", args: [1] }],
    ["a", "hears", 2],
  ]),
  script("client: a broadcast to versions 3 and 4", "default", [
    ["a", "client", { ...WEBSOCKET, auth: { join: "{s}" } }],
    ["b", "client", { ...POLLING, version: 3, auth: { join: "{s}" } }],
    ["", "announce", { event: "said", args: ["all"], to: ["{s}"] }],
    ["a", "hears"],
    ["b", "hears"],
  ]),
  script("client: version 2", "eio3", [
    ["a", "client", { ...WEBSOCKET, version: 2 }],
    ["a", "emits", "echo", 1, Buffer.from([1])],
    ["a", "hears"],
    ["a", "asks", "ack", "é€😀"],
    ["b", "client", { ...POLLING, version: 2 }],
    ["b", "emits", "bytes"],
    ["b", "hears"],
    ["b", "asks", "ack", "é€😀"],
  ]),
  script("client: version 2 where it is not allowed", "default", [
    ["a", "client", { ...WEBSOCKET, version: 2 }],
    ["b", "client", { ...POLLING, version: 2 }],
  ]),
  script("client: version 2 in another namespace, and refused", "eio3", [
    ["a", "client", { ...WEBSOCKET, version: 2, namespace: "/chat?greet=hi" }],
    ["a", "hears"],
    ["b", "client", { ...WEBSOCKET, version: 2, namespace: "/chat?refuse=no" }],
  ]),
  script("client: a pong is answered in time", "pings", [
    ["a", "client", WEBSOCKET],
    ["a", "pinged", 2],
    ["a", "asks", "ack", "still here"],
    ["b", "client", POLLING],
    ["b", "pinged", 2],
    ["b", "asks", "ack", "still here"],
  ]),
];
