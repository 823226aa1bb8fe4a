//! The scenarios: what the clients of each one do.

use std::time::Duration;

use axum::Router;
use serde_json::Value;
use tower_socketio::admin::AdminUi;
use tower_socketio::protocol::{JsonParser, MsgpackParser};
use tower_socketio::{
    Data, Namespace, Presence, RawArgs, Recovery, Socket, SocketIo, SocketIoBuilder,
};

use super::client::{Polling, WebSocket, compressed, fragment, frame};
use super::{Meter, Scenario};

macro_rules! scenarios {
    ($($name:literal => $run:ident,)*) => {
        pub(crate) const SCENARIOS: &[Scenario] =
            &[$(Scenario { name: $name, run: |meter| Box::pin($run(meter)) }),*];
    };
}

scenarios! {
    "a body of 60 000 events" => post_events,
    "a body of 500 000 noops" => post_noops,
    "a body of 300 000 pongs of revision 3" => post_eio3,
    "a body of 200 000 CONNECTs to unknown namespaces" => post_connects,
    "a body of 100 000 CONNECTs and DISCONNECTs" => post_joins,
    "a body of base64" => post_base64,
    "events of 1 MB" => large_events,
    "1 MB of arrays, 120 deep" => deep_json,
    "1 MB of empty arrays" => flat_json,
    "1 MB of objects with one member" => object_json,
    "1 MB of objects, read as `serde_json::Value` by the handler (without a gate)" => value_json,
    "1 MB of text that must be escaped" => escaped_json,
    "events with ten attachments" => attachments,
    "1 MB of MessagePack, small values" => msgpack_small,
    "1 MB of MessagePack, deep" => msgpack_deep,
    "130 000 fragments" => fragments,
    "170 000 WebSocket pings" => pings,
    "400 frames that inflate to 1 MB" => inflating,
    "400 noops that inflate to 1 MB" => inflating_noops,
    "inflated events of 1 MB" => inflating_events,
    "small events that each take 0.1 ms" => slow_events,
    "acknowledgements that nobody awaits" => acks,
    "a broadcast of 1 MB to 10 000 clients" => large_broadcast,
    "20 000 broadcasts of one client to 2 000" => many_broadcasts,
    "the rooms of 2 000 clients change" => room_churn,
    "a client joins and leaves 1 000 rooms" => many_rooms,
    "10 000 clients are gone at once" => gone,
    "10 000 sockets are disconnected" => disconnected,
    "a server with 10 000 clients closes" => closed,
    "a server with 10 000 clients shuts down" => shut_down,
    "a client comes back to 16 MiB" => recovered,
    "1 000 clients become present in one room, 100 at a time" => presence,
    "an Admin UI beside 1 000 clients" => admin,
}

const MEGABYTE: usize = 1_000_000;

fn app_of(builder: SocketIoBuilder) -> (Router, SocketIo) {
    let (layer, io) = builder.build();
    (Router::new().layer(layer), io)
}

async fn echo(args: RawArgs) -> RawArgs {
    args
}

async fn value(Data(value): Data<Value>) -> Value {
    value
}

async fn everyone(io: SocketIo, args: RawArgs) {
    io.emit("text", args);
}

async fn join(socket: Socket, Data(room): Data<String>) {
    socket.join(room.clone());
    socket.leave(room);
}

async fn many(socket: Socket) {
    (0..1_000).for_each(|n| socket.join(format!("room-{n}")));
    (0..1_000).for_each(|n| socket.leave(format!("room-{n}")));
}

/// A handler that needs the CPU for a while.
async fn slow() {
    let begin = cpu_time::ThreadTime::now();
    while begin.elapsed() < Duration::from_micros(100) {}
}

fn main() -> Namespace {
    Namespace::new()
        .on("echo", echo)
        .on("value", value)
        .on("everyone", everyone)
        .on("join", join)
        .on("many", many)
        .on("slow", slow)
}

fn builder() -> SocketIoBuilder {
    SocketIo::builder()
        .namespace("/", main())
        .namespace("/dynamic/{name}", Namespace::new())
}

fn app() -> (Router, SocketIo) {
    app_of(builder())
}

/// Returns a body that repeats a packet, up to 1 MB.
fn body(packet: &str) -> String {
    let count = MEGABYTE / (packet.len() + 1);
    vec![packet; count].join("\x1e")
}

async fn post_to(meter: Meter, app: &Router, query: &str, connects: bool, body: String) {
    let client = match connects {
        true => Polling::connect(app).await,
        false => Polling::open(app, query).await,
    };
    meter.start().await;
    let post = client.post(body);
    let polls = async {
        loop {
            if client.get().await.is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    tokio::select! {
        () = post => {}
        () = polls => {}
    }
    meter.stop().await;
}

async fn post_events(meter: Meter) {
    post_to(meter, &app().0, "EIO=4", true, body(r#"42["echo",1]"#)).await;
}

async fn post_noops(meter: Meter) {
    post_to(meter, &app().0, "EIO=4", true, body("6")).await;
}

async fn post_eio3(meter: Meter) {
    let (app, _io) = app_of(builder().allow_eio3(true));
    post_to(meter, &app, "EIO=3", false, "1:6".repeat(MEGABYTE / 3)).await;
}

async fn post_connects(meter: Meter) {
    post_to(meter, &app().0, "EIO=4", true, body("40/x")).await;
}

async fn post_joins(meter: Meter) {
    let packets = "40/dynamic/a,\x1e41/dynamic/a,";
    post_to(meter, &app().0, "EIO=4", true, body(packets)).await;
}

async fn post_base64(meter: Meter) {
    let head = r#"451-["echo",{"_placeholder":true,"num":0}]"#;
    let packets = format!("{head}\x1eb{}", "A".repeat(4_000));
    post_to(meter, &app().0, "EIO=4", true, body(&packets)).await;
}

/// Sends a message five times, and waits for the answer each time.
async fn exchange(meter: Meter, mut client: WebSocket, message: &[u8], answer: &[u8]) {
    meter.start().await;
    for _ in 0..5 {
        client.write(message).await;
        client.until(answer).await;
    }
    meter.stop().await;
}

async fn exchange_text(meter: Meter, text: &str) {
    let client = WebSocket::connect(&app().0).await;
    exchange(meter, client, &frame(1, text.as_bytes()), b"43").await;
}

/// Returns an event whose argument repeats a text, up to `max_payload`.
fn event(name: &str, begin: &str, repeated: &str, between: &str, end: &str) -> String {
    let room = MEGABYTE - 100 - name.len() - begin.len() - end.len();
    let count = room / (repeated.len() + between.len());
    let inner = vec![repeated; count].join(between);
    format!(r#"427["{name}",{begin}{inner}{end}]"#)
}

async fn large_events(meter: Meter) {
    exchange_text(meter, &event("echo", "\"", "x", "", "\"")).await;
}

async fn deep_json(meter: Meter) {
    let deep = format!("{}{}", "[".repeat(120), "]".repeat(120));
    exchange_text(meter, &event("echo", "[", &deep, ",", "]")).await;
}

async fn flat_json(meter: Meter) {
    exchange_text(meter, &event("echo", "[", "[]", ",", "]")).await;
}

async fn object_json(meter: Meter) {
    exchange_text(meter, &event("echo", "[", r#"{"":0}"#, ",", "]")).await;
}

async fn value_json(meter: Meter) {
    exchange_text(meter, &event("value", "[", r#"{"":0}"#, ",", "]")).await;
}

async fn escaped_json(meter: Meter) {
    exchange_text(meter, &event("echo", "\"", r"\u0001", "", "\"")).await;
}

async fn attachments(meter: Meter) {
    let parser = JsonParser::default().max_attachment_bytes(10 * MEGABYTE);
    let (app, _io) = app_of(builder().parser(parser));
    let client = WebSocket::connect(&app).await;
    let places: Vec<_> = (0..10)
        .map(|n| format!(r#"{{"_placeholder":true,"num":{n}}}"#))
        .collect();
    let head = format!(r#"4510-7["echo",{}]"#, places.join(","));
    let mut message = frame(1, head.as_bytes());
    for _ in 0..10 {
        message.extend(frame(2, &vec![7; MEGABYTE - 100]));
    }
    exchange(meter, client, &message, b"461").await;
}

/// Returns an event in MessagePack: `["echo", <argument>]`.
fn msgpack_event(argument: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x84, 0xa4];
    packet.extend(b"type");
    packet.extend([2, 0xa3]);
    packet.extend(b"nsp");
    packet.extend([0xa1, b'/', 0xa2]);
    packet.extend(b"id");
    packet.extend([7, 0xa4]);
    packet.extend(b"data");
    packet.extend([0x92, 0xa4]);
    packet.extend(b"echo");
    packet.extend(argument);
    packet
}

async fn msgpack(meter: Meter, argument: &[u8]) {
    let (app, _io) = app_of(builder().parser(MsgpackParser::default()));
    let mut connect = vec![0x82, 0xa4];
    connect.extend(b"type");
    connect.extend([0, 0xa3]);
    connect.extend(b"nsp");
    connect.extend([0xa1, b'/']);
    let client = WebSocket::join(&app, &connect).await;
    exchange(meter, client, &frame(2, &msgpack_event(argument)), &[0x84]).await;
}

async fn msgpack_small(meter: Meter) {
    let count = MEGABYTE - 100;
    let mut argument = vec![0xdd];
    argument.extend((count as u32).to_be_bytes());
    argument.resize(5 + count, 0x90);
    msgpack(meter, &argument).await;
}

async fn msgpack_deep(meter: Meter) {
    let count = (MEGABYTE - 100) / 110;
    let mut argument = vec![0xdd];
    argument.extend((count as u32).to_be_bytes());
    for _ in 0..count {
        argument.extend([0x91; 109]);
        argument.push(0x90);
    }
    msgpack(meter, &argument).await;
}

/// Writes all frames at once. The answers are not read.
async fn write(meter: Meter, mut client: WebSocket, frames: Vec<u8>) {
    meter.start().await;
    // The stream has room for 1 MB of answers.
    client.write(&frames).await;
    meter.stop().await;
}

async fn fragments(meter: Meter) {
    let client = WebSocket::connect(&app().0).await;
    let mut frames = fragment(1, b"4");
    frames.extend(fragment(0, b"2").repeat(130_000));
    write(meter, client, frames).await;
}

async fn pings(meter: Meter) {
    let client = WebSocket::connect(&app().0).await;
    write(meter, client, frame(9, b"").repeat(170_000)).await;
}

async fn deflating() -> WebSocket {
    let (app, _io) = app_of(builder().deflate_threshold(1_024));
    let line = "sec-websocket-extensions: permessage-deflate\r\n";
    let mut client = WebSocket::open_with(&app, line).await;
    client.send("40").await;
    client.until(b"40").await;
    client
}

async fn inflating(meter: Meter) {
    let client = deflating().await;
    let packet = compressed(format!("3{}", "x".repeat(MEGABYTE - 10)).as_bytes());
    write(meter, client, packet.repeat(400)).await;
}

async fn inflating_noops(meter: Meter) {
    let client = deflating().await;
    let packet = compressed(format!("6{}", "x".repeat(MEGABYTE - 10)).as_bytes());
    write(meter, client, packet.repeat(400)).await;
}

async fn inflating_events(meter: Meter) {
    let client = deflating().await;
    let event = event("none", "[", "[]", ",", "]").replace("427", "42");
    write(meter, client, compressed(event.as_bytes()).repeat(100)).await;
}

async fn slow_events(meter: Meter) {
    let client = WebSocket::connect(&app().0).await;
    write(meter, client, frame(1, br#"42["slow"]"#).repeat(10_000)).await;
}

async fn acks(meter: Meter) {
    let client = WebSocket::connect(&app().0).await;
    write(meter, client, frame(1, b"431[]").repeat(100_000)).await;
}

/// Connects many clients to the main namespace.
async fn crowd(app: &Router, count: usize) -> Vec<WebSocket> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(WebSocket::connect_small(app).await);
    }
    clients
}

async fn large_broadcast(meter: Meter) {
    let (app, io) = app();
    let mut clients = crowd(&app, 10_000).await;
    let text = "x".repeat(MEGABYTE);
    meter.start().await;
    let handle = io.clone();
    let emit = tokio::spawn(async move { handle.emit("text", text) });
    emit.await.expect("no panic");
    for client in clients.iter_mut().step_by(100) {
        client.until(b"42").await;
    }
    meter.stop().await;
}

async fn many_broadcasts(meter: Meter) {
    let (app, _io) = app();
    let mut clients = crowd(&app, 2_000).await;
    let mut sender = clients.remove(0);
    meter.start().await;
    let events = frame(1, br#"42["everyone",1]"#).repeat(20_000);
    let send = tokio::spawn(async move {
        sender.write(&events).await;
        // The sender reads its broadcasts, or the server would close it as a slow consumer.
        let mut buf = vec![0; 1 << 16];
        while sender.skip(&mut buf).await {}
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    meter.stop().await;
    send.abort();
}

async fn room_churn(meter: Meter) {
    let (app, io) = app();
    let mut clients = crowd(&app, 2_000).await;
    meter.start().await;
    for _ in 0..5 {
        for client in &mut clients {
            client.send(r#"421["join","room"]"#).await;
        }
        io.to("room").emit("text", 1);
        for client in &mut clients {
            client.until(b"431").await;
        }
    }
    let handle = io.clone();
    let all = tokio::spawn(async move {
        handle.of("/").join("room");
        handle.of("/").leave("room");
    });
    all.await.expect("no panic");
    meter.stop().await;
}

async fn many_rooms(meter: Meter) {
    let client = WebSocket::connect(&app().0).await;
    exchange(meter, client, &frame(1, br#"421["many"]"#), b"431").await;
}

async fn gone(meter: Meter) {
    let (app, io) = app();
    let clients = crowd(&app, 10_000).await;
    meter.start().await;
    drop(clients);
    until_empty(&io).await;
    meter.stop().await;
}

async fn until_empty(io: &SocketIo) {
    while io.counts().sessions > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn disconnected(meter: Meter) {
    let (app, io) = app();
    let clients = crowd(&app, 10_000).await;
    meter.start().await;
    let handle = io.clone();
    let all = tokio::spawn(async move { handle.of("/").disconnect() });
    all.await.expect("no panic");
    while io.counts().sockets > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    meter.stop().await;
    drop(clients);
}

async fn closed(meter: Meter) {
    let (app, io) = app();
    let clients = crowd(&app, 10_000).await;
    meter.start().await;
    let handle = io.clone();
    let close = tokio::spawn(async move { handle.close().await });
    drop(clients);
    close.await.expect("no panic");
    meter.stop().await;
}

async fn shut_down(meter: Meter) {
    let (app, io) = app();
    let mut clients = crowd(&app, 10_000).await;
    meter.start().await;
    let handle = io.clone();
    let ended = tokio::spawn(async move { handle.shutdown().await });
    for client in &mut clients {
        client.end().await;
    }
    drop(clients);
    ended.await.expect("no panic");
    meter.stop().await;
}

async fn recovered(meter: Meter) {
    let recovery = Recovery::within(Duration::from_secs(60));
    let (app, io) = app_of(builder().recovery(recovery));
    let mut client = WebSocket::open(&app).await;
    client.send("40").await;
    let welcome = String::from_utf8(client.frame().await).expect("text");
    let welcome: Value = serde_json::from_str(&welcome[2..]).expect("JSON");
    io.emit("text", "first");
    let first = String::from_utf8(client.frame().await).expect("text");
    let first: Value = serde_json::from_str(&first[2..]).expect("JSON");
    drop(client);
    while io.counts().sockets > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..80_000 {
        io.emit("text", "0123456789");
    }
    let claim = format!(r#"40{{"pid":{},"offset":{}}}"#, welcome["pid"], first[2]);
    let mut client = WebSocket::open(&app).await;
    meter.start().await;
    client.send(&claim).await;
    client.until(b"40").await;
    meter.stop().await;
}

async fn presence(meter: Meter) {
    let presence = Presence::<String>::new();
    let tracker = presence.clone();
    let enter = async move |socket: Socket| {
        let id = socket.id().to_string();
        tracker.track(&socket, "room", &id, &id).map_err(|_| "full")
    };
    let namespace = Namespace::new().on("enter", enter).presence(&presence);
    let (app, _io) = app_of(SocketIo::builder().namespace("/", namespace).with_state(()));
    let mut clients = crowd(&app, 1_000).await;
    meter.start().await;
    // 1 000 events at once would be ready together, and their work alone exceeds the gate.
    for group in clients.chunks_mut(100) {
        for client in &mut *group {
            client.send(r#"421["enter"]"#).await;
        }
        for client in group {
            client.until(b"431").await;
        }
    }
    drop(clients);
    tokio::time::sleep(Duration::from_secs(8)).await;
    meter.stop().await;
}

async fn admin(meter: Meter) {
    // The lowest cost of bcrypt: the scenario does not measure the hash.
    let hash = bcrypt::hash("sesame", 4).expect("a hash");
    let (app, io) = app_of(builder().admin(AdminUi::basic("ada", &hash)));
    let mut clients = crowd(&app, 1_000).await;
    meter.start().await;
    let login = r#"40/admin,{"username":"ada","password":"sesame"}"#;
    let mut page = WebSocket::join(&app, login.as_bytes()).await;
    page.until(br#"42/admin,["all_sockets""#).await;
    for _ in 0..20 {
        for client in &mut clients {
            client.send(r#"42["join","room"]"#).await;
        }
    }
    io.emit("text", "x");
    tokio::time::sleep(Duration::from_secs(3)).await;
    meter.stop().await;
}
