//! Discovery, versions and OpenAPI: which paths they have, under what their answers are kept, and when that is asked for.

use http::{Uri, header};
use proto_kube::request_info::NonResourceRequest;

use super::call::Call;

/// Query parameters that do not change a discovery document: how long the client waits for it.
const HARMLESS: &str = "timeout";
/// The version that a document of OpenAPI v3 is asked for by, which its path does not tell.
const HASH: &str = "hash";
/// Longest wish for a representation under which a document is kept.
const MAX_ACCEPT_BYTES: usize = 1024;

/// Under what a discovery document is kept: what was asked for decides what came. `None` where a client made something
/// up, since it could do that any number of times.
pub(super) fn discovery_key(request: &NonResourceRequest, uri: &Uri, accept: &str) -> Option<String> {
    if *request.verb != *"get" || !is_discovery(&request.path) {
        return None;
    }
    let mut key = uri.path().trim_end_matches('/').to_owned();
    for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        match &*name {
            HARMLESS => {}
            HASH if key.starts_with("/openapi/v3/") => {
                key.push_str("?hash=");
                key.extend(form_urlencoded::byte_serialize(value.as_bytes()));
            }
            _ => return None,
        }
    }
    if accept.len() > MAX_ACCEPT_BYTES {
        return None;
    }
    key.push(' ');
    key.extend(
        accept.chars().filter(|letter| !letter.is_whitespace()).map(|letter| letter.to_ascii_lowercase()),
    );
    Some(key)
}

/// Paths that tell a client what the API offers; they hold no objects.
fn is_discovery(path: &str) -> bool {
    matches!(path, "/version" | "/version/" | "/api" | "/apis")
        || path.starts_with("/api/")
        || path.starts_with("/apis/")
        || path.starts_with("/openapi/")
}

impl Call {
    /// What the client holds is as good as new, but where nothing is kept of it nothing would be here in a cut.
    pub(super) fn ask_whole_unless_kept(&mut self, key: &str) {
        if self.hub.documents.get(key).is_none() {
            self.head.headers.remove(header::IF_NONE_MATCH);
            self.head.headers.remove(header::IF_MODIFIED_SINCE);
        }
    }
}
