//! `record-test`: a few seconds from the configured source, judged and kept.
//!
//! What a technician does on the tree: is the microphone alive, is the gain right, can I hear it?
//! The recording is treated as every other: if people speak in it, that is taken out unless the
//! configuration says otherwise; what is measured is the sound as it came.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use ecosight_models::SAMPLE_RATE_HZ;
use ecosight_shared::DeviceId;

use crate::clip::{self, Recording, guano, to_pcm};
use crate::clock::Clock;
use crate::command::RecordTestArgs;
use crate::config::{Config, Speed};
use crate::doctor::Check;
use crate::ear::{self, Ear};
use crate::health::Health;
use crate::hearing::Onset;
use crate::recorder::Identity;
use crate::sound_check::{Fault, Measurement, SoundCheck};
use crate::source::{self, Begin, Read};
use crate::speech::Redaction;

/// A source that brings nothing for so long is dead.
const PATIENCE: Duration = Duration::from_secs(15);

/// What was recorded, and what was found.
#[derive(Debug)]
pub struct Outcome {
    /// Where the recording is.
    pub path: PathBuf,
    /// Levels.
    pub measurement: Measurement,
    /// Pass or fail by fault, with remedies.
    pub checks: Vec<Check>,
}

/// Records, judges and keeps.
///
/// # Errors
/// The source gives no sound, there is no model, or the recording cannot be written.
pub fn record_test(config: &Config, args: &RecordTestArgs, clock: &Clock) -> Result<Outcome> {
    let wanted = u64::from(args.seconds) * u64::from(SAMPLE_RATE_HZ);
    let classifier = ear::load(config)?;
    let health = Arc::new(Health::default());
    let identity = Identity::new(
        &config.station,
        config.station.id.unwrap_or(DeviceId(uuid::Uuid::nil())),
        classifier.bundle(),
    );
    let mut ear = Ear::new(classifier, config, Arc::clone(&health))?;
    let source_config =
        crate::config::Source { speed: Speed::RealTime, repeat: false, ..config.source.clone() };
    let mut source = source::open(&source_config, Begin::default(), &health)?;
    let (mut check, mut samples) = (SoundCheck::default(), Vec::new());
    let mut block = Vec::new();
    let mut last = Instant::now();
    let begun = Onset { unix_us: clock.unix_us(), quality: clock.quality() };
    while (samples.len() as u64) < wanted {
        block.clear();
        let read = source.read(&mut block).context("source")?;
        if !block.is_empty() {
            last = Instant::now();
            let room = wanted as usize - samples.len();
            block.truncate(room);
            check.push(&block);
            let _ = ear.hear(&block);
            samples.extend(block.iter().copied().map(to_pcm));
        }
        match read {
            Read::End => break,
            Read::Gap { lost } if lost > 0 && !samples.is_empty() => {
                tracing::warn!(lost, "samples were lost: the machine is too busy");
            }
            _ if last.elapsed() > PATIENCE => {
                bail!(
                    "no sound in {} s: `ecosight-agent doctor` says what is wrong with the source",
                    PATIENCE.as_secs()
                );
            }
            _ => {}
        }
    }
    if samples.is_empty() {
        bail!("the source ended without any sound");
    }
    let _ = ear.end();
    let redacted = match ear.redaction() {
        Redaction::Off => Vec::new(),
        Redaction::On(speech) => speech.redact(0, &mut samples),
    };
    let recording = Recording { samples, time: begun, redacted };
    let measurement = check.measure();
    let mut checks = judge(&measurement);
    checks.push(speech_check(&recording));
    let path = keep(&recording, &identity, args)?;
    Ok(Outcome { path, measurement, checks })
}

/// Pass or fail by fault.
fn judge(measurement: &Measurement) -> Vec<Check> {
    let judge = |fault: Fault| {
        let found = measurement.found(fault);
        if measurement.has(fault) {
            Check::fail(fault.name(), found, fault.remedy())
        } else {
            Check::pass(fault.name(), found)
        }
    };
    Fault::ALL.into_iter().map(judge).collect()
}

fn speech_check(recording: &Recording) -> Check {
    let removed: u64 = recording.redacted.iter().map(|(from, to)| to - from).sum();
    let seconds = removed as f64 / f64::from(SAMPLE_RATE_HZ);
    if removed == 0 {
        return Check::pass("speech", "none in the recording");
    }
    Check::warn(
        "speech",
        format!("{seconds:.1} s with speech were silenced in the recording"),
        "clap instead of speaking to hear whether it works",
    )
}

fn keep(recording: &Recording, identity: &Identity, args: &RecordTestArgs) -> Result<PathBuf> {
    let time = crate::clock::rfc3339(recording.time.unix_us);
    let stamp: String = time.chars().filter(|c| !matches!(c, '-' | ':')).collect();
    let stamp = stamp.split('.').next().unwrap_or_default().to_owned();
    let directory = args.out.clone().unwrap_or_else(|| PathBuf::from("."));
    if directory.is_file() {
        bail!("{} is a file: --out names a directory", directory.display());
    }
    let stem = format!("record-test_{}_{stamp}Z", identity.name);
    let about = guano::of_recording(identity, recording);
    let file = clip::save(Path::new(&directory), &stem, &recording.samples, &about)
        .with_context(|| format!("cannot write in {}", directory.display()))?;
    Ok(directory.join(file.name))
}
