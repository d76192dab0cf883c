//! Sound in, calibrated scores and events out: the signal path shared by station, cloud and tools.

pub mod audio;
pub mod bundle;
pub mod classifier;
pub mod compact;
pub mod detector;
pub mod durable;
mod eight_bit;
pub mod eval;
pub mod features;
mod fused;
pub mod heard;
pub mod logmel;
mod network_plan;
mod one_line;
pub mod onnx;
pub mod release;
pub mod scene;
pub mod speech;
#[cfg(feature = "train")]
pub mod train;
pub mod transient;
pub mod window;
pub mod yamnet;

pub use bundle::{Builtin, Bundle, BundleError, BundleFiles};
pub use classifier::{Choice, Classifier, ClassifierOptions, ClassifyError, LoadError, Scores};
pub use detector::{Detector, DetectorOutput, Event};
pub use features::{FeatureExtractor, Features};
pub use fused::{KERNELS_ENV, KernelChoice, LayerTime, Machine, UnknownKernels};
pub use one_line::one_line;
pub use window::{Extras, Window, Windower};

/// Rate of all sound inside EcoSight, samples per second, mono.
pub const SAMPLE_RATE_HZ: u32 = 16_000;
/// Samples that one window spans: 0.96 s.
pub const WINDOW_SAMPLES: usize = 15_360;
/// Samples from one window's start to the next: 0.48 s.
pub const HOP_SAMPLES: usize = 7_680;
