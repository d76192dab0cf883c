//! Path: broker → uplink → **update** → hearing
//!
//! Models from afar. A release that somebody signed is fetched, proved in a process of its own, kept in
//! one of two slots, tried beside the model in use, and then decides, or is gone again with a reason.
//! Every step is written down before anything follows from it (see [`machine`]), so that a station that
//! is killed anywhere runs the old model or the new one, and goes on.

pub mod fault;
pub mod fetch;
pub mod machine;
pub mod prove;
pub mod state;
pub mod trial;
pub mod wire;

use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, mpsc as channel};
use std::time::Duration;

use ecosight_models::Classifier;
use ecosight_models::bundle::{Bundle, hex};
use ecosight_shared::json::{ActiveModel, DesiredDocument, UpdateDocument, UpdateStep};
use ecosight_shared::{TimeQuality, json::TrialReport};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use fault::Fault;
pub use state::{Place, Saved, StateError, Store};

use crate::clock::{Clock, rfc3339};
use crate::config::Config;
use crate::ear::{self, Ear, EarError};
use crate::health::Health;
use crate::outbox::Outbox;
use crate::recorder::{Identity, Storage};
use crate::upload::{self, UploadError};
use fetch::{Fetcher, Limits};
use machine::{Answer, Judge, Task};
use prove::Prover;
use trial::{Board, Order, Outcome};
use wire::Words;

/// How often a trial is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How often the figures of a trial are told.
const TELL_TRIAL: Duration = Duration::from_secs(60);
/// A wish that waits for the clock, and a disk that refused, are tried again after this.
const AGAIN: Duration = Duration::from_secs(30);
/// Windows after which the station lives with a model: five minutes.
const SETTLED: u64 = 625;
/// Longest wait until records name the model that has taken over.
const NAMED_WITHIN: Duration = Duration::from_secs(10);

/// The model that a station begins with.
pub struct Begun {
    /// Settings that name it.
    pub config: Config,
    /// It.
    pub classifier: Classifier,
    /// Where it lies.
    pub place: Place,
    /// What is remembered of updates; nothing if none may be installed.
    pub updates: Option<(Store, Saved)>,
}

/// Carries wishes out.
pub struct Updater {
    /// Settings as they were written.
    pub config: Config,
    /// Who the station is, and what it runs.
    pub identity: Arc<Identity>,
    /// Its time.
    pub clock: Clock,
    /// Whose disk it is.
    pub storage: Storage,
    /// What goes first on the link.
    pub outbox: Outbox,
    /// Shows that the station lives with its model.
    pub health: Arc<Health>,
    /// To the listening thread.
    pub orders: channel::Sender<Order>,
    /// To the uplink.
    pub words: Words,
    /// The agent's program, for a process of its own.
    pub program: PathBuf,
}

/// Why updates cannot go on. The station ends, and is started again.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// See [`UploadError`].
    #[error(transparent)]
    Client(#[from] UploadError),
    /// The model that was committed did not take over; a new process begins with it.
    #[error("the committed model did not take over: {0}")]
    TakeOver(String),
}

/// The settings with the model of a place, if it is what was installed there.
fn with_model(
    config: &Config,
    store: &Store,
    saved: &Saved,
    place: Place,
) -> Result<Config, Fault> {
    let mut config = config.clone();
    if let (Some(slot), Some(installed)) = (store.slot(place), saved.installed(place)) {
        let bundle = Bundle::open(&slot).map_err(|error| Fault::Unloadable(error.to_string()))?;
        if bundle.sha256 != installed.bundle.0 {
            return Err(Fault::Unloadable(format!("{} holds another bundle", slot.display())));
        }
        config.model.bundle = Some(slot);
    }
    Ok(config)
}

/// The settings with the model that the station uses now, for whoever only looks: nothing is written.
/// The other one is where it lies.
#[must_use]
pub fn in_use(config: &Config) -> (Config, Place) {
    let factory = (config.clone(), Place::Factory);
    if !config.update.enabled {
        return factory;
    }
    let store = Store::of(&config.storage.data_dir);
    let saved = match store.read() {
        Ok(saved) => saved,
        Err(error) => {
            tracing::warn!(%error, "looking at the factory model");
            return factory;
        }
    };
    for place in [saved.active, saved.previous] {
        if let (true, Ok(config)) =
            (saved.installed(place).is_some(), with_model(config, &store, &saved, place))
        {
            return (config, place);
        }
    }
    factory
}

/// Loads the model that the station is to run: the committed one; if that cannot be, the one before it;
/// else the factory's. What could not be is written down with its reason.
///
/// # Errors
/// Not even the factory's can be loaded.
pub fn begin(config: &Config, clock: &Clock) -> Result<Begun, EarError> {
    let factory = |updates: Option<(Store, Saved)>| {
        let classifier = ear::load(config)?;
        Ok(Begun { config: config.clone(), classifier, place: Place::Factory, updates })
    };
    if !config.update.enabled {
        return factory(None);
    }
    let store = Store::of(&config.storage.data_dir);
    let mut saved = match store.read() {
        Ok(saved) => saved,
        Err(error) => {
            tracing::error!(%error, "no model is taken from afar, and the factory model runs");
            return factory(None);
        }
    };
    let keep = |saved: &Saved| {
        // Hearing goes first: what could not be written is found out again at the next start.
        if let Err(error) = store.write(saved) {
            tracing::error!(%error, "how the model does is not written down");
        }
    };
    loop {
        if let Some(next) = machine::starting(&saved, clock.unix_us()) {
            saved = next;
            keep(&saved);
        }
        let place = saved.active;
        let loaded = with_model(config, &store, &saved, place).and_then(|chosen| {
            let classifier = ear::load(&chosen);
            let classifier = classifier.map_err(|error| Fault::Unloadable(error.to_string()))?;
            Ok((chosen, classifier))
        });
        match loaded {
            Ok((config, classifier)) => {
                store.sweep(&saved);
                return Ok(Begun { config, classifier, place, updates: Some((store, saved)) });
            }
            Err(_) if place == Place::Factory => return factory(Some((store.clone(), saved))),
            Err(fault) => {
                tracing::error!(reason = %fault, slot = place.name(), "going back to the model before");
                saved = machine::fallen(&saved, &fault, clock.unix_us());
                keep(&saved);
            }
        }
    }
}

/// What came of a task.
enum Done {
    Begun,
    Fetched,
    Proved,
    Staged,
    Passed,
    /// It cannot be.
    Failed(Fault),
}

/// Everything that work on an update needs and does not change.
struct Tools {
    updater: Updater,
    store: Store,
    fetcher: Option<Fetcher>,
    prover: Prover,
}

impl Updater {
    /// Carries wishes out until `drain`.
    ///
    /// # Errors
    /// [`UpdateError`]
    pub async fn run(
        self,
        (store, saved): (Store, Saved),
        wished: mpsc::Receiver<Vec<u8>>,
        drain: CancellationToken,
    ) -> Result<(), UpdateError> {
        let limits = Limits::default();
        let client = upload::client(&self.config.cloud)?;
        let fetcher = self.config.cloud.url.clone().map(|base| Fetcher {
            client,
            base,
            dir: store.incoming(),
            storage: self.storage.clone(),
            limits,
            outbox: Some(self.outbox.clone()),
        });
        let prover = Prover {
            program: self.program.clone(),
            yamnet: self.config.model.yamnet.clone(),
            audioset: self.config.privacy.redact_speech,
            limit: prove::TIME_LIMIT,
        };
        let tools = Tools { updater: self, store, fetcher, prover };
        let mut work = Work { saved, wish: None, board: Board::default(), heard: 0 };
        let worked = tokio::select! {
            () = drain.cancelled() => Ok(()),
            worked = work.run(&tools, wished) => worked,
        };
        if worked.is_ok()
            && let Some(next) = machine::lives(&work.saved, false)
        {
            // It was asked to stop: that says nothing against the model.
            work.keep(&tools, next);
        }
        worked
    }
}

/// What changes while updates are carried out.
struct Work {
    saved: Saved,
    /// A wish that waits for the clock.
    wish: Option<DesiredDocument>,
    board: Board,
    /// Windows that were heard when the model in use began to decide.
    heard: u64,
}

impl Work {
    async fn run(
        &mut self,
        tools: &Tools,
        mut wished: mpsc::Receiver<Vec<u8>>,
    ) -> Result<(), UpdateError> {
        if let Some(next) = machine::woken(&self.saved, &tools.judge()) {
            self.keep(tools, next);
        }
        self.say(tools);
        let mut looks = tokio::time::interval(AGAIN);
        loop {
            let under_way = self.saved.clone();
            let (loaded, mut is_loaded) = mpsc::unbounded_channel();
            self.board = Board::default();
            let mut task = pin!(tools.perform(&under_way, self.board.clone(), loaded));
            loop {
                tokio::select! {
                    done = &mut task => {
                        if is_loaded.try_recv().is_ok() {
                            let next = machine::loaded(self.saved.clone(), tools.now_us());
                            self.take(tools, next);
                        }
                        self.done(tools, done).await?;
                        break;
                    }
                    Some(()) = is_loaded.recv() => {
                        let next = machine::loaded(self.saved.clone(), tools.now_us());
                        self.take(tools, next);
                    }
                    Some(payload) = wished.recv() => self.wished(tools, &payload),
                    _ = looks.tick() => self.look(tools),
                }
                if !goes_on(&under_way, &self.saved) {
                    break;
                }
            }
            if self.saved.job.is_none() {
                tools.store.sweep(&self.saved);
            }
        }
    }

    fn wished(&mut self, tools: &Tools, payload: &[u8]) {
        if payload.is_empty() {
            let nothing =
                DesiredDocument { v: DesiredDocument::VERSION, model: None, time: String::new() };
            return self.answer(tools, nothing);
        }
        let desired = serde_json::from_slice::<DesiredDocument>(payload);
        let desired = desired.map_err(|error| error.to_string()).and_then(|desired| {
            let known = desired.v == DesiredDocument::VERSION;
            if known { Ok(desired) } else { Err(format!("version {} is not known", desired.v)) }
        });
        match desired {
            Ok(desired) => self.answer(tools, desired),
            Err(problem) => {
                tracing::warn!(problem, "what the station should run cannot be read");
                if let Some(next) = machine::unreadable(&self.saved, problem, tools.now_us()) {
                    self.take(tools, next);
                }
            }
        }
    }

    fn answer(&mut self, tools: &Tools, desired: DesiredDocument) {
        self.wish = None;
        match machine::wished(&self.saved, &desired, &tools.judge()) {
            Answer::Nothing => {}
            Answer::Later => {
                tracing::warn!("a release waits for the clock to be set");
                self.wish = Some(desired);
            }
            Answer::Next(next) => {
                // What the disk refuses is asked again at the next connection.
                self.take(tools, *next);
            }
        }
    }

    /// Now and then: whether the clock is set by now, and whether the station lives with its model.
    fn look(&mut self, tools: &Tools) {
        if let Some(wish) = self.wish.take() {
            self.answer(tools, wish);
        }
        let heard = tools.updater.health.pulse().windows;
        if !self.saved.settled
            && heard >= self.heard + SETTLED
            && let Some(next) = machine::lives(&self.saved, true)
        {
            self.keep(tools, next);
        }
    }

    async fn done(&mut self, tools: &Tools, done: Done) -> Result<(), UpdateError> {
        let (saved, now_us) = (self.saved.clone(), tools.now_us());
        let next = match done {
            Done::Begun => machine::begun(saved, now_us),
            // Time has gone by while it came.
            Done::Fetched => match machine::still_good(&saved, &tools.judge()) {
                Ok(_) => machine::fetched(saved, now_us),
                Err(fault) => machine::failed(&saved, &fault, now_us),
            },
            Done::Proved => machine::proved(machine::loaded(saved, now_us), now_us),
            Done::Staged => machine::staged(saved, now_us),
            Done::Passed => {
                if !self.keep(tools, machine::committed(saved, now_us)) {
                    tokio::time::sleep(AGAIN).await;
                    return Ok(());
                }
                return self.take_over(tools).await;
            }
            Done::Failed(fault) => {
                tracing::error!(reason = %fault, code = fault.code(), "the release is not to be");
                machine::failed(&saved, &fault, now_us)
            }
        };
        if !self.take(tools, next) {
            // The disk refuses: the same again in a while.
            tokio::time::sleep(AGAIN).await;
        }
        Ok(())
    }

    /// The committed model is to decide from now on, without a window in between.
    async fn take_over(&mut self, tools: &Tools) -> Result<(), UpdateError> {
        let Updater { orders, health, identity, .. } = &tools.updater;
        self.heard = health.pulse().windows;
        let (done, answer) = oneshot::channel();
        let sent = orders.send(Order::TakeOver(done));
        match (sent, answer.await) {
            (Ok(()), Ok(Ok(()))) => {}
            (Ok(()), Ok(Err(problem))) => return Err(UpdateError::TakeOver(problem)),
            _ => {
                tracing::info!(
                    "nothing is heard any more: the model decides from the next start on"
                );
                return Ok(());
            }
        }
        health.set_model_slot(self.saved.active.name());
        // Records and words are to name it: the recorder is told in its turn.
        let since = Instant::now();
        let tag = self.saved.running().map(|running| hex(&running.bundle.0[..4]));
        while since.elapsed() < NAMED_WITHIN
            && tag.as_deref().is_some_and(|tag| identity.model.get().tag.to_string() != tag)
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.say(tools);
        Ok(())
    }

    /// Writes it down, and says it; false if the disk refuses: then nothing has changed.
    fn take(&mut self, tools: &Tools, next: Saved) -> bool {
        let is_news = next.word != self.saved.word;
        let kept = self.keep(tools, next);
        if kept && is_news {
            self.say(tools);
        }
        kept
    }

    fn keep(&mut self, tools: &Tools, mut next: Saved) -> bool {
        let clock = &tools.updater.clock;
        // A clock that nobody keeps may be far ahead, and would make everything old for ever.
        if matches!(clock.quality(), TimeQuality::Network | TimeQuality::Gps) {
            next.latest_unix_s = next.latest_unix_s.max(clock.unix_us().div_euclid(1_000_000));
        }
        match tools.store.write(&next) {
            Ok(()) => {
                #[cfg(debug_assertions)]
                tools.store.cut(&next);
                self.saved = next;
                true
            }
            Err(error) => {
                tracing::error!(%error, "an update waits for the disk");
                false
            }
        }
    }

    fn say(&self, tools: &Tools) {
        let tally = self.board.read();
        let trial = (tally.windows + tally.failed > 0).then(|| tally.report());
        if let Some(document) = tools.document(&self.saved, trial) {
            tools.updater.words.say(document);
        }
    }
}

/// Whether work on `under_way` is still what is wanted.
fn goes_on(under_way: &Saved, now: &Saved) -> bool {
    let (Some(before), Some(after)) = (&under_way.job, &now.job) else {
        return under_way.job.is_none() && now.job.is_none();
    };
    let same_place = before.files == after.files || after.step != UpdateStep::Downloading;
    let loads = after.step == UpdateStep::Loaded && before.step == UpdateStep::Verified;
    before.installed.id == after.installed.id && same_place && (before.step == after.step || loads)
}

impl Tools {
    fn now_us(&self) -> i64 {
        self.updater.clock.unix_us()
    }

    fn judge(&self) -> Judge<'_> {
        let Updater { config, identity, clock, .. } = &self.updater;
        Judge {
            trusted: &config.update.trusted_keys,
            device: identity.device,
            site: identity.site.as_str(),
            agent_version: env!("CARGO_PKG_VERSION"),
            now_us: clock.unix_us(),
            clock_set: clock.quality() != TimeQuality::Unknown,
        }
    }

    fn document(&self, saved: &Saved, trial: Option<TrialReport>) -> Option<UpdateDocument> {
        let word = saved.word.as_ref()?;
        let (code, reason) = word.fault.clone().unzip();
        let model = self.updater.identity.model.get();
        Some(UpdateDocument {
            v: UpdateDocument::VERSION,
            device: self.updater.identity.device.0,
            release: word.release.clone(),
            manifest: word.id.map(|id| id.to_string()).unwrap_or_default(),
            counter: word.counter,
            step: word.step,
            reason,
            code,
            at: rfc3339(word.at_us),
            active: ActiveModel {
                name: model.info.name.clone(),
                version: model.info.version.clone(),
                tag: model.info.tag.clone(),
            },
            trial,
        })
    }

    /// Does what is written to be done; for ever where that is nothing.
    async fn perform(
        &self,
        saved: &Saved,
        board: Board,
        loaded: mpsc::UnboundedSender<()>,
    ) -> Done {
        let done = match machine::task(saved) {
            Task::Rest => return std::future::pending().await,
            Task::Begin => self.look_around(saved).map(|()| Done::Begun),
            Task::Fetch => self.fetch(saved).await.map(|()| Done::Fetched),
            Task::Prove => self.prove(saved, &loaded).await.map(|()| Done::Proved),
            Task::Stage => {
                self.store.stage(saved.spare()).map(|()| Done::Staged).map_err(Fault::from)
            }
            Task::Try => self.try_out(saved, board).await.map(|()| Done::Passed),
        };
        done.unwrap_or_else(Done::Failed)
    }

    /// Whether there is a server, and room.
    fn look_around(&self, saved: &Saved) -> Result<(), Fault> {
        let manifest = machine::still_good(saved, &self.judge())?;
        self.fetcher.as_ref().ok_or(Fault::NoServer)?.make_room(&manifest)
    }

    async fn fetch(&self, saved: &Saved) -> Result<(), Fault> {
        let manifest = machine::still_good(saved, &self.judge())?;
        let job = saved.job.as_ref().ok_or(Fault::Withdrawn)?;
        let fetcher = self.fetcher.as_ref().ok_or(Fault::NoServer)?;
        fetcher.make_room(&manifest)?;
        fetcher.fetch(&manifest, &job.files).await
    }

    async fn prove(&self, saved: &Saved, loaded: &mpsc::UnboundedSender<()>) -> Result<(), Fault> {
        let manifest = machine::still_good(saved, &self.judge())?;
        let job = saved.job.as_ref().ok_or(Fault::Withdrawn)?;
        let (bundle, classes) = (job.installed.bundle, manifest.classes_sha256);
        let dir = self.store.incoming();
        let tell = || {
            // Whoever is told ends only together with this.
            let _ = loaded.send(());
        };
        self.prover.prove(&dir, bundle, classes, tell).await?;
        let proven = Bundle::open(&dir).map_err(|error| Fault::Mixed(error.to_string()))?;
        let rules = ear::rules(&self.updater.config.model, &proven);
        rules.map(drop).map_err(|error| Fault::Thresholds(error.to_string()))
    }

    /// Lets the staged model hear beside the one in use until it was tried long enough.
    async fn try_out(&self, saved: &Saved, board: Board) -> Result<(), Fault> {
        let job = saved.job.as_ref().ok_or(Fault::Withdrawn)?;
        let Updater { config, orders, words, .. } = &self.updater;
        let length = Duration::from_secs(job.trial_s.into()).max(config.update.min_trial);
        let chosen = with_model(config, &self.store, saved, saved.spare())?;
        let ear = tokio::task::spawn_blocking(move || {
            let classifier = ear::load(&chosen)?;
            // What it judges is no news of the station.
            Ear::new(classifier, &chosen, Arc::default())
        });
        let ear = ear.await.map_err(|error| Fault::NotLoaded(error.to_string()))?;
        let ear = ear.map_err(|error| Fault::NotLoaded(error.to_string()))?;
        let mut trial = Trial { orders, over: false };
        // Without a listener nothing is shown, and the trial stays open.
        let _ = orders.send(Order::Try(Box::new(ear), board.clone()));
        let started = Instant::now();
        let mut told = started;
        loop {
            tokio::time::sleep(LOOK).await;
            let tally = board.read();
            match trial::judge(&tally, started.elapsed(), length) {
                Outcome::Open => {}
                Outcome::Passed => {
                    trial.over = true;
                    return Ok(());
                }
                Outcome::Failed(fault) => return Err(fault),
            }
            if told.elapsed() >= TELL_TRIAL {
                told = Instant::now();
                if let Some(document) = self.document(saved, Some(tally.report())) {
                    words.say(document);
                }
            }
        }
    }
}

/// A trial under way: its model hears no more when this is dropped, unless it is to take over.
struct Trial<'a> {
    orders: &'a channel::Sender<Order>,
    over: bool,
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if !self.over {
            // Whoever hears no more needs no telling.
            let _ = self.orders.send(Order::Stop);
        }
    }
}
