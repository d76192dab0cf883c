//! The whole program: real sound in, alerts and clips out, whatever happens to it.

use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use ecosight_shared::{Envelope, Message};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::bundle::write_thud_bundle;
use crate::support::{Open, QUOTA, Random, until, write_sound};
use crate::uplink::{Cloud, broker};
use crate::uploads;

pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_ecosight-agent");
const RATE: usize = 16_000;
/// Onsets of the thuds in the recording, in seconds.
pub(crate) const THUDS: [f32; 12] =
    [7.0, 15.5, 23.25, 31.0, 44.4, 52.0, 60.9, 75.0, 81.3, 90.0, 101.7, 112.0];

/// Length of one round of thuds in seconds.
pub(crate) const ROUND: usize = 120;

/// Rounds of two minutes of faint noise with thuds at `onsets`, in seconds.
pub(crate) fn recording(path: &Path, rounds: usize, onsets: &[f32]) {
    let mut random = Random(11);
    let mut samples: Vec<f32> = (0..rounds * ROUND * RATE)
        .map(|_| (random.below(2_000) as f32 / 1_000.0 - 1.0) * 0.002)
        .collect();
    for onset in onsets {
        let start = (onset * RATE as f32) as usize;
        for (i, sample) in samples[start..start + RATE / 4].iter_mut().enumerate() {
            let t = i as f32 / RATE as f32;
            *sample += 0.5 * (-t / 0.04).exp() * (t * 400.0 * std::f32::consts::TAU).sin();
        }
    }
    write_sound(path, &samples);
}

/// Onsets of the thuds of so many rounds.
pub(crate) fn thuds(rounds: usize) -> Vec<f32> {
    let of = |round: usize| THUDS.iter().map(move |onset| (round * ROUND) as f32 + onset);
    (0..rounds).flat_map(of).collect()
}

pub(crate) struct Place {
    pub(crate) directory: TempDir,
    pub(crate) config: PathBuf,
    /// Rounds of its recording.
    pub(crate) rounds: usize,
}

impl Place {
    pub(crate) fn new(source: &str, mqtt: &str, cloud: &str) -> Self {
        Self::with_rounds(source, mqtt, cloud, 1)
    }

    pub(crate) fn with_rounds(source: &str, mqtt: &str, cloud: &str, rounds: usize) -> Self {
        let directory = tempdir().expect("a directory");
        write_thud_bundle(&directory.path().join("bundle"));
        recording(&directory.path().join("night.wav"), rounds, &thuds(rounds));
        let at = |name: &str| directory.path().join(name).display().to_string();
        let text = format!(
            "[station]\nsite = \"test\"\nid = \"{}\"\n[source]\n{}\n[model]\nbundle = \"{}\"\n\
             [privacy]\nredact_speech = false\n[page]\nlisten = \"\"\n\
             [mqtt]\nurl = \"{mqtt}\"\nreconnect_max = \"1s\"\nresend_after = \"1s\"\n\
             [cloud]\nurl = \"{cloud}\"\nretry_max = \"1s\"\n\
             [storage]\ndata_dir = \"{}\"\nreserve = \"1MB\"\n",
            crate::support::DEVICE,
            source.replace("NIGHT", &at("night.wav")),
            at("bundle"),
            at("data"),
        );
        let config = directory.path().join("agent.toml");
        write(&config, text.as_bytes());
        Self { directory, config, rounds }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub(crate) fn start(&self) -> Child {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.path().join("agent.log"))
            .expect("opens");
        Command::new(AGENT)
            .args(["run", "--config"])
            .arg(&self.config)
            .env("ECOSIGHT__LOG__LEVEL", "info")
            // As the service has it: see deploy/systemd.
            .envs([("MALLOC_ARENA_MAX", "1"), ("MALLOC_MMAP_THRESHOLD_", "1048576")])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("starts")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("agent.log")).unwrap_or_default()
    }

    pub(crate) fn ends_well(&self, mut child: Child, limit: Duration) {
        let started = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("waits") {
                assert!(status.success(), "{status}\n{}", self.log());
                return;
            }
            if started.elapsed() > limit {
                let _ = child.kill();
                panic!("does not end\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

pub(crate) fn agent(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(AGENT).args(arguments).envs(environment.iter().copied()).output().expect("runs")
}

pub(crate) fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Onsets of the thuds, by the alerts that the cloud has.
pub(crate) fn onsets(cloud: &Cloud, start_us: i64) -> Vec<f32> {
    let mut onsets = cloud.look(|r| {
        r.alert_times.values().map(|us| (us - start_us) as f32 / 1e6).collect::<Vec<f32>>()
    });
    onsets.sort_by(f32::total_cmp);
    onsets
}

pub(crate) fn assert_every_thud_once(onsets: &[f32], rounds: usize) {
    let truth = thuds(rounds);
    let near = |(found, truth): (&f32, &f32)| (found - truth).abs() < 0.05;
    let all = onsets.len() == truth.len() && onsets.iter().zip(&truth).all(near);
    assert!(all, "{} of {}: heard {onsets:?}", onsets.len(), truth.len());
}

pub(crate) const START: &str = "2026-03-01T18:00:00Z";
pub(crate) const START_US: i64 = 1_772_388_000_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_goes_all_the_way_and_the_station_ends_by_itself() {
    let Some(broker) = broker() else { return };
    let (server, url) = uploads::serve(&[]).await;
    let cloud = Cloud::start(&broker, "cloud", true);
    let source =
        format!("kind = \"file\"\npath = \"NIGHT\"\nspeed = \"max\"\nstart_time = \"{START}\"");
    let place = Place::new(&source, &broker.url(), &url);
    let child = place.start();
    tokio::task::block_in_place(|| place.ends_well(child, Duration::from_secs(60)));

    assert_every_thud_once(&onsets(&cloud, START_US), 1);
    cloud.look(|r| {
        assert_eq!(r.documents.len(), THUDS.len());
        assert!(r.documents.values().all(|count| *count == 1));
        assert_eq!(r.detections.len(), THUDS.len());
        assert!(r.detections.values().all(|detection| detection.clip.is_some()));
        assert_eq!(r.states, ["online", "offline"]);
    });
    // Each clip arrived, and holds exactly the ten seconds of the recording.
    let server = server.lock().expect("fine");
    assert_eq!(server.all_stored.len(), THUDS.len());
    assert!(std::fs::read_dir(place.data().join("clips")).expect("reads").next().is_none());
    assert!(!place.log().contains("ERROR"), "{}", place.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_station_that_is_asked_to_stop_closes_its_event_and_says_so() {
    let Some(broker) = broker() else { return };
    let (_server, url) = uploads::serve(&[]).await;
    let cloud = Cloud::start(&broker, "cloud", true);
    let place = Place::new("kind = \"file\"\npath = \"NIGHT\"", &broker.url(), &url);
    let child = place.start();
    // The first thud comes after 7 s; its event would be open for 5 s more.
    until("the first alert", async || cloud.look(|r| r.alert_times.len() == 1)).await;
    let asked = Instant::now();
    terminate(&child);
    tokio::task::block_in_place(|| place.ends_well(child, Duration::from_secs(11)));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    cloud.look(|r| {
        assert_eq!(r.detections.len(), 1, "{}", place.log());
        assert!(r.detections.values().all(|d| d.clip.is_some_and(|clip| clip.duration_ms > 5_000)));
    });
    // What the station said last may still be with the broker.
    until("the last word", async || {
        cloud.look(|r| r.states.last().is_some_and(|state| state == "offline"))
    })
    .await;
    cloud.look(|r| {
        assert_eq!(r.states, ["online", "offline"]);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_the_station_listens_and_keeps() {
    let mqtt = "mqtt://127.0.0.1:1";
    let source = "kind = \"file\"\npath = \"NIGHT\"\nspeed = \"max\"\nat_end = \"stay\"";
    let place = Place::new(source, mqtt, "");
    let child = place.start();
    until("twelve clips", async || {
        std::fs::read_dir(place.data().join("clips")).map_or(0, Iterator::count) == THUDS.len()
    })
    .await;
    assert!(place.log().contains("no connection to the broker"), "{}", place.log());
    terminate(&child);
    tokio::task::block_in_place(|| place.ends_well(child, Duration::from_secs(11)));
    let open = Open::at(&place.data(), 9, QUOTA).await;
    let rows = open.rows().await;
    let alerts = rows.iter().filter(|row| {
        matches!(Envelope::decode(&row.envelope), Ok(Envelope { message: Message::Alert(_), .. }))
    });
    assert_eq!(alerts.count(), THUDS.len());
    open.close().await;
}

#[test]
fn replay_prints_what_would_be_raised() {
    let place = Place::new("kind = \"mic\"", "mqtt://127.0.0.1:1", "");
    let config = place.config.display().to_string();
    let night = place.directory.path().join("night.wav").display().to_string();
    let output = agent(&["replay", "--config", &config, "--json", &night], &[]);
    assert!(output.status.success(), "{}", errors(&output));
    let lines: Vec<Value> = String::from_utf8(output.stdout)
        .expect("UTF-8")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), THUDS.len());
    for (line, onset) in lines.iter().zip(THUDS) {
        assert_eq!((line["class"].as_str(), line["alert"].as_bool()), (Some("thud"), Some(true)));
        assert!((line["start_s"].as_f64().expect("a number") as f32 - onset).abs() < 0.05);
    }
    assert!(!place.data().exists(), "a replay keeps nothing");

    let missing = agent(&["replay", "--config", &config, "/nonexistent.wav", &night], &[]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(errors(&missing).contains("/nonexistent.wav"), "{}", errors(&missing));
    assert_eq!(String::from_utf8(missing.stdout).expect("UTF-8").lines().count(), THUDS.len());
}

#[test]
fn a_scene_can_be_replayed_and_always_sounds_the_same() {
    let place = Place::new("kind = \"mic\"", "mqtt://127.0.0.1:1", "");
    let config = place.config.display().to_string();
    let run = || {
        agent(&["replay", "--config", &config, "--scene", "3", "--duration", "30", "--json"], &[])
    };
    let (first, second) = (run(), run());
    assert!(first.status.success(), "{}", errors(&first));
    assert!(!first.stdout.is_empty(), "a scene has shots");
    assert_eq!(first.stdout, second.stdout);
}

#[test]
fn what_is_asked_wrongly_ends_with_code_2_and_says_everything() {
    let directory = tempdir().expect("a directory");
    let config = directory.path().join("agent.toml");
    write(&config, b"[mqtt]\nurl = \"mqtt:/broker\"\nkeepalive = \"3s\"\n[source]\nkind = 5\n");
    let output = agent(&["run", "--config", &config.display().to_string()], &[]);
    let text = errors(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    for part in
        ["agent.toml:2: mqtt.url", "did you mean `mqtt.keep_alive`?", "agent.toml:5: source.kind"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(agent(&["run", "--no-such-flag"], &[]).status.code(), Some(2));
    assert_eq!(agent(&["replay"], &[]).status.code(), Some(2));
}

#[test]
fn what_is_missing_is_named_with_the_remedy() {
    let place =
        Place::new("kind = \"file\"\npath = \"/nonexistent/night.wav\"", "mqtt://127.0.0.1:1", "");
    let config = place.config.display().to_string();
    let run = |variable: (&str, &str)| {
        let output = agent(&["run", "--config", &config], &[variable]);
        assert_eq!(output.status.code(), Some(1), "{}", errors(&output));
        errors(&output)
    };
    let text = run(("NO_COLOR", "1"));
    let reason = "cannot read /nonexistent/night.wav: No such file or directory (os error 2)";
    assert!(text.contains(reason), "{text}");
    assert_eq!(text.matches("No such file").count(), 1, "the system's word comes once: {text}");
    let text = run(("ECOSIGHT__MODEL__BUNDLE", "/nonexistent/bundle"));
    assert!(text.contains("/nonexistent/bundle"), "{text}");
    // Below a file nothing can be made, whoever asks.
    let below_a_file = format!("{config}/data");
    let text = run(("ECOSIGHT__STORAGE__DATA_DIR", &below_a_file));
    assert!(text.contains("cannot write in the data directory"), "{text}");
    assert!(text.contains("storage.data_dir"), "{text}");
    let text = run(("ECOSIGHT__MODEL__THRESHOLDS__GUNSHOT", "0.5"));
    assert!(text.contains("no such class") && text.contains("thud, background"), "{text}");
}

#[test]
fn configfile_prints_what_can_be_read_back() {
    let output = agent(&["configfile"], &[]);
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).expect("UTF-8"), ecosight_agent::config::EXAMPLE);
}

#[test]
fn doctor_names_what_is_wrong_and_what_to_do() {
    let place =
        Place::new("kind = \"file\"\npath = \"NIGHT\"", "mqtt://127.0.0.1:1", "http://127.0.0.1:1");
    let config = place.config.display().to_string();
    let output = agent(&["doctor", "--config", &config, "--json"], &[]);
    assert_eq!(output.status.code(), Some(1));
    let checks: Vec<Value> = String::from_utf8(output.stdout)
        .expect("UTF-8")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    for (name, outcome) in [
        ("configuration", "pass"),
        ("data directory", "pass"),
        ("model", "pass"),
        ("inference", "pass"),
        ("sound source", "pass"),
        ("broker", "fail"),
        ("cloud", "fail"),
    ] {
        let check = checks.iter().find(|check| check["name"] == name).expect("checked");
        assert_eq!(check["outcome"], outcome, "{check}");
        assert_eq!(check["remedy"].is_string(), outcome == "fail", "{check}");
    }
}

/// What a service manager is told, by prefix, until `enough`.
fn told(socket: &UnixDatagram, enough: impl Fn(&[String]) -> bool, limit: Duration) -> Vec<String> {
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
    let (started, mut words, mut buffer) = (Instant::now(), Vec::new(), [0; 4_096]);
    while started.elapsed() < limit && !enough(&words) {
        if let Ok(len) = socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
            words.extend(text.lines().map(str::to_owned));
        }
    }
    words
}

#[test]
fn the_service_manager_learns_what_goes_on_and_the_dog_is_fed_only_while_it_does() {
    let source = "kind = \"stdin\"\nspeed = \"max\"";
    let place = Place::new(source, "mqtt://127.0.0.1:1", "");
    let path = place.directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("binds");
    let mut child = Command::new(AGENT)
        .args(["run", "--config"])
        .arg(&place.config)
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "600000")
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let mut pipe = child.stdin.take().expect("piped");
    let feeding = std::thread::spawn(move || {
        for _ in 0..20 {
            pipe.write_all(&[0; 32_000]).expect("taken");
            std::thread::sleep(Duration::from_millis(100));
        }
        pipe
    });
    let fed = |words: &[String]| words.iter().filter(|word| *word == "WATCHDOG=1").count();
    let words = told(&socket, |words| fed(words) >= 4, Duration::from_secs(20));
    assert_eq!(words.first().map(String::as_str), Some("READY=1"));
    assert!(fed(&words) >= 4, "{words:?}");
    assert!(words.iter().any(|word| word.starts_with("STATUS=")), "{words:?}");
    // The pipe stays open and nothing comes: the station is deaf, and the dog must bark.
    let pipe = feeding.join().expect("fed");
    told(&socket, |_| false, Duration::from_secs(1));
    let words = told(&socket, |_| false, Duration::from_secs(2));
    assert_eq!(fed(&words), 0, "{words:?}");
    terminate(&child);
    let words = told(&socket, |words| words.contains(&"STOPPING=1".into()), Duration::from_secs(5));
    assert!(words.contains(&"STOPPING=1".into()), "{words:?}");
    drop(pipe);
    place.ends_well(child, Duration::from_secs(11));
}

#[test]
fn a_sound_card_is_heard() {
    // ALSA's own silence, which any machine has.
    let place = Place::new("kind = \"mic\"\nrate = 16000\nchannels = 1", "mqtt://127.0.0.1:1", "");
    let asound = place.directory.path().join("asound.conf");
    write(&asound, b"pcm.!default { type null }\nctl.!default { type null }\n");
    let path = place.directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("binds");
    let child = Command::new(AGENT)
        .args(["run", "--config"])
        .arg(&place.config)
        .env("ALSA_CONFIG_PATH", &asound)
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "600000")
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let healthy = |words: &[String]| words.iter().any(|word| word.ends_with("source healthy"));
    let words = told(&socket, healthy, Duration::from_secs(20));
    terminate(&child);
    place.ends_well(child, Duration::from_secs(11));
    assert!(healthy(&words), "{words:?}");
}

pub(crate) fn terminate(child: &Child) {
    let status = Command::new("kill").arg(child.id().to_string()).status().expect("runs");
    assert!(status.success());
}

#[allow(clippy::disallowed_methods, reason = "a test's own file")]
pub(crate) fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("written");
}
