//! Field selectors, evaluated on JSON objects.

use serde_json::Value;

use crate::resource::Gvr;
use crate::status::Status;

/// A parsed field selector; the empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldSelector {
    terms: Vec<(String, bool, String)>,
}

impl FieldSelector {
    /// Parse the `fieldSelector` parameter.
    ///
    /// # Errors
    /// 400 when the text is no selector.
    pub fn parse(text: &str) -> Result<Self, Status> {
        let mut terms = Vec::new();
        for part in split(text).into_iter().filter(|part| !part.is_empty()) {
            let found = ["!=", "==", "="].iter().find_map(|operator| {
                let (path, value) = part.split_once(operator)?;
                Some((path.to_owned(), *operator != "!=", unescape(value)))
            });
            let understood = found.ok_or_else(|| {
                Status::bad_request(format!("invalid selector: '{text}'; can't understand '{part}'"))
            })?;
            terms.push(understood);
        }
        Ok(Self { terms })
    }

    /// A selector for one name, as a name in the path of a watch means it.
    #[must_use]
    pub fn name(name: &str) -> Self {
        Self { terms: vec![("metadata.name".into(), true, name.into())] }
    }

    /// Add the requirement `path=value`.
    pub(crate) fn require(&mut self, path: &str, value: &str) {
        self.terms.push((path.into(), true, value.into()));
    }

    /// The value that the selector requires of a path, if it does.
    #[must_use]
    pub fn required(&self, path: &str) -> Option<&str> {
        self.terms.iter().find(|(p, equal, _)| *equal && p == path).map(|(_, _, value)| value.as_str())
    }

    /// True when there is no term.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Refuse paths that the server does not index for this resource.
    ///
    /// # Errors
    /// 400 with the server's words.
    pub fn check(&self, gvr: &Gvr) -> Result<(), Status> {
        let Some((path, _, _)) = self.terms.iter().find(|(path, _, _)| !is_supported(gvr, path)) else {
            return Ok(());
        };
        // Kinds with fields of their own, and custom ones, have shorter words for it.
        let short = !own_fields(gvr).is_empty() || gvr.is_custom();
        Err(Status::bad_request(if short {
            format!("field label not supported: {path}")
        } else {
            format!("{path:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
        }))
    }

    /// Does the object match?
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        self.terms.iter().all(|(path, equal, value)| (field(object, path) == *value) == *equal)
    }
}

/// At commas that no backslash precedes.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        if c == ',' && !escaped {
            parts.push(&text[start..at]);
            start = at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    parts.push(&text[start..]);
    parts
}

/// Without the backslashes that keep commas and the like from having a meaning.
fn unescape(text: &str) -> String {
    let (mut plain, mut escaped) = (String::new(), false);
    for c in text.chars() {
        escaped = c == '\\' && !escaped;
        if !escaped {
            plain.push(c);
        }
    }
    plain
}

fn is_supported(gvr: &Gvr, path: &str) -> bool {
    matches!(path, "metadata.name" | "metadata.namespace") || own_fields(gvr).contains(&path)
}

/// What can be selected by beside name and namespace.
fn own_fields(gvr: &Gvr) -> &'static [&'static str] {
    match gvr.resource.as_str() {
        "pods" => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        "nodes" => &["spec.unschedulable"],
        "services" => &["spec.clusterIP", "spec.type"],
        "secrets" => &["type"],
        "namespaces" => &["status.phase"],
        "events" => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        "certificatesigningrequests" => &["spec.signerName"],
        _ => &[],
    }
}

/// A field as the server turns it into text: absent strings are empty, absent booleans false.
fn field(object: &Value, path: &str) -> String {
    let path = if path == "source" { "source.component" } else { path };
    let value = path.split('.').fold(object, |value, part| &value[part]);
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        _ if matches!(path, "spec.hostNetwork" | "spec.unschedulable") => "false".into(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_that_are_not_indexed_are_refused() {
        let pods = Gvr::core("pods");
        FieldSelector::parse("spec.nodeName=n1,status.phase!=Failed").unwrap().check(&pods).unwrap();
        assert_eq!(FieldSelector::parse("spec.image=x").unwrap().check(&pods).unwrap_err().code, 400);
        let escaped = FieldSelector::parse("metadata.name=a\\,b").unwrap();
        assert_eq!(escaped.required("metadata.name"), Some("a,b"));
        let pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1"}});
        assert!(FieldSelector::parse("spec.nodeName=n1").unwrap().matches(&pod));
        assert!(FieldSelector::parse("spec.hostNetwork=false,status.phase!=Failed").unwrap().matches(&pod));
        assert!(!FieldSelector::parse("spec.nodeName!=n1").unwrap().matches(&pod));
    }
}
