//! The handlers of the events that other servers of a cluster send.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use axum::extract::State;
use axum_core::extract::FromRef;
use serde::de::DeserializeOwned;

use super::extract::InvalidArgs;
use super::{IntoReply, Reply};
use crate::handles::SocketIo;
use crate::hub::Hub;
use crate::hub::hooks;
use crate::protocol::{Args, Data, Payload, RawArgs};

/// An event that another server of the cluster has sent with
/// [`server_side_emit`](crate::Broadcast::server_side_emit).
///
/// It is an extractor of handlers of server events, for the name of the event.
#[derive(Clone)]
pub struct ServerEvent {
    io: SocketIo,
    payload: Payload,
}

impl ServerEvent {
    /// Returns the name of the event.
    #[must_use]
    pub fn name(&self) -> &str {
        self.payload.name().unwrap_or_default()
    }

    /// Returns the arguments.
    #[must_use]
    pub fn args(&self) -> RawArgs {
        self.payload.clone().into_args()
    }

    /// Returns a handle to this server.
    #[must_use]
    pub fn io(&self) -> SocketIo {
        self.io.clone()
    }
}

impl fmt::Debug for ServerEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerEvent")
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

/// An extractor of handlers of server events.
///
/// It is implemented for [`Data`], [`Args`], [`RawArgs`], [`SocketIo`], [`ServerEvent`] and axum's
/// `State`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an extractor of server events",
    label = "cannot be taken as an argument of a server event handler",
    note = "use `Data<T>`, `Args<T>`, `RawArgs`, `SocketIo`, `ServerEvent` or `State<T>`"
)]
pub trait FromServerEvent<S>: Sized {
    /// The reply of the handler if the extractor fails.
    type Rejection: IntoReply;

    /// Extracts the value from an event.
    fn from_server_event(
        event: &mut ServerEvent,
        state: &S,
    ) -> impl Future<Output = Result<Self, Self::Rejection>> + Send;
}

impl<T: DeserializeOwned, S: Sync> FromServerEvent<S> for Data<T> {
    type Rejection = InvalidArgs;

    async fn from_server_event(event: &mut ServerEvent, _: &S) -> Result<Self, InvalidArgs> {
        event.payload.read_one().map(Self).map_err(InvalidArgs)
    }
}

impl<T: DeserializeOwned, S: Sync> FromServerEvent<S> for Args<T> {
    type Rejection = InvalidArgs;

    async fn from_server_event(event: &mut ServerEvent, _: &S) -> Result<Self, InvalidArgs> {
        event.payload.read_all().map(Self).map_err(InvalidArgs)
    }
}

macro_rules! impl_infallible {
    ($($type:ty: |$event:ident| $value:expr;)*) => {$(
        impl<S: Sync> FromServerEvent<S> for $type {
            type Rejection = std::convert::Infallible;

            async fn from_server_event(
                $event: &mut ServerEvent,
                _: &S,
            ) -> Result<Self, Self::Rejection> {
                Ok($value)
            }
        }
    )*};
}

impl_infallible! {
    RawArgs: |event| event.args();
    SocketIo: |event| event.io();
    ServerEvent: |event| event.clone();
}

impl<T, S> FromServerEvent<S> for State<T>
where
    T: FromRef<S> + Send,
    S: Sync,
{
    type Rejection = std::convert::Infallible;

    async fn from_server_event(_: &mut ServerEvent, state: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(T::from_ref(state)))
    }
}

/// An async function that handles a server event: up to eight [`FromServerEvent`] arguments, and a
/// return type that implements [`IntoReply`].
///
/// You should not need to depend on this trait directly. See
/// [`Namespace::on_server_event`](crate::Namespace::on_server_event).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler of server events",
    label = "not a handler of server events",
    note = "such a handler is an `async fn` whose arguments implement `FromServerEvent`, at most eight, and which returns a type that implements `IntoReply`"
)]
pub trait ServerEventHandler<T, S>: Clone + Send + Sync + Sized + 'static {
    /// Runs the extractors and the handler on an event.
    fn call(self, event: ServerEvent, state: S) -> impl Future<Output = Reply> + Send + 'static;
}

macro_rules! impl_handler {
    ($($t:ident)*) => {
        #[diagnostic::do_not_recommend]
        #[allow(non_snake_case, unused_mut, reason = "one macro for all numbers of arguments")]
        impl<F, Fut, S, $($t,)*> ServerEventHandler<($($t,)*), S> for F
        where
            F: FnOnce($($t),*) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output: IntoReply> + Send + 'static,
            S: Send + Sync + 'static,
            $($t: FromServerEvent<S> + Send + 'static,)*
        {
            fn call(
                self,
                mut event: ServerEvent,
                state: S,
            ) -> impl Future<Output = Reply> + Send + 'static {
                async move {
                    $(
                        let $t = match $t::from_server_event(&mut event, &state).await {
                            Ok(value) => value,
                            Err(rejection) => return rejected(&event, rejection),
                        };
                    )*
                    drop((event, state));
                    self($($t),*).await.into_reply()
                }
            }
        }
    };
}

impl_handler!();
impl_handler!(T1);
impl_handler!(T1 T2);
impl_handler!(T1 T2 T3);
impl_handler!(T1 T2 T3 T4);
impl_handler!(T1 T2 T3 T4 T5);
impl_handler!(T1 T2 T3 T4 T5 T6);
impl_handler!(T1 T2 T3 T4 T5 T6 T7);
impl_handler!(T1 T2 T3 T4 T5 T6 T7 T8);

/// Logs a rejection: the arguments of another server do not fit the handler.
fn rejected(event: &ServerEvent, rejection: impl IntoReply) -> Reply {
    let reply = rejection.into_reply().into_err();
    let error = reply.error().map(tracing::field::display);
    tracing::warn!(
        event = event.name(),
        error,
        "the arguments of a server event do not fit its handler, which is not called"
    );
    reply
}

/// A handler of server events without its state.
pub(super) type PendingHandler<S> = Box<dyn FnOnce(&S) -> Arc<hooks::ServerEventHandler> + Send>;

pub(super) fn pending<H, T, S>(handler: H) -> PendingHandler<S>
where
    H: ServerEventHandler<T, S>,
    T: 'static,
    S: Clone + Send + Sync + 'static,
{
    Box::new(|state| {
        let (handler, state) = (handler, state.clone());
        let _: PhantomData<T> = PhantomData;
        Arc::new(move |hub: &Arc<Hub>, payload: Payload| {
            let io = SocketIo::new(hub);
            let event = ServerEvent { io, payload };
            let reply = handler.clone().call(event, state.clone());
            Box::pin(async move { reply.await.into_ack() })
        })
    })
}
