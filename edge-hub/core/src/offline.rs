//! The offline table: what each request gets while the cloud is cut, as one pure function.
//!
//! Three things never happen: a success that is not true, a 404 for what is merely unknown, and a Retry-After on a 503
//! (a client-go caller would sleep through it, and the kubelet's status manager has one thread). Each row has its test in
//! `tests/each_row_of_the_offline_table_holds.rs`.

use proto_kube::request_info::{NonResourceRequest, RequestInfo, ResourceRequest, Verb};
use proto_kube::status::Status;

use crate::access::Access;
use crate::client_review::ReviewKind;
use crate::identity::Principal;
use crate::lease;

/// Seconds after which a client asks again for a collection that is not complete yet.
const RETRY_INCOMPLETE_SECONDS: u32 = 1;

/// What is known of one object.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Holding {
    /// It is held.
    Present,
    /// It is not there: its complete collection lacks it, or its deletion was seen.
    Absent,
    /// Nothing can be said.
    #[default]
    Unknown,
}

/// What the hub holds that bears on one request. The shell looks up what the request is about.
#[derive(Copy, Clone, Debug)]
pub struct Held<'a> {
    /// What [`crate::access::AccessMemory`] says of this principal and this request.
    pub access: Access,
    /// The canonical field selector of a LIST or WATCH, else empty.
    pub fields: &'a str,
    /// LIST, WATCH: a complete collection holds all that is asked for.
    pub collection_complete: bool,
    /// GET: the object (of a subresource: that very answer).
    pub object: Holding,
    /// GET: what says so was followed until the cut ([`crate::standing`]), so that it knows what does not exist.
    pub followed: bool,
    /// Non-resource GET: an answer of the API server was kept.
    pub answer: bool,
    /// This node's own Node is held.
    pub own_node: bool,
    /// This node's own Lease is held ([`lease::LeaseKeeper::is_held`]).
    pub own_lease: bool,
}

impl Default for Held<'_> {
    fn default() -> Self {
        Self {
            access: Access::Unknown,
            fields: "",
            collection_complete: false,
            object: Holding::Unknown,
            followed: false,
            answer: false,
            own_node: false,
            own_lease: false,
        }
    }
}

/// Why a request gets 503.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// It would change something, which only the API server may decide.
    Write,
    /// It asks for a connection into a pod or node, or for its log.
    Connection,
    /// The object is neither held nor known to be absent.
    NotHeld,
    /// Whether the caller may see it was never asked while the API server could answer.
    AccessUnknown,
    /// A certificate request: any other answer tells the kubelet that the server is well, and with an expired
    /// certificate it then exits.
    CertificateRequest,
    /// A Lease other than the caller's own node's: who leads cannot be known on one side of a cut.
    ForeignLease,
}

impl Unavailable {
    fn reason(self) -> &'static str {
        match self {
            Self::Write => "changes must wait",
            Self::Connection => "it cannot be relayed",
            Self::NotHeld => "the object is not held on this node",
            Self::AccessUnknown => "whether you may see this is not known",
            Self::CertificateRequest => "certificates must wait",
            Self::ForeignLease => "the state of this lease cannot be known",
        }
    }
}

/// What a request gets while the cloud is cut.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum OfflineAnswer {
    /// The cache, with a `Warning`.
    ServeFromCache,
    /// 429 with Retry-After: the collection is not known complete, and an empty answer would be obeyed.
    NotComplete429,
    /// 409 AlreadyExists: the kubelet registers its Node, finds it there and goes on to GET it.
    AlreadyExists409,
    /// 404: known absent; or an event to be changed, which the client then posts whole.
    NotFound404,
    /// 403: the API server's last word on exactly this was no.
    Forbidden403,
    /// [`lease::LeaseKeeper`] answers.
    LocalLease,
    /// [`crate::token::TokenCache`] answers; 503 if it holds nothing for this very request.
    CachedToken,
    /// A review by this node's own kubelet, of somebody who calls it: the remembered word, or 503 if there is none.
    RememberedReview,
    /// [`crate::spool::EventSpool`] takes it and the answer is 201, or 503 if it refuses.
    SpoolEvent,
    /// 503 after the body was read: this node's own status tells the pool the new state of its pods.
    ReadThenUnavailable503,
    /// 503 without Retry-After.
    Unavailable503(Unavailable),
}

impl OfflineAnswer {
    /// The answer for what is allowed and not there.
    pub const NOT_HELD: Self = Self::Unavailable503(Unavailable::NotHeld);

    /// The error to be sent; `None` for what is answered otherwise.
    pub fn status(self, request: &RequestInfo) -> Option<Status> {
        let unavailable =
            |reason: &str| Status::service_unavailable(format!("the API server is cut off: {reason}"));
        let status = match self {
            Self::ServeFromCache
            | Self::LocalLease
            | Self::CachedToken
            | Self::RememberedReview
            | Self::SpoolEvent => return None,
            Self::NotComplete429 => Status::too_many_requests(
                "the API server is cut off and this collection is not complete on this node",
                RETRY_INCOMPLETE_SECONDS,
            ),
            Self::ReadThenUnavailable503 => unavailable("the status must wait"),
            Self::Unavailable503(why) => unavailable(why.reason()),
            Self::AlreadyExists409 | Self::NotFound404 | Self::Forbidden403 => match request {
                RequestInfo::Resource(request) => self.resource_status(request),
                RequestInfo::NonResource(_) if self == Self::Forbidden403 => {
                    Status::forbidden_path("the API server denied this before it was cut off")
                }
                RequestInfo::NonResource(_) => Status::path_not_found(),
            },
        };
        Some(status)
    }

    fn resource_status(self, request: &ResourceRequest) -> Status {
        let name = request.name.as_deref().unwrap_or_default();
        match self {
            Self::AlreadyExists409 => Status::already_exists(&request.gvr, name),
            Self::NotFound404 => Status::not_found(&request.gvr, name),
            _ => Status::forbidden(&request.gvr, name, "the API server denied this before it was cut off"),
        }
    }
}

/// Decides what `principal` gets on node `node` for `request` while the cloud is cut.
pub fn decide(request: &RequestInfo, principal: &Principal, node: &str, held: &Held<'_>) -> OfflineAnswer {
    match request {
        RequestInfo::NonResource(request) => non_resource(request, held),
        RequestInfo::Resource(request) => {
            let from_node = principal.node_name() == Some(node);
            special_case(request, principal, node, from_node, held).unwrap_or_else(|| {
                if request.verb.is_read() {
                    read(request, node, from_node, held)
                } else {
                    OfflineAnswer::Unavailable503(Unavailable::Write)
                }
            })
        }
    }
}

fn non_resource(request: &NonResourceRequest, held: &Held<'_>) -> OfflineAnswer {
    if !matches!(&*request.verb, "get" | "head") {
        return OfflineAnswer::Unavailable503(Unavailable::Write);
    }
    match (held.access, held.answer) {
        (Access::Denied, _) => OfflineAnswer::Forbidden403,
        (_, false) => OfflineAnswer::Unavailable503(Unavailable::NotHeld),
        (Access::Unknown, true) => OfflineAnswer::Unavailable503(Unavailable::AccessUnknown),
        (Access::Allowed, true) => OfflineAnswer::ServeFromCache,
    }
}

/// The rows of the table that are not plain reads or writes.
fn special_case(
    request: &ResourceRequest,
    principal: &Principal,
    node: &str,
    from_node: bool,
    held: &Held<'_>,
) -> Option<OfflineAnswer> {
    use OfflineAnswer::{
        AlreadyExists409, CachedToken, LocalLease, ReadThenUnavailable503, RememberedReview, Unavailable503,
    };
    let subresource = request.subresource.as_deref();
    match (&*request.gvr.group, &*request.gvr.resource, subresource, request.verb) {
        ("certificates.k8s.io", "certificatesigningrequests", ..) => {
            Some(Unavailable503(Unavailable::CertificateRequest))
        }
        (group, resource, None, Verb::Create)
            if from_node && ReviewKind::of(group, &request.gvr.version, resource).is_some() =>
        {
            Some(RememberedReview)
        }
        (_, _, Some("exec" | "attach" | "portforward" | "proxy" | "log"), _) => {
            Some(Unavailable503(Unavailable::Connection))
        }
        ("", "serviceaccounts", Some("token"), Verb::Create) => {
            Some(if held.access == Access::Denied { OfflineAnswer::Forbidden403 } else { CachedToken })
        }
        ("", "nodes", None, Verb::Create) if from_node && held.own_node => Some(AlreadyExists409),
        ("", "nodes" | "pods", Some("status"), Verb::Patch | Verb::Update) if from_node => {
            let own = &*request.gvr.resource == "pods" || request.name.as_deref() == Some(node);
            own.then_some(ReadThenUnavailable503)
        }
        ("" | "events.k8s.io", "events", None, Verb::Create | Verb::Patch) => {
            Some(event(request, from_node, held))
        }
        _ if lease::is_own_lease(node, principal, request) => match request.verb {
            // A PUT carries all that is needed, even if the Lease was never seen here.
            Verb::Update => Some(LocalLease),
            Verb::Get if held.own_lease => Some(LocalLease),
            Verb::Create if held.own_lease => Some(AlreadyExists409),
            Verb::Get => Some(Unavailable503(Unavailable::NotHeld)),
            Verb::List | Verb::Watch => None,
            _ => Some(Unavailable503(Unavailable::Write)),
        },
        _ if lease::is_lease(&request.gvr) && !matches!(request.verb, Verb::List | Verb::Watch) => {
            Some(Unavailable503(Unavailable::ForeignLease))
        }
        _ => None,
    }
}

/// A 201 must not be given to one whose event the API server would refuse. Every node may write events.
/// The 404 of a PATCH is the same for all, so it tells nothing to one who may not know.
fn event(request: &ResourceRequest, from_node: bool, held: &Held<'_>) -> OfflineAnswer {
    match (held.access, request.verb) {
        (Access::Denied, _) => OfflineAnswer::Forbidden403,
        (_, Verb::Patch) => OfflineAnswer::NotFound404,
        (Access::Unknown, _) if !from_node => OfflineAnswer::Unavailable503(Unavailable::AccessUnknown),
        _ => OfflineAnswer::SpoolEvent,
    }
}

fn read(request: &ResourceRequest, node: &str, from_node: bool, held: &Held<'_>) -> OfflineAnswer {
    let own_csi_node =
        from_node && (&*request.gvr.group, &*request.gvr.resource) == ("storage.k8s.io", "csinodes");
    let access = match held.access {
        Access::Unknown if from_node && is_nodes_right(request, node, held.fields) => Access::Allowed,
        access => access,
    };
    if access == Access::Denied {
        return OfflineAnswer::Forbidden403;
    }
    if request.verb != Verb::Get && !held.collection_complete {
        return OfflineAnswer::NotComplete429;
    }
    if access == Access::Unknown {
        return OfflineAnswer::Unavailable503(Unavailable::AccessUnknown);
    }
    match (request.verb, held.object) {
        (Verb::List | Verb::Watch, _) | (Verb::Get, Holding::Present) => OfflineAnswer::ServeFromCache,
        // That an object has no such subresource is not for the cache to say, and a kubelet that is told its CSINode
        // were gone would write it, fail, and exit.
        (_, Holding::Absent) if held.followed && request.subresource.is_none() && !own_csi_node => {
            OfflineAnswer::NotFound404
        }
        _ => OfflineAnswer::Unavailable503(Unavailable::NotHeld),
    }
}

/// What the API server's Node authorizer allows every node by fixed rules, whatever has been asked before: to read
/// its own Node and CSINode, the pods bound to it, and Services. All else of a node follows what the API server said.
fn is_nodes_right(request: &ResourceRequest, node: &str, fields: &str) -> bool {
    if request.subresource.is_some() {
        return false;
    }
    match (&*request.gvr.group, &*request.gvr.resource, request.verb) {
        ("", "nodes", _) | ("storage.k8s.io", "csinodes", Verb::Get) => request.name.as_deref() == Some(node),
        ("", "pods", Verb::List | Verb::Watch) => fields.strip_prefix("spec.nodeName=") == Some(node),
        ("", "services", _) => true,
        _ => false,
    }
}
