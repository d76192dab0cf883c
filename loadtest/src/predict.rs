//! Closed-loop users of `/predict`.
//!
//! HTTP is spoken by hand on kept connections: the generator shares the machine with the server and
//! must cost next to nothing.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::quantile::{Latencies, Missed};

const RATE_HZ: u32 = 16_000;
const BOUNDARY: &str = "ecosight-load";
/// Sounds that differ, so that nothing can answer from a cache.
const SOUNDS: u64 = 16;
/// A user that was turned away waits about this long at most, whatever Retry-After says.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// Users come one after another within this time, and come back after a wait that differs by this share
/// to both sides: people are no choir.
const ARRIVAL: Duration = Duration::from_secs(1);
const SPREAD: f64 = 0.5;

/// What to do.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The server
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8000")]
    server: String,
    /// Users at one time
    #[arg(long, default_value_t = 100)]
    users: usize,
    /// Length of the run
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Length of each sound
    #[arg(long, default_value_t = 2.0)]
    sound_s: f32,
    /// Process id of the server, to tell its memory
    #[arg(long)]
    pid: Option<u32>,
    /// Fail if fewer are answered a second
    #[arg(long)]
    min_rate: Option<f64>,
    /// Fail if the 95th percentile of the answered takes longer, milliseconds
    #[arg(long, alias = "max-p95")]
    max_p95_ms: Option<f64>,
    /// Fail if the 95th percentile of those who are turned away is told so later, milliseconds
    #[arg(long, alias = "max-shed-p95")]
    max_shed_p95_ms: Option<f64>,
    /// Fail if the server of --pid has more memory at the end, MiB
    #[arg(long, alias = "max-rss", requires = "pid")]
    max_rss_mib: Option<u64>,
    /// Users who are turned away come back after so many milliseconds instead of Retry-After
    #[arg(long)]
    retry_ms: Option<u64>,
}

#[derive(Default)]
struct Counts {
    answered: Latencies,
    turned_away: Latencies,
    failed: usize,
    first_failure: Option<String>,
}

pub(crate) async fn run(options: Options) -> Result<ExitCode> {
    let requests: Vec<Vec<u8>> =
        (0..SOUNDS).map(|seed| request(&options.server, &sound(options.sound_s, seed))).collect();
    let requests = Arc::new(requests);
    let started = Instant::now();
    let until = started + Duration::from_secs(options.seconds);
    let retry = options.retry_ms.map(Duration::from_millis);
    let users: Vec<_> = (0..options.users)
        .map(|number| {
            let (server, requests) = (options.server.clone(), requests.clone());
            tokio::spawn(async move { user(&server, &requests, number, until, retry).await })
        })
        .collect();
    let mut all = Counts::default();
    for user in users {
        let counts = user.await.context("a user ended early")?;
        all.answered.join(counts.answered);
        all.turned_away.join(counts.turned_away);
        all.failed += counts.failed;
        all.first_failure = all.first_failure.or(counts.first_failure);
    }
    let seconds = started.elapsed().as_secs_f64();
    let rate = all.answered.len() as f64 / seconds;
    println!("users        {}", options.users);
    println!(
        "answered     {} ({rate:.1} a second): {}",
        all.answered.len(),
        all.answered.summary()
    );
    println!("turned away  {}: {}", all.turned_away.len(), all.turned_away.summary());
    println!("failed       {}", all.failed);
    if let Some(failure) = &all.first_failure {
        println!("             {failure}");
    }
    let memory_mib = options.pid.map(resident_mib).transpose()?;
    if let Some(mib) = memory_mib {
        println!("memory       {mib} MiB");
    }
    let mut missed = Missed::default();
    missed.unless(options.min_rate.is_none_or(|least| rate >= least), "answered a second");
    let p95 = all.answered.quantile_ms(0.95);
    missed.unless(options.max_p95_ms.is_none_or(|most| p95 <= most), "p95 of the answered");
    let p95 = all.turned_away.quantile_ms(0.95);
    missed
        .unless(options.max_shed_p95_ms.is_none_or(|most| p95 <= most), "p95 of those turned away");
    let fits = options.max_rss_mib.zip(memory_mib).is_none_or(|(most, mib)| mib <= most);
    missed.unless(fits, "memory");
    missed.unless(all.failed == 0, "failed");
    Ok(missed.exit_code())
}

fn resident_mib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.split_whitespace().next().context("no number")?.parse()?;
    Ok(kib / 1024)
}

async fn user(
    server: &str,
    requests: &[Vec<u8>],
    number: usize,
    until: Instant,
    retry: Option<Duration>,
) -> Counts {
    let mut counts = Counts::default();
    let mut connection: Option<TcpStream> = None;
    let mut turn = number;
    let mut rng = ChaCha8Rng::seed_from_u64(number as u64);
    sleep(ARRIVAL.mul_f64(rng.random())).await;
    while Instant::now() < until {
        let request = &requests[turn % requests.len()];
        turn += 1;
        let started = Instant::now();
        match exchange(server, &mut connection, request).await {
            Ok(Answer { status: 200, .. }) => counts.answered.add(started.elapsed()),
            Ok(Answer { status: 503, retry_after_s: Some(wait_s) }) => {
                counts.turned_away.add(started.elapsed());
                let wait = retry.unwrap_or(Duration::from_secs(wait_s).min(MAX_WAIT));
                sleep(wait.mul_f64(rng.random_range(1.0 - SPREAD..1.0 + SPREAD))).await;
            }
            Ok(answer) => counts.fail(format!("answered {}", answer.status)),
            Err(error) => {
                connection = None;
                counts.fail(format!("{error:#}"));
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    counts
}

impl Counts {
    fn fail(&mut self, what: String) {
        self.failed += 1;
        self.first_failure.get_or_insert(what);
    }
}

struct Answer {
    status: u16,
    retry_after_s: Option<u64>,
}

/// Sends a request and reads the answer to its end.
async fn exchange(
    server: &str,
    connection: &mut Option<TcpStream>,
    request: &[u8],
) -> Result<Answer> {
    let stream = match connection {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(server).await.context("connect")?;
            stream.set_nodelay(true)?;
            connection.insert(stream)
        }
    };
    stream.write_all(request).await.context("send")?;
    let mut bytes = Vec::with_capacity(2_048);
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        ensure!(stream.read_buf(&mut bytes).await.context("receive")? > 0, "closed early");
    };
    let head = std::str::from_utf8(&bytes[..head_end])?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let number = |name: &str| -> Option<u64> {
        head.lines().find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim().parse().ok())?
        })
    };
    let retry_after_s = number("retry-after");
    let Some(length) = number("content-length") else { bail!("no content-length") };
    while ((bytes.len() - head_end) as u64) < length {
        ensure!(stream.read_buf(&mut bytes).await.context("receive")? > 0, "closed early");
    }
    Ok(Answer { status, retry_after_s })
}

fn request(server: &str, wav: &[u8]) -> Vec<u8> {
    let head = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"sound.wav\"\r\n\
         Content-Type: audio/wav\r\n\r\n"
    );
    let tail = format!("\r\n--{BOUNDARY}--\r\n");
    let length = head.len() + wav.len() + tail.len();
    let mut request = format!(
        "POST /predict HTTP/1.1\r\nHost: {server}\r\nContent-Type: multipart/form-data; \
         boundary={BOUNDARY}\r\nContent-Length: {length}\r\n\r\n{head}"
    )
    .into_bytes();
    request.extend_from_slice(wav);
    request.extend_from_slice(tail.as_bytes());
    request
}

/// A WAV of 16-bit mono: a bang in the quiet, another for each seed.
fn sound(seconds: f32, seed: u64) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let count = (seconds * RATE_HZ as f32) as u32;
    let onset = count / 4;
    let mut wav = Vec::with_capacity(44 + 2 * count as usize);
    wav.extend_from_slice(b"RIFF");
    wav.extend_from_slice(&(36 + 2 * count).to_le_bytes());
    wav.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    wav.extend_from_slice(&RATE_HZ.to_le_bytes());
    wav.extend_from_slice(&(2 * RATE_HZ).to_le_bytes());
    wav.extend_from_slice(b"\x02\0\x10\0data");
    wav.extend_from_slice(&(2 * count).to_le_bytes());
    for n in 0..count {
        let noise: f32 = rng.random_range(-1.0..1.0);
        let after = n.checked_sub(onset).map(|n| n as f32);
        let level = after.map_or(0.003, |after| 0.003 + 0.8 * (-after / 1_600.0).exp());
        wav.extend_from_slice(&((noise * level * 32_767.0) as i16).to_le_bytes());
    }
    wav
}
