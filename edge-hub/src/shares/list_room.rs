//! Memory for lists that must be whole before a filter can be sure of them: one room for all clients together.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response, header, response::Parts};
use http_body_util::BodyExt as _;
use proto_kube::status::Status;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use crate::upstream::{UpstreamBody, decode::inflate_for, hop::strip_hop_headers};

/// What one permit stands for.
const PERMIT_BYTES: usize = 64 * 1024;
/// How long the cloud may pause inside a list.
const PATIENCE: Duration = Duration::from_secs(15);

/// The room. A list takes of it what it has come to, and gives it back when its body has been sent.
pub struct ListRoom {
    permits: Arc<Semaphore>,
    mib: usize,
}

/// A list that came whole.
pub struct Whole {
    /// The head of the answer.
    pub head: Parts,
    /// The whole list, unpacked.
    pub body: Bytes,
    /// To be kept for as long as parts of the body are.
    pub held: Option<OwnedSemaphorePermit>,
}

impl ListRoom {
    /// ListRoom for lists of so many MiB together, which is also the most that one may have.
    #[must_use]
    pub fn new(mib: usize) -> Self {
        let permits = mib.saturating_mul(1024 * 1024) / PERMIT_BYTES;
        Self { permits: Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))), mib }
    }

    /// Reads an answer whole, unpacked.
    ///
    /// # Errors
    /// 429 while others have the room, 500 for a list that can never have it, 503 for one that breaks off.
    pub async fn read(&self, response: Response<UpstreamBody>) -> Result<Whole, Status> {
        let (mut head, mut packed) = response.into_parts();
        strip_hop_headers(&mut head.headers);
        let broken = || Status::service_unavailable("the answer of the cloud broke off");
        let mut inflate = inflate_for(&head.headers).ok_or_else(broken)?;
        let mut body = BytesMut::new();
        let mut held = None;
        while let Some(frame) = tokio::time::timeout(PATIENCE, packed.frame()).await.map_err(|_| broken())? {
            let Ok(chunk) = frame.map_err(|_| broken())?.into_data() else { continue };
            let plain = inflate.push(&chunk).map_err(|_| broken())?;
            self.extend(&mut held, body.len() + plain.len())?;
            body.extend_from_slice(&plain);
        }
        let rest = inflate.finish().map_err(|_| broken())?;
        self.extend(&mut held, body.len() + rest.len())?;
        body.extend_from_slice(&rest);
        forget_packing(&mut head.headers);
        Ok(Whole { head, body: body.freeze(), held })
    }

    /// Takes room for so many bytes in all.
    fn extend(&self, held: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> Result<(), Status> {
        let has = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let wanted = bytes.div_ceil(PERMIT_BYTES);
        if wanted <= has {
            return Ok(());
        }
        if wanted.saturating_mul(PERMIT_BYTES) > self.mib.saturating_mul(1024 * 1024) {
            return Err(self.never());
        }
        let missing = u32::try_from(wanted - has).map_err(|_| self.never())?;
        match Arc::clone(&self.permits).try_acquire_many_owned(missing) {
            Ok(more) => match held {
                Some(held) => held.merge(more),
                None => *held = Some(more),
            },
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => {
                let text = "the lists that this node's hub filters for clients take all the room that it has for them";
                return Err(Status::too_many_requests(text, 1));
            }
        }
        Ok(())
    }

    fn never(&self) -> Status {
        Status::internal(&format!(
            "the list is larger than the {} MiB of limits.listMib that this node's hub can filter; ask for pages of it \
             (limit)",
            self.mib
        ))
    }
}

fn forget_packing(headers: &mut HeaderMap) {
    headers.remove(header::CONTENT_ENCODING);
    headers.remove(header::CONTENT_LENGTH);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_is_shared_and_given_back_and_nobody_waits_for_what_can_never_be() {
        let room = ListRoom::new(1);
        let mib = 1024 * 1024;
        let (mut first, mut second) = (None, None);
        for bytes in [0, 1, 600 * 1024] {
            room.extend(&mut first, bytes).expect("there is room");
        }
        let code = |held: &mut _, bytes| room.extend(held, bytes).map_err(|status| status.code);
        assert_eq!(code(&mut second, 300 * 1024), Ok(()));
        assert_eq!(code(&mut second, 600 * 1024), Err(429));
        assert_eq!(code(&mut second, mib + 1), Err(500));
        drop(first);
        assert_eq!(code(&mut second, mib), Ok(()));
    }
}
