// The example `chat` in headless Chromium, with two pages.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { launch } from "./browser.js";
import { EXAMPLES, PATIENCE, Server, TARGET, freePort, pause, resume, until } from "./support.js";

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

before(async () => (browser = await launch()));
after(() => browser?.close());
test.beforeEach(async () => (server = await Server.run("chat")));
test.afterEach(async () => {
  await Promise.all(browser.contexts().map((context) => context.close()));
  await server?.kill();
});

async function open(query = "") {
  const context = await browser.newContext({ viewport: { width: 1100, height: 720 } });
  context.setDefaultTimeout(PATIENCE);
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
async function user(name, way = WAYS["websocket only"]) {
  const page = await open(way.query);
  await enter(page, name);
  await state(page, `connected · ${way.transport}`);
  await sees(page, "#people", `${name} (you)`);
  return page;
}

async function pair(way = WAYS["websocket only"]) {
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

    test("messages stay in their room", async () => {
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

    test("a user who leaves is removed from the list", async () => {
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

    test("a page that reconnects keeps its name", async () => {
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

    test("a server that stops for a moment loses no message", async () => {
      const [ann, bob] = await pair(way);
      await pause(server.child);
      await say(ann, "are you there?");
      await ann.locator("[data-tick=sent]").waitFor();
      resume(server.child);
      await delivered(ann, "are you there?");
      await sees(bob, ".message", "are you there?");
    });
  });
}

/** Ann fills the lobby's log, so that Bob's scrolls. */
async function fill(ann, bob, count = 30) {
  await ann.evaluate((count) => {
    for (let line = 1; line <= count; line++) say({ room: here, text: `line ${line} of many` });
  }, count);
  await sees(bob, ".message", `line ${count} of many`);
  await delivered(ann, `line ${count} of many`);
}

const scrolled = (page) =>
  page.locator("#log").evaluate(({ scrollTop, scrollHeight, clientHeight }) => ({
    top: scrollTop,
    fromEnd: scrollHeight - clientHeight - scrollTop,
  }));

const atEnd = (page) => until(async () => (await scrolled(page)).fromEnd < 1, "log at its end");

/** Scrolls as a user does, and waits for the page to know. */
async function scrollTo(page, top) {
  await page.locator("#log").evaluate((log, top) => {
    const done = new Promise((done) => log.addEventListener("scroll", done, { once: true }));
    log.scrollTop = top;
    return done;
  }, top);
}

const focused = (page) => page.evaluate(() => document.activeElement.id || document.activeElement.tagName);

const send = async (page, name, buffer) =>
  page.setInputFiles("#image", { name, mimeType: "application/octet-stream", buffer });

/** Puts a text into the field as a paste does. */
const paste = (page, text) =>
  page.locator("#text").evaluate((field, text) => {
    field.focus();
    field.setRangeText(text, 0, field.value.length, "end");
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }, text);

describe("reading", () => {
  test("a new message does not move the log for a user who reads back", async () => {
    const [ann, bob] = await pair();
    await fill(ann, bob);
    await scrollTo(bob, 40);
    await say(ann, "one more");
    await say(ann, "and another");
    await bob.locator(".message", { hasText: "and another" }).waitFor({ state: "attached" });
    assert.equal((await scrolled(bob)).top, 40);
    await sees(bob, "#more", "2 new messages");

    await bob.click("#more");
    await atEnd(bob);
    await seesNo(bob, "#more", "new message");
  });

  test("at the end of the log the newest message stays in view, with its image", async () => {
    const [ann, bob] = await pair();
    await fill(ann, bob);
    await atEnd(bob);
    await send(ann, "red.png", IMAGE);
    await bob.locator(".message img").evaluate((img) => img.decode());
    await atEnd(bob);
    await bob.setViewportSize({ width: 700, height: 400 });
    await atEnd(bob);
    await say(ann, "still in view?");
    await sees(bob, ".message", "still in view?");
    await atEnd(bob);
  });

  test("sending a message scrolls to it", async () => {
    const [ann, bob] = await pair();
    await fill(ann, bob);
    await scrollTo(bob, 0);
    await say(bob, "an answer\nof two lines");
    await delivered(bob, "an answer");
    await atEnd(bob);
  });

  test("a room keeps its scroll position, and its new messages are counted", async () => {
    const [ann, bob] = await pair();
    await fill(ann, bob);
    await scrollTo(bob, 40);
    await join(bob, "tea");
    await say(ann, "while you were out");
    await sees(bob, '#rooms [data-room="lobby"] em', "1");
    await bob.click('#rooms [data-room="lobby"]');
    assert.equal((await scrolled(bob)).top, 40);
  });

  test("a new message is added to the live region, and nothing else in it changes", async () => {
    const [ann, bob] = await pair();
    await say(ann, "first");
    await sees(bob, ".message", "first");
    await bob.evaluate(() => {
      const first = document.querySelector(".message");
      const region = first.closest("[aria-live=polite]");
      window.kept = { first, added: [], removed: [] };
      new MutationObserver((records) => {
        for (const { addedNodes, removedNodes } of records) {
          kept.added.push(...[...addedNodes].map((node) => node.textContent));
          kept.removed.push(...[...removedNodes].map((node) => node.textContent));
        }
      }).observe(region, { childList: true, subtree: true, characterData: true });
    });
    await say(ann, "second");
    await sees(bob, ".message", "second");
    await join(bob, "tea");
    await bob.click('#rooms [data-room="lobby"]');
    await sees(bob, ".message", "first");
    const { same, added, removed } = await bob.evaluate(() => ({
      ...kept,
      same: document.querySelector(".message") === kept.first,
    }));
    assert.equal(same, true);
    assert.equal(added.length, 1);
    assert.match(added[0], /second/);
    assert.deepEqual(removed, []);
  });

  test("messages have times", async () => {
    const [ann, bob] = await pair();
    await say(ann, "what time is it?");
    for (const page of [ann, bob]) {
      const time = page.locator(".message", { hasText: "what time is it?" }).locator("time");
      assert.match(await time.innerText(), /\d\d:\d\d/);
      const age = Date.now() - Date.parse(await time.getAttribute("datetime"));
      assert.ok(Math.abs(age) < 600_000, `${age} ms`);
    }
  });
});

describe("the focus", () => {
  test("it stays on a room when rooms and people change", async () => {
    const [ann, bob] = await pair();
    await ann.focus('#rooms [data-room="lobby"]');
    await ann.evaluate(() => (window.button = document.activeElement));
    await join(bob, "a room before it");
    await sees(ann, "#rooms", "# a room before it");
    await user("Carl");
    await sees(ann, "#people", "Carl");
    assert.equal(await ann.evaluate(() => document.activeElement === button), true);
  });

  test("it moves to another room when its room is removed", async () => {
    const [ann, bob] = await pair();
    await join(bob, "tea");
    await ann.focus('#rooms [data-room="tea"]');
    await bob.click("#leave");
    await seesNo(ann, "#rooms", "# tea");
    assert.equal(await ann.evaluate(() => document.activeElement.dataset.room), "lobby");
  });

  test("it stays where it is when the connection returns", async () => {
    const ann = await user("Ann");
    await ann.fill("#room", "te");
    await server.kill();
    await state(ann, "connecting");
    await server.start();
    await state(ann, "connected");
    await ann.type("#room", "a");
    assert.equal(await focused(ann), "room");
    assert.equal(await ann.inputValue("#room"), "tea");
  });

  test("the chat needs no mouse", async () => {
    const bob = await user("Bob");
    const ann = await open();
    const keys = async (...keys) => {
      for (const key of keys) await ann.keyboard.press(key);
    };
    assert.equal(await focused(ann), "name");
    await ann.keyboard.type("Ann");
    await keys("Enter");
    await sees(ann, "#people", "Ann (you)");
    assert.equal(await focused(ann), "text");
    await ann.keyboard.type("two");
    await keys("Shift+Enter");
    await ann.keyboard.type("lines");
    await keys("Enter");
    await sees(bob, ".bubble", "two lines");
    assert.equal(await bob.locator(".bubble").textContent(), "two\nlines");

    await keys("Shift+Tab");
    assert.equal(await focused(ann), "image");
    await keys("Shift+Tab", "Shift+Tab");
    assert.equal(await focused(ann), "quit");
    await keys("Shift+Tab", "Shift+Tab", "Shift+Tab");
    assert.equal(await focused(ann), "room");
    await ann.keyboard.type("tea");
    await keys("Enter");
    await sees(ann, "#here", "# tea");
    assert.equal(await focused(ann), "text");
    await sees(bob, "#rooms", "# tea");

    await ann.setViewportSize({ width: 390, height: 780 });
    await ann.focus("#menu");
    await keys("Enter");
    assert.equal(await ann.getAttribute("#menu", "aria-expanded"), "true");
    await keys("Escape");
    assert.equal(await focused(ann), "menu");
    assert.equal(await ann.getAttribute("#menu", "aria-expanded"), "false");
    await keys("Enter", "Tab", "Enter");
    await sees(ann, "#here", "# lobby");
    assert.equal(await focused(ann), "text");
  });
});

describe("writing", () => {
  test("a draft stays in its room", async () => {
    const ann = await user("Ann");
    await ann.fill("#text", "for the lobby");
    await join(ann, "tea");
    assert.equal(await ann.inputValue("#text"), "");
    await ann.fill("#text", "for tea");
    await ann.click('#rooms [data-room="lobby"]');
    await sees(ann, "#here", "# lobby");
    assert.equal(await ann.inputValue("#text"), "for the lobby");
    await ann.click('#rooms [data-room="tea"]');
    await sees(ann, "#here", "# tea");
    assert.equal(await ann.inputValue("#text"), "for tea");
  });

  for (const way of ["polling only", "websocket only"]) {
    test(`a text of 1.2 MB is refused in the page, ${way}`, async () => {
      const [ann, bob] = await pair(WAYS[way]);
      await ann.evaluate(() => {
        window.lost = [];
        socket.on("disconnect", (reason) => lost.push(reason));
      });
      await paste(ann, "x".repeat(1_200_000));
      await sees(ann, "#count", "1,200,000 of 10,000 characters");
      await ann.press("#text", "Enter");
      await sees(ann, "#notice", "has 1,200,000 characters, and the limit is 10,000. It was not sent.");
      assert.equal((await ann.inputValue("#text")).length, 1_200_000);

      // The longest that is allowed arrives, whatever it is made of.
      await paste(ann, "\u0001😀".repeat(10_000 / 3) + "€");
      await ann.press("#text", "Enter");
      await delivered(ann, "€");
      await sees(bob, ".message", "€");
      assert.equal(await bob.locator(".message").count(), 1);
      assert.equal(await ann.locator(".message").count(), 1);
      assert.deepEqual(await ann.evaluate(() => lost), []);
      assert.equal(await ann.innerText("#notice"), "");
    });
  }

  test("the server refuses a longer text too", async () => {
    const [ann, bob] = await pair();
    const raw = (length) =>
      ann.evaluate((length) => {
        const message = { room: "lobby", id: `${length}`, text: "x".repeat(length) };
        return socket.timeout(10_000).emitWithAck("say", message);
      }, length);
    assert.equal(await raw(10_001), false);
    assert.equal(await raw(10_000), true);
    await bob.locator(".message").waitFor();
    assert.equal(await bob.locator(".message").count(), 1);
  });

  test("a file that is not an image is reported to its sender only", async () => {
    const [ann, bob] = await pair();
    await send(ann, "notes.txt", Buffer.from("no image"));
    await sees(ann, "#notice", "notes.txt is not an image that this browser can read. Nothing was sent.");
    assert.equal(await ann.locator(".message").count(), 0);
    await say(ann, "sorry");
    await delivered(ann, "sorry");
    await sees(bob, ".message", "sorry");
    assert.equal(await bob.locator(".message").count(), 1);
    assert.equal(await ann.innerText("#notice"), "");
  });

  test("a large image is made smaller, and arrives", async () => {
    const [ann, bob] = await pair(WAYS["polling only"]);
    const noise = await ann.evaluate(async () => {
      const canvas = Object.assign(document.createElement("canvas"), { width: 1000, height: 700 });
      const context = canvas.getContext("2d");
      const data = context.createImageData(1000, 700);
      for (let at = 0; at < data.data.length; at += 65_536) crypto.getRandomValues(data.data.subarray(at, at + 65_536));
      context.putImageData(data, 0, 0);
      return canvas.toDataURL("image/png");
    });
    const file = Buffer.from(noise.split(",")[1], "base64");
    assert.ok(file.length > 1_000_000, `${file.length} bytes`);
    await send(ann, "noise.png", file);
    await ann.locator(".mine [data-tick=delivered]").waitFor();
    await bob.locator(".message img").evaluate((img) => img.decode());
    await state(ann, "connected");
  });

  test("a file is sent when it is pasted or dropped, and the page stays", async () => {
    const [ann, bob] = await pair();
    for (const type of ["paste", "drop"]) {
      const proceeded = await ann.locator("#text").evaluate(
        (field, { type, bytes }) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], "red.png", { type: "image/png" }));
          const options = { bubbles: true, cancelable: true };
          return field.dispatchEvent(
            type === "paste"
              ? new ClipboardEvent(type, { ...options, clipboardData: data })
              : new DragEvent(type, { ...options, dataTransfer: data }),
          );
        },
        { type, bytes: [...IMAGE] },
      );
      assert.equal(proceeded, false);
    }
    await bob.locator(".message img").nth(1).waitFor();
  });

  test("a message that failed has a button to try again", async () => {
    const [ann, bob] = await pair();
    // The server takes no message for a room that its sender is not in.
    await ann.evaluate(() => socket.emit("leave", "lobby"));
    await say(ann, "is this on?");
    await ann.locator("[data-tick=failed]").waitFor();
    await sees(ann, "#notice", "A message was not delivered.");
    await ann.evaluate(() => socket.emit("join", "lobby"));
    const again = ann.getByRole("button", { name: "try again" });
    await again.focus();
    await ann.keyboard.press("Enter");
    await delivered(ann, "is this on?");
    await sees(bob, ".message", "is this on?");
    assert.equal(await focused(ann), "text");
    assert.equal(await ann.innerText("#notice"), "");
  });

  test("a message whose answer was lost is shown once", async () => {
    const bob = await user("Bob");
    const ann = await open(WAYS["websocket only"].query);
    let cut = true;
    await ann.routeWebSocket(/socket\.io/, (page) => {
      const server = page.connectToServer();
      server.onMessage((frame) => {
        const isAck = typeof frame === "string" && frame.startsWith("43");
        if (!isAck || !cut) return page.send(frame);
        cut = false;
        page.close();
        server.close();
      });
    });
    await ann.reload(); // it has effect on pages that load after it
    await enter(ann, "Ann");
    await sees(bob, "#people", "Ann");
    await sees(ann, "#people", "Bob");
    await say(ann, "once");
    await delivered(ann, "once");
    await say(ann, "then this");
    await sees(bob, ".message", "then this");
    assert.equal(cut, false);
    assert.equal(await bob.locator(".message").count(), 2);
    assert.equal(await ann.locator(".message").count(), 2);
  });

  test("a room may have any name", async () => {
    const ann = await user("Ann");
    await join(ann, "constructor");
    await join(ann, "__proto__");
    await sees(ann, "#people", "Ann (you)");
    assert.deepEqual(ann.problems, []);
  });
});

describe("the window", () => {
  test("a reload keeps the name and the rooms", async () => {
    const [ann, bob] = await pair();
    await join(ann, "tea");
    await ann.reload();
    await state(ann, "connected");
    await sees(ann, "#here", "# tea");
    await sees(ann, "#people", "Ann (you)");
    await sees(ann, "#me", "Ann");
    await say(bob, "are you still in the lobby?");
    await sees(ann, '#rooms [data-room="lobby"] em', "1");
    assert.equal(await bob.locator("#people li", { hasText: "Ann" }).count(), 1);
    await ann.setViewportSize({ width: 390, height: 780 });
    await ann.getByRole("button", { name: "Rooms and people, 1 unread" }).click();
    await sees(ann, '#rooms [data-room="lobby"] em', "1");
  });

  test("a link opens a second window, with a name of its own", async () => {
    const ann = await open(WAYS["websocket only"].query);
    const second = async (link) => {
      const [page] = await Promise.all([ann.context().waitForEvent("page"), ann.click(link)]);
      await page.waitForLoadState();
      assert.equal(page.url(), ann.url());
      assert.equal(await page.inputValue("#name"), "");
      return page;
    };
    const bob = await second("#login a");
    await enter(ann, "Ann");
    await enter(bob, "Bob");
    await sees(bob, "#people", "Ann");
    await second("#about a");
    const carl = await second(".entries a");
    await enter(carl, "Carl");
    await say(carl, "Hello from another window");
    await Promise.all([ann, bob].map((page) => sees(page, ".message", "Hello from another window")));
  });

  test("two tabs of one name are one entry, and closing one of them shows no leave", async () => {
    const [ann, bob] = await pair();
    // Of every list that Bob's page has shown.
    await bob.evaluate(() => {
      window.lists = [];
      const names = () => [...document.querySelectorAll("#people li")].map((line) => line.textContent.trim());
      const note = () => lists.push(names());
      new MutationObserver(note).observe(document.getElementById("people"), { childList: true, subtree: true });
    });
    // With an opener, a window starts with a copy of what the page has stored.
    await ann.locator("#about a").evaluate((link) => (link.rel = "opener"));
    const [copy] = await Promise.all([ann.context().waitForEvent("page"), ann.click("#about a")]);
    await sees(copy, "#people", "Ann (you)");
    await join(copy, "tea");
    await sees(bob, "#rooms", "# tea");
    assert.equal(await bob.locator("#people li", { hasText: "Ann" }).count(), 1);
    assert.equal(await copy.evaluate(() => everywhere.get("lobby").join()), "Ann,Bob");

    // When the tab has gone, after its grace, the room that only it was in has, too.
    await copy.close();
    await seesNo(bob, '#rooms [data-room="tea"]', "tea");
    await say(ann, "still here");
    await sees(bob, ".message", "still here");
    assert.equal(await bob.locator("#people li", { hasText: "Ann" }).count(), 1);
    const without = await bob.evaluate(() => lists.filter((list) => !list.some((name) => name.includes("Ann"))));
    assert.deepEqual(without, []);

    await ann.context().close();
    await seesNo(bob, "#people li", "Ann");
  });

  test("the name can be changed", async () => {
    const [ann, bob] = await pair();
    await say(ann, "soon I am Anna");
    await delivered(ann, "soon I am Anna");
    await ann.click("#quit");
    await seesNo(bob, "#people", "Ann");
    assert.equal(await focused(ann), "name");
    await ann.reload();
    await ann.locator("#login").waitFor();
    await enter(ann, "Anna");
    await sees(ann, "#people", "Anna (you)");
    await sees(bob, "#people", "Anna");
  });

  test("a line says what the page shows, before and after the login", async () => {
    const ann = await open();
    await sees(ann, "#login", "A chat over Socket.IO, served by Rust. It shows rooms");
    await enter(ann, "Ann");
    await sees(ann, "#about", "What you see is Socket.IO: rooms");
  });

  test("a lost connection leaves a note in the log", async () => {
    const [ann, bob] = await pair();
    await say(bob, "before");
    await sees(ann, ".message", "before");
    server.killed = server.child;
    server.child.kill("SIGINT");
    await server.ended;
    await Promise.all([state(ann, "connecting"), state(bob, "connecting")]);
    await server.start();
    await Promise.all([state(ann, "connected"), state(bob, "connected")]);
    await sees(ann, ".note", "What others wrote in that time is not shown.");
    await say(bob, "after");
    await sees(ann, ".message", "after");
  });
});

describe("the door", () => {
  test("an empty name is refused, and says so", async () => {
    const page = await open();
    await enter(page, "   ");
    await sees(page, "#refused", "name");
  });

  test("a taken name is refused, and another one is not", async () => {
    await user("Ann");
    const page = await open("?transports=websocket");
    await enter(page, "Ann");
    await sees(page, "#refused", "taken");
    await enter(page, "Anna");
    await state(page, "connected");
    await sees(page, "#people", "Anna (you)");
  });

  test("a name is free when its user has left", async () => {
    const first = await user("Ann");
    const bob = await user("Bob");
    await sees(bob, "#people", "Ann");
    await first.context().close();
    await seesNo(bob, "#people li", "Ann");
    await user("Ann");
  });

  test("a reload shows the login when another user has taken the name", async () => {
    const ann = await user("Ann");
    await ann.context().setOffline(true);
    await ann.evaluate(() => socket.io.engine.close());
    const bob = await user("Bob");
    await seesNo(bob, "#people", "Ann");
    await user("Ann");
    await ann.context().setOffline(false);
    await sees(ann, "#refused", "the name Ann is taken");
    await ann.reload();
    await ann.locator("#login").waitFor();
    assert.equal(await ann.inputValue("#name"), "");
  });
});

describe("the client's bundle", () => {
  const LOCAL = (url) => url.pathname === "/socket.io.min.js" && url.hostname === "127.0.0.1";
  const missing = (route) => route.fulfill({ status: 404, body: "" });

  test("without it on the server, the page loads the same file from the CDN", async () => {
    const bundle = await (await fetch(`${server.url}/socket.io.min.js`)).text();
    const page = await open();
    await page.route(LOCAL, missing);
    await page.route("https://cdn.socket.io/4.8.3/socket.io.min.js", (route) =>
      route.fulfill({ body: bundle, headers: { "access-control-allow-origin": "*" } }),
    );
    await page.goto(server.url);
    await page.waitForFunction(() => window.io);
    await enter(page, "Ann");
    await sees(page, "#people", "Ann (you)");
  });

  test("another file from the CDN is not run", async () => {
    const page = await open();
    await page.route(LOCAL, missing);
    await page.route("https://cdn.socket.io/**", (route) =>
      route.fulfill({ body: "window.io = 1", headers: { "access-control-allow-origin": "*" } }),
    );
    await page.goto(server.url);
    await sees(page, "#refused", "npm");
    assert.equal(await page.evaluate(() => typeof io), "undefined");
  });

  test("without any, the page says what to do", async () => {
    const page = await open();
    await page.route(LOCAL, missing);
    await page.route("https://cdn.socket.io/**", (route) => route.abort());
    await page.goto(server.url);
    await sees(page, "#refused", "npm");
    assert.equal(await page.isDisabled("#login button"), true);
  });

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

/** The bytes of a picture of mountains. */
async function landscape(page) {
  const url = await page.evaluate(() => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 960, height: 540 });
    const context = canvas.getContext("2d");
    const sky = context.createLinearGradient(0, 0, 0, 540);
    [["#26336d", 0], ["#e8798a", 0.55], ["#ffd08a", 1]].forEach(([color, at]) => sky.addColorStop(at, color));
    const fill = (style, ...points) => {
      context.fillStyle = style;
      context.beginPath();
      for (let at = 0; at < points.length; at += 2) context.lineTo(points[at], points[at + 1]);
      context.fill();
    };
    fill(sky, 0, 0, 960, 0, 960, 540, 0, 540);
    const sun = Array.from({ length: 64 }, (_, at) => (at / 32) * Math.PI);
    fill("#fff3d6", ...sun.flatMap((angle) => [610 + 64 * Math.cos(angle), 220 + 64 * Math.sin(angle)]));
    fill("#5c4680", 0, 360, 190, 220, 330, 330, 520, 150, 700, 370, 830, 270, 960, 360, 960, 540, 0, 540);
    fill("#2d2450", 0, 470, 240, 380, 480, 460, 700, 390, 960, 480, 960, 540, 0, 540);
    return canvas.toDataURL("image/png");
  });
  return Buffer.from(url.split(",")[1], "base64");
}

/** The texts in view whose contrast to the ground behind them is less than 4.5, as WCAG counts it. */
function faint() {
  const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const over = (colors) => {
    context.clearRect(0, 0, 1, 1);
    for (const color of colors) {
      context.fillStyle = color;
      context.fillRect(0, 0, 1, 1);
    }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (rgb) => {
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgb.map((byte) => linear(byte / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [light, dark] = [luminance(a), luminance(b)].sort((a, b) => b - a);
    return (light + 0.05) / (dark + 0.05);
  };
  const grounds = (element) => {
    const colors = [];
    for (let at = element; at; at = at.parentElement) colors.unshift(getComputedStyle(at).backgroundColor);
    return ["Canvas", ...colors];
  };
  const found = [];
  const texts = new Set();
  for (const element of document.querySelectorAll("body *")) {
    if (!element.checkVisibility() || element.disabled || element.closest("script, svg")) continue;
    const own = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data.trim()).join("");
    const placeholder = !element.value && element.placeholder;
    const text = own || element.value || placeholder;
    if (!text) continue;
    const ground = grounds(element);
    const { color } = getComputedStyle(element, placeholder ? "::placeholder" : null);
    const ratio = contrast(over([...ground, color]), over(ground));
    texts.add(text);
    if (ratio < 4.5) found.push(`${text}: ${ratio.toFixed(2)}`);
  }
  return { found, texts: [...texts] };
}

describe("its look", () => {
  test("every text has enough contrast, light and dark", async () => {
    const seen = new Set();
    const look = async (page) => {
      for (const colorScheme of ["light", "dark"]) {
        await page.emulateMedia({ colorScheme });
        const { found, texts } = await page.evaluate(faint);
        assert.deepEqual(found, [], colorScheme);
        texts.forEach((text) => seen.add(text));
      }
    };
    const [ann, bob] = await pair();
    await join(ann, "tea");
    await ann.click('#rooms [data-room="lobby"]');
    await bob.click('#rooms [data-room="tea"]');
    await say(bob, "is the tea ready?");
    await sees(ann, '#rooms [data-room="tea"] em', "1");
    await bob.click('#rooms [data-room="lobby"]');
    await sees(bob, "#here", "# lobby");
    await look(ann);
    await say(bob, "Hello");
    await sees(ann, ".message", "Hello");
    await say(ann, "Hi");
    await delivered(ann, "Hi");
    // Without the timer that ends it.
    await ann.evaluate(() => {
      mine.get(here).typing.set("Bob", undefined);
      showTyping();
    });
    await look(ann);

    await ann.evaluate(() => socket.emit("leave", "lobby"));
    await say(ann, "not delivered, this one");
    await ann.locator("[data-tick=failed]").waitFor();
    await paste(ann, "x".repeat(10_001));
    await look(ann);
    await ann.press("#text", "Enter");
    await look(ann);
    await paste(ann, "x".repeat(9_999));
    await look(ann);
    await paste(ann, "");
    await ann.evaluate(() => socket.emit("join", "lobby"));

    await fill(bob, ann);
    await scrollTo(ann, 0);
    await say(bob, "below");
    await sees(ann, "#more", "1 new message");
    await look(ann);

    await server.kill();
    await state(ann, "connecting");
    await say(ann, "later");
    await ann.locator("[data-tick=waiting]").waitFor();
    await sees(ann, "#offline", "The connection is lost");
    await look(ann);
    await server.start();
    await Promise.all([state(ann, "connected"), state(bob, "connected")]);
    await sees(ann, ".note", "Offline from");
    await look(ann);

    await ann.hover('#rooms [data-room="tea"]');
    await look(ann);
    const faces = await ann.evaluate(() => {
      const names = Array.from({ length: 400 }, (_, at) => `Name ${at}`);
      document.body.replaceChildren(...names.map((name) => face(name)));
      return new Set(Array.from(document.querySelectorAll(".face"), (face) => face.style.cssText)).size;
    });
    assert.ok(faces > 100, `${faces} colors`);
    await look(ann);

    const door = await open();
    await look(door);
    await enter(door, "Bob");
    await sees(door, "#refused", "taken");
    await look(door);
    for (const text of ["✓ delivered", "try again", "Another room", "Bob is typing…", "the name Bob is taken"]) {
      assert.ok(seen.has(text), `${text} was looked at`);
    }
  });

  test("nothing overflows a screen of 360 pixels, even with the longest names", async () => {
    const ann = await user("W".repeat(24));
    await join(ann, "M".repeat(24));
    await ann.setViewportSize({ width: 360, height: 740 });
    const outside = () =>
      ann.evaluate(() => {
        return [...document.querySelectorAll("body *:not(.spoken)")]
          .filter((element) => element.checkVisibility())
          .filter((element) => {
            const { left, right } = element.getBoundingClientRect();
            return left < 0 || right > innerWidth;
          })
          .map((element) => element.outerHTML.slice(0, 80));
      });
    assert.deepEqual(await outside(), []);
    await say(ann, "W".repeat(200));
    await delivered(ann, "WW");
    await send(ann, "a file whose name is ".repeat(9), Buffer.from("no image"));
    await sees(ann, "#notice", "Nothing was sent");
    assert.deepEqual(await outside(), []);
    await ann.click("#menu");
    await sees(ann, "#people", "(you)");
    assert.deepEqual(await outside(), []);
    await ann.click("#menu");
    await server.kill();
    await state(ann, "connecting");
    await sees(ann, "#offline", "The connection is lost");
    assert.deepEqual(await outside(), []);
    const scrolls = () => {
      const all = [document.documentElement, ...document.querySelectorAll("body *:not(.cut, .spoken, .from)")];
      return all.filter((one) => one.scrollWidth > one.clientWidth && getComputedStyle(one).overflowX === "auto");
    };
    assert.equal((await ann.evaluate(scrolls)).length, 0);
    assert.equal(await ann.evaluate(() => document.documentElement.scrollWidth), 360);
  });

  test("all controls have a name, and can be reached by the Tab key", async () => {
    const unnamed = (page) =>
      page.evaluate(() => {
        const named = (element) =>
          element.getAttribute("aria-label") ?? (element.labels?.[0] ?? element).textContent.trim();
        return [...document.querySelectorAll("a, button, input, textarea, [role=log], [role=region]")]
          .filter((element) => element.checkVisibility() && !named(element) && !element.getAttribute("aria-labelledby"))
          .map((element) => element.outerHTML.slice(0, 80));
      });
    /** The ids, or the texts, of what has the focus, until it comes round. */
    const round = async (page) => {
      const seen = [];
      for (;;) {
        await page.keyboard.press("Tab");
        const at = await page.evaluate(() => {
          const { activeElement: element } = document;
          return element === document.body ? "" : element.id || element.textContent.trim().replace(/\s+/g, " ");
        });
        if (seen.includes(at)) return seen;
        seen.push(at);
        const outline = await page.evaluate(() => {
          const ring = document.activeElement.closest("#say label") ?? document.activeElement;
          return document.activeElement === document.body || getComputedStyle(ring).outlineStyle;
        });
        assert.notEqual(outline, "none", `a ring around ${at}`);
      }
    };
    const door = await open();
    assert.deepEqual(await unnamed(door), []);
    assert.deepEqual((await round(door)).filter(Boolean).sort(), ["Enter", "name", "open a second window"]);

    const [ann, bob] = await pair();
    await say(bob, "Hello");
    await sees(ann, ".message", "Hello");
    assert.deepEqual(await unnamed(ann), []);
    const reached = await round(ann);
    for (const id of ["room", "+", "quit", "log", "image", "text", "Send"]) {
      assert.ok(reached.includes(id), `${id} is among ${reached}`);
    }
    await ann.setViewportSize({ width: 360, height: 740 });
    assert.ok((await round(ann)).includes("menu"));
  });

  test("a name or a text from right to left is shown so, and does not turn what is around it", async () => {
    const [ann, bob] = [await user("دانا"), await user("Bob")];
    await sees(bob, "#people", "دانا");
    await say(ann, "שלום!");
    await sees(bob, ".message", "שלום!");
    const direction = (where) => bob.locator(where).first().evaluate((element) => getComputedStyle(element).direction);
    assert.equal(await direction(".bubble"), "rtl");
    assert.equal(await direction(".message .from span"), "rtl");
    assert.equal(await direction(".message"), "ltr");
    await say(bob, "Hello!");
    await delivered(bob, "Hello!");
    assert.equal(await direction(".mine .bubble"), "ltr");
  });

  test("messages in a row show the name once, and all of them have it", async () => {
    const [ann, bob] = await pair();
    for (const text of ["one", "two"]) await say(ann, text);
    await sees(bob, ".message", "two");
    await say(bob, "three");
    await delivered(bob, "three");
    await say(ann, "four");
    await sees(bob, ".message", "four");
    const messages = await bob.locator(".message:not(.mine)").evaluateAll((all) =>
      all.map((one) => [
        one.querySelector(".from .cut").textContent,
        one.querySelector(".from").getBoundingClientRect().width > 1,
      ]),
    );
    assert.deepEqual(messages, [["Ann", true], ["Ann", false], ["Ann", true]]);
  });

  test("addresses are links, and nothing else is", async () => {
    const [ann, bob] = await pair();
    await say(ann, "see https://example.org/a?b=c. <a href='javascript:alert()'>or</a> javascript:alert(1)");
    const links = bob.locator(".bubble a");
    await links.first().waitFor();
    const found = await links.evaluateAll((all) => all.map((link) => [link.href, link.target, link.rel]));
    assert.deepEqual(found, [["https://example.org/a?b=c", "_blank", "noopener noreferrer"]]);
    await sees(bob, ".bubble", "<a href='javascript:alert()'>or</a>");
  });

  test("the title counts what has not been read", async () => {
    const [ann, bob] = await pair();
    assert.equal(await ann.title(), "# lobby · Chat");
    await join(ann, "tea");
    await say(bob, "in the lobby");
    await ann.waitForFunction(() => document.title === "(1) # tea · Chat");
    await ann.click('#rooms [data-room="lobby"]');
    await ann.waitForFunction(() => document.title === "# lobby · Chat");
    // Headless windows are never hidden.
    const hide = (hidden) =>
      ann.evaluate((hidden) => {
        Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
      }, hidden);
    await hide(true);
    await say(bob, "and while you look elsewhere");
    await ann.waitForFunction(() => document.title === "(1) # lobby · Chat");
    await hide(false);
    await ann.waitForFunction(() => document.title === "# lobby · Chat");
    await ann.click("#quit");
    assert.equal(await ann.title(), "Chat");
  });

  // `docs/images/` has these pictures.
  test("two pages in a conversation, and one on a telephone", async () => {
    const [ann, bob] = await pair(WAYS["polling, then websocket"]);
    await join(bob, "tea");
    await bob.click('#rooms [data-room="lobby"]');
    await say(ann, "Good morning! Did you get up to the ridge after all?");
    await sees(bob, ".message", "Good morning");
    await say(bob, "I did. Up before the sun, and worth every step 🥾");
    await bob.setInputFiles("#image", { name: "ridge.png", mimeType: "image/png", buffer: await landscape(bob) });
    await ann.locator(".message img").evaluate((img) => img.decode());
    await say(ann, "Oh, that light 🤩");
    await delivered(ann, "that light");
    await bob.type("#text", "Next");
    await sees(ann, "#typing", "Bob is typing");
    await ann.setViewportSize({ width: 1200, height: 800 });
    await atEnd(ann);
    await ann.screenshot({ path: path.join(TARGET, "chat.png") });
    await ann.emulateMedia({ colorScheme: "dark" });
    await ann.screenshot({ path: path.join(TARGET, "chat-dark.png") });

    await ann.setViewportSize({ width: 360, height: 640 });
    const wide = await ann.evaluate(() => document.documentElement.scrollWidth > innerWidth);
    assert.equal(wide, false);
    await atEnd(ann);
    await bob.press("#text", "!");
    await ann.screenshot({ path: path.join(TARGET, "chat_narrow.png") });
    await ann.emulateMedia({ colorScheme: "light" });
    await ann.screenshot({ path: path.join(TARGET, "chat_narrow-light.png") });
  });
});
