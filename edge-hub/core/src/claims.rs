//! The claims of a service account token as Kubernetes issues it; the token around them is read by [`proto::jwt`].
//!
//! The shell checks the signature and tells its verdict to [`crate::authentication`]. Until then every claim is hearsay.
//!
//! Sources: RFC 7519; the `kubernetes.io` claim as the API server writes it.

use std::time::Duration;

use proto::jwt::{Algorithm, Jwt, JwtError, audiences, numeric_date};
use serde::{Deserialize, Serialize};

/// A service account token, taken apart but not verified.
pub type Token<'a> = Jwt<'a, Claims>;

/// Takes a compact token apart.
///
/// # Errors
/// [`JwtError`] for anything that the API server could not have signed; it signs by RSA and by the curves of NIST.
pub fn parse(token: &str) -> Result<Token<'_>, JwtError> {
    let token: Token<'_> = Jwt::parse(token)?;
    if token.algorithm == Algorithm::EdDsa { Err(JwtError::Algorithm) } else { Ok(token) }
}

/// An object that a token is bound to: it dies with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectReference {
    /// `metadata.name`.
    pub name: Box<str>,
    /// `metadata.uid`.
    #[serde(default)]
    pub uid: Box<str>,
}

/// The private claim `kubernetes.io` of a service account token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubernetesClaims {
    /// Namespace of the service account and of what the token is bound to.
    pub namespace: Box<str>,
    /// The service account itself.
    pub serviceaccount: ObjectReference,
    /// The pod that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<ObjectReference>,
    /// The node that the token is bound to or, beside `pod`, the node which that pod was bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<ObjectReference>,
    /// The secret that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<ObjectReference>,
    /// Unix seconds after which the API server counts the token as stale, though it is still valid.
    #[serde(default, deserialize_with = "numeric_date", skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<u64>,
}

/// The claims of a token. Times are unix seconds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Claims {
    /// Issuer.
    #[serde(default)]
    pub iss: Box<str>,
    /// Subject; for a service account its user name.
    #[serde(default)]
    pub sub: Box<str>,
    /// Audiences; a single string counts as one.
    #[serde(default, deserialize_with = "audiences")]
    pub aud: Vec<Box<str>>,
    /// Not valid after; `None` for a token without an end.
    #[serde(default, deserialize_with = "numeric_date")]
    pub exp: Option<u64>,
    /// Not valid before.
    #[serde(default, deserialize_with = "numeric_date")]
    pub nbf: Option<u64>,
    /// Issued at.
    #[serde(default, deserialize_with = "numeric_date")]
    pub iat: Option<u64>,
    /// What Kubernetes adds; absent in legacy secret-based and in foreign tokens.
    #[serde(default, rename = "kubernetes.io")]
    pub kubernetes: Option<KubernetesClaims>,
}

impl Claims {
    /// The end of the token as a wall-clock time, if it has one.
    pub fn expires(&self) -> Option<Duration> {
        self.exp.map(Duration::from_secs)
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

    use super::*;

    fn token(header: &str, payload: &str) -> String {
        format!("{}.{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload), "c2ln")
    }

    #[test]
    fn a_projected_token_is_read_whole() {
        let payload = r#"{"aud":["https://kubernetes.default.svc"],"exp":1795000000,"iat":1763464000,
            "iss":"https://kubernetes.default.svc","jti":"x","kubernetes.io":{"namespace":"media",
            "node":{"name":"a","uid":"n-1"},"pod":{"name":"engine-0","uid":"p-1"},
            "serviceaccount":{"name":"engine","uid":"s-1"},"warnafter":1763467607},"nbf":1763464000,
            "sub":"system:serviceaccount:media:engine"}"#;
        let text = token(r#"{"alg":"RS256","kid":"k1"}"#, payload);
        let jwt = parse(&text).expect("valid");
        assert_eq!((jwt.algorithm, jwt.key_id.as_deref()), (Algorithm::Rs256, Some("k1")));
        assert_eq!(jwt.signature, b"sig");
        assert_eq!(jwt.signing_input.len() + ".c2ln".len(), text.len());
        assert_eq!(jwt.claims.exp, Some(1_795_000_000));
        let kubernetes = jwt.claims.kubernetes.expect("present");
        assert_eq!(kubernetes.pod.map(|pod| pod.uid), Some("p-1".into()));
        assert_eq!(kubernetes.node.map(|node| node.name), Some("a".into()));
        assert_eq!(kubernetes.warnafter, Some(1_763_467_607));
    }

    #[test]
    fn a_signature_that_the_api_server_never_makes_is_refused() {
        assert_eq!(parse(&token(r#"{"alg":"EdDSA"}"#, "{}")), Err(JwtError::Algorithm));
    }
}
