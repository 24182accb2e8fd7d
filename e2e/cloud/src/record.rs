//! What the cloud saw: one record for each request, in order of arrival.

use std::time::Duration;

use crate::resource::Gvr;

/// The kind of credential a request carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    /// Client certificate.
    Certificate,
    /// Bearer token.
    Token,
    /// None.
    Nothing,
}

/// One request as the cloud saw it. Byte counts grow while a stream runs.
#[derive(Clone, Debug)]
pub struct RequestRecord {
    /// Place in the order of arrival, from 0.
    pub order: u64,
    /// When it came, since the Unix epoch.
    pub time: Duration,
    /// Which replica it reached.
    pub replica: usize,
    /// Credential it carried.
    pub credential: Credential,
    /// Authenticated user name; empty when authentication failed.
    pub user: String,
    /// Groups of the user.
    pub groups: Vec<String>,
    /// RBAC verb, or the lower-case method for plain paths.
    pub verb: String,
    /// Resource, `None` for plain paths.
    pub gvr: Option<Gvr>,
    /// Namespace in the path.
    pub namespace: Option<String>,
    /// Name in the path.
    pub name: Option<String>,
    /// Subresource in the path.
    pub subresource: Option<String>,
    /// Path as sent.
    pub path: String,
    /// Query as sent.
    pub query: String,
    /// `resourceVersion` as sent.
    pub resource_version: Option<String>,
    /// The request was a WatchList (`sendInitialEvents=true`).
    pub initial_events: bool,
    /// `Accept` as sent.
    pub accept: String,
    /// `User-Agent` as sent.
    pub user_agent: String,
    /// Status code of the answer; 0 until there is one, and for ever after a fault that gives none.
    pub status: u16,
    /// Bytes of the request body.
    pub bytes_in: u64,
    /// Bytes of the answer's body as sent, after compression.
    pub bytes_out: u64,
    /// Of a watch that begins with the state of its collection, the length of that state; it is sent first.
    pub initial_bytes: u64,
    /// The fault that hit it, if one did.
    pub fault: Option<String>,
    /// The answer is complete (a watch: its stream has ended).
    pub ended: bool,
}

impl RequestRecord {
    /// The request was a LIST of a resource.
    #[must_use]
    pub fn is_list(&self) -> bool {
        self.verb == "list"
    }

    /// The request was a WATCH (a WatchList too).
    #[must_use]
    pub fn is_watch(&self) -> bool {
        self.verb == "watch"
    }

    /// The request transferred a collection from the start: a LIST or a WatchList, or a WATCH
    /// without a revision to start from. A LIST of at most one object only asks where the server stands.
    #[must_use]
    pub fn is_full_transfer(&self) -> bool {
        let from_start = matches!(self.resource_version.as_deref(), None | Some("" | "0"));
        let asks_the_version = self.query.split('&').any(|pair| pair == "limit=1");
        self.is_list() && !asks_the_version || self.is_watch() && (self.initial_events || from_start)
    }
}
