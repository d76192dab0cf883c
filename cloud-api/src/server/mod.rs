//! The server, put together.

mod model;
mod roles;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::access::{Guard, Passwords, is_private};
use crate::alerts;
use crate::backoff::Backoff;
use crate::chance::Chance;
use crate::clips::Clips;
use crate::clock::Clock;
use crate::config::{BrokerChoice, Config};
use crate::disk::Disk;
use crate::http::{self, Api, Introduction};
use crate::ingest::{self, Ingest};
use crate::lifecycle::{self, Signals, Tasks};
use crate::link::{self, LinkOptions};
use crate::live::{self, Feed, Live};
use crate::metric;
use crate::registry::{self, Registry};
use crate::releases::Releases;
use crate::rollout::{self, Rollouts};
use crate::samples::Samples;
use crate::serving::Switch;
use crate::store::{Store, StoreError};
use crate::tally::{self, Tally};
use crate::training::triggers::{self, Triggers};
use crate::training::{self, Worker};
use crate::upkeep::{self, Upkeep};

use model::load_model;
pub use roles::{Role, Roles};

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
/// Pictures and exports made at one time.
const PICTURES: usize = 2;
/// Changes between ingest and those who watch.
const CHANGES: usize = 1_024;

/// Runs those parts of the server that `roles` names until a signal, or until one of them fails.
///
/// # Errors
/// What could not be had at the start, or the part that failed.
pub async fn serve(config: Config, roles: &Roles, clock: Clock) -> Result<()> {
    let mut signals = Signals::listen()?;
    let data_dir = data_dir(&config)?;
    if !roles.are_all() && config.mqtt.broker == BrokerChoice::Embedded {
        bail!(
            "the roles {roles} alone need a broker that the others reach too: name one with \
             --mqtt mqtt://HOST:PORT"
        );
    }
    let listener = match roles.has(Role::Http) {
        true => Some(http::bind(config.http.listen)?),
        false => None,
    };
    let mut tasks = Tasks::default();
    let store = updated_store(&config, &data_dir).await?;
    let (open, grace) = (is_private(config.http.listen), config.http.grace());
    if listener.is_some() && !open && !store.has_administrator().await? {
        store.close().await;
        bail!(
            "{} can be reached from other machines, and there is no administrator: everybody there \
             could do everything. Make one with `ecosight-cloud create-admin NAME` (and the same \
             --data-dir or --database), or listen on 127.0.0.1",
            config.http.listen
        );
    }
    let mut broker = start_broker(&config, &store, &clock, &mut tasks).await?;
    broker.group.clone_from(&config.mqtt.shared_group);
    broker.subscribe = roles.has(Role::Ingest);
    if !broker.subscribe {
        // The session that stations' messages wait in belongs to whoever takes them in.
        broker.client_id = format!("{}-{roles}", broker.client_id).replace(',', "-");
    }
    let clips = Clips::open(data_dir.join("clips"), store.clone(), clock.clone());
    let clips = clips.await.with_context(|| unwritable(&data_dir))?;
    let chance = Chance::system();
    let samples = data_dir.join("samples");
    let samples = Samples::open(samples, store.clone(), clock.clone(), chance.clone())
        .with_context(|| unwritable(&data_dir))?;
    let releases = open_releases(&config, &data_dir, &store, &clock, &chance)?;
    if roles.has(Role::Http) {
        releases.sweep().with_context(|| unwritable(&data_dir))?;
    }
    let metrics = metric::start().context("cannot measure")?;
    let models = registry::models_dir(&data_dir);
    let registry = Registry::open(models, store.clone(), clock.clone(), chance.clone())
        .with_context(|| unwritable(&data_dir))?;
    let inference = load_model(&config, &store, &registry, &clock).await?;
    let switch = Switch::new(
        inference.clone(),
        registry.clone(),
        store.clone(),
        clock.clone(),
        config.model.clone(),
    );
    let tally = Tally::new(store.clone());
    let jobs = Arc::new(Notify::new());
    let owner = chance.id(&clock);
    let seed = clock.now_us() as u64 ^ u64::from(std::process::id());

    let (poller, link, deliveries) = link::link(
        &broker,
        Backoff::new(Duration::from_millis(200), Duration::from_secs(10), seed),
    );
    let live = Live::new(clock.now_us(), u16::from_le_bytes(chance.bytes()));
    let news = Arc::new(Notify::new());
    let rollout_news = Arc::new(Notify::new());
    let rollouts = Rollouts::new(store.clone(), clock.clone(), rollout_news.clone());
    let (changes_in, changes) = mpsc::channel(CHANGES);
    let stop = tasks.stop();
    let ingest = Ingest {
        store: store.clone(),
        link: link.clone(),
        clock: clock.clone(),
        backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5), !seed),
        alerts: news.clone(),
        rollouts: rollout_news,
        changes: changes_in,
    };
    let api = Api {
        store: store.clone(),
        clips: clips.clone(),
        samples: samples.clone(),
        releases,
        rollouts: rollouts.clone(),
        live: live.clone(),
        inference,
        registry: registry.clone(),
        switch: switch.clone(),
        learning: config.learning.clone(),
        tally: tally.clone(),
        jobs: jobs.clone(),
        link: link.clone(),
        introduction: introduction(&config, &broker)?,
        broker: if config.mqtt.broker == BrokerChoice::Embedded { "embedded" } else { "external" },
        guard: Guard::new(store.clone(), clock.clone(), open, &config.http),
        passwords: Passwords::default(),
        pictures: Arc::new(Semaphore::new(PICTURES)),
        metrics: Some(metrics.clone()),
        clock: clock.clone(),
        chance: chance.clone(),
        started_us: clock.now_us(),
        heartbeat: HEARTBEAT.min(config.http.idle_timeout / 2),
        disk: Disk::new(&data_dir, config.storage.reserve_mib),
        leaving: tasks.leaving(),
        stop: stop.clone(),
        endpoints: Arc::default(),
    };
    let worker = Worker {
        store: store.clone(),
        samples: samples.clone(),
        clips: clips.clone(),
        registry,
        switch: switch.clone(),
        learning: config.learning.clone(),
        yamnet: config.model.yamnet.clone(),
        dir: training::training_dir(&data_dir),
        clock: clock.clone(),
        chance: chance.clone(),
        news: jobs.clone(),
    };
    let triggers = Triggers {
        store: store.clone(),
        samples,
        clips: clips.clone(),
        learning: config.learning.clone(),
        clock: clock.clone(),
        chance,
        news: jobs,
    };
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
    if roles.has(Role::Http) {
        let (live, store, clock) = (live.clone(), store.clone(), clock.clone());
        let show = rollout::engine::show(live, store, clock, stop.clone());
        tasks.spawn_until_stop("rollouts on show", show);
    }
    if roles.has(Role::Worker) {
        // Ids of two processes never meet.
        let owner = owner.to_string();
        let run = rollout::engine::run(rollouts, link.clone(), owner, stop.clone());
        tasks.spawn_until_stop("rollouts", run);
    }
    if roles.has(Role::Ingest) {
        tasks.spawn_until_stop("ingest", ingest::run(ingest, deliveries, stop.clone()));
        let alerts = alerts::run(store.clone(), link, clock.clone(), news, stop.clone());
        tasks.spawn_until_stop("alerts", alerts);
    }
    let feed = Feed {
        live: live.clone(),
        store: store.clone(),
        clock: clock.clone(),
        own: roles.has(Role::Ingest).then_some(changes),
        others: !roles.has(Role::Ingest) || !config.mqtt.shared_group.is_empty(),
    };
    tasks.spawn_until_stop("live", live::run(feed, stop.clone()));
    tasks.spawn_until_stop("serving", switch.follow(stop.clone()));
    if roles.has(Role::Http) {
        let shown = live::show_trainings(live, store.clone(), stop.clone());
        tasks.spawn_until_stop("trainings", shown);
    }
    if roles.has(Role::Worker) {
        tasks.spawn_until_stop("triggers", triggers::run(triggers, stop.clone()));
        tasks.spawn_until_stop("worker", training::run(worker, stop.clone()));
        let upkeep = Upkeep {
            store: store.clone(),
            clips,
            clock,
            keep_telemetry: config.storage.keep_telemetry,
            keep_events: config.storage.keep_events.clone(),
        };
        tasks.spawn_until_stop("upkeep", upkeep::run(upkeep, stop.clone()));
    }
    tasks.spawn_until_stop("tally", tally::run(tally.clone(), stop.clone()));
    tasks.spawn_until_stop("measure", upkeep::measure(store.clone(), metrics, stop.clone()));
    if let Some(listener) = listener {
        let address = listener.local_addr()?;
        let http = http::serve(listener, router, config.http.clone(), stop.clone(), DRAIN_LIMIT);
        tasks.spawn_until_stop("http", http);
        info!(url = %format_args!("http://{address}"), data = %data_dir.display(), "serving");
    } else {
        info!(%roles, data = %data_dir.display(), "working");
    }
    tasks.spawn("report", lifecycle::report(stop));

    let ran = tasks.run(&mut signals).await;
    // Where a part has failed, nothing is to be had by waiting.
    let grace = if ran.is_ok() && roles.has(Role::Http) { grace } else { Duration::ZERO };
    let ended = tasks.end(&mut signals, grace, END_LIMIT).await;
    tally.flush().await;
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
    let store = updated_store(config, &data_dir).await?;
    info!(database = store.kind(), "the tables are up to date");
    store.close().await;
    Ok(())
}

pub(crate) fn data_dir(config: &Config) -> Result<std::path::PathBuf> {
    let dir = config.data_dir(|name| std::env::var(name).ok());
    std::fs::create_dir_all(&dir).with_context(|| unwritable(&dir))?;
    Ok(dir)
}

/// The releases of a server with these settings.
///
/// # Errors
/// If the data directory cannot be written.
pub(crate) fn open_releases(
    config: &Config,
    data_dir: &Path,
    store: &Store,
    clock: &Clock,
    chance: &Chance,
) -> Result<Releases> {
    let (dir, keys) = (data_dir.join("releases"), config.releases.trusted_keys.clone());
    Releases::open(dir, store.clone(), clock.clone(), chance.clone(), keys)
        .with_context(|| unwritable(data_dir))
}

fn unwritable(dir: &Path) -> String {
    format!(
        "cannot write the data directory {}; make it writable for this user, or name another with \
         --data-dir",
        dir.display()
    )
}

/// What stations are told of the broker that was started or named.
fn introduction(config: &Config, broker: &LinkOptions) -> Result<Introduction> {
    let mqtt = &config.mqtt;
    // On this machine alone is where a station is that enrols at a server of this machine alone.
    let embedded = mqtt.listen.ip();
    let is_place =
        !embedded.is_unspecified() && (!embedded.is_loopback() || is_private(config.http.listen));
    let mqtt_url = match (mqtt.stations_url.as_str(), &mqtt.broker) {
        ("", BrokerChoice::Embedded) if is_place => {
            Some(format!("mqtt://{}", std::net::SocketAddr::new(embedded, broker.port)))
        }
        ("", _) => None,
        (url, _) => Some(url.to_owned()),
    };
    let mqtt_ca = mqtt.stations_ca.as_ref().map(|file| {
        std::fs::read_to_string(file)
            .with_context(|| format!("mqtt.stations_ca: cannot read {}", file.display()))
    });
    Ok(Introduction { mqtt_url, mqtt_ca: mqtt_ca.transpose()? })
}

/// The broker to connect with; the embedded one is started.
async fn start_broker(
    config: &Config,
    store: &Store,
    clock: &Clock,
    tasks: &mut Tasks,
) -> Result<LinkOptions> {
    let mqtt = &config.mqtt;
    let (host, port, credentials) = match &mqtt.broker {
        BrokerChoice::Embedded => {
            let door = mqtt.require_credentials.then(|| (store.clone(), clock.clone()));
            let address = start_embedded(config, door, tasks).await?;
            (address.ip().to_string(), address.port(), None)
        }
        BrokerChoice::External { host, port } => (host.clone(), *port, credentials(config)?),
    };
    let client_id = mqtt.client_id.clone();
    Ok(LinkOptions { host, port, client_id, credentials, group: String::new(), subscribe: true })
}

#[cfg(feature = "embedded-broker")]
async fn start_embedded(
    config: &Config,
    door: Option<(Store, Clock)>,
    tasks: &mut Tasks,
) -> Result<std::net::SocketAddr> {
    let (listener, inner) = crate::broker::start(config.mqtt.listen).await?;
    let address = listener.local_addr()?;
    info!(url = %format_args!("mqtt://{address}"), open = door.is_none(), "embedded broker");
    let server_id = config.mqtt.client_id.clone();
    let door = door.map(|(store, clock)| crate::broker::Door { store, clock, server_id });
    let stop = tasks.stop();
    tasks.spawn("broker", async move {
        // Stations may still be told what is stored while the rest ends.
        let late = tokio_util::sync::CancellationToken::new();
        let serve = crate::broker::serve(listener, inner, door, late.clone());
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
    Ok(inner.v5)
}

#[cfg(not(feature = "embedded-broker"))]
async fn start_embedded(
    _: &Config,
    _: Option<(Store, Clock)>,
    _: &mut Tasks,
) -> Result<std::net::SocketAddr> {
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

/// The database for everything but serving, which leaves tables of an earlier version alone.
///
/// # Errors
/// Why it cannot be had, and what to do.
pub(crate) async fn open_store(config: &Config, data_dir: &Path) -> Result<Store> {
    patiently(|| Store::open_current(&config.database.url, data_dir)).await
}

async fn updated_store(config: &Config, data_dir: &Path) -> Result<Store> {
    patiently(|| Store::open(&config.database.url, data_dir)).await
}

/// Waits for a database that is starting, too.
async fn patiently<O>(open: impl Fn() -> O) -> Result<Store>
where
    O: Future<Output = Result<Store, StoreError>>,
{
    let deadline = Instant::now() + DATABASE_WAIT;
    let mut told = false;
    loop {
        match open().await {
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
