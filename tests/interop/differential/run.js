// Plays scripts against a server and writes down what it answers.
//
// A script is a list of steps, each `[actor, verb, ...arguments]`; the verbs are the methods of
// `Player`. In their texts `{a.sid}` stands for the session of the actor `a`, `{a.id}` for its
// socket (`{a.id/chat}` in another namespace), `{a.ack}` for the last question it was asked, and
// `{s}` for a word that no other script has. A transcript has a line for each step and for each
// thing that came, with what is random or says the time replaced by when it first appeared.

import { once } from "node:events";
import http from "node:http";
import net from "node:net";
import zlib from "node:zlib";
import notepack from "notepack.io";
import { io } from "socket.io-client";
import io2 from "socket.io-client-v2";
import { io as io3 } from "socket.io-client-v3";
import { WebSocket } from "ws";

/** How long something may take that comes. No script waits for this long if all is well. */
const PATIENCE = 30_000;

/** What no two servers have in common, or what only the connection is about. */
const UNHEARD = new Set([
  "connection",
  "content-length",
  "date",
  "keep-alive",
  "sec-websocket-accept",
  "transfer-encoding",
  "upgrade",
]);

const CLIENTS = { 2: io2, 3: io3, 4: io };

export async function play(script, port) {
  const player = new Player(script, port);
  try {
    for (const step of script.steps) await player.step(step);
  } finally {
    player.end();
  }
  return player.transcript();
}

class Player {
  lines = [];
  actors = new Map();
  secrets = new Map();

  constructor(script, port) {
    this.word = script.word;
    this.on = script.on;
    this.port = port;
    this.base = script.on === "engine" ? "/engine.io/" : "/socket.io/";
    this.control = new http.Agent({ keepAlive: true });
  }

  async step([name, verb, ...args]) {
    if (typeof this[verb] !== "function") throw new Error(`no verb ${verb}`);
    this.lines.push(["", name, verb, ...args.map(shown)].join(" ").trim());
    const actor = this.actor(name);
    await this[verb](actor, ...this.filled(args));
  }

  actor(name) {
    if (!this.actors.has(name)) this.actors.set(name, new Actor(name));
    return this.actors.get(name);
  }

  /** The arguments with what the actors know in them. */
  filled(value) {
    if (typeof value === "string") {
      return value.replace(/\{(?:s|(\w+)\.(\w+(?:\/[\w-]*)?))\}/g, (hole, name, what) => {
        if (name === undefined) return this.word;
        return this.actors.get(name)?.known[what] ?? `no ${what}`;
      });
    }
    if (Array.isArray(value)) return value.map((each) => this.filled(each));
    if (value === null || typeof value !== "object" || Buffer.isBuffer(value)) return value;
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, this.filled(v)]));
  }

  // Long-polling.

  /** A handshake by polling. */
  async open(actor, options = {}) {
    const { eio = "EIO=4&", query = "", path = this.base, ...rest } = options;
    actor.path = path;
    actor.query = eio;
    actor.isOld = !eio.includes("EIO=4");
    const target = `${path}?${eio}transport=polling${query}`;
    this.heard(actor, await this.request(actor, "GET", target, rest));
  }

  async get(actor, options) {
    this.heard(actor, await this.request(actor, "GET", actor.place(), options));
  }

  async post(actor, body, options) {
    this.heard(actor, await this.request(actor, "POST", actor.place(), { body, ...options }));
  }

  /** A request of any kind. */
  async ask(actor, method, target, options) {
    this.heard(actor, await this.request(actor, method, target, options));
  }

  /** As many packets as said, by as many GETs as it takes. */
  async receive(actor, count = 1) {
    for (let left = count; left > 0;) {
      const response = await this.request(actor, "GET", actor.place());
      if (response.status !== 200) return this.heard(actor, response);
      const packets = actor.packets(response.text);
      packets.forEach((packet) => this.packet(actor, packet));
      left -= packets.length;
    }
  }

  /** All packets until the server's close packet, or until the session is not known. */
  async rest(actor) {
    for (;;) {
      const response = await this.request(actor, "GET", actor.place());
      if (response.status !== 200) return this.heard(actor, response);
      const packets = actor.packets(response.text);
      packets.forEach((packet) => this.packet(actor, packet));
      if (packets.includes("1")) return;
    }
  }

  /** A GET that waits on the server while the script goes on. */
  async hold(actor) {
    actor.held = this.begin(actor, "GET", actor.place());
    await this.arrived();
  }

  /** What the waiting GET is answered. */
  async released(actor) {
    this.heard(actor, await actor.held.response);
  }

  /** The waiting request is given up. */
  async abort(actor) {
    actor.held.request.destroy();
    await actor.held.response;
    await this.arrived();
  }

  /** A POST whose body is not complete yet. */
  async "begin post"(actor, part, length, headers) {
    const options = { headers: { "content-length": length, ...headers }, open: true };
    actor.held = this.begin(actor, "POST", actor.place(), options);
    actor.held.request.write(part);
    await this.arrived();
  }

  "end post"(actor, rest) {
    actor.held.request.end(rest);
  }

  /** Until the session is not known any more; `patience` is for sessions that may stay. */
  async gone(actor, patience = PATIENCE) {
    const end = Date.now() + patience;
    for (;;) {
      const body = actor.isOld ? "1:2" : "3";
      const response = await this.request(actor, "POST", actor.place(), { body });
      if (response.text.includes('"code":1,')) return this.heard(actor, response);
      if (Date.now() > end) return this.say(actor, "still there");
      await sleep(20);
    }
  }

  // WebSocket.

  /** A WebSocket; without a session's id in the query it begins one. */
  async ws(actor, options = {}) {
    const { eio = "EIO=4&", query = "", path = this.base, headers } = options;
    actor.isOld = !eio.includes("EIO=4");
    const target = `${path}?${eio}transport=websocket${query}`;
    if (!(await this.handshake(actor, target, headers))) return;
    if (!query.includes("sid=")) await this.read(actor);
  }

  /** A WebSocket for the session that began by polling. */
  async upgrade(actor, { headers } = {}) {
    const target = actor.place().replace("transport=polling", "transport=websocket");
    await this.handshake(actor, target, headers);
  }

  async handshake(actor, target, headers) {
    const options = { perMessageDeflate: false, headers };
    const socket = new WebSocket(`ws://127.0.0.1:${this.port}${target}`, options);
    actor.socket = socket;
    actor.frames = [];
    socket.on("message", (data, isBinary) => actor.take(isBinary ? data : data.toString()));
    socket.on("close", (code, reason) => actor.take({ code, reason: reason.toString() }));
    socket.on("error", () => {});
    const outcome = await Promise.race([
      once(socket, "upgrade").then(([response]) => ({ response })),
      once(socket, "unexpected-response").then(([, response]) => ({ refused: response })),
      once(socket, "close").then(() => ({})),
    ]);
    if (outcome.refused) {
      this.refused(actor, await received(outcome.refused));
      socket.removeAllListeners("close");
      socket.terminate();
      return false;
    }
    if (!outcome.response) {
      this.say(actor, "no WebSocket");
      return false;
    }
    this.say(actor, `101${headersOf(outcome.response.headers)}`);
    return true;
  }

  refused(actor, { status, headers, text }) {
    this.say(actor, `refused ${status}${headersOf(headers)}`);
    this.say(actor, `refused ${shown(text)}`);
    actor.refused = true;
  }

  send(actor, ...messages) {
    messages.forEach((message) => actor.socket.send(message));
  }

  /** The next messages. */
  async read(actor, count = 1) {
    for (let n = 0; n < count && !actor.refused; n++) {
      const frame = await actor.next();
      this.frame(actor, frame);
      if (frame === undefined || frame.code) return;
    }
  }

  /** All messages until the end of the connection. */
  async closed(actor) {
    while (!actor.refused) {
      const frame = await actor.next();
      this.frame(actor, frame);
      if (frame === undefined || frame.code) return;
    }
  }

  close(actor, ...how) {
    actor.socket.close(...how);
  }

  /** Ends the TCP connection, without a close frame. */
  terminate(actor) {
    actor.socket.terminate();
  }

  frame(actor, frame) {
    if (frame === undefined) return this.say(actor, "nothing");
    if (!frame.code) return this.packet(actor, frame);
    this.say(actor, `closed ${frame.code} ${frame.reason}`.trim());
  }

  /**
   * All that comes until an acknowledgement: what was sent before it has been handled, and nothing
   * else came of it.
   */
  async sync(actor, namespace = "") {
    const question = `42${namespace}99["sync"]`;
    const answer = `43${namespace}99[]`;
    if (actor.socket) {
      actor.socket.send(question);
      for (;;) {
        const frame = await actor.next();
        if (frame === answer) return;
        this.frame(actor, frame);
        if (frame === undefined || frame.code) return;
      }
    }
    const body = actor.isOld ? `${question.length}:${question}` : question;
    const posted = await this.request(actor, "POST", actor.place(), { body });
    if (posted.status !== 200) return this.heard(actor, posted);
    for (;;) {
      const response = await this.request(actor, "GET", actor.place());
      if (response.status !== 200) return this.heard(actor, response);
      const packets = actor.packets(response.text);
      packets.filter((each) => each !== answer).forEach((each) => this.packet(actor, each));
      if (packets.includes(answer)) return;
    }
  }

  // TCP.

  /** The request of a WebSocket's handshake, word by word, and how it is refused. */
  async knock(actor, headers, target = `${this.base}?EIO=4&transport=websocket`) {
    const lines = [`GET ${target} HTTP/1.1`, "Host: localhost", ...headers, "", ""];
    const isWhole = (bytes) => {
      const text = bytes.toString("latin1");
      const length = /content-length: (\d+)/i.exec(text)?.[1] ?? 0;
      const [, body] = text.split("\r\n\r\n");
      return body?.length >= Number(length);
    };
    const bytes = await this.connection(isWhole, (socket) => socket.write(lines.join("\r\n")));
    const [head, text] = bytes.toString("latin1").split("\r\n\r\n");
    const [status, ...fields] = head.split("\r\n");
    const pairs = fields.map((field) => field.split(/: */));
    const told = Object.fromEntries(pairs.map(([name, value]) => [name.toLowerCase(), value]));
    this.refused(actor, { status: status.split(" ")[1], headers: told, text });
  }

  /**
   * Frames, as hexadecimal, behind a WebSocket's handshake, each part when something came after
   * the one before; then all until the server's close frame.
   */
  async frames(actor, ...parts) {
    const head =
      `GET ${this.base}?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\n` +
      "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
      "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    const isWhole = (bytes) => framesOf(bytes).at(-1)?.[0] === 0x88;
    const bytes = await this.connection(isWhole, async (socket) => {
      socket.write(head);
      for (const part of parts) {
        await once(socket, "data");
        socket.write(Buffer.from(part.replaceAll(" ", ""), "hex"));
      }
    });
    for (const [opcode, payload] of framesOf(bytes)) {
      if (opcode === 0x81) this.packet(actor, payload.toString());
      else if (opcode === 0x88) this.frame(actor, closeOf(payload));
      else this.say(actor, `frame ${opcode.toString(16)} ${payload.toString("hex")}`);
    }
  }

  /** What comes on a TCP connection until it is whole, or the server ends it. */
  async connection(isWhole, write) {
    const socket = net.connect(this.port, "127.0.0.1");
    let bytes = Buffer.alloc(0);
    const whole = new Promise((resolve) => {
      socket.on("data", (chunk) => {
        bytes = Buffer.concat([bytes, chunk]);
        if (isWhole(bytes)) resolve();
      });
      socket.on("close", resolve);
    });
    socket.on("error", () => {});
    await once(socket, "connect");
    await write(socket);
    await Promise.race([whole, sleep(PATIENCE)]);
    socket.destroy();
    return bytes;
  }

  // The official clients.

  /** A client of this version, until it is connected or refused. */
  async client(actor, { version = 4, namespace = "", ...options } = {}) {
    const url = `http://127.0.0.1:${this.port}${namespace}`;
    const defaults = { forceNew: true, reconnection: false };
    actor.client = CLIENTS[version](url, { ...defaults, ...options });
    actor.client.on("connect", () => actor.take({ told: "connected" }));
    actor.client.on("connect_error", (error) => actor.take({ told: errorOf(error) }));
    actor.client.on("error", (error) => actor.take({ told: errorOf(error) }));
    actor.client.on("disconnect", (reason) => actor.take({ told: `left: ${reason}` }));
    for (const event of ["hello", "echoed", "said", "bytes", "bye", "answer", "question"]) {
      actor.client.on(event, (...args) => {
        const ack = typeof args.at(-1) === "function" ? args.pop() : undefined;
        actor.take({ told: `${event} ${JSON.stringify(args)}` });
        ack?.("an answer", 2);
      });
    }
    await this.hears(actor);
  }

  async hears(actor, count = 1) {
    for (let n = 0; n < count; n++) this.say(actor, (await actor.next())?.told ?? "nothing");
  }

  emits(actor, ...args) {
    actor.client.emit(...args);
  }

  /** An event that is acknowledged. */
  async asks(actor, ...args) {
    const answer = new Promise((resolve) => {
      actor.client.emit(...args, (...answer) => resolve(JSON.stringify(answer)));
    });
    const late = sleep(PATIENCE).then(() => "no answer");
    this.say(actor, await Promise.race([answer, late]));
  }

  /** The transport that the client uses, when the upgrade is done. */
  async upgraded(actor) {
    const { engine } = actor.client.io;
    if (engine.transport.name !== "websocket") await once(engine, "upgrade");
    this.say(actor, engine.transport.name);
  }

  leaves(actor) {
    actor.client.disconnect();
  }

  comes(actor) {
    actor.client.connect();
  }

  // Beside the client.

  /** Why the socket left, as its disconnect handler was told. */
  async reason(actor, namespace = "") {
    const fact = encodeURIComponent(actor.known[`id${namespace}`]);
    const { status, text } = await this.beside("GET", `fact/reason/${fact}`);
    this.say(actor, status === 200 ? text : "has not left");
  }

  /** Something happens to the socket on the server. */
  async act(actor, action, namespace = "") {
    const id = encodeURIComponent(actor.known[`id${namespace}`]);
    const of = namespace ? `?of=${encodeURIComponent(namespace)}` : "";
    const { status } = await this.beside("POST", `socket/${id}/${encodeURIComponent(action)}${of}`);
    if (status !== 200) this.say(actor, "no such socket");
  }

  /** Until somebody waits at the gate. */
  async "at gate"(_, name) {
    await this.beside("GET", `fact/at/${name}`);
  }

  /** Lets go on who waits at the gate. */
  async gate(_, name) {
    await this.beside("POST", `open/${name}`);
  }

  /** The server says something to some sockets of a namespace. */
  async announce(_, say, namespace = "/") {
    const target = `say?of=${encodeURIComponent(namespace)}`;
    await this.beside("POST", target, JSON.stringify(say));
  }

  /** The server ends. */
  shutdown() {
    this.beside("POST", "close").catch(() => {});
  }

  /** What was sent before has reached the server, and the server has handled it. */
  async settled() {
    await this.arrived();
  }

  /** Until the client has got so many pings. The second follows the pong to the first. */
  async pinged(actor, count) {
    for (let n = 0; n < count; n++) await once(actor.client.io, "ping");
  }

  async wait(_, milliseconds) {
    await sleep(milliseconds);
  }

  async beside(method, action, body) {
    const headers = body === undefined ? {} : { "content-type": "application/json" };
    const options = { agent: this.control, headers, body };
    const response = await exchange(this.port, method, `/control/${action}`, options).response;
    if (!response.status) throw new Error(`${action}: ${response.text}`);
    return response;
  }

  /**
   * Nothing says that a server has got a request that it does not answer. But both servers have one
   * thread, and what they answer on connections that were opened later they have got later.
   */
  async arrived() {
    for (let n = 0; n < 3; n++) {
      await exchange(this.port, "GET", "/control/ping", { agent: false }).response;
    }
  }

  // What is written down.

  begin(actor, method, target, options = {}) {
    return exchange(this.port, method, target, { agent: actor.agent, ...options });
  }

  async request(actor, method, target, options) {
    const { response, request } = this.begin(actor, method, target, options);
    const late = sleep(PATIENCE).then(() => ({ text: "no answer" }));
    const got = await Promise.race([response, late]);
    if (!got.status) request.destroy();
    return got;
  }

  heard(actor, { status, headers, text, length }) {
    if (!status) return this.say(actor, text);
    // Node's server ends the connection too, sooner or later.
    if (status === 413) actor.renew();
    const body = text === "" ? "nothing" : undefined;
    this.say(actor, `${status}${headersOf(headers)}${length ?? ""}`);
    if (body) return;
    if (status !== 200 || /^no payload|^ok$/.test(text)) return this.say(actor, shown(text));
    actor.packets(text).forEach((packet) => this.packet(actor, packet));
  }

  packet(actor, packet) {
    if (Buffer.isBuffer(packet)) return this.bytes(actor, packet);
    if (this.on === "msgpack" && packet[0] === "b") {
      return this.bytes(actor, Buffer.from(packet.slice(1), "base64"));
    }
    const open = /^0(\{"sid":.*)/.exec(packet);
    if (open) this.learn(actor, "sid", field(open[1], "sid"));
    const script = /___eio.*\\"sid\\":\\"([\w-]+)/.exec(packet);
    if (script) this.learn(actor, "sid", script[1]);
    // Ids are not of the same length everywhere.
    if (script) packet = packet.replace(/"\d+:0\{/, '"<length>:0{');
    const connect = /^40(\/[^,]*)?,?(\{.*)/.exec(packet);
    if (connect) {
      this.learn(actor, `id${connect[1] ?? ""}`, field(connect[2], "sid"));
      this.learn(actor, "pid", field(connect[2], "pid"));
    }
    const question = /^(4[25](?:\d+-)?(?:\/[^,]*,)?)(\d+)(\[.*)/.exec(packet);
    if (question) {
      actor.known.ack = question[2];
      return this.say(actor, shown(`${question[1]}<ack>${question[3]}`));
    }
    const event = /^4(?:2|5\d+-)(?:\/[^,]*,)?\[.*,"([\w.-]{7,})"\]$/.exec(packet);
    if (event && this.on === "recovery") this.learn(actor, "offset", event[1]);
    const now = packet
      .replace(/"issued":\d+/, '"issued":<ms>')
      .replace(/"time":"\w{3} [^"]+ GMT[^"]+"/, '"time":<date>')
      .replace(/"sec-websocket-key":"[^"]+"/, '"sec-websocket-key":<key>');
    this.say(actor, now.includes('"issued":') ? now : shown(now));
  }

  /** Bytes; those of MessagePack are written as what they say. */
  bytes(actor, bytes) {
    if (this.on !== "msgpack") return this.say(actor, shown(bytes));
    const packet = notepack.decode(bytes);
    const { type, nsp, data, id } = packet;
    if (type === 0) this.learn(actor, nsp === "/" ? "id" : `id${nsp}`, data.sid);
    if (type === 2 && id !== undefined) {
      actor.known.ack = id;
      packet.id = "<ack>";
    }
    const hex = (key, value) => (value?.type === "Buffer" ? shown(Buffer.from(value.data)) : value);
    // The order of its fields means nothing.
    const sorted = Object.fromEntries(Object.entries(packet).sort());
    this.say(actor, `msgpack ${shown(JSON.stringify(sorted, hex))}`);
  }

  learn(actor, name, value) {
    if (value === undefined) return;
    actor.known[name] = value;
    const kind = name.replace(/\/.*/, "");
    if (this.secrets.has(value)) return;
    const same = [...this.secrets.values()].filter((word) => word.startsWith(`<${kind} `));
    this.secrets.set(value, `<${kind} ${same.length + 1}>`);
  }

  say(actor, text) {
    this.lines.push(`    ${actor.name}: ${text}`);
  }

  transcript() {
    const secrets = [...this.secrets].sort(([a], [b]) => b.length - a.length);
    return this.lines.map((line) => {
      let text = line.replaceAll(`127.0.0.1:${this.port}`, "<host>");
      for (const [secret, word] of secrets) text = text.replaceAll(secret, word);
      return text;
    });
  }

  /** What is left of the script: what came without having been asked for, and the connections. */
  end() {
    for (const actor of this.actors.values()) {
      for (const frame of actor.frames) {
        if (frame.told === undefined) this.frame(actor, frame);
        else this.say(actor, frame.told);
      }
      actor.client?.disconnect();
      actor.socket?.terminate();
      actor.held?.request.destroy();
      actor.agent.destroy();
    }
    this.control.destroy();
  }
}

/** A client of a script. */
class Actor {
  known = {};
  frames = [];
  agent = new http.Agent({ keepAlive: true });

  constructor(name) {
    this.name = name;
  }

  /** The next request opens a connection. */
  renew() {
    this.agent.destroy();
    this.agent = new http.Agent({ keepAlive: true });
  }

  /** Where the session that began by polling is. */
  place() {
    return `${this.path}?${this.query}transport=polling&sid=${this.known.sid}`;
  }

  /** The packets of a payload; in revision 3 each is `<length>:<packet>`. */
  packets(text) {
    if (!this.isOld) return text.split("\x1e");
    const packets = [];
    for (let rest = text; rest !== "";) {
      const [head, length] = /^(\d+):/.exec(rest) ?? [];
      if (head === undefined) return [...packets, `no payload: ${rest}`];
      packets.push(rest.slice(head.length, head.length + Number(length)));
      rest = rest.slice(head.length + Number(length));
    }
    return packets;
  }

  take(frame) {
    this.frames.push(frame);
    this.came?.();
  }

  async next() {
    const end = Date.now() + PATIENCE;
    while (this.frames.length === 0 && Date.now() < end) {
      const came = new Promise((resolve) => (this.came = resolve));
      await Promise.race([came, sleep(end - Date.now())]);
    }
    return this.frames.shift();
  }
}

function exchange(port, method, target, { agent, headers = {}, body, chunks, open }) {
  const options = { host: "127.0.0.1", port, method, path: target, headers, agent };
  const request = http.request(options);
  const response = new Promise((resolve) => {
    request.once("response", (response) => resolve(received(response)));
    request.once("error", () => resolve({ text: "connection lost" }));
  });
  if (chunks) for (const chunk of chunks) request.write(chunk);
  if (!open) request.end(body);
  return { request, response };
}

async function received(response) {
  const chunks = [];
  try {
    for await (const chunk of response) chunks.push(chunk);
  } catch {
    return { text: "connection lost" };
  }
  const { statusCode: status, headers } = response;
  let body = Buffer.concat(chunks);
  const declared = headers["content-length"];
  const right = declared === undefined || Number(declared) === body.length;
  const length = right || response.req.method === "HEAD" ? "" : ` content-length: ${declared}`;
  if (headers["content-encoding"]) body = zlib.unzipSync(body);
  const isBinary = headers["content-type"] === "application/octet-stream";
  const text = isBinary ? `no payload: ${shown(body)}` : body.toString();
  return { status, headers, length, text };
}

function headersOf(headers) {
  const told = Object.keys(headers).filter((name) => !UNHEARD.has(name));
  return told
    .sort()
    .map((name) => ` | ${name}: ${name === "vary" ? headers[name].toLowerCase() : headers[name]}`)
    .join("");
}

/** The frames behind a handshake, each its first byte and its payload. A server masks none. */
function framesOf(bytes) {
  const frames = [];
  let rest = bytes.subarray(bytes.indexOf("\r\n\r\n") + 4);
  while (rest.length > 1) {
    const [begin, length] = rest[1] === 126 ? [4, rest.readUInt16BE(2)] : [2, rest[1]];
    frames.push([rest[0], rest.subarray(begin, begin + length)]);
    rest = rest.subarray(begin + length);
  }
  return frames;
}

function closeOf(payload) {
  const code = payload.length < 2 ? 1005 : payload.readUInt16BE(0);
  return { code, reason: payload.subarray(2).toString() };
}

function errorOf(error) {
  if (typeof error === "string") return `refused: ${error}`;
  return `refused: ${error.message} ${JSON.stringify(error.data) ?? ""}`.trim();
}

function field(json, name) {
  try {
    return JSON.parse(json)[name];
  } catch {
    return undefined;
  }
}

/** A value as a transcript has it: long ones are cut. */
function shown(value) {
  if (Buffer.isBuffer(value)) return `<${cut(value.toString("hex"))}>`;
  if (typeof value !== "string") return JSON.stringify(value);
  return cut(value.replaceAll("\x1e", "␞").replaceAll("\r", "").replaceAll("\n", "␤"));
}

const cut = (text) => (text.length > 400 ? `${text.slice(0, 100)}… (${text.length})` : text);

export const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
