//! Extractors of what the client sent, and of what belongs to the socket.

use std::convert::Infallible;

use serde::de::DeserializeOwned;

use super::{
    Args, Data, FromConnect, FromEvent, InvalidArgs, InvalidAuth, NotADisconnect, RawArgs,
};
use crate::handles::Socket;
use crate::routing::{DisconnectReason, Event, IntoReply};

impl<T: DeserializeOwned, S: Sync> FromEvent<S> for Data<T> {
    type Rejection = InvalidArgs;

    async fn from_event(event: &mut Event, _: &S) -> Result<Self, InvalidArgs> {
        let read = event.payload_mut().read_one();
        read.map(Self).map_err(InvalidArgs)
    }
}

impl<T: DeserializeOwned, S: Sync> FromEvent<S> for Args<T> {
    type Rejection = InvalidArgs;

    async fn from_event(event: &mut Event, _: &S) -> Result<Self, InvalidArgs> {
        let read = event.payload_mut().read_all();
        read.map(Self).map_err(InvalidArgs)
    }
}

impl<S: Sync> FromEvent<S> for RawArgs {
    type Rejection = Infallible;

    async fn from_event(event: &mut Event, _: &S) -> Result<Self, Infallible> {
        Ok(event.take_args())
    }
}

/// What the client authenticates itself with: `auth` in JavaScript. Only for connect handlers.
///
/// A client that gives nothing gives `{}`; with `Auth<Option<T>>` it can.
///
/// ```
/// use serde::Deserialize;
/// use tower_socketio::{Auth, Namespace};
///
/// #[derive(Deserialize)]
/// struct Login {
///     token: String,
/// }
///
/// async fn connect(Auth(login): Auth<Login>) -> Result<(), &'static str> {
///     if login.token != "sesame" {
///         return Err("not authorized");
///     }
///     Ok(())
/// }
///
/// let namespace: Namespace = Namespace::new().on_connect(connect);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Auth<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromConnect<S> for Auth<T> {
    type Rejection = InvalidAuth;

    async fn from_connect(event: &mut Event, _: &S) -> Result<Self, InvalidAuth> {
        let read = event.payload().read_object();
        read.map(Self).map_err(InvalidAuth)
    }
}

impl<S: Sync> FromEvent<S> for Socket {
    type Rejection = Infallible;

    async fn from_event(event: &mut Event, _: &S) -> Result<Self, Infallible> {
        Ok(event.socket().clone())
    }
}

impl<S: Sync> FromConnect<S> for Socket {
    type Rejection = Infallible;

    async fn from_connect(event: &mut Event, _: &S) -> Result<Self, Infallible> {
        Ok(event.socket().clone())
    }
}

impl<S: Sync> FromEvent<S> for DisconnectReason {
    type Rejection = NotADisconnect;

    async fn from_event(event: &mut Event, _: &S) -> Result<Self, NotADisconnect> {
        event.reason().ok_or(NotADisconnect(()))
    }
}

/// Takes the answer over from the handler, to be sent later.
///
/// What the handler returns is not sent then. Dropping it sends nothing, and the client waits
/// until its own timeout.
///
/// ```
/// use tower_socketio::{AckSender, Namespace};
///
/// async fn slow(ack: AckSender) {
///     tokio::spawn(async move {
///         // …
///         ack.send("done");
///     });
/// }
///
/// let namespace: Namespace = Namespace::new().on("slow", slow);
/// ```
#[derive(Debug)]
#[must_use = "the client waits for an answer"]
pub struct AckSender {
    socket: Socket,
    ack: Option<u64>,
}

impl AckSender {
    /// Whether the client waits for an answer.
    #[must_use]
    pub const fn is_wanted(&self) -> bool {
        self.ack.is_some()
    }

    /// Sends the answer: what a handler could return. Does nothing if it is not wanted.
    pub fn send(self, answer: impl IntoReply) {
        if let Some(ack) = self.ack {
            self.socket
                .member
                .send_ack(ack, answer.into_reply().into_ack());
        }
    }
}

impl<S: Sync> FromEvent<S> for AckSender {
    type Rejection = Infallible;

    async fn from_event(event: &mut Event, _: &S) -> Result<Self, Infallible> {
        Ok(Self {
            ack: event.take_ack(),
            socket: event.socket().clone(),
        })
    }
}
