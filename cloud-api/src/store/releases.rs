//! Signed releases: what their manifests say, and which files they have. The bytes are in `releases`.

use sqlx::{FromRow, QueryBuilder};
use uuid::Uuid;

use super::{Cursor, Store, StoreError, reading, writing};

/// A release as the database knows it.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[allow(missing_docs, reason = "the columns of the table releases")]
pub struct ReleaseRow {
    pub id: Uuid,
    pub name: String,
    pub version: String,
    pub counter: i64,
    pub signed: String,
    pub manifest_sha256: String,
    pub minimum_agent: String,
    pub expires_us: i64,
    pub devices: String,
    pub site_id: Option<String>,
    pub replaces_name: Option<String>,
    pub replaces_version: Option<String>,
    pub replaces_counter: Option<i64>,
    pub model_tag: String,
    pub bytes: i64,
    pub created_us: i64,
    pub created_by: String,
}

/// A file of a release.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct ReleaseFileRow {
    /// Its name in the bundle.
    pub path: String,
    /// Its size.
    pub bytes: i64,
    /// SHA-256 of its content, hexadecimal.
    pub sha256: String,
}

/// A release by the bundle that was signed.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[allow(missing_docs, reason = "the columns of releases and release_files")]
pub struct SignedBundle {
    pub bundle_sha256: String,
    pub id: Uuid,
    pub version: String,
    pub counter: i64,
    pub signed: String,
}

/// What became of a release that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is new.
    New(ReleaseRow),
    /// It was here already.
    Known(ReleaseRow),
    /// Its counter is no higher than this one, which is here, and it leads back from none.
    Behind(i64),
}

macro_rules! select_release {
    ($rest:literal) => {
        concat!(
            "SELECT id, name, version, counter, signed, manifest_sha256, minimum_agent, expires_us, \
             devices, site_id, replaces_name, replaces_version, replaces_counter, model_tag, bytes, \
             created_us, created_by FROM releases ",
            $rest
        )
    };
}

impl ReleaseRow {
    /// `<name>-<version>`, as documents call it.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{}-{}", self.name, self.version)
    }

    /// The stations it is for; empty for any.
    #[must_use]
    pub fn device_ids(&self) -> Vec<Uuid> {
        serde_json::from_str(&self.devices).unwrap_or_default()
    }

    /// Whether a station may install it.
    #[must_use]
    pub fn is_for(&self, device: Uuid, site: &str) -> bool {
        let devices = self.device_ids();
        (devices.is_empty() || devices.contains(&device))
            && self.site_id.as_deref().is_none_or(|own| own == site)
    }

    /// Whether it leads back from `other`.
    #[must_use]
    pub fn leads_back_from(&self, other: &Self) -> bool {
        self.replaces_name.as_deref() == Some(&*other.name)
            && self.replaces_version.as_deref() == Some(&*other.version)
            && self.replaces_counter == Some(other.counter)
    }

    /// Its place in the list.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor { listed_us: self.created_us, id: self.id }
    }
}

impl Store {
    /// Keeps a release whose files are on disk. Counters rise, except on the way back from a release:
    /// stations refuse anything else.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn keep_release(
        &self,
        release: ReleaseRow,
        files: Vec<ReleaseFileRow>,
    ) -> Result<Kept, StoreError> {
        writing!(self, |tx| {
            let known: Option<ReleaseRow> =
                sqlx::query_as(select_release!("WHERE manifest_sha256 = $1"))
                    .bind(&release.manifest_sha256)
                    .fetch_optional(&mut *tx)
                    .await?;
            let highest: Option<i64> =
                sqlx::query_scalar("SELECT MAX(counter) FROM releases").fetch_one(&mut *tx).await?;
            let behind = highest
                .filter(|highest| release.counter <= *highest && release.replaces_name.is_none());
            match (known, behind) {
                (Some(known), _) => Kept::Known(known),
                (None, Some(highest)) => Kept::Behind(highest),
                (None, None) => {
                    insert_release!(tx, release);
                    let mut query = QueryBuilder::<Db>::new(
                        "INSERT INTO release_files (release_id, place, path, bytes, sha256) ",
                    );
                    query.push_values(files.iter().enumerate(), |mut row, (place, file)| {
                        row.push_bind(release.id).push_bind(place as i64);
                        row.push_bind(file.path.clone()).push_bind(file.bytes);
                        row.push_bind(file.sha256.clone());
                    });
                    query.build().persistent(false).execute(&mut *tx).await?;
                    Kept::New(release)
                }
            }
        })
    }

    /// A release.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn release(&self, id: Uuid) -> Result<Option<ReleaseRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(select_release!("WHERE id = $1")).bind(id).fetch_optional(pool).await
        })?)
    }

    /// At most `limit` releases, newest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn releases(
        &self,
        after: Option<Cursor>,
        limit: i64,
    ) -> Result<Vec<ReleaseRow>, StoreError> {
        let Cursor { listed_us, id } = after.unwrap_or(Cursor::START);
        Ok(reading!(self, |pool| {
            sqlx::query_as(select_release!(
                "WHERE (created_us, id) < ($1, $2) ORDER BY created_us DESC, id DESC LIMIT $3"
            ))
            .bind(listed_us)
            .bind(id)
            .bind(limit)
            .fetch_all(pool)
            .await
        })?)
    }

    /// Every release with the hash of its bundle's manifest, the highest counter first; of one bundle, if
    /// one is named.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn signed_bundles(
        &self,
        bundle_sha256: Option<&str>,
    ) -> Result<Vec<SignedBundle>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(
                "SELECT f.sha256 AS bundle_sha256, r.id, r.version, r.counter, r.signed \
                 FROM releases r JOIN release_files f ON f.release_id = r.id \
                 AND f.path = 'manifest.json' WHERE COALESCE($1, f.sha256) = f.sha256 \
                 ORDER BY r.counter DESC, r.id",
            )
            .bind(bundle_sha256)
            .fetch_all(pool)
            .await
        })?)
    }

    /// The files of a release, in the manifest's order.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn release_files(&self, id: Uuid) -> Result<Vec<ReleaseFileRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(
                "SELECT path, bytes, sha256 FROM release_files WHERE release_id = $1 ORDER BY place",
            )
            .bind(id)
            .fetch_all(pool)
            .await
        })?)
    }
}

macro_rules! insert_release {
    ($tx:ident, $release:ident) => {
        sqlx::query(
            "INSERT INTO releases (id, name, version, counter, signed, manifest_sha256, \
             minimum_agent, expires_us, devices, site_id, replaces_name, replaces_version, \
             replaces_counter, model_tag, bytes, created_us, created_by) VALUES ($1, $2, $3, $4, \
             $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
        )
        .bind($release.id)
        .bind(&$release.name)
        .bind(&$release.version)
        .bind($release.counter)
        .bind(&$release.signed)
        .bind(&$release.manifest_sha256)
        .bind(&$release.minimum_agent)
        .bind($release.expires_us)
        .bind(&$release.devices)
        .bind(&$release.site_id)
        .bind(&$release.replaces_name)
        .bind(&$release.replaces_version)
        .bind($release.replaces_counter)
        .bind(&$release.model_tag)
        .bind($release.bytes)
        .bind($release.created_us)
        .bind(&$release.created_by)
        .execute(&mut *$tx)
        .await?;
    };
}

use insert_release;
