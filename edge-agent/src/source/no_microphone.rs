//! What stands for the sound card in a program without the feature `microphone`.

use std::convert::Infallible;
use std::sync::Arc;

use super::{Read, Source, SourceError};
use crate::config;
use crate::health::Health;

/// A microphone that nobody can have.
pub struct Microphone(Infallible);

impl Microphone {
    /// Refuses.
    ///
    /// # Errors
    /// [`SourceError::NoMicrophone`], always.
    pub fn new(_config: &config::Source, _health: Arc<Health>) -> Result<Self, SourceError> {
        Err(SourceError::NoMicrophone)
    }

    /// Refuses.
    ///
    /// # Errors
    /// The text of [`SourceError::NoMicrophone`], always.
    pub fn probe(_config: &config::Source) -> Result<String, String> {
        Err(SourceError::NoMicrophone.to_string())
    }
}

impl Source for Microphone {
    fn read(&mut self, _out: &mut Vec<f32>) -> Result<Read, SourceError> {
        match self.0 {}
    }
}
