//! Files that wait, and the threads that work on them.
//!
//! Each thread fills one batch: it takes windows of the file that has waited longest, then of the
//! next, until the batch is full or nothing waits. A file that filled a batch alone goes to the end of
//! the queue; one that was cut by the batch's end goes on first. So an upload of ten minutes and one of
//! two seconds each have a batch in turn.
//!
//! A new file is turned away when the files before it would keep it waiting for longer than the limit.
//! The wait is an estimate: a turn of each file before it, at the pace that was measured last.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ecosight_models::yamnet::BATCH;
use ecosight_models::{Classifier, Scores, Window};
use tokio::time::Instant;
use tracing::{error, warn};

use super::file::File;
use super::{Full, PredictError};
use crate::metric;

/// Seconds of one window on one thread, before any was measured: a small server that also decodes.
const FIRST_PACE_S: f64 = 0.003;
/// Weight of the newest batch in the measured pace.
const PACE_WEIGHT: f64 = 0.1;
/// Threads that classify leave the processor to those that serve and store.
const NICENESS: i32 = 5;

pub(super) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    threads: usize,
    places: usize,
    max_wait: Duration,
    audioset: bool,
}

struct State {
    waiting: VecDeque<File>,
    /// Files in the threads' hands.
    in_work: usize,
    /// Windows in the next turns of all files that wait or are worked on.
    load: usize,
    /// Seconds of one window on one thread.
    pace_s: f64,
    closed: bool,
}

/// A file in a batch, with how many of the batch's windows are its.
struct Member {
    file: File,
    windows: usize,
    /// What it weighs in [`State::load`].
    load: usize,
}

impl Queue {
    pub(super) fn new(
        threads: usize,
        queue: usize,
        max_wait: Duration,
        audioset: bool,
    ) -> Arc<Self> {
        let state = State {
            waiting: VecDeque::new(),
            in_work: 0,
            load: 0,
            pace_s: FIRST_PACE_S,
            closed: false,
        };
        let (filled, places) = (Condvar::new(), threads + queue);
        Arc::new(Self { state: Mutex::new(state), filled, threads, places, max_wait, audioset })
    }

    /// Starts the threads; they end when the queue is closed.
    pub(super) fn start(self: &Arc<Self>, classifier: &Classifier, full: &Arc<Full>) {
        for number in 0..self.threads {
            let (queue, classifier, full) = (self.clone(), classifier.clone(), full.clone());
            let thread = std::thread::Builder::new().name(format!("inference-{number}"));
            let started = thread.spawn(move || {
                if let Err(error) = rustix::process::nice(NICENESS) {
                    warn!(%error, "inference runs at the priority of everything else");
                }
                queue.work(&classifier, &full);
            });
            if let Err(error) = started {
                error!(%error, "cannot start a thread for inference");
            }
        }
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }

    pub(super) fn admits(&self) -> Result<(), PredictError> {
        self.admission(&self.lock())
    }

    fn admission(&self, state: &State) -> Result<(), PredictError> {
        let wait_s = state.load as f64 * state.pace_s / self.threads as f64;
        let full = state.waiting.len() + state.in_work >= self.places;
        // With nothing before it a file never waits, whatever the pace.
        if full || (state.load > 0 && wait_s > self.max_wait.as_secs_f64()) {
            metric::shed();
            return Err(PredictError::Overloaded {
                retry_s: wait_s.ceil().clamp(1.0, 60.0) as u16,
            });
        }
        Ok(())
    }

    pub(super) fn push(&self, mut file: File) -> Result<(), PredictError> {
        if self.audioset {
            file.want_audioset();
        }
        let mut state = self.lock();
        self.admission(&state)?;
        state.load += turn(&file);
        state.waiting.push_back(file);
        metric::queued(state.waiting.len());
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    fn work(&self, classifier: &Classifier, full: &Full) {
        while let Some(first) = self.wait() {
            let started = Instant::now();
            let turn = AssertUnwindSafe(|| self.turn(first, classifier, full));
            let windows = catch_unwind(turn).unwrap_or_else(|_| {
                // The files of the turn are gone with it, and those who wait for them know.
                error!("a thread of the inference panicked");
                self.recount();
                0
            });
            if windows > 0 {
                let pace_s = started.elapsed().as_secs_f64() / windows as f64;
                let mut state = self.lock();
                state.pace_s += (pace_s - state.pace_s) * PACE_WEIGHT;
            }
        }
    }

    /// Fills a batch, classifies it, and answers for the files that are through; gives the number of
    /// windows.
    fn turn(&self, first: (File, usize), classifier: &Classifier, full: &Full) -> usize {
        let started = Instant::now();
        let audioset = first.0.wants_audioset();
        let mut windows = Vec::with_capacity(BATCH);
        let mut members: Vec<Member> = Vec::new();
        let mut next = Some(first);
        while let Some((mut file, load)) = next.take() {
            match file.take(BATCH - windows.len(), &mut windows) {
                Ok(0) if file.is_drained() => {
                    self.leave(load);
                    file.finish(classifier.bundle());
                }
                Ok(taken) => members.push(Member { file, windows: taken, load }),
                Err(error) => {
                    self.leave(load);
                    file.fail(error);
                }
            }
            if windows.len() < BATCH {
                next = self.next(audioset);
            }
        }
        let count = windows.len();
        let chosen = if audioset { full.classifier() } else { Ok(classifier) };
        match chosen.and_then(|chosen| classify(chosen, &windows)) {
            Ok(scores) => {
                if count > 0 {
                    metric::inferred(count, started.elapsed().as_secs_f64() / count as f64);
                }
                self.hand_out(members, scores, classifier);
            }
            Err(error) => {
                for Member { file, load, .. } in members {
                    self.leave(load);
                    file.fail(PredictError::Failed(error.to_string()));
                }
            }
        }
        count
    }

    fn hand_out(&self, members: Vec<Member>, scores: Vec<Scores>, classifier: &Classifier) {
        let mut scores = scores.into_iter();
        for Member { mut file, windows, load } in members {
            file.note(scores.by_ref().take(windows));
            if file.is_drained() {
                self.leave(load);
                metric::answered(file.queued().elapsed().as_secs_f64());
                file.finish(classifier.bundle());
            } else {
                self.give_back(file, load, windows == BATCH);
            }
        }
    }

    /// Waits for a file; `None` when the queue is closed.
    fn wait(&self) -> Option<(File, usize)> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(next) = take_first(&mut state, None) {
                return Some(next);
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next file that waits, if it needs the same network.
    fn next(&self, audioset: bool) -> Option<(File, usize)> {
        take_first(&mut self.lock(), Some(audioset))
    }

    fn leave(&self, load: usize) {
        let mut state = self.lock();
        state.in_work = state.in_work.saturating_sub(1);
        state.load = state.load.saturating_sub(load);
    }

    fn give_back(&self, file: File, load: usize, had_its_turn: bool) {
        let mut state = self.lock();
        state.in_work = state.in_work.saturating_sub(1);
        state.load = state.load.saturating_sub(load) + turn(&file);
        if had_its_turn {
            state.waiting.push_back(file);
        } else {
            state.waiting.push_front(file);
        }
        drop(state);
        self.filled.notify_one();
    }

    /// After a panic nobody knows which files are gone.
    fn recount(&self) {
        let mut state = self.lock();
        state.in_work = 0;
        state.load = state.waiting.iter().map(turn).sum();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Windows that a file takes of the threads' time before others have their turn again.
fn turn(file: &File) -> usize {
    file.windows_left().min(BATCH)
}

/// Takes the first file that somebody waits for; with `audioset`, only if it needs that network.
fn take_first(state: &mut State, audioset: Option<bool>) -> Option<(File, usize)> {
    loop {
        let file = state.waiting.front()?;
        let load = turn(file);
        if !file.is_awaited() {
            state.waiting.pop_front();
            state.load = state.load.saturating_sub(load);
            continue;
        }
        if audioset.is_some_and(|audioset| file.wants_audioset() != audioset) {
            return None;
        }
        state.in_work += 1;
        let taken = state.waiting.pop_front().map(|file| (file, load));
        metric::queued(state.waiting.len());
        return taken;
    }
}

fn classify(classifier: &Classifier, windows: &[Window]) -> Result<Vec<Scores>, PredictError> {
    if windows.is_empty() {
        return Ok(Vec::new());
    }
    classifier.classify(windows).map_err(|error| PredictError::Failed(error.to_string()))
}
