//! A node's client certificate, and the kubeconfig of its kubelet with it.

use std::path::Path;

use time::{Duration, OffsetDateTime};

use super::certificates::{Authority, KeyPairFiles, Subject};
use super::error::Result;
use super::kubeconfig::{self, Credential};

/// Makes the node's client certificate, `FOLDER/node.crt`, and `FOLDER/kubelet.kubeconfig` with it; returns its end.
pub(super) fn issue(
    folder: &Path,
    node: &str,
    server: &str,
    authority: &Authority,
    lifetime: Duration,
) -> Result<OffsetDateTime> {
    let files = KeyPairFiles::at(folder, "node");
    let user = format!("system:node:{node}");
    let subject = Subject::Client { user: &user, groups: &["system:nodes"] };
    let end = authority.issue_for(&subject, &files, lifetime)?;
    let credential = Credential::Certificate(&files);
    kubeconfig::write(&folder.join("kubelet.kubeconfig"), server, authority.pem(), "default", &credential)?;
    Ok(end)
}
