//! Signatures of JSON Web Tokens by ring, as every shell checks them; what a token says is read in `proto::jwt`.

use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};

/// Whether the key made `signature` over `message` by the JWS algorithm of that name (RFC 7518, RFC 8037).
///
/// `components` are modulus and exponent of RSA, big-endian; else the point (NIST's uncompressed) and nothing. Unknown
/// algorithms and keys of another kind hold nothing.
#[must_use]
pub fn holds(algorithm: &str, components: [&[u8]; 2], message: &[u8], signature: &[u8]) -> bool {
    let [first, second] = components;
    let rsa = match algorithm {
        "RS256" => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
        "RS384" => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
        "RS512" => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
        _ => None,
    };
    if let Some(parameters) = rsa {
        let key = RsaPublicKeyComponents { n: first, e: second };
        return key.verify(parameters, message, signature).is_ok();
    }
    let curve: &'static dyn VerificationAlgorithm = match algorithm {
        "ES256" => &signature::ECDSA_P256_SHA256_FIXED,
        "ES384" => &signature::ECDSA_P384_SHA384_FIXED,
        "EdDSA" => &signature::ED25519,
        _ => return false,
    };
    UnparsedPublicKey::new(curve, first).verify(message, signature).is_ok()
}

#[cfg(test)]
mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
    };

    use super::*;

    const MESSAGE: &[u8] = b"header.payload";

    #[test]
    fn a_true_signature_holds_and_no_other() {
        let random = SystemRandom::new();
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        let curve = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random)
            .expect("the same key");
        let signed = curve.sign(&random, MESSAGE).expect("signed");
        let point = curve.public_key().as_ref();
        let edwards = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a key");
        let edwards_signed = edwards.sign(MESSAGE);
        let edwards_point = edwards.public_key().as_ref();
        for (algorithm, point, signature, other) in [
            ("ES256", point, signed.as_ref(), edwards_point),
            ("EdDSA", edwards_point, edwards_signed.as_ref(), point),
        ] {
            assert!(holds(algorithm, [point, &[]], MESSAGE, signature), "{algorithm}");
            assert!(!holds(algorithm, [point, &[]], b"header.other", signature), "{algorithm}");
            assert!(!holds(algorithm, [other, &[]], MESSAGE, signature), "{algorithm}: another key");
            assert!(!holds("RS256", [point, &[1, 0, 1]], MESSAGE, signature), "a key of another kind");
            assert!(
                !holds("none", [point, &[]], MESSAGE, signature)
                    && !holds("HS256", [point, &[]], MESSAGE, &[])
            );
        }
    }
}
