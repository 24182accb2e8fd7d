//! SIGTERM lets open streams end by themselves and takes no new ones; both programs then exit with 0.

use nix::sys::signal::Signal;

use crate::rig::{Rig, echo, exchange, kubelet, wait_for};

#[test]
fn an_agent_that_is_told_to_stop_keeps_its_streams() {
    let mut rig = Rig::linked();
    kubelet(&rig, echo);
    let mut open = rig.connected();
    exchange(&mut open, "before\n");
    rig.agent.as_ref().expect("it runs").signal(Signal::SIGTERM);
    wait_for("the link drains", || rig.status()["links"].as_array().is_some_and(Vec::is_empty).then_some(()));
    let (answer, _) = rig.dial("node-1:10250");
    assert!(answer.contains(" 503 no link to node-1"), "{answer}");
    exchange(&mut open, "still there\n");
    drop(open);
    assert_eq!(rig.agent.as_mut().expect("ours").ended(), 0, "{}", rig.log("agent"));
}

#[test]
fn a_server_that_is_told_to_stop_keeps_its_streams_and_says_so_to_new_ones() {
    let mut rig = Rig::linked();
    kubelet(&rig, echo);
    let mut open = rig.connected();
    exchange(&mut open, "before\n");
    rig.server.as_ref().expect("it runs").signal(Signal::SIGTERM);
    let refused = wait_for("it drains", || {
        let (answer, _) = rig.dial("node-1:10250");
        answer.contains(" 503 ").then_some(answer)
    });
    assert_eq!(refused, "HTTP/1.1 503 no link to node-1: tunnel-server is stopping");
    exchange(&mut open, "still there\n");
    drop(open);
    assert_eq!(rig.server.as_mut().expect("ours").ended(), 0, "{}", rig.log("server"));
    assert!(!rig.path("door.sock").exists(), "the door goes with its process");
    rig.start_server();
    rig.wait_link();
    exchange(&mut rig.connected(), "again\n");
}
