//! A release as one file, to be carried from the machine that signs to the server.
//!
//! ```text
//! "ecosight release 1\n"
//! u32 LE   length of the manifest
//! …        the manifest's bytes, as they were signed
//! u8       number of signatures
//! 72 bytes each: id of the key, signature
//! …        the files' bytes in the manifest's order; nothing follows
//! ```

use std::io::{self, Read, Write};
use std::vec;

use super::{KeyId, MAX_MANIFEST_LEN, MAX_SIGNATURES, Refusal, Signature, SignedManifest};

/// What such a file begins with.
pub const MAGIC: &[u8; 19] = b"ecosight release 1\n";

/// Why a file can't be read as a release.
#[derive(Debug)]
pub enum ArchiveError {
    /// It ended early, or the system failed.
    Io(io::Error),
    /// It is none, or is beyond a limit.
    Refused(Refusal),
}

/// Writes everything before the files; the caller appends them in the manifest's order.
///
/// # Errors
/// What writing gives; [`io::ErrorKind::InvalidInput`] if the manifest or its signatures are beyond
/// the limits.
pub fn write_head(out: &mut impl Write, signed: &SignedManifest) -> io::Result<()> {
    let count = u8::try_from(signed.signatures.len());
    let (Ok(len), Ok(count)) = (u32::try_from(signed.manifest.len()), count) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    if signed.manifest.len() > MAX_MANIFEST_LEN || signed.signatures.len() > MAX_SIGNATURES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    out.write_all(MAGIC)?;
    out.write_all(&len.to_le_bytes())?;
    out.write_all(&signed.manifest)?;
    out.write_all(&[count])?;
    for signature in &signed.signatures {
        out.write_all(&signature.key.0)?;
        out.write_all(&signature.bytes)?;
    }
    Ok(())
}

/// Reads everything before the files, within the limits. Nothing of it is believed yet: see
/// [`super::inspect`].
///
/// # Errors
/// [`ArchiveError`]
pub fn read_head(input: &mut impl Read) -> Result<SignedManifest, ArchiveError> {
    let magic: [u8; MAGIC.len()] = read(input)?;
    if magic != *MAGIC {
        return Err(
            Refusal::malformed("the file", "is no release; `release sign` makes one").into()
        );
    }
    let len = u32::from_le_bytes(read(input)?) as usize;
    if len > MAX_MANIFEST_LEN {
        let limit = MAX_MANIFEST_LEN as u64;
        return Err(Refusal::TooLarge { what: "the manifest", limit }.into());
    }
    let mut manifest = vec![0; len];
    input.read_exact(&mut manifest)?;
    let [count] = read(input)?;
    if usize::from(count) > MAX_SIGNATURES {
        let limit = MAX_SIGNATURES as u64;
        return Err(Refusal::TooLarge { what: "the list of signatures", limit }.into());
    }
    let signatures = (0..count)
        .map(|_| Ok(Signature { key: KeyId(read(input)?), bytes: read(input)? }))
        .collect::<io::Result<_>>()?;
    Ok(SignedManifest { manifest, signatures })
}

fn read<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

impl From<io::Error> for ArchiveError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Refusal> for ArchiveError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl core::fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("the release ends early; get the file again")
            }
            Self::Io(error) => write!(f, "cannot read the release: {error}"),
            Self::Refused(refusal) => write!(f, "{refusal}"),
        }
    }
}

impl core::error::Error for ArchiveError {}
