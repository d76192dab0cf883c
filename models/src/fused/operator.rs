//! A chain of fused layers as tract sees it: one operator, `[N, H, W, C]` in and out, or `[N, C]`
//! where there are no pixels.

use std::fmt;
use std::sync::Arc;

use tract_onnx::tract_core::internal::{
    Cost, Datum, DatumExt, EvalContext, EvalOp, Op, StaticName, TDim, TValue, TVec, Tensor, ToDim,
    TractResult, TypedFact, TypedOp, Validation, as_op, bail, ensure, op_as_typed_op,
    op_out_of_plan, tvec,
};

use super::chain::Chain;
use super::geometry::Size;

/// Runs a [`Chain`]. Clones, as they are made for other batch sizes, share it.
#[derive(Clone)]
pub(super) struct FusedChain {
    chain: Arc<Chain>,
    flat: bool,
}

impl FusedChain {
    /// Over images.
    pub(super) fn new(chain: Chain) -> Self {
        Self { chain: Arc::new(chain), flat: false }
    }

    /// Over rows of numbers: images of one pixel.
    pub(super) fn flat(chain: Chain) -> Self {
        Self { chain: Arc::new(chain), flat: true }
    }

    /// What it runs.
    pub(super) fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The output's shape for an input's.
    fn output_shape<D: Clone + PartialEq + From<usize>>(
        &self,
        input: &[D],
    ) -> TractResult<TVec<D>> {
        let shape = |images: &D, (size, channels): (Size, usize)| -> TVec<D> {
            let channels = channels.into();
            if self.flat {
                tvec![images.clone(), channels]
            } else {
                tvec![images.clone(), size.height.into(), size.width.into(), channels]
            }
        };
        let Some(images) = input.first() else { bail!("expected an axis of images") };
        ensure!(
            input == &shape(images, self.chain.input())[..],
            "the input does not fit the layers"
        );
        Ok(shape(images, self.chain.output()))
    }
}

impl fmt::Debug for FusedChain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "FusedChain({} layers)", self.chain.layers().len())
    }
}

impl PartialEq for FusedChain {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.chain, &other.chain)
    }
}

impl Eq for FusedChain {}

impl Op for FusedChain {
    fn name(&self) -> StaticName {
        "FusedChain".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!("{} layers, kernels: {}", self.chain.layers().len(), self.chain.kernels())])
    }

    fn validation(&self) -> Validation {
        Validation::Rounding
    }

    op_as_typed_op!();
}

impl EvalOp for FusedChain {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let [input] = &inputs[..] else { bail!("expected one input") };
        let mut output = Tensor::zero::<f32>(&self.output_shape(input.shape())?)?;
        let images = input.shape()[0];
        if images > 0 {
            let input = input.try_as_plain_ram()?;
            let mut output = output.try_as_plain_ram_mut()?;
            self.chain.run(images, input.as_slice::<f32>()?, output.as_slice_mut::<f32>()?);
        }
        Ok(tvec![output.into()])
    }
}

impl TypedOp for FusedChain {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let [input] = inputs else { bail!("expected one input") };
        ensure!(input.datum_type == f32::datum_type(), "expected float32");
        Ok(tvec![f32::fact(self.output_shape::<TDim>(&input.shape)?)])
    }

    fn cost(&self, inputs: &[&TypedFact]) -> TractResult<TVec<(Cost, TDim)>> {
        let products: usize = self.chain.layers().iter().map(|layer| layer.products()).sum();
        Ok(tvec![(Cost::FMA(f32::datum_type()), inputs[0].shape[0].clone() * products.to_dim())])
    }

    as_op!();
}
