//! A store that was closed and opened again gives back exactly the last state of everything, and nothing else.

mod stores;

use bytes::Bytes;
use edge_hub::store::{Attempt, BlobClass, Refill, Store};
use edge_hub_core::collection::Change;
use stores::{
    History, State, blob, envelope, noise, object, open, recovered, spec, state_of, tombstone, watermark,
};

#[test]
fn a_long_history_comes_back_as_its_last_state() {
    let directory = tempfile::tempdir().unwrap();
    let mut history = History::new(3000);
    for _reopened in 0..4 {
        let (store, found) = open(directory.path());
        assert!(found.quarantined.is_empty(), "{:?}", found.quarantined);
        if history.step > 0 {
            let collection = recovered(&found, &spec("pods"));
            assert!(collection.complete && !collection.rolled_back);
            assert_eq!(state_of(collection), history.state);
            let mark = collection.watermark.as_ref().unwrap();
            assert_eq!((mark.resource_version, mark.horizon), (history.version(), history.version() / 2));
            assert_eq!(mark.synced_unix.as_secs(), 1_700_000_000 + history.version());
            assert_eq!(mark.envelope, envelope());
            let uid = &collection.objects[0].uid;
            assert_eq!(**uid, format!("uid-of-{}", collection.objects[0].key.name));
        }
        for step in 0..55 {
            store.apply(&spec("pods"), history.advance());
            if step % 3 == 0 {
                store.flush().wait().unwrap();
            }
        }
        store.close().unwrap();
    }
}

#[test]
fn a_tombstone_comes_back_whole_beside_its_successor() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let pods = spec("pods");
    store.apply(&pods, vec![Change::Put(object("a", 1, "one")), watermark(1)]);
    store.apply(&pods, vec![Change::Delete(tombstone("a", 2)), watermark(2)]);
    store.flush().wait().unwrap();
    store.apply(&pods, vec![Change::Put(object("a", 3, "two")), watermark(3)]);
    // A tombstone that was replaced is not forgotten in the name of the one before.
    store.apply(&pods, vec![Change::Forget(object("a", 0, "").key.clone(), 1), watermark(3)]);
    store.close().unwrap();
    let (store, found) = open(directory.path());
    let collection = recovered(&found, &pods);
    assert_eq!(collection.tombstones, [tombstone("a", 2)]);
    assert_eq!(collection.objects, [object("a", 3, "two")]);
    store.apply(&pods, vec![Change::Forget(object("a", 0, "").key.clone(), 2), watermark(4)]);
    store.close().unwrap();
    let (_store, found) = open(directory.path());
    assert!(recovered(&found, &pods).tombstones.is_empty());
}

#[test]
fn a_relist_replaces_the_old_state_as_a_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let pods = spec("pods");
    store.apply(&pods, vec![Change::Put(object("old", 1, "old")), watermark(5)]);
    store.flush().wait().unwrap();
    store.apply(&pods, vec![Change::Reset, Change::Put(object("new", 6, "new"))]);
    store.flush().wait().unwrap();
    store.close().unwrap();
    let (store, found) = open(directory.path());
    assert_eq!(recovered(&found, &pods).objects, [object("old", 1, "old")]);
    assert!(recovered(&found, &pods).complete);
    store.apply(&pods, vec![Change::Reset, Change::Put(object("new", 6, "new"))]);
    store.apply(&pods, vec![Change::Put(object("newer", 7, "newer")), watermark(8)]);
    store.close().unwrap();
    let (store, found) = open(directory.path());
    let collection = recovered(&found, &pods);
    assert_eq!(state_of(collection).live.keys().collect::<Vec<_>>(), ["new", "newer"]);
    assert!(collection.complete);
    // And with nothing after it, it means that the collection is not kept any more.
    store.apply(&pods, vec![Change::Reset]);
    store.close().unwrap();
    assert!(open(directory.path()).1.collections.is_empty());
}

#[test]
fn a_collection_is_complete_only_once_it_has_a_watermark() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    store.apply(&spec("pods"), vec![Change::Put(object("a", 1, "one"))]);
    store.apply(&spec("nodes"), vec![watermark(7)]);
    store.close().unwrap();
    let (_store, found) = open(directory.path());
    let pods = recovered(&found, &spec("pods"));
    assert!(!pods.complete && pods.watermark.is_none());
    assert_eq!(pods.objects.len(), 1);
    let nodes = recovered(&found, &spec("nodes"));
    assert!(nodes.complete && nodes.objects.is_empty());
    assert_eq!(found.collections.len(), 2);
}

#[test]
fn big_objects_and_blobs_grow_and_shrink() {
    let directory = tempfile::tempdir().unwrap();
    let sizes = [5 << 20, 10, 70_000, 65_536, 65_535, 1 << 20, 0];
    for (size, packs) in sizes.into_iter().flat_map(|size| [(size, false), (size, true)]) {
        let (store, _) = open(directory.path());
        let raw = if packs { Bytes::from(vec![0x5a; size]) } else { noise(1, size) };
        store.apply(&spec("secrets"), vec![Change::Put(object("big", 1, raw.clone())), watermark(1)]);
        store.put(blob(BlobClass::Discovery, "openapi"), raw.clone());
        store.put(blob(BlobClass::Token, "gone"), raw.clone());
        store.remove(blob(BlobClass::Token, "gone"));
        store.close().unwrap();
        let (store, found) = open(directory.path());
        assert!(found.quarantined.is_empty(), "{size}: {:?}", found.quarantined);
        let expected =
            State { live: [("big".to_owned(), (1, raw.clone()))].into(), dead: Default::default() };
        assert_eq!(state_of(recovered(&found, &spec("secrets"))), expected);
        assert_eq!(found.blobs, [(blob(BlobClass::Discovery, "openapi"), raw)]);
        store.close().unwrap();
    }
}

#[test]
fn blobs_of_every_class_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    for class in BlobClass::ALL {
        for number in 0..40 {
            store.put(blob(class, &format!("{number}")), Bytes::from(format!("{class:?} {number}")));
        }
    }
    store.flush().wait().unwrap();
    for class in BlobClass::ALL {
        store.remove(blob(class, "7"));
    }
    assert_eq!(store.needs_refill(), None::<Refill>);
    store.close().unwrap();
    let (_store, mut found) = open(directory.path());
    assert!(found.quarantined.is_empty());
    found.blobs.sort();
    let mut expected = Vec::new();
    for class in BlobClass::ALL {
        for number in (0..40).filter(|number| *number != 7) {
            expected.push((blob(class, &format!("{number}")), Bytes::from(format!("{class:?} {number}"))));
        }
    }
    expected.sort();
    assert_eq!(found.blobs, expected);
}

#[test]
fn a_directory_belongs_to_one_store_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let second = edge_hub::store::Store::open(stores::options(directory.path()));
    assert!(matches!(second, Err(edge_hub::store::StoreError::Locked(_))));
    store.apply(&spec("pods"), vec![watermark(3)]);
    store.close().unwrap();
    assert!(recovered(&open(directory.path()).1, &spec("pods")).complete);
}

#[test]
fn a_directory_is_waited_for_until_its_owner_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    store.apply(&spec("pods"), vec![watermark(3)]);
    let options = stores::options(directory.path());
    let (tell, told) = std::sync::mpsc::channel();
    let scratch = directory.path().join("scratch");
    let (next, mut attempts) = Store::start(scratch, move || {
        // Nobody listens any more once it is open.
        let _ = tell.send(());
        Ok(options.clone())
    })
    .unwrap();
    for _attempt in 0..3 {
        told.recv().expect("it is tried again");
    }
    assert!(next.health().memory_only && attempts.try_recv().is_err(), "that is no failure yet");
    next.put(blob(BlobClass::Token, "meanwhile"), Bytes::from_static(b"kept"));
    assert!(next.flush().wait().is_err(), "who asks is told so at once");
    store.close().unwrap();
    drop(store);
    let Some(Attempt::Open(found)) = attempts.blocking_recv() else { panic!("the directory is free") };
    assert!(recovered(&found, &spec("pods")).complete);
    next.close().unwrap();
    drop(next);
    let (_store, found) = open(directory.path());
    assert_eq!(found.blobs.len(), 1, "what came before the directory did is on disk");
}
