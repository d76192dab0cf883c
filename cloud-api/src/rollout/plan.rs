//! What an operator plans: who comes first, and what stops it.

use std::collections::{BTreeSet, HashSet};

use ecosight_shared::Slug;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

/// Cohorts of one rollout.
const MAX_COHORTS: usize = 16;
/// Stations or sites that one cohort names.
const MAX_NAMED: usize = 10_000;
/// A year: longer is a slip of the pen.
const MAX_SPAN_S: u32 = 366 * 24 * 3_600;

/// Which stations get a release, in which order, and under which rules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// In the order in which they get the release.
    #[serde(default = "default_cohorts")]
    pub cohorts: Vec<Cohort>,
    /// What must hold before the next cohort, and what stops it all.
    #[serde(default)]
    pub rules: Rules,
}

/// A part of the stations. A station belongs to the first cohort that takes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Cohort {
    /// These stations: canaries, say.
    Devices(Vec<Uuid>),
    /// So many per cent of all stations that the release is for, together with the cohorts before;
    /// which of them, chance decides anew for each rollout.
    Percent(f64),
    /// The stations of these sites.
    Sites(Vec<String>),
}

/// When a rollout goes on and when it stops.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// Share of a cohort that must run the release before the next one gets it.
    pub commit_share: f64,
    /// How long that share must have lasted, seconds.
    pub soak_s: u32,
    /// How long a station hears with both models before it decides, seconds.
    pub trial_s: u32,
    /// More canaries (stations of the first of several cohorts) than this refused the release or went back
    /// by themselves: halt. Canaries are few and there to be looked at, so one is enough by default.
    pub max_failed_canaries: u32,
    /// More than this share of a later cohort did: halt.
    pub max_failed_share: f64,
    /// A station that said nothing for this long after its last word is silent, seconds; one that runs the
    /// release, if nothing else came from it either.
    pub silence_s: u32,
    /// More than this share of a cohort is silent: halt.
    pub max_silent_share: f64,
    /// The rule on false alarms in the field.
    pub false_alarms: FalseAlarmRule,
}

/// Halts, and rolls back, when reviewers reject more alerts of the release than of the models before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FalseAlarmRule {
    /// Fewer rejected verdicts than this decide nothing.
    pub min_rejected: u32,
    /// Probability of so many rejections, were the release no worse, below which it is called worse.
    pub significance: f64,
    /// Station-days before the rollout that the comparison looks back on, per station.
    pub baseline_days: u32,
    /// False alarms per station-week that are expected where the stations have no history.
    pub expected_per_station_week: f64,
}

/// The default: canaries that show a fault of one station in twenty, half, all.
fn default_cohorts() -> Vec<Cohort> {
    vec![Cohort::Percent(10.0), Cohort::Percent(50.0), Cohort::Percent(100.0)]
}

impl Default for Plan {
    fn default() -> Self {
        Self { cohorts: default_cohorts(), rules: Rules::default() }
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            commit_share: 0.8,
            soak_s: 24 * 3_600,
            trial_s: 3_600,
            max_failed_canaries: 0,
            max_failed_share: 0.01,
            silence_s: 24 * 3_600,
            max_silent_share: 0.2,
            false_alarms: FalseAlarmRule::default(),
        }
    }
}

impl Default for FalseAlarmRule {
    fn default() -> Self {
        Self {
            min_rejected: 3,
            significance: 0.001,
            baseline_days: 14,
            expected_per_station_week: 1.0,
        }
    }
}

/// A station that a release may go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Which.
    pub device: Uuid,
    /// Where it is.
    pub site: String,
}

impl Plan {
    /// What is wrong with it, each with the name of its field.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !(1..=MAX_COHORTS).contains(&self.cohorts.len()) {
            faults.push(format!("cohorts: write 1 to {MAX_COHORTS}"));
        }
        let mut percent = 0.0;
        for (place, cohort) in self.cohorts.iter().enumerate() {
            let place = place + 1;
            match cohort {
                Cohort::Devices(devices) if devices.is_empty() || devices.len() > MAX_NAMED => {
                    faults.push(format!("cohort {place}: name 1 to {MAX_NAMED} devices"));
                }
                Cohort::Sites(sites) if sites.is_empty() || sites.len() > MAX_NAMED => {
                    faults.push(format!("cohort {place}: name 1 to {MAX_NAMED} sites"));
                }
                Cohort::Sites(sites) if !sites.iter().all(|site| Slug::is_valid(site)) => {
                    faults.push(format!("cohort {place}: a site is written with a-z, 0-9 and '-'"));
                }
                Cohort::Percent(share) if !(*share > percent && *share <= 100.0) => {
                    faults.push(format!(
                        "cohort {place}: percent counts all stations so far; write more than \
                         {percent}, at most 100"
                    ));
                }
                Cohort::Percent(share) => percent = *share,
                Cohort::Devices(_) | Cohort::Sites(_) => {}
            }
        }
        let Rules { commit_share, soak_s, trial_s, max_failed_share, silence_s, .. } = self.rules;
        if !(commit_share > 0.0 && commit_share <= 1.0) {
            faults.push("rules.commit_share: write more than 0, at most 1".into());
        }
        for (name, share) in [
            ("max_failed_share", max_failed_share),
            ("max_silent_share", self.rules.max_silent_share),
        ] {
            if !(0.0..=1.0).contains(&share) {
                faults.push(format!("rules.{name}: write 0 to 1"));
            }
        }
        if silence_s == 0 || soak_s.max(trial_s).max(silence_s) > MAX_SPAN_S {
            faults.push(
                "rules: write seconds of at most a year, and more than 0 for silence_s".into(),
            );
        }
        let rule = &self.rules.false_alarms;
        let rate = rule.expected_per_station_week;
        let sound = rule.significance > 0.0
            && rule.significance < 1.0
            && rate > 0.0
            && rate.is_finite()
            && rule.min_rejected > 0
            && (1..=366).contains(&rule.baseline_days);
        if !sound {
            faults.push(
                "rules.false_alarms: write a significance between 0 and 1, min_rejected from 1, \
                 baseline_days from 1 to 366 and a rate above 0"
                    .into(),
            );
        }
        faults
    }

    /// Puts each target into its cohort, in the plan's order; what no cohort takes is left out. With
    /// the same `draw` the same stations come first.
    ///
    /// # Errors
    /// Which cohort is empty, or names a station that is no target.
    pub fn assign(&self, targets: &[Target], draw: Uuid) -> Result<Vec<(Target, usize)>, String> {
        let mut drawn: Vec<&Target> = targets.iter().collect();
        drawn.sort_by_cached_key(|target| lot(draw, target.device));
        let mut taken: HashSet<Uuid> = HashSet::new();
        let mut assigned = Vec::new();
        for (place, cohort) in self.cohorts.iter().enumerate() {
            let free = drawn.iter().filter(|target| !taken.contains(&target.device));
            let chosen: Vec<&Target> = match cohort {
                Cohort::Devices(devices) => {
                    let named: BTreeSet<Uuid> = devices.iter().copied().collect();
                    let known = |id: &&Uuid| !targets.iter().any(|target| target.device == **id);
                    if let Some(stranger) = named.iter().find(known) {
                        return Err(format!(
                            "cohort {}: {stranger} is no station that this release is for",
                            place + 1
                        ));
                    }
                    free.filter(|target| named.contains(&target.device)).copied().collect()
                }
                Cohort::Sites(sites) => {
                    free.filter(|target| sites.contains(&target.site)).copied().collect()
                }
                Cohort::Percent(share) => {
                    // Of a small fleet, one station rather than none.
                    let wanted = (targets.len() as f64 * share / 100.0).ceil() as usize;
                    free.take(wanted.saturating_sub(taken.len())).copied().collect()
                }
            };
            if chosen.is_empty() {
                return Err(format!("cohort {} has no station of its own", place + 1));
            }
            taken.extend(chosen.iter().map(|target| target.device));
            assigned.extend(chosen.into_iter().map(|target| (target.clone(), place)));
        }
        Ok(assigned)
    }
}

/// Where a station stands in a draw: evenly spread, and the same whoever computes it.
fn lot(draw: Uuid, device: Uuid) -> [u8; 32] {
    Sha256::new().chain_update(draw.as_bytes()).chain_update(device.as_bytes()).finalize().into()
}
