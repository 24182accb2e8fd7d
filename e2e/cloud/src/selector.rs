//! Label and field selectors, evaluated on JSON objects.

use serde_json::Value;

use crate::resource::Gvr;
use crate::status::Status;

/// A parsed label selector; the empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LabelSelector {
    terms: Vec<LabelTerm>,
}

#[derive(Clone, Debug, PartialEq)]
struct LabelTerm {
    key: String,
    test: LabelTest,
}

#[derive(Clone, Debug, PartialEq)]
enum LabelTest {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

impl LabelSelector {
    /// Parse the `labelSelector` parameter.
    ///
    /// # Errors
    /// 400 when the text is no selector.
    pub fn parse(text: &str) -> Result<Self, Status> {
        let mut terms = Vec::new();
        for part in split_top_level(text) {
            terms.push(LabelTerm::parse(part.trim()).ok_or_else(|| {
                Status::bad_request(format!(
                    "unable to parse requirement: {part:?} in label selector {text:?}"
                ))
            })?);
        }
        Ok(Self { terms })
    }

    /// True when there is no term.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Does the object carry matching labels?
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.terms.iter().all(|term| {
            let value = labels.get(&term.key).and_then(Value::as_str);
            match &term.test {
                LabelTest::In(values) => value.is_some_and(|v| values.iter().any(|x| x == v)),
                LabelTest::NotIn(values) => value.is_none_or(|v| values.iter().all(|x| x != v)),
                LabelTest::Exists => value.is_some(),
                LabelTest::Absent => value.is_none(),
            }
        })
    }
}

impl LabelTerm {
    fn parse(text: &str) -> Option<Self> {
        let term = |key: &str, test| valid_key(key.trim()).then(|| Self { key: key.trim().into(), test });
        if let Some(open) = text.find('(') {
            let inner = text[open + 1..].strip_suffix(')')?;
            let values = inner.split(',').map(|v| v.trim().to_owned()).collect();
            let (key, operator) = text[..open].trim_end().rsplit_once(char::is_whitespace)?;
            return match operator {
                "in" => term(key, LabelTest::In(values)),
                "notin" => term(key, LabelTest::NotIn(values)),
                _ => None,
            };
        }
        if let Some((key, value)) = text.split_once("!=") {
            return term(key, LabelTest::NotIn(vec![value.trim().into()]));
        }
        if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
            return term(key, LabelTest::In(vec![value.trim().into()]));
        }
        match text.strip_prefix('!') {
            Some(key) => term(key, LabelTest::Absent),
            None => term(text, LabelTest::Exists),
        }
    }
}

fn valid_key(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
}

/// Commas outside brackets part the terms of a label selector.
fn split_top_level(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_u32, 0);
    if text.trim().is_empty() {
        return parts;
    }
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

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
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (path, equal, value) = if let Some((path, value)) = part.split_once("!=") {
                (path, false, value)
            } else if let Some((path, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (path, true, value)
            } else {
                return Err(Status::bad_request(format!(
                    "invalid selector: {text:?}; can't understand {part:?}"
                )));
            };
            terms.push((path.into(), equal, value.into()));
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
        match self.terms.iter().find(|(path, _, _)| !is_supported(gvr, path)) {
            Some((path, _, _)) => Err(Status::bad_request(format!("field label not supported: {path}"))),
            None => Ok(()),
        }
    }

    /// Does the object match?
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        self.terms.iter().all(|(path, equal, value)| (field(object, path) == *value) == *equal)
    }
}

fn is_supported(gvr: &Gvr, path: &str) -> bool {
    let own: &[&str] = match gvr.resource.as_str() {
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
    };
    matches!(path, "metadata.name" | "metadata.namespace") || own.contains(&path)
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
    fn label_terms_mean_what_the_server_says() {
        let object = json!({"metadata": {"labels": {"app": "sfu", "tier": "edge"}}});
        for (text, expected) in [
            ("", true),
            ("app=sfu", true),
            ("app==sfu,tier=edge", true),
            ("app!=sfu", false),
            ("other!=x", true),
            ("app in (a, sfu),tier", true),
            ("app notin (a,sfu)", false),
            ("other notin (a)", true),
            ("!other", true),
            ("!app", false),
            ("!service.kubernetes.io/headless", true),
        ] {
            assert_eq!(LabelSelector::parse(text).expect(text).matches(&object), expected, "{text}");
        }
        assert_eq!(LabelSelector::parse("a b c").unwrap_err().code, 400);
        assert_eq!(LabelSelector::parse("app of (x)").unwrap_err().code, 400);
    }

    #[test]
    fn fields_that_are_not_indexed_are_refused() {
        let pods = Gvr::core("pods");
        FieldSelector::parse("spec.nodeName=n1,status.phase!=Failed").unwrap().check(&pods).unwrap();
        assert_eq!(FieldSelector::parse("spec.image=x").unwrap().check(&pods).unwrap_err().code, 400);
        let pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1"}});
        assert!(FieldSelector::parse("spec.nodeName=n1").unwrap().matches(&pod));
        assert!(FieldSelector::parse("spec.hostNetwork=false,status.phase!=Failed").unwrap().matches(&pod));
        assert!(!FieldSelector::parse("spec.nodeName!=n1").unwrap().matches(&pod));
    }
}
