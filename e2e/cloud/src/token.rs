//! ServiceAccount tokens: TokenRequest, the claims, and what makes a token valid.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::authorization::Principal;
use crate::request::ResourceTarget;
use crate::resource::Gvr;
use crate::status::{Cause, Status};
use crate::store::Store;

/// Seconds of a projected token; the server makes such a token for its own audience valid for a year.
const EXTENDABLE_SECONDS: u64 = 3607;
/// A year.
const EXTENDED_SECONDS: u64 = 365 * 24 * 3600;

/// Signs tokens; the key lives outside of the pure core.
pub trait TokenSigner: Send {
    /// ES256 signature (64 bytes, r and s) over the signing input of a JWT.
    fn sign(&self, message: &[u8]) -> Vec<u8>;
    /// The public key as a JWK with `kid`, `alg` and `use`.
    fn public_jwk(&self) -> Value;
}

/// The issuer and all tokens it gave out.
pub(crate) struct Tokens {
    pub(crate) issuer: String,
    pub(crate) signer: Box<dyn TokenSigner>,
    issued: BTreeMap<String, Value>,
    fixed: BTreeMap<String, Principal>,
}

impl Tokens {
    pub(crate) fn new(issuer: &str, signer: Box<dyn TokenSigner>) -> Self {
        Self { issuer: issuer.into(), signer, issued: BTreeMap::new(), fixed: BTreeMap::new() }
    }

    /// A token that is no JWT, for a principal of the test's choice.
    pub(crate) fn add_fixed(&mut self, token: &str, principal: Principal) {
        self.fixed.insert(token.into(), principal);
    }

    /// The principal of a valid token, and the audiences it was issued for; or what the server says about a token of
    /// its own that is no longer valid, which is nothing for any other.
    pub(crate) fn authenticate(
        &self,
        now: Duration,
        token: &str,
        store: &Store,
    ) -> Result<(Principal, Vec<String>), &'static str> {
        if let Some(principal) = self.fixed.get(token) {
            return Ok((principal.clone(), vec![self.issuer.clone()]));
        }
        // Whether the signature is right needs no arithmetic here: it is one of ours or it is not.
        let claims = self.issued.get(token).ok_or("")?;
        let audiences = claims["aud"].as_array().into_iter().flatten();
        let audiences = audiences.filter_map(|a| a.as_str().map(str::to_owned)).collect();
        let bound = &claims["kubernetes.io"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (namespace, account) = (text(&bound["namespace"]), text(&bound["serviceaccount"]["name"]));
        if now.as_secs() >= claims["exp"].as_u64().unwrap_or(0) {
            return Err("service account token has expired");
        }
        for (member, resource) in
            [("serviceaccount", "serviceaccounts"), ("pod", "pods"), ("secret", "secrets")]
        {
            if bound[member].is_object() && !is_alive(store, resource, &namespace, &bound[member]) {
                return Err("service account token has been invalidated");
            }
        }
        let mut principal = Principal::service_account(&namespace, &account);
        principal.uid = text(&bound["serviceaccount"]["uid"]);
        let id = format!("JTI={}", text(&claims["jti"]));
        principal.extra.push(("authentication.kubernetes.io/credential-id".into(), id));
        for member in ["pod", "node"] {
            for part in ["name", "uid"] {
                if let Some(value) = bound[member][part].as_str() {
                    principal
                        .extra
                        .push((format!("authentication.kubernetes.io/{member}-{part}"), value.into()));
                }
            }
        }
        Ok((principal, audiences))
    }

    /// Answer a TokenRequest: the document with its status.
    pub(crate) fn request(
        &mut self,
        now: Duration,
        target: &ResourceTarget,
        mut document: Value,
        store: &Store,
        jti: &str,
    ) -> Result<Value, Status> {
        let namespace = target.namespace.as_deref().unwrap_or_default();
        let account = target.name.as_deref().unwrap_or_default();
        let key = (namespace.to_owned(), account.to_owned());
        let account = store
            .get(&Gvr::core("serviceaccounts"), &key)
            .ok_or_else(|| Status::not_found(&target.gvr, account))?;
        let seconds = document["spec"]["expirationSeconds"].as_u64().unwrap_or(3600);
        let refuse = |why: &str| {
            let cause = Cause::invalid("spec.expirationSeconds", &seconds.to_string(), why);
            Err(Status::invalid("authentication.k8s.io", "TokenRequest", "", &[cause]))
        };
        if seconds < 600 {
            return refuse("may not specify a duration less than 10 minutes");
        }
        if seconds > u64::from(u32::MAX) + 1 {
            return refuse("may not specify a duration larger than 2^32 seconds");
        }
        if document["spec"]["audiences"].as_array().is_none_or(Vec::is_empty) {
            document["spec"]["audiences"] = json!([self.issuer]);
        }
        let audiences = document["spec"]["audiences"].clone();
        let uid = account["metadata"]["uid"].clone();
        let mut bound = json!({"namespace": namespace, "serviceaccount": identity(account)});
        let reference = document["spec"]["boundObjectRef"].clone();
        if reference.is_object() {
            bind(&mut bound, &reference, namespace, store)?;
        }
        let for_server = audiences == json!([self.issuer]);
        let extended = seconds == EXTENDABLE_SECONDS && for_server && bound["pod"].is_object();
        let valid = if extended { EXTENDED_SECONDS } else { seconds };
        if extended {
            bound["warnafter"] = (now.as_secs() + seconds).into();
        }
        let claims = json!({
            "aud": audiences, "exp": now.as_secs() + valid, "iat": now.as_secs(), "nbf": now.as_secs(),
            "iss": self.issuer, "jti": jti, "sub": format!("system:serviceaccount:{}:{}", key.0, key.1),
            "kubernetes.io": bound,
        });
        let token = self.sign(&claims);
        self.issued.insert(token.clone(), claims);
        document["spec"]["expirationSeconds"] = seconds.into();
        // A pointer that Go writes even when it points nowhere.
        document["spec"]["boundObjectRef"] = reference;
        let expiry = crate::time::timestamp(now + Duration::from_secs(seconds));
        document["status"] = json!({"token": token, "expirationTimestamp": expiry});
        document["kind"] = "TokenRequest".into();
        document["apiVersion"] = "authentication.k8s.io/v1".into();
        document["metadata"] = json!({"name": key.1, "namespace": key.0, "uid": uid, "creationTimestamp": crate::time::timestamp(now)});
        Ok(document)
    }

    fn sign(&self, claims: &Value) -> String {
        let jwk = self.signer.public_jwk();
        let header = json!({"alg": "ES256", "kid": jwk["kid"]});
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let input = format!("{}.{}", encode(&header), encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.signer.sign(input.as_bytes()));
        format!("{input}.{signature}")
    }
}

fn identity(object: &Value) -> Value {
    json!({"name": object["metadata"]["name"], "uid": object["metadata"]["uid"]})
}

/// Bind a token to the object that the request names; a pod brings its node along.
fn bind(bound: &mut Value, reference: &Value, namespace: &str, store: &Store) -> Result<(), Status> {
    let name = reference["name"].as_str().unwrap_or_default();
    let (member, gvr, scope) = match reference["kind"].as_str() {
        Some("Pod") => ("pod", Gvr::core("pods"), namespace),
        Some("Secret") => ("secret", Gvr::core("secrets"), namespace),
        Some("Node") => ("node", Gvr::core("nodes"), ""),
        _ => {
            let text = |member: &str| reference[member].as_str().unwrap_or_default().to_owned();
            let (group, version) = match text("apiVersion").split_once('/') {
                Some((group, version)) => (group.to_owned(), version.to_owned()),
                None => (String::new(), text("apiVersion")),
            };
            let kind = text("kind");
            let words = format!("cannot bind token to object of type {group}/{version}, Kind={kind}");
            return Err(Status::bad_request(words));
        }
    };
    let object =
        store.get(&gvr, &(scope.into(), name.into())).ok_or_else(|| Status::not_found(&gvr, name))?;
    let uid = reference["uid"].as_str().unwrap_or_default();
    if !uid.is_empty() && object["metadata"]["uid"] != uid {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
             been deleted and then recreated"
        );
        return Err(Status::precondition(reference["kind"].as_str().unwrap_or_default(), name, &why));
    }
    bound[member] = identity(object);
    if let Some(node) = object["spec"]["nodeName"].as_str().filter(|_| member == "pod") {
        let record = store.get(&Gvr::core("nodes"), &(String::new(), node.into()));
        bound["node"] = record.map_or_else(|| json!({"name": node}), |n| identity(n));
    }
    Ok(())
}

fn is_alive(store: &Store, resource: &str, namespace: &str, identity: &Value) -> bool {
    let key = (namespace.to_owned(), identity["name"].as_str().unwrap_or_default().to_owned());
    store.get(&Gvr::core(resource), &key).is_some_and(|o| o["metadata"]["uid"] == identity["uid"])
}
