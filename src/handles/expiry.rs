//! The expiry of a socket: `Socket::set_expiry`.

use std::time::Duration;

use super::Socket;
use crate::clock::now;
use crate::hub::Expiry;
use crate::hub::expiry::Deadline;

impl Socket {
    /// Disconnects the socket after some time, unless this is called again before.
    ///
    /// It is for clients that sign in for a limited time, for example with a token. At the deadline
    /// the client is disconnected from the namespace, with
    /// [`DisconnectReason::Expired`](crate::DisconnectReason::Expired), even if it is idle. Events
    /// that wait for their handlers are dropped, and a running handler is not cancelled. The official
    /// client does not connect again by itself, because the server has disconnected it: the
    /// application signs in again and calls `socket.connect()`. A [`reminder`](Expiry::reminder)
    /// lets it sign in before, by an event:
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use serde::Deserialize;
    /// use tower_socketio::{Auth, Data, ErrorReply, Expiry, Namespace, Socket};
    ///
    /// #[derive(Deserialize)]
    /// struct SignIn {
    ///     token: String,
    /// }
    ///
    /// /// Returns the rest of the token's time.
    /// fn check(token: &str) -> Result<Duration, ErrorReply> {
    ///     match token {
    ///         "sesame" => Ok(Duration::from_secs(60 * 60)),
    ///         _ => Err(ErrorReply::new("not authorized")),
    ///     }
    /// }
    ///
    /// // `io(url, { auth: { token } })`
    /// async fn connect(socket: Socket, Auth(auth): Auth<SignIn>) -> Result<(), ErrorReply> {
    ///     sign_in(socket, Data(auth)).await
    /// }
    ///
    /// // `await socket.emitWithAck("sign_in", { token })`
    /// async fn sign_in(socket: Socket, Data(auth): Data<SignIn>) -> Result<(), ErrorReply> {
    ///     let rest = check(&auth.token)?;
    ///     let minute = Duration::from_secs(60);
    ///     socket.set_expiry(Expiry::after(rest).reminder("sign_in_again", minute));
    ///     Ok(())
    /// }
    ///
    /// let namespace: Namespace = Namespace::new().on_connect(connect).on("sign_in", sign_in);
    /// ```
    ///
    /// A later call replaces the deadline and its events. `None` removes the deadline. If it passes
    /// in the connect handler, the client is connected, and disconnected at once.
    ///
    /// The deadline is one of the timers of the client's session. It needs no task, and a few hundred
    /// bytes.
    ///
    /// A restored socket keeps its deadline, and the time while it was away counts. If the deadline
    /// has passed when its client comes back, and the connect handler sets no other one, the client
    /// gets nothing of what it has missed, and is disconnected at once. If another server
    /// of a cluster restores it, only the connect handler sets one: do not combine
    /// [`skip_connect_handler`](crate::Recovery::skip_connect_handler) with an expiry there.
    pub fn set_expiry(&self, expiry: impl Into<Option<Expiry>>) {
        let expiry = expiry.into();
        let deadline = expiry.map(|expiry| Deadline::new(expiry, now()));
        self.member.set_deadline(deadline);
    }

    /// Returns the time until the socket [expires](Self::set_expiry): zero after the deadline, `None`
    /// if it does not expire.
    #[must_use]
    pub fn expires_in(&self) -> Option<Duration> {
        Some(self.member.deadline()?.rest(now()))
    }
}
