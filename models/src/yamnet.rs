//! YAMNet: reading the published files, our own layout of the network, running it.

pub mod golden;

/// Name of the network in manifests.
pub const ARCHITECTURE: &str = "yamnet-v1";
