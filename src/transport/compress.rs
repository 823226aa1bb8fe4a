//! Compression of response bodies, as the client accepts it.

use std::cmp::Reverse;
use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use http::{HeaderMap, header};

/// A content encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Only for files that were compressed in advance.
    Brotli,
    Gzip,
    Deflate,
}

impl Encoding {
    /// The encodings that [`Encoding::encode`] supports.
    pub(super) const LIGHT: [Self; 2] = [Self::Gzip, Self::Deflate];

    /// Returns the offered encoding of the highest quality; of two with the same quality, the one
    /// that the client names first. `None` if `identity` has a higher one, or all have quality 0.
    pub(super) fn accepted(headers: &HeaderMap, offered: &[Self]) -> Option<Self> {
        let mut named = [None; 3];
        // RFC 9110, section 12.5.3:
        //
        // > The asterisk "*" symbol in an Accept-Encoding field matches any available content
        // > coding not explicitly listed in the field.
        let mut others = 0;
        let mut identity = 0;
        let lines = headers.get_all(header::ACCEPT_ENCODING).iter();
        let entries = lines.filter_map(|line| line.to_str().ok());
        for (nth, entry) in entries.flat_map(|line| line.split(',')).enumerate() {
            let (name, parameters) = entry.split_once(';').unwrap_or((entry, ""));
            let (name, quality) = (name.trim(), quality(parameters));
            let is = |each: &Self| name.eq_ignore_ascii_case(each.name());
            if let Some(at) = offered.iter().position(is) {
                // No later entry has a higher quality. The first entry of every browser has it.
                if quality == BEST && named[at].is_none() {
                    return Some(offered[at]);
                }
                named[at].get_or_insert((quality, nth));
            } else if name == "*" {
                others = quality;
            } else if name.eq_ignore_ascii_case("identity") {
                identity = quality;
            }
        }
        let likings = named.map(|named| named.unwrap_or((others, usize::MAX)));
        let liked = offered.iter().copied().zip(likings);
        let liked = liked.filter(|(_, (quality, _))| *quality > 0 && *quality >= identity);
        let best = liked.min_by_key(|(_, (quality, nth))| (Reverse(*quality), *nth));
        best.map(|(encoding, _)| encoding)
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }

    pub(super) fn encode(self, body: &[u8]) -> Bytes {
        // The client waits for the result, so speed is more important than size.
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

/// The quality 1, in thousandths.
const BEST: u16 = 1000;

/// Returns the quality of an encoding, in thousandths. A value that cannot be parsed counts as 0.
fn quality(parameters: &str) -> u16 {
    let parameters = parameters
        .split(';')
        .filter_map(|each| each.split_once('='));
    let mut named = parameters.map(|(name, value)| (name.trim(), value.trim()));
    let Some((_, value)) = named.find(|(name, _)| name.eq_ignore_ascii_case("q")) else {
        return BEST;
    };
    let value = value.parse().unwrap_or(0.0_f32);
    match (0.0..=1.0).contains(&value) {
        true => (value * f32::from(BEST)) as u16,
        false => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Encoding::{Brotli, Deflate, Gzip};

    #[test]
    fn the_clients_preferred_encoding_is_chosen() {
        for (line, encoding) in [
            ("gzip, deflate, br", Some(Gzip)),
            ("deflate, gzip", Some(Deflate)),
            ("gzip;q=0.5, deflate;q=0.9", Some(Deflate)),
            ("GZIP", Some(Gzip)),
            ("*", Some(Gzip)),
            ("identity", None),
            ("gzip;q=0", None),
            ("gzip;q=x", None),
            ("gzip;Q=0.5, deflate; q=0.25", Some(Gzip)),
            ("gzip;q=0.000", None),
            ("gzip;q=0.001", Some(Gzip)),
            ("gzip;q=2, deflate;q=0.1", Some(Deflate)),
            ("gzip;q=inf", None),
            ("gzip;q=-1", None),
            ("gzip;level=9", Some(Gzip)),
            ("gzip;level=9;q=0", None),
            // `*` does not match an encoding that is named.
            ("gzip;q=0, *", Some(Deflate)),
            ("*, gzip;q=0", Some(Deflate)),
            ("gzip;q=0, deflate;q=0, *", None),
            ("*;q=0", None),
            ("deflate, *;q=0", Some(Deflate)),
            ("*, deflate", Some(Deflate)),
            ("gzip;q=0.5, *", Some(Deflate)),
            ("identity, gzip;q=0.5", None),
            ("identity;q=0.5, gzip", Some(Gzip)),
            ("identity, gzip", Some(Gzip)),
            ("identity;q=0, gzip;q=0", None),
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
