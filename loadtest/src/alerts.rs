//! From the muzzle blast to the ranger: how long a shot in the stream takes to be an alert that an MQTT
//! subscriber has.
//!
//! Each station is the real program on a pipe, fed at the pace of sound with a synthetic forest whose shots
//! are known to the sample. The time of a shot is when its sound would have reached the microphone, so the hop,
//! the look-ahead of the features and the detector's second window count.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use ecosight_loadtest::Broker;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{AsyncClient, Event, MqttOptions};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use crate::fleet::now_us;
use crate::quantile::Latencies;

const RATE: u32 = 16_000;
/// Sound is handed over in pieces of this length, as a sound card would.
const PIECE: Duration = Duration::from_millis(20);
const PIECE_SAMPLES: usize = 320;
/// How long stations may take to load their model and connect.
const START_LIMIT: Duration = Duration::from_secs(60);
/// After the end of the sound, alerts may come for this long.
const SETTLE: Duration = Duration::from_secs(10);
/// An alert is of a shot whose onset it states no worse than this.
const SAME_S: f64 = 1.5;
/// Stations begin apart by this, so that their windows do not end at one moment.
const APART: Duration = Duration::from_millis(137);

/// What to do.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Stations that hear at the same time
    #[arg(long, default_value_t = 4)]
    stations: u32,
    /// Shots in the sound of each
    #[arg(long, default_value_t = 60)]
    shots: u32,
    /// Mean seconds between two shots; the least is 6
    #[arg(long, default_value_t = 8)]
    spacing: u32,
    /// Distances of the shots in metres, near enough to be heard
    #[arg(long, default_value = "40..150")]
    distance: String,
    /// The first station's forest; the others' follow
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder of the built programs [default: this one's]
    #[arg(long, value_name = "DIR")]
    bin: Option<PathBuf>,
    /// Fail if more than one in a hundred takes longer
    #[arg(long, value_name = "MS", default_value_t = 2_000)]
    limit_ms: u64,
    /// Fail if fewer are heard
    #[arg(long, default_value_t = 1)]
    at_least: usize,
}

/// A station and what it will hear.
struct Station {
    name: String,
    child: Running,
    sound: Vec<u8>,
    /// Onsets of the shots, s from the beginning.
    shots: Vec<f64>,
}

/// A child that goes with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A station's sound as it went in.
struct Played {
    name: String,
    shots: Vec<f64>,
    /// When its first sample was due, by this process's clock and by the wall's.
    started: Instant,
    started_us: i64,
}

/// What came to the subscriber.
struct Arrival {
    at: Instant,
    /// `alert` or `status`.
    kind: String,
    document: Value,
}

pub(crate) async fn run(options: Options) -> Result<ExitCode> {
    ensure!(options.spacing >= 6, "--spacing: at least 6 s, or neighbours become one event");
    let here = env::current_exe()?;
    let bin = options.bin.clone().or_else(|| here.parent().map(Path::to_owned));
    let bin = bin.context("--bin DIR")?;
    let folder = TempDir::new()?;
    let broker = Broker::start()?;
    let arrivals = subscribe(broker.port()).await?;
    let result = tokio::task::spawn_blocking(move || {
        let mut stations = Vec::new();
        for number in 0..options.stations {
            stations.push(Station::start(number, &options, &bin, folder.path(), &broker.url())?);
        }
        let outcome = measure(stations, &arrivals, &options);
        drop((folder, broker));
        outcome
    });
    result.await?
}

fn measure(
    mut stations: Vec<Station>,
    arrivals: &Receiver<Arrival>,
    options: &Options,
) -> Result<ExitCode> {
    let mut online = BTreeSet::new();
    let deadline = Instant::now() + START_LIMIT;
    while online.len() < stations.len() {
        for station in &mut stations {
            let ended = station.child.0.try_wait()?;
            ensure!(ended.is_none(), "{} ended: its log is above", station.name);
        }
        ensure!(Instant::now() < deadline, "only {online:?} came up");
        if let Ok(arrival) = arrivals.recv_timeout(Duration::from_millis(100))
            && arrival.kind == "status"
            && arrival.document["state"] == "online"
        {
            online.extend(arrival.document["device_name"].as_str().map(str::to_owned));
        }
    }
    let begin = Instant::now() + Duration::from_secs(1);
    let begin_us = now_us() + 1_000_000;
    let mut playing = Vec::new();
    let mut children = Vec::new();
    for (mut station, number) in stations.into_iter().zip(0_u32..) {
        let late = APART * number;
        let pipe = station.child.0.stdin.take().context("a station without standard input")?;
        let (started, sound) = (begin + late, std::mem::take(&mut station.sound));
        let started_us = begin_us + late.as_micros() as i64;
        children.push(station.child);
        playing.push((
            thread::spawn(move || play(pipe, &sound, started)),
            Played { name: station.name, shots: station.shots, started, started_us },
        ));
    }
    let (mut feeds, mut played) = (Vec::new(), Vec::new());
    for (feed, what) in playing {
        feeds.push(feed);
        played.push(what);
    }
    let mut tally = Tally::default();
    let mut end: Option<Instant> = None;
    while end.is_none_or(|end| Instant::now() < end) {
        if end.is_none() && feeds.iter().all(thread::JoinHandle::is_finished) {
            end = Some(Instant::now() + SETTLE);
        }
        match arrivals.recv_timeout(Duration::from_millis(200)) {
            Ok(arrival) if arrival.kind == "alert" => tally.take(&arrival, &mut played)?,
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => bail!("the subscriber lost the broker"),
        }
    }
    for feed in feeds {
        let late = feed.join().map_err(|_| anyhow::anyhow!("a feed panicked"))??;
        tally.late = tally.late.max(late);
    }
    drop(children);
    tally.report(options)
}

/// What was measured.
#[derive(Default)]
struct Tally {
    latencies: Latencies,
    others: usize,
    /// How late a piece of sound was handed over at most: a measure of the machine, not of stations.
    late: Duration,
}

impl Tally {
    /// Pairs an alert with the shot whose onset it states.
    fn take(&mut self, arrival: &Arrival, played: &mut [Played]) -> Result<()> {
        let name = arrival.document["device_name"].as_str().context("an alert without name")?;
        let time = arrival.document["time"].as_str().context("an alert without time")?;
        let time_us = time.parse::<jiff::Timestamp>()?.as_microsecond();
        let station = played.iter_mut().find(|station| station.name == name);
        let station = station.with_context(|| format!("an alert of {name}"))?;
        let stated_s = (time_us - station.started_us) as f64 / 1e6;
        let shot = station.shots.iter().position(|shot| (shot - stated_s).abs() < SAME_S);
        match shot {
            Some(shot) => {
                let onset = Duration::from_secs_f64(station.shots.swap_remove(shot));
                self.latencies.add(arrival.at - (station.started + onset));
            }
            None => self.others += 1,
        }
        Ok(())
    }

    #[allow(clippy::print_stdout, reason = "the result of the run")]
    fn report(mut self, options: &Options) -> Result<ExitCode> {
        let shots = options.stations * options.shots;
        println!(
            "sound to alert: {} stations at real time, {shots} shots, {} heard, {} alerts of something else",
            options.stations,
            self.latencies.len(),
            self.others
        );
        println!("  {}", self.latencies.summary());
        println!("  a piece of sound was at most {} ms late", self.late.as_millis());
        let (heard, p99_ms) = (self.latencies.len(), self.latencies.quantile_ms(0.99));
        if heard < options.at_least {
            println!("MISSED: only {heard} of {} were heard", options.at_least);
            return Ok(ExitCode::FAILURE);
        }
        if p99_ms > options.limit_ms as f64 {
            println!("MISSED: p99 is above {} ms", options.limit_ms);
            return Ok(ExitCode::FAILURE);
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Station {
    fn start(
        number: u32,
        options: &Options,
        bin: &Path,
        folder: &Path,
        broker: &str,
    ) -> Result<Self> {
        #[derive(Deserialize)]
        struct Truth {
            events: Vec<Sound>,
        }
        #[derive(Deserialize)]
        struct Sound {
            sound: String,
            onset_s: f64,
        }
        let name = format!("latency-{number}");
        let (wav, truth) =
            (folder.join(format!("{name}.wav")), folder.join(format!("{name}.json")));
        let seconds = options.shots * options.spacing;
        let made = Command::new(bin.join("ecosight-models"))
            .args(["scene", "--no-distractors", "--min-gap", "6s", "--first-shot", "6s"])
            .args(["--seed", &(options.seed + u64::from(number)).to_string()])
            .args(["--duration", &format!("{seconds}s"), "--distance", &options.distance])
            .args(["--shots-per-hour", &format!("{}", 3_600.0 / f64::from(options.spacing))])
            .arg("--out")
            .arg(&wav)
            .arg("--truth")
            .arg(&truth)
            .stdout(Stdio::null())
            .status()
            .context("ecosight-models: is it built?")?;
        ensure!(made.success(), "no scene: ecosight-models ended with {made}");
        let truth: Truth = serde_json::from_slice(&fs::read(&truth)?)?;
        let shots = truth.events.iter().filter(|event| event.sound == "gun_shot");
        let shots = shots.map(|shot| shot.onset_s).collect();
        let settings = folder.join(format!("{name}.toml"));
        write_settings(&settings, &name, folder, broker)?;
        let child = Command::new(bin.join("ecosight-agent"))
            .args(["run", "--config"])
            .arg(&settings)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("ecosight-agent: is it built?")?;
        Ok(Self { name, child: Running(child), sound: samples_of(&fs::read(&wav)?)?, shots })
    }
}

#[allow(clippy::disallowed_methods, reason = "a configuration for a run need not be durable")]
fn write_settings(path: &Path, name: &str, folder: &Path, broker: &str) -> Result<()> {
    let data = folder.join(format!("{name}-data"));
    let text = format!(
        "[station]\nname = \"{name}\"\nsite = \"latency\"\n[source]\nkind = \"stdin\"\n\
         rate = {RATE}\nchannels = 1\nat_end = \"stay\"\n[mqtt]\nurl = \"{broker}\"\n\
         [cloud]\nurl = \"\"\n[page]\nlisten = \"\"\n[log]\nlevel = \"warn\"\n\
         [storage]\ndata_dir = \"{}\"\nreserve = \"1MB\"\n",
        data.display()
    );
    Ok(fs::write(path, text)?)
}

/// The samples of a WAV file as `ecosight-models scene` writes it: 16 kHz, mono, 16 bit.
fn samples_of(wav: &[u8]) -> Result<Vec<u8>> {
    let data = wav.windows(4).position(|word| word == b"data").context("a WAV file")?;
    Ok(wav.get(data + 8..).context("a WAV file without samples")?.to_vec())
}

/// Hands the sound over at its own pace; gives how late a piece was at most.
fn play(mut pipe: ChildStdin, sound: &[u8], started: Instant) -> Result<Duration> {
    let mut late = Duration::ZERO;
    for (number, piece) in (1_u32..).zip(sound.chunks(2 * PIECE_SAMPLES)) {
        // It is there when its last sample was heard.
        let due = started + PIECE * number;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        late = late.max(Instant::now().saturating_duration_since(due));
        pipe.write_all(piece).context("a station takes no sound")?;
    }
    Ok(late)
}

/// A ranger's client; what it gets is stamped when it has it.
async fn subscribe(port: u16) -> Result<Receiver<Arrival>> {
    let mut options = MqttOptions::new("ranger", ("127.0.0.1", port));
    options.set_keep_alive(30);
    let (client, mut events) = AsyncClient::builder(options).capacity(64).build();
    for kind in ["alert", "status"] {
        client.subscribe(format!("ecosight/v1/latency/+/{kind}"), QoS::AtLeastOnce).await?;
    }
    let (sender, arrivals) = channel();
    tokio::spawn(async move {
        // The client ends with the broker, and the sender with it.
        while let Ok(event) = events.poll().await {
            let Event::Incoming(Packet::Publish(publish)) = event else { continue };
            let at = Instant::now();
            let topic = String::from_utf8_lossy(&publish.topic).into_owned();
            let Some((_, kind)) = topic.rsplit_once('/') else { continue };
            let Ok(document) = serde_json::from_slice(&publish.payload) else { continue };
            if sender.send(Arrival { at, kind: kind.to_owned(), document }).is_err() {
                return;
            }
        }
        drop(client);
    });
    Ok(arrivals)
}
