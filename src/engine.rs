//! Engine.IO ([protocol revision 4]): the connection below Socket.IO, which carries messages over
//! long-polling or WebSocket.
//!
//! [`EngineLayer`] serves Engine.IO without Socket.IO. [`Config`] holds the limits of a session.
//! The limits of a Socket.IO server are set on its [builder](crate::SocketIoBuilder).
//!
//! | packet | id | sender |
//! |---|---|---|
//! | open | `0` | the server, first |
//! | close | `1` | the side that ends the session over polling |
//! | ping | `2` | the server; in revision 3 the client; during an upgrade the client, with `probe` |
//! | pong | `3` | the other side, in answer to a ping |
//! | message | `4` | both |
//! | upgrade | `5` | the client, as the last step of an upgrade |
//! | noop | `6` | the server, to answer a pending poll |
//!
//! Clients of [revision 3] are served if [`Config::allow_eio3`] is `true`.
//!
//! [revision 3]: https://github.com/socketio/socket.io/blob/main/docs/engine.io-protocol/v3.md
//! [protocol revision 4]: https://github.com/socketio/socket.io/blob/main/docs/engine.io-protocol/v4-current.md

pub use crate::engine_io::{
    CloseReason, Config, Message, Revision, SessionId, SocketId, Text, Transport,
};
pub use crate::engine_layer::{EngineLayer, EngineLayerBuilder, EngineSocket};
