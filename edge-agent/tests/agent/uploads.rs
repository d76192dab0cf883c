//! Clips on their way to a server that is as bad as servers on a bad link are.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Json, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{post, put};
use ecosight_agent::clip::{ClipFile, Recording, save};
use ecosight_agent::clock::Clock;
use ecosight_agent::config;
use ecosight_agent::health::{Health, Loss};
use ecosight_agent::hearing::Onset;
use ecosight_agent::outbox::{ClipRow, Draft, Priority, Stamped};
use ecosight_agent::recorder::Storage;
use ecosight_agent::reel::Reel;
use ecosight_agent::upload::{Patience, Uploader};
use ecosight_shared::{ClipFormat, EventId, TimeQuality};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::{TempDir, tempdir};
use tokio_util::sync::CancellationToken;

use crate::support::{
    DEVICE, Open, QUOTA, Random, START_US, alert, detection, stamped, telemetry, until,
};

/// What a server does to one PUT.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mood {
    Well,
    /// Takes half of the piece, then answers 503.
    Half,
    /// Answers 500 and takes nothing.
    Broken,
    /// Says that it has less than it was told.
    Forgetful,
    /// Damages the piece, so that the hash is wrong in the end.
    Damaging,
}

#[derive(Default)]
pub(crate) struct Server {
    declared: Option<Value>,
    bytes: Vec<u8>,
    /// What is stored of the clip that was declared last.
    stored: Vec<Vec<u8>>,
    /// Events whose clips are stored.
    pub(crate) all_stored: BTreeSet<String>,
    moods: VecDeque<Mood>,
    declarations: usize,
}

pub(crate) type Shared = Arc<Mutex<Server>>;

pub(crate) async fn serve(moods: &[Mood]) -> (Shared, String) {
    let server = Shared::default();
    server.lock().expect("fine").moods = moods.iter().copied().collect();
    let app = Router::new()
        .route("/api/v1/clips", post(declare))
        .route("/api/v1/clips/{id}/data", put(data))
        .with_state(Arc::clone(&server));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, app).await });
    (server, url)
}

async fn declare(State(server): State<Shared>, Json(body): Json<Value>) -> Response {
    let mut server = server.lock().expect("fine");
    server.declarations += 1;
    let known = server.declared.as_ref().is_some_and(|d| d["event_id"] == body["event_id"]);
    if !known {
        server.bytes.clear();
        server.stored.clear();
    }
    let event = body["event_id"].as_str().expect("a text");
    let status = if server.all_stored.contains(event) { "stored" } else { "uploading" };
    let answer = json!({"id": body["event_id"], "offset": server.bytes.len(), "status": status});
    server.declared = Some(body);
    let code = if known { StatusCode::OK } else { StatusCode::CREATED };
    (code, Json(answer)).into_response()
}

async fn data(
    State(server): State<Shared>,
    Path(id): Path<String>,
    headers: HeaderMap,
    piece: Bytes,
) -> Response {
    let mut server = server.lock().expect("fine");
    let declared = server.declared.clone().expect("declared first");
    assert_eq!(declared["event_id"], id);
    let range = headers["content-range"].to_str().expect("text").to_owned();
    let total = declared["bytes"].as_u64().expect("a number");
    let (first, last) = range.strip_prefix("bytes ").expect("bytes").split_once('-').expect("-");
    let (last, of) = last.split_once('/').expect("/");
    let number = |text: &str| text.parse::<u64>().expect("a number");
    assert_eq!(number(of), total);
    assert_eq!(number(last) - number(first) + 1, piece.len() as u64);
    let offset = |code: StatusCode, server: &Server| {
        (code, [("upload-offset", server.bytes.len().to_string())]).into_response()
    };
    if number(first) != server.bytes.len() as u64 {
        return offset(StatusCode::CONFLICT, &server);
    }
    match server.moods.pop_front().unwrap_or(Mood::Well) {
        Mood::Well => server.bytes.extend_from_slice(&piece),
        Mood::Half => {
            server.bytes.extend_from_slice(&piece[..piece.len() / 2]);
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        Mood::Broken => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Mood::Forgetful => {
            let kept = server.bytes.len() / 2;
            server.bytes.truncate(kept);
            return offset(StatusCode::CONFLICT, &server);
        }
        Mood::Damaging => {
            let mut piece = piece.to_vec();
            piece[0] ^= 1;
            server.bytes.extend_from_slice(&piece);
        }
    }
    if server.bytes.len() as u64 == total {
        let hash: String =
            Sha256::digest(&server.bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let bytes = std::mem::take(&mut server.bytes);
        if declared["sha256"] != hash {
            return (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({"detail": "hash"})))
                .into_response();
        }
        server.stored.push(bytes);
        server.all_stored.insert(id);
        return Json(json!({"offset": total, "status": "stored"})).into_response();
    }
    Json(json!({"offset": server.bytes.len(), "status": "uploading"})).into_response()
}

/// A station with one clip of an alerted event.
struct Station {
    directory: TempDir,
    open: Open,
    event: EventId,
    clip: ClipFile,
}

impl Station {
    async fn new() -> Self {
        let directory = tempdir().expect("a directory");
        let open = Open::at(directory.path(), 1, QUOTA).await;
        let clips = directory.path().join("clips");
        std::fs::create_dir(&clips).expect("made");
        // Noise, so that the file has several pieces.
        let mut random = Random(5);
        let samples: Vec<i16> = (0..240_000).map(|_| random.next() as i16).collect();
        let clip = save(&clips, "gun_shot-1", &samples, "").expect("saved");
        assert!(clip.reference.bytes > 3 * 128 * 1_024);
        let written = open.outbox.append(vec![alert(1)], None).await.expect("written");
        let event = written[0].event;
        let draft = Draft::Detection {
            detection: Box::new(detection(event)),
            alerted: true,
            clip: Some(clip.clone()),
        };
        let record: Stamped = stamped(draft, 2);
        open.outbox.append(vec![record], None).await.expect("written");
        let all = ecosight_shared::SeqRange { boot: 1, first: 1, last: 9 };
        open.outbox.release(vec![all]).await.expect("done");
        Self { directory, open, event, clip }
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("clips").join(&self.clip.name)
    }

    fn uploader(&self, url: &str, max_clips: u64) -> Uploader {
        self.uploader_with(url, max_clips, None, Clock::from_fn(|| START_US))
    }

    fn uploader_with(
        &self,
        url: &str,
        max_clips: u64,
        max_per_day: Option<config::Bytes>,
        clock: Clock,
    ) -> Uploader {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = config::Cloud {
            url: Some(url.to_owned()),
            retry_max: Duration::from_secs(1),
            max_per_day,
            ..config::Cloud::default()
        };
        let clips = self.directory.path().join("clips");
        let storage = Storage { clips, reserve: 0, max_clips, reel: None };
        let health = Arc::new(Health::default());
        Uploader::new(&config, self.open.outbox.clone(), storage, DEVICE, health, clock)
            .expect("set up")
    }

    /// Uploads until nothing is left.
    async fn upload(&self, url: &str) {
        let drain = CancellationToken::new();
        drain.cancel();
        let run = self.uploader(url, u64::MAX).run(drain, CancellationToken::new());
        tokio::time::timeout(Duration::from_secs(60), run).await.expect("ends").expect("uploads");
    }
}

#[tokio::test]
async fn a_clip_arrives_whole_whatever_the_server_does_on_the_way() {
    for moods in [
        vec![],
        vec![Mood::Half, Mood::Well, Mood::Broken],
        vec![Mood::Well, Mood::Forgetful, Mood::Half, Mood::Forgetful],
        vec![Mood::Damaging],
    ] {
        let station = Station::new().await;
        let (server, url) = serve(&moods).await;
        let original = std::fs::read(station.path()).expect("reads");
        station.upload(&url).await;
        {
            let server = server.lock().expect("fine");
            assert_eq!(server.stored, std::slice::from_ref(&original), "{moods:?}");
            let declared = server.declared.as_ref().expect("declared");
            assert_eq!(declared["event_id"], station.event.to_string());
            assert_eq!(declared["device_id"], DEVICE.to_string());
            assert_eq!(declared["duration_ms"], 15_000);
        }
        assert!(!station.path().exists(), "uploaded and removed");
        assert!(station.open.outbox.clips().await.expect("reads").is_empty());
        station.open.close().await;
    }
}

#[tokio::test]
async fn a_clip_stays_until_the_server_says_stored() {
    let station = Station::new().await;
    let (server, url) = serve(&[Mood::Broken; 1_000]).await;
    let stop = CancellationToken::new();
    let run = station.uploader(&url, u64::MAX).run(CancellationToken::new(), stop.clone());
    let task = tokio::spawn(run);
    until("three attempts", async || server.lock().expect("fine").declarations >= 3).await;
    stop.cancel();
    task.await.expect("no panic").expect("no error");
    assert!(station.path().exists());
    assert_eq!(station.open.outbox.clips().await.expect("reads").len(), 1);
    // Later the server is well, and another uploader goes on.
    server.lock().expect("fine").moods.clear();
    station.upload(&url).await;
    assert!(!station.path().exists());
    station.open.close().await;
}

#[tokio::test]
async fn clips_wait_while_an_alert_does() {
    let station = Station::new().await;
    let (server, url) = serve(&[]).await;
    station.open.outbox.append(vec![alert(9)], None).await.expect("written");
    let stop = CancellationToken::new();
    let run = station.uploader(&url, u64::MAX).run(CancellationToken::new(), stop.clone());
    let task = tokio::spawn(run);
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(server.lock().expect("fine").declarations, 0, "the alert goes first");
    let all = ecosight_shared::SeqRange { boot: 1, first: 1, last: 99 };
    station.open.outbox.release(vec![all]).await.expect("done");
    until("the clip", async || !station.path().exists()).await;
    stop.cancel();
    task.await.expect("no panic").expect("no error");
    station.open.close().await;
}

#[tokio::test]
async fn clips_wait_for_every_record_but_not_for_ever() {
    let station = Station::new().await;
    let (server, url) = serve(&[]).await;
    station.open.outbox.append(vec![telemetry(9)], None).await.expect("written");
    let patience =
        Patience { alerts: Duration::from_secs(60), records: Duration::from_millis(1_500) };
    let uploader = station.uploader(&url, u64::MAX).with_patience(patience);
    let stop = CancellationToken::new();
    let began = std::time::Instant::now();
    let task = tokio::spawn(uploader.run(CancellationToken::new(), stop.clone()));
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(server.lock().expect("fine").declarations, 0, "the record goes first");
    // No receipt ever comes: it goes all the same, a piece at a time.
    until("the clip", async || !station.path().exists()).await;
    assert!(began.elapsed() > Duration::from_secs(5), "four pieces in {:?}", began.elapsed());
    stop.cancel();
    task.await.expect("no panic").expect("no error");
    station.open.close().await;
}

#[tokio::test]
async fn a_clip_that_is_gone_or_damaged_here_is_given_up_and_does_not_hold_up_the_end() {
    let gone = Station::new().await;
    std::fs::remove_file(gone.path()).expect("removed");
    let (_, url) = serve(&[]).await;
    gone.upload(&url).await;
    assert!(gone.open.outbox.clips().await.expect("reads").is_empty());
    gone.open.close().await;

    let damaged = Station::new().await;
    let mut bytes = std::fs::read(damaged.path()).expect("reads");
    bytes[1_000] ^= 1;
    overwrite(&damaged.path(), &bytes);
    let (server, url) = serve(&[]).await;
    damaged.upload(&url).await;
    assert!(server.lock().expect("fine").stored.is_empty());
    assert!(damaged.open.outbox.clips().await.expect("reads").is_empty());
    damaged.open.close().await;
}

#[tokio::test]
async fn over_the_quota_clips_are_given_up() {
    let station = Station::new().await;
    // Nobody listens there.
    let stop = CancellationToken::new();
    let run =
        station.uploader("http://127.0.0.1:9", 1_000).run(CancellationToken::new(), stop.clone());
    let task = tokio::spawn(run);
    until("it is gone", async || !station.path().exists()).await;
    assert!(station.open.outbox.clips().await.expect("reads").is_empty());
    stop.cancel();
    task.await.expect("no panic").expect("no error");
    station.open.close().await;
}

#[tokio::test]
async fn over_the_quota_the_oldest_without_an_alert_goes_first_and_the_last_day_stays() {
    let directory = tempdir().expect("a directory");
    let open = Open::at(directory.path(), 1, QUOTA).await;
    let clips = directory.path().join("clips");
    std::fs::create_dir(&clips).expect("made");
    let ring = config::Ring { dir: Some(directory.path().join("ring")), ..config::Ring::default() };
    let limits = config::Storage { reserve: config::Bytes(0), ..config::Storage::default() };
    let reel = Reel::open(&ring, &limits).expect("opens").expect("kept");
    let time = Onset { unix_us: START_US, quality: TimeQuality::Network };
    let piece = Recording { samples: vec![0; 16_000], time, redacted: Vec::new() };
    reel.add(&piece, "").expect("written");
    let given = [
        (1, Priority::Alert, 1),
        (2, Priority::Detection, 5),
        (3, Priority::Detection, 3),
        (4, Priority::Alert, 2),
        (5, Priority::Detection, 4),
    ];
    for (number, priority, created_us) in given {
        let name = format!("{number}.flac");
        overwrite(&clips.join(&name), &[0; 100]);
        let row = ClipRow {
            event: EventId(uuid::Uuid::from_u128(number)),
            name,
            sha256: [0; 32],
            bytes: 100,
            duration_ms: 1,
            format: ClipFormat::Flac,
        };
        open.outbox.add_clip(row, priority, created_us).await.expect("written");
    }
    let health = Arc::new(Health::default());
    // Nobody listens there.
    let cloud =
        config::Cloud { url: Some("http://127.0.0.1:9".into()), ..config::Cloud::default() };
    for (max_clips, left) in [(300, vec![1, 2, 4]), (250, vec![1, 4]), (100, vec![4])] {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let reel = Some(Arc::clone(&reel));
        let storage = Storage { clips: clips.clone(), reserve: 0, max_clips, reel };
        let clock = Clock::from_fn(|| START_US);
        let outbox = open.outbox.clone();
        let uploader = Uploader::new(&cloud, outbox, storage, DEVICE, Arc::clone(&health), clock);
        let stop = CancellationToken::new();
        let run = uploader.expect("set up").run(CancellationToken::new(), stop.clone());
        let task = tokio::spawn(run);
        let kept = async || {
            let rows = open.outbox.clips().await.expect("reads");
            let mut kept: Vec<u128> = rows.iter().map(|row| row.event.0.as_u128()).collect();
            kept.sort_unstable();
            kept
        };
        until("as few as may be", async || kept().await.len() <= left.len()).await;
        assert_eq!(kept().await, left, "of at most {max_clips} bytes");
        stop.cancel();
        task.await.expect("no panic").expect("no error");
        let there = |number: &u128| clips.join(format!("{number}.flac")).exists();
        assert!((1..=5).filter(there).eq(left), "the files go with their rows");
    }
    assert_eq!(health.lost_so_far(Loss::Clip), 4);
    assert!(reel.report().is_some(), "the last day makes no room for clips over their quota");
    open.close().await;
}

#[allow(clippy::disallowed_methods, reason = "damages a file on purpose")]
fn overwrite(path: &std::path::Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("written");
}

#[tokio::test]
async fn no_more_is_sent_in_a_day_than_the_link_can_bear_and_the_rest_comes_tomorrow() {
    let (server, url) = serve(&[]).await;
    let station = Station::new().await;
    let today = Arc::new(std::sync::atomic::AtomicI64::new(START_US));
    let clock = || {
        let today = Arc::clone(&today);
        Clock::from_fn(move || today.load(std::sync::atomic::Ordering::Relaxed))
    };
    let piece = 128 * 1_024;
    let run = async || {
        let uploader =
            station.uploader_with(&url, u64::MAX, Some(config::Bytes(2 * piece + 10)), clock());
        let drain = CancellationToken::new();
        drain.cancel();
        let run = uploader.run(drain, CancellationToken::new());
        tokio::time::timeout(Duration::from_secs(60), run).await.expect("ends").expect("uploads");
    };
    run().await;
    assert_eq!(server.lock().expect("fine").bytes.len() as u64, 2 * piece, "two pieces fit");
    assert_eq!(station.open.outbox.level().await.expect("reads").clips, 1, "the clip waits");
    // A restart does not forget what was sent.
    run().await;
    assert_eq!(server.lock().expect("fine").bytes.len() as u64, 2 * piece);
    for _ in 0..3 {
        today.fetch_add(86_400_000_000, std::sync::atomic::Ordering::Relaxed);
        run().await;
    }
    assert_eq!(station.open.outbox.level().await.expect("reads").clips, 0);
    assert_eq!(server.lock().expect("fine").all_stored.len(), 1);
}
