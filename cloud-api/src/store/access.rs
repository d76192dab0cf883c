//! People, sessions and keys. Secrets are kept as hashes only.

use sqlx::FromRow;
use uuid::Uuid;

use super::{Store, StoreError, reading, writing};
use crate::access::Role;

/// A user as the database knows it.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct UserRow {
    /// Its id.
    pub id: Uuid,
    /// The name to log in with.
    pub name: String,
    /// Argon2id in PHC form.
    pub password: String,
    /// See [`Role`].
    pub role: String,
    /// JSON array; `None` for all sites.
    pub sites: Option<String>,
    /// When it was made, µs.
    pub created_us: i64,
    /// When it was disabled, µs.
    pub disabled_us: Option<i64>,
}

/// An API key as the database knows it.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct KeyRow {
    /// Its id.
    pub id: Uuid,
    /// What it is for.
    pub name: String,
    /// See [`Role`].
    pub role: String,
    /// JSON array; `None` for all sites.
    pub sites: Option<String>,
    /// When it was made, µs.
    pub created_us: i64,
    /// By whom.
    pub created_by: String,
    /// When it ends, µs.
    pub expires_us: Option<i64>,
    /// When it was revoked, µs.
    pub revoked_us: Option<i64>,
}

macro_rules! user_columns {
    () => {
        "u.id, u.name, u.password, u.role, u.sites, u.created_us, u.disabled_us"
    };
}

macro_rules! key_columns {
    () => {
        "id, name, role, sites, created_us, created_by, expires_us, revoked_us"
    };
}

/// A role that this version does not know may as little as any.
fn role(text: &str) -> Role {
    text.parse().unwrap_or(Role::Viewer)
}

/// A list that cannot be read is empty: it lets nothing be seen.
fn sites(json: Option<&str>) -> Option<Vec<String>> {
    json.map(|json| serde_json::from_str(json).unwrap_or_default())
}

fn sites_json(sites: Option<&[String]>) -> Option<String> {
    sites.map(|sites| serde_json::Value::from(sites).to_string())
}

impl UserRow {
    /// What it may do.
    #[must_use]
    pub fn role(&self) -> Role {
        role(&self.role)
    }

    /// The sites it may see; `None` for all.
    #[must_use]
    pub fn sites(&self) -> Option<Vec<String>> {
        sites(self.sites.as_deref())
    }
}

impl KeyRow {
    /// What it may do.
    #[must_use]
    pub fn role(&self) -> Role {
        role(&self.role)
    }

    /// The sites it may see; `None` for all.
    #[must_use]
    pub fn sites(&self) -> Option<Vec<String>> {
        sites(self.sites.as_deref())
    }
}

/// A user to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewUser {
    /// Its id.
    pub id: Uuid,
    /// The name to log in with.
    pub name: String,
    /// Argon2id in PHC form.
    pub password: String,
    /// What it may do.
    pub role: Role,
    /// The sites it may see; `None` for all.
    pub sites: Option<Vec<String>>,
    /// Now, µs.
    pub now_us: i64,
}

/// A key to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// Its id.
    pub id: Uuid,
    /// What it is for.
    pub name: String,
    /// Hash of the secret.
    pub secret_sha256: String,
    /// What it may do.
    pub role: Role,
    /// The sites it may see; `None` for all.
    pub sites: Option<Vec<String>>,
    /// By whom.
    pub created_by: String,
    /// When it ends, µs.
    pub expires_us: Option<i64>,
    /// Now, µs.
    pub now_us: i64,
}

impl Store {
    /// Makes a user; `None` if the name is taken.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn create_user(&self, user: NewUser) -> Result<Option<UserRow>, StoreError> {
        writing!(self, |tx| {
            sqlx::query_as(concat!(
                "INSERT INTO users (id, name, password, role, sites, created_us) \
                 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (name) DO NOTHING RETURNING ",
                "id, name, password, role, sites, created_us, disabled_us"
            ))
            .bind(user.id)
            .bind(user.name)
            .bind(user.password)
            .bind(user.role.name())
            .bind(sites_json(user.sites.as_deref()))
            .bind(user.now_us)
            .fetch_optional(&mut *tx)
            .await?
        })
    }

    /// Whether there is any account: then nobody may do anything without one.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn has_users(&self) -> Result<bool, StoreError> {
        let one: Option<(i64,)> = reading!(self, |pool| {
            sqlx::query_as("SELECT CAST(1 AS BIGINT) FROM users LIMIT 1").fetch_optional(pool).await
        })?;
        Ok(one.is_some())
    }

    /// Whether there is an administrator who can log in.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn has_administrator(&self) -> Result<bool, StoreError> {
        let one: Option<(i64,)> = reading!(self, |pool| {
            sqlx::query_as(
                "SELECT CAST(1 AS BIGINT) FROM users \
                 WHERE role = 'admin' AND disabled_us IS NULL LIMIT 1",
            )
            .fetch_optional(pool)
            .await
        })?;
        Ok(one.is_some())
    }

    /// A user who can log in, by name.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn user_named(&self, name: &str) -> Result<Option<UserRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(concat!(
                "SELECT ",
                user_columns!(),
                " FROM users u WHERE u.name = $1 AND u.disabled_us IS NULL"
            ))
            .bind(name)
            .fetch_optional(pool)
            .await
        })?)
    }

    /// All users by name.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn users(&self) -> Result<Vec<UserRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(concat!("SELECT ", user_columns!(), " FROM users u ORDER BY u.name"))
                .fetch_all(pool)
                .await
        })?)
    }

    /// Disables a user and ends its sessions. The last administrator stays: false then, or if there
    /// is no such user.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn disable_user(&self, id: Uuid, now_us: i64) -> Result<bool, StoreError> {
        writing!(self, |tx| {
            let done = sqlx::query(
                "UPDATE users SET disabled_us = $2 WHERE id = $1 AND disabled_us IS NULL \
                 AND (role <> 'admin' OR EXISTS (SELECT 1 FROM users o WHERE o.id <> $1 \
                 AND o.role = 'admin' AND o.disabled_us IS NULL))",
            )
            .bind(id)
            .bind(now_us)
            .execute(&mut *tx)
            .await?;
            if done.rows_affected() == 1 {
                sqlx::query("DELETE FROM sessions WHERE user_id = $1")
                    .bind(id)
                    .execute(&mut *tx)
                    .await?;
            }
            done.rows_affected() == 1
        })
    }

    /// Gives a user another password and ends every session of theirs.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn set_password(&self, id: Uuid, password: String) -> Result<(), StoreError> {
        writing!(self, |tx| {
            sqlx::query("UPDATE users SET password = $2 WHERE id = $1")
                .bind(id)
                .bind(password)
                .execute(&mut *tx)
                .await?;
            sqlx::query("DELETE FROM sessions WHERE user_id = $1")
                .bind(id)
                .execute(&mut *tx)
                .await?;
        })
    }

    /// Begins a session; forgets those that have ended.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn begin_session(
        &self,
        token_sha256: String,
        user: Uuid,
        now_us: i64,
        expires_us: i64,
    ) -> Result<(), StoreError> {
        writing!(self, |tx| {
            sqlx::query("DELETE FROM sessions WHERE expires_us < $1")
                .bind(now_us)
                .execute(&mut *tx)
                .await?;
            sqlx::query(
                "INSERT INTO sessions (token_sha256, user_id, created_us, used_us, expires_us) \
                 VALUES ($1, $2, $3, $3, $4)",
            )
            .bind(token_sha256)
            .bind(user)
            .bind(now_us)
            .bind(expires_us)
            .execute(&mut *tx)
            .await?;
        })
    }

    /// Ends a session.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn end_session(&self, token_sha256: String) -> Result<(), StoreError> {
        writing!(self, |tx| {
            sqlx::query("DELETE FROM sessions WHERE token_sha256 = $1")
                .bind(token_sha256)
                .execute(&mut *tx)
                .await?;
        })
    }

    /// The user of a session that has not ended, and was used within `idle_us`. Its use is noted once
    /// in a while.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn session_user(
        &self,
        token_sha256: &str,
        now_us: i64,
        idle_us: i64,
    ) -> Result<Option<UserRow>, StoreError> {
        /// Noting every use would make every read a write.
        const NOTE_EVERY_US: i64 = 600 * 1_000_000;
        let used: Option<(i64,)> = reading!(self, |pool| {
            sqlx::query_as(
                "SELECT used_us FROM sessions \
                 WHERE token_sha256 = $1 AND expires_us > $2 AND used_us > $3",
            )
            .bind(token_sha256)
            .bind(now_us)
            .bind(now_us.saturating_sub(idle_us))
            .fetch_optional(pool)
            .await
        })?;
        let Some((used_us,)) = used else { return Ok(None) };
        if now_us - used_us > NOTE_EVERY_US {
            let token = token_sha256.to_owned();
            writing!(self, |tx| {
                sqlx::query("UPDATE sessions SET used_us = $2 WHERE token_sha256 = $1")
                    .bind(token)
                    .bind(now_us)
                    .execute(&mut *tx)
                    .await?;
            })?;
        }
        Ok(reading!(self, |pool| {
            sqlx::query_as(concat!(
                "SELECT ",
                user_columns!(),
                " FROM users u JOIN sessions s ON s.user_id = u.id \
                 WHERE s.token_sha256 = $1 AND u.disabled_us IS NULL"
            ))
            .bind(token_sha256)
            .fetch_optional(pool)
            .await
        })?)
    }

    /// Keeps a key.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn create_key(&self, key: NewKey) -> Result<KeyRow, StoreError> {
        writing!(self, |tx| {
            sqlx::query_as(concat!(
                "INSERT INTO api_keys (id, name, secret_sha256, role, sites, created_us, \
                 created_by, expires_us) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING ",
                key_columns!()
            ))
            .bind(key.id)
            .bind(key.name)
            .bind(key.secret_sha256)
            .bind(key.role.name())
            .bind(sites_json(key.sites.as_deref()))
            .bind(key.now_us)
            .bind(key.created_by)
            .bind(key.expires_us)
            .fetch_one(&mut *tx)
            .await?
        })
    }

    /// The key with that secret, if it may be used.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn api_key(
        &self,
        secret_sha256: &str,
        now_us: i64,
    ) -> Result<Option<KeyRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(concat!(
                "SELECT ",
                key_columns!(),
                " FROM api_keys WHERE secret_sha256 = $1 AND revoked_us IS NULL \
                 AND (expires_us IS NULL OR expires_us > $2)"
            ))
            .bind(secret_sha256)
            .bind(now_us)
            .fetch_optional(pool)
            .await
        })?)
    }

    /// All keys, newest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn keys(&self) -> Result<Vec<KeyRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(concat!(
                "SELECT ",
                key_columns!(),
                " FROM api_keys ORDER BY created_us DESC, id DESC"
            ))
            .fetch_all(pool)
            .await
        })?)
    }

    /// Revokes a key; false if there is none that could be used.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn revoke_key(&self, id: Uuid, now_us: i64) -> Result<bool, StoreError> {
        writing!(self, |tx| {
            sqlx::query("UPDATE api_keys SET revoked_us = $2 WHERE id = $1 AND revoked_us IS NULL")
                .bind(id)
                .bind(now_us)
                .execute(&mut *tx)
                .await?
                .rows_affected()
                == 1
        })
    }
}
