//! The built program as a process of its own.

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use ecosight_loadtest::{Program, free_port};
use serde_json::Value;
use tempfile::TempDir;

use crate::databases::{Database, postgres};

/// Longest that the program may take to come up on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A running server, killed when dropped.
pub(crate) struct Server {
    program: Option<Program>,
    arguments: Vec<String>,
    pub(crate) http_port: u16,
    pub(crate) mqtt_port: u16,
    folder: TempDir,
    client: reqwest::Client,
    _database: Option<Database>,
}

pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_ecosight-cloud"))
}

/// Runs the program to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).env_remove("RUST_LOG").output().unwrap()
}

impl Server {
    /// Starts a server with the embedded broker and SQLite, and what `extra` says otherwise. With
    /// `ECOSIGHT_TEST_POSTGRES` set it has a PostgreSQL of its own instead.
    pub(crate) async fn start(extra: &[&str]) -> Self {
        Self::start_with_config("", extra).await
    }

    /// The same with a configuration file of that text.
    #[allow(clippy::disallowed_methods, reason = "a configuration for a test need not be durable")]
    pub(crate) async fn start_with_config(config: &str, extra: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let (http_port, mqtt_port) = (free_port().unwrap(), free_port().unwrap());
        let file = folder.path().join("cloud.toml");
        std::fs::write(&file, config).unwrap();
        let mut arguments: Vec<String> = [
            "serve",
            "--config",
            file.to_str().unwrap(),
            "--listen",
            &format!("127.0.0.1:{http_port}"),
            "--mqtt-listen",
            &format!("127.0.0.1:{mqtt_port}"),
        ]
        .map(str::to_owned)
        .to_vec();
        if !extra.contains(&"--data-dir") {
            let dir = folder.path().join("data");
            arguments.extend(["--data-dir".to_owned(), dir.display().to_string()]);
        }
        arguments.extend(extra.iter().map(|&argument| argument.to_owned()));
        let elsewhere = extra.contains(&"--database") || extra.contains(&"--data-dir");
        let wanted = std::env::var_os("ECOSIGHT_TEST_POSTGRES").is_some() && !elsewhere;
        let database = if wanted { postgres().await } else { None };
        if let Some(database) = &database {
            arguments.extend(["--database".to_owned(), database.url.clone()]);
        }
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().timeout(Duration::from_secs(20)).build().unwrap();
        let mut server = Self {
            program: None,
            arguments,
            http_port,
            mqtt_port,
            folder,
            client,
            _database: database,
        };
        server.run().await;
        server.wait_connected().await;
        server
    }

    /// Starts it again after [`Server::kill_9`] or [`Server::terminate`].
    pub(crate) async fn run(&mut self) {
        let program =
            Program::start("server", binary(), &self.arguments, self.folder.path()).unwrap();
        self.program = Some(program);
        let deadline = Instant::now() + START_LIMIT;
        while self.client.get(self.url("/api/v1/system")).send().await.is_err() {
            let program = self.program.as_mut().unwrap();
            assert!(program.ended().unwrap().is_none(), "it ended:\n{}", program.log_tail());
            assert!(Instant::now() < deadline, "it does not answer:\n{}", program.log_tail());
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Waits until what stations send reaches it.
    pub(crate) async fn wait_connected(&self) {
        let deadline = Instant::now() + START_LIMIT;
        while self.json("/api/v1/system").await.1["broker_connected"] != true {
            assert!(Instant::now() < deadline, "it has no broker:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    pub(crate) fn kill_9(&mut self) {
        self.program.take().unwrap().kill_9().unwrap();
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn wait_ended(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let program = self.program.as_mut().unwrap();
        while program.ended().unwrap().is_none() {
            assert!(Instant::now() < deadline, "it goes on:\n{}", program.log_tail());
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        self.program = None;
    }

    /// Sends SIGTERM; gives the exit code.
    pub(crate) fn terminate(&mut self, limit: Duration) -> Option<i32> {
        self.program.take().unwrap().terminate(limit).unwrap().code()
    }

    /// Sends SIGTERM and does not wait.
    pub(crate) fn ask_to_end(&self) {
        let id = self.program.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    }

    /// Waits until it ends by itself; gives the exit code.
    pub(crate) fn wait_for_end(&mut self, limit: Duration) -> Option<i32> {
        self.program.take().unwrap().wait(limit).unwrap().code()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.http_port))
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.http_port)
    }

    pub(crate) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn log(&self) -> String {
        let mut text = String::new();
        let mut file = std::fs::File::open(self.folder.path().join("server.log")).unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    /// GETs JSON, whatever the status.
    pub(crate) async fn json(&self, path: &str) -> (u16, Value) {
        let response = self.client.get(self.url(path)).send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json().await.unwrap())
    }

    /// Waits until `path` has `count` items.
    pub(crate) async fn wait_for_items(&self, path: &str, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let (status, page) = self.json(path).await;
            let items = page["items"].as_array().cloned().unwrap_or_default();
            if status == 200 && items.len() >= count {
                return items;
            }
            assert!(
                Instant::now() < deadline,
                "{} of {count} items at {path}:\n{}",
                items.len(),
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
