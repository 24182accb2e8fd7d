//! Create, update, patch, delete: what a write does to an object and to the history.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::patch;
use crate::request::ResourceTarget;
use crate::resource::{Gvr, ResourceKind};
use crate::server::Cloud;
use crate::status::{self, Status};
use crate::store::Key;

/// Grace of a pod that names none.
const DEFAULT_GRACE_SECONDS: u64 = 30;

/// RFC 3339 with whole seconds, as `metav1.Time` is written.
pub(crate) fn timestamp(now: Duration) -> String {
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let time = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    time.format(&Rfc3339).expect("a time of these centuries can be written")
}

/// Create an object from a POST.
pub(crate) fn create(
    cloud: &mut Cloud,
    now: Duration,
    kind: &ResourceKind,
    target: &ResourceTarget,
    mut object: Value,
) -> Result<Arc<Value>, Status> {
    let namespace = target.namespace.clone().unwrap_or_default();
    check_type(kind, &object)?;
    if object["metadata"]["resourceVersion"].as_str().is_some_and(|v| !v.is_empty()) {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let prefix = object["metadata"]["generateName"].as_str().unwrap_or_default().to_owned();
    let mut name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if name.is_empty() && !prefix.is_empty() {
        name = format!("{prefix}{:05}", cloud.next_serial());
    }
    if name.is_empty() {
        let text = format!("{} \"\"", kind.kind);
        return Err(Status::invalid(
            &text,
            "metadata.name",
            "Required value: name or generateName is required",
        ));
    }
    if object["metadata"]["namespace"].as_str().is_some_and(|n| !n.is_empty() && n != namespace) {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if kind.namespaced
        && cloud.store().get(&Gvr::core("namespaces"), &(String::new(), namespace.clone())).is_none()
    {
        return Err(Status::not_found(&Gvr::core("namespaces"), &namespace));
    }
    let key = (namespace.clone(), name.clone());
    if cloud.store().get(&kind.gvr, &key).is_some() {
        return Err(Status::already_exists(&kind.gvr, &name));
    }
    let serial = cloud.next_serial();
    let meta = &mut object["metadata"];
    meta["name"] = name.into();
    meta["uid"] = format!("00000000-0000-4000-8000-{serial:012x}").into();
    meta["creationTimestamp"] = timestamp(now).into();
    meta["generation"] = 1.into();
    if kind.namespaced {
        meta["namespace"] = namespace.into();
    }
    object["kind"] = kind.kind.clone().into();
    object["apiVersion"] = kind.gvr.api_version().into();
    if kind.gvr.resource == "customresourcedefinitions" {
        serve_custom_resource(cloud, &object);
    }
    Ok(cloud.store_mut().put(&kind.gvr, key, object))
}

/// A CRD that is created is served at once.
fn serve_custom_resource(cloud: &mut Cloud, crd: &Value) {
    let spec = &crd["spec"];
    for version in spec["versions"].as_array().into_iter().flatten() {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        cloud.registry_mut().add(ResourceKind {
            gvr: Gvr::new(&text(&spec["group"]), &text(&version["name"]), &text(&spec["names"]["plural"])),
            kind: text(&spec["names"]["kind"]),
            namespaced: spec["scope"] == "Namespaced",
            protobuf: false,
            status: version["subresources"]["status"].is_object(),
            create_only: false,
        });
    }
}

fn check_type(kind: &ResourceKind, object: &Value) -> Result<(), Status> {
    let given = object["kind"].as_str().unwrap_or(&kind.kind);
    if !object.is_object() || given != kind.kind {
        return Err(Status::bad_request(format!(
            "the object provided is unrecognized: {given:?} is not {:?}",
            kind.kind
        )));
    }
    Ok(())
}

/// Replace an object (PUT).
pub(crate) fn update(
    cloud: &mut Cloud,
    now: Duration,
    kind: &ResourceKind,
    target: &ResourceTarget,
    object: Value,
) -> Result<Arc<Value>, Status> {
    let (key, stored) = find(cloud, kind, target)?;
    check_type(kind, &object)?;
    if object["metadata"]["name"].as_str() != Some(&key.1) {
        return Err(Status::bad_request("the name of the object does not match the name on the URL"));
    }
    replace(cloud, now, kind, target, key, &stored, object)
}

/// Patch an object. A server-side apply of an absent object creates it; then the flag is true.
pub(crate) fn patch(
    cloud: &mut Cloud,
    now: Duration,
    kind: &ResourceKind,
    target: &ResourceTarget,
    content_type: &str,
    body: &[u8],
) -> Result<(Arc<Value>, bool), Status> {
    let applies = content_type.starts_with("application/apply-patch");
    let (key, stored) = match find(cloud, kind, target) {
        Err(_) if applies && target.subresource.is_none() => {
            let object = patch::apply(&json!({}), content_type, body)?;
            return create(cloud, now, kind, target, object).map(|o| (o, true));
        }
        found => found?,
    };
    let mut patched = patch::apply(&stored, content_type, body)?;
    if !patched["metadata"].is_object() {
        return Err(Status::invalid(&kind.kind, "metadata", "must be an object"));
    }
    if applies && let Some(meta) = patched["metadata"].as_object_mut() {
        meta.remove("managedFields");
    }
    replace(cloud, now, kind, target, key, &stored, patched).map(|o| (o, false))
}

fn find(cloud: &Cloud, kind: &ResourceKind, target: &ResourceTarget) -> Result<(Key, Arc<Value>), Status> {
    let name = target.name.clone().unwrap_or_default();
    let key = (target.namespace.clone().unwrap_or_default(), name.clone());
    match cloud.store().get(&kind.gvr, &key) {
        Some(object) => Ok((key, object.clone())),
        None => Err(Status::not_found(&kind.gvr, &name)),
    }
}

fn replace(
    cloud: &mut Cloud,
    _now: Duration,
    kind: &ResourceKind,
    target: &ResourceTarget,
    key: Key,
    stored: &Value,
    mut object: Value,
) -> Result<Arc<Value>, Status> {
    let given = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    if !given.is_empty() && stored["metadata"]["resourceVersion"] != given {
        let text =
            "the object has been modified; please apply your changes to the latest version and try again";
        return Err(Status::conflict(&kind.gvr, &key.1, text));
    }
    if object["metadata"]["uid"]
        .as_str()
        .is_some_and(|uid| !uid.is_empty() && stored["metadata"]["uid"] != uid)
    {
        return Err(Status::conflict(
            &kind.gvr,
            &key.1,
            "Precondition failed: UID in precondition does not match",
        ));
    }
    // What a client may not change is taken from the stored object.
    for member in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "resourceVersion",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        keep(&mut object["metadata"], &stored["metadata"], member);
    }
    if target.subresource.as_deref() == Some("status") {
        let status = object["status"].take();
        let meta = object["metadata"].take();
        object = stored.clone();
        object["metadata"] = meta;
        object["status"] = status;
    } else if kind.status {
        keep(&mut object, stored, "status");
    }
    keep(&mut object, stored, "kind");
    keep(&mut object, stored, "apiVersion");
    if object == *stored {
        // As the real store: a write that changes nothing makes no revision and no event.
        return Ok(Arc::new(object));
    }
    if object["spec"] != stored["spec"] {
        let generation = stored["metadata"]["generation"].as_u64().unwrap_or(0) + 1;
        object["metadata"]["generation"] = generation.into();
    }
    let terminating = object["metadata"]["deletionTimestamp"].is_string();
    let finalized = object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
    let waits = object["metadata"]["deletionGracePeriodSeconds"].as_u64().unwrap_or(0) > 0;
    if terminating && finalized && !waits {
        return Ok(cloud.store_mut().delete(&kind.gvr, &key).expect("found above"));
    }
    Ok(cloud.store_mut().put(&kind.gvr, key, object))
}

fn keep(object: &mut Value, stored: &Value, member: &str) {
    match stored.get(member) {
        Some(value) => object[member] = value.clone(),
        None => {
            if let Some(map) = object.as_object_mut() {
                map.remove(member);
            }
        }
    }
}

/// Delete one object: at once, or by a deletion timestamp while finalizers or grace hold it.
pub(crate) fn delete(
    cloud: &mut Cloud,
    now: Duration,
    kind: &ResourceKind,
    target: &ResourceTarget,
    options: &Value,
) -> Result<Value, Status> {
    let (key, stored) = find(cloud, kind, target)?;
    let wanted = &options["preconditions"];
    for member in ["uid", "resourceVersion"] {
        if wanted[member].is_string() && wanted[member] != stored["metadata"][member] {
            let text = format!("Precondition failed: {member} in precondition does not match");
            return Err(Status::conflict(&kind.gvr, &key.1, &text));
        }
    }
    let held = stored["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
    let bound =
        kind.gvr == Gvr::core("pods") && stored["spec"]["nodeName"].as_str().is_some_and(|n| !n.is_empty());
    let default = stored["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(DEFAULT_GRACE_SECONDS);
    let asked = options["gracePeriodSeconds"].as_u64();
    let grace = if bound { asked.unwrap_or(default) } else { 0 };
    if !held && grace == 0 {
        let gone = cloud.store_mut().delete(&kind.gvr, &key).expect("found above");
        let uid = gone["metadata"]["uid"].as_str().unwrap_or_default();
        return Ok(status::deleted(&kind.gvr, &key.1, uid));
    }
    let mut object = (*stored).clone();
    let before = stored["metadata"]["deletionGracePeriodSeconds"].as_u64();
    if before.is_some_and(|b| b <= grace) {
        return Ok(object);
    }
    object["metadata"]["deletionTimestamp"] = timestamp(now + Duration::from_secs(grace)).into();
    object["metadata"]["deletionGracePeriodSeconds"] = grace.into();
    Ok((*cloud.store_mut().put(&kind.gvr, key, object)).clone())
}
