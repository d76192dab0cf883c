//! What the processor could do if there were no memory: the measure of all other kernels.

use std::hint::black_box;

use super::Kernel;
use super::vector::Vector;

/// Sums that do not wait for each other: more than any processor works on at once.
const SUMS: usize = 12;

/// The kernel behind [`super::Kernels::multiply_only`].
pub(super) struct MultiplyOnly<'a> {
    pub(super) rounds: usize,
    pub(super) count: &'a mut usize,
}

impl Kernel for MultiplyOnly<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the caller vouches for the instructions; a result is as long as a register.
        unsafe {
            let (a, b) = (V::splat(black_box(0.5)), V::splat(black_box(0.001)));
            let mut sums = [V::splat(0.0); SUMS];
            for _ in 0..self.rounds {
                for sum in &mut sums {
                    *sum = sum.add_product(a, b);
                }
            }
            let mut result = [0.0; 16];
            for sum in sums {
                sum.store(result.as_mut_ptr());
                black_box(&result);
            }
        }
        *self.count = self.rounds * SUMS * V::LEN;
    }
}
