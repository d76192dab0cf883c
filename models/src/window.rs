//! Path: audio → logmel → window → yamnet, transient → detector
use crate::{logmel, transient};

/// Features of one 0.96 s window.
#[derive(Clone, Debug)]
pub struct Window {
    /// Position of the window's first sample in the stream (16 kHz).
    pub start_sample: u64,
    /// Where the loudest 20 ms (100-1500 Hz) of the window begins.
    pub peak_sample: u64,
    /// Level of those 20 ms, dBFS.
    pub level_dbfs: f32,
    /// Median level of the context before, dBFS.
    pub noise_floor_dbfs: f32,
    end_sample: u64,
    log_mel: Box<[f32]>,
    transient: [f32; transient::LEN],
}

impl Window {
    /// YAMNet's input: 96 frames of 64 bands, frame after frame (`[96, 64]`, row-major).
    pub fn log_mel(&self) -> &[f32] {
        &self.log_mel
    }

    /// The `transient` feature stream; names and order in [`transient::names`].
    pub fn transient(&self) -> &[f32; transient::LEN] {
        &self.transient
    }

    /// Stream position up to which sound was heard for this window (exclusive).
    pub fn end_sample(&self) -> u64 {
        self.end_sample
    }
}

/// Turns one stream of 16 kHz mono into windows; incremental, past context only.
#[derive(Default)]
pub struct Windower {}

impl Windower {
    /// A windower at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }
    /// Takes the next samples of the stream.
    pub fn push(&mut self, _samples: &[f32]) {}
    /// Next complete window, if any.
    pub fn next_window(&mut self) -> Option<Window> {
        let _ = logmel::BANDS;
        None
    }
    /// End of the stream: pads the last hop with zeros, so that `next_window` gives what is left.
    pub fn finish(&mut self) {}
    /// A gap: forgets all context; the next pushed sample is number `next_sample` of the stream.
    pub fn reset(&mut self, _next_sample: u64) {}
}
