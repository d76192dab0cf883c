//! Path: clock → correction → outbox
//!
//! Times that were wrong when they were written, put right once the clock is known.
//!
//! A machine without battery-backed clock and without network begins at whatever time it knew last,
//! and what is heard is stamped with that. By how much its clock is moved afterwards can be seen
//! against a clock that nobody moves, so that what still waits in the outbox leaves with the right
//! time. What the cloud has already keeps its time, and the quality that was stated with it.

use std::time::Duration;

use ecosight_shared::json::AlertDocument;
use ecosight_shared::{Envelope, EventId, Flags, MAX_ENVELOPE_LEN, Message, TimeQuality};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, rfc3339};
use crate::outbox::{Outbox, OutboxError, Row};

/// A clock that differs from what is expected by this much was set. Less is how it is kept.
const STEP_US: i64 = 500_000;
/// How often it is looked at. A time is put right to this when it was stamped next to a step.
const LOOK: Duration = Duration::from_secs(1);
/// So far outside the span in which it was stamped may a time lie: an onset is before its stamp, and
/// a step is seen late.
const SLACK_US: i64 = 3_000_000;
/// Steps that are remembered; the oldest is forgotten first.
const SPANS_MAX: usize = 64;
/// Pause after the outbox refused.
const RETRY: Duration = Duration::from_secs(60);

/// How a clock was moved so far.
#[derive(Clone, Debug, Default)]
pub struct Steps {
    spans: Vec<Span>,
}

/// A time in which nobody moved it.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// Its beginning, by the steady clock.
    since_us: i64,
    /// What the wall clock shows more than the steady one.
    ahead_us: i64,
}

/// What times that were stamped before the clock was known have to be moved by.
#[derive(Clone, Debug)]
pub struct Correction {
    spans: Vec<Shift>,
}

/// Times of one span, and what they lack.
#[derive(Clone, Copy, Debug)]
struct Shift {
    from_us: i64,
    until_us: i64,
    by_us: i64,
}

/// A record as it should have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corrected {
    /// Its time.
    pub unix_us: i64,
    /// Its envelope.
    pub envelope: Vec<u8>,
    /// Its document, of alerts.
    pub document: Option<String>,
}

impl Steps {
    /// Notes what the wall clock and a clock that nobody moves show at one moment, µs.
    pub fn observe(&mut self, steady_us: i64, wall_us: i64) {
        let ahead_us = wall_us - steady_us;
        if self.spans.last().is_some_and(|span| (span.ahead_us - ahead_us).abs() < STEP_US) {
            return;
        }
        self.spans.push(Span { since_us: steady_us, ahead_us });
        if self.spans.len() > SPANS_MAX {
            self.spans.remove(0);
        }
    }

    /// What that means for earlier times, now that the clock is right; nothing if it never moved.
    #[must_use]
    pub fn correction(&self) -> Option<Correction> {
        let (last, earlier) = self.spans.split_last()?;
        if earlier.is_empty() {
            return None;
        }
        let ends = self.spans.iter().skip(1).map(|next| next.since_us).chain([i64::MAX / 2]);
        let shift = |(span, end): (&Span, i64)| Shift {
            from_us: span.since_us + span.ahead_us,
            until_us: end + span.ahead_us,
            by_us: last.ahead_us - span.ahead_us,
        };
        Some(Correction { spans: self.spans.iter().zip(ends).map(shift).collect() })
    }
}

impl Correction {
    /// The right time in place of `unix_us`, and its quality; nothing if it was stamped by a clock
    /// that was known, or after the last step.
    ///
    /// Reckoned back from a later moment by a clock that nobody kept, it is of the quality of one that
    /// was set once.
    #[must_use]
    pub fn of(&self, unix_us: i64, quality: TimeQuality) -> Option<(i64, TimeQuality)> {
        if matches!(quality, TimeQuality::Network | TimeQuality::Gps) {
            return None;
        }
        let outside =
            |shift: &Shift| (shift.from_us - unix_us).max(unix_us - shift.until_us).max(0);
        // Of two that fit equally well the later one: it moves the time less often.
        let nearest = self.spans.iter().rev().min_by_key(|shift| outside(shift))?;
        let moved = outside(nearest) <= SLACK_US && nearest.by_us != 0;
        moved.then_some((unix_us + nearest.by_us, TimeQuality::FreeRunning))
    }

    /// The record `row` as it should have been; nothing if it is right.
    ///
    /// No event changes its id, which follows from the time that its first record was stamped with: an
    /// alert's envelope stays as it is and its document is put right, and a detection whose id is of its
    /// own record is marked.
    #[must_use]
    pub fn of_record(&self, row: &Row) -> Option<Corrected> {
        let Envelope { mut header, mut message } = Envelope::decode(&row.envelope).ok()?;
        let (unix_us, quality) = self.of(header.unix_us, header.time_quality)?;
        let derived = EventId::of(header.record, header.unix_us);
        match &mut message {
            Message::Alert(_) => {
                let mut document: AlertDocument =
                    serde_json::from_str(row.document.as_deref()?).ok()?;
                restamp(&mut document, unix_us, quality);
                let document = Some(serde_json::to_string(&document).ok()?);
                return Some(Corrected { unix_us, envelope: row.envelope.clone(), document });
            }
            Message::Detection(detection) if detection.event == derived => {
                detection.flags.0 |= Flags::TIME_CORRECTED.0;
            }
            Message::Detection(_) | Message::Telemetry(_) => {}
            Message::Receipt(_) => return None,
        }
        (header.unix_us, header.time_quality) = (unix_us, quality);
        let mut buffer = [0; MAX_ENVELOPE_LEN];
        let envelope = Envelope { header, message }.encode(&mut buffer).ok()?.to_vec();
        Some(Corrected { unix_us, envelope, document: row.document.clone() })
    }
}

/// Gives an alert's document another time.
pub(crate) fn restamp(document: &mut AlertDocument, unix_us: i64, quality: TimeQuality) {
    document.time = rfc3339(unix_us);
    quality.name().clone_into(&mut document.time_quality);
}

/// Watches the clock until it is known, and then puts right what waits in the outbox, once.
///
/// # Errors
/// The outbox has stopped. When it refuses for another reason it is asked again.
pub async fn run(clock: Clock, outbox: Outbox, stop: CancellationToken) -> Result<(), OutboxError> {
    let mut pause = LOOK;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        pause = LOOK;
        clock.observe();
        let Some(correction) = clock.correction() else { continue };
        match outbox.correct(correction).await {
            Ok(records) => {
                tracing::info!(records, "the clock is known now: earlier times are put right");
                break;
            }
            Err(OutboxError::Stopped) => return Err(OutboxError::Stopped),
            Err(error) => {
                tracing::error!(%error, "times cannot be put right yet, trying again");
                pause = RETRY;
            }
        }
    }
    stop.cancelled().await;
    Ok(())
}
