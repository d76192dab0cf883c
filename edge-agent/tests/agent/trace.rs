//! What is remembered beside events, and the answers that it gives.

use std::collections::BTreeMap;
use std::time::Duration;

use ecosight_agent::candidate::{Candidate, Candidates, Look, Stopped};
use ecosight_agent::trace::{self, Entry, EventRow, MinuteRow};
use ecosight_agent::why;
use tempfile::tempdir;

use crate::support::START_US;

const MINUTE: i64 = 60_000_000;
const DAY: i64 = 86_400_000_000;

fn look(scores: &[f32], confirmation: f32, in_event: bool) -> Look<'_> {
    Look {
        peak_sample: 100,
        level_dbfs: -30.0,
        noise_floor_dbfs: -50.0,
        scores,
        confirmation,
        in_event,
    }
}

/// Pushes windows of (score, confirmation) and ends; gives the one candidate there must be.
fn candidate(bundle: f32, threshold: f32, windows: &[(f32, f32)]) -> Option<Candidate> {
    let mut candidates = Candidates::new(0, bundle);
    let mut found = Vec::new();
    for (score, confirmation) in windows {
        found.extend(candidates.push(look(&[*score], *confirmation, false), threshold));
    }
    found.extend(candidates.end());
    assert!(found.len() <= 1, "{found:?}");
    found.pop()
}

#[test]
fn what_came_near_is_remembered_with_the_rule_that_stopped_it() {
    let stopped = |bundle, threshold, windows: &[(f32, f32)]| {
        candidate(bundle, threshold, windows).map(|candidate| candidate.stopped)
    };
    assert_eq!(stopped(0.9, 0.9, &[(0.1, 0.0), (0.2, 0.15)]), None, "not near");
    assert_eq!(stopped(0.9, 0.9, &[(0.1, 0.0), (0.8, 0.45)]), Some(Stopped::Threshold));
    assert_eq!(stopped(0.9, 0.9, &[(0.97, 0.5), (0.3, 0.63)]), Some(Stopped::Confirmation));
    assert_eq!(stopped(0.9, 0.99, &[(0.95, 0.5), (0.95, 0.95)]), Some(Stopped::Budget));
    let best = candidate(0.9, 0.9, &[(0.7, 0.3), (0.8, 0.75), (0.6, 0.7)]).expect("near");
    assert_eq!((best.score, best.confirmation, best.windows), (0.8, 0.75, 3));
}

#[test]
fn what_becomes_an_event_is_no_candidate() {
    let mut candidates = Candidates::new(0, 0.9);
    assert_eq!(candidates.push(look(&[0.8], 0.4, false), 0.9), None);
    assert_eq!(candidates.push(look(&[0.99], 0.92, true), 0.9), None);
    assert_eq!(candidates.push(look(&[0.1], 0.5, true), 0.9), None);
    assert_eq!(candidates.end(), None);
}

fn minute(unix_us: i64, score: f32) -> Entry {
    part_of_a_minute(unix_us, -52.0, &[("gun_shot", score)])
}

fn part_of_a_minute(unix_us: i64, floor_dbfs: f32, highest: &[(&str, f32)]) -> Entry {
    Entry::Minute(MinuteRow {
        unix_us,
        windows: 125,
        speech: 3,
        noise_floor_dbfs: Some(floor_dbfs),
        highest: highest.iter().map(|(class, score)| ((*class).to_owned(), *score)).collect(),
    })
}

fn near(unix_us: i64, score: f32, stopped: Stopped) -> Entry {
    let candidate = Candidate {
        class: 0,
        peak_sample: 0,
        score,
        confirmation: score - 0.1,
        threshold: 0.9,
        stopped,
        level_dbfs: -31.0,
        noise_floor_dbfs: -52.0,
        windows: 2,
        scores: vec![score],
    };
    Entry::Candidate { unix_us, class: "gun_shot".into(), candidate }
}

fn event(unix_us: i64, alert: bool) -> Entry {
    Entry::Event(EventRow {
        unix_us,
        class: if alert { "gun_shot" } else { "vehicle" }.into(),
        score: 0.95,
        threshold: 0.9,
        level_dbfs: -20.0,
        alert,
    })
}

async fn written(entries: Vec<Entry>) -> tempfile::TempDir {
    let directory = tempdir().expect("a directory");
    let (tracer, received) = trace::channel();
    let task = tokio::spawn(trace::run(directory.path().into(), received));
    for entry in entries {
        tracer.note(entry);
    }
    drop(tracer);
    task.await.expect("no panic");
    directory
}

#[tokio::test]
async fn every_question_has_an_answer() {
    let hour = 60 * MINUTE;
    let directory = written(vec![
        minute(START_US, 0.2),
        minute(START_US + hour, 0.8),
        near(START_US + hour + 5_000_000, 0.8, Stopped::Threshold),
        minute(START_US + 2 * hour, 0.97),
        near(START_US + 2 * hour + 5_000_000, 0.97, Stopped::Confirmation),
        minute(START_US + 3 * hour, 0.97),
        near(START_US + 3 * hour + 5_000_000, 0.97, Stopped::Budget),
        minute(START_US + 4 * hour, 0.97),
        event(START_US + 4 * hour + 1_000_000, true),
        minute(START_US + 5 * hour, 0.1),
        event(START_US + 5 * hour + 1_000_000, false),
        Entry::Background(b"{}".to_vec()),
    ])
    .await;
    let answer = async |at: i64| {
        why::why(directory.path(), at, Duration::from_secs(90)).await.expect("answers").answer
    };
    for (at, part) in [
        (START_US + 30_000_000, "nothing came near"),
        (START_US + hour, "came near with score 0.800; the threshold is 0.900"),
        (START_US + 2 * hour, "neighbours did not confirm"),
        (START_US + 3 * hour, "the false-alarm budget has raised it"),
        (START_US + 4 * hour, "did alert: gun_shot"),
        (START_US + 5 * hour, "Something else was heard: vehicle"),
        (START_US + 6 * hour, "was not listening"),
    ] {
        let found = answer(at).await;
        assert!(found.contains(part), "{part} in {found}");
    }
    let all = why::why(directory.path(), START_US + hour, Duration::from_secs(90)).await;
    let text = why::text(&all.expect("answers"));
    assert!(
        text.contains("candidate  gun_shot score 0.800")
            && text.contains("all classes in the model's order 0.80")
            && text.contains("125 windows"),
        "{text}"
    );
    let kept = std::fs::read(directory.path().join(trace::BACKGROUND_FILE)).expect("written");
    assert_eq!(kept, b"{}");
}

#[tokio::test]
async fn two_weeks_are_remembered_and_no_more_rows_than_fit() {
    let old = START_US - 15 * DAY;
    let mut entries = vec![minute(old, 0.1), near(old, 0.8, Stopped::Threshold), event(old, true)];
    entries.push(minute(START_US - 13 * DAY, 0.1));
    entries.push(minute(START_US, 0.1));
    let directory = written(entries).await;
    let kept = trace::read(directory.path(), i64::MIN / 2, i64::MAX / 2).await.expect("reads");
    assert_eq!((kept.minutes.len(), kept.candidates.len(), kept.events.len()), (2, 0, 0));

    let directory = tempdir().expect("a directory");
    let (tracer, received) = trace::channel();
    let task = tokio::spawn(trace::run(directory.path().into(), received));
    let telling = tokio::task::spawn_blocking(move || {
        for i in 0..trace::ROWS_MAX + 900 {
            tracer.note_last(near(START_US + i, 0.8, Stopped::Threshold));
        }
    });
    telling.await.expect("no panic");
    task.await.expect("no panic");
    let kept = trace::read(directory.path(), START_US, START_US + DAY).await.expect("reads");
    assert_eq!(kept.candidates.len() as i64, trace::ROWS_MAX);
    assert_eq!(kept.candidates[0].unix_us, START_US + 900, "the oldest went");
}

#[tokio::test]
async fn a_minute_cut_in_two_is_one_and_a_damaged_file_begins_anew() {
    let halves = vec![
        part_of_a_minute(START_US, -52.0, &[("gun_shot", 0.8), ("dog", 0.1)]),
        part_of_a_minute(START_US, -55.0, &[("gun_shot", 0.2), ("dog", 0.3), ("vehicle", 0.4)]),
    ];
    let directory = written(halves).await;
    let kept = trace::read(directory.path(), START_US, START_US).await.expect("reads");
    let highest = [("gun_shot", 0.8), ("dog", 0.3), ("vehicle", 0.4)];
    let highest = highest.map(|(class, score)| (class.to_owned(), score));
    let whole = MinuteRow {
        unix_us: START_US,
        windows: 250,
        speech: 6,
        noise_floor_dbfs: Some(-55.0),
        highest: BTreeMap::from(highest),
    };
    assert_eq!(kept.minutes, [whole]);

    crate::station::write(&directory.path().join(trace::FILE), &[7; 9_000]);
    let (tracer, received) = trace::channel();
    let task = tokio::spawn(trace::run(directory.path().into(), received));
    tracer.note(minute(START_US, 0.1));
    drop(tracer);
    task.await.expect("no panic");
    let kept = trace::read(directory.path(), START_US, START_US).await.expect("reads");
    assert_eq!(kept.minutes.len(), 1);
}

#[tokio::test]
async fn without_a_trace_the_question_says_where_it_looked() {
    let directory = tempdir().expect("a directory");
    let error = why::why(directory.path(), START_US, Duration::from_secs(9)).await;
    let text = error.expect_err("nothing there").to_string();
    assert!(text.contains("trace.db") && text.contains("storage.data_dir"), "{text}");
}

#[test]
fn times_are_read_as_people_write_them() {
    assert_eq!(why::time("2026-03-01T18:00:00Z"), Ok(START_US));
    assert_eq!(why::time("2026-03-01T20:00:00+02:00"), Ok(START_US));
    assert!(why::time("2026-03-01 18:00").is_ok());
    assert!(why::time("yesterday").expect_err("no time").contains("2026-01-31T06:02:00Z"));
}
