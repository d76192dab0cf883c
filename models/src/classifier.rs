//! stub: to be replaced
#![allow(missing_docs, reason = "stub")]
use crate::{Bundle, Window, Windower};
use std::path::Path;
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LoadError(pub String);
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ClassifyError(pub String);
/// Scores of one window.
#[derive(Clone, Debug)]
pub struct Scores {
    /// Calibrated, in the bundle's class order.
    pub classes: Vec<f32>,
    /// YAMNet's 521 AudioSet scores, where YAMNet runs.
    pub audioset: Option<Box<[f32]>>,
}
/// A loaded bundle. `Send + Sync`, cheap to clone (one shared plan for all threads).
#[derive(Clone)]
pub struct Classifier;
impl Classifier {
    /// `bundle`: a directory, or `None` for the one built into the binary. `backbone`: the imported
    /// YAMNet file, or `None` to look in the usual places (see `yamnet::default_path`).
    pub fn load(_bundle: Option<&Path>, _backbone: Option<&Path>) -> Result<Self, LoadError> {
        Err(LoadError("stub".into()))
    }
    pub fn bundle(&self) -> &Bundle {
        unreachable!()
    }
    /// The front end for one stream.
    pub fn windower(&self) -> Windower {
        unreachable!()
    }
    /// One `Scores` per window, in order.
    pub fn classify(&self, _windows: &[Window]) -> Result<Vec<Scores>, ClassifyError> {
        Err(ClassifyError("stub".into()))
    }
}
