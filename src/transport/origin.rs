//! The pages that may use the server.

use std::fmt;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderValue, header};

/// The pages that may use the server, by the origin that the browser sends.
///
/// Pages of the server's own origin are always allowed. Requests without an origin are allowed too:
/// this rule restricts browsers, and cannot stop any other client.
///
/// | configured | allowed |
/// |---|---|
/// | nothing | polling: every page that CORS allows; WebSocket: pages of the server's origin |
/// | [`Origins::same_origin`] | pages of the server's origin |
/// | [`Origins::list`] | also the pages of the listed origins |
/// | [`Origins::predicate`] | also the pages whose origin a function accepts |
/// | [`Origins::any`] | every page |
///
/// Browsers let any page open a WebSocket to any server, with the visitor's cookies, and read its
/// messages: CORS does not cover WebSocket. So the server refuses a WebSocket from a page of
/// another origin even if nothing is configured. An *upgrade* needs no such rule: its request has
/// the session's secret id, which a page knows only from a response that CORS let the page read.
///
/// # Behind a proxy
///
/// The server recognizes its own pages by the request's `Sec-Fetch-Site`. If the browser sends no
/// `Sec-Fetch-Site`, the server compares the origin with the request's `Host` and
/// `X-Forwarded-Host`. If a proxy passes the browser's `Host` on in neither of the two, every page
/// of such a browser seems to have another origin. Let the proxy pass `Host` on, or list the
/// origin.
///
/// ```
/// use tower_socketio::{Cors, Namespace, Origins, SocketIo};
///
/// let (layer, _io) = SocketIo::builder()
///     .namespace("/", Namespace::new())
///     .cors(Cors::new(Origins::list(["https://app.example"])).allow_credentials(true))
///     .build();
/// ```
#[derive(Clone)]
pub struct Origins(Rule);

type OriginPredicate = dyn Fn(&HeaderValue, &Parts) -> bool + Send + Sync;

#[derive(Clone)]
enum Rule {
    Any,
    SameOrigin,
    List(Arc<[String]>),
    Predicate(Arc<OriginPredicate>),
}

impl Origins {
    /// Allows every page. If the server knows its users only by cookies, any page can then act for
    /// each of its visitors.
    #[must_use]
    pub const fn any() -> Self {
        Self(Rule::Any)
    }

    /// Allows pages of the server's own origin.
    #[must_use]
    pub const fn same_origin() -> Self {
        Self(Rule::SameOrigin)
    }

    /// Allows pages of the listed origins. Write an origin as browsers do: `https://app.example`,
    /// `http://localhost:5173`; `null` for pages with an opaque origin, such as local files.
    ///
    /// # Panics
    ///
    /// Panics if an entry is not an origin.
    #[track_caller]
    #[must_use]
    pub fn list<I>(origins: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let mut list = Vec::new();
        for origin in origins {
            let origin = origin.into();
            let rest = origin.split_once("://").map(|(_, rest)| rest);
            assert!(
                origin == "null" || rest.is_some_and(|rest| !rest.contains('/')),
                "`{origin}` is not an origin: write `https://app.example`, without a path"
            );
            list.push(origin.to_ascii_lowercase());
        }
        Self(Rule::List(list.into()))
    }

    /// Allows pages whose `Origin` header a function accepts. The function also gets the head of
    /// the request.
    ///
    /// ```
    /// use tower_socketio::Origins;
    ///
    /// let ours = Origins::predicate(|origin, _request| {
    ///     origin.as_bytes().ends_with(b".app.example")
    /// });
    /// ```
    #[must_use]
    pub fn predicate<F>(predicate: F) -> Self
    where
        F: Fn(&HeaderValue, &Parts) -> bool + Send + Sync + 'static,
    {
        Self(Rule::Predicate(Arc::new(predicate)))
    }

    pub(super) const fn is_any(&self) -> bool {
        matches!(self.0, Rule::Any)
    }

    /// Returns whether the rule names the origin. [`Origins::allows`] also allows the server's own
    /// origin, which the rule need not name.
    pub(super) fn names_origin(&self, origin: &HeaderValue, parts: &Parts) -> bool {
        match &self.0 {
            Rule::Any => true,
            Rule::SameOrigin => false,
            Rule::List(list) => list
                .iter()
                .any(|each| origin.as_bytes().eq_ignore_ascii_case(each.as_bytes())),
            Rule::Predicate(predicate) => predicate(origin, parts),
        }
    }

    /// Returns whether a request may be served.
    pub(super) fn allows(&self, parts: &Parts) -> bool {
        let Some(origin) = parts.headers.get(header::ORIGIN) else {
            return true;
        };
        self.names_origin(origin, parts) || is_same_origin(origin, parts)
    }
}

/// Returns whether `origin` is the server's own.
///
/// A page cannot forge the headers that this function reads. It cannot set `Sec-Fetch-Site` or
/// `Host` at all. It cannot add `X-Forwarded-Host` to the request for a WebSocket. It can add
/// `X-Forwarded-Host` to another request to a foreign server only if CORS allows the header.
fn is_same_origin(origin: &HeaderValue, parts: &Parts) -> bool {
    if let Some(site) = parts.headers.get("sec-fetch-site") {
        return matches!(site.as_bytes(), b"same-origin" | b"none");
    }
    let Some((scheme, authority)) = origin.to_str().ok().and_then(|text| text.split_once("://"))
    else {
        return false;
    };
    let port = match scheme {
        "https" => ":443",
        _ => ":80",
    };
    let without_port = |host: &str| host.strip_suffix(port).unwrap_or(host).to_ascii_lowercase();
    let own = without_port(authority);
    let header = |name: &str| {
        let value = parts.headers.get(name)?.to_str().ok()?;
        value.split(',').next().map(str::trim)
    };
    let uri = parts.uri.authority().map(|authority| authority.as_str());
    [uri, header("host"), header("x-forwarded-host")]
        .into_iter()
        .flatten()
        .any(|host| without_port(host) == own)
}

impl fmt::Debug for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Rule::Any => f.write_str("Any"),
            Rule::SameOrigin => f.write_str("SameOrigin"),
            Rule::List(list) => f.debug_tuple("List").field(list).finish(),
            Rule::Predicate(_) => f.write_str("Predicate(..)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::get("/socket.io/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    #[test]
    fn the_servers_own_origin_is_known_by_its_host() {
        for (origin, host) in [
            ("http://a.example", "a.example"),
            ("https://a.example", "A.example:443"),
            ("http://a.example:80", "a.example"),
            ("http://localhost:3000", "localhost:3000"),
            ("http://[::1]:3000", "[::1]:3000"),
        ] {
            let own = parts(&[("origin", origin), ("host", host)]);
            assert!(Origins::same_origin().allows(&own), "{origin} {host}");
        }
        for (origin, host) in [
            ("http://b.example", "a.example"),
            ("http://a.example:8080", "a.example"),
            ("http://a.example.evil", "a.example"),
            ("null", "a.example"),
            ("a.example", "a.example"),
            ("http://", ""),
        ] {
            let foreign = parts(&[("origin", origin), ("host", host)]);
            assert_eq!(
                Origins::same_origin().allows(&foreign),
                origin == "http://" && host.is_empty(),
                "{origin} {host}"
            );
        }
    }

    #[test]
    fn a_forwarded_host_counts_as_the_servers_host() {
        let origin = ("origin", "https://a.example");
        let forwarded = ("x-forwarded-host", "a.example, inner");
        let own = parts(&[origin, ("host", "127.0.0.1:3000"), forwarded]);
        assert!(Origins::same_origin().allows(&own));
    }

    #[test]
    fn the_header_of_the_browser_has_priority() {
        let origin = ("origin", "https://a.example");
        let own = parts(&[origin, ("host", "inner"), ("sec-fetch-site", "same-origin")]);
        assert!(Origins::same_origin().allows(&own));
        let foreign = parts(&[
            origin,
            ("host", "a.example"),
            ("sec-fetch-site", "cross-site"),
        ]);
        assert!(!Origins::same_origin().allows(&foreign));
    }

    #[test]
    fn a_request_without_an_origin_is_allowed() {
        assert!(Origins::same_origin().allows(&parts(&[("host", "a.example")])));
    }

    #[test]
    #[should_panic(expected = "`https://a.example/` is not an origin")]
    fn an_origin_with_a_path_panics() {
        let _ = Origins::list(["https://a.example/"]);
    }
}
