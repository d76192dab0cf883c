//! What was lost since the start, each counted where it happened.

use std::sync::atomic::{AtomicU64, Ordering};

use ecosight_shared::json::LossReport;

/// What can be lost, beside samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Loss {
    /// An overrun that the sound driver told of.
    Overrun,
    /// A window that the model failed on.
    Window,
    /// A clip that was not written, or removed before it was uploaded.
    Clip,
    /// A clip whose FLAC differed from its sound, and which is a WAV.
    Flac,
    /// Half a minute that is not in the ring.
    RingPiece,
    /// Telemetry that the disk refused.
    Telemetry,
    /// A record that fits no envelope, or that the disk refused for too long, or a clip's encoder that died.
    Record,
}

const KINDS: usize = Loss::Record as usize + 1;

/// The counters.
#[derive(Debug, Default)]
pub(super) struct Losses {
    counts: [AtomicU64; KINDS],
    /// Records that the outbox gave up, by priority: as of the last report.
    records: [AtomicU64; 3],
}

impl Losses {
    pub(super) fn add(&self, what: Loss, times: u64) {
        self.counts[what as usize].fetch_add(times, Ordering::Relaxed);
    }

    pub(super) fn of(&self, what: Loss) -> u64 {
        self.counts[what as usize].load(Ordering::Relaxed)
    }

    pub(super) fn set_records(&self, dropped: [u64; 3]) {
        for (known, count) in self.records.iter().zip(dropped) {
            known.store(count, Ordering::Relaxed);
        }
    }

    pub(super) fn report(&self, dropped_samples: u64, gaps: u32) -> LossReport {
        let [alerts, detections, telemetry] =
            self.records.each_ref().map(|count| count.load(Ordering::Relaxed));
        LossReport {
            dropped_samples,
            gaps,
            overruns: self.of(Loss::Overrun),
            failed_windows: self.of(Loss::Window),
            clips_given_up: self.of(Loss::Clip),
            flac_failures: self.of(Loss::Flac),
            ring_pieces: self.of(Loss::RingPiece),
            telemetry_refused: self.of(Loss::Telemetry),
            records_lost: self.of(Loss::Record),
            alerts_given_up: alerts,
            detections_given_up: detections,
            telemetry_given_up: telemetry,
        }
    }
}
