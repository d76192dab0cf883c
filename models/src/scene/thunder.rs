//! Thunder: the sum of shock waves from a crooked channel of lightning.

use super::{air::Air, chance::Chance, filter::OnePole, microphone::pascal};
use crate::SAMPLE_RATE_HZ;

const RATE: f32 = SAMPLE_RATE_HZ as f32;
/// Length of one straight piece of the channel, m (Ribner and Roy 1982 use pieces of some metres).
const PIECE_M: f32 = 9.0;
/// Pieces of the part to the ground and of that inside the cloud.
const PIECES: (u32, u32) = (350, 900);
/// Level of the loudest second one kilometre away, dB SPL.
const SPL_1KM_DB: f32 = 98.0;
/// Longest thunder, s.
const LONGEST_S: f32 = 24.0;

/// Sound pressure of one thunder at the recorder, Pa, from its first sound on.
pub(super) fn thunder(distance_m: f32, air: &Air, chance: &mut Chance) -> Vec<f32> {
    let c = air.speed_of_sound() as f32;
    let pieces = channel(distance_m, chance);
    let nearest = pieces.iter().map(|piece| piece.0).fold(f32::MAX, f32::min);
    let latest = pieces.iter().map(|piece| piece.0).fold(0.0, f32::max);
    // Few (1969): the N wave of a piece is some milliseconds long and grows with distance.
    let wave_s = chance.between(0.003, 0.011) * (distance_m / 2_000.0).powf(0.25);
    let wave = (wave_s * RATE) as usize;
    let length_s = ((latest - nearest) / c + 4.0).min(LONGEST_S);
    let mut out = vec![0.0_f32; (length_s * RATE) as usize];
    for &(way, weight) in &pieces {
        let at = ((way - nearest) / c * RATE) as usize;
        for (index, sample) in out.iter_mut().skip(at).take(wave).enumerate() {
            *sample += weight * (1.0 - 2.0 * index as f32 / wave as f32);
        }
    }

    // Air and turbulence leave a rumble of what was a crack; hills answer late and dull.
    let top_hz = (3.0e6 / distance_m).clamp(150.0, 2_500.0);
    let mut dull = [OnePole::low_pass(top_hz), OnePole::low_pass(top_hz * 1.5)];
    for sample in &mut out {
        *sample = dull.iter_mut().fold(*sample, |x, filter| filter.run(x));
    }
    for _ in 0..7 {
        let delay = (chance.between(0.15, 2.6) * RATE) as usize;
        let gain = chance.between(0.12, 0.4);
        for index in (delay..out.len()).rev() {
            out[index] += gain * out[index - delay];
        }
    }
    let fade = (RATE * 1.5) as usize;
    let total = out.len();
    for (index, sample) in out.iter_mut().enumerate() {
        let left = (total - index) as f32 / fade as f32;
        *sample *= left.min(1.0);
    }

    let loudest = out
        .chunks(SAMPLE_RATE_HZ as usize)
        .map(|second| second.iter().map(|v| v * v).sum::<f32>() / RATE)
        .fold(0.0, f32::max)
        .sqrt()
        .max(1e-12);
    let level = SPL_1KM_DB - 20.0 * (distance_m / 1_000.0).log10() - distance_m * 1.2e-3;
    let gain = pascal(level) / loudest;
    out.iter_mut().for_each(|sample| *sample *= gain);
    out
}

/// Distance of each piece of the channel and the strength with which it sounds toward the
/// recorder: a piece radiates across itself, not along (Ribner and Roy 1982).
fn channel(distance_m: f32, chance: &mut Chance) -> Vec<(f32, f32)> {
    let mut place = [distance_m, 0.0, 0.0_f32];
    let mut direction = [0.0, 0.0, 1.0_f32];
    let mut pieces = Vec::new();
    let up = chance.whole(PIECES.0, PIECES.1);
    let aside = chance.whole(PIECES.0, PIECES.1);
    let heading = chance.between(0.0, std::f32::consts::TAU);
    // Channels lean: an upright one would sound all at once.
    let lean = chance.between(0.2, 1.1);
    for index in 0..up + aside {
        let aim = if index < up {
            [lean * heading.cos(), lean * heading.sin(), 0.8]
        } else {
            [heading.cos(), heading.sin(), 0.05]
        };
        for axis in 0..3 {
            direction[axis] = 0.55 * direction[axis] + 0.45 * aim[axis] + 0.65 * chance.normal();
        }
        let length = direction.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-3);
        direction = direction.map(|v| v / length);
        for axis in 0..3 {
            place[axis] += PIECE_M * direction[axis];
        }
        place[2] = place[2].max(1.0);
        let way = place.iter().map(|v| v * v).sum::<f32>().sqrt().max(50.0);
        let along = (0..3).map(|axis| place[axis] * direction[axis]).sum::<f32>() / way;
        let across = (1.0 - along * along).max(0.0).sqrt();
        pieces.push((way, across * (0.4 + 0.6 * chance.unit() as f32) / way));
    }
    pieces
}
