//! Before any handler: who asks, how often, and whether they may.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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

use super::address::{Address, client_of};
use super::limit::Limit;
use super::policy::{Need, methods, need};
use super::{Account, Caller, Peer, hashed, secret};
use crate::clock::Clock;
use crate::config::HttpConfig;
use crate::http::Problem;
use crate::store::{Store, StoreError};

/// With this prefix a browser takes the cookie only over TLS (or on the machine itself), for this host
/// alone, and for all of it.
const COOKIE_NAME: &str = "__Host-ecosight";
/// A session that is not used ends after this time…
const SESSION_IDLE: Duration = Duration::from_secs(7 * 24 * 3_600);
/// … and one that is, after this.
pub(crate) const SESSION_AGE: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Failed attempts to log in with one name…
const LOGIN_FAILURES: u32 = 10;
/// … and from one address, where many people may be.
const ADDRESS_FAILURES: u32 = 50;
/// Codes of stations that were none, from one address.
const ENROLMENT_FAILURES: u32 = 10;
const LOGIN_SPAN: Duration = Duration::from_secs(15 * 60);
/// Requests with a key, password or session that nobody has, from one address in a minute. A station
/// whose password has ended comes back every few seconds, and others are behind its address.
const BAD_CREDENTIALS: u32 = 60;
const BAD_CREDENTIALS_SPAN: Duration = Duration::from_secs(60);
/// How long it is believed that there is no account.
const BELIEVED_FOR: Duration = Duration::from_secs(1);
/// Of the ranges that a player asks for, one in this time is a line in the log.
const PLAY_SPAN: Duration = Duration::from_secs(10 * 60);

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
    /// Whether there is an account: then there always is.
    accounts: AtomicBool,
    /// That there is none is believed until then.
    none_until: Mutex<Option<Instant>>,
    trusted_proxies: Vec<IpAddr>,
    requests: Option<Requests>,
    names: Limit,
    addresses: Limit,
    enrolments: Limit,
    plays: Limit,
}

/// How often anybody may ask at all.
struct Requests {
    /// By caller.
    callers: Limit,
    /// With credentials that nobody has, by address.
    bad_credentials: Limit,
}

/// What is tried where somebody has no credentials yet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Attempt<'a> {
    /// A name with a password.
    Login(&'a str),
    /// A station's code.
    Enrolment,
}

impl Guard {
    /// `open`: no other machine can reach the server.
    #[must_use]
    pub fn new(store: Store, clock: Clock, open: bool, config: &HttpConfig) -> Self {
        let requests = config.requests_a_second().map(|rate| Requests {
            callers: Limit::new(rate, Duration::from_secs(1)),
            bad_credentials: Limit::new(BAD_CREDENTIALS, BAD_CREDENTIALS_SPAN),
        });
        let inner = Inner {
            store,
            clock,
            open,
            accounts: AtomicBool::new(false),
            none_until: Mutex::new(None),
            trusted_proxies: config.trusted_proxies.clone(),
            requests,
            names: Limit::new(LOGIN_FAILURES, LOGIN_SPAN),
            addresses: Limit::new(ADDRESS_FAILURES, LOGIN_SPAN),
            enrolments: Limit::new(ENROLMENT_FAILURES, LOGIN_SPAN),
            plays: Limit::new(1, PLAY_SPAN),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Counts an attempt from an address; `Err` says how long to wait.
    pub(crate) fn attempt(&self, what: Attempt<'_>, from: &Address) -> Result<(), Duration> {
        let now = Instant::now();
        match what {
            Attempt::Enrolment => self.inner.enrolments.take(from.name(), now),
            Attempt::Login(name) => {
                self.inner.addresses.take(from.name(), now)?;
                let taken = self.inner.names.take(name, now);
                if taken.is_err() {
                    // It is not evaluated: whoever else is behind the address has no part in it.
                    self.inner.addresses.give_back(from.name());
                }
                taken
            }
        }
    }

    /// It was the right password, or code.
    pub(crate) fn succeeded(&self, what: Attempt<'_>, from: &Address) {
        match what {
            Attempt::Enrolment => self.inner.enrolments.give_back(from.name()),
            Attempt::Login(name) => {
                self.inner.names.give_back(name);
                self.inner.addresses.give_back(from.name());
            }
        }
    }

    /// Whether this is worth a line in the log: the first of a while that this caller hears or sees
    /// this.
    pub(crate) fn begins(&self, caller: &Caller, what: &str) -> bool {
        self.inner.plays.take(&play(caller, what), Instant::now()).is_ok()
    }

    /// The line could not be written.
    pub(crate) fn not_begun(&self, caller: &Caller, what: &str) {
        self.inner.plays.give_back(&play(caller, what));
    }

    fn address(&self, request: &Request) -> Address {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
        Address::of(
            peer.map(|peer| client_of(peer, request.headers(), &self.inner.trusted_proxies)),
        )
    }

    /// Who asks, unless their address brought too many credentials that nobody has: then they are not
    /// even looked up. Those that are being looked up at one time may be more than that by as many.
    async fn known(&self, headers: &HeaderMap, address: &Address) -> Result<Caller, Problem> {
        let limit = self.inner.requests.as_ref().map(|requests| &requests.bad_credentials);
        let limit =
            limit.filter(|_| headers.contains_key(AUTHORIZATION) || token(headers).is_some());
        let count = || {
            if let Some(limit) = limit {
                // The next request looks whether there is one left.
                let _ = limit.take(address.name(), Instant::now());
            }
        };
        if let Some(limit) = limit {
            limit.check(address.name(), Instant::now()).map_err(too_often)?;
        }
        match self.caller(headers).await {
            Ok(caller) => {
                if matches!(caller, Caller::Anonymous) {
                    count();
                }
                Ok(caller)
            }
            Err(Refusal::Unknown) => {
                count();
                Err(unknown())
            }
            Err(Refusal::Store(error)) => Err(error.into()),
        }
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
        if self.inner.open && !self.has_accounts().await? {
            return Ok(Caller::Local);
        }
        Ok(Caller::Anonymous)
    }

    /// Whether there is an account. While there is none every request asks, and the answer is believed
    /// for a moment: an operator who makes the first one from a terminal closes the server that much
    /// later.
    async fn has_accounts(&self) -> Result<bool, StoreError> {
        let inner = &*self.inner;
        if inner.accounts.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let lock = || inner.none_until.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if lock().is_some_and(|until| now < until) {
            return Ok(false);
        }
        let has = inner.store.has_users().await?;
        if has {
            self.accounts_exist();
        } else {
            *lock() = Some(now + BELIEVED_FOR);
        }
        Ok(has)
    }

    /// From now on the server asks everybody who they are.
    pub(crate) fn accounts_exist(&self) {
        self.inner.accounts.store(true, Ordering::Relaxed);
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
    let address = guard.address(&request);
    let caller = match guard.known(request.headers(), &address).await {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    if let Err(problem) = admitted(&guard, &caller, &address, &path, &request) {
        debug!(actor = caller.actor(), path = path.as_str(), "refused");
        return problem.into_response();
    }
    request.extensions_mut().insert(caller);
    request.extensions_mut().insert(address);
    next.run(request).await
}

fn play(caller: &Caller, what: &str) -> String {
    format!("{} {what}", bucket(caller).unwrap_or_default())
}

/// What tells a caller from all others; `None` for those whose address must do. Names will not: two keys
/// may have the same.
fn bucket(caller: &Caller) -> Option<String> {
    match caller {
        Caller::Anonymous | Caller::Local => None,
        Caller::Account(account) => Some(account.id.to_string()),
        Caller::Station { device, .. } => Some(device.to_string()),
    }
}

fn admitted(
    guard: &Guard,
    caller: &Caller,
    address: &Address,
    path: &MatchedPath,
    request: &Request,
) -> Result<(), Problem> {
    if let Some(Requests { callers, .. }) = &guard.inner.requests {
        let who = bucket(caller).unwrap_or_else(|| address.name().to_owned());
        callers.take(&who, Instant::now()).map_err(too_often)?;
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
