//! The commands of the page: `emit`, `join`, `leave` and `_disconnect`.

use crate::handles::{Broadcast, SocketIo};
use crate::protocol::{Args, RawArgs, ReadError};
use crate::routing::{ErrorReply, Namespace};

/// Adds the handlers of the commands.
pub(super) fn add<S>(namespace: Namespace<S>) -> Namespace<S>
where
    S: Clone + Send + Sync + 'static,
{
    namespace
        .on("emit", emit)
        .on("join", join)
        .on("leave", leave)
        .on("_disconnect", disconnect)
}

/// Adds a handler that refuses the commands.
pub(super) fn refuse<S>(namespace: Namespace<S>) -> Namespace<S>
where
    S: Clone + Send + Sync + 'static,
{
    namespace.fallback(read_only)
}

async fn read_only() -> ErrorReply {
    ErrorReply::new("the Admin UI of this server is read-only")
}

/// `emit(namespace, filter, event, ...args)`
async fn emit(io: SocketIo, args: RawArgs) -> Result<(), ReadError> {
    let (namespace, args) = args.split_first::<String>()?;
    let (filter, args) = args.split_first::<Option<String>>()?;
    let (event, args) = args.split_first::<String>()?;
    selected(&io, &namespace, filter).emit(&event, args);
    Ok(())
}

/// `join(namespace, room, filter)`
async fn join(io: SocketIo, Args((namespace, room, filter)): Args<RoomCommand>) {
    selected(&io, &namespace, filter).join(room);
}

/// `leave(namespace, room, filter)`
async fn leave(io: SocketIo, Args((namespace, room, filter)): Args<RoomCommand>) {
    selected(&io, &namespace, filter).leave(room);
}

/// `_disconnect(namespace, close, filter)`
async fn disconnect(
    io: SocketIo,
    Args((namespace, close, filter)): Args<(String, Option<bool>, Option<String>)>,
) {
    let selected = selected(&io, &namespace, filter);
    match close.unwrap_or_default() {
        true => selected.close(),
        false => selected.disconnect(),
    }
}

type RoomCommand = (String, String, Option<String>);

/// Selects the sockets of a namespace that are in a room, or one by its id. Without a filter it selects
/// all of them.
fn selected(io: &SocketIo, namespace: &str, filter: Option<String>) -> Broadcast {
    let all = io.of(namespace);
    match filter.filter(|room| !room.is_empty()) {
        Some(room) => all.to(room),
        None => all,
    }
}
