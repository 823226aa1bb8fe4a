//! I/O drivers between bytes and sessions. They know packets, not events.
//!
//! A driver does four things. It passes received data to the session while the session reads input.
//! It writes the packets that the session has for its transport. It reports to the session that the
//! transport has closed, or accepts no more bytes. It ends when the session has finished with it.
//!
//! | file | |
//! |---|---|
//! | [`service`] | HTTP requests: handshakes, polls, POSTs, upgrades |
//! | [`options`] | the HTTP options of a server |
//! | [`origin`], [`cors`] | the pages that may connect, and the CORS headers |
//! | [`client`] | the files of the JavaScript client |
//! | [`compress`] | the compression of response bodies |
//! | [`cookie`] | the cookie for load balancers |
//! | [`refusal`] | the errors of refused requests |
//! | [`polling`] | one GET or POST of a session |
//! | [`websocket`] | one WebSocket of a session, and its write buffer |
//! | [`stream`] | the byte stream of a WebSocket |
//! | [`task`] | the task of a session |

mod client;
mod compress;
mod cookie;
mod cors;
mod options;
mod origin;
mod polling;
mod refusal;
mod service;
mod stream;
mod task;
mod websocket;

pub use self::{
    cookie::{SameSite, SessionCookie},
    cors::Cors,
    options::HttpOptions,
    origin::Origins,
    refusal::ConnectionError,
};
#[cfg(feature = "unstable-internals")]
pub use self::{
    polling::raw::{PayloadForm, read_payload},
    websocket::free_spare_buffer,
};
pub(crate) use self::{
    service::{Application, HttpService, server_path},
    task::SessionApp,
};
pub(crate) use crate::guard::guarded;
