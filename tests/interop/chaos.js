// Official clients on a bad network. They number the events that they send, and check the numbers
// of the events that they receive.
//
// The server is tests/servers/chaos.rs, which has a table of the events. Each event has a number in
// a series. Within a session a client must receive all numbers of a series once and in order. A
// session begins with a connect that has not recovered, and ends with the next such connect.
// Without recovery each connect begins a session.

import { Worker } from "node:worker_threads";

import { io } from "socket.io-client";

import { Chance } from "./chance.js";
import { until, within } from "./support.js";

const ANSWER_TIMEOUT = 10_000;

/** The types of packets with an acknowledgement. */
const ACKS = [3, 6];

/** The transports of clients. One of `bytes` events of a client is binary. */
const KINDS = [
  { transports: ["websocket"], bytes: 8 },
  { transports: ["polling"], bytes: 8 },
  { transports: ["polling", "websocket"], bytes: 8 },
  { transports: ["websocket"], bytes: 2 },
];

// One of forty events is large.
const length = (n) => (n % 40 === 39 ? 4_000 : (n * 37) % 200);

const text = (n) => Array.from({ length: length(n) }, (_, index) => ["a", "é", "☃", "𝄞"][(n + index) % 4]).join("");

const bytes = (n) => Buffer.from(Array.from({ length: length(n) }, (_, index) => (n + index) & 255));

const hasLoad = (n, load) => (n % 4 === 1 ? Buffer.isBuffer(load) && load.equals(bytes(n)) : load === text(n));

/** The numbers that have arrived. */
class Series {
  /** If `latest` is given, the first number must not be higher. */
  constructor(latest) {
    this.latest = latest;
  }

  first;
  next;
  missing = new Set();
  duplicated = 0;
  reordered = 0;

  /** Sets the highest allowed first number. If the series began later, the numbers before are missing. */
  begin(latest) {
    this.latest = latest;
    for (let n = latest; n < this.first; n++) this.missing.add(n);
  }

  /** Adds a number. Returns an error message if it is not the expected one. */
  add(n) {
    this.first ??= n;
    const expected = this.next ?? Math.min(this.latest ?? n, n);
    if (n < expected) {
      if (this.missing.delete(n)) this.reordered++;
      else this.duplicated++;
    } else {
      for (let m = expected; m < n; m++) this.missing.add(m);
      this.next = n + 1;
    }
    return n === expected ? undefined : `${n} in place of ${expected}`;
  }
}

/** All clients and their counts. */
export class Clients {
  /** `places` returns the URLs from which a client chooses one for each connect. */
  constructor(count, seed, places) {
    this.seed = seed;
    this.places = places;
    this.list = Array.from({ length: count }, (_, number) => new Client(this, number));
    let tick = 0;
    this.timer = setInterval(() => {
      tick++;
      for (const client of this.list) if (client.number % 10 === tick % 10) client.say();
    }, 100);
  }

  /** Errors that the test must not find. */
  faults = [];
  /** The start times of the servers by their names. */
  lives = new Map();
  connects = 0;
  recovered = 0;
  told = 0;
  refused = 0;
  disconnects = 0;
  heard = 0;
  asked = 0;
  answered = 0;
  unanswered = 0;
  lost = 0;
  duplicated = 0;
  reordered = 0;

  fault(text) {
    if (this.faults.length < 30) this.faults.push(text);
  }

  get said() {
    return this.list.reduce((sum, client) => sum + client.said, 0);
  }

  /** Waits until each client is connected and gets acknowledgements, then stops their events. */
  async settle() {
    const said = this.list.map((client) => client.said);
    const isMute = (client) => !client.socket.connected || client.answered < said[client.number];
    const waits = ({ open }) => open.size > 0;
    for (const [lacks, what] of [[isMute, "has no answer"], [waits, "has a question that does not end"]]) {
      const all = () => this.list.every((client) => !lacks(client));
      await until(all, what).catch(() => this.list.filter(lacks).forEach((client) => client.fault(what)));
      clearInterval(this.timer);
    }
  }

  /** The highest next number of each series among all clients. */
  highest() {
    const highest = new Map();
    for (const { session } of this.list) {
      for (const [key, { next }] of session?.series ?? []) highest.set(key, Math.max(next ?? 0, highest.get(key) ?? 0));
    }
    return highest;
  }

  close() {
    clearInterval(this.timer);
    for (const client of this.list) {
      client.end();
      client.socket.disconnect();
    }
  }
}

class Client {
  said = 0;
  /** The number of the last acknowledged event. */
  answered = -1;
  /** The events that wait for their acknowledgements. */
  open = new Set();
  /** The numbers of the events of each visit: `{first, last, answered}`. */
  visits = new Map();
  visit = 0;
  acks = new Set();

  constructor(clients, number) {
    Object.assign(this, { clients, number });
    this.rooms = [`room-${number % 10}`, `room-${(number * 7 + 3) % 10}`];
    const chance = new Chance(clients.seed + number);
    const place = () => chance.of(clients.places());
    const { transports, bytes } = KINDS[number % KINDS.length];
    this.bytes = bytes;
    const socket = io(place(), {
      transports,
      forceNew: true,
      reconnectionDelay: 100,
      reconnectionDelayMax: 1_000,
      timeout: 5_000,
      auth: (send) => {
        send({ client: number, visit: ++this.visit, rooms: this.rooms });
      },
    });
    this.socket = socket;
    socket.io.on("reconnect_attempt", () => (socket.io.uri = place()));
    socket.io.on("packet", ({ type, id }) => {
      if (!ACKS.includes(type)) return;
      if (this.acks.has(id)) this.fault(`question ${id} is answered twice`);
      this.acks.add(id);
    });
    socket.onAnyOutgoing((_, n) => this.#sent(n));
    socket.on("connect", () => this.#connected());
    socket.on("disconnect", (reason) => this.#disconnected(reason));
    socket.on("connect_error", (error) => {
      clients.refused++;
      if (!socket.active) this.fault(`is refused: ${error.message}`);
    });
    socket.on("welcome", (life, rooms) => this.#welcome(life, rooms));
    socket.on("room", (life, room, n, load) => {
      if (room !== "all" && !this.rooms.includes(room)) this.fault(`has an event of ${room}`);
      this.#hear(life, room, n, load);
    });
    socket.on("direct", (life, id, n, load) => {
      if (id !== socket.id) this.fault(`has an event of another socket, ${n} of ${life}`);
      this.#hear(life, "direct", n, load);
    });
    socket.on("ask", (life, visit, n, after, answer) => this.#answer(life, visit, n, after, answer));
  }

  fault(text) {
    const { transport } = this.socket.io.engine ?? {};
    this.clients.fault(`client ${this.number} by ${transport?.name}, visit ${this.visit}: ${text}`);
  }

  /** The current session. */
  get session() {
    if (this.current?.id !== this.socket.id && this.socket.id) {
      this.end();
      this.current = { id: this.socket.id, begin: Date.now(), series: new Map() };
    }
    return this.current;
  }

  /** Ends the session, and adds its errors to the counts. */
  end() {
    for (const { missing, duplicated, reordered } of this.current?.series.values() ?? []) {
      this.clients.lost += missing.size;
      this.clients.duplicated += duplicated;
      this.clients.reordered += reordered;
    }
    this.current = undefined;
  }

  series(life, name) {
    const { series, begin } = this.session;
    const key = `${life} ${name}`;
    if (!series.has(key)) {
      const isWhole = !(name in this.#roomNames) || begin < this.clients.lives.get(life);
      series.set(key, new Series(isWhole ? 0 : undefined));
    }
    return series.get(key);
  }

  get #roomNames() {
    return Object.fromEntries(["all", ...this.rooms].map((room) => [room, true]));
  }

  #connected() {
    const { clients, socket } = this;
    clients.connects++;
    if (this.isConnected) this.fault("is connected twice");
    this.isConnected = true;
    const recovered = Boolean(socket.recovered);
    if (recovered !== (socket.id === this.lastId)) this.fault(`was ${this.lastId}, is ${socket.id}: ${recovered}`);
    if (this.lastId) clients[recovered ? "recovered" : "told"]++;
    this.lastId = this.session.id;
  }

  #disconnected(reason) {
    // The official client also emits `disconnect` if it loses the connection before CONNECT is
    // answered.
    if (this.lastEnded === this.visit) this.fault("is disconnected twice");
    this.lastEnded = this.visit;
    if (!this.isConnected) return;
    this.clients.disconnects++;
    this.isConnected = false;
    if (reason === "io server disconnect") this.fault("is disconnected by the server");
  }

  #welcome(life, rooms) {
    for (const [room, next] of Object.entries(rooms)) {
      const series = this.series(life, room);
      series.begin(next);
      if (series.first > next) this.fault(`${room} of ${life} begins with ${series.first}, and not ${next}`);
    }
  }

  #hear(life, name, n, load) {
    this.clients.heard++;
    if (!hasLoad(n, load)) this.fault(`event ${n} of ${name} differs`);
    const wrong = this.series(life, name).add(n);
    if (wrong) this.fault(`${name} of ${life}: ${wrong}`);
  }

  #answer(life, visit, n, after, answer) {
    this.clients.asked++;
    if (visit !== this.visit) this.fault(`is asked in visit ${visit}`);
    const wrong = this.series(life, `visit ${visit}`).add(n);
    if (wrong) this.fault(`question of ${life}: ${wrong}`);
    const last = this.series(life, "direct").next - 1;
    if (last !== after) this.fault(`question ${n} of ${life} comes after ${last}, and not ${after}`);
    answer(n);
  }

  say() {
    const { clients, open, socket } = this;
    if (!socket.connected) return;
    const n = this.said++;
    const args = n % this.bytes === 1 ? ["up_bytes", n, bytes(n)] : ["up", n, text(n)];
    open.add(n);
    socket.timeout(ANSWER_TIMEOUT).emit(...args, (error, answer) => {
      if (!open.delete(n)) this.fault(`event ${n} ends twice`);
      if (error) return clients.unanswered++;
      if (answer !== n) this.fault(`event ${n} is answered with ${answer}`);
      if (n < this.answered) this.fault(`event ${n} is answered after ${this.answered}`);
      clients.answered++;
      this.answered = n;
      this.visits.get(this.visit).answered = n;
    });
  }

  /** Records an event that is sent. It may have waited for the connection. */
  #sent(n) {
    const visit = this.visits.get(this.visit) ?? { first: n };
    visit.last = n;
    this.visits.set(this.visit, visit);
  }
}

/** A client with a good connection, in a separate thread. */
export class Innocent {
  static async run(url) {
    const innocent = new this();
    innocent.worker = new Worker(new URL("./innocent.js", import.meta.url), { workerData: url });
    await innocent.#next("connection of the innocent client");
    return innocent;
  }

  #next(what) {
    return within(new Promise((resolve, reject) => this.worker.once("message", resolve).once("error", reject)), what);
  }

  async stop() {
    this.worker.postMessage("stop");
    return this.#next("last echo");
  }

  close() {
    return this.worker.terminate();
  }
}

/** Collects differences from the expected values. */
class Differences {
  list = [];

  same(what, actual, expected) {
    if (actual !== expected) this.list.push(`${what}: ${actual} in place of ${expected}`);
  }

  sameIds(what, actual, expected) {
    const [have, want] = [new Set(actual), new Set(expected)];
    const [more, less] = [actual.filter((id) => !want.has(id)), expected.filter((id) => !have.has(id))];
    if (more.length + less.length > 0) this.list.push(`${what}: has ${more.slice(0, 5)}, lacks ${less.slice(0, 5)}`);
    this.same(`number of ${what}`, actual.length, expected.length);
  }
}

/**
 * Returns the differences between the state of the clients and the servers' reports. `others` is the
 * number of other connected clients. `isWhole` is true if no server was killed.
 */
export function differences(clients, reports, others, isWhole) {
  const found = new Differences();
  const sum = (number) => reports.reduce((sum, report) => sum + number(report), 0);
  const ids = (members) => members.map(({ socket }) => socket.id);

  found.sameIds("sockets", reports.flatMap(({ sockets }) => sockets), ids(clients.list));
  for (const room of Object.keys(reports[0].members)) {
    const members = clients.list.filter(({ rooms }) => rooms.includes(room));
    found.sameIds(room, reports.flatMap((report) => report.members[room]), ids(members));
  }
  found.same("sessions", sum(({ counts }) => counts.sessions), clients.list.length + others);
  found.same("sockets of all namespaces", sum(({ counts }) => counts.sockets), clients.list.length + others);
  const used = ({ members }) => Object.values(members).filter(({ length }) => length > 0).length;
  found.same("rooms", sum(({ counts }) => counts.rooms), sum(used));
  const ended = ({ asks }) => asks.answered + asks.timed_out + asks.disconnected;
  found.same("answered questions", sum(ended), sum(({ asks }) => asks.asked));
  found.same("visits of now", sum(({ visits }) => visits.begun - visits.left), clients.list.length);
  if (isWhole) found.same("visits", sum(({ visits }) => visits.begun) >= clients.connects, true);

  const highest = clients.highest();
  const next = (key) => {
    const report = reports.find(({ life }) => key.startsWith(`${life} `));
    return report ? report.rooms[key.slice(report.life.length + 1)] : highest.get(key);
  };
  for (const { number, socket, session } of clients.list) {
    // The check of the sockets reports a client that is not connected.
    if (!socket.connected) continue;
    for (const { life, clients: last } of reports) {
      if (last[number]?.id !== socket.id) continue;
      const heard = session.series.get(`${life} direct`)?.next ?? 0;
      found.same(`direct events of ${life} for client ${number}`, heard, last[number].next);
    }
    for (const [key, series] of session.series) {
      if (/ (direct|visit \d+)$/.test(key)) continue;
      found.same(`${key} of client ${number}`, series.next ?? series.latest, next(key));
    }
  }
  return found.list;
}

/** Returns the differences between the sent events of clients and the received ones of servers, for each visit. */
export function visitDifferences(clients, visits, isWhole) {
  const found = new Differences();
  const heard = new Map(visits.map((visit) => [`${visit.client} ${visit.number}`, visit]));
  for (const { number: client, visits: sent, visit: last } of clients.list) {
    for (const [number, events] of sent) {
      const visit = heard.get(`${client} ${number}`);
      if (visit) checkVisit(visit, events, number === last, found);
      else if (isWhole) found.list.push(`no server has visit ${number} of client ${client}`);
    }
  }
  for (const { client, number, disconnects } of visits) {
    const isLast = number === clients.list[client].visit;
    found.same(`disconnects of visit ${number} of client ${client}`, disconnects, isLast ? 0 : 1);
  }
  return found.list;
}

function checkVisit({ client, number, events }, sent, isLast, found) {
  const name = `visit ${number} of client ${client}`;
  found.same(`missing events of ${name}`, events.missing.length, 0);
  found.same(`duplicated events of ${name}`, events.duplicated, 0);
  found.same(`reordered events of ${name}`, events.reordered, 0);
  if (events.first !== null) found.same(`first event of ${name}`, events.first, sent.first);
  const last = events.first === null ? sent.first - 1 : events.next - 1;
  if (isLast) found.same(`last event of ${name}`, last, sent.last);
  const isPossible = last >= (sent.answered ?? -1) && last <= sent.last;
  found.same(`last event of ${name}, between ${sent.answered} and ${sent.last}`, isPossible, true);
}
