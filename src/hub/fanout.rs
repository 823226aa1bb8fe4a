//! Broadcasts to many sockets.
//!
//! A broadcaster queues a packet for few recipients itself. For many recipients that would block
//! its thread for too long. So it puts the packet into the [`BroadcastQueue`], and the fan-out task
//! delivers the packet to [`CHUNK`](super::selection::CHUNK) sockets at a time. The sessions of
//! these sockets wake, write and sleep again before the task reaches the next chunk, so other tasks
//! never wait for more than one chunk. Packets that are queued for the same sockets in the meantime
//! are delivered together with this packet.
//!
//! The application cannot observe the queue within a namespace. A socket [catches
//! up](Member::catch_up) before anything else happens to it: before a packet is sent to it alone,
//! before its rooms change, and before it leaves. The sockets of one client in several namespaces
//! are independent, so a packet of another namespace may overtake a queued broadcast.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use super::member::Member;
use super::namespace::{LiveNamespace, NamespaceState};
use super::queue::{BroadcastQueue, Outgoing, Recipients};
use super::selection::{ManySockets, Target};
use super::yield_now::yield_now;
use crate::shrink::shrink;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

/// State of the background task that delivers queued broadcasts.
#[derive(Debug, Default)]
pub(super) struct Fanout {
    /// Whether a packet is queued. It changes under the lock of the namespace.
    busy: AtomicBool,
    /// Whether the queue [is behind](BroadcastQueue::is_behind). It changes under the lock too.
    behind: AtomicBool,
    /// Held during a delivery, so that all sockets get the packets in order.
    delivery_lock: Mutex<()>,
}

impl Fanout {
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }

    /// Records the state of the queue. The caller holds the lock of the namespace.
    fn note(&self, queue: &BroadcastQueue<Arc<Member>>) {
        self.busy.store(!queue.is_empty(), Ordering::Release);
        self.behind.store(queue.is_behind(), Ordering::Release);
    }
}

/// The number of waiting sessions that a delivery wakes.
const WOKEN_AT_ONCE: usize = 4;

/// The sessions that wait until the queue has caught up, in order.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    wakers: VecDeque<Waker>,
    /// The ticket of the first one. All with lower tickets were woken.
    first: u64,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.wakers.is_empty()
    }

    /// Adds a session, and returns its ticket.
    fn push(&mut self, waker: Waker) -> u64 {
        self.wakers.push_back(waker);
        self.first + self.wakers.len() as u64 - 1
    }

    /// Returns whether the session with this ticket still waits.
    fn has(&self, ticket: u64) -> bool {
        ticket >= self.first
    }

    /// Takes the first sessions, at most `count`, to wake them.
    fn take(&mut self, count: usize) -> Vec<Waker> {
        let count = count.min(self.wakers.len());
        self.first += count as u64;
        let taken = self.wakers.drain(..count).collect();
        shrink(&mut self.wakers);
        taken
    }
}

thread_local! {
    /// A namespace to whose queue this thread has added while the queue was behind.
    static BEHIND: Cell<Option<Weak<LiveNamespace>>> = const { Cell::new(None) };
    /// Whether `BEHIND` holds a namespace. Reading a plain flag costs less than taking a value with a
    /// destructor.
    static IS_BEHIND: Cell<bool> = const { Cell::new(false) };
}

/// Returns a namespace to whose broadcast queue this thread has added since the last call, while that
/// queue was behind. The session whose handler did so waits until the queue has caught up: otherwise
/// one client could queue work for seconds.
#[inline]
pub(crate) fn take_behind() -> Option<Weak<LiveNamespace>> {
    match IS_BEHIND.get() {
        true => take_marked(),
        false => None,
    }
}

#[cold]
fn take_marked() -> Option<Weak<LiveNamespace>> {
    IS_BEHIND.set(false);
    // While the thread ends there is no session to hold.
    BEHIND.try_with(Cell::take).ok().flatten()
}

/// Records that this thread has added to the queue of the namespace while the queue was behind.
fn mark_behind(namespace: &Arc<LiveNamespace>) {
    let behind = Some(Arc::downgrade(namespace));
    let is_marked = BEHIND.try_with(|mark| mark.set(behind)).is_ok();
    IS_BEHIND.set(is_marked);
}

impl LiveNamespace {
    /// Puts a packet into the broadcast queue. The caller holds the lock of the namespace, and has
    /// selected the recipients under it.
    pub(super) fn enqueue(
        &self,
        queue: &mut BroadcastQueue<Arc<Member>>,
        many: ManySockets<Arc<Member>>,
        target: &Target,
        outgoing: Outgoing,
    ) {
        queue.push(many, target, outgoing);
        self.fanout.note(queue);
    }

    /// Waits until the queue is no longer behind. `ticket` is the task's place among those that wait: it
    /// is woken once, however often it asks.
    pub(crate) fn poll_caught_up(&self, cx: &Context<'_>, ticket: &mut Option<u64>) -> Poll<()> {
        if !self.fanout.behind.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        let mut state = self.lock();
        if !state.queue.is_behind() {
            return Poll::Ready(());
        }
        if !ticket.is_some_and(|ticket| state.waiting.has(ticket)) {
            *ticket = Some(state.waiting.push(cx.waker().clone()));
        }
        Poll::Pending
    }

    /// Spawns the fan-out task if there is none. If the queue is full, this call first delivers a part of
    /// it itself, in proportion to what was added.
    pub(super) fn spawn_fanout(self: &Arc<Self>) {
        let mut state = self.lock();
        let mut share = state.queue.share();
        if state.queue.is_behind() {
            mark_behind(self);
        }
        while state.queue.is_full() && share > 0 {
            drop(state);
            share = share.saturating_sub(self.deliver_chunk().unwrap_or(share));
            state = self.lock();
        }
        if !state.queue.claim_task() {
            return;
        }
        let runtime = state
            .queue
            .any_socket()
            .map(|member| member.session.runtime.clone());
        drop(state);
        let namespace = Arc::clone(self);
        let ended = false;
        let task = FanoutTask { namespace, ended };
        // If the queue is empty by now, the task is dropped here, and the next packet needs another
        // task.
        if let Some(runtime) = runtime {
            // The runtime of a session: the caller's runtime may be one that is not driven.
            runtime.spawn(task.run());
            // tokio keeps the last task that a worker spawns in the worker's LIFO slot, from which
            // other workers do not steal. An empty task replaces the fan-out task there, so that
            // another worker can run the fan-out task.
            runtime.spawn(async {});
        }
    }

    /// Delivers all packets that are queued now.
    pub(crate) fn flush(&self) {
        let last = self.lock().queue.last_number();
        while self.lock().queue.holds_up_to(last) && self.deliver_chunk().is_some() {}
    }

    /// Delivers the oldest batch to its next chunk. Returns the number of packets and sockets, or `None` if
    /// the queue is empty.
    fn deliver_chunk(&self) -> Option<usize> {
        let delivery_lock = self.fanout.delivery_lock.lock();
        let delivery = self.lock().queue.begin_delivery()?;
        let mut delivered = delivery.range.len();
        for at in delivery.range.clone() {
            delivered += match delivery.is_last {
                true => {
                    delivery.chunk[at].deliver(delivery.last_number(), delivery.packets(at));
                    delivery.len()
                }
                // Delivers the later batches too, so that the session is woken once.
                false => self.flush_to(&delivery.chunk[at]),
            };
        }
        let mut state = self.lock();
        let ended = state.queue.end_delivery(&delivery);
        self.fanout.note(&state.queue);
        let woken = match &state.queue {
            queue if queue.is_behind() => 0,
            // There is no task that would wake the rest.
            queue if queue.is_empty() && !queue.has_task() => usize::MAX,
            // Each of them may add to the queue again.
            _ => WOKEN_AT_ONCE,
        };
        let waiting = state.waiting.take(woken);
        drop(state);
        drop(delivery_lock);
        waiting.into_iter().for_each(Waker::wake);
        // The last handle of a socket drops its values, whose destructors are the application's
        // code.
        drop((delivery, ended));
        Some(delivered)
    }

    /// Returns whether the fan-out task may end, because the queue is empty and no session waits for
    /// it. The next packet needs another task then.
    fn release_task(&self) -> bool {
        let mut state = self.lock();
        if !state.queue.is_empty() || state.waiting.is_empty() {
            return state.queue.release_task();
        }
        let waiting = state.waiting.take(WOKEN_AT_ONCE);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
        false
    }

    /// Delivers all packets that are queued for a socket, and returns their number.
    pub(super) fn flush_to(&self, member: &Member) -> usize {
        let state = self.lock();
        let NamespaceState { rooms, queue, .. } = &*state;
        let last = queue.last_number();
        if member.last_delivered() >= last {
            return 0;
        }
        let is_recipient = |recipients: &Recipients| match recipients {
            Recipients::Target(target) => rooms.is_recipient(&member.id, target),
            Recipients::Sockets(ids) => ids.contains(&member.id),
        };
        let packets = queue.after(member.last_delivered(), is_recipient);
        drop(state);
        member.deliver(
            last,
            packets.iter().map(|(number, outgoing)| (*number, outgoing)),
        );
        packets.len()
    }
}

/// The task that delivers queued broadcasts. If its runtime drops it, it delivers the rest at once,
/// so that no packet is lost.
struct FanoutTask {
    namespace: Arc<LiveNamespace>,
    ended: bool,
}

impl FanoutTask {
    async fn run(mut self) {
        while !self.namespace.release_task() {
            self.namespace.deliver_chunk();
            // Lets the sessions run that were woken.
            yield_now().await;
        }
        self.ended = true;
    }
}

impl Drop for FanoutTask {
    fn drop(&mut self) {
        while !self.ended && !self.namespace.release_task() {
            self.namespace.deliver_chunk();
        }
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    /// The fan-out task does not run, because this one does not wait.
    #[tokio::test]
    async fn broadcasters_deliver_a_part_of_a_full_queue() {
        const TEXT: usize = 64 * 1024;

        let builder = crate::SocketIo::builder().namespace("/", crate::Namespace::new());
        let (layer, io) = builder.build();
        let app = axum::Router::new().layer(layer);
        let mut clients = Vec::new();
        for _ in 0..200 {
            let client = crate::testing::Client::connect(&app, "/").await;
            clients.push(client.expect("it connects"));
        }
        let namespace = io.hub().and_then(|hub| hub.find("/"));
        let namespace = namespace.expect("the namespace");
        let mut most = 0;
        // 3 MiB, which is less than `max_buffered`.
        for _ in 0..48 {
            io.emit("text", "x".repeat(TEXT));
            most = most.max(namespace.lock().queue.bytes());
        }
        assert!(
            most > 1024 * 1024 && most < 2 * 1024 * 1024 + 2 * TEXT,
            "{most}"
        );
        assert!(namespace.fanout.is_busy());
    }
}
