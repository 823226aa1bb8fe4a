//! The target of a broadcast, and the sockets that it selects.

use std::collections::HashSet;
use std::sync::Arc;

use super::id_hash::IdHash;
use crate::engine_io::SocketId;

/// The rooms that a broadcast goes to, and those that it leaves out.
///
/// It selects the sockets in any of the rooms, or all sockets if there are no rooms, but not the
/// sockets in any of the exceptions. A socket's id is the name of its own room.
#[derive(Clone, Debug, Default)]
pub(crate) struct Target {
    pub(crate) rooms: Vec<Arc<str>>,
    pub(crate) except: Vec<Arc<str>>,
}

impl Target {
    /// Returns the target that selects one socket.
    pub(crate) fn of(id: &SocketId) -> Self {
        Self {
            rooms: vec![id.as_str().into()],
            except: Vec::new(),
        }
    }

    pub(crate) fn is_everybody(&self) -> bool {
        self.rooms.is_empty() && self.except.is_empty()
    }
}

/// The number of sockets in one chunk. Each of tokio's workers has a local queue for 256 tasks: all
/// sessions of one chunk can be woken without an overflow of that queue.
pub(crate) const CHUNK: usize = 128;

/// Sockets in chunks of [`CHUNK`]. The last chunk may be shorter. A change of the sockets replaces
/// one or two chunks, and shares the others.
pub(crate) type Chunks<T> = Arc<[Arc<[T]>]>;

/// The recipients of a [`Target`], each of them once.
#[derive(Debug)]
pub(crate) enum Selection<T> {
    /// A whole room or namespace, perhaps without the socket at an index.
    Shared(Chunks<T>, Option<usize>),
    /// The sockets, and their ids if the target has many names.
    Owned(Vec<T>, Option<HashSet<SocketId, IdHash>>),
}

/// More sockets than fit into one chunk.
#[derive(Debug)]
pub(crate) struct ManySockets<T> {
    pub(crate) chunks: Chunks<T>,
    /// The index of a socket that is left out.
    pub(crate) skip: Option<usize>,
    /// The number of sockets in chunks that are not shared with a room.
    pub(crate) copied: usize,
    /// The ids of the sockets, if their target has many names.
    pub(crate) ids: Option<HashSet<SocketId, IdHash>>,
}

impl<T> Selection<T> {
    /// Returns the sockets as chunks, or `self` if they fit into one chunk.
    #[inline]
    pub(crate) fn into_chunks(self) -> Result<ManySockets<T>, Self> {
        match self {
            Self::Shared(chunks, skip) if chunks.len() > 1 => Ok(ManySockets {
                chunks,
                skip,
                copied: 0,
                ids: None,
            }),
            Self::Owned(members, ids) if members.len() > CHUNK => {
                let copied = members.len();
                let mut members = members.into_iter();
                let chunks = std::iter::from_fn(|| {
                    let chunk: Arc<[T]> = members.by_ref().take(CHUNK).collect();
                    (!chunk.is_empty()).then_some(chunk)
                });
                Ok(ManySockets {
                    chunks: chunks.collect(),
                    skip: None,
                    copied,
                    ids,
                })
            }
            few => Err(few),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        let (chunks, owned, skip) = match self {
            Self::Shared(chunks, skip) => (&chunks[..], &[][..], *skip),
            Self::Owned(members, _) => (&[][..], &members[..], None),
        };
        let members = chunks.iter().flat_map(|chunk| chunk.iter()).chain(owned);
        members
            .enumerate()
            .filter(move |(at, _)| Some(*at) != skip)
            .map(|(_, member)| member)
    }
}
