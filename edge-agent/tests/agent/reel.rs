//! The last day of sound on the disk, and any minute of it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ecosight_agent::clip::Recording;
use ecosight_agent::config::{self, Bytes};
use ecosight_agent::hearing::Onset;
use ecosight_agent::reel::{CutError, PIECE_SAMPLES, Reel};
use ecosight_shared::{TimeQuality, Topic};
use rumqttc::mqttbytes::QoS;
use rumqttc::{AsyncClient, MqttOptions, PublishOptions};
use serde_json::json;
use tempfile::tempdir;

use crate::station::{Place, terminate};
use crate::support::{DEVICE, Random, START_US, until};
use crate::uplink::{Cloud, broker};
use crate::uploads;

const SECOND_US: i64 = 1_000_000;
const PIECE_US: i64 = PIECE_SAMPLES as i64 * SECOND_US / 16_000;

fn open(directory: &Path, keep_s: u64, max: u64) -> Arc<Reel> {
    let ring = config::Ring {
        keep: Duration::from_secs(keep_s),
        max: Bytes(max),
        dir: Some(directory.join("ring")),
    };
    let storage = config::Storage { reserve: Bytes(0), ..config::Storage::default() };
    Reel::open(&ring, &storage).expect("opens").expect("kept")
}

/// The sound of piece `number`: noise that no other piece has.
fn sound(number: i64) -> Vec<i16> {
    let mut random = Random(number as u64 * 977 + 1);
    (0..PIECE_SAMPLES).map(|_| random.below(2_000) as i16 - 1_000).collect()
}

fn piece(number: i64) -> Recording {
    Recording {
        samples: sound(number),
        time: Onset { unix_us: START_US + number * PIECE_US, quality: TimeQuality::Network },
        redacted: Vec::new(),
    }
}

fn files(directory: &Path) -> usize {
    std::fs::read_dir(directory.join("ring")).expect("reads").count()
}

#[test]
fn any_part_comes_back_sample_by_sample_also_after_a_restart() {
    let directory = tempdir().expect("a directory");
    let reel = open(directory.path(), 3_600, u64::MAX);
    let all: Vec<i16> = (0..4).flat_map(sound).collect();
    for number in 0..4 {
        reel.add(&piece(number), "about").expect("written");
    }
    for reel in [reel, open(directory.path(), 3_600, u64::MAX)] {
        for (from_s, to_s) in [(0, 10), (25, 40), (29, 31), (10, 119)] {
            let cut = reel
                .cut(START_US + from_s * SECOND_US, START_US + to_s * SECOND_US)
                .expect("is kept");
            let (from, to) = (from_s as usize * 16_000, to_s as usize * 16_000);
            assert_eq!(cut.time.unix_us, START_US + from_s * SECOND_US);
            let expected = &all[from..to.min(all.len())];
            assert!(cut.samples == expected, "{from_s} to {to_s} s");
        }
        // What is asked for beyond the end is not made up.
        let last = reel.cut(START_US + 3 * PIECE_US, START_US + 8 * PIECE_US / 2).expect("is kept");
        assert!(last.samples.len() as u64 <= PIECE_SAMPLES);
    }
}

#[test]
fn what_is_not_kept_or_too_long_is_refused_with_what_there_is() {
    let directory = tempdir().expect("a directory");
    let reel = open(directory.path(), 3_600, u64::MAX);
    let hour = 3_600 * SECOND_US;
    assert!(matches!(reel.cut(START_US, START_US + SECOND_US), Err(CutError::Gone { .. })));
    reel.add(&piece(0), "").expect("written");
    let gone = reel.cut(START_US + hour, START_US + hour + SECOND_US).expect_err("not kept");
    assert!(gone.to_string().contains("2026-03-01T18:00:00.000Z"), "{gone}");
    assert!(matches!(reel.cut(START_US, START_US), Err(CutError::Empty)));
    assert!(matches!(reel.cut(START_US, START_US + hour), Err(CutError::TooLong)));
    let name = std::fs::read_dir(directory.path().join("ring")).expect("reads").next();
    let name = name.expect("one").expect("reads").path();
    crate::station::write(&name, &[7; 4_000]);
    assert!(matches!(reel.cut(START_US, START_US + SECOND_US), Err(CutError::Damaged(_))));
}

#[test]
fn a_gap_is_silent_and_nothing_moves_because_of_it() {
    let directory = tempdir().expect("a directory");
    let reel = open(directory.path(), 3_600, u64::MAX);
    reel.add(&piece(0), "").expect("written");
    reel.add(&piece(2), "").expect("written");
    let cut = reel.cut(START_US + 29 * SECOND_US, START_US + 89 * SECOND_US).expect("is kept");
    let gap_end = 2 * PIECE_SAMPLES as usize - 29 * 16_000;
    let gap_start = PIECE_SAMPLES as usize - 29 * 16_000;
    assert!(cut.samples[gap_start..gap_end].iter().all(|sample| *sample == 0));
    assert!(cut.samples[gap_end..] == sound(2)[..cut.samples.len() - gap_end]);
}

#[test]
fn the_oldest_goes_when_it_is_too_old_too_much_or_needed_by_others() {
    let directory = tempdir().expect("a directory");
    let reel = open(directory.path(), 95, u64::MAX);
    for number in 0..8 {
        reel.add(&piece(number), "").expect("written");
    }
    assert_eq!(files(directory.path()), 4, "95 s before the newest");
    assert!(reel.evict_oldest());
    assert_eq!(files(directory.path()), 3);

    let small = tempdir().expect("a directory");
    let reel = open(small.path(), 3_600, 2_500_000);
    for number in 0..8 {
        reel.add(&piece(number), "").expect("written");
    }
    let report = reel.report().expect("kept");
    assert!(report.bytes <= 2_500_000 && report.bytes > 1_000_000, "{report:?}");
    assert!(report.to.starts_with("2026-03-01T18:0"), "{report:?}");
    while reel.evict_oldest() {}
    assert_eq!((files(small.path()), reel.report()), (0, None));

    // A reserve that the disk cannot give: nothing is kept, and nobody else is disturbed.
    let ring = config::Ring { dir: Some(small.path().join("ring")), ..config::Ring::default() };
    let storage = config::Storage { reserve: Bytes(u64::MAX / 4), ..config::Storage::default() };
    let reel = Reel::open(&ring, &storage).expect("opens").expect("kept");
    assert!(reel.add(&piece(0), "").is_err());
    assert_eq!(files(small.path()), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cloud_fetches_a_minute_that_raised_no_event() {
    let Some(broker) = broker() else { return };
    let (server, url) = uploads::serve(&[]).await;
    let cloud = Cloud::start(&broker, "cloud", true);
    let source = format!(
        "kind = \"file\"\npath = \"NIGHT\"\nspeed = \"max\"\nstart_time = \"{}\"\nat_end = \"stay\"",
        crate::station::START
    );
    let place = Place::new(&source, &broker.url(), &url);
    let child = place.start();
    until("the whole recording in the ring", async || {
        let ring = place.data().join("ring");
        std::fs::read_dir(ring).map_or(0, |files| files.flatten().count()) >= 4
    })
    .await;
    until("a connection", async || cloud.look(|r| !r.states.is_empty())).await;
    let (client, mut events) =
        AsyncClient::builder(MqttOptions::new("operator", ("127.0.0.1", broker.port())))
            .capacity(10)
            .build();
    let driving = tokio::spawn(async move { while events.poll().await.is_ok() {} });
    let id = "018f4d7e-0000-7000-8000-0000000000aa";
    let other = "018f4d7e-0000-7000-8000-0000000000bb";
    let ask = async |name: &str, payload: serde_json::Value| {
        let topic = Topic::Command("test", DEVICE, name).to_string();
        let options = PublishOptions::new(QoS::AtLeastOnce);
        client.publish(topic, payload.to_string().into_bytes(), options).await.expect("queued");
    };
    let minute = json!({"id": id, "from": "2026-03-01T18:00:30Z", "to": "2026-03-01T18:01:10Z"});
    ask("pull", minute.clone()).await;
    until("an answer", async || cloud.look(|r| r.replies.len() == 1)).await;
    let reply = cloud.look(|r| r.replies[0].clone());
    assert_eq!(
        (reply["status"].as_str(), reply["id"].as_str()),
        (Some("accepted"), Some(id)),
        "{reply}"
    );
    assert_eq!(reply["clip"]["duration_ms"], 40_000);
    until("the clip", async || server.lock().expect("fine").all_stored.contains(id)).await;

    ask("pull", json!({"id": other, "from": "1999-01-01T00:00:00Z", "to": "1999-01-01T00:00:05Z"}))
        .await;
    ask("dance", json!({})).await;
    ask("pull", json!({"from": 3})).await;
    until("three refusals", async || cloud.look(|r| r.replies.len() == 4)).await;
    cloud.look(|r| {
        for (reply, part) in
            r.replies[1..].iter().zip(["nothing is kept", "no such command", "not understood"])
        {
            assert_eq!(reply["status"], "refused");
            assert!(reply["problem"].as_str().is_some_and(|p| p.contains(part)), "{reply}");
        }
    });
    let health = cloud.look(|r| r.status["health"].clone());
    assert!(health["ring"]["bytes"].as_u64().is_some() || health["ring"].is_null(), "{health}");
    terminate(&child);
    tokio::task::block_in_place(|| place.ends_well(child, Duration::from_secs(11)));
    driving.abort();
}
