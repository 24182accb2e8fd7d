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
    let object = object.ok_or_else(|| Status::not_found(&kind.gvr, name))?;
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
    let (revision, start) = match &options.continue_token {
        Some(token) => {
            let (revision, start) = read_token(token)?;
            if revision < cloud.store().compacted() {
                return Err(Status::expired_continue());
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
        page.continue_token = write_token(revision, &items[limit - 1].0);
        if options.labels.is_empty() && options.fields.is_empty() {
            page.remaining = Some(rest.len() as u64);
        }
    }
    let items: Vec<Arc<Value>> = items.into_iter().map(|(_, object)| object).collect();
    Ok(Response {
        status: 200,
        content_type: format.content_type(false),
        headers: Vec::new(),
        body: format.list(kind, &items, &page, now),
    })
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

fn write_token(revision: u64, last: &Key) -> String {
    URL_SAFE_NO_PAD.encode(json!({"rv": revision, "ns": last.0, "name": last.1}).to_string())
}

fn read_token(token: &str) -> Result<(u64, Key), Status> {
    let invalid = || Status::bad_request("continue key is not valid");
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| invalid())?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|_| invalid())?;
    let text = |name: &str| value[name].as_str().map(str::to_owned).ok_or_else(invalid);
    Ok((value["rv"].as_u64().ok_or_else(invalid)?, (text("ns")?, text("name")?)))
}
