//! One request: who asks, whether it is permitted, which route it takes, and what that answers.

use std::time::Duration;

use serde_json::{Value, json};

use crate::answer::{Answer, AnswerKind, Response};
use crate::authorization::{Attributes, Principal};
use crate::delete::{self, DeleteOptions};
use crate::encoding::{Encoding, Format};
use crate::fault::Fault;
use crate::options::{ListOptions, unreadable_version};
use crate::record::{Credential, RequestRecord};
use crate::request::{Identity, Request, ResourceTarget, Target};
use crate::resource::ResourceKind;
use crate::selector::FieldSelector;
use crate::server::Cloud;
use crate::status::{Cause, Status};
use crate::watch::WatchCursor;
use crate::{admission, defaults, discovery, list, review, write};

/// Largest request body, as the real server.
const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;
/// Bodies below this are never compressed.
const GZIP_MIN_BYTES: usize = 128 * 1024;
/// The patch types that every kind takes, and the one that only built-in kinds take.
const PATCHES: [&str; 3] =
    ["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];
const STRATEGIC: &str = "application/strategic-merge-patch+json";

impl Cloud {
    /// Answer one request.
    pub fn handle(&mut self, now: Duration, request: &Request) -> Answer {
        let target = Target::parse(&request.method, &request.path, &request.query);
        let principal = self.authenticate(now, &request.identity);
        let order = self.records().len() as u64;
        let record = new_record(order, now, request, target.as_ref().ok(), principal.as_ref());
        let fault = if principal.is_some() { self.take_fault(&record) } else { None };
        self.record(record);
        let kind = match self.dispatch(now, request, target, principal.as_ref(), fault.as_ref()) {
            Ok(kind) => kind,
            Err(status) => {
                AnswerKind::Full { response: Response::refusal(&status, &request.accept), gzip: false }
            }
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
                let (principal, audiences) = self.authenticate_token(now, token).ok()?;
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
                // What cannot be read is told only to who may ask.
                let options = options(request, &target);
                self.authorize_resource(principal, &target, options.as_ref().ok())?;
                let kind = self.route(request, &target)?;
                if let Ok(options) = &options {
                    options.fields.check(&target.gvr)?;
                }
                let mut options = options?;
                if self.shows_by_user(&target.gvr) {
                    options.labels = options.labels.and("user", &principal.user);
                }
                if options.send_initial_events.is_some() && !self.serves_watch_list() {
                    let why = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
                    let cause = Cause::forbidden("sendInitialEvents", why);
                    return Err(Status::invalid_options("ListOptions", &[cause]));
                }
                if let (Some(Fault::ErrorEvent { code }), false) = (fault, options.watch) {
                    return Err(Status::with_code(*code, None));
                }
                match target.verb {
                    "watch" => self.watch(now, request, &kind, &target, options),
                    "get" | "list" => self.read(now, request, &kind, &target, &options).map(full),
                    _ => self.write(now, request, &kind, &target, &options, principal).map(full),
                }
            }
        }
    }

    /// The kind that a path names, if the path takes this method.
    fn route(&self, request: &Request, target: &ResourceTarget) -> Result<ResourceKind, Status> {
        if !self.registry().serves(&target.gvr.group) {
            return Err(Status::no_such_group());
        }
        let kind = self.registry().find(&target.gvr).cloned().ok_or_else(Status::no_such_path)?;
        if target.namespace.is_some() && !kind.namespaced {
            return Err(Status::no_such_path());
        }
        let named = target.name.is_some();
        let methods: &[&str] = match target.subresource.as_deref() {
            Some("status") if kind.status => &["GET", "PUT", "PATCH"],
            Some("token") if kind.kind == "ServiceAccount" => &["POST"],
            Some("binding") if kind.kind == "Pod" => &["POST"],
            Some(_) => return Err(Status::no_such_path()),
            None if kind.create_only => &["POST"],
            None if named => &["GET", "PUT", "PATCH", "DELETE"],
            // Of all namespaces at once a namespaced kind can only be read.
            None if kind.namespaced && target.namespace.is_none() => &["GET"],
            None if !kind.deletes_collections() => &["GET", "POST"],
            None => &["GET", "POST", "DELETE"],
        };
        if methods.contains(&request.method.as_str()) { Ok(kind) } else { Err(Status::method_not_allowed()) }
    }

    fn authorize(&self, attributes: &Attributes) -> Result<(), Status> {
        self.decide(attributes).map_err(|reason| {
            let reason = if reason.is_empty() { reason } else { format!(": {reason}") };
            let message = format!("{}{reason}", attributes.refusal());
            Status::unauthorized_for(attributes.gvr, attributes.name, message)
        })
    }

    fn authorize_resource(
        &self,
        principal: &Principal,
        target: &ResourceTarget,
        options: Option<&ListOptions>,
    ) -> Result<(), Status> {
        let unknown = FieldSelector::default();
        let fields = options.map_or(&unknown, |options| &options.fields);
        let selected = fields.required("metadata.name").filter(|_| matches!(target.verb, "list" | "watch"));
        self.authorize(&Attributes {
            principal,
            verb: target.verb,
            gvr: Some(&target.gvr),
            subresource: target.subresource.as_deref().unwrap_or_default(),
            namespace: target.namespace.as_deref().unwrap_or_default(),
            name: target.name.as_deref().or(selected).unwrap_or_default(),
            fields,
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
        let format = Format::negotiate(&request.accept, kind, true)?.with_rows(&request.query)?;
        let watch_list = options.send_initial_events == Some(true) && options.allow_bookmarks;
        let gzip = self.compresses_watch_list() && watch_list && request.accepts_gzip;
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
        let single = target.verb == "get";
        let format = Format::negotiate(&request.accept, kind, !single)?.with_rows(&request.query)?;
        let answer = if single { list::get } else { list::list };
        answer(self, now, request.replica, kind, target, options, format)
    }

    fn write(
        &mut self,
        now: Duration,
        request: &Request,
        kind: &ResourceKind,
        target: &ResourceTarget,
        options: &ListOptions,
        principal: &Principal,
    ) -> Result<Response, Status> {
        let collection = target.name.is_none();
        let format = Format::negotiate(&request.accept, kind, collection)?.with_rows(&request.query)?;
        if target.verb == "patch" {
            check_patch(request, kind)?;
        }
        if request.body.len() > MAX_BODY_BYTES {
            return Err(Status::too_large());
        }
        let dry_run = dry_run(request, target.verb)?;
        let body = if target.verb == "patch" { Value::Null } else { parse_body(request, kind)? };
        if let Some(node) = principal.node_name() {
            admission::of_node(node, kind, target, &body, self.store())?;
        }
        let write = Write { now, request, kind, target, options, principal, format };
        if !dry_run {
            return write.run(self, body).map(|done| write.answer(&done));
        }
        let before = write::find(self, kind, target).ok();
        let mut done = self.undone(|cloud| write.run(cloud, body))?;
        // Nothing was written, so there is no new revision to tell.
        if let Done::Object(_, object) = &mut done {
            let meta = &mut object["metadata"];
            write::keep(
                meta,
                &before.map_or_else(|| json!({}), |(_, b)| b["metadata"].clone()),
                "resourceVersion",
            );
        }
        Ok(write.answer(&done))
    }
}

/// What a write has done.
enum Done {
    /// Code and object.
    Object(u16, Value),
    /// Code and a `metav1.Status`.
    Status(u16, Value),
    /// A document that is not stored.
    Document(Value),
    /// The answer is there.
    Answered(Response),
}

/// One write on its way.
struct Write<'a> {
    now: Duration,
    request: &'a Request,
    kind: &'a ResourceKind,
    target: &'a ResourceTarget,
    options: &'a ListOptions,
    principal: &'a Principal,
    format: Format,
}

impl Write<'_> {
    fn run(&self, cloud: &mut Cloud, mut body: Value) -> Result<Done, Status> {
        let Write { now, request, kind, target, .. } = *self;
        let stored = |(object, created): (std::sync::Arc<Value>, bool)| {
            Done::Object(if created { 201 } else { 200 }, (*object).clone())
        };
        match (target.verb, target.subresource.as_deref()) {
            ("create", Some("token")) => cloud.request_token(now, target, body).map(Done::Document),
            ("create", Some(_)) => {
                delete::bind(cloud, now, kind, target, &body).map(|d| Done::Status(201, d))
            }
            ("create", None) if kind.create_only => {
                review::answer(cloud, now, kind, body, self.principal).map(Done::Document)
            }
            ("create", None) => {
                defaults::reset(kind, &mut body);
                write::create(cloud, now, kind, target, body).map(|o| stored((o, true)))
            }
            ("update", _) => write::update(cloud, now, kind, target, body).map(stored),
            ("patch", _) => {
                let patch = &request.body;
                write::patch(cloud, now, kind, target, &request.content_type, patch).map(stored)
            }
            ("delete", _) => {
                let options = DeleteOptions::parse(&body, delete_query(request))?;
                let run = |cloud: &mut Cloud| delete::one(cloud, now, kind, target, &options);
                let gone = if options.dry_run { cloud.undone(run) } else { run(cloud) }?;
                // A finished delete is a Status, an unfinished one the object.
                Ok(if gone["kind"] == "Status" { Done::Status(200, gone) } else { Done::Object(200, gone) })
            }
            _ => self.delete_collection(cloud, &body),
        }
    }

    fn delete_collection(&self, cloud: &mut Cloud, body: &Value) -> Result<Done, Status> {
        let Write { now, request, kind, target, options, format, .. } = *self;
        let deletion = DeleteOptions::parse(body, delete_query(request))?;
        let (keys, answer) = list::listed(cloud, now, request.replica, kind, target, options, format)?;
        if !deletion.dry_run {
            delete::many(cloud, now, kind, target, &keys, &deletion)?;
        }
        Ok(Done::Answered(answer))
    }

    fn answer(&self, done: &Done) -> Response {
        match done {
            Done::Answered(response) => response.clone(),
            Done::Document(document) => Response::json(201, document),
            Done::Status(code, document) if self.format.encoding == Encoding::Protobuf => {
                Response::status_in_protobuf(*code, document)
            }
            Done::Status(code, document) => Response::json(*code, document),
            Done::Object(code, object) => Response {
                status: *code,
                content_type: self.format.content_type(false),
                headers: Vec::new(),
                body: self.format.document(self.kind, object, self.now),
            },
        }
    }
}

/// List and watch parameters; a name in the path of a watch stands for a selector.
fn options(request: &Request, target: &ResourceTarget) -> Result<ListOptions, Status> {
    let mut options = match target.verb {
        "list" | "watch" | "deletecollection" => ListOptions::parse(&request.query, target.verb == "watch")?,
        "get" => return get_options(&request.query),
        _ => return Ok(ListOptions::default()),
    };
    options.watch = target.verb == "watch";
    if options.watch
        && let Some(name) = &target.name
    {
        options.fields.require("metadata.name", name);
    }
    Ok(options)
}

/// A GET of one object knows a revision and nothing else.
fn get_options(query: &str) -> Result<ListOptions, Status> {
    let mut options = ListOptions::default();
    let given = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "resourceVersion");
    if let Some((_, value)) = given.filter(|(_, value)| !value.is_empty()) {
        let version = value.parse().map_err(|_| Status::unexpected(unreadable_version(&value)))?;
        options.resource_version = Some(version);
    }
    Ok(options)
}

/// The parameters of a deletion, which a server reads only when there is no body.
fn delete_query(request: &Request) -> &str {
    if request.body.is_empty() { &request.query } else { "" }
}

/// Whether the query asks for a dry run.
fn dry_run(request: &Request, verb: &str) -> Result<bool, Status> {
    let asked = form_urlencoded::parse(request.query.as_bytes()).find(|(key, _)| key == "dryRun");
    let Some((_, value)) = asked else { return Ok(false) };
    if value == "All" {
        // Deletions look at it themselves.
        return Ok(!verb.starts_with("delete"));
    }
    let kind = match verb {
        "create" => "CreateOptions",
        "update" => "UpdateOptions",
        "patch" => "PatchOptions",
        _ => "DeleteOptions",
    };
    let cause = Cause::unsupported("dryRun", &format!("[{value:?}]"), &["All"]);
    Err(Status::invalid_options(kind, &[cause]))
}

/// The type of a patch, and what a server-side apply needs.
fn check_patch(request: &Request, kind: &ResourceKind) -> Result<(), Status> {
    let media = media_type(&request.content_type);
    if kind.gvr.is_custom() && media == STRATEGIC {
        return Err(Status::unsupported_media_type(&PATCHES.join(", ")));
    }
    if !PATCHES.contains(&media) && media != STRATEGIC {
        return Err(Status::no_such_body());
    }
    let managed = form_urlencoded::parse(request.query.as_bytes())
        .any(|(key, value)| key == "fieldManager" && !value.is_empty());
    if media == PATCHES[2] && !managed {
        let cause = Cause::required("fieldManager", "is required for apply patch");
        return Err(Status::invalid_options("PatchOptions", &[cause]));
    }
    Ok(())
}

fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

fn parse_body(request: &Request, kind: &ResourceKind) -> Result<Value, Status> {
    let deletes = request.method == "DELETE";
    if request.body.is_empty() && deletes {
        return Ok(json!({}));
    }
    if !request.body.is_empty() && !matches!(media_type(&request.content_type), "" | "application/json") {
        let protobuf = if kind.gvr.is_custom() { "" } else { ", application/vnd.kubernetes.protobuf" };
        let accepted = format!("application/json, application/yaml{protobuf}");
        return Err(Status::unsupported_media_type(&accepted));
    }
    let unreadable = |why: &str| {
        let words = format!("couldn't get version/kind; json parse error: {why}");
        Status::bad_request(if deletes {
            words
        } else {
            format!("the object provided is unrecognized (must be of type {}): {words}", kind.kind)
        })
    };
    if request.body.is_empty() {
        return Err(unreadable("unexpected end of JSON input (<empty>)"));
    }
    match serde_json::from_slice(&request.body) {
        Ok(Value::Object(object)) => Ok(object.into()),
        Ok(_) => Err(unreadable("the document is no object")),
        Err(error) => Err(unreadable(&error.to_string())),
    }
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
