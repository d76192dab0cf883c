//! Times that were wrong when they were stamped, and what becomes of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use ecosight_agent::clock::{Clock, Discipline};
use ecosight_agent::correction::{Correction, Steps, run};
use ecosight_agent::outbox::{Draft, Stamped};
use ecosight_shared::json::AlertDocument;
use ecosight_shared::{Envelope, EventId, Flags, Message, TimeQuality};
use proptest::prelude::*;
use tempfile::tempdir;
use tokio_util::sync::CancellationToken;

use crate::support::{Open, QUOTA, START_US, alert, detection, silent_detection, telemetry, until};

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3_600 * SECOND;
/// What a machine without a clock of its own believes: an hour after 1970, or when it was last on.
const WRONG_US: i64 = HOUR;
const LAST_ON_US: i64 = START_US - 40 * HOUR;

/// A clock that was set once, two hours after it began at `began_us`; the right time then is
/// `START_US` and two hours.
fn set_after_two_hours(began_us: i64) -> Correction {
    let mut steps = Steps::default();
    for second in 0..7_200 {
        steps.observe(second * SECOND, began_us + second * SECOND);
    }
    steps.observe(2 * HOUR, START_US + 2 * HOUR);
    steps.correction().expect("it was set")
}

#[test]
fn a_clock_that_nobody_set_corrects_nothing() {
    let mut steps = Steps::default();
    for second in 0..3_600 {
        // Kept by a time service: slewed, a millisecond a minute.
        steps.observe(second * SECOND, START_US + second * SECOND + second * 1_000 / 60);
    }
    assert!(steps.correction().is_none());
}

#[test]
fn times_before_the_step_move_with_it_and_known_ones_stay() {
    for began in [WRONG_US, LAST_ON_US] {
        let correction = set_after_two_hours(began);
        let of = |at: i64, quality| correction.of(at, quality);
        let (right, free) = (START_US + HOUR, TimeQuality::FreeRunning);
        assert_eq!(of(began + HOUR, TimeQuality::Unknown), Some((right, free)));
        assert_eq!(of(began + HOUR, free), Some((right, free)));
        // An onset is a moment before its stamp, and the step is seen a moment late.
        assert_eq!(of(began - SECOND, free), Some((START_US - SECOND, free)));
        assert!(of(began + 2 * HOUR + SECOND, free).is_some());
        // Stamped after the step, of another life, or by a clock that was known.
        assert_eq!(of(START_US + 2 * HOUR + 1, free), None);
        assert_eq!(of(began - HOUR, free), None);
        assert_eq!(of(began + HOUR, TimeQuality::Network), None);
        assert_eq!(of(began + HOUR, TimeQuality::Gps), None);
    }
}

proptest! {
    /// Whatever a clock is set to and how often, the moment that a stamp was made at comes out again.
    #[test]
    fn a_stamp_comes_out_as_the_moment_it_was_made_at(
        steps in prop::collection::vec((1_i64..10_000, -1_000_000_i64..1_000_000), 1..20),
        at in 0.0..1.0_f64,
    ) {
        let mut history = Steps::default();
        let (mut now, mut ahead) = (0, LAST_ON_US);
        let mut stamps = Vec::new();
        for (seconds, jump) in steps {
            for _ in 0..seconds {
                history.observe(now, now + ahead);
                stamps.push((now, now + ahead));
                now += SECOND;
            }
            // Forwards only, by hours: a clock that is set back shows the same times twice, and then
            // nobody can say which of the two a stamp was.
            ahead += 4 * HOUR + jump.abs() * SECOND;
        }
        history.observe(now, now + ahead);
        let correction = history.correction().expect("it was set");
        let (made, stamp) = stamps[((stamps.len() - 1) as f64 * at) as usize];
        let (right, _) = correction.of(stamp, TimeQuality::FreeRunning).expect("corrected");
        prop_assert_eq!(right, made + ahead);
    }
}

/// `record` as a station stamps it an hour after it began at `began_us`.
fn stamped(record: Stamped, began_us: i64) -> Stamped {
    Stamped { unix_us: began_us + HOUR, time_quality: TimeQuality::Unknown, ..record }
}

#[tokio::test]
async fn what_waits_is_put_right_and_no_event_changes_its_id() {
    let directory = tempdir().expect("a directory");
    let earlier = Open::at(directory.path(), 1, QUOTA).await;
    earlier.outbox.append(vec![stamped(telemetry(1), WRONG_US)], None).await.expect("written");
    earlier.close().await;

    let open = Open::at(directory.path(), 2, QUOTA).await;
    let append = async |record| open.outbox.append(vec![record], None).await.expect("written")[0];
    let alerted = append(stamped(alert(1), WRONG_US)).await;
    let silent = append(stamped(silent_detection(1), WRONG_US)).await;
    let known = append(telemetry(7)).await;
    append(stamped(telemetry(1), WRONG_US)).await;
    let waiting = append(stamped(alert(2), WRONG_US)).await;
    let over = |event| {
        let detection = Box::new(detection(event));
        let draft = Draft::Detection { detection, alerted: true, clip: None };
        stamped(Stamped { draft, ..alert(1) }, WRONG_US)
    };
    append(over(alerted.event)).await;

    let correction = set_after_two_hours(WRONG_US);
    assert_eq!(open.outbox.correct(correction).await.expect("done"), 5);
    // What was heard before and is written only now is right from the beginning.
    let late = append(over(waiting.event)).await;
    let late_alert = append(stamped(alert(3), WRONG_US)).await;
    assert_eq!(late_alert.event, EventId::of(late_alert.record, START_US + HOUR));

    let right = START_US + HOUR;
    for row in open.rows().await {
        let Envelope { header, message } = Envelope::decode(&row.envelope).expect("whole");
        let time = (header.unix_us, header.time_quality);
        let corrected = (right, TimeQuality::FreeRunning);
        if let Some(document) = &row.document {
            let document: AlertDocument = serde_json::from_str(document).expect("JSON");
            assert_eq!(document.time, ecosight_agent::clock::rfc3339(right));
            assert_eq!(document.time_quality, "free-running");
            assert_eq!(document.event_id, EventId::of(header.record, header.unix_us).0);
        }
        match message {
            _ if header.record.boot == 1 => {
                assert_eq!(time, (WRONG_US + HOUR, TimeQuality::Unknown), "of another start");
            }
            _ if header.record == known.record => {
                assert_eq!(time, (START_US + 7 * SECOND, TimeQuality::Network));
            }
            // The frame is 51 bytes at most, and its time is its event's identity.
            Message::Alert(_) if header.record == late_alert.record => assert_eq!(time, corrected),
            Message::Alert(_) => assert_eq!(time, (WRONG_US + HOUR, TimeQuality::Unknown)),
            Message::Detection(detection) => {
                assert_eq!(time, corrected);
                let own = header.record == silent.record;
                assert_eq!(detection.flags.contains(Flags::TIME_CORRECTED), own, "{detection:?}");
                let event = match header.record {
                    record if record == silent.record => silent.event,
                    record if record == late.record => waiting.event,
                    _ => alerted.event,
                };
                assert_eq!(detection.event, event);
            }
            Message::Telemetry(_) => assert_eq!(time, corrected),
            Message::Receipt(_) => panic!("no receipt was written"),
        }
    }
    let level = open.outbox.level().await.expect("reads");
    assert_eq!(level.oldest_us, Some(WRONG_US + HOUR), "of the earlier start");
    // What is still open is completed by the next start with the right time.
    let events = open.outbox.open_events().await.expect("reads");
    assert_eq!(events.len(), 1, "{events:?}");
    open.close().await;
    let open = Open::at(directory.path(), 3, QUOTA).await;
    let events = open.outbox.open_events().await.expect("reads");
    assert_eq!((events[0].event, events[0].unix_us), (late_alert.event, right));
    open.close().await;
}

/// An event that is open when the clock becomes known is completed with the right time even if the
/// station is killed before.
#[tokio::test]
async fn an_open_event_is_put_right_too() {
    let directory = tempdir().expect("a directory");
    let open = Open::at(directory.path(), 1, QUOTA).await;
    let written =
        open.outbox.append(vec![stamped(alert(1), LAST_ON_US)], None).await.expect("written");
    open.outbox.correct(set_after_two_hours(LAST_ON_US)).await.expect("done");
    open.close().await;
    let open = Open::at(directory.path(), 2, QUOTA).await;
    let events = open.outbox.open_events().await.expect("reads");
    let found = (events[0].event, events[0].unix_us, events[0].time_quality);
    assert_eq!(found, (written[0].event, START_US + HOUR, TimeQuality::FreeRunning));
    assert_eq!(events[0].known.onset_sample, 16_000);
    open.close().await;
}

#[tokio::test]
async fn the_outbox_is_put_right_once_the_time_service_knows_the_time() {
    let directory = tempdir().expect("a directory");
    let open = Open::at(directory.path(), 1, QUOTA).await;
    let (wall, steady) = (Arc::new(AtomicI64::new(WRONG_US)), Arc::new(AtomicI64::new(0)));
    let clock = {
        let (wall, steady) = (Arc::clone(&wall), Arc::clone(&steady));
        Clock::from_fns(
            move || wall.load(Ordering::Relaxed),
            move || steady.load(Ordering::Relaxed),
        )
    };
    let stop = CancellationToken::new();
    let running = tokio::spawn(run(clock.clone(), open.outbox.clone(), stop.clone()));
    let stamp = Stamped { unix_us: clock.unix_us(), time_quality: clock.quality(), ..telemetry(1) };
    open.outbox.append(vec![stamp], None).await.expect("written");
    let time =
        async || Envelope::decode(&open.rows().await[0].envelope).expect("whole").header.unix_us;
    // Somebody sets the clock by hand: that it is right now, nobody vouches for.
    wall.store(START_US + HOUR, Ordering::Relaxed);
    steady.store(HOUR, Ordering::Relaxed);
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    assert_eq!(time().await, WRONG_US);
    clock.note(Discipline { quality: TimeQuality::Network, offset_us: None });
    until("the right time", async || time().await == START_US).await;
    stop.cancel();
    running.await.expect("no panic").expect("ends well");
    open.close().await;
}
