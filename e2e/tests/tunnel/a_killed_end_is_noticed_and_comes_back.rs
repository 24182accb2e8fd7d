//! kill -9 of agent and server in the middle of `logs -f`, a node cut off, garbage where agents arrive: streams fail soon,
//! the rest goes on, and a new link follows.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use e2e::lab::{NodePart, Nodes};

use crate::stage::{LIMIT, NOTICED, Running, Stage};

/// `kubectl logs -f` that has shown its first line.
fn following(stage: &Stage) -> Running {
    let mut follow = stage.start(&["logs", "-f", "eyot-lab-node-2"]);
    let mut first = [0; 6];
    follow.0.stdout.as_mut().expect("piped").read_exact(&mut first).expect("its first line");
    assert_eq!(&first, b"start ");
    follow
}

/// How long kubectl takes to end since `began`.
fn ended(mut follow: Running, began: Instant) -> Duration {
    let mut rest = Vec::new();
    let _ = follow.0.stdout.as_mut().expect("piped").read_to_end(&mut rest);
    let _ = follow.0.wait();
    began.elapsed()
}

#[test]
fn a_killed_agent_ends_its_streams_and_a_new_link_follows() {
    let Some(stage) = Stage::claim("a_killed_agent_ends_its_streams_and_a_new_link_follows") else { return };
    let follow = following(&stage);
    let began = Instant::now();
    stage.kill("node-1", NodePart::TunnelAgent).expect("killed");
    let took = ended(follow, began);
    println!("agent killed: logs -f ended after {took:?}; promised: 3 s");
    assert!(took < NOTICED);
    stage.restart("node-1", NodePart::TunnelAgent).expect("it comes back");
    stage.cloud(&["logs", "eyot-lab-node-2"]);
}

#[test]
fn a_killed_server_ends_its_streams_and_the_agent_dials_again() {
    let Some(stage) = Stage::claim("a_killed_server_ends_its_streams_and_the_agent_dials_again") else {
        return;
    };
    let follow = following(&stage);
    let began = Instant::now();
    stage.kill("cloud", NodePart::TunnelServer).expect("killed");
    let took = ended(follow, began);
    println!("server killed: logs -f ended after {took:?}; promised: 3 s");
    assert!(took < NOTICED);
    let output = stage.run(&["logs", "eyot-lab-node-2"]);
    assert!(!output.status.success(), "there is no door");
    stage.restart("cloud", NodePart::TunnelServer).expect("it comes back");
    println!("link up {:?} after the server's return", stage.linked());
    stage.cloud(&["logs", "eyot-lab-node-2"]);
}

#[test]
fn a_cut_uplink_is_noticed_at_both_ends_and_healed_by_a_new_link() {
    let Some(stage) = Stage::claim("a_cut_uplink_is_noticed_at_both_ends_and_healed_by_a_new_link") else {
        return;
    };
    let follow = following(&stage);
    let began = Instant::now();
    stage.cut(&Nodes::One("node-1".to_owned())).expect("cut");
    let took = ended(follow, began);
    println!("cut: logs -f ended after {took:?}; promised: 3 s");
    assert!(took < NOTICED);
    let output = stage.run(&["logs", "eyot-lab-node-2"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("503 no link to node-2"), "{said}");
    let began = Instant::now();
    stage.heal(&Nodes::All).expect("healed");
    stage.linked();
    println!("healed: link up after {:?}", began.elapsed());
    stage.cloud(&["logs", "eyot-lab-node-2"]);
}

#[test]
fn garbage_where_agents_arrive_does_not_touch_the_link() {
    let Some(stage) = Stage::claim("garbage_where_agents_arrive_does_not_touch_the_link") else { return };
    let before = stage.link();
    let url = stage.api_server();
    let host = url.trim_start_matches("https://").split(':').next().expect("a host").to_owned();
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\xff\xff", &[0xff; 100_000]] {
        let mut stream = TcpStream::connect((host.as_str(), 10_264)).expect("it listens");
        stream.set_read_timeout(Some(LIMIT)).expect("a time-out");
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    stage.cloud(&["logs", "eyot-lab-node-1"]);
    assert_eq!(stage.link()["id"], before["id"]);
    assert_eq!(stage.tunnel_connections().expect("conntrack lists").len(), 1);
}
