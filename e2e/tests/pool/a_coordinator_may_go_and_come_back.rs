//! Hubs are fed by a coordinator, go on by their own link without it, and back, at the version that they hold: no informer
//! lists again, no version goes back, and the cloud is asked for no list.

use nix::sys::signal::Signal;

use crate::rig::{Informer, Rig, run};

async fn all_see(informers: &mut [Informer], wanted: &[(&str, &str)]) {
    for informer in informers {
        informer.until(wanted).await;
    }
}

#[test]
fn hubs_of_a_pool_ask_the_cloud_for_nothing_that_the_coordinator_has() {
    run(async {
        let rig = Rig::whole().await;
        let mut informers = [rig.informer(0), rig.informer(1)];
        all_see(&mut informers, &[("a", "1"), ("b", "1")]).await;
        rig.put("a", "2");
        rig.remove("b");
        rig.put("c", "1");
        all_see(&mut informers, &[("a", "2"), ("c", "1")]).await;
        let [hubs, coordinator] = rig.asked(0);
        assert_eq!(hubs, (0, 0));
        assert_eq!(coordinator, (4, 8), "a list and a watch for each kind");
    });
}

#[test]
fn a_coordinator_that_is_killed_leaves_its_hubs_at_their_own_link_and_gets_them_back() {
    run(async {
        let mut rig = Rig::whole().await;
        let mut informers = [rig.informer(0), rig.informer(1)];
        all_see(&mut informers, &[("a", "1"), ("b", "1")]).await;
        rig.kill_coordinator();
        rig.put("a", "2");
        let mark = rig.cloud.mark();
        rig.none_fed().await;
        all_see(&mut informers, &[("a", "2"), ("b", "1")]).await;
        rig.start_coordinator().await;
        rig.all_fed().await;
        rig.put("a", "3");
        rig.remove("b");
        all_see(&mut informers, &[("a", "3")]).await;
        let [hubs, coordinator] = rig.asked(mark);
        assert_eq!(hubs.0, 0, "no hub lists");
        assert_eq!(coordinator, (4, 8));
    });
}

#[test]
fn a_coordinator_restarted_empty_tells_no_half_state() {
    run(async {
        let mut rig = Rig::whole().await;
        let mut informers = [rig.informer(0), rig.informer(1)];
        all_see(&mut informers, &[("a", "1"), ("b", "1")]).await;
        for turn in 0..3 {
            rig.kill_coordinator();
            rig.put("a", &format!("{turn}"));
            rig.put(&format!("new-{turn}"), "1");
            rig.start_coordinator().await;
            rig.all_fed().await;
            rig.remove(&format!("new-{turn}"));
            all_see(&mut informers, &[("a", &format!("{turn}")), ("b", "1")]).await;
        }
        assert_eq!(rig.asked(0)[0].0, 0, "no hub lists");
    });
}

#[test]
fn a_coordinator_that_is_paused_for_twenty_seconds_is_left_and_taken_back() {
    run(async {
        let rig = Rig::whole().await;
        let mut informers = [rig.informer(0), rig.informer(1)];
        all_see(&mut informers, &[("a", "1"), ("b", "1")]).await;
        rig.signal_coordinator(Signal::SIGSTOP);
        let paused = tokio::time::Instant::now();
        rig.put("a", "2");
        rig.none_fed().await;
        all_see(&mut informers, &[("a", "2"), ("b", "1")]).await;
        // The pause is the case itself: the connection must outlive nobody's patience by chance.
        tokio::time::sleep_until(paused + std::time::Duration::from_secs(20)).await;
        rig.put("b", "2");
        rig.signal_coordinator(Signal::SIGCONT);
        rig.all_fed().await;
        rig.put("c", "1");
        all_see(&mut informers, &[("a", "2"), ("b", "2"), ("c", "1")]).await;
        assert_eq!(rig.asked(0)[0].0, 0, "no hub lists");
    });
}
