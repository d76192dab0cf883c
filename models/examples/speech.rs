//! Measures what the privacy filter takes out: how much of people's speech in a forest, and how much else.
//!
//! Arguments: a manifest of recordings (as for `train`). Utterances are espeak-ng's, laid into the
//! manifest's forest at stated ratios of their mean powers; without that program only the recordings are
//! judged. Both built-in bundles are measured, the full one where YAMNet is imported. Prints tables in
//! Markdown.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use ecosight_models::audio::{AudioReader, DecodeLimits};
use ecosight_models::speech::SPEECH;
use ecosight_models::train::dataset::{Clip, read_manifest};
use ecosight_models::{
    Builtin, BundleFiles, Classifier, ClassifierOptions, SAMPLE_RATE_HZ, WINDOW_SAMPLES, yamnet,
};
use rayon::prelude::*;

/// Two sentences in each of six languages.
const SENTENCES: [(&str, [&str; 2]); 6] = [
    ("en-us", ["We will come back tomorrow morning.", "Who has the keys of the car?"]),
    ("fr", ["Nous reviendrons demain matin.", "Qui a les clés de la voiture ?"]),
    ("sw", ["Tutarudi kesho asubuhi.", "Nani ana funguo za gari?"]),
    ("pt", ["Voltamos amanhã de manhã.", "Quem tem as chaves do carro?"]),
    ("es", ["Volveremos mañana por la mañana.", "¿Quién tiene las llaves del coche?"]),
    ("id", ["Kami kembali besok pagi.", "Siapa yang punya kunci mobil?"]),
];
/// A man's and a woman's voice for each.
const VARIANTS: [&str; 2] = ["m3", "f2"];
const RATIOS_DB: [f32; 6] = [20.0, 10.0, 5.0, 0.0, -5.0, -10.0];
/// Label of what speech is laid into.
const FOREST: &str = "forest_soundscape";
/// Forest before and after an utterance.
const AROUND_S: usize = 3;
/// Labels of recordings in which people's voices are.
const PEOPLE: [&str; 4] = ["speech", "children_playing", "laughing", "crowd"];

/// One utterance found, and the samples of it that lie in windows that count as speech.
struct Found {
    any: bool,
    covered: usize,
    samples: usize,
}

fn main() -> anyhow::Result<()> {
    let manifest: PathBuf =
        std::env::args_os().nth(1).context("see the top of this file: no manifest named")?.into();
    let audio = manifest.parent().unwrap_or(Path::new("."));
    let clips = read_manifest(&manifest, audio)?;
    let utterances = utterances()?;
    let mut out = std::io::stdout().lock();
    for which in [Builtin::Compact, Builtin::Full] {
        if which == Builtin::Full && yamnet::find().is_err() {
            writeln!(out, "\nfull: skipped, YAMNet is not imported")?;
            continue;
        }
        let options = ClassifierOptions { audioset: true, batching: true };
        let classifier = Classifier::from_files(BundleFiles::builtin(which)?, None, options)?;
        let bundle = classifier.bundle();
        writeln!(out, "\n**{} {}**\n", bundle.name, bundle.version)?;
        if !utterances.is_empty() {
            speech_in_forest(&mut out, &classifier, &clips, &utterances)?;
        }
        recordings(&mut out, &classifier, &clips)?;
    }
    Ok(())
}

fn speech_in_forest(
    out: &mut impl Write,
    classifier: &Classifier,
    clips: &[Clip],
    utterances: &[Vec<f32>],
) -> anyhow::Result<()> {
    let forest: Vec<&Clip> = clips.iter().filter(|clip| clip.label == FOREST).collect();
    ensure!(!forest.is_empty(), "the manifest has no recording labelled {FOREST}");
    let ratios: Vec<String> = RATIOS_DB.iter().map(|ratio| format!("{ratio:.0}")).collect();
    let count = utterances.len();
    writeln!(out, "| {count} utterances in forest, dB | {} |", ratios.join(" | "))?;
    writeln!(out, "|{}", "---|".repeat(ratios.len() + 1))?;
    let mut rows = [vec!["found".to_owned()], vec!["of their samples marked".to_owned()]];
    for ratio_db in RATIOS_DB {
        let found = utterances
            .par_iter()
            .enumerate()
            .map(|(index, speech)| {
                // Forests far apart in the manifest: other places, other recorders.
                let clip = forest[index * forest.len() / count];
                find(classifier, &decode(&clip.path)?, speech, ratio_db)
            })
            .collect::<anyhow::Result<Vec<Found>>>()?;
        let any = found.iter().filter(|found| found.any).count();
        let covered: usize = found.iter().map(|found| found.covered).sum();
        let samples: usize = found.iter().map(|found| found.samples).sum();
        rows[0].push(format!("{:.2}", any as f64 / count as f64));
        rows[1].push(format!("{:.2}", covered as f64 / samples as f64));
    }
    for row in rows {
        writeln!(out, "| {} |", row.join(" | "))?;
    }
    Ok(())
}

/// Lays speech into a forest and looks for it.
fn find(
    classifier: &Classifier,
    forest: &[f32],
    speech: &[f32],
    ratio_db: f32,
) -> anyhow::Result<Found> {
    let before = AROUND_S * SAMPLE_RATE_HZ as usize;
    let length = before + speech.len() + before;
    let mut sound: Vec<f32> = forest.iter().copied().cycle().take(length).collect();
    let gain = 10f32.powf(ratio_db / 20.0) * level(&sound) / level(speech).max(1e-9);
    for (sample, speech) in sound[before..].iter_mut().zip(speech) {
        *sample += gain * speech;
    }
    let (windows, scores) = classifier.classify_sound(&sound)?;
    let mut marked = vec![false; length];
    for (window, _) in windows.iter().zip(&scores).filter(|(_, scores)| counts(scores.speech)) {
        let start = window.start_sample as usize;
        marked[start.min(length)..(start + WINDOW_SAMPLES).min(length)].fill(true);
    }
    let spoken = &marked[before..before + speech.len()];
    let covered = spoken.iter().filter(|marked| **marked).count();
    Ok(Found { any: covered > 0, covered, samples: speech.len() })
}

/// Recordings as they are: those with voices by whether any window counts, the others by how many do.
fn recordings(out: &mut impl Write, classifier: &Classifier, clips: &[Clip]) -> anyhow::Result<()> {
    let judged = clips
        .par_iter()
        .map(|clip| {
            let (_, scores) = classifier.classify_sound(&decode(&clip.path)?)?;
            let marked = scores.iter().filter(|scores| counts(scores.speech)).count();
            Ok((clip.label.as_str(), scores.len(), marked))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut labels: BTreeMap<&str, [usize; 4]> = BTreeMap::new();
    for (label, windows, marked) in judged {
        let sums = labels.entry(label).or_default();
        for (sum, more) in sums.iter_mut().zip([1, usize::from(marked > 0), windows, marked]) {
            *sum += more;
        }
    }
    writeln!(out, "\n| recordings | clips | with a marked window | windows | marked |")?;
    writeln!(out, "|---|---|---|---|---|")?;
    let (people, others): (Vec<_>, Vec<_>) =
        labels.into_iter().partition(|(label, _)| PEOPLE.contains(label));
    for (label, [clips, found, windows, marked]) in people.into_iter().chain(others) {
        let share = marked as f64 / windows.max(1) as f64;
        writeln!(out, "| {label} | {clips} | {found} | {windows} | {share:.3} |")?;
    }
    Ok(())
}

fn counts(speech: Option<f32>) -> bool {
    speech.is_none_or(|speech| speech >= SPEECH)
}

/// What espeak-ng says; nothing where it is not installed.
fn utterances() -> anyhow::Result<Vec<Vec<f32>>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("said.wav");
    let mut utterances = Vec::new();
    for (language, sentences) in SENTENCES {
        for variant in VARIANTS {
            for sentence in sentences {
                let said = Command::new("espeak-ng")
                    .args(["-v", &format!("{language}+{variant}"), "-w"])
                    .arg(&path)
                    .arg(sentence)
                    .stderr(Stdio::null())
                    .status();
                if said.is_err() {
                    eprintln!("skipped: utterances (espeak-ng is not installed)");
                    return Ok(Vec::new());
                }
                ensure!(said?.success(), "espeak-ng cannot speak {language}+{variant}");
                utterances.push(decode(&path)?);
            }
        }
    }
    Ok(utterances)
}

fn decode(path: &Path) -> anyhow::Result<Vec<f32>> {
    let limits = DecodeLimits { max_bytes: 1 << 30, max_seconds: 3_600.0 };
    let mut reader =
        AudioReader::open(path, &limits).with_context(|| path.display().to_string())?;
    let mut samples = Vec::new();
    while let Some(block) = reader.next_block().with_context(|| path.display().to_string())? {
        samples.extend_from_slice(block);
    }
    Ok(samples)
}

/// Root of the mean power.
fn level(samples: &[f32]) -> f32 {
    (samples.iter().map(|sample| sample * sample).sum::<f32>() / samples.len().max(1) as f32).sqrt()
}
