//! The spans of a server: `connection`, within it `connect`, and within that `event`.
//!
//! | span | how long | its `otel.name` |
//! |---|---|---|
//! | `connection` | the session, within the span of the request that opened it | |
//! | `connect` | the socket, from its connect handler to its disconnect handler | `/chat connect` |
//! | `event` | the handler of one event | `say receive` |
//!
//! They have the field names of OpenTelemetry's messaging conventions. None has the session's id,
//! which is a secret, or a payload. A name that a client has made up is `_other`.
//!
//! A span is created only within another one. If no subscriber wants the connection's span, its
//! events cost a branch.

use http::HeaderMap;
use serde::Deserialize;
use tracing::field::Empty;
use tracing::{Span, debug_span};

use super::definition::{Definition, EventIndex};
use super::outcome::Outcome;
use crate::engine_io::{CloseReason, Transport};
use crate::protocol::Payload;

/// The target of the spans. A filter can enable them without the log lines of this crate.
const TARGET: &str = "tower_socketio::spans";

const SYSTEM: &str = "socket.io";
const OTHER: &str = "_other";

/// A span, or nothing if no subscriber wants it. It is one pointer wide, because each session and
/// each socket has one.
#[derive(Clone, Debug, Default)]
pub(crate) struct OptionalSpan(Option<Box<Span>>);

impl OptionalSpan {
    fn new(span: Span) -> Self {
        Self((!span.is_disabled()).then(|| Box::new(span)))
    }

    #[inline]
    pub(crate) fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Creates the span of a session, within the current span: that of the request.
    pub(crate) fn connection(number: u64, transport: Transport, headers: &HeaderMap) -> Self {
        let span = debug_span!(
            target: TARGET,
            "connection",
            otel.kind = "server",
            messaging.system = SYSTEM,
            session = number,
            transport = %transport,
            traceparent = Empty,
            reason = Empty,
        );
        let span = Self::new(span);
        if let Some(span) = &span.0 {
            let header = headers.get("traceparent");
            let traceparent = header.and_then(|value| value.to_str().ok());
            record_traceparent(span, traceparent);
        }
        span
    }

    /// Records why the session has ended.
    pub(crate) fn closed(&self, reason: CloseReason) {
        if let Some(span) = &self.0 {
            span.record("reason", tracing::field::display(reason));
        }
    }

    /// Creates the span of a socket, within that of its session. `auth` is JSON.
    pub(crate) fn connect(
        &self,
        namespace: &str,
        definition: &Definition,
        auth: Option<&str>,
    ) -> Self {
        let Some(parent) = &self.0 else {
            return Self::default();
        };
        let pattern = definition.pattern.as_deref().unwrap_or(OTHER);
        let span = debug_span!(
            target: TARGET,
            parent: &**parent,
            "connect",
            otel.name = format_args!("{pattern} connect"),
            messaging.system = SYSTEM,
            messaging.operation.name = "connect",
            messaging.destination.name = namespace,
            messaging.destination.template = pattern,
            traceparent = Empty,
        );
        let auth = auth.and_then(|auth| serde_json::from_str::<TracedAuth<'_>>(auth).ok());
        record_traceparent(&span, auth.and_then(|auth| auth.traceparent));
        Self::new(span)
    }

    /// Creates the span of an event, within that of its socket.
    pub(crate) fn event(
        &self,
        namespace: &str,
        definition: &Definition,
        event: EventIndex,
        payload: &Payload,
    ) -> Self {
        let Some(parent) = &self.0 else {
            return Self::default();
        };
        let name = event.and_then(|index| definition.events.get(index));
        let name = name.map_or(OTHER, |name| name);
        Self::new(event_span(parent, namespace, name, payload))
    }

    /// Records how the handler of an event has ended.
    pub(crate) fn ended(&self, outcome: Outcome) {
        let Some(span) = &self.0 else {
            return;
        };
        span.record("outcome", outcome.as_str());
        if outcome != Outcome::Ok {
            span.record("otel.status_code", "ERROR");
        }
    }

    /// Enters the span until the result is dropped.
    #[inline]
    pub(crate) fn enter(&self) -> Option<tracing::span::Entered<'_>> {
        self.0.as_ref().map(|span| span.enter())
    }
}

fn event_span(parent: &Span, namespace: &str, name: &str, payload: &Payload) -> Span {
    let attachments = payload.attachments().map(|each| each.len());
    let size = payload.json().len() + attachments.sum::<usize>();
    debug_span!(
        target: TARGET,
        parent: parent,
        "event",
        otel.name = format_args!("{name} receive"),
        otel.kind = "consumer",
        messaging.system = SYSTEM,
        messaging.operation.type = "receive",
        messaging.operation.name = name,
        messaging.destination.name = namespace,
        messaging.message.body.size = size,
        outcome = Empty,
        otel.status_code = Empty,
    )
}

/// The field of a client's `auth` that is read for its span.
#[derive(Deserialize)]
struct TracedAuth<'a> {
    #[serde(borrow)]
    traceparent: Option<&'a str>,
}

/// Records the parent that the client names, if it has the form of [W3C Trace Context].
///
/// [W3C Trace Context]: https://www.w3.org/TR/trace-context/#traceparent-header
fn record_traceparent(span: &Span, value: Option<&str>) {
    if let Some(value) = value.filter(|value| is_traceparent(value)) {
        span.record("traceparent", value);
    }
}

/// Returns whether a value is `00-<32 digits>-<16 digits>-<2 digits>`, in lower case.
fn is_traceparent(value: &str) -> bool {
    let lengths = [2, 32, 16, 2];
    let fields = value.split('-').collect::<Vec<_>>();
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    fields.len() == lengths.len()
        && fields
            .iter()
            .zip(lengths)
            .all(|(field, len)| field.len() == len && field.bytes().all(is_hex))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_traceparent_of_the_w3c_is_recorded() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_traceparent(good));
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473\n-00f067aa0ba902b7-01",
        ] {
            assert!(!is_traceparent(bad), "{bad:?}");
        }
    }
}
