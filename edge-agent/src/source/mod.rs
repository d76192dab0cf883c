//! Path: microphone, recording, pipe or scene → source → hearing
//!
//! One stream of 16 kHz mono, wherever it comes from. Whoever pulls may be late: a microphone's
//! callback only fills a ring and counts what did not fit.

mod files;
pub mod funnel;
#[cfg(feature = "microphone")]
mod microphone;
#[cfg(not(feature = "microphone"))]
#[path = "no_microphone.rs"]
mod microphone;
mod pace;
mod scene;
mod stdin;
mod supervision;
pub mod usb;

use std::path::PathBuf;
use std::sync::Arc;

use ecosight_models::audio::{AudioError, DecodeLimits};

use crate::config::{self, SourceKind, Speed};
use crate::health::Health;

pub use files::Files;
pub(crate) use files::recordings;
pub use microphone::Microphone;
pub use pace::Paced;
pub use scene::Scenery;
pub use stdin::RawPcm;
pub use supervision::Supervision;

/// Where sound comes from.
pub trait Source: Send {
    /// Appends sound to `out`, or waits for some, half a second at most.
    ///
    /// # Errors
    /// The source is lost for good; what can be cured is retried inside.
    fn read(&mut self, out: &mut Vec<f32>) -> Result<Read, SourceError>;
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// Sound that continues what came before.
    Sound,
    /// Nothing yet.
    Nothing,
    /// So many samples are missing before the next sound.
    Gap {
        /// Samples at 16 kHz.
        lost: u64,
    },
    /// A new recording begins, with no context of the one before.
    Item {
        /// Its number in the replay, from 0.
        index: u64,
    },
    /// There is no more.
    End,
}

/// Where a replay begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Begin {
    /// Number of the recording, from 0.
    pub item: u64,
    /// Stream position of that recording's first sample.
    pub item_start: u64,
    /// Stream position to begin at.
    pub sample: u64,
}

/// Why a source cannot be used. The caller stops and tells the operator.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file or directory is not there, or not readable.
    #[error("cannot read {path}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not sound, or damaged.
    #[error("cannot decode {path}")]
    Undecodable {
        /// Which file.
        path: PathBuf,
        /// What the decoder said.
        source: AudioError,
    },
    /// The driver does not let go of streams that are gone: a new process is needed.
    #[error("the sound driver hangs; the agent must be started again")]
    Hanging,
    /// The program was built without the feature `microphone`.
    #[error(
        "this program was built without the microphone; set source.kind to another source, or build \
         it where libasound2-dev is installed, with the feature `microphone`"
    )]
    NoMicrophone,
    /// A directory without a single recording.
    #[error("no recordings (.{}) below {path}", ecosight_models::audio::ENDINGS.join(", ."))]
    Empty {
        /// The directory.
        path: PathBuf,
    },
    /// The setting `path` is missing.
    #[error("source.path is not set")]
    NoPath,
    /// A rate or channel count that cannot be resampled.
    #[error("cannot resample")]
    Format(#[source] AudioError),
    /// Standard input failed.
    #[error("cannot read standard input")]
    Stdin(#[source] std::io::Error),
    /// The scene cannot be synthesised.
    #[error("scene: {0}")]
    Scene(String),
}

/// Samples that a replay delivers at once: one hop at the pace of sound, so that no alert waits;
/// 4 s when it runs ahead, so that several windows are classified together.
fn block(speed: Speed) -> usize {
    match speed {
        Speed::RealTime => ecosight_models::HOP_SAMPLES,
        Speed::Maximum => 4 * ecosight_models::SAMPLE_RATE_HZ as usize,
    }
}

/// Limits for a station's own recordings: a day at most, so that a forged header is found out.
pub(crate) fn decode_limits() -> DecodeLimits {
    DecodeLimits { max_bytes: 16 << 30, max_seconds: 25.0 * 3_600.0 }
}

/// Opens what the configuration names, at `begin` if it is a replay.
///
/// # Errors
/// See [`SourceError`]. A microphone that is not there is no error: it is retried for ever; one that
/// this program cannot listen to is.
pub fn open(
    config: &config::Source,
    begin: Begin,
    health: &Arc<Health>,
) -> Result<Box<dyn Source>, SourceError> {
    let source: Box<dyn Source> = match config.kind {
        SourceKind::Microphone => {
            return Ok(Box::new(Microphone::new(config, Arc::clone(health))?));
        }
        SourceKind::Stdin => return Ok(Box::new(RawPcm::stdin(config, Arc::clone(health))?)),
        SourceKind::File | SourceKind::Directory => Box::new(Files::open(config, begin)?),
        SourceKind::Scene => Box::new(Scenery::open(config, begin)?),
    };
    Ok(match config.speed {
        Speed::RealTime => Box::new(Paced::new(source)),
        Speed::Maximum => source,
    })
}

/// A text that two runs share exactly when they hear the same sound with the same model.
///
/// # Errors
/// The recordings cannot be listed.
pub fn identity(config: &config::Source, model: &str) -> Result<String, SourceError> {
    let what = match config.kind {
        SourceKind::Microphone => "mic".to_owned(),
        SourceKind::Stdin => "stdin".to_owned(),
        SourceKind::File | SourceKind::Directory => files::fingerprint(config)?,
        SourceKind::Scene => {
            let (seed, duration) = (config.seed, config.duration);
            let (shots, first) = (config.shots_per_hour, config.first_shot);
            format!("scene seed={seed} duration={duration:?} shots={shots:?} first={first:?}")
        }
    };
    let repeat = if config.repeat { " repeat" } else { "" };
    Ok(format!("{what}{repeat} model={model}"))
}
