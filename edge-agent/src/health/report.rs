//! Path: health → report → outbox
//!
//! Telemetry once a minute, as a record like any other.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ecosight_shared::Telemetry;
use tokio_util::sync::CancellationToken;

use super::{Health, Loss, Minute, SYSFS, cpu_temperature_dc, free_bytes};
use crate::clock::Clock;
use crate::outbox::{Draft, Level, Outbox, OutboxError, Stamped};
use crate::recorder::Identity;

/// Writes telemetry into the outbox.
#[derive(Debug)]
pub struct Reporter {
    /// What it reports.
    pub health: Arc<Health>,
    /// Where it goes.
    pub outbox: Outbox,
    /// Its times.
    pub clock: Clock,
    /// Whose model it names.
    pub identity: Arc<Identity>,
    /// The disk to watch.
    pub data_dir: PathBuf,
}

impl Reporter {
    /// Reports every `interval` until stopped.
    ///
    /// # Errors
    /// The outbox has stopped. A disk that refuses costs this one report.
    pub async fn run(self, interval: Duration, stop: CancellationToken) -> Result<(), OutboxError> {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first tick comes at once: a station that starts is seen at once.
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = ticks.tick() => match self.report().await {
                    Err(OutboxError::Stopped) => return Err(OutboxError::Stopped),
                    Err(error) => {
                        self.health.count(Loss::Telemetry, 1);
                        tracing::warn!(%error, "telemetry not written");
                    }
                    Ok(()) => {}
                }
            }
        }
    }

    async fn report(&self) -> Result<(), OutboxError> {
        let level = self.outbox.level().await?;
        self.health.set_records_given_up(level.dropped);
        let minute = self.health.take_minute();
        let telemetry = self.telemetry(level, minute);
        let record = Stamped {
            draft: Draft::Telemetry(telemetry),
            unix_us: self.clock.unix_us(),
            time_quality: self.clock.quality(),
        };
        self.outbox.append(vec![record], None).await?;
        Ok(())
    }

    fn telemetry(&self, level: Level, mut minute: Minute) -> Telemetry {
        let (dropped_samples, gaps) = self.health.losses();
        let pulse = self.health.pulse();
        let age_us = level.oldest_us.map_or(0, |oldest| self.clock.unix_us() - oldest);
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let free_mib = free_bytes(&self.data_dir).unwrap_or(0) >> 20;
        Telemetry {
            agent: version(),
            model: self.identity.model.get().tag,
            uptime_s: small(self.health.uptime().as_secs()),
            windows: pulse.windows,
            inference_p50_us: minute.inference.quantile_us(0.5),
            inference_p99_us: minute.inference.quantile_us(0.99),
            dropped_samples,
            gaps,
            outbox_records: small(level.records),
            outbox_oldest_s: u32::try_from(age_us / 1_000_000).unwrap_or(0),
            outbox_dropped: small(level.dropped.iter().sum()),
            clips_pending: small(level.clips),
            disk_free_mib: small(free_mib),
            cpu_temperature_dc: cpu_temperature_dc(Path::new(SYSFS)),
            noise_floor_dbfs: median(&mut minute.noise_floors_dbfs),
            source: pulse.source,
        }
    }
}

/// Median, or −120 dBFS, the level of nothing, where there is nothing.
fn median(values: &mut [f32]) -> f32 {
    let middle = values.len() / 2;
    if values.is_empty() {
        return -120.0;
    }
    *values.select_nth_unstable_by(middle, f32::total_cmp).1
}

/// Version of this agent: major, minor, patch.
fn version() -> [u8; 3] {
    let part = |text: &str| text.parse().unwrap_or(0);
    [
        part(env!("CARGO_PKG_VERSION_MAJOR")),
        part(env!("CARGO_PKG_VERSION_MINOR")),
        part(env!("CARGO_PKG_VERSION_PATCH")),
    ]
}
