//! Path: health, clock, ring, budget → condition → status, page
//!
//! How the station is, in words and numbers for people: the retained status and the page show the
//! same.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use ecosight_models::durable;
use ecosight_shared::SeqRange;
use ecosight_shared::json::StationHealth;

use crate::clock::{Clock, rfc3339};
use crate::health::{Health, SYSFS, power};
use crate::reel::Reel;

/// File that remembers when the station was last verified.
pub const VERIFIED_FILE: &str = "verified.txt";

/// Tells how the station is.
#[derive(Debug)]
pub struct Teller {
    health: Arc<Health>,
    clock: Clock,
    reel: Option<Arc<Reel>>,
    speech_redaction: &'static str,
    verified: Mutex<Verified>,
    verified_path: PathBuf,
    sysfs: PathBuf,
}

#[derive(Debug, Default)]
struct Verified {
    /// The canary whose receipt is awaited.
    waiting: Option<(u32, u32)>,
    /// The newest receipts: one may overtake the word that its canary is written.
    receipts: VecDeque<SeqRange>,
    last_us: Option<i64>,
}

/// Receipts that are remembered.
const RECEIPTS: usize = 16;

impl Teller {
    /// A teller of the station whose data are in `data_dir`.
    #[must_use]
    pub fn new(
        health: Arc<Health>,
        clock: Clock,
        reel: Option<Arc<Reel>>,
        speech_redaction: &'static str,
        data_dir: &std::path::Path,
    ) -> Self {
        let verified_path = data_dir.join(VERIFIED_FILE);
        let text = std::fs::read_to_string(&verified_path).unwrap_or_default();
        let last_us =
            text.trim().parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_microsecond);
        let verified = Mutex::new(Verified { last_us, ..Verified::default() });
        let sysfs = SYSFS.into();
        Self { health, clock, reel, speech_redaction, verified, verified_path, sysfs }
    }

    /// Reads what the kernel tells of the machine from another place than `/sys`.
    #[must_use]
    pub fn reading(self, sysfs: &std::path::Path) -> Self {
        Self { sysfs: sysfs.to_owned(), ..self }
    }

    /// How the station is now.
    #[must_use]
    pub fn health(&self) -> StationHealth {
        StationHealth {
            source: self.health.source().name().to_owned(),
            source_faults: self.health.faults().iter().map(|f| f.name().to_owned()).collect(),
            last_verified: self.verified().last_us.map(rfc3339),
            time_quality: self.clock.quality().name().to_owned(),
            clock_offset_ms: self.clock.offset_ms(),
            speech_redaction: self.speech_redaction.to_owned(),
            budgets: self.health.budgets(),
            ring: self.reel.as_ref().and_then(|reel| reel.report()),
            clip_bytes_today: self.health.clip_bytes_today(),
            bearer_sent: self.health.borne_so_far(),
            model_slot: self.health.model_slot().to_owned(),
            canary: self.health.canary(),
            losses: self.health.loss_report(),
            power: power(&self.sysfs),
        }
    }

    /// A canary was written as the record (boot, seq).
    pub fn canary_written(&self, key: (u32, u32)) {
        self.verified().waiting = Some(key);
        self.look_for_receipt();
    }

    /// The cloud gave a receipt: if it is for the canary, the whole path is proved.
    pub fn receipted(&self, ranges: &[SeqRange]) {
        {
            let mut verified = self.verified();
            verified.receipts.extend(ranges);
            let excess = verified.receipts.len().saturating_sub(RECEIPTS);
            verified.receipts.drain(..excess);
        }
        self.look_for_receipt();
    }

    fn look_for_receipt(&self) {
        let now_us = self.clock.unix_us();
        {
            let mut verified = self.verified();
            let Some((boot, seq)) = verified.waiting else { return };
            let covers =
                |range: &SeqRange| range.boot == boot && (range.first..=range.last).contains(&seq);
            if !verified.receipts.iter().any(covers) {
                return;
            }
            verified.waiting = None;
            verified.last_us = Some(now_us);
        }
        tracing::info!("verified: a canary came through to the cloud's receipt");
        self.health.tell_news();
        let text = format!("{}\n", rfc3339(now_us));
        if let Err(error) = durable::write_file(&self.verified_path, text.as_bytes()) {
            tracing::warn!(%error, "when the station was last verified is not written down");
        }
    }

    fn verified(&self) -> std::sync::MutexGuard<'_, Verified> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
