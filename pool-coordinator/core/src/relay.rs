//! Where a relay may lead: to the API servers that the coordinator's own configuration names, and nowhere else.

/// The places that a member may be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayPolicy {
    /// Host in lower case, without the brackets of IPv6, and port; in the order of the configuration.
    targets: Vec<(Box<str>, u16)>,
}

/// Why a member is not connected to what it asked for. The text goes to the member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelayRefusal {
    /// No `host:port`.
    #[error("CONNECT needs host:port")]
    NoTarget,
    /// Not one of the API servers.
    #[error(
        "this coordinator relays to its API servers alone, and {0} is none of them; compare apiServers in both configurations"
    )]
    NotAnApiServer(String),
}

/// The longest part of a refused name that is repeated, in bytes.
const SHOWN: usize = 80;

impl RelayPolicy {
    /// Exactly these, as (host, port).
    #[must_use]
    pub fn new<'a>(targets: impl IntoIterator<Item = (&'a str, u16)>) -> Self {
        let plain = |(host, port): (&str, u16)| (plain(host).into_boxed_str(), port);
        Self { targets: targets.into_iter().map(plain).collect() }
    }

    /// Which of the configured API servers `authority` names, by its place among them.
    ///
    /// # Errors
    /// [`RelayRefusal`].
    pub fn decide(&self, authority: &str) -> Result<usize, RelayRefusal> {
        let (host, port) = authority.rsplit_once(':').ok_or(RelayRefusal::NoTarget)?;
        let port: u16 = port.parse().map_err(|_| RelayRefusal::NoTarget)?;
        let host = plain(host);
        let found = self.targets.iter().position(|target| *target.0 == *host && target.1 == port);
        found.ok_or_else(|| RelayRefusal::NotAnApiServer(authority.chars().take(SHOWN).collect()))
    }
}

fn plain(host: &str) -> String {
    host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_configured_api_servers_are_reached() {
        let policy = RelayPolicy::new([("10.0.0.1", 6443), ("api.example", 443), ("fd00::1", 6443)]);
        for (asked, found) in
            [("10.0.0.1:6443", 0), ("API.example:443", 1), ("[fd00::1]:6443", 2), ("10.0.0.1:06443", 0)]
        {
            assert_eq!(policy.decide(asked), Ok(found), "{asked}");
        }
        for asked in [
            "10.0.0.1:22",
            "10.0.0.2:6443",
            "10.0.0.1.evil:6443",
            "evil@10.0.0.1:6443",
            "127.0.0.1:6443",
            "169.254.169.254:80",
            "api.example:4430",
            "api.example.:443",
        ] {
            assert_eq!(policy.decide(asked), Err(RelayRefusal::NotAnApiServer(asked.into())));
        }
        for asked in ["", "10.0.0.1", "10.0.0.1:", "10.0.0.1:99999", "10.0.0.1:+", ":"] {
            assert_eq!(policy.decide(asked), Err(RelayRefusal::NoTarget), "{asked:?}");
        }
        assert!(
            policy.decide(&format!("{}:1", "a".repeat(5000))).is_err_and(|why| why.to_string().len() < 300)
        );
    }
}
