//! A cloud that refuses the hub and then answers the client has changed its mind: what it answered is kept from then on, so
//! that a cut finds it here. kube-apiserver does so to a kubelet whose pod has only just been bound.

use e2e::cloud::model::{Fault, RequestMatch};

use e2e::cloud::LinkState;

use crate::rig::{CONFIG_MAPS, Informer, Rig, eventually, run};

#[test]
fn what_a_client_was_given_in_the_end_is_there_while_cut() {
    run(async {
        for watch_list in [false, true] {
            let mut rig = Rig::new();
            if watch_list {
                rig.use_watch_list();
            }
            rig.start_hub().await;
            rig.heal_seen().await;
            let refusal = Fault::Status { code: 403, retry_after: None };
            rig.cloud.fault(RequestMatch::any().resource("configmaps"), 1, refusal);
            let mut informer = Informer::new(rig.pod());
            informer.until(&[("a", "1"), ("b", "1")]).await;
            eventually(async || {
                let status = rig.status().await;
                let held = status["collections"].as_array().cloned().unwrap_or_default();
                let whole = |each: &serde_json::Value| {
                    each["collection"].as_str().is_some_and(|name| name.contains("configmaps"))
                        && each["objects"] == 2
                };
                held.iter().any(whole).then_some(())
            })
            .await;
            rig.cut(LinkState::Refused).await;
            let (status, list) = rig.pod().get(&format!("{CONFIG_MAPS}?resourceVersion=0")).await.unwrap();
            assert_eq!((status, list["items"].as_array().map(Vec::len)), (200, Some(2)), "{list}");
            // And its stream is the hub's: it goes on where it was.
            rig.heal().await;
            rig.put("a", "2");
            informer.until(&[("a", "2"), ("b", "1")]).await;
            assert_eq!(informer.full_syncs, 1, "no second list");
            rig.stop_hub().await;
        }
    });
}
