//! People and programs: logging in, users, keys, the audit log.

use std::sync::Arc;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use axum::http::header::{CACHE_CONTROL, SET_COOKIE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Json, http};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::events::{All, id, limit, time};
use super::{Api, Problem};
use crate::access::{
    Account, Address, Attempt, Caller, Role, SESSION_AGE, Secret, cookie, expired_cookie, hashed,
    session_token, too_often,
};
use crate::clock::rfc3339;
use crate::samples::checked_name;
use crate::store::{AuditRow, Deed, KeyRow, NewKey, NewUser, UserRow};

/// Who wants in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    name: String,
    password: String,
}

/// Who is asking, and what they may do.
#[derive(Serialize, ToSchema)]
pub(super) struct Me {
    /// `local` while there are no accounts, `anonymous`, `user:NAME`, `key:NAME` or `station:ID`.
    actor: String,
    /// One of the roles; `null` for those who have none.
    role: Option<&'static str>,
    /// The sites that may be seen; `null` for all.
    sites: Option<Vec<String>>,
    /// Whether the server asks for accounts at all.
    accounts: bool,
}

/// Logs in, and sets the cookie
#[utoipa::path(
    post,
    path = "/api/v1/login",
    tag = "accounts",
    request_body = Login,
    responses(
        (status = 200, body = Me),
        (status = 401, description = "Not this name, or not this password"),
        (status = 429, description = "Too many attempts; Retry-After says when to come back"),
    )
)]
pub(super) async fn login(
    State(api): State<Arc<Api>>,
    Extension(address): Extension<Address>,
    headers: HeaderMap,
    body: Result<Json<Login>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(Login { name, password }) = body.map_err(|error| Problem::of_json(&error))?;
    let name = super::events::plain("name", Some(name))?.unwrap_or_default();
    api.guard.attempt(Attempt::Login(&name), &address).map_err(too_often)?;
    let user = api.store.user_named(&name).await?;
    let hash = user.as_ref().map(|user| user.password.as_str());
    let user = match (api.passwords.verify(&password, hash).await, user) {
        (true, Some(user)) => user,
        _ => {
            let detail = format!("as {}", shortened(&name));
            log(&api, "anonymous".into(), "login.failed", "", detail).await?;
            return Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "There is no such user with this password.",
            ));
        }
    };
    api.guard.succeeded(Attempt::Login(&name), &address);
    if let Some(old) = session_token(&headers) {
        api.store.end_session(hashed(&old)).await?;
    }
    let (token, now_us) = (Secret::session(&api.chance), api.clock.now_us());
    let expires_us = now_us + SESSION_AGE.as_micros() as i64;
    api.store.begin_session(token.hashed(), user.id, now_us, expires_us).await?;
    let actor = format!("user:{}", user.name);
    log(&api, actor.clone(), "login", "", String::new()).await?;
    let (role, sites) = (Some(user.role().name()), user.sites());
    let me = Me { actor, role, sites, accounts: true };
    let headers = [(SET_COOKIE, cookie(token.reveal())), (CACHE_CONTROL, "no-store".into())];
    Ok((headers, Json(me)).into_response())
}

fn shortened(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// Logs out
#[utoipa::path(
    post,
    path = "/api/v1/logout",
    tag = "accounts",
    responses((status = 204, description = "The session has ended"))
)]
pub(super) async fn logout(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if let Some(token) = session_token(&headers) {
        api.store.end_session(hashed(&token)).await?;
    }
    Ok((StatusCode::NO_CONTENT, [(SET_COOKIE, expired_cookie())]).into_response())
}

/// Who is asking, and what they may do
#[utoipa::path(get, path = "/api/v1/me", tag = "accounts", responses((status = 200, body = Me)))]
pub(super) async fn me(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Problem> {
    let role = match &caller {
        Caller::Local => Some(Role::Admin.name()),
        Caller::Account(account) => Some(account.role.name()),
        Caller::Anonymous | Caller::Station { .. } => None,
    };
    let accounts = !matches!(caller, Caller::Local) || api.store.has_users().await?;
    let sites = caller.sites().map(<[String]>::to_vec);
    let me = Me { actor: caller.actor(), role, sites, accounts };
    Ok(([(CACHE_CONTROL, "no-store")], Json(me)).into_response())
}

/// A change of one's own password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPassword {
    old: String,
    #[schema(min_length = 12)]
    new: String,
}

/// Changes one's own password, and ends all one's sessions
#[utoipa::path(
    put,
    path = "/api/v1/me/password",
    tag = "accounts",
    request_body = NewPassword,
    responses((status = 204), (status = 422, description = "Too short, or not the old one"))
)]
pub(super) async fn change_password(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Extension(address): Extension<Address>,
    body: Result<Json<NewPassword>, JsonRejection>,
) -> Result<StatusCode, Problem> {
    let Json(NewPassword { old, new }) = body.map_err(|error| Problem::of_json(&error))?;
    let Caller::Account(Account { id, actor, by_cookie: true, .. }) = caller else {
        return Err(Problem::new(StatusCode::FORBIDDEN, "A key has no password; make a new key."));
    };
    api.guard.attempt(Attempt::Login(&actor), &address).map_err(too_often)?;
    let users = api.store.users().await?;
    let user = users.iter().find(|user| user.id == id);
    if !api.passwords.verify(&old, user.map(|user| user.password.as_str())).await {
        return Err(unprocessable("old: this is not your password."));
    }
    api.guard.succeeded(Attempt::Login(&actor), &address);
    let hash = api.passwords.hash(&new, &api.chance).await.map_err(unprocessable)?;
    api.store.set_password(id, hash).await?;
    log(&api, actor, "password.change", "", String::new()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A user.
#[derive(Serialize, ToSchema)]
pub(super) struct UserDocument {
    id: Uuid,
    name: String,
    role: String,
    sites: Option<Vec<String>>,
    created_at: String,
    disabled_at: Option<String>,
}

impl From<UserRow> for UserDocument {
    fn from(row: UserRow) -> Self {
        Self {
            sites: row.sites(),
            id: row.id,
            name: row.name,
            role: row.role,
            created_at: rfc3339(row.created_us),
            disabled_at: row.disabled_us.map(rfc3339),
        }
    }
}

/// A user to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UserBody {
    name: String,
    #[schema(min_length = 12)]
    password: String,
    /// `admin`, `reviewer`, `ranger`, `technician` or `viewer`.
    role: String,
    /// The sites that may be seen; left out for all.
    sites: Option<Vec<String>>,
}

/// All users that the caller could have made
#[utoipa::path(
    get,
    path = "/api/v1/users",
    tag = "accounts",
    responses((status = 200, body = All<UserDocument>))
)]
pub(super) async fn users(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<All<UserDocument>>, Problem> {
    let mut users = api.store.users().await?;
    users.retain(|user| is_within(&caller, user.sites().as_deref()));
    Ok(Json(All::of(users)))
}

/// Makes a user
#[utoipa::path(
    post,
    path = "/api/v1/users",
    tag = "accounts",
    request_body = UserBody,
    responses(
        (status = 201, body = UserDocument),
        (status = 403, description = "The account could see sites that the caller may not"),
        (status = 409, description = "The name is taken"),
        (status = 422, description = "Name, password, role or sites cannot be used"),
    )
)]
pub(super) async fn create_user(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    body: Result<Json<UserBody>, JsonRejection>,
) -> Result<(StatusCode, Json<UserDocument>), Problem> {
    let Json(body) = body.map_err(|error| Problem::of_json(&error))?;
    let name = checked_name("name", &body.name)?;
    let role: Role = body.role.parse().map_err(unprocessable)?;
    let sites = checked_sites(body.sites)?;
    within(&caller, sites.as_deref())?;
    if matches!(caller, Caller::Local) && role != Role::Admin && !api.store.has_users().await? {
        return Err(unprocessable(
            "role: the first account closes the server for everybody else; make it an admin.",
        ));
    }
    let password = api.passwords.hash(&body.password, &api.chance).await.map_err(unprocessable)?;
    let (id, now_us) = (api.chance.id(&api.clock), api.clock.now_us());
    let user = NewUser { id, name, password, role, sites, now_us };
    let Some(user) = api.store.create_user(user).await? else {
        return Err(Problem::new(StatusCode::CONFLICT, "name: there is a user with this name."));
    };
    api.guard.accounts_exist();
    let target = format!("user:{}", user.name);
    log(&api, caller.actor(), "user.create", &target, user.role.clone()).await?;
    Ok((StatusCode::CREATED, Json(user.into())))
}

/// Disables a user and ends their sessions
#[utoipa::path(
    delete,
    path = "/api/v1/users/{id}",
    tag = "accounts",
    params(("id" = Uuid, Path)),
    responses((status = 204), (status = 409, description = "No such user, or the last administrator"))
)]
pub(super) async fn disable_user(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<StatusCode, Problem> {
    let user = id("id", &text)?;
    let users = api.store.users().await?;
    let known = users.iter().find(|known| known.id == user);
    let own = known.is_some_and(|known| is_within(&caller, known.sites().as_deref()));
    if !own || !api.store.disable_user(user, api.clock.now_us()).await? {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "There is no such user who could log in, or it is the last administrator.",
        ));
    }
    log(&api, caller.actor(), "user.disable", &text, String::new()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// An API key; the secret is nowhere.
#[derive(Serialize, ToSchema)]
pub(super) struct KeyDocument {
    id: Uuid,
    name: String,
    role: String,
    sites: Option<Vec<String>>,
    created_at: String,
    created_by: String,
    expires_at: Option<String>,
    revoked_at: Option<String>,
    /// The secret, in the answer that makes the key and never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl From<KeyRow> for KeyDocument {
    fn from(row: KeyRow) -> Self {
        Self {
            sites: row.sites(),
            id: row.id,
            name: row.name,
            role: row.role,
            created_at: rfc3339(row.created_us),
            created_by: row.created_by,
            expires_at: row.expires_us.map(rfc3339),
            revoked_at: row.revoked_us.map(rfc3339),
            secret: None,
        }
    }
}

/// A key to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyBody {
    /// What it is for.
    name: String,
    /// `admin`, `reviewer`, `ranger`, `technician` or `viewer`.
    role: String,
    /// The sites that may be seen; left out for all.
    sites: Option<Vec<String>>,
    /// When it ends, RFC 3339; left out for never.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

/// All keys that the caller could have made, newest first
#[utoipa::path(
    get,
    path = "/api/v1/keys",
    tag = "accounts",
    responses((status = 200, body = All<KeyDocument>))
)]
pub(super) async fn keys(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<All<KeyDocument>>, Problem> {
    let mut keys = api.store.keys().await?;
    keys.retain(|key| is_within(&caller, key.sites().as_deref()));
    Ok(Json(All::of(keys)))
}

/// Makes a key, whose secret is shown once
#[utoipa::path(
    post,
    path = "/api/v1/keys",
    tag = "accounts",
    request_body = KeyBody,
    responses(
        (status = 201, body = KeyDocument),
        (status = 403, description = "The key could see sites that the caller may not"),
        (status = 422, description = "Cannot be used"),
    )
)]
pub(super) async fn create_key(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    body: Result<Json<KeyBody>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(body) = body.map_err(|error| Problem::of_json(&error))?;
    let sites = checked_sites(body.sites)?;
    within(&caller, sites.as_deref())?;
    let secret = Secret::key(&api.chance);
    let key = NewKey {
        id: api.chance.id(&api.clock),
        name: checked_name("name", &body.name)?,
        secret_sha256: secret.hashed(),
        role: body.role.parse().map_err(unprocessable)?,
        sites,
        created_by: caller.actor(),
        expires_us: time("expires_at", body.expires_at.as_deref())?,
        now_us: api.clock.now_us(),
    };
    let key = api.store.create_key(key).await?;
    let target = format!("key:{}", key.name);
    log(&api, caller.actor(), "key.create", &target, key.role.clone()).await?;
    let document = KeyDocument { secret: Some(secret.reveal().to_owned()), ..key.into() };
    Ok((StatusCode::CREATED, [(CACHE_CONTROL, "no-store")], Json(document)).into_response())
}

/// Revokes a key
#[utoipa::path(
    delete,
    path = "/api/v1/keys/{id}",
    tag = "accounts",
    params(("id" = Uuid, Path)),
    responses((status = 204), (status = 404, description = "No such key"))
)]
pub(super) async fn revoke_key(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<StatusCode, Problem> {
    let key = id("id", &text)?;
    let keys = api.store.keys().await?;
    let known = keys.iter().find(|known| known.id == key);
    let own = known.is_some_and(|known| is_within(&caller, known.sites().as_deref()));
    if !own || !api.store.revoke_key(key, api.clock.now_us()).await? {
        return Err(Problem::not_found("There is no such key that could be used."));
    }
    log(&api, caller.actor(), "key.revoke", &text, String::new()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A line of the audit log.
#[derive(Serialize, ToSchema)]
pub(super) struct AuditLine {
    number: i64,
    time: String,
    actor: String,
    action: String,
    target: String,
    detail: String,
    /// Over this line and the one before.
    hash: String,
}

impl From<AuditRow> for AuditLine {
    fn from(row: AuditRow) -> Self {
        Self {
            number: row.number,
            time: rfc3339(row.at_us),
            actor: row.actor,
            action: row.action,
            target: row.target,
            detail: row.detail,
            hash: row.hash,
        }
    }
}

/// Lines of the log.
#[derive(Serialize, ToSchema)]
pub(super) struct AuditPage {
    items: Vec<AuditLine>,
    /// As `before` of the next page; `null` if this is the last.
    next: Option<i64>,
}

#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditQuery {
    /// Only lines before this one.
    #[param(value_type = Option<i64>)]
    before: Option<String>,
    /// Most items of a page, 1 to 500.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 500, default = 50)]
    limit: Option<String>,
}

/// What was done, newest first
#[utoipa::path(
    get,
    path = "/api/v1/audit",
    tag = "accounts",
    params(AuditQuery),
    responses((status = 200, body = AuditPage))
)]
pub(super) async fn audit(
    State(api): State<Arc<Api>>,
    query: Result<Query<AuditQuery>, QueryRejection>,
) -> Result<Json<AuditPage>, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let number = |text: String| {
        text.parse().map_err(|_| Problem::bad_request("before: expected the number of a line."))
    };
    let before = query.before.map(number).transpose()?;
    let limit = limit(query.limit.as_deref())?;
    let rows = api.store.deeds(before, i64::from(limit)).await?;
    let next = rows.last().map(|row| row.number).filter(|number| *number > 1);
    Ok(Json(AuditPage { items: rows.into_iter().map(AuditLine::from).collect(), next }))
}

/// Adds a line to the audit log.
pub(super) async fn log(
    api: &Api,
    actor: String,
    action: &'static str,
    target: &str,
    detail: String,
) -> Result<(), Problem> {
    let (at_us, target) = (api.clock.now_us(), target.to_owned());
    Ok(api.store.log_deed(Deed { at_us, actor, action, target, detail }).await?)
}

/// Notes that somebody hears or sees a sound, once in a while for each of them: a player asks for many
/// ranges. A station that fetches its own recording is nobody.
pub(super) async fn note_play(
    api: &Api,
    caller: &Caller,
    action: &'static str,
    target: Uuid,
) -> Result<(), Problem> {
    let (target, what) = (target.to_string(), format!("{action} {target}"));
    if matches!(caller, Caller::Station { .. }) || !api.guard.begins(caller, &what) {
        return Ok(());
    }
    let logged = log(api, caller.actor(), action, &target, String::new()).await;
    if logged.is_err() {
        api.guard.not_begun(caller, &what);
    }
    logged
}

pub(super) fn checked_sites(sites: Option<Vec<String>>) -> Result<Option<Vec<String>>, Problem> {
    let Some(sites) = sites else { return Ok(None) };
    for site in &sites {
        super::fleet::checked_site(site)?;
    }
    Ok(Some(sites))
}

/// An account for some sites gives nobody more than it has itself.
fn within(caller: &Caller, sites: Option<&[String]>) -> Result<(), Problem> {
    if is_within(caller, sites) {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "sites: your account is for some sites; name those of them that may be seen.",
    ))
}

fn is_within(caller: &Caller, sites: Option<&[String]>) -> bool {
    caller.sites().is_none()
        || sites.is_some_and(|sites| sites.iter().all(|site| caller.sees(site)))
}

pub(super) fn unprocessable(detail: impl Into<String>) -> Problem {
    Problem::new(http::StatusCode::UNPROCESSABLE_ENTITY, detail)
}
