//! Broadcasts to many sockets, on their way.
//!
//! Who broadcasts to few queues for each of them and is done. For many that would keep its thread
//! from everybody else, so it leaves the packet in [`BroadcastQueue`], and a task takes it to [`CHUNK`] of
//! them at a time. Those are woken, write and sleep again before it comes to the next, so others
//! never wait behind more than these; and what is sent meanwhile to the same sockets is taken along.
//!
//! Nobody in the namespace can tell the difference, because whatever else concerns a socket has it
//! [catch up](Member::catch_up) first: what is sent to it alone, a change of its rooms, its leaving.
//! The sockets that one client has in several namespaces know nothing of each other, so what is sent
//! in another namespace may overtake it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::hooks::yield_now;
use super::member::Member;
use super::namespace::{LiveNamespace, NamespaceState};
use super::recovery::Offset;
use super::rooms::{CHUNK, Chunks, ManySockets, Target};
use crate::engine_io::Session;
use crate::protocol::Encoded;
use crate::sync::Mutex;

/// How many packets are queued at a time, which takes a fraction of a millisecond.
const PACKETS_AT_ONCE: usize = 4096;

/// How many bytes may wait, those of chunks that are nobody else's too. Beyond it, who broadcasts does
/// all the work that there is.
const MAX_BYTES: usize = 1024 * 1024;

/// A packet for one socket or for many.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) packet: Encoded,
    /// Whether it is only for those who need not wait for it.
    pub(super) volatile: bool,
    /// Its number for recovery, if it is kept.
    pub(super) offset: Option<Offset>,
}

/// A packet that waits.
#[derive(Debug)]
struct QueuedPacket {
    /// A running number, from one on.
    number: u64,
    outgoing: Outgoing,
    target: Target,
    /// The place of the one among the receivers that is left out.
    skip: Option<usize>,
}

/// Packets in a row for the same sockets.
#[derive(Debug)]
struct Batch<T> {
    to: Chunks<T>,
    packets: Arc<Vec<QueuedPacket>>,
    /// How many of the sockets were given them.
    done: usize,
    /// What it counts of [`MAX_BYTES`].
    bytes: usize,
}

/// What waits, in order.
#[derive(Debug)]
pub(super) struct BroadcastQueue<T> {
    batches: VecDeque<Batch<T>>,
    /// The number of the last packet there was.
    last: u64,
    bytes: usize,
    /// Whether there is an [`FanoutTask`].
    has_task: bool,
}

impl<T> Default for BroadcastQueue<T> {
    fn default() -> Self {
        Self {
            batches: VecDeque::new(),
            last: 0,
            bytes: 0,
            has_task: false,
        }
    }
}

impl<T> BroadcastQueue<T> {
    /// The number of the last packet: of no concern to a socket that comes now.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    fn push(&mut self, many: ManySockets<T>, target: &Target, outgoing: Outgoing) {
        let ManySockets {
            chunks: to,
            skip,
            copied,
        } = many;
        self.last += 1;
        let bytes = cost(&outgoing);
        let packet = QueuedPacket {
            number: self.last,
            outgoing,
            target: target.clone(),
            skip,
        };
        self.bytes += bytes;
        let takes_more = |batch: &&mut Batch<T>| batch.done == 0 && Arc::ptr_eq(&batch.to, &to);
        if let Some(batch) = self.batches.back_mut().filter(takes_more) {
            // It is shared while the first sockets are given it.
            if let Some(packets) = Arc::get_mut(&mut batch.packets) {
                packets.push(packet);
                batch.bytes += bytes;
                return;
            }
        }
        let copied = copied * size_of::<T>();
        self.bytes += copied;
        self.batches.push_back(Batch {
            to,
            packets: Arc::new(vec![packet]),
            done: 0,
            bytes: bytes + copied,
        });
    }

    /// What waits for a socket that was given everything up to a number.
    fn after(&self, number: u64, is_recipient: impl Fn(&Target) -> bool) -> Vec<(u64, Outgoing)> {
        let packets = self.batches.iter().flat_map(|batch| batch.packets.iter());
        // Most have got nearly all of them.
        let mut packets: Vec<_> = packets
            .rev()
            .take_while(|packet| packet.number > number)
            .filter(|packet| is_recipient(&packet.target))
            .map(|packet| (packet.number, packet.outgoing.clone()))
            .collect();
        packets.reverse();
        packets
    }

    /// The next sockets, and what they are to be given. To be [ended](Self::end_delivery).
    fn begin_delivery(&mut self) -> Option<Delivery<T>> {
        let batch = self.batches.front()?;
        let to = Arc::clone(&batch.to[batch.done / CHUNK]);
        let begin = batch.done % CHUNK;
        let queue = self.last + 1 - batch.packets.first().map_or(0, |packet| packet.number);
        let queue = usize::try_from(queue).unwrap_or(usize::MAX);
        let many = (PACKETS_AT_ONCE / queue).max(1);
        let range = begin..to.len().min(begin + many);
        Some(Delivery {
            to,
            first: batch.done - begin,
            range,
            packets: Arc::clone(&batch.packets),
            is_last: self.batches.len() == 1,
        })
    }

    /// Forgets what everybody was given: it is to be dropped under no lock.
    fn end_delivery(&mut self, delivery: &Delivery<T>) -> Option<Batch<T>> {
        let batch = self.batches.front_mut()?;
        batch.done = delivery.first + delivery.range.end;
        let last = batch.to.last().map_or(0, |chunk| chunk.len());
        if batch.done < (batch.to.len() - 1) * CHUNK + last {
            return None;
        }
        let ended = self.batches.pop_front()?;
        self.bytes -= ended.bytes;
        Some(ended)
    }

    /// Whether something waits that came no later than the packet of this number.
    fn has_up_to(&self, number: u64) -> bool {
        let first = self.batches.front().and_then(|batch| batch.packets.first());
        first.is_some_and(|packet| packet.number <= number)
    }

    /// One of those for whom something waits.
    fn first(&self) -> Option<&T> {
        self.batches.front()?.to.first()?.first()
    }
}

/// Some of the sockets of a batch.
struct Delivery<T> {
    to: Arc<[T]>,
    /// The place of the first of these, among all of the batch.
    first: usize,
    /// Those that are meant.
    range: Range<usize>,
    packets: Arc<Vec<QueuedPacket>>,
    /// Whether nothing else waits.
    is_last: bool,
}

impl<T> Delivery<T> {
    fn last(&self) -> u64 {
        self.packets.last().map_or(0, |packet| packet.number)
    }

    /// What the socket at this place is to be given.
    fn packets(&self, at: usize) -> impl Iterator<Item = (u64, &Outgoing)> {
        let at = self.first + at;
        let meant = self
            .packets
            .iter()
            .filter(move |packet| packet.skip != Some(at));
        meant.map(|packet| (packet.number, &packet.outgoing))
    }
}

fn cost(outgoing: &Outgoing) -> usize {
    let messages = outgoing.packet.clone().into_iter();
    messages.map(|message| Session::cost(&message)).sum()
}

/// Who takes what waits to the sockets.
#[derive(Debug, Default)]
pub(super) struct Fanout {
    /// Whether anything waits. It changes under the lock of the namespace.
    busy: AtomicBool,
    /// Held by who takes it to some of the sockets, so that all of them get it in order.
    delivery_lock: Mutex<()>,
}

impl Fanout {
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }
}

impl LiveNamespace {
    /// Leaves a packet for many. The lock of the namespace is held, under which they were selected.
    pub(super) fn enqueue(
        &self,
        queue: &mut BroadcastQueue<Arc<Member>>,
        many: ManySockets<Arc<Member>>,
        target: &Target,
        outgoing: Outgoing,
    ) {
        queue.push(many, target, outgoing);
        self.fanout.busy.store(true, Ordering::Release);
    }

    /// Sees to it that somebody takes care of what waits.
    pub(super) fn spawn_fanout(self: &Arc<Self>) {
        let mut state = self.lock();
        if state.queue.bytes > MAX_BYTES {
            drop(state);
            return self.flush();
        }
        if std::mem::replace(&mut state.queue.has_task, true) {
            return;
        }
        let runtime = state
            .queue
            .first()
            .map(|member| member.session.runtime.clone());
        drop(state);
        let namespace = Arc::clone(self);
        let ended = false;
        let task = FanoutTask { namespace, ended };
        // If there is nobody any more, it ends here.
        if let Some(runtime) = runtime {
            // Where sessions run: the caller's runtime may be one that nobody drives.
            runtime.spawn(task.run());
            // The last that a worker has spawned waits for that worker alone, whatever its task does
            // before it returns. So that is not the task.
            runtime.spawn(async {});
        }
    }

    /// Takes everything that waits now to everybody.
    pub(crate) fn flush(&self) {
        let last = self.lock().queue.last();
        while self.lock().queue.has_up_to(last) && self.deliver_some() {}
    }

    /// Takes what has waited the longest to some sockets; false if nothing waits.
    fn deliver_some(&self) -> bool {
        let delivery_lock = self.fanout.delivery_lock.lock();
        let Some(delivery) = self.lock().queue.begin_delivery() else {
            return false;
        };
        for at in delivery.range.clone() {
            match delivery.is_last {
                true => delivery.to[at].deliver(delivery.last(), delivery.packets(at)),
                // Together with the rest, so that it is woken once.
                false => self.flush_to(&delivery.to[at]),
            }
        }
        let mut state = self.lock();
        let ended = state.queue.end_delivery(&delivery);
        let is_busy = !state.queue.batches.is_empty();
        self.fanout.busy.store(is_busy, Ordering::Release);
        drop(state);
        drop(delivery_lock);
        // With the last that knows a socket its values go, whose destructors are the user's.
        drop((delivery, ended));
        true
    }

    /// Whether nothing waits. If so, the next that waits needs another task.
    fn has_ended(&self) -> bool {
        let queue = &mut self.lock().queue;
        queue.has_task = !queue.batches.is_empty();
        !queue.has_task
    }

    /// Gives a socket everything that waits for it.
    pub(super) fn flush_to(&self, member: &Member) {
        let state = self.lock();
        let NamespaceState { rooms, queue } = &*state;
        let last = queue.last();
        if member.last_delivered() >= last {
            return;
        }
        let is_recipient = |target: &Target| rooms.is_recipient(&member.id, target);
        let packets = queue.after(member.last_delivered(), is_recipient);
        drop(state);
        member.deliver(
            last,
            packets.iter().map(|(number, outgoing)| (*number, outgoing)),
        );
    }
}

/// The task that takes care of what waits. Ended with its runtime, it does the rest at once:
/// nothing is lost by it.
struct FanoutTask {
    namespace: Arc<LiveNamespace>,
    ended: bool,
}

impl FanoutTask {
    async fn run(mut self) {
        while !self.namespace.has_ended() {
            self.namespace.deliver_some();
            // At the end of the queue, behind those that were woken.
            yield_now().await;
        }
        self.ended = true;
    }
}

impl Drop for FanoutTask {
    fn drop(&mut self) {
        while !self.ended && !self.namespace.has_ended() {
            self.namespace.deliver_some();
        }
    }
}
