//! The query of an Engine.IO request, the parameters of a session, and refusals.

use std::borrow::Cow;
use std::fmt;

use memchr::{memchr, memchr2};

/// How a session moves packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// HTTP long-polling.
    Polling,
    /// WebSocket.
    WebSocket,
}

impl Transport {
    /// Returns the transport's name, as the query has it.
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

/// A revision of the Engine.IO protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Revision {
    /// Revision 3, of Socket.IO clients up to version 2: the client pings, and the server answers.
    /// Served only if [`Config::allow_eio3`](super::Config::allow_eio3) is set.
    V3,
    /// Revision 4, of Socket.IO clients from version 3 on: the server pings.
    V4,
}

impl Revision {
    /// Returns the revision's number, the value of `EIO` in the query.
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

/// The parsed query of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HandshakeQuery<'a> {
    /// `transport`. Every request must have it.
    pub transport: Transport,
    /// `sid`, the id of the session. `None` if it is missing or empty.
    pub sid: Option<Cow<'a, str>>,
    /// `EIO`. Any value but 4, or no value, counts as 3.
    pub revision: Revision,
    /// `b64`: whether binary messages must be sent as base64 text.
    pub base64: bool,
    /// `j`: whether polls must be answered with JSONP scripts.
    pub jsonp: bool,
}

impl<'a> HandshakeQuery<'a> {
    /// Parses a query.
    ///
    /// # Errors
    ///
    /// Fails with [`Refusal::UnknownTransport`] if `transport` is missing or not known.
    pub(crate) fn parse(query: &'a str) -> Result<Self, Refusal> {
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

    /// Returns the parameters that apply to the whole session.
    #[must_use]
    pub(crate) fn params(&self) -> SessionParams {
        SessionParams {
            transport: self.transport,
            revision: self.revision,
            base64: self.base64,
            jsonp: self.jsonp && self.transport == Transport::Polling,
        }
    }
}

/// The parameters of a session, which its handshake decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) struct SessionParams {
    /// The transport that the session begins with.
    pub transport: Transport,
    /// The revision of the Engine.IO protocol.
    pub revision: Revision,
    /// Whether binary messages are sent as base64 text.
    pub base64: bool,
    /// Whether polls are answered with JSONP scripts. Always `false` for WebSocket.
    pub jsonp: bool,
}

/// The start of the JavaScript client's query when it polls.
const USUAL: &str = "EIO=4&transport=polling&";

/// Calls a function with each name and value of a query.
///
/// Fields without `%` and `+` are not decoded. Clients' queries have none, and to decode them took
/// a tenth of the time of a poll.
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

/// Splits off the text before a byte, and drops the byte. Returns all of the text if it has no such
/// byte.
fn cut<'a>(text: &mut &'a str, at: u8) -> &'a str {
    let found = memchr(at, text.as_bytes());
    let (taken, rest) = text.split_at(found.unwrap_or(text.len()));
    *text = rest.get(1..).unwrap_or_default();
    taken
}

/// Why an HTTP request is refused.
///
/// Code, message and status are those of the reference implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// `transport` is missing, not known or not enabled.
    UnknownTransport,
    /// No session has this id, or the session has ended.
    UnknownSession,
    /// The handshake is not a GET request.
    BadMethod,
    /// The request does not fit the session's state.
    BadRequest,
    /// The application refused the request.
    Forbidden,
    /// `EIO` is not 4, and [`Config::allow_eio3`](super::Config::allow_eio3) is off.
    UnsupportedVersion,
    /// The server is full, or it is shutting down.
    Unavailable,
    /// The request's body is longer than allowed.
    PayloadTooLarge,
    /// The request's body did not arrive in time.
    RequestTimeout,
    /// The request's head is longer than
    /// [`Config::max_handshake`](super::Config::max_handshake).
    HeadTooLong,
}

impl Refusal {
    /// Returns the `code` of the body.
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

    /// Returns the `message` of the body.
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

    /// Returns the HTTP status.
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

    /// Returns the body, as JSON.
    #[must_use]
    pub fn body(self) -> String {
        self.body_with_message(self.message())
    }

    /// Returns the body with another `message`.
    #[must_use]
    pub fn body_with_message(self, message: &str) -> String {
        // A string always serializes to JSON.
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
        let handshake =
            HandshakeQuery::parse("EIO=4&transport=polling&sid=a%20b&b64=1").expect("valid");
        assert_eq!(handshake.transport, Transport::Polling);
        assert_eq!(handshake.sid.as_deref(), Some("a b"));
        assert_eq!(handshake.revision, Revision::V4);
        assert!(handshake.base64);
    }

    #[test]
    fn every_other_revision_counts_as_revision_3() {
        for eio in ["", "EIO=3&", "EIO=abc&", "EIO=4&EIO=3&", "EIO=04&"] {
            let query = format!("{eio}transport=polling");
            let handshake = HandshakeQuery::parse(&query).expect("valid");
            assert_eq!(handshake.revision, Revision::V3, "{query}");
        }
    }

    #[test]
    fn an_empty_sid_counts_as_missing() {
        let handshake = HandshakeQuery::parse("EIO=4&transport=websocket&sid=").expect("valid");
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
            assert_eq!(HandshakeQuery::parse(query), Err(Refusal::UnknownTransport));
        }
    }

    #[test]
    fn a_refusal_has_the_body_of_the_reference_server() {
        assert_eq!(
            Refusal::UnknownSession.body(),
            r#"{"code":1,"message":"Session ID unknown"}"#
        );
    }
}
