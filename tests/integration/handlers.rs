//! Handlers: their extractors, their replies, and the layers around them.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRef, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::{Extension, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::timeout::TimeoutLayer;
use tower_socketio::extract::{FromEvent, FromHandshake, InvalidArgs, MissingExtension};
use tower_socketio::middleware::{self, Next};
use tower_socketio::protocol::{EncodeError, ReadError};
use tower_socketio::{
    AckError, AckSender, Args, Auth, Data, DisconnectReason, EmitError, ErrorReply, Event, Handler,
    IntoReply, Namespace, Params, RawArgs, Reply, Route, Socket, SocketIo, TypedEvent,
};
use tracing::Level;

use crate::support;
use crate::support::logs::Logs;
use crate::support::{
    Client, Got, Polling, app, builder, main_app, serve, text_frame, until, within,
};

/// Sends each event with one client, and checks its acknowledgement.
async fn assert_acks(namespace: Namespace, expected: &[(&str, &str)]) {
    let mut client = Polling::connect(&main_app(namespace).0).await;
    for (event, ack) in expected {
        let answer = client.ask(&format!("427{event}")).await;
        assert_eq!(answer, format!("437{ack}"), "{event}");
    }
}

/// Returns the answer to a client that joins the main namespace.
async fn refusal(namespace: Namespace) -> String {
    let mut client = Polling::open(&main_app(namespace).0).await;
    client.ask("40").await
}

#[tokio::test]
async fn the_return_value_of_a_handler_is_the_acknowledgement() {
    let namespace = Namespace::new()
        .on("unit", async || ())
        .on("text", async || "text")
        .on("number", async || 7)
        .on("option", async || None::<u8>)
        .on("list", async || vec![1, 2])
        .on("data", async || Data((1, "a")))
        .on("args", async || Args((1, "a")))
        .on("value", async || json!({ "a": [1] }));
    let expected = [
        (r#"["unit"]"#, "[]"),
        (r#"["text"]"#, r#"["text"]"#),
        (r#"["number"]"#, "[7]"),
        (r#"["option"]"#, "[null]"),
        (r#"["list"]"#, "[[1,2]]"),
        (r#"["data"]"#, r#"[[1,"a"]]"#),
        (r#"["args"]"#, r#"[1,"a"]"#),
        (r#"["value"]"#, r#"[{"a":[1]}]"#),
    ];
    assert_acks(namespace, &expected).await;
}

#[tokio::test]
async fn arguments_are_extracted_one_by_one_all_together_or_raw() {
    let namespace = Namespace::new()
        .on("one", async |Data(n): Data<u32>| n)
        .on("maybe", async |Data(n): Data<Option<u32>>| n)
        .on("all", async |Args((a, b)): Args<(u32, Option<u32>)>| {
            a + b.unwrap_or(10)
        })
        .on("raw", async |raw: RawArgs| raw)
        .on("result", async |n: Result<Data<u8>, InvalidArgs>| {
            n.is_err()
        });
    let expected = [
        (r#"["one",1,2]"#, "[1]"),
        (r#"["maybe"]"#, "[null]"),
        (r#"["maybe",3]"#, "[3]"),
        (r#"["all",1,2]"#, "[3]"),
        (r#"["all",1,2,3]"#, "[3]"),
        (r#"["all",1]"#, "[11]"),
        (r#"["raw",1,"x",{"a":null}]"#, r#"[1,"x",{"a":null}]"#),
        (r#"["raw"]"#, "[]"),
        (r#"["result","x"]"#, "[true]"),
    ];
    assert_acks(namespace, &expected).await;
}

/// A custom extractor that reads the arguments twice.
struct Twice(RawArgs, u32);

impl<S: Send + Sync> FromEvent<S> for Twice {
    type Rejection = InvalidArgs;

    async fn from_event(event: &mut Event, state: &S) -> Result<Self, Self::Rejection> {
        let Ok(raw) = RawArgs::from_event(event, state).await;
        let Data(first) = Data::from_event(event, state).await?;
        Ok(Self(raw, first))
    }
}

#[tokio::test]
async fn raw_args_leave_the_arguments_to_later_extractors() {
    async fn both(first: RawArgs, Data(n): Data<u32>, last: RawArgs) -> Args<[String; 3]> {
        Args([first.to_json(), n.to_string(), last.to_json()])
    }
    async fn twice(Twice(raw, first): Twice) -> Args<(String, u32)> {
        Args((raw.to_json(), first))
    }
    async fn last(Twice(_, first): Twice, raw: RawArgs) -> Args<(u32, String)> {
        Args((first, raw.to_json()))
    }
    let namespace = Namespace::new()
        .on("both", both)
        .on("twice", twice)
        .on("last", last);
    let expected = [
        (r#"["both",1,2]"#, r#"["[1,2]","1","[1,2]"]"#),
        (r#"["twice",1,2]"#, r#"["[1,2]",1]"#),
        (r#"["last",1,2]"#, r#"[1,"[1,2]"]"#),
    ];
    assert_acks(namespace, &expected).await;
}

#[tokio::test]
async fn an_error_is_an_object_with_its_text() {
    struct Taken;
    impl IntoReply for Taken {
        fn into_reply(self) -> Reply {
            ErrorReply::new("taken")
                .with_data(json!({ "by": 1 }))
                .into_reply()
        }
    }
    let namespace = Namespace::new()
        .on("text", async || Err::<(), _>("no"))
        .on("data", async || Err::<(), _>(Data(json!({ "code": 7 }))))
        .on("own", async || Err::<u8, _>(Taken))
        .on("boxed", async || {
            Err::<(), _>(tower::BoxError::from("a secret"))
        })
        .on("fine", async || Ok::<_, &str>(1));
    let expected = [
        (r#"["text"]"#, r#"[{"error":"no"}]"#),
        (r#"["data"]"#, r#"[{"error":"error","data":{"code":7}}]"#),
        (r#"["own"]"#, r#"[{"error":"taken","data":{"by":1}}]"#),
        (r#"["boxed"]"#, r#"[{"error":"internal error"}]"#),
        (r#"["fine"]"#, "[1]"),
    ];
    assert_acks(namespace, &expected).await;
}

#[tokio::test]
async fn a_wrong_payload_is_answered_with_an_error_and_the_connection_lives() {
    let namespace = Namespace::new().on("double", async |Data(n): Data<u32>| n * 2);
    let mut client = Polling::connect(&main_app(namespace).0).await;
    for (wrong, reason) in [
        (r#""x""#, r#"invalid type: string \"x\", expected u32"#),
        ("-1", "invalid value: integer `-1`, expected u32"),
        ("null", "invalid type: null, expected u32"),
        ("{}", "invalid type: map, expected u32"),
        ("[1]", "invalid type: sequence, expected u32"),
    ] {
        let answer = client.ask(&format!(r#"421["double",{wrong}]"#)).await;
        let expected = format!(r#"431[{{"error":"argument 1 is of another type: {reason}"}}]"#);
        assert_eq!(answer, expected);
    }
    assert!(
        client
            .ask(r#"421["double"]"#)
            .await
            .starts_with(r#"431[{"error":"#)
    );
    // An event without an acknowledgement gets no error reply.
    client.send(r#"42["double","x"]"#).await;
    assert_eq!(client.ask(r#"422["double",21]"#).await, "432[42]");
}

#[tokio::test]
async fn errors_of_the_server_become_error_replies() {
    /// Asks the client, and returns its answer.
    async fn ask(socket: Socket) -> Result<u32, AckError> {
        socket
            .emit_with_ack("ask", ())
            .timeout(Duration::from_secs(1))
            .await
    }
    async fn asks_too_much(socket: Socket) -> Result<u32, AckError> {
        socket.emit_with_ack("disconnect", ()).await
    }
    async fn emits(socket: Socket) -> Result<(), EmitError> {
        socket.try_emit("disconnect", ())
    }
    async fn keeps(socket: Socket) -> Result<(), EncodeError> {
        socket.set_data(BTreeMap::from([((1, 2), 3)]))
    }
    async fn splits(args: RawArgs) -> Result<RawArgs, ReadError> {
        args.split_first::<u32>().map(|(_, rest)| rest)
    }
    let namespace = Namespace::new()
        .on("ask", ask.concurrent())
        .on("asks too much", asks_too_much)
        .on("emits", emits)
        .on("keeps", keeps)
        .on("splits", splits);
    let mut client = Polling::connect(&main_app(namespace).0).await;
    assert_eq!(client.ask(r#"421["ask"]"#).await, r#"420["ask"]"#);
    assert_eq!(client.ask("430[7]").await, "431[7]");
    // The error does not reveal the answer, only that its type is wrong.
    assert_eq!(client.ask(r#"421["ask"]"#).await, r#"421["ask"]"#);
    assert_eq!(
        client.ask(r#"431["a secret"]"#).await,
        r#"431[{"error":"the answer has the wrong type"}]"#
    );
    for (event, answer) in [
        (r#"["asks too much"]"#, r#"[{"error":"internal error"}]"#),
        (r#"["emits"]"#, r#"[{"error":"internal error"}]"#),
        (r#"["keeps"]"#, r#"[{"error":"internal error"}]"#),
        (r#"["splits",1,2]"#, "[2]"),
        (
            r#"["splits","x"]"#,
            r#"[{"error":"argument 1 is of another type: invalid type: string \"x\", expected u32"}]"#,
        ),
        (r#"["splits"]"#, r#"[{"error":"argument 1 is missing"}]"#),
    ] {
        assert_eq!(
            client.ask(&format!("427{event}")).await,
            format!("437{answer}")
        );
    }
}

#[tokio::test]
async fn the_error_of_a_wrong_acknowledgement_has_its_cause() {
    async fn ask(socket: Socket) -> String {
        let answer = socket.emit_with_ack::<u32>("ask", ()).await;
        let error = answer.expect_err("the answer is no number");
        assert!(error.is_wrong_type());
        let mut chain = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(error) = source {
            chain = format!("{chain}: {error}");
            source = error.source();
        }
        chain
    }
    let mut client = Polling::connect(&main_app(Namespace::new().on("ask", ask)).0).await;
    assert_eq!(client.ask(r#"421["ask"]"#).await, r#"420["ask"]"#);
    let answer = client.ask(r#"430["x"]"#).await;
    let expected = r#"the answer has the wrong type: argument 1 is of another type: invalid type: string \"x\", expected u32"#;
    assert!(
        answer.starts_with(&format!(r#"431["{expected}"#)),
        "{answer}"
    );
}

#[tokio::test]
async fn an_unknown_event_is_answered_with_an_error() {
    let namespace = Namespace::new().on("known", async || 1);
    let mut client = Polling::connect(&main_app(namespace).0).await;
    client.send(r#"42["unknown"]"#).await;
    let answer = client.ask(r#"421["unknown"]"#).await;
    assert_eq!(answer, r#"431[{"error":"no handler for this event"}]"#);
    assert_eq!(client.ask(r#"422["known"]"#).await, "432[1]");
}

#[tokio::test]
async fn the_first_error_of_an_event_without_ack_is_logged_as_a_warning() {
    let (logs, _guard) = Logs::keep();
    let namespace = Namespace::new()
        .on("pair", async |Data(_): Data<(u8, u8)>| ())
        .on("closed", async |_: Closed| ())
        .on("fine", async || 1);
    let mut client = Polling::connect(&main_app(namespace).0).await;
    // These events cause no warning: `pair` is acknowledged, and the application rejects `closed`.
    client.ask(r#"421["pair",1,2]"#).await;
    client.send(r#"42["closed"]"#).await;
    assert_eq!(client.ask(r#"421["fine"]"#).await, "431[1]");
    assert_eq!(logs.warnings(), Vec::<String>::new());

    for event in [
        r#"["pair",3,4]"#,
        r#"["pair",5,6]"#,
        r#"["pear"]"#,
        r#"["bear"]"#,
    ] {
        client.send(&format!("42{event}")).await;
    }
    assert_eq!(client.ask(r#"421["fine"]"#).await, "431[1]");
    let warnings = logs.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for part in [
        "do not fit its handler",
        r#"event="pair""#,
        r#"namespace="/""#,
        "socket=",
        "invalid type: integer `3`, expected a tuple of size 2",
        "for several use `Args`",
    ] {
        assert!(warnings[0].contains(part), "{part}: {warnings:?}");
    }
    for part in [
        "no handler",
        "`Namespace::on`",
        r#"event="pear""#,
        r#"namespace="/""#,
    ] {
        assert!(warnings[1].contains(part), "{part}: {warnings:?}");
    }
    let later = logs.at(Level::DEBUG);
    for part in ["integer `1`", "integer `5`", r#"event="bear""#, "not today"] {
        assert!(later.iter().any(|line| line.contains(part)), "{later:?}");
    }
}

/// An extractor of the application that always rejects.
struct Closed;

impl<S: Send + Sync> FromEvent<S> for Closed {
    type Rejection = ErrorReply;

    async fn from_event(_: &mut Event, _: &S) -> Result<Self, ErrorReply> {
        Err(ErrorReply::new("not today"))
    }
}

#[tokio::test]
async fn a_fallback_handles_events_without_a_handler() {
    async fn fallback(event: Data<Value>) -> Value {
        event.0
    }
    async fn name(event: Event, next: Next) -> Reply {
        let name = event.name().to_owned();
        event.socket().emit("name", name);
        next.run(event).await
    }
    let namespace = Namespace::new()
        .on("known", async || 1)
        .fallback(fallback.layer(middleware::from_fn(name)));
    let mut client = Polling::connect(&main_app(namespace).0).await;
    assert_eq!(
        client.ask(r#"421["other",5]"#).await,
        r#"42["name","other"]"#
    );
    assert_eq!(client.next().await, "431[5]");
    assert_eq!(client.ask(r#"422["known"]"#).await, "432[1]");
}

#[tokio::test]
async fn bytes_are_fields_like_others() {
    #[derive(Serialize, Deserialize)]
    struct File {
        name: String,
        content: Bytes,
        thumbnail: Option<Bytes>,
    }
    async fn swap(Data(file): Data<File>) -> Data<File> {
        Data(File {
            name: file.name,
            content: file.thumbnail.expect("one"),
            thumbnail: Some(file.content),
        })
    }
    let addr = serve(main_app(Namespace::new().on("swap", swap)).0).await;
    let mut client = Client::connect(addr, "/").await;
    client
        .send(concat!(
            r#"452-7["swap",{"name":"a","content":{"_placeholder":true,"num":0},"#,
            r#""thumbnail":{"_placeholder":true,"num":1}}]"#
        ))
        .await;
    client.send_binary(b"content").await;
    client.send_binary(b"thumbnail").await;
    let header = client.text().await;
    let (kind, json) = header.split_once("462-7").expect("a binary ack");
    assert_eq!(kind, "");
    let json: Value = serde_json::from_str(json).expect("JSON");
    assert_eq!(
        json[0]["content"],
        json!({ "_placeholder": true, "num": 0 })
    );
    assert_eq!(client.next().await, Got::Binary(b"thumbnail".to_vec()));
    assert_eq!(client.next().await, Got::Binary(b"content".to_vec()));
}

#[tokio::test]
async fn a_handler_for_json_rejects_bytes_and_does_not_lose_them() {
    let namespace = Namespace::new()
        .on("value", async |Data(value): Data<Value>| value)
        .on("raw", async |args: RawArgs| args)
        .on("error", async |Data(bytes): Data<Bytes>| {
            Err::<(), _>(Data(bytes))
        });
    let addr = serve(main_app(namespace).0).await;
    let mut client = Client::connect(addr, "/").await;
    for value in [BYTES, r#"{"a":[{"_placeholder":true,"num":0}]}"#] {
        client.send(&format!(r#"451-1["value",{value}]"#)).await;
        client.send_binary(b"one").await;
        let answer = client.text().await;
        assert!(
            answer.starts_with(r#"431[{"error":"argument 1 is of another type"#),
            "{answer}"
        );
        client.send(&format!(r#"451-2["raw",{value}]"#)).await;
        client.send_binary(b"one").await;
        assert_eq!(client.text().await, format!("461-2[{value}]"));
        assert_eq!(client.next().await, Got::Binary(b"one".to_vec()));
    }
    // The packet has no attachments, so this is an ordinary object, as for Node's server.
    let answer = client.ask(&format!(r#"423["value",{BYTES}]"#)).await;
    assert_eq!(answer, format!("433[{BYTES}]"));
    // An error reply has no attachments.
    client.send(&format!(r#"451-4["error",{BYTES}]"#)).await;
    client.send_binary(b"one").await;
    assert_eq!(
        client.text().await,
        r#"434[{"error":"error","data":[111,110,101]}]"#
    );
}

/// The placeholder of an attachment in an event.
const BYTES: &str = r#"{"_placeholder":true,"num":0}"#;

#[tokio::test]
async fn half_of_an_emoji_is_a_replacement_character_for_every_handler() {
    #[derive(Serialize, Deserialize)]
    struct Rename {
        name: String,
    }
    impl TypedEvent for Rename {
        const NAME: &'static str = "rename";
        type Reply = String;
    }
    async fn ask(socket: Socket) {
        let answer = socket.emit_with_ack::<Vec<String>>("ask", ());
        tokio::spawn(async move {
            let answer = answer.await.expect("a text");
            socket.emit("answer", answer);
        });
    }
    async fn keep(socket: Socket, Data(value): Data<Value>) -> Option<Value> {
        socket.set_data(value).expect("JSON");
        socket.data()
    }
    let namespace = Namespace::new()
        .on_connect(
            async |Auth(auth): Auth<Value>| match auth["name"].as_str() {
                Some("\u{fffd}") => Ok(()),
                _ => Err("no name"),
            },
        )
        .on("text", async |Data(text): Data<String>| text)
        .on("raw", async |args: RawArgs| args)
        .on("auth", async |socket: Socket| socket.handshake().auth)
        .on("keep", keep)
        .on("\u{fffd}", async || "named")
        .on("ask", ask)
        .on_typed(async |Rename { name }: Rename| name);
    let mut client = Polling::open(&main_app(namespace).0).await;
    let welcome = client.ask(r#"40{"name":"\ud83d"}"#).await;
    assert!(welcome.starts_with(r#"40{"sid":"#), "{welcome}");
    for (event, answer) in [
        (r#"["text","a\ud83d"]"#, "[\"a\u{fffd}\"]"),
        (r#"["text","\ud83d\ude00"]"#, "[\"\u{1f600}\"]"),
        (
            r#"["keep",{"\ude00":["\ud83d"]}]"#,
            "[{\"\u{fffd}\":[\"\u{fffd}\"]}]",
        ),
        (r#"["rename",{"name":"\ud83d"}]"#, "[\"\u{fffd}\"]"),
        (r#"["\ud83d"]"#, "[\"named\"]"),
        (r#"["auth"]"#, "[{\"name\":\"\u{fffd}\"}]"),
        // Raw arguments are not changed. A JavaScript client can read them.
        (r#"["raw","\ud83d"]"#, r#"["\ud83d"]"#),
    ] {
        assert_eq!(
            client.ask(&format!("427{event}")).await,
            format!("437{answer}")
        );
    }
    assert_eq!(client.ask(r#"42["ask"]"#).await, r#"420["ask"]"#);
    let answer = client.ask(r#"430[["\ud83d"]]"#).await;
    assert_eq!(answer, "42[\"answer\",[\"\u{fffd}\"]]");
}

#[tokio::test]
async fn an_acknowledgement_can_be_sent_later_or_never() {
    let (sender, mut kept) = mpsc::unbounded_channel();
    let keep = async move |ack: AckSender| {
        assert!(ack.is_wanted());
        sender.send(ack).expect("somebody takes it");
        "not sent"
    };
    let namespace = Namespace::new()
        .on("later", keep)
        .on("never", async |ack: AckSender| drop(ack))
        .on("unwanted", async |ack: AckSender, socket: Socket| {
            socket.emit("wanted", ack.is_wanted());
            ack.send(1);
        })
        .on("now", async || "now");
    let mut client = Polling::connect(&main_app(namespace).0).await;
    client.send(r#"421["later"]"#).await;
    client.send(r#"422["never"]"#).await;
    assert_eq!(
        client.ask(r#"42["unwanted"]"#).await,
        r#"42["wanted",false]"#
    );
    assert_eq!(client.ask(r#"423["now"]"#).await, r#"433["now"]"#);
    let ack = within(kept.recv()).await.expect("kept");
    ack.send(Args((1, "a")));
    assert_eq!(client.next().await, r#"431[1,"a"]"#);
}

#[derive(Clone)]
struct App {
    name: &'static str,
    number: u32,
}

impl FromRef<App> for u32 {
    fn from_ref(app: &App) -> Self {
        app.number
    }
}

#[tokio::test]
async fn state_is_extracted_whole_or_in_part() {
    async fn connect(State(app): State<App>, socket: Socket) {
        socket.emit("name", app.name);
    }
    async fn add(State(number): State<u32>, Data(n): Data<u32>) -> u32 {
        number + n
    }
    let state = App {
        name: "app",
        number: 40,
    };
    let whole: Namespace<App> = Namespace::new().on_connect(connect).on("add", add);
    let given = Namespace::new().on("add", add).with_state(App {
        name: "other",
        number: 50,
    });
    let (layer, _io) = SocketIo::builder()
        .namespace("/", whole)
        .namespace("/other", given)
        .with_state(state)
        .build();
    let mut client = Polling::connect(&app(layer)).await;
    assert_eq!(client.next().await, r#"42["name","app"]"#);
    assert_eq!(client.ask(r#"421["add",2]"#).await, "431[42]");
    client.join("/other").await;
    assert_eq!(client.ask(r#"42/other,1["add",2]"#).await, "43/other,1[52]");
}

/// A custom extractor: the socket's user, and whether the state knows it.
struct Known(User, bool);

impl<S: Send + Sync> FromEvent<S> for Known
where
    u32: FromRef<S>,
{
    type Rejection = MissingExtension;

    async fn from_event(event: &mut Event, state: &S) -> Result<Self, Self::Rejection> {
        let Extension(user) = Extension::<User>::from_event(event, state).await?;
        let known = user.0 == u32::from_ref(state).to_string();
        Ok(Self(user, known))
    }
}

#[tokio::test]
async fn a_custom_extractor_reads_the_event_and_the_state() {
    async fn enter(socket: Socket, Data(name): Data<String>) {
        socket.insert(User(name));
    }
    async fn who(Known(user, known): Known) -> Data<(String, bool)> {
        Data((user.0, known))
    }
    let namespace: Namespace<u32> = Namespace::new().on("enter", enter).on("who", who);
    let namespace = namespace.with_state(7);
    let mut client = Polling::connect(&main_app(namespace).0).await;
    let told = client.ask(r#"421["who"]"#).await;
    assert!(told.starts_with(r#"431[{"error":"#), "{told}");
    for (name, known) in [("7", true), ("Ada", false)] {
        client.send(&format!(r#"42["enter","{name}"]"#)).await;
        let told = client.ask(r#"421["who"]"#).await;
        assert_eq!(told, format!(r#"431[["{name}",{known}]]"#));
    }
}

#[derive(Clone, Debug, PartialEq)]
struct User(String);

impl<S: Send + Sync> FromRequestParts<S> for User {
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let user = parts.headers.get("x-user");
        let user = user.ok_or((StatusCode::UNAUTHORIZED, "who are you?"))?;
        Ok(Self(user.to_str().unwrap_or_default().to_owned()))
    }
}

#[tokio::test]
async fn a_connect_handler_accepts_extractors_of_axum() {
    async fn connect(socket: Socket, user: User, headers: HeaderMap) {
        assert_eq!(headers["x-user"], "ada");
        socket.insert(user);
    }
    let namespace = Namespace::new()
        .on_connect(connect)
        .on("who", async |Extension(user): Extension<User>| user.0)
        .on("agent", async |FromHandshake(user): FromHandshake<User>| {
            user.0
        });
    let request = Request::get("/socket.io/?EIO=4&transport=polling")
        .header("x-user", "ada")
        .body(Body::empty());
    let (app, _io) = main_app(namespace);
    let mut client = Polling::open_with(&app, request.expect("a request")).await;
    client.join("/").await;
    assert_eq!(client.ask(r#"421["who"]"#).await, r#"431["ada"]"#);
    assert_eq!(client.ask(r#"422["agent"]"#).await, r#"432["ada"]"#);

    let mut stranger = Polling::open(&app).await;
    let told = r#"44{"message":"who are you?","data":{"status":401}}"#;
    assert_eq!(stranger.ask("40").await, told);
}

#[tokio::test]
async fn a_rejection_without_a_text_is_reported_by_its_status() {
    #[derive(Debug)]
    struct Never;
    impl<S: Send + Sync> FromRequestParts<S> for Never {
        type Rejection = StatusCode;

        async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Self, StatusCode> {
            Err(StatusCode::NOT_FOUND)
        }
    }
    let told = refusal(Namespace::new().on_connect(async |_: Never| ())).await;
    assert_eq!(told, r#"44{"message":"Not Found","data":{"status":404}}"#);
}

#[tokio::test]
async fn a_refusal_sends_its_text_and_its_data() {
    let told = refusal(Namespace::new().on_connect(async || {
        Err::<(), _>(ErrorReply::new("full").with_data(json!({ "free": 0 })))
    }));
    assert_eq!(told.await, r#"44{"message":"full","data":{"free":0}}"#);
    let told = refusal(Namespace::new().on_connect(async || Err::<(), _>("no")));
    assert_eq!(told.await, r#"44{"message":"no"}"#);
}

#[tokio::test]
async fn a_refused_client_may_try_again_and_leaves_nothing() {
    async fn connect(socket: Socket, Auth(auth): Auth<Value>) -> Result<(), &'static str> {
        socket.join("room");
        socket.emit("secret", 1);
        if auth["token"] == "sesame" {
            Ok(())
        } else {
            Err("no")
        }
    }
    let (app, io) = main_app(Namespace::new().on_connect(connect));
    let mut client = Polling::open(&app).await;
    assert_eq!(
        client.ask(r#"40{"token":"x"}"#).await,
        r#"44{"message":"no"}"#
    );
    let counts = io.counts();
    assert_eq!((counts.sessions, counts.sockets, counts.rooms), (1, 0, 0));
    let connected = client.ask(r#"40{"token":"sesame"}"#).await;
    assert!(connected.starts_with(r#"40{"sid":"#), "{connected}");
    assert_eq!(client.next().await, r#"42["secret",1]"#);
}

#[tokio::test]
async fn authentication_of_another_shape_is_refused() {
    #[derive(Deserialize)]
    struct Login {
        _token: String,
    }
    let namespace = || Namespace::new().on_connect(async |_: Auth<Login>| ());
    let told = refusal(namespace()).await;
    assert_eq!(
        told,
        r#"44{"message":"auth is of another type: missing field `_token`"}"#
    );
}

#[tokio::test]
async fn an_unknown_namespace_is_refused() {
    let mut client = Polling::open(&main_app(Namespace::new()).0).await;
    let told = r#"44/nowhere,{"message":"Invalid namespace"}"#;
    assert_eq!(client.ask("40/nowhere,").await, told);
    client.join("/").await;
}

#[derive(Serialize, Deserialize)]
struct Greet {
    name: String,
}

impl TypedEvent for Greet {
    const NAME: &'static str = "greet";
    type Reply = String;
}

#[tokio::test]
async fn typed_events_are_named_by_their_type() {
    async fn greet(greet: Greet, socket: Socket) -> Result<String, &'static str> {
        if greet.name.is_empty() {
            return Err("no name");
        }
        socket.send(Greet {
            name: "back".to_owned(),
        });
        Ok(format!("hello {}", greet.name))
    }
    let mut client = Polling::connect(&main_app(Namespace::new().on_typed(greet)).0).await;
    let answer = client.ask(r#"421["greet",{"name":"ada"}]"#).await;
    assert_eq!(answer, r#"42["greet",{"name":"back"}]"#);
    assert_eq!(client.next().await, r#"431["hello ada"]"#);
    let answer = client.ask(r#"422["greet",{"name":""}]"#).await;
    assert_eq!(answer, r#"432[{"error":"no name"}]"#);
    let answer = client.ask(r#"423["greet",{}]"#).await;
    assert_eq!(
        answer,
        r#"433[{"error":"argument 1 is of another type: missing field `name`"}]"#
    );
}

#[derive(Serialize, Deserialize)]
struct Move(i32, Option<i32>);

impl TypedEvent for Move {
    const NAME: &'static str = "move";
    const SPREAD: bool = true;
    type Reply = i32;
}

#[derive(Serialize, Deserialize)]
struct Ready;

impl TypedEvent for Ready {
    const NAME: &'static str = "ready";
    const SPREAD: bool = true;
    type Reply = ();
}

#[tokio::test]
async fn the_fields_of_a_typed_event_may_be_its_arguments() {
    async fn go(Move(x, y): Move, socket: Socket) -> i32 {
        socket.send(Move(x, y));
        socket.everyone().send(Ready);
        x + y.unwrap_or_default()
    }
    async fn ready(Ready: Ready) {}
    let namespace = Namespace::new().on_typed(go).on_typed(ready);
    let mut client = Polling::connect(&main_app(namespace).0).await;
    let answer = client.ask(r#"421["move",3,4]"#).await;
    assert_eq!(answer, r#"42["move",3,4]"#);
    assert_eq!(client.next().await, r#"42["ready"]"#);
    assert_eq!(client.next().await, "431[7]");
    // As with `Args`, a missing argument is `null`, and surplus ones are ignored.
    let answer = client.ask(r#"422["move",3]"#).await;
    assert_eq!(answer, r#"42["move",3,null]"#);
    assert_eq!(client.next().await, r#"42["ready"]"#);
    assert_eq!(client.next().await, "432[3]");
    let answer = client.ask(r#"423["move",[3,4]]"#).await;
    assert!(answer.starts_with(r#"433[{"error":"#), "{answer}");
    assert_eq!(client.ask(r#"424["ready"]"#).await, "434[]");
    assert_eq!(client.ask(r#"425["ready",1]"#).await, "435[]");
}

#[tokio::test(start_paused = true)]
async fn a_layer_wraps_one_event() {
    async fn slow() {
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    let namespace = Namespace::new().on("slow", slow).on(
        "timed",
        slow.layer(TimeoutLayer::new(Duration::from_secs(1))),
    );
    let expected = [
        (r#"["slow"]"#, "[]"),
        (r#"["timed"]"#, r#"[{"error":"timed out"}]"#),
    ];
    assert_acks(namespace, &expected).await;
}

#[tokio::test]
async fn a_middleware_function_wraps_the_handlers_added_before_it() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = {
        let seen = Arc::clone(&seen);
        move |event: Event, next: Next| {
            let seen = Arc::clone(&seen);
            async move {
                let name = event.name().to_owned();
                let reply = next.run(event).await;
                let line = format!("{name} {}", reply.is_err());
                seen.lock().expect("no panic").push(line);
                reply
            }
        }
    };
    let namespace = Namespace::new()
        .on_connect(async || ())
        .on("good", async || 1)
        .on("bad", async || Err::<(), _>("no"))
        .on_disconnect(async || ())
        .layer(middleware::from_fn(log))
        .on("outside", async || 2);
    let (app, io) = main_app(namespace);
    let mut client = Polling::connect(&app).await;
    for event in ["good", "bad", "outside"] {
        client.ask(&format!(r#"421["{event}"]"#)).await;
    }
    client.send("41").await;
    until(|| io.counts().sockets == 0).await;
    let seen = seen.lock().expect("no panic").clone();
    let expected = [
        "connect false",
        "good false",
        "bad true",
        "disconnect false",
    ];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_layer_can_refuse_an_event_and_pass_values_to_the_handler() {
    async fn guard(mut event: Event, next: Next) -> Result<Reply, ErrorReply> {
        if event.args().to_json().contains("bad") {
            return Err(ErrorReply::new("refused"));
        }
        event
            .extensions_mut()
            .insert(User("of the layer".to_owned()));
        Ok(next.run(event).await)
    }
    let namespace = Namespace::new()
        .on("who", async |Extension(user): Extension<User>| user.0)
        .layer(middleware::from_fn(guard))
        .on("bare", async |_: Extension<User>| ());
    let expected = [
        (r#"["who"]"#, r#"["of the layer"]"#),
        (r#"["who","bad"]"#, r#"[{"error":"refused"}]"#),
        (r#"["bare"]"#, r#"[{"error":"internal error"}]"#),
    ];
    assert_acks(namespace, &expected).await;
}

#[tokio::test]
async fn a_concurrency_limit_counts_all_clients() {
    let (started, mut running) = mpsc::unbounded_channel::<oneshot::Sender<()>>();
    let work = move || {
        let (sender, receiver) = oneshot::channel();
        started.send(sender).expect("the test goes on");
        async move {
            let _ = receiver.await;
        }
    };
    let namespace = Namespace::new()
        .on("work", work)
        .layer(GlobalConcurrencyLimitLayer::new(1));
    let (app, _io) = main_app(namespace);
    let mut first = Polling::connect(&app).await;
    let mut second = Polling::connect(&app).await;
    first.send(r#"421["work"]"#).await;
    let end_first = within(running.recv()).await.expect("it runs");
    second.send(r#"422["work"]"#).await;
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert!(running.try_recv().is_err(), "the second runs too");
    end_first.send(()).expect("it waits");
    assert_eq!(first.next().await, "431[]");
    let end_second = within(running.recv()).await.expect("it runs");
    end_second.send(()).expect("it waits");
    assert_eq!(second.next().await, "432[]");
}

#[tokio::test]
async fn a_namespace_with_parameters_exists_while_a_client_is_in_it() {
    async fn connect(socket: Socket, Params((shop, table)): Params<(String, u32)>) {
        socket.emit("at", (shop, table));
    }
    let orders = Namespace::new()
        .on_connect(connect)
        .on("where", async |Params(all): Params<Vec<String>>| all);
    let (layer, io) = builder(Namespace::new())
        .namespace("/orders/{shop}/{table}", orders)
        .build();
    let app = app(layer);
    let before = io.counts().namespaces;
    let mut client = Polling::open(&app).await;
    client.join("/orders/a/7").await;
    assert_eq!(client.next().await, r#"42/orders/a/7,["at",["a",7]]"#);
    let answer = client.ask(r#"42/orders/a/7,1["where"]"#).await;
    assert_eq!(answer, r#"43/orders/a/7,1[["a","7"]]"#);
    assert_eq!(io.counts().namespaces, before + 1);
    io.of("/orders/a/7").emit("to", "all");
    io.of("/orders/a/8").emit("to", "nobody");
    assert_eq!(client.next().await, r#"42/orders/a/7,["to","all"]"#);

    let told = client.ask("40/orders/a/x,").await;
    assert!(told.starts_with(r#"44/orders/a/x,{"message""#), "{told}");
    client.send("41/orders/a/7,").await;
    until(|| io.counts().namespaces == before).await;
}

#[tokio::test]
async fn one_connection_is_in_several_namespaces() {
    let name = async |socket: Socket| socket.namespace().to_owned();
    let (layer, io) = builder(Namespace::new().on("name", name))
        .namespace("/a", Namespace::new().on("name", name))
        .namespace("/b", Namespace::new().on("name", name))
        .build();
    let mut client = Polling::connect(&app(layer)).await;
    let a = client.join("/a").await;
    let b = client.join("/b").await;
    assert_ne!(a, b);
    assert_eq!(client.ask(r#"421["name"]"#).await, r#"431["/"]"#);
    assert_eq!(client.ask(r#"42/a,1["name"]"#).await, r#"43/a,1["/a"]"#);
    assert_eq!(client.ask(r#"42/b,1["name"]"#).await, r#"43/b,1["/b"]"#);
    client.send("41/a,").await;
    until(|| io.of("/a").sockets().is_empty()).await;
    assert_eq!(client.ask(r#"42/b,2["name"]"#).await, r#"43/b,2["/b"]"#);
    assert_eq!(io.counts().sockets, 2);
}

#[tokio::test]
async fn the_namespaces_of_a_client_are_limited() {
    let (layer, _io) = SocketIo::builder()
        .namespace("/{any}", Namespace::new())
        .max_namespaces(2)
        .build();
    let mut client = Polling::open(&app(layer)).await;
    client.join("/a").await;
    client.join("/b").await;
    let told = client.ask("40/c,").await;
    assert_eq!(told, r#"44/c,{"message":"Too many namespaces"}"#);
}

#[tokio::test(start_paused = true)]
async fn namespaces_that_the_server_made_a_client_leave_do_not_count() {
    let leave = async |socket: Socket| socket.disconnect();
    let (layer, _io) = SocketIo::builder()
        .namespace("/{any}", Namespace::new().on("leave", leave))
        .max_namespaces(2)
        .build();
    let mut client = Polling::open(&app(layer)).await;
    for n in 0..5 {
        client.join(&format!("/{n}")).await;
        let left = client.ask(&format!(r#"42/{n},["leave"]"#)).await;
        assert_eq!(left, format!("41/{n},"));
    }
}

type Left = mpsc::UnboundedReceiver<String>;

fn telling() -> (Namespace, Left) {
    let (sender, left) = mpsc::unbounded_channel();
    let namespace = Namespace::new()
        .on("leave", async |socket: Socket| socket.disconnect())
        .on("close", async |socket: Socket| socket.close())
        .on_disconnect(move |socket: Socket, reason: DisconnectReason| {
            let sender = sender.clone();
            async move {
                assert!(!socket.is_connected());
                let _ = sender.send(reason.to_string());
            }
        });
    (namespace, left)
}

#[tokio::test(start_paused = true)]
async fn a_disconnect_handler_gets_the_reason() {
    for (packet, reason) in [
        ("41", "client namespace disconnect"),
        (r#"42["leave"]"#, "server namespace disconnect"),
        (r#"42["close"]"#, "server namespace disconnect"),
        ("1", "transport close"),
        ("x", "parse error"),
        ("4x", "forced server close"),
    ] {
        let (namespace, mut left) = telling();
        let client = Polling::connect(&main_app(namespace).0).await;
        client.post(packet).await;
        let told = within(left.recv()).await.expect("it left");
        assert_eq!(told, reason, "{packet}");
    }
    let (namespace, mut left) = telling();
    let _client = Polling::connect(&main_app(namespace).0).await;
    assert_eq!(within(left.recv()).await.expect("it left"), "ping timeout");

    let (namespace, mut left) = telling();
    let (app, io) = main_app(namespace);
    let client = Polling::connect(&app).await;
    let poll = client.poll();
    tokio::task::yield_now().await;
    io.close().await;
    let told = within(left.recv()).await.expect("it left");
    assert_eq!(told, "server shutting down");
    drop(poll);
}

/// Connects and disconnects a client, and returns how often the disconnect handler has run when the
/// session has ended.
async fn disconnects<L>(layer: L) -> usize
where
    L: tower::Layer<Route> + Clone + Send + Sync + 'static,
    L::Service: tower::Service<Event, Response: IntoReply, Error: IntoReply, Future: Send>,
    L::Service: Clone + Send + Sync + 'static,
{
    let (told, mut left) = mpsc::unbounded_channel();
    let namespace = Namespace::new()
        .on_disconnect(async move |socket: Socket, _: DisconnectReason| {
            tokio::task::yield_now().await;
            told.send(socket.id()).expect("somebody waits");
        })
        .layer(layer)
        .layer(middleware::from_fn(async |event: Event, next: Next| {
            // The disconnect event passes this layer, and then the layers that were added earlier.
            next.run(event).await
        }));
    let (app, io) = main_app(namespace);
    let addr = serve(app).await;
    let mut client = Client::connect(addr, "/").await;
    client.send("41").await;
    within(left.recv()).await.expect("the handler has run");
    drop(client);
    within(io.close()).await;
    1 + std::iter::from_fn(|| left.try_recv().ok()).count()
}

#[tokio::test]
async fn a_disconnect_handler_runs_once_whatever_the_layers_do() {
    /// Passes only the connect event.
    fn unless_connect(event: &Event) -> bool {
        !event.is_connect()
    }

    async fn passes(event: Event, next: Next) -> Reply {
        next.run(event).await
    }
    async fn refuses(event: Event, next: Next) -> Result<Reply, ErrorReply> {
        if unless_connect(&event) {
            return Err(ErrorReply::new("no"));
        }
        Ok(next.run(event).await)
    }
    async fn waits_and_refuses(event: Event, next: Next) -> Result<Reply, ErrorReply> {
        if unless_connect(&event) {
            tokio::task::yield_now().await;
            drop(event);
            return Err(ErrorReply::new("no"));
        }
        Ok(next.run(event).await)
    }
    async fn panics(event: Event, next: Next) -> Reply {
        assert!(!unless_connect(&event), "a panic that is meant");
        next.run(event).await
    }
    async fn fails_afterwards(event: Event, next: Next) -> Result<Reply, ErrorReply> {
        let is_disconnect = event.is_disconnect();
        let reply = next.run(event).await;
        if is_disconnect {
            return Err(ErrorReply::new("no"));
        }
        Ok(reply)
    }
    async fn hands_over(event: Event, next: Next) -> Reply {
        if unless_connect(&event) {
            tokio::spawn(next.run(event));
            return Reply::ok();
        }
        next.run(event).await
    }
    async fn hands_over_for_nothing(event: Event, next: Next) -> Reply {
        if unless_connect(&event) {
            tokio::spawn(async move {
                tokio::task::yield_now().await;
                drop(event);
            });
            return Reply::ok();
        }
        next.run(event).await
    }

    assert_eq!(disconnects(middleware::from_fn(passes)).await, 1);
    assert_eq!(disconnects(middleware::from_fn(refuses)).await, 1);
    assert_eq!(disconnects(middleware::from_fn(waits_and_refuses)).await, 1);
    assert_eq!(disconnects(middleware::from_fn(panics)).await, 1);
    assert_eq!(disconnects(middleware::from_fn(fails_afterwards)).await, 1);
    assert_eq!(disconnects(middleware::from_fn(hands_over)).await, 1);
    assert_eq!(
        disconnects(middleware::from_fn(hands_over_for_nothing)).await,
        1
    );
}

#[tokio::test]
async fn a_layer_around_a_namespace_wraps_its_disconnects_too() {
    let (told, mut seen) = mpsc::unbounded_channel();
    let outer = told.clone();
    let namespace = Namespace::new()
        .on_disconnect(async move |Extension(n): Extension<u32>| {
            told.send(format!("handler {n}")).expect("somebody waits");
        })
        .with_state(())
        .layer(middleware::from_fn(async |mut event: Event, next: Next| {
            event.extensions_mut().insert(7_u32);
            next.run(event).await
        }))
        .layer(middleware::from_fn(move |event: Event, next: Next| {
            let outer = outer.clone();
            async move {
                let name = event.name().to_owned();
                outer
                    .send(format!("{name} begins"))
                    .expect("somebody waits");
                let reply = next.run(event).await;
                outer.send(format!("{name} ends")).expect("somebody waits");
                reply
            }
        }));
    let mut client = Polling::connect(&main_app(namespace).0).await;
    client.send("41").await;
    for expected in [
        "connect begins",
        "connect ends",
        "disconnect begins",
        "handler 7",
        "disconnect ends",
    ] {
        assert_eq!(within(seen.recv()).await.as_deref(), Some(expected));
    }
}

#[tokio::test]
async fn a_disconnected_client_gets_a_packet_and_its_connection_stays() {
    let (namespace, mut left) = telling();
    let mut client = Polling::connect(&main_app(namespace).0).await;
    assert_eq!(client.ask(r#"42["leave"]"#).await, "41");
    within(left.recv()).await.expect("it left");
    client.join("/").await;
    client.send(r#"42["close"]"#).await;
    assert_eq!(client.next().await, "41");
    assert_eq!(client.next().await, "1");
}

#[tokio::test]
async fn a_disconnect_handler_can_read_the_rooms_that_its_socket_has_left() {
    async fn leave(socket: Socket, io: SocketIo) {
        assert!(
            io.to("a")
                .sockets()
                .iter()
                .all(|other| other.id() != socket.id())
        );
        let mut rooms = socket.rooms();
        rooms.sort_unstable();
        socket.to("a").emit("left", rooms);
    }
    let namespace = Namespace::new()
        .on("join", async |socket: Socket, Data(room): Data<String>| {
            socket.join(room);
        })
        .on_disconnect(leave);
    let (app, _io) = main_app(namespace);
    let mut leaver = Polling::connect(&app).await;
    let mut stayer = Polling::connect(&app).await;
    assert_eq!(leaver.ask(r#"421["join","a"]"#).await, "431[]");
    assert_eq!(leaver.ask(r#"421["join","b"]"#).await, "431[]");
    assert_eq!(stayer.ask(r#"421["join","a"]"#).await, "431[]");
    leaver.send("41").await;
    assert_eq!(stayer.next().await, r#"42["left",["a","b"]]"#);
}

#[tokio::test]
async fn a_layer_sees_all_events_and_may_change_their_arguments() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&seen);
    let layer = move |mut event: Event, next: Next| {
        let entry = format!("{}{}", event.name(), event.args().to_json());
        note.lock().expect("notes").push(entry);
        let refused = event.set_args(Args((1, 2))).is_err();
        assert_eq!(refused, event.is_connect() || event.is_disconnect());
        next.run(event)
    };
    let namespace = Namespace::new()
        .on("add", async |Args((a, b)): Args<(u32, u32)>| a + b)
        .on("error", async |raw: RawArgs| raw)
        .fallback(async |raw: RawArgs| raw)
        .layer(middleware::from_fn(layer));
    let mut client = Polling::connect(&main_app(namespace).0).await;
    assert_eq!(client.ask(r#"421["add",5,6]"#).await, "431[3]");
    assert_eq!(client.ask(r#"421["error","boo"]"#).await, "431[1,2]");
    assert_eq!(client.ask(r#"421["other"]"#).await, "431[1,2]");
    let seen = seen.lock().expect("notes").clone();
    assert_eq!(
        seen,
        ["connect[]", "add[5,6]", r#"error["boo"]"#, "other[]"]
    );
}

#[tokio::test]
async fn one_layer_around_two_apps_is_one_server() {
    let (layer, io) = builder(Namespace::new()).build();
    let apps = [app(layer.clone()), app(layer)];
    let mut clients = [
        Polling::connect(&apps[0]).await,
        Polling::connect(&apps[1]).await,
    ];
    assert_eq!(io.counts().sessions, 2);
    io.emit("x", 1);
    for client in &mut clients {
        assert_eq!(client.next().await, r#"42["x",1]"#);
    }
}

#[tokio::test]
async fn closing_makes_the_client_leave_all_its_namespaces() {
    let (main, mut left) = telling();
    let (admin, mut left_admin) = telling();
    let (layer, io) = builder(main).namespace("/adm", admin).build();
    let mut client = Polling::connect(&app(layer)).await;
    client.join("/adm").await;
    assert_eq!(client.ask(r#"42["close"]"#).await, "41");
    assert_eq!(client.next().await, "41/adm,");
    assert_eq!(client.next().await, "1");
    for left in [&mut left, &mut left_admin] {
        let told = within(left.recv()).await.expect("it left");
        assert_eq!(told, "server namespace disconnect");
    }
    until(|| io.counts().sessions == 0).await;
}

#[tokio::test]
async fn the_events_of_a_connect_handler_follow_the_connect_packet() {
    async fn connect(socket: Socket, io: SocketIo) {
        socket.emit("first", 1);
        tokio::task::yield_now().await;
        socket.join("room");
        io.to("room").emit("second", 2);
        socket.everyone().emit("third", 3);
        assert!(!socket.is_connected());
    }
    let mut client = Polling::connect(&main_app(Namespace::new().on_connect(connect)).0).await;
    for packet in [r#"42["first",1]"#, r#"42["second",2]"#, r#"42["third",3]"#] {
        assert_eq!(client.next().await, packet);
    }
}

#[tokio::test]
async fn events_that_come_with_the_connect_wait_for_its_handler() {
    async fn connect(socket: Socket) {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        socket.insert(User("set".to_owned()));
    }
    let namespace = Namespace::new()
        .on_connect(connect)
        .on("who", async |Extension(user): Extension<User>| user.0);
    let addr = serve(main_app(namespace).0).await;
    let mut stream = support::raw_session(addr).await;
    let segment = [text_frame("40"), text_frame(r#"421["who"]"#)].concat();
    within(stream.write_all(&segment))
        .await
        .expect("it is taken");
    assert!(support::read_frame(&mut stream).await.starts_with("40"));
    assert_eq!(support::read_frame(&mut stream).await, r#"431["set"]"#);
}

#[tokio::test]
async fn a_value_of_a_socket_is_replaced_and_removed() {
    let namespace = Namespace::new().on_connect(async |socket: Socket| {
        assert!(socket.insert(User("a".to_owned())).is_none());
        let former = socket.insert(User("b".to_owned()));
        assert_eq!(former.map(|user| user.0).as_deref(), Some("a"));
        let removed = socket.remove::<User>();
        assert_eq!(removed.map(|user| user.0).as_deref(), Some("b"));
        assert!(socket.remove::<User>().is_none() && socket.extension::<User>().is_none());
    });
    let _client = Polling::connect(&main_app(namespace).0).await;
}

#[tokio::test]
async fn a_connect_handler_may_disconnect() {
    let namespace = Namespace::new().on_connect(async |socket: Socket| {
        socket.emit("bye", 1);
        socket.disconnect();
    });
    let (app, io) = main_app(namespace);
    let mut client = Polling::connect(&app).await;
    assert_eq!(client.next().await, r#"42["bye",1]"#);
    assert_eq!(client.next().await, "41");
    until(|| io.counts().sockets == 0).await;
}

#[tokio::test]
async fn emit_with_ack_in_a_connect_handler_fails_at_once() {
    async fn connect(socket: Socket) {
        let answer: Result<u32, AckError> = socket.emit_with_ack("question", 1).await;
        socket.emit(
            "failed",
            answer.is_err_and(|error| error.is_not_connected()),
        );
    }
    let mut client = Polling::connect(&main_app(Namespace::new().on_connect(connect)).0).await;
    assert_eq!(client.next().await, r#"42["failed",true]"#);
}

#[tokio::test]
async fn a_panic_ends_only_its_handler() {
    struct Panics;
    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("in a destructor");
        }
    }
    async fn late() {
        tokio::task::yield_now().await;
        panic!("later");
    }
    let namespace = Namespace::new()
        .on_connect(async |Auth(auth): Auth<Value>| assert!(auth["panic"].is_null()))
        .on("panic", || -> std::future::Ready<()> { panic!("at once") })
        .on("late", late)
        .on("drop", async || drop(Panics))
        .on("fine", async || 1)
        .on_disconnect(late);
    let (app, io) = main_app(namespace);
    let mut client = Polling::open(&app).await;
    let told = client.ask(r#"40{"panic":1}"#).await;
    assert_eq!(told, r#"44{"message":"internal error"}"#);
    client.join("/").await;
    for event in ["panic", "late", "drop"] {
        let answer = client.ask(&format!(r#"421["{event}"]"#)).await;
        assert_eq!(answer, r#"431[{"error":"internal error"}]"#, "{event}");
    }
    assert_eq!(client.ask(r#"422["fine"]"#).await, "432[1]");
    client.send("41").await;
    until(|| io.counts().sockets == 0).await;
    client.join("/").await;
    assert_eq!(client.ask(r#"422["fine"]"#).await, "432[1]");
}

#[tokio::test]
async fn a_panic_whose_payload_panics_too_ends_only_its_handler() {
    struct Payload;
    impl Drop for Payload {
        fn drop(&mut self) {
            panic!("in the destructor of a payload");
        }
    }
    struct InItsDestructor;
    impl Drop for InItsDestructor {
        fn drop(&mut self) {
            panic_any(Payload);
        }
    }
    async fn late() {
        tokio::task::yield_now().await;
        panic_any(Payload);
    }
    async fn holds() {
        let _held = InItsDestructor;
        tokio::task::yield_now().await;
    }
    let namespace = Namespace::new()
        .on_connect(async |Auth(auth): Auth<Value>| {
            if auth["panic"] == 1 {
                panic_any(Payload);
            }
        })
        .on("panic", || -> std::future::Ready<()> { panic_any(Payload) })
        .on("late", late)
        .on("holds", holds)
        .on("fine", async || 1)
        .on_disconnect(late)
        .on_room_event(|_| panic_any(Payload))
        .on_outgoing(|_, _, _| panic_any(Payload));
    let (layer, io) = builder(namespace)
        .namespace_if(
            |request| async move {
                if request.name() == "/panics" {
                    panic_any(Payload);
                }
                false
            },
            Namespace::new(),
        )
        .build();
    let mut client = Polling::open(&app(layer)).await;
    let told = client.ask(r#"40{"panic":1}"#).await;
    assert_eq!(told, r#"44{"message":"internal error"}"#);
    client.join("/").await;
    for event in ["panic", "late", "holds"] {
        let answer = client.ask(&format!(r#"421["{event}"]"#)).await;
        assert_eq!(answer, r#"431[{"error":"internal error"}]"#, "{event}");
    }
    let told = client.ask("40/panics,").await;
    assert!(told.starts_with("44/panics,"), "{told}");
    io.emit("news", 1);
    assert_eq!(client.next().await, r#"42["news",1]"#);
    client.send("41").await;
    until(|| io.counts().sockets == 0).await;
    client.join("/").await;
    assert_eq!(client.ask(r#"422["fine"]"#).await, "432[1]");
}

#[tokio::test]
async fn a_panic_in_the_destructor_of_a_handlers_future_ends_no_connection() {
    #[derive(Clone)]
    struct Own {
        refuses: bool,
    }
    impl<K, S> Handler<K, S> for Own {
        fn call(self, _: Event, _: S) -> impl Future<Output = Reply> + Send + 'static {
            Panics(self)
        }
    }
    struct Panics(Own);
    impl Future for Panics {
        type Output = Reply;
        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Reply> {
            Poll::Ready(match self.0.refuses {
                true => ErrorReply::new("no").into_reply(),
                false => ().into_reply(),
            })
        }
    }
    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("in a destructor");
        }
    }
    let namespace = |refuses| {
        Namespace::new()
            .on_connect::<_, ()>(Own { refuses })
            .on("fine", async || 1)
            .on_disconnect::<_, ()>(Own { refuses })
    };
    let (layer, io) = builder(namespace(false))
        .namespace("/no", namespace(true))
        .build();
    let mut client = Polling::open(&app(layer)).await;
    for _ in 0..2 {
        assert_eq!(client.ask("40/no,").await, r#"44/no,{"message":"no"}"#);
        client.join("/").await;
        assert_eq!(client.ask(r#"422["fine"]"#).await, "432[1]");
        client.send("41").await;
        until(|| io.counts().sockets == 0).await;
    }
    assert_eq!(io.counts().sessions, 1);
}

#[tokio::test]
async fn a_panic_in_the_destructor_of_an_extension_ends_no_connection() {
    #[derive(Clone)]
    struct Panics;
    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("in a destructor");
        }
    }
    let (layer, io) = builder(Namespace::new().on("fine", async || 1))
        .namespace(
            "/keeps",
            Namespace::new().on_connect(async |socket: Socket| {
                socket.insert(Panics);
            }),
        )
        .build();
    let mut client = Polling::connect(&app(layer)).await;
    client.join("/keeps").await;
    client.send("41/keeps,").await;
    until(|| io.counts().sockets == 1).await;
    assert_eq!(client.ask(r#"422["fine"]"#).await, "432[1]");
}

/// Returns the message of a panic and the file of its location.
fn panic_of(register: impl FnOnce()) -> (String, String) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    let file = Arc::new(Mutex::new(String::new()));
    let before = std::panic::take_hook();
    let thread = std::thread::current().id();
    let hook_file = Arc::clone(&file);
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() == thread {
            let location = info.location().map_or("", |location| location.file());
            *hook_file.lock().expect("no panic") = location.to_owned();
        }
    }));
    let panic = catch_unwind(AssertUnwindSafe(register)).expect_err("a panic");
    std::panic::set_hook(before);
    let text = match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic
            .downcast_ref::<&str>()
            .map_or_else(String::new, |text| (*text).to_owned()),
    };
    let file = file.lock().expect("no panic").clone();
    (text, file)
}

type Mistake = Box<dyn FnOnce()>;

#[test]
fn mistakes_of_registration_panic_at_the_callers_line() {
    let new = || Namespace::<()>::new();
    let nothing = async || ();
    let mistakes: [(Mistake, &str); 8] = [
        (
            Box::new(move || drop(new().on("say", nothing).on("say", nothing))),
            "event `say` already has a handler in this namespace",
        ),
        (
            Box::new(move || drop(new().on_connect(nothing).on_connect(nothing))),
            "already has a connect handler",
        ),
        (
            Box::new(move || drop(new().on_disconnect(nothing).on_disconnect(nothing))),
            "already has a disconnect handler",
        ),
        (
            Box::new(move || drop(new().fallback(nothing).fallback(nothing))),
            "already has a fallback",
        ),
        (
            Box::new(move || drop(new().on("connect", nothing))),
            "`connect` is not an event: use `on_connect`",
        ),
        (
            Box::new(move || drop(builder(new()).namespace("/", new()))),
            "namespace `/` is there already",
        ),
        (
            Box::new(move || drop(builder(new()).namespace("a", new()))),
            "must begin with a slash",
        ),
        (
            Box::new(move || {
                let both = builder(new())
                    .namespace("/{a}", new())
                    .namespace("/{b}", new());
                drop(both.build());
            }),
            "/{b}",
        ),
    ];
    for (mistake, expected) in mistakes {
        let (text, file) = panic_of(mistake);
        assert!(
            text.contains(expected),
            "{text:?} does not say {expected:?}"
        );
        assert!(
            file.ends_with("tests/integration/handlers.rs"),
            "{text:?} points at {file}"
        );
    }
}

#[tokio::test]
async fn extensions_of_http_layers_are_found() {
    let (layer, _io) =
        builder(Namespace::new().on("who", async |Extension(user): Extension<User>| user.0))
            .build();
    let app = Router::new()
        .layer(layer)
        .layer(Extension(User("of HTTP".to_owned())));
    let mut client = Polling::connect(&app).await;
    assert_eq!(client.ask(r#"421["who"]"#).await, r#"431["of HTTP"]"#);
}
