//! Hush: the even background of a forest, which is everything too far away to be told apart.

use super::{
    bed::{Bus, Glide, Layer, STEP_S},
    chance::Chance,
    drift::Drift,
    filter::OnePole,
    microphone::pascal,
};

/// Far crowns, streams and animals: equal power in each octave (pink), duller above a few kHz.
pub(super) struct Hush {
    pink: [f32; 3],
    dull: OnePole,
    mood: Drift,
    breath: Drift,
    gain: Glide,
    full: f32,
    chance: Chance,
}

/// Root mean square of the pink filter's output over unit white noise, within one octave.
const OCTAVE_SHARE: f32 = 0.62;

impl Hush {
    /// `spl_db`: level of one octave in the middle of its range, dB SPL.
    pub(super) fn new(spl_db: f32, mut chance: Chance) -> Self {
        Self {
            pink: [0.0; 3],
            dull: OnePole::low_pass(3_500.0),
            mood: Drift::new(240.0, STEP_S, chance.split()),
            breath: Drift::new(7.0, STEP_S, chance.split()),
            gain: Glide::new(0.0),
            full: pascal(spl_db) / OCTAVE_SHARE,
            chance,
        }
    }
}

impl Layer for Hush {
    fn add(&mut self, _start: u64, bus: &mut Bus) {
        // ±4 dB over minutes, ±1 dB over seconds.
        let level = 8.0 * (self.mood.step() - 0.5) + 2.0 * (self.breath.step() - 0.5);
        let target = self.full * 10_f32.powf(level / 20.0);
        for (gain, out) in self.gain.toward(target).zip(&mut bus.dry) {
            let white = self.chance.white();
            // Three poles an octave and a half apart (Kellet's economy filter), within 0.5 dB of
            // pink from 30 Hz up at this rate.
            let [a, b, c] = &mut self.pink;
            *a = 0.990_0 * *a + white * 0.124_5;
            *b = 0.919_0 * *b + white * 0.260_0;
            *c = 0.560_0 * *c + white * 0.610_0;
            let pink = *a + *b + *c + white * 0.18;
            *out += gain * self.dull.run(pink);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Hush;
    use crate::scene::{
        bed::{Bus, Layer, STEP},
        chance::Chance,
        filter::Biquad,
    };

    #[test]
    fn octaves_are_even_and_at_their_level() {
        let mut hush = Hush::new(40.0, Chance::new(1));
        let mut bus = Bus::new();
        let centres = [100.0, 200.0, 400.0, 800.0, 1_600.0];
        // A band pass of quality 1.41 is as wide to noise as π/2 · 0.71 of its centre.
        let mut bands = centres.map(|hz| Biquad::band_pass(hz, 1.41));
        let mut power = [0.0_f32; 5];
        let steps = 20_000_u32;
        for step in 0..steps {
            bus.clear();
            hush.add(u64::from(step) * STEP as u64, &mut bus);
            for &sample in &bus.dry {
                for (band, power) in bands.iter_mut().zip(&mut power) {
                    *power += band.run(sample).powi(2);
                }
            }
        }
        for (hz, power) in centres.iter().zip(power) {
            let octave = power / (steps as f32 * STEP as f32) * 0.71 / 1.11;
            let level = 10.0 * octave.log10() + 94.0;
            assert!((37.5..42.5).contains(&level), "{hz} Hz: {level} dB");
        }
    }
}
