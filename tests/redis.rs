//! Each mode of the broker Redis, on Redis servers that these tests start. They need `redis-server`
//! (Debian's package redis-server), and so run only with `--include-ignored`, as `tests/run` does.

mod programs;

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tower_socketio::cluster::{Memory, Mode, Redis, Streams, Subscriptions};
use tower_socketio::testing::conformance;

/// A Redis server. It ends when this is dropped.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    async fn start() -> Self {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = free.local_addr().expect("an address").port().to_string();
        drop(free);
        #[rustfmt::skip]
        let options = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        let process = Command::new("redis-server")
            .args(options)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let url = format!("redis://127.0.0.1:{port}");
        let server = Self { process, url };
        while Redis::connect(&server.url).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn check(mode: Mode) {
    let server = Server::start().await;
    let redis = Redis::options(&server.url).mode(mode).connect().await;
    let redis = redis.expect("it is connected");
    conformance(|| redis.clone()).await;
    programs::check(|| redis.clone(), 1_250, 10).await;
    programs::check(|| redis.clone(), 10, 1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server"]
async fn classic() {
    check(Mode::Classic).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server"]
async fn sharded_static() {
    check(Mode::Sharded(Subscriptions::Static)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server"]
async fn sharded_dynamic() {
    check(Mode::Sharded(Subscriptions::Dynamic)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server"]
async fn sharded_dynamic_private() {
    check(Mode::Sharded(Subscriptions::DynamicPrivate)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server"]
async fn streams() {
    check(Mode::Streams(Streams::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server"]
async fn several_streams() {
    check(Mode::Streams(Streams::new().count(3))).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server"]
async fn streams_with_sharded_pub_sub() {
    check(Mode::Streams(Streams::new().sharded_pub_sub(true))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    let memory = Memory::new();
    conformance(|| memory.clone()).await;
    programs::check(|| memory.clone(), 1_250, 10).await;
    programs::check(|| memory.clone(), 10, 1_000).await;
}
