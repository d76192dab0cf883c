//! A database for each test: a SQLite file, or a PostgreSQL server of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ecosight_cloud::store::Store;
use ecosight_loadtest::free_port;
use tempfile::TempDir;

/// A database, removed when dropped.
pub(crate) struct Database {
    pub(crate) store: Store,
    /// As given to `--database`.
    pub(crate) url: String,
    _folder: TempDir,
    _server: Option<Postgres>,
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
    let (folder, url) = (TempDir::new().unwrap(), server.url());
    let store = Store::open(&url, folder.path()).await.unwrap();
    Some(Database { store, url, _folder: folder, _server: Some(server) })
}

async fn postgres_server() -> Option<Postgres> {
    let Some(binaries) = binaries() else {
        assert!(std::env::var_os("CI").is_none(), "CI needs PostgreSQL (package postgresql)");
        eprintln!("skipped: PostgreSQL is not installed (package postgresql)");
        return None;
    };
    Some(tokio::task::spawn_blocking(move || Postgres::start(&binaries)).await.unwrap())
}

/// Debian keeps them out of the path.
pub(crate) fn binaries() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let binaries = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    binaries.filter(|path| path.join("initdb").exists()).max()
}

/// A PostgreSQL server in a folder of its own, on a private port of the loopback address.
struct Postgres {
    server: Child,
    port: u16,
    _folder: TempDir,
}

impl Postgres {
    fn start(binaries: &Path) -> Self {
        let (folder, port) = (TempDir::new().unwrap(), free_port().unwrap());
        // PostgreSQL refuses to run as root.
        let id = Command::new("id").arg("-u").output().unwrap();
        let root = id.stdout.starts_with(b"0\n");
        if root {
            let given = Command::new("chown").arg("postgres").arg(folder.path()).status();
            assert!(given.unwrap().success(), "there is no user postgres");
        }
        let command = |name: &str| {
            if !root {
                return Command::new(binaries.join(name));
            }
            // Replaces itself by the program, so that it can be signalled.
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
            command.arg(binaries.join(name));
            command
        };
        let data = folder.path().join("data");
        let made = command("initdb")
            .args(["--no-sync", "--auth=trust", "--username=ecosight", "--encoding=UTF8", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let server = command("postgres")
            .arg("-D")
            .arg(&data)
            .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            // These tests kill no machine, and start a server each.
            .args(["-c", "unix_socket_directories=", "-c", "fsync=off"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut postgres = Self { server, port, _folder: folder };
        for _ in 0..500 {
            assert!(postgres.server.try_wait().unwrap().is_none(), "PostgreSQL ended");
            let ready = Command::new(binaries.join("pg_isready"))
                .args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()])
                .status();
            if ready.unwrap().success() {
                return postgres;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("PostgreSQL does not answer");
    }

    fn url(&self) -> String {
        format!("postgres://ecosight@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The `kill` command spares the crate an unsafe call into libc. SIGINT: a fast shutdown.
        let _ = Command::new("kill").args(["-INT", &self.server.id().to_string()]).status();
        let _ = self.server.wait();
    }
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
