//! The history that etcd keeps: compacted on demand, through etcd's own JSON gateway.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use super::error::{LabError, Result};
use super::namespace;

/// Where etcd listens inside the cloud's namespace.
const ETCD: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 2379);

/// Turns a hang into an error.
const PATIENCE: Duration = Duration::from_secs(10);

/// Compacts the history up to the present revision.
pub(super) fn compact(namespace: &str) -> Result<()> {
    // Any key will do: the header of the answer names the revision.
    let answer = ask(namespace, "/v3/kv/range", &json!({ "key": "AA==", "count_only": true }))?;
    let revision = answer["header"]["revision"].as_str().unwrap_or_default();
    ask(namespace, "/v3/kv/compaction", &json!({ "revision": revision, "physical": true })).map(drop)
}

/// One POST to etcd, from inside `namespace`; the JSON body of its answer.
fn ask(namespace: &str, path: &str, body: &Value) -> Result<Value> {
    let (path, body) = (path.to_owned(), body.to_string());
    let text = namespace::in_namespace(namespace, move || exchange(&path, &body))
        .map_err(LabError::io("ask", "etcd"))?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    if !head.starts_with("HTTP/1.0 200") && !head.starts_with("HTTP/1.1 200") {
        return Err(LabError::Invalid(format!("etcd refuses: {text}")));
    }
    serde_json::from_str(body).map_err(|error| LabError::Invalid(format!("etcd: no JSON: {error}")))
}

fn exchange(path: &str, body: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(ETCD)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // HTTP/1.0: the answer comes whole and the connection ends.
    let head = format!(
        "POST {path} HTTP/1.0\r\nHost: etcd\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
