//! Path: what was measured → **card** → bundle
//!
//! The model card of any bundle, Markdown: what it is for, what was measured and on what, what it is
//! known to get wrong, and where the recordings came from.

use std::fmt::{Arguments, Write as _};

use super::artifact::SourceLine;
use super::breakdown::TransientLine;
use super::judgement::{CONFIRM_WINDOWS, Judgement, RatePoint, Recall};
use super::labels::LabelMap;
use super::material::Form;
use crate::eval::CalibrationBin;

/// What was measured of an ear, as its card and its page tell it.
#[derive(Clone, Copy)]
pub struct Findings<'a> {
    /// How the data were split.
    pub protocol: &'a str,
    /// What was measured out of fold.
    pub judgement: &'a Judgement,
    /// The same by transient signal-to-noise ratio; empty where it was not measured.
    pub by_transient: &'a [TransientLine],
    /// Expected calibration error of the windows' highest class score.
    pub calibration_error: Option<f64>,
    /// The bins behind it; empty where they were not kept.
    pub reliability: &'a [CalibrationBin],
    /// What the shipped threshold does, out of fold.
    pub shipped: &'a RatePoint,
}

/// What a card tells.
pub struct Card<'a> {
    /// Name of the model line.
    pub name: &'a str,
    /// Version in it.
    pub version: &'a str,
    /// What it hears with.
    pub about: &'a str,
    /// The classes.
    pub labels: &'a LabelMap,
    /// What was measured.
    pub findings: Findings<'a>,
    /// Where the recordings came from.
    pub sources: &'a [SourceLine],
    /// What made it.
    pub command: &'a str,
    /// Which networks are not its own.
    pub below: &'a str,
}

/// What an ear is known to get wrong, whatever the data.
const BLIND_SPOTS: [&str; 5] = [
    "A shot less than 10 dB above the forest's own noise (100–1500 Hz, loudest 20 ms over the \
     median) is mostly missed.",
    "Fireworks, thunder, a backfiring engine and slammed doors are what it mistakes first.",
    "The background that rates are counted on is full of such sounds: hours of quiet forest give \
     fewer false alarms, a festival gives more. A station's own rate has to be watched.",
    "Recall was measured on recorders and forests like those of the recordings; another forest's \
     distant shots may be heard less.",
    "The same places and days may occur in training and evaluation where recordings could not be \
     told apart: forest background without a known recording is such a case.",
];

impl Card<'_> {
    /// The text.
    pub fn text(&self) -> String {
        let mut page = Page(String::new());
        let names: Vec<&str> =
            self.labels.classes.iter().map(|class| class.name.as_str()).collect();
        page.line(format_args!("# {} {}\n", self.name, self.version));
        page.line(format_args!("{} Classes: {}.\n", self.about, names.join(", ")));
        page.line(format_args!("## Use\n"));
        page.line(format_args!(
            "**Non-commercial conservation use only.** Some of the recordings below allow no \
             commercial use, and for some no terms are stated: they were used for research and are \
             not redistributed. The weights carry the same restriction.\n"
        ));
        self.measured(&mut page);
        self.classes(&mut page);
        page.line(format_args!("\nMade by `{}`.\n", self.command));
        page.line(format_args!("## Blind spots\n"));
        for spot in BLIND_SPOTS {
            page.line(format_args!("- {spot}"));
        }
        let few = |clips: u64, groups: usize| clips > 0 && groups < 5;
        for class in self.findings.judgement.classes.iter().filter(|own| few(own.clips, own.groups))
        {
            page.line(format_args!(
                "- `{}` was learnt from {} recordings: no accuracy is claimed for it.",
                class.class, class.groups
            ));
        }
        self.recordings(&mut page);
        page.line(format_args!("\n{} `evaluation.json` holds every number.", self.below));
        page.0
    }

    fn measured(&self, page: &mut Page) {
        let Findings { protocol, judgement, by_transient, calibration_error, shipped, .. } =
            self.findings;
        page.line(format_args!("## What was measured\n"));
        page.line(format_args!(
            "{} One false alarm is {:.2} an hour. A clip counts as heard when the mean of \
             {CONFIRM_WINDOWS} neighbouring windows reaches the threshold.\n",
            protocol,
            1.0 / judgement.background_hours
        ));
        let rates = |before: &str| {
            let rates = judgement.rates.iter();
            let cells =
                rates.map(|rate| format!("{before} {}/h", rate.per_hour.unwrap_or_default()));
            cells.collect::<Vec<_>>()
        };
        page.table(&["source", "form", "clips (recordings)"], &rates("recall at"));
        for (index, first) in
            judgement.rates.first().iter().flat_map(|r| r.recall.iter().enumerate())
        {
            let cells: Vec<String> =
                judgement.rates.iter().map(|rate| recall_cell(&rate.recall[index])).collect();
            page.line(format_args!(
                "| {} | {} | {} ({}) | {} |",
                first.source,
                form_name(first.form),
                first.clips,
                first.groups,
                cells.join(" | ")
            ));
        }
        page.line(format_args!(
            "\nIntervals are 95 % bootstrap intervals over whole recordings. Background: {} clips, \
             {:.1} h. Average precision over clips {}, ROC area {}, calibration error of windows {}.\n",
            judgement.background_clips,
            judgement.background_hours,
            shown(judgement.average_precision),
            shown(judgement.roc_auc),
            shown(calibration_error)
        ));
        page.table(&["operating point", "threshold", "false alarms", "an hour (95 %, exact)"], &[]);
        for rate in &judgement.rates {
            let [low, high] = rate.interval_per_hour.unwrap_or([f64::NAN; 2]);
            page.line(format_args!(
                "| {}/h | {:.3} | {} | {:.2} ({low:.2}–{high:.2}) |",
                rate.per_hour.unwrap_or_default(),
                rate.threshold,
                rate.false_alarms,
                rate.false_alarms as f64 / judgement.background_hours
            ));
        }
        if !by_transient.is_empty() {
            page.line(format_args!(
                "\nBy how far the loudest 20 ms stand out of the clip's median (100–1500 Hz):\n"
            ));
            page.table(&["source", "from dB", "clips"], &rates("at"));
        }
        for row in by_transient {
            let cells: Vec<String> = row.recall.iter().map(|share| format!("{share:.2}")).collect();
            page.line(format_args!(
                "| {} | {:.0} | {} | {} |",
                row.source,
                row.from_db,
                row.clips,
                cells.join(" | ")
            ));
        }
        let alarms: Vec<String> =
            shipped.by_label.iter().map(|(label, count)| format!("{label} {count}")).collect();
        page.line(format_args!(
            "\nShipped threshold: {:.3}, {} false alarms in {:.1} h, by what they were: {}.\n",
            shipped.threshold,
            shipped.false_alarms,
            judgement.background_hours,
            if alarms.is_empty() { "none".to_owned() } else { alarms.join(", ") }
        ));
    }

    fn classes(&self, page: &mut Page) {
        let columns = ["class", "clips (recordings)", "precision", "recall", "F1", "PR area"];
        page.table(&columns, &[]);
        for class in &self.findings.judgement.classes {
            page.line(format_args!(
                "| {} | {} ({}) | {} | {} | {} | {} |",
                class.class,
                class.clips,
                class.groups,
                shown(class.precision),
                shown(class.recall),
                shown(class.f1),
                shown(class.average_precision)
            ));
        }
    }

    fn recordings(&self, page: &mut Page) {
        let alert = format!("of them {}", self.labels.classes[self.labels.alerting()].name);
        page.line(format_args!("\n## Recordings\n"));
        page.table(&["source", "clips", "recordings", &alert, "terms as stated"], &[]);
        for source in self.sources {
            page.line(format_args!(
                "| {} | {} | {} | {} | {} |",
                source.source,
                source.clips,
                source.groups,
                source.alerting,
                source.licence.replace('|', "/")
            ));
        }
    }
}

struct Page(String);

impl Page {
    fn line(&mut self, text: Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.0.write_fmt(text);
        self.0.push('\n');
    }

    /// The head of a table.
    fn table(&mut self, columns: &[&str], more: &[String]) {
        let all: Vec<&str> =
            columns.iter().copied().chain(more.iter().map(String::as_str)).collect();
        self.line(format_args!("| {} |\n|{}", all.join(" | "), "---|".repeat(all.len())));
    }
}

fn recall_cell(recall: &Recall) -> String {
    match recall.interval {
        Some([low, high]) => format!("{:.2} ({low:.2}–{high:.2})", recall.recall),
        None => format!("{:.2}", recall.recall),
    }
}

pub(super) fn form_name(form: Form) -> &'static str {
    match form {
        Form::Plain => "as recorded",
        Form::BandLimited => "as at 8 kHz",
        Form::Quiet => "24 dB quieter",
        Form::InContext => "in a stream",
        Form::Mixed => "mixed",
        Form::Silence => "silence",
        Form::Scene => "synthetic scene",
        Form::Staged => "staged",
    }
}

pub(super) fn shown(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"))
}
