//! `why`: there was a shot, why no alert?
//!
//! Reads the trace that the station keeps (see [`crate::trace`]), also while it runs.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, anyhow};
use serde::Serialize;

use crate::clock::rfc3339;
use crate::trace::{self, CandidateRow, EventRow, MinuteRow, Traces};

/// An answer.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// Beginning of the while that was looked at, RFC 3339 UTC.
    pub from: String,
    /// Its end.
    pub to: String,
    /// One sentence.
    pub answer: String,
    /// Everything that is remembered.
    #[serde(flatten)]
    pub traces: Traces,
}

/// Reads a time: RFC 3339, or `2026-01-31 06:02` of this machine's time zone.
///
/// # Errors
/// It is neither.
pub fn time(text: &str) -> Result<i64, String> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(time.as_microsecond());
    }
    let local: jiff::civil::DateTime = text.parse().map_err(|_| {
        format!(
            "\"{text}\" is no time; write 2026-01-31T06:02:00Z, or 2026-01-31 06:02 for local time"
        )
    })?;
    let time = jiff::tz::TimeZone::system().to_timestamp(local);
    Ok(time.map_err(|error| error.to_string())?.as_microsecond())
}

/// What happened within `within` of `at_us`.
///
/// # Errors
/// There is no trace.
pub async fn why(data_dir: &Path, at_us: i64, within: Duration) -> Result<Answer> {
    let span = i64::try_from(within.as_micros()).map_err(|_| anyhow!("that is too long"))?;
    let (from_us, to_us) = (at_us - span, at_us + span);
    // A minute is remembered by its beginning.
    let mut traces = trace::read(data_dir, from_us - 59_999_999, to_us).await?;
    traces.events.retain(|event| event.unix_us >= from_us);
    traces.candidates.retain(|candidate| candidate.unix_us >= from_us);
    let answer = conclude(&traces);
    Ok(Answer { from: rfc3339(from_us), to: rfc3339(to_us), answer, traces })
}

/// The one sentence: the first reason that applies.
fn conclude(traces: &Traces) -> String {
    if let Some(event) = traces.events.iter().find(|event| event.alert) {
        return format!(
            "The station did alert: {} at {}, score {:.3}. If it did not arrive, look at the link.",
            event.class,
            rfc3339(event.unix_us),
            event.score
        );
    }
    if traces.minutes.is_empty() && traces.events.is_empty() && traces.candidates.is_empty() {
        return format!(
            "The station was not listening, or it is longer ago than {} days.",
            trace::KEPT_DAYS
        );
    }
    let best = traces.candidates.iter().max_by(|a, b| a.score.total_cmp(&b.score));
    if let Some(best) = best {
        return match best.stopped.as_str() {
            "budget" => format!(
                "{} at {} would have been an alert at the bundle's threshold (score {:.3}); the \
                 false-alarm budget has raised it to {:.3}.",
                best.class,
                rfc3339(best.unix_us),
                best.confirmation,
                best.threshold
            ),
            "confirmation" => format!(
                "{} at {} reached the threshold {:.3} in a single window (score {:.3}), but its \
                 neighbours did not confirm it (mean {:.3}).",
                best.class,
                rfc3339(best.unix_us),
                best.threshold,
                best.score,
                best.confirmation
            ),
            _ => format!(
                "{} at {} came near with score {:.3}; the threshold is {:.3}.",
                best.class,
                rfc3339(best.unix_us),
                best.score,
                best.threshold
            ),
        };
    }
    if let Some(event) = traces.events.first() {
        return format!(
            "Something else was heard: {} at {}, a class that does not alert.",
            event.class,
            rfc3339(event.unix_us)
        );
    }
    let short = traces.minutes.iter().any(|minute| minute.windows < 100);
    let gaps = if short { " There are gaps in the sound." } else { "" };
    let loudest = traces.minutes.iter().filter_map(|m| m.noise_floor_dbfs).fold(f32::MIN, f32::max);
    format!(
        "The station was listening and nothing came near the thresholds; the noise floor was \
         {loudest:.0} dBFS.{gaps}"
    )
}

/// For people.
#[must_use]
pub fn text(answer: &Answer) -> String {
    let mut text = format!("{}\n\n", answer.answer);
    for MinuteRow { unix_us, windows, speech, noise_floor_dbfs, highest } in &answer.traces.minutes
    {
        let mut ranked: Vec<(&String, &f32)> = highest.iter().collect();
        ranked.sort_by(|a, b| b.1.total_cmp(a.1));
        let ranked: Vec<String> =
            ranked.iter().map(|(class, score)| format!("{class} {score:.3}")).collect();
        let floor =
            noise_floor_dbfs.map_or_else(String::new, |f| format!(", noise floor {f:.0} dBFS"));
        let _ = writeln!(
            text,
            "{}  minute     {windows} windows, {speech} with speech{floor}; highest {}",
            rfc3339(*unix_us),
            ranked.join(", ")
        );
    }
    for EventRow { unix_us, class, score, threshold, level_dbfs, alert } in &answer.traces.events {
        let _ = writeln!(
            text,
            "{}  {}  {class} score {score:.3} (threshold {threshold:.3}), {level_dbfs:.1} dBFS",
            rfc3339(*unix_us),
            if *alert { "ALERT    " } else { "event    " },
        );
    }
    for row in &answer.traces.candidates {
        let CandidateRow { unix_us, class, score, confirmation, threshold, stopped, .. } = row;
        let scores: Vec<String> = row.scores.iter().map(|score| format!("{score:.2}")).collect();
        let _ = writeln!(
            text,
            "{}  candidate  {class} score {score:.3}, confirmation {confirmation:.3}, threshold \
             {threshold:.3}; stopped by {stopped}; {:.1} dBFS over {:.1}; all classes in the \
             model's order {}",
            rfc3339(*unix_us),
            row.level_dbfs,
            row.noise_floor_dbfs,
            scores.join(" ")
        );
    }
    text
}
