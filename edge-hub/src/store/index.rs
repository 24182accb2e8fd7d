//! What is on disk, in memory: the mark and size of every record, and the generation of every collection. From it
//! a group of changes becomes writes, and the sums that prove them.

use std::collections::{BTreeMap, BTreeSet};

use edge_hub_core::collection::CollectionSpec;
use ring::aead::LessSafeKey;

use super::{
    engine::Op,
    queue::{Group, Pending, PendingCollection},
    record::{
        self, Codec, CollectionId, Digest, Generation, Manifest, Name, delete_ops, key_of_blob,
        key_of_bucket, key_of_generation, key_of_manifest, key_of_object, put_ops,
    },
    seal::{self, SealError},
    types::BlobClass,
};

/// One record on disk.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) mark: u128,
    /// Sealed bytes.
    pub(super) length: usize,
    /// Resource version of a tombstone, else 0.
    pub(super) tombstone: u64,
}

/// One collection on disk.
pub(super) struct CollectionIndex {
    pub(super) key: LessSafeKey,
    pub(super) generation: Generation,
    /// Sealed bytes of the generation record.
    pub(super) generation_length: usize,
    pub(super) records: BTreeMap<Name, Entry>,
}

/// Everything on disk.
#[derive(Default)]
pub(super) struct Index {
    pub(super) collections: BTreeMap<CollectionId, CollectionIndex>,
    pub(super) blobs: BTreeMap<(BlobClass, Name), Entry>,
    pub(super) buckets: BTreeMap<(BlobClass, u8), Digest>,
    /// Sealed bytes of the manifest.
    pub(super) manifest_length: usize,
}

/// What a group changes; becomes true with `Index::accept`, once the group is durable.
#[derive(Default)]
pub(super) struct Delta {
    collections: Vec<(CollectionId, Option<CollectionDelta>)>,
    blobs: Vec<((BlobClass, Name), Option<Entry>)>,
    buckets: BTreeMap<(BlobClass, u8), Digest>,
    manifest_length: usize,
}

struct CollectionDelta {
    generation: Generation,
    generation_length: usize,
    records: Vec<(Name, Option<Entry>)>,
}

impl Index {
    /// Sealed bytes of everything live.
    pub(super) fn live_bytes(&self) -> u64 {
        let objects = self.collections.values().flat_map(|collection| collection.records.values());
        objects.chain(self.blobs.values()).map(|entry| entry.length as u64).sum()
    }

    /// How many records are live.
    pub(super) fn live_records(&self) -> u64 {
        let objects: usize = self.collections.values().map(|collection| collection.records.len()).sum();
        (objects + self.blobs.len()) as u64
    }

    /// The specs of all collections.
    pub(super) fn specs(&self) -> impl Iterator<Item = &CollectionSpec> {
        self.collections.values().map(|collection| &collection.generation.spec)
    }

    /// The specs of collections that are not known to be whole.
    pub(super) fn suspects(&self) -> impl Iterator<Item = &CollectionSpec> {
        let suspect = self.collections.values().filter(|collection| collection.generation.suspect);
        suspect.map(|collection| &collection.generation.spec)
    }

    /// Turns a group into writes. Collections in `lost` are passed over until they are replaced as a whole.
    pub(super) fn stage(
        &self,
        codec: &Codec,
        group: &Group,
        lost: &BTreeSet<CollectionSpec>,
        emit: &mut dyn FnMut(Op),
    ) -> Result<Delta, SealError> {
        let mut delta = Delta::default();
        for (spec, pending) in &group.collections {
            if pending.reset || !lost.contains(spec) {
                let id = codec.collection_id(spec);
                delta.collections.push((id, self.stage_collection(codec, id, spec, pending, emit)?));
            }
        }
        for (key, value) in &group.blobs {
            let place = (key.class, codec.blob_name(key));
            let logical_key = key_of_blob(place.0, place.1);
            let old = self.blobs.get(&place);
            let new = match value {
                Some(value) => {
                    let (mark, sealed) =
                        record::seal_blob(&codec.blob_key(key.class), &logical_key, key, value)?;
                    put_ops(&logical_key, &sealed, old.map_or(0, |old| old.length), emit);
                    Some(Entry { mark, length: sealed.len(), tombstone: 0 })
                }
                None => {
                    if let Some(old) = old {
                        delete_ops(&logical_key, old.length, emit);
                    }
                    None
                }
            };
            self.stage_blob(&mut delta, place, new);
        }
        self.stage_sums(codec, &mut delta, emit)?;
        Ok(delta)
    }

    /// Writes that drop every blob of a class.
    pub(super) fn stage_drop_class(
        &self,
        codec: &Codec,
        class: BlobClass,
        emit: &mut dyn FnMut(Op),
    ) -> Result<Delta, SealError> {
        let mut delta = Delta::default();
        for (place, entry) in self.blobs.iter().filter(|(place, _)| place.0 == class) {
            delete_ops(&key_of_blob(place.0, place.1), entry.length, emit);
            self.stage_blob(&mut delta, *place, None);
        }
        self.stage_sums(codec, &mut delta, emit)?;
        Ok(delta)
    }

    /// Writes that drop one collection.
    pub(super) fn stage_drop_collection(
        &self,
        codec: &Codec,
        id: CollectionId,
        emit: &mut dyn FnMut(Op),
    ) -> Result<Delta, SealError> {
        let mut delta = Delta::default();
        if let Some(collection) = self.collections.get(&id) {
            for (name, entry) in &collection.records {
                delete_ops(&key_of_object(id, *name), entry.length, emit);
            }
            delete_ops(&key_of_generation(id), collection.generation_length, emit);
            delta.collections.push((id, None));
        }
        self.stage_sums(codec, &mut delta, emit)?;
        Ok(delta)
    }

    /// Writes that put down the present generations and sums, after damage was cut out.
    pub(super) fn stage_repair(&self, codec: &Codec, emit: &mut dyn FnMut(Op)) -> Result<Delta, SealError> {
        for (id, collection) in
            self.collections.iter().filter(|(_, collection)| collection.generation.suspect)
        {
            let sealed = codec.seal_generation(*id, &collection.generation)?;
            put_ops(&key_of_generation(*id), &sealed, collection.generation_length, emit);
        }
        let mut delta = Delta { buckets: self.buckets.clone(), ..Delta::default() };
        self.stage_sums(codec, &mut delta, emit)?;
        Ok(delta)
    }

    /// Puts down the sums of the buckets that changed, and the manifest above everything.
    fn stage_sums(
        &self,
        codec: &Codec,
        delta: &mut Delta,
        emit: &mut dyn FnMut(Op),
    ) -> Result<(), SealError> {
        for ((class, bucket), digest) in &delta.buckets {
            let key = key_of_bucket(*class, *bucket);
            put_ops(&key, &codec.seal_small(&key, (digest.count, digest.marks))?, 0, emit);
        }
        let mut manifest = Manifest::default();
        manifest.commits.extend(self.collections.iter().map(|(id, held)| (*id, held.generation.commit)));
        for (id, changed) in &delta.collections {
            match changed {
                Some(changed) => manifest.commits.insert(*id, changed.generation.commit),
                None => manifest.commits.remove(id),
            };
        }
        let untouched = self.buckets.iter().filter(|(bucket, _)| !delta.buckets.contains_key(bucket));
        for (_, digest) in untouched.chain(&delta.buckets) {
            manifest.blobs.count += digest.count;
            manifest.blobs.marks ^= digest.marks;
        }
        let sealed = codec.seal_manifest(&manifest)?;
        put_ops(&key_of_manifest(), &sealed, self.manifest_length, emit);
        delta.manifest_length = sealed.len();
        Ok(())
    }

    fn stage_blob(&self, delta: &mut Delta, place: (BlobClass, Name), new: Option<Entry>) {
        let bucket = (place.0, place.1[0]);
        let digest = delta
            .buckets
            .entry(bucket)
            .or_insert_with(|| self.buckets.get(&bucket).copied().unwrap_or_default());
        if let Some(old) = self.blobs.get(&place) {
            digest.remove(old.mark);
        }
        if let Some(new) = &new {
            digest.add(new.mark);
        }
        delta.blobs.push((place, new));
    }

    fn stage_collection(
        &self,
        codec: &Codec,
        id: CollectionId,
        spec: &CollectionSpec,
        pending: &PendingCollection,
        emit: &mut dyn FnMut(Op),
    ) -> Result<Option<CollectionDelta>, SealError> {
        let held = self.collections.get(&id);
        let key = held.map_or_else(|| codec.collection_key(id), |held| held.key.clone());
        let old = |name: &Name| held.and_then(|held| held.records.get(name));
        let mut digest = held.map(|held| held.generation.digest).unwrap_or_default();
        let mut records = Vec::new();
        let mut written = BTreeSet::new();
        for ((object_key, slot), value) in &pending.records {
            let name = codec.object_name(id, object_key, *slot);
            let logical_key = key_of_object(id, name);
            let sealed = match value {
                Pending::Live(object) => record::seal_object(&key, &logical_key, object, None)?,
                Pending::Dead(tombstone) => {
                    record::seal_object(&key, &logical_key, &tombstone.object, Some(tombstone.deleted_unix))?
                }
                Pending::Gone(up_to) => {
                    // A reset removes whatever is not written anyway.
                    let Some(old) = old(&name).filter(|old| !pending.reset && old.tombstone <= *up_to) else {
                        continue;
                    };
                    digest.remove(old.mark);
                    delete_ops(&logical_key, old.length, emit);
                    records.push((name, None));
                    continue;
                }
            };
            let (mark, sealed) = sealed;
            if let Some(old) = old(&name) {
                digest.remove(old.mark);
            }
            digest.add(mark);
            put_ops(&logical_key, &sealed, old(&name).map_or(0, |old| old.length), emit);
            let tombstone = match value {
                Pending::Dead(tombstone) => tombstone.object.resource_version,
                _ => 0,
            };
            records.push((name, Some(Entry { mark, length: sealed.len(), tombstone })));
            written.insert(name);
        }
        if pending.reset {
            for (name, entry) in held.iter().flat_map(|held| &held.records) {
                if !written.contains(name) {
                    digest.remove(entry.mark);
                    delete_ops(&key_of_object(id, *name), entry.length, emit);
                    records.push((*name, None));
                }
            }
        }
        let generation_length = held.map_or(0, |held| held.generation_length);
        if pending.reset && written.is_empty() && pending.watermark.is_none() {
            delete_ops(&key_of_generation(id), generation_length, emit);
            return Ok(None);
        }
        let before = held.map(|held| &held.generation).filter(|_| !pending.reset);
        let generation = Generation {
            spec: spec.clone(),
            watermark: pending
                .watermark
                .clone()
                .or_else(|| before.and_then(|generation| generation.watermark.clone())),
            digest,
            suspect: before.is_some_and(|generation| generation.suspect),
            commit: u64::from_le_bytes(seal::random()?),
        };
        let sealed = codec.seal_generation(id, &generation)?;
        put_ops(&key_of_generation(id), &sealed, generation_length, emit);
        Ok(Some(CollectionDelta { generation, generation_length: sealed.len(), records }))
    }

    /// Takes over what a durable group changed.
    pub(super) fn accept(&mut self, codec: &Codec, delta: Delta) {
        for (id, collection) in delta.collections {
            let Some(collection) = collection else {
                self.collections.remove(&id);
                continue;
            };
            let held = self.collections.entry(id).or_insert_with(|| CollectionIndex {
                key: codec.collection_key(id),
                generation: collection.generation.clone(),
                generation_length: 0,
                records: BTreeMap::new(),
            });
            held.generation = collection.generation;
            held.generation_length = collection.generation_length;
            for (name, entry) in collection.records {
                match entry {
                    Some(entry) => held.records.insert(name, entry),
                    None => held.records.remove(&name),
                };
            }
        }
        for (place, entry) in delta.blobs {
            match entry {
                Some(entry) => self.blobs.insert(place, entry),
                None => self.blobs.remove(&place),
            };
        }
        self.buckets.extend(delta.buckets);
        self.manifest_length = delta.manifest_length;
    }
}
