//! Whatever happens to the bytes of a store: opening it neither panics nor fails, and what it calls complete is
//! the last state that was durable (or, from the boot snapshot and marked so, an earlier one).

mod stores;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use edge_hub::store::{BlobClass, Recovered, Store, StoreOptions};
use stores::{History, Random, State, blob, copy, files, open, options, spec, state_of};

const RESOURCES: [&str; 2] = ["pods", "nodes"];
const STEPS: u64 = 60;

struct World {
    /// Closed in good order.
    closed: tempfile::TempDir,
    /// As a kill would have left it: the engine behind, the rest in the journal.
    killed: tempfile::TempDir,
    /// The engine as it was at an earlier checkpoint.
    earlier: tempfile::TempDir,
    last: State,
    every: BTreeSet<(String, u64, Bytes)>,
    states: Vec<State>,
    blobs: Vec<(edge_hub::store::BlobKey, Bytes)>,
}

fn world() -> World {
    let [closed, killed, earlier] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
    let mut history = History::new(2000);
    let mut every = BTreeSet::new();
    let mut states = vec![State::default()];
    let (mut store, _) = open(closed.path());
    let mut last_blobs = Vec::new();
    for step in 1..=STEPS {
        let changes = history.advance();
        for resource in RESOURCES {
            store.apply(&spec(resource), changes.clone());
        }
        last_blobs.clear();
        for class in [BlobClass::Token, BlobClass::Access, BlobClass::Single] {
            for number in 0..5 {
                let pair =
                    (blob(class, &format!("{number}")), Bytes::from(format!("{class:?} {number} {step}")));
                store.put(pair.0.clone(), pair.1.clone());
                last_blobs.push(pair);
            }
        }
        store.flush().wait().unwrap();
        every.extend(history.state.live.iter().map(|(name, (at, raw))| (name.clone(), *at, raw.clone())));
        states.push(history.state.clone());
        if step == STEPS / 2 {
            store.close().unwrap();
            copy(&closed.path().join("engine/db"), earlier.path());
            store = open(closed.path()).0;
        }
    }
    copy(closed.path(), killed.path());
    store.close().unwrap();
    last_blobs.sort();
    World { closed, killed, earlier, last: history.state.clone(), every, states, blobs: last_blobs }
}

#[derive(Debug, Default)]
struct Outcomes {
    current: usize,
    rolled_back: usize,
    incomplete: usize,
    missing: usize,
}

fn reopen(directory: &Path) -> Recovered {
    let options = StoreOptions { open_timeout: Duration::from_secs(20), ..options(directory) };
    let (store, found) = Store::open(options).expect("damage is no error");
    // What was found is also what the next start finds: damage was cut out, and is remembered.
    store.flush().wait().expect("the disk works");
    drop(store);
    found
}

fn check(world: &World, found: &Recovered, outcomes: &mut Outcomes, case: &str) {
    for resource in RESOURCES {
        let Some(collection) = found.collections.iter().find(|found| found.spec == spec(resource)) else {
            outcomes.missing += 1;
            continue;
        };
        let state = state_of(collection);
        for (name, (at, raw)) in &state.live {
            assert!(world.every.contains(&(name.clone(), *at, raw.clone())), "{case}: {name} was never so");
        }
        match (collection.complete, collection.rolled_back) {
            (true, false) => {
                assert_eq!(state, world.last, "{case}: a stale or wrong {resource} is called complete");
                outcomes.current += 1;
            }
            (true, true) => {
                let step = usize::try_from(History::step_of(collection)).unwrap();
                assert_eq!(state, world.states[step], "{case}: {resource} was never so");
                outcomes.rolled_back += 1;
            }
            (false, _) => outcomes.incomplete += 1,
        }
    }
    if !found.blobs_in_doubt {
        for pair in &found.blobs {
            assert!(world.blobs.contains(pair), "{case}: a stale or wrong blob {:?}", pair.0);
        }
    }
}

/// Damages one file of a copy of `from` in a way that the seed decides, opens it twice, and checks both.
fn strike(
    world: &World,
    from: &Path,
    seed: u64,
    damage: impl Fn(&mut Vec<u8>, &mut Random),
    out: &mut Outcomes,
) {
    let directory = tempfile::tempdir().unwrap();
    copy(from, directory.path());
    let mut random = Random(seed);
    let victims: Vec<PathBuf> = files(directory.path())
        .into_iter()
        .filter(|path| !path.ends_with("reserve") && !path.ends_with("lock"))
        .collect();
    // The database gets most of it, as it has most of the bytes.
    let database = directory.path().join("engine/db/db");
    let victim = if random.below(4) > 0 {
        database
    } else {
        victims[usize::try_from(random.below(victims.len() as u64)).unwrap()].clone()
    };
    let mut bytes = fs::read(&victim).unwrap();
    damage(&mut bytes, &mut random);
    fs::write(&victim, bytes).unwrap();
    let case = format!("seed {seed}, {}", victim.strip_prefix(directory.path()).unwrap().display());
    check(world, &reopen(directory.path()), out, &case);
    let again = open(directory.path()).1;
    check(world, &again, &mut Outcomes::default(), &format!("{case}, second start"));
}

fn at(bytes: &[u8], random: &mut Random) -> usize {
    // A sled file is mostly zeros behind its end; strike where something is.
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |at| at + 1);
    usize::try_from(random.below(end as u64)).unwrap()
}

#[test]
fn flipped_bits_are_never_served() {
    let world = world();
    let mut out = Outcomes::default();
    for seed in 0..60 {
        let from = if seed % 3 == 0 { &world.killed } else { &world.closed };
        let flip = |bytes: &mut Vec<u8>, random: &mut Random| {
            if !bytes.is_empty() {
                let place = at(bytes, random);
                bytes[place] ^= 1 << random.below(8);
            }
        };
        strike(&world, from.path(), seed, flip, &mut out);
    }
    println!("flipped bits: {out:?}");
    assert!(out.current > 0);
}

#[test]
fn zeroed_pages_and_cut_files_are_never_served() {
    let world = world();
    let mut out = Outcomes::default();
    for seed in 100..130 {
        let zero = |bytes: &mut Vec<u8>, random: &mut Random| {
            let page = at(bytes, random) / 4096 * 4096;
            let end = bytes.len().min(page + 4096);
            bytes[page.min(end)..end].fill(0);
        };
        strike(&world, world.closed.path(), seed, zero, &mut out);
        let cut = |bytes: &mut Vec<u8>, random: &mut Random| {
            let end = at(bytes, random);
            bytes.truncate(end);
        };
        strike(&world, world.closed.path(), seed + 1000, cut, &mut out);
    }
    println!("zeroed pages and cut files: {out:?}");
}

#[test]
fn an_older_copy_of_the_database_is_not_taken_for_the_present_one() {
    let world = world();
    let directory = tempfile::tempdir().unwrap();
    copy(world.closed.path(), directory.path());
    fs::remove_dir_all(directory.path().join("engine/db")).unwrap();
    copy(world.earlier.path(), &directory.path().join("engine/db"));
    let found = reopen(directory.path());
    assert_eq!(found.collections.len(), RESOURCES.len());
    assert!(found.collections.iter().all(|collection| !collection.complete), "{:?}", found.quarantined);
    assert!(!found.quarantined.is_empty());
    // And that is not forgotten by opening it once.
    assert!(open(directory.path()).1.collections.iter().all(|collection| !collection.complete));
}

#[test]
fn a_lost_database_is_replaced_by_the_boot_snapshot() {
    let world = world();
    for (from, what) in [(&world.closed, "closed"), (&world.killed, "killed")] {
        let directory = tempfile::tempdir().unwrap();
        copy(from.path(), directory.path());
        fs::write(directory.path().join("engine/db/conf"), b"nonsense").unwrap();
        fs::write(directory.path().join("engine/db/db"), vec![0xff; 100_000]).unwrap();
        let found = reopen(directory.path());
        let pods = found.collections.iter().find(|found| found.spec == spec("pods")).unwrap();
        assert!(pods.complete, "{what}: {:?}", found.quarantined);
        if what == "closed" {
            assert!(!pods.rolled_back);
            assert_eq!(state_of(pods), world.last);
            let tokens = found.blobs.iter().filter(|(key, _)| key.class == BlobClass::Token).count();
            assert_eq!(tokens, 5);
        }
        check(&world, &found, &mut Outcomes::default(), what);
        assert!(directory.path().join("quarantine-0").exists());
        let again = open(directory.path()).1;
        assert!(again.quarantined.is_empty(), "{:?}", again.quarantined);
    }
}
