//! A request's method and query become a handshake, or a refusal with its HTTP body.

use std::borrow::Cow;
use std::fmt;

use memchr::{memchr, memchr2};

/// How packets travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// HTTP long-polling.
    Polling,
    /// WebSocket.
    WebSocket,
}

impl Transport {
    /// Its name in a query.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Polling => "polling",
            Self::WebSocket => "websocket",
        }
    }

    fn named(name: &str) -> Option<Self> {
        match name {
            "polling" => Some(Self::Polling),
            "websocket" => Some(Self::WebSocket),
            _ => None,
        }
    }
}

/// A revision of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Revision {
    /// Revision 3, of the clients of version 2 and before: they ping, and the server answers. Only
    /// served where [`Config::allow_eio3`](super::Config::allow_eio3) says so.
    V3,
    /// Revision 4, of the clients of version 3 and later: the server pings.
    V4,
}

impl Revision {
    /// Its number in a query.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::V3 => 3,
            Self::V4 => 4,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the query of a request says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake<'a> {
    /// `transport`, which every request must name.
    pub transport: Transport,
    /// `sid`, if the session is known already. An empty one counts as none.
    pub sid: Option<Cow<'a, str>>,
    /// `EIO`: what is not 4 counts as 3.
    pub revision: Revision,
    /// Whether binary messages must travel as text, `b64=1`.
    pub base64: bool,
    /// Whether answers are to be scripts, `j`.
    pub jsonp: bool,
}

impl<'a> Handshake<'a> {
    /// Reads a query.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnknownTransport`] if it names none that is known.
    pub fn parse(query: &'a str) -> Result<Self, Refusal> {
        let mut transport = None;
        let mut sid = None;
        let mut revision = Revision::V3;
        let mut base64 = false;
        let mut jsonp = false;
        let mut rest = query;
        if let Some(after) = query.strip_prefix(USUAL) {
            (transport, revision) = (Some(Transport::Polling), Revision::V4);
            rest = after;
        }
        each_field(rest, |name, value| match name {
            "transport" => transport = Transport::named(&value),
            "sid" => sid = Some(value).filter(|sid| !sid.is_empty()),
            "EIO" if value == "4" => revision = Revision::V4,
            "EIO" => revision = Revision::V3,
            "b64" => base64 = !value.is_empty() && value != "0",
            "j" => jsonp = true,
            _ => {}
        });
        Ok(Self {
            transport: transport.ok_or(Refusal::UnknownTransport)?,
            sid,
            revision,
            base64,
            jsonp,
        })
    }

    /// What of it lasts as long as the session.
    #[must_use]
    pub fn opening(&self) -> Opening {
        Opening {
            transport: self.transport,
            revision: self.revision,
            base64: self.base64,
            jsonp: self.jsonp && self.transport == Transport::Polling,
        }
    }
}

/// What the first request says of all the later ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Opening {
    /// The transport that the session begins with.
    pub transport: Transport,
    /// The revision of the protocol.
    pub revision: Revision,
    /// Whether binary messages travel as text.
    pub base64: bool,
    /// Whether polls are answered with scripts.
    pub jsonp: bool,
}

/// What the JavaScript client's queries begin with when it polls.
const USUAL: &str = "EIO=4&transport=polling&";

/// Gives each name and value of a query. What clients send has nothing to decode, and decoding it
/// all the same was a tenth of what a poll costs.
fn each_field<'a>(query: &'a str, mut take: impl FnMut(&str, Cow<'a, str>)) {
    let mut rest = query;
    while !rest.is_empty() {
        let field = cut(&mut rest, b'&');
        if memchr2(b'%', b'+', field.as_bytes()).is_some() {
            for (name, value) in form_urlencoded::parse(field.as_bytes()) {
                take(&name, value);
            }
            continue;
        }
        let mut value = field;
        let name = cut(&mut value, b'=');
        take(name, Cow::Borrowed(value));
    }
}

/// Takes what is before a byte, or all; the byte goes too.
fn cut<'a>(text: &mut &'a str, at: u8) -> &'a str {
    let found = memchr(at, text.as_bytes());
    let (taken, rest) = text.split_at(found.unwrap_or(text.len()));
    *text = rest.get(1..).unwrap_or_default();
    taken
}

/// Why a request is not served; each has the code, the message and the status of the reference
/// implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// `transport` is missing, not known or not enabled.
    UnknownTransport,
    /// There is no session of that id, or it has ended.
    UnknownSession,
    /// A handshake that is not a GET.
    BadMethod,
    /// A request that does not fit the session's state.
    BadRequest,
    /// The application says no.
    Forbidden,
    /// `EIO` is not 4, and [`Config::allow_eio3`](super::Config::allow_eio3) is off.
    UnsupportedVersion,
    /// The server is full, or it is shutting down.
    Unavailable,
    /// The body of a request is longer than allowed.
    PayloadTooLarge,
    /// The body of a request did not come in time.
    RequestTimeout,
    /// The head of the request is longer than
    /// [`Config::max_handshake`](super::Config::max_handshake).
    HeadTooLong,
}

impl Refusal {
    /// The `code` of the body.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::UnknownTransport => 0,
            Self::UnknownSession => 1,
            Self::BadMethod => 2,
            Self::BadRequest | Self::PayloadTooLarge | Self::RequestTimeout | Self::HeadTooLong => {
                3
            }
            Self::Forbidden | Self::Unavailable => 4,
            Self::UnsupportedVersion => 5,
        }
    }

    /// The `message` of the body.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::UnknownTransport => "Transport unknown",
            Self::UnknownSession => "Session ID unknown",
            Self::BadMethod => "Bad handshake method",
            Self::BadRequest => "Bad request",
            Self::Forbidden => "Forbidden",
            Self::UnsupportedVersion => "Unsupported protocol version",
            Self::Unavailable => "Service unavailable",
            Self::PayloadTooLarge => "Payload too large",
            Self::RequestTimeout => "Request timeout",
            Self::HeadTooLong => "Request header fields too large",
        }
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Forbidden => 403,
            Self::Unavailable => 503,
            Self::PayloadTooLarge => 413,
            Self::RequestTimeout => 408,
            Self::HeadTooLong => 431,
            _ => 400,
        }
    }

    /// The body, JSON.
    #[must_use]
    pub fn body(self) -> String {
        self.body_saying(self.message())
    }

    /// The body with another message.
    #[must_use]
    pub fn body_saying(self, message: &str) -> String {
        // A string is always JSON.
        let message = serde_json::to_string(message).unwrap_or_default();
        format!(r#"{{"code":{},"message":{message}}}"#, self.code())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read() {
        let handshake = Handshake::parse("EIO=4&transport=polling&sid=a%20b&b64=1").expect("valid");
        assert_eq!(handshake.transport, Transport::Polling);
        assert_eq!(handshake.sid.as_deref(), Some("a b"));
        assert_eq!(handshake.revision, Revision::V4);
        assert!(handshake.base64);
    }

    #[test]
    fn what_is_not_revision_4_is_revision_3() {
        for eio in ["", "EIO=3&", "EIO=abc&", "EIO=4&EIO=3&", "EIO=04&"] {
            let query = format!("{eio}transport=polling");
            let handshake = Handshake::parse(&query).expect("valid");
            assert_eq!(handshake.revision, Revision::V3, "{query}");
        }
    }

    #[test]
    fn an_empty_sid_is_none() {
        let handshake = Handshake::parse("EIO=4&transport=websocket&sid=").expect("valid");
        assert_eq!(handshake.sid, None);
    }

    #[test]
    fn unknown_transports_are_refused() {
        for query in [
            "EIO=4",
            "transport=webtransport",
            "transport=constructor",
            "transport=__proto__",
        ] {
            assert_eq!(Handshake::parse(query), Err(Refusal::UnknownTransport));
        }
    }

    #[test]
    fn the_body_is_that_of_the_reference() {
        assert_eq!(
            Refusal::UnknownSession.body(),
            r#"{"code":1,"message":"Session ID unknown"}"#
        );
    }
}
