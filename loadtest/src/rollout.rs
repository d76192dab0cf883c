//! A whole rollout against a running server: signs a release, uploads it, starts a rollout, and lets
//! simulated stations take it over the real wire.
//!
//! The server must trust the key: put what `ecosight-load rollout-key` prints into
//! `releases.trusted_keys`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use ecosight_loadtest::{Fate, Fleet, FleetOptions, sign_release};
use ecosight_shared::release::SecretKey;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::sleep;

/// The server is asked this often how it goes.
const LOOK: Duration = Duration::from_millis(250);

/// What to do.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The broker
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:1883")]
    mqtt: String,
    /// The server
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    server: String,
    /// An API key of a technician or administrator, where the server has accounts
    #[arg(long, value_name = "SECRET")]
    api_key: Option<String>,
    /// Stations
    #[arg(long, default_value_t = 1_000)]
    devices: u32,
    /// Connections that they share
    #[arg(long, default_value_t = 8)]
    connections: u32,
    /// Stations that fail the golden clips, as in 5%; then the rollout must halt in its first cohort
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = percent)]
    failing: f64,
    /// Size of the model
    #[arg(long, default_value_t = 400_000)]
    bytes: usize,
    /// How long a cohort soaks, seconds
    #[arg(long, default_value_t = 1)]
    soak_s: u32,
    /// How long a station tries a model
    #[arg(long, default_value_t = 500)]
    trial_ms: u64,
    /// Decides which stations there are, and which of them fail
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Fail if it has neither come to all stations nor stopped by then
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    max_seconds: u64,
}

/// Which key to print.
#[derive(Debug, Args)]
pub(crate) struct KeyOptions {
    /// Of this seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A key for load runs: whoever knows the seed has it, so no real station may trust it.
fn key(seed: u64) -> SecretKey {
    let text = format!("ecosight load run {seed}");
    SecretKey::from_seed(&Sha256::digest(text).into())
}

pub(crate) fn print_key(options: &KeyOptions) -> ExitCode {
    println!("{}", key(options.seed).public());
    ExitCode::SUCCESS
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<f64>();
    let share = number.map_err(|_| format!("{text:?} is no percentage such as 5%"))?;
    if (0.0..=100.0).contains(&share) {
        Ok(share)
    } else {
        Err(format!("{text:?} is not 0 to 100"))
    }
}

pub(crate) async fn run(options: Options) -> Result<ExitCode> {
    let (host, port) = options.mqtt.rsplit_once(':').context("--mqtt HOST:PORT")?;
    let key = key(options.seed);
    let fleet_options = FleetOptions {
        mqtt: (host.to_owned(), port.parse().context("--mqtt: the port")?),
        server: options.server.clone(),
        api_key: options.api_key.clone(),
        site: "load".into(),
        devices: options.devices,
        connections: options.connections,
        seed: options.seed,
        trusted: vec![key.public()],
        trial: Duration::from_millis(options.trial_ms),
    };
    let mut ids = Fleet::ids(&fleet_options);
    ids.shuffle(&mut ChaCha8Rng::seed_from_u64(!options.seed));
    let failing = (f64::from(options.devices) * options.failing / 100.0).round() as usize;
    let failing: std::collections::HashSet<_> = ids.iter().take(failing).copied().collect();
    let failing_count = failing.len();
    let fate = move |device| {
        if failing.contains(&device) { Fate::FailsItsProof } else { Fate::Commits }
    };
    let server = Server { options: &options, client: reqwest::Client::new() };
    let fleet = Fleet::start(fleet_options, fate).await?;
    server.wait_for_stations(options.devices as usize).await?;

    let counter = server.next_counter().await?;
    let release = sign_release(&key, &format!("load-{counter}"), counter, options.bytes, None)?;
    let url = format!("{}/api/v1/releases", options.server);
    let taken = server.ask(server.client.post(url).body(release.archive.clone())).await?;
    let rules = json!({"soak_s": options.soak_s, "trial_s": 0, "silence_s": 600});
    let wish = json!({"release_id": taken["id"], "rules": rules});
    let url = format!("{}/api/v1/rollouts", options.server);
    let rollout = server.ask(server.client.post(&url).json(&wish)).await?;
    let id = rollout["id"].as_str().context("the rollout has no id")?;
    let (started, limit) = (Instant::now(), Duration::from_secs(options.max_seconds));
    server.ask(server.client.post(format!("{url}/{id}/start"))).await?;
    let mut cohort = Value::Null;
    let last = loop {
        let now = server.ask(server.client.get(format!("{url}/{id}"))).await?;
        if now["cohort"] != cohort {
            cohort = now["cohort"].clone();
            println!("{:6.1} s  cohort {cohort}", started.elapsed().as_secs_f64());
        }
        if now["state"] != "running" {
            break now;
        }
        if started.elapsed() > limit {
            bail!("neither finished nor stopped after {} s: {now}", options.max_seconds);
        }
        sleep(LOOK).await;
    };
    let took = started.elapsed().as_secs_f64();
    // Those that the share did not wait for.
    let converged = last["state"] == "done";
    while converged && fleet.running(release.signed.id()) + failing_count < options.devices as usize
    {
        ensure!(started.elapsed() < limit, "stations lag behind");
        sleep(LOOK).await;
    }
    let tally = fleet.tally();
    println!("stations   {}, of which {failing_count} fail the golden clips", options.devices);
    println!("rollout    {} after {took:.1} s, in cohort {}", last["state"], last["cohort"]);
    if let Some(reason) = last["reason"].as_str() {
        println!("reason     {reason}");
    }
    println!("touched    {}", tally.touched);
    println!(
        "running it {} after {:.1} s",
        fleet.running(release.signed.id()),
        started.elapsed().as_secs_f64()
    );
    println!("fetched    {:.1} MB in ranges", tally.bytes as f64 / 1e6);
    let wanted = match failing_count {
        0 => converged,
        // Nobody beyond the canaries may have had it.
        _ => last["state"] == "halted" && last["cohort"] == 1,
    };
    if !wanted {
        let should = if failing_count == 0 { "finish" } else { "halt in its first cohort" };
        eprintln!("MISSED: the rollout was to {should}");
    }
    Ok(if wanted { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The server that is asked.
struct Server<'a> {
    options: &'a Options,
    client: reqwest::Client,
}

impl Server<'_> {
    async fn ask(&self, request: reqwest::RequestBuilder) -> Result<Value> {
        let request = match &self.options.api_key {
            Some(secret) => request.bearer_auth(secret),
            None => request,
        };
        let response = request.send().await.context("the server does not answer")?;
        let status = response.status();
        let answer: Value = response.json().await.context("no JSON")?;
        ensure!(status.is_success(), "the server answers {status}: {}", answer["detail"]);
        Ok(answer)
    }

    async fn wait_for_stations(&self, count: usize) -> Result<()> {
        let url = format!("{}/api/v1/devices", self.options.server);
        for _ in 0..240 {
            let devices = self.ask(self.client.get(&url)).await?;
            if devices["items"].as_array().is_some_and(|items| items.len() >= count) {
                return Ok(());
            }
            sleep(LOOK).await;
        }
        bail!("the server does not see {count} stations")
    }

    async fn next_counter(&self) -> Result<u64> {
        let url = format!("{}/api/v1/releases?limit=500", self.options.server);
        let releases = self.ask(self.client.get(url)).await?;
        let counters = releases["items"].as_array().context("no items")?.iter();
        Ok(counters.filter_map(|item| item["counter"].as_u64()).max().unwrap_or(0) + 1)
    }
}
