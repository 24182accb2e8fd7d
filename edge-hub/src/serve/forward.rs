//! Requests that the cloud answers: passed on as the client's own, and what their answers teach is kept.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use edge_hub_core::{access::AccessKey, documents::Document, lease::is_own_lease, token::TokenKey};
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, Uri, header};
use proto_kube::{
    gvr::GroupVersionResource,
    list_options::ListOptions,
    media_type::Format,
    request_info::{NonResourceRequest, RequestInfo, ResourceRequest, Verb},
    status::Status,
};

use super::{answer, call::Call, call::resource_access, read};
use crate::{
    documents::{canonical_path, single_key, single_path_key},
    hop::strip_hop_headers,
    store::BlobClass,
    sync::lock,
    upstream::{Body, UpstreamBody, UpstreamError, full},
};

/// kube-apiserver ends requests that are no watches after 60 s.
const HEAD_TIMEOUT: Duration = Duration::from_secs(65);
/// A log that is followed may stay silent before its first byte.
const STREAM_HEAD_TIMEOUT: Duration = Duration::from_secs(3600);

/// Whether the API server may leave the head of its answer open for as long as there is nothing to say: a log that is
/// followed.
fn may_be_silent(uri: &Uri) -> bool {
    uri.path().ends_with("/log")
        && matches!(RequestInfo::parse("GET", uri.path(), None),
            Ok(RequestInfo::Resource(request)) if request.subresource.as_deref() == Some("log"))
}

/// Query parameters that do not change a discovery document: how long the client waits for it.
const HARMLESS: &str = "timeout";
/// The version that a document of OpenAPI v3 is asked for by, which its path does not tell.
const HASH: &str = "hash";
/// Longest wish for a representation under which a document is kept.
const MAX_ACCEPT_BYTES: usize = 1024;

/// Under what a discovery document is kept: what was asked for decides what came. `None` where a client made something
/// up, since it could do that any number of times.
fn discovery_key(uri: &Uri, accept: &str) -> Option<String> {
    let mut key = uri.path().trim_end_matches('/').to_owned();
    for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        match &*name {
            HARMLESS => {}
            HASH if key.starts_with("/openapi/v3/") => {
                key.push_str("?hash=");
                key.extend(form_urlencoded::byte_serialize(value.as_bytes()));
            }
            _ => return None,
        }
    }
    if accept.len() > MAX_ACCEPT_BYTES {
        return None;
    }
    key.push(' ');
    key.extend(
        accept.chars().filter(|letter| !letter.is_whitespace()).map(|letter| letter.to_ascii_lowercase()),
    );
    Some(key)
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
        self.hub.site.metrics.forwarded.inc();
        let outcome = self.hub.site.upstream.send(&self.credential, request, patience).await;
        if let Err(error) = &outcome {
            tracing::debug!(%error, path = self.head.uri.path(), "the cloud did not answer");
        }
        outcome
    }

    fn learn(&self, key: &AccessKey, status: StatusCode) {
        // The API server looks for an object only after it allowed the request, so 404 proves the right, too.
        let allowed = [StatusCode::NOT_MODIFIED, StatusCode::NOT_FOUND].contains(&status);
        if status.is_success() || allowed {
            self.hub.authorizer.record_access(&self.principal, key, true);
        } else if status == StatusCode::FORBIDDEN {
            self.hub.authorizer.record_access(&self.principal, key, false);
        }
    }

    /// Admission and quota answer a write with 403, too: only a review tells whether it was the right that lacked.
    pub(super) fn learn_of_write(&self, key: &AccessKey, status: StatusCode) {
        if status != StatusCode::FORBIDDEN {
            return self.learn(key, status);
        }
        if self.may(key) != Some(false) {
            let (hub, principal, key) = (Arc::clone(&self.hub), self.principal.clone(), key.clone());
            tokio::spawn(async move { hub.authorizer.ask_access(&principal, &key).await });
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
        let wanted = read::spec(request, &options, self.hub.collections.held_for(&request.gvr, *shown));
        let access = AccessKey::of_collection(&wanted, request.verb);
        if status == StatusCode::FORBIDDEN {
            self.hub.authorizer.record_access(&self.principal, &access, false);
            return false;
        }
        // The hub may have been refused the one when the client was given the other.
        let is_refused = |verb| self.may(&AccessKey::of_collection(&wanted, verb)) == Some(false);
        let is_news = self.may(&access) != Some(true);
        if !status.is_success() || !is_news || ![Verb::List, Verb::Watch].into_iter().any(is_refused) {
            return false;
        }
        self.hub.authorizer.record_access(&self.principal, &access, true);
        let Some(cell) = self.hub.collections.cell_or_new(&wanted) else { return false };
        cell.sponsor(&self.principal, self.credential.clone(), self.hub.site.clock.now().monotonic);
        true
    }

    /// Passed on, and nothing of it is kept.
    pub(super) async fn forward_uncached(mut self, info: &RequestInfo) -> Response<Body> {
        if !self.hub.site.is_connected() {
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
        if outcome.is_err() && request.verb.is_read() && !self.hub.site.await_verdict().await {
            // The link stands, only that connection died: a read may be asked again.
            outcome = self.send().await;
        }
        match outcome {
            Ok(response) => {
                if is_own_lease(&self.hub.site.config.file.node_name, &self.principal, &request) {
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
                    self.hub.documents.forget_single(&canonical_path(&self.head.uri));
                }
                self.relay_filtered(&request, response).await
            }
            // A read may be asked again, of the cache; a write may have arrived, and only its sender knows what then.
            Err(error) if request.verb.is_read() && !self.hub.site.is_connected() => {
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
        let (head, body) = match self.read_answer(response).await {
            Ok(read) => read,
            Err(instead) => return instead,
        };
        let content_type = header_text(&head.headers, &header::CONTENT_TYPE);
        if let Some(format) = Format::from_content_type(&content_type) {
            let gvr = GroupVersionResource::new("storage.k8s.io", "v1", "csinodes");
            let path = gvr.path(None, Some(&self.hub.site.config.file.node_name), None);
            let document = Document {
                content_type: content_type.into(),
                etag: None,
                body: body.clone(),
                fetched_unix: self.hub.site.clock.now().unix,
                is_nodes: false,
            };
            let key = single_path_key(&path, format);
            self.hub.documents.keep(BlobClass::Single, &key, document, &self.principal);
        }
        Response::from_parts(head, full(body))
    }

    /// Whether this writes the CSINode of this node, as this node.
    fn writes_own_csi_node(&self, request: &ResourceRequest) -> bool {
        (&*request.gvr.group, &*request.gvr.version, &*request.gvr.resource)
            == ("storage.k8s.io", "v1", "csinodes")
            && matches!(request.verb, Verb::Create | Verb::Update | Verb::Patch)
            && self.principal == self.hub.site.node
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
                self.hub.documents.forget_single(&canonical_path(&self.head.uri));
                self.leave(request);
            }
            return self.relay(response);
        }
        let (head, mut body) = match self.read_answer(response).await {
            Ok(read) => read,
            Err(instead) => return instead,
        };
        let content_type = header_text(&head.headers, &header::CONTENT_TYPE);
        let format = self.format_of(&content_type);
        if let Some(format) = format {
            let document = Document {
                content_type: content_type.into(),
                etag: None,
                body: body.clone(),
                fetched_unix: self.hub.site.clock.now().unix,
                is_nodes: false,
            };
            let key = single_key(&self.head.uri, format);
            body = self.hub.documents.keep(BlobClass::Single, &key, document, &self.principal);
            self.follow(request, format);
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
        let (head, body) = match self.read_answer(response).await {
            Ok(read) => read,
            Err(instead) => return instead,
        };
        if let Some(key) = self.token_key(request) {
            let encoding = Format::from_content_type(&header_text(&head.headers, &header::CONTENT_TYPE));
            if let Some(format) = encoding {
                let stored = lock(&self.hub.tokens).store(
                    self.hub.site.clock.now(),
                    &key,
                    format.encoding,
                    Bytes::copy_from_slice(&body),
                );
                match stored {
                    Ok(changes) => self.hub.site.save_records(BlobClass::Token, changes),
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
        let (head, body) = match self.read_answer(response).await {
            Ok(read) => read,
            Err(instead) => return instead,
        };
        let came = Format::from_content_type(&header_text(&head.headers, &header::CONTENT_TYPE));
        if let Some(format) = came {
            let seen =
                lock(&self.hub.lease).observe(self.hub.site.clock.now(), format.encoding, body.clone());
            if let Ok(changes) = seen {
                self.hub.site.save_records(BlobClass::Lease, changes);
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
        let is_kept = *request.verb == *"get" && is_discovery(&request.path);
        let key = discovery_key(&self.head.uri, self.header(header::ACCEPT).unwrap_or_default());
        let key = key.filter(|_| is_kept);
        if self.hub.site.is_connected() {
            let is_held = |key: &String| self.hub.documents.get(key).is_some();
            if key.as_ref().is_some_and(|key| !is_held(key)) {
                // What the client holds is as good as new, but nothing would be here in a cut.
                self.head.headers.remove(header::IF_NONE_MATCH);
                self.head.headers.remove(header::IF_MODIFIED_SINCE);
            }
            match self.send().await {
                Ok(response) => match key {
                    Some(key) => return self.keep_discovery(&access, &key, response).await,
                    None => return self.relay(response),
                },
                Err(error) if self.hub.site.is_connected() => return answer::refuse(&lost(&error)),
                Err(_) => {}
            }
        }
        self.discovery_offline(&access, key.as_deref())
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
        let (head, body) = match self.read_answer(response).await {
            Ok(read) => read,
            Err(instead) => return instead,
        };
        let etag = header_text(&head.headers, &header::ETAG);
        let document = Document {
            content_type: header_text(&head.headers, &header::CONTENT_TYPE).into(),
            etag: (!etag.is_empty()).then(|| etag.into()),
            body: body.clone(),
            fetched_unix: self.hub.site.clock.now().unix,
            is_nodes: false,
        };
        let body = self.hub.documents.keep(BlobClass::Discovery, key, document, &self.principal);
        Response::from_parts(head, full(body))
    }

    fn discovery_offline(&self, access: &AccessKey, key: Option<&str>) -> Response<Body> {
        let allowed = self.may(access).unwrap_or_else(|| self.is_trusted_offline());
        if let Some(key) = key.filter(|_| allowed)
            && let Some(document) = self.hub.documents.get(key)
        {
            let age = self.hub.site.clock.now().unix.saturating_sub(document.fetched_unix);
            self.hub.site.metrics.served_from_cache.inc();
            return answer::document(
                &document,
                self.header(header::IF_NONE_MATCH),
                self.staleness(Some(age)),
            );
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
