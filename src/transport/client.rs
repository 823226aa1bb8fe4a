//! The files of the JavaScript client, as its npm package holds them.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use axum_core::body::Body;
use axum_core::response::Response;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, header};

use super::compress::Encoding;

const NAMES: [&str; 8] = [
    "socket.io.js",
    "socket.io.js.map",
    "socket.io.min.js",
    "socket.io.min.js.map",
    "socket.io.esm.min.js",
    "socket.io.esm.min.js.map",
    "socket.io.msgpack.min.js",
    "socket.io.msgpack.min.js.map",
];

/// The files of the client, in memory.
#[derive(Debug)]
pub(super) struct ClientFiles {
    files: Vec<File>,
    /// The version in quotes, for `ETag`.
    tag: HeaderValue,
}

#[derive(Debug)]
struct File {
    name: &'static str,
    plain: Bytes,
    brotli: Option<Bytes>,
    /// Compressed by the first request for the file in this encoding.
    gzip: OnceLock<Bytes>,
    /// Compressed by the first request for the file in this encoding.
    deflate: OnceLock<Bytes>,
}

impl ClientFiles {
    /// Reads the files from a folder.
    ///
    /// # Panics
    ///
    /// Panics if the folder holds none of the files, or if none of them states its version.
    #[track_caller]
    pub(super) fn read(folder: &Path) -> Self {
        let mut files = Vec::new();
        for name in NAMES {
            let Ok(plain) = fs::read(folder.join(name)) else {
                continue;
            };
            files.push(File {
                name,
                plain: plain.into(),
                brotli: fs::read(folder.join(format!("{name}.br")))
                    .ok()
                    .map(Into::into),
                gzip: OnceLock::new(),
                deflate: OnceLock::new(),
            });
        }
        let shown = folder.display();
        assert!(
            !files.is_empty(),
            "`{shown}` holds no file of the client: {NAMES:?}"
        );
        let tag = files.iter().find_map(|file| version(&file.plain));
        let tag = tag.and_then(|version| HeaderValue::try_from(format!("\"{version}\"")).ok());
        match tag {
            Some(tag) => Self { files, tag },
            None => panic!("no file of the client in `{shown}` says its version"),
        }
    }

    /// Returns the response to a request for one of the files, with any method.
    pub(super) fn answer(&self, parts: &Parts, name: &str) -> Option<Response> {
        let file = self.files.iter().find(|file| file.name == name)?;
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        headers.insert(header::ETAG, self.tag.clone());
        let fresh = HeaderValue::from_static("public, max-age=0");
        headers.insert(header::CACHE_CONTROL, fresh);
        let vary = HeaderValue::from_static("Accept-Encoding");
        headers.insert(header::VARY, vary);
        if self.is_known(parts) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Some(response);
        }
        let (encoding, body) = file.body(parts);
        if let Some(encoding) = encoding {
            let name = HeaderValue::from_static(encoding.name());
            headers.insert(header::CONTENT_ENCODING, name);
        }
        headers.insert(header::CONTENT_TYPE, file.content_type());
        headers.insert(header::CONTENT_LENGTH, body.len().into());
        if parts.method != Method::HEAD {
            *response.body_mut() = Body::from(body);
        }
        Some(response)
    }

    /// Returns whether the client has this version already.
    fn is_known(&self, parts: &Parts) -> bool {
        let lines = parts.headers.get_all(header::IF_NONE_MATCH).iter();
        let known = lines.filter_map(|known| known.to_str().ok());
        known.flat_map(|line| line.split(',')).any(|tag| {
            let tag = tag.trim();
            // RFC 9110, section 13.1.2:
            //
            // > If the field value is "*", the condition is false if the origin server has a
            // > current representation for the target resource.
            tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == self.tag
        })
    }
}

impl File {
    fn body(&self, parts: &Parts) -> (Option<Encoding>, Bytes) {
        let all = [Encoding::Brotli, Encoding::Gzip, Encoding::Deflate];
        let offered = match self.brotli {
            Some(_) => &all[..],
            None => &all[1..],
        };
        let encoding = Encoding::accepted(&parts.headers, offered);
        let body = match encoding {
            Some(Encoding::Gzip) => self.gzip.get_or_init(|| Encoding::Gzip.encode(&self.plain)),
            Some(Encoding::Deflate) => {
                let encode = || Encoding::Deflate.encode(&self.plain);
                self.deflate.get_or_init(encode)
            }
            Some(Encoding::Brotli) => self.brotli.as_ref().unwrap_or(&self.plain),
            None => &self.plain,
        };
        (encoding, body.clone())
    }

    fn content_type(&self) -> HeaderValue {
        HeaderValue::from_static(match self.name.ends_with(".map") {
            true => "application/json; charset=utf-8",
            false => "application/javascript; charset=utf-8",
        })
    }
}

/// Returns the version from the comment at the start of a file: `Socket.IO v4.8.4`.
fn version(file: &[u8]) -> Option<String> {
    let head = String::from_utf8_lossy(&file[..file.len().min(200)]);
    let (_, after) = head.split_once("Socket.IO v")?;
    let end = after.find(char::is_whitespace).unwrap_or(after.len());
    Some(after[..end].to_owned())
}
