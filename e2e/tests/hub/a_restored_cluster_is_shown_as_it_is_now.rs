//! After etcd was restored from a backup nobody is shown the state from before, nor a mixture of both: kube-apiserver says
//! nothing of it on a watch that was opened above its own version.

use e2e::cloud::LinkState;
use e2e::cloud::model::{Gvr, Principal, Rule};
use serde_json::Value;

use crate::rig::{CONFIG_MAPS, Informer, Rig, eventually, run};

const FROM_CACHE: &str = "/api/v1/namespaces/default/configmaps?resourceVersion=0";

/// When the backup is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Online,
    WhileCut,
    HubStopped,
}

fn values(list: &Value) -> Vec<(String, String)> {
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    items.iter().map(|item| (text(&item["metadata"]["name"]), text(&item["data"]["v"]))).collect()
}

async fn restored_at(moment: Moment, watch_list: bool) {
    let mut rig = Rig::new();
    if watch_list {
        rig.use_watch_list();
    }
    rig.cloud.add_token("agent-token", Principal::new("agent", &[]));
    rig.cloud.allow(Rule::allow("agent", &["get", "list", "watch"], &["configmaps"]));
    rig.start_hub().await;
    let mut informer = Informer::new(rig.pod());
    informer.may_sync_again = true;
    informer.until(&[("a", "1"), ("b", "1")]).await;
    let backup = rig.cloud.look(|cloud| cloud.store().clone());
    rig.put("a", "2");
    rig.put("c", "1");
    rig.remove("b");
    informer.until(&[("a", "2"), ("c", "1")]).await;
    // A collection that is read, and not followed by any client.
    let agent = rig.nobody().with_token("agent-token");
    let everywhere = "/api/v1/configmaps?resourceVersion=0";
    assert_eq!(agent.get(everywhere).await.unwrap().0, 200);
    match moment {
        Moment::Online => rig.cloud.restore(backup),
        Moment::WhileCut => {
            rig.cut(LinkState::Refused).await;
            rig.cloud.restore(backup);
            rig.heal().await;
        }
        Moment::HubStopped => {
            rig.stop_hub().await;
            rig.cloud.restore(backup);
            rig.start_hub().await;
        }
    }
    rig.heal_seen().await;
    informer.until(&[("a", "1"), ("b", "1")]).await;
    assert_eq!(informer.full_syncs, 2, "told once to list again");
    for (client, path) in [(&rig.pod(), FROM_CACHE), (&agent, everywhere)] {
        eventually(async || {
            let (status, list) = client.get(path).await.unwrap();
            let shown = values(&list);
            assert_eq!(status, 200, "{list}");
            (shown == [("a".into(), "1".into()), ("b".into(), "1".into())]).then_some(())
        })
        .await;
    }
    // The sequence passes the versions of before; what they stood for never comes back.
    let gvr = Gvr::core("configmaps");
    for turn in 3..9 {
        let value = turn.to_string();
        rig.put("a", &value);
        informer.until(&[("a", &value), ("b", "1")]).await;
    }
    assert!(rig.cloud.look(|cloud| cloud.store().objects(&gvr).count()) == 2);
    let (status, list) = rig.pod().get(CONFIG_MAPS).await.unwrap();
    assert_eq!((status, values(&list).len()), (200, 2));
    assert_eq!(informer.full_syncs, 2);
    rig.stop_hub().await;
}

#[test]
fn whenever_it_was_restored_clients_see_the_state_of_the_backup_and_what_follows_it() {
    run(async {
        for moment in [Moment::Online, Moment::WhileCut, Moment::HubStopped] {
            for watch_list in [false, true] {
                eprintln!("restored {moment:?}, watch list {watch_list}");
                restored_at(moment, watch_list).await;
            }
        }
    });
}

#[test]
fn a_change_of_server_costs_no_list_where_nothing_was_restored() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        let mut informer = Informer::new(rig.pod());
        informer.until(&[("a", "1"), ("b", "1")]).await;
        rig.put("a", "2");
        informer.until(&[("a", "2"), ("b", "1")]).await;
        let mark = rig.cloud.mark();
        rig.cloud.reset_connections();
        rig.put("a", "3");
        informer.until(&[("a", "3"), ("b", "1")]).await;
        assert_eq!((informer.full_syncs, rig.transfers(mark, "configmaps")), (1, (0, 0)));
    });
}
