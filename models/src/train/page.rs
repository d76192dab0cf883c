//! Path: what was measured → **page** → bundle
//!
//! The evaluation as one HTML file that loads nothing from anywhere: for those who decide whether to
//! trust a bundle and do not read JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write as _};

use super::card::{form_name, shown};
use super::judgement::{CurvePoint, Judgement, RatePoint, TransientLine};

/// Width and height of the curve's field, and its margin, in its own units.
const FIELD: (f64, f64) = (600.0, 300.0);
const MARGIN: f64 = 45.0;
/// Colours of lines; those who do not tell them apart have the table.
const COLOURS: [&str; 6] = ["#1b6e3c", "#c2410c", "#1d4ed8", "#7e22ce", "#a16207", "#be123c"];

/// What a page shows.
pub struct Page<'a> {
    /// Name and version of the bundle.
    pub title: &'a str,
    /// How the data were split.
    pub protocol: &'a str,
    /// Names of the classes, in the order of the confusion matrix.
    pub classes: Vec<&'a str>,
    /// What was measured out of fold.
    pub judgement: &'a Judgement,
    /// The same by transient signal-to-noise ratio.
    pub by_transient: &'a [TransientLine],
    /// What the shipped threshold does.
    pub shipped: &'a RatePoint,
}

impl Page<'_> {
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
            escaped(self.protocol)
        );
        let judgement = self.judgement;
        let _ = write!(
            out,
            "<p>Background: {} clips, {:.2} h. Average precision over clips {}, ROC area {}.</p>\
             <h2>Recall against false alarms</h2>",
            judgement.background_clips,
            judgement.background_hours,
            shown(judgement.average_precision),
            shown(judgement.roc_auc)
        );
        out.push_str(&curve(&judgement.curve));
        self.rates(&mut out);
        self.transients(&mut out);
        self.classes(&mut out);
        out.push_str("</body></html>\n");
        out
    }

    fn rates(&self, out: &mut String) {
        let rates: Vec<&RatePoint> = self.judgement.rates.iter().chain([self.shipped]).collect();
        let head = rates.iter().map(|rate| match rate.per_hour {
            Some(per_hour) => format!("{per_hour}/h"),
            None => "shipped".to_owned(),
        });
        let mut rows = vec![
            cells("threshold", rates.iter().map(|rate| format!("{:.3}", rate.threshold))),
            cells("false alarms", rates.iter().map(|rate| rate.false_alarms)),
        ];
        for (index, first) in self.shipped.recall.iter().enumerate() {
            let name =
                format!("{}, {} ({} clips)", first.source, form_name(first.form), first.clips);
            let recall = rates.iter().map(|rate| {
                let own = &rate.recall[index];
                let [low, high] = own.interval.unwrap_or([f64::NAN; 2]);
                format!("{:.2} ({low:.2}–{high:.2})", own.recall)
            });
            rows.push(cells(&name, recall));
        }
        out.push_str(
            "<p>The last column is what is shipped. Intervals: 95 %, over recordings.</p>",
        );
        table(out, &cells("", head), &rows);
        let labels: BTreeSet<&String> =
            rates.iter().flat_map(|rate| rate.by_label.keys()).collect();
        let alarms = |label: &String| {
            let count = |rate: &&RatePoint| rate.by_label.get(label).copied().unwrap_or(0);
            cells(label, rates.iter().map(count).collect::<Vec<_>>())
        };
        out.push_str("<h2>What the false alarms were</h2>");
        let head = rates.iter().map(|rate| format!("{:.3}", rate.threshold));
        table(
            out,
            &cells("at threshold", head),
            &labels.into_iter().map(alarms).collect::<Vec<_>>(),
        );
    }

    fn transients(&self, out: &mut String) {
        if self.by_transient.is_empty() {
            return;
        }
        out.push_str(
            "<h2>By transient ratio</h2><p>How far the loudest 20 ms stand out of the clip's median, \
             100–1500 Hz.</p>",
        );
        let rates = self
            .judgement
            .rates
            .iter()
            .map(|rate| format!("{}/h", rate.per_hour.unwrap_or_default()));
        let head =
            cells("source", ["from dB".to_owned(), "clips".to_owned()].into_iter().chain(rates));
        let rows: Vec<Vec<String>> = self
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
        let judgement = self.judgement;
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
    let ((width, height), (low, high)) = (FIELD, (first.per_hour.ln(), last.per_hour.ln()));
    let x = |per_hour: f64| MARGIN + width * (per_hour.ln() - low) / (high - low).max(1e-9);
    let y = |recall: f64| MARGIN + height * (1.0 - recall);
    let mut out = format!(
        "<svg viewBox=\"0 0 {} {}\" font-size=\"12\" fill=\"currentColor\" role=\"img\">",
        width + 5.0 * MARGIN,
        height + 2.0 * MARGIN
    );
    let mut add = |text: std::fmt::Arguments<'_>| {
        let _ = out.write_fmt(text);
    };
    for tenth in (0..=10).step_by(2) {
        let (recall, right) = (f64::from(tenth) / 10.0, MARGIN + width);
        let at = y(recall);
        add(format_args!("<path d=\"M{MARGIN} {at:.1}H{right}\" stroke=\"#ccc\"/>"));
        add(format_args!("<text x=\"8\" y=\"{at:.1}\">{recall:.1}</text>"));
    }
    for point in points.iter().step_by(3) {
        let (at, under) = (x(point.per_hour), MARGIN + height + 18.0);
        add(format_args!("<text x=\"{at:.1}\" y=\"{under}\">{}/h</text>", point.per_hour));
    }
    let mut lines: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for point in points {
        for (source, recall) in &point.recall {
            let place = format!("{:.1},{:.1}", x(point.per_hour), y(*recall));
            lines.entry(source).or_default().push(place);
        }
    }
    for (number, (source, places)) in lines.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        add(format_args!(
            "<polyline fill=\"none\" stroke-width=\"2\" stroke=\"{colour}\" points=\"{}\"/>",
            places.join(" ")
        ));
        let (right, under) = (MARGIN + width + 8.0, MARGIN + 18.0 * number as f64);
        let name = escaped(source);
        add(format_args!("<text x=\"{right}\" y=\"{under}\" fill=\"{colour}\">{name}</text>"));
    }
    out.push_str("</svg>");
    out
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

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
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
            by_label: BTreeMap::from([("thunder & rain".to_owned(), 2)]),
            recall: Vec::new(),
        };
        let judgement = Judgement {
            background_hours: 2.0,
            background_clips: 30,
            rates: vec![rate.clone()],
            curve: vec![point(0.2, 0.4), point(1.0, 0.8), point(10.0, 1.0)],
            average_precision: Some(0.75),
            roc_auc: None,
            classes: Vec::new(),
            accuracy: None,
            confusion: vec![vec![3, 1], vec![0, 4]],
        };
        let page = Page {
            title: "ear 1.0.0",
            protocol: "Six folds.",
            classes: vec!["shot", "rest"],
            judgement: &judgement,
            by_transient: &[],
            shipped: &rate,
        };
        let html = page.html();
        assert_eq!(html.matches("<polyline").count(), 2);
        assert!(html.contains("&lt;near&gt;") && !html.contains("<near>"));
        assert!(
            html.contains("<tr><td>thunder &amp; rain</td><td>2</td><td>2</td></tr>"),
            "{html}"
        );
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
