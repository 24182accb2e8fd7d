//! What a kubelet says of a pod: the pod as it is held, and the patch of its status that could not be sent on.

use std::net::IpAddr;

use proto_kube::edit::EditError;
use proto_kube::media_type::Format;
use serde::{Deserialize, Deserializer, Serialize};

use crate::collection::Object;
use crate::filter::value::{Field, child, children, field, text};

const METADATA: Field = field(1, "metadata");
const STATUS: Field = field(3, "status");
const DELETION_TIMESTAMP: Field = field(9, "deletionTimestamp");
const PHASE: Field = field(1, "phase");
const CONDITIONS: Field = field(2, "conditions");
const POD_IP: Field = field(6, "podIP");
const POD_IPS: Field = field(12, "podIPs");
const CONDITION_TYPE: Field = field(1, "type");
const CONDITION_STATUS: Field = field(2, "status");
const CONDITION_REASON: Field = field(5, "reason");
const IP: Field = field(1, "ip");

/// Addresses of one pod: one of each family, and room for what may come.
const MAX_ADDRESSES: usize = 8;

/// Why a pod or a patch says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PodError {
    /// The held pod cannot be read.
    #[error("the pod cannot be read: {0}")]
    Pod(#[from] EditError),
    /// The body is no strategic merge patch of a pod's status.
    #[error("the patch cannot be read: {0}")]
    Patch(Box<str>),
    /// The patch is for another pod of that name.
    #[error("the patch is for another pod of that name")]
    OtherPod,
    /// Something that should be an address is none, or there are too many.
    #[error("the pod's addresses cannot be read")]
    Address,
}

/// What endpoints are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PodState {
    /// Its addresses, the primary one first.
    pub(super) addresses: Vec<IpAddr>,
    /// Condition `Ready`.
    pub(super) ready: bool,
    /// It is being deleted.
    pub(super) terminating: bool,
    /// All its containers ended for good: phase `Succeeded` or `Failed`.
    pub(super) ended: bool,
}

impl PodState {
    /// Of a pod as the cloud has it.
    pub(super) fn of(format: Format, pod: &Object) -> Result<Self, PodError> {
        let encoding = format.encoding;
        let mut state = Self::default();
        if let Some(metadata) = child(encoding, &pod.raw, METADATA)? {
            state.terminating = child(encoding, metadata, DELETION_TIMESTAMP)?.is_some();
        }
        let Some(status) = child(encoding, &pod.raw, STATUS)? else { return Ok(state) };
        state.ended = text(encoding, status, PHASE)?.is_some_and(|phase| is_end(&phase));
        for condition in children(encoding, status, CONDITIONS)? {
            if text(encoding, condition, CONDITION_TYPE)?.as_deref() == Some(READY) {
                state.ready = text(encoding, condition, CONDITION_STATUS)?.as_deref() == Some(TRUE);
            }
        }
        for ip in children(encoding, status, POD_IPS)? {
            if let Some(ip) = text(encoding, ip, IP)? {
                state.addresses.push(address(&ip)?);
            }
        }
        if let (true, Some(ip)) = (state.addresses.is_empty(), text(encoding, status, POD_IP)?) {
            state.addresses.extend((!ip.is_empty()).then(|| address(&ip)).transpose()?);
        }
        Ok(state)
    }

    /// The same pod after a strategic merge patch of its status, as kubelets send it: only what differs from the pod
    /// that they were shown.
    pub(super) fn patched(&self, uid: &str, patch: &[u8]) -> Result<Self, PodError> {
        let patch: Patch =
            serde_json::from_slice(patch).map_err(|error| PodError::Patch(error.to_string().into()))?;
        if patch.metadata.uid != uid {
            return Err(PodError::OtherPod);
        }
        let (mut state, status) = (self.clone(), patch.status);
        if let Given::Value(phase) = &status.phase {
            state.ended = is_end(phase);
        }
        match &status.conditions {
            Given::Nothing => {}
            Given::Null => state.ready = false,
            Given::Value(conditions) => {
                for condition in conditions.iter().filter(|condition| condition.kind == READY) {
                    match (&condition.patch, &condition.status) {
                        (None, Some(status)) => state.ready = status == TRUE,
                        // Another time of transition alone: a pod that was ready, was not, and is again.
                        (None, None) => {}
                        (Some(_), _) => state.ready = false,
                    }
                }
            }
        }
        state.addresses = status.addresses(&self.addresses)?;
        Ok(state)
    }
}

/// Whether the node lifecycle controller wrote of this pod that it is not ready, because it has not heard of its node: it
/// changes the status of the condition alone. A kubelet always gives a reason.
pub(super) fn is_given_up(format: Format, pod: &Object) -> Result<bool, PodError> {
    let encoding = format.encoding;
    let Some(status) = child(encoding, &pod.raw, STATUS)? else { return Ok(false) };
    for condition in children(encoding, status, CONDITIONS)? {
        if text(encoding, condition, CONDITION_TYPE)?.as_deref() == Some(READY) {
            let is_ready = text(encoding, condition, CONDITION_STATUS)?.as_deref() == Some(TRUE);
            let has_reason =
                text(encoding, condition, CONDITION_REASON)?.is_some_and(|reason| !reason.is_empty());
            return Ok(!is_ready && !has_reason);
        }
    }
    Ok(false)
}

const READY: &str = "Ready";
const TRUE: &str = "True";

fn is_end(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

fn address(text: &str) -> Result<IpAddr, PodError> {
    text.parse().map_err(|_| PodError::Address)
}

#[derive(Deserialize)]
struct Patch {
    metadata: Metadata,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    uid: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: Given<String>,
    conditions: Given<Vec<Condition>>,
    #[serde(rename = "podIP")]
    pod_ip: Given<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Given<Vec<PodIp>>,
    #[serde(rename = "$setElementOrder/podIPs")]
    order: Option<Vec<PodIp>>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: Option<String>,
    #[serde(rename = "$patch")]
    patch: Option<String>,
}

#[derive(Deserialize)]
struct PodIp {
    #[serde(default)]
    ip: String,
    #[serde(rename = "$patch")]
    patch: Option<String>,
}

impl Status {
    /// The list `podIPs` is merged by `ip`, and `podIP` is its first.
    fn addresses(&self, held: &[IpAddr]) -> Result<Vec<IpAddr>, PodError> {
        let listed = self.order.as_ref().map_or(0, Vec::len);
        let changed = if let Given::Value(changes) = &self.pod_ips { changes.len() } else { 0 };
        // Each is compared with all others; no pod has more to take away and to add.
        if listed.max(changed) > 2 * MAX_ADDRESSES {
            return Err(PodError::Address);
        }
        let mut addresses = held.to_vec();
        match &self.pod_ips {
            Given::Nothing => {}
            Given::Null => addresses.clear(),
            Given::Value(changes) => {
                for change in changes {
                    if change.patch.as_deref() == Some("replace") {
                        addresses.clear();
                        continue;
                    }
                    let ip = address(&change.ip)?;
                    addresses.retain(|held| *held != ip);
                    if change.patch.is_none() {
                        addresses.push(ip);
                    }
                }
            }
        }
        if let Some(order) = &self.order {
            let order: Vec<IpAddr> = order.iter().map(|ip| address(&ip.ip)).collect::<Result<_, _>>()?;
            let place = |ip: &IpAddr| order.iter().position(|placed| placed == ip).unwrap_or(order.len());
            addresses.sort_by_key(place);
        }
        match (&self.pod_ip, &self.pod_ips) {
            (Given::Null, Given::Nothing) => addresses.clear(),
            (Given::Value(ip), of_list) => {
                let ip = address(ip)?;
                if addresses.first() != Some(&ip) {
                    // Without a word on the list the pod has this address and no other that is known of.
                    addresses.retain(|held| *held != ip && !matches!(of_list, Given::Nothing));
                    addresses.insert(0, ip);
                }
            }
            _ => {}
        }
        if addresses.len() > MAX_ADDRESSES { Err(PodError::Address) } else { Ok(addresses) }
    }
}

/// A member of a patch: absent, null (it goes), or a value.
#[derive(Default)]
enum Given<T> {
    #[default]
    Nothing,
    Null,
    Value(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Self::Null, Self::Value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    fn held(addresses: &[&str], ready: bool) -> PodState {
        PodState { addresses: ips(addresses), ready, ..PodState::default() }
    }

    /// Bodies as kubelets of 1.33 to 1.36 send them, shortened where nothing is read.
    #[test]
    fn a_kubelets_patch_is_merged_with_the_pod_that_it_was_shown() {
        let before = held(&["10.0.0.5"], true);
        let cases: [(&str, PodState); 8] = [
            (
                r#"{"metadata":{"uid":"u"},"status":{"$setElementOrder/conditions":[{"type":"Ready"}],
                    "$setElementOrder/podIPs":[{"ip":"10.0.0.9"}],"containerStatuses":[{"name":"a"}],
                    "podIP":"10.0.0.9","podIPs":[{"ip":"10.0.0.9"},{"$patch":"delete","ip":"10.0.0.5"}]}}"#,
                held(&["10.0.0.9"], true),
            ),
            (
                r#"{"metadata":{"uid":"u"},"status":{"conditions":[{"status":"False","type":"Ready"}],"podIP":null,"podIPs":null}}"#,
                held(&[], false),
            ),
            (
                r#"{"metadata":{"uid":"u"},"status":{"conditions":[{"lastTransitionTime":"2026-11-26T10:00:00Z","status":"True","type":"ContainersReady"}]}}"#,
                before.clone(),
            ),
            (
                r#"{"metadata":{"uid":"u"},"status":{"conditions":[{"lastTransitionTime":"2026-11-26T15:01:09Z","type":"Ready"}],
                    "podIP":"10.0.0.9","podIPs":[{"ip":"10.0.0.9"},{"$patch":"delete","ip":"10.0.0.5"}]}}"#,
                held(&["10.0.0.9"], true),
            ),
            (
                r#"{"metadata":{"uid":"u"},"status":{"phase":"Failed"}}"#,
                PodState { ended: true, ..before.clone() },
            ),
            (
                r#"{"metadata":{"uid":"u"},"status":{"$setElementOrder/podIPs":[{"ip":"fd00::9"},{"ip":"10.0.0.5"}],
                    "podIP":"fd00::9","podIPs":[{"ip":"fd00::9"}]}}"#,
                held(&["fd00::9", "10.0.0.5"], true),
            ),
            (r#"{"metadata":{"uid":"u"},"status":{"podIP":"10.0.0.9"}}"#, held(&["10.0.0.9"], true)),
            (r#"{"metadata":{"uid":"u"}}"#, before.clone()),
        ];
        for (patch, expected) in cases {
            assert_eq!(before.patched("u", patch.as_bytes()), Ok(expected), "{patch}");
        }
    }

    #[test]
    fn a_patch_for_another_life_of_the_pod_or_without_an_address_is_refused() {
        let before = held(&["10.0.0.5"], true);
        let other = r#"{"metadata":{"uid":"other"},"status":{"phase":"Running"}}"#;
        assert_eq!(before.patched("u", other.as_bytes()), Err(PodError::OtherPod));
        let nonsense = r#"{"metadata":{"uid":"u"},"status":{"podIP":"here"}}"#;
        assert_eq!(before.patched("u", nonsense.as_bytes()), Err(PodError::Address));
        assert!(matches!(before.patched("u", b"{}"), Err(PodError::Patch(_))));
    }

    proptest! {
        #[test]
        fn no_patch_breaks_the_reader(text in ".{0,60}", ip in ".{0,20}") {
            let before = held(&["10.0.0.5"], true);
            let _ = before.patched("u", text.as_bytes());
            let patch = serde_json::json!({"metadata": {"uid": "u"}, "status": {"podIP": ip}}).to_string();
            let _ = before.patched("u", patch.as_bytes());
        }
    }
}
