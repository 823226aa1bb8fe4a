// What a cluster costs, with servers of this crate and with Node's: node benches/cluster/run.js [ROW…]
//
// It needs redis-server, the packages of tests/interop (`npm ci` there), and a release build of the
// fixture: cargo build --release --features redis --example cluster_node. Each row alternates between
// the two kinds of servers, ROUNDS times (5), and prints the medians and their ratio.

import { spawn } from "node:child_process";
import { readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";

const HERE = path.dirname(fileURLToPath(import.meta.url));
const ROOT = path.resolve(HERE, "../..");
const require = createRequire(path.join(ROOT, "tests/interop/package.json"));
const { WebSocket } = require("ws");
const { createClient } = require("redis");

const ROUNDS = Number(process.env.ROUNDS ?? 5);
const BINARY = path.join(process.env.CARGO_TARGET_DIR ?? path.join(ROOT, "target"), "release/examples/cluster_node");

const children = new Set();
process.on("exit", () => children.forEach((child) => child.kill("SIGKILL")));

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
const percentile = (values, p) => [...values].sort((a, b) => a - b)[Math.floor((values.length - 1) * p)];

/** Below the ports that the system gives to outgoing connections. */
let nextPort = 11_000 + Math.floor(Math.random() * 10_000);

/** A program that prints `ready` when it is. */
async function start(command, args, ready) {
  const child = spawn(command, args.map(String), { stdio: ["ignore", "pipe", "inherit"] });
  children.add(child);
  child.once("exit", () => children.delete(child));
  let output = "";
  await new Promise((resolve, reject) => {
    child.stdout.on("data", (data) => (output += data).includes(ready) && resolve());
    child.once("exit", () => reject(new Error(`${command} has ended: ${output}`)));
  });
  return child;
}

async function stop(child, signal = "SIGKILL") {
  const ended = new Promise((resolve) => child.once("exit", resolve));
  child.kill(signal);
  await ended;
}

async function redis(port = nextPort++) {
  const options = ["--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
  const child = await start("redis-server", options, "Ready to accept connections");
  return { child, port, url: `redis://127.0.0.1:${port}` };
}

/** A server, by its kind and mode. */
async function server(kind, url, mode, ...rest) {
  const port = nextPort++;
  const [command, args] = kind === "rust" ? [BINARY, []] : ["node", [path.join(HERE, "node_server.js")]];
  const child = await start(command, [...args, port, url, mode, ...rest], "listening");
  return { child, port };
}

/** The CPU seconds of a process. */
function cpu({ child }) {
  const tasks = readdirSync(`/proc/${child.pid}/task`);
  const used = tasks.map((task) => Number(readFileSync(`/proc/${child.pid}/task/${task}/schedstat`, "utf8").split(" ")[0]));
  return used.reduce((sum, ns) => sum + ns, 0) / 1e9;
}

/** The resident bytes of a process, or their peak. */
function resident({ child }, field = "VmRSS") {
  const status = readFileSync(`/proc/${child.pid}/status`, "utf8");
  return Number(new RegExp(`${field}:\\s+(\\d+) kB`).exec(status)[1]) * 1024;
}

/** A client that does no more than it must. */
class Client {
  /** With a `claim`, it asks for the socket that it was before. */
  static async connect({ port }, namespace = "/", claim) {
    const client = new Client();
    client.socket = new WebSocket(`ws://127.0.0.1:${port}/socket.io/?EIO=4&transport=websocket`, { perMessageDeflate: false });
    client.on = () => {};
    client.heard = [];
    client.acks = new Map();
    const prefix = namespace === "/" ? "" : `${namespace},`;
    client.prefix = prefix;
    await new Promise((resolve, reject) => {
      client.socket.once("error", reject);
      client.socket.on("message", (data) => {
        const text = data.toString("latin1");
        if (text.startsWith("0")) client.socket.send(`40${prefix}${claim ? JSON.stringify(claim) : ""}`);
        else if (text === "2") client.socket.send("3");
        else if (text.startsWith("40")) {
          ({ sid: client.id, pid: client.pid } = JSON.parse(text.slice(2 + prefix.length)));
          client.recovered = client.pid === claim?.pid;
          resolve();
        } else if (text.startsWith("43")) {
          const at = text.indexOf("[");
          client.acks.get(Number(text.slice(2 + prefix.length, at)))(text.slice(at));
        } else {
          client.heard.push(text);
          client.on(text);
        }
      });
    });
    return client;
  }

  /** What it says of its former socket: the private id, and the offset of the last event. */
  claim() {
    const last = this.heard.map((text) => JSON.parse(text.slice(text.indexOf("["))).at(-1)).findLast((arg) => /^\d+-\d+$/.test(arg));
    return { pid: this.pid, offset: last };
  }

  send(...event) {
    this.socket.send(`42${this.prefix}${JSON.stringify(event)}`);
  }

  ask(...event) {
    const id = this.acks.size;
    return new Promise((resolve) => {
      this.acks.set(id, resolve);
      this.socket.send(`42${this.prefix}${id}${JSON.stringify(event)}`);
    });
  }
}

const connect = (server, count) => Promise.all(Array.from({ length: count }, () => Client.connect(server)));

/** Two servers of a kind, and a client on each. */
async function two(kind, mode, body) {
  const broker = await redis();
  const servers = [await server(kind, broker.url, mode), await server(kind, broker.url, mode)];
  const clients = [await Client.connect(servers[0]), await Client.connect(servers[1])];
  await sleep(300);
  try {
    return await body(servers, clients, broker);
  } finally {
    clients.forEach((client) => client.socket.terminate());
    for (const { child } of servers) await stop(child);
    await stop(broker.child);
  }
}

const TEXT = "x".repeat(100);

/** Messages from one server to the other, with some of them under way. */
async function relay(servers, [from, to], messages, under_way) {
  const sent = new Array(messages);
  const latencies = [];
  let next = 0;
  const send = () => {
    if (next === messages) return;
    sent[next] = performance.now();
    from.send("emit", [to.id], [], {}, "m", next++, TEXT);
  };
  const begin = [performance.now(), servers.map(cpu)];
  await new Promise((resolve) => {
    to.on = (text) => {
      const n = Number(/^42\["m",(\d+)/.exec(text)[1]);
      latencies.push(performance.now() - sent[n]);
      if (latencies.length === messages) resolve();
      else send();
    };
    for (let n = 0; n < under_way; n++) send();
  });
  const seconds = (performance.now() - begin[0]) / 1000;
  const used = servers.map(cpu).reduce((sum, now, n) => sum + now - begin[1][n], 0);
  return { "CPU (µs)": (used / messages) * 1e6, "p99 (ms)": percentile(latencies, 0.99), "messages/s": messages / seconds };
}

/** Runs a row with both kinds of servers in turn. */
async function compare(name, run) {
  const results = { rust: [], node: [] };
  for (let round = 0; round < ROUNDS; round++) {
    for (const kind of ["rust", "node"]) results[kind].push(await run(kind));
  }
  for (const column of Object.keys(results.rust[0])) {
    const [rust, node] = ["rust", "node"].map((kind) => median(results[kind].map((result) => result[column])));
    print(`${name}: ${column}`, rust, node);
  }
}

const print = (name, ours, other) =>
  console.log(`| ${name} | ${ours.toFixed(2)} | ${other.toFixed(2)} | ${(ours / other).toFixed(3)} |`);

/** Broadcasts to 1 000 clients of one server, in some modes. The first is compared with the others. */
async function fanout(modes) {
  const broker = await redis();
  const results = {};
  for (let round = 0; round < ROUNDS; round++) {
    for (const mode of modes) {
      const alone = await server("rust", broker.url, mode);
      const clients = [];
      for (let n = 0; n < 10; n++) clients.push(...(await connect(alone, 100)));
      const broadcast = async (count) => {
        let got = 0;
        for (let n = 0; n < count; n++) {
          await new Promise((resolve) => {
            for (const client of clients) client.on = () => ++got % clients.length === 0 && resolve();
            clients[0].send("emit", [], [], {}, "m", TEXT);
          });
        }
      };
      await broadcast(50);
      const begin = cpu(alone);
      await broadcast(300);
      (results[mode] ??= []).push((cpu(alone) - begin) * 1000);
      clients.forEach((client) => client.socket.terminate());
      await stop(alone.child);
    }
  }
  await stop(broker.child);
  for (const mode of modes.slice(1)) {
    print(`300 broadcasts to 1 000 clients, ${mode} to none: CPU (ms)`, median(results[mode]), median(results.none));
  }
}

const ROWS = {
  async relay() {
    for (const mode of ["classic", "sharded-dynamic", "streams"]) {
      await compare(`${mode}, 16 under way`, (kind) =>
        two(kind, mode, async (servers, clients) => {
          await relay(servers, clients, 2_000, 16);
          return relay(servers, clients, 10_000, 16);
        }),
      );
    }
  },

  async throughput() {
    for (const mode of ["classic", "sharded-dynamic", "streams"]) {
      await compare(`${mode}, 1 000 under way`, (kind) =>
        two(kind, mode, async (servers, clients) => {
          await relay(servers, clients, 5_000, 1_000);
          return relay(servers, clients, 40_000, 1_000);
        }),
      );
    }
  },

  /** Messages for a room that the server does not have. */
  async elsewhere() {
    await compare("1 000 messages a second for no room here, 5 s", (kind) =>
      two(kind, "classic", async ([a], _, broker) => {
        const publisher = await createClient({ url: broker.url }).connect();
        const notepack = require("notepack.io");
        const message = Buffer.from(notepack.encode(["stranger", { type: 2, data: ["m", TEXT], nsp: "/" }, { rooms: ["nobody"], except: [], flags: {} }]));
        const begin = cpu(a);
        for (let n = 0; n < 500; n++) {
          for (let m = 0; m < 10; m++) publisher.publish("socket.io#/#nobody#", message);
          await sleep(10);
        }
        const used = cpu(a) - begin;
        publisher.destroy();
        return { "CPU (ms)": used * 1000 };
      }),
    );
  },

  async fetch() {
    await compare("fetch of 1 000 sockets", (kind) =>
      two(kind, "classic", async (servers, [asker]) => {
        for (const server of servers) for (let n = 0; n < 5; n++) await connect(server, 100);
        const times = [];
        for (let n = 0; n < 50; n++) {
          const [time, sockets] = JSON.parse(await asker.ask("time_fetch", []))[0];
          if (sockets !== 1_002) throw new Error(`${sockets} sockets`);
          times.push(time);
        }
        return { "latency (ms)": median(times.slice(10)) };
      }),
    );
  },

  /** Broadcasts to 1 000 clients of one server, with a broker and without. */
  async fanout() {
    await fanout(["none", "classic", "sharded", "streams"]);
  },
  /** The same with recovery, which waits for the stream. */
  async fanout_recovery() {
    await fanout(["none", "streams-recovery"]);
  },

  /** Resident memory of connections with recovery: over streams, and in one process. */
  async memory_recovery() {
    const broker = await redis();
    const [streams, own] = [[], []];
    for (let round = 0; round < Math.min(ROUNDS, 3); round++) {
      for (const [results, mode, ...rest] of [[streams, "streams-recovery"], [own, "none", 60]]) {
        const alone = await server("rust", broker.url, mode, ...rest);
        for (let n = 0; n < 2; n++) await connect(alone, 100);
        const before = resident(alone);
        for (let n = 0; n < 25; n++) await connect(alone, 200);
        await sleep(300);
        results.push((resident(alone) - before) / 5_000);
        await stop(alone.child);
      }
    }
    print("resident bytes for each connection with recovery, streams to one process", median(streams), median(own));
    await stop(broker.child);
  },

  /** A client that comes back to another server. */
  async restore() {
    await compare("a client comes back to another server, with one missed event", (kind) =>
      two(kind, "streams-recovery", async (servers, [, other], broker) => {
        const admin = await createClient({ url: broker.url }).connect();
        const times = [];
        await admin.sendCommand(["CONFIG", "RESETSTAT"]);
        for (let n = 0; n < 200; n++) {
          const client = await Client.connect(servers[0]);
          await client.ask("emit", [client.id], [], {}, "first", TEXT);
          while (!client.heard.length) await sleep(1);
          client.socket.close();
          while ((await admin.exists(`sio:session:${client.pid}`)) === 0) await sleep(1);
          await other.ask("emit", [client.id], [], {}, "missed", TEXT);
          await sleep(2);
          const begin = performance.now();
          const back = await Client.connect(servers[1], "/", client.claim());
          times.push(performance.now() - begin);
          if (!back.recovered || back.heard.length !== 1) throw new Error("not recovered");
          back.socket.terminate();
        }
        admin.destroy();
        return { "latency (ms)": median(times), "p95 (ms)": percentile(times, 0.95) };
      }),
    );
  },

  /** 2 000 clients whose server closes: all come back to the other one. */
  async return_all() {
    const broker = await redis();
    const admin = await createClient({ url: broker.url }).connect();
    const times = [];
    for (let round = 0; round < Math.min(ROUNDS, 3); round++) {
      const [first, second] = [await server("rust", broker.url, "streams-recovery"), await server("rust", broker.url, "streams-recovery")];
      const [control] = await connect(second, 1);
      const clients = [];
      for (let n = 0; n < 20; n++) clients.push(...(await connect(first, 100)));
      await control.ask("emit", [], [], {}, "n", 0);
      const all = (count) => clients.every((client) => client.heard.filter((text) => text.startsWith('42["n"')).length === count);
      while (!all(1)) await sleep(5);
      await admin.sendCommand(["CONFIG", "RESETSTAT"]);
      const begin = performance.now();
      let emitted = 1;
      const back = clients.map(
        (client, at) =>
          new Promise((resolve, reject) =>
            client.socket.once("close", async () => {
              try {
                if (at % 100 === 0) await control.ask("emit", [], [], {}, "n", emitted++);
                const again = await Client.connect(second, "/", client.claim());
                if (!again.recovered) throw new Error("not recovered");
                again.heard.unshift(...client.heard);
                resolve(again);
              } catch (error) {
                reject(error);
              }
            }),
          ),
      );
      first.child.kill("SIGTERM");
      const again = await Promise.all(back);
      times.push(performance.now() - begin);
      const numbers = (client) => client.heard.filter((text) => text.startsWith('42["n"')).map((text) => JSON.parse(text.slice(2))[1]);
      const expected = JSON.stringify(Array.from({ length: emitted }, (_, n) => n));
      for (let wait = 0; wait < 400 && !again.every((client) => numbers(client).length >= emitted); wait++) await sleep(5);
      const wrong = again.filter((client) => JSON.stringify(numbers(client)) !== expected).length;
      const stats = await admin.info("commandstats");
      const calls = (command) => Number(new RegExp(`cmdstat_${command}:calls=(\\d+)`).exec(stats)?.[1] ?? 0);
      console.log(`| 2 000 clients come back after their server has closed (ms) | ${times.at(-1).toFixed(0)} | | |`);
      console.log(`| of them with a gap or twice; calls of SET, GETDEL, PUBLISH, XRANGE | ${wrong}; ${["set", "getdel", "publish", "xrange"].map(calls).join(", ")} | | |`);
      [...again, control].forEach((client) => client.socket.terminate());
      await stop(second.child);
    }
    admin.destroy();
    await stop(broker.child);
  },

  /** Resident memory of connections and namespaces, with a broker and without. */
  async memory() {
    const broker = await redis();
    const grown = async (mode, open) => {
      const alone = await server("rust", broker.url, mode);
      await open(alone, 0, 200);
      const before = resident(alone);
      await open(alone, 200, 5_000);
      await sleep(300);
      const bytes = (resident(alone) - before) / 5_000;
      await stop(alone.child);
      return bytes;
    };
    const connections = async (alone, _, count) => {
      for (let n = 0; n < count; n += 200) await connect(alone, 200);
    };
    const namespaces = async (alone, first, count) => {
      for (let n = 0; n < count; n += 50) {
        const names = Array.from({ length: 50 }, (_, m) => `/room-${first + n + m}`);
        await Promise.all(names.map((name) => Client.connect(alone, name)));
      }
    };
    for (const [name, open] of Object.entries({ connections, namespaces })) {
      const [classic, none] = [[], []];
      for (let round = 0; round < Math.min(ROUNDS, 3); round++) {
        classic.push(await grown("classic", open));
        none.push(await grown("none", open));
      }
      print(`resident bytes for each of ${name}, classic to none`, median(classic), median(none));
    }
    await stop(broker.child);
  },

  /** A minute without Redis. */
  async outage() {
    const seconds = Number(process.env.OUTAGE ?? 60);
    const broker = await redis();
    const alone = await server("rust", broker.url, "classic");
    const [client, other] = [await Client.connect(alone), await Client.connect(alone)];
    const echo = async (count) => {
      const times = [];
      for (let n = 0; n < count; n++) {
        const begin = performance.now();
        await new Promise((resolve) => {
          other.on = resolve;
          client.send("emit", [other.id], [], {}, "m", TEXT);
        });
        times.push(performance.now() - begin);
      }
      return percentile(times, 0.99);
    };
    await echo(2_000);
    const before = [await echo(5_000), resident(alone)];
    await stop(broker.child);
    await sleep(500);
    const down = await echo(5_000);
    const begin = Date.now();
    while (Date.now() - begin < seconds * 1000) {
      for (let n = 0; n < 100; n++) client.send("emit", ["nobody"], [], {}, "m", TEXT);
      await sleep(10);
    }
    const peak = resident(alone, "VmHWM");
    const [{ queued, queued_bytes }] = JSON.parse(await client.ask("status"));
    console.log(`| messages that wait, and their bytes | ${queued} | ${queued_bytes} | |`);
    const again = await redis(broker.port);
    await sleep(8_000);
    console.log(`| ${seconds} s without Redis: p99 of a local message (ms), to before | ${down.toFixed(3)} | ${before[0].toFixed(3)} | ${(down / before[0]).toFixed(3)} |`);
    const mebibytes = (bytes) => (bytes / 2 ** 20).toFixed(1);
    console.log(`| resident memory (MiB): most, before | ${mebibytes(peak)} | ${mebibytes(before[1])} | +${mebibytes(peak - before[1])} of 16 |`);
    console.log(`| resident memory (MiB): afterwards, before | ${mebibytes(resident(alone))} | ${mebibytes(before[1])} | |`);
    await stop(alone.child);
    await stop(again.child);
  },

  /** 10 000 rooms with channels of their own, after the connection has ended. */
  async rooms() {
    const broker = await redis();
    const alone = await server("rust", broker.url, "sharded-dynamic");
    const admin = await createClient({ url: broker.url }).connect();
    const clients = await connect(alone, 20);
    for (const [n, client] of clients.entries()) {
      for (let m = 0; m < 500; m++) client.send("join", [client.id], `room-${n}-${m}`);
    }
    const channels = async () => (await admin.sendCommand(["PUBSUB", "SHARDCHANNELS", "*"])).length;
    while ((await channels()) < 10_000) await sleep(50);
    const times = [];
    for (let round = 0; round < ROUNDS; round++) {
      await admin.sendCommand(["CLIENT", "KILL", "TYPE", "pubsub"]);
      const begin = performance.now();
      while ((await channels()) < 10_000) await sleep(5);
      times.push(performance.now() - begin);
    }
    console.log(`| 10 000 rooms subscribed again (ms), with the wait before it | ${median(times).toFixed(0)} | | |`);
    admin.destroy();
    await stop(alone.child);
    await stop(broker.child);
  },
};

const rows = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(ROWS);
console.log("| row | this crate | Node, or without a broker | ratio |\n|---|---:|---:|---:|");
for (const row of rows) await ROWS[row]();
process.exit(0);
