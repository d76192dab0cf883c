//! Path: store → **alerts** → link → rangers
//!
//! An alert that is stored is sent until the broker has taken it, also across a restart. At least
//! once, idempotent by event id: receivers show an id once.

use std::sync::Arc;
use std::time::Duration;

use ecosight_shared::Topic;
use ecosight_shared::json::{AlertDocument, Location, ModelInfo};
use rumqttc::PublishNotice;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::clock::{Clock, rfc3339};
use crate::link::Link;
use crate::metric;
use crate::store::{EventRow, Pending, Store, StoreError};

/// Alerts under way at one time.
const BATCH_LEN: i64 = 50;
/// Wait before another attempt.
const RETRY: Duration = Duration::from_secs(1);
/// Alerts may lie in the table that nobody told us of: from before a restart, or while their class
/// waited for its name.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// An alert whose model is not known yet waits this long for its class's name.
const NAME_WAIT_US: i64 = 3_000_000;
/// What a class is called whose name never came.
pub const UNKNOWN_CLASS: &str = "unknown";

/// Sends alerts until `stop`.
pub async fn run(
    store: Store,
    link: Link,
    clock: Clock,
    news: Arc<Notify>,
    stop: CancellationToken,
) {
    let work = async {
        loop {
            if !link.wait_connected().await {
                return;
            }
            match send_pending(&store, &link, &clock).await {
                Ok(0) => {
                    tokio::select! {
                        () = news.notified() => {}
                        () = sleep(LOOK_AGAIN) => {}
                    }
                }
                Ok(sent) => info!(sent, "alerts sent"),
                Err(error) => {
                    warn!(%error, "alerts wait in the database");
                    sleep(RETRY).await;
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

/// Sends what is due; gives how many the broker has taken.
async fn send_pending(store: &Store, link: &Link, clock: &Clock) -> Result<usize, StoreError> {
    let mut under_way: Vec<(Pending, PublishNotice)> = Vec::new();
    for pending in store.pending_notifications(BATCH_LEN).await? {
        let Some(event) = store.event(pending.event_id).await? else {
            error!(event = %pending.event_id, "an alert without its event");
            continue;
        };
        if !is_due(&event, &pending, clock.now_us()) {
            continue;
        }
        let document = document(&event);
        let topic = Topic::SiteAlert(&document.site_id, &document.class).to_string();
        let Ok(payload) = serde_json::to_vec(&document) else { continue };
        match link.publish_tracked(&topic, payload, false).await {
            Ok(notice) => under_way.push((pending, notice)),
            Err(error) => debug!(%error, "the link has ended"),
        }
    }
    let mut taken = Vec::new();
    for (Pending { event_id: event, created_us }, notice) in under_way {
        match notice.wait_completion_async().await {
            Ok(()) => {
                metric::delivered(clock.now_us().saturating_sub(created_us) as f64 / 1e6);
                taken.push(event);
            }
            Err(error) => warn!(%event, %error, "an alert must be sent again"),
        }
    }
    store.mark_notified(&taken, clock.now_us()).await?;
    Ok(taken.len())
}

fn is_due(event: &EventRow, pending: &Pending, now_us: i64) -> bool {
    event.class.is_some() || now_us.saturating_sub(pending.created_us) >= NAME_WAIT_US
}

/// The alert that rangers get.
fn document(event: &EventRow) -> AlertDocument {
    let location = event.latitude.zip(event.longitude).map(|(lat, lon)| Location {
        lat,
        lon,
        uncertainty_m: event.uncertainty_m.map(|radius_m| radius_m as f32),
    });
    AlertDocument {
        schema: AlertDocument::SCHEMA.into(),
        event_id: event.id,
        device_id: event.device_id,
        device_name: event.device_name.clone().unwrap_or_default(),
        site_id: event.site_id.clone(),
        class: event.class.clone().unwrap_or_else(|| UNKNOWN_CLASS.into()),
        score: event.score as f32,
        time: rfc3339(event.onset_us),
        time_quality: event.time_quality.clone(),
        level_dbfs: event.level_dbfs as f32,
        windows: u32::try_from(event.windows).unwrap_or(u32::MAX),
        canary: event.canary,
        model: ModelInfo {
            name: event.model_name.clone().unwrap_or_default(),
            version: event.model_version.clone().unwrap_or_default(),
            tag: event.model_tag.clone(),
            classes: Vec::new(),
        },
        location,
        url: None,
    }
}
