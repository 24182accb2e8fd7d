//! The filters of EndpointSlices: topology by node, pool and zone, and the redirect of `default/kubernetes`.

use proto_kube::edit::Rewrite;
use proto_kube::media_type::Encoding;
use proto_kube::object::label;
use proto_kube::{json, wire};

use super::services::{API_SERVER, API_SERVER_PORT};
use super::value::{Field, Value, field, rewrite, set, text};
use super::{FilterError, Inputs, Outcome, Subject};

/// Label of a slice: the service it belongs to.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

const ENDPOINTS: Field = field(2, "endpoints");
const PORTS: Field = field(3, "ports");
const ADDRESS_TYPE: Field = field(4, "addressType");
const NODE_NAME: Field = field(6, "nodeName");
const ZONE: Field = field(7, "zone");
const PORT_NAME: Field = field(1, "name");
const PORT_NUMBER: Field = field(3, "port");
/// Numbers of `addresses` and `conditions` in an endpoint, and of `ready` in the latter.
const ADDRESSES: u32 = 1;
const CONDITIONS: u32 = 2;
const READY: u32 = 1;

/// Keeps the endpoints that are as near as the service asks for; a slice without any stays as an empty one.
pub(super) fn by_topology(inputs: &Inputs, object: &Subject<'_>) -> Result<Outcome, FilterError> {
    let Some(service) = label(object.format, object.raw, SERVICE_NAME)? else { return Ok(Outcome::Keep) };
    let Some(reach) = inputs.reach(&object.key.namespace, &service) else { return Ok(Outcome::Keep) };
    let encoding = object.encoding();
    let mut keep_near = |endpoint: &[u8]| {
        let node = text(encoding, endpoint, NODE_NAME)?;
        let zone = text(encoding, endpoint, ZONE)?;
        let is_near = inputs.is_near(reach, node.as_deref(), zone.as_deref());
        Ok(if is_near { Rewrite::Keep } else { Rewrite::Remove })
    };
    Ok(Outcome::of(object.raw, rewrite(encoding, object.raw, &[ENDPOINTS], &mut keep_near)?))
}

/// `default/kubernetes` has one endpoint, the hub. A slice of the other address family stays as it is.
pub(super) fn redirect(inputs: &Inputs, object: &Subject<'_>) -> Result<Outcome, FilterError> {
    let Some(hub) = inputs.hub().filter(|_| object.is(API_SERVER)) else { return Ok(Outcome::Keep) };
    let encoding = object.encoding();
    let family = if hub.host.is_ipv6() { "IPv6" } else { "IPv4" };
    if text(encoding, object.raw, ADDRESS_TYPE)?.as_deref() != Some(family) {
        return Ok(Outcome::Keep);
    }
    let mut amend_port = |port: &[u8]| {
        if text(encoding, port, PORT_NAME)?.as_deref() != Some(API_SERVER_PORT) {
            return Ok(Rewrite::Keep);
        }
        Ok(Rewrite::Replace(set(encoding, port, PORT_NUMBER, Value::Number(hub.port))?.into_owned()))
    };
    let ported = rewrite(encoding, object.raw, &[PORTS], &mut amend_port)?;
    let ported = ported.as_deref().unwrap_or(object.raw);
    let endpoint = endpoint(encoding, &hub.host.to_string());
    let redirected = set(encoding, ported, ENDPOINTS, Value::OneMessage(&endpoint))?;
    Ok(Outcome::of(object.raw, Some(redirected.into_owned())))
}

/// A ready endpoint at this address.
fn endpoint(encoding: Encoding, host: &str) -> Vec<u8> {
    let mut out = Vec::new();
    match encoding {
        Encoding::Protobuf => {
            let mut conditions = Vec::new();
            wire::put_varint_field(&mut conditions, READY, 1);
            wire::put_bytes(&mut out, ADDRESSES, host.as_bytes());
            wire::put_bytes(&mut out, CONDITIONS, &conditions);
        }
        Encoding::Json => {
            out.extend_from_slice(b"{\"addresses\":[");
            json::write_string(&mut out, host);
            out.extend_from_slice(b"],\"conditions\":{\"ready\":true}}");
        }
    }
    out
}
