//! The broker Postgres, on PostgreSQL servers that these tests start. They need the programs of
//! PostgreSQL (Debian's package postgresql), and so run only with `--include-ignored`, as `tests/run`
//! does.

mod presence;
mod programs;

use std::error::Error as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use tower_socketio::cluster::Postgres;
use tower_socketio::testing::{Client, conformance};
use tower_socketio::{Namespace, SocketIo};

/// A PostgreSQL server with a Unix socket. It ends when this is dropped.
struct Server {
    process: Child,
    folder: PathBuf,
}

const TABLE: &str = "CREATE TABLE socket_io_attachments \
    (id bigserial UNIQUE, created_at timestamptz DEFAULT now(), payload bytea)";

impl Server {
    fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);

        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("socketio-postgres-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).expect("a folder");
        if is_root() {
            run(Command::new("chown").arg("postgres").arg(&folder));
        }
        let data = folder.join("data");
        let options = [
            "-A",
            "trust",
            "-U",
            "postgres",
            "-E",
            "UTF8",
            "--no-sync",
            "-D",
        ];
        run(program("initdb").args(options).arg(&data));
        let process = program("postgres")
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(&folder)
            .args(["-h", "", "-c", "fsync=off"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("PostgreSQL is installed");
        let server = Self { process, folder };
        while !server.try_execute("SELECT 1") {
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn with_table() -> Self {
        let server = Self::start();
        server.execute(TABLE);
        server
    }

    fn url(&self) -> String {
        let folder = self.folder.display();
        format!("host={folder} user=postgres dbname=postgres")
    }

    fn execute(&self, sql: &str) {
        assert!(self.try_execute(sql), "{sql}");
    }

    fn try_execute(&self, sql: &str) -> bool {
        let status = program("psql")
            .args(["-q", "-X", "-U", "postgres", "-c", sql, "-h"])
            .arg(&self.folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.expect("psql is installed").success()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // As `pg_ctl stop -m immediate` does.
        let pid = self.process.id().to_string();
        let _ = Command::new("kill").args(["-QUIT", &pid]).status();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("`id` runs");
    id.stdout == b"0\n"
}

/// Returns a program of PostgreSQL. It does not run as root.
fn program(name: &str) -> Command {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut programs =
        versions.filter_map(|version| Some(version.ok()?.path().join("bin").join(name)));
    let program = programs.find(|program| program.exists());
    let program = program.unwrap_or_else(|| Path::new(name).to_owned());
    let mut command = match is_root() {
        true => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
            command.arg(program);
            command
        }
        false => Command::new(program),
    };
    command.current_dir("/");
    command
}

fn run(command: &mut Command) {
    let output = command.output().expect("PostgreSQL is installed");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL"]
async fn postgres_is_a_broker() {
    let server = Server::with_table();
    let postgres = Postgres::connect(&server.url()).await;
    let postgres = postgres.expect("it is connected");
    conformance(|| postgres.clone()).await;
    programs::check(|| postgres.clone(), 1_250, 10).await;
    programs::check(|| postgres.clone(), 10, 1_000).await;
    presence::check(|| postgres.clone()).await;
}

/// All messages but the heartbeats go through the table.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL"]
async fn attachments_are_a_broker() {
    let server = Server::start();
    server.execute("CREATE SCHEMA app");
    server.execute(&TABLE.replace("socket_io_attachments", r#"app."All messages""#));
    let postgres = Postgres::options(&server.url())
        .table(r#"app."All messages""#)
        .prefix("chat")
        .payload_threshold(0)
        .connect()
        .await
        .expect("it is connected");
    conformance(|| postgres.clone()).await;
    programs::check(|| postgres.clone(), 250, 10).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn an_error_says_how_the_table_is_created() {
    let server = Server::start();
    let statement = "CREATE TABLE socket_io_attachments (id bigserial UNIQUE, \
        created_at timestamptz DEFAULT now(), payload bytea)";
    let error = async || {
        let error = Postgres::connect(&server.url())
            .await
            .expect_err("no table");
        error.source().expect("a reason").to_string()
    };
    assert!(error().await.ends_with(statement), "{}", error().await);
    // It could have been created for something else.
    server.execute(
        "CREATE TABLE socket_io_attachments (id text, created_at timestamptz, payload bytea)",
    );
    assert!(error().await.ends_with(statement), "{}", error().await);
    server.execute("ALTER TABLE socket_io_attachments DROP COLUMN payload");
    assert!(error().await.ends_with(statement), "{}", error().await);
    server.execute("DROP TABLE socket_io_attachments");
    server.execute(statement);
    Postgres::connect(&server.url())
        .await
        .expect("it is connected");

    // A user that may not use it is told so as well.
    server.execute("CREATE USER guest");
    let url = server.url().replace("user=postgres", "user=guest");
    let error = Postgres::connect(&url).await.expect_err("no permission");
    let reason = error.source().expect("a reason").to_string();
    assert!(reason.contains("permission denied"), "{reason}");
    // The table alone is not enough.
    server.execute("GRANT SELECT, INSERT, DELETE ON socket_io_attachments TO guest");
    let error = Postgres::connect(&url).await.expect_err("no permission");
    let reason = error.source().expect("a reason").to_string();
    let at = reason.find("GRANT USAGE ON SEQUENCE").expect("what to do");
    server.execute(&reason[at..]);
    Postgres::connect(&url).await.expect("it is connected");
    server.execute("DROP TABLE socket_io_attachments");
    server.execute(&statement.replace("bigserial", "bigint GENERATED ALWAYS AS IDENTITY"));
    server.execute("GRANT SELECT, INSERT, DELETE ON socket_io_attachments TO guest");
    Postgres::connect(&url).await.expect("it is connected");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL"]
async fn a_database_without_all_characters_is_refused() {
    let server = Server::start();
    server.execute(
        "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
    );
    let url = server.url().replace("dbname=postgres", "dbname=latin");
    let error = Postgres::connect(&url).await.expect_err("an encoding");
    let reason = error.source().expect("a reason").to_string();
    assert!(reason.contains("LATIN1"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL"]
async fn a_server_may_never_clean_up() {
    let server = Server::start();
    server.execute(TABLE);
    let postgres = Postgres::options(&server.url()).cleanup_interval(Duration::MAX);
    let postgres = postgres.connect().await.expect("it is connected");
    let (_layer, io) = SocketIo::builder()
        .namespace("/", Namespace::new())
        .cluster(postgres)
        .build();
    let mut cluster = io.cluster().expect("it has a broker");
    while !cluster.status().is_connected {
        cluster.changed().await;
    }
    assert_eq!(io.server_count().await, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL"]
async fn a_server_that_starts_without_the_table_connects_when_it_is_there() {
    let server = Server::start();
    let postgres = Postgres::options(&server.url()).connect_lazily();
    let postgres = postgres.expect("it is a URL");
    let (_layer, io) = SocketIo::builder()
        .namespace("/", Namespace::new())
        .cluster(postgres)
        .build();
    let mut cluster = io.cluster().expect("it has a broker");
    while cluster.status().reason.is_empty() {
        cluster.changed().await;
    }
    let reason = cluster.status().reason;
    assert!(reason.contains("CREATE TABLE"), "{reason}");
    server.execute(TABLE);
    while !cluster.status().is_connected {
        cluster.changed().await;
    }
    assert_eq!(io.server_count().await, Ok(1));
    assert_eq!(cluster.status().gaps, 0);
    io.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL"]
async fn old_attachments_are_removed() {
    let server = Server::with_table();
    let postgres = Postgres::options(&server.url())
        .cleanup_interval(Duration::from_secs(1))
        .connect()
        .await
        .expect("it is connected");
    let (_layer, io) = SocketIo::builder()
        .namespace("/", Namespace::new())
        .cluster(postgres)
        .build();
    let sent = io.of("/").try_emit("long", "x".repeat(10_000));
    sent.expect("it is queued").await.expect("it is sent");
    // More than are removed at once.
    server.execute(
        "INSERT INTO socket_io_attachments (created_at) \
         SELECT now() - interval '1 hour' FROM generate_series(1, 2500)",
    );
    // The division fails while there is a row.
    let is_empty = "SELECT 1 / (count(*) = 0)::int FROM socket_io_attachments";
    while !server.try_execute(is_empty) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    io.close().await;
}

/// PostgreSQL shortens long names of channels, so two namespaces could have the same.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL"]
async fn a_namespace_with_a_long_name_is_on_its_server_alone() {
    let server = Server::with_table();
    let postgres = Postgres::connect(&server.url()).await;
    let postgres = postgres.expect("it is connected");
    let start = || {
        let (layer, io) = SocketIo::builder()
            .namespace("/{name}", Namespace::new())
            .cluster(postgres.clone())
            .build();
        (Router::new().layer(layer), io)
    };
    let ((app_a, a), (app_b, b)) = (start(), start());
    for io in [&a, &b] {
        let mut cluster = io.cluster().expect("it has a broker");
        while !cluster.status().is_connected {
            cluster.changed().await;
        }
    }
    let longest = format!("/{}", "x".repeat(52));
    let too_long = format!("{longest}x");
    let client = async |app, name: &str| Client::connect(app, name).await.expect("it is let in");
    let mut clients = [
        client(&app_a, &longest).await,
        client(&app_b, &longest).await,
        client(&app_a, &too_long).await,
        client(&app_b, &too_long).await,
    ];
    for (name, sockets) in [(&longest, 2), (&too_long, 1)] {
        let fetched = a.of(name).fetch_sockets().await;
        assert_eq!(fetched.expect("all servers answer").len(), sockets);
    }
    a.of(&too_long).emit("n", 1);
    a.of(&longest).emit("n", 2);
    b.of(&too_long).emit("n", 3);
    for (client, expected) in clients.iter_mut().zip([2, 2, 1, 3]) {
        let received: u64 = client.expect("n").await.data();
        assert_eq!(received, expected);
    }
    assert_eq!(a.cluster().expect("it has a broker").status().dropped, 1);
    a.close().await;
    b.close().await;
}
