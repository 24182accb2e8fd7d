//! When certificates end: how long one is in force, what a cut excuses, and a word in the log ahead of the end of the
//! hub's own, because a cut may come between that word and whoever would renew them.

use std::{sync::Arc, time::Duration};

use edge_hub_core::link::LinkState;
use proto_daemon::tls::ReloadingResolver;
use rustls::sign::CertifiedKey;
use x509_parser::certificate::X509Certificate;

use crate::site::Site;

/// A certificate that ends within this time is worth a warning, or within a fifth of its own time if that is shorter.
const AHEAD: Duration = Duration::from_hours(7 * 24);
const FRACTION_AHEAD: u32 = 5;
/// How often the files are looked at: they may be replaced at any time.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The shortest pause between two looks.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// How often a warning is repeated.
const REPEAT: Duration = Duration::from_hours(24);

/// The time in which a certificate is in force, on the wall clock; both ends belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Its first moment, since 1970.
    pub from_unix: Duration,
    /// Its last moment, since 1970.
    pub until_unix: Duration,
}

impl Validity {
    /// Of a parsed certificate.
    #[must_use]
    pub fn of(certificate: &X509Certificate<'_>) -> Self {
        let seconds = |timestamp: i64| Duration::from_secs(u64::try_from(timestamp).unwrap_or(0));
        let validity = certificate.validity();
        Self {
            from_unix: seconds(validity.not_before.timestamp()),
            until_unix: seconds(validity.not_after.timestamp()),
        }
    }

    /// Of the leaf of a pair; `None` if it cannot be read.
    #[must_use]
    pub fn of_pair(pair: &CertifiedKey) -> Option<Self> {
        let (_, leaf) = x509_parser::parse_x509_certificate(pair.cert.first()?).ok()?;
        Some(Self::of(&leaf))
    }

    /// Whether it is in force.
    #[must_use]
    pub fn holds(&self, unix: Duration) -> bool {
        self.from_unix <= unix && unix <= self.until_unix
    }

    /// Whether a cut excuses that it does not hold: it ended during the cut, so that nobody could renew it, or it has
    /// not begun, by a clock that nobody could set right.
    #[must_use]
    pub fn is_excused(&self, link: LinkState, unix: Duration) -> bool {
        let LinkState::Cut { since_unix } = link else { return false };
        unix < self.from_unix || since_unix <= self.until_unix
    }

    /// What is to be said of it now, and the moment at which something else will be.
    fn notice(&self, unix: Duration) -> (Notice, Option<Duration>) {
        let ahead = AHEAD.min(self.until_unix.saturating_sub(self.from_unix) / FRACTION_AHEAD);
        let warn_from = self.until_unix.saturating_sub(ahead);
        if unix > self.until_unix {
            (Notice::Ended, None)
        } else if unix >= warn_from {
            (Notice::EndsSoon, Some(self.until_unix))
        } else {
            (Notice::Nothing, Some(warn_from))
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notice {
    Nothing,
    EndsSoon,
    Ended,
}

/// What was said of one certificate.
struct Watched {
    name: &'static str,
    pair: Arc<ReloadingResolver>,
    /// Of which certificate, what, and when.
    said: Option<(Validity, Notice, Duration)>,
}

impl Watched {
    fn new(name: &'static str, pair: &Arc<ReloadingResolver>) -> Self {
        Self { name, pair: Arc::clone(pair), said: None }
    }

    /// Says what is new; returns how long nothing else will be to say.
    fn look(&mut self, unix: Duration) -> Duration {
        let Some(validity) = Validity::of_pair(&self.pair.current()) else { return LOOK_EVERY };
        let (notice, next) = validity.notice(unix);
        let is_said = self.said.is_some_and(|(of, said, at)| {
            (of, said) == (validity, notice) && unix.saturating_sub(at) < REPEAT
        });
        if !is_said {
            self.said = Some((validity, notice, unix));
            let seconds = validity.until_unix.saturating_sub(unix).as_secs();
            match notice {
                Notice::Nothing => {}
                Notice::EndsSoon => tracing::warn!(seconds, "{} ends soon; renew it", self.name),
                Notice::Ended => {
                    let seconds = unix.saturating_sub(validity.until_unix).as_secs();
                    tracing::error!(seconds, "{} has ended; whoever sees it refuses it", self.name);
                }
            }
        }
        next.map_or(LOOK_EVERY, |next| next.saturating_sub(unix).clamp(SHORTEST_PAUSE, LOOK_EVERY))
    }
}

/// Warns of the end of the hub's certificates until the hub drains.
pub async fn run(site: Arc<Site>) {
    let mut watched = [
        Watched::new("the certificate that clients see", &site.certificates.serving),
        Watched::new("this node's certificate, which the API server sees", &site.certificates.credential),
    ];
    loop {
        let unix = site.clock.now().unix;
        let pause = watched.iter_mut().map(|each| each.look(unix)).min().unwrap_or(LOOK_EVERY);
        tokio::select! {
            () = site.shutdown.draining() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn lasting(days: u32) -> Validity {
        Validity { from_unix: DAY * 1000, until_unix: DAY * (1000 + days) }
    }

    #[test]
    fn a_long_one_is_told_a_week_ahead_and_a_short_one_a_fifth_of_its_time() {
        let year = lasting(365);
        assert_eq!(year.notice(DAY * 1300), (Notice::Nothing, Some(DAY * 1358)));
        assert_eq!(year.notice(DAY * 1358), (Notice::EndsSoon, Some(DAY * 1365)));
        assert_eq!(lasting(10).notice(DAY * 1007), (Notice::Nothing, Some(DAY * 1008)));
        assert_eq!(lasting(10).notice(DAY * 1008), (Notice::EndsSoon, Some(DAY * 1010)));
    }

    #[test]
    fn one_that_has_ended_is_told_until_it_is_renewed() {
        let ended = lasting(10).notice(DAY * 1011);
        assert_eq!(ended, (Notice::Ended, None));
        assert_eq!(lasting(20).notice(DAY * 1011).0, Notice::Nothing);
    }

    #[test]
    fn a_cut_excuses_what_ended_in_it_and_nothing_that_ended_before() {
        let validity = lasting(10);
        let cut = |day: u32| LinkState::Cut { since_unix: DAY * day };
        assert!(validity.is_excused(cut(1009), DAY * 1020));
        assert!(!validity.is_excused(cut(1011), DAY * 1020));
        assert!(!validity.is_excused(LinkState::Connected, DAY * 1020));
        assert!(validity.is_excused(cut(1), DAY * 2), "not in force yet, by a clock that nobody could set");
    }
}
