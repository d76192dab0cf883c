//! tract behind one small type: a checked ONNX file, pruned to some outputs, made ready to run, shared
//! by all threads.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::{
    Datum, Framework, InferenceModelExt, IntoRunnable, SymbolScope, TDim, Tensor, TractResult,
    TypedModel, TypedRunnableModel, tvec,
};
use tract_onnx::tract_core::transform::get_transform;
use tract_onnx::tract_hir::infer::InferenceFact;

use crate::fused;

/// A network that runs. Clones share one plan.
#[derive(Clone)]
pub(crate) struct Plan {
    /// Prepared for so many inputs at once; ascending, the first for 1.
    sizes: Vec<(usize, Arc<TypedRunnableModel>)>,
    /// Shape of one input.
    input: Vec<usize>,
}

/// tract refused the network, or failed to run it; the text is tract's.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct PlanError(String);

impl Plan {
    /// Prepares `model` for inputs of exactly the shape `input`, for 1 at a time and, if `batch` is
    /// more than 1, for so many at once as well.
    ///
    /// With `kernels` its convolutions are fused, and both sizes share one copy of their weights.
    /// What is left is channel-last where it convolves (tract is a fifth faster so, and its
    /// depthwise operator needs a fixed batch).
    ///
    /// The file's form of the weights is freed as soon as there is another.
    pub(crate) fn prepare(
        model: ModelProto,
        input: &[usize],
        batch: usize,
        kernels: Option<fused::Kernels>,
    ) -> Result<Self, PlanError> {
        let prepare = || -> TractResult<Vec<(usize, Arc<TypedRunnableModel>)>> {
            let symbols = SymbolScope::default();
            let images = symbols.sym("N");
            let mut shape = vec![TDim::from(images.clone())];
            shape.extend(input.iter().map(|len| TDim::from(*len)));
            let fact = InferenceFact::dt_shape(f32::datum_type(), shape);
            let network = tract_onnx::onnx().model_for_proto_model(&model)?;
            drop(model);
            let mut network = network.with_input_fact(0, fact)?.into_typed()?;
            if let Some(kernels) = kernels {
                network.prop_consts()?;
                network = fused::fuse(&network, kernels)?;
            }
            let last = if batch > 1 { Some(batch) } else { None };
            let sizes = [Some(1), last].into_iter().flatten();
            sizes
                .map(|size| {
                    let sized = HashMap::from([(images.clone(), TDim::from(size))]);
                    let runnable = optimised(network.set_symbols(&sized)?)?;
                    // What does not run now never will.
                    let mut shape = vec![size];
                    shape.extend_from_slice(input);
                    runnable.run(tvec![Tensor::zero::<f32>(&shape)?.into()])?;
                    Ok((size, runnable))
                })
                .collect()
        };
        // The checks before this point let through only what tract is known to take; should it
        // panic all the same, one bundle is bad and the program goes on.
        let sizes = catch_unwind(AssertUnwindSafe(prepare))
            .map_err(|_| PlanError("tract panicked while it prepared the network".to_owned()))?
            .map_err(|error| PlanError(format!("{error:#}")))?;
        Ok(Self { sizes, input: input.to_vec() })
    }

    /// What the machine can do, and the times of all fused layers for `images` at once; `None` if
    /// nothing is fused.
    pub(crate) fn roofline(
        &self,
        images: usize,
        rounds: usize,
    ) -> Option<(fused::Machine, Vec<fused::LayerTime>)> {
        let model = self.sizes.first()?.1.model();
        let machine = fused::roofline::machine(model)?;
        Some((machine, fused::roofline::layers(model, images, rounds)))
    }

    /// Most inputs that may be given at once when there are `waiting`.
    pub(crate) fn at_once(&self, waiting: usize) -> usize {
        let fitting = self.sizes.iter().rev().find(|(size, _)| *size <= waiting);
        fitting.map_or(1, |(size, _)| *size)
    }

    /// Runs once on one input after the other in `data`, as many as [`Self::at_once`] allows. Each
    /// output comes as `[inputs · len]` numbers.
    pub(crate) fn run(&self, data: &[f32]) -> Result<Vec<Vec<f32>>, PlanError> {
        let given = data.len() / self.input.iter().product::<usize>().max(1);
        let Some((size, runnable)) = self.sizes.iter().find(|(size, _)| *size == given) else {
            return Err(PlanError(format!("not prepared for {given} inputs at once")));
        };
        let run = || -> TractResult<Vec<Vec<f32>>> {
            let mut shape = vec![*size];
            shape.extend_from_slice(&self.input);
            let input = Tensor::from_shape(&shape, data)?;
            let outputs = runnable.run(tvec![input.into()])?;
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

fn optimised(network: TypedModel) -> TractResult<Arc<TypedRunnableModel>> {
    let mut network = network.into_decluttered()?;
    if let Some(transform) = get_transform("conv_nhwc")? {
        network.transform(&*transform)?;
    }
    network.into_decluttered()?.into_optimized()?.into_runnable()
}
