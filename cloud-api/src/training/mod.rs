//! Path: samples, jobs → **training** → gate → registry
//!
//! The worker of long jobs. One at a time: claim, work, renew the lease while it lasts, report. The
//! trainer runs as a process of its own ([`process`]), at low priority and within limits: whatever it
//! does, the server goes on, and when the lease is lost it is killed. A candidate is then compared
//! with what serves ([`gate`]); its version, whether it serves, and the job's end are one transaction
//! that only the attempt whose lease holds can make.

mod cut;
mod data;
pub mod gate;
mod judge;
mod process;
pub mod progress;
mod report;
mod shape;
pub mod sweep;
mod test_set;
pub mod triggers;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ecosight_models::{BundleFiles, durable};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::chance::Chance;
use crate::clips::Clips;
use crate::clock::{Clock, rfc3339};
use crate::config::LearningConfig;
use crate::metric;
use crate::registry::{Lineage, Registry, RegistryError};
use crate::samples::{Samples, group_of};
use crate::serving::Switch;
use crate::store::{
    Attempt, EventFilter, JobRow, NewActivation, NewJob, Outcome, Store, StoreError, VersionRow,
    hex,
};
use cut::Passage;
use gate::{Contender, Decision, Terms, Trial};
use judge::{ModelWords, Plan, Words};
use progress::{Progress, Stage};
use shape::Shape;

pub(crate) use judge::GOLDEN_TOLERANCE;
pub use judge::{Judge, JudgeArguments, JudgeError, run_judge};
pub use process::{TrainerArguments, run_trainer};
pub use report::Report;

/// The kind of a training job.
pub const RETRAIN: &str = "retrain";
/// A lease is renewed this many times while it lasts.
const RENEWALS: u32 = 4;
/// What a job does is written down at most this often.
const TELL: Duration = Duration::from_secs(1);
/// Jobs may lie in the table that nobody told us of: from another process, or from before a restart.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Wait before another attempt, times the attempts so far.
const RETRY_S: i64 = 30;

/// The seed of a training that names none.
pub const DEFAULT_SEED: u64 = 1;
/// Recordings of recent background that candidate and incumbent are compared on, at most.
const RECENT: usize = 500;
const DAY_US: i64 = 24 * 3_600 * 1_000_000;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetrainRequest {
    /// Why, as the caller puts it.
    pub trigger_reason: String,
    /// New samples that make it worth while.
    pub min_new_samples: u32,
    /// What asked: `manual`, `threshold` or `schedule`.
    #[serde(default = "manual")]
    pub trigger: String,
    /// Decides folds, augmentations and fits.
    #[serde(default = "default_seed")]
    pub seed: u64,
}

fn manual() -> String {
    "manual".into()
}

const fn default_seed() -> u64 {
    DEFAULT_SEED
}

/// Queues a training, or gives the one that is queued or under way: there is one at a time. The flag
/// says whether it is new.
///
/// # Errors
/// [`StoreError`] as for every write.
pub async fn ask_for_training(
    store: &Store,
    clock: &Clock,
    chance: &Chance,
    request: &RetrainRequest,
) -> Result<(bool, Option<JobRow>), StoreError> {
    let job = new_job(clock, chance, request);
    match store.enqueue(job).await? {
        Some(job) => Ok((true, Some(job))),
        None => Ok((false, store.unfinished_job(RETRAIN).await?)),
    }
}

/// The job of a training.
fn new_job(clock: &Clock, chance: &Chance, request: &RetrainRequest) -> NewJob {
    NewJob {
        id: chance.id(clock),
        kind: RETRAIN,
        payload: serde_json::to_string(request).unwrap_or_default(),
        unique_key: Some(RETRAIN.into()),
        now_us: clock.now_us(),
    }
}

/// What the worker works with.
pub struct Worker {
    /// Jobs.
    pub store: Store,
    /// What is learned from.
    pub samples: Samples,
    /// Recordings of recent background.
    pub clips: Clips,
    /// Where candidates and the model that they are made like are.
    pub registry: Registry,
    /// Told when another version serves.
    pub switch: Switch,
    /// The imported YAMNet.
    pub yamnet: Option<PathBuf>,
    /// Where manifests and candidates are written.
    pub dir: PathBuf,
    /// How it learns.
    pub learning: LearningConfig,
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

impl From<JudgeError> for JobError {
    fn from(error: JudgeError) -> Self {
        match error {
            JudgeError::Unfit(what) => Self::Final(what),
            JudgeError::Passing(what) => Self::Passing(what),
        }
    }
}

impl From<RegistryError> for JobError {
    fn from(error: RegistryError) -> Self {
        Self::Passing(error.to_string())
    }
}

impl From<StoreError> for JobError {
    fn from(error: StoreError) -> Self {
        Self::Passing(error.to_string())
    }
}

/// Works until `stop`.
pub async fn run(worker: Worker, stop: CancellationToken) {
    let owner = hex(&worker.chance.bytes::<8>());
    worker.tidy().await;
    loop {
        let now_us = worker.clock.now_us();
        let wait = match worker
            .store
            .claim_job(&owner, now_us, now_us + us(worker.learning.lease))
            .await
        {
            Ok(Some((job, attempt))) => {
                if worker.attend(job, attempt, &stop).await {
                    return;
                }
                worker.tidy().await;
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
    async fn tidy(&self) {
        if let Err(error) = sweep::sweep(&self.store, &self.dir).await {
            warn!(%error, "what trainings left on the disk stays for now");
        }
    }

    /// Does a job and notes how it ended; true if the server ends.
    async fn attend(&self, job: JobRow, attempt: Attempt, stop: &CancellationToken) -> bool {
        info!(job = %job.id, kind = job.kind, attempt = attempt.number, "job begun");
        let (progress_in, progress) = watch::channel(Progress::begun());
        let ended = tokio::select! {
            ended = self.work(&job, &attempt, &progress_in) => ended,
            lost = self.keep_lease(&attempt, progress) => lost,
            () = stop.cancelled() => Err(JobError::Stopped),
        };
        let now_us = self.clock.now_us();
        let outcome = match ended {
            // It is noted already, with all that came of it.
            Ok(()) => {
                metric::job(RETRAIN, "succeeded");
                info!(job = %job.id, outcome = "succeeded", "job ended");
                return stop.is_cancelled();
            }
            Err(JobError::Final(reason)) => Outcome::Failed(reason),
            Err(JobError::Passing(reason)) => {
                Outcome::Retry(reason, now_us + attempt.number * RETRY_S * 1_000_000)
            }
            Err(JobError::Lost) => {
                warn!(job = %job.id, "another worker has taken the job");
                return false;
            }
            // An ended attempt that did nothing wrong: the job may begin again at once, and has as many
            // attempts as before.
            Err(JobError::Stopped) => Outcome::Interrupted("the server was stopped".into(), now_us),
        };
        let word = match &outcome {
            Outcome::Succeeded(_) => "succeeded",
            Outcome::Failed(reason) => {
                warn!(job = %job.id, reason, "job failed");
                "failed"
            }
            Outcome::Retry(reason, _) | Outcome::Interrupted(reason, _) => {
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
        progress: &watch::Sender<Progress>,
    ) -> Result<(), JobError> {
        if job.kind != RETRAIN {
            return Err(JobError::Final(format!("no worker knows the kind {:?}", job.kind)));
        }
        let request: RetrainRequest = serde_json::from_str(&job.payload)
            .map_err(|error| JobError::Final(format!("the job's payload: {error}")))?;
        let mut passage = Passage::begin(&self.dir);
        let (parent, incumbent) = self.incumbent().await?;
        let bundle = &incumbent.bundle;
        if bundle.manifest.backbone.is_none() {
            return Err(JobError::Final(
                "the live model hears with a network of its own, and a head is trained on YAMNet: \
                 import it (ecosight-models import-yamnet), then start the server again"
                    .into(),
            ));
        }
        let dir = self.dir.join(job.id.to_string()).join(format!("attempt-{}", attempt.number));
        let (share, now_us) = (self.learning.device_share(), self.clock.now_us());
        let material =
            data::gather(&self.store, &self.samples, bundle, &dir, share, now_us).await?;
        passage.reaches(Stage::Features);
        progress.send_replace(Progress::counted(Stage::Features, 0, material.samples));
        let budget = self.learning.budget();
        let shape = shape::like(&incumbent, &material.streams, material.scarcest, budget)
            .map_err(JobError::Final)?;
        let recipe = dir.join("recipe.json");
        let json = serde_json::to_vec_pretty(&shape.recipe)
            .map_err(|error| JobError::Final(error.to_string()))?;
        durable::write_file(&recipe, &json)
            .map_err(|error| JobError::Passing(format!("{}: {error}", recipe.display())))?;
        let candidate = dir.join("bundle");
        let version = format!("0.0.{}", job.created_us / 1_000_000);
        // The time that it was asked for at, not now: the same job gives the same bytes.
        let created = rfc3339(job.created_us / 1_000_000 * 1_000_000);
        let trainer = TrainerArguments {
            manifest: &material.manifest,
            labels: &material.labels,
            recipe: &recipe,
            alarms_per_hour: shape.alarms_per_hour,
            audio: &material.audio,
            streams: &material.streams,
            folds: material.folds,
            name: &bundle.name,
            version: &version,
            yamnet: self.yamnet.as_deref(),
            cache: &self.dir.join("features"),
            out: &candidate,
            seed: request.seed,
            created: &created,
        };
        process::train(&trainer, progress, &mut passage).await?;
        passage.reaches(Stage::Gate);
        let files = BundleFiles::open(&candidate)
            .map_err(|error| JobError::Passing(format!("the candidate: {error}")))?;
        let pair = [&incumbent, &files];
        let decision =
            self.compare(&parent, pair, &material, &shape, &dir, request.seed, progress).await?;
        passage.ends();
        info!(job = %job.id, passed = decision.passed, "{}", decision.sentence);
        let place = self.registry.write(&files)?;
        passage.written();
        let report = Report {
            bundle: place.display().to_string(),
            gate: Some(decision),
            ..report::of(&files, &request, &material)
        };
        self.conclude(job, attempt, &material, &parent, &files, report).await?;
        passage.concluded();
        Ok(())
    }

    /// What serves, as the registry has it: other processes may have loaded something else.
    async fn incumbent(&self) -> Result<(VersionRow, BundleFiles), JobError> {
        let none = || {
            JobError::Passing("no version of the model serves: there is nothing to be like".into())
        };
        let serving = self.store.serving().await?.ok_or_else(none)?;
        let version = self.store.version(serving.version_id).await?.ok_or_else(none)?;
        let files = BundleFiles::open(&self.registry.path(&version))
            .map_err(|error| JobError::Passing(format!("the model that serves: {error}")))?;
        Ok((version, files))
    }

    /// Plays the test set and recent background to both.
    #[allow(clippy::too_many_arguments, reason = "what a comparison is between and on")]
    async fn compare(
        &self,
        parent: &VersionRow,
        [incumbent, candidate]: [&BundleFiles; 2],
        material: &data::Material,
        shape: &Shape,
        dir: &Path,
        seed: u64,
        progress: &watch::Sender<Progress>,
    ) -> Result<Decision, JobError> {
        let mut trials: Vec<(Trial, PathBuf)> = material
            .test
            .iter()
            .map(|row| {
                let trial = untried(row.id.to_string(), &row.group_key, &row.class, true);
                (trial, self.samples.path(row))
            })
            .collect();
        trials.extend(self.recent(incumbent, material).await?);
        let plan = Plan {
            yamnet: self.yamnet.clone(),
            models: vec![self.registry.path(parent), dir.join("bundle")],
            thresholds: vec![shape.threshold, None],
            sounds: trials.iter().map(|(_, path)| path.clone()).collect(),
        };
        progress.send_replace(Progress::counted(Stage::Gate, 0, trials.len()));
        let judge = Judge { yamnet: self.yamnet.clone() };
        let judged = judge.run(&plan, dir, progress).await?;
        let [before, after] = judged.models.as_slice() else {
            return Err(JobError::Passing("the judge gave no two answers".into()));
        };
        let all = trials.len();
        let tried: Vec<Trial> = trials
            .into_iter()
            .enumerate()
            .filter_map(|(place, (trial, _))| {
                let said = |model: &ModelWords| {
                    let Words { alerts, score } = model.sounds.get(place)?.clone()?;
                    Some((alerts, score))
                };
                let (incumbent, candidate) = (said(before), said(after));
                let judged = incumbent.is_some() || candidate.is_some();
                judged.then_some(Trial { incumbent, candidate, ..trial })
            })
            .collect();
        let terms = Terms {
            unread: all - tried.len(),
            test_sha256: material.test_sha256.clone(),
            seed,
            unattended_recordings: self.learning.unattended_recordings as usize,
            alarms_per_hour: shape.same_budget.then_some(shape.alarms_per_hour),
        };
        Ok(gate::decide(&contender(incumbent), &contender(candidate), &tried, terms))
    }

    /// What the sites sounded like lately where nobody heard a shot: recordings of events that alert
    /// nobody, or that a person rejected. None is of a recording that either model was trained on.
    async fn recent(
        &self,
        incumbent: &BundleFiles,
        material: &data::Material,
    ) -> Result<Vec<(Trial, PathBuf)>, JobError> {
        let days = i64::from(self.learning.recent_days);
        let mut filter = EventFilter {
            since_us: Some(self.clock.now_us() - days * DAY_US),
            ..EventFilter::default()
        };
        let test: BTreeSet<&str> = material.test.iter().map(|row| row.group_key.as_str()).collect();
        let alerting = data::alerting(&incumbent.bundle);
        let mut found = Vec::new();
        while found.len() < RECENT {
            let page = self.store.events(&filter, 500).await?;
            let Some(last) = page.last() else { break };
            filter.after = Some(last.cursor());
            for event in page {
                let rejected = event.verdict.as_deref() == Some("rejected");
                let quiet = match event.verdict.as_deref() {
                    None => {
                        !event.alert && !alerting.iter().any(|c| event.class.as_deref() == Some(*c))
                    }
                    Some("relabelled") => {
                        !alerting.iter().any(|class| event.verdict_class.as_deref() == Some(*class))
                    }
                    Some("confirmed") => !event.alert,
                    _ => rejected,
                };
                let group = group_of(event.device_id, event.listed_us);
                let met = material.learned_groups.contains(&group) || test.contains(group.as_str());
                let stored = event.clip_status.as_deref() == Some("stored");
                let Some(path) = self.clips.path_of(&event).filter(|_| stored && !met) else {
                    continue;
                };
                if quiet && !event.canary && found.len() < RECENT {
                    let class = event.class.as_deref().unwrap_or("unknown");
                    found.push((untried(event.id.to_string(), &group, class, false), path));
                }
            }
        }
        Ok(found)
    }

    /// Notes the version, whether it serves, and the job's end: all of it, or nothing.
    async fn conclude(
        &self,
        job: &JobRow,
        attempt: &Attempt,
        material: &data::Material,
        parent: &VersionRow,
        files: &BundleFiles,
        report: Report,
    ) -> Result<(), JobError> {
        let decision = report.gate.as_ref();
        let lineage = Lineage {
            origin: "trained",
            parent_sha256: Some(parent.sha256.clone()),
            job: Some(job.id),
            data_sha256: Some(material.data_sha256.clone()),
            samples: Some(material.samples as i64),
            seed: i64::try_from(report.seed).ok(),
            gate: decision.and_then(|decision| serde_json::to_string(decision).ok()),
            by: format!("job:{}", job.id),
        };
        let row = self.registry.row(files, lineage);
        let now_us = self.clock.now_us();
        let passed = decision.filter(|decision| decision.passed);
        let activation = passed.map(|decision| NewActivation {
            version: row.id,
            instead_of: Some(parent.id),
            cause: "gate",
            reason: decision.sentence.clone(),
            by: format!("job:{}", job.id),
            now_us,
        });
        let report = Report { version_id: Some(row.id), ..report };
        let result =
            serde_json::to_string(&report).map_err(|error| JobError::Final(error.to_string()))?;
        let ended = self.store.conclude_training(attempt, row, activation, result, now_us).await?;
        match ended {
            None => Err(JobError::Lost),
            Some(serves) => {
                if serves {
                    self.switch.look();
                } else if report.gate.is_some_and(|gate| gate.passed) {
                    warn!(job = %job.id, "another version came to serve meanwhile; this one waits");
                }
                Ok(())
            }
        }
    }

    /// Renews the lease until it is lost, and notes what is being done.
    async fn keep_lease(
        &self,
        attempt: &Attempt,
        mut progress: watch::Receiver<Progress>,
    ) -> Result<(), JobError> {
        let lease = self.learning.lease;
        let (mut good_until, mut renewed) = (Instant::now() + lease, Instant::now());
        loop {
            let due = renewed + lease / RENEWALS;
            // Not more often than that, and at once when there is something to tell.
            sleep(TELL.min(lease / RENEWALS)).await;
            tokio::select! {
                () = sleep_until(due) => {}
                changed = progress.changed() => if changed.is_err() {
                    sleep_until(due).await;
                },
            }
            let word = progress.borrow_and_update().line();
            let until_us = self.clock.now_us() + us(lease);
            match self.store.renew_lease(attempt, until_us, Some(word)).await {
                Ok(true) => {
                    renewed = Instant::now();
                    good_until = renewed + lease;
                }
                Ok(false) => return Err(JobError::Lost),
                Err(error) => {
                    warn!(%error, "cannot renew a job's lease");
                    renewed = Instant::now();
                    if renewed + lease / RENEWALS > good_until {
                        sleep_until(good_until).await;
                        return Err(JobError::Lost);
                    }
                }
            }
        }
    }
}

fn untried(id: String, group: &str, class: &str, test: bool) -> Trial {
    let (group, class) = (group.to_owned(), class.to_owned());
    Trial { id, group, class, test, incumbent: None, candidate: None }
}

fn contender(files: &BundleFiles) -> Contender {
    let bundle = &files.bundle;
    Contender {
        sha256: hex(&bundle.sha256),
        version: format!("{} {}", bundle.name, bundle.version),
        alerting: data::alerting(bundle).into_iter().map(str::to_owned).collect(),
        classes: bundle.classes.clone(),
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
