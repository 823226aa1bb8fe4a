// A Redis Cluster of three masters, each a program of its own.

import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

import { createClient, createCluster } from "redis";

import { PATIENT, run } from "./cluster.js";
import { freePort, until } from "./support.js";

const SLOTS = 16_384;

/** A node of a Redis Cluster. */
class ClusterNode {
  static async run() {
    const node = new ClusterNode();
    [node.port, node.busPort] = [await freePort(), await freePort()];
    // A replica writes what it gets into its folder, and a node reads what is there.
    node.folder = mkdtempSync(path.join(tmpdir(), "redis-cluster-"));
    const options = ["--port", node.port, "--cluster-port", node.busPort, "--bind", "127.0.0.1"];
    options.push("--save", "", "--appendonly", "no", "--cluster-enabled", "yes");
    // A busy machine may stop a node for a second.
    options.push("--cluster-node-timeout", 3_000, "--dir", node.folder);
    node.child = run("redis-server", options, { stdio: "ignore" });
    node.exited = once(node.child, "exit");
    node.admin = createClient({ url: node.url, commandOptions: PATIENT });
    node.admin.on("error", () => {});
    await node.admin.connect();
    node.id = await node.command("CLUSTER", "MYID");
    return node;
  }

  get url() {
    return `redis://127.0.0.1:${this.port}`;
  }

  command(...args) {
    return this.admin.sendCommand(args.map(String));
  }

  async kill() {
    this.admin.destroy();
    this.child.kill("SIGKILL");
    await this.exited;
    rmSync(this.folder, { recursive: true, force: true });
  }
}

export class RedisCluster {
  nodes = [];

  static async run() {
    const cluster = new RedisCluster();
    try {
      await cluster.#start();
      return cluster;
    } catch (error) {
      await cluster.stop();
      throw error;
    }
  }

  async #start() {
    for (let at = 0; at < 3; at++) this.nodes.push(await ClusterNode.run());
    const third = Math.floor(SLOTS / 3);
    for (const [at, node] of this.nodes.entries()) {
      const end = at === 2 ? SLOTS : (at + 1) * third;
      await node.command("CLUSTER", "ADDSLOTSRANGE", at * third, end - 1);
      await node.command("CLUSTER", "SET-CONFIG-EPOCH", at + 1);
    }
    for (const node of this.nodes.slice(1)) await this.#meet(node);
    await this.whole();
    const rootNodes = this.nodes.map(({ url }) => ({ url }));
    this.admin = createCluster({ rootNodes, commandOptions: PATIENT });
    this.admin.on("error", () => {});
    await this.admin.connect();
  }

  #meet(node) {
    return this.nodes[0].command("CLUSTER", "MEET", "127.0.0.1", node.port, node.busPort);
  }

  get url() {
    return this.nodes.map(({ url }) => url).join(",");
  }

  /** Waits until each node knows all others, and all slots have masters. */
  async whole() {
    const isWhole = async (node) => {
      const info = await node.command("CLUSTER", "INFO");
      return info.includes("cluster_state:ok") && info.includes(`cluster_known_nodes:${this.nodes.length}\r`);
    };
    await until(async () => (await Promise.all(this.nodes.map(isWhole))).every(Boolean), "a whole Redis Cluster");
  }

  async addReplica(master) {
    const replica = await ClusterNode.run();
    await this.#meet(replica);
    const replicates = () => replica.command("CLUSTER", "REPLICATE", master.id).catch(() => false);
    await until(replicates, "a replica");
    const info = () => replica.command("INFO", "replication");
    await until(async () => (await info()).includes("master_link_status:up"), "a replica that has all");
    this.nodes.push(replica);
    await this.whole();
  }

  /** Kills a node, and waits until the slots of a master have another one. */
  async kill(node) {
    this.nodes = this.nodes.filter((other) => other !== node);
    await node.kill();
    const state = async (node) => (await node.command("CLUSTER", "INFO")).includes("cluster_state:ok");
    const slots = async () => JSON.stringify(await this.nodes[0].command("CLUSTER", "SLOTS"));
    await until(async () => !(await slots()).includes(node.id), "a new master");
    await until(async () => (await Promise.all(this.nodes.map(state))).every(Boolean), "a whole Redis Cluster");
  }

  slot(name) {
    return this.nodes[0].command("CLUSTER", "KEYSLOT", name);
  }

  /** The master of a slot. */
  async owner(slot) {
    const ranges = await this.nodes[0].command("CLUSTER", "SLOTS");
    const [, , [, port]] = ranges.find(([begin, end]) => slot >= begin && slot <= end);
    return this.nodes.find((node) => node.port === port);
  }

  /** Moves the slot of a name to another master, with its keys. */
  async move(name) {
    const slot = await this.slot(name);
    const from = await this.owner(slot);
    const to = this.nodes[(this.nodes.indexOf(from) + 1) % 3];
    await to.command("CLUSTER", "SETSLOT", slot, "IMPORTING", from.id);
    await from.command("CLUSTER", "SETSLOT", slot, "MIGRATING", to.id);
    for (const key of await from.command("CLUSTER", "GETKEYSINSLOT", slot, 100)) {
      await from.command("MIGRATE", "127.0.0.1", to.port, key, 0, 5_000);
    }
    const others = this.nodes.filter((node) => node !== from && node !== to);
    for (const node of [to, from, ...others]) await node.command("CLUSTER", "SETSLOT", slot, "NODE", to.id);
  }

  /**
   * Waits until all nodes have the same masters for all slots. Two moves before that may lose keys: two
   * nodes may claim a slot then with one epoch.
   */
  async agrees() {
    const view = async (node) => {
      const lines = (await node.command("CLUSTER", "NODES")).trim().split("\n");
      const fields = lines.map((line) => line.split(" "));
      const masters = fields.map(([id, , , , , , epoch, , ...slots]) => [id, epoch, slots]);
      return JSON.stringify(masters.sort());
    };
    await until(async () => new Set(await Promise.all(this.nodes.map(view))).size === 1, "one view of all nodes");
  }

  /** The number of connections that are subscribed to a channel of either kind, on all nodes. */
  async subscribers(channel) {
    const count = async (node) => {
      const counts = ["NUMSUB", "SHARDNUMSUB"].map((kind) => node.command("PUBSUB", kind, channel));
      return (await Promise.all(counts)).reduce((sum, [, count]) => sum + count, 0);
    };
    return (await Promise.all(this.nodes.map(count))).reduce((sum, count) => sum + count, 0);
  }

  async stop() {
    this.admin?.destroy();
    await Promise.all(this.nodes.map((node) => node.kill()));
  }
}
