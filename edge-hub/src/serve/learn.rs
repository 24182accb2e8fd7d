//! What the answers of the cloud teach: who may do what, and what is kept of them for the time of a cut.

use std::sync::Arc;

use bytes::Bytes;
use edge_hub_core::{access::AccessKey, documents::Document, token::TokenKey};
use http::{Response, StatusCode, header};
use proto_kube::{
    gvr::GroupVersionResource,
    list_options::ListOptions,
    media_type::Format,
    request_info::{RequestInfo, ResourceRequest, Verb},
    status::Status,
};

use super::{
    answer,
    call::{Call, resource_access},
    facts::spec,
};
use crate::{
    documents::{canonical_path, single_key, single_path_key},
    store::BlobClass,
    sync::lock,
    upstream::{Body, UpstreamBody, full},
};

impl Call {
    pub(super) fn learn(&self, key: &AccessKey, status: StatusCode) {
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
    pub(super) fn learn_of_collection(&self, request: &ResourceRequest, status: StatusCode) -> bool {
        let Ok(options) = ListOptions::for_request(request, self.query()) else { return false };
        let Ok(formats) = self.formats(request, options.include_object) else { return false };
        let (Some(shown), None) = (formats.first(), &request.subresource) else { return false };
        let wanted = spec(request, &options, self.hub.collections.held_for(&request.gvr, *shown));
        let access = AccessKey::of_collection(&wanted, request.verb);
        if status == StatusCode::FORBIDDEN {
            self.hub.authorizer.record_access(&self.principal, &access, false);
            return false;
        }
        if !status.is_success() {
            return false;
        }
        // The hub may have been refused the one when the client was given the other.
        let is_refused = |verb| self.may(&AccessKey::of_collection(&wanted, verb)) == Some(false);
        let was_refused = [Verb::List, Verb::Watch].into_iter().any(is_refused);
        if self.may(&access) != Some(true) {
            self.hub.authorizer.record_access(&self.principal, &access, true);
        }
        if !was_refused {
            // Whoever lists the newest state again and again has what is held of it kept up to date for a cut.
            let held = self.hub.collections.covering(&wanted).into_iter().next();
            if let (Verb::List, Some(cell)) = (request.verb, held) {
                self.support(&cell, &wanted);
            }
            return false;
        }
        let Some(cell) = self.hub.collections.cell_or_new(&wanted) else { return false };
        cell.sponsor(&self.principal, self.credential.clone(), self.hub.site.clock.now().monotonic);
        true
    }

    /// An answer that was fetched now.
    fn document(&self, content_type: String, etag: Option<Box<str>>, body: &Bytes) -> Document {
        Document {
            content_type: content_type.into(),
            etag,
            body: body.clone(),
            fetched_unix: self.hub.site.clock.now().unix,
            is_nodes: false,
        }
    }

    /// Discovery, a version or OpenAPI, kept under `key`.
    pub(super) async fn keep_discovery(
        &self,
        info: &RequestInfo,
        key: &str,
        response: Response<UpstreamBody>,
    ) -> Response<Body> {
        let status = response.status();
        self.learn(&AccessKey::of(info, "", ""), status);
        if status != StatusCode::OK {
            return self.relay(response);
        }
        let (head, body) = match self.read_answer(response).await {
            Ok(read) => read,
            Err(instead) => return instead,
        };
        let etag = answer::header_text(&head.headers, &header::ETAG);
        let content_type = answer::header_text(&head.headers, &header::CONTENT_TYPE);
        let etag = (!etag.is_empty()).then(|| etag.into());
        let document = self.document(content_type, etag, &body);
        let body = self.hub.documents.keep(BlobClass::Discovery, key, document, &self.principal);
        Response::from_parts(head, full(body))
    }

    /// The kubelet writes its CSINode once and reads it again only after a restart, which may come in a cut: without
    /// it the node is not ready. So what the cloud answers to that write is kept like an answer to a read.
    pub(super) async fn keep_written_csi_node(&self, response: Response<UpstreamBody>) -> Response<Body> {
        if !response.status().is_success() {
            return self.relay(response);
        }
        let (head, body) = match self.read_answer(response).await {
            Ok(read) => read,
            Err(instead) => return instead,
        };
        let content_type = answer::header_text(&head.headers, &header::CONTENT_TYPE);
        if let Some(format) = Format::from_content_type(&content_type) {
            let gvr = GroupVersionResource::new("storage.k8s.io", "v1", "csinodes");
            let path = gvr.path(None, Some(&self.hub.site.config.file.node_name), None);
            let document = self.document(content_type, None, &body);
            let key = single_path_key(&path, format);
            self.hub.documents.keep(BlobClass::Single, &key, document, &self.principal);
        }
        Response::from_parts(head, full(body))
    }

    /// Whether this writes the CSINode of this node, as this node.
    pub(super) fn writes_own_csi_node(&self, request: &ResourceRequest) -> bool {
        (&*request.gvr.group, &*request.gvr.version, &*request.gvr.resource)
            == ("storage.k8s.io", "v1", "csinodes")
            && matches!(request.verb, Verb::Create | Verb::Update | Verb::Patch)
            && self.principal == self.hub.site.node
    }

    pub(super) async fn keep_single(
        &self,
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
        let content_type = answer::header_text(&head.headers, &header::CONTENT_TYPE);
        let format = self.format_of(&content_type);
        if let Some(format) = format {
            let document = self.document(content_type, None, &body);
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

    pub(super) async fn keep_token(
        &self,
        request: &ResourceRequest,
        response: Response<UpstreamBody>,
    ) -> Response<Body> {
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
            let encoding =
                Format::from_content_type(&answer::header_text(&head.headers, &header::CONTENT_TYPE));
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

    pub(super) async fn keep_lease(
        &self,
        request: &ResourceRequest,
        response: Response<UpstreamBody>,
    ) -> Response<Body> {
        let status = response.status();
        self.learn(&resource_access(request), status);
        if !matches!(status, StatusCode::OK | StatusCode::CREATED) || !is_whole_lease(request.verb) {
            return self.relay(response);
        }
        let (head, body) = match self.read_answer(response).await {
            Ok(read) => read,
            Err(instead) => return instead,
        };
        let came = Format::from_content_type(&answer::header_text(&head.headers, &header::CONTENT_TYPE));
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
        let format =
            Format::from_content_type(&answer::header_text(&self.head.headers, &header::CONTENT_TYPE))
                .unwrap_or(Format::JSON);
        let namespace = request.namespace.as_deref()?;
        let name = request.name.as_deref()?;
        TokenKey::parse(&self.principal, namespace, name, format.encoding, &self.body).ok()
    }
}

/// Whether the answer to this verb is the Lease itself.
fn is_whole_lease(verb: Verb) -> bool {
    matches!(verb, Verb::Get | Verb::Create | Verb::Update | Verb::Patch)
}
