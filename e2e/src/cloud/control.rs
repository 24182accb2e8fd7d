//! The test's hand on the cloud: objects, faults, links, clock, and the record of requests.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use e2e_cloud::{
    Cloud, Fault, FaultRule, Gvr, Principal, Replica, RequestMatch, RequestRecord, Rule, Status, Store,
};
use serde_json::Value;
use tokio::sync::watch;

use super::accept;
use super::link::{Link, LinkState};
use super::pki::{Authority, PkiError, TokenKey};
use super::shared::{Shared, lock};

/// Who issues the model's ServiceAccount tokens.
const ISSUER: &str = "https://kubernetes.default.svc";

/// A handle on a running model cloud; clones share it. The cloud serves until [`CloudControl::stop`]
/// is called or the runtime goes.
#[derive(Clone)]
pub struct CloudControl {
    shared: Arc<Shared>,
}

impl CloudControl {
    /// A cloud with no listener yet; its serving certificate, signed by `authority`, is for `names`.
    ///
    /// # Errors
    /// When keys or certificates cannot be made.
    pub fn start(authority: &Authority, names: &[&str]) -> Result<Self, PkiError> {
        let tls = authority.server_config(&authority.server(names)?)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let cloud = Cloud::new(now, ISSUER, Box::new(TokenKey::new("model-cloud")?));
        let shared = Shared {
            core: Mutex::new(cloud),
            tls,
            links: Mutex::default(),
            streams: Mutex::default(),
            changes: watch::Sender::new(0),
            activity: watch::Sender::new(0),
            clock_offset_nanos: AtomicU64::new(0),
            stop: watch::Sender::new(false),
            wire_in: AtomicU64::new(0),
            wire_out: AtomicU64::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Serve one replica on a listener of the caller's. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// When the listener is not usable.
    pub fn listen(&self, listener: TcpListener, replica: usize) -> io::Result<SocketAddr> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let link = Arc::new(Link::new(address, replica));
        lock(&self.shared.links).push(link.clone());
        tokio::spawn(accept::accept(self.shared.clone(), link, listener));
        Ok(address)
    }

    /// Stop accepting and drop all connections.
    pub fn stop(&self) {
        self.shared.stop.send_replace(true);
        self.reset_connections();
    }

    /// Do anything with the core at the cloud's present time; streams look for changes afterwards.
    pub fn with<R>(&self, act: impl FnOnce(&mut Cloud, Duration) -> R) -> R {
        let now = self.shared.now();
        let result = act(&mut self.shared.core(), now);
        self.shared.notify_streams();
        result
    }

    /// Look at the core; no stream takes notice.
    pub fn look<R>(&self, see: impl FnOnce(&Cloud) -> R) -> R {
        see(&self.shared.core())
    }

    /// Create an object as the administrator, past the HTTP path (nothing is recorded).
    ///
    /// # Errors
    /// As a POST.
    pub fn create(&self, gvr: &Gvr, object: Value) -> Result<Arc<Value>, Status> {
        self.with(|cloud, now| cloud.create(now, gvr, object))
    }

    /// Merge-patch an object as the administrator; the status may be part of the patch.
    ///
    /// # Errors
    /// As a PATCH.
    pub fn merge(&self, gvr: &Gvr, namespace: &str, name: &str, patch: &Value) -> Result<Arc<Value>, Status> {
        self.with(|cloud, now| cloud.merge(now, gvr, namespace, name, patch))
    }

    /// Delete an object as the administrator, without grace.
    ///
    /// # Errors
    /// As a DELETE.
    pub fn delete(&self, gvr: &Gvr, namespace: &str, name: &str) -> Result<(), Status> {
        self.with(|cloud, now| cloud.delete(now, gvr, namespace, name))
    }

    /// Revision of the last change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.shared.core().store().revision()
    }

    /// Add a permission.
    pub fn allow(&self, rule: Rule) {
        self.with(|cloud, _| cloud.policy_mut().rules.push(rule));
    }

    /// Accept a bearer token that is no JWT.
    pub fn add_token(&self, token: &str, principal: Principal) {
        self.with(|cloud, _| cloud.add_token(token, principal));
    }

    /// Hit the next `times` matching requests with a fault.
    pub fn fault(&self, matches: RequestMatch, times: u32, fault: Fault) {
        self.with(|cloud, _| cloud.add_fault(FaultRule { matches, remaining: times, fault }));
    }

    /// Take back the faults that have not hit yet.
    pub fn clear_faults(&self) {
        self.with(|cloud, _| cloud.clear_faults());
    }

    /// Hit the matching streams that run now; returns how many.
    pub fn fault_streams(&self, matches: &RequestMatch, fault: &Fault) -> usize {
        let mut hit = 0;
        {
            let core = self.shared.core();
            let mut streams = lock(&self.shared.streams);
            for record in core.records().iter().filter(|r| matches.matches(r)) {
                if let Some(slot) = streams.get_mut(&record.order) {
                    *slot = Some(fault.clone());
                    hit += 1;
                }
            }
        }
        self.shared.notify_streams();
        hit
    }

    /// Forget the history up to now: watches and lists from older revisions get 410.
    pub fn compact(&self) {
        self.with(|cloud, _| {
            let revision = cloud.store().revision();
            cloud.store_mut().compact(revision);
        });
    }

    /// Puts a former state (a clone of the store) in the place of this one, as restoring etcd does: every API server is
    /// started again for that, so that no connection outlives it.
    pub fn restore(&self, backup: Store) {
        self.with(|cloud, _| cloud.restore(backup));
        self.reset_connections();
    }

    /// Every stream that takes bookmarks sends one now.
    pub fn bookmark(&self) {
        self.with(|cloud, _| cloud.ask_bookmarks());
    }

    /// Let a replica lag, or catch up.
    pub fn set_replica(&self, replica: usize, lag: Replica) {
        self.with(|cloud, _| cloud.set_replica(replica, lag));
    }

    /// Let a replica show no change from now on; `set_replica(.., Current)` ends that.
    pub fn freeze(&self, replica: usize) {
        self.with(|cloud, _| cloud.set_replica(replica, Replica::Frozen(cloud.store().revision())));
    }

    /// Move the cloud's clock forward: bookmarks and deadlines come, tokens expire.
    pub fn advance_clock(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.shared.clock_offset_nanos.fetch_add(nanos, Ordering::SeqCst);
        self.shared.notify_streams();
    }

    /// Cut or heal the way to a replica; returns when the change holds.
    pub async fn set_link(&self, replica: usize, state: LinkState) {
        for link in self.links(replica) {
            link.set(state).await;
        }
    }

    /// Cut or heal the way to every replica.
    pub async fn set_all_links(&self, state: LinkState) {
        let links = lock(&self.shared.links).clone();
        for link in links {
            link.set(state).await;
        }
    }

    fn links(&self, replica: usize) -> Vec<Arc<Link>> {
        lock(&self.shared.links).iter().filter(|l| l.replica == replica).cloned().collect()
    }

    /// Reset every TCP connection; new ones are accepted.
    pub fn reset_connections(&self) {
        for link in lock(&self.shared.links).iter() {
            link.reset_all();
        }
    }

    /// Close every connection gracefully (HTTP/2: GOAWAY; running streams go on).
    pub fn go_away(&self) {
        for link in lock(&self.shared.links).iter() {
            link.go_away_all();
        }
    }

    /// What the cloud saw so far, in order of arrival.
    #[must_use]
    pub fn records(&self) -> Vec<RequestRecord> {
        self.shared.core().records().to_vec()
    }

    /// A place in the record: later requests have this order or a higher one.
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.shared.core().records().len() as u64
    }

    /// What the cloud saw since a mark.
    #[must_use]
    pub fn records_since(&self, mark: u64) -> Vec<RequestRecord> {
        self.shared.core().records().iter().filter(|r| r.order >= mark).cloned().collect()
    }

    /// Watches that run now.
    #[must_use]
    pub fn open_streams(&self) -> Vec<RequestRecord> {
        let core = self.shared.core();
        let streams = lock(&self.shared.streams);
        core.records().iter().filter(|r| streams.contains_key(&r.order)).cloned().collect()
    }

    /// Wait until a matching watch runs.
    pub async fn wait_for_stream(&self, matches: &RequestMatch) {
        let mut activity = self.shared.activity.subscribe();
        loop {
            activity.borrow_and_update();
            if self.open_streams().iter().any(|r| matches.matches(r)) || activity.changed().await.is_err() {
                return;
            }
        }
    }

    /// Bytes of closed and open connections as they passed the TCP socket, TLS included: (in, out).
    #[must_use]
    pub fn wire_bytes(&self) -> (u64, u64) {
        let mut bytes =
            (self.shared.wire_in.load(Ordering::Relaxed), self.shared.wire_out.load(Ordering::Relaxed));
        for connection in lock(&self.shared.links).iter().flat_map(|l| l.open()) {
            bytes.0 += connection.switch.bytes_in.load(Ordering::Relaxed);
            bytes.1 += connection.switch.bytes_out.load(Ordering::Relaxed);
        }
        bytes
    }

    /// Wait until the record satisfies a condition; it is looked at after every request and stream end.
    /// A test bounds the wait from outside.
    pub async fn wait_for(&self, mut condition: impl FnMut(&[RequestRecord]) -> bool) {
        let mut activity = self.shared.activity.subscribe();
        loop {
            activity.borrow_and_update();
            if condition(self.shared.core().records()) || activity.changed().await.is_err() {
                return;
            }
        }
    }
}
