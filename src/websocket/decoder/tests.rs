use super::*;
use crate::websocket::message::MAX_FRAGMENTS;

const FIN: u8 = 0x80;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const LIMIT: usize = 1 << 20;

#[derive(Clone, Debug, PartialEq)]
enum Event {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close(Option<(u16, String)>),
}

impl From<Incoming<'_>> for Event {
    fn from(incoming: Incoming<'_>) -> Self {
        match incoming {
            Incoming::Text(payload) => Self::Text(payload.as_slice().to_vec()),
            Incoming::Binary(payload) => Self::Binary(payload.as_slice().to_vec()),
            Incoming::Ping(data) => Self::Ping(data.to_vec()),
            Incoming::Pong => Self::Pong,
            Incoming::Close(close) => {
                Self::Close(close.map(|(code, reason)| (code, reason.to_owned())))
            }
        }
    }
}

fn header(first: u8, len: usize) -> Vec<u8> {
    let mut header = vec![first];
    match len {
        0..=125 => header.push(0x80 | len as u8),
        126..=0xffff => {
            header.push(0x80 | 126);
            header.extend((len as u16).to_be_bytes());
        }
        _ => {
            header.push(0x80 | 127);
            header.extend((len as u64).to_be_bytes());
        }
    }
    header.extend(MASK);
    header
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len());
    frame.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    frame
}

fn feed(decoder: &mut FrameDecoder, input: &[u8]) -> (Vec<Event>, Result<(), WebSocketError>) {
    let mut events = Vec::new();
    let result = decoder.decode(&mut input.to_vec(), |incoming| events.push(incoming.into()));
    (events, result)
}

/// Feeds input that completes no message or control frame.
fn keep(decoder: &mut FrameDecoder, input: &[u8]) {
    assert_eq!(feed(decoder, input), (vec![], Ok(())));
}

fn decode(input: &[u8]) -> (Vec<Event>, Result<(), WebSocketError>) {
    feed(&mut FrameDecoder::new(LIMIT), input)
}

fn decode_pieces<'a>(
    decoder: &mut FrameDecoder,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Event>, Result<(), WebSocketError>) {
    let mut all = Vec::new();
    let mut result = Ok(());
    for piece in pieces {
        let (events, latest) = feed(decoder, piece);
        all.extend(events);
        result = latest;
    }
    (all, result)
}

/// Reads `chunk` bytes at a time as a driver does, into `read_buf` if the decoder offers it.
/// Returns the events, and the number of bytes that were read directly.
fn drive(decoder: &mut FrameDecoder, mut input: &[u8], chunk: usize) -> (Vec<Event>, usize) {
    let mut events = Vec::new();
    let mut direct = 0;
    while !input.is_empty() {
        let mut fits = chunk.min(input.len());
        if let Some(mut room) = decoder.read_buf() {
            fits = fits.min(room.chunk_mut().len());
            room.put_slice(&input[..fits]);
            decoder
                .filled(|incoming| events.push(incoming.into()))
                .unwrap();
            direct += fits;
        } else {
            let mut scratch = input[..fits].to_vec();
            decoder
                .decode(&mut scratch, |incoming| events.push(incoming.into()))
                .unwrap();
        }
        input = &input[fits..];
    }
    (events, direct)
}

fn violation(input: &[u8]) -> WebSocketError {
    let (events, result) = decode(input);
    assert_eq!(events, []);
    result.unwrap_err()
}

/// Frames of every type, with a ping and a pong inside of fragmented messages.
fn conversation() -> (Vec<u8>, Vec<Event>) {
    let long: Vec<u8> = (0..300_u16).map(|n| n as u8).collect();
    let input = [
        frame(FIN | TEXT, b"2"),
        frame(FIN | BINARY, &long),
        frame(TEXT, "κό".as_bytes()),
        frame(FIN | PING, b"are you there?"),
        frame(CONTINUATION, &"σμε".as_bytes()[..3]),
        frame(CONTINUATION, b""),
        frame(FIN | PONG, b"x"),
        frame(FIN | CONTINUATION, &"σμε".as_bytes()[3..]),
        frame(FIN | TEXT, b""),
        frame(BINARY, b""),
        frame(FIN | CONTINUATION, b"\xff"),
        frame(FIN | PING, b""),
        frame(FIN | CLOSE, b"\x03\xe8bye"),
    ];
    let events = vec![
        Event::Text(b"2".to_vec()),
        Event::Binary(long),
        Event::Ping(b"are you there?".to_vec()),
        Event::Pong,
        Event::Text("κόσμε".into()),
        Event::Text(vec![]),
        Event::Binary(vec![0xff]),
        Event::Ping(vec![]),
        Event::Close(Some((1000, "bye".to_owned()))),
    ];
    (input.concat(), events)
}

#[test]
fn messages_are_the_same_wherever_their_bytes_are_cut() {
    let (input, expected) = conversation();
    assert_eq!(decode(&input), (expected.clone(), Ok(())));
    for first in 0..input.len() {
        for second in [first, first + 1, first + 7].map(|at| at.min(input.len())) {
            let pieces = [&input[..first], &input[first..second], &input[second..]];
            let (events, result) = decode_pieces(&mut FrameDecoder::new(LIMIT), pieces);
            assert_eq!(result, Ok(()));
            assert_eq!(events, expected, "cut at {first} and {second}");
        }
    }
    for size in 1..20 {
        let got = decode_pieces(&mut FrameDecoder::new(LIMIT), input.chunks(size));
        assert_eq!(got, (expected.clone(), Ok(())), "pieces of {size}");
    }
}

#[test]
fn whole_messages_are_returned_in_place_without_allocation() {
    let mut input = [frame(FIN | TEXT, b"hello"), frame(FIN | BINARY, b"\xff")].concat();
    let range = input.as_ptr_range();
    let mut decoder = FrameDecoder::new(LIMIT);
    let mut seen = 0;
    let result = decoder.decode(&mut input, |incoming| {
        let (Incoming::Text(payload) | Incoming::Binary(payload)) = incoming else {
            panic!("two messages");
        };
        assert!(matches!(
            payload,
            crate::websocket::MessagePayload::Borrowed(_)
        ));
        assert!(range.contains(&payload.as_slice().as_ptr()));
        seen += 1;
    });
    assert_eq!((result, seen), (Ok(()), 2));
    assert_eq!(decoder.buf.capacity(), 0);
}

#[test]
fn an_idle_decoder_is_small_and_holds_no_buffer() {
    assert!(
        size_of::<FrameDecoder>() <= 128,
        "{} bytes",
        size_of::<FrameDecoder>()
    );

    let (input, _) = conversation();
    let close = input.len() - frame(FIN | CLOSE, b"\x03\xe8bye").len();
    let mut decoder = FrameDecoder::new(LIMIT);
    let (events, result) = decode_pieces(&mut decoder, input[..close].chunks(3));
    assert_eq!((events.len(), result), (8, Ok(())));
    assert_eq!(decoder.buf.capacity(), 0);
}

#[test]
fn messages_of_every_length_around_the_length_fields_limits_arrive() {
    for len in (0..=40).chain([124, 125, 126, 127, 65_534, 65_535, 65_536, 65_537]) {
        let payload: Vec<u8> = (0..len).map(|n| (n * 7) as u8).collect();
        let input = frame(FIN | BINARY, &payload);
        let expected = [Event::Binary(payload)];
        assert_eq!(decode(&input).0, expected, "length {len}");
        let pieces = decode_pieces(&mut FrameDecoder::new(LIMIT), input.chunks(1021));
        assert_eq!(pieces.0, expected, "length {len} in pieces");
    }
}

#[test]
fn a_frame_must_be_masked() {
    assert_eq!(violation(b"\x81\x00"), WebSocketError::UNMASKED);
    assert_eq!(WebSocketError::UNMASKED.code(), 1002);
}

#[test]
fn a_reserved_bit_is_refused() {
    for bit in [0x10, 0x20, 0x40, 0x70] {
        assert_eq!(
            violation(&frame(FIN | bit | TEXT, b"x")),
            WebSocketError::RESERVED_BIT
        );
        assert_eq!(
            violation(&frame(FIN | bit | PING, b"x")),
            WebSocketError::RESERVED_BIT
        );
    }
    assert_eq!(WebSocketError::RESERVED_BIT.code(), 1002);
}

#[test]
fn a_reserved_opcode_is_refused() {
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        assert_eq!(
            violation(&frame(FIN | opcode, b"x")),
            WebSocketError::RESERVED_OPCODE
        );
    }
    assert_eq!(WebSocketError::RESERVED_OPCODE.code(), 1002);
}

#[test]
fn a_control_frame_must_be_short_and_whole() {
    for opcode in [CLOSE, PING, PONG] {
        assert_eq!(
            violation(&frame(opcode, b"")),
            WebSocketError::FRAGMENTED_CONTROL
        );
        assert_eq!(
            violation(&frame(FIN | opcode, &[0; 126])),
            WebSocketError::LONG_CONTROL
        );
    }
    let longest = frame(FIN | PING, &[b'x'; 125]);
    assert_eq!(decode(&longest).0, [Event::Ping(vec![b'x'; 125])]);
    assert_eq!(WebSocketError::FRAGMENTED_CONTROL.code(), 1002);
    assert_eq!(WebSocketError::LONG_CONTROL.code(), 1002);
}

#[test]
fn a_continuation_needs_a_message_to_continue() {
    assert_eq!(
        violation(&frame(FIN | CONTINUATION, b"x")),
        WebSocketError::STRAY_CONTINUATION
    );
    assert_eq!(
        violation(&frame(CONTINUATION, b"x")),
        WebSocketError::STRAY_CONTINUATION
    );

    let after_the_end = [
        frame(TEXT, b"a"),
        frame(FIN | CONTINUATION, b"b"),
        frame(FIN | CONTINUATION, b"c"),
    ];
    let expected = (
        vec![Event::Text(b"ab".to_vec())],
        Err(WebSocketError::STRAY_CONTINUATION),
    );
    assert_eq!(decode(&after_the_end.concat()), expected);
    assert_eq!(WebSocketError::STRAY_CONTINUATION.code(), 1002);
}

#[test]
fn a_message_must_end_before_the_next_one_starts() {
    for next in [TEXT, FIN | TEXT, BINARY, FIN | BINARY] {
        let input = [frame(TEXT, b"a"), frame(next, b"b")].concat();
        assert_eq!(violation(&input), WebSocketError::INTERRUPTED_MESSAGE);
    }
    assert_eq!(WebSocketError::INTERRUPTED_MESSAGE.code(), 1002);
}

#[test]
fn a_close_frame_may_have_no_code_or_no_reason() {
    assert_eq!(decode(&frame(FIN | CLOSE, b"")).0, [Event::Close(None)]);
    let expected = [Event::Close(Some((1001, String::new())))];
    assert_eq!(decode(&frame(FIN | CLOSE, b"\x03\xe9")).0, expected);
}

#[test]
fn a_close_frame_of_one_byte_is_refused() {
    assert_eq!(
        violation(&frame(FIN | CLOSE, b"\x03")),
        WebSocketError::CLOSE_LENGTH
    );
    assert_eq!(WebSocketError::CLOSE_LENGTH.code(), 1002);
}

#[test]
fn a_close_frame_must_have_a_code_meant_for_it() {
    for code in 0..=u16::MAX {
        let allowed = match code {
            1004..=1006 | 1015 => false,
            1000..=1014 | 3000..=4999 => true,
            _ => false,
        };
        let expected = if allowed {
            Ok(())
        } else {
            Err(WebSocketError::CLOSE_CODE)
        };
        assert_eq!(
            decode(&frame(FIN | CLOSE, &code.to_be_bytes())).1,
            expected,
            "{code}"
        );
    }
    assert_eq!(WebSocketError::CLOSE_CODE.code(), 1002);
}

#[test]
fn a_close_frames_reason_must_be_utf8() {
    assert_eq!(
        violation(&frame(FIN | CLOSE, b"\x03\xe8\xff")),
        WebSocketError::UTF8
    );
    assert_eq!(WebSocketError::UTF8.code(), 1007);
}

#[test]
fn nothing_after_a_close_frame_is_read() {
    let mut decoder = FrameDecoder::new(LIMIT);
    let input = [
        frame(TEXT, b"a"),
        frame(FIN | CLOSE, b""),
        frame(FIN | PING, b""),
    ]
    .concat();
    assert_eq!(
        feed(&mut decoder, &input),
        (vec![Event::Close(None)], Ok(()))
    );
    assert_eq!(feed(&mut decoder, b"\xff\xff\xff"), (vec![], Ok(())));
    assert_eq!(decoder.buf.capacity(), 0);
}

#[test]
fn a_violation_is_final_and_earlier_messages_are_delivered() {
    let mut decoder = FrameDecoder::new(LIMIT);
    let input = [
        frame(FIN | TEXT, b"a"),
        frame(FIN | 3, b""),
        frame(FIN | TEXT, b"b"),
    ];
    let expected = (
        vec![Event::Text(b"a".to_vec())],
        Err(WebSocketError::RESERVED_OPCODE),
    );
    assert_eq!(feed(&mut decoder, &input.concat()), expected);

    let again = feed(&mut decoder, &frame(FIN | TEXT, b"c"));
    assert_eq!(again, (vec![], Err(WebSocketError::RESERVED_OPCODE)));
    assert!(decoder.read_buf().is_none());
    assert_eq!(decoder.filled(|_| ()), Err(WebSocketError::RESERVED_OPCODE));
}

#[test]
fn text_must_be_utf8() {
    assert_eq!(
        violation(&frame(FIN | TEXT, b"a\xc3")),
        WebSocketError::UTF8
    );
    assert_eq!(
        violation(&frame(FIN | TEXT, b"\xed\xa0\x80")),
        WebSocketError::UTF8
    );
    let fragments = [frame(TEXT, b"a\xc3"), frame(FIN | CONTINUATION, b"")].concat();
    assert_eq!(violation(&fragments), WebSocketError::UTF8);
}

#[test]
fn text_fails_before_its_frame_or_message_is_whole() {
    assert_eq!(
        violation(&frame(TEXT, b"\xce\xba\xf4\x90")),
        WebSocketError::UTF8
    );
    let partial = &frame(FIN | TEXT, b"\xce\xba\xf4\x90 and more")[..10];
    assert_eq!(violation(partial), WebSocketError::UTF8);
}

#[test]
fn a_control_frame_in_pieces_does_not_disturb_the_text_around_it() {
    let input = [
        frame(TEXT, b"\xce"),
        frame(FIN | PING, b"\xff\xff"),
        frame(FIN | CONTINUATION, b"\xba"),
    ];
    let expected = vec![Event::Ping(vec![0xff, 0xff]), Event::Text("κ".into())];
    let got = decode_pieces(&mut FrameDecoder::new(LIMIT), input.concat().chunks(1));
    assert_eq!(got, (expected, Ok(())));
}

#[test]
fn a_message_may_be_as_large_as_the_limit_and_no_larger() {
    let limited = |frames: &[Vec<u8>]| feed(&mut FrameDecoder::new(10), &frames.concat()).1;
    let too_big = Err(WebSocketError::TOO_BIG);

    assert_eq!(limited(&[frame(FIN | TEXT, &[b'x'; 10])]), Ok(()));
    assert_eq!(limited(&[header(FIN | TEXT, 11)]), too_big);
    let halves = [frame(BINARY, &[0; 5]), frame(FIN | CONTINUATION, &[0; 5])];
    assert_eq!(limited(&halves), Ok(()));
    let more = [frame(BINARY, &[0; 5]), header(CONTINUATION, 6)];
    assert_eq!(limited(&more), too_big);
    let ping = [frame(BINARY, &[0; 10]), frame(FIN | PING, &[0; 20])];
    assert_eq!(limited(&ping), Ok(()));
    assert_eq!(WebSocketError::TOO_BIG.code(), 1009);
}

#[test]
fn a_length_with_its_highest_bit_set_is_refused() {
    let header = |len: u64| [&[0x82, 0xff][..], &len.to_be_bytes(), &MASK].concat();
    let unlimited = |input: &[u8]| feed(&mut FrameDecoder::new(usize::MAX), input).1;
    assert_eq!(
        unlimited(&header(1 << 63)),
        Err(WebSocketError::LENGTH_OVERFLOW)
    );
    assert_eq!(
        unlimited(&header(u64::MAX)),
        Err(WebSocketError::LENGTH_OVERFLOW)
    );
    assert_eq!(violation(&header(u64::MAX >> 1)), WebSocketError::TOO_BIG);
    assert_eq!(WebSocketError::LENGTH_OVERFLOW.code(), 1002);
}

#[test]
fn a_message_has_a_bounded_number_of_fragments() {
    let mut input = frame(BINARY, b"");
    for _ in 1..MAX_FRAGMENTS {
        input.extend(frame(CONTINUATION, b""));
    }
    let mut decoder = FrameDecoder::new(LIMIT);
    keep(&mut decoder, &input);
    let last = feed(&mut decoder, &frame(FIN | CONTINUATION, b""));
    assert_eq!(last, (vec![], Err(WebSocketError::TOO_MANY_FRAGMENTS)));
    assert_eq!(WebSocketError::TOO_MANY_FRAGMENTS.code(), 1009);
}

#[test]
fn the_rest_of_a_large_frame_is_read_directly() {
    let text = "κόσμε ".repeat(20_000).into_bytes();
    let (first, second) = text.split_at(100_001);
    let input = [
        frame(FIN | PING, b"before"),
        frame(FIN | TEXT, &text),
        frame(TEXT, first),
        frame(FIN | PING, b"between"),
        frame(FIN | CONTINUATION, second),
        frame(FIN | PING, b"after"),
    ];
    let expected = [
        Event::Ping(b"before".to_vec()),
        Event::Text(text.clone()),
        Event::Ping(b"between".to_vec()),
        Event::Text(text.clone()),
        Event::Ping(b"after".to_vec()),
    ];
    for chunk in [997, 4096, 16_384, 1 << 20] {
        let (events, direct) = drive(&mut FrameDecoder::new(LIMIT), &input.concat(), chunk);
        assert_eq!(events, expected, "chunks of {chunk}");
        assert!(
            chunk > 20_000 || direct > text.len(),
            "{direct} bytes read directly"
        );
    }
}

#[test]
fn direct_reads_need_a_large_rest_and_stop_at_the_frames_end() {
    let payload = [0; 20_000];
    let input = frame(FIN | BINARY, &payload);
    let head = input.len() - payload.len();
    let mut decoder = FrameDecoder::new(LIMIT);
    assert!(decoder.read_buf().is_none());
    keep(&mut decoder, &input[..head]);
    assert_eq!(decoder.read_buf().unwrap().remaining_mut(), 20_000);
    keep(&mut decoder, &input[head..input.len() - DIRECT_READ]);
    assert_eq!(decoder.read_buf().unwrap().remaining_mut(), DIRECT_READ);
    keep(&mut decoder, &input[input.len() - DIRECT_READ..][..1]);
    assert!(decoder.read_buf().is_none());
}

#[test]
fn any_call_may_follow_a_direct_read() {
    let payload = [7; DIRECT_READ];
    let input = frame(FIN | BINARY, &payload);
    let (head, rest) = input.split_at(8);
    let mut decoder = FrameDecoder::new(LIMIT);
    keep(&mut decoder, head);
    decoder.read_buf().unwrap().put_slice(rest);
    assert!(decoder.read_buf().is_none());
    let (events, result) = feed(&mut decoder, &frame(FIN | PONG, b""));
    assert_eq!(result, Ok(()));
    assert_eq!(events, [Event::Binary(payload.to_vec()), Event::Pong]);
}

#[test]
fn a_header_alone_does_not_make_the_decoder_allocate_what_it_declares() {
    let mut decoder = FrameDecoder::new(1 << 30);
    keep(&mut decoder, &header(FIN | BINARY, 1 << 30));
    decoder.read_buf().unwrap();
    assert!(decoder.buf.capacity() <= 64 * 1024);
}

#[test]
fn memory_follows_what_has_arrived_and_is_moved_rarely() {
    let declared = 3 << 20;
    for first in [FIN | BINARY, BINARY] {
        let input = frame(first, &vec![0; declared]);
        let mut decoder = FrameDecoder::new(declared);
        let mut capacities = Vec::new();
        for piece in input[..declared - 9000].chunks(1000) {
            drive(&mut decoder, piece, 1000);
            let (arrived, capacity) = (decoder.buf.len(), decoder.buf.capacity());
            assert!(capacity <= (arrived + DIRECT_READ) * 2 + READ_AHEAD);
            assert!(capacity <= declared);
            capacities.push(capacity);
        }
        capacities.dedup();
        assert!(capacities.len() < 12, "{capacities:?}");
    }
}

#[test]
fn many_small_fragments_and_pings_move_the_message_rarely() {
    let mut decoder = FrameDecoder::new(LIMIT);
    keep(&mut decoder, &frame(BINARY, b"x"));
    let ping = frame(FIN | PING, b"in two pieces");
    let mut capacities = Vec::new();
    for _ in 0..10_000 {
        keep(&mut decoder, &frame(CONTINUATION, b"0123456789"));
        keep(&mut decoder, &ping[..10]);
        feed(&mut decoder, &ping[10..]).1.unwrap();
        capacities.push(decoder.buf.capacity());
    }
    capacities.dedup();
    assert!(capacities.len() < 20, "{capacities:?}");
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 33) as usize % end
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// Returns mostly valid frames, so that the decoder gets past the first header.
    fn frames(&mut self) -> Vec<u8> {
        let mut input = Vec::new();
        for _ in 0..self.below(6) {
            let opcode = [0, 0, 0, 1, 1, 2, 8, 9, 10, 10, 11, 3][self.below(12)];
            let fin = [FIN, FIN, 0][self.below(3)];
            let len = [0, 1, 2, 3, 20, 125, 126][self.below(7)];
            let mut payload = self.bytes(len);
            if opcode == TEXT {
                payload.fill(b'x');
            }
            input.extend(frame(fin | opcode, &payload));
        }
        if !input.is_empty() && self.below(3) == 0 {
            let at = self.below(input.len());
            input[at] = self.next() as u8;
        }
        input
    }
}

#[test]
fn random_bytes_do_not_panic_and_mean_the_same_wherever_they_are_cut() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..200_000 {
        let len = random.below(60);
        let input = if round % 2 == 0 {
            random.bytes(len)
        } else {
            random.frames()
        };
        let whole = feed(&mut FrameDecoder::new(200), &input);

        let cut = random.below(input.len() + 1);
        let pieces = [&input[..cut], &input[cut..]];
        assert_eq!(
            decode_pieces(&mut FrameDecoder::new(200), pieces),
            whole,
            "{input:x?}"
        );
    }
}
