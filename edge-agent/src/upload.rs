//! Path: clip files → upload → cloud
//!
//! Brings clips to the server, in pieces that survive a bad link, and removes each from the disk
//! when the server says that it is stored. Records go first: while one waits for its receipt, no piece of
//! a clip uses the link, up to a minute for an alert and ten seconds for any other. A link that never
//! brings receipts back, or an unbroken flow of records, so slows clips down and does not stop them.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ecosight_models::bundle::hex;
use ecosight_models::durable;
use ecosight_shared::{DeviceId, EventId};
use reqwest::header::{AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, StatusCode, Url};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bearer;
use crate::clock::Clock;
use crate::config;
use crate::health::{Health, Loss};
use crate::outbox::{ClipRow, Level, Outbox, OutboxError};
use crate::recorder::{Storage, evict_clip};
use crate::uplink::Backoff;

/// Bytes of one request: a few seconds on a 3G uplink.
const PIECE: u64 = 128 * 1_024;
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// How often the outbox is asked for clips.
const POLL: Duration = Duration::from_secs(1);
/// How often it is asked whether something more urgent still waits.
const LOOK: Duration = Duration::from_millis(200);
/// Longest that records hold a piece of a clip up: an alert, and any.
const PATIENCE: Patience =
    Patience { alerts: Duration::from_secs(60), records: Duration::from_secs(10) };
/// Header by which the server tells how much it has (draft-ietf-httpbis-resumable-upload).
const UPLOAD_OFFSET: &str = "upload-offset";
/// Uploads whose hash did not match before the local file itself is doubted.
const MISMATCHES_MAX: u32 = 3;

/// Why nothing can be uploaded at all. The caller stops and tells the operator.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The authority's certificate cannot be used.
    #[error("cloud.ca {path}: {problem}")]
    Authority {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The password or token cannot be used.
    #[error("cloud.{setting} {path}: {problem}")]
    Secret {
        /// Which setting named it.
        setting: &'static str,
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The client cannot be set up.
    #[error("HTTP client: {0}; install ca-certificates or set cloud.ca")]
    Client(#[source] reqwest::Error),
}

/// Uploads clips.
pub struct Uploader {
    client: Client,
    /// `None`: clips stay here.
    base: Option<Url>,
    outbox: Outbox,
    storage: Storage,
    device: DeviceId,
    health: Arc<Health>,
    retry_max: Duration,
    clock: Clock,
    allowance: Mutex<Allowance>,
    patience: Patience,
}

/// How long a clip gives way.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// While an alert waits for its receipt.
    pub alerts: Duration,
    /// While only other records do.
    pub records: Duration,
}

impl Patience {
    /// How long a clip waits when the outbox is this full; nothing if it need not.
    fn with(&self, level: &Level) -> Option<Duration> {
        if level.alerts > 0 {
            Some(self.alerts)
        } else {
            (level.records > 0).then_some(self.records)
        }
    }
}

/// File that remembers what was sent today.
pub const ALLOWANCE_FILE: &str = "sent-today.json";
const DAY_US: i64 = 86_400_000_000;

/// Bytes of clips that may be sent in a day.
#[derive(Debug)]
struct Allowance {
    /// `None`: any number, and nothing is written down.
    max: Option<u64>,
    spent: Spent,
    path: std::path::PathBuf,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Spent {
    /// Since 1970 UTC.
    day: i64,
    bytes: u64,
}

impl Allowance {
    fn new(max: Option<u64>, data_dir: &Path) -> Self {
        let path = data_dir.join(ALLOWANCE_FILE);
        let spent = max.and_then(|_| std::fs::read(&path).ok());
        let spent = spent.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Self { max, spent, path }
    }

    /// Whether `bytes` more may be sent on `day`.
    fn allows(&mut self, day: i64, bytes: u64) -> bool {
        if self.spent.day != day {
            self.spent = Spent { day, bytes: 0 };
        }
        self.max.is_none_or(|max| self.spent.bytes.saturating_add(bytes) <= max)
    }

    /// They are about to be sent: what fails on the way has cost as much.
    fn spend(&mut self, bytes: u64) -> u64 {
        self.spent.bytes += bytes;
        if self.max.is_some() {
            let written = serde_json::to_vec(&self.spent)
                .map_err(std::io::Error::from)
                .and_then(|json| durable::write_file(&self.path, &json));
            if let Err(error) = written {
                tracing::warn!(%error, "what was sent today is not written down");
            }
        }
        self.spent.bytes
    }
}

#[derive(Serialize)]
struct Declaration<'a> {
    event_id: String,
    device_id: String,
    sha256: String,
    bytes: u64,
    duration_ms: u32,
    format: &'a str,
}

#[derive(Deserialize)]
struct State {
    offset: u64,
    status: String,
}

/// How one attempt failed.
enum Failure {
    /// The network or the server: later.
    Later(String),
    /// The server has other bytes: begin again.
    Mismatch,
    /// The local file is gone or damaged: there is nothing to upload.
    Gone(String),
}

/// When a clip is tried again.
struct Retry {
    backoff: Backoff,
    at: Instant,
    mismatches: u32,
}

/// The client for `config`.
///
/// # Errors
/// A certificate that cannot be used.
pub fn client(config: &config::Cloud) -> Result<Client, UploadError> {
    let builder = Client::builder()
        .connect_timeout(CONNECT_LIMIT)
        .timeout(REQUEST_LIMIT)
        .user_agent(concat!("ecosight-agent/", env!("CARGO_PKG_VERSION")));
    let builder = match authorization(config)? {
        Some(headers) => builder.default_headers(headers),
        None => builder,
    };
    let plain = config.url.as_deref().is_some_and(|url| url.starts_with("http://"));
    let builder = match &config.ca {
        Some(path) => {
            let authority =
                |problem: String| UploadError::Authority { path: path.clone(), problem };
            let pem = std::fs::read(path).map_err(|e| authority(e.to_string()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|e| authority(e.to_string()))?;
            builder.tls_certs_only(certificates)
        }
        // Without TLS no authority is needed, nor need the system have any.
        None if plain => builder.tls_certs_only([]),
        None => builder,
    };
    builder.build().map_err(UploadError::Client)
}

/// The header by which the server knows this station.
fn authorization(config: &config::Cloud) -> Result<Option<HeaderMap>, UploadError> {
    let (setting, path) = match (&config.token_file, &config.password_file) {
        (Some(path), _) => ("token_file", path),
        (None, Some(path)) => ("password_file", path),
        (None, None) => return Ok(None),
    };
    let refuse = |problem: String| UploadError::Secret { setting, path: path.clone(), problem };
    let secret = std::fs::read_to_string(path).map_err(|e| refuse(e.to_string()))?;
    let value = match (&config.token_file, &config.username) {
        (None, Some(user)) => {
            format!("Basic {}", bearer::base64(format!("{user}:{}", secret.trim()).as_bytes()))
        }
        _ => format!("Bearer {}", secret.trim()),
    };
    let mut value =
        HeaderValue::from_str(&value).map_err(|_| refuse("holds no secret".to_owned()))?;
    value.set_sensitive(true);
    Ok(Some(HeaderMap::from_iter([(AUTHORIZATION, value)])))
}

impl Uploader {
    /// An uploader of the clips in `outbox` and `storage` to the server of `config`.
    ///
    /// # Errors
    /// A certificate that cannot be used.
    pub fn new(
        config: &config::Cloud,
        outbox: Outbox,
        storage: Storage,
        device: DeviceId,
        health: Arc<Health>,
        clock: Clock,
    ) -> Result<Self, UploadError> {
        let base = config.url.as_deref().and_then(|url| Url::parse(url).ok());
        let retry_max = config.retry_max;
        let data_dir = storage.clips.parent().unwrap_or(&storage.clips).to_owned();
        let max = config.max_per_day.map(|bytes| bytes.0);
        let allowance = Mutex::new(Allowance::new(max, &data_dir));
        let client = client(config)?;
        let patience = PATIENCE;
        Ok(Self {
            client,
            base,
            outbox,
            storage,
            device,
            health,
            retry_max,
            clock,
            allowance,
            patience,
        })
    }

    /// With another patience than a minute and ten seconds.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// Uploads until `stop`, or until nothing is left after `drain`.
    ///
    /// # Errors
    /// The outbox has stopped.
    pub async fn run(
        self,
        drain: CancellationToken,
        stop: CancellationToken,
    ) -> Result<(), OutboxError> {
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            outcome = self.upload_all(&drain) => outcome,
        }
    }

    async fn upload_all(&self, drain: &CancellationToken) -> Result<(), OutboxError> {
        let mut retries: BTreeMap<EventId, Retry> = BTreeMap::new();
        // Since when something more urgent waits, or since the last clip.
        let mut held_up_since: Option<Instant> = None;
        loop {
            let level = self.outbox.level().await?;
            if level.clip_bytes > self.storage.max_clips
                && evict_clip(&self.outbox, &self.storage, &self.health).await
            {
                continue;
            }
            if drain.is_cancelled() && (level.clips == 0 || self.base.is_none()) {
                return Ok(());
            }
            let patience = self.patience.with(&level);
            let since = patience.map(|_| *held_up_since.get_or_insert_with(Instant::now));
            held_up_since = since;
            let held_up = since.zip(patience).is_some_and(|(since, most)| since.elapsed() < most);
            let spent = !self.allows(PIECE);
            if spent && drain.is_cancelled() {
                return Ok(());
            }
            let (Some(base), false) = (&self.base, held_up || spent || level.clips == 0) else {
                tokio::time::sleep(LOOK).await;
                continue;
            };
            let clips = self.outbox.clips().await?;
            retries.retain(|event, _| clips.iter().any(|clip| clip.event == *event));
            let now = Instant::now();
            let due = |clip: &&ClipRow| retries.get(&clip.event).is_none_or(|r| r.at <= now);
            let Some(clip) = clips.iter().find(due) else {
                tokio::time::sleep(POLL).await;
                continue;
            };
            self.attempt(base, clip, &mut retries).await?;
            held_up_since = None;
        }
    }

    /// Waits while something more urgent does, for so long and no longer.
    async fn give_way(&self) -> Result<(), OutboxError> {
        let began = Instant::now();
        while let Some(most) = self.patience.with(&self.outbox.level().await?) {
            if began.elapsed() >= most {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    async fn attempt(
        &self,
        base: &Url,
        clip: &ClipRow,
        retries: &mut BTreeMap<EventId, Retry>,
    ) -> Result<(), OutboxError> {
        let mut mismatched = 0;
        let problem = match self.upload(base, clip).await {
            Ok(()) => {
                tracing::info!(event = %clip.event, bytes = clip.bytes, "clip uploaded");
                return self.forget(clip).await;
            }
            Err(Failure::Gone(problem)) => {
                tracing::error!(event = %clip.event, problem, "clip lost on this station");
                self.health.count(Loss::Clip, 1);
                return self.forget(clip).await;
            }
            Err(Failure::Later(problem)) => problem,
            Err(Failure::Mismatch) => {
                mismatched = 1;
                "the server received other bytes".to_owned()
            }
        };
        let retry = retries.entry(clip.event).or_insert_with(|| Retry {
            backoff: Backoff::new(clip.event.0.as_u128() as u64, self.retry_max),
            at: Instant::now(),
            mismatches: 0,
        });
        retry.mismatches += mismatched;
        if retry.mismatches >= MISMATCHES_MAX && !self.is_intact(clip) {
            tracing::error!(event = %clip.event, "clip damaged on this station's disk");
            self.health.count(Loss::Clip, 1);
            return self.forget(clip).await;
        }
        let pause = retry.backoff.pause();
        retry.at = Instant::now() + pause;
        let retry_in_ms = pause.as_millis() as u64;
        tracing::warn!(event = %clip.event, problem, retry_in_ms, "clip not uploaded");
        Ok(())
    }

    /// Row first, then file: a file without row is swept at the next start.
    async fn forget(&self, clip: &ClipRow) -> Result<(), OutboxError> {
        self.outbox.forget_clip(clip.event).await?;
        let path = self.storage.clips.join(&clip.name);
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %path.display(), "cannot remove a clip");
        }
        Ok(())
    }

    fn is_intact(&self, clip: &ClipRow) -> bool {
        std::fs::read(self.storage.clips.join(&clip.name))
            .is_ok_and(|bytes| <[u8; 32]>::from(Sha256::digest(&bytes)) == clip.sha256)
    }

    async fn upload(&self, base: &Url, clip: &ClipRow) -> Result<(), Failure> {
        let path = self.storage.clips.join(&clip.name);
        let size = std::fs::metadata(&path).map_err(|e| Failure::Gone(e.to_string()))?.len();
        if size != clip.bytes {
            return Err(Failure::Gone(format!("{size} bytes instead of {}", clip.bytes)));
        }
        let mut state = self.declare(base, clip).await?;
        let data = join(base, &format!("api/v1/clips/{}/data", clip.event))?;
        let mut first = true;
        while state.status != "stored" {
            if state.offset >= clip.bytes {
                // All there, and the server still looks at it.
                tokio::time::sleep(POLL).await;
                state = self.declare(base, clip).await?;
                if state.offset >= clip.bytes && state.status != "stored" {
                    return Err(Failure::Later(format!("server says {}", state.status)));
                }
                continue;
            }
            if !std::mem::take(&mut first) {
                self.give_way().await.map_err(|error| Failure::Later(error.to_string()))?;
            }
            let piece = read_piece(&path, state.offset, clip.bytes)
                .map_err(|e| Failure::Gone(e.to_string()))?;
            let last = state.offset + piece.len() as u64 - 1;
            if !self.allows(piece.len() as u64) {
                return Err(Failure::Later("today's bytes are sent".to_owned()));
            }
            self.spend(piece.len() as u64);
            let range = format!("bytes {}-{last}/{}", state.offset, clip.bytes);
            let answer = self
                .client
                .put(data.clone())
                .header(CONTENT_TYPE, clip.format.content_type())
                .header(CONTENT_RANGE, range)
                .body(piece)
                .send()
                .await
                .map_err(|e| Failure::Later(describe(&e)))?;
            state = match answer.status() {
                status if status.is_success() => {
                    answer.json().await.map_err(|e| Failure::Later(describe(&e)))?
                }
                StatusCode::CONFLICT => {
                    let has = answer.headers().get(UPLOAD_OFFSET);
                    let has = has.and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
                    let offset: u64 =
                        has.ok_or_else(|| Failure::Later("409 without Upload-Offset".to_owned()))?;
                    if offset == state.offset {
                        return Err(Failure::Later("409 at the right offset".to_owned()));
                    }
                    State { offset, status: "uploading".to_owned() }
                }
                StatusCode::UNPROCESSABLE_ENTITY => return Err(Failure::Mismatch),
                status => return Err(Failure::Later(refusal(status, answer).await)),
            };
        }
        Ok(())
    }

    fn allows(&self, bytes: u64) -> bool {
        let day = self.clock.unix_us().div_euclid(DAY_US);
        let mut allowance = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
        allowance.allows(day, bytes)
    }

    fn spend(&self, bytes: u64) {
        let mut allowance = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
        let today = allowance.spend(bytes);
        self.health.set_clip_bytes_today(today);
    }

    async fn declare(&self, base: &Url, clip: &ClipRow) -> Result<State, Failure> {
        let declaration = Declaration {
            event_id: clip.event.to_string(),
            device_id: self.device.to_string(),
            sha256: hex(&clip.sha256),
            bytes: clip.bytes,
            duration_ms: clip.duration_ms,
            format: clip.format.extension(),
        };
        let answer = self
            .client
            .post(join(base, "api/v1/clips")?)
            .json(&declaration)
            .send()
            .await
            .map_err(|e| Failure::Later(describe(&e)))?;
        match answer.status() {
            status if status.is_success() => {
                answer.json().await.map_err(|e| Failure::Later(describe(&e)))
            }
            status => Err(Failure::Later(refusal(status, answer).await)),
        }
    }
}

fn join(base: &Url, path: &str) -> Result<Url, Failure> {
    let text = format!("{}/{path}", base.as_str().trim_end_matches('/'));
    Url::parse(&text).map_err(|e| Failure::Later(format!("{text}: {e}")))
}

fn read_piece(path: &Path, offset: u64, total: u64) -> std::io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut piece = vec![0; (total - offset).min(PIECE) as usize];
    file.read_exact(&mut piece)?;
    Ok(piece)
}

/// The error and what caused it: reqwest keeps the reason, such as a refused connection, inside.
pub(crate) fn describe(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// What the server says of a refusal: the detail of its problem document, if it sent one.
pub(crate) async fn refusal(status: StatusCode, answer: reqwest::Response) -> String {
    #[derive(Deserialize)]
    struct Problem {
        detail: Option<String>,
    }
    let detail = answer.json::<Problem>().await.ok().and_then(|problem| problem.detail);
    format!("{status}: {}", detail.unwrap_or_default())
}
