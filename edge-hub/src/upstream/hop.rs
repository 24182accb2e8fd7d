//! Headers of one connection, which end at a proxy, and what a client may not count among them.

use http::{HeaderMap, HeaderName, header};
use proto_kube::status::Status;

/// Headers of one hop; they mean nothing on the next.
const HOP_HEADERS: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers that decide whose request this is, by name or by how their names begin.
const IDENTITY: [&str; 3] = ["authorization", "cookie", "sec-websocket-protocol"];
const IDENTITY_PREFIXES: [&str; 2] = ["impersonate-", "x-remote-"];

/// What `Connection` names beside itself.
fn named(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// Refuses a request whose `Connection` names a header that says who asks. kube-apiserver drops none of them; a proxy
/// that did, for a client in front of it, would ask as itself what was to be asked as that client.
///
/// # Errors
/// 400, naming the header.
pub fn refuse_named_identity(headers: &HeaderMap) -> Result<(), Status> {
    let is_identity = |name: &&str| {
        let name = name.to_ascii_lowercase();
        IDENTITY.contains(&&*name) || IDENTITY_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    };
    match named(headers).find(is_identity) {
        None => Ok(()),
        Some(name) => Err(Status::bad_request(format!(
            "the Connection header names {name:?}, which says who asks and belongs to the request; leave it out there"
        ))),
    }
}

/// Drops what belongs to one connection only.
pub fn strip_hop_headers(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = named(headers).filter_map(|name| name.parse().ok()).collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_HEADERS {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_never_of_the_connection_and_everything_else_may_be() {
        let headers = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.append(header::CONNECTION, "keep-alive".parse().expect("a value"));
            headers.append(header::CONNECTION, value.parse().expect("a value"));
            headers
        };
        for value in ["Impersonate-Extra-scopes", "close, AUTHORIZATION", "x-remote-group", "Cookie"] {
            assert!(refuse_named_identity(&headers(value)).is_err(), "{value}");
        }
        for value in ["close", "Upgrade, HTTP2-Settings", "TE", "x-hop", "", ",,"] {
            assert!(refuse_named_identity(&headers(value)).is_ok(), "{value}");
        }
        let mut stripped = headers("x-hop");
        stripped.insert("x-hop", "1".parse().expect("a value"));
        stripped.insert("x-end", "1".parse().expect("a value"));
        strip_hop_headers(&mut stripped);
        assert_eq!(stripped.keys().collect::<Vec<_>>(), ["x-end"]);
    }
}
