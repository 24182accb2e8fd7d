//! Lists that are read from the cloud for a collection: they count while they come, and large ones of other users than
//! this node come one at a time, since each is in memory twice until its collection has it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use edge_hub_core::{budget::Limits, collection::CollectionSpec, identity::Principal};
use http_body_util::BodyExt as _;
use hyper::Response;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{decode::inflate_for, hub::Hub, hub::lock, upstream::UpstreamBody};

/// A list up to this size waits for nobody.
const SMALL: usize = 256 * 1024;

/// Turns of large lists.
pub(super) struct Lists(Semaphore);

impl Default for Lists {
    fn default() -> Self {
        Self(Semaphore::new(1))
    }
}

/// A list that came whole, unpacked.
pub struct List<'a> {
    /// The text.
    pub body: Bytes,
    /// Bytes on the link.
    pub packed: usize,
    /// To be kept until the collection has taken what it wants.
    pub turn: Option<SemaphorePermit<'a>>,
}

/// Why a list was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// The connection died, or fell silent.
    #[error("the list broke off")]
    Broken,
    /// It cannot be unpacked.
    #[error("the list cannot be unpacked")]
    Packing,
    /// It is larger than any may be.
    #[error("the list is larger than limits.listMib")]
    TooLarge,
    /// It is larger than what its user may still have collected.
    #[error("the user has as many bytes of objects as limits.objectsMib leaves to one")]
    Share,
}

impl Hub {
    /// Reads a list for the collection `spec` on behalf of `sponsor`.
    ///
    /// # Errors
    /// [`ListError`].
    pub async fn read_list(
        &self,
        response: Response<UpstreamBody>,
        (spec, sponsor): (&CollectionSpec, &Principal),
        gathered: usize,
        patience: Duration,
    ) -> Result<List<'_>, ListError> {
        let limit = self.config.file.limits.list_mib.saturating_mul(1024 * 1024);
        let mut inflate = inflate_for(response.headers()).ok_or(ListError::Packing)?;
        let mut frames = response.into_body();
        let (mut body, mut packed, mut turn) = (BytesMut::new(), 0, None);
        let is_others = *self.shares.payer(sponsor) != self.node;
        loop {
            let frame =
                tokio::time::timeout(patience, frames.frame()).await.map_err(|_| ListError::Broken)?;
            let plain = match frame {
                None => inflate.finish().map_err(|_| ListError::Packing)?,
                Some(Err(_)) => return Err(ListError::Broken),
                Some(Ok(ref frame)) => {
                    let Some(chunk) = frame.data_ref() else { continue };
                    packed += chunk.len();
                    inflate.push(chunk).map_err(|_| ListError::Packing)?
                }
            };
            let size = body.len() + plain.len();
            if size.max(packed) > limit {
                return Err(ListError::TooLarge);
            }
            if is_others && self.room_for_objects(spec, sponsor) < gathered + size {
                return Err(ListError::Share);
            }
            if is_others && size > SMALL && turn.is_none() {
                // The semaphore is never closed.
                turn = self.shares.lists.0.acquire().await.ok();
            }
            body.extend_from_slice(&plain);
            if frame.is_none() {
                return Ok(List { body: body.freeze(), packed, turn });
            }
        }
    }

    /// Bytes of objects that this user may have in this collection.
    fn room_for_objects(&self, spec: &CollectionSpec, user: &Principal) -> usize {
        let user = self.shares.payer(user);
        let Limits { total, of_one_user, .. } = self.shares.object_limits;
        if *user == self.node {
            return total;
        }
        let objects = lock(&self.shares.objects);
        let here = objects.size_of(spec).filter(|_| objects.owner(spec) == Some(user)).unwrap_or(0);
        (of_one_user + here).saturating_sub(objects.held_by(user))
    }
}
