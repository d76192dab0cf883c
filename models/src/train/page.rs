//! Path: what was measured → **page** → bundle
//!
//! The evaluation as one HTML file that loads nothing from anywhere: for those who decide whether to
//! trust a bundle and do not read JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write as _};

use serde::Serialize;

use super::breakdown::AlikeLine;
use super::card::{Findings, form_name, shown};
use super::judgement::{CurvePoint, RatePoint};
use super::plot::{Line, fifths, plot};
use crate::bundle::{EVALUATION_FILE, EVALUATION_PAGE};
use crate::eval::CalibrationBin;

/// What a page shows.
pub struct Page<'a> {
    /// Name and version of the bundle.
    pub title: &'a str,
    /// Names of the classes, in the order of the confusion matrix.
    pub classes: Vec<&'a str>,
    /// What was measured.
    pub findings: Findings<'a>,
    /// More that is to be said of the numbers.
    pub remarks: &'a [String],
}

impl Page<'_> {
    /// The evaluation for programs and this page for people, by the names of their files.
    ///
    /// # Errors
    /// When a number of the evaluation is not finite.
    pub fn beside(
        &self,
        evaluation: &impl Serialize,
    ) -> Result<[(String, Vec<u8>); 2], serde_json::Error> {
        let mut numbers = serde_json::to_vec_pretty(evaluation)?;
        numbers.push(b'\n');
        let page = self.html().into_bytes();
        Ok([(EVALUATION_FILE.to_owned(), numbers), (EVALUATION_PAGE.to_owned(), page)])
    }

    /// The file.
    pub fn html(&self) -> String {
        let mut out = String::new();
        let title = escaped(self.title);
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
             <style>body{{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}}\
             table{{border-collapse:collapse;margin:1em 0}}th,td{{border:1px solid #bbb;padding:.2em .6em;\
             text-align:right}}th:first-child,td:first-child{{text-align:left}}svg{{width:100%}}</style>\
             </head><body><h1>{title}</h1><p>{}</p>",
            escaped(self.findings.protocol)
        );
        let judgement = self.findings.judgement;
        let _ = write!(
            out,
            "<p>Background: {} clips, {:.2} h, each clip counted in every form that it was heard in. \
             Average precision over clips {}, ROC area {}, calibration error {}.</p>",
            judgement.background_clips,
            judgement.background_hours,
            shown(judgement.average_precision),
            shown(judgement.roc_auc),
            shown(self.findings.calibration_error)
        );
        for remark in self.remarks {
            let _ = write!(out, "<p>{}</p>", escaped(remark));
        }
        out.push_str("<h2>Recall against false alarms</h2>");
        out.push_str(&curve(&judgement.curve));
        self.rates(&mut out);
        self.alarms(&mut out);
        self.precision(&mut out);
        self.transients(&mut out);
        self.alike(&mut out, "By the recorder's sampling rate", &judgement.by_sampling_rate);
        self.alike(&mut out, "By distance", &judgement.by_distance);
        self.calibration(&mut out);
        self.classes(&mut out);
        out.push_str("</body></html>\n");
        out
    }

    /// The points that thresholds are given for, and the shipped one.
    fn points(&self) -> (Vec<&RatePoint>, Vec<String>) {
        let chosen = self.findings.judgement.rates.iter();
        let name = |rate: &RatePoint| format!("{}/h", rate.per_hour.unwrap_or_default());
        let shipped = match self.findings.shipped.per_hour {
            Some(_) => format!("shipped (chosen for {})", name(self.findings.shipped)),
            None => "shipped".to_owned(),
        };
        (
            chosen.clone().chain([self.findings.shipped]).collect(),
            chosen.map(name).chain([shipped]).collect(),
        )
    }

    fn rates(&self, out: &mut String) {
        let (rates, names) = self.points();
        let hours = self.findings.judgement.background_hours;
        let per_hour = |rate: &&RatePoint| match rate.interval_per_hour {
            Some([low, high]) => {
                format!("{:.2} ({low:.2}–{high:.2})", rate.false_alarms as f64 / hours)
            }
            None => "–".to_owned(),
        };
        let mut rows = vec![
            cells("threshold", rates.iter().map(|rate| format!("{:.3}", rate.threshold))),
            cells("false alarms", rates.iter().map(|rate| rate.false_alarms)),
            cells("of them an hour", rates.iter().map(per_hour)),
        ];
        for (index, first) in self.findings.shipped.recall.iter().enumerate() {
            let name =
                format!("{}, {} ({} clips)", first.source, form_name(first.form), first.clips);
            let recall = rates.iter().map(|rate| {
                let own = &rate.recall[index];
                let [low, high] = own.interval.unwrap_or([f64::NAN; 2]);
                format!("{:.2} ({low:.2}–{high:.2})", own.recall)
            });
            rows.push(cells(&name, recall));
        }
        let _ = write!(
            out,
            "<p>Columns: rates of false alarms that thresholds were chosen for, and what is shipped. \
             Intervals are 95 %: of recall by bootstrap over recordings, of false alarms an hour exact \
             (Poisson) over {hours:.2} h of background, as if they came by chance and no clip was \
             counted twice.</p>"
        );
        table(out, &cells("", names), &rows);
    }

    fn alarms(&self, out: &mut String) {
        let (rates, names) = self.points();
        let background = &self.findings.judgement.background_by_label;
        let labels: BTreeSet<&String> =
            rates.iter().flat_map(|rate| rate.by_label.keys()).chain(background.keys()).collect();
        let alarms = |label: &String| {
            let own = background.get(label).cloned().unwrap_or_default();
            let counts = rates.iter().map(|rate| rate.by_label.get(label).copied().unwrap_or(0));
            let measured = [own.clips.to_string(), format!("{:.3}", own.hours)];
            cells(label, measured.into_iter().chain(counts.map(|count| count.to_string())))
        };
        out.push_str("<h2>What the false alarms were</h2>");
        let head = ["clips".to_owned(), "hours".to_owned()].into_iter().chain(names);
        let rows: Vec<Vec<String>> = labels.into_iter().map(alarms).collect();
        table(out, &cells("background", head), &rows);
    }

    fn precision(&self, out: &mut String) {
        let points = &self.findings.judgement.precision_recall;
        if points.is_empty() {
            return;
        }
        out.push_str("<h2>Precision against recall, clip by clip</h2>");
        let line = Line {
            name: "clips",
            points: points.iter().map(|point| (point.recall, point.precision)).collect(),
            dots: false,
        };
        out.push_str(&plot(("recall", "precision"), &fifths(), &[line]));
    }

    /// The reliability diagram: a score of 0.8 should be right eight times in ten.
    fn calibration(&self, out: &mut String) {
        if self.findings.reliability.is_empty() {
            return;
        }
        let _ = write!(
            out,
            "<h2>Calibration</h2><p>Windows by their highest score: how often that class was right. \
             Expected calibration error {}.</p>",
            shown(self.findings.calibration_error)
        );
        let bins = self.findings.reliability.iter();
        let points = bins.clone().map(|bin| (bin.confidence, bin.accuracy)).collect();
        let lines = [
            Line { name: "measured", points, dots: true },
            Line { name: "ideal", points: vec![(0.0, 0.0), (1.0, 1.0)], dots: false },
        ];
        out.push_str(&plot(("score", "share that was right"), &fifths(), &lines));
        let row = |bin: &CalibrationBin| {
            let shares = [bin.confidence, bin.accuracy].map(|share| format!("{share:.3}"));
            cells(&format!("{:.2}", bin.from), [bin.count.to_string()].into_iter().chain(shares))
        };
        let rows: Vec<Vec<String>> = bins.map(row).collect();
        table(out, &cells("from", ["windows", "mean score", "right"]), &rows);
    }

    fn alike(&self, out: &mut String, title: &str, lines: &[AlikeLine]) {
        if lines.is_empty() {
            return;
        }
        let _ = write!(out, "<h2>{}</h2>", escaped(title));
        let rates = self.findings.judgement.rates.iter();
        let names = rates.map(|rate| format!("{}/h", rate.per_hour.unwrap_or_default()));
        let head = ["clips".to_owned(), "recordings".to_owned()].into_iter().chain(names);
        let row = |line: &AlikeLine| {
            let counts = [line.clips.to_string(), line.groups.to_string()];
            let recall = line.recall.iter().map(|recall| format!("{recall:.2}"));
            cells(&line.what, counts.into_iter().chain(recall))
        };
        let rows: Vec<Vec<String>> = lines.iter().map(row).collect();
        table(out, &cells("", head), &rows);
    }

    fn transients(&self, out: &mut String) {
        if self.findings.by_transient.is_empty() {
            return;
        }
        out.push_str(
            "<h2>By transient ratio</h2><p>How far the loudest 20 ms stand out of the clip's median, \
             100–1500 Hz.</p>",
        );
        let rates = self
            .findings
            .judgement
            .rates
            .iter()
            .map(|rate| format!("{}/h", rate.per_hour.unwrap_or_default()));
        let head =
            cells("source", ["from dB".to_owned(), "clips".to_owned()].into_iter().chain(rates));
        let rows: Vec<Vec<String>> = self
            .findings
            .by_transient
            .iter()
            .map(|line| {
                let first = [format!("{:.0}", line.from_db), line.clips.to_string()];
                let recall = line.recall.iter().map(|recall| format!("{recall:.2}"));
                cells(&line.source, first.into_iter().chain(recall))
            })
            .collect();
        table(out, &head, &rows);
    }

    fn classes(&self, out: &mut String) {
        let judgement = self.findings.judgement;
        out.push_str("<h2>Classes, clip by clip</h2>");
        let rows: Vec<Vec<String>> = judgement
            .classes
            .iter()
            .map(|class| {
                let shares =
                    [class.precision, class.recall, class.f1, class.average_precision].map(shown);
                let counts = [class.clips.to_string(), class.groups.to_string()];
                cells(&class.class, counts.into_iter().chain(shares))
            })
            .collect();
        let head = ["clips", "recordings", "precision", "recall", "F1", "PR area"];
        table(out, &cells("class", head), &rows);
        out.push_str("<p>Rows: what a clip is; columns: what it was called.</p>");
        let rows: Vec<Vec<String>> = self
            .classes
            .iter()
            .zip(&judgement.confusion)
            .map(|(class, counts)| cells(class, counts))
            .collect();
        table(out, &cells("", &self.classes), &rows);
    }
}

/// A line for each source, false alarms an hour in the logarithm.
fn curve(points: &[CurvePoint]) -> String {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return String::new() };
    let (low, high) = (first.per_hour.ln(), last.per_hour.ln());
    let place = |per_hour: f64| (per_hour.ln() - low) / (high - low).max(1e-9);
    let ticks: Vec<(f64, String)> = points
        .iter()
        .step_by(3)
        .map(|point| (place(point.per_hour), format!("{}/h", point.per_hour)))
        .collect();
    let mut sources: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for point in points {
        for (source, recall) in &point.recall {
            sources.entry(source).or_default().push((place(point.per_hour), *recall));
        }
    }
    let lines: Vec<Line<'_>> =
        sources.into_iter().map(|(name, points)| Line { name, points, dots: false }).collect();
    plot(("false alarms an hour", "recall"), &ticks, &lines)
}

fn cells(first: &str, others: impl IntoIterator<Item = impl Display>) -> Vec<String> {
    let others = others.into_iter().map(|cell| cell.to_string());
    std::iter::once(first.to_owned()).chain(others).collect()
}

fn table(out: &mut String, head: &[String], rows: &[Vec<String>]) {
    let line = |cells: &[String], kind: &str| {
        let cells: Vec<String> =
            cells.iter().map(|cell| format!("<{kind}>{}</{kind}>", escaped(cell))).collect();
        format!("<tr>{}</tr>", cells.concat())
    };
    let rows: Vec<String> = rows.iter().map(|row| line(row, "td")).collect();
    let _ = write!(out, "<table>{}{}</table>", line(head, "th"), rows.concat());
}

pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::judgement::{Judgement, Measured, PrecisionPoint};
    use super::*;

    #[test]
    fn the_page_escapes_what_it_is_told_and_draws_each_source() {
        let point = |per_hour, recall| CurvePoint {
            per_hour,
            recall: BTreeMap::from([("<near>".to_owned(), recall), ("far".to_owned(), 0.5)]),
        };
        let rate = RatePoint {
            per_hour: Some(1.0),
            threshold: 0.5,
            false_alarms: 2,
            interval_per_hour: Some([0.12, 3.61]),
            overall: None,
            by_label: BTreeMap::from([("thunder & rain".to_owned(), 2)]),
            recall: Vec::new(),
        };
        let judgement = Judgement {
            background_hours: 2.0,
            background_clips: 30,
            background_by_label: BTreeMap::from([
                ("thunder & rain".to_owned(), Measured { clips: 10, hours: 0.5 }),
                ("wind".to_owned(), Measured { clips: 20, hours: 1.5 }),
            ]),
            rates: vec![rate.clone()],
            curve: vec![point(0.2, 0.4), point(1.0, 0.8), point(10.0, 1.0)],
            precision_recall: vec![
                PrecisionPoint { threshold: 0.9, precision: 1.0, recall: 0.5 },
                PrecisionPoint { threshold: 0.2, precision: 0.8, recall: 1.0 },
            ],
            by_sampling_rate: vec![AlikeLine {
                what: "8000 Hz".to_owned(),
                clips: 7,
                groups: 5,
                recall: vec![0.25],
            }],
            by_distance: Vec::new(),
            average_precision: Some(0.75),
            roc_auc: None,
            classes: Vec::new(),
            accuracy: None,
            confusion: vec![vec![3, 1], vec![0, 4]],
        };
        let page = Page {
            title: "ear 1.0.0",
            classes: vec!["shot", "rest"],
            findings: Findings {
                protocol: "Six folds.",
                judgement: &judgement,
                by_transient: &[],
                calibration_error: Some(0.031),
                reliability: &[CalibrationBin {
                    from: 0.8,
                    count: 90,
                    confidence: 0.9,
                    accuracy: 0.85,
                }],
                shipped: &rate,
            },
            remarks: &["A remark.".to_owned()],
        };
        let html = page.html();
        // Two sources, precision, and calibration with its ideal.
        assert_eq!(html.matches("<polyline").count(), 5);
        assert_eq!(html.matches("<circle").count(), 1);
        assert!(html.contains("&lt;near&gt;") && !html.contains("<near>"));
        for part in [
            "<th>1/h</th><th>shipped (chosen for 1/h)</th>",
            "<p>A remark.</p>",
            "<td>1.00 (0.12–3.61)</td>",
            "<tr><td>thunder &amp; rain</td><td>10</td><td>0.500</td><td>2</td><td>2</td></tr>",
            "<tr><td>wind</td><td>20</td><td>1.500</td><td>0</td><td>0</td></tr>",
            "<tr><td>8000 Hz</td><td>7</td><td>5</td><td>0.25</td></tr>",
            "Expected calibration error 0.031",
            "<tr><td>0.80</td><td>90</td><td>0.900</td><td>0.850</td></tr>",
        ] {
            assert!(html.contains(part), "{part} is missing in {html}");
        }
        assert!(!html.contains("By distance"), "nothing is said of what the data do not hold");
        assert!(html.contains("<tr><td>shot</td><td>3</td><td>1</td></tr>"), "{html}");
        // Nothing is loaded, and nothing is open in the end.
        assert!(!html.contains("http") && !html.contains("src="));
        for tag in ["table", "tr", "td", "svg", "p", "h2", "body", "html"] {
            let (opened, closed) = (format!("<{tag}"), format!("</{tag}>"));
            let opened = html.matches(&format!("{opened}>")).count()
                + html.matches(&format!("{opened} ")).count();
            assert_eq!(opened, html.matches(&closed).count(), "{tag}");
        }
    }
}
