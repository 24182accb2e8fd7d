//! Verifies the signature of a service account token against the issuer's keys.

use edge_hub_core::claims::Token;
use proto::jwt::KeySet;
use proto_daemon::signature;

/// Whether one of the issuer's keys made the token's signature.
#[must_use]
pub fn holds(jwt: &Token<'_>, keys: &KeySet) -> bool {
    keys.candidates(jwt.key_id.as_deref(), jwt.algorithm).any(|key| {
        let components = key.public.components();
        signature::holds(jwt.algorithm.name(), components, jwt.signing_input, &jwt.signature)
    })
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
    };

    use super::*;
    use edge_hub_core::claims::parse;

    fn signed(payload: &str) -> (String, KeySet) {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random)
            .expect("the same key");
        let point = pair.public_key().as_ref();
        let jwks = format!(
            r#"{{"keys":[{{"kty":"EC","crv":"P-256","kid":"k","x":"{}","y":"{}"}}]}}"#,
            URL_SAFE_NO_PAD.encode(&point[1..33]),
            URL_SAFE_NO_PAD.encode(&point[33..])
        );
        let input = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","kid":"k"}"#),
            URL_SAFE_NO_PAD.encode(payload)
        );
        let signature = pair.sign(&random, input.as_bytes()).expect("signed");
        let keys = KeySet::parse(jwks.as_bytes()).expect("a key set");
        (format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)), keys)
    }

    const PAYLOAD: &str = r#"{"iss":"x","sub":"y","aud":["x"]}"#;

    #[test]
    fn a_true_signature_holds_and_a_changed_token_does_not() {
        let (token, keys) = signed(PAYLOAD);
        assert!(holds(&parse(&token).expect("a token"), &keys));
        let other = URL_SAFE_NO_PAD.encode(r#"{"iss":"x","sub":"z","aud":["x"]}"#);
        let parts: Vec<&str> = token.split('.').collect();
        let forged = format!("{}.{other}.{}", parts[0], parts[2]);
        assert!(!holds(&parse(&forged).expect("a token"), &keys));
    }

    #[test]
    fn another_issuers_key_does_not_verify() {
        let (token, _) = signed(PAYLOAD);
        let (_, others) = signed(PAYLOAD);
        assert!(!holds(&parse(&token).expect("a token"), &others));
    }
}
