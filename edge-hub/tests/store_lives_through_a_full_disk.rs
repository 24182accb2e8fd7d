//! A full disk costs evictable data and durability, never an answer, an object of the kubelet, or a restart.

mod stores;

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use bytes::Bytes;
use edge_hub::store::{BlobClass, Store};
use stores::{History, blob, noise, open, recovered, spec, state_of};

/// A small file system of its own; `None` where that is not allowed.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(test: &str) -> Option<(Self, tempfile::TempDir)> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
            .arg(folder.path())
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            println!("skipped: {test}: mounting a tmpfs needs root");
            return None;
        }
        Some((Self(folder.path().to_owned()), folder))
    }

    /// Takes all room but `spare` KiB.
    fn fill(&self, spare: usize) {
        let path = self.0.join("filler");
        let mut file = File::create(&path).unwrap();
        let mut bytes = 0_u64;
        while file.write_all(&[1; 4096]).is_ok() {
            bytes += 4096;
        }
        file.set_len(bytes.saturating_sub(spare as u64 * 1024)).unwrap();
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.0).output());
    }
}

/// Each flush is an attempt, so this ends as soon as the store has come to terms with the disk.
fn flush_until_durable(store: &Store) {
    for _attempt in 0..20 {
        if store.flush().wait().is_ok() {
            return;
        }
    }
    panic!("never durable again: {:?}", store.health());
}

fn check(directory: &Path, history: &History) {
    let (store, found) = open(directory);
    let pods = recovered(&found, &spec("pods"));
    assert!(pods.complete && !pods.rolled_back, "{:?}", found.quarantined);
    assert_eq!(state_of(pods), history.state);
    assert!(found.blobs.iter().any(|(key, _)| key.class == BlobClass::Token));
    store.close().unwrap();
}

#[test]
fn a_disk_that_fills_up_and_empties_again_needs_no_restart() {
    let Some((disk, _folder)) = SmallDisk::new("a_disk_that_fills_up_and_empties_again_needs_no_restart")
    else {
        return;
    };
    let directory = disk.0.join("store");
    let mut history = History::new(2000);
    let (store, _) = open(&directory);
    store.put(blob(BlobClass::Token, "t"), Bytes::from_static(b"token"));
    for number in 0..20 {
        store.put(blob(BlobClass::Event, &format!("{number}")), noise(number, 10_000));
    }
    store.apply(&spec("pods"), history.advance());
    store.flush().wait().unwrap();
    disk.fill(16);
    // What may be dropped is dropped, so that the rest goes on being durable.
    for number in 0..20 {
        store.apply(&spec("pods"), history.advance());
        store.put(blob(BlobClass::Single, "answer"), noise(number, 150_000));
        store.flush().wait().unwrap();
    }
    let health = store.health();
    println!("full: {health:?}");
    assert!(health.full && health.evicted > 0, "{health:?}");
    // What may not be dropped stays in memory when it is more than the reserve has room for.
    let mut refused = 0;
    for number in 0..20 {
        store.apply(&spec("pods"), history.advance());
        store.put(blob(BlobClass::Token, &number.to_string()), noise(number, 150_000));
        refused += u32::from(store.flush().wait().is_err());
    }
    println!("full to the brim: {refused} of 20 flushes refused, {:?}", store.health());
    assert!(refused > 0 && store.health().last_error.is_some());
    disk.empty();
    store.apply(&spec("pods"), history.advance());
    flush_until_durable(&store);
    println!("with room again: {:?}", store.health());
    store.close().unwrap();
    check(&directory, &history);
    assert_eq!(open(&directory).1.blobs.iter().filter(|(key, _)| key.class == BlobClass::Token).count(), 21);
}

#[test]
fn a_store_opens_on_a_full_disk() {
    let Some((disk, _folder)) = SmallDisk::new("a_store_opens_on_a_full_disk") else { return };
    let directory = disk.0.join("store");
    let mut history = History::new(2000);
    let (store, _) = open(&directory);
    store.put(blob(BlobClass::Token, "t"), Bytes::from_static(b"token"));
    for _ in 0..50 {
        store.apply(&spec("pods"), history.advance());
    }
    store.close().unwrap();
    disk.fill(0);
    check(&directory, &history);
    check(&directory, &history);
}
