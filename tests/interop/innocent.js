// A client with a good connection, beside those of chaos.test.js: it echoes all the time, in a thread of
// its own. It posts `connected`, and when it gets a message how long its echoes took, in milliseconds.

import { performance } from "node:perf_hooks";
import { setTimeout as sleep } from "node:timers/promises";
import { parentPort, workerData } from "node:worker_threads";

import { io } from "socket.io-client";

const socket = io(`${workerData}/echo`, { transports: ["websocket"] });
socket.once("connect", () => parentPort.postMessage("connected"));

let isStopped = false;
parentPort.once("message", () => (isStopped = true));

const times = [];
let lost = 0;
while (!isStopped) {
  const begin = performance.now();
  // It may fail on a machine that is so busy that a ping is not answered in time.
  const answer = await socket.timeout(10_000).emitWithAck("echo", times.length).catch(() => lost++);
  if (answer === times.length) times.push(performance.now() - begin);
  await sleep(20);
}
times.sort((a, b) => a - b);
const at = (share) => Math.round(10 * times[Math.floor((times.length - 1) * share)]) / 10;
parentPort.postMessage({ echoes: times.length, lost, p50: at(0.5), p99: at(0.99), longest: at(1) });
socket.disconnect();
