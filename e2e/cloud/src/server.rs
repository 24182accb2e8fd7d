//! The server: authentication, authorization, faults and dispatch of one request.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::answer::{Answer, AnswerKind, Response};
use crate::authorization::{Attributes, Policy, Principal};
use crate::encoding::Format;
use crate::fault::{Fault, FaultPlan, FaultRule};
use crate::options::ListOptions;
use crate::record::{Credential, RequestRecord};
use crate::request::{Identity, Request, ResourceTarget, Target};
use crate::resource::{Gvr, Registry, ResourceKind};
use crate::selector::FieldSelector;
use crate::status::Status;
use crate::store::Store;
use crate::token::{TokenSigner, Tokens};
use crate::watch::WatchCursor;
use crate::{discovery, list, review, write};

/// Largest request body, as the real server.
const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;
/// Bodies below this are never compressed.
const GZIP_MIN_BYTES: usize = 128 * 1024;

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

    pub(crate) fn authenticate_token(&self, now: Duration, token: &str) -> Option<(Principal, Vec<String>)> {
        self.tokens.authenticate(now, token, &self.store)
    }

    pub(crate) fn permits(&self, attributes: &Attributes) -> bool {
        self.policy.permits(attributes, &self.store)
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

    /// Create an object as the test, without authorization.
    ///
    /// # Errors
    /// As a POST by an administrator.
    pub fn create(&mut self, now: Duration, gvr: &Gvr, object: Value) -> Result<Arc<Value>, Status> {
        let kind = self.registry.find(gvr).ok_or_else(Status::no_such_path)?.clone();
        let target = self.target("create", gvr, object["metadata"]["namespace"].as_str(), None);
        write::create(self, now, &kind, &target, object)
    }

    /// Merge-patch an object as the test, without authorization; metadata, spec and status alike.
    ///
    /// # Errors
    /// 404, and what the patch may meet.
    pub fn merge(
        &mut self,
        now: Duration,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<Arc<Value>, Status> {
        let mut kind = self.registry.find(gvr).ok_or_else(Status::no_such_path)?.clone();
        // The test may change the status by the main path.
        kind.status = false;
        let target = self.target("patch", gvr, Some(namespace), Some(name));
        let body = patch.to_string();
        write::patch(self, now, &kind, &target, "application/merge-patch+json", body.as_bytes())
            .map(|(o, _)| o)
    }

    /// Delete an object as the test, at once (grace 0); finalizers hold it.
    ///
    /// # Errors
    /// 404.
    pub fn delete(&mut self, now: Duration, gvr: &Gvr, namespace: &str, name: &str) -> Result<(), Status> {
        let kind = self.registry.find(gvr).ok_or_else(Status::no_such_path)?.clone();
        let target = self.target("delete", gvr, Some(namespace), Some(name));
        write::delete(self, now, &kind, &target, &json!({"gracePeriodSeconds": 0})).map(|_| ())
    }

    fn target(
        &self,
        verb: &'static str,
        gvr: &Gvr,
        namespace: Option<&str>,
        name: Option<&str>,
    ) -> ResourceTarget {
        let namespaced = self.registry.find(gvr).is_some_and(|k| k.namespaced);
        ResourceTarget {
            verb,
            gvr: gvr.clone(),
            namespace: namespace.filter(|_| namespaced).map(str::to_owned),
            name: name.map(str::to_owned),
            subresource: None,
        }
    }

    /// Answer one request.
    pub fn handle(&mut self, now: Duration, request: &Request) -> Answer {
        let target = Target::parse(&request.method, &request.path, &request.query);
        let principal = self.authenticate(now, &request.identity);
        let order = self.records.len() as u64;
        let record = new_record(order, now, request, target.as_ref().ok(), principal.as_ref());
        let fault = if principal.is_some() { self.plan.take(&record) } else { None };
        self.records.push(record);
        let kind = match self.dispatch(now, request, target, principal.as_ref(), fault.as_ref()) {
            Ok(kind) => kind,
            Err(status) => AnswerKind::Full { response: Response::from(&status), gzip: false },
        };
        if let Some(record) = self.record_mut(order) {
            record.fault = fault.as_ref().map(|f| format!("{f:?}"));
            record.status = match &kind {
                AnswerKind::Full { response, .. } => response.status,
                AnswerKind::Watch { .. } => 200,
            };
        }
        Answer { order, kind, fault }
    }

    fn authenticate(&self, now: Duration, identity: &Identity) -> Option<Principal> {
        match identity {
            Identity::Certificate(principal) => Some(principal.clone()),
            Identity::Bearer(token) => {
                let (principal, audiences) = self.authenticate_token(now, token)?;
                audiences.iter().any(|a| a == self.issuer()).then_some(principal)
            }
            Identity::Anonymous => None,
        }
    }

    fn dispatch(
        &mut self,
        now: Duration,
        request: &Request,
        target: Result<Target, Status>,
        principal: Option<&Principal>,
        fault: Option<&Fault>,
    ) -> Result<AnswerKind, Status> {
        let principal = principal.ok_or_else(Status::unauthorized)?;
        if let Some(Fault::Status { code, retry_after }) = fault {
            return Err(Status::with_code(*code, *retry_after));
        }
        if request.impersonates {
            return Err(Status::forbidden("the model cloud lets nobody impersonate"));
        }
        let full = |response: Response| {
            let gzip = request.accepts_gzip && response.body.len() > GZIP_MIN_BYTES;
            AnswerKind::Full { response, gzip }
        };
        match target? {
            Target::Path(path) => {
                let verb = request.method.to_lowercase();
                let fields = FieldSelector::default();
                self.authorize(&Attributes {
                    principal,
                    verb: &verb,
                    gvr: None,
                    subresource: "",
                    namespace: "",
                    name: "",
                    fields: &fields,
                    path: &path,
                })?;
                discovery::answer(self, request, &path).map(full)
            }
            Target::Resource(target) => {
                let kind = self.registry.find(&target.gvr).cloned();
                let options = self.options(request, &target)?;
                self.authorize_resource(principal, &target, &options)?;
                let kind = kind.ok_or_else(Status::no_such_path)?;
                if let (Some(Fault::ErrorEvent { code }), false) = (fault, options.watch) {
                    return Err(Status::with_code(*code, None));
                }
                match target.verb {
                    "watch" => self.watch(now, request, &kind, &target, options),
                    "get" | "list" => self.read(now, request, &kind, &target, &options).map(full),
                    _ => self.write(now, request, &kind, &target, principal).map(full),
                }
            }
        }
    }

    /// List and watch parameters; a selected or named single object counts as named, as in RequestInfo.
    fn options(&self, request: &Request, target: &ResourceTarget) -> Result<ListOptions, Status> {
        let mut options = match target.verb {
            "get" | "list" | "watch" | "deletecollection" => ListOptions::parse(&request.query)?,
            _ => return Ok(ListOptions::default()),
        };
        options.watch = target.verb == "watch";
        if options.watch
            && let Some(name) = &target.name
        {
            options.fields.require("metadata.name", name);
        }
        options.fields.check(&target.gvr)?;
        if options.send_initial_events.is_some() && !self.watch_list {
            let text = "Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
            return Err(Status::invalid("ListOptions.meta.k8s.io \"\"", "sendInitialEvents", text));
        }
        Ok(options)
    }

    fn authorize(&self, attributes: &Attributes) -> Result<(), Status> {
        if self.permits(attributes) { Ok(()) } else { Err(Status::forbidden(attributes.refusal())) }
    }

    fn authorize_resource(
        &self,
        principal: &Principal,
        target: &ResourceTarget,
        options: &ListOptions,
    ) -> Result<(), Status> {
        let name = target.name.as_deref().or_else(|| options.fields.required("metadata.name"));
        self.authorize(&Attributes {
            principal,
            verb: target.verb,
            gvr: Some(&target.gvr),
            subresource: target.subresource.as_deref().unwrap_or_default(),
            namespace: target.namespace.as_deref().unwrap_or_default(),
            name: name.unwrap_or_default(),
            fields: &options.fields,
            path: "",
        })
    }

    fn watch(
        &self,
        now: Duration,
        request: &Request,
        kind: &ResourceKind,
        target: &ResourceTarget,
        options: ListOptions,
    ) -> Result<AnswerKind, Status> {
        let format = Format::negotiate(&request.accept, kind)?;
        let watch_list = options.send_initial_events == Some(true) && options.allow_bookmarks;
        let gzip = self.gzip_watch_list && watch_list && request.accepts_gzip;
        let namespace = target.namespace.clone();
        let cursor = WatchCursor::new(self, now, request.replica, kind, format, namespace, options);
        Ok(AnswerKind::Watch { content_type: format.content_type(true), cursor: Box::new(cursor), gzip })
    }

    fn read(
        &self,
        now: Duration,
        request: &Request,
        kind: &ResourceKind,
        target: &ResourceTarget,
        options: &ListOptions,
    ) -> Result<Response, Status> {
        let known = match target.subresource.as_deref() {
            None => !kind.create_only,
            Some("status") => kind.status,
            Some(_) => false,
        };
        if !known {
            return Err(Status::no_such_path());
        }
        let format = Format::negotiate(&request.accept, kind)?;
        let answer = if target.verb == "get" { list::get } else { list::list };
        answer(self, now, request.replica, kind, target, options, format)
    }

    fn write(
        &mut self,
        now: Duration,
        request: &Request,
        kind: &ResourceKind,
        target: &ResourceTarget,
        principal: &Principal,
    ) -> Result<Response, Status> {
        if request.body.len() > MAX_BODY_BYTES {
            return Err(Status::too_large());
        }
        let format = Format::negotiate(&request.accept, kind)?;
        let answer = |code: u16, object: &Value| Response {
            status: code,
            content_type: format.content_type(false),
            headers: Vec::new(),
            body: format.document(kind, object, now),
        };
        if target.verb == "patch" {
            let (object, created) =
                write::patch(self, now, kind, target, &request.content_type, &request.body)?;
            return Ok(answer(if created { 201 } else { 200 }, &object));
        }
        let body = parse_body(request)?;
        match (target.verb, target.subresource.as_deref()) {
            ("create", Some("token")) if kind.gvr.resource == "serviceaccounts" => {
                let jti = format!("00000000-0000-4000-9000-{:012x}", self.next_serial());
                let Self { tokens, store, .. } = self;
                Ok(Response::json(201, &tokens.request(now, target, body, store, &jti)?))
            }
            ("create", None) if kind.create_only => {
                let document = match kind.gvr.resource.as_str() {
                    "tokenreviews" => review::token(self, now, body),
                    "subjectaccessreviews" => review::access(self, body, None),
                    _ => review::access(self, body, Some(principal)),
                };
                Ok(Response::json(201, &document))
            }
            ("create", None) => write::create(self, now, kind, target, body).map(|o| answer(201, &o)),
            ("update", None | Some("status")) => {
                write::update(self, now, kind, target, body).map(|o| answer(200, &o))
            }
            ("delete", None) => write::delete(self, now, kind, target, &body).map(|d| {
                // A finished delete is a Status, an unfinished one the object.
                if d["kind"] == "Status" { Response::json(200, &d) } else { answer(200, &d) }
            }),
            _ => Err(Status::method_not_allowed()),
        }
    }
}

fn parse_body(request: &Request) -> Result<Value, Status> {
    if request.body.is_empty() {
        return Ok(json!({}));
    }
    let media = request.content_type.split(';').next().unwrap_or_default().trim();
    if !matches!(media, "" | "application/json") {
        return Err(Status::unsupported_media_type(&request.content_type));
    }
    serde_json::from_slice(&request.body)
        .map_err(|e| Status::bad_request(format!("the object provided is unrecognized: {e}")))
}

fn new_record(
    order: u64,
    now: Duration,
    request: &Request,
    target: Option<&Target>,
    principal: Option<&Principal>,
) -> RequestRecord {
    let resource = match target {
        Some(Target::Resource(resource)) => Some(resource),
        _ => None,
    };
    let parameter = |name: &str| {
        form_urlencoded::parse(request.query.as_bytes()).find(|(k, _)| k == name).map(|(_, v)| v.into_owned())
    };
    RequestRecord {
        order,
        time: now,
        replica: request.replica,
        credential: match request.identity {
            Identity::Certificate(_) => Credential::Certificate,
            Identity::Bearer(_) => Credential::Token,
            Identity::Anonymous => Credential::Nothing,
        },
        user: principal.map(|p| p.user.clone()).unwrap_or_default(),
        groups: principal.map(|p| p.groups.clone()).unwrap_or_default(),
        verb: resource.map_or_else(|| request.method.to_lowercase(), |r| r.verb.to_owned()),
        gvr: resource.map(|r| r.gvr.clone()),
        namespace: resource.and_then(|r| r.namespace.clone()),
        name: resource.and_then(|r| r.name.clone()),
        subresource: resource.and_then(|r| r.subresource.clone()),
        path: request.path.clone(),
        query: request.query.clone(),
        resource_version: parameter("resourceVersion"),
        initial_events: parameter("sendInitialEvents").as_deref() == Some("true"),
        accept: request.accept.clone(),
        user_agent: request.user_agent.clone(),
        status: 0,
        bytes_in: request.body.len() as u64,
        bytes_out: 0,
        initial_bytes: 0,
        fault: None,
        ended: false,
    }
}
