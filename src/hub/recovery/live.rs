//! Recovery's part in a namespace and its sockets.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use http::Extensions;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::archive::{Archive, Restored};
use super::log::{Number, To};
use super::{Kept, PrivateId};
use crate::engine::{CloseReason, SocketId};
use crate::guard::guarded;
use crate::hub::fanout::Mail;
use crate::hub::link::Link;
use crate::hub::member::{Member, encode};
use crate::hub::registry::{Membership, Registry};
use crate::hub::rooms::{Selection, Target};
use crate::hub::{DisconnectReason, Hub};
use crate::protocol::{Claim, Encoded, Kind, Payload};

/// A client that asks to come in.
#[derive(Debug)]
pub(crate) struct Newcomer<'a> {
    /// The id of the socket if it is new.
    pub(crate) id: SocketId,
    pub(crate) auth: &'a Payload,
    /// The private id if it is new; none for a client that cannot come back.
    pub(crate) owner: Option<PrivateId>,
    /// The socket that it says it is.
    pub(crate) claim: Option<&'a Claim>,
}

/// What recovery adds to a socket.
#[derive(Debug)]
pub(crate) struct Recoverable {
    pub(crate) owner: PrivateId,
    /// The last packet that it was sent.
    sent: AtomicU64,
    /// Of the socket whose place it takes.
    inherited: Option<Arc<Legacy>>,
    /// What it is sent before CONNECT.
    missed: Mutex<Vec<Encoded>>,
    /// For the one that takes its place.
    left: OnceLock<Arc<Legacy>>,
}

impl Recoverable {
    fn new(owner: PrivateId, sent: Number) -> Self {
        Self {
            owner,
            sent: AtomicU64::new(sent.0),
            inherited: None,
            missed: Mutex::default(),
            left: OnceLock::new(),
        }
    }

    /// With the id and the rooms of the socket whose place it takes.
    fn restored(restored: Restored<Arc<Legacy>>) -> (SocketId, Self, Vec<Arc<str>>) {
        let recoverable = Self {
            inherited: Some(restored.legacy),
            missed: Mutex::new(restored.missed),
            ..Self::new(restored.owner, restored.sent)
        };
        (restored.id, recoverable, restored.rooms)
    }
}

/// What a socket leaves to the one that takes its place.
#[derive(Debug)]
pub(crate) struct Legacy {
    belongings: Mutex<Belongings>,
    /// Without permits; closed when the last of its handlers has ended.
    ended: Semaphore,
}

/// What was kept with a socket.
#[derive(Clone, Debug)]
struct Belongings {
    extensions: Extensions,
    data: Option<Arc<Value>>,
}

/// How long a socket waits for the handlers of the one whose place it takes.
const GRACE: Duration = Duration::from_secs(5);

impl Legacy {
    /// Waits until no handler of the former socket runs any more.
    pub(crate) async fn settled(&self) {
        if tokio::time::timeout(GRACE, self.ended.acquire())
            .await
            .is_err()
        {
            tracing::debug!("a handler of the lost connection still runs");
        }
    }
}

/// A namespace's archive, locked. What it gives up is dropped when it is free again.
pub(crate) struct Guard<'a>(Option<MutexGuard<'a, Archive<Arc<Legacy>>>>);

impl Deref for Guard<'_> {
    type Target = Archive<Arc<Legacy>>;

    fn deref(&self) -> &Self::Target {
        // Taken only when it is dropped.
        self.0.as_ref().expect("locked")
    }
}

impl DerefMut for Guard<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        // As above.
        self.0.as_mut().expect("locked")
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(mut archive) = self.0.take() {
            let dead = Dead(std::mem::take(&mut archive.dead));
            drop(archive);
            drop(dead);
        }
    }
}

/// What was kept with sockets that nobody will be any more. It is to be dropped under no lock, for
/// the destructors are the user's.
pub(in crate::hub) struct Dead(Vec<Arc<Legacy>>);

impl Drop for Dead {
    fn drop(&mut self) {
        for legacy in self.0.drain(..) {
            // Who happens to come by must not suffer from them.
            let _ = guarded(|| drop(legacy));
        }
    }
}

impl Registry {
    /// The archive, if there is recovery. It is locked before everything else of the namespace.
    pub(crate) fn archive(&self) -> Option<Guard<'_>> {
        let archive = self.archive.as_ref()?;
        let archive = archive.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Guard(Some(archive)))
    }

    /// Takes a client in: as a new socket, or as the one that it claims to be. None if the
    /// namespace was forgotten meanwhile.
    pub(crate) fn admit(
        self: &Arc<Self>,
        link: &Arc<Link>,
        newcomer: &Newcomer<'_>,
    ) -> Option<Membership> {
        let member = |id| Member::new(id, Arc::clone(link), Arc::clone(self), newcomer.auth);
        let archive = newcomer
            .owner
            .and_then(|owner| Some((owner, self.archive()?)));
        let Some((owner, mut archive)) = archive else {
            return self.enter(Arc::new(member(newcomer.id)), &[]);
        };
        let claim = newcomer.claim;
        let found = claim.and_then(|claim| Some((claim, archive.find(claim)?)));
        // What it comes back with has to fit beside what the connection keeps already.
        let found = found.filter(|(_, id)| link.budget.fits(archive.cost(id), self.max_kept()));
        let displaced = found.and_then(|(_, id)| self.displace(&mut archive, &id));
        let restored = found.and_then(|(claim, id)| {
            let offset = claim.offset.as_deref();
            archive.restore(id, offset, now())
        });
        let (id, recoverable, rooms) = match restored {
            Some(restored) => Recoverable::restored(restored),
            None => {
                archive.enter(newcomer.id, owner);
                let recoverable = Recoverable::new(owner, archive.last());
                (newcomer.id, recoverable, Vec::new())
            }
        };
        let member = member(id).with_recovery(recoverable);
        let membership = self.enter(Arc::new(member), &rooms);
        if membership.is_none() {
            archive.forget(&id);
        }
        drop(archive);
        self.tell(link, 2 * rooms.len());
        if let Some(displaced) = displaced {
            displaced.link.close(CloseReason::TransportClose);
        }
        membership
    }

    /// Whether a client that is back passes by the connect handler.
    pub(crate) fn skips_connect_handler(&self) -> bool {
        let archive = self.archive();
        archive.is_some_and(|archive| archive.kept.config.skip_connect_handler)
    }

    /// Marks a namespace as gone where nobody is, whoever may come back, and gives what is to be
    /// dropped then; none if it stays.
    pub(in crate::hub) fn abandon(&self) -> Option<Dead> {
        if self.is_static {
            return None;
        }
        let mut archive = self.archive()?;
        if !self.retire_empty() {
            return None;
        }
        archive.abandon();
        Some(Dead(std::mem::take(&mut archive.dead)))
    }

    /// Makes a socket that its client has given up leave; its connection is to be closed, and it is
    /// to be dropped under no lock.
    fn displace(&self, archive: &mut Guard<'_>, id: &SocketId) -> Option<Arc<Member>> {
        let former = self.find(id)?;
        former.leave_from(DisconnectReason::TransportClose, Some(&mut **archive));
        Some(former)
    }

    /// As [`spread`](Self::spread), and keeps it unless it is volatile.
    pub(in crate::hub) fn spread_kept(
        &self,
        archive: &mut Guard<'_>,
        target: &Target,
        mut payload: Payload,
        volatile: bool,
    ) -> Option<Selection<Arc<Member>>> {
        let (offset, packet) = if volatile {
            mark_volatile(archive, &mut payload);
            (None, encode(self, Kind::Event, None, payload))
        } else {
            let (number, packet) = self.keep(archive, To::Many(target.clone()), payload);
            (Some(number), packet)
        };
        self.spread(
            target,
            Mail {
                packet,
                volatile,
                offset,
            },
        )
    }

    /// Numbers, writes and keeps an event.
    fn keep(&self, archive: &mut Guard<'_>, to: To, mut payload: Payload) -> (Number, Encoded) {
        let number = archive.next();
        payload.push_text(&number.to_text());
        let packet = encode(self, Kind::Event, None, payload);
        archive.keep(to, &packet, now());
        self.sweep_later(&archive.kept);
        (number, packet)
    }

    /// Sees to it that what is kept is dropped when it is too old, also if nothing happens here.
    fn sweep_later(&self, kept: &Kept) {
        // Outside of a runtime there is none to do it; what happens here next does it then.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if kept.begin_sweeping() {
            let every = kept.config.within.clamp(SHORTEST_SWEEP, LONGEST_SWEEP);
            runtime.spawn(sweep(self.weak_hub(), every));
        }
    }
}

/// How often it is looked for what is too old: as often as it can become so, within these.
const SHORTEST_SWEEP: Duration = Duration::from_millis(10);
const LONGEST_SWEEP: Duration = Duration::from_secs(60);

/// The one timer of recovery. It ends when there is nothing left.
async fn sweep(hub: Weak<Hub>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(hub) = hub.upgrade() else {
            return;
        };
        if !hub.sweep() {
            return;
        }
    }
}

impl Hub {
    /// Whether clients can come back.
    pub(crate) const fn recovers(&self) -> bool {
        self.kept.is_some()
    }

    /// The archive of a namespace, if there is recovery.
    pub(in crate::hub) fn new_archive(&self) -> Option<Box<Mutex<Archive<Arc<Legacy>>>>> {
        let kept = self.kept.as_ref()?;
        let mut random = [0; 8];
        // As for ids: without randomness there is no server.
        getrandom::fill(&mut random).expect("the system gives random bytes");
        let archive = Archive::new(Number::start(random), Arc::clone(kept));
        Some(Box::new(Mutex::new(archive)))
    }

    /// Drops what is too old; whether the caller is to come again.
    fn sweep(&self) -> bool {
        let Some(kept) = &self.kept else {
            return false;
        };
        // Who keeps something from now on begins another sweep, or we go on.
        kept.end_sweeping();
        let mut is_idle = true;
        for registry in self.namespaces() {
            if let Some(mut archive) = registry.archive() {
                archive.expire(now());
                is_idle &= archive.is_idle();
            }
            self.forget_if_empty(&registry);
        }
        !is_idle && kept.begin_sweeping()
    }

    /// Sockets that are away, and the bytes of packets that are kept.
    pub(crate) fn kept(&self) -> (usize, usize) {
        let archives = self.namespaces();
        let away = archives
            .iter()
            .filter_map(|each| Some(each.archive()?.away()));
        let bytes = |kept: &Arc<Kept>| kept.packets.load(Ordering::Relaxed);
        (away.sum(), self.kept.as_ref().map_or(0, bytes))
    }
}

impl Member {
    fn with_recovery(mut self, recoverable: Recoverable) -> Self {
        self.recovery = Some(Box::new(recoverable));
        self
    }

    /// Sends an event and keeps it. False if it goes nowhere.
    pub(in crate::hub) fn emit_kept(&self, payload: Payload) -> bool {
        // Dropped when the archive is free again: with the last handle of a socket its values go.
        let successor;
        let Some(mut archive) = self.registry.archive() else {
            return false;
        };
        if !archive.knows(&self.id) {
            return false;
        }
        let (number, packet) = self.registry.keep(&mut archive, To::One(self.id), payload);
        if !self.has_left() {
            return self.send_numbered(number, packet);
        }
        // The client is back, or else it is sent this when it is.
        successor = self.registry.find(&self.id);
        successor
            .as_ref()
            .is_none_or(|successor| successor.send_numbered(number, packet))
    }

    /// Sends an event that will not be sent again.
    pub(in crate::hub) fn emit_unkept(&self, mut payload: Payload) -> bool {
        let archive = self.registry.archive();
        if let Some(archive) = &archive {
            mark_volatile(archive, &mut payload);
        }
        self.send(self.encode(Kind::Event, None, payload))
    }

    fn send_numbered(&self, number: Number, packet: Encoded) -> bool {
        // What waits has lower numbers.
        self.catch_up();
        self.was_sent(Some(number));
        self.send(packet)
    }

    /// It is sent the packet of this number, if that has one.
    pub(in crate::hub) fn was_sent(&self, number: Option<Number>) {
        if let (Some(recovery), Some(number)) = (&self.recovery, number) {
            recovery.sent.store(number.0, Ordering::Relaxed);
        }
    }

    /// Whether it is the socket of a client that came back.
    pub(crate) fn is_recovered(&self) -> bool {
        self.inherited().is_some()
    }

    /// What the socket left whose place it takes.
    pub(crate) fn inherited(&self) -> Option<&Arc<Legacy>> {
        self.recovery.as_ref()?.inherited.as_ref()
    }

    /// Takes over what was kept with the former socket.
    pub(crate) fn inherit(&self, legacy: &Legacy) {
        let Belongings { extensions, data } = lock(&legacy.belongings).clone();
        // It was found to fit when the socket was let in.
        self.set_data(data, usize::MAX);
        let mut own = self
            .extensions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *own, extensions);
        drop(own);
        drop(before);
    }

    /// What it is sent before CONNECT.
    pub(crate) fn take_missed(&self) -> Vec<Encoded> {
        let missed = self.recovery.as_ref().map(|recovery| &recovery.missed);
        missed
            .map(|missed| std::mem::take(&mut *lock(missed)))
            .unwrap_or_default()
    }

    /// Keeps the session if the client may come back, or else forgets it.
    pub(in crate::hub) fn part_ways(
        &self,
        archive: &mut Archive<Arc<Legacy>>,
        reason: DisconnectReason,
        was_connected: bool,
    ) {
        let Some(recovery) = &self.recovery else {
            return;
        };
        // One that was never told its private id cannot name it.
        let is_known = was_connected || self.is_recovered();
        if !is_known || !reason.is_recoverable() {
            return archive.forget(&self.id);
        }
        let legacy = Legacy {
            belongings: Mutex::new(self.belongings()),
            ended: Semaphore::new(0),
        };
        let legacy = Arc::clone(recovery.left.get_or_init(|| Arc::new(legacy)));
        let sent = Number(recovery.sent.load(Ordering::Relaxed));
        archive.part_ways(&self.id, sent, self.data_bytes(), legacy, now());
        self.registry.sweep_later(&archive.kept);
    }

    /// The last of its handlers has ended.
    pub(in crate::hub) fn settle(&self) {
        if let Some(legacy) = self
            .recovery
            .as_ref()
            .and_then(|recovery| recovery.left.get())
        {
            let own = self.belongings();
            let before = std::mem::replace(&mut *lock(&legacy.belongings), own);
            drop(before);
            legacy.ended.close();
        }
    }

    fn belongings(&self) -> Belongings {
        let data = self.data();
        let extensions = self
            .extensions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        Belongings {
            // Each value is an `Arc`: no code of the user's runs.
            extensions: extensions.clone(),
            data,
        }
    }
}

/// A client takes the last argument for an offset if it is a text, also if it is not numbered.
/// Then it is given the last number there is, which is true: all before were queued for it.
fn mark_volatile(archive: &Guard<'_>, payload: &mut Payload) {
    if payload.ends_with_text() {
        payload.push_text(&archive.last().to_text());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}
