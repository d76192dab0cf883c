//! Where a request came from: the machine at the other end of the connection, or, where that is a proxy
//! of ours, the one that the proxy speaks for.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The other end of the connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// Where a request came from, by the name that limits count under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address(Arc<str>);

impl Address {
    /// A network of /64 counts as one.
    pub(super) fn of(ip: Option<IpAddr>) -> Self {
        let name = match ip {
            Some(IpAddr::V6(ip)) => {
                let [a, b, c, d, ..] = ip.segments();
                format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
            }
            Some(ip) => ip.to_string(),
            None => "unknown".into(),
        };
        Self(name.into())
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }
}

/// The last hop that no trusted proxy is. What stands before it in `X-Forwarded-For` is only what
/// that hop says, and anybody can say anything.
pub(super) fn client_of(peer: IpAddr, headers: &HeaderMap, trusted: &[IpAddr]) -> IpAddr {
    let mut at = peer.to_canonical();
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    let mut hops = lines.flat_map(|line| line.to_str().unwrap_or("").rsplit(','));
    while trusted.contains(&at) {
        let Some(hop) = hops.next().and_then(parse) else { break };
        at = hop.to_canonical();
    }
    at
}

/// An address, with a port or without.
fn parse(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    hop.parse().ok().or_else(|| hop.parse::<SocketAddr>().ok().map(|hop| hop.ip()))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use axum::http::{HeaderMap, HeaderValue};

    use super::{Address, FORWARDED_FOR, client_of};

    fn headers(lines: &[&'static str]) -> HeaderMap {
        let lines = lines.iter().map(|&line| (FORWARDED_FOR, HeaderValue::from_static(line)));
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn only_a_trusted_proxy_speaks_for_others() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let trusted = [ip("10.0.0.2"), ip("10.0.0.3")];
        let cases: [(&str, &[&'static str], &str); 9] = [
            ("203.0.113.9", &["198.51.100.1"], "203.0.113.9"),
            ("10.0.0.2", &["198.51.100.1"], "198.51.100.1"),
            ("10.0.0.2", &["6.6.6.6, 198.51.100.1"], "198.51.100.1"),
            ("10.0.0.2", &["6.6.6.6", "198.51.100.1, 10.0.0.3"], "198.51.100.1"),
            ("10.0.0.2", &["198.51.100.1:4711"], "198.51.100.1"),
            ("::ffff:10.0.0.2", &["198.51.100.1"], "198.51.100.1"),
            ("10.0.0.2", &["somebody"], "10.0.0.2"),
            ("10.0.0.2", &["10.0.0.3"], "10.0.0.3"),
            ("10.0.0.2", &[], "10.0.0.2"),
        ];
        for (peer, lines, client) in cases {
            let found = client_of(ip(peer), &headers(lines), &trusted);
            assert_eq!(found, ip(client), "{peer} with {lines:?}");
        }
        assert_eq!(client_of(ip("10.0.0.2"), &headers(&["6.6.6.6"]), &[]), ip("10.0.0.2"));
    }

    #[test]
    fn a_network_counts_as_one() {
        let name = |text: &str| Address::of(text.parse().ok()).name().to_owned();
        assert_eq!(name("2001:db8:1:2::1"), name("2001:db8:1:2:ffff::9"));
        assert_ne!(name("2001:db8:1:2::1"), name("2001:db8:1:3::1"));
        assert_ne!(name("198.51.100.1"), name("198.51.100.2"));
    }
}
