//! The coordinator's own counters; the admin socket prints them.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Tells one kind from the others.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Resource {
    /// The plural name.
    pub resource: String,
}

/// What the coordinator counts while it runs.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Bytes of the bodies of lists and watches as the cloud sent them, packed or not.
    pub upstream_bytes: Family<Resource, Counter>,
    /// LISTs and WATCHes sent to the cloud.
    pub upstream_requests: Counter,
    /// Events and bookmarks from the cloud.
    pub upstream_events: Counter,
    /// Milliseconds since the watch at the cloud was last known to stand; -1 before the first.
    pub feed_age_milliseconds: Family<Resource, Gauge>,
    /// Objects held.
    pub objects: Family<Resource, Gauge>,
    /// Bytes of these objects.
    pub object_bytes: Family<Resource, Gauge>,
    /// Subscriptions that stand.
    pub subscribers: Gauge,
    /// Frames sent to members.
    pub frames: Counter,
    /// Connections of members.
    pub connections: Gauge,
    /// Connections that were refused: no member, another pool, too many.
    pub refused: Counter,
    /// Relayed connections that stand or are being made.
    pub relay_streams: Gauge,
    /// Bytes relayed, both ways.
    pub relay_bytes: Counter,
    /// Relays that were refused: not an API server, or too many.
    pub relays_refused: Counter,
}

impl Metrics {
    /// Counters that `registry` shows under `pool_`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let m = Self::default();
        let pool = registry.sub_registry_with_prefix("pool");
        let bytes = "Bytes of lists and watches as the cloud sent them";
        pool.register("upstream_bytes", bytes, m.upstream_bytes.clone());
        let requests = "LISTs and WATCHes sent to the cloud";
        pool.register("upstream_requests", requests, m.upstream_requests.clone());
        pool.register("upstream_events", "Events and bookmarks from the cloud", m.upstream_events.clone());
        let age = "Since the watch at the cloud was last known to stand; -1 before the first";
        pool.register("feed_age_milliseconds", age, m.feed_age_milliseconds.clone());
        pool.register("objects", "Objects held", m.objects.clone());
        pool.register("object_bytes", "Bytes of the objects held", m.object_bytes.clone());
        pool.register("subscribers", "Subscriptions that stand", m.subscribers.clone());
        pool.register("frames", "Frames sent to members", m.frames.clone());
        pool.register("connections", "Connections of members", m.connections.clone());
        pool.register("refused_connections", "Connections that were refused", m.refused.clone());
        pool.register(
            "relay_streams",
            "Relayed connections that stand or are being made",
            m.relay_streams.clone(),
        );
        pool.register("relay_bytes", "Bytes relayed, both ways", m.relay_bytes.clone());
        pool.register("refused_relays", "Relays that were refused", m.relays_refused.clone());
        m
    }

    /// Of one kind.
    #[must_use]
    pub fn of(resource: &str) -> Resource {
        Resource { resource: resource.to_owned() }
    }
}
