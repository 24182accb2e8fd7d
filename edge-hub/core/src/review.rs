//! The hub's two questions to the API server: whose token is this, and may this principal do that.
//!
//! Bodies are `authentication.k8s.io/v1` TokenReview and `authorization.k8s.io/v1` SubjectAccessReview in JSON. The
//! answers are believed only where they say yes in so many words.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::access::AccessKey;
use crate::identity::{Details, Principal};

/// Longest answer that is read, in bytes: a user may be in thousands of groups.
pub const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// The path that a TokenReview is posted to.
pub const TOKEN_REVIEW_PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
/// The path that a SubjectAccessReview is posted to.
pub const SUBJECT_ACCESS_REVIEW_PATH: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

const AUTHENTICATED: &str = "system:authenticated";
const UNAUTHENTICATED: &str = "system:unauthenticated";

/// The answer could not be understood, so nothing may be concluded from it.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// Longer than [`MAX_ANSWER_BYTES`].
    #[error("the review's answer is too large")]
    TooLarge,
    /// Not a review of the expected kind, or one without a usable status.
    #[error("the review's answer is malformed")]
    Malformed,
}

/// What a TokenReview said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenVerdict {
    /// The token is this principal's, of whom the API server also knows this.
    Accepted(Principal, Details),
    /// The token is nobody's.
    Refused,
}

/// What the API server said of a token, as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedToken {
    /// Whose it is.
    pub principal: Principal,
    /// What else is known of that user.
    #[serde(default)]
    pub details: Details,
    /// Unix seconds at which it ends, as its claims say; `None` for one without an end or that is no JWT.
    pub expires_seconds: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Question<Spec> {
    api_version: &'static str,
    kind: &'static str,
    metadata: Empty,
    spec: Spec,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Deserialize)]
struct Answer<Status> {
    kind: Box<str>,
    status: Option<Status>,
}

/// The body of a TokenReview of `token` for `audiences` (empty: the API server's own).
pub fn token_review(token: &str, audiences: &[Box<str>]) -> Vec<u8> {
    #[derive(Serialize)]
    struct Spec<'a> {
        token: &'a str,
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        audiences: &'a [Box<str>],
    }
    encode("authentication.k8s.io/v1", "TokenReview", Spec { token, audiences })
}

/// Reads the answer to a TokenReview.
///
/// An authenticator adds `system:authenticated` to every user but the anonymous; so it is added here if missing.
///
/// # Errors
/// [`ReviewError`]; the token is then neither accepted nor refused.
pub fn token_verdict(answer: &[u8]) -> Result<TokenVerdict, ReviewError> {
    #[derive(Deserialize)]
    struct User {
        #[serde(default)]
        username: Box<str>,
        #[serde(default)]
        groups: Option<Vec<Box<str>>>,
        #[serde(default)]
        uid: Box<str>,
        #[serde(default)]
        extra: Option<BTreeMap<Box<str>, Vec<Box<str>>>>,
    }
    #[derive(Deserialize)]
    struct Status {
        #[serde(default)]
        authenticated: bool,
        #[serde(default)]
        user: Option<User>,
    }
    let status: Status = decode("TokenReview", answer)?;
    let user = status.user.filter(|user| !user.username.is_empty());
    match (status.authenticated, user) {
        (true, Some(user)) => {
            let mut groups = user.groups.unwrap_or_default();
            if !groups.iter().any(|group| matches!(&**group, AUTHENTICATED | UNAUTHENTICATED)) {
                groups.push(AUTHENTICATED.into());
            }
            let details = Details { uid: user.uid, extra: user.extra.unwrap_or_default() };
            Ok(TokenVerdict::Accepted(Principal::new(user.username, groups), details))
        }
        (true, None) => Err(ReviewError::Malformed),
        // `status.error` is not read: it is set for an expired token and for a failed authenticator alike.
        (false, _) => Ok(TokenVerdict::Refused),
    }
}

/// The body of a SubjectAccessReview: may `principal` do `key`?
pub fn subject_access_review(principal: &Principal, key: &AccessKey) -> Vec<u8> {
    let (details, key) = match key {
        AccessKey::Of { details, key } => (Some(details), &**key),
        key => (None, key),
    };
    let non_resource_attributes = match key {
        AccessKey::NonResource { verb, path } => Some(NonResourceAttributes { path, verb }),
        _ => None,
    };
    let resource_attributes = ResourceAttributes::of(key);
    let spec = AccessSpec {
        resource_attributes,
        non_resource_attributes,
        user: &principal.user,
        groups: &principal.groups,
        details,
    };
    encode("authorization.k8s.io/v1", "SubjectAccessReview", spec)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AccessSpec<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_attributes: Option<ResourceAttributes<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    non_resource_attributes: Option<NonResourceAttributes<'a>>,
    user: &'a str,
    groups: &'a [Box<str>],
    #[serde(flatten)]
    details: Option<&'a Details>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Selector<'a> {
    raw_selector: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceAttributes<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    verb: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    group: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'a str,
    resource: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    subresource: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field_selector: Option<Selector<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label_selector: Option<Selector<'a>>,
}

impl<'a> ResourceAttributes<'a> {
    fn of(key: &'a AccessKey) -> Option<Self> {
        let AccessKey::Resource {
            verb,
            group,
            version,
            resource,
            subresource,
            namespace,
            name,
            labels,
            fields,
        } = key
        else {
            return None;
        };
        // A server that does not know selectors drops them and judges the wider question: never too lenient.
        let selector = |text: &'a str| (!text.is_empty()).then_some(Selector { raw_selector: text });
        Some(Self {
            namespace,
            verb,
            group,
            version,
            resource,
            subresource,
            name,
            field_selector: selector(fields),
            label_selector: selector(labels),
        })
    }
}

#[derive(Serialize)]
struct NonResourceAttributes<'a> {
    path: &'a str,
    verb: &'a str,
}

/// Reads the answer to a SubjectAccessReview: `true` for allowed.
///
/// # Errors
/// [`ReviewError`]; access is then neither allowed nor denied. An evaluation error without a decision is such a case.
pub fn access_verdict(answer: &[u8]) -> Result<bool, ReviewError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Status {
        allowed: bool,
        #[serde(default)]
        denied: bool,
        #[serde(default)]
        evaluation_error: Option<Box<str>>,
    }
    let status: Status = decode("SubjectAccessReview", answer)?;
    let failed = status.evaluation_error.is_some_and(|error| !error.is_empty());
    match (status.allowed, status.denied) {
        (true, false) => Ok(true),
        (false, false) if failed => Err(ReviewError::Malformed),
        _ => Ok(false),
    }
}

fn encode<Spec: Serialize>(api_version: &'static str, kind: &'static str, spec: Spec) -> Vec<u8> {
    let question = Question { api_version, kind, metadata: Empty {}, spec };
    serde_json::to_vec(&question).expect("plain structs of texts")
}

fn decode<Status: serde::de::DeserializeOwned>(kind: &str, answer: &[u8]) -> Result<Status, ReviewError> {
    if answer.len() > MAX_ANSWER_BYTES {
        return Err(ReviewError::TooLarge);
    }
    let answer: Answer<Status> = serde_json::from_slice(answer).map_err(|_| ReviewError::Malformed)?;
    if &*answer.kind != kind {
        return Err(ReviewError::Malformed);
    }
    answer.status.ok_or(ReviewError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto_kube::request_info::RequestInfo;
    use serde_json::{Value, json};

    fn read(body: &[u8]) -> Value {
        serde_json::from_slice(body).expect("JSON")
    }

    #[test]
    fn a_token_review_asks_for_the_token() {
        assert_eq!(
            read(&token_review("t", &[])),
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {"token": "t"}})
        );
        assert_eq!(read(&token_review("t", &["api".into()]))["spec"]["audiences"], json!(["api"]));
    }

    #[test]
    fn an_access_review_names_every_part_of_the_key() {
        let request = RequestInfo::parse("GET", "/apis/apps/v1/namespaces/media/deployments/d/scale", None);
        let key = AccessKey::of(&request.expect("valid"), "app=x", "metadata.name=d");
        let body = read(&subject_access_review(&Principal::new("jo", ["g"]), &key));
        assert_eq!(
            body["spec"],
            json!({"user": "jo", "groups": ["g"], "resourceAttributes": {
                "namespace": "media", "verb": "get", "group": "apps", "version": "v1",
                "resource": "deployments", "subresource": "scale", "name": "d",
                "fieldSelector": {"rawSelector": "metadata.name=d"}, "labelSelector": {"rawSelector": "app=x"}}})
        );
        let request = RequestInfo::parse("GET", "/version", None).expect("valid");
        let body =
            read(&subject_access_review(&Principal::new("jo", ["g"]), &AccessKey::of(&request, "", "")));
        assert_eq!(body["spec"]["nonResourceAttributes"], json!({"path": "/version", "verb": "get"}));
    }

    #[test]
    fn only_a_clear_yes_accepts_a_token() {
        let accepted = br#"{"kind":"TokenReview","status":{"authenticated":true,"user":{"username":"jo","uid":"1","groups":["g"],"extra":{"a":["b"]}},"audiences":["api"]}}"#;
        let principal = Principal::new("jo", ["g", "system:authenticated"]);
        let details = Details { uid: "1".into(), extra: [("a".into(), vec!["b".into()])].into() };
        assert_eq!(token_verdict(accepted), Ok(TokenVerdict::Accepted(principal, details)));
        for refused in [
            r#"{"kind":"TokenReview","status":{"user":{}}}"#,
            r#"{"kind":"TokenReview","status":{"authenticated":false,"error":"expired"}}"#,
        ] {
            assert_eq!(token_verdict(refused.as_bytes()), Ok(TokenVerdict::Refused));
        }
        for malformed in [
            r#"{"kind":"TokenReview","status":{"authenticated":true,"user":{}}}"#,
            r#"{"kind":"TokenReview"}"#,
            r#"{"kind":"Status","status":"Failure","code":403}"#,
            "",
        ] {
            assert_eq!(token_verdict(malformed.as_bytes()), Err(ReviewError::Malformed), "{malformed}");
        }
    }

    #[test]
    fn only_a_clear_yes_allows_access() {
        let verdict = |status: &str| {
            access_verdict(format!(r#"{{"kind":"SubjectAccessReview","status":{status}}}"#).as_bytes())
        };
        assert_eq!(verdict(r#"{"allowed":true,"reason":"RBAC"}"#), Ok(true));
        assert_eq!(verdict(r#"{"allowed":true,"evaluationError":"role not found"}"#), Ok(true));
        assert_eq!(verdict(r#"{"allowed":false}"#), Ok(false));
        assert_eq!(verdict(r#"{"allowed":true,"denied":true}"#), Ok(false));
        assert_eq!(verdict(r#"{"allowed":false,"denied":true,"evaluationError":"x"}"#), Ok(false));
        assert_eq!(
            verdict(r#"{"allowed":false,"evaluationError":"webhook timed out"}"#),
            Err(ReviewError::Malformed)
        );
        assert_eq!(verdict("{}"), Err(ReviewError::Malformed));
        assert_eq!(access_verdict(&vec![b' '; MAX_ANSWER_BYTES + 1]), Err(ReviewError::TooLarge));
    }

    proptest! {
        #[test]
        fn no_answer_breaks_the_parsers(bytes in proptest::collection::vec(any::<u8>(), 0..80), text in r#"[{}\[\]:,"a-z ]{0,80}"#) {
            let _ = (token_verdict(&bytes), access_verdict(&bytes));
            let _ = (token_verdict(text.as_bytes()), access_verdict(text.as_bytes()));
        }
    }
}
