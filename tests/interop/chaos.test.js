// 200 official clients on a bad network. No event is lost without a disconnect, duplicated or out
// of order.
//
// The clients connect to their servers through tests/servers/chaos_proxy.rs, which has a table of
// the faults. The three tests together take 45 seconds, and in the long form ten minutes, with
// stalls of up to a minute:
//
//     SECONDS=600 node --test --test-timeout=1200000 chaos.test.js
//
// With the same SEED, such as SEED=2, the faults are the same, as far as the clients connect in the
// same order. Each test prints a line of figures.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { Chance } from "./chance.js";
import { Clients, Innocent, differences, visitDifferences } from "./chaos.js";
import { Redis } from "./cluster.js";
import { Server, until, within } from "./support.js";

const SECONDS = Number(process.env.SECONDS ?? 45) / 3;
const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000);
const CLIENTS = 200;
const LONGEST_STALL = SECONDS < 120 ? 8_000 : 60_000;

/** The seconds from the first connects to the first reading of the servers' memory. */
const EARLY = Math.min(120, Math.round(0.6 * SECONDS));

const TESTS = {
  "without recovery": { lives: ["a1"] },
  "with recovery": { lives: ["a1"], env: { RECOVERY: 120 } },
  "in a cluster with recovery, while a server is killed": { lives: ["a1", "b1"], env: { RECOVERY: 120 } },
};

for (const [title, { lives, env }] of Object.entries(TESTS)) {
  test(`${title}: ${SECONDS} seconds`, { timeout: (SECONDS + 240) * 1000 }, async (t) => {
    t.diagnostic(`SEED=${SEED}`);
    const open = [];
    try {
      await chaos(t, lives, env ?? {}, open);
    } finally {
      for (const each of open.reverse()) await each();
    }
  });
}

/** Runs a test. Adds functions to `open` that close its servers and clients at the end. */
async function chaos(t, lives, env, open) {
  const isCluster = lives.length > 1;
  const mayRecover = "RECOVERY" in env;
  if (isCluster) {
    const redis = await Redis.run();
    open.push(() => redis.stop());
    env.REDIS = redis.url;
  }
  const started = new Map(lives.map((life) => [life, Date.now()]));
  const servers = await Promise.all(lives.map((life) => Server.run("chaos", 1, { ...env, LIFE: life })));
  open.push(...servers.map((server) => () => server.kill()));
  const targets = servers.map(({ ports }) => ports[0]).join();
  const proxy = await Server.run("chaos_proxy", servers.length, { SEED, STALL: LONGEST_STALL, TARGETS: targets });
  open.push(() => proxy.kill());
  const innocent = await Innocent.run(servers[0].url);
  open.push(() => innocent.close());

  const clients = new Clients(CLIENTS, SEED, () => proxy.ports.map((port) => `http://127.0.0.1:${port}`));
  open.push(() => clients.close());
  clients.lives = started;
  const end = Date.now() + SECONDS * 1000;
  const early = sleep(EARLY * 1000).then(() => memory(servers));
  const killed = isCluster ? await kills(servers[1], clients, end) : 0;
  await sleep(end - Date.now());

  proxy.child.kill("SIGUSR1");
  const faults = JSON.parse(await until(() => proxy.output.match(/^\{.*\}\n/m)?.[0], "counts of the proxy"));
  await clients.settle();
  for (const server of servers) await fetch(`${server.url}/stop`, { method: "POST" });
  const get = (route) => Promise.all(servers.map(async ({ url }) => (await fetch(url + route)).json()));
  let found;
  const isSettled = async () => {
    found = differences(clients, await get("/report"), 1, !isCluster);
    if (found.length > 0) await sleep(200);
    return found.length === 0;
  };
  // The assertion below prints the differences.
  await until(isSettled, "end").catch((error) => assert.match(error.message, /^no end within/));
  found.push(...visitDifferences(clients, (await get("/visits")).flat(), !isCluster));
  const late = await memory(servers);
  const echoes = await innocent.stop();
  const reports = await get("/report");

  for (const client of clients.list) client.end();
  const { connects, disconnects, recovered, told, refused, heard, asked, said, answered, unanswered } = clients;
  const { lost, duplicated, reordered } = clients;
  const figures = {
    clients: CLIENTS,
    connects,
    disconnects,
    recovered,
    told,
    refused,
    faults: { ...faults, killed },
    down: { events: heard, questions: asked },
    up: { events: said, answered, unanswered },
    reasons: reports.map(({ reasons }) => reasons),
    lost,
    duplicated,
    reordered,
    memory: { [`KiB after ${EARLY} s`]: await early, "at the end": late },
    innocent: echoes,
  };
  t.diagnostic(JSON.stringify(figures));

  assert.deepEqual([...clients.faults, ...found.slice(0, 30)], []);
  assert.deepEqual({ lost, duplicated, reordered }, { lost: 0, duplicated: 0, reordered: 0 });
  for (const { output } of [proxy, ...servers]) assert.doesNotMatch(output, /^fault: |panicked/m);
  // Each kind of fault has happened.
  for (const [kind, count] of Object.entries(faults)) assert.ok(count > 0, kind);
  assert.ok(disconnects > CLIENTS / 4, `${disconnects} disconnects`);
  assert.equal(recovered > 0, mayRecover, `${recovered} recovered`);
  // A killed server may not have saved a client that has just connected.
  if (mayRecover && !isCluster) assert.equal(told, 0, `${told} were told that they have not recovered`);
}

/** Kills and restarts a server again and again until `end`. Returns the number of times. */
async function kills(server, clients, end) {
  const chance = new Chance(SEED);
  let count = 0;
  for (;;) {
    const pause = 3_000 + chance.below(3_000);
    if (Date.now() + pause > end) return count;
    await sleep(pause);
    await server.kill();
    count++;
    await sleep(chance.below(2_000));
    server.env.LIFE = `b${count + 1}`;
    clients.lives.set(server.env.LIFE, Date.now());
    await within(server.start(), "start of a killed server");
  }
}

/** Returns the resident memory of each running server in KiB. */
async function memory(servers) {
  const read = async ({ child }) => {
    const status = await readFile(`/proc/${child.pid}/status`, "utf8").catch(() => "");
    return Number(status.match(/VmRSS:\s+(\d+)/)?.[1]);
  };
  return Promise.all(servers.map(read));
}
