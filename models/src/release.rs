//! Signed releases of bundles: what a maker signs, and whether a file holds what was signed.
//!
//! Format, keys and judgement are in [`ecosight_shared::release`]; here they meet bundles and files.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use ecosight_shared::release::archive::{ArchiveError, read_head, write_head};
use ecosight_shared::release::{
    BUNDLE_MANIFEST, FORMAT, Manifest, PublicKey, Refusal, ReleaseFile, ReleaseRef, SecretKey,
    SignedManifest, Verified, classes_sha256, inspect,
};
use ecosight_shared::{DeviceId, Slug};
use sha2::{Digest, Sha256};

use crate::bundle::{BundleError, BundleFiles};
use crate::durable::Draft;

/// What a maker says of a release beside the bundle in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Grows with every release of one deployment.
    pub counter: u64,
    /// Oldest agent that can run it, `major.minor.patch`.
    pub minimum_agent: String,
    /// After this nobody installs it any more, unix seconds.
    pub expires_unix_s: i64,
    /// The stations that it is for; empty: any.
    pub devices: Vec<DeviceId>,
    /// The site that it is for; nothing: any.
    pub site: Option<Slug>,
    /// The one release that it leads back from.
    pub replaces: Option<ReleaseRef>,
}

/// Why there is no release. The caller shows the message, which names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The bundle is missing or damaged.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Stations prove a bundle by its golden sounds.
    #[error("the bundle has no golden sounds, so that no station could prove it: train it again")]
    NoGolden,
    /// Stations would refuse it.
    #[error("no station would take it: {0}")]
    Refused(#[from] Refusal),
    /// It ends early, or is none.
    #[error("{}: {source}", path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ArchiveError,
    },
    /// A file in it is not the one that is signed.
    #[error("{}: {file} differs from what is signed; get the file again", path.display())]
    Differs {
        /// The release.
        path: PathBuf,
        /// The file in it.
        file: String,
    },
    /// Something follows the last file.
    #[error("{}: something follows the last file; get the file again", path.display())]
    Trailing {
        /// The release.
        path: PathBuf,
    },
    /// Could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Signs the bundle in `dir` with every key and writes the release to `out`, where nothing may be yet.
///
/// # Errors
/// [`ReleaseError`]; then nothing was written.
pub fn sign(
    dir: &Path,
    terms: &Terms,
    keys: &[&SecretKey],
    out: &Path,
) -> Result<SignedManifest, ReleaseError> {
    let files = BundleFiles::open(dir)?;
    let manifest = describe(&files, terms)?;
    let signed = SignedManifest::sign(&manifest, keys)?;
    write(&signed, &manifest, &files, out)
        .map_err(|source| ReleaseError::Write { path: out.into(), source })?;
    Ok(signed)
}

/// The manifest of a release of this bundle.
///
/// # Errors
/// The bundle has no golden sounds.
pub fn describe(files: &BundleFiles, terms: &Terms) -> Result<Manifest, ReleaseError> {
    let bundle = &files.bundle;
    if bundle.manifest.golden.is_empty() {
        return Err(ReleaseError::NoGolden);
    }
    let others = bundle.manifest.files.iter().map(|entry| entry.name.as_str());
    let described = std::iter::once(BUNDLE_MANIFEST).chain(others);
    let terms = terms.clone();
    Ok(Manifest {
        format: FORMAT,
        name: bundle.name.clone(),
        version: bundle.version.clone(),
        counter: terms.counter,
        minimum_agent: terms.minimum_agent,
        expires_unix_s: terms.expires_unix_s,
        devices: terms.devices,
        site: terms.site,
        replaces: terms.replaces,
        classes_sha256: classes_sha256(&bundle.classes),
        files: described
            .map(|name| ReleaseFile::of(name, files.file(name).unwrap_or_default()))
            .collect(),
    })
}

fn write(
    signed: &SignedManifest,
    manifest: &Manifest,
    files: &BundleFiles,
    out: &Path,
) -> io::Result<()> {
    if out.exists() {
        let what = "it is there already; name another file";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
    }
    let draft = Draft::of(out)?;
    let mut file = draft.create()?;
    write_head(&mut file, signed)?;
    for entry in &manifest.files {
        file.write_all(files.file(&entry.path).unwrap_or_default())?;
    }
    file.sync_all()?;
    draft.publish()
}

/// Reads what stands before the files of a release. Nothing of it is believed yet.
///
/// # Errors
/// It is none, or cannot be read.
pub fn head(path: &Path) -> Result<SignedManifest, ReleaseError> {
    let archive = |source| ReleaseError::Archive { path: path.into(), source };
    let mut file = BufReader::new(File::open(path).map_err(|error| archive(error.into()))?);
    read_head(&mut file).map_err(archive)
}

/// Whether a trusted key signed the release at `path`, and whether its files are those that are signed.
///
/// # Errors
/// The first reason against it.
pub fn check(path: &Path, trusted: &[PublicKey]) -> Result<Verified, ReleaseError> {
    let archive = |source| ReleaseError::Archive { path: path.into(), source };
    let mut file = BufReader::new(File::open(path).map_err(|error| archive(error.into()))?);
    let signed = read_head(&mut file).map_err(archive)?;
    let verified = inspect(&signed, trusted).map_err(|refusal| archive(refusal.into()))?;
    for entry in &verified.manifest.files {
        let mut hash = Sha256::new();
        let read = io::copy(&mut file.by_ref().take(entry.bytes), &mut HashWriter(&mut hash));
        if read.map_err(|error| archive(error.into()))? != entry.bytes {
            return Err(archive(io::Error::from(io::ErrorKind::UnexpectedEof).into()));
        }
        if <[u8; 32]>::from(hash.finalize()) != entry.sha256 {
            return Err(ReleaseError::Differs { path: path.into(), file: entry.path.clone() });
        }
    }
    match file.read(&mut [0]) {
        Ok(0) => Ok(verified),
        Ok(_) => Err(ReleaseError::Trailing { path: path.into() }),
        Err(error) => Err(archive(error.into())),
    }
}

struct HashWriter<'a>(&'a mut Sha256);

impl Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
