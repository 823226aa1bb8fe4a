//! HTTP around the protocol: origins, CORS, cookies, headers, compression, the client's files.

use std::io::Read;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use tokio::net::TcpStream;
use tower::ServiceExt;
use tower_socketio::engine::{Config, EngineLayer, EngineSocket, Text};
use tower_socketio::{
    Cors, Data, HttpOptions, Namespace, Origins, SameSite, SessionCookie, SocketIoBuilder,
    Uncompressed,
};
use tracing::Level;

use crate::support::logs::Logs;
use crate::support::{
    Polling, app, builder, call, get, post, send_head, serve, upgrade_head, within,
};

const OPEN: &str = "/socket.io/?EIO=4&transport=polling";
const ORIGIN: &str = "https://app.example";

fn plain() -> SocketIoBuilder {
    builder(Namespace::new())
}

fn with(http: HttpOptions) -> Router {
    app(plain().http(http).build().0)
}

fn with_cors(cors: impl Into<Cors>) -> Router {
    with(HttpOptions::new().cors(cors))
}

/// Sends a request with headers, each as `name: value`.
async fn ask(app: &Router, method: Method, uri: &str, headers: &[&str]) -> Response<String> {
    let mut request = Request::builder().method(method).uri(uri);
    for line in headers {
        let (name, value) = line.split_once(": ").expect("a header");
        request = request.header(name, value);
    }
    call(app, request.body(Body::empty()).expect("a request")).await
}

async fn open_from(app: &Router, origin: &str) -> Response<String> {
    ask(app, Method::GET, OPEN, &[&format!("origin: {origin}")]).await
}

/// Returns the values of a header in order, joined by `|`.
fn values<T>(response: &Response<T>, name: &str) -> String {
    let values = response.headers().get_all(name).iter();
    let values: Vec<_> = values.map(|value| value.to_str().expect("text")).collect();
    values.join("|")
}

/// Requests a WebSocket with additional headers and returns the head of the response.
async fn upgrade(app: Router, query: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(serve(app).await).await.expect("a port");
    let head = upgrade_head(query).replace("host: test\r\n", &format!("host: test\r\n{headers}"));
    send_head(&mut stream, &head).await.to_ascii_lowercase()
}

#[tokio::test]
async fn without_a_policy_there_is_no_cors_header() {
    let app = app(plain().build().0);
    let response = open_from(&app, ORIGIN).await;
    assert_eq!(response.status(), StatusCode::OK);
    let names = response.headers().keys();
    assert!(
        !names
            .map(HeaderName::as_str)
            .any(|name| name.starts_with("access-control"))
    );
    let response = ask(&app, Method::OPTIONS, OPEN, &[]).await;
    assert_eq!(
        response.body(),
        r#"{"code":2,"message":"Bad handshake method"}"#
    );
}

#[tokio::test]
async fn a_page_of_another_origin_opens_no_websocket_unless_it_is_allowed() {
    let app = || app(plain().build().0);
    let foreign = upgrade(app(), "", "origin: https://evil.example\r\n").await;
    assert!(foreign.starts_with("http/1.1 403"), "{foreign}");
    let sandboxed = upgrade(app(), "", "origin: null\r\n").await;
    assert!(sandboxed.starts_with("http/1.1 403"), "{sandboxed}");
    for own in [
        "",
        "origin: http://test\r\n",
        "origin: https://test\r\n",
        // A proxy has changed the host. A header of the browser or the proxy identifies the page.
        "origin: https://app.example\r\nsec-fetch-site: same-origin\r\n",
        "origin: https://app.example\r\nx-forwarded-host: app.example\r\n",
    ] {
        let head = upgrade(app(), "", own).await;
        assert!(head.starts_with("http/1.1 101"), "{own}: {head}");
    }
    let any = with(HttpOptions::new().origins(Origins::any()));
    let head = upgrade(any, "", "origin: https://evil.example\r\n").await;
    assert!(head.starts_with("http/1.1 101"), "{head}");
}

#[tokio::test]
async fn the_first_refused_origin_is_logged_with_the_setting_to_change() {
    let (logs, _guard) = Logs::keep();
    let app = app(plain().build().0);
    // With `$host`, nginx removes the port from `Host`.
    let head = upgrade(app.clone(), "", "origin: http://test:8080\r\n").await;
    assert!(head.starts_with("http/1.1 403"), "{head}");
    upgrade(app, "", "origin: https://evil.example\r\n").await;
    let warnings = logs.warnings();
    for part in [
        "origin=\"http://test:8080\"",
        "host=\"test\"",
        "`HttpOptions::origins`",
        "$http_host",
    ] {
        assert!(warnings[0].contains(part), "{part}: {warnings:?}");
    }
    assert_eq!(warnings.len(), 1);
    let later = logs.at(Level::DEBUG);
    let is_later = |line: &String| line.contains("origin=\"https://evil.example\"");
    assert!(later.iter().any(is_later), "{later:?}");
    // Each server logs its first refusal as a warning.
    let other = self::app(plain().build().0);
    upgrade(other, "", "origin: https://evil.example\r\n").await;
    assert_eq!(logs.warnings().len(), 2);
}

#[tokio::test]
async fn a_page_that_knows_its_session_may_upgrade_it() {
    let app = app(plain().build().0);
    let client = Polling::connect(&app).await;
    let query = format!("&sid={}", client.sid);
    let head = upgrade(app, &query, "origin: https://other.example\r\n").await;
    assert!(head.starts_with("http/1.1 101"), "{head}");
}

#[tokio::test]
async fn an_origin_that_is_not_allowed_gets_neither_session_nor_websocket() {
    let app = with_cors(Origins::list([ORIGIN]));
    let response = open_from(&app, "https://evil.example").await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert_eq!(
        response.body(),
        r#"{"code":4,"message":"Origin not allowed"}"#
    );
    assert_eq!(values(&response, "vary"), "Origin");
    assert_eq!(values(&response, "access-control-allow-origin"), "");

    let client = Polling::connect(&app).await;
    let foreign = "origin: https://evil.example\r\n";
    for query in ["".to_owned(), format!("&sid={}", client.sid)] {
        let head = upgrade(app.clone(), &query, foreign).await;
        assert!(head.starts_with("http/1.1 403"), "{head}");
        let head = upgrade(app.clone(), &query, "origin: https://app.example\r\n").await;
        assert!(head.starts_with("http/1.1 101"), "{head}");
    }
    // The list does not need the server's own origin.
    let head = upgrade(app, "", "origin: http://test\r\n").await;
    assert!(head.starts_with("http/1.1 101"), "{head}");
}

#[tokio::test]
async fn each_form_of_origins_has_the_header_that_fits_it() {
    let any = open_from(&with_cors(Origins::any()), ORIGIN).await;
    assert_eq!(values(&any, "access-control-allow-origin"), "*");
    assert_eq!(values(&any, "vary"), "");

    let list = || Origins::list([ORIGIN, "http://localhost:5173"]);
    let ends = |origin: &HeaderValue| origin.as_bytes().ends_with(b".example");
    let predicate = Origins::predicate(move |origin, _| ends(origin));
    for app in [with_cors(list()), with_cors(predicate)] {
        let named = open_from(&app, ORIGIN).await;
        assert_eq!(named.status(), StatusCode::OK);
        assert_eq!(values(&named, "access-control-allow-origin"), ORIGIN);
        assert_eq!(values(&named, "vary"), "Origin");
        let other = open_from(&app, "https://evil.test").await;
        assert_eq!(other.status(), StatusCode::FORBIDDEN);
        assert_eq!(values(&other, "access-control-allow-origin"), "");
        assert_eq!(values(&other, "vary"), "Origin");
        // Clients other than browsers send no `Origin`.
        assert_eq!(get(&app, OPEN).await.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_preflight_is_answered_without_looking_at_the_request() {
    let app = with_cors(Origins::list([ORIGIN]));
    let asked = [
        "origin: https://app.example",
        "access-control-request-headers: x-a,x-b",
    ];
    for uri in [
        OPEN,
        "/socket.io/",
        "/socket.io/?EIO=4&transport=polling&sid=unknown",
    ] {
        let response = ask(&app, Method::OPTIONS, uri, &asked).await;
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        assert_eq!(response.body(), "");
        for (name, value) in [
            ("access-control-allow-origin", ORIGIN),
            (
                "access-control-allow-methods",
                "GET,HEAD,PUT,PATCH,POST,DELETE",
            ),
            ("access-control-allow-headers", "x-a,x-b"),
            ("vary", "Origin|Access-Control-Request-Headers"),
            ("content-length", "0"),
            ("access-control-allow-credentials", ""),
            ("access-control-max-age", ""),
            ("access-control-expose-headers", ""),
        ] {
            assert_eq!(
                values(&response, name).to_lowercase(),
                value.to_lowercase(),
                "{name}"
            );
        }
    }
}

#[tokio::test]
async fn each_setting_of_cors_has_its_header() {
    let cors = Cors::new(Origins::list([ORIGIN]))
        .allow_credentials(true)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([
            HeaderName::from_static("x-a"),
            HeaderName::from_static("x-b"),
        ])
        .expose_headers([HeaderName::from_static("x-c")])
        .max_age(std::time::Duration::from_secs(60))
        .preflight_status(StatusCode::OK);
    let response = ask(
        &with_cors(cors),
        Method::OPTIONS,
        OPEN,
        &["origin: https://app.example"],
    )
    .await;
    assert_eq!(response.status(), StatusCode::OK);
    for (name, value) in [
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "GET,POST"),
        ("access-control-allow-headers", "x-a,x-b"),
        ("access-control-expose-headers", "x-c"),
        ("access-control-max-age", "60"),
        ("vary", "Origin"),
    ] {
        assert_eq!(values(&response, name), value, "{name}");
    }
}

#[tokio::test]
async fn a_preflight_can_be_passed_on_as_a_request() {
    let app = with_cors(Cors::new(Origins::any()).preflight_continue(true));
    let response = ask(&app, Method::OPTIONS, OPEN, &[]).await;
    assert_eq!(
        response.body(),
        r#"{"code":2,"message":"Bad handshake method"}"#
    );
    assert_eq!(values(&response, "access-control-allow-origin"), "*");
}

#[tokio::test]
async fn every_response_has_the_cors_headers() {
    let cors = Cors::new(Origins::list([ORIGIN]))
        .allow_credentials(true)
        .expose_headers([HeaderName::from_static("x-c")]);
    let app = with_cors(cors);
    let client = Polling::connect(&app).await;
    let unknown = format!("{OPEN}&sid=unknown");
    for (method, uri, status) in [
        (Method::GET, OPEN, StatusCode::OK),
        (Method::POST, &client.uri, StatusCode::OK),
        (Method::GET, &unknown, StatusCode::BAD_REQUEST),
        (Method::GET, "/socket.io/", StatusCode::BAD_REQUEST),
    ] {
        let response = ask(&app, method, uri, &["origin: https://app.example"]).await;
        assert_eq!(response.status(), status);
        assert_eq!(values(&response, "access-control-allow-origin"), ORIGIN);
        assert_eq!(
            values(&response, "access-control-allow-credentials"),
            "true"
        );
        assert_eq!(values(&response, "access-control-expose-headers"), "x-c");
    }
    let head = upgrade(app, "", "origin: https://app.example\r\n").await;
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(
        head.contains("access-control-allow-origin: https://app.example"),
        "{head}"
    );
}

#[test]
#[should_panic(expected = "name the origins")]
fn credentials_for_any_origin_panic() {
    let _ = Cors::new(Origins::any()).allow_credentials(true);
}

#[tokio::test]
async fn the_application_may_refuse_a_client_with_its_own_words() {
    let http = HttpOptions::new().allow_request(|request| async move {
        tokio::task::yield_now().await;
        match request.uri.query().unwrap_or_default() {
            query if query.contains("why=") => Err("not you"),
            query if query.contains("deny") => Err(""),
            _ => Ok(()),
        }
    });
    let app = with(http);
    let told = get(&app, &format!("{OPEN}&why=1")).await;
    assert_eq!(told.status(), StatusCode::FORBIDDEN);
    assert_eq!(told.body(), r#"{"code":4,"message":"not you"}"#);
    let silent = get(&app, &format!("{OPEN}&deny")).await;
    assert_eq!(silent.body(), r#"{"code":4,"message":"Forbidden"}"#);
    assert_eq!(get(&app, OPEN).await.status(), StatusCode::OK);
    let head = upgrade(app.clone(), "&deny", "").await;
    assert!(head.starts_with("http/1.1 403"), "{head}");
    let head = upgrade(app, "", "").await;
    assert!(head.starts_with("http/1.1 101"), "{head}");
}

#[tokio::test]
async fn allow_request_runs_once_for_each_session() {
    let asked = Arc::new(Mutex::new(0));
    let http = HttpOptions::new().allow_request({
        let asked = Arc::clone(&asked);
        move |_| {
            *asked.lock().expect("no panic") += 1;
            std::future::ready(Ok::<_, String>(()))
        }
    });
    let app = with(http);
    let client = Polling::connect(&app).await;
    assert_eq!(
        get(&app, "/socket.io/").await.status(),
        StatusCode::BAD_REQUEST
    );
    upgrade(app, &format!("&sid={}", client.sid), "").await;
    assert_eq!(*asked.lock().expect("no panic"), 1);
}

#[tokio::test]
async fn a_hook_observes_every_refusal() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let http = HttpOptions::new()
        .origins(Origins::same_origin())
        .allow_request(|request| async move {
            match request.headers.contains_key("x-no") {
                true => Err("no"),
                false => Ok(()),
            }
        })
        .on_connection_error({
            let told = Arc::clone(&told);
            move |request, error| {
                let path = request.uri.path().to_owned();
                let told_now = (
                    path,
                    error.code(),
                    error.message().to_owned(),
                    error.context(),
                );
                told.lock().expect("no panic").push(told_now);
            }
        });
    let app = with(http);
    let client = Polling::connect(&app).await;
    for (method, query, headers) in [
        (Method::GET, "EIO=4", &[][..]),
        (Method::GET, "EIO=4&transport=polling&sid=abc", &[]),
        (Method::POST, "EIO=4&transport=polling", &[]),
        (Method::GET, "EIO=4&transport=websocket", &[]),
        (
            Method::GET,
            "EIO=4&transport=polling",
            &["origin: https://evil.example"],
        ),
        (Method::GET, "EIO=4&transport=polling", &["x-no: 1"]),
        (Method::GET, "EIO=2&transport=polling", &[]),
        (
            Method::GET,
            &format!("EIO=4&transport=websocket&sid={}", client.sid),
            &[],
        ),
        (
            Method::GET,
            &format!("EIO=3&transport=polling&sid={}", client.sid),
            &[],
        ),
    ] {
        ask(&app, method, &format!("/socket.io/?{query}"), headers).await;
    }
    let told = std::mem::take(&mut *told.lock().expect("no panic"));
    let expected = [
        (0, "Transport unknown", "`transport` in the query"),
        (1, "Session ID unknown", "`sid` in the query"),
        (2, "Bad handshake method", "the method"),
        (3, "Bad request", "`transport` and the upgrade do not match"),
        (4, "Origin not allowed", "origin"),
        (4, "no", "allow_request"),
        (5, "Unsupported protocol version", "`EIO` in the query"),
        (3, "Bad request", "the session's transport"),
        (
            3,
            "Bad request",
            "the protocol is not the session's, `EIO` in the query",
        ),
    ];
    let expected = expected.map(|(code, message, context)| {
        ("/socket.io/".to_owned(), code, message.to_owned(), context)
    });
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_cookie_names_the_session_in_the_answer_that_opens_it_over_polling() {
    let app = with(HttpOptions::new().cookie(SessionCookie::default()));
    let response = get(&app, OPEN).await;
    let open: serde_json::Value = serde_json::from_str(&response.body()[1..]).expect("JSON");
    let sid = open["sid"].as_str().expect("an id");
    let cookie = format!("io={sid}; Path=/; HttpOnly; SameSite=Lax");
    assert_eq!(values(&response, "set-cookie"), cookie);

    let later = post(&app, &format!("{OPEN}&sid={sid}"), "40").await;
    assert_eq!(later.status(), StatusCode::OK);
    assert_eq!(values(&later, "set-cookie"), "");
    let head = upgrade(app, "", "").await;
    assert!(!head.contains("set-cookie"), "{head}");
}

#[test]
fn invalid_parts_of_a_cookie_panic() {
    let cookie = SessionCookie::default;
    for (what, result) in [
        ("a b", catch_unwind(|| SessionCookie::new("a b"))),
        ("/;", catch_unwind(|| cookie().path("/;"))),
        ("a\nb", catch_unwind(|| cookie().domain("a\nb"))),
        ("\u{e4}", catch_unwind(|| cookie().attribute("\u{e4}"))),
    ] {
        let panic = result.expect_err(what);
        let message = panic.downcast_ref::<String>().expect("a message");
        assert!(message.starts_with(&format!("`{what}`")), "{message}");
    }
}

#[tokio::test]
async fn a_cookie_has_its_configured_attributes() {
    let cookie = SessionCookie::new("id")
        .path(None)
        .domain("app.example")
        .max_age(std::time::Duration::from_secs(60))
        .http_only(false)
        .secure(true)
        .same_site(SameSite::None)
        .attribute("Partitioned")
        .attribute("Priority=High");
    let response = get(&with(HttpOptions::new().cookie(cookie)), OPEN).await;
    let cookie = values(&response, "set-cookie");
    let (_, attributes) = cookie.split_once("; ").expect("attributes");
    assert!(cookie.starts_with("id="), "{cookie}");
    assert_eq!(
        attributes,
        "Max-Age=60; Domain=app.example; Secure; Partitioned; Priority=High; SameSite=None"
    );
}

/// Returns options that add headers to the first response and to every response.
fn marking() -> HttpOptions {
    HttpOptions::new()
        .cookie(SessionCookie::new("io"))
        .initial_headers(|headers, request| {
            assert!(headers.get("x-first").is_none());
            let path = request.uri.path().to_owned();
            headers.insert("x-first", HeaderValue::try_from(path).expect("a path"));
            headers.append(header::SET_COOKIE, HeaderValue::from_static("a=1"));
            headers.append(header::SET_COOKIE, HeaderValue::from_static("b=2"));
        })
        .headers(|headers, _| {
            headers.insert("x-each", HeaderValue::from_static("yes"));
        })
}

#[tokio::test]
async fn headers_can_be_added_to_the_first_answer_and_to_every_one() {
    let app = with(marking());
    let first = get(&app, OPEN).await;
    assert_eq!(values(&first, "x-first"), "/socket.io/");
    assert_eq!(values(&first, "x-each"), "yes");
    let cookies = values(&first, "set-cookie");
    assert!(cookies.starts_with("io="), "{cookies}");
    assert!(cookies.ends_with("|a=1|b=2"), "{cookies}");

    let client = Polling::connect(&app).await;
    let later = client.post("3").await;
    assert_eq!(values(&later, "x-first"), "");
    assert_eq!(values(&later, "x-each"), "yes");
    let refused = get(&app, "/socket.io/").await;
    assert_eq!(values(&refused, "x-each"), "");

    let upgraded = upgrade(app.clone(), &format!("&sid={}", client.sid), "").await;
    assert!(upgraded.contains("x-each: yes"), "{upgraded}");
    assert!(!upgraded.contains("x-first"), "{upgraded}");
    let opened = upgrade(app, "", "").await;
    assert!(opened.contains("x-each: yes"), "{opened}");
    assert!(opened.contains("x-first: /socket.io/"), "{opened}");
}

#[tokio::test]
async fn a_tower_layer_around_the_server_sees_polls_and_upgrades() {
    use tower_http::set_header::SetResponseHeaderLayer;

    let name = HeaderName::from_static("x-layer");
    let value = HeaderValue::from_static("yes");
    let app = app(plain().build().0).layer(SetResponseHeaderLayer::overriding(name, value));
    assert_eq!(values(&get(&app, OPEN).await, "x-layer"), "yes");
    assert_eq!(values(&get(&app, "/socket.io/").await, "x-layer"), "yes");
    let head = upgrade(app, "", "").await;
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(head.contains("x-layer: yes"), "{head}");
}

#[tokio::test]
async fn a_tower_layer_around_the_server_may_answer_a_request() {
    let gate = axum::middleware::from_fn(|request: Request<Body>, next: axum::middleware::Next| {
        // A request without a session id is a handshake.
        let query = request.uri().query().unwrap_or_default().to_owned();
        async move {
            match query.contains("sid=") {
                true => next.run(request).await,
                false => axum::response::IntoResponse::into_response(StatusCode::IM_A_TEAPOT),
            }
        }
    });
    let app = app(plain().build().0).layer(gate);
    assert_eq!(get(&app, OPEN).await.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(
        get(&app, &format!("{OPEN}&sid=a")).await.status(),
        StatusCode::BAD_REQUEST
    );
    let head = upgrade(app, "", "").await;
    assert!(head.starts_with("http/1.1 418"), "{head}");
}

#[tokio::test]
async fn upgrades_can_be_turned_off() {
    let app = app(plain().upgrades(false).build().0);
    assert!(get(&app, OPEN).await.body().contains(r#""upgrades":[]"#));
    let client = Polling::connect(&app).await;
    let head = upgrade(app.clone(), &format!("&sid={}", client.sid), "").await;
    assert!(head.starts_with("http/1.1 400"), "{head}");
    // A session may still begin with WebSocket.
    let head = upgrade(app, "", "").await;
    assert!(head.starts_with("http/1.1 101"), "{head}");
}

#[tokio::test]
async fn an_initial_packet_comes_with_the_open_packet() {
    async fn wait(mut socket: EngineSocket) {
        while socket.recv().await.is_some() {}
    }
    let mut config = Config::default();
    config.initial_packet = Some(Text::from("faster").into());
    let app = Router::new().layer(EngineLayer::builder(wait).config(config).build());
    let response = get(&app, "/engine.io/?EIO=4&transport=polling").await;
    let (open, rest) = response.body().split_once('\x1e').expect("two packets");
    assert!(open.starts_with("0{"), "{open}");
    assert_eq!(rest, "4faster");
}

#[tokio::test]
async fn the_engine_layer_has_the_same_options() {
    async fn wait(mut socket: EngineSocket) {
        while socket.recv().await.is_some() {}
    }
    let http = marking().cors(Origins::list([ORIGIN]));
    let app = Router::new().layer(EngineLayer::builder(wait).http(http).build());
    let uri = "/engine.io/?EIO=4&transport=polling";
    let response = ask(&app, Method::GET, uri, &["origin: https://app.example"]).await;
    assert_eq!(values(&response, "x-each"), "yes");
    assert_eq!(values(&response, "access-control-allow-origin"), ORIGIN);
    let refused = ask(&app, Method::GET, uri, &["origin: https://evil.example"]).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn two_servers_on_two_paths_share_one_app() {
    async fn wait(mut socket: EngineSocket) {
        while socket.recv().await.is_some() {}
    }
    let (layer, _io) = plain().build();
    let app = Router::new()
        .route("/", axum::routing::get(|| async { "home" }))
        .layer(EngineLayer::new(wait))
        .layer(layer);
    assert_eq!(get(&app, "/").await.body(), "home");
    assert!(get(&app, OPEN).await.body().starts_with("0{"));
    let uri = "/engine.io/?EIO=4&transport=polling";
    assert!(get(&app, uri).await.body().starts_with("0{"));
}

#[tokio::test]
async fn an_upgrade_on_another_path_goes_to_the_app() {
    let mut stream = TcpStream::connect(serve(app(plain().build().0)).await)
        .await
        .expect("a port");
    let head = upgrade_head("").replace("/socket.io/", "/other/");
    let head = within(send_head(&mut stream, &head)).await;
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
}

#[tokio::test]
async fn the_first_subprotocol_that_a_client_offers_is_chosen() {
    let app = app(plain().build().0);
    let client = Polling::connect(&app).await;
    for query in ["".to_owned(), format!("&sid={}", client.sid)] {
        let offer = "sec-websocket-protocol: chat.v2, token.abc\r\n";
        let head = upgrade(app.clone(), &query, offer).await;
        assert!(head.starts_with("http/1.1 101"), "{head}");
        let taken = "\r\nsec-websocket-protocol: chat.v2\r\n";
        assert!(head.contains(taken), "{head}");
    }
    let head = upgrade(app.clone(), "", "").await;
    assert!(!head.contains("sec-websocket-protocol"), "{head}");
    for offer in ["a, a", "a b", "a,"] {
        let offer = format!("sec-websocket-protocol: {offer}\r\n");
        let head = upgrade(app.clone(), "", &offer).await;
        assert!(head.starts_with("http/1.1 400"), "{head}");
    }
}

#[tokio::test]
async fn the_application_may_choose_the_subprotocol() {
    let http = HttpOptions::new().websocket_protocol(|offered, request| {
        assert!(request.uri.path().starts_with("/socket.io"));
        match offered {
            ["wrong"] => Some("another".to_owned()),
            _ => offered.contains(&"chat.v1").then(|| "chat.v1".to_owned()),
        }
    });
    let app = with(http);
    for (offer, taken) in [("token, chat.v1", true), ("token", false), ("wrong", false)] {
        let offer = format!("sec-websocket-protocol: {offer}\r\n");
        let head = upgrade(app.clone(), "", &offer).await;
        assert!(head.starts_with("http/1.1 101"), "{head}");
        let has = head.contains("\r\nsec-websocket-protocol: chat.v1\r\n");
        assert_eq!(has, taken, "{head}");
        assert_eq!(head.contains("sec-websocket-protocol"), taken, "{head}");
    }
}

#[tokio::test]
async fn the_xss_filter_of_internet_explorer_is_turned_off() {
    let app = app(plain().build().0);
    for (agent, value) in [
        ("Mozilla/5.0 (Windows NT 6.1; Trident/7.0; rv:11.0)", "0"),
        ("Mozilla/4.0 (compatible;MSIE 8.0)", "0"),
        ("Mozilla/5.0 (X11; Linux) Firefox/140.0", ""),
    ] {
        let agent = format!("user-agent: {agent}");
        let response = ask(&app, Method::GET, OPEN, &[&agent]).await;
        assert_eq!(values(&response, "x-xss-protection"), value, "{agent}");
    }
}

#[tokio::test]
async fn scripts_and_forms_are_polls_where_jsonp_is_on() {
    async fn echo(mut socket: EngineSocket) {
        while let Some(message) = socket.recv().await {
            socket.send(message);
        }
    }
    let http = HttpOptions::new().jsonp(true);
    let app = Router::new().layer(EngineLayer::builder(echo).http(http).build());
    let uri = "/engine.io/?EIO=4&transport=polling";
    let open = get(&app, &format!("{uri}&j=x5")).await;
    assert_eq!(values(&open, "content-type"), "text/plain; charset=UTF-8");
    let json = open.body().strip_prefix("___eio[5](\"0").expect("a script");
    let json = json
        .strip_suffix("\");")
        .expect("a script")
        .replace("\\\"", "\"");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");

    // The handshake selects JSONP for the session. Later requests need no parameter for it.
    let uri = format!("{uri}&sid={}", json["sid"].as_str().expect("an id"));
    assert_eq!(post(&app, &uri, "d=4a%20%22b%22%5Cn").await.body(), "ok");
    assert_eq!(get(&app, &uri).await.body(), r#"___eio[5]("4a \"b\"\n");"#);
    assert_eq!(post(&app, &uri, "x=4a").await.body(), "ok");
    assert_eq!(post(&app, &uri, "d=4%E2%80%A8%1E4b").await.body(), "ok");
    assert_eq!(
        get(&app, &uri).await.body(),
        "___eio[5](\"4\\u2028\\u001e4b\");"
    );
}

#[tokio::test]
async fn scripts_are_not_polls_unless_jsonp_is_on() {
    let response = get(&app(plain().build().0), &format!("{OPEN}&j=0")).await;
    assert_eq!(
        response.body(),
        r#"{"code":0,"message":"Transport unknown"}"#
    );
}

/// Polls with an `Accept-Encoding` header and returns the response's raw bytes.
async fn poll_bytes(client: &Polling, app: &Router, accept: &str) -> Response<Vec<u8>> {
    let request = Request::get(&client.uri).header(header::ACCEPT_ENCODING, accept);
    bytes(app, request.body(Body::empty()).expect("a request")).await
}

async fn bytes(app: &Router, request: Request<Body>) -> Response<Vec<u8>> {
    let response = within(app.clone().oneshot(request))
        .await
        .expect("an answer");
    let (parts, body) = response.into_parts();
    let body = within(body.collect()).await.expect("a body").to_bytes();
    Response::from_parts(parts, body.into())
}

fn inflate(response: &Response<Vec<u8>>) -> String {
    let mut text = String::new();
    let body = &response.body()[..];
    let read = match &*values(response, "content-encoding") {
        "gzip" => flate2::read::GzDecoder::new(body).read_to_string(&mut text),
        "deflate" => flate2::read::ZlibDecoder::new(body).read_to_string(&mut text),
        other => panic!("{other:?} is no encoding"),
    };
    read.expect("compressed");
    text
}

#[tokio::test]
async fn a_long_poll_response_is_compressed_as_the_client_prefers() {
    let (layer, io) = plain().build();
    let app = app(layer);
    let client = Polling::connect(&app).await;
    let text = "x".repeat(2_000);
    for (accept, encoding) in [
        ("gzip, deflate, br, zstd", "gzip"),
        ("gzip;q=0.8, deflate", "deflate"),
    ] {
        io.emit("long", &text);
        let response = poll_bytes(&client, &app, accept).await;
        assert_eq!(values(&response, "content-encoding"), encoding);
        assert_eq!(
            values(&response, "content-type"),
            "text/plain; charset=UTF-8"
        );
        assert!(response.body().len() < 200);
        assert_eq!(inflate(&response), format!(r#"42["long","{text}"]"#));
    }
    for accept in ["br", "identity", "gzip;q=0"] {
        io.emit("long", &text);
        let response = poll_bytes(&client, &app, accept).await;
        assert_eq!(values(&response, "content-encoding"), "", "{accept}");
    }
    io.emit("short", "x".repeat(900));
    let response = poll_bytes(&client, &app, "gzip").await;
    assert_eq!(values(&response, "content-encoding"), "");
}

#[tokio::test]
async fn packets_marked_as_uncompressed_are_not_compressed() {
    let (layer, io) = plain().build();
    let app = app(layer);
    let client = Polling::connect(&app).await;
    let text = "x".repeat(2_000);
    let raw = axum::body::Bytes::from(vec![7; 2_000]);
    io.emit("long", Uncompressed(&text));
    io.emit("raw", Uncompressed(Data(raw)));
    let response = poll_bytes(&client, &app, "gzip").await;
    assert_eq!(values(&response, "content-encoding"), "");
    // One packet that may be compressed is enough.
    io.emit("long", Uncompressed(&text));
    io.emit("short", "x");
    let response = poll_bytes(&client, &app, "gzip").await;
    assert!(inflate(&response).ends_with(r#"42["short","x"]"#));
}

#[cfg(feature = "msgpack")]
#[tokio::test]
async fn a_packet_of_a_binary_parser_may_be_marked_as_uncompressed_too() {
    let parser = tower_socketio::protocol::MsgpackParser::default();
    let (layer, io) = plain().parser(parser).build();
    let app = app(layer);
    let mut client = Polling::open(&app).await;
    // `{ type: 0, nsp: "/" }`
    assert!(client.ask("bgqR0eXBlAKNuc3ChLw==").await.starts_with('b'));
    io.emit("long", "x".repeat(2_000));
    let response = poll_bytes(&client, &app, "gzip").await;
    assert_eq!(values(&response, "content-encoding"), "gzip");
    io.emit("long", Uncompressed("x".repeat(2_000)));
    let response = poll_bytes(&client, &app, "gzip").await;
    assert_eq!(values(&response, "content-encoding"), "");
}

#[tokio::test]
async fn compression_begins_at_its_threshold_or_is_off() {
    for (from, encoding) in [(Some(5_000), ""), (Some(10), "gzip"), (None, "")] {
        let (layer, io) = plain()
            .http(HttpOptions::new().compression_threshold(from))
            .build();
        let app = app(layer);
        let client = Polling::connect(&app).await;
        io.emit("long", "x".repeat(2_000));
        let response = poll_bytes(&client, &app, "gzip").await;
        assert_eq!(values(&response, "content-encoding"), encoding);
    }
}

/// A temporary folder like the `dist` folder of the client's package.
struct Dist(PathBuf);

impl Dist {
    fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("tower-socketio-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        for file in FILES {
            let text = match file.ends_with(".map") {
                true => "{}".to_owned(),
                false => format!(
                    "/*!\n * Socket.IO v4.8.4\n */\n// {file}\n{}",
                    " ".repeat(5_000)
                ),
            };
            std::fs::write(folder.join(file), text).expect("a file");
        }
        Self(folder)
    }
}

impl Drop for Dist {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const FILES: [&str; 8] = [
    "socket.io.js",
    "socket.io.js.map",
    "socket.io.min.js",
    "socket.io.min.js.map",
    "socket.io.esm.min.js",
    "socket.io.esm.min.js.map",
    "socket.io.msgpack.min.js",
    "socket.io.msgpack.min.js.map",
];

#[tokio::test]
async fn the_files_of_the_client_are_served_and_no_others() {
    let dist = Dist::new("files");
    std::fs::write(dist.0.join("secret.js"), "secret").expect("a file");
    let app = with(HttpOptions::new().serve_client(&dist.0));
    for file in FILES {
        let response = get(&app, &format!("/socket.io/{file}?buster=1")).await;
        assert_eq!(response.status(), StatusCode::OK, "{file}");
        let content_type = match file.ends_with(".map") {
            true => "application/json; charset=utf-8",
            false => "application/javascript; charset=utf-8",
        };
        assert_eq!(values(&response, "content-type"), content_type);
        assert_eq!(values(&response, "cache-control"), "public, max-age=0");
        assert_eq!(values(&response, "etag"), "\"4.8.4\"");
        assert!(file.ends_with(".map") || response.body().contains(file));
    }
    for other in [
        "secret.js",
        "x.js",
        "../front.rs",
        "",
        "a/b/socket.io.js",
        "/socket.io.js",
        "socket.io.js/",
    ] {
        let response = get(&app, &format!("/socket.io/{other}")).await;
        assert_eq!(
            response.body(),
            r#"{"code":0,"message":"Transport unknown"}"#
        );
    }
    assert_eq!(get(&app, OPEN).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn the_files_of_the_client_are_served_wherever_a_router_has_the_service() {
    let dist = Dist::new("routed");
    let service = || {
        let http = HttpOptions::new().serve_client(&dist.0);
        plain().http(http).build().0.into_service()
    };
    let nested = axum::Router::new().nest_service("/realtime", service());
    let routed = axum::Router::new().route_service("/realtime/{*rest}", service());
    for app in [nested, routed] {
        let response = get(&app, "/realtime/socket.io.js").await;
        assert_eq!(values(&response, "etag"), "\"4.8.4\"");
    }
}

#[tokio::test]
async fn a_cached_file_of_the_client_is_not_sent_again() {
    let dist = Dist::new("known");
    let app = with(HttpOptions::new().serve_client(&dist.0));
    let uri = "/socket.io/socket.io.js";
    for (tag, status) in [
        ("\"4.8.4\"", StatusCode::NOT_MODIFIED),
        ("W/\"4.8.4\"", StatusCode::NOT_MODIFIED),
        ("\"4.8.3\", W/\"4.8.4\"", StatusCode::NOT_MODIFIED),
        ("*", StatusCode::NOT_MODIFIED),
        ("\"4.8.3\"", StatusCode::OK),
        ("W/W/\"4.8.4\"", StatusCode::OK),
        ("4.8.4", StatusCode::OK),
    ] {
        let known = format!("if-none-match: {tag}");
        let response = ask(&app, Method::GET, uri, &[&known]).await;
        assert_eq!(response.status(), status);
        assert_eq!(
            response.body().is_empty(),
            status == StatusCode::NOT_MODIFIED
        );
    }
}

#[tokio::test]
async fn a_file_of_the_client_is_compressed_as_the_client_prefers() {
    let dist = Dist::new("compressed");
    std::fs::write(dist.0.join("socket.io.js.br"), "brotli").expect("a file");
    let app = with(HttpOptions::new().serve_client(&dist.0));
    let plain = std::fs::read_to_string(dist.0.join("socket.io.js")).expect("a file");
    for accept in ["gzip, deflate", "deflate"] {
        let request = Request::get("/socket.io/socket.io.js").header("accept-encoding", accept);
        let response = bytes(&app, request.body(Body::empty()).expect("a request")).await;
        assert_eq!(
            values(&response, "content-length"),
            response.body().len().to_string()
        );
        assert_eq!(values(&response, "vary"), "Accept-Encoding");
        assert_eq!(inflate(&response), plain);
    }
    let accept = "accept-encoding: br, gzip";
    let response = ask(&app, Method::GET, "/socket.io/socket.io.js", &[accept]).await;
    assert_eq!(values(&response, "content-encoding"), "br");
    assert_eq!(response.body(), "brotli");
    let only = ["accept-encoding: br"];
    let response = ask(&app, Method::GET, "/socket.io/socket.io.min.js", &only).await;
    assert_eq!(values(&response, "content-encoding"), "");
}

#[tokio::test]
async fn a_file_of_the_client_is_served_to_any_method_and_origin() {
    let dist = Dist::new("methods");
    let http = HttpOptions::new().serve_client(&dist.0);
    let app = with(http.cors(Origins::list([ORIGIN])));
    let uri = "/socket.io/socket.io.min.js";
    let from = ["origin: https://app.example"];
    for method in [Method::GET, Method::POST] {
        let response = ask(&app, method, uri, &from).await;
        assert!(response.body().contains("socket.io.min.js"));
        assert_eq!(values(&response, "access-control-allow-origin"), ORIGIN);
    }
    let head = ask(&app, Method::HEAD, uri, &from).await;
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(head.body(), "");
    assert!(
        values(&head, "content-length")
            .parse::<usize>()
            .expect("a number")
            > 5_000
    );
    let preflight = ask(&app, Method::OPTIONS, uri, &from).await;
    assert_eq!(preflight.status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn no_file_is_served_by_default() {
    let response = get(&app(plain().build().0), "/socket.io/socket.io.js").await;
    assert_eq!(
        response.body(),
        r#"{"code":0,"message":"Transport unknown"}"#
    );
}

#[test]
#[should_panic(expected = "holds no file of the client")]
fn a_folder_without_the_client_panics() {
    let _ = HttpOptions::new().serve_client("/nowhere");
}
