//! The filters of Services: the redirect of `default/kubernetes`, cloud-only services, node ports by pool.

use std::collections::BTreeMap;

use proto_kube::edit::Rewrite;
use proto_kube::object::annotation;

use super::value::{Field, Value, field, rewrite, set, text};
use super::{FilterError, Inputs, Outcome, Subject};

/// Annotation of a LoadBalancer service that means nothing outside of the cloud.
pub const DISCARD: &str = "svc.openyurt.io/discard";
/// Annotation of a NodePort or LoadBalancer service: in which pools its ports are opened.
pub const NODE_PORT_LISTEN: &str = "nodeport.openyurt.io/listen";

/// The cloud end of OpenYurt's tunnel, which edge nodes must not route to.
const TUNNEL_SERVICE: (&str, &str) = ("kube-system", "x-tunnel-server-internal-svc");
/// The API server's own service and its port's name.
pub(super) const API_SERVER: (&str, &str) = ("default", "kubernetes");
pub(super) const API_SERVER_PORT: &str = "https";

const SPEC: Field = field(2, "spec");
const PORTS: Field = field(1, "ports");
const CLUSTER_IP: Field = field(3, "clusterIP");
const TYPE: Field = field(4, "type");
const CLUSTER_IPS: Field = field(18, "clusterIPs");
const PORT_NAME: Field = field(1, "name");
const PORT_NUMBER: Field = field(3, "port");

/// `default/kubernetes` leads to the hub: cluster IPs and the port `https`.
pub(super) fn redirect(inputs: &Inputs, object: &Subject<'_>) -> Result<Outcome, FilterError> {
    let Some(hub) = inputs.hub().filter(|_| object.is(API_SERVER)) else { return Ok(Outcome::Keep) };
    let (encoding, host) = (object.encoding(), hub.host.to_string());
    let mut amend = |spec: &[u8]| {
        let spec = set(encoding, spec, CLUSTER_IP, Value::Text(&host))?;
        let spec = set(encoding, &spec, CLUSTER_IPS, Value::OneText(&host))?;
        let mut amend_port = |port: &[u8]| {
            if text(encoding, port, PORT_NAME)?.as_deref() != Some(API_SERVER_PORT) {
                return Ok(Rewrite::Keep);
            }
            Ok(Rewrite::Replace(set(encoding, port, PORT_NUMBER, Value::Number(hub.port))?.into_owned()))
        };
        let ported = rewrite(encoding, &spec, &[PORTS], &mut amend_port)?;
        Ok(Rewrite::Replace(ported.unwrap_or_else(|| spec.into_owned())))
    };
    Ok(Outcome::of(object.raw, rewrite(encoding, object.raw, &[SPEC], &mut amend)?))
}

/// Drops services that are for the cloud only.
pub(super) fn discard(object: &Subject<'_>) -> Result<Outcome, FilterError> {
    if object.is(TUNNEL_SERVICE) {
        return Ok(Outcome::Drop);
    }
    let discarded = || annotation(object.format, object.raw, DISCARD);
    if service_type(object)?.as_deref() == Some("LoadBalancer") && discarded()?.as_deref() == Some("true") {
        return Ok(Outcome::Drop);
    }
    Ok(Outcome::Keep)
}

/// Drops services whose ports are not to be opened in this node's pool.
pub(super) fn isolate_node_ports(inputs: &Inputs, object: &Subject<'_>) -> Result<Outcome, FilterError> {
    if !matches!(service_type(object)?.as_deref(), Some("NodePort" | "LoadBalancer")) {
        return Ok(Outcome::Keep);
    }
    let Some(listen) = annotation(object.format, object.raw, NODE_PORT_LISTEN)? else {
        return Ok(Outcome::Keep);
    };
    // A node outside of all pools behaves as if nobody had asked for isolation.
    let Some(pool) = inputs.pool() else { return Ok(Outcome::Keep) };
    Ok(if listens(&listen, pool) { Outcome::Keep } else { Outcome::Drop })
}

/// `a,-b,*`: in pool `a`, not in `b`, and everywhere else. Of two words for one pool the first counts.
fn listens(listen: &str, pool: &str) -> bool {
    let mut words: BTreeMap<&str, bool> = BTreeMap::new();
    for word in listen.split(',').map(str::trim) {
        let name = word.strip_prefix('-').unwrap_or(word);
        if !name.is_empty() {
            words.entry(name).or_insert(name == word);
        }
    }
    words.get(pool).or_else(|| words.get("*")).copied().unwrap_or(false)
}

fn service_type(object: &Subject<'_>) -> Result<Option<Box<str>>, FilterError> {
    let encoding = object.encoding();
    let Some(spec) = super::value::child(encoding, object.raw, SPEC)? else { return Ok(None) };
    Ok(text(encoding, spec, TYPE)?.map(Into::into))
}
