//! The connections of one server to the nodes of a Redis Cluster.

use std::fmt;
use std::sync::Arc;

use futures_core::future::BoxFuture;
use redis::{Cmd, ConnectionAddr, ConnectionInfo, Pipeline, RedisResult, Value};

use super::connection::{Nodes, NodesChange, Seeds};
use super::link::{self, Sender};
use super::masters::{Masters, invalid};
use super::pool::Task;
use super::receiving::{self, Receiver};
use super::slots::Address;
use super::stream_reads::{self, StreamReads};
use super::subscribed::Changes;
use crate::sync::Mutex;

/// The nodes of a Redis Cluster that an application knows.
#[derive(Clone)]
pub(super) struct ClusterSeeds {
    seeds: Arc<[Address]>,
    info: ConnectionInfo,
}

impl ClusterSeeds {
    /// Reads the URLs of nodes. The user, the password and the other settings of the first one are those of
    /// all nodes.
    ///
    /// # Errors
    ///
    /// Fails if a URL is malformed or has a database number, or if there is none.
    pub(super) fn new(urls: &[String]) -> RedisResult<Self> {
        let mut seeds = Vec::new();
        let mut first = None;
        for url in urls {
            let info = link::info(url)?;
            if info.redis_settings().db() != 0 {
                return Err(invalid("a Redis Cluster has the database 0 only"));
            }
            seeds.push(match info.addr() {
                ConnectionAddr::Tcp(host, port) => Address::new(host, *port),
                ConnectionAddr::TcpTls { host, port, .. } => Address::new(host, *port),
                _ => return Err(invalid("a node of a Redis Cluster has a host and a port")),
            });
            first.get_or_insert(info);
        }
        let info = first.ok_or_else(|| invalid("a Redis Cluster needs the URL of a node"))?;
        Ok(Self {
            seeds: seeds.into(),
            info,
        })
    }
}

impl fmt::Debug for ClusterSeeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The settings have the password.
        f.debug_tuple("ClusterSeeds").field(&self.seeds).finish()
    }
}

impl Seeds for ClusterSeeds {
    fn nodes(&self) -> Arc<dyn Nodes> {
        let masters = Arc::new(Masters::new(&self.seeds, &self.info));
        let receiver = Receiver::new(&masters, self.info.clone());
        let reads = StreamReads::new(&masters, self.info.clone());
        Arc::new(ClusterNodes {
            masters,
            receiver: Arc::new(receiver),
            reads: Arc::new(reads),
            keeper: Mutex::default(),
        })
    }
}

/// The connections of one server to the nodes.
struct ClusterNodes {
    masters: Arc<Masters>,
    receiver: Arc<Receiver>,
    reads: Arc<StreamReads>,
    /// Keeps the subscriptions.
    keeper: Mutex<Option<Task>>,
}

impl Nodes for ClusterNodes {
    fn find(&self) -> BoxFuture<'_, RedisResult<()>> {
        Box::pin(async {
            self.reads.clear();
            self.masters.refresh().await
        })
    }

    fn receive(&self, received: Sender) {
        self.receiver.set_received(received);
        self.masters.status.lock().reported = false;
        let mut keeper = self.keeper.lock();
        if keeper.is_none() {
            *keeper = Some(Task::spawn(receiving::keep(Arc::clone(&self.receiver))));
        }
    }

    fn change(&self, changes: Changes) -> BoxFuture<'_, RedisResult<()>> {
        Box::pin(receiving::change(&self.receiver, changes))
    }

    fn has_all(&self) -> bool {
        let has_problem = self.masters.status.lock().problem().is_some();
        !has_problem && self.receiver.has_all()
    }

    fn changed(&self) -> BoxFuture<'_, NodesChange> {
        Box::pin(async {
            loop {
                let change = self.masters.status.lock().take_change();
                match change {
                    Some(change) => return change,
                    None => self.masters.status_changed.notified().await,
                }
            }
        })
    }

    fn flush(&self) -> BoxFuture<'_, RedisResult<()>> {
        Box::pin(receiving::flush(&self.receiver))
    }

    fn send<'a>(&'a self, commands: &'a Pipeline) -> BoxFuture<'a, RedisResult<Vec<Value>>> {
        Box::pin(self.masters.send(commands))
    }

    fn reply<'a>(&'a self, command: &'a Cmd) -> BoxFuture<'a, RedisResult<Value>> {
        Box::pin(async {
            match stream_reads::parts(command) {
                None => {
                    let mut pipeline = Pipeline::new();
                    pipeline.add_command(command.clone());
                    let replies = self.masters.send(&pipeline).await?;
                    Ok(replies.into_iter().next().unwrap_or(Value::Nil))
                }
                Some(parts) => self.reads.read(parts).await,
            }
        })
    }
}

impl fmt::Debug for ClusterNodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterNodes")
            .field("seeds", &self.masters.seeds)
            .finish_non_exhaustive()
    }
}
