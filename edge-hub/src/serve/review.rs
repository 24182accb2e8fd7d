//! The reviews of this node's kubelet, which asks them when somebody calls the kubelet itself, for logs or exec: the
//! cloud's while it is there, remembered and marked with their age while it is not.

use std::time::Duration;

use edge_hub_core::{
    client_review::{Question, ReviewKind, access_answer, remembered_access, remembered_token, token_answer},
    review::TokenVerdict,
};
use http::{HeaderValue, Response, StatusCode, header};
use proto_kube::{
    media_type::{Encoding, Format},
    request_info::{ResourceRequest, Verb},
    status::Status,
};

use super::{
    answer,
    call::{Call, resource_access},
};
use crate::{
    sync::lock,
    upstream::{Body, UpstreamBody, full},
};

impl Call {
    /// Which review this is, if it is one of this node's own kubelet.
    pub(super) fn own_review(&self, request: &ResourceRequest) -> Option<ReviewKind> {
        let gvr = &request.gvr;
        let kind = ReviewKind::of(&gvr.group, &gvr.version, &gvr.resource)?;
        let own = request.verb == Verb::Create
            && request.subresource.is_none()
            && self.principal == self.hub.site.node;
        own.then_some(kind)
    }

    /// The cloud answered: what it said is remembered.
    pub(super) async fn keep_review(
        &self,
        kind: ReviewKind,
        request: &ResourceRequest,
        response: Response<UpstreamBody>,
    ) -> Response<Body> {
        self.learn_of_write(&resource_access(request), response.status());
        if response.status() != StatusCode::CREATED {
            return self.relay(response);
        }
        let (head, body) = match self.read_answer(response).await {
            Ok(read) => read,
            Err(instead) => return instead,
        };
        let came = Format::from_content_type(&answer::header_text(&head.headers, &header::CONTENT_TYPE));
        let question = Question::parse(kind, self.body_encoding(), &self.body).ok().flatten();
        if let (Some(format), Some(question)) = (came, question) {
            self.learn_review(&question, format.encoding, &body);
        }
        Response::from_parts(head, full(body))
    }

    fn learn_review(&self, question: &Question, encoding: Encoding, answer: &[u8]) {
        let learned = match question {
            Question::Token(token) => token_answer(encoding, answer)
                .map(|verdict| self.hub.authenticator.learn_token(token, &verdict)),
            Question::Access(principal, key) => access_answer(encoding, answer)
                .map(|allowed| self.hub.authorizer.record_access(principal, key, allowed)),
        };
        if let Err(error) = learned {
            tracing::warn!(%error, "a review's answer cannot be kept for the time of a cut");
        }
    }

    /// The remembered word on this very question.
    pub(super) fn remembered_review(&self, request: &ResourceRequest) -> Response<Body> {
        let Some(kind) = self.own_review(request) else {
            return answer::refuse(&answer::cut_off("only the API server can answer this review"));
        };
        let encoding = self.body_encoding();
        match Question::parse(kind, encoding, &self.body) {
            Err(error) => answer::refuse(&Status::bad_request(format!("the body is no review: {error}"))),
            Ok(None) => answer::refuse(&answer::cut_off("only the API server can answer this review")),
            Ok(Some(Question::Token(token))) => self.remembered_token(encoding, &token),
            Ok(Some(Question::Access(principal, key))) => {
                let Some(allowed) = lock(&self.hub.authorizer.access).last_word(&principal, &key) else {
                    return answer::refuse(&answer::cut_off("the API server was never asked about this"));
                };
                let age = self.hub.authorizer.access_age(&principal, &key);
                let said = match age {
                    Some(age) => format!("{} s ago", age.as_secs()),
                    None => "before this node's hub was updated".to_owned(),
                };
                let reason = format!("cut off from the cloud: the API server's last word, {said}");
                self.made_review(encoding, age, remembered_access(encoding, &self.body, allowed, &reason))
            }
        }
    }

    fn remembered_token(&self, encoding: Encoding, token: &str) -> Response<Body> {
        let (verdict, age, why): (_, _, String) = match self.hub.authenticator.remembered_token(token) {
            Ok((principal, details, age)) => (TokenVerdict::Accepted(principal, details), age, String::new()),
            Err(status) if status.code == StatusCode::UNAUTHORIZED.as_u16() => {
                (TokenVerdict::Refused, None, status.message)
            }
            Err(status) => return answer::refuse(&status),
        };
        self.made_review(encoding, age, remembered_token(encoding, &self.body, &verdict, &why))
    }

    fn made_review<E: std::fmt::Display>(
        &self,
        encoding: Encoding,
        age: Option<Duration>,
        body: Result<Vec<u8>, E>,
    ) -> Response<Body> {
        let body = match body {
            Ok(body) => body,
            Err(error) => {
                return answer::refuse(&Status::bad_request(format!("the body is no review: {error}")));
            }
        };
        self.hub.site.metrics.served_from_cache.inc();
        let format = Format { encoding, ..Format::JSON };
        let mut response = answer::made(StatusCode::CREATED, format, body.into(), answer::Staleness(age));
        if age.is_none() {
            // Judged by the issuer's keys and this node's pods, which have no age of their own.
            let warning = HeaderValue::from_static("299 - \"cut off from the cloud: judged on this node\"");
            response.headers_mut().append(header::WARNING, warning);
        }
        response
    }
}
