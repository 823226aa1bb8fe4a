//! An event as an argument of another event.

use serde::Serialize;

use super::{ArgsWriter, EncodeError, IntoArgs, RawArgs};

/// Arguments with an event among them. The event is one argument: an array of its name and its own
/// arguments. Its attachments stay attachments.
pub(crate) struct Nested<Before, After> {
    /// The arguments in front of the event: a tuple.
    pub(crate) before: Before,
    /// The arguments of an event, in the payload that also has its name.
    pub(crate) event: RawArgs,
    /// The arguments behind the event: a tuple.
    pub(crate) after: After,
}

impl<Before: Serialize, After: Serialize> IntoArgs for Nested<Before, After> {
    fn into_args(self, out: &mut ArgsWriter) -> Result<(), EncodeError> {
        out.push_all(&self.before)?;
        out.push_event(self.event.0)?;
        out.push_all(&self.after)
    }

    fn len_hint(&self) -> usize {
        self.event.0.json().len() + 128
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::protocol::tests::json;
    use crate::protocol::{Args, Payload};

    #[test]
    fn an_event_is_one_argument_and_keeps_its_attachments() {
        let bytes = Bytes::from_static(b"x");
        let event = Payload::event("say", 1, Args((1, bytes.clone()))).expect("serializable");
        let nested = Nested {
            before: ("/", "id"),
            event: event.into_args(),
            after: ("now",),
        };
        let payload = Payload::event("event_sent", 1, nested).expect("serializable");
        assert_eq!(
            json(&payload),
            r#"["event_sent","/","id",["say",1,{"_placeholder":true,"num":0}],"now"]"#
        );
        assert!(payload.attachments().eq([&bytes]));
    }

    #[test]
    fn an_event_whose_bytes_were_read_is_refused() {
        let mut event = Payload::event("say", 1, Bytes::from_static(b"x")).expect("serializable");
        event.read_one::<Bytes>().expect("bytes");
        let nested = Nested {
            before: (1,),
            event: event.into_args(),
            after: (2,),
        };
        assert!(Payload::event("event_sent", 1, nested).is_err());
    }
}
