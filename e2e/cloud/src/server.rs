//! The model cloud: what it holds, and what a test may do to it past the wire.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::authorization::{Attributes, Policy, Principal};
use crate::fault::{Fault, FaultPlan, FaultRule};
use crate::record::RequestRecord;
use crate::request::ResourceTarget;
use crate::resource::{Gvr, Registry};
use crate::status::Status;
use crate::store::Store;
use crate::token::{TokenSigner, Tokens};

/// How far a replica's reads lag behind the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replica {
    /// Not at all.
    #[default]
    Current,
    /// By so many revisions.
    Behind(u64),
    /// It shows the state of this revision and no later one.
    Frozen(u64),
}

/// The model cloud.
pub struct Cloud {
    store: Store,
    registry: Registry,
    policy: Policy,
    plan: FaultPlan,
    tokens: Tokens,
    records: Vec<RequestRecord>,
    replicas: Vec<Replica>,
    bookmarks_asked: u64,
    watch_list: bool,
    gzip_watch_list: bool,
    /// Kinds that an aggregated server answers, which shows each user what carries its name.
    by_user: BTreeSet<Gvr>,
    serial: u64,
}

impl Cloud {
    /// An empty cluster with its four namespaces.
    #[must_use]
    pub fn new(now: Duration, issuer: &str, signer: Box<dyn TokenSigner>) -> Self {
        let mut cloud = Self {
            store: Store::default(),
            registry: Registry::default(),
            policy: Policy::default(),
            plan: FaultPlan::default(),
            tokens: Tokens::new(issuer, signer),
            records: Vec::new(),
            replicas: vec![Replica::Current],
            bookmarks_asked: 0,
            watch_list: true,
            gzip_watch_list: false,
            by_user: BTreeSet::new(),
            serial: 0,
        };
        for name in ["default", "kube-node-lease", "kube-public", "kube-system"] {
            let namespace = json!({"metadata": {"name": name}, "status": {"phase": "Active"}});
            cloud.create(now, &Gvr::core("namespaces"), namespace).expect("the cluster is empty");
            let account = json!({"metadata": {"name": "default", "namespace": name}});
            cloud.create(now, &Gvr::core("serviceaccounts"), account).expect("the cluster is empty");
        }
        cloud
    }

    /// Objects and history.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Objects and history, for the test to change (compact, skip revisions).
    pub fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    /// Puts a former state in the place of this one, as an administrator does who restores etcd from a backup: with its
    /// revision, and without the history before it, which a new watch cache does not have.
    pub fn restore(&mut self, backup: Store) {
        self.store = backup;
        self.store.compact(self.store.revision());
    }

    /// What is served.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What is served, for the test to extend.
    pub fn registry_mut(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// Who may do what.
    pub fn policy_mut(&mut self) -> &mut Policy {
        &mut self.policy
    }

    /// All requests so far, in order of arrival.
    #[must_use]
    pub fn records(&self) -> &[RequestRecord] {
        &self.records
    }

    /// One record, for the shell to count bytes and note the end.
    pub fn record_mut(&mut self, order: u64) -> Option<&mut RequestRecord> {
        self.records.get_mut(usize::try_from(order).ok()?)
    }

    /// Add a fault.
    pub fn add_fault(&mut self, rule: FaultRule) {
        self.plan.add(rule);
    }

    /// Remove all faults that have not hit yet.
    pub fn clear_faults(&mut self) {
        self.plan.clear();
    }

    /// Set how a replica lags; replicas up to this index exist from then on.
    pub fn set_replica(&mut self, index: usize, replica: Replica) {
        if self.replicas.len() <= index {
            self.replicas.resize(index + 1, Replica::Current);
        }
        self.replicas[index] = replica;
    }

    /// Every stream that takes bookmarks sends one at its next poll.
    pub fn ask_bookmarks(&mut self) {
        self.bookmarks_asked += 1;
    }

    pub(crate) fn bookmarks_asked(&self) -> u64 {
        self.bookmarks_asked
    }

    /// Serve `sendInitialEvents` (default) or refuse it with 422 as servers without WatchList do.
    pub fn set_watch_list(&mut self, on: bool) {
        self.watch_list = on;
    }

    /// Compress WatchList streams, one gzip member for each flush, as 1.37 does.
    pub fn set_gzip_watch_list(&mut self, on: bool) {
        self.gzip_watch_list = on;
    }

    /// An aggregated API server shows each user the objects of this kind whose label `user` is its name.
    pub fn show_by_user(&mut self, gvr: &Gvr) {
        self.by_user.insert(gvr.clone());
    }

    pub(crate) fn shows_by_user(&self, gvr: &Gvr) -> bool {
        self.by_user.contains(gvr)
    }

    /// A bearer token that is no JWT.
    pub fn add_token(&mut self, token: &str, principal: Principal) {
        self.tokens.add_fixed(token, principal);
    }

    /// The token issuer.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.tokens.issuer
    }

    pub(crate) fn jwks(&self) -> Value {
        json!({"keys": [self.tokens.signer.public_jwk()]})
    }

    pub(crate) fn authenticate_token(
        &self,
        now: Duration,
        token: &str,
    ) -> Result<(Principal, Vec<String>), &'static str> {
        self.tokens.authenticate(now, token, &self.store)
    }

    /// Yes, or no with the authorizer's reason.
    pub(crate) fn decide(&self, attributes: &Attributes) -> Result<(), String> {
        self.policy.decide(attributes, &self.store)
    }

    /// Answer a TokenRequest.
    pub(crate) fn request_token(
        &mut self,
        now: Duration,
        target: &ResourceTarget,
        document: Value,
    ) -> Result<Value, Status> {
        let jti = format!("00000000-0000-4000-9000-{:012x}", self.next_serial());
        self.tokens.request(now, target, document, &self.store, &jti)
    }

    /// The fault that hits this request, if one does; then it is used up.
    pub(crate) fn take_fault(&mut self, record: &RequestRecord) -> Option<Fault> {
        self.plan.take(record)
    }

    /// Note a request.
    pub(crate) fn record(&mut self, record: RequestRecord) {
        self.records.push(record);
    }

    /// `sendInitialEvents` is served.
    pub(crate) fn serves_watch_list(&self) -> bool {
        self.watch_list
    }

    /// WatchList streams are compressed.
    pub(crate) fn compresses_watch_list(&self) -> bool {
        self.gzip_watch_list
    }

    /// Do something and undo it: what a dry run does.
    pub(crate) fn undone<R>(&mut self, act: impl FnOnce(&mut Self) -> R) -> R {
        let store = self.store.clone();
        let result = act(self);
        self.store = store;
        result
    }

    pub(crate) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// The latest revision that a replica shows.
    #[must_use]
    pub fn visible(&self, replica: usize) -> u64 {
        let current = self.store.revision();
        let visible = match self.replicas.get(replica).copied().unwrap_or_default() {
            Replica::Current => current,
            Replica::Behind(lag) => current.saturating_sub(lag),
            Replica::Frozen(revision) => revision.min(current),
        };
        visible.max(self.store.compacted())
    }
}
