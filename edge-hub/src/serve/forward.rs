//! Requests that the cloud answers: passed on as the client's own.

use std::time::Duration;

use edge_hub_core::{
    lease::is_own_lease,
    plan::{Failure, Patience, Want},
};
use http::{Request, Response, Uri, header};
use proto_kube::request_info::{RequestInfo, ResourceRequest, Verb};

use super::{
    answer,
    call::{Call, resource_access},
    facts::Trail,
};
use crate::{
    documents::canonical_path,
    site::is_failure,
    upstream::{Body, UpstreamBody, UpstreamError, full, hop::strip_hop_headers},
};

/// kube-apiserver ends requests that are no watches after 60 s.
const HEAD_TIMEOUT: Duration = Duration::from_secs(65);
/// The same where something is held to answer with; a kubelet gives up on its Lease after 10 s.
const SHORT_HEAD_TIMEOUT: Duration = Duration::from_secs(4);
/// A log that is followed may stay silent before its first byte.
const STREAM_HEAD_TIMEOUT: Duration = Duration::from_secs(3600);

/// Whether the API server may leave the head of its answer open for as long as there is nothing to say: a log that is
/// followed.
fn may_be_silent(uri: &Uri) -> bool {
    uri.path().ends_with("/log")
        && matches!(RequestInfo::parse("GET", uri.path(), None),
            Ok(RequestInfo::Resource(request)) if request.subresource.as_deref() == Some("log"))
}

impl Call {
    async fn send(&self, patience: Patience) -> Result<Response<UpstreamBody>, UpstreamError> {
        let mut builder = Request::builder().method(self.head.method.clone()).uri(self.head.uri.clone());
        if let Some(headers) = builder.headers_mut() {
            headers.clone_from(&self.head.headers);
            strip_hop_headers(headers);
            headers.remove(header::HOST);
            headers.remove(header::CONTENT_LENGTH);
            headers.remove(header::EXPECT);
        }
        let request = builder.body(full(self.body.clone())).map_err(UpstreamError::Request)?;
        let patience = match patience {
            Patience::Short => SHORT_HEAD_TIMEOUT,
            Patience::Usual if may_be_silent(&self.head.uri) => STREAM_HEAD_TIMEOUT,
            Patience::Usual => HEAD_TIMEOUT,
        };
        self.hub.site.metrics.forwarded.inc();
        let outcome = self.hub.site.send(&self.credential, request, patience).await;
        if let Err(error) = &outcome {
            tracing::debug!(%error, path = self.head.uri.path(), "the cloud did not answer");
        }
        outcome
    }

    /// Passes the request on, and keeps what its answer teaches, a discovery document under `kept_under`. `None` where there
    /// is no answer that need be given; what may be given is in the trail.
    pub(super) async fn forward(
        &mut self,
        (info, want): (&RequestInfo, Want),
        patience: Patience,
        kept_under: Option<&str>,
        trail: &mut Trail,
    ) -> Option<Response<Body>> {
        trail.tried.forwarded += 1;
        match (info, kept_under) {
            (RequestInfo::Resource(request), _) => {
                if let Err(status) = self.without_own_versions(request).await {
                    return Some(answer::refuse(&status));
                }
            }
            (RequestInfo::NonResource(_), Some(key)) => self.ask_whole_unless_kept(key),
            (RequestInfo::NonResource(_), None) => {}
        }
        let response = match self.send(patience).await {
            Ok(response) if !is_failure(response.status()) => response,
            failed => {
                let (failure, instead) = match failed {
                    Ok(response) => (Failure::Server(response.status().as_u16()), self.relay(response)),
                    Err(error) => (Failure::NoAnswer, answer::refuse(&answer::lost(&error))),
                };
                trail.tried.failure = Some(failure);
                trail.instead = Some(instead);
                self.fell_back = true;
                return None;
            }
        };
        match (info, kept_under) {
            _ if want == Want::TheClouds => Some(self.relay(response)),
            (RequestInfo::Resource(request), _) => self.learned(request, response, trail).await,
            (RequestInfo::NonResource(_), Some(key)) => Some(self.keep_discovery(info, key, response).await),
            (RequestInfo::NonResource(_), None) => Some(self.relay(response)),
        }
    }

    /// The answer to a request for a resource, after what it teaches was kept; `None` where it is left for a collection
    /// that was begun now.
    async fn learned(
        &self,
        request: &ResourceRequest,
        response: Response<UpstreamBody>,
        trail: &mut Trail,
    ) -> Option<Response<Body>> {
        if is_own_lease(&self.hub.site.config.file.node_name, &self.principal, request) {
            return Some(self.keep_lease(request, response).await);
        }
        if request.verb == Verb::Get && request.subresource.is_none() {
            return Some(self.keep_single(request, response).await);
        }
        if request.verb == Verb::Create && request.subresource.as_deref() == Some("token") {
            return Some(self.keep_token(request, response).await);
        }
        if let Some(kind) = self.own_review(request) {
            return Some(self.keep_review(kind, request, response).await);
        }
        if self.writes_own_csi_node(request) {
            return Some(self.keep_written_csi_node(response).await);
        }
        if !matches!(request.verb, Verb::List | Verb::Watch) {
            self.learn_of_write(&resource_access(request), response.status());
        } else if self.learn_of_collection(request, response.status())
            && request.verb == Verb::Watch
            && !std::mem::replace(&mut trail.went_back, true)
        {
            // A stream of the cloud's would end with the link; from the collection it does not.
            trail.tried.collected = None;
            return None;
        }
        if request.verb == Verb::Delete && response.status().is_success() {
            self.hub.documents.forget_single(&canonical_path(&self.head.uri));
        }
        Some(self.relay_filtered(request, response).await)
    }
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
