//! A parser of the application, whose decoder may panic.

use std::any::TypeId;
use std::sync::Arc;

use super::{DecodeError, Decoder, Encoded, JsonParser, Packet, Parser};
use crate::engine_io::Message;
use crate::guard::guarded;

/// Returns a parser for a server. The decoders of this crate do not panic, and need no guard.
pub(crate) fn for_server<P: Parser + 'static>(parser: P) -> Arc<dyn Parser> {
    let id = TypeId::of::<P>();
    let is_own = id == TypeId::of::<JsonParser>();
    #[cfg(feature = "msgpack")]
    let is_own = is_own || id == TypeId::of::<super::MsgpackParser>();
    match is_own {
        true => Arc::new(parser),
        false => Arc::new(Guarded(parser)),
    }
}

#[derive(Debug)]
struct Guarded<T>(T);

impl<P: Parser> Parser for Guarded<P> {
    fn encode(&self, packet: Packet) -> Encoded {
        self.0.encode(packet)
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(Guarded(self.0.decoder()))
    }
}

impl Decoder for Guarded<Box<dyn Decoder>> {
    fn decode(&mut self, message: Message) -> Result<Option<Packet>, DecodeError> {
        let decoder = &mut self.0;
        let decoded = guarded(|| decoder.decode(message));
        decoded.unwrap_or_else(|_| Err(DecodeError::new("the decoder panicked")))
    }

    fn is_partial(&self) -> bool {
        self.0.is_partial()
    }
}
