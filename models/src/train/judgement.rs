//! Path: out-of-fold scores → this → what is believed of the head
//!
//! A clip is judged as the detector would judge it: by the highest mean of two neighbouring
//! windows. Rates are per hour over all clips that hold no alert, as files are and band-limited.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::{Array2, Axis};
use serde::{Deserialize, Serialize};

use super::breakdown::{self, AlikeLine};
use super::dataset::Clip;
use super::labels::{Class, LabelMap};
use super::material::Form;
use super::net::softmax;
use super::table::Table;
use crate::eval::{self, Confusion};

/// Neighbouring windows whose mean decides.
pub const CONFIRM_WINDOWS: usize = 2;
/// Rates that thresholds are given for, false alarms per hour.
pub const RATES_PER_HOUR: [f64; 4] = [0.33, 1.0, 3.0, 10.0];
/// Rates that a curve is drawn through.
const CURVE_PER_HOUR: [f64; 14] =
    [0.2, 0.4, 0.6, 1.0, 1.4, 2.0, 3.0, 4.0, 6.0, 10.0, 15.0, 20.0, 40.0, 60.0];
/// Sound that each window adds to a stream, hours.
pub const HOP_HOURS: f64 = crate::HOP_SAMPLES as f64 / (crate::SAMPLE_RATE_HZ as f64 * 3600.0);
/// Label of what a recorder gives when it hears nothing; made here, no recordings are needed.
pub const SILENCE: &str = "silence";
/// Precision that the thresholds of classes which do not alert are chosen for, the least of them,
/// and that of a class with too few recordings to choose one by.
const OTHER_PRECISION: f64 = 0.8;
const LEAST_OTHER: f32 = 0.3;
const CAUTIOUS: f32 = 0.9;
/// Bins of the calibration error.
const BINS: usize = 15;
const BOOTSTRAP_DRAWS: usize = 1000;
/// Part of the exact intervals that holds the true rate.
const CONFIDENCE: f64 = 0.95;
/// Points that a precision-recall curve is drawn through, one for each such step of recall.
const PRECISION_STEPS: f64 = 100.0;

/// One clip in one form.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Index in the data set.
    pub clip: usize,
    /// Its form.
    pub form: Form,
    /// Its class.
    pub class: usize,
    /// Per class: highest mean of neighbouring windows.
    pub peak: Vec<f32>,
    /// Per class: mean over windows.
    pub mean: Vec<f32>,
    /// Length, hours.
    pub hours: f64,
}

/// Hits of some positives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recall {
    /// Source of the recordings.
    pub source: String,
    /// Form they were heard in.
    pub form: Form,
    /// Clips.
    pub clips: usize,
    /// Recording groups.
    pub groups: usize,
    /// Clips that alarm.
    pub hits: usize,
    /// Share of them.
    pub recall: f64,
    /// 95 % bootstrap interval over recording groups.
    pub interval: Option<[f64; 2]>,
}

/// What one threshold does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RatePoint {
    /// Rate that the threshold was chosen for, false alarms per hour.
    pub per_hour: Option<f64>,
    /// The threshold on the mean of two windows.
    pub threshold: f32,
    /// False alarms over all background.
    pub false_alarms: usize,
    /// 95 % interval of their rate per hour, exact where they come by chance (Poisson).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_per_hour: Option<[f64; 2]>,
    /// Recall over all sources, in the form of the files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overall: Option<Recall>,
    /// False alarms by label of the background.
    pub by_label: BTreeMap<String, usize>,
    /// Recall by source and form.
    pub recall: Vec<Recall>,
}

/// What a threshold between the rates gives and costs, in the form of the files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// False alarms per hour that were allowed.
    pub per_hour: f64,
    /// Recall by source.
    pub recall: BTreeMap<String, f64>,
}

/// Background of one label.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Clips, each counted in every form that rates are counted on.
    pub clips: usize,
    /// Their hours.
    pub hours: f64,
}

/// A point of the precision-recall curve of the alerting class over clips.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrecisionPoint {
    /// Lowest score that is called a member.
    pub threshold: f32,
    /// Share of the called that is.
    pub precision: f64,
    /// Share of the members that is called.
    pub recall: f64,
}

/// One class, clip by clip, at the thresholds of the rules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassLine {
    /// Its name.
    pub class: String,
    /// Clips.
    pub clips: u64,
    /// Recording groups.
    pub groups: usize,
    /// Share of calls that were right.
    pub precision: Option<f64>,
    /// Share of clips that were called.
    pub recall: Option<f64>,
    /// Their harmonic mean.
    pub f1: Option<f64>,
    /// Area under the precision-recall curve of its clip score.
    pub average_precision: Option<f64>,
    /// Area under its ROC curve.
    pub roc_auc: Option<f64>,
}

/// All that is measured of a head by cross-validation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// Hours of background behind the rates.
    pub background_hours: f64,
    /// Clips of background behind the rates.
    pub background_clips: usize,
    /// The same by label.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub background_by_label: BTreeMap<String, Measured>,
    /// Thresholds of the alerting class and what they do.
    pub rates: Vec<RatePoint>,
    /// Recall against false alarms.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<CurvePoint>,
    /// Precision against recall, over clips in their own form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub precision_recall: Vec<PrecisionPoint>,
    /// Recall by what the recorder's rate was, where the manifest says it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_sampling_rate: Vec<AlikeLine>,
    /// Recall by distance, where the manifest says it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_distance: Vec<AlikeLine>,
    /// Average precision of the alerting class over clips, in their own form.
    pub average_precision: Option<f64>,
    /// ROC area of the same.
    pub roc_auc: Option<f64>,
    /// Clip by clip, in their own form.
    pub classes: Vec<ClassLine>,
    /// Share of clips called right.
    pub accuracy: Option<f64>,
    /// Rows: true class; columns: called class.
    pub confusion: Vec<Vec<u64>>,
}

/// Sums up the windows of each clip. `logits` are divided by `temperature` first.
pub fn heard(table: &Table, logits: &Array2<f32>, temperature: f32) -> Vec<Heard> {
    let mut scores = logits / temperature;
    softmax(&mut scores);
    table
        .item_rows()
        .into_iter()
        .filter_map(|rows| {
            let item = &table.items[table.rows[rows.start].item];
            let clip = item.clip?;
            if item.form == Form::Mixed {
                return None;
            }
            let windows = scores.slice(ndarray::s![rows.clone(), ..]);
            let peak = windows
                .columns()
                .into_iter()
                .map(|column| eval::paired_peak(&column.to_vec(), CONFIRM_WINDOWS))
                .collect();
            Some(Heard {
                clip,
                form: item.form,
                class: item.class,
                peak,
                mean: windows.mean_axis(Axis(0)).map_or_else(Vec::new, |mean| mean.to_vec()),
                hours: rows.len() as f64 * HOP_HOURS,
            })
        })
        .collect()
}

/// Class that a clip is called: the sparse class that stands out most over its threshold, else
/// the class of its windows' mean.
pub fn called(heard: &Heard, labels: &LabelMap, thresholds: &[f32]) -> usize {
    let best = |among: &mut dyn Iterator<Item = (usize, f32)>| {
        among.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(class, _)| class)
    };
    let mut events = (0..labels.classes.len())
        .filter(|&class| labels.classes[class].sparse && heard.peak[class] >= thresholds[class])
        .map(|class| (class, heard.peak[class] - thresholds[class]));
    let mut lasting = (0..labels.classes.len())
        .filter(|&class| !labels.classes[class].sparse)
        .map(|class| (class, heard.mean[class]));
    best(&mut events).or_else(|| best(&mut lasting)).unwrap_or(labels.rest())
}

/// Background that rates are counted on: what holds no alert, as files are and band-limited.
fn background(heard: &[Heard], alerting: usize) -> Vec<&Heard> {
    heard
        .iter()
        .filter(|one| one.class != alerting && matches!(one.form, Form::Plain | Form::BandLimited))
        .collect()
}

/// Threshold of the alerting class for a rate of false alarms; `None` without background.
pub fn rate_threshold(heard: &[Heard], labels: &LabelMap, per_hour: f64) -> Option<f32> {
    let alerting = labels.alerting();
    let background = background(heard, alerting);
    let scores: Vec<f32> = background.iter().map(|one| one.peak[alerting]).collect();
    eval::alarm_threshold(&scores, background.iter().map(|one| one.hours).sum(), per_hour)
}

/// Threshold of every class that may raise events, given that of the alerting one: silence and the
/// rest never do.
pub fn thresholds(heard: &[Heard], labels: &LabelMap, alert: f32) -> Vec<Option<f32>> {
    let threshold = |(index, class): (usize, &Class)| match class {
        _ if index == labels.alerting() => Some(alert),
        class if class.rest || class.labels.iter().any(|label| label == SILENCE) => None,
        _ => precise_threshold(heard, index, OTHER_PRECISION)
            .map(|threshold| threshold.max(LEAST_OTHER))
            .or(Some(CAUTIOUS)),
    };
    labels.classes.iter().enumerate().map(threshold).collect()
}

/// What a threshold of the alerting class does; `per_hour` is the rate it was chosen for, if it was.
pub fn rate_point(
    clips: &[Clip],
    labels: &LabelMap,
    heard: &[Heard],
    threshold: f32,
    per_hour: Option<f64>,
) -> RatePoint {
    let alerting = labels.alerting();
    let background = background(heard, alerting);
    let mut by_label: BTreeMap<String, usize> = BTreeMap::new();
    for one in background.iter().filter(|one| one.peak[alerting] >= threshold) {
        *by_label.entry(clips[one.clip].label.clone()).or_default() += 1;
    }
    let false_alarms = by_label.values().sum();
    let hours: f64 = background.iter().map(|one| one.hours).sum();
    let interval = eval::poisson_interval(false_alarms as u64, CONFIDENCE);
    let plain: Vec<&Heard> =
        heard.iter().filter(|one| one.class == alerting && one.form == Form::Plain).collect();
    RatePoint {
        per_hour,
        threshold,
        false_alarms,
        interval_per_hour: (hours > 0.0).then(|| interval.map(|count| count / hours)),
        overall: (!plain.is_empty())
            .then(|| recall(clips, &plain, ("all sources", Form::Plain), alerting, threshold)),
        by_label,
        recall: recalls(clips, heard, alerting, threshold),
    }
}

/// Judges the alerting class and all others. `thresholds` (one per class) are those that clips are
/// called by.
pub fn judge(clips: &[Clip], labels: &LabelMap, heard: &[Heard], thresholds: &[f32]) -> Judgement {
    let alerting = labels.alerting();
    let background = background(heard, alerting);
    let rates: Vec<RatePoint> = RATES_PER_HOUR
        .iter()
        .filter_map(|&per_hour| {
            let threshold = rate_threshold(heard, labels, per_hour)?;
            Some(rate_point(clips, labels, heard, threshold, Some(per_hour)))
        })
        .collect();
    let mut background_by_label: BTreeMap<String, Measured> = BTreeMap::new();
    for one in &background {
        let own = background_by_label.entry(clips[one.clip].label.clone()).or_default();
        own.clips += 1;
        own.hours += one.hours;
    }
    let plain: Vec<&Heard> = heard.iter().filter(|one| one.form == Form::Plain).collect();
    let curve = CURVE_PER_HOUR
        .iter()
        .filter_map(|&per_hour| {
            let threshold = rate_threshold(heard, labels, per_hour)?;
            let mut hits: BTreeMap<String, (usize, usize)> = BTreeMap::new();
            for one in plain.iter().filter(|one| one.class == alerting) {
                let own = hits.entry(clips[one.clip].source.clone()).or_default();
                own.0 += usize::from(one.peak[alerting] >= threshold);
                own.1 += 1;
            }
            let share = |(source, (hits, clips))| (source, hits as f64 / clips as f64);
            Some(CurvePoint { per_hour, recall: hits.into_iter().map(share).collect() })
        })
        .collect();
    let ranking = |class: usize| {
        let scores: Vec<f32> = plain.iter().map(|one| one.peak[class]).collect();
        let positive: Vec<bool> = plain.iter().map(|one| one.class == class).collect();
        (eval::average_precision(&scores, &positive), eval::roc_auc(&scores, &positive))
    };
    let mut confusion = Confusion::new(labels.classes.len());
    for one in &plain {
        confusion.record(one.class, called(one, labels, thresholds));
    }
    let classes = (0..labels.classes.len())
        .map(|class| {
            let report = confusion.class(class);
            let (average_precision, roc_auc) = ranking(class);
            let groups: BTreeSet<&str> = plain
                .iter()
                .filter(|one| one.class == class)
                .map(|one| clips[one.clip].group.as_str())
                .collect();
            ClassLine {
                class: labels.classes[class].name.clone(),
                clips: report.support,
                groups: groups.len(),
                precision: report.precision,
                recall: report.recall,
                f1: report.f1,
                average_precision,
                roc_auc,
            }
        })
        .collect();
    let (average_precision, roc_auc) = ranking(alerting);
    let members: Vec<&Heard> = plain.iter().copied().filter(|one| one.class == alerting).collect();
    Judgement {
        background_hours: background.iter().map(|one| one.hours).sum(),
        background_clips: background.len(),
        background_by_label,
        by_sampling_rate: breakdown::by_sampling_rate(clips, &members, alerting, &rates),
        by_distance: breakdown::by_distance(clips, &members, alerting, &rates),
        precision_recall: precision_recall(&plain, alerting),
        rates,
        curve,
        average_precision,
        roc_auc,
        classes,
        accuracy: confusion.accuracy(),
        confusion: confusion.rows().map(<[u64]>::to_vec).collect(),
    }
}

/// The curve, thinned: of points whose recall is nearly the same the last.
fn precision_recall(plain: &[&Heard], alerting: usize) -> Vec<PrecisionPoint> {
    let scores: Vec<f32> = plain.iter().map(|one| one.peak[alerting]).collect();
    let positive: Vec<bool> = plain.iter().map(|one| one.class == alerting).collect();
    let mut thinned: BTreeMap<u32, PrecisionPoint> = BTreeMap::new();
    for point in eval::precision_recall_curve(&scores, &positive) {
        let eval::PrecisionRecall { threshold, precision, recall } = point;
        let step = (recall * PRECISION_STEPS) as u32;
        // All that is called beyond the last member costs precision and gives nothing.
        let ends = thinned.get(&step).is_some_and(|last| recall >= 1.0 && last.recall >= 1.0);
        if !ends {
            thinned.insert(step, PrecisionPoint { threshold, precision, recall });
        }
    }
    thinned.into_values().collect()
}

fn recalls(clips: &[Clip], heard: &[Heard], alerting: usize, threshold: f32) -> Vec<Recall> {
    let mut sets: BTreeMap<(&str, Form), Vec<&Heard>> = BTreeMap::new();
    for one in heard.iter().filter(|one| one.class == alerting) {
        let source = clips[one.clip].source.as_str();
        sets.entry((source, one.form)).or_default().push(one);
    }
    sets.into_iter().map(|(own, set)| recall(clips, &set, own, alerting, threshold)).collect()
}

/// Hits of a set of members, which has a name and a form.
fn recall(
    clips: &[Clip],
    set: &[&Heard],
    (source, form): (&str, Form),
    alerting: usize,
    threshold: f32,
) -> Recall {
    let hit: Vec<bool> = set.iter().map(|one| one.peak[alerting] >= threshold).collect();
    let mut numbers = BTreeMap::new();
    let groups: Vec<usize> = set
        .iter()
        .map(|one| {
            let next = numbers.len();
            *numbers.entry(clips[one.clip].group.as_str()).or_insert(next)
        })
        .collect();
    let share = |drawn: &[usize]| {
        let hits = drawn.iter().filter(|&&index| hit[index]).count();
        (!drawn.is_empty()).then(|| hits as f64 / drawn.len() as f64)
    };
    let hits = hit.iter().filter(|hit| **hit).count();
    Recall {
        source: source.to_owned(),
        form,
        clips: set.len(),
        groups: numbers.len(),
        hits,
        recall: hits as f64 / set.len() as f64,
        interval: eval::bootstrap_by_group(&groups, BOOTSTRAP_DRAWS, 1, share)
            .map(|interval| [interval.low, interval.high]),
    }
}

/// Expected calibration error of the highest class score of windows that are examples, in the form
/// of their files.
pub fn calibration_error(table: &Table, logits: &Array2<f32>, temperature: f32) -> Option<f64> {
    let (confidence, correct) = confidence(table, logits, temperature);
    eval::expected_calibration_error(&confidence, &correct, BINS)
}

/// The bins behind that: how often the class with the highest score was right.
pub fn reliability(
    table: &Table,
    logits: &Array2<f32>,
    temperature: f32,
) -> Vec<eval::CalibrationBin> {
    let (confidence, correct) = confidence(table, logits, temperature);
    eval::reliability(&confidence, &correct, BINS)
}

fn confidence(table: &Table, logits: &Array2<f32>, temperature: f32) -> (Vec<f32>, Vec<bool>) {
    let rows: Vec<usize> = (0..table.rows.len())
        .filter(|&row| {
            table.rows[row].example && table.items[table.rows[row].item].form == Form::Plain
        })
        .collect();
    let mut scores = logits.select(Axis(0), &rows) / temperature;
    softmax(&mut scores);
    let judged = |(score, &row): (ndarray::ArrayView1<'_, f32>, &usize)| {
        let (called, highest) = score
            .iter()
            .enumerate()
            .fold((0, 0.0f32), |best, (class, &s)| if s > best.1 { (class, s) } else { best });
        (highest, called == table.rows[row].class)
    };
    scores.outer_iter().zip(&rows).map(judged).unzip()
}

/// Threshold of a class that does not alert: the lowest at which at least `precision` of the clips
/// that reach it are of the class; `None` when no threshold with at least five hits does.
pub fn precise_threshold(heard: &[Heard], class: usize, precision: f64) -> Option<f32> {
    let plain: Vec<&Heard> = heard.iter().filter(|one| one.form == Form::Plain).collect();
    let scores: Vec<f32> = plain.iter().map(|one| one.peak[class]).collect();
    let positive: Vec<bool> = plain.iter().map(|one| one.class == class).collect();
    let total = positive.iter().filter(|positive| **positive).count();
    eval::precision_recall_curve(&scores, &positive)
        .into_iter()
        .filter(|point| point.precision >= precision && point.recall * total as f64 >= 4.99)
        .map(|point| point.threshold)
        .reduce(f32::min)
}
