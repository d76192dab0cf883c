//! Before any handler: who asks, how often, and whether they may.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{
    ALLOW, AUTHORIZATION, COOKIE, HOST, ORIGIN, RETRY_AFTER, WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;
use tracing::{debug, error};
use uuid::Uuid;

use super::limit::Limit;
use super::policy::{Need, methods, need};
use super::{Account, Caller, hashed, secret};
use crate::clock::Clock;
use crate::http::Problem;
use crate::store::{Store, StoreError};

/// With this prefix a browser takes the cookie only over TLS (or on the machine itself), for this host
/// alone, and for all of it.
const COOKIE_NAME: &str = "__Host-ecosight";
/// A session that is not used ends after this time…
const SESSION_IDLE: Duration = Duration::from_secs(7 * 24 * 3_600);
/// … and one that is, after this.
pub(crate) const SESSION_AGE: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Failed attempts to log in, by name and by address.
const LOGIN_FAILURES: u32 = 10;
const LOGIN_SPAN: Duration = Duration::from_secs(15 * 60);

/// What the guard knows. Cheap to clone.
#[derive(Clone)]
pub struct Guard {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    clock: Clock,
    /// Whether everybody who reaches the server may do everything, as long as there is no account.
    open: bool,
    requests: Option<Limit>,
    logins: Limit,
}

/// The address that a request came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

impl Guard {
    /// `open`: no other machine can reach the server. `rate`: requests a second of one caller; 0 for
    /// any number.
    #[must_use]
    pub fn new(store: Store, clock: Clock, open: bool, rate: u32) -> Self {
        let second = Duration::from_secs(1);
        let requests = (rate > 0).then(|| Limit::new(rate, second));
        let logins = Limit::new(LOGIN_FAILURES, LOGIN_SPAN);
        Self { inner: Arc::new(Inner { store, clock, open, requests, logins }) }
    }

    /// Counts an attempt to log in; `Err` says how long to wait.
    pub(crate) fn attempt(&self, who: &str) -> Result<(), Duration> {
        self.inner.logins.take(who, Instant::now())
    }

    /// It was the right password.
    pub(crate) fn succeeded(&self, who: &str) {
        self.inner.logins.give_back(who);
    }

    /// Who asks.
    async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        if let Some(value) = headers.get(AUTHORIZATION) {
            let value = value.to_str().map_err(|_| Refusal::Unknown)?;
            return self.credential(value).await?.ok_or(Refusal::Unknown);
        }
        if let Some(token) = token(headers)
            && let Some(account) = self.session(token).await?
        {
            return Ok(Caller::Account(account));
        }
        if self.inner.open && !self.inner.store.has_users().await? {
            return Ok(Caller::Local);
        }
        Ok(Caller::Anonymous)
    }

    async fn credential(&self, value: &str) -> Result<Option<Caller>, StoreError> {
        let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
        let store = &self.inner.store;
        let now_us = self.inner.clock.now_us();
        if scheme.eq_ignore_ascii_case("bearer") {
            let key = store.api_key(&hashed(rest), now_us).await?;
            return Ok(key.map(|key| {
                let actor = format!("key:{}", key.name);
                let (id, role, sites) = (key.id, key.role(), key.sites());
                Caller::Account(Account { id, actor, role, sites, by_cookie: false })
            }));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return Ok(None);
        }
        // A station's name is its id, as with the broker.
        let pair = secret::from_base64(rest.trim()).and_then(|pair| String::from_utf8(pair).ok());
        let Some((device, password)) = pair.as_deref().and_then(|pair| pair.split_once(':')) else {
            return Ok(None);
        };
        let Ok(device) = Uuid::try_parse(device) else { return Ok(None) };
        let site = store.station_site(device, &hashed(password)).await?;
        Ok(site.map(|site| Caller::Station { device, site }))
    }

    async fn session(&self, token: &str) -> Result<Option<Account>, StoreError> {
        let now_us = self.inner.clock.now_us();
        let idle_us = i64::try_from(SESSION_IDLE.as_micros()).unwrap_or(i64::MAX);
        let user = self.inner.store.session_user(&hashed(token), now_us, idle_us).await?;
        Ok(user.map(|user| Account {
            id: user.id,
            actor: format!("user:{}", user.name),
            role: user.role(),
            sites: user.sites(),
            by_cookie: true,
        }))
    }
}

/// Why a request is not let through.
enum Refusal {
    /// Credentials that nobody has.
    Unknown,
    Store(StoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Lets a request through to its handler, with its [`Caller`], or answers why not.
pub(crate) async fn guard(
    State(guard): State<Guard>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(path) = request.extensions().get::<MatchedPath>().cloned() else {
        // The page's files, or nothing.
        return next.run(request).await;
    };
    let caller = match guard.caller(request.headers()).await {
        Ok(caller) => caller,
        Err(Refusal::Unknown) => return unknown().into_response(),
        Err(Refusal::Store(error)) => return Problem::from(error).into_response(),
    };
    if let Err(problem) = admitted(&guard, &caller, &path, &request) {
        debug!(actor = caller.actor(), path = path.as_str(), "refused");
        return problem.into_response();
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

fn admitted(
    guard: &Guard,
    caller: &Caller,
    path: &MatchedPath,
    request: &Request,
) -> Result<(), Problem> {
    if let Some(limit) = &guard.inner.requests {
        let who = match caller {
            Caller::Anonymous | Caller::Local => address(request),
            known => known.actor(),
        };
        limit.take(&who, Instant::now()).map_err(too_often)?;
    }
    let method = request.method();
    let may = match need(method, path.as_str()) {
        Some(Need::Nothing) => true,
        Some(Need::Account) => matches!(caller, Caller::Account(_)),
        Some(Need::May(permission)) => caller.may(permission),
        Some(Need::Either(one, other)) => caller.may(one) || caller.may(other),
        None => return Err(unruled(method, path.as_str())),
    };
    if !may {
        return Err(match caller {
            Caller::Anonymous => unknown(),
            _ => Problem::new(StatusCode::FORBIDDEN, "Your role does not allow this."),
        });
    }
    // A browser sends the cookie, and reaches this machine, whoever made it ask.
    let by_browser = match caller {
        Caller::Account(account) => account.by_cookie,
        Caller::Local => true,
        Caller::Anonymous | Caller::Station { .. } => false,
    };
    if by_browser && !method.is_safe() && is_foreign(request.headers()) {
        return Err(Problem::new(StatusCode::FORBIDDEN, "Another site's page asked for this."));
    }
    Ok(())
}

/// A method that the path does not take, or a route that nobody gave a rule: no handler sees it.
fn unruled(method: &Method, path: &str) -> Problem {
    let taken: Vec<&str> = methods(path).map(Method::as_str).collect();
    if taken.is_empty() {
        error!(%method, path, "a route without a rule; refused");
        return Problem::new(StatusCode::FORBIDDEN, "Nobody may use this address.");
    }
    let problem = Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("This address takes {}.", taken.join(", ")),
    );
    match HeaderValue::try_from(taken.join(", ")) {
        Ok(taken) => problem.with(ALLOW, taken),
        Err(_) => problem,
    }
}

/// Whether a page of another origin made the browser ask.
fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |value: &HeaderValue| value.to_str().unwrap_or("").to_ascii_lowercase();
    if let Some(site) = headers.get("sec-fetch-site").map(text)
        && site != "same-origin"
        && site != "none"
    {
        return true;
    }
    let (Some(origin), host) = (headers.get(ORIGIN).map(text), headers.get(HOST).map(text)) else {
        return false;
    };
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    authority != host.as_deref()
}

fn unknown() -> Problem {
    Problem::new(
        StatusCode::UNAUTHORIZED,
        "Say who you are: log in, or send an API key as Authorization: Bearer.",
    )
    .with(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
}

pub(crate) fn too_often(wait: Duration) -> Problem {
    let wait_s = wait.as_secs().saturating_add(1).min(3_600);
    Problem::new(StatusCode::TOO_MANY_REQUESTS, format!("Too often; wait {wait_s} s."))
        .with(RETRY_AFTER, wait_s.into())
}

/// The caller's address: a network of /64 counts as one.
fn address(request: &Request) -> String {
    match request.extensions().get::<Peer>().map(|peer| peer.0.ip()) {
        Some(IpAddr::V6(ip)) => {
            let [a, b, c, d, ..] = ip.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
        Some(ip) => ip.to_string(),
        None => "unknown".into(),
    }
}

fn token(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    cookies.flat_map(|line| line.split(';')).find_map(|cookie| {
        let (name, value) = cookie.trim().split_once('=')?;
        (name == COOKIE_NAME).then_some(value)
    })
}

/// The cookie that carries a session.
pub(crate) fn cookie(token: &str) -> String {
    let age_s = SESSION_AGE.as_secs();
    format!("{COOKIE_NAME}={token}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={age_s}")
}

/// The cookie that ends it.
pub(crate) fn expired_cookie() -> String {
    format!("{COOKIE_NAME}=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0")
}

/// The token of a request's session.
pub(crate) fn session_token(headers: &HeaderMap) -> Option<String> {
    token(headers).map(str::to_owned)
}
