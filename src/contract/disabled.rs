//! The parts of `contract` that other modules use, without the feature `schema`: they do nothing.

use crate::protocol::{Payload, TypedEvent};

/// What a namespace declares: nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Declarations(());

impl Declarations {
    #[inline]
    pub(crate) const fn handles<E: TypedEvent>(&mut self) {}
}

/// Watches the events of a namespace: never.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Emitted(());

impl Emitted {
    #[inline]
    pub(crate) const fn record(&self, _: &Payload) {}
}
