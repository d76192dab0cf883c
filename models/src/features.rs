//! Path: window → **features** → head
//!
//! The streams of numbers that a head may take, and the one place that computes them. A bundle
//! declares its streams by name; training, station and cloud all go through [`FeatureExtractor`].

use std::ops::Range;
use std::path::Path;

use crate::bundle::StreamSpec;
use crate::classifier::{ClassifyError, LoadError};
use crate::compact::{self, CompactNetwork};
use crate::transient;
use crate::window::{Extras, Window, Windower};
use crate::yamnet::{Backbone, Exit};

/// All streams by name, for messages.
pub const STREAM_NAMES: [&str; 7] = [
    "yamnet.l12",
    "yamnet.l14",
    "yamnet.embedding",
    "yamnet.scores",
    TRANSIENT,
    FOLLOWING,
    compact::STREAM,
];

/// The stream that is measured directly on the sound, and the same of the next window.
const TRANSIENT: &str = "transient";
const FOLLOWING: &str = "transient.next";

/// Numbers per window of the stream `name`, `None` if there is no such stream, or if it is of the
/// bundle's own making: `compact`, what the bundle's own network gives, see [`crate::compact`].
///
/// - `yamnet.l12`, `yamnet.l14`: an inner layer's 512 channels, their means and then their maxima
///   over time and frequency.
/// - `yamnet.embedding`: the 1024 means of the last layer.
/// - `yamnet.scores`: 521 AudioSet scores.
/// - `transient`: what is measured directly on the sound, see [`crate::transient`].
/// - `transient.next`: the same of the next window, which is waited for.
#[must_use]
pub fn stream_len(name: &str) -> Option<usize> {
    if name == TRANSIENT || name == FOLLOWING {
        return Some(transient::LEN);
    }
    Exit::of_stream(name).map(Exit::width)
}

/// Computes declared streams of windows. `Send + Sync`, cheap to clone: clones share the network.
#[derive(Clone)]
pub struct FeatureExtractor {
    sources: Vec<Source>,
    backbone: Option<Backbone>,
    compact: Option<CompactNetwork>,
    /// Whether a stream looks beyond the window.
    waits: bool,
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
    Following,
    Compact,
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
        Self::load_with(streams, backbone, None, audioset, false)
    }

    /// [`Self::load`] with the choice to prepare for several windows at once as well: faster where
    /// windows come in bulk, about 20 MB more memory. `compact`: the bundle's own network, which the
    /// stream of that name needs.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_with(
        streams: &[StreamSpec],
        backbone: Option<&Path>,
        compact: Option<CompactNetwork>,
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
        let sources: Vec<Source> = streams
            .iter()
            .map(|stream| match Exit::of_stream(&stream.name) {
                Some(exit) => Ok(Source::Network(range_of(exit))),
                None if stream.name == TRANSIENT => Ok(Source::Transient),
                None if stream.name == FOLLOWING => Ok(Source::Following),
                None if stream.name == compact::STREAM && compact.is_some() => Ok(Source::Compact),
                None => Err(LoadError::UnknownStream(stream.name.clone())),
            })
            .collect::<Result<_, _>>()?;
        let audioset = audioset.then(|| range_of(Exit::Scores));
        let backbone = match &wanted[..] {
            [] => None,
            exits => Some(Backbone::load(backbone, exits, batching)?),
        };
        let waits = sources.iter().any(|s| matches!(s, Source::Following | Source::Compact));
        let len = sources
            .iter()
            .map(|source| match source {
                Source::Network(range) => range.len(),
                Source::Transient | Source::Following => transient::LEN,
                Source::Compact => compact.as_ref().map_or(0, CompactNetwork::len),
            })
            .sum();
        Ok(Self { sources, backbone, compact, waits, audioset, len })
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

    /// The front end for one stream of sound: it makes what the feature streams need, and where
    /// asked judges speech.
    #[must_use]
    pub fn windower(&self, speech: bool) -> Windower {
        Windower::with(Extras { ahead: self.waits, speech })
    }

    /// One `Features` per window, in order. The windows must be of [`Self::windower`].
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
        windows.iter().zip(given).map(|(window, given)| self.assemble(window, &given)).collect()
    }

    fn assemble(&self, window: &Window, given: &[f32]) -> Result<Features, ClassifyError> {
        let mut values = Vec::with_capacity(self.len);
        for source in &self.sources {
            match source {
                Source::Network(range) => values.extend_from_slice(&given[range.clone()]),
                Source::Transient => values.extend_from_slice(window.transient()),
                Source::Following => {
                    let following = window.following().ok_or(ClassifyError::Windower)?;
                    values.extend_from_slice(following);
                }
                Source::Compact => {
                    let (Some(network), Some(patch)) = (&self.compact, window.compact()) else {
                        return Err(ClassifyError::Windower);
                    };
                    values.extend(network.run(&patch.values)?);
                }
            }
        }
        let audioset = self.audioset.clone().map(|range| given[range].into());
        Ok(Features { values, audioset })
    }
}
