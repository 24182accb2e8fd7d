//! While the cloud is away a node does its work: pods run on and come back, names resolve, Services reach pods of other
//! nodes, watches go on, and whoever the cloud allowed to may read logs and run commands at the kubelet's own port.

use std::collections::BTreeMap;

use e2e::lab::{Judge, Nodes, connect_or_skip};
use serde_json::Value;

use crate::stage::{LIMIT, NODE, OTHER, Stage};
use crate::watch::Watch;

/// A line there and back by each way into the pod that client-go has, and the pod's page through a forwarded port, at the
/// kubelet's own port, as unmodified clients do it.
fn assert_connections(stage: &Stage, connect: &Judge, pod: &str) {
    let words = ["/eyot-pod", "cat", "/dev/stdin"];
    let mut command = stage.kubelet_connect(NODE, &connect.program, pod, &words).expect("connect");
    let output = command.output().expect("it runs");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    let read = |line: &str| serde_json::from_str::<Value>(line).expect("JSON");
    let ways: BTreeMap<String, Value> =
        told.lines().map(read).map(|it| (it["way"].to_string(), it)).collect();
    for way in ["spdy", "websocket", "kubectl"] {
        assert_eq!(ways[&format!("{way:?}")]["output"], "a line\n", "{told}");
    }
    let page = &ways["\"portforward\""]["output"];
    assert!(page.as_str().is_some_and(|page| page.contains(pod)), "{told}");
    assert!(ways.values().all(|it| it["error"] == ""), "{told}");
}

#[test]
fn while_cut_a_node_stays_of_use() {
    let Some(connect) = connect_or_skip("while_cut_a_node_stays_of_use") else { return };
    let Some(stage) = Stage::claim("while_cut_a_node_stays_of_use") else { return };
    let (web, agent) = (stage.pod_of("web", NODE), stage.pod_of("agent", NODE));
    let other = stage.pod_of("web", OTHER);
    let watch =
        Watch::begin(&stage, &format!("get pods -n default --field-selector spec.nodeName={NODE} -w"));
    assert!(watch.hears(LIMIT, &web), "the watch begins with what is there");
    let logs = format!("/containerLogs/default/{web}/main");
    let run = format!("/run/default/{web}/main?cmd=/eyot-pod%20resolve%20web");
    stage.kubelet_get(NODE, &logs).expect("logs before the cut");
    stage.kubelet_post(NODE, &run).expect("a command before the cut");
    assert_connections(&stage, &connect, &web);

    stage.cut(&Nodes::from(NODE)).expect("cut");
    let before = stage.running(NODE);

    // A killed container comes back, with a token that is its own.
    stage.kill_pod(NODE, &agent).expect("it runs");
    let took = stage.promised(LIMIT, "a killed container comes back", || {
        stage.running(NODE).get(&agent).is_some_and(|id| *id != before[&agent])
    });
    eprintln!("a container killed while cut ran again after {took:?}");
    let mut page = serde_json::Value::Null;
    stage.promised(LIMIT, "it serves", || {
        let fetched = stage.run_in_pod(NODE, &agent, &["fetch", "127.0.0.1:8080"]);
        fetched.ok().and_then(|text| serde_json::from_str(&text).ok()).is_some_and(|parsed| {
            page = parsed;
            true
        })
    });
    assert!(page["starts"].as_u64().is_some_and(|starts| starts >= 2), "its volume outlived it: {page}");
    assert_eq!(page["claims"]["kubernetes.io"]["pod"]["name"], agent.as_str());

    // Names resolve and Services work, to pods of other nodes, too.
    let address =
        stage.run_in_pod(NODE, &web, &["resolve", "web.default.svc.cluster.local"]).expect("resolved");
    assert_eq!(address.trim(), stage.cloud("get service web -n default -o jsonpath={.spec.clusterIP}"));
    let mut seen = String::new();
    stage.promised(LIMIT, "the Service reaches the pod of the other node", || {
        seen = stage.run_in_pod(NODE, &web, &["fetch", "web"]).unwrap_or_default();
        seen.contains(&other)
    });

    // The kubelet's own port, by the decisions that the cloud made before; who was never allowed is still not.
    assert!(stage.kubelet_get(NODE, &logs).expect("logs while cut").contains(&web));
    let resolved = stage.kubelet_post(NODE, &run).expect("a command while cut");
    assert_eq!(resolved.trim(), address.trim());
    assert_connections(&stage, &connect, &web);
    let refused = stage.kubelet_get(NODE, "/stats/summary").expect_err("never asked about before the cut");
    assert!(refused.contains("Authorization error"), "{refused}");

    // The image of every pod is held, however long nobody fetches it.
    assert!(stage.all_run(NODE, &before.keys().cloned().collect::<Vec<_>>()));
    assert!(stage.is_cut(NODE).expect("nft answers"), "all of this happened while cut");

    // The same watch goes on where it was.
    stage.heal(&Nodes::All).expect("healed");
    assert!(watch.hears(LIMIT, &agent), "the watch of before the cut tells of the restart");
}
