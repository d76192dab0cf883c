//! Wood: branches that break and fall, woodpeckers, axes. Impulses that are no shots.

use std::f32::consts::TAU;

use super::{chance::Chance, filter::{Biquad, OnePole}, microphone::pascal};
use crate::SAMPLE_RATE_HZ;

const RATE: f32 = SAMPLE_RATE_HZ as f32;

/// One blow on wood: a few modes that die at once over a click of noise.
struct Blow {
    hz: (f32, f32),
    ring_s: (f32, f32),
    modes: u32,
    click_s: f32,
}

impl Blow {
    fn strike(&self, out: &mut [f32], at_s: f32, peak_pa: f32, chance: &mut Chance) {
        let at = (at_s * RATE) as usize;
        if at >= out.len() {
            return;
        }
        let share = peak_pa / (self.modes as f32).sqrt();
        for _ in 0..self.modes {
            let hz = chance.between_log(self.hz.0, self.hz.1);
            let ring_s = chance.between_log(self.ring_s.0, self.ring_s.1);
            let (sin, cos) = (TAU * hz / RATE).sin_cos();
            let decay = (-1.0 / (ring_s * RATE)).exp();
            let (mut re, mut im) = (chance.between(-share, share), share);
            for sample in out[at..].iter_mut().take((ring_s * RATE * 8.0) as usize) {
                *sample += im;
                (re, im) = ((re * cos - im * sin) * decay, (re * sin + im * cos) * decay);
            }
        }
        let decay = (-1.0 / (self.click_s * RATE)).exp();
        let mut gain = peak_pa * 0.5;
        for sample in out[at..].iter_mut().take((self.click_s * RATE * 7.0) as usize) {
            *sample += gain * chance.white();
            gain *= decay;
        }
    }
}

/// Peak pressure of a peak level, Pa. Those of blows one metre away: axes on trunks 110–120 dB,
/// woodpeckers' bills about 100–108, snapping branches 105–120.
fn peak(spl_db: f32) -> f32 {
    pascal(spl_db)
}

/// A branch or a tree: cracks that crowd together, the swish of leaves, the thud. Pressure one
/// metre away, Pa.
pub(super) fn branch_break(chance: &mut Chance) -> Vec<f32> {
    let whole_tree = chance.happens(0.2);
    let falls = whole_tree || chance.happens(0.6);
    let fall_s = if whole_tree { chance.between(1.2, 3.0) } else { chance.between(0.5, 1.3) };
    let mut out = vec![0.0_f32; ((fall_s + 2.6) * RATE) as usize];
    let crack = Blow {
        hz: (350.0, 3_200.0),
        ring_s: (0.0015, 0.009),
        modes: 6,
        click_s: 0.004,
    };
    let loud = chance.between(107.0, 120.0);
    let cracks = if whole_tree { chance.whole(10, 40) } else { chance.whole(1, 7) };
    let mut time = 0.02;
    for index in 0..cracks {
        let level = if index == 0 { loud - 2.0 } else { loud - chance.between(0.0, 20.0) };
        crack.strike(&mut out, time, peak(level), chance);
        time += chance.wait(if whole_tree { 0.06 } else { 0.05 }) as f32;
    }
    if falls {
        let mut swish = Biquad::band_pass(chance.between(1_400.0, 3_000.0), 0.5);
        let mut soften = OnePole::low_pass(9.0);
        let begin = (0.1 * RATE) as usize;
        let end = (((fall_s + 0.25) * RATE) as usize).min(out.len());
        let level = pascal(if whole_tree { 88.0 } else { 76.0 });
        for (index, sample) in out[begin..end].iter_mut().enumerate() {
            let x = index as f32 / (end - begin) as f32;
            let gain = soften.run(x * x * (1.0 - x.powi(12)));
            *sample += level * gain * swish.run(chance.white()) * 3.0;
        }
        let thud = Blow {
            hz: (45.0, 240.0),
            ring_s: (0.02, 0.06),
            modes: 5,
            click_s: 0.012,
        };
        let level = if whole_tree { chance.between(112.0, 120.0) } else { chance.between(98.0, 109.0) };
        thud.strike(&mut out, fall_s + 0.1, peak(level), chance);
        for _ in 0..chance.whole(1, 6) {
            let later = fall_s + 0.1 + chance.between(0.02, 0.9);
            crack.strike(&mut out, later, peak(level - chance.between(10.0, 22.0)), chance);
        }
    }
    out
}

/// One drum roll of a woodpecker, pressure one metre away, Pa.
pub(super) fn woodpecker(chance: &mut Chance) -> Vec<f32> {
    let strikes = chance.whole(10, 26);
    let mut interval = chance.between(0.034, 0.07);
    // Rolls speed up or slow down steadily (Dodenhoff, Stark and Johnson 2001).
    let change = chance.between(0.975, 1.03);
    let resonance = chance.between_log(700.0, 1_900.0);
    let wood = Blow {
        hz: (resonance * 0.8, resonance * 1.7),
        ring_s: (0.002, 0.009),
        modes: 4,
        click_s: 0.0012,
    };
    let loud = chance.between(100.0, 108.0);
    let mut out = vec![0.0_f32; (RATE * 2.6) as usize];
    let mut time = 0.01;
    for index in 0..strikes {
        let x = index as f32 / strikes as f32;
        let level = loud - 6.0 * (1.0 - (x * 4.0).min(1.0)) - 7.0 * x * x;
        wood.strike(&mut out, time, peak(level + 0.7 * chance.normal()), chance);
        time += interval;
        interval *= change;
    }
    out
}

/// Axe or machete at work, pressure one metre away, Pa, with the number of blows.
pub(super) fn chops(chance: &mut Chance) -> (Vec<f32>, u8) {
    let blows = chance.whole(4, 16);
    let period = chance.between(0.75, 1.7);
    let heavy = chance.happens(0.6);
    let blade = Blow {
        hz: if heavy { (180.0, 1_600.0) } else { (500.0, 3_400.0) },
        ring_s: (0.003, 0.018),
        modes: 6,
        click_s: 0.0025,
    };
    let loud = if heavy { chance.between(111.0, 120.0) } else { chance.between(103.0, 112.0) };
    let mut out = vec![0.0_f32; ((period * 1.15 * blows as f32 + 1.0) * RATE) as usize];
    let mut time = 0.02;
    for _ in 0..blows {
        blade.strike(&mut out, time, peak(loud + 2.0 * chance.normal()), chance);
        time += period * (1.0 + 0.06 * chance.normal());
    }
    (out, blows as u8)
}
