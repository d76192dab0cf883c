//! The station: hears, keeps, tells.
//!
//! ```text
//! source → ear (window → classifier → detector) → hearing → recorder → outbox → uplink → broker
//!                └ speech, budget, candidate         │ └ ring → clip ─────┘ └→ upload → cloud
//!                                                    └ trace (why)      clock → correction ↑
//!                            update (a signed model, tried on the same sound) → ear
//! ```
//!
//! [`run`] is that path as one function. `rg '^//! Path:'` prints it stage by stage.

pub mod bearer;
pub mod budget;
pub mod calibrate;
pub mod canary;
pub mod candidate;
pub mod classify;
pub mod clip;
pub mod clock;
pub mod command;
pub mod condition;
pub mod config;
pub mod correction;
pub mod doctor;
pub mod ear;
pub mod enroll;
pub mod health;
pub mod hearing;
pub mod lifecycle;
pub mod logfile;
pub mod outbox;
pub mod page;
pub mod pull;
pub mod record_test;
pub mod recorder;
pub mod reel;
pub mod replay;
pub mod resume;
pub mod sound_check;
pub mod source;
pub mod speech;
pub mod station;
mod stream;
pub mod support;
pub mod trace;
pub mod update;
pub mod uplink;
pub mod upload;
pub mod why;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use sd_notify::NotifyState;
use tokio::sync::mpsc;

use crate::bearer::Bearer;
use crate::clock::Clock;
use crate::condition::Teller;
use crate::config::{AtEnd, Config};
use crate::health::{Health, Reporter};
use crate::lifecycle::{RECORDER, Signals, Stages, Tasks, feed_watchdog};
use crate::page::Page;
use crate::pull::Puller;
use crate::recorder::{Identity, Recorder};
use crate::station::Started;
use crate::stream::Stream;
use crate::update::{Begun, Updater};
use crate::uplink::{Control, Ending, Uplink};
use crate::upload::Uploader;

/// Longest wait for the last of the trace, which is owed to nobody.
const LAST_TRACE: Duration = Duration::from_secs(2);

/// Runs the station until it is told to stop, or until its recording has ended and all of it is
/// delivered.
///
/// # Errors
/// It cannot start, with the remedy in the text; or a part of it failed and the process should be
/// started again.
pub async fn run(config: Config, clock: Clock) -> Result<()> {
    let signals = Signals::listen()?;
    let health = Arc::new(Health::default());
    let Started { station, outbox, outbox_task, storage } = station::start(&config, &clock).await?;
    let written = config;
    let Begun { config, classifier, place, updates } = update::begin(&written, &clock)?;
    health.set_model_slot(place.name());
    let identity = Arc::new(Identity::new(&config.station, station.id, classifier.bundle()));
    let redaction = ear::redaction(&config.privacy).name();
    let reel = storage.reel.clone();
    let teller =
        Teller::new(Arc::clone(&health), clock.clone(), reel.clone(), redaction, &station.data_dir);
    let teller = Arc::new(teller);
    let page = page::listen(&config.page).await;
    let (tracer, entries) = trace::channel();
    let (pieces, to_reel) = reel::channel(&health);
    let pieces = reel.is_some().then_some(pieces);
    let mut stream =
        Stream::open(&config, classifier, &outbox, &clock, &health, tracer, pieces).await?;
    let (orders, told_to_try) = std::sync::mpsc::channel();
    stream.hearing.orders = Some(told_to_try);
    let remembering = tokio::spawn(trace::run(station.data_dir.clone(), entries));
    let reeling = reel.clone().map(|reel| {
        let (identity, health) = (Arc::clone(&identity), Arc::clone(&health));
        tokio::spawn(reel::run(reel, identity, to_reel, health))
    });
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
    let recorder = recorder.telling(Arc::clone(&teller));
    tasks.spawn(RECORDER, async move { Ok(recorder.run(told).await?) });
    let device = station.id;
    let (commands, asked) = mpsc::channel(pull::QUEUE);
    let (answers, replies) = mpsc::channel(pull::QUEUE);
    let puller = Puller {
        reel,
        storage: storage.clone(),
        outbox: outbox.clone(),
        identity: Arc::clone(&identity),
    };
    tasks.spawn("commands", async move { Ok(puller.run(asked, answers).await?) });
    let (line, wished, words) = update::wire::line();
    let takes_models = updates.is_some();
    if let Some(updates) = updates {
        let updater = Updater {
            config: written,
            identity: Arc::clone(&identity),
            clock: clock.clone(),
            storage: storage.clone(),
            outbox: outbox.clone(),
            health: Arc::clone(&health),
            orders,
            words,
            // What runs, though a package may have put another in its place.
            program: "/proc/self/exe".into(),
        };
        let drain = stages.drain.clone();
        tasks.spawn("update", async move { Ok(updater.run(updates, wished, drain).await?) });
    }
    let uplink = Uplink {
        config: config.mqtt,
        identity: Arc::clone(&identity),
        outbox: outbox.clone(),
        clock: clock.clone(),
        teller: Some(Arc::clone(&teller)),
        health: Arc::clone(&health),
        control: Some(Control { commands, replies }),
        updates: takes_models.then_some(line),
    };
    let ending = Ending { drain: stages.drain.clone(), stop: stages.stop.clone() };
    tasks.spawn("uplink", async move { Ok(uplink.run(ending).await?) });
    let uploader = Uploader::new(
        &config.cloud,
        outbox.clone(),
        storage,
        device,
        Arc::clone(&health),
        clock.clone(),
    )?;
    let ending = (stages.drain.clone(), stages.stop.clone());
    tasks.spawn("upload", async move { Ok(uploader.run(ending.0, ending.1).await?) });
    let bearer = Bearer {
        config: config.bearer,
        outbox: outbox.clone(),
        clock: clock.clone(),
        health: Arc::clone(&health),
        data_dir: station.data_dir.clone(),
    };
    let drain = stages.drain.clone();
    tasks.spawn("bearer", async move { Ok(bearer.run(drain).await?) });
    if let Some(listener) = page {
        let page = Page {
            identity: Arc::clone(&identity),
            health: Arc::clone(&health),
            outbox: outbox.clone(),
            teller,
            clock: clock.clone(),
        };
        let drain = stages.drain.clone();
        tasks.spawn("page", async move { Ok(page.serve(listener, drain).await?) });
    }
    tokio::spawn(clock.clone().watch(stages.drain.clone()));
    // A recording has its own times, which have nothing to do with this machine's.
    if config.source.start_time.is_none() {
        let (clock, outbox, drain) = (clock.clone(), outbox.clone(), stages.drain.clone());
        tasks.spawn("correction", async move { Ok(correction::run(clock, outbox, drain).await?) });
    }
    let reporter = Reporter {
        health: Arc::clone(&health),
        outbox: outbox.clone(),
        clock,
        identity: Arc::clone(&identity),
        data_dir: station.data_dir.clone(),
    };
    let (interval, drain) = (config.telemetry.interval, stages.drain.clone());
    tasks.spawn("telemetry", async move { Ok(reporter.run(interval, drain).await?) });
    let watchdog = tokio::spawn(feed_watchdog(health, outbox.clone()));

    let _ = sd_notify::notify(&[NotifyState::Ready]);
    let ended = tasks.supervise(&stages, signals, config.source.at_end == AtEnd::Exit).await;
    watchdog.abort();
    // Its sender went with the listening thread: what it still has is written.
    let _ = tokio::time::timeout(LAST_TRACE, remembering).await;
    if let Some(reeling) = reeling {
        let _ = tokio::time::timeout(LAST_TRACE, reeling).await;
    }
    drop(outbox);
    let closed = outbox_task.await.context("the outbox panicked")?;
    ended.and(closed.context("closing the outbox"))
}
