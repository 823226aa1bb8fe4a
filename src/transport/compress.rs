//! Bodies that leave smaller, as the client accepts it.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use http::{HeaderMap, header};

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Only where somebody has done it before.
    Brotli,
    Gzip,
    Deflate,
}

impl Encoding {
    /// What [`Encoding::encode`] can do.
    pub(super) const LIGHT: [Self; 2] = [Self::Gzip, Self::Deflate];

    /// The encoding that the client likes best of those offered; of two that it likes the same,
    /// the one that it names first.
    pub(super) fn accepted(headers: &HeaderMap, offered: &[Self]) -> Option<Self> {
        let mut best = None;
        let mut best_quality = 0.0;
        let lines = headers.get_all(header::ACCEPT_ENCODING).iter();
        let entries = lines.filter_map(|line| line.to_str().ok());
        for entry in entries.flat_map(|line| line.split(',')) {
            let (name, parameters) = entry.split_once(';').unwrap_or((entry, ""));
            let named = offered.iter().copied().find(|each| {
                let name = name.trim();
                name == "*" || name.eq_ignore_ascii_case(each.name())
            });
            let quality = quality(parameters);
            if named.is_some() && quality > best_quality {
                (best, best_quality) = (named, quality);
            }
        }
        best
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }

    pub(super) fn encode(self, body: &[u8]) -> Bytes {
        // It is done while somebody waits, so speed goes before size.
        let level = Compression::fast();
        let room = Vec::with_capacity(body.len() / 2);
        // Writing to memory cannot fail.
        let written = match self {
            Self::Gzip => {
                let mut encoder = GzEncoder::new(room, level);
                encoder.write_all(body).and_then(|()| encoder.finish())
            }
            Self::Deflate | Self::Brotli => {
                let mut encoder = ZlibEncoder::new(room, level);
                encoder.write_all(body).and_then(|()| encoder.finish())
            }
        };
        written.unwrap_or_default().into()
    }
}

fn quality(parameters: &str) -> f32 {
    let value = parameters.trim().strip_prefix("q=");
    value.map_or(1.0, |value| value.trim().parse().unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Encoding::{Brotli, Deflate, Gzip};

    #[test]
    fn the_encoding_is_the_one_that_the_client_likes_best() {
        for (line, encoding) in [
            ("gzip, deflate, br", Some(Gzip)),
            ("deflate, gzip", Some(Deflate)),
            ("gzip;q=0.5, deflate;q=0.9", Some(Deflate)),
            ("GZIP", Some(Gzip)),
            ("*", Some(Gzip)),
            ("identity", None),
            ("gzip;q=0", None),
            ("gzip;q=x", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, line.parse().expect("a value"));
            assert_eq!(
                Encoding::accepted(&headers, &Encoding::LIGHT),
                encoding,
                "{line}"
            );
        }
        let mut headers = HeaderMap::new();
        let line = "gzip, br;q=1.0".parse().expect("a value");
        headers.insert(header::ACCEPT_ENCODING, line);
        assert_eq!(Encoding::accepted(&headers, &[Brotli]), Some(Brotli));
    }
}
