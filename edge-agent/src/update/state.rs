//! What a station remembers of its updates: one file, written whole before anything follows from it.
//!
//! Everything else below `update/` is only worth what this file says of it: a killed station finds
//! the old file or the new one, and goes on from there.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use ecosight_models::bundle::hex;
use ecosight_models::durable;
use ecosight_shared::json::{SignedDocument, UpdateStep};
use ecosight_shared::release::ReleaseRef;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// In the data directory: everything of this module.
pub const DIRECTORY: &str = "update";
/// The file.
const STATE_FILE: &str = "state.json";
/// Files of a release that is being fetched.
const INCOMING: &str = "incoming";
/// The only version so far.
const VERSION: u8 = 1;
/// Bundles that failed here and are remembered; the oldest goes first.
pub(super) const BLOCKED_MAX: usize = 64;

/// A SHA-256; hexadecimal in files.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

/// Where a model lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The bundle of `model.bundle`, or the built-in one.
    #[default]
    Factory,
    /// The first slot.
    A,
    /// The second slot.
    B,
}

/// A release that lies in a slot, whole when this is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// Which.
    pub release: ReleaseRef,
    /// SHA-256 of its signed manifest.
    pub id: Digest,
    /// SHA-256 of the bundle's `manifest.json`, which names the other files with theirs.
    pub bundle: Digest,
}

/// An update under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Which release.
    pub installed: Installed,
    /// What its maker signed.
    pub signed: SignedDocument,
    /// Path on the server below which its files lie.
    pub files: String,
    /// How long it is to be tried, seconds.
    pub trial_s: u32,
    /// The time of the wish, as it was sent.
    pub wish: String,
    /// When it was accepted, unix µs.
    pub since_us: i64,
    /// How far it is; never a last step.
    pub step: UpdateStep,
    /// Starts of the station that found it on trial.
    pub starts: u32,
}

/// What the station said last of an update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// `<name>-<version>`, as it was sent until it is verified.
    pub release: String,
    /// Which release; nothing if none could be read.
    pub id: Option<Digest>,
    /// Its counter, once verified.
    pub counter: Option<u64>,
    /// What was done.
    pub step: UpdateStep,
    /// Why it was refused or rolled back: a word and a sentence.
    pub fault: Option<(String, String)>,
    /// When, unix µs. Rises from word to word.
    pub at_us: i64,
    /// The time of the wish that it answers.
    pub wish: String,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Version of the file.
    pub v: u8,
    /// Highest counter that was ever accepted, and of which release.
    pub highest: Option<(u64, Digest)>,
    /// The latest time that was ever seen, unix seconds: a clock that was set back makes nothing
    /// young again.
    pub latest_unix_s: i64,
    /// The first slot.
    pub a: Option<Installed>,
    /// The second slot.
    pub b: Option<Installed>,
    /// What the station runs.
    pub active: Place,
    /// What it ran before, for when that cannot be loaded any more.
    pub previous: Place,
    /// Whether the active model has shown that the station lives with it.
    pub settled: bool,
    /// Starts with the active model before it had.
    pub starts: u32,
    /// Bundles that failed here.
    pub blocked: Vec<Digest>,
    /// The update under way.
    pub job: Option<Job>,
    /// What was said last.
    pub word: Option<Word>,
}

/// The file, and the folder beside it.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

/// Why the state cannot be used. Nothing is installed then, and the factory model runs.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is damaged.
    #[error(
        "{} is damaged ({problem}); with it went the memory of which releases are old. Remove it, and \
         the station takes whatever a trusted key signed that has not expired", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl Place {
    /// As status, telemetry and `doctor` call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Factory => "factory",
            Self::A => "a",
            Self::B => "b",
        }
    }
}

impl Saved {
    /// What lies in a slot.
    #[must_use]
    pub fn installed(&self, place: Place) -> Option<&Installed> {
        match place {
            Place::Factory => None,
            Place::A => self.a.as_ref(),
            Place::B => self.b.as_ref(),
        }
    }

    pub(super) fn install(&mut self, place: Place, installed: Option<Installed>) {
        match place {
            Place::Factory => {}
            Place::A => self.a = installed,
            Place::B => self.b = installed,
        }
    }

    /// The slot that the next release goes into: never that of the model that runs.
    #[must_use]
    pub fn spare(&self) -> Place {
        if self.active == Place::A { Place::B } else { Place::A }
    }

    /// The release that runs, if it is one.
    #[must_use]
    pub fn running(&self) -> Option<&Installed> {
        self.installed(self.active)
    }
}

impl Store {
    /// In the data directory.
    #[must_use]
    pub fn of(data_dir: &Path) -> Self {
        Self { dir: data_dir.join(DIRECTORY) }
    }

    /// What is remembered; nothing yet is remembered as such.
    ///
    /// # Errors
    /// [`StateError`]
    pub fn read(&self) -> Result<Saved, StateError> {
        let path = self.dir.join(STATE_FILE);
        let damaged = |problem| StateError::Damaged { path: path.clone(), problem };
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Saved { v: VERSION, settled: true, ..Saved::default() });
            }
            Err(source) => return Err(StateError::Io { path, source }),
        };
        let saved: Saved = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        if saved.v != VERSION {
            return Err(damaged(format!("version {} is not {VERSION}", saved.v)));
        }
        Ok(saved)
    }

    /// Remembers. When it returns, a power cut changes nothing of it.
    ///
    /// # Errors
    /// [`StateError::Io`]
    pub fn write(&self, saved: &Saved) -> Result<(), StateError> {
        let path = self.dir.join(STATE_FILE);
        let written = serde_json::to_vec_pretty(saved).map_err(io::Error::from);
        written
            .and_then(|json| durable::write_file(&path, &json))
            .map_err(|source| StateError::Io { path, source })
    }

    /// Ends this process as `kill -9` does right after `saved` was written, if the file `die-at` beside it
    /// names its step; once. For tests: only builds for them have it.
    #[cfg(debug_assertions)]
    pub(super) fn cut(&self, saved: &Saved) {
        use rustix::process::{Signal, getpid, kill_process};
        let Some(word) = &saved.word else { return };
        let file = self.dir.join("die-at");
        if std::fs::read_to_string(&file).is_ok_and(|step| step == word.step.name())
            && std::fs::remove_file(&file).is_ok()
        {
            let _ = kill_process(getpid(), Signal::KILL);
        }
    }

    /// The folder of a slot; nothing for the factory's.
    #[must_use]
    pub fn slot(&self, place: Place) -> Option<PathBuf> {
        (place != Place::Factory).then(|| self.dir.join(place.name()))
    }

    /// Where files are fetched to.
    #[must_use]
    pub fn incoming(&self) -> PathBuf {
        self.dir.join(INCOMING)
    }

    /// Moves what was fetched into a slot. Done twice it is done once: killed in the middle, the
    /// folder is in one of the two places.
    ///
    /// # Errors
    /// What the file system said.
    pub fn stage(&self, place: Place) -> io::Result<()> {
        let (incoming, Some(slot)) = (self.incoming(), self.slot(place)) else { return Ok(()) };
        if !incoming.exists() {
            return Ok(());
        }
        remove(&slot)?;
        std::fs::rename(&incoming, &slot)?;
        durable::sync_folder_of(&slot)
    }

    /// Removes folders that `saved` knows nothing of.
    pub fn sweep(&self, saved: &Saved) {
        let mut unknown: Vec<PathBuf> = [Place::A, Place::B]
            .into_iter()
            .filter(|place| saved.installed(*place).is_none())
            .filter(|place| saved.job.is_none() || *place != saved.spare())
            .filter_map(|place| self.slot(place))
            .collect();
        if saved.job.is_none() {
            unknown.push(self.incoming());
        }
        for folder in unknown {
            if let Err(error) = remove(&folder) {
                tracing::warn!(%error, folder = %folder.display(), "cannot remove a folder");
            }
        }
    }
}

fn remove(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; 32];
        let whole = text.len() == 64 && text.is_ascii();
        for (place, byte) in bytes.iter_mut().enumerate().filter(|_| whole) {
            *byte = u8::from_str_radix(&text[place * 2..place * 2 + 2], 16)
                .map_err(serde::de::Error::custom)?;
        }
        if whole {
            Ok(Self(bytes))
        } else {
            Err(serde::de::Error::custom("expected 64 hexadecimal digits"))
        }
    }
}
