//! The reviews that the node's own kubelet asks for when somebody calls it: whose token is this, and may they do that.
//!
//! Online the API server answers and its word is remembered; while cut the same question gets the remembered word. A
//! kubelet speaks protobuf, so questions and answers are read and written in both encodings. Its questions are taken
//! apart into what the hub's own memories know: a token, or a principal and one exact access.

use std::collections::BTreeMap;

use proto_kube::media_type::Encoding;
use proto_kube::wire;
use serde::Deserialize;

use crate::access::AccessKey;
use crate::body::{BodyError, Document, Path};
use crate::identity::{Details, Principal};
use crate::review::{MAX_ANSWER_BYTES, ReviewError, TokenVerdict, access_verdict, token_verdict};

/// Longest question, in bytes; the longest part is a token.
pub const MAX_QUESTION_BYTES: usize = 256 * 1024;

const STATUS: Path = Path { json: &["status"], wire: &[3] };
/// `spec` and `status` in protobuf, at the same place in both kinds.
const SPEC_FIELD: u32 = 2;
const STATUS_FIELD: u32 = 3;

/// Which of the two reviews a path is for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum ReviewKind {
    /// `tokenreviews`.
    Token,
    /// `subjectaccessreviews`.
    Access,
}

impl ReviewKind {
    /// The kind that is posted to this resource, if any.
    pub fn of(group: &str, version: &str, resource: &str) -> Option<Self> {
        match (group, version, resource) {
            ("authentication.k8s.io", "v1", "tokenreviews") => Some(Self::Token),
            ("authorization.k8s.io", "v1", "subjectaccessreviews") => Some(Self::Access),
            _ => None,
        }
    }

    fn type_meta(self) -> (&'static str, &'static str) {
        match self {
            Self::Token => ("authentication.k8s.io/v1", "TokenReview"),
            Self::Access => ("authorization.k8s.io/v1", "SubjectAccessReview"),
        }
    }
}

/// What is asked, where a memory may answer.
#[derive(Clone, PartialEq, Eq)]
pub enum Question {
    /// Whose token is this, for the API server's own audiences?
    Token(Box<str>),
    /// May this principal do that?
    Access(Principal, AccessKey),
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    token: Box<str>,
    audiences: Option<Vec<Box<str>>>,
    user: Box<str>,
    groups: Option<Vec<Box<str>>>,
    uid: Box<str>,
    extra: Option<BTreeMap<Box<str>, Vec<Box<str>>>>,
    resource_attributes: Option<ResourceAttributes>,
    non_resource_attributes: Option<NonResourceAttributes>,
    #[serde(flatten)]
    unknown: Unknown,
}

/// Fields that this program does not know. The answer may depend on them, so such a question is not remembered.
type Unknown = BTreeMap<Box<str>, serde::de::IgnoredAny>;

fn note_unknown(unknown: &mut Unknown, field: u32) {
    unknown.insert(field.to_string().into(), serde::de::IgnoredAny);
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ResourceAttributes {
    namespace: Box<str>,
    verb: Box<str>,
    group: Box<str>,
    version: Box<str>,
    resource: Box<str>,
    subresource: Box<str>,
    name: Box<str>,
    field_selector: Option<Selector>,
    label_selector: Option<Selector>,
    #[serde(flatten)]
    unknown: Unknown,
}

/// Only whether one is there: a selector may be spelled in many ways, so such questions are not remembered.
#[derive(Deserialize)]
struct Selector {}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NonResourceAttributes {
    path: Box<str>,
    verb: Box<str>,
    #[serde(flatten)]
    unknown: Unknown,
}

impl Question {
    /// Reads the body of a review; `None` for one that only the API server can answer: a token for other audiences, an
    /// access with selectors.
    ///
    /// # Errors
    /// [`BodyError`] if the body is no such review of at most [`MAX_QUESTION_BYTES`].
    pub fn parse(kind: ReviewKind, encoding: Encoding, body: &[u8]) -> Result<Option<Self>, BodyError> {
        let (api_version, type_name) = kind.type_meta();
        let document = Document::parse(encoding, body, MAX_QUESTION_BYTES, api_version, type_name)?;
        let spec = match (encoding, kind) {
            (Encoding::Json, _) => json_spec(document.content())?,
            (Encoding::Protobuf, ReviewKind::Token) => wire_token_spec(document.content())?,
            (Encoding::Protobuf, ReviewKind::Access) => wire_access_spec(document.content())?,
        };
        Ok(match kind {
            ReviewKind::Token => spec.into_token(),
            ReviewKind::Access => spec.into_access(),
        })
    }
}

impl Spec {
    fn into_token(self) -> Option<Question> {
        let own_audiences = self.audiences.is_none_or(|audiences| audiences.is_empty());
        (own_audiences && self.unknown.is_empty() && !self.token.is_empty())
            .then_some(Question::Token(self.token))
    }

    fn into_access(self) -> Option<Question> {
        let key = match (self.resource_attributes, self.non_resource_attributes) {
            (Some(resource), None) => resource.into_key()?,
            (None, Some(path)) if path.unknown.is_empty() => {
                AccessKey::NonResource { verb: path.verb, path: path.path }
            }
            // The API server refuses neither and both.
            _ => return None,
        };
        let details = Details { uid: self.uid, extra: self.extra.unwrap_or_default() };
        let key = match details.is_empty() {
            true => key,
            false if details.is_short() => AccessKey::Of { details, key: Box::new(key) },
            false => return None,
        };
        (self.unknown.is_empty() && !self.user.is_empty())
            .then(|| Question::Access(Principal::new(self.user, self.groups.unwrap_or_default()), key))
    }
}

impl ResourceAttributes {
    fn into_key(self) -> Option<AccessKey> {
        if self.field_selector.is_some() || self.label_selector.is_some() || !self.unknown.is_empty() {
            return None;
        }
        Some(AccessKey::Resource {
            verb: self.verb,
            group: self.group,
            version: self.version,
            resource: self.resource,
            subresource: self.subresource,
            namespace: self.namespace,
            name: self.name,
            labels: Box::default(),
            fields: Box::default(),
        })
    }
}

fn json_spec(text: &[u8]) -> Result<Spec, BodyError> {
    #[derive(Deserialize)]
    struct Review {
        spec: Option<Spec>,
    }
    let review: Review = serde_json::from_slice(text).map_err(|_| BodyError::Malformed)?;
    Ok(review.spec.unwrap_or_default())
}

fn wire_token_spec(message: &[u8]) -> Result<Spec, BodyError> {
    let mut spec = Spec::default();
    let Some(field) = wire::last(message, SPEC_FIELD)? else { return Ok(spec) };
    for field in wire::fields(field.bytes()?) {
        let field = field?;
        match field.number {
            1 => spec.token = field.string()?.into(),
            2 => spec.audiences.get_or_insert_default().push(field.string()?.into()),
            other => note_unknown(&mut spec.unknown, other),
        }
    }
    Ok(spec)
}

fn wire_access_spec(message: &[u8]) -> Result<Spec, BodyError> {
    let mut spec = Spec::default();
    let Some(field) = wire::last(message, SPEC_FIELD)? else { return Ok(spec) };
    for field in wire::fields(field.bytes()?) {
        let field = field?;
        match field.number {
            1 => spec.resource_attributes = Some(wire_resource(field.bytes()?)?),
            2 => spec.non_resource_attributes = Some(wire_path(field.bytes()?)?),
            3 => spec.user = field.string()?.into(),
            4 => spec.groups.get_or_insert_default().push(field.string()?.into()),
            5 => wire_extra(field.bytes()?, spec.extra.get_or_insert_default())?,
            6 => spec.uid = field.string()?.into(),
            other => note_unknown(&mut spec.unknown, other),
        }
    }
    Ok(spec)
}

fn wire_resource(message: &[u8]) -> Result<ResourceAttributes, BodyError> {
    let mut attributes = ResourceAttributes::default();
    for field in wire::fields(message) {
        let field = field?;
        let text = match field.number {
            1 => &mut attributes.namespace,
            2 => &mut attributes.verb,
            3 => &mut attributes.group,
            4 => &mut attributes.version,
            5 => &mut attributes.resource,
            6 => &mut attributes.subresource,
            7 => &mut attributes.name,
            8 => {
                attributes.field_selector = Some(Selector {});
                continue;
            }
            9 => {
                attributes.label_selector = Some(Selector {});
                continue;
            }
            other => {
                note_unknown(&mut attributes.unknown, other);
                continue;
            }
        };
        *text = field.string()?.into();
    }
    Ok(attributes)
}

fn wire_path(message: &[u8]) -> Result<NonResourceAttributes, BodyError> {
    let mut attributes = NonResourceAttributes::default();
    for field in wire::fields(message) {
        let field = field?;
        match field.number {
            1 => attributes.path = field.string()?.into(),
            2 => attributes.verb = field.string()?.into(),
            other => note_unknown(&mut attributes.unknown, other),
        }
    }
    Ok(attributes)
}

/// One entry of a map of lists: name 1, values 2 { items 1 }.
fn wire_extra(entry: &[u8], extra: &mut BTreeMap<Box<str>, Vec<Box<str>>>) -> Result<(), BodyError> {
    let (mut name, mut values) = (Box::<str>::default(), Vec::new());
    for field in wire::fields(entry) {
        let field = field?;
        match field.number {
            1 => name = field.string()?.into(),
            2 => {
                for item in wire::fields(field.bytes()?) {
                    values.push(item?.string()?.into());
                }
            }
            _ => {}
        }
    }
    extra.insert(name, values);
    Ok(())
}

fn put_extra(out: &mut Vec<u8>, number: u32, extra: &BTreeMap<Box<str>, Vec<Box<str>>>) {
    for (name, values) in extra {
        let (mut items, mut entry) = (Vec::new(), Vec::new());
        values.iter().for_each(|value| wire::put_bytes(&mut items, 1, value.as_bytes()));
        wire::put_bytes(&mut entry, 1, name.as_bytes());
        wire::put_bytes(&mut entry, 2, &items);
        wire::put_bytes(out, number, &entry);
    }
}

/// Reads the API server's answer to a TokenReview in either encoding.
///
/// # Errors
/// [`ReviewError`]; the token is then neither accepted nor refused.
pub fn token_answer(encoding: Encoding, body: &[u8]) -> Result<TokenVerdict, ReviewError> {
    token_verdict(&as_json(ReviewKind::Token, encoding, body)?)
}

/// Reads the API server's answer to a SubjectAccessReview in either encoding: `true` for allowed.
///
/// # Errors
/// [`ReviewError`]; access is then neither allowed nor denied.
pub fn access_answer(encoding: Encoding, body: &[u8]) -> Result<bool, ReviewError> {
    access_verdict(&as_json(ReviewKind::Access, encoding, body)?)
}

/// The answer as the JSON that the hub's own reviews come in; of protobuf, the parts that decide.
fn as_json(kind: ReviewKind, encoding: Encoding, body: &[u8]) -> Result<Vec<u8>, ReviewError> {
    if encoding == Encoding::Json {
        return Ok(body.to_vec());
    }
    let (api_version, type_name) = kind.type_meta();
    let read = || -> Result<serde_json::Value, BodyError> {
        let document = Document::parse(encoding, body, MAX_ANSWER_BYTES, api_version, type_name)?;
        let status = wire::last(document.content(), STATUS_FIELD)?.ok_or(BodyError::Malformed)?.bytes()?;
        match kind {
            ReviewKind::Token => wire_token_status(status),
            ReviewKind::Access => wire_access_status(status),
        }
    };
    let status = read().map_err(|_| ReviewError::Malformed)?;
    Ok(serde_json::json!({ "kind": type_name, "status": status }).to_string().into_bytes())
}

fn wire_token_status(message: &[u8]) -> Result<serde_json::Value, BodyError> {
    let (mut authenticated, mut user, mut groups) = (false, Box::<str>::default(), Vec::<Box<str>>::new());
    let mut details = Details::default();
    for field in wire::fields(message) {
        let field = field?;
        match (field.number, field.value) {
            (1, wire::Value::Varint(value)) => authenticated = value != 0,
            (2, _) => {
                for field in wire::fields(field.bytes()?) {
                    let field = field?;
                    match field.number {
                        1 => user = field.string()?.into(),
                        2 => details.uid = field.string()?.into(),
                        4 => wire_extra(field.bytes()?, &mut details.extra)?,
                        3 => groups.push(field.string()?.into()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let user = json_user(&user, &groups, &details);
    Ok(serde_json::json!({ "authenticated": authenticated, "user": user }))
}

fn json_user(user: &str, groups: &[Box<str>], details: &Details) -> serde_json::Value {
    let Details { uid, extra } = details;
    let mut found = serde_json::json!({ "username": user, "groups": groups });
    if !uid.is_empty() {
        found["uid"] = (&**uid).into();
    }
    if !extra.is_empty() {
        found["extra"] = serde_json::json!(extra);
    }
    found
}

fn wire_access_status(message: &[u8]) -> Result<serde_json::Value, BodyError> {
    let mut status = serde_json::json!({ "allowed": false, "denied": false });
    for field in wire::fields(message) {
        let field = field?;
        match (field.number, field.value) {
            (1, wire::Value::Varint(value)) => status["allowed"] = (value != 0).into(),
            (3, _) => status["evaluationError"] = field.string()?.into(),
            (4, wire::Value::Varint(value)) => status["denied"] = (value != 0).into(),
            _ => {}
        }
    }
    Ok(status)
}

/// The question with a remembered verdict on its token as `status`. `why` tells a refusal.
///
/// # Errors
/// [`BodyError`] if `question` is no TokenReview.
pub fn remembered_token(
    encoding: Encoding,
    question: &[u8],
    verdict: &TokenVerdict,
    why: &str,
) -> Result<Vec<u8>, BodyError> {
    let (json, message) = match verdict {
        TokenVerdict::Accepted(principal, details) => {
            let user = json_user(&principal.user, &principal.groups, details);
            let json = serde_json::json!({ "authenticated": true, "user": user });
            let mut user = Vec::new();
            wire::put_bytes(&mut user, 1, principal.user.as_bytes());
            wire::put_bytes(&mut user, 2, details.uid.as_bytes());
            principal.groups.iter().for_each(|group| wire::put_bytes(&mut user, 3, group.as_bytes()));
            put_extra(&mut user, 4, &details.extra);
            let mut message = Vec::new();
            wire::put_varint_field(&mut message, 1, 1);
            wire::put_bytes(&mut message, 2, &user);
            (json, message)
        }
        TokenVerdict::Refused => {
            let mut message = Vec::new();
            wire::put_bytes(&mut message, 3, why.as_bytes());
            (serde_json::json!({ "authenticated": false, "user": {}, "error": why }), message)
        }
    };
    with_status(ReviewKind::Token, encoding, question, &json, &message)
}

/// The question with a remembered decision as `status`; `reason` says where it is from and how old it is.
///
/// # Errors
/// [`BodyError`] if `question` is no SubjectAccessReview.
pub fn remembered_access(
    encoding: Encoding,
    question: &[u8],
    allowed: bool,
    reason: &str,
) -> Result<Vec<u8>, BodyError> {
    let mut message = Vec::new();
    wire::put_varint_field(&mut message, 1, u64::from(allowed));
    wire::put_bytes(&mut message, 2, reason.as_bytes());
    let json = serde_json::json!({ "allowed": allowed, "reason": reason });
    with_status(ReviewKind::Access, encoding, question, &json, &message)
}

fn with_status(
    kind: ReviewKind,
    encoding: Encoding,
    question: &[u8],
    json: &serde_json::Value,
    message: &[u8],
) -> Result<Vec<u8>, BodyError> {
    let (api_version, type_name) = kind.type_meta();
    let document = Document::parse(encoding, question, MAX_QUESTION_BYTES, api_version, type_name)?;
    document.with_value(STATUS, json.to_string().as_bytes(), message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::tests::envelope;
    use proptest::prelude::*;
    use proto_kube::request_info::RequestInfo;
    use serde_json::{Value, json};

    fn message(fields: &[(u32, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        fields.iter().for_each(|(number, value)| wire::put_bytes(&mut out, *number, value));
        out
    }

    fn token_question(spec: &[(u32, &[u8])]) -> Vec<u8> {
        envelope("authentication.k8s.io/v1", "TokenReview", &message(&[(2, &message(spec))]))
    }

    fn access_question(attributes: &[(u32, &[u8])]) -> Vec<u8> {
        let spec = message(&[(1, &message(attributes)), (3, b"jo"), (4, b"b"), (4, b"a")]);
        envelope("authorization.k8s.io/v1", "SubjectAccessReview", &message(&[(2, &spec)]))
    }

    fn jo() -> Principal {
        Principal::new("jo", ["a", "b"])
    }

    fn proxy() -> AccessKey {
        let request = RequestInfo::parse("GET", "/api/v1/nodes/n/proxy", None).expect("valid");
        AccessKey::of(&request, "", "")
    }

    #[test]
    fn both_encodings_ask_the_same() {
        let json = json!({ "spec": { "token": "t" } }).to_string();
        for (encoding, body) in
            [(Encoding::Json, json.into_bytes()), (Encoding::Protobuf, token_question(&[(1, b"t")]))]
        {
            let question = Question::parse(ReviewKind::Token, encoding, &body).expect("a review");
            assert!(question == Some(Question::Token("t".into())));
        }
        let json = json!({ "spec": { "user": "jo", "groups": ["b", "a"], "resourceAttributes": {
            "verb": "get", "version": "v1", "resource": "nodes", "subresource": "proxy", "name": "n" } } });
        let wire: [(u32, &[u8]); 5] = [(2, b"get"), (4, b"v1"), (5, b"nodes"), (6, b"proxy"), (7, b"n")];
        for (encoding, body) in
            [(Encoding::Json, json.to_string().into_bytes()), (Encoding::Protobuf, access_question(&wire))]
        {
            let question = Question::parse(ReviewKind::Access, encoding, &body).expect("a review");
            assert!(question == Some(Question::Access(jo(), proxy())));
        }
    }

    fn of_a_pod() -> Details {
        let pod = ("authentication.kubernetes.io/pod-name".into(), vec!["p".into(), "q".into()]);
        Details { uid: "7".into(), extra: [pod].into() }
    }

    #[test]
    fn a_user_of_other_details_is_another_question() {
        let json = json!({ "spec": { "user": "jo", "groups": ["b", "a"], "uid": "7",
            "extra": { "authentication.kubernetes.io/pod-name": ["p", "q"] },
            "resourceAttributes": { "verb": "get", "version": "v1", "resource": "nodes",
                "subresource": "proxy", "name": "n" } } });
        let wire: [(u32, &[u8]); 5] = [(2, b"get"), (4, b"v1"), (5, b"nodes"), (6, b"proxy"), (7, b"n")];
        let mut spec = message(&[(1, &message(&wire)), (3, b"jo"), (4, b"b"), (4, b"a"), (6, b"7")]);
        put_extra(&mut spec, 5, &of_a_pod().extra);
        let spec = message(&[(2, &spec)]);
        let protobuf = envelope("authorization.k8s.io/v1", "SubjectAccessReview", &spec);
        let key = AccessKey::Of { details: of_a_pod(), key: Box::new(proxy()) };
        let review: Value =
            serde_json::from_slice(&crate::review::subject_access_review(&jo(), &key)).expect("JSON");
        for part in ["uid", "extra", "resourceAttributes"] {
            assert_eq!(review["spec"][part], json["spec"][part], "the hub itself would ask the same");
        }
        for (encoding, body) in
            [(Encoding::Json, json.to_string().into_bytes()), (Encoding::Protobuf, protobuf)]
        {
            let question = Question::parse(ReviewKind::Access, encoding, &body).expect("a review");
            assert!(question == Some(Question::Access(jo(), key.clone())));
        }
        let kept = serde_json::to_string(&key).expect("JSON");
        assert_eq!(serde_json::from_str::<AccessKey>(&kept).expect("as written"), key);
    }

    #[test]
    fn what_a_memory_cannot_answer_is_no_question_for_it() {
        let parse = |kind, body: Value| {
            Question::parse(kind, Encoding::Json, body.to_string().as_bytes()).expect("a review").is_some()
        };
        assert!(!parse(ReviewKind::Token, json!({ "spec": { "token": "t", "audiences": ["x"] } })));
        assert!(!parse(ReviewKind::Token, json!({ "spec": {} })));
        let selected = json!({ "spec": { "user": "jo", "resourceAttributes": {
            "verb": "list", "resource": "pods", "labelSelector": { "rawSelector": "a=b" } } } });
        assert!(!parse(ReviewKind::Access, selected));
        assert!(!parse(ReviewKind::Access, json!({ "spec": { "user": "jo" } })));
        let path =
            json!({ "spec": { "user": "jo", "nonResourceAttributes": { "verb": "get", "path": "/x" } } });
        assert!(parse(ReviewKind::Access, path));
        let labelled = access_question(&[(5, b"pods"), (9, b"")]);
        assert!(matches!(Question::parse(ReviewKind::Access, Encoding::Protobuf, &labelled), Ok(None)));
        for (outer, inner) in
            [("resourceAttributes", "later"), ("nonResourceAttributes", "later"), ("", "later")]
        {
            let mut future = json!({ "spec": { "user": "jo" } });
            let attributes = if outer.is_empty() { "nonResourceAttributes" } else { outer };
            future["spec"][attributes] = json!({ "verb": "get" });
            assert!(parse(ReviewKind::Access, future.clone()), "{outer}");
            let place = if outer.is_empty() { &mut future["spec"] } else { &mut future["spec"][outer] };
            place[inner] = json!("x");
            assert!(!parse(ReviewKind::Access, future), "{outer}");
        }
        let later = access_question(&[(5, b"pods"), (10, b"x")]);
        assert!(matches!(Question::parse(ReviewKind::Access, Encoding::Protobuf, &later), Ok(None)));
        let endless = json!({ "spec": { "user": "jo", "uid": "x".repeat(10_000),
            "nonResourceAttributes": { "verb": "get", "path": "/x" } } });
        assert!(!parse(ReviewKind::Access, endless));
        let other_kind = access_question(&[]);
        assert!(Question::parse(ReviewKind::Token, Encoding::Protobuf, &other_kind).is_err());
    }

    #[test]
    fn an_answer_made_here_says_what_the_api_server_said() {
        let accepted =
            TokenVerdict::Accepted(Principal::new("jo", ["a", "system:authenticated"]), of_a_pod());
        for (encoding, question) in [
            (Encoding::Json, b"{\"spec\":{\"token\":\"t\"}}".to_vec()),
            (Encoding::Protobuf, token_question(&[(1, b"t")])),
        ] {
            for verdict in [&accepted, &TokenVerdict::Refused] {
                let answer = remembered_token(encoding, &question, verdict, "gone").expect("a review");
                let answer = with_kind(encoding, &answer, "TokenReview");
                assert_eq!(token_answer(encoding, &answer).as_ref(), Ok(verdict));
            }
        }
        for (encoding, question) in [
            (Encoding::Json, b"{\"spec\":{}}".to_vec()),
            (Encoding::Protobuf, access_question(&[(5, b"pods")])),
        ] {
            for allowed in [true, false] {
                let answer = remembered_access(encoding, &question, allowed, "5 s ago").expect("a review");
                let answer = with_kind(encoding, &answer, "SubjectAccessReview");
                assert_eq!(access_answer(encoding, &answer), Ok(allowed));
                assert!(answer.windows(7).any(|part| part == b"5 s ago"));
            }
        }
    }

    /// A typed client leaves the kind out of JSON only where it may; an answer of the API server has it.
    fn with_kind(encoding: Encoding, answer: &[u8], kind: &str) -> Vec<u8> {
        if encoding == Encoding::Protobuf {
            return answer.to_vec();
        }
        let mut answer: Value = serde_json::from_slice(answer).expect("JSON");
        answer["kind"] = kind.into();
        answer.to_string().into_bytes()
    }

    #[test]
    fn a_protobuf_answer_is_believed_only_where_it_says_yes() {
        let answer = |status: &[u8]| {
            let body = envelope("authorization.k8s.io/v1", "SubjectAccessReview", &message(&[(3, status)]));
            access_answer(Encoding::Protobuf, &body)
        };
        let flag = |number| {
            let mut out = Vec::new();
            wire::put_varint_field(&mut out, number, 1);
            out
        };
        assert_eq!(answer(&flag(1)), Ok(true));
        assert_eq!(answer(&[flag(1), flag(4)].concat()), Ok(false));
        assert_eq!(answer(&[]), Ok(false));
        assert_eq!(answer(&message(&[(3, b"webhook timed out")])), Err(ReviewError::Malformed));
        assert_eq!(access_answer(Encoding::Protobuf, b"k8s\0"), Err(ReviewError::Malformed));
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_readers(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let framed = envelope("authorization.k8s.io/v1", "SubjectAccessReview", &bytes);
            for body in [&bytes, &framed] {
                for encoding in [Encoding::Json, Encoding::Protobuf] {
                    for kind in [ReviewKind::Token, ReviewKind::Access] {
                        let _ = Question::parse(kind, encoding, body);
                    }
                    let _ = (token_answer(encoding, body), access_answer(encoding, body));
                }
            }
        }
    }
}
