//! Broadcasts to many sockets, on their way.
//!
//! Who broadcasts to few queues for each of them and is done. For many that would keep its thread
//! from everybody else, so it leaves the packet in [`Waiting`], and a task takes it to [`LIST`] of
//! them at a time. Those are woken, write and sleep again before it comes to the next, so others
//! never wait behind more than these; and what is sent meanwhile to the same sockets is taken along.
//!
//! Nobody can tell the difference, because whatever else concerns a socket has it
//! [catch up](Member::catch_up) first: what is sent to it alone, a change of its rooms, its leaving.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use super::member::Member;
use super::recovery::Number;
use super::registry::{Registry, Space};
use super::rooms::{LIST, Lists, Target};
use crate::engine::Session;
use crate::protocol::Encoded;

/// How many packets are queued at a time, which takes a fraction of a millisecond.
const PACKETS_AT_ONCE: usize = 4096;

/// How many bytes may wait. Who broadcasts more without ever letting the task run does its work.
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
}

/// What waits, in order.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    batches: VecDeque<Batch<T>>,
    /// The number of the last packet there was.
    last: u64,
    bytes: usize,
    /// Whether a task takes care of it.
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

    fn push(&mut self, to: Lists<T>, skip: Option<usize>, target: &Target, mail: Mail) {
        self.last += 1;
        self.bytes += cost(&mail);
        let post = Post {
            number: self.last,
            mail,
            target: target.clone(),
            skip,
        };
        let takes_more = |batch: &&mut Batch<T>| batch.done == 0 && Arc::ptr_eq(&batch.to, &to);
        let last = self.batches.back_mut().filter(takes_more);
        // Nobody has one that is not begun.
        if let Some(posts) = last.and_then(|batch| Arc::get_mut(&mut batch.posts)) {
            posts.push(post);
            return;
        }
        self.batches.push_back(Batch {
            to,
            posts: Arc::new(vec![post]),
            done: 0,
        });
    }

    /// What waits for a socket that was given everything up to a number.
    fn after(&self, number: u64, is_meant: impl Fn(&Target) -> bool) -> Vec<(u64, Mail)> {
        let posts = self.batches.iter().flat_map(|batch| batch.posts.iter());
        posts
            .filter(|post| post.number > number && is_meant(&post.target))
            .map(|post| (post.number, post.mail.clone()))
            .collect()
    }

    /// The next sockets, and what they are to be given. To be [ended](Self::end_part).
    fn begin_part(&mut self) -> Option<Part<T>> {
        let batch = self.batches.front_mut()?;
        let to = Arc::clone(&batch.to[batch.done / LIST]);
        let begin = batch.done % LIST;
        let many = (PACKETS_AT_ONCE / batch.posts.len()).max(1);
        let range = begin..to.len().min(begin + many);
        let first = batch.done - begin;
        batch.done = first + range.end;
        Some(Part {
            to,
            first,
            range,
            posts: Arc::clone(&batch.posts),
            is_all: self.batches.len() == 1,
        })
    }

    /// Forgets what everybody was given: it is to be dropped under no lock.
    fn end_part(&mut self) -> Option<Batch<T>> {
        let is_ended = |batch: &Batch<T>| {
            let last = batch.to.last().map_or(0, |list| list.len());
            batch.done == (batch.to.len() - 1) * LIST + last
        };
        let ended = self.batches.front().is_some_and(is_ended);
        let ended = ended.then(|| self.batches.pop_front()).flatten()?;
        let bytes = ended.posts.iter().map(|post| cost(&post.mail));
        self.bytes -= bytes.sum::<usize>();
        Some(ended)
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
        to: Lists<Arc<Member>>,
        skip: Option<usize>,
        target: &Target,
        mail: Mail,
    ) {
        waiting.push(to, skip, target, mail);
        self.fanout.busy.store(true, Ordering::Release);
    }

    /// Sees to it that somebody takes care of what waits.
    pub(super) fn attend(self: &Arc<Self>) {
        let mut space = self.lock();
        let is_too_much = space.waiting.bytes > MAX_BYTES;
        if !is_too_much && std::mem::replace(&mut space.waiting.attended, true) {
            return;
        }
        drop(space);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if !is_too_much => {
                let registry = Arc::clone(self);
                let ended = false;
                runtime.spawn(Attendant { registry, ended }.run());
            }
            _ => self.take_all(),
        }
    }

    /// Takes everything that waits to everybody.
    pub(crate) fn take_all(&self) {
        while self.take_some() {}
    }

    /// Takes what has waited the longest to some sockets; false if nothing waits.
    fn take_some(&self) -> bool {
        let turn = self.fanout.turn.lock();
        let turn = turn.unwrap_or_else(PoisonError::into_inner);
        let mut space = self.lock();
        let Some(part) = space.waiting.begin_part() else {
            space.waiting.attended = false;
            return false;
        };
        drop(space);
        for at in part.range.clone() {
            match part.is_all {
                true => part.to[at].take_in(part.last(), part.mails(at)),
                // Together with the rest, so that it is woken once.
                false => self.give(&part.to[at]),
            }
        }
        let mut space = self.lock();
        let ended = space.waiting.end_part();
        let is_busy = !space.waiting.batches.is_empty();
        self.fanout.busy.store(is_busy, Ordering::Release);
        drop(space);
        drop(turn);
        // With the last that knows a socket its values go, whose destructors are the user's.
        let _ = catch_unwind(AssertUnwindSafe(|| drop((part, ended))));
        true
    }

    /// Gives a socket everything that waits for it.
    pub(super) fn give(&self, member: &Member) {
        let space = self.lock();
        let Space { rooms, waiting } = &*space;
        let last = waiting.last();
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
        while self.registry.take_some() {
            // At the end of the queue, behind those that were woken.
            let mut yielded = false;
            poll_fn(|cx| {
                if std::mem::replace(&mut yielded, true) {
                    return Poll::Ready(());
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
        }
        self.ended = true;
    }
}

impl Drop for Attendant {
    fn drop(&mut self) {
        if !self.ended {
            self.registry.take_all();
        }
    }
}
