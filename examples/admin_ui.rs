//! The official Admin UI: `cargo run --features admin-ui --example admin_ui [PORT [DIR]]`
//!
//! DIR has the files of the page: the folder `ui/dist` of the npm package `@socket.io/admin-ui`.
//! Without DIR they are those that the tests of this repository install.
//!
//! Open http://localhost:3000/admin-ui/, with the slash at the end: without it the page stays blank,
//! because its files are relative. Sign in with the server's address, the user `admin` and the
//! password `sesame`. The page loads its fonts and icons from `fonts.googleapis.com` and
//! `cdn.jsdelivr.net`. Without them it works, but has no icons.
//!
//! The page at https://admin.socket.io works too, if the server has TLS: a
//! browser does not let a page with TLS connect to a server without.

use std::net::SocketAddr;
use std::path::PathBuf;

use axum::Router;
use axum::response::Redirect;
use axum::routing::get;
use serde::{Deserialize, Serialize};
use tower_http::services::ServeDir;
use tower_socketio::admin::AdminUi;
use tower_socketio::protocol::EncodeError;
use tower_socketio::{Auth, Cors, Data, Namespace, Origins, Params, Socket, SocketIo};

/// `sesame`. `htpasswd -nbB admin sesame` writes such a hash.
const HASH: &str = "$2y$10$kYPjM2qh08bRiF2.2U5ff.tZXhB0jeravKkTbLU3/jvKLmp1lVRxK";

const FILES: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/interop/node_modules/@socket.io/admin-ui/ui/dist"
);

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let port = args.next().unwrap_or_else(|| "3000".into());
    let files = PathBuf::from(args.next().unwrap_or_else(|| FILES.into()));
    if !files.join("index.html").is_file() {
        eprintln!("{} has no index.html.", files.display());
        eprintln!(
            "Run `npm install @socket.io/admin-ui`, and pass the path of its folder `ui/dist`."
        );
        std::process::exit(1);
    }

    // The page sends cookies, so the origin has to be named. A page of this server needs no CORS.
    let cors = Cors::new(Origins::list(["https://admin.socket.io"])).allow_credentials(true);
    let chat = Namespace::new()
        .on_connect(enter)
        .on("join", join)
        .on("say", say);
    let (layer, _io) = SocketIo::builder()
        .namespace("/", chat)
        .namespace("/orders/{shop}", Namespace::new().on_connect(open))
        .admin(AdminUi::basic("admin", HASH))
        .cors(cors)
        .build();

    let app = Router::new()
        .route("/", get(Redirect::to("/admin-ui/")))
        .nest_service("/admin-ui", ServeDir::new(files))
        .layer(layer);

    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}"));
    let listener = listener.await.unwrap();
    eprintln!("listening on http://{}", listener.local_addr().unwrap());
    // With the addresses of the clients, which the page shows.
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app).await.unwrap();
}

#[derive(Deserialize, Serialize)]
struct User {
    name: String,
}

/// The page shows the data of a socket, and each change of them.
async fn enter(socket: Socket, Auth(user): Auth<User>) -> Result<(), EncodeError> {
    socket.set_data(user)
}

async fn join(socket: Socket, Data(room): Data<String>) {
    socket.join(room);
}

async fn say(socket: Socket, Data(text): Data<String>) {
    socket.broadcast().emit("said", text);
}

async fn open(socket: Socket, Params(shop): Params<String>) {
    socket.join(format!("shop:{shop}"));
    socket.emit("opened", shop);
}
