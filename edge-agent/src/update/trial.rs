//! Path: hearing → **trial** (shadow ear) → report
//!
//! A model that is tried hears the same sound as the one in use, on a thread of its own that the
//! listening thread waits for never: what it says is counted and alarms nobody, and however slow it
//! is, no sound is lost by it. When it is to take over, its ear comes back with all that it has heard,
//! and goes on where the other stops, so that no window is missed.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use ecosight_models::{DetectorOutput, SAMPLE_RATE_HZ};
use ecosight_shared::json::TrialReport;
use tokio::sync::oneshot;

use super::fault::Fault;
use super::prove::WINDOW_LIMIT;
use crate::ear::{Account, Ear, Verdict};

/// What the listening thread is told.
pub enum Order {
    /// Let this ear hear as well.
    Try(Box<Ear>, Board),
    /// No more of it.
    Stop,
    /// It is to take over; the answer comes when it has, or why it cannot.
    TakeOver(Done),
}

/// What a trial has shown so far; shared by whoever hears and whoever decides.
#[derive(Clone, Debug, Default)]
pub struct Board {
    inner: Arc<Mutex<Tally>>,
}

/// Counts of a trial.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Windows that both judged.
    pub windows: u64,
    /// Of them, those in which both say the same.
    pub agreed: u64,
    /// Windows that the model on trial failed on.
    pub failed: u64,
    /// What it said when it failed last.
    pub problem: Option<String>,
    /// Events of the model in use.
    pub events_old: u64,
    /// Events of the model on trial.
    pub events_new: u64,
    /// Time that the model in use took.
    pub spent_old: Duration,
    /// Time that the model on trial took.
    pub spent_new: Duration,
    /// Sound that waits for the model on trial, seconds.
    pub behind_s: u64,
    /// The thread of the model on trial panicked.
    pub broken: bool,
}

/// What is to become of a trial.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It goes on.
    Open,
    /// It was tried long enough.
    Passed,
    /// It must end.
    Failed(Fault),
}

/// Windows after which failures are judged.
const FAILURES_FROM: u64 = 10;
/// Of windows, one in so many may fail.
const FAILURES_SHARE: u64 = 100;
/// Sound that may wait before the model counts as too slow.
const BEHIND_MAX_S: u64 = 30;
/// Windows from which the time of one is judged.
const TIMED_FROM: u64 = 20;
/// Events that the new model may always raise, and how many times those of the old one beyond.
const FLOOD: (u64, u64) = (10, 3);
/// Fewest windows that both must have judged, however short the trial: ten seconds.
pub const WINDOWS_MIN: u64 = 20;
/// Of a replay, sound that may wait before more is read, in samples, and how long it is held up at
/// once.
const AHEAD_MAX: u64 = 10 * SAMPLE_RATE_HZ as u64;
const PATIENCE: Duration = Duration::from_secs(1);
/// Told how a change of models ended.
type Done = oneshot::Sender<Result<(), String>>;

/// Verdicts that wait for their pair.
const PAIRS_MAX: usize = 1_024;
/// Longest that a take-over waits for a moment without an event, in samples.
const QUIET_WITHIN: u64 = 30 * SAMPLE_RATE_HZ as u64;

/// Decides from what was counted. `elapsed` and `length` are those of the trial.
#[must_use]
pub fn judge(tally: &Tally, elapsed: Duration, length: Duration) -> Outcome {
    let tried = tally.windows + tally.failed;
    let fails = || {
        let problem = tally.problem.clone().unwrap_or_default();
        Fault::Fails { failed: tally.failed, windows: tried, problem }
    };
    if tally.broken {
        return Outcome::Failed(fails());
    }
    if tried >= FAILURES_FROM && tally.failed * FAILURES_SHARE > tried {
        return Outcome::Failed(fails());
    }
    if tally.behind_s > BEHIND_MAX_S {
        return Outcome::Failed(Fault::FallsBehind(tally.behind_s));
    }
    let took = tally.spent_new / u32::try_from(tally.windows.max(1)).unwrap_or(u32::MAX);
    if tally.windows >= TIMED_FROM && took > WINDOW_LIMIT {
        let (took_ms, allowed_ms) = (took.as_millis() as u64, WINDOW_LIMIT.as_millis() as u64);
        return Outcome::Failed(Fault::TooSlowModel { took_ms, allowed_ms });
    }
    let (old, new) = (tally.events_old, tally.events_new);
    if new > FLOOD.0 + FLOOD.1 * old {
        return Outcome::Failed(Fault::Floods { old, new });
    }
    // While the microphone is away nothing is shown, however much time goes by.
    let half = length.as_secs_f64() / (2.0 * 0.48);
    let enough = tally.windows >= WINDOWS_MIN.max(half as u64);
    if elapsed >= length && enough { Outcome::Passed } else { Outcome::Open }
}

impl Tally {
    /// As it is told.
    #[must_use]
    pub fn report(&self) -> TrialReport {
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        TrialReport {
            windows: self.windows,
            failed: self.failed,
            events_old: self.events_old,
            events_new: self.events_new,
            agreement: share(self.agreed as f64, self.windows as f64),
            slowness: share(self.spent_new.as_secs_f64(), self.spent_old.as_secs_f64()),
        }
    }
}

impl Board {
    /// What has been counted.
    #[must_use]
    pub fn read(&self) -> Tally {
        self.tally().clone()
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the shadow is fed with.
enum Feed {
    Sound(Sound, Account),
    /// What comes next begins at this sample and is no neighbour of what was.
    Interrupt(u64),
    /// Give the ear back.
    HandOver,
}

/// A piece of the stream.
struct Sound {
    samples: Vec<f32>,
    unix_us: i64,
}

/// The listening thread's side of a trial.
pub(crate) struct Shadow {
    feed: mpsc::Sender<Feed>,
    ear: mpsc::Receiver<Box<Ear>>,
    /// Samples that were fed and are not heard yet.
    waiting: Arc<AtomicU64>,
    board: Board,
    /// Samples up to the first window that both judge.
    skip: usize,
    taking_over: Option<TakingOver>,
}

/// From the order to take over to the moment at which it is done.
struct TakingOver {
    done: Done,
    /// Samples since the order.
    waited: u64,
    /// What was heard before the ear came back, and where it begins if that is no neighbour of what
    /// the ear has heard.
    missed: Vec<Sound>,
    begins: Option<u64>,
    heir: Option<Box<Ear>>,
}

impl Shadow {
    /// Lets `ear` hear from the sample `next` of the stream on, `skip` samples ahead: where a window of
    /// the model in use begins, so that both judge the same ones.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(crate) fn begin(
        mut ear: Box<Ear>,
        board: Board,
        next: u64,
        skip: usize,
    ) -> std::io::Result<Self> {
        ear.reset(next);
        ear.keep_account(true);
        let (feed, fed) = mpsc::channel();
        let (give, given) = mpsc::channel();
        let waiting = Arc::new(AtomicU64::new(0));
        let (own, counted) = (board.clone(), Arc::clone(&waiting));
        std::thread::Builder::new().name("trial".into()).spawn(move || {
            let heard = catch_unwind(AssertUnwindSafe(|| hear(ear, &fed, &own, &counted)));
            match heard {
                Ok(Some(ear)) => {
                    // Without a receiver nobody wants it any more.
                    let _ = give.send(ear);
                }
                Ok(None) => {}
                Err(_) => {
                    let mut tally = own.tally();
                    tally.broken = true;
                    tally.problem = Some("it panicked".into());
                }
            }
        })?;
        Ok(Self { feed, ear: given, waiting, board, skip, taking_over: None })
    }

    /// Hands the same sound on, with what the ear in use did with it. A replay waits for a shadow
    /// that is behind: its sound is not in a hurry.
    pub(crate) fn hear(&mut self, samples: &[f32], unix_us: i64, account: Account, may_wait: bool) {
        let skipped = self.skip.min(samples.len());
        self.skip -= skipped;
        let samples = &samples[skipped..];
        let sound = Sound { samples: samples.to_vec(), unix_us };
        if let Some(taking_over) = &mut self.taking_over {
            taking_over.waited += samples.len() as u64;
            match &mut taking_over.heir {
                Some(heir) => listen(heir, &sound),
                None => taking_over.missed.push(sound),
            }
            return;
        }
        let waiting = self.waiting.fetch_add(samples.len() as u64, Ordering::Relaxed);
        let behind_s = waiting / u64::from(SAMPLE_RATE_HZ);
        self.board.tally().behind_s = behind_s;
        if behind_s > 2 * BEHIND_MAX_S {
            // It is lost anyway; memory is not.
            return;
        }
        // A thread that is gone has said so on the board.
        let _ = self.feed.send(Feed::Sound(sound, account));
        let since = Instant::now();
        while may_wait
            && self.waiting.load(Ordering::Relaxed) > AHEAD_MAX
            && since.elapsed() < PATIENCE
        {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What comes next begins at `next`.
    pub(crate) fn interrupt(&mut self, next: u64) {
        self.skip = 0;
        match &mut self.taking_over {
            Some(TakingOver { heir: Some(heir), .. }) => {
                let _ = heir.end();
                heir.reset(next);
            }
            Some(TakingOver { missed, begins, .. }) => {
                missed.clear();
                *begins = Some(next);
            }
            None => {
                let _ = self.feed.send(Feed::Interrupt(next));
            }
        }
    }

    /// Begins to take over.
    pub(crate) fn take_over(&mut self, done: Done) {
        let _ = self.feed.send(Feed::HandOver);
        let missed = Vec::new();
        self.taking_over = Some(TakingOver { done, waited: 0, missed, begins: None, heir: None });
    }

    /// Whether the ear is back, has heard everything, and `in_use` and it may change places now: in
    /// a moment in which every event is over, or when there was none for too long.
    pub(crate) fn is_due(&mut self, in_use: &Ear, all_closed: bool) -> bool {
        let Some(taking_over) = &mut self.taking_over else { return false };
        if taking_over.heir.is_none()
            && let Ok(mut ear) = self.ear.try_recv()
        {
            if let Some(next) = taking_over.begins {
                let _ = ear.end();
                ear.reset(next);
            }
            for sound in taking_over.missed.drain(..) {
                listen(&mut ear, &sound);
            }
            taking_over.heir = Some(ear);
        }
        let late = taking_over.waited >= QUIET_WITHIN;
        match &taking_over.heir {
            Some(heir) => late || (all_closed && in_use.is_quiet() && heir.is_quiet()),
            None => late,
        }
    }

    /// The ear that takes over, and whom to tell; an ear that never came back is told of here.
    pub(crate) fn heir(self) -> Option<(Box<Ear>, Done)> {
        let TakingOver { done, heir, .. } = self.taking_over?;
        match heir {
            Some(ear) => Some((ear, done)),
            None => {
                let _ = done.send(Err("the model on trial did not come back".into()));
                None
            }
        }
    }
}

/// Judges nothing but keeps the ear's memory going.
fn listen(ear: &mut Ear, sound: &Sound) {
    ear.set_time(sound.unix_us);
    let _: Vec<DetectorOutput> = ear.hear(&sound.samples);
    let _ = (ear.take_candidates(), ear.take_summary(), ear.take_account());
}

/// The shadow's thread, until it is to hand its ear over, or nobody feeds it any more.
fn hear(
    mut ear: Box<Ear>,
    fed: &mpsc::Receiver<Feed>,
    board: &Board,
    waiting: &AtomicU64,
) -> Option<Box<Ear>> {
    let mut pairs = Pairs::default();
    while let Ok(feed) = fed.recv() {
        match feed {
            Feed::Sound(sound, old) => {
                ear.set_time(sound.unix_us);
                let _: Vec<DetectorOutput> = ear.hear(&sound.samples);
                let _ = (ear.take_candidates(), ear.take_summary());
                let new = ear.take_account();
                waiting.fetch_sub(sound.samples.len() as u64, Ordering::Relaxed);
                count(&mut board.tally(), &mut pairs, old, new);
            }
            Feed::Interrupt(next) => {
                let _ = ear.end();
                let _ = ear.take_account();
                ear.reset(next);
                pairs = Pairs::default();
            }
            Feed::HandOver => return Some(ear),
        }
    }
    None
}

/// Verdicts of either that wait for the other's: models differ in how long they wait.
#[derive(Default)]
struct Pairs {
    old: VecDeque<Verdict>,
    new: VecDeque<Verdict>,
}

fn count(tally: &mut Tally, pairs: &mut Pairs, old: Account, new: Account) {
    tally.failed += new.failed;
    if new.problem.is_some() {
        tally.problem = new.problem;
    }
    tally.events_old += old.events;
    tally.events_new += new.events;
    tally.spent_old += old.spent;
    tally.spent_new += new.spent;
    pairs.old.extend(old.verdicts);
    pairs.new.extend(new.verdicts);
    while let (Some(old), Some(new)) = (pairs.old.front(), pairs.new.front()) {
        if old.start_sample == new.start_sample {
            tally.windows += 1;
            tally.agreed += u64::from(old.over == new.over);
        }
        let (drop_old, drop_new) =
            (old.start_sample <= new.start_sample, new.start_sample <= old.start_sample);
        if drop_old {
            pairs.old.pop_front();
        }
        if drop_new {
            pairs.new.pop_front();
        }
    }
    for side in [&mut pairs.old, &mut pairs.new] {
        let excess = side.len().saturating_sub(PAIRS_MAX);
        side.drain(..excess);
    }
}
