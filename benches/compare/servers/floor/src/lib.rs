//! What the floor servers share: the few packets of Socket.IO that the contract
//! needs, cut by hand, and a server-side WebSocket frame codec.
//!
//! None of this is a conforming server: it trusts its client. It shows what is
//! left of the cost when nearly all of the work is left out.

pub mod session;

use std::sync::atomic::{AtomicU64, Ordering};

pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xA;

pub const PING_INTERVAL_S: u64 = 25;

/// A packet from the client, its parts borrowed from the message.
#[derive(Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    Connect,
    Disconnect,
    Pong,
    /// `43` + id + `[` args `]` answers it.
    Echo {
        id: &'a str,
        args: &'a str,
    },
    /// The attachment follows in a binary message.
    EchoBin {
        id: &'a str,
    },
    Broadcast {
        payload: &'a str,
    },
    Join {
        id: &'a str,
        room: &'a str,
    },
    Leave {
        id: &'a str,
        room: &'a str,
    },
    Room {
        room: &'a str,
        payload: &'a str,
    },
    Unknown,
}

fn split_id(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

pub fn parse(text: &str) -> Packet<'_> {
    parse_known(text).unwrap_or(Packet::Unknown)
}

fn parse_known(text: &str) -> Option<Packet<'_>> {
    match text {
        "40" => return Some(Packet::Connect),
        "41" => return Some(Packet::Disconnect),
        "3" => return Some(Packet::Pong),
        _ => {}
    }
    if let Some(rest) = text.strip_prefix("451-") {
        let (id, rest) = split_id(rest);
        return rest
            .starts_with("[\"echo-bin\",")
            .then_some(Packet::EchoBin { id });
    }
    let (id, rest) = split_id(text.strip_prefix("42")?);
    let args = rest.strip_prefix('[')?.strip_suffix(']')?;
    if let Some(args) = args.strip_prefix("\"echo\",") {
        return Some(Packet::Echo { id, args });
    }
    if let Some(payload) = args.strip_prefix("\"broadcast\",") {
        return Some(Packet::Broadcast { payload });
    }
    if let Some(room) = args.strip_prefix("\"join\",\"") {
        return Some(Packet::Join {
            id,
            room: room.strip_suffix('"')?,
        });
    }
    if let Some(room) = args.strip_prefix("\"leave\",\"") {
        return Some(Packet::Leave {
            id,
            room: room.strip_suffix('"')?,
        });
    }
    let (room, payload) = args.strip_prefix("\"room\",\"")?.split_once("\",")?;
    Some(Packet::Room { room, payload })
}

/// The Engine.IO open packet and the session id in it.
pub fn open_packet() -> (String, String) {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let sid = format!("floor{:015}", NEXT.fetch_add(1, Ordering::Relaxed));
    let packet = format!(
        "0{{\"sid\":\"{sid}\",\"upgrades\":[],\"pingInterval\":{},\"pingTimeout\":20000,\
         \"maxPayload\":1000000}}",
        PING_INTERVAL_S * 1000
    );
    (packet, sid)
}

pub fn connect_packet(sid: &str) -> String {
    format!("40{{\"sid\":\"{sid}\"}}")
}

pub fn bin_ack(id: &str) -> String {
    format!("461-{id}[{{\"_placeholder\":true,\"num\":0}}]")
}

/// Appends one unmasked frame.
pub fn write_frame(out: &mut Vec<u8>, opcode: u8, parts: &[&[u8]]) {
    out.push(0x80 | opcode);
    push_len(out, parts.iter().map(|p| p.len()).sum());
    for part in parts {
        out.extend_from_slice(part);
    }
}

pub fn frame(opcode: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(10 + parts.iter().map(|p| p.len()).sum::<usize>());
    write_frame(&mut out, opcode, parts);
    out
}

/// The length of the frame that starts `buf`, once its header says it.
pub fn frame_len(buf: &[u8]) -> Option<usize> {
    Some(match buf.get(1)? & 0x7f {
        126 => 8 + usize::from(u16::from_be_bytes(buf.get(2..4)?.try_into().ok()?)),
        127 => 14 + u64::from_be_bytes(buf.get(2..10)?.try_into().ok()?) as usize,
        len => 6 + usize::from(len),
    })
}

/// The header of an unmasked frame.
pub fn header(opcode: u8, len: usize) -> Vec<u8> {
    let mut out = vec![0x80 | opcode];
    push_len(&mut out, len);
    out
}

fn push_len(out: &mut Vec<u8>, len: usize) {
    match len {
        0..=125 => out.push(len as u8),
        126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

/// A whole frame at the start of a buffer.
pub struct Frame {
    pub opcode: u8,
    pub start: usize,
    pub end: usize,
}

/// Finds the frame at the start of `buf` and unmasks it where it lies.
pub fn next_frame(buf: &mut [u8]) -> Option<Frame> {
    let (b0, b1) = (*buf.first()?, *buf.get(1)?);
    let (mask_at, len) = match b1 & 0x7f {
        126 => (
            4,
            usize::from(u16::from_be_bytes(buf.get(2..4)?.try_into().ok()?)),
        ),
        127 => (
            10,
            u64::from_be_bytes(buf.get(2..10)?.try_into().ok()?) as usize,
        ),
        len => (2, usize::from(len)),
    };
    let start = mask_at + 4;
    let mask: [u8; 4] = buf.get(mask_at..start)?.try_into().ok()?;
    let payload = buf.get_mut(start..start + len)?;
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut chunks = payload.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let word = u64::from_ne_bytes(chunk.try_into().ok()?) ^ wide;
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(mask) {
        *byte ^= key;
    }
    // The remainder is shorter than 8: its second half takes the key again.
    let tail = payload.len() % 8;
    if tail > 4 {
        let at = payload.len() - (tail - 4);
        for (byte, key) in payload[at..].iter_mut().zip(mask) {
            *byte ^= key;
        }
    }
    Some(Frame {
        opcode: b0 & 0x0f,
        start,
        end: start + len,
    })
}

pub fn port_argument() -> u16 {
    std::env::args()
        .nth(1)
        .and_then(|p| p.parse().ok())
        .expect("usage: SERVER PORT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_the_contract() {
        assert_eq!(
            parse("4217[\"echo\",{\"a\":[1]}]"),
            Packet::Echo {
                id: "17",
                args: "{\"a\":[1]}"
            }
        );
        assert_eq!(
            parse("42[\"broadcast\",{}]"),
            Packet::Broadcast { payload: "{}" }
        );
        assert_eq!(
            parse("420[\"join\",\"r1\"]"),
            Packet::Join {
                id: "0",
                room: "r1"
            }
        );
        assert_eq!(
            parse("42[\"room\",\"r1\",{}]"),
            Packet::Room {
                room: "r1",
                payload: "{}"
            }
        );
        assert_eq!(
            parse("451-3[\"echo-bin\",{\"_placeholder\":true,\"num\":0}]"),
            Packet::EchoBin { id: "3" }
        );
        assert_eq!(parse("4x"), Packet::Unknown);
    }

    #[test]
    fn frames_are_unmasked_at_every_length() {
        for len in [0usize, 1, 3, 4, 5, 7, 8, 12, 13, 125, 126, 70_000] {
            let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let mask = [0x11, 0x22, 0x33, 0x44];
            let plain = frame(TEXT, &[&payload]);
            let head = plain.len() - len;
            let mut masked = plain[..head].to_vec();
            masked[1] |= 0x80;
            masked.extend_from_slice(&mask);
            masked.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, k)| b ^ k));
            let whole = masked.len();
            assert!(next_frame(&mut masked[..whole - 1].to_vec()).is_none() || len == 0);
            assert_eq!(frame_len(&masked), Some(whole));
            let found = next_frame(&mut masked).unwrap();
            assert_eq!((found.opcode, found.end), (TEXT, whole));
            assert_eq!(&masked[found.start..found.end], &payload[..]);
        }
    }
}
