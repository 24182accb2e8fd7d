//! A node whose own link is cut reaches the API server through the coordinator, by its own TLS: the cloud sees nothing of
//! the cut, while a node without such a way is lost to it.

use std::time::{Duration, Instant};

use e2e::lab::Nodes;

use crate::stage::{COORDINATOR, LIMIT, OTHER, POOL, Stage};

const NODE: &str = POOL[1];
/// The cut.
const CUT: Duration = Duration::from_secs(60);
/// The relay stands 3.5 s after a cut; three times that.
const RELAYED_WITHIN: Duration = Duration::from_millis(10_500);

#[test]
fn a_node_cut_for_a_minute_stays_ready_while_one_of_another_pool_is_lost() {
    let test = "a_node_cut_for_a_minute_stays_ready_while_one_of_another_pool_is_lost";
    let Some(stage) = Stage::claim(test) else { return };
    let pods = stage.pods();
    for node in [NODE, OTHER] {
        stage.cut(&Nodes::from(node)).expect("cut");
    }
    let cut_at = Instant::now();
    let by = |node: &str| stage.hub_status(node).unwrap_or_default()["link"]["relayedBy"].clone();
    let relayed = stage.promised(RELAYED_WITHIN, "the link is relayed", || by(NODE) == COORDINATOR);
    println!("relayed {relayed:?} after the cut");
    let mut lost = None;
    while cut_at.elapsed() < CUT {
        assert!(stage.is_ready(NODE), "NotReady {:?} after the cut", cut_at.elapsed());
        if lost.is_none() && !stage.is_ready(OTHER) {
            lost = Some(cut_at.elapsed());
        }
        // A look a second: the lab asks, nobody is told.
        e2e::lab::wait_until(Duration::from_secs(1), || false);
    }
    println!("{NODE} was Ready throughout, {OTHER} NotReady after {lost:?}");
    assert!(lost.is_some(), "{OTHER} has no way to the cloud and stays Ready");
    assert!(stage.is_cut(NODE).expect("nft answers"), "all of this happened before the heal");
    let events = stage.cloud("get events -A -o custom-columns=R:.reason --no-headers");
    assert_eq!(events.lines().filter(|reason| reason.contains("Evict")).count(), 0, "{events}");

    stage.heal(&Nodes::All).expect("healed");
    let direct = stage.promised(LIMIT, "the own link is used again", || by(NODE).is_null());
    let ready = stage.promised(LIMIT, "the lost node is back", || stage.is_ready(OTHER));
    println!("healed: by the own link again after {direct:?}; {OTHER} Ready {ready:?} later");
    assert_eq!(stage.pods(), pods, "no pod was evicted or restarted");
}
