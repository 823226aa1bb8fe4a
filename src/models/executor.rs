//! Runs the models: starts their threads, and polls futures in them.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{AcqRel, Relaxed, Release};
use std::task::{Context, Poll, Wake, Waker};

use loom::sync::atomic::AtomicBool;
use loom::thread::{Builder, JoinHandle, Thread};

/// The stack size of a thread, in words. loom's default of 32 KiB is too small for the code of a
/// session.
const STACK: usize = 64 * 1024;

thread_local! {
    static EXPLORES: Cell<bool> = const { Cell::new(false) };
    /// The running threads of the model. loom runs all of them on one thread of the process.
    static THREADS: RefCell<Vec<JoinHandle<()>>> = const { RefCell::new(Vec::new()) };
}

/// Runs a model in all schedules with up to `preemptions` preemptions. A preemption is a switch
/// away from a thread that could continue. The model fails if an assertion fails or if the threads
/// deadlock.
///
/// `model` runs in its own thread. loom runs the set-up in a single schedule, and tries all
/// schedules after the call of [`explore`]. When `model` has returned, all threads are joined, and
/// then `check` runs.
pub(crate) fn check<T: 'static>(
    preemptions: usize,
    model: impl Fn() -> T + Copy + Send + Sync + 'static,
    check: impl Fn(T) + Copy + Send + Sync + 'static,
) {
    // The timers need a runtime. None of them fires, because nothing drives the runtime.
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
        // The main thread of loom has a small stack.
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

/// Ends the set-up of a model. loom tries all schedules from here on.
pub(crate) fn explore() {
    EXPLORES.set(true);
    loom::explore();
}

/// Stops the exploration of schedules, unless it has stopped already.
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

/// Polls a future until it is ready. Between polls the thread sleeps until the waker is called.
/// There are no spurious wakes, so a lost wake is a deadlock, and loom reports it.
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

/// Parks one thread until it is woken. loom sees each park and each wake as one step.
struct Parker {
    thread: Thread,
    woken: AtomicBool,
    /// Whether the thread sleeps. This is not an atomic of loom: no other thread runs between the
    /// swap of `woken` and the sleep.
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
