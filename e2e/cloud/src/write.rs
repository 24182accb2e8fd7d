//! Create, update, patch: what a write does to an object and to the history.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::defaults;
use crate::patch;
use crate::request::ResourceTarget;
use crate::resource::{Gvr, ResourceKind};
use crate::server::Cloud;
use crate::status::{Cause, Status};
use crate::store::Key;
use crate::time::timestamp;
use crate::validate;

/// Create an object from a POST.
pub(crate) fn create(
    cloud: &mut Cloud,
    now: Duration,
    kind: &ResourceKind,
    target: &ResourceTarget,
    mut object: Value,
) -> Result<Arc<Value>, Status> {
    let namespace = target.namespace.clone().unwrap_or_default();
    check_type(cloud, kind, &object)?;
    check_namespace(target, &object)?;
    if kind.namespaced
        && cloud.store().get(&Gvr::core("namespaces"), &(String::new(), namespace.clone())).is_none()
    {
        return Err(Status::not_found(&Gvr::core("namespaces"), &namespace));
    }
    let prefix = object["metadata"]["generateName"].as_str().unwrap_or_default().to_owned();
    if object["metadata"]["name"].as_str().unwrap_or_default().is_empty() && !prefix.is_empty() {
        object["metadata"]["name"] = format!("{prefix}{:05}", cloud.next_serial()).into();
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    refuse_invalid(kind, &name, &validate::metadata(kind, &object))?;
    defaults::fill(kind, &mut object);
    if object["metadata"]["resourceVersion"].as_str().is_some_and(|v| !v.is_empty()) {
        return Err(Status::unexpected("resourceVersion should not be set on objects to be created"));
    }
    let key = (namespace.clone(), name.clone());
    if let Some(stored) = cloud.store().get(&kind.gvr, &key) {
        let going = stored["metadata"]["deletionTimestamp"].is_string();
        let refuse = if going { Status::still_exists } else { Status::already_exists };
        return Err(refuse(&kind.gvr, &name));
    }
    let serial = cloud.next_serial();
    let meta = &mut object["metadata"];
    meta["uid"] = format!("00000000-0000-4000-8000-{serial:012x}").into();
    meta["creationTimestamp"] = timestamp(now).into();
    if let Some(meta) = meta.as_object_mut() {
        for member in ["deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
            meta.remove(member);
        }
    }
    if kind.generation() {
        meta["generation"] = 1.into();
    }
    if kind.namespaced {
        meta["namespace"] = namespace.into();
    }
    object["kind"] = kind.kind.clone().into();
    object["apiVersion"] = kind.gvr.api_version().into();
    defaults::prune(&mut object);
    if kind.gvr.resource == "customresourcedefinitions" {
        serve_custom_resource(cloud, &object);
    }
    Ok(cloud.store_mut().put(&kind.gvr, key, object))
}

fn refuse_invalid(kind: &ResourceKind, name: &str, causes: &[Cause]) -> Result<(), Status> {
    if causes.is_empty() { Ok(()) } else { Err(Status::invalid(&kind.gvr.group, &kind.kind, name, causes)) }
}

fn check_namespace(target: &ResourceTarget, object: &Value) -> Result<(), Status> {
    let given = object["metadata"]["namespace"].as_str().unwrap_or_default();
    if given.is_empty() || Some(given) == target.namespace.as_deref() {
        return Ok(());
    }
    let text = "the namespace of the provided object does not match the namespace sent on the request";
    Err(Status::bad_request(text))
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
            columns: Vec::new(),
        });
    }
}

/// The type of a document, which may leave out what the path says anyhow.
pub(crate) fn check_type(cloud: &Cloud, kind: &ResourceKind, object: &Value) -> Result<(), Status> {
    let expected = (kind.kind.clone(), kind.gvr.api_version());
    let given = |member: &str, default: &str| object[member].as_str().unwrap_or(default).to_owned();
    let (name, version) = (given("kind", &expected.0), given("apiVersion", &expected.1));
    if (&name, &version) == (&expected.0, &expected.1) {
        return Ok(());
    }
    let known = cloud.registry().iter().any(|k| k.kind == name && k.gvr.api_version() == version);
    let why = if known {
        let go_type = version.rsplit('/').next().unwrap_or_default();
        format!("converting ({go_type}.{name}) to ({}): unknown conversion", kind.go_type())
    } else {
        format!(
            "no kind {name:?} is registered for version {version:?} in scheme \"pkg/runtime/scheme.go:111\""
        )
    };
    let text = format!("{name} in version {version:?} cannot be handled as a {}: {why}", kind.kind);
    Err(Status::bad_request(text))
}

/// Replace an object (PUT); the flag tells that there was none and it was created.
pub(crate) fn update(
    cloud: &mut Cloud,
    now: Duration,
    kind: &ResourceKind,
    target: &ResourceTarget,
    mut object: Value,
) -> Result<(Arc<Value>, bool), Status> {
    check_type(cloud, kind, &object)?;
    check_identity(target, &object)?;
    let (key, stored) = match find(cloud, kind, target) {
        Err(_) if kind.create_on_update() && target.subresource.is_none() => {
            return create(cloud, now, kind, target, object).map(|o| (o, true));
        }
        found => found?,
    };
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    if !uid.is_empty() && stored["metadata"]["uid"] != uid {
        let path = format!("/registry/{}/{}/{}", kind.gvr.resource, key.0, key.1);
        let record = stored["metadata"]["uid"].as_str().unwrap_or_default();
        let text = format!(
            "StorageError: invalid object, Code: 4, Key: {path}, ResourceVersion: 0, AdditionalErrorMsg: Precondition \
             failed: UID in precondition: {uid}, UID in object meta: {record}"
        );
        return Err(Status::conflict(&kind.gvr, &key.1, &text));
    }
    if kind.kind == "Secret" {
        defaults::encode_strings(&mut object);
    }
    replace(cloud, kind, target, key, &stored, object, false).map(|o| (o, false))
}

/// Name and namespace of a document have to be those of the path.
fn check_identity(target: &ResourceTarget, object: &Value) -> Result<(), Status> {
    let url = target.name.as_deref().unwrap_or_default();
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        let text =
            format!("the name of the object ({url} based on URL) was undeterminable: name must be provided");
        return Err(Status::bad_request(text));
    }
    if name != url {
        let text = format!("the name of the object ({name}) does not match the name on the URL ({url})");
        return Err(Status::bad_request(text));
    }
    check_namespace(target, object)
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
            let mut object = patch::apply(&json!({}), content_type, body)?;
            check_identity(target, &object)?;
            defaults::reset(kind, &mut object);
            return create(cloud, now, kind, target, object).map(|o| (o, true));
        }
        found => found?,
    };
    let mut patched = patch::apply(&stored, content_type, body)?;
    if !patched["metadata"].is_object() {
        return Err(Status::bad_request("metadata must be an object"));
    }
    if applies && let Some(meta) = patched["metadata"].as_object_mut() {
        meta.remove("managedFields");
    }
    check_identity(target, &patched)?;
    replace(cloud, kind, target, key, &stored, patched, true).map(|o| (o, false))
}

/// The object that a path names.
pub(crate) fn find(
    cloud: &Cloud,
    kind: &ResourceKind,
    target: &ResourceTarget,
) -> Result<(Key, Arc<Value>), Status> {
    let name = target.name.clone().unwrap_or_default();
    let key = (target.namespace.clone().unwrap_or_default(), name.clone());
    match cloud.store().get(&kind.gvr, &key) {
        Some(object) => Ok((key, object.clone())),
        None => Err(Status::not_found(&kind.gvr, &name)),
    }
}

/// Optimistic concurrency: the revision that a client read has to be the one that is stored.
fn check_revision(kind: &ResourceKind, name: &str, stored: &Value, object: &Value) -> Result<(), Status> {
    let given = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    if given.is_empty() {
        if kind.unconditional_update() {
            return Ok(());
        }
        let cause = Cause::invalid("metadata.resourceVersion", "0", "must be specified for an update");
        return Err(Status::invalid(&kind.gvr.group, &kind.gvr.resource, name, &[cause]));
    }
    if given.parse::<u64>().is_err() {
        let text = format!("strconv.ParseUint: parsing {given:?}: invalid syntax");
        return Err(Status::unexpected(text));
    }
    if stored["metadata"]["resourceVersion"] != given {
        let text =
            "the object has been modified; please apply your changes to the latest version and try again";
        return Err(Status::conflict(&kind.gvr, name, text));
    }
    Ok(())
}

fn replace(
    cloud: &mut Cloud,
    kind: &ResourceKind,
    target: &ResourceTarget,
    key: Key,
    stored: &Value,
    mut object: Value,
    patched: bool,
) -> Result<Arc<Value>, Status> {
    check_revision(kind, &key.1, stored, &object)?;
    let causes = validate::change(kind, &object, stored, patched);
    refuse_invalid(kind, &key.1, &causes)?;
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
    defaults::prune(&mut object);
    if object == *stored {
        // As the real store: a write that changes nothing makes no revision and no event.
        return Ok(Arc::new(object));
    }
    if kind.generation() && object["spec"] != stored["spec"] {
        let generation = stored["metadata"]["generation"].as_u64().unwrap_or(0) + 1;
        object["metadata"]["generation"] = generation.into();
    }
    let terminating = object["metadata"]["deletionTimestamp"].is_string();
    let finalized = object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
    let waits = object["metadata"]["deletionGracePeriodSeconds"].as_u64().unwrap_or(0) > 0;
    if terminating && finalized && !waits {
        // The last finalizer is gone: the object goes as it is now, and the answer shows it with what it was.
        let mut last = (*cloud.store_mut().delete(&kind.gvr, &key).expect("found above")).clone();
        keep(&mut last["metadata"], &object["metadata"], "finalizers");
        keep(&mut last["metadata"], &stored["metadata"], "resourceVersion");
        return Ok(Arc::new(last));
    }
    Ok(cloud.store_mut().put(&kind.gvr, key, object))
}

/// Take a member of the stored object over, or its absence.
pub(crate) fn keep(object: &mut Value, stored: &Value, member: &str) {
    match stored.get(member) {
        Some(value) => object[member] = value.clone(),
        None => {
            if let Some(map) = object.as_object_mut() {
                map.remove(member);
            }
        }
    }
}
