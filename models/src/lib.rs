//! Sound in, calibrated scores and events out: the signal path shared by station, cloud and tools.

pub mod audio;
pub mod bundle;
pub mod classifier;
pub mod detector;
pub mod logmel;
pub mod transient;
pub mod window;

pub use bundle::Bundle;
pub use classifier::{Classifier, ClassifyError, LoadError, Scores};
pub use detector::{Detector, DetectorOutput, Event};
pub use window::{Window, Windower};

/// Rate of all sound inside EcoSight, samples per second, mono.
pub const SAMPLE_RATE_HZ: u32 = 16_000;
/// Samples that one window spans: 0.96 s.
pub const WINDOW_SAMPLES: usize = 15_360;
/// Samples from one window's start to the next: 0.48 s.
pub const HOP_SAMPLES: usize = 7_680;
