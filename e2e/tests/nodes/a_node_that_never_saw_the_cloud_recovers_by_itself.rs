//! A node starts for the first time and the cloud is away: its hub asks every client for patience and makes nothing up;
//! when the cloud comes, the node comes up without a hand.

use e2e::lab::Nodes;

use crate::stage::{LIMIT, OTHER, Stage};

#[test]
fn a_node_that_never_saw_the_cloud_recovers_by_itself() {
    let Some(stage) = Stage::claim("a_node_that_never_saw_the_cloud_recovers_by_itself") else { return };
    let pods = stage.pods_on(OTHER);
    stage.cut(&Nodes::from(OTHER)).expect("cut");
    stage.reinstall(OTHER).expect("the kubelet is healthy without any API");

    let ask = |path: &str| {
        let mut kubectl = stage.node_kubectl(OTHER, "kubelet.kubeconfig").expect("kubectl");
        let output = kubectl.args(["get", "--raw", path, "--request-timeout=5s"]).output().expect("it runs");
        assert!(!output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let list = ask(&format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{OTHER}"));
    assert!(list.contains("not complete on this node"), "a list is asked for later (429): {list}");
    let node = ask(&format!("/api/v1/nodes/{OTHER}"));
    assert!(node.contains("cut off"), "an object is refused (503): {node}");
    let only_static = stage.running(OTHER).keys().all(|pod| pod.starts_with("fixed-"));
    assert!(only_static, "what the API has not told is not run: {:?}", stage.running(OTHER));

    stage.heal(&Nodes::All).expect("healed");
    let ready = stage.promised(LIMIT, "the node is Ready", || stage.is_ready(OTHER));
    eprintln!("the node was Ready {ready:?} after it first saw the cloud");
    let ran = stage.promised(LIMIT, "all its pods run", || stage.all_run(OTHER, &pods));
    eprintln!("and all its pods ran {ran:?} after that");
    stage.promised(LIMIT, "the lab settles", || stage.is_settled());
}
