//! The model that the server hears with.

use anyhow::{Context, Result};
use ecosight_models::bundle::EVALUATION_FILE;
use ecosight_models::{BundleFiles, Choice, Classifier, ClassifierOptions, LoadError};
use serde_json::Value;
use tracing::{error, info, warn};

use crate::config::{Config, ModelConfig};
use crate::inference::{Inference, InferenceOptions};
use crate::store::Store;

/// Windows of many files come in bulk. AudioSet's own classes cost twice the time.
const MODEL_OPTIONS: ClassifierOptions = ClassifierOptions { audioset: false, batching: true };
const FULL_OPTIONS: ClassifierOptions = ClassifierOptions { audioset: true, batching: true };
/// Scores may differ by this much between published copies of YAMNet.
const GOLDEN_TOLERANCE: f32 = 0.1;

/// Loads the model. Without one the server takes in and shows what stations send all the same.
pub(super) async fn load_model(config: &Config, store: &Store) -> Result<Inference> {
    let model = config.model.clone();
    let loaded = tokio::task::spawn_blocking(move || loaded(&model)).await.context("the model")?;
    let (loaded, evaluation) = match loaded {
        Ok((classifier, evaluation)) => {
            let bundle = classifier.bundle();
            let choice = classifier.choice();
            info!(
                name = bundle.name,
                version = bundle.version,
                tag = %bundle.tag,
                choice = choice.name(),
                why = %choice,
                "model loaded"
            );
            let (tag, classes) = (bundle.tag.to_string(), &bundle.classes);
            store.remember_model(&tag, &bundle.name, &bundle.version, classes).await?;
            (Ok(classifier), evaluation)
        }
        Err(reason) => {
            error!("NO MODEL: {reason} /predict and /health answer 503 until then.");
            (Err(reason), None)
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let model = config.model.clone();
    let options = InferenceOptions {
        threads: if model.threads == 0 { cores } else { model.threads },
        queue: model.queue,
        max_wait: model.max_wait,
        audioset: model.audioset,
        evaluation,
        full: Box::new(move || {
            let (classifier, _) = load(&model, FULL_OPTIONS)?;
            info!("loaded YAMNet's last layer for AudioSet classes");
            Ok(classifier)
        }),
    };
    Ok(Inference::new(loaded, options))
}

/// The model, proven on the sounds whose scores its bundle states, with its evaluation; or what is
/// wrong and what to do.
pub(crate) fn loaded(config: &ModelConfig) -> Result<(Classifier, Option<Value>), String> {
    let (classifier, evaluation) = load(config, MODEL_OPTIONS)?;
    match classifier.golden_deviation() {
        Ok(Some(off)) if off > GOLDEN_TOLERANCE => {
            warn!(off, "the model's scores differ from those in its bundle: is it another YAMNet?");
        }
        Ok(_) => {}
        Err(error) => return Err(format!("the model does not run: {error}.")),
    }
    Ok((classifier, evaluation))
}

fn load(
    config: &ModelConfig,
    options: ClassifierOptions,
) -> Result<(Classifier, Option<Value>), String> {
    let backbone = config.yamnet.as_deref();
    let chosen = match &config.bundle {
        Some(dir) => {
            BundleFiles::open(dir).map(|files| (Choice::Named, files)).map_err(LoadError::from)
        }
        None => Choice::builtin(backbone),
    };
    let again = |error: LoadError| {
        let import = match &error {
            LoadError::Backbone(_) => " (ecosight-models import-yamnet FILE)",
            _ => "",
        };
        format!("{error}{import}. Then start the server again.")
    };
    let (choice, files) = chosen.map_err(again)?;
    let evaluation =
        files.file(EVALUATION_FILE).and_then(|bytes| serde_json::from_slice(bytes).ok());
    let classifier = Classifier::chosen(choice, files, backbone, options);
    Ok((classifier.map_err(again)?, evaluation))
}
