//! While cut the newest copy answers, whatever else is held: a collection that nobody has read for hours is neither
//! preferred to one that was followed until the cut, nor does it know what is not there.

use std::time::Duration;

use e2e::cloud::LinkState;
use e2e::cloud::client::Client;
use e2e::cloud::model::{Principal, Rule};
use serde_json::Value;

use crate::rig::{CONFIG_MAPS, Informer, Rig, eventually, run};

/// A rig in which an agent once listed all ConfigMaps of the cluster; by now its collection is followed by nobody.
struct World {
    rig: Rig,
    agent: Client,
}

impl World {
    async fn new() -> Self {
        let mut rig = Rig::new();
        rig.end_idle_watches_after(Duration::from_millis(300));
        rig.cloud.add_token("agent-token", Principal::new("agent", &[]));
        rig.cloud.allow(Rule::allow("agent", &["get", "list", "watch"], &["configmaps"]));
        rig.cloud.add_token("getter-token", Principal::new("getter", &[]));
        rig.cloud.allow(Rule::allow("getter", &["get"], &["configmaps"]));
        rig.start_hub().await;
        rig.heal_seen().await;
        let agent = rig.nobody().with_token("agent-token");
        assert_eq!(agent.get("/api/v1/configmaps?resourceVersion=0").await.unwrap().0, 200);
        let world = Self { rig, agent };
        world.abandoned().await;
        world
    }

    /// Waits until nobody follows the agent's collection.
    async fn abandoned(&self) {
        let mut turn = 0;
        eventually(async || {
            turn += 1;
            // An idle watch is looked at when something comes.
            self.rig.put("b", &turn.to_string());
            self.phase("v1/configmaps (Protobuf)").await.filter(|phase| phase == "retired")
        })
        .await;
        self.rig.put("b", "1");
    }

    async fn phase(&self, collection: &str) -> Option<String> {
        let status = self.rig.status().await;
        let all = status["collections"].as_array()?.clone();
        let found = all
            .iter()
            .find(|held| held["collection"].as_str().is_some_and(|name| name.ends_with(collection)))?;
        found["phase"].as_str().map(str::to_owned)
    }
}

fn value_of(list: &Value, name: &str) -> Option<String> {
    let found = list["items"].as_array()?.iter().find(|item| item["metadata"]["name"] == name)?;
    found["data"]["v"].as_str().map(str::to_owned)
}

#[test]
fn an_informer_goes_on_where_it_was_and_a_list_shows_what_it_has() {
    run(async {
        let mut world = World::new().await;
        let pod = world.rig.pod();
        let mut informer = Informer::new(pod.clone());
        informer.until(&[("a", "1"), ("b", "1")]).await;
        for restart in [false, true] {
            let value = if restart { "3" } else { "2" };
            world.rig.put("a", value);
            informer.until(&[("a", value), ("b", "1")]).await;
            world.rig.cut(LinkState::Refused).await;
            if restart {
                world.rig.stop_hub().await;
                world.rig.start_hub().await;
            }
            informer.disconnect();
            // It could not connect to one that is older than itself.
            let (status, list) = pod.get(CONFIG_MAPS).await.unwrap();
            assert_eq!((status, value_of(&list, "a")), (200, Some(value.to_owned())), "restart {restart}");
            let (status, one) = pod.get(&format!("{CONFIG_MAPS}/a")).await.unwrap();
            assert_eq!((status, &one["data"]["v"]), (200, &Value::from(value)), "restart {restart}");
            world.rig.heal().await;
            world.rig.heal_seen().await;
            world.rig.put("b", "9");
            informer.until(&[("a", value), ("b", "9")]).await;
            world.rig.put("b", "1");
            informer.until(&[("a", value), ("b", "1")]).await;
            assert_eq!(informer.full_syncs, 1);
        }
    });
}

#[test]
fn an_object_that_is_younger_than_an_abandoned_collection_is_no_404() {
    run(async {
        let world = World::new().await;
        let getter = world.rig.nobody().with_token("getter-token");
        world.rig.put("young", "1");
        // It may get what it may not watch, so its answer is all that is kept.
        let (status, _) = getter.get(&format!("{CONFIG_MAPS}/young")).await.unwrap();
        assert_eq!(status, 200);
        world.rig.put("a", "2");
        let (status, one) = getter.get(&format!("{CONFIG_MAPS}/a")).await.unwrap();
        assert_eq!((status, &one["data"]["v"]), (200, &Value::from("2")));
        world.rig.put("unseen", "1");
        world.rig.cut(LinkState::Refused).await;
        let (status, one) = getter.get(&format!("{CONFIG_MAPS}/young")).await.unwrap();
        assert_eq!((status, &one["data"]["v"]), (200, &Value::from("1")), "{one}");
        let (status, one) = getter.get(&format!("{CONFIG_MAPS}/a")).await.unwrap();
        assert_eq!((status, &one["data"]["v"]), (200, &Value::from("2")), "the kept answer is the newer one");
        let (status, _) = world.agent.get(&format!("{CONFIG_MAPS}/unseen")).await.unwrap();
        assert_eq!(status, 503, "nobody here knows of it");
    });
}

#[test]
fn a_reader_of_an_abandoned_collection_is_led_on_after_the_heal() {
    run(async {
        let world = World::new().await;
        assert_eq!(world.agent.get("/api/v1/configmaps?resourceVersion=0").await.unwrap().0, 200);
        // By a narrower right than that of whoever fetched it.
        let mut informer = Informer::new(world.rig.pod());
        informer.until(&[("a", "1"), ("b", "1")]).await;
        assert_eq!(world.phase("v1/configmaps in default (Protobuf)").await, None, "nothing else is held");
        informer.disconnect();
        world.abandoned().await;
        world.rig.cut(LinkState::Refused).await;
        informer.turn().await;
        world.rig.put("b", "after");
        world.rig.put("a", "2");
        world.rig.heal().await;
        informer.until(&[("a", "2"), ("b", "after")]).await;
        assert_eq!(informer.full_syncs, 1);
    });
}
