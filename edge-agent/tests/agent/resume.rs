//! A replay that is killed: every event once, with its clip.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ecosight_agent::clip::Recording;
use ecosight_agent::health::Health;
use ecosight_agent::hearing::{Heard, Onset, channel};
use ecosight_agent::outbox::ReplayPosition;
use ecosight_agent::recorder::{Recorder, Storage};
use ecosight_agent::resume::{Progress, REWIND, Resume, Verdict};
use ecosight_models::HOP_SAMPLES;
use ecosight_shared::{Envelope, EventId, Message, TimeQuality};
use tempfile::tempdir;
use tokio::sync::mpsc;

use crate::support::{CLASSES, Open, QUOTA, Random, START_US, event, identity};

const SECOND: u64 = 16_000;
const LENGTH: u64 = 400 * SECOND;

/// An event of the recording, as a detector that hears all of it raises it.
#[derive(Clone, Copy, Debug)]
struct Scripted {
    class: usize,
    onset: u64,
    end: u64,
}

/// Events of three classes, those of one class apart as a detector keeps them. Some last long.
fn script(random: &mut Random) -> Vec<Scripted> {
    let mut events = Vec::new();
    for class in 0..CLASSES.len() {
        let mut at = random.below(20 * SECOND);
        loop {
            let lasts = if random.below(5) == 0 { 40 * SECOND } else { 2 * SECOND };
            let onset = at + SECOND;
            let end = onset + SECOND + random.below(lasts);
            if end + 10 * SECOND > LENGTH {
                break;
            }
            events.push(Scripted { class, onset, end });
            at = end + 3 * SECOND + random.below(40 * SECOND);
        }
    }
    events
}

fn recording(samples: Vec<i16>, time: Onset) -> Option<Recording> {
    Some(Recording { samples, time, redacted: Vec::new() })
}

/// What the listening thread tells of a scripted recording from `begin` on: an event that began
/// before is heard from there, as a detector would.
fn tellings(script: &[Scripted], begin: u64) -> Vec<Heard> {
    let mut at: Vec<(u64, u8, Heard)> = Vec::new();
    let mut number = 0;
    for scripted in script.iter().filter(|event| event.end > begin + 2 * SECOND) {
        number += 1;
        let onset = if scripted.onset >= begin { scripted.onset } else { begin + SECOND / 2 };
        let event = event(number, scripted.class, onset, scripted.end);
        let time = Onset {
            unix_us: START_US + (onset * 1_000_000 / SECOND) as i64,
            quality: TimeQuality::FreeRunning,
        };
        let copy = event.clone();
        at.push((event.decided_sample, 0, Heard::Confirmed { event: copy, time }));
        let recording = recording(vec![scripted.class as i16; 100], time);
        at.push((scripted.end + 5 * SECOND, 1, Heard::Closed { event, time, recording }));
    }
    if begin > 0 {
        // Taken up in the middle, a station may hear what is none.
        let (onset, end) = (begin + 2 * SECOND, begin + 3 * SECOND);
        let phantom = event(1_000, 2, onset, end);
        let time = Onset { unix_us: START_US, quality: TimeQuality::FreeRunning };
        let copy = phantom.clone();
        at.push((phantom.decided_sample, 0, Heard::Confirmed { event: copy, time }));
        let recording = recording(vec![0; 9], time);
        at.push((end + 5 * SECOND, 1, Heard::Closed { event: phantom, time, recording }));
    }
    let mut sample = begin + 8 * SECOND;
    while sample <= LENGTH {
        let open =
            |event: &&Scripted| event.onset + 20_000 <= sample && sample < event.end + 5 * SECOND;
        let earliest = script.iter().filter(open).map(|event| event.onset).min();
        let safe = sample.min(earliest.unwrap_or(u64::MAX));
        at.push((sample, 2, Heard::Progress { sample: safe, item: 0, item_start: 0 }));
        sample += 8 * SECOND;
    }
    at.sort_by_key(|(sample, order, _)| (*sample, *order));
    at.into_iter().map(|(.., heard)| heard).collect()
}

/// One run of the recorder, killed after `survives` messages.
async fn run(directory: &Path, boot: u32, script: &[Scripted], survives: Option<usize>) {
    let open = Open::at(directory, boot, QUOTA).await;
    let position = open.outbox.replay_position().await.expect("reads");
    let position = position.unwrap_or_else(|| ReplayPosition {
        stream: "script".into(),
        sample: 0,
        item: 0,
        item_start: 0,
        ends: BTreeMap::new(),
    });
    let resume = Resume::new(&position, open.outbox.open_events().await.expect("reads"));
    let begin = resume.begin(&position);
    let clips = directory.join("clips");
    std::fs::create_dir_all(&clips).expect("made");
    let storage = Storage { clips, reserve: 0, max_clips: u64::MAX, reel: None };
    let recorder = Recorder::new(
        identity(),
        storage,
        open.outbox.clone(),
        Arc::new(Health::default()),
        "script".into(),
        resume,
        Some(Progress::new(position)),
    );
    let (tell, told): (mpsc::Sender<Heard>, _) = channel();
    let recording = tokio::spawn(recorder.run(told));
    for heard in tellings(script, begin).into_iter().take(survives.unwrap_or(usize::MAX)) {
        tell.send(heard).await.expect("listens");
    }
    if survives.is_some() {
        // Killed: what the outbox has not taken by now never comes.
        recording.abort();
        let _ = recording.await;
        drop(tell);
    } else {
        drop(tell);
        recording.await.expect("no panic").expect("records");
    }
    open.close().await;
}

#[tokio::test]
async fn every_event_is_written_once_however_often_the_station_is_killed() {
    for seed in 1..=12 {
        let mut random = Random(seed * 7_919);
        let script = script(&mut random);
        let directory = tempdir().expect("a directory");
        let mut boot = 1;
        for _ in 0..10 {
            run(directory.path(), boot, &script, Some(random.below(60) as usize)).await;
            boot += 1;
        }
        run(directory.path(), boot, &script, None).await;

        let open = Open::at(directory.path(), boot + 1, QUOTA).await;
        let mut alerts: BTreeMap<EventId, i64> = BTreeMap::new();
        let mut detections: Vec<(EventId, String, i64, bool)> = Vec::new();
        for row in open.rows().await {
            let Envelope { header, message } = Envelope::decode(&row.envelope).expect("decodes");
            match message {
                Message::Alert(_) => {
                    let id = EventId::of(header.record, header.unix_us);
                    assert!(alerts.insert(id, header.unix_us).is_none());
                }
                Message::Detection(detection) => detections.push((
                    detection.event,
                    detection.class.to_string(),
                    header.unix_us,
                    detection.clip.is_some(),
                )),
                _ => {}
            }
        }
        let mut expected: Vec<(String, i64)> = script
            .iter()
            .map(|e| {
                let unix_us = START_US + (e.onset * 1_000_000 / SECOND) as i64;
                (CLASSES[e.class].to_owned(), unix_us)
            })
            .collect();
        let mut found: Vec<(String, i64)> =
            detections.iter().map(|(_, class, us, _)| (class.clone(), *us)).collect();
        expected.sort();
        found.sort();
        assert_eq!(found, expected, "seed {seed}");
        assert!(detections.iter().all(|(.., clip)| *clip), "seed {seed}: a clip is missing");
        let of_alerts: Vec<EventId> = detections
            .iter()
            .filter(|(_, class, ..)| class == CLASSES[0])
            .map(|(id, ..)| *id)
            .collect();
        assert_eq!(of_alerts.len(), alerts.len(), "seed {seed}: alerts and detections differ");
        assert!(of_alerts.iter().all(|id| alerts.contains_key(id)), "seed {seed}");
        assert!(open.outbox.open_events().await.expect("reads").is_empty(), "seed {seed}");
        let clips = open.outbox.clips().await.expect("reads");
        assert_eq!(clips.len(), script.len(), "seed {seed}");
        assert!(clips.iter().all(|clip| directory.path().join("clips").join(&clip.name).exists()));
        open.close().await;
    }
}

#[test]
fn hearing_begins_again_on_a_hop_of_the_recording_it_was_in() {
    let ends = BTreeMap::new();
    let mut progress = Progress::new(ReplayPosition {
        stream: String::new(),
        sample: 0,
        item: 0,
        item_start: 0,
        ends,
    });
    // Recordings of 4 s and a bit, which are no whole number of hops.
    let length = 4 * SECOND + 123;
    for item in 0..20 {
        for heard in [0, 2 * SECOND] {
            progress.heard(item * length + heard, item, item * length);
            // A clip of the last seconds may still be on its way.
            let unwritten = (item * length + heard).saturating_sub(3 * SECOND);
            for unwritten in [None, Some(unwritten)] {
                let position = progress.position(unwritten);
                let begin = Resume::new(&position, Vec::new()).begin(&position);
                assert!(begin <= position.sample.saturating_sub(REWIND).max(position.item_start));
                assert_eq!(position.item_start, position.item * length);
                assert_eq!((begin - position.item_start) % HOP_SAMPLES as u64, 0);
                assert!(begin < position.item_start + length, "within that recording");
            }
        }
    }
}

#[test]
fn the_rest_of_an_event_that_is_written_is_not_a_new_one() {
    let ends = BTreeMap::from([("gun_shot".to_owned(), 100 * SECOND)]);
    let position = ReplayPosition {
        stream: String::new(),
        sample: 110 * SECOND,
        item: 0,
        item_start: 0,
        ends,
    };
    let mut resume = Resume::new(&position, Vec::new());
    let mut verdict =
        |class, onset: u64, decided: u64| resume.confirmed(class, onset * SECOND, decided * SECOND);
    assert_eq!(verdict("gun_shot", 97, 112), Verdict::Done, "before the end of one written");
    assert_eq!(verdict("vehicle", 97, 112), Verdict::New, "another class");
    assert_eq!(verdict("gun_shot", 103, 110), Verdict::Done, "decided before");
    assert_eq!(verdict("gun_shot", 103, 111), Verdict::New);
}
