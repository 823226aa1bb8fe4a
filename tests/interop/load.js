// Numbered events of several senders, and clients that count them wherever they are.
//
// The stream has the truth: which events there are, and in which order. Each client must have those of
// its rooms once and in this order, from the time when it has asked for its rooms until it is told that
// it was not recovered, and asks again. There are exceptions for what Node's server does wrong, each for
// one event of which it is known that this is the reason:
//
// - overtaken: Node's server sends an event of its own when Redis has confirmed it, which may be before an
//   older one of another server that it reads later. A client that is lost in between has the offset of
//   the newer event, and is not sent the older one. Likewise, one that is lost after both has the offset
//   of the older one, and is sent the newer one again.
// - between: Node's server reads the stream until there is nothing more, and then lets the socket join its
//   rooms. What it reads for all its clients in between is lost for this one.
// - twice: Node's server has not yet read for all its clients what it has read for the one that comes
//   back, and sends it to that one again.

import assert from "node:assert/strict";

import { io } from "socket.io-client";

import { until } from "./support.js";

const EVENT = "load";
const OFFSET = /^\d+-\d+$/;

/** The senders and the rooms. */
export class Load {
  /** Each of the senders, as `senders()` returns them, sends this number of events a second. */
  constructor(log, chance, senders, { rooms = 10, rate = 15 } = {}) {
    this.log = log;
    this.chance = chance;
    this.senders = senders;
    this.rooms = Array.from({ length: rooms }, (_, n) => `load-${n}`);
    this.timer = setInterval(() => this.#send(), 1000 / rate);
  }

  sent = 0;

  #send() {
    for (const sender of this.senders()) this.#say(sender).catch(() => {});
  }

  async #say(sender) {
    const n = this.sent++;
    await sender.ask("emit", [this.chance.of(this.rooms)], [], {}, EVENT, n);
    return n;
  }

  /** Ends it, and waits until the stream has the last event of each sender. */
  async stop() {
    clearInterval(this.timer);
    const last = await Promise.all(this.senders().map((sender) => this.#say(sender)));
    await until(() => last.every((n) => this.entries().at.has(n)), "the last events");
  }

  /** The events in the stream: `{n, room, time}`, and where each number is in the list. */
  entries() {
    const { events } = this.log;
    this.read ??= { seen: 0, list: [], at: new Map(), byId: new Map() };
    for (; this.read.seen < events.length; this.read.seen++) {
      const { id, uid, opts, args } = events[this.read.seen];
      if (args[0] !== EVENT) continue;
      this.read.at.set(args[1], this.read.list.length);
      this.read.list.push({ id, n: args[1], uid, room: opts.rooms[0], time: Number(id.split("-")[0]) });
    }
    return this.read;
  }

  /** Where an offset is in the list: the number of events up to it. */
  position(offset) {
    const { list } = this.entries();
    let [low, high] = [0, list.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (isAfter(list[middle].id, offset)) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}

function isAfter(id, other) {
  const [[time, n], [otherTime, otherN]] = [id, other].map((id) => id.split("-").map(Number));
  return time === otherTime ? n > otherN : time > otherTime;
}

/** A client that asks for rooms, and asks again when it is told that it was not recovered. */
export class Counter {
  /** The events' numbers in the order in which they came. */
  heard = [];
  /** The connections, see `#visit`. */
  visits = [];
  told = 0;
  recovered = 0;

  /** `place` returns the URL for the next attempt, and `serverOf` the server of a connection. */
  constructor(load, rooms, place, serverOf, options) {
    Object.assign(this, { load, rooms, serverOf });
    const defaults = { transports: ["websocket"], forceNew: true, reconnectionDelay: 200, reconnectionDelayMax: 1_000 };
    this.socket = io(place(), { ...defaults, ...options });
    const manager = this.socket.io;
    const again = () => (manager.uri = place());
    manager.on("reconnect_attempt", again);
    this.socket.on(EVENT, (n) => this.heard.push(n));
    this.socket.on("disconnect", () => this.#left());
    this.socket.on("connect", () => this.#came());
    this.socket.connect();
  }

  get isCounting() {
    return this.socket.connected && this.isSubscribed;
  }

  #left() {
    const visit = this.visits.at(-1);
    visit.end = this.heard.length;
    visit.left = Date.now();
    visit.offset = this.socket._lastOffset;
  }

  #came() {
    const { recovered } = this.socket;
    const first = this.visits.length === 0;
    if (!first) recovered ? this.recovered++ : this.told++;
    const visit = {
      server: this.serverOf(this),
      recovered: Boolean(recovered),
      begin: this.visits.at(-1)?.end ?? 0,
      // Node's server sends what was missed before CONNECT, ours after it.
      connected: this.heard.length,
      time: Date.now(),
    };
    this.visits.push(visit);
    if (recovered && this.isSubscribed) return;
    this.isSubscribed = false;
    this.#subscribe(visit);
  }

  #subscribe(visit) {
    this.socket.emit("subscribe", this.rooms, () => {
      // Another connection may have begun.
      if (this.visits.at(-1) !== visit) return;
      this.isSubscribed = true;
      visit.next = this.load.sent;
      // Without an event a client has no offset, and Node's server recovers only one that has.
      this.socket.emit("to_me", "first", 0, () => {});
    });
  }

  /** Waits until nothing is missing that can still come. */
  async settle() {
    await until(() => this.isCounting, "a connected client");
    // If something does not come, `check` says what.
    await until(() => this.#hasAll(), "events").catch(() => {});
  }

  /** The visits between two times at which it was told: the first one of each has asked for the rooms. */
  #segments() {
    const segments = [];
    for (const visit of this.visits) {
      if (visit.next !== undefined) segments.push([visit]);
      else if (visit.recovered && segments.at(-1)) segments.at(-1).push(visit);
      // The visit ended before it had its rooms.
      else segments.push(undefined);
    }
    return segments.filter((segment) => segment);
  }

  #hasAll() {
    const segment = this.#segments().at(-1);
    const heard = new Set(this.heard.slice(segment[0].begin));
    return this.#wanted(segment).every((entry) => heard.has(entry.n) || this.#excuse(segment, entry));
  }

  /** The events that a segment must have: those sent after it had its rooms, and before it was told. */
  #wanted(segment) {
    const { list, at } = this.load.entries();
    const { end } = segment.at(-1);
    const heard = this.heard.slice(segment[0].begin, end);
    const last = end === undefined ? list.length : Math.max(-1, ...heard.map((n) => at.get(n) ?? -1)) + 1;
    const { next } = segment[0];
    return list.slice(0, last).filter(({ n, room }) => n >= next && this.rooms.includes(room));
  }

  /** Checks all that was heard. Returns how often each exception was made. */
  check(name) {
    const excused = { overtaken: 0, between: 0, twice: 0 };
    for (const segment of this.#segments()) this.#check(segment, excused, name);
    return excused;
  }

  #check(segment, excused, name) {
    const { load, heard } = this;
    const { at, list } = load.entries();
    const seen = new Map();
    const describe = (n) => `${name}: event ${n} ${JSON.stringify(list[at.get(n)])}, ${JSON.stringify(segment.map(({ server, ...visit }) => ({ kind: server.kind, ...visit })))}`;
    for (const [which, visit] of segment.entries()) {
      const end = visit.end ?? heard.length;
      let highest = -1;
      for (let index = visit.begin; index < end; index++) {
        const n = heard[index];
        const position = at.get(n);
        assert.notEqual(position, undefined, `${describe(n)} is not in the stream`);
        assert.ok(this.rooms.includes(list[position].room), `${describe(n)} is for other rooms`);
        if (seen.has(n)) {
          const before = segment[which - 1];
          const isReplay = this.#isReplay(visit, index);
          if (isReplay && before && !before.server.isOurs && position >= load.position(before.offset)) excused.overtaken++;
          else if (!isReplay && !visit.server.isOurs && list[position].time <= visit.time) excused.twice++;
          else assert.fail(`${describe(n)} came twice`);
        } else if (visit.server.isOurs) {
          assert.ok(position > highest, `${describe(n)} came too late`);
        }
        seen.set(n, index);
        highest = Math.max(highest, position);
      }
    }
    for (const entry of this.#wanted(segment)) {
      if (seen.has(entry.n)) continue;
      const reason = this.#excuse(segment, entry);
      assert.ok(reason, `${describe(entry.n)} is missing`);
      excused[reason]++;
    }
  }

  /** Whether what was heard in a visit is something that the client had missed. */
  #isReplay(visit, index) {
    if (!visit.server.isOurs) return index < visit.connected;
    const { at, list } = this.load.entries();
    // While events go on, the newest ones are not read from the log yet.
    const entry = list[at.get(this.heard[index])];
    return visit.recovered && entry !== undefined && entry.time <= visit.time;
  }

  /** How many missed events were sent in a visit. */
  missed(visit) {
    const end = visit.end ?? this.heard.length;
    let index = visit.begin;
    while (index < end && this.#isReplay(visit, index)) index++;
    return index - visit.begin;
  }

  /** Why a server of Node has not sent an event, if it can be. */
  #excuse(segment, { n, time }) {
    const { load } = this;
    const position = load.entries().at.get(n);
    for (const [which, visit] of segment.entries()) {
      if (visit.server.isOurs) continue;
      if (visit.end !== undefined && position < load.position(visit.offset)) return "overtaken";
      const before = segment[which - 1];
      if (visit.recovered && before && time <= visit.time && position >= load.position(before.offset)) return "between";
    }
  }

  close() {
    this.socket.disconnect();
  }
}
