//! Lists that are read from the cloud for a collection: they count while they come, and large ones of other users than
//! this node come one at a time, since each is in memory twice until its collection has it.

use std::time::Duration;

use bytes::BytesMut;
use edge_hub_core::{budget::Limits, collection::CollectionSpec, identity::Principal};
use http::{Response, header};
use http_body_util::BodyExt as _;

use super::{List, ListError, Shares};
use crate::{sync::lock, upstream::UpstreamBody};

/// A list up to this size waits for nobody.
const SMALL: usize = 256 * 1024;
/// The same of one that is packed, once it is here.
const SMALL_PACKED: usize = 8 * 1024;

impl Shares {
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
        let limit = self.list_limit;
        let is_others = *self.payer(sponsor) != self.node;
        let room = || match is_others {
            true => self.room_for_objects(spec, sponsor).saturating_sub(gathered),
            false => limit,
        };
        let is_packed = response.headers().contains_key(header::CONTENT_ENCODING);
        let mut frames = response.into_body();
        let (mut packed, mut turn) = (BytesMut::new(), None);
        loop {
            let frame =
                tokio::time::timeout(patience, frames.frame()).await.map_err(|_| ListError::Broken)?;
            let Some(frame) = frame else { break };
            let Ok(chunk) = frame.map_err(|_| ListError::Broken)?.into_data() else { continue };
            let size = packed.len() + chunk.len();
            if size > limit {
                return Err(ListError::TooLarge);
            }
            if size > room() {
                return Err(ListError::Share);
            }
            if is_others && size > SMALL && turn.is_none() {
                turn = self.lists.turn().await;
            }
            packed.extend_from_slice(&chunk);
        }
        if is_others && turn.is_none() && is_packed && packed.len() > SMALL_PACKED {
            turn = self.lists.turn().await;
        }
        Ok(List { packed: packed.freeze(), most: limit.min(room()), turn })
    }

    /// Bytes of objects that this user may have in this collection.
    fn room_for_objects(&self, spec: &CollectionSpec, user: &Principal) -> usize {
        let user = self.payer(user);
        let Limits { total, of_one_user, .. } = self.object_limits;
        if *user == self.node {
            return total;
        }
        let objects = lock(&self.objects);
        let here = objects.size_of(spec).filter(|_| objects.owner(spec) == Some(user)).unwrap_or(0);
        (of_one_user + here).saturating_sub(objects.held_by(user))
    }
}
