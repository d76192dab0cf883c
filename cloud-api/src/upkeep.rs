//! What is done now and then, so that the disk does not fill.

use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::metric;
use crate::store::Store;

const ROUND: Duration = Duration::from_secs(3_600);
/// Prometheus asks about this often.
const MEASURE_ROUND: Duration = Duration::from_secs(15);

/// Forgets old telemetry until `stop`.
pub async fn run(store: Store, clock: Clock, keep: Duration, stop: CancellationToken) {
    loop {
        let keep_us = i64::try_from(keep.as_micros()).unwrap_or(i64::MAX);
        match store.forget_telemetry(clock.now_us().saturating_sub(keep_us)).await {
            Ok(0) => {}
            Ok(rows) => info!(rows, "forgot old telemetry"),
            Err(error) => warn!(%error, "cannot forget old telemetry; the next round does"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(ROUND) => {}
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
