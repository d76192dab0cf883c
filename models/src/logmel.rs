//! Path: audio → logmel → window
#![allow(missing_docs, reason = "bodies follow")]
/// Frames in one patch.
pub const PATCH_FRAMES: usize = 96;
/// Mel bands in one frame.
pub const BANDS: usize = 64;
