//! The connection of a test client: a task that translates between packets and a WebSocket.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt, future};
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite;

use super::{Disconnect, Incoming, Received};
use crate::engine_io::{EnginePacket, Message};
use crate::protocol::{self, Encoded, Kind, NamespaceName, Parser, Payload};
use crate::sync::Mutex;

/// The state that a client shares with its task.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) namespace: NamespaceName,
    parser: Arc<dyn Parser>,
    /// The waiters of acknowledgements, or `None` after the connection has ended.
    acks: Mutex<Option<HashMap<u64, oneshot::Sender<Payload>>>>,
}

/// An item that is sent without another in between.
pub(super) enum Outgoing {
    Packet(Encoded),
    Pong,
}

impl Wire {
    pub(super) fn new(namespace: NamespaceName, parser: Arc<dyn Parser>) -> Self {
        Self {
            namespace,
            parser,
            acks: Mutex::new(Some(HashMap::new())),
        }
    }

    pub(super) fn encode(&self, kind: Kind, ack: Option<u64>, payload: Payload) -> Outgoing {
        Outgoing::Packet(self.parser.encode(protocol::Packet {
            namespace: self.namespace.clone(),
            kind,
            ack,
            payload,
        }))
    }

    pub(super) fn expect_ack(&self, ack: u64) -> oneshot::Receiver<Payload> {
        let (sender, answer) = oneshot::channel();
        let mut acks = self.acks.lock();
        if let Some(acks) = &mut *acks {
            acks.insert(ack, sender);
        }
        answer
    }

    fn answer(&self, ack: u64, payload: Payload) {
        let mut acks = self.acks.lock();
        let waiter = acks.as_mut().and_then(|acks| acks.remove(&ack));
        // The waiter may have been dropped.
        let _ = waiter.map(|waiter| waiter.send(payload));
    }

    fn end_acks(&self) {
        *self.acks.lock() = None;
    }
}

/// Reads packets from the server.
pub(super) struct Reader {
    stream: SplitStream<WebSocketStream<DuplexStream>>,
    decoder: Box<dyn protocol::Decoder>,
    outgoing: mpsc::WeakUnboundedSender<Outgoing>,
    wire: Arc<Wire>,
}

impl Reader {
    pub(super) fn new(
        stream: SplitStream<WebSocketStream<DuplexStream>>,
        outgoing: mpsc::WeakUnboundedSender<Outgoing>,
        wire: &Arc<Wire>,
    ) -> Self {
        Self {
            stream,
            decoder: wire.parser.decoder(),
            outgoing,
            wire: Arc::clone(wire),
        }
    }

    /// Returns the next packet of the client's namespace, and answers pings before it.
    pub(super) async fn next(&mut self) -> Result<protocol::Packet, Disconnect> {
        loop {
            let packet = match self.stream.next().await {
                Some(Ok(tungstenite::Message::Text(text))) => {
                    EnginePacket::from_owned_text(Bytes::from(text)).map_err(violation)?
                }
                Some(Ok(tungstenite::Message::Binary(data))) => {
                    EnginePacket::Message(Message::Binary(data))
                }
                Some(Ok(tungstenite::Message::Close(frame))) => {
                    return Err(Disconnect::Closed {
                        code: frame.as_ref().map(|frame| frame.code.into()),
                        reason: frame.map_or_else(String::new, |frame| frame.reason.to_string()),
                    });
                }
                Some(Ok(_)) => continue,
                Some(Err(error)) => return Err(violation(error)),
                None => return Err(violation("the connection was lost")),
            };
            match packet {
                EnginePacket::Message(message) => {
                    let packet = self.decoder.decode(message).map_err(violation)?;
                    if let Some(packet) = packet.filter(|p| p.namespace == self.wire.namespace) {
                        return Ok(packet);
                    }
                }
                EnginePacket::Ping { .. } => {
                    let sender = self.outgoing.upgrade();
                    let _ = sender.map(|sender| sender.send(Outgoing::Pong));
                }
                _ => {}
            }
        }
    }

    async fn run(mut self, events: mpsc::UnboundedSender<Incoming>) {
        let disconnect = loop {
            let packet = match self.next().await {
                Ok(packet) => packet,
                Err(disconnect) => break disconnect,
            };
            match (packet.kind, packet.ack) {
                (Kind::Event, ack) => {
                    let received = Received {
                        payload: packet.payload,
                        ack,
                        wire: Arc::clone(&self.wire),
                        outgoing: self.outgoing.clone(),
                    };
                    let _ = events.send(Incoming::Event(received));
                }
                (Kind::Ack, Some(ack)) => self.wire.answer(ack, packet.payload),
                (Kind::Disconnect, _) => break Disconnect::ByServer,
                _ => {}
            }
        };
        self.wire.end_acks();
        let left_only = disconnect == Disconnect::ByServer;
        let _ = events.send(Incoming::Disconnect(disconnect));
        // The connection stays open. Continue to answer pings.
        while left_only && self.next().await.is_ok() {}
    }
}

fn violation(error: impl std::fmt::Display) -> Disconnect {
    Disconnect::Closed {
        code: None,
        reason: error.to_string(),
    }
}

/// Reads and writes until one side has closed the connection.
///
/// Reading does not wait for writing, nor writing for reading. Otherwise a server that does not
/// read while it writes would block both.
pub(super) async fn run(
    reader: Reader,
    writing: impl Future<Output = ()> + Unpin,
    events: mpsc::UnboundedSender<Incoming>,
) {
    let reading = pin!(reader.run(events));
    if let future::Either::Right((_, reading)) = future::select(reading, writing).await {
        // Read until the server has answered the close frame.
        reading.await;
    }
}

/// Writes until all senders have been dropped, and then closes the connection.
pub(super) async fn write(
    mut sink: SplitSink<WebSocketStream<DuplexStream>, tungstenite::Message>,
    mut outgoing: mpsc::UnboundedReceiver<Outgoing>,
) {
    while let Some(next) = outgoing.recv().await {
        let sent = match next {
            Outgoing::Pong => sink.send(tungstenite::Message::text("3")).await,
            Outgoing::Packet(packet) => send(&mut sink, packet).await,
        };
        if sent.is_err() {
            return;
        }
    }
    let _ = sink.close().await;
}

async fn send(
    sink: &mut SplitSink<WebSocketStream<DuplexStream>, tungstenite::Message>,
    packet: Encoded,
) -> tungstenite::Result<()> {
    for message in packet {
        let message = match message {
            Message::Text(text) => tungstenite::Message::text(format!("4{}", text.as_str())),
            Message::Binary(data) | Message::Uncompressed(data) => {
                tungstenite::Message::Binary(data)
            }
        };
        sink.send(message).await?;
    }
    Ok(())
}
