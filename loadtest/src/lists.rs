//! The API's lists, each filter in turn, first pages and pages further back.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::Value;

use crate::quantile::Latencies;

/// What people and programs ask for; the page after each is asked for, too.
const LISTS: &[&str] = &[
    "detections",
    "alerts",
    "alerts?site=site-7",
    "alerts?state=open",
    "alerts?state=acknowledged",
    "detections?class=gun_shot",
    "detections?class=dog",
    "detections?class=no_such_class",
    "detections?site=site-3",
    "detections?site=site-3&class=gun_shot",
    "detections?site=site-3&class=dog&min_score=0.99",
    "detections?min_score=0.99",
    "detections?verdict=confirmed",
    "detections?verdict=rejected&site=site-3",
    "detections?verdict=none&class=gun_shot",
    "detections?device={device}",
    "detections?device={device}&class=gun_shot",
    "detections?since={since}&until={until}",
    "detections?since={since}&until={until}&class=gun_shot",
    "devices",
    "devices/{device}",
];

/// What to do.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The server
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    server: String,
    /// How often each list is asked for
    #[arg(long, default_value_t = 100)]
    rounds: usize,
    /// Fail if the 95th percentile of any list takes longer
    #[arg(long)]
    max_p95_ms: Option<f64>,
}

pub(crate) async fn run(options: Options) -> Result<ExitCode> {
    let client = reqwest::Client::new();
    let get = async |path: &str| -> Result<Value> {
        let url = format!("{}/api/v1/{path}", options.server);
        let answer = client.get(&url).send().await.with_context(|| format!("cannot ask {url}"))?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "{url}: {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    };
    let devices = get("devices").await?;
    let devices: Vec<&str> = devices["items"]
        .as_array()
        .context("no items")?
        .iter()
        .filter_map(|d| d["id"].as_str())
        .collect();
    ensure!(!devices.is_empty(), "the server knows no station: fill its database first");
    let newest = get("detections?limit=1").await?;
    let newest: jiff::Timestamp =
        newest["items"][0]["time"].as_str().context("there is no detection")?.parse()?;

    println!("{:58} first page and the one after it", "list");
    let mut slow = false;
    for list in LISTS {
        let mut latencies = Latencies::default();
        for round in 0..options.rounds {
            let days = i64::try_from(round % 300)? + 1;
            let until = newest - jiff::SignedDuration::from_hours(24 * days);
            let since = until - jiff::SignedDuration::from_hours(24);
            let path = list
                .replace("{device}", devices[round * 7 % devices.len()])
                .replace("{since}", &since.to_string())
                .replace("{until}", &until.to_string());
            let begun = Instant::now();
            let page = get(&path).await?;
            latencies.add(begun.elapsed());
            if let Some(cursor) = page["next"].as_str() {
                let joint = if path.contains('?') { '&' } else { '?' };
                let begun = Instant::now();
                get(&format!("{path}{joint}cursor={cursor}")).await?;
                latencies.add(begun.elapsed());
            }
        }
        println!("{list:58} {}", latencies.summary());
        slow |= options.max_p95_ms.is_some_and(|most| latencies.quantile_ms(0.95) > most);
    }
    Ok(if slow { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
