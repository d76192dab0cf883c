//! What the last minute sounded like, for the page on the station: nothing of it is kept on disk.

use std::collections::VecDeque;

use ecosight_models::{Scores, Window};

use crate::trace::EventRow;

/// Numbers of one column: YAMNet's mel bands.
pub const BANDS: usize = 64;
/// Frames that one column stands for: six columns a window's hop.
const FRAMES: usize = 8;
/// Frames of a hop.
const HOP_FRAMES: usize = 48;
/// Columns that are kept: a minute.
const COLUMNS_MAX: usize = 750;
/// Events that are kept.
const EVENTS_MAX: usize = 20;
/// Log-mel values between which a column is drawn, as YAMNet's input has them: ln 0.001 is nothing.
const RANGE: (f32, f32) = (-6.9, 1.5);

/// The newest sound in pictures and numbers.
#[derive(Debug, Default)]
pub struct Live {
    /// Number of the newest column.
    pub column: u64,
    /// Columns of mel bands, lowest first, 0 to 255, the newest last.
    pub columns: VecDeque<[u8; BANDS]>,
    /// Scores of the newest window.
    pub scores: Vec<f32>,
    /// Level of the newest sound, dBFS: of the whole band, and its highest sample.
    pub level_dbfs: f32,
    /// Highest sample of it, dBFS.
    pub peak_dbfs: f32,
    /// The newest events, the newest first.
    pub events: VecDeque<EventRow>,
}

impl Live {
    /// Draws the newest hop of `window`.
    pub(super) fn window(&mut self, window: &Window, scores: &Scores) {
        self.scores.clone_from(&scores.classes);
        let (frames, _) = window.log_mel().as_chunks::<BANDS>();
        let newest = &frames[frames.len().saturating_sub(HOP_FRAMES)..];
        for group in newest.chunks(FRAMES) {
            let column = std::array::from_fn(|band| {
                let highest = group.iter().map(|frame| frame[band]).fold(f32::MIN, f32::max);
                ((highest - RANGE.0) / (RANGE.1 - RANGE.0) * 255.0) as u8
            });
            if self.columns.len() == COLUMNS_MAX {
                self.columns.pop_front();
            }
            self.columns.push_back(column);
            self.column += 1;
        }
    }

    pub(super) fn heard(&mut self, samples: &[f32]) {
        let square: f32 = samples.iter().map(|s| s * s).sum::<f32>() / samples.len().max(1) as f32;
        let peak = samples.iter().fold(0.0_f32, |peak, s| peak.max(s.abs()));
        self.level_dbfs = (10.0 * (2.0 * square).max(1e-12).log10()).max(-120.0);
        self.peak_dbfs = (20.0 * peak.max(1e-6).log10()).max(-120.0);
    }

    pub(super) fn event(&mut self, event: &EventRow) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_back();
        }
        self.events.push_front(event.clone());
    }
}
