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
//! 3. its false alarms are not more, neither on the test set nor on the recent background;
//! 4. the test set holds recordings enough of alerting classes for nobody to have to look
//!    ([`Terms::unattended_recordings`]). Else the candidate waits for a person.
//!
//! A sound that one of the two cannot be judged on counts against that one.

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
    /// What the incumbent says of it; none if it cannot be judged on it.
    pub incumbent: Option<Said>,
    /// The same of the candidate.
    pub candidate: Option<Said>,
}

/// Classes that a model alerts by in a sound, and its highest score.
pub type Said = (Vec<String>, f32);

/// On what terms two models were compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// Sounds that neither could be judged on.
    pub unread: usize,
    /// Over the test set.
    pub test_sha256: String,
    /// Decides the draws of the bootstrap.
    pub seed: u64,
    /// Recordings of alerting classes that the test set must hold for a candidate to take over by itself.
    pub unattended_recordings: usize,
    /// The budget that both models' thresholds were chosen for, false alarms an hour, as far as known.
    pub alarms_per_hour: Option<f64>,
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
    /// Whether nothing speaks against the candidate but that too few recordings do for it: a person may
    /// activate it.
    #[serde(default)]
    pub waits: bool,
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
    /// Sounds that only the candidate could not be judged on: its misses and false alarms.
    #[serde(default)]
    pub unjudged: usize,
    /// The budget that the thresholds of both were chosen for, false alarms an hour of background.
    #[serde(default)]
    pub alarms_per_hour: Option<f64>,
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

/// Decides.
#[must_use]
pub fn decide(
    incumbent: &Contender,
    candidate: &Contender,
    trials: &[Trial],
    terms: Terms,
) -> Decision {
    let is_positive = |trial: &Trial| trial.test && incumbent.alerting.contains(&trial.class);
    let right = |trial: &Trial, said: &Option<Said>| match said {
        Some((alerts, _)) if is_positive(trial) => alerts.contains(&trial.class),
        Some((alerts, _)) => alerts.is_empty(),
        None => false,
    };
    let positives: Vec<&Trial> = trials.iter().filter(|trial| is_positive(trial)).collect();
    let line = |model: &Contender, said: fn(&Trial) -> &Option<Said>| {
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
        .then(|| bootstrap_by_group(&groups, DRAWS, terms.seed, mean))
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
        waits: false,
        sentence: String::new(),
        test_sha256: terms.test_sha256,
        positives: positives.len(),
        positive_recordings: numbers.len(),
        negatives: count(true),
        recent: count(false),
        unread: terms.unread,
        unjudged: trials.iter().filter(|trial| trial.candidate.is_none()).count(),
        alarms_per_hour: terms.alarms_per_hour,
        incumbent: before,
        candidate: after,
        interval,
        flips: flips.len(),
        flipped: flips.into_iter().take(LISTED).collect(),
    };
    let refusal = refusal(incumbent, candidate, &decision);
    decision.waits =
        refusal.is_none() && decision.positive_recordings < terms.unattended_recordings;
    decision.passed = refusal.is_none() && !decision.waits;
    decision.sentence = match refusal {
        Some(refusal) => refusal,
        None if decision.waits => format!(
            "{} stays until a person decides: {}, but {} recordings of shots in the test set are too \
             few for a model to take over by itself ({}). Activate it if you trust it.",
            incumbent.version,
            praise(incumbent, candidate, &decision, "would take over"),
            decision.positive_recordings,
            terms.unattended_recordings
        ),
        None => format!("{}.", praise(incumbent, candidate, &decision, "takes over")),
    };
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
        incumbent_score: trial.incumbent.as_ref().map_or(0.0, |said| said.1),
        candidate_score: trial.candidate.as_ref().map_or(0.0, |said| said.1),
    }
}

/// The first reason against the candidate.
fn refusal(incumbent: &Contender, candidate: &Contender, told: &Decision) -> Option<String> {
    let version = &candidate.version;
    let blind = match told.unjudged {
        0 => String::new(),
        count => format!("; {count} sounds that it could not be judged on count against it"),
    };
    let kept = |what: String| Some(format!("{} stays: {what}{blind}.", incumbent.version));
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

/// What speaks for the candidate, without a full stop.
fn praise(incumbent: &Contender, candidate: &Contender, told: &Decision, verb: &str) -> String {
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
    let nothing_recent = match told.recent {
        0 => "; there was no recent background to compare on",
        _ => "",
    };
    format!(
        "{} {verb}: of {} shots of the test set it hears {} ({} before), and of {} other sounds \
         it takes {} for alerts ({} before){forgotten}{nothing_recent}",
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
    use super::{Contender, Decision, ENOUGH_RECORDINGS, Terms, Trial, decide};

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
            true => Some((vec!["gun_shot".to_owned()], 0.9)),
            false => Some((Vec::new(), 0.1)),
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

    fn terms(unattended_recordings: usize) -> Terms {
        let test_sha256 = "t".into();
        Terms { unread: 0, test_sha256, seed: 7, unattended_recordings, alarms_per_hour: Some(3.0) }
    }

    fn judged(trials: &[Trial]) -> Decision {
        decide(&contender("1"), &contender("2"), trials, terms(0))
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
    fn with_few_recordings_a_person_decides() {
        let decide = |shots, before, after| {
            let trials = trials(shots, before, after);
            decide(&contender("1"), &contender("2"), &trials, terms(ENOUGH_RECORDINGS))
        };
        let few = decide(9, 8, 9);
        assert!(few.waits && !few.passed, "{few:?}");
        let start = "1 stays until a person decides: 2 would take over: of 18 shots";
        assert!(few.sentence.starts_with(start), "{}", few.sentence);
        assert!(few.sentence.contains("9 recordings of shots"), "{}", few.sentence);
        let enough = decide(10, 9, 10);
        assert!(enough.passed && !enough.waits, "{enough:?}");
        // One that is worse waits for nobody.
        let worse = decide(9, 9, 8);
        assert!(!worse.passed && !worse.waits, "{worse:?}");
    }

    #[test]
    fn without_recent_background_the_sentence_says_so() {
        let mut trials = trials(12, 11, 11);
        assert!(!judged(&trials).sentence.contains("recent"));
        trials.retain(|trial| trial.test);
        let decision = judged(&trials);
        assert!(decision.passed && decision.recent == 0);
        assert!(
            decision.sentence.ends_with("there was no recent background to compare on."),
            "{}",
            decision.sentence
        );
    }

    #[test]
    fn a_sound_that_a_model_cannot_be_judged_on_counts_against_it() {
        let mut trials = trials(4, 4, 4);
        for trial in trials.iter_mut().filter(|trial| trial.class == "thunder") {
            trial.incumbent = Some((Vec::new(), 0.1));
        }
        assert!(judged(&trials).passed);
        // A shot that both hear, and a background sound that neither alerts on.
        for place in [0, trials.len() - 1] {
            let mut trials = trials.clone();
            trials[place].candidate = None;
            let decision = judged(&trials);
            assert!(!decision.passed, "{place}: {decision:?}");
            assert_eq!(
                (decision.unjudged, decision.flipped.last().unwrap().candidate_score),
                (1, 0.0)
            );
            assert!(
                decision.sentence.contains("1 sounds that it could not"),
                "{}",
                decision.sentence
            );
            // And the incumbent's against the incumbent.
            let heard = if place == 0 { vec!["gun_shot".to_owned()] } else { Vec::new() };
            trials[place].candidate = Some((heard, 0.5));
            trials[place].incumbent = None;
            assert!(judged(&trials).passed && judged(&trials).unjudged == 0);
        }
    }

    #[test]
    fn one_more_false_alarm_is_one_too_many_wherever_it_is() {
        for place in [15, 5] {
            let mut trials = trials(12, 11, 12);
            for trial in trials.iter_mut().rev().take(20) {
                trial.incumbent = Some((Vec::new(), 0.1));
            }
            let at = trials.len() - 20 + place;
            trials[at].candidate = Some((vec!["gun_shot".into()], 0.8));
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
        let decision = decide(&contender("1"), &silent, &trials(12, 0, 12), terms(0));
        assert!(!decision.passed && decision.sentence.contains("no longer alerts by gun_shot"));
        assert!(!judged(&[]).passed);
        let only_shots: Vec<Trial> = trials(12, 1, 12).into_iter().take(24).collect();
        assert!(!judged(&only_shots).passed);
    }
}
