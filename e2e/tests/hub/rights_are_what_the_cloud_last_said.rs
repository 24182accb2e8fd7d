//! A right that was taken away is gone within a minute, though no request waits for that; a cut freezes rights as they
//! stood, and brings none back that had gone before it.

use std::time::{Duration, Instant};

use e2e::cloud::LinkState;
use e2e::cloud::model::Rule;

use crate::rig::{CONFIG_MAPS, POD_USER, Rig, eventually, run};

fn take_all_rights(rig: &Rig) {
    rig.cloud.with(|cloud, _| cloud.policy_mut().rules.clear());
}

fn give_back(rig: &Rig) {
    rig.cloud
        .allow(Rule::allow(POD_USER, &["get", "list", "watch"], &["configmaps"]).in_namespace("default"));
}

async fn status(rig: &Rig, path: &str) -> u16 {
    rig.pod().get(path).await.expect("an answer").0
}

#[test]
fn a_right_that_was_taken_away_is_gone_within_a_minute() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        rig.heal_seen().await;
        let pod = rig.pod();
        let cached = format!("{CONFIG_MAPS}?resourceVersion=0");
        assert_eq!(pod.get(&cached).await.expect("an answer").0, 200);
        take_all_rights(&rig);
        let taken = Instant::now();
        loop {
            let (status, answer) = pod.get(&cached).await.expect("an answer");
            if status != 200 {
                assert_eq!(status, 403, "{answer}");
                break;
            }
            // A client that polls: the right is in use all the time.
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        let gone = taken.elapsed();
        println!("a right that was in use went {gone:?} after it was taken away");
        assert!(gone < Duration::from_secs(3 * 60));
        // Neither does a cut bring it back.
        rig.cut(LinkState::Refused).await;
        assert_eq!(status(&rig, &cached).await, 403);
        rig.stop_hub().await;
    });
}

#[test]
fn a_refused_list_takes_the_objects_of_its_namespace_with_it() {
    run(async {
        for restarted in [false, true] {
            let mut rig = Rig::new();
            rig.start_hub().await;
            rig.heal_seen().await;
            let one = format!("{CONFIG_MAPS}/a");
            assert_eq!(status(&rig, &one).await, 200);
            take_all_rights(&rig);
            if restarted {
                rig.stop_hub().await;
                rig.start_hub().await;
                rig.heal_seen().await;
            }
            assert_eq!(status(&rig, CONFIG_MAPS).await, 403);
            rig.cut(LinkState::Refused).await;
            let answer = status(&rig, &one).await;
            assert!(matches!(answer, 403 | 503), "restarted {restarted}: {answer}");
            rig.stop_hub().await;
        }
    });
}

#[test]
fn what_stood_at_the_cut_stands_until_it_heals_and_over_restarts() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        rig.heal_seen().await;
        let (one, all) = (format!("{CONFIG_MAPS}/a"), format!("{CONFIG_MAPS}?resourceVersion=0"));
        for path in [&one, &all] {
            assert_eq!(status(&rig, path).await, 200);
        }
        rig.cut(LinkState::Refused).await;
        take_all_rights(&rig);
        for restarted in [false, true] {
            if restarted {
                rig.stop_hub().await;
                rig.start_hub().await;
            }
            for path in [&one, &all] {
                assert_eq!(status(&rig, path).await, 200, "restarted {restarted}: {path}");
            }
        }
        // The heal brings the cloud's word, and what was restored is asked about before anybody asks for it.
        rig.heal().await;
        rig.heal_seen().await;
        eventually(async || (status(&rig, &all).await == 403).then_some(())).await;
        rig.cut(LinkState::Refused).await;
        assert!(matches!(status(&rig, &one).await, 403 | 503));
        // And back it comes as it went.
        rig.heal().await;
        rig.heal_seen().await;
        give_back(&rig);
        eventually(async || (status(&rig, &all).await == 200).then_some(())).await;
        rig.stop_hub().await;
    });
}
