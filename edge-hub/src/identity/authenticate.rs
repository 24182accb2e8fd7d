//! Who a client is: this node's certificate, or a bearer token that the API server accepts.
//!
//! TLS ends here, so a foreign client certificate cannot travel on and gets 401 with a hint. Online a token is asked
//! about with the node's own credential and the word is kept for two minutes; while cut the core decides by signature,
//! binding and memory.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use edge_hub_core::{
    authentication::{
        AcceptedTokens, BoundObjects, OfflinePolicy, Presence, PresentedToken, SignatureVerdict, TokenHash,
        decide_offline, is_bootstrap_token, pod_of_this_node_is_gone,
    },
    claims,
    collection::Lookup,
    identity::{Details, Principal},
    link::LinkState,
    record::RecordChange,
    review::{AcceptedToken, TOKEN_REVIEW_PATH, TokenVerdict, token_review, token_verdict},
    token::ExpiredToken,
};
use http::{HeaderMap, Request, StatusCode, header};
use proto::jwt::{KeySet, MAX_TOKEN_BYTES};
use proto_kube::{object::ObjectKey, status::Status};
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateDer;
use serde::Deserialize;

use super::websocket;
use crate::{
    certificates::expiry::Validity,
    collections::Collections,
    identity::{
        peer::Peer,
        reviews::{self, MAX_REVIEW_BYTES, REVIEW_TIMEOUT, Unanswered},
        signature,
        token_reviews::TokenReviews,
    },
    site::Site,
    store::BlobClass,
    sync::lock,
    upstream::{Credential, empty, read_all},
};

/// Accepted tokens that are remembered.
const ACCEPTED_TOKENS: usize = 4096;
/// When a kubelet that wants to join asks again. After ten times it says why in its log, and begins anew.
const JOINING_RETRY_SECONDS: u32 = 2;
/// How often the issuer's keys are read again.
const KEYS_EVERY: Duration = Duration::from_mins(30);
/// Pause after a failed read of the keys.
const KEYS_RETRY: Duration = Duration::from_secs(30);
/// Names of the issuer's documents in the store.
const JWKS: &str = "jwks";
const CONFIGURATION: &str = "openid-configuration";
const JWKS_PATH: &str = "/openid/v1/jwks";
const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";

#[derive(Default)]
struct IssuerKeys {
    keys: Option<KeySet>,
    issuer: Box<str>,
    /// The documents as they came, under their names in the store.
    documents: BTreeMap<&'static str, Bytes>,
}

/// The memories behind authentication.
pub struct Authenticator {
    site: Arc<Site>,
    collections: Arc<Collections>,
    verifier: Arc<dyn ClientCertVerifier>,
    reviews: TokenReviews,
    accepted: Mutex<AcceptedTokens>,
    issuer: Mutex<IssuerKeys>,
}

impl Authenticator {
    /// Remembers nobody yet. `verifier` knows whose client certificates count.
    #[must_use]
    pub fn new(
        site: &Arc<Site>,
        collections: &Arc<Collections>,
        verifier: Arc<dyn ClientCertVerifier>,
    ) -> Self {
        Self {
            site: Arc::clone(site),
            collections: Arc::clone(collections),
            verifier,
            reviews: TokenReviews::default(),
            accepted: Mutex::new(AcceptedTokens::new(ACCEPTED_TOKENS)),
            issuer: Mutex::default(),
        }
    }
}

#[derive(Deserialize)]
struct OpenIdConfiguration {
    issuer: Box<str>,
}

impl Authenticator {
    /// Takes over what the store kept. Returns whether it could be read.
    pub fn restore(&self, key: &[u8], value: &Bytes) -> bool {
        match key {
            b"jwks" => self.take_document(JWKS, value),
            b"openid-configuration" => self.take_document(CONFIGURATION, value),
            _ => lock(&self.accepted).restore(value).is_ok(),
        }
    }

    /// Takes one of the issuer's documents. Returns whether it could be read; what was held before stays if not.
    fn take_document(&self, name: &'static str, document: &Bytes) -> bool {
        let mut issuer = lock(&self.issuer);
        if name == JWKS {
            let Ok(keys) = KeySet::parse(document) else { return false };
            issuer.keys = Some(keys);
        } else {
            let Ok(parsed) = serde_json::from_slice::<OpenIdConfiguration>(document) else { return false };
            issuer.issuer = parsed.issuer;
        }
        issuer.documents.insert(name, document.clone());
        true
    }

    /// Everything that is kept, for a store that begins anew.
    pub fn records(&self) -> Vec<RecordChange> {
        let mut records = lock(&self.accepted).records();
        records.extend(lock(&self.issuer).documents.iter().map(|(name, document)| RecordChange::Put {
            key: name.as_bytes().to_vec(),
            value: document.to_vec(),
        }));
        records
    }
}

fn bearer(headers: &HeaderMap) -> Option<Result<&str, Status>> {
    let value = headers.get(header::AUTHORIZATION)?;
    let token = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    Some(match token {
        Some(token) if !token.is_empty() && token.len() <= MAX_TOKEN_BYTES => Ok(token),
        _ => Err(unauthorized("the Authorization header holds no bearer token")),
    })
}

fn unauthorized(hint: &str) -> Status {
    let mut status = Status::unauthorized();
    status.message = format!("{} ({hint})", status.message);
    status
}

/// What a kubelet gets that has no certificate yet. It does nothing but wait, unlike one that runs, so that it may be
/// told how long to.
fn joining_must_wait() -> Status {
    let text =
        "the API server is cut off: only it can judge a bootstrap token; this node can join when it is back";
    Status::service_unavailable(text).with_retry_after(JOINING_RETRY_SECONDS)
}

impl Authenticator {
    /// Who stands behind a connection.
    #[must_use]
    pub fn peer(&self, certificates: Option<&[CertificateDer<'_>]>) -> Peer {
        Peer::of(certificates, &self.site.node, &*self.verifier, self.site.clock.now())
    }

    /// Who asks, and as whom the request may leave the hub. A token that a browser had to send as a subprotocol of its
    /// WebSocket is taken out of there.
    ///
    /// # Errors
    /// 401, or 503 where nobody can tell while cut.
    pub async fn authenticate(
        &self,
        peer: &Peer,
        headers: &mut HeaderMap,
    ) -> Result<(Principal, Credential), Status> {
        websocket::take_token(headers)?;
        if let Some(token) = bearer(headers) {
            let token = token?;
            let principal = self.token_principal(token, headers).await?;
            return Ok((principal, Credential::Bearer(token.into())));
        }
        match peer {
            Peer::Node(validity) => self.node_in_time(*validity),
            Peer::Anonymous => Err(unauthorized(
                "this node's hub wants the node's client certificate or a service account token",
            )),
            Peer::Invalid(why) => Err(unauthorized(&format!("the client certificate does not hold: {why}"))),
            Peer::Foreign(name) => Err(unauthorized(&format!(
                "the client certificate of {name:?} cannot be passed on to the API server; use a bearer token"
            ))),
        }
    }

    /// This node by its certificate, where that holds now. A long cut outlives certificates, and a node may boot with a
    /// wrong clock.
    fn node_in_time(&self, validity: Validity) -> Result<(Principal, Credential), Status> {
        let now = self.site.clock.now().unix;
        let serves_expired = self.site.config.file.offline.expired_token == ExpiredToken::Serve;
        if validity.holds(now) || serves_expired && validity.is_excused(*self.site.link.borrow(), now) {
            return Ok((self.site.node.clone(), Credential::Node));
        }
        let why = if now < validity.from_unix { "is not in force yet" } else { "has expired" };
        Err(unauthorized(&format!("this node's client certificate does not hold: it {why}")))
    }

    async fn token_principal(&self, token: &str, headers: &HeaderMap) -> Result<Principal, Status> {
        let hash = hash_of(token);
        let now = self.site.clock.now();
        let fresh = lock(&self.accepted).fresh(now, hash).cloned();
        let is_of_gone_pod = fresh.is_some() && self.is_of_gone_pod(token);
        if let Some(principal) = fresh.filter(|_| !is_of_gone_pod) {
            return Ok(principal);
        }
        if self.site.is_connected() {
            let (reviews, is_plausible) = (&self.reviews, self.is_plausible(token, hash));
            if reviews.is_refused(now, hash) {
                return Err(Status::unauthorized());
            }
            let _place = reviews.enter(is_plausible, headers)?;
            let same_token = reviews.of(hash);
            let _alone = same_token.lock().await;
            // The same token may have been asked about while this request waited.
            let fresh = lock(&self.accepted).fresh(self.site.clock.now(), hash).cloned();
            if let Some(principal) = fresh.filter(|_| !is_of_gone_pod) {
                return Ok(principal);
            }
            if reviews.is_refused(self.site.clock.now(), hash) {
                return Err(Status::unauthorized());
            }
            let _turn = reviews.turn(is_plausible).await;
            match self.review_token(token).await {
                Ok(TokenVerdict::Accepted(principal, details)) => {
                    self.accept_token(token, hash, &principal, &details);
                    return Ok(principal);
                }
                Ok(TokenVerdict::Refused) => {
                    let changes = lock(&self.accepted).refuse(hash);
                    self.site.save_records(BlobClass::Key, changes);
                    // One that the issuer signed may be of a pod that the server has not seen yet.
                    if !is_plausible {
                        reviews.refuse(self.site.clock.now(), hash);
                    }
                    return Err(Status::unauthorized());
                }
                // The link died under the review, or the server cannot answer: judge as if cut.
                Err(Unanswered) => {}
            }
        }
        self.token_principal_offline(token, hash)
    }

    /// Whether something speaks for this token already: it was accepted before, or the issuer signed it.
    fn is_plausible(&self, token: &str, hash: TokenHash) -> bool {
        if lock(&self.accepted).held(hash).is_some() {
            return true;
        }
        let issuer = lock(&self.issuer);
        let keys = issuer.keys.as_ref();
        let now = self.site.clock.now().unix.as_secs();
        keys.zip(claims::parse(token).ok()).is_some_and(|(keys, jwt)| {
            // Anybody may have found one that has ended.
            jwt.claims.exp.is_none_or(|end| now <= end) && signature::holds(&jwt, keys)
        })
    }

    /// Whether this node saw the pod go that the token was made for: then an acceptance of a moment ago counts no more.
    fn is_of_gone_pod(&self, token: &str) -> bool {
        let jwt = claims::parse(token).ok();
        let bound = jwt.as_ref().and_then(|jwt| jwt.claims.kubernetes.as_ref());
        bound.is_some_and(|claims| pod_of_this_node_is_gone(claims, &OnThisNode(self)))
    }

    /// What the API server said of a token when this node's kubelet asked, as good as if the hub had asked.
    pub fn learn_token(&self, token: &str, verdict: &TokenVerdict) {
        let hash = hash_of(token);
        match verdict {
            TokenVerdict::Accepted(principal, details) => {
                self.accept_token(token, hash, principal, details);
            }
            TokenVerdict::Refused => {
                let changes = lock(&self.accepted).refuse(hash);
                self.site.save_records(BlobClass::Key, changes);
            }
        }
    }

    /// Whose token this is while cut, what else is known of that user, and how long ago the API server said so, if it
    /// ever did.
    ///
    /// # Errors
    /// 401 for a token that is nobody's, 503 where nobody can tell.
    pub fn remembered_token(&self, token: &str) -> Result<(Principal, Details, Option<Duration>), Status> {
        let hash = hash_of(token);
        let principal = self.token_principal_offline(token, hash)?;
        let mut accepted = lock(&self.accepted);
        let held = accepted.held(hash).filter(|held| held.principal == principal);
        let details = held.map(|held| held.details.clone()).unwrap_or_default();
        Ok((principal, details, accepted.age(self.site.clock.now(), hash)))
    }

    fn accept_token(&self, token: &str, hash: TokenHash, principal: &Principal, details: &Details) {
        let expires_seconds = claims::parse(token).ok().and_then(|jwt| jwt.claims.exp);
        let details = if details.is_short() { details.clone() } else { Details::default() };
        let accepted = AcceptedToken { principal: principal.clone(), details, expires_seconds };
        let changes = lock(&self.accepted).accept(self.site.clock.now(), hash, accepted);
        self.site.save_records(BlobClass::Key, changes);
    }

    fn token_principal_offline(&self, token: &str, hash: TokenHash) -> Result<Principal, Status> {
        if is_bootstrap_token(token) {
            return Err(joining_must_wait());
        }
        let jwt = claims::parse(token).ok();
        let accepted = lock(&self.accepted).held(hash).cloned();
        let (verdict, policy) = {
            let issuer = lock(&self.issuer);
            let verdict = jwt.as_ref().map(|jwt| match &issuer.keys {
                None => SignatureVerdict::NoKeys,
                Some(keys) if signature::holds(jwt, keys) => SignatureVerdict::Valid,
                Some(_) => SignatureVerdict::Invalid,
            });
            // That an ended token goes on working is for a cut only, not for a review that failed.
            let (expired_token, reachable_until) = match *self.site.link.borrow() {
                LinkState::Connected | LinkState::Relayed { .. } => (ExpiredToken::Deny, Duration::ZERO),
                LinkState::Cut { since_unix } => (self.site.config.file.offline.expired_token, since_unix),
            };
            let policy = OfflinePolicy {
                expired_token,
                reachable_until,
                issuer: issuer.issuer.clone(),
                audiences: [issuer.issuer.clone()].into(),
                admit: self.site.config.file.offline.admit.iter().map(|user| user.as_str().into()).collect(),
            };
            (verdict, policy)
        };
        let presented = PresentedToken {
            jwt: jwt.as_ref().zip(verdict).map(|(jwt, verdict)| (&jwt.claims, verdict)),
            accepted: accepted.as_ref(),
        };
        let now = self.site.clock.now();
        decide_offline(now, &presented, &OnThisNode(self), &policy).map_err(|refusal| {
            tracing::debug!(%refusal, "a token is not accepted while cut");
            let mut status = refusal.status();
            status.message = format!("{}: {refusal}", status.message);
            status
        })
    }

    async fn review_token(&self, token: &str) -> Result<TokenVerdict, Unanswered> {
        let answer = reviews::ask(&self.site, TOKEN_REVIEW_PATH, token_review(token, &[])).await?;
        token_verdict(&answer).map_err(|error| {
            tracing::warn!(%error, "TokenReview cannot be read");
            Unanswered
        })
    }

    /// Keeps the issuer's keys, so that tokens can be verified while cut.
    pub async fn keep_issuer_keys(self: Arc<Self>) {
        let mut link = self.site.link.subscribe();
        loop {
            while !link.borrow_and_update().is_connected() {
                tokio::select! {
                    () = self.site.shutdown.draining() => return,
                    changed = link.changed() => if changed.is_err() { return },
                }
            }
            let keys = self.read_issuer(JWKS_PATH, JWKS).await;
            let issuer = self.read_issuer(DISCOVERY_PATH, CONFIGURATION).await;
            let pause = if keys && issuer { KEYS_EVERY } else { KEYS_RETRY };
            tokio::select! {
                () = self.site.shutdown.draining() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn read_issuer(&self, path: &str, name: &'static str) -> bool {
        let Ok(request) = Request::get(path).header(header::USER_AGENT, crate::USER_AGENT).body(empty())
        else {
            return false;
        };
        let Ok(response) = self.site.send(&Credential::Node, request, REVIEW_TIMEOUT).await else {
            return false;
        };
        let status = response.status();
        if status != StatusCode::OK {
            tracing::warn!(path, %status, "the issuer's keys cannot be read: bind system:service-account-issuer-discovery \
                to the group system:nodes (deploy/rbac.yaml), or pods' tokens cannot be verified while cut");
            return false;
        }
        let Ok(body) = read_all(response.into_body(), MAX_REVIEW_BYTES, REVIEW_TIMEOUT).await else {
            return false;
        };
        if !self.take_document(name, &body) {
            tracing::warn!(path, "the issuer's document cannot be read");
            return false;
        }
        let blob = crate::store::BlobKey { class: BlobClass::Key, key: name.as_bytes().into() };
        self.site.store.put(blob, body);
        true
    }
}

fn hash_of(token: &str) -> TokenHash {
    let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.as_ref());
    TokenHash(hash)
}

/// What lives on this node, by the hub's own collections.
struct OnThisNode<'a>(&'a Authenticator);

impl OnThisNode<'_> {
    fn look(&self, spec: usize, key: &ObjectKey, uid: &str) -> Presence {
        let Some(cell) = self.0.site.own_specs().get(spec).and_then(|spec| self.0.collections.cell(spec))
        else {
            return Presence::Unknown;
        };
        cell.with(|inner| match inner.collection.get(key) {
            Lookup::Found(object) if *object.uid == *uid => Presence::Here,
            Lookup::Found(_) => Presence::Gone,
            // The list is of this node only, so the collection itself will not speak of other objects; here
            // the question is about this node.
            _ if inner.collection.is_complete() => Presence::Gone,
            _ => Presence::Unknown,
        })
    }
}

impl BoundObjects for OnThisNode<'_> {
    fn pod(&self, namespace: &str, name: &str, uid: &str) -> Presence {
        self.look(1, &ObjectKey { namespace: namespace.into(), name: name.into() }, uid)
    }

    fn node(&self, name: &str, uid: &str) -> Presence {
        self.look(0, &ObjectKey { namespace: Box::default(), name: name.into() }, uid)
    }
}
