//! Fused layers inside tract: what the networks of this project spend nearly all their time on, the
//! convolutions, run as a few operators of our own; everything else stays tract's.
//!
//! [`fuse`] rewrites a typed graph: a convolution with its bias and ReLU becomes one layer, layers
//! that feed each other become one [`operator`], channel-last inside, with weights packed once and
//! shared by all threads and batch sizes. [`kernels`] holds the arithmetic.

mod chain;
mod choice;
mod geometry;
mod kernels;
mod layer;
mod operator;
mod pass;
mod pooling;
pub(crate) mod roofline;
#[cfg(test)]
mod tests;

pub use choice::{KERNELS_ENV, KernelChoice, UnknownKernels};
pub(crate) use kernels::Kernels;
pub(crate) use pass::fuse;
pub use roofline::{LayerTime, Machine};
