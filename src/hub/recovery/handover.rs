//! The data that a suspended socket passes to the restored one, and the lock of the store that holds
//! it.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use http::Extensions;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::RecoveryStore;
use crate::guard::guarded;
use crate::sync::{Mutex, MutexGuard};

/// The data and extensions that a suspended socket passes to the restored one.
#[derive(Debug)]
pub(crate) struct Handover {
    pub(super) socket_data: Mutex<SocketData>,
    /// A semaphore without permits. It is closed when the last handler of the suspended socket has
    /// ended.
    pub(super) ended: Semaphore,
}

/// The data and extensions of a socket.
#[derive(Clone, Debug)]
pub(super) struct SocketData {
    pub(super) extensions: Extensions,
    pub(super) data: Option<Arc<Value>>,
}

/// How long a restored socket waits for the handlers of the suspended one.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(5);

impl Handover {
    /// Creates the handover of a socket that was suspended on another server.
    pub(super) fn of_data(data: Option<Arc<Value>>) -> Self {
        let ended = Semaphore::new(0);
        ended.close();
        Self {
            socket_data: Mutex::new(SocketData {
                extensions: Extensions::new(),
                data,
            }),
            ended,
        }
    }

    pub(super) fn data(&self) -> Option<Arc<Value>> {
        self.socket_data.lock().data.clone()
    }

    /// Waits until no handler of the suspended socket runs any more, for [`HANDOVER_TIMEOUT`] at
    /// most.
    pub(crate) async fn handlers_ended(&self) {
        if tokio::time::timeout(HANDOVER_TIMEOUT, self.ended.acquire())
            .await
            .is_err()
        {
            tracing::debug!("a handler of the suspended socket still runs");
        }
    }
}

/// The locked store of a namespace. The guard drops the handovers that the store has removed, after
/// it releases the lock.
pub(crate) struct StoreGuard<'a>(pub(super) Option<MutexGuard<'a, RecoveryStore<Arc<Handover>>>>);

impl Deref for StoreGuard<'_> {
    type Target = RecoveryStore<Arc<Handover>>;

    fn deref(&self) -> &Self::Target {
        // The lock is taken out only when the guard is dropped.
        self.0.as_ref().expect("locked")
    }
}

impl DerefMut for StoreGuard<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        // As in `deref`.
        self.0.as_mut().expect("locked")
    }
}

impl Drop for StoreGuard<'_> {
    fn drop(&mut self) {
        if let Some(mut store) = self.0.take() {
            let dropped_later = DeferredDrop(std::mem::take(&mut store.dropped_later));
            drop(store);
            drop(dropped_later);
        }
    }
}

/// The handovers of sockets that will not be restored. They must be dropped under no lock, because
/// their destructors are the application's code.
pub(in crate::hub) struct DeferredDrop(pub(super) Vec<Arc<Handover>>);

impl Drop for DeferredDrop {
    fn drop(&mut self) {
        for handover in self.0.drain(..) {
            // A panic in a destructor must not reach the code that drops this value.
            let _ = guarded(|| drop(handover));
        }
    }
}
