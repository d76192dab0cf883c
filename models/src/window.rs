//! stub: to be replaced
#![allow(missing_docs, reason = "stub")]
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
}
/// Turns one stream of 16 kHz mono into windows; incremental, past context only.
pub struct Windower;
impl Windower {
    pub fn push(&mut self, _samples: &[f32]) {}
    /// Next complete window, if any.
    pub fn next_window(&mut self) -> Option<Window> {
        None
    }
    /// End of the stream: pads the last hop with zeros, so that `next_window` gives what is left.
    pub fn finish(&mut self) {}
    /// A gap: forgets all context; the next pushed sample is number `next_sample` of the stream.
    pub fn reset(&mut self, _next_sample: u64) {}
}
