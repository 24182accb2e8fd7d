//! What the kubelet of this node said while nobody could tell the cloud, and what clients were told of it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use edge_hub_core::{
    collection::Collection,
    overlay::{Amendments, OwnVersions, PodMemory, concerns},
    record::RecordChange,
};
use proto_kube::gvr::GroupVersionResource;

use crate::sync::lock;

/// What the kubelet said, and what clients were told of it.
pub struct Overlay {
    pub(super) memory: Mutex<PodMemory>,
    pub(super) versions: Arc<Mutex<OwnVersions>>,
    pub(super) amendments: Mutex<Arc<Amendments>>,
    /// Held while the disk is waited for, so that nobody takes a reserve for durable that is on its way.
    pub(super) reserving: tokio::sync::Mutex<()>,
    pub(super) attention: tokio::sync::Notify,
}

impl Overlay {
    /// Of this node; nothing was said yet.
    #[must_use]
    pub fn new(node: &str) -> Self {
        let memory = PodMemory::new(node);
        Self {
            versions: Arc::default(),
            amendments: Mutex::new(Arc::new(memory.amendments(BTreeSet::new()))),
            memory: Mutex::new(memory),
            reserving: tokio::sync::Mutex::default(),
            attention: tokio::sync::Notify::new(),
        }
    }

    /// Takes back what a predecessor stored. False for what nobody can use.
    pub fn restore(&self, key: &[u8], value: &[u8]) -> bool {
        if OwnVersions::is_key(key) {
            return lock(&self.versions).restore(value).is_ok();
        }
        lock(&self.memory).restore(key, value).is_ok()
    }

    /// Everything that the store is to hold.
    #[must_use]
    pub fn records(&self) -> Vec<(Vec<u8>, Bytes)> {
        let pods = lock(&self.memory).records();
        let mut records: Vec<_> = pods.into_iter().map(|(key, value)| (key, Bytes::from(value))).collect();
        let versions = lock(&self.versions);
        if versions.last() > 0
            && let RecordChange::Put { key, value } = versions.record()
        {
            records.push((key, value.into()));
        }
        records
    }

    /// Makes a new collection one of those that are amended, if its kind is.
    pub fn join(&self, collection: &mut Collection, now: edge_hub_core::clock::Now) {
        if concerns(&collection.spec().gvr) {
            collection.share_versions(Arc::clone(&self.versions));
            collection.amend(now, Arc::clone(&lock(&self.amendments)));
        }
    }

    /// Whether this version of this kind may be one of the hub's own, which nobody else knows.
    #[must_use]
    pub fn made_up(&self, gvr: &GroupVersionResource, version: u64) -> bool {
        concerns(gvr) && lock(&self.versions).holds(version)
    }

    /// The version that a new collection is to begin with, so that its first client can watch on from there.
    #[must_use]
    pub fn seed(&self, gvr: &GroupVersionResource, version: Option<u64>) -> Option<u64> {
        version.filter(|version| *version > 0 && !self.made_up(gvr, *version))
    }

    /// Whether clients may ever have been told versions of this kind that are the hub's own.
    #[must_use]
    pub fn may_have_told(&self, gvr: &GroupVersionResource) -> bool {
        concerns(gvr) && lock(&self.versions).last() > 0
    }

    /// Pods of which the kubelet said something that the cloud may not know.
    #[must_use]
    pub fn pods(&self) -> usize {
        lock(&self.memory).told()
    }
}
