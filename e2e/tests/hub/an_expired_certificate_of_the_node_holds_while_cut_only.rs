//! A cut may outlive the node's client certificate, and a node may boot with a wrong clock. While nobody can renew or
//! tell, the node's own kubelet is served with it; nobody else, and no longer than the cut.

use e2e::cloud::LinkState;

use crate::rig::{Rig, eventually, run};

const OWN_PODS: &str = "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1";

#[test]
fn an_expired_certificate_of_the_node_holds_while_cut_only() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        let valid = rig.kubelet();
        eventually(async || valid.get(OWN_PODS).await.ok().filter(|(status, _)| *status == 200)).await;
        // A year ago; by a clock that is a year behind.
        for days in [-365, 365] {
            let own = rig.kubelet_in("n1", days);
            let (status, body) = own.get(OWN_PODS).await.expect("an answer");
            assert_eq!(status, 401, "while the cloud answers, days {days}: {body}");
            assert!(body["message"].as_str().is_some_and(|text| text.contains("does not hold")), "{body}");

            rig.cut(LinkState::BlackHole).await;
            let (status, body) = own.get(OWN_PODS).await.expect("an answer");
            assert_eq!(status, 200, "while cut, days {days}: {body}");
            assert_eq!(body["items"].as_array().map(Vec::len), Some(1));
            let other = rig.kubelet_in("n2", days);
            assert_eq!(other.get(OWN_PODS).await.expect("an answer").0, 401, "another node, days {days}");

            rig.heal().await;
            rig.heal_seen().await;
            assert_eq!(own.get(OWN_PODS).await.expect("an answer").0, 401, "after the cut, days {days}");
        }
        rig.stop_hub().await;
    });
}
