//! Broadcasts to many sockets, on their way.
//!
//! Who broadcasts to few queues for each of them and is done. For many that would keep its thread
//! from everybody else, so it leaves the packet in [`Waiting`], and a task takes it to [`LIST`] of
//! them at a time. Those are woken, write and sleep again before it comes to the next, so others
//! never wait behind more than these; and what is sent meanwhile to the same sockets is taken along.
//!
//! Nobody in the namespace can tell the difference, because whatever else concerns a socket has it
//! [catch up](Member::catch_up) first: what is sent to it alone, a change of its rooms, its leaving.
//! The sockets that one client has in several namespaces know nothing of each other, so what is sent
//! in another namespace may overtake it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::hooks::yield_now;
use super::member::Member;
use super::recovery::Number;
use super::registry::{Registry, Space};
use super::rooms::{LIST, Lists, Many, Target};
use crate::engine::Session;
use crate::protocol::Encoded;

/// How many packets are queued at a time, which takes a fraction of a millisecond.
const PACKETS_AT_ONCE: usize = 4096;

/// How many bytes may wait, those of lists that are nobody else's too. Beyond it, who broadcasts does
/// all the work that there is.
const MAX_BYTES: usize = 1024 * 1024;

/// A packet for one socket or for many.
#[derive(Clone, Debug)]
pub(super) struct Mail {
    pub(super) packet: Encoded,
    /// Whether it is only for those who need not wait for it.
    pub(super) volatile: bool,
    /// Its number for recovery, if it is kept.
    pub(super) offset: Option<Number>,
}

/// A packet that waits.
#[derive(Debug)]
struct Post {
    /// A running number, from one on.
    number: u64,
    mail: Mail,
    target: Target,
    /// The place of the one among the receivers that is left out.
    skip: Option<usize>,
}

/// Packets in a row for the same sockets.
#[derive(Debug)]
struct Batch<T> {
    to: Lists<T>,
    posts: Arc<Vec<Post>>,
    /// How many of the sockets were given them.
    done: usize,
    /// What it counts of [`MAX_BYTES`].
    bytes: usize,
}

/// What waits, in order.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    batches: VecDeque<Batch<T>>,
    /// The number of the last packet there was.
    last: u64,
    bytes: usize,
    /// Whether there is an [`Attendant`].
    attended: bool,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self {
            batches: VecDeque::new(),
            last: 0,
            bytes: 0,
            attended: false,
        }
    }
}

impl<T> Waiting<T> {
    /// The number of the last packet: of no concern to a socket that comes now.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    fn push(&mut self, many: Many<T>, target: &Target, mail: Mail) {
        let Many {
            lists: to,
            skip,
            copied,
        } = many;
        self.last += 1;
        let bytes = cost(&mail);
        let post = Post {
            number: self.last,
            mail,
            target: target.clone(),
            skip,
        };
        self.bytes += bytes;
        let takes_more = |batch: &&mut Batch<T>| batch.done == 0 && Arc::ptr_eq(&batch.to, &to);
        if let Some(batch) = self.batches.back_mut().filter(takes_more) {
            // It is shared while the first sockets are given it.
            if let Some(posts) = Arc::get_mut(&mut batch.posts) {
                posts.push(post);
                batch.bytes += bytes;
                return;
            }
        }
        let copied = copied * size_of::<T>();
        self.bytes += copied;
        self.batches.push_back(Batch {
            to,
            posts: Arc::new(vec![post]),
            done: 0,
            bytes: bytes + copied,
        });
    }

    /// What waits for a socket that was given everything up to a number.
    fn after(&self, number: u64, is_meant: impl Fn(&Target) -> bool) -> Vec<(u64, Mail)> {
        let posts = self.batches.iter().flat_map(|batch| batch.posts.iter());
        // Most have got nearly all of them.
        let mut mails: Vec<_> = posts
            .rev()
            .take_while(|post| post.number > number)
            .filter(|post| is_meant(&post.target))
            .map(|post| (post.number, post.mail.clone()))
            .collect();
        mails.reverse();
        mails
    }

    /// The next sockets, and what they are to be given. To be [ended](Self::end_part).
    fn begin_part(&mut self) -> Option<Part<T>> {
        let batch = self.batches.front()?;
        let to = Arc::clone(&batch.to[batch.done / LIST]);
        let begin = batch.done % LIST;
        let waiting = self.last + 1 - batch.posts.first().map_or(0, |post| post.number);
        let waiting = usize::try_from(waiting).unwrap_or(usize::MAX);
        let many = (PACKETS_AT_ONCE / waiting).max(1);
        let range = begin..to.len().min(begin + many);
        Some(Part {
            to,
            first: batch.done - begin,
            range,
            posts: Arc::clone(&batch.posts),
            is_all: self.batches.len() == 1,
        })
    }

    /// Forgets what everybody was given: it is to be dropped under no lock.
    fn end_part(&mut self, part: &Part<T>) -> Option<Batch<T>> {
        let batch = self.batches.front_mut()?;
        batch.done = part.first + part.range.end;
        let last = batch.to.last().map_or(0, |list| list.len());
        if batch.done < (batch.to.len() - 1) * LIST + last {
            return None;
        }
        let ended = self.batches.pop_front()?;
        self.bytes -= ended.bytes;
        Some(ended)
    }

    /// Whether something waits that came no later than the packet of this number.
    fn begins_by(&self, number: u64) -> bool {
        let first = self.batches.front().and_then(|batch| batch.posts.first());
        first.is_some_and(|post| post.number <= number)
    }

    /// One of those for whom something waits.
    fn first(&self) -> Option<&T> {
        self.batches.front()?.to.first()?.first()
    }
}

/// Some of the sockets of a batch.
struct Part<T> {
    to: Arc<[T]>,
    /// The place of the first of these, among all of the batch.
    first: usize,
    /// Those that are meant.
    range: Range<usize>,
    posts: Arc<Vec<Post>>,
    /// Whether nothing else waits.
    is_all: bool,
}

impl<T> Part<T> {
    fn last(&self) -> u64 {
        self.posts.last().map_or(0, |post| post.number)
    }

    /// What the socket at this place is to be given.
    fn mails(&self, at: usize) -> impl Iterator<Item = (u64, &Mail)> {
        let at = self.first + at;
        let meant = self.posts.iter().filter(move |post| post.skip != Some(at));
        meant.map(|post| (post.number, &post.mail))
    }
}

fn cost(mail: &Mail) -> usize {
    let messages = mail.packet.clone().into_iter();
    messages.map(|message| Session::cost(&message)).sum()
}

/// Who takes what waits to the sockets.
#[derive(Debug, Default)]
pub(super) struct Fanout {
    /// Whether anything waits. It changes under the lock of the namespace.
    busy: AtomicBool,
    /// Held by who takes it to some of the sockets, so that all of them get it in order.
    turn: Mutex<()>,
}

impl Fanout {
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }
}

impl Registry {
    /// Leaves a packet for many. The lock of the namespace is held, under which they were selected.
    pub(super) fn leave_for(
        &self,
        waiting: &mut Waiting<Arc<Member>>,
        many: Many<Arc<Member>>,
        target: &Target,
        mail: Mail,
    ) {
        waiting.push(many, target, mail);
        self.fanout.busy.store(true, Ordering::Release);
    }

    /// Sees to it that somebody takes care of what waits.
    pub(super) fn attend(self: &Arc<Self>) {
        let mut space = self.lock();
        if space.waiting.bytes > MAX_BYTES {
            drop(space);
            return self.take_all();
        }
        if std::mem::replace(&mut space.waiting.attended, true) {
            return;
        }
        let runtime = space
            .waiting
            .first()
            .map(|member| member.link.runtime.clone());
        drop(space);
        let registry = Arc::clone(self);
        let ended = false;
        let attendant = Attendant { registry, ended };
        // If there is nobody any more, it ends here.
        if let Some(runtime) = runtime {
            // Where sessions run: the caller's runtime may be one that nobody drives.
            runtime.spawn(attendant.run());
            // The last that a worker has spawned waits for that worker alone, whatever its task does
            // before it returns. So that is not the attendant.
            runtime.spawn(async {});
        }
    }

    /// Takes everything that waits now to everybody.
    pub(crate) fn take_all(&self) {
        let last = self.lock().waiting.last();
        while self.lock().waiting.begins_by(last) && self.take_some() {}
    }

    /// Takes what has waited the longest to some sockets; false if nothing waits.
    fn take_some(&self) -> bool {
        let turn = self.fanout.turn.lock();
        let turn = turn.unwrap_or_else(PoisonError::into_inner);
        let Some(part) = self.lock().waiting.begin_part() else {
            return false;
        };
        for at in part.range.clone() {
            match part.is_all {
                true => part.to[at].take_in(part.last(), part.mails(at)),
                // Together with the rest, so that it is woken once.
                false => self.give(&part.to[at]),
            }
        }
        let mut space = self.lock();
        let ended = space.waiting.end_part(&part);
        let is_busy = !space.waiting.batches.is_empty();
        self.fanout.busy.store(is_busy, Ordering::Release);
        drop(space);
        drop(turn);
        // With the last that knows a socket its values go, whose destructors are the user's.
        drop((part, ended));
        true
    }

    /// Whether nothing waits. If so, the next that waits needs another attendant.
    fn has_ended(&self) -> bool {
        let waiting = &mut self.lock().waiting;
        waiting.attended = !waiting.batches.is_empty();
        !waiting.attended
    }

    /// Gives a socket everything that waits for it.
    pub(super) fn give(&self, member: &Member) {
        let space = self.lock();
        let Space { rooms, waiting } = &*space;
        let last = waiting.last();
        if member.taken_in() >= last {
            return;
        }
        let is_meant = |target: &Target| rooms.is_meant(&member.id, target);
        let mails = waiting.after(member.taken_in(), is_meant);
        drop(space);
        member.take_in(last, mails.iter().map(|(number, mail)| (*number, mail)));
    }
}

/// The task that takes care of what waits. Ended with its runtime, it does the rest at once:
/// nothing is lost by it.
struct Attendant {
    registry: Arc<Registry>,
    ended: bool,
}

impl Attendant {
    async fn run(mut self) {
        while !self.registry.has_ended() {
            self.registry.take_some();
            // At the end of the queue, behind those that were woken.
            yield_now().await;
        }
        self.ended = true;
    }
}

impl Drop for Attendant {
    fn drop(&mut self) {
        while !self.ended && !self.registry.has_ended() {
            self.registry.take_some();
        }
    }
}
