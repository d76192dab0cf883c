//! Path: link → rangers: **watch** shows alerts in a terminal, as any ranger's client gets them.

use std::collections::{HashSet, VecDeque};
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ecosight_shared::json::AlertDocument;
use ecosight_shared::{Slug, Topic};
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::{Packet, Publish};
use rumqttc::{
    AckMode, AsyncClient, BrokerSessionResumePolicy, Event, EventLoop, MqttOptions, SessionMode,
};
use tokio::time::sleep;
use tracing::{info, warn};
use uuid::Uuid;

use crate::backoff::Backoff;
use crate::cli::WatchOptions;
use crate::config::BrokerChoice;
use crate::lifecycle::Signals;

/// Ids of alerts that were shown: delivery is at least once.
const REMEMBERED: usize = 10_000;
const KEEP_ALIVE_S: u16 = 20;
const MAX_PACKET_BYTES: u32 = 1024 * 1024;

/// Shows alerts until a signal.
///
/// # Errors
/// If there is no such broker or site, or the output can no longer be written.
pub async fn watch(options: WatchOptions, seed: u64) -> Result<()> {
    let BrokerChoice::External { host, port } = &options.mqtt else {
        bail!("--mqtt: name the broker's address, as in mqtt://127.0.0.1:1883");
    };
    let filter = filter(options.site.as_deref())?;
    let (client, eventloop) = connect(&options, host, *port, seed);
    let mut signals = Signals::listen()?;
    tokio::select! {
        _ = signals.next() => Ok(()),
        shown = show_all(client, eventloop, &filter, options.json, seed) => shown,
    }
}

fn filter(site: Option<&str>) -> Result<String> {
    match site {
        None => Ok(Topic::ALL_SITE_ALERTS.to_owned()),
        Some(site) if Slug::is_valid(site) => Ok(Topic::SiteAlert(site, "+").to_string()),
        Some(site) => bail!("--site: {site:?} is no site's name (a-z, 0-9 and '-')"),
    }
}

fn connect(options: &WatchOptions, host: &str, port: u16, seed: u64) -> (AsyncClient, EventLoop) {
    let (id, mode) = match &options.client_id {
        Some(id) => (id.clone(), SessionMode::Persistent),
        None => (format!("ecosight-watch-{seed:x}"), SessionMode::Clean),
    };
    let mut mqtt = MqttOptions::new(id, (host.to_owned(), port));
    mqtt.set_keep_alive(KEEP_ALIVE_S)
        .set_session_mode(mode)
        .set_broker_session_resume_policy(BrokerSessionResumePolicy::AllowBrokerOnly)
        .set_ack_mode(AckMode::Manual)
        .set_max_packet_size(Some(MAX_PACKET_BYTES));
    AsyncClient::builder(mqtt).capacity(256).build()
}

async fn show_all(
    client: AsyncClient,
    mut eventloop: EventLoop,
    filter: &str,
    json: bool,
    seed: u64,
) -> Result<()> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2), seed);
    let mut shown = Shown::default();
    loop {
        match eventloop.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(connack))) => {
                backoff.reset();
                info!("watching {filter}");
                // A session of an earlier run has its subscription; this run may not make another.
                if !connack.session_present {
                    client.try_subscribe(filter, QoS::AtLeastOnce).context("subscribing")?;
                }
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                show(&mut shown, &publish, json)?;
                // Only what was shown is taken from the broker.
                client.try_ack(&publish).context("acknowledging")?;
            }
            Ok(_) => {}
            Err(error) => {
                if backoff.is_first() {
                    warn!(%error, "no broker; trying again");
                }
                sleep(backoff.next_wait()).await;
            }
        }
    }
}

/// Which alerts were shown lately.
#[derive(Default)]
struct Shown {
    ids: HashSet<Uuid>,
    order: VecDeque<Uuid>,
}

impl Shown {
    /// Notes an id; false if it was known.
    fn insert(&mut self, id: Uuid) -> bool {
        if !self.ids.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

fn show(shown: &mut Shown, publish: &Publish, json: bool) -> Result<()> {
    let alert: AlertDocument = match serde_json::from_slice(&publish.payload) {
        Ok(alert) => alert,
        Err(error) => {
            let topic = String::from_utf8_lossy(&publish.topic);
            warn!(%topic, %error, "not an alert");
            return Ok(());
        }
    };
    if !shown.insert(alert.event_id) {
        return Ok(());
    }
    let line = if json { serde_json::to_string(&alert)? } else { line(&alert) };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("cannot write the output")
}

fn line(alert: &AlertDocument) -> String {
    let place = alert
        .location
        .map_or_else(String::new, |place| format!("  {:.5}, {:.5}", place.lat, place.lon));
    let clock = match alert.time_quality.as_str() {
        "unknown" => "  (station's clock not set)",
        _ => "",
    };
    format!(
        "{}  {:<10} {:>3.0} %  {} / {}{place}{clock}",
        alert.time,
        alert.class,
        alert.score * 100.0,
        alert.site_id,
        alert.device_name,
    )
}
