// The page of the official Admin UI, unmodified, in headless Chromium against the example `admin_ui`.
//
// SCREENSHOTS is a folder for screenshots; without it there are none.

import assert from "node:assert/strict";
import { once } from "node:events";
import path from "node:path";
import { after, afterEach, before, beforeEach, test } from "node:test";
import { io } from "socket.io-client";
import { launch } from "./browser.js";
import { PATIENCE, Server, until, within } from "./support.js";

const WIDE = { width: 1280, height: 800 };
const NARROW = { width: 390, height: 844 };

let browser;
let server;
let clients;

before(async () => (browser = await launch()));
after(() => browser?.close());
beforeEach(async () => {
  server = await Server.run("admin_ui");
  clients = [];
});
afterEach(async () => {
  clients.forEach((client) => client.disconnect());
  await Promise.all(browser.contexts().map((context) => context.close()));
  await server?.kill();
});

async function connect(name, namespace = "/", options = {}) {
  const client = io(server.url + namespace, { auth: { name }, forceNew: true, ...options });
  clients.push(client);
  await within(once(client, "connect"), `connection of ${name}`);
  return client;
}

async function open(viewport = WIDE) {
  const context = await browser.newContext({ viewport });
  context.setDefaultTimeout(PATIENCE);
  // The page loads fonts of other servers.
  await context.route((url) => url.origin !== server.url, (route) => route.abort());
  const page = await context.newPage();
  page.problems = [];
  page.on("pageerror", (error) => page.problems.push(error.message));
  await page.goto(`${server.url}/admin-ui/`);
  return page;
}

async function signIn(page, password = "sesame") {
  await page.getByLabel("Server URL").fill(server.url);
  await page.getByLabel("Username").fill("admin");
  await page.getByLabel("Password").fill(password);
  await page.getByRole("button", { name: "Connect" }).click();
}

/** A page that is signed in. */
async function admin(viewport) {
  const page = await open(viewport);
  await signIn(page);
  await signedIn(page);
  return page;
}

const sees = (page, text) => page.getByText(text).first().waitFor();
const signedIn = (page) => page.locator(".v-dialog--active").waitFor({ state: "hidden" });
const row = (page, text) => page.locator("tbody tr", { hasText: text });

/** Goes to a part of the page by its link. */
async function go(page, part) {
  await page.locator(".v-navigation-drawer a", { hasText: part }).click();
  await shown(page, part);
}

/** Waits until a part is shown, and the former one has slid out. */
const shown = (page, part) =>
  page.waitForFunction((part) => {
    const parts = [...document.querySelectorAll(".v-main .v-breadcrumbs")];
    return parts.length === 1 && parts[0].textContent.trim().endsWith(part);
  }, part);

async function screenshot(page, name) {
  const folder = process.env.SCREENSHOTS;
  if (folder) await page.screenshot({ path: path.join(folder, `${name}.png`) });
}

test("wrong credentials are refused in the page's own words", async () => {
  const page = await open();
  await signIn(page, "Sesame");
  await sees(page, "Invalid credentials");
  await screenshot(page, "wrong-credentials");
  await signIn(page);
  await signedIn(page);
  assert.deepEqual(page.problems, []);
});

test("a socket is seen, joins a room and is disconnected", async () => {
  const ada = await connect("ada");
  const bob = await connect("bob");
  const page = await admin();
  await go(page, "Sockets");
  await row(page, ada.id).waitFor();
  await screenshot(page, "sockets");
  await row(page, ada.id).click();
  await shown(page, "Socket details");
  await sees(page, "Initial HTTP request");
  await sees(page, '"name": "ada"');
  await page.getByLabel("Join a room").fill("tea");
  await page.locator(".v-main form button[type=submit]").click();
  await row(page, "tea").waitFor();
  await screenshot(page, "socket");
  await go(page, "Rooms");
  await row(page, "tea").waitFor();
  await screenshot(page, "rooms");
  await go(page, "Sockets");
  const left = once(ada, "disconnect");
  await row(page, ada.id).getByRole("button").click();
  assert.equal((await within(left, "disconnect"))[0], "io server disconnect");
  // A click on the button is one on its row, too: the page goes to the socket.
  await shown(page, "Socket details");
  await row(page, "Status").filter({ hasText: "disconnected" }).first().waitFor();
  await go(page, "Sockets");
  await until(async () => {
    const text = await page.locator(".v-main").innerText();
    return text.includes(bob.id) && !text.includes(ada.id);
  }, "list without the socket");
  assert.deepEqual(page.problems, []);
});

test("the session is kept when the page is loaded again", async () => {
  const page = await admin();
  await page.waitForFunction(() => localStorage.getItem("session_id")?.length === 16);
  await page.reload();
  await row(page, "/admin").waitFor();
  assert.equal(await page.locator(".v-dialog--active").isVisible(), false);
});

test("events are seen while they happen", async () => {
  const ada = await connect("ada");
  const page = await admin();
  await go(page, "Sockets");
  await row(page, ada.id).waitFor();
  await go(page, "Events");
  ada.emit("say", "hello");
  await row(page, "say").waitFor();
  await shown(page, "Events");
  await screenshot(page, "events");
  assert.deepEqual(page.problems, []);
});

test("the numbers are shown, also on a narrow window", async () => {
  await connect("ada", "/", { transports: ["polling"] });
  await connect("bob", "/orders/7");
  const page = await admin(NARROW);
  await row(page, "/orders/7").waitFor();
  await screenshot(page, "dashboard-narrow");
  assert.deepEqual(page.problems, []);
});

test("an upgrade to WebSocket is reported", async () => {
  const auth = { username: "admin", password: "sesame" };
  const page = io(`${server.url}/admin`, { auth, forceNew: true });
  clients.push(page);
  const shown = new Promise((resolve) => page.once("all_sockets", resolve));
  await within(shown, "sockets");
  const updated = new Promise((resolve) => {
    page.on("socket_updated", (update) => update.transport && resolve(update));
  });
  const connected = new Promise((resolve) => {
    page.on("socket_connected", (socket) => socket.nsp === "/" && resolve(socket));
  });
  const ada = await connect("ada");
  assert.equal((await within(connected, "socket")).transport, "polling");
  const update = await within(updated, "update");
  assert.deepEqual(update, { id: ada.id, nsp: "/", transport: "websocket" });
});
