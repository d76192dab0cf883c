//! A database for each test: a SQLite file, or a PostgreSQL server of its own.

use std::path::PathBuf;

use ecosight_cloud::store::Store;
use pgtemp::{PgTempDB, PgTempDBBuilder};
use tempfile::TempDir;

/// A database, removed when dropped.
pub(crate) struct Database {
    pub(crate) store: Store,
    /// As given to `--database`.
    pub(crate) url: String,
    _folder: TempDir,
    _server: Option<PgTempDB>,
}

/// A fresh SQLite database.
pub(crate) async fn sqlite() -> Option<Database> {
    let folder = TempDir::new().unwrap();
    let url = format!("sqlite:{}", folder.path().join("test.db").display());
    let store = Store::open(&url, folder.path()).await.unwrap();
    Some(Database { store, url, _folder: folder, _server: None })
}

/// A fresh PostgreSQL database; `None`, said aloud, where PostgreSQL is not installed.
pub(crate) async fn postgres() -> Option<Database> {
    let server = postgres_server().await?;
    let (folder, url) = (TempDir::new().unwrap(), server.connection_uri());
    let store = Store::open(&url, folder.path()).await.unwrap();
    Some(Database { store, url, _folder: folder, _server: Some(server) })
}

async fn postgres_server() -> Option<PgTempDB> {
    let Some(binaries) = binaries() else {
        assert!(std::env::var_os("CI").is_none(), "CI needs PostgreSQL (package postgresql)");
        eprintln!("skipped: PostgreSQL is not installed (package postgresql)");
        return None;
    };
    let builder = PgTempDBBuilder::new()
        .with_bin_path(binaries)
        // These tests kill no machine, and start a server each.
        .with_config_param("fsync", "off");
    Some(builder.start_async().await)
}

/// Debian keeps them out of the path.
fn binaries() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let binaries = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    binaries.filter(|path| path.join("initdb").exists()).max()
}

/// Runs one law on both databases.
macro_rules! on_both_databases {
    ($($law:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $law() {
                let database = crate::databases::sqlite().await.expect("SQLite is built in");
                super::$law(&database).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $law() {
                if let Some(database) = crate::databases::postgres().await {
                    super::$law(&database).await;
                }
            })+
        }
    };
}

pub(crate) use on_both_databases;
