//! Discovery documents reduced to what the model serves.

use e2e::cloud::model::{Gvr, Registry};
use serde_json::Value;

/// The subresources that the model tells.
const SUBRESOURCES: [&str; 2] = ["status", "token"];

/// The document without what the model does not serve; `None` if it is none of discovery.
pub(crate) fn reduced(document: &Value) -> Option<Value> {
    let registry = Registry::default();
    let mut document = document.clone();
    match document["kind"].as_str()? {
        "APIGroupList" => reduce(&mut document, "groups", |group| {
            has_group(&registry, group["name"].as_str().unwrap_or_default())
        }),
        "APIResourceList" => {
            let version = document["groupVersion"].as_str()?.to_owned();
            let (group, version) = version.rsplit_once('/').unwrap_or(("", &version));
            reduce(&mut document, "resources", |resource| {
                let name = resource["name"].as_str().unwrap_or_default();
                let (name, subresource) = name.split_once('/').unwrap_or((name, "status"));
                is_served(&registry, group, version, name) && SUBRESOURCES.contains(&subresource)
            });
        }
        "APIGroupDiscoveryList" => {
            reduce(&mut document, "items", |group| {
                has_group(&registry, group["metadata"]["name"].as_str().unwrap_or_default())
            });
            for group in document["items"].as_array_mut()? {
                reduce_group(&registry, group);
            }
        }
        _ => return None,
    }
    Some(document)
}

fn reduce_group(registry: &Registry, group: &mut Value) {
    let name = group["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    for version in group["versions"].as_array_mut().into_iter().flatten() {
        let number = version["version"].as_str().unwrap_or_default().to_owned();
        reduce(version, "resources", |resource| {
            is_served(registry, &name, &number, resource["resource"].as_str().unwrap_or_default())
        });
        for resource in version["resources"].as_array_mut().into_iter().flatten() {
            reduce(resource, "subresources", |part| {
                SUBRESOURCES.contains(&part["subresource"].as_str().unwrap_or_default())
            });
            if resource["subresources"].as_array().is_some_and(Vec::is_empty) {
                resource.as_object_mut().expect("it has members").remove("subresources");
            }
        }
    }
}

/// Keep what `served` says of a list, sorted, without what only people and migrations use.
fn reduce(document: &mut Value, list: &str, served: impl Fn(&Value) -> bool) {
    let Some(items) = document.get_mut(list).and_then(Value::as_array_mut) else { return };
    items.retain(|item| served(item));
    for item in items.iter_mut().filter_map(Value::as_object_mut) {
        for member in ["shortNames", "categories", "storageVersionHash"] {
            item.remove(member);
        }
    }
    items.sort_by_key(|item| {
        let names = [&item["name"], &item["resource"], &item["metadata"]["name"], &item["subresource"]];
        names.into_iter().find_map(|name| name.as_str().map(str::to_owned))
    });
}

fn has_group(registry: &Registry, group: &str) -> bool {
    registry.iter().any(|kind| kind.gvr.group == group)
}

fn is_served(registry: &Registry, group: &str, version: &str, resource: &str) -> bool {
    registry.find(&Gvr::new(group, version, resource)).is_some()
}
