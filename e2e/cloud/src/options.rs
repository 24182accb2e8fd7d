//! List and watch parameters, refused where the real server refuses them.

use std::time::Duration;

use crate::selector::{FieldSelector, LabelSelector};
use crate::status::Status;

/// How `resourceVersion` is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionMatch {
    /// Exactly this revision.
    Exact,
    /// This revision or a later one.
    NotOlderThan,
}

/// The parameters of a LIST or WATCH.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// `labelSelector`.
    pub labels: LabelSelector,
    /// `fieldSelector`.
    pub fields: FieldSelector,
    /// `resourceVersion`; `None` when absent or empty.
    pub resource_version: Option<u64>,
    /// `resourceVersionMatch`.
    pub version_match: Option<VersionMatch>,
    /// `limit`; `None` when absent or 0.
    pub limit: Option<usize>,
    /// `continue`.
    pub continue_token: Option<String>,
    /// `timeoutSeconds`.
    pub timeout: Option<Duration>,
    /// `watch`.
    pub watch: bool,
    /// `allowWatchBookmarks`.
    pub allow_bookmarks: bool,
    /// `sendInitialEvents`.
    pub send_initial_events: Option<bool>,
}

impl ListOptions {
    /// Parse a query string (without `?`).
    ///
    /// # Errors
    /// 400 for values that cannot be read, 422 for combinations that the server forbids.
    pub fn parse(query: &str) -> Result<Self, Status> {
        let mut options = Self::default();
        let mut version_match = String::new();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match key.as_ref() {
                "labelSelector" => options.labels = LabelSelector::parse(&value)?,
                "fieldSelector" => options.fields = FieldSelector::parse(&value)?,
                "resourceVersion" if !value.is_empty() => {
                    let parsed = value.parse().map_err(|_| invalid_version(&value))?;
                    options.resource_version = Some(parsed);
                }
                "resourceVersionMatch" => version_match = value.into_owned(),
                "limit" => options.limit = Some(number(&key, &value)?).filter(|n| *n > 0),
                "continue" if !value.is_empty() => options.continue_token = Some(value.into_owned()),
                "timeoutSeconds" => {
                    options.timeout =
                        Some(Duration::from_secs(number(&key, &value)? as u64)).filter(|t| !t.is_zero());
                }
                "watch" => options.watch = boolean(&value),
                "allowWatchBookmarks" => options.allow_bookmarks = boolean(&value),
                "sendInitialEvents" => options.send_initial_events = Some(boolean(&value)),
                _ => {}
            }
        }
        options.version_match = match version_match.as_str() {
            "" => None,
            "Exact" => Some(VersionMatch::Exact),
            "NotOlderThan" => Some(VersionMatch::NotOlderThan),
            other => {
                let text =
                    format!("Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\"");
                return Err(Status::invalid("ListOptions.meta.k8s.io \"\"", "resourceVersionMatch", &text));
            }
        };
        options.check()?;
        Ok(options)
    }

    fn check(&self) -> Result<(), Status> {
        let forbidden = |field: &str, text: &str| {
            Err(Status::invalid("ListOptions.meta.k8s.io \"\"", field, &format!("Forbidden: {text}")))
        };
        if self.watch {
            return match (self.send_initial_events, self.version_match) {
                (None, Some(_)) => forbidden(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ),
                (Some(_), None | Some(VersionMatch::Exact)) => forbidden(
                    "resourceVersionMatch",
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ),
                _ => Ok(()),
            };
        }
        if self.send_initial_events.is_some() {
            return forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
        }
        match (self.version_match, self.resource_version) {
            (Some(_), None) => forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ),
            (Some(_), _) if self.continue_token.is_some() => forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden when continue is provided",
            ),
            (Some(VersionMatch::Exact), Some(0)) => forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
            ),
            _ => Ok(()),
        }
    }
}

fn invalid_version(value: &str) -> Status {
    Status::bad_request(format!(
        "invalid resource version: strconv.ParseUint: parsing {value:?}: invalid syntax"
    ))
}

fn number(key: &str, value: &str) -> Result<usize, Status> {
    if value.is_empty() {
        return Ok(0);
    }
    value.parse().map_err(|_| Status::bad_request(format!("invalid value for {key}: {value:?}")))
}

/// As the server converts query booleans: empty, `false` and `0` are false, the rest is true.
fn boolean(value: &str) -> bool {
    !matches!(value, "false" | "0" | "False" | "FALSE" | "f" | "F")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbidden_combinations_are_invalid() {
        for query in [
            "sendInitialEvents=true",
            "resourceVersionMatch=Exact",
            "resourceVersion=0&resourceVersionMatch=Exact",
            "resourceVersion=5&resourceVersionMatch=Exact&continue=x",
            "watch=true&sendInitialEvents=true",
            "watch=1&sendInitialEvents=true&resourceVersionMatch=Exact&resourceVersion=5",
            "watch=1&resourceVersionMatch=NotOlderThan&resourceVersion=5",
            "resourceVersion=1&resourceVersionMatch=Sometimes",
        ] {
            assert_eq!(ListOptions::parse(query).unwrap_err().code, 422, "{query}");
        }
        assert_eq!(ListOptions::parse("resourceVersion=x").unwrap_err().code, 400);
        let options = ListOptions::parse(
            "allowWatchBookmarks=true&fieldSelector=spec.nodeName%3Dn1&resourceVersionMatch=NotOlderThan\
             &sendInitialEvents=true&timeout=7m12s&timeoutSeconds=432&watch=true",
        )
        .unwrap();
        assert_eq!(options.fields.required("spec.nodeName"), Some("n1"));
        assert_eq!((options.resource_version, options.timeout), (None, Some(Duration::from_secs(432))));
    }
}
