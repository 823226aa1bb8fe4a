//! The replacement of `sync.rs` for models: the same items, built on loom's locks and atomics.
//!
//! loom sees each use of a lock or an atomic, and tries other threads before it. The channels are
//! those of tokio, which loom does not see. So each use of a channel first increments an atomic of
//! loom. No other thread runs between the increment and the use, so loom treats the use as one
//! atomic step.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::sync::PoisonError;

use crate::models::executor;

pub(crate) use loom::sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard, atomic};

use atomic::{AtomicUsize, Ordering};

/// A lock that a panic does not poison.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the guard, or `None` if the lock is held already.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().ok()
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lock for one writer or many readers.
#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(loom::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Declares a static cell of which each thread of a model has its own. `std::thread_local!` does
/// not suffice: all threads of a model run on one thread of the process.
macro_rules! thread_cell {
    ($(#[$attribute:meta])* static $name:ident: $type:ty = $value:expr) => {
        $(#[$attribute])*
        static $name: $crate::sync::ThreadCell<$type> = {
            loom::thread_local! {
                static CELL: ::std::cell::Cell<$type> = ::std::cell::Cell::new($value)
            }
            $crate::sync::ThreadCell(&CELL)
        };
    };
}

pub(crate) use thread_cell;

/// A cell of which each thread has its own.
pub(crate) struct ThreadCell<T: 'static>(pub(crate) &'static loom::thread::LocalKey<Cell<T>>);

impl<T: Copy> ThreadCell<T> {
    pub(crate) fn get(&self) -> T {
        self.0.with(Cell::get)
    }

    pub(crate) fn set(&self, value: T) {
        self.0.with(|cell| cell.set(value));
    }

    pub(crate) fn replace(&self, value: T) -> T {
        self.0.with(|cell| cell.replace(value))
    }
}

/// An operation that loom sees. loom tries both orders of two operations on the same `Step`.
#[derive(Default)]
struct Step(AtomicUsize);

impl Step {
    fn take(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Step")
    }
}

/// The replacement of tokio's `Handle`. Each spawned task is a thread of the model.
#[derive(Clone, Debug)]
pub(crate) struct Handle;

impl Handle {
    pub(crate) fn current() -> Self {
        Self
    }

    #[allow(clippy::unused_self, reason = "as tokio's")]
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        executor::spawn(move || executor::block_on(task));
    }
}

pub(crate) use notify::Notify;

mod notify {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use pin_project_lite::pin_project;

    use super::Step;

    /// tokio's `Notify` with a [`Step`] for each use.
    #[derive(Debug, Default)]
    pub(crate) struct Notify {
        notify: tokio::sync::Notify,
        step: Step,
    }

    impl Notify {
        pub(crate) fn new() -> Self {
            Self::default()
        }

        pub(crate) fn notify_one(&self) {
            self.step.take();
            self.notify.notify_one();
        }

        pub(crate) fn notify_waiters(&self) {
            self.step.take();
            self.notify.notify_waiters();
        }

        pub(crate) fn notified(&self) -> Notified<'_> {
            self.step.take();
            Notified {
                notified: self.notify.notified(),
                step: &self.step,
            }
        }
    }

    pin_project! {
        #[derive(Debug)]
        pub(crate) struct Notified<'a> {
            #[pin]
            notified: tokio::sync::futures::Notified<'a>,
            step: &'a Step,
        }

        impl PinnedDrop for Notified<'_> {
            fn drop(this: Pin<&mut Self>) {
                // A dropped `Notified` may pass its notification on to another one.
                this.step.take();
            }
        }
    }

    impl Future for Notified<'_> {
        type Output = ();

        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            self.step.take();
            self.project().notified.poll(cx)
        }
    }
}

pub(crate) mod oneshot {
    //! tokio's `oneshot`.

    use std::future::Future;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll};

    use tokio::sync::oneshot;

    use super::Step;

    pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        let step = Arc::new(Step::default());
        let sender = Sender {
            sender: Some(sender),
            step: Arc::clone(&step),
        };
        (sender, Receiver { receiver, step })
    }

    #[derive(Debug)]
    pub(crate) struct Sender<T> {
        /// `None` after `send`.
        sender: Option<oneshot::Sender<T>>,
        step: Arc<Step>,
    }

    impl<T> Sender<T> {
        pub(crate) fn send(mut self, value: T) -> Result<(), T> {
            self.step.take();
            match self.sender.take() {
                Some(sender) => sender.send(value),
                None => Err(value),
            }
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            if self.sender.is_some() {
                self.step.take();
            }
        }
    }

    #[derive(Debug)]
    pub(crate) struct Receiver<T> {
        receiver: oneshot::Receiver<T>,
        step: Arc<Step>,
    }

    impl<T> Future for Receiver<T> {
        type Output = Result<T, oneshot::error::RecvError>;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
            self.step.take();
            Pin::new(&mut self.receiver).poll(cx)
        }
    }

    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            self.step.take();
        }
    }
}

pub(crate) mod watch {
    //! tokio's `watch`.

    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::Arc;

    use tokio::sync::watch;

    use super::Step;

    pub(crate) struct Sender<T> {
        sender: watch::Sender<T>,
        step: Arc<Step>,
    }

    impl<T> Sender<T> {
        pub(crate) fn new(value: T) -> Self {
            Self {
                sender: watch::Sender::new(value),
                step: Arc::default(),
            }
        }

        pub(crate) fn send_replace(&self, value: T) -> T {
            self.step.take();
            self.sender.send_replace(value)
        }

        pub(crate) fn subscribe(&self) -> Receiver<T> {
            self.step.take();
            Receiver {
                receiver: self.sender.subscribe(),
                step: Arc::clone(&self.step),
            }
        }
    }

    pub(crate) struct Receiver<T> {
        receiver: watch::Receiver<T>,
        step: Arc<Step>,
    }

    impl<T> Receiver<T> {
        pub(crate) async fn wait_for(
            &mut self,
            is_met: impl FnMut(&T) -> bool,
        ) -> Result<(), watch::error::RecvError> {
            let mut met = pin!(self.receiver.wait_for(is_met));
            let met = poll_fn(|cx| {
                self.step.take();
                met.as_mut().poll(cx)
            });
            met.await.map(drop)
        }
    }
}
