//! Wind: gusts in leaves near and far, and the turbulence at the microphone itself.

use super::{
    bed::{Bus, Glide, Layer, STEP_S},
    chance::Chance,
    drift::Drift,
    filter::{Biquad, OnePole, noise_share},
    microphone::pascal,
};

/// Time in which the weather's wind changes, s.
const WEATHER_S: f32 = 600.0;
/// Time in which gusts come and go, s.
const GUST_S: f32 = 9.0;

/// The crown of one tree, or of many far away.
struct Crown {
    gust: Drift,
    flutter: Drift,
    band: Biquad,
    high_pass: Biquad,
    gain: Glide,
    /// Pressure at full wind, Pa, over the band's noise share.
    full: f32,
    chance: Chance,
}

/// Wind over a habitat.
pub(super) struct Wind {
    weather: Drift,
    crowns: Vec<Crown>,
    turbulence: [OnePole; 2],
    turbulence_gain: Glide,
    turbulence_gust: Drift,
    turbulence_full: f32,
    chance: Chance,
}

impl Wind {
    /// `spl_db`: level of the leaves in full wind, dB SPL; `exposure` 0–1: how freely the wind
    /// reaches the microphone.
    pub(super) fn new(spl_db: f32, exposure: f32, mut chance: Chance) -> Self {
        // Broad leaves rustle around 1 kHz, small ones and grass higher; distant crowns are a
        // soft roar below that (spectra in Fégeant 1999).
        let crowns = [(420.0, 0.4, -3.0), (1_300.0, 0.5, -4.0), (3_200.0, 0.7, -9.0)]
            .into_iter()
            .map(|(hz, q, relative_db)| {
                let hz = hz * chance.between_log(0.75, 1.35);
                Crown {
                    gust: Drift::new(GUST_S * chance.between(0.7, 1.6), STEP_S, chance.split()),
                    flutter: Drift::new(chance.between(0.5, 1.2), STEP_S, chance.split()),
                    band: Biquad::band_pass(hz, q),
                    high_pass: Biquad::high_pass(180.0, 0.7),
                    gain: Glide::new(0.0),
                    full: pascal(spl_db + relative_db) / noise_share(hz, q),
                    chance: chance.split(),
                }
            })
            .collect();
        Self {
            weather: Drift::new(WEATHER_S, STEP_S, chance.split()),
            crowns,
            turbulence: [OnePole::low_pass(40.0), OnePole::low_pass(110.0)],
            turbulence_gain: Glide::new(0.0),
            turbulence_gust: Drift::new(2.5, STEP_S, chance.split()),
            turbulence_full: pascal(spl_db - 2.0) * 12.0 * exposure,
            chance,
        }
    }
}

impl Layer for Wind {
    fn add(&mut self, _start: u64, bus: &mut Bus) {
        let weather = 0.25 + 0.75 * self.weather.step();
        let mut strongest = 0.0_f32;
        for crown in &mut self.crowns {
            let gust = crown.gust.step();
            let strength = weather * (0.15 + 0.85 * gust * gust) * (0.75 + 0.5 * crown.flutter.step());
            strongest = strongest.max(strength);
            // Leaf noise grows with about the square of the wind's speed.
            let target = crown.full * strength.powf(1.6);
            for (gain, out) in crown.gain.toward(target).zip(&mut bus.dry) {
                *out += gain * crown.high_pass.run(crown.band.run(crown.chance.white()));
            }
        }
        let buffet = self.turbulence_gust.step();
        let target = self.turbulence_full * strongest * strongest * (0.2 + buffet);
        for (gain, out) in self.turbulence_gain.toward(target).zip(&mut bus.dry) {
            let slow = self.turbulence[0].run(self.chance.white());
            *out += gain * self.turbulence[1].run(slow);
        }
    }
}
