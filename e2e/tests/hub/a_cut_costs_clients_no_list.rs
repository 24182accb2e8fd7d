//! Clients ride through a cut, and through a hub that restarts while cut, without one list of their own.

use e2e::cloud::LinkState;

use crate::rig::{Informer, Rig, run};

#[test]
fn a_cut_and_a_heal_cost_the_cloud_at_most_one_list_of_the_hub() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        let mut informer = Informer::new(rig.pod());
        informer.until(&[("a", "1"), ("b", "1")]).await;
        rig.put("a", "2");
        informer.until(&[("a", "2"), ("b", "1")]).await;
        let mark = rig.cloud.mark();
        rig.cut(LinkState::Refused).await;
        rig.put("c", "1");
        rig.remove("b");
        rig.heal().await;
        informer.until(&[("a", "2"), ("c", "1")]).await;
        assert_eq!(informer.full_syncs, 1);
        let (hub, clients) = rig.transfers(mark, "configmaps");
        assert!(hub <= 1 && clients == 0, "hub {hub}, clients {clients}");
    });
}

#[test]
fn a_hub_restarted_while_cut_serves_old_and_new_clients_from_its_store() {
    run(async {
        for kill in [false, true] {
            let mut rig = Rig::new();
            rig.start_hub().await;
            let pod = rig.pod();
            let mut old = Informer::new(pod.clone());
            old.until(&[("a", "1"), ("b", "1")]).await;
            // Orderly, so that the first collections are on disk; then again as the case says, while cut.
            rig.stop_hub().await;
            rig.start_hub().await;
            rig.put("a", "2");
            old.until(&[("a", "2"), ("b", "1")]).await;
            let mark = rig.cloud.mark();
            rig.cut(LinkState::Refused).await;
            if kill {
                rig.kill_hub().await;
            } else {
                rig.stop_hub().await;
            }
            rig.put("c", "1");
            rig.remove("b");
            rig.start_hub().await;
            let mut new = Informer::new(pod);
            if !kill {
                // A killed hub may have lost its last moments, so only the orderly one is held to this state.
                new.until(&[("a", "2"), ("b", "1")]).await;
            }
            rig.heal().await;
            old.until(&[("a", "2"), ("c", "1")]).await;
            new.until(&[("a", "2"), ("c", "1")]).await;
            assert_eq!((old.full_syncs, new.full_syncs), (1, 1), "kill {kill}");
            let (hub, clients) = rig.transfers(mark, "configmaps");
            assert!(hub <= 1 && clients == 0, "kill {kill}: hub {hub}, clients {clients}");
            rig.stop_hub().await;
        }
    });
}
