//! How far a training is, for people and for programs, on standard error.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::crossval::Told;

/// Tells of progress on standard error every few seconds, with the time that is left.
pub struct Progress {
    what: &'static str,
    start: Instant,
    told: Mutex<Instant>,
    lines: bool,
}

impl Progress {
    /// Of the stage `what`, which begins now.
    pub fn new(what: &'static str) -> Self {
        let start = Instant::now();
        Self { what, start, told: Mutex::new(start), lines: false }
    }

    /// Tells in lines of JSON, and more often: programs do not mind.
    pub(super) fn in_lines(self, lines: bool) -> Self {
        Self { lines, ..self }
    }

    /// So much is done.
    pub fn tell(&self, done: usize, all: usize) {
        if !self.is_due(done >= all) {
            return;
        }
        let (elapsed, left) = (self.start.elapsed().as_secs_f64(), self.left_s(done, all));
        match self.lines {
            true => tell_line(&json!({
                "stage": self.what, "done": done, "all": all, "left_s": left,
            })),
            false => eprintln!("{}: {done}/{all}, {elapsed:.0} s, {left:.0} s left", self.what),
        }
    }

    /// Whether something was last told long enough ago, or this is the `last` there is to tell.
    fn is_due(&self, last: bool) -> bool {
        let every = Duration::from_millis(if self.lines { 500 } else { 5_000 });
        let Ok(mut told) = self.told.lock() else { return false };
        let due = last || told.elapsed() >= every;
        if due {
            *told = Instant::now();
        }
        due
    }

    fn left_s(&self, done: usize, all: usize) -> f64 {
        self.start.elapsed().as_secs_f64() / done.max(1) as f64 * all.saturating_sub(done) as f64
    }
}

pub(super) fn tell_line(told: &serde_json::Value) {
    eprintln!("{told}");
}

/// How far the cross-validation is, by the epochs of all its fits.
pub(super) struct Course<'a> {
    progress: &'a Progress,
    epochs: usize,
    folds: usize,
    ended: AtomicUsize,
    folds_done: AtomicUsize,
}

impl<'a> Course<'a> {
    pub(super) fn new(progress: &'a Progress, epochs: usize, folds: usize) -> Self {
        let (ended, folds_done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { progress, epochs, folds, ended, folds_done }
    }

    pub(super) fn hear(&self, told: Told<'_>) {
        match told {
            Told::Fold(done, all) => {
                self.folds_done.store(done, Ordering::Relaxed);
                if !self.progress.lines {
                    self.progress.tell(done, all);
                }
            }
            Told::Epoch(number, epoch) => {
                let ended = self.ended.fetch_add(1, Ordering::Relaxed) + 1;
                if self.progress.lines && self.progress.is_due(ended >= self.epochs) {
                    tell_line(&json!({
                        "stage": "folds",
                        "done": self.folds_done.load(Ordering::Relaxed),
                        "all": self.folds,
                        "epoch": number,
                        "loss": epoch.loss,
                        "val_loss": epoch.val_loss,
                        "left_s": self.progress.left_s(ended, self.epochs),
                    }));
                }
            }
        }
    }
}
