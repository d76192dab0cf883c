//! Path: recordings with folds → this → sounds to learn from, window labels known
//!
//! Clips are short and near; a station hears a stream, from afar, through any microphone. So every
//! clip is used in several forms, and each form keeps to one rule: whatever is done to the sounds
//! that alert is done to the others as well, or the treatment itself becomes the class. Everything
//! that is mixed comes from one fold, so that a form belongs to the fold of its clip.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::dataset::Clip;
use super::labels::LabelMap;
use super::made::{self, MadeScene};
use super::sound::{self, Loudness};
use crate::audio::{AudioError, AudioReader, DecodeLimits};
use crate::scene::Chance;
use crate::{SAMPLE_RATE_HZ, WINDOW_SAMPLES};

/// Part of every cache key: raise it when a form renders differently.
pub const RENDER_VERSION: u32 = 3;

/// Past that a clip in context has at least, seconds: what the transient stream looks back on.
const PAST_S: f32 = 5.0;
/// Sound that must follow an onset within the window for the window to be an example of it.
const AFTER_ONSET: u64 = SAMPLE_RATE_HZ as u64 / 10;
/// Moments this close below the loudest are of the same event, dB: bursts, barks.
const SAME_EVENT_DB: f32 = 10.0;
/// The same for sounds from afar, also as a share of what the loudest stands out by: where that is
/// little, moments a few dB below it are the forest's own.
const SAME_FAR_EVENT_DB: f32 = 8.0;
const SAME_FAR_EVENT_SHARE: f32 = 0.25;
/// Clips whose loudest moment stands out less than this have no transient to mix, dB.
const LEAST_TRANSIENT_DB: f32 = 10.0;
/// Most clips that surroundings are made of.
const MOST_PARTS: usize = 32;
/// Least that a mixed sound's loudest moment stands out of its surroundings, dB: below it even a
/// person looking at the spectrogram finds nothing.
const FAINTEST_DB: f32 = 8.0;
/// Sound from so long before a window's start to so long after its end is what a shot within may
/// have left or sent ahead, in samples: its tail, or a bullet's crack before the muzzle.
const TRACE: (u64, u64) = (2 * SAMPLE_RATE_HZ as u64, SAMPLE_RATE_HZ as u64 / 2);
/// Rate of recorders whose sound [`Form::BandLimited`] imitates: what comes from one needs none of it.
const NARROW_RATE_HZ: u32 = 8_000;
/// From so many metres on a sound is from afar.
const FAR_M: f32 = 100.0;
/// Cross-fade between clips that are joined.
const OVERLAP: usize = SAMPLE_RATE_HZ as usize / 4;

/// Limits for training files: an hour of one clip, far more than any of them needs.
const DECODE_LIMITS: DecodeLimits = DecodeLimits { max_bytes: 1 << 30, max_seconds: 3600.0 };

/// What is done to a clip before features are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// As the file is.
    Plain,
    /// As a recorder with a rate of 8 kHz would have it.
    BandLimited,
    /// 24 dB quieter.
    Quiet,
    /// After at least 5 s of other sound, at some gain, half of the time band-limited.
    InContext,
    /// Its loudest moment, in other surroundings, often made distant, at some ratio to them.
    Mixed,
    /// Nothing but a recorder's own noise.
    Silence,
    /// A minute of synthetic forest: its shots, or all else in it.
    Scene,
    /// A shot made from physics, in recorded or synthetic surroundings.
    Staged,
}

impl Form {
    /// Whether it is no recording's: learnt from, never judged on.
    pub fn is_made(self) -> bool {
        matches!(self, Self::Scene | Self::Staged)
    }

    /// Whether the sound goes on where it stops, unlike a file.
    pub fn is_cut_off(self) -> bool {
        !matches!(self, Self::Plain | Self::BandLimited | Self::Quiet)
    }
}

/// One sound to make features of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The clip it is made of; `None` for what is synthetic.
    pub clip: Option<usize>,
    /// Its form.
    pub form: Form,
    /// Number of this item among those of the same clip and form.
    pub copy: u32,
    /// Fold of its clip, and of everything mixed into it.
    pub fold: usize,
    /// Class of its marked windows.
    pub class: usize,
}

/// The sound of an item.
pub struct Rendered {
    /// 16 kHz mono.
    pub samples: Vec<f32>,
    /// Windows that start before this sample only fill the context.
    pub keep_from: u64,
    /// Onsets of the class, in samples; empty when all of the sound is of the class.
    pub onsets: Vec<u64>,
    /// The sound ends here as a file does: what is left of the last window is padded.
    pub ends: bool,
    /// Only windows with an onset are kept.
    pub only_onsets: bool,
    /// Moments of another class, in samples: windows that may hold traces of them are not kept.
    pub apart_from: Vec<u64>,
}

/// How often each form is made of a clip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copies {
    /// `InContext`, of any clip.
    pub in_context: u32,
    /// `InContext`, of a clip of an alerting class.
    pub alert_in_context: u32,
    /// `Mixed`, of a clip of an alerting class.
    pub alert_mixed: u32,
    /// `Mixed`, of any other clip that has a transient.
    pub other_mixed: u32,
    /// Sounds of silence, over all.
    pub silence: u32,
    /// `Scene`, over all.
    #[serde(default)]
    pub scenes: u32,
    /// `Staged`, over all.
    #[serde(default)]
    pub staged: u32,
}

impl Default for Copies {
    fn default() -> Self {
        Self {
            in_context: 1,
            alert_in_context: 2,
            alert_mixed: 5,
            other_mixed: 3,
            silence: 72,
            scenes: 0,
            staged: 0,
        }
    }
}

/// Recordings with their folds and classes; sounds are decoded when first needed, and kept.
pub struct Library {
    clips: Vec<Clip>,
    fold: Vec<usize>,
    class: Vec<usize>,
    /// Clips of collections that were recorded at 8 kHz throughout.
    narrow: Vec<bool>,
    sounds: Vec<OnceLock<Arc<Vec<f32>>>>,
    /// Clips that may be surroundings, by fold: those recorded at 8 kHz and those above.
    surroundings: Vec<[Vec<usize>; 2]>,
    folds: usize,
}

/// A clip could not be used. The caller reports it: the file has to be repaired or taken off the
/// manifest.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    /// It cannot be decoded.
    #[error("{path}: {source}")]
    Decode {
        /// The file.
        path: PathBuf,
        /// Why.
        source: AudioError,
    },
    /// It holds no sample, or one that is no number.
    #[error("{path} holds {what}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What it holds.
        what: &'static str,
    },
}

/// Whether clips of this label are natural surroundings without a main event; `background` is what
/// people call those that nothing is heard in.
fn surrounds(label: &str) -> bool {
    label == "background"
        || ["forest", "rain", "insects", "wind", "water", "bird", "frog", "primate"]
            .iter()
            .any(|part| label.contains(part))
}

/// Whether each clip is of a source all of whose clips were recorded at 8 kHz. One such clip among
/// others says nothing of the recorder.
fn of_narrow_sources(clips: &[Clip]) -> Vec<bool> {
    let mut sources: HashMap<&str, bool> = HashMap::new();
    for clip in clips {
        *sources.entry(&clip.source).or_insert(true) &= clip.rate_hz == Some(NARROW_RATE_HZ);
    }
    clips.iter().map(|clip| sources[clip.source.as_str()]).collect()
}

impl Library {
    /// `fold[i]` is the fold of `clips[i]`.
    pub fn new(clips: Vec<Clip>, fold: Vec<usize>, labels: &LabelMap) -> Self {
        let class: Vec<usize> = clips.iter().map(|clip| labels.class_of(&clip.label)).collect();
        let folds = fold.iter().max().map_or(0, |last| last + 1);
        let sounds = clips.iter().map(|_| OnceLock::new()).collect();
        let narrow = of_narrow_sources(&clips);
        let mut surroundings = vec![[Vec::new(), Vec::new()]; folds];
        for (index, clip) in clips.iter().enumerate() {
            if class[index] == labels.rest() && surrounds(&clip.label) {
                surroundings[fold[index]][usize::from(!narrow[index])].push(index);
            }
        }
        Self { clips, fold, class, narrow, sounds, surroundings, folds }
    }

    /// All clips.
    pub fn clips(&self) -> &[Clip] {
        &self.clips
    }

    /// Fold of each clip.
    pub fn fold(&self) -> &[usize] {
        &self.fold
    }

    /// Class of each clip.
    pub fn class(&self, clip: usize) -> usize {
        self.class[clip]
    }

    /// Whether a clip comes from a recorder that runs at 8 kHz, as its whole source does.
    pub fn is_narrow(&self, clip: usize) -> bool {
        self.narrow[clip]
    }

    /// Whether what is heard is far away: as the manifest says; where it does not, recorders at 8 kHz
    /// are those that stand in forests for months and hear what happens to come.
    pub fn is_far(&self, clip: usize) -> bool {
        self.clips[clip].distance_m.map_or(self.narrow[clip], |distance_m| distance_m >= FAR_M)
    }

    /// Number of folds.
    pub fn folds(&self) -> usize {
        self.folds
    }

    /// Hash of all that may be mixed in this fold, given the hash of each recording.
    pub fn pool_digest(&self, fold: usize, contents: &[[u8; 32]]) -> [u8; 32] {
        use sha2::{Digest, Sha256};
        let mut hash = Sha256::new();
        for (wide, pool) in self.surroundings[fold].iter().enumerate() {
            for &clip in pool {
                hash.update([wide as u8]);
                hash.update(contents[clip]);
                hash.update(self.clips[clip].source.as_bytes());
                hash.update([0]);
                hash.update(self.clips[clip].label.as_bytes());
                hash.update([0]);
            }
        }
        hash.finalize().into()
    }

    /// The decoded sound of a clip.
    ///
    /// # Errors
    /// When it cannot be decoded or holds no usable sample.
    pub fn sound(&self, clip: usize) -> Result<Arc<Vec<f32>>, MaterialError> {
        if let Some(sound) = self.sounds[clip].get() {
            return Ok(Arc::clone(sound));
        }
        let sound = Arc::new(decode(&self.clips[clip].path)?);
        Ok(Arc::clone(self.sounds[clip].get_or_init(|| sound)))
    }

    /// The same, without keeping it for the next who asks.
    ///
    /// # Errors
    /// As [`Self::sound`].
    pub fn sound_once(&self, clip: usize) -> Result<Arc<Vec<f32>>, MaterialError> {
        match self.sounds[clip].get() {
            Some(sound) => Ok(Arc::clone(sound)),
            None => Ok(Arc::new(decode(&self.clips[clip].path)?)),
        }
    }

    /// Gives a clip a sound in place of its file's.
    #[cfg(test)]
    pub(super) fn hold(&self, clip: usize, samples: Vec<f32>) {
        self.sounds[clip].set(Arc::new(samples)).unwrap();
    }

    /// Every item to make, in a fixed order. `silence` is the class of synthetic silence, if the
    /// head has one.
    pub fn items(&self, labels: &LabelMap, copies: Copies, silence: Option<usize>) -> Vec<Item> {
        let mut items = Vec::new();
        for (index, clip) in self.clips.iter().enumerate() {
            let class = self.class[index];
            let alerts = labels.classes[class].alert;
            let forms = [
                (Form::Plain, 1),
                (Form::BandLimited, u32::from(!self.narrow[index])),
                (Form::Quiet, u32::from(alerts)),
                (Form::InContext, if alerts { copies.alert_in_context } else { copies.in_context }),
                (
                    Form::Mixed,
                    match alerts {
                        true => copies.alert_mixed,
                        false if surrounds(&clip.label) => 0,
                        false => copies.other_mixed,
                    },
                ),
            ];
            for (form, count) in forms {
                items.extend((0..count).map(|copy| Item {
                    clip: Some(index),
                    form,
                    copy,
                    fold: self.fold[index],
                    class,
                }));
            }
        }
        if let Some(class) = silence {
            items.extend((0..copies.silence).map(|copy| Item {
                clip: None,
                form: Form::Silence,
                copy,
                fold: copy as usize % self.folds.max(1),
                class,
            }));
        }
        let mut made = |form, copies, class| {
            items.extend((0..copies).map(|copy| Item {
                clip: None,
                form,
                copy,
                fold: copy as usize % self.folds.max(1),
                class,
            }));
        };
        made(Form::Scene, copies.scenes, labels.alerting());
        made(Form::Scene, copies.scenes, labels.rest());
        made(Form::Staged, copies.staged, labels.alerting());
        items
    }

    /// Makes the sound of an item; depends on the item, its clips and `seed` only. `None` when the
    /// clip does not lend itself to the form (nothing stands out that could be mixed).
    ///
    /// # Errors
    /// When a clip cannot be used.
    pub fn render(
        &self,
        item: &Item,
        labels: &LabelMap,
        seed: u64,
    ) -> Result<Option<Rendered>, MaterialError> {
        let mut rng = self.generator(item, seed);
        let Some(clip) = item.clip else {
            return match item.form {
                Form::Scene => {
                    let scene = MadeScene::new(item.copy, seed);
                    let marks = scene.marks(item.class == labels.alerting());
                    Ok(Some(Rendered { samples: scene.samples, ..marks }))
                }
                Form::Staged => self.staged(item.fold, &mut rng),
                _ => Ok(Some(Rendered {
                    samples: sound::near_silence(SAMPLE_RATE_HZ as usize * 8, &mut rng),
                    keep_from: 0,
                    onsets: Vec::new(),
                    ends: false,
                    only_onsets: false,
                    apart_from: Vec::new(),
                })),
            };
        };
        let sound = self.sound(clip)?;
        let sparse = labels.classes[item.class].sparse;
        let far = self.is_far(clip);
        let whole = |samples: Vec<f32>| Rendered {
            onsets: if sparse { onsets(&samples, far) } else { Vec::new() },
            samples,
            keep_from: 0,
            ends: true,
            only_onsets: false,
            apart_from: Vec::new(),
        };
        match item.form {
            Form::Plain => Ok(Some(whole(sound.to_vec()))),
            Form::BandLimited => Ok(Some(whole(sound::band_limit(&sound)))),
            Form::Quiet => {
                let mut quiet = sound.to_vec();
                sound::gain(&mut quiet, -24.0);
                Ok(Some(whole(quiet)))
            }
            Form::InContext => self.in_context(clip, sparse, &sound, &mut rng).map(Some),
            Form::Mixed => self.mixed(clip, &sound, &mut rng),
            Form::Silence | Form::Scene | Form::Staged => Ok(None),
        }
    }

    fn generator(&self, item: &Item, seed: u64) -> ChaCha8Rng {
        use sha2::{Digest, Sha256};
        let name = item.clip.map_or("", |clip| self.clips[clip].name.as_str());
        let digest = Sha256::new()
            .chain_update(seed.to_le_bytes())
            .chain_update([item.form as u8])
            .chain_update(item.copy.to_le_bytes())
            .chain_update(name.as_bytes())
            .finalize();
        ChaCha8Rng::from_seed(digest.into())
    }

    fn in_context(
        &self,
        clip: usize,
        sparse: bool,
        sound: &[f32],
        rng: &mut ChaCha8Rng,
    ) -> Result<Rendered, MaterialError> {
        let mut own = if rng.random_range(0..3) == 0 {
            sound::speed(sound, rng.random_range(0.92..1.08))
        } else {
            sound.to_vec()
        };
        let farther = if self.is_far(clip) { 0.1 } else { 0.25 };
        if rng.random::<f32>() < farther {
            own = sound::distance(&own, rng);
        }
        let narrow = rng.random::<bool>() || self.narrow[clip];
        let past_s = rng.random_range(PAST_S..PAST_S + 1.5);
        let past = self.surroundings(self.fold[clip], Some(clip), narrow, past_s, rng)?;
        let level = quiet_level(&own);
        let past_level = quiet_level(&past).max(1e-7);
        // As loud as the clip's own quiet parts, give or take: a seam, not a step.
        let match_db = 20.0 * (level / past_level).max(1e-6).log10() + rng.random_range(-6.0..3.0);
        let mut past = past;
        sound::gain(&mut past, match_db.clamp(-60.0, 30.0));
        let overlap = OVERLAP.min(own.len() / 2);
        let mut samples = sound::join(&[&past, &own], overlap);
        let clip_from = samples.len() - own.len();
        if narrow {
            samples = sound::band_limit(&samples);
        }
        let onsets = if sparse {
            onsets(&samples[clip_from..], self.is_far(clip))
                .iter()
                .map(|at| at + clip_from as u64)
                .collect()
        } else {
            Vec::new()
        };
        any_gain(&mut samples, rng);
        Ok(Rendered {
            samples,
            // A window that is at least half clip.
            keep_from: (clip_from as u64).saturating_sub(WINDOW_SAMPLES as u64 / 2),
            onsets,
            ends: false,
            only_onsets: false,
            apart_from: Vec::new(),
        })
    }

    fn mixed(
        &self,
        clip: usize,
        sound: &[f32],
        rng: &mut ChaCha8Rng,
    ) -> Result<Option<Rendered>, MaterialError> {
        let Some(loudness) = Loudness::of(sound) else { return Ok(None) };
        if loudness.snr_db() < LEAST_TRANSIENT_DB {
            return Ok(None);
        }
        let (mut own, mut peak) = sound::cut_out(sound, loudness.peak, rng.random_range(0.6..1.8));
        if rng.random::<bool>() {
            let ratio = rng.random_range(0.9..1.1);
            own = sound::speed(&own, ratio);
            peak = (peak as f32 / ratio) as usize;
        }
        if rng.random::<f32>() < if self.is_far(clip) { 0.25 } else { 0.7 } {
            own = sound::distance(&own, rng);
        }
        let narrow = self.narrow[clip] || rng.random_range(0..3) > 0;
        let at_s = rng.random_range(PAST_S + 0.2..PAST_S + 0.9);
        let samples = self.surroundings(self.fold[clip], Some(clip), narrow, at_s + 2.0, rng)?;
        Ok(laid(own, peak, samples, at_s, narrow, rng))
    }

    fn staged(&self, fold: usize, rng: &mut ChaCha8Rng) -> Result<Option<Rendered>, MaterialError> {
        let mut chance = Chance::new(rng.random());
        let own = made::shot(&mut chance);
        let Some(loudness) = Loudness::of(&own) else { return Ok(None) };
        let narrow = rng.random_range(0..3) == 0;
        let at_s = rng.random_range(PAST_S + 0.5..PAST_S + 0.9);
        let samples = match rng.random_range(0..3) {
            0 => made::ambience(at_s + 2.0, &mut chance),
            _ => self.surroundings(fold, None, narrow, at_s + 2.0, rng)?,
        };
        Ok(laid(own, loudness.peak, samples, at_s, narrow, rng))
    }

    /// At least `seconds` of surroundings from a fold, never the clip `but` itself, at one level
    /// throughout.
    fn surroundings(
        &self,
        fold: usize,
        but: Option<usize>,
        narrow: bool,
        seconds: f32,
        rng: &mut ChaCha8Rng,
    ) -> Result<Vec<f32>, MaterialError> {
        let length = (seconds * SAMPLE_RATE_HZ as f32) as usize;
        let [low, wide] = &self.surroundings[fold];
        let (first, other) =
            if narrow && rng.random_range(0..4) > 0 { (low, wide) } else { (wide, low) };
        let pool: Vec<usize> = [first, other]
            .into_iter()
            .map(|pool| {
                pool.iter().copied().filter(|&other| Some(other) != but).collect::<Vec<_>>()
            })
            .find(|pool| !pool.is_empty())
            .unwrap_or_default();
        if pool.is_empty() {
            return Ok(sound::near_silence(length, rng));
        }
        // One kind of place: clips of the source of the first one.
        let start = pool[rng.random_range(0..pool.len())];
        let alike: Vec<usize> = pool
            .iter()
            .copied()
            .filter(|&other| {
                self.clips[other].source == self.clips[start].source
                    && self.clips[other].label == self.clips[start].label
            })
            .collect();
        let mut parts: Vec<Vec<f32>> = Vec::new();
        let mut have = 0;
        let mut level = 0.0;
        let mut next = start;
        for _ in 0..MOST_PARTS {
            let mut part = self.sound(next)?.to_vec();
            if part.len() > 4 * OVERLAP {
                let own = quiet_level(&part).max(1e-7);
                if parts.is_empty() {
                    level = own;
                }
                sound::gain(&mut part, (20.0 * (level / own).log10()).clamp(-40.0, 40.0));
                have += part.len() - if parts.is_empty() { 0 } else { OVERLAP };
                parts.push(part);
            }
            if have >= length {
                break;
            }
            next = alike[rng.random_range(0..alike.len())];
        }
        if have < length {
            // Nothing but snippets: a place where nothing is heard.
            return Ok(sound::near_silence(length, rng));
        }
        let parts: Vec<&[f32]> = parts.iter().map(Vec::as_slice).collect();
        let mut joined = sound::join(&parts, OVERLAP);
        joined.drain(..joined.len().saturating_sub(length));
        Ok(joined)
    }
}

impl Rendered {
    /// What a window that starts at `start` is: `None` not kept, `Some(true)` an example of the
    /// item's class, `Some(false)` kept for evaluation but an example of nothing.
    pub fn window(&self, start: u64) -> Option<bool> {
        if start < self.keep_from {
            return None;
        }
        let end = start + WINDOW_SAMPLES as u64;
        if self.apart_from.iter().any(|&at| start < at + TRACE.0 && at < end + TRACE.1) {
            return None;
        }
        let holds = self.onsets.iter().any(|&at| start <= at && at + AFTER_ONSET <= end);
        if self.only_onsets && !holds {
            return None;
        }
        Some(holds || self.onsets.is_empty())
    }
}

/// A transient whose loudest moment is its sample `peak`, laid into surroundings so that the moment
/// falls at `at_s` seconds, at a drawn ratio to them and a drawn gain.
fn laid(
    mut own: Vec<f32>,
    peak: usize,
    mut samples: Vec<f32>,
    at_s: f32,
    narrow: bool,
    rng: &mut ChaCha8Rng,
) -> Option<Rendered> {
    let (own_loudness, ground) = (Loudness::of(&own)?, Loudness::of(&samples)?);
    let ratio_db = if rng.random_range(0..4) == 0 {
        rng.random_range(25.0..45.0)
    } else {
        rng.random_range(FAINTEST_DB..25.0)
    };
    let now_db = 20.0 * (own_loudness.peak_rms / ground.median_rms).log10();
    sound::gain(&mut own, ratio_db - now_db);
    let at = (at_s * SAMPLE_RATE_HZ as f32) as usize;
    sound::add_at(&mut samples, &own, at - peak.min(at));
    if narrow {
        samples = sound::band_limit(&samples);
    }
    let loudest = samples.iter().fold(0.0f32, |a, b| a.max(b.abs()));
    if loudest > 1.0 {
        sound::gain(&mut samples, -20.0 * loudest.log10());
    }
    any_gain(&mut samples, rng);
    Some(Rendered {
        samples,
        keep_from: 0,
        onsets: vec![at as u64],
        ends: false,
        only_onsets: true,
        apart_from: Vec::new(),
    })
}

/// Moments of a clip at which its main event sounds; never empty for a clip of 20 ms.
fn onsets(samples: &[f32], far: bool) -> Vec<u64> {
    match Loudness::of(samples) {
        Some(loudness) => {
            let below_db = match far {
                true => SAME_FAR_EVENT_DB.min(SAME_FAR_EVENT_SHARE * loudness.snr_db()),
                false => SAME_EVENT_DB,
            };
            loudness.loud_frames(below_db).map(|at| at as u64).collect()
        }
        // Marks nothing: a silent clip is no example of an event.
        None => vec![u64::MAX / 2],
    }
}

/// RMS that a fifth of the half-seconds stay below.
fn quiet_level(samples: &[f32]) -> f32 {
    let mut levels: Vec<f32> =
        samples.chunks(SAMPLE_RATE_HZ as usize / 2).map(sound::rms).collect();
    levels.sort_by(f32::total_cmp);
    levels.get(levels.len() / 5).copied().unwrap_or(0.0)
}

/// 0…−36 dB, as far as the loudest moment stays above a 16-bit recorder's noise.
fn any_gain(samples: &mut [f32], rng: &mut impl Rng) {
    let loudest = samples.iter().fold(0.0f32, |a, b| a.max(b.abs())).max(1e-9);
    let room_db = (20.0 * loudest.log10() + 60.0).clamp(0.0, 36.0);
    let db = rng.random_range(-1.0..=0.0) * room_db;
    sound::gain(samples, db);
}

fn decode(path: &std::path::Path) -> Result<Vec<f32>, MaterialError> {
    let failed = |source| MaterialError::Decode { path: path.to_owned(), source };
    let mut reader = AudioReader::open(path, &DECODE_LIMITS).map_err(failed)?;
    let mut samples = Vec::new();
    while let Some(block) = reader.next_block().map_err(failed)? {
        samples.extend_from_slice(block);
    }
    let unusable = |what| Err(MaterialError::Unusable { path: path.to_owned(), what });
    if samples.is_empty() {
        return unusable("no sample");
    }
    if samples.iter().any(|sample| !sample.is_finite()) {
        return unusable("a sample that is no number");
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f32::consts::TAU;

    const SECOND: usize = SAMPLE_RATE_HZ as usize;

    fn tone(hz: f32, seconds: usize) -> Vec<f32> {
        (0..seconds * SECOND).map(|i| 0.05 * (TAU * hz * i as f32 / SECOND as f32).sin()).collect()
    }

    /// Level of one frequency in a sound.
    fn level(samples: &[f32], hz: f32) -> f32 {
        let (mut re, mut im) = (0.0, 0.0);
        for (index, sample) in samples.iter().enumerate() {
            let turn = TAU * hz * (index % SECOND) as f32 / SECOND as f32;
            re += sample * turn.cos();
            im += sample * turn.sin();
        }
        re.hypot(im) / samples.len() as f32
    }

    /// A shot and a forest in each of two folds; the forests hum at 700 and at 1100 Hz.
    fn library(labels: &LabelMap) -> Library {
        let clip = |name: &str, label: &str| Clip {
            path: name.into(),
            name: name.into(),
            label: label.into(),
            group: name.into(),
            source: "here".into(),
            ..Clip::default()
        };
        let clips = vec![
            clip("shot0", "gun_shot"),
            clip("forest0", "forest_soundscape"),
            clip("shot1", "gun_shot"),
            clip("forest1", "forest_soundscape"),
        ];
        let mut shot = vec![0.0; 3 * SECOND];
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for (index, sample) in shot[SECOND..2 * SECOND].iter_mut().enumerate() {
            *sample = rng.random_range(-0.8..0.8f32) * (-(index as f32) / 800.0).exp();
        }
        let library = Library::new(clips, vec![0, 0, 1, 1], labels);
        let sounds = [shot.clone(), tone(700.0, 8), shot, tone(1100.0, 8)];
        sounds.into_iter().enumerate().for_each(|(clip, sound)| library.hold(clip, sound));
        library
    }

    #[test]
    fn how_a_clip_is_treated_follows_from_what_the_manifest_says_of_its_recorder() {
        let clip = |source: &str, rate_hz, distance_m| Clip {
            label: "gun_shot".into(),
            source: source.into(),
            rate_hz,
            distance_m,
            ..Clip::default()
        };
        let clips = vec![
            clip("months in a forest", Some(8_000), None),
            clip("months in a forest", Some(8_000), Some(20.0)),
            clip("mixed", Some(8_000), None),
            clip("mixed", Some(44_100), Some(900.0)),
            clip("", None, None),
        ];
        let labels = LabelMap::builtin().unwrap();
        let library = Library::new(clips, vec![0; 5], &labels);
        let told: Vec<(bool, bool)> =
            (0..5).map(|clip| (library.is_narrow(clip), library.is_far(clip))).collect();
        let [no, yes] = [false, true];
        assert_eq!(told, [(yes, yes), (yes, no), (no, no), (no, yes), (no, no)]);
        let limited = |clip| {
            let items = library.items(&labels, Copies::default(), None);
            items.iter().any(|item| item.clip == Some(clip) && item.form == Form::BandLimited)
        };
        assert!(!limited(0) && limited(2), "what is narrow already is not made so again");
    }

    #[test]
    fn whatever_is_mixed_in_comes_from_the_fold_of_the_clip() {
        let labels = LabelMap::builtin().unwrap();
        let library = library(&labels);
        let mut mixed = 0;
        for item in library.items(&labels, Copies::default(), None) {
            // The forests are the only ones of their folds: they have no other to be mixed with.
            let shot = item.class == labels.alerting();
            if !shot || !matches!(item.form, Form::InContext | Form::Mixed) {
                continue;
            }
            let Some(rendered) = library.render(&item, &labels, 1).unwrap() else { continue };
            let past = &rendered.samples[..4 * SECOND];
            let (own, other) = if item.fold == 0 { (700.0, 1100.0) } else { (1100.0, 700.0) };
            assert!(level(past, own) > 20.0 * level(past, other), "{item:?}");
            mixed += 1;
        }
        assert!(mixed > 10);
    }

    #[test]
    fn a_shot_is_marked_where_it_is_and_has_a_past() {
        let labels = LabelMap::builtin().unwrap();
        let library = library(&labels);
        for item in library.items(&labels, Copies::default(), None) {
            if item.clip != Some(0) {
                continue;
            }
            let Some(rendered) = library.render(&item, &labels, 1).unwrap() else { continue };
            let loudness = Loudness::of(&rendered.samples).unwrap();
            let marked = rendered.onsets.iter().any(|at| at.abs_diff(loudness.peak as u64) < 800);
            assert!(marked || loudness.snr_db() < 6.0, "{item:?}: {:?}", rendered.onsets);
            if matches!(item.form, Form::InContext | Form::Mixed) {
                assert!(rendered.onsets.iter().all(|at| *at > 5 * SECOND as u64), "{item:?}");
            }
        }
    }

    #[test]
    fn staged_shots_stay_among_the_surroundings_of_their_fold() {
        let labels = LabelMap::builtin().unwrap();
        let library = library(&labels);
        let copies = Copies { staged: 24, ..Copies::default() };
        let mut among = 0;
        for item in library.items(&labels, copies, None) {
            if item.form != Form::Staged {
                continue;
            }
            let rendered = library.render(&item, &labels, 1).unwrap().unwrap();
            let past = &rendered.samples[..4 * SECOND];
            let (own, other) = if item.fold == 0 { (700.0, 1100.0) } else { (1100.0, 700.0) };
            assert!(level(past, other) < 20.0 * level(past, own), "{item:?}");
            among += usize::from(level(past, own) > 20.0 * level(past, other));
            assert!(rendered.onsets.iter().all(|at| *at > 5 * SECOND as u64), "{item:?}");
            let examples = (0..12).filter_map(|n| rendered.window(n * 7_680)).count();
            assert!((1..=2).contains(&examples), "{item:?}: {examples}");
        }
        assert!((8..24).contains(&among), "{among} of 24 in recorded surroundings");
    }

    #[test]
    fn a_scene_gives_its_shots_and_apart_from_them_its_forest() {
        let labels = LabelMap::builtin().unwrap();
        let library = library(&labels);
        let copies = Copies { scenes: 1, ..Copies::default() };
        let items = library.items(&labels, copies, None);
        let scenes: Vec<&Item> = items.iter().filter(|item| item.form == Form::Scene).collect();
        let [shots, forest] =
            [0, 1].map(|n| library.render(scenes[n], &labels, 1).unwrap().unwrap());
        assert_eq!(scenes[0].class, labels.alerting());
        assert_eq!(shots.samples, forest.samples);
        let windows = 0..(shots.samples.len() - WINDOW_SAMPLES) / 7_680;
        let (mut held, mut clear) = (0, 0);
        for start in windows.map(|n| n as u64 * 7_680) {
            let (shot, apart) = (shots.window(start), forest.window(start));
            assert!(shot.is_none() || apart.is_none(), "{start} is of both");
            held += usize::from(shot == Some(true));
            clear += usize::from(apart == Some(true));
        }
        assert!(held >= 4 && clear >= 20, "{held} with a shot, {clear} without");
    }

    #[test]
    fn windows_without_the_event_are_examples_of_nothing() {
        let rendered = Rendered {
            samples: Vec::new(),
            keep_from: 7680,
            apart_from: Vec::new(),
            onsets: vec![20_000],
            ends: true,
            only_onsets: false,
        };
        assert_eq!(rendered.window(0), None);
        assert_eq!(rendered.window(7_680), Some(true));
        assert_eq!(rendered.window(15_360), Some(true));
        assert_eq!(rendered.window(23_040), Some(false));
        let lasting = Rendered { onsets: Vec::new(), ..rendered };
        assert_eq!(lasting.window(23_040), Some(true));
    }

    #[test]
    fn the_seed_and_nothing_else_decides_a_sound() {
        let labels = LabelMap::builtin().unwrap();
        let item = library(&labels)
            .items(&labels, Copies::default(), None)
            .into_iter()
            .find(|item| item.form == Form::Mixed)
            .unwrap();
        let render = |seed| {
            library(&labels).render(&item, &labels, seed).unwrap().map(|rendered| rendered.samples)
        };
        assert_eq!(render(3), render(3));
        assert_ne!(render(3), render(4));
    }
}
