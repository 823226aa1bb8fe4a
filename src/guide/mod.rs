//! The manual: a page for each topic.
//!
//! The [front page](crate) shows how to build an app. These pages say what the server promises, what
//! it does when something goes wrong, and how to run it.
//!
#![doc = include_str!("contents.md")]
//!
//! The words are those of Socket.IO and of axum: *namespace*, *room*, *event*, *acknowledgement*,
//! *extractor*, *layer*. A *session* is the connection of one client, over one transport after
//! another. A *socket* is one client in one namespace: a session has as many sockets as the client
//! has joined namespaces.

#[doc = include_str!("delivery.md")]
pub mod delivery {}

#[doc = include_str!("backpressure.md")]
pub mod backpressure {}

#[doc = include_str!("recovery.md")]
pub mod recovery {}

#[doc = include_str!("authentication.md")]
pub mod authentication {}

// Its snippets need the features.
#[cfg_attr(
    any(not(doctest), all(feature = "schema", feature = "testing")),
    doc = include_str!("typescript.md")
)]
#[cfg_attr(
    all(doctest, not(all(feature = "schema", feature = "testing"))),
    doc = "Events for TypeScript."
)]
pub mod typescript {}

#[doc = include_str!("layers.md")]
pub mod layers {}

// Its snippets need the feature.
#[cfg_attr(any(not(doctest), feature = "testing"), doc = include_str!("testing.md"))]
#[cfg_attr(all(doctest, not(feature = "testing")), doc = "Testing.")]
pub mod testing {}

#[doc = include_str!("observability.md")]
pub mod observability {}

#[doc = include_str!("scaling.md")]
pub mod scaling {}

#[doc = include_str!("deploying.md")]
pub mod deploying {}

#[doc = include_str!("security.md")]
pub mod security {}

#[doc = include_str!("tuning.md")]
pub mod tuning {}

#[doc = include_str!("rationale.md")]
pub mod rationale {}

#[doc = include_str!("troubleshooting.md")]
pub mod troubleshooting {}

#[doc = include_str!("coming_from_node.md")]
pub mod coming_from_node {}

#[doc = include_str!("coming_from_socketioxide.md")]
pub mod coming_from_socketioxide {}
