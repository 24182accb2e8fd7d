//! List and watch parameters, refused where the real server refuses them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::labels::LabelSelector;
use crate::selector::FieldSelector;
use crate::status::{Cause, Status};

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

/// The parameters of a query; of a repeated one the server reads the first value.
pub(crate) fn parameters(query: &str) -> BTreeMap<Cow<'_, str>, Cow<'_, str>> {
    let mut parameters = BTreeMap::new();
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        parameters.entry(key).or_insert(value);
    }
    parameters
}

impl ListOptions {
    /// Parse a query string (without `?`); `watch` says that the path asks for a watch whatever the query says.
    ///
    /// # Errors
    /// 400 for values that cannot be read, 422 for combinations that the server forbids.
    pub fn parse(query: &str, watch: bool) -> Result<Self, Status> {
        let mut options = Self::default();
        let mut version_match = String::new();
        let mut version = None;
        for (key, value) in parameters(query) {
            match key.as_ref() {
                "labelSelector" => options.labels = LabelSelector::parse(&value)?,
                "fieldSelector" => options.fields = FieldSelector::parse(&value)?,
                "resourceVersion" if !value.is_empty() => {
                    version = Some(value.parse().map_err(|_| unreadable_version(&value)));
                }
                "resourceVersionMatch" => version_match = value.into_owned(),
                // A negative limit is none.
                "limit" => options.limit = usize::try_from(number(&value)?).ok().filter(|n| *n > 0),
                "continue" if !value.is_empty() => options.continue_token = Some(value.into_owned()),
                "timeoutSeconds" => {
                    let seconds = u64::try_from(number(&value)?).ok().filter(|n| *n > 0);
                    options.timeout = seconds.map(Duration::from_secs);
                }
                "watch" => options.watch = boolean(&value),
                "allowWatchBookmarks" => options.allow_bookmarks = boolean(&value),
                "sendInitialEvents" => options.send_initial_events = Some(boolean(&value)),
                _ => {}
            }
        }
        options.watch |= watch;
        let causes = options.causes(&version_match, version.is_some());
        if !causes.is_empty() {
            return Err(Status::invalid_options("ListOptions", &causes));
        }
        options.version_match = match version_match.as_str() {
            "Exact" => Some(VersionMatch::Exact),
            "NotOlderThan" => Some(VersionMatch::NotOlderThan),
            _ => None,
        };
        options.resource_version = match version {
            // The server looks at this one late: a watch fails where it did not expect to.
            Some(Err(why)) if options.watch => return Err(Status::unexpected(why)),
            Some(Err(why)) => return Err(Status::bad_request(format!("invalid resource version: {why}"))),
            Some(Ok(version)) => Some(version),
            None => None,
        };
        if options.version_match == Some(VersionMatch::Exact) && options.resource_version == Some(0) {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            let cause = Cause::forbidden("resourceVersionMatch", why);
            return Err(Status::invalid_options("ListOptions", &[cause]));
        }
        Ok(options)
    }

    /// Every rule of the server that the parameters break.
    fn causes(&self, version_match: &str, versioned: bool) -> Vec<Cause> {
        let field = "resourceVersionMatch";
        let mut causes = Vec::new();
        if self.watch {
            let given = !version_match.is_empty();
            if self.send_initial_events.is_none() && given {
                let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
                causes.push(Cause::forbidden(field, why));
            }
            if self.send_initial_events.is_some() && version_match != "NotOlderThan" {
                let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
                causes.push(Cause::forbidden(field, why));
            }
            if given && version_match != "NotOlderThan" {
                causes.push(Cause::unsupported(field, &format!("{version_match:?}"), &["NotOlderThan"]));
            }
            return causes;
        }
        if !version_match.is_empty() {
            if !versioned {
                let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
                causes.push(Cause::forbidden(field, why));
            }
            if self.continue_token.is_some() {
                let why = "resourceVersionMatch is forbidden when continue is provided";
                causes.push(Cause::forbidden(field, why));
            }
            if !matches!(version_match, "Exact" | "NotOlderThan") {
                let known = ["Exact", "NotOlderThan", ""];
                causes.push(Cause::unsupported(field, &format!("{version_match:?}"), &known));
            }
        }
        if self.send_initial_events.is_some() {
            causes.push(Cause::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
        }
        causes
    }
}

/// The words for a revision that is no number.
pub(crate) fn unreadable_version(value: &str) -> String {
    format!("resourceVersion: Invalid value: {value:?}: strconv.ParseUint: parsing {value:?}: invalid syntax")
}

/// A number of the query.
pub(crate) fn number(value: &str) -> Result<i64, Status> {
    if value.is_empty() {
        return Ok(0);
    }
    let refuse = |_| Status::bad_request(format!("strconv.ParseInt: parsing {value:?}: invalid syntax"));
    value.parse().map_err(refuse)
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
            assert_eq!(ListOptions::parse(query, false).unwrap_err().code, 422, "{query}");
        }
        assert_eq!(ListOptions::parse("resourceVersion=x", false).unwrap_err().code, 400);
        let options = ListOptions::parse(
            "allowWatchBookmarks=true&fieldSelector=spec.nodeName%3Dn1&resourceVersionMatch=NotOlderThan\
             &sendInitialEvents=true&timeout=7m12s&timeoutSeconds=432&watch=true",
            false,
        )
        .unwrap();
        assert_eq!(options.fields.required("spec.nodeName"), Some("n1"));
        assert_eq!((options.resource_version, options.timeout), (None, Some(Duration::from_secs(432))));
    }
}
