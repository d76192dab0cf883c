//! Shot: muzzle blast and ballistic shock wave as the recorder hears them.

use realfft::num_complex::Complex;

use super::{
    chance::Chance,
    propagation::{CARRY_LEAD, Propagation},
    weapon::{Blast, Bullet, Weapon},
};
use crate::SAMPLE_RATE_HZ;

const RATE: f64 = SAMPLE_RATE_HZ as f64;

/// Samples before the muzzle blast in what [`gunshot`] returns (0.4 s): a shock wave comes first.
pub const SHOT_LEAD_SAMPLES: usize = 6_400;

/// Length of the tail after the last round, samples: 4 s.
const TAIL_SAMPLES: usize = 64_000;
/// A bullet this much above the speed of sound still has a clean shock wave.
const SLOWEST_MACH: f64 = 1.05;
/// Ratio of specific heats of air.
const HEAT_RATIO: f64 = 1.4;

/// Sound pressure at the recorder, Pa, 16 kHz mono, of one pull of the trigger: one round, or the
/// rounds of [`Weapon::rounds`]. The muzzle blast of the first round begins at
/// [`SHOT_LEAD_SAMPLES`]; the travel time is left out. About 4 s long for one round.
///
/// Divide by [`Microphone::full_scale_pa`](super::Microphone::full_scale_pa) for samples in ±1, or
/// scale to the wanted ratio to a background.
pub fn gunshot(weapon: &Weapon, path: &Propagation, chance: &mut Chance) -> Vec<f32> {
    let rounds = weapon.rounds(chance);
    gunshot_rounds(weapon, path, &rounds, chance)
}

/// [`gunshot`] with given times of the rounds after the first, s.
pub fn gunshot_rounds(
    weapon: &Weapon,
    path: &Propagation,
    rounds: &[f64],
    chance: &mut Chance,
) -> Vec<f32> {
    let distance = f64::from(path.distance_m).max(1.0);
    let blast = weapon.blast(&path.air).aged(distance, path);
    let heard = path.carry_spectrum(|hz| blast.spectrum(hz), chance);
    let shock = weapon
        .bullet
        .and_then(|bullet| Shock::new(&bullet, path, f64::from(chance.between_log(15.0, 150.0))));
    let shock = shock.map(|shock| (shock, path.absorb_spectrum(|hz| shock.spectrum(hz), shock.way_m)));

    let last = rounds.iter().copied().fold(0.0, f64::max);
    let mut out = vec![0.0_f32; SHOT_LEAD_SAMPLES + TAIL_SAMPLES + (last * RATE) as usize];
    for &time in rounds {
        // The same place, the same echoes; only the load differs a little.
        let gain = 10_f32.powf(chance.between(-0.8, 0.8) / 20.0);
        add(&mut out, &heard, time, gain);
        if let Some((shock, pulse)) = &shock {
            add(&mut out, pulse, time - shock.early_s, gain);
        }
    }
    fade_out(&mut out);
    out
}

/// Adds a carried sound so that its own beginning comes `time_s` after the lead.
fn add(out: &mut [f32], sound: &[f32], time_s: f64, gain: f32) {
    let at = (SHOT_LEAD_SAMPLES - CARRY_LEAD) as f64 + time_s * RATE;
    let at = at.round().max(0.0) as usize;
    for (sum, sample) in out.iter_mut().skip(at).zip(sound) {
        *sum += sample * gain;
    }
}

fn fade_out(samples: &mut [f32]) {
    let length = samples.len().min(8_000);
    let start = samples.len() - length;
    for (index, sample) in samples[start..].iter_mut().enumerate() {
        *sample *= 1.0 - index as f32 / length as f32;
    }
}

impl Blast {
    /// The blast as it comes to `distance`, still scaled to one metre: directivity, and the slow
    /// stretching of a weak shock, by which the peak falls faster than 1/r and the phase grows as
    /// √(1 + κ ln r) (Landau 1945, DuMond et al. 1946).
    fn aged(&self, distance: f64, path: &Propagation) -> Self {
        let ahead = (1.0 + f64::from(path.bearing_deg).to_radians().cos()) / 2.0;
        let directivity = 10_f64.powf(self.rear_db * (1.0 - ahead) / 20.0);
        let kappa = (HEAT_RATIO + 1.0) / (2.0 * HEAT_RATIO) * directivity * self.peak_pa
            / path.air.pressure_pa()
            / (path.air.speed_of_sound() * self.phase_s);
        let age = (1.0 + kappa * distance.max(1.0).ln()).sqrt();
        Self {
            peak_pa: self.peak_pa * directivity / age,
            phase_s: self.phase_s * age,
            rear_db: 0.0,
        }
    }

    /// Fourier transform, Pa·s, of Friedlander's wave p·(1 − t/T)·exp(−t/T) (Friedlander 1946),
    /// whose suction balances its pressure.
    fn spectrum(&self, hz: f64) -> Complex<f64> {
        let s = Complex::new(1.0 / self.phase_s, std::f64::consts::TAU * hz);
        let inverse = s.inv();
        (inverse - inverse * inverse / self.phase_s) * self.peak_pa
    }
}

/// The shock wave of a bullet where it passes the recorder.
#[derive(Debug, Clone, Copy)]
struct Shock {
    peak_pa: f64,
    length_s: f64,
    /// How long it comes before the muzzle blast, s.
    early_s: f64,
    /// Way of the sound from the bullet's path, m.
    way_m: f64,
}

impl Shock {
    /// None where no part of the Mach cone reaches the recorder: fired away from it, or the bullet
    /// stopped (after `flight_m`) or slowed before.
    fn new(bullet: &Bullet, path: &Propagation, flight_m: f64) -> Option<Self> {
        let c = path.air.speed_of_sound();
        let distance = f64::from(path.distance_m).max(1.0);
        let bearing = f64::from(path.bearing_deg).to_radians();
        let (along, miss) = (distance * bearing.cos(), (distance * bearing.sin()).max(1.0));
        // Two rounds settle the speed at the place that the recorder hears.
        let mut speed = bullet.muzzle_speed_m_s;
        for _ in 0..3 {
            let mach = speed / c;
            if mach < SLOWEST_MACH {
                return None;
            }
            let flown = along - miss / (mach * mach - 1.0).sqrt();
            if flown <= 0.0 || flown > flight_m {
                return None;
            }
            speed = bullet.muzzle_speed_m_s - bullet.slowing_per_s * flown;
        }
        let mach = speed / c;
        if mach < SLOWEST_MACH {
            return None;
        }
        let beyond = mach * mach - 1.0;
        let way_m = miss * mach / beyond.sqrt();
        let flight_s = (bullet.muzzle_speed_m_s / speed).ln() / bullet.slowing_per_s;
        // Whitham (1952): peak 0.53 p₀ (M²−1)^⅛ d / (x^¾ l^¼), length 1.82 M d (x/l)^¼ / (c (M²−1)^⅜).
        let slender = (miss / bullet.length_m).powf(0.25);
        Some(Self {
            peak_pa: 0.53 * path.air.pressure_pa() * beyond.powf(0.125) * bullet.calibre_m
                / (miss.powf(0.75) * bullet.length_m.powf(0.25)),
            length_s: 1.82 * mach * bullet.calibre_m * slender / (c * beyond.powf(0.375)),
            early_s: (distance / c - flight_s - way_m / c).min(SHOT_LEAD_SAMPLES as f64 / RATE - 0.01),
            way_m,
        })
    }

    /// Fourier transform, Pa·s, of an N wave that begins at time zero.
    fn spectrum(&self, hz: f64) -> Complex<f64> {
        let half = self.length_s / 2.0;
        let x = std::f64::consts::TAU * hz * half;
        // 2i p (x cos x − sin x)/(ω x), with its limit at zero.
        let odd = if x < 1e-3 {
            -x * half * 2.0 / 3.0
        } else {
            2.0 * half * (x * x.cos() - x.sin()) / (x * x)
        };
        Complex::new(0.0, odd * self.peak_pa) * Complex::from_polar(1.0, -x)
    }
}

#[cfg(test)]
mod tests {
    use super::{SHOT_LEAD_SAMPLES, Shock, gunshot_rounds};
    use crate::scene::{
        air::Air,
        chance::Chance,
        propagation::{Propagation, Vegetation},
        weapon::{Weapon, WeaponKind},
    };

    fn path(distance_m: f32, bearing_deg: f32) -> Propagation {
        Propagation {
            distance_m,
            bearing_deg,
            air: Air::default(),
            vegetation: Vegetation::RAINFOREST,
            source_height_m: 1.4,
            receiver_height_m: 4.0,
            ridge: None,
        }
    }

    #[test]
    fn a_shock_wave_has_the_size_and_time_that_whitham_gives() {
        let bullet = Weapon::new(WeaponKind::HuntingRifle).bullet.unwrap();
        let shock = Shock::new(&bullet, &path(100.0, 10.0), 500.0).unwrap();
        // About 0.2–0.4 ms long and 100–400 Pa at some 17 m (Maher 2007).
        assert!((1.5e-4..6e-4).contains(&shock.length_s), "{shock:?}");
        assert!((50.0..500.0).contains(&shock.peak_pa), "{shock:?}");
        assert!(shock.early_s > 0.05, "{shock:?}");
        assert!(Shock::new(&bullet, &path(100.0, 150.0), 500.0).is_none());
        // The spectrum of an N wave peaks near 0.66 / its length.
        let level = |hz: f64| shock.spectrum(hz).norm();
        let peak = 0.66 / shock.length_s;
        assert!(level(peak) > level(peak * 0.5) && level(peak) > level(peak * 1.5));
    }

    #[test]
    fn the_blast_begins_where_promised() {
        for distance in [60.0, 250.0] {
            let shot = gunshot_rounds(
                &Weapon::new(WeaponKind::Shotgun),
                &path(distance, 40.0),
                &[0.0],
                &mut Chance::new(2),
            );
            let loudest = shot.iter().fold(0.0_f32, |max, v| max.max(v.abs()));
            let first = shot.iter().position(|v| v.abs() > loudest * 0.3).unwrap();
            assert!(first.abs_diff(SHOT_LEAD_SAMPLES) < 48, "{distance} m: {first}");
        }
    }

    #[test]
    fn a_rifle_at_a_hundred_metres_has_its_pressure() {
        let shot = gunshot_rounds(
            &Weapon::new(WeaponKind::HuntingRifle),
            &path(100.0, 90.0),
            &[0.0],
            &mut Chance::new(2),
        );
        let peak = shot.iter().fold(0.0_f32, |max, v| max.max(v.abs()));
        let level = 20.0 * (peak / 20e-6).log10();
        assert!((105.0..130.0).contains(&level), "{level} dB");
    }
}
