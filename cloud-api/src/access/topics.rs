//! Which topics a client of the broker may write and read, the same at every broker.

use ecosight_shared::{DeviceId, Topic};

/// Topic filters that a client may write to and read from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topics {
    /// Names it may publish to.
    pub write: Vec<String>,
    /// Filters it may subscribe to, or to any part of.
    pub read: Vec<String>,
}

impl Topics {
    /// A station's: its own part of the tree.
    #[must_use]
    pub fn of_station(site: &str, device: DeviceId) -> Self {
        let write = [
            Topic::Up(site, device),
            Topic::Alert(site, device),
            Topic::Status(site, device),
            Topic::Update(site, device),
            Topic::Reply(site, device),
        ];
        let read = [
            Topic::Receipt(site, device),
            Topic::Desired(site, device),
            Topic::Command(site, device, "+"),
        ];
        let written = |topics: &[Topic<'_>]| topics.iter().map(ToString::to_string).collect();
        Self { write: written(&write), read: written(&read) }
    }

    /// Those of people and their tools: alerts, and how stations are, at `sites`, or at all.
    #[must_use]
    pub fn of_people(sites: Option<&[String]>) -> Self {
        let any = ["+".to_owned()];
        let of_site = |site: &String| {
            ["alerts/+", "+/alert", "+/status"].map(|rest| format!("ecosight/v1/{site}/{rest}"))
        };
        Self { write: Vec::new(), read: sites.unwrap_or(&any).iter().flat_map(of_site).collect() }
    }

    /// Whether it may publish to a topic.
    #[must_use]
    pub fn may_write(&self, topic: &str) -> bool {
        !topic.contains(['+', '#']) && self.write.iter().any(|allowed| covers(allowed, topic))
    }

    /// Whether it may subscribe to a filter: to no message outside of what it may read.
    #[must_use]
    pub fn may_read(&self, filter: &str) -> bool {
        self.read.iter().any(|allowed| covers(allowed, filter))
    }
}

/// Whether every topic that matches `filter` matches `allowed`, whose only wildcards are `+`.
fn covers(allowed: &str, filter: &str) -> bool {
    let (mut allowed, mut filter) = (allowed.split('/'), filter.split('/'));
    loop {
        match (allowed.next(), filter.next()) {
            (None, None) => return true,
            (Some("+"), Some(level)) if level != "#" => {}
            (Some(own), Some(level)) if own == level => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use ecosight_shared::DeviceId;
    use uuid::Uuid;

    use super::{Topics, covers};

    #[test]
    fn a_filter_is_covered_if_it_asks_for_no_more() {
        for filter in ["a/+/c", "a/b/c"] {
            assert!(covers("a/+/c", filter), "{filter}");
        }
        for filter in ["a/#", "#", "a/b", "a/b/c/d", "a/b/+", "+/b/c", "a/#/c", ""] {
            assert!(!covers("a/+/c", filter), "{filter}");
        }
        assert!(!covers("a/b/c", "a/+/c"));
    }

    #[test]
    fn a_station_keeps_to_itself() {
        let (own, other) =
            (DeviceId(Uuid::from_bytes([1; 16])), DeviceId(Uuid::from_bytes([2; 16])));
        let topics = Topics::of_station("letaba", own);
        let topic = |site: &str, device: DeviceId, leaf: &str| {
            format!("ecosight/v1/{site}/{device}/{leaf}")
        };
        assert!(topics.may_write(&topic("letaba", own, "up")));
        assert!(topics.may_read(&topic("letaba", own, "receipt")));
        assert!(topics.may_read(&topic("letaba", own, "cmd/+")));
        assert!(topics.may_read(&topic("letaba", own, "cmd/pull")));
        for leaf in ["receipt", "desired", "cmd/pull", "+"] {
            assert!(!topics.may_write(&topic("letaba", own, leaf)), "{leaf}");
        }
        for (site, device) in [("letaba", other), ("olifants", own)] {
            assert!(!topics.may_write(&topic(site, device, "up")));
            assert!(!topics.may_read(&topic(site, device, "receipt")));
        }
        assert!(!topics.may_read("ecosight/v1/letaba/alerts/gun_shot"));
    }

    #[test]
    fn people_hear_the_alerts_of_their_sites_and_say_nothing() {
        let sites = ["letaba".to_owned()];
        let topics = Topics::of_people(Some(&sites));
        assert!(topics.may_read("ecosight/v1/letaba/alerts/+"));
        assert!(!topics.may_read("ecosight/v1/+/alerts/+"));
        assert!(!topics.may_read("ecosight/v1/letaba/+/up"));
        assert!(!topics.may_write("ecosight/v1/letaba/alerts/gun_shot"));
        assert!(Topics::of_people(None).may_read("ecosight/v1/+/alerts/+"));
    }
}
