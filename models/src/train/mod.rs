//! Path: labelled recordings → train → bundle
//!
//! The trainer, compiled only with the feature `train`: never on a device. Deterministic for a
//! seed: folds, augmentations and fits depend on it and on the recordings, and on nothing else.

#![allow(
    clippy::needless_pass_by_value,
    reason = "array views are handles, passed as ndarray does"
)]

pub mod artifact;
pub mod breakdown;
pub mod card;
pub mod cli;
pub mod compression;
pub mod crossval;
pub mod dataset;
pub mod details;
pub mod export;
pub mod extraction;
pub mod fit;
pub mod head;
pub mod judge;
pub mod judgement;
pub mod labels;
pub mod leaks;
pub(crate) mod made;
pub mod material;
pub mod net;
mod optimiser;
pub mod page;
mod plot;
pub mod progress;
pub mod report;
pub mod second;
pub mod sound;
pub mod split;
pub mod table;
