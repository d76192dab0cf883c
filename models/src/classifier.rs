//! Path: window → features → head → **scores** → detector
//!
//! The one façade over a bundle, its head and the network below: load it once, hand it windows.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::bundle::{
    Builtin, Bundle, BundleError, BundleFiles, Calibration, HEAD_FILE, Normalisation, StreamSpec,
};
use crate::compact::{self, CompactNetwork, CompactRunError};
use crate::features::FeatureExtractor;
use crate::network_plan::Plan;
use crate::onnx;
use crate::speech;
use crate::window::{Window, Windower};
use crate::yamnet::golden::Sound;
use crate::yamnet::{self, BackboneError, BackboneRunError};

/// Why a model could not be loaded. The caller shows the message, which names the remedy; a station
/// keeps the model that it has.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The bundle is missing or damaged.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// YAMNet is not imported, or its file is damaged.
    #[error(transparent)]
    Backbone(#[from] BackboneError),
    /// A network of the bundle can't be run.
    #[error("bundle {bundle}: {file}: {what}; get the bundle again from where it was made")]
    Network {
        /// Name and version of the bundle.
        bundle: String,
        /// The network's file in it.
        file: &'static str,
        /// What is wrong.
        what: String,
    },
    /// A stream that this program does not know.
    #[error("`{0}` is no stream of this program; upgrade it, or use another bundle")]
    UnknownStream(String),
}

/// Why windows could not be judged. The caller counts them as not classified and goes on.
#[derive(Debug, thiserror::Error)]
pub enum ClassifyError {
    /// The network failed.
    #[error(transparent)]
    Backbone(#[from] BackboneRunError),
    /// The bundle's own network failed.
    #[error(transparent)]
    Compact(#[from] CompactRunError),
    /// A defect of the caller, who has to take the windower from the classifier.
    #[error("the windows are of another windower than the classifier's")]
    Windower,
    /// The head failed.
    #[error("the head failed on a window: {0}")]
    Head(String),
}

/// Scores of one window.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Calibrated, 0 to 1, in the bundle's class order.
    pub classes: Vec<f32>,
    /// YAMNet's 521 AudioSet scores, where the full network runs.
    pub audioset: Option<Box<[f32]>>,
    /// How much of speech the window is, from [`crate::speech::SPEECH`] on to be treated as such;
    /// `None` where the options leave it out.
    pub speech: Option<f32>,
}

/// What a classifier computes beside the bundle's scores, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassifierOptions {
    /// Say how much of speech every window is, and where the bundle is made for YAMNet give its 521
    /// AudioSet scores as well, for the privacy filter and the trace of what was heard. Those need
    /// the full network: about twice the time of an inner exit.
    pub audioset: bool,
    /// Prepare for eight windows at once as well: a tenth to a fifth less time per window where
    /// they come in bulk, about 20 MB more memory.
    pub batching: bool,
}

impl Default for ClassifierOptions {
    fn default() -> Self {
        Self { audioset: true, batching: false }
    }
}

/// A loaded bundle. `Send + Sync`, cheap to clone: clones share one plan, any thread may use it.
#[derive(Clone)]
pub struct Classifier {
    inner: Arc<Inner>,
}

struct Inner {
    bundle: Bundle,
    choice: Choice,
    /// Whether the windower judges speech, because no AudioSet scores will.
    listens: bool,
    features: FeatureExtractor,
    head: Plan,
}

/// Which bundle a classifier runs, and why that one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The one that was asked for.
    Named,
    /// The built-in one on YAMNet, which is in this file.
    Full {
        /// The imported network.
        backbone: PathBuf,
    },
    /// The built-in one with a network of its own, because YAMNet is in none of these places.
    Compact {
        /// Where it was looked for.
        places: Vec<PathBuf>,
    },
}

impl Choice {
    /// `named`, `full` or `compact`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Named => "named",
            Self::Full { .. } => "full",
            Self::Compact { .. } => "compact",
        }
    }
}

/// The reason, for people.
impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Named => write!(f, "named by its directory"),
            Self::Full { backbone } => write!(f, "full: YAMNet is here ({})", backbone.display()),
            Self::Compact { places } => {
                let places: Vec<String> =
                    places.iter().map(|path| path.display().to_string()).collect();
                write!(
                    f,
                    "compact: YAMNet is not imported (none of {} is there); `ecosight-models \
                     import-yamnet --download` brings the full model",
                    places.join(", ")
                )
            }
        }
    }
}

impl Choice {
    /// The built-in bundle for this machine: the full one where YAMNet is, else the compact one. A
    /// place that somebody named is taken at their word.
    ///
    /// # Errors
    /// [`LoadError`] if this build has no such bundle, or YAMNet is missing where it was said to be.
    pub fn builtin(backbone: Option<&Path>) -> Result<(Self, BundleFiles), LoadError> {
        let full = |backbone| Ok((Self::Full { backbone }, BundleFiles::builtin(Builtin::Full)?));
        match backbone {
            Some(path) => full(path.to_owned()),
            None => match yamnet::find() {
                Ok(path) => full(path),
                Err(error) if yamnet::is_named() => Err(error.into()),
                Err(BackboneError::Missing { places }) => {
                    Ok((Self::Compact { places }, BundleFiles::builtin(Builtin::Compact)?))
                }
                Err(error) => Err(error.into()),
            },
        }
    }
}

impl Classifier {
    /// `bundle`: a directory, or `None` for a built-in one, see [`Choice::builtin`]. `backbone`: the
    /// imported YAMNet file, or `None` to look in the usual places (see
    /// [`crate::yamnet::candidates`]).
    ///
    /// # Errors
    /// [`LoadError`], whose text names file and remedy.
    pub fn load(bundle: Option<&Path>, backbone: Option<&Path>) -> Result<Self, LoadError> {
        Self::load_with(bundle, backbone, ClassifierOptions::default())
    }

    /// [`Self::load`] with a choice of what is computed.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_with(
        bundle: Option<&Path>,
        backbone: Option<&Path>,
        options: ClassifierOptions,
    ) -> Result<Self, LoadError> {
        match bundle {
            Some(dir) => Self::from_files(BundleFiles::open(dir)?, backbone, options),
            None => {
                let (choice, files) = Choice::builtin(backbone)?;
                Self::chosen(choice, files, backbone, options)
            }
        }
    }

    /// The same from files in memory.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_files(
        files: BundleFiles,
        backbone: Option<&Path>,
        options: ClassifierOptions,
    ) -> Result<Self, LoadError> {
        Self::chosen(Choice::Named, files, backbone, options)
    }

    /// The same for a bundle that was chosen as `choice` says.
    ///
    /// # Errors
    /// As [`Self::load`].
    #[allow(
        clippy::needless_pass_by_value,
        reason = "the bundle's bytes are freed before YAMNet is loaded, so that they never add up"
    )]
    pub fn chosen(
        choice: Choice,
        files: BundleFiles,
        backbone: Option<&Path>,
        options: ClassifierOptions,
    ) -> Result<Self, LoadError> {
        let broken = |file| {
            let bundle = format!("{} {}", files.bundle.name, files.bundle.version);
            move |what| LoadError::Network { bundle, file, what }
        };
        let head = load_head(&files).map_err(broken(HEAD_FILE))?;
        let compact = load_compact(&files).map_err(broken(compact::NETWORK_FILE))?;
        let bundle = files.bundle.clone();
        drop(files);
        // AudioSet scores cost a whole network: without one they are not given.
        let audioset = options.audioset && bundle.manifest.backbone.is_some();
        let listens = options.audioset && !audioset;
        let features = FeatureExtractor::load_with(
            &bundle.manifest.streams,
            backbone,
            compact,
            audioset,
            options.batching,
        )?;
        Ok(Self { inner: Arc::new(Inner { bundle, choice, listens, features, head }) })
    }

    /// Why it is this bundle.
    #[must_use]
    pub fn choice(&self) -> &Choice {
        &self.inner.choice
    }

    /// What the bundle says of itself.
    #[must_use]
    pub fn bundle(&self) -> &Bundle {
        &self.inner.bundle
    }

    /// SHA-256, hex, of the file that YAMNet was imported from; `None` if no stream needs YAMNet.
    #[must_use]
    pub fn backbone_sha256(&self) -> Option<&str> {
        self.inner.features.backbone().map(|backbone| backbone.source_sha256())
    }

    /// The front end for one stream.
    #[must_use]
    pub fn windower(&self) -> Windower {
        self.inner.features.windower(self.inner.listens)
    }

    /// One `Scores` per window, in order.
    ///
    /// # Errors
    /// [`ClassifyError`] if network or head fail.
    pub fn classify(&self, windows: &[Window]) -> Result<Vec<Scores>, ClassifyError> {
        let inner = &*self.inner;
        let manifest = &inner.bundle.manifest;
        let features = inner.features.compute(windows)?;
        features
            .into_iter()
            .zip(windows)
            .map(|(mut features, window)| {
                normalise(&manifest.normalisation, &mut features.values);
                let outputs = inner
                    .head
                    .run(&features.values)
                    .map_err(|error| ClassifyError::Head(error.to_string()))?;
                let mut classes = outputs.into_iter().next().unwrap_or_default();
                calibrate(&manifest.calibration, &mut classes);
                if classes.len() != inner.bundle.classes.len()
                    || !classes.iter().all(|score| score.is_finite())
                {
                    return Err(ClassifyError::Head("a score is not finite".to_owned()));
                }
                let audioset = features.audioset;
                let speech = audioset.as_deref().map(speech::of_audioset).or(window.speech());
                Ok(Scores { classes, audioset, speech })
            })
            .collect()
    }

    /// Windows of a whole sound, 16 kHz mono, and their scores.
    ///
    /// # Errors
    /// As [`Self::classify`].
    pub fn classify_sound(
        &self,
        samples: &[f32],
    ) -> Result<(Vec<Window>, Vec<Scores>), ClassifyError> {
        let mut windower = self.windower();
        windower.push(samples);
        windower.finish();
        let windows: Vec<Window> = std::iter::from_fn(|| windower.next_window()).collect();
        let scores = self.classify(&windows)?;
        Ok((windows, scores))
    }

    /// What the bundle says to a golden sound now: per window the scores in class order.
    ///
    /// # Errors
    /// As [`Self::classify`].
    pub fn golden_scores(&self, sound: Sound, seed: u64) -> Result<Vec<Vec<f32>>, ClassifyError> {
        let (_, scores) = self.classify_sound(&sound.render(seed, GOLDEN_SECONDS))?;
        Ok(scores.into_iter().map(|scores| scores.classes).collect())
    }

    /// Plays the bundle's golden sounds and gives the largest difference from the scores that it had
    /// where it was made; `None` if it has no golden sounds. A different number of windows counts
    /// as 1.
    ///
    /// # Errors
    /// As [`Self::classify`].
    pub fn golden_deviation(&self) -> Result<Option<f32>, ClassifyError> {
        let mut worst: Option<f32> = None;
        for clip in &self.bundle().manifest.golden {
            let Ok(sound) = clip.sound.parse() else { continue };
            let now = self.golden_scores(sound, clip.seed)?;
            let difference = if now.len() == clip.scores.len() {
                let pairs = now.iter().flatten().zip(clip.scores.iter().flatten());
                pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
            } else {
                1.0
            };
            worst = Some(worst.unwrap_or(0.0).max(difference));
        }
        Ok(worst)
    }
}

/// Length of a golden sound in bundles: three windows.
pub const GOLDEN_SECONDS: f32 = 1.935;

/// Largest difference of golden scores that still counts as the same model: another published file
/// of the same YAMNet may move a score this far.
pub const GOLDEN_TOLERANCE: f32 = 0.05;

/// The bundle's own network, where a stream needs it.
fn load_compact(files: &BundleFiles) -> Result<Option<CompactNetwork>, String> {
    let streams = &files.bundle.manifest.streams;
    let Some(stream) = streams.iter().find(|stream| stream.name == compact::STREAM) else {
        return Ok(None);
    };
    let file = files.file(compact::NETWORK_FILE).unwrap_or_default();
    CompactNetwork::from_onnx(file, stream.len).map(Some)
}

fn load_head(files: &BundleFiles) -> Result<Plan, String> {
    let manifest = &files.bundle.manifest;
    let model = onnx::decode_checked(files.head()).map_err(|error| error.to_string())?;
    let graph = model.graph.as_ref();
    let ends = graph.map_or((0, 0), |graph| (graph.input.len(), graph.output.len()));
    if ends != (1, 1) {
        return Err(format!("has {} inputs and {} outputs, expected one of each", ends.0, ends.1));
    }
    let features: usize = manifest.streams.iter().map(|stream: &StreamSpec| stream.len).sum();
    let plan = Plan::prepare(model, &[features], 1, None)
        .map_err(|error| format!("tract refuses it for {features} features: {error}"))?;
    let trial = plan
        .run(&vec![0.0; features])
        .map_err(|error| format!("does not run on {features} features: {error}"))?;
    let given = trial.first().map_or(0, Vec::len);
    if given != manifest.classes.len() {
        return Err(format!("gives {given} numbers, expected {} classes", manifest.classes.len()));
    }
    Ok(plan)
}

/// Applies [`Normalisation`] in place.
pub fn normalise(normalisation: &Normalisation, values: &mut [f32]) {
    let limit = normalisation.limit.unwrap_or(f32::INFINITY);
    let rules = normalisation.mean.iter().zip(&normalisation.scale);
    for (value, (mean, scale)) in values.iter_mut().zip(rules) {
        *value = ((*value - mean) * scale).clamp(-limit, limit);
    }
}

/// Applies [`Calibration`] in place: logits become scores.
pub fn calibrate(calibration: &Calibration, logits: &mut [f32]) {
    match calibration {
        Calibration::Sigmoid { slope, offset } => {
            for (logit, (slope, offset)) in logits.iter_mut().zip(slope.iter().zip(offset)) {
                *logit = 1.0 / (1.0 + (-(slope * *logit + offset)).exp());
            }
        }
        Calibration::Softmax { temperature } => {
            let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0;
            for logit in logits.iter_mut() {
                *logit = ((*logit - highest) / temperature).exp();
                sum += *logit;
            }
            logits.iter_mut().for_each(|score| *score /= sum);
        }
    }
}
