//! The official Admin UI, [`@socket.io/admin-ui`], works with a server that has [`AdminUi`].
//!
//! The UI is a web page. It connects to a namespace of the server, `/admin`, as an ordinary client.
//! The page is at <https://admin.socket.io>, and in the folder `ui/dist` of the npm package, which
//! any web server can serve.
//!
//! ```
//! use tower_socketio::admin::AdminUi;
//! use tower_socketio::{Cors, Namespace, Origins, SocketIo};
//!
//! // `htpasswd -nbB admin sesame` writes the name and such a hash.
//! let hash = "$2y$10$kYPjM2qh08bRiF2.2U5ff.tZXhB0jeravKkTbLU3/jvKLmp1lVRxK";
//! let (layer, io) = SocketIo::builder()
//!     .namespace("/", Namespace::new())
//!     .admin(AdminUi::basic("admin", hash))
//!     // For the page at admin.socket.io. It is not needed for a page of the same origin.
//!     .cors(Cors::new(Origins::list(["https://admin.socket.io"])).allow_credentials(true))
//!     .build();
//! ```
//!
//! # Serving the page
//!
//! If the app serves the page itself, the server needs no CORS headers:
//!
//! ```sh
//! npm install @socket.io/admin-ui
//! cargo add tower-http --features fs
//! ```
//!
//! ```
//! use axum::Router;
//! use axum::response::Redirect;
//! use axum::routing::get;
//! use tower_http::services::ServeDir;
//!
//! let files = ServeDir::new("node_modules/@socket.io/admin-ui/ui/dist");
//! let app: Router = Router::new()
//!     .route("/", get(Redirect::to("/admin-ui/")))
//!     .nest_service("/admin-ui", files);
//! ```
//!
//! Open it as `/admin-ui/`, with the slash: without it the page stays blank, because its files are
//! relative. The redirect helps.
//!
//! The page loads its fonts and icons from `fonts.googleapis.com` and `cdn.jsdelivr.net`. Without
//! them it works, but has no icons.
//!
//! The page asks for the address of the server, such as `https://api.example`, and sends cookies, so
//! that it works behind a proxy with sticky sessions. The page at <https://admin.socket.io> is of
//! another origin: it needs [`Cors`](crate::Cors) with that origin and credentials, as above, and a
//! server with TLS. If the server has [another parser](SocketIoBuilder::parser), choose it in the
//! advanced options.
//!
//! # What it shows
//!
//! In [`Mode::Development`] the page shows each socket with its rooms, its data and its first
//! request, and each event. It can send events, make sockets join and leave rooms, and disconnect
//! them, unless the server is [`read_only`](AdminUi::read_only). In [`Mode::Production`] it shows
//! numbers: the connections, the sockets in each namespace, and the bytes and packets of the last ten
//! minutes.
//!
//! A page that shows thousands of sockets does not respond any more. So above
//! [`max_sockets`](AdminUi::max_sockets), and while there are more events than a page can show, the
//! server changes all pages to numbers by itself, and back when there are fewer.
//!
//! # Several servers
//!
//! In a [cluster](crate::cluster) the page shows the sockets and the events of all servers that have
//! `AdminUi`, whichever server it is connected to. The servers must have the same credentials.
//!
//! With Node's servers in the cluster, connect the page to a server of this crate. The sockets of Node's
//! servers are shown from their next event on, and the others five seconds after the page has connected.
//!
//! # What it costs
//!
//! Without a page that is connected to any server of the cluster, nothing is recorded. With one, each
//! event of an application is copied for it, and sent by a task of its own. At most 4 096 events and
//! 2 MiB wait for that task. What does not fit is dropped, and the page shows numbers. Of an event of
//! more than 16 KiB the page shows the length only.
//!
//! [`@socket.io/admin-ui`]: https://www.npmjs.com/package/@socket.io/admin-ui

use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use serde::Serialize;
use serde_json::Value;

use self::describe::Describer;
use self::login::{Accepted, Login, SessionQuestion};
use self::pages::{Beat, Pages};
use self::recorder::Recorder;
use self::reporter::{BEAT, Reporter, SESSION, SOCKETS, own_sockets};
use self::totals::Total;
use crate::builder::SocketIoBuilder;
use crate::clock::now;
use crate::engine_io::Transport;
use crate::handles::{Partial, Socket, SocketIo};
use crate::hub::Hub;
use crate::protocol::Data;
use crate::random::random;
use crate::routing::{Auth, ErrorReply, Namespace};
use crate::sync::Mutex;

mod commands;
mod describe;
mod login;
mod pages;
mod queue;
mod recorder;
mod reporter;
mod server_id;
mod slow;
mod totals;

/// The options of the Admin UI: see the [module](self).
///
/// [`basic`](Self::basic) and [`without_auth`](Self::without_auth) create it.
/// [`SocketIoBuilder::admin`] adds it to a server.
#[must_use]
pub struct AdminUi {
    namespace: String,
    login: Option<Login>,
    read_only: bool,
    mode: Mode,
    server_id: Option<String>,
    max_sockets: usize,
    shows_credentials: bool,
}

/// What the Admin UI shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// Each socket and each event, unless there are too many.
    #[default]
    Development,
    /// Numbers only. The page gets neither the data of a socket nor an event.
    Production,
}

impl AdminUi {
    /// Requires a user name and a password. `hash` is the bcrypt hash of the password, of version
    /// `$2a$`, `$2b$` or `$2y$`. `htpasswd -nbB NAME PASSWORD` writes one.
    ///
    /// A page that has logged in gets a session id, with which it comes back for one day. The
    /// servers of a cluster with the same user name and hash know each other's session ids, so a page
    /// may come back to any of them. A server knows 1 000 session ids: a further one replaces the
    /// oldest. It forgets them when it ends.
    ///
    /// A wrong user name takes as long as a wrong password: a hash is computed for each. Two are
    /// computed at a time, on tokio's threads for blocking work, so logins cannot occupy all cores. A
    /// cost of 10 is a good choice.
    ///
    /// A page that is refused shows `invalid credentials`, or, while 64 logins are under way,
    /// `too many logins at a time: try again`.
    ///
    /// # Panics
    ///
    /// Panics if `hash` is not a bcrypt hash with a cost from 4 to 20.
    #[track_caller]
    pub fn basic(username: impl Into<String>, hash: impl Into<String>) -> Self {
        Self::new(Some(Login::new(username.into(), hash.into())))
    }

    /// Lets every client use the Admin UI. Use this only if no stranger can reach the server.
    pub fn without_auth() -> Self {
        Self::new(None)
    }

    fn new(login: Option<Login>) -> Self {
        Self {
            namespace: "/admin".to_owned(),
            login,
            read_only: false,
            mode: Mode::default(),
            server_id: None,
            max_sockets: 2_000,
            shows_credentials: false,
        }
    }

    /// Sets the namespace to which the page connects.
    ///
    /// Default: `/admin`.
    pub fn namespace(mut self, path: impl Into<String>) -> Self {
        self.namespace = path.into();
        self
    }

    /// Refuses the commands of the page: it shows, but cannot change anything.
    ///
    /// Default: commands are allowed.
    pub const fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Sets what the page shows.
    ///
    /// Default: [`Mode::Development`].
    pub const fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets the name of this server on the page. Each server of a cluster needs another one.
    ///
    /// Default: the name of the machine and the id of the process, as in `web1#4711`.
    pub fn server_id(mut self, id: impl Into<String>) -> Self {
        self.server_id = Some(id.into());
        self
    }

    /// Sets how many sockets the page shows one by one, of all servers and namespaces together. If
    /// there are more, it shows numbers.
    ///
    /// The page searches its list for each socket: it takes less than a second for 2 000 sockets, ten
    /// seconds for 5 000, and more than a minute for 10 000. It does not get the headers and the query of
    /// more than 1 000 sockets on a server, nor those that are longer than 4 KiB.
    ///
    /// Default: 2 000.
    pub const fn max_sockets(mut self, sockets: usize) -> Self {
        self.max_sockets = sockets;
        self
    }

    /// Shows the values of the headers `Cookie`, `Authorization` and `Proxy-Authorization` of each
    /// client. Anyone with these values can act as that client.
    ///
    /// Default: the page shows `…` in their place. The query and the data of a socket are always shown.
    pub const fn show_credentials(mut self) -> Self {
        self.shows_credentials = true;
        self
    }

    fn into_admin(self) -> Admin {
        let server = u64::from_le_bytes(random()) >> 11;
        let describer = Describer {
            server,
            shows_credentials: self.shows_credentials,
        };
        let hostname = server_id::hostname();
        let id = self.server_id;
        let has_events = self.mode == Mode::Development;
        Admin {
            login: self.login,
            read_only: self.read_only,
            has_events,
            server_id: id.unwrap_or_else(|| server_id::server_id(&hostname)),
            hostname,
            started: now(),
            max_sockets: self.max_sockets,
            recorder: Arc::new(Recorder::new(describer, (&*self.namespace).into())),
            pages: Mutex::new(Pages::new(server, has_events, self.max_sockets)),
            state: Mutex::default(),
        }
    }
}

impl fmt::Debug for AdminUi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminUi")
            .field("namespace", &self.namespace)
            .field("has_login", &self.login.is_some())
            .field("read_only", &self.read_only)
            .field("mode", &self.mode)
            .field("max_sockets", &self.max_sockets)
            .field("shows_credentials", &self.shows_credentials)
            .finish_non_exhaustive()
    }
}

impl<S> SocketIoBuilder<S> {
    /// Adds the Admin UI. See [`admin`](crate::admin).
    ///
    /// ```
    /// use tower_socketio::admin::AdminUi;
    /// use tower_socketio::{Namespace, SocketIo};
    ///
    /// let (layer, io) = SocketIo::builder()
    ///     .namespace("/", Namespace::new())
    ///     .admin(AdminUi::without_auth().read_only())
    ///     .build();
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if the namespace of the Admin UI has parameters, or as [`namespace`](Self::namespace)
    /// does.
    #[track_caller]
    pub fn admin(self, ui: AdminUi) -> Self {
        let path = ui.namespace.clone();
        assert!(
            !path.contains('{'),
            "namespace `{path}` of the Admin UI cannot have parameters"
        );
        let admin = Arc::new(ui.into_admin());
        let namespace = Namespace::new()
            .on_connect(connect)
            .on_server_event(BEAT, handle_beat)
            .on_server_event(SOCKETS, handle_sockets)
            .on_server_event(SESSION, handle_session)
            .without_recovery();
        let namespace = match admin.read_only {
            true => commands::refuse(namespace),
            false => commands::add(namespace),
        };
        let recorder = Arc::clone(&admin.recorder);
        self.namespace(&path, namespace.with_state(admin))
            .observe(recorder)
    }
}

/// The Admin UI of one server.
#[derive(Debug)]
struct Admin {
    login: Option<Login>,
    read_only: bool,
    /// Whether pages may show sockets and events.
    has_events: bool,
    server_id: String,
    hostname: String,
    /// The most sockets that the pages show.
    max_sockets: usize,
    started: Instant,
    recorder: Arc<Recorder>,
    pages: Mutex<Pages>,
    state: Mutex<ReporterState>,
}

/// What the handlers leave for the [`Reporter`].
#[derive(Debug, Default)]
struct ReporterState {
    is_running: bool,
    /// The pages that have just connected.
    new: Vec<Socket>,
    /// Whether another server waits for a beat.
    answers: bool,
}

impl ReporterState {
    fn take_new(&mut self) -> Vec<Socket> {
        std::mem::take(&mut self.new)
    }

    fn take_answer(&mut self) -> bool {
        std::mem::take(&mut self.answers)
    }

    fn reporter_ended(&mut self) {
        self.is_running = false;
    }
}

impl Admin {
    /// Changes what the reporter has to do, and starts it if it does not run.
    fn wake_reporter(self: &Arc<Self>, io: &SocketIo, change: impl FnOnce(&mut ReporterState)) {
        self.recorder.set_io(io);
        let mut state = self.state.lock();
        change(&mut state);
        let is_running = std::mem::replace(&mut state.is_running, true);
        drop(state);
        self.recorder.wake.notify_one();
        if !is_running {
            let reporter = Reporter::new(Arc::clone(self), io.clone());
            tokio::spawn(reporter.run());
        }
    }

    /// Returns whether the reporter may end, because nothing is left to do.
    fn try_end(&self) -> bool {
        let mut state = self.state.lock();
        let may_end = state.new.is_empty() && !state.answers;
        state.is_running = !may_end;
        may_end
    }

    /// The features of the page, by their names in its source.
    fn features(&self, has_events: bool) -> Vec<&'static str> {
        let mut features = Vec::new();
        if !self.read_only {
            features.extend(COMMANDS);
        }
        features.push("AGGREGATED_EVENTS");
        if has_events {
            features.push("ALL_EVENTS");
        }
        features
    }

    /// Returns the numbers of this server. With `takes_totals` they include those since they were
    /// last taken.
    fn stats(&self, io: &SocketIo, hub: &Hub, takes_totals: bool) -> Stats<'_> {
        let sessions = hub.sessions.all();
        let is_polling = |transport| transport == Transport::Polling;
        let polling = sessions.iter().filter(|each| is_polling(each.transport()));
        let namespace = |name: String| {
            let live = hub.find(&name);
            NamespaceStats {
                sockets_count: live.map_or(0, |live| live.member_count()),
                name,
            }
        };
        Stats {
            server_id: &self.server_id,
            hostname: &self.hostname,
            pid: std::process::id(),
            uptime: now().duration_since(self.started).as_secs_f64(),
            clients_count: sessions.len(),
            polling_clients_count: polling.count(),
            aggregated_events: match takes_totals {
                true => self.recorder.take_totals(),
                false => Vec::new(),
            },
            namespaces: largest(io.namespaces().into_iter().map(namespace).collect()),
        }
    }
}

/// Keeps the namespaces with the most sockets, in their order, and adds the others up in one line.
fn largest(mut all: Vec<NamespaceStats>) -> Vec<NamespaceStats> {
    if all.len() <= MAX_NAMESPACES {
        return all;
    }
    all.sort_by_key(|each| Reverse(each.sockets_count));
    let rest = all.split_off(MAX_NAMESPACES);
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all.push(NamespaceStats {
        name: format!("… {} more", rest.len()),
        sockets_count: rest.iter().map(|each| each.sockets_count).sum(),
    });
    all
}

/// How many namespaces are shown one by one.
const MAX_NAMESPACES: usize = 200;

/// The commands of the page, without and with several sockets at once.
const COMMANDS: [&str; 7] = [
    "EMIT",
    "JOIN",
    "LEAVE",
    "DISCONNECT",
    "MJOIN",
    "MLEAVE",
    "MDISCONNECT",
];

/// The arguments of `server_stats`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Stats<'a> {
    server_id: &'a str,
    hostname: &'a str,
    pid: u32,
    /// In seconds.
    uptime: f64,
    clients_count: usize,
    polling_clients_count: usize,
    aggregated_events: Vec<Total>,
    namespaces: Vec<NamespaceStats>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NamespaceStats {
    name: String,
    sockets_count: usize,
}

/// Lets a page in, or refuses it.
async fn connect(
    socket: Socket,
    State(admin): State<Arc<Admin>>,
    Auth(auth): Auth<Value>,
) -> Result<(), ErrorReply> {
    let io = socket.io();
    if let Some(login) = &admin.login {
        let ask = |question| ask_others(socket.clone(), question);
        if let Accepted::ByPassword(session) = login.check(&auth, ask).await? {
            socket.emit("session", session);
        }
    }
    admin.wake_reporter(&io, |state| state.new.push(socket));
    Ok(())
}

/// Asks the other servers for a session id. Returns for how many milliseconds it is valid, or `None` if
/// no server knows it.
async fn ask_others(socket: Socket, question: SessionQuestion) -> Option<u64> {
    socket.member.namespace.others()?;
    let everywhere = socket.everyone();
    let asked = everywhere.server_side_emit_with_ack::<Option<u64>>(SESSION, Data(question));
    let answers = asked.await.unwrap_or_else(Partial::into_got);
    answers.into_iter().flatten().min()
}

async fn handle_session(
    State(admin): State<Arc<Admin>>,
    Data(question): Data<SessionQuestion>,
) -> Data<Option<u64>> {
    let login = admin.login.as_ref();
    Data(login.and_then(|login| login.answer(&question)))
}

async fn handle_beat(io: SocketIo, State(admin): State<Arc<Admin>>, Data(beat): Data<Beat>) {
    let watches = beat.watches;
    let mut pages = admin.pages.lock();
    let is_new = pages.handle_beat(beat, now());
    admin.recorder.set_level(pages.level());
    drop(pages);
    if watches {
        admin.wake_reporter(&io, |state| state.answers |= is_new);
    }
}

async fn handle_sockets(io: SocketIo, State(admin): State<Arc<Admin>>) -> String {
    let own = match admin.has_events {
        true => own_sockets(&admin, &io).await,
        false => Vec::new(),
    };
    // A list of JSON texts can always be written.
    serde_json::to_string(&own).unwrap_or_default()
}
