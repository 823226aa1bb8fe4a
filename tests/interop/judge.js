// Reads and writes packets with the official parsers, for `tests/oracle`. Questions arrive on
// stdin, and answers go to stdout. See `tests/oracle/judge.rs`.

import { readSync, writeSync } from "node:fs";
import { createRequire } from "node:module";
import { types } from "node:util";

import * as engine from "engine.io-parser";
import * as parser from "socket.io-parser";

const require = createRequire(import.meta.url);
const msgpackParser = require("socket.io-msgpack-parser");
// The parser of Socket.IO 2 clients. It is a dependency of the client package, so it is imported
// from there.
const folder = new URL("node_modules/socket.io-client-v2/package.json", import.meta.url);
const oldParser = createRequire(folder)("socket.io-parser");
// The parser with which Node's server reads and writes the bodies of these clients.
const oldEngine = require("./node_modules/engine.io/build/parser-v3/index.js");

class Reader {
  constructor(buffer) {
    this.buffer = buffer;
    this.at = 0;
  }

  get isAtEnd() {
    return this.at === this.buffer.length;
  }

  byte() {
    return this.buffer[this.at++];
  }

  count() {
    this.at += 4;
    return this.buffer.readUInt32LE(this.at - 4);
  }

  bytes() {
    const length = this.count();
    this.at += length;
    return this.buffer.subarray(this.at - length, this.at);
  }

  text() {
    return this.bytes().toString("utf16le");
  }

  number() {
    this.at += 8;
    return this.buffer.readDoubleLE(this.at - 8);
  }

  value() {
    const kind = String.fromCharCode(this.byte());
    switch (kind) {
      case "u": return undefined;
      case "n": return null;
      case "f": return false;
      case "t": return true;
      case "d": return this.number();
      case "s": return this.text();
      case "b": return this.bytes();
      case "a": return Array.from({ length: this.count() }, () => this.value());
      case "o": {
        const object = {};
        for (let left = this.count(); left > 0; left--) {
          const key = this.text();
          // An assignment would set the prototype if the key is `__proto__`.
          Object.defineProperty(object, key, {
            value: this.value(),
            configurable: true,
            enumerable: true,
            writable: true,
          });
        }
        return object;
      }
      default: throw new Error(`a value of the kind ${kind}`);
    }
  }
}

class Writer {
  constructor() {
    this.buffer = Buffer.allocUnsafe(1 << 20);
    this.at = 0;
  }

  reserve(length) {
    if (this.at + length <= this.buffer.length) return;
    const longer = Buffer.allocUnsafe(2 * (this.at + length));
    this.buffer.copy(longer, 0, 0, this.at);
    this.buffer = longer;
  }

  byte(byte) {
    this.reserve(1);
    this.buffer[this.at++] = byte;
  }

  letter(letter) {
    this.byte(letter.charCodeAt(0));
  }

  count(count) {
    this.reserve(4);
    this.at = this.buffer.writeUInt32LE(count, this.at);
  }

  bytes(bytes) {
    this.count(bytes.length);
    this.reserve(bytes.length);
    this.at += Buffer.from(bytes).copy(this.buffer, this.at);
  }

  text(text) {
    this.count(2 * text.length);
    this.reserve(2 * text.length);
    this.at += this.buffer.write(text, this.at, "utf16le");
  }

  number(number) {
    this.reserve(8);
    this.at = this.buffer.writeDoubleLE(number, this.at);
  }

  value(value) {
    if (value === undefined) return this.letter("u");
    if (value === null) return this.letter("n");
    if (value === false) return this.letter("f");
    if (value === true) return this.letter("t");
    if (typeof value === "number") {
      this.letter("d");
      return this.number(value);
    }
    if (typeof value === "string") {
      this.letter("s");
      return this.text(value);
    }
    // A handler sees a date as a text or as null, with every parser.
    if (types.isDate(value)) return this.value(value.toJSON());
    if (types.isAnyArrayBuffer(value)) value = Buffer.from(value);
    if (ArrayBuffer.isView(value)) {
      this.letter("b");
      return this.bytes(value);
    }
    if (Array.isArray(value)) {
      this.letter("a");
      this.count(value.length);
      for (let n = 0; n < value.length; n++) this.value(value[n]);
      return;
    }
    const keys = Object.keys(value);
    this.letter("o");
    this.count(keys.length);
    for (const key of keys) {
      this.text(key);
      this.value(value[key]);
    }
  }

  /** Calls `write`, and writes the length of its output in front of it. */
  measured(write) {
    const start = this.at;
    this.count(0);
    write();
    this.buffer.writeUInt32LE(this.at - start - 4, start);
  }

  /** Writes a message, which is text or bytes. */
  message(message) {
    const isText = typeof message === "string";
    this.letter(isText ? "T" : "B");
    this.bytes(isText ? Buffer.from(message) : message);
  }
}

/** Reads messages with a decoder. Writes for each message a packet, nothing yet, or the reason of a refusal. */
function decode(decoder, question, answer) {
  let decoded;
  decoder.on("decoded", (packet) => (decoded = packet));
  while (!question.isAtEnd) {
    const isText = question.byte() === 0x54;
    const bytes = question.bytes();
    decoded = undefined;
    try {
      // An Engine.IO packet without data has the data `undefined`.
      decoder.add(isText ? bytes.toString() || undefined : bytes);
    } catch (error) {
      answer.letter("R");
      return answer.bytes(Buffer.from(error.message));
    }
    if (decoded === undefined) {
      answer.letter("M");
      continue;
    }
    answer.letter("P");
    answer.value(decoded.type);
    answer.value(decoded.nsp);
    answer.value(decoded.id);
    answer.value(decoded.data);
  }
}

/** Encodes a packet, and writes its messages. */
function encode(write, question, answer) {
  const packet = { type: question.byte(), nsp: question.value() };
  const id = question.value();
  const data = question.value();
  if (id !== undefined) packet.id = id;
  if (data !== undefined) packet.data = data;
  for (const message of write(packet)) answer.message(message);
}

function encodeOld(packet) {
  let messages;
  const isBinary = packet.type === 2 || packet.type === 3 ? hasBytes(packet.data) : false;
  if (isBinary) packet.type += 3;
  new oldParser.Encoder().encode(packet, (encoded) => (messages = encoded));
  return messages;
}

function hasBytes(value) {
  if (ArrayBuffer.isView(value)) return true;
  return value !== null && typeof value === "object" && Object.values(value).some(hasBytes);
}

function writeEnginePacket(packet, answer) {
  answer.value(packet.type);
  answer.value(packet.data);
}

const operations = {
  d: (question, answer) => decode(new parser.Decoder(), question, answer),
  e: (question, answer) => encode((packet) => new parser.Encoder().encode(packet), question, answer),
  o: (question, answer) => decode(new oldParser.Decoder(), question, answer),
  O: (question, answer) => encode(encodeOld, question, answer),
  m: (question, answer) => decode(new msgpackParser.Decoder(), question, answer),
  M: (question, answer) => encode((packet) => new msgpackParser.Encoder().encode(packet), question, answer),

  // A long-polling body, as Node's server reads it.
  p: (question, answer) => {
    const body = question.bytes().toString();
    for (const packet of engine.decodePayload(body, "nodebuffer")) writeEnginePacket(packet, answer);
  },
  P: (question, answer) => {
    const packets = [];
    while (!question.isAtEnd) packets.push({ type: question.value(), data: question.value() });
    engine.encodePayload(packets, (body) => answer.bytes(Buffer.from(body)));
  },

  // The same in revision 3. The body is text or bytes.
  v: (question, answer) => {
    const isBinary = question.byte() === 1;
    const body = question.bytes();
    const callback = (packet) => {
      writeEnginePacket(packet, answer);
      return packet.type !== "error";
    };
    oldEngine.decodePayload(isBinary ? Buffer.from(body) : body.toString(), "nodebuffer", callback);
  },
  V: (question, answer) => {
    const supportsBinary = question.byte() === 1;
    const packets = [];
    while (!question.isAtEnd) packets.push({ type: question.value(), data: question.value() });
    oldEngine.encodePayload(packets, supportsBinary, (body) => answer.message(body));
  },
};

function read(length) {
  const buffer = Buffer.allocUnsafe(length);
  for (let at = 0; at < length; ) {
    const count = readSync(0, buffer, at, length - at);
    if (count === 0) process.exit(0);
    at += count;
  }
  return buffer;
}

function write(buffer) {
  for (let at = 0; at < buffer.length; ) at += writeSync(1, buffer, at, buffer.length - at);
}

for (;;) {
  const questions = new Reader(read(read(4).readUInt32LE()));
  const answers = new Writer();
  answers.measured(() => {
    while (!questions.isAtEnd) {
      const question = new Reader(questions.bytes());
      const operation = operations[String.fromCharCode(question.byte())];
      answers.measured(() => operation(question, answers));
    }
  });
  write(answers.buffer.subarray(0, answers.at));
}
