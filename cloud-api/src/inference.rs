//! Path: http → **inference** → models
//!
//! One place where the process classifies whole files, off the threads that serve. As many at one
//! time as there are cores; a few may wait; more are turned away at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ecosight_models::audio::{AudioError, AudioReader, DecodeLimits};
use ecosight_models::{Bundle, Classifier, Scores, Window};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Most bytes of one file.
pub const MAX_FILE_BYTES: usize = 32 * 1024 * 1024;
/// Most seconds of sound in one file: a small file may hold days.
const MAX_SECONDS: f64 = 600.0;
/// Most time for one file. Ten minutes of sound take a few seconds.
const TIME_LIMIT: Duration = Duration::from_secs(45);
/// A file of floats that was written in the scale of 16-bit integers is still heard; beyond that the
/// network's sums would overflow.
const SCALE_LIMIT: f32 = 100_000.0;
/// Windows classified at once.
const BATCH_LEN: usize = 8;
/// Uploads held in memory at one time, all files together.
const MAX_HELD_BYTES: usize = 4 * MAX_FILE_BYTES;

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Inference {
    /// Why there is no model, or the model.
    model: Result<Classifier, Arc<str>>,
    /// Files that wait or are classified.
    places: Arc<Semaphore>,
    running: Arc<Semaphore>,
    memory: Arc<Semaphore>,
}

/// What was heard in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// Probability of each class, in the bundle's order; they sum to 1.
    pub probabilities: Vec<f64>,
}

/// Why a file was not classified.
#[derive(Debug, thiserror::Error)]
pub enum PredictError {
    /// No model: the operator imports YAMNet.
    #[error("{0}")]
    NoModel(Arc<str>),
    /// Too much to do: come back later.
    #[error("all places are taken")]
    Overloaded,
    /// The file is no sound, or one that is not taken: the caller's fault.
    #[error("{0}")]
    Audio(#[from] AudioError),
    /// Samples far outside full scale: the caller's fault.
    #[error("the sound holds samples beyond {SCALE_LIMIT} times full scale; export the file again")]
    OffScale,
    /// Nothing to hear: the caller's fault.
    #[error("the file holds no sound")]
    Empty,
    /// It took too long: the caller sends a shorter file.
    #[error("the file took longer than {} s", TIME_LIMIT.as_secs())]
    TooSlow,
    /// The caller went away.
    #[error("nobody waits for the answer")]
    Abandoned,
    /// A fault of ours.
    #[error("cannot classify: {0}")]
    Failed(String),
}

/// Room for a file in memory.
#[derive(Debug)]
pub struct Held(
    #[allow(dead_code, reason = "holds its permits until it is dropped")] Vec<OwnedSemaphorePermit>,
);

impl Inference {
    /// The service around a model, or around the reason why there is none.
    #[must_use]
    pub fn new(model: Result<Classifier, String>, threads: usize, queue: usize) -> Self {
        Self {
            model: model.map_err(Into::into),
            places: Arc::new(Semaphore::new(threads + queue)),
            running: Arc::new(Semaphore::new(threads)),
            memory: Arc::new(Semaphore::new(MAX_HELD_BYTES)),
        }
    }

    /// The model.
    ///
    /// # Errors
    /// [`PredictError::NoModel`] says what to do.
    pub fn classifier(&self) -> Result<&Classifier, PredictError> {
        self.model.as_ref().map_err(|reason| PredictError::NoModel(reason.clone()))
    }

    /// The model's bundle.
    ///
    /// # Errors
    /// [`PredictError::NoModel`] says what to do.
    pub fn bundle(&self) -> Result<&Bundle, PredictError> {
        self.classifier().map(Classifier::bundle)
    }

    /// Takes room for `bytes` more bytes of an upload.
    ///
    /// # Errors
    /// [`PredictError::Overloaded`] if other uploads fill it.
    pub fn hold(&self, held: &mut Held, bytes: usize) -> Result<(), PredictError> {
        let bytes = u32::try_from(bytes).map_err(|_| PredictError::Overloaded)?;
        let permit = self.memory.clone().try_acquire_many_owned(bytes);
        held.0.push(permit.map_err(|_| PredictError::Overloaded)?);
        Ok(())
    }

    /// Classifies a file.
    ///
    /// # Errors
    /// [`PredictError`]; each variant says whose fault it is.
    pub async fn predict(&self, file: Vec<u8>, held: Held) -> Result<Heard, PredictError> {
        let classifier = self.model.clone().map_err(PredictError::NoModel)?;
        let place = self.places.clone().try_acquire_owned();
        let place = place.map_err(|_| PredictError::Overloaded)?;
        let running = self.running.clone().acquire_owned().await;
        let running = running.map_err(|_| PredictError::Abandoned)?;
        let abandoned = Abandoned::default();
        let flag = abandoned.0.clone();
        let work = move || {
            let heard = hear(&classifier, file, &flag);
            drop((running, place, held));
            heard
        };
        let heard = tokio::task::spawn_blocking(work).await;
        drop(abandoned);
        heard.map_err(|error| PredictError::Failed(error.to_string()))?
    }
}

impl Held {
    /// Room for nothing yet.
    #[must_use]
    pub fn nothing() -> Self {
        Self(Vec::new())
    }
}

/// Set when the future that waits for an answer is dropped.
#[derive(Default)]
struct Abandoned(Arc<AtomicBool>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn hear(
    classifier: &Classifier,
    file: Vec<u8>,
    abandoned: &AtomicBool,
) -> Result<Heard, PredictError> {
    let deadline = Instant::now() + TIME_LIMIT;
    let limits = DecodeLimits { max_bytes: MAX_FILE_BYTES as u64, max_seconds: MAX_SECONDS };
    let mut reader = AudioReader::from_bytes(file, &limits)?;
    let mut windower = classifier.windower();
    let mut scores = Vec::new();
    let mut waiting: Vec<Window> = Vec::with_capacity(BATCH_LEN);
    loop {
        if abandoned.load(Ordering::Relaxed) {
            return Err(PredictError::Abandoned);
        }
        if Instant::now() >= deadline {
            return Err(PredictError::TooSlow);
        }
        let block = reader.next_block()?;
        let ended = block.is_none();
        match block {
            Some(block) if block.iter().all(|sample| sample.abs() <= SCALE_LIMIT) => {
                windower.push(block);
            }
            Some(_) => return Err(PredictError::OffScale),
            None => windower.finish(),
        }
        while let Some(window) = windower.next_window() {
            waiting.push(window);
            if waiting.len() == BATCH_LEN {
                classify(classifier, &mut waiting, &mut scores)?;
            }
        }
        if ended {
            break;
        }
    }
    classify(classifier, &mut waiting, &mut scores)?;
    if scores.is_empty() {
        return Err(PredictError::Empty);
    }
    Ok(Heard { probabilities: probabilities(&scores, classifier.bundle()) })
}

fn classify(
    classifier: &Classifier,
    windows: &mut Vec<Window>,
    scores: &mut Vec<Scores>,
) -> Result<(), PredictError> {
    if !windows.is_empty() {
        let new = classifier.classify(windows);
        scores.extend(new.map_err(|error| PredictError::Failed(error.to_string()))?);
        windows.clear();
    }
    Ok(())
}

/// What a whole file holds, from the scores of its windows.
///
/// A class that the detector watches for is as probable as the detector's own measure at its highest:
/// the mean of so many neighbouring windows as must confirm it. The other classes describe the
/// background; they share, by their mean over the file, what the most probable watched class leaves.
/// So a shot in a minute of rain is a shot, and a file is called one about when a station would call
/// it one. All together are scaled to sum to 1.
fn probabilities(scores: &[Scores], bundle: &Bundle) -> Vec<f64> {
    let classes = bundle.classes.len();
    let score = |window: &Scores, class: usize| {
        f64::from(window.classes.get(class).copied().unwrap_or(0.0))
    };
    let mut watched = vec![None; classes];
    for rule in &bundle.detector.rules {
        let neighbours = rule.confirm_windows.clamp(1, scores.len());
        let mean = |group: &[Scores]| {
            group.iter().map(|window| score(window, rule.class)).sum::<f64>() / neighbours as f64
        };
        if let Some(best) = watched.get_mut(rule.class) {
            *best = Some(scores.windows(neighbours).map(mean).fold(0.0, f64::max));
        }
    }
    let left = 1.0 - watched.iter().flatten().copied().fold(0.0, f64::max);
    let mean = |class: usize| {
        scores.iter().map(|window| score(window, class)).sum::<f64>() / scores.len() as f64
    };
    let background: f64 =
        (0..classes).filter(|class| watched[*class].is_none()).map(mean).sum::<f64>();
    let raw: Vec<f64> = (0..classes)
        .map(|class| match watched[class] {
            Some(best) => best,
            None if background > 0.0 => left * mean(class) / background,
            None => 0.0,
        })
        .collect();
    let sum: f64 = raw.iter().sum();
    if sum > 0.0 {
        raw.into_iter().map(|value| value / sum).collect()
    } else {
        vec![1.0 / classes.max(1) as f64; classes]
    }
}
