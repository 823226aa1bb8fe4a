//! The hub that the two tokio floors share, and their axum front.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    extract::Request,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::PING_INTERVAL_S;

pub type Upgraded = TokioIo<hyper::upgrade::Upgraded>;

/// Everybody who is connected. `M` is what a session's inbox takes.
pub struct Hub<M> {
    inner: Mutex<Inner<M>>,
}

struct Inner<M> {
    next: u64,
    sessions: HashMap<u64, mpsc::UnboundedSender<M>>,
    rooms: HashMap<String, Vec<u64>>,
}

impl<M: Clone + Send + 'static> Hub<M> {
    /// A hub that pings every session once in a ping interval, a share of them
    /// each second: one timer for all.
    pub fn start(ping: M) -> Arc<Self> {
        let hub = Arc::new(Self {
            inner: Mutex::new(Inner {
                next: 0,
                sessions: HashMap::new(),
                rooms: HashMap::new(),
            }),
        });
        let pinger = Arc::clone(&hub);
        tokio::spawn(async move {
            let mut timer = tokio::time::interval(Duration::from_secs(1));
            for tick in 0u64.. {
                timer.tick().await;
                for (id, inbox) in &pinger.inner.lock().unwrap().sessions {
                    if id % PING_INTERVAL_S == tick % PING_INTERVAL_S {
                        inbox.send(ping.clone()).ok();
                    }
                }
            }
        });
        hub
    }

    pub fn enter(&self) -> (u64, mpsc::UnboundedReceiver<M>) {
        let (tx, rx) = mpsc::unbounded_channel();
        let mut inner = self.inner.lock().unwrap();
        inner.next += 1;
        let id = inner.next;
        inner.sessions.insert(id, tx);
        (id, rx)
    }

    pub fn leave(&self, id: u64) {
        let mut inner = self.inner.lock().unwrap();
        inner.sessions.remove(&id);
        inner.rooms.retain(|_, members| {
            members.retain(|m| *m != id);
            !members.is_empty()
        });
        if inner.sessions.is_empty() {
            inner.sessions.shrink_to_fit();
        }
    }

    pub fn join(&self, id: u64, room: &str) {
        let mut inner = self.inner.lock().unwrap();
        inner.rooms.entry(room.to_owned()).or_default().push(id);
    }

    pub fn leave_room(&self, id: u64, room: &str) {
        if let Some(members) = self.inner.lock().unwrap().rooms.get_mut(room) {
            members.retain(|m| *m != id);
        }
    }

    pub fn to_all(&self, message: &M) {
        for inbox in self.inner.lock().unwrap().sessions.values() {
            inbox.send(message.clone()).ok();
        }
    }

    pub fn to_room(&self, room: &str, message: &M) {
        let inner = self.inner.lock().unwrap();
        for id in inner.rooms.get(room).into_iter().flatten() {
            if let Some(inbox) = inner.sessions.get(id) {
                inbox.send(message.clone()).ok();
            }
        }
    }
}

/// Serves `/socket.io/` over WebSocket; `session` runs in a task of its own.
pub async fn serve<F, Fut>(port: u16, session: F)
where
    F: Fn(Upgraded) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let upgrade = move |req: Request| {
        let session = session.clone();
        async move { upgrade(req, session) }
    };
    let app = Router::new().route("/socket.io/", get(upgrade));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port))
        .await
        .expect("bind");
    axum::serve(listener, app).await.expect("serve");
}

fn upgrade<F, Fut>(mut req: Request, session: F) -> Response
where
    F: FnOnce(Upgraded) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let Some(key) = req.headers().get(header::SEC_WEBSOCKET_KEY) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let accept = derive_accept_key(key.as_bytes());
    let upgraded = hyper::upgrade::on(&mut req);
    tokio::spawn(async move {
        if let Ok(io) = upgraded.await {
            session(TokioIo::new(io)).await;
        }
    });
    (
        StatusCode::SWITCHING_PROTOCOLS,
        [
            (header::CONNECTION, "upgrade"),
            (header::UPGRADE, "websocket"),
            (header::SEC_WEBSOCKET_ACCEPT, accept.as_str()),
        ],
    )
        .into_response()
}
