//! Labs stand side by side, a cut touches the node it names and no other, and `down` removes one lab wholly, also when
//! parts of it were killed before.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use e2e::lab::{HubKind, Lab, LabError, Nodes, Swept, UpOptions, real_or_skip, wait_until};

/// A lab without hubs: what is tested here is the lab itself.
fn up(dir: &Path) -> Lab {
    let options = UpOptions {
        hub: HubKind::None,
        program: Some(env!("CARGO_BIN_EXE_eyot").into()),
        bound_to: Some(i32::try_from(std::process::id()).expect("Linux process ids fit an i32")),
        ..UpOptions::new(dir, 2)
    };
    Lab::up(&options).expect("a lab comes up")
}

fn namespaces() -> String {
    let output = Command::new("ip").args(["netns", "list"]).output().expect("ip runs");
    String::from_utf8(output.stdout).expect("names are ASCII")
}

/// Reads the node with its own certificate from inside its namespace, giving up after two seconds.
fn read_own_node(lab: &Lab, node: &str) -> Output {
    let mut kubectl = lab.node_kubectl(node, "kubelet.kubeconfig").expect("the lab has kubectl");
    kubectl.args(["get", "node", node, "-o", "name", "--request-timeout=2s"]).output().expect("kubectl runs")
}

#[test]
fn labs_stand_side_by_side_and_each_goes_down_wholly() {
    let name = "labs_stand_side_by_side_and_each_goes_down_wholly";
    if real_or_skip(name, false).is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let (first_dir, second_dir) = (folder.path().join("a"), folder.path().join("b"));
    let (first, second) = (up(&first_dir), up(&second_dir));
    let id = |lab: &Lab| lab.status().expect("status").id;
    let (first_id, second_id) = (id(&first), id(&second));
    assert_ne!(first.api_server(), second.api_server());
    assert!(matches!(Lab::up(&UpOptions::new(&first_dir, 1)), Err(LabError::AlreadyUp(_))));

    first.cut(&Nodes::from("node-1")).expect("cut");
    assert!(!read_own_node(&first, "node-1").status.success(), "a cut node reads nothing");
    assert!(read_own_node(&first, "node-2").status.success(), "its neighbour is untouched");
    assert!(
        read_own_node(&second, "node-1").status.success(),
        "so is the node of the same name in another lab"
    );
    first.heal(&Nodes::All).expect("healed");
    let before = first.traffic("node-1").expect("counters");
    assert!(read_own_node(&first, "node-1").status.success(), "a healed node reads again");
    let after = first.traffic("node-1").expect("counters");
    assert!(after.received_bytes > before.received_bytes && after.sent_bytes > before.sent_bytes);

    // kill -9 of a part must not keep the rest alive; a lost record must not either.
    let etcd = first.status().expect("status").cloud[0].pid.expect("etcd runs");
    let kill = Command::new("kill").args(["-9", &etcd.to_string()]).status().expect("kill runs");
    assert!(kill.success());
    // It counts until its last thread has ended.
    let has_ended = || first.status().expect("status").cloud[0].pid.is_none();
    assert!(wait_until(Duration::from_secs(60), has_ended), "etcd ends");
    std::fs::remove_file(first_dir.join("run/cloud.kube-apiserver.json")).expect("the record stood there");
    let swept = Lab::down(&first_dir).expect("down");
    assert_eq!(
        (swept.processes, swept.namespaces),
        (3, 3),
        "all but the killed etcd; the cloud and two nodes"
    );
    assert!(!namespaces().contains(&first_id), "{}", namespaces());
    assert_eq!(Lab::down(&first_dir).expect("twice is once"), Swept::default());

    assert!(namespaces().contains(&format!("eyot-{second_id}-node-2")), "the other lab stands");
    assert!(read_own_node(&second, "node-2").status.success(), "and works");
    Lab::down(&second_dir).expect("down");
    assert!(!namespaces().contains(&second_id), "{}", namespaces());
}
