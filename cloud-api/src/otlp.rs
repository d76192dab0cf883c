//! Spans for a collector of OpenTelemetry: OTLP over HTTP, as JSON.
//!
//! Only spans of [`TRACE`] are sent. They wait in a bounded queue and are sent in batches; what does not
//! fit, or the collector does not take, is dropped: no request waits for it.

use std::fmt::{Debug, Write as _};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber, debug};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::chance::Chance;
use crate::clock::Clock;
use crate::log::TRACE;
use crate::store::hex;

/// A span's field that names it for people, in the place of its name in the code.
const NAME: &str = "name";
/// A span's field with the W3C header of the same name: who caused it, elsewhere.
const TRACEPARENT: &str = "traceparent";
/// A span's field with the status that a request was answered with.
const STATUS: &str = "http.response.status_code";

/// Spans that wait.
const QUEUE: usize = 4_096;
/// Spans sent at once.
const BATCH: usize = 512;
/// Spans gather for this long.
const GATHER: Duration = Duration::from_millis(500);
const SEND_LIMIT: Duration = Duration::from_secs(10);
/// OTLP's numbers for what a span is of, and for a failure.
const KIND_INTERNAL: u8 = 1;
const KIND_SERVER: u8 = 2;
const STATUS_ERROR: u8 = 2;

/// Notes spans.
pub struct Spans {
    ended: mpsc::Sender<Value>,
    clock: Clock,
    chance: Chance,
}

/// Sends them.
pub struct Exporter {
    ended: mpsc::Receiver<Value>,
    url: String,
}

/// A span that has not ended.
struct Open {
    trace: [u8; 16],
    span: [u8; 8],
    parent: Option<[u8; 8]>,
    start_us: i64,
    fields: Fields,
}

#[derive(Default)]
struct Fields(Vec<(&'static str, Value)>);

/// Whether spans and events with this are for the collector.
#[must_use]
pub fn is_sent(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target() == TRACE
}

/// For the collector at `endpoint`, as in `http://127.0.0.1:4318`. The caller runs [`run`] with the
/// second part in a task of its own.
#[must_use]
pub fn export(endpoint: &str, clock: Clock, chance: Chance) -> (Spans, Exporter) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
    (Spans { ended: sender, clock, chance }, Exporter { ended: receiver, url })
}

/// Sends spans until the last [`Spans`] is gone.
pub async fn run(exporter: Exporter) {
    let Exporter { mut ended, url } = exporter;
    let client = match reqwest::Client::builder().timeout(SEND_LIMIT).build() {
        Ok(client) => client,
        Err(error) => return debug!(%error, "no spans are sent"),
    };
    let mut batch = Vec::with_capacity(BATCH);
    while ended.recv_many(&mut batch, BATCH).await > 0 {
        if batch.len() < BATCH {
            sleep(GATHER).await;
            while batch.len() < BATCH
                && let Ok(span) = ended.try_recv()
            {
                batch.push(span);
            }
        }
        let spans = std::mem::take(&mut batch);
        let sent = client.post(&url).json(&request(&spans)).send().await;
        match sent.and_then(reqwest::Response::error_for_status) {
            Ok(_) => {}
            Err(error) => debug!(%error, "the collector does not take spans"),
        }
    }
}

fn request(spans: &[Value]) -> Value {
    json!({"resourceSpans": [{
        "resource": {"attributes": [
            attribute("service.name", &text("ecosight-cloud")),
            attribute("service.version", &text(env!("CARGO_PKG_VERSION"))),
        ]},
        "scopeSpans": [{"scope": {"name": "ecosight-cloud"}, "spans": spans}],
    }]})
}

fn attribute(key: &str, value: &Value) -> Value {
    json!({"key": key, "value": value})
}

fn text(text: &str) -> Value {
    json!({"stringValue": text})
}

impl<S> Layer<S> for Spans
where
    S: Subscriber + for<'l> LookupSpan<'l>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let caused = fields
            .taken(TRACEPARENT)
            .and_then(|value| parse_traceparent(value["stringValue"].as_str().unwrap_or_default()));
        let above = span.parent().and_then(|parent| {
            let extensions = parent.extensions();
            extensions.get::<Open>().map(|open| (open.trace, open.span))
        });
        let (trace, parent) = match above.or(caused) {
            Some((trace, parent)) => (trace, Some(parent)),
            None => (self.chance.bytes(), None),
        };
        let (own, start_us) = (self.chance.bytes(), self.clock.now_us());
        span.extensions_mut().insert(Open { trace, span: own, parent, start_us, fields });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(open) = span.extensions_mut().get_mut::<Open>()
        {
            values.record(&mut open.fields);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let Some(open) = span.extensions_mut().remove::<Open>() else { return };
        let ended = open.ended(span.name(), self.clock.now_us());
        // Whoever looks at traces can do without this one.
        let _ = self.ended.try_send(ended);
    }
}

impl Open {
    fn ended(self, name: &str, now_us: i64) -> Value {
        let Self { trace, span, parent, start_us, mut fields } = self;
        let named = fields.taken(NAME);
        let name = named.as_ref().and_then(|named| named["stringValue"].as_str()).unwrap_or(name);
        let status = fields.0.iter().find(|(key, _)| *key == STATUS);
        let status = status.and_then(|(_, value)| value["intValue"].as_str()?.parse::<u16>().ok());
        let kind = if status.is_some() { KIND_SERVER } else { KIND_INTERNAL };
        let nanos = |us: i64| (i128::from(us) * 1_000).to_string();
        let mut ended = json!({
            "traceId": hex(&trace),
            "spanId": hex(&span),
            "name": name,
            "kind": kind,
            "startTimeUnixNano": nanos(start_us),
            "endTimeUnixNano": nanos(now_us.max(start_us)),
        });
        let attributes = fields.0.iter().map(|(key, value)| attribute(key, value));
        ended["attributes"] = attributes.collect();
        if let Some(parent) = parent {
            ended["parentSpanId"] = hex(&parent).into();
        }
        if status.is_some_and(|status| status >= 500) {
            ended["status"] = json!({"code": STATUS_ERROR});
        }
        ended
    }
}

impl Fields {
    fn taken(&mut self, key: &str) -> Option<Value> {
        let at = self.0.iter().position(|(known, _)| *known == key)?;
        Some(self.0.swap_remove(at).1)
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut shown = String::new();
        let _ = write!(shown, "{value:?}");
        self.0.push((field.name(), text(&shown)));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), text(value)));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.push((field.name(), json!({"intValue": value.to_string()})));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.push((field.name(), json!({"intValue": value.to_string()})));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.push((field.name(), json!({"boolValue": value})));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.push((field.name(), json!({"doubleValue": value})));
    }
}

/// Trace and span of a header of version 00; `None` if it is none.
fn parse_traceparent(header: &str) -> Option<([u8; 16], [u8; 8])> {
    let mut parts = header.split('-');
    let (version, trace, span) = (parts.next()?, parts.next()?, parts.next()?);
    let plain = |part: &str, len: usize| {
        part.len() == len && part.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
    };
    if version != "00" || !plain(trace, 32) || !plain(span, 16) {
        return None;
    }
    let (trace, span) =
        (u128::from_str_radix(trace, 16).ok()?, u64::from_str_radix(span, 16).ok()?);
    (trace != 0 && span != 0).then(|| (trace.to_be_bytes(), span.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::parse_traceparent;

    #[test]
    fn only_a_whole_header_names_a_trace() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let (trace, span) = parse_traceparent(good).unwrap();
        assert_eq!((trace[0], span[7]), (0x0a, 0x31));
        for bad in [
            "",
            "00",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
        ] {
            assert!(parse_traceparent(bad).is_none(), "{bad}");
        }
    }
}
