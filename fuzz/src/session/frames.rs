//! The frames of a WebSocket's two sides.

use flate2::{Decompress, FlushDecompress};

/// Reads the frames of the server, and checks that they are valid.
pub struct ServerFrames {
    bytes: Vec<u8>,
    /// Whether compression was negotiated.
    deflate: bool,
    is_closed: bool,
}

/// A message of the server.
pub enum Frame {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Control,
}

impl ServerFrames {
    pub fn new(deflate: bool) -> Self {
        Self {
            bytes: Vec::new(),
            deflate,
            is_closed: false,
        }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        assert!(
            bytes.is_empty() || !self.is_closed,
            "bytes after the close frame"
        );
    }

    pub fn next(&mut self) -> Option<Frame> {
        let (&[first, second], rest) = self.bytes.split_first_chunk()?;
        let (len, rest) = match second {
            126 => {
                let (len, rest) = rest.split_first_chunk()?;
                (u16::from_be_bytes(*len).into(), rest)
            }
            127 => {
                let (len, rest) = rest.split_first_chunk()?;
                (u64::from_be_bytes(*len) as usize, rest)
            }
            len => {
                assert!(len < 126, "a masked frame");
                (usize::from(len), rest)
            }
        };
        let payload = rest.get(..len)?.to_vec();
        let end = self.bytes.len() - rest.len() + len;
        self.bytes.drain(..end);

        assert_eq!(first & 0xb0, 0x80, "a fragment or a reserved bit");
        let is_compressed = first & 0x40 != 0;
        assert!(
            !is_compressed || self.deflate,
            "compressed without a negotiation"
        );
        let payload = if is_compressed {
            inflate(&payload)
        } else {
            payload
        };
        Some(match first & 0x0f {
            1 => {
                std::str::from_utf8(&payload).expect("UTF-8");
                assert!(b"0123456b".contains(&payload[0]), "not a packet");
                Frame::Text(payload)
            }
            2 => Frame::Binary(payload),
            8 => {
                assert!(len <= 125 && len != 1);
                self.is_closed = true;
                assert!(self.bytes.is_empty(), "bytes after the close frame");
                Frame::Control
            }
            10 => {
                assert!(len <= 125);
                Frame::Control
            }
            opcode => panic!("opcode {opcode}"),
        })
    }
}

fn inflate(payload: &[u8]) -> Vec<u8> {
    let mut inflated = Vec::with_capacity(64 * payload.len() + 64);
    let input = [payload, &[0, 0, 0xff, 0xff]].concat();
    let mut decompress = Decompress::new(false);
    // Output may be left when all input is read.
    while decompress.total_in() < input.len() as u64 || inflated.len() == inflated.capacity() {
        inflated.reserve(1024);
        let rest = &input[decompress.total_in() as usize..];
        let status = decompress.decompress_vec(rest, &mut inflated, FlushDecompress::None);
        status.expect("valid compression");
    }
    inflated
}

/// Writes a frame of a client.
pub fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x17, 0x2a, 0x91, 0x04];
    let mut frame = vec![first];
    match u16::try_from(payload.len()) {
        Ok(len @ 0..126) => frame.push(0x80 | len as u8),
        Ok(len) => {
            frame.push(0x80 | 126);
            frame.extend(len.to_be_bytes());
        }
        Err(_) => {
            frame.push(0x80 | 127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    let masked = payload.iter().zip(MASK.iter().cycle());
    frame.extend(masked.map(|(byte, mask)| byte ^ mask));
    frame
}
