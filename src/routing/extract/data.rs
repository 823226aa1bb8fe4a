//! Extractors that read the arguments of the client, and the socket.

use std::convert::Infallible;

use serde::de::DeserializeOwned;

use super::{
    Args, Data, FromConnect, FromEvent, InvalidArgs, InvalidAuth, NotADisconnect, RawArgs,
};
use crate::handles::Socket;
use crate::protocol::{TypedArgs, TypedEvent};
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

impl<E: TypedEvent, S: Sync> FromEvent<S> for TypedArgs<E> {
    type Rejection = InvalidArgs;

    async fn from_event(event: &mut Event, _: &S) -> Result<Self, InvalidArgs> {
        let payload = event.payload_mut();
        let read = if E::SPREAD {
            payload.read_all()
        } else {
            payload.read_one()
        };
        read.map(Self).map_err(InvalidArgs)
    }
}

impl<S: Sync> FromEvent<S> for RawArgs {
    type Rejection = Infallible;

    async fn from_event(event: &mut Event, _: &S) -> Result<Self, Infallible> {
        Ok(event.args_for_extractor())
    }
}

/// The `auth` of a client, deserialized into a `T`. For connect handlers only.
///
/// A JavaScript client sets it with `io(url, { auth: { token: "…" } })`. If a client sends no
/// `auth`, the `T` is read from `{}`, or from `null` if `{}` is not a `T`. So `Auth<Option<T>>`
/// accepts such a client.
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

/// A sender for an acknowledgement that is sent later than the handler returns.
///
/// If a handler uses this extractor, its return value is not sent. If the sender is dropped, no
/// acknowledgement is sent, and the client waits until its own timeout.
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
    /// Returns whether the client asks for an acknowledgement.
    #[must_use]
    pub const fn is_wanted(&self) -> bool {
        self.ack.is_some()
    }

    /// Sends the acknowledgement, which is any type that a handler can return. This does nothing if
    /// the client does not ask for one.
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
            ack: event.defer_ack(),
            socket: event.socket().clone(),
        })
    }
}
