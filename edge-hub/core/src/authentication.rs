//! Who a bearer token is, without asking the cloud each time, and without the cloud at all while it is cut.
//!
//! [`AcceptedTokens`] remembers (by hash) what the API server accepted. [`decide_offline`] judges a token while cut:
//! either the API server accepted this very token before, or its signature, issuer and audience hold *and* what it
//! is bound to lives on this node, or the operator admits its user while cut. What ended while the API server could still
//! be asked is refused. The hub never takes a token's word
//! before the shell has verified the signature.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto_kube::status::Status;
use serde::{Deserialize, Serialize};

use crate::claims::{Claims, KubernetesClaims, ObjectReference};
use crate::clock::Now;
use crate::identity::Principal;
use crate::record::{self, DamagedRecord, RecordChange};
use crate::review::AcceptedToken;
use crate::token::ExpiredToken;

/// How long the API server's word on a token holds while it can be asked again; as long as a kubelet believes it.
pub const ONLINE_VALIDITY: Duration = Duration::from_secs(2 * 60);
/// Clocks of a signer and of this node may differ by this much; what the API server allows, too.
const LEEWAY: Duration = Duration::from_secs(60);

/// SHA-256 of a bearer token: the token itself is never kept.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenHash(pub [u8; 32]);

#[derive(Debug)]
struct Accepted {
    token: AcceptedToken,
    /// On the monotonic clock of this process; `None` for one from before a restart.
    verified: Option<Duration>,
    /// When it was accepted first, since 1970; `None` for a record of a version that did not write it.
    first: Option<Duration>,
    used: u64,
}

#[derive(Serialize, Deserialize)]
struct RecordHead {
    hash: TokenHash,
    token: AcceptedToken,
    #[serde(default)]
    first_seconds: Option<u64>,
}

fn put(hash: TokenHash, token: &AcceptedToken, first: Option<Duration>) -> RecordChange {
    let first_seconds = first.map(|first| first.as_secs());
    let head = RecordHead { hash, token: token.clone(), first_seconds };
    RecordChange::Put { key: hash.0.to_vec(), value: record::encode(&head, &[]) }
}

/// The tokens that the API server accepted, at most `limit`; the least recently used makes room.
#[derive(Debug)]
pub struct AcceptedTokens {
    tokens: BTreeMap<TokenHash, Accepted>,
    by_use: BTreeMap<u64, TokenHash>,
    uses: u64,
    limit: usize,
}

impl AcceptedTokens {
    /// An empty memory of at most `limit` (at least 1) tokens.
    pub fn new(limit: usize) -> Self {
        Self { tokens: BTreeMap::new(), by_use: BTreeMap::new(), uses: 0, limit: limit.max(1) }
    }

    /// Number of tokens remembered.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The API server accepted this token just now (a TokenReview said so).
    pub fn accept(&mut self, now: Now, hash: TokenHash, token: AcceptedToken) -> Vec<RecordChange> {
        let known = self.tokens.get(&hash).filter(|accepted| accepted.token == token);
        let first = known.and_then(|accepted| accepted.first);
        let mut changes = Vec::new();
        if first.is_none() {
            changes.push(put(hash, &token, Some(now.unix)));
        }
        self.insert(hash, token, Some(now.monotonic), first.or(Some(now.unix)));
        while self.tokens.len() > self.limit {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            self.tokens.remove(&oldest);
            changes.push(RecordChange::Remove { key: oldest.0.to_vec() });
        }
        changes
    }

    /// The API server refused this token: it is forgotten, for offline use, too.
    pub fn refuse(&mut self, hash: TokenHash) -> Vec<RecordChange> {
        match self.tokens.remove(&hash) {
            None => Vec::new(),
            Some(accepted) => {
                self.by_use.remove(&accepted.used);
                vec![RecordChange::Remove { key: hash.0.to_vec() }]
            }
        }
    }

    /// Every token's record, for a store that begins anew.
    pub fn records(&self) -> Vec<RecordChange> {
        self.tokens.iter().map(|(hash, accepted)| put(*hash, &accepted.token, accepted.first)).collect()
    }

    /// Takes a record over from the store. It counts while cut; online the API server is asked again first.
    ///
    /// # Errors
    /// [`DamagedRecord`] if it is none of this memory's.
    pub fn restore(&mut self, value: &[u8]) -> Result<(), DamagedRecord> {
        let (head, _) = record::decode::<RecordHead>(value)?;
        if self.tokens.len() < self.limit || self.tokens.contains_key(&head.hash) {
            self.insert(head.hash, head.token, None, head.first_seconds.map(Duration::from_secs));
        }
        Ok(())
    }

    /// Whose token this is, if the API server said so within [`ONLINE_VALIDITY`] and it has not ended since.
    /// `None` means: send a TokenReview.
    pub fn fresh(&mut self, now: Now, hash: TokenHash) -> Option<&Principal> {
        let accepted = self.tokens.get(&hash)?;
        let age = now.monotonic.saturating_sub(accepted.verified?);
        if age > ONLINE_VALIDITY || ended(now.unix, accepted.token.expires_seconds) {
            return None;
        }
        self.touch(hash);
        self.tokens.get(&hash).map(|accepted| &accepted.token.principal)
    }

    /// How long ago the API server accepted this token; never too little. Of a time before a restart only the first
    /// acceptance is known.
    pub fn age(&self, now: Now, hash: TokenHash) -> Option<Duration> {
        let accepted = self.tokens.get(&hash)?;
        let since_start = accepted.verified.map(|verified| now.monotonic.saturating_sub(verified));
        since_start.or_else(|| accepted.first.map(|first| now.unix.saturating_sub(first)))
    }

    /// What the API server last said of this token, however long ago: for [`decide_offline`].
    pub fn held(&mut self, hash: TokenHash) -> Option<&AcceptedToken> {
        self.touch(hash);
        self.tokens.get(&hash).map(|accepted| &accepted.token)
    }

    fn insert(
        &mut self,
        hash: TokenHash,
        token: AcceptedToken,
        verified: Option<Duration>,
        first: Option<Duration>,
    ) {
        self.uses += 1;
        let accepted = Accepted { token, verified, first, used: self.uses };
        if let Some(previous) = self.tokens.insert(hash, accepted) {
            self.by_use.remove(&previous.used);
        }
        self.by_use.insert(self.uses, hash);
    }

    fn touch(&mut self, hash: TokenHash) {
        if let Some(accepted) = self.tokens.get_mut(&hash) {
            self.uses += 1;
            self.by_use.remove(&accepted.used);
            accepted.used = self.uses;
            self.by_use.insert(self.uses, hash);
        }
    }
}

fn ended(unix: Duration, expires_seconds: Option<u64>) -> bool {
    expires_seconds.is_some_and(|end| Duration::from_secs(end).saturating_add(LEEWAY) < unix)
}

/// Whether this is a bootstrap token (`bootstrap.kubernetes.io/token`: six letters or digits, a dot, sixteen more), by
/// which a kubelet asks for its first certificate. Only the API server holds the Secret that it is judged by.
pub fn is_bootstrap_token(token: &str) -> bool {
    let is_part = |part: &str, length| {
        part.len() == length && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    token.split_once('.').is_some_and(|(id, secret)| is_part(id, 6) && is_part(secret, 16))
}

/// What the shell found when it verified the signature.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum SignatureVerdict {
    /// A key of the issuer's cached key set made it.
    Valid,
    /// No fitting key made it.
    Invalid,
    /// No key set was ever fetched, so nothing can be said.
    NoKeys,
}

/// A bearer token as it was presented while cut.
#[derive(Copy, Clone, Debug)]
pub struct PresentedToken<'a> {
    /// Its claims, if it is a JWT, and what its signature is worth.
    pub jwt: Option<(&'a Claims, SignatureVerdict)>,
    /// What [`AcceptedTokens::held`] knows of it.
    pub accepted: Option<&'a AcceptedToken>,
}

/// Whether an object is on this node, as far as this node knows.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is, with the same uid.
    Here,
    /// The list is complete and lacks it, or it has another uid.
    Gone,
    /// Nothing can be said: the list is not known complete.
    Unknown,
}

/// What lives on this node: its complete PodList and its own Node.
pub trait BoundObjects {
    /// Whether this pod is in this node's complete PodList.
    fn pod(&self, namespace: &str, name: &str, uid: &str) -> Presence;
    /// Whether this is this node's own Node object.
    fn node(&self, name: &str, uid: &str) -> Presence;
}

/// What the operator allows while the cloud is cut.
#[derive(Clone, Debug, Default)]
pub struct OfflinePolicy {
    /// What happens to a token that ended during the cut.
    pub expired_token: ExpiredToken,
    /// When the API server was last reachable, since 1970: what ended before that has ended, whatever this node's clock
    /// says now. Zero where that is not known.
    pub reachable_until: Duration,
    /// The issuer of the cached key set; a token must name it.
    pub issuer: Box<str>,
    /// The API server's audiences; a token must have one of them.
    pub audiences: BTreeSet<Box<str>>,
    /// Users (`offline.admit`) that are admitted by signature, issuer and audience alone.
    pub admit: BTreeSet<Box<str>>,
}

/// Why a token is not believed while cut. Holds nothing of the token.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No JWT, and the API server never accepted it before the cut.
    #[error("the token is no JWT and was not accepted before the cloud was cut off")]
    Opaque,
    /// The signature does not hold.
    #[error("the token's signature does not hold")]
    Signature,
    /// The issuer's keys were never fetched.
    #[error("the token cannot be verified: no issuer keys are held")]
    NoKeys,
    /// Another issuer.
    #[error("the token has another issuer")]
    Issuer,
    /// None of the API server's audiences.
    #[error("the token has another audience")]
    Audience,
    /// It ended, or has not begun, and the policy is [`ExpiredToken::Deny`].
    #[error("the token is expired or not yet valid")]
    Expired,
    /// The pod or node that it is bound to is gone.
    #[error("what the token is bound to no longer exists")]
    BoundObjectGone,
    /// It is bound to a pod, and this node's PodList is not known complete.
    #[error("the token cannot be verified: this node's pods are not known")]
    BoundObjectUnknown,
    /// It is bound to nothing on this node, and its user is not in `offline.admit`.
    #[error("the token is not bound to this node or to a pod of it")]
    NotBound,
}

impl Refusal {
    /// The answer: 401, or 503 where the hub lacks what it needs to judge.
    pub fn status(self) -> Status {
        match self {
            Self::NoKeys | Self::BoundObjectUnknown => Status::service_unavailable(self.to_string()),
            _ => Status::unauthorized(),
        }
    }
}

/// Decides who presents a token while the cloud is cut.
///
/// 1. A token that ended before the cut is refused on every path below: the API server could have renewed it, and would
///    refuse it. One that ended since, or that has not begun, follows `policy.expired_token`: nobody could renew it, and a
///    node that boots without a cloud may also boot with a wrong clock. One that ended is never enough for
///    `policy.admit`, because nothing on this node shows that its user is still the operator.
/// 2. The API server accepted this very token before: its principal, unless the token is bound to a pod of this node
///    that is gone from the complete PodList (the API server would no longer accept it).
/// 3. Otherwise signature, issuer and audience must hold, and the token must be a consistent service account's and
///    bound to a pod in the complete PodList or, if to no pod, to this Node; or its user is in `policy.admit`.
///
/// # Errors
/// [`Refusal`] with the first reason found.
pub fn decide_offline(
    now: Now,
    presented: &PresentedToken<'_>,
    bound: &dyn BoundObjects,
    policy: &OfflinePolicy,
) -> Result<Principal, Refusal> {
    if let Some(accepted) = presented.accepted {
        check_lifetime(now, accepted.expires_seconds, None, policy)?;
        // The API server vouched for the token, so its claims are true even if the keys have rotated since.
        let claims = presented.jwt.and_then(|(claims, _)| claims.kubernetes.as_ref());
        if claims.is_some_and(|claims| pod_of_this_node_is_gone(claims, bound)) {
            return Err(Refusal::BoundObjectGone);
        }
        return Ok(accepted.principal.clone());
    }
    let (claims, signature) = presented.jwt.ok_or(Refusal::Opaque)?;
    match signature {
        SignatureVerdict::Valid => {}
        SignatureVerdict::Invalid => return Err(Refusal::Signature),
        SignatureVerdict::NoKeys => return Err(Refusal::NoKeys),
    }
    if policy.issuer.is_empty() || claims.iss != policy.issuer {
        return Err(Refusal::Issuer);
    }
    if !claims.aud.iter().any(|audience| policy.audiences.contains(audience)) {
        return Err(Refusal::Audience);
    }
    check_lifetime(now, claims.exp, claims.nbf, policy)?;
    let kubernetes = claims.kubernetes.as_ref().ok_or(Refusal::NotBound)?;
    let principal = Principal::service_account(&kubernetes.namespace, &kubernetes.serviceaccount.name);
    if principal.user != claims.sub || principal.service_account_name().is_none() {
        return Err(Refusal::Signature);
    }
    match check_binding(kubernetes, bound) {
        Err(refusal) if ended(now.unix, claims.exp) => Err(refusal),
        Err(refusal) if refusal == Refusal::BoundObjectGone || !policy.admit.contains(&principal.user) => {
            Err(refusal)
        }
        _ => Ok(principal),
    }
}

fn check_lifetime(
    now: Now,
    expires: Option<u64>,
    begins: Option<u64>,
    policy: &OfflinePolicy,
) -> Result<(), Refusal> {
    if ended(policy.reachable_until, expires) {
        return Err(Refusal::Expired);
    }
    let early = begins.is_some_and(|begin| now.unix.saturating_add(LEEWAY) < Duration::from_secs(begin));
    if (early || ended(now.unix, expires)) && policy.expired_token == ExpiredToken::Deny {
        return Err(Refusal::Expired);
    }
    Ok(())
}

fn check_binding(claims: &KubernetesClaims, bound: &dyn BoundObjects) -> Result<(), Refusal> {
    if pod_of_this_node_is_gone(claims, bound) {
        return Err(Refusal::BoundObjectGone);
    }
    match (&claims.pod, &claims.node) {
        (Some(pod), _) => match bound.pod(&claims.namespace, &pod.name, &pod.uid) {
            Presence::Here => Ok(()),
            // It may live on another node, whose pods are not known here.
            Presence::Gone => Err(Refusal::NotBound),
            Presence::Unknown => Err(Refusal::BoundObjectUnknown),
        },
        (None, Some(node)) => match bound.node(&node.name, &node.uid) {
            Presence::Here => Ok(()),
            Presence::Gone => Err(Refusal::NotBound),
            Presence::Unknown => Err(Refusal::BoundObjectUnknown),
        },
        (None, None) => Err(Refusal::NotBound),
    }
}

/// Whether a token is bound to a pod of this node that is gone from its complete PodList. Only one that names this node
/// beside its pod tells that the pod must be in that list.
pub fn pod_of_this_node_is_gone(claims: &KubernetesClaims, bound: &dyn BoundObjects) -> bool {
    let here = |node: &ObjectReference| bound.node(&node.name, &node.uid) == Presence::Here;
    match (&claims.pod, &claims.node) {
        (Some(pod), Some(node)) if here(node) => {
            bound.pod(&claims.namespace, &pod.name, &pod.uid) == Presence::Gone
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: u64 = 1_795_521_600;

    #[test]
    fn a_bootstrap_token_is_known_by_its_form() {
        assert!(is_bootstrap_token("abcdef.0123456789abcdef"));
        for other in [
            "",
            "abcdef",
            "abcdef.0123456789abcde",
            "ABCDEF.0123456789abcdef",
            "a.b.c",
            "abcdef.0123456789abcdef.",
        ] {
            assert!(!is_bootstrap_token(other), "{other}");
        }
    }

    fn at(monotonic: u64, unix: u64) -> Now {
        Now { monotonic: Duration::from_secs(monotonic), unix: Duration::from_secs(unix) }
    }

    /// Node `a` with uid `n-1`, running pod media/engine-0 with uid `p-1`.
    struct ThisNode {
        pods_complete: bool,
    }

    impl BoundObjects for ThisNode {
        fn pod(&self, namespace: &str, name: &str, uid: &str) -> Presence {
            match (self.pods_complete, (namespace, name, uid)) {
                (false, _) => Presence::Unknown,
                (true, ("media", "engine-0", "p-1")) => Presence::Here,
                (true, _) => Presence::Gone,
            }
        }

        fn node(&self, name: &str, uid: &str) -> Presence {
            if (name, uid) == ("a", "n-1") { Presence::Here } else { Presence::Gone }
        }
    }

    const COMPLETE: ThisNode = ThisNode { pods_complete: true };

    fn reference(name: &str, uid: &str) -> ObjectReference {
        ObjectReference { name: name.into(), uid: uid.into() }
    }

    fn claims(pod: Option<(&str, &str)>, node: Option<(&str, &str)>) -> Claims {
        Claims {
            iss: "issuer".into(),
            sub: "system:serviceaccount:media:engine".into(),
            aud: vec!["api".into()],
            exp: Some(NOON + 3600),
            nbf: Some(NOON - 3600),
            iat: Some(NOON - 3600),
            kubernetes: Some(KubernetesClaims {
                namespace: "media".into(),
                serviceaccount: reference("engine", "s-1"),
                pod: pod.map(|(name, uid)| reference(name, uid)),
                node: node.map(|(name, uid)| reference(name, uid)),
                secret: None,
                warnafter: None,
            }),
        }
    }

    fn policy() -> OfflinePolicy {
        OfflinePolicy {
            issuer: "issuer".into(),
            audiences: ["api".into(), "other".into()].into(),
            ..OfflinePolicy::default()
        }
    }

    fn decide(claims: &Claims, policy: &OfflinePolicy) -> Result<Principal, Refusal> {
        let presented = PresentedToken { jwt: Some((claims, SignatureVerdict::Valid)), accepted: None };
        decide_offline(at(0, NOON), &presented, &COMPLETE, policy)
    }

    fn engine() -> Principal {
        Principal::service_account("media", "engine")
    }

    const POD: Option<(&str, &str)> = Some(("engine-0", "p-1"));
    const NODE: Option<(&str, &str)> = Some(("a", "n-1"));

    #[test]
    fn a_token_of_a_living_pod_or_of_this_node_is_believed() {
        assert_eq!(decide(&claims(POD, NODE), &policy()), Ok(engine()));
        assert_eq!(decide(&claims(POD, None), &policy()), Ok(engine()));
        assert_eq!(decide(&claims(None, NODE), &policy()), Ok(engine()));
    }

    #[test]
    fn a_token_bound_elsewhere_or_to_nothing_is_not() {
        for (pod, node, refusal) in [
            (Some(("engine-0", "p-0")), NODE, Refusal::BoundObjectGone),
            (Some(("engine-9", "p-9")), Some(("b", "n-2")), Refusal::NotBound),
            (Some(("engine-9", "p-9")), None, Refusal::NotBound),
            (None, Some(("b", "n-2")), Refusal::NotBound),
            (None, Some(("a", "n-0")), Refusal::NotBound),
            (None, None, Refusal::NotBound),
        ] {
            assert_eq!(decide(&claims(pod, node), &policy()), Err(refusal), "{pod:?} {node:?}");
        }
    }

    #[test]
    fn an_admitted_user_needs_no_binding_but_all_the_rest() {
        let mut admitting = policy();
        admitting.admit.insert(engine().user);
        assert_eq!(decide(&claims(None, None), &admitting), Ok(engine()));
        assert_eq!(decide(&claims(Some(("x", "y")), Some(("b", "n-2"))), &admitting), Ok(engine()));
        let gone = claims(Some(("engine-0", "p-0")), NODE);
        assert_eq!(decide(&gone, &admitting), Err(Refusal::BoundObjectGone));
        let foreign = Claims { iss: "else".into(), ..claims(None, None) };
        assert_eq!(decide(&foreign, &admitting), Err(Refusal::Issuer));
    }

    #[test]
    fn issuer_audience_and_subject_must_hold() {
        let good = claims(POD, NODE);
        let cases = [
            (Claims { iss: "else".into(), ..good.clone() }, Refusal::Issuer),
            (Claims { aud: vec!["vault".into()], ..good.clone() }, Refusal::Audience),
            (Claims { aud: Vec::new(), ..good.clone() }, Refusal::Audience),
            (Claims { sub: "system:serviceaccount:media:root".into(), ..good.clone() }, Refusal::Signature),
            (Claims { sub: "system:admin".into(), ..good.clone() }, Refusal::Signature),
            (Claims { kubernetes: None, ..good }, Refusal::NotBound),
        ];
        for (claims, refusal) in cases {
            assert_eq!(decide(&claims, &policy()), Err(refusal));
        }
        let unset = OfflinePolicy { issuer: "".into(), ..policy() };
        assert_eq!(decide(&Claims { iss: "".into(), ..claims(POD, NODE) }, &unset), Err(Refusal::Issuer));
    }

    #[test]
    fn an_unverified_signature_is_worth_nothing() {
        let claims = claims(POD, NODE);
        for (verdict, refusal, code) in [
            (SignatureVerdict::Invalid, Refusal::Signature, 401),
            (SignatureVerdict::NoKeys, Refusal::NoKeys, 503),
        ] {
            let presented = PresentedToken { jwt: Some((&claims, verdict)), accepted: None };
            let decision = decide_offline(at(0, NOON), &presented, &COMPLETE, &policy());
            assert_eq!(decision, Err(refusal));
            assert_eq!(refusal.status().code, code);
        }
        let opaque = PresentedToken { jwt: None, accepted: None };
        assert_eq!(decide_offline(at(0, NOON), &opaque, &COMPLETE, &policy()), Err(Refusal::Opaque));
    }

    #[test]
    fn without_a_complete_pod_list_a_pods_token_cannot_be_judged() {
        let claims = claims(POD, NODE);
        let presented = PresentedToken { jwt: Some((&claims, SignatureVerdict::Valid)), accepted: None };
        let incomplete = ThisNode { pods_complete: false };
        let decision = decide_offline(at(0, NOON), &presented, &incomplete, &policy());
        assert_eq!(decision, Err(Refusal::BoundObjectUnknown));
    }

    #[test]
    fn an_ended_or_early_token_follows_the_policy() {
        let deny = OfflinePolicy { expired_token: ExpiredToken::Deny, ..policy() };
        let good = claims(POD, NODE);
        for claims in
            [Claims { exp: Some(NOON - 61), ..good.clone() }, Claims { nbf: Some(NOON + 61), ..good.clone() }]
        {
            assert_eq!(decide(&claims, &policy()), Ok(engine()));
            assert_eq!(decide(&claims, &deny), Err(Refusal::Expired));
        }
        assert_eq!(decide(&Claims { exp: Some(NOON - 60), ..good }, &deny), Ok(engine()), "clocks differ");
    }

    #[test]
    fn a_token_that_ended_before_the_cut_has_ended_by_whatever_clock() {
        let good = claims(POD, NODE);
        let cut_at = |unix| OfflinePolicy { reachable_until: Duration::from_secs(unix), ..policy() };
        let decide = |exp, now, cut: u64| {
            let claims = Claims { exp: Some(exp), nbf: None, ..good.clone() };
            let presented = PresentedToken { jwt: Some((&claims, SignatureVerdict::Valid)), accepted: None };
            let signed = decide_offline(at(0, now), &presented, &COMPLETE, &cut_at(cut));
            let accepted = AcceptedToken { expires_seconds: Some(exp), ..accepted("jo") };
            let opaque = PresentedToken { jwt: None, accepted: Some(&accepted) };
            let known = decide_offline(at(0, now), &opaque, &COMPLETE, &cut_at(cut));
            assert_eq!(signed.is_ok(), known.is_ok());
            signed.map(|_| ())
        };
        assert_eq!(decide(NOON - 3600, NOON + 60, NOON), Err(Refusal::Expired), "an hour before the cut");
        assert_eq!(decide(NOON + 3600, NOON + 7200, NOON), Ok(()), "during the cut");
        // Booted while cut by a clock that stands at 1973: what the hub knows of the time is when it was last online.
        assert_eq!(decide(NOON - 3600, 100_000_000, NOON), Err(Refusal::Expired));
        assert_eq!(decide(NOON + 3600, 100_000_000, NOON), Ok(()));
        assert_eq!(decide(NOON - 30, NOON + 60, NOON), Ok(()), "clocks differ");
    }

    #[test]
    fn an_ended_token_admits_nobody() {
        let mut admitting = OfflinePolicy { reachable_until: Duration::from_secs(NOON - 7200), ..policy() };
        admitting.admit.insert(engine().user);
        let ended = Claims { exp: Some(NOON - 3600), ..claims(None, None) };
        assert_eq!(decide(&ended, &admitting), Err(Refusal::NotBound));
        let of_a_pod_here = Claims { exp: Some(NOON - 3600), ..claims(POD, NODE) };
        assert_eq!(
            decide(&of_a_pod_here, &admitting),
            Ok(engine()),
            "it ended during the cut, its pod is here"
        );
        assert_eq!(decide(&claims(None, None), &admitting), Ok(engine()));
    }

    #[test]
    fn what_the_api_server_accepted_is_believed_until_its_pod_is_gone() {
        let principal = Principal::new("jo", ["system:authenticated", "admins"]);
        let accepted = AcceptedToken {
            principal: principal.clone(),
            expires_seconds: Some(NOON - 3600),
            ..accepted("jo")
        };
        let opaque = PresentedToken { jwt: None, accepted: Some(&accepted) };
        assert_eq!(decide_offline(at(0, NOON), &opaque, &COMPLETE, &policy()), Ok(principal.clone()));
        let deny = OfflinePolicy { expired_token: ExpiredToken::Deny, ..policy() };
        assert_eq!(decide_offline(at(0, NOON), &opaque, &COMPLETE, &deny), Err(Refusal::Expired));
        let elsewhere = claims(Some(("x", "y")), Some(("b", "n-2")));
        let gone = claims(Some(("engine-0", "p-0")), NODE);
        for (claims, expected) in [(elsewhere, Ok(principal)), (gone, Err(Refusal::BoundObjectGone))] {
            let jwt = Some((&claims, SignatureVerdict::NoKeys));
            let presented = PresentedToken { jwt, accepted: Some(&accepted) };
            assert_eq!(decide_offline(at(0, NOON), &presented, &COMPLETE, &policy()), expected);
        }
    }

    fn accepted(user: &str) -> AcceptedToken {
        let principal = Principal::new(user, ["g"]);
        AcceptedToken { principal, details: Default::default(), expires_seconds: Some(NOON + 60) }
    }

    #[test]
    fn online_a_word_holds_two_minutes_and_not_beyond_the_tokens_end() {
        let mut tokens = AcceptedTokens::new(4);
        let hash = TokenHash([1; 32]);
        assert_eq!(tokens.accept(at(10, NOON), hash, accepted("jo")).len(), 1);
        assert!(tokens.fresh(at(130, NOON), hash).is_some());
        assert!(tokens.fresh(at(131, NOON), hash).is_none(), "the API server is asked again");
        assert!(tokens.fresh(at(11, NOON + 121), hash).is_none(), "the token has ended");
        assert!(tokens.accept(at(140, NOON), hash, accepted("jo")).is_empty(), "nothing new to write");
        assert!(tokens.fresh(at(150, NOON), hash).is_some());
        assert_eq!(tokens.refuse(hash).len(), 1);
        assert!(tokens.held(hash).is_none() && tokens.refuse(hash).is_empty());
    }

    #[test]
    fn a_restored_token_counts_offline_only() {
        let mut tokens = AcceptedTokens::new(4);
        let hash = TokenHash([1; 32]);
        let changes = tokens.accept(at(10, NOON), hash, accepted("jo"));
        let [RecordChange::Put { value, .. }] = changes.as_slice() else { panic!("one record: {changes:?}") };
        let mut restored = AcceptedTokens::new(4);
        restored.restore(value).expect("own record");
        assert_eq!(restored.held(hash), Some(&accepted("jo")));
        assert!(restored.fresh(at(10, NOON), hash).is_none());
        assert_eq!(restored.restore(b"{}\n"), Err(DamagedRecord));
    }

    #[test]
    fn the_least_recently_used_token_makes_room() {
        let mut tokens = AcceptedTokens::new(2);
        let [one, two, three] = [1, 2, 3].map(|byte| TokenHash([byte; 32]));
        tokens.accept(at(0, NOON), one, accepted("1"));
        tokens.accept(at(0, NOON), two, accepted("2"));
        assert!(tokens.fresh(at(1, NOON), one).is_some());
        let changes = tokens.accept(at(2, NOON), three, accepted("3"));
        assert!(changes.contains(&RecordChange::Remove { key: two.0.to_vec() }));
        assert!(tokens.held(one).is_some() && tokens.held(two).is_none() && tokens.len() == 2);
    }
}
