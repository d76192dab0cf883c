//! What people say of events, and what they should listen to next.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use serde::{Deserialize, Serialize};
use tracing::warn;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::accounts::{log, unprocessable};
use super::events::{id, limit};
use super::{Api, Problem};
use crate::access::Caller;
use crate::clock::rfc3339;
use crate::documents::EventDocument;
use crate::live;
use crate::review::{Unjudged, propose};
use crate::samples::checked_name;
use crate::store::{Cause, EventRow, GivenVerdict, Verdict, VerdictRow};

const NOTE_MAX_BYTES: usize = 1_000;
/// How far back the review looks, and at how many events.
const REVIEW_AGE_US: i64 = 90 * 24 * 3_600 * 1_000_000;
const REVIEW_POOL: i64 = 2_000;
/// Where the model that serves has no rule for a class.
const PLAIN_THRESHOLD: f64 = 0.5;

/// What a person says of an event.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct VerdictBody {
    /// `confirmed`, `rejected` or `relabelled`.
    verdict: String,
    /// What a false alarm was: `thunder`, `branch`, `fireworks`, `backfire`, `hail`, `speech`,
    /// `canary` or `other`; only with `rejected`.
    cause: Option<String>,
    /// What is heard; needed with `relabelled`, and only then.
    class: Option<String>,
    #[schema(max_length = 1000)]
    note: Option<String>,
}

/// Judges an event
///
/// Its recording becomes a sample to learn from, or changes the class that it is a sample of. Who said
/// what and when is kept; the last word holds.
#[utoipa::path(
    put,
    path = "/api/v1/detections/{id}/verdict",
    operation_id = "give_verdict",
    tag = "learning",
    params(("id" = Uuid, Path)),
    request_body = VerdictBody,
    responses(
        (status = 200, body = EventDocument),
        (status = 404, description = "No such event"),
        (status = 422, description = "Cannot be said so"),
    )
)]
pub(super) async fn give(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    body: Result<Json<VerdictBody>, JsonRejection>,
) -> Result<Json<EventDocument>, Problem> {
    let Json(body) = body.map_err(|error| Problem::of_json(&error))?;
    let verdict: Verdict =
        body.verdict.parse().map_err(|what| unprocessable(format!("verdict: {what}.")))?;
    let cause: Option<Cause> = match body.cause {
        Some(cause) if verdict == Verdict::Rejected => {
            Some(cause.parse().map_err(|what| unprocessable(format!("cause: {what}.")))?)
        }
        Some(_) => return Err(unprocessable("cause: only a rejected event has one.")),
        None => None,
    };
    let class = match (verdict, body.class) {
        (Verdict::Relabelled, Some(class)) => Some(checked_name("class", &class)?),
        (Verdict::Relabelled, None) => {
            return Err(unprocessable("class: say what is heard, as in \"dog\"."));
        }
        (_, Some(_)) => return Err(unprocessable("class: only a relabelled event has one.")),
        (_, None) => None,
    };
    let note = note(body.note)?;
    judge(&api, &caller, &text, Some(verdict), cause, class, note).await
}

/// A person's words, if there are any.
pub(super) fn note(note: Option<String>) -> Result<Option<String>, Problem> {
    let note = note.map(|note| note.trim().to_owned()).filter(|note| !note.is_empty());
    match note {
        Some(note) if note.len() > NOTE_MAX_BYTES || note.contains('\0') => Err(unprocessable(
            format!("note: write at most {NOTE_MAX_BYTES} bytes, without a NUL."),
        )),
        note => Ok(note),
    }
}

/// Takes a verdict back
///
/// The sample that was made of the event's recording goes with it; the history stays.
#[utoipa::path(
    delete,
    path = "/api/v1/detections/{id}/verdict",
    operation_id = "withdraw_verdict",
    tag = "learning",
    params(("id" = Uuid, Path)),
    responses((status = 200, body = EventDocument), (status = 404, description = "No such event"))
)]
pub(super) async fn withdraw(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<Json<EventDocument>, Problem> {
    judge(&api, &caller, &text, None, None, None, None).await
}

async fn judge(
    api: &Arc<Api>,
    caller: &Caller,
    text: &str,
    verdict: Option<Verdict>,
    cause: Option<Cause>,
    class: Option<String>,
    note: Option<String>,
) -> Result<Json<EventDocument>, Problem> {
    let event = seen(api, caller, text).await?.id;
    let words: Vec<&str> = [verdict.map(Verdict::name), cause.map(Cause::name), class.as_deref()]
        .into_iter()
        .flatten()
        .collect();
    let detail = if words.is_empty() { "withdrawn".to_owned() } else { words.join(" ") };
    // First: what cannot be logged is not done.
    log(api, caller.actor(), "event.verdict", text, detail).await?;
    let given = GivenVerdict {
        id: api.chance.id(&api.clock),
        event,
        verdict,
        cause,
        class,
        note,
        by: caller.actor(),
        now_us: api.clock.now_us(),
    };
    if !api.store.give_verdict(given).await? {
        return Err(missing(text));
    }
    if let Err(error) = api.samples.follow_verdict(&api.clips, event).await {
        warn!(%event, %error, "the sample follows its verdict later");
    }
    let row = api.store.event(event).await?.ok_or_else(|| missing(text))?;
    let kind = if row.alert { "alert" } else { "detection" };
    if let Err(error) = live::show_event(&api.live, &api.store, kind, event).await {
        warn!(%event, %error, "a verdict is not shown live");
    }
    Ok(Json(EventDocument::from(row).shown_to(caller)))
}

/// One word in an event's history.
#[derive(Serialize, ToSchema)]
pub(super) struct VerdictDocument {
    /// `confirmed`, `rejected`, `relabelled` or `withdrawn`.
    verdict: String,
    cause: Option<String>,
    class: Option<String>,
    note: Option<String>,
    /// Who said it.
    by: String,
    at: String,
}

impl From<VerdictRow> for VerdictDocument {
    fn from(row: VerdictRow) -> Self {
        let VerdictRow { verdict, cause, class, note, given_by, given_us, .. } = row;
        Self { verdict, cause, class, note, by: given_by, at: rfc3339(given_us) }
    }
}

/// All that was said of an event.
#[derive(Serialize, ToSchema)]
pub(super) struct VerdictHistory {
    /// Oldest first.
    items: Vec<VerdictDocument>,
    /// The sample made of its recording.
    sample_id: Option<Uuid>,
}

/// All that was ever said of an event, oldest first
#[utoipa::path(
    get,
    path = "/api/v1/detections/{id}/verdict",
    operation_id = "verdict_history",
    tag = "learning",
    params(("id" = Uuid, Path)),
    responses((status = 200, body = VerdictHistory), (status = 404, description = "No such event"))
)]
pub(super) async fn history(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<Json<VerdictHistory>, Problem> {
    let event = seen(&api, &caller, &text).await?.id;
    let items = api.store.verdicts(event).await?.into_iter().map(Into::into).collect();
    let sample_id = api.store.sample_of_event(event).await?.map(|sample| sample.id);
    Ok(Json(VerdictHistory { items, sample_id }))
}

async fn seen(api: &Api, caller: &Caller, text: &str) -> Result<EventRow, Problem> {
    let row = api.store.event(id("id", text)?).await?;
    row.filter(|row| caller.sees(&row.site_id)).ok_or_else(|| missing(text))
}

fn missing(text: &str) -> Problem {
    Problem::not_found(format!("There is no event {text}."))
}

#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ReviewQuery {
    /// Most items, 1 to 500.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 500, default = 50)]
    limit: Option<String>,
}

/// An event that should be judged.
#[derive(Serialize, ToSchema)]
pub(super) struct ReviewItem {
    event: EventDocument,
    /// From 0, the model was as sure as can be, to 1, a toss.
    uncertainty: f64,
    /// How unlike those before it in this list, 0 to 1.
    novelty: f64,
}

/// What to listen to next.
#[derive(Serialize, ToSchema)]
pub(super) struct ReviewList {
    /// The most telling first.
    items: Vec<ReviewItem>,
    /// Events of the last 90 days with a recording that nobody judged, up to 2,000.
    waiting: usize,
}

/// Events that nobody judged and that would teach most
///
/// Those of which the model was least sure, one for each station, class and hour, and each unlike
/// those before it.
#[utoipa::path(
    get,
    path = "/api/v1/review",
    tag = "learning",
    params(ReviewQuery),
    responses((status = 200, body = ReviewList))
)]
pub(super) async fn review(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<ReviewQuery>, QueryRejection>,
) -> Result<Json<ReviewList>, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let limit = limit(query.limit.as_deref())?;
    let since_us = api.clock.now_us() - REVIEW_AGE_US;
    let rows = api.store.unjudged_events(caller.sites(), since_us, REVIEW_POOL).await?;
    let serving = api.inference.serving().ok();
    let threshold = |class: &str| {
        let bundle = serving.as_ref()?.bundle();
        let index = bundle.classes.iter().position(|own| own == class)?;
        let rule = bundle.detector.rules.iter().find(|rule| rule.class == index)?;
        Some(f64::from(rule.threshold))
    };
    let unjudged: Vec<Unjudged> = rows
        .iter()
        .map(|row| {
            let class = row.class.clone().unwrap_or_default();
            let scores: Option<Vec<u8>> =
                row.scores.as_deref().and_then(|scores| serde_json::from_str(scores).ok());
            Unjudged {
                id: row.id,
                device: row.device_id,
                listed_us: row.listed_us,
                score: row.score,
                threshold: threshold(&class).unwrap_or(PLAIN_THRESHOLD),
                scores: scores.unwrap_or_default().into_iter().map(f64::from).collect(),
                class,
            }
        })
        .collect();
    let proposed = propose(&unjudged, usize::from(limit));
    let waiting = rows.len();
    let mut rows: Vec<Option<EventRow>> = rows.into_iter().map(Some).collect();
    let items = proposed
        .into_iter()
        .filter_map(|one| {
            let event = EventDocument::from(rows[one.place].take()?).shown_to(&caller);
            Some(ReviewItem { event, uncertainty: one.uncertainty, novelty: one.novelty })
        })
        .collect();
    Ok(Json(ReviewList { items, waiting }))
}
