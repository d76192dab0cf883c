//! Path: judged clips → **breakdown** → what is believed of the head
//!
//! Recall by what sounds have in common: how far they stand out, the recorder's rate, their distance.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::dataset::Clip;
use super::judgement::{Heard, RatePoint};
use super::material::{Form, Library, MaterialError};
use super::sound::Loudness;

/// Where one group of transient signal-to-noise ratios ends and the next begins, dB.
const TRANSIENT_STEPS_DB: [f32; 4] = [10.0, 15.0, 20.0, 25.0];
/// The same of distances, metres.
const DISTANCE_STEPS_M: [f32; 4] = [100.0, 300.0, 1_000.0, 3_000.0];

/// Recall of sounds that stand out of their surroundings by about as much.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransientLine {
    /// Source of the recordings.
    pub source: String,
    /// Least transient signal-to-noise ratio of these clips, dB.
    pub from_db: f32,
    /// Clips.
    pub clips: usize,
    /// Recall at each of the rates.
    pub recall: Vec<f64>,
}

/// Recall of sounds that were recorded alike, in the form of the files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlikeLine {
    /// What they share, such as `8000 Hz`.
    pub what: String,
    /// Clips.
    pub clips: usize,
    /// Recording groups.
    pub groups: usize,
    /// Recall at each of the rates.
    pub recall: Vec<f64>,
}

/// Recall by how far the loudest 20 ms (100-1500 Hz) stand out of the clip's median, at the
/// thresholds of `rates`. `ratio_db` holds that for clips of the alerting class, by index.
pub fn by_transient(
    clips: &[Clip],
    heard: &[Heard],
    alerting: usize,
    ratio_db: &BTreeMap<usize, f32>,
    rates: &[RatePoint],
) -> Vec<TransientLine> {
    let mut sets: BTreeMap<(&str, usize), Vec<&Heard>> = BTreeMap::new();
    for one in heard.iter().filter(|one| one.class == alerting && one.form == Form::Plain) {
        let Some(&ratio) = ratio_db.get(&one.clip) else { continue };
        let step = TRANSIENT_STEPS_DB.iter().filter(|step| ratio >= **step).count();
        sets.entry((clips[one.clip].source.as_str(), step)).or_default().push(one);
    }
    sets.into_iter()
        .map(|((source, step), set)| TransientLine {
            source: source.to_owned(),
            from_db: step.checked_sub(1).map_or(0.0, |step| TRANSIENT_STEPS_DB[step]),
            clips: set.len(),
            recall: rates
                .iter()
                .map(|rate| {
                    let hits = set.iter().filter(|one| one.peak[alerting] >= rate.threshold);
                    hits.count() as f64 / set.len() as f64
                })
                .collect(),
        })
        .collect()
}

/// How far the loudest 20 ms (100-1500 Hz) of each clip of a class stand out of its median, dB, by
/// the clip's index; clips in which nothing does are left out.
///
/// # Errors
/// When a clip cannot be decoded.
pub fn transient_ratios(
    library: &Library,
    class: usize,
) -> Result<BTreeMap<usize, f32>, MaterialError> {
    let mut ratio_db = BTreeMap::new();
    for clip in (0..library.clips().len()).filter(|&clip| library.class(clip) == class) {
        if let Some(loudness) = Loudness::of(&library.sound(clip)?) {
            ratio_db.insert(clip, loudness.snr_db());
        }
    }
    Ok(ratio_db)
}

/// Recall by the rate of the recorder; nothing where the manifest does not say it.
pub(super) fn by_sampling_rate(
    clips: &[Clip],
    members: &[&Heard],
    alerting: usize,
    rates: &[RatePoint],
) -> Vec<AlikeLine> {
    by_likeness(clips, members, alerting, rates, |clip| {
        clip.rate_hz.map(|rate_hz| (rate_hz, format!("{rate_hz} Hz")))
    })
}

/// Recall by distance; nothing where the manifest does not say it.
pub(super) fn by_distance(
    clips: &[Clip],
    members: &[&Heard],
    alerting: usize,
    rates: &[RatePoint],
) -> Vec<AlikeLine> {
    by_likeness(clips, members, alerting, rates, |clip| {
        let distance_m = clip.distance_m?;
        let step = DISTANCE_STEPS_M.iter().filter(|step| distance_m >= **step).count();
        let from_m = step.checked_sub(1).map_or(0.0, |step| DISTANCE_STEPS_M[step]);
        Some((step as u32, format!("from {from_m:.0} m")))
    })
}

/// Recall of members of the alerting class by what `own` says of their clips: an order and a name.
fn by_likeness(
    clips: &[Clip],
    members: &[&Heard],
    alerting: usize,
    rates: &[RatePoint],
    own: impl Fn(&Clip) -> Option<(u32, String)>,
) -> Vec<AlikeLine> {
    let mut sets: BTreeMap<(u32, String), Vec<&Heard>> = BTreeMap::new();
    for one in members {
        if let Some(own) = own(&clips[one.clip]) {
            sets.entry(own).or_default().push(one);
        }
    }
    sets.into_iter()
        .map(|((_, what), set)| {
            let groups: BTreeSet<&str> =
                set.iter().map(|one| clips[one.clip].group.as_str()).collect();
            let recall = |rate: &RatePoint| {
                let hits = set.iter().filter(|one| one.peak[alerting] >= rate.threshold);
                hits.count() as f64 / set.len() as f64
            };
            AlikeLine {
                what,
                clips: set.len(),
                groups: groups.len(),
                recall: rates.iter().map(recall).collect(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sounds_are_grouped_by_what_the_manifest_says_and_left_out_where_it_says_nothing() {
        let clip = |group: &str, rate_hz, distance_m| Clip {
            group: group.to_owned(),
            rate_hz,
            distance_m,
            ..Clip::default()
        };
        let clips = [
            clip("a", Some(8_000), Some(1_200.0)),
            clip("a", Some(8_000), Some(40.0)),
            clip("b", Some(44_100), None),
            clip("c", None, Some(1_000.0)),
        ];
        let heard: Vec<Heard> = [0.9, 0.2, 0.9, 0.4]
            .iter()
            .enumerate()
            .map(|(clip, &peak)| Heard {
                clip,
                form: Form::Plain,
                class: 0,
                peak: vec![peak],
                mean: vec![peak],
                hours: 0.001,
            })
            .collect();
        let members: Vec<&Heard> = heard.iter().collect();
        let rate = RatePoint {
            per_hour: Some(1.0),
            threshold: 0.5,
            false_alarms: 0,
            interval_per_hour: None,
            overall: None,
            by_label: BTreeMap::new(),
            recall: Vec::new(),
        };
        let line = |what: &str, clips, groups, recall: f64| AlikeLine {
            what: what.to_owned(),
            clips,
            groups,
            recall: vec![recall],
        };
        let rates = [rate];
        assert_eq!(
            by_sampling_rate(&clips, &members, 0, &rates),
            [line("8000 Hz", 2, 1, 0.5), line("44100 Hz", 1, 1, 1.0)]
        );
        assert_eq!(
            by_distance(&clips, &members, 0, &rates),
            [line("from 0 m", 1, 1, 0.0), line("from 1000 m", 2, 2, 0.5)]
        );
    }
}
