//! Judges the link by one probed connection, which is by this node's own link, or else through a coordinator of its pool.

use std::{sync::Arc, time::Duration};

use edge_hub_core::link::{Attendance, LinkDetector, LinkState, PROBE_TIMEOUT, PROOF, TRY_OWN};

use crate::{
    clock::random,
    pool::Pool,
    site::Site,
    upstream::{ProbedConnection, Proven, Route},
};

/// Shortest time between two probed connections.
const RECONNECT_PAUSE: Duration = Duration::from_millis(250);

/// Judges the link until the hub drains.
pub async fn run(site: Arc<Site>, pool: Option<Arc<Pool>>) {
    Prober { site, pool }.run().await;
}

struct Prober {
    site: Arc<Site>,
    pool: Option<Arc<Pool>>,
}

impl Prober {
    /// Keeps one probed connection for as long as the process runs, and judges the link by it.
    async fn run(&self) {
        let since = match *self.site.link.borrow() {
            LinkState::Cut { since_unix } => since_unix,
            LinkState::Connected | LinkState::Relayed { .. } => Duration::ZERO,
        };
        let mut detector = LinkDetector::new(since);
        loop {
            // While the link is taken to stand somebody may be waiting for the verdict.
            let patience = if detector.state().is_connected() { PROBE_TIMEOUT } else { Duration::MAX };
            let attempt = tokio::select! {
                () = self.site.shutdown.draining() => return,
                attempt = tokio::time::timeout(patience, self.site.upstream.connect_probed()) => attempt,
            };
            let attempt = match attempt {
                Ok(Ok(connection)) => Ok(connection),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("a new connection did not come about either".to_owned()),
            };
            match attempt {
                Ok(mut connection) => {
                    self.site.reconnected.notify_one();
                    self.site.proofs.send_modify(|count| *count = count.wrapping_add(1));
                    // A server that closes what it has just taken must not be asked without a pause.
                    let next = tokio::time::Instant::now() + RECONNECT_PAUSE;
                    let lost = loop {
                        let route = connection.route;
                        self.declare_connected(&mut detector, route);
                        tokio::select! {
                            () = self.site.shutdown.draining() => return,
                            lost = self.is_silent(&mut connection) => break lost,
                            proven = self.prove_own_link(route) => {
                                connection = self.site.upstream.adopt(proven);
                            }
                        }
                    };
                    if lost && self.site.upstream.has_other_servers() {
                        // One of several died. Only if none of the others answers is the link cut.
                        tracing::warn!("a probe was not answered; the other API servers are tried");
                        self.site.upstream.leave(connection.server);
                        continue;
                    }
                    let now = self.site.clock.now();
                    if detector.handle_lost(now, lost) {
                        self.declare_cut(&detector, "a probe was not answered");
                    }
                    tokio::time::sleep_until(next).await;
                }
                Err(error) => {
                    let now = self.site.clock.now();
                    if detector.handle_unreachable(now) {
                        self.declare_cut(&detector, &error);
                    }
                    tracing::debug!(%error, "no way to the cloud");
                    tokio::select! {
                        () = self.site.shutdown.draining() => return,
                        () = tokio::time::sleep(detector.retry_delay(random())) => {}
                    }
                }
            }
        }
    }

    /// Waits for the end of the probed connection. True when an answer to a probe was missing, though this process was
    /// there to hear it.
    async fn is_silent(&self, connection: &mut ProbedConnection) -> bool {
        let monotonic = || self.site.clock.now().monotonic;
        let mut attendance = Attendance::new(monotonic());
        let mut lost = std::pin::pin!(connection.probe_lost());
        loop {
            tokio::select! {
                lost = &mut lost => {
                    let is_excused = lost && attendance.excuses(monotonic());
                    if is_excused {
                        tracing::info!("a probe ran out while this process was busy; another connection will tell");
                    }
                    return lost && !is_excused;
                }
                () = tokio::time::sleep(Attendance::TICK) => attendance.note(monotonic()),
            }
        }
    }

    /// Resolves with a connection by the own link that has lasted; never, where `route` is that already.
    async fn prove_own_link(&self, route: Route) -> Proven {
        if route == Route::Direct {
            return std::future::pending().await;
        }
        loop {
            let spread = Duration::from_millis(random() % 1000);
            tokio::time::sleep(TRY_OWN + spread).await;
            match self.site.upstream.prove_direct(PROOF).await {
                Ok(proven) => return proven,
                Err(error) => tracing::debug!(%error, "the own link does not answer yet"),
            }
        }
    }

    fn declare_connected(&self, detector: &mut LinkDetector, route: Route) {
        let is_news = match route {
            Route::Direct => detector.handle_connected(),
            Route::Relayed(via) => detector.handle_relayed(via),
        };
        if !is_news {
            return;
        }
        match (route, &self.pool) {
            (Route::Relayed(via), Some(pool)) => {
                let via = &pool.coordinators[via].member.node;
                tracing::warn!(%via, "the own link is cut; the cloud answers through a coordinator");
            }
            _ => tracing::info!("the cloud answers"),
        }
        self.site.metrics.link_changes.inc();
        self.site.link.send_replace(detector.state());
    }

    fn declare_cut(&self, detector: &LinkDetector, why: &str) {
        tracing::warn!(why, "cut off from the cloud; serving from the store");
        self.site.metrics.link_changes.inc();
        self.site.forget_failures();
        self.site.link.send_replace(detector.state());
        self.site.upstream.drop_all();
    }
}
