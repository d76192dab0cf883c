//! Path: samples, clock → **triggers** → jobs
//!
//! What starts a training beside a person: enough new samples, and the operator's schedule. Every
//! worker looks; the job's key and the schedule's mark let one of them start it. Samples that have to
//! follow a verdict are brought up on the way.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use croner::Cron;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{DEFAULT_SEED, RETRAIN, RetrainRequest, new_job};
use crate::chance::Chance;
use crate::clips::Clips;
use crate::clock::Clock;
use crate::config::LearningConfig;
use crate::samples::{SampleError, Samples};
use crate::store::{Store, StoreError};

/// How often a worker looks.
const LOOK: Duration = Duration::from_secs(10);
/// The mark up to which the schedule was followed, µs.
const MARK: &str = "learning.schedule_us";
/// Samples brought up at one look.
const FOLLOW: i64 = 100;

/// When trainings are due, in UTC.
#[derive(Clone, Debug)]
pub struct Schedule(Cron);

impl Schedule {
    /// Reads a cron expression of five or six fields.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        Cron::from_str(text).map(Self).map_err(|error| {
            format!("{text:?} is no cron expression such as \"0 3 * * 0\": {error}")
        })
    }

    /// The last time at or before `now_us` that it names, µs.
    #[must_use]
    pub fn last_due_us(&self, now_us: i64) -> Option<i64> {
        let now: DateTime<Utc> = DateTime::from_timestamp_micros(now_us)?;
        Some(self.0.find_previous_occurrence(&now, true).ok()?.timestamp_micros())
    }
}

/// What the triggers work with.
pub struct Triggers {
    /// Samples and jobs.
    pub store: Store,
    /// Sounds to learn from.
    pub samples: Samples,
    /// Recordings that become such.
    pub clips: Clips,
    /// When.
    pub learning: LearningConfig,
    /// The time.
    pub clock: Clock,
    /// Ids.
    pub chance: Chance,
    /// Wakes the worker.
    pub news: Arc<Notify>,
}

/// Looks until `stop`.
pub async fn run(triggers: Triggers, stop: CancellationToken) {
    let schedule = match triggers.learning.schedule.as_str() {
        "" => None,
        text => Schedule::parse(text).ok(),
    };
    // What was due while no server ran is not made up for.
    if let Err(error) = triggers.store.raise_mark(MARK, triggers.clock.now_us()).await {
        warn!(%error, "the schedule of trainings may be followed late");
    }
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(LOOK) => {}
        }
        if let Err(error) = triggers.follow_verdicts().await {
            warn!(%error, "samples do not follow their verdicts yet");
        }
        match triggers.look(schedule.as_ref()).await {
            Ok(Some(request)) => {
                info!(reason = request.trigger_reason, "a training begins");
                triggers.news.notify_one();
            }
            Ok(None) => {}
            Err(error) => warn!(%error, "cannot see whether a training is due"),
        }
    }
}

impl Triggers {
    /// Queues the training that is due now, if one is and none is under way. What the schedule asks for
    /// is asked for once, whoever is killed: that it was, and the job, are one transaction.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn look(
        &self,
        schedule: Option<&Schedule>,
    ) -> Result<Option<RetrainRequest>, StoreError> {
        let request = |trigger: &str, trigger_reason: String| RetrainRequest {
            trigger_reason,
            min_new_samples: 0,
            trigger: trigger.into(),
            seed: DEFAULT_SEED,
        };
        if let Some(due_us) = schedule.and_then(|s| s.last_due_us(self.clock.now_us())) {
            let request = request("schedule", "it was due by the schedule".into());
            let job = new_job(&self.clock, &self.chance, &request);
            match self.store.enqueue_at_mark(MARK, due_us, job).await? {
                Some(Some(_)) => return Ok(Some(request)),
                Some(None) => info!("a training was due by the schedule while one is under way"),
                None => {}
            }
        }
        let threshold = i64::from(self.learning.min_new_samples);
        if threshold == 0 {
            return Ok(None);
        }
        // Counted from the last attempt, whatever came of it: the same samples would fail again.
        let last = self.store.jobs(Some(RETRAIN), None, 1).await?;
        let since_us = last.first().map_or(0, |job| job.created_us);
        let new = self.store.samples_since(since_us).await?;
        let due = new >= threshold && last.first().is_none_or(|job| job.finished_us.is_some());
        if !due {
            return Ok(None);
        }
        let request = request("threshold", format!("{new} samples are new"));
        let job = new_job(&self.clock, &self.chance, &request);
        Ok(self.store.enqueue(job).await?.map(|_| request))
    }

    /// Brings up the samples whose verdict changed while nobody could.
    ///
    /// # Errors
    /// [`SampleError`]; what was not done is done at the next look.
    pub async fn follow_verdicts(&self) -> Result<(), SampleError> {
        for event in self.store.samples_due(FOLLOW).await? {
            if let Err(error) = self.samples.follow_verdict(&self.clips, event).await {
                warn!(%event, %error, "a sample does not follow its verdict");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Schedule;
    use crate::clock::parse_rfc3339;

    #[test]
    fn a_schedule_names_its_last_time() {
        let schedule = Schedule::parse("0 3 * * 0").unwrap();
        let last = |now: &str| schedule.last_due_us(parse_rfc3339(now).unwrap());
        assert_eq!(last("2026-03-01T03:00:00Z"), parse_rfc3339("2026-03-01T03:00:00Z"));
        assert_eq!(last("2026-03-01T02:59:59Z"), parse_rfc3339("2026-02-22T03:00:00Z"));
        assert_eq!(last("2026-03-04T12:00:00Z"), parse_rfc3339("2026-03-01T03:00:00Z"));
        assert!(Schedule::parse("every sunday").unwrap_err().contains("0 3 * * 0"));
    }
}
