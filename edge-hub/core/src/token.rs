//! Real service account tokens, kept for the time when the cloud is cut.
//!
//! A kubelet that restarts while cut asks for the tokens of all its pods again, and no pod with a projected token
//! starts without one. Every TokenRequest answer is therefore kept under its whole request, and given out again
//! while the signed token inside is still valid (the API server signs pod tokens for a year, though the answer
//! says an hour). No token is ever made here. Only the requester that got an answer gets it again.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proto_kube::media_type::Encoding;
use proto_kube::wire;
use serde::{Deserialize, Serialize};

use crate::body::{BodyError, Document, Path};
use crate::budget::{Budget, Limits};
use crate::claims;
use crate::clock::Now;
use crate::identity::Principal;
use crate::record::{self, DamagedRecord, RecordChange};

/// Longest TokenRequest body and answer, in bytes.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
/// How far an answer's end is moved beyond the moment it is given out again.
pub const OFFLINE_LIFETIME: Duration = Duration::from_secs(15 * 60);
/// A token that ended this long ago makes room first.
const LONG_EXPIRED: Duration = Duration::from_secs(7 * 24 * 3600);
/// What the API server takes when a request names no lifetime, in seconds.
const DEFAULT_EXPIRATION_SECONDS: u64 = 3600;
const MAX_AUDIENCES: usize = 64;

const API_VERSION: &str = "authentication.k8s.io/v1";
const KIND: &str = "TokenRequest";
const STATUS_TOKEN: Path = Path { json: &["status", "token"], wire: &[3, 1] };
const STATUS_EXPIRATION: Path = Path { json: &["status", "expirationTimestamp"], wire: &[3, 2] };
/// `TokenRequest.spec` and the fields inside it.
const SPEC: u32 = 2;

/// What happens to a token that ended while the cloud is cut.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExpiredToken {
    /// It goes on working on this node until the cloud is back.
    #[default]
    Serve,
    /// It is refused.
    Deny,
}

/// The object that a requested token is to be bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BoundObjectReference {
    /// `Pod`, `Node` or `Secret`.
    pub kind: Box<str>,
    /// `v1`.
    pub api_version: Box<str>,
    /// The object's name.
    pub name: Box<str>,
    /// The object's uid.
    pub uid: Box<str>,
}

/// The identity of a token request: only an equal request gets a kept answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenKey {
    /// Who asked; a token never goes to anyone else.
    pub requester: Principal,
    /// Namespace of the service account.
    pub namespace: Box<str>,
    /// Name of the service account.
    pub service_account: Box<str>,
    /// The audiences, sorted.
    pub audiences: Vec<Box<str>>,
    /// The lifetime asked for, in seconds.
    pub expiration_seconds: u64,
    /// What the token is bound to.
    pub bound_object: Option<BoundObjectReference>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    audiences: Option<Vec<Box<str>>>,
    expiration_seconds: Option<u64>,
    bound_object_ref: Option<BoundObjectReference>,
}

impl TokenKey {
    /// Reads the body of `POST .../serviceaccounts/NAME/token`.
    ///
    /// # Errors
    /// [`BodyError`] if it is no TokenRequest of at most [`MAX_BODY_BYTES`]; such a request is not kept and,
    /// while cut, gets 503.
    pub fn parse(
        requester: &Principal,
        namespace: &str,
        service_account: &str,
        encoding: Encoding,
        body: &[u8],
    ) -> Result<Self, BodyError> {
        let document = Document::parse(encoding, body, MAX_BODY_BYTES, API_VERSION, KIND)?;
        let spec = match encoding {
            Encoding::Json => json_spec(document.content())?,
            Encoding::Protobuf => wire_spec(document.content())?,
        };
        let mut audiences = spec.audiences.unwrap_or_default();
        if audiences.len() > MAX_AUDIENCES {
            return Err(BodyError::TooLarge);
        }
        audiences.sort_unstable();
        Ok(Self {
            requester: requester.clone(),
            namespace: namespace.into(),
            service_account: service_account.into(),
            audiences,
            expiration_seconds: spec.expiration_seconds.unwrap_or(DEFAULT_EXPIRATION_SECONDS),
            bound_object: spec.bound_object_ref,
        })
    }

    /// The key of its record in the store.
    pub fn store_key(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a plain struct of texts and numbers")
    }
}

fn json_spec(text: &[u8]) -> Result<Spec, BodyError> {
    #[derive(Deserialize)]
    struct Request {
        spec: Option<Spec>,
    }
    let request: Request = serde_json::from_slice(text).map_err(|_| BodyError::Malformed)?;
    Ok(request.spec.unwrap_or_default())
}

fn wire_spec(message: &[u8]) -> Result<Spec, BodyError> {
    let mut spec = Spec::default();
    let Some(field) = wire::last(message, SPEC)? else { return Ok(spec) };
    for field in wire::fields(field.bytes()?) {
        let field = field?;
        match (field.number, field.value) {
            (1, _) => spec.audiences.get_or_insert_default().push(field.string()?.into()),
            (3, _) => spec.bound_object_ref = Some(wire_reference(field.bytes()?)?),
            // A negative number reads as a huge one: the API server refuses both, and nothing is kept for them.
            (4, wire::Value::Varint(seconds)) => spec.expiration_seconds = Some(seconds),
            _ => {}
        }
    }
    Ok(spec)
}

fn wire_reference(message: &[u8]) -> Result<BoundObjectReference, BodyError> {
    let mut reference = BoundObjectReference::default();
    for field in wire::fields(message) {
        let field = field?;
        match field.number {
            1 => reference.kind = field.string()?.into(),
            2 => reference.api_version = field.string()?.into(),
            3 => reference.name = field.string()?.into(),
            4 => reference.uid = field.string()?.into(),
            _ => {}
        }
    }
    Ok(reference)
}

/// A kept answer as it is given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenAnswer {
    /// The encoding that the API server answered in.
    pub encoding: Encoding,
    /// The whole body.
    pub body: Bytes,
}

/// Why no token is given out; the answer is a 503.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// This requester never got an answer to this request.
    #[error("no token was issued for this request before the cloud was cut off")]
    NotHeld,
    /// The kept token ended and the policy is [`ExpiredToken::Deny`].
    #[error("the kept token has expired")]
    Expired,
}

#[derive(Clone, Debug)]
struct HeldToken {
    encoding: Encoding,
    body: Bytes,
    /// `exp` of the signed token.
    token_expires: Duration,
    /// `status.expirationTimestamp`, never later.
    answer_expires: Duration,
    stored: Duration,
}

#[derive(Serialize, Deserialize)]
struct RecordHead {
    key: TokenKey,
    encoding: Encoding,
    stored_seconds: u64,
}

impl HeldToken {
    fn read(encoding: Encoding, body: Bytes, stored: Duration) -> Result<Self, BodyError> {
        let document = Document::parse(encoding, &body, MAX_BODY_BYTES, API_VERSION, KIND)?;
        let token = document.text(STATUS_TOKEN)?.ok_or(BodyError::Field("status.token"))?;
        let answer_expires =
            document.time(STATUS_EXPIRATION)?.ok_or(BodyError::Field("status.expirationTimestamp"))?;
        // An external signer may issue what is no JWT; then the answer's own word is all there is.
        let signed = claims::parse(&token).ok().and_then(|jwt| jwt.claims.expires());
        let token_expires = signed.unwrap_or(answer_expires);
        Ok(Self { encoding, body, token_expires, answer_expires, stored })
    }
}

/// The kept TokenRequest answers of this node, within a [`Budget`] of answers.
#[derive(Debug)]
pub struct TokenCache {
    held: BTreeMap<TokenKey, HeldToken>,
    budget: Budget<TokenKey>,
    limits: Limits,
}

impl TokenCache {
    /// An empty cache of the node `node`. `limits` are numbers of answers, each of about 2 KiB.
    pub fn new(limits: Limits, node: Principal) -> Self {
        Self { held: BTreeMap::new(), budget: Budget::new(limits, node), limits }
    }

    /// Number of answers held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether an answer for `key` is held, ended or not.
    pub fn holds(&self, key: &TokenKey) -> bool {
        self.held.contains_key(key)
    }

    /// Keeps a 201 answer of the API server in place of an older one for the same request.
    ///
    /// # Errors
    /// [`BodyError`] if `body` holds no token; what was held before stays.
    pub fn store(
        &mut self,
        now: Now,
        key: &TokenKey,
        encoding: Encoding,
        body: Bytes,
    ) -> Result<Vec<RecordChange>, BodyError> {
        let head = RecordHead { key: key.clone(), encoding, stored_seconds: now.unix.as_secs() };
        let held = HeldToken::read(encoding, body, Duration::from_secs(head.stored_seconds))?;
        let mut changes =
            vec![RecordChange::Put { key: key.store_key(), value: record::encode(&head, &held.body) }];
        if self.held.len() >= self.limits.total
            && !self.holds(key)
            && let Some(ended) = self.long_expired(now)
        {
            self.budget.remove(&ended);
            self.held.remove(&ended);
            changes.push(RecordChange::Remove { key: ended.store_key() });
        }
        changes.extend(self.insert(key.clone(), held));
        Ok(changes)
    }

    fn insert(&mut self, key: TokenKey, held: HeldToken) -> Vec<RecordChange> {
        let gone = self.budget.put(&key, &key.requester, 1);
        self.held.insert(key, held);
        let mut changes = Vec::new();
        for victim in gone {
            self.held.remove(&victim);
            changes.push(RecordChange::Remove { key: victim.store_key() });
        }
        changes
    }

    /// Every answer as a record, for a store that begins anew.
    pub fn records(&self) -> Vec<RecordChange> {
        let put = |(key, held): (&TokenKey, &HeldToken)| {
            let head = RecordHead {
                key: key.clone(),
                encoding: held.encoding,
                stored_seconds: held.stored.as_secs(),
            };
            RecordChange::Put { key: key.store_key(), value: record::encode(&head, &held.body) }
        };
        self.held.iter().map(put).collect()
    }

    /// Takes a record over from the store.
    ///
    /// # Errors
    /// [`DamagedRecord`] if it is none of this cache's.
    pub fn restore(&mut self, value: &[u8]) -> Result<(), DamagedRecord> {
        let (head, body) = record::decode::<RecordHead>(value)?;
        let stored = Duration::from_secs(head.stored_seconds);
        let held = HeldToken::read(head.encoding, Bytes::copy_from_slice(body), stored);
        self.insert(head.key, held.map_err(|_| DamagedRecord)?);
        Ok(())
    }

    /// The answer to an equal request while the cloud is cut.
    ///
    /// `status.expirationTimestamp` is moved to [`OFFLINE_LIFETIME`] from now if it lies before that, but not beyond
    /// the end of the token itself; an ended token that the policy serves is moved, too, or the kubelet would ask
    /// again at once. All other bytes are the API server's.
    ///
    /// # Errors
    /// [`TokenRefusal`], to be answered with 503.
    pub fn answer(
        &self,
        now: Now,
        key: &TokenKey,
        expired: ExpiredToken,
    ) -> Result<TokenAnswer, TokenRefusal> {
        let held = self.held.get(key).ok_or(TokenRefusal::NotHeld)?;
        let wanted = now.unix.saturating_add(OFFLINE_LIFETIME);
        let expires = if held.token_expires > now.unix {
            wanted.min(held.token_expires)
        } else if expired == ExpiredToken::Serve {
            wanted
        } else {
            return Err(TokenRefusal::Expired);
        };
        let body = if held.answer_expires >= expires { held.body.clone() } else { held.moved_to(expires) };
        Ok(TokenAnswer { encoding: held.encoding, body })
    }

    fn long_expired(&self, now: Now) -> Option<TokenKey> {
        let ended =
            self.held.iter().filter(|(_, held)| held.token_expires.saturating_add(LONG_EXPIRED) < now.unix);
        ended.min_by_key(|(_, held)| held.token_expires).map(|(key, _)| key.clone())
    }
}

impl HeldToken {
    /// A body that could not be amended goes out as it is: a late end is better than no token.
    fn moved_to(&self, expires: Duration) -> Bytes {
        Document::parse(self.encoding, &self.body, MAX_BODY_BYTES, API_VERSION, KIND)
            .and_then(|document| document.with_time(STATUS_EXPIRATION, expires))
            .map_or_else(|_| self.body.clone(), Bytes::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::tests::{envelope, message};
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;

    const NOON: u64 = 1_795_521_600; // 2026-11-24T12:00:00Z

    fn at(seconds: u64) -> Now {
        Now { monotonic: Duration::ZERO, unix: Duration::from_secs(seconds) }
    }

    fn holding(total: usize) -> TokenCache {
        TokenCache::new(Limits { total, of_one_user: total, reserve: 0 }, Principal::node("a"))
    }

    #[test]
    fn who_asks_for_many_tokens_loses_its_own_and_the_node_none() {
        let mut cache =
            TokenCache::new(Limits { total: 4, of_one_user: 2, reserve: 0 }, Principal::node("a"));
        let valid = answer_json(NOON + 86_400, "2026-11-24T13:00:00Z");
        let mut store = |key: &TokenKey| {
            cache.store(at(NOON), key, Encoding::Json, valid.clone().into()).expect("a token");
            cache.len()
        };
        store(&numbered(1));
        store(&numbered(2));
        for name in ["operator", "other", "third"] {
            for seconds in 1..=5 {
                let mut key = numbered(seconds);
                key.requester = Principal::service_account("media", name);
                assert!(store(&key) <= 4);
            }
        }
        assert!(cache.holds(&numbered(1)) && cache.holds(&numbered(2)));
    }

    fn signed(exp: u64) -> String {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.c2ln", encode(r#"{"alg":"RS256"}"#), encode(&format!(r#"{{"exp":{exp}}}"#)))
    }

    fn answer_json(exp: u64, timestamp: &str) -> String {
        let token = signed(exp);
        format!(
            r#"{{"kind":"TokenRequest","apiVersion":"authentication.k8s.io/v1","metadata":{{"name":"engine"}},"spec":{{}},"status":{{"token":"{token}","expirationTimestamp":"{timestamp}","future":1}}}}"#
        )
    }

    const REQUEST: &str = r#"{"kind":"TokenRequest","apiVersion":"authentication.k8s.io/v1","metadata":{},
        "spec":{"audiences":["b","a"],"expirationSeconds":3607,
        "boundObjectRef":{"kind":"Pod","apiVersion":"v1","name":"engine-0","uid":"p-1"}}}"#;

    fn key(body: &str) -> TokenKey {
        TokenKey::parse(&Principal::node("a"), "media", "engine", Encoding::Json, body.as_bytes())
            .expect("valid")
    }

    fn numbered(number: u64) -> TokenKey {
        key(&format!(r#"{{"spec":{{"expirationSeconds":{number}}}}}"#))
    }

    fn wire_request() -> Vec<u8> {
        let reference = message(&[(1, b"Pod"), (2, b"v1"), (3, b"engine-0"), (4, b"p-1")]);
        let mut spec = message(&[(1, b"b"), (1, b"a"), (3, &reference)]);
        wire::put_varint_field(&mut spec, 4, 3607);
        envelope(API_VERSION, KIND, &message(&[(1, b""), (2, &spec)]))
    }

    #[test]
    fn both_encodings_of_a_request_have_one_key() {
        let body = wire_request();
        let read = TokenKey::parse(&Principal::node("a"), "media", "engine", Encoding::Protobuf, &body);
        assert_eq!(read.as_ref(), Ok(&key(REQUEST)));
        let key = read.expect("valid");
        assert_eq!(key.audiences, ["a".into(), "b".into()]);
        assert_eq!((key.expiration_seconds, key.bound_object.expect("bound").uid), (3607, "p-1".into()));
    }

    #[test]
    fn another_pod_lifetime_or_requester_is_another_key() {
        for other in
            [REQUEST.replace("p-1", "p-2"), REQUEST.replace("3607", "600"), REQUEST.replace("\"b\",", "")]
        {
            assert_ne!(key(&other), key(REQUEST));
        }
        let someone = Principal::service_account("media", "operator");
        let theirs = TokenKey::parse(&someone, "media", "engine", Encoding::Json, REQUEST.as_bytes());
        assert_ne!(theirs, Ok(key(REQUEST)));
    }

    #[test]
    fn an_answer_is_given_out_again_with_its_end_moved() {
        let mut cache = holding(4);
        let body = answer_json(NOON + 86_400, "2026-11-24T12:30:00Z");
        cache.store(at(NOON), &key(REQUEST), Encoding::Json, body.clone().into()).expect("a token");
        let later = cache.answer(at(NOON + 7200), &key(REQUEST), ExpiredToken::Deny).expect("held");
        assert_eq!(later.body, body.replace("12:30:00", "14:15:00"));
        let soon = cache.answer(at(NOON + 60), &key(REQUEST), ExpiredToken::Deny).expect("held");
        assert_eq!(soon.body, body, "an end that is far enough is not moved back");
    }

    #[test]
    fn the_end_never_passes_the_tokens_own() {
        let mut cache = holding(4);
        let body = answer_json(NOON + 600, "2026-11-24T12:05:00Z");
        cache.store(at(NOON), &key(REQUEST), Encoding::Json, body.clone().into()).expect("a token");
        let answer = cache.answer(at(NOON + 10), &key(REQUEST), ExpiredToken::Serve).expect("held");
        assert_eq!(answer.body, body.replace("12:05:00", "12:10:00"));
    }

    #[test]
    fn an_ended_token_follows_the_policy() {
        let mut cache = holding(4);
        let body = answer_json(NOON + 600, "2026-11-24T12:10:00Z");
        cache.store(at(NOON), &key(REQUEST), Encoding::Json, body.clone().into()).expect("a token");
        let after = at(NOON + 3600);
        assert_eq!(cache.answer(after, &key(REQUEST), ExpiredToken::Deny), Err(TokenRefusal::Expired));
        let answer = cache.answer(after, &key(REQUEST), ExpiredToken::Serve).expect("served");
        assert_eq!(answer.body, body.replace("12:10:00", "13:15:00"));
        assert_eq!(cache.answer(after, &numbered(1), ExpiredToken::Serve), Err(TokenRefusal::NotHeld));
    }

    #[test]
    fn a_protobuf_answer_stays_protobuf_with_unknown_fields() {
        let time = |seconds: u64| {
            let mut time = Vec::new();
            wire::put_varint_field(&mut time, 1, seconds);
            time
        };
        let token = signed(NOON + 86_400);
        let body = |end: u64| {
            let status = message(&[(1, token.as_bytes()), (2, &time(end)), (50, b"future")]);
            envelope(API_VERSION, KIND, &message(&[(1, b""), (2, b""), (3, &status)]))
        };
        let mut cache = holding(4);
        cache.store(at(NOON), &key(REQUEST), Encoding::Protobuf, body(NOON + 60).into()).expect("a token");
        let answer = cache.answer(at(NOON + 120), &key(REQUEST), ExpiredToken::Serve).expect("held");
        assert_eq!(answer.encoding, Encoding::Protobuf);
        assert_eq!(answer.body, body(NOON + 120 + 900));
    }

    #[test]
    fn an_answer_without_a_token_displaces_nothing() {
        let mut cache = holding(4);
        let body = answer_json(NOON + 600, "2026-11-24T12:10:00Z");
        cache.store(at(NOON), &key(REQUEST), Encoding::Json, body.into()).expect("a token");
        for bad in [r#"{"status":{}}"#, r#"{"kind":"Status","code":403}"#, "", r#"{"status":{"token":"x"}}"#]
        {
            assert!(cache.store(at(NOON), &key(REQUEST), Encoding::Json, bad.into()).is_err(), "{bad}");
        }
        assert!(cache.answer(at(NOON), &key(REQUEST), ExpiredToken::Deny).is_ok());
    }

    #[test]
    fn the_long_expired_make_room_before_the_oldest() {
        let mut cache = holding(2);
        let long_ago = answer_json(NOON - 30 * 86_400, "2026-10-01T00:00:00Z");
        let valid = answer_json(NOON + 86_400, "2026-11-24T13:00:00Z");
        cache.store(at(NOON - 100), &numbered(1), Encoding::Json, valid.clone().into()).expect("a token");
        cache.store(at(NOON - 50), &numbered(2), Encoding::Json, long_ago.into()).expect("a token");
        let changes =
            cache.store(at(NOON), &numbered(3), Encoding::Json, valid.clone().into()).expect("a token");
        assert!(changes.contains(&RecordChange::Remove { key: numbered(2).store_key() }));
        cache.store(at(NOON + 1), &numbered(4), Encoding::Json, valid.into()).expect("a token");
        assert!(!cache.holds(&numbered(1)) && cache.holds(&numbered(3)) && cache.holds(&numbered(4)));
    }

    #[test]
    fn what_was_just_stored_is_never_what_makes_room() {
        let mut cache = holding(1);
        let valid = answer_json(NOON + 86_400, "2026-11-24T13:00:00Z");
        let long_ago = answer_json(NOON - 30 * 86_400, "2026-10-01T00:00:00Z");
        cache.store(at(NOON), &numbered(1), Encoding::Json, valid.into()).expect("a token");
        cache.store(at(NOON), &numbered(2), Encoding::Json, long_ago.into()).expect("a token");
        assert!(cache.holds(&numbered(2)) && cache.len() == 1);
    }

    #[test]
    fn a_restored_cache_answers_alike() {
        let mut cache = holding(4);
        let body = answer_json(NOON + 86_400, "2026-11-24T12:30:00Z");
        let changes = cache.store(at(NOON), &key(REQUEST), Encoding::Json, body.into()).expect("a token");
        let [RecordChange::Put { value, .. }] = changes.as_slice() else { panic!("one record: {changes:?}") };
        let mut restored = holding(4);
        restored.restore(value).expect("own record");
        let ask = |cache: &TokenCache| cache.answer(at(NOON + 9999), &key(REQUEST), ExpiredToken::Deny);
        assert_eq!(ask(&restored), ask(&cache));
        assert_eq!(restored.restore(&value[..value.len() / 2]), Err(DamagedRecord));
    }

    proptest! {
        #[test]
        fn no_request_breaks_the_parser(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let node = Principal::node("a");
            let _ = TokenKey::parse(&node, "n", "s", Encoding::Json, &bytes);
            let wrapped = envelope(API_VERSION, KIND, &message(&[(2, &bytes)]));
            let _ = TokenKey::parse(&node, "n", "s", Encoding::Protobuf, &wrapped);
        }
    }
}
