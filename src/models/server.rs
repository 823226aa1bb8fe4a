//! A server for models: the HTTP service of the crate, and a client that sends requests to it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll};

use axum_core::body::Body;
use axum_core::response::Response;
use futures_core::future::BoxFuture;
use futures_util::FutureExt as _;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use tower_service::Service as _;

use super::executor::block_on;
use crate::engine_io::{CloseReason, Config, Message, Session, SessionEvent};
use crate::hub::session::SharedSession;
use crate::hub::sessions::Sessions;
use crate::sync::oneshot;
use crate::transport::{Application, HttpOptions, HttpService, SessionApp};
use crate::{Namespace, SocketIo};

type Respond = Arc<dyn Fn(Request<Body>) -> BoxFuture<'static, Response> + Send + Sync>;

/// The HTTP requests of one client.
#[derive(Clone)]
pub(super) struct Client {
    respond: Respond,
    query: String,
}

impl Client {
    /// Opens a session by long-polling.
    pub(super) fn open(respond: Respond) -> Self {
        let mut client = Self {
            respond,
            query: "EIO=4&transport=polling".to_owned(),
        };
        let (status, open) = client.get();
        assert_eq!(status, StatusCode::OK);
        let sid = open.split('"').nth(3).expect("an id").to_owned();
        client.query = format!("EIO=4&transport=polling&sid={sid}");
        client
    }

    /// Sends a GET and returns its response.
    pub(super) fn get(&self) -> (StatusCode, String) {
        block_on(self.request(Method::GET, ""))
    }

    pub(super) fn post(&self, body: &str) -> StatusCode {
        block_on(self.request(Method::POST, body)).0
    }

    /// Polls until the session has ended or has upgraded. Returns the packets without noops.
    pub(super) fn poll_to_end(&self) -> Vec<String> {
        let mut received = Vec::new();
        loop {
            let (status, body) = self.get();
            if status != StatusCode::OK {
                return received;
            }
            let packets = body.split('\x1e').map(str::to_owned);
            received.extend(packets.filter(|packet| packet != "6"));
            if received.last().is_some_and(|last| last == "1") {
                return received;
            }
        }
    }

    fn request(
        &self,
        method: Method,
        body: &str,
    ) -> impl Future<Output = (StatusCode, String)> + use<> {
        let request = Request::builder().method(method);
        let request = request.uri(format!("/socket.io/?{}", self.query));
        let request = request
            .body(Body::from(body.to_owned()))
            .expect("a request");
        let response = (self.respond)(request);
        async move {
            let response = response.await;
            let status = response.status();
            let body = response.into_body().collect().await.expect("a body");
            let body = String::from_utf8(body.to_bytes().into()).expect("text");
            (status, body)
        }
    }

    /// Returns the HTTP service of the client, and the query of its WebSocket request.
    pub(super) fn for_websocket(&self) -> (Respond, String) {
        let query = self.query.replace("polling", "websocket");
        (Arc::clone(&self.respond), query)
    }
}

/// Builds a server with the namespace `/`.
pub(super) fn socket_io(namespace: Namespace) -> (Respond, SocketIo) {
    let (layer, io) = SocketIo::builder().namespace("/", namespace).build();
    let service = layer.into_service();
    let respond: Respond = Arc::new(move |request| {
        let mut service = service.clone();
        async move {
            service
                .call(request)
                .await
                .unwrap_or_else(|never| match never {})
        }
        .boxed()
    });
    (respond, io)
}

/// The events that the application of a session has seen. Its lock is not one of loom, because no
/// thread waits for it.
#[derive(Default)]
pub(super) struct Record(std::sync::Mutex<Recorded>);

#[derive(Default)]
pub(super) struct Recorded {
    pub(super) session: Option<Arc<SharedSession>>,
    pub(super) messages: Vec<String>,
    pub(super) closed: Vec<CloseReason>,
    /// Whether another thread reads the events in place of the session's task.
    pub(super) is_read_elsewhere: bool,
}

impl Record {
    pub(super) fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().expect("no poison")
    }

    pub(super) fn session(&self) -> Arc<SharedSession> {
        self.lock().session.clone().expect("a session")
    }
}

impl Recorded {
    fn add(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Message(Message::Text(text)) => {
                self.messages.push(text.as_str().to_owned());
            }
            SessionEvent::Closed(reason) => self.closed.push(reason),
            _ => {}
        }
    }
}

/// An application that records the events of its session in the session's task.
struct Recorder {
    record: Arc<Record>,
    /// The messages count as not consumed until this channel receives a value.
    consume: std::sync::Mutex<Option<oneshot::Receiver<()>>>,
}

impl Application for Recorder {
    fn open(&self, session: &Arc<SharedSession>) -> Box<dyn SessionApp> {
        self.record.lock().session = Some(Arc::clone(session));
        Box::new(RecorderTask {
            session: Arc::clone(session),
            record: Arc::clone(&self.record),
            consume: self.consume.lock().expect("no poison").take(),
            consumed: 0,
        })
    }
}

struct RecorderTask {
    session: Arc<SharedSession>,
    record: Arc<Record>,
    consume: Option<oneshot::Receiver<()>>,
    consumed: usize,
}

impl SessionApp for RecorderTask {
    fn poll(&mut self, cx: &mut Context<'_>, mut has_events: bool) -> Poll<()> {
        let consume = self.consume.as_mut();
        if consume.is_some_and(|consume| Pin::new(consume).poll(cx).is_ready()) {
            self.consume = None;
        }
        if self.record.lock().is_read_elsewhere {
            self.session.wake_reader(cx);
            let ended = self.session.close_reason().is_some();
            return if ended {
                Poll::Ready(())
            } else {
                Poll::Pending
            };
        }
        let mut events = VecDeque::new();
        let mut has_closed = false;
        loop {
            let is_held = self.consume.is_some();
            let consumed = match is_held {
                true => 0,
                false => std::mem::take(&mut self.consumed),
            };
            if !has_events && consumed == 0 {
                break;
            }
            has_events = false;
            self.session.take_events(&mut events, consumed);
            for event in events.drain(..) {
                if let SessionEvent::Message(message) = &event {
                    self.consumed += Session::cost(message);
                }
                has_closed |= matches!(event, SessionEvent::Closed(_));
                self.record.lock().add(event);
            }
        }
        match has_closed {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

/// A server for one session, whose application records its events.
#[derive(Default)]
pub(super) struct Setup {
    pub(super) config: Config,
    /// The messages count as not consumed until this channel receives a value.
    pub(super) consume: Option<oneshot::Receiver<()>>,
    /// Whether another thread reads the events in place of the application.
    pub(super) is_read_elsewhere: bool,
}

impl Setup {
    /// Builds the server, and opens the session by long-polling.
    pub(super) fn open(self) -> (Client, Arc<Record>, Arc<Sessions>) {
        let record = Arc::new(Record::default());
        record.lock().is_read_elsewhere = self.is_read_elsewhere;
        let recorder = Recorder {
            record: Arc::clone(&record),
            consume: self.consume.into(),
        };
        let service = Arc::new(HttpService {
            sessions: Arc::new(Sessions::new(None, "/socket.io")),
            config: Arc::new(self.config),
            http: Arc::new(HttpOptions::new()),
            application: Arc::new(recorder),
            path: "/socket.io".into(),
            is_wrapped: true.into(),
        });
        let sessions = Arc::clone(&service.sessions);
        let client = Client::open(Arc::new(move |request| service.respond(request)));
        (client, record, sessions)
    }
}
