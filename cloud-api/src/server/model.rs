//! The model that the server begins with.

use anyhow::{Context, Result};
use ecosight_models::Choice;
use tracing::{error, info, warn};

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
    let serving = version_to_begin_with(config, store, registry, clock).await?;
    let (model, dir) = (config.model.clone(), serving.as_ref().map(|row| registry.path(row)));
    let id = serving.as_ref().map(|row| row.id);
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
fn begin(
    model: &ModelConfig,
    dir: Option<&std::path::Path>,
    id: Option<uuid::Uuid>,
) -> Result<ModelParts, String> {
    if dir.is_some() {
        match parts(model, dir, id) {
            Ok(parts) => return Ok(parts),
            Err(reason) => error!(reason, "the version that serves cannot be loaded here"),
        }
    }
    parts(model, None, None)
}

/// Puts the bundle that this server was started with into the registry, and says which version
/// serves. That bundle does if it is the first, if the operator names one that was not known, or if
/// it comes with a new program and another built-in one served; else what was chosen since stays.
async fn version_to_begin_with(
    config: &Config,
    store: &Store,
    registry: &Registry,
    clock: &Clock,
) -> Result<Option<VersionRow>> {
    let serving = match store.serving().await? {
        Some(serving) => store.version(serving.version_id).await?,
        None => None,
    };
    let Ok((choice, files)) = chosen(&config.model) else { return Ok(serving) };
    let known = store.version_of(&ecosight_models::bundle::hex(&files.bundle.sha256)).await?;
    let origin = if choice == Choice::Named { "configured" } else { "builtin" };
    let lineage = Lineage { origin, by: "server".into(), ..Lineage::default() };
    let own = registry.keep(files, lineage).await.context("cannot keep the model's version")?;
    let takes_over = match &serving {
        None => true,
        Some(serving) => known.is_none() && (origin == "configured" || serving.origin == "builtin"),
    };
    if takes_over && serving.as_ref().is_none_or(|serving| serving.id != own.id) {
        let activation = NewActivation {
            version: own.id,
            instead_of: serving.as_ref().map(|serving| serving.id),
            cause: "start",
            reason: format!("the server began with {} {}", own.name, own.version),
            by: "server".into(),
            now_us: clock.now_us(),
        };
        store.activate_version(activation).await?;
        return Ok(Some(own));
    }
    if let Some(serving) = serving.as_ref().filter(|serving| serving.id != own.id) {
        warn!(
            name = serving.name,
            version = serving.version,
            started_with = own.version,
            "another version was chosen to serve, and still does"
        );
    }
    Ok(serving)
}
