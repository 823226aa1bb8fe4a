// PostgreSQL, and servers of Node and of this crate on it.
//
// Each PostgreSQL server is one of its own (Debian's package postgresql) on a free port.

import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { chownSync, existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

import { createAdapter } from "@socket.io/postgres-adapter";
import pg from "pg";

import { Cluster, Node, run } from "./cluster.js";
import { Proxy } from "./proxy.js";
import { freePort, until } from "./support.js";

export const TABLE = `CREATE TABLE socket_io_attachments (
  id bigserial UNIQUE, created_at timestamptz DEFAULT now(), payload bytea
)`;

const IS_ROOT = process.getuid() === 0;

/** The number of the user `postgres`: PostgreSQL does not run as root. */
function idOf(kind) {
  return Number(spawnSync("id", [kind, "postgres"], { encoding: "utf8" }).stdout);
}

/** The command of a program of PostgreSQL. */
function command(name, ...args) {
  const folder = "/usr/lib/postgresql";
  const versions = existsSync(folder) ? readdirSync(folder) : [];
  const programs = versions.map((version) => path.join(folder, version, "bin", name));
  const program = programs.find((program) => existsSync(program)) ?? name;
  const user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"];
  return [...(IS_ROOT ? user : []), program, ...args];
}

/** A PostgreSQL server that can be stopped and started again. */
export class Postgres {
  static async run() {
    const postgres = new Postgres();
    postgres.port = await freePort();
    postgres.folder = mkdtempSync(path.join(tmpdir(), "socketio-postgres-"));
    if (IS_ROOT) chownSync(postgres.folder, idOf("-u"), idOf("-g"));
    process.on("exit", () => rmSync(postgres.folder, { recursive: true, force: true }));
    const options = ["-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync", "-D", postgres.folder];
    const [program, ...args] = command("initdb", ...options);
    const made = spawnSync(program, args, { cwd: "/", encoding: "utf8" });
    if (made.status !== 0) throw new Error(`initdb: ${made.error ?? made.stderr}`);
    await postgres.start();
    await postgres.query(TABLE);
    return postgres;
  }

  get url() {
    return `postgres://postgres@127.0.0.1:${this.port}/postgres`;
  }

  async start() {
    const options = ["-D", this.folder, "-k", "", "-h", "127.0.0.1", "-p", `${this.port}`, "-c", "fsync=off"];
    const [program, ...args] = command("postgres", ...options);
    this.child = run(program, args, { stdio: "ignore", cwd: "/" });
    this.exited = once(this.child, "exit");
    this.admin = await until(async () => {
      const admin = new pg.Client(this.url);
      admin.on("error", () => {});
      return admin.connect().then(
        () => admin,
        () => undefined,
      );
    }, "PostgreSQL");
  }

  async stop() {
    await this.admin.end();
    this.child.kill("SIGQUIT");
    await this.exited;
  }

  async query(sql, ...values) {
    return (await this.admin.query(sql, values)).rows;
  }

  /** The connections of servers of this crate: whether they listen, by their numbers. */
  async connections() {
    const activity = "SELECT pid, query FROM pg_stat_activity WHERE application_name = 'tower-socketio'";
    const connections = await this.query(activity);
    return new Map(connections.map(({ pid, query }) => [pid, query.startsWith("LISTEN")]));
  }

  /** All notifications of the namespace `/`, from now on. */
  async tap() {
    const client = new pg.Client(this.url);
    client.on("error", () => {});
    await client.connect();
    const payloads = [];
    client.on("notification", ({ payload }) => payloads.push(payload));
    await client.query('LISTEN "socket.io#/"');
    return { payloads, close: () => client.end() };
  }
}

/** A proxy before PostgreSQL. */
export class PostgresProxy extends Proxy {
  get url() {
    return `postgres://postgres@127.0.0.1:${this.server.address().port}/postgres`;
  }
}

/** A server of Node on PostgreSQL. */
export class PostgresNode extends Node {
  static async run(postgres) {
    const node = new PostgresNode();
    // One connection listens, and one sends: with several that send, messages overtake each other.
    node.pool = new pg.Pool({ connectionString: postgres.url, max: 2 });
    node.pool.on("error", () => {});
    // The adapter neither handles the error of a connection that ends, nor returns it to the pool.
    node.pool.on("connect", (client) => client.on("error", () => (node.pool.options.max += 1)));
    node.create({ adapter: createAdapter(node.pool), cleanupEmptyChildNamespaces: true });
    const event = { type: 9, data: { packet: ["ready"] }, uid: "emitter", nsp: "/" };
    await until(async () => {
      await postgres.query("SELECT pg_notify('socket.io#/', $1)", JSON.stringify(event));
      return node.events.count("ready") > 0;
    }, "a listener of Node's server");
    await node.listen();
    return node;
  }

  async close() {
    await this.io.close();
    // The pool waits for the connections that were not returned.
    this.pool.end().catch(() => {});
  }
}

/** Two servers of Node and one of this crate on one PostgreSQL, with a client on each. */
export class PostgresCluster extends Cluster {
  async start(between = async (postgres) => postgres) {
    this.mode = "postgres";
    this.postgres = await Postgres.run();
    this.between = await between(this.postgres);
    this.a = await PostgresNode.run(this.postgres);
    this.b = await PostgresNode.run(this.postgres);
    await this.startClients();
    await this.whole();
  }

  get broker() {
    return this.postgres;
  }
}
