//! Path: source → ear (window → classifier → detector) → hearing
//!
//! One stream of 16 kHz mono to the events in it, with the parts that station, server and tools
//! share.

use std::sync::Arc;
use std::time::Instant;

use ecosight_models::detector::DetectorConfig;
use ecosight_models::{Bundle, Classifier, Detector, DetectorOutput, LoadError, Window, Windower};

use crate::config;
use crate::health::Health;

/// Windows, classifier and detector of one stream.
pub struct Ear {
    classifier: Classifier,
    windower: Windower,
    detector: Detector,
    health: Arc<Health>,
    windows: Vec<Window>,
    /// Windows that begin before this sample are not judged.
    judge_from: u64,
}

/// Why there is no ear. The caller stops: a station that cannot listen is no station.
#[derive(Debug, thiserror::Error)]
pub enum EarError {
    /// Bundle or backbone cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A threshold was set for a class that the bundle does not know.
    #[error("model.thresholds.{class}: the bundle {bundle} has no such class; it has {classes}")]
    Class {
        /// The class that was named.
        class: String,
        /// The bundle.
        bundle: String,
        /// What it has.
        classes: String,
    },
}

/// Loads the model that the configuration names.
///
/// # Errors
/// See [`EarError`].
pub fn load(config: &config::Model) -> Result<Classifier, EarError> {
    let classifier = Classifier::load(config.bundle.as_deref(), config.yamnet.as_deref())?;
    let bundle = classifier.bundle();
    rules(config, bundle)?;
    tracing::info!(
        name = bundle.name,
        version = bundle.version,
        tag = %bundle.tag,
        choice = classifier.choice().name(),
        why = %classifier.choice(),
        "model loaded"
    );
    Ok(classifier)
}

/// The bundle's rules with the operator's thresholds.
fn rules(config: &config::Model, bundle: &Bundle) -> Result<DetectorConfig, EarError> {
    let mut rules = bundle.detector.clone();
    for (class, threshold) in &config.thresholds {
        let index = bundle.classes.iter().position(|known| known == class);
        let rule = index.and_then(|i| rules.rules.iter_mut().find(|rule| rule.class == i));
        match rule {
            Some(rule) => rule.threshold = *threshold,
            None => {
                return Err(EarError::Class {
                    class: class.clone(),
                    bundle: bundle.name.clone(),
                    classes: bundle.classes.join(", "),
                });
            }
        }
    }
    Ok(rules)
}

impl Ear {
    /// An ear at the start of a stream.
    ///
    /// # Errors
    /// A threshold names an unknown class.
    pub fn new(
        classifier: Classifier,
        config: &config::Model,
        health: Arc<Health>,
    ) -> Result<Self, EarError> {
        let rules = rules(config, classifier.bundle())?;
        let windower = classifier.windower();
        let detector = Detector::new(&rules);
        Ok(Self { classifier, windower, detector, health, windows: Vec::new(), judge_from: 0 })
    }

    /// Hears more of the stream.
    pub fn hear(&mut self, samples: &[f32]) -> Vec<DetectorOutput> {
        self.windower.push(samples);
        self.classify()
    }

    /// The stream ends, or is interrupted: what was heard so far is judged, what is open closed.
    pub fn end(&mut self) -> Vec<DetectorOutput> {
        self.windower.finish();
        let mut outputs = self.classify();
        outputs.extend(self.detector.finish());
        outputs
    }

    /// Begins anew, without memory, at the sample `next` of the stream.
    pub fn reset(&mut self, next: u64) {
        self.windower.reset(next);
    }

    /// Only listens, without judging, to windows that begin before `sample`: for a stream that is
    /// taken up in the middle.
    pub fn judge_from(&mut self, sample: u64) {
        self.judge_from = sample;
    }

    fn classify(&mut self) -> Vec<DetectorOutput> {
        self.windows.clear();
        while let Some(window) = self.windower.next_window() {
            if window.start_sample >= self.judge_from {
                self.windows.push(window);
            }
        }
        if self.windows.is_empty() {
            return Vec::new();
        }
        let started = Instant::now();
        match self.classifier.classify(&self.windows) {
            Ok(scores) => {
                let floors = self.windows.iter().map(|window| window.noise_floor_dbfs);
                self.health.classified(started.elapsed(), floors);
                let judged = self.windows.iter().zip(&scores);
                judged.flat_map(|(window, scores)| self.detector.push(window, scores)).collect()
            }
            Err(error) => {
                // The watchdog ends an agent that classifies nothing any more.
                self.health.not_classified(self.windows.len());
                tracing::error!(%error, windows = self.windows.len(), "windows not classified");
                Vec::new()
            }
        }
    }
}
