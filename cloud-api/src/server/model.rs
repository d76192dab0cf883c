//! The model that the server begins with.

use std::path::Path;

use anyhow::{Context, Result};
use ecosight_models::Choice;
use ecosight_models::bundle::hex;
use tracing::{error, info};
use uuid::Uuid;

use crate::clock::Clock;
use crate::config::{Config, ModelConfig};
use crate::inference::{Inference, InferenceOptions, ModelParts};
use crate::registry::{Lineage, Registry};
use crate::serving::{chosen, parts};
use crate::store::{NewActivation, Store, VersionRow};

/// Loads the model. Without one the server takes in and shows what stations send all the same.
pub(super) async fn load_model(
    config: &Config,
    store: &Store,
    registry: &Registry,
    clock: &Clock,
) -> Result<Inference> {
    let (first, takes_over) = version_to_begin_with(config, store, registry).await?;
    let (model, dir) = (config.model.clone(), first.as_ref().map(|row| registry.path(row)));
    let id = first.as_ref().map(|row| row.id);
    let loaded = tokio::task::spawn_blocking(move || begin(&model, dir.as_deref(), id)).await;
    let loaded = loaded.context("the model")?;
    match &loaded {
        Ok(parts) => {
            let (bundle, choice) = (parts.classifier.bundle(), parts.classifier.choice());
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
            if let Some((instead_of, own)) =
                takes_over.filter(|(_, own)| parts.version == Some(*own))
            {
                let activation = NewActivation {
                    version: own,
                    instead_of,
                    cause: "start",
                    reason: format!("the server began with {} {}", bundle.name, bundle.version),
                    by: "server".into(),
                    now_us: clock.now_us(),
                };
                store.activate_version(activation).await?;
            }
        }
        Err(reason) => error!("NO MODEL: {reason} /predict and /health answer 503 until then."),
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let model = &config.model;
    let options = InferenceOptions {
        threads: if model.threads == 0 { cores } else { model.threads },
        queue: model.queue,
        max_wait: model.max_wait,
        audioset: model.audioset,
    };
    Ok(Inference::new(loaded, options))
}

/// The version that serves; where it cannot be had here, what the operator named or the built-in one.
fn begin(model: &ModelConfig, dir: Option<&Path>, id: Option<Uuid>) -> Result<ModelParts, String> {
    if dir.is_some() {
        match parts(model, dir, id) {
            Ok(parts) => return Ok(parts),
            Err(reason) => error!(reason, "the version that serves cannot be loaded here"),
        }
    }
    parts(model, None, None)
}

/// Of a version that is to take over: what it takes over from, and which it is.
type TakesOver = Option<(Option<Uuid>, Uuid)>;

/// Puts the bundle that this server was started with into the registry, and says which version it
/// begins with. That bundle takes over if it is the first, if the operator names one that was not
/// known, or if it comes with a new program and another built-in one served; else what was chosen
/// since stays.
async fn version_to_begin_with(
    config: &Config,
    store: &Store,
    registry: &Registry,
) -> Result<(Option<VersionRow>, TakesOver)> {
    let serving = match store.serving().await? {
        Some(serving) => store.version(serving.version_id).await?,
        None => None,
    };
    let Ok((choice, files)) = chosen(&config.model) else { return Ok((serving, None)) };
    let known = store.version_of(&hex(&files.bundle.sha256)).await?;
    let origin = if choice == Choice::Named { "configured" } else { "builtin" };
    let lineage = Lineage { origin, by: "server".into(), ..Lineage::default() };
    let own = registry.keep(files, lineage).await.context("cannot keep the model's version")?;
    let Some(serving) = serving else {
        let own_id = own.id;
        return Ok((Some(own), Some((None, own_id))));
    };
    if serving.id == own.id {
        return Ok((Some(serving), None));
    }
    if known.is_none() && (origin == "configured" || serving.origin == "builtin") {
        let takes_over = Some((Some(serving.id), own.id));
        return Ok((Some(own), takes_over));
    }
    info!(
        name = serving.name,
        version = serving.version,
        started_with = own.version,
        "another version was chosen to serve, and still does"
    );
    Ok((Some(serving), None))
}
