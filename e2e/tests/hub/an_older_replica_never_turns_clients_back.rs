//! With several API servers, one that lags behind never shows a client the past.

use e2e::cloud::LinkState;
use e2e::cloud::model::Replica;

use crate::rig::{Informer, Rig, run};

#[test]
fn a_change_of_server_to_one_that_lags_shows_nothing_twice_and_nothing_old() {
    run(async {
        let mut rig = Rig::new();
        rig.add_server(1);
        rig.cloud.freeze(1);
        rig.start_hub().await;
        let mut informer = Informer::new(rig.pod());
        informer.until(&[("a", "1"), ("b", "1")]).await;
        rig.put("a", "2");
        rig.remove("b");
        informer.until(&[("a", "2")]).await;
        // Only the replica that still shows a=1 and b is left.
        let mark = rig.cloud.mark();
        rig.cloud.set_link(0, LinkState::Refused).await;
        rig.cloud.wait_for(|all| all.iter().any(|r| r.order >= mark && r.replica == 1 && r.is_watch())).await;
        rig.put("c", "1");
        rig.cloud.set_replica(1, Replica::Current);
        // The informer itself fails on an event that goes back.
        informer.until(&[("a", "2"), ("c", "1")]).await;
        assert_eq!(informer.full_syncs, 1);
    });
}
