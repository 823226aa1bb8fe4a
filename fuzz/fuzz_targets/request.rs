//! HTTP requests to a server: the transport reads their query, headers and body.
//!
//! ```text
//! OPTIONS
//! GET /socket.io/?EIO=4&transport=polling
//! origin: http://a
//!
//! POST /socket.io/?EIO=4&transport=polling&sid=$
//! >40
//! ```
//!
//! An empty line separates two requests. `$` stands for the id of the last session. OPTIONS are
//! letters: `c` for CORS, `a` for any origin, `k` for a cookie, `j` for JSONP, `e` for `EIO=3`, `d`
//! for compression, `2` for HTTP/2.
//!
//! - Every request is answered with a status and a body of the protocol.
//! - A WebSocket is accepted only if its request satisfies RFC 6455 and comes from an allowed
//!   origin.
//! - Only a request without a session id opens a session. Its cookie is in the response that opens
//!   it.
//! - A response has a subprotocol or an extension only if the client offered it, and CORS headers
//!   only if they are configured.

#![no_main]

use std::time::Duration;

use axum::response::Response;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Uri, Version};
use http_body_util::BodyExt as _;
use libfuzzer_sys::fuzz_target;
use tower_socketio::{
    Cors, HttpOptions, Namespace, Origins, SessionCookie, SocketIo, SocketIoLayer,
};
use tower_socketio_fuzz::server::{RequestBody, Server, run};

const ALLOWED: &str = "https://app.example";

#[derive(Clone, Copy)]
struct Options {
    cors: bool,
    any: bool,
    cookie: bool,
    jsonp: bool,
    eio3: bool,
    deflate: bool,
    http2: bool,
}

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let (options, requests) = text.split_once('\n').unwrap_or((text, ""));
    let has = |letter| options.contains(letter);
    let options = Options {
        cors: has('c'),
        any: has('a'),
        cookie: has('k'),
        jsonp: has('j'),
        eio3: has('e'),
        deflate: has('d'),
        http2: has('2'),
    };
    run(async {
        let (layer, io) = build(options);
        let server = Server::new(layer);
        let mut sid = String::new();
        for request in requests.split("\n\n").take(8) {
            let Some(request) = parse(&request.replace('$', &sid), options) else {
                continue;
            };
            send(&server, &io, options, request, &mut sid).await;
        }
        io.close().await;
        assert_eq!(io.counts().sessions, 0);
    });
});

fn build(options: Options) -> (SocketIoLayer, SocketIo) {
    let mut http = HttpOptions::new().jsonp(options.jsonp);
    if options.any {
        http = http.origins(Origins::any());
    }
    if options.cors {
        http = http.cors(Cors::new(Origins::list([ALLOWED])).allow_credentials(true));
    }
    if options.cookie {
        http = http.cookie(SessionCookie::new("io"));
    }
    SocketIo::builder()
        .namespace("/", Namespace::new())
        .allow_eio3(options.eio3)
        .max_handshake(1500)
        .deflate_threshold(options.deflate.then_some(0))
        .http(http)
        .build()
}

fn parse(text: &str, options: Options) -> Option<Request<RequestBody>> {
    let (head, body) = match text.split_once("\n>") {
        Some((head, body)) => (head, Some(Bytes::copy_from_slice(body.as_bytes()))),
        None => (text, None),
    };
    let mut lines = head.lines();
    let (method, uri) = lines.next()?.split_once(' ')?;
    let mut request = Request::new(RequestBody::Whole(body));
    *request.method_mut() = Method::from_bytes(method.as_bytes()).ok()?;
    *request.uri_mut() = uri.parse::<Uri>().ok()?;
    if options.http2 {
        *request.version_mut() = Version::HTTP_2;
    }
    for line in lines {
        let (name, value) = line.split_once(':')?;
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        request
            .headers_mut()
            .append(name, HeaderValue::from_bytes(value.trim().as_bytes()).ok()?);
    }
    Some(request)
}

/// The parts of a request that the checks of its response need.
struct Sent {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
}

async fn send(
    server: &Server,
    io: &SocketIo,
    options: Options,
    request: Request<RequestBody>,
    sid: &mut String,
) {
    let sent = Sent {
        method: request.method().clone(),
        uri: request.uri().clone(),
        version: request.version(),
        headers: request.headers().clone(),
    };
    let before = io.counts().sessions;
    let response = tokio::time::timeout(Duration::from_secs(60), server.call(request));
    let response = response.await.expect("every request is answered");
    let opened = io.counts().sessions.saturating_sub(before);
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let response = Response::from_parts(parts, body);
    check(&sent, &response, options);
    let opens = matches!(response.status().as_u16(), 101 | 200) && opened == 1;
    assert!(opened == 0 || opens, "a refused request opens a session");
    if opened == 1 {
        let fields = fields(&sent);
        let id = fields.iter().rev().find(|(name, _)| name == "sid");
        assert!(
            id.is_none_or(|(_, id)| id.is_empty()),
            "a request with an id opens a session"
        );
    }
    if let Some(at) = response.body().windows(3).position(|word| word == b"sid") {
        let rest = response.body()[at + 3..]
            .iter()
            .skip_while(|byte| b"\\\":".contains(byte));
        let id = rest.take_while(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte));
        *sid = id.map(|byte| char::from(*byte)).collect();
    }
}

/// Returns the decoded fields of the query.
fn fields(sent: &Sent) -> Vec<(String, String)> {
    let query = sent.uri.query().unwrap_or_default();
    let fields = query.split('&').map(|field| {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        (decoded(name), decoded(value))
    });
    fields.collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let hex = |byte: u8| char::from(byte).to_digit(16);
        let escaped = match after {
            [high, low, ..] if *byte == b'%' => hex(*high).zip(hex(*low)),
            _ => None,
        };
        bytes.push(match (byte, escaped) {
            (_, Some((high, low))) => (high * 16 + low) as u8,
            (b'+', None) => b' ',
            (byte, None) => *byte,
        });
        rest = if escaped.is_some() {
            &after[2..]
        } else {
            after
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn check(sent: &Sent, response: &Response<Bytes>, options: Options) {
    let headers = response.headers();
    let status = response.status().as_u16();
    let expected = [101, 200, 204, 400, 403, 413, 431, 503];
    assert!(expected.contains(&status), "{status}");
    let has_body = !matches!(status, 101 | 200 | 204) && !response.body().is_empty();
    if has_body && response.body()[0] == b'{' {
        let error: serde_json::Value = serde_json::from_slice(response.body()).expect("JSON");
        assert!(error["code"].as_u64().is_some_and(|code| code < 6));
        assert!(error["message"].is_string());
    }
    let accepts = match sent.method {
        Method::CONNECT => false,
        _ => status == 101,
    };
    if accepts {
        check_websocket(sent, headers, options);
    }
    check_headers(sent, headers, options);
    if let Some(cookie) = headers.get(header::SET_COOKIE) {
        let cookie = cookie.to_str().expect("a text");
        let value = cookie.strip_prefix("io=").expect("the cookie");
        let (id, attributes) = value.split_once(';').expect("attributes");
        assert!(options.cookie && attributes.contains("HttpOnly"));
        let body = std::str::from_utf8(response.body()).expect("a text");
        assert!(body.contains(id), "the cookie has another id");
    }
}

fn has_token(headers: &HeaderMap, name: &str, token: &str) -> bool {
    let values = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut tokens = values.flat_map(|value| value.split(','));
    tokens.any(|each| each.trim().eq_ignore_ascii_case(token))
}

/// Checks the request of an accepted WebSocket by RFC 6455, section 4.2.1.
fn check_websocket(sent: &Sent, answer: &HeaderMap, options: Options) {
    assert_eq!(sent.method, Method::GET);
    assert!(sent.version >= Version::HTTP_11);
    assert!(has_token(&sent.headers, "connection", "upgrade"));
    assert!(has_token(&sent.headers, "upgrade", "websocket"));
    assert_eq!(sent.headers["sec-websocket-version"], "13");
    let key = sent.headers["sec-websocket-key"].as_bytes();
    assert!(key.len() == 24 && key.ends_with(b"=="));
    assert_eq!(answer["sec-websocket-accept"].len(), 28);
    let transport = fields(sent)
        .into_iter()
        .rev()
        .find(|(name, _)| name == "transport");
    assert_eq!(transport.expect("a transport").1, "websocket");
    let opens = !fields(sent)
        .iter()
        .any(|(name, value)| name == "sid" && !value.is_empty());
    if (opens || options.cors) && (options.cors || !options.any) {
        assert!(
            is_allowed(sent, options),
            "an origin that is not allowed opens a WebSocket"
        );
    }
}

/// Returns whether the origin of the request is this server or is allowed.
fn is_allowed(sent: &Sent, options: Options) -> bool {
    let header = |name: &str| sent.headers.get(name)?.to_str().ok();
    let Some(origin) = sent.headers.get("origin") else {
        return true;
    };
    let Ok(origin) = origin.to_str() else {
        return header("sec-fetch-site")
            .is_some_and(|site| site == "same-origin" || site == "none");
    };
    if options.cors && origin.eq_ignore_ascii_case(ALLOWED) {
        return true;
    }
    if let Some(site) = sent.headers.get("sec-fetch-site") {
        return site == "same-origin" || site == "none";
    }
    let Some((scheme, authority)) = origin.split_once("://") else {
        return false;
    };
    let port = if scheme == "https" { ":443" } else { ":80" };
    // If a header has several hosts, the first one is the server.
    let first = |name: &str| header(name)?.split(',').next().map(str::trim);
    let host = sent.uri.authority().map(|authority| authority.as_str());
    let own = [host, first("host"), first("x-forwarded-host")];
    let without = |host: &str| host.strip_suffix(port).unwrap_or(host).to_ascii_lowercase();
    own.into_iter()
        .flatten()
        .any(|host| without(host) == without(authority))
}

fn check_headers(sent: &Sent, answer: &HeaderMap, options: Options) {
    if let Some(protocol) = answer.get("sec-websocket-protocol") {
        let protocol = protocol.to_str().expect("a text");
        assert!(has_token(&sent.headers, "sec-websocket-protocol", protocol));
    }
    if answer.contains_key("sec-websocket-extensions") {
        assert!(options.deflate);
        let offers = sent.headers.get_all("sec-websocket-extensions").iter();
        let mut offers = offers.filter_map(|offer| offer.to_str().ok());
        assert!(offers.any(|offer| offer.contains("permessage-deflate")));
    }
    match answer.get("access-control-allow-origin") {
        None => {}
        Some(origin) => {
            assert!(options.cors, "CORS headers without CORS");
            assert!(
                sent.headers
                    .get("origin")
                    .is_some_and(|sent| sent == origin),
                "the header is for another origin"
            );
            assert!(origin.as_bytes().eq_ignore_ascii_case(ALLOWED.as_bytes()));
        }
    }
}
