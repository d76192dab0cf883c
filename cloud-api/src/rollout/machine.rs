//! The life of a rollout, without clock, database or network.
//!
//! ```text
//! draft ─start→ running ─(share committed and soaked)→ running, next cohort … → done
//!                 │ ↑
//!        pause ↓  │ │ resume            running, paused, halted, done ─roll back→ rolled back
//!               paused
//!        a rule ↓   ↑ resume
//!               halted
//! ```
//!
//! [`step`] is the only way from one state to the next. It is given everything it needs and gives back
//! everything that follows, so that the caller can write it down in one transaction. Asked twice with
//! the same facts it answers the same.

use std::fmt;

use uuid::Uuid;

use super::field::{FieldCounts, worse};
use super::plan::{Plan, Rules};

/// Where a rollout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Planned; no station knows of it.
    Draft,
    /// Cohorts get the release, one after another.
    Running,
    /// No further station gets it until somebody resumes; those that have it go on.
    Paused,
    /// A rule or a person stopped it; stations that have not decided are told to stay as they are.
    Halted,
    /// The last cohort has committed and soaked.
    Done,
    /// Stations that took the release are sent back, or a person must.
    RolledBack,
}

/// How far a station is with the release, by its own word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// Its cohort's turn has not come.
    Waiting,
    /// It has been told, and has not answered.
    Offered,
    /// It believes the manifest.
    Accepted,
    /// It fetches the files.
    Downloading,
    /// Every file is as the manifest says.
    Verified,
    /// The model could be loaded.
    Loaded,
    /// The golden clips score as they should.
    Proved,
    /// It hears with both models.
    Trial,
    /// It runs the release.
    Committed,
    /// It would not have it.
    Refused,
    /// It tried it and went back by itself.
    WentBack,
    /// It was told to stay as it is before it had decided.
    Withdrawn,
    /// It has been sent back to the model before.
    Reverting,
    /// It runs the model before again.
    Reverted,
    /// It would not go back.
    Stuck,
    /// A later rollout told it something else: this one has no say any more.
    Superseded,
}

/// A rollout as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// Where it is.
    pub state: State,
    /// The last cohort that has its turn, from 0.
    pub cohort: usize,
    /// Since when that cohort has committed its share, µs.
    pub reached_us: Option<i64>,
    /// When it was started or resumed last, µs: what went wrong before is forgiven.
    pub since_us: i64,
    /// Why it is halted or rolled back, for people.
    pub reason: Option<String>,
}

/// A station in a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Which.
    pub id: Uuid,
    /// The cohort it belongs to.
    pub cohort: usize,
    /// How far it is.
    pub step: Step,
    /// When it was told, or last said something of this release, µs.
    pub heard_us: i64,
    /// When anything came from it last, µs.
    pub seen_us: i64,
}

/// What happens to a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time passes, stations report.
    Tick,
    /// A person starts it.
    Start,
    /// A person pauses it.
    Pause,
    /// A person lets a paused or halted one go on.
    Resume,
    /// A person stops it, and says why.
    Halt(String),
    /// A person sends every station back, and says why.
    RollBack(String),
}

/// What is known when something happens.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// Every station of the rollout.
    pub devices: &'a [Device],
    /// What reviewers said since [`Rollout::since_us`].
    pub field: FieldCounts,
    /// Whether there is a signed release to go back by.
    pub can_revert: bool,
    /// Now, µs.
    pub now_us: i64,
}

/// A step from one state to the next, to be written down as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// What the rollout is then.
    pub rollout: Rollout,
    /// Stations that get the release.
    pub offer: Vec<Uuid>,
    /// Stations that are told to stay as they are.
    pub withdraw: Vec<Uuid>,
    /// Stations that run the release, and are told nothing any more.
    pub clear: Vec<Uuid>,
    /// Stations that get the release to go back by.
    pub revert: Vec<Uuid>,
    /// What happened, as in the audit log; `None` if only bookkeeping changed.
    pub event: Option<&'static str>,
}

/// Somebody wants what cannot be from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a rollout that is {state} cannot be {wish}")]
pub struct Impossible {
    /// Where the rollout is.
    pub state: State,
    /// What was wanted of it.
    pub wish: &'static str,
}

/// What follows from an input; `None` if nothing does.
///
/// # Errors
/// [`Impossible`] for a person's wish; never for [`Input::Tick`].
pub fn step(
    rollout: &Rollout,
    facts: &Facts<'_>,
    input: Input,
) -> Result<Option<Transition>, Impossible> {
    use State::{Done, Draft, Halted, Paused, RolledBack, Running};
    let impossible = |wish| Err(Impossible { state: rollout.state, wish });
    match (input, rollout.state) {
        (Input::Tick, Running | Paused | Halted | Done) => Ok(tick(rollout, facts)),
        (Input::Tick, RolledBack) => Ok(late(rollout, facts)),
        (Input::Tick, Draft) => Ok(None),
        (Input::Start, Draft) => {
            let started = Rollout { state: Running, since_us: facts.now_us, ..rollout.clone() };
            let offer = of(facts, |device| device.cohort == 0);
            Ok(Some(Transition { offer, ..Transition::to(started, "start") }))
        }
        (Input::Start, _) => impossible("started"),
        (Input::Pause, Running) => {
            let paused = Rollout { state: Paused, ..rollout.clone() };
            Ok(Some(Transition::to(paused, "pause")))
        }
        (Input::Pause, _) => impossible("paused"),
        (Input::Resume, Paused | Halted) => Ok(Some(resume(rollout, facts))),
        (Input::Resume, _) => impossible("resumed"),
        (Input::Halt(reason), Running | Paused) => Ok(Some(halt(rollout, facts, reason))),
        (Input::Halt(_), _) => impossible("halted"),
        (Input::RollBack(reason), Running | Paused | Halted | Done) => {
            Ok(Some(roll_back(rollout, facts, &reason)))
        }
        (Input::RollBack(_), Draft | RolledBack) => impossible("rolled back"),
    }
}

/// Time has passed, or stations have reported.
fn tick(rollout: &Rollout, facts: &Facts<'_>) -> Option<Transition> {
    if let Some(reason) = worse(&facts.plan.rules.false_alarms, &facts.field) {
        // Whatever else holds: the release is in the field, and rangers are called out for nothing.
        return Some(roll_back(rollout, facts, &reason));
    }
    if rollout.state != State::Running {
        return None;
    }
    let counted = (0..=rollout.cohort).map(|cohort| Count::of(rollout, facts, cohort));
    for count in counted {
        if let Some(reason) = count.fault(facts.plan) {
            return Some(halt(rollout, facts, reason));
        }
    }
    let count = Count::of(rollout, facts, rollout.cohort);
    // Of the canaries each is waited for: whoever is slow may be the one that fails.
    let waits = count.is_of_canaries(facts.plan) && count.undecided > 0;
    let reached = !waits && count.committed >= share_of(facts.plan.rules.commit_share, count.all);
    match (reached, rollout.reached_us) {
        (false, None) => None,
        (false, Some(_)) => {
            Some(Transition::noted(Rollout { reached_us: None, ..rollout.clone() }))
        }
        (true, None) if facts.plan.rules.soak_s > 0 => {
            let reached_us = Some(facts.now_us);
            Some(Transition::noted(Rollout { reached_us, ..rollout.clone() }))
        }
        (true, since_us) => {
            let soaked_us = since_us.unwrap_or(facts.now_us) + span_us(facts.plan.rules.soak_s);
            (facts.now_us >= soaked_us).then(|| advance(rollout, facts))
        }
    }
}

/// A station that decided for the release while it was being withdrawn goes back too.
fn late(rollout: &Rollout, facts: &Facts<'_>) -> Option<Transition> {
    let revert = of(facts, |device| device.step == Step::Committed);
    (facts.can_revert && !revert.is_empty())
        .then(|| Transition { revert, ..Transition::noted(rollout.clone()) })
}

/// The next cohort has its turn, or there is none.
fn advance(rollout: &Rollout, facts: &Facts<'_>) -> Transition {
    let next = rollout.cohort + 1;
    if next >= facts.plan.cohorts.len() {
        return Transition::to(Rollout { state: State::Done, ..rollout.clone() }, "done");
    }
    let opened = Rollout { cohort: next, reached_us: None, ..rollout.clone() };
    let offer = of(facts, |device| device.cohort == next);
    Transition { offer, ..Transition::to(opened, "cohort") }
}

/// Nobody else gets the release, and who has not decided stays as it is.
fn halt(rollout: &Rollout, facts: &Facts<'_>, reason: String) -> Transition {
    let halted =
        Rollout { state: State::Halted, reached_us: None, reason: Some(reason), ..rollout.clone() };
    let withdraw = of(facts, |device| device.step.is_under_way());
    Transition { withdraw, ..Transition::to(halted, "halt") }
}

fn resume(rollout: &Rollout, facts: &Facts<'_>) -> Transition {
    let resumed = Rollout {
        state: State::Running,
        reached_us: None,
        // Whoever resumes a halted one has seen what went wrong.
        since_us: if rollout.state == State::Halted { facts.now_us } else { rollout.since_us },
        reason: None,
        ..rollout.clone()
    };
    let offer = of(facts, |device| device.step == Step::Withdrawn);
    Transition { offer, ..Transition::to(resumed, "resume") }
}

/// Stations that took the release go back, by a signed release if there is one.
fn roll_back(rollout: &Rollout, facts: &Facts<'_>, reason: &str) -> Transition {
    let took = of(facts, |device| device.step == Step::Committed);
    let undecided = of(facts, |device| device.step.is_under_way());
    let what = if took.is_empty() {
        "no station runs the release".to_owned()
    } else if facts.can_revert {
        let get = if took.len() == 1 { "gets" } else { "get" };
        format!("{} {get} the signed release to go back by", stations(took.len()))
    } else {
        format!(
            "{} still run{} it, because no signed release to go back by was supplied: sign one with \
             `ecosight-models release sign --replaces` and roll it out",
            stations(took.len()),
            if took.len() == 1 { "s" } else { "" }
        )
    };
    let rolled_back = Rollout {
        state: State::RolledBack,
        reached_us: None,
        reason: Some(format!("{}; {what}", reason.trim_end_matches('.'))),
        ..rollout.clone()
    };
    let (revert, clear) = if facts.can_revert { (took, Vec::new()) } else { (Vec::new(), took) };
    Transition { withdraw: undecided, clear, revert, ..Transition::to(rolled_back, "roll_back") }
}

/// A cohort in numbers.
struct Count {
    cohort: usize,
    /// Its stations, without those whose failure was forgiven.
    all: usize,
    committed: usize,
    failed: usize,
    silent: usize,
    /// Told, not silent, and still at it.
    undecided: usize,
}

impl Count {
    fn of(rollout: &Rollout, facts: &Facts<'_>, cohort: usize) -> Self {
        let mut count = Self { cohort, all: 0, committed: 0, failed: 0, silent: 0, undecided: 0 };
        for device in facts.devices.iter().filter(|device| device.cohort == cohort) {
            let failed = device.step.is_failure();
            let forgiven = failed && device.heard_us < rollout.since_us;
            if forgiven || device.step == Step::Superseded {
                continue;
            }
            count.all += 1;
            count.failed += usize::from(failed);
            let silent = device.is_silent(&facts.plan.rules, facts.now_us);
            count.silent += usize::from(silent);
            count.committed += usize::from(device.step == Step::Committed && !silent);
            count.undecided += usize::from(device.step.is_under_way() && !silent);
        }
        count
    }

    /// Whether it is the first of several: the one that is there to fail.
    fn is_of_canaries(&self, plan: &Plan) -> bool {
        self.cohort == 0 && plan.cohorts.len() > 1
    }

    /// Why the rollout must not go on, in a sentence.
    fn fault(&self, plan: &Plan) -> Option<String> {
        let Self { cohort, all, committed, failed, silent, .. } = *self;
        let (rules, cohort) = (&plan.rules, cohort + 1);
        let most = |share: f64| (share * all as f64 + 1e-9).floor() as usize;
        let failures = match self.is_of_canaries(plan) {
            true => rules.max_failed_canaries as usize,
            false => most(rules.max_failed_share),
        };
        let silences = most(rules.max_silent_share);
        if failed > failures {
            return Some(format!(
                "{failed} of {} of cohort {cohort} refused the release or went back by themselves, \
                 and {failures} may",
                stations(all)
            ));
        }
        if silent > silences {
            return Some(format!(
                "{silent} of {} of cohort {cohort} said nothing for {}, and {silences} may be silent",
                stations(all),
                spoken(rules.silence_s)
            ));
        }
        let wanted = share_of(rules.commit_share, all);
        let possible = all - failed - silent;
        (committed <= possible && possible < wanted && failed + silent > 0).then(|| {
            format!(
                "{wanted} of {} of cohort {cohort} must run the release before the next, and with \
                 {failed} failed and {silent} silent only {possible} can",
                stations(all)
            )
        })
    }
}

impl Device {
    /// Whether it should have said something by now: of the release while it is at it, anything at all once
    /// it runs it. A model that ends its station says nothing of itself.
    fn is_silent(&self, rules: &Rules, now_us: i64) -> bool {
        let trial = matches!(self.step, Step::Proved | Step::Trial);
        let patience_us = span_us(rules.silence_s) + if trial { span_us(rules.trial_s) } else { 0 };
        let since_us = match self.step {
            Step::Committed => self.heard_us.max(self.seen_us),
            step if step.is_under_way() => self.heard_us,
            _ => return false,
        };
        now_us > since_us.saturating_add(patience_us)
    }
}

impl Step {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Waiting,
        Self::Offered,
        Self::Accepted,
        Self::Downloading,
        Self::Verified,
        Self::Loaded,
        Self::Proved,
        Self::Trial,
        Self::Committed,
        Self::Refused,
        Self::WentBack,
        Self::Withdrawn,
        Self::Reverting,
        Self::Reverted,
        Self::Stuck,
        Self::Superseded,
    ];

    /// The word for it in the database and the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Offered => "offered",
            Self::Accepted => "accepted",
            Self::Downloading => "downloading",
            Self::Verified => "verified",
            Self::Loaded => "loaded",
            Self::Proved => "proved",
            Self::Trial => "trial",
            Self::Committed => "committed",
            Self::Refused => "refused",
            Self::WentBack => "rolled_back",
            Self::Withdrawn => "withdrawn",
            Self::Reverting => "reverting",
            Self::Reverted => "reverted",
            Self::Stuck => "stuck",
            Self::Superseded => "superseded",
        }
    }

    /// The step of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.name() == name)
    }

    /// Told, and not decided.
    #[must_use]
    pub const fn is_under_way(self) -> bool {
        matches!(
            self,
            Self::Offered
                | Self::Accepted
                | Self::Downloading
                | Self::Verified
                | Self::Loaded
                | Self::Proved
                | Self::Trial
        )
    }

    /// Decided against the release.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Refused | Self::WentBack)
    }

    /// What a station's word about the release makes of this step; `None` if nothing. A word that a
    /// station says is taken at any time: what it runs is what counts.
    #[must_use]
    pub fn heard(self, said: Self) -> Option<Self> {
        let next = match (self, said) {
            (Self::Superseded, _) => return None,
            // What it says of the release that it is to leave.
            (Self::Reverting | Self::Reverted | Self::Stuck, _) => return None,
            (_, Self::Committed) => Self::Committed,
            // It was told to stay as it is, and says so.
            (Self::Withdrawn, _) => return None,
            // Nobody has told it yet: a word from an earlier rollout of the same release.
            (Self::Waiting, _) => return None,
            (_, said) => said,
        };
        (next != self).then_some(next)
    }

    /// What a station's word about the release to go back by makes of this step.
    #[must_use]
    pub fn heard_going_back(self, said: Self) -> Option<Self> {
        let next = match (self, said) {
            (Self::Reverting | Self::Stuck, Self::Committed) => Self::Reverted,
            (Self::Reverting, Self::Refused | Self::WentBack) => Self::Stuck,
            _ => return None,
        };
        Some(next)
    }
}

impl State {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Draft, Self::Running, Self::Paused, Self::Halted, Self::Done, Self::RolledBack];

    /// The word for it in the database and the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Halted => "halted",
            Self::Done => "done",
            Self::RolledBack => "rolled_back",
        }
    }

    /// The state of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Draft => "not started",
            Self::RolledBack => "rolled back",
            state => state.name(),
        })
    }
}

impl Transition {
    fn to(rollout: Rollout, event: &'static str) -> Self {
        Self { event: Some(event), ..Self::noted(rollout) }
    }

    /// Nothing but what stations said.
    pub(super) fn noted(rollout: Rollout) -> Self {
        let none = Vec::new;
        Self {
            rollout,
            offer: none(),
            withdraw: none(),
            clear: none(),
            revert: none(),
            event: None,
        }
    }
}

fn of(facts: &Facts<'_>, chosen: impl Fn(&Device) -> bool) -> Vec<Uuid> {
    facts.devices.iter().filter(|device| chosen(device)).map(|device| device.id).collect()
}

/// The smallest number that is that share of `all`.
fn share_of(share: f64, all: usize) -> usize {
    (share * all as f64 - 1e-9).ceil().max(0.0) as usize
}

fn span_us(seconds: u32) -> i64 {
    i64::from(seconds) * 1_000_000
}

fn stations(count: usize) -> String {
    if count == 1 { "1 station".into() } else { format!("{count} stations") }
}

fn spoken(seconds: u32) -> String {
    match seconds {
        s if s % 3_600 == 0 => format!("{} h", s / 3_600),
        s if s % 60 == 0 => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}
