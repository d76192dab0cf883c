//! Path: registry → **serving** → inference
//!
//! Which version answers. The database says so, for every replica: each looks, loads what serves from
//! then on, and puts it in the place of what served before ([`Inference::swap`]). A version that does
//! not run here never takes that place.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ecosight_models::bundle::EVALUATION_FILE;
use ecosight_models::{BundleFiles, Choice, Classifier, ClassifierOptions, LoadError};
use serde_json::Value;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::clock::Clock;
use crate::config::ModelConfig;
use crate::inference::{Inference, ModelParts};
use crate::registry::Registry;
use crate::store::{ActivationRow, NewActivation, Store, StoreError, VersionRow, before};
use crate::training::{GOLDEN_TOLERANCE, Judge, JudgeError};

/// Windows of many files come in bulk. AudioSet's own classes cost twice the time.
const MODEL_OPTIONS: ClassifierOptions = ClassifierOptions { audioset: false, batching: true };
const FULL_OPTIONS: ClassifierOptions = ClassifierOptions { audioset: true, batching: true };
/// How often a replica looks whether another version serves.
const LOOK: Duration = Duration::from_secs(1);
/// A version that could not be loaded is tried again after this long.
const TRY_AGAIN: Duration = Duration::from_secs(60);
/// Changes that a rollback looks back over.
const HISTORY: i64 = 1_000;

/// Changes the version that serves. Cheap to clone.
#[derive(Clone)]
pub struct Switch {
    inner: Arc<Inner>,
}

struct Inner {
    inference: Inference,
    registry: Registry,
    store: Store,
    clock: Clock,
    model: ModelConfig,
    judge: Judge,
    /// One change at a time.
    turn: Mutex<()>,
    news: Notify,
}

/// Why the version that serves was not changed.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// No such version, or none before: the caller's fault.
    #[error("{0}")]
    Missing(String),
    /// It does not run on this machine; what served before still does.
    #[error("{0}")]
    Unfit(String),
    /// Another version came to serve meanwhile: look again.
    #[error("another version came to serve meanwhile; look at it first")]
    Overtaken,
    /// The database is not available.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Switch {
    /// Around what serves now.
    #[must_use]
    pub fn new(
        inference: Inference,
        registry: Registry,
        store: Store,
        clock: Clock,
        model: ModelConfig,
    ) -> Self {
        let judge = Judge { yamnet: model.yamnet.clone() };
        let (turn, news) = (Mutex::new(()), Notify::new());
        let inner = Inner { inference, registry, store, clock, model, judge, turn, news };
        Self { inner: Arc::new(inner) }
    }

    /// Makes a version the one that serves, once it is proven here: first in a process of its own
    /// that nothing depends on, then loaded beside the one that still answers.
    ///
    /// # Errors
    /// [`SwitchError`]; then nothing was changed.
    pub async fn activate(
        &self,
        id: Uuid,
        cause: &'static str,
        reason: String,
        by: String,
    ) -> Result<ActivationRow, SwitchError> {
        let _turn = self.inner.turn.lock().await;
        self.change(id, cause, reason, by).await
    }

    /// Goes back to the version that served before this one was chosen.
    ///
    /// # Errors
    /// [`SwitchError`]; then nothing was changed.
    pub async fn roll_back(
        &self,
        reason: String,
        by: String,
    ) -> Result<ActivationRow, SwitchError> {
        let _turn = self.inner.turn.lock().await;
        let changes = self.inner.store.activations(HISTORY).await?;
        let target = before(&changes).ok_or_else(|| {
            SwitchError::Missing(
                "No version served before this one: there is nothing to go back to.".into(),
            )
        })?;
        self.change(target, "rollback", reason, by).await
    }

    async fn change(
        &self,
        id: Uuid,
        cause: &'static str,
        reason: String,
        by: String,
    ) -> Result<ActivationRow, SwitchError> {
        let Inner { store, registry, .. } = &*self.inner;
        let version = store.version(id).await?.ok_or_else(|| {
            SwitchError::Missing(format!("There is no version {id} of the model."))
        })?;
        let serving = store.serving().await?;
        if let Some(serving) = serving.as_ref().filter(|serving| serving.version_id == id) {
            // It serves already; perhaps not here yet.
            self.inner.news.notify_one();
            return Ok(serving.clone());
        }
        self.inner.judge.prove(&registry.path(&version)).await.map_err(|error| match error {
            JudgeError::Unfit(what) | JudgeError::Passing(what) => SwitchError::Unfit(what),
        })?;
        let parts = self.load(&version).await.map_err(SwitchError::Unfit)?;
        let activation = NewActivation {
            version: id,
            instead_of: serving.map(|serving| serving.version_id),
            cause,
            reason,
            by,
            now_us: self.inner.clock.now_us(),
        };
        let done = store.activate_version(activation).await?.ok_or(SwitchError::Overtaken)?;
        self.put(parts, &version).await;
        Ok(done)
    }

    /// Tells the task that looks that there is something to see.
    pub fn look(&self) {
        self.inner.news.notify_one();
    }

    async fn load(&self, version: &VersionRow) -> Result<ModelParts, String> {
        let (dir, model, id) =
            (self.inner.registry.path(version), self.inner.model.clone(), version.id);
        let loaded = tokio::task::spawn_blocking(move || parts(&model, Some(&dir), Some(id))).await;
        loaded.map_err(|error| error.to_string())?
    }

    async fn put(&self, parts: ModelParts, version: &VersionRow) {
        let bundle = parts.classifier.bundle();
        let (tag, classes) = (bundle.tag.to_string(), bundle.classes.clone());
        let known =
            self.inner.store.remember_model(&tag, &version.name, &version.version, &classes).await;
        if let Err(error) = known {
            warn!(%error, "the classes of a model are not noted");
        }
        self.inner.inference.swap(parts);
        info!(name = version.name, version = version.version, tag, "another model serves");
    }

    /// Puts in place what the database says serves, until `stop`.
    pub async fn follow(self, stop: CancellationToken) {
        let mut failed: Option<(Uuid, Instant)> = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.inner.news.notified() => {}
                () = sleep(LOOK) => {}
            }
            let _turn = self.inner.turn.lock().await;
            let here = self.inner.inference.serving().ok().and_then(|model| model.version());
            let Ok(Some(serving)) = self.inner.store.serving().await else { continue };
            let id = serving.version_id;
            let waits = failed.is_some_and(|(which, until)| which == id && Instant::now() < until);
            if here == Some(id) || waits {
                continue;
            }
            let loaded = match self.inner.store.version(id).await {
                Ok(Some(version)) => self.load(&version).await.map(|parts| (parts, version)),
                Ok(None) => Err("it is not in the registry".into()),
                Err(error) => Err(error.to_string()),
            };
            match loaded {
                Ok((parts, version)) => self.put(parts, &version).await,
                Err(reason) => {
                    error!(version = %id, reason, "the version that serves cannot be loaded here");
                    failed = Some((id, Instant::now() + TRY_AGAIN));
                }
            }
        }
    }
}

/// The bundle that the operator named, or the built-in one for this machine.
pub(crate) fn chosen(model: &ModelConfig) -> Result<(Choice, BundleFiles), String> {
    let chosen = match &model.bundle {
        Some(dir) => {
            BundleFiles::open(dir).map(|files| (Choice::Named, files)).map_err(LoadError::from)
        }
        None => Choice::builtin(model.yamnet.as_deref()),
    };
    chosen.map_err(|error| remedy(&error))
}

/// A model, proven on the sounds whose scores its bundle states; or what is wrong and what to do.
/// `dir`: a version's, or `None` for what [`chosen`] gives.
pub(crate) fn parts(
    model: &ModelConfig,
    dir: Option<&Path>,
    version: Option<Uuid>,
) -> Result<ModelParts, String> {
    let (classifier, evaluation) = load(model, dir, MODEL_OPTIONS)?;
    match classifier.golden_deviation() {
        Ok(Some(off)) if off > GOLDEN_TOLERANCE => {
            warn!(off, "the model's scores differ from those in its bundle: is it another YAMNet?");
        }
        Ok(_) => {}
        Err(error) => return Err(format!("the model does not run: {error}.")),
    }
    let (model, dir) = (model.clone(), dir.map(Path::to_owned));
    let full = move || {
        let (classifier, _) = load(&model, dir.as_deref(), FULL_OPTIONS)?;
        info!("loaded YAMNet's last layer for AudioSet classes");
        Ok(classifier)
    };
    Ok(ModelParts { classifier, evaluation, version, full: Arc::new(full) })
}

fn load(
    model: &ModelConfig,
    dir: Option<&Path>,
    options: ClassifierOptions,
) -> Result<(Classifier, Option<Value>), String> {
    let (own, own_files) = chosen(model).map_or((None, None), |(c, f)| (Some(c), Some(f)));
    let (choice, files) = match dir {
        Some(dir) => {
            let files = BundleFiles::open(dir).map_err(|error| error.to_string())?;
            // The built-in bundle is told as such though its files lie in the registry too.
            let same = own_files.is_some_and(|own| own.bundle.sha256 == files.bundle.sha256);
            (own.filter(|_| same).unwrap_or(Choice::Named), files)
        }
        None => chosen(model)?,
    };
    let evaluation =
        files.file(EVALUATION_FILE).and_then(|bytes| serde_json::from_slice(bytes).ok());
    let classifier = Classifier::chosen(choice, files, model.yamnet.as_deref(), options);
    Ok((classifier.map_err(|error| remedy(&error))?, evaluation))
}

fn remedy(error: &LoadError) -> String {
    let import = match error {
        LoadError::Backbone(_) => " (ecosight-models import-yamnet FILE)",
        _ => "",
    };
    format!("{error}{import}. Then start the server again.")
}
