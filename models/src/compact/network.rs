//! Path: spectrogram → **network** → head
//!
//! The compact network of a bundle, run by tract: one patch in, a few numbers out.

use prost::bytes::Bytes;

use super::{BANDS, CHANNELS, PATCH_FRAMES, PATCH_LEN};
use crate::fused::KernelChoice;
use crate::network_plan::Plan;
use crate::onnx;

/// The network, ready to run. Clones share one plan; any thread may use it.
#[derive(Clone)]
pub struct CompactNetwork {
    plan: Plan,
    len: usize,
}

/// The network did not run; the text is tract's. The caller counts the window as lost.
#[derive(Debug, thiserror::Error)]
#[error("the compact network failed on a window: {0}")]
pub struct CompactRunError(String);

impl CompactNetwork {
    /// Prepares the network of an ONNX file that gives `len` numbers for a patch. The error says
    /// what is wrong with the file.
    ///
    /// # Errors
    /// When the file is not such a network.
    pub fn from_onnx(file: &[u8], len: usize) -> Result<Self, String> {
        let model = onnx::decode_checked(Bytes::copy_from_slice(file))
            .map_err(|error| error.to_string())?;
        let ends = model.graph.as_ref().map_or((0, 0), |g| (g.input.len(), g.output.len()));
        if ends != (1, 1) {
            return Err(format!("has {} inputs and {} outputs, not one of each", ends.0, ends.1));
        }
        let kernels = KernelChoice::Automatic.kernels().map_err(|error| error.to_string())?;
        let plan = Plan::prepare(model, &[CHANNELS, PATCH_FRAMES, BANDS], 1, kernels)
            .map_err(|error| format!("tract refuses it: {error}"))?;
        let given = plan
            .run(&[0.0; PATCH_LEN])
            .map_err(|error| error.to_string())?
            .first()
            .map_or(0, Vec::len);
        if given != len {
            return Err(format!("gives {given} numbers, the manifest says {len}"));
        }
        Ok(Self { plan, len })
    }

    /// Numbers that it gives.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it gives none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Runs on one patch (`[2, 96, 48]`).
    ///
    /// # Errors
    /// [`CompactRunError`] if tract fails.
    pub fn run(&self, patch: &[f32; PATCH_LEN]) -> Result<Vec<f32>, CompactRunError> {
        let mut outputs =
            self.plan.run(patch).map_err(|error| CompactRunError(error.to_string()))?;
        match outputs.pop() {
            Some(output) if output.len() == self.len => Ok(output),
            _ => Err(CompactRunError("an output has an unexpected length".to_owned())),
        }
    }
}
