//! From answers to a transcript: what no two servers can have in common gets a name in the order in which it first
//! appears, so that two appearances of the same thing still have to be the same.
//!
//! | what | stands in the transcript as |
//! |---|---|
//! | revision of an object | `rv:N`; equal ones stay equal |
//! | revision of a list or bookmark | whether it is as new as all that was seen, or the one that a page has to have |
//! | UID, also inside of texts | `uid:N` |
//! | time that the server set | `<time>`, `<microtime>` |
//! | suffix of a generated name | `PREFIX<5>`; its length counts |
//! | continue token | `<continue>` |
//! | ServiceAccount token | its header and claims, times relative to its issue |
//! | revision inside a message | `<n>` |
//! | age in a table | `<age>` |
//! | description of a column | not at all: it is prose for people |
//! | managed fields | not at all: the model keeps none |
//! | discovery | the groups and resources that the model serves, with their `status` and `token`, sorted; without short names, categories and hashes, which only people and migrations use |

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderMap;
use serde_json::{Map, Value, json};

use crate::ask::Answer;
use crate::discovery;

/// Headers that count with their value.
const HEADERS: [&str; 8] = [
    "allow",
    "cache-control",
    "content-encoding",
    "content-type",
    "location",
    "retry-after",
    "warning",
    "x-content-type-options",
];
/// Times before this year are the script's own.
const SERVER_YEARS: &str = "2024";

/// One answer as both servers have to give it.
#[derive(Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) request: String,
    /// `status`, `headers`, `body`.
    pub(crate) answer: Value,
}

#[derive(Default)]
struct Names {
    revisions: BTreeMap<String, String>,
    uids: BTreeMap<String, String>,
    generated: BTreeMap<String, String>,
    newest: u64,
}

/// Name what differs by nature.
pub(crate) fn transcript(answers: &[Answer]) -> Vec<Entry> {
    let mut names = Names::default();
    let entry = |answer: &Answer| {
        names.learn(&answer.body);
        let body = names.document(&answer.body, answer.pinned.as_deref());
        let answer_value =
            json!({"status": answer.status, "headers": headers(&answer.headers), "body": body});
        Entry { request: answer.request.clone(), answer: answer_value }
    };
    answers.iter().map(entry).collect()
}

fn headers(headers: &HeaderMap) -> Value {
    let mut shown = Map::new();
    for name in HEADERS {
        let values: Vec<&str> = headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).collect();
        if !values.is_empty() {
            shown.insert(name.to_owned(), values.join(", ").into());
        }
    }
    // An ETag is the server's own; that there is one counts.
    if headers.contains_key("etag") {
        shown.insert("etag".to_owned(), true.into());
    }
    shown.into()
}

impl Names {
    /// Generated names and revisions, before anything is replaced.
    fn learn(&mut self, value: &Value) {
        if let Some(list) = value.as_array() {
            list.iter().for_each(|item| self.learn(item));
        }
        let Some(object) = value.as_object() else { return };
        let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
        let (prefix, name) = (text("generateName"), text("name"));
        if let Some(suffix) = name.strip_prefix(prefix).filter(|_| !prefix.is_empty()) {
            self.generated.insert(name.to_owned(), format!("{prefix}<{}>", suffix.len()));
        }
        for key in sorted(object) {
            self.learn(&object[key]);
        }
    }

    /// A document, a list, a table, or the events of a stream.
    fn document(&mut self, value: &Value, pinned: Option<&str>) -> Value {
        if let Some(events) = value["events"].as_array() {
            let mut event = |event: &Value| {
                let bookmark = event["type"] == "BOOKMARK";
                let object = &event["object"];
                let named = if bookmark { self.collection(object, None) } else { self.walk("", object) };
                json!({"type": event["type"], "object": named})
            };
            let mut columns = Value::Null;
            let tidied = events.iter().cloned().map(|mut event| {
                tidy_table(&mut event["object"], &mut columns);
                event
            });
            let events: Vec<Value> = tidied.map(|tidied| event(&tidied)).collect();
            return json!({"events": events, "end": value["end"]});
        }
        if let Some(found) = discovery::reduced(value) {
            return found;
        }
        let kind = value["kind"].as_str().unwrap_or_default();
        if kind.ends_with("List") || kind == "Table" {
            return self.collection(value, pinned);
        }
        self.walk("", value)
    }

    /// A document whose own revision is one of the whole store.
    fn collection(&mut self, value: &Value, pinned: Option<&str>) -> Value {
        let mut value = value.clone();
        let revision = value["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        tidy_table(&mut value, &mut Value::Null);
        if !revision.is_empty() {
            value["metadata"]["resourceVersion"] = Value::Null;
        }
        let mut named = self.walk("", &value);
        if !revision.is_empty() {
            let number = revision.parse().unwrap_or(0);
            let word = match pinned {
                Some(pinned) if pinned == revision => "<the one it must be>",
                Some(_) => "<not the one it must be>",
                None if number >= self.newest => "<as new as all that was seen>",
                None => "<older than what was seen>",
            };
            named["metadata"]["resourceVersion"] = word.into();
        }
        named
    }

    fn walk(&mut self, key: &str, value: &Value) -> Value {
        match value {
            Value::Object(object) => {
                let mut named = Map::new();
                for key in sorted(object).into_iter().filter(|key| *key != "managedFields") {
                    named.insert(self.text("", key), self.walk(key, &object[key]));
                }
                named.into()
            }
            Value::Array(list) => list.iter().map(|item| self.walk(key, item)).collect(),
            Value::String(text) => self.string(key, text),
            other => other.clone(),
        }
    }

    fn string(&mut self, key: &str, text: &str) -> Value {
        match key {
            "resourceVersion" if text != "0" && !text.is_empty() => {
                self.newest = self.newest.max(text.parse().unwrap_or(0));
                name(&mut self.revisions, "rv", text).into()
            }
            "continue" if !text.is_empty() => "<continue>".into(),
            "token" if text.matches('.').count() == 2 => self.token(text),
            _ => self.text(key, text).into(),
        }
    }

    fn text(&mut self, key: &str, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, shown) in &self.generated {
            text = text.replace(name, shown);
        }
        let found: BTreeSet<String> = uids(&text).map(str::to_owned).collect();
        // In the order of the text, not of the alphabet.
        let mut found: Vec<String> = found.into_iter().collect();
        found.sort_by_key(|uid| text.find(uid.as_str()));
        for uid in found {
            let shown = name(&mut self.uids, "uid", &uid);
            text = text.replace(&uid, &shown);
        }
        if let Some(shown) = time(&text) {
            return shown.to_owned();
        }
        if key == "message" && text.to_lowercase().replace(' ', "").contains("resourceversion") {
            return without_numbers(&text);
        }
        text
    }

    /// Header and claims of a JWT.
    fn token(&mut self, token: &str) -> Value {
        let mut parts = token.split('.').map(|part| {
            let bytes = URL_SAFE_NO_PAD.decode(part).unwrap_or_default();
            serde_json::from_slice::<Value>(&bytes).unwrap_or_default()
        });
        let (mut header, mut claims) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if header["kid"].is_string() {
            header["kid"] = "<kid>".into();
        }
        let issued = claims["iat"].as_i64().unwrap_or(0);
        let relative = |place: &mut Value| {
            if let Some(time) = place.as_i64() {
                *place = format!("issue + {} s", time - issued).into();
            }
        };
        relative(&mut claims["exp"]);
        relative(&mut claims["nbf"]);
        if claims["kubernetes.io"]["warnafter"].is_i64() {
            relative(&mut claims["kubernetes.io"]["warnafter"]);
        }
        if claims["iat"].is_i64() {
            claims["iat"] = "issue".into();
        }
        json!({"header": header, "claims": self.walk("", &claims)})
    }
}

/// Keys in one order, whatever order the parser keeps.
fn sorted(object: &Map<String, Value>) -> Vec<&str> {
    let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn name(names: &mut BTreeMap<String, String>, class: &str, text: &str) -> String {
    let next = format!("{class}:{}", names.len() + 1);
    names.entry(text.to_owned()).or_insert(next).clone()
}

/// The UUIDs inside of a text.
fn uids(text: &str) -> impl Iterator<Item = &str> {
    const LENGTH: usize = 36;
    (0..(text.len() + 1).saturating_sub(LENGTH)).filter_map(|start| text.get(start..start + LENGTH)).filter(
        |part| {
            part.bytes().enumerate().all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            })
        },
    )
}

/// What stands for a text that is a time of the server.
fn time(text: &str) -> Option<&'static str> {
    let form: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let shown = match form.as_str() {
        "0000-00-00T00:00:00Z" => "<time>",
        "0000-00-00T00:00:00.000000Z" => "<microtime>",
        _ => return None,
    };
    (&text[..4] >= SERVER_YEARS).then_some(shown)
}

fn without_numbers(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        match c {
            '0'..='9' if shown.ends_with("<n>") => {}
            '0'..='9' => shown.push_str("<n>"),
            _ => shown.push(c),
        }
    }
    shown
}

/// Hide ages and descriptions; a stream tells its `columns` once.
fn tidy_table(table: &mut Value, columns: &mut Value) {
    if table["kind"] != "Table" {
        return;
    }
    for column in table["columnDefinitions"].as_array_mut().into_iter().flatten() {
        column["description"].take();
    }
    if table["columnDefinitions"].is_array() {
        *columns = table["columnDefinitions"].clone();
    }
    let known = columns.as_array().map_or(&[][..], Vec::as_slice);
    let ages: Vec<usize> = (0..known.len()).filter(|at| known[*at]["name"] == "Age").collect();
    for row in table["rows"].as_array_mut().into_iter().flatten() {
        for at in &ages {
            row["cells"][*at] = "<age>".into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: Value) -> Answer {
        Answer { request: String::new(), status: 200, headers: HeaderMap::new(), body, pinned: None }
    }

    #[test]
    fn equal_things_keep_equal_names_and_unequal_ones_do_not() {
        let uid = |last: char| format!("0c8a31c6-6a4f-4d0e-9d5e-00000000000{last}");
        let object = |version: &str, uid: &str| json!({"metadata": {"resourceVersion": version, "uid": uid}});
        let entries = transcript(&[
            answer(object("70", &uid('a'))),
            answer(object("71", &uid('b'))),
            answer(object("70", &uid('a'))),
        ]);
        assert_eq!(entries[0], entries[2]);
        assert_eq!(entries[1].answer["body"]["metadata"], json!({"resourceVersion": "rv:2", "uid": "uid:2"}));
        let text = json!({"message": format!("UID: {}", uid('b'))});
        let entries = transcript(&[answer(object("70", &uid('a'))), answer(text)]);
        assert_eq!(entries[1].answer["body"]["message"], "UID: uid:2");
    }

    #[test]
    fn a_list_older_than_what_was_seen_shows() {
        let list =
            |version: &str| json!({"kind": "PodList", "metadata": {"resourceVersion": version}, "items": []});
        let object = json!({"metadata": {"resourceVersion": "70"}});
        let entries = transcript(&[answer(object), answer(list("70")), answer(list("69"))]);
        let word = |at: usize| entries[at].answer["body"]["metadata"]["resourceVersion"].clone();
        assert_ne!(word(1), word(2));
    }

    #[test]
    fn only_the_servers_own_times_are_hidden() {
        assert_eq!(time("2026-11-26T10:00:00Z"), Some("<time>"));
        assert_eq!(time("2026-11-26T10:00:00.123456Z"), Some("<microtime>"));
        assert_eq!(time("2021-11-26T10:00:00Z"), None);
        assert_eq!(
            without_numbers("too old resource version: 12 (3456)"),
            "too old resource version: <n> (<n>)"
        );
    }
}
