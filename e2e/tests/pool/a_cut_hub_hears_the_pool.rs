//! The link to the cloud and the LAN are two things: a hub that is cut off goes on hearing what its coordinator hears.

use e2e::cloud::LinkState;

use crate::rig::{Rig, eventually, run};

#[test]
fn a_hub_that_is_cut_off_is_told_what_the_coordinator_hears() {
    run(async {
        let rig = Rig::whole().await;
        let mut informer = rig.informer(1);
        informer.until(&[("a", "1"), ("b", "1")]).await;
        // The way of the second node alone; the coordinator may not lead there either, so that nothing relays.
        rig.cloud.set_link(1, LinkState::Refused).await;
        eventually(async || (rig.status("n2")["link"]["connected"] == false).then_some(())).await;
        rig.put("a", "2");
        rig.remove("b");
        informer.until(&[("a", "2")]).await;
        assert_eq!(rig.status("n2")["link"]["connected"], false);
        rig.cloud.set_link(1, LinkState::Up).await;
        eventually(async || (rig.status("n2")["link"]["connected"] == true).then_some(())).await;
        rig.put("a", "3");
        informer.until(&[("a", "3")]).await;
        assert_eq!(rig.asked(0)[0], (0, 0), "the hubs asked for none of it");
    });
}
