//! The public view of a client's handshake.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{ConnectInfo, OriginalUri};
use http::request::Parts;
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::Serialize;
use serde::ser::Serializer;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Socket;
use crate::calendar::civil;
use crate::protocol::read_json;

/// The first HTTP request of a client, and its `auth` for a namespace.
///
/// [`Socket::handshake`] returns it. It serializes to the fields and formats of `socket.handshake`
/// in the reference implementation.
///
/// ```
/// # fn f(socket: tower_socketio::Socket) {
/// let handshake = socket.handshake();
/// let token = handshake.query.get("token");
/// let agent = handshake.headers.get("user-agent");
/// # }
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct Handshake {
    /// The headers of the first request.
    pub headers: HeaderMap,
    /// The address of the client. It is `None` unless the app is served with axum's
    /// `into_make_service_with_connect_info::<SocketAddr>`. Behind a proxy it is the address of
    /// the proxy.
    pub address: Option<IpAddr>,
    /// Whether the request has an `Origin` header. Browsers send one from another site.
    pub xdomain: bool,
    /// Whether the connection is encrypted. This is `true` if the URI of the request has the scheme
    /// `https`, as over HTTP/2, or if its extensions contain [`Scheme::HTTPS`]. The code that
    /// accepts TLS connections can insert that extension.
    pub secure: bool,
    /// The time at which the client sent the CONNECT of the namespace.
    pub issued: SystemTime,
    /// The path and the query of the first request, not decoded.
    pub url: String,
    /// The decoded query of the first request. If a name occurs more than once, the last value.
    pub query: BTreeMap<String, String>,
    /// The `auth` that the client sent for the namespace, or `{}` if it sent none.
    pub auth: Value,
}

impl Socket {
    /// Returns the first HTTP request of the client, and its `auth` for the namespace.
    ///
    /// Each call creates the value anew.
    #[must_use]
    pub fn handshake(&self) -> Handshake {
        let parts = self.member.session.request.parts();
        let auth = self.member.auth.as_deref();
        let issued = UNIX_EPOCH + Duration::from_millis(self.member.issued);
        // It was checked to be JSON when it was received, so reading it does not fail.
        let auth = auth.and_then(|auth| read_json(auth).ok());
        Handshake::new(
            parts,
            issued,
            auth.unwrap_or_else(|| Value::Object(Default::default())),
        )
    }
}

impl Socket {
    /// Returns the handshake as JSON, in the form of `socket.handshake` in Node's server.
    pub(super) fn handshake_json(&self) -> Arc<str> {
        let info = self.member.session.request.extension();
        let address = info.map(|info: ConnectInfo<SocketAddr>| info.0.ip());
        let auth = self.member.auth.as_deref().unwrap_or("{}");
        let auth = serde_json::from_str::<&RawValue>(auth).ok();
        self.node_handshake(self::address(address), Some(auth), Shown::ALL)
            .into()
    }

    /// Returns the length of the headers and the query, in bytes.
    #[cfg(feature = "admin-ui")]
    pub(crate) fn head_len(&self) -> usize {
        let request = &self.member.session.request;
        let headers = request.headers();
        let headers: usize = headers.map(|(name, value)| name.len() + value.len()).sum();
        headers + request.uri().query().map_or(0, str::len)
    }

    /// Returns the handshake as JSON without `auth`. A header of a proxy may say what the client's
    /// address is.
    #[cfg(feature = "admin-ui")]
    pub(crate) fn public_handshake_json(&self, shown: Shown) -> String {
        let request = &self.member.session.request;
        let of = |name| request.headers().find(|(each, _)| *each == name);
        let proxied = of("cf-connecting-ip").or_else(|| of("x-forwarded-for"));
        let address = proxied.map_or_else(
            || {
                let info = request.extension::<ConnectInfo<SocketAddr>>();
                self::address(info.map(|info| info.0.ip()))
            },
            |(_, value)| latin1(&value[..value.len().min(MAX_ADDRESS)]).into_owned(),
        );
        self.node_handshake(address, None::<()>, shown)
    }

    fn node_handshake(
        &self,
        address: String,
        auth: Option<impl Serialize>,
        shown: Shown,
    ) -> String {
        let request = &self.member.session.request;
        let issued = self.member.issued;
        let uri = request.uri();
        let scheme = request.extension::<Scheme>();
        let json = NodeHandshake {
            headers: Headers {
                list: request.headers().filter(|_| shown.head).collect(),
                has_credentials: shown.credentials,
            },
            time: date(issued / 1000),
            address,
            xdomain: request.headers().any(|(name, _)| name == header::ORIGIN),
            secure: scheme.as_ref().or(uri.scheme()) == Some(&Scheme::HTTPS),
            issued,
            url: match uri.path_and_query() {
                Some(url) if shown.head => url.as_str(),
                _ => uri.path(),
            },
            query: if shown.head {
                query(&uri)
            } else {
                BTreeMap::new()
            },
            auth,
        };
        // It can always be written.
        serde_json::to_string(&json).unwrap_or_default()
    }
}

/// Which parts of a handshake are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    /// The headers and the query.
    pub(crate) head: bool,
    /// The values of the headers in [`CREDENTIALS`].
    pub(crate) credentials: bool,
}

impl Shown {
    const ALL: Self = Self {
        head: true,
        credentials: true,
    };
}

/// The longest address that a header of a proxy may say, in bytes. Clients can send that header too.
#[cfg(feature = "admin-ui")]
const MAX_ADDRESS: usize = 256;

/// A handshake in the form of `socket.handshake` in Node's server.
#[derive(Serialize)]
struct NodeHandshake<'a, Query, Auth> {
    headers: Headers<'a>,
    time: String,
    /// Empty if it is not known: scripts expect a text.
    address: String,
    xdomain: bool,
    secure: bool,
    issued: u64,
    url: &'a str,
    query: Query,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth: Option<Auth>,
}

fn address(address: Option<IpAddr>) -> String {
    address.map_or_else(String::new, |address| address.to_string())
}

/// Returns the query parameters. The last of a name counts.
fn query(uri: &http::Uri) -> BTreeMap<Cow<'_, str>, Cow<'_, str>> {
    form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).collect()
}

impl Handshake {
    fn new(parts: Parts, issued: SystemTime, auth: Value) -> Self {
        let original = parts.extensions.get::<OriginalUri>();
        let uri = original.map_or(&parts.uri, |original| &original.0);
        let url = uri.path_and_query().map_or("/", |url| url.as_str());
        let query = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        let info = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let scheme = parts.extensions.get::<Scheme>();
        Self {
            address: info.map(|info| info.0.ip()),
            xdomain: parts.headers.contains_key(header::ORIGIN),
            secure: scheme.or(uri.scheme()) == Some(&Scheme::HTTPS),
            issued,
            url: url.to_owned(),
            query: query.into_owned().collect(),
            auth,
            headers: parts.headers,
        }
    }

    /// Reads the handshake of a socket of another server, as JSON. A field that is missing or has another
    /// form is empty.
    pub(super) fn from_node(handshake: &str) -> Self {
        // Each field is read on its own: a client chooses what its `auth` is.
        let raw: BTreeMap<String, Box<RawValue>> =
            serde_json::from_str(handshake).unwrap_or_default();
        let read = |(name, raw): (String, Box<RawValue>)| Some((name, read_json(raw.get()).ok()?));
        let handshake = Value::Object(raw.into_iter().filter_map(read).collect());
        let text = |field: &str| handshake[field].as_str().unwrap_or_default();
        let fields = |field: &str| handshake[field].as_object().into_iter().flatten();
        let headers = fields("headers").filter_map(|(name, value)| {
            let value = value.as_str()?.chars().map(|char| u8::try_from(char).ok());
            let value = value.collect::<Option<Vec<u8>>>()?;
            let value = HeaderValue::from_bytes(&value).ok()?;
            Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
        });
        let query = fields("query").map(|(name, value)| {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            (name.clone(), text)
        });
        let issued = Duration::from_millis(handshake["issued"].as_u64().unwrap_or_default());
        Self {
            headers: headers.collect(),
            address: text("address").parse().ok(),
            xdomain: handshake["xdomain"].as_bool().unwrap_or_default(),
            secure: handshake["secure"].as_bool().unwrap_or_default(),
            issued: UNIX_EPOCH.checked_add(issued).unwrap_or(UNIX_EPOCH),
            url: text("url").to_owned(),
            query: query.collect(),
            auth: match &handshake["auth"] {
                Value::Null => Value::Object(Default::default()),
                auth => auth.clone(),
            },
        }
    }

    /// Returns [`issued`](Self::issued) as text, in the format of JavaScript's `Date`:
    /// `Sun Nov 22 2026 13:28:00 GMT+0000 (Coordinated Universal Time)`.
    #[must_use]
    pub fn time(&self) -> String {
        date(self.issued_ms() / 1000)
    }

    /// Returns [`issued`](Self::issued) in milliseconds since 1970.
    fn issued_ms(&self) -> u64 {
        let since = self.issued.duration_since(UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis() as u64)
    }
}

impl Serialize for Handshake {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let headers = self.headers.iter();
        let node = NodeHandshake {
            headers: Headers {
                list: headers
                    .map(|(name, value)| (name.as_str(), value.as_bytes()))
                    .collect(),
                has_credentials: true,
            },
            time: self.time(),
            address: address(self.address),
            xdomain: self.xdomain,
            secure: self.secure,
            issued: self.issued_ms(),
            url: &self.url,
            query: &self.query,
            auth: Some(&self.auth),
        };
        node.serialize(serializer)
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The headers, the query and the `auth` may contain secrets.
        f.debug_struct("Handshake")
            .field("address", &self.address)
            .field("issued", &self.issued)
            .finish_non_exhaustive()
    }
}

/// Headers in Node's form: one text for each name. Those with the same name stand together.
struct Headers<'a> {
    list: Vec<(&'a str, &'a [u8])>,
    /// Whether the values of the headers in [`CREDENTIALS`] are written.
    has_credentials: bool,
}

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.list.chunk_by(|a, b| a.0 == b.0).map(|same| {
            let (name, first) = same[0];
            if !self.has_credentials && CREDENTIALS.iter().any(|each| each == name) {
                return (name, "…".into());
            }
            if same.len() == 1 || KEEPS_FIRST.iter().any(|each| each == name) {
                return (name, latin1(first));
            }
            let separator = if name == header::COOKIE { "; " } else { ", " };
            let values = same.iter().map(|(_, value)| latin1(value));
            (name, values.collect::<Vec<_>>().join(separator).into())
        }))
    }
}

fn latin1(value: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(value)
        .ok()
        .filter(|text| text.is_ascii())
    {
        Some(ascii) => ascii.into(),
        None => value.iter().copied().map(char::from).collect(),
    }
}

/// The headers that let in whoever sends them.
const CREDENTIALS: [HeaderName; 3] = [
    header::AUTHORIZATION,
    header::COOKIE,
    header::PROXY_AUTHORIZATION,
];

/// The headers of which Node keeps only the first value:
/// <https://nodejs.org/api/http.html#messageheaders>.
const KEEPS_FIRST: [HeaderName; 16] = [
    header::AGE,
    header::AUTHORIZATION,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::ETAG,
    header::EXPIRES,
    header::FROM,
    header::HOST,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
    header::LAST_MODIFIED,
    header::LOCATION,
    header::MAX_FORWARDS,
    header::PROXY_AUTHORIZATION,
    header::REFERER,
    header::USER_AGENT,
];

/// Formats a time, in seconds since 1970, as JavaScript's `Date` does.
fn date(seconds: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let days = seconds / 86_400;
    let (year, month, day) = civil(days as i64);
    format!(
        "{} {} {day:02} {year:04} {:02}:{:02}:{:02} GMT+0000 (Coordinated Universal Time)",
        DAYS[(days % 7) as usize],
        MONTHS[month as usize - 1],
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_by_javascript() {
        // Each text is the value of `new Date(ms) + ""` in UTC.
        for (seconds, expected) in [
            (0, "Thu Jan 01 1970 00:00:00"),
            (951_782_400, "Tue Feb 29 2000 00:00:00"),
            (951_868_799, "Tue Feb 29 2000 23:59:59"),
            (1_709_251_200, "Fri Mar 01 2024 00:00:00"),
            (1_735_689_599, "Tue Dec 31 2024 23:59:59"),
            (1_795_354_080, "Sun Nov 22 2026 13:28:00"),
            (4_107_542_400, "Mon Mar 01 2100 00:00:00"),
        ] {
            let expected = format!("{expected} GMT+0000 (Coordinated Universal Time)");
            assert_eq!(date(seconds), expected);
        }
    }

    #[test]
    fn headers_are_joined_as_by_node() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-many", "1"),
            ("x-many", "2"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("host", "first"),
            ("host", "second"),
        ] {
            let name = HeaderName::from_static(name);
            headers.append(name, HeaderValue::from_static(value));
        }
        headers.insert(
            "x-latin",
            HeaderValue::from_bytes(b"\xe9").expect("a value"),
        );
        let headers = headers.iter();
        let headers = headers.map(|(name, value)| (name.as_str(), value.as_bytes()));
        let headers = Headers {
            list: headers.collect(),
            has_credentials: true,
        };
        let json = serde_json::to_value(headers).expect("serializable");
        let expected = serde_json::json!({
            "x-many": "1, 2", "cookie": "a=1; b=2", "host": "first", "x-latin": "é",
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn debug_shows_no_secret() {
        let mut parts = http::Request::new(()).into_parts().0;
        parts.uri = "/?token=secret".parse().expect("a URI");
        let handshake = Handshake::new(parts, UNIX_EPOCH, "secret".into());
        assert!(!format!("{handshake:?}").contains("secret"));
    }
}
