//! Path: audio → windows → classifier → detector → **heard** → JSON, text
//!
//! What a station would hear in a sound file, and how it is shown: for tools and stations alike, so
//! that a script takes the output of either.

mod report;

use std::path::Path;

pub use report::{json_line, paragraph};

use crate::audio::{AudioError, AudioReader, DecodeLimits};
use crate::detector::DetectorConfig;
use crate::{
    Classifier, ClassifyError, Detector, DetectorOutput, Event, SAMPLE_RATE_HZ, Scores, Window,
};

/// Windows that are judged at once; bounds the memory that one file takes.
const WINDOWS_AT_ONCE: usize = 32;

/// Why a file could not be judged. The caller tells it with the file's name and goes on.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// It is no sound that can be read.
    #[error(transparent)]
    Sound(#[from] AudioError),
    /// The model failed on it.
    #[error(transparent)]
    Model(#[from] ClassifyError),
}

/// What was heard in one file.
#[derive(Debug)]
pub struct Heard {
    duration_s: f64,
    /// Highest score of any window, per class.
    highest: Vec<f32>,
    events: Vec<Event>,
    /// Start, level (dBFS) and scores of every window, if they were asked for.
    windows: Vec<(f64, f32, Vec<f32>)>,
}

impl Heard {
    /// The whole of one file through the path of a station, with the detector's `rules`.
    ///
    /// # Errors
    /// [`JudgeError`]: of a file that is damaged at its end nothing is given.
    pub fn of_file(
        classifier: &Classifier,
        rules: &DetectorConfig,
        path: &Path,
        limits: &DecodeLimits,
        keep_windows: bool,
    ) -> Result<Self, JudgeError> {
        let mut reader = AudioReader::open(path, limits)?;
        let mut windower = classifier.windower();
        let mut detector = Detector::new(rules);
        let mut heard = Self {
            duration_s: 0.0,
            highest: vec![0.0; classifier.bundle().classes.len()],
            events: Vec::new(),
            windows: Vec::new(),
        };
        let mut samples = 0;
        let mut pending: Vec<Window> = Vec::with_capacity(WINDOWS_AT_ONCE);
        let mut take = |pending: &mut Vec<Window>, heard: &mut Self| -> Result<(), JudgeError> {
            let scores = classifier.classify(pending)?;
            for (window, scores) in pending.iter().zip(&scores) {
                heard.add(window, scores, keep_windows);
                heard.close(detector.push(window, scores));
            }
            pending.clear();
            Ok(())
        };
        while let Some(block) = reader.next_block()? {
            samples += block.len() as u64;
            windower.push(block);
            while let Some(window) = windower.next_window() {
                pending.push(window);
                if pending.len() == WINDOWS_AT_ONCE {
                    take(&mut pending, &mut heard)?;
                }
            }
        }
        windower.finish();
        pending.extend(std::iter::from_fn(|| windower.next_window()));
        take(&mut pending, &mut heard)?;
        heard.close(detector.finish());
        heard.duration_s = seconds(samples);
        Ok(heard)
    }

    /// Events, in the order of their ends.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Scores of every window, one per class, if windows were kept.
    pub fn scores(&self) -> impl Iterator<Item = &[f32]> {
        self.windows.iter().map(|(_, _, scores)| &scores[..])
    }

    fn add(&mut self, window: &Window, scores: &Scores, keep: bool) {
        for (highest, score) in self.highest.iter_mut().zip(&scores.classes) {
            *highest = highest.max(*score);
        }
        if keep {
            let start_s = seconds(window.start_sample);
            self.windows.push((start_s, window.level_dbfs, scores.classes.clone()));
        }
    }

    fn close(&mut self, outputs: Vec<DetectorOutput>) {
        self.events.extend(outputs.into_iter().filter_map(|output| match output {
            DetectorOutput::Closed(event) => Some(event),
            DetectorOutput::Confirmed(_) => None,
        }));
    }
}

fn seconds(sample: u64) -> f64 {
    sample as f64 / f64::from(SAMPLE_RATE_HZ)
}
