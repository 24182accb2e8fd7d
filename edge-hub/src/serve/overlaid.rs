//! Requests that are passed on although the hub told the client what is its own, versions and its authority: nothing of
//! that goes upstream.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use edge_hub_core::{
    collection::Origin,
    filter::ROOT_CERTIFICATES,
    precondition::{WriteBody, named_versions, with_versions, without_own_authority},
};
use http::{HeaderValue, Method, Request, StatusCode, Uri, header, request::Parts};
use proto_kube::{
    list::split_document,
    list_options::{GetOptions, ListOptions, VersionMatch},
    media_type::{Encoding, Form, Format},
    object::{ObjectKey, scan},
    request_info::{ResourceRequest, Verb},
    status::Status,
};

use super::{answer::lost, call::Call};
use crate::{hub::Hub, reflect::retry_after, upstream::full};

/// How long the cloud may take to say which version it has of one object.
const ASK_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest metadata of one object, as etcd bounds the whole of it.
const MAX_METADATA_BYTES: usize = 3 * 1024 * 1024;
const METADATA: Format = Format { encoding: Encoding::Json, form: Form::PartialMetadata };

/// Leaves out of an address what means nothing to the cloud. "Not older than" such a version is answered by the
/// newest state, which needs no version.
///
/// # Errors
/// What the cloud would say if it had ever known the version and forgotten it: 410 to a watch and to what is asked of
/// exactly that state.
pub(super) fn without_own_version_in_query(
    hub: &Hub,
    head: &mut Parts,
    request: &ResourceRequest,
    has_body: bool,
) -> Result<(), Status> {
    let own = |version: u64| hub.overlay.made_up(&request.gvr, version);
    let (version, left_out): (u64, &[&str]) = match request.verb {
        Verb::Get => {
            let Ok(options) = GetOptions::parse(head.uri.query()) else { return Ok(()) };
            let version = options.resource_version.as_deref().and_then(|version| version.parse().ok());
            let Some(version) = version.filter(|version| own(*version)) else { return Ok(()) };
            (version, &["resourceVersion"])
        }
        Verb::Delete | Verb::DeleteCollection => {
            let Some(version) = version_parameter(head.uri.query()).filter(|version| own(*version)) else {
                return Ok(());
            };
            // Without a body the parameter is a precondition: no object has that version in the cloud. With one it is
            // nothing to the server.
            if request.verb == Verb::DeleteCollection || !has_body {
                return Err(shown_otherwise(request));
            }
            (version, &["resourceVersion"])
        }
        Verb::List | Verb::Watch => {
            let Ok(options) = ListOptions::for_request(request, head.uri.query()) else { return Ok(()) };
            let Ok(Some(version)) = options.parsed_rv() else { return Ok(()) };
            if !own(version) {
                return Ok(());
            }
            let is_exact = options.version_match == Some(VersionMatch::Exact)
                || options.version_match.is_none() && options.limit.is_some_and(|limit| limit > 0);
            let is_watch = request.verb == Verb::Watch && options.send_initial_events != Some(true);
            if is_exact || is_watch {
                return Err(Status::expired(version, version.saturating_add(1)));
            }
            // A watch with initial events needs the words of the match, but no version.
            match request.verb {
                Verb::Watch => (version, &["resourceVersion"]),
                _ => (version, &["resourceVersion", "resourceVersionMatch"]),
            }
        }
        _ => return Ok(()),
    };
    head.uri =
        without(&head.uri, left_out).ok_or_else(|| Status::expired(version, version.saturating_add(1)))?;
    Ok(())
}

fn version_parameter(query: Option<&str>) -> Option<u64> {
    let mut pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    pairs.find(|(name, _)| name == "resourceVersion").and_then(|(_, version)| version.parse().ok())
}

/// What a write is told that depends on a state of the hub's own.
fn shown_otherwise(request: &ResourceRequest) -> Status {
    let name = request.name.as_deref().unwrap_or_default();
    let why = "the object was shown as this node has it; the cloud has another state";
    Status::conflict(&request.gvr, name, why)
}

impl Call {
    /// Leaves out of a request, or replaces in it, what means nothing to the cloud.
    ///
    /// # Errors
    /// As [`without_own_version_in_query`]; to a write 409, as if another had been faster: its client reads the
    /// object again and finds the cloud's version; as [`Call::ask_version`] when the cloud is needed for that.
    pub(super) async fn without_own_versions(&mut self, request: &ResourceRequest) -> Result<(), Status> {
        without_own_version_in_query(&self.hub, &mut self.head, request, !self.body.is_empty())?;
        self.without_own_authority(request).await?;
        let media = self.media_type();
        // The cloud wants no version in what is created.
        let Some(kind) = body_of(request.verb, &media).filter(|_| request.verb != Verb::Create) else {
            return Ok(());
        };
        if self.body.is_empty() || !self.hub.overlay.may_have_told(&request.gvr) {
            return Ok(());
        }
        if media.contains("cbor") {
            // Nobody could look into it.
            let served = [Format::JSON, Format::PROTOBUF].map(|format| format.content_type(false));
            return Err(Status::unsupported_media_type(&served));
        }
        let encoding = self.body_encoding();
        let body = self.readable_body(request).await?;
        let unreadable = |error| Status::bad_request(format!("the body cannot be read: {error}"));
        let named = named_versions(kind, encoding, &body).map_err(unreadable)?;
        let others = self.clouds_versions(request, named).await?;
        if !others.is_empty() {
            self.body = with_versions(kind, encoding, &body, &others).map_err(unreadable)?.into();
        }
        Ok(())
    }

    /// The cloud's versions for those of a write that are the hub's own.
    async fn clouds_versions(
        &self,
        request: &ResourceRequest,
        named: Vec<Box<str>>,
    ) -> Result<BTreeMap<Box<str>, u64>, Status> {
        let mut others = BTreeMap::new();
        for text in named {
            let Ok(version) = text.parse() else { continue };
            if others.contains_key(&text) || !self.hub.overlay.made_up(&request.gvr, version) {
                continue;
            }
            match self.clouds_version(request, version).await? {
                Some(other) => others.insert(text, other),
                None => return Err(shown_otherwise(request)),
            };
        }
        Ok(others)
    }

    /// What the cloud calls the state that the client was shown under this version; `None` if it has another now.
    ///
    /// # Errors
    /// As [`Call::ask_version`].
    async fn clouds_version(&self, request: &ResourceRequest, version: u64) -> Result<Option<u64>, Status> {
        let Some(name) = request.name.clone() else { return Ok(None) };
        let key = ObjectKey { namespace: request.namespace.clone().unwrap_or_default(), name };
        let mut is_amended = false;
        for cell in self.hub.collections.cells().iter().filter(|cell| cell.spec.gvr == request.gvr) {
            match cell.with(|inner| inner.collection.upstream_of(&key, version)) {
                Origin::Upstream(other) => return Ok(Some(other)),
                Origin::Amended => is_amended = true,
                Origin::Unknown => {}
            }
        }
        if is_amended {
            return Ok(None);
        }
        // No collection knows it. It may be the cloud's all the same: versions that a former process might have given
        // out are known as ranges only.
        Ok(self.ask_version(request).await?.filter(|current| *current == version))
    }

    /// The cloud's version of one object now, asked as this client; `None` if there is none.
    ///
    /// # Errors
    /// 401, 403 and 429 as the cloud says; 503 when it cannot say now: nobody knows yet whether another was faster.
    async fn ask_version(&self, request: &ResourceRequest) -> Result<Option<u64>, Status> {
        let path = request.gvr.path(request.namespace.as_deref(), request.name.as_deref(), None);
        let mut builder = Request::builder().method(Method::GET).uri(path);
        let Some(headers) = builder.headers_mut() else { return Ok(None) };
        headers.clone_from(&self.head.headers);
        crate::upstream::hop::strip_hop_headers(headers);
        for name in [
            header::HOST,
            header::CONTENT_LENGTH,
            header::CONTENT_TYPE,
            header::EXPECT,
            header::ACCEPT_ENCODING,
        ] {
            headers.remove(name);
        }
        headers.insert(header::ACCEPT, HeaderValue::from_static(METADATA.accept_object()));
        let Ok(question) = builder.body(full(Bytes::new())) else { return Ok(None) };
        let answer = self.hub.site.send(&self.credential, question, ASK_TIMEOUT).await;
        let answer = answer.map_err(|error| lost(&error))?;
        let why = "the cloud does not say which version of the object it has";
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            StatusCode::UNAUTHORIZED => return Err(Status::unauthorized()),
            StatusCode::FORBIDDEN => {
                let name = request.name.as_deref().unwrap_or_default();
                let why =
                    "its version is one that this node gave out, and you may not ask the cloud for its own";
                return Err(Status::forbidden(&request.gvr, name, why));
            }
            StatusCode::TOO_MANY_REQUESTS => {
                let pause = retry_after(answer.headers()).map_or(1, |pause| pause.as_secs());
                return Err(Status::too_many_requests(why, u32::try_from(pause).unwrap_or(u32::MAX)));
            }
            other => return Err(Status::service_unavailable(format!("{why}: {other}"))),
        }
        let answer = self.read_answer_of(answer, MAX_METADATA_BYTES).await;
        let object = answer.as_ref().ok().and_then(|(_, object)| scan(METADATA, object).ok());
        let version = object.and_then(|object| object.resource_version.parse().ok());
        // Half an answer is none.
        version.map(Some).ok_or_else(|| Status::service_unavailable(why))
    }
}

impl Call {
    /// Takes the hub's own authority out of what a client writes back: it is for pods of this node alone.
    ///
    /// # Errors
    /// As [`Call::json_of_yaml`]: what the hub does not read, and the cloud might, is not passed on.
    pub(super) async fn without_own_authority(&mut self, request: &ResourceRequest) -> Result<(), Status> {
        if self.hub.filters.authority.is_none() {
            return Ok(());
        }
        let gvr = &request.gvr;
        let is_another = request.name.as_ref().is_some_and(|name| &**name != ROOT_CERTIFICATES);
        if !gvr.group.is_empty() || &*gvr.resource != "configmaps" || is_another {
            return Ok(());
        }
        let media = self.media_type();
        let Some(kind) = body_of(request.verb, &media).filter(|kind| *kind != WriteBody::DeleteOptions)
        else {
            return Ok(());
        };
        let body = self.readable_body(request).await?;
        let encoding = self.body_encoding();
        let is_named = || name_of(encoding, &body).is_some_and(|name| &*name == ROOT_CERTIFICATES);
        let Some(authority) = self.hub.filters.authority.as_deref() else { return Ok(()) };
        if request.name.is_none() && !is_named() {
            return Ok(());
        }
        // What cannot be read the cloud cannot read either.
        if let Ok(stripped) = without_own_authority(kind, encoding, &body, authority)
            && stripped != *body
        {
            self.body = stripped.into();
        }
        Ok(())
    }

    fn media_type(&self) -> String {
        self.header(header::CONTENT_TYPE).unwrap_or_default().to_ascii_lowercase()
    }

    /// The body as JSON or protobuf.
    ///
    /// # Errors
    /// As [`Call::json_of_yaml`].
    pub(super) async fn readable_body(&self, request: &ResourceRequest) -> Result<Bytes, Status> {
        if self.media_type().contains("yaml") {
            self.json_of_yaml(request).await
        } else {
            Ok(self.body.clone())
        }
    }
}

/// The name of an object that is to be created.
fn name_of(encoding: Encoding, body: &Bytes) -> Option<Box<str>> {
    let format = Format { encoding, form: Form::Object };
    let (_, raw): (_, Bytes) = split_document(format, body).ok()?;
    Some(scan(format, &raw).ok()?.name.into())
}

/// What the body of a request is, if it writes.
fn body_of(verb: Verb, media: &str) -> Option<WriteBody> {
    match verb {
        Verb::Patch if media.starts_with("application/json-patch") => Some(WriteBody::JsonPatch),
        Verb::Create | Verb::Update | Verb::Patch => Some(WriteBody::Object),
        Verb::Delete | Verb::DeleteCollection => Some(WriteBody::DeleteOptions),
        Verb::Get | Verb::List | Verb::Watch => None,
    }
}

/// The address without these parameters; `None` when no address is left.
fn without(uri: &Uri, names: &[&str]) -> Option<Uri> {
    let kept = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
        .filter(|(name, _)| !names.contains(&&**name));
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(kept).finish();
    format!("{}?{query}", uri.path()).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_goes_and_the_others_stay() {
        let uri: Uri =
            "/apis/x?labelSelector=a%3Db&resourceVersion=7&watch=true".parse().expect("an address");
        let left = without(&uri, &["resourceVersion"]).expect("an address");
        assert_eq!(left.to_string(), "/apis/x?labelSelector=a%3Db&watch=true");
    }
}
