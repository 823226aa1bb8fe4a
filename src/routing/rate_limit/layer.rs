//! The layer and its service.

use std::borrow::Cow;
use std::fmt;
use std::future::ready;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use serde::Serialize;
use tower_layer::Layer;
use tower_service::Service;

use super::keys::KeyLimiter;
use super::limit::RateLimit;
use super::refusal::TooManyRequests;
use super::socket::SocketLimits;
use crate::handles::Socket;
use crate::hub::DisconnectReason;
use crate::notice::notice;
use crate::protocol::Data;
use crate::routing::route::RouteFuture;
use crate::routing::{Event, IntoReply, Reply, Route};

/// A layer that refuses events over a limit. See [the module](super).
///
/// Clones share their limits and their count.
#[derive(Clone)]
#[must_use]
pub struct RateLimitLayer {
    /// Distinguishes the layer's limits in a socket from those of others.
    id: u64,
    limit: RateLimit,
    scope: Scope,
    close_after: Option<(u32, Duration)>,
    refusal_event: Option<Cow<'static, str>>,
    refused: Arc<AtomicU64>,
}

#[derive(Clone, Debug)]
enum Scope {
    /// Each socket.
    Socket,
    /// Each service that the layer creates, and each socket.
    Event,
    /// Each key of an event.
    Key(Arc<KeyLimiter>),
    /// Each key of a connect.
    Connect(Arc<KeyLimiter>),
}

impl RateLimitLayer {
    /// Limits the events of each socket. Around a namespace it counts all events together.
    ///
    /// A client that connects again has a new socket and a full limit. To limit it nevertheless, use
    /// [`per_key`](Self::per_key).
    ///
    /// ```
    /// use tower_socketio::Namespace;
    /// use tower_socketio::rate_limit::{RateLimit, RateLimitLayer};
    ///
    /// async fn say() {}
    ///
    /// let namespace: Namespace = Namespace::new()
    ///     .on("say", say)
    ///     .layer(RateLimitLayer::per_socket(RateLimit::per_second(10)));
    /// ```
    pub fn per_socket(limit: RateLimit) -> Self {
        Self::new(limit, Scope::Socket)
    }

    /// Limits each event of each socket. The events of a fallback are counted together.
    ///
    /// Around a single handler it is the same as [`per_socket`](Self::per_socket).
    ///
    /// ```
    /// use tower_socketio::Namespace;
    /// use tower_socketio::rate_limit::{RateLimit, RateLimitLayer};
    ///
    /// async fn typing() {}
    /// async fn say() {}
    ///
    /// // 10 times `typing` and 10 times `say` in a second.
    /// let namespace: Namespace = Namespace::new()
    ///     .on("typing", typing)
    ///     .on("say", say)
    ///     .layer(RateLimitLayer::per_event(RateLimit::per_second(10)));
    /// ```
    pub fn per_event(limit: RateLimit) -> Self {
        Self::new(limit, Scope::Event)
    }

    /// Limits the events that have the same key, whatever sockets they are from.
    ///
    /// `None` is a key as any other: if the key is an `Option`, all events without one share a limit.
    /// The key `()` limits all clients together.
    ///
    /// Keys are not kept themselves, only their hashes, about 20 bytes each. A key is removed a
    /// moment after all its tokens are back. While there are 100 000 keys, new ones share one limit;
    /// see [`per_key_with_capacity`](Self::per_key_with_capacity).
    ///
    /// The function runs for each event before it is counted. It must not block.
    ///
    /// ```
    /// use tower_socketio::rate_limit::{RateLimit, RateLimitLayer};
    /// use tower_socketio::{Event, Namespace, Socket};
    ///
    /// #[derive(Clone)]
    /// struct UserId(u64);
    ///
    /// async fn connect(socket: Socket) {
    ///     socket.insert(UserId(7));
    /// }
    ///
    /// async fn say() {}
    ///
    /// fn user(event: &Event) -> Option<u64> {
    ///     event.socket().extension().map(|UserId(id)| id)
    /// }
    ///
    /// let namespace: Namespace = Namespace::new()
    ///     .on("say", say)
    ///     .layer(RateLimitLayer::per_key(RateLimit::per_second(20), user))
    ///     .on_connect(connect);
    /// ```
    pub fn per_key<K, F>(limit: RateLimit, key: F) -> Self
    where
        K: Hash,
        F: Fn(&Event) -> K + Send + Sync + 'static,
    {
        Self::per_key_with_capacity(limit, MAX_KEYS, key)
    }

    /// Like [`per_key`](Self::per_key), with a maximum number of keys.
    ///
    /// # Panics
    ///
    /// Panics if `max_keys` is 0.
    #[track_caller]
    pub fn per_key_with_capacity<K, F>(limit: RateLimit, max_keys: usize, key: F) -> Self
    where
        K: Hash,
        F: Fn(&Event) -> K + Send + Sync + 'static,
    {
        assert!(max_keys > 0, "a rate limit needs room for at least one key");
        let limiter = KeyLimiter::new(limit, max_keys, key);
        Self::new(limit, Scope::Key(Arc::new(limiter)))
    }

    /// Limits the connects to a namespace that have the same key. Events pass.
    ///
    /// The layer must be around the connect handler: add it after
    /// [`on_connect`](crate::Namespace::on_connect). It runs before that handler, so the key cannot
    /// depend on what the handler inserts into the socket. The client's `connect_error` listener gets
    /// [`TooManyRequests`]: `err.data.retryAfterMs`. The official client does not try again by
    /// itself. The number of keys is limited as that of [`per_key`](Self::per_key).
    ///
    /// With this key an address has a limit, if axum serves the app
    /// `into_make_service_with_connect_info::<SocketAddr>()`. Behind a proxy the address of the client
    /// is in a header.
    ///
    /// A client that recovers does not pass the layer, and does not count, if
    /// [`skip_connect_handler`](crate::Recovery::skip_connect_handler) is set.
    ///
    /// ```
    /// use std::net::{IpAddr, SocketAddr};
    ///
    /// use axum::extract::ConnectInfo;
    /// use tower_socketio::rate_limit::{RateLimit, RateLimitLayer};
    /// use tower_socketio::{Event, Namespace};
    ///
    /// fn address(event: &Event) -> Option<IpAddr> {
    ///     let info: ConnectInfo<SocketAddr> = event.socket().extension()?;
    ///     Some(info.0.ip())
    /// }
    ///
    /// async fn connect() {}
    ///
    /// let limit = RateLimit::per_minute(20);
    /// let namespace: Namespace = Namespace::new()
    ///     .on_connect(connect)
    ///     .layer(RateLimitLayer::connects_per_key(limit, address));
    /// ```
    pub fn connects_per_key<K, F>(limit: RateLimit, key: F) -> Self
    where
        K: Hash,
        F: Fn(&Event) -> K + Send + Sync + 'static,
    {
        let limiter = KeyLimiter::new(limit, MAX_KEYS, key);
        Self::new(limit, Scope::Connect(Arc::new(limiter)))
    }

    fn new(limit: RateLimit, scope: Scope) -> Self {
        Self {
            id: next_id(),
            limit,
            scope,
            close_after: None,
            refusal_event: None,
            refused: Arc::default(),
        }
    }

    /// Closes the connection of a client when this layer has refused `refused` events of one socket in a
    /// window of the length `within`. The window begins with the first of them.
    ///
    /// The last refused event is answered too. Then the socket is disconnected with
    /// [`DisconnectReason::RateLimited`], and the client's sockets in other namespaces with
    /// [`DisconnectReason::ServerNamespaceDisconnect`]. The official client does not connect again by
    /// itself. The first time is logged as a warning. Refused connects are not counted.
    ///
    /// Default: clients are not disconnected.
    ///
    /// # Panics
    ///
    /// Panics if `refused` is 0.
    #[track_caller]
    pub fn close_after(mut self, refused: u32, within: Duration) -> Self {
        assert!(
            refused > 0,
            "a client is closed after at least one refused event"
        );
        self.close_after = Some((refused, within));
        self
    }

    /// Sends the client an event when one of its events without an acknowledgement is refused. Its
    /// argument is `{ event: "say", retryAfterMs: 1500 }`.
    ///
    /// It is not sent again before that time has passed, so a client cannot cause many of them. With a
    /// reserved name, such as `connect`, nothing is sent, and an error is logged each time.
    ///
    /// Default: no event is sent.
    pub fn refusal_event(mut self, event: impl Into<Cow<'static, str>>) -> Self {
        self.refusal_event = Some(event.into());
        self
    }

    /// Returns the number of events and connects that this layer and its clones have refused.
    ///
    /// ```
    /// use tower_socketio::Namespace;
    /// use tower_socketio::rate_limit::{RateLimit, RateLimitLayer};
    ///
    /// let limit = RateLimitLayer::per_socket(RateLimit::per_second(10));
    /// let namespace: Namespace = Namespace::new().layer(limit.clone());
    /// assert_eq!(limit.refused_count(), 0);
    /// ```
    #[must_use]
    pub fn refused_count(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Returns whether events of this kind are counted.
    fn counts(&self, event: &Event) -> bool {
        match self.scope {
            Scope::Connect(_) => event.is_connect(),
            Scope::Socket | Scope::Event | Scope::Key(_) => {
                !event.is_connect() && !event.is_disconnect()
            }
        }
    }

    /// Takes a token for an event. `service` is the id of the service that it passes.
    fn check(&self, service: u64, event: &Event) -> Result<(), TooManyRequests> {
        let checked = match &self.scope {
            Scope::Socket => SocketLimits::of(event.socket()).check(self.id, self.limit),
            Scope::Event => SocketLimits::of(event.socket()).check(service, self.limit),
            Scope::Key(limiter) | Scope::Connect(limiter) => limiter.check(event),
        };
        checked.map_err(TooManyRequests::new)
    }

    /// Refuses an event. Returns the reply.
    fn refuse(&self, mut event: Event, refusal: TooManyRequests) -> Reply {
        self.refused.fetch_add(1, Ordering::Relaxed);
        let socket = event.socket().clone();
        let retry_after_ms = refusal.retry_after_ms();
        tracing::debug!(
            event = event.name(),
            namespace = socket.namespace(),
            socket = %socket.id(),
            retry_after_ms,
            "over the rate limit"
        );
        let reply = refusal.into_reply();
        if event.is_connect() {
            return reply;
        }
        self.inform(&event, refusal);
        let close_after = self.close_after;
        if !close_after.is_some_and(|max| SocketLimits::of(&socket).count_refusal(self.id, max)) {
            return reply;
        }
        // After the disconnect no acknowledgement is sent.
        if let Some(ack) = event.defer_ack() {
            socket.member.send_ack(ack, refusal.into_error().to_ack());
        }
        close(&socket);
        reply.defer(true)
    }

    /// Informs the client of a refused event that has no acknowledgement.
    fn inform(&self, event: &Event, refusal: TooManyRequests) {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Refused<'a> {
            event: &'a str,
            retry_after_ms: u64,
        }
        let Some(name) = self.refusal_event.as_deref() else {
            return;
        };
        let socket = event.socket();
        if event.wants_ack() || !SocketLimits::of(socket).may_inform(self.id, refusal.retry_after())
        {
            return;
        }
        let refused = Refused {
            event: event.name(),
            retry_after_ms: refusal.retry_after_ms(),
        };
        socket.emit(name, Data(refused));
    }
}

impl fmt::Debug for RateLimitLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitLayer")
            .field("limit", &self.limit)
            .field("scope", &self.scope)
            .field("close_after", &self.close_after)
            .field("refused", &self.refused_count())
            .finish_non_exhaustive()
    }
}

/// Disconnects the socket, and closes the connection of its client.
fn close(socket: &Socket) {
    if let Some(notices) = socket.notices() {
        notice!(
            notices.rate_limited,
            namespace = socket.namespace(),
            socket = %socket.id(),
            "a client is disconnected: it went on sending over its rate limit"
        );
    }
    let member = &socket.member;
    member.disconnect(DisconnectReason::RateLimited);
    member.session.disconnect_all();
}

/// The maximum number of keys, about 2 MB.
const MAX_KEYS: usize = 100_000;

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl<I> Layer<I> for RateLimitLayer
where
    I: Service<Event, Response: IntoReply, Error: IntoReply, Future: Send>,
    I: Clone + Send + Sync + 'static,
{
    type Service = RateLimited;

    fn layer(&self, inner: I) -> RateLimited {
        RateLimited {
            id: next_id(),
            layer: Arc::new(self.clone()),
            inner: Route::from_service(inner),
        }
    }
}

/// The service of a [`RateLimitLayer`].
#[derive(Clone, Debug)]
pub struct RateLimited {
    id: u64,
    layer: Arc<RateLimitLayer>,
    inner: Route,
}

impl Service<Event> for RateLimited {
    type Response = Reply;
    type Error = std::convert::Infallible;
    type Future = RouteFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, event: Event) -> RouteFuture {
        let checked = match self.layer.counts(&event) {
            true => self.layer.check(self.id, &event),
            false => Ok(()),
        };
        match checked {
            Ok(()) => RouteFuture(self.inner.call(event)),
            Err(refusal) => RouteFuture(Box::pin(ready(self.layer.refuse(event, refusal)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_events_and_of_connects_are_limited_by_default() {
        fn key(event: &Event) -> String {
            event.name().to_owned()
        }
        let limit = RateLimit::per_minute(1);
        let layers = [
            RateLimitLayer::per_key(limit, key),
            RateLimitLayer::connects_per_key(limit, key),
        ];
        for layer in layers {
            let (Scope::Key(limiter) | Scope::Connect(limiter)) = &layer.scope else {
                panic!("it has keys");
            };
            // The further keys share one limit.
            assert_eq!(limiter.fill(MAX_KEYS + 10), MAX_KEYS + 1);
        }
    }
}
