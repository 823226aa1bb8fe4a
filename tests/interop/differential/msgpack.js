// Scripts about the parser of MessagePack: a packet is one binary message.

import notepack from "notepack.io";
import { script } from "./script.js";

const packet = (type, rest = {}) => notepack.encode({ type, nsp: "/", ...rest });
const CONNECT = packet(0);
const EVENT = 2;
const ACK = 3;

const connected = (name) => [
  [name, "ws"],
  [name, "send", CONNECT],
  [name, "read"],
];

const refused = (...messages) => [
  ...connected("a"),
  ["a", "send", ...messages],
  ["a", "closed"],
  ["a", "reason"],
];

export const msgpack = [
  script("MessagePack: a connection", "msgpack", connected("a")),
  script("MessagePack: a connection by polling", "msgpack", [
    ["a", "open"],
    ["a", "post", `b${CONNECT.toString("base64")}`],
    ["a", "get"],
  ]),
  script("MessagePack: a connection with a payload", "msgpack", [
    ["a", "ws"],
    ["a", "send", packet(0, { nsp: "/chat", data: { greet: [1, null, "é"] } })],
    ["a", "read", 2],
  ]),
  script("MessagePack: an unknown namespace", "msgpack", [
    ["a", "ws"],
    ["a", "send", packet(0, { nsp: "/unknown" })],
    ["a", "read"],
    ["a", "send", CONNECT],
    ["a", "read"],
  ]),
  script("MessagePack: a client that is refused", "msgpack", [
    ["a", "ws"],
    ["a", "send", packet(0, { data: { refuse: "no", data: { code: 7 } } })],
    ["a", "read"],
  ]),
  script("MessagePack: events", "msgpack", [
    ...connected("a"),
    ["a", "send", packet(EVENT, { data: ["echo", 1, "2", { 3: [true, null] }] })],
    ["a", "read"],
    ["a", "send", packet(EVENT, { data: ["echo", -1, 1.5, 2 ** 40, "é€😀"] })],
    ["a", "read"],
    ["a", "send", packet(EVENT, { data: ["echo"] })],
    ["a", "read"],
  ]),
  script("MessagePack: bytes", "msgpack", [
    ...connected("a"),
    ["a", "send", packet(EVENT, { data: ["echo", Buffer.from([1, 2]), { a: Buffer.alloc(0) }] })],
    ["a", "read"],
    ["a", "send", packet(EVENT, { data: ["bytes"] })],
    ["a", "read"],
  ]),
  script("MessagePack: acknowledgements", "msgpack", [
    ...connected("a"),
    ["a", "send", packet(EVENT, { data: ["ack", 1, Buffer.from([1])], id: 7 })],
    ["a", "read"],
    ["a", "send", packet(EVENT, { data: ["ack"], id: 0 })],
    ["a", "read"],
  ]),
  script("MessagePack: an answer that nobody waits for", "msgpack", [
    ...connected("a"),
    ["a", "send", packet(ACK, { data: [1], id: 999 })],
    ["a", "send", packet(EVENT, { data: ["ack"], id: 1 })],
    ["a", "read"],
  ]),
  script("MessagePack: a client leaves", "msgpack", [
    ...connected("a"),
    ["a", "send", packet(1)],
    ["a", "reason"],
  ]),
  script("MessagePack: the server makes a client leave", "msgpack", [
    ...connected("a"),
    ["a", "send", packet(EVENT, { data: ["disconnect me", false] })],
    ["a", "read", 2],
    ["a", "reason"],
  ]),
  script("MessagePack: a broadcast", "msgpack", [
    ["a", "ws"],
    ["a", "send", packet(0, { data: { join: "m" } })],
    ["a", "read"],
    ["", "announce", { event: "said", args: [1, "é"], to: ["m"] }],
    ["a", "read"],
  ]),
  script("MessagePack: bytes that are none", "msgpack", refused(Buffer.from([0xc1]))),
  script("MessagePack: half a packet", "msgpack", refused(packet(EVENT).subarray(0, 4))),
  script("MessagePack: an empty message", "msgpack", refused(Buffer.alloc(0))),
  script("MessagePack: an unknown type", "msgpack", refused(packet(5, { data: ["echo"] }))),
  script("MessagePack: a type that is a text", "msgpack", refused(packet("2", { data: ["echo"] }))),
  script("MessagePack: no namespace", "msgpack",
    refused(notepack.encode({ type: 2, data: ["echo"] }))),
  script("MessagePack: an event without data", "msgpack", refused(packet(EVENT))),
  script("MessagePack: an event with an object as data", "msgpack",
    refused(packet(EVENT, { data: {} }))),
  script("MessagePack: an id that is a text", "msgpack",
    refused(packet(EVENT, { data: ["ack"], id: "1" }))),
  script("MessagePack: a packet that is an array", "msgpack", refused(notepack.encode([2, "/"]))),
  script("MessagePack: a text message", "msgpack", refused('42["echo"]')),
];
