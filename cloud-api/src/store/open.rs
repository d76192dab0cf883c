//! Opening a database: pools that hand out only connections without an open transaction.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection as _, PgPool, SqlitePool};

use super::{Backend, Store, StoreError};

static SQLITE: Migrator = sqlx::migrate!("migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("migrations/postgres");

const READERS: u32 = 4;
const POSTGRES_CONNECTIONS: u32 = 10;
/// A request that cannot have a connection by then is answered 503.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(2);
/// Another process may hold the SQLite file's lock for this long: a backup, `sqlite3` in a terminal.
const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// The migrations that a database has had.
const DONE: &str = "SELECT version FROM _sqlx_migrations ORDER BY version";

/// What becomes of tables of an earlier version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Older {
    Updated,
    Refused,
}

fn check_current(migrator: &Migrator, done: &[i64]) -> Result<(), StoreError> {
    let missing = migrator.iter().filter(|migration| !done.contains(&migration.version)).count();
    if done.is_empty() || missing == 0 {
        return Ok(());
    }
    Err(StoreError::Unusable(format!(
        "the database's tables are of an earlier version, {missing} steps behind: make a backup, then \
         bring them up to date with `ecosight-cloud migrate` and the same settings"
    )))
}

impl Store {
    /// Opens the database that `url` names, making the SQLite file if need be, and brings its tables
    /// up to date. An empty `url` is `ecosight.db` in `data_dir`, which exists.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] says what to do; [`StoreError::Unavailable`] if PostgreSQL does not
    /// answer, which a caller at start retries for a while.
    pub async fn open(url: &str, data_dir: &Path) -> Result<Self, StoreError> {
        Self::open_with(url, data_dir, Older::Updated).await
    }

    /// The same, but tables of an earlier version are left as they are and refused: a server of that
    /// version may still run, and there may be no backup yet. An empty database gets its tables.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn open_current(url: &str, data_dir: &Path) -> Result<Self, StoreError> {
        Self::open_with(url, data_dir, Older::Refused).await
    }

    async fn open_with(url: &str, data_dir: &Path, older: Older) -> Result<Self, StoreError> {
        let backend = match sqlite_file(url, data_dir) {
            Some(file) => {
                let write = sqlite_writer(&file).await.map_err(|error| unusable(&file, &error))?;
                if older == Older::Refused {
                    let there = "SELECT COUNT(*) > 0 FROM sqlite_master \
                                 WHERE type = 'table' AND name = '_sqlx_migrations'";
                    let mut done = Vec::new();
                    if sqlx::query_scalar(there).fetch_one(&write).await? {
                        done = sqlx::query_scalar(DONE).fetch_all(&write).await?;
                    }
                    check_current(&SQLITE, &done)?;
                }
                SQLITE.run(&write).await.map_err(|error| migration("SQLite", error))?;
                let read = sqlite_reader(&file).await?;
                Backend::Lite { read, write }
            }
            None => {
                let pool = postgres_pool(url).await?;
                if older == Older::Refused {
                    let there = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL";
                    let mut done = Vec::new();
                    if sqlx::query_scalar(there).fetch_one(&pool).await? {
                        done = sqlx::query_scalar(DONE).fetch_all(&pool).await?;
                    }
                    check_current(&POSTGRES, &done)?;
                }
                POSTGRES.run(&pool).await.map_err(|error| migration("PostgreSQL", error))?;
                Backend::Pg { pool }
            }
        };
        Ok(Self { backend })
    }
}

/// The SQLite file that `url` names; `None` if it names a PostgreSQL database.
fn sqlite_file(url: &str, data_dir: &Path) -> Option<PathBuf> {
    if url.is_empty() {
        return Some(data_dir.join("ecosight.db"));
    }
    let path = url.strip_prefix("sqlite:")?;
    Some(PathBuf::from(path.strip_prefix("//").unwrap_or(path)))
}

fn sqlite_options(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // NORMAL loses the last commits at a power cut; receipts are given for them.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_LIMIT)
        .optimize_on_close(true, None)
}

/// The pool of the one connection that writes to `file`, which is made if it is missing.
///
/// # Errors
/// Whatever opening the file gives.
pub async fn sqlite_writer(file: &Path) -> Result<SqlitePool, sqlx::Error> {
    SqlitePoolOptions::new()
        .max_connections(1)
        .min_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .acquire_timeout(BUSY_LIMIT + ACQUIRE_LIMIT)
        .test_before_acquire(false)
        // A write that was cancelled between BEGIN and its answer must not swallow later ones.
        .before_acquire(|connection, _| Box::pin(async { Ok(!connection.is_in_transaction()) }))
        .connect_with(sqlite_options(file))
        .await
}

/// The pool of connections that read `file`.
///
/// # Errors
/// Whatever opening the file gives.
pub async fn sqlite_reader(file: &Path) -> Result<SqlitePool, sqlx::Error> {
    SqlitePoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(ACQUIRE_LIMIT)
        .test_before_acquire(false)
        .before_acquire(|connection, _| Box::pin(async { Ok(!connection.is_in_transaction()) }))
        .connect_with(sqlite_options(file).pragma("query_only", "ON"))
        .await
}

/// The pool of connections to the PostgreSQL database at `url`.
///
/// # Errors
/// [`StoreError::Unusable`] if the URL cannot be read or the server refuses it, else
/// [`StoreError::Unavailable`].
pub async fn postgres_pool(url: &str) -> Result<PgPool, StoreError> {
    let options = PgConnectOptions::from_str(url)
        .map_err(|error| StoreError::Unusable(format!("the PostgreSQL URL is wrong: {error}")))?
        .application_name("ecosight-cloud")
        .options([("idle_in_transaction_session_timeout", "5s")]);
    let pool = PgPoolOptions::new()
        .max_connections(POSTGRES_CONNECTIONS)
        .acquire_timeout(ACQUIRE_LIMIT)
        .test_before_acquire(false)
        // sqlx 0.9.0 puts a connection whose BEGIN was cancelled back into the pool, and what is
        // then written on it is rolled back later without a word. Inside a transaction now() stands
        // still while statement_timestamp() does not, so this tells such a connection apart. The
        // same round trip proves that the connection is alive.
        .before_acquire(|connection, _| {
            Box::pin(async move {
                sqlx::query_scalar("SELECT now() = statement_timestamp()")
                    .fetch_one(connection)
                    .await
            })
        })
        .connect_with(options)
        .await;
    pool.map_err(|error| match &error {
        sqlx::Error::Database(database) if is_refused_login(database.as_ref()) => {
            StoreError::Unusable(format!("PostgreSQL refuses the connection: {error}"))
        }
        _ => StoreError::Unavailable(error),
    })
}

/// SQLSTATE classes 28 invalid authorization and 3D unknown database.
fn is_refused_login(error: &dyn sqlx::error::DatabaseError) -> bool {
    error.code().is_some_and(|code| code.starts_with("28") || code.starts_with("3D"))
}

fn unusable(file: &Path, error: &sqlx::Error) -> StoreError {
    StoreError::Unusable(format!(
        "cannot open {}: {error}; check that its directory exists and can be written by this user \
         (--data-dir names another)",
        file.display()
    ))
}

fn migration(database: &str, error: sqlx::migrate::MigrateError) -> StoreError {
    use sqlx::migrate::MigrateError;
    match error {
        MigrateError::Execute(error) => StoreError::Unavailable(error),
        MigrateError::VersionMissing(version) => StoreError::Unusable(format!(
            "the {database} database was written by a newer version (migration {version}): \
             upgrade this program"
        )),
        error => {
            StoreError::Unusable(format!("cannot bring the {database} tables up to date: {error}"))
        }
    }
}
