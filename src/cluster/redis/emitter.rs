//! Broadcasts from a process without sockets.

use std::fmt;
use std::sync::Arc;

use redis::{Pipeline, Value};

use super::Redis;
use super::connection::{self, Connection, Endpoint, Link};
use super::form::Route;
use super::link;
use crate::cluster::message::{Envelope, Message};
use crate::handles::{EmitError, EmitErrorKind};
use crate::hub::ClusterError;
use crate::hub::other_servers::Operation;
use crate::hub::selection::Target;
use crate::protocol::{IntoArgs, NamespaceName, Payload};
use crate::sync::Mutex;

/// Sends to the clients of a cluster from a process that has no sockets, such as a worker or a
/// command.
///
/// It reaches the servers of this crate and of Node, as `@socket.io/redis-emitter` and
/// `@socket.io/redis-streams-emitter` do. The [`Mode`](super::Mode) must be that of the servers.
///
/// Without a room it selects all sockets of the namespace, which is `/` unless [`of`](Self::of) sets
/// another. It is cheap to clone, and its clones share one connection, which is made by the first call and
/// again after it has ended.
///
/// ```no_run
/// use tower_socketio::cluster::{Emitter, Redis};
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let emitter = Emitter::new(Redis::connect("redis://127.0.0.1").await?);
/// emitter.emit("news", "it rains").await?;
/// emitter.of("/chat").to("lobby").emit("said", "hello").await?;
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// The methods that send fail if Redis is not connected, or does not confirm the message. Whether
/// servers have received it is not known: nobody counts them.
#[derive(Clone)]
#[must_use = "an emitter does nothing until something is sent"]
pub struct Emitter {
    redis: Redis,
    connection: Arc<Mutex<Option<Connection>>>,
    namespace: NamespaceName,
    target: Target,
    volatile: bool,
}

impl Emitter {
    /// Creates an emitter for the main namespace, `/`.
    pub fn new(redis: Redis) -> Self {
        Self {
            redis,
            connection: Arc::default(),
            namespace: NamespaceName::MAIN,
            target: Target::default(),
            volatile: false,
        }
    }

    /// Selects all sockets of a namespace. A missing slash at the beginning of the name is added.
    pub fn of(&self, namespace: &str) -> Self {
        let slash = if namespace.starts_with('/') { "" } else { "/" };
        Self {
            namespace: format!("{slash}{namespace}").as_str().into(),
            target: Target::default(),
            volatile: false,
            ..self.clone()
        }
    }

    /// Adds the sockets in a room. The id of a socket is a room with only that socket in it.
    pub fn to(&self, room: impl AsRef<str>) -> Self {
        let mut emitter = self.clone();
        emitter.target.rooms.push(room.as_ref().into());
        emitter
    }

    /// Excludes the sockets in a room.
    pub fn except(&self, room: impl AsRef<str>) -> Self {
        let mut emitter = self.clone();
        emitter.target.except.push(room.as_ref().into());
        emitter
    }

    /// Makes the event volatile: it is dropped for each client that is not ready to receive it.
    pub fn volatile(&self) -> Self {
        Self {
            volatile: true,
            ..self.clone()
        }
    }

    /// Sends an event to the selected sockets.
    ///
    /// # Errors
    ///
    /// Fails if the arguments cannot be written as JSON, if the name of the event is reserved, or
    /// if Redis does not confirm the message.
    pub async fn emit(&self, event: &str, args: impl IntoArgs) -> Result<(), EmitError> {
        let payload = self.event(event, args)?;
        let volatile = self.volatile;
        self.operate(Operation::Emit { payload, volatile }).await
    }

    /// Makes the selected sockets join a room.
    ///
    /// # Errors
    ///
    /// Fails if Redis does not confirm the message.
    pub async fn join(&self, room: impl AsRef<str>) -> Result<(), EmitError> {
        self.operate(Operation::Join(vec![room.as_ref().into()]))
            .await
    }

    /// Makes the selected sockets leave a room.
    ///
    /// # Errors
    ///
    /// Fails if Redis does not confirm the message.
    pub async fn leave(&self, room: impl AsRef<str>) -> Result<(), EmitError> {
        self.operate(Operation::Leave(vec![room.as_ref().into()]))
            .await
    }

    /// Disconnects the selected sockets from their namespace.
    ///
    /// # Errors
    ///
    /// Fails if Redis does not confirm the message.
    pub async fn disconnect(&self) -> Result<(), EmitError> {
        self.operate(Operation::Disconnect { close: false }).await
    }

    /// Disconnects the clients of the selected sockets from all namespaces, and closes their
    /// connections.
    ///
    /// # Errors
    ///
    /// Fails if Redis does not confirm the message.
    pub async fn close(&self) -> Result<(), EmitError> {
        self.operate(Operation::Disconnect { close: true }).await
    }

    /// Sends an event to the servers, which handle it with
    /// [`Namespace::on_server_event`](crate::Namespace::on_server_event). Clients do not receive
    /// it. The target is ignored.
    ///
    /// # Errors
    ///
    /// Fails as [`emit`](Self::emit) does.
    pub async fn server_side_emit(
        &self,
        event: &str,
        args: impl IntoArgs,
    ) -> Result<(), EmitError> {
        let payload = self.event(event, args)?;
        self.send(Message::ServerEvent(payload)).await
    }

    fn event(&self, event: &str, args: impl IntoArgs) -> Result<Payload, EmitError> {
        Payload::event(event, self.namespace.len(), args)
            .map_err(|error| EmitError(EmitErrorKind::Encode(error)))
    }

    async fn operate(&self, operation: Operation) -> Result<(), EmitError> {
        self.send(Message::Operation(self.target.clone(), operation))
            .await
    }

    async fn send(&self, message: Message) -> Result<(), EmitError> {
        let envelope = Envelope::new(UID.into(), self.namespace.clone(), message);
        let publish = self.redis.form.publish(&envelope, &Route::default());
        let sent = async {
            let mut connection = self.connection().await?;
            let mut commands = Pipeline::new();
            commands.add_command(publish.command);
            let replies = connection::send(&mut connection, &commands, publish.len).await?;
            match replies.into_iter().next() {
                Some(Value::ServerError(error)) => Err(error.into()),
                // It is not known whether a node of a Redis Cluster has it.
                Some(Value::Nil) => Err(link::NO_ANSWER.into()),
                _ => Ok(()),
            }
        };
        sent.await.map_err(|error: redis::RedisError| {
            tracing::debug!(target: "tower_socketio::cluster", %error, "not sent");
            // The next call connects again.
            let former = self.connection.lock().take();
            drop(former);
            EmitError(EmitErrorKind::Cluster(ClusterError::UNREACHABLE))
        })
    }

    /// Returns the connection, and makes it if there is none.
    async fn connection(&self) -> redis::RedisResult<Connection> {
        let connection = self.connection.lock().clone();
        if let Some(connection) = connection {
            return Ok(connection);
        }
        let link = match (&self.redis.endpoint, self.redis.endpoint.nodes()) {
            (_, Some(nodes)) => Link::to_nodes(&nodes),
            (Endpoint::One(client), None) => Link::connect(client, None).await?,
            (Endpoint::Cluster(_), None) => return Err(link::NO_ANSWER.into()),
        };
        // Two calls may connect at once. The later connection is kept.
        *self.connection.lock() = Some(link.connection.clone());
        Ok(link.connection)
    }
}

/// The sender of each message of an emitter, as of Node's emitters.
const UID: &str = "emitter";

impl fmt::Debug for Emitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emitter")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}
