//! Sum or maximum over all pixels, channel last.

use tract_onnx::tract_core::internal::{
    Datum, DatumExt, EvalContext, EvalOp, Op, StaticName, TDim, TValue, TVec, Tensor, TractResult,
    TypedFact, TypedOp, Validation, as_op, bail, ensure, op_as_typed_op, op_out_of_plan, tvec,
};

/// What becomes of a channel's pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pooling {
    /// Their sum.
    Sum,
    /// The largest.
    Maximum,
}

/// `[N, H, W, C]` to `[N, C, 1, 1]`, the shape that the graph has where channels come first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FusedPooling(pub(super) Pooling);

impl Pooling {
    /// Over pixels of `channels` numbers each.
    fn pool(self, pixels: &[f32], pooled: &mut [f32]) {
        let channels = pooled.len();
        let Some((first, others)) = pixels.split_at_checked(channels) else { return };
        pooled.copy_from_slice(first);
        for pixel in others.chunks_exact(channels) {
            let numbers = pooled.iter_mut().zip(pixel);
            match self {
                Self::Sum => numbers.for_each(|(sum, number)| *sum += number),
                Self::Maximum => {
                    numbers.for_each(|(most, number)| {
                        *most = if *number > *most { *number } else { *most }
                    });
                }
            }
        }
    }
}

impl Op for FusedPooling {
    fn name(&self) -> StaticName {
        "FusedPooling".into()
    }

    fn validation(&self) -> Validation {
        Validation::Rounding
    }

    op_as_typed_op!();
}

impl EvalOp for FusedPooling {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let [input] = &inputs[..] else { bail!("expected one input") };
        let &[images, height, width, channels] = input.shape() else {
            bail!("expected four axes");
        };
        ensure!(height * width * channels > 0, "expected pixels");
        let mut output = Tensor::zero::<f32>(&[images, channels, 1, 1])?;
        {
            let input = input.try_as_plain_ram()?;
            let mut output = output.try_as_plain_ram_mut()?;
            let images = input.as_slice::<f32>()?.chunks_exact(height * width * channels);
            let pooled = output.as_slice_mut::<f32>()?.chunks_exact_mut(channels);
            images.zip(pooled).for_each(|(image, pooled)| self.0.pool(image, pooled));
        }
        Ok(tvec![output.into()])
    }
}

impl TypedOp for FusedPooling {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let [input] = inputs else { bail!("expected one input") };
        ensure!(input.datum_type == f32::datum_type() && input.rank() == 4, "expected images");
        let one = TDim::from(1);
        let shape = [input.shape[0].clone(), input.shape[3].clone(), one.clone(), one];
        Ok(tvec![f32::fact(shape)])
    }

    as_op!();
}
