//! The parts of the server: together in one process, or apart in many.

use std::fmt;
use std::str::FromStr;

/// A part of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The API and the page.
    Http,
    /// Takes in what stations send, and warns rangers.
    Ingest,
    /// Trains, and tidies up.
    Worker,
}

/// The parts that one process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roles(Vec<Role>);

impl Role {
    /// All parts.
    pub const ALL: [Self; 3] = [Self::Http, Self::Ingest, Self::Worker];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Ingest => "ingest",
            Self::Worker => "worker",
        }
    }
}

impl Roles {
    /// Whether the process runs this part.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.0.contains(&role)
    }

    /// Whether the process runs everything.
    #[must_use]
    pub fn are_all(&self) -> bool {
        Role::ALL.iter().all(|role| self.has(*role))
    }
}

impl FromStr for Roles {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let role = |name: &str| {
            let known = Role::ALL.into_iter().find(|role| role.name() == name.trim());
            known.ok_or_else(|| format!("{name:?} is no role; there are http, ingest and worker"))
        };
        text.split(',').map(role).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.iter().map(|role| role.name()).collect();
        f.write_str(&names.join(","))
    }
}
