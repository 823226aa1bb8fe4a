//! The cookie that names the session to a load balancer.

use std::fmt::{self, Write as _};
use std::time::Duration;

use http::HeaderValue;

use crate::engine::SessionId;

/// A cookie with the session's id, for load balancers that send a client to the same server by it.
///
/// It is set by the answer that opens a session over polling: `io=…; Path=/; HttpOnly; SameSite=Lax`.
/// The server itself does not read it. It holds the session's secret, so keep it `HttpOnly`.
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
    /// Of this name; Node's server calls it `io`.
    ///
    /// # Panics
    ///
    /// If it is no name of a cookie.
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

    /// Below which path browsers send it; `/`. `None`: below that of the requests.
    ///
    /// # Panics
    ///
    /// If it cannot stand in a cookie: it holds a `;`, or what is not of printable ASCII.
    #[track_caller]
    pub fn path<'a>(mut self, path: impl Into<Option<&'a str>>) -> Self {
        let path = path.into();
        if let Some(path) = path {
            check(path);
        }
        self.path = path.map(str::to_owned);
        self
    }

    /// To which domain, and those below it, browsers send it; to the host alone.
    ///
    /// # Panics
    ///
    /// If it cannot stand in a cookie: it holds a `;`, or what is not of printable ASCII.
    #[track_caller]
    pub fn domain(mut self, domain: &str) -> Self {
        check(domain);
        self.domain = Some(domain.to_owned());
        self
    }

    /// How long browsers keep it; until they are closed.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// Whether scripts cannot read it; so it is.
    pub fn http_only(mut self, yes: bool) -> Self {
        self.http_only = yes;
        self
    }

    /// Whether it is sent over HTTPS alone; no. `SameSite=None` needs it.
    pub fn secure(mut self, yes: bool) -> Self {
        self.secure = yes;
        self
    }

    /// To requests from which pages browsers add it: `Strict`, `Lax` or `None`; `Lax`.
    pub fn same_site(mut self, same_site: SameSite) -> Self {
        self.same_site = match same_site {
            SameSite::Strict => "Strict",
            SameSite::Lax => "Lax",
            SameSite::None => "None",
        };
        self
    }

    /// Another attribute, as it is to be sent: `Partitioned`, `Priority=High`, `Expires=…`.
    ///
    /// # Panics
    ///
    /// If it cannot stand in a cookie: it holds a `;`, or what is not of printable ASCII.
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

/// To requests from which pages browsers add a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SameSite {
    /// Those of the same site.
    Strict,
    /// Those of the same site, and when a link is followed.
    Lax,
    /// All; only over HTTPS.
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
