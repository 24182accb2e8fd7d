//! What the store tests share: made-up collections with a known history, and a directory to keep them in.
#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use edge_hub::store::{AtRestKey, BlobClass, BlobKey, Recovered, RecoveredCollection, Store, StoreOptions};
use edge_hub_core::collection::{Change, CollectionSpec, Envelope, Object, Tombstone};
use proto_kube::{
    gvr::GroupVersionResource,
    media_type::Format,
    object::{ObjectKey, TypeMeta},
    selector::{FieldSelector, LabelSelector},
};

pub(crate) fn key() -> AtRestKey {
    AtRestKey::from_bytes(&[42; 32])
}

pub(crate) fn options(directory: &Path) -> StoreOptions {
    StoreOptions {
        critical: |spec| &*spec.gvr.resource == "pods",
        ..StoreOptions::new(directory.into(), key())
    }
}

pub(crate) fn open(directory: &Path) -> (Store, Recovered) {
    Store::open(options(directory)).expect("the store opens")
}

pub(crate) fn spec(resource: &str) -> CollectionSpec {
    CollectionSpec {
        gvr: GroupVersionResource::new("", "v1", resource),
        namespace: None,
        labels: LabelSelector::parse("app=media,tier notin (db)").expect("a valid selector"),
        fields: FieldSelector::parse("spec.nodeName=a").expect("a valid selector"),
        format: Format::PROTOBUF,
    }
}

pub(crate) fn object(name: &str, resource_version: u64, raw: impl Into<Bytes>) -> Arc<Object> {
    Arc::new(Object {
        key: ObjectKey { namespace: "default".into(), name: name.into() },
        uid: format!("uid-of-{name}").into(),
        resource_version,
        raw: raw.into(),
    })
}

pub(crate) fn tombstone(name: &str, resource_version: u64) -> Tombstone {
    Tombstone {
        object: object(name, resource_version, "last state"),
        deleted_unix: Duration::new(1_700_000_000 + resource_version, 500),
    }
}

pub(crate) fn envelope() -> Envelope {
    Envelope {
        type_meta: TypeMeta { api_version: "v1".into(), kind: "Pod".into() },
        list_kind: "PodList".into(),
        columns: Some(Bytes::from_static(b"[{\"name\":\"Name\"}]")),
    }
}

pub(crate) fn watermark(resource_version: u64) -> Change {
    Change::Watermark {
        resource_version,
        horizon: resource_version / 2,
        synced_unix: Duration::from_secs(1_700_000_000 + resource_version),
        envelope: envelope(),
    }
}

pub(crate) fn blob(class: BlobClass, key: &str) -> BlobKey {
    BlobKey { class, key: key.as_bytes().into() }
}

/// A small generator, so that a seed says everything about a run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

/// Bytes that do not pack: what is written of them is what they are.
pub(crate) fn noise(seed: u64, length: usize) -> Bytes {
    let mut random = Random(seed);
    let words = std::iter::repeat_with(|| random.next().to_le_bytes());
    words.flatten().take(length).collect::<Vec<u8>>().into()
}

/// A collection as names and versions: of what is live, and of what was deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) live: BTreeMap<String, (u64, Bytes)>,
    pub(crate) dead: BTreeMap<String, u64>,
}

pub(crate) fn state_of(collection: &RecoveredCollection) -> State {
    State {
        live: collection
            .objects
            .iter()
            .map(|object| (object.key.name.to_string(), (object.resource_version, object.raw.clone())))
            .collect(),
        dead: collection
            .tombstones
            .iter()
            .map(|dead| (dead.object.key.name.to_string(), dead.object.resource_version))
            .collect(),
    }
}

pub(crate) fn recovered<'a>(recovered: &'a Recovered, spec: &CollectionSpec) -> &'a RecoveredCollection {
    recovered.collections.iter().find(|found| found.spec == *spec).expect("the collection is known")
}

/// A history in which the state at each step follows from the number of the step alone: some puts, a deletion
/// every fifth step, a forgotten tombstone every eleventh, and a relist that drops half every fortieth.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) step: u64,
    pub(crate) state: State,
    /// Longest object.
    pub(crate) size: u64,
}

impl History {
    pub(crate) fn new(size: u64) -> Self {
        Self { size, ..Self::default() }
    }

    pub(crate) fn at(size: u64, step: u64) -> Self {
        let mut history = Self::new(size);
        while history.step < step {
            history.advance();
        }
        history
    }

    fn value(&self, number: u64) -> Bytes {
        let seed = self.step << 8 | number;
        let length = usize::try_from(Random(seed).below(self.size)).expect("a size in memory");
        let head = format!("step {} number {number} ", self.step);
        // Every other one packs.
        let times = if seed.is_multiple_of(2) { 1 } else { 4 };
        [head.as_bytes(), &noise(seed, length / times).repeat(times)].concat().into()
    }

    /// One step; its changes end with the watermark of the step.
    pub(crate) fn advance(&mut self) -> Vec<Change> {
        self.step += 1;
        let version = self.step * 10;
        let mut changes = Vec::new();
        if self.step.is_multiple_of(40) {
            changes.push(Change::Reset);
            self.state.dead.clear();
            let mut even = false;
            self.state.live.retain(|_, _| std::mem::replace(&mut even, true) || self.step.is_multiple_of(80));
            for (name, (version, raw)) in &self.state.live {
                changes.push(Change::Put(object(name, *version, raw.clone())));
            }
        }
        for number in 0..3 {
            let name = format!("pod-{}", Random(self.step * 3 + number).below(30));
            let raw = self.value(number);
            changes.push(Change::Put(object(&name, version + number, raw.clone())));
            self.state.live.insert(name, (version + number, raw));
        }
        if self.step.is_multiple_of(5)
            && let Some((name, _)) = self.state.live.pop_first()
        {
            changes.push(Change::Delete(tombstone(&name, version + 5)));
            self.state.dead.insert(name, version + 5);
        }
        if self.step.is_multiple_of(11)
            && let Some((name, at)) = self.state.dead.pop_first()
        {
            let key = ObjectKey { namespace: "default".into(), name: name.into() };
            changes.push(Change::Forget(key, at));
        }
        changes.push(watermark(version + 9));
        changes
    }

    pub(crate) fn version(&self) -> u64 {
        self.step * 10 + 9
    }

    /// The step that a recovered watermark belongs to.
    pub(crate) fn step_of(collection: &RecoveredCollection) -> u64 {
        collection.watermark.as_ref().map_or(0, |watermark| watermark.resource_version / 10)
    }
}

/// All files below a folder, longest paths included.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { out.extend(files(&path)) } else { out.push(path) }
    }
    out.sort();
    out
}

/// Copies a folder with all that is in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}
