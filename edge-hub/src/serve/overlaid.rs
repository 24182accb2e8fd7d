//! Requests that are passed on although the hub told the client versions of its own: none of them goes upstream.

use bytes::Bytes;
use http::Uri;
use proto_kube::{
    list::split_document,
    list_options::{GetOptions, ListOptions, VersionMatch},
    media_type::Format,
    object::scan,
    request_info::{ResourceRequest, Verb},
    status::Status,
};

use super::Call;

impl Call {
    /// Leaves out of a request what means nothing to the cloud. "Not older than" such a version is answered by the
    /// newest state, which needs no version.
    ///
    /// # Errors
    /// What the cloud would say if it had ever known the version and forgotten it: 410 to a watch and to a list of
    /// exactly that state, 409 to an update of that state.
    pub(super) fn without_own_versions(&mut self, request: &ResourceRequest) -> Result<(), Status> {
        match request.verb {
            Verb::List | Verb::Watch => self.without_own_version_in_query(request),
            Verb::Get => self.without_own_version_of_get(request),
            Verb::Update => self.without_own_version_in_body(request),
            _ => Ok(()),
        }
    }

    fn without_own_version_of_get(&mut self, request: &ResourceRequest) -> Result<(), Status> {
        let Ok(options) = GetOptions::parse(self.query()) else { return Ok(()) };
        let version = options.resource_version.as_deref().and_then(|version| version.parse().ok());
        if let Some(version) = version.filter(|version| self.hub.overlay.made_up(&request.gvr, *version)) {
            self.head.uri = without(&self.head.uri, &["resourceVersion"])
                .ok_or_else(|| Status::expired(version, version.saturating_add(1)))?;
        }
        Ok(())
    }

    fn without_own_version_in_query(&mut self, request: &ResourceRequest) -> Result<(), Status> {
        let Ok(options) = ListOptions::for_request(request, self.query()) else { return Ok(()) };
        let Ok(Some(version)) = options.parsed_rv() else { return Ok(()) };
        if !self.hub.overlay.made_up(&request.gvr, version) {
            return Ok(());
        }
        let is_exact = options.version_match == Some(VersionMatch::Exact)
            || options.version_match.is_none() && options.limit.is_some_and(|limit| limit > 0);
        let is_watch = request.verb == Verb::Watch && options.send_initial_events != Some(true);
        if is_exact || is_watch {
            return Err(Status::expired(version, version.saturating_add(1)));
        }
        // A watch with initial events needs the words of the match, but no version.
        let left_out: &[&str] = match request.verb {
            Verb::Watch => &["resourceVersion"],
            _ => &["resourceVersion", "resourceVersionMatch"],
        };
        self.head.uri = without(&self.head.uri, left_out)
            .ok_or_else(|| Status::expired(version, version.saturating_add(1)))?;
        Ok(())
    }

    fn without_own_version_in_body(&self, request: &ResourceRequest) -> Result<(), Status> {
        let format = Format { encoding: self.body_encoding(), ..Format::JSON };
        let version = split_document(format, &self.body)
            .ok()
            .and_then(|(_, raw): (_, Bytes)| scan(format, &raw).ok()?.resource_version.parse::<u64>().ok());
        match version {
            Some(version) if self.hub.overlay.gave(&request.gvr, version) => {
                let name = request.name.as_deref().unwrap_or_default();
                let why = "the object was shown as this node has it; the cloud has another state";
                Err(Status::conflict(&request.gvr, name, why))
            }
            _ => Ok(()),
        }
    }
}

/// The address without these parameters; `None` when no address is left.
fn without(uri: &Uri, names: &[&str]) -> Option<Uri> {
    let kept = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
        .filter(|(name, _)| !names.contains(&&**name));
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(kept).finish();
    format!("{}?{query}", uri.path()).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_goes_and_the_others_stay() {
        let uri: Uri =
            "/apis/x?labelSelector=a%3Db&resourceVersion=7&watch=true".parse().expect("an address");
        let left = without(&uri, &["resourceVersion"]).expect("an address");
        assert_eq!(left.to_string(), "/apis/x?labelSelector=a%3Db&watch=true");
    }
}
