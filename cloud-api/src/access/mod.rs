//! Path: http → **access** → handlers
//!
//! Who is asking, and whether they may. Every route stands in one table, [`policy`]; what is not in it
//! is refused. [`guard`] finds the caller and looks the route up before any handler runs.

mod address;
mod guard;
mod limit;
mod password;
pub mod policy;
mod secret;
mod topics;

use std::net::SocketAddr;

use uuid::Uuid;

pub(crate) use address::{Address, Peer};
pub use guard::Guard;
pub(crate) use guard::{
    Attempt, SESSION_AGE, cookie, expired_cookie, guard, session_token, too_often,
};
pub use password::Passwords;
pub(crate) use secret::hashed;
pub use secret::{Secret, mosquitto_hash};
pub use topics::Topics;

/// What a caller may do; each contains those of viewers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
    /// Judges sounds and trains models.
    Reviewer,
    /// Sees where stations are, hears recordings.
    Ranger,
    /// Enrols, configures and retires stations.
    Technician,
    /// Sees what happens, and roughly where.
    Viewer,
}

/// What a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// To see events and stations.
    See,
    /// To hear recordings.
    Hear,
    /// To classify files.
    Predict,
    /// To say what an event was, and to report what no station heard.
    Judge,
    /// To add samples, to train, and to choose the model that serves.
    Teach,
    /// To enrol, configure and retire stations.
    Manage,
    /// To make accounts and keys, and to read the audit log.
    Administer,
    /// To send recordings, as stations do.
    Record,
}

/// Who is asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Anybody on this machine, while there are no accounts.
    Local,
    /// Somebody who did not say who they are.
    Anonymous,
    /// A person, or a program with a key.
    Account(Account),
    /// A station.
    Station {
        /// Which.
        device: Uuid,
        /// Where it was enrolled.
        site: String,
    },
}

/// A person or a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Of the user or the key.
    pub id: Uuid,
    /// As the audit log has it: `user:NAME` or `key:NAME`.
    pub actor: String,
    /// What it may do.
    pub role: Role,
    /// The sites it may see; `None` for all.
    pub sites: Option<Vec<String>>,
    /// Whether it came with a cookie, which a browser sends whoever made it ask.
    pub by_cookie: bool,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 5] =
        [Self::Admin, Self::Reviewer, Self::Ranger, Self::Technician, Self::Viewer];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Reviewer => "reviewer",
            Self::Ranger => "ranger",
            Self::Technician => "technician",
            Self::Viewer => "viewer",
        }
    }

    /// Whether it contains a permission.
    #[must_use]
    pub const fn has(self, permission: Permission) -> bool {
        match permission {
            Permission::See | Permission::Predict => true,
            Permission::Hear | Permission::Judge => {
                matches!(self, Self::Admin | Self::Reviewer | Self::Ranger)
            }
            Permission::Teach => matches!(self, Self::Admin | Self::Reviewer),
            Permission::Manage => matches!(self, Self::Admin | Self::Technician),
            Permission::Administer | Permission::Record => matches!(self, Self::Admin),
        }
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|role| role.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|role| role.name()).collect();
            format!("{text:?} is no role; there are {}", names.join(", "))
        })
    }
}

impl Caller {
    /// Whether the caller may do what a permission names.
    #[must_use]
    pub fn may(&self, permission: Permission) -> bool {
        match self {
            Self::Local => true,
            Self::Anonymous => false,
            Self::Account(account) => account.role.has(permission),
            Self::Station { .. } => permission == Permission::Record,
        }
    }

    /// Whether the caller may know exactly where stations are.
    #[must_use]
    pub fn sees_positions(&self) -> bool {
        match self {
            Self::Account(account) => account.role != Role::Viewer,
            Self::Local => true,
            Self::Anonymous | Self::Station { .. } => false,
        }
    }

    /// The sites that the caller may see; `None` for all.
    #[must_use]
    pub fn sites(&self) -> Option<&[String]> {
        match self {
            Self::Account(account) => account.sites.as_deref(),
            Self::Station { site, .. } => Some(std::slice::from_ref(site)),
            Self::Local | Self::Anonymous => None,
        }
    }

    /// Whether the caller may see what belongs to a site.
    #[must_use]
    pub fn sees(&self, site: &str) -> bool {
        self.sites().is_none_or(|sites| sites.iter().any(|own| own == site))
    }

    /// As the audit log has it.
    #[must_use]
    pub fn actor(&self) -> String {
        match self {
            Self::Local => "local".into(),
            Self::Anonymous => "anonymous".into(),
            Self::Account(account) => account.actor.clone(),
            Self::Station { device, .. } => format!("station:{device}"),
        }
    }
}

/// Whether a server that listens there may do without accounts.
#[must_use]
pub fn is_private(address: SocketAddr) -> bool {
    address.ip().is_loopback()
}
