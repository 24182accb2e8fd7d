//! Bodies in YAML that the hub has to look into, because it told clients of the kind something of its own. They are read
//! for those alone who may write, on a thread of their own, one at a time, and within what an object needs.

use bytes::Bytes;
use proto_kube::{request_info::ResourceRequest, status::Status};
use tokio::sync::Semaphore;

use super::{call::Call, call::resource_access, is_impersonating};

/// Largest body in YAML that is no JSON. Clients of Kubernetes write JSON, which is YAML, too.
const MAX_BYTES: usize = 512 * 1024;
/// Nesting of an object; CustomResourceDefinitions reach about thirty levels.
const MAX_DEPTH: usize = 100;
/// Scalars, lists and mappings of an object.
const MAX_NODES: usize = 64 * 1024;
/// One reader at a time: the rest of the machine belongs to the pods.
static READER: Semaphore = Semaphore::const_new(1);

impl Call {
    /// The body as JSON, which stands for what it says in YAML.
    ///
    /// # Errors
    /// 403 and 503 where this user may not write or that is not known, 413 for what is larger than is read here, 400
    /// for what is no YAML or uses aliases.
    pub(super) async fn json_of_yaml(&self, request: &ResourceRequest) -> Result<Bytes, Status> {
        if serde_json::from_slice::<serde::de::IgnoredAny>(&self.body).is_ok() {
            return Ok(self.body.clone());
        }
        // Who impersonates has shown a right that no pod has; whose right it uses only the API server can tell.
        if !is_impersonating(&self.head.headers) {
            let access = resource_access(request);
            let allowed = match self.may(&access) {
                None => self.hub.authorizer.ask_access(&self.principal, &access).await,
                known => known,
            };
            match allowed {
                Some(true) => {}
                Some(false) => {
                    let name = request.name.as_deref().unwrap_or_default();
                    return Err(Status::forbidden(&request.gvr, name, "the API server denies it"));
                }
                None => {
                    return Err(Status::service_unavailable(
                        "the API server does not say whether you may write",
                    ));
                }
            }
        }
        if self.body.len() > MAX_BYTES {
            let text =
                format!("a body in YAML of more than {MAX_BYTES} bytes is not read here; send it as JSON");
            return Err(Status::request_entity_too_large(&text));
        }
        let _turn = READER.acquire().await;
        let body = self.body.clone();
        let read = tokio::task::spawn_blocking(move || read(&body)).await;
        read.unwrap_or_else(|_| Err(Status::internal("the reader of YAML ended")))
    }
}

/// Reads YAML without anchors and aliases, of which no object of Kubernetes has need: a few of them stand for any size.
fn read(body: &Bytes) -> Result<Bytes, Status> {
    let unreadable = |why: String| {
        let text = format!(
            "the body cannot be read as plain YAML: {why}; write it without anchors, or send it as JSON"
        );
        Status::bad_request(text)
    };
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_reader_input_bytes: Some(MAX_BYTES),
            max_aliases: 0,
            max_anchors: 0,
            max_merge_keys: 0,
            max_depth: MAX_DEPTH,
            max_documents: 1,
            max_nodes: MAX_NODES,
            max_events: 4 * MAX_NODES,
            max_total_scalar_bytes: MAX_BYTES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 0,
            max_replay_stack_depth: 0,
            max_alias_expansions_per_anchor: 0,
        },
        with_snippet: false,
    };
    let text = std::str::from_utf8(body).map_err(|error| unreadable(error.to_string()))?;
    let value: serde_json::Value =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| unreadable(error.to_string()))?;
    Ok(value.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<serde_json::Value, String> {
        let json = read(&Bytes::from(text.to_owned())).map_err(|status| status.message.to_string())?;
        Ok(serde_json::from_slice(&json).expect("JSON"))
    }

    #[test]
    fn an_object_is_read_as_written() {
        let object = read_text(
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  labels: {on: 'yes', n: \"1\"}\ndata:\n  x: |\n    one\n    two\n",
        );
        let expected = serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": {"on": "yes", "n": "1"}},
            "data": {"x": "one\ntwo\n"},
        });
        assert_eq!(object, Ok(expected));
    }

    #[test]
    fn what_stands_for_more_than_it_is_gets_refused_before_it_is_made() {
        let levels: String = ('b'..='i')
            .zip('a'..='h')
            .map(|(to, from)| format!("{to}: &{to} [{}]\n", vec![format!("*{from}"); 9].join(",")))
            .collect();
        for text in [
            format!("a: &a [x,x,x,x,x,x,x,x,x]\n{levels}"),
            "a: &a {b: 1}\nc: {<<: *a}\n".to_owned(),
            "a: 1\n---\nb: 2\n".to_owned(),
            "[".repeat(300),
            (0..70_000).map(|key| format!("k{key}: 1\n")).collect(),
        ] {
            let refusal = read_text(&text).expect_err("refused");
            assert!(refusal.contains("send it as JSON") && refusal.len() < 500, "{refusal}");
        }
    }
}
