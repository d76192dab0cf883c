//! Whether an imported network is YAMNet v1, judged by what it does: it hears our own synthetic
//! sounds, and its embeddings are compared with the true ones.
//!
//! The published float32 weights and quantised ones dequantised are the same network without being
//! equal bit by bit, so hashes can't tell. The true embeddings are in `golden.f16`, made by
//! `models/reference/golden_embeddings.py` with onnxruntime.

use super::backbone::{Backbone, Exit};
use super::golden::Sound;
use super::network::EMBEDDING_LEN;
use crate::fused::KernelChoice;
use crate::window::Windower;

/// Half-precision embeddings, little-endian, of the first window of each of [`Sound::ALL`].
const TRUE_EMBEDDINGS: &[u8] = include_bytes!("golden.f16");
/// Seed of the sounds.
pub const SEED: u64 = 1;
/// Length of the sounds: one window.
pub const SECONDS: f32 = 0.975;

/// Cosine from which a network counts as the same.
pub const SAME: f32 = 0.99;
/// Cosine below which it counts as another.
pub const OTHER: f32 = 0.95;

/// How near a network comes, sound by sound: the cosine of its embedding and the true one.
#[derive(Clone, Debug, PartialEq)]
pub struct Likeness {
    /// In the order of [`Sound::ALL`].
    pub cosines: Vec<(Sound, f32)>,
}

impl Likeness {
    /// Runs the golden sounds through the imported file `onnx`.
    ///
    /// # Errors
    /// What is wrong with the file, if it does not run.
    pub fn measure(onnx: &[u8]) -> Result<Self, String> {
        let backbone =
            Backbone::from_onnx(onnx, &[Exit::Embedding], false, KernelChoice::Automatic)?;
        let truths = TRUE_EMBEDDINGS.as_chunks::<2>().0.chunks_exact(EMBEDDING_LEN);
        let mut cosines = Vec::new();
        for (sound, truth) in Sound::ALL.into_iter().zip(truths) {
            let truth: Vec<f32> =
                truth.iter().map(|half| half::f16::from_le_bytes(*half).to_f32()).collect();
            let mut windower = Windower::new();
            windower.push(&sound.render(SEED, SECONDS));
            windower.finish();
            let window =
                windower.next_window().ok_or_else(|| "a golden sound gave no window".to_owned())?;
            let outputs = backbone.run(&[window.log_mel()]).map_err(|error| error.to_string())?;
            cosines.push((sound, cosine(&outputs[0], &truth)));
        }
        Ok(Self { cosines })
    }

    /// The lowest cosine.
    #[must_use]
    pub fn lowest(&self) -> f32 {
        // `min` would pass over a NaN, which must count as unlike.
        self.cosines.iter().fold(1.0, |low, (_, x)| if *x >= low { low } else { *x })
    }
}

/// Cosine of the angle between two vectors; 0 if one has no length.
#[must_use]
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    };
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { (dot(a, b) / lengths) as f32 } else { 0.0 }
}
