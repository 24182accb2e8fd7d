//! 410 from the cloud ends in the hub: clients see the difference as events and nothing of the relist.

use e2e::cloud::LinkState;
use e2e::cloud::model::{Fault, RequestMatch};

use crate::rig::{Informer, Rig, run};

#[test]
fn a_compaction_during_a_cut_is_absorbed_by_one_list() {
    run(async {
        for watch_list in [false, true] {
            let mut rig = Rig::new();
            if watch_list {
                rig.use_watch_list();
            }
            rig.start_hub().await;
            let mut informer = Informer::new(rig.pod());
            informer.until(&[("a", "1"), ("b", "1")]).await;
            rig.cut(LinkState::BlackHole).await;
            rig.put("c", "1");
            rig.remove("b");
            rig.cloud.compact();
            let mark = rig.cloud.mark();
            // What was open must not carry the changes over: the hub has to ask again.
            rig.cloud.reset_connections();
            rig.heal().await;
            informer.until(&[("a", "1"), ("c", "1")]).await;
            assert_eq!(informer.full_syncs, 1);
            assert_eq!(rig.transfers(mark, "configmaps"), (1, 0), "watch list {watch_list}");
            rig.stop_hub().await;
        }
    });
}

#[test]
fn an_expired_event_inside_a_stream_is_absorbed() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        let mut informer = Informer::new(rig.pod());
        informer.until(&[("a", "1"), ("b", "1")]).await;
        let watches = RequestMatch::verb("watch").resource("configmaps");
        rig.cloud.wait_for_stream(&watches).await;
        assert_eq!(rig.cloud.fault_streams(&watches, &Fault::ErrorEvent { code: 410 }), 1);
        rig.remove("a");
        informer.until(&[("b", "1")]).await;
        assert_eq!(informer.full_syncs, 1);
    });
}

#[test]
fn a_compressed_watch_list_of_many_members_is_read_to_its_last_event() {
    run(async {
        let mut rig = Rig::new();
        rig.use_watch_list();
        rig.cloud.with(|cloud, _| cloud.set_gzip_watch_list(true));
        rig.start_hub().await;
        let mut informer = Informer::new(rig.pod());
        informer.until(&[("a", "1"), ("b", "1")]).await;
        for round in 2..6 {
            let value = round.to_string();
            rig.put("a", &value);
            informer.until(&[("a", &value), ("b", "1")]).await;
        }
        let streams = rig.cloud.open_streams();
        let stream =
            streams.iter().find(|r| r.gvr.as_ref().is_some_and(|g| g.resource == "configmaps")).unwrap();
        assert!(stream.initial_events, "all came over the one stream: {}", stream.query);
    });
}
