//! GET and LIST: which revision is read, which objects are in, and pages.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::answer::Response;
use crate::encoding::{Format, Page};
use crate::options::{ListOptions, VersionMatch};
use crate::request::ResourceTarget;
use crate::resource::ResourceKind;
use crate::server::Cloud;
use crate::status::Status;
use crate::store::Key;

/// Answer a GET of one object.
pub(crate) fn get(
    cloud: &Cloud,
    now: Duration,
    replica: usize,
    kind: &ResourceKind,
    target: &ResourceTarget,
    options: &ListOptions,
    format: Format,
) -> Result<Response, Status> {
    let name = target.name.as_deref().unwrap_or_default();
    let key = (target.namespace.clone().unwrap_or_default(), name.to_owned());
    let visible = cloud.visible(replica);
    let object = match options.resource_version {
        Some(n) if n > visible => return Err(Status::too_large_resource_version(n, visible)),
        Some(_) => cloud.store().snapshot(&kind.gvr, visible).and_then(|s| s.get(&key).cloned()),
        None => cloud.store().get(&kind.gvr, &key).cloned(),
    };
    // A GET has no selector but what an aggregated server adds.
    let object = object
        .filter(|object| options.labels.matches(object))
        .ok_or_else(|| Status::not_found(&kind.gvr, name))?;
    format.check_single(kind)?;
    Ok(Response {
        status: 200,
        content_type: format.content_type(false),
        headers: Vec::new(),
        body: format.document(kind, &object, now),
    })
}

/// Answer a LIST.
pub(crate) fn list(
    cloud: &Cloud,
    now: Duration,
    replica: usize,
    kind: &ResourceKind,
    target: &ResourceTarget,
    options: &ListOptions,
    format: Format,
) -> Result<Response, Status> {
    listed(cloud, now, replica, kind, target, options, format).map(|(_, response)| response)
}

/// The keys that a LIST finds, and its answer.
pub(crate) fn listed(
    cloud: &Cloud,
    now: Duration,
    replica: usize,
    kind: &ResourceKind,
    target: &ResourceTarget,
    options: &ListOptions,
    format: Format,
) -> Result<(Vec<Key>, Response), Status> {
    format.check_list(kind)?;
    let (revision, start) = match &options.continue_token {
        Some(token) => {
            if options.resource_version.is_some_and(|version| version > 0) {
                let text = "specifying resource version is not allowed when using continue";
                return Err(Status::bad_request(text));
            }
            let (revision, start) = read_token(token, target.namespace.as_deref())?;
            // A token without a revision goes on with what there is now.
            let revision = revision.unwrap_or_else(|| cloud.store().revision());
            if revision < cloud.store().compacted() {
                let inconsistent = write_token(None, &start, target.namespace.is_some());
                return Err(Status::expired_continue(inconsistent));
            }
            (revision, Some(start))
        }
        None => (revision(cloud, replica, options)?, None),
    };
    let snapshot = cloud.store().snapshot(&kind.gvr, revision).ok_or_else(Status::expired_list)?;
    let selected = snapshot.into_iter().filter(|(key, object)| {
        start.as_ref().is_none_or(|s| key > s)
            && target.namespace.as_ref().is_none_or(|n| *n == key.0)
            && options.labels.matches(object)
            && options.fields.matches(object)
    });
    let mut items: Vec<(Key, Arc<Value>)> = selected.collect();
    // The watch cache answers RV=0 whole, whatever the limit.
    let limit = options.limit.filter(|_| options.resource_version != Some(0));
    let mut page = Page { revision, continue_token: String::new(), remaining: None };
    if let Some(limit) = limit.filter(|l| *l < items.len()) {
        let rest = items.split_off(limit);
        page.continue_token = write_token(Some(revision), &items[limit - 1].0, target.namespace.is_some());
        if options.labels.is_empty() && options.fields.is_empty() {
            page.remaining = Some(rest.len() as u64);
        }
    }
    let (keys, items): (Vec<Key>, Vec<Arc<Value>>) = items.into_iter().unzip();
    let response = Response {
        status: 200,
        content_type: format.content_type(false),
        headers: Vec::new(),
        body: format.list(kind, &items, &page, now),
    };
    Ok((keys, response))
}

/// The revision that a LIST reads.
fn revision(cloud: &Cloud, replica: usize, options: &ListOptions) -> Result<u64, Status> {
    let visible = cloud.visible(replica);
    let Some(requested) = options.resource_version else {
        // Most recent: every replica asks the store.
        return Ok(cloud.store().revision());
    };
    let legacy_exact = options.version_match.is_none() && options.limit.is_some() && requested > 0;
    if options.version_match == Some(VersionMatch::Exact) || legacy_exact {
        let current = cloud.store().revision();
        return if requested > current {
            Err(Status::too_large_resource_version(requested, current))
        } else {
            Ok(requested)
        };
    }
    if requested > visible {
        return Err(Status::too_large_resource_version(requested, visible));
    }
    Ok(visible)
}

/// The form of the real server: a client may carry a token from one server to another.
fn write_token(revision: Option<u64>, last: &Key, in_namespace: bool) -> String {
    let last =
        if in_namespace || last.0.is_empty() { last.1.clone() } else { format!("{}/{}", last.0, last.1) };
    let start = format!("{last}\0");
    let revision = revision.map_or_else(|| json!(-1), Value::from);
    URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "rv": revision, "start": start}).to_string())
}

fn read_token(token: &str, namespace: Option<&str>) -> Result<(Option<u64>, Key), Status> {
    let invalid = || Status::bad_request("invalid continue token: continue key is not valid");
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| invalid())?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|_| invalid())?;
    let revision = value["rv"].as_i64().filter(|_| value["v"] == "meta.k8s.io/v1").ok_or_else(invalid)?;
    let revision = u64::try_from(revision).ok();
    let last = value["start"].as_str().and_then(|start| start.strip_suffix('\0')).ok_or_else(invalid)?;
    let (space, name) = match namespace {
        Some(namespace) => (namespace, last),
        None => last.split_once('/').unwrap_or(("", last)),
    };
    Ok((revision, (space.to_owned(), name.to_owned())))
}
