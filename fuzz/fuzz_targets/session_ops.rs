//! Operations on an Engine.IO session, in any order and at any time.

#![no_main]

use std::sync::Arc;
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use tower_socketio::engine::{CloseReason, Config, Revision, SessionId, Text, Transport};
use tower_socketio::internals::{EnginePacket, Session, SessionEvent};

#[derive(Arbitrary, Debug)]
enum Op {
    Wait(u16),
    Poll,
    Answer,
    AbortPoll,
    Post,
    EndPost,
    Upgrade,
    EnginePacket { websocket: bool, text: Vec<u8> },
    Gone { websocket: bool },
    Send(u16),
    Consume(u16),
    Blocked,
    Progress,
    Close,
}

const fn transport(websocket: bool) -> Transport {
    if websocket {
        Transport::WebSocket
    } else {
        Transport::Polling
    }
}

fuzz_target!(|input: (bool, bool, Vec<Op>)| {
    let (websocket, old, ops) = input;
    let revision = if old { Revision::V3 } else { Revision::V4 };
    let mut config = Config::default();
    config.allow_eio3 = true;
    config.max_buffered = 200_000;
    let config = Arc::new(config);
    // The message that exceeds `max_buffered` is queued too.
    let limit = config.max_buffered + usize::from(u16::MAX);
    let mut now = Instant::now();
    let sid = SessionId::new([0; 16]);
    let mut session = Session::open(config, &sid, transport(websocket), revision, now);
    let mut closed = false;
    let mut waiting = 0;
    for op in ops {
        match op {
            Op::Wait(millis) => {
                now += Duration::from_millis(millis.into());
                session.handle_timeout(now);
            }
            Op::Poll => drop(session.handle_poll(now)),
            Op::Answer => session.handle_poll_answered(),
            Op::AbortPoll => session.handle_poll_aborted(now),
            Op::Post => drop(session.handle_post(now)),
            Op::EndPost => session.handle_post_end(now),
            Op::Upgrade => drop(session.handle_upgrade_request(now)),
            Op::EnginePacket { websocket, text } => {
                if let Ok(packet) = EnginePacket::from_text(&text) {
                    session.handle_packet(transport(websocket), packet, now);
                }
            }
            Op::Gone { websocket } => session.handle_transport_closed(transport(websocket), now),
            Op::Send(len) => {
                let text = "x".repeat(len.into());
                session.send(Text::from(&*text).into(), now);
                waiting += text.len();
            }
            Op::Consume(cost) => session.handle_consumed(cost.into()),
            Op::Blocked => session.handle_blocked(now),
            Op::Progress => session.handle_progress(),
            Op::Close => session.close(CloseReason::ServerClose, now),
        }
        for via in [Transport::WebSocket, Transport::Polling] {
            while let Some(packet) = session.poll_transmit(via) {
                if let EnginePacket::Message(_) = packet {
                    waiting = 0;
                }
            }
        }
        while let Some(event) = session.poll_event() {
            assert!(!closed, "an event after the close event");
            closed = matches!(event, SessionEvent::Closed(_));
        }
        assert_eq!(closed, !session.is_open(), "close event and state differ");
        assert!(closed || waiting <= limit, "a send queue over its limit");
    }
    // The caller of the session ends a POST whose body does not arrive.
    session.handle_post_end(now);
    // After any operations, the session of a silent client ends.
    for _ in 0..1000 {
        let Some(at) = session.poll_timeout() else {
            break;
        };
        now = now.max(at);
        session.handle_timeout(now);
        while session.poll_transmit(Transport::WebSocket).is_some() {}
        while session.poll_event().is_some() {}
    }
    assert!(!session.is_open(), "a silent client's session stays open");
});
