//! Keys of releases, and how they are written.
//!
//! A public key is one line of base64, as it stands in a station's configuration. A secret key is
//! a text of its own with a first line that says what it is, so that nobody takes one for the
//! other. It never leaves the machine that signs.

use core::fmt;
use core::str::FromStr;
use std::string::String;
use std::vec::Vec;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

use super::{DOMAIN, Signature};

/// Length of a public key, bytes.
pub const PUBLIC_KEY_LEN: usize = 32;

/// First line of the text of a secret key.
const SECRET_HEADING: &str = "ecosight release key v1, secret: whoever has it may sign models";

/// First eight bytes of SHA-256 of the public key: which key a signature says it is of. It chooses
/// the key to try, and proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 8]);

/// Verifies.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

/// Signs. Overwritten in memory when it is dropped.
pub struct SecretKey(SigningKey);

/// Why a text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// Not 44 characters of base64.
    NotPublic,
    /// 32 bytes that are no point of the curve, or one of the few with which signatures can be
    /// forged.
    Weak,
    /// Not the text that [`SecretKey::to_text`] writes.
    NotSecret,
    /// Not 16 hexadecimal digits.
    NotId,
}

impl KeyId {
    fn of(key: &VerifyingKey) -> Self {
        let hash = Sha256::digest(key.as_bytes());
        let mut id = [0; 8];
        id.copy_from_slice(&hash[..8]);
        Self(id)
    }
}

impl PublicKey {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> KeyId {
        KeyId::of(&self.0)
    }

    /// Whether `signature` is this key's over the manifest; strict: of every signature that some
    /// verifier takes and another does not, none is taken here.
    #[must_use]
    pub fn verifies(&self, manifest: &[u8], signature: &Signature) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(&signature.bytes);
        self.0.verify_strict(&covered(manifest), &signature).is_ok()
    }
}

impl SecretKey {
    /// The key that follows from 32 random bytes, which must come from the system's generator.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Its other half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Signs the bytes of a manifest.
    #[must_use]
    pub fn sign(&self, manifest: &[u8]) -> Signature {
        let bytes = self.0.sign(&covered(manifest)).to_bytes();
        Signature { key: self.public().id(), bytes }
    }

    /// The content of a key file; keep it where only its owner may read.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!("{SECRET_HEADING}\n{}\n", BASE64.encode(self.0.to_bytes()))
    }

    /// Reads what [`Self::to_text`] wrote.
    ///
    /// # Errors
    /// [`KeyError::NotSecret`]
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        let rest = text.strip_prefix(SECRET_HEADING).ok_or(KeyError::NotSecret)?;
        let seed = BASE64.decode(rest.trim()).map_err(|_| KeyError::NotSecret)?;
        let seed = <[u8; 32]>::try_from(seed).map_err(|_| KeyError::NotSecret)?;
        Ok(Self::from_seed(&seed))
    }
}

fn covered(manifest: &[u8]) -> Vec<u8> {
    [DOMAIN, manifest].concat()
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = BASE64.decode(text.trim()).map_err(|_| KeyError::NotPublic)?;
        let bytes = <[u8; PUBLIC_KEY_LEN]>::try_from(bytes).map_err(|_| KeyError::NotPublic)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError::Weak)?;
        if key.is_weak() { Err(KeyError::Weak) } else { Ok(Self(key)) }
    }
}

impl FromStr for KeyId {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.len() != 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(KeyError::NotId);
        }
        let id = u64::from_str_radix(text, 16).map_err(|_| KeyError::NotId)?;
        Ok(Self(id.to_be_bytes()))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0.as_bytes()))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public().id())
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotPublic => "expected a public key: 44 characters of base64",
            Self::Weak => "is no safe public key; take one that `release keygen` made",
            Self::NotSecret => "is no secret key as `release keygen` writes it",
            Self::NotId => "expected 16 hexadecimal digits",
        })
    }
}

impl core::error::Error for KeyError {}
