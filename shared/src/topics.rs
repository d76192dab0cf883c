//! The MQTT topic tree: built and parsed here only.
//!
//! ```text
//! ecosight/v1/{site}/{device}/up           envelopes from the station
//! ecosight/v1/{site}/{device}/receipt      envelopes to the station
//! ecosight/v1/{site}/{device}/alert        JSON for people's tools on site
//! ecosight/v1/{site}/{device}/status       JSON, retained, last will
//! ecosight/v1/{site}/{device}/desired      JSON, retained: model and configuration wanted
//! ecosight/v1/{site}/{device}/update       JSON, retained: how the station's newest update goes
//! ecosight/v1/{site}/{device}/cmd/{name}   JSON to the station
//! ecosight/v1/{site}/{device}/reply        JSON from the station
//! ecosight/v1/{site}/alerts/{class}        JSON, enriched, from the cloud to rangers
//! ```

use core::fmt;

use crate::{DeviceId, Slug};

const ROOT: &str = "ecosight/v1";

/// A topic of the tree. `Display` builds it, [`Topic::parse`] takes it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic<'a> {
    /// Envelopes from the station.
    Up(&'a str, DeviceId),
    /// Envelopes to the station.
    Receipt(&'a str, DeviceId),
    /// JSON alert from the station itself.
    Alert(&'a str, DeviceId),
    /// Retained JSON status and last will.
    Status(&'a str, DeviceId),
    /// Retained JSON: what the station should run.
    Desired(&'a str, DeviceId),
    /// Retained JSON: how the station's newest update goes.
    Update(&'a str, DeviceId),
    /// JSON command to the station, by name.
    Command(&'a str, DeviceId, &'a str),
    /// JSON answer of the station.
    Reply(&'a str, DeviceId),
    /// JSON alert of the cloud, by site and class.
    SiteAlert(&'a str, &'a str),
}

/// The topic is not part of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseTopicError;

impl Topic<'_> {
    /// Filter for the envelopes of every station.
    pub const ALL_UP: &'static str = "ecosight/v1/+/+/up";
    /// Filter for the status of every station.
    pub const ALL_STATUS: &'static str = "ecosight/v1/+/+/status";
    /// Filter for the answers of every station.
    pub const ALL_REPLY: &'static str = "ecosight/v1/+/+/reply";
    /// Filter for the updates of every station.
    pub const ALL_UPDATES: &'static str = "ecosight/v1/+/+/update";
    /// Filter for the alerts of the cloud, every site and class.
    pub const ALL_SITE_ALERTS: &'static str = "ecosight/v1/+/alerts/+";

    /// Takes a topic name apart.
    ///
    /// # Errors
    /// [`ParseTopicError`] if it is not of the tree, or a site or device in it is malformed.
    pub fn parse(topic: &str) -> Result<Topic<'_>, ParseTopicError> {
        let rest = topic.strip_prefix(ROOT).and_then(|rest| rest.strip_prefix('/'));
        let (site, rest) = rest.and_then(|rest| rest.split_once('/')).ok_or(ParseTopicError)?;
        if !Slug::is_valid(site) {
            return Err(ParseTopicError);
        }
        let (device, leaf) = rest.split_once('/').ok_or(ParseTopicError)?;
        if device == "alerts" {
            return if is_segment(leaf) {
                Ok(Topic::SiteAlert(site, leaf))
            } else {
                Err(ParseTopicError)
            };
        }
        let device = device.parse().map_err(|_| ParseTopicError)?;
        match leaf {
            "up" => Ok(Topic::Up(site, device)),
            "receipt" => Ok(Topic::Receipt(site, device)),
            "alert" => Ok(Topic::Alert(site, device)),
            "status" => Ok(Topic::Status(site, device)),
            "desired" => Ok(Topic::Desired(site, device)),
            "update" => Ok(Topic::Update(site, device)),
            "reply" => Ok(Topic::Reply(site, device)),
            _ => match leaf.strip_prefix("cmd/") {
                Some(name) if is_segment(name) => Ok(Topic::Command(site, device, name)),
                _ => Err(ParseTopicError),
            },
        }
    }
}

/// A class or command name may be any one level without wildcards.
fn is_segment(text: &str) -> bool {
    !text.is_empty() && !text.contains(['/', '+', '#', '\0'])
}

impl fmt::Display for Topic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up(site, device) => write!(f, "{ROOT}/{site}/{device}/up"),
            Self::Receipt(site, device) => write!(f, "{ROOT}/{site}/{device}/receipt"),
            Self::Alert(site, device) => write!(f, "{ROOT}/{site}/{device}/alert"),
            Self::Status(site, device) => write!(f, "{ROOT}/{site}/{device}/status"),
            Self::Desired(site, device) => write!(f, "{ROOT}/{site}/{device}/desired"),
            Self::Update(site, device) => write!(f, "{ROOT}/{site}/{device}/update"),
            Self::Command(site, device, name) => write!(f, "{ROOT}/{site}/{device}/cmd/{name}"),
            Self::Reply(site, device) => write!(f, "{ROOT}/{site}/{device}/reply"),
            Self::SiteAlert(site, class) => write!(f, "{ROOT}/{site}/alerts/{class}"),
        }
    }
}

impl fmt::Display for ParseTopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a topic of ecosight/v1")
    }
}

impl core::error::Error for ParseTopicError {}
