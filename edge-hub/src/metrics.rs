//! The hub's own counters; the admin socket prints them.

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
    /// Bytes of the bodies of the hub's own lists and watches as the cloud sent them, packed or not, by kind.
    pub upstream_bytes: Family<Resource, Counter>,
    /// Attempts at a coordinator of the pool that came to no feed.
    pub refused_feeds: Counter,
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
    pub spooled_events: Counter,
    /// 1 while the cloud answers.
    pub connected: Gauge,
    /// 1 while a server is there and fails this node's requests.
    pub impaired: Gauge,
    /// Collections held.
    pub collections: Gauge,
    /// Objects in them.
    pub objects: Gauge,
    /// Pods whose endpoints are shown as the kubelet has them.
    pub overlaid_pods: Gauge,
    /// Bytes of these objects.
    pub object_bytes: Gauge,
    /// Age of the oldest change that is not on disk, in milliseconds.
    pub store_lag_milliseconds: Gauge,
    /// 1 while changes do not reach the disk.
    pub store_unhealthy: Gauge,
    /// 1 while the store cannot be opened.
    pub store_memory_only: Gauge,
    /// Groups of changes that were made durable.
    pub store_commits: Gauge,
    /// Bytes of the store on disk.
    pub store_bytes: Gauge,
    /// When the certificate ends that clients see, in seconds since 1970; 0 if that cannot be read.
    pub serving_certificate_end: Gauge,
    /// When the node's certificate ends that the cloud sees, in seconds since 1970; 0 if that cannot be read.
    pub credential_end: Gauge,
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
        let bytes = "Bytes of lists and watches as the cloud sent them";
        hub.register("upstream_bytes", bytes, metrics.upstream_bytes.clone());
        let feeds = "Attempts at a coordinator that came to no feed";
        hub.register("refused_feeds", feeds, metrics.refused_feeds.clone());
        hub.register("reviews", "TokenReviews and SubjectAccessReviews sent", metrics.reviews.clone());
        hub.register("watch_events", "Frames delivered to local watches", metrics.watch_events.clone());
        hub.register("open_watches", "Open watches of local clients", metrics.open_watches.clone());
        hub.register("link_changes", "Changes of the verdict on the link", metrics.link_changes.clone());
        hub.register("connections", "Connections of local clients", metrics.connections.clone());
        hub.register("spooled_events", "Events kept for the cloud while cut", metrics.spooled_events.clone());
        hub.register("connected", "1 while the cloud answers", metrics.connected.clone());
        let help = "1 while a server is there and fails this node's requests";
        hub.register("impaired", help, metrics.impaired.clone());
        hub.register("collections", "Collections held", metrics.collections.clone());
        hub.register("objects", "Objects held in collections", metrics.objects.clone());
        hub.register(
            "overlaid_pods",
            "Pods whose endpoints are shown as the kubelet has them",
            metrics.overlaid_pods.clone(),
        );
        hub.register("object_bytes", "Bytes of the objects held", metrics.object_bytes.clone());
        let lag = metrics.store_lag_milliseconds.clone();
        hub.register("store_lag_milliseconds", "Age of the oldest change that is not on disk", lag);
        let unhealthy = metrics.store_unhealthy.clone();
        hub.register("store_unhealthy", "1 while the disk hangs or refuses, or cannot be opened", unhealthy);
        let memory_only = metrics.store_memory_only.clone();
        hub.register("store_memory_only", "1 while the store cannot be opened", memory_only);
        let commits = metrics.store_commits.clone();
        hub.register("store_commits", "Groups of changes written to disk since the start", commits);
        hub.register("store_bytes", "Bytes of the store on disk", metrics.store_bytes.clone());
        hub.register(
            "serving_certificate_end_unix_seconds",
            "When the certificate ends that clients see",
            metrics.serving_certificate_end.clone(),
        );
        hub.register(
            "credential_end_unix_seconds",
            "When the node's certificate ends that the cloud sees",
            metrics.credential_end.clone(),
        );
        metrics
    }

    /// Counts bytes of a body from the cloud.
    pub fn count_upstream(&self, resource: &str, bytes: usize) {
        let resource = Resource { resource: resource.to_owned() };
        self.upstream_bytes.get_or_create(&resource).inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
    }
}
