//! The cookie that holds the session's id, for load balancers.

use std::fmt::{self, Write as _};
use std::time::Duration;

use http::HeaderValue;

use crate::engine_io::SessionId;

/// A cookie with the session's id, by which a load balancer sends a client to the same server.
///
/// The response that opens a session over polling sets it:
/// `io=…; Path=/; HttpOnly; SameSite=Lax`. The server itself does not read it. It holds the
/// session's secret, so keep it `HttpOnly`.
///
/// ```
/// use tower_socketio::SessionCookie;
///
/// let cookie = SessionCookie::new("server").secure(true).domain("app.example");
/// ```
#[derive(Clone)]
#[must_use]
pub struct SessionCookie {
    name: String,
    path: Option<String>,
    domain: Option<String>,
    max_age: Option<Duration>,
    http_only: bool,
    secure: bool,
    same_site: &'static str,
    more: String,
}

impl SessionCookie {
    /// Creates a cookie with this name. Node's server calls it `io`.
    ///
    /// # Panics
    ///
    /// Panics if `name` is not a valid name of a cookie.
    #[track_caller]
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        assert!(
            http::HeaderName::from_bytes(name.as_bytes()).is_ok(),
            "`{name}` is no name of a cookie"
        );
        Self {
            name,
            path: Some("/".to_owned()),
            domain: None,
            max_age: None,
            http_only: true,
            secure: false,
            same_site: "Lax",
            more: String::new(),
        }
    }

    /// Sets `Path`: browsers send the cookie to this path and those below it. With `None` the
    /// attribute is not sent, and browsers use the path of the request.
    ///
    /// Default: `/`.
    ///
    /// # Panics
    ///
    /// Panics if `path` holds a `;`, or a character that is not printable ASCII.
    #[track_caller]
    pub fn path<'a>(mut self, path: impl Into<Option<&'a str>>) -> Self {
        let path = path.into();
        if let Some(path) = path {
            check(path);
        }
        self.path = path.map(str::to_owned);
        self
    }

    /// Sets `Domain`: browsers send the cookie to this domain and those below it.
    ///
    /// Default: not sent; browsers send the cookie to the host only.
    ///
    /// # Panics
    ///
    /// Panics if `domain` holds a `;`, or a character that is not printable ASCII.
    #[track_caller]
    pub fn domain(mut self, domain: &str) -> Self {
        check(domain);
        self.domain = Some(domain.to_owned());
        self
    }

    /// Sets `Max-Age`: how long browsers keep the cookie.
    ///
    /// Default: not sent; browsers keep the cookie until they are closed.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// Sets `HttpOnly`: scripts cannot read the cookie.
    ///
    /// Default: `true`.
    pub fn http_only(mut self, enabled: bool) -> Self {
        self.http_only = enabled;
        self
    }

    /// Sets `Secure`: browsers send the cookie over HTTPS only. `SameSite=None` needs it.
    ///
    /// Default: `false`.
    pub fn secure(mut self, enabled: bool) -> Self {
        self.secure = enabled;
        self
    }

    /// Sets `SameSite`: the pages whose requests carry the cookie.
    ///
    /// Default: [`SameSite::Lax`].
    pub fn same_site(mut self, same_site: SameSite) -> Self {
        self.same_site = match same_site {
            SameSite::Strict => "Strict",
            SameSite::Lax => "Lax",
            SameSite::None => "None",
        };
        self
    }

    /// Adds another attribute, sent unchanged: `Partitioned`, `Priority=High`, `Expires=…`.
    ///
    /// Default: none.
    ///
    /// # Panics
    ///
    /// Panics if `attribute` holds a `;`, or a character that is not printable ASCII.
    #[track_caller]
    pub fn attribute(mut self, attribute: &str) -> Self {
        check(attribute);
        self.more.push_str("; ");
        self.more.push_str(attribute);
        self
    }

    pub(super) fn header(&self, sid: &SessionId) -> Option<HeaderValue> {
        let mut cookie = format!("{}={}", self.name, sid.expose());
        if let Some(age) = self.max_age {
            // Writing to a string cannot fail.
            let _ = write!(cookie, "; Max-Age={}", age.as_secs());
        }
        for (name, value) in [("Domain", &self.domain), ("Path", &self.path)] {
            if let Some(value) = value {
                let _ = write!(cookie, "; {name}={value}");
            }
        }
        for (is_set, flag) in [(self.http_only, "; HttpOnly"), (self.secure, "; Secure")] {
            if is_set {
                cookie.push_str(flag);
            }
        }
        let _ = write!(cookie, "{}; SameSite={}", self.more, self.same_site);
        let mut value = HeaderValue::try_from(cookie).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl Default for SessionCookie {
    fn default() -> Self {
        Self::new("io")
    }
}

impl fmt::Debug for SessionCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionCookie")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The pages whose requests carry a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SameSite {
    /// Pages of the same site.
    Strict,
    /// Pages of the same site, and pages of other sites when the user follows a link.
    Lax,
    /// All pages; over HTTPS only.
    None,
}

#[track_caller]
fn check(text: &str) {
    assert!(
        text.bytes()
            .all(|byte| matches!(byte, b' '..=b'~') && byte != b';'),
        "`{text}` cannot stand in a cookie"
    );
}
