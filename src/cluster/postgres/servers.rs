//! The servers of each namespace, by their messages: a pure data structure.
//!
//! PostgreSQL cannot list the listeners of a channel, so each server says in each namespace that it is alive: when it
//! begins, five seconds after its last message at the latest, and when it leaves.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::cluster::message::ServerId;
use crate::protocol::NamespaceName;

/// How long the servers of a namespace may take to answer the first heartbeat of this one. Before
/// that, they are not counted.
const SETTLING: Duration = Duration::from_secs(1);

/// How often [`Servers::tick`] is called, at most.
const TICK: Duration = Duration::from_secs(1);

/// When heartbeats are due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heartbeat {
    /// The longest time between two messages of this server.
    pub(super) interval: Duration,
    /// The time without a message after which a server is dead.
    pub(super) timeout: Duration,
}

/// The servers of each namespace that is open here.
#[derive(Debug)]
pub(super) struct Servers {
    heartbeat: Heartbeat,
    namespaces: HashMap<NamespaceName, Others>,
    last_tick: Instant,
}

/// The other servers of a namespace.
#[derive(Debug)]
struct Others {
    /// When each of them was heard last.
    heard: HashMap<ServerId, Instant>,
    /// When this server has sent its last message.
    sent: Instant,
    /// When the first heartbeat of this server has left.
    announced: Option<Instant>,
}

impl Servers {
    pub(super) fn new(heartbeat: Heartbeat, now: Instant) -> Self {
        Self {
            heartbeat,
            namespaces: HashMap::new(),
            last_tick: now,
        }
    }

    /// Opens a namespace. Its first heartbeat has yet to leave.
    pub(super) fn open(&mut self, namespace: &NamespaceName, now: Instant) {
        let others = Others {
            heard: HashMap::new(),
            sent: now,
            announced: None,
        };
        self.namespaces.insert(namespace.clone(), others);
    }

    pub(super) fn close(&mut self, namespace: &NamespaceName) {
        self.namespaces.remove(namespace);
    }

    pub(super) fn is_open(&self, namespace: &str) -> bool {
        self.namespaces.contains_key(namespace)
    }

    /// Returns the namespaces that are open.
    pub(super) fn open_namespaces(&self) -> impl Iterator<Item = &NamespaceName> {
        self.namespaces.keys()
    }

    /// Forgets the other servers, because their messages were not received for a while. Each namespace
    /// has to be announced again.
    pub(super) fn reset(&mut self, now: Instant) {
        for others in self.namespaces.values_mut() {
            others.heard.clear();
            others.sent = now;
            others.announced = None;
        }
        self.last_tick = now;
    }

    /// Records that the first heartbeat in a namespace has left.
    pub(super) fn announced(&mut self, namespace: &str, now: Instant) {
        if let Some(others) = self.namespaces.get_mut(namespace) {
            others.announced = Some(now);
        }
    }

    /// Records that a message of this server leaves.
    pub(super) fn sent(&mut self, namespace: &str, now: Instant) {
        if let Some(others) = self.namespaces.get_mut(namespace) {
            others.sent = now;
        }
    }

    /// Records a message of another server.
    pub(super) fn heard(&mut self, namespace: &str, server: &str, now: Instant) {
        let Some(others) = self.namespaces.get_mut(namespace) else {
            return;
        };
        match others.heard.get_mut(server) {
            Some(heard) => *heard = now,
            None => {
                others.heard.insert(server.into(), now);
            }
        }
    }

    /// Records that another server has left.
    pub(super) fn left(&mut self, namespace: &str, server: &str) {
        if let Some(others) = self.namespaces.get_mut(namespace) {
            others.heard.remove(server);
        }
    }

    /// Returns when the servers of a namespace can be counted. Returns `None` until its first heartbeat
    /// has left.
    pub(super) fn settles(&self, namespace: &str) -> Option<Instant> {
        Some(self.namespaces.get(namespace)?.announced? + SETTLING)
    }

    /// Counts the servers of a namespace, with this one, or only the one with an id.
    pub(super) fn count(&self, namespace: &str, server: Option<&str>) -> usize {
        let Some(others) = self.namespaces.get(namespace) else {
            return 0;
        };
        match server {
            Some(server) => others.heard.contains_key(server).into(),
            None => 1 + others.heard.len(),
        }
    }

    /// Returns when [`tick`](Self::tick) is due.
    pub(super) fn next_tick(&self) -> Instant {
        self.last_tick + self.tick_interval()
    }

    fn tick_interval(&self) -> Duration {
        TICK.min(self.heartbeat.interval / 2)
    }

    /// Forgets the servers that are dead. Returns the namespaces in which a heartbeat of this server is
    /// due.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<NamespaceName> {
        let interval = self.tick_interval();
        // If this server did not run for a while, what the others have sent meanwhile was not read yet.
        let late = now.saturating_duration_since(self.last_tick + 2 * interval);
        self.last_tick = now;
        let Heartbeat {
            interval: every,
            timeout,
        } = self.heartbeat;
        let mut due = Vec::new();
        for (namespace, others) in &mut self.namespaces {
            others.heard.retain(|_, heard| {
                *heard += late;
                now.saturating_duration_since(*heard) <= timeout
            });
            if now.saturating_duration_since(others.sent) + interval / 2 >= every {
                others.sent = now;
                due.push(namespace.clone());
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A server with the namespace `/`, and a clock.
    struct Clock {
        servers: Servers,
        now: Instant,
    }

    impl Clock {
        fn new() -> Self {
            let now = Instant::now();
            let heartbeat = Heartbeat {
                interval: 5 * SECOND,
                timeout: 10 * SECOND,
            };
            let mut servers = Servers::new(heartbeat, now);
            servers.open(&NamespaceName::MAIN, now);
            servers.announced("/", now);
            Self { servers, now }
        }

        /// Returns after how many seconds something happens, with a tick in each.
        fn seconds_until(&mut self, mut happens: impl FnMut(&Servers, bool) -> bool) -> usize {
            for second in 1..100 {
                self.now += SECOND;
                let is_due = !self.servers.tick(self.now).is_empty();
                if happens(&self.servers, is_due) {
                    return second;
                }
            }
            panic!("it does not happen");
        }
    }

    #[test]
    fn a_silent_server_is_dead_after_eleven_seconds() {
        let mut clock = Clock::new();
        clock.servers.heard("/", "a", clock.now);
        assert_eq!(clock.servers.count("/", None), 2);
        assert_eq!(clock.servers.count("/", Some("a")), 1);
        assert_eq!(clock.servers.count("/", Some("b")), 0);
        let dead = clock.seconds_until(|servers, _| servers.count("/", None) == 1);
        assert_eq!(dead, 11);
        assert_eq!(clock.servers.count("/", Some("a")), 0);
    }

    #[test]
    fn a_server_that_leaves_is_not_counted() {
        let mut clock = Clock::new();
        for server in ["a", "b"] {
            clock.servers.heard("/", server, clock.now);
        }
        clock.servers.left("/", "a");
        assert_eq!(clock.servers.count("/", None), 2);
        assert_eq!(clock.servers.count("/", Some("a")), 0);
        assert_eq!(clock.servers.count("/other", None), 0);
    }

    #[test]
    fn a_heartbeat_is_due_five_seconds_after_the_last_message() {
        let mut clock = Clock::new();
        assert_eq!(clock.seconds_until(|_, is_due| is_due), 5);
        assert_eq!(clock.seconds_until(|_, is_due| is_due), 5);
        clock.seconds_until(|_, _| true);
        clock.servers.sent("/", clock.now);
        assert_eq!(clock.seconds_until(|_, is_due| is_due), 5);
    }

    #[test]
    fn a_tick_that_is_late_ends_no_server() {
        let mut clock = Clock::new();
        clock.servers.heard("/", "a", clock.now);
        // The process was stopped.
        clock.now += 60 * SECOND;
        assert_eq!(clock.servers.tick(clock.now), [NamespaceName::MAIN]);
        assert_eq!(clock.servers.count("/", None), 2);
        let dead = clock.seconds_until(|servers, _| servers.count("/", None) == 1);
        assert!((8..=11).contains(&dead), "{dead}");
    }

    #[test]
    fn the_servers_are_counted_when_they_had_time_to_answer() {
        let mut clock = Clock::new();
        assert_eq!(clock.servers.settles("/"), Some(clock.now + SETTLING));
        clock.servers.heard("/", "a", clock.now);
        clock.servers.reset(clock.now);
        assert_eq!(clock.servers.settles("/"), None);
        assert_eq!(clock.servers.count("/", None), 1);
        clock.servers.announced("/", clock.now);
        assert_eq!(clock.servers.settles("/"), Some(clock.now + SETTLING));
        clock.servers.close(&NamespaceName::MAIN);
        assert_eq!(clock.servers.settles("/"), None);
        assert!(!clock.servers.is_open("/"));
    }

    #[test]
    fn ticks_are_more_frequent_than_heartbeats() {
        let now = Instant::now();
        let heartbeat = Heartbeat {
            interval: SECOND / 10,
            timeout: SECOND,
        };
        let servers = Servers::new(heartbeat, now);
        assert!(servers.next_tick() - now < heartbeat.interval);
    }
}
