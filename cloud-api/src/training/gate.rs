//! Whether a candidate takes the incumbent's place. Pure: what both said to the same sounds goes in, a
//! decision with its numbers and its reason in a sentence comes out.
//!
//! Each model is taken as it would run, at the thresholds in its own bundle. A sound of the frozen test
//! set that holds an alerting class is recalled if that class alerts; any alert in a sound that holds
//! none, of the test set or of the site's recent background, is a false alarm. The candidate passes if
//!
//! 1. it still alerts by every class that the incumbent alerts by,
//! 2. its recall is not worse: the 95 % interval of the difference, by bootstrap over recordings, does
//!    not lie below zero. With fewer than [`ENOUGH_RECORDINGS`] recordings that interval is too wide to
//!    protect anybody, and no loss at all is taken;
//! 3. its false alarms are not more, neither on the test set nor on the recent background.

use std::collections::BTreeMap;

use ecosight_models::eval::bootstrap_by_group;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Fewer recordings of alerting classes than this leave no room for doubt.
pub const ENOUGH_RECORDINGS: usize = 10;
const DRAWS: usize = 2_000;
/// Flipped sounds that are listed; all are counted.
const LISTED: usize = 200;

/// A sound with what is known of it and what both models said.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// Of the sample, or of the event.
    pub id: String,
    /// The recording that it is of.
    pub group: String,
    /// What is heard in it.
    pub class: String,
    /// Whether it is of the frozen test set; else recent background.
    pub test: bool,
    /// Classes that the incumbent alerts by, and its highest score.
    pub incumbent: (Vec<String>, f32),
    /// The same of the candidate.
    pub candidate: (Vec<String>, f32),
}

/// A model that was judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Contender {
    /// SHA-256 of its bundle.
    pub sha256: String,
    /// Its version.
    pub version: String,
    /// Classes that it alerts by.
    pub alerting: Vec<String>,
    /// All its classes.
    pub classes: Vec<String>,
}

/// What the gate measured and decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Decision {
    /// Whether the candidate takes the incumbent's place.
    pub passed: bool,
    /// Why, in a sentence.
    pub sentence: String,
    /// SHA-256 over the test set: id, class and recording of every sound.
    pub test_sha256: String,
    /// Sounds of alerting classes in the test set.
    pub positives: usize,
    /// The recordings that they are of.
    pub positive_recordings: usize,
    /// Other sounds in the test set.
    pub negatives: usize,
    /// Sounds of recent background.
    pub recent: usize,
    /// Sounds that could not be read.
    pub unread: usize,
    /// What serves.
    pub incumbent: Line,
    /// What would.
    pub candidate: Line,
    /// 95 % interval of the candidate's recall less the incumbent's; none with too few recordings.
    pub interval: Option<[f64; 2]>,
    /// Sounds that the two call differently.
    pub flips: usize,
    /// The first of those.
    pub flipped: Vec<Flip>,
}

/// One model's numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Line {
    /// SHA-256 of its bundle.
    pub sha256: String,
    /// Its version.
    pub version: String,
    /// Sounds of alerting classes that it alerts by.
    pub hits: usize,
    /// Share of them.
    pub recall: f64,
    /// Alerts in sounds of the test set that hold none.
    pub false_alarms: usize,
    /// Alerts in recent background.
    pub recent_false_alarms: usize,
}

/// A sound that the two call differently.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Flip {
    /// Of the sample, or of the event.
    pub id: String,
    /// What is heard in it.
    pub class: String,
    /// `test` or `recent`.
    pub of: String,
    /// `found`, `lost`, `false_alarm_gone` or `new_false_alarm`.
    pub change: String,
    /// Highest score of the incumbent.
    pub incumbent_score: f32,
    /// Highest score of the candidate.
    pub candidate_score: f32,
}

/// Decides. `seed` decides the draws of the bootstrap.
#[must_use]
pub fn decide(
    incumbent: &Contender,
    candidate: &Contender,
    trials: &[Trial],
    unread: usize,
    test_sha256: String,
    seed: u64,
) -> Decision {
    let is_positive = |trial: &Trial| trial.test && incumbent.alerting.contains(&trial.class);
    let right = |trial: &Trial, said: &(Vec<String>, f32)| match is_positive(trial) {
        true => said.0.contains(&trial.class),
        false => said.0.is_empty(),
    };
    let positives: Vec<&Trial> = trials.iter().filter(|trial| is_positive(trial)).collect();
    let line = |model: &Contender, said: fn(&Trial) -> &(Vec<String>, f32)| {
        let hits = positives.iter().filter(|trial| right(trial, said(trial))).count();
        let alarms = |test: bool| {
            let of_kind = trials.iter().filter(|trial| trial.test == test && !is_positive(trial));
            of_kind.filter(|trial| !right(trial, said(trial))).count()
        };
        Line {
            sha256: model.sha256.clone(),
            version: model.version.clone(),
            hits,
            recall: hits as f64 / positives.len().max(1) as f64,
            false_alarms: alarms(true),
            recent_false_alarms: alarms(false),
        }
    };
    let before = line(incumbent, |trial| &trial.incumbent);
    let after = line(candidate, |trial| &trial.candidate);
    let mut numbers = BTreeMap::new();
    let groups: Vec<usize> = positives
        .iter()
        .map(|trial| {
            let next = numbers.len();
            *numbers.entry(trial.group.as_str()).or_insert(next)
        })
        .collect();
    let step = |trial: &Trial| {
        let hit = |said| f64::from(u8::from(right(trial, said)));
        hit(&trial.candidate) - hit(&trial.incumbent)
    };
    let mean = |drawn: &[usize]| {
        let sum: f64 = drawn.iter().map(|place| step(positives[*place])).sum();
        (!drawn.is_empty()).then(|| sum / drawn.len() as f64)
    };
    let interval = (numbers.len() >= ENOUGH_RECORDINGS)
        .then(|| bootstrap_by_group(&groups, DRAWS, seed, mean))
        .flatten()
        .map(|interval| [interval.low, interval.high]);
    let flips: Vec<Flip> = trials
        .iter()
        .filter_map(|trial| {
            let (was, is) = (right(trial, &trial.incumbent), right(trial, &trial.candidate));
            (was != is).then(|| flip(trial, is_positive(trial), is))
        })
        .collect();
    let count = |test: bool| {
        trials.iter().filter(|trial| trial.test == test && !is_positive(trial)).count()
    };
    let mut decision = Decision {
        passed: false,
        sentence: String::new(),
        test_sha256,
        positives: positives.len(),
        positive_recordings: numbers.len(),
        negatives: count(true),
        recent: count(false),
        unread,
        incumbent: before,
        candidate: after,
        interval,
        flips: flips.len(),
        flipped: flips.into_iter().take(LISTED).collect(),
    };
    let refusal = refusal(incumbent, candidate, &decision);
    decision.passed = refusal.is_none();
    decision.sentence = refusal.unwrap_or_else(|| praise(incumbent, candidate, &decision));
    decision
}

fn flip(trial: &Trial, positive: bool, is_right: bool) -> Flip {
    let change = match (positive, is_right) {
        (true, true) => "found",
        (true, false) => "lost",
        (false, true) => "false_alarm_gone",
        (false, false) => "new_false_alarm",
    };
    Flip {
        id: trial.id.clone(),
        class: trial.class.clone(),
        of: if trial.test { "test" } else { "recent" }.into(),
        change: change.into(),
        incumbent_score: trial.incumbent.1,
        candidate_score: trial.candidate.1,
    }
}

/// The first reason against the candidate.
fn refusal(incumbent: &Contender, candidate: &Contender, told: &Decision) -> Option<String> {
    let version = &candidate.version;
    let kept = |what: String| Some(format!("{} stays: {what}.", incumbent.version));
    let gone: Vec<&str> = incumbent
        .alerting
        .iter()
        .filter(|class| !candidate.alerting.contains(class))
        .map(String::as_str)
        .collect();
    if !gone.is_empty() {
        return kept(format!("{version} no longer alerts by {}", gone.join(", ")));
    }
    if told.positives == 0 || told.negatives == 0 {
        return kept(format!(
            "the test set holds {} sounds that should alert and {} that should not, so nothing can \
             be said of {version}",
            told.positives, told.negatives
        ));
    }
    let (before, after) = (&told.incumbent, &told.candidate);
    let of = told.positives;
    let worse = match told.interval {
        Some([_, high]) => high < 0.0,
        None => after.hits < before.hits,
    };
    if worse {
        let doubt = match told.interval {
            Some([low, high]) => format!(
                "a loss of {:.0} to {:.0} points of recall, beyond what chance explains",
                -100.0 * high,
                -100.0 * low
            ),
            None => format!(
                "and with {} recordings no loss is taken for chance",
                told.positive_recordings
            ),
        };
        return kept(format!(
            "{version} hears {} of {of} shots of the test set where {} are heard now, {doubt}",
            after.hits, before.hits
        ));
    }
    let more = |what: &str, now: usize, then: usize| {
        kept(format!("{version} raises {now} false alarms on {what} where there are {then} now"))
    };
    if after.false_alarms > before.false_alarms {
        return more("the test set", after.false_alarms, before.false_alarms);
    }
    if after.recent_false_alarms > before.recent_false_alarms {
        return more("recent background", after.recent_false_alarms, before.recent_false_alarms);
    }
    None
}

fn praise(incumbent: &Contender, candidate: &Contender, told: &Decision) -> String {
    let (before, after) = (&told.incumbent, &told.candidate);
    let forgotten: Vec<&str> = incumbent
        .classes
        .iter()
        .filter(|class| !candidate.classes.contains(class))
        .map(String::as_str)
        .collect();
    let forgotten = match forgotten.is_empty() {
        true => String::new(),
        false => format!("; it no longer knows {}", forgotten.join(", ")),
    };
    format!(
        "{} takes over: of {} shots of the test set it hears {} ({} before), and of {} other sounds \
         it takes {} for alerts ({} before){forgotten}.",
        candidate.version,
        told.positives,
        after.hits,
        before.hits,
        told.negatives + told.recent,
        after.false_alarms + after.recent_false_alarms,
        before.false_alarms + before.recent_false_alarms,
    )
}

#[cfg(test)]
mod tests {
    use super::{Contender, Decision, Trial, decide};

    fn contender(version: &str) -> Contender {
        Contender {
            sha256: version.into(),
            version: version.into(),
            alerting: vec!["gun_shot".into()],
            classes: vec!["gun_shot".into(), "dog".into(), "background".into()],
        }
    }

    /// `shots` recordings of two sounds each; of so many each model hears both.
    fn trials(shots: usize, heard_before: usize, heard_after: usize) -> Vec<Trial> {
        let said = |yes: bool| match yes {
            true => (vec!["gun_shot".to_owned()], 0.9),
            false => (Vec::new(), 0.1),
        };
        let mut trials: Vec<Trial> = (0..2 * shots)
            .map(|n| Trial {
                id: format!("s{n}"),
                group: format!("g{}", n / 2),
                class: "gun_shot".into(),
                test: true,
                incumbent: said(n / 2 < heard_before),
                candidate: said(n / 2 < heard_after),
            })
            .collect();
        trials.extend((0..20).map(|n| Trial {
            id: format!("b{n}"),
            group: format!("b{n}"),
            class: "thunder".into(),
            test: n < 10,
            incumbent: said(n % 10 == 0),
            candidate: said(false),
        }));
        trials
    }

    fn judged(trials: &[Trial]) -> Decision {
        decide(&contender("1"), &contender("2"), trials, 0, "t".into(), 7)
    }

    #[test]
    fn as_good_with_fewer_false_alarms_passes_and_says_so() {
        let decision = judged(&trials(12, 11, 11));
        assert!(decision.passed, "{decision:?}");
        assert_eq!(decision.interval, Some([0.0, 0.0]));
        assert_eq!((decision.incumbent.false_alarms, decision.candidate.false_alarms), (1, 0));
        assert_eq!(decision.incumbent.recent_false_alarms, 1);
        assert_eq!(decision.flips, 2);
        assert!(decision.flipped.iter().all(|flip| flip.change == "false_alarm_gone"));
        assert!(decision.sentence.contains("hears 22 (22 before)"), "{}", decision.sentence);
        assert_eq!(judged(&trials(12, 11, 11)), decision, "the seed decides");
    }

    #[test]
    fn a_loss_beyond_chance_stays_out_and_one_within_does_not() {
        let lost = judged(&trials(40, 40, 20));
        assert!(!lost.passed);
        assert!(lost.interval.unwrap()[1] < 0.0);
        assert!(lost.sentence.starts_with("1 stays: 2 hears 40 of 80 shots"), "{}", lost.sentence);
        assert!(judged(&trials(40, 40, 39)).passed, "one recording of forty may be chance");
    }

    #[test]
    fn with_few_recordings_no_loss_is_chance() {
        let decision = judged(&trials(4, 4, 3));
        assert!(!decision.passed && decision.interval.is_none(), "{decision:?}");
        assert!(judged(&trials(4, 3, 4)).passed);
    }

    #[test]
    fn one_more_false_alarm_is_one_too_many_wherever_it_is() {
        for place in [15, 5] {
            let mut trials = trials(12, 11, 12);
            for trial in trials.iter_mut().rev().take(20) {
                trial.incumbent = (Vec::new(), 0.1);
            }
            let at = trials.len() - 20 + place;
            trials[at].candidate = (vec!["gun_shot".into()], 0.8);
            let decision = judged(&trials);
            assert!(!decision.passed);
            assert!(decision.sentence.contains("1 false alarms"), "{}", decision.sentence);
            let last = decision.flipped.last().unwrap();
            assert_eq!(last.change, "new_false_alarm");
        }
    }

    #[test]
    fn a_model_that_lost_an_alerting_class_or_met_no_test_stays_out() {
        let silent = Contender { alerting: Vec::new(), ..contender("2") };
        let decision = decide(&contender("1"), &silent, &trials(12, 0, 12), 0, "t".into(), 7);
        assert!(!decision.passed && decision.sentence.contains("no longer alerts by gun_shot"));
        assert!(!judged(&[]).passed);
        let only_shots: Vec<Trial> = trials(12, 1, 12).into_iter().take(24).collect();
        assert!(!judged(&only_shots).passed);
    }
}
