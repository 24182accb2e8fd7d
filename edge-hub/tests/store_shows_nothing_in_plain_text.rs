//! Neither names nor contents of what is kept can be read from the files of a store.

mod stores;

use std::fs;

use bytes::Bytes;
use edge_hub::store::BlobClass;
use edge_hub_core::collection::Change;
use stores::{blob, files, noise, object, open, spec, tombstone, watermark};

const CANARY: &[u8] = b"canary";

#[test]
fn no_canary_is_found_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let mut secrets = spec("canary-resource");
    secrets.namespace = Some("canary-namespace".into());
    let pods = spec("pods");
    for (number, version) in (1..60).enumerate() {
        // Some of it packs and some does not.
        let text = format!("canary {number} ").repeat(number * 20 + 1);
        let raw = Bytes::from([text.as_bytes(), &noise(version, number * 200)].concat());
        for spec in [&secrets, &pods] {
            let name = format!("canary-{number}");
            store.apply(spec, vec![Change::Put(object(&name, version, raw.clone())), watermark(version)]);
            if number % 7 == 0 {
                store.apply(spec, vec![Change::Delete(tombstone(&name, version)), watermark(version)]);
            }
        }
        for class in BlobClass::ALL {
            store.put(blob(class, &format!("canary key {number}")), raw.clone());
        }
        store.flush().wait().unwrap();
    }
    let scan = || {
        let mut bytes = 0;
        for path in files(directory.path()) {
            let text = match fs::read(&path) {
                // The open store has just replaced it; what took its place is found by the scan after the end.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                text => text.unwrap(),
            };
            if !path.ends_with("reserve") {
                bytes += text.len();
            }
            assert!(!text.windows(CANARY.len()).any(|window| window == CANARY), "{}", path.display());
        }
        bytes
    };
    assert!(scan() > 1 << 20, "something was written");
    store.close().unwrap();
    scan();
    assert!(directory.path().join("boot-snapshot").exists());
    let (store, found) = open(directory.path());
    assert_eq!(found.blobs.len(), 59 * BlobClass::ALL.len());
    store.close().unwrap();
}
