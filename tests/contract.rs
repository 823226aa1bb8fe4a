//! Each way in which a contract can be broken fails a test.

#![allow(dead_code, reason = "only the forms of the types matter")]

use std::collections::HashMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tower_socketio::cluster::Memory;
use tower_socketio::contract::Watch;

use tower_socketio::testing::Client;
use tower_socketio::{
    Data, Namespace, PresenceDiff, PresenceState, Socket, SocketIo, SocketIoBuilder, TypedEvent,
};

macro_rules! event {
    ($type:ty, $name:literal $(, $reply:ty)?) => {
        impl TypedEvent for $type {
            const NAME: &'static str = $name;
            type Reply = event!(@reply $($reply)?);
        }
    };
    (@reply) => { () };
    (@reply $reply:ty) => { $reply };
}

/// Says something.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Say {
    text: String,
}
event!(Say, "say", u32);

#[derive(Serialize, Deserialize, JsonSchema)]
struct Said {
    text: String,
}
event!(Said, "said");

mod other {
    use super::{Deserialize, JsonSchema, Serialize, TypedEvent};

    #[derive(Serialize, Deserialize, JsonSchema)]
    pub(super) struct Say(pub(super) u32);
    event!(Say, "say", u32);
}

async fn say(Say { text }: Say, socket: Socket) -> u32 {
    socket.broadcast().send(Said { text });
    1
}

fn declared() -> Namespace {
    Namespace::new()
        .on_typed(say)
        .receives::<Say>()
        .sends::<Said>()
}

fn server(namespace: Namespace) -> SocketIoBuilder {
    SocketIo::builder().namespace("/chat", namespace)
}

/// Returns what is wrong with the contract of a namespace.
fn problems(namespace: Namespace) -> Vec<String> {
    match server(namespace).contract().check() {
        Ok(()) => Vec::new(),
        Err(error) => error.problems().map(str::to_owned).collect(),
    }
}

#[test]
fn a_contract_that_is_kept_has_no_problems() {
    assert_eq!(problems(declared()), Vec::<String>::new());
    // Declared twice with the same type, in both directions.
    let twice = declared().receives::<Say>().sends::<Say>();
    assert_eq!(problems(twice), Vec::<String>::new());
    // Without declarations a namespace is not in the contract.
    assert_eq!(
        problems(Namespace::new().on_typed(say)),
        Vec::<String>::new()
    );
    let contract = server(declared()).contract();
    contract.check().expect("a contract");
    contract.typescript().expect("a contract");
    contract.asyncapi("Chat", "1.0.0").expect("a contract");
}

#[test]
fn a_handler_of_an_event_that_is_not_declared_is_found() {
    let undeclared = Namespace::new().on_typed(say).sends::<Said>();
    assert_eq!(
        problems(undeclared),
        [
            "event `say` has a handler in `/chat`, but is not declared: add \
          `.receives::<contract::Say>()`"
        ]
    );
    let untyped = declared().on("shout", async || {});
    assert_eq!(
        problems(untyped),
        [
            "event `shout` has a handler in `/chat`, but is not declared: add \
          `.receives::<…>()` with its type"
        ]
    );
}

#[test]
fn a_declared_event_without_a_handler_is_found() {
    let unhandled = || Namespace::new().receives::<Say>();
    assert_eq!(
        problems(unhandled()),
        [
            "event `say` is declared as received in `/chat`, but has no handler: add one, or remove \
          `.receives::<contract::Say>()`"
        ]
    );
    // A fallback may handle it.
    let fallback = unhandled().fallback(async || {});
    assert_eq!(problems(fallback), Vec::<String>::new());
}

#[test]
fn declarations_that_disagree_are_found() {
    let received = declared().receives::<other::Say>();
    assert_eq!(
        problems(received),
        [
            "event `say` is received as `contract::Say` and as `contract::other::Say` in `/chat`: \
          declare one of them"
        ]
    );
    let sent = declared().sends::<Say>().sends::<other::Say>();
    assert_eq!(problems(sent).len(), 1);
    let handled = Namespace::new().on_typed(say).receives::<other::Say>();
    assert_eq!(
        problems(handled),
        [
            "event `say` is declared as `contract::other::Say` in `/chat`, but its handler reads a \
          `contract::Say`"
        ]
    );
    // Two namespaces may have different events of one name.
    let apart = server(declared()).namespace(
        "/numbers",
        Namespace::new()
            .on_typed(async |other::Say(n): other::Say| n)
            .receives::<other::Say>(),
    );
    apart.contract().check().expect("a contract");
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Large {
    inner: LargeInner,
}
event!(Large, "large");

#[derive(Serialize, Deserialize, JsonSchema)]
struct LargeInner {
    ids: Vec<u128>,
    signed: i64,
}

#[derive(Serialize, Deserialize, JsonSchema, PartialEq, Eq, Hash)]
struct Point {
    x: i32,
    y: i32,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Board {
    cells: HashMap<Point, String>,
}
event!(Board, "board", HashMap<String, i128>);

#[derive(Serialize, Deserialize, JsonSchema)]
struct OneField(u32);

impl TypedEvent for OneField {
    const NAME: &'static str = "one";
    const SPREAD: bool = true;
    type Reply = ();
}

#[test]
fn types_that_typescript_cannot_express_are_found() {
    let namespace = Namespace::new()
        .sends::<Large>()
        .sends::<Board>()
        .sends::<OneField>();
    let why = "is a 128-bit integer, which is no number of JavaScript: make it a `String`, or a \
               newtype that is written as one";
    assert_eq!(
        problems(namespace),
        [
            "`OneField` is sent as several arguments (`SPREAD`), but is neither a tuple struct of \
             two fields or more nor a unit struct"
                .to_owned(),
            format!("`Reply of Board` {why}"),
            format!("field `ids` of `LargeInner` {why}"),
            "the map in field `cells` of `Board` has keys that are no strings, which JSON cannot \
             express: make it a list of pairs"
                .to_owned(),
        ]
    );
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Reserved;
event!(Reserved, "connect_error");

#[test]
fn reserved_names_are_refused() {
    for declare in [
        (|| drop(Namespace::<()>::new().receives::<Reserved>())) as fn(),
        || drop(Namespace::<()>::new().sends::<Reserved>()),
    ] {
        let panic = catch_unwind(declare).expect_err("a panic");
        let message = panic.downcast_ref::<String>().expect("a text");
        assert!(message.contains("`connect_error` is reserved"), "{message}");
    }
}

#[test]
fn a_file_that_is_not_current_is_found() {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("events.d.ts");
    let contract = server(declared()).contract();
    let fails = || {
        let assert = AssertUnwindSafe(|| contract.assert_typescript(&file));
        let panic = catch_unwind(assert).expect_err("a panic");
        *panic.downcast::<String>().expect("a text")
    };
    let _ = fs::remove_file(&file);
    assert!(fails().contains("run this test with UPDATE_CONTRACT=1 to write it"));

    let text = contract.typescript().expect("a contract");
    fs::write(&file, &text).expect("a file");
    contract.assert_typescript(&file);
    fs::write(&file, text.replace('\n', "\r\n")).expect("a file");
    contract.assert_typescript(&file);

    let stale = text.replace("  text: string;", "  txt: string;");
    assert_ne!(stale, text);
    fs::write(&file, stale).expect("a file");
    let message = fails();
    assert!(
        message.contains("  txt: string;\nand should be   text: string;"),
        "{message}"
    );

    // A broken contract is no reason to write a file.
    let broken = server(Namespace::new().receives::<Say>()).contract();
    let assert = AssertUnwindSafe(|| broken.assert_typescript(&file));
    let panic = catch_unwind(assert).expect_err("a panic");
    let message = panic.downcast_ref::<String>().expect("a text");
    assert!(message.contains("has no handler"), "{message}");
}

/// Sends, in a handler, an event by its name.
async fn shout(socket: Socket, Data(text): Data<String>) {
    socket.emit("shouted", text);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_sent_and_not_declared_is_found() {
    let watch = Watch::new();
    let namespace = declared().on("shout", shout);
    let (layer, io) = server(namespace).watch_contract(&watch).build();
    let app = Router::new().layer(layer);
    let mut client = Client::connect(&app, "/chat").await.expect("connected");
    let other = Client::connect(&app, "/chat").await.expect("connected");
    let text = "a".to_owned();
    let _: u32 = other
        .emit_with_ack("say", Say { text })
        .await
        .expect("a reply");
    client.expect("said").await;
    watch.assert_kept();

    client.emit("shout", "a");
    client.expect("shouted").await;
    let error = watch.check().expect_err("not declared");
    assert_eq!(
        error.to_string(),
        "event `shouted` was sent in `/chat`, but is not declared: add `.sends::<…>()` with its type"
    );
    let panic = catch_unwind(AssertUnwindSafe(|| watch.assert_kept()));
    assert!(panic.is_err());

    // An event of a declared name, with other arguments.
    let watch = Watch::new();
    let (_layer, io3) = server(declared()).watch_contract(&watch).build();
    let chat = io3.of("/chat");
    chat.emit("said", Said { text: "a".into() });
    watch.assert_kept();
    chat.emit("said", "a");
    chat.emit("said", ());
    chat.emit("said", HashMap::from([("text", 1)]));
    assert_eq!(
        watch
            .check()
            .expect_err("other types")
            .problems()
            .collect::<Vec<_>>(),
        [
            "event `said` was sent in `/chat` with other arguments than declared: `data.text`",
            "event `said` was sent in `/chat` with other arguments than declared: `data`",
            "event `said` was sent in `/chat` with other arguments than declared: the number of \
             arguments, 0 and not 1",
        ]
    );

    // Whether anybody receives it or not.
    let watch = Watch::new();
    let (_layer, io2) = server(declared()).watch_contract(&watch).build();
    io2.of("/chat").to("nobody").emit("unheard", ());
    assert_eq!(
        watch.check().expect_err("not declared").problems().count(),
        1
    );
    drop(io);
}

#[tokio::test(start_paused = true)]
async fn events_for_other_servers_are_not_of_the_contract() {
    let memory = Memory::new();
    let watch = Watch::new();
    // The servers of a cluster are counted by the main namespace.
    let server = |chat| server(chat).namespace("/", Namespace::new());
    let (_layer, io) = server(declared())
        .cluster(memory.clone())
        .watch_contract(&watch)
        .build();
    let handled = declared().on_server_event("load", async || 1);
    let (_other_layer, _other) = server(handled).cluster(memory).build();
    let both = async {
        while io.server_count().await != Ok(2) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let connected = tokio::time::timeout(Duration::from_secs(60), both).await;
    connected.expect("two servers");
    let chat = io.of("/chat");
    chat.server_side_emit("reload", ()).expect("a cluster");
    let loads: Vec<u32> = chat
        .server_side_emit_with_ack("load", ())
        .await
        .expect("an answer");
    assert_eq!(loads, [1]);
    watch.assert_kept();

    // Questions to clients are of the contract.
    drop(chat.emit_with_ack::<u32>("asked", ()));
    assert_eq!(
        watch.check().expect_err("not declared").problems().count(),
        1
    );
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Counts {
    total: u32,
    #[serde(flatten)]
    counts: HashMap<String, u32>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type")]
enum Report {
    Counts(Counts),
    Both {
        #[serde(flatten)]
        report: Inner,
        #[serde(flatten)]
        counts: HashMap<String, u32>,
    },
}
event!(Report, "report");

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind")]
enum Inner {
    Text { text: String },
}

#[test]
fn a_flattened_map_beside_a_tag_is_watched() {
    let watch = Watch::new();
    let namespace = Namespace::new().sends::<Report>();
    let (_layer, io) = server(namespace).watch_contract(&watch).build();
    let counts = || HashMap::from([("a".to_owned(), 1)]);
    let chat = io.of("/chat");
    chat.send(Report::Counts(Counts {
        total: 1,
        counts: counts(),
    }));
    let text = "a".to_owned();
    chat.send(Report::Both {
        report: Inner::Text { text },
        counts: counts(),
    });
    watch.assert_kept();
    chat.emit("report", HashMap::from([("type", "Counts")]));
    assert!(watch.check().is_err());
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Outer {
    name: String,
    #[serde(flatten)]
    inner: Option<Inner>,
    #[serde(flatten)]
    body: Body,
}
event!(Outer, "outer");

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Body {
    Counts(Counts),
    Text { body: String },
}

#[test]
fn a_flattened_option_and_a_union_with_a_map_are_watched() {
    let watch = Watch::new();
    let namespace = Namespace::new().sends::<Outer>();
    let (_layer, io) = server(namespace).watch_contract(&watch).build();
    let chat = io.of("/chat");
    for inner in [None, Some("a".to_owned())] {
        chat.send(Outer {
            name: "a".to_owned(),
            inner: inner.map(|text| Inner::Text { text }),
            body: Body::Counts(Counts {
                total: 1,
                counts: HashMap::from([("a".to_owned(), 1)]),
            }),
        });
    }
    watch.assert_kept();
    let wrong = json!({"name": "a", "body": "b", "kind": "Text", "text": 1});
    chat.emit("outer", wrong);
    assert!(watch.check().is_err());
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct WithAny {
    name: String,
    #[serde(flatten)]
    rest: Any,
}
event!(WithAny, "with_any");

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Any {
    Number { a: u8 },
    Other(serde_json::Value),
}

#[test]
fn a_flattened_variant_of_any_value_takes_all() {
    let watch = Watch::new();
    let namespace = Namespace::new().sends::<WithAny>();
    let (_layer, io) = server(namespace).watch_contract(&watch).build();
    for rest in [Any::Number { a: 1 }, Any::Other(json!({"a": "text"}))] {
        let name = "a".to_owned();
        io.of("/chat").send(WithAny { name, rest });
    }
    watch.assert_kept();
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Text(String);
event!(Text, "text");

#[test]
fn relayed_text_with_half_an_emoji_is_watched() {
    let watch = Watch::new();
    let namespace = Namespace::new().sends::<Text>();
    let (_layer, io) = server(namespace).watch_contract(&watch).build();
    let chat = io.of("/chat");
    let half = serde_json::value::RawValue::from_string(r#""\ud83d""#.to_owned());
    chat.emit("text", half.expect("JSON"));
    watch.assert_kept();
}

#[test]
fn types_of_one_name_that_differ_in_their_range_are_two_schemas() {
    let namespace = Namespace::new().sends::<Wide>().sends::<Narrow>();
    let document = server(namespace).contract().asyncapi("a", "1");
    let document = document.expect("a contract");
    assert!(document.contains("Page2"), "{document}");
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Page<T> {
    items: Vec<T>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Wide {
    page: Page<u32>,
}
event!(Wide, "wide");

#[derive(Serialize, Deserialize, JsonSchema)]
struct Narrow {
    page: Page<u8>,
}
event!(Narrow, "narrow");

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
struct Reader {
    name: String,
}

#[test]
fn the_events_of_presence_can_be_declared() {
    let namespace = Namespace::new()
        .sends::<PresenceState<Reader>>()
        .sends::<PresenceDiff<Reader>>();
    let text = server(namespace).contract().typescript();
    let text = text.expect("a contract");
    for part in [
        "presence_state: (data: PresenceState",
        "users: { [key: string]: Reader[] };",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}
