//! Callers: animals that call now and then, each from its own place.

use super::{
    bed::{Bus, Layer},
    chance::Chance,
    drift::Drift,
    microphone::pascal,
    note::{Note, sing},
    propagation::Vegetation,
};
use crate::SAMPLE_RATE_HZ;

/// Distance at which the reverberant sound is as loud as the direct one, m.
const CRITICAL_DISTANCE_M: f32 = 60.0;

/// How a species makes one phrase.
pub(super) type Grammar = Box<dyn Fn(&mut Chance) -> Vec<Note> + Send>;

/// A species as one recorder hears it.
pub(super) struct Species {
    pub(super) grammar: Grammar,
    /// Level of a loud note one metre from the animal, dB SPL.
    pub(super) spl_1m_db: f32,
    /// Pause between phrases of a bout, s.
    pub(super) pause_s: (f32, f32),
    /// Phrases of a bout.
    pub(super) bout: (u32, u32),
    /// Mean silence between bouts, s.
    pub(super) rest_s: f32,
    /// Where the animals sit, m.
    pub(super) distance_m: (f32, f32),
    /// Animals within hearing.
    pub(super) animals: (u32, u32),
}

struct Caller {
    distance_m: f32,
    /// Seconds of the scene at which its next phrase begins.
    next_s: f64,
    left: u32,
}

struct Playing {
    start: u64,
    samples: Vec<f32>,
    dry: f32,
    wet: f32,
}

/// The animals of one species.
pub(super) struct Callers {
    species: Species,
    vegetation: Vegetation,
    animals: Vec<Caller>,
    playing: Vec<Playing>,
    activity: Drift,
    chance: Chance,
}

impl Callers {
    pub(super) fn new(species: Species, vegetation: Vegetation, mut chance: Chance) -> Self {
        let count = chance.whole(species.animals.0, species.animals.1);
        let animals = (0..count)
            .map(|_| Caller {
                distance_m: chance.between_log(species.distance_m.0, species.distance_m.1),
                next_s: chance.wait(f64::from(species.rest_s) * 0.5),
                left: 0,
            })
            .collect();
        Self {
            animals,
            vegetation,
            playing: Vec::new(),
            activity: Drift::new(420.0, 1.0, chance.split()),
            species,
            chance,
        }
    }

    fn call(&mut self, index: usize, at_s: f64) {
        let phrase = (self.species.grammar)(&mut self.chance);
        let samples = sing(&phrase, &mut self.chance);
        let length_s = samples.len() as f64 / f64::from(SAMPLE_RATE_HZ);
        let centre_khz = phrase.first().map_or(2.0, |note| note.centre_hz() / 1000.0);
        let animal = &mut self.animals[index];
        let loss = self.vegetation.loss_db_per_m_khz * centre_khz * animal.distance_m;
        let level = self.species.spl_1m_db - 20.0 * animal.distance_m.log10() - loss
            + self.chance.between(-3.0, 2.0);
        let gain = pascal(level) * std::f32::consts::SQRT_2;
        let scattered = animal.distance_m / (animal.distance_m + CRITICAL_DISTANCE_M);
        self.playing.push(Playing {
            start: (at_s * f64::from(SAMPLE_RATE_HZ)) as u64,
            samples,
            dry: gain * (1.0 - scattered).sqrt(),
            wet: gain * scattered.sqrt(),
        });
        let pause = if animal.left > 0 {
            animal.left -= 1;
            f64::from(self.chance.between(self.species.pause_s.0, self.species.pause_s.1))
        } else {
            animal.left = self.chance.whole(self.species.bout.0, self.species.bout.1);
            if self.chance.happens(0.4) {
                animal.distance_m = self
                    .chance
                    .between_log(self.species.distance_m.0, self.species.distance_m.1);
            }
            // A quiet hour has rests three times as long as a busy one.
            let rest = f64::from(self.species.rest_s) * (1.6 - 1.2 * f64::from(self.activity.step()));
            self.chance.wait(rest).max(1.0)
        };
        animal.next_s = at_s + length_s + pause;
    }
}

impl Layer for Callers {
    fn add(&mut self, start: u64, bus: &mut Bus) {
        let rate = f64::from(SAMPLE_RATE_HZ);
        let end_s = (start + bus.dry.len() as u64) as f64 / rate;
        for index in 0..self.animals.len() {
            let due = self.animals[index].next_s;
            if due < end_s {
                self.call(index, due.max(start as f64 / rate));
            }
        }
        let end = start + bus.dry.len() as u64;
        for call in &self.playing {
            let from = call.start.max(start);
            if from >= end {
                continue;
            }
            let into = (from - start) as usize;
            let samples = &call.samples[(from - call.start) as usize..];
            for ((dry, wet), sample) in bus.dry[into..].iter_mut().zip(&mut bus.wet[into..]).zip(samples) {
                *dry += sample * call.dry;
                *wet += sample * call.wet;
            }
        }
        self.playing
            .retain(|call| call.start + call.samples.len() as u64 > end);
    }
}
