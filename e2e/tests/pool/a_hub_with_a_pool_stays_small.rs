//! What the pool costs a hub in memory: two idle hubs of one program beside each other, one with `pool:` and one without.
//!
//! By command, with what is installed on nodes: `EYOT_HUB_PROGRAM=target/dist/edge-hub`, after
//! `cargo build --profile dist -p edge-hub`. Otherwise the debug build is looked at, whose text is several times as large.

use crate::rig::{Rig, eventually, run};

/// The promise, in bytes.
const MORE: u64 = 3 * 512 * 1024;
/// What a debug build may take more: six times as much code.
const MORE_IN_DEBUG: u64 = MORE * 6;

#[test]
fn an_idle_hub_of_a_pool_takes_little_more_than_one_without() {
    run(async {
        let mut rig = Rig::new();
        let program = std::env::var_os("EYOT_HUB_PROGRAM");
        let limit = if program.is_some() { MORE } else { MORE_IN_DEBUG };
        rig.start_coordinator().await;
        rig.start_hubs_with(program, &["n1"]).await;
        for index in 0..2 {
            rig.informer(index).until(&[("a", "1"), ("b", "1")]).await;
        }
        eventually(async || rig.is_fed("n1").then_some(())).await;
        let [with, without] = [0, 1].map(|hub| rig.hub_memory(hub));
        println!("an idle hub: {} KiB with a pool, {} KiB without (PSS)", with / 1024, without / 1024);
        assert!(with <= without + limit, "{with} B with a pool, {without} B without");
    });
}
