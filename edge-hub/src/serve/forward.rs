//! Requests that the cloud answers: passed on as the client's own, and what their answers teach is kept.

use std::{sync::Arc, time::Duration};

use edge_hub_core::{access::AccessKey, documents::Document, lease::is_own_lease, token::TokenKey};
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt as _;
use proto_kube::{
    gvr::GroupVersionResource,
    list_options::ListOptions,
    media_type::{Encoding, Form, Format},
    request_info::{NonResourceRequest, RequestInfo, ResourceRequest, Verb},
    status::Status,
};

use super::{Call, answer, hop::strip_hop_headers, read, resource_access};
use crate::{
    decode::inflate_for,
    hub::{Hub, collection_access},
    store::BlobClass,
    upstream::{Body, UpstreamBody, UpstreamError, full, read_all},
};

/// kube-apiserver ends requests that are no watches after 60 s.
const HEAD_TIMEOUT: Duration = Duration::from_secs(65);
/// A log that is followed may stay silent before its first byte.
const STREAM_HEAD_TIMEOUT: Duration = Duration::from_secs(3600);
/// Answers up to this size are read whole before they are passed on; OpenAPI with many CRDs is the largest.
const MAX_DOCUMENT_BYTES: usize = 32 * 1024 * 1024;
const BODY_PATIENCE: Duration = Duration::from_secs(15);

/// Under what a single object's answer is kept.
pub(super) fn single_key(uri: &Uri, format: Format) -> String {
    single_path_key(&canonical_path(uri), format)
}

/// The path as the hub itself writes it, however the client spelled it: what is kept under one spelling must not outlive
/// what is forgotten under another.
fn canonical_path(uri: &Uri) -> String {
    match RequestInfo::parse("GET", uri.path(), None) {
        Ok(RequestInfo::Resource(request)) => {
            let (namespace, name) = (request.namespace.as_deref(), request.name.as_deref());
            request.gvr.path(namespace, name, request.subresource.as_deref())
        }
        _ => uri.path().to_owned(),
    }
}

/// Whether the API server may leave the head of its answer open for as long as there is nothing to say: a log that is
/// followed.
fn may_be_silent(uri: &Uri) -> bool {
    uri.path().ends_with("/log")
        && matches!(RequestInfo::parse("GET", uri.path(), None),
            Ok(RequestInfo::Resource(request)) if request.subresource.as_deref() == Some("log"))
}

fn single_path_key(path: &str, format: Format) -> String {
    format!("{SINGLE}{path} {:?} {:?}", format.encoding, format.form)
}

/// The object at this path is gone: no kept answer may bring it back, in whatever form.
pub fn forget_single(hub: &Hub, path: &str) {
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        for form in [Form::Object, Form::Table, Form::PartialMetadata] {
            hub.drop_document(BlobClass::Single, &single_path_key(path, Format { encoding, form }));
        }
    }
}

/// Tells the keys of single objects from those of discovery, which begin with their path.
const SINGLE: &str = "object ";

/// Whether this is the key of a single object's answer.
#[must_use]
pub fn is_single_key(key: &str) -> bool {
    key.starts_with(SINGLE)
}

/// The path of the object whose answer is kept under this key.
#[must_use]
pub fn path_of_single(key: &str) -> Option<&str> {
    key.strip_prefix(SINGLE)?.split(' ').next()
}

/// Under what a discovery document is kept: what was asked for decides what came.
fn discovery_key(uri: &Uri, accept: &str) -> String {
    format!("{} {accept}", uri.path_and_query().map_or("/", |path| path.as_str()))
}

/// Paths that tell a client what the API offers; they hold no objects.
fn is_discovery(path: &str) -> bool {
    matches!(path, "/version" | "/version/" | "/api" | "/apis")
        || path.starts_with("/api/")
        || path.starts_with("/apis/")
        || path.starts_with("/openapi/")
}

impl Call {
    async fn send(&self) -> Result<Response<UpstreamBody>, UpstreamError> {
        let mut builder = Request::builder().method(self.head.method.clone()).uri(self.head.uri.clone());
        if let Some(headers) = builder.headers_mut() {
            headers.clone_from(&self.head.headers);
            strip_hop_headers(headers);
            headers.remove(header::HOST);
            headers.remove(header::CONTENT_LENGTH);
            headers.remove(header::EXPECT);
        }
        let request = builder.body(full(self.body.clone())).map_err(UpstreamError::Request)?;
        let patience = if may_be_silent(&self.head.uri) { STREAM_HEAD_TIMEOUT } else { HEAD_TIMEOUT };
        self.hub.metrics.forwarded.inc();
        let outcome = self.hub.upstream.send(&self.credential, request, patience).await;
        if let Err(error) = &outcome {
            tracing::debug!(%error, path = self.head.uri.path(), "the cloud did not answer");
        }
        outcome
    }

    /// The answer as it comes, streamed.
    pub(super) fn relay(self, response: Response<UpstreamBody>) -> Response<Body> {
        let (mut head, body) = response.into_parts();
        strip_hop_headers(&mut head.headers);
        Response::from_parts(head, body.map_err(Into::into).boxed_unsync())
    }

    /// Reads a small answer whole, unpacked, so that it can be kept.
    pub(super) async fn read_answer(
        &self,
        response: Response<UpstreamBody>,
    ) -> Option<(http::response::Parts, bytes::Bytes)> {
        self.read_answer_of(response, MAX_DOCUMENT_BYTES).await
    }

    /// Reads an answer of at most `limit` bytes whole, unpacked.
    pub(super) async fn read_answer_of(
        &self,
        response: Response<UpstreamBody>,
        limit: usize,
    ) -> Option<(http::response::Parts, bytes::Bytes)> {
        let (mut head, body) = response.into_parts();
        strip_hop_headers(&mut head.headers);
        let mut inflate = inflate_for(&head.headers)?;
        let packed = read_all(body, limit, BODY_PATIENCE).await.ok()?;
        let plain = inflate.whole(packed, limit).ok()?;
        head.headers.remove(header::CONTENT_ENCODING);
        head.headers.remove(header::CONTENT_LENGTH);
        Some((head, plain))
    }

    fn learn(&self, key: &AccessKey, status: StatusCode) {
        // The API server looks for an object only after it allowed the request, so 404 proves the right, too.
        let allowed = [StatusCode::NOT_MODIFIED, StatusCode::NOT_FOUND].contains(&status);
        if status.is_success() || allowed {
            self.hub.record_access(&self.principal, key, true);
        } else if status == StatusCode::FORBIDDEN {
            self.hub.record_access(&self.principal, key, false);
        }
    }

    /// Admission and quota answer a write with 403, too: only a review tells whether it was the right that lacked.
    pub(super) fn learn_of_write(&self, key: &AccessKey, status: StatusCode) {
        if status != StatusCode::FORBIDDEN {
            return self.learn(key, status);
        }
        if self.may(key) != Some(false) {
            let (hub, principal, key) = (Arc::clone(&self.hub), self.principal.clone(), key.clone());
            tokio::spawn(async move { hub.ask_access(&principal, &key).await });
        }
    }

    /// The cloud itself answered a LIST or WATCH. Where it had refused the hub the same a moment ago - the API server's
    /// own picture of who may read what a new pod names lags behind the pod - its newer word holds, and the collection is
    /// fetched now: the client has what it asked for and will not ask again, and the next cut may come first. Returns
    /// whether that is so.
    fn learn_of_collection(&self, request: &ResourceRequest, status: StatusCode) -> bool {
        let Ok(options) = ListOptions::for_request(request, self.query()) else { return false };
        let Ok(formats) = self.formats(request, options.include_object) else { return false };
        let (Some(shown), None) = (formats.first(), &request.subresource) else { return false };
        let wanted = read::spec(request, &options, self.hub.held_for(&request.gvr, *shown));
        let access = collection_access(&wanted, request.verb);
        if status == StatusCode::FORBIDDEN {
            self.hub.record_access(&self.principal, &access, false);
            return false;
        }
        // The hub may have been refused the one when the client was given the other.
        let is_refused = |verb| self.may(&collection_access(&wanted, verb)) == Some(false);
        let is_news = self.may(&access) != Some(true);
        if !status.is_success() || !is_news || ![Verb::List, Verb::Watch].into_iter().any(is_refused) {
            return false;
        }
        self.hub.record_access(&self.principal, &access, true);
        let Some(cell) = self.hub.cell_or_new(&wanted) else { return false };
        cell.sponsor(&self.principal, self.credential.clone(), self.hub.clock.now().monotonic);
        true
    }

    /// Passed on, and nothing of it is kept.
    pub(super) async fn forward_uncached(mut self, info: &RequestInfo) -> Response<Body> {
        if !self.hub.is_connected() {
            return answer::refuse(&cut_off("only the API server can answer this request"));
        }
        if let RequestInfo::Resource(request) = info
            && let Err(status) = self.without_own_versions(request).await
        {
            return answer::refuse(&status);
        }
        match self.send().await {
            Ok(response) => self.relay(response),
            Err(error) => answer::refuse(&lost(&error)),
        }
    }

    /// A read or write of a resource that the cloud answers.
    pub(super) async fn forward_resource(mut self, request: ResourceRequest) -> Response<Body> {
        if let Err(status) = self.without_own_versions(&request).await {
            return answer::refuse(&status);
        }
        let mut outcome = self.send().await;
        if outcome.is_err() && request.verb.is_read() && !self.hub.await_verdict().await {
            // The link stands, only that connection died: a read may be asked again.
            outcome = self.send().await;
        }
        match outcome {
            Ok(response) => {
                if is_own_lease(&self.hub.config.file.node_name, &self.principal, &request) {
                    return self.keep_lease(&request, response).await;
                }
                if request.verb == Verb::Get && request.subresource.is_none() {
                    return self.keep_single(&request, response).await;
                }
                if request.verb == Verb::Create && request.subresource.as_deref() == Some("token") {
                    return self.keep_token(&request, response).await;
                }
                if let Some(kind) = self.own_review(&request) {
                    return self.keep_review(kind, &request, response).await;
                }
                if self.writes_own_csi_node(&request) {
                    return self.keep_written_csi_node(response).await;
                }
                if !matches!(request.verb, Verb::List | Verb::Watch) {
                    self.learn_of_write(&resource_access(&request), response.status());
                } else if self.learn_of_collection(&request, response.status())
                    && request.verb == Verb::Watch
                    && !std::mem::replace(&mut self.went_back, true)
                {
                    // A stream of the cloud's would end with the link; from the collection it does not.
                    drop(response);
                    return Box::pin(self.list_or_watch(request)).await;
                }
                if request.verb == Verb::Delete && response.status().is_success() {
                    forget_single(&self.hub, &canonical_path(&self.head.uri));
                }
                self.relay_filtered(&request, response).await
            }
            // A read may be asked again, of the cache; a write may have arrived, and only its sender knows what then.
            Err(error) if request.verb.is_read() && !self.hub.is_connected() => {
                self.read_again(request, &error).await
            }
            Err(error) => self.unsent(&request, &error).await,
        }
    }

    /// The link died under a read: answer as if it had come a moment later.
    async fn read_again(self, request: ResourceRequest, error: &UpstreamError) -> Response<Body> {
        match request.verb {
            Verb::Get if request.subresource.is_none() => Box::pin(self.get(request)).await,
            Verb::List | Verb::Watch if request.subresource.is_none() => {
                Box::pin(self.list_or_watch(request)).await
            }
            _ => answer::refuse(&lost(error)),
        }
    }

    /// The kubelet writes its CSINode once and reads it again only after a restart, which may come in a cut: without
    /// it the node is not ready. So what the cloud answers to that write is kept like an answer to a read.
    async fn keep_written_csi_node(self, response: Response<UpstreamBody>) -> Response<Body> {
        if !response.status().is_success() {
            return self.relay(response);
        }
        let Some((head, body)) = self.read_answer(response).await else {
            return answer::refuse(&Status::service_unavailable("the answer of the cloud broke off"));
        };
        let content_type = header_text(&head.headers, &header::CONTENT_TYPE);
        if let Some(format) = Format::from_content_type(&content_type) {
            let gvr = GroupVersionResource::new("storage.k8s.io", "v1", "csinodes");
            let path = gvr.path(None, Some(&self.hub.config.file.node_name), None);
            let document = Document {
                content_type: content_type.into(),
                etag: None,
                body: body.clone(),
                fetched_unix: self.hub.clock.now().unix,
            };
            self.hub.keep_document(BlobClass::Single, &single_path_key(&path, format), document);
        }
        Response::from_parts(head, full(body))
    }

    /// Whether this writes the CSINode of this node, as this node.
    fn writes_own_csi_node(&self, request: &ResourceRequest) -> bool {
        (&*request.gvr.group, &*request.gvr.version, &*request.gvr.resource)
            == ("storage.k8s.io", "v1", "csinodes")
            && matches!(request.verb, Verb::Create | Verb::Update | Verb::Patch)
            && self.principal == self.hub.node
    }

    async fn keep_single(
        self,
        request: &ResourceRequest,
        response: Response<UpstreamBody>,
    ) -> Response<Body> {
        let status = response.status();
        self.learn(&resource_access(request), status);
        if status != StatusCode::OK {
            if status == StatusCode::NOT_FOUND {
                forget_single(&self.hub, &canonical_path(&self.head.uri));
            }
            return self.relay(response);
        }
        let Some((head, body)) = self.read_answer(response).await else {
            return answer::refuse(&Status::service_unavailable("the answer of the cloud broke off"));
        };
        let content_type = header_text(&head.headers, &header::CONTENT_TYPE);
        let format = self.format_of(&content_type);
        if let Some(format) = format {
            let document = Document {
                content_type: content_type.into(),
                etag: None,
                body: body.clone(),
                fetched_unix: self.hub.clock.now().unix,
            };
            self.hub.keep_document(BlobClass::Single, &single_key(&self.head.uri, format), document);
        }
        // Kept as it came: each client is shown it through its own filters.
        match format {
            Some(format) => match self.shown(request, format, &body) {
                Ok(shown) => Response::from_parts(head, full(shown)),
                Err(status) => answer::refuse(&status),
            },
            None if self.chain.is_empty() => Response::from_parts(head, full(body)),
            None => answer::refuse(&Status::internal("the answer of the cloud cannot be filtered")),
        }
    }

    async fn keep_token(self, request: &ResourceRequest, response: Response<UpstreamBody>) -> Response<Body> {
        let status = response.status();
        self.learn_of_write(&resource_access(request), status);
        if status != StatusCode::CREATED {
            return self.relay(response);
        }
        let Some((head, body)) = self.read_answer(response).await else {
            return answer::refuse(&Status::service_unavailable("the answer of the cloud broke off"));
        };
        if let Some(key) = self.token_key(request) {
            let encoding = Format::from_content_type(&header_text(&head.headers, &header::CONTENT_TYPE));
            if let Some(format) = encoding {
                let stored = crate::hub::lock(&self.hub.tokens).store(
                    self.hub.clock.now(),
                    &key,
                    format.encoding,
                    body.clone(),
                );
                match stored {
                    Ok(changes) => self.hub.save_records(BlobClass::Token, changes),
                    Err(error) => {
                        tracing::warn!(%error, "a token answer cannot be kept for the time of a cut")
                    }
                }
            }
        }
        Response::from_parts(head, full(body))
    }

    async fn keep_lease(self, request: &ResourceRequest, response: Response<UpstreamBody>) -> Response<Body> {
        let status = response.status();
        self.learn(&resource_access(request), status);
        if !matches!(status, StatusCode::OK | StatusCode::CREATED) || !is_whole_lease(request.verb) {
            return self.relay(response);
        }
        let Some((head, body)) = self.read_answer(response).await else {
            return answer::refuse(&Status::service_unavailable("the answer of the cloud broke off"));
        };
        let came = Format::from_content_type(&header_text(&head.headers, &header::CONTENT_TYPE));
        if let Some(format) = came {
            let seen = crate::hub::lock(&self.hub.lease).observe(
                self.hub.clock.now(),
                format.encoding,
                body.clone(),
            );
            if let Ok(changes) = seen {
                self.hub.save_records(BlobClass::Lease, changes);
            }
        }
        Response::from_parts(head, full(body))
    }

    /// What a TokenRequest asks for; `None` for a body that is none.
    pub(super) fn token_key(&self, request: &ResourceRequest) -> Option<TokenKey> {
        let format = Format::from_content_type(&header_text(&self.head.headers, &header::CONTENT_TYPE))
            .unwrap_or(Format::JSON);
        let namespace = request.namespace.as_deref()?;
        let name = request.name.as_deref()?;
        TokenKey::parse(&self.principal, namespace, name, format.encoding, &self.body).ok()
    }

    /// Discovery, versions, OpenAPI, health and whatever else is no resource.
    pub(super) async fn non_resource(mut self, request: NonResourceRequest) -> Response<Body> {
        let info = RequestInfo::NonResource(request.clone());
        let access = AccessKey::of(&info, "", "");
        let kept = *request.verb == *"get" && is_discovery(&request.path);
        let key = discovery_key(&self.head.uri, self.header(header::ACCEPT).unwrap_or_default());
        if self.hub.is_connected() {
            if kept && crate::hub::lock(&self.hub.documents).get(&key).is_none() {
                // What the client holds is as good as new, but nothing would be here in a cut.
                self.head.headers.remove(header::IF_NONE_MATCH);
                self.head.headers.remove(header::IF_MODIFIED_SINCE);
            }
            match self.send().await {
                Ok(response) if kept => return self.keep_discovery(&access, &key, response).await,
                Ok(response) => return self.relay(response),
                Err(error) if self.hub.is_connected() => return answer::refuse(&lost(&error)),
                Err(_) => {}
            }
        }
        self.discovery_offline(&access, &key)
    }

    async fn keep_discovery(
        self,
        access: &AccessKey,
        key: &str,
        response: Response<UpstreamBody>,
    ) -> Response<Body> {
        let status = response.status();
        self.learn(access, status);
        if status != StatusCode::OK {
            return self.relay(response);
        }
        let Some((head, body)) = self.read_answer(response).await else {
            return answer::refuse(&Status::service_unavailable("the answer of the cloud broke off"));
        };
        let etag = header_text(&head.headers, &header::ETAG);
        let document = Document {
            content_type: header_text(&head.headers, &header::CONTENT_TYPE).into(),
            etag: (!etag.is_empty()).then(|| etag.into()),
            body: body.clone(),
            fetched_unix: self.hub.clock.now().unix,
        };
        self.hub.keep_document(BlobClass::Discovery, key, document);
        Response::from_parts(head, full(body))
    }

    fn discovery_offline(&self, access: &AccessKey, key: &str) -> Response<Body> {
        let allowed = self.may(access).unwrap_or_else(|| self.is_trusted_offline());
        if let Some(document) = crate::hub::lock(&self.hub.documents).get(key).filter(|_| allowed) {
            let age = self.hub.clock.now().unix.saturating_sub(document.fetched_unix);
            self.hub.metrics.served_from_cache.inc();
            return answer::document(document, self.header(header::IF_NONE_MATCH), self.staleness(Some(age)));
        }
        answer::refuse(&cut_off("this node holds no copy of that document for this user"))
    }
}

/// Whether the answer to this verb is the Lease itself.
fn is_whole_lease(verb: Verb) -> bool {
    matches!(verb, Verb::Get | Verb::Create | Verb::Update | Verb::Patch)
}

pub(super) fn header_text(headers: &HeaderMap, name: &HeaderName) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

/// 503 without Retry-After: with it client-go would block its caller for up to ten attempts.
pub(super) fn cut_off(why: &str) -> Status {
    Status::service_unavailable(format!("this node is cut off from the cloud: {why}"))
}

/// The cloud did not answer one request.
pub(super) fn lost(error: &UpstreamError) -> Status {
    Status::service_unavailable(format!("the cloud did not answer: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_kept_and_forgotten_under_one_path_however_it_is_spelled() {
        let plain = "/api/v1/namespaces/default/configmaps/kube-root-ca.crt";
        for spelled in [
            plain,
            "/api/v1/namespaces/default/configmaps/kube%2Droot-ca.crt",
            "/api/v1/namespaces/def%61ult/configmaps/kube-root-ca.crt",
        ] {
            assert_eq!(canonical_path(&Uri::from_static(spelled)), plain);
        }
        let scale = "/apis/apps/v1/namespaces/default/deployments/web/scale";
        assert_eq!(canonical_path(&Uri::from_static(scale)), scale);
        assert_eq!(canonical_path(&Uri::from_static("/version")), "/version");
    }

    #[test]
    fn a_log_may_be_silent_and_an_object_with_such_a_name_may_not() {
        let pods = "/api/v1/namespaces/default/pods/web";
        for (path, silent) in [
            (format!("{pods}/log"), true),
            (pods.to_owned(), false),
            ("/api/v1/namespaces/default/configmaps/log".to_owned(), false),
            ("/api/v1/namespaces/default/configmaps/proxy-x".to_owned(), false),
        ] {
            assert_eq!(may_be_silent(&path.parse().unwrap()), silent, "{path}");
        }
    }
}
