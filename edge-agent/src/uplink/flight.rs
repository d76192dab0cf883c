//! Which records are on their way, and which go next: the rules, without network or clock.
//!
//! A record is sent, acknowledged by the broker, and at last receipted by the cloud. The broker's
//! acknowledgement only makes room in the window; without a receipt the record is sent again,
//! first after `resend_after`, then after twice that, and so on to five minutes, until a receipt
//! for any record shows that the cloud listens again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ecosight_shared::SeqRange;

use crate::outbox::{Priority, Row};

/// Records that the broker has not acknowledged yet.
const UNACKNOWLEDGED_MAX: usize = 32;
/// Records that the broker has and the cloud has not receipted: fewer than a broker's default
/// queue for a reader that is away holds (Mosquitto: 1000), beyond which it drops in silence.
/// Alerts may exceed it.
const UNRECEIPTED_MAX: usize = 512;
/// Connections that may die while one record alone is on its way.
const STRIKES: u32 = 3;
/// Longest pause before a record without receipt is sent again.
const RESEND_MAX: Duration = Duration::from_secs(300);

/// Boot and number of a record.
pub type Key = (u32, u32);

/// Records on their way over one process's life.
#[derive(Debug)]
pub struct Flight {
    /// Last row read from the outbox, by priority.
    cursors: [i64; 3],
    sent: BTreeMap<Key, Sent>,
    unacknowledged: usize,
    /// Records that break connections: not sent again by this process.
    aside: BTreeMap<Key, i64>,
    strikes: BTreeMap<Key, u32>,
    /// Records that were on their way when a connection died. While there are any, records go
    /// one at a time, so that the one that does it is found.
    suspects: BTreeSet<Key>,
    resend_after: Duration,
    resend_now: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    row: i64,
    priority: Priority,
    /// When the broker acknowledged it, on the caller's clock.
    acknowledged: Option<Duration>,
}

/// Which rows to read from the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Their priority.
    pub priority: Priority,
    /// Only behind this one.
    pub after: i64,
    /// At most so many.
    pub limit: usize,
}

impl Flight {
    /// Nothing on its way; the first repetition after `resend_after`.
    #[must_use]
    pub fn new(resend_after: Duration) -> Self {
        Self {
            cursors: [0; 3],
            sent: BTreeMap::new(),
            unacknowledged: 0,
            aside: BTreeMap::new(),
            strikes: BTreeMap::new(),
            suspects: BTreeSet::new(),
            resend_after,
            resend_now: resend_after,
        }
    }

    /// A connection was made: nothing that was sent before counts, all is sent again, the most
    /// urgent and oldest first.
    pub fn connected(&mut self) {
        self.cursors = [0; 3];
        self.sent.clear();
        self.unacknowledged = 0;
        self.resend_now = self.resend_after;
    }

    /// The connection died. A record that was alone on its way, three times in a row, is set
    /// aside, so that one that the broker refuses cannot hold up the rest; returns it.
    pub fn lost(&mut self) -> Option<Key> {
        let pending: Vec<(Key, i64)> = self
            .sent
            .iter()
            .filter(|(_, sent)| sent.acknowledged.is_none())
            .map(|(key, sent)| (*key, sent.row))
            .collect();
        self.suspects.extend(pending.iter().map(|(key, _)| *key));
        let [(key, row)] = pending[..] else { return None };
        let strikes = self.strikes.entry(key).or_default();
        *strikes += 1;
        if *strikes < STRIKES {
            return None;
        }
        self.suspects.remove(&key);
        self.aside.insert(key, row);
        Some(key)
    }

    /// Sets a record aside that cannot be sent at all.
    pub fn set_aside(&mut self, row: &Row) {
        self.cursors[row.priority as usize] = self.cursors[row.priority as usize].max(row.id);
        self.aside.insert((row.boot, row.seq), row.id);
    }

    /// Records set aside.
    #[must_use]
    pub fn aside(&self) -> usize {
        self.aside.len()
    }

    /// What to read next of `priority`; nothing while the window is full.
    #[must_use]
    pub fn wanted(&self, priority: Priority) -> Option<Wanted> {
        let window = if self.suspects.is_empty() { UNACKNOWLEDGED_MAX } else { 1 };
        let unreceipted = if priority == Priority::Alert {
            usize::MAX
        } else {
            UNRECEIPTED_MAX.saturating_sub(self.sent.len())
        };
        let limit = window.saturating_sub(self.unacknowledged).min(unreceipted);
        let after = self.cursors[priority as usize];
        (limit > 0).then_some(Wanted { priority, after, limit })
    }

    /// Whether `row` should be sent, and if so notes that it was.
    pub fn send(&mut self, row: &Row) -> bool {
        let key = (row.boot, row.seq);
        let cursor = &mut self.cursors[row.priority as usize];
        *cursor = (*cursor).max(row.id);
        if self.aside.contains_key(&key) {
            return false;
        }
        let sent = Sent { row: row.id, priority: row.priority, acknowledged: None };
        if self.sent.insert(key, sent).is_none_or(|before| before.acknowledged.is_some()) {
            self.unacknowledged += 1;
        }
        true
    }

    /// The broker acknowledged a record, or refused it: then it is tried again like one without
    /// receipt.
    pub fn acknowledged(&mut self, key: Key, now: Duration) {
        self.suspects.remove(&key);
        self.strikes.remove(&key);
        if let Some(sent) = self.sent.get_mut(&key)
            && sent.acknowledged.replace(now).is_none()
        {
            self.unacknowledged -= 1;
        }
    }

    /// The cloud has these records: they are no longer on their way.
    pub fn receipted(&mut self, ranges: &[SeqRange]) {
        for range in ranges.iter().filter(|range| range.first <= range.last) {
            let keys = (range.boot, range.first)..=(range.boot, range.last);
            let done: Vec<Key> = self.sent.range(keys.clone()).map(|(key, _)| *key).collect();
            for key in done {
                if self.sent.remove(&key).is_some_and(|sent| sent.acknowledged.is_none()) {
                    self.unacknowledged -= 1;
                }
            }
            self.aside.retain(|key, _| !keys.contains(key));
            self.suspects.retain(|key| !keys.contains(key));
        }
        self.resend_now = self.resend_after;
    }

    /// Rows whose receipt is overdue, the most urgent and oldest first; each may be sent again
    /// now, and is overdue again only after the next, longer pause.
    pub fn overdue(&mut self, now: Duration) -> Vec<i64> {
        let room = UNACKNOWLEDGED_MAX.saturating_sub(self.unacknowledged);
        let pause = self.resend_now;
        let mut due: Vec<(Priority, i64, Key)> = self
            .sent
            .iter()
            .filter(|(_, sent)| sent.acknowledged.is_some_and(|at| now.saturating_sub(at) >= pause))
            .map(|(key, sent)| (sent.priority, sent.row, *key))
            .collect();
        due.sort_unstable();
        due.truncate(room);
        if !due.is_empty() {
            self.resend_now = (self.resend_now * 2).min(RESEND_MAX.max(self.resend_after));
        }
        due.into_iter().map(|(_, row, _)| row).collect()
    }

    /// A row that was to be sent again is gone from the outbox.
    pub fn forget_row(&mut self, row: i64) {
        let gone = self.sent.iter().find(|(_, sent)| sent.row == row).map(|(key, _)| *key);
        if let Some(key) = gone {
            self.suspects.remove(&key);
            if self.sent.remove(&key).is_some_and(|sent| sent.acknowledged.is_none()) {
                self.unacknowledged -= 1;
            }
        }
    }

    /// Records on their way or without receipt.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sent.len()
    }

    /// Whether nothing is on its way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }
}
