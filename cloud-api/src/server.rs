//! The server, put together.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ecosight_models::{Classifier, ClassifierOptions, LoadError};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use crate::alerts;
use crate::backoff::Backoff;
use crate::clips::Clips;
use crate::clock::Clock;
use crate::config::{BrokerChoice, Config, ModelConfig};
use crate::http::{self, Api};
use crate::inference::Inference;
use crate::ingest::{self, Ingest};
use crate::lifecycle::{self, Signals, Tasks};
use crate::link::{self, LinkOptions};
use crate::live::{self, Live};
use crate::store::{Store, StoreError};
use crate::upkeep;

/// From the first signal to the end.
const END_LIMIT: Duration = Duration::from_secs(10);
/// For requests that have begun; less than [`END_LIMIT`], which holds for all tasks together.
const DRAIN_LIMIT: Duration = Duration::from_secs(8);
/// For messages that are queued for the broker.
const DISCONNECT_LIMIT: Duration = Duration::from_secs(2);
/// How long the start waits for a PostgreSQL that is starting too.
const DATABASE_WAIT: Duration = Duration::from_secs(30);
/// A comment on live streams this often shows both sides that the other is there.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Changes between ingest and those who watch.
const CHANGES: usize = 1_024;

/// Nobody asks for AudioSet's own classes here, and one file at a time needs no batches of eight.
const MODEL_OPTIONS: ClassifierOptions = ClassifierOptions { audioset: false, batching: false };
/// Scores may differ by this much between published copies of YAMNet.
const GOLDEN_TOLERANCE: f32 = 0.1;

/// Runs the server until a signal, or until a part of it fails.
///
/// # Errors
/// What could not be had at the start, or the part that failed.
pub async fn serve(config: Config, clock: Clock) -> Result<()> {
    let mut signals = Signals::listen()?;
    let data_dir = data_dir(&config)?;
    let listener = http::bind(config.http.listen).await?;
    let mut tasks = Tasks::default();
    let broker = start_broker(&config, &mut tasks).await?;
    let store = open_store(&config, &data_dir).await?;
    let clips = Clips::open(data_dir.join("clips"), store.clone(), clock.clone());
    let clips = clips.await.with_context(|| unwritable(&data_dir))?;
    let inference = load_model(&config, &store).await?;
    let seed = clock.now_us() as u64 ^ u64::from(std::process::id());

    let (poller, link, deliveries) = link::link(
        &broker,
        Backoff::new(Duration::from_millis(200), Duration::from_secs(10), seed),
    );
    let live = Live::new(clock.now_us());
    let news = Arc::new(Notify::new());
    let (changes_in, changes) = mpsc::channel(CHANGES);
    let stop = tasks.stop();
    let ingest = Ingest {
        store: store.clone(),
        link: link.clone(),
        clock: clock.clone(),
        backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5), !seed),
        alerts: news.clone(),
        changes: changes_in,
    };
    let api = Api {
        store: store.clone(),
        clips,
        live: live.clone(),
        inference,
        link: link.clone(),
        broker: if config.mqtt.broker == BrokerChoice::Embedded { "embedded" } else { "external" },
        clock: clock.clone(),
        started_us: clock.now_us(),
        heartbeat: HEARTBEAT.min(config.http.idle_timeout / 2),
        stop: stop.clone(),
    };
    let address = listener.local_addr()?;
    let router = http::router(api, &config.http);

    tasks.spawn("link", {
        let (link, stop) = (link.clone(), stop.clone());
        async move {
            // What ingest and alerts still have to say goes out before the connection ends.
            let ended = stop.clone();
            let poll = link::poll(poller, ended.clone());
            tokio::pin!(poll);
            tokio::select! {
                () = &mut poll => return Ok(()),
                () = stop.cancelled() => {}
            }
            let goodbye = async {
                sleep(Duration::from_millis(100)).await;
                link.disconnect(DISCONNECT_LIMIT).await;
                sleep(DISCONNECT_LIMIT).await;
            };
            tokio::select! {
                () = &mut poll => {}
                () = goodbye => {}
            }
            Ok(())
        }
    });
    tasks.spawn("ingest", {
        let stop = stop.clone();
        async move {
            ingest::run(ingest, deliveries, stop).await;
            Ok(())
        }
    });
    tasks.spawn("alerts", {
        let work = alerts::run(store.clone(), link, clock.clone(), news, stop.clone());
        async move {
            work.await;
            Ok(())
        }
    });
    tasks.spawn("live", {
        let work = live::run(live, store.clone(), clock.clone(), changes, stop.clone());
        async move {
            work.await;
            Ok(())
        }
    });
    tasks.spawn("upkeep", {
        let work = upkeep::run(store.clone(), clock, config.storage.keep_telemetry, stop.clone());
        async move {
            work.await;
            Ok(())
        }
    });
    tasks.spawn("http", {
        let (http, stop) = (config.http.clone(), stop.clone());
        async move {
            http::serve(listener, router, http, stop, DRAIN_LIMIT).await;
            Ok(())
        }
    });
    tasks.spawn("report", lifecycle::report(stop));
    info!(url = %format_args!("http://{address}"), data = %data_dir.display(), "serving");

    let ran = tasks.run(&mut signals).await;
    let ended = tasks.end(&mut signals, END_LIMIT).await;
    store.close().await;
    ran.and(ended)?;
    info!("stopped");
    Ok(())
}

/// Brings the tables up to date.
///
/// # Errors
/// Why that cannot be done.
pub async fn migrate(config: &Config) -> Result<()> {
    let data_dir = data_dir(config)?;
    let store = open_store(config, &data_dir).await?;
    info!(database = store.kind(), "the tables are up to date");
    store.close().await;
    Ok(())
}

fn data_dir(config: &Config) -> Result<std::path::PathBuf> {
    let dir = config.data_dir(|name| std::env::var(name).ok());
    std::fs::create_dir_all(&dir).with_context(|| unwritable(&dir))?;
    Ok(dir)
}

fn unwritable(dir: &Path) -> String {
    format!(
        "cannot write the data directory {}; make it writable for this user, or name another with \
         --data-dir",
        dir.display()
    )
}

/// The broker to connect with; the embedded one is started.
async fn start_broker(config: &Config, tasks: &mut Tasks) -> Result<LinkOptions> {
    let mqtt = &config.mqtt;
    let (host, port, credentials) = match &mqtt.broker {
        BrokerChoice::Embedded => {
            let address = start_embedded(config, tasks).await?;
            (address.ip().to_string(), address.port(), None)
        }
        BrokerChoice::External { host, port } => (host.clone(), *port, credentials(config)?),
    };
    Ok(LinkOptions { host, port, client_id: mqtt.client_id.clone(), credentials })
}

#[cfg(feature = "embedded-broker")]
async fn start_embedded(config: &Config, tasks: &mut Tasks) -> Result<std::net::SocketAddr> {
    let (listener, inner) = crate::broker::start(config.mqtt.listen).await?;
    let address = listener.local_addr()?;
    info!(url = %format_args!("mqtt://{address}"), "embedded broker");
    let stop = tasks.stop();
    tasks.spawn("broker", async move {
        // Stations may still be told what is stored while the rest ends.
        let late = tokio_util::sync::CancellationToken::new();
        let serve = crate::broker::serve(listener, inner, late.clone());
        tokio::pin!(serve);
        tokio::select! {
            served = &mut serve => return served.map_err(Into::into),
            () = stop.cancelled() => {}
        }
        tokio::select! {
            served = &mut serve => served.map_err(Into::into),
            () = sleep(DISCONNECT_LIMIT) => Ok(()),
        }
    });
    Ok(address)
}

#[cfg(not(feature = "embedded-broker"))]
async fn start_embedded(_: &Config, _: &mut Tasks) -> Result<std::net::SocketAddr> {
    bail!("this build has no embedded broker")
}

fn credentials(config: &Config) -> Result<Option<(String, String)>> {
    let mqtt = &config.mqtt;
    let password = match &mqtt.password_file {
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("mqtt.password_file: cannot read {}", path.display()))?,
        None => String::new(),
    };
    if mqtt.username.is_empty() {
        if !password.is_empty() {
            bail!("mqtt.password_file is set and mqtt.username is not");
        }
        return Ok(None);
    }
    Ok(Some((mqtt.username.clone(), password.trim_end_matches(['\r', '\n']).to_owned())))
}

async fn open_store(config: &Config, data_dir: &Path) -> Result<Store> {
    let deadline = Instant::now() + DATABASE_WAIT;
    let mut told = false;
    loop {
        match Store::open(&config.database.url, data_dir).await {
            Ok(store) => return Ok(store),
            Err(error @ StoreError::Unavailable(_)) if Instant::now() < deadline => {
                if !told {
                    warn!(%error, "waiting for the database");
                    told = true;
                }
                sleep(Duration::from_secs(1)).await;
            }
            Err(error) => return Err(error).context("cannot open the database"),
        }
    }
}

/// Loads the model. Without one the server takes in and shows what stations send all the same.
async fn load_model(config: &Config, store: &Store) -> Result<Inference> {
    let model = config.model.clone();
    let loaded = tokio::task::spawn_blocking(move || loaded(&model)).await.context("the model")?;
    match &loaded {
        Ok(classifier) => {
            let bundle = classifier.bundle();
            let choice = classifier.choice();
            info!(
                name = bundle.name,
                version = bundle.version,
                tag = %bundle.tag,
                choice = choice.name(),
                why = %choice,
                "model loaded"
            );
            let (tag, classes) = (bundle.tag.to_string(), &bundle.classes);
            store.remember_model(&tag, &bundle.name, &bundle.version, classes).await?;
        }
        Err(reason) => error!("NO MODEL: {reason} /predict and /health answer 503 until then."),
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if config.model.threads == 0 { cores } else { config.model.threads };
    Ok(Inference::new(loaded, threads, config.model.queue))
}

/// The model, proven on the sounds whose scores its bundle states; or what is wrong and what to do.
pub(crate) fn loaded(config: &ModelConfig) -> Result<Classifier, String> {
    let (bundle, backbone) = (config.bundle.as_deref(), config.yamnet.as_deref());
    let classifier = Classifier::load_with(bundle, backbone, MODEL_OPTIONS).map_err(|error| {
        let import = match &error {
            LoadError::Backbone(_) => " (ecosight-models import-yamnet FILE)",
            _ => "",
        };
        format!("{error}{import}. Then start the server again.")
    })?;
    match classifier.golden_deviation() {
        Ok(Some(off)) if off > GOLDEN_TOLERANCE => {
            warn!(off, "the model's scores differ from those in its bundle: is it another YAMNet?");
        }
        Ok(_) => {}
        Err(error) => return Err(format!("the model does not run: {error}.")),
    }
    Ok(classifier)
}
