//! Broadcasts to many sockets.
//!
//! A broadcaster queues a packet for few recipients itself. For many recipients that would block
//! its thread for too long. So it puts the packet into the [`BroadcastQueue`], and the fan-out task
//! delivers the packet to [`CHUNK`] sockets at a time. The sessions of these sockets wake, write
//! and sleep again before the task reaches the next chunk, so other tasks never wait for more than
//! one chunk. Packets that are queued for the same sockets in the meantime are delivered along with
//! it.
//!
//! The application cannot observe the queue within a namespace. A socket [catches
//! up](Member::catch_up) before anything else happens to it: before a packet is sent to it alone,
//! before its rooms change, and before it leaves. The sockets of one client in several namespaces
//! are independent, so a packet of another namespace may overtake a queued broadcast.

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

/// The number of packets that are delivered at a time. That is a fraction of a millisecond of work.
const PACKETS_AT_ONCE: usize = 4096;

/// The bytes that may be queued, including the chunks that the queue alone holds. Above this limit
/// a broadcaster delivers the whole queue itself.
const MAX_BYTES: usize = 1024 * 1024;

/// A packet for one socket or for many.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) packet: Encoded,
    /// Whether the packet is dropped for a client that is not ready.
    pub(super) volatile: bool,
    /// The packet's offset, if recovery keeps the packet.
    pub(super) offset: Option<Offset>,
}

/// A packet in the broadcast queue.
#[derive(Debug)]
struct QueuedPacket {
    /// The packet's sequence number, which starts at 1.
    number: u64,
    outgoing: Outgoing,
    target: Target,
    /// The index of a socket that is left out.
    skip: Option<usize>,
}

/// Consecutive packets for the same sockets.
#[derive(Debug)]
struct Batch<T> {
    to: Chunks<T>,
    packets: Arc<Vec<QueuedPacket>>,
    /// The number of sockets that have got the packets.
    done: usize,
    /// The bytes that the batch counts towards [`MAX_BYTES`].
    bytes: usize,
}

/// The queued broadcasts of a namespace, in order.
#[derive(Debug)]
pub(super) struct BroadcastQueue<T> {
    batches: VecDeque<Batch<T>>,
    /// The number of the last packet that was queued.
    last: u64,
    bytes: usize,
    /// Whether there is a [`FanoutTask`].
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
    /// Returns the number of the last packet. A socket that enters now skips up to it.
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
            // The packets are shared while a delivery is under way.
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

    /// Returns the queued packets after `number` for one socket.
    fn after(&self, number: u64, is_recipient: impl Fn(&Target) -> bool) -> Vec<(u64, Outgoing)> {
        let packets = self.batches.iter().flat_map(|batch| batch.packets.iter());
        // Most sockets have got nearly all of the packets, so the search begins at the end.
        let mut packets: Vec<_> = packets
            .rev()
            .take_while(|packet| packet.number > number)
            .filter(|packet| is_recipient(&packet.target))
            .map(|packet| (packet.number, packet.outgoing.clone()))
            .collect();
        packets.reverse();
        packets
    }

    /// Returns the next sockets of the oldest batch, and the packets for them. The caller must call
    /// [`end_delivery`](Self::end_delivery).
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

    /// Records a delivery. If it completes the batch, the batch is removed and returned; the caller
    /// must drop it under no lock.
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

    /// Returns whether a packet up to this number is queued.
    fn has_up_to(&self, number: u64) -> bool {
        let first = self.batches.front().and_then(|batch| batch.packets.first());
        first.is_some_and(|packet| packet.number <= number)
    }

    /// Returns a socket of the oldest batch.
    fn first(&self) -> Option<&T> {
        self.batches.front()?.to.first()?.first()
    }
}

/// Some sockets of one chunk, and the packets that they are about to get.
struct Delivery<T> {
    to: Arc<[T]>,
    /// The index of the chunk's first socket in the batch.
    first: usize,
    /// The indexes of the recipients in the chunk.
    range: Range<usize>,
    packets: Arc<Vec<QueuedPacket>>,
    /// Whether no other batch is queued.
    is_last: bool,
}

impl<T> Delivery<T> {
    fn last(&self) -> u64 {
        self.packets.last().map_or(0, |packet| packet.number)
    }

    /// Returns the packets for the socket at this index of the chunk.
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

/// State of the background task that delivers queued broadcasts.
#[derive(Debug, Default)]
pub(super) struct Fanout {
    /// Whether a packet is queued. It changes under the lock of the namespace.
    busy: AtomicBool,
    /// Held during a delivery, so that all sockets get the packets in order.
    delivery_lock: Mutex<()>,
}

impl Fanout {
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }
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
        self.fanout.busy.store(true, Ordering::Release);
    }

    /// Spawns the fan-out task if there is none. If more than [`MAX_BYTES`] are queued, this call
    /// delivers the whole queue itself.
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
        // If the queue is empty by now, the task is dropped here, which ends it.
        if let Some(runtime) = runtime {
            // The runtime of a session: the caller's runtime may be one that is not driven.
            runtime.spawn(task.run());
            // tokio keeps the last task that a worker spawns for that worker alone, until the
            // worker's current task returns. An empty task takes that place, so that another worker
            // can run the fan-out task.
            runtime.spawn(async {});
        }
    }

    /// Delivers all packets that are queued now.
    pub(crate) fn flush(&self) {
        let last = self.lock().queue.last();
        while self.lock().queue.has_up_to(last) && self.deliver_some() {}
    }

    /// Delivers the oldest batch to its next sockets. Returns `false` if the queue is empty.
    fn deliver_some(&self) -> bool {
        let delivery_lock = self.fanout.delivery_lock.lock();
        let Some(delivery) = self.lock().queue.begin_delivery() else {
            return false;
        };
        for at in delivery.range.clone() {
            match delivery.is_last {
                true => delivery.to[at].deliver(delivery.last(), delivery.packets(at)),
                // Delivers the later batches too, so that the session is woken once.
                false => self.flush_to(&delivery.to[at]),
            }
        }
        let mut state = self.lock();
        let ended = state.queue.end_delivery(&delivery);
        let is_busy = !state.queue.batches.is_empty();
        self.fanout.busy.store(is_busy, Ordering::Release);
        drop(state);
        drop(delivery_lock);
        // The last handle of a socket drops its values, whose destructors are the application's
        // code.
        drop((delivery, ended));
        true
    }

    /// Returns whether the queue is empty. If so, the next packet needs another task.
    fn has_ended(&self) -> bool {
        let queue = &mut self.lock().queue;
        queue.has_task = !queue.batches.is_empty();
        !queue.has_task
    }

    /// Delivers all queued packets for a socket.
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

/// The task that delivers the broadcast queue. If its runtime drops it, it delivers the rest at
/// once, so that no packet is lost.
struct FanoutTask {
    namespace: Arc<LiveNamespace>,
    ended: bool,
}

impl FanoutTask {
    async fn run(mut self) {
        while !self.namespace.has_ended() {
            self.namespace.deliver_some();
            // Lets the sessions run that were woken.
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
