// The official client reaches two servers through nginx and HAProxy, with the configurations that the
// guide's page about deploying shows. They are read from that page; only addresses and ports differ.
//
// NGINX and HAPROXY are the paths of the programs, by default those in PATH or /usr/sbin.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { Agent } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { io } from "socket.io-client";
import { PATIENCE, Server, freePort, until, within } from "./support.js";

const HERE = path.dirname(fileURLToPath(import.meta.url));
const PAGE = readFileSync(path.join(HERE, "../../src/guide/deploying.md"), "utf8");

/** The block of the page in this language, with the ports of a test. */
function configuration(language, ports, listen) {
  const block = PAGE.match(new RegExp("```" + language + "\\n(.*?)```", "s"))[1];
  const changes = [
    ["10.0.0.1:3000", `127.0.0.1:${ports[0]}`],
    ["10.0.0.2:3000", `127.0.0.1:${ports[1]}`],
    ...listen,
  ];
  return changes.reduce((text, [from, to]) => {
    assert.ok(text.includes(from), `the page has ${from}`);
    return text.replace(from, to);
  }, block);
}

function program(name) {
  const named = process.env[name.toUpperCase()];
  const places = process.env.PATH.split(":").concat("/usr/sbin");
  const found = named ?? places.map((place) => path.join(place, name)).find(existsSync);
  assert.ok(found, `${name} is missing: install it, or set ${name.toUpperCase()} to its path`);
  return found;
}

const PROXIES = {
  nginx: (folder, ports, port) => {
    const block = configuration("nginx", ports, [["listen 80", `listen 127.0.0.1:${port}`]]);
    const places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    const temporary = places.map((each) => `${each}_temp_path ${folder}/${each};`).join("\n");
    const file = path.join(folder, "nginx.conf");
    writeFileSync(
      file,
      `daemon off; master_process off; pid ${folder}/nginx.pid; error_log ${folder}/error.log;
      events { worker_connections 1000; }
      http { access_log off; ${temporary}\n${block} }`,
    );
    return [program("nginx"), "-p", folder, "-c", file, "-e", `${folder}/error.log`];
  },
  haproxy: (folder, ports, port) => {
    const block = configuration("haproxy", ports, [["bind :80", `bind 127.0.0.1:${port}`]]);
    const file = path.join(folder, "haproxy.cfg");
    writeFileSync(file, block);
    return [program("haproxy"), "-db", "-f", file];
  },
};

for (const [name, start] of Object.entries(PROXIES)) {
  describe(name, () => {
    const servers = [];
    const open = new Set();
    let folder, proxy, port;

    before(async () => {
      servers.push(await Server.run("proxied"), await Server.run("proxied"));
      folder = mkdtempSync(path.join(tmpdir(), `${name}-`));
      port = await freePort();
      const [command, ...args] = start(folder, servers.map((each) => each.ports[0]), port);
      proxy = spawn(command, args, { stdio: ["ignore", "inherit", "inherit"] });
      const ended = once(proxy, "exit").then(([code]) => assert.fail(`${name} ended with ${code}`));
      const answers = until(
        () => fetch(`http://127.0.0.1:${port}/`).then((answer) => answer.status === 404, () => false),
        `${name} that answers`,
      );
      await Promise.race([ended, answers]);
      ended.catch(() => {});
    });

    test.afterEach(() => {
      open.forEach((socket) => socket.disconnect());
      open.clear();
    });

    after(async () => {
      proxy?.kill("SIGKILL");
      await Promise.all(servers.map((each) => each.kill()));
      rmSync(folder, { recursive: true, force: true });
    });

    /** A client with an address and cookies of its own. */
    async function connected(options = {}, address = "127.0.0.1") {
      const socket = io(`http://127.0.0.1:${port}`, {
        forceNew: true,
        withCredentials: true,
        agent: new Agent({ localAddress: address, keepAlive: true }),
        ...options,
      });
      open.add(socket);
      await within(once(socket, "connect"), "connection");
      return socket;
    }

    const which = (socket) => socket.timeout(PATIENCE).emitWithAck("which");

    test("all requests of a session reach one server, and both servers have sessions", async () => {
      // Of nginx the address of the client decides, so each client has another.
      const clients = Array.from({ length: 24 }, async (_, i) => {
        const socket = await connected({ transports: ["polling"] }, `127.0.0.${i + 2}`);
        const answers = [];
        for (let n = 0; n < 4; n += 1) answers.push(await which(socket));
        assert.equal(new Set(answers).size, 1, answers.join());
        return answers[0];
      });
      const used = new Set(await Promise.all(clients));
      assert.deepEqual([...used].sort(), servers.map((each) => each.ports[0]).sort());
    });

    test("a session is upgraded, and stays on its server", async () => {
      const socket = await connected({}, "127.0.0.40");
      const first = await which(socket);
      const { engine } = socket.io;
      await until(() => engine.transport.name === "websocket" && !engine.upgrading, "upgrade");
      assert.equal(await which(socket), first);
    });

    test("a client may begin with WebSocket", async () => {
      const answer = await which(await connected({ transports: ["websocket"] }));
      assert.ok(servers.some((each) => each.ports[0] === answer), answer);
    });

    test("the server knows the pages of the proxy's address, and no others", async () => {
      const options = (origin) => ({
        transports: ["websocket"],
        reconnection: false,
        extraHeaders: { origin },
      });
      await connected(options(`http://127.0.0.1:${port}`));
      const other = io(`http://127.0.0.1:${port}`, { forceNew: true, ...options("http://evil.example") });
      open.add(other);
      const [error] = await within(once(other, "connect_error"), "refusal");
      assert.equal(error.description.message, "Unexpected server response: 403");
    });

    test("a message of almost the limit passes by polling", async () => {
      const socket = await connected({ transports: ["polling"] });
      const bytes = Buffer.alloc(740_000, 7); // in base64, a body of 986 672 bytes;
      const answer = await socket.timeout(PATIENCE).emitWithAck("echo", bytes);
      assert.ok(bytes.equals(answer));
    });

    test("the clients of a server that ends come back to the other one", async () => {
      const clients = await Promise.all(
        Array.from({ length: 24 }, (_, i) => connected({ reconnectionDelay: 50 }, `127.0.0.${i + 2}`)),
      );
      const ports = await Promise.all(clients.map(which));
      const [ended, left] = servers;
      const moved = clients.filter((_, i) => ports[i] === ended.ports[0]);
      assert.notEqual(moved.length, 0);
      const back = moved.map((socket) => within(once(socket, "connect"), "reconnection"));
      await ended.kill();
      await Promise.all(back);
      assert.deepEqual(new Set(await Promise.all(clients.map(which))), new Set([left.ports[0]]));
      await ended.start();
    });
  });
}
