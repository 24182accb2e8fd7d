//! Who asks: a user name with its groups, as the API server knows it.
//!
//! A principal is the whole identity that what the hub itself decides may depend on. `uid` and `extra` of a Kubernetes
//! user are left out of it on purpose: no built-in authorizer reads them, and a token's pod would split the cache without
//! need. Where somebody else asked about a user with such [`Details`], the answer is kept for exactly these.

use std::collections::BTreeMap;

use proto_kube::wire;
use serde::{Deserialize, Serialize};

/// User name prefix of node credentials.
pub const NODE_USER_PREFIX: &str = "system:node:";
/// User name prefix of service accounts; `NAMESPACE:NAME` follows.
pub const SERVICE_ACCOUNT_USER_PREFIX: &str = "system:serviceaccount:";
const AUTHENTICATED: &str = "system:authenticated";

/// Longest user or group name that is read back, in bytes.
const MAX_NAME_BYTES: usize = 4096;
/// Most groups that are read back.
const MAX_GROUPS: usize = 4096;

/// An authenticated identity: user name plus groups.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "UnsortedPrincipal")]
pub struct Principal {
    /// The user name, for example `system:node:a`.
    pub user: Box<str>,
    /// The groups, sorted and unique.
    pub groups: Box<[Box<str>]>,
}

/// What else the API server knows of a user; a decision of a foreign authorizer may depend on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Details {
    /// Unique over time.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub uid: Box<str>,
    /// Values by name, for example the pod that a token belongs to.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<Box<str>, Vec<Box<str>>>,
}

impl Details {
    /// Whether there is nothing else.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.uid.is_empty() && self.extra.is_empty()
    }

    /// Whether they are short enough to be remembered.
    #[must_use]
    pub fn is_short(&self) -> bool {
        let values = self.extra.iter().flat_map(|(name, values)| std::iter::once(name).chain(values));
        self.uid.len() + values.map(|text| text.len() + 1).sum::<usize>() <= MAX_NAME_BYTES
    }
}

/// What is on disk is not trusted to be sorted: equality of principals is what keeps their data apart.
#[derive(Deserialize)]
struct UnsortedPrincipal {
    user: Box<str>,
    groups: Vec<Box<str>>,
}

impl From<UnsortedPrincipal> for Principal {
    fn from(raw: UnsortedPrincipal) -> Self {
        Self::new(raw.user, raw.groups)
    }
}

impl Principal {
    /// A principal with the groups sorted and deduplicated.
    pub fn new(user: impl Into<Box<str>>, groups: impl IntoIterator<Item = impl Into<Box<str>>>) -> Self {
        let mut groups: Vec<Box<str>> = groups.into_iter().map(Into::into).collect();
        groups.sort_unstable();
        groups.dedup();
        Self { user: user.into(), groups: groups.into() }
    }

    /// The identity of the kubelet's client certificate on node `name`.
    pub fn node(name: &str) -> Self {
        Self::new(format!("{NODE_USER_PREFIX}{name}"), ["system:nodes", AUTHENTICATED])
    }

    /// The identity of a service account, as every token of it has it.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self::new(
            format!("{SERVICE_ACCOUNT_USER_PREFIX}{namespace}:{name}"),
            [
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                AUTHENTICATED.to_owned(),
            ],
        )
    }

    /// The node's name if this is a node credential (user *and* group, as the Node authorizer asks), else `None`.
    pub fn node_name(&self) -> Option<&str> {
        let name = self.user.strip_prefix(NODE_USER_PREFIX)?;
        let in_group = self.groups.binary_search_by(|group| (**group).cmp("system:nodes")).is_ok();
        (in_group && !name.is_empty()).then_some(name)
    }

    /// `(namespace, name)` if the user name is a service account's, else `None`.
    pub fn service_account_name(&self) -> Option<(&str, &str)> {
        let (namespace, name) = self.user.strip_prefix(SERVICE_ACCOUNT_USER_PREFIX)?.split_once(':')?;
        (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
    }

    /// A compact, injective encoding for store keys: `varint length, user, (varint length, group)*`.
    ///
    /// The number of groups stands first, so no key is a proper prefix of another one.
    pub fn to_key(&self) -> Vec<u8> {
        let size = self.groups.iter().map(|group| group.len() + 2).sum::<usize>() + self.user.len() + 4;
        let mut key = Vec::with_capacity(size);
        wire::put_varint(&mut key, self.groups.len() as u64);
        write_text(&mut key, &self.user);
        for group in &self.groups {
            write_text(&mut key, group);
        }
        key
    }

    /// Reads what [`Principal::to_key`] wrote; `None` for anything else, trailing bytes included.
    pub fn from_key(key: &[u8]) -> Option<Self> {
        let mut rest = key;
        let count = read_varint(&mut rest)?;
        if count > MAX_GROUPS {
            return None;
        }
        let user = read_text(&mut rest)?;
        let mut groups: Vec<Box<str>> = Vec::new();
        for _ in 0..count {
            let group = read_text(&mut rest)?;
            // Only the canonical form is read, so that one principal has one key.
            if groups.last().is_some_and(|last| **last >= *group) {
                return None;
            }
            groups.push(group);
        }
        rest.is_empty().then(|| Self { user, groups: groups.into() })
    }
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    wire::put_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// At most four bytes: nothing that is read here is longer than 2^28. An overlong form is refused.
fn read_varint(rest: &mut &[u8]) -> Option<usize> {
    let mut value = 0_usize;
    for shift in [0, 7, 14, 21] {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return (byte != 0 || shift == 0).then_some(value);
        }
    }
    None
}

fn read_text(rest: &mut &[u8]) -> Option<Box<str>> {
    let length = read_varint(rest)?;
    if length > MAX_NAME_BYTES {
        return None;
    }
    let (text, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    std::str::from_utf8(text).ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn groups_are_a_set() {
        let one = Principal::new("jo", ["b", "a", "b"]);
        assert_eq!(one, Principal::new("jo", ["a", "b"]));
        assert_eq!(one.groups.len(), 2);
    }

    #[test]
    fn a_node_is_known_by_user_and_group_together() {
        assert_eq!(Principal::node("a").node_name(), Some("a"));
        assert_eq!(Principal::new("system:node:a", ["system:authenticated"]).node_name(), None);
        assert_eq!(Principal::new("system:node:", ["system:nodes"]).node_name(), None);
    }

    #[test]
    fn a_service_account_has_its_three_groups() {
        let account = Principal::service_account("media", "engine");
        assert_eq!(account.service_account_name(), Some(("media", "engine")));
        let groups: Vec<&str> = account.groups.iter().map(AsRef::as_ref).collect();
        assert_eq!(
            groups,
            ["system:authenticated", "system:serviceaccounts", "system:serviceaccounts:media"]
        );
    }

    #[test]
    fn serde_restores_the_order() {
        let read: Principal = serde_json::from_str(r#"{"user":"jo","groups":["z","a","z"]}"#).expect("valid");
        assert_eq!(read, Principal::new("jo", ["a", "z"]));
    }

    proptest! {
        #[test]
        fn a_key_is_read_back(user in ".{0,40}", groups in proptest::collection::vec(".{0,200}", 0..8)) {
            let principal = Principal::new(user, groups);
            prop_assert_eq!(Principal::from_key(&principal.to_key()), Some(principal));
        }

        #[test]
        fn any_bytes_are_one_key_or_none(bytes in proptest::collection::vec(0_u8..8, 0..40)) {
            if let Some(principal) = Principal::from_key(&bytes) {
                prop_assert_eq!(principal.to_key(), bytes);
            }
        }
    }
}
