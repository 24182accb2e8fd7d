//! JSON Web Tokens as issuers of ours and Kubernetes write them: what a compact token says, and the key set that signs it.
//!
//! Nothing here verifies a signature: [`Jwt`] hands out the signing input and the signature, a shell checks them against
//! a key of a [`KeySet`]. Until then every claim is hearsay. Which claims there are is the caller's: `C` of [`Jwt`].
//!
//! Sources: RFC 7515, RFC 7517, RFC 7518, RFC 7519, RFC 8037.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};

/// Longest token that is looked at, in bytes: what fits in a request head beside its other fields.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// Longest JWKS document, in bytes.
pub const MAX_KEY_SET_BYTES: usize = 256 * 1024;
/// Most keys that are kept of a JWKS document.
pub const MAX_KEYS: usize = 256;
/// Most audiences of a token.
const MAX_AUDIENCES: usize = 64;

/// Why a token or a key set could not be read. Never holds any part of the token.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// Longer than [`MAX_TOKEN_BYTES`], [`MAX_KEY_SET_BYTES`] or one of their inner limits.
    #[error("too long")]
    TooLong,
    /// Not three dot-separated parts.
    #[error("not a compact JWT")]
    NotCompact,
    /// A part is not unpadded base64url.
    #[error("a part is not base64url")]
    Base64,
    /// Header, payload or key set is not the JSON that is expected there.
    #[error("a part is not the expected JSON")]
    Json,
    /// `alg` is unknown, symmetric or `none`.
    #[error("unsupported signature algorithm")]
    Algorithm,
    /// The header demands an extension (`crit`) that is not understood.
    #[error("unsupported critical header")]
    Critical,
}

/// The asymmetric signature algorithms that an issuer may use.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// ECDSA on P-256 with SHA-256; the signature is r and s, 32 bytes each.
    Es256,
    /// ECDSA on P-384 with SHA-384; the signature is r and s, 48 bytes each.
    Es384,
    /// Ed25519; Kubernetes issues none.
    EdDsa,
}

impl Algorithm {
    const ALL: [Self; 6] = [Self::Rs256, Self::Rs384, Self::Rs512, Self::Es256, Self::Es384, Self::EdDsa];

    /// The name that RFC 7518 and RFC 8037 give it, as `alg` has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }
}

/// A compact JWT, taken apart but not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwt<'a, C> {
    /// `alg` of the header.
    pub algorithm: Algorithm,
    /// `kid` of the header.
    pub key_id: Option<Box<str>>,
    /// The claims of the payload.
    pub claims: C,
    /// The bytes that the signature covers: header, dot, payload as they stand in the token.
    pub signing_input: &'a [u8],
    /// The decoded signature.
    pub signature: Vec<u8>,
}

#[derive(Deserialize)]
struct Header {
    alg: Box<str>,
    #[serde(default)]
    kid: Option<Box<str>>,
    #[serde(default)]
    crit: Option<serde::de::IgnoredAny>,
}

impl<'a, C: DeserializeOwned> Jwt<'a, C> {
    /// Takes a compact token apart.
    ///
    /// # Errors
    /// [`JwtError`] for anything that an issuer of ours could not have signed.
    pub fn parse(token: &'a str) -> Result<Self, JwtError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(JwtError::TooLong);
        }
        let (signing_input, signature) = token.rsplit_once('.').ok_or(JwtError::NotCompact)?;
        let (header, payload) = signing_input.split_once('.').ok_or(JwtError::NotCompact)?;
        if payload.contains('.') {
            return Err(JwtError::NotCompact);
        }
        let header: Header = json_part(header)?;
        if header.crit.is_some() {
            return Err(JwtError::Critical);
        }
        Ok(Self {
            algorithm: Algorithm::parse(&header.alg).ok_or(JwtError::Algorithm)?,
            key_id: header.kid,
            claims: json_part(payload)?,
            signing_input: signing_input.as_bytes(),
            signature: URL_SAFE_NO_PAD.decode(signature).map_err(|_| JwtError::Base64)?,
        })
    }
}

fn json_part<T: DeserializeOwned>(part: &str) -> Result<T, JwtError> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| JwtError::Base64)?;
    serde_json::from_slice(&json).map_err(|_| JwtError::Json)
}

/// For a claim with `deserialize_with`: a NumericDate (RFC 7519 s2) in unix seconds. It may have a fraction, which is cut
/// off.
///
/// # Errors
/// Negative and absurd ones, and what is no number.
pub fn numeric_date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let Some(number) = Option::<serde_json::Number>::deserialize(deserializer)? else { return Ok(None) };
    let whole = match number.as_u64() {
        Some(whole) => whole,
        None => number.as_f64().and_then(whole_seconds).ok_or_else(out_of_range::<D>)?,
    };
    if whole > MAX_NUMERIC_DATE { Err(out_of_range::<D>()) } else { Ok(Some(whole)) }
}

/// The last second of the year 9999: no timestamp in the API can say more.
const MAX_NUMERIC_DATE: u64 = 253_402_300_799;

fn out_of_range<'de, D: Deserializer<'de>>() -> D::Error {
    serde::de::Error::custom("a date out of range")
}

fn whole_seconds(seconds: f64) -> Option<u64> {
    Duration::try_from_secs_f64(seconds).ok().map(|duration| duration.as_secs())
}

/// For the claim `aud` with `deserialize_with`: a single string counts as one.
///
/// # Errors
/// More than 64 of them, and what is no string.
pub fn audiences<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Box<str>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(Box<str>),
        Many(Vec<Box<str>>),
    }
    let audiences = match Option::<OneOrMany>::deserialize(deserializer)? {
        None => Vec::new(),
        Some(OneOrMany::One(audience)) => vec![audience],
        Some(OneOrMany::Many(audiences)) => audiences,
    };
    if audiences.len() > MAX_AUDIENCES {
        return Err(serde::de::Error::custom("too many audiences"));
    }
    Ok(audiences)
}

/// A public key of an issuer; the numbers are big-endian bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicKey {
    /// RSA: modulus and exponent.
    Rsa {
        /// Modulus n.
        n: Vec<u8>,
        /// Exponent e.
        e: Vec<u8>,
    },
    /// NIST P-256, as an uncompressed point: `0x04`, x, y (65 bytes).
    P256 {
        /// The point.
        point: Vec<u8>,
    },
    /// NIST P-384, as an uncompressed point: `0x04`, x, y (97 bytes).
    P384 {
        /// The point.
        point: Vec<u8>,
    },
    /// Ed25519, 32 bytes.
    Ed25519 {
        /// The point.
        point: Vec<u8>,
    },
}

impl PublicKey {
    /// What a library that verifies wants: modulus and exponent of RSA; else the point, and nothing.
    #[must_use]
    pub fn components(&self) -> [&[u8]; 2] {
        match self {
            Self::Rsa { n, e } => [n, e],
            Self::P256 { point } | Self::P384 { point } | Self::Ed25519 { point } => [point, &[]],
        }
    }

    /// Whether a signature by `algorithm` can come from this type of key.
    #[must_use]
    pub fn fits(&self, algorithm: Algorithm) -> bool {
        match self {
            Self::Rsa { .. } => matches!(algorithm, Algorithm::Rs256 | Algorithm::Rs384 | Algorithm::Rs512),
            Self::P256 { .. } => algorithm == Algorithm::Es256,
            Self::P384 { .. } => algorithm == Algorithm::Es384,
            Self::Ed25519 { .. } => algorithm == Algorithm::EdDsa,
        }
    }
}

/// One key of a JWKS document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// `kid`.
    pub key_id: Option<Box<str>>,
    /// `alg`, if the document pins one.
    pub algorithm: Option<Algorithm>,
    /// The key itself.
    pub public: PublicKey,
}

/// The signature keys of one issuer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySet {
    /// The keys in the document's order. Keys of unknown types or for encryption are left out.
    pub keys: Vec<Key>,
}

#[derive(Deserialize)]
struct RawKeySet {
    keys: Vec<RawKey>,
}

#[derive(Deserialize)]
struct RawKey {
    kty: Box<str>,
    kid: Option<Box<str>>,
    alg: Option<Box<str>>,
    #[serde(rename = "use")]
    usage: Option<Box<str>>,
    crv: Option<Box<str>>,
    n: Option<Box<str>>,
    e: Option<Box<str>>,
    x: Option<Box<str>>,
    y: Option<Box<str>>,
}

impl KeySet {
    /// Reads a JWKS document (the answer of `/openid/v1/jwks`).
    ///
    /// A key that cannot be used is skipped, since an issuer may hold keys for others too.
    ///
    /// # Errors
    /// [`JwtError::TooLong`] beyond [`MAX_KEY_SET_BYTES`] or [`MAX_KEYS`], [`JwtError::Json`] if it is no JWKS.
    pub fn parse(document: &[u8]) -> Result<Self, JwtError> {
        if document.len() > MAX_KEY_SET_BYTES {
            return Err(JwtError::TooLong);
        }
        let raw: RawKeySet = serde_json::from_slice(document).map_err(|_| JwtError::Json)?;
        if raw.keys.len() > MAX_KEYS {
            return Err(JwtError::TooLong);
        }
        Ok(Self { keys: raw.keys.into_iter().filter_map(RawKey::usable).collect() })
    }

    /// The keys that may have made a signature by `algorithm` under `key_id`, to be tried in order.
    ///
    /// A token without `kid` is tried against every fitting key, as the API server does.
    pub fn candidates(&self, key_id: Option<&str>, algorithm: Algorithm) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(move |key| {
            key.public.fits(algorithm)
                && key.algorithm.is_none_or(|pinned| pinned == algorithm)
                && key_id.is_none_or(|wanted| key.key_id.as_deref() == Some(wanted))
        })
    }
}

impl RawKey {
    fn usable(self) -> Option<Key> {
        if self.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return None;
        }
        let algorithm = match self.alg.as_deref() {
            Some(name) => Some(Algorithm::parse(name)?),
            None => None,
        };
        let public = match (&*self.kty, self.crv.as_deref()) {
            ("RSA", _) => PublicKey::Rsa { n: number(self.n.as_deref()?)?, e: number(self.e.as_deref()?)? },
            ("EC", Some("P-256")) => {
                PublicKey::P256 { point: point(self.x.as_deref()?, self.y.as_deref()?, 32)? }
            }
            ("EC", Some("P-384")) => {
                PublicKey::P384 { point: point(self.x.as_deref()?, self.y.as_deref()?, 48)? }
            }
            ("OKP", Some("Ed25519")) => {
                let point = number(self.x.as_deref()?)?;
                if point.len() != 32 {
                    return None;
                }
                PublicKey::Ed25519 { point }
            }
            _ => return None,
        };
        Some(Key { key_id: self.kid, algorithm, public })
    }
}

fn number(text: &str) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    (!bytes.is_empty()).then_some(bytes)
}

fn point(x: &str, y: &str, width: usize) -> Option<Vec<u8>> {
    let mut point = vec![0x04];
    for coordinate in [number(x)?, number(y)?] {
        // RFC 7518 s6.2.1.2 demands the full width, zeros included.
        if coordinate.len() != width {
            return None;
        }
        point.extend_from_slice(&coordinate);
    }
    Some(point)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq, Eq, Deserialize)]
    struct Claims {
        #[serde(default, deserialize_with = "audiences")]
        aud: Vec<Box<str>>,
        #[serde(default, deserialize_with = "numeric_date")]
        exp: Option<u64>,
    }

    fn parse(token: &str) -> Result<Jwt<'_, Claims>, JwtError> {
        Jwt::parse(token)
    }

    fn token(header: &str, payload: &str) -> String {
        format!("{}.{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload), "c2ln")
    }

    const HEADER: &str = r#"{"alg":"RS256","kid":"k1"}"#;

    #[test]
    fn a_single_audience_and_a_fractional_date_are_understood() {
        let text = token(HEADER, r#"{"aud":"api","exp":12.75}"#);
        let jwt = parse(&text).expect("valid");
        assert_eq!((jwt.algorithm, jwt.key_id.as_deref()), (Algorithm::Rs256, Some("k1")));
        assert_eq!(jwt.signature, b"sig");
        assert_eq!(jwt.signing_input.len() + ".c2ln".len(), text.len());
        assert_eq!((jwt.claims.aud, jwt.claims.exp), (vec!["api".into()], Some(12)));
    }

    #[test]
    fn weak_or_unknown_signatures_are_refused() {
        for (header, expected) in [
            (r#"{"alg":"none"}"#, JwtError::Algorithm),
            (r#"{"alg":"HS256"}"#, JwtError::Algorithm),
            (r#"{"alg":"RS256","crit":["exp"]}"#, JwtError::Critical),
            (r#"{"alg":"RS256","alg":"none"}"#, JwtError::Json),
            (r#"{"kid":"k"}"#, JwtError::Json),
        ] {
            assert_eq!(parse(&token(header, "{}")), Err(expected), "{header}");
        }
    }

    #[test]
    fn what_is_no_compact_token_is_refused() {
        for (text, expected) in [
            ("", JwtError::NotCompact),
            ("a.b", JwtError::NotCompact),
            ("a.b.c.d", JwtError::NotCompact),
            ("!.e30.e30", JwtError::Base64),
            ("e30.e30.e30", JwtError::Json),
        ] {
            assert_eq!(parse(text), Err(expected), "{text}");
        }
        assert_eq!(parse(&"a".repeat(MAX_TOKEN_BYTES + 1)), Err(JwtError::TooLong));
    }

    #[test]
    fn absurd_dates_are_refused() {
        for exp in ["-1", "1e300", "253402300800", "\"1\""] {
            assert_eq!(parse(&token(HEADER, &format!(r#"{{"exp":{exp}}}"#))), Err(JwtError::Json), "{exp}");
        }
    }

    #[test]
    fn a_key_set_keeps_the_keys_that_can_verify() {
        let (p256, p384) = (URL_SAFE_NO_PAD.encode([7; 32]), URL_SAFE_NO_PAD.encode([8; 48]));
        let document = format!(
            r#"{{"keys":[
            {{"kty":"RSA","kid":"r","use":"sig","alg":"RS256","n":"AQAB","e":"AQAB"}},
            {{"kty":"EC","kid":"e","crv":"P-256","x":"{p256}","y":"{p256}"}},
            {{"kty":"EC","kid":"f","crv":"P-384","x":"{p384}","y":"{p384}","use":"sig"}},
            {{"kty":"EC","kid":"short","crv":"P-384","x":"{p256}","y":"{p256}"}},
            {{"kty":"OKP","kid":"d","crv":"Ed25519","x":"{p256}"}},
            {{"kty":"OKP","kid":"long","crv":"Ed25519","x":"{p384}"}},
            {{"kty":"RSA","kid":"enc","use":"enc","n":"AQAB","e":"AQAB"}},
            {{"kty":"oct","kid":"secret","k":"AQAB"}}]}}"#
        );
        let set = KeySet::parse(document.as_bytes()).expect("valid");
        let ids: Vec<_> = set.keys.iter().filter_map(|key| key.key_id.as_deref()).collect();
        assert_eq!(ids, ["r", "e", "f", "d"]);
        assert_eq!(set.candidates(Some("r"), Algorithm::Rs256).count(), 1);
        assert_eq!(set.candidates(Some("r"), Algorithm::Rs512).count(), 0, "the document pins RS256");
        assert_eq!(set.candidates(Some("r"), Algorithm::Es256).count(), 0);
        assert_eq!(set.candidates(Some("e"), Algorithm::Es256).count(), 1);
        assert_eq!(set.candidates(None, Algorithm::Es384).count(), 1);
        assert_eq!(set.candidates(Some("d"), Algorithm::EdDsa).count(), 1);
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(text in "[a-zA-Z0-9_.-]{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn no_payload_breaks_the_parser(payload in r#"[{}\[\]:,"a-z0-9 .\-]{0,120}"#) {
            let _ = parse(&token(HEADER, &payload));
            let _ = KeySet::parse(payload.as_bytes());
        }
    }
}
