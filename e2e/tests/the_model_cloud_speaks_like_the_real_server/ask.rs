//! Asking one server: a client for each principal, the saved names, and each answer as it came.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use e2e::cloud::client::Client;
use e2e::cloud::pki::Authority;
use http::{HeaderMap, HeaderName, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::protobuf;
use crate::step::{Act, Right, Step, Stream, Until, Who};

/// Turns a hang into a difference; nothing waits on it.
const PATIENCE: Duration = Duration::from_secs(20);

/// The node whose kubelet asks.
pub(crate) const NODE: &str = "edge-1";

/// A server and what it takes to ask it.
pub(crate) struct Server {
    admin: Client,
    clients: BTreeMap<Who, Client>,
    forget: Arc<dyn Fn() + Send + Sync>,
    saved: RefCell<BTreeMap<&'static str, String>>,
}

/// An answer as it came: the request's line, then what the normaliser needs.
pub(crate) struct Answer {
    pub(crate) request: String,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// JSON, decoded protobuf, text, or the events of a stream.
    pub(crate) body: Value,
    /// The revision that a list has to have.
    pub(crate) pinned: Option<String>,
}

impl Server {
    /// The server at `address`, whose serving certificate and clients `authority` signs.
    pub(crate) fn new(
        address: SocketAddr,
        authority: &Authority,
        forget: Arc<dyn Fn() + Send + Sync>,
    ) -> Self {
        let name = address.ip().to_string();
        let client = |identity| {
            let roots = authority.roots().expect("the authority is one");
            Client::new(address, &name, roots, identity).expect("the identity is one").over_one_connection()
        };
        let admin = authority.client("kubernetes-admin", "system:masters").expect("a certificate");
        let node = authority.node(NODE).expect("a certificate");
        let clients = BTreeMap::from([
            (Who::Admin, client(Some(&admin))),
            (Who::Node, client(Some(&node))),
            (Who::Reader, client(None)),
            (Who::Forger, client(None).with_token("nobody.issued.this")),
            (Who::Nobody, client(None)),
        ]);
        Self { admin: client(Some(&admin)), clients, forget, saved: RefCell::default() }
    }

    /// Ask all of `acts` in order.
    pub(crate) async fn play(&self, acts: &[Act], answers: &mut Vec<Answer>) {
        for act in acts {
            match act {
                Act::Forget => {
                    // The real server takes its time to start again, and the other one goes on meanwhile.
                    let forget = Arc::clone(&self.forget);
                    tokio::task::spawn_blocking(move || forget()).await.expect("the history is forgotten");
                }
                Act::Await(right) => self.wait_for(right).await,
                Act::Define(definition) => self.define(definition.0, &definition.1, definition.2).await,
                Act::Ask(step) => Box::pin(self.ask(step, answers)).await,
            }
        }
    }

    /// The administrator's request beside the script; its answer counts only by its code.
    pub(crate) async fn prepare(&self, method: &str, path: &str, body: &Value) {
        let (code, answer) =
            self.admin.call(method, path, "application/json", body).await.expect("an answer");
        assert!(code < 300, "{method} {path}: {code} {answer}");
    }

    /// The real server serves a new kind a moment after its definition.
    async fn define(&self, path: &str, definition: &Value, served_at: &str) {
        self.prepare("POST", path, definition).await;
        // Until then the answer is no JSON.
        let is_served = async || {
            self.admin.send("GET", served_at, "", Bytes::new()).await.expect("an answer").status() == 200
        };
        until("the new kind is not served", is_served).await;
    }

    /// The real server's authorizer reads the rules that it was given by a watch of its own, a moment later.
    async fn wait_for(&self, right: &Right) {
        let attributes = json!({"verb": "get", "version": "v1", "resource": right.resource, "namespace": "script",
            "name": right.name});
        let review = json!({"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
            "spec": {"user": right.user, "groups": right.groups, "resourceAttributes": attributes}});
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let has_changed = async || {
            let answer = self.admin.call("POST", path, "application/json", &review).await;
            answer.expect("an answer").1["status"]["allowed"] == right.allowed
        };
        until(&format!("{right:?} does not come"), has_changed).await;
    }

    fn filled(&self, text: &str) -> String {
        let saved = self.saved.borrow();
        saved.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${{{name}}}"), value))
    }

    fn client(&self, step: &Step) -> Client {
        let mut client = self.clients[&step.who].clone();
        if step.who == Who::Reader {
            let token = self.saved.borrow().get("reader").cloned();
            client = client.with_token(&token.expect("the script asks for the reader's token first"));
        }
        client = client.with_header(header::ACCEPT, step.accept);
        if let Some((name, value)) = step.header {
            client = client.with_header(HeaderName::from_static(name), value);
        }
        client
    }

    async fn ask(&self, step: &Step, answers: &mut Vec<Answer>) {
        let (path, body) = (self.filled(&step.path), self.filled(&step.body));
        assert!(!path.contains("${") && !body.contains("${"), "something was not saved: {path} {body}");
        self.settle(&path).await;
        let client = self.client(step);
        let note = if step.note.is_empty() { String::new() } else { format!(" ({})", step.note) };
        let request = format!("{:?} {} {} [{}]{note}", step.who, step.method, step.path, step.accept);
        let sent = client.send(step.method, &path, step.content_type, body.into());
        let response = match tokio::time::timeout(PATIENCE, sent).await {
            Ok(Ok(response)) => response,
            failed => panic!("{request}: no answer: {failed:?}"),
        };
        let (head, body) = response.into_parts();
        let mut answer = Answer {
            request,
            status: head.status.as_u16(),
            headers: head.headers,
            body: Value::Null,
            pinned: step.pinned.map(|name| self.saved.borrow()[name].clone()),
        };
        match &step.stream {
            Some(stream) if answer.status == 200 => {
                let place = answers.len();
                answers.push(answer);
                self.play(&stream.acts, answers).await;
                let binary = content_type(&answers[place].headers).contains("protobuf");
                answers[place].body = read_stream(body, stream, binary).await;
            }
            _ => {
                answer.body = read_body(&answer.headers, whole(body).await);
                self.save(step, &answer);
                answers.push(answer);
            }
        }
    }

    fn save(&self, step: &Step, answer: &Answer) {
        for (name, pointer) in &step.saves {
            let found = answer.body.pointer(pointer).and_then(Value::as_str);
            let text = found.unwrap_or_else(|| panic!("{}: no {pointer} in {}", answer.request, answer.body));
            self.saved.borrow_mut().insert(name, text.to_owned());
        }
    }

    /// A read from the watch cache may be a moment behind; a consistent one first makes it catch up.
    async fn settle(&self, path: &str) {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let cached = query.contains("resourceVersion=");
        if cached && path.starts_with("/api") {
            let path = path.replace("/watch/", "/");
            let sent = self.admin.send("GET", &path, "", Bytes::new());
            // Where there is nothing to read, nothing has to catch up.
            if let Ok(Ok(response)) = tokio::time::timeout(PATIENCE, sent).await {
                whole(response.into_body()).await;
            }
        }
    }
}

async fn whole(body: Incoming) -> Bytes {
    let collected = tokio::time::timeout(PATIENCE, body.collect()).await;
    collected.expect("the body ends").expect("the body is whole").to_bytes()
}

fn content_type(headers: &HeaderMap) -> &str {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn read_body(headers: &HeaderMap, bytes: Bytes) -> Value {
    let kind = content_type(headers);
    let text = || String::from_utf8_lossy(&bytes).into_owned();
    if bytes.is_empty() {
        Value::Null
    } else if kind.starts_with("application/json") {
        serde_json::from_slice(&bytes).unwrap_or_else(|_| text().into())
    } else if kind.starts_with("application/vnd.kubernetes.protobuf") {
        protobuf::document(&bytes).unwrap_or_else(|| json!("broken protobuf"))
    } else {
        text().into()
    }
}

/// The events of a stream up to where its script says, and how the reading ended.
async fn read_stream(mut body: Incoming, stream: &Stream, binary: bool) -> Value {
    let (mut events, mut buffer) = (Vec::new(), BytesMut::new());
    let reading = async {
        loop {
            while let Some(event) = next_event(&mut buffer, binary) {
                let bookmark = event["type"] == "BOOKMARK";
                let marked =
                    !event["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"].is_null();
                let reached = match stream.until {
                    Until::End => false,
                    Until::Named(name) => event["object"]["metadata"]["name"] == name,
                    Until::Marked => marked,
                    Until::Bookmark => bookmark && !marked,
                };
                // Other bookmarks come when the server's clock says so.
                if !bookmark || marked || reached {
                    events.push(event);
                }
                if reached {
                    return "as far as the script reads";
                }
            }
            match body.frame().await {
                Some(Ok(frame)) => buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
                Some(Err(_)) => return "broken",
                None => return if buffer.is_empty() { "ended" } else { "ended inside a frame" },
            }
        }
    };
    let end = tokio::time::timeout(PATIENCE, reading).await.unwrap_or("no end");
    json!({"events": events, "end": end})
}

fn next_event(buffer: &mut BytesMut, binary: bool) -> Option<Value> {
    if binary {
        let (event, length) = protobuf::frame(buffer)?;
        drop(buffer.split_to(length));
        return Some(event);
    }
    let end = buffer.iter().position(|byte| *byte == b'\n')?;
    let line = buffer.split_to(end + 1);
    Some(serde_json::from_slice(&line).unwrap_or_else(|_| String::from_utf8_lossy(&line).into_owned().into()))
}

/// Asks a server until it says so: of what comes a moment after its answer it tells nobody.
async fn until(late: &str, holds: impl AsyncFn() -> bool) {
    let asked = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.expect(late);
}
