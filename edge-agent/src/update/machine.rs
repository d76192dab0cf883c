//! The life of an update, without clock, disk, network or model.
//!
//! ```text
//! wish ─→ accepted ─→ downloading ─→ verified ─→ loaded ─→ proved ─→ trial ─→ committed
//!   │         └───────────┴─────────────┴──────────┴─────────┘          │
//!   └──────→ refused ←──────────────────┘                               └→ rolled back
//! ```
//!
//! Every function takes what is remembered and gives what is to be remembered next. The caller writes
//! it down and only then does what follows: [`task`] says what that is, from the written state
//! alone, so that a station that is killed anywhere goes on from there.

use ecosight_shared::DeviceId;
use ecosight_shared::json::{DesiredDocument, DesiredModel, UpdateStep};
use ecosight_shared::release::{
    Highest, Manifest, Memory, PublicKey, Refusal, SignedManifest, Station, Verified, inspect,
    verify,
};

use super::fault::Fault;
use super::state::{BLOCKED_MAX, Digest, Installed, Job, Place, Saved, Word};

/// Starts with a model that has not shown that the station lives with it; one more is too many.
pub const STARTS_MAX: u32 = 3;

/// Who judges.
#[derive(Clone, Copy, Debug)]
pub struct Judge<'a> {
    /// Keys that are trusted.
    pub trusted: &'a [PublicKey],
    /// This station.
    pub device: DeviceId,
    /// Its site.
    pub site: &'a str,
    /// Version of the agent.
    pub agent_version: &'a str,
    /// Now, unix µs.
    pub now_us: i64,
    /// Whether the clock was ever set.
    pub clock_set: bool,
}

/// What follows from a wish.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Nothing: it was answered before, or is being worked on.
    Nothing,
    /// The clock was never set. It is asked again later.
    Later,
    /// This is to be written.
    Next(Box<Saved>),
}

/// What is to be done, by what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Nothing.
    Rest,
    /// See whether there is a server and room, and begin: then [`begun`].
    Begin,
    /// Fetch the files: then [`fetched`].
    Fetch,
    /// Load it in a process of its own and let it say its golden sounds: [`loaded`], [`proved`].
    Prove,
    /// Move it into the spare slot: then [`staged`].
    Stage,
    /// Let it hear beside the model in use: then [`committed`].
    Try,
}

/// What is to be done now.
#[must_use]
pub fn task(saved: &Saved) -> Task {
    match saved.job.as_ref().map(|job| job.step) {
        None => Task::Rest,
        Some(UpdateStep::Accepted) => Task::Begin,
        Some(UpdateStep::Downloading) => Task::Fetch,
        Some(UpdateStep::Verified | UpdateStep::Loaded) => Task::Prove,
        Some(UpdateStep::Proved) => Task::Stage,
        Some(UpdateStep::Trial) => Task::Try,
        // Nobody writes a job with a last step.
        Some(UpdateStep::Committed | UpdateStep::Refused | UpdateStep::RolledBack) => Task::Rest,
    }
}

/// The station is told what to run.
#[must_use]
pub fn wished(saved: &Saved, desired: &DesiredDocument, judge: &Judge<'_>) -> Answer {
    match &desired.model {
        None if saved.job.is_some() => next(failed(saved, &Fault::Withdrawn, judge.now_us)),
        None => Answer::Nothing,
        Some(model) => asked(saved, model, &desired.time, judge),
    }
}

/// The message cannot be read. What is under way goes on.
#[must_use]
pub fn unreadable(saved: &Saved, problem: String, now_us: i64) -> Option<Saved> {
    if saved.job.is_some() {
        return None;
    }
    let fault = Fault::Unreadable(problem);
    let word = refusal(String::new(), None, &fault, String::new());
    // The broker keeps the message and sends it at every connection: it is answered once.
    let same = saved.word.as_ref().is_some_and(|said| said.fault == word.fault);
    (!same).then(|| said(saved.clone(), word, now_us))
}

fn asked(saved: &Saved, model: &DesiredModel, wish: &str, judge: &Judge<'_>) -> Answer {
    let parsed = SignedManifest::from_document(&model.signed);
    let id = parsed.as_ref().ok().map(|signed| Digest(signed.id()));
    if let (Some(job), Some(id)) = (&saved.job, id)
        && job.installed.id == id
    {
        if job.wish == wish {
            return Answer::Nothing;
        }
        // The same, asked anew: its files may lie elsewhere now.
        let mut again = saved.clone();
        if let Some(job) = &mut again.job {
            job.wish = wish.to_owned();
            job.files.clone_from(&model.files);
            job.trial_s = model.trial_s;
        }
        return next(again);
    }
    let answered = saved.job.is_none()
        && saved.word.as_ref().is_some_and(|word| {
            word.wish == wish
                && word.id == id
                && (id.is_some() || word.release == model.signed.release)
        });
    if answered {
        return Answer::Nothing;
    }
    let title = model.signed.release.clone();
    // A newer wish takes the place of whatever is under way.
    let free = Saved { job: None, ..saved.clone() };
    let runs = saved.running().filter(|running| Some(running.id) == id);
    if let Some(running) = runs {
        let word = Word {
            release: title,
            id,
            counter: Some(running.release.counter),
            step: UpdateStep::Committed,
            fault: None,
            at_us: 0,
            wish: wish.to_owned(),
        };
        return next(said(free, word, judge.now_us));
    }
    match parsed.and_then(|signed| judged(saved, &signed, judge)) {
        Ok(verified) => next(accepted(free, model, wish, &verified, judge.now_us)),
        Err(Refusal::ClockUnset) => Answer::Later,
        Err(reason) => {
            let word = refusal(title, id, &Fault::Refused(reason), wish.to_owned());
            next(said(free, word, judge.now_us))
        }
    }
}

/// Whether this station may install it, now.
fn judged(saved: &Saved, signed: &SignedManifest, judge: &Judge<'_>) -> Result<Verified, Refusal> {
    let seconds = judge.now_us.div_euclid(1_000_000);
    let station = Station {
        trusted: judge.trusted,
        device: judge.device,
        site: judge.site,
        agent_version: judge.agent_version,
        now_unix_s: judge.clock_set.then(|| seconds.max(saved.latest_unix_s)),
    };
    let highest = saved.highest.map(|(counter, release)| Highest { counter, release: release.0 });
    let blocked: Vec<[u8; 32]> = saved.blocked.iter().map(|bundle| bundle.0).collect();
    let active = saved.running().map(|running| &running.release);
    verify(signed, &station, &Memory { highest, active, blocked: &blocked })
}

fn accepted(
    mut saved: Saved,
    model: &DesiredModel,
    wish: &str,
    verified: &Verified,
    now_us: i64,
) -> Saved {
    let manifest = &verified.manifest;
    let installed = Installed {
        release: manifest.reference(),
        id: Digest(verified.id),
        // A verified manifest lists it.
        bundle: Digest(manifest.bundle_sha256().unwrap_or_default()),
    };
    if saved.highest.is_none_or(|(counter, _)| manifest.counter > counter) {
        saved.highest = Some((manifest.counter, installed.id));
    }
    saved.job = Some(Job {
        installed,
        signed: model.signed.clone(),
        files: model.files.clone(),
        trial_s: model.trial_s,
        wish: wish.to_owned(),
        since_us: now_us,
        step: UpdateStep::Accepted,
        starts: 0,
    });
    moved(saved, UpdateStep::Accepted, now_us)
}

/// The process was started. The release under way is judged anew: time has gone by, and a key may have
/// been taken out. A model on trial may not end the station again and again.
#[must_use]
pub fn woken(saved: &Saved, judge: &Judge<'_>) -> Option<Saved> {
    let job = saved.job.as_ref()?;
    if job.step == UpdateStep::Trial {
        if job.starts >= STARTS_MAX {
            return Some(failed(saved, &Fault::Unstable(job.starts + 1), judge.now_us));
        }
        let mut again = saved.clone();
        if let Some(job) = &mut again.job {
            job.starts += 1;
        }
        return Some(again);
    }
    match still_good(saved, judge) {
        Err(fault) => Some(failed(saved, &fault, judge.now_us)),
        Ok(_) => None,
    }
}

/// What is signed of the release under way, if it may still be installed.
///
/// # Errors
/// Why it may not.
pub fn still_good(saved: &Saved, judge: &Judge<'_>) -> Result<Manifest, Fault> {
    let Some(job) = &saved.job else { return Err(Fault::Withdrawn) };
    let signed = SignedManifest::from_document(&job.signed)?;
    let verified = match judged(saved, &signed, judge) {
        // It was set when this was accepted.
        Err(Refusal::ClockUnset) => inspect(&signed, judge.trusted),
        judged => judged,
    };
    Ok(verified?.manifest)
}

/// There is a server, and room.
#[must_use]
pub fn begun(saved: Saved, now_us: i64) -> Saved {
    moved(saved, UpdateStep::Downloading, now_us)
}

/// Every file is there, with its hash.
#[must_use]
pub fn fetched(saved: Saved, now_us: i64) -> Saved {
    moved(saved, UpdateStep::Verified, now_us)
}

/// A process of its own could load it.
#[must_use]
pub fn loaded(saved: Saved, now_us: i64) -> Saved {
    let again = saved.job.as_ref().is_some_and(|job| job.step == UpdateStep::Loaded);
    if again { saved } else { moved(saved, UpdateStep::Loaded, now_us) }
}

/// It says its golden sounds as it should.
#[must_use]
pub fn proved(saved: Saved, now_us: i64) -> Saved {
    moved(saved, UpdateStep::Proved, now_us)
}

/// It lies in the spare slot.
#[must_use]
pub fn staged(mut saved: Saved, now_us: i64) -> Saved {
    let spare = saved.spare();
    if saved.previous == spare {
        saved.previous = Place::Factory;
    }
    let installed = saved.job.as_ref().map(|job| job.installed.clone());
    saved.install(spare, installed);
    moved(saved, UpdateStep::Trial, now_us)
}

/// It was tried, and is what runs from now on.
#[must_use]
pub fn committed(saved: Saved, now_us: i64) -> Saved {
    let mut saved = moved(saved, UpdateStep::Committed, now_us);
    (saved.previous, saved.active) = (saved.active, saved.spare());
    (saved.settled, saved.starts) = (false, 0);
    saved.job = None;
    saved
}

/// It is not to be: refused before it was tried, rolled back after.
#[must_use]
pub fn failed(saved: &Saved, fault: &Fault, now_us: i64) -> Saved {
    let Some(job) = &saved.job else { return saved.clone() };
    let mut next = saved.clone();
    let ran = job.step == UpdateStep::Trial || *fault == Fault::Withdrawn;
    let word = Word {
        release: title(&job.installed),
        id: Some(job.installed.id),
        counter: Some(job.installed.release.counter),
        step: if ran { UpdateStep::RolledBack } else { UpdateStep::Refused },
        fault: Some((fault.code().to_owned(), fault.to_string())),
        at_us: 0,
        wish: job.wish.clone(),
    };
    if job.step == UpdateStep::Trial {
        next.install(saved.spare(), None);
    }
    if fault.blocks() {
        block(&mut next, job.installed.bundle);
    }
    next.job = None;
    said(next, word, now_us)
}

/// The process was started and is about to load the model that runs: how often it may, without having
/// shown that the station lives with it, is bounded.
#[must_use]
pub fn starting(saved: &Saved, now_us: i64) -> Option<Saved> {
    if saved.settled || saved.active == Place::Factory {
        return None;
    }
    if saved.starts >= STARTS_MAX {
        return Some(fallen(saved, &Fault::Unstable(saved.starts), now_us));
    }
    Some(Saved { starts: saved.starts + 1, ..saved.clone() })
}

/// The station lives with the model, or was asked to stop before it could show that.
#[must_use]
pub fn lives(saved: &Saved, settled: bool) -> Option<Saved> {
    let mut next = Saved { settled: settled || saved.settled, starts: 0, ..saved.clone() };
    if let Some(job) = &mut next.job {
        job.starts = 0;
    }
    (next != *saved).then_some(next)
}

/// The model that runs does not: the one before it takes its place, or the factory's.
#[must_use]
pub fn fallen(saved: &Saved, fault: &Fault, now_us: i64) -> Saved {
    let Some(running) = saved.running().cloned() else { return saved.clone() };
    let mut next = saved.clone();
    next.install(saved.active, None);
    let has_previous = saved.previous != saved.active && next.installed(saved.previous).is_some();
    next.active = if has_previous { saved.previous } else { Place::Factory };
    next.previous = Place::Factory;
    // It ran before.
    (next.settled, next.starts) = (true, 0);
    if fault.blocks() {
        block(&mut next, running.bundle);
    }
    // What is under way was meant for the other slot, which may be this one now.
    if next.spare() != saved.spare() {
        next.job = None;
    }
    let wish = saved.word.as_ref().filter(|word| word.id == Some(running.id));
    let word = Word {
        release: title(&running),
        id: Some(running.id),
        counter: Some(running.release.counter),
        step: UpdateStep::RolledBack,
        fault: Some((fault.code().to_owned(), fault.to_string())),
        at_us: 0,
        wish: wish.map(|word| word.wish.clone()).unwrap_or_default(),
    };
    said(next, word, now_us)
}

fn next(saved: Saved) -> Answer {
    Answer::Next(Box::new(saved))
}

fn block(saved: &mut Saved, bundle: Digest) {
    saved.blocked.retain(|known| *known != bundle);
    saved.blocked.push(bundle);
    let excess = saved.blocked.len().saturating_sub(BLOCKED_MAX);
    saved.blocked.drain(..excess);
}

fn refusal(release: String, id: Option<Digest>, fault: &Fault, wish: String) -> Word {
    let fault = Some((fault.code().to_owned(), fault.to_string()));
    Word { release, id, counter: None, step: UpdateStep::Refused, fault, at_us: 0, wish }
}

/// The job takes a step, and says so.
fn moved(mut saved: Saved, step: UpdateStep, now_us: i64) -> Saved {
    let Some(job) = &mut saved.job else { return saved };
    job.step = step;
    let word = Word {
        release: title(&job.installed),
        id: Some(job.installed.id),
        counter: Some(job.installed.release.counter),
        step,
        fault: None,
        at_us: 0,
        wish: job.wish.clone(),
    };
    said(saved, word, now_us)
}

/// Words are ordered by their times, whatever the clock does: a millisecond apart at least.
fn said(mut saved: Saved, word: Word, now_us: i64) -> Saved {
    let after = saved.word.as_ref().map_or(i64::MIN, |word| word.at_us.saturating_add(1_000));
    saved.word = Some(Word { at_us: now_us.max(after), ..word });
    saved
}

fn title(installed: &Installed) -> String {
    format!("{}-{}", installed.release.name, installed.release.version)
}
