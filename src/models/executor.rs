//! Runs models: their threads, and futures in them.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{AcqRel, Relaxed, Release};
use std::task::{Context, Poll, Wake, Waker};

use loom::sync::atomic::AtomicBool;
use loom::thread::{Builder, JoinHandle, Thread};

/// The size of a thread's stack, in words. The sessions' code needs more than loom's 32 KiB.
const STACK: usize = 64 * 1024;

thread_local! {
    static EXPLORES: Cell<bool> = const { Cell::new(false) };
    /// The threads of the model that run. All of them run on one thread of the process.
    static THREADS: RefCell<Vec<JoinHandle<()>>> = const { RefCell::new(Vec::new()) };
}

/// Tries the schedules of a model with up to `preemptions` switches away from a thread that could
/// run on. The model fails if an assertion does, or if all threads wait for each other.
///
/// `model` runs in a thread of its own. It is alone with what it has begun until it calls
/// [`explore`], and only then loom tries all schedules. After it has returned, all threads are joined,
/// and then `check` runs.
pub(crate) fn check<T: 'static>(
    preemptions: usize,
    model: impl Fn() -> T + Copy + Send + Sync + 'static,
    check: impl Fn(T) + Copy + Send + Sync + 'static,
) {
    // For the timers, none of which fires: nobody drives the runtime.
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_time().build().expect("a runtime");
    let _entered = runtime.enter();
    crate::clock::stop();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.expect_explicit_explore = true;
    builder.max_branches = 10_000;
    let schedules = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&schedules);
    builder.check(move || {
        count.fetch_add(1, Relaxed);
        crate::random::reset();
        // loom's own thread has a small stack.
        let all = spawn_thread(move || {
            let result = model();
            join(usize::MAX);
            stop_exploring();
            check(result);
        });
        all.join().expect("the model does not panic");
    });
    let schedules = schedules.load(Relaxed);
    eprintln!("{schedules} schedules");
}

/// Ends the set-up of a model: from here on all schedules are tried.
pub(crate) fn explore() {
    EXPLORES.set(true);
    loom::explore();
}

/// Ends what is explored, if that was not done before.
pub(crate) fn stop_exploring() {
    if EXPLORES.replace(false) {
        loom::stop_exploring();
    }
}

/// Spawns a thread of the model.
pub(crate) fn spawn(run: impl FnOnce() + Send + 'static) {
    let thread = spawn_thread(run);
    THREADS.with_borrow_mut(|threads| threads.push(thread));
}

fn spawn_thread(run: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let builder = Builder::new().stack_size(STACK);
    builder.spawn(run).expect("a thread")
}

/// Waits for the last `count` threads that were spawned.
pub(crate) fn join(count: usize) {
    for _ in 0..count {
        let Some(thread) = THREADS.with_borrow_mut(Vec::pop) else {
            return;
        };
        thread.join().expect("a thread does not panic");
    }
}

/// Polls a future until it is ready. The thread sleeps until the future's waker is woken, and never
/// wakes by itself: a lost wake is a deadlock, which loom reports.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let parker = Arc::new(Parker::new());
    let waker = Waker::from(Arc::clone(&parker));
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        parker.park();
    }
}

/// Lets one thread sleep until it is woken. Each is one step that loom sees.
struct Parker {
    thread: Thread,
    woken: AtomicBool,
    /// Whether the thread sleeps. loom does not see it: no other thread runs between the step before it
    /// and the sleep.
    sleeps: std::sync::atomic::AtomicBool,
}

impl Parker {
    fn new() -> Self {
        Self {
            thread: loom::thread::current(),
            woken: AtomicBool::new(false),
            sleeps: false.into(),
        }
    }

    fn park(&self) {
        while !self.woken.swap(false, AcqRel) {
            self.sleeps.store(true, Release);
            loom::thread::park();
        }
    }
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.swap(true, AcqRel);
        // loom must not unpark a thread that waits for a lock.
        if self.sleeps.swap(false, AcqRel) {
            self.thread.unpark();
        }
    }
}
