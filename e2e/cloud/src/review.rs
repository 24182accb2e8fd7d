//! TokenReview and SubjectAccessReview.

use std::time::Duration;

use serde_json::{Value, json};

use crate::authorization::{Attributes, Principal};
use crate::resource::Gvr;
use crate::selector::FieldSelector;
use crate::server::Cloud;

/// Fill the status of a TokenReview.
pub(crate) fn token(cloud: &Cloud, now: Duration, mut document: Value) -> Value {
    let asked: Vec<String> = document["spec"]["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    let asked = if asked.is_empty() { vec![cloud.issuer().to_owned()] } else { asked };
    let token = document["spec"]["token"].as_str().unwrap_or_default();
    let found = cloud.authenticate_token(now, token);
    let accepted = found.and_then(|(principal, audiences)| {
        let common: Vec<String> = asked.iter().filter(|a| audiences.contains(a)).cloned().collect();
        (!common.is_empty()).then_some((principal, common))
    });
    document["status"] = match accepted {
        Some((principal, audiences)) => {
            json!({"authenticated": true, "user": user_info(&principal), "audiences": audiences})
        }
        None => json!({"user": {}, "error": "[invalid bearer token]"}),
    };
    document
}

fn user_info(principal: &Principal) -> Value {
    let mut groups = principal.groups.clone();
    groups.push("system:authenticated".into());
    let mut user = json!({"username": principal.user, "groups": groups});
    if !principal.uid.is_empty() {
        user["uid"] = principal.uid.clone().into();
    }
    for (key, value) in &principal.extra {
        user["extra"][key] = json!([value]);
    }
    user
}

/// Fill the status of a SubjectAccessReview; `caller` is the subject of the self form.
pub(crate) fn access(cloud: &Cloud, mut document: Value, caller: Option<&Principal>) -> Value {
    let spec = &document["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let principal = caller.cloned().unwrap_or_else(|| Principal {
        user: text(&spec["user"]),
        groups: spec["groups"].as_array().into_iter().flatten().map(text).collect(),
        ..Principal::default()
    });
    let allowed = if let Some(resource) = spec.get("resourceAttributes").filter(|r| r.is_object()) {
        let version = resource["version"].as_str().filter(|v| !v.is_empty()).unwrap_or("v1");
        let gvr = Gvr::new(&text(&resource["group"]), version, &text(&resource["resource"]));
        cloud.permits(&Attributes {
            principal: &principal,
            verb: &text(&resource["verb"]),
            gvr: Some(&gvr),
            subresource: &text(&resource["subresource"]),
            namespace: &text(&resource["namespace"]),
            name: &text(&resource["name"]),
            fields: &fields(&resource["fieldSelector"]),
            path: "",
        })
    } else {
        let path = &spec["nonResourceAttributes"];
        cloud.permits(&Attributes {
            principal: &principal,
            verb: &text(&path["verb"]),
            gvr: None,
            subresource: "",
            namespace: "",
            name: "",
            fields: &FieldSelector::default(),
            path: &text(&path["path"]),
        })
    };
    document["status"] =
        if allowed { json!({"allowed": true, "reason": "model policy"}) } else { json!({"allowed": false}) };
    document
}

/// The requirements of `fieldSelector` that the node rules can use: one value, operator In; or the raw text.
fn fields(selector: &Value) -> FieldSelector {
    if let Some(raw) = selector["rawSelector"].as_str() {
        return FieldSelector::parse(raw).unwrap_or_default();
    }
    let mut fields = FieldSelector::default();
    for requirement in selector["requirements"].as_array().into_iter().flatten() {
        let values = requirement["values"].as_array().map_or(&[][..], Vec::as_slice);
        if let ("In", [Value::String(value)]) = (requirement["operator"].as_str().unwrap_or_default(), values)
        {
            fields.require(requirement["key"].as_str().unwrap_or_default(), value);
        }
    }
    fields
}
