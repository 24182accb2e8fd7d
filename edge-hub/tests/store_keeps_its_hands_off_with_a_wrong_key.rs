//! With the wrong key a store says so and leaves the directory as it was.

mod stores;

use std::fs;

use bytes::Bytes;
use edge_hub::store::{AtRestKey, BlobClass, Store, StoreError, StoreOptions};
use stores::{History, blob, files, open, options, recovered, spec, state_of};

#[test]
fn a_wrong_key_is_named_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut history = History::new(100);
    let (store, _) = open(directory.path());
    store.apply(&spec("pods"), history.advance());
    store.put(blob(BlobClass::Token, "t"), Bytes::from_static(b"token"));
    store.close().unwrap();
    let before: Vec<_> =
        files(directory.path()).into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
    let wrong = StoreOptions { key: AtRestKey::from_bytes(&[43; 32]), ..options(directory.path()) };
    let error = Store::open(wrong.clone()).expect_err("another key");
    assert!(matches!(error, StoreError::WrongKey(_)));
    assert!(error.to_string().contains("another key"), "{error}");
    let after: Vec<_> =
        files(directory.path()).into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
    assert!(before == after);
    // Damage to the fingerprint alone does not lock the owner out.
    let check = directory.path().join("key-check");
    for damage in [0, 40, 100] {
        let mut bytes = fs::read(&check).unwrap();
        bytes[damage] ^= 1;
        fs::write(&check, bytes).unwrap();
        assert!(matches!(Store::open(wrong.clone()), Err(StoreError::WrongKey(_))) || damage > 0);
        let (store, found) = open(directory.path());
        assert_eq!(state_of(recovered(&found, &spec("pods"))), history.state);
        assert_eq!(found.blobs.len(), 1);
        store.close().unwrap();
    }
}
