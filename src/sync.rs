//! Locks that ignore poison, and what else the tasks of a server share. No application code runs
//! under a lock, so a panic there leaves nothing half done.
//!
//! The models replace this file by `models/sync.rs`, which has the same names.

use std::sync::PoisonError;

pub(crate) use std::sync::{MutexGuard, atomic};

pub(crate) use tokio::runtime::Handle;
pub(crate) use tokio::sync::{Notify, oneshot, watch};

/// Declares a static [`Cell`](std::cell::Cell) of which each thread has its own.
macro_rules! thread_cell {
    ($(#[$attribute:meta])* static $name:ident: $type:ty = $value:expr) => {
        ::std::thread_local! {
            $(#[$attribute])*
            static $name: ::std::cell::Cell<$type> = const { ::std::cell::Cell::new($value) };
        }
    };
}

pub(crate) use thread_cell;

/// A [`std::sync::Mutex`] that a panic does not poison.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the guard, or `None` if the lock is held already.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A [`std::sync::RwLock`] that a panic does not poison.
#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(std::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn read(&self) -> std::sync::RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> std::sync::RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
