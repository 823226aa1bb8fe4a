use super::upgrade::PROBE_GRACE;
use super::*;
use crate::engine_io::Text;
use Transport::{Polling, WebSocket};

const PING: EnginePacket = EnginePacket::Ping { probe: false };
const PONG: EnginePacket = EnginePacket::Pong { probe: false };
const PROBE: EnginePacket = EnginePacket::Ping { probe: true };
const PROBED: EnginePacket = EnginePacket::Pong { probe: true };

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn session(transport: Transport, config: Config) -> (Session, Instant) {
    session_of(Revision::V4, transport, config)
}

fn session_of(revision: Revision, transport: Transport, config: Config) -> (Session, Instant) {
    let now = Instant::now();
    let sid = SessionId::new([0; 16]);
    let mut session = Session::open(Arc::new(config), &sid, transport, revision, now);
    if transport == Polling {
        session.handle_poll(now).expect("the first poll");
    }
    assert!(matches!(
        session.poll_transmit(transport),
        Some(EnginePacket::Open(_))
    ));
    session.handle_poll_answered();
    (session, now)
}

fn polling() -> (Session, Instant) {
    session(Polling, Config::default())
}

fn text(text: &str) -> Message {
    Text::from(text).into()
}

fn message(content: &str) -> EnginePacket {
    EnginePacket::Message(text(content))
}

fn drain(session: &mut Session, via: Transport) -> Vec<EnginePacket> {
    std::iter::from_fn(|| session.poll_transmit(via)).collect()
}

fn poll(session: &mut Session, now: Instant) -> Vec<EnginePacket> {
    session.handle_poll(now).expect("a poll");
    let packets = drain(session, Polling);
    if !packets.is_empty() {
        session.handle_poll_answered();
    }
    packets
}

fn closed(session: &mut Session) -> Option<CloseReason> {
    std::iter::from_fn(|| session.poll_event()).find_map(|event| match event {
        SessionEvent::Closed(reason) => Some(reason),
        _ => None,
    })
}

#[test]
fn the_open_packet_has_the_five_keys_in_their_order() {
    let sid = SessionId::new([0; 16]);
    let json = Config::default().open_packet(&sid, Polling);
    assert_eq!(
        json,
        r#"{"sid":"AAAAAAAAAAAAAAAAAAAAAA","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#
    );
    let json = Config::default().open_packet(&sid, WebSocket);
    assert!(json.windows(13).any(|part| part == br#""upgrades":[]"#));
}

#[test]
fn a_ping_follows_each_pong_and_a_missing_pong_ends_the_session() {
    let (mut s, t) = session(WebSocket, Config::default());
    s.handle_timeout(t + ms(24_999));
    assert_eq!(drain(&mut s, WebSocket), []);
    s.handle_timeout(t + ms(25_000));
    assert_eq!(drain(&mut s, WebSocket), [PING]);
    s.handle_packet(WebSocket, PONG, t + ms(30_000));
    assert_eq!(s.poll_timeout(), Some(t + ms(55_000)));
    s.handle_timeout(t + ms(55_000));
    s.handle_timeout(t + ms(74_999));
    assert!(s.is_open());
    s.handle_timeout(t + ms(75_000));
    assert_eq!(closed(&mut s), Some(CloseReason::PingTimeout));
}

#[test]
fn unsolicited_pongs_do_not_delay_the_ping() {
    let (mut s, t) = session(WebSocket, Config::default());
    s.handle_packet(WebSocket, PONG, t + ms(24_000));
    s.handle_timeout(t + ms(25_000));
    assert_eq!(drain(&mut s, WebSocket), [PING]);
}

#[test]
fn a_ping_from_the_client_ends_the_session() {
    let (mut s, t) = session(WebSocket, Config::default());
    s.handle_packet(WebSocket, PING, t);
    assert_eq!(closed(&mut s), Some(CloseReason::TransportError));
}

#[test]
fn in_revision_3_the_client_pings_and_its_silence_ends_the_session() {
    let (mut s, t) = session_of(Revision::V3, WebSocket, Config::default());
    s.handle_timeout(t + ms(44_999));
    assert!(s.is_open());
    assert_eq!(drain(&mut s, WebSocket), []);
    s.handle_packet(WebSocket, PING, t + ms(44_999));
    assert_eq!(drain(&mut s, WebSocket), [PONG]);
    s.handle_packet(WebSocket, message("no heartbeat"), t + ms(60_000));
    s.handle_timeout(t + ms(89_998));
    assert!(s.is_open());
    s.handle_timeout(t + ms(89_999));
    assert_eq!(closed(&mut s), Some(CloseReason::PingTimeout));
}

#[test]
fn in_revision_3_the_data_before_a_ping_is_limited() {
    for (pings, is_open) in [(false, false), (true, true)] {
        let (mut s, t) = session_of(Revision::V3, WebSocket, Config::default());
        let busy = "x".repeat(1_000_000);
        for _ in 0..65 {
            s.handle_packet(WebSocket, message(&busy), t + ms(10_000));
        }
        if pings {
            s.handle_packet(WebSocket, PING, t + ms(10_000));
        }
        s.handle_partial();
        s.handle_timeout(t + ms(55_000));
        assert_eq!(s.is_open(), is_open);
    }
}

#[test]
fn in_revision_3_the_answer_to_a_ping_has_no_data() {
    let (mut s, t) = session_of(Revision::V3, WebSocket, Config::default());
    s.handle_packet(WebSocket, PROBE, t);
    assert_eq!(drain(&mut s, WebSocket), [PONG]);
}

#[test]
fn in_revision_3_a_pong_from_the_client_ends_the_session() {
    let (mut s, t) = session_of(Revision::V3, WebSocket, Config::default());
    s.handle_packet(WebSocket, PONG, t);
    assert_eq!(closed(&mut s), Some(CloseReason::TransportError));
}

#[test]
fn in_revision_3_an_upgraded_session_sends_its_pong_on_the_new_transport() {
    let (mut s, t) = session_of(Revision::V3, Polling, Config::default());
    s.handle_packet(Polling, PING, t + ms(10_000));
    s.handle_upgrade_request(t + ms(10_000))
        .expect("an upgrade");
    s.handle_packet(WebSocket, PROBE, t + ms(10_000));
    assert_eq!(drain(&mut s, WebSocket), [PROBED]);
    s.handle_packet(WebSocket, EnginePacket::Upgrade, t + ms(10_000));
    assert_eq!(drain(&mut s, WebSocket), [PONG]);
    s.handle_timeout(t + ms(54_999));
    assert!(s.is_open());
    s.handle_timeout(t + ms(55_000));
    assert_eq!(closed(&mut s), Some(CloseReason::PingTimeout));
}

#[test]
fn in_revision_3_a_client_whose_pings_are_not_read_gets_more_time() {
    let config = Config {
        max_pending: 1,
        ..Config::default()
    };
    for transport in [WebSocket, Polling] {
        let (mut s, t) = session_of(Revision::V3, transport, config.clone());
        s.handle_packet(transport, message("work"), t);
        assert!(!s.wants_read());
        s.handle_timeout(t + ms(45_000));
        assert!(s.is_open());
        // An unrequested pong shows whether the client still reads.
        if transport == WebSocket {
            assert_eq!(drain(&mut s, WebSocket), [PONG]);
            s.handle_consumed(Session::cost(&text("work")));
        }
        s.handle_timeout(t + ms(89_999));
        assert!(s.is_open());
        s.handle_timeout(t + ms(90_000));
        assert_eq!(closed(&mut s), Some(CloseReason::PingTimeout));
    }
}

#[test]
fn messages_sent_while_upgrading_arrive_on_the_new_transport_in_order() {
    let (mut s, t) = polling();
    assert_eq!(poll(&mut s, t), []);
    s.handle_upgrade_request(t).expect("an upgrade");
    s.handle_packet(WebSocket, PROBE, t);
    assert_eq!(drain(&mut s, WebSocket), [PROBED]);
    assert_eq!(drain(&mut s, Polling), []);
    s.handle_timeout(t + PROBE_GRACE);
    assert_eq!(drain(&mut s, Polling), [EnginePacket::Noop]);
    s.handle_poll_answered();
    s.send(text("a"), t);
    s.send(text("b"), t);
    assert_eq!(drain(&mut s, WebSocket), []);
    s.handle_packet(WebSocket, EnginePacket::Upgrade, t);
    assert_eq!(s.transport(), WebSocket);
    assert_eq!(drain(&mut s, WebSocket), [message("a"), message("b")]);
    assert_eq!(s.handle_poll(t), Err(Refusal::BadRequest));
    assert_eq!(s.handle_upgrade_request(t), Err(Refusal::BadRequest));
}

#[test]
fn a_poll_during_an_upgrade_is_released_soon() {
    let (mut s, t) = polling();
    s.handle_upgrade_request(t).expect("an upgrade");
    s.handle_packet(WebSocket, PROBE, t);
    assert_eq!(poll(&mut s, t), []);
    s.handle_timeout(t + ms(100));
    assert_eq!(drain(&mut s, Polling), [EnginePacket::Noop]);
}

#[test]
fn a_pending_poll_is_released_when_the_upgrade_ends() {
    let (mut s, t) = polling();
    s.handle_upgrade_request(t).expect("an upgrade");
    s.handle_packet(WebSocket, PROBE, t);
    assert_eq!(poll(&mut s, t), []);
    s.handle_packet(WebSocket, EnginePacket::Upgrade, t);
    assert_eq!(drain(&mut s, Polling), [EnginePacket::Noop]);
}

/// A session whose client has the pong to its probe, and polls no more.
fn probed() -> (Session, Instant) {
    let (mut s, t) = polling();
    s.handle_upgrade_request(t).expect("an upgrade");
    s.handle_packet(WebSocket, PROBE, t);
    assert_eq!(drain(&mut s, WebSocket), [PROBED]);
    (s, t)
}

#[test]
fn a_closing_server_waits_for_a_client_that_upgrades() {
    for reason in [
        CloseReason::ServerClose,
        CloseReason::Shutdown,
        CloseReason::Violation,
    ] {
        let (mut s, t) = probed();
        s.send(text("last"), t);
        s.close(reason, t);
        assert!(!s.finished(WebSocket));
        assert_eq!(drain(&mut s, WebSocket), []);
        s.handle_packet(WebSocket, EnginePacket::Upgrade, t + ms(40));
        assert_eq!(drain(&mut s, WebSocket), [message("last")]);
        assert!(s.finished(WebSocket));
        assert_eq!(s.poll_event(), Some(SessionEvent::Closed(reason)));
        assert_eq!(s.poll_event(), None);
        s.handle_timeout(t + ms(5_040));
        assert!(s.is_closed());
    }
}

#[test]
fn a_closing_server_waits_no_longer_than_the_upgrade_timeout() {
    let (mut s, t) = probed();
    s.send(text("last"), t);
    s.close(CloseReason::ServerClose, t);
    s.handle_timeout(t + ms(9_999));
    assert!(!s.finished(WebSocket));
    s.handle_timeout(t + ms(10_000));
    assert!(s.finished(WebSocket));
    // The client may have abandoned the upgrade.
    assert_eq!(poll(&mut s, t + ms(10_000)), [message("last")]);
    assert_eq!(poll(&mut s, t + ms(10_000)), [EnginePacket::Close]);
    assert!(s.is_closed());
}

#[test]
fn a_client_that_still_polls_gets_the_close_by_its_poll() {
    let (mut s, t) = polling();
    s.handle_upgrade_request(t).expect("an upgrade");
    s.handle_packet(WebSocket, PROBE, t);
    s.send(text("last"), t);
    s.close(CloseReason::ServerClose, t);
    assert!(s.finished(WebSocket));
    assert_eq!(poll(&mut s, t), [message("last")]);
    assert_eq!(poll(&mut s, t), [EnginePacket::Close]);
}

#[test]
fn an_abrupt_end_does_not_wait_for_an_upgrade() {
    let (mut s, t) = probed();
    s.close(CloseReason::ParseError, t);
    assert!(s.finished(WebSocket));
    s.handle_packet(WebSocket, EnginePacket::Upgrade, t);
    assert_eq!(s.transport(), Polling);
}

#[test]
fn a_closing_server_uses_the_poll_when_the_probe_breaks() {
    let (mut s, t) = probed();
    s.send(text("last"), t);
    s.close(CloseReason::ServerClose, t);
    s.handle_transport_closed(WebSocket, t + ms(10));
    assert_eq!(poll(&mut s, t + ms(20)), [message("last")]);
    s.handle_timeout(t + ms(5_010));
    assert!(s.is_closed());
}

#[test]
fn a_websocket_whose_upgrade_has_ended_does_not_delay_the_end() {
    let (mut s, t) = probed();
    s.close(CloseReason::ServerClose, t);
    for at in [10, 3_000, 5_009] {
        s.handle_transport_closed(WebSocket, t + ms(at));
        assert!(!s.is_closed());
    }
    s.handle_timeout(t + ms(5_010));
    assert!(s.is_closed());
}

#[test]
fn the_packets_of_a_post_come_before_those_of_the_websocket() {
    let (mut s, t) = probed();
    s.handle_post(t).expect("a post");
    s.handle_packet(Polling, message("one"), t);
    s.handle_packet(WebSocket, EnginePacket::Upgrade, t);
    assert_eq!(s.transport(), Polling);
    assert!(s.wants_read() && !s.wants_frames());
    s.handle_packet(Polling, message("two"), t);
    s.handle_post_end(t);
    assert_eq!(s.transport(), WebSocket);
    assert!(s.wants_frames());
    let events: Vec<_> = std::iter::from_fn(|| s.poll_event()).collect();
    assert_eq!(
        events,
        [
            SessionEvent::Message(text("one")),
            SessionEvent::Message(text("two")),
            SessionEvent::Upgraded,
        ]
    );
}

#[test]
fn a_client_that_upgrades_is_read_however_much_is_buffered() {
    let (mut s, t) = probed();
    s.send(text(&"x".repeat(300_000)), t);
    assert!(s.wants_frames() && s.wants_read());
    s.handle_packet(WebSocket, EnginePacket::Upgrade, t);
    // From here on the WebSocket is the congested transport.
    assert!(!s.wants_frames());
    assert_eq!(drain(&mut s, WebSocket).len(), 1);
    assert!(s.wants_frames());
}

#[test]
fn a_post_may_take_longer_than_the_upgrade_that_waits_for_it() {
    let (mut s, t) = probed();
    s.handle_post(t).expect("a post");
    s.handle_packet(WebSocket, EnginePacket::Upgrade, t);
    s.handle_timeout(t + ms(10_000));
    s.handle_post_end(t + ms(11_000));
    assert_eq!(s.transport(), WebSocket);
}

#[test]
fn refusals_have_a_limit_of_their_own() {
    let (mut s, t) = polling();
    s.send(text(&"x".repeat(300_000)), t);
    for _ in 0..100 {
        s.send_error_reply([text("44/a,no")], t);
    }
    assert!(s.is_open());
    while s.is_open() {
        s.send_error_reply([text("44/a,no")], t);
    }
    assert_eq!(closed(&mut s), Some(CloseReason::SlowConsumer));
}

#[test]
fn a_closing_server_upgrades_at_once_even_during_a_post() {
    let (mut s, t) = probed();
    s.handle_post(t).expect("a post");
    s.handle_packet(WebSocket, EnginePacket::Upgrade, t);
    s.send(text("last"), t);
    s.close(CloseReason::ServerClose, t);
    assert_eq!(drain(&mut s, WebSocket), [message("last")]);
    assert!(s.finished(WebSocket));
    assert!(!s.accepts_posts());
}

#[test]
fn a_failed_upgrade_leaves_polling_open() {
    let endings: [fn(&mut Session, Instant); 4] = [
        |s, t| s.handle_transport_closed(WebSocket, t),
        |s, t| s.handle_packet(WebSocket, message("early"), t),
        |s, t| s.handle_packet(WebSocket, EnginePacket::Upgrade, t),
        |s, t| s.handle_timeout(t + ms(10_000)),
    ];
    for end in endings {
        let (mut s, t) = polling();
        s.handle_upgrade_request(t).expect("an upgrade");
        assert!(!s.finished(WebSocket));
        assert_eq!(s.handle_upgrade_request(t), Err(Refusal::BadRequest));
        end(&mut s, t);
        assert!(s.finished(WebSocket));
        assert!(s.is_open());
        s.send(text("still here"), t);
        assert_eq!(poll(&mut s, t), [message("still here")]);
        s.handle_upgrade_request(t).expect("another try");
    }
}

#[test]
fn a_ping_due_during_an_upgrade_is_sent_after_it_with_its_full_timeout() {
    let (mut s, t) = polling();
    s.handle_upgrade_request(t + ms(24_000))
        .expect("an upgrade");
    s.handle_packet(WebSocket, PROBE, t + ms(24_500));
    s.handle_timeout(t + ms(25_000));
    s.handle_packet(WebSocket, EnginePacket::Upgrade, t + ms(26_000));
    assert_eq!(drain(&mut s, WebSocket), [PROBED, PING][1..]);
    s.handle_timeout(t + ms(45_999));
    assert!(s.is_open());
    s.handle_timeout(t + ms(46_000));
    assert_eq!(closed(&mut s), Some(CloseReason::PingTimeout));
}

#[test]
fn a_ping_fetched_before_the_upgrade_must_still_be_answered() {
    let (mut s, t) = polling();
    s.handle_timeout(t + ms(25_000));
    assert_eq!(poll(&mut s, t + ms(25_000)), [PING]);
    s.handle_upgrade_request(t + ms(26_000))
        .expect("an upgrade");
    s.handle_packet(WebSocket, PROBE, t + ms(26_000));
    s.handle_packet(WebSocket, EnginePacket::Upgrade, t + ms(26_000));
    s.handle_timeout(t + ms(44_999));
    assert!(s.is_open());
    s.handle_timeout(t + ms(45_000));
    assert_eq!(closed(&mut s), Some(CloseReason::PingTimeout));
}

/// A session that sent its ping at 25 s and waits for the pong until 45 s.
fn pinged(transport: Transport) -> (Session, Instant) {
    pinged_with(transport, Config::default())
}

fn pinged_with(transport: Transport, config: Config) -> (Session, Instant) {
    let (mut s, t) = session(transport, config);
    s.handle_timeout(t + ms(25_000));
    match transport {
        Polling => assert_eq!(poll(&mut s, t + ms(25_000)), [PING]),
        WebSocket => assert_eq!(drain(&mut s, WebSocket), [PING]),
    }
    (s, t)
}

#[track_caller]
fn assert_ends_at(s: &mut Session, reason: CloseReason, at: Instant) {
    s.handle_timeout(at - ms(1));
    assert!(s.is_open());
    s.handle_timeout(at);
    assert_eq!(closed(s), Some(reason));
}

#[test]
fn the_first_other_packet_extends_the_deadline_of_the_pong_once() {
    let (mut s, t) = pinged(WebSocket);
    s.handle_packet(WebSocket, message("busy"), t + ms(44_000));
    s.handle_packet(WebSocket, message("busy"), t + ms(63_000));
    assert_ends_at(&mut s, CloseReason::PingTimeout, t + ms(64_000));
}

#[test]
fn the_deadline_of_each_pong_may_be_extended_again() {
    let (mut s, t) = pinged(WebSocket);
    s.handle_packet(WebSocket, message("busy"), t + ms(44_000));
    s.handle_packet(WebSocket, PONG, t + ms(50_000));
    s.handle_timeout(t + ms(75_000));
    assert_eq!(drain(&mut s, WebSocket), [PING]);
    s.handle_packet(WebSocket, message("busy"), t + ms(80_000));
    assert_ends_at(&mut s, CloseReason::PingTimeout, t + ms(100_000));
}

#[test]
fn a_pong_may_follow_a_long_message_that_is_still_arriving() {
    let (mut s, t) = pinged(WebSocket);
    for second in (30..100).step_by(10) {
        s.handle_partial();
        s.handle_timeout(t + ms(second * 1_000));
        assert!(s.is_open(), "at {second} s");
    }
    // From here on nothing arrives.
    s.handle_timeout(t + ms(120_000));
    assert_eq!(closed(&mut s), Some(CloseReason::PingTimeout));
}

#[test]
fn a_pong_may_follow_a_body_that_is_still_arriving() {
    let (mut s, t) = pinged(Polling);
    s.handle_post(t + ms(44_000)).expect("a post");
    s.handle_timeout(t + ms(45_000));
    assert!(s.is_open());
    s.handle_post_end(t + ms(50_000));
    assert_ends_at(&mut s, CloseReason::PingTimeout, t + ms(65_000));
}

/// A session that waits for a pong, and has received messages since its ping. Each counts 10 000 bytes,
/// which is the `max_payload`, and more than the `max_pending`.
fn sent_since_ping(
    transport: Transport,
    messages: usize,
    are_consumed: bool,
) -> (Session, Instant) {
    let config = Config {
        max_payload: 10_000,
        max_pending: 8_000,
        ..Config::default()
    };
    let (mut s, t) = pinged_with(transport, config);
    let busy = Message::Text(Text::from("x".repeat(10_000 - OVERHEAD).as_str()));
    for _ in 0..messages {
        let cost = Session::cost(&busy);
        s.handle_packet(
            transport,
            EnginePacket::Message(busy.clone()),
            t + ms(44_000),
        );
        if are_consumed {
            s.handle_consumed(cost);
        }
    }
    (s, t)
}

#[test]
fn the_data_before_a_pong_is_limited() {
    for (messages, is_open) in [(64, true), (65, false)] {
        // Its pong may be behind a message that is still arriving.
        let (mut s, t) = sent_since_ping(WebSocket, messages, true);
        s.handle_partial();
        s.handle_timeout(t + ms(64_000));
        assert_eq!(s.is_open(), is_open, "after {messages} messages");
        // Behind a body.
        let (mut s, t) = sent_since_ping(Polling, messages, true);
        s.handle_post(t + ms(44_000)).expect("a post");
        s.handle_timeout(t + ms(64_000));
        assert_eq!(s.is_open(), is_open, "after {messages} messages in bodies");
        // In what is not read while the handlers are busy.
        let (mut s, t) = sent_since_ping(WebSocket, messages, false);
        assert!(!s.wants_read());
        s.handle_timeout(t + ms(64_000));
        assert_eq!(s.is_open(), is_open, "after {messages} messages that wait");
    }
}

#[test]
fn messages_that_wait_for_their_handlers_are_not_too_much() {
    let config = Config {
        max_payload: 100,
        ..Config::default()
    };
    let (mut s, t) = pinged_with(WebSocket, config);
    while s.wants_read() {
        s.handle_packet(WebSocket, message("busy"), t + ms(26_000));
    }
    s.handle_timeout(t + ms(46_000));
    assert!(s.is_open());
}

#[test]
fn a_message_that_never_ends_extends_the_deadline_of_the_pong_64_times() {
    let (mut s, t) = pinged(WebSocket);
    for n in 0..64 {
        s.handle_partial();
        s.handle_timeout(t + ms(45_000 + n * 20_000));
        assert!(s.is_open(), "after {n} extensions");
    }
    s.handle_partial();
    s.handle_timeout(t + ms(45_000 + 64 * 20_000));
    assert_eq!(closed(&mut s), Some(CloseReason::PingTimeout));
}

#[test]
fn the_data_before_the_pong_does_not_count_for_the_next_ping() {
    let (mut s, t) = sent_since_ping(WebSocket, 100, true);
    s.handle_packet(WebSocket, PONG, t + ms(44_000));
    s.handle_timeout(t + ms(69_000));
    assert_eq!(drain(&mut s, WebSocket), [PING]);
    s.handle_partial();
    s.handle_timeout(t + ms(89_000));
    assert!(s.is_open());
}

#[test]
fn a_client_that_ends_its_polls_to_upgrade_need_not_fetch_a_ping() {
    let (mut s, t) = polling();
    s.handle_upgrade_request(t + ms(24_000))
        .expect("an upgrade");
    s.handle_packet(WebSocket, PROBE, t + ms(24_000));
    s.handle_post(t + ms(24_000)).expect("a post");
    s.handle_packet(WebSocket, EnginePacket::Upgrade, t + ms(24_000));
    s.handle_timeout(t + ms(25_000));
    s.handle_timeout(t + ms(45_000));
    assert!(s.is_open());
    // What came before the upgrade does not count for the ping behind it.
    let busy = message(&"x".repeat(1_000_000));
    for _ in 0..65 {
        s.handle_packet(Polling, busy.clone(), t + ms(45_500));
        s.handle_consumed(1_000_000 + OVERHEAD);
    }
    s.handle_post_end(t + ms(46_000));
    s.handle_partial();
    s.handle_timeout(t + ms(66_000));
    assert!(s.is_open());
    assert_ends_at(&mut s, CloseReason::PingTimeout, t + ms(86_000));
}

#[test]
fn a_client_that_posts_and_fetches_no_ping_times_out() {
    let (mut s, t) = polling();
    s.handle_timeout(t + ms(25_000));
    s.handle_post(t + ms(44_000)).expect("a post");
    assert_ends_at(&mut s, CloseReason::PingTimeout, t + ms(45_000));
}

#[test]
fn a_post_waits_a_limited_time_for_a_client_that_does_not_poll() {
    let (mut s, t) = polling();
    s.handle_post(t).expect("a post");
    s.handle_packet(Polling, message(&"x".repeat(300_000)), t);
    s.handle_post_blocked(t + ms(1_000));
    // The reply to the message.
    s.send(text(&"x".repeat(300_000)), t);
    s.handle_post_blocked(t + ms(9_000));
    s.handle_timeout(t + ms(11_000));
    assert_ends_at(&mut s, CloseReason::SlowConsumer, t + ms(21_000));
    assert!(!s.accepts_posts());
}

#[test]
fn a_post_waits_as_long_as_its_client_polls() {
    let (mut s, t) = polling();
    s.handle_post(t).expect("a post");
    s.handle_post_blocked(t);
    s.send(text(&"x".repeat(300_000)), t);
    s.handle_timeout(t + ms(10_000));
    assert_eq!(poll(&mut s, t + ms(19_000)).len(), 1);
    s.send(text(&"x".repeat(300_000)), t + ms(19_500));
    s.handle_timeout(t + ms(20_000));
    assert_ends_at(&mut s, CloseReason::SlowConsumer, t + ms(30_000));
}

#[test]
fn a_post_waits_for_handlers_without_a_deadline() {
    let (mut s, t) = polling();
    s.handle_post(t).expect("a post");
    s.handle_post_blocked(t);
    s.handle_timeout(t + ms(24_999));
    assert!(s.is_open());
    s.handle_post_end(t + ms(24_999));
    s.send(text(&"x".repeat(300_000)), t + ms(24_999));
    s.handle_timeout(t + ms(44_999));
    assert!(s.is_open());
}

#[test]
fn packets_count_as_sent_only_when_the_websocket_is_flushed() {
    let (mut s, t) = session(WebSocket, Config::default());
    s.send(text("a"), t);
    assert_eq!(drain(&mut s, WebSocket), [message("a")]);
    assert!(!s.is_drained());
    s.handle_flushed();
    assert!(s.is_drained());
}

#[test]
fn a_probe_that_accepts_no_bytes_leaves_polling_open() {
    let (mut s, t) = polling();
    s.handle_upgrade_request(t).expect("an upgrade");
    s.handle_blocked(t);
    s.handle_timeout(t + ms(20_000));
    assert!(s.is_open());
}

#[test]
fn a_second_poll_ends_the_session_and_releases_the_first() {
    let (mut s, t) = polling();
    assert_eq!(poll(&mut s, t), []);
    assert_eq!(s.handle_poll(t), Err(Refusal::BadRequest));
    assert_eq!(drain(&mut s, Polling), [EnginePacket::Close]);
    assert_eq!(closed(&mut s), Some(CloseReason::TransportError));
    assert!(!s.accepts_requests());
}

#[test]
fn a_second_post_ends_the_session() {
    let (mut s, t) = polling();
    s.handle_post(t).expect("a post");
    assert_eq!(s.handle_post(t), Err(Refusal::BadRequest));
    assert_eq!(closed(&mut s), Some(CloseReason::TransportError));
}

#[test]
fn a_close_packet_releases_the_poll_with_a_noop() {
    let (mut s, t) = polling();
    assert_eq!(poll(&mut s, t), []);
    s.handle_packet(Polling, EnginePacket::Close, t);
    assert_eq!(drain(&mut s, Polling), [EnginePacket::Noop]);
    assert_eq!(closed(&mut s), Some(CloseReason::TransportClose));
    assert!(s.is_closed());
}

#[test]
fn a_poll_overtaken_by_a_close_packet_is_released_once() {
    let (mut s, t) = polling();
    s.handle_packet(Polling, EnginePacket::Close, t);
    assert_eq!(closed(&mut s), Some(CloseReason::TransportClose));
    assert!(s.accepts_requests());
    assert_eq!(poll(&mut s, t + ms(100)), [EnginePacket::Noop]);
    assert!(!s.accepts_requests());
    let (mut s, t) = polling();
    s.handle_packet(Polling, EnginePacket::Close, t);
    s.handle_timeout(t + ms(500));
    assert!(!s.accepts_requests());
}

#[test]
fn after_a_close_by_the_server_polls_get_the_rest_and_then_the_close() {
    let (mut s, t) = polling();
    s.send(text("last words"), t);
    s.close(CloseReason::ServerClose, t);
    s.send(text("too late"), t);
    assert!(s.accepts_requests());
    assert_eq!(poll(&mut s, t), [message("last words")]);
    assert!(s.accepts_requests());
    assert_eq!(poll(&mut s, t), [EnginePacket::Close]);
    assert!(!s.accepts_requests());
}

#[test]
fn a_session_whose_rest_is_not_fetched_is_dropped() {
    let (mut s, t) = polling();
    s.close(CloseReason::ServerClose, t);
    s.handle_timeout(t + ms(5_000));
    assert!(s.is_closed());
}

#[test]
fn a_slow_consumer_is_closed_and_its_input_is_not_read_before() {
    let config = Config {
        high_water: 200,
        max_buffered: 400,
        ..Config::default()
    };
    let (mut s, t) = session(WebSocket, config);
    let long = "x".repeat(236);
    s.send(text(&long), t);
    assert!(!s.wants_read());
    s.send(text(&long), t);
    assert!(s.is_open());
    s.send(text(&long), t);
    assert_eq!(closed(&mut s), Some(CloseReason::SlowConsumer));
    assert_eq!(drain(&mut s, WebSocket), []);
}

#[test]
fn a_transport_that_accepts_nothing_for_the_ping_timeout_is_closed() {
    let (mut s, t) = session(WebSocket, Config::default());
    s.handle_blocked(t);
    s.handle_progress();
    s.handle_blocked(t + ms(1_000));
    s.handle_timeout(t + ms(20_999));
    assert!(s.is_open());
    s.handle_timeout(t + ms(21_000));
    assert_eq!(closed(&mut s), Some(CloseReason::PingTimeout));
}

#[test]
fn a_client_whose_pong_is_not_read_does_not_time_out() {
    let config = Config {
        max_pending: 1,
        ..Config::default()
    };
    let (mut s, t) = session(WebSocket, config);
    s.handle_packet(WebSocket, message("work"), t);
    assert!(!s.wants_read());
    s.handle_timeout(t + ms(25_000));
    assert_eq!(drain(&mut s, WebSocket), [PING]);
    s.handle_timeout(t + ms(45_000));
    assert_eq!(drain(&mut s, WebSocket), [PING]);
    assert!(s.is_open());
    s.handle_consumed(Session::cost(&text("work")));
    assert!(s.wants_read());
    s.handle_timeout(t + ms(65_000));
    assert!(!s.is_open());
}

/// A session that has reached `max_pending` and waits for an acknowledgement.
fn stuck(transport: Transport) -> (Session, Instant) {
    let config = Config {
        max_pending: 100,
        ..Config::default()
    };
    let (mut s, t) = session(transport, config);
    s.handle_packet(transport, message("work"), t);
    s.handle_packet(transport, message("work"), t);
    assert!(!s.wants_read());
    s.handle_ack_requested();
    assert!(s.wants_read(), "the answer lies behind what waits");
    while s.wants_read() {
        s.handle_packet(transport, message("work"), t);
    }
    (s, t)
}

#[test]
fn more_is_read_while_an_acknowledgement_is_awaited() {
    let (mut s, _) = stuck(WebSocket);
    assert_eq!(s.pending_bytes, 6 * Session::cost(&text("work")));
    s.handle_consumed(s.pending_bytes - 100);
    assert!(s.wants_read());
    s.handle_acks_done(1);
    assert!(!s.wants_read());
}

#[test]
fn an_acknowledgement_that_can_never_be_read_ends_the_session() {
    for transport in [WebSocket, Polling] {
        let (mut s, t) = stuck(transport);
        s.handle_timeout(t + ms(25_000));
        if transport == Polling {
            assert_eq!(poll(&mut s, t + ms(25_000)), [PING]);
        }
        s.handle_timeout(t + ms(44_999));
        assert!(s.is_open());
        s.handle_timeout(t + ms(45_000));
        assert_eq!(closed(&mut s), Some(CloseReason::EventBacklog));
    }
}

#[test]
fn events_that_make_progress_get_more_time() {
    let moves: [fn(&mut Session); 2] = [
        |s| s.handle_consumed(1),
        |s| {
            s.handle_ack_requested();
            s.handle_acks_done(1);
        },
    ];
    for go_on in moves {
        let (mut s, t) = stuck(WebSocket);
        s.handle_packet(WebSocket, message("work"), t);
        s.handle_timeout(t + ms(25_000));
        go_on(&mut s);
        s.handle_timeout(t + ms(45_000));
        assert!(s.is_open());
        s.handle_timeout(t + ms(65_000));
        assert_eq!(closed(&mut s), Some(CloseReason::EventBacklog));
    }
}

#[test]
fn a_client_that_stops_polling_times_out_however_much_is_buffered() {
    let config = Config {
        high_water: 100,
        ..Config::default()
    };
    let (mut s, t) = session(Polling, config);
    s.send(text(&"x".repeat(100)), t);
    assert!(!s.wants_read());
    s.handle_timeout(t + ms(25_000));
    s.handle_timeout(t + ms(45_000));
    assert_eq!(closed(&mut s), Some(CloseReason::PingTimeout));
}

#[test]
fn a_discarded_session_sends_nothing_more() {
    let (mut s, t) = polling();
    s.send(text("never heard"), t);
    s.discard(t);
    assert_eq!(closed(&mut s), Some(CloseReason::ServerClose));
    assert!(!s.accepts_requests() && s.is_closed());

    let (mut s, t) = session(WebSocket, Config::default());
    s.send(text("never heard"), t);
    s.discard(t);
    assert_eq!(drain(&mut s, WebSocket), []);
    assert!(s.finished(WebSocket));

    let (mut s, t) = polling();
    assert_eq!(poll(&mut s, t), []);
    s.discard(t);
    assert_eq!(drain(&mut s, Polling), [EnginePacket::Close]);
    assert!(!s.accepts_requests());
}

#[test]
fn an_aborted_poll_ends_the_session() {
    let (mut s, t) = polling();
    assert_eq!(poll(&mut s, t), []);
    s.handle_poll_aborted(t);
    assert_eq!(closed(&mut s), Some(CloseReason::TransportError));
    assert!(s.is_closed());
}
