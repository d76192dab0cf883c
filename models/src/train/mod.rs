//! Path: labelled recordings → train → bundle
//!
//! The trainer, compiled only with the feature `train`: never on a device. Deterministic for a
//! seed: recordings, folds, augmentations and fits depend on it and on nothing else.

pub mod dataset;
pub mod fit;
pub mod labels;
pub mod net;
mod optimiser;
pub mod sound;
pub mod split;
