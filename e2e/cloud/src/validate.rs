//! What names, labels and metadata may look like, in the words of the server.

use serde_json::Value;

use crate::resource::ResourceKind;
use crate::status::Cause;

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
    '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and \
    must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_KEY: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
    with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
    '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex \
    used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// Starts and ends with a letter or digit, and has nothing but those and `others`.
fn is_word(text: &str, upper: bool, others: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_alphanumeric() && (upper || !c.is_ascii_uppercase());
    text.starts_with(alphanumeric)
        && text.ends_with(alphanumeric)
        && text.chars().all(|c| alphanumeric(c) || others.contains(c))
}

/// A label's key: a name, after an optional prefix and a slash.
pub(crate) fn label_key(key: &str) -> Result<(), &'static str> {
    let name = key.rsplit_once('/').map_or(key, |(_, name)| name);
    if is_word(name, true, "-_.") { Ok(()) } else { Err(LABEL_KEY) }
}

/// A label's value.
pub(crate) fn label_value(value: &str) -> Result<(), &'static str> {
    if value.is_empty() || is_word(value, true, "-_.") { Ok(()) } else { Err(LABEL_VALUE) }
}

fn name_rule(kind: &ResourceKind, name: &str) -> Result<(), &'static str> {
    if kind.kind == "Namespace" {
        return if is_word(name, false, "-") { Ok(()) } else { Err(DNS_LABEL) };
    }
    let fits = name.split('.').all(|part| is_word(part, false, "-"));
    if fits { Ok(()) } else { Err(SUBDOMAIN) }
}

/// What is wrong with the metadata of an object that is to be stored; nothing if it is fine.
pub(crate) fn metadata(kind: &ResourceKind, object: &Value) -> Vec<Cause> {
    let meta = &object["metadata"];
    let name = meta["name"].as_str().unwrap_or_default();
    let mut causes = Vec::new();
    if name.is_empty() {
        causes.push(Cause::required("metadata.name", "name or generateName is required"));
    } else if let Err(why) = name_rule(kind, name) {
        causes.push(Cause::invalid("metadata.name", &format!("{name:?}"), why));
    }
    for (key, value) in meta["labels"].as_object().into_iter().flatten() {
        if let Err(why) = label_key(key) {
            causes.push(Cause::invalid("metadata.labels", &format!("{key:?}"), why));
        }
        let value = value.as_str().unwrap_or_default();
        if let Err(why) = label_value(value) {
            causes.push(Cause::invalid("metadata.labels", &format!("{value:?}"), why));
        }
    }
    causes
}

/// What is wrong with a change. The server tells what it has against metadata twice.
pub(crate) fn change(kind: &ResourceKind, object: &Value, stored: &Value, patched: bool) -> Vec<Cause> {
    let (meta, before) = (&object["metadata"], &stored["metadata"]);
    let mut causes = metadata(kind, object);
    causes.extend(causes.clone());
    let immutable = |member: &str| {
        let given = meta[member].as_str().unwrap_or_default();
        let differs = !given.is_empty() && before[member] != given;
        let value = format!("{given:?}");
        differs.then(|| Cause::invalid(&format!("metadata.{member}"), &value, "field is immutable"))
    };
    causes.extend(immutable("deletionTimestamp"));
    if patched {
        causes.extend(immutable("uid"));
    }
    if before["deletionTimestamp"].is_string() {
        let had = before["finalizers"].as_array().map_or(&[][..], Vec::as_slice);
        let new = meta["finalizers"].as_array().into_iter().flatten().filter(|f| !had.contains(f));
        let new: Vec<String> = new.map(Value::to_string).collect();
        if !new.is_empty() {
            let text = "no new finalizers can be added if the object is being deleted, found new finalizers";
            let why = format!("{text} []string{{{}}}", new.join(", "));
            causes.push(Cause::forbidden("metadata.finalizers", &why));
        }
    }
    let twice = causes.clone();
    causes.extend(twice);
    if stored["immutable"] == true {
        for member in ["immutable", "data", "binaryData"] {
            if object[member] != stored[member] {
                let why = "field is immutable when `immutable` is set";
                causes.push(Cause::forbidden(member, why));
            }
        }
    }
    causes
}
