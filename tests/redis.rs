//! Each mode of the broker Redis, on Redis servers that these tests start. They need `redis-server`
//! (Debian's package redis-server), and so run only with `--include-ignored`, as `tests/run` does.

mod ports;
mod presence;
mod programs;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tower_socketio::cluster::{Memory, Mode, Redis, Streams, Subscriptions};
use tower_socketio::testing::conformance;

/// A Redis server. It ends when this is dropped.
struct Server {
    process: Child,
    port: String,
    url: String,
}

impl Server {
    async fn start() -> Self {
        let port = ports::free_port().to_string();
        let process = Self::run(&port);
        let url = format!("redis://127.0.0.1:{port}");
        let mut server = Self { process, port, url };
        while Redis::connect(&server.url).await.is_err() {
            let ended = server.process.try_wait().expect("a child");
            assert!(ended.is_none(), "redis-server has ended: {ended:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        server
    }

    fn run(port: &str) -> Child {
        #[rustfmt::skip]
        let options = ["--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        Command::new("redis-server")
            .args(options)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed")
    }

    fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    fn start_again(&mut self) {
        self.process = Self::run(&self.port);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn check(mode: Mode) {
    let server = Server::start().await;
    let redis = Redis::options(&server.url).mode(mode).connect().await;
    let redis = redis.expect("it is connected");
    conformance(|| redis.clone()).await;
    programs::check(|| redis.clone(), 1_250, 10).await;
    programs::check(|| redis.clone(), 10, 1_000).await;
    presence::check(|| redis.clone()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server"]
async fn a_presence_outlives_redis() {
    let mut server = Server::start().await;
    let redis = Redis::connect(&server.url).await.expect("it is connected");
    let [one, two] = [(); 2].map(|()| presence::Server::new(redis.clone()));
    let mut ada = one.enter("ada", 1).await;
    let mut bob = two.enter("bob", 1).await;
    ada.sees(&[("ada", &[1]), ("bob", &[1])]).await;
    bob.sees(&[("ada", &[1]), ("bob", &[1])]).await;
    for n in 0..2 {
        server.stop();
        // What changes meanwhile is known when Redis is back, and nobody has left.
        let eve = one.enter("eve", n).await;
        drop(one.enter("ann", 1).await);
        server.start_again();
        ada.sees(&[("ada", &[1]), ("bob", &[1]), ("eve", &[n])])
            .await;
        bob.sees(&[("ada", &[1]), ("bob", &[1]), ("eve", &[n])])
            .await;
        drop(eve);
        ada.sees(&[("ada", &[1]), ("bob", &[1])]).await;
        bob.sees(&[("ada", &[1]), ("bob", &[1])]).await;
    }
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
    presence::check(|| memory.clone()).await;
    let memory = Memory::with_log();
    presence::check(|| memory.clone()).await;
}
