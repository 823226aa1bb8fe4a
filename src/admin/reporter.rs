//! The task that sends to the pages, while there is one in the cluster.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, select, select_all};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Admin;
use super::describe::PAGES_WITH_EVENTS;
use super::pages::Level;
use super::queue::ReportArgs;
use super::slow::SlowPages;

use crate::clock::now;
use crate::handles::{Broadcast, Partial, Socket, SocketIo};
use crate::hub::Hub;
use crate::hub::yield_now::yield_now;
use crate::protocol::{Args, Data, Nested};

/// Sends the numbers every two seconds, and the reports as they come.
///
/// It ends when neither this server nor another has a page.
pub(super) struct Reporter {
    admin: Arc<Admin>,
    io: SocketIo,
    slow: SlowPages,
    /// The seconds until the numbers are sent again.
    stats_in: u32,
    /// How often it looks for a page before it ends. A page that is about to connect is none yet.
    patience: u32,
    has_ended: bool,
}

impl Reporter {
    pub(super) fn new(admin: Arc<Admin>, io: SocketIo) -> Self {
        Self {
            admin,
            io,
            slow: SlowPages::default(),
            stats_in: 0,
            patience: PATIENCE,
            has_ended: false,
        }
    }

    pub(super) async fn run(mut self) {
        let mut next_tick = Instant::now();
        loop {
            self.answer_beats();
            self.welcome().await;
            if Instant::now() >= next_tick {
                next_tick = Instant::now() + SECOND;
                if !self.tick().await {
                    return;
                }
            }
            if self.admin.recorder.has_reports() {
                self.send_reports().await;
                // Leaves time for the pages to show them, and for everything else.
                sleep(PAUSE).await;
                continue;
            }
            let woken = self.admin.recorder.wake.notified();
            let _ = timeout_at(next_tick, woken).await;
        }
    }

    /// Sends the numbers and the beat, once a second. Returns `false` when the task has ended.
    async fn tick(&mut self) -> bool {
        let Some(hub) = self.io.hub() else {
            return false;
        };
        self.admin.recorder.roll();
        self.note_load();
        let pages = self.pages().len();
        if pages > 0 {
            self.patience = PATIENCE;
        }
        let has_changed = self.update(pages, &hub);
        if !self.admin.recorder.is_on() {
            self.patience = self.patience.saturating_sub(1);
            if self.patience == 0 && self.admin.try_end() {
                // From here on another reporter may run.
                self.has_ended = true;
                self.send_beat();
                return false;
            }
        }
        if has_changed {
            self.send_beat();
        }
        let changing = match has_changed {
            true => self.pages(),
            false => self.rested_pages(),
        };
        if !changing.is_empty() {
            self.show(&changing).await;
        }
        match self.stats_in.checked_sub(1) {
            Some(left) => self.stats_in = left,
            None => {
                self.stats_in = STATS_EVERY - 1;
                self.send_beat();
                let stats = self.admin.stats(&self.io, &hub, true);
                self.everywhere().emit("server_stats", Data(stats));
            }
        }
        true
    }

    /// Chooses between events and numbers for the pages, and sets the recording level.
    /// Returns whether the pages have to change.
    fn update(&self, pages: usize, hub: &Hub) -> bool {
        let mut known = self.admin.pages.lock();
        if hub.others.is_some() {
            known.set_cluster();
        }
        let has_changed = known.update(pages, sockets(hub), now());
        self.admin.recorder.set_level(known.level());
        has_changed
    }

    /// Looks whether there were more events than can be reported.
    fn note_load(&self) {
        let load = self.admin.recorder.take_load();
        if load.dropped > 0 {
            tracing::info!(
                events = load.events,
                "the Admin UI shows numbers only: there are more events than it can show"
            );
        }
        self.admin.pages.lock().set_load(load);
    }

    /// Sends a beat if another server has got a page and does not know this one.
    fn answer_beats(&self) {
        if self.admin.state.lock().take_answer() {
            self.send_beat();
        }
    }

    /// Tells the other servers what this one has.
    fn send_beat(&self) {
        let beat = self.admin.pages.lock().beat();
        // There may be no other servers. The next beat follows anyway.
        let _ = self.everywhere().server_side_emit(BEAT, Data(beat));
    }

    /// Sends to new pages what they show first.
    async fn welcome(&mut self) {
        let new = self.admin.state.lock().take_new();
        let Some(hub) = self.io.hub().filter(|_| !new.is_empty()) else {
            return;
        };
        self.patience = PATIENCE;
        let pages = self.pages().len().max(new.len());
        let has_changed = self.update(pages, &hub);
        self.send_beat();
        let stats = self.admin.stats(&self.io, &hub, false);
        for page in &new {
            page.emit("server_stats", Data(&stats));
        }
        // All pages change together.
        let mut pages = match has_changed {
            true => self.pages(),
            false => Vec::new(),
        };
        pages.retain(|page| new.iter().all(|new| new.id() != page.id()));
        pages.extend(new);
        self.show(&pages).await;
    }

    /// Sends the pages the features, and the sockets if they show them.
    async fn show(&mut self, pages: &[Socket]) {
        if !self.admin.pages.lock().wants_events() {
            self.show_numbers(pages);
            return;
        }
        let is_resting = |page: &&Socket| self.slow.is_resting(page.id());
        let pages: Vec<_> = pages.iter().filter(|page| !is_resting(page)).collect();
        let Some(first) = pages.first() else { return };
        pages.iter().for_each(|page| page.join(PAGES_WITH_EVENTS));
        // From then on the reports of the other servers arrive.
        let _ = timeout(SECOND, first.synced()).await;
        let config = self.config(true);
        pages
            .iter()
            .for_each(|page| page.emit("config", Data(&config)));
        // What happened before is sent before, as far as the page can take it.
        self.send_reports().await;
        let all = self.all_sockets().await;
        let max = first.member.session.config.max_buffered / 2;
        if all.get().len() <= max {
            pages
                .iter()
                .for_each(|page| page.emit("all_sockets", Data(&all)));
            return;
        }
        self.admin.pages.lock().set_too_long(now());
        tracing::info!(
            bytes = all.get().len(),
            "the Admin UI shows numbers only: the description of all sockets is too long"
        );
    }

    fn show_numbers(&self, pages: &[Socket]) {
        let config = self.config(false);
        for page in pages {
            page.leave(PAGES_WITH_EVENTS);
            page.emit("config", Data(&config));
            if self.admin.has_events {
                // A page keeps the sockets that it has shown.
                page.emit("all_sockets", Data(NO_SOCKETS));
            }
        }
    }

    fn config(&self, has_events: bool) -> Config {
        Config {
            supported_features: self.admin.features(has_events),
        }
    }

    /// Returns the descriptions of the sockets of all servers, as a JSON list.
    async fn all_sockets(&self) -> Box<RawValue> {
        let own = own_sockets(&self.admin, &self.io).await;
        let mut all: Vec<Box<RawValue>> = own;
        for other in self.others_sockets().await {
            all.extend(other);
        }
        // A list of JSON texts can always be written.
        serde_json::value::to_raw_value(&all).unwrap_or_else(|_| RawValue::NULL.to_owned())
    }

    async fn others_sockets(&self) -> Vec<Vec<Box<RawValue>>> {
        if self.io.hub().is_none_or(|hub| hub.others.is_none()) {
            return Vec::new();
        }
        let everywhere = self.everywhere();
        let asked = everywhere.server_side_emit_with_ack::<String>(SOCKETS, ());
        let mut asked = std::pin::pin!(asked);
        // The other servers must not forget this one while it waits for one that is silent.
        let answers = loop {
            match select(asked, std::pin::pin!(sleep(2 * SECOND))).await {
                Either::Left((answers, _)) => break answers,
                Either::Right(((), waiting)) => asked = waiting,
            }
            self.send_beat();
        };
        // A server that is silent, or one of Node, has no part in the answer.
        let lists = answers.unwrap_or_else(Partial::into_got);
        let read = |list: &String| serde_json::from_str(list).ok();
        lists.iter().filter_map(read).collect()
    }

    /// Sends some of the reports that wait, in order.
    async fn send_reports(&mut self) {
        let watching = self.everywhere().to(PAGES_WITH_EVENTS);
        let share = self.admin.pages.lock().share();
        for _ in 0..(share / 20).max(1) {
            let Some(report) = self.admin.recorder.pop() else {
                break;
            };
            self.slow.sent(report.bytes);
            let event = report.event;
            match report.args {
                ReportArgs::Args(args) => watching.emit(event, Args(args)),
                ReportArgs::Event(namespace, socket, args, at) => {
                    let before = (&*namespace, socket);
                    let after = (at,);
                    let event_of = Nested {
                        before,
                        event: args,
                        after,
                    };
                    watching.emit(event, event_of);
                }
            }
        }
        // The page that reads fastest sets the pace.
        let pages = watching.sockets();
        if !pages.is_empty() {
            let drained = pages.iter().map(|page| Box::pin(page.drained()));
            let _ = timeout(SECOND, select_all(drained)).await;
        }
        self.rest_slow_pages(pages);
    }

    /// Changes the pages that do not read fast enough to numbers.
    fn rest_slow_pages(&mut self, mut pages: Vec<Socket>) {
        pages.retain(|page| {
            let has_read_all = page.drained().now_or_never().is_some();
            let max = page.member.session.config.max_buffered / 4;
            self.slow.note(page.id(), has_read_all, max, now())
        });
        self.show_numbers(&pages);
    }

    /// Returns the pages that were too slow and have read all since.
    fn rested_pages(&mut self) -> Vec<Socket> {
        let mut pages = self.pages();
        let ids: HashSet<_> = pages.iter().map(Socket::id).collect();
        self.slow.retain(|page| ids.contains(page));
        pages.retain(|page| {
            page.drained().now_or_never().is_some() && self.slow.take_rested(page.id(), now())
        });
        pages
    }

    /// Selects the pages of all servers.
    fn everywhere(&self) -> Broadcast {
        self.io.of(&self.admin.recorder.namespace)
    }

    /// Returns the pages of this server.
    fn pages(&self) -> Vec<Socket> {
        self.everywhere().sockets()
    }
}

impl Drop for Reporter {
    /// The runtime may drop the task before its end. A new page then starts another one.
    fn drop(&mut self) {
        if !self.has_ended {
            self.admin.state.lock().reporter_ended();
            self.admin.recorder.set_level(Level::Nothing);
        }
    }
}

/// Describes the sockets of this server, without their headers if they are many.
pub(super) async fn own_sockets(admin: &Admin, io: &SocketIo) -> Vec<Box<RawValue>> {
    let Some(hub) = io.hub() else {
        return Vec::new();
    };
    let count = sockets(&hub);
    if count > admin.max_sockets {
        return Vec::new();
    }
    let all = io.of_all(|_| true).sockets();
    let mut described = Vec::with_capacity(all.len());
    let mut bytes = 0;
    for some in all.chunks(64) {
        // Without their headers the rest is short, whatever the clients have sent.
        let has_heads = count <= MAX_HEADS && bytes <= MAX_BYTES_WITH_HEADS;
        let describe = |socket| admin.recorder.describer.describe(socket, has_heads);
        let some: Vec<_> = some.iter().filter_map(describe).collect();
        bytes += some.iter().map(|each| each.get().len()).sum::<usize>();
        described.extend(some);
        yield_now().await;
    }
    described
}

/// Returns the number of sockets in all namespaces.
fn sockets(hub: &Hub) -> usize {
    hub.namespaces()
        .iter()
        .map(|each| each.member_count())
        .sum()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    supported_features: Vec<&'static str>,
}

/// The name of the server event with a [`Beat`](super::pages::Beat).
pub(super) const BEAT: &str = "tower-socketio:admin";

/// The name of the server event that asks for the sockets of the other servers.
pub(super) const SOCKETS: &str = "tower-socketio:admin:sockets";

/// The name of the server event that asks whether a session id is known.
pub(super) const SESSION: &str = "tower-socketio:admin:session";

const NO_SOCKETS: [(); 0] = [];

const SECOND: Duration = Duration::from_secs(1);

/// The seconds from one `server_stats` to the next.
const STATS_EVERY: u32 = 2;

/// The seconds without a page after which the task ends.
const PATIENCE: u32 = 3;

/// How long the task rests after it has sent some events.
const PAUSE: Duration = Duration::from_millis(50);

/// How many sockets are described with their headers: 1 KiB each.
const MAX_HEADS: usize = 1_000;

/// The length of the descriptions after which the rest is described without headers, in bytes.
const MAX_BYTES_WITH_HEADS: usize = 1024 * 1024;
