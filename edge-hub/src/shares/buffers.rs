//! Memory for what is whole for a moment: bodies of requests, and answers of the cloud that are kept or filtered. It
//! counts until the client has read the answer.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use edge_hub_core::{
    budget::{Account, Limits, Short},
    identity::Principal,
};
use proto_kube::status::Status;

use crate::sync::lock;

/// The memory of all clients together.
#[derive(Clone)]
pub struct Buffers(Arc<Mutex<Account>>);

impl Buffers {
    pub(super) fn new(limits: Limits, node: &Principal) -> Self {
        Self(Arc::new(Mutex::new(Account::new(limits, node.clone()))))
    }

    /// A part of it for one user, empty at first.
    #[must_use]
    pub fn of(&self, user: &Principal) -> Held {
        Held { account: Arc::clone(&self.0), user: user.clone(), bytes: 0 }
    }

    /// Bytes in use.
    #[must_use]
    pub fn used(&self) -> usize {
        lock(&self.0).used()
    }
}

/// A part of the memory, given back when it is dropped.
pub struct Held {
    account: Arc<Mutex<Account>>,
    user: Principal,
    bytes: usize,
}

impl Held {
    /// Takes what is missing to so many bytes.
    ///
    /// # Errors
    /// 429, and nothing more is held than before.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), Status> {
        let missing = bytes.saturating_sub(self.bytes);
        lock(&self.account).take(&self.user, missing).map_err(|short| {
            let whose = match short {
                Short::Share => "this user has",
                Short::Total => "all clients together have",
            };
            let text = format!(
                "{whose} as many bytes of requests and unread answers at this node's hub as limits.buffersMib leaves"
            );
            Status::too_many_requests(&text, 1)
        })?;
        self.bytes += missing;
        Ok(())
    }

    /// Gives back what is more than so many bytes.
    pub fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.bytes.saturating_sub(bytes);
        lock(&self.account).give_back(&self.user, surplus);
        self.bytes -= surplus;
    }

    /// The bytes, which hold this part for as long as any of them is in use.
    #[must_use]
    pub fn of(self, bytes: Bytes) -> Bytes {
        if bytes.is_empty() { bytes } else { Bytes::from_owner(Counted { bytes, _held: self }) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        lock(&self.account).give_back(&self.user, self.bytes);
    }
}

struct Counted {
    bytes: Bytes,
    _held: Held,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_for_as_long_as_a_part_of_them_is_in_use() {
        let user = Principal::new("pod", ["system:authenticated"]);
        let buffers = Buffers::new(Limits::one_part_of(2, 1000), &Principal::node("a"));
        let mut held = buffers.of(&user);
        held.grow_to(400).expect("within the share");
        held.grow_to(300).expect("less than before takes nothing");
        assert_eq!(held.grow_to(501).map_err(|status| status.code), Err(429));
        let bytes = held.of(Bytes::from(vec![0; 400]));
        let tail = bytes.slice(399..);
        drop(bytes);
        assert_eq!(buffers.used(), 400);
        drop(tail);
        assert_eq!(buffers.used(), 0);
    }
}
