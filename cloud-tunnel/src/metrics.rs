//! What both programs count; the admin socket prints it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cloud_tunnel_core::class::Class;
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram};
use prometheus_client::registry::Registry;

type Labels = Vec<(&'static str, String)>;

/// How long dials take: from a local one to the limit.
const DIAL_SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.25, 1.0, 2.5, 5.0];

/// The counters of one process.
#[derive(Clone, Debug)]
pub struct Metrics {
    pool: String,
    links: Family<Labels, Gauge>,
    nodes: Family<Labels, Gauge>,
    streams: Family<Labels, Gauge>,
    dials: Family<Labels, Counter>,
    dial_seconds: Family<Labels, Histogram>,
    bytes: Family<Labels, Counter>,
    buffered: Gauge,
    resets: Family<Labels, Counter>,
    reconnects: Family<Labels, Counter>,
    failed_attempts: Family<Labels, Counter>,
    downtime: Family<Labels, Counter<f64, AtomicU64>>,
    refused_peers: Counter,
    certificate: Gauge,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Towards the node.
    ToEdge,
    /// Towards the API server.
    ToCloud,
}

impl Metrics {
    /// Counters that `registry` shows under `tunnel_`; `pool` is their label.
    #[must_use]
    pub fn register(registry: &mut Registry, pool: &str) -> Self {
        let metrics = Self {
            pool: pool.to_owned(),
            links: Family::default(),
            nodes: Family::default(),
            streams: Family::default(),
            dials: Family::default(),
            dial_seconds: Family::new_with_constructor(|| Histogram::new(DIAL_SECONDS)),
            bytes: Family::default(),
            buffered: Gauge::default(),
            resets: Family::default(),
            reconnects: Family::default(),
            failed_attempts: Family::default(),
            downtime: Family::default(),
            refused_peers: Counter::default(),
            certificate: Gauge::default(),
        };
        let tunnel = registry.sub_registry_with_prefix("tunnel");
        tunnel.register("links", "Links that take new streams", metrics.links.clone());
        tunnel.register("nodes", "Nodes that a link leads to", metrics.nodes.clone());
        tunnel.register("streams", "Open streams", metrics.streams.clone());
        tunnel.register("dials", "Dials by their outcome", metrics.dials.clone());
        tunnel.register("dial_seconds", "How long dials took", metrics.dial_seconds.clone());
        tunnel.register("bytes", "Bytes of streams, as their ends sent them", metrics.bytes.clone());
        tunnel.register("buffered_bytes", "Bytes that wait for their readers", metrics.buffered.clone());
        tunnel.register("streams_reset", "Streams that were reset here", metrics.resets.clone());
        tunnel.register("reconnects", "Links that ended, by the reason", metrics.reconnects.clone());
        tunnel.register(
            "link_attempts_failed",
            "Attempts that became no link, by the reason",
            metrics.failed_attempts.clone(),
        );
        tunnel.register(
            "link_downtime_seconds",
            "How long the pool had no link, in all",
            metrics.downtime.clone(),
        );
        tunnel.register(
            "peers_refused",
            "Connections that were no agent of this pool",
            metrics.refused_peers.clone(),
        );
        tunnel.register(
            "certificate_expires_seconds",
            "Seconds until this process's certificate ends",
            metrics.certificate.clone(),
        );
        // What is zero is shown, too: a query on a missing series finds nothing.
        metrics.set_links(0, 0);
        metrics
    }

    fn of_pool(&self) -> Labels {
        vec![("pool", self.pool.clone())]
    }

    /// So many links take new streams, and lead to so many nodes.
    pub fn set_links(&self, links: usize, nodes: usize) {
        self.links.get_or_create(&self.of_pool()).set(number(links));
        self.nodes.get_or_create(&self.of_pool()).set(number(nodes));
    }

    /// The pool had no link for so long in all.
    pub fn set_downtime(&self, downtime: Duration) {
        // A counter holds a float by its bits; the registry has the sum already.
        let counter = self.downtime.get_or_create(&self.of_pool());
        counter.inner().store(downtime.as_secs_f64().to_bits(), Ordering::Relaxed);
    }

    /// The own certificate ends in so many seconds.
    pub fn set_certificate(&self, seconds: i64) {
        self.certificate.set(seconds);
    }

    /// A dial by `door` ended with `status` after `took`.
    pub fn dialled(&self, door: &str, status: u16, took: Duration) {
        self.dials.get_or_create(&vec![("door", door.to_owned()), ("outcome", status.to_string())]).inc();
        self.dial_seconds.get_or_create(&vec![("door", door.to_owned())]).observe(took.as_secs_f64());
    }

    /// The gauge of open streams of a class.
    #[must_use]
    pub fn streams(&self, class: Class) -> Gauge {
        let labels = vec![("direction", "to_edge".to_owned()), ("class", class.as_str().to_owned())];
        self.streams.get_or_create(&labels).clone()
    }

    /// The counter of bytes of a class that went `way`.
    #[must_use]
    pub fn bytes(&self, way: Way, class: Class) -> Counter {
        let way = if way == Way::ToEdge { "to_edge" } else { "to_cloud" };
        self.bytes
            .get_or_create(&vec![("direction", way.to_owned()), ("class", class.as_str().to_owned())])
            .clone()
    }

    /// The gauge of bytes that wait for their readers.
    #[must_use]
    pub fn buffered(&self) -> &Gauge {
        &self.buffered
    }

    /// A stream was reset here for `reason`.
    pub fn stream_reset(&self, reason: &str) {
        self.resets.get_or_create(&vec![("reason", reason.to_owned())]).inc();
    }

    /// An attempt became no link, for `reason`.
    pub fn attempt_failed(&self, reason: &str) {
        self.failed_attempts.get_or_create(&vec![("reason", reason.to_owned())]).inc();
    }

    /// A head was refused with `status` before there was anything to dial.
    pub fn head_refused(&self, door: &str, status: u16) {
        self.dials.get_or_create(&vec![("door", door.to_owned()), ("outcome", status.to_string())]).inc();
    }

    /// A link that was up ended for `reason`.
    pub fn link_ended(&self, reason: &str) {
        self.reconnects.get_or_create(&vec![("reason", reason.to_owned())]).inc();
    }

    /// A connection was refused before it became a link.
    pub fn peer_refused(&self) {
        self.refused_peers.inc();
    }
}

fn number(value: usize) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}
