//! Kubeconfig files with everything embedded, so that a copied file works as well.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::certificates::{KeyPairFiles, write_private};
use super::error::{LabError, Result};

/// How the holder of a kubeconfig proves who they are.
pub(crate) enum Credential<'a> {
    /// A client certificate.
    Certificate(&'a KeyPairFiles),
    /// A bearer token.
    Token(&'a str),
}

/// Writes a kubeconfig at `path`: `server` is a URL, `authority` the PEM that signs its certificate.
pub(crate) fn write(
    path: &Path,
    server: &str,
    authority: &str,
    namespace: &str,
    credential: &Credential<'_>,
) -> Result<()> {
    let user = match credential {
        Credential::Token(token) => json!({ "token": token }),
        Credential::Certificate(files) => json!({
            "client-certificate-data": encoded(&files.certificate)?,
            "client-key-data": encoded(&files.key)?,
        }),
    };
    let config = document(server, authority, namespace, &user);
    // JSON is YAML, and it needs no escaping rules of our own.
    let text = serde_json::to_string_pretty(&config).expect("strings and maps are JSON");
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(LabError::io("create", folder))?;
    }
    write_private(path, &text)
}

fn document(server: &str, authority: &str, namespace: &str, user: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "eyot-lab",
            "cluster": { "server": server, "certificate-authority-data": STANDARD.encode(authority) },
        }],
        "users": [{ "name": "user", "user": user }],
        "contexts": [{
            "name": "eyot-lab",
            "context": { "cluster": "eyot-lab", "user": "user", "namespace": namespace },
        }],
        "current-context": "eyot-lab",
    })
}

fn encoded(path: &Path) -> Result<String> {
    Ok(STANDARD.encode(fs::read(path).map_err(LabError::io("read", path))?))
}
