//! The station: hears, keeps, tells.
//!
//! ```text
//! source → ear (window → classifier → detector) → hearing → recorder → outbox → uplink → broker
//!                                                    └ ring → clip ──────┘ └→ upload → cloud
//! ```
//!
//! [`run`] is that path as one function. `rg '^//! Path:'` prints it stage by stage.

pub mod clip;
pub mod clock;
pub mod command;
pub mod config;
pub mod doctor;
pub mod ear;
pub mod health;
pub mod hearing;
pub mod lifecycle;
pub mod outbox;
pub mod recorder;
pub mod replay;
pub mod resume;
pub mod source;
pub mod station;
mod stream;
pub mod uplink;
pub mod upload;

use std::sync::Arc;

use anyhow::{Context as _, Result};
use sd_notify::NotifyState;

use crate::clock::Clock;
use crate::config::{AtEnd, Config};
use crate::health::{Health, Reporter};
use crate::lifecycle::{RECORDER, Signals, Stages, Tasks, feed_watchdog};
use crate::recorder::{Identity, Recorder};
use crate::station::Started;
use crate::stream::Stream;
use crate::uplink::{Ending, Uplink};
use crate::upload::Uploader;

/// Runs the station until it is told to stop, or until its recording has ended and all of it is
/// delivered.
///
/// # Errors
/// It cannot start, with the remedy in the text; or a part of it failed and the process should be
/// started again.
pub async fn run(config: Config, clock: Clock) -> Result<()> {
    let signals = Signals::listen()?;
    let health = Arc::new(Health::default());
    let classifier = ear::load(&config.model)?;
    let Started { station, outbox, outbox_task, storage } = station::start(&config, &clock).await?;
    let identity = Arc::new(Identity::new(&config.station, station.id, classifier.bundle()));
    let stream = Stream::open(&config, classifier, &outbox, &clock, &health).await?;
    let (heard, told) = hearing::channel();
    let stages = Stages::default();
    let mut tasks = Tasks::default();

    let capture = stages.capture.clone();
    tasks.thread("hearing", move || Ok(stream.hearing.listen(heard, &capture)?))?;
    let recorder = Recorder::new(
        Arc::clone(&identity),
        storage.clone(),
        outbox.clone(),
        Arc::clone(&health),
        stream.name,
        stream.resume,
        stream.progress,
    );
    tasks.spawn(RECORDER, async move { Ok(recorder.run(told).await?) });
    let (tag, device) = (identity.tag, station.id);
    let uplink =
        Uplink { config: config.mqtt, identity, outbox: outbox.clone(), clock: clock.clone() };
    let ending = Ending { drain: stages.drain.clone(), stop: stages.stop.clone() };
    tasks.spawn("uplink", async move { Ok(uplink.run(ending).await?) });
    let uploader =
        Uploader::new(&config.cloud, outbox.clone(), storage, device, Arc::clone(&health))?;
    let ending = (stages.drain.clone(), stages.stop.clone());
    tasks.spawn("upload", async move { Ok(uploader.run(ending.0, ending.1).await?) });
    let reporter = Reporter {
        health: Arc::clone(&health),
        outbox: outbox.clone(),
        clock,
        model: tag,
        data_dir: station.data_dir.clone(),
    };
    let (interval, drain) = (config.telemetry.interval, stages.drain.clone());
    tasks.spawn("telemetry", async move { Ok(reporter.run(interval, drain).await?) });
    let watchdog = tokio::spawn(feed_watchdog(health, outbox.clone()));

    let _ = sd_notify::notify(&[NotifyState::Ready]);
    let ended = tasks.supervise(&stages, signals, config.source.at_end == AtEnd::Exit).await;
    watchdog.abort();
    drop(outbox);
    let closed = outbox_task.await.context("the outbox panicked")?;
    ended.and(closed.context("closing the outbox"))
}
