//! Faults on demand: which requests they hit, how often, and what they do.

use std::collections::VecDeque;
use std::time::Duration;

use crate::record::RequestRecord;

/// Which requests a fault hits; an empty match hits all.
#[derive(Clone, Debug, Default)]
pub struct RequestMatch {
    /// RBAC verb (or method of a plain path, in lower case).
    pub verb: Option<String>,
    /// Resource name, e.g. `pods`.
    pub resource: Option<String>,
    /// User name.
    pub user: Option<String>,
    /// What the path begins with.
    pub path_prefix: Option<String>,
    /// Which replica it reached.
    pub replica: Option<usize>,
}

impl RequestMatch {
    /// Every request.
    #[must_use]
    pub fn any() -> Self {
        Self::default()
    }

    /// Requests with this verb.
    #[must_use]
    pub fn verb(verb: &str) -> Self {
        Self { verb: Some(verb.into()), ..Self::default() }
    }

    /// Narrow to one resource.
    #[must_use]
    pub fn resource(mut self, resource: &str) -> Self {
        self.resource = Some(resource.into());
        self
    }

    /// Narrow to one user.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Narrow to paths that begin so.
    #[must_use]
    pub fn path(mut self, prefix: &str) -> Self {
        self.path_prefix = Some(prefix.into());
        self
    }

    /// Narrow to one replica.
    #[must_use]
    pub fn replica(mut self, replica: usize) -> Self {
        self.replica = Some(replica);
        self
    }

    /// Does it hit this request?
    #[must_use]
    pub fn matches(&self, record: &RequestRecord) -> bool {
        self.verb.as_ref().is_none_or(|v| *v == record.verb)
            && self.resource.as_ref().is_none_or(|r| record.gvr.as_ref().is_some_and(|g| g.resource == *r))
            && self.user.as_ref().is_none_or(|u| *u == record.user)
            && self.path_prefix.as_ref().is_none_or(|p| record.path.starts_with(p.as_str()))
            && self.replica.is_none_or(|r| r == record.replica)
    }
}

/// What a fault does to a request, or to a running stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Answer with this code instead (429, 500, 410, ...). A running watch gets an ERROR event.
    Status {
        /// HTTP status code.
        code: u16,
        /// `Retry-After` in seconds.
        retry_after: Option<u32>,
    },
    /// A watch is opened with 200 and one ERROR event of this code; other verbs get the code itself.
    ErrorEvent {
        /// Status code inside the event.
        code: u16,
    },
    /// Answer as usual and close the connection gracefully (HTTP/2: GOAWAY).
    GoAway,
    /// Reset the TCP connection.
    Reset,
    /// Never answer; a running stream falls silent at a frame boundary.
    Hang,
    /// Send half of the body (a stream: half a frame), then nothing more.
    StallMidFrame,
    /// Send half of the body (a stream: half a frame), then end it as if it were complete.
    Truncate,
    /// End a running watch cleanly.
    End,
    /// Send the body in pieces with pauses.
    SlowBody {
        /// Size of a piece.
        chunk_bytes: usize,
        /// Pause after each piece.
        pause: Duration,
    },
}

/// A fault, the requests it hits and how many of them.
#[derive(Clone, Debug)]
pub struct FaultRule {
    /// Which requests.
    pub matches: RequestMatch,
    /// How many more.
    pub remaining: u32,
    /// What happens to them.
    pub fault: Fault,
}

/// The rules in force, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct FaultPlan {
    rules: VecDeque<FaultRule>,
}

impl FaultPlan {
    pub(crate) fn add(&mut self, rule: FaultRule) {
        self.rules.push_back(rule);
    }

    pub(crate) fn clear(&mut self) {
        self.rules.clear();
    }

    /// The fault of the first rule that hits this request; it is used up by one.
    pub(crate) fn take(&mut self, record: &RequestRecord) -> Option<Fault> {
        let rule = self.rules.iter_mut().find(|r| r.remaining > 0 && r.matches.matches(record))?;
        rule.remaining -= 1;
        let fault = rule.fault.clone();
        self.rules.retain(|r| r.remaining > 0);
        Some(fault)
    }
}
