//! Prints what opening, committing and keeping cost here; nothing is asserted about time. Run with `--release
//! --nocapture` for figures that mean something.

mod stores;

use std::os::unix::fs::MetadataExt as _;
use std::time::Instant;

use bytes::Bytes;
use edge_hub_core::collection::Change;
use stores::{noise, object, open, recovered, spec, watermark};

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or_default()
}

#[test]
fn figures_of_opening_and_committing() {
    for objects in [500_u64, 10_000] {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = open(directory.path());
        // Objects of the API pack to a half and less.
        let raw = |at: u64| Bytes::from(noise(at, 1024).repeat(2));
        let puts = (0..objects).map(|at| Change::Put(object(&format!("pod-{at}"), at + 1, raw(at))));
        let started = Instant::now();
        store.apply(
            &spec("pods"),
            std::iter::once(Change::Reset).chain(puts).chain([watermark(objects)]).collect(),
        );
        store.flush().wait().unwrap();
        println!("{objects} objects of 2 KiB: relist durable in {:?}", started.elapsed());
        store.close().unwrap();
        let before = resident_kib();
        let started = Instant::now();
        let (store, found) = open(directory.path());
        println!(
            "  opened and verified in {:?}, {} KiB more resident",
            started.elapsed(),
            resident_kib().saturating_sub(before)
        );
        assert!(recovered(&found, &spec("pods")).complete);
        assert_eq!(recovered(&found, &spec("pods")).objects.len() as u64, objects);
        drop(found);
        for (batch, rounds) in [(1, 300), (64, 100), (1000, 20)] {
            let started = Instant::now();
            for round in 0..rounds {
                for at in 0..batch {
                    let version = objects + round * batch + at + 1;
                    let put =
                        Change::Put(object(&format!("pod-{}", version % objects), version, raw(version)));
                    store.apply(&spec("pods"), vec![put, watermark(version)]);
                }
                store.flush().wait().unwrap();
            }
            let seconds = started.elapsed().as_secs_f64();
            println!(
                "  {batch} changes a flush: {:.0} commits/s, {:.0} changes/s",
                rounds as f64 / seconds,
                (rounds * batch) as f64 / seconds
            );
        }
        let health = store.health();
        println!("  {} KiB live, {} KiB on disk", health.live_bytes >> 10, health.bytes_on_disk >> 10);
        let started = Instant::now();
        store.close().unwrap();
        println!("  closed in {:?}", started.elapsed());
    }
}

#[test]
fn a_file_that_grew_out_of_proportion_is_written_anew() {
    let directory = tempfile::tempdir().unwrap();
    let options =
        edge_hub::store::StoreOptions { compaction_floor: 1 << 20, ..stores::options(directory.path()) };
    let (store, _) = edge_hub::store::Store::open(options.clone()).unwrap();
    let mut version = 0;
    for _round in 0..6 {
        for at in 0..300 {
            version += 1;
            let put = Change::Put(object(&format!("pod-{at}"), version, noise(at, 4000)));
            store.apply(&spec("pods"), vec![put, watermark(version)]);
        }
        store.flush().wait().unwrap();
    }
    let before = store.health().bytes_on_disk;
    // Now nearly nothing is left, but what is must stay.
    let keep = Change::Put(object("keep", version + 1, noise(version, 4000)));
    store.apply(&spec("pods"), vec![Change::Reset, keep, watermark(version + 1)]);
    store.close().unwrap();
    let (store, found) = edge_hub::store::Store::open(options).unwrap();
    let after = store.health().bytes_on_disk;
    println!("{} KiB before, {} KiB after", before >> 10, after >> 10);
    assert!(after < before / 2, "{before} bytes before, {after} after");
    let pods = recovered(&found, &spec("pods"));
    assert!(pods.complete && found.quarantined.is_empty(), "{:?}", found.quarantined);
    assert_eq!(pods.objects, [object("keep", version + 1, noise(version, 4000))]);
}

#[test]
fn many_short_records_are_not_written_anew_for_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let options =
        edge_hub::store::StoreOptions { compaction_floor: 1 << 20, ..stores::options(directory.path()) };
    let (store, _) = edge_hub::store::Store::open(options).unwrap();
    // Whoever writes a file anew takes another one for it.
    let file = || std::fs::metadata(directory.path().join("engine/db/db")).ok().map(|file| file.ino());
    let (mut version, mut anew, mut last) = (0, 0, file());
    for _round in 0..6 {
        for at in 0..3000 {
            version += 1;
            let raw = noise(version, 150).repeat(40);
            store.apply(
                &spec("pods"),
                vec![Change::Put(object(&format!("pod-{at}"), version, raw)), watermark(version)],
            );
            if at % 100 == 0 {
                store.flush().wait().unwrap();
                let now = file();
                anew += u32::from(now != last);
                last = now;
            }
        }
    }
    let health = store.health();
    println!(
        "{} KiB live, {} KiB on disk, anew {anew} times",
        health.live_bytes >> 10,
        health.bytes_on_disk >> 10
    );
    assert!(health.bytes_on_disk > 2 << 20 && anew <= 1, "{anew} times, {health:?}");
}
