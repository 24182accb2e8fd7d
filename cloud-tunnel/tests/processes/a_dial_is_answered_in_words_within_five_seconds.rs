//! Whatever the edge does, the door answers, and the reason phrase names the node.

use std::net::TcpStream;
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::rig::{ANSWERED, Rig, echo, exchange, kubelet};

#[test]
fn a_dial_reaches_the_node_that_it_names() {
    let rig = Rig::linked();
    kubelet(&rig, echo);
    exchange(&mut rig.connected(), "hello\n");
    assert_eq!(rig.metric("server.sock", "tunnel_dials_total"), 1.0);
    assert_eq!(rig.metric("server.sock", "tunnel_links"), 1.0);
}

#[test]
fn what_cannot_be_reached_is_told_with_the_nodes_name() {
    let rig = Rig::linked();
    // Nobody listens at node-2.
    assert_eq!(rig.dial("node-2:10250").0, "HTTP/1.1 502 node-2 refused 10250");
    assert_eq!(rig.dial("node-1:22").0, "HTTP/1.1 403 node-1 22 is not allowed; only port 10250 is");
    let address = format!("{}:10250", rig.kubelet.ip());
    let (answer, _) = rig.dial(&address);
    assert!(answer.starts_with(&format!("HTTP/1.1 502 {address} is no node of pool hangzhou")), "{answer}");
}

#[test]
fn a_node_that_takes_nobody_is_a_time_out_with_its_name() {
    let rig = Rig::linked();
    // A backlog that is full lets SYNs fall, as a host that hangs does.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&rig.kubelet.into()).expect("an address of this test alone");
    socket.listen(0).expect("it listens");
    let limit = std::time::Duration::from_millis(300);
    let _held: Vec<_> = (0..3).filter_map(|_| TcpStream::connect_timeout(&rig.kubelet, limit).ok()).collect();
    let began = Instant::now();
    assert_eq!(rig.dial("node-1:10250").0, "HTTP/1.1 504 node-1 did not answer in 4 s");
    println!("answered after {:?}; promised: 5 s", began.elapsed());
    assert!(began.elapsed() < ANSWERED);
}

#[test]
fn without_a_link_the_answer_says_for_how_long() {
    let mut rig = Rig::new();
    rig.start_server();
    let (answer, _) = rig.dial("node-1:10250");
    assert!(answer.starts_with("HTTP/1.1 503 no link to node-1 (pool hangzhou, down for "), "{answer}");
    assert_eq!(rig.ask("server.sock", "/readyz").expect("it runs").0, 200, "it answers, so it is ready");
}

#[test]
fn an_agent_that_hangs_costs_no_more_than_five_seconds() {
    let rig = Rig::linked();
    kubelet(&rig, echo);
    rig.agent.as_ref().expect("it runs").signal(Signal::SIGSTOP);
    let began = Instant::now();
    let (answer, _) = rig.dial("node-1:10250");
    println!("{answer} after {:?}; promised: 5 s", began.elapsed());
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("node-1"), "{answer}");
    assert!(began.elapsed() < ANSWERED);
    rig.agent.as_ref().expect("it runs").signal(Signal::SIGCONT);
    rig.wait_link();
    exchange(&mut rig.connected(), "back\n");
}
