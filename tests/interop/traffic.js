// Messages that go on while something fails.

import assert from "node:assert/strict";

import { range } from "./cluster.js";
import { until } from "./support.js";

/** Numbered messages of a server of Node, and of the server of this crate, to all clients. */
export class Traffic {
  sent = 0;

  constructor({ a, at_a, at_b, at_rust }) {
    this.cluster = { a, at_rust };
    this.local = this.#hear(at_rust, "rust");
    this.heard = [this.#hear(at_rust, "node"), this.#hear(at_a, "rust"), this.#hear(at_b, "rust")];
    this.timer = setInterval(() => this.#send(), 10);
  }

  #hear(client, from) {
    const numbers = [];
    client.removeAllListeners(from);
    client.on(from, (n) => numbers.push(n));
    return { from, numbers };
  }

  #send() {
    const n = this.sent++;
    this.cluster.a.io.to("room1").emit("node", n);
    this.cluster.at_rust.emit("emit", ["room1"], [], {}, "rust", n, () => {});
  }

  /** Waits until what is sent from now on arrives at the clients of the same server. */
  async goesOnLocally() {
    const next = this.sent;
    await until(() => this.local.numbers.at(-1) >= next, "a local message");
  }

  /** Waits until what is sent from now on arrives at the clients of other servers. Returns its number. */
  async goesOn() {
    const next = this.sent;
    await until(() => this.heard.every(({ numbers }) => numbers.at(-1) >= next), "messages");
    return next;
  }

  async stop() {
    clearInterval(this.timer);
    this.#send();
    const last = this.sent - 1;
    await until(() => this.heard.every(({ numbers }) => numbers.at(-1) === last), "the last message");
  }

  /** Nothing is doubled or out of order, and only messages between these numbers may be missing. */
  check(lossy, mayDouble) {
    assert.deepEqual(this.local.numbers, range(0, this.sent));
    for (const { from, numbers: heard } of this.heard) {
      const [begin, end] = lossy[from];
      const isLossy = (n) => n >= begin && n < end;
      const numbers = mayDouble ? [...new Set(heard)] : heard;
      const sorted = [...new Set(heard)].sort((a, b) => a - b);
      assert.deepEqual(numbers, sorted, `doubled or out of order, from ${from}`);
      const rest = range(0, this.sent).filter((n) => !isLossy(n));
      assert.deepEqual(numbers.filter((n) => !isLossy(n)), rest, `missing, from ${from}`);
    }
  }
}
