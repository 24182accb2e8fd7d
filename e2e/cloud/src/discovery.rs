//! Plain paths: discovery, version, health, issuer keys, and a stub of OpenAPI.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::answer::Response;
use crate::request::Request;
use crate::resource::{Registry, ResourceKind};
use crate::server::Cloud;
use crate::status::Status;

/// The version that the model says it is.
const VERSION: (&str, &str) = ("1", "36");

/// Answer a plain path.
pub(crate) fn answer(cloud: &Cloud, request: &Request, path: &str) -> Result<Response, Status> {
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return Err(Status::method_not_allowed());
    }
    let registry = cloud.registry();
    let aggregated = request.accept.split(',').next().is_some_and(|a| a.contains("as=APIGroupDiscoveryList"));
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let document = match parts.as_slice() {
        ["healthz" | "livez" | "readyz"] => return Ok(Response::text(200, "ok")),
        ["version"] => json!({
            "major": VERSION.0, "minor": VERSION.1, "gitVersion": format!("v{}.{}.0-model", VERSION.0, VERSION.1),
            "gitCommit": "", "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": "",
        }),
        ["api"] if aggregated => return Ok(with_etag(request, &discovery(registry, true), true)),
        ["apis"] if aggregated => return Ok(with_etag(request, &discovery(registry, false), true)),
        ["api"] => json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        ["apis"] => {
            let groups: Vec<Value> =
                groups(registry).into_iter().map(|(name, versions)| group(name, &versions)).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        ["api", version] => resources(registry, "", version).ok_or_else(Status::no_such_path)?,
        ["apis", name] => {
            let groups = groups(registry);
            let mut document = group(name, groups.get(name).ok_or_else(Status::no_such_group)?);
            document["kind"] = "APIGroup".into();
            document["apiVersion"] = "v1".into();
            document
        }
        ["apis", name, version] => {
            let refuse = if registry.serves(name) { Status::no_such_path } else { Status::no_such_group };
            resources(registry, name, version).ok_or_else(refuse)?
        }
        ["openapi", "v3"] => json!({"paths": {}}),
        ["openapi", "v2"] => {
            json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": "model"}, "paths": {}})
        }
        ["openid", "v1", "jwks"] => {
            return issuer_document(request, "application/jwk-set+json", &cloud.jwks());
        }
        [".well-known", "openid-configuration"] => {
            return issuer_document(request, "application/json", &configuration(cloud));
        }
        _ => return Err(Status::no_such_group()),
    };
    Ok(with_etag(request, &document, false))
}

/// What the issuer tells about itself; clients may keep it.
fn issuer_document(request: &Request, media_type: &str, document: &Value) -> Result<Response, Status> {
    let accepted = |clause: &str| {
        let clause = clause.split(';').next().unwrap_or_default().trim();
        clause.is_empty() || clause == "*/*" || clause == media_type
    };
    if !request.accept.split(',').any(accepted) {
        return Err(Status::not_acceptable(media_type));
    }
    let mut response = Response::json(200, document);
    response.content_type = media_type.into();
    response.headers.push(("cache-control", "public, max-age=3600".into()));
    Ok(response)
}

fn configuration(cloud: &Cloud) -> Value {
    json!({
            "issuer": cloud.issuer(), "jwks_uri": format!("{}/openid/v1/jwks", cloud.issuer()),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

/// Aggregated discovery carries an ETag and answers `If-None-Match` with 304.
fn with_etag(request: &Request, document: &Value, aggregated: bool) -> Response {
    let mut response = Response::json(200, document);
    if !aggregated {
        return response;
    }
    response.content_type = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList".into();
    let etag = format!("\"{:016X}\"", fingerprint(&response.body));
    response.headers.push(("etag", etag.clone()));
    response.headers.push(("vary", "Accept".into()));
    response.headers.push(("cache-control", "public".into()));
    if request.if_none_match.as_deref() == Some(etag.as_str()) {
        response.status = 304;
        response.body = bytes::Bytes::new();
    }
    response
}

/// FNV-1a: an ETag only has to change when the document does.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn groups(registry: &Registry) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut groups: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for kind in registry.iter().filter(|k| !k.gvr.group.is_empty()) {
        groups.entry(&kind.gvr.group).or_default().insert(&kind.gvr.version);
    }
    groups
}

fn group(name: &str, versions: &BTreeSet<&str>) -> Value {
    let version = |v: &&str| json!({"groupVersion": format!("{name}/{v}"), "version": v});
    let versions: Vec<Value> = versions.iter().map(version).collect();
    json!({"name": name, "preferredVersion": versions[0], "versions": versions})
}

fn resources(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let mut list = Vec::new();
    for kind in registry.iter().filter(|k| k.gvr.group == group && k.gvr.version == version) {
        let entry = |name: String, verbs: Vec<&str>| json!({"name": name, "singularName": if name.contains('/') { String::new() } else { kind.kind.to_lowercase() }, "namespaced": kind.namespaced, "kind": kind.kind, "verbs": verbs});
        list.push(entry(kind.gvr.resource.clone(), verbs(kind)));
        if kind.status {
            list.push(entry(format!("{}/status", kind.gvr.resource), vec!["get", "patch", "update"]));
        }
        if kind.gvr.resource == "serviceaccounts" {
            let mut token = entry("serviceaccounts/token".into(), vec!["create"]);
            token["group"] = "authentication.k8s.io".into();
            token["version"] = "v1".into();
            token["kind"] = "TokenRequest".into();
            list.push(token);
        }
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    (!list.is_empty()).then(|| {
        let mut document =
            json!({"kind": "APIResourceList", "groupVersion": group_version, "resources": list});
        // The core group's list is older than the rule that documents name their version.
        if !group.is_empty() {
            document["apiVersion"] = "v1".into();
        }
        document
    })
}

fn verbs(kind: &ResourceKind) -> Vec<&'static str> {
    if kind.create_only {
        return vec!["create"];
    }
    let all = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    all.into_iter().filter(|verb| *verb != "deletecollection" || kind.deletes_collections()).collect()
}

/// The server leaves group and version of its own kinds out here.
fn response_kind(kind: &ResourceKind) -> Value {
    if kind.gvr.is_custom() {
        return json!({"group": kind.gvr.group, "version": kind.gvr.version, "kind": kind.kind});
    }
    json!({"group": "", "version": "", "kind": kind.kind})
}

fn discovery(registry: &Registry, core: bool) -> Value {
    let mut items: BTreeMap<&str, BTreeMap<&str, Vec<Value>>> = BTreeMap::new();
    for kind in registry.iter().filter(|k| k.gvr.group.is_empty() == core) {
        let response = response_kind(kind);
        let mut entry = json!({
            "resource": kind.gvr.resource, "singularResource": kind.kind.to_lowercase(),
            "responseKind": response, "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
            "verbs": verbs(kind),
        });
        if kind.status {
            entry["subresources"] = json!([{"subresource": "status", "responseKind": response, "verbs": ["get", "patch", "update"]}]);
        }
        if kind.kind == "ServiceAccount" {
            let token = json!({"group": "authentication.k8s.io", "version": "v1", "kind": "TokenRequest"});
            entry["subresources"] =
                json!([{"subresource": "token", "responseKind": token, "verbs": ["create"]}]);
        }
        items.entry(&kind.gvr.group).or_default().entry(&kind.gvr.version).or_default().push(entry);
    }
    let items: Vec<Value> = items
        .into_iter()
        .map(|(name, versions)| {
            let version = |(v, resources): (&str, Vec<Value>)| json!({"version": v, "resources": resources, "freshness": "Current"});
            let versions: Vec<Value> = versions.into_iter().map(version).collect();
            let metadata = if name.is_empty() { json!({}) } else { json!({"name": name}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}
