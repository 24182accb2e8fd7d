//! A bearer token in the subprotocol of a WebSocket: consoles in browsers send it so, because a browser lets nobody set
//! `Authorization` there. kube-apiserver takes it for that header, and passes the entry on to nobody.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, header};
use proto_kube::status::Status;

/// What the entry begins with; the token in base64url, without padding, follows.
const PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
}

/// Moves a token out of the subprotocols of a WebSocket into `Authorization`, unless that says already who asks.
///
/// # Errors
/// 401 in the cases in which kube-apiserver refuses it: two tokens, one that is no base64url of a text, and no other
/// subprotocol, of which the server could choose one.
pub(super) fn take_token(headers: &mut HeaderMap) -> Result<(), Status> {
    let is_websocket =
        has_token(headers, header::UPGRADE, "websocket") && has_token(headers, header::CONNECTION, "upgrade");
    if !is_websocket {
        return Ok(());
    }
    let mut tokens = Vec::new();
    let mut others = Vec::new();
    for value in headers.get_all(header::SEC_WEBSOCKET_PROTOCOL) {
        for protocol in value.to_str().unwrap_or_default().split(',').map(str::trim) {
            match protocol.strip_prefix(PREFIX) {
                Some(token) => tokens.push(token.to_owned()),
                None => others.push(protocol.to_owned()),
            }
        }
    }
    let refuse = |why: &str| {
        let status = Status::unauthorized();
        Err(Status { message: format!("{} ({why})", status.message), ..status })
    };
    let token = match tokens.as_slice() {
        [] => return Ok(()),
        [token] => URL_SAFE_NO_PAD.decode(token).ok().and_then(|token| String::from_utf8(token).ok()),
        _ => return refuse("two tokens among the subprotocols"),
    };
    if others.is_empty() {
        return refuse("a token alone is no subprotocol; name one that the server can choose, too");
    }
    let bearer = token.and_then(|token| HeaderValue::try_from(format!("Bearer {token}")).ok());
    let (Some(mut bearer), Ok(others)) = (bearer, HeaderValue::try_from(others.join(","))) else {
        return refuse("the token among the subprotocols cannot be read");
    };
    bearer.set_sensitive(true);
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, others);
    headers.entry(header::AUTHORIZATION).or_insert(bearer);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upgrade(protocols: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::UPGRADE, HeaderValue::from_static("WebSocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        for protocol in protocols {
            headers.append(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(protocol).expect("a value"));
        }
        headers
    }

    fn entry(token: &str) -> String {
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(token))
    }

    #[test]
    fn the_token_becomes_the_authorization_and_leaves_the_protocols() {
        let mut headers =
            upgrade(&[&format!("v4.channel.k8s.io, {}", entry("a.b.c")), "base64.binary.k8s.io"]);
        take_token(&mut headers).expect("a token");
        assert_eq!(headers[header::AUTHORIZATION], "Bearer a.b.c");
        assert!(headers[header::AUTHORIZATION].is_sensitive());
        let protocols: Vec<_> = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().collect();
        assert_eq!(protocols, ["v4.channel.k8s.io,base64.binary.k8s.io"]);
        let mut both = upgrade(&["x", &entry("other")]);
        both.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        take_token(&mut both).expect("a token");
        assert_eq!(
            (&both[header::AUTHORIZATION], &both[header::SEC_WEBSOCKET_PROTOCOL]),
            (&HeaderValue::from_static("Bearer a"), &HeaderValue::from_static("x"))
        );
    }

    #[test]
    fn what_kube_apiserver_refuses_is_refused_and_what_is_no_websocket_is_left() {
        for protocols in [
            vec![entry("a")],
            vec![entry("a"), entry("b"), "x".to_owned()],
            vec![format!("{PREFIX}!!"), "x".to_owned()],
            vec![entry("a\nb"), "x".to_owned()],
        ] {
            let protocols: Vec<&str> = protocols.iter().map(String::as_str).collect();
            let refusal = take_token(&mut upgrade(&protocols)).expect_err("refused");
            assert_eq!(refusal.code, 401, "{protocols:?}");
        }
        let mut plain = upgrade(&["x", &entry("a")]);
        plain.remove(header::UPGRADE);
        take_token(&mut plain).expect("nothing to do");
        assert!(!plain.contains_key(header::AUTHORIZATION));
    }
}
