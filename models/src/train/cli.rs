//! The command `train`: the rim where files, clock and terminal are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Args;
use ndarray::Array2;
use serde_json::json;

use super::artifact::{self, Evaluation, Release, SeedLine};
use super::breakdown::{self, TransientLine};
use super::crossval::{self, OutOfFold};
use super::dataset::read_manifest;
use super::details::Details;
use super::export;
use super::extraction::Extraction;
use super::fit::{Epoch, Recipe};
use super::head::Head;
use super::judgement::{self, Judgement, RatePoint, SILENCE};
use super::labels::LabelMap;
use super::leaks;
use super::material::{Copies, Form, Library};
use super::net::Net;
use super::progress::{Course, Progress, tell_line};
use super::report::{differences, print_evaluation};
use super::second::{self, Second};
use super::split::{folds_of, random_folds};
use super::table::{Table, rooted};
use crate::compact::scores::Work;
use crate::eval::CalibrationBin;
use crate::features::stream_len;

/// Train a head on labelled recordings and write it as a bundle.
#[derive(Debug, Args)]
pub struct TrainArguments {
    /// Manifest of the recordings: CSV with path, label, and if there are any group (or recording_id),
    /// source, licence, original_rate_hz, distance_m.
    #[arg(long, value_name = "CSV")]
    data: PathBuf,
    /// Folder that the manifest's paths are relative to. Default: the manifest's own.
    #[arg(long, value_name = "DIR")]
    audio: Option<PathBuf>,
    /// Folder to write the bundle to; without it the head is judged and nothing is written.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Folder to write evaluation.json and evaluation.html to, whether or not a bundle is written.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// evaluation.json of another run of the same recipe: fail if recall or average precision differs
    /// by more than --within.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// See --against.
    #[arg(long, value_name = "SHARE", default_value_t = 0.03)]
    within: f64,
    /// Name of the model line.
    #[arg(long, default_value = "gunshot-yamnet")]
    name: String,
    /// Version of the bundle.
    #[arg(long, default_value = "0.1.0")]
    version: String,
    /// Which labels make which class (JSON). Default: the built-in classes.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Feature streams, in order.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "yamnet.l12,yamnet.l14,yamnet.embedding,transient"
    )]
    streams: Vec<String>,
    /// Judge without these streams, as if they said nothing; for comparisons.
    #[arg(long, value_delimiter = ',', value_name = "STREAM", conflicts_with = "out")]
    without: Vec<String>,
    /// Training recipe (JSON); what it leaves out keeps its default.
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Decides folds, augmentations and fits.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Networks whose mean is the head.
    #[arg(long, default_value_t = 3)]
    networks: u64,
    /// Folds of the cross-validation.
    #[arg(long, default_value_t = 6)]
    folds: usize,
    /// Go on although recordings of different groups sound like one and the folds part them; they are
    /// only told then, and counted in the evaluation.
    #[arg(long)]
    allow_leaks: bool,
    /// Also judge by clips dealt to folds at random, whatever recording they are of, to show what such
    /// a split would flatter; as long again as the cross-validation.
    #[arg(long)]
    random_split: bool,
    /// False alarms per hour of the data's background that the alert threshold is chosen for.
    #[arg(long, default_value_t = 1.0)]
    alarms_per_hour: f64,
    /// Use clips as they are only: no augmentation.
    #[arg(long)]
    plain: bool,
    /// Also learn from so many synthetic scenes of a minute each; nothing is judged on them.
    #[arg(long, value_name = "N", default_value_t = 0)]
    scenes: u32,
    /// Also learn from so many shots made from physics, in recorded or synthetic surroundings.
    #[arg(long, value_name = "N", default_value_t = 0)]
    staged: u32,
    /// Compact bundle to take in as a second ear, for the recipe's `second_share` of the logits.
    #[arg(long, value_name = "DIR", requires = "compact_work")]
    compact: Option<PathBuf>,
    /// Folder that the compact bundle was trained in (WORK of `make train-compact`): the second ear
    /// is judged by its cross-validation.
    #[arg(long, value_name = "DIR", requires = "compact")]
    compact_work: Option<PathBuf>,
    /// Also write the out-of-fold scores of every window to this file (CSV), for a closer look.
    #[arg(long, value_name = "FILE")]
    scores: Option<PathBuf>,
    /// Write the table of features to this folder (`features.npy`, `rows.csv`), and stop there.
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    export: Option<PathBuf>,
    /// Where features are kept between runs. Default: the user's cache folder.
    #[arg(long, value_name = "DIR", env = "ECOSIGHT_FEATURE_CACHE")]
    cache: Option<PathBuf>,
    /// The imported YAMNet. Default: where `import-yamnet` puts it.
    #[arg(long, value_name = "FILE", env = crate::yamnet::ENV)]
    yamnet: Option<PathBuf>,
    /// When it was made, RFC 3339, as the manifest says. Default: now. With it, the same recordings
    /// and seed give the same bytes.
    #[arg(long, value_name = "TIME")]
    created: Option<String>,
    /// Tell of progress in lines of JSON, for programs.
    #[arg(long)]
    progress_lines: bool,
}

impl TrainArguments {
    fn copies(&self) -> Copies {
        let recorded = if self.plain { PLAIN } else { Copies::default() };
        Copies { scenes: self.scenes, staged: self.staged, ..recorded }
    }
}

/// Trains, judges by cross-validation, and writes the bundle.
///
/// # Errors
/// With a message that names the file or option at fault; then no bundle was written.
pub fn train(arguments: &TrainArguments) -> anyhow::Result<ExitCode> {
    ensure!(arguments.folds >= 2, "--folds must be at least 2");
    ensure!(arguments.networks >= 1, "--networks must be at least 1");
    ensure!(arguments.alarms_per_hour > 0.0, "--alarms-per-hour must be above 0");
    let labels = read_labels(arguments.labels.as_deref())?;
    let recipe = read_recipe(arguments.recipe.as_deref())?;
    let second = second_ear(arguments, &labels, &recipe)?;
    let audio = audio_folder(&arguments.data, arguments.audio.as_deref());
    let clips = read_manifest(&arguments.data, audio)?;
    for class in labels.classes.iter().filter(|class| !class.labels.is_empty()) {
        let silence = class.labels.iter().any(|label| label == SILENCE);
        ensure!(
            silence || clips.iter().any(|clip| class.labels.contains(&clip.label)),
            "{} has no clip of class {:?} (labels {}): add recordings, or leave the class out with \
             --labels",
            arguments.data.display(),
            class.name,
            class.labels.join(", ")
        );
    }
    let fold = folds_of(&clips, arguments.folds, arguments.seed);
    let library = Library::new(clips, fold, &labels);
    let parted = parted_leaks(&library, arguments)?;
    let silence = labels.classes.iter().position(|class| class.labels.iter().any(|l| l == SILENCE));
    let items = library.items(&labels, arguments.copies(), silence);

    let extraction = Extraction::new(
        &arguments.streams,
        arguments.yamnet.as_deref(),
        Some(arguments.cache.clone().map_or_else(default_cache, Ok)?),
    )?;
    let lines = arguments.progress_lines;
    let progress = Progress::new("features").in_lines(lines);
    let mut table =
        Table::build(&library, &labels, items, &extraction, arguments.seed, &|done, all| {
            progress.tell(done, all);
        })?;
    table.weigh(&library, &labels, &recipe);
    for name in recipe.views.iter().flatten() {
        ensure!(
            arguments.streams.contains(name),
            "the recipe has a view of {name}, which is not among --streams {}",
            arguments.streams.join(",")
        );
    }
    for name in &arguments.without {
        let before = arguments.streams.iter().take_while(|stream| *stream != name);
        let start: usize = before.filter_map(|stream| stream_len(stream)).sum();
        let len = stream_len(name)
            .filter(|_| arguments.streams.contains(name))
            .with_context(|| format!("--without {name}: not among --streams"))?;
        table.leave_out(start..start + len);
    }
    eprintln!(
        "{} clips, {} sounds, {} windows ({} examples) of {} features",
        library.clips().len(),
        table.items.len(),
        table.rows.len(),
        table.weight.iter().filter(|weight| **weight > 0.0).count(),
        extraction.width()
    );

    if let Some(folder) = &arguments.export {
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            crate::durable::write_file(&path, bytes)
                .with_context(|| format!("cannot write {}", path.display()))
        };
        write("rows.csv", &export::rows_csv(&library, &labels, &table, None)?)?;
        write("features.npy", &export::npy(table.features.view()))?;
        return Ok(ExitCode::SUCCESS);
    }

    let heard_beside = match &second {
        Some((second, work)) => {
            Some((second::out_of_fold(work, &library, &labels, &table)?, second.share()))
        }
        None => None,
    };
    let second = second.map(|(second, _)| second);
    if recipe.roots {
        table.take_roots();
    }
    let details = Details::part(&mut table, &library, &labels, recipe.detail_clips);
    let seeds: Vec<u64> = (0..arguments.networks).map(|n| arguments.seed + n).collect();
    let fits = arguments.folds * seeds.len() * recipe.views.len().max(1);
    let progress = Progress::new("cross-validation").in_lines(lines);
    let course = Course::new(&progress, fits * recipe.epochs, arguments.folds);
    let mut scored = crossval::cross_validate(
        &table,
        &labels,
        &details,
        arguments.folds,
        &recipe,
        &seeds,
        &|told| course.hear(told),
    )?;
    if let Some((logits, share)) = heard_beside {
        scored = scored.with_second(logits, share);
    }
    let judged = Judged::of(&library, &labels, &table, &scored, &seeds, arguments.alarms_per_hour)?;
    let mut evaluation =
        judged.evaluation(arguments, &library, &labels, &table, &recipe, second.as_ref());
    evaluation.likenesses_parted = Some(parted);
    if arguments.random_split {
        let by_group: Vec<usize> = table.items.iter().map(|item| item.fold).collect();
        let fold = random_folds(library.clips().len(), arguments.folds, arguments.seed);
        for item in &mut table.items {
            item.fold = item.clip.map_or(item.fold, |clip| fold[clip]);
        }
        let seeds = &seeds[..1];
        let untold = |_: crossval::Told<'_>| {};
        let scored = crossval::cross_validate(
            &table,
            &labels,
            &details,
            arguments.folds,
            &recipe,
            seeds,
            &untold,
        )?;
        let logits = scored.averaged();
        evaluation.random_split = Some(SeedLine::of(
            &library,
            &labels,
            &table,
            &logits,
            seeds[0],
            &calling(&judged.thresholds),
        ));
        for (item, fold) in table.items.iter_mut().zip(by_group) {
            item.fold = fold;
        }
    }
    print_evaluation(&mut std::io::stdout().lock(), &evaluation)?;
    if let Some(path) = &arguments.scores {
        let mut scores = scored.averaged() / judged.temperature;
        super::net::softmax(&mut scores);
        let text = export::rows_csv(&library, &labels, &table, Some(scores.view()))?;
        crate::durable::write_file(path, &text)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }

    if let Some(folder) = &arguments.report {
        let title = format!("{} {}", arguments.name, arguments.version);
        for (name, bytes) in artifact::reports(&evaluation, &labels, &title)? {
            let path = folder.join(name);
            crate::durable::write_file(&path, &bytes)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    if let Some(path) = &arguments.against {
        let text =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let other: Evaluation =
            serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
        let differences = differences(&evaluation, &other, arguments.within);
        ensure!(
            differences.is_empty(),
            "differs from {} by more than {}:\n  {}",
            path.display(),
            arguments.within,
            differences.join("\n  ")
        );
        eprintln!("within {} of {}", arguments.within, path.display());
    }

    let Some(out) = &arguments.out else { return Ok(ExitCode::SUCCESS) };
    // With early stopping the last fits run as long as the fits of the folds did, in the middle.
    let mut epochs = scored.epochs.clone();
    epochs.sort_unstable();
    let last = Recipe {
        epochs: epochs.get(epochs.len() / 2).copied().unwrap_or(recipe.epochs),
        patience: None,
        ..recipe
    };
    match lines {
        true => tell_line(&json!({"stage": "head", "done": 0, "all": 1})),
        false => eprintln!("training the head on everything, {} epochs", last.epochs),
    }
    let fitted = crossval::fit_all(&table, &labels, &details, &last, &seeds)?;
    let net = Net::averaging(&fitted.nets).context("the networks differ in shape")?;
    let created = arguments.created.clone().unwrap_or_else(now_rfc3339);
    let release = Release {
        name: &arguments.name,
        version: &arguments.version,
        created: &created,
        labels: &labels,
        backbone_sha256: extraction.backbone_sha256(),
        temperature: judged.temperature,
        thresholds: &judged.thresholds,
        evaluation: &evaluation,
    };
    let rooted = last.roots.then(|| rooted(&table.streams));
    let head = Head {
        net: &net,
        details: &details,
        compression: &fitted.compression,
        streams: &table.streams,
        rooted: rooted.as_deref(),
        second: second.as_ref(),
    };
    let (manifest, files) = (release.manifest(&head), release.files(&head)?);
    let bundle = artifact::write_proved(out, manifest, &files, arguments.yamnet.as_deref())?;
    eprintln!("wrote {} {} to {}, tag {}", bundle.name, bundle.version, out.display(), bundle.tag);
    Ok(ExitCode::SUCCESS)
}

/// Looks for recordings that are on both sides of a fold, tells of them, and gives their number.
fn parted_leaks(library: &Library, arguments: &TrainArguments) -> anyhow::Result<usize> {
    let found = leaks::between_groups(library)?;
    let parted: Vec<String> = found
        .iter()
        .filter(|like| like.is_parted(library))
        .map(|like| like.text(library))
        .collect();
    ensure!(
        parted.is_empty() || arguments.allow_leaks,
        "clips of different groups sound like one recording, and the folds part them:\n  {}\n\
         Listen to them and give those of one recording one group in {}, or go on with --allow-leaks",
        parted.join("\n  "),
        arguments.data.display()
    );
    for text in &parted {
        eprintln!("on both sides of a fold, it seems: {text}");
    }
    Ok(parted.len())
}

/// The compact bundle to take in, and where its cross-validation is.
fn second_ear(
    arguments: &TrainArguments,
    labels: &LabelMap,
    recipe: &Recipe,
) -> anyhow::Result<Option<(Second, Work)>> {
    let (Some(bundle), Some(work)) = (&arguments.compact, &arguments.compact_work) else {
        ensure!(
            recipe.second_share == 0.0,
            "the recipe has a second ear (second_share {}): name the compact bundle with --compact \
             and the folder that it was trained in with --compact-work",
            recipe.second_share
        );
        return Ok(None);
    };
    ensure!(
        recipe.second_share > 0.0,
        "--compact {}: the recipe gives a second ear no part (second_share is 0)",
        bundle.display()
    );
    let second = Second::open(bundle, labels, recipe.second_share)?;
    Ok(Some((second, Work::below(work))))
}

/// Clips as they are, for comparison.
const PLAIN: Copies = Copies {
    in_context: 0,
    alert_in_context: 0,
    alert_mixed: 0,
    other_mixed: 0,
    silence: 72,
    scenes: 0,
    staged: 0,
};

/// What clips are called by: classes that raise no event never are.
fn calling(thresholds: &[Option<f32>]) -> Vec<f32> {
    thresholds.iter().map(|threshold| threshold.unwrap_or(f32::INFINITY)).collect()
}

impl SeedLine {
    /// Judges the logits of one network.
    fn of(
        library: &Library,
        labels: &LabelMap,
        table: &Table,
        logits: &Array2<f32>,
        seed: u64,
        calling: &[f32],
    ) -> Self {
        let temperature = crossval::temperature(table, logits);
        let heard = judgement::heard(table, logits, temperature);
        let judged = judgement::judge(library.clips(), labels, &heard, calling);
        let mut recall: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for line in judged.rates.iter().flat_map(|rate| &rate.recall) {
            if line.form == Form::Plain {
                recall.entry(line.source.clone()).or_default().push(line.recall);
            }
        }
        Self { seed, average_precision: judged.average_precision, recall }
    }
}

/// The cross-validation, judged.
struct Judged {
    temperature: f32,
    thresholds: Vec<Option<f32>>,
    judgement: Judgement,
    by_transient: Vec<TransientLine>,
    calibration_error: Option<f64>,
    reliability: Vec<CalibrationBin>,
    shipped: RatePoint,
    seeds: Vec<SeedLine>,
    history: Vec<Epoch>,
}

impl Judged {
    fn of(
        library: &Library,
        labels: &LabelMap,
        table: &Table,
        scored: &OutOfFold,
        seeds: &[u64],
        alarms_per_hour: f64,
    ) -> anyhow::Result<Self> {
        let clips = library.clips();
        let logits = scored.averaged();
        let temperature = crossval::temperature(table, &logits);
        let heard = judgement::heard(table, &logits, temperature);
        let alert = judgement::rate_threshold(&heard, labels, alarms_per_hour)
            .context("the data hold no background to count false alarms on")?;
        let thresholds = judgement::thresholds(&heard, labels, alert);
        let calling = calling(&thresholds);
        let per_seed = scored
            .by_seed()
            .zip(seeds)
            .map(|(logits, &seed)| SeedLine::of(library, labels, table, &logits, seed, &calling))
            .collect();
        let alerting = labels.alerting();
        let ratio_db = breakdown::transient_ratios(library, alerting)?;
        let judgement = judgement::judge(clips, labels, &heard, &calling);
        let by_transient =
            breakdown::by_transient(clips, &heard, alerting, &ratio_db, &judgement.rates);
        Ok(Self {
            temperature,
            judgement,
            by_transient,
            calibration_error: judgement::calibration_error(table, &logits, temperature),
            reliability: judgement::reliability(table, &logits, temperature),
            shipped: judgement::rate_point(clips, labels, &heard, alert, Some(alarms_per_hour)),
            thresholds,
            seeds: per_seed,
            history: scored.history.clone(),
        })
    }

    fn evaluation(
        &self,
        arguments: &TrainArguments,
        library: &Library,
        labels: &LabelMap,
        table: &Table,
        recipe: &Recipe,
        second: Option<&Second>,
    ) -> Evaluation {
        let beside = match second {
            Some(_) => " --compact DIR --compact-work DIR",
            None => "",
        };
        Evaluation {
            command: format!(
                "ecosight-models train --data manifest.csv --streams {} --seed {} --networks {} \
                 --folds {} --alarms-per-hour {} --scenes {} --staged {}{beside}",
                arguments.streams.join(","),
                arguments.seed,
                arguments.networks,
                arguments.folds,
                arguments.alarms_per_hour,
                arguments.scenes,
                arguments.staged,
            ),
            protocol: format!(
                "{}-fold cross-validation by recording group, {} heads of {} networks averaged{}; \
                 background as recorded and band-limited to 3.9 kHz.",
                arguments.folds,
                arguments.networks,
                recipe.views.len().max(1),
                if second.is_some() { ", the second ear's networks of the same folds" } else { "" }
            ),
            streams: arguments.streams.clone(),
            recipe: recipe.clone(),
            second: second.map(Second::line),
            copies: arguments.copies(),
            seed: arguments.seed,
            folds: arguments.folds,
            windows: table.weight.iter().filter(|weight| **weight > 0.0).count(),
            sources: artifact::sources(library.clips(), labels),
            judgement: self.judgement.clone(),
            by_transient: self.by_transient.clone(),
            calibration_error: self.calibration_error,
            reliability: self.reliability.clone(),
            shipped: self.shipped.clone(),
            seeds: self.seeds.clone(),
            history: self.history.clone(),
            likenesses_parted: None,
            random_split: None,
        }
    }
}

pub(crate) fn read_labels(path: Option<&Path>) -> anyhow::Result<LabelMap> {
    Ok(path.map_or_else(LabelMap::builtin, LabelMap::read)?)
}

fn read_recipe(path: Option<&Path>) -> anyhow::Result<Recipe> {
    let Some(path) = path else { return Ok(Recipe::default()) };
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the recipe {}", path.display()))?;
    let recipe: Recipe =
        serde_json::from_str(&text).with_context(|| format!("recipe {}", path.display()))?;
    recipe.validate().map_err(|fault| anyhow::anyhow!("recipe {}: {fault}", path.display()))?;
    Ok(recipe)
}

pub(crate) fn audio_folder<'a>(manifest: &'a Path, audio: Option<&'a Path>) -> &'a Path {
    audio.or_else(|| manifest.parent()).unwrap_or(Path::new("."))
}

/// `$XDG_CACHE_HOME/ecosight/features`, else `~/.cache/ecosight/features`.
fn default_cache() -> anyhow::Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .filter(|base| !base.is_empty())
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set: name a folder with --cache")?;
    Ok(base.join("ecosight").join("features"))
}

#[allow(clippy::disallowed_methods, reason = "the rim that reads the clock for the manifest")]
pub(crate) fn now_rfc3339() -> String {
    let seconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    rfc3339(seconds)
}

/// Seconds since 1970 as RFC 3339 UTC (days to date by Howard Hinnant's civil calendar).
fn rfc3339(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        time / 3600,
        time / 60 % 60,
        time % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_798_761_599), "2026-12-31T23:59:59Z");
    }
}
