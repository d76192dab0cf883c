//! Propagation: from the pressure one metre from a source to the pressure at the recorder.
//!
//! The coherent part loses to spreading, air and vegetation and meets its reflection from the
//! ground; trunks and canopy scatter the rest into a long tail.

use std::sync::Arc;

use realfft::{ComplexToReal, RealFftPlanner, RealToComplex, num_complex::Complex};

use super::{air::Air, chance::Chance, ground::Floor};
use crate::SAMPLE_RATE_HZ;

const RATE: f64 = SAMPLE_RATE_HZ as f64;
/// Length of an impulse response, samples: 4.1 s.
const RESPONSE_SAMPLES: usize = 65_536;
/// Length of its coherent part, samples: 0.26 s.
const FRONT_SAMPLES: usize = 4_096;
/// Samples by which a response is late: room for the ringing before a band-limited click.
const RESPONSE_LEAD: usize = 64;
/// Where the anti-aliasing filter of the recorder's converter begins and ends, Hz.
const ALIAS_TAPER_HZ: (f64, f64) = (6_800.0, 7_900.0);
/// Centres of the bands in which the tail is drawn, Hz.
const TAIL_BANDS_HZ: [f64; 7] = [63.0, 125.0, 250.0, 500.0, 1000.0, 2000.0, 4500.0];
/// Tails end where they have lost this much against their beginning, dB.
const TAIL_RANGE_DB: f64 = 60.0;
/// The reflections that make up a tail are single at first and dense after this time, s.
const DENSE_AFTER_S: f64 = 0.08;

/// What stands between a sound and the recorder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Vegetation {
    /// Loss beyond spreading and air, dB per metre and kHz. Measured losses in jungle grow about
    /// linearly with frequency (Eyring 1946); 0.02 gives distant rainforest shots the spectrum that
    /// recordings of them have (1–2 kHz some 18 dB below 250–500 Hz).
    pub loss_db_per_m_khz: f32,
    /// Transport mean free path between scatterings by trunks and crowns for short waves, m. 280 m
    /// puts the tail 0.1 s after the onset 11 dB below the onset, as in recorded rainforest shots.
    pub scattering_length_m: f32,
    /// Waves much longer than a trunk is thick pass it: below this frequency scattering fades, Hz.
    pub scattering_corner_hz: f32,
    /// Way over which scattered sound leaks out of the forest into the sky by a factor e, m.
    pub leak_length_m: f32,
    /// Flow resistivity of the floor, Pa·s/m² (Embleton, Piercy and Daigle 1983).
    pub flow_resistivity: f32,
}

impl Vegetation {
    /// Closed, wet lowland rainforest.
    pub const RAINFOREST: Self = Self {
        loss_db_per_m_khz: 0.020,
        scattering_length_m: 280.0,
        scattering_corner_hz: 150.0,
        leak_length_m: 250.0,
        flow_resistivity: 40_000.0,
    };
    /// Open deciduous woodland.
    pub const DRY_FOREST: Self = Self {
        loss_db_per_m_khz: 0.010,
        scattering_length_m: 500.0,
        scattering_corner_hz: 200.0,
        leak_length_m: 130.0,
        flow_resistivity: 80_000.0,
    };
    /// Grass with single trees.
    pub const SAVANNA: Self = Self {
        loss_db_per_m_khz: 0.003,
        scattering_length_m: 2_000.0,
        scattering_corner_hz: 250.0,
        leak_length_m: 90.0,
        flow_resistivity: 200_000.0,
    };

    fn loss_db_per_m(&self, hz: f64) -> f64 {
        f64::from(self.loss_db_per_m_khz) * hz / 1000.0
    }

    fn scattering_length_m(&self, hz: f64) -> f64 {
        let ratio = f64::from(self.scattering_corner_hz) / hz.max(10.0);
        f64::from(self.scattering_length_m) * (1.0 + ratio.powf(1.5))
    }
}

/// A slope that throws the sound back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ridge {
    /// How much longer the way over the slope is, m.
    pub detour_m: f32,
    /// Level of the echo against the direct sound at equal distance, dB.
    pub level_db: f32,
    /// Time over which a rough slope spreads the echo, s.
    pub spread_s: f32,
}

/// One way from a source to the recorder.
#[derive(Debug, Clone, PartialEq)]
pub struct Propagation {
    /// Distance, m; at least 1.
    pub distance_m: f32,
    /// Angle between the muzzle's direction and the recorder, degrees: 0 is fired at the recorder.
    pub bearing_deg: f32,
    /// The air.
    pub air: Air,
    /// The vegetation.
    pub vegetation: Vegetation,
    /// Height of the source over the floor, m.
    pub source_height_m: f32,
    /// Height of the recorder over the floor, m.
    pub receiver_height_m: f32,
    /// An echo from a slope, if there is one.
    pub ridge: Option<Ridge>,
}

impl Propagation {
    /// A way of this length whose other circumstances are drawn: bearing, heights, perhaps a slope.
    pub fn drawn(distance_m: f32, air: Air, vegetation: Vegetation, chance: &mut Chance) -> Self {
        let ridge = chance.happens(0.3).then(|| Ridge {
            detour_m: chance.between(120.0, 700.0),
            level_db: chance.between(-14.0, -4.0),
            spread_s: chance.between(0.04, 0.2),
        });
        Self {
            distance_m,
            bearing_deg: chance.between(0.0, 180.0),
            air,
            vegetation,
            source_height_m: chance.between(0.8, 1.7),
            receiver_height_m: chance.between(2.0, 8.0),
            ridge,
        }
    }

    /// Loss of the coherent and scattered sound to air and vegetation over `way_m`, dB.
    pub(super) fn loss_db(&self, hz: f64, way_m: f64) -> f64 {
        (self.air.absorption_db_per_m(hz) + self.vegetation.loss_db_per_m(hz)) * way_m
    }

    fn distance(&self) -> f64 {
        f64::from(self.distance_m).max(1.0)
    }

    /// Share of the pressure that comes unscattered.
    fn coherent_share(&self, hz: f64) -> f64 {
        (-self.distance() / (2.0 * self.vegetation.scattering_length_m(hz))).exp()
    }

    /// Factor by which the ground changes the coherent pressure. Rough floor, trunks and turbulence
    /// make the two ways forget each other with distance and frequency (Daigle 1979 for turbulence);
    /// without that, a soft floor would cancel everything that a distant recorder in fact hears.
    fn ground(&self, hz: f64) -> Complex<f64> {
        let floor = Floor {
            distance_m: self.distance(),
            source_height_m: f64::from(self.source_height_m),
            receiver_height_m: f64::from(self.receiver_height_m),
            flow_resistivity: f64::from(self.vegetation.flow_resistivity),
        };
        let memory = (-(self.distance() / 150.0) * (hz / 500.0).sqrt()).exp();
        let phase = std::f64::consts::TAU * hz * floor.detour_m() / self.air.speed_of_sound();
        let reflected = floor.reflection(hz, &self.air);
        let coherent = reflected * memory * Complex::from_polar(1.0, phase);
        // What the ways no longer share adds as power, not as pressure.
        let rest = reflected.norm_sqr() * (1.0 - memory * memory);
        let both = coherent + 1.0;
        let factor = (both.norm_sqr() + rest).sqrt() / both.norm().max(1e-6);
        // The transforms here count phase the other way round.
        (both * factor).conj()
    }

    /// Power of the tail per second at `delay_s` after the direct sound, against the power of the
    /// unscattered pulse: isotropic scattering in the plane has this closed form (Sato 1993,
    /// Paasschens 1997), and trunks are upright. Leaks to the sky and losses on the longer way
    /// are added to it.
    fn tail_power(&self, band: &TailBand, delay_s: f64) -> f64 {
        let r = self.distance();
        let c = band.speed_of_sound;
        let longer = c * delay_s;
        let way = r + longer;
        let front = (longer * (way + r)).sqrt();
        let scattered = r / (band.mean_free_m * front) * c;
        let decay = (front - way) / band.mean_free_m
            - longer / f64::from(self.vegetation.leak_length_m)
            - longer * band.loss_db_per_m * std::f64::consts::LN_10 / 10.0;
        scattered * decay.exp()
            + self
                .ridge
                .map_or(0.0, |ridge| self.ridge_power(ridge, band, delay_s))
    }

    fn ridge_power(&self, ridge: Ridge, band: &TailBand, delay_s: f64) -> f64 {
        let detour = f64::from(ridge.detour_m);
        let spread = f64::from(ridge.spread_s);
        let late = delay_s - detour / band.speed_of_sound;
        if late < 0.0 {
            return 0.0;
        }
        let spreading = (self.distance() / (self.distance() + detour)).powi(2);
        // High over the ground: the air costs the full detour, the vegetation a part of it.
        let loss = (self.air.absorption_db_per_m(band.hz)
            + self.vegetation.loss_db_per_m(band.hz) * 0.3)
            * detour;
        let level = 10_f64.powf((f64::from(ridge.level_db) - loss) / 10.0);
        level * spreading * late / (spread * spread) * (-late / spread).exp()
    }

    /// Pressure at the recorder for a unit impulse one metre from the source, [`RESPONSE_LEAD`]
    /// samples late, without the travel time.
    fn response(&self, fft: &mut Transforms, chance: &mut Chance) -> Vec<f32> {
        let mut response = vec![0.0_f32; RESPONSE_SAMPLES];
        let spreading = 1.0 / self.distance();

        let bins = FRONT_SAMPLES / 2 + 1;
        let hz = |bin: usize, length: usize| bin as f64 * RATE / length as f64;
        let loss: Vec<f64> = (0..bins)
            .map(|bin| {
                let hz = hz(bin, FRONT_SAMPLES);
                let taper = alias_taper(hz).max(1e-4).log10() * 20.0;
                taper - self.loss_db(hz, self.distance())
            })
            .collect();
        let lossy = fft.minimum_phase(&loss);
        let tail_gain: Vec<f32> = loss
            .iter()
            .map(|db| (10_f64.powf(db / 20.0) * std::f64::consts::SQRT_2 * spreading) as f32)
            .collect();
        let mut front: Vec<Complex<f32>> = lossy
            .iter()
            .enumerate()
            .map(|(bin, &lossy)| {
                let hz = hz(bin, FRONT_SAMPLES);
                let factor = self.ground(hz) * self.coherent_share(hz) * spreading;
                let late = std::f64::consts::TAU * (bin * RESPONSE_LEAD) as f64 / FRONT_SAMPLES as f64;
                let factor = factor * Complex::from_polar(1.0, -late);
                lossy * Complex::new(factor.re as f32, factor.im as f32)
            })
            .collect();
        for (sum, sample) in response.iter_mut().zip(fft.inverse(&mut front, FRONT_SAMPLES)) {
            *sum += sample;
        }

        // The tail meets the floor from all sides: power adds, hence the √2 in its gain.
        let mut spectrum = vec![Complex::new(0.0_f32, 0.0); RESPONSE_SAMPLES / 2 + 1];
        for (index, &centre) in TAIL_BANDS_HZ.iter().enumerate() {
            let mut noise = self.tail_noise(centre, chance);
            let band = fft.forward(&mut noise, RESPONSE_SAMPLES);
            for bin in band_bins(index) {
                let share = band_share(index, hz(bin, RESPONSE_SAMPLES)) as f32;
                let gain = tail_gain[bin * FRONT_SAMPLES / RESPONSE_SAMPLES];
                spectrum[bin] += band[bin] * share * gain;
            }
        }
        for (sum, sample) in response.iter_mut().zip(fft.inverse(&mut spectrum, RESPONSE_SAMPLES)) {
            *sum += sample;
        }
        response
    }

    /// Noise with the tail's course in one band. Unit noise density of an impulse is one per
    /// sample, so the power per second is divided by the rate.
    fn tail_noise(&self, hz: f64, chance: &mut Chance) -> Vec<f32> {
        let band = TailBand {
            hz,
            speed_of_sound: self.air.speed_of_sound(),
            mean_free_m: self.vegetation.scattering_length_m(hz),
            loss_db_per_m: self.loss_db(hz, 1.0),
        };
        let mut noise = vec![0.0_f32; RESPONSE_SAMPLES];
        let fade = RESPONSE_SAMPLES - RESPONSE_SAMPLES / 8;
        let mut gain = 0.0;
        let mut loudest = 0.0_f64;
        for (index, sample) in noise.iter_mut().enumerate().skip(RESPONSE_LEAD) {
            let since = index - RESPONSE_LEAD;
            let delay_s = (since as f64 + 0.5) / RATE;
            // The course is steep at first and smooth later.
            if since < 512 || since.is_multiple_of(32) {
                let power = self.tail_power(&band, delay_s);
                loudest = loudest.max(power);
                if power < loudest * 10_f64.powf(-TAIL_RANGE_DB / 10.0) && self.ridge.is_none() {
                    break;
                }
                let end = if index > fade {
                    (RESPONSE_SAMPLES - index) as f64 / (RESPONSE_SAMPLES - fade) as f64
                } else {
                    1.0
                };
                gain = (power / RATE).sqrt() * end;
            }
            let density = (0.06 + delay_s / DENSE_AFTER_S).min(1.0);
            if density >= 1.0 || chance.unit() < density {
                *sample = chance.white() * (gain / density.sqrt()) as f32;
            }
        }
        noise
    }

    /// What arrives at the recorder of `source`, the pressure one metre from it (Pa, or any unit).
    /// The result is late by [`CARRY_LEAD`] samples and has no travel time.
    pub(super) fn carry(&self, source: &[f32], chance: &mut Chance) -> Vec<f32> {
        let mut fft = Transforms::new();
        let mut response = self.response(&mut fft, chance);
        let length = (source.len() + RESPONSE_SAMPLES).next_power_of_two();
        let mut padded = source.to_vec();
        let source = fft.forward(&mut padded, length);
        let mut spectrum = fft.forward(&mut response, length);
        for (value, source) in spectrum.iter_mut().zip(source) {
            *value *= source;
        }
        fft.inverse(&mut spectrum, length)
    }

    /// Like [`Propagation::carry`], for a source given by its spectrum: `source(hz)` is the Fourier
    /// transform of the pressure one metre from it, Pa·s. Exact at any rate, with no aliasing.
    pub(super) fn carry_spectrum(
        &self,
        source: impl Fn(f64) -> Complex<f64>,
        chance: &mut Chance,
    ) -> Vec<f32> {
        let mut fft = Transforms::new();
        let mut response = self.response(&mut fft, chance);
        let mut spectrum = fft.forward(&mut response, RESPONSE_SAMPLES);
        for (bin, value) in spectrum.iter_mut().enumerate() {
            let source = source(bin as f64 * RATE / RESPONSE_SAMPLES as f64) * RATE;
            *value *= Complex::new(source.re as f32, source.im as f32);
        }
        fft.inverse(&mut spectrum, RESPONSE_SAMPLES)
    }

    /// A short pulse that comes another way of `way_m`, given as the spectrum at the recorder
    /// without losses, Pa·s; late by [`CARRY_LEAD`] samples.
    pub(super) fn absorb_spectrum(
        &self,
        pulse: impl Fn(f64) -> Complex<f64>,
        way_m: f64,
    ) -> Vec<f32> {
        let mut fft = Transforms::new();
        let bins = FRONT_SAMPLES / 2 + 1;
        let hz = |bin: usize| bin as f64 * RATE / FRONT_SAMPLES as f64;
        let loss: Vec<f64> = (0..bins)
            .map(|bin| {
                let taper = alias_taper(hz(bin)).max(1e-4).log10() * 20.0;
                taper - self.loss_db(hz(bin), way_m)
            })
            .collect();
        let mut spectrum = fft.minimum_phase(&loss);
        for (bin, value) in spectrum.iter_mut().enumerate() {
            let late = std::f64::consts::TAU * (bin * RESPONSE_LEAD) as f64 / FRONT_SAMPLES as f64;
            let pulse = pulse(hz(bin)) * RATE * Complex::from_polar(1.0, -late);
            *value *= Complex::new(pulse.re as f32, pulse.im as f32);
        }
        fft.inverse(&mut spectrum, FRONT_SAMPLES)
    }
}

/// What the tail's course in one band hangs on.
#[derive(Debug, Clone, Copy)]
struct TailBand {
    hz: f64,
    speed_of_sound: f64,
    mean_free_m: f64,
    loss_db_per_m: f64,
}

/// Samples by which everything that was carried is late.
pub(super) const CARRY_LEAD: usize = RESPONSE_LEAD;

fn alias_taper(hz: f64) -> f64 {
    let (begin, end) = ALIAS_TAPER_HZ;
    let x = ((hz - begin) / (end - begin)).clamp(0.0, 1.0);
    0.5 * (1.0 + (std::f64::consts::PI * x).cos())
}

/// Bins of a response in which a band has a share.
fn band_bins(index: usize) -> std::ops::Range<usize> {
    let bin = |hz: f64| (hz * RESPONSE_SAMPLES as f64 / RATE) as usize;
    let low = index.checked_sub(1).map_or(0, |low| bin(TAIL_BANDS_HZ[low]));
    let high = TAIL_BANDS_HZ
        .get(index + 1)
        .map_or(RESPONSE_SAMPLES / 2, |&high| bin(high));
    low..high + 1
}

/// Share of a frequency that belongs to a band: raised cosines over the logarithm, whose squares
/// add up to one.
fn band_share(index: usize, hz: f64) -> f64 {
    let place = |hz: f64| hz.max(1.0).log2();
    let here = place(hz);
    let centre = place(TAIL_BANDS_HZ[index]);
    let neighbour = if here < centre {
        index.checked_sub(1)
    } else {
        Some(index + 1).filter(|&next| next < TAIL_BANDS_HZ.len())
    };
    let Some(neighbour) = neighbour else {
        return 1.0;
    };
    let x = (here - centre) / (place(TAIL_BANDS_HZ[neighbour]) - centre);
    if x < 1.0 {
        (std::f64::consts::FRAC_PI_2 * x).cos()
    } else {
        0.0
    }
}

/// Real transforms with their plans.
struct Transforms {
    planner: RealFftPlanner<f32>,
}

impl Transforms {
    fn new() -> Self {
        Self {
            planner: RealFftPlanner::new(),
        }
    }

    /// Spectrum of `samples`, padded with zeros (or cut) to `length`.
    fn forward(&mut self, samples: &mut Vec<f32>, length: usize) -> Vec<Complex<f32>> {
        samples.resize(length, 0.0);
        let plan: Arc<dyn RealToComplex<f32>> = self.planner.plan_fft_forward(length);
        let mut spectrum = plan.make_output_vec();
        let done = plan.process(samples, &mut spectrum);
        debug_assert!(done.is_ok(), "lengths come from the plan");
        spectrum
    }

    /// Samples of a spectrum, scaled so that it undoes [`Transforms::forward`].
    fn inverse(&mut self, spectrum: &mut [Complex<f32>], length: usize) -> Vec<f32> {
        // A real signal has real ends.
        if let [first, .., last] = spectrum {
            first.im = 0.0;
            last.im = 0.0;
        }
        let plan: Arc<dyn ComplexToReal<f32>> = self.planner.plan_fft_inverse(length);
        let mut samples = plan.make_output_vec();
        let done = plan.process(spectrum, &mut samples);
        debug_assert!(done.is_ok(), "lengths come from the plan");
        let scale = 1.0 / length as f32;
        samples.iter_mut().for_each(|sample| *sample *= scale);
        samples
    }

    /// Spectrum with these levels (dB, [`FRONT_SAMPLES`]/2 + 1 bins) and the least delay that
    /// causality allows, by folding the cepstrum (Oppenheim and Schafer): absorbing air disperses
    /// that way.
    fn minimum_phase(&mut self, level_db: &[f64]) -> Vec<Complex<f32>> {
        let length = FRONT_SAMPLES;
        let mut spectrum: Vec<Complex<f32>> = level_db
            .iter()
            .map(|db| Complex::new((db.max(-200.0) / 20.0 * std::f64::consts::LN_10) as f32, 0.0))
            .collect();
        let mut cepstrum = self.inverse(&mut spectrum, length);
        for value in &mut cepstrum[1..length / 2] {
            *value *= 2.0;
        }
        cepstrum[length / 2 + 1..].fill(0.0);
        let mut spectrum = self.forward(&mut cepstrum, length);
        spectrum.iter_mut().for_each(|value| *value = value.exp());
        spectrum
    }
}

#[cfg(test)]
mod tests {
    use super::{CARRY_LEAD, Propagation, Vegetation, band_share};
    use crate::scene::{air::Air, chance::Chance};

    fn way(distance_m: f32, vegetation: Vegetation) -> Propagation {
        Propagation {
            distance_m,
            bearing_deg: 90.0,
            air: Air::default(),
            vegetation,
            source_height_m: 1.4,
            receiver_height_m: 4.0,
            ridge: None,
        }
    }

    #[test]
    fn bands_of_the_tail_add_up_to_one() {
        for hz in [20.0, 63.0, 100.0, 700.0, 1400.0, 3000.0, 7000.0] {
            let sum: f64 = (0..7).map(|index| band_share(index, hz).powi(2)).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{hz} Hz: {sum}");
        }
    }

    #[test]
    fn the_tail_holds_what_the_front_lost() {
        // Without leaks and losses scattering keeps the energy of a plane: front and tail together
        // are at least what was sent, because waves from elsewhere come in as well.
        let mut vegetation = Vegetation::RAINFOREST;
        vegetation.leak_length_m = 1e9;
        vegetation.loss_db_per_m_khz = 0.0;
        let way = way(300.0, vegetation);
        let mut tail = 0.0;
        let band = super::TailBand {
            hz: 300.0,
            speed_of_sound: 346.0,
            mean_free_m: 280.0,
            loss_db_per_m: 0.0,
        };
        let step = 1.0 / 16_000.0;
        for index in 0..64_000 {
            tail += way.tail_power(&band, (f64::from(index) + 0.5) * step) * step;
        }
        let front = way.coherent_share(300.0).powi(2);
        assert!(front < 0.6 && tail + front > 0.9, "front {front}, tail {tail}");
    }

    #[test]
    fn a_near_click_arrives_as_a_click() {
        let mut source = vec![0.0; 100];
        source[0] = 1.0;
        let heard = way(20.0, Vegetation::SAVANNA).carry(&source, &mut Chance::new(4));
        let loudest = heard
            .iter()
            .enumerate()
            .max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()))
            .map(|(index, _)| index)
            .unwrap();
        assert!(loudest.abs_diff(CARRY_LEAD) <= 8, "at {loudest}");
        let head: f32 = heard[..CARRY_LEAD - 8].iter().map(|v| v * v).sum();
        let all: f32 = heard.iter().map(|v| v * v).sum();
        assert!(head < all * 1e-2, "{head} of {all} before it");
    }
}
