//! The events that clients get.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::protocol::TypedEvent;

/// Everybody in a room: the argument of the event `presence_state`, which a client gets first.
///
/// In TypeScript:
///
/// ```ts
/// socket.on("presence_state", (state: {
///   room: string;
///   users: Record<string, User[]>;
/// }) => { … });
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PresenceState<User> {
    /// The name of the room.
    pub room: String,
    /// The users by their keys, with their metadata: those of all sockets of a user, equal ones once.
    pub users: BTreeMap<String, Vec<User>>,
}

/// A change of a room: the argument of the event `presence_diff`. A key is in one of the three fields
/// at most.
///
/// In TypeScript:
///
/// ```ts
/// socket.on("presence_diff", (diff: {
///   room: string;
///   joins: Record<string, User[]>;
///   updates: Record<string, User[]>;
///   leaves: Record<string, User[]>;
/// }) => { … });
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PresenceDiff<User> {
    /// The name of the room.
    pub room: String,
    /// The users that were not there, with their metadata.
    pub joins: BTreeMap<String, Vec<User>>,
    /// The users whose metadata has changed, with all metadata that they have now.
    pub updates: BTreeMap<String, Vec<User>>,
    /// The users that are no longer there, with the metadata that they had.
    pub leaves: BTreeMap<String, Vec<User>>,
}

impl<User> PresenceState<User> {
    /// Applies a difference, as a client does. A difference of another room is ignored.
    pub fn apply(&mut self, diff: PresenceDiff<User>) {
        if diff.room != self.room {
            return;
        }
        for key in diff.leaves.keys() {
            self.users.remove(key);
        }
        self.users.extend(diff.joins);
        self.users.extend(diff.updates);
    }
}

impl<User> TypedEvent for PresenceState<User>
where
    User: Serialize + DeserializeOwned + Send + 'static,
{
    const NAME: &'static str = "presence_state";
    type Reply = ();
}

impl<User> TypedEvent for PresenceDiff<User>
where
    User: Serialize + DeserializeOwned + Send + 'static,
{
    const NAME: &'static str = "presence_diff";
    type Reply = ();
}
