// The example `chat` in headless Chromium, with two pages.
//
// CHROMIUM is the browser's program, /usr/bin/chromium if it is not set.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { chromium } from "playwright-core";
import { EXAMPLES, Server, TARGET, freePort, until } from "./support.js";

const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

const WAYS = {
  "polling only": { query: "?transports=polling", transport: "polling" },
  "websocket only": { query: "?transports=websocket", transport: "websocket" },
  "polling, then websocket": { query: "", transport: "websocket" },
};

// A red square of 16 by 16 pixels.
const IMAGE = Buffer.from(
  "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAFklEQVR42mO4YOBAEmIY1TCqYfhqAACvxkAQGoUUgwAAAABJRU5ErkJggg==",
  "base64",
);

let browser;
let server;

before(async () => {
  const executablePath = process.env.CHROMIUM || "/usr/bin/chromium";
  browser = await chromium.launch({ executablePath, args: FLAGS });
});
after(() => browser?.close());
test.beforeEach(async () => (server = await Server.run("chat")));
test.afterEach(async () => {
  await Promise.all(browser.contexts().map((context) => context.close()));
  await server?.kill();
});

async function open(query = "") {
  const context = await browser.newContext({ viewport: { width: 1100, height: 720 } });
  context.setDefaultTimeout(10_000);
  const page = await context.newPage();
  page.problems = [];
  page.on("pageerror", (error) => page.problems.push(error.message));
  await page.goto(server.url + "/" + query);
  return page;
}

async function enter(page, name) {
  await page.fill("#name", name);
  await page.click("#login button");
}

/** A page whose user is in the lobby. */
async function user(name, way) {
  const page = await open(way.query);
  await enter(page, name);
  await state(page, `connected · ${way.transport}`);
  await sees(page, "#people", `${name} (you)`);
  return page;
}

async function pair(way) {
  const [ann, bob] = await Promise.all([user("Ann", way), user("Bob", way)]);
  await Promise.all([sees(ann, "#people", "Bob"), sees(bob, "#people", "Ann")]);
  return [ann, bob];
}

const sees = (page, where, text) =>
  page.locator(where, { hasText: text }).first().waitFor({ state: "visible" });
const seesNo = (page, where, text) =>
  page.locator(where, { hasText: text }).first().waitFor({ state: "hidden" });
const state = (page, text) => sees(page, "#state", text);

async function say(page, text) {
  await page.fill("#text", text);
  await page.press("#text", "Enter");
}

const delivered = (page, text) =>
  page
    .locator(".message.mine", { hasText: text })
    .locator("[data-tick=delivered]")
    .waitFor({ state: "visible" });

async function join(page, room) {
  await page.fill("#room", room);
  await page.press("#room", "Enter");
  await sees(page, "#here", room);
  await sees(page, "#people", "(you)");
}

for (const [name, way] of Object.entries(WAYS)) {
  describe(name, () => {
    test("a message is seen by the other and gets its tick", async () => {
      const [ann, bob] = await pair(way);
      await say(ann, "Hello Bob <b>&amp;</b> 😀");
      await delivered(ann, "Hello Bob");
      await sees(bob, ".message", "Hello Bob <b>&amp;</b> 😀");
      await say(bob, "Hello Ann");
      await sees(ann, ".message", "Hello Ann");
      assert.deepEqual([...ann.problems, ...bob.problems], []);
    });

    test("typing is seen, and ends with the message", async () => {
      const [ann, bob] = await pair(way);
      await ann.type("#text", "I wonder");
      await sees(bob, "#typing", "Ann is typing");
      await ann.press("#text", "Enter");
      await sees(bob, ".message", "I wonder");
      await seesNo(bob, "#typing", "Ann is typing");
    });

    test("an image travels as bytes and is shown", async () => {
      const [ann, bob] = await pair(way);
      await ann.setInputFiles("#image", { name: "red.png", mimeType: "image/png", buffer: IMAGE });
      await ann.locator(".mine [data-tick=delivered]").waitFor();
      const image = bob.locator(".message img");
      await image.waitFor();
      const size = await image.evaluate((img) => img.decode().then(() => [img.naturalWidth, img.naturalHeight]));
      assert.deepEqual(size, [16, 16]);
    });

    test("rooms keep to themselves", async () => {
      const [ann, bob] = await pair(way);
      await join(ann, "tea");
      await sees(bob, "#rooms", "# tea");
      await say(ann, "for tea only");
      await delivered(ann, "for tea only");
      await bob.click('#rooms [data-room="tea"]');
      await sees(bob, "#people", "Ann");
      await sees(bob, "#people", "Bob (you)");
      await say(ann, "now both");
      await sees(bob, ".message", "now both");
      assert.equal(await bob.locator(".message", { hasText: "for tea only" }).count(), 0);

      // What is said in another room of one's own is counted there.
      await ann.click('#rooms [data-room="lobby"]');
      await say(bob, "still at tea");
      await sees(ann, '#rooms [data-room="tea"] em', "1");

      await bob.click("#leave");
      await sees(bob, "#here", "lobby");
      await ann.click('#rooms [data-room="tea"]');
      await sees(ann, ".message", "still at tea");
      await seesNo(ann, "#people li", "Bob");
    });

    test("who leaves is gone from the list", async () => {
      const [ann, bob] = await pair(way);
      await bob.context().close();
      await seesNo(ann, "#people li", "Bob");
    });

    test("after a restart of the server both are back in their rooms", async () => {
      const [ann, bob] = await pair(way);
      await Promise.all([join(ann, "tea"), join(bob, "tea")]);
      await server.kill();
      await Promise.all([state(ann, "connecting"), state(bob, "connecting")]);
      await say(ann, "written while away");
      await ann.locator("[data-tick=waiting]").waitFor();
      await server.start();
      await Promise.all([ann, bob].map((page) => state(page, `connected · ${way.transport}`)));
      await delivered(ann, "written while away");
      await sees(ann, "#people", "Bob");
      await sees(bob, "#people", "Ann");
      await say(bob, "back again");
      await sees(ann, ".message", "back again");
    });

    test("cut off and back, the name is still one's own", async () => {
      const [ann, bob] = await pair(way);
      await ann.context().setOffline(true);
      // What the network's loss does to a long-lived connection, sooner.
      await ann.evaluate(() => socket.io.engine.close());
      await state(ann, "connecting");
      await say(ann, "from the tunnel");
      await ann.locator("[data-tick=waiting]").waitFor();
      await ann.context().setOffline(false);
      await state(ann, `connected · ${way.transport}`);
      await delivered(ann, "from the tunnel");
      await say(bob, "welcome back");
      await sees(ann, ".message", "welcome back");
    });

    test("a server that stops for a moment loses nothing", async () => {
      const [ann, bob] = await pair(way);
      await server.pause();
      await say(ann, "are you there?");
      await ann.locator("[data-tick=sent]").waitFor();
      server.resume();
      await delivered(ann, "are you there?");
      await sees(bob, ".message", "are you there?");
    });
  });
}

describe("the door", () => {
  test("an empty name is refused, and says so", async () => {
    const page = await open();
    await enter(page, "   ");
    await sees(page, "#refused", "name");
  });

  test("a taken name is refused, and another one is not", async () => {
    await user("Ann", WAYS["websocket only"]);
    const page = await open("?transports=websocket");
    await enter(page, "Ann");
    await sees(page, "#refused", "taken");
    await enter(page, "Anna");
    await state(page, "connected");
    await sees(page, "#people", "Anna (you)");
  });

  test("a name is free when its user has left", async () => {
    const first = await user("Ann", WAYS["websocket only"]);
    const bob = await user("Bob", WAYS["websocket only"]);
    await sees(bob, "#people", "Ann");
    await first.context().close();
    await seesNo(bob, "#people li", "Ann");
    await user("Ann", WAYS["websocket only"]);
  });

  test("without the client's bundle the page says what to do", async () => {
    const page = await browser.newPage();
    await page.route("**/socket.io.min.js", (route) => route.fulfill({ status: 404, body: "" }));
    await page.goto(server.url);
    await sees(page, "#refused", "npm");
  });
});

describe("the client's bundle", () => {
  test("it is kept in the target directory that the example was built into", async (t) => {
    const target = mkdtempSync(path.join(TARGET, "chat-elsewhere-"));
    t.after(() => rmSync(target, { recursive: true }));
    const program = path.join(target, "debug/examples/chat");
    mkdirSync(path.dirname(program), { recursive: true });
    copyFileSync(path.join(EXAMPLES, "chat"), program);
    const bundle = path.join(target, "chat/node_modules/socket.io-client/dist/socket.io.min.js");
    mkdirSync(path.dirname(bundle), { recursive: true });
    writeFileSync(bundle, "// of this target directory");

    const port = await freePort();
    const child = spawn(program, [`${port}`], { stdio: "ignore" });
    t.after(() => child.kill("SIGKILL"));
    const answer = await until(() => fetch(`http://127.0.0.1:${port}/socket.io.min.js`).catch(() => {}), "answer");
    assert.equal((await answer.text()).slice(0, 80), "// of this target directory");
    child.kill("SIGKILL");
    await once(child, "exit");
  });
});

describe("its look", () => {
  test("two pages in a conversation, and one on a telephone", async () => {
    const [ann, bob] = await pair(WAYS["polling, then websocket"]);
    await join(bob, "tea");
    await bob.click('#rooms [data-room="lobby"]');
    await say(ann, "Good morning! Has anybody seen the new build?");
    await sees(bob, ".message", "Good morning");
    await say(bob, "It is green. Here is how it looks:");
    await bob.setInputFiles("#image", { name: "red.png", mimeType: "image/png", buffer: IMAGE });
    await ann.locator(".message img").waitFor();
    await say(ann, "Very red, I would say.");
    await delivered(ann, "Very red");
    await bob.type("#text", "Well");
    await sees(ann, "#typing", "Bob is typing");
    await ann.screenshot({ path: path.join(TARGET, "chat.png") });

    await ann.setViewportSize({ width: 390, height: 780 });
    const wide = await ann.evaluate(() => document.documentElement.scrollWidth > innerWidth);
    assert.equal(wide, false);
    await ann.screenshot({ path: path.join(TARGET, "chat-small.png") });
  });
});
