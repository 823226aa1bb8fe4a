//! CORS headers and preflights.

use std::fmt;
use std::time::Duration;

use axum_core::body::Body;
use axum_core::response::Response;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::origin::Origins;

/// The pages of other origins that may use the server, and the CORS headers of its responses.
///
/// Without it no response has CORS headers, as in Node's server. With it:
///
/// - Every response has them, also a refusal, the files of the client and the `101` of a WebSocket.
/// - Every `OPTIONS` request is answered as a preflight.
/// - A poll, a POST or a WebSocket from an origin that is not allowed is refused with status 403.
///   CORS alone would only hide the response from the page.
///
/// Do not use it together with a CORS layer around the layer of this crate: browsers reject a CORS
/// header that a response has twice. With such a layer [`HttpOptions::origins`] sets the pages that
/// may open a WebSocket.
///
/// [`HttpOptions::origins`]: super::HttpOptions::origins
///
/// ```
/// use std::time::Duration;
/// use tower_socketio::{Cors, Origins};
///
/// let cors = Cors::new(Origins::list(["https://app.example", "https://admin.example"]))
///     .allow_credentials(true)
///     .max_age(Duration::from_secs(3600));
/// ```
#[derive(Clone)]
#[must_use]
pub struct Cors {
    pub(super) origins: Origins,
    credentials: bool,
    methods: HeaderValue,
    headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
    pub(super) preflight_continue: bool,
    preflight_status: StatusCode,
}

impl Cors {
    /// Creates a configuration for these origins.
    pub const fn new(origins: Origins) -> Self {
        Self {
            origins,
            credentials: false,
            methods: HeaderValue::from_static("GET,HEAD,PUT,PATCH,POST,DELETE"),
            headers: None,
            expose: None,
            max_age: None,
            preflight_continue: false,
            preflight_status: StatusCode::NO_CONTENT,
        }
    }

    /// Sets whether pages may send cookies, as they do with the client's `withCredentials`.
    ///
    /// Default: `false`.
    ///
    /// # Panics
    ///
    /// Panics if `allow` is true and the origins are [`Origins::any`]. Browsers do not accept that,
    /// as every page could act for its visitors.
    #[track_caller]
    pub fn allow_credentials(mut self, enabled: bool) -> Self {
        assert!(
            !(enabled && self.origins.is_any()),
            "credentials cannot be allowed for any origin: name the origins"
        );
        self.credentials = enabled;
        self
    }

    /// Sets the methods that pages may use.
    ///
    /// Default: `GET,HEAD,PUT,PATCH,POST,DELETE`.
    pub fn allow_methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        // A method is a token, so the list is a valid header value.
        let methods: Vec<_> = methods.into_iter().collect();
        let methods: Vec<_> = methods.iter().map(Method::as_str).collect();
        if let Ok(methods) = HeaderValue::try_from(methods.join(",")) {
            self.methods = methods;
        }
        self
    }

    /// Sets the request headers that pages may send.
    ///
    /// Default: the headers that a page asks for.
    pub fn allow_headers(mut self, headers: impl IntoIterator<Item = HeaderName>) -> Self {
        self.headers = names(headers);
        self
    }

    /// Sets the response headers that pages may read.
    ///
    /// Default: the headers that CORS always allows.
    pub fn expose_headers(mut self, headers: impl IntoIterator<Item = HeaderName>) -> Self {
        self.expose = names(headers);
        self
    }

    /// Sets `Access-Control-Max-Age`: how long a browser may keep the response to a preflight.
    ///
    /// Default: not sent; the browser decides.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age.as_secs().into());
        self
    }

    /// Sets whether a preflight is handled like any other request, which the server refuses.
    ///
    /// Default: `false`.
    pub fn preflight_continue(mut self, enabled: bool) -> Self {
        self.preflight_continue = enabled;
        self
    }

    /// Sets the status of the response to a preflight. Some old browsers need 200.
    ///
    /// Default: 204.
    pub fn preflight_status(mut self, status: StatusCode) -> Self {
        self.preflight_status = status;
        self
    }

    /// Returns the CORS headers of the response to a request.
    pub(super) fn answer(&self, parts: &Parts) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let origin = parts.headers.get(header::ORIGIN);
        let allowed = if self.origins.is_any() {
            Some(HeaderValue::from_static("*"))
        } else {
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
            origin
                .filter(|origin| self.origins.names_origin(origin, parts))
                .cloned()
        };
        let credentials = self.credentials.then(|| HeaderValue::from_static("true"));
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed),
            (header::ACCESS_CONTROL_ALLOW_CREDENTIALS, credentials),
            (header::ACCESS_CONTROL_EXPOSE_HEADERS, self.expose.clone()),
        ] {
            headers.extend(value.map(|value| (name, value)));
        }
        if parts.method == Method::OPTIONS {
            self.answer_preflight(parts, &mut headers);
        }
        headers
    }

    fn answer_preflight(&self, parts: &Parts, headers: &mut HeaderMap) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone());
        let allowed = self.headers.clone().or_else(|| {
            let asked = header::ACCESS_CONTROL_REQUEST_HEADERS;
            headers.append(header::VARY, HeaderValue::from_name(asked.clone()));
            parts.headers.get(asked).cloned()
        });
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_HEADERS, allowed),
            (header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone()),
        ] {
            headers.extend(value.map(|value| (name, value)));
        }
    }

    /// Returns the response to a preflight, without the headers of [`Cors::answer`].
    pub(super) fn preflight(&self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.preflight_status;
        // Without the length some browsers wait for a body.
        let length = (header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        response.headers_mut().extend([length]);
        response
    }
}

impl From<Origins> for Cors {
    fn from(origins: Origins) -> Self {
        Self::new(origins)
    }
}

impl fmt::Debug for Cors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cors")
            .field("origins", &self.origins)
            .field("credentials", &self.credentials)
            .finish_non_exhaustive()
    }
}

fn names(headers: impl IntoIterator<Item = HeaderName>) -> Option<HeaderValue> {
    let headers: Vec<_> = headers.into_iter().collect();
    let headers: Vec<_> = headers.iter().map(HeaderName::as_str).collect();
    // Names of headers are tokens, so the list is a valid header value.
    HeaderValue::try_from(headers.join(",")).ok()
}
