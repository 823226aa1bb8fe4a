// The official client against the examples of middleware and of authentication.

import assert from "node:assert/strict";
import { once } from "node:events";
import { after, before, describe, test } from "node:test";
import { io } from "socket.io-client";
import { PATIENCE, Server, until, within } from "./support.js";

/** Starts an example for the tests of a suite. */
function example(name, env) {
  const running = {};
  before(async () => (running.server = await Server.run(name, 1, env)));
  after(() => running.server?.kill());
  return running;
}

async function connect(url, options) {
  const socket = io(url, { forceNew: true, ...options });
  const refused = once(socket, "connect_error").then(([error]) => Promise.reject(error));
  refused.catch(() => {});
  await within(Promise.race([once(socket, "connect"), refused]), "connect");
  return socket;
}

async function refusal(url, options) {
  const error = await connect(url, options).then(
    () => assert.fail("it is let in"),
    (error) => error,
  );
  return { message: error.message, data: error.data };
}

const ask = (socket, ...event) => socket.timeout(PATIENCE).emitWithAck(...event);

describe("the example `middleware`", () => {
  const example_ = example("middleware");

  test("a client can tell a timeout and an overload apart", async () => {
    const url = `${example_.server.url}/admin`;
    const login = { auth: { token: "sesame" } };
    const admins = await Promise.all([1, 2, 3].map(() => connect(url, login)));
    let shed;
    let timedOut = 0;
    const slow = admins.slice(0, 2).map(async (admin) => {
      do {
        // The other of the two may have asked for the last report before.
        const { error } = await ask(admin, "report", 60_000);
        assert.ok(["timed out", "overloaded"].includes(error), error);
        if (error === "timed out") timedOut++;
      } while (!shed);
    });
    shed = await until(async () => {
      const reply = await ask(admins[2], "report", 0);
      return reply.error && reply;
    }, "an overload");
    assert.deepEqual(shed, { error: "overloaded" });
    await Promise.all(slow);
    assert.ok(timedOut >= 2, timedOut);
    assert.equal(await ask(admins[2], "report", 0), 3);
    admins.forEach((admin) => admin.close());
  });

  test("a client that is no admin is refused", async () => {
    const socket = await connect(`${example_.server.url}/admin`);
    assert.deepEqual(await ask(socket, "report", 0), { error: "admins only" });
    socket.close();
  });
});

describe("the example `rate_limit`", () => {
  const example_ = example("rate_limit");

  test("the time to wait is in the acknowledgement, for all tabs of a user", async () => {
    const tab = () => connect(example_.server.url, { auth: { name: "ada" } });
    const tabs = [await tab(), await tab()];
    for (let n = 0; n < 5; n++) {
      assert.deepEqual(await ask(tabs[n % 2], "search", "tower"), ["all about tower"]);
    }
    for (const socket of tabs) {
      const { error, data } = await ask(socket, "search", "tower");
      assert.equal(error, "too many requests");
      assert.ok(data.retryAfterMs > 0 && data.retryAfterMs <= 12_000, data.retryAfterMs);
      socket.close();
    }
  });

  test("a client that goes on is told to slow down, and disconnected for good", async () => {
    const socket = await connect(example_.server.url, { auth: { name: "bob" } });
    const told = once(socket, "slow_down");
    const ended = once(socket, "disconnect");
    for (let n = 0; n < 1_000; n++) socket.emit("say", "hello");
    const [{ event, retryAfterMs }] = await within(told, "slow_down");
    assert.equal(event, "say");
    assert.ok(retryAfterMs > 0 && retryAfterMs <= 100, retryAfterMs);
    assert.deepEqual((await within(ended, "disconnect"))[0], "io server disconnect");
    assert.equal(socket.active, false);
  });

  test("connects are limited", async () => {
    const sockets = [];
    const refused = await until(async () => {
      try {
        sockets.push(await connect(example_.server.url, { auth: { name: "eve" } }));
      } catch (error) {
        return error;
      }
    }, "a refused connect");
    assert.equal(refused.message, "too many requests");
    assert.ok(refused.data.retryAfterMs > 0 && refused.data.retryAfterMs <= 1_000);
    sockets.forEach((socket) => socket.close());
  });
});

describe("the example `session_expiry`", () => {
  const example_ = example("session_expiry", { SESSION_SECONDS: "4" });
  const login = async (user) => {
    const body = { method: "POST", body: user };
    return { token: await (await fetch(`${example_.server.url}/login`, body)).text() };
  };

  test("a client that signs in again stays, and is signed out when it does not", async () => {
    const socket = await connect(example_.server.url, { auth: await login("ada") });
    const ended = once(socket, "disconnect");
    const events = [];
    socket.onAny((event) => events.push(event));
    const begun = Date.now();
    const [{ expiresInMs }] = await within(once(socket, "sign_in_again"), "a reminder");
    assert.ok(expiresInMs > 0 && expiresInMs <= 2_000, expiresInMs);
    assert.equal(await ask(socket, "sign_in", await login("ada")), undefined);
    assert.equal(await ask(socket, "who"), "ada");
    assert.deepEqual((await within(ended, "disconnect"))[0], "io server disconnect");
    // Half of four seconds, and then all of them.
    assert.ok(Date.now() - begun >= 5_800);
    assert.deepEqual(events, ["sign_in_again", "sign_in_again", "signed_out"]);
    socket.auth = await login("ada");
    socket.connect();
    await within(once(socket, "connect"), "connect");
    socket.close();
  });

  test("a wrong token, and that of another user, are refused", async () => {
    const url = example_.server.url;
    const wrong = { auth: { token: "wrong" } };
    assert.deepEqual(await refusal(url, wrong), { message: "sign in", data: 401 });
    const socket = await connect(url, { auth: await login("ada") });
    const reply = await ask(socket, "sign_in", await login("bob"));
    assert.deepEqual(reply, { error: "another user" });
    socket.close();
  });
});

describe("the example `state_and_auth`", () => {
  const example_ = example("state_and_auth");

  test("one extractor reads the token of routes and of sockets, and the cookie", async () => {
    const { url } = example_.server;
    const login = await fetch(`${url}/login`, { method: "POST", body: "sesame" });
    const cookie = login.headers.get("set-cookie").split(";")[0];
    for (const headers of [{ authorization: "Bearer sesame" }, { cookie }]) {
      const me = await fetch(`${url}/me`, { headers });
      assert.deepEqual(await me.json(), { name: "ada" });
      const socket = await connect(url, { extraHeaders: headers });
      const news = once(socket, "news");
      const headers_ = { "content-type": "application/json" };
      await fetch(`${url}/publish`, { method: "POST", headers: headers_, body: '"it rains"' });
      assert.deepEqual(await within(news, "news"), ["it rains"]);
      socket.close();
    }
    assert.equal((await fetch(`${url}/me`)).status, 401);
    const refused = { message: "Unauthorized", data: { status: 401 } };
    assert.deepEqual(await refusal(url, {}), refused);
  });
});

describe("the example `audit`", () => {
  const example_ = example("audit");

  test("each event is in the log, with its user and its outcome", async () => {
    const socket = await connect(example_.server.url, { auth: { name: "ada" } });
    assert.equal(await ask(socket, "withdraw", 30), 70);
    assert.deepEqual(await ask(socket, "withdraw", 1000), { error: "not enough money" });
    assert.deepEqual(await ask(socket, "steal"), { error: "there is no such event" });
    socket.close();
    const lines = [
      /^ada connect {2}in \d+ ms: ok$/m,
      /^ada withdraw \[30\] in \d+ ms: ok$/m,
      /^ada withdraw \[1000\] in \d+ ms: not enough money$/m,
      /^ada steal \[\] in \d+ ms: there is no such event$/m,
    ];
    const has = (line) => line.test(example_.server.output);
    await until(() => lines.every(has), `lines in ${example_.server.output}`);
  });
});
