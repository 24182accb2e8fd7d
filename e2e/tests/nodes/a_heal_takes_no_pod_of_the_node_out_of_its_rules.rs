//! A cut outlives the controller's grace: the cloud says of each pod of the node that it is not ready, and goes on to say
//! so after healing, until the kubelet has repaired it. The node's own kube-proxy never loses these pods for that: it has
//! them where their kubelet has them.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use e2e::lab::Nodes;

use crate::stage::{LIMIT, NODE, READY_WITHIN, Stage};

/// Longer than the controller's grace of 20 s, and than the Lease was old.
const CUT: Duration = Duration::from_secs(60);

fn address_of(stage: &Stage, pod: &str) -> Option<IpAddr> {
    stage.own_addresses(NODE, pod).first().copied()
}

#[test]
fn a_heal_takes_no_pod_of_the_node_out_of_its_rules() {
    let Some(stage) = Stage::claim("a_heal_takes_no_pod_of_the_node_out_of_its_rules") else { return };
    let web = stage.pod_of("web", NODE);
    for moves in [false, true] {
        let before = address_of(&stage, &web).expect("it has an address");
        let sends_to = |address| stage.kube_proxy_sends_to(NODE, address).expect("nft answers");
        stage.promised(LIMIT, "kube-proxy knows the pod", || sends_to(before));
        // A node that has just joined has more to tell.
        stage.promised(LIMIT, "the kubelet has told all that it knows", || stage.has_told_all(NODE));
        stage.cut(&Nodes::from(NODE)).expect("cut");
        let mut now = before;
        if moves {
            stage.kill_sandbox(NODE, &web).expect("it runs");
            stage.promised(LIMIT, "the pod comes back at another address", || {
                now = address_of(&stage, &web).unwrap_or(before);
                now != before
            });
            stage.promised(LIMIT, "kube-proxy follows", || sends_to(now));
        }
        let in_cloud = || stage.endpoints_in_cloud("web").expect("the cloud answers");
        stage.promised(CUT, "the cloud gives the pod up", || !in_cloud().contains(&before));
        assert!(sends_to(now), "while cut it stays");
        stage.heal(&Nodes::All).expect("healed");
        let healed = Instant::now();
        let (mut looks, mut given_up) = (0, 0);
        stage.promised(READY_WITHIN, "the cloud has the pod back", || {
            let is_back = in_cloud().contains(&now);
            let held = sends_to(now);
            assert!(held, "moves {moves}: {:?} after healing the rules lost {now}", healed.elapsed());
            looks += 1;
            given_up += usize::from(!is_back);
            is_back
        });
        eprintln!(
            "moves {moves}: the cloud had the pod back {:?} after healing; {given_up} of {looks} looks before that, \
             and the rules had it each time",
            healed.elapsed()
        );
        assert!(given_up > 0, "the cloud had nothing to repair");
        stage.promised(LIMIT, "the lab settles", || {
            assert!(
                sends_to(now),
                "moves {moves}: {:?} after healing the rules lost {now}",
                healed.elapsed()
            );
            stage.is_settled()
        });
    }
}
