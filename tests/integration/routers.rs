//! The positions of the server in an app's routers.

use axum::http::{Request, StatusCode};
use axum::routing::get as route_get;
use axum::{Extension, Router, body::Body};
use tower_socketio::engine::{EngineLayer, EngineSocket};
use tower_socketio::{Data, Namespace, Socket, SocketIo, SocketIoLayer};

use crate::support::logs::Logs;
use crate::support::{Polling, builder, get};

async fn echo(socket: Socket, Data(text): Data<String>) {
    socket.emit("echo", text);
}

fn layer() -> SocketIoLayer {
    builder(Namespace::new().on("echo", echo)).build().0
}

/// Returns the app's own routes.
fn pages() -> Router {
    Router::new().route("/page", route_get(async || "page"))
}

async fn missing() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "the app's")
}

async fn assert_served(app: &Router, path: &str) {
    let request = Request::get(format!("{path}?EIO=4&transport=polling"));
    let request = request.body(Body::empty()).expect("a request");
    let mut client = Polling::open_with(app, request).await;
    client.join("/").await;
    let event = r#"42["echo","a"]"#;
    assert_eq!(client.ask(event).await, event, "{path}");
}

const PATH: &str = "/socket.io/";

#[tokio::test]
async fn a_layer_covers_the_routes_before_it_and_the_fallback() {
    let app = pages().fallback(missing).layer(layer());
    assert_served(&app, PATH).await;
    assert_eq!(get(&app, "/page").await.body(), "page");
    assert_eq!(get(&app, "/other").await.body(), "the app's");
    // Routes may follow the layer.
    let app = pages()
        .layer(layer())
        .route("/later", route_get(async || "later"));
    assert_served(&app, PATH).await;
    assert_eq!(get(&app, "/later").await.body(), "later");
}

#[tokio::test]
async fn a_fallback_may_be_added_after_it() {
    let app = pages().merge(layer().into_router()).fallback(missing);
    assert_served(&app, PATH).await;
    assert_eq!(get(&app, "/other").await.body(), "the app's");
}

#[tokio::test]
async fn a_file_service_may_be_the_fallback() {
    let files = tower_http::services::ServeDir::new("examples");
    let app = Router::new()
        .merge(layer().into_router())
        .fallback_service(files);
    assert_served(&app, PATH).await;
    assert_eq!(get(&app, "/hello.rs").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn other_routers_may_be_merged_into_the_app() {
    let app: Router = layer().into_router().merge(pages().fallback(missing));
    assert_served(&app, PATH).await;
    assert_eq!(get(&app, "/page").await.body(), "page");
    assert_eq!(get(&app, "/other").await.body(), "the app's");
}

#[tokio::test]
async fn the_app_may_be_merged_into_other_routers() {
    let app = pages().fallback(missing).merge(layer().into_router());
    assert_served(&app, PATH).await;
    assert_eq!(get(&app, "/other").await.body(), "the app's");
}

#[tokio::test]
async fn a_nested_router_with_routes_may_hold_the_layer() {
    let api = pages().merge(layer().into_router());
    let app = Router::new().nest("/api", api).fallback(missing);
    assert_served(&app, "/api/socket.io/").await;
    assert_eq!(get(&app, "/api/page").await.body(), "page");
    assert_eq!(get(&app, "/socket.io/").await.body(), "the app's");
}

#[tokio::test]
async fn a_nested_router_may_hold_nothing_else() {
    let app = pages().nest("/api", layer().into_router());
    assert_served(&app, "/api/socket.io/").await;
}

#[tokio::test]
async fn layers_of_routes_may_lie_around_it() {
    let mark = axum::middleware::map_response(async |mut response: axum::response::Response| {
        let value = axum::http::HeaderValue::from_static("yes");
        response.headers_mut().insert("x-layer", value);
        response
    });
    let app = pages().merge(layer().into_router()).route_layer(mark);
    assert_served(&app, PATH).await;
    let response = get(&app, "/socket.io/?EIO=4&transport=polling").await;
    assert_eq!(response.headers()["x-layer"], "yes");
}

#[tokio::test]
async fn a_router_that_needs_a_state_may_hold_the_layer() {
    let count = async |state: axum::extract::State<usize>| state.0.to_string();
    let app = Router::new()
        .route("/count", route_get(count))
        .merge(layer().into_router())
        .with_state(7);
    assert_served(&app, PATH).await;
    assert_eq!(get(&app, "/count").await.body(), "7");
}

#[tokio::test]
async fn a_service_serves_the_path_of_its_route() {
    let app = pages().nest_service("/api/realtime", layer().into_service());
    assert_served(&app, "/api/realtime/").await;
}

#[tokio::test]
async fn the_router_serves_what_the_layer_serves() {
    for (path, served) in [
        (
            "/socket.io",
            ["/socket.io", "/socket.io/", "/socket.io/below/it"],
        ),
        ("/a/b/", ["/a/b", "/a/b/", "/a/b/c"]),
        ("/{x}", ["/%7Bx%7D", "/%7Bx%7D/", "/%7Bx%7D/c"]),
        ("/", ["/", "/", "/c"]),
    ] {
        let build = || {
            builder(Namespace::new().on("echo", echo))
                .path(path)
                .build()
        };
        let app: Router = build().0.into_router();
        for each in served {
            if !each.contains('%') {
                assert_served(&app, each).await;
            }
        }
        let elsewhere = get(&app, "/elsewhere?EIO=4&transport=polling").await;
        let status = if path == "/" {
            StatusCode::OK
        } else {
            StatusCode::NOT_FOUND
        };
        assert_eq!(elsewhere.status(), status, "{path}");
    }
}

#[tokio::test]
async fn the_handle_is_an_extractor_beside_the_router_too() {
    async fn publish(io: SocketIo) {
        io.emit("news", "rain");
    }
    let (layer, io) = builder(Namespace::new()).build();
    let app = Router::new()
        .route("/publish", route_get(publish))
        .layer(Extension(io))
        .merge(layer.into_router());
    let mut client = Polling::connect(&app).await;
    assert_eq!(get(&app, "/publish").await.status(), StatusCode::OK);
    assert_eq!(client.next().await, r#"42["news","rain"]"#);
}

#[tokio::test]
async fn the_engine_layer_has_a_router_too() {
    async fn wait(mut socket: EngineSocket) {
        while socket.recv().await.is_some() {}
    }
    let engine = EngineLayer::new(wait);
    let app = Router::new()
        .nest("/api", engine.into_router())
        .fallback(missing);
    let open = get(&app, "/api/engine.io/?EIO=4&transport=polling").await;
    assert!(open.body().starts_with("0{"), "{}", open.body());
}

/// `Router::nest` has no route for `/api/` itself.
#[tokio::test]
async fn a_server_at_the_root_is_nested_as_a_service() {
    let (layer, _io) = builder(Namespace::new().on("echo", echo)).path("/").build();
    let app = Router::new().nest_service("/api", layer.into_service());
    for path in ["/api", "/api/", "/api/below"] {
        assert_served(&app, path).await;
    }
}

#[tokio::test]
async fn a_layer_that_is_replaced_before_its_first_request_is_a_warning() {
    let (logs, _guard) = Logs::keep();
    let replaced = [
        Router::new().layer(layer()).fallback(missing),
        Router::new().layer(layer()).merge(pages()),
    ];
    for app in replaced {
        let refused = get(&app, "/socket.io/?EIO=4&transport=polling").await;
        assert_eq!(refused.status(), StatusCode::NOT_FOUND);
    }
    let warnings = logs.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("`into_router`"), "{warnings:?}");

    // A layer causes no warning if it has served a request, if the service inside it has, or if its
    // server was closed.
    let app = Router::new().layer(layer());
    assert_served(&app, PATH).await;
    drop(app);
    let app = pages().layer(layer());
    assert_eq!(get(&app, "/page").await.body(), "page");
    drop(app);
    let app = Router::new().layer(layer());
    let refused = get(&app, "/socket.io/?EIO=4&transport=nope").await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    drop(app);
    let (closed, io) = builder(Namespace::new()).build();
    io.close().await;
    drop(closed);
    assert_eq!(logs.warnings().len(), 2);
}

#[tokio::test]
async fn a_request_for_a_path_that_nothing_serves_is_a_warning() {
    let (logs, _guard) = Logs::keep();
    let app = pages().fallback(missing).layer(layer());
    let app = Router::new().nest_service("/api", app);
    for _ in 0..2 {
        let response = get(&app, "/api/realtime/?a=b&EIO=4&transport=polling").await;
        assert_eq!(response.body(), "the app's");
    }
    get(&app, "/api/page?EIO=4&transport=polling").await;
    let warnings = logs.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    for part in ["path=\"/api/realtime/\"", "served=\"/socket.io\""] {
        assert!(warnings[0].contains(part), "{part}: {warnings:?}");
    }
}
