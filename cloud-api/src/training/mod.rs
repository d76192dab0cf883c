//! Path: samples, jobs → **training** → candidate bundles
//!
//! The worker of long jobs. One at a time: claim, work, renew the lease while it lasts, report. The
//! trainer runs as a process of its own ([`process`]), at low priority and within limits: whatever it
//! does, the server goes on, and when the lease is lost it is killed.

mod data;
mod process;
mod report;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ecosight_models::Bundle;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::chance::Chance;
use crate::clock::Clock;
use crate::metric;
use crate::samples::Samples;
use crate::store::{Attempt, JobRow, Outcome, Store, StoreError, hex};

pub use process::{TrainerArguments, run_trainer};
pub use report::Report;

/// The kind of a training job.
pub const RETRAIN: &str = "retrain";
/// A worker that has not renewed its lease for this long is taken for dead.
const LEASE: Duration = Duration::from_secs(60);
const RENEW: Duration = Duration::from_secs(15);
/// Jobs may lie in the table that nobody told us of: from another process, or from before a restart.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Wait before another attempt, times the attempts so far.
const RETRY_S: i64 = 30;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetrainRequest {
    /// Why, as the caller puts it.
    pub trigger_reason: String,
    /// New samples that make it worth while.
    pub min_new_samples: u32,
}

/// What the worker works with.
pub struct Worker {
    /// Jobs.
    pub store: Store,
    /// What is learned from.
    pub samples: Samples,
    /// The model that a candidate is made like; without one there is no training.
    pub bundle: Option<Bundle>,
    /// The imported YAMNet.
    pub yamnet: Option<PathBuf>,
    /// Where manifests and candidates are written.
    pub dir: PathBuf,
    /// The time.
    pub clock: Clock,
    /// Names the worker.
    pub chance: Chance,
    /// Told when a job is queued.
    pub news: Arc<Notify>,
}

/// Why an attempt gave no candidate.
#[derive(Debug, thiserror::Error)]
enum JobError {
    /// Another attempt would end the same: the job has failed, and says why.
    #[error("{0}")]
    Final(String),
    /// It may go better another time.
    #[error("{0}")]
    Passing(String),
    /// The lease was lost: another worker has the job.
    #[error("the lease was lost")]
    Lost,
    /// The server ends; the lease runs out, or the next start takes the job.
    #[error("the server ends")]
    Stopped,
}

impl From<StoreError> for JobError {
    fn from(error: StoreError) -> Self {
        Self::Passing(error.to_string())
    }
}

/// Works until `stop`.
pub async fn run(worker: Worker, stop: CancellationToken) {
    let owner = hex(&worker.chance.bytes::<8>());
    loop {
        let now_us = worker.clock.now_us();
        let wait = match worker.store.claim_job(&owner, now_us, now_us + us(LEASE)).await {
            Ok(Some((job, attempt))) => {
                if worker.attend(job, attempt, &stop).await {
                    return;
                }
                continue;
            }
            Ok(None) => LOOK_AGAIN,
            Err(error) => {
                warn!(%error, "cannot look for jobs");
                LOOK_AGAIN
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = worker.news.notified() => {}
            () = sleep(wait) => {}
        }
    }
}

impl Worker {
    /// Does a job and notes how it ended; true if the server ends.
    async fn attend(&self, job: JobRow, attempt: Attempt, stop: &CancellationToken) -> bool {
        info!(job = %job.id, kind = job.kind, attempt = attempt.number, "job begun");
        let (progress_in, progress) = tokio::sync::watch::channel(String::from("begun"));
        let ended = tokio::select! {
            ended = self.work(&job, &attempt, &progress_in) => ended,
            lost = self.keep_lease(&attempt, progress) => lost,
            () = stop.cancelled() => Err(JobError::Stopped),
        };
        let now_us = self.clock.now_us();
        let outcome = match ended {
            Ok(report) => Outcome::Succeeded(report),
            Err(JobError::Final(reason)) => Outcome::Failed(reason),
            Err(JobError::Passing(reason)) => {
                Outcome::Retry(reason, now_us + attempt.number * RETRY_S * 1_000_000)
            }
            Err(JobError::Lost) => {
                warn!(job = %job.id, "another worker has taken the job");
                return false;
            }
            // An ended attempt that did nothing wrong: the job may begin again at once.
            Err(JobError::Stopped) => Outcome::Retry("the server was stopped".into(), now_us),
        };
        let word = match &outcome {
            Outcome::Succeeded(_) => "succeeded",
            Outcome::Failed(reason) => {
                warn!(job = %job.id, reason, "job failed");
                "failed"
            }
            Outcome::Retry(reason, _) => {
                warn!(job = %job.id, reason, "job put off");
                "retried"
            }
        };
        metric::job(RETRAIN, word);
        info!(job = %job.id, outcome = word, "job ended");
        match self.store.end_attempt(&attempt, outcome, now_us).await {
            Ok(true) => {}
            Ok(false) => warn!(job = %job.id, "the attempt was over already"),
            Err(error) => error!(job = %job.id, %error, "a job's end is not noted; it runs again"),
        }
        stop.is_cancelled()
    }

    async fn work(
        &self,
        job: &JobRow,
        attempt: &Attempt,
        progress: &tokio::sync::watch::Sender<String>,
    ) -> Result<String, JobError> {
        if job.kind != RETRAIN {
            return Err(JobError::Final(format!("no worker knows the kind {:?}", job.kind)));
        }
        let request: RetrainRequest = serde_json::from_str(&job.payload)
            .map_err(|error| JobError::Final(format!("the job's payload: {error}")))?;
        let bundle = self.bundle.as_ref().ok_or_else(|| {
            JobError::Passing("the server has no model to make a candidate like".into())
        })?;
        if bundle.manifest.backbone.is_none() {
            return Err(JobError::Final(
                "the live model hears with a network of its own, and a head is trained on YAMNet: \
                 import it (ecosight-models import-yamnet), then start the server again"
                    .into(),
            ));
        }
        let dir = self.dir.join(job.id.to_string()).join(format!("attempt-{}", attempt.number));
        let material = data::gather(&self.store, &self.samples, bundle, &dir).await?;
        progress.send_replace(format!("training on {} samples", material.samples));
        let candidate = dir.join("bundle");
        let version = format!("0.0.{}", job.created_us / 1_000_000);
        let trainer = TrainerArguments {
            manifest: &material.manifest,
            labels: &material.labels,
            audio: &material.audio,
            streams: &material.streams,
            folds: material.folds,
            name: &bundle.name,
            version: &version,
            yamnet: self.yamnet.as_deref(),
            cache: &self.dir.join("features"),
            out: &candidate,
        };
        process::train(&trainer, progress).await?;
        let report = report::of(&candidate, &request, &material)?;
        serde_json::to_string(&report).map_err(|error| JobError::Final(error.to_string()))
    }

    /// Renews the lease until it is lost.
    async fn keep_lease(
        &self,
        attempt: &Attempt,
        progress: tokio::sync::watch::Receiver<String>,
    ) -> Result<String, JobError> {
        let mut good_until = Instant::now() + LEASE;
        loop {
            sleep(RENEW).await;
            let word = progress.borrow().clone();
            let until_us = self.clock.now_us() + us(LEASE);
            match self.store.renew_lease(attempt, until_us, Some(word)).await {
                Ok(true) => good_until = Instant::now() + LEASE,
                Ok(false) => return Err(JobError::Lost),
                Err(error) => {
                    warn!(%error, "cannot renew a job's lease");
                    if Instant::now() + RENEW > good_until {
                        sleep_until(good_until).await;
                        return Err(JobError::Lost);
                    }
                }
            }
        }
    }
}

fn us(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// Where a candidate of a job lies below the data directory.
#[must_use]
pub fn training_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("training")
}
