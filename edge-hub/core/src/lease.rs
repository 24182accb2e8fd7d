//! This node's own Lease while the cloud is cut: its kubelet goes on renewing it here.
//!
//! A renewal is answered with the very object that was sent, so its resourceVersion stays the one that the API server
//! gave last. After healing the newest renewal is forwarded once; if someone else has written meanwhile the API server
//! says 409, and the kubelet's own next renewal, which reads and tries again, heals that. No other Lease is touched:
//! whether a leader is alive cannot be decided on one side of a cut.

use std::time::Duration;

use bytes::Bytes;
use proto_kube::gvr::GroupVersionResource;
use proto_kube::list::{encode_document, split_document};
use proto_kube::media_type::{Encoding, Format};
use proto_kube::request_info::{ResourceRequest, Verb};
use proto_kube::transcode::to_json;
use serde::{Deserialize, Serialize};

use crate::body::{BodyError, Document, NAME, NAMESPACE, Path, RESOURCE_VERSION};
use crate::clock::Now;
use crate::identity::Principal;
use crate::record::{self, DamagedRecord, RecordChange};

/// Where node leases live.
pub const NODE_LEASE_NAMESPACE: &str = "kube-node-lease";
/// Longest Lease, in bytes.
pub const MAX_LEASE_BYTES: usize = 64 * 1024;
/// Renewals come every 10 s; only one in this time is written to the store, to spare the disk.
const WRITE_INTERVAL: Duration = Duration::from_secs(300);

const API_VERSION: &str = "coordination.k8s.io/v1";
const KIND: &str = "Lease";
const RENEW_TIME: Path = Path { json: &["spec", "renewTime"], wire: &[2, 4] };
/// The key of the one record in its class.
const STORE_KEY: &[u8] = b"own";

/// A Lease as it is sent, to the kubelet or to the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseBody {
    /// Its encoding.
    pub encoding: Encoding,
    /// The whole body.
    pub body: Bytes,
}

impl LeaseBody {
    /// The same Lease in JSON, for a client that does not read protobuf; as it is, if it is JSON or cannot be read.
    #[must_use]
    pub fn into_json(self) -> Self {
        let text = |body: &Bytes| {
            let (type_meta, raw) = split_document(Format::PROTOBUF, body).ok()?;
            let item = to_json(&type_meta, &raw, MAX_LEASE_BYTES).ok()?;
            Some(encode_document(Format::JSON, &type_meta, &item))
        };
        match (self.encoding, text(&self.body)) {
            (Encoding::Protobuf, Some(body)) => Self { encoding: Encoding::Json, body },
            _ => self,
        }
    }
}

/// The newest renewal, to be sent to the API server with this node's credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseForward {
    /// The path of the PUT.
    pub path: String,
    /// The Lease.
    pub lease: LeaseBody,
}

#[derive(Debug)]
struct Held {
    lease: LeaseBody,
    renewed: Option<Duration>,
    /// Renewed here and not yet known to the API server.
    pending: bool,
}

#[derive(Serialize, Deserialize)]
struct RecordHead {
    encoding: Encoding,
}

fn put(lease: &LeaseBody) -> RecordChange {
    let head = RecordHead { encoding: lease.encoding };
    RecordChange::Put { key: STORE_KEY.to_vec(), value: record::encode(&head, &lease.body) }
}

/// The keeper of one node's Lease.
#[derive(Debug)]
pub struct LeaseKeeper {
    node: Box<str>,
    held: Option<Held>,
    /// On the monotonic clock; `None` until something was written in this process.
    written: Option<Duration>,
}

/// Whether a request is about the Lease of node `node` and comes from that node.
pub fn is_own_lease(node: &str, principal: &Principal, request: &ResourceRequest) -> bool {
    // A POST has no name in its path; its body is checked when it is read.
    let names_it = request.name.as_deref().map_or(request.verb == Verb::Create, |name| name == node);
    names_it
        && is_lease(&request.gvr)
        && request.subresource.is_none()
        && request.namespace.as_deref() == Some(NODE_LEASE_NAMESPACE)
        && principal.node_name() == Some(node)
}

/// Whether a resource is `leases` of any version.
pub fn is_lease(gvr: &GroupVersionResource) -> bool {
    (&*gvr.group, &*gvr.resource) == ("coordination.k8s.io", "leases")
}

impl LeaseKeeper {
    /// A keeper that has not seen the Lease yet.
    pub fn new(node: &str) -> Self {
        Self { node: node.into(), held: None, written: None }
    }

    /// Whether the Lease is known, so that GET, PUT and POST can be answered while cut.
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// The newest `spec.renewTime`, since 1970.
    pub fn renewed(&self) -> Option<Duration> {
        self.held.as_ref().and_then(|held| held.renewed)
    }

    /// The API server answered 2xx to a GET, PUT or POST of the Lease with this body.
    ///
    /// # Errors
    /// [`BodyError`] if it is not this node's Lease; what was held before stays.
    pub fn observe(
        &mut self,
        now: Now,
        encoding: Encoding,
        body: Bytes,
    ) -> Result<Vec<RecordChange>, BodyError> {
        self.held = Some(self.read(encoding, body, false)?);
        Ok(self.write(now, false))
    }

    /// The kubelet renewed the Lease (PUT) while cut: the answer is the body itself.
    ///
    /// The last one that came counts as the newest: the kubelet's clock may jump, the order of its requests not.
    ///
    /// # Errors
    /// [`BodyError`] if it is not this node's Lease or has no resourceVersion, to be answered with 503.
    pub fn renew(
        &mut self,
        now: Now,
        encoding: Encoding,
        body: Bytes,
    ) -> Result<(LeaseBody, Vec<RecordChange>), BodyError> {
        let held = self.read(encoding, body, true)?;
        let answer = held.lease.clone();
        // The first renewal of a cut is written at once: a hub that restarts must know the last resourceVersion.
        let first = self.held.as_ref().is_none_or(|before| !before.pending);
        self.held = Some(held);
        Ok((answer, self.write(now, first)))
    }

    /// The answer to a GET while cut; `None` (503) if the Lease was never seen.
    pub fn get(&self) -> Option<LeaseBody> {
        self.held.as_ref().map(|held| held.lease.clone())
    }

    /// After healing: the newest renewal, once, unless the kubelet's own came first. Whatever the API server answers,
    /// it is not sent again.
    pub fn take_forward(&mut self) -> Option<LeaseForward> {
        let held = self.held.as_mut().filter(|held| held.pending)?;
        held.pending = false;
        let gvr = GroupVersionResource::new("coordination.k8s.io", "v1", "leases");
        let path = gvr.path(Some(NODE_LEASE_NAMESPACE), Some(&self.node), None);
        Some(LeaseForward { path, lease: held.lease.clone() })
    }

    /// Takes the record over from the store.
    ///
    /// # Errors
    /// [`DamagedRecord`] if it is not this node's Lease.
    pub fn restore(&mut self, value: &[u8]) -> Result<(), DamagedRecord> {
        let (head, body) = record::decode::<RecordHead>(value)?;
        let held = self.read(head.encoding, Bytes::copy_from_slice(body), false);
        self.held = Some(held.map_err(|_| DamagedRecord)?);
        Ok(())
    }

    fn read(&self, encoding: Encoding, body: Bytes, pending: bool) -> Result<Held, BodyError> {
        let document = Document::parse(encoding, &body, MAX_LEASE_BYTES, API_VERSION, KIND)?;
        if document.text(NAME)?.as_deref() != Some(&self.node) {
            return Err(BodyError::Field("metadata.name"));
        }
        if document.text(NAMESPACE)?.is_some_and(|namespace| namespace != NODE_LEASE_NAMESPACE) {
            return Err(BodyError::Field("metadata.namespace"));
        }
        document.text(RESOURCE_VERSION)?.ok_or(BodyError::Field("metadata.resourceVersion"))?;
        let renewed = document.time(RENEW_TIME)?;
        Ok(Held { lease: LeaseBody { encoding, body }, renewed, pending })
    }

    fn write(&mut self, now: Now, at_once: bool) -> Vec<RecordChange> {
        let recent = self.written.is_some_and(|written| now.monotonic < written + WRITE_INTERVAL);
        let Some(held) = self.held.as_ref().filter(|_| at_once || !recent) else { return Vec::new() };
        let changes = vec![put(&held.lease)];
        self.written = Some(now.monotonic);
        changes
    }

    /// The Lease as a record, for a store that begins anew.
    pub fn records(&self) -> Vec<RecordChange> {
        self.held.iter().map(|held| put(&held.lease)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::tests::{envelope, message};
    use proptest::prelude::*;
    use proto_kube::request_info::RequestInfo;
    use proto_kube::wire;

    fn at(seconds: u64) -> Now {
        Now { monotonic: Duration::from_secs(seconds), unix: Duration::ZERO }
    }

    fn lease(version: u32, minute: u32) -> Bytes {
        format!(
            r#"{{"kind":"Lease","apiVersion":"coordination.k8s.io/v1","metadata":{{"name":"a","namespace":"kube-node-lease","resourceVersion":"{version}"}},"spec":{{"holderIdentity":"a","renewTime":"2026-11-24T12:{minute:02}:00.000000Z"}}}}"#
        )
        .into()
    }

    #[test]
    fn a_renewal_is_answered_with_itself_and_forwarded_once() {
        let mut keeper = LeaseKeeper::new("a");
        assert_eq!(keeper.get(), None);
        keeper.observe(at(0), Encoding::Json, lease(7, 0)).expect("the Lease");
        assert_eq!(keeper.take_forward(), None, "the API server knows it");
        for minute in 1..=3 {
            let (answer, _) = keeper.renew(at(10), Encoding::Json, lease(7, minute)).expect("the Lease");
            assert_eq!(answer.body, lease(7, minute), "the resourceVersion is unchanged");
        }
        assert_eq!(keeper.get().map(|lease| lease.body), Some(lease(7, 3)));
        assert_eq!(keeper.renewed(), Some(Duration::from_secs(1_795_521_600 + 180)));
        let forward = keeper.take_forward().expect("the newest");
        assert_eq!(forward.path, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/a");
        assert_eq!(forward.lease.body, lease(7, 3));
        assert_eq!(keeper.take_forward(), None);
    }

    #[test]
    fn the_kubelets_own_renewal_after_healing_makes_forwarding_needless() {
        let mut keeper = LeaseKeeper::new("a");
        keeper.renew(at(0), Encoding::Json, lease(7, 1)).expect("the Lease");
        keeper.observe(at(1), Encoding::Json, lease(8, 2)).expect("the Lease");
        assert_eq!(keeper.take_forward(), None);
    }

    #[test]
    fn a_protobuf_renewal_stays_protobuf() {
        let mut time = Vec::new();
        wire::put_varint_field(&mut time, 1, 1_795_521_600);
        let metadata = message(&[(1, b"a"), (3, b"kube-node-lease"), (6, b"7")]);
        let spec = message(&[(1, b"a"), (4, &time)]);
        let body: Bytes = envelope(API_VERSION, KIND, &message(&[(1, &metadata), (2, &spec)])).into();
        let mut keeper = LeaseKeeper::new("a");
        let (answer, _) = keeper.renew(at(0), Encoding::Protobuf, body.clone()).expect("the Lease");
        assert_eq!(answer, LeaseBody { encoding: Encoding::Protobuf, body });
        assert_eq!(keeper.renewed(), Some(Duration::from_secs(1_795_521_600)));
        let json = answer.into_json();
        let parsed: serde_json::Value = serde_json::from_slice(&json.body).expect("JSON");
        assert_eq!((json.encoding, &parsed["kind"]), (Encoding::Json, &"Lease".into()));
        assert_eq!(parsed["spec"]["renewTime"], "2026-11-24T12:00:00.000000Z");
        assert_eq!(json.clone().into_json(), json);
    }

    #[test]
    fn only_this_nodes_lease_from_this_node_is_its_own() {
        let own = |principal: &Principal, method: &str, path: &str| {
            let RequestInfo::Resource(request) = RequestInfo::parse(method, path, None).expect("valid")
            else {
                panic!("{path} is a resource");
            };
            is_own_lease("a", principal, &request)
        };
        const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/a";
        let node = Principal::node("a");
        assert!(own(&node, "PUT", PATH));
        assert!(own(&node, "POST", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"));
        assert!(!own(&Principal::node("b"), "PUT", PATH));
        assert!(!own(&Principal::service_account("media", "engine"), "GET", PATH));
        assert!(!own(&node, "PUT", &PATH.replace("leases/a", "leases/b")));
        assert!(!own(&node, "GET", &PATH.replace("leases/a", "leases")), "a list is of all nodes");
        assert!(!own(&node, "PUT", &PATH.replace("kube-node-lease", "media")));
        assert!(!own(&node, "PUT", "/apis/x.io/v1/namespaces/kube-node-lease/leases/a"));
    }

    #[test]
    fn another_lease_in_the_body_changes_nothing() {
        let mut keeper = LeaseKeeper::new("a");
        keeper.observe(at(0), Encoding::Json, lease(7, 0)).expect("the Lease");
        let good = String::from_utf8(lease(7, 5).to_vec()).expect("text");
        for (from, to, error) in [
            (r#""name":"a""#, r#""name":"b""#, BodyError::Field("metadata.name")),
            ("kube-node-lease", "media", BodyError::Field("metadata.namespace")),
            (r#""7""#, r#""""#, BodyError::Field("metadata.resourceVersion")),
            ("Lease\"", "Pod\"", BodyError::OtherKind),
            ("2026", "many", BodyError::Malformed),
        ] {
            let bad = good.replace(from, to);
            assert_eq!(keeper.renew(at(1), Encoding::Json, bad.into()), Err(error), "{to}");
        }
        assert_eq!(keeper.get().map(|lease| lease.body), Some(lease(7, 0)));
    }

    #[test]
    fn the_disk_is_spared_but_the_first_renewal_of_a_cut_is_written() {
        let mut keeper = LeaseKeeper::new("a");
        let written = |result: Result<Vec<RecordChange>, BodyError>| result.expect("the Lease").len();
        assert_eq!(written(keeper.observe(at(0), Encoding::Json, lease(7, 0))), 1);
        assert_eq!(written(keeper.observe(at(10), Encoding::Json, lease(8, 1))), 0);
        let first = keeper.renew(at(20), Encoding::Json, lease(8, 2)).expect("the Lease").1;
        assert_eq!(keeper.renew(at(30), Encoding::Json, lease(8, 3)).expect("the Lease").1, []);
        assert_eq!(keeper.renew(at(320), Encoding::Json, lease(8, 4)).expect("the Lease").1.len(), 1);
        let [RecordChange::Put { value, .. }] = first.as_slice() else { panic!("one record: {first:?}") };
        let mut restored = LeaseKeeper::new("a");
        restored.restore(value).expect("own record");
        assert_eq!(restored.get().map(|lease| lease.body), Some(lease(8, 2)));
        assert_eq!(LeaseKeeper::new("b").restore(value), Err(DamagedRecord));
    }

    proptest! {
        #[test]
        fn no_body_breaks_the_keeper(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut keeper = LeaseKeeper::new("a");
            let _ = keeper.renew(at(0), Encoding::Json, bytes.clone().into());
            let _ = keeper.renew(at(0), Encoding::Protobuf, envelope(API_VERSION, KIND, &bytes).into());
        }
    }
}
