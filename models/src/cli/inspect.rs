//! `ecosight-models inspect`

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use ecosight_models::bundle::{EVALUATION_FILE, Manifest, hex};
use ecosight_models::classifier::GOLDEN_TOLERANCE;
use ecosight_models::{BundleFiles, Choice, Classifier, ClassifierOptions, LoadError};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The bundle: a directory with manifest.json. Default: the one inside this program.
    bundle: Option<PathBuf>,
    /// The imported YAMNet, to play the golden sounds. Default: where `import-yamnet` puts it.
    #[arg(long, value_name = "FILE", env = ecosight_models::yamnet::ENV)]
    yamnet: Option<PathBuf>,
    /// Print manifest and evaluation as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (choice, files) = match &arguments.bundle {
        Some(dir) => (Choice::Named, BundleFiles::open(dir)?),
        None => Choice::builtin(arguments.yamnet.as_deref())?,
    };
    let mut stdout = io::stdout().lock();
    if arguments.json {
        print_json(&mut stdout, &files, &choice)?;
        return Ok(ExitCode::SUCCESS);
    }
    print_summary(&mut stdout, &files, &choice)?;
    play_golden_sounds(&mut stdout, files, arguments)
}

fn print_json(out: &mut impl Write, files: &BundleFiles, choice: &Choice) -> anyhow::Result<()> {
    let bundle = &files.bundle;
    let evaluation: Option<serde_json::Value> = files
        .file(EVALUATION_FILE)
        .map(serde_json::from_slice)
        .transpose()
        .context("evaluation.json of the bundle")?;
    let whole = serde_json::json!({
        "sha256": hex(&bundle.sha256),
        "tag": bundle.tag.to_string(),
        "choice": choice.name(),
        "why": choice.to_string(),
        "manifest": bundle.manifest,
        "evaluation": evaluation,
    });
    writeln!(out, "{whole}")?;
    Ok(())
}

fn print_summary(out: &mut impl Write, files: &BundleFiles, choice: &Choice) -> io::Result<()> {
    let bundle = &files.bundle;
    let manifest = &bundle.manifest;
    writeln!(out, "{} {}   tag {}", bundle.name, bundle.version, bundle.tag)?;
    writeln!(out, "  {}", manifest.description)?;
    writeln!(out, "  chosen   {choice}")?;
    writeln!(out, "  trained  {}", manifest.created)?;
    writeln!(out, "  SHA-256  {}", hex(&bundle.sha256))?;
    let streams: Vec<String> =
        manifest.streams.iter().map(|stream| format!("{} ({})", stream.name, stream.len)).collect();
    writeln!(out, "  hears    {}", streams.join(" + "))?;
    if let Some(second) = &manifest.second {
        writeln!(
            out,
            "  second   {} {}, {} of the logits; it alone hears {}",
            second.name,
            second.version,
            second.share,
            second.streams.join(" + ")
        )?;
    }
    writeln!(out, "  classes  {}", bundle.classes.join(", "))?;
    writeln!(out, "  files")?;
    for file in &manifest.files {
        writeln!(out, "    {:<18} {:>9} bytes  {}", file.name, file.bytes, file.sha256)?;
    }
    print_rules(out, manifest)
}

fn print_rules(out: &mut impl Write, manifest: &Manifest) -> io::Result<()> {
    writeln!(out, "  events")?;
    for rule in &manifest.detector {
        writeln!(
            out,
            "    {:<14} {}  score ≥ {:.3} (mean of {} windows), {} s apart",
            rule.class,
            if rule.alert { "alert" } else { "event" },
            rule.threshold,
            rule.confirm_windows,
            rule.refractory_s
        )?;
        match &rule.chosen_at {
            Some(point) => writeln!(
                out,
                "      measured: recall {:.2} of {} recordings, {:.2} false alarms an hour in {:.1} h of \
                 background ({})",
                point.recall,
                point.recordings,
                point.false_alarms_per_hour,
                point.background_hours,
                point.data
            )?,
            None => writeln!(out, "      recall and false alarms of this threshold: not measured")?,
        }
        for point in &rule.operating_points {
            let within = |interval: Option<[f64; 2]>| {
                interval.map_or(String::new(), |[low, high]| format!(" ({low:.2} to {high:.2})"))
            };
            writeln!(
                out,
                "      {:<8} score ≥ {:.3}: recall {:.2}{}, {:.2}{} false alarms an hour",
                point.name,
                point.threshold,
                point.recall,
                within(point.recall_interval),
                point.false_alarms_per_hour,
                within(point.false_alarms_interval)
            )?;
        }
    }
    Ok(())
}

/// Proof on this machine, if YAMNet is here.
fn play_golden_sounds(
    out: &mut impl Write,
    files: BundleFiles,
    arguments: &Arguments,
) -> anyhow::Result<ExitCode> {
    let clips = files.bundle.manifest.golden.len();
    let options = ClassifierOptions { audioset: false, batching: false };
    let classifier = match Classifier::from_files(files, arguments.yamnet.as_deref(), options) {
        Ok(classifier) => classifier,
        Err(LoadError::Backbone(error)) if arguments.yamnet.is_none() => {
            writeln!(out, "  golden   not played: {error}")?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => return Err(error.into()),
    };
    match classifier.golden_deviation()? {
        None => writeln!(out, "  golden   the bundle has no golden sounds")?,
        Some(worst) if worst <= GOLDEN_TOLERANCE => {
            writeln!(
                out,
                "  golden   {clips} sounds, scores within {worst:.6} of where it was made"
            )?;
        }
        Some(worst) => {
            writeln!(
                out,
                "  golden   FAILED: scores differ by {worst:.3} from where it was made, at most \
                 {GOLDEN_TOLERANCE} is allowed; import YAMNet again, or get the bundle again"
            )?;
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}
