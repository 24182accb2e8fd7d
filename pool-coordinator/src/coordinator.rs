//! What every part of the process shares.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use pool_coordinator_core::RelayPolicy;
use proto::{coordinator::POOL_KINDS, member::Member};
use proto_daemon::{member::Doorkeeper, shutdown::Shutdown};
use proto_kube::gvr::GroupVersionResource;

use crate::{clock::Clock, cloud::Cloud, config::LimitsFile, feed::Feed, metrics::Metrics, room::Room};

/// The shared state of the process.
pub struct Coordinator {
    /// Who this coordinator is.
    pub member: Member,
    /// The clock.
    pub clock: Clock,
    /// The way to the cloud.
    pub cloud: Cloud,
    /// The kinds that the pool has one copy of.
    pub feeds: Vec<Arc<Feed>>,
    /// Who may come in.
    pub door: Doorkeeper,
    /// Where members may be led to.
    pub relays: RelayPolicy,
    /// Bounds.
    pub limits: LimitsFile,
    /// Room for relayed connections.
    pub relay_room: Arc<Room>,
    /// Room for subscriptions.
    pub subscription_room: Arc<Room>,
    /// Counters.
    pub metrics: Metrics,
    /// Running, draining, stopped.
    pub shutdown: Shutdown,
    /// Connections of each member.
    members: Mutex<BTreeMap<Member, usize>>,
}

/// What [`Coordinator::new`] is made from.
pub struct Parts {
    /// Who this coordinator is.
    pub member: Member,
    /// The way to the cloud.
    pub cloud: Cloud,
    /// Who may come in.
    pub door: Doorkeeper,
    /// Bounds.
    pub limits: LimitsFile,
    /// Counters.
    pub metrics: Metrics,
    /// Running, draining, stopped.
    pub shutdown: Shutdown,
}

impl Coordinator {
    /// Nothing runs yet.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { member, cloud, door, limits, metrics, shutdown } = parts;
        let kind = |(group, version, resource): &(&str, &str, &str)| {
            Arc::new(Feed::new(GroupVersionResource::new(*group, *version, *resource)))
        };
        let targets = cloud.servers().iter().map(|server| (server.host(), server.port()));
        Arc::new(Self {
            relays: RelayPolicy::new(targets),
            feeds: POOL_KINDS.iter().map(kind).collect(),
            relay_room: Room::for_relays(limits.relays, metrics.relay_streams.clone()),
            subscription_room: Room::for_subscriptions(limits.subscriptions, metrics.subscribers.clone()),
            member,
            clock: Clock::start(),
            cloud,
            door,
            limits,
            metrics,
            shutdown,
            members: Mutex::default(),
        })
    }

    /// The copy of this kind, if the pool has one.
    #[must_use]
    pub fn feed(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Feed>> {
        let is = |gvr: &GroupVersionResource| {
            *gvr.group == *group && *gvr.version == *version && *gvr.resource == *resource
        };
        self.feeds.iter().find(|feed| is(&feed.gvr))
    }

    /// Counts a connection of `member`; `None` where it has too many.
    #[must_use]
    pub fn admit(self: &Arc<Self>, member: &Member) -> Option<Admitted> {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let count = members.entry(member.clone()).or_default();
        if *count >= self.limits.connections_per_member {
            return None;
        }
        *count += 1;
        Some(Admitted { coordinator: Arc::clone(self), member: member.clone() })
    }

    /// The members that are connected, with the number of their connections.
    #[must_use]
    pub fn members(&self) -> BTreeMap<Member, usize> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A member's connection; dropping it takes it off the count.
pub struct Admitted {
    coordinator: Arc<Coordinator>,
    member: Member,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut members = self.coordinator.members.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = members.get_mut(&self.member) {
            *count -= 1;
            if *count == 0 {
                members.remove(&self.member);
            }
        }
    }
}
