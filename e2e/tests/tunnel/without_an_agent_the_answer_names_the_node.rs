//! Without an agent kube-apiserver's users are told so, by the node's name, and soon.

use std::time::Instant;

use e2e::lab::NodePart;

use crate::stage::{ANSWERED, NODES, Stage};

#[test]
fn without_an_agent_the_answer_names_the_node() {
    let Some(stage) = Stage::claim("without_an_agent_the_answer_names_the_node") else { return };
    stage.kill("node-1", NodePart::TunnelAgent).expect("killed");
    for node in NODES {
        let pod = format!("eyot-lab-{node}");
        for words in [&["logs", &pod][..], &["exec", &pod, "--", "/eyot-pod", "cat", "/state/starts"]] {
            let began = Instant::now();
            let output = stage.run(words);
            let took = began.elapsed();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success(), "{words:?} needs a link");
            let wanted = format!("503 no link to {node} (pool pool-1, down for ");
            assert!(said.contains(&wanted), "{words:?}: {said}");
            println!("{took:?}: {}", said.trim());
            assert!(took < ANSWERED, "{took:?}");
        }
    }
    stage.restart("node-1", NodePart::TunnelAgent).expect("it comes back");
    stage.linked();
    stage.cloud(&["logs", "eyot-lab-node-2"]);
}
