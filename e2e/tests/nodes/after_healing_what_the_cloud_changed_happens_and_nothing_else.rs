//! While a node is cut off the cloud deletes one of its pods, changes a ConfigMap and a Secret, scales a Deployment and
//! rolls it out. Nothing of that reaches the node; after healing exactly that happens.

use std::time::Duration;

use e2e::lab::Nodes;

use crate::stage::{LIMIT, NODE, Stage};

#[test]
fn after_healing_what_the_cloud_changed_happens_and_nothing_else() {
    let Some(stage) = Stage::claim("after_healing_what_the_cloud_changed_happens_and_nothing_else") else {
        return;
    };
    let before = stage.pods();
    let running = stage.running(NODE);
    let (deleted, fixed, owner) =
        (stage.pod_of("agent", NODE), stage.pod_of("fixed", NODE), stage.pod_of("eyot-lab", NODE));
    let version = format!("v{}", before.iter().map(|pod| pod.name.len()).sum::<usize>());
    stage.cut(&Nodes::from(NODE)).expect("cut");
    stage.cloud(&format!("delete pod {deleted} -n default --wait=false"));
    let patch = |kind: &str, body: &str| {
        stage.cloud(&format!("patch {kind} -n default --type=merge -p {body}"));
    };
    patch("configmap settings", r#"{"data":{"value":"second"}}"#);
    patch("secret credentials", r#"{"stringData":{"value":"second"}}"#);
    stage.cloud("scale deployment web -n default --replicas=4");
    let template =
        format!(r#"{{"spec":{{"template":{{"metadata":{{"labels":{{"version":"{version}"}}}}}}}}}}"#);
    patch("deployment web", &template);
    // Long enough for all of it to happen, on a node that could hear of it.
    let seen = stage.promised(LIMIT, "the other node rolls out", || {
        stage
            .pods()
            .iter()
            .any(|pod| pod.app == "web" && pod.ready && !before.contains(pod) && pod.node != NODE)
    });
    eprintln!("the other node had a new pod {seen:?} after the change");
    assert_eq!(stage.running(NODE), running, "nothing of it reaches a node that is cut off");

    stage.heal(&Nodes::All).expect("healed");
    stage.promised(LIMIT, "the node is Ready", || stage.is_ready(NODE));
    let settled = stage.promised(LIMIT, "the lab settles", || stage.is_settled());
    eprintln!("everything had happened {settled:?} after the node was Ready");
    let after = stage.pods();
    assert_eq!(after.iter().filter(|pod| pod.app == "web").count(), 4);
    assert!(!after.iter().any(|pod| pod.name == deleted), "the deleted pod is gone");
    let now = stage.running(NODE);
    assert!(!now.contains_key(&deleted), "on the node, too");
    for kept in [&fixed, &owner] {
        assert_eq!(now.get(kept), running.get(kept), "{kept} is as it was");
    }
    let others = stage.changed(&before);
    let unexpected: Vec<_> =
        others.iter().filter(|name| !name.starts_with("web-") && !name.starts_with("agent-")).collect();
    assert_eq!(unexpected, [""; 0], "no pod of another kind was touched");
    assert!(!others.iter().any(|name| name.starts_with("agent-")
        && *name != deleted
        && before.iter().any(|pod| pod.name == *name)));
    // What a pod reads is the new value, in pods that started after the change and in those that ran on.
    let web = stage.pod_of("web", NODE);
    let reads = |what: &str| {
        let file = format!("/etc/eyot/{what}/value");
        stage.run_in_pod(NODE, &web, &["cat", &file]).unwrap_or_default()
    };
    stage.promised(Duration::from_secs(60), "the new values are mounted", || {
        reads("settings") == "second" && reads("credentials") == "second"
    });

    patch("configmap settings", r#"{"data":{"value":"first"}}"#);
    patch("secret credentials", r#"{"stringData":{"value":"first"}}"#);
    stage.respread();
}
