//! The handshake request of a session, stored in few bytes.

use std::fmt;

use axum::extract::OriginalUri;
use http::request::Parts;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Version};

/// The handshake request of a session.
///
/// A header value is a slice of the HTTP reader's buffer of 8 KiB and would keep all of it. So the
/// request is copied into one allocation, and [`StoredRequest::parts`] restores it.
#[derive(Clone)]
pub(crate) struct StoredRequest {
    method: Method,
    version: Version,
    /// The URI, then the name and the value of each header. Each of them has its length in front.
    text: Box<[u8]>,
    extensions: Extensions,
}

impl StoredRequest {
    pub(crate) fn new(parts: Parts) -> Self {
        let mut text = Vec::with_capacity(512);
        push(&mut text, parts.uri.to_string().as_bytes());
        for (name, value) in &parts.headers {
            push(&mut text, name.as_str().as_bytes());
            push(&mut text, value.as_bytes());
        }
        let mut extensions = parts.extensions;
        extensions.remove::<hyper::upgrade::OnUpgrade>();
        // axum keeps the original URI in an extension: it is a slice of the reader's buffer, too.
        if let Some(OriginalUri(uri)) = extensions.get_mut() {
            *uri = uri.to_string().parse().unwrap_or_default();
        }
        if extensions.is_empty() {
            extensions = Extensions::new();
        }
        Self {
            method: parts.method,
            version: parts.version,
            text: text.into(),
            extensions,
        }
    }

    /// Returns the bytes of a head that [`StoredRequest::new`] stores: the URI, and the headers'
    /// names and values.
    pub(crate) fn len(parts: &Parts) -> usize {
        let uri = &parts.uri;
        let authority = uri
            .authority()
            .map_or(0, |authority| authority.as_str().len());
        let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
        let headers = parts.headers.iter();
        let headers = headers.map(|(name, value)| name.as_str().len() + value.len());
        authority + path + headers.sum::<usize>()
    }

    /// Returns the request as it arrived, without its body.
    pub(crate) fn parts(&self) -> Parts {
        let mut fields = Fields(&self.text);
        let uri = fields.next().unwrap_or_default();
        let (mut parts, ()) = Request::new(()).into_parts();
        // The bytes are those of a valid URI.
        parts.uri = http::Uri::try_from(uri).unwrap_or_default();
        parts.method = self.method.clone();
        parts.version = self.version;
        parts.headers = headers(fields);
        parts.extensions = self.extensions.clone();
        parts
    }

    /// Returns the URI as it arrived.
    pub(crate) fn uri(&self) -> http::Uri {
        match self.extensions.get::<OriginalUri>() {
            Some(original) => original.0.clone(),
            // The bytes are those of a valid URI.
            None => Fields(&self.text)
                .next()
                .and_then(|uri| http::Uri::try_from(uri).ok())
                .unwrap_or_default(),
        }
    }

    /// Returns the names and values of the headers. Those with the same name stand together.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let mut fields = Fields(&self.text);
        fields.next();
        std::iter::from_fn(move || {
            let name = std::str::from_utf8(fields.next()?).ok()?;
            Some((name, fields.next()?))
        })
    }

    /// Returns the decoded value of the first query parameter with this name.
    pub(crate) fn query(&self, name: &str) -> Option<String> {
        let uri = Fields(&self.text).next().unwrap_or_default();
        let at = uri.iter().position(|byte| *byte == b'?')?;
        form_urlencoded::parse(&uri[at + 1..])
            .find(|(each, _)| each == name)
            .map(|(_, value)| value.into_owned())
    }

    pub(crate) fn extension<T: Clone + Send + Sync + 'static>(&self) -> Option<T> {
        self.extensions.get::<T>().cloned()
    }
}

fn headers(mut fields: Fields<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        // Both were valid when the request arrived.
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            headers.append(name, value);
        }
    }
    headers
}

impl fmt::Debug for StoredRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URI of a later request names the session, and headers hold cookies, so neither is
        // shown.
        f.debug_struct("StoredRequest")
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

/// The fields that [`push`] has written.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = self.0.split_first_chunk::<4>()?;
        let (field, rest) = rest.split_at_checked(u32::from_ne_bytes(*len) as usize)?;
        self.0 = rest;
        Some(field)
    }
}

fn push(text: &mut Vec<u8>, field: &[u8]) {
    // The HTTP reader limits a head to far less than `u32::MAX`.
    text.extend_from_slice(&(field.len() as u32).to_ne_bytes());
    text.extend_from_slice(field);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_request_is_restored_completely() {
        let request = Request::get("/socket.io/?EIO=4&name=a%20b")
            .header("cookie", "a=1")
            .header("x-many", "1")
            .header("x-many", "2")
            .extension(7_u32)
            .body(())
            .expect("a request");
        let (parts, ()) = request.into_parts();
        let handshake = StoredRequest::new(parts.clone());
        let again = handshake.parts();
        assert_eq!(again.uri, parts.uri);
        assert_eq!(again.headers, parts.headers);
        assert_eq!(again.method, parts.method);
        assert_eq!(again.extensions.get::<u32>(), Some(&7));
    }
}
