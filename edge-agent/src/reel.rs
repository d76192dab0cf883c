//! Path: hearing → reel → disk (`cmd/pull`)
//!
//! The last day of sound on the disk, without speech, so that somebody who heard a shot can fetch the
//! minute in which the station did not: files of [`PIECE_S`] seconds, the oldest removed for the
//! newest. It is owed to nobody: it goes before anything else when the disk is short.
//!
//! A file's name is its index: `<unix µs of the first sample>-<milliseconds>.flac`. What another
//! program left there is not touched.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ecosight_models::audio::{AudioError, AudioReader, DecodeLimits};
use ecosight_models::durable;
use ecosight_models::{HOP_SAMPLES, SAMPLE_RATE_HZ};
use ecosight_shared::json::RingReport;
use ecosight_shared::{ClipFormat, TimeQuality};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::clip::{Encoded, Recording, encode_with, guano, to_pcm};
use crate::clock::rfc3339;
use crate::config;
use crate::health::{Health, Loss, free_bytes};
use crate::hearing::Onset;
use crate::recorder::Identity;

/// Directory in the data directory, unless another is configured.
pub const DIRECTORY: &str = "ring";
/// Length of a file.
pub const PIECE_S: u64 = 30;
/// Length of a file in samples: whole hops.
pub const PIECE_SAMPLES: u64 =
    PIECE_S * SAMPLE_RATE_HZ as u64 / HOP_SAMPLES as u64 * HOP_SAMPLES as u64;
/// Longest that is cut out at once.
pub const CUT_MAX_S: i64 = 120;
/// Pieces that wait to be encoded.
const QUEUE: usize = 4;
const MILLISECOND_US: i64 = 1_000;

/// The files, by time.
#[derive(Debug)]
pub struct Reel {
    directory: PathBuf,
    /// Oldest that is kept, µs before the newest.
    keep_us: i64,
    /// Most bytes.
    max: u64,
    /// Free space that is left to others.
    reserve: u64,
    pieces: Mutex<BTreeMap<i64, Piece>>,
}

#[derive(Clone, Debug)]
struct Piece {
    name: String,
    milliseconds: i64,
    bytes: u64,
}

/// Why a minute cannot be had. Told to whoever asked for it.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    /// The end is not after the beginning.
    #[error("the end is not after the beginning")]
    Empty,
    /// More than the station sends at once.
    #[error("at most {CUT_MAX_S} seconds can be had at once")]
    TooLong,
    /// Not heard, or too long ago.
    #[error("nothing is kept of that time; kept is {from} to {to}")]
    Gone {
        /// Begin of what is kept.
        from: String,
        /// Its end.
        to: String,
    },
    /// The file is damaged.
    #[error("the recording of that time is damaged: {0}")]
    Damaged(#[from] AudioError),
}

/// Hands pieces over without waiting.
#[derive(Clone, Debug)]
pub struct ReelSender(mpsc::Sender<Recording>, Arc<Health>);

impl ReelSender {
    /// Keeps a piece, unless the disk is late by several.
    pub fn keep(&self, piece: Recording) {
        if let Err(TrySendError::Full(_)) = self.0.try_send(piece) {
            self.1.count(Loss::RingPiece, 1);
            tracing::warn!("half a minute is not kept: the disk is late");
        }
    }

    /// The same for a piece that may wait.
    pub fn keep_last(&self, piece: Recording) {
        let _ = self.0.blocking_send(piece);
    }
}

/// A sender, and what [`run`] reads. What is not kept is counted in `health`.
#[must_use]
pub fn channel(health: &Arc<Health>) -> (ReelSender, mpsc::Receiver<Recording>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (ReelSender(sender, Arc::clone(health)), receiver)
}

/// Writes pieces until every sender is gone. A disk that refuses costs the piece.
pub async fn run(
    reel: Arc<Reel>,
    identity: Arc<Identity>,
    mut pieces: mpsc::Receiver<Recording>,
    health: Arc<Health>,
) {
    while let Some(piece) = pieces.recv().await {
        let (reel, identity) = (Arc::clone(&reel), Arc::clone(&identity));
        let written = tokio::task::spawn_blocking(move || {
            let about = guano::of_recording(&identity, &piece);
            reel.add(&piece, &about)
        });
        if let Ok(Err(error)) = written.await {
            health.count(Loss::RingPiece, 1);
            tracing::warn!(%error, "half a minute is not kept");
        }
    }
}

impl Reel {
    /// Opens the files that are there; nothing if the configuration keeps none.
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub fn open(config: &config::Ring, storage: &config::Storage) -> io::Result<Option<Arc<Self>>> {
        if config.keep.is_zero() {
            return Ok(None);
        }
        let directory = match &config.dir {
            Some(directory) => directory.clone(),
            None => storage.data_dir.join(DIRECTORY),
        };
        fs::create_dir_all(&directory)?;
        let mut pieces = BTreeMap::new();
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".draft") {
                // Left by a crash between writing and naming.
                let _ = fs::remove_file(entry.path());
            } else if let Some((start, milliseconds)) = parse(&name) {
                let bytes = entry.metadata().map_or(0, |metadata| metadata.len());
                pieces.insert(start, Piece { name, milliseconds, bytes });
            }
        }
        Ok(Some(Arc::new(Self {
            directory,
            keep_us: i64::try_from(config.keep.as_micros()).unwrap_or(i64::MAX),
            max: config.max.0,
            reserve: storage.reserve.0,
            pieces: Mutex::new(pieces),
        })))
    }

    /// Writes a piece, after making room for it.
    ///
    /// # Errors
    /// The disk refuses, or has no room.
    pub fn add(&self, piece: &Recording, about: &str) -> io::Result<()> {
        let Encoded { bytes, format } = encode_with(&piece.samples, about);
        let size = bytes.len() as u64;
        let start = piece.time.unix_us;
        let milliseconds = piece.samples.len() as i64 * 1_000 / i64::from(SAMPLE_RATE_HZ);
        self.make_room(start, size);
        let free = free_bytes(&self.directory).unwrap_or(u64::MAX);
        if size > self.max || free < self.reserve.saturating_add(size) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no room beside the reserve"));
        }
        let name = format!("{start:016}-{milliseconds}.{}", format.extension());
        durable::write_file(&self.directory.join(&name), &bytes)?;
        let before =
            self.pieces().insert(start, Piece { name: name.clone(), milliseconds, bytes: size });
        if let Some(before) = before.filter(|before| before.name != name) {
            let _ = fs::remove_file(self.directory.join(before.name));
        }
        Ok(())
    }

    /// Removes what is too old, and the oldest until `size` more fit.
    fn make_room(&self, newest: i64, size: u64) {
        let oldest_kept = newest.saturating_sub(self.keep_us);
        loop {
            let (first, total) = {
                let pieces = self.pieces();
                let total: u64 = pieces.values().map(|piece| piece.bytes).sum();
                (pieces.keys().next().copied(), total)
            };
            let free = free_bytes(&self.directory).unwrap_or(u64::MAX);
            let full = total + size > self.max || free < self.reserve.saturating_add(size);
            match first {
                Some(first) if first < oldest_kept || full => {
                    self.evict_oldest();
                }
                _ => return,
            }
        }
    }

    /// Gives up the oldest piece; whether there was one.
    pub fn evict_oldest(&self) -> bool {
        let Some((_, piece)) = self.pieces().pop_first() else { return false };
        if let Err(error) = fs::remove_file(self.directory.join(&piece.name)) {
            tracing::warn!(%error, name = piece.name, "cannot remove half a minute");
        }
        true
    }

    /// What is kept.
    #[must_use]
    pub fn report(&self) -> Option<RingReport> {
        let pieces = self.pieces();
        let (from, _) = pieces.first_key_value()?;
        let (last, piece) = pieces.last_key_value()?;
        Some(RingReport {
            from: rfc3339(*from),
            to: rfc3339(last + piece.milliseconds * MILLISECOND_US),
            bytes: pieces.values().map(|piece| piece.bytes).sum(),
        })
    }

    /// The sound from `from_us` up to `to_us`, unix µs, as far as it is kept; gaps within it are
    /// silent.
    ///
    /// # Errors
    /// See [`CutError`].
    pub fn cut(&self, from_us: i64, to_us: i64) -> Result<Recording, CutError> {
        if to_us <= from_us {
            return Err(CutError::Empty);
        }
        if to_us - from_us > CUT_MAX_S * 1_000_000 {
            return Err(CutError::TooLong);
        }
        let wanted: Vec<(i64, Piece)> = {
            let pieces = self.pieces();
            let end = |start: i64, piece: &Piece| start + piece.milliseconds * MILLISECOND_US;
            let overlap = |(start, piece): &(&i64, &Piece)| end(**start, piece) > from_us;
            // No piece is longer than this before the beginning.
            let earliest = from_us - 2 * PIECE_S as i64 * 1_000_000;
            pieces
                .range(earliest..to_us)
                .filter(overlap)
                .map(|(start, piece)| (*start, piece.clone()))
                .collect()
        };
        let Some((first, _)) = wanted.first() else {
            let kept = self.report().unwrap_or_default();
            return Err(CutError::Gone { from: kept.from, to: kept.to });
        };
        let begin = from_us.max(*first);
        let mut samples: Vec<i16> = Vec::new();
        for (start, piece) in &wanted {
            let sound = decode(&self.directory.join(&piece.name))?;
            // Where in the result the piece begins; before it, only its end counts.
            let at = samples_of(start - begin);
            let skip = usize::try_from(-at).unwrap_or(0).min(sound.len());
            let at = usize::try_from(at).unwrap_or(0);
            // Neighbouring pieces may be a few samples apart by the clock: the later one is joined.
            let joined = at.abs_diff(samples.len()) <= SAMPLE_RATE_HZ as usize / 10;
            if !joined {
                samples.resize(at.max(samples.len()), 0);
            }
            samples.extend_from_slice(&sound[skip..]);
        }
        samples.truncate(usize::try_from(samples_of(to_us - begin)).unwrap_or(0));
        if samples.is_empty() {
            let kept = self.report().unwrap_or_default();
            return Err(CutError::Gone { from: kept.from, to: kept.to });
        }
        let time = Onset { unix_us: begin, quality: TimeQuality::FreeRunning };
        Ok(Recording { samples, time, redacted: Vec::new() })
    }

    fn pieces(&self) -> std::sync::MutexGuard<'_, BTreeMap<i64, Piece>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn samples_of(us: i64) -> i64 {
    us * i64::from(SAMPLE_RATE_HZ) / 1_000_000
}

/// Beginning and length that a file's name tells; nothing for a file of another kind.
fn parse(name: &str) -> Option<(i64, i64)> {
    let (stem, ending) = name.rsplit_once('.')?;
    let known = [ClipFormat::Flac, ClipFormat::Wav].iter().any(|f| f.extension() == ending);
    let (start, milliseconds) = stem.split_once('-').filter(|_| known)?;
    Some((start.parse().ok()?, milliseconds.parse().ok()?))
}

fn decode(path: &Path) -> Result<Vec<i16>, AudioError> {
    let limits = DecodeLimits { max_bytes: 16 << 20, max_seconds: 4.0 * PIECE_S as f64 };
    let mut reader = AudioReader::open(path, &limits)?;
    let mut samples = Vec::new();
    while let Some(block) = reader.next_block()? {
        samples.extend(block.iter().copied().map(to_pcm));
    }
    Ok(samples)
}
