//! Disconnects sockets whose deadline has passed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::clock::now;
use crate::handles::Socket;
use crate::hub::DisconnectReason;
use crate::hub::expiry::Due;
use crate::hub::member::Member;
use crate::protocol::Data;

/// The argument of the event that reminds a client of its deadline.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reminder {
    expires_in_ms: u64,
}

/// Reminds a client of its deadline, or disconnects it when the deadline has passed.
pub(super) fn handle_deadline(member: &Arc<Member>, now: Instant) {
    if !member.is_connected() {
        return;
    }
    let Some(deadline) = member.deadline() else {
        return;
    };
    let socket = Socket::new(Arc::clone(member));
    match deadline.due(now) {
        Some(Due::Reminder(event, rest)) => {
            let expires_in_ms = milliseconds(rest);
            socket.emit(event, Data(Reminder { expires_in_ms }));
        }
        Some(Due::Expired(event)) => {
            if let Some(event) = event {
                socket.emit(event, ());
            }
            tracing::debug!(socket = %member.id, namespace = socket.namespace(), "expired");
            member.disconnect(DisconnectReason::Expired);
        }
        None => {}
    }
}

/// Makes a restored socket leave whose deadline has passed while its client was away. The client
/// gets nothing of what it has missed.
pub(super) fn leave_if_expired(member: &Arc<Member>) {
    if !member.is_recovered() {
        return;
    }
    let now = now();
    let Some(deadline) = member.deadline().filter(|each| each.rest(now).is_zero()) else {
        return;
    };
    drop((member.take_missed(), member.take_held()));
    if let Some(Due::Expired(Some(event))) = deadline.due(now) {
        Socket::new(Arc::clone(member)).emit(event, ());
    }
    tracing::debug!(socket = %member.id, namespace = &*member.namespace.name, "expired");
    member.leave(DisconnectReason::Expired);
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
