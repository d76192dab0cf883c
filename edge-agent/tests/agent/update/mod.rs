//! Models from afar: whatever is sent and whatever is killed, the station runs the old model or the
//! one that was signed for it.

mod attacks;
mod life;
mod states;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use ecosight_agent::update::machine::Judge;
use ecosight_models::BundleFiles;
use ecosight_models::bundle::hex;
use ecosight_models::release::{Terms, describe};
use ecosight_shared::json::{DesiredDocument, DesiredModel};
use ecosight_shared::release::{Manifest, PublicKey, ReleaseRef, SecretKey, SignedManifest, peek};
use futures_util::StreamExt as _;
use sha2::{Digest, Sha256};

use crate::bundle::Thud;
use crate::support::{DEVICE, START_US};

/// Below this path the files lie.
pub(crate) const FILES: &str = "/files";
/// Year 2100: whole stations go by the machine's clock.
pub(crate) const EXPIRES_S: i64 = 4_102_444_800;

pub(crate) fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

/// A bundle with what is signed of it.
pub(crate) struct Release {
    pub(crate) manifest: Manifest,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

impl Release {
    pub(crate) fn of(thud: &Thud, counter: u64, replaces: Option<ReleaseRef>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("bundle");
        Thud { golden_off: thud.golden_off.or(Some(0.0)), ..thud.clone() }.write(&dir);
        Self::from_bundle(&BundleFiles::open(&dir).expect("a bundle"), counter, replaces)
    }

    pub(crate) fn from_bundle(
        bundle: &BundleFiles,
        counter: u64,
        replaces: Option<ReleaseRef>,
    ) -> Self {
        let terms = Terms {
            counter,
            minimum_agent: "0.1.0".into(),
            expires_unix_s: EXPIRES_S,
            devices: Vec::new(),
            site: None,
            replaces,
        };
        let manifest = describe(bundle, &terms).expect("described");
        let content = |path: &str| bundle.file(path).expect("listed").to_vec();
        let files = manifest.files.iter().map(|f| (f.path.clone(), content(&f.path))).collect();
        Self { manifest, files }
    }

    pub(crate) fn signed(&self) -> SignedManifest {
        SignedManifest::sign(&self.manifest, &[&key(1)]).expect("signed")
    }

    pub(crate) fn desired(&self, time: &str) -> DesiredDocument {
        desired(&self.signed(), time)
    }

    pub(crate) fn write(&self, dir: &Path) {
        let files = self.files.iter().map(|(name, content)| (name.as_str(), content.as_slice()));
        ecosight_models::durable::write_folder(dir, files).expect("written");
    }
}

pub(crate) fn desired(signed: &SignedManifest, time: &str) -> DesiredDocument {
    let title = peek(signed).map_or_else(|_| "thud".to_owned(), |manifest| manifest.title());
    let model = DesiredModel { signed: signed.document(&title), files: FILES.into(), trial_s: 0 };
    DesiredDocument { v: DesiredDocument::VERSION, model: Some(model), time: time.into() }
}

pub(crate) fn trusted() -> Vec<PublicKey> {
    vec![key(1).public(), key(2).public()]
}

pub(crate) fn judge(trusted: &[PublicKey]) -> Judge<'_> {
    Judge {
        trusted,
        device: DEVICE,
        site: "test",
        agent_version: "0.1.0",
        now_us: START_US,
        clock_set: true,
    }
}

/// What a server does with a request for a file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mood {
    Well,
    /// Changes one byte.
    Tampers,
    /// Goes on for ever.
    Endless,
    /// Sends a byte a second.
    Slow,
    /// Has only a part.
    Truncated,
    /// Breaks off in the middle of every answer.
    Cuts,
}

/// A server that hands out files of releases.
pub(crate) struct Server {
    pub(crate) url: String,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    files: BTreeMap<String, Vec<u8>>,
    mood: Mood,
    sent: u64,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let files = BTreeMap::new();
        let shared = Arc::new(Mutex::new(Shared { files, mood: Mood::Well, sent: 0 }));
        let app = Router::new()
            .route(&format!("{FILES}/{{sha256}}"), get(file))
            .with_state(Arc::clone(&shared));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, shared }
    }

    pub(crate) fn hand_out(&self, release: &Release) {
        for content in release.files.values() {
            let sha256 = hex(&Sha256::digest(content));
            self.shared.lock().expect("fine").files.insert(sha256, content.clone());
        }
    }

    /// Hands `other` out where `content` is asked for.
    pub(crate) fn hand_out_as(&self, content: &[u8], other: Vec<u8>) {
        let sha256 = hex(&Sha256::digest(content));
        self.shared.lock().expect("fine").files.insert(sha256, other);
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        self.shared.lock().expect("fine").mood = mood;
    }

    /// Bytes of files sent.
    pub(crate) fn sent(&self) -> u64 {
        self.shared.lock().expect("fine").sent
    }
}

async fn file(
    State(shared): State<Arc<Mutex<Shared>>>,
    UrlPath(sha256): UrlPath<String>,
    headers: HeaderMap,
) -> Response {
    let mut shared = shared.lock().expect("fine");
    let Some(mut content) = shared.files.get(&sha256).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let total = content.len();
    let range = headers[header::RANGE].to_str().expect("text").trim_start_matches("bytes=");
    let (first, last) = range.split_once('-').expect("a range");
    let (first, last): (usize, usize) =
        (first.parse().expect("a number"), last.parse().expect("a number"));
    match shared.mood {
        Mood::Tampers => content[total / 2] ^= 1,
        Mood::Truncated => content.truncate(total / 2),
        _ => {}
    }
    if first >= content.len() {
        return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
    }
    let part = content[first..=last.min(content.len() - 1)].to_vec();
    let range = format!("bytes {first}-{last}/{total}");
    let body = match shared.mood {
        Mood::Endless => {
            let more = futures_util::stream::repeat(Bytes::from(part));
            Body::from_stream(more.map(Ok::<_, std::io::Error>))
        }
        Mood::Slow => Body::from_stream(futures_util::stream::iter(part).then(async |byte| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok::<_, std::io::Error>(Bytes::from(vec![byte]))
        })),
        Mood::Cuts => {
            let half = part[..part.len().div_ceil(2)].to_vec();
            shared.sent += half.len() as u64;
            Body::from_stream(futures_util::stream::iter([Some(half), None]).then(async |half| {
                // The first half has gone out by then.
                let pause = if half.is_some() { 0 } else { 20 };
                tokio::time::sleep(Duration::from_millis(pause)).await;
                half.map(Bytes::from).ok_or_else(|| std::io::Error::other("cut"))
            }))
        }
        _ => {
            shared.sent += part.len() as u64;
            Body::from(part)
        }
    };
    (StatusCode::PARTIAL_CONTENT, [(header::CONTENT_RANGE, range)], body).into_response()
}

/// The agent's program, as the station knows it by /proc/self/exe.
pub(crate) fn program() -> PathBuf {
    crate::station::AGENT.into()
}
