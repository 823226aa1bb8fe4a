//! Serves metrics for Prometheus at `/metrics`, beside the app:
//! `cargo run --features metrics --example metrics`
//!
//! `docs/grafana.json` is a dashboard for them.

use std::time::Duration;

use axum::{Router, routing::get};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tower_socketio::metrics::{BUCKETS, Metrics};
use tower_socketio::{Args, Data, Namespace, Socket, SocketIo};

#[tokio::main]
async fn main() {
    // Before the server gets a request.
    let prometheus = install_recorder();

    let chat = Namespace::new().on("join", join).on("say", say);
    let (layer, _io) = SocketIo::builder()
        .namespace("/", chat)
        .metrics(Metrics::new().sent_events(["said"]))
        .build();

    // In production, serve `/metrics` on a port of its own, which the public does not reach.
    let app = Router::new()
        .route("/metrics", get(async move || prometheus.render()))
        .layer(layer);

    let port = std::env::args().nth(1).unwrap_or_else(|| "3000".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}"));
    let listener = listener.await.unwrap();
    eprintln!("listening on http://{}", listener.local_addr().unwrap());
    axum::serve(listener, app).await.unwrap();
}

/// Installs a recorder for all metrics of the process, with the recommended buckets.
fn install_recorder() -> PrometheusHandle {
    let mut builder = PrometheusBuilder::new();
    for (name, buckets) in BUCKETS {
        let name = Matcher::Full(name.to_owned());
        builder = builder.set_buckets_for_metric(name, buckets).unwrap();
    }
    let handle = builder.install_recorder().unwrap();

    // The exporter keeps the values of histograms until it is told to add them up.
    let upkeep = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            upkeep.run_upkeep();
        }
    });
    handle
}

async fn join(socket: Socket, Data(room): Data<String>) {
    socket.join(room);
}

async fn say(socket: Socket, Args((room, text)): Args<(String, String)>) {
    socket.to(room).emit("said", text);
}
