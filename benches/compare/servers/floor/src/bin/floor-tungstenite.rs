//! axum + hyper upgrade + tokio-tungstenite: one task a connection, which
//! flushes once for all that came together. What a server built on tungstenite can
//! hope to reach. WebSocket only. Usage: `floor-tungstenite PORT`.

use std::sync::Arc;

use floor::{
    Packet,
    session::{Hub, Upgraded, serve},
};
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        protocol::{Role, WebSocketConfig},
    },
};

struct Session {
    ws: WebSocketStream<Upgraded>,
    hub: Arc<Hub<Message>>,
    id: u64,
    sid: String,
    bin_ack: Option<String>,
}

impl Session {
    /// Handles one message; what it answers is fed and not flushed.
    async fn on_message(&mut self, message: Message) -> Result<(), Error> {
        match message {
            Message::Text(text) => match floor::parse(&text) {
                Packet::Connect => self.feed(floor::connect_packet(&self.sid)).await,
                Packet::Disconnect | Packet::Pong => Ok(()),
                Packet::Echo { id, args } => self.feed(format!("43{id}[{args}]")).await,
                Packet::EchoBin { id } => {
                    self.bin_ack = Some(floor::bin_ack(id));
                    Ok(())
                }
                Packet::Broadcast { payload } => {
                    let message = Message::text(format!("42[\"broadcast\",{payload}]"));
                    self.hub.to_all(&message);
                    Ok(())
                }
                Packet::Join { id, room } => {
                    self.hub.join(self.id, room);
                    self.feed(format!("43{id}[]")).await
                }
                Packet::Leave { id, room } => {
                    self.hub.leave_room(self.id, room);
                    self.feed(format!("43{id}[]")).await
                }
                Packet::Room { room, payload } => {
                    let message = Message::text(format!("42[\"room\",{payload}]"));
                    self.hub.to_room(room, &message);
                    Ok(())
                }
                Packet::Unknown => Err(Error::ConnectionClosed),
            },
            Message::Binary(data) => {
                let ack = self.bin_ack.take().ok_or(Error::ConnectionClosed)?;
                self.feed(ack).await?;
                self.ws.feed(Message::Binary(data)).await
            }
            // tungstenite queues the answering close frame itself.
            _ => Ok(()),
        }
    }

    async fn feed(&mut self, text: String) -> Result<(), Error> {
        self.ws.feed(Message::text(text)).await
    }

    async fn run(&mut self, inbox: &mut UnboundedReceiver<Message>) -> Result<(), Error> {
        loop {
            tokio::select! {
                biased;
                Some(message) = inbox.recv() => {
                    self.ws.feed(message).await?;
                }
                incoming = self.ws.next() => {
                    let message = incoming.ok_or(Error::ConnectionClosed)??;
                    self.on_message(message).await?;
                    // Those that came with it.
                    while let Some(incoming) = self.ws.next().now_or_never() {
                        let message = incoming.ok_or(Error::ConnectionClosed)??;
                        self.on_message(message).await?;
                    }
                }
            }
            while let Ok(message) = inbox.try_recv() {
                self.ws.feed(message).await?;
            }
            self.ws.flush().await?;
        }
    }
}

async fn session(io: Upgraded, hub: Arc<Hub<Message>>) {
    let config = WebSocketConfig::default().read_buffer_size(4096);
    let mut ws = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    let (open, sid) = floor::open_packet();
    if ws.send(Message::text(open)).await.is_err() {
        return;
    }
    let (id, mut inbox) = hub.enter();
    let mut session = Session {
        ws,
        hub: Arc::clone(&hub),
        id,
        sid,
        bin_ack: None,
    };
    session.run(&mut inbox).await.ok();
    hub.leave(id);
}

#[tokio::main]
async fn main() {
    let hub = Hub::start(Message::text("2"));
    serve(floor::port_argument(), move |io| {
        session(io, Arc::clone(&hub))
    })
    .await;
}
