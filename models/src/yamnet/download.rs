//! Where YAMNet v1 is published, and fetching it from there.

use std::fmt::Write as _;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::archive::unpack;
use super::import::MAX_FILE_BYTES;
use crate::bundle::hex;

/// SHA-256 of the published float32 file (16,096,668 bytes), the same at all addresses.
pub const PUBLISHED_SHA256: &str =
    "141fba1cdaae842c816f28edc4937e8b4f0af4c8df21862ccc6b52dc567993c3";

/// Addresses in the order in which they are tried. The first gives a gzipped tar.
pub const ADDRESSES: [&str; 3] = [
    "https://www.kaggle.com/api/v1/models/google/yamnet/tfLite/tflite/1/download",
    "https://tfhub.dev/google/lite-model/yamnet/tflite/1?lite-format=tflite",
    "https://raw.githubusercontent.com/tensorflow/tflite-support/\
     522a02b47444e6016d5a0d4d1388b522bc2529f2/tensorflow_lite_support/metadata/python/tests/\
     testdata/audio_classifier/yamnet_tfhub.tflite",
];

/// Time for a connection, and for a whole download.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// See [`CONNECT_TIMEOUT`]: 16 MB on a slow line.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(600);

/// No address gave the file. The text says what each said and what to do by hand.
#[derive(Debug, thiserror::Error)]
#[error(
    "YAMNet could not be downloaded:{attempts}\n\
     To do it by hand: on a computer with internet open\n  {}\n(or {})\n\
     in a browser, bring the file here, and run\n  ecosight-models import-yamnet FILE\n\
     The file may stay in its .tar.gz; unpacked its SHA-256 is {sha256}.",
    ADDRESSES[0],
    ADDRESSES[1]
)]
pub struct DownloadError {
    attempts: String,
    sha256: String,
}

/// Fetches the file with this SHA-256 ([`PUBLISHED_SHA256`]) from the first of `addresses`
/// ([`ADDRESSES`]) that has it. `progress` is told, in words, what happens.
///
/// # Errors
/// [`DownloadError`] if none has it.
pub async fn download(
    addresses: &[&str],
    sha256: &str,
    mut progress: impl FnMut(&str),
) -> Result<Vec<u8>, DownloadError> {
    let mut attempts = String::new();
    for address in addresses {
        progress(&format!("downloading {address}"));
        match fetch(address, sha256).await {
            Ok(bytes) => return Ok(bytes),
            Err(why) => {
                let _ = write!(attempts, "\n  {address}\n    {why}");
            }
        }
    }
    Err(DownloadError { attempts, sha256: sha256.to_owned() })
}

async fn fetch(address: &str, sha256: &str) -> Result<Vec<u8>, String> {
    let client = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TOTAL_TIMEOUT)
        .user_agent(concat!("ecosight-models/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| chain(&error.without_url()))?;
    let response = client.get(address).send().await.map_err(|error| chain(&error.without_url()))?;
    let mut response = response.error_for_status().map_err(|error| chain(&error.without_url()))?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| chain(&error.without_url()))? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(format!("sends more than {MAX_FILE_BYTES} bytes, gave up"));
        }
    }
    let file = unpack(bytes).map_err(|error| error.to_string())?;
    let found = hex(&Sha256::digest(&file));
    if found != sha256 {
        return Err(format!(
            "gave another file ({} bytes, SHA-256 {found}, expected {sha256})",
            file.len()
        ));
    }
    Ok(file)
}

/// An error with all its causes in one line: the outermost one alone says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let _ = write!(text, ": {inner}");
        cause = inner.source();
    }
    text
}
