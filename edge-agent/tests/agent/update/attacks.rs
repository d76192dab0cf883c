//! What somebody might do who holds the broker, the server or the network, but no key (RELIABILITY P12):
//! each attack is refused with a reason that has a name.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ecosight_agent::config;
use ecosight_agent::recorder::Storage;
use ecosight_agent::update::fault::Fault;
use ecosight_agent::update::fetch::{Fetcher, Limits};
use ecosight_agent::update::machine::{Answer, Judge, wished};
use ecosight_agent::update::prove::Prover;
use ecosight_agent::update::state::Digest;
use ecosight_agent::update::{Saved, Store, machine};
use ecosight_agent::upload;
use ecosight_models::onnx::{Attribute, Dim, GraphWriter};
use ecosight_models::{Builtin, BundleFiles, transient};
use ecosight_shared::DeviceId;
use ecosight_shared::json::UpdateStep;
use ecosight_shared::release::{MAX_COUNTER_STEP, Manifest, ReleaseFile, SignedManifest};
use tempfile::{TempDir, tempdir};

use super::{EXPIRES_S, FILES, Mood, Release, Server, desired, judge, key, program, trusted};
use crate::bundle::Thud;
use crate::support::START_US;

/// The highest that a manifest may have.
const HIGHEST_COUNTER: u64 = (1 << 63) - 1;

fn release(counter: u64) -> Release {
    Release::of(&Thud::default(), counter, None)
}

/// The word for what the station says to a wish.
fn answer(saved: &Saved, signed: &SignedManifest, judge: &Judge<'_>) -> String {
    let Answer::Next(next) = wished(saved, &desired(signed, "t1"), judge) else {
        return "nothing".into();
    };
    assert_eq!(next.active, saved.active);
    let word = next.word.expect("a word");
    match word.fault {
        Some((code, reason)) => {
            assert_eq!(word.step, UpdateStep::Refused);
            assert!(next.job.is_none() && reason.len() > 20, "a sentence: {reason}");
            code
        }
        None => word.step.name().to_owned(),
    }
}

/// A station that has accepted the release with this counter before.
fn with_highest(counter: u64) -> Saved {
    Saved { highest: Some((counter, Digest([9; 32]))), ..Saved::default() }
}

fn sign(manifest: &Manifest) -> SignedManifest {
    SignedManifest::sign(manifest, &[&key(1)]).expect("signed")
}

/// What a station that remembers nothing says.
fn first_answer(signed: &SignedManifest) -> String {
    answer(&Saved::default(), signed, &judge(&trusted()))
}

#[test]
fn what_is_signed_for_this_station_is_accepted() {
    assert_eq!(first_answer(&release(42).signed()), "accepted");
}

#[test]
fn attack_1_a_tampered_byte_of_the_manifest_or_its_signature() {
    let whole = release(42).signed();
    for place in 0..whole.manifest.len() {
        let mut signed = whole.clone();
        signed.manifest[place] ^= 1;
        assert_eq!(first_answer(&signed), "bad_signature", "{place}");
    }
    for place in 0..whole.signatures[0].bytes.len() {
        let mut signed = whole.clone();
        signed.signatures[0].bytes[place] ^= 1;
        assert_eq!(first_answer(&signed), "bad_signature", "{place}");
    }
    let mut signed = whole;
    signed.signatures.clear();
    assert_eq!(first_answer(&signed), "unsigned");
}

#[test]
fn attack_2_a_key_that_nobody_here_trusts() {
    let foreign = SignedManifest::sign(&release(42).manifest, &[&key(3)]).expect("signed");
    assert_eq!(first_answer(&foreign), "wrong_key");
    let good = release(42).signed();
    assert_eq!(answer(&Saved::default(), &good, &judge(&[])), "no_trusted_key");
}

#[test]
fn attack_3_a_release_whose_time_is_over() {
    let keys = trusted();
    let late = Judge { now_us: EXPIRES_S * 1_000_000, ..judge(&keys) };
    assert_eq!(answer(&Saved::default(), &release(42).signed(), &late), "expired");
}

#[test]
fn attack_4_an_old_release_is_sent_again_or_another_with_the_same_counter() {
    let (keys, good) = (trusted(), release(42).signed());
    assert_eq!(answer(&with_highest(43), &good, &judge(&keys)), "replayed");
    assert_eq!(answer(&with_highest(42), &good, &judge(&keys)), "replayed");
}

/// The station is kept in the past, so that what has expired would still be good.
#[test]
fn attack_5_a_clock_that_is_held_back() {
    let (keys, good) = (trusted(), release(42).signed());
    let frozen = Saved { latest_unix_s: EXPIRES_S, ..Saved::default() };
    assert_eq!(answer(&frozen, &good, &judge(&keys)), "expired");
}

/// One release uses the counters up, so that none could come after it.
#[test]
fn attack_6_a_counter_far_ahead() {
    let (keys, manifest) = (trusted(), release(42).manifest);
    let with = |counter| sign(&Manifest { counter, ..manifest.clone() });
    let from = |highest, counter| answer(&with_highest(highest), &with(counter), &judge(&keys));
    assert_eq!(from(42, 42 + MAX_COUNTER_STEP), "accepted");
    assert_eq!(from(42, 42 + MAX_COUNTER_STEP + 1), "fast_forward");
    assert_eq!(from(42, HIGHEST_COUNTER), "fast_forward");
    // The first that a station ever sees is no exception: it counts from the time.
    let now_s = u64::try_from(START_US / 1_000_000).expect("after 1970");
    assert_eq!(first_answer(&with(now_s + MAX_COUNTER_STEP)), "accepted");
    assert_eq!(first_answer(&with(now_s + MAX_COUNTER_STEP + 1)), "fast_forward");
    assert_eq!(first_answer(&with(HIGHEST_COUNTER)), "fast_forward");
}

#[test]
fn attack_11_a_release_for_another_station_or_site() {
    let manifest = release(42).manifest;
    let other = DeviceId(uuid::Uuid::from_u128(5));
    let theirs = Manifest { devices: vec![other], ..manifest.clone() };
    assert_eq!(first_answer(&sign(&theirs)), "other_device");
    let there = Manifest { site: Some("elsewhere".parse().expect("a site")), ..manifest };
    assert_eq!(first_answer(&sign(&there)), "other_site");
}

/// The next key is trusted beforehand; the old one, once taken out, never.
#[test]
fn attack_12_keys_while_they_are_rotated() {
    let manifest = release(42).manifest;
    let next = SignedManifest::sign(&manifest, &[&key(2)]).expect("signed");
    assert_eq!(first_answer(&next), "accepted");
    let both = SignedManifest::sign(&manifest, &[&key(1), &key(2)]).expect("signed");
    let rotated = [key(2).public()];
    assert_eq!(answer(&Saved::default(), &both, &judge(&rotated)), "accepted");
    assert_eq!(answer(&Saved::default(), &sign(&manifest), &judge(&rotated)), "wrong_key");
}

#[test]
fn an_agent_that_is_too_old_for_a_release_refuses_it() {
    let keys = trusted();
    let old = Judge { agent_version: "0.0.9", ..judge(&keys) };
    assert_eq!(answer(&Saved::default(), &release(42).signed(), &old), "agent_too_old");
}

#[test]
fn a_message_that_is_no_wish_is_answered_once_and_stops_nothing() {
    let keys = trusted();
    let saved = machine::unreadable(&Saved::default(), "no JSON".into(), START_US).expect("news");
    let word = saved.word.clone().expect("a word");
    assert_eq!(
        (word.step, word.fault.map(|(code, _)| code)),
        (UpdateStep::Refused, Some("malformed".into()))
    );
    assert_eq!(machine::unreadable(&saved, "no JSON".into(), START_US), None, "once");
    let Answer::Next(under_way) = wished(&saved, &release(1).desired("t1"), &judge(&keys)) else {
        panic!("no answer");
    };
    assert_eq!(machine::unreadable(&under_way, "no JSON".into(), START_US), None);
}

/// A station's disk, and what it fetches with.
struct Fetching {
    folder: TempDir,
    server: Server,
    fetcher: Fetcher,
}

impl Fetching {
    async fn new(limits: Limits) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (folder, server) = (tempdir().expect("a folder"), Server::start().await);
        let clips = folder.path().join("clips");
        let cloud = config::Cloud { url: Some(server.url.clone()), ..config::Cloud::default() };
        let fetcher = Fetcher {
            client: upload::client(&cloud).expect("a client"),
            base: server.url.clone(),
            dir: Store::of(folder.path()).incoming(),
            storage: Storage { clips, reserve: 1_000, max_clips: 0, reel: None },
            limits,
            outbox: None,
        };
        Self { folder, server, fetcher }
    }

    async fn code(&self, release: &Release) -> &'static str {
        match self.fetcher.fetch(&release.manifest, FILES).await {
            Ok(()) => "fetched",
            Err(fault) => fault.code(),
        }
    }

    fn longest_file(&self) -> u64 {
        let files = std::fs::read_dir(&self.fetcher.dir).expect("a folder").flatten();
        files.map(|file| file.metadata().expect("known").len()).max().unwrap_or(0)
    }
}

fn quick() -> Limits {
    let ms = Duration::from_millis;
    Limits { time: Duration::from_secs(20), pause: (ms(5), ms(20)), piece: 700 }
}

/// A server in this mood is found out, keeps no more than is signed on the disk, and once it is honest
/// again what is good of what is there serves.
async fn found_out(mood: Mood, code: &str) {
    let release = release(1);
    let longest = release.manifest.files.iter().map(|file| file.bytes).max().expect("files");
    let limits = Limits { time: Duration::from_secs(3), ..quick() };
    let fetching = Fetching::new(limits).await;
    fetching.server.hand_out(&release);
    fetching.server.set_mood(mood);
    assert_eq!(fetching.code(&release).await, code);
    assert!(fetching.longest_file() <= longest, "more than is signed was kept");
    fetching.server.set_mood(Mood::Well);
    assert_eq!(fetching.code(&release).await, "fetched", "honest again");
    BundleFiles::open(&fetching.fetcher.dir).expect("whole");
}

/// In each file of the release, at its beginning, middle and end.
#[tokio::test(flavor = "multi_thread")]
async fn attack_1_a_tampered_byte_of_any_file() {
    found_out(Mood::Tampers, "bad_hash").await;
    let release = release(1);
    for (name, content) in &release.files {
        for place in [0, content.len() / 2, content.len() - 1] {
            let fetching = Fetching::new(quick()).await;
            fetching.server.hand_out(&release);
            let mut changed = content.clone();
            changed[place] ^= 1;
            fetching.server.hand_out_as(content, changed);
            assert_eq!(fetching.code(&release).await, "bad_hash", "{name} at {place}");
            assert!(!fetching.fetcher.dir.join(name).exists(), "{name} at {place}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_8_an_answer_that_never_ends() {
    found_out(Mood::Endless, "too_long").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_9_an_answer_too_slow_ever_to_be_there() {
    found_out(Mood::Slow, "too_slow").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_10_a_file_whose_end_is_missing() {
    found_out(Mood::Truncated, "not_served").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_the_files_or_with_an_address_elsewhere_is_refused() {
    let release = release(1);
    let fetching = Fetching::new(quick()).await;
    assert_eq!(fetching.code(&release).await, "not_served", "a server without it");
    // Nothing but a path comes after the server's own address.
    let elsewhere = fetching.fetcher.fetch(&release.manifest, "@elsewhere/files").await;
    assert_eq!(elsewhere.map_err(|fault| fault.code()), Err("malformed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_breaks_all_the_time_costs_hardly_a_byte_twice() {
    let release = release(1);
    let fetching = Fetching::new(quick()).await;
    fetching.server.hand_out(&release);
    fetching.server.set_mood(Mood::Cuts);
    // Somebody else's file, and the beginning of one that was never finished.
    for name in ["stray.onnx", ".0011.part"] {
        let path = fetching.fetcher.dir.join(name);
        ecosight_models::durable::write_file(&path, b"old").expect("written");
    }
    assert_eq!(fetching.code(&release).await, "fetched");
    let (total, sent) = (release.manifest.total_bytes(), fetching.server.sent());
    assert!(sent <= total + total / 20, "{sent} of {total} bytes");
    let names = std::fs::read_dir(&fetching.fetcher.dir).expect("a folder").count();
    assert_eq!(names, release.files.len(), "nothing but the release is left");
    assert_eq!(fetching.code(&release).await, "fetched");
    assert_eq!(fetching.server.sent(), sent, "what is there is not fetched again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_too_full_takes_none() {
    let mut fetching = Fetching::new(quick()).await;
    let release = release(1);
    assert_eq!(fetching.fetcher.make_room(&release.manifest), Ok(()));
    fetching.fetcher.storage.reserve = u64::MAX / 2;
    let refused = fetching.fetcher.make_room(&release.manifest).expect_err("full");
    assert_eq!(refused.code(), "no_space");
    assert!(refused.to_string().contains("storage.reserve"), "{refused}");
    assert!(!fetching.folder.path().join("update").exists());
}

/// The word for what comes of the proof of the files of `release`, as they are.
async fn proof(release: &Release) -> &'static str {
    proved(release, Duration::from_secs(60)).await.map_or_else(|fault| fault.code(), |()| "proved")
}

async fn proved(release: &Release, limit: Duration) -> Result<(), Fault> {
    let folder = tempdir().expect("a folder");
    let dir = folder.path().join("incoming");
    release.write(&dir);
    let prover = Prover { program: program(), yamnet: None, audioset: false, limit };
    let bundle = Digest(release.manifest.bundle_sha256().expect("listed"));
    let loaded = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let tell = Arc::clone(&loaded);
    let proof = prover
        .prove(&dir, bundle, release.manifest.classes_sha256, move || {
            tell.store(true, std::sync::atomic::Ordering::SeqCst);
        })
        .await;
    if proof.is_ok() {
        assert!(loaded.load(std::sync::atomic::Ordering::SeqCst), "it was said in between");
    }
    proof
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_7_the_network_of_one_bundle_with_the_classes_of_another() {
    let swapped = Thud { classes: ["background", "thud"], ..Thud::default() };
    let (good, other) = (release(1), Release::of(&swapped, 1, None));
    let mixed = Release { manifest: other.manifest.clone(), files: good.files.clone() };
    assert_eq!(proof(&mixed).await, "mixed");
    let mut labels = release(1);
    labels.manifest.classes_sha256 = other.manifest.classes_sha256;
    assert_eq!(proof(&labels).await, "mixed");
    // A file is missing, or is another one.
    for path in ["head.onnx", "manifest.json"] {
        let mut part = release(1);
        part.files.remove(path);
        assert_eq!(proof(&part).await, "mixed", "without {path}");
        let mut part = release(1);
        part.files.insert(path.into(), b"{}".to_vec());
        assert_eq!(proof(&part).await, "mixed", "with another {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_proved_in_a_process_of_its_own() {
    assert_eq!(proof(&release(1)).await, "proved");
    let off = Thud { golden_off: Some(0.2), ..Thud::default() };
    assert_eq!(proof(&Release::of(&off, 1, None)).await, "golden_clips");
    let hangs = proved(&release(1), Duration::from_millis(1)).await;
    assert_eq!(hangs.map_err(|fault| fault.code()), Err("hangs"));
}

/// A model may do anything to the process that runs it; here a script does.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_or_hangs_takes_nothing_with_it() {
    for (script, code) in [
        ("kill -9 $$", "crashed"),
        ("echo '\"loaded\"'; kill -6 $$", "crashed"),
        (
            "echo '\"loaded\"'; echo '{\"proved\":{\"off\":0.0,\"window_us\":900}}'; exit 3",
            "crashed",
        ),
        ("echo nonsense", "crashed"),
        ("echo '\"loaded\"'; exec sleep 60", "hangs"),
        ("echo '{\"proved\":{\"off\":0.0,\"window_us\":240001}}'", "slow_model"),
        ("echo '{\"proved\":{\"off\":null,\"window_us\":900}}'", "no_golden"),
    ] {
        let folder = tempdir().expect("a folder");
        let program = folder.path().join("program");
        crate::station::write(&program, format!("#!/bin/sh\n{script}\n").as_bytes());
        let mode = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(&program, mode).expect("set");
        let limit = Duration::from_secs(2);
        let prover = Prover { program, yamnet: None, audioset: false, limit };
        let proof = prover.prove(folder.path(), Digest([0; 32]), [0; 32], || {}).await;
        let fault = proof.expect_err(script);
        assert_eq!((fault.code(), fault.blocks()), (code, true), "{script}: {fault}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_on_yamnet_is_not_for_a_station_without() {
    let bundle = BundleFiles::builtin(Builtin::Full).expect("shipped");
    let release = Release::from_bundle(&bundle, 1, None);
    let folder = tempdir().expect("a folder");
    release.write(&folder.path().join("incoming"));
    let prover = Prover {
        program: program(),
        yamnet: Some("/nonexistent/yamnet.onnx".into()),
        audioset: true,
        limit: Duration::from_secs(60),
    };
    let id = Digest(release.manifest.bundle_sha256().expect("listed"));
    let dir = folder.path().join("incoming");
    let proof = prover.prove(&dir, id, release.manifest.classes_sha256, || {}).await;
    let fault = proof.expect_err("no YAMNet");
    assert_eq!((fault.code(), fault.blocks()), ("needs_yamnet", false), "{fault}");
    assert!(fault.to_string().contains("needs YAMNet"), "{fault}");
}

/// The release with another network, signed as it is: whoever has the key may err.
fn with_network(head: &[u8]) -> Release {
    let mut release = release(1);
    release.files.insert("head.onnx".into(), head.to_vec());
    let mut bundle: serde_json::Value =
        serde_json::from_slice(&release.files["manifest.json"]).expect("JSON");
    let described = ReleaseFile::of("head.onnx", head);
    bundle["files"][0]["bytes"] = described.bytes.into();
    bundle["files"][0]["sha256"] = ecosight_models::bundle::hex(&described.sha256).into();
    let bundle = serde_json::to_vec(&bundle).expect("JSON");
    release.manifest.files = vec![ReleaseFile::of("manifest.json", &bundle), described];
    release.files.insert("manifest.json".into(), bundle);
    release
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_no_network_is_refused_at_once() {
    let started = Instant::now();
    assert_eq!(proof(&with_network(&[0xff; 4_096])).await, "not_loaded");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

/// A network that makes an image of the features with a border of so many numbers on every side, 4,000
/// times over; a file of some kilobytes.
fn growing(border: i64) -> Vec<u8> {
    const FILTERS: usize = 4_000;
    let mut graph = GraphWriter::new("grows");
    graph.input("features", &[Dim::Batch, Dim::Fixed(transient::LEN)]);
    graph.output("logits", &[Dim::Batch, Dim::Fixed(2)]);
    graph.constant("plane", &[1, 1, 1, 1], &[0.0]);
    graph.node("Add", &["features", "plane"], "image", &[]);
    graph.constant("filters", &[FILTERS, 1, 1, 1], &[1.0; FILTERS]);
    let borders = [border; 4];
    let borders = Attribute::Ints("pads", &borders);
    graph.node("Conv", &["image", "filters"], "grown", &[borders]);
    graph.node("GlobalMaxPool", &["grown"], "highest", &[]);
    graph.node("Flatten", &["highest"], "flat", &[]);
    graph.constant("weights", &[FILTERS, 2], &[0.0; FILTERS * 2]);
    graph.constant("bias", &[2], &[0.0; 2]);
    graph.node("Gemm", &["flat", "weights", "bias"], "logits", &[]);
    graph.encode()
}

/// A file of some kilobytes whose network asks for 6 GB: the limit of the process that loads it is what it
/// meets, and nothing else on the station. The same network with a narrow border is loaded, and found to
/// say something else than it should.
#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_grows_meets_the_limit_of_its_own_process() {
    let head = growing(300);
    assert!(head.len() < 100_000, "{}", head.len());
    let fault = proved(&with_network(&head), Duration::from_secs(60)).await.expect_err("too large");
    assert!(["crashed", "not_loaded"].contains(&fault.code()) && fault.blocks(), "{fault}");
    assert_eq!(proof(&with_network(&growing(1))).await, "golden_clips");
}
