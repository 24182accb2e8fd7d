//! The filter of Pods: explicit addresses of the API server in containers' environments lead to the hub.

use proto_kube::edit::Rewrite;

use super::value::{Field, Value, field, rewrite, set, text};
use super::{FilterError, Inputs, Outcome, Subject};

const SPEC: Field = field(2, "spec");
const ENV: Field = field(7, "env");
/// Every kind of container may speak to the API server.
const CONTAINERS: [Field; 3] =
    [field(2, "containers"), field(20, "initContainers"), field(34, "ephemeralContainers")];
/// The fields of an ephemeral container are inlined in JSON and one level down in protobuf.
const EPHEMERAL_COMMON: u32 = 1;
const NAME: Field = field(1, "name");
const VALUE: Field = field(2, "value");
const VALUE_FROM: Field = field(3, "valueFrom");

/// Rewrites `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT` where a pod sets them; adds none, because the
/// kubelet sets the others from the Service that it sees.
pub(super) fn redirect_environment(inputs: &Inputs, object: &Subject<'_>) -> Result<Outcome, FilterError> {
    let Some(hub) = inputs.hub() else { return Ok(Outcome::Keep) };
    let (encoding, host, port) = (object.encoding(), hub.host.to_string(), hub.port.to_string());
    let mut amend = |variable: &[u8]| {
        let value = match text(encoding, variable, NAME)?.as_deref() {
            Some("KUBERNETES_SERVICE_HOST") => &host,
            Some("KUBERNETES_SERVICE_PORT") => &port,
            _ => return Ok(Rewrite::Keep),
        };
        let fixed = set(encoding, variable, VALUE, Value::Text(value))?;
        Ok(Rewrite::Replace(set(encoding, &fixed, VALUE_FROM, Value::Absent)?.into_owned()))
    };
    let mut changed: Option<Vec<u8>> = None;
    for containers in CONTAINERS {
        let raw = changed.as_deref().unwrap_or(object.raw);
        let is_nested = containers.number == 34 && encoding == proto_kube::media_type::Encoding::Protobuf;
        let common = field(EPHEMERAL_COMMON, "");
        let path: &[Field] =
            if is_nested { &[SPEC, containers, common, ENV] } else { &[SPEC, containers, ENV] };
        if let Some(next) = rewrite(encoding, raw, path, &mut amend)? {
            changed = Some(next);
        }
    }
    Ok(Outcome::of(object.raw, changed))
}
