//! What is done now and then, so that the disk does not fill.

use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clips::{ClipError, Clips};
use crate::clock::Clock;
use crate::config::KeepRule;
use crate::metric;
use crate::store::{Forget, Store};

const ROUND: Duration = Duration::from_secs(3_600);
/// Prometheus asks about this often.
const MEASURE_ROUND: Duration = Duration::from_secs(15);

/// What upkeep works with.
pub struct Upkeep {
    /// Rows to forget.
    pub store: Store,
    /// Files to remove.
    pub clips: Clips,
    /// What is old.
    pub clock: Clock,
    /// Telemetry is kept for so long.
    pub keep_telemetry: Duration,
    /// Events are, by class.
    pub keep_events: Vec<KeepRule>,
}

/// Forgets what is old, and makes room for what comes, until `stop`.
pub async fn run(upkeep: Upkeep, stop: CancellationToken) {
    loop {
        if let Err(error) = upkeep.round().await {
            warn!(%error, "cannot tidy up; the next round does");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(ROUND) => {}
        }
    }
}

impl Upkeep {
    /// One round.
    ///
    /// # Errors
    /// What the database or the disk says; what was done until then stays done.
    pub async fn round(&self) -> Result<(), ClipError> {
        for table in self.store.prepare_months(self.clock.now_us()).await? {
            info!(table, "made a table for a month's events");
        }
        match self.store.forget_telemetry(self.before(self.keep_telemetry)).await? {
            0 => {}
            rows => info!(rows, "forgot old telemetry"),
        }
        let mut events = 0;
        for rule in &self.keep_events {
            loop {
                let forgotten =
                    self.store.forget_events(self.matching(rule), self.before(rule.keep)).await?;
                if forgotten == 0 {
                    break;
                }
                events += forgotten;
            }
        }
        let recordings = self.remove_forgotten().await?;
        if events + recordings > 0 {
            info!(events, recordings, "forgot old events");
        }
        for table in self.store.drop_empty_months(self.clock.now_us()).await? {
            info!(table, "dropped the table of a month without events");
        }
        Ok(())
    }

    /// First the file, then the row: a crash between the two leaves a row that is gone over again.
    async fn remove_forgotten(&self) -> Result<usize, ClipError> {
        let mut removed = 0;
        loop {
            let clips = self.store.forgotten_clips().await?;
            if clips.is_empty() {
                return Ok(removed);
            }
            for clip in &clips {
                self.clips.remove(clip).await?;
                self.store.drop_clip(clip.id).await?;
            }
            removed += clips.len();
        }
    }

    fn before(&self, keep: Duration) -> i64 {
        let keep_us = i64::try_from(keep.as_micros()).unwrap_or(i64::MAX);
        self.clock.now_us().saturating_sub(keep_us)
    }

    fn matching(&self, rule: &KeepRule) -> Forget {
        match &rule.class {
            Some(class) => Forget::Class(class.clone()),
            None => Forget::AllBut(
                self.keep_events.iter().filter_map(|rule| rule.class.clone()).collect(),
            ),
        }
    }
}

/// Measures what nobody counts as it happens, until `stop`.
pub async fn measure(store: Store, metrics: PrometheusHandle, stop: CancellationToken) {
    loop {
        metrics.run_upkeep();
        match store.device_states().await {
            Ok(states) => {
                for name in ["online", "offline", "unknown"] {
                    let of_state = states.iter().filter(|(state, _)| state == name);
                    metric::stations(name, of_state.map(|(_, count)| *count as usize).sum());
                }
            }
            Err(error) => warn!(%error, "cannot count the stations"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(MEASURE_ROUND) => {}
        }
    }
}
