//! The numbers that the page shows as charts: `aggregatedEvents`.

use std::collections::BTreeMap;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::hub::observer::Traffic;
use crate::sync::Mutex;

/// Counts connections, packets and bytes.
///
/// The packets of a second are counted without a lock. [`roll`](Self::roll), which is called once a
/// second, adds them to the others.
#[derive(Debug, Default)]
pub(super) struct Totals {
    packets_in: AtomicU64,
    packets_out: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    seconds: Mutex<BTreeMap<Key, u64>>,
}

/// The second in milliseconds since 1970, the type, and what the type is divided by.
type Key = (u64, &'static str, Option<&'static str>);

/// A number of one second, as the page expects it.
#[derive(Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(super) struct Total {
    timestamp: u64,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub_type: Option<&'static str>,
    count: u64,
}

impl Totals {
    pub(super) fn received(&self, traffic: Traffic) {
        let Traffic { packets, bytes } = traffic;
        self.packets_in.fetch_add(packets as u64, Ordering::Relaxed);
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn sent(&self, traffic: Traffic) {
        let Traffic { packets, bytes } = traffic;
        self.packets_out
            .fetch_add(packets as u64, Ordering::Relaxed);
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn connected(&self, now: u64) {
        self.add(now, "rawConnection", None, 1);
    }

    pub(super) fn disconnected(&self, reason: &'static str, now: u64) {
        self.add(now, "rawDisconnection", Some(reason), 1);
    }

    /// Adds the packets since the last call. `now` is in milliseconds since 1970.
    pub(super) fn roll(&self, now: u64) {
        for (name, counter) in [
            ("packetsIn", &self.packets_in),
            ("packetsOut", &self.packets_out),
            ("bytesIn", &self.bytes_in),
            ("bytesOut", &self.bytes_out),
        ] {
            let count = counter.swap(0, Ordering::Relaxed);
            if count > 0 {
                self.add(now, name, None, count);
            }
        }
    }

    /// Takes the numbers. The caller has called [`roll`](Self::roll).
    pub(super) fn take(&self) -> Vec<Total> {
        let seconds = mem::take(&mut *self.seconds.lock());
        let total = |((timestamp, r#type, sub_type), count)| Total {
            timestamp,
            r#type,
            sub_type,
            count,
        };
        seconds.into_iter().map(total).collect()
    }

    fn add(&self, now: u64, r#type: &'static str, sub_type: Option<&'static str>, count: u64) {
        let second = now - now % 1000;
        let mut seconds = self.seconds.lock();
        *seconds.entry((second, r#type, sub_type)).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_added_up_for_each_second_and_taken_once() {
        let totals = Totals::default();
        totals.connected(1_999);
        totals.connected(2_000);
        totals.connected(2_999);
        totals.disconnected("transport close", 2_500);
        let traffic = |bytes| Traffic { packets: 1, bytes };
        totals.received(traffic(7));
        totals.received(traffic(5));
        totals.sent(traffic(1));
        totals.roll(3_400);
        let json = serde_json::to_value(totals.take()).expect("serializable");
        assert_eq!(
            json,
            serde_json::json!([
                { "timestamp": 1000, "type": "rawConnection", "count": 1 },
                { "timestamp": 2000, "type": "rawConnection", "count": 2 },
                { "timestamp": 2000, "type": "rawDisconnection", "subType": "transport close", "count": 1 },
                { "timestamp": 3000, "type": "bytesIn", "count": 12 },
                { "timestamp": 3000, "type": "bytesOut", "count": 1 },
                { "timestamp": 3000, "type": "packetsIn", "count": 2 },
                { "timestamp": 3000, "type": "packetsOut", "count": 1 },
            ])
        );
        totals.roll(4_000);
        assert_eq!(totals.take(), []);
    }
}
