//! Events: the sounds of a scene that its ground truth lists, from their schedule to the mix.

use std::collections::VecDeque;

use super::{
    SceneConfig, SceneEvent, SceneSound,
    air::Air,
    bed::{STEP, STEP_S},
    chance::Chance,
    engine::Engine,
    filter::Biquad,
    plan::ShotPlan,
    propagation::{CARRY_LEAD, Propagation},
    shot::{SHOT_LEAD_SAMPLES, gunshot_rounds},
    thunder::thunder,
    weapon::Weapon,
    wood,
};
use crate::SAMPLE_RATE_HZ;

const RATE: f64 = SAMPLE_RATE_HZ as f64;
/// Length over which levels are measured, samples: 20 ms.
pub(super) const LEVEL_SAMPLES: usize = 320;
/// An event ends where its level stays this far under its loudest, dB.
const END_BELOW_DB: f32 = 25.0;
/// The bed before an event against which it is measured, steps: 5 s.
const BED_STEPS: usize = (5.0 / STEP_S) as usize;

/// A sound that was made as a whole.
struct Playing {
    /// Sample of the scene at which `samples` begin; may lie before the scene.
    start: i64,
    samples: Vec<f32>,
}

/// A listed event whose onset is still to come.
struct Waiting {
    onset: u64,
    event: SceneEvent,
    /// Level of its loudest 20 ms in the band of shots, Pa.
    band_pa: f32,
}

/// A kind of distractor and when it comes next.
struct Recurring {
    make: fn(&mut Events, u64, &mut Chance),
    mean_s: f64,
    next_s: f64,
    chance: Chance,
}

/// Everything that happens in a scene beside its ambience.
pub(super) struct Events {
    config: SceneConfig,
    air: Air,
    shots: ShotPlan,
    next_shot_s: Option<f64>,
    shot_chance: Chance,
    recurring: Vec<Recurring>,
    playing: Vec<Playing>,
    engines: Vec<Engine>,
    waiting: Vec<Waiting>,
    meter: BandMeter,
}

impl Events {
    pub(super) fn new(config: &SceneConfig, self_noise_pa: f32) -> Self {
        let mut shots = ShotPlan::new(config);
        let next_shot_s = shots.next();
        let rates = config.habitat.distractors_per_hour();
        #[allow(clippy::type_complexity, reason = "a table of name, maker and rate, read once")]
        let kinds: [(&str, fn(&mut Self, u64, &mut Chance), f64); 5] = [
            ("thunder", Self::add_thunder, rates.thunder),
            ("branch", Self::add_branch, rates.branches),
            ("woodpecker", Self::add_woodpecker, rates.woodpeckers),
            ("chops", Self::add_chops, rates.chops),
            ("engine", Self::add_engine, rates.engines),
        ];
        let recurring = kinds
            .into_iter()
            .filter(|&(_, _, per_hour)| config.distractors && per_hour > 0.0)
            .map(|(name, make, per_hour)| {
                let mut chance = Chance::for_part(config.seed, name);
                let mean_s = 3600.0 / per_hour;
                Recurring { make, mean_s, next_s: 1.0 + chance.wait(mean_s), chance }
            })
            .collect();
        Self {
            air: config.habitat.air(),
            shots,
            next_shot_s,
            shot_chance: Chance::for_part(config.seed, "shot"),
            recurring,
            playing: Vec::new(),
            engines: Vec::new(),
            waiting: Vec::new(),
            meter: BandMeter::new(self_noise_pa),
            config: config.clone(),
        }
    }

    /// Takes note of the ambience of this step, before events are added.
    pub(super) fn listen(&mut self, bed: &[f32]) {
        self.meter.push(bed);
    }

    /// Adds the step that begins at sample `start`, and lists the events that begin in it.
    pub(super) fn add(
        &mut self,
        start: u64,
        out: &mut [f32; STEP],
        truth: &mut VecDeque<SceneEvent>,
    ) {
        let end = start + STEP as u64;
        self.schedule(end);
        for sound in &self.playing {
            let from = sound.start.max(start as i64);
            if from >= end as i64 {
                continue;
            }
            let into = (from - start as i64) as usize;
            let samples = &sound.samples[(from - sound.start) as usize..];
            for (sum, sample) in out[into..].iter_mut().zip(samples) {
                *sum += sample;
            }
        }
        self.playing.retain(|sound| sound.start + sound.samples.len() as i64 > end as i64);
        for engine in &mut self.engines {
            engine.add(start, out);
        }
        self.engines.retain(|engine| engine.end() > end);
        self.list(end, truth);
    }

    fn list(&mut self, end: u64, truth: &mut VecDeque<SceneEvent>) {
        if self.waiting.iter().all(|waiting| waiting.onset >= end) {
            return;
        }
        self.waiting.sort_by_key(|waiting| waiting.onset);
        let bed = self.meter.median();
        let due = self.waiting.partition_point(|waiting| waiting.onset < end);
        for waiting in self.waiting.drain(..due) {
            truth.push_back(SceneEvent {
                transient_snr_db: decibel(waiting.band_pa / bed.max(1e-9)),
                ..waiting.event
            });
        }
    }

    /// Makes all that begins to sound before sample `end`.
    fn schedule(&mut self, end: u64) {
        let lead = SHOT_LEAD_SAMPLES as u64;
        while let Some(onset_s) = self.next_shot_s {
            let onset = (onset_s * RATE).round() as u64;
            if onset >= end + lead {
                break;
            }
            self.add_shot(onset);
            self.next_shot_s = self.shots.next();
        }
        let end_s = end as f64 / RATE;
        for index in 0..self.recurring.len() {
            while self.recurring[index].next_s < end_s {
                let Recurring { make, mean_s, next_s, chance } = &mut self.recurring[index];
                let (make, onset) = (*make, (*next_s * RATE) as u64);
                // Each event draws from its own generator: how much it draws moves no other.
                let mut own = chance.split();
                *next_s += chance.wait(*mean_s).max(0.5);
                make(self, onset, &mut own);
            }
        }
    }

    fn add_shot(&mut self, onset: u64) {
        let mut chance = self.shot_chance.split();
        let (near, far) = (*self.config.distance_m.start(), *self.config.distance_m.end());
        let distance_m = chance.between_log(near, far.max(near));
        let weapon = Weapon::drawn(&mut chance);
        let path = self.path(distance_m, &mut chance);
        let rounds = weapon.rounds(&mut chance);
        let samples = gunshot_rounds(&weapon, &path, &rounds, &mut chance);
        let sound =
            SceneSound::GunShot { weapon: weapon.kind, distance_m, rounds: rounds.len() as u8 };
        self.play(sound, onset, SHOT_LEAD_SAMPLES, samples);
    }

    fn add_branch(&mut self, onset: u64, chance: &mut Chance) {
        let distance_m = chance.between_log(10.0, 140.0);
        let source = wood::branch_break(chance);
        self.carry(SceneSound::BranchBreak { distance_m }, onset, distance_m, &source, chance);
    }

    fn add_woodpecker(&mut self, onset: u64, chance: &mut Chance) {
        let distance_m = chance.between_log(12.0, 90.0);
        let source = wood::woodpecker(chance);
        self.carry(SceneSound::Woodpecker { distance_m }, onset, distance_m, &source, chance);
    }

    fn add_chops(&mut self, onset: u64, chance: &mut Chance) {
        let distance_m = chance.between_log(35.0, 280.0);
        let (source, blows) = wood::chops(chance);
        self.carry(SceneSound::Chops { distance_m, blows }, onset, distance_m, &source, chance);
    }

    fn add_thunder(&mut self, onset: u64, chance: &mut Chance) {
        let distance_m = chance.between_log(1_500.0, 14_000.0);
        let samples = thunder(distance_m, &self.air, chance);
        self.play(SceneSound::Thunder { distance_m }, onset, 0, samples);
    }

    fn add_engine(&mut self, onset: u64, chance: &mut Chance) {
        let engine = Engine::new(onset, self.config.habitat.vegetation(), chance.split());
        let level_pa = super::microphone::pascal(engine.spl_db());
        self.waiting.push(Waiting {
            onset,
            event: SceneEvent {
                kind: SceneSound::Engine { engine: engine.kind(), distance_m: engine.closest_m() },
                onset_s: engine.start() as f64 / RATE,
                end_s: engine.end() as f64 / RATE,
                level_dbfs: decibel(level_pa / self.config.microphone.full_scale_pa()),
                transient_snr_db: 0.0,
            },
            band_pa: level_pa,
        });
        self.engines.push(engine);
    }

    fn carry(
        &mut self,
        sound: SceneSound,
        onset: u64,
        distance_m: f32,
        source: &[f32],
        chance: &mut Chance,
    ) {
        let samples = self.path(distance_m, chance).carry(source, chance);
        self.play(sound, onset, CARRY_LEAD, samples);
    }

    fn path(&self, distance_m: f32, chance: &mut Chance) -> Propagation {
        Propagation::drawn(distance_m, self.air, self.config.habitat.vegetation(), chance)
    }

    /// Mixes `samples` (Pa) in so that their sample `lead` falls on `onset`.
    fn play(&mut self, kind: SceneSound, onset: u64, lead: usize, mut samples: Vec<f32>) {
        let loudest = loudest_rms(&samples);
        let last = last_above(&samples, loudest * 10_f32.powf(-END_BELOW_DB / 20.0));
        // Nothing is kept that nobody can hear.
        let audible = last_above(&samples, loudest * 1e-4);
        samples.truncate(audible);
        let start = onset as i64 - lead as i64;
        let event = SceneEvent {
            kind,
            onset_s: onset as f64 / RATE,
            end_s: (start + last.max(lead + 1) as i64) as f64 / RATE,
            level_dbfs: decibel(loudest / self.config.microphone.full_scale_pa()),
            transient_snr_db: 0.0,
        };
        let mut band = BandMeter::filters();
        let in_band: Vec<f32> =
            samples.iter().map(|&x| band.iter_mut().fold(x, |x, filter| filter.run(x))).collect();
        self.waiting.push(Waiting { onset, event, band_pa: loudest_rms(&in_band) });
        self.playing.push(Playing { start, samples });
    }
}

fn decibel(ratio: f32) -> f32 {
    20.0 * ratio.max(1e-9).log10()
}

fn rms(samples: &[f32]) -> f32 {
    (samples.iter().map(|v| v * v).sum::<f32>() / samples.len().max(1) as f32).sqrt()
}

/// Root mean square of the loudest 20 ms, at steps of 5 ms.
fn loudest_rms(samples: &[f32]) -> f32 {
    if samples.len() < LEVEL_SAMPLES {
        return rms(samples);
    }
    samples.windows(LEVEL_SAMPLES).step_by(LEVEL_SAMPLES / 4).map(rms).fold(0.0, f32::max)
}

/// End of the last 20 ms whose level is at least `floor`.
fn last_above(samples: &[f32], floor: f32) -> usize {
    let last = samples.chunks(LEVEL_SAMPLES).rposition(|piece| rms(piece) >= floor);
    (last.map_or(0, |last| last + 1) * LEVEL_SAMPLES).min(samples.len())
}

/// The level of the ambience in the band of distant shots, 100–1500 Hz.
struct BandMeter {
    filters: [Biquad; 2],
    piece: Vec<f32>,
    levels: VecDeque<f32>,
    self_noise: f32,
}

impl BandMeter {
    fn new(self_noise_pa: f32) -> Self {
        Self {
            filters: Self::filters(),
            piece: Vec::with_capacity(LEVEL_SAMPLES),
            levels: VecDeque::with_capacity(BED_STEPS * STEP / LEVEL_SAMPLES + 2),
            // White noise over 8 kHz, of which the band holds 1.4.
            self_noise: self_noise_pa * (1.4_f32 / 8.0).sqrt(),
        }
    }

    fn filters() -> [Biquad; 2] {
        [Biquad::high_pass(100.0, 0.7), Biquad::low_pass(1_500.0, 0.7)]
    }

    fn push(&mut self, block: &[f32]) {
        for &sample in block {
            let value = self.filters.iter_mut().fold(sample, |x, filter| filter.run(x));
            self.piece.push(value);
            if self.piece.len() == LEVEL_SAMPLES {
                if self.levels.len() >= BED_STEPS * STEP / LEVEL_SAMPLES {
                    self.levels.pop_front();
                }
                self.levels.push_back(rms(&self.piece));
                self.piece.clear();
            }
        }
    }

    /// Median level of the last 5 s, Pa.
    fn median(&self) -> f32 {
        let mut levels: Vec<f32> = self.levels.iter().copied().collect();
        if levels.is_empty() {
            return self.self_noise;
        }
        let middle = levels.len() / 2;
        let (_, median, _) = levels.select_nth_unstable_by(middle, f32::total_cmp);
        median.hypot(self.self_noise)
    }
}
