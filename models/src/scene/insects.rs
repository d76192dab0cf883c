//! Insects: cicadas that saw in choruses, crickets and katydids that chirp and trill.

use std::f32::consts::TAU;

use super::{
    bed::{Bus, Glide, Layer, STEP, STEP_S},
    chance::Chance,
    drift::Drift,
    filter::{Biquad, noise_share},
    microphone::pascal,
};
use crate::SAMPLE_RATE_HZ;

const RATE: f32 = SAMPLE_RATE_HZ as f32;

/// A chorus of one cicada species: noise of tymbal clicks in the body's resonance, pulsed at the
/// species' rate, in songs that swell and fade.
pub(super) struct Cicadas {
    bands: [Biquad; 2],
    second: f32,
    /// Pulses of the tymbals, Hz, and how far they close the sound, 0–1.
    pulse_hz: f32,
    pulse_depth: f32,
    pulse_phase: f32,
    /// Slow sawing of the song, Hz and depth.
    saw_hz: f32,
    saw_depth: f32,
    saw_phase: f32,
    level: f32,
    singing: bool,
    change_s: f64,
    song_s: f64,
    rest_s: f64,
    swell: f32,
    swell_s: f32,
    loudness: Drift,
    gain: Glide,
    chance: Chance,
}

impl Cicadas {
    /// `spl_db`: level of the full chorus at the recorder. `steady`: a chorus with no pauses.
    pub(super) fn new(spl_db: f32, steady: bool, mut chance: Chance) -> Self {
        // Dominant frequencies of cicadas lie at 3–8 kHz, quality 3–20; pulse groups at 20–250 Hz
        // (Bennet-Clark 1998; Gerhardt and Huber 2002).
        let hz = chance.between_log(3_200.0, 7_000.0);
        let q = chance.between_log(4.0, 16.0);
        let song_s = f64::from(chance.between_log(8.0, 45.0));
        Self {
            bands: [
                Biquad::band_pass(hz, q),
                Biquad::band_pass((hz * chance.between(1.15, 1.4)).min(7_400.0), q * 0.8),
            ],
            second: chance.between(0.15, 0.7),
            pulse_hz: chance.between_log(28.0, 220.0),
            pulse_depth: chance.between(0.3, 0.9),
            pulse_phase: 0.0,
            saw_hz: chance.between_log(0.4, 7.0),
            saw_depth: chance.between(0.0, 0.6),
            saw_phase: 0.0,
            level: pascal(spl_db) / noise_share(hz, q),
            singing: steady || chance.happens(0.5),
            change_s: if steady { f64::INFINITY } else { chance.wait(song_s) },
            song_s,
            rest_s: f64::from(chance.between_log(6.0, 60.0)),
            swell: if steady { 1.0 } else { 0.0 },
            swell_s: chance.between_log(0.6, 5.0),
            loudness: Drift::new(90.0, STEP_S, chance.split()),
            gain: Glide::new(0.0),
            chance,
        }
    }
}

impl Layer for Cicadas {
    fn add(&mut self, start: u64, bus: &mut Bus) {
        let now_s = start as f64 / f64::from(RATE);
        if now_s > self.change_s {
            self.singing = !self.singing;
            let mean = if self.singing { self.song_s } else { self.rest_s };
            self.change_s = now_s + self.chance.wait(mean).clamp(mean * 0.4, mean * 3.0);
        }
        let aim = if self.singing { 1.0 } else { 0.0 };
        self.swell += (aim - self.swell) * (STEP_S / self.swell_s).min(1.0);
        let loudness = 0.35 + 0.65 * self.loudness.step();
        let target = self.level * self.swell * loudness;
        if target < self.level * 1e-3 {
            self.gain = Glide::new(target);
            return;
        }
        let (pulse_step, saw_step) = (self.pulse_hz / RATE, self.saw_hz / RATE);
        for (gain, (dry, wet)) in self
            .gain
            .toward(target)
            .zip(bus.dry.iter_mut().zip(&mut bus.wet))
        {
            self.pulse_phase += pulse_step;
            if self.pulse_phase >= 1.0 {
                // Tymbals keep time only roughly.
                self.pulse_phase -= 1.0 + 0.02 * self.chance.white();
            }
            self.saw_phase += saw_step;
            if self.saw_phase >= 1.0 {
                self.saw_phase -= 1.0;
            }
            let pulse = 4.0 * self.pulse_phase * (1.0 - self.pulse_phase);
            let saw = 1.0 - (2.0 * self.saw_phase - 1.0).abs();
            let open = (1.0 - self.pulse_depth + self.pulse_depth * pulse * pulse)
                * (1.0 - self.saw_depth + self.saw_depth * saw);
            let white = self.chance.white() * open;
            let value = gain * (self.bands[0].run(white) + self.second * self.bands[1].run(white));
            *dry += value * 0.8;
            *wet += value * 0.2;
        }
    }
}

/// One singing cricket.
struct Singer {
    rotate: (f32, f32),
    state: (f32, f32),
    amplitude: f32,
    /// Sample of the present chirp.
    place: usize,
    chirp: usize,
    pulse: usize,
    sounding: usize,
    pulses: usize,
    singing: bool,
    change_s: f64,
}

/// Crickets of one species near the recorder, over the blur of all the others.
pub(super) struct Crickets {
    singers: Vec<Singer>,
    blur: [Biquad; 2],
    blur_level: f32,
    blur_gain: Glide,
    loudness: Drift,
    species: CricketSpecies,
    chance: Chance,
}

/// The numbers by which crickets tell each other apart.
#[derive(Debug, Clone, Copy)]
struct CricketSpecies {
    hz: f32,
    pulses_per_s: f32,
    duty: f32,
    pulses: usize,
    chirp_s: f32,
    bout_s: f64,
    rest_s: f64,
}

impl Crickets {
    /// `spl_db`: level of a near singer at the recorder.
    pub(super) fn new(spl_db: f32, singers: u32, mut chance: Chance) -> Self {
        // Carriers at 2.5–7 kHz; pulse rates 15–90 a second; chirpers group 2–8 pulses, trillers
        // hundreds (Gerhardt and Huber 2002).
        let trills = chance.happens(0.4);
        let pulses_per_s = chance.between_log(18.0, 85.0);
        let pulses = if trills {
            chance.whole(60, 400)
        } else {
            chance.whole(2, 8)
        };
        let sounding_s = pulses as f32 / pulses_per_s;
        let species = CricketSpecies {
            hz: chance.between_log(2_500.0, 6_800.0),
            pulses_per_s,
            duty: chance.between(0.35, 0.75),
            pulses: pulses as usize,
            chirp_s: sounding_s + if trills { chance.between(0.1, 1.5) } else { chance.between(0.12, 0.9) },
            bout_s: f64::from(chance.between_log(10.0, 120.0)),
            rest_s: f64::from(chance.between_log(5.0, 60.0)),
        };
        let singers = (0..singers)
            .map(|_| {
                let level = spl_db - chance.between(0.0, 14.0);
                let amplitude = pascal(level) * std::f32::consts::SQRT_2;
                let mut singer = Singer {
                    rotate: (1.0, 0.0),
                    state: (0.0, 1.0),
                    amplitude,
                    place: 0,
                    chirp: 1,
                    pulse: 1,
                    sounding: 1,
                    pulses: 1,
                    singing: chance.happens(0.6),
                    change_s: chance.wait(20.0),
                };
                singer.settle(&species, &mut chance);
                singer.place = chance.whole(0, singer.chirp as u32 - 1) as usize;
                singer
            })
            .collect();
        let q = 18.0;
        Self {
            singers,
            blur: [Biquad::band_pass(species.hz, q), Biquad::band_pass(species.hz * 1.04, q)],
            blur_level: pascal(spl_db - 9.0) / noise_share(species.hz, q),
            blur_gain: Glide::new(0.0),
            loudness: Drift::new(60.0, STEP_S, chance.split()),
            species,
            chance,
        }
    }
}

impl Singer {
    /// Sets the timing of the next chirp and a pitch of its own.
    fn settle(&mut self, species: &CricketSpecies, chance: &mut Chance) {
        let hz = species.hz * (1.0 + 0.006 * chance.normal());
        let (sin, cos) = (TAU * hz / RATE).sin_cos();
        self.rotate = (cos, sin);
        // Keep the oscillator at unit length in spite of rounding.
        let length = self.state.0.hypot(self.state.1).max(1e-6);
        self.state = (self.state.0 / length, self.state.1 / length);
        self.pulse = (RATE / species.pulses_per_s).max(8.0) as usize;
        self.sounding = (self.pulse as f32 * species.duty).max(4.0) as usize;
        self.pulses = species.pulses;
        self.chirp = (species.chirp_s * RATE * (1.0 + 0.04 * chance.normal()).max(0.5)) as usize;
        self.chirp = self.chirp.max(self.pulse * self.pulses + 1);
        self.place = 0;
    }
}

impl Layer for Crickets {
    fn add(&mut self, start: u64, bus: &mut Bus) {
        let now_s = start as f64 / f64::from(RATE);
        for singer in &mut self.singers {
            if now_s > singer.change_s {
                singer.singing = !singer.singing;
                let mean = if singer.singing { self.species.bout_s } else { self.species.rest_s };
                singer.change_s = now_s + self.chance.wait(mean).max(2.0);
            }
            let mut index = 0;
            while index < STEP {
                if singer.place >= singer.chirp {
                    singer.settle(&self.species, &mut self.chance);
                }
                let pulse = singer.place / singer.pulse;
                let within = singer.place % singer.pulse;
                let quiet = !singer.singing || pulse >= singer.pulses || within >= singer.sounding;
                if quiet {
                    // On to the next pulse or chirp, whichever comes first.
                    let next = if pulse + 1 < singer.pulses && singer.singing {
                        (pulse + 1) * singer.pulse
                    } else {
                        singer.chirp
                    };
                    let skip = (next.max(singer.place + 1) - singer.place).min(STEP - index);
                    singer.place += skip;
                    index += skip;
                    continue;
                }
                let run = (singer.sounding - within).min(STEP - index);
                let (cos, sin) = singer.rotate;
                let slope = 1.0 / singer.sounding as f32;
                // A chirp's first pulses are weaker.
                let rise = ((pulse + 1) as f32 * 0.3 + 0.25).min(1.0) * singer.amplitude;
                for offset in 0..run {
                    let (re, im) = singer.state;
                    singer.state = (re * cos - im * sin, re * sin + im * cos);
                    let x = (within + offset) as f32 * slope;
                    let value = im * 4.0 * x * (1.0 - x) * rise;
                    bus.dry[index + offset] += value;
                    bus.wet[index + offset] += value * 0.3;
                }
                singer.place += run;
                index += run;
            }
        }
        let target = self.blur_level * (0.4 + 0.6 * self.loudness.step());
        for (gain, dry) in self.blur_gain.toward(target).zip(&mut bus.dry) {
            let white = self.chance.white() * gain;
            *dry += self.blur[0].run(white) + self.blur[1].run(white);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Cicadas, Crickets};
    use crate::scene::{
        bed::{Bus, Layer, STEP},
        chance::Chance,
    };

    fn level(layer: &mut dyn Layer, steps: u64) -> (f32, bool) {
        let mut bus = Bus::new();
        let (mut power, mut finite) = (0.0_f32, true);
        for step in 0..steps {
            bus.clear();
            layer.add(step * STEP as u64, &mut bus);
            finite &= bus.dry.iter().all(|v| v.is_finite());
            power += bus.dry.iter().map(|v| v * v).sum::<f32>();
        }
        let rms = (power / (steps as f32 * STEP as f32)).sqrt();
        (20.0 * (rms / 20e-6).log10(), finite)
    }

    #[test]
    fn choruses_have_about_the_level_asked_for() {
        for seed in 0..6 {
            let (db, finite) = level(&mut Cicadas::new(60.0, true, Chance::new(seed)), 1_000);
            assert!(finite && (42.0..63.0).contains(&db), "cicadas {seed}: {db}");
            let (db, finite) = level(&mut Crickets::new(60.0, 3, Chance::new(seed)), 1_000);
            assert!(finite && (42.0..64.0).contains(&db), "crickets {seed}: {db}");
        }
    }
}
