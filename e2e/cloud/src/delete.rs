//! Delete: preconditions, grace, finalizers, whole collections; and the binding of a pod, which begins its life on a
//! node.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::options::number;
use crate::request::ResourceTarget;
use crate::resource::ResourceKind;
use crate::server::Cloud;
use crate::status::{self, Cause, Status};
use crate::store::Key;
use crate::time::timestamp;
use crate::write::find;

/// Grace of a pod that names none.
const DEFAULT_GRACE_SECONDS: u64 = 30;

/// How an object is to go, from the body and the query.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    grace: Option<u64>,
    uid: Option<String>,
    resource_version: Option<String>,
    propagation: Option<String>,
    pub(crate) dry_run: bool,
}

impl DeleteOptions {
    /// At once, as a test deletes.
    pub(crate) fn now() -> Self {
        Self { grace: Some(0), ..Self::default() }
    }

    /// Of a body and of a query; one of them is empty.
    ///
    /// # Errors
    /// 400 for numbers that are none, 422 for a propagation that does not exist.
    pub(crate) fn parse(body: &Value, query: &str) -> Result<Self, Status> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let mut options = Self {
            grace: body["gracePeriodSeconds"].as_u64(),
            uid: text(&body["preconditions"]["uid"]),
            resource_version: text(&body["preconditions"]["resourceVersion"]),
            propagation: text(&body["propagationPolicy"]),
            dry_run: body["dryRun"].as_array().is_some_and(|values| !values.is_empty()),
        };
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match key.as_ref() {
                "gracePeriodSeconds" => options.grace = u64::try_from(number(&value)?).ok(),
                "propagationPolicy" => options.propagation = Some(value.into_owned()),
                "dryRun" => options.dry_run = true,
                _ => {}
            }
        }
        match options.propagation.as_deref() {
            None | Some("Foreground" | "Background" | "Orphan") => Ok(options),
            Some(other) => {
                let known = ["Foreground", "Background", "Orphan", "nil"];
                let cause = Cause::unsupported("propagationPolicy", &format!("{other:?}"), &known);
                Err(Status::invalid_options("DeleteOptions", &[cause]))
            }
        }
    }

    fn check(&self, kind: &ResourceKind, stored: &Value) -> Result<(), Status> {
        let meta = &stored["metadata"];
        let text = |member: &str| meta[member].as_str().unwrap_or_default().to_owned();
        for (given, member, name, ending) in [
            (&self.uid, "uid", "UID", "deleted and then recreated"),
            (&self.resource_version, "resourceVersion", "ResourceVersion", "modified"),
        ] {
            let Some(given) = given.as_ref().filter(|given| meta[member] != **given) else { continue };
            let record = text(member);
            let why = format!(
                "the {name} in the precondition ({given}) does not match the {name} in record ({record}). The object \
                 might have been {ending}"
            );
            return Err(Status::precondition(&kind.kind, &text("name"), &why));
        }
        Ok(())
    }
}

/// Delete one object: at once, or by a deletion timestamp while finalizers or grace hold it. The answer is a Status
/// or the object.
pub(crate) fn one(
    cloud: &mut Cloud,
    now: Duration,
    kind: &ResourceKind,
    target: &ResourceTarget,
    options: &DeleteOptions,
) -> Result<Value, Status> {
    let (key, stored) = find(cloud, kind, target)?;
    options.check(kind, &stored)?;
    let mut object = (*stored).clone();
    let finalizers = finalizers(&stored, options.propagation.as_deref());
    let held = !finalizers.is_empty();
    if held {
        object["metadata"]["finalizers"] = json!(finalizers);
    }
    if kind.kind == "Pod" {
        let grace = grace(&stored, options.grace);
        if !mark(&mut object, now, grace, options.grace.is_some()) {
            return Ok(object);
        }
        let marked = cloud.store_mut().put(&kind.gvr, key.clone(), object);
        let gone = object_grace(&marked) == Some(0) && !held;
        return Ok(if gone { remove(cloud, kind, &key, &marked) } else { (*marked).clone() });
    }
    if !held {
        return Ok(remove(cloud, kind, &key, &stored));
    }
    if stored["metadata"]["deletionTimestamp"].is_null() {
        object["metadata"]["deletionTimestamp"] = timestamp(now).into();
        object["metadata"]["deletionGracePeriodSeconds"] = 0.into();
        count_change(&mut object);
    }
    if object == *stored {
        return Ok(object);
    }
    Ok((*cloud.store_mut().put(&kind.gvr, key, object)).clone())
}

/// Take an object out of the store; a Status, or what was there.
fn remove(cloud: &mut Cloud, kind: &ResourceKind, key: &Key, last: &Arc<Value>) -> Value {
    let gone = cloud.store_mut().delete(&kind.gvr, key).expect("found before");
    if kind.returns_deleted() {
        return (**last).clone();
    }
    status::deleted(&kind.gvr, &key.1, gone["metadata"]["uid"].as_str().unwrap_or_default())
}

/// The finalizers that will hold the object: its own, with or without those of the garbage collector.
fn finalizers(stored: &Value, propagation: Option<&str>) -> Vec<String> {
    let own = stored["metadata"]["finalizers"].as_array().into_iter().flatten();
    let mut finalizers: Vec<String> = own.filter_map(|f| f.as_str().map(str::to_owned)).collect();
    let wanted = match propagation {
        None => return finalizers,
        Some("Foreground") => Some("foregroundDeletion"),
        Some("Orphan") => Some("orphan"),
        Some(_) => None,
    };
    finalizers.retain(|f| !matches!(f.as_str(), "foregroundDeletion" | "orphan"));
    finalizers.extend(wanted.map(str::to_owned));
    finalizers
}

/// The grace of a pod: none for one that no node holds or that has ended.
fn grace(pod: &Value, asked: Option<u64>) -> u64 {
    let bound = pod["spec"]["nodeName"].as_str().is_some_and(|n| !n.is_empty());
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
    let default = pod["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(DEFAULT_GRACE_SECONDS);
    if bound && !ended { asked.unwrap_or(default) } else { 0 }
}

fn object_grace(object: &Value) -> Option<u64> {
    object["metadata"]["deletionGracePeriodSeconds"].as_u64()
}

/// The first deletion counts as a change of the spec where changes are counted.
fn count_change(object: &mut Value) {
    if let Some(generation) = object["metadata"]["generation"].as_u64() {
        object["metadata"]["generation"] = (generation + 1).into();
    }
}

/// Note that a pod goes after `grace` seconds; false when nothing changes, because a grace can only get shorter.
fn mark(pod: &mut Value, now: Duration, grace: u64, asked: bool) -> bool {
    let begun = match (object_grace(pod), pod["metadata"]["deletionTimestamp"].as_str()) {
        (Some(before), Some(end)) => {
            if !(asked || grace == 0) || grace >= before {
                return false;
            }
            let end = OffsetDateTime::parse(end, &Rfc3339).map_or(0, OffsetDateTime::unix_timestamp);
            Duration::from_secs(u64::try_from(end).unwrap_or(0).saturating_sub(before))
        }
        _ => {
            count_change(pod);
            now
        }
    };
    pod["metadata"]["deletionTimestamp"] = timestamp(begun + Duration::from_secs(grace)).into();
    pod["metadata"]["deletionGracePeriodSeconds"] = grace.into();
    true
}

/// Delete everything that was listed.
pub(crate) fn many(
    cloud: &mut Cloud,
    now: Duration,
    kind: &ResourceKind,
    target: &ResourceTarget,
    keys: &[Key],
    options: &DeleteOptions,
) -> Result<(), Status> {
    for (namespace, name) in keys {
        let namespace = Some(namespace.clone()).filter(|n| !n.is_empty());
        one(
            cloud,
            now,
            kind,
            &ResourceTarget { namespace, name: Some(name.clone()), ..target.clone() },
            options,
        )?;
    }
    Ok(())
}

/// Bind a pod to a node, as the scheduler does.
pub(crate) fn bind(
    cloud: &mut Cloud,
    now: Duration,
    kind: &ResourceKind,
    target: &ResourceTarget,
    binding: &Value,
) -> Result<Value, Status> {
    let (key, stored) = find(cloud, kind, target)?;
    if let Some(node) = stored["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
        let why = format!("pod {} is already assigned to node {node:?}", key.1);
        let text = format!("Operation cannot be fulfilled on pods/binding {:?}: {why}", key.1);
        let mut conflict = Status::conflict(&kind.gvr, &key.1, &why);
        conflict.message = text;
        conflict.details["kind"] = "pods/binding".into();
        return Err(conflict);
    }
    let mut pod = (*stored).clone();
    pod["spec"]["nodeName"] = binding["target"]["name"].clone();
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
        "lastTransitionTime": timestamp(now)});
    match pod["status"]["conditions"].as_array_mut() {
        Some(conditions) => conditions.push(condition),
        None => pod["status"]["conditions"] = json!([condition]),
    }
    cloud.store_mut().put(&kind.gvr, key, pod);
    Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}))
}
