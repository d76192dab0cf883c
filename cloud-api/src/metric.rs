//! What Prometheus is told. Names and units follow its conventions; no event, clip or station is ever
//! a label.

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::store::Cause;

const HTTP_REQUESTS: &str = "ecosight_http_requests_total";
const HTTP_DURATION: &str = "ecosight_http_request_duration_seconds";
const PREDICTIONS: &str = "ecosight_predictions_total";
const PREDICTION_DURATION: &str = "ecosight_prediction_duration_seconds";
const SHED: &str = "ecosight_predictions_shed_total";
const QUEUED: &str = "ecosight_inference_queue_files";
const WINDOWS: &str = "ecosight_windows_processed_total";
const INFERENCE_DURATION: &str = "ecosight_inference_duration_seconds";
const RECORDS: &str = "ecosight_ingest_records_total";
const DUPLICATES: &str = "ecosight_ingest_duplicates_total";
const QUARANTINED: &str = "ecosight_ingest_quarantined_total";
const COMMIT_DURATION: &str = "ecosight_ingest_commit_duration_seconds";
const ALERT_DELIVERY: &str = "ecosight_alert_delivery_seconds";
const DEVICES: &str = "ecosight_devices";
const BROKER: &str = "ecosight_broker_connected";
const FALSE_ALARMS: &str = "ecosight_false_alarms_total";
const LAST_CANARY: &str = "ecosight_last_canary_success_timestamp_seconds";
const JOBS: &str = "ecosight_jobs_total";

/// Requests and predictions, seconds.
const ANSWER_BUCKETS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// One window on one thread, seconds.
const WINDOW_BUCKETS: [f64; 9] = [0.001, 0.002, 0.004, 0.006, 0.008, 0.012, 0.02, 0.05, 0.1];
/// From the database to the broker's word that it has the alert, seconds.
const DELIVERY_BUCKETS: [f64; 10] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 30.0, 300.0];

/// Starts the measuring; what it gives renders the numbers as text.
///
/// # Errors
/// If it has been started before in this process.
pub fn start() -> Result<PrometheusHandle, BuildError> {
    let is = |name: &str| Matcher::Full(name.to_owned());
    let handle = PrometheusBuilder::new()
        .set_buckets(&ANSWER_BUCKETS)?
        .set_buckets_for_metric(is(INFERENCE_DURATION), &WINDOW_BUCKETS)?
        .set_buckets_for_metric(is(ALERT_DELIVERY), &DELIVERY_BUCKETS)?
        .install_recorder()?;
    describe_counter!(HTTP_REQUESTS, "Requests by method, route and status.");
    describe_histogram!(HTTP_DURATION, "Time from a request's head to the answer's.");
    describe_counter!(PREDICTIONS, "Files classified.");
    describe_histogram!(PREDICTION_DURATION, "Time of a file in queue and inference.");
    describe_counter!(SHED, "Files turned away because too many waited.");
    describe_gauge!(QUEUED, "Files that wait for inference.");
    describe_counter!(WINDOWS, "Windows of 0.96 s classified.");
    describe_histogram!(INFERENCE_DURATION, "Time of one window on one thread, decoding included.");
    describe_counter!(RECORDS, "Records of stations stored.");
    describe_counter!(DUPLICATES, "Records of stations that were stored before.");
    describe_counter!(QUARANTINED, "Messages set aside because they are no records.");
    describe_histogram!(COMMIT_DURATION, "Time to store one batch of records.");
    describe_histogram!(ALERT_DELIVERY, "Time from an alert's storing to the broker's receipt.");
    describe_gauge!(DEVICES, "Stations by what they last said of themselves.");
    describe_gauge!(BROKER, "Whether there is a connection with the broker.");
    describe_counter!(FALSE_ALARMS, "Events that people rejected, by what they were.");
    describe_gauge!(LAST_CANARY, "When a canary of a site came last to this process, Unix time.");
    describe_counter!(JOBS, "Jobs that have ended, by kind and outcome.");
    let version = env!("CARGO_PKG_VERSION");
    gauge!("ecosight_build_info", "version" => version, "revision" => revision()).set(1.0);
    for name in [PREDICTIONS, SHED, WINDOWS, RECORDS, DUPLICATES, QUARANTINED] {
        counter!(name).absolute(0);
    }
    false_alarms(&Cause::ALL.map(|cause| (cause.name().to_owned(), 0)));
    Ok(handle)
}

/// The commit that was built, where the build was told.
pub(crate) fn revision() -> &'static str {
    option_env!("ECOSIGHT_REVISION").unwrap_or("unknown")
}

pub(crate) fn request(method: &str, route: &str, status: u16, seconds: f64) {
    let (method, route) = (method.to_owned(), route.to_owned());
    counter!(HTTP_REQUESTS, "method" => method, "route" => route.clone(), "status" => status.to_string())
        .increment(1);
    histogram!(HTTP_DURATION, "route" => route).record(seconds);
}

pub(crate) fn shed() {
    counter!(SHED).increment(1);
}

pub(crate) fn queued(files: usize) {
    gauge!(QUEUED).set(files as f64);
}

pub(crate) fn inferred(windows: usize, window_s: f64) {
    counter!(WINDOWS).increment(windows as u64);
    histogram!(INFERENCE_DURATION).record(window_s);
}

pub(crate) fn answered(seconds: f64) {
    counter!(PREDICTIONS).increment(1);
    histogram!(PREDICTION_DURATION).record(seconds);
}

pub(crate) fn ingested(fresh: usize, duplicates: usize, quarantined: usize, commit_s: f64) {
    counter!(RECORDS).increment(fresh as u64);
    counter!(DUPLICATES).increment(duplicates as u64);
    counter!(QUARANTINED).increment(quarantined as u64);
    histogram!(COMMIT_DURATION).record(commit_s);
}

pub(crate) fn delivered(seconds: f64) {
    histogram!(ALERT_DELIVERY).record(seconds);
}

pub(crate) fn stations(state: &'static str, count: usize) {
    gauge!(DEVICES, "state" => state).set(count as f64);
}

pub(crate) fn broker(connected: bool) {
    gauge!(BROKER).set(f64::from(u8::from(connected)));
}

/// Events that people rejected, by cause.
pub(crate) fn false_alarms(counts: &[(String, i64)]) {
    for (cause, count) in counts {
        counter!(FALSE_ALARMS, "cause" => cause.clone()).absolute(count.unsigned_abs());
    }
}

/// A canary came through to here.
pub(crate) fn canary(site: &str, unix_us: i64) {
    gauge!(LAST_CANARY, "site" => site.to_owned()).set(unix_us as f64 / 1e6);
}

pub(crate) fn job(kind: &str, outcome: &'static str) {
    counter!(JOBS, "kind" => kind.to_owned(), "outcome" => outcome).increment(1);
}
