//! The slots of a Redis Cluster, and the nodes that have them: pure functions and data structures.
//!
//! A key and a channel of sharded pub/sub belong to one of 16 384 slots, and a slot to one master. If a
//! name has a part in braces, only that part counts: `{chat}#/#` and `{chat}#/#red#` have one slot.
//!
//! | reply | meaning |
//! |---|---|
//! | `MOVED 9640 10.0.0.2:6379` | the slot has another owner |
//! | `ASK 9640 10.0.0.2:6379` | the slot is being moved, and the key is there already |
//! | `CLUSTERDOWN`, `TRYAGAIN`, `LOADING`, `MASTERDOWN` | the node may carry out the command later |

use std::fmt;
use std::sync::Arc;

use redis::{Arg, Cmd, ServerError, Value};

use super::entries::text;

/// The number of slots.
pub(super) const SLOTS: usize = 16_384;

/// The slot whose master gets what all nodes get.
pub(super) const ANY_SLOT: u16 = 0;

/// Returns the slot of a key or a channel.
pub(super) fn slot(name: &[u8]) -> u16 {
    crc16(hashed(name)) % SLOTS as u16
}

/// Returns the part of a name that is hashed: the text in its first braces, or the whole name if there is
/// none.
fn hashed(name: &[u8]) -> &[u8] {
    let Some(open) = name.iter().position(|byte| *byte == b'{') else {
        return name;
    };
    let rest = &name[open + 1..];
    match rest.iter().position(|byte| *byte == b'}') {
        None | Some(0) => name,
        Some(close) => &rest[..close],
    }
}

/// CRC-16/XMODEM, which Redis Cluster uses.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            let shifted = crc << 1;
            if crc & 0x8000 == 0 {
                shifted
            } else {
                shifted ^ 0x1021
            }
        })
    })
}

/// The address of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Address {
    pub(super) host: Arc<str>,
    pub(super) port: u16,
}

impl Address {
    pub(super) fn new(host: &str, port: u16) -> Self {
        let host = host.into();
        Self { host, port }
    }

    /// Reads `10.0.0.2:6379`. Without a host it is that of the node that has sent it.
    fn parse(text: &str, sender: &Self) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok()?;
        Some(Self::from_host(host, port, sender))
    }

    /// A node that does not know its own address sends none, or a question mark.
    fn from_host(host: &str, port: u16, sender: &Self) -> Self {
        match host {
            "" | "?" => Self {
                host: Arc::clone(&sender.host),
                port,
            },
            host => Self::new(host, port),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The nodes of a cluster, and the slots of its masters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Topology {
    /// The masters and the replicas that have not failed.
    nodes: Vec<Address>,
    /// For each slot, its master in `nodes`.
    owners: Vec<Option<u16>>,
}

impl Default for Topology {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            owners: vec![None; SLOTS],
        }
    }
}

impl Topology {
    /// Reads the reply to `CLUSTER SHARDS` of a node. Returns `None` if it is another reply.
    pub(super) fn from_shards(reply: &Value, sender: &Address) -> Option<Self> {
        let Value::Array(shards) = reply else {
            return None;
        };
        let mut topology = Self::default();
        for shard in shards {
            let slots = list(field(shard, "slots")?)?;
            for node in list(field(shard, "nodes")?)? {
                // A node that has failed keeps its slots until a replica has taken them over.
                if field(node, "health").and_then(text) == Some("fail") {
                    continue;
                }
                let Some(address) = node_address(node, sender) else {
                    continue;
                };
                let node_number = topology.add(address);
                if field(node, "role").and_then(text) == Some("master") {
                    for range in slots.chunks_exact(2) {
                        topology.set(range[0].clone(), range[1].clone(), node_number);
                    }
                }
            }
        }
        Some(topology)
    }

    /// Reads the reply to `CLUSTER SLOTS` of a node. Returns `None` if it is another reply.
    pub(super) fn from_slots(reply: &Value, sender: &Address) -> Option<Self> {
        let Value::Array(ranges) = reply else {
            return None;
        };
        let mut topology = Self::default();
        for range in ranges {
            let Value::Array(range) = range else {
                return None;
            };
            let [begin, end, nodes @ ..] = &range[..] else {
                return None;
            };
            for (at, node) in nodes.iter().enumerate() {
                let Value::Array(node) = node else {
                    return None;
                };
                let (host, port) = match &node[..] {
                    [host, Value::Int(port), ..] => (text(host).unwrap_or_default(), *port),
                    _ => return None,
                };
                let port = u16::try_from(port).ok()?;
                let node = topology.add(Address::from_host(host, port, sender));
                // The first one is the master.
                if at == 0 {
                    topology.set(begin.clone(), end.clone(), node);
                }
            }
        }
        Some(topology)
    }

    /// Returns the master of a slot.
    pub(super) fn owner(&self, slot: u16) -> Option<&Address> {
        let owner = self.owners[usize::from(slot) % SLOTS]?;
        self.nodes.get(usize::from(owner))
    }

    /// Returns the node that gets what all nodes get. All servers use the same one, so that what one of
    /// them has published there has arrived when another one has an answer of that node.
    pub(super) fn any(&self) -> Option<&Address> {
        self.owner(ANY_SLOT)
    }

    /// Records the master of a slot.
    pub(super) fn set_owner(&mut self, slot: u16, owner: Address) {
        let node = self.add(owner);
        self.owners[usize::from(slot) % SLOTS] = Some(node);
    }

    /// Takes the masters of the slots that have none from another view of the cluster.
    pub(super) fn complete(&mut self, other: &Self) {
        for slot in 0..SLOTS {
            if self.owners[slot].is_none() {
                let owner = other.owner(slot as u16).cloned();
                self.owners[slot] = owner.map(|owner| self.add(owner));
            }
        }
    }

    /// Returns whether each slot has a master.
    pub(super) fn is_complete(&self) -> bool {
        self.owners.iter().all(Option::is_some)
    }

    /// Returns all nodes.
    pub(super) fn nodes(&self) -> &[Address] {
        &self.nodes
    }

    /// Returns the nodes that have slots.
    pub(super) fn masters(&self) -> impl Iterator<Item = &Address> {
        let mut is_master = vec![false; self.nodes.len()];
        for owner in self.owners.iter().flatten() {
            if let Some(is_master) = is_master.get_mut(usize::from(*owner)) {
                *is_master = true;
            }
        }
        let nodes = self.nodes.iter().zip(is_master);
        nodes.filter_map(|(node, is_master)| is_master.then_some(node))
    }

    /// Returns the number of a node, and adds it if it is new.
    fn add(&mut self, address: Address) -> u16 {
        let known = self.nodes.iter().position(|node| *node == address);
        let number = known.unwrap_or_else(|| {
            self.nodes.push(address);
            self.nodes.len() - 1
        });
        // A cluster has 16 384 masters at most. More nodes than a number has values are none.
        u16::try_from(number).unwrap_or(u16::MAX)
    }

    fn set(&mut self, begin: Value, end: Value, node: u16) {
        let (Value::Int(begin), Value::Int(end)) = (begin, end) else {
            return;
        };
        let (Ok(begin), Ok(end)) = (usize::try_from(begin), usize::try_from(end)) else {
            return;
        };
        if let Some(owners) = self.owners.get_mut(begin..end.saturating_add(1)) {
            owners.fill(Some(node));
        }
    }
}

/// Returns a field of a map, which is a list of names and values in RESP2.
fn field<'a>(map: &'a Value, name: &str) -> Option<&'a Value> {
    match map {
        Value::Map(fields) => {
            let mut fields = fields.iter();
            fields.find_map(|(key, value)| (text(key) == Some(name)).then_some(value))
        }
        Value::Array(fields) => {
            let mut fields = fields.chunks_exact(2);
            fields.find_map(|field| (text(&field[0]) == Some(name)).then_some(&field[1]))
        }
        _ => None,
    }
}

fn list(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(values) => Some(values),
        _ => None,
    }
}

/// Returns the address of a node of `CLUSTER SHARDS`.
fn node_address(node: &Value, sender: &Address) -> Option<Address> {
    let port = match field(node, "port").or_else(|| field(node, "tls-port")) {
        Some(Value::Int(port)) => u16::try_from(*port).ok()?,
        _ => return None,
    };
    let host = field(node, "endpoint").and_then(text).unwrap_or_default();
    Some(Address::from_host(host, port, sender))
}

/// Where a command goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// The master of a slot.
    Slot(u16),
    /// Any node, if it is always the same one: a message of pub/sub, which reaches all nodes.
    Any,
    /// All nodes: the number of their subscribers is the sum.
    All,
}

/// What a command does, for the case that its connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) to: Destination,
    /// Whether it is of pub/sub. Messages of pub/sub are not sent again if they may have arrived.
    pub(super) is_pub_sub: bool,
    /// Whether it counts the subscribers of a channel of sharded pub/sub. A node counts none of a
    /// channel whose slot it does not have, and does not say so.
    pub(super) is_shard_count: bool,
    /// Whether it is about a saved socket. Its key belongs to no stream, and its node may be another one.
    pub(super) is_saved: bool,
}

impl Command {
    /// Returns what a command does. Returns `None` for `MULTI` and `EXEC`, which are no commands of their
    /// own.
    pub(super) fn of(command: &Cmd) -> Option<Self> {
        let mut args = command.args_iter().map(|arg| match arg {
            Arg::Simple(arg) => arg,
            _ => &[],
        });
        let name = args.next()?;
        let to_key = |key: Option<&[u8]>| Destination::Slot(slot(key.unwrap_or_default()));
        let command = |to, is_pub_sub, is_shard_count| Self {
            to,
            is_pub_sub,
            is_shard_count,
            is_saved: matches!(name, b"SET" | b"GETDEL"),
        };
        Some(match name {
            b"MULTI" | b"EXEC" => return None,
            b"PUBLISH" => command(Destination::Any, true, false),
            b"SPUBLISH" => command(to_key(args.next()), true, false),
            b"PUBSUB" => match args.next() {
                Some(b"SHARDNUMSUB") => command(to_key(args.next()), true, true),
                _ => command(Destination::All, true, false),
            },
            b"XREAD" => {
                let mut args = args.skip_while(|arg| *arg != b"STREAMS");
                command(to_key(args.nth(1)), false, false)
            }
            b"XINFO" => command(to_key(args.nth(1)), false, false),
            _ => command(to_key(args.next()), false, false),
        })
    }
}

/// What to do about a refused command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    /// Send it to this node, which has the slot now.
    Moved(u16, Address),
    /// Send it to this node with `ASKING` in front, once.
    Ask(Address),
    /// Send it again after a while.
    Later,
}

impl Redirect {
    /// Reads an error of a node. Returns `None` if it is the result of the command.
    pub(super) fn of(error: &ServerError, sender: &Address) -> Option<Self> {
        let place = || {
            let mut words = error.details()?.split_ascii_whitespace();
            let slot = words.next()?.parse().ok()?;
            Some((slot, Address::parse(words.next()?, sender)?))
        };
        match error.code() {
            "MOVED" => Some(place().map_or(Self::Later, |(slot, to)| Self::Moved(slot, to))),
            "ASK" => Some(place().map_or(Self::Later, |(_, to)| Self::Ask(to))),
            "CLUSTERDOWN" | "TRYAGAIN" | "LOADING" | "MASTERDOWN" => Some(Self::Later),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
