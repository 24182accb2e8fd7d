//! The lab's recording: what the clients of a node send to its hub, from the hub's own log.

use std::fs;
use std::path::Path;

use super::error::{LabError, Result};

/// What marks a request's line in a hub's log.
const MARK: &str = " edge_hub::request: ";

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
        let (path, query) = self.uri.split_once('?').unwrap_or((&self.uri, ""));
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

/// The requests in the log at `path`, in order.
pub(crate) fn read(path: &Path) -> Result<Vec<Request>> {
    let text = fs::read_to_string(path).map_err(LabError::io("read", path))?;
    Ok(text.lines().filter_map(parse).collect())
}

fn parse(line: &str) -> Option<Request> {
    let (_, fields) = line.split_once(MARK)?;
    let field = |name: &str| {
        let start = fields.find(&format!("{name}=\""))? + name.len() + 1;
        // The log writes text as Rust does, which for headers and paths is JSON, too.
        serde_json::Deserializer::from_str(&fields[start..]).into_iter::<String>().next()?.ok()
    };
    Some(Request {
        method: field("method")?,
        uri: field("uri")?,
        user: field("user")?,
        agent: field("agent")?,
        accept: field("accept")?,
        content_type: field("content_type")?,
    })
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
    fn a_list_is_told_from_a_watch_and_from_one_object() {
        for list in [
            "/api/v1/pods?limit=500",
            "/api/v1/namespaces",
            "/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Dx",
            "/apis/apps/v1/deployments",
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
