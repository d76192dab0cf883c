//! stub: to be replaced
#![allow(missing_docs, reason = "stub")]
use std::path::Path;
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AudioError(pub String);
#[derive(Clone, Copy, Debug)]
pub struct DecodeLimits {
    pub max_bytes: u64,
    pub max_seconds: f64,
}
/// Streams one file as 16 kHz mono blocks.
pub struct AudioReader;
impl AudioReader {
    pub fn open(_path: &Path, _limits: &DecodeLimits) -> Result<Self, AudioError> {
        Err(AudioError("stub".into()))
    }
    pub fn from_bytes(_bytes: Vec<u8>, _limits: &DecodeLimits) -> Result<Self, AudioError> {
        Err(AudioError("stub".into()))
    }
    pub fn source_rate_hz(&self) -> u32 {
        0
    }
    pub fn source_channels(&self) -> usize {
        0
    }
    /// Next block of 16 kHz mono, `None` at the end.
    pub fn next_block(&mut self) -> Result<Option<&[f32]>, AudioError> {
        Ok(None)
    }
}
/// Any rate and channel count to 16 kHz mono, streaming.
pub struct Resampler;
impl Resampler {
    pub fn new(_rate_hz: u32, _channels: usize) -> Result<Self, AudioError> {
        Ok(Self)
    }
    /// Appends what is ready to `out`.
    pub fn push(&mut self, _interleaved: &[f32], _out: &mut Vec<f32>) {}
    /// Appends the tail; the resampler is then as new.
    pub fn finish(&mut self, _out: &mut Vec<f32>) {}
}
