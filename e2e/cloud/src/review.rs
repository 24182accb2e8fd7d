//! TokenReview and SubjectAccessReview.

use std::time::Duration;

use serde_json::{Value, json};

use crate::authorization::{Attributes, Principal};
use crate::resource::{Gvr, ResourceKind};
use crate::selector::FieldSelector;
use crate::server::Cloud;
use crate::status::{Cause, Status};
use crate::write;

/// Answer a review: the document with its status.
///
/// # Errors
/// 400 and 422 for a review that asks nothing.
pub(crate) fn answer(
    cloud: &Cloud,
    now: Duration,
    kind: &ResourceKind,
    document: Value,
    caller: &Principal,
) -> Result<Value, Status> {
    write::check_type(cloud, kind, &document)?;
    let mut document = match kind.kind.as_str() {
        "TokenReview" => token(cloud, now, document)?,
        "SubjectAccessReview" => access(cloud, document, None)?,
        _ => access(cloud, document, Some(caller))?,
    };
    document["kind"] = kind.kind.clone().into();
    document["apiVersion"] = kind.gvr.api_version().into();
    if document["metadata"].is_null() {
        document["metadata"] = json!({});
    }
    Ok(document)
}

fn quoted(texts: &[String]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

/// Fill the status of a TokenReview.
fn token(cloud: &Cloud, now: Duration, mut document: Value) -> Result<Value, Status> {
    let asked: Vec<String> = document["spec"]["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    let asked = if asked.is_empty() { vec![cloud.issuer().to_owned()] } else { asked };
    let token = document["spec"]["token"].as_str().unwrap_or_default();
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let error = |text: String| json!({"user": {}, "error": text});
    document["status"] = match cloud.authenticate_token(now, token) {
        Err("") => error("invalid bearer token".into()),
        Err(why) => error(format!("[invalid bearer token, {why}]")),
        Ok((principal, audiences)) => {
            let common: Vec<String> = asked.iter().filter(|a| audiences.contains(a)).cloned().collect();
            if common.is_empty() {
                let (has, wants) = (quoted(&audiences), quoted(&asked));
                let why = format!("token audiences {has} is invalid for the target audiences {wants}");
                error(format!("[invalid bearer token, {why}]"))
            } else {
                json!({"authenticated": true, "user": user_info(&principal), "audiences": common})
            }
        }
    };
    Ok(document)
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
fn access(cloud: &Cloud, mut document: Value, caller: Option<&Principal>) -> Result<Value, Status> {
    let spec = &document["spec"];
    let mut causes = Vec::new();
    if spec["resourceAttributes"].is_null() == spec["nonResourceAttributes"].is_null() {
        let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        causes.push(Cause::invalid("spec.resourceAttributes", "null", why));
    }
    if caller.is_none() && spec["user"].as_str().is_none_or(str::is_empty) && spec["groups"].is_null() {
        causes.push(Cause::invalid("spec.user", "\"\"", "at least one of user or group must be specified"));
    }
    if !causes.is_empty() {
        // The server names no kind here.
        return Err(Status::invalid("authorization.k8s.io", "", "", &causes));
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let principal = caller.cloned().unwrap_or_else(|| Principal {
        user: text(&spec["user"]),
        groups: spec["groups"].as_array().into_iter().flatten().map(text).collect(),
        ..Principal::default()
    });
    let verdict = if let Some(resource) = spec.get("resourceAttributes").filter(|r| r.is_object()) {
        let version = resource["version"].as_str().filter(|v| !v.is_empty()).unwrap_or("v1");
        let gvr = Gvr::new(&text(&resource["group"]), version, &text(&resource["resource"]));
        cloud.decide(&Attributes {
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
        cloud.decide(&Attributes {
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
    document["status"] = match verdict {
        Ok(()) => json!({"allowed": true}),
        Err(reason) if reason.is_empty() => json!({"allowed": false}),
        Err(reason) => json!({"allowed": false, "reason": reason}),
    };
    Ok(document)
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
