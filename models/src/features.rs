//! Path: window → **features** → head
//!
//! The streams of numbers that a head may take, and the one place that computes them. A bundle
//! declares its streams by name; training, station and cloud all go through [`FeatureExtractor`].

use std::ops::Range;
use std::path::Path;

use crate::bundle::StreamSpec;
use crate::classifier::{ClassifyError, LoadError};
use crate::transient;
use crate::window::Window;
use crate::yamnet::{Backbone, Exit};

/// All streams by name, for messages.
pub const STREAM_NAMES: [&str; 5] =
    ["yamnet.l12", "yamnet.l14", "yamnet.embedding", "yamnet.scores", TRANSIENT];

/// The stream that is measured directly on the sound.
const TRANSIENT: &str = "transient";

/// Numbers per window of the stream `name`, `None` if there is no such stream.
///
/// - `yamnet.l12`, `yamnet.l14`: an inner layer's 512 channels, their means and then their maxima
///   over time and frequency.
/// - `yamnet.embedding`: the 1024 means of the last layer.
/// - `yamnet.scores`: 521 AudioSet scores.
/// - `transient`: what is measured directly on the sound, see [`crate::transient`].
#[must_use]
pub fn stream_len(name: &str) -> Option<usize> {
    if name == TRANSIENT {
        return Some(transient::LEN);
    }
    Exit::of_stream(name).map(Exit::width)
}

/// Computes declared streams of windows. `Send + Sync`, cheap to clone: clones share the network.
#[derive(Clone)]
pub struct FeatureExtractor {
    sources: Vec<Source>,
    backbone: Option<Backbone>,
    /// Where the AudioSet scores stand in what the network gives.
    audioset: Option<Range<usize>>,
    len: usize,
}

/// Where one stream's numbers come from.
#[derive(Clone)]
enum Source {
    /// This part of what the network gives.
    Network(Range<usize>),
    Transient,
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
    /// [`LoadError`] if the backbone is missing or unusable, or a stream unknown.
    pub fn load(
        streams: &[StreamSpec],
        backbone: Option<&Path>,
        audioset: bool,
    ) -> Result<Self, LoadError> {
        Self::load_with(streams, backbone, audioset, false)
    }

    /// [`Self::load`] with the choice to prepare for several windows at once as well: faster where
    /// windows come in bulk, about 20 MB more memory.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_with(
        streams: &[StreamSpec],
        backbone: Option<&Path>,
        audioset: bool,
        batching: bool,
    ) -> Result<Self, LoadError> {
        let mut exits: Vec<Exit> =
            streams.iter().filter_map(|s| Exit::of_stream(&s.name)).collect();
        if audioset {
            exits.push(Exit::Scores);
        }
        let mut wanted = Vec::new();
        for exit in exits {
            if !wanted.contains(&exit) {
                wanted.push(exit);
            }
        }
        let range_of = |exit: Exit| {
            let before = wanted.iter().take_while(|other| **other != exit);
            let start: usize = before.map(|other| other.width()).sum();
            start..start + exit.width()
        };
        let sources = streams
            .iter()
            .map(|stream| match Exit::of_stream(&stream.name) {
                Some(exit) => Ok(Source::Network(range_of(exit))),
                None if stream.name == TRANSIENT => Ok(Source::Transient),
                None => Err(LoadError::UnknownStream(stream.name.clone())),
            })
            .collect::<Result<_, _>>()?;
        let audioset = audioset.then(|| range_of(Exit::Scores));
        let backbone = match &wanted[..] {
            [] => None,
            exits => Some(Backbone::load(backbone, exits, batching)?),
        };
        let len = streams.iter().filter_map(|stream| stream_len(&stream.name)).sum();
        Ok(Self { sources, backbone, audioset, len })
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

    /// The network, if a stream needs it.
    #[must_use]
    pub fn backbone(&self) -> Option<&Backbone> {
        self.backbone.as_ref()
    }

    /// One `Features` per window, in order.
    ///
    /// # Errors
    /// [`ClassifyError`] if the network failed.
    pub fn compute(&self, windows: &[Window]) -> Result<Vec<Features>, ClassifyError> {
        let given = match &self.backbone {
            Some(backbone) => {
                let patches: Vec<&[f32]> = windows.iter().map(Window::log_mel).collect();
                backbone.run(&patches)?
            }
            None => vec![Vec::new(); windows.len()],
        };
        Ok(windows.iter().zip(given).map(|(window, given)| self.assemble(window, &given)).collect())
    }

    fn assemble(&self, window: &Window, given: &[f32]) -> Features {
        let mut values = Vec::with_capacity(self.len);
        for source in &self.sources {
            match source {
                Source::Network(range) => values.extend_from_slice(&given[range.clone()]),
                Source::Transient => values.extend_from_slice(window.transient()),
            }
        }
        let audioset = self.audioset.clone().map(|range| given[range].into());
        Features { values, audioset }
    }
}
