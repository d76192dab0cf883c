//! What every route needs. A route that is not here is refused, and a test fails.

use axum::http::Method;

use super::Permission;

/// What a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: what it says is no secret.
    Nothing,
    /// A caller who said who they are, and is no station.
    Account,
    /// A permission.
    May(Permission),
    /// One of two permissions.
    Either(Permission, Permission),
}

use Need::{Account, Either, May, Nothing};
use Permission::{Administer, Hear, Judge, Manage, Predict, Record, See, Teach};

const GET: Method = Method::GET;
const HEAD: Method = Method::HEAD;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const PATCH: Method = Method::PATCH;
const DELETE: Method = Method::DELETE;

/// Every route with its need.
pub const POLICY: &[(Method, &str, Need)] = &[
    (GET, "/", Nothing),
    (GET, "/health", Nothing),
    (GET, "/livez", Nothing),
    (GET, "/readyz", Nothing),
    (GET, "/openapi.json", Nothing),
    (GET, "/docs", Nothing),
    (GET, "/docs/{file}", Nothing),
    (GET, "/status", May(See)),
    (GET, "/metrics", May(See)),
    (GET, "/metrics/prometheus", May(See)),
    (GET, "/training-history", May(See)),
    (POST, "/predict", May(Predict)),
    (POST, "/upload", May(Teach)),
    (POST, "/retrain", May(Teach)),
    (GET, "/api/v1/system", May(See)),
    (GET, "/api/v1/model/metrics", May(See)),
    (GET, "/api/v1/alerts", May(See)),
    (GET, "/api/v1/alerts/{id}", May(See)),
    (POST, "/api/v1/alerts/{id}/acknowledge", May(Judge)),
    (GET, "/api/v1/detections", May(See)),
    (GET, "/api/v1/detections/{id}", May(See)),
    (GET, "/api/v1/detections/{id}/verdict", May(See)),
    (PUT, "/api/v1/detections/{id}/verdict", May(Judge)),
    (DELETE, "/api/v1/detections/{id}/verdict", May(Judge)),
    (GET, "/api/v1/review", May(Judge)),
    (GET, "/api/v1/missed-shots", May(Judge)),
    (POST, "/api/v1/missed-shots", May(Judge)),
    (PUT, "/api/v1/missed-shots/{id}/verdict", May(Judge)),
    (GET, "/api/v1/models", May(See)),
    (GET, "/api/v1/models/compare", May(See)),
    (POST, "/api/v1/models/rollback", May(Teach)),
    // A stranger's networks run on this server.
    (POST, "/api/v1/models/import", May(Administer)),
    (GET, "/api/v1/models/{id}", May(See)),
    (POST, "/api/v1/models/{id}/activate", May(Teach)),
    (GET, "/api/v1/models/{id}/export", May(Teach)),
    (GET, "/api/v1/live", May(See)),
    (GET, "/api/v1/export/{format}", May(Hear)),
    (GET, "/api/v1/devices", May(See)),
    (GET, "/api/v1/devices/{id}", May(See)),
    (DELETE, "/api/v1/devices/{id}", May(Manage)),
    (GET, "/api/v1/devices/{id}/telemetry", May(See)),
    (GET, "/api/v1/devices/{id}/updates", May(See)),
    (GET, "/api/v1/devices/{id}/desired", Either(Manage, Record)),
    (PUT, "/api/v1/devices/{id}/desired", May(Manage)),
    (GET, "/api/v1/devices/{id}/commands", May(Manage)),
    (POST, "/api/v1/devices/{id}/commands", May(Manage)),
    (POST, "/api/v1/enrolments", May(Manage)),
    // The code is the credential.
    (POST, "/api/v1/enrol", Nothing),
    (GET, "/api/v1/sites", May(See)),
    (PUT, "/api/v1/sites/{id}", May(Manage)),
    (POST, "/api/v1/clips", May(Record)),
    (GET, "/api/v1/clips/{id}/data", Either(Hear, Record)),
    (HEAD, "/api/v1/clips/{id}/data", Either(Hear, Record)),
    (PUT, "/api/v1/clips/{id}/data", May(Record)),
    (GET, "/api/v1/clips/{id}/peaks", May(Hear)),
    (GET, "/api/v1/clips/{id}/spectrogram", May(Hear)),
    (GET, "/api/v1/samples", May(Teach)),
    (GET, "/api/v1/samples/{id}", May(Teach)),
    (PATCH, "/api/v1/samples/{id}", May(Teach)),
    (DELETE, "/api/v1/samples/{id}", May(Teach)),
    (GET, "/api/v1/samples/{id}/data", May(Teach)),
    (GET, "/api/v1/labels", May(Teach)),
    (GET, "/api/v1/jobs", May(See)),
    (GET, "/api/v1/jobs/{id}", May(See)),
    (GET, "/api/v1/releases", May(See)),
    (POST, "/api/v1/releases", May(Manage)),
    (GET, "/api/v1/releases/{id}", May(See)),
    (GET, "/api/v1/releases/{id}/files/{sha256}", Either(Manage, Record)),
    (GET, "/api/v1/rollouts", May(See)),
    (POST, "/api/v1/rollouts", May(Manage)),
    (GET, "/api/v1/rollouts/{id}", May(See)),
    (GET, "/api/v1/rollouts/{id}/devices", May(See)),
    (POST, "/api/v1/rollouts/{id}/start", May(Manage)),
    (POST, "/api/v1/rollouts/{id}/pause", May(Manage)),
    (POST, "/api/v1/rollouts/{id}/resume", May(Manage)),
    (POST, "/api/v1/rollouts/{id}/halt", May(Manage)),
    (POST, "/api/v1/rollouts/{id}/rollback", May(Manage)),
    (POST, "/api/v1/login", Nothing),
    (POST, "/api/v1/logout", Nothing),
    (GET, "/api/v1/me", Nothing),
    (PUT, "/api/v1/me/password", Account),
    (GET, "/api/v1/users", May(Administer)),
    (POST, "/api/v1/users", May(Administer)),
    (DELETE, "/api/v1/users/{id}", May(Administer)),
    (GET, "/api/v1/keys", May(Administer)),
    (POST, "/api/v1/keys", May(Administer)),
    (DELETE, "/api/v1/keys/{id}", May(Administer)),
    (GET, "/api/v1/audit", May(Administer)),
];

/// What a route needs; `None` if it stands nowhere.
#[must_use]
pub fn need(method: &Method, path: &str) -> Option<Need> {
    let stands = |wanted: &Method| {
        let mut lines = POLICY.iter();
        lines.find(|(method, line, _)| method == wanted && *line == path).map(|line| line.2)
    };
    // axum answers HEAD by GET where there is no other handler.
    stands(method).or_else(|| (*method == HEAD).then(|| stands(&GET)).flatten())
}

/// The methods that a path takes.
pub(super) fn methods(path: &str) -> impl Iterator<Item = &'static Method> + use<'_> {
    POLICY.iter().filter(move |(_, line, _)| *line == path).map(|(method, _, _)| method)
}
