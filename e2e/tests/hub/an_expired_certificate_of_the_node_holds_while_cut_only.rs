//! A cut may outlive the node's client certificate, and a node may boot with a wrong clock. While nobody can renew or
//! tell, the node's own kubelet is served with it; nobody else, no longer than the cut, and by no certificate that had
//! ended before it.

use e2e::cloud::LinkState;
use time::Duration;

use crate::rig::{Rig, eventually, run};

const OWN_PODS: &str = "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1";
/// Certificates are in force for a day; time enough to see this one hold.
const ENDS_SOON: Duration = Duration::seconds(5 - 24 * 60 * 60);

#[test]
fn a_certificate_that_ends_during_a_cut_holds_until_it_is_over() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        let valid = rig.kubelet();
        eventually(async || valid.get(OWN_PODS).await.ok().filter(|(status, _)| *status == 200)).await;
        let ends = time::OffsetDateTime::now_utc() + Duration::seconds(6);
        // One connection all the time: what held at its handshake need not hold now.
        let own = rig.kubelet_in("n1", ENDS_SOON).over_one_connection();
        assert_eq!(own.get(OWN_PODS).await.expect("an answer").0, 200, "while it is in force");
        rig.cut(LinkState::BlackHole).await;
        eventually(async || (time::OffsetDateTime::now_utc() > ends).then_some(())).await;
        let (status, body) = own.get(OWN_PODS).await.expect("an answer");
        assert_eq!(status, 200, "it was in force when the cut began: {body}");
        assert_eq!(body["items"].as_array().map(Vec::len), Some(1));
        rig.heal().await;
        rig.heal_seen().await;
        assert_eq!(own.get(OWN_PODS).await.expect("an answer").0, 401, "after the cut");
        rig.stop_hub().await;
    });
}

#[test]
fn a_certificate_of_another_time_holds_while_cut_only_if_the_clock_may_be_wrong() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        let valid = rig.kubelet();
        eventually(async || valid.get(OWN_PODS).await.ok().filter(|(status, _)| *status == 200)).await;
        // A year ago, long before the cut; and not yet, by a clock that is a year behind.
        for (days, while_cut) in [(-365, 401), (365, 200)] {
            let begins = Duration::days(days);
            let own = rig.kubelet_in("n1", begins);
            let (status, body) = own.get(OWN_PODS).await.expect("an answer");
            assert_eq!(status, 401, "while the cloud answers, days {days}: {body}");
            assert!(body["message"].as_str().is_some_and(|text| text.contains("does not hold")), "{body}");

            rig.cut(LinkState::BlackHole).await;
            assert_eq!(own.get(OWN_PODS).await.expect("an answer").0, while_cut, "while cut, days {days}");
            let other = rig.kubelet_in("n2", begins);
            assert_eq!(other.get(OWN_PODS).await.expect("an answer").0, 401, "another node, days {days}");

            rig.heal().await;
            rig.heal_seen().await;
            assert_eq!(own.get(OWN_PODS).await.expect("an answer").0, 401, "after the cut, days {days}");
        }
        rig.stop_hub().await;
    });
}
