//! A stream that stalls, breaks or is told to go is replaced by the hub; clients see only the next event.

use std::time::Duration;

use e2e::cloud::model::{Fault, RequestMatch};

use crate::rig::{Informer, Rig, run};

#[test]
fn a_broken_upstream_stream_costs_neither_an_event_nor_a_list() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        let mut informer = Informer::new(rig.pod());
        informer.until(&[("a", "1"), ("b", "1")]).await;
        let watches = RequestMatch::verb("watch").resource("configmaps");
        let slow = Fault::SlowBody { chunk_bytes: 7, pause: Duration::from_millis(1) };
        for (round, fault) in
            [Fault::StallMidFrame, Fault::Truncate, Fault::Reset, Fault::GoAway, Fault::End, slow]
                .iter()
                .enumerate()
        {
            let mark = rig.cloud.mark();
            rig.cloud.wait_for_stream(&watches).await;
            assert!(rig.cloud.fault_streams(&watches, fault) > 0, "{fault:?}");
            let value = format!("after fault {round}");
            rig.put("a", &value);
            informer.until(&[("a", &value), ("b", "1")]).await;
            assert_eq!(informer.full_syncs, 1, "{fault:?}");
            assert_eq!(rig.transfers(mark, "configmaps"), (0, 0), "{fault:?}");
        }
    });
}

#[test]
fn a_server_that_refuses_for_a_while_is_asked_again() {
    run(async {
        for (code, retry_after) in [(429, Some(1)), (500, None), (503, None), (504, Some(1))] {
            let mut rig = Rig::new();
            let requests = RequestMatch::any().resource("configmaps");
            rig.cloud.fault(requests, 3, Fault::Status { code, retry_after });
            rig.start_hub().await;
            let mut informer = Informer::new(rig.pod());
            informer.until(&[("a", "1"), ("b", "1")]).await;
            rig.put("c", "1");
            informer.until(&[("a", "1"), ("b", "1"), ("c", "1")]).await;
            assert_eq!(informer.full_syncs, 1, "{code}");
            rig.stop_hub().await;
        }
    });
}

#[test]
fn a_list_that_is_cut_short_is_never_taken_for_the_whole() {
    run(async {
        for fault in [Fault::Truncate, Fault::Reset] {
            let mut rig = Rig::new();
            rig.cloud.fault(RequestMatch::verb("list").resource("configmaps"), 2, fault.clone());
            rig.start_hub().await;
            let mut informer = Informer::new(rig.pod());
            informer.until(&[("a", "1"), ("b", "1")]).await;
            assert_eq!(informer.full_syncs, 1, "{fault:?}");
            rig.stop_hub().await;
        }
    });
}
