//! The request that the predicates of dynamic namespaces decide on.

use std::fmt;
use std::sync::Arc;

use futures_core::future::BoxFuture;
use http::request::Parts;
use serde::de::DeserializeOwned;

use super::extract::InvalidAuth;
use crate::hub::session::SharedSession;
use crate::protocol::{NamespaceName, Payload};

/// A client's request to connect to a namespace that no path matches.
///
/// It is the argument of the predicates of
/// [`SocketIoBuilder::namespace_if`](crate::SocketIoBuilder::namespace_if).
#[derive(Clone)]
pub struct NamespaceRequest {
    pub(crate) name: NamespaceName,
    pub(crate) auth: Payload,
    pub(crate) session: Arc<SharedSession>,
}

impl NamespaceRequest {
    /// Returns the name of the namespace. It begins with a slash.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads the `auth` of the client, as the extractor [`Auth`](crate::Auth) does.
    ///
    /// # Errors
    ///
    /// Returns an error if the `auth` is not a `T`.
    pub fn auth<T: DeserializeOwned>(&self) -> Result<T, InvalidAuth> {
        self.auth.read_object().map_err(InvalidAuth)
    }

    /// Returns the first HTTP request of the connection, without its body.
    #[must_use]
    pub fn request_parts(&self) -> Parts {
        self.session.request.parts()
    }
}

impl fmt::Debug for NamespaceRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamespaceRequest")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A function that decides whether a dynamic namespace exists for a client.
pub(crate) type Predicate = Box<dyn Fn(NamespaceRequest) -> BoxFuture<'static, bool> + Send + Sync>;
