//! The queue of a namespace's broadcasts to many sockets: a pure data structure.
//!
//! The queue holds packets in batches. All packets of a batch are for the same sockets. The
//! [fan-out task](super::fanout) reads one [`Delivery`] at a time.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::id_hash::IdHash;
use super::recovery::Mark;
use super::selection::{CHUNK, Chunks, ManySockets, Target};
use crate::engine_io::{Session, SocketId};
use crate::protocol::Encoded;

/// The number of packets in a delivery, where each packet counts once for each of its sockets. That
/// is a fraction of a millisecond of work. Only a delivery to a single socket may exceed this
/// number.
const PACKETS_AT_ONCE: usize = 4096;

/// The bytes that may be queued, including the chunks that the queue alone holds. Above this limit
/// a broadcaster delivers a part of the queue itself, so that there are never many more than twice as
/// many bytes.
const MAX_BYTES: usize = 1024 * 1024;

/// How much a broadcaster delivers itself for each delivery that it has added. A delivery costs 2 at
/// most: for its packet, and for its socket. So the queue shrinks by as much as was added.
const SHARE: usize = 4;

/// The bytes that an id counts in the recipients of a packet.
const ID: usize = size_of::<SocketId>() + 1;

/// The deliveries that may be left before a session whose handlers add more must wait. They are some
/// milliseconds of work.
const MAX_DELIVERIES: usize = 16 * PACKETS_AT_ONCE;

/// A packet for one socket or for many.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) packet: Encoded,
    /// Whether the packet is dropped for a client that is not ready.
    pub(super) volatile: bool,
    /// The packet's offset, if recovery keeps the packet.
    pub(super) mark: Mark,
}

/// A packet in the broadcast queue.
#[derive(Debug)]
struct QueuedPacket {
    /// The packet's sequence number. The numbers start at 1.
    number: u64,
    outgoing: Outgoing,
    recipients: Recipients,
    /// The index, among the sockets of the batch, of a socket that is left out.
    skip: Option<usize>,
}

/// The recipients of a queued packet. A socket catches up before its rooms change.
#[derive(Debug)]
pub(super) enum Recipients {
    /// Those that the target selects, also now.
    Target(Target),
    /// Those that a target with many names selected: to look them up again would take long.
    Sockets(HashSet<SocketId, IdHash>),
}

/// Consecutive packets for the same sockets.
#[derive(Debug)]
pub(super) struct Batch<T> {
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
    /// The packets that are left to deliver, each of them once for each of its sockets.
    deliveries: usize,
    /// The deliveries that were added since the last call of [`share`](Self::share).
    added: usize,
    /// Whether there is a [`FanoutTask`](super::fanout).
    has_task: bool,
}

impl<T> Default for BroadcastQueue<T> {
    fn default() -> Self {
        Self {
            batches: VecDeque::new(),
            last: 0,
            bytes: 0,
            deliveries: 0,
            added: 0,
            has_task: false,
        }
    }
}

impl<T> BroadcastQueue<T> {
    /// Returns the number of the last packet that was queued. A socket that enters the namespace
    /// now skips the packets up to this number.
    pub(super) fn last_number(&self) -> u64 {
        self.last
    }

    pub(super) fn push(&mut self, many: ManySockets<T>, target: &Target, outgoing: Outgoing) {
        let ManySockets {
            chunks: to,
            skip,
            copied,
            ids,
        } = many;
        self.last += 1;
        let bytes = cost(&outgoing) + ids.as_ref().map_or(0, |ids| ids.capacity() * ID);
        let packet = QueuedPacket {
            number: self.last,
            outgoing,
            recipients: match ids {
                Some(ids) => Recipients::Sockets(ids),
                None => Recipients::Target(target.clone()),
            },
            skip,
        };
        self.bytes += bytes;
        self.deliveries += count(&to);
        self.added += count(&to);
        let fits = |batch: &&mut Batch<T>| batch.done == 0 && Arc::ptr_eq(&batch.to, &to);
        if let Some(batch) = self.batches.back_mut().filter(fits) {
            // While a delivery shares the packets, no packet can be added to them.
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

    /// Returns the queued packets with a higher number than `number` for one socket.
    pub(super) fn after(
        &self,
        number: u64,
        is_recipient: impl Fn(&Recipients) -> bool,
    ) -> Vec<(u64, Outgoing)> {
        let packets = self.batches.iter().flat_map(|batch| batch.packets.iter());
        // Most sockets have got nearly all of the packets, so the search begins at the end.
        let mut packets: Vec<_> = packets
            .rev()
            .take_while(|packet| packet.number > number)
            .filter(|packet| is_recipient(&packet.recipients))
            .map(|packet| (packet.number, packet.outgoing.clone()))
            .collect();
        packets.reverse();
        packets
    }

    /// Returns the next sockets of the oldest batch, and the packets for them. The caller must call
    /// [`end_delivery`](Self::end_delivery) after it has delivered the packets.
    pub(super) fn begin_delivery(&mut self) -> Option<Delivery<T>> {
        let batch = self.batches.front()?;
        let chunk = Arc::clone(&batch.to[batch.done / CHUNK]);
        let begin = batch.done % CHUNK;
        let queued = self.last + 1 - batch.packets.first().map_or(0, |packet| packet.number);
        let queued = usize::try_from(queued).unwrap_or(usize::MAX);
        let sockets = (PACKETS_AT_ONCE / queued).max(1);
        let range = begin..chunk.len().min(begin + sockets);
        Some(Delivery {
            chunk,
            first: batch.done - begin,
            range,
            packets: Arc::clone(&batch.packets),
            is_last: self.batches.len() == 1,
        })
    }

    /// Records the end of a delivery. If the delivery completes the batch, removes the batch and
    /// returns it. The caller must drop the batch under no lock.
    pub(super) fn end_delivery(&mut self, delivery: &Delivery<T>) -> Option<Batch<T>> {
        let batch = self.batches.front_mut()?;
        batch.done = delivery.first + delivery.range.end;
        self.deliveries -= delivery.packets.len() * delivery.range.len();
        if batch.done < count(&batch.to) {
            return None;
        }
        let ended = self.batches.pop_front()?;
        self.bytes -= ended.bytes;
        Some(ended)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    #[cfg(all(test, feature = "testing"))]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns whether the queue holds more than [`MAX_BYTES`].
    pub(super) fn is_full(&self) -> bool {
        self.bytes > MAX_BYTES
    }

    /// Returns how much a broadcaster has to deliver itself while the queue is full: packets and sockets
    /// together.
    pub(super) fn share(&mut self) -> usize {
        SHARE * std::mem::take(&mut self.added)
    }

    /// Returns whether more than [`MAX_DELIVERIES`] are left.
    pub(super) fn is_behind(&self) -> bool {
        self.deliveries > MAX_DELIVERIES
    }

    /// Records that there is a fan-out task. Returns `true` if there was none: the caller must
    /// spawn the task.
    pub(super) fn claim_task(&mut self) -> bool {
        !std::mem::replace(&mut self.has_task, true)
    }

    /// Returns whether there is a fan-out task.
    pub(super) fn has_task(&self) -> bool {
        self.has_task
    }

    /// Returns whether the fan-out task may end, because the queue is empty. In this case, records
    /// that there is no fan-out task: the next packet needs another task.
    pub(super) fn release_task(&mut self) -> bool {
        self.has_task = !self.is_empty();
        !self.has_task
    }

    /// Returns whether the packet with this number, or an earlier one, is queued.
    pub(super) fn holds_up_to(&self, number: u64) -> bool {
        let first = self.batches.front().and_then(|batch| batch.packets.first());
        first.is_some_and(|packet| packet.number <= number)
    }

    /// Returns a socket of the oldest batch.
    pub(super) fn any_socket(&self) -> Option<&T> {
        self.batches.front()?.to.first()?.first()
    }
}

/// Some sockets of one chunk, and the packets that they are about to get.
pub(super) struct Delivery<T> {
    pub(super) chunk: Arc<[T]>,
    /// The index of the chunk's first socket in the batch.
    first: usize,
    /// The indexes in the chunk of the sockets of this delivery.
    pub(super) range: Range<usize>,
    packets: Arc<Vec<QueuedPacket>>,
    /// Whether no other batch is queued.
    pub(super) is_last: bool,
}

impl<T> Delivery<T> {
    pub(super) fn last_number(&self) -> u64 {
        self.packets.last().map_or(0, |packet| packet.number)
    }

    /// Returns the number of packets.
    pub(super) fn len(&self) -> usize {
        self.packets.len()
    }

    /// Returns the packets for the socket at this index of the chunk.
    pub(super) fn packets(&self, at: usize) -> impl Iterator<Item = (u64, &Outgoing)> {
        let at = self.first + at;
        let packets = self
            .packets
            .iter()
            .filter(move |packet| packet.skip != Some(at));
        packets.map(|packet| (packet.number, &packet.outgoing))
    }
}

/// Returns the number of sockets in chunks.
fn count<T>(chunks: &Chunks<T>) -> usize {
    let last = chunks.last().map_or(0, |chunk| chunk.len());
    chunks.len().saturating_sub(1) * CHUNK + last
}

fn cost(outgoing: &Outgoing) -> usize {
    let messages = outgoing.packet.clone().into_iter();
    messages.map(|message| Session::cost(&message)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine_io::Message;
    use crate::hub::selection::Selection;

    fn outgoing(text: &str) -> Outgoing {
        Outgoing {
            packet: Message::Text(text.into()).into(),
            volatile: false,
            mark: Mark::None,
        }
    }

    fn text(outgoing: &Outgoing) -> String {
        let mut messages = outgoing.packet.clone().into_iter();
        match messages.next() {
            Some(Message::Text(text)) => text.as_str().to_owned(),
            other => panic!("{other:?} is not a text"),
        }
    }

    fn chunks(count: usize) -> Chunks<usize> {
        let sockets: Vec<_> = (0..count).collect();
        sockets.chunks(CHUNK).map(Arc::from).collect()
    }

    fn shared(chunks: &Chunks<usize>, skip: Option<usize>) -> ManySockets<usize> {
        let selection = Selection::Shared(Arc::clone(chunks), skip);
        selection.into_chunks().expect("more than one chunk")
    }

    /// Delivers all packets. Returns each socket with the texts that it gets, in order.
    fn drain(queue: &mut BroadcastQueue<usize>) -> Vec<(usize, Vec<String>)> {
        let mut delivered = Vec::new();
        while let Some(delivery) = queue.begin_delivery() {
            for at in delivery.range.clone() {
                let texts = delivery.packets(at).map(|(_, each)| text(each)).collect();
                delivered.push((delivery.chunk[at], texts));
            }
            drop(queue.end_delivery(&delivery));
        }
        delivered
    }

    #[test]
    fn each_socket_gets_each_packet_once_and_in_order() {
        let sockets = chunks(300);
        let mut queue = BroadcastQueue::default();
        for each in ["a", "b", "c"] {
            queue.push(shared(&sockets, None), &Target::default(), outgoing(each));
        }
        let expected = (0..300).map(|at| (at, vec!["a".into(), "b".into(), "c".into()]));
        assert!(drain(&mut queue).into_iter().eq(expected));
        assert!(queue.is_empty());
        assert_eq!((queue.bytes, queue.last_number()), (0, 3));
    }

    #[test]
    fn a_socket_that_is_left_out_gets_the_other_packets() {
        let sockets = chunks(200);
        let mut queue = BroadcastQueue::default();
        queue.push(
            shared(&sockets, Some(150)),
            &Target::default(),
            outgoing("a"),
        );
        queue.push(shared(&sockets, None), &Target::default(), outgoing("b"));
        let delivered = drain(&mut queue);
        assert_eq!(delivered[150], (150, vec!["b".to_owned()]));
        assert_eq!(delivered[151].1, ["a", "b"]);
    }

    #[test]
    fn a_packet_that_is_queued_during_a_delivery_begins_a_batch() {
        let sockets = chunks(200);
        let mut queue = BroadcastQueue::default();
        queue.push(shared(&sockets, None), &Target::default(), outgoing("a"));
        let delivery = queue.begin_delivery().expect("a packet is queued");
        assert!(delivery.is_last);
        queue.push(shared(&sockets, None), &Target::default(), outgoing("b"));
        assert_eq!(delivery.packets(0).count(), 1);
        assert!(queue.end_delivery(&delivery).is_none());
        drop(delivery);
        // The second delivery of the first batch, then the second batch.
        let delivery = queue.begin_delivery().expect("72 sockets are left");
        assert_eq!((delivery.first, delivery.range.len()), (CHUNK, 72));
        assert!(!delivery.is_last);
        assert!(queue.end_delivery(&delivery).is_some());
        assert_eq!(drain(&mut queue).len(), 200);
    }

    #[test]
    fn a_socket_that_catches_up_gets_the_packets_after_its_number() {
        let sockets = chunks(200);
        let mut queue = BroadcastQueue::default();
        for each in ["a", "b", "c"] {
            queue.push(shared(&sockets, None), &Target::default(), outgoing(each));
        }
        let all = queue.after(1, |_| true);
        let all: Vec<_> = all
            .iter()
            .map(|(number, each)| (*number, text(each)))
            .collect();
        assert_eq!(all, [(2, "b".to_owned()), (3, "c".to_owned())]);
        assert!(queue.after(0, |_| false).is_empty());
        assert!(queue.holds_up_to(1) && !queue.holds_up_to(0));
    }

    #[test]
    fn many_packets_go_to_few_sockets_at_a_time() {
        let sockets = chunks(200);
        let mut queue = BroadcastQueue::default();
        for _ in 0..PACKETS_AT_ONCE {
            queue.push(shared(&sockets, None), &Target::default(), outgoing("a"));
        }
        let delivery = queue.begin_delivery().expect("packets are queued");
        assert_eq!(delivery.range, 0..1);
    }

    #[test]
    fn chunks_that_the_queue_alone_holds_count_as_bytes() {
        let mut queue = BroadcastQueue::default();
        let selection = Selection::Owned((0..1_000).collect::<Vec<usize>>(), None);
        let many = selection.into_chunks().expect("more than one chunk");
        queue.push(many, &Target::default(), outgoing("a"));
        assert!(queue.bytes >= 1_000 * size_of::<usize>());
        assert!(!queue.is_full());
        let long = "x".repeat(MAX_BYTES + 1);
        queue.push(
            shared(&chunks(200), None),
            &Target::default(),
            outgoing(&long),
        );
        assert!(queue.is_full());
        drain(&mut queue);
        assert_eq!(queue.bytes, 0);
    }

    /// Each broadcaster delivers its share, and nobody else does anything.
    #[test]
    fn a_full_queue_does_not_grow_for_long() {
        let (everybody, others) = (chunks(300), chunks(300));
        let text = "x".repeat(1_000);
        for alternates in [false, true] {
            let mut queue = BroadcastQueue::default();
            let mut last = [0; 300];
            let (mut most, mut is_caught_up) = (0, false);
            for n in 0..10_000 {
                let to = match alternates && n % 2 == 1 {
                    true => &others,
                    false => &everybody,
                };
                queue.push(shared(to, None), &Target::default(), outgoing(&text));
                let share = queue.share();
                let mut delivered = 0;
                while queue.is_full() && delivered < share {
                    let delivery = queue.begin_delivery().expect("packets are queued");
                    for at in delivery.range.clone() {
                        let last = &mut last[delivery.chunk[at]];
                        delivered += 1 + queue.after(*last, |_| true).len();
                        *last = queue.last_number();
                    }
                    drop(queue.end_delivery(&delivery));
                }
                // A delivery is not divided.
                assert!(delivered <= share + 2 * PACKETS_AT_ONCE, "{delivered}");
                most = most.max(queue.bytes);
                is_caught_up |= n > 2_000 && !queue.is_full();
            }
            assert!(most > MAX_BYTES && most < 2 * MAX_BYTES + 10_000, "{most}");
            assert!(is_caught_up);
        }
    }

    #[test]
    fn one_task_at_a_time_is_claimed() {
        let mut queue = BroadcastQueue::default();
        queue.push(
            shared(&chunks(200), None),
            &Target::default(),
            outgoing("a"),
        );
        assert!(queue.claim_task());
        assert!(!queue.claim_task());
        assert!(!queue.release_task(), "a packet is queued");
        drain(&mut queue);
        assert!(queue.release_task());
        assert!(queue.claim_task());
    }
}
