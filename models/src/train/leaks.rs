//! Path: recordings → **leaks** → split
//!
//! A recording on both sides of a split tests memory. Groups in a manifest keep slices of one
//! recording together; they cannot keep together what nobody knew to be the same: a clip that two
//! collections hold, a louder copy, a second microphone. So recordings are known again by their
//! sound: by pairs of spectral peaks and the time between them, which gain, other sound beside them
//! and a loss of the highs leave as they are (after Wang, An industrial-strength audio search
//! algorithm, 2003).

use std::collections::HashMap;

use rayon::prelude::*;

use super::material::{Library, MaterialError};
use crate::compact::{BANDS, frames_of};

/// A peak is the loudest within so many bands and frames of 20 ms around.
const AROUND: (usize, usize) = (2, 3);
/// … and stands out of its band's median by so much, dB.
const LEAST_DB: f32 = 7.0;
/// A peak is paired with the next so many, from so many frames on and up to so many.
const PAIRS: usize = 4;
const APART: (usize, usize) = (2, 50);
/// Pairs that more places have than this say nothing.
const MOST_PLACES: usize = 600;
/// Two clips are of one recording if so many of their pairs agree in one shift of time, and so large
/// a share of those of the clip that has fewer.
const LEAST_AGREEING: usize = 20;
const LEAST_SHARE: f64 = 0.2;

/// Two clips that sound like one recording.
#[derive(Clone, Debug, PartialEq)]
pub struct Likeness {
    /// Their places in the library, the lower first.
    pub clips: (usize, usize),
    /// Pairs of peaks that agree.
    pub agreeing: usize,
    /// The same as a share of the pairs of the clip that has fewer.
    pub share: f64,
}

impl Likeness {
    /// Whether the folds of the library part them, which makes the cross-validation a test of memory.
    pub fn is_parted(&self, library: &Library) -> bool {
        library.fold()[self.clips.0] != library.fold()[self.clips.1]
    }

    /// Both clips by name and group, for a message.
    pub fn text(&self, library: &Library) -> String {
        let [one, other] = [self.clips.0, self.clips.1].map(|clip| {
            let clip = &library.clips()[clip];
            format!("{} ({})", clip.name, clip.group)
        });
        format!("{:.2} of {} pairs: {one} and {other}", self.share, self.agreeing)
    }
}

/// Two bands and the frames between them, packed; and the first one's frame.
type Landmark = (u32, u32);

/// Clips of different groups that sound like one recording, the most alike first.
///
/// # Errors
/// When a clip cannot be decoded.
pub fn between_groups(library: &Library) -> Result<Vec<Likeness>, MaterialError> {
    let marks: Vec<Vec<Landmark>> = (0..library.clips().len())
        .into_par_iter()
        .map(|clip| Ok(landmarks(&frames_of(&library.sound_once(clip)?))))
        .collect::<Result<_, MaterialError>>()?;
    let mut places: HashMap<u32, Vec<(u32, u32)>> = HashMap::new();
    for (clip, marks) in marks.iter().enumerate() {
        for (pair, at) in marks {
            places.entry(*pair).or_default().push((clip as u32, *at));
        }
    }
    places.retain(|_, places| places.len() <= MOST_PLACES);
    let group = |clip: usize| library.clips()[clip].group.as_str();
    let mut found: Vec<Likeness> = (0..marks.len())
        .into_par_iter()
        .flat_map_iter(|clip| {
            let mut agreeing: HashMap<(u32, i32), usize> = HashMap::new();
            for (pair, at) in &marks[clip] {
                let others = places.get(pair).into_iter().flatten();
                for (other, there) in others.filter(|(other, _)| *other as usize > clip) {
                    *agreeing.entry((*other, *there as i32 - *at as i32)).or_default() += 1;
                }
            }
            let mut best: HashMap<u32, usize> = HashMap::new();
            for ((other, _), count) in agreeing {
                let best = best.entry(other).or_default();
                *best = (*best).max(count);
            }
            let marks = &marks;
            best.into_iter().filter_map(move |(other, agreeing)| {
                let other = other as usize;
                let fewer = marks[clip].len().min(marks[other].len());
                let share = agreeing as f64 / fewer.max(1) as f64;
                let alike = agreeing >= LEAST_AGREEING && share >= LEAST_SHARE;
                (alike && group(clip) != group(other)).then_some(Likeness {
                    clips: (clip, other),
                    agreeing,
                    share,
                })
            })
        })
        .collect();
    found.sort_by(|a, b| b.share.total_cmp(&a.share).then(a.clips.cmp(&b.clips)));
    Ok(found)
}

/// Pairs of peaks of a sound.
fn landmarks(frames: &[[f32; BANDS]]) -> Vec<Landmark> {
    let peaks = peaks(frames);
    let mut marks = Vec::new();
    for (index, (at, band)) in peaks.iter().enumerate() {
        let later = peaks[index + 1..].iter().skip_while(|later| later.0 - at < APART.0);
        for (later, other) in later.take_while(|later| later.0 - at <= APART.1).take(PAIRS) {
            let pair = (band * BANDS + other) * (APART.1 + 1) + (later - at);
            marks.push((pair as u32, *at as u32));
        }
    }
    marks
}

/// Frame and band of each peak, in the order of frames.
fn peaks(frames: &[[f32; BANDS]]) -> Vec<(usize, usize)> {
    let medians: [f32; BANDS] = std::array::from_fn(|band| {
        let mut levels: Vec<f32> = frames.iter().map(|frame| frame[band]).collect();
        levels.sort_by(f32::total_cmp);
        levels.get(levels.len() / 2).copied().unwrap_or(0.0)
    });
    let mut peaks = Vec::new();
    for (at, frame) in frames.iter().enumerate() {
        let beside = &frames[at.saturating_sub(AROUND.1)..(at + AROUND.1 + 1).min(frames.len())];
        for (band, &level) in frame.iter().enumerate() {
            let bands = band.saturating_sub(AROUND.0)..(band + AROUND.0 + 1).min(BANDS);
            let highest = || beside.iter().flat_map(|other| &other[bands.clone()]);
            if level - medians[band] >= LEAST_DB && highest().all(|other| *other <= level) {
                peaks.push((at, band));
            }
        }
    }
    peaks
}

#[cfg(test)]
mod tests {
    use super::super::dataset::Clip;
    use super::super::labels::LabelMap;
    use super::super::sound;
    use super::*;
    use crate::scene::{Chance, Scene, SceneConfig};

    /// Clips by name: scenes and what was made of them, each its own group but for the last.
    fn library() -> Library {
        let scene = |seed: u64| {
            let mut scene = Scene::new(SceneConfig {
                seed,
                duration_s: Some(12.0),
                first_shot_s: Some(4.0),
                ..SceneConfig::default()
            });
            let mut samples = vec![0.0; 12 * 16_000];
            scene.render(&mut samples);
            samples
        };
        let (first, second, third) = (scene(1), scene(2), scene(3));
        let mut copy = sound::band_limit(&first[16_000 * 2 + 1_234..16_000 * 9]);
        sound::gain(&mut copy, -14.0);
        let mut chance = Chance::new(5);
        copy.iter_mut().for_each(|sample| *sample += 3e-5 * chance.white());
        let sounds = [
            ("a", first, "1"),
            ("b", second.clone(), "2"),
            ("c", third, "3"),
            ("copy", copy, "4"),
            ("slice", second[16_000..].to_vec(), "2"),
        ];
        let clips = sounds.iter().map(|(name, _, group)| Clip {
            path: (*name).into(),
            name: (*name).to_owned(),
            label: "forest".to_owned(),
            group: (*group).to_owned(),
            ..Clip::default()
        });
        let labels = LabelMap::builtin().unwrap();
        let library = Library::new(clips.collect(), vec![0; sounds.len()], &labels);
        for (clip, (_, samples, _)) in sounds.into_iter().enumerate() {
            library.hold(clip, samples);
        }
        library
    }

    #[test]
    fn a_quieter_band_limited_slice_of_another_clip_is_known_again_and_nothing_else() {
        let found = between_groups(&library()).unwrap();
        let clips: Vec<(usize, usize)> = found.iter().map(|found| found.clips).collect();
        assert_eq!(clips, [(0, 3)], "{found:?}");
        assert!(
            found[0].text(&library()).ends_with("a (1) and copy (4)"),
            "{}",
            found[0].text(&library())
        );
    }
}
