//! Recordings: one, or all below a directory.

use std::fs;
use std::path::{Path, PathBuf};

use ecosight_models::audio::{AudioReader, has_sound_ending};
use ecosight_models::one_line;
use sha2::{Digest, Sha256};

use super::{Begin, Read, Source, SourceError, block, decode_limits};
use crate::config::{self, SourceKind};

/// Recordings one after the other.
pub struct Files {
    paths: Vec<PathBuf>,
    repeat: bool,
    /// Number of the recording that is open or comes next, counted on through repetitions.
    item: u64,
    reader: Option<AudioReader>,
    /// Samples at the front of the next recording that are already heard.
    skip: u64,
    block: usize,
    /// Whether any recording of this round could be read: if none, repeating would spin.
    fruitful: bool,
    /// One recording that cannot be read is an error; among many it is passed over.
    single: bool,
}

impl Files {
    /// Opens the configured recordings at `begin`.
    ///
    /// # Errors
    /// The path is not there, holds no recording, or is one recording that cannot be decoded.
    pub fn open(config: &config::Source, begin: Begin) -> Result<Self, SourceError> {
        let paths = list(config)?;
        let single = config.kind == SourceKind::File;
        if single {
            // Found out now and not in the middle of the night.
            open_one(&paths[0])?;
        }
        Ok(Self {
            paths,
            repeat: config.repeat,
            item: begin.item,
            reader: None,
            skip: begin.sample.saturating_sub(begin.item_start),
            block: block(config.speed),
            fruitful: true,
            single,
        })
    }

    fn path(&self) -> Option<&Path> {
        let count = self.paths.len() as u64;
        if self.item >= count && !self.repeat {
            return None;
        }
        self.paths.get((self.item % count) as usize).map(PathBuf::as_path)
    }

    fn next_recording(&mut self) -> Result<Read, SourceError> {
        let count = self.paths.len() as u64;
        let round_ends = self.item > 0 && self.item.is_multiple_of(count);
        if round_ends && !std::mem::take(&mut self.fruitful) {
            return Ok(Read::End);
        }
        let Some(path) = self.path() else { return Ok(Read::End) };
        match open_one(path) {
            Ok(reader) => {
                tracing::debug!(path = %path.display(), item = self.item, "recording begins");
                self.reader = Some(reader);
                Ok(Read::Item { index: self.item })
            }
            Err(error) if self.single => Err(error),
            Err(error) => {
                let problem = one_line(&error);
                tracing::warn!(problem, "recording passed over");
                self.item += 1;
                self.skip = 0;
                Ok(Read::Nothing)
            }
        }
    }

    fn close(&mut self) {
        self.reader = None;
        self.item += 1;
        self.skip = 0;
    }
}

impl Source for Files {
    fn read(&mut self, out: &mut Vec<f32>) -> Result<Read, SourceError> {
        let Some(reader) = &mut self.reader else { return self.next_recording() };
        let wanted = out.len() + self.block;
        while out.len() < wanted {
            match reader.next_block() {
                Ok(Some(samples)) => {
                    let skip = (self.skip.min(samples.len() as u64)) as usize;
                    self.skip -= skip as u64;
                    out.extend_from_slice(&samples[skip..]);
                    self.fruitful = true;
                }
                Ok(None) => {
                    self.close();
                    break;
                }
                Err(error) => {
                    // What came before the damage is as good as any other sound.
                    let path = self.path().unwrap_or(Path::new("")).display().to_string();
                    tracing::warn!(%error, path, "recording is damaged, its rest is passed over");
                    self.close();
                    break;
                }
            }
        }
        Ok(if out.is_empty() { Read::Nothing } else { Read::Sound })
    }
}

fn open_one(path: &Path) -> Result<AudioReader, SourceError> {
    if let Err(source) = fs::File::open(path) {
        return Err(SourceError::Unreadable { path: path.into(), source });
    }
    AudioReader::open(path, &decode_limits())
        .map_err(|source| SourceError::Undecodable { path: path.into(), source })
}

/// The recordings that `config` names, sorted by path.
fn list(config: &config::Source) -> Result<Vec<PathBuf>, SourceError> {
    let path = config.path.as_deref().ok_or(SourceError::NoPath)?;
    let unreadable = |source| SourceError::Unreadable { path: path.into(), source };
    if config.kind == SourceKind::File {
        fs::metadata(path).map_err(unreadable)?;
        return Ok(vec![path.to_owned()]);
    }
    let found = recordings(path).map_err(unreadable)?;
    if found.is_empty() {
        return Err(SourceError::Empty { path: path.into() });
    }
    Ok(found)
}

/// All recordings below a directory, sorted by path.
pub(crate) fn recordings(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    collect(directory, &mut found)?;
    found.sort();
    Ok(found)
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        // Links are not followed into directories: they may lead in a circle.
        if entry.file_type()?.is_dir() {
            collect(&path, found)?;
        } else if has_sound_ending(&path) {
            found.push(path);
        }
    }
    Ok(())
}

/// The recordings by path and size.
pub(super) fn fingerprint(config: &config::Source) -> Result<String, SourceError> {
    let paths = list(config)?;
    let mut hash = Sha256::new();
    for path in &paths {
        let size = fs::metadata(path)
            .map_err(|source| SourceError::Unreadable { path: path.clone(), source })?
            .len();
        hash.update(path.as_os_str().as_encoded_bytes());
        hash.update(size.to_le_bytes());
    }
    let digest = hash.finalize();
    let short = u64::from_be_bytes(std::array::from_fn(|i| digest[i]));
    let path = config.path.as_deref().unwrap_or(Path::new(""));
    Ok(format!("{} files={} sha256={short:016x}", path.display(), paths.len()))
}
