//! Path: training, people → **registry** → inference, releases
//!
//! Every version of the model that this server ran, trained or was given: a row in the database with
//! where it comes from, and a directory named by the SHA-256 of its manifest, which names every other
//! file. Neither is ever changed. As one file, a version is a gzipped tar: `lineage.json`, and the
//! bundle's files under `bundle/`.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use ecosight_models::bundle::{BundleError, MANIFEST_FILE, MAX_FILE_BYTES, hex};
use ecosight_models::{BundleFiles, durable};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::chance::Chance;
use crate::clock::{Clock, parse_rfc3339, rfc3339};
use crate::store::{Store, StoreError, VersionRow};

/// Longest file of a version that is taken in.
pub const MAX_PACKED_BYTES: usize = 64 << 20;
/// Most bytes that such a file may unfold to.
const MAX_UNPACKED_BYTES: u64 = 256 << 20;
/// Most files in it.
const MAX_ENTRIES: usize = 80;
const LINEAGE_FILE: &str = "lineage.json";
const BUNDLE_FOLDER: &str = "bundle";
/// Schema of `lineage.json`.
const SCHEMA: &str = "ecosight.version/1";

/// The directory of versions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Registry {
    dir: Arc<Path>,
    store: Store,
    clock: Clock,
    chance: Chance,
}

/// Where a version comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// `builtin`, `configured`, `trained` or `imported`.
    pub origin: &'static str,
    /// SHA-256 of the bundle that it was trained to replace.
    pub parent_sha256: Option<String>,
    /// The job that trained it.
    pub job: Option<Uuid>,
    /// Over path, class and group of every sample that it was trained on.
    pub data_sha256: Option<String>,
    /// How many those are.
    pub samples: Option<i64>,
    /// What decided its training.
    pub seed: Option<i64>,
    /// JSON: what the gate measured and decided.
    pub gate: Option<String>,
    /// Who made or brought it.
    pub by: String,
}

/// `lineage.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct PackedLineage {
    schema: String,
    sha256: String,
    origin: String,
    parent_sha256: Option<String>,
    data_sha256: Option<String>,
    samples: Option<i64>,
    seed: Option<i64>,
    code_version: String,
    gate: Option<serde_json::Value>,
    created_at: String,
    created_by: String,
}

/// Why a version cannot be kept or had.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The bundle is none, or was changed: the sender's fault, or the disk's.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The file is no packed version: the sender's fault.
    #[error("this is no version of a model as `models export` writes it: {0}")]
    Packed(String),
    /// The disk is full or broken: the operator must act.
    #[error("cannot keep the version: {0}")]
    Disk(#[from] io::Error),
    /// The database is not available: the caller tries again.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Registry {
    /// Opens `dir`, making it if need be.
    ///
    /// # Errors
    /// The system's, if the directory cannot be made.
    pub fn open(dir: PathBuf, store: Store, clock: Clock, chance: Chance) -> io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        Ok(Self { dir: dir.into(), store, clock, chance })
    }

    /// Where the files of a version are.
    #[must_use]
    pub fn path(&self, version: &VersionRow) -> PathBuf {
        self.dir.join(&version.sha256)
    }

    /// Writes the files of a bundle where a version with them has its directory. Without a row it is
    /// nothing yet; written again, it is the same.
    ///
    /// # Errors
    /// [`RegistryError::Disk`], [`RegistryError::Bundle`].
    pub fn write(&self, files: &BundleFiles) -> Result<PathBuf, RegistryError> {
        let place = self.dir.join(hex(&files.bundle.sha256));
        if BundleFiles::open(&place).is_ok() {
            return Ok(place);
        }
        let listed = files.bundle.manifest.files.iter().map(|entry| entry.name.as_str());
        let all = listed.chain([MANIFEST_FILE]);
        durable::write_folder(&place, all.filter_map(|name| Some((name, files.file(name)?))))?;
        BundleFiles::open(&place)?;
        Ok(place)
    }

    /// The row of a bundle, not kept yet.
    #[must_use]
    pub fn row(&self, files: &BundleFiles, lineage: Lineage) -> VersionRow {
        let bundle = &files.bundle;
        VersionRow {
            id: self.chance.id(&self.clock),
            sha256: hex(&bundle.sha256),
            tag: bundle.tag.to_string(),
            name: bundle.name.clone(),
            version: bundle.version.clone(),
            origin: lineage.origin.to_owned(),
            parent_sha256: lineage.parent_sha256,
            job_id: lineage.job,
            data_sha256: lineage.data_sha256,
            samples: lineage.samples,
            seed: lineage.seed,
            code_version: code_version(),
            gate: lineage.gate,
            created_us: self.clock.now_us(),
            created_by: lineage.by,
        }
    }

    /// Keeps a bundle; what is known by its content is given back as it is known.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn keep(
        &self,
        files: BundleFiles,
        lineage: Lineage,
    ) -> Result<VersionRow, RegistryError> {
        let row = self.row(&files, lineage);
        let registry = self.clone();
        let written = tokio::task::spawn_blocking(move || registry.write(&files));
        written.await.map_err(StoreError::from)??;
        Ok(self.store.register_version(row).await?)
    }

    /// A version as one file.
    ///
    /// # Errors
    /// [`RegistryError::Bundle`] if its files are gone or were changed.
    pub async fn export(&self, version: VersionRow) -> Result<Vec<u8>, RegistryError> {
        let place = self.path(&version);
        let packed = tokio::task::spawn_blocking(move || {
            let files = BundleFiles::open(&place)?;
            Ok::<_, RegistryError>(pack(&version, &files)?)
        });
        packed.await.map_err(StoreError::from)?
    }

    /// Takes in a version that [`Self::export`] gave, here or elsewhere. It serves only when somebody
    /// says so.
    ///
    /// # Errors
    /// [`RegistryError`]; then nothing was kept.
    pub async fn import(&self, packed: Vec<u8>, by: String) -> Result<VersionRow, RegistryError> {
        let name = format!(".import-{}", self.chance.id(&self.clock));
        let (registry, draft) = (self.clone(), self.dir.join(name));
        let unpacked = tokio::task::spawn_blocking(move || {
            let unpacked = unpack(&packed, &draft).and_then(|lineage| {
                let files = BundleFiles::open(&draft)?;
                if hex(&files.bundle.sha256) != lineage.sha256 {
                    return Err(RegistryError::Packed("its bundle is another".into()));
                }
                registry.write(&files)?;
                Ok((files, lineage))
            });
            // Whatever came of it; what cannot be removed is no version.
            let _ = std::fs::remove_dir_all(&draft);
            unpacked
        });
        let (files, lineage) = unpacked.await.map_err(StoreError::from)??;
        let told = Lineage {
            origin: "imported",
            parent_sha256: lineage.parent_sha256,
            job: None,
            data_sha256: lineage.data_sha256,
            samples: lineage.samples,
            seed: lineage.seed,
            gate: lineage.gate.map(|gate| gate.to_string()),
            by,
        };
        let row = VersionRow { code_version: lineage.code_version, ..self.row(&files, told) };
        Ok(self.store.register_version(row).await?)
    }
}

/// The program that made a version.
fn code_version() -> String {
    format!("{} {}", env!("CARGO_PKG_VERSION"), crate::metric::revision())
}

fn pack(version: &VersionRow, files: &BundleFiles) -> io::Result<Vec<u8>> {
    let lineage = PackedLineage {
        schema: SCHEMA.into(),
        sha256: version.sha256.clone(),
        origin: version.origin.clone(),
        parent_sha256: version.parent_sha256.clone(),
        data_sha256: version.data_sha256.clone(),
        samples: version.samples,
        seed: version.seed,
        code_version: version.code_version.clone(),
        gate: version.gate.as_deref().and_then(|gate| serde_json::from_str(gate).ok()),
        created_at: rfc3339(version.created_us),
        created_by: version.created_by.clone(),
    };
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    let mut add = |name: String, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, content)
    };
    add(LINEAGE_FILE.into(), &serde_json::to_vec_pretty(&lineage)?)?;
    let listed = files.bundle.manifest.files.iter().map(|entry| entry.name.as_str());
    for name in listed.chain([MANIFEST_FILE]) {
        add(format!("{BUNDLE_FOLDER}/{name}"), files.file(name).unwrap_or_default())?;
    }
    archive.into_inner()?.finish()
}

/// Unpacks the bundle's files to the new folder `place`, each by its bare name, whatever names and
/// kinds of entries the archive holds.
fn unpack(packed: &[u8], place: &Path) -> Result<PackedLineage, RegistryError> {
    let bad = |what: String| RegistryError::Packed(what);
    let read = |error: io::Error| RegistryError::Packed(error.to_string());
    // One byte more tells too long from just long enough.
    let limited = GzDecoder::new(packed).take(MAX_UNPACKED_BYTES + 1);
    let mut archive = tar::Archive::new(limited);
    let (mut lineage, mut files, mut total) = (None, BTreeMap::new(), 0);
    for entry in archive.entries().map_err(read)? {
        let entry = entry.map_err(read)?;
        let path = entry.path().map_err(read)?.into_owned();
        if !entry.header().entry_type().is_file() || files.len() >= MAX_ENTRIES {
            return Err(bad(format!("{}: no plain file, or too many", path.display())));
        }
        let mut content = Vec::new();
        entry.take(MAX_FILE_BYTES + 1).read_to_end(&mut content).map_err(read)?;
        total += content.len() as u64;
        if content.len() as u64 > MAX_FILE_BYTES || total > MAX_UNPACKED_BYTES {
            return Err(bad(format!("{}: too long", path.display())));
        }
        let parts: Vec<Component> = path.components().collect();
        match parts.as_slice() {
            [Component::Normal(name)] if *name == LINEAGE_FILE => {
                let told: PackedLineage = serde_json::from_slice(&content)
                    .map_err(|error| bad(format!("{LINEAGE_FILE}: {error}")))?;
                if told.schema != SCHEMA || parse_rfc3339(&told.created_at).is_none() {
                    return Err(bad(format!("{LINEAGE_FILE}: not of {SCHEMA}")));
                }
                lineage = Some(told);
            }
            [Component::Normal(folder), Component::Normal(name)] if *folder == BUNDLE_FOLDER => {
                let name = name.to_str().ok_or_else(|| bad("a name that is no text".into()))?;
                files.insert(name.to_owned(), content);
            }
            _ => return Err(bad(format!("{}: a stray file", path.display()))),
        }
    }
    let lineage = lineage.ok_or_else(|| bad(format!("{LINEAGE_FILE} is missing")))?;
    if lineage.sha256.len() != 64 || !lineage.sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(bad(format!("{LINEAGE_FILE}: sha256 is none")));
    }
    durable::write_folder(
        place,
        files.iter().map(|(name, content)| (name.as_str(), &content[..])),
    )?;
    Ok(lineage)
}

/// Where versions lie below the data directory.
#[must_use]
pub fn models_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("models")
}
