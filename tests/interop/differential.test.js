// The same scripts, played against Node's `socket.io` and against ours: what each answers, and in
// which order, is the same but for what differential/deviations.js lists.

import assert from "node:assert/strict";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { clients } from "./differential/clients.js";
import { deviations, everywhere } from "./differential/deviations.js";
import { diff } from "./differential/diff.js";
import { eio3 } from "./differential/eio3.js";
import { engineio } from "./differential/engineio.js";
import { http } from "./differential/http.js";
import { msgpack } from "./differential/msgpack.js";
import { recovery } from "./differential/recovery.js";
import { play } from "./differential/run.js";
import { serve } from "./differential/servers.js";
import { socketio } from "./differential/socketio.js";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const EXAMPLES = process.env.EXAMPLES || path.join(ROOT, "target/debug/examples");
const NODE = fileURLToPath(new URL("./differential/server.js", import.meta.url));

/** How many scripts are played at a time. */
const AT_A_TIME = 8;

const PARTS = {
  "Engine.IO": engineio,
  HTTP: http,
  "Socket.IO": socketio,
  "Clients of version 2": eio3,
  MessagePack: msgpack,
  Recovery: recovery,
  "Official clients": clients,
};
const only = process.env.SCRIPT && new RegExp(process.env.SCRIPT);
const scripts = Object.values(PARTS).flat().filter(({ title }) => !only || only.test(title));
const results = new Map();
const servers = [];

before(async () => {
  const names = [...new Set(scripts.map(({ on }) => on))];
  const node = await serve(process.execPath, [NODE], names);
  servers.push(node);
  const ours = await serve(path.join(EXAMPLES, "differential"), [], names);
  servers.push(ours);
  playAll(node.ports, ours.ports);
});
after(() => Promise.all(servers.map((server) => server.kill())));

for (const [name, part] of Object.entries(PARTS)) {
  describe(name, () => {
    for (const script of part.filter((script) => scripts.includes(script))) {
      test(script.title, () => compare(script));
    }
  });
}

test("every deviation belongs to a script", async () => {
  const titles = Object.values(PARTS).flat().map(({ title }) => title);
  assert.equal(new Set(titles).size, titles.length, "two scripts have the same title");
  assert.deepEqual(Object.keys(deviations).filter((title) => !titles.includes(title)), []);
  if (!only) assert.deepEqual(everywhere.filter((rule) => !rule.used), []);
});

/** Plays the scripts, several at a time. Those that share a server with nobody are one queue. */
function playAll(node, ours) {
  const queues = [[], []];
  for (const script of scripts) {
    let done;
    results.set(script.title, new Promise((resolve) => (done = resolve)));
    const run = async () => {
      const both = [play(script, node[script.on]), play(script, ours[script.on])];
      done(await Promise.allSettled(both));
    };
    queues[Number(script.on === "alone" || script.on === "shutdown")].push(run);
  }
  const work = async (queue) => {
    for (let next; (next = queue.shift());) await next();
  };
  for (let n = 0; n < AT_A_TIME; n++) work(queues[0]);
  work(queues[1]);
}

async function compare({ title }) {
  const [node, ours] = await results.get(title);
  assert.equal(node.status, "fulfilled", node.reason?.stack);
  assert.equal(ours.status, "fulfilled", ours.reason?.stack);
  const differs = diff(...forgiven(node.value, ours.value));
  const { differs: expected = [] } = deviations[title] ?? {};
  if (differs.join("\n") === expected.join("\n")) return;
  const verdict = expected.length > 0 ? "does not differ as listed, but so" : "differs";
  const transcript = ["", "Node's transcript:", ...node.value];
  assert.fail([`${title}: ${verdict}`, ...differs, ...transcript].join("\n"));
}

/** Both transcripts without what differs everywhere. */
function forgiven(node, ours) {
  const changed = (side, others) => (line) =>
    everywhere.reduce((line, rule) => {
      if (rule.of !== side || others.includes(line) || !rule.text.test(line)) return line;
      rule.used = true;
      return line.replace(rule.text, rule.as);
    }, line);
  return [node.map(changed("node", ours)), ours.map(changed("ours", node))];
}
