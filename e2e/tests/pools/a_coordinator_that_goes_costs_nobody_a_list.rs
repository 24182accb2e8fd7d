//! A coordinator may vanish: every hub goes on by its own link at the version that it holds, and back, without a list of its
//! own or of a client.

use std::time::Duration;

use e2e::lab::NodePart;

use crate::stage::{COORDINATOR, LIMIT, POOL, Stage, Watchers, client_lists, request_count};

/// An orphan goes on by itself within 15 s; three times that, for a machine that does other things too.
const DIRECT_WITHIN: Duration = Duration::from_secs(45);

#[test]
fn a_coordinator_is_killed_and_comes_back_and_nobody_lists() {
    let test = "a_coordinator_is_killed_and_comes_back_and_nobody_lists";
    let Some(stage) = Stage::claim(test) else { return };
    let Some(watchers) = Watchers::start(&stage, test) else { return };
    let mark = stage.audit_mark();
    let asked = POOL.map(|node| request_count(&stage, node));

    stage.kill(COORDINATOR, NodePart::Coordinator).expect("killed");
    let before = watchers.slices();
    stage.change_slices(3, 1000);
    watchers.moved(&before);
    let took = stage.promised(DIRECT_WITHIN, "no hub is fed", || stage.none_fed());
    let agreed = watchers.agree("every informer holds what the cloud has without a coordinator");
    println!("without a coordinator: no hub believes in it after {took:?}, all caught up {agreed:?} later");

    stage.restart(COORDINATOR, NodePart::Coordinator).expect("ready");
    let took = stage.promised(LIMIT, "every hub is fed again", || stage.all_fed());
    println!("the coordinator is back: every hub is fed after {took:?}");
    let before = watchers.slices();
    stage.change_slices(3, 2000);
    watchers.moved(&before);
    watchers.agree("every informer holds what the cloud has with the coordinator back");

    let lists: Vec<String> =
        POOL.iter().zip(asked).flat_map(|(node, from)| client_lists(&stage, node, from)).collect();
    assert!(lists.is_empty(), "clients listed: {lists:#?}");
    let addresses = stage.addresses();
    let user = format!("eyot:pool-coordinator:pool-1:{COORDINATOR}");
    let lists: Vec<_> = stage
        .asked_since(mark)
        .into_iter()
        .filter(|asked| addresses.contains(&asked.address) && asked.user != user && asked.verb == "list")
        .collect();
    assert!(lists.is_empty(), "hubs listed: {lists:#?}");
    watchers.stop();
}
