//! What becomes of an EndpointSlice: the endpoints of this node's pods, as the kubelet has them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bytes::Bytes;
use proto_kube::edit::{EditError, Rewrite};
use proto_kube::media_type::{Encoding, Form, Format};
use proto_kube::object::{ObjectKey, label};
use proto_kube::wire;

use super::pod::PodState;
use crate::collection::Object;
use crate::filter::SERVICE_NAME;
use crate::filter::value::{Field, Value, child, children, field, rewrite, set, text};

const ENDPOINTS: Field = field(2, "endpoints");
const ADDRESS_TYPE: Field = field(4, "addressType");
const ADDRESSES: Field = field(1, "addresses");
const CONDITIONS: Field = field(2, "conditions");
const TARGET: Field = field(4, "targetRef");
const NODE_NAME: Field = field(6, "nodeName");
const READY: Field = field(1, "ready");
const SERVING: Field = field(2, "serving");
const TARGET_KIND: Field = field(1, "kind");
const TARGET_UID: Field = field(4, "uid");

/// One pod's part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Amendment {
    pub(super) state: PodState,
    /// Its addresses as the cloud had them before.
    pub(super) held: Vec<IpAddr>,
    /// Slices newer than this were written by a cloud that knew the pod's state.
    pub(super) known_from: Option<u64>,
}

/// What the kubelet of this node said of its pods that the cloud may not know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amendments {
    pub(super) node: Box<str>,
    /// By uid.
    pub(super) pods: BTreeMap<Box<str>, Amendment>,
    /// Services that publish addresses of pods that are not ready.
    pub(super) unready_published: BTreeSet<ObjectKey>,
}

impl Amendments {
    /// Whether every slice is shown as it is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// A slice's other bytes; `None` where nothing is to be changed. One that cannot be read stays as it is, because
    /// the cloud's word is better than none.
    #[must_use]
    pub fn amend(&self, format: Format, slice: &Object) -> Option<Bytes> {
        if self.is_empty() || format.form != Form::Object {
            return None;
        }
        self.rewrite(format, slice).ok().flatten().filter(|raw| *raw != slice.raw).map(Bytes::from)
    }

    fn rewrite(&self, format: Format, slice: &Object) -> Result<Option<Vec<u8>>, EditError> {
        let encoding = format.encoding;
        let Some(family) = text(encoding, &slice.raw, ADDRESS_TYPE)? else { return Ok(None) };
        let wants_v6 = match &*family {
            "IPv4" => false,
            "IPv6" => true,
            _ => return Ok(None),
        };
        let service = label(format, &slice.raw, SERVICE_NAME)?
            .map(|name| ObjectKey { namespace: slice.key.namespace.clone(), name: name.into() });
        let publishes_unready = service.is_some_and(|service| self.unready_published.contains(&service));
        let mut amend = |endpoint: &[u8]| {
            let Some(amendment) = self.of(encoding, endpoint, slice.resource_version)? else {
                return Ok(Rewrite::Keep);
            };
            let state = &amendment.state;
            let address = state.addresses.iter().find(|address| address.is_ipv6() == wants_v6);
            let Some(address) = address.filter(|_| !state.ended) else { return Ok(Rewrite::Remove) };
            let address = address.to_string();
            let moved = set(encoding, endpoint, ADDRESSES, Value::OneText(&address))?;
            Ok(Rewrite::Replace(conditions(encoding, &moved, state, publishes_unready)?))
        };
        rewrite(encoding, &slice.raw, &[ENDPOINTS], &mut amend)
    }

    /// What is to be said of the pod behind an endpoint of this node.
    fn of(
        &self,
        encoding: Encoding,
        endpoint: &[u8],
        slice_version: u64,
    ) -> Result<Option<&Amendment>, EditError> {
        if text(encoding, endpoint, NODE_NAME)?.as_deref() != Some(&*self.node) {
            return Ok(None);
        }
        let Some(target) = child(encoding, endpoint, TARGET)? else { return Ok(None) };
        if text(encoding, target, TARGET_KIND)?.as_deref() != Some("Pod") {
            return Ok(None);
        }
        let Some(uid) = text(encoding, target, TARGET_UID)? else { return Ok(None) };
        let Some(amendment) = self.pods.get(&*uid) else { return Ok(None) };
        let is_older = amendment.known_from.is_none_or(|known| slice_version <= known);
        Ok((is_older || amendment.is_behind(encoding, endpoint)?).then_some(amendment))
    }
}

impl Amendment {
    /// Whether an endpoint of a slice that was written after the cloud knew the pod still shows what was before: the pod's
    /// former address, or a ready pod as not ready.
    fn is_behind(&self, encoding: Encoding, endpoint: &[u8]) -> Result<bool, EditError> {
        let Some(shown) = first_address(encoding, endpoint)? else { return Ok(false) };
        if !self.state.addresses.contains(&shown) {
            return Ok(self.held.contains(&shown));
        }
        let Some(conditions) = child(encoding, endpoint, CONDITIONS)? else { return Ok(false) };
        let is_due = self.state.ready && !self.state.terminating;
        Ok(is_due && flag(encoding, conditions, READY)? == Some(false))
    }
}

/// The address of an endpoint; only the first one counts.
fn first_address(encoding: Encoding, endpoint: &[u8]) -> Result<Option<IpAddr>, EditError> {
    let all = children(encoding, endpoint, ADDRESSES)?;
    // No address has anything that JSON would escape.
    let text = all.first().and_then(|raw| std::str::from_utf8(raw).ok());
    Ok(text.and_then(|text| text.trim_matches('"').parse().ok()))
}

/// A truth value; `None` where it is absent.
fn flag(encoding: Encoding, message: &[u8], of: Field) -> Result<Option<bool>, EditError> {
    Ok(match encoding {
        Encoding::Json => child(encoding, message, of)?.map(|value| value == b"true"),
        Encoding::Protobuf => wire::last(message, of.number)?
            .map(|found| matches!(found.value, wire::Value::Varint(value) if value != 0)),
    })
}

/// As the endpoint slice controller sets them.
fn conditions(
    encoding: Encoding,
    endpoint: &[u8],
    state: &PodState,
    publishes_unready: bool,
) -> Result<Vec<u8>, EditError> {
    let empty: &[u8] = match encoding {
        Encoding::Json => b"{}",
        Encoding::Protobuf => b"",
    };
    let held = child(encoding, endpoint, CONDITIONS)?.unwrap_or(empty);
    let ready = publishes_unready || state.ready && !state.terminating;
    let amended = set(encoding, held, READY, Value::Flag(ready))?;
    let amended = set(encoding, &amended, SERVING, Value::Flag(state.ready))?;
    Ok(set(encoding, endpoint, CONDITIONS, Value::Message(&amended))?.into_owned())
}
