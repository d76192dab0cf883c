//! Chance: the one source of randomness of a scene.

/// A seeded generator whose sequence never changes: xoshiro256++ (Blackman and Vigna 2019),
/// seeded through SplitMix64. Own code, because a scene's seed is a promise that must survive
/// an update of a dependency.
#[derive(Debug, Clone)]
pub struct Chance {
    state: [u64; 4],
}

impl Chance {
    /// Generator for `seed`; equal seeds give equal sequences on every machine.
    pub fn new(seed: u64) -> Self {
        let mut mix = seed;
        let mut next = || {
            mix = mix.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = mix;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        Self {
            state: [next(), next(), next(), next()],
        }
    }

    /// An independent generator for the part of the scene called `name`: what one part draws
    /// never shifts what another part draws.
    pub fn for_part(seed: u64, name: &str) -> Self {
        // FNV-1a, so that the name and not its address decides.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self::new(seed ^ hash)
    }

    /// An independent generator that continues from here.
    pub fn split(&mut self) -> Self {
        Self::new(self.bits())
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let shifted = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= shifted;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// Uniform in `[low, high)`.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit() as f32
    }

    /// Between `low` and `high` (both positive), uniform in the logarithm.
    pub fn between_log(&mut self, low: f32, high: f32) -> f32 {
        low * (high / low).powf(self.unit() as f32)
    }

    /// A whole number from `low` to `high`, both included.
    pub fn whole(&mut self, low: u32, high: u32) -> u32 {
        let span = f64::from(high.saturating_sub(low)) + 1.0;
        low + (self.unit() * span) as u32
    }

    /// True with this probability.
    pub fn happens(&mut self, probability: f32) -> bool {
        self.unit() < f64::from(probability)
    }

    /// Waiting time of a Poisson process with this mean, seconds.
    pub fn wait(&mut self, mean_s: f64) -> f64 {
        -mean_s * (1.0 - self.unit()).ln()
    }

    /// Standard normal (Box and Muller 1958).
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        (radius * (std::f64::consts::TAU * self.unit()).cos()) as f32
    }

    /// White noise of unit variance, uniformly distributed: cheap enough for every sample.
    pub fn white(&mut self) -> f32 {
        const SCALE: f32 = 1.732_050_8 / (1_u32 << 23) as f32;
        ((self.bits() >> 40) as f32 - (1_u32 << 23) as f32) * SCALE
    }
}

#[cfg(test)]
mod tests {
    use super::Chance;

    #[test]
    fn the_sequence_of_a_seed_is_fixed() {
        let mut chance = Chance::new(0);
        // SplitMix64(0) begins with this word, so the state is the published seeding.
        assert_eq!(chance.state[0], 0xe220_a839_7b1d_cdaf);
        let first = chance.bits();
        assert_eq!(first, Chance::new(0).bits());
        assert_ne!(first, Chance::new(1).bits());
    }

    #[test]
    fn moments_are_those_promised() {
        let mut chance = Chance::new(3);
        let n = 200_000;
        let (mut white, mut normal, mut wait) = (0.0_f64, 0.0_f64, 0.0_f64);
        for _ in 0..n {
            white += f64::from(chance.white()).powi(2);
            normal += f64::from(chance.normal()).powi(2);
            wait += chance.wait(7.0);
        }
        let n = f64::from(n);
        assert!((white / n - 1.0).abs() < 0.02, "white {}", white / n);
        assert!((normal / n - 1.0).abs() < 0.02, "normal {}", normal / n);
        assert!((wait / n - 7.0).abs() < 0.1, "wait {}", wait / n);
    }
}
