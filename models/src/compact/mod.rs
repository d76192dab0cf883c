//! Path: logmel → **compact** → features → head
//!
//! EcoSight's own network and its front end: what a station hears with where YAMNet is not at hand.

#[cfg(feature = "train")]
pub mod cli;
#[cfg(feature = "train")]
pub mod export;
mod network;
#[cfg(feature = "train")]
pub mod release;
#[cfg(feature = "train")]
pub mod scores;
mod spectrogram;

pub use network::{CompactNetwork, CompactRunError};
#[cfg(feature = "train")]
pub(crate) use spectrogram::frames_of;
pub use spectrogram::{BANDS, CHANNELS, CONTEXT_FRAMES, PATCH_FRAMES, PATCH_LEN, Patch};
pub(crate) use spectrogram::{FRAME_STEPS, LOOK_AHEAD_FRAMES, Spectrogram};

/// Name of the stream.
pub const STREAM: &str = "compact";
/// Name of the network's file inside a bundle that declares the stream.
pub const NETWORK_FILE: &str = "compact.onnx";
/// Sound that is heard beyond a window's end before it is judged: one hop, 0.48 s.
pub const LOOK_AHEAD_SAMPLES: usize = crate::HOP_SAMPLES;
