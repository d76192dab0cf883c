//! One register of numbers, on each kind of processor.

/// A register of `LEN` float32. All kernels are written once over this trait; what differs between
/// processors is only what stands in this file.
///
/// # Safety
/// Every function may be called only where the processor has the instructions of the implementing
/// type; pointers must be valid for `LEN` (or `count`, at most `LEN`) numbers, of any alignment.
pub(super) trait Vector: Copy {
    const LEN: usize;
    /// Rows of a product whose sums, two registers each, stay in registers beside the two of a panel
    /// and what is being multiplied.
    const ROWS: usize;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    /// The first `count` numbers; the others are 0.
    unsafe fn load_first(from: *const f32, count: usize) -> Self;
    /// `LEN` small integers.
    unsafe fn load_bytes(from: *const i8) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn store_first(self, to: *mut f32, count: usize);
    /// `self + a · b`.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    unsafe fn max(self, other: Self) -> Self;
    /// Asks for the cache line at `address`, which need not be valid.
    fn prefetch(address: *const u8);
}

/// Four numbers in plain Rust: what the compiler makes of it on any processor.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; 4]);

impl Vector for Portable {
    const LEN: usize = 4;
    const ROWS: usize = 4;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 4])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        let mut all = [0.0; 4];
        unsafe { std::ptr::copy_nonoverlapping(from, all.as_mut_ptr(), count) };
        Self(all)
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const i8) -> Self {
        Self(unsafe { from.cast::<[i8; 4]>().read() }.map(f32::from))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        unsafe { std::ptr::copy_nonoverlapping(self.0.as_ptr(), to, count) }
    }
    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + a.0[i] * b.0[i]))
    }
    #[inline(always)]
    fn prefetch(_: *const u8) {}
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| if self.0[i] > other.0[i] { self.0[i] } else { other.0[i] }))
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    #[allow(
        clippy::wildcard_imports,
        reason = "the processor's instructions by their own names"
    )]
    use std::arch::x86_64::*;

    use super::Vector;

    /// Eight numbers, AVX2 and FMA.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2(__m256);

    /// `-1` for the first `count` of eight lanes.
    #[inline(always)]
    unsafe fn first_of_8(count: usize) -> __m256i {
        const LANES: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
        unsafe { _mm256_loadu_si256(LANES.as_ptr().add(8 - count).cast()) }
    }

    impl Vector for Avx2 {
        const LEN: usize = 8;
        const ROWS: usize = 6;
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            Self(unsafe { _mm256_set1_ps(value) })
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            Self(unsafe { _mm256_loadu_ps(from) })
        }
        #[inline(always)]
        unsafe fn load_first(from: *const f32, count: usize) -> Self {
            Self(unsafe { _mm256_maskload_ps(from, first_of_8(count)) })
        }
        #[inline(always)]
        unsafe fn load_bytes(from: *const i8) -> Self {
            Self(unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm256_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn store_first(self, to: *mut f32, count: usize) {
            unsafe { _mm256_maskstore_ps(to, first_of_8(count), self.0) }
        }
        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            Self(unsafe { _mm256_fmadd_ps(a.0, b.0, self.0) })
        }
        #[inline(always)]
        fn prefetch(address: *const u8) {
            // SAFETY: a prefetch never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
        }
        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            Self(unsafe { _mm256_max_ps(self.0, other.0) })
        }
    }

    /// Sixteen numbers, AVX-512F.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512(__m512);

    #[inline(always)]
    fn first_of_16(count: usize) -> __mmask16 {
        ((1_u32 << count) - 1) as __mmask16
    }

    impl Vector for Avx512 {
        const LEN: usize = 16;
        const ROWS: usize = 12;
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            Self(unsafe { _mm512_set1_ps(value) })
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            Self(unsafe { _mm512_loadu_ps(from) })
        }
        #[inline(always)]
        unsafe fn load_first(from: *const f32, count: usize) -> Self {
            Self(unsafe { _mm512_maskz_loadu_ps(first_of_16(count), from) })
        }
        #[inline(always)]
        unsafe fn load_bytes(from: *const i8) -> Self {
            Self(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm512_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn store_first(self, to: *mut f32, count: usize) {
            unsafe { _mm512_mask_storeu_ps(to, first_of_16(count), self.0) }
        }
        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            Self(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
        }
        #[inline(always)]
        fn prefetch(address: *const u8) {
            // SAFETY: a prefetch never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
        }
        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            Self(unsafe { _mm512_max_ps(self.0, other.0) })
        }
    }
}
