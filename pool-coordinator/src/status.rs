//! What a person asks a coordinator first: is the cloud there, what is held, how old is it, who is connected.

use std::time::Duration;

use serde_json::json;

use crate::{coordinator::Coordinator, metrics::Metrics};

/// /status as JSON text.
#[must_use]
pub fn render(coordinator: &Coordinator) -> String {
    let now = coordinator.clock.now().monotonic;
    let feeds: Vec<_> = coordinator
        .feeds
        .iter()
        .map(|feed| {
            let age = feed.age(now);
            feed.with(|inner| {
                json!({
                    "kind": feed.gvr.to_string(),
                    "complete": inner.replica.is_complete(),
                    "objects": inner.replica.len(),
                    "bytes": inner.replica.bytes(),
                    "resourceVersion": inner.replica.version().to_string(),
                    "oldestResumable": inner.replica.horizon().to_string(),
                    "watchStands": inner.lost_at.is_none(),
                    "ageMilliseconds": milliseconds(age),
                    "refused": inner.refused,
                })
            })
        })
        .collect();
    let members = coordinator.members();
    let members: Vec<_> = members
        .iter()
        .map(|(member, connections)| json!({ "node": member.node, "connections": connections }))
        .collect();
    json!({
        "pool": coordinator.member.pool,
        "node": coordinator.member.node,
        "phase": coordinator.shutdown.phase().as_str(),
        "kinds": feeds,
        "members": members,
        "subscribers": coordinator.metrics.subscribers.get(),
        "relays": coordinator.metrics.relay_streams.get(),
    })
    .to_string()
}

/// Brings the gauges up to date; counters need no help.
pub fn refresh_gauges(coordinator: &Coordinator) {
    let now = coordinator.clock.now().monotonic;
    let metrics = &coordinator.metrics;
    for feed in &coordinator.feeds {
        let (resource, age) = (Metrics::of(&feed.gvr.resource), feed.age(now));
        let (complete, objects, bytes) =
            feed.with(|inner| (inner.replica.is_complete(), inner.replica.len(), inner.replica.bytes()));
        let age = if complete { milliseconds(age) } else { -1 };
        metrics.feed_age_milliseconds.get_or_create(&resource).set(age);
        metrics.objects.get_or_create(&resource).set(i64::try_from(objects).unwrap_or(i64::MAX));
        metrics.object_bytes.get_or_create(&resource).set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
