//! What the fuzz targets share.

pub mod script;
pub mod server;
pub mod session;

use bytes::Bytes;

/// Cuts bytes into pieces. The lengths repeat: a length of 0 stands for the rest.
pub fn pieces(data: &[u8], lengths: [u8; 3]) -> Vec<Bytes> {
    let mut lengths = lengths.into_iter().cycle();
    let mut pieces = Vec::new();
    let mut rest = data;
    while !rest.is_empty() {
        let len = match lengths.next() {
            None | Some(0) => rest.len(),
            Some(len) => rest.len().min(len.into()),
        };
        let (piece, after) = rest.split_at(len);
        pieces.push(Bytes::copy_from_slice(piece));
        rest = after;
    }
    pieces
}
