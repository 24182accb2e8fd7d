//! Killed at any moment, a store comes back as one state of its history, not older than what was acknowledged.

mod stores;

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use edge_hub::store::Recovered;
use stores::{History, Random, open, spec, state_of};

const CHILD: &str = "EYOT_STORE_TEST_DIRECTORY";
/// Longest objects of the two collections: one whose groups fit a frame, one whose groups do not.
const SIZES: [(&str, u64); 2] = [("pods", 2000), ("nodes", 60_000)];

fn steps(found: &Recovered) -> [u64; 2] {
    SIZES.map(|(resource, _)| {
        let found = found.collections.iter().find(|found| found.spec == spec(resource));
        found.map_or(0, History::step_of)
    })
}

fn write_until_killed(directory: &Path) {
    let (store, found) = open(directory);
    let [pods, nodes] = steps(&found);
    let mut histories = [History::at(SIZES[0].1, pods), History::at(SIZES[1].1, nodes)];
    let mut random = Random(pods);
    loop {
        for ((resource, _), history) in SIZES.iter().zip(&mut histories) {
            store.apply(&spec(resource), history.advance());
        }
        if random.below(3) == 0 {
            store.flush().wait().expect("the disk works");
            println!("acknowledged {} {}", histories[0].step, histories[1].step);
            std::io::stdout().flush().expect("the parent listens");
        }
    }
}

/// Both steps of a line of the child. (The test harness writes before the first one, on the same line.)
fn acknowledged(line: &str) -> Option<[u64; 2]> {
    let (pods, nodes) = line.split_once("acknowledged ")?.1.split_once(' ')?;
    Some([pods.parse().ok()?, nodes.parse().ok()?])
}

#[test]
fn what_was_acknowledged_survives_a_kill_and_nothing_is_half_there() {
    if let Some(directory) = std::env::var_os(CHILD) {
        return write_until_killed(Path::new(&directory));
    }
    let directory = tempfile::tempdir().unwrap();
    let mut random = Random(7);
    let mut histories = SIZES.map(|(_, size)| History::new(size));
    for round in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "what_was_acknowledged_survives_a_kill_and_nothing_is_half_there",
                "--nocapture",
            ])
            .env(CHILD, directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut acks = lines.filter_map(|line| acknowledged(&line));
        let mut last = [0, 0];
        for _ in 0..random.below(12) {
            last = acks.next().expect("the child writes until it is killed");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        last = acks.last().unwrap_or(last);
        let (store, found) = open(directory.path());
        assert!(found.quarantined.is_empty(), "round {round}: {:?}", found.quarantined);
        for (at, step) in steps(&found).into_iter().enumerate() {
            let history = &mut histories[at];
            assert!(step >= last[at].max(history.step), "round {round}: {step} is older than {}", last[at]);
            while history.step < step {
                history.advance();
            }
            let collection = found.collections.iter().find(|found| found.spec == spec(SIZES[at].0));
            if let Some(collection) = collection {
                assert!(collection.complete && !collection.rolled_back, "round {round}");
                assert_eq!(state_of(collection), history.state, "round {round}");
            }
        }
        store.close().unwrap();
    }
    assert!(histories.iter().all(|history| history.step > 20), "the children wrote something");
    println!("steps after 12 kills: {:?}", histories.map(|history| history.step));
}
