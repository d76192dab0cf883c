//! What can be wrong with a sound file.

use std::io;

use super::{CHANNELS, RATES_HZ};

/// Why a file gives no sound, or no more of it. The messages do not name the file: whoever opened
/// it knows its name. An upload that ends in any of these but [`AudioError::Io`] is the
/// uploader's fault (a 4xx): 413 for [`AudioError::TooLarge`] and [`AudioError::TooLong`].
#[derive(Debug, thiserror::Error)]
pub enum AudioError {
    /// Nothing was there, or no sound was in it. Skip it; a recorder that makes such files is
    /// broken or was cut off at once.
    #[error("no sound in it ({0}); record it again")]
    Empty(&'static str),
    /// Not one of the formats, by content. Refuse it.
    #[error("not a sound file EcoSight can read: {0}; use WAV, FLAC, OGG Vorbis, MP3 or M4A")]
    UnknownFormat(&'static str),
    /// A known container with sound of a kind that is not decoded. Refuse it.
    #[error("{0} is not supported; convert the file to WAV (PCM), FLAC, OGG Vorbis or MP3")]
    Unsupported(String),
    /// The sound stops making sense after `at_s` seconds. What came before was delivered.
    #[error("damaged after {at_s:.2} s of sound: {reason}; copy or convert the original again")]
    Damaged {
        /// Seconds of sound before the damage.
        at_s: f64,
        /// What was found there.
        reason: String,
    },
    /// The file ends before the sound it announces: cut off, or its last part is unreadable. What it has was delivered: use it if half a
    /// recording is better than none, and say that it is half.
    #[error("cut off or broken after {heard_s:.2} s of sound{}; copy it again", of_announced(*announced_s))]
    Truncated {
        /// Seconds of sound that were there.
        heard_s: f64,
        /// Seconds that its header announces, where it does.
        announced_s: Option<f64>,
    },
    /// More bytes than [`super::DecodeLimits::max_bytes`]. Refuse it.
    #[error("{bytes} bytes, and at most {limit} are taken; split the file")]
    TooLarge {
        /// Size of the file.
        bytes: u64,
        /// The limit it is over.
        limit: u64,
    },
    /// More sound than [`super::DecodeLimits::max_seconds`], announced or found while decoding.
    /// Refuse it.
    #[error("more than {limit_s} s of sound, which is the most that is taken; split the file")]
    TooLong {
        /// The limit it is over, seconds.
        limit_s: f64,
    },
    /// A sample rate outside [`RATES_HZ`]. Refuse it.
    #[error(
        "a sample rate of {0} Hz; {low} to {high} Hz are taken: resample the file",
        low = RATES_HZ.start(),
        high = RATES_HZ.end()
    )]
    Rate(u32),
    /// A channel count outside [`CHANNELS`]. Refuse it.
    #[error("{0} channels; at most {most} are taken: keep one of them", most = CHANNELS.end())]
    Channels(usize),
    /// A sample that is no number. What came before was delivered.
    #[error("sample {frame} of channel {channel} is not a finite number; export the file again")]
    NonFinite {
        /// Position in the file, frames at its own rate.
        frame: u64,
        /// Channel, from 0.
        channel: usize,
    },
    /// Reading failed: no such file, no permission, a failing disk. Nothing says that the file is
    /// bad; try again.
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn of_announced(announced_s: Option<f64>) -> String {
    announced_s.map(|s| format!(" ({s:.2} s announced)")).unwrap_or_default()
}
