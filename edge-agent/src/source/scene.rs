//! Synthesised forest with gunshots.

use super::{Begin, Read, Source, SourceError};
use crate::config;

/// One scene, or the scenes of successive seeds.
pub struct Scenery;

impl Scenery {
    /// The configured scene at `begin`.
    ///
    /// # Errors
    /// The settings make no scene.
    pub fn open(_config: &config::Source, _begin: Begin) -> Result<Self, SourceError> {
        Err(SourceError::Scene("not built in".into()))
    }
}

impl Source for Scenery {
    fn read(&mut self, _out: &mut Vec<f32>) -> Result<Read, SourceError> {
        Ok(Read::End)
    }
}
