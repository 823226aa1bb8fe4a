// The contract in TypeScript and as AsyncAPI: what TypeScript's compiler accepts and refuses with the
// official client's types, and a client in TypeScript that talks to the example `typed`.

import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { before, test } from "node:test";
import { fileURLToPath } from "node:url";
import Ajv from "ajv";
import addFormats from "ajv-formats";
import { EXAMPLES, PATIENCE, Server, TARGET } from "./support.js";

const HERE = path.dirname(fileURLToPath(import.meta.url));
const TSC = path.join(HERE, "node_modules/.bin/tsc");
const FOLDER = path.join(TARGET, "contract-test");

const require = createRequire(import.meta.url);

before(() => {
  rmSync(FOLDER, { recursive: true, force: true });
  mkdirSync(FOLDER, { recursive: true });
  symlinkSync(path.join(HERE, "node_modules"), path.join(FOLDER, "node_modules"));
  writeFileSync(path.join(FOLDER, "package.json"), '{ "type": "module" }');
  execFileSync(path.join(EXAMPLES, "contract"), [FOLDER]);
});

const HEAD = `
import { io, type Socket } from "socket.io-client";
import type * as events from "./events";
declare const socket: Socket<events.ServerToClientEvents, events.ClientToServerEvents>;
declare const orders: Socket<events.OrdersShopServerToClientEvents, events.OrdersShopClientToServerEvents>;
declare const bytes: Uint8Array;
declare const blob: Blob;
declare const buffer: ArrayBuffer;
declare function takes<T>(value: T): void;
export { io, takes };
`;

// Each line is a program of its own. Lines of `good` compile, lines of `bad` do not.
const PITFALLS = {
  "an Option": {
    good: [
      `socket.emit("optional", {});`,
      `socket.emit("optional", { nullable: null, omitted: null, defaulted: true });`,
      `socket.emit("optional", { nullable: "text", omitted: 1 });`,
      `socket.on("optional", (data) => takes<string | null>(data.nullable));`,
      `socket.on("optional", (data) => takes<number | null | undefined>(data.omitted));`,
      `socket.on("optional", (data) => takes<boolean>(data.defaulted));`,
    ],
    bad: [
      `socket.emit("optional", { nullable: 1 });`,
      `socket.emit("optional", { other: 1 });`,
      `socket.emit("optional", { defaulted: null });`,
      `socket.on("optional", (data) => takes<string>(data.nullable));`,
      `socket.on("optional", (data) => takes<number | null>(data.omitted));`,
    ],
  },
  "numbers": {
    good: [
      `socket.emit("numbers", { unsigned: 1, signed: -1, size: 2, float: 0.5, letter: "a" });`,
      `socket.on("numbers", (data) => takes<number>(data.unsigned + data.signed + data.size));`,
    ],
    bad: [
      `socket.emit("numbers", { unsigned: 1n, signed: -1, size: 2, float: 0.5, letter: "a" });`,
      `socket.emit("numbers", { unsigned: "1", signed: -1, size: 2, float: 0.5, letter: "a" });`,
      `socket.on("numbers", (data) => takes<bigint>(data.unsigned));`,
      `socket.on("numbers", (data) => takes<number>(data.letter));`,
    ],
  },
  "bytes": {
    good: [
      `socket.emit("picture", { image: bytes, histogram: [1] }, () => {});`,
      `socket.emit("picture", { image: blob, thumbnail: buffer, histogram: [] }, () => {});`,
      `socket.on("picture", ({ image }) => takes<Uint8Array>(new Uint8Array(image)));`,
      `socket.on("picture", ({ image }) => takes<number>(image.byteLength));`,
      `socket.on("picture", ({ thumbnail }) => takes<ArrayBuffer | Uint8Array | null>(thumbnail));`,
      `socket.on("picture", ({ histogram }) => takes<number[]>(histogram));`,
      `socket.on("picture", (data, ack) => ack(bytes));`,
      `socket.emit("picture", { image: bytes, histogram: [] }, (reply) => takes<number>(reply.byteLength));`,
    ],
    bad: [
      `socket.emit("picture", { image: [1, 2, 3], histogram: [1] }, () => {});`,
      `socket.emit("picture", { image: "AQID", histogram: [1] }, () => {});`,
      `socket.emit("picture", { image: bytes, histogram: bytes }, () => {});`,
      `socket.on("picture", ({ image }) => takes<number[]>(image));`,
      `socket.on("picture", ({ image }) => takes<string>(image));`,
      `socket.on("picture", ({ image }) => takes<Blob>(image));`,
      `socket.on("picture", (data, ack) => ack([1, 2]));`,
    ],
  },
  "acknowledgements": {
    good: [
      `takes<number>(await socket.emitWithAck("add", { a: 1, b: 2 }));`,
      `socket.emit("add", { a: 1, b: 2 }, (sum) => takes<number>(sum));`,
      `socket.timeout(5).emit("add", { a: 1, b: 2 }, (err, sum) => (takes<Error>(err), takes<number>(sum)));`,
      `takes<number>(await socket.timeout(5).emitWithAck("add", { a: 1, b: 2 }));`,
      `socket.emit("typing", { room: "a" });`,
      `socket.emit("typing", { room: "a" }, () => {});`,
      `await socket.emitWithAck("typing", { room: "a" });`,
      `socket.timeout(5).emit("typing", { room: "a" }, (err) => takes<Error>(err));`,
      `socket.on("confirm", ({ question }, ack) => ack(question === "sure?"));`,
      `socket.on("typing", ({ room }) => takes<string>(room));`,
      `socket.on("typing", (data, ack) => ack?.());`,
    ],
    bad: [
      `takes<string>(await socket.emitWithAck("add", { a: 1, b: 2 }));`,
      `await socket.emitWithAck("add", { a: 1 });`,
      `socket.emit("add", { a: 1, b: 2 }, (sum: string) => takes(sum));`,
      `socket.emit("add", { a: 1, b: 2 });`,
      `socket.timeout(5).emit("add", { a: 1, b: 2 }, (sum: number) => takes(sum));`,
      `socket.emit("typing", { room: 1 });`,
      `socket.emit("typing", { room: "a" }, (reply: string) => takes(reply));`,
      `await socket.emitWithAck("typing", { room: 1 });`,
      `socket.on("confirm", (data, ack) => ack("yes"));`,
      `socket.on("confirm", (data, ack) => ack());`,
      `socket.on("typing", (data, ack) => ack());`,
      `socket.on("typing", (data, ack) => ack?.(1));`,
    ],
  },
  "several arguments": {
    good: [
      `socket.emit("move", 1, null, "red", (ok) => takes<boolean>(ok));`,
      `takes<boolean>(await socket.emitWithAck("move", 1, 2, "darkgreen"));`,
      `socket.on("move", (x, y, color, ack) => (takes<number>(x), takes<number | null>(y), ack(color === "red")));`,
      `socket.emit("ping");`,
      `socket.emit("ping", () => {});`,
      `socket.on("ping", () => {});`,
      `socket.emit("pair", ["a", 1]);`,
      `socket.on("pair", ([name, score]) => (takes<string>(name), takes<number>(score)));`,
      `socket.emit("words", ["a", "b"]);`,
    ],
    bad: [
      `socket.emit("move", [1, null, "red"], () => {});`,
      `socket.emit("move", 1, null, () => {});`,
      `await socket.emitWithAck("move", 1, 2, "blue");`,
      `socket.on("move", (x, y) => takes<number>(y));`,
      `socket.emit("ping", 1);`,
      `socket.emit("pair", "a", 1);`,
      `socket.emit("pair", ["a", 1, 2]);`,
      `socket.emit("words", "a", "b");`,
    ],
  },
  "enums": {
    good: [
      `takes<events.Color>("red");`,
      `takes<events.External>("Unit");`,
      `takes<events.External>({ Newtype: 1 });`,
      `takes<events.External>({ Tuple: [1, "a"] });`,
      `takes<events.External>({ Struct: { a: true } });`,
      `takes<events.Internal>({ type: "empty" });`,
      `takes<events.Internal>({ type: "text", text: "a" });`,
      `takes<events.Internal>({ type: "other", room: "a" });`,
      `takes<events.Adjacent>({ kind: "Pair", value: [1, 2] });`,
      `takes<events.Adjacent>({ kind: "Nothing" });`,
      `takes<events.Untagged>(1);`,
      `takes<events.Untagged>({ id: 1 });`,
      `takes<events.Flat>({ id: 1, name: "a", type: "text", text: "b" });`,
      `takes<events.FlatMap>({ name: "a", other: 1 });`,
      `socket.on("enums", ({ internal }) => internal.type === "text" && takes<string>(internal.text));`,
      `socket.on("enums", ({ flat }) => flat.type === "other" && takes<string>(flat.room));`,
    ],
    bad: [
      `takes<events.Color>("Red");`,
      `takes<events.External>("Newtype");`,
      `takes<events.External>({ Tuple: [1] });`,
      `takes<events.External>({ Struct: {} });`,
      `takes<events.Internal>({ type: "text" });`,
      `takes<events.Internal>({ type: "none" });`,
      `takes<events.Internal>({ type: "other", text: "a" });`,
      `takes<events.Adjacent>({ kind: "Pair", value: 1 });`,
      `takes<events.Adjacent>({ kind: "Number" });`,
      `takes<events.Untagged>(true);`,
      `takes<events.Flat>({ name: "a", type: "empty" });`,
      `takes<events.Flat>({ id: 1, name: "a", type: "text" });`,
      `takes<events.FlatMap>({ name: "a", other: true });`,
      `socket.on("enums", ({ internal }) => takes<string>(internal.text));`,
    ],
  },
  "flattened maps": {
    good: [
      `takes<events.FlatBoth>({ name: "a", type: "text", text: "b" });`,
      `takes<events.FlatBoth>({ name: "a", type: "text", text: "b", other: 1 });`,
      `takes<events.FlatAny>({ type: "text", text: "b", other: [1] });`,
      `takes<events.FlatOpen>({ name: "a", other: [1] });`,
      `takes<events.TaggedMap>({ type: "Counts", a: 1 });`,
      `takes<events.TaggedMap>({ type: "Named", total: 1, a: 1 });`,
      `takes<events.FlatOptional>({ name: "a" });`,
      `takes<events.FlatOptional>({ name: "a", type: "text", text: "b" });`,
      `takes<events.FlatUnion>({ id: "a", total: 1, x: 2 });`,
      `takes<events.FlatUnion>({ id: "a", text: "b" });`,
      `takes<events.TaggedNewtype>({ type: "Counts", total: 1, x: 2 });`,
      `socket.on("shapes", ({ flat_optional: f }) => f.type === "text" && takes<string>(f.text + f.name));`,
      `socket.on("shapes", ({ flat_both: f }) => f.type === "text" && takes<string>(f.text + f.name));`,
    ],
    bad: [
      `takes<events.FlatBoth>({ type: "text", text: "b", other: 1 });`,
      `takes<events.FlatBoth>({ name: "a", type: "text", other: 1 });`,
      `takes<events.FlatAny>({ type: "text", other: 1 });`,
      `takes<events.FlatOpen>({ other: 1 });`,
      `takes<events.TaggedMap>({ type: "Named", a: 1 });`,
      `takes<events.TaggedMap>({ a: 1 });`,
      `takes<events.FlatOptional>({ name: "a", type: "text" });`,
      `takes<events.FlatOptional>({ type: "text", text: "b" });`,
      `takes<events.FlatUnion>({ total: 1 });`,
    ],
  },
  "maps that contain themselves": {
    good: [
      `takes<events.Json>("a");`,
      `takes<events.Json>({ a: { b: ["c", { d: "e" }] } });`,
    ],
    bad: [
      `takes<events.Json>(1);`,
      `takes<events.Json>({ a: { b: ["c", { d: 1 }] } });`,
    ],
  },
  "unions inside of unions": {
    good: [
      `takes<events.Nested>("First");`,
      `takes<events.Nested>("Two");`,
      `takes<events.Nested>(null);`,
      `takes<events.Nested>(1);`,
    ],
    bad: [`takes<events.Nested>("Third");`, `takes<events.Nested>({});`],
  },
  "names of TypeScript": {
    good: [
      `takes<events.keyof2>({ a: 1 });`,
      `takes<events.unique2>({ a: 1 });`,
      `takes<events.Record>({ a: 1 });`,
      `takes<Socket<events.MRestServerToClientEvents>>(io("/m²/a"));`,
    ],
    bad: [`takes<events.keyof2>({});`, `takes<events.Record>({ b: 1 });`],
  },
  "serde's attributes": {
    good: [
      `socket.emit("attributes", { userName: "a", in: 1, email: "b", large: "1" });`,
      `socket.on("attributes", (data) => takes<number>(data.out));`,
      `socket.on("attributes", (data) => takes<string>(data.large));`,
    ],
    bad: [
      `socket.emit("attributes", { user_name: "a", in: 1, email: "b", large: "1" });`,
      `socket.emit("attributes", { userName: "a", out: 1, email: "b", large: "1" });`,
      `socket.emit("attributes", { userName: "a", in: 1, mail: "b", large: "1" });`,
      `socket.emit("attributes", { userName: "a", in: 1, email: "b", large: 1 });`,
      `socket.emit("attributes", { userName: "a", in: 1, email: "b", large: "1", secret: 1 });`,
      `socket.on("attributes", (data) => takes<number>(data.in));`,
      `socket.on("attributes", (data) => takes<number>(data.secret));`,
    ],
  },
  "one name, two types": {
    good: [
      `socket.emit("names", { first: { text: "a" }, second: { number: 1 }, same: { id: 1 }, also: { id: 2 } });`,
      `takes<events.Message>({ text: "a" });`,
      `takes<events.Message2>({ number: 1 });`,
      `takes<events.Same>({ id: 1 });`,
      `takes<events.OptionalToServer>({});`,
    ],
    bad: [
      `socket.emit("names", { first: { number: 1 }, second: { number: 1 }, same: { id: 1 }, also: { id: 2 } });`,
      `takes<events.Same2>({ id: 1 });`,
      `takes<events.Optional>({});`,
      `takes<events.TypingToServer>({ room: "a" });`,
    ],
  },
  "names of events and namespaces": {
    good: [
      `socket.emit("user:joined", { name: "a" });`,
      `socket.on("user:joined", ({ name }) => takes<string>(name));`,
      `socket.on("connect", () => {});`,
      `socket.on("connect_error", (error) => takes<string>(error.message));`,
      `takes<events.Page>(await orders.emitWithAck("order", { item: "a" }));`,
      `takes<Socket<events.MatchedServerToClientEvents>>(io("/any"));`,
    ],
    bad: [
      `socket.emit("user_joined", { name: "a" });`,
      `socket.on("joined", () => {});`,
      `orders.emit("typing", { room: "a" });`,
      `orders.on("order", () => {});`,
      `takes<events.UntypedClientToServerEvents>({});`,
    ],
  },
  "maps": {
    good: [
      `socket.emit("maps", { by_id: { 1: "a" }, by_name: { a: [1] }, by_color: { red: true } });`,
      `socket.on("maps", ({ by_id }) => takes<string | undefined>(by_id["1"]));`,
      `socket.on("maps", ({ by_color }) => takes<boolean | undefined>(by_color.darkgreen));`,
    ],
    bad: [
      `socket.emit("maps", { by_id: { 1: 2 }, by_name: {}, by_color: {} });`,
      `socket.emit("maps", { by_id: [], by_name: [1], by_color: {} });`,
      `socket.emit("maps", { by_id: {}, by_name: {}, by_color: { blue: true } });`,
    ],
  },
  "types that are written as strings": {
    good: [
      `socket.emit("formats", { when: new Date().toISOString(), id: crypto.randomUUID(), page: "http://a/" });`,
      `socket.on("formats", ({ when }) => takes<string>(when));`,
    ],
    bad: [
      `socket.emit("formats", { when: new Date(), id: crypto.randomUUID(), page: "http://a/" });`,
      `socket.emit("formats", { when: "", id: 1, page: "" });`,
      `socket.emit("formats", { when: "", id: "", page: new URL("http://a/") });`,
    ],
  },
  "the offset of recovery": {
    good: [`socket.on("pair", (data, ack) => takes<(() => void) | undefined>(ack));`],
    bad: [
      `socket.on("pair", (data, offset: string) => takes(offset));`,
      `socket.on("pair", (data, ack, offset) => takes(offset));`,
    ],
  },
  "types that contain themselves, and unknown ones": {
    good: [
      `takes<events.TreeToServer>({ children: [{ children: [] }] });`,
      `socket.on("documented", ({ tree }) => takes<events.TreeFromServer | null>(tree.parent));`,
      `socket.on("documented", ({ anything }) => takes<unknown>(anything));`,
      `socket.on("documented", ({ three: [a, b, c] }) => takes<number>(a + b + c));`,
    ],
    bad: [
      `takes<events.TreeToServer>({ children: [{}] });`,
      `takes<events.TreeFromServer>({ children: [] });`,
      `socket.on("documented", ({ anything }) => takes<string>(anything));`,
      `socket.on("documented", ({ three: [a, b, c, d] }) => takes(d));`,
    ],
  },
};

/** Compiles files, and returns the errors by the names of the files. */
function compile(folder, files, options = {}) {
  const config = {
    compilerOptions: {
      strict: true,
      target: "es2022",
      module: "esnext",
      moduleResolution: "bundler",
      lib: ["es2022", "dom"],
      types: ["node"],
      noEmit: true,
      ...options,
    },
    files,
  };
  writeFileSync(path.join(folder, "tsconfig.json"), JSON.stringify(config));
  const { stdout, error } = spawnSync(TSC, ["-p", folder, "--pretty", "false"], { cwd: folder, encoding: "utf8" });
  assert.equal(error, undefined);
  const errors = new Map();
  for (const line of stdout.split("\n")) {
    const [, file, row, message] = /^([^\s(][^(]*)\((\d+),\d+\): error (.*)$/.exec(line) ?? [];
    if (!file) {
      // The lines of one error after the first are indented.
      assert.match(line, /^(\s.*)?$/, stdout);
      continue;
    }
    errors.set(file, [...(errors.get(file) ?? []), { row: Number(row), message }]);
  }
  return errors;
}

test("the good clients compile, and each wrong one does not", () => {
  const programs = new Map();
  for (const [pitfall, { good, bad }] of Object.entries(PITFALLS)) {
    const slug = pitfall.replace(/\W+/g, "-");
    good.forEach((line, n) => programs.set(`${slug}.good${n}.ts`, { pitfall, line, isGood: true }));
    bad.forEach((line, n) => programs.set(`${slug}.bad${n}.ts`, { pitfall, line, isGood: false }));
  }
  for (const [file, { line }] of programs) writeFileSync(path.join(FOLDER, file), `${HEAD}${line}\n`);
  const errors = compile(FOLDER, [...programs.keys()]);
  const row = HEAD.split("\n").length;
  const wrong = [];
  for (const [file, { pitfall, line, isGood }] of programs) {
    const found = errors.get(file) ?? [];
    errors.delete(file);
    const isRight = isGood ? found.length === 0 : found.length > 0 && found.every((error) => error.row === row);
    if (!isRight) wrong.push({ pitfall, line, isGood, found });
  }
  assert.deepEqual(wrong, []);
  // In the contract itself, and the client's types.
  assert.deepEqual([...errors], []);
});

test("comments of Rust are comments of TypeScript", () => {
  const text = readFileSync(path.join(FOLDER, "events.d.ts"), "utf8");
  for (const comment of [
    "/** Several arguments, one with a label. */\n  move: (x: number, ",
    "/** A color. */\nexport type Color =",
    "  /** Nothing. */\n  | \"Unit\"",
    "  /** Of fixed length. */\n  three: ",
    " * An event with `*\\/` in its comment.\n *\n * And a second paragraph.\n */\nexport interface Documented",
    "   * @deprecated\n   */\n  first: number;",
    "  /** Format: `date-time`. */\n  when: string;",
  ]) {
    assert.ok(text.includes(comment), comment);
  }
});

test("the AsyncAPI document is valid", () => {
  const document = JSON.parse(readFileSync(path.join(FOLDER, "asyncapi.json"), "utf8"));
  // The specification has the schema of schemas itself.
  const ajv = new Ajv({ strict: false, allErrors: true, meta: false, validateSchema: false });
  addFormats(ajv);
  const validate = ajv.compile(require("@asyncapi/specs/schemas/3.0.0.json"));
  assert.ok(validate(document), JSON.stringify(validate.errors, null, 2));

  const addresses = Object.values(document.channels).map((channel) => channel.address);
  assert.deepEqual(addresses.sort(), ["/", "/m²/{rest}", "/orders/{shop}", null]);

  // All references lead somewhere.
  const follow = (pointer) =>
    pointer
      .slice(2)
      .split("/")
      .reduce((at, key) => at?.[decodeURIComponent(key)], document);
  let count = 0;
  JSON.stringify(document, (key, value) => {
    if (key === "$ref") {
      count += 1;
      assert.ok(follow(value) !== undefined, value);
    }
    return value;
  });
  assert.ok(count > 50);

  // The schemas judge values, in each direction.
  const schema = (name) => {
    const values = new Ajv({ strict: false, logger: false });
    addFormats(values);
    return values.compile({ ...document, $ref: `#/components/schemas/${name}` });
  };
  assert.ok(schema("OptionalToServer")({}));
  assert.ok(!schema("OptionalFromServer")({}));
  assert.ok(schema("OptionalFromServer")({ nullable: null, defaulted: true }));
  assert.ok(!schema("Pair")(["a", 1, 2]));
  assert.ok(schema("Pair")(["a", 1]));
  assert.ok(schema("Internal")({ type: "other", room: "a" }));
  assert.ok(schema("FlatBoth")({ name: "a", type: "other", room: "a", more: 1 }));
  assert.ok(!schema("FlatBoth")({ name: "a", type: "other", more: 1 }));
  assert.ok(!schema("Internal")({ type: "other" }));
});

test("a client in TypeScript talks to the example", async () => {
  const source = path.join(HERE, "../../examples/typed");
  const folder = path.join(FOLDER, "client");
  cpSync(source, folder, { recursive: true });
  const errors = compile(folder, ["client.ts"], { noEmit: false, outDir: folder });
  assert.deepEqual([...errors], []);

  const server = await Server.run("typed");
  try {
    const client = path.join(folder, "client.js");
    const output = execFileSync(process.execPath, [client, server.url], { encoding: "utf8", timeout: PATIENCE });
    assert.deepEqual(output.trim().split("\n"), [
      "2 people are here",
      "true null { kind: 'text', text: 'Who wants tea?' }",
      "sent as 2",
      "answers 1: [ 1, 2, 3 ] null",
      "pointer at [ 0.25, 0.5 ]",
      "left: true",
    ]);
  } finally {
    await server.kill();
  }
});

test("a client of the example that is wrong does not compile", () => {
  const source = path.join(HERE, "../../examples/typed");
  const client = readFileSync(path.join(source, "client.ts"), "utf8");
  const wrongs = [
    [/room: "tea",\n  content: \{ kind: "text"/, 'content: { kind: "text"'],
    [/kind: "text", text/, 'kind: "txt", text'],
    [/bytes: new Uint8Array\(\[1, 2, 3\]\)/, "bytes: [1, 2, 3]"],
    [/answers: number,/, "answers: String(number),"],
    [/"pointer", "tea", 0.25, 0.5/, '"pointer", { room: "tea", x: 0.25, y: 0.5 }'],
    [/receipt\.number/, "receipt.id"],
  ];
  const folder = path.join(FOLDER, "wrong-clients");
  mkdirSync(folder, { recursive: true });
  cpSync(path.join(source, "events.d.ts"), path.join(folder, "events.d.ts"));
  const files = wrongs.map(([right, wrong], n) => {
    assert.match(client, right);
    writeFileSync(path.join(folder, `client${n}.ts`), client.replace(right, wrong));
    return `client${n}.ts`;
  });
  const errors = compile(folder, files);
  assert.deepEqual([...errors.keys()].sort(), files);
});
