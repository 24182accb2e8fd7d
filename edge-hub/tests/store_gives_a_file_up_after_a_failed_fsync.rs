//! An engine that fails is never trusted again: after a panic it is opened anew and brought up to the journal; after
//! a failed fsync its file is moved aside, a fresh one is asked to be filled, and until then the boot snapshot stands.

mod stores;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use edge_hub::store::{
    BlobClass, Store, StoreOptions,
    engine::{Engine, EngineError, Op},
};
use edge_hub_core::collection::Change;
use stores::{History, blob, noise, object, options, recovered, spec, state_of, watermark};

type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

/// Engines in memory, by the folder they would live in, and what is wrong with the next call.
static DISKS: Mutex<BTreeMap<PathBuf, Contents>> = Mutex::new(BTreeMap::new());
static FAULTS: Mutex<Vec<(PathBuf, Fault)>> = Mutex::new(Vec::new());

#[derive(Copy, Clone, PartialEq, Eq)]
enum Fault {
    Panic,
    Error,
    Sync,
    /// Of its end.
    Hang,
}

/// Like many an engine: what was not synced is lost when it is closed.
struct Memory {
    folder: PathBuf,
    contents: Contents,
}

fn open_memory(folder: &Path) -> Result<Box<dyn Engine>, EngineError> {
    // Its file, so that renaming and removing the folder moves the contents along.
    let id = folder.join("id");
    let name = match std::fs::read_to_string(&id) {
        Ok(name) => PathBuf::from(name),
        Err(_) => {
            let name = format!("{}-{}", folder.display(), DISKS.lock().unwrap().len());
            std::fs::write(&id, &name).unwrap();
            PathBuf::from(name)
        }
    };
    let contents = DISKS.lock().unwrap().entry(name.clone()).or_default().clone();
    Ok(Box::new(Memory { folder: name, contents }))
}

fn break_next(directory: &Path, fault: Fault) {
    FAULTS.lock().unwrap_or_else(PoisonError::into_inner).push((directory.to_owned(), fault));
}

fn due(folder: &Path, faults: &[Fault]) -> Option<Fault> {
    let mut all = FAULTS.lock().unwrap_or_else(PoisonError::into_inner);
    let at =
        all.iter().position(|(directory, fault)| folder.starts_with(directory) && faults.contains(fault))?;
    Some(all.remove(at).1)
}

impl Engine for Memory {
    fn scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), EngineError> {
        for (key, value) in self.contents.iter().filter(|(key, _)| key.starts_with(prefix)) {
            visit(key, value);
        }
        Ok(())
    }

    fn write(&mut self, batch: &[Op]) -> Result<(), EngineError> {
        for op in batch {
            match op {
                Op::Put(key, value) => drop(self.contents.insert(key.to_vec(), value.clone())),
                Op::Delete(key) => drop(self.contents.remove(&**key)),
            }
            // In the middle of the batch, so that it is torn.
            match due(&self.folder, &[Fault::Panic, Fault::Error]) {
                Some(Fault::Panic) => panic!("as engines do"),
                Some(_) => return Err(EngineError::Broken("input/output error".into())),
                None => {}
            }
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), EngineError> {
        if due(&self.folder, &[Fault::Sync]).is_some() {
            return Err(EngineError::Broken("fsync: input/output error".into()));
        }
        DISKS.lock().unwrap().insert(self.folder.clone(), self.contents.clone());
        Ok(())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if due(&self.folder, &[Fault::Hang]).is_some() {
            // As sled does after a write that failed.
            loop {
                std::thread::park();
            }
        }
    }
}

fn open(directory: &Path) -> (Store, edge_hub::store::Recovered) {
    Store::open(StoreOptions { engine: open_memory, ..options(directory) }).expect("the store opens")
}

#[test]
fn a_panic_or_an_error_in_the_middle_of_a_batch_loses_nothing() {
    for fault in [Fault::Panic, Fault::Error] {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = open(directory.path());
        let mut history = History::new(500);
        for step in 0..30 {
            if step % 4 == 0 {
                break_next(directory.path(), fault);
            }
            store.apply(&spec("pods"), history.advance());
            store.flush().wait().unwrap();
            assert_eq!(store.needs_refill(), None);
        }
        assert!(!store.health().failed);
        drop(store);
        let (_store, found) = open(directory.path());
        let pods = recovered(&found, &spec("pods"));
        assert!(pods.complete && !pods.rolled_back, "{:?}", found.quarantined);
        assert_eq!(state_of(pods), history.state);
    }
}

#[test]
fn an_engine_that_cannot_even_be_closed_holds_nothing_up() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        engine: open_memory,
        open_timeout: std::time::Duration::from_millis(50),
        ..options(directory.path())
    };
    let (store, _) = Store::open(options).expect("the store opens");
    let mut history = History::new(500);
    for _ in 0..3 {
        break_next(directory.path(), Fault::Error);
        break_next(directory.path(), Fault::Hang);
        store.apply(&spec("pods"), history.advance());
        store.flush().wait().unwrap();
    }
    store.close().unwrap();
    let (_store, found) = open(directory.path());
    let pods = recovered(&found, &spec("pods"));
    assert!(pods.complete && !pods.rolled_back, "{:?}", found.quarantined);
    assert_eq!(state_of(pods), history.state);
}

#[test]
fn after_a_failed_fsync_everything_is_asked_for_again() {
    let directory = tempfile::tempdir().unwrap();
    let (pods, nodes) = (spec("pods"), spec("nodes"));
    let (store, _) = open(directory.path());
    store.apply(&pods, vec![Change::Put(object("a", 1, "one")), watermark(1)]);
    store.apply(&nodes, vec![Change::Put(object("n", 1, "one")), watermark(1)]);
    store.put(blob(BlobClass::Token, "t"), Bytes::from_static(b"token"));
    store.close().unwrap();

    let (store, _) = open(directory.path());
    break_next(directory.path(), Fault::Sync);
    // Enough for a checkpoint, whose fsync then fails.
    let big = noise(1, 2 << 20);
    store.apply(
        &pods,
        vec![Change::Put(object("a", 2, "two")), Change::Put(object("big", 2, big)), watermark(2)],
    );
    store.flush().wait().unwrap();
    // The next group can only be committed after that.
    store.put(blob(BlobClass::Event, "e"), Bytes::from_static(b"event"));
    store.flush().wait().unwrap();
    let wanted = store.needs_refill().expect("the file was given up");
    assert_eq!(wanted.collections.len(), 2);
    assert_eq!(wanted.blobs, BlobClass::ALL);
    assert!(store.health().failed && store.health().needs_refill);

    // A start before the refill goes by the boot snapshot, and says that it is old.
    let early = tempfile::tempdir().unwrap();
    stores::copy(directory.path(), early.path());
    let (_early, found) = open(early.path());
    let found = recovered(&found, &pods);
    assert!(found.complete && found.rolled_back);
    assert_eq!(found.objects, [object("a", 1, "one")]);

    // Changes alone do not make a collection whole again.
    store.apply(&pods, vec![Change::Put(object("b", 3, "three")), watermark(3)]);
    store.flush().wait().unwrap();
    assert_eq!(store.needs_refill().map(|wanted| wanted.collections.len()), Some(2));
    let puts = [Change::Put(object("a", 2, "two")), Change::Put(object("b", 3, "three"))];
    store.apply(&pods, [Change::Reset].into_iter().chain(puts).chain([watermark(3)]).collect());
    store.apply(&nodes, vec![Change::Reset, Change::Put(object("n", 1, "one")), watermark(1)]);
    store.put(blob(BlobClass::Token, "t"), Bytes::from_static(b"token"));
    store.blobs_refilled();
    store.flush().wait().unwrap();
    assert_eq!(store.needs_refill(), None);
    store.close().unwrap();

    let (_store, found) = open(directory.path());
    assert!(found.quarantined.is_empty(), "{:?}", found.quarantined);
    assert!(found.collections.iter().all(|found| found.complete && !found.rolled_back));
    assert_eq!(state_of(recovered(&found, &pods)).live.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(found.blobs.len(), 2);
}
