//! What the operator does in the terminal about learning: samples in, trainings, versions.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ecosight_models::bundle::EVALUATION_FILE;
use ecosight_models::train::dataset::{Clip, read_listed};
use ecosight_models::{BundleFiles, durable, one_line};
use serde_json::Value;
use tokio::time::sleep;
use uuid::Uuid;

use crate::administer::{note, store};
use crate::archive::Zip;
use crate::chance::Chance;
use crate::cli::{self, ModelsCommand};
use crate::clock::{Clock, rfc3339};
use crate::config::Config;
use crate::log;
use crate::registry::{Registry, models_dir};
use crate::samples::{NewSample, Samples};
use crate::server::data_dir;
use crate::store::{JobRow, NewActivation, Store, VersionRow, before};
use crate::training::progress::Progress;
use crate::training::{Judge, JudgeError, RetrainRequest, ask_for_training};

/// How often `retrain --watch` looks.
const LOOK: Duration = Duration::from_secs(1);
/// What versions are compared by: the words, and where an evaluation has the number.
pub(crate) const COMPARED: [(&str, &str); 5] = [
    ("accuracy", "/judgement/accuracy"),
    ("average precision of alerts", "/judgement/average_precision"),
    ("false alarms at the shipped threshold", "/shipped/false_alarms"),
    ("hours of background", "/judgement/background_hours"),
    ("calibration error", "/calibration_error"),
];
/// Who the records say did it.
const ACTOR: &str = "operator";

/// Where the bytes of listed sounds come from.
enum Sounds {
    Folder,
    Zip(Arc<Zip>),
}

/// Takes in labelled sounds. A sound that is refused is named and left out; the others are kept.
///
/// # Errors
/// If the manifest cannot be used, nothing was taken in, or the database cannot be written.
pub async fn import_samples(config: &Config, options: &cli::ImportSamples) -> Result<()> {
    let (folder, sounds) = match options.from.is_dir() {
        true => (options.from.clone(), Sounds::Folder),
        false => {
            let file = std::fs::File::open(&options.from)
                .with_context(|| format!("cannot read {}", options.from.display()))?;
            let zip = Zip::open(file).with_context(|| {
                format!("{} is neither folder nor ZIP file", options.from.display())
            })?;
            (Path::new("").to_owned(), Sounds::Zip(Arc::new(zip)))
        }
    };
    let listed = read_listed(&options.manifest, &folder)?;
    let (clock, chance, store) = (Clock::system(), Chance::system(), store(config).await?);
    let dir = data_dir(config)?.join("samples");
    let samples = Samples::open(dir, store.clone(), clock, chance)
        .context("cannot make the directory of samples")?;
    let (mut by_class, mut known, mut refused) = (BTreeMap::<String, usize>::new(), 0, Vec::new());
    for clip in listed {
        let name = clip.name.clone();
        match import_one(&samples, clip, &sounds).await {
            Ok((class, true)) => *by_class.entry(class).or_default() += 1,
            Ok((_, false)) => known += 1,
            Err(error) => refused.push(format!("{name}: {}", one_line(&*error))),
        }
    }
    let taken: usize = by_class.values().sum();
    let detail = format!("{taken} new, {known} known, {} refused", refused.len());
    note(&store, "samples.import", options.from.display().to_string(), detail.clone()).await?;
    store.close().await;
    for line in &refused {
        log::complain(line);
    }
    let mut text = format!("{detail}\n");
    for (class, count) in by_class {
        let _ = writeln!(text, "{count:6} {class}");
    }
    log::print(&text)?;
    ensure!(taken + known > 0, "no sound was taken in");
    Ok(())
}

async fn import_one(samples: &Samples, clip: Clip, sounds: &Sounds) -> Result<(String, bool)> {
    let file = match sounds {
        Sounds::Folder => tokio::fs::read(&clip.path).await?,
        Sounds::Zip(zip) => {
            let (zip, name) = (zip.clone(), clip.name.clone());
            tokio::task::spawn_blocking(move || zip.read(&name)).await??
        }
    };
    let filled = |text: String| Some(text).filter(|text| !text.is_empty());
    // Without a group a clip stands for itself, by its content.
    let group = filled(clip.group).filter(|group| *group != clip.name);
    let new = NewSample {
        source: filled(clip.source).or_else(|| Some("import".into())),
        licence: filled(clip.licence),
        verifier: Some(ACTOR.into()),
        ..NewSample::sent(file, clip.name, clip.label, group)
    };
    let (sample, is_new) = samples.keep(new).await?;
    Ok((sample.class, is_new))
}

/// Does what was asked about versions.
///
/// # Errors
/// If there is no such version, it does not run here, or something cannot be read or written.
pub async fn models(config: &Config, command: &ModelsCommand) -> Result<()> {
    let (store, clock, chance) = (store(config).await?, Clock::system(), Chance::system());
    let dir = models_dir(&data_dir(config)?);
    let registry = Registry::open(dir, store.clone(), clock.clone(), chance)
        .context("cannot make the directory of versions")?;
    let done = match command {
        ModelsCommand::List(_) => list(&store).await,
        ModelsCommand::Export(options) => {
            let version = named(&store, &options.model).await?;
            let packed = registry.export(version).await?;
            durable::write_file(&options.out, &packed)
                .with_context(|| format!("cannot write {}", options.out.display()))
        }
        ModelsCommand::Import(options) => {
            let packed = std::fs::read(&options.file)
                .with_context(|| format!("cannot read {}", options.file.display()))?;
            let version = registry.import(packed, ACTOR.into()).await?;
            note(&store, "model.import", version.id.to_string(), version.sha256.clone()).await?;
            log::print(&format!("{} {} {}\n", version.id, version.name, version.version))
        }
        ModelsCommand::Activate(options) => {
            let version = named(&store, &options.model).await?;
            choose(config, &store, &registry, &clock, version, "person", &options.reason).await
        }
        ModelsCommand::Compare(options) => {
            let (a, b) = (named(&store, &options.a).await?, named(&store, &options.b).await?);
            log::print(&compared(&registry, &a, &b)?)
        }
        ModelsCommand::Rollback(_) => {
            let target = before(&store.activations(1_000).await?)
                .context("no version served before this one: there is nothing to go back to")?;
            let version = store.version(target).await?.context("the version before is gone")?;
            choose(config, &store, &registry, &clock, version, "rollback", "").await
        }
    };
    store.close().await;
    done
}

/// Two versions beside each other, as `/api/v1/models/compare` has them.
fn compared(registry: &Registry, a: &VersionRow, b: &VersionRow) -> Result<String> {
    let files = |row: &VersionRow| {
        let files = BundleFiles::open(&registry.path(row))?;
        let evaluation: Value = files
            .file(EVALUATION_FILE)
            .and_then(|bytes| serde_json::from_slice(bytes).ok())
            .unwrap_or_default();
        Ok::<_, anyhow::Error>((files.bundle.classes, evaluation))
    };
    let ((a_classes, a_told), (b_classes, b_told)) = (files(a)?, files(b)?);
    let name = |row: &VersionRow| format!("{} {}", row.name, row.version);
    let mut text = format!("{:42}{:>22}{:>22}\n", "", name(a), name(b));
    for (what, place) in COMPARED {
        let number = |told: &Value| {
            let number = told.pointer(place).and_then(Value::as_f64);
            number.map_or_else(|| "-".to_owned(), |number| format!("{number:.4}"))
        };
        let _ = writeln!(text, "{what:42}{:>22}{:>22}", number(&a_told), number(&b_told));
    }
    let without = |these: &[String], those: &[String]| -> String {
        let only: Vec<&str> =
            these.iter().filter(|class| !those.contains(class)).map(String::as_str).collect();
        only.join(", ")
    };
    for (row, only) in [(a, without(&a_classes, &b_classes)), (b, without(&b_classes, &a_classes))]
    {
        if !only.is_empty() {
            let _ = writeln!(text, "only {} knows {only}", name(row));
        }
    }
    if a.data_sha256.is_none() || a.data_sha256 != b.data_sha256 {
        text.push_str(
            "trained on other samples: these numbers are of other recordings, and only the gate compares \
             like with like\n",
        );
    }
    let trained_for =
        |one: &VersionRow, other: &VersionRow| one.parent_sha256.as_ref() == Some(&other.sha256);
    let gated = [(b, a), (a, b)].into_iter().find(|(one, other)| trained_for(one, other));
    let gate = gated.and_then(|(row, _)| serde_json::from_str::<Value>(row.gate.as_deref()?).ok());
    if let Some(sentence) = gate.as_ref().and_then(|gate| gate["sentence"].as_str()) {
        let _ = writeln!(text, "gate: {sentence}");
    }
    Ok(text)
}

async fn list(store: &Store) -> Result<()> {
    let serving = store.serving().await?.map(|row| row.version_id);
    let mut text = String::new();
    for version in store.versions(None, 500).await? {
        let mark = if serving == Some(version.id) { '*' } else { ' ' };
        let VersionRow { id, name, version, origin, tag, created_us, .. } = version;
        let time = rfc3339(created_us);
        let _ = writeln!(text, "{mark} {id}  {name} {version}  {tag}  {origin}  {time}");
    }
    log::print(&text)
}

/// The one version that the operator means.
async fn named(store: &Store, name: &str) -> Result<VersionRow> {
    if let Ok(id) = Uuid::try_parse(name) {
        return store.version(id).await?.with_context(|| format!("there is no version {id}"));
    }
    let mut fitting = store.versions(None, 500).await?;
    fitting.retain(|row| row.version == name || row.sha256.starts_with(name));
    ensure!(fitting.len() <= 1, "{name:?} may be {} versions: give the id", fitting.len());
    fitting.pop().with_context(|| format!("there is no version {name:?}; see `models list`"))
}

async fn choose(
    config: &Config,
    store: &Store,
    registry: &Registry,
    clock: &Clock,
    version: VersionRow,
    cause: &'static str,
    reason: &str,
) -> Result<()> {
    let judge = Judge { yamnet: config.model.yamnet.clone() };
    let proven = judge.prove(&registry.path(&version)).await;
    if let Err(JudgeError::Unfit(what) | JudgeError::Passing(what)) = proven {
        bail!("{} {} does not run here: {what}", version.name, version.version);
    }
    let activation = NewActivation {
        version: version.id,
        instead_of: None,
        cause,
        reason: reason.to_owned(),
        by: ACTOR.into(),
        now_us: clock.now_us(),
    };
    store.activate_version(activation).await?;
    note(store, "model.activate", version.id.to_string(), reason.to_owned()).await?;
    log::print(&format!("{} {} serves\n", version.name, version.version))
}

/// Asks for a training; with `--watch`, shows how it goes.
///
/// # Errors
/// If the database cannot be written, or the training that is watched fails.
pub async fn retrain(config: &Config, options: &cli::Retrain) -> Result<()> {
    let (store, clock, chance) = (store(config).await?, Clock::system(), Chance::system());
    let request = RetrainRequest {
        trigger_reason: options.reason.clone(),
        min_new_samples: 0,
        trigger: "manual".into(),
        seed: options.seed,
    };
    let asked = ask_for_training(&store, &clock, &chance, &request).await?;
    let (is_new, Some(job)) = asked else { bail!("another training ended just now; try again") };
    let word = if is_new { "queued" } else { "was queued or under way before" };
    log::print(&format!("training {} {word}\n", job.id))?;
    let ended = if options.watch { watch(&store, job.id).await } else { Ok(()) };
    store.close().await;
    ended
}

async fn watch(store: &Store, id: Uuid) -> Result<()> {
    let mut shown = String::new();
    loop {
        let job = store.job(id).await?.context("the job is gone")?;
        let line = line_of(&job);
        if line != shown {
            log::print(&format!("{line}\n"))?;
            shown = line;
        }
        match job.state.as_str() {
            "succeeded" => return Ok(()),
            "failed" => bail!("the training failed"),
            _ => sleep(LOOK).await,
        }
    }
}

fn line_of(job: &JobRow) -> String {
    let told = job.progress.as_deref().and_then(Progress::told).map(|told| told.text());
    let result: Option<Value> =
        job.result.as_deref().and_then(|result| serde_json::from_str(result).ok());
    let sentence = result.and_then(|r| Some(r["gate"]["sentence"].as_str()?.to_owned()));
    let words = [Some(job.state.clone()), told, sentence, job.error.clone()];
    words.into_iter().flatten().collect::<Vec<_>>().join(": ")
}
