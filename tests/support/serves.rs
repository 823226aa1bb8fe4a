// Used by the snippets of src/guide/layers.md: checks that an app serves Socket.IO at a path.

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use tower::{Service, ServiceExt};

pub fn serves<S>(app: S, path: &str)
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Error: std::fmt::Debug,
{
    let uri = format!("{path}?EIO=4&transport=polling");
    let request = Request::get(uri).body(Body::empty()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let response = runtime.unwrap().block_on(app.oneshot(request)).unwrap();
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    let kind = &response.headers()["content-type"];
    assert!(kind.to_str().unwrap().starts_with("text/plain"), "{path}");
}
