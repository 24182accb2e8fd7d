//! Reading an engine from top to bottom and believing only what adds up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use edge_hub_core::collection::{Object, Tombstone};
use ring::aead::LessSafeKey;

use super::{
    engine::{Engine, EngineError, Op},
    index::{CollectionIndex, Entry, Index},
    record::{
        self, BLOB, BUCKET, Codec, CollectionId, Digest, GENERATION, MANIFEST, OBJECT, Slot, Stored,
        delete_ops,
    },
    types::{BlobClass, BlobKey, Recovered, RecoveredCollection},
};

/// What a scan of an engine found.
#[derive(Default)]
pub(super) struct Scan {
    pub(super) index: Index,
    pub(super) recovered: Recovered,
    pub(super) garbage: Vec<Op>,
}

/// Reads and verifies everything, from the top: `tag` names the manifest (`None`: there is none to go by), the
/// manifest the generations, each of them its records. `doubt` makes every collection incomplete.
pub(super) fn scan(
    engine: &dyn Engine,
    codec: &Codec,
    doubt: Option<&str>,
    tag: Option<u128>,
) -> Result<Scan, EngineError> {
    let mut scan = Scan::default();
    let mut doubt = doubt;
    let mut manifest = None;
    records(engine, MANIFEST, &mut |_, sealed| {
        scan.index.manifest_length = sealed.len();
        if tag == Some(record::tag_of(&sealed)) {
            manifest = codec.open_manifest(sealed);
        }
    })?;
    if manifest.is_none() && tag.is_some_and(|tag| tag != 0) {
        doubt = Some("the manifest is lost or out of date");
    }
    if let Some(doubt) = doubt {
        scan.recovered.quarantined.push(doubt.to_owned());
    }
    let mut found: BTreeMap<CollectionId, FoundCollection> = BTreeMap::new();
    records(engine, GENERATION, &mut |key, sealed| {
        let id: Option<CollectionId> = key[1..].try_into().ok();
        let length = sealed.len();
        match id.and_then(|id| Some((id, codec.open_generation(id, sealed)?))) {
            Some((id, generation)) => {
                found.insert(id, FoundCollection::new(codec.collection_key(id), generation, length));
            }
            None => scan.drop_record(key, length, "the generation of a collection"),
        }
    })?;
    records(engine, OBJECT, &mut |key, sealed| scan.object(codec, &mut found, key, sealed))?;
    let expected = manifest.as_ref().map(|manifest| manifest.blobs);
    scan_blobs(engine, codec, doubt.is_some(), expected, &mut scan)?;
    for id in
        manifest.iter().flat_map(|manifest| manifest.commits.keys()).filter(|id| !found.contains_key(*id))
    {
        scan.recovered
            .quarantined
            .push(format!("a whole collection is lost (number {})", u64::from_le_bytes(*id)));
    }
    for (id, collection) in found {
        let known = manifest.as_ref().and_then(|manifest| manifest.commits.get(&id)).copied();
        let stale = tag.is_some() && known != Some(collection.generation.commit);
        if stale && doubt.is_none() {
            let note = format!("{}: its generation is not the last one", collection.generation.spec.gvr);
            scan.recovered.quarantined.push(note);
        }
        let (recovered, index) = collection.finish(stale || doubt.is_some(), &mut scan.recovered.quarantined);
        scan.recovered.collections.push(recovered);
        scan.index.collections.insert(id, index);
    }
    Ok(scan)
}

/// Puts the chunks of one kind of record together.
fn records(engine: &dyn Engine, kind: u8, visit: &mut dyn FnMut(&[u8], Vec<u8>)) -> Result<(), EngineError> {
    let mut current: (Vec<u8>, Vec<u8>) = Default::default();
    engine.scan(&[kind], &mut |key, value| {
        let Some((logical_key, _chunk)) = key.split_last_chunk::<2>() else { return };
        if logical_key != current.0 {
            let (key, sealed) = std::mem::take(&mut current);
            if !key.is_empty() {
                visit(&key, sealed);
            }
            current.0 = logical_key.to_vec();
        }
        // A missing or surplus chunk makes a record that does not open.
        current.1.extend_from_slice(value);
    })?;
    if !current.0.is_empty() {
        visit(&current.0, current.1);
    }
    Ok(())
}

impl Scan {
    /// Notes and drops what cannot be trusted.
    fn drop_record(&mut self, logical_key: &[u8], length: usize, what: &str) {
        self.recovered.quarantined.push(format!("{what} did not hold and was dropped"));
        delete_ops(logical_key, length, &mut |op| self.garbage.push(op));
    }

    fn object(
        &mut self,
        codec: &Codec,
        found: &mut BTreeMap<CollectionId, FoundCollection>,
        key: &[u8],
        sealed: Vec<u8>,
    ) {
        let length = sealed.len();
        let place =
            key[1..].split_first_chunk::<8>().and_then(|(id, name)| Some((*id, name.try_into().ok()?)));
        let Some((id, name)) = place else {
            return self.drop_record(key, length, "a record without a place");
        };
        let Some(collection) = found.get_mut(&id) else {
            return self.drop_record(key, length, "a record of a collection without generation");
        };
        let opened = record::open_object(&collection.key, key, sealed).filter(|(_, stored)| {
            let (object_key, slot) = match stored {
                Stored::Live(object) => (&object.key, Slot::Live),
                Stored::Dead(tombstone) => (&tombstone.object.key, Slot::Tombstone),
            };
            codec.object_name(id, object_key, slot) == name
        });
        let Some((mark, stored)) = opened else {
            let what = format!("a record of {}", collection.generation.spec.gvr);
            return self.drop_record(key, length, &what);
        };
        let mut tombstone = 0;
        match stored {
            Stored::Live(object) => collection.objects.push(object),
            Stored::Dead(dead) => {
                tombstone = dead.object.resource_version;
                collection.tombstones.push(dead);
            }
        }
        collection.sum.add(mark);
        collection.records.insert(name, Entry { mark, length, tombstone });
    }
}

/// A collection while its records come in.
struct FoundCollection {
    key: LessSafeKey,
    generation: record::Generation,
    generation_length: usize,
    sum: Digest,
    records: BTreeMap<record::Name, Entry>,
    objects: Vec<Arc<Object>>,
    tombstones: Vec<Tombstone>,
}

impl FoundCollection {
    fn new(key: LessSafeKey, generation: record::Generation, generation_length: usize) -> Self {
        Self {
            key,
            generation,
            generation_length,
            sum: Digest::default(),
            records: BTreeMap::new(),
            objects: Vec::new(),
            tombstones: Vec::new(),
        }
    }

    fn finish(self, doubt: bool, notes: &mut Vec<String>) -> (RecoveredCollection, CollectionIndex) {
        let mut generation = self.generation;
        if self.sum != generation.digest {
            notes.push(format!(
                "{}: {} records do not add up to the {} of the last commit",
                generation.spec.gvr, self.sum.count, generation.digest.count
            ));
        }
        generation.suspect |= doubt || self.sum != generation.digest;
        generation.digest = self.sum;
        let recovered = RecoveredCollection {
            spec: generation.spec.clone(),
            watermark: generation.watermark.clone(),
            objects: self.objects,
            tombstones: self.tombstones,
            complete: generation.watermark.is_some() && !generation.suspect,
            rolled_back: false,
        };
        let index = CollectionIndex {
            key: self.key,
            generation,
            generation_length: self.generation_length,
            records: self.records,
        };
        (recovered, index)
    }
}

/// Reads the blobs; all of a bucket whose sum does not hold are dropped, for one of them is stale or lost.
fn scan_blobs(
    engine: &dyn Engine,
    codec: &Codec,
    doubt: bool,
    total: Option<Digest>,
    scan: &mut Scan,
) -> Result<(), EngineError> {
    let mut expected: BTreeMap<(BlobClass, u8), Digest> = BTreeMap::new();
    records(engine, BUCKET, &mut |key, sealed| {
        let class = key.get(1).and_then(|code| BlobClass::from_code(*code));
        if let (Some(class), [_, _, bucket], Some((count, marks))) =
            (class, key, codec.open_small(key, sealed))
        {
            expected.insert((class, *bucket), Digest { count, marks });
        }
    })?;
    let keys: BTreeMap<BlobClass, LessSafeKey> =
        BlobClass::ALL.into_iter().map(|class| (class, codec.blob_key(class))).collect();
    let mut blobs = Vec::new();
    records(engine, BLOB, &mut |key, sealed| {
        let length = sealed.len();
        let class = key.get(1).and_then(|code| BlobClass::from_code(*code));
        let name: Option<record::Name> = key.get(2..).and_then(|name| name.try_into().ok());
        let opened = class.zip(name).and_then(|(class, name)| {
            let (mark, blob_key, value) = record::open_blob(&keys[&class], key, sealed)?;
            let blob_key = BlobKey { class, key: blob_key };
            (codec.blob_name(&blob_key) == name).then_some(((class, name), blob_key, mark, value))
        });
        match opened {
            Some((place, blob_key, mark, value)) => {
                scan.index.buckets.entry((place.0, place.1[0])).or_default().add(mark);
                scan.index.blobs.insert(place, Entry { mark, length, tombstone: 0 });
                blobs.push((place, blob_key, value));
            }
            None => scan.drop_record(key, length, "a blob"),
        }
    })?;
    let mut sum = Digest::default();
    for digest in expected.values() {
        sum.count += digest.count;
        sum.marks ^= digest.marks;
    }
    let doubt = doubt || total.is_some_and(|total| total != sum);
    scan.recovered.blobs_in_doubt = doubt;
    let all: BTreeSet<(BlobClass, u8)> = expected.keys().chain(scan.index.buckets.keys()).copied().collect();
    let bad: BTreeSet<(BlobClass, u8)> = all
        .into_iter()
        .filter(|bucket| {
            let sum = |sums: &BTreeMap<_, Digest>| sums.get(bucket).copied().unwrap_or_default();
            sum(&expected) != sum(&scan.index.buckets)
        })
        .collect();
    for (place, blob_key, value) in blobs {
        let bucket = (place.0, place.1[0]);
        // An access decision that may have been taken back is not worth keeping.
        if bad.contains(&bucket) || (doubt && place.0 == BlobClass::Access) {
            let length = scan.index.blobs.remove(&place).map_or(0, |entry| entry.length);
            let what = format!("a blob of the class {:?} that may be out of date", place.0);
            scan.drop_record(&record::key_of_blob(place.0, place.1), length, &what);
        } else {
            scan.recovered.blobs.push((blob_key, value));
        }
    }
    // Sums of what is left, so that the repair after this writes down the truth.
    let mut buckets: BTreeMap<(BlobClass, u8), Digest> =
        bad.into_iter().map(|bucket| (bucket, Digest::default())).collect();
    for (place, entry) in &scan.index.blobs {
        buckets.entry((place.0, place.1[0])).or_default().add(entry.mark);
    }
    scan.index.buckets = buckets;
    Ok(())
}
