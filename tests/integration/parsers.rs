//! Parsers: a custom one, the limits of the default one, MessagePack.

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tower_socketio::cluster::Memory;
use tower_socketio::engine::Message;
use tower_socketio::protocol::{
    DecodeError, Decoder, Encoded, JsonParser, Kind, Packet, Parser, Payload,
};
use tower_socketio::{Data, DisconnectReason, ErrorReply, Namespace, RawArgs, Socket, SocketIo};

use crate::objects::Objects;
use crate::support::{Client, Got, Polling, app, builder, serve, within};

/// Parses a message of [`Objects`].
fn object(message: &str) -> Value {
    let json = message.strip_prefix('4').unwrap_or(message);
    serde_json::from_str(json).expect("an object")
}

fn namespace() -> Namespace {
    Namespace::new()
        .on("echo", async |args: RawArgs| args)
        .on("all", async |io: SocketIo, args: RawArgs| {
            io.emit("all", args);
        })
        .on("ask", async |socket: Socket| {
            let answer = socket.emit_with_ack::<u32>("question", "why").await;
            socket.emit("answer", answer.expect("a number"));
        })
}

fn server(parser: impl Parser + 'static) -> axum::Router {
    let refuse = async || Err::<(), _>(ErrorReply::new("no").with_data(7));
    let (layer, _io) = builder(namespace())
        .namespace("/closed", Namespace::new().on_connect(refuse))
        .parser(parser)
        .build();
    app(layer)
}

#[tokio::test]
async fn a_custom_parser_serves_a_websocket() {
    let mut client = Client::open(serve(server(Objects)).await).await;
    let connected = object(&client.ask(r#"4{"type":0,"nsp":"/"}"#).await);
    assert_eq!(
        (&connected["type"], &connected["nsp"]),
        (&json!(0), &json!("/"))
    );
    assert_eq!(connected["data"]["sid"].as_str().expect("an id").len(), 20);

    let refused = object(&client.ask(r#"4{"type":0,"nsp":"/closed"}"#).await);
    let data = json!({"message": "no", "data": 7});
    assert_eq!(refused, json!({"type": 4, "nsp": "/closed", "data": data}));

    let echo = r#"4{"type":2,"nsp":"/","id":3,"data":["echo",1,{"a":"b"}]}"#;
    let answer = object(&client.ask(echo).await);
    assert_eq!(
        answer,
        json!({"type": 3, "nsp": "/", "id": 3, "data": [1, {"a": "b"}]})
    );

    let question = object(&client.ask(r#"4{"type":2,"nsp":"/","data":["ask"]}"#).await);
    assert_eq!(question["data"], json!(["question", "why"]));
    let answer = json!({"type": 3, "nsp": "/", "id": question["id"], "data": [42]});
    let heard = object(&client.ask(&format!("4{answer}")).await);
    assert_eq!(
        heard,
        json!({"type": 2, "nsp": "/", "data": ["answer", 42]})
    );

    client.send("42[\"echo\"]").await;
    assert!(matches!(client.closed().await, Got::Close(_)));
}

#[tokio::test]
async fn a_custom_parser_serves_polling() {
    let app = server(Objects);
    let (mut one, mut other) = (Polling::open(&app).await, Polling::open(&app).await);
    for client in [&mut one, &mut other] {
        let connected = object(&client.ask(r#"4{"type":0,"nsp":"/"}"#).await);
        assert_eq!(connected["type"], 0);
    }
    one.send(r#"4{"type":2,"nsp":"/","data":["all","x"]}"#)
        .await;
    for client in [&mut one, &mut other] {
        let heard = object(&client.next().await);
        assert_eq!(heard, json!({"type": 2, "nsp": "/", "data": ["all", "x"]}));
    }
}

/// A parser around another one that turns the numbers in incoming packets into strings.
#[derive(Debug)]
struct Revive<T>(T);

impl Parser for Revive<JsonParser> {
    fn encode(&self, packet: Packet) -> Encoded {
        self.0.encode(packet)
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(Revive(self.0.decoder()))
    }
}

impl Decoder for Revive<Box<dyn Decoder>> {
    fn decode(&mut self, message: Message) -> Result<Option<Packet>, DecodeError> {
        let Some(mut packet) = self.0.decode(message)? else {
            return Ok(None);
        };
        if packet.kind == Kind::Event {
            let mut args: Vec<Value> = serde_json::from_slice(packet.payload.json())
                .map_err(|_| DecodeError::new("not a list"))?;
            for number in args.iter_mut().filter(|arg| arg.is_number()) {
                *number = number.to_string().into();
            }
            let attachments = packet.payload.attachments().cloned().collect();
            let json = Value::from(args).to_string().into();
            packet.payload = Payload::from_json(packet.kind, json, attachments)?;
        }
        Ok(Some(packet))
    }

    fn is_partial(&self) -> bool {
        self.0.is_partial()
    }
}

#[tokio::test]
async fn a_parser_around_another_changes_incoming_packets() {
    let mut client = Polling::connect(&server(Revive(JsonParser::default()))).await;
    let answer = client.ask(r#"421["echo",1,"two",[3]]"#).await;
    assert_eq!(answer, r#"431["1","two",[3]]"#);
}

/// A parser that panics when it encodes or decodes an event with `boom` in it.
#[derive(Debug)]
struct Panicking<T>(T);

impl Parser for Panicking<JsonParser> {
    fn encode(&self, packet: Packet) -> Encoded {
        let json = String::from_utf8_lossy(packet.payload.json());
        assert!(!json.contains("boom"), "a fault of the parser");
        self.0.encode(packet)
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(Panicking(self.0.decoder()))
    }
}

impl Decoder for Panicking<Box<dyn Decoder>> {
    fn decode(&mut self, message: Message) -> Result<Option<Packet>, DecodeError> {
        if let Message::Text(text) = &message {
            assert!(!text.as_str().contains("boom"), "a fault of the decoder");
        }
        self.0.decode(message)
    }

    fn is_partial(&self) -> bool {
        self.0.is_partial()
    }
}

#[tokio::test]
async fn a_decoder_that_panics_closes_the_connection_as_a_violation() {
    let (gone, mut reasons) = mpsc::unbounded_channel();
    let main = namespace().on_disconnect(async move |reason: DisconnectReason| {
        let _ = gone.send(reason);
    });
    let parser = Panicking(JsonParser::default());
    let (layer, _io) = builder(main).parser(parser).build();
    let mut client = Client::connect(serve(app(layer)).await, "/").await;
    client.send(r#"42["boom"]"#).await;
    assert!(matches!(client.closed().await, Got::Close(Some(_))));
    let reason = within(reasons.recv()).await;
    assert_eq!(reason, Some(DisconnectReason::ForcedServerClose));
}

#[tokio::test]
async fn a_parser_that_panics_does_not_end_the_broker_of_a_cluster() {
    let memory = Memory::new();
    let server = |parser| {
        let builder = builder(namespace()).cluster(memory.clone());
        match parser {
            true => builder.parser(Panicking(JsonParser::default())).build(),
            false => builder.build(),
        }
    };
    let (_a, io) = server(false);
    let (b, of_b) = server(true);
    until_connected(&[&io, &of_b]).await;
    let mut client = Client::connect(serve(app(b)).await, "/").await;
    io.emit("boom", ());
    io.emit("n", 1);
    assert_eq!(client.text().await, r#"42["n",1]"#);
    let is_connected = |io: &SocketIo| io.cluster().expect("a cluster").status().is_connected;
    assert!(is_connected(&io) && is_connected(&of_b));
}

/// Waits until the servers of a cluster know of each other.
async fn until_connected(servers: &[&SocketIo]) {
    for io in servers {
        while io.server_count().await != Ok(servers.len()) {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn one_attachment_more_than_the_limit_closes() {
    let (gone, mut reasons) = mpsc::unbounded_channel();
    let main = namespace().on_disconnect(async move |reason: DisconnectReason| {
        let _ = gone.send(reason);
    });
    let parser = JsonParser::default().max_attachments(1);
    let (layer, _io) = builder(main).parser(parser).build();
    let mut client = Client::connect(serve(app(layer)).await, "/").await;

    client
        .send(r#"451-1["echo",{"_placeholder":true,"num":0}]"#)
        .await;
    client.send_binary(b"x").await;
    assert_eq!(
        client.text().await,
        r#"461-1[{"_placeholder":true,"num":0}]"#
    );
    assert_eq!(client.next().await, Got::Binary(b"x".to_vec()));

    client
        .send(r#"452-["echo",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#)
        .await;
    assert!(matches!(client.closed().await, Got::Close(Some(_))));
    let reason = within(reasons.recv()).await;
    assert_eq!(reason, Some(DisconnectReason::TooBig));
}

#[tokio::test]
async fn a_room_gets_the_other_arguments_unchanged() {
    let publish = async |io: SocketIo, args: RawArgs| {
        let (room, args) = args
            .split_first::<String>()
            .map_err(|error| error.to_string())?;
        io.to(room).emit("published", args);
        Ok::<_, String>(())
    };
    let join = async |socket: Socket, Data(room): Data<String>| socket.join(room);
    let main = Namespace::new().on("publish", publish).on("join", join);
    let addr = serve(app(builder(main).build().0)).await;
    let mut client = Client::connect(addr, "/").await;
    client.send(r#"42["join","a"]"#).await;
    client
        .send(r#"451-["publish","a",1,{"b":[{"_placeholder":true,"num":0}]}]"#)
        .await;
    client.send_binary(b"x").await;
    let expected = r#"451-["published",1,{"b":[{"_placeholder":true,"num":0}]}]"#;
    assert_eq!(client.text().await, expected);
    assert_eq!(client.next().await, Got::Binary(b"x".to_vec()));
}

#[cfg(feature = "msgpack")]
mod msgpack {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use tower_socketio::protocol::MsgpackParser;

    use super::*;

    const CONNECT: &[u8] = b"\x82\xa4type\x00\xa3nsp\xa1/";

    async fn binary(client: &mut Client) -> Vec<u8> {
        match client.next().await {
            Got::Binary(message) => message,
            other => panic!("bytes were expected, not {other:?}"),
        }
    }

    async fn connect(app: axum::Router) -> Client {
        let mut client = Client::open(serve(app).await).await;
        client.send_binary(CONNECT).await;
        let welcome = binary(&mut client).await;
        assert!(welcome.starts_with(b"\x83\xa4type\x00\xa4data\x81\xa3sid\xb4"));
        client
    }

    #[tokio::test]
    async fn packets_are_binary_messages_with_bytes_in_them() {
        let mut client = connect(server(MsgpackParser::default())).await;
        let echo = b"\x84\xa4type\x02\xa4data\x94\xa4echo\x01\xc4\x02ab\x91\xc4\x01c\xa2id\x05\xa3nsp\xa1/";
        client.send_binary(echo).await;
        assert_eq!(
            binary(&mut client).await,
            b"\x84\xa4type\x03\xa4data\x93\x01\xc4\x02ab\x91\xc4\x01c\xa2id\x05\xa3nsp\xa1/"
        );
        client
            .send_binary(b"\x82\xa4type\x00\xa3nsp\xa7/closed")
            .await;
        assert_eq!(
            binary(&mut client).await,
            b"\x83\xa4type\x04\xa4data\x82\xa7message\xa2no\xa4data\x07\xa3nsp\xa7/closed"
        );
    }

    #[tokio::test]
    async fn polling_has_the_messages_in_base64() {
        let mut client = Polling::open(&server(MsgpackParser::default())).await;
        let ask = |message: &[u8]| format!("b{}", STANDARD.encode(message));
        assert!(client.ask(&ask(CONNECT)).await.starts_with('b'));
        let echo = b"\x84\xa4type\x02\xa4data\x92\xa4echo\xc4\x01x\xa2id\x05\xa3nsp\xa1/";
        assert_eq!(
            client.ask(&ask(echo)).await,
            ask(b"\x84\xa4type\x03\xa4data\x91\xc4\x01x\xa2id\x05\xa3nsp\xa1/")
        );
    }

    #[tokio::test]
    async fn a_malformed_packet_closes() {
        for message in [
            &b"\xc1"[..],
            b"\x80",
            b"\x83\xa4type\x05\xa3nsp\xa1/\xa4data\x91\xa1e",
            b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data\xdd\xff\xff\xff\xff",
        ] {
            let mut client = connect(server(MsgpackParser::default())).await;
            client.send_binary(message).await;
            assert!(
                matches!(client.closed().await, Got::Close(_)),
                "{message:x?}"
            );
        }
        let mut client = connect(server(MsgpackParser::default())).await;
        client.send(r#"42["echo"]"#).await;
        assert!(matches!(client.closed().await, Got::Close(_)));
    }

    #[tokio::test]
    async fn too_many_binary_values_close() {
        let parser = MsgpackParser::default().max_attachments(1);
        let mut client = connect(server(parser)).await;
        client
            .send_binary(b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data\x93\xa4echo\xc4\0\xc4\0")
            .await;
        assert!(matches!(client.closed().await, Got::Close(Some((1009, _)))));
    }
}
