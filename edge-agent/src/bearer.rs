//! Path: outbox → bearer → an executable (SMS modem, satellite terminal)
//!
//! Alerts that the internet does not take. An alert frame has at most 51 bytes; a bearer with a few
//! bytes to spare brings it to the cloud, which takes it like any other: the same record, once.
//!
//! An alert is borne when it has waited for the cloud's receipt for a while. It stays in the outbox
//! until a receipt covers it, and goes the usual way as well when the link is back. What was borne
//! is written down, so that a restart does not pay for it again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use ecosight_models::durable;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::{self, Encoding};
use crate::health::Health;
use crate::outbox::{Outbox, OutboxError, Priority, Row};
use crate::uplink::Backoff;

/// Name of the ledger in the data directory.
pub const LEDGER: &str = "bearer.json";
/// How often the outbox is looked at.
const POLL: Duration = Duration::from_secs(2);
/// Longest pause after a failure.
const RETRY_MAX: Duration = Duration::from_secs(600);
/// Alerts that are looked at: what waits longer is borne when these are done.
const LOOK: usize = 256;
const DAY_US: i64 = 86_400_000_000;

/// Bears alerts.
pub struct Bearer {
    /// Its settings.
    pub config: config::Bearer,
    /// What waits.
    pub outbox: Outbox,
    /// Its days.
    pub clock: Clock,
    /// Where it counts.
    pub health: Arc<Health>,
    /// Where the ledger lies.
    pub data_dir: PathBuf,
}

/// What was borne and is still in the outbox, and how much today.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Ledger {
    borne: BTreeSet<(u32, u32)>,
    day: i64,
    today: u32,
}

impl Bearer {
    /// Bears until told to end.
    ///
    /// # Errors
    /// The outbox has stopped.
    pub async fn run(self, drain: CancellationToken) -> Result<(), OutboxError> {
        let Some(command) = self.config.command.clone() else { return Ok(()) };
        let path = self.data_dir.join(LEDGER);
        let mut ledger: Ledger = std::fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        // When each alert was seen first, by this process's clock.
        let mut seen: BTreeMap<(u32, u32), Instant> = BTreeMap::new();
        let mut backoff = Backoff::new(0, RETRY_MAX);
        let mut not_before = Instant::now();
        loop {
            tokio::select! {
                () = drain.cancelled() => return Ok(()),
                () = tokio::time::sleep(POLL.min(self.config.after)) => {}
            }
            let rows = self.outbox.next(Priority::Alert, 0, LOOK).await?;
            let now = Instant::now();
            let keys: BTreeSet<(u32, u32)> = rows.iter().map(|row| (row.boot, row.seq)).collect();
            seen.retain(|key, _| keys.contains(key));
            keys.iter().for_each(|key| {
                seen.entry(*key).or_insert(now);
            });
            // Only what a full look shows to be gone is gone.
            if rows.len() < LOOK {
                ledger.borne.retain(|key| keys.contains(key));
            }
            if now < not_before {
                continue;
            }
            let due = |row: &&Row| {
                let key = (row.boot, row.seq);
                let waited = seen.get(&key).map_or(Duration::ZERO, |since| now - *since);
                waited >= self.config.after && !ledger.borne.contains(&key)
            };
            let Some(row) = rows.iter().find(due) else { continue };
            let today = self.clock.unix_us().div_euclid(DAY_US);
            if today != ledger.day {
                (ledger.day, ledger.today) = (today, 0);
            }
            if ledger.today >= self.config.per_day {
                continue;
            }
            match self.bear(&command, row).await {
                Ok(()) => {
                    tracing::info!(boot = row.boot, seq = row.seq, "alert sent by the bearer");
                    backoff.reset();
                    ledger.borne.insert((row.boot, row.seq));
                    ledger.today += 1;
                    self.health.borne();
                    self.write(&path, &ledger);
                }
                Err(problem) => {
                    let pause = backoff.pause();
                    not_before = Instant::now() + pause;
                    let retry_in_s = pause.as_secs();
                    tracing::warn!(problem, retry_in_s, "the bearer did not take an alert");
                }
            }
        }
    }

    /// Runs the executable with the frame as its last argument; exit code 0 means sent.
    async fn bear(&self, command: &Path, row: &Row) -> Result<(), String> {
        let frame = match self.config.encoding {
            Encoding::Base64 => base64(&row.envelope),
            Encoding::Hex => row.envelope.iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        let child = tokio::process::Command::new(command)
            .arg(&frame)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{}: {error}", command.display()))?;
        match tokio::time::timeout(self.config.timeout, child.wait_with_output()).await {
            Ok(Ok(output)) if output.status.success() => Ok(()),
            Ok(Ok(output)) => {
                let said = String::from_utf8_lossy(&output.stderr);
                let said: String = said.trim().chars().take(200).collect();
                Err(format!("{}: {} {said}", command.display(), output.status))
            }
            Ok(Err(error)) => Err(format!("{}: {error}", command.display())),
            Err(_) => Err(format!(
                "{}: not done in {} s",
                command.display(),
                self.config.timeout.as_secs()
            )),
        }
    }

    fn write(&self, path: &Path, ledger: &Ledger) {
        let written = serde_json::to_vec(ledger)
            .map_err(std::io::Error::from)
            .and_then(|bytes| durable::write_file(path, &bytes));
        if let Err(error) = written {
            tracing::warn!(%error, "what was borne is not written down; a restart may repeat it");
        }
    }
}

/// Base64 of the standard alphabet with padding (RFC 4648, section 4).
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - group.len()));
        for at in 0..4 {
            if at <= group.len() {
                let sextet = bits >> (18 - 6 * at) & 0x3f;
                text.push(char::from(ALPHABET[sextet as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}
