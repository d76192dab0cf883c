//! The frame around every binary message.
//!
//! ```text
//! offset  size  field
//!      0     2  magic 0xEC 0x51
//!      2     1  version           see `version`
//!      3     1  kind              see `Kind`
//!      4    16  device            UUID, big-endian
//!     20     4  boot              u32, big-endian
//!     24     4  seq               u32, big-endian
//!     28     8  unix microseconds i64, big-endian: when the thing happened, by the station's clock
//!     36     1  time quality      see `TimeQuality`
//!     37     n  body              postcard
//!   37+n     4  CRC-32/ISO-HDLC of all bytes before, big-endian
//! ```

use core::fmt;

use crc::{CRC_32_ISO_HDLC, Crc};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::messages::{Alert, Detection, Message, Receipt, Telemetry};
use crate::{DeviceId, RecordId, version};

const MAGIC: [u8; 2] = [0xEC, 0x51];
const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// Bytes before the body.
pub const HEADER_LEN: usize = 37;

/// Bytes after the body.
pub const CRC_LEN: usize = 4;

/// No envelope is longer; a receiver drops a longer payload unread.
pub const MAX_ENVELOPE_LEN: usize = 1_024;

const _: () = {
    assert!(HEADER_LEN + crate::messages::DETECTION_MAX_LEN + CRC_LEN <= MAX_ENVELOPE_LEN);
    assert!(HEADER_LEN + crate::messages::TELEMETRY_MAX_LEN + CRC_LEN <= MAX_ENVELOPE_LEN);
    assert!(HEADER_LEN + crate::messages::RECEIPT_MAX_LEN + CRC_LEN <= MAX_ENVELOPE_LEN);
    assert!(HEADER_LEN + crate::messages::ALERT_MAX_LEN + CRC_LEN <= crate::ALERT_FRAME_MAX_LEN);
};

/// What the body is. Append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// An event that a ranger must hear of at once.
    Alert = 1,
    /// An event that is over, with its evidence.
    Detection = 2,
    /// How the station is.
    Telemetry = 3,
    /// What the cloud has stored for good.
    Receipt = 4,
}

/// How far the clock that stamped a record may be trusted. Append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TimeQuality {
    /// Never set since power-on; only the order of records means anything.
    Unknown = 0,
    /// Set once, running free since.
    FreeRunning = 1,
    /// Disciplined by NTP.
    Network = 2,
    /// Disciplined by GPS.
    Gps = 3,
}

/// The fixed part of an envelope, apart from magic and version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which record this is. A receipt names the station it is for, with boot and seq 0.
    pub record: RecordId,
    /// Microseconds since 1970 UTC at which the thing happened, by the sender's clock.
    pub unix_us: i64,
    /// How good that clock was.
    pub time_quality: TimeQuality,
}

/// A header and its message.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// Who, which, when.
    pub header: Header,
    /// What.
    pub message: Message,
}

/// Why bytes are no envelope. The receiver counts the payload, keeps a copy of it aside, and
/// goes on with the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Shorter than header and CRC.
    TooShort {
        /// Bytes received.
        len: usize,
    },
    /// Longer than [`MAX_ENVELOPE_LEN`].
    TooLong {
        /// Bytes received.
        len: usize,
    },
    /// The first two bytes are not the magic.
    Magic,
    /// A version outside `version::MIN..=version::CURRENT`.
    Version {
        /// The version byte received.
        found: u8,
    },
    /// The checksum does not match: damaged on the way or on disk.
    Crc,
    /// A kind that this version does not know.
    Kind {
        /// The kind byte received.
        found: u8,
    },
    /// A time quality that this version does not know.
    TimeQuality {
        /// The byte received.
        found: u8,
    },
    /// The body is not the message its kind promises.
    Body,
    /// Bytes are left over behind the body.
    TrailingBytes {
        /// How many.
        count: usize,
    },
}

/// The buffer is too small for the envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeError;

impl Envelope {
    /// Writes the envelope to the front of `buffer` and returns the bytes written.
    ///
    /// # Errors
    /// [`EncodeError`] if `buffer` is too small; [`MAX_ENVELOPE_LEN`] bytes always suffice.
    pub fn encode<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], EncodeError> {
        let body_start = buffer.get_mut(..HEADER_LEN).ok_or(EncodeError)?;
        self.write_header(body_start);
        let body = buffer.get_mut(HEADER_LEN..).ok_or(EncodeError)?;
        let body_len = match &self.message {
            Message::Alert(m) => write_body(m, body),
            Message::Detection(m) => write_body(m, body),
            Message::Telemetry(m) => write_body(m, body),
            Message::Receipt(m) => write_body(m, body),
        }?;
        let crc_at = HEADER_LEN + body_len;
        let crc = CRC.checksum(&buffer[..crc_at]).to_be_bytes();
        let end = crc_at + CRC_LEN;
        buffer.get_mut(crc_at..end).ok_or(EncodeError)?.copy_from_slice(&crc);
        Ok(&buffer[..end])
    }

    /// Reads an envelope that fills `bytes` exactly. The checksum is verified before the body is
    /// parsed, and no byte may be left over.
    ///
    /// # Errors
    /// [`DecodeError`] names the first thing that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let len = bytes.len();
        if len > MAX_ENVELOPE_LEN {
            return Err(DecodeError::TooLong { len });
        }
        if len < HEADER_LEN + CRC_LEN {
            return Err(DecodeError::TooShort { len });
        }
        if bytes[..2] != MAGIC {
            return Err(DecodeError::Magic);
        }
        if !(version::MIN..=version::CURRENT).contains(&bytes[2]) {
            return Err(DecodeError::Version { found: bytes[2] });
        }
        let (content, crc) = bytes.split_at(len - CRC_LEN);
        if CRC.checksum(content).to_be_bytes() != crc {
            return Err(DecodeError::Crc);
        }
        let header = read_header(content)?;
        let body = &content[HEADER_LEN..];
        let message = match Kind::try_from(content[3])? {
            Kind::Alert => Message::Alert(read_body::<Alert>(body)?),
            Kind::Detection => Message::Detection(read_body::<Detection>(body)?),
            Kind::Telemetry => Message::Telemetry(read_body::<Telemetry>(body)?),
            Kind::Receipt => Message::Receipt(read_body::<Receipt>(body)?),
        };
        Ok(Self { header, message })
    }

    fn write_header(&self, out: &mut [u8]) {
        let Header { record, unix_us, time_quality } = self.header;
        out[..2].copy_from_slice(&MAGIC);
        out[2] = version::CURRENT;
        out[3] = self.message.kind() as u8;
        out[4..20].copy_from_slice(record.device.0.as_bytes());
        out[20..24].copy_from_slice(&record.boot.to_be_bytes());
        out[24..28].copy_from_slice(&record.seq.to_be_bytes());
        out[28..36].copy_from_slice(&unix_us.to_be_bytes());
        out[36] = time_quality as u8;
    }
}

fn read_header(bytes: &[u8]) -> Result<Header, DecodeError> {
    Ok(Header {
        record: RecordId {
            device: DeviceId(Uuid::from_bytes(array(&bytes[4..20]))),
            boot: u32::from_be_bytes(array(&bytes[20..24])),
            seq: u32::from_be_bytes(array(&bytes[24..28])),
        },
        unix_us: i64::from_be_bytes(array(&bytes[28..36])),
        time_quality: TimeQuality::try_from(bytes[36])?,
    })
}

/// `bytes` as an array of its own length, which every caller states by its slice bounds.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}

fn write_body<M: Serialize>(message: &M, buffer: &mut [u8]) -> Result<usize, EncodeError> {
    postcard::to_slice(message, buffer).map(|body| body.len()).map_err(|_| EncodeError)
}

fn read_body<M: DeserializeOwned>(bytes: &[u8]) -> Result<M, DecodeError> {
    let (message, rest) = postcard::take_from_bytes(bytes).map_err(|_| DecodeError::Body)?;
    if rest.is_empty() {
        Ok(message)
    } else {
        Err(DecodeError::TrailingBytes { count: rest.len() })
    }
}

impl TryFrom<u8> for Kind {
    type Error = DecodeError;

    fn try_from(byte: u8) -> Result<Self, DecodeError> {
        Ok(match byte {
            1 => Self::Alert,
            2 => Self::Detection,
            3 => Self::Telemetry,
            4 => Self::Receipt,
            found => return Err(DecodeError::Kind { found }),
        })
    }
}

impl TryFrom<u8> for TimeQuality {
    type Error = DecodeError;

    fn try_from(byte: u8) -> Result<Self, DecodeError> {
        Ok(match byte {
            0 => Self::Unknown,
            1 => Self::FreeRunning,
            2 => Self::Network,
            3 => Self::Gps,
            found => return Err(DecodeError::TimeQuality { found }),
        })
    }
}

impl TimeQuality {
    /// The word used in JSON and in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::FreeRunning => "free-running",
            Self::Network => "network",
            Self::Gps => "gps",
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { len } => write!(f, "{len} bytes are too few for an envelope"),
            Self::TooLong { len } => {
                write!(f, "{len} bytes are more than the {MAX_ENVELOPE_LEN} of an envelope")
            }
            Self::Magic => f.write_str("not an EcoSight envelope (bytes 0-1)"),
            Self::Version { found } => write!(
                f,
                "envelope version {found} (byte 2); this build reads {} to {}: upgrade it",
                version::MIN,
                version::CURRENT
            ),
            Self::Crc => f.write_str("checksum mismatch: the envelope was damaged"),
            Self::Kind { found } => write!(f, "unknown message kind {found} (byte 3)"),
            Self::TimeQuality { found } => write!(f, "unknown time quality {found} (byte 36)"),
            Self::Body => f.write_str("the body does not match its kind"),
            Self::TrailingBytes { count } => write!(f, "{count} bytes left over behind the body"),
        }
    }
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the buffer is too small for the envelope")
    }
}

impl core::error::Error for DecodeError {}
impl core::error::Error for EncodeError {}
