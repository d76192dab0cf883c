//! Path: sounds → windows → this → rows of features
//!
//! The same windower and the same extractor as on a station. What was computed once is kept in a
//! cache folder: an entry's name is a hash of all that shapes it, of the recordings' bytes to what
//! the extractor makes of a probe sound, so a stale entry is never found.

use std::io::Write;
use std::path::{Path, PathBuf};

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use sha2::{Digest, Sha256};

use super::compression::StreamColumns;
use super::material::Rendered;
use crate::bundle::{StreamSpec, hex};
use crate::features::{FeatureExtractor, stream_len};
use crate::window::{Window, Windower};
use crate::yamnet::golden::Sound;
use crate::{ClassifyError, LoadError};

/// First bytes of a cache entry; the last one is the format's version.
const MAGIC: [u8; 8] = *b"ECOFEAT\x01";
/// Windows per call of the extractor.
const BATCH: usize = 64;

/// Features of the kept windows of one sound.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extracted {
    /// In stream order.
    pub windows: Vec<WindowMark>,
    /// `[windows, features]`, row-major.
    pub features: Vec<f16>,
}

/// What is known of a window beside its features.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WindowMark {
    /// First sample.
    pub start: u64,
    /// Level of the loudest 20 ms, dBFS.
    pub level_dbfs: f32,
    /// An example of its item's class.
    pub example: bool,
}

/// Computes and caches features.
pub struct Extraction {
    extractor: FeatureExtractor,
    width: usize,
    streams: Vec<StreamColumns>,
    fingerprint: [u8; 32],
    cache: Option<PathBuf>,
}

/// Why features could not be computed.
#[derive(Debug, thiserror::Error)]
pub enum ExtractionError {
    /// No such stream; the caller corrects the name.
    #[error("there is no feature stream {0:?}; known are {known}", known = crate::features::STREAM_NAMES.join(", "))]
    Stream(String),
    /// The backbone could not be loaded; its message says what to do.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The extractor failed on a window: a defect, the caller stops.
    #[error(transparent)]
    Compute(#[from] ClassifyError),
}

impl Extraction {
    /// Prepares the streams; `cache` is created when first written to.
    ///
    /// # Errors
    /// On an unknown stream, or when the backbone cannot be loaded.
    pub fn new(
        streams: &[String],
        backbone: Option<&Path>,
        cache: Option<PathBuf>,
    ) -> Result<Self, ExtractionError> {
        let specs = streams
            .iter()
            .map(|name| {
                let len = stream_len(name).ok_or_else(|| ExtractionError::Stream(name.clone()))?;
                Ok(StreamSpec { name: name.clone(), len })
            })
            .collect::<Result<Vec<_>, ExtractionError>>()?;
        let extractor = FeatureExtractor::load_with(&specs, backbone, None, false, true)?;
        let mut hash = Sha256::new();
        for name in streams {
            hash.update(name.as_bytes());
            hash.update([0]);
        }
        for sound in Sound::ALL {
            for row in extractor.compute(&windows_of(&sound.render(1, 2.0), true))? {
                row.values.iter().for_each(|value| hash.update(value.to_le_bytes()));
            }
        }
        let mut end = 0;
        let streams = specs
            .into_iter()
            .map(|spec| {
                end += spec.len;
                StreamColumns { name: spec.name, columns: end - spec.len..end }
            })
            .collect();
        let fingerprint = hash.finalize().into();
        Ok(Self { width: extractor.len(), streams, extractor, fingerprint, cache })
    }

    /// Features per window.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Where each stream stands among them.
    pub fn streams(&self) -> &[StreamColumns] {
        &self.streams
    }

    /// SHA-256, hex, of the file that the backbone was imported from, where a stream needs one.
    pub fn backbone_sha256(&self) -> Option<&str> {
        self.extractor.backbone().map(|backbone| backbone.source_sha256())
    }

    /// Features of the sound that `render` makes, from the cache when `key` (all that shapes the
    /// sound) is known there. `None` when there is no such sound. A cache that cannot be written
    /// costs time only, and is told of once per entry at debug level.
    ///
    /// # Errors
    /// Those of `render`, and of the extractor.
    pub fn features<E: From<ExtractionError>>(
        &self,
        key: &[u8],
        render: impl FnOnce() -> Result<Option<Rendered>, E>,
    ) -> Result<Option<Extracted>, E> {
        let name = hex(&Sha256::new().chain_update(self.fingerprint).chain_update(key).finalize());
        let entry = self
            .cache
            .as_ref()
            .map(|cache| cache.join(&name[..2]).join(format!("{name}.features")));
        if let Some(entry) = &entry
            && let Ok(bytes) = std::fs::read(entry)
            && let Some(known) = decode(&bytes, self.width)
        {
            return Ok(known);
        }
        let extracted = match render()? {
            Some(rendered) => Some(self.compute(&rendered).map_err(ExtractionError::from)?),
            None => None,
        };
        if let Some(entry) = &entry
            && let Err(error) = store(entry, &encode(extracted.as_ref(), self.width))
        {
            tracing::debug!(entry = %entry.display(), %error, "cache entry not written");
        }
        Ok(extracted)
    }

    fn compute(&self, rendered: &Rendered) -> Result<Extracted, ClassifyError> {
        let mut kept: Vec<Window> = Vec::new();
        let mut extracted = Extracted::default();
        for window in windows_of(&rendered.samples, rendered.ends) {
            if let Some(example) = rendered.window(window.start_sample) {
                extracted.windows.push(WindowMark {
                    start: window.start_sample,
                    level_dbfs: window.level_dbfs,
                    example,
                });
                kept.push(window);
            }
        }
        for batch in kept.chunks(BATCH) {
            for row in self.extractor.compute(batch)? {
                extracted.features.extend(row.values.iter().map(|&value| f16::from_f32(value)));
            }
        }
        Ok(extracted)
    }
}

/// All windows of a sound, from its first sample on; with `ends` also the padded last one.
fn windows_of(samples: &[f32], ends: bool) -> Vec<Window> {
    let mut windower = Windower::new();
    let mut windows = Vec::new();
    for block in samples.chunks(crate::HOP_SAMPLES) {
        windower.push(block);
        windows.extend(std::iter::from_fn(|| windower.next_window()));
    }
    if ends {
        windower.finish();
        windows.extend(std::iter::from_fn(|| windower.next_window()));
    }
    windows
}

/// Magic, width, number of windows (all ones: no such sound), marks, features; little-endian.
fn encode(extracted: Option<&Extracted>, width: usize) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend((width as u32).to_le_bytes());
    let Some(extracted) = extracted else {
        bytes.extend(u32::MAX.to_le_bytes());
        return bytes;
    };
    bytes.extend((extracted.windows.len() as u32).to_le_bytes());
    for mark in &extracted.windows {
        bytes.extend(mark.start.to_le_bytes());
        bytes.extend(mark.level_dbfs.to_le_bytes());
        bytes.push(u8::from(mark.example));
    }
    let bits: &[u16] = extracted.features.reinterpret_cast();
    bytes.extend(bits.iter().flat_map(|bits| bits.to_le_bytes()));
    bytes
}

/// `None` for an entry that is damaged or of another format, `Some(None)` for "no such sound".
fn decode(bytes: &[u8], width: usize) -> Option<Option<Extracted>> {
    const MARK: usize = 13;
    let rest = bytes.strip_prefix(&MAGIC)?;
    let (stored_width, rest) = rest.split_first_chunk()?;
    let (count, rest) = rest.split_first_chunk()?;
    if u32::from_le_bytes(*stored_width) as usize != width {
        return None;
    }
    let count = match u32::from_le_bytes(*count) {
        u32::MAX => return rest.is_empty().then_some(None),
        count => count as usize,
    };
    if rest.len() != count.checked_mul(MARK + 2 * width)? {
        return None;
    }
    let (marks, values) = rest.split_at(count * MARK);
    let windows = marks
        .chunks_exact(MARK)
        .map(|mark| {
            let (start, mark) = mark.split_first_chunk()?;
            let (level, mark) = mark.split_first_chunk()?;
            Some(WindowMark {
                start: u64::from_le_bytes(*start),
                level_dbfs: f32::from_le_bytes(*level),
                example: *mark.first()? != 0,
            })
        })
        .collect::<Option<Vec<_>>>()?;
    let bits: Vec<u16> =
        values.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
    Some(Some(Extracted { windows, features: bits.reinterpret_cast::<f16>().to_vec() }))
}

/// Temp and rename, without fsync: a power cut may lose an entry, which is then computed again;
/// a damaged one does not decode.
fn store(entry: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = entry.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let draft = entry.with_extension(format!("{}.draft", std::process::id()));
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).open(&draft)?;
    file.write_all(bytes)?;
    drop(file);
    std::fs::rename(&draft, entry)
}

/// Rows as `f32`.
pub fn widen(values: &[f16]) -> Vec<f32> {
    values.to_f32_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Extracted {
        Extracted {
            windows: vec![
                WindowMark { start: 0, level_dbfs: -30.5, example: true },
                WindowMark { start: 7680, level_dbfs: -90.0, example: false },
            ],
            features: [1.0, -2.5, 0.25, 60000.0].map(f16::from_f32).to_vec(),
        }
    }

    #[test]
    fn an_entry_comes_back_as_it_was() {
        assert_eq!(decode(&encode(Some(&example()), 2), 2), Some(Some(example())));
        assert_eq!(decode(&encode(None, 2), 2), Some(None));
    }

    #[test]
    fn a_damaged_entry_is_not_believed() {
        let bytes = encode(Some(&example()), 2);
        for length in 0..bytes.len() {
            assert_eq!(decode(&bytes[..length], 2), None, "cut to {length}");
        }
        assert_eq!(decode(&[bytes.clone(), vec![0]].concat(), 2), None);
        assert_eq!(decode(&bytes, 3), None);
    }
}
