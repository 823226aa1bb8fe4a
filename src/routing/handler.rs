//! The functions that are handlers, and their conversion into services.
//!
//! ```text
//! fn ─ Handler<K, S> ──┐ state
//!                      ├────────▶ Route, one type for all: Event → Reply
//! fn.layer(…) ─────────┘
//! ```

use std::any::{Any, TypeId, type_name};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use futures_core::future::BoxFuture;
use serde::Serialize;
use tower_layer::Layer;
use tower_service::Service;

use super::extract::{
    FromConnect, FromEvent, HttpRejection, InvalidArgs, MissingExtension, NotADisconnect,
};
use super::route::{Erased, Route};
use super::{Event, IntoReply, Reply};
use crate::nearest::shortened;
use crate::notice::notice;
use crate::protocol::{RawArgs, TypedArgs, TypedEvent};

/// An async function whose arguments are extractors, and whose result implements [`IntoReply`].
///
/// You should not need to depend on this trait directly. It is implemented for closures and
/// functions with these arguments:
///
/// | registered with                   | arguments                                                |
/// |-----------------------------------|----------------------------------------------------------|
/// | `on`, `fallback`, `on_disconnect` | up to eight [`FromEvent`]                                |
/// | `on_connect`                      | up to eight [`FromConnect`], including axum's extractors |
/// | `on_typed`                        | a [`TypedEvent`], and up to seven [`FromEvent`]          |
///
/// The compiler infers `K` and `S`. `K` is the kind of the handler with its arguments. `S` is the
/// state.
///
/// ```
/// use tower_socketio::{Args, Namespace};
///
/// async fn add(Args((a, b)): Args<(u32, u32)>) -> u32 {
///     a + b
/// }
///
/// let namespace: Namespace = Namespace::new().on("add", add);
/// ```
///
/// If the compiler reports that a function is not a handler,
/// [`debug_handler!`](crate::debug_handler) makes it report why.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler here",
    label = "not a handler",
    note = "a handler is an `async fn` whose arguments are extractors, at most eight, and which returns a type that implements `IntoReply`",
    note = "put `debug_handler! {{ … }}` around the definition to see which part does not fit: `debug_handler! {{ async fn kick(…) {{ … }} }}`"
)]
pub trait Handler<K, S>: Clone + Send + Sync + Sized + 'static {
    /// Runs the extractors and the handler on an event.
    fn call(self, event: Event, state: S) -> impl Future<Output = Reply> + Send + 'static;

    /// Adds a Tower layer around this handler.
    ///
    /// [`Namespace::layer`](crate::Namespace::layer) adds a layer around all handlers of a
    /// namespace.
    ///
    /// ```
    /// use tower::util::MapRequestLayer;
    /// use tower_socketio::{Event, Handler, Namespace};
    ///
    /// async fn report() {}
    ///
    /// let layer = MapRequestLayer::new(|event: Event| event);
    /// let namespace: Namespace = Namespace::new().on("report", report.layer(layer));
    /// ```
    fn layer<L>(self, layer: L) -> Layered<L, Self, K, S>
    where
        L: Layer<Route>,
    {
        Layered {
            layer,
            handler: self,
            kind: PhantomData,
        }
    }

    /// Allows this handler to run concurrently with other handlers of the same socket, whatever the
    /// namespace's [`max_concurrent_events`](crate::Namespace::max_concurrent_events) is.
    ///
    /// Up to 64 such handlers run for one socket. While 64 run, the next event of the socket waits.
    ///
    /// ```
    /// use tower_socketio::{Handler, Namespace};
    ///
    /// async fn slow() {}
    ///
    /// let namespace: Namespace = Namespace::new().on("slow", slow.concurrent());
    /// ```
    fn concurrent(self) -> Concurrent<Self, K, S> {
        Concurrent {
            handler: self,
            kind: PhantomData,
        }
    }

    #[doc(hidden)]
    fn is_concurrent(&self) -> bool {
        false
    }

    #[doc(hidden)]
    fn into_route(self, state: S) -> Route
    where
        K: 'static,
        S: Clone + Send + Sync + 'static,
    {
        Route(Arc::new(Bare {
            handler: self,
            state,
            kind: PhantomData::<fn() -> K>,
        }))
    }
}

/// The kind of event handlers and disconnect handlers. `T` is the tuple of the arguments.
#[derive(Debug)]
pub struct OnEvent<T>(PhantomData<fn() -> T>);

/// The kind of connect handlers. `T` is a tuple with a pair for each argument: its marker and the
/// argument.
#[derive(Debug)]
pub struct OnConnect<T>(PhantomData<fn() -> T>);

/// The kind of handlers of typed events. `T` is the event, and the tuple of the other arguments.
#[derive(Debug)]
pub struct OnTyped<T>(PhantomData<fn() -> T>);

/// Runs an extractor. If the extractor fails, returns its rejection as the reply.
macro_rules! extract {
    ($event:ident, $extract:expr) => {
        match $extract.await {
            Ok(value) => value,
            Err(rejection) => return rejected(&$event, rejection),
        }
    };
}

macro_rules! impl_handler {
    ($([$m:ident $t:ident])*) => {
        #[diagnostic::do_not_recommend]
        #[allow(non_snake_case, unused_mut, reason = "one macro for all numbers of arguments")]
        impl<F, Fut, S, $($m, $t,)*> Handler<OnConnect<($(($m, $t),)*)>, S> for F
        where
            F: FnOnce($($t),*) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output: IntoReply> + Send + 'static,
            S: Send + Sync + 'static,
            $($t: FromConnect<S, $m> + Send + 'static, $m: 'static,)*
        {
            fn call(
                self,
                mut event: Event,
                state: S,
            ) -> impl Future<Output = Reply> + Send + 'static {
                async move {
                    $(let $t = extract!(event, $t::from_connect(&mut event, &state));)*
                    drop((event, state));
                    self($($t),*).await.into_reply()
                }
            }
        }
    };
    (@events [$($t:ident)*] $($last:ident)?) => {
        #[diagnostic::do_not_recommend]
        #[allow(non_snake_case, unused_mut, reason = "one macro for all numbers of arguments")]
        impl<F, Fut, S, $($t,)* $($last)?> Handler<OnEvent<($($t,)* $($last,)?)>, S> for F
        where
            F: FnOnce($($t,)* $($last)?) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output: IntoReply> + Send + 'static,
            S: Send + Sync + 'static,
            $($t: FromEvent<S> + Send + 'static,)*
            $($last: FromEvent<S> + Send + 'static,)?
        {
            fn call(
                self,
                mut event: Event,
                state: S,
            ) -> impl Future<Output = Reply> + Send + 'static {
                async move {
                    $(let $t = extract!(event, $t::from_event(&mut event, &state));)*
                    $(
                        if TypeId::of::<$last>() == TypeId::of::<RawArgs>() {
                            event.allow_moving_args();
                        }
                        let $last = extract!(event, $last::from_event(&mut event, &state));
                    )?
                    let deferred = event.is_deferred();
                    drop((event, state));
                    self($($t,)* $($last)?).await.into_reply().defer(deferred)
                }
            }
        }
    };
    (@typed [$($t:ident)*]) => {
        #[diagnostic::do_not_recommend]
        #[allow(non_snake_case, reason = "one macro for all numbers of arguments")]
        impl<F, Fut, S, E, $($t,)*> Handler<OnTyped<(E, ($($t,)*))>, S> for F
        where
            F: FnOnce(E, $($t),*) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output: IntoTypedReply<E::Reply>> + Send + 'static,
            S: Send + Sync + 'static,
            E: TypedEvent,
            $($t: FromEvent<S> + Send + 'static,)*
        {
            fn call(
                self,
                mut event: Event,
                state: S,
            ) -> impl Future<Output = Reply> + Send + 'static {
                async move {
                    let TypedArgs(typed) = extract!(event, TypedArgs::<E>::from_event(&mut event, &state));
                    $(let $t = extract!(event, $t::from_event(&mut event, &state));)*
                    let deferred = event.is_deferred();
                    drop((event, state));
                    self(typed, $($t),*).await.into_typed_reply().defer(deferred)
                }
            }
        }
    };
}

impl_handler!();
impl_handler!([M1 T1]);
impl_handler!([M1 T1] [M2 T2]);
impl_handler!([M1 T1] [M2 T2] [M3 T3]);
impl_handler!([M1 T1] [M2 T2] [M3 T3] [M4 T4]);
impl_handler!([M1 T1] [M2 T2] [M3 T3] [M4 T4] [M5 T5]);
impl_handler!([M1 T1] [M2 T2] [M3 T3] [M4 T4] [M5 T5] [M6 T6]);
impl_handler!([M1 T1] [M2 T2] [M3 T3] [M4 T4] [M5 T5] [M6 T6] [M7 T7]);
impl_handler!([M1 T1] [M2 T2] [M3 T3] [M4 T4] [M5 T5] [M6 T6] [M7 T7] [M8 T8]);
impl_handler!(@events []);
impl_handler!(@events [] T1);
impl_handler!(@events [T1] T2);
impl_handler!(@events [T1 T2] T3);
impl_handler!(@events [T1 T2 T3] T4);
impl_handler!(@events [T1 T2 T3 T4] T5);
impl_handler!(@events [T1 T2 T3 T4 T5] T6);
impl_handler!(@events [T1 T2 T3 T4 T5 T6] T7);
impl_handler!(@events [T1 T2 T3 T4 T5 T6 T7] T8);
impl_handler!(@typed []);
impl_handler!(@typed [T1]);
impl_handler!(@typed [T1 T2]);
impl_handler!(@typed [T1 T2 T3]);
impl_handler!(@typed [T1 T2 T3 T4]);
impl_handler!(@typed [T1 T2 T3 T4 T5]);
impl_handler!(@typed [T1 T2 T3 T4 T5 T6]);
impl_handler!(@typed [T1 T2 T3 T4 T5 T6 T7]);

/// Converts the rejection of an extractor into a reply, and logs the rejection. For example, the
/// arguments do not fit the handler, or a value from a layer is missing.
fn rejected<R: IntoReply + 'static>(event: &Event, rejection: R) -> Reply {
    log_mistake(event, &rejection);
    let invalid = (&rejection as &dyn Any).downcast_ref::<InvalidArgs>();
    let hint = invalid.and_then(InvalidArgs::hint);
    let is_unanswered = invalid.is_some() && !event.wants_ack();
    let reply = rejection.into_reply().into_err();
    let error = reply.error().map(tracing::field::display);
    let socket = event.socket();
    let notices = socket.notices().filter(|_| is_unanswered);
    match notices {
        Some(notices) => notice!(
            notices.wrong_args,
            event = event.name(),
            namespace = socket.namespace(),
            socket = %socket.id(),
            error,
            hint,
            "the arguments of an event do not fit its handler, which is not called; the client asks \
             for no acknowledgement, which would say so"
        ),
        None => tracing::debug!(
            event = event.name(),
            namespace = socket.namespace(),
            socket = %socket.id(),
            error,
            hint,
            "handler not called"
        ),
    }
    reply
}

/// Logs a rejection that is a mistake of the server, with what to change.
fn log_mistake(event: &Event, rejection: &dyn Any) {
    let Some((missing, change)) = mistake(rejection) else {
        return;
    };
    let socket = event.socket();
    let Some(notices) = socket.notices() else {
        return;
    };
    notice!(
        notices.extractor.of(missing),
        event = shortened(event.name()),
        namespace = socket.namespace(),
        missing,
        "a handler cannot be called: {change}"
    );
}

/// Returns the type that is missing, and what to change.
fn mistake(rejection: &dyn Any) -> Option<(&'static str, &'static str)> {
    if let Some(missing) = rejection.downcast_ref::<MissingExtension>() {
        return Some((
            missing.type_name(),
            "store the extension with `Socket::insert` in the connect handler, or add a layer of \
             axum's `Extension` to the router after the layer of Socket.IO",
        ));
    }
    if rejection.is::<NotADisconnect>() {
        return Some((
            "DisconnectReason",
            "only a handler of `Namespace::on_disconnect` has a reason",
        ));
    }
    let http = rejection.downcast_ref::<HttpRejection>();
    let http = http.filter(|http| http.status().is_server_error())?;
    Some((
        http.extractor(),
        "what the extractor needs is missing: add the layer that provides it, such as axum's \
         `Extension`, to the router after the layer of Socket.IO",
    ))
}

/// A return type for the handler of a typed event. It is `R`, the event's [`TypedEvent::Reply`], or
/// a `Result` of `R` and an error that implements [`IntoReply`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the reply of this typed event",
    label = "should be `{R}`, or a `Result` with it"
)]
pub trait IntoTypedReply<R> {
    /// Converts the value into a reply.
    fn into_typed_reply(self) -> Reply;
}

impl<R: Serialize + 'static> IntoTypedReply<R> for R {
    fn into_typed_reply(self) -> Reply {
        Reply::args(self)
    }
}

impl<R: Serialize + 'static, E: IntoReply> IntoTypedReply<R> for Result<R, E> {
    fn into_typed_reply(self) -> Reply {
        match self {
            Ok(value) => value.into_typed_reply(),
            Err(error) => Err::<(), _>(error).into_reply(),
        }
    }
}

/// A handler with a Tower layer around it. See [`Handler::layer`].
#[must_use]
pub struct Layered<L, H, K, S> {
    layer: L,
    handler: H,
    kind: PhantomData<fn(S) -> K>,
}

impl<L, H, K, S> Handler<K, S> for Layered<L, H, K, S>
where
    L: Layer<Route> + Clone + Send + Sync + 'static,
    L::Service: Service<Event, Response: IntoReply, Error: IntoReply, Future: Send>,
    L::Service: Clone + Send + Sync + 'static,
    H: Handler<K, S>,
    K: 'static,
    S: Clone + Send + Sync + 'static,
{
    fn call(self, event: Event, state: S) -> impl Future<Output = Reply> + Send + 'static {
        self.into_route(state).call(event)
    }

    fn is_concurrent(&self) -> bool {
        self.handler.is_concurrent()
    }

    fn into_route(self, state: S) -> Route {
        let inner = self.handler.into_route(state);
        Route::from_service(self.layer.layer(inner))
    }
}

impl<L: Clone, H: Clone, K, S> Clone for Layered<L, H, K, S> {
    fn clone(&self) -> Self {
        Self {
            layer: self.layer.clone(),
            handler: self.handler.clone(),
            kind: PhantomData,
        }
    }
}

impl<L, H, K, S> fmt::Debug for Layered<L, H, K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Layered").field(&type_name::<H>()).finish()
    }
}

/// A handler that runs concurrently with others of its socket. See [`Handler::concurrent`].
#[must_use]
pub struct Concurrent<H, K, S> {
    handler: H,
    kind: PhantomData<fn(S) -> K>,
}

impl<H, K, S> Handler<K, S> for Concurrent<H, K, S>
where
    H: Handler<K, S>,
    K: 'static,
    S: 'static,
{
    fn call(self, event: Event, state: S) -> impl Future<Output = Reply> + Send + 'static {
        self.handler.call(event, state)
    }

    fn is_concurrent(&self) -> bool {
        true
    }

    fn into_route(self, state: S) -> Route
    where
        S: Clone + Send + Sync + 'static,
    {
        self.handler.into_route(state)
    }
}

impl<H: Clone, K, S> Clone for Concurrent<H, K, S> {
    fn clone(&self) -> Self {
        Self {
            handler: self.handler.clone(),
            kind: PhantomData,
        }
    }
}

impl<H, K, S> fmt::Debug for Concurrent<H, K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Concurrent")
            .field(&type_name::<H>())
            .finish()
    }
}

struct Bare<H, K, S> {
    handler: H,
    state: S,
    kind: PhantomData<fn() -> K>,
}

impl<H, K, S> Erased for Bare<H, K, S>
where
    H: Handler<K, S>,
    S: Clone + Send + Sync + 'static,
{
    fn call(&self, event: Event) -> BoxFuture<'static, Reply> {
        Box::pin(self.handler.clone().call(event, self.state.clone()))
    }
}
