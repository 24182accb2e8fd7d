//! The hub's own counters; the admin socket prints them.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// What the hub counts while it runs.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Requests of local clients.
    pub requests: Counter,
    /// Of these, answered from the cache.
    pub served_from_cache: Counter,
    /// Of these, passed on to the cloud.
    pub forwarded: Counter,
    /// Of these, refused with 401.
    pub unauthenticated: Counter,
    /// LISTs and WATCHes that the hub itself sent to the cloud.
    pub upstream_lists_and_watches: Counter,
    /// Events that came from the cloud.
    pub upstream_events: Counter,
    /// Bytes of watch streams that came from the cloud, as packed on the wire.
    pub upstream_watch_bytes: Counter,
    /// TokenReviews and SubjectAccessReviews sent.
    pub reviews: Counter,
    /// Events and bookmarks delivered to local clients.
    pub watch_events: Counter,
    /// Watch streams of local clients that are open.
    pub open_watches: Gauge,
    /// Changes of the verdict on the link.
    pub link_changes: Counter,
    /// Connections of local clients.
    pub connections: Gauge,
    /// Events kept for the cloud while cut.
    pub spooled_events: Counter<u64, AtomicU64>,
}

impl Metrics {
    /// Counters that `registry` shows under `hub_`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let hub = registry.sub_registry_with_prefix("hub");
        hub.register("requests", "Requests of local clients", metrics.requests.clone());
        hub.register(
            "served_from_cache",
            "Requests answered from the cache",
            metrics.served_from_cache.clone(),
        );
        hub.register("forwarded", "Requests passed on to the cloud", metrics.forwarded.clone());
        hub.register("unauthenticated", "Requests refused with 401", metrics.unauthenticated.clone());
        let lists = metrics.upstream_lists_and_watches.clone();
        hub.register("upstream_lists_and_watches", "LISTs and WATCHes sent to the cloud", lists);
        hub.register("upstream_events", "Watch events from the cloud", metrics.upstream_events.clone());
        hub.register(
            "upstream_watch_bytes",
            "Watch bytes from the cloud",
            metrics.upstream_watch_bytes.clone(),
        );
        hub.register("reviews", "TokenReviews and SubjectAccessReviews sent", metrics.reviews.clone());
        hub.register("watch_events", "Frames delivered to local watches", metrics.watch_events.clone());
        hub.register("open_watches", "Open watches of local clients", metrics.open_watches.clone());
        hub.register("link_changes", "Changes of the verdict on the link", metrics.link_changes.clone());
        hub.register("connections", "Connections of local clients", metrics.connections.clone());
        hub.register("spooled_events", "Events kept for the cloud while cut", metrics.spooled_events.clone());
        metrics
    }
}
