//! Simulated stations that update their model: the real wire, the real verification, no model.
//!
//! A station takes the desired document of its own topic, verifies the release as an agent does,
//! fetches every file in two ranges, checks its hash, and reports each step. What becomes of it then,
//! its [`Fate`] says. Stations share connections, and come back by themselves when the broker does.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use ecosight_shared::json::{
    ActiveModel, ConnectionState, DesiredDocument, DesiredModel, ModelInfo, StatusDocument,
    UpdateDocument, UpdateStep,
};
use ecosight_shared::release::{
    Highest, Memory, PublicKey, ReleaseRef, SignedManifest, Station as Asking, Verified, verify,
};
use ecosight_shared::{DeviceId, ModelTag, Topic};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{AsyncClient, Event, MqttOptions, PublishOptions, SubscribeFilterInput};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// Topics of one subscription.
const FILTERS: usize = 50;
/// Downloads at one time, all stations together: the machine is shared with the server.
const DOWNLOADS: usize = 16;
/// Between attempts to fetch a file from a server that is away.
const RETRY: Duration = Duration::from_millis(300);
const AGENT_VERSION: &str = "0.1.0";

/// What becomes of a release on a station that could fetch and verify it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is proved, tried and kept.
    Commits,
    /// The golden clips do not score as they should.
    FailsItsProof,
    /// Nothing is heard of it after the download.
    FallsSilent,
}

/// Which stations there are.
#[derive(Clone, Debug)]
pub struct FleetOptions {
    /// Host and port of the broker.
    pub mqtt: (String, u16),
    /// As in `http://127.0.0.1:8000`.
    pub server: String,
    /// A key to fetch files with, where the server has accounts: simulated stations have no
    /// credentials of their own.
    pub api_key: Option<String>,
    /// Their site.
    pub site: String,
    /// How many.
    pub devices: u32,
    /// Connections that they share.
    pub connections: u32,
    /// Decides which stations there are.
    pub seed: u64,
    /// Keys that they trust.
    pub trusted: Vec<PublicKey>,
    /// How long they try a model.
    pub trial: Duration,
}

/// Stations that run.
pub struct Fleet {
    inner: Arc<Inner>,
    tasks: Vec<JoinHandle<()>>,
}

/// What the stations have done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Stations whose last word is this step.
    pub steps: BTreeMap<&'static str, usize>,
    /// Stations that were ever told of a release.
    pub touched: usize,
    /// Bytes fetched.
    pub bytes: u64,
}

struct Inner {
    options: FleetOptions,
    stations: Mutex<HashMap<DeviceId, State>>,
    clients: Vec<AsyncClient>,
    http: reqwest::Client,
    downloads: Semaphore,
    bytes: AtomicU64,
    fate: Box<dyn Fn(DeviceId) -> Fate + Send + Sync>,
}

/// What a station remembers.
#[derive(Default)]
struct State {
    connection: usize,
    active: Option<ReleaseRef>,
    active_id: Option<[u8; 32]>,
    tag: ModelTag,
    highest: Option<Highest>,
    blocked: Vec<[u8; 32]>,
    /// Rises with every wish, so that what an older one began ends.
    wish: u64,
    under_way: bool,
    touched: bool,
    said: Option<UpdateDocument>,
    said_us: i64,
}

impl Fleet {
    /// The stations of a seed, in their order.
    #[must_use]
    pub fn ids(options: &FleetOptions) -> Vec<DeviceId> {
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        (0..options.devices).map(|_| DeviceId(Uuid::from_bytes(rng.random()))).collect()
    }

    /// Connects them all, each with its status, and lets them wait for a release.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub async fn start(
        options: FleetOptions,
        fate: impl Fn(DeviceId) -> Fate + Send + Sync + 'static,
    ) -> Result<Self> {
        ensure!(options.connections > 0, "stations need a connection");
        let ids = Self::ids(&options);
        let mut shares: Vec<Vec<DeviceId>> = vec![Vec::new(); options.connections as usize];
        let mut stations = HashMap::new();
        for (n, id) in ids.into_iter().enumerate() {
            let connection = n % shares.len();
            shares[connection].push(id);
            stations.insert(id, State { connection, ..State::default() });
        }
        let (mut clients, mut loops) = (Vec::new(), Vec::new());
        for number in 0..options.connections {
            let name = format!("updating-{}-{}-{number}", options.seed, std::process::id());
            let mut mqtt = MqttOptions::new(&name, options.mqtt.clone());
            mqtt.set_keep_alive(20).set_outgoing_inflight_upper_limit(100);
            let (client, eventloop) = AsyncClient::builder(mqtt).capacity(20_000).build();
            clients.push(client);
            loops.push(eventloop);
        }
        let inner = Arc::new(Inner {
            options,
            stations: Mutex::new(stations),
            clients,
            http: reqwest::Client::builder().timeout(Duration::from_secs(20)).build()?,
            downloads: Semaphore::new(DOWNLOADS),
            bytes: AtomicU64::new(0),
            fate: Box::new(fate),
        });
        let (mut tasks, mut waits) = (Vec::new(), Vec::new());
        for ((eventloop, own), client) in loops.into_iter().zip(shares).zip(inner.clients.clone()) {
            let (ready_in, ready) = tokio::sync::oneshot::channel();
            waits.push(ready);
            tasks.push(tokio::spawn(listen(inner.clone(), eventloop, client, own, ready_in)));
        }
        for ready in waits {
            timeout(Duration::from_secs(20), ready)
                .await
                .context("the broker does not answer")??;
        }
        Ok(Self { inner, tasks })
    }

    /// What they have done.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let mut tally =
            Tally { bytes: self.inner.bytes.load(Ordering::Relaxed), ..Tally::default() };
        for state in self.inner.lock().values() {
            tally.touched += usize::from(state.touched);
            if let Some(said) = &state.said {
                *tally.steps.entry(said.step.name()).or_default() += 1;
            }
        }
        tally
    }

    /// How many run the release with this id.
    #[must_use]
    pub fn running(&self, release: [u8; 32]) -> usize {
        self.inner.lock().values().filter(|state| state.active_id == Some(release)).count()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// One connection: subscribes for its stations, and takes what comes, for ever.
async fn listen(
    inner: Arc<Inner>,
    mut eventloop: rumqttc::EventLoop,
    client: AsyncClient,
    own: Vec<DeviceId>,
    ready: tokio::sync::oneshot::Sender<()>,
) {
    let (mut ready, mut pending) = (Some(ready), 0);
    loop {
        match eventloop.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                pending = own.len().div_ceil(FILTERS);
                inner.introduce(&client, &own);
            }
            Ok(Event::Incoming(Packet::SubAck(_))) => {
                pending = pending.saturating_sub(1);
                if let (0, Some(ready)) = (pending, ready.take_if(|_| pending == 0)) {
                    let _ = ready.send(());
                }
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                let topic = std::str::from_utf8(&publish.topic).unwrap_or("").to_owned();
                if let Ok(Topic::Desired(_, device)) = Topic::parse(&topic) {
                    wished(&inner, device, &publish.payload);
                }
            }
            Ok(_) => {}
            Err(_) => {
                eventloop.clean();
                sleep(RETRY).await;
            }
        }
    }
}

/// A station is told what to run.
fn wished(inner: &Arc<Inner>, device: DeviceId, payload: &[u8]) {
    let Ok(desired) = serde_json::from_slice::<DesiredDocument>(payload) else { return };
    let wish = {
        let mut stations = inner.lock();
        let Some(state) = stations.get_mut(&device) else { return };
        state.wish += 1;
        state.touched |= desired.model.is_some();
        state.wish
    };
    match desired.model {
        Some(model) => {
            let inner = inner.clone();
            tokio::spawn(async move {
                // A station that was interrupted says nothing of it: a newer wish does.
                let _ = inner.update(device, wish, model).await;
            });
        }
        None => inner.withdrawn(device),
    }
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<DeviceId, State>> {
        self.stations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Subscribes for stations, says who they are, and repeats their last words: the broker may be
    /// new.
    fn introduce(&self, client: &AsyncClient, own: &[DeviceId]) {
        let site = &self.options.site;
        for filters in own.chunks(FILTERS) {
            let filters: Vec<_> = filters
                .iter()
                .map(|device| Topic::Desired(site, *device).to_string())
                .map(|topic| SubscribeFilterInput::new(topic, QoS::AtLeastOnce))
                .collect();
            let _ = client.try_subscribe_many(filters);
        }
        let stations = self.lock();
        for device in own {
            let Some(state) = stations.get(device) else { continue };
            let status = self.status(*device, state);
            self.retain(state.connection, &Topic::Status(site, *device), &status);
            if let Some(said) = &state.said {
                self.retain(state.connection, &Topic::Update(site, *device), said);
            }
        }
    }

    fn retain(&self, connection: usize, topic: &Topic<'_>, document: &impl serde::Serialize) {
        let Ok(payload) = serde_json::to_vec(document) else { return };
        let options = PublishOptions::new(QoS::AtLeastOnce).retained();
        // A full queue drops it; the next connection repeats the last word.
        let _ = self.clients[connection].try_publish(topic.to_string(), payload, options);
    }

    fn status(&self, device: DeviceId, state: &State) -> StatusDocument {
        let active = active(state);
        StatusDocument {
            schema: StatusDocument::SCHEMA.into(),
            state: ConnectionState::Online,
            device_id: device.0,
            device_name: format!("sim-{}", &device.0.simple().to_string()[..8]),
            site_id: self.options.site.clone(),
            time: rfc3339(now_us()),
            agent_version: AGENT_VERSION.into(),
            model: ModelInfo {
                name: active.name,
                version: active.version,
                tag: active.tag,
                classes: vec!["gun_shot".into(), "background".into()],
            },
            location: None,
        }
    }

    /// Says how far a station is; `Err` if it was told something else meanwhile.
    fn say(
        &self,
        device: DeviceId,
        wish: u64,
        (release, id, counter): (&str, [u8; 32], Option<u64>),
        step: UpdateStep,
        why: Option<(&str, String)>,
    ) -> Result<()> {
        let mut stations = self.lock();
        let state = stations.get_mut(&device).context("no such station")?;
        ensure!(state.wish == wish, "told something else");
        state.under_way = !step.is_last();
        // Two words of one station are never of one instant.
        state.said_us = now_us().max(state.said_us + 1_000);
        let (code, reason) = why.map(|(code, reason)| (code.to_owned(), reason)).unzip();
        let document = UpdateDocument {
            v: UpdateDocument::VERSION,
            device: device.0,
            release: release.to_owned(),
            manifest: hex(&id),
            counter,
            step,
            reason,
            code,
            at: rfc3339(state.said_us),
            active: active(state),
            trial: None,
        };
        self.retain(state.connection, &Topic::Update(&self.options.site, device), &document);
        state.said = Some(document);
        Ok(())
    }

    /// A station is told to keep what it has.
    fn withdrawn(&self, device: DeviceId) {
        let (said, wish) = {
            let stations = self.lock();
            let Some(state) = stations.get(&device).filter(|state| state.under_way) else { return };
            let Some(said) = state.said.clone() else { return };
            (said, state.wish)
        };
        let mut id = [0; 32];
        for (place, byte) in id.iter_mut().enumerate() {
            let digits = said.manifest.get(place * 2..place * 2 + 2).unwrap_or("");
            *byte = u8::from_str_radix(digits, 16).unwrap_or(0);
        }
        let why = Some(("withdrawn", "the wish was taken back".to_owned()));
        let release = (&*said.release, id, said.counter);
        let _ = self.say(device, wish, release, UpdateStep::RolledBack, why);
    }

    /// From the wish to its end.
    async fn update(&self, device: DeviceId, wish: u64, model: DesiredModel) -> Result<()> {
        let title = model.signed.release.clone();
        let judged = SignedManifest::from_document(&model.signed).and_then(|signed| {
            let id = signed.id();
            self.judge(device, &signed).map(|verified| (verified, id))
        });
        let (verified, id) = match judged {
            Ok(judged) => judged,
            Err(refusal) => {
                let why = Some((refusal.code(), refusal.to_string()));
                let release = (&*title, [0; 32], None);
                return self.say(device, wish, release, UpdateStep::Refused, why);
            }
        };
        let manifest = &verified.manifest;
        let release = (&*title, id, Some(manifest.counter));
        if self.lock().get(&device).is_some_and(|state| state.active_id == Some(id)) {
            return self.say(device, wish, release, UpdateStep::Committed, None);
        }
        if let Some(state) = self.lock().get_mut(&device) {
            let counter = manifest.counter.max(state.highest.map_or(0, |highest| highest.counter));
            if state.highest.is_none_or(|highest| manifest.counter > highest.counter) {
                state.highest = Some(Highest { counter, release: id });
            }
        }
        self.say(device, wish, release, UpdateStep::Accepted, None)?;
        self.say(device, wish, release, UpdateStep::Downloading, None)?;
        for file in &manifest.files {
            let _turn = self.downloads.acquire().await?;
            let sha256 = hex(&file.sha256);
            let url = format!("{}{}/{sha256}", self.options.server, model.files);
            let found: [u8; 32] = Sha256::digest(self.fetch(&url, file.bytes).await?).into();
            if found != file.sha256 {
                let why = Some(("bad_hash", format!("{} is damaged", file.path)));
                return self.say(device, wish, release, UpdateStep::Refused, why);
            }
        }
        self.say(device, wish, release, UpdateStep::Verified, None)?;
        self.say(device, wish, release, UpdateStep::Loaded, None)?;
        match (self.fate)(device) {
            Fate::Commits => {}
            Fate::FallsSilent => return Ok(()),
            Fate::FailsItsProof => {
                if let Some(state) = self.lock().get_mut(&device) {
                    state.blocked.extend(manifest.bundle_sha256());
                }
                let why = Some(("golden_clips", "the golden clips score otherwise".to_owned()));
                return self.say(device, wish, release, UpdateStep::Refused, why);
            }
        }
        self.say(device, wish, release, UpdateStep::Proved, None)?;
        self.say(device, wish, release, UpdateStep::Trial, None)?;
        sleep(self.options.trial).await;
        {
            let mut stations = self.lock();
            let state = stations.get_mut(&device).context("no such station")?;
            ensure!(state.wish == wish, "told something else");
            let [a, b, c, d, ..] = manifest.bundle_sha256().unwrap_or_default();
            state.tag = ModelTag([a, b, c, d]);
            (state.active, state.active_id) = (Some(manifest.reference()), Some(id));
        }
        self.say(device, wish, release, UpdateStep::Committed, None)
    }

    /// As an agent judges.
    fn judge(
        &self,
        device: DeviceId,
        signed: &SignedManifest,
    ) -> Result<Verified, ecosight_shared::release::Refusal> {
        let stations = self.lock();
        let none = State::default();
        let state = stations.get(&device).unwrap_or(&none);
        let asking = Asking {
            trusted: &self.options.trusted,
            device,
            site: &self.options.site,
            agent_version: AGENT_VERSION,
            now_unix_s: Some(now_us() / 1_000_000),
        };
        let (highest, active, blocked) = (state.highest, state.active.as_ref(), &*state.blocked);
        verify(signed, &asking, &Memory { highest, active, blocked })
    }

    /// Fetches a file in two ranges, however often the server goes away.
    async fn fetch(&self, url: &str, len: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < len {
            let first = bytes.len() as u64;
            let last = if first == 0 { (len - 1) / 2 } else { len - 1 };
            match self.part(url, first, last).await {
                Ok(part) => bytes.extend(part),
                Err(_) => sleep(RETRY).await,
            }
        }
        self.bytes.fetch_add(len, Ordering::Relaxed);
        Ok(bytes)
    }

    async fn part(&self, url: &str, first: u64, last: u64) -> Result<Vec<u8>> {
        let request = self.http.get(url).header("range", format!("bytes={first}-{last}"));
        let request = match &self.options.api_key {
            Some(secret) => request.bearer_auth(secret),
            None => request,
        };
        let response = request.send().await?;
        if response.status().as_u16() != 206 {
            bail!("{url} answers {}", response.status());
        }
        let part = response.bytes().await?;
        ensure!(part.len() as u64 == last - first + 1, "a part has another length");
        Ok(part.to_vec())
    }
}

fn active(state: &State) -> ActiveModel {
    let (name, version) = match &state.active {
        Some(release) => (release.name.clone(), release.version.clone()),
        None => ("factory".into(), "0".into()),
    };
    ActiveModel { name, version, tag: state.tag.to_string() }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn rfc3339(unix_us: i64) -> String {
    jiff::Timestamp::from_microsecond(unix_us).map(|time| time.to_string()).unwrap_or_default()
}

#[allow(clippy::disallowed_methods, reason = "the clock of simulated stations")]
fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
