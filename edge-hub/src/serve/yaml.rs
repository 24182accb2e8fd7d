//! YAML while cut off: the JSON that would be the answer, written anew. Else the cloud writes its own.

use http::{HeaderValue, Response, StatusCode, header};
use proto_kube::{
    media_type::{Acceptable, Format},
    request_info::Verb,
    status::Status,
};
use serde_json::Value;

use super::{answer, call::Call};
use crate::upstream::{Body, full, read_all};

/// Longest JSON that is written as YAML. It is for people: a program that reads much asks for JSON.
const MAX_JSON: usize = 4 * 1024 * 1024;

impl Call {
    /// While cut, a client that wants YAML most is answered from what JSON is made of; then this is true, and the
    /// answer has to go through [`rewrite`].
    ///
    /// # Errors
    /// 406 for a stream: there is no YAML of it.
    pub(super) fn ask_for_json_instead_of_yaml(&mut self, verb: Verb) -> Result<bool, Status> {
        let wishes = Acceptable::parse(self.header(header::ACCEPT), self.header(header::USER_AGENT));
        if self.hub.site.is_connected() || !wishes.is_ok_and(|wishes| wishes.prefers_yaml()) {
            return Ok(false);
        }
        if verb == Verb::Watch {
            let streamed = [Format::JSON, Format::PROTOBUF].map(|format| format.content_type(true));
            return Err(Status::not_acceptable(&streamed));
        }
        self.head.headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        Ok(true)
    }
}

/// An answer in JSON, written as YAML. Refusals stay as they are: every client reads a Status by its Content-Type.
pub(super) async fn rewrite(response: Response<Body>) -> Response<Body> {
    if response.status() != StatusCode::OK {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let Ok(body) = read_all(body, MAX_JSON, super::whole::BODY_PATIENCE).await else {
        let text = format!("more than {MAX_JSON} bytes are not written as YAML here: ask for JSON");
        return answer::refuse(&Status::internal(&text));
    };
    let Some(text) = to_yaml(&body) else {
        return answer::refuse(&Status::internal("a cached object cannot be written as YAML"));
    };
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/yaml"));
    head.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(head, full(text))
}

/// The YAML of a JSON text, names sorted as Kubernetes writes them; `None` for what is no JSON.
fn to_yaml(json: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(json).ok()?;
    serde_saphyr::to_string(&value).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn text_that_looks_like_something_else_stays_text() {
        let object = json!({ "kind": "ConfigMap", "data": {
            "bool": "yes", "null": "~", "number": "1e3", "octal": "0777", "time": "2026-01-02", "empty": "",
            "lines": "one\n two\n", "colon": "a: b", "merge": "<<", "emoji": "\u{1f30a} \u{85} \u{1}" } });
        let text = to_yaml(object.to_string().as_bytes()).expect("JSON");
        assert!(text.contains("kind: ConfigMap\n"), "{text}");
        assert_eq!(serde_saphyr::from_str::<Value>(&text).expect("YAML"), object, "{text}");
        for quoted in ["yes", "~", "1e3", "0777", "2026-01-02"] {
            assert!(
                !text.contains(&format!(": {quoted}\n")),
                "readers of YAML 1.1 take {quoted} for no text:\n{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn yaml_says_what_the_json_said(texts in proptest::collection::btree_map("\\PC{0,12}", any::<String>(), 0..6), number in any::<i64>()) {
            let object = json!({ "data": texts, "number": number, "list": [texts, null, true, []] });
            let text = to_yaml(object.to_string().as_bytes()).expect("JSON");
            prop_assert_eq!(serde_saphyr::from_str::<Value>(&text).expect("YAML"), object, "{}", text);
        }
    }
}
