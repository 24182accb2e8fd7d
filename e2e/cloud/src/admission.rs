//! What a node may change: the admission plugin NodeRestriction, which asks after the authorizer.

use serde_json::Value;

use crate::request::ResourceTarget;
use crate::resource::{Gvr, ResourceKind};
use crate::status::Status;
use crate::store::Store;

/// The annotation of pods that only mirror what a node runs anyhow.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Let a write of the node `node` pass; `object` is what a create brings.
///
/// # Errors
/// 403 for what belongs to another node, 404 for a pod that is not there.
pub(crate) fn of_node(
    node: &str,
    kind: &ResourceKind,
    target: &ResourceTarget,
    object: &Value,
    store: &Store,
) -> Result<(), Status> {
    let given = object["metadata"]["name"].as_str().unwrap_or_default();
    let name = target.name.as_deref().unwrap_or(given);
    let refuse = |why: &str| Err(Status::not_admitted(&kind.gvr, name, why));
    match (kind.kind.as_str(), target.verb, target.subresource.as_deref()) {
        ("Pod", "create", None) if object["metadata"]["annotations"][MIRROR].is_null() => refuse(&format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        )),
        ("Pod", "delete", None) | ("Pod", "update" | "patch", Some("status")) => {
            let key = (target.namespace.clone().unwrap_or_default(), name.to_owned());
            let pod =
                store.get(&Gvr::core("pods"), &key).ok_or_else(|| Status::not_found(&kind.gvr, name))?;
            if pod["spec"]["nodeName"] == node {
                return Ok(());
            }
            let what = if target.verb == "delete" { "delete pods" } else { "update pod status for pods" };
            refuse(&format!("node {node:?} can only {what} with spec.nodeName set to itself"))
        }
        ("Node", "create" | "update" | "patch", _) if name != node => {
            refuse(&format!("node {node:?} is not allowed to modify node {name:?}"))
        }
        ("Lease", "create", _) if name != node => {
            refuse("can only access node lease with the same name as the requesting node")
        }
        _ => Ok(()),
    }
}
