//! kill -9 of either end in the middle of streams: they fail soon, new dials are answered, and the link comes back.

use std::io::Read as _;
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::rig::{ANSWERED, NOTICED, Rig, echo, exchange, kubelet};

#[test]
fn a_killed_agent_ends_its_streams_and_the_next_one_is_taken_at_once() {
    let mut rig = Rig::linked();
    kubelet(&rig, echo);
    let mut open = rig.connected();
    exchange(&mut open, "before\n");
    let before = rig.link_id();
    let began = Instant::now();
    rig.agent.as_ref().expect("it runs").signal(Signal::SIGKILL);
    let _ = open.read_to_end(&mut Vec::new());
    println!("the stream ended after {:?}; promised: 3 s", began.elapsed());
    assert!(began.elapsed() < NOTICED);
    let (answer, _) = rig.dial("node-1:10250");
    assert!(answer.contains(" 503 no link to node-1 (pool hangzhou, down for "), "{answer}");
    assert!(began.elapsed() < ANSWERED);
    rig.start_agent();
    rig.wait_link();
    assert!(rig.link_id() > before);
    exchange(&mut rig.connected(), "again\n");
}

#[test]
fn a_frozen_agents_link_is_dead_in_three_seconds_and_its_successor_wins() {
    let mut rig = Rig::linked();
    kubelet(&rig, echo);
    let mut open = rig.connected();
    exchange(&mut open, "before\n");
    let frozen = rig.agent.take().expect("it runs");
    frozen.signal(Signal::SIGSTOP);
    // The admin socket of the one that stands still is in the way of the other.
    std::fs::remove_file(rig.path("agent.sock")).expect("removed");
    let began = Instant::now();
    rig.start_agent();
    let _ = open.read_to_end(&mut Vec::new());
    println!("the stream ended after {:?}; promised: 3 s", began.elapsed());
    assert!(began.elapsed() < NOTICED);
    exchange(&mut rig.connected(), "by the new one\n");
    let reason = rig.log("server");
    assert!(reason.contains("not a byte came in"), "{reason}");
    drop(frozen);
}

#[test]
fn a_killed_server_is_dialled_again_until_it_is_back() {
    let mut rig = Rig::linked();
    kubelet(&rig, echo);
    let mut open = rig.connected();
    exchange(&mut open, "before\n");
    rig.server.as_ref().expect("it runs").signal(Signal::SIGKILL);
    let _ = open.read_to_end(&mut Vec::new());
    let reason = crate::rig::wait_for("the agent says why it is not ready", || {
        rig.ask("agent.sock", "/readyz").filter(|(code, _)| *code == 503).map(|(_, reason)| reason)
    });
    assert!(reason.contains("no link for") && reason.contains(&rig.listen.to_string()), "{reason}");
    rig.start_server();
    rig.wait_link();
    exchange(&mut rig.connected(), "again\n");
}
