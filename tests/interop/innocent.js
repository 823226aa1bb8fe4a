// A client with a good connection beside the clients of chaos.test.js, in a separate thread. It
// sends one echo after the other. It posts `connected`, and after a message the times of its
// echoes, in milliseconds.

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
  // An echo may fail on a busy machine, if the client does not answer a ping in time.
  const answer = await socket.timeout(10_000).emitWithAck("echo", times.length).catch(() => lost++);
  if (answer === times.length) times.push(performance.now() - begin);
  await sleep(20);
}
times.sort((a, b) => a - b);
const at = (share) => Math.round(10 * times[Math.floor((times.length - 1) * share)]) / 10;
parentPort.postMessage({ echoes: times.length, lost, p50: at(0.5), p99: at(0.99), longest: at(1) });
socket.disconnect();
