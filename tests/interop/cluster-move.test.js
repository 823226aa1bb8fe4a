// The move of a cluster of Node's servers to servers of this crate and back, under load.
//
// `benches/cluster/move.js` does it, and says how.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { EXAMPLES } from "./support.js";

const COMMAND = fileURLToPath(new URL("../../benches/cluster/move.js", import.meta.url));

test("a cluster moves server by server, and no client misses anything", async (t) => {
  const env = { ...process.env, EXAMPLES };
  const child = spawn("node", [COMMAND], { env, stdio: ["ignore", "pipe", "pipe"] });
  t.after(() => child.kill("SIGKILL"));
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (data) => (output += data));
  const [code] = await once(child, "close");
  output.split("\n").forEach((line) => t.diagnostic(line));
  assert.equal(code, 0, output);
});
