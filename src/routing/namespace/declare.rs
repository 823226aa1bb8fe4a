//! The events that a namespace declares, for its contract.

use schemars::JsonSchema;

use super::{Namespace, check_name};
use crate::contract::{NamespaceContract, Watch};
use crate::protocol::TypedEvent;

impl<S> Namespace<S> {
    /// Declares an event that clients send, for the [contract](crate::contract).
    ///
    /// This registers no handler. The handler may be one of [`on_typed`](Self::on_typed) or of
    /// [`on`](Self::on).
    ///
    /// ```
    /// use schemars::JsonSchema;
    /// use serde::{Deserialize, Serialize};
    /// use tower_socketio::{Namespace, TypedEvent};
    ///
    /// /// Doubles a number.
    /// #[derive(Serialize, Deserialize, JsonSchema)]
    /// struct Double(u32);
    ///
    /// impl TypedEvent for Double {
    ///     const NAME: &'static str = "double";
    ///     type Reply = u32;
    /// }
    ///
    /// async fn double(Double(n): Double) -> u32 {
    ///     2 * n
    /// }
    ///
    /// let namespace: Namespace = Namespace::new().on_typed(double).receives::<Double>();
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if the name of the event is reserved, as [`on`](Self::on) does.
    #[track_caller]
    pub fn receives<E>(mut self) -> Self
    where
        E: TypedEvent + JsonSchema,
        E::Reply: JsonSchema,
    {
        check_name(E::NAME);
        self.declared.receives::<E>();
        self
    }

    /// Declares an event that the server sends, for the [contract](crate::contract).
    ///
    /// ```
    /// use schemars::JsonSchema;
    /// use serde::{Deserialize, Serialize};
    /// use tower_socketio::{Namespace, TypedEvent};
    ///
    /// /// Somebody has joined.
    /// #[derive(Serialize, Deserialize, JsonSchema)]
    /// struct Joined {
    ///     name: String,
    /// }
    ///
    /// impl TypedEvent for Joined {
    ///     const NAME: &'static str = "user:joined";
    ///     type Reply = ();
    /// }
    ///
    /// let namespace: Namespace = Namespace::new().sends::<Joined>();
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if the name of the event is reserved, as [`on`](Self::on) does.
    #[track_caller]
    pub fn sends<E>(mut self) -> Self
    where
        E: TypedEvent + JsonSchema,
        E::Reply: JsonSchema,
    {
        check_name(E::NAME);
        self.declared.sends::<E>();
        self
    }

    /// Returns the contract of the namespace, which is added for a path, or for a predicate.
    pub(crate) fn contract(&self, path: Option<&str>) -> NamespaceContract {
        NamespaceContract {
            path: path.map(Into::into),
            declared: self.declared.clone(),
            handlers: self.events.keys().map(|name| name.to_string()).collect(),
            has_fallback: self.fallback.is_some(),
        }
    }

    /// Watches the events that the namespace sends.
    pub(crate) fn watch(&mut self, path: Option<&str>, watch: &Watch) {
        self.hooks.emitted = watch.namespace(&self.contract(path));
    }
}
