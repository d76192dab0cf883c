//! Releases: which bundle a station may install, as its maker signed it.
//!
//! A [`Manifest`] lists the files of a bundle and who may install it until when. What travels is
//! a [`SignedManifest`]: the manifest's bytes as they were signed, and the signatures. Signing
//! ([`SecretKey::sign`]) and judging ([`verify`]) are here and nowhere else, so that the tool, the
//! server and the station cannot disagree.
//!
//! The signature covers [`DOMAIN`] followed by the manifest in postcard. Nothing of a manifest is
//! looked at before a signature by a trusted key holds; see [`verify`] for the order.

pub mod archive;
mod keys;
mod verify;

use std::string::String;
use std::vec::Vec;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use keys::{KeyError, KeyId, PUBLIC_KEY_LEN, PublicKey, SecretKey};
pub use verify::{
    Highest, MAX_COUNTER_STEP, Memory, Refusal, Station, Verified, inspect, parse_version, peek,
    verify,
};

use crate::json::{SignatureDocument, SignedDocument};
use crate::{DeviceId, Slug};

/// What a signature covers begins with this, so that a signature for one purpose serves no other.
pub const DOMAIN: &[u8] = b"ecosight model release v1\0";
/// The only format so far; the first byte of a manifest.
pub const FORMAT: u8 = 1;
/// Longest manifest, bytes.
pub const MAX_MANIFEST_LEN: usize = 64 * 1_024;
/// Most signatures of one manifest: the current key, the next one, and as many again.
pub const MAX_SIGNATURES: usize = 4;
/// Most files of a release.
pub const MAX_FILES: usize = 64;
/// Longest file of a release, bytes.
pub const MAX_FILE_BYTES: u64 = 64 << 20;
/// Most bytes of all files of a release: a station stages them beside two more.
pub const MAX_TOTAL_BYTES: u64 = 128 << 20;
/// Longest name of a file, bytes.
pub const MAX_PATH_LEN: usize = 64;
/// Longest version of a bundle, bytes.
pub const MAX_VERSION_LEN: usize = 32;
/// The file of a release that is the bundle's own manifest; its hash is the bundle's identity.
pub const BUNDLE_MANIFEST: &str = "manifest.json";

/// What a release is, who may install it, and until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always [`FORMAT`].
    pub format: u8,
    /// Name of the bundle: a [`Slug`].
    pub name: String,
    /// Version of the bundle.
    pub version: String,
    /// Grows with every release of one deployment; a station never goes back.
    pub counter: u64,
    /// Oldest agent that can run it, `major.minor.patch`.
    pub minimum_agent: String,
    /// After this nobody installs it any more, unix seconds. What is installed goes on.
    pub expires_unix_s: i64,
    /// The stations that it is for; empty: any.
    pub devices: Vec<DeviceId>,
    /// The site that it is for; nothing: any.
    pub site: Option<Slug>,
    /// A signed way back: from exactly this release it may be installed in spite of its lower
    /// counter.
    pub replaces: Option<ReleaseRef>,
    /// See [`classes_sha256`].
    pub classes_sha256: [u8; 32],
    /// The files of the bundle, [`BUNDLE_MANIFEST`] among them.
    pub files: Vec<ReleaseFile>,
}

/// Names one release.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReleaseRef {
    /// Name of the bundle.
    pub name: String,
    /// Version of the bundle.
    pub version: String,
    /// Counter of the release.
    pub counter: u64,
}

/// One file of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseFile {
    /// Its name inside the bundle: plain, without folders.
    pub path: String,
    /// Exact size.
    pub bytes: u64,
    /// Its hash, by which it is fetched.
    pub sha256: [u8; 32],
}

impl ReleaseFile {
    /// Describes a file with this content.
    #[must_use]
    pub fn of(path: &str, content: &[u8]) -> Self {
        let sha256 = Sha256::digest(content).into();
        Self { path: path.to_owned(), bytes: content.len() as u64, sha256 }
    }
}

/// A manifest as it travels: exactly the bytes that were signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedManifest {
    /// [`Manifest`] in postcard.
    pub manifest: Vec<u8>,
    /// By one key or more: one that the receiver trusts is enough.
    pub signatures: Vec<Signature>,
}

/// One signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Which key made it.
    pub key: KeyId,
    /// Ed25519 over [`DOMAIN`] and the manifest.
    pub bytes: [u8; 64],
}

/// SHA-256 of the class names joined by newlines, in the order of the network's outputs: labels
/// belong to the network that was trained with them.
#[must_use]
pub fn classes_sha256<S: AsRef<str>>(classes: &[S]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for (i, class) in classes.iter().enumerate() {
        if i > 0 {
            hash.update(b"\n");
        }
        hash.update(class.as_ref().as_bytes());
    }
    hash.finalize().into()
}

impl Manifest {
    /// The bytes to be signed.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] or [`Refusal::TooLarge`] if nobody would accept it.
    pub fn encode(&self) -> Result<Vec<u8>, Refusal> {
        self.validate()?;
        let bytes =
            postcard::to_stdvec(self).map_err(|error| Refusal::malformed("manifest", error))?;
        if bytes.len() > MAX_MANIFEST_LEN {
            return Err(Refusal::TooLarge { what: "the manifest", limit: MAX_MANIFEST_LEN as u64 });
        }
        Ok(bytes)
    }

    /// Reads bytes whose signature holds.
    ///
    /// # Errors
    /// Not a manifest of [`FORMAT`], or one beyond the limits.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.len() > MAX_MANIFEST_LEN {
            return Err(Refusal::TooLarge { what: "the manifest", limit: MAX_MANIFEST_LEN as u64 });
        }
        match bytes.first() {
            Some(&FORMAT) => {}
            Some(&format) => return Err(Refusal::UnknownFormat { format }),
            None => return Err(Refusal::malformed("manifest", "is empty")),
        }
        let (manifest, rest) = postcard::take_from_bytes::<Self>(bytes)
            .map_err(|error| Refusal::malformed("manifest", error))?;
        if !rest.is_empty() {
            return Err(Refusal::malformed("manifest", "something follows it"));
        }
        manifest.validate()?;
        Ok(manifest)
    }

    /// Every law that the types do not state.
    ///
    /// # Errors
    /// The first one that is broken.
    pub fn validate(&self) -> Result<(), Refusal> {
        if self.format != FORMAT {
            return Err(Refusal::UnknownFormat { format: self.format });
        }
        if !Slug::is_valid(&self.name) {
            return Err(Refusal::malformed("name", "expected a-z, 0-9 and '-'"));
        }
        if !is_version(&self.version) {
            return Err(Refusal::malformed("version", "expected letters, digits, '.', '-', '+'"));
        }
        if self.counter == 0 || i64::try_from(self.counter).is_err() {
            return Err(Refusal::malformed("counter", "expected 1 to 2^63 - 1"));
        }
        if parse_version(&self.minimum_agent).is_none() {
            return Err(Refusal::malformed("minimum_agent", "expected such as 0.1.0"));
        }
        if let Some(replaced) = &self.replaces
            && (!Slug::is_valid(&replaced.name) || !is_version(&replaced.version))
        {
            return Err(Refusal::malformed("replaces", "names no release"));
        }
        self.validate_files()
    }

    fn validate_files(&self) -> Result<(), Refusal> {
        if self.files.len() > MAX_FILES {
            return Err(Refusal::TooLarge { what: "the list of files", limit: MAX_FILES as u64 });
        }
        let mut total = 0_u64;
        for (i, file) in self.files.iter().enumerate() {
            if !is_plain(&file.path) {
                return Err(Refusal::malformed("files", "a name is not plain"));
            }
            if self.files[..i].iter().any(|other| other.path == file.path) {
                return Err(Refusal::malformed("files", "a name is there twice"));
            }
            if file.bytes > MAX_FILE_BYTES {
                return Err(Refusal::TooLarge { what: "a file", limit: MAX_FILE_BYTES });
            }
            total += file.bytes;
        }
        if total > MAX_TOTAL_BYTES {
            return Err(Refusal::TooLarge { what: "the release", limit: MAX_TOTAL_BYTES });
        }
        if self.bundle_sha256().is_none() {
            return Err(Refusal::malformed("files", "manifest.json is not listed"));
        }
        Ok(())
    }

    /// Identity of the bundle in it; a valid manifest has one.
    #[must_use]
    pub fn bundle_sha256(&self) -> Option<[u8; 32]> {
        self.files.iter().find(|file| file.path == BUNDLE_MANIFEST).map(|file| file.sha256)
    }

    /// Names this release.
    #[must_use]
    pub fn reference(&self) -> ReleaseRef {
        ReleaseRef { name: self.name.clone(), version: self.version.clone(), counter: self.counter }
    }

    /// `<name>-<version>`, as documents call it.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{}-{}", self.name, self.version)
    }

    /// Bytes of all files.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add)
    }
}

/// The laws of a bundle's version.
fn is_version(text: &str) -> bool {
    (1..=MAX_VERSION_LEN).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-+".contains(&b))
}

/// A name that means a file in this folder on every system: no folders, no hidden file.
fn is_plain(path: &str) -> bool {
    (1..=MAX_PATH_LEN).contains(&path.len())
        && !path.starts_with('.')
        && path.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
}

impl SignedManifest {
    /// Signs `manifest` with every key.
    ///
    /// # Errors
    /// Nobody would accept the manifest.
    pub fn sign(manifest: &Manifest, keys: &[&SecretKey]) -> Result<Self, Refusal> {
        let manifest = manifest.encode()?;
        let signatures = keys.iter().map(|key| key.sign(&manifest)).collect();
        Ok(Self { manifest, signatures })
    }

    /// SHA-256 of the manifest's bytes: which release this is, whatever it says of itself.
    #[must_use]
    pub fn id(&self) -> [u8; 32] {
        Sha256::digest(&self.manifest).into()
    }

    /// As JSON carries it. `title` is for people; nobody believes it.
    #[must_use]
    pub fn document(&self, title: &str) -> SignedDocument {
        let signatures = self.signatures.iter().map(|signature| SignatureDocument {
            key: signature.key.to_string(),
            signature: BASE64.encode(signature.bytes),
        });
        SignedDocument {
            release: title.to_owned(),
            manifest: BASE64.encode(&self.manifest),
            signatures: signatures.collect(),
        }
    }

    /// Takes it out of JSON, within the limits.
    ///
    /// # Errors
    /// Too long, or not what it should be.
    pub fn from_document(document: &SignedDocument) -> Result<Self, Refusal> {
        // Base64 has four characters for three bytes.
        if document.manifest.len() > MAX_MANIFEST_LEN.div_ceil(3) * 4 {
            return Err(Refusal::TooLarge { what: "the manifest", limit: MAX_MANIFEST_LEN as u64 });
        }
        if document.signatures.len() > MAX_SIGNATURES {
            return Err(Refusal::TooLarge {
                what: "the list of signatures",
                limit: MAX_SIGNATURES as u64,
            });
        }
        let manifest = BASE64
            .decode(&document.manifest)
            .map_err(|error| Refusal::malformed("manifest", error))?;
        let signatures = document
            .signatures
            .iter()
            .map(|signature| {
                let key = signature.key.parse().map_err(|e| Refusal::malformed("key", e))?;
                let bytes = BASE64
                    .decode(&signature.signature)
                    .map_err(|error| Refusal::malformed("signature", error))?;
                let bytes = bytes
                    .try_into()
                    .map_err(|_| Refusal::malformed("signature", "is not 64 bytes"))?;
                Ok(Signature { key, bytes })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { manifest, signatures })
    }
}
