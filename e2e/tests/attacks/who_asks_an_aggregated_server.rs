//! An aggregated API server shows each user its own list, as OpenShift shows projects; a right to list is none to
//! somebody else's list (row 58).

use e2e::cloud::LinkState;
use e2e::cloud::client::Client;
use e2e::cloud::model::{Gvr, Principal, ResourceKind, Rule};
use serde_json::{Value, json};

use crate::attacker::ask;
use crate::rig::{NODE_USER, Rig, run};

const PROJECTS: &str = "/apis/project.example.org/v1/projects";
const WIDGETS: &str = "/apis/widgets.example.org/v1/widgets";

fn kind(group: &str, resource: &str, kind: &str) -> ResourceKind {
    ResourceKind {
        gvr: Gvr::new(group, "v1", resource),
        kind: kind.into(),
        namespaced: false,
        protobuf: false,
        status: false,
        create_only: false,
        columns: Vec::new(),
    }
}

/// Projects of an aggregated server, widgets of a definition, and two users who may read both.
fn world() -> Rig {
    let rig = Rig::new();
    let (projects, widgets) = (
        kind("project.example.org", "projects", "Project"),
        kind("widgets.example.org", "widgets", "Widget"),
    );
    let services = kind("apiregistration.k8s.io", "apiservices", "APIService");
    rig.cloud.with(|cloud, _| {
        cloud.show_by_user(&projects.gvr);
        for kind in [&projects, &widgets, &services] {
            cloud.registry_mut().add(kind.clone());
        }
    });
    for (name, made) in [("v1.widgets.example.org", Some("true")), ("v1.project.example.org", None)] {
        let labels = match made {
            Some(made) => json!({"kube-aggregator.kubernetes.io/automanaged": made}),
            None => json!({}),
        };
        let object = json!({"metadata": {"name": name, "labels": labels}});
        rig.cloud.create(&services.gvr, object).expect("the name is free");
    }
    rig.cloud.allow(Rule::allow(NODE_USER, &["list"], &["apiservices"]));
    for user in ["alice", "mallory"] {
        let object = json!({"metadata": {"name": format!("of-{user}"), "labels": {"user": user}}});
        rig.cloud.create(&projects.gvr, object).expect("the name is free");
        rig.cloud.add_token(&format!("{user}-token"), Principal::new(user, &[]));
        rig.cloud.allow(Rule::allow(user, &["get", "list", "watch"], &["projects", "widgets"]));
    }
    rig.cloud.create(&widgets.gvr, json!({"metadata": {"name": "w"}})).expect("the name is free");
    rig
}

/// Names of a list, or its code.
async fn names(client: &Client, path: &str) -> Result<Vec<String>, u16> {
    let (status, list) = client.get(path).await.expect("an answer");
    let name = |item: &Value| item["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if status == 200 {
        Ok(list["items"].as_array().into_iter().flatten().map(name).collect())
    } else {
        Err(status)
    }
}

#[test]
fn each_user_is_shown_its_own_list_and_what_a_definition_serves_is_shared() {
    run(async {
        let mut rig = world();
        rig.start_hub().await;
        rig.heal_seen().await;
        let [alice, mallory] =
            ["alice", "mallory"].map(|user| rig.nobody().with_token(&format!("{user}-token")));
        let list = format!("{PROJECTS}?resourceVersion=0");
        let watch = format!("{PROJECTS}?watch=true&resourceVersion=0&timeoutSeconds=1");
        for (client, own) in [(&alice, "of-alice"), (&mallory, "of-mallory"), (&alice, "of-alice")] {
            for path in [PROJECTS, list.as_str()] {
                assert_eq!(names(client, path).await, Ok(vec![own.to_owned()]), "{path}");
            }
            let (status, events) = ask(client, "GET", &watch).await;
            let events = String::from_utf8_lossy(&events).into_owned();
            assert_eq!(status, 200, "{events}");
            assert!(events.contains(own) && events.matches("\"of-").count() == 1, "{events}");
        }
        let of_alice = format!("{PROJECTS}/of-alice?resourceVersion=0");
        assert_eq!(alice.get(&of_alice).await.unwrap().0, 200);
        assert_eq!(mallory.get(&of_alice).await.unwrap().0, 404);
        // What a definition serves is the same to all, and one copy of it is kept.
        let widgets = format!("{WIDGETS}?resourceVersion=0");
        assert_eq!(names(&alice, &widgets).await, Ok(vec!["w".to_owned()]));
        let mark = rig.cloud.mark();
        assert_eq!(names(&mallory, &widgets).await, Ok(vec!["w".to_owned()]));
        assert_eq!(rig.transfers(mark, "widgets"), (0, 0), "it is shared");
        for restart in [false, true] {
            rig.cut(LinkState::Refused).await;
            if restart {
                rig.stop_hub().await;
                rig.start_hub().await;
            }
            for client in [&alice, &mallory] {
                assert!(matches!(names(client, &list).await, Err(429 | 503)), "restart {restart}");
                assert!(matches!(client.get(&of_alice).await.unwrap().0, 429 | 503), "restart {restart}");
            }
            // A token that is no JWT is known by the hub that saw it reviewed.
            if !restart {
                assert_eq!(names(&mallory, &widgets).await, Ok(vec!["w".to_owned()]));
            }
            rig.heal().await;
            rig.heal_seen().await;
        }
    });
}
