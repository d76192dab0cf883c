//! The station's own page: what it hears now, for somebody who stands beside it.
//!
//! Plain HTTP/1.1, GET only, on the loopback address unless another is configured; whoever is
//! elsewhere comes through SSH. Nothing is loaded from anywhere, nothing can be changed, no sound is
//! given out. Requests whose Host is a name that is not this machine's are refused, so that no web
//! page elsewhere can read it through the visitor's browser.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, rfc3339};
use crate::condition::Teller;
use crate::config;
use crate::health::{BANDS, Health};
use crate::outbox::Outbox;
use crate::recorder::Identity;

/// Longest request.
const REQUEST_MAX: usize = 8 * 1_024;
/// A request must be there, and its answer taken, in this time.
const PATIENCE: Duration = Duration::from_secs(5);
/// Visitors at once.
const VISITORS: usize = 8;
/// Columns of the spectrogram in one answer.
const COLUMNS: usize = 240;

const HTML: &str = include_str!("page.html");
const SCRIPT: &str = include_str!("page.js");
const STYLE: &str = include_str!("page.css");

/// What the page shows.
pub struct Page {
    /// Whose page it is.
    pub identity: Arc<Identity>,
    /// What is heard.
    pub health: Arc<Health>,
    /// What waits.
    pub outbox: Outbox,
    /// How the station is.
    pub teller: Arc<Teller>,
    /// Its time.
    pub clock: Clock,
}

/// Listens where the page is configured; a port that is taken costs the page and nothing else.
pub async fn listen(config: &config::Page) -> Option<TcpListener> {
    let address = config.listen?;
    match TcpListener::bind(address).await {
        Ok(listener) => {
            tracing::info!(%address, "the station's page");
            Some(listener)
        }
        Err(error) => {
            tracing::warn!(%error, %address, "no page: is page.listen taken by another program?");
            None
        }
    }
}

impl Page {
    /// Serves until stopped. A visitor that fails costs nobody else.
    ///
    /// # Errors
    /// None that ends the station: it is a result only to be a task like the others.
    pub async fn serve(
        self,
        listener: TcpListener,
        stop: CancellationToken,
    ) -> std::io::Result<()> {
        let page = Arc::new(self);
        let visitors = Arc::new(Semaphore::new(VISITORS));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            // One too many is let go at once: the browser asks again.
            let Ok(place) = Arc::clone(&visitors).try_acquire_owned() else { continue };
            let page = Arc::clone(&page);
            tokio::spawn(async move {
                let _ = tokio::time::timeout(PATIENCE, page.answer(stream)).await;
                drop(place);
            });
        }
    }

    async fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut request = Vec::with_capacity(1_024);
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            if request.len() > REQUEST_MAX || stream.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        }
        let answer = match Request::parse(&request) {
            Some(request) => self.route(&request).await,
            None => Answer::problem(400, "Bad Request"),
        };
        stream.write_all(&answer.bytes()).await?;
        stream.shutdown().await
    }

    async fn route(&self, request: &Request<'_>) -> Answer {
        if !request.is_for_this_machine() {
            return Answer::problem(421, "Misdirected Request");
        }
        if request.method != "GET" {
            return Answer::problem(405, "Method Not Allowed");
        }
        match request.path {
            "/" => Answer::new("text/html; charset=utf-8", HTML.into()),
            "/page.js" => Answer::new("text/javascript; charset=utf-8", SCRIPT.into()),
            "/page.css" => Answer::new("text/css; charset=utf-8", STYLE.into()),
            "/status.json" => match self.status(request.query).await {
                Some(status) => Answer::new("application/json", status.into_bytes()),
                None => Answer::problem(503, "Service Unavailable"),
            },
            _ => Answer::problem(404, "Not Found"),
        }
    }

    /// Everything, and the columns of the spectrogram behind the one that the page has.
    async fn status(&self, query: &str) -> Option<String> {
        let have: u64 =
            query.strip_prefix("column=").and_then(|text| text.parse().ok()).unwrap_or(0);
        let level = self.outbox.level().await.ok()?;
        let pulse = self.health.pulse();
        let (dropped_samples, gaps) = self.health.losses();
        let in_use = self.identity.model.get();
        let model = &in_use.info;
        let classes = &model.classes;
        let live = self.health.look(|live| {
            let new = live.column.saturating_sub(have).min(COLUMNS as u64) as usize;
            let from = live.columns.len().saturating_sub(new);
            let columns: Vec<String> = live.columns.iter().skip(from).map(hex).collect();
            let scores: serde_json::Map<String, serde_json::Value> = classes
                .iter()
                .zip(&live.scores)
                .map(|(class, score)| (class.clone(), (*score).into()))
                .collect();
            let events: Vec<serde_json::Value> = live
                .events
                .iter()
                .map(|event| {
                    json!({
                        "time": rfc3339(event.unix_us),
                        "class": event.class,
                        "score": event.score,
                        "level_dbfs": event.level_dbfs,
                        "alert": event.alert,
                    })
                })
                .collect();
            json!({
                "column": live.column,
                "bands": BANDS,
                "columns": columns,
                "level_dbfs": live.level_dbfs,
                "peak_dbfs": live.peak_dbfs,
                "scores": scores,
                "events": events,
            })
        });
        let status = json!({
            "name": self.identity.name.as_str(),
            "site": self.identity.site.as_str(),
            "device": self.identity.device.to_string(),
            "agent": env!("CARGO_PKG_VERSION"),
            "model": match self.health.model_slot() {
                "" | "factory" => format!("{} {}", model.name, model.version),
                slot => format!("{} {}, slot {slot}", model.name, model.version),
            },
            "time": rfc3339(self.clock.unix_us()),
            "uptime_s": self.health.uptime().as_secs(),
            "windows": pulse.windows,
            "dropped_samples": dropped_samples,
            "gaps": gaps,
            "connected": self.health.is_connected(),
            "queue": {
                "records": level.records,
                "alerts": level.alerts,
                "clips": level.clips,
                "clip_bytes": level.clip_bytes,
                "dropped": level.dropped.iter().sum::<u64>(),
            },
            "health": self.teller.health(),
            "live": live,
        });
        Some(status.to_string())
    }
}

fn hex(column: &[u8; BANDS]) -> String {
    column.iter().map(|value| format!("{value:02x}")).collect()
}

/// The parts of a request that matter.
struct Request<'a> {
    method: &'a str,
    path: &'a str,
    query: &'a str,
    host: &'a str,
}

impl<'a> Request<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(bytes).ok()?.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target) = (words.next()?, words.next()?);
        words.next().filter(|version| version.starts_with("HTTP/1."))?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let host = lines
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("host"))
            .map(|(_, host)| host.trim())?;
        Some(Self { method, path, query, host })
    }

    /// An address, or the name that every machine has for itself.
    fn is_for_this_machine(&self) -> bool {
        let host = match self.host.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => self.host,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
    }
}

struct Answer {
    status: u16,
    reason: &'static str,
    kind: &'static str,
    body: Vec<u8>,
}

impl Answer {
    fn new(kind: &'static str, body: Vec<u8>) -> Self {
        Self { status: 200, reason: "OK", kind, body }
    }

    fn problem(status: u16, reason: &'static str) -> Self {
        let body = format!("{reason}\n").into_bytes();
        Self { status, reason, kind: "text/plain; charset=utf-8", body }
    }

    fn bytes(&self) -> Vec<u8> {
        let head = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\
             Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
             Referrer-Policy: no-referrer\r\nX-Frame-Options: DENY\r\n\
             Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; \
             connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'\r\n\r\n",
            self.status,
            self.reason,
            self.kind,
            self.body.len()
        );
        [head.as_bytes(), &self.body].concat()
    }
}
