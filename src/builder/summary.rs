//! The log lines of a new server: what is served where.

use std::time::Duration;

use crate::transport::HttpService;

/// Logs what a server serves. `namespaces` are the paths, `recovery` is the time in which a client
/// may come back.
pub(super) fn log(
    service: &HttpService,
    namespaces: &[String],
    predicates: usize,
    recovery: Option<Duration>,
    has_cluster: bool,
) {
    let config = &service.config;
    let transports = match (config.polling, config.websocket) {
        (true, true) => "polling, websocket",
        (true, false) => "polling",
        (false, _) => "websocket",
    };
    tracing::info!(
        path = service.shown_path(),
        namespaces = namespaces.join(", "),
        predicates = (predicates > 0).then_some(predicates),
        transports,
        eio3 = config.allow_eio3.then_some(true),
        recovery = recovery.map(tracing::field::debug),
        cluster = has_cluster,
        "serving Socket.IO on this path, once the layer is added to a router"
    );
    if service.http.has_cors() {
        tracing::info!(
            path = service.shown_path(),
            "the server sets the CORS headers of its responses: no layer around it and no proxy may \
             set them too, or browsers reject the responses; use `HttpOptions::origins` if one has to"
        );
    }
}
