//! The boot snapshot: one small file with what a node cannot start without, whatever happens to the engine.

use std::{fs, io, time::Instant};

use super::{GUARD, Writer};
use crate::store::{
    engine::{EngineError, Op},
    frames::FrameWriter,
    record::{BLOB, BUCKET, CollectionId, OBJECT, key_of_generation},
    recovery::{guarded, rebuilding, snapshot_key},
    types::BlobClass,
};

impl Writer {
    /// Renews the boot snapshot, unless something that belongs into it is still to be refilled.
    pub(super) fn write_snapshot(&mut self) {
        self.snapshot_due = None;
        let waits = rebuilding(&self.paths.engine()).exists();
        let Some(live) = self.live.as_ref().filter(|_| !waits) else { return };
        self.last_snapshot = Some(Instant::now());
        if self.reserve.room() < GUARD + live.index.live_bytes() {
            return self.shared.note(|health| health.last_error = Some("no room for a boot snapshot".into()));
        }
        let critical: Vec<CollectionId> = live
            .index
            .collections
            .iter()
            .filter(|(_, collection)| (self.options.critical)(&collection.generation.spec))
            .map(|(id, _)| *id)
            .collect();
        let blobs = BlobClass::ALL.into_iter().filter(|class| class.is_critical());
        let prefixes: Vec<Vec<u8>> =
            critical.into_iter().flat_map(prefixes_of).chain(blobs.flat_map(prefixes_of_class)).collect();
        let path = self.paths.snapshot();
        let temporary = path.with_extension("new");
        let (engine, sequence) = (&live.engine, live.journal.sequence());
        let written = guarded(|| {
            let io = |error: io::Error| EngineError::from_io(&error);
            let mut file = FrameWriter::create_unnamed(&temporary, snapshot_key(&self.options.key), sequence)
                .map_err(io)?;
            let mut group = file.group();
            for prefix in &prefixes {
                engine.scan(prefix, &mut |key, value| group.push(&Op::Put(key.into(), value.to_vec())))?;
            }
            group.finish().map_err(io)?;
            file.publish(&temporary, &path).map_err(io)
        });
        if let Err(error) = written {
            drop(fs::remove_file(&temporary));
            self.shared.note(|health| health.last_error = Some(format!("boot snapshot: {error}")));
        }
    }
}

/// The first keys of the records that the boot snapshot keeps of a collection.
fn prefixes_of(id: CollectionId) -> [Vec<u8>; 2] {
    let mut object = vec![OBJECT];
    object.extend_from_slice(&id);
    [key_of_generation(id).to_vec(), object]
}

/// The first keys of the records that the boot snapshot keeps of a class of blobs.
fn prefixes_of_class(class: BlobClass) -> [Vec<u8>; 2] {
    [vec![BUCKET, class.code()], vec![BLOB, class.code()]]
}
