//! What a person asks a hub first: is the cloud there, what is held, how old is it.

use std::time::Duration;

use edge_hub_core::{clock::Now, link::LinkState};
use proto_daemon::tls::ReloadingResolver;
use serde_json::json;

use crate::{
    certificates::expiry::Validity,
    collections::{cell::Cell, label::Label},
    hub::Hub,
    persistence::care::Condition,
};

/// /status as JSON text.
#[must_use]
pub fn render(hub: &Hub) -> String {
    let now = hub.site.clock.now();
    let mut link = match *hub.site.link.borrow() {
        LinkState::Connected => json!({"connected": true}),
        LinkState::Relayed { via } => json!({
            "connected": true,
            "relayedBy": hub.pool.as_ref().and_then(|pool| pool.coordinators.get(via)).map(|c| &c.member.node),
        }),
        LinkState::Cut { since_unix } => json!({
            "connected": false,
            "lastContactSecondsAgo": now.unix.saturating_sub(since_unix).as_secs(),
        }),
    };
    if let Some(since) = *hub.site.impaired_since.borrow() {
        // A server is there and fails this node's requests.
        link["impairedForSeconds"] = json!(now.unix.saturating_sub(since).as_secs());
    }
    let collections: Vec<_> = hub.collections.cells().iter().map(|cell| collection(hub, cell, now)).collect();
    let store = hub.site.store.health();
    let store = json!({
        "state": Condition::of(&store).as_str(),
        "busyMilliseconds": number(store.busy.as_millis()),
        "lagMilliseconds": number(store.lag.as_millis()),
        "lastError": store.last_error.map(|error| error.to_string()),
        "diskFull": store.full,
        "failed": store.failed,
        "bytesOnDisk": store.bytes_on_disk,
        "quarantined": store.quarantined,
        "evicted": store.evicted,
    });
    let inputs = hub.filters.inputs();
    let filters = json!({
        // False: clients whose filters read other objects are told to come again.
        "inputsKnown": inputs.is_complete(),
        // False while no such client is there.
        "inputsWatched": hub.filters.is_settled(),
        "pool": inputs.pool(),
    });
    json!({
        "node": hub.site.config.file.node_name,
        "phase": hub.site.shutdown.phase().as_str(),
        "link": link,
        "collections": collections,
        "filters": filters,
        "store": store,
        "certificates": {
            "serving": certificate(now.unix, &hub.site.certificates.serving),
            "credential": certificate(now.unix, &hub.site.certificates.credential),
        },
        "overlaidPods": hub.overlay.pods(),
    })
    .to_string()
}

fn collection(hub: &Hub, cell: &Cell, now: Now) -> serde_json::Value {
    cell.with(|inner| {
        let footprint = inner.collection.footprint();
        let mut shown = json!({
            "collection": Label(&cell.spec).to_string(),
            "phase": phase(&inner.phase),
            "complete": inner.collection.is_complete(),
            "objects": inner.collection.len(),
            "bytes": footprint.object_bytes,
            "ringEvents": footprint.ring_events,
            "tombstones": footprint.tombstones,
            "resourceVersion": inner.collection.resource_version().to_string(),
            "stalenessSeconds": inner.collection.staleness(now).map(|age| age.as_secs()),
        });
        if inner.absorbed {
            shown["followsWider"] = json!(true);
        }
        if hub.collections.pool_specs().contains(&cell.spec) {
            // The coordinator that feeds it; null while it goes on by this node's own link.
            shown["fedBy"] = json!(inner.fed_by);
        }
        shown
    })
}

fn certificate(unix: Duration, certificate: &ReloadingResolver) -> serde_json::Value {
    let Some(validity) = Validity::of_pair(&certificate.current()) else { return serde_json::Value::Null };
    json!({
        "endsUnixSeconds": validity.until_unix.as_secs(),
        "secondsLeft": validity.until_unix.saturating_sub(unix).as_secs(),
        "inForce": validity.holds(unix),
    })
}

/// Brings the gauges up to date; counters need no help.
pub fn refresh_gauges(hub: &Hub) {
    let cells = hub.collections.cells();
    let (mut objects, mut bytes) = (0, 0);
    for cell in &cells {
        cell.with(|inner| {
            objects += inner.collection.len();
            bytes += inner.collection.footprint().object_bytes;
        });
    }
    let store = hub.site.store.health();
    hub.site.metrics.connected.set(i64::from(hub.site.is_connected()));
    hub.site.metrics.impaired.set(i64::from(hub.site.impaired_since.borrow().is_some()));
    hub.site.metrics.collections.set(number(cells.len()));
    hub.site.metrics.objects.set(number(objects));
    hub.site.metrics.overlaid_pods.set(number(hub.overlay.pods()));
    hub.site.metrics.object_bytes.set(number(bytes));
    hub.site.metrics.store_unhealthy.set(i64::from(Condition::of(&store) != Condition::Good));
    hub.site.metrics.store_memory_only.set(i64::from(store.memory_only));
    hub.site.metrics.store_commits.set(number(store.commits));
    hub.site.metrics.store_lag_milliseconds.set(number(store.lag.as_millis()));
    hub.site.metrics.store_bytes.set(number(store.bytes_on_disk));
    let end = |pair: &ReloadingResolver| {
        Validity::of_pair(&pair.current()).map_or(0, |validity| number(validity.until_unix.as_secs()))
    };
    hub.site.metrics.serving_certificate_end.set(end(&hub.site.certificates.serving));
    hub.site.metrics.credential_end.set(end(&hub.site.certificates.credential));
}

fn number<T: TryInto<i64>>(value: T) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

fn phase(phase: &crate::collections::cell::Phase) -> &'static str {
    use crate::collections::cell::Phase;
    match phase {
        Phase::Syncing => "syncing",
        Phase::Live => "live",
        Phase::Retired => "retired",
        Phase::Refused(..) => "refused",
        Phase::JsonOnly => "jsonOnly",
    }
}
