//! The bytes that the decoder reads: a file or a buffer, perhaps behind a header of our own.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use symphonia::core::io::MediaSource;

use super::wav::Wav;

pub(super) enum Bytes {
    File(File),
    Memory(Cursor<Vec<u8>>),
}

impl Bytes {
    /// A regular file and its length. Nothing else: opening a pipe could wait for ever.
    pub(super) fn open(path: &Path) -> io::Result<(Self, u64)> {
        if !std::fs::metadata(path)?.is_file() {
            let reason = "a directory or a device, not a file";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok((Self::File(file), len))
    }

    /// Up to `len` bytes from the start.
    pub(super) fn head(&mut self, len: usize) -> io::Result<Vec<u8>> {
        self.seek(SeekFrom::Start(0))?;
        let mut head = Vec::with_capacity(len);
        self.take(len as u64).read_to_end(&mut head)?;
        Ok(head)
    }
}

impl Read for Bytes {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(buf),
            Self::Memory(bytes) => bytes.read(buf),
        }
    }
}

impl Seek for Bytes {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Self::File(file) => file.seek(to),
            Self::Memory(bytes) => bytes.seek(to),
        }
    }
}

/// Never gives more bytes than the file had when it was opened, however it grows.
pub(super) struct Source {
    bytes: Bytes,
    header: Vec<u8>,
    /// Where in `bytes` what follows the header begins.
    body_at: u64,
    /// Length of header and body.
    len: u64,
    at: u64,
    seekable: bool,
}

impl Source {
    /// All of `bytes`. `seekable` only where the format needs it: from a seekable MP3 the decoder
    /// guesses a length, and cuts off what is longer.
    pub(super) fn plain(mut bytes: Bytes, len: u64, seekable: bool) -> io::Result<Self> {
        bytes.seek(SeekFrom::Start(0))?;
        Ok(Self { bytes, header: Vec::new(), body_at: 0, len, at: 0, seekable })
    }

    /// All of `bytes`, the first of them replaced.
    pub(super) fn with_start(mut bytes: Bytes, len: u64, start: Vec<u8>) -> io::Result<Self> {
        let body_at = start.len() as u64;
        bytes.seek(SeekFrom::Start(body_at))?;
        Ok(Self { bytes, header: start, body_at, len, at: 0, seekable: false })
    }

    /// A WAV's sound behind a plain header.
    pub(super) fn wav(mut bytes: Bytes, wav: &Wav) -> io::Result<Self> {
        bytes.seek(SeekFrom::Start(wav.data_at))?;
        let header = wav.header.to_vec();
        let len = header.len() as u64 + wav.data_len;
        Ok(Self { bytes, header, body_at: wav.data_at, len, at: 0, seekable: false })
    }
}

impl Read for Source {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let header = self.header.get(self.at as usize..).unwrap_or_default();
        let read = if header.is_empty() {
            let most = self.len.saturating_sub(self.at).min(buf.len() as u64) as usize;
            self.bytes.read(&mut buf[..most])?
        } else {
            let most = header.len().min(buf.len());
            buf[..most].copy_from_slice(&header[..most]);
            most
        };
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Source {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
        };
        let at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let in_body = at.saturating_sub(self.header.len() as u64);
        self.bytes.seek(SeekFrom::Start(self.body_at.saturating_add(in_body)))?;
        self.at = at;
        Ok(at)
    }
}

impl MediaSource for Source {
    fn is_seekable(&self) -> bool {
        self.seekable
    }

    fn byte_len(&self) -> Option<u64> {
        Some(self.len)
    }
}
