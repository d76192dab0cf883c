//! Path: numbers → **plot** → page
//!
//! Lines in a field, as SVG that loads nothing from anywhere.

use std::fmt::Write as _;

use super::page::escaped;

/// Width and height of the field, and its margin, in its own units.
const FIELD: (f64, f64) = (600.0, 300.0);
const MARGIN: f64 = 45.0;
/// Colours of lines; those who do not tell them apart have the tables.
const COLOURS: [&str; 6] = ["#1b6e3c", "#c2410c", "#1d4ed8", "#7e22ce", "#a16207", "#be123c"];

/// A line through points whose coordinates are shares of the field, 0 to 1, from the lower left.
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    pub(super) points: Vec<(f64, f64)>,
    /// Also shows each point.
    pub(super) dots: bool,
}

/// The field, with a scale of tenths on the left and `ticks` (place, text) below.
pub(super) fn plot(axes: (&str, &str), ticks: &[(f64, String)], lines: &[Line<'_>]) -> String {
    let (width, height) = FIELD;
    let x = |share: f64| MARGIN + width * share;
    let y = |share: f64| MARGIN + height * (1.0 - share);
    let mut out = format!(
        "<svg viewBox=\"0 0 {} {}\" font-size=\"12\" fill=\"currentColor\" role=\"img\">",
        width + 5.0 * MARGIN,
        height + 2.5 * MARGIN
    );
    let mut add = |text: std::fmt::Arguments<'_>| {
        // Writing to a String cannot fail.
        let _ = out.write_fmt(text);
    };
    for fifth in 0..=5 {
        let share = f64::from(fifth) / 5.0;
        let (at, right) = (y(share), MARGIN + width);
        add(format_args!("<path d=\"M{MARGIN} {at:.1}H{right}\" stroke=\"#ccc\"/>"));
        add(format_args!("<text x=\"8\" y=\"{at:.1}\">{share:.1}</text>"));
    }
    for (place, text) in ticks {
        let (at, under) = (x(*place), MARGIN + height + 18.0);
        add(format_args!("<text x=\"{at:.1}\" y=\"{under}\">{}</text>", escaped(text)));
    }
    let (across, up) = axes;
    let (middle, under) = (MARGIN + width / 2.0, MARGIN + height + 40.0);
    add(format_args!("<text x=\"{middle}\" y=\"{under}\">{}</text>", escaped(across)));
    add(format_args!("<text x=\"8\" y=\"20\">{}</text>", escaped(up)));
    for (number, line) in lines.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let places: Vec<String> = line
            .points
            .iter()
            .map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1)))
            .collect();
        add(format_args!(
            "<polyline fill=\"none\" stroke-width=\"2\" stroke=\"{colour}\" points=\"{}\"/>",
            places.join(" ")
        ));
        for (across, up) in line.points.iter().filter(|_| line.dots) {
            let (at, high) = (x(*across), y(*up));
            add(format_args!(
                "<circle cx=\"{at:.1}\" cy=\"{high:.1}\" r=\"3\" fill=\"{colour}\"/>"
            ));
        }
        let (right, under) = (MARGIN + width + 8.0, MARGIN + 18.0 * number as f64);
        let name = escaped(line.name);
        add(format_args!("<text x=\"{right}\" y=\"{under}\" fill=\"{colour}\">{name}</text>"));
    }
    out.push_str("</svg>");
    out
}

/// Ticks at every fifth of a scale from 0 to 1.
pub(super) fn fifths() -> Vec<(f64, String)> {
    (0..=5).map(|fifth| f64::from(fifth) / 5.0).map(|at| (at, format!("{at:.1}"))).collect()
}
