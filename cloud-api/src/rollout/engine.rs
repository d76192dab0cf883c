//! What asks the machine, writes its answers down, and sends what stations are to be told.
//!
//! Everything that must survive is in the database: a step of a rollout is one transaction with the
//! wishes that follow from it, and a wish stays due until the broker has it. So it does not matter
//! where this is killed: whoever comes next goes on from what is written.

use std::sync::Arc;
use std::time::Duration;

use ecosight_shared::json::{DesiredModel, SignedDocument};
use ecosight_shared::{DeviceId, Topic};
use futures_util::StreamExt;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::machine::{Device, Facts, Impossible, Input, State, Step, Transition, step};
use super::plan::Target;
use super::{FieldCounts, Plan};
use crate::clock::{Clock, rfc3339};
use crate::link::Link;
use crate::live::Live;
use crate::rollout::documents;
use crate::store::{
    Deed, Heard, Publication, ReleaseRow, RolloutChange, RolloutDeviceRow, RolloutRow, Store,
    StoreError,
};

/// Rules that wait for time to pass are looked at this often.
const ROUND: Duration = Duration::from_secs(1);
/// Reports come in bursts: what came within this time is looked at together.
const GATHER: Duration = Duration::from_millis(100);
/// Whoever has not renewed the lease for this long is taken for dead.
const LEASE: Duration = Duration::from_secs(10);
const LEASE_NAME: &str = "rollouts";
/// Messages under way to the broker at one time, and of one round.
const UNDER_WAY: usize = 64;
const BATCH_LEN: i64 = 500;
/// A broker that has not taken a message by then is asked again with the next round.
const BROKER_WAIT: Duration = Duration::from_secs(5);
/// Somebody else changed the rollout so often meanwhile that something is wrong.
const ATTEMPTS: usize = 8;
const DAY_US: i64 = 24 * 3_600 * 1_000_000;
/// Who does what rules demand, as the audit log has it.
const ENGINE: &str = "server";
/// Schema of the settings in a desired document.
const SCHEMA: &str = "ecosight.desired/1";

/// Decides on rollouts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rollouts {
    store: Store,
    clock: Clock,
    /// Told when there may be something to do.
    news: Arc<Notify>,
}

/// Why a wish about a rollout was not done.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    /// There is none: the caller's fault.
    #[error("there is no such rollout")]
    Missing,
    /// It cannot be from where it is: the caller's fault.
    #[error(transparent)]
    Impossible(#[from] Impossible),
    /// The plan does not fit the stations that are there: the caller's fault.
    #[error("{0}")]
    Plan(String),
    /// Too many changed it at one time: try again.
    #[error("others are changing the rollout; try again")]
    Contended,
    /// The database is not available: try again.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Takes messages for stations. The broker does; a test may lose them.
pub trait Carrier {
    /// Has the broker keep a message for its station; false if it must be sent again.
    fn carry(&self, topic: String, payload: Vec<u8>) -> impl Future<Output = bool> + Send;
}

impl Carrier for Link {
    async fn carry(&self, topic: String, payload: Vec<u8>) -> bool {
        let publish = async {
            let notice = self.publish_tracked(&topic, payload, true).await.ok()?;
            notice.wait_completion_async().await.ok()
        };
        matches!(timeout(BROKER_WAIT, publish).await, Ok(Some(_)))
    }
}

/// A rollout with all that a decision needs.
struct Scene {
    row: RolloutRow,
    plan: Plan,
    release: ReleaseRow,
    revert: Option<ReleaseRow>,
    devices: Vec<Device>,
    /// What stations have said since it was last written down.
    heard: Vec<Heard>,
    field: FieldCounts,
}

impl Rollouts {
    /// Over a database; `news` is told when there is something to send.
    #[must_use]
    pub fn new(store: Store, clock: Clock, news: Arc<Notify>) -> Self {
        Self { store, clock, news }
    }

    /// Tells whoever sends that there is something to send.
    pub fn tell(&self) {
        self.news.notify_one();
    }

    /// Does what a person wants; gives the rollout as it is then.
    ///
    /// # Errors
    /// [`RolloutError`]; each variant says whose fault it is.
    pub async fn act(&self, id: Uuid, input: &Input, by: &str) -> Result<RolloutRow, RolloutError> {
        for _ in 0..ATTEMPTS {
            let row = self.store.rollout(id).await?.ok_or(RolloutError::Missing)?;
            if self.advance(row, input, by).await?.is_some() {
                self.news.notify_one();
                return self.store.rollout(id).await?.ok_or(RolloutError::Missing);
            }
        }
        Err(RolloutError::Contended)
    }

    /// Looks at every rollout once; gives how many took a step.
    ///
    /// # Errors
    /// [`StoreError`]; what was not looked at is looked at by the next round.
    pub async fn round(&self) -> Result<usize, StoreError> {
        let now_us = self.clock.now_us();
        let mut taken = 0;
        // The longest that a plan may look back on.
        for row in self.store.rollouts_under_way(now_us - 366 * DAY_US).await? {
            let (id, finished_us) = (row.id, row.finished_us);
            let baseline = i64::from(row.plan().rules.false_alarms.baseline_days) * DAY_US;
            if finished_us.is_some_and(|finished| now_us > finished.saturating_add(baseline)) {
                continue;
            }
            match self.advance(row, &Input::Tick, ENGINE).await {
                Ok(Some(true)) => taken += 1,
                // Somebody else changed it: the next round sees how.
                Ok(Some(false) | None) => {}
                Err(RolloutError::Store(error)) => return Err(error),
                Err(error) => warn!(rollout = %id, %error, "a rollout cannot be looked at"),
            }
        }
        Ok(taken)
    }

    /// Decides and writes down; `None` if somebody else was faster, else whether anything changed.
    async fn advance(
        &self,
        row: RolloutRow,
        input: &Input,
        by: &str,
    ) -> Result<Option<bool>, RolloutError> {
        let now_us = self.clock.now_us();
        let mut scene = self.scene(row, now_us).await?;
        let assigned = match input {
            Input::Start if scene.row.state == State::Draft.name() => self.assigned(&scene).await?,
            _ => Vec::new(),
        };
        scene.devices.extend(assigned.iter().map(|(target, cohort)| Device {
            id: target.device,
            cohort: *cohort,
            step: Step::Waiting,
            heard_us: now_us,
            seen_us: now_us,
        }));
        let facts = Facts {
            plan: &scene.plan,
            devices: &scene.devices,
            field: scene.field,
            can_revert: scene.revert.is_some(),
            now_us,
        };
        let before = scene.row.rollout();
        let transition = match step(&before, &facts, input.clone())? {
            Some(transition) => transition,
            None if scene.heard.is_empty() => return Ok(Some(false)),
            None => Transition::noted(before),
        };
        if let Some(event) = transition.event {
            let state = transition.rollout.state;
            let reason = transition.rollout.reason.as_deref().unwrap_or("");
            info!(rollout = %scene.row.id, event, %state, cohort = transition.rollout.cohort, reason, "rollout");
        }
        let change = scene.change(transition, assigned, by, now_us);
        Ok(self.store.change_rollout(change).await?.then_some(true))
    }

    /// Reads everything that a decision needs.
    async fn scene(&self, row: RolloutRow, now_us: i64) -> Result<Scene, RolloutError> {
        let missing = || RolloutError::Plan("the release is not here any more".into());
        let release = self.store.release(row.release_id).await?.ok_or_else(missing)?;
        let revert = match row.revert_release_id {
            Some(id) => Some(self.store.release(id).await?.ok_or_else(missing)?),
            None => None,
        };
        let mut rows = self.store.rollout_devices(row.id).await?;
        let heard = hear(&mut rows, &release, revert.as_ref());
        let devices: Vec<Device> = rows
            .iter()
            .map(|station| Device {
                id: station.device_id,
                cohort: usize::try_from(station.cohort).unwrap_or(0),
                step: Step::named(&station.step).unwrap_or(Step::Superseded),
                heard_us: station.heard_us,
                seen_us: station.seen_us,
            })
            .collect();
        let plan = row.plan();
        let due = row.state != State::Draft.name()
            && row.state != State::RolledBack.name()
            && devices.iter().any(|device| device.step == Step::Committed);
        let field = if due {
            let baseline_us = i64::from(plan.rules.false_alarms.baseline_days) * DAY_US;
            let (id, since_us) = (row.id, row.since_us);
            self.store.field_counts(id, &release.model_tag, since_us, baseline_us, now_us).await?
        } else {
            FieldCounts::default()
        };
        Ok(Scene { row, plan, release, revert, devices, heard, field })
    }

    /// The cohorts of a rollout that is about to start.
    async fn assigned(&self, scene: &Scene) -> Result<Vec<(Target, usize)>, RolloutError> {
        let release = &scene.release;
        let sites = self.store.device_sites().await?;
        let targets: Vec<Target> = sites
            .into_iter()
            .filter(|(device, site)| release.is_for(*device, site))
            .map(|(device, site)| Target { device, site })
            .collect();
        if targets.is_empty() {
            return Err(RolloutError::Plan("there is no station that this release is for".into()));
        }
        let assigned = scene.plan.assign(&targets, scene.row.id).map_err(RolloutError::Plan)?;
        let busy: std::collections::HashMap<Uuid, Uuid> =
            self.store.busy_devices().await?.into_iter().collect();
        let taken = assigned.iter().find_map(|(target, _)| {
            let rollout = busy.get(&target.device)?;
            // Somebody else has just started this very one: the version tells when it is written.
            (*rollout != scene.row.id).then_some((target.device, *rollout))
        });
        match taken {
            Some((device, rollout)) => Err(RolloutError::Plan(format!(
                "station {device} is in rollout {rollout}, which is under way; halt that one first"
            ))),
            None => Ok(assigned),
        }
    }

    /// Sends what is due; gives how much the broker has taken, and whether it took everything.
    ///
    /// # Errors
    /// [`StoreError`]; what was sent is then sent again.
    pub async fn publish(&self, carrier: &impl Carrier) -> Result<(usize, bool), StoreError> {
        let due = self.store.publications(BATCH_LEN).await?;
        let wanted = due.len();
        let sent = stream::iter(due)
            .map(|publication| async move {
                let topic = Topic::Desired(&publication.site_id, DeviceId(publication.device_id));
                let taken = carrier.carry(topic.to_string(), payload(&publication)).await;
                taken.then_some((publication.device_id, publication.version))
            })
            .buffer_unordered(UNDER_WAY)
            .filter_map(std::future::ready);
        let taken: Vec<(Uuid, i64)> = sent.collect().await;
        let count = taken.len();
        if count > 0 {
            self.store.mark_published(taken).await?;
        }
        Ok((count, count == wanted))
    }
}

impl Scene {
    fn change(
        &self,
        transition: Transition,
        assigned: Vec<(Target, usize)>,
        by: &str,
        now_us: i64,
    ) -> RolloutChange {
        let Transition { rollout, offer, withdraw, clear, revert, event } = transition;
        let trial_s = self.plan.rules.trial_s;
        let deed = event.map(|event| Deed {
            at_us: now_us,
            actor: by.to_owned(),
            action: action(event),
            target: self.row.id.to_string(),
            detail: rollout.reason.clone().unwrap_or_else(|| {
                format!("{}, cohort {}", self.release.title(), rollout.cohort + 1)
            }),
        });
        let back = self.revert.as_ref().map_or_else(String::new, |release| wish(release, trial_s));
        RolloutChange {
            id: self.row.id,
            version: self.row.version,
            rollout,
            assigned,
            heard: self.heard.clone(),
            offer: (offer, wish(&self.release, trial_s)),
            withdraw,
            clear,
            revert: (revert, back),
            by: by.to_owned(),
            deed,
            now_us,
        }
    }
}

/// As the audit log has it.
fn action(event: &'static str) -> &'static str {
    match event {
        "start" => "rollout.start",
        "cohort" => "rollout.cohort",
        "pause" => "rollout.pause",
        "resume" => "rollout.resume",
        "halt" => "rollout.halt",
        "done" => "rollout.done",
        _ => "rollout.roll_back",
    }
}

/// Takes in what stations said of the release, or of the one to go back by, and gives what changed.
fn hear(
    rows: &mut [RolloutDeviceRow],
    release: &ReleaseRow,
    revert: Option<&ReleaseRow>,
) -> Vec<Heard> {
    let mut heard = Vec::new();
    for row in rows {
        let (Some(manifest), Some(said_us)) = (row.said_manifest.as_deref(), row.said_us) else {
            continue;
        };
        let said = row.said_step.as_deref().and_then(Step::named);
        let (Some(said), Some(was)) = (said, Step::named(&row.step)) else { continue };
        // What it runs counts whenever it said so; anything else only as an answer.
        if said_us == row.known_us && said != Step::Committed {
            continue;
        }
        let next = if manifest == release.manifest_sha256 {
            was.heard(said)
        } else if revert.is_some_and(|revert| revert.manifest_sha256 == manifest) {
            was.heard_going_back(said)
        } else {
            None
        };
        let alive = manifest == release.manifest_sha256 && said == was && was.is_under_way();
        let Some(next) = next.or(alive.then_some(was)) else { continue };
        row.step = next.name().to_owned();
        row.heard_us = said_us;
        heard.push(Heard {
            device: row.device_id,
            step: next,
            known_us: said_us,
            code: row.said_code.clone(),
            reason: row.said_reason.clone(),
        });
    }
    heard
}

/// The wish for a release, as it stands in a desired document.
#[must_use]
pub fn wish(release: &ReleaseRow, trial_s: u32) -> String {
    let signed: SignedDocument = serde_json::from_str(&release.signed).unwrap_or_else(|_| {
        // Written by this program from the same type; a station refuses an empty one.
        SignedDocument { release: release.title(), manifest: String::new(), signatures: Vec::new() }
    });
    let files = format!("/api/v1/releases/{}/files", release.id);
    serde_json::to_string(&DesiredModel { signed, files, trial_s }).unwrap_or_default()
}

/// The retained message: settings for agents that know them, and the model.
fn payload(publication: &Publication) -> Vec<u8> {
    let read = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    let document = json!({
        "v": 1,
        "schema": SCHEMA,
        "version": publication.version,
        "desired": read(&publication.document),
        "model": publication.model.as_deref().map(read),
        "time": rfc3339(publication.model_us),
    });
    document.to_string().into_bytes()
}

/// Looks at rollouts and sends what is due, until `stop`. Of several processes one does.
pub async fn run(rollouts: Rollouts, link: Link, owner: String, stop: CancellationToken) {
    let work = async {
        let (mut held_until, mut sessions) = (None::<Instant>, None);
        loop {
            if lead(&rollouts, &owner, &mut held_until).await {
                match turn(&rollouts, &link, &mut sessions).await {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(error) => warn!(%error, "rollouts wait for the database"),
                }
            }
            tokio::select! {
                () = rollouts.news.notified() => sleep(GATHER).await,
                () = sleep(ROUND) => {}
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
    if let Err(error) = rollouts.store.give_lease_back(LEASE_NAME, &owner).await {
        debug!(%error, "the lease ends by itself");
    }
}

/// Whether this process is the one. The lease is renewed when half of it is over.
async fn lead(rollouts: &Rollouts, owner: &str, held_until: &mut Option<Instant>) -> bool {
    let now = Instant::now();
    if held_until.is_some_and(|until| now + LEASE / 2 < until) {
        return true;
    }
    let now_us = rollouts.clock.now_us();
    let until_us = now_us + LEASE.as_micros() as i64;
    match rollouts.store.take_lease(LEASE_NAME, owner, now_us, until_us).await {
        Ok(true) => *held_until = Some(now + LEASE),
        Ok(false) => *held_until = None,
        Err(error) => debug!(%error, "cannot renew the lease"),
    }
    held_until.is_some_and(|until| now < until)
}

/// One round of deciding and sending; whether there is more to send.
async fn turn(
    rollouts: &Rollouts,
    link: &Link,
    sessions: &mut Option<u64>,
) -> Result<bool, StoreError> {
    rollouts.round().await?;
    if !link.is_connected() {
        return Ok(false);
    }
    // A broker that does not know our session may have lost what it kept, too.
    let known = link.new_sessions();
    if *sessions != Some(known) {
        let again = if known > 0 { rollouts.store.publish_again().await? } else { 0 };
        if again > 0 {
            info!(
                messages = again,
                "the broker is new or has forgotten; desired states are sent again"
            );
        }
        *sessions = Some(known);
    }
    let (sent, all) = rollouts.publish(link).await?;
    if sent > 0 {
        info!(sent, "desired states sent");
    }
    Ok(all && sent as i64 == BATCH_LEN)
}

/// Puts rollouts that change on the stream, whoever changes them, until `stop`.
pub async fn show(live: Live, store: Store, clock: Clock, stop: CancellationToken) {
    let mut seen_us = clock.now_us();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(ROUND) => {}
        }
        let shown = async {
            for row in store.rollouts_changed(seen_us).await? {
                let changed_us = row.updated_us;
                if let Some(document) = documents::rollout(&store, row).await? {
                    live.publish("rollout", &document);
                }
                seen_us = seen_us.max(changed_us);
            }
            Ok::<_, StoreError>(())
        };
        if let Err(error) = shown.await {
            debug!(%error, "cannot look for rollouts that changed");
        }
    }
}
