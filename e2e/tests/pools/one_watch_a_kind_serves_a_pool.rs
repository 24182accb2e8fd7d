//! A pool costs the cloud what one informer costs: one watch for each kind, whatever its nodes are many.

use std::collections::BTreeMap;

use proto::coordinator::POOL_KINDS;

use crate::informer::OneInformer;
use crate::stage::{COORDINATOR, POOL, Stage, Watchers};

const CHANGES: usize = 100;

#[test]
fn through_a_hundred_changes_the_pool_has_one_watch_for_each_kind_and_its_hubs_none() {
    let test = "through_a_hundred_changes_the_pool_has_one_watch_for_each_kind_and_its_hubs_none";
    let Some(stage) = Stage::claim(test) else { return };
    stage.change_slices(1, 0);
    let mark = stage.audit_mark();
    let Some(watchers) = Watchers::start(&stage, test) else { return };
    let reference = OneInformer::start(&stage);
    let before = stage.upstream_bytes();
    let links = POOL.map(|node| stage.traffic_by_class(node).expect("counters"));

    stage.change_slices(CHANGES, 1);
    watchers.agree("every informer holds what the cloud has after the changes");

    let (pool, one) = (stage.upstream_bytes() - before, reference.bytes());
    println!("{CHANGES} changes: the pool received {pool} B of bodies, one informer {one} B");
    for (node, earlier) in POOL.iter().zip(&links) {
        let api = stage.traffic_by_class(node).expect("counters").api.since(&earlier.api);
        println!("{node}: {} B with the API server's port, of everything, TLS and TCP included", api.bytes());
    }
    assert!(one > 20_000, "the changes were seen: {one} B");
    #[expect(clippy::cast_precision_loss, reason = "a few hundred kilobytes")]
    let ratio = pool as f64 / one as f64;
    assert!(ratio <= 1.1, "{ratio:.3} times one informer");

    let addresses = stage.addresses();
    let user = format!("eyot:pool-coordinator:pool-1:{COORDINATOR}");
    let from_pool = stage.asked_since(mark).into_iter().filter(|asked| addresses.contains(&asked.address));
    let by_hubs: Vec<_> = from_pool.filter(|asked| asked.user != user).collect();
    assert!(by_hubs.is_empty(), "{by_hubs:#?}");
    let mut open: BTreeMap<String, i32> = BTreeMap::new();
    for asked in stage.asked_since(0).into_iter().filter(|asked| asked.user == user && asked.verb == "watch")
    {
        *open.entry(asked.resource).or_default() += if asked.stage == "ResponseStarted" { 1 } else { -1 };
    }
    let expected = POOL_KINDS.map(|(_, _, resource)| (resource.to_owned(), 1)).into();
    assert_eq!(open, expected, "watches of the coordinator that stand");
    watchers.stop();
}
