//! A TFLite file as it is handed out: bare, gzipped, or in a gzipped tar.

use std::io::{self, Read};

use super::import::MAX_FILE_BYTES;

/// Most members of an archive that are looked at.
const MAX_MEMBERS: usize = 64;

/// The TFLite file in `bytes`: the bytes themselves unless they are gzip; of an archive the first
/// member named `*.tflite`.
///
/// # Errors
/// If the archive is damaged, unpacks to more than [`MAX_FILE_BYTES`], or has no such member.
pub fn unpack(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let mut plain = Vec::new();
    let limit = 2 * MAX_FILE_BYTES;
    flate2::read::GzDecoder::new(&bytes[..]).take(limit + 1).read_to_end(&mut plain)?;
    if plain.len() as u64 > limit {
        return Err(io::Error::other(format!("unpacks to more than {limit} bytes")));
    }
    if plain.get(4..8) == Some(b"TFL3") {
        return Ok(plain);
    }
    let mut archive = tar::Archive::new(&plain[..]);
    for member in archive.entries()?.take(MAX_MEMBERS) {
        let mut member = member?;
        if member.path()?.extension().is_some_and(|ending| ending == "tflite") {
            let mut content = Vec::new();
            member.read_to_end(&mut content)?;
            return Ok(content);
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "the archive holds no .tflite file"))
}
