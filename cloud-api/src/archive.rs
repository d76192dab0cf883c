//! Reading a ZIP file that somebody gives: entries stored or deflated, found by the directory at its
//! end. Nothing of it is believed: every place and length is checked before it is used, and no entry
//! unfolds to more than a sound may have. No ZIP64, no encryption.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use flate2::read::DeflateDecoder;

use crate::inference::MAX_FILE_BYTES;

/// Longest directory that is read.
const MAX_DIRECTORY_BYTES: u32 = 64 << 20;
/// The end of the directory, and a comment of at most 64 KiB behind it.
const END_LEN: usize = 22;
const MAX_TAIL: u64 = END_LEN as u64 + u16::MAX as u64;

/// A ZIP file.
#[derive(Debug)]
pub struct Zip {
    file: File,
    entries: HashMap<String, Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    method: u16,
    crc: u32,
    packed: u32,
    unpacked: u32,
    header: u32,
}

/// Why a ZIP file or an entry of it cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ZipError {
    /// The disk's fault.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// No ZIP file, or a damaged one.
    #[error("no ZIP file that can be read: {0}")]
    Damaged(&'static str),
    /// Nothing has this name.
    #[error("not in the ZIP file")]
    Missing,
    /// Longer than any sound that is taken.
    #[error("longer than {} MiB", MAX_FILE_BYTES >> 20)]
    TooLong,
}

fn word(bytes: &[u8], place: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(place..place + 2)?.try_into().ok()?))
}

fn long(bytes: &[u8], place: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(place..place + 4)?.try_into().ok()?))
}

impl Zip {
    /// Reads the directory.
    ///
    /// # Errors
    /// [`ZipError`].
    pub fn open(file: File) -> Result<Self, ZipError> {
        let len = file.metadata()?.len();
        let tail_len = len.min(MAX_TAIL);
        let mut tail = vec![0; tail_len as usize];
        file.read_exact_at(&mut tail, len - tail_len)?;
        let end = (0..tail.len().saturating_sub(END_LEN - 1))
            .rev()
            .find(|place| tail[*place..].starts_with(b"PK\x05\x06"))
            .ok_or(ZipError::Damaged("its directory is missing"))?;
        let end = &tail[end..];
        let damaged = || ZipError::Damaged("its directory is cut off");
        let (size, start) = long(end, 12).zip(long(end, 16)).ok_or_else(damaged)?;
        if size > MAX_DIRECTORY_BYTES || u64::from(start) + u64::from(size) > len {
            return Err(ZipError::Damaged("its directory lies outside of it"));
        }
        let mut directory = vec![0; size as usize];
        file.read_exact_at(&mut directory, u64::from(start))?;
        let mut entries = HashMap::new();
        let mut rest = &directory[..];
        while rest.starts_with(b"PK\x01\x02") {
            let field = |place| word(rest, place).map(usize::from).ok_or_else(damaged);
            let number = |place| long(rest, place).ok_or_else(damaged);
            let (name_len, extra, comment) = (field(28)?, field(30)?, field(32)?);
            let name = rest.get(46..46 + name_len).ok_or_else(damaged)?;
            let entry = Entry {
                method: word(rest, 10).ok_or_else(damaged)?,
                crc: number(16)?,
                packed: number(20)?,
                unpacked: number(24)?,
                header: number(42)?,
            };
            entries.insert(String::from_utf8_lossy(name).into_owned(), entry);
            rest = rest.get(46 + name_len + extra + comment..).ok_or_else(damaged)?;
        }
        Ok(Self { file, entries })
    }

    /// The content of an entry, by its full name.
    ///
    /// # Errors
    /// [`ZipError`].
    pub fn read(&self, name: &str) -> Result<Vec<u8>, ZipError> {
        let entry = *self.entries.get(name).ok_or(ZipError::Missing)?;
        if entry.unpacked as usize > MAX_FILE_BYTES || entry.packed as usize > MAX_FILE_BYTES {
            return Err(ZipError::TooLong);
        }
        let mut header = [0; 30];
        self.file.read_exact_at(&mut header, u64::from(entry.header))?;
        let lens = word(&header, 26).zip(word(&header, 28));
        let (name_len, extra) = lens
            .filter(|_| header.starts_with(b"PK\x03\x04"))
            .ok_or(ZipError::Damaged("an entry's header is none"))?;
        let start = u64::from(entry.header) + 30 + u64::from(name_len) + u64::from(extra);
        let mut packed = vec![0; entry.packed as usize];
        self.file.read_exact_at(&mut packed, start)?;
        let content = match entry.method {
            0 => packed,
            8 => {
                let mut content = Vec::new();
                // One byte more tells too long from just as long as said.
                let limit = u64::from(entry.unpacked) + 1;
                DeflateDecoder::new(&packed[..]).take(limit).read_to_end(&mut content)?;
                content
            }
            _ => return Err(ZipError::Damaged("an entry is packed in a way that is not taken")),
        };
        let mut crc = flate2::Crc::new();
        crc.update(&content);
        if content.len() != entry.unpacked as usize || crc.sum() != entry.crc {
            return Err(ZipError::Damaged("an entry is not what the directory says"));
        }
        Ok(content)
    }
}
