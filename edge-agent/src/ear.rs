//! Path: source → ear (window → classifier → detector) → hearing
//!
//! One stream of 16 kHz mono to the events in it, with the parts that station, server and tools
//! share; beside it what the station learns of its own background, what came near, and where people
//! speak.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ecosight_models::detector::{ClassRule, DetectorConfig};
use ecosight_models::{
    Bundle, Classifier, ClassifierOptions, ClassifyError, Detector, DetectorOutput, LoadError,
    SAMPLE_RATE_HZ, Scores, Window, Windower,
};
use ecosight_shared::json::BudgetReport;

use crate::budget::{self, Background, Blocks, Budget, RecallCurve, log_odds};
use crate::candidate::{Candidate, Candidates, Look};
use crate::config::{self, Config};
use crate::health::{Health, Loss};
use crate::speech::{Redaction, Speech};

/// Windows, classifier and detector of one stream.
pub struct Ear {
    classifier: Classifier,
    windower: Windower,
    detector: Detector,
    /// Added to the detector's numbers: each retuned detector counts from 1 again.
    number_base: u64,
    last_number: u64,
    health: Arc<Health>,
    windows: Vec<Window>,
    /// Windows that begin before this sample are not judged.
    judge_from: u64,
    /// The newest windows, as many as the slowest rule confirms with.
    recent: VecDeque<(Window, Scores)>,
    memory: usize,
    tracks: Vec<Track>,
    redaction: Redaction,
    background: Background,
    /// Blocks since thresholds were last looked at.
    blocks: u64,
    retune: bool,
    /// Day of the sound that comes, since 1970 UTC.
    day: i64,
    candidates: Vec<Candidate>,
    summary: Summary,
    /// Kept while two models are compared.
    account: Option<Account>,
}

/// What an ear did with the sound since it was last asked, for comparing two of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Account {
    /// What it said of each window.
    pub verdicts: Vec<Verdict>,
    /// Windows that it failed on.
    pub failed: u64,
    /// What it said when it failed last.
    pub problem: Option<String>,
    /// Events that it confirmed.
    pub events: u64,
    /// Time that it took.
    pub spent: Duration,
}

/// What was said of one window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Where it begins.
    pub start_sample: u64,
    /// Classes that raise events and are over their threshold.
    pub over: Vec<String>,
}

/// What is followed of one rule.
struct Track {
    name: String,
    rule: ClassRule,
    /// Whether an event is open.
    open: bool,
    candidates: Candidates,
    blocks: Blocks,
    budget: Option<Budget>,
    /// The threshold that the budget wants.
    wanted: f32,
}

/// The strongest of a while.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Windows judged.
    pub windows: u32,
    /// Those with speech.
    pub speech: u32,
    /// Highest score by class.
    pub highest: Vec<f32>,
    /// Lowest noise floor, dBFS.
    pub noise_floor_dbfs: Option<f32>,
}

/// Why there is no ear. The caller stops: a station that cannot listen is no station.
#[derive(Debug, thiserror::Error)]
pub enum EarError {
    /// Bundle or backbone cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A threshold was set for a class that the bundle does not know.
    #[error("model.thresholds.{class}: the bundle {bundle} has no such class; it has {classes}")]
    Class {
        /// The class that was named.
        class: String,
        /// The bundle.
        bundle: String,
        /// What it has.
        classes: String,
    },
}

/// Blocks between two looks at the thresholds: ten minutes.
const RETUNE_BLOCKS: u64 = 60;
/// A threshold moves only by more than this, in log-odds: less is the noise of counting.
const RETUNE_STEP: f64 = 0.1;

/// Loads the model that the configuration names.
///
/// # Errors
/// See [`EarError`].
pub fn load(config: &Config) -> Result<Classifier, EarError> {
    // For the privacy filter; where YAMNet runs, it costs the network's last layers.
    let audioset = config.privacy.redact_speech;
    let options = ClassifierOptions { audioset, batching: false };
    let model = &config.model;
    let classifier =
        Classifier::load_with(model.bundle.as_deref(), model.yamnet.as_deref(), options)?;
    let bundle = classifier.bundle();
    rules(model, bundle)?;
    tracing::info!(
        name = bundle.name,
        version = bundle.version,
        tag = %bundle.tag,
        choice = classifier.choice().name(),
        why = %classifier.choice(),
        "model loaded"
    );
    Ok(classifier)
}

/// Judges near silence, one window at a time as a station hears: what each took, and its scores.
///
/// # Errors
/// The model does not run.
pub fn near_silence(
    classifier: &Classifier,
    seconds: u32,
) -> Result<Vec<(Duration, Scores)>, ClassifyError> {
    let mut windower = classifier.windower();
    let noise = |i: u32| ((i.wrapping_mul(2_654_435_761) >> 16) as f32 / 32_768.0 - 1.0) * 1e-3;
    let sound: Vec<f32> = (0..seconds * SAMPLE_RATE_HZ).map(noise).collect();
    windower.push(&sound);
    let mut judged = Vec::new();
    while let Some(window) = windower.next_window() {
        let started = Instant::now();
        let scores = classifier.classify(std::slice::from_ref(&window))?;
        let took = started.elapsed();
        judged.extend(scores.into_iter().map(|scores| (took, scores)));
    }
    Ok(judged)
}

/// What is done about speech.
#[must_use]
pub fn redaction(config: &config::Privacy) -> Redaction {
    let margin = (config.margin.as_secs_f64() * f64::from(SAMPLE_RATE_HZ)) as u64;
    if config.redact_speech { Redaction::On(Speech::new(margin)) } else { Redaction::Off }
}

/// The bundle's rules with the operator's thresholds.
pub(crate) fn rules(config: &config::Model, bundle: &Bundle) -> Result<DetectorConfig, EarError> {
    let mut rules = bundle.detector.clone();
    for (class, threshold) in &config.thresholds {
        let index = bundle.classes.iter().position(|known| known == class);
        let rule = index.and_then(|i| rules.rules.iter_mut().find(|rule| rule.class == i));
        match rule {
            Some(rule) => rule.threshold = *threshold,
            None => {
                return Err(EarError::Class {
                    class: class.clone(),
                    bundle: bundle.name.clone(),
                    classes: bundle.classes.join(", "),
                });
            }
        }
    }
    Ok(rules)
}

impl Ear {
    /// An ear at the start of a stream.
    ///
    /// # Errors
    /// A threshold names an unknown class.
    pub fn new(
        classifier: Classifier,
        config: &Config,
        health: Arc<Health>,
    ) -> Result<Self, EarError> {
        let bundle = classifier.bundle();
        let rules = rules(&config.model, bundle)?;
        let per_week = config.detector.budget_per_week;
        let evaluation = match per_week {
            Some(_) => budget::evaluation(&config.model)?,
            None => serde_json::Value::Null,
        };
        let tracks: Vec<Track> = rules
            .rules
            .iter()
            .map(|rule| {
                let name = bundle.classes.get(rule.class).cloned().unwrap_or_default();
                let spec = bundle.manifest.detector.iter().find(|spec| spec.class == name);
                let budget = per_week.filter(|_| rule.alert).map(|per_week| Budget {
                    class: name.clone(),
                    per_week,
                    bundle_threshold: rule.threshold,
                    recall: spec.map_or_else(RecallCurve::default, |spec| {
                        RecallCurve::of(spec, &evaluation)
                    }),
                });
                Track {
                    name,
                    rule: ClassRule {
                        confirm_windows: rule.confirm_windows.max(1),
                        ..rule.clone()
                    },
                    open: false,
                    candidates: Candidates::new(rule.class, rule.threshold),
                    blocks: Blocks::default(),
                    budget,
                    wanted: rule.threshold,
                }
            })
            .collect();
        let memory = tracks.iter().map(|track| track.rule.confirm_windows).max().unwrap_or(1);
        let redaction = redaction(&config.privacy);
        let background = Background::new(bundle.tag.to_string());
        let windower = classifier.windower();
        let detector = Detector::new(&rules);
        let ear = Self {
            classifier,
            windower,
            detector,
            number_base: 0,
            last_number: 0,
            health,
            windows: Vec::new(),
            judge_from: 0,
            recent: VecDeque::new(),
            memory,
            tracks,
            redaction,
            background,
            blocks: 0,
            retune: false,
            day: 0,
            candidates: Vec::new(),
            summary: Summary::default(),
            account: None,
        };
        ear.tell_budgets();
        Ok(ear)
    }

    /// Goes on from what was heard before.
    pub fn remember(&mut self, background: Background) {
        self.background = background;
        self.look_at_thresholds();
    }

    /// What is known of the background.
    #[must_use]
    pub fn background(&self) -> &Background {
        &self.background
    }

    /// What is done about speech.
    #[must_use]
    pub fn redaction(&self) -> &Redaction {
        &self.redaction
    }

    /// The model.
    #[must_use]
    pub fn bundle(&self) -> &Bundle {
        self.classifier.bundle()
    }

    /// Names of the classes.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        &self.classifier.bundle().classes
    }

    /// The threshold of a class, as the detector uses it.
    #[must_use]
    pub fn threshold(&self, class: usize) -> Option<f32> {
        self.tracks.iter().find(|track| track.rule.class == class).map(|track| track.rule.threshold)
    }

    /// The model, and the rules as the detector uses them: for a twin.
    #[must_use]
    pub fn twin(&self) -> (Classifier, DetectorConfig) {
        let rules = self.tracks.iter().map(|track| track.rule.clone()).collect();
        (self.classifier.clone(), DetectorConfig { rules })
    }

    /// Keeps an account from now on, or no more.
    pub fn keep_account(&mut self, keep: bool) {
        self.account = keep.then(Account::default);
    }

    /// The account since the last call; empty if none is kept.
    pub fn take_account(&mut self) -> Account {
        self.account.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Whether no event is open and none is about to begin: another ear may go on from here.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.tracks.iter().all(|track| self.is_below(track, track.rule.threshold))
    }

    /// Whether no event of a rule is open, and all that a new one could begin with lies below
    /// `threshold`.
    fn is_below(&self, track: &Track, threshold: f32) -> bool {
        let below = |(_, scores): &(Window, Scores)| {
            scores.classes.get(track.rule.class).is_some_and(|score| *score < threshold)
        };
        !track.open && self.recent.iter().all(below)
    }

    /// Goes on in the place of `before`, which has heard the same stream: nothing that it knows of
    /// speech is lost, and no event gets a number that was given out.
    pub fn succeed(&mut self, before: &mut Self) {
        self.health = Arc::clone(&before.health);
        self.number_base += before.last_number;
        self.last_number += before.last_number;
        if let (Redaction::On(speech), Redaction::On(older)) =
            (&mut self.redaction, &before.redaction)
        {
            speech.absorb(older);
        }
        let same_classes = self.classes() == before.classes();
        self.summary = before.take_summary();
        if !same_classes {
            self.summary.highest.clear();
        }
        self.candidates = before.take_candidates();
        if !same_classes {
            self.candidates.clear();
        }
        self.account = None;
        self.tell_budgets();
    }

    /// When the sound that comes was heard, unix µs.
    pub fn set_time(&mut self, unix_us: i64) {
        self.day = unix_us.div_euclid(86_400_000_000);
    }

    /// Hears more of the stream.
    pub fn hear(&mut self, samples: &[f32]) -> Vec<DetectorOutput> {
        self.windower.push(samples);
        self.classify()
    }

    /// The stream ends, or is interrupted: what was heard so far is judged, what is open closed.
    pub fn end(&mut self) -> Vec<DetectorOutput> {
        self.windower.finish();
        let mut outputs = self.classify();
        let closed = self.detector.finish();
        outputs.extend(self.numbered(closed));
        self.recent.clear();
        for at in 0..self.tracks.len() {
            self.tracks[at].open = false;
            let candidate = self.tracks[at].candidates.end();
            self.candidates.extend(candidate);
            let block = self.tracks[at].blocks.end();
            self.count(at, block);
        }
        outputs
    }

    /// Begins anew, without memory, at the sample `next` of the stream.
    pub fn reset(&mut self, next: u64) {
        self.windower.reset(next);
        self.recent.clear();
    }

    /// Only listens, without judging, to windows that begin before `sample`: for a stream that is
    /// taken up in the middle.
    pub fn judge_from(&mut self, sample: u64) {
        self.judge_from = sample;
    }

    /// What came near since the last call.
    pub fn take_candidates(&mut self) -> Vec<Candidate> {
        std::mem::take(&mut self.candidates)
    }

    /// The strongest since the last call.
    pub fn take_summary(&mut self) -> Summary {
        std::mem::take(&mut self.summary)
    }

    fn classify(&mut self) -> Vec<DetectorOutput> {
        self.windows.clear();
        self.windows.extend(std::iter::from_fn(|| self.windower.next_window()));
        if self.windows.is_empty() {
            return Vec::new();
        }
        let windows = std::mem::take(&mut self.windows);
        let started = Instant::now();
        let outputs = match self.classifier.classify(&windows) {
            Ok(scores) => {
                if let Some(account) = &mut self.account {
                    account.spent += started.elapsed();
                }
                let floors = windows.iter().map(|window| window.noise_floor_dbfs);
                self.health.classified(started.elapsed(), floors);
                let judged = windows.iter().zip(scores);
                judged.flat_map(|(window, scores)| self.judge(window, scores)).collect()
            }
            Err(error) => {
                // The watchdog ends an agent that classifies nothing any more.
                self.health.count(Loss::Window, windows.len() as u64);
                if let Some(account) = &mut self.account {
                    account.failed += windows.len() as u64;
                    account.problem = Some(error.to_string());
                }
                tracing::error!(%error, windows = windows.len(), "windows not classified");
                if let Redaction::On(speech) = &mut self.redaction {
                    for window in &windows {
                        speech.note(window.start_sample, window.end_sample(), true);
                    }
                }
                Vec::new()
            }
        };
        // Its space is used again.
        self.windows = windows;
        outputs
    }

    fn judge(&mut self, window: &Window, scores: Scores) -> Vec<DetectorOutput> {
        if let Redaction::On(speech) = &mut self.redaction {
            let before = speech.counts().1;
            speech.judge(window, &scores);
            self.summary.speech += (speech.counts().1 - before) as u32;
        }
        self.health.window(window, &scores);
        if window.start_sample < self.judge_from {
            return Vec::new();
        }
        self.summary.add(window, &scores.classes);
        let outputs = self.detector.push(window, &scores);
        let outputs = self.numbered(outputs);
        self.note(window, &scores, &outputs);
        if self.recent.len() == self.memory {
            self.recent.pop_front();
        }
        self.recent.push_back((window.clone(), scores));
        self.follow(&outputs);
        if self.retune {
            self.retune_if_quiet();
        }
        outputs
    }

    fn note(&mut self, window: &Window, scores: &Scores, outputs: &[DetectorOutput]) {
        let Some(account) = &mut self.account else { return };
        let is_over = |track: &&Track| {
            scores.classes.get(track.rule.class).is_some_and(|score| *score >= track.rule.threshold)
        };
        let over = self.tracks.iter().filter(is_over).map(|track| track.name.clone()).collect();
        account.verdicts.push(Verdict { start_sample: window.start_sample, over });
        let confirmed = |output: &&DetectorOutput| matches!(output, DetectorOutput::Confirmed(_));
        account.events += outputs.iter().filter(confirmed).count() as u64;
    }

    fn numbered(&mut self, mut outputs: Vec<DetectorOutput>) -> Vec<DetectorOutput> {
        for output in &mut outputs {
            let (DetectorOutput::Confirmed(event) | DetectorOutput::Closed(event)) = output;
            event.number += self.number_base;
            self.last_number = self.last_number.max(event.number);
        }
        outputs
    }

    /// Mean score of a rule's class over its newest windows, as the detector takes it; nothing while
    /// there are too few.
    fn confirmation(&self, rule: &ClassRule) -> Option<f32> {
        let from = self.recent.len().checked_sub(rule.confirm_windows)?;
        let scores = self.recent.iter().skip(from);
        let sum: f32 =
            scores.map(|(_, scores)| scores.classes.get(rule.class).copied().unwrap_or(0.0)).sum();
        Some(sum / rule.confirm_windows as f32)
    }

    /// Candidates and background, after the detector has heard the newest window.
    fn follow(&mut self, outputs: &[DetectorOutput]) {
        for at in 0..self.tracks.len() {
            let confirmation = self.confirmation(&self.tracks[at].rule).unwrap_or(0.0);
            let Some((window, scores)) = self.recent.back() else { return };
            let track = &mut self.tracks[at];
            let mut in_event = track.open;
            for output in outputs {
                match output {
                    DetectorOutput::Confirmed(event) if event.class == track.rule.class => {
                        track.open = true;
                        in_event = true;
                    }
                    DetectorOutput::Closed(event) if event.class == track.rule.class => {
                        track.open = false;
                    }
                    _ => {}
                }
            }
            let look = Look {
                peak_sample: window.peak_sample,
                level_dbfs: window.level_dbfs,
                noise_floor_dbfs: window.noise_floor_dbfs,
                scores: &scores.classes,
                confirmation,
                in_event,
            };
            let candidate = track.candidates.push(look, track.rule.threshold);
            let block = track.blocks.push(window.start_sample, confirmation, in_event);
            self.candidates.extend(candidate);
            self.count(at, block);
        }
    }

    fn count(&mut self, at: usize, block: Option<budget::Block>) {
        let (Some(block), Some(track)) = (block, self.tracks.get(at)) else { return };
        self.background.add(&track.name, self.day, block.highest, block.confirmed);
        self.blocks += u64::from(at == 0);
        if at == 0 && self.blocks.is_multiple_of(RETUNE_BLOCKS) {
            self.look_at_thresholds();
        }
    }

    fn look_at_thresholds(&mut self) {
        let reports = self.tell_budgets();
        for track in &mut self.tracks {
            let Some(report) = reports.iter().find(|report| report.class == track.name) else {
                continue;
            };
            let moved = log_odds(report.threshold) - log_odds(track.rule.threshold);
            if moved.abs() > RETUNE_STEP {
                track.wanted = report.threshold;
                self.retune = true;
            }
        }
        self.retune_if_quiet();
    }

    fn tell_budgets(&self) -> Vec<BudgetReport> {
        let budgets = self.tracks.iter().filter_map(|track| track.budget.as_ref());
        let reports: Vec<BudgetReport> =
            budgets.map(|budget| budget.decide(&self.background.known(&budget.class))).collect();
        self.health.set_budgets(reports.clone());
        reports
    }

    /// Changes the thresholds at a moment at which no event is open and none begins, so that none
    /// is cut in two or told twice.
    fn retune_if_quiet(&mut self) {
        let lowest = |track: &Track| track.rule.threshold.min(track.wanted);
        if !self.tracks.iter().all(|track| self.is_below(track, lowest(track))) {
            return;
        }
        self.retune = false;
        for track in &mut self.tracks {
            let (class, threshold) = (&track.name, track.wanted);
            if (threshold - track.rule.threshold).abs() > f32::EPSILON {
                tracing::info!(class, threshold, before = track.rule.threshold, "threshold set");
            }
            track.rule.threshold = threshold;
        }
        let rules = self.tracks.iter().map(|track| track.rule.clone()).collect();
        self.detector = Detector::new(&DetectorConfig { rules });
        self.number_base = self.last_number;
        // All of them lie below every threshold: nothing comes of it but the memory of them.
        for (window, scores) in &self.recent {
            let _ = self.detector.push(window, scores);
        }
    }
}

impl Summary {
    fn add(&mut self, window: &Window, scores: &[f32]) {
        self.windows += 1;
        self.highest.resize(scores.len(), 0.0);
        for (highest, score) in self.highest.iter_mut().zip(scores) {
            *highest = highest.max(*score);
        }
        let floor = window.noise_floor_dbfs;
        self.noise_floor_dbfs = Some(self.noise_floor_dbfs.map_or(floor, |known| known.min(floor)));
    }
}
