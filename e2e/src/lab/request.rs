//! The lab's recording: what the clients of a node send to its hub, from the hub's own log.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::{LabError, Result};

/// What marks a request's line in a hub's log.
const MARK: &str = " edge_hub::request: ";

/// What marks an answer's line.
const ANSWER_MARK: &str = " edge_hub::answer: ";

/// One request as it reached a hub.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// The method: `GET`.
    pub method: String,
    /// Path and query.
    pub uri: String,
    /// The Kubernetes user who asked.
    pub user: String,
    /// The User-Agent.
    pub agent: String,
    /// The Accept header.
    pub accept: String,
    /// The Content-Type of its body.
    pub content_type: String,
}

impl Request {
    /// The client's program: the User-Agent up to its version.
    pub fn program(&self) -> &str {
        self.agent.split(['/', ' ']).next().unwrap_or_default()
    }

    /// Whether it asks for a whole collection: a LIST, or a WATCH that begins with all that is there.
    pub fn is_list(&self) -> bool {
        let (path, query) = parts(&self.uri);
        let whole = query.split('&').any(|pair| pair == "sendInitialEvents=true");
        let watch = query.split('&').any(|pair| pair == "watch=true" || pair == "watch=1");
        // One object is watched and listed by a field selector on its name; a path to it is a GET.
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let rest = match parts.first() {
            Some(&"api") => parts.get(2..),
            Some(&"apis") => parts.get(3..),
            _ => None,
        };
        let collection = matches!(rest, Some([_] | ["namespaces", _, _]));
        self.method == "GET" && collection && (!watch || whole)
    }
}

/// One answer as a hub gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The method: `GET`.
    pub method: String,
    /// The path.
    pub path: String,
    /// The User-Agent.
    pub agent: String,
    /// The HTTP status.
    pub status: u16,
    /// When its head was sent.
    pub at: OffsetDateTime,
    /// From the head of the request to that moment.
    pub waited: Duration,
}

/// Requests that are alike, and how many there were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shape {
    /// The client's program.
    pub program: String,
    /// The method.
    pub method: String,
    /// The path, names and namespaces in it left open.
    pub path: String,
    /// The query, sorted, what differs from one request to the next left open.
    pub query: String,
    /// The Accept header.
    pub accept: String,
    /// The Content-Type of its body.
    pub content_type: String,
    /// How many.
    pub count: usize,
}

/// The shapes of `requests`, sorted.
pub fn shapes(requests: &[Request]) -> Vec<Shape> {
    let mut counts = BTreeMap::new();
    for request in requests {
        let (path, query) = parts(&request.uri);
        let key = (
            request.program().to_owned(),
            open_path(path),
            request.method.clone(),
            open_query(query),
            request.accept.clone(),
            request.content_type.clone(),
        );
        *counts.entry(key).or_insert(0) += 1;
    }
    let shape = |((program, path, method, query, accept, content_type), count)| Shape {
        program,
        method,
        path,
        query,
        accept,
        content_type,
        count,
    };
    counts.into_iter().map(shape).collect()
}

/// Path and query of a URI with or without a server.
fn parts(uri: &str) -> (&str, &str) {
    let rest =
        uri.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..])).unwrap_or(uri);
    rest.split_once('?').unwrap_or((rest, ""))
}

/// `/api/v1/namespaces/{namespace}/pods/{name}/status`.
fn open_path(path: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').collect();
    let first = match parts.get(1) {
        Some(&"api") => 3,
        Some(&"apis") => 4,
        _ => return path.to_owned(),
    };
    let resource =
        if parts.get(first) == Some(&"namespaces") && parts.len() > first + 2 { first + 2 } else { first };
    if resource > first {
        parts[first + 1] = "{namespace}";
    }
    if let Some(name) = parts.get_mut(resource + 1) {
        *name = "{name}";
    }
    parts.join("/")
}

/// Each pair with what stands for one moment or one object left open, sorted.
fn open_query(query: &str) -> String {
    let open = |pair: &str| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = match (key, value.split_once("%3D")) {
            ("timeout" | "timeoutSeconds" | "continue", _) => "{n}".to_owned(),
            ("resourceVersion", _) if value != "0" => "{n}".to_owned(),
            ("fieldSelector", Some((field, _))) => format!("{field}={{value}}"),
            _ => value.to_owned(),
        };
        format!("{key}={value}")
    };
    let mut pairs: Vec<String> = query.split('&').filter(|pair| !pair.is_empty()).map(open).collect();
    pairs.sort();
    pairs.join("&")
}

/// The requests in the log at `path`, in order.
pub(crate) fn read(path: &Path) -> Result<Vec<Request>> {
    let text = fs::read_to_string(path).map_err(LabError::io("read", path))?;
    Ok(text.lines().filter_map(parse).collect())
}

/// The answers in the log at `path`, in order.
pub(crate) fn read_answers(path: &Path) -> Result<Vec<Answer>> {
    let text = fs::read_to_string(path).map_err(LabError::io("read", path))?;
    Ok(text.lines().filter_map(parse_answer).collect())
}

fn parse(line: &str) -> Option<Request> {
    let (_, fields) = line.split_once(MARK)?;
    Some(Request {
        method: text(fields, "method")?,
        uri: text(fields, "uri")?,
        user: text(fields, "user")?,
        agent: text(fields, "agent")?,
        accept: text(fields, "accept")?,
        content_type: text(fields, "content_type")?,
    })
}

fn parse_answer(line: &str) -> Option<Answer> {
    let (prefix, fields) = line.split_once(ANSWER_MARK)?;
    Some(Answer {
        method: text(fields, "method")?,
        path: text(fields, "path")?,
        agent: text(fields, "agent")?,
        status: number(fields, "status")?.try_into().ok()?,
        at: OffsetDateTime::parse(prefix.split(' ').next()?, &Rfc3339).ok()?,
        waited: Duration::from_micros(number(fields, "microseconds")?),
    })
}

/// The log writes text as Rust does, which for headers and paths is JSON, too.
fn text(fields: &str, name: &str) -> Option<String> {
    let start = fields.find(&format!("{name}=\""))? + name.len() + 1;
    serde_json::Deserializer::from_str(&fields[start..]).into_iter::<String>().next()?.ok()
}

fn number(fields: &str, name: &str) -> Option<u64> {
    let (_, rest) = fields.rsplit_once(&format!(" {name}="))?;
    rest.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(uri: &str) -> Request {
        let line = format!(
            "2026-11-26T13:20:34Z DEBUG edge_hub::request: method=\"GET\" uri=\"{uri}\" user=\"system:node:a\" \
             agent=\"kubelet/v1.36.3 (linux/amd64) kubernetes/x\" accept=\"application/json\" content_type=\"\""
        );
        parse(&line).expect("a request")
    }

    #[test]
    fn a_line_of_the_log_is_read_back() {
        let request = get("/api/v1/pods?fieldSelector=spec.nodeName%3Da");
        assert_eq!(
            (request.program(), &*request.user, &*request.accept),
            ("kubelet", "system:node:a", "application/json")
        );
        assert_eq!(parse("2026-11-26T13:20:34Z  INFO edge_hub::hub: the cloud answers"), None);
    }

    #[test]
    fn an_answer_of_the_log_is_read_back() {
        let line = "2026-11-26T13:20:34Z DEBUG edge_hub::answer: method=\"GET\" path=\"/api\" agent=\"a b\" status=200 \
                    microseconds=1234";
        let answer = parse_answer(line).expect("an answer");
        assert_eq!((&*answer.path, &*answer.agent, answer.status), ("/api", "a b", 200));
        assert_eq!(answer.waited, Duration::from_micros(1234));
        assert_eq!(answer.at.unix_timestamp(), 1_795_699_234);
        assert_eq!(parse(line), None);
    }

    #[test]
    fn requests_that_differ_by_name_and_moment_only_are_alike() {
        let alike = [
            get("https://127.0.0.1:10261/api/v1/namespaces/a/pods/b/status?timeoutSeconds=1&watch=true"),
            get("https://127.0.0.1:10261/api/v1/namespaces/c/pods/d/status?watch=true&timeoutSeconds=2"),
        ];
        let shapes = shapes(&alike);
        assert_eq!(shapes.len(), 1);
        assert_eq!(
            (&*shapes[0].path, shapes[0].count),
            ("/api/v1/namespaces/{namespace}/pods/{name}/status", 2)
        );
        assert_eq!(shapes[0].query, "timeoutSeconds={n}&watch=true");
        assert_eq!(
            open_query("fieldSelector=spec.nodeName%3Da&resourceVersion=0"),
            "fieldSelector=spec.nodeName={value}&resourceVersion=0"
        );
        for (path, open) in [
            ("/api/v1/nodes/a", "/api/v1/nodes/{name}"),
            ("/api/v1/namespaces/a", "/api/v1/namespaces/{name}"),
            ("/apis/apps/v1/namespaces/a/deployments", "/apis/apps/v1/namespaces/{namespace}/deployments"),
            ("/openid/v1/jwks", "/openid/v1/jwks"),
        ] {
            assert_eq!(open_path(path), open);
        }
    }

    #[test]
    fn a_list_is_told_from_a_watch_and_from_one_object() {
        for list in [
            "/api/v1/pods?limit=500",
            "/api/v1/namespaces",
            "/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Dx",
            "https://127.0.0.1:10261/apis/apps/v1/deployments",
            "/api/v1/services?allowWatchBookmarks=true&sendInitialEvents=true&watch=true",
        ] {
            assert!(get(list).is_list(), "{list}");
        }
        for other in [
            "/api/v1/pods?watch=true&resourceVersion=7",
            "/api/v1/namespaces/default",
            "/api/v1/namespaces/default/pods/a",
            "/api/v1/nodes/a",
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/a",
            "/apis",
            "/api/v1",
        ] {
            assert!(!get(other).is_list(), "{other}");
        }
    }
}
