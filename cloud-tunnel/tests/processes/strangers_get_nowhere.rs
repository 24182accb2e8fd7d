//! What is no client of a door and no agent of the pool gets a bounded time and no more; dials of others go on.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use crate::rig::{ANSWERED, Authority, LIMIT, Rig, answer, echo, exchange, kubelet, wait_for};

#[test]
fn garbage_and_endless_heads_at_the_door_are_answered_and_closed() {
    let rig = Rig::linked();
    kubelet(&rig, echo);
    for (bytes, status) in [
        (b"\x16\x03\x01\x02\x00\x01\x00".to_vec(), " 400 "),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), " 400 "),
        ([b"CONNECT node-1:10250 HTTP/1.1\r\na: ".to_vec(), vec![b'b'; 1 << 20]].concat(), " 431 "),
        ([b"CONNECT ".to_vec(), vec![b'b'; 1 << 20]].concat(), " 431 "),
    ] {
        let mut stream = rig.knock();
        // The server answers before it has read all, and closes.
        let _ = stream.write_all(&bytes);
        let line = answer(&mut stream);
        assert!(line.contains(status), "{line}");
        let _ = stream.read_to_end(&mut Vec::new());
    }
    exchange(&mut rig.connected(), "others go on\n");
}

#[test]
fn a_head_that_trickles_in_is_given_five_seconds_and_a_flood_pushes_out_its_own() {
    let rig = Rig::linked();
    kubelet(&rig, echo);
    let began = Instant::now();
    let mut slow = rig.knock();
    slow.write_all(b"CONNECT node-1:102").expect("sent");
    // More than the door bears: the oldest of them go, and whoever sends a head is served meanwhile.
    let flood: Vec<_> = (0..600).map(|_| rig.knock()).collect();
    exchange(&mut rig.connected(), "others go on\n");
    let mut rest = Vec::new();
    let _ = slow.read_to_end(&mut rest);
    assert!(rest.is_empty() && began.elapsed() < ANSWERED, "{:?}", began.elapsed());
    drop(flood);
    let mut alone = rig.knock();
    alone.write_all(b"CONNECT node-1:102").expect("sent");
    let began = Instant::now();
    let _ = alone.read_to_end(&mut rest);
    println!("a head that does not end was closed after {:?}; promised: 5 s", began.elapsed());
    assert!(began.elapsed() < ANSWERED);
}

#[test]
fn garbage_where_agents_arrive_is_no_link_and_harms_none() {
    let rig = Rig::linked();
    kubelet(&rig, echo);
    let mut open = rig.connected();
    exchange(&mut open, "before\n");
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\xff\xff", &[0; 70_000]] {
        let mut stream = TcpStream::connect(rig.listen).expect("it listens");
        stream.set_read_timeout(Some(LIMIT)).expect("a time-out");
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    wait_for("they are counted", || {
        (rig.metric("server.sock", "tunnel_peers_refused_total") >= 3.0).then_some(())
    });
    exchange(&mut open, "after\n");
    assert_eq!(rig.log("server").matches("a connection was refused").count(), 1, "told once a minute");
}

#[test]
fn only_a_node_of_the_pool_brings_up_a_link_and_the_server_says_why() {
    let mut rig = Rig::new();
    rig.authority.issue(rig.folder.path(), "other", "system:node:node-9", &[]);
    rig.authority.issue(rig.folder.path(), "user", "jo", &[]);
    Authority::new().issue(rig.folder.path(), "foreign", "system:node:node-1", &[]);
    for (credential, reason) in [
        ("other", "node-9 is no node of pool hangzhou"),
        ("user", "and no node's"),
        ("foreign", "invalid peer certificate"),
    ] {
        // A server of its own: it tells of one refusal in a minute, which is not to be the last agent's.
        rig.agent = None;
        rig.start_server();
        rig.configure(credential);
        rig.start_agent();
        wait_for("the refusal is counted", || {
            (rig.metric("server.sock", "tunnel_peers_refused_total") >= 1.0).then_some(())
        });
        assert!(rig.log("server").contains(reason), "{reason}: {}", rig.log("server"));
        assert_eq!(rig.status()["links"].as_array().map(Vec::len), Some(0));
        // A certificate of another authority gets TLS's own alert; the others, the server's words.
        let told = if credential == "foreign" { "alert" } else { reason };
        wait_for("the agent says why", || {
            let (code, why) = rig.ask("agent.sock", "/readyz").expect("it runs");
            assert_eq!(code, 503, "{why}");
            println!("{credential}: {}", why.trim());
            why.contains(told).then_some(())
        });
    }
    rig.agent = None;
    rig.start_server();
    rig.configure("node-1");
    rig.start_agent();
    rig.wait_link();
}

#[test]
fn a_certificate_that_is_used_many_times_has_two_links_and_open_streams_go_on() {
    let mut rig = Rig::linked();
    kubelet(&rig, echo);
    let mut open = rig.connected();
    exchange(&mut open, "before\n");
    // Copies of the agent, each with an admin socket of its own.
    let copies: Vec<_> = (0..6)
        .map(|number| {
            let text = std::fs::read_to_string(rig.path("agent.yaml")).expect("written");
            let config = format!("copy-{number}.yaml");
            let socket = format!("copy-{number}.sock");
            std::fs::write(rig.path(&config), text.replace("agent.sock", &socket)).expect("written");
            rig.spawn(env!("CARGO_BIN_EXE_tunnel-agent"), &config)
        })
        .collect();
    let replaced = "newer links of the same node took its place";
    wait_for("the oldest link is replaced", || {
        let links = rig.status()["links"].as_array().map_or(0, Vec::len);
        // The one that came up last may not have pushed out the oldest yet.
        assert!(links <= 3, "{}", rig.status());
        rig.log("server").contains(replaced).then_some(())
    });
    exchange(&mut open, "streams of a replaced link go on\n");
    exchange(&mut rig.connected(), "new streams\n");
    drop(copies);
    rig.agent = None;
    rig.start_agent();
    wait_for("it has a link again", || rig.ask("agent.sock", "/readyz").filter(|(code, _)| *code == 200));
    exchange(&mut rig.connected(), "again\n");
}
