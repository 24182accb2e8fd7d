//! Want of space: the reserve is given back, evictable data is dropped, and both are undone when there is room.

use std::{io, time::Instant};

use super::{CommitError, EVICTABLE, GUARD, Group, LEAST_ROOM, RETRY, Writer};
use crate::store::reserve;

/// Bytes that deleting so many records may take, in the journal and in the engine together.
fn deletions(records: usize) -> u64 {
    const EACH: u64 = 256;
    EACH.saturating_mul(records as u64)
}

impl Writer {
    /// Tries again with the reserve given back, then with evictable data dropped, a class at a time.
    pub(super) fn commit_in_small_room(
        &mut self,
        group: &Group,
        mut outcome: Result<(), CommitError>,
    ) -> Result<(), CommitError> {
        self.use_reserve();
        self.checkpoint();
        loop {
            match outcome {
                Err(CommitError::Full(_)) => outcome = self.commit(group),
                other => return other,
            }
            if matches!(outcome, Err(CommitError::Full(_))) && !self.evict_one() {
                return outcome;
            }
        }
    }

    /// Drops the next evictable thing: events, then discovery and single answers, then collections that are not
    /// critical. False when there is none or not even that could be written.
    pub(super) fn evict_one(&mut self) -> bool {
        let Some(live) = &self.live else { return false };
        let class =
            EVICTABLE.into_iter().find(|class| live.index.blobs.keys().any(|place| place.0 == *class));
        let dropped = if let Some(class) = class {
            let keys = live.index.blobs.keys().filter(|place| place.0 == class).count();
            let done = self.write_group(deletions(keys), |index, codec, emit| {
                index.stage_drop_class(codec, class, emit)
            });
            if done.is_ok() && !self.dropped.contains(&class) {
                self.dropped.push(class);
            }
            done
        } else {
            let (critical, room) = (self.options.critical, self.reserve.room());
            let victim = live
                .index
                .collections
                .iter()
                .filter(|(_, collection)| !critical(&collection.generation.spec))
                .filter(|(_, collection)| LEAST_ROOM + deletions(collection.records.len()) <= room)
                .max_by_key(|(_, collection)| {
                    collection.records.values().map(|entry| entry.length).sum::<usize>()
                })
                .map(|(id, collection)| {
                    (*id, collection.generation.spec.clone(), deletions(collection.records.len()))
                });
            let Some((id, spec, bytes)) = victim else { return false };
            let done =
                self.write_group(bytes, |index, codec, emit| index.stage_drop_collection(codec, id, emit));
            if done.is_ok() {
                // Asked for again when there is room, or it would come back at once.
                self.lost.insert(spec.clone());
                self.dropped_collections.push(spec);
            }
            done
        };
        if dropped.is_ok() {
            self.evictions += 1;
            let evictions = self.evictions;
            self.shared.note(|health| health.evicted = evictions);
        }
        dropped.is_ok()
    }

    /// Gives the reserve back to the file system; until it could be taken again the disk counts as full.
    pub(super) fn use_reserve(&mut self) {
        self.reserve.release();
        self.full = true;
        self.space_check = Some(Instant::now() + RETRY);
        self.shared.note(|health| health.full = true);
    }

    /// Takes the reserve, when there is room for it; makes some when there is not.
    pub(super) fn take_reserve(&mut self) {
        self.space_check = None;
        let taken = match self.reserve.room() {
            // Taken, it must leave more than what commits leave alone, or the next one would want it back.
            room if room < reserve::BYTES as u64 + 2 * GUARD => {
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            _ => self.reserve.take(),
        };
        match taken {
            Ok(()) => {
                self.full = false;
                self.shared.note(|health| health.full = false);
                let collections = std::mem::take(&mut self.dropped_collections);
                self.shared.want(collections, &std::mem::take(&mut self.dropped));
            }
            Err(error) => {
                self.use_reserve();
                self.shared
                    .note(|health| health.last_error = Some(format!("no room for the reserve: {error}")));
                self.evict_one();
            }
        }
    }
}
