//! Over sled and over redb, any history of calls leaves the same contents, and they are those of a plain map.

#[path = "stores/redb_engine.rs"]
mod redb_engine;
mod stores;

use std::collections::BTreeMap;

use bytes::Bytes;
use edge_hub::store::{BlobClass, Store, StoreOptions, engine::EngineOpener, open_sled};
use edge_hub_core::collection::{Change, CollectionSpec};
use proptest::prelude::*;
use stores::{State, blob, noise, object, spec, state_of, tombstone, watermark};

#[derive(Clone, Debug)]
enum Call {
    Put(u8, u32),
    Delete(u8),
    Forget(u8),
    Relist(Vec<u8>),
    Blob(u8, Option<u32>),
    Flush,
    Reopen,
}

fn call() -> impl Strategy<Value = Call> {
    let size = prop_oneof![8 => 0..400u32, 2 => 60_000..70_000u32, 1 => 150_000..300_000u32];
    prop_oneof![
        6 => (0..12u8, size.clone()).prop_map(|(name, size)| Call::Put(name, size)),
        3 => (0..12u8).prop_map(Call::Delete),
        2 => (0..12u8).prop_map(Call::Forget),
        1 => proptest::collection::vec(0..12u8, 0..6).prop_map(Call::Relist),
        3 => (0..12u8, proptest::option::of(size)).prop_map(|(name, size)| Call::Blob(name, size)),
        2 => Just(Call::Flush),
        1 => Just(Call::Reopen),
    ]
}

type Contents = (Vec<(CollectionSpec, State, bool)>, BTreeMap<String, Bytes>);

/// Every other one packs.
fn raw(version: u64, size: usize) -> Bytes {
    let times = if version.is_multiple_of(20) { 1 } else { 4 };
    noise(version, size.div_ceil(times)).repeat(times)[..size].to_vec().into()
}

fn contents(engine: EngineOpener, calls: &[(bool, Call)]) -> Contents {
    let directory = tempfile::tempdir().unwrap();
    let open = || {
        let options = StoreOptions { engine, ..stores::options(directory.path()) };
        Store::open(StoreOptions { engine, ..options }).unwrap()
    };
    let (mut store, _) = open();
    let mut version = 0;
    for (pods, call) in calls {
        version += 10;
        let collection = spec(if *pods { "pods" } else { "nodes" });
        let raw = |size: u32| raw(version, size as usize);
        let mut changes = match call {
            Call::Put(name, size) => vec![Change::Put(object(&name.to_string(), version, raw(*size)))],
            Call::Delete(name) => vec![Change::Delete(tombstone(&name.to_string(), version))],
            Call::Forget(name) => vec![Change::Forget(object(&name.to_string(), 0, "").key.clone(), version)],
            Call::Relist(names) => std::iter::once(Change::Reset)
                .chain(names.iter().map(|name| Change::Put(object(&name.to_string(), version, raw(9)))))
                .collect(),
            Call::Blob(name, Some(size)) => {
                store.put(blob(BlobClass::Single, &name.to_string()), raw(*size));
                continue;
            }
            Call::Blob(name, None) => {
                store.remove(blob(BlobClass::Single, &name.to_string()));
                continue;
            }
            Call::Flush => {
                store.flush().wait().unwrap();
                continue;
            }
            Call::Reopen => {
                store.close().unwrap();
                store = open().0;
                continue;
            }
        };
        changes.push(watermark(version));
        store.apply(&collection, changes);
    }
    store.close().unwrap();
    let (_store, found) = open();
    assert!(found.quarantined.is_empty(), "{:?}", found.quarantined);
    let mut collections: Vec<_> =
        found.collections.iter().map(|found| (found.spec.clone(), state_of(found), found.complete)).collect();
    collections.sort_by(|one, other| one.0.cmp(&other.0));
    let text = |key: &[u8]| String::from_utf8(key.to_vec()).unwrap();
    (collections, found.blobs.into_iter().map(|(key, value)| (text(&key.key), value)).collect())
}

/// The same by a map.
fn model(calls: &[(bool, Call)]) -> Contents {
    let mut collections: BTreeMap<CollectionSpec, State> = BTreeMap::new();
    let mut blobs = BTreeMap::new();
    let mut version = 0;
    for (pods, call) in calls {
        version += 10;
        let raw = |size: u32| raw(version, size as usize);
        if let Call::Blob(name, size) = call {
            match size {
                Some(size) => blobs.insert(name.to_string(), raw(*size)),
                None => blobs.remove(&name.to_string()),
            };
        }
        if matches!(call, Call::Blob(..) | Call::Flush | Call::Reopen) {
            continue;
        }
        let state = collections.entry(spec(if *pods { "pods" } else { "nodes" })).or_default();
        match call {
            Call::Put(name, size) => drop(state.live.insert(name.to_string(), (version, raw(*size)))),
            Call::Delete(name) => {
                state.live.remove(&name.to_string());
                state.dead.insert(name.to_string(), version);
            }
            Call::Forget(name) => drop(state.dead.remove(&name.to_string())),
            Call::Relist(names) => {
                let live = names.iter().map(|name| (name.to_string(), (version, raw(9)))).collect();
                *state = State { live, dead: BTreeMap::new() };
            }
            Call::Blob(..) | Call::Flush | Call::Reopen => {}
        }
    }
    (collections.into_iter().map(|(spec, state)| (spec, state, true)).collect(), blobs)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 60, ..ProptestConfig::default() })]
    #[test]
    fn both_engines_hold_what_a_map_holds(calls in proptest::collection::vec((any::<bool>(), call()), 1..60)) {
        let expected = model(&calls);
        prop_assert_eq!(&contents(open_sled, &calls), &expected);
        prop_assert_eq!(&contents(redb_engine::open_redb, &calls), &expected);
    }
}
