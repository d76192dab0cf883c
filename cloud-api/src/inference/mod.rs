//! Path: http → **inference** → models
//!
//! One place where the process classifies whole files. Files wait in one bounded [`queue`]; one thread
//! per core takes windows from several of them at a time, so that the network runs on full batches
//! whoever sent them, and so that a long file never holds up a short one. What could not be answered
//! soon is turned away before it is decoded.

mod file;
mod queue;
mod verdict;

use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use ecosight_models::audio::AudioError;
use ecosight_models::{Bundle, Classifier};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use uuid::Uuid;

use file::File;
use queue::Queue;

pub use verdict::{Heard, WindowScores};

/// Most bytes of one file.
pub const MAX_FILE_BYTES: usize = 32 * 1024 * 1024;
/// Most seconds of sound in one file: a small file may hold days.
pub const MAX_SECONDS: f64 = 600.0;
/// Most time for one file. Ten minutes of sound take a few seconds.
const TIME_LIMIT: Duration = Duration::from_secs(45);
/// A file of floats that was written in the scale of 16-bit integers is still heard; beyond that the
/// network's sums would overflow.
const SCALE_LIMIT: f32 = 100_000.0;
/// Uploads held in memory at one time, all files together.
const MAX_HELD_BYTES: usize = 4 * MAX_FILE_BYTES;

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Inference {
    shared: Arc<Shared>,
}

struct Shared {
    options: InferenceOptions,
    /// Why there is no model, or the model that answers from now on.
    model: RwLock<Result<Arc<Model>, Arc<str>>>,
    memory: Arc<Semaphore>,
}

/// The model that answers a request, from its first window to its last: whatever is put in its place
/// meanwhile, one answer is of one model. Cheap to clone.
#[derive(Clone)]
pub struct Serving(Arc<Model>);

/// A model as the server runs it.
struct Model {
    parts: ModelParts,
    queue: Arc<Queue>,
}

/// A model that is ready to serve.
pub struct ModelParts {
    /// Classes, rules and networks.
    pub classifier: Classifier,
    /// `evaluation.json` of its bundle.
    pub evaluation: Option<Value>,
    /// Its number in the registry; `None` if it stands in none.
    pub version: Option<Uuid>,
    /// Loads the same model with YAMNet's last layer, which gives the AudioSet scores. Called at
    /// most once, when they are first asked for.
    pub full: Load,
}

/// Loads a model, or says why it cannot.
pub type Load = Arc<dyn Fn() -> Result<Classifier, String> + Send + Sync>;

/// How the service runs.
#[derive(Clone, Copy, Debug)]
pub struct InferenceOptions {
    /// Threads that classify.
    pub threads: usize,
    /// Files that may wait beside those that are worked on.
    pub queue: usize,
    /// A file that would wait longer than this is turned away.
    pub max_wait: Duration,
    /// Whether every answer names AudioSet classes; else only those that ask for it.
    pub audioset: bool,
}

/// What the caller wants beside the classes of the whole file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The scores of each window.
    pub windows: bool,
    /// The AudioSet classes that were heard.
    pub heard: bool,
}

/// Why a file was not classified.
#[derive(Debug, thiserror::Error)]
pub enum PredictError {
    /// No model: the operator imports YAMNet.
    #[error("{0}")]
    NoModel(Arc<str>),
    /// Too much to do: come back after so many seconds.
    #[error("more files wait than can be answered soon")]
    Overloaded {
        /// When there will be room, seconds.
        retry_s: u16,
    },
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
    pub fn new(model: Result<ModelParts, String>, options: InferenceOptions) -> Self {
        let model = model.map(|parts| Model::start(parts, &options)).map_err(Into::into);
        let memory = Arc::new(Semaphore::new(MAX_HELD_BYTES));
        Self { shared: Arc::new(Shared { options, model: RwLock::new(model), memory }) }
    }

    /// Puts a model in the place of the one that serves. Files that were taken before are answered by
    /// the model that took them, which ends with the last of them; none is lost.
    pub fn swap(&self, parts: ModelParts) {
        let model = Model::start(parts, &self.shared.options);
        let mut place = self.shared.model.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *place, Ok(model));
        drop(place);
        // Perhaps the last hold on the model before: its end takes no lock that others wait for.
        drop(before);
    }

    /// The model that answers from now on.
    ///
    /// # Errors
    /// [`PredictError::NoModel`] says what to do.
    pub fn serving(&self) -> Result<Serving, PredictError> {
        let place = self.shared.model.read().unwrap_or_else(PoisonError::into_inner);
        match &*place {
            Ok(model) => Ok(Serving(model.clone())),
            Err(reason) => Err(PredictError::NoModel(reason.clone())),
        }
    }

    /// Whether a file would be taken now. A caller asks before it reads a body that would be thrown
    /// away.
    ///
    /// # Errors
    /// [`PredictError::NoModel`], [`PredictError::Overloaded`].
    pub fn admits(&self) -> Result<(), PredictError> {
        self.serving()?.0.queue.admits()
    }

    /// Takes room for `bytes` more bytes of an upload.
    ///
    /// # Errors
    /// [`PredictError::Overloaded`] if other uploads fill it.
    pub fn hold(&self, held: &mut Held, bytes: usize) -> Result<(), PredictError> {
        let full = || PredictError::Overloaded { retry_s: 2 };
        let bytes = u32::try_from(bytes).map_err(|_| full())?;
        let memory = self.shared.memory.clone();
        held.0.push(memory.try_acquire_many_owned(bytes).map_err(|_| full())?);
        Ok(())
    }

    /// Classifies a file; also gives the model that did.
    ///
    /// # Errors
    /// [`PredictError`]; each variant says whose fault it is.
    pub async fn predict(
        &self,
        file: Vec<u8>,
        held: Held,
        wanted: Wanted,
    ) -> Result<(Heard, Serving), PredictError> {
        let serving = self.serving()?;
        let Model { parts, queue } = &*serving.0;
        let (answer, heard) = oneshot::channel();
        queue.push(File::new(file, held, wanted, parts.classifier.windower(), answer))?;
        // A thread that panics drops the files it holds.
        let heard = heard
            .await
            .unwrap_or_else(|_| Err(PredictError::Failed("a thread panicked".into())))?;
        Ok((heard, serving))
    }
}

impl Serving {
    /// The model.
    #[must_use]
    pub fn classifier(&self) -> &Classifier {
        &self.0.parts.classifier
    }

    /// Its bundle.
    #[must_use]
    pub fn bundle(&self) -> &Bundle {
        self.classifier().bundle()
    }

    /// What was measured of it where it was made: `evaluation.json` of its bundle.
    #[must_use]
    pub fn evaluation(&self) -> Option<&Value> {
        self.0.parts.evaluation.as_ref()
    }

    /// Its number in the registry.
    #[must_use]
    pub fn version(&self) -> Option<Uuid> {
        self.0.parts.version
    }
}

impl Model {
    fn start(parts: ModelParts, options: &InferenceOptions) -> Arc<Self> {
        let InferenceOptions { threads, queue, max_wait, audioset } = *options;
        let queue = Queue::new(threads.max(1), queue, max_wait, audioset);
        let full = Arc::new(Full { load: parts.full.clone(), loaded: OnceLock::new() });
        queue.start(&parts.classifier, &full);
        Arc::new(Self { parts, queue })
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Held {
    /// Room for nothing yet.
    #[must_use]
    pub fn nothing() -> Self {
        Self(Vec::new())
    }
}

/// The model with YAMNet's last layer, loaded when it is first needed: it costs twice the time of an
/// inner exit, and as much memory again.
struct Full {
    load: Load,
    loaded: OnceLock<Result<Classifier, Arc<str>>>,
}

impl Full {
    fn classifier(&self) -> Result<&Classifier, PredictError> {
        let loaded = self.loaded.get_or_init(|| (self.load)().map_err(Into::into));
        loaded.as_ref().map_err(|reason| PredictError::Failed(reason.to_string()))
    }
}
