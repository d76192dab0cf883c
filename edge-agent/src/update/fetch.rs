//! Path: cloud → update/incoming
//!
//! Fetches the files of a release in pieces that survive a bad link. What is on the disk already is
//! not fetched again; nothing longer than what is signed is ever written; a file gets its name when
//! its hash is right.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ecosight_models::bundle::hex;
use ecosight_models::durable;
use ecosight_shared::release::{Manifest, ReleaseFile};
use futures_util::StreamExt as _;
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Client, StatusCode};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::fault::Fault;
use crate::health::free_bytes;
use crate::outbox::Outbox;
use crate::recorder::Storage;
use crate::upload::{describe, refusal};

/// Where and within which limits.
#[derive(Clone, Debug)]
pub struct Fetcher {
    /// The station's own, as it uploads clips with.
    pub client: Client,
    /// Base address of the server.
    pub base: String,
    /// Where files go.
    pub dir: PathBuf,
    /// Which free space is left alone, and what gives way.
    pub storage: Storage,
    /// Limits.
    pub limits: Limits,
    /// What waits for the link; alerts go first. Nothing: the link is this one's alone.
    pub outbox: Option<Outbox>,
}

/// Limits on a download.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// All of it, since the start of the station.
    pub time: Duration,
    /// First and longest pause before another attempt.
    pub pause: (Duration, Duration),
    /// Bytes of one request.
    pub piece: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(24 * 3_600),
            pause: (Duration::from_secs(1), Duration::from_secs(300)),
            piece: 256 * 1_024,
        }
    }
}

/// Longest that alerts hold a download up.
const YIELD_MAX: Duration = Duration::from_secs(60);
/// Times that a file may come damaged before it is believed to be.
const DAMAGED_MAX: u32 = 3;
/// Times in a row that the server may refuse it before that is believed: half a minute.
const DENIED_MAX: u32 = 6;

/// How one piece went wrong.
enum Trouble {
    /// The network or the server: later.
    Later(String),
    /// The server knows and does not give it.
    Denied(String),
    /// More comes than was signed.
    TooLong,
    /// The disk refuses.
    Disk(io::Error),
}

impl Fetcher {
    /// Whether the disk can take what is missing; the day of sound gives way, as for clips.
    ///
    /// # Errors
    /// [`Fault::NoSpace`]
    pub fn make_room(&self, manifest: &Manifest) -> Result<(), Fault> {
        let have = |file: &ReleaseFile| {
            let path = if self.path(file).exists() { self.path(file) } else { self.part(file) };
            std::fs::metadata(path).map_or(0, |metadata| metadata.len()).min(file.bytes)
        };
        let missing: u64 = manifest.files.iter().map(|file| file.bytes - have(file)).sum();
        let needed = missing + self.storage.reserve;
        // Before the first release the folder is not there.
        let disk = self.storage.clips.parent().unwrap_or(&self.storage.clips);
        let short = || free_bytes(disk).filter(|free| *free < needed);
        while short().is_some()
            && self.storage.reel.as_ref().is_some_and(|reel| reel.evict_oldest())
        {}
        match short() {
            None => Ok(()),
            Some(free) => Err(Fault::NoSpace {
                free_mb: free / 1_000_000,
                needed_mb: needed.div_ceil(1_000_000),
            }),
        }
    }

    /// Fetches everything that is missing; `files` is the path on the server.
    ///
    /// # Errors
    /// What is wrong with the release, or that it did not come in time.
    pub async fn fetch(&self, manifest: &Manifest, files: &str) -> Result<(), Fault> {
        // After the server's own address nothing but a path may come, or credentials go elsewhere.
        if !files.starts_with('/') {
            return Err(Fault::Unreadable("the path of the files does not begin with /".into()));
        }
        std::fs::create_dir_all(&self.dir)?;
        let all = async {
            for file in &manifest.files {
                self.file(file, files).await?;
            }
            Ok(())
        };
        let limit = self.limits.time;
        let fetched = tokio::time::timeout(limit, all).await;
        fetched.unwrap_or(Err(Fault::TooSlow { limit }))?;
        self.forget_others(manifest).map_err(Fault::from)
    }

    async fn file(&self, file: &ReleaseFile, files: &str) -> Result<(), Fault> {
        let (path, part) = (self.path(file), self.part(file));
        if file.bytes == 0 {
            return durable::write_file(&path, b"").map_err(Fault::from);
        }
        if is_whole(&path, file) {
            return Ok(());
        }
        let url = format!("{}{files}/{}", self.base.trim_end_matches('/'), hex(&file.sha256));
        let (mut denied, mut damaged) = (0, 0);
        let mut pause = self.limits.pause.0;
        loop {
            let have = std::fs::metadata(&part).map_or(0, |metadata| metadata.len());
            if have >= file.bytes {
                if is_whole(&part, file) {
                    return publish(&part, &path).map_err(Fault::from);
                }
                std::fs::remove_file(&part)?;
                damaged += 1;
                tracing::warn!(file = file.path, damaged, "a file of the release came damaged");
                if damaged >= DAMAGED_MAX {
                    return Err(Fault::BadHash { file: file.path.clone() });
                }
                continue;
            }
            self.turn().await;
            let problem = match self.piece(&url, &part, have, file.bytes).await {
                Ok(()) => {
                    (denied, pause) = (0, self.limits.pause.0);
                    continue;
                }
                Err(Trouble::TooLong) => {
                    let (file, bytes) = (file.path.clone(), file.bytes);
                    return Err(Fault::TooLong { file, bytes });
                }
                Err(Trouble::Disk(error)) => return Err(error.into()),
                Err(Trouble::Denied(problem)) => {
                    denied += 1;
                    if denied >= DENIED_MAX {
                        return Err(Fault::NotServed(problem));
                    }
                    problem
                }
                Err(Trouble::Later(problem)) => problem,
            };
            if std::fs::metadata(&part).is_ok_and(|metadata| metadata.len() > have) {
                // A link that breaks is used while it lasts.
                (denied, pause) = (0, self.limits.pause.0);
            }
            let retry_in_ms = pause.as_millis() as u64;
            tracing::warn!(file = file.path, problem, retry_in_ms, "a piece did not come");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(self.limits.pause.1);
        }
    }

    /// Waits while alerts need the link, up to a minute.
    async fn turn(&self) {
        let Some(outbox) = &self.outbox else { return };
        let since = Instant::now();
        while since.elapsed() < YIELD_MAX && outbox.level().await.is_ok_and(|l| l.alerts > 0) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Asks for the next piece and keeps what comes of it, however little.
    async fn piece(&self, url: &str, part: &Path, have: u64, bytes: u64) -> Result<(), Trouble> {
        let last = (have + self.limits.piece).min(bytes) - 1;
        let request = self.client.get(url).header(RANGE, format!("bytes={have}-{last}"));
        let answer = request.send().await.map_err(|error| Trouble::Later(describe(&error)))?;
        let status = answer.status();
        let range = answer.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let starts: Option<u64> =
            range.and_then(|text| text.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok());
        let (have, most) = match (status, starts) {
            (StatusCode::PARTIAL_CONTENT, Some(from)) if from == have => (have, last + 1),
            // It knows no ranges, or sent all of it: from the beginning.
            (StatusCode::OK, _) => (0, bytes),
            (StatusCode::PARTIAL_CONTENT, _) => {
                return Err(Trouble::Later("another range than was asked for".into()));
            }
            (status, _) => {
                let text = refusal(status, answer).await;
                let denied = matches!(status.as_u16(), 401 | 403 | 404 | 410 | 416);
                return Err(if denied { Trouble::Denied(text) } else { Trouble::Later(text) });
            }
        };
        let mut options = OpenOptions::new();
        let mut file = options.create(true).append(true).open(part).map_err(Trouble::Disk)?;
        file.set_len(have).map_err(Trouble::Disk)?;
        let (mut end, mut stream) = (have, answer.bytes_stream());
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| Trouble::Later(describe(&error)))?;
            if end + chunk.len() as u64 > most {
                return Err(Trouble::TooLong);
            }
            file.write_all(&chunk).map_err(Trouble::Disk)?;
            end += chunk.len() as u64;
        }
        file.sync_data().map_err(Trouble::Disk)?;
        if end < most { Err(Trouble::Later("the answer ended early".into())) } else { Ok(()) }
    }

    /// What lies in the folder and is not of this release must not come into the slot.
    fn forget_others(&self, manifest: &Manifest) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let known = manifest.files.iter().any(|file| *file.path == entry.file_name());
            if !known {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn path(&self, file: &ReleaseFile) -> PathBuf {
        self.dir.join(&file.path)
    }

    /// Named by its hash, so that it is never the beginning of another file. Names in releases never
    /// begin with a dot.
    fn part(&self, file: &ReleaseFile) -> PathBuf {
        self.dir.join(format!(".{}.part", hex(&file.sha256)))
    }
}

fn is_whole(path: &Path, file: &ReleaseFile) -> bool {
    let hash = || {
        let (mut hash, mut opened) = (Sha256::new(), File::open(path)?);
        let mut buffer = [0; 16 * 1_024];
        loop {
            let count = io::Read::read(&mut opened, &mut buffer)?;
            if count == 0 {
                return Ok::<[u8; 32], io::Error>(hash.finalize().into());
            }
            hash.update(&buffer[..count]);
        }
    };
    let same_length = std::fs::metadata(path).is_ok_and(|found| found.len() == file.bytes);
    same_length && hash().is_ok_and(|found| found == file.sha256)
}

/// What was written of it was flushed.
fn publish(part: &Path, path: &Path) -> io::Result<()> {
    File::open(part)?.sync_all()?;
    std::fs::rename(part, path)?;
    durable::sync_folder_of(path)
}
