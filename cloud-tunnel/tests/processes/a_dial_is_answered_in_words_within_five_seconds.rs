//! Whatever the edge does, the door answers, and the reason phrase names the node.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::rig::{ANSWERED, Rig, answer, echo, exchange, kubelet, wait_for};

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

/// A backlog that is full lets SYNs fall, as a host that hangs does.
fn hung(rig: &Rig) -> (socket2::Socket, Vec<TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&rig.kubelet.into()).expect("an address of this test alone");
    socket.listen(0).expect("it listens");
    let limit = std::time::Duration::from_millis(300);
    let held = (0..3).filter_map(|_| TcpStream::connect_timeout(&rig.kubelet, limit).ok()).collect();
    (socket, held)
}

#[test]
fn a_node_that_takes_nobody_is_a_time_out_with_its_name() {
    let rig = Rig::linked();
    let _hung = hung(&rig);
    let began = Instant::now();
    assert_eq!(rig.dial("node-1:10250").0, "HTTP/1.1 504 node-1 did not answer in 4 s");
    println!("answered after {:?}; promised: 5 s", began.elapsed());
    assert!(began.elapsed() < ANSWERED);
}

#[test]
fn a_hundred_dials_to_a_node_that_hangs_are_no_concern_of_the_others() {
    let rig = Rig::linked();
    let _hung = hung(&rig);
    let mut waiting: Vec<_> = (0..100).map(|_| rig.knock()).collect();
    for client in &mut waiting {
        client.write_all(b"CONNECT node-1:10250 HTTP/1.1\r\n\r\n").expect("sent");
    }
    // Nobody listens at node-2, which is told at once and not after those that wait.
    assert_eq!(rig.dial("node-2:10250").0, "HTTP/1.1 502 node-2 refused 10250");
    let late = "HTTP/1.1 504 node-1 did not answer in 4 s";
    let no_turn = "HTTP/1.1 503 node-1: 16 dials are under way at its agent, try again";
    let answers: Vec<String> = waiting.iter_mut().map(answer).collect();
    assert!(answers.iter().all(|answer| answer == late || answer == no_turn), "{answers:?}");
    // Those that had a turn waited for the node, and those that had none are not told that it did not answer.
    assert!(answers.iter().any(|answer| answer == late), "{answers:?}");
    assert!(answers.iter().any(|answer| answer == no_turn), "{answers:?}");
}

#[test]
fn without_a_link_the_answer_says_for_how_long() {
    let mut rig = Rig::new();
    rig.start_server();
    let (answer, _) = rig.dial("node-1:10250");
    assert!(answer.starts_with("HTTP/1.1 503 no link to node-1 (pool hangzhou, down for "), "{answer}");
    assert_eq!(rig.ask("server.sock", "/readyz").expect("it runs").0, 200, "it answers, so it is ready");
    // A head that is refused is counted and was no dial that took time.
    let mut stranger = rig.knock();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    assert!(crate::rig::answer(&mut stranger).starts_with("HTTP/1.1 400 "));
    assert_eq!(rig.metric("server.sock", "tunnel_dials_total"), 2.0);
    assert_eq!(rig.metric("server.sock", "tunnel_dial_seconds_count"), 1.0);
}

#[test]
fn attempts_that_fail_are_counted_and_are_no_reconnects() {
    let mut rig = Rig::new();
    rig.start_agent();
    wait_for("attempts fail", || {
        rig.ask("agent.sock", "/readyz")?;
        (rig.metric("agent.sock", "tunnel_link_attempts_failed_total") >= 2.0).then_some(())
    });
    assert_eq!(rig.metric("agent.sock", "tunnel_reconnects_total"), 0.0);
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

#[test]
fn a_client_that_leaves_while_its_node_hangs_is_seen_at_once() {
    let rig = Rig::linked();
    let _hung = hung(&rig);
    let mut client = rig.knock();
    client.write_all(b"CONNECT node-1:10250 HTTP/1.1\r\n\r\n").expect("sent");
    wait_for("the dial is under way", || (rig.metric("agent.sock", "tunnel_streams") == 1.0).then_some(()));
    drop(client);
    wait_for("it is counted", || (rig.metric("server.sock", "tunnel_dials_total") == 1.0).then_some(()));
    let (_, metrics) = rig.ask("server.sock", "/metrics").expect("it runs");
    assert!(metrics.contains("outcome=\"499\"} 1"), "{metrics}");
    wait_for("no stream is left", || (rig.metric("server.sock", "tunnel_streams") == 0.0).then_some(()));
    wait_for("at the edge neither", || (rig.metric("agent.sock", "tunnel_streams") == 0.0).then_some(()));
}
