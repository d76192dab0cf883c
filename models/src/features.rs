//! Path: window → **features** → head
//!
//! The streams of numbers that a head may take, and the one place that computes them. A bundle
//! declares its streams by name; training, station and cloud all go through [`FeatureExtractor`].

use std::path::Path;

use crate::bundle::StreamSpec;
use crate::classifier::{ClassifyError, LoadError};
use crate::window::Window;

/// All streams by name, for messages.
pub const STREAM_NAMES: [&str; 5] =
    ["yamnet.l12", "yamnet.l14", "yamnet.embedding", "yamnet.scores", "transient"];

/// Numbers per window of the stream `name`, `None` if there is no such stream.
///
/// - `yamnet.l12`, `yamnet.l14`: an inner layer's 512 channels, their means and then their maxima
///   over time and frequency.
/// - `yamnet.embedding`: the 1024 means of the last layer.
/// - `yamnet.scores`: 521 AudioSet scores.
/// - `transient`: what is measured directly on the sound, see [`crate::window`].
#[must_use]
pub fn stream_len(name: &str) -> Option<usize> {
    match name {
        "yamnet.l12" | "yamnet.l14" | "yamnet.embedding" => Some(1024),
        "yamnet.scores" => Some(521),
        "transient" => Some(crate::transient::LEN),
        _ => None,
    }
}

/// Computes declared streams of windows. `Send + Sync`, cheap to clone.
#[derive(Clone)]
pub struct FeatureExtractor {
    len: usize,
}

/// The features of one window.
#[derive(Clone, Debug, Default)]
pub struct Features {
    /// The declared streams, concatenated in their order; not normalised.
    pub values: Vec<f32>,
    /// The 521 AudioSet scores, if they were asked for.
    pub audioset: Option<Box<[f32]>>,
}

impl FeatureExtractor {
    /// Prepares `streams`; loads YAMNet only if one of them (or `audioset`) needs it.
    ///
    /// `backbone`: the imported file, `None` to look in the usual places.
    /// `audioset`: also give the 521 scores (needs the full network).
    ///
    /// # Errors
    /// [`LoadError`] if the backbone is missing or unusable.
    pub fn load(
        streams: &[StreamSpec],
        backbone: Option<&Path>,
        audioset: bool,
    ) -> Result<Self, LoadError> {
        let _ = (backbone, audioset);
        Ok(Self { len: streams.iter().map(|stream| stream.len).sum() })
    }

    /// Numbers per window.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no stream at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// One `Features` per window, in order.
    ///
    /// # Errors
    /// [`ClassifyError`] if the network failed.
    pub fn compute(&self, _windows: &[Window]) -> Result<Vec<Features>, ClassifyError> {
        Err(ClassifyError("stub".into()))
    }
}
