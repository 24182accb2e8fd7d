//! The engine's own counters; the admin socket prints them.

use media_core::{Role, session::SessionState};
use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

type Label<const N: usize> = [(&'static str, &'static str); N];

/// What the engine counts while it runs.
#[derive(Debug)]
pub struct Metrics {
    sessions: Family<Label<2>, Gauge>,
    /// Streams that somebody publishes, or whose viewers wait.
    pub streams: Gauge,
    packets: Family<Label<1>, Counter>,
    bytes: Family<Label<1>, Counter>,
    dropped: Family<Label<1>, Counter>,
    plis: Family<Label<1>, Counter>,
    requests: Family<[(&'static str, String); 2], Counter>,
    refused: Family<Label<1>, Counter>,
    /// From the offer until the session was live.
    pub join: Histogram,
    /// How often a viewer went from one layer to another.
    pub layer_switches: Counter,
    /// Bytes of pictures that late viewers begin with.
    pub kept_bytes: Gauge,
    /// 0 initialised, 1 allocated, 2 tombstone, 3 waiting to be deleted.
    pub state: Gauge,
}

/// From the engine's point of view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From clients.
    In,
    /// To clients.
    Out,
}

impl Direction {
    fn label(self) -> Label<1> {
        [("direction", if self == Self::In { "in" } else { "out" })]
    }
}

impl Metrics {
    /// Counters that `registry` shows under `media_`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            sessions: Family::default(),
            streams: Gauge::default(),
            packets: Family::default(),
            bytes: Family::default(),
            dropped: Family::default(),
            plis: Family::default(),
            requests: Family::default(),
            refused: Family::default(),
            join: Histogram::new(exponential_buckets(0.01, 2.0, 11)),
            layer_switches: Counter::default(),
            kept_bytes: Gauge::default(),
            state: Gauge::default(),
        };
        let media = registry.sub_registry_with_prefix("media");
        media.register("sessions", "Sessions by role and state", metrics.sessions.clone());
        media.register("streams", "Streams that are published or waited for", metrics.streams.clone());
        media.register("packets", "Datagrams from and to clients", metrics.packets.clone());
        media.register("bytes", "Bytes of these datagrams", metrics.bytes.clone());
        media.register("dropped_packets", "Packets that went nowhere, by reason", metrics.dropped.clone());
        media.register("plis", "Requests for key frames", metrics.plis.clone());
        media.register("requests", "HTTP requests by method and status", metrics.requests.clone());
        media.register("refused", "HTTP requests that were refused, by reason", metrics.refused.clone());
        media.register("join_seconds", "From the offer until a session was live", metrics.join.clone());
        let switches = "Viewers that went from one layer to another";
        media.register("layer_switches", switches, metrics.layer_switches.clone());
        let kept = "Bytes of the groups of pictures that late viewers begin with";
        media.register("kept_bytes", kept, metrics.kept_bytes.clone());
        let state = "0 initialised, 1 allocated, 2 tombstone, 3 waiting to be deleted";
        media.register("state", state, metrics.state.clone());
        metrics
    }

    /// Sets how many sessions there are in a role and state.
    pub fn set_sessions(&self, role: Role, state: SessionState, count: usize) {
        let gauge = self.sessions.get_or_create(&[("role", role.as_str()), ("state", state.as_str())]);
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a datagram.
    pub fn datagram(&self, direction: Direction, bytes: usize) {
        self.packets.get_or_create(&direction.label()).inc();
        self.bytes.get_or_create(&direction.label()).inc_by(bytes as u64);
    }

    /// Counts a packet that went nowhere.
    pub fn dropped(&self, reason: &'static str) {
        self.dropped.get_or_create(&[("reason", reason)]).inc();
    }

    /// Counts a request for a key frame: in from viewers, out to publishers.
    pub fn pli(&self, direction: Direction) {
        self.plis.get_or_create(&direction.label()).inc();
    }

    /// Counts a request that was answered.
    pub fn request(&self, method: &'static str, status: u16) {
        self.requests.get_or_create(&[("method", method.to_owned()), ("status", status.to_string())]).inc();
    }

    /// Counts a request that was refused.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&[("reason", reason)]).inc();
    }
}
