//! tract behind one small type: a checked ONNX file, pruned to some outputs, made ready for a fixed
//! batch, shared by all threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::{
    Datum, Framework, InferenceModelExt, IntoRunnable, Tensor, TypedRunnableModel, tvec,
};
use tract_onnx::tract_core::transform::get_transform;
use tract_onnx::tract_hir::infer::InferenceFact;

/// A network that runs. Clones share one plan.
#[derive(Clone)]
pub(crate) struct Plan {
    runnable: Arc<TypedRunnableModel>,
    input: Vec<usize>,
}

/// tract refused the network, or failed to run it; the text is tract's.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct PlanError(String);

impl Plan {
    /// Prepares `model` for inputs of exactly the shape `input`, channel-last where it convolves
    /// (on 2-D convolutions tract is a fifth faster so, and its depthwise operator needs a fixed
    /// batch).
    ///
    /// The file's form of the weights is freed as soon as tract has its own.
    pub(crate) fn prepare(model: ModelProto, input: &[usize]) -> Result<Self, PlanError> {
        let prepare = || -> tract_onnx::prelude::TractResult<Arc<TypedRunnableModel>> {
            let fact = InferenceFact::dt_shape(f32::datum_type(), input);
            let network = tract_onnx::onnx().model_for_proto_model(&model)?;
            drop(model);
            let mut network = network.with_input_fact(0, fact)?.into_typed()?.into_decluttered()?;
            if let Some(transform) = get_transform("conv_nhwc")? {
                network.transform(&*transform)?;
            }
            let runnable = network.into_decluttered()?.into_optimized()?.into_runnable()?;
            // What does not run now never will.
            let zeros = Tensor::zero::<f32>(input)?;
            runnable.run(tvec![zeros.into()])?;
            Ok(runnable)
        };
        // The checks before this point let through only what tract is known to take; should it
        // panic all the same, one bundle is bad and the program goes on.
        let runnable = catch_unwind(AssertUnwindSafe(prepare))
            .map_err(|_| PlanError("tract panicked while it prepared the network".to_owned()))?
            .map_err(|error| PlanError(format!("{error:#}")))?;
        Ok(Self { runnable, input: input.to_vec() })
    }

    /// Runs once; `data` fills the input. Each output comes as `[batch · len]` numbers.
    pub(crate) fn run(&self, data: &[f32]) -> Result<Vec<Vec<f32>>, PlanError> {
        let run = || -> tract_onnx::prelude::TractResult<Vec<Vec<f32>>> {
            let input = Tensor::from_shape(&self.input, data)?;
            let outputs = self.runnable.run(tvec![input.into()])?;
            outputs
                .iter()
                .map(|output| {
                    let view = output.to_plain_array_view::<f32>()?;
                    Ok(view.iter().copied().collect())
                })
                .collect()
        };
        run().map_err(|error| PlanError(format!("{error:#}")))
    }
}
