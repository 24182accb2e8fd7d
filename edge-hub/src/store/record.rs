//! The records of a store: how objects, generations and blobs are named, sealed and read back.
//!
//! Names on disk are keyed hashes, so that neither object names nor token hashes can be read from a stolen disk;
//! the real name stands inside the sealed record and is checked against the hash. A record of any size is cut
//! into chunks of 64 KiB under consecutive keys, because sled keeps bigger values in files it never removes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use edge_hub_core::collection::{CollectionSpec, Envelope, Object, Tombstone, Watermark};
use proto_kube::{
    gvr::GroupVersionResource,
    media_type::Format,
    object::{ObjectKey, TypeMeta},
    selector::{FieldSelector, LabelSelector},
};
use ring::{aead::LessSafeKey, hmac};
use serde::{Deserialize, Serialize};

use super::{
    engine::Op,
    key::AtRestKey,
    seal::{self, SealError},
    types::{BlobClass, BlobKey},
};

/// Longest value given to the engine.
pub(super) const CHUNK: usize = 64 << 10;
/// Kinds of logical keys: their first byte.
pub(super) const META: u8 = b'm';
pub(super) const MANIFEST: u8 = b'l';
pub(super) const GENERATION: u8 = b'c';
pub(super) const OBJECT: u8 = b'o';
pub(super) const BUCKET: u8 = b'g';
pub(super) const BLOB: u8 = b'b';

/// The hashed identity of a collection.
pub(super) type CollectionId = [u8; 8];
/// The hashed name of an object or a blob.
pub(super) type Name = [u8; 16];

/// The slot of a live object or of a tombstone, as used in a group.
pub(super) type SlotKey = (proto_kube::object::ObjectKey, Slot);

/// Which of the two records of an object key.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Slot {
    Live,
    Tombstone,
}

/// The sums over the records of one collection or of one bucket of blobs.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Digest {
    pub(super) count: u64,
    pub(super) marks: u128,
}

impl Digest {
    pub(super) fn add(&mut self, mark: u128) {
        self.count += 1;
        self.marks ^= mark;
    }

    pub(super) fn remove(&mut self, mark: u128) {
        self.count = self.count.saturating_sub(1);
        self.marks ^= mark;
    }
}

/// The generation record of a collection.
#[derive(Clone, Debug)]
pub(super) struct Generation {
    pub(super) spec: CollectionSpec,
    pub(super) watermark: Option<Watermark>,
    pub(super) digest: Digest,
    /// Something of this collection was once lost; true until it is replaced as a whole.
    pub(super) suspect: bool,
    /// Random, new in every commit: what the manifest knows this version by.
    pub(super) commit: u64,
}

/// The record above the generations: which version of each is the present one, and the sum over all blobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) commits: BTreeMap<CollectionId, u64>,
    pub(super) blobs: Digest,
}

/// An object or a tombstone as read back.
#[derive(Debug)]
pub(super) enum Stored {
    Live(Arc<Object>),
    Dead(Tombstone),
}

#[derive(Serialize, Deserialize)]
struct SpecOnDisk {
    gvr: (Box<str>, Box<str>, Box<str>),
    namespace: Option<Box<str>>,
    labels: String,
    fields: String,
    format: Format,
}

#[derive(Serialize, Deserialize)]
struct WatermarkOnDisk {
    resource_version: u64,
    horizon: u64,
    synced_unix: Duration,
    api_version: Box<str>,
    kind: Box<str>,
    list_kind: Box<str>,
    columns: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct GenerationOnDisk {
    spec: SpecOnDisk,
    watermark: Option<WatermarkOnDisk>,
    count: u64,
    marks: (u64, u64),
    suspect: bool,
    commit: u64,
}

/// The subkeys of the records.
pub(super) struct Codec {
    root: AtRestKey,
    names: hmac::Key,
    meta: LessSafeKey,
}

impl Codec {
    pub(super) fn new(root: &AtRestKey) -> Self {
        Self { root: root.clone(), names: root.mac(&[b"names"]), meta: root.aead(&[b"generations"]) }
    }

    /// The key for the records of one collection.
    pub(super) fn collection_key(&self, id: CollectionId) -> LessSafeKey {
        self.root.aead(&[b"objects", &id])
    }

    /// The key for the blobs of one class.
    pub(super) fn blob_key(&self, class: BlobClass) -> LessSafeKey {
        self.root.aead(&[b"blobs", &[class.code()]])
    }

    fn hash<const N: usize>(&self, parts: &[&[u8]]) -> [u8; N] {
        let mut context = hmac::Context::with_key(&self.names);
        for part in parts {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        let mut out = [0; N];
        out.copy_from_slice(&context.sign().as_ref()[..N]);
        out
    }

    pub(super) fn collection_id(&self, spec: &CollectionSpec) -> CollectionId {
        let text = serde_json::to_vec(&SpecOnDisk::from(spec)).expect("strings and enums always have JSON");
        self.hash(&[b"collection", &text])
    }

    pub(super) fn object_name(&self, id: CollectionId, key: &ObjectKey, slot: Slot) -> Name {
        let slot: &[u8] = if slot == Slot::Live { b"live" } else { b"dead" };
        self.hash(&[b"object", &id, key.namespace.as_bytes(), key.name.as_bytes(), slot])
    }

    pub(super) fn blob_name(&self, key: &BlobKey) -> Name {
        self.hash(&[b"blob", &[key.class.code()], &key.key])
    }

    /// Seals the generation record under its own key.
    pub(super) fn seal_generation(
        &self,
        id: CollectionId,
        generation: &Generation,
    ) -> Result<Vec<u8>, SealError> {
        let marks = generation.digest.marks.to_le_bytes();
        let on_disk = GenerationOnDisk {
            spec: SpecOnDisk::from(&generation.spec),
            watermark: generation.watermark.as_ref().map(WatermarkOnDisk::from),
            count: generation.digest.count,
            marks: (u64_at(&marks, 0), u64_at(&marks, 8)),
            suspect: generation.suspect,
            commit: generation.commit,
        };
        let plain = serde_json::to_vec(&on_disk).map_err(|_no_json| SealError)?;
        seal::seal(&self.meta, &key_of_generation(id), &plain)
    }

    pub(super) fn open_generation(&self, id: CollectionId, sealed: Vec<u8>) -> Option<Generation> {
        let plain = seal::open(&self.meta, &key_of_generation(id), sealed)?;
        let on_disk: GenerationOnDisk = serde_json::from_slice(&plain).ok()?;
        let spec = on_disk.spec.parse()?;
        let marks = u128::from(on_disk.marks.0) | u128::from(on_disk.marks.1) << 64;
        (self.collection_id(&spec) == id).then(|| Generation {
            spec,
            watermark: on_disk.watermark.map(WatermarkOnDisk::into_watermark),
            digest: Digest { count: on_disk.count, marks },
            suspect: on_disk.suspect,
            commit: on_disk.commit,
        })
    }

    pub(super) fn seal_manifest(&self, manifest: &Manifest) -> Result<Vec<u8>, SealError> {
        let mut plain = manifest.blobs.count.to_le_bytes().to_vec();
        plain.extend_from_slice(&manifest.blobs.marks.to_le_bytes());
        for (id, commit) in &manifest.commits {
            plain.extend_from_slice(id);
            plain.extend_from_slice(&commit.to_le_bytes());
        }
        seal::seal(&self.meta, &key_of_manifest(), &plain)
    }

    pub(super) fn open_manifest(&self, sealed: Vec<u8>) -> Option<Manifest> {
        let plain = seal::open(&self.meta, &key_of_manifest(), sealed)?;
        let mut reader = Reader { bytes: &plain, at: 0 };
        let count = u64::from_le_bytes(reader.take(8)?.try_into().ok()?);
        let marks = u128::from_le_bytes(reader.take(16)?.try_into().ok()?);
        let mut commits = BTreeMap::new();
        while let Some(id) = reader.take(8) {
            commits.insert(id.try_into().ok()?, u64::from_le_bytes(reader.take(8)?.try_into().ok()?));
        }
        Some(Manifest { commits, blobs: Digest { count, marks } })
    }

    /// Seals the sums of a bucket of blobs, or the number of the last applied group.
    pub(super) fn seal_small(&self, key: &[u8], values: (u64, u128)) -> Result<Vec<u8>, SealError> {
        seal::seal(&self.meta, key, &[&values.0.to_le_bytes()[..], &values.1.to_le_bytes()].concat())
    }

    pub(super) fn open_small(&self, key: &[u8], sealed: Vec<u8>) -> Option<(u64, u128)> {
        let plain = seal::open(&self.meta, key, sealed)?;
        let (first, second) = plain.split_at_checked(8)?;
        Some((u64::from_le_bytes(first.try_into().ok()?), u128::from_le_bytes(second.try_into().ok()?)))
    }
}

/// Seals an object (`deleted_unix` is `None`) or a tombstone and returns its mark.
pub(super) fn seal_object(
    key: &LessSafeKey,
    logical_key: &[u8],
    object: &Object,
    deleted_unix: Option<Duration>,
) -> Result<(u128, Vec<u8>), SealError> {
    let mark = seal::random::<16>()?;
    let mut plain = Vec::with_capacity(object.raw.len() + 128);
    plain.extend_from_slice(&mark);
    plain.push(u8::from(deleted_unix.is_some()));
    plain.extend_from_slice(&object.resource_version.to_le_bytes());
    let deleted_unix = deleted_unix.unwrap_or_default();
    plain.extend_from_slice(&deleted_unix.as_secs().to_le_bytes());
    plain.extend_from_slice(&deleted_unix.subsec_nanos().to_le_bytes());
    for text in [&object.key.namespace, &object.key.name, &object.uid] {
        put_text(&mut plain, text.as_bytes())?;
    }
    plain.extend_from_slice(&object.raw);
    Ok((u128::from_le_bytes(mark), seal::seal_packed(key, logical_key, &plain)?))
}

/// Opens what `seal_object` made; the caller still has to compare the name.
pub(super) fn open_object(key: &LessSafeKey, logical_key: &[u8], sealed: Vec<u8>) -> Option<(u128, Stored)> {
    let plain = seal::open(key, logical_key, sealed)?;
    let mut reader = Reader { bytes: &plain, at: 0 };
    let mark = u128::from_le_bytes(reader.take(16)?.try_into().ok()?);
    let dead = reader.take(1)?[0] != 0;
    let resource_version = u64::from_le_bytes(reader.take(8)?.try_into().ok()?);
    let seconds = u64::from_le_bytes(reader.take(8)?.try_into().ok()?);
    let nanos = u32::from_le_bytes(reader.take(4)?.try_into().ok()?);
    let object_key = ObjectKey { namespace: reader.text()?, name: reader.text()? };
    let uid = reader.text()?;
    let raw = plain.slice(reader.at..);
    let object = Arc::new(Object { key: object_key, uid, resource_version, raw });
    let stored = if dead {
        Stored::Dead(Tombstone { object, deleted_unix: Duration::new(seconds, nanos.min(999_999_999)) })
    } else {
        Stored::Live(object)
    };
    Some((mark, stored))
}

/// Seals a blob with its real key and returns its mark.
pub(super) fn seal_blob(
    key: &LessSafeKey,
    logical_key: &[u8],
    blob: &BlobKey,
    value: &[u8],
) -> Result<(u128, Vec<u8>), SealError> {
    let mark = seal::random::<16>()?;
    let mut plain = mark.to_vec();
    put_text(&mut plain, &blob.key)?;
    plain.extend_from_slice(value);
    let seal = if blob.class.is_packed() { seal::seal_packed } else { seal::seal };
    Ok((u128::from_le_bytes(mark), seal(key, logical_key, &plain)?))
}

/// Opens what `seal_blob` made: mark, real key, value.
pub(super) fn open_blob(
    key: &LessSafeKey,
    logical_key: &[u8],
    sealed: Vec<u8>,
) -> Option<(u128, Box<[u8]>, Bytes)> {
    let plain = seal::open(key, logical_key, sealed)?;
    let mut reader = Reader { bytes: &plain, at: 0 };
    let mark = u128::from_le_bytes(reader.take(16)?.try_into().ok()?);
    let blob_key = reader.block()?.into();
    Some((mark, blob_key, plain.slice(reader.at..)))
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) -> Result<(), SealError> {
    out.extend_from_slice(&u16::try_from(text.len()).map_err(|_too_long| SealError)?.to_le_bytes());
    out.extend_from_slice(text);
    Ok(())
}

fn u64_at(bytes: &[u8; 16], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight of sixteen bytes"))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    fn block(&mut self) -> Option<&'a [u8]> {
        let length = u16::from_le_bytes(self.take(2)?.try_into().ok()?);
        self.take(usize::from(length))
    }

    fn text(&mut self) -> Option<Box<str>> {
        Some(std::str::from_utf8(self.block()?).ok()?.into())
    }
}

/// Logical keys; the engine's keys add the number of the chunk.
pub(super) fn key_of_meta() -> [u8; 1] {
    [META]
}

pub(super) fn key_of_manifest() -> [u8; 1] {
    [MANIFEST]
}

/// What the meta record knows a sealed manifest by: its AEAD tag.
pub(super) fn tag_of(sealed: &[u8]) -> u128 {
    sealed.last_chunk().map_or(0, |tag| u128::from_le_bytes(*tag))
}

pub(super) fn key_of_generation(id: CollectionId) -> [u8; 9] {
    let mut key = [GENERATION; 9];
    key[1..].copy_from_slice(&id);
    key
}

pub(super) fn key_of_object(id: CollectionId, name: Name) -> [u8; 25] {
    let mut key = [OBJECT; 25];
    key[1..9].copy_from_slice(&id);
    key[9..].copy_from_slice(&name);
    key
}

pub(super) fn key_of_bucket(class: BlobClass, bucket: u8) -> [u8; 3] {
    [BUCKET, class.code(), bucket]
}

pub(super) fn key_of_blob(class: BlobClass, name: Name) -> [u8; 18] {
    let mut key = [BLOB; 18];
    key[1] = class.code();
    key[2..].copy_from_slice(&name);
    key
}

/// How many chunks a sealed record of this length has.
pub(super) fn chunks_of(length: usize) -> usize {
    length.div_ceil(CHUNK).max(1)
}

fn chunk_key(logical_key: &[u8], chunk: usize) -> Box<[u8]> {
    // 65536 chunks are 4 GiB, more than can be sealed.
    let number = u16::try_from(chunk).unwrap_or(u16::MAX);
    [logical_key, &number.to_be_bytes()].concat().into()
}

/// The writes that set a record where one of `old_length` bytes stood (0: none).
pub(super) fn put_ops(logical_key: &[u8], sealed: &[u8], old_length: usize, out: &mut dyn FnMut(Op)) {
    let chunks = chunks_of(sealed.len());
    for (number, chunk) in sealed.chunks(CHUNK).enumerate() {
        out(Op::Put(chunk_key(logical_key, number), chunk.to_vec()));
    }
    for number in chunks..chunks_of(old_length) {
        out(Op::Delete(chunk_key(logical_key, number)));
    }
}

/// The writes that remove a record of `length` bytes.
pub(super) fn delete_ops(logical_key: &[u8], length: usize, out: &mut dyn FnMut(Op)) {
    for number in 0..chunks_of(length) {
        out(Op::Delete(chunk_key(logical_key, number)));
    }
}

impl From<&CollectionSpec> for SpecOnDisk {
    fn from(spec: &CollectionSpec) -> Self {
        let gvr = &spec.gvr;
        Self {
            gvr: (gvr.group.clone(), gvr.version.clone(), gvr.resource.clone()),
            namespace: spec.namespace.clone(),
            labels: spec.labels.to_string(),
            fields: spec.fields.to_string(),
            format: spec.format,
        }
    }
}

impl SpecOnDisk {
    fn parse(self) -> Option<CollectionSpec> {
        let (group, version, resource) = self.gvr;
        Some(CollectionSpec {
            gvr: GroupVersionResource { group, version, resource },
            namespace: self.namespace,
            labels: LabelSelector::parse(&self.labels).ok()?,
            fields: FieldSelector::parse(&self.fields).ok()?,
            format: self.format,
        })
    }
}

impl From<&Watermark> for WatermarkOnDisk {
    fn from(watermark: &Watermark) -> Self {
        let envelope = &watermark.envelope;
        Self {
            resource_version: watermark.resource_version,
            horizon: watermark.horizon,
            synced_unix: watermark.synced_unix,
            api_version: envelope.type_meta.api_version.clone(),
            kind: envelope.type_meta.kind.clone(),
            list_kind: envelope.list_kind.clone(),
            // Columns are JSON text, and that is UTF-8.
            columns: envelope.columns.as_ref().and_then(|text| String::from_utf8(text.to_vec()).ok()),
        }
    }
}

impl WatermarkOnDisk {
    fn into_watermark(self) -> Watermark {
        Watermark {
            resource_version: self.resource_version,
            horizon: self.horizon,
            synced_unix: self.synced_unix,
            envelope: Envelope {
                type_meta: TypeMeta { api_version: self.api_version, kind: self.kind },
                list_kind: self.list_kind,
                columns: self.columns.map(Bytes::from),
            },
        }
    }
}
