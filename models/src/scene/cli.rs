//! `ecosight-models scene`: writes a scene as a WAV file, with its ground truth beside it.

use std::{
    fs, io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{Habitat, Scene, SceneConfig, SceneEvent};
use crate::SAMPLE_RATE_HZ;
use crate::durable::Draft;

/// Longest scene that a WAV file holds: its sizes are 32-bit, its samples two bytes.
const LONGEST_WAV_S: f64 = (u32::MAX - 4_096) as f64 / (2.0 * SAMPLE_RATE_HZ as f64);
/// Samples rendered at a time: 1 s.
const BLOCK: usize = SAMPLE_RATE_HZ as usize;

/// Arguments of the command.
#[derive(Debug, Clone, clap::Args)]
pub struct SceneArgs {
    /// Seed: the same seed and settings give the same file.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Length, such as 90s, 10m, 1h30m.
    #[arg(long, default_value = "2m", value_parser = duration_s)]
    pub duration: f64,
    /// WAV file to write: 16 kHz, mono, 16 bit.
    #[arg(long, short, value_name = "FILE")]
    pub out: PathBuf,
    /// JSON file to write the ground truth to.
    #[arg(long, value_name = "FILE")]
    pub truth: Option<PathBuf>,
    /// Gunshots an hour; 0 for none.
    #[arg(long, value_name = "N", default_value_t = SceneConfig::default().shots_per_hour)]
    pub shots_per_hour: f64,
    /// When the first shot falls, such as 6s; without it, at a random time.
    #[arg(long, value_name = "TIME", value_parser = duration_s)]
    pub first_shot: Option<f64>,
    /// Least time between two shots.
    #[arg(long, value_name = "TIME", default_value = "12s", value_parser = duration_s)]
    pub min_gap: f64,
    /// Distances of the shots in metres, such as 100..800 or 300.
    #[arg(long, value_name = "M..M", default_value = "80..700", value_parser = distance_m)]
    pub distance: RangeInclusive<f32>,
    /// rainforest, night, dry-forest or savanna.
    #[arg(long, default_value_t = Habitat::Rainforest)]
    pub habitat: Habitat,
    /// Leave out thunder, falling branches, woodpeckers, axes and engines.
    #[arg(long)]
    pub no_distractors: bool,
    /// Ambience louder or quieter than usual, dB.
    #[arg(long, value_name = "DB", default_value_t = 0.0, allow_negative_numbers = true)]
    pub ambience: f32,
}

/// Why no scene was written.
#[derive(Debug, thiserror::Error)]
pub enum SceneCommandError {
    /// The settings are wrong: usage, exit code 2.
    #[error("{0}")]
    Usage(String),
    /// A file could not be written: failure, exit code 1. Nothing half-written is left.
    #[error("cannot write {path}: {reason}")]
    Write {
        /// The file.
        path: String,
        /// What the system says.
        reason: String,
    },
}

impl SceneCommandError {
    /// Exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Write { .. } => 1,
        }
    }

    fn write(path: &Path, reason: &impl ToString) -> Self {
        Self::Write { path: path.display().to_string(), reason: reason.to_string() }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq)]
pub struct SceneSummary {
    /// Samples of the WAV file.
    pub samples: u64,
    /// Gunshots in it.
    pub shots: usize,
    /// All listed events.
    pub events: usize,
}

/// The ground-truth file.
#[derive(Debug, Serialize)]
struct Truth<'a> {
    audio: String,
    seed: u64,
    habitat: Habitat,
    sample_rate_hz: u32,
    duration_s: f64,
    events: &'a [SceneEvent],
}

impl SceneArgs {
    fn config(&self) -> SceneConfig {
        SceneConfig {
            seed: self.seed,
            duration_s: Some(self.duration),
            shots_per_hour: self.shots_per_hour,
            first_shot_s: self.first_shot,
            distance_m: self.distance.clone(),
            min_gap_s: self.min_gap,
            habitat: self.habitat,
            distractors: !self.no_distractors,
            ambience_db: self.ambience,
            ..SceneConfig::default()
        }
    }
}

/// Renders the scene and writes its files; each appears whole or not at all.
///
/// # Errors
/// [`SceneCommandError`]: the caller prints it and leaves with its exit code.
pub fn run(args: &SceneArgs) -> Result<SceneSummary, SceneCommandError> {
    let config = args.config();
    config.validate().map_err(|faults| {
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        SceneCommandError::Usage(faults.join("; "))
    })?;
    if args.duration > LONGEST_WAV_S {
        return Err(SceneCommandError::Usage(format!(
            "duration is {:.0} h: a WAV file holds at most {:.0} h",
            args.duration / 3600.0,
            LONGEST_WAV_S / 3600.0
        )));
    }
    if args.truth.as_ref() == Some(&args.out) {
        return Err(SceneCommandError::Usage("--out and --truth name the same file".to_owned()));
    }
    let mut scene = Scene::new(config);
    let audio = draft_of(&args.out)?;
    let file = audio.create().map_err(|error| SceneCommandError::write(&args.out, &error))?;
    write_wav(&mut scene, file, &args.out)?;
    if let Some(path) = &args.truth {
        let truth = Truth {
            audio: args
                .out
                .file_name()
                .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
            seed: args.seed,
            habitat: args.habitat,
            sample_rate_hz: SAMPLE_RATE_HZ,
            duration_s: scene.position() as f64 / f64::from(SAMPLE_RATE_HZ),
            events: scene.truth(),
        };
        let draft = draft_of(path)?;
        let file = draft.create().map_err(|error| SceneCommandError::write(path, &error))?;
        let mut writer = io::BufWriter::new(file);
        serde_json::to_writer_pretty(&mut writer, &truth)
            .map_err(|error| SceneCommandError::write(path, &error))?;
        let file =
            writer.into_inner().map_err(|error| SceneCommandError::write(path, &error.error()))?;
        file.sync_all().map_err(|error| SceneCommandError::write(path, &error))?;
        draft.publish().map_err(|error| SceneCommandError::write(path, &error))?;
    }
    audio.publish().map_err(|error| SceneCommandError::write(&args.out, &error))?;
    Ok(SceneSummary {
        samples: scene.position(),
        shots: scene.truth().iter().filter(|event| event.kind.is_shot()).count(),
        events: scene.truth().len(),
    })
}

fn write_wav(scene: &mut Scene, file: fs::File, path: &Path) -> Result<(), SceneCommandError> {
    let failed = |error: hound::Error| SceneCommandError::write(path, &error);
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: SAMPLE_RATE_HZ,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let handle = file.try_clone().map_err(|error| SceneCommandError::write(path, &error))?;
    let mut writer = hound::WavWriter::new(io::BufWriter::new(file), spec).map_err(failed)?;
    let mut block = vec![0.0_f32; BLOCK];
    loop {
        let count = scene.render(&mut block);
        if count == 0 {
            break;
        }
        for &sample in &block[..count] {
            // Rounds half away from zero; the cast cuts toward it.
            let value = (sample * f32::from(i16::MAX) + 0.5_f32.copysign(sample)) as i16;
            writer.write_sample(value).map_err(failed)?;
        }
    }
    writer.finalize().map_err(failed)?;
    handle.sync_all().map_err(|error| SceneCommandError::write(path, &error))
}

fn draft_of(path: &Path) -> Result<Draft, SceneCommandError> {
    if path.is_dir() {
        return Err(SceneCommandError::write(path, &"this is a directory"));
    }
    Draft::of(path).map_err(|error| SceneCommandError::write(path, &error))
}

/// Seconds of `90`, `90s`, `10m`, `1h30m`, `1.5h`.
fn duration_s(text: &str) -> Result<f64, String> {
    let wrong = || format!("`{text}` is no time: write it as 90s, 10m or 1h30m");
    let mut total = 0.0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = rest[digits..].chars().next();
        let seconds = match unit {
            Some('h') => 3600.0,
            Some('m') => 60.0,
            Some('s') | None => 1.0,
            Some(_) => return Err(wrong()),
        };
        total += number * seconds;
        rest = &rest[(digits + usize::from(unit.is_some())).min(rest.len())..];
    }
    Ok(total)
}

/// Distances of `100..800` or `300`.
fn distance_m(text: &str) -> Result<RangeInclusive<f32>, String> {
    let wrong = |_| format!("`{text}` is no distance: write it as 100..800 or 300, in metres");
    let (near, far) = text.split_once("..").unwrap_or((text, text));
    let far = far.strip_prefix('=').unwrap_or(far);
    let near: f32 = near.trim().parse().map_err(wrong)?;
    let far: f32 = far.trim().parse().map_err(wrong)?;
    Ok(near..=far)
}

#[cfg(test)]
mod tests {
    use super::{distance_m, duration_s};

    #[test]
    fn times_and_distances_are_read() {
        assert_eq!(duration_s("90"), Ok(90.0));
        assert_eq!(duration_s("10m"), Ok(600.0));
        assert_eq!(duration_s("1h30m"), Ok(5400.0));
        assert_eq!(duration_s("1.5h"), Ok(5400.0));
        for wrong in ["", "ten", "5d", "m", "-3s", "1..2"] {
            assert!(duration_s(wrong).is_err(), "{wrong}");
        }
        assert_eq!(distance_m("100..800"), Ok(100.0..=800.0));
        assert_eq!(distance_m("100..=800"), Ok(100.0..=800.0));
        assert_eq!(distance_m("300"), Ok(300.0..=300.0));
        assert!(distance_m("far").is_err());
    }
}
