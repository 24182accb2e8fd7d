//! A node that is to join while the cloud is away is told to wait, and joins when the cloud is back: by the token that it
//! has, if that still holds, else by a new one, after the cloud itself has said no.

use std::time::Duration;

use e2e::lab::{NodePart, Nodes};
use time::OffsetDateTime;

use crate::stage::{LIMIT, NODE, OTHER, Stage};

const LONG: &str = "eyotaa.0123456789abcdef";
const BRIEF: &str = "eyotbb.0123456789abcdef";
/// How long the token holds that ends before the cut does.
const BRIEFLY: Duration = Duration::from_secs(20);

/// Gives both nodes their own certificates again, also after a test that failed: others share the lab.
struct Reinstated<'a>(&'a Stage);

impl Drop for Reinstated<'_> {
    fn drop(&mut self) {
        let restarted = [NODE, OTHER].map(|node| self.0.restart(node, NodePart::Kubelet));
        if !std::thread::panicking() {
            restarted.into_iter().for_each(|done| done.expect("healthy"));
            self.0.promised(LIMIT, "the lab settles", || self.0.is_settled());
        }
    }
}

#[test]
fn a_bootstrap_token() {
    let Some(stage) = Stage::claim("a_bootstrap_token") else { return };
    let _reinstated = Reinstated(&stage);
    let pods: Vec<_> = [NODE, OTHER].map(|node| (node, stage.pods_on(node))).into();
    stage.make_bootstrap_token(LONG, Duration::from_secs(3600)).expect("made");
    let end = stage.make_bootstrap_token(BRIEF, BRIEFLY).expect("made");
    stage.cut(&Nodes::All).expect("cut");
    for (node, token) in [(NODE, LONG), (OTHER, BRIEF)] {
        stage.reinstall_to_join(node, token).expect("its kubelet starts");
    }
    let says = |node: &str, what: &str| {
        let log = stage.log(node, NodePart::Kubelet).expect("a log");
        log.lines()
            .any(|line| line.contains("cannot create certificate signing request") && line.contains(what))
    };
    for node in [NODE, OTHER] {
        stage.promised(LIMIT, "the cloud misses the node", || !stage.is_ready(node));
        let told = || says(node, "cut off: only it can judge a bootstrap token");
        stage.promised(LIMIT, "the kubelet says what it waits for", told);
    }
    stage.promised(LIMIT, "one token ends", || OffsetDateTime::now_utc() > end);
    for node in [NODE, OTHER] {
        assert!(stage.is_running(node, NodePart::Kubelet).expect("a record"), "{node}: it keeps trying");
    }

    stage.heal(&Nodes::All).expect("healed");
    let joined = stage.promised(LIMIT, "the token that holds leads in", || stage.is_ready(NODE));
    eprintln!("the node was Ready {joined:?} after healing, by a certificate of its own");
    let certificate = stage.node_file(NODE, "kubelet/pki/kubelet-client-current.pem");
    assert!(certificate.exists(), "{}", certificate.display());

    // The other token ended meanwhile: the cloud's no is passed on.
    stage.promised(LIMIT, "the cloud's own word", || says(OTHER, ": Unauthorized"));
    assert!(!stage.is_ready(OTHER));
    stage.join_again(OTHER, LONG).expect("it starts");
    let joined = stage.promised(LIMIT, "a new token leads in", || stage.is_ready(OTHER));
    eprintln!("the node was Ready {joined:?} after its kubelet started with a new token");
    for (node, pods) in &pods {
        stage.promised(LIMIT, "all its pods run", || stage.all_run(node, pods));
    }
}
