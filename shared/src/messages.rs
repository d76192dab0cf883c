//! The messages that an envelope carries, and the most bytes each may take.

use heapless::{String, Vec};
use serde::{Deserialize, Serialize};

use crate::envelope::{CRC_LEN, HEADER_LEN, Kind};
use crate::{EventId, ModelTag};

/// The smallest payload that LoRaWAN guarantees (DR0 in EU868): an alert must fit into it whole.
pub const ALERT_FRAME_MAX_LEN: usize = 51;

/// Longest class name, in bytes.
pub const CLASS_NAME_MAX_LEN: usize = 24;

const SCORES_MAX_LEN: usize = 32;
const RANGES_MAX_LEN: usize = 48;

// Most bytes that postcard needs for a number: its varints carry 7 bits a byte.
const U16: usize = 3;
const U32: usize = 5;
const U64: usize = 10;
const F32: usize = 4;
const UUID: usize = 16;
const TAG: usize = 4;

pub(crate) const ALERT_MAX_LEN: usize = 5 + TAG;
pub(crate) const DETECTION_MAX_LEN: usize = UUID
    + (1 + CLASS_NAME_MAX_LEN)
    + TAG
    + F32
    + 2 * U32
    + U16
    + 2 * F32
    + (1 + SCORES_MAX_LEN)
    + 1
    + (1 + 32 + 2 * U32 + 1);
pub(crate) const TELEMETRY_MAX_LEN: usize = 3 + TAG + 9 * U32 + 2 * U64 + (1 + U16) + F32 + 1;
pub(crate) const RECEIPT_MAX_LEN: usize = 1 + RANGES_MAX_LEN * 3 * U32;

const _: () = assert!(ALERT_FRAME_MAX_LEN - HEADER_LEN - CRC_LEN == 10);

/// What an envelope carries.
#[allow(clippy::large_enum_variant, reason = "no allocator to box with; one message at a time")]
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// See [`Alert`].
    Alert(Alert),
    /// See [`Detection`].
    Detection(Detection),
    /// See [`Telemetry`].
    Telemetry(Telemetry),
    /// See [`Receipt`].
    Receipt(Receipt),
}

/// An event that a ranger must hear of at once, sent when the detector confirms it. The event's
/// id is [`EventId::of`] its header; the envelope's time is the event's onset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// Index in the class list of the model named by `model`.
    pub class: u8,
    /// Score at confirmation, in 1/255.
    pub score: u8,
    /// Level of the loudest 20 ms so far, dB below full scale, in whole dB (−128..0).
    pub level_dbfs: i8,
    /// Windows at or above the threshold so far.
    pub windows: u8,
    /// See [`Flags`].
    pub flags: Flags,
    /// Which model heard it.
    pub model: ModelTag,
}

/// An event that is over, with its evidence. The envelope's time is the event's onset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// The event: that of its [`Alert`] where one was sent, else [`EventId::of`] this header as it was
    /// written ([`Flags::TIME_CORRECTED`]).
    pub event: EventId,
    /// Name of the class.
    pub class: String<CLASS_NAME_MAX_LEN>,
    /// Which model heard it.
    pub model: ModelTag,
    /// Highest confirmed score, 0 to 1.
    pub score: f32,
    /// From onset to the end of the last window over the threshold, in milliseconds.
    pub duration_ms: u32,
    /// From onset to the detector's decision in the stream, in milliseconds.
    pub decided_after_ms: u32,
    /// Windows at or above the threshold.
    pub windows: u16,
    /// Level of the loudest 20 ms, dBFS.
    pub level_dbfs: f32,
    /// Median level of the seconds before, dBFS.
    pub noise_floor_dbfs: f32,
    /// Scores of the strongest window in 1/255, in the model's class order.
    pub scores: Vec<u8, SCORES_MAX_LEN>,
    /// See [`Flags`].
    pub flags: Flags,
    /// The recording that follows over HTTP; `None` if none could be kept.
    pub clip: Option<ClipRef>,
}

/// Marks on an event, one bit each. Bits that a receiver does not know are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Flags(pub u8);

/// A recording that proves an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClipRef {
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
    /// Size of the file in bytes.
    pub bytes: u32,
    /// Length of the sound in milliseconds.
    pub duration_ms: u32,
    /// Container of the file.
    pub format: ClipFormat,
}

/// Container of a clip. Append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClipFormat {
    /// FLAC, 16 bit mono.
    Flac,
    /// WAV, 16 bit mono: what is written when the FLAC does not decode to the same samples.
    Wav,
}

/// How the station is, sent every minute.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Telemetry {
    /// Version of the agent: major, minor, patch.
    pub agent: [u8; 3],
    /// The model in use.
    pub model: ModelTag,
    /// Seconds since the agent started.
    pub uptime_s: u32,
    /// Windows classified since the agent started.
    pub windows: u64,
    /// Median time to classify one window, in microseconds, over the last minute.
    pub inference_p50_us: u32,
    /// 99th percentile of the same.
    pub inference_p99_us: u32,
    /// Samples lost between microphone and classifier since the agent started.
    pub dropped_samples: u64,
    /// Gaps in the sound since the agent started; each one reset the windows.
    pub gaps: u32,
    /// Records that wait for a receipt.
    pub outbox_records: u32,
    /// Age of the oldest of them in seconds.
    pub outbox_oldest_s: u32,
    /// Records given up since the agent started, because the disk was full.
    pub outbox_dropped: u32,
    /// Clips that wait for upload.
    pub clips_pending: u32,
    /// Free space in the data directory, in MiB.
    pub disk_free_mib: u32,
    /// Temperature of the processor in tenths of a degree Celsius, where it can be read.
    pub cpu_temperature_dc: Option<i16>,
    /// Median level of the last minute, dBFS.
    pub noise_floor_dbfs: f32,
    /// State of the sound source.
    pub source: SourceState,
}

/// Whether the station can hear. Append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceState {
    /// Not opened yet.
    Starting,
    /// Sound arrives.
    Healthy,
    /// No sound arrives; it is being reopened.
    Recovering,
    /// Reopening has failed for long; a person is needed.
    Failed,
    /// A file or stream that came to its end.
    Ended,
    /// Frames arrive, but what they hold is no sound of a working microphone.
    Alarmed,
    /// Reopening has failed again and again; it goes on, and a person should look.
    Escalated,
}

/// Records of one station that the cloud has committed to its database: the station may forget
/// them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Inclusive ranges; they may overlap and repeat earlier receipts.
    pub ranges: Vec<SeqRange, RANGES_MAX_LEN>,
}

/// Consecutive records of one boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeqRange {
    /// The boot they belong to.
    pub boot: u32,
    /// First seq.
    pub first: u32,
    /// Last seq, inclusive.
    pub last: u32,
}

impl Message {
    /// The kind byte of this message.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Alert(_) => Kind::Alert,
            Self::Detection(_) => Kind::Detection,
            Self::Telemetry(_) => Kind::Telemetry,
            Self::Receipt(_) => Kind::Receipt,
        }
    }
}

impl Flags {
    /// The sound was injected by the station to prove that it hears: never page a ranger.
    pub const CANARY: Self = Self(1);
    /// The header's time was put right after the event's id was made from it, when the station's clock
    /// became known: that the two differ does not mean that an alert went before.
    pub const TIME_CORRECTED: Self = Self(2);

    /// Whether every bit of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl ClipFormat {
    /// File name extension.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Flac => "flac",
            Self::Wav => "wav",
        }
    }

    /// MIME type.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Flac => "audio/flac",
            Self::Wav => "audio/wav",
        }
    }
}

impl SourceState {
    /// The word used in JSON and in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Recovering => "recovering",
            Self::Failed => "failed",
            Self::Ended => "ended",
            Self::Alarmed => "alarmed",
            Self::Escalated => "escalated",
        }
    }
}

impl Receipt {
    /// The most ranges one receipt holds.
    pub const MAX_RANGES: usize = RANGES_MAX_LEN;

    /// Receipts for `records` (boot, seq) in any order, merged into as few ranges as possible.
    #[cfg(feature = "std")]
    #[must_use]
    pub fn covering(mut records: std::vec::Vec<(u32, u32)>) -> std::vec::Vec<Self> {
        records.sort_unstable();
        records.dedup();
        let mut receipts = std::vec::Vec::new();
        let mut current = Self::default();
        for (boot, seq) in records {
            if let Some(last) = current.ranges.last_mut()
                && last.boot == boot
                && last.last.checked_add(1) == Some(seq)
            {
                last.last = seq;
                continue;
            }
            let range = SeqRange { boot, first: seq, last: seq };
            if let Err(range) = current.ranges.push(range) {
                receipts.push(core::mem::take(&mut current));
                current.ranges.extend([range]);
            }
        }
        if !current.ranges.is_empty() {
            receipts.push(current);
        }
        receipts
    }
}
