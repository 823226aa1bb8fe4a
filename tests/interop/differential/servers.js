// Starts a server of the differential tests: a program that is given the names of configurations,
// and prints NAME=PORT for each of them.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

/** Where `node_modules` is. */
const INTEROP = fileURLToPath(new URL("..", import.meta.url));

const running = new Set();
process.on("exit", () => running.forEach((child) => child.kill("SIGKILL")));

/** The ports, by the names of the configurations, and how to end the server. */
export async function serve(program, args, names) {
  const options = { cwd: INTEROP, stdio: ["ignore", "pipe", "inherit"] };
  const child = spawn(program, [...args, ...names], options);
  running.add(child);
  const ended = new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", (code, signal) => resolve(code ?? signal));
  });
  const ports = {};
  const listening = new Promise((resolve) => {
    createInterface({ input: child.stdout }).on("line", (line) => {
      const [name, port] = line.split("=");
      ports[name] = Number(port);
      if (Object.keys(ports).length === names.length) resolve();
    });
  });
  const failed = ended.then((code) => Promise.reject(new Error(`${program} ended with ${code}`)));
  await Promise.race([listening, failed]);
  let isWanted = true;
  // A crash is seen in the tests' output, whatever the tests make of it.
  failed.catch((error) => isWanted && console.error(error.message));
  const kill = async () => {
    isWanted = false;
    child.kill("SIGKILL");
    await ended;
    running.delete(child);
  };
  return { ports, kill };
}
