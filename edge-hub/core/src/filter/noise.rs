//! What most consumers never read: managed fields, heartbeats of nodes, the kubeconfig of kube-proxy.

use proto_kube::edit::Rewrite;
use proto_kube::media_type::{Encoding, Form};

use super::value::{Field, Value, child, field, rewrite, set, text};
use super::{FilterError, Outcome, Subject};

const METADATA: Field = field(1, "metadata");
const MANAGED_FIELDS: Field = field(17, "managedFields");
const STATUS: Field = field(3, "status");
const CONDITIONS: Field = field(4, "conditions");
const LAST_HEARTBEAT: Field = field(3, "lastHeartbeatTime");
const DATA: Field = field(2, "data");

/// kube-proxy's configuration as kubeadm lays it out.
const PROXY_CONFIGURATION: (&str, &str) = ("kube-system", "kube-proxy");
const PROXY_FILE: &str = "config.conf";
const PROXY_KEY: &str = "kubeconfig";

/// Removes `metadata.managedFields`. Safe for writers too: an update without any leaves the server's as they are.
pub(super) fn strip_managed_fields(object: &Subject<'_>) -> Result<Outcome, FilterError> {
    let encoding = object.encoding();
    let mut strip = |metadata: &[u8]| {
        Ok(Rewrite::Replace(set(encoding, metadata, MANAGED_FIELDS, Value::Absent)?.into_owned()))
    };
    let path: &[Field] =
        if object.format.form == Form::Table { &[field(3, "object"), METADATA] } else { &[METADATA] };
    Ok(Outcome::of(object.raw, rewrite(encoding, object.raw, path, &mut strip)?))
}

/// Removes the times of a node's heartbeats, the only part that changes every few minutes on a quiet node. Such a time
/// is no pointer in Go, so JSON says null where protobuf says nothing.
pub(super) fn strip_heartbeats(object: &Subject<'_>) -> Result<Outcome, FilterError> {
    let encoding = object.encoding();
    let unset = if encoding == Encoding::Json { Value::Null } else { Value::Absent };
    let mut strip = |condition: &[u8]| {
        if child(encoding, condition, LAST_HEARTBEAT)?.is_none() {
            return Ok(Rewrite::Keep);
        }
        Ok(Rewrite::Replace(set(encoding, condition, LAST_HEARTBEAT, unset)?.into_owned()))
    };
    Ok(Outcome::of(object.raw, rewrite(encoding, object.raw, &[STATUS, CONDITIONS], &mut strip)?))
}

/// Turns `kubeconfig:` of kube-proxy's configuration into a comment, so that it takes its pod's own credential and
/// with it the hub.
pub(super) fn in_cluster_config(object: &Subject<'_>) -> Result<Outcome, FilterError> {
    if !object.is(PROXY_CONFIGURATION) {
        return Ok(Outcome::Keep);
    }
    let encoding = object.encoding();
    let changed = match encoding {
        Encoding::Protobuf => rewrite(encoding, object.raw, &[DATA], &mut |entry| {
            if text(encoding, entry, field(1, ""))?.as_deref() != Some(PROXY_FILE) {
                return Ok(Rewrite::Keep);
            }
            let value = text(encoding, entry, field(2, ""))?.unwrap_or_default();
            Ok(Rewrite::Replace(
                set(encoding, entry, field(2, ""), Value::Text(&commented(&value)))?.into_owned(),
            ))
        })?,
        Encoding::Json => rewrite(encoding, object.raw, &[DATA, field(0, PROXY_FILE)], &mut |value| {
            let before = proto_kube::json::string(value)?;
            let after = commented(&before);
            if after == before {
                return Ok(Rewrite::Keep);
            }
            let mut text = Vec::new();
            proto_kube::json::write_string(&mut text, &after);
            Ok(Rewrite::Replace(text))
        })?,
    };
    Ok(Outcome::of(object.raw, changed))
}

fn commented(configuration: &str) -> String {
    let is_path = |line: &str| {
        let words: Vec<&str> = line.trim_matches(' ').split(':').collect();
        words.len() == 2 && words[0] == PROXY_KEY
    };
    let line = |line: &str| match is_path(line) {
        true => line.replacen(PROXY_KEY, "#kubeconfig", 1),
        false => line.to_owned(),
    };
    configuration.split('\n').map(line).collect::<Vec<_>>().join("\n")
}
