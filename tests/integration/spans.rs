//! The spans: connection, connect and event.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, LazyLock, Mutex};

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::{Extension, Router};
use serde_json::json;
use tower_socketio::{Data, Namespace, Socket};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Dispatch, Event, Instrument, Metadata, Subscriber};

use crate::support::{Polling, app, builder, until};

/// The spans of one thread. With a single-threaded runtime these are all spans of the test's server.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    spans: Vec<Recorded>,
    entered: Vec<u64>,
    is_off: bool,
}

#[derive(Clone)]
struct Recorded {
    metadata: &'static Metadata<'static>,
    parent: Option<u64>,
    fields: BTreeMap<String, String>,
    handles: usize,
}

/// A second subscriber. If a process has only one, `tracing` asks the thread that creates a span first,
/// which may be one of another test, without a subscriber. It then never asks again.
static ANOTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(Spans::default()));

impl Spans {
    fn keep() -> (Self, DefaultGuard) {
        LazyLock::force(&ANOTHER);
        let spans = Self::default();
        let guard = tracing::subscriber::set_default(spans.clone());
        (spans, guard)
    }

    /// Returns the name of the span that is entered.
    fn current(&self) -> &'static str {
        let state = self.0.lock().expect("no panic");
        let id = state.entered.last();
        id.map_or("", |id| state.spans[*id as usize - 1].metadata.name())
    }

    fn all(&self) -> Vec<Recorded> {
        self.0.lock().expect("no panic").spans.clone()
    }

    /// Returns the spans of a name, with the path of their names.
    fn named(&self, name: &str) -> Vec<(String, Recorded)> {
        let all = self.all();
        let named = all.iter().filter(|span| span.metadata.name() == name);
        named.map(|span| (span.path(&all), span.clone())).collect()
    }

    #[track_caller]
    fn one(&self, name: &str) -> (String, Recorded) {
        let mut named = self.named(name);
        assert_eq!(named.len(), 1, "{name}");
        named.remove(0)
    }
}

impl Recorded {
    fn path(&self, all: &[Self]) -> String {
        let name = self.metadata.name();
        match self.parent {
            Some(parent) => format!("{} › {name}", all[parent as usize - 1].path(all)),
            None => name.to_owned(),
        }
    }

    #[track_caller]
    fn field(&self, name: &str) -> &str {
        let field = self.fields.get(name);
        field.unwrap_or_else(|| panic!("no field {name} in {:?}", self.fields))
    }
}

impl Subscriber for Spans {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> tracing::subscriber::Interest {
        tracing::subscriber::Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && !self.0.lock().expect("no panic").is_off
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut state = self.0.lock().expect("no panic");
        let contextual = state.entered.last().copied();
        let parent = match span.is_contextual() {
            true => contextual,
            false => span.parent().map(Id::into_u64),
        };
        let mut fields = Fields(BTreeMap::new());
        span.record(&mut fields);
        state.spans.push(Recorded {
            metadata: span.metadata(),
            parent,
            fields: fields.0,
            handles: 1,
        });
        Id::from_u64(state.spans.len() as u64)
    }

    fn record(&self, id: &Id, values: &Record<'_>) {
        let mut fields = Fields(BTreeMap::new());
        values.record(&mut fields);
        let mut state = self.0.lock().expect("no panic");
        let span = &mut state.spans[id.into_u64() as usize - 1];
        span.fields.extend(fields.0);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, id: &Id) {
        self.0.lock().expect("no panic").entered.push(id.into_u64());
    }

    fn exit(&self, id: &Id) {
        let left = self.0.lock().expect("no panic").entered.pop();
        assert_eq!(left, Some(id.into_u64()));
    }

    fn clone_span(&self, id: &Id) -> Id {
        let mut state = self.0.lock().expect("no panic");
        state.spans[id.into_u64() as usize - 1].handles += 1;
        id.clone()
    }

    fn try_close(&self, id: Id) -> bool {
        let mut state = self.0.lock().expect("no panic");
        let span = &mut state.spans[id.into_u64() as usize - 1];
        span.handles -= 1;
        span.handles == 0
    }
}

struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

/// The name of the span in which a connect handler has run.
#[derive(Clone)]
struct ConnectedIn(&'static str);

fn namespace(spans: &Spans) -> Namespace {
    let of_connect = spans.clone();
    let of_event = spans.clone();
    let connect = move |socket: Socket| {
        let spans = of_connect.clone();
        async move {
            tokio::task::yield_now().await;
            socket.insert(ConnectedIn(spans.current()));
        }
    };
    let say = move |Data(_): Data<String>| {
        let spans = of_event.clone();
        async move {
            let before = spans.current();
            tokio::task::yield_now().await;
            Data((before, spans.current()))
        }
    };
    Namespace::new()
        .on_connect(connect)
        .on("say", say)
        .on("fail", async || Err::<(), _>("no"))
        .on("panic", async || {
            if true {
                panic!("this test wants it");
            }
        })
        .on(
            "connected in",
            async |Extension(ConnectedIn(name)): Extension<ConnectedIn>| name,
        )
        .fallback(async || {})
}

fn server(spans: &Spans) -> Router {
    let (layer, _io) = builder(namespace(spans))
        .namespace("/orders/{shop}", namespace(spans))
        .build();
    app(layer)
}

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test]
async fn an_event_is_within_its_socket_and_that_within_its_connection() {
    let (spans, _guard) = Spans::keep();
    let app = server(&spans);
    let mut client = Polling::open(&app).await;
    client.join("/orders/7").await;
    let answer = client.ask(r#"42/orders/7,0["say","secret"]"#).await;
    assert_eq!(answer, r#"43/orders/7,0[["event","event"]]"#);
    let answer = client.ask(r#"42/orders/7,1["connected in"]"#).await;
    assert_eq!(answer, r#"43/orders/7,1["connect"]"#);

    let (path, connection) = spans.one("connection");
    assert_eq!(path, "connection");
    assert_eq!(connection.field("messaging.system"), "socket.io");
    assert_eq!(connection.field("transport"), "polling");
    assert_eq!(connection.field("otel.kind"), "server");
    assert!(connection.field("session").parse::<u64>().is_ok());

    let (path, connect) = spans.one("connect");
    assert_eq!(path, "connection › connect");
    for (field, value) in [
        ("otel.name", "/orders/{shop} connect"),
        ("messaging.system", "socket.io"),
        ("messaging.operation.name", "connect"),
        ("messaging.destination.name", "/orders/7"),
        ("messaging.destination.template", "/orders/{shop}"),
    ] {
        assert_eq!(connect.field(field), value);
    }

    let (path, event) = spans.named("event").remove(0);
    assert_eq!(path, "connection › connect › event");
    for (field, value) in [
        ("otel.name", "say receive"),
        ("otel.kind", "consumer"),
        ("messaging.system", "socket.io"),
        ("messaging.operation.type", "receive"),
        ("messaging.operation.name", "say"),
        ("messaging.destination.name", "/orders/7"),
        ("messaging.message.body.size", "16"),
        ("outcome", "ok"),
    ] {
        assert_eq!(event.field(field), value);
    }
    assert!(!event.fields.contains_key("otel.status_code"));
    assert_eq!(event.handles, 0, "the span ends with its handler");
    assert!(connect.handles > 0 && connection.handles > 0);

    client.send("1").await;
    until(|| spans.one("connection").1.handles == 0).await;
    assert_eq!(spans.one("connect").1.handles, 0);
    assert_eq!(spans.one("connection").1.field("reason"), "transport close");
}

#[tokio::test]
async fn the_outcome_of_a_handler_is_recorded() {
    let (spans, _guard) = Spans::keep();
    let mut client = Polling::connect(&server(&spans)).await;
    client.ask(r#"420["fail"]"#).await;
    client.ask(r#"421["panic"]"#).await;
    let events = spans.named("event");
    let recorded = events
        .iter()
        .map(|(_, event)| (event.field("outcome"), event.field("otel.status_code")));
    let expected = [("error", "ERROR"), ("panic", "ERROR")];
    assert_eq!(recorded.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn the_span_of_the_request_is_the_parent() {
    let (spans, _guard) = Spans::keep();
    let in_span = async |request: Request, next: Next| {
        next.run(request)
            .instrument(tracing::info_span!("request"))
            .await
    };
    let app = server(&spans).layer(from_fn(in_span));
    Polling::connect(&app).await;
    let (path, _) = spans.one("connection");
    assert_eq!(path, "request › connection");
}

#[tokio::test]
async fn the_parent_that_a_client_names_is_recorded_if_it_has_the_form() {
    let (spans, _guard) = Spans::keep();
    let app = server(&spans);
    let open = async |traceparent: &str| {
        let request = Request::get("/socket.io/?EIO=4&transport=polling");
        let request = request.header("traceparent", traceparent);
        Polling::open_with(&app, request.body(Body::empty()).expect("a request")).await
    };
    let mut client = open(PARENT).await;
    let auth = json!({ "traceparent": PARENT, "token": "secret" });
    client.ask(&format!("40{auth}")).await;
    let mut client = open("<script>").await;
    client.ask(r#"40{"traceparent":"<script>"}"#).await;
    client.ask(r#"40/orders/1,{"traceparent":7}"#).await;
    for (name, count) in [("connection", 2), ("connect", 3)] {
        let spans = spans.named(name);
        assert_eq!(spans.len(), count);
        assert_eq!(spans[0].1.field("traceparent"), PARENT);
        for (_, span) in &spans[1..] {
            assert!(!span.fields.contains_key("traceparent"), "{name}");
        }
    }
}

#[tokio::test]
async fn no_span_has_a_secret() {
    let (spans, _guard) = Spans::keep();
    let app = server(&spans);
    let request = Request::get("/socket.io/?EIO=4&transport=polling&token=secret");
    let request = request.header("cookie", "secret").body(Body::empty());
    let mut client = Polling::open_with(&app, request.expect("a request")).await;
    client.ask(r#"40{"token":"secret"}"#).await;
    client.ask(r#"420["say","secret"]"#).await;
    client.ask(r#"421["secret","x"]"#).await;
    client.send("1").await;
    until(|| spans.one("connection").1.handles == 0).await;
    assert_eq!(spans.named("event").len(), 2);
    let (_, unknown) = spans.named("event").remove(1);
    assert_eq!(unknown.field("otel.name"), "_other receive");
    for span in spans.all() {
        for (name, value) in span.fields {
            assert!(!value.contains(&client.sid), "{name}={value}");
            assert!(!value.contains("secret"), "{name}={value}");
        }
    }
}

#[tokio::test]
async fn a_subscriber_that_wants_no_connection_gets_no_event() {
    let (spans, _guard) = Spans::keep();
    let app = server(&spans);
    spans.0.lock().expect("no panic").is_off = true;
    let mut client = Polling::connect(&app).await;
    assert_eq!(client.ask(r#"420["say","x"]"#).await, r#"430[["",""]]"#);
    spans.0.lock().expect("no panic").is_off = false;
    // The connection has no span, so its events have none.
    assert_eq!(client.ask(r#"421["say","x"]"#).await, r#"431[["",""]]"#);
    assert!(spans.all().is_empty());
    let mut client = Polling::connect(&app).await;
    client.ask(r#"420["say","x"]"#).await;
    assert_eq!(spans.all().len(), 3);
}
