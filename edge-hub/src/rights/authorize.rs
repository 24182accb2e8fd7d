//! Who may do what, as the cloud said, and what this node may read for its pods.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use edge_hub_core::{
    access::{ACCESS_BYTES, Access, AccessKey, AccessMemory, Reach},
    collection::CollectionSpec,
    identity::Principal,
    node_rights::OwnReferences,
    plan::Cloud,
    review::{SUBJECT_ACCESS_REVIEW_PATH, access_verdict, subject_access_review},
};
use proto_kube::request_info::Verb;

use crate::{
    collections::cell::{Cell, Phase},
    identity::reviews,
    site::Site,
    store::BlobClass,
    sync::lock,
};

/// Names that may be read but not watched, and for how long that is believed.
const UNWATCHABLE_NAMES: usize = 1024;
const UNWATCHABLE_FOR: Duration = Duration::from_mins(10);

/// What this node's pods name, shared with who decides on requests.
#[derive(Default)]
pub struct NodeRights {
    own: RwLock<OwnReferences>,
}

impl NodeRights {
    /// Whether the Node authorizer is known to allow this to `node`.
    #[must_use]
    pub fn allow(&self, node: &str, key: &AccessKey) -> bool {
        self.read(|own| own.allow(node, key))
    }

    /// Takes over what the pods of this node name now.
    pub fn take_over(&self, pods: &Cell, connected: bool) {
        let mut own = self.own.write().unwrap_or_else(PoisonError::into_inner);
        pods.with(|inner| own.update(&inner.collection, connected && inner.phase == Phase::Live));
    }

    /// A look at what they name.
    pub fn read<T>(&self, look: impl FnOnce(&OwnReferences) -> T) -> T {
        look(&self.own.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The memory of the API server's words on rights.
pub struct Authorizer {
    site: Arc<Site>,
    /// Who may do what, as the cloud said.
    pub access: Mutex<AccessMemory>,
    /// What this node may read for its pods.
    pub node_rights: NodeRights,
    /// Names that a principal may GET but not watch (a kubelet its CSINode), and when the cloud said so.
    unwatchable: Mutex<BTreeMap<(Principal, CollectionSpec), Duration>>,
}

impl Authorizer {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(site: &Arc<Site>) -> Self {
        Self {
            access: Mutex::new(AccessMemory::new(ACCESS_BYTES, site.node.clone())),
            node_rights: NodeRights::default(),
            unwatchable: Mutex::default(),
            site: Arc::clone(site),
        }
    }

    /// What the cloud is known to say of this access; `None` when it must be asked.
    pub fn known_access(&self, principal: &Principal, key: &AccessKey) -> Option<bool> {
        let reach = if self.site.cloud() == Cloud::Answers { Reach::Online } else { Reach::Cut };
        match lock(&self.access).check(self.site.clock.now(), reach, principal, key) {
            Access::Allowed => Some(true),
            Access::Denied => Some(false),
            // What the node's own pods are there for needs no word of the cloud's.
            Access::Unknown => self.is_sure(principal, key).then_some(true),
        }
    }

    /// Whether this is a right that this node has by what its pods name.
    pub fn is_sure(&self, principal: &Principal, key: &AccessKey) -> bool {
        *principal == self.site.node && self.node_rights.allow(&self.site.config.file.node_name, key)
    }

    /// How long ago the cloud said what [`Self::known_access`] finds.
    pub fn access_age(&self, principal: &Principal, key: &AccessKey) -> Option<Duration> {
        lock(&self.access).age(self.site.clock.now(), principal, key)
    }

    /// Remembers a decision of the cloud, here and over restarts.
    pub fn record_access(&self, principal: &Principal, key: &AccessKey, allowed: bool) {
        let changes = lock(&self.access).learn(self.site.clock.now(), principal, key, allowed);
        self.site.save_records(BlobClass::Access, changes);
    }

    /// Asks the cloud whether `principal` may do `key`, and remembers the answer. `None`: nobody answered.
    pub async fn ask_access(&self, principal: &Principal, key: &AccessKey) -> Option<bool> {
        let allowed = self.review_access(principal, key).await?;
        self.record_access(principal, key, allowed);
        Some(allowed)
    }

    /// Asks the cloud whether `principal` may do `key`. `None`: nobody answered.
    pub async fn review_access(&self, principal: &Principal, key: &AccessKey) -> Option<bool> {
        let question = subject_access_review(principal, key);
        let answer = reviews::ask(&self.site, SUBJECT_ACCESS_REVIEW_PATH, question).await.ok()?;
        access_verdict(&answer)
            .map_err(|error| tracing::warn!(%error, "SubjectAccessReview cannot be read"))
            .ok()
    }

    /// The server itself answered 2xx to this principal for this collection: the best proof of a right.
    pub fn note_own_success(&self, principal: &Principal, spec: &CollectionSpec, verb: Verb) {
        self.record_access(principal, &AccessKey::of_collection(spec, verb), true);
    }

    /// The server refused this principal this verb, which says nothing of the other.
    pub fn note_refused(&self, principal: &Principal, spec: &CollectionSpec, verb: Verb) {
        self.record_access(principal, &AccessKey::of_collection(spec, verb), false);
        if spec.fields.single_name().is_some() {
            let mut unwatchable = lock(&self.unwatchable);
            if unwatchable.len() >= UNWATCHABLE_NAMES {
                unwatchable.pop_first();
            }
            unwatchable.insert((principal.clone(), spec.clone()), self.site.clock.now().monotonic);
        }
    }

    /// Whether the cloud refused a watch of this name a short while ago; then a GET does not try again.
    pub fn is_unwatchable(&self, principal: &Principal, spec: &CollectionSpec) -> bool {
        let now = self.site.clock.now().monotonic;
        let mut unwatchable = lock(&self.unwatchable);
        unwatchable.retain(|_, since| now.saturating_sub(*since) < UNWATCHABLE_FOR);
        unwatchable.contains_key(&(principal.clone(), spec.clone()))
    }
}
