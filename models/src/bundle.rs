//! A bundle: the head of a model with all that belongs to it, in one directory.
//!
//! `manifest.json` names every other file with size and SHA-256; nothing is parsed before it was
//! measured and hashed. [`Bundle`] is what the manifest says; [`BundleFiles`] also holds the
//! bytes. [`write_bundle`] makes one.

mod manifest;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ecosight_shared::ModelTag;
use rust_embed::RustEmbed;
use sha2::{Digest, Sha256};

pub use manifest::{
    BackboneSpec, Calibration, EVALUATION_FILE, EVALUATION_PAGE, FileEntry, GoldenClip, HEAD_FILE,
    MANIFEST_FILE, MAX_FILE_BYTES, MODEL_CARD_FILE, Manifest, ManifestFault, NamedPoint,
    Normalisation, OperatingPoint, RuleSpec, SCHEMA, SecondSpec, StreamSpec,
};

use crate::detector::DetectorConfig;
use crate::durable;

/// What a bundle says of itself, verified and parsed.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// Name of the model line.
    pub name: String,
    /// Version within that line.
    pub version: String,
    /// SHA-256 of `manifest.json`, which holds the hashes of all other files: the bundle's identity.
    pub sha256: [u8; 32],
    /// First bytes of that hash: the identity on the wire.
    pub tag: ModelTag,
    /// Class names in the order of the scores.
    pub classes: Vec<String>,
    /// The detector's rules.
    pub detector: DetectorConfig,
    /// Everything else.
    pub manifest: Manifest,
}

/// A bundle with the bytes of its files.
#[derive(Clone, Debug)]
pub struct BundleFiles {
    /// What the manifest says.
    pub bundle: Bundle,
    files: BTreeMap<String, Vec<u8>>,
}

/// Why a bundle can't be used. The caller keeps the model that it has, or stops and tells the
/// operator: no variant goes away by itself.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file could not be read.
    #[error("{}: {source}; a bundle is a directory with manifest.json and the files it lists", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is longer than any bundle's.
    #[error("{}: more than {limit} bytes; this is no file of a bundle", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit that it exceeds.
        limit: u64,
    },
    /// The manifest is no JSON of the known schema.
    #[error("{}: {source}; get the bundle again, or upgrade this program", path.display())]
    Parse {
        /// The manifest.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// The manifest breaks a law of the schema.
    #[error("{}: {fault}; get the bundle again from where it was made", path.display())]
    Invalid {
        /// The manifest.
        path: PathBuf,
        /// Which field, and why.
        fault: ManifestFault,
    },
    /// A file is not the one that the manifest lists.
    #[error("{}: {what} differs from the manifest: the file is damaged or was changed; get the bundle again", path.display())]
    Differs {
        /// The file.
        path: PathBuf,
        /// `size` or `SHA-256`.
        what: &'static str,
    },
    /// Could not be written.
    #[error("{}: can't write the bundle: {source}", path.display())]
    Write {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// This build has no bundle inside.
    #[error("this program was built without a bundle: name one with --bundle DIR")]
    NoneBuiltIn,
}

/// The bundles shipped in the binary.
#[derive(RustEmbed)]
#[folder = "artifacts/"]
struct Artifacts;

/// One of the bundles in the binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Builtin {
    /// The head on YAMNet.
    Full,
    /// The one that needs nothing else.
    Compact,
}

impl Builtin {
    /// File in `artifacts/` with the name of the folder that is this bundle.
    fn pointer(self) -> &'static str {
        match self {
            Self::Full => "DEFAULT",
            Self::Compact => "COMPACT",
        }
    }
}

impl Bundle {
    /// Reads and verifies the bundle in `dir`.
    ///
    /// # Errors
    /// [`BundleError`], naming the file at fault.
    pub fn open(dir: &Path) -> Result<Self, BundleError> {
        BundleFiles::open(dir).map(|files| files.bundle)
    }

    /// A bundle shipped in the binary.
    ///
    /// # Errors
    /// [`BundleError::NoneBuiltIn`] if this build has none.
    pub fn builtin(which: Builtin) -> Result<Self, BundleError> {
        BundleFiles::builtin(which).map(|files| files.bundle)
    }

    /// The bundle as the wire and the HTTP interface name it.
    #[must_use]
    pub fn model_info(&self) -> ecosight_shared::json::ModelInfo {
        ecosight_shared::json::ModelInfo {
            name: self.name.clone(),
            version: self.version.clone(),
            tag: self.tag.to_string(),
            classes: self.classes.clone(),
        }
    }

    fn from_manifest(bytes: &[u8], path: &Path) -> Result<Self, BundleError> {
        let manifest: Manifest = serde_json::from_slice(bytes)
            .map_err(|source| BundleError::Parse { path: path.into(), source })?;
        manifest.validate().map_err(|fault| BundleError::Invalid { path: path.into(), fault })?;
        let sha256: [u8; 32] = Sha256::digest(bytes).into();
        let [a, b, c, d, ..] = sha256;
        Ok(Self {
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            sha256,
            tag: ModelTag([a, b, c, d]),
            classes: manifest.classes.clone(),
            detector: manifest.detector_config(),
            manifest,
        })
    }
}

impl BundleFiles {
    /// Reads and verifies the bundle in `dir` with all its files.
    ///
    /// # Errors
    /// [`BundleError`], naming the file at fault.
    pub fn open(dir: &Path) -> Result<Self, BundleError> {
        Self::collect(dir, read_bounded)
    }

    /// A bundle shipped in the binary.
    ///
    /// # Errors
    /// [`BundleError::NoneBuiltIn`] if this build has none.
    pub fn builtin(which: Builtin) -> Result<Self, BundleError> {
        let pointer = Artifacts::get(which.pointer()).ok_or(BundleError::NoneBuiltIn)?;
        let name = String::from_utf8_lossy(&pointer.data).trim().to_owned();
        Self::collect(Path::new(&name), |path, _| {
            let key = path.to_string_lossy().replace('\\', "/");
            let file = Artifacts::get(&key).ok_or(BundleError::NoneBuiltIn)?;
            Ok(file.data.into_owned())
        })
    }

    fn collect(
        dir: &Path,
        read: impl Fn(&Path, u64) -> Result<Vec<u8>, BundleError>,
    ) -> Result<Self, BundleError> {
        let manifest_path = dir.join(MANIFEST_FILE);
        let bytes = read(&manifest_path, manifest::MAX_MANIFEST_BYTES)?;
        let bundle = Bundle::from_manifest(&bytes, &manifest_path)?;
        let mut files = BTreeMap::new();
        for entry in &bundle.manifest.files {
            let path = dir.join(&entry.name);
            let content = read(&path, entry.bytes.saturating_add(1))?;
            if content.len() as u64 != entry.bytes {
                return Err(BundleError::Differs { path, what: "size" });
            }
            if hex(&Sha256::digest(&content)) != entry.sha256.to_ascii_lowercase() {
                return Err(BundleError::Differs { path, what: "SHA-256" });
            }
            files.insert(entry.name.clone(), content);
        }
        files.insert(MANIFEST_FILE.to_owned(), bytes);
        Ok(Self { bundle, files })
    }

    /// The bytes of one file, if the bundle has it.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(Vec::as_slice)
    }

    /// The head's ONNX.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        self.file(HEAD_FILE).unwrap_or_default()
    }
}

/// Writes a bundle to `dir` (replacing one that is there), and reads it back.
///
/// `manifest.files` is filled in here; `files` are the others, [`HEAD_FILE`] at least.
///
/// # Errors
/// [`BundleError`]; then nothing was written, and what was there before still is.
pub fn write_bundle(
    dir: &Path,
    mut manifest: Manifest,
    files: &BTreeMap<String, Vec<u8>>,
) -> Result<Bundle, BundleError> {
    manifest.files = files
        .iter()
        .map(|(name, content)| FileEntry {
            name: name.clone(),
            bytes: content.len() as u64,
            sha256: hex(&Sha256::digest(content)),
        })
        .collect();
    let manifest_path = dir.join(MANIFEST_FILE);
    manifest
        .validate()
        .map_err(|fault| BundleError::Invalid { path: manifest_path.clone(), fault })?;
    let mut text = serde_json::to_vec_pretty(&manifest)
        .map_err(|source| BundleError::Parse { path: manifest_path, source })?;
    text.push(b'\n');
    if dir.exists() && !dir.join(MANIFEST_FILE).exists() {
        return Err(BundleError::Write {
            path: dir.into(),
            source: io::Error::new(
                io::ErrorKind::AlreadyExists,
                "something that is no bundle is there; choose another name or remove it",
            ),
        });
    }
    let all = files
        .iter()
        .map(|(name, content)| (name.as_str(), content.as_slice()))
        .chain([(MANIFEST_FILE, text.as_slice())]);
    durable::write_folder(dir, all)
        .map_err(|source| BundleError::Write { path: dir.into(), source })?;
    Bundle::open(dir)
}

fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, BundleError> {
    let wrap = |source| BundleError::Read { path: path.into(), source };
    let file = File::open(path).map_err(wrap)?;
    if !file.metadata().map_err(wrap)?.is_file() {
        return Err(wrap(io::Error::new(io::ErrorKind::InvalidInput, "is no regular file")));
    }
    let mut content = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut content).map_err(wrap)?;
    if content.len() as u64 > limit {
        return Err(BundleError::TooLong { path: path.into(), limit });
    }
    Ok(content)
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
