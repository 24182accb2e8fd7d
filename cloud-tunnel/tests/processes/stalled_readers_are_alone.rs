//! Readers that stop wait alone; when they fill the link, the longest-stalled are reset and nobody else notices.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Barrier};
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::rig::{Rig, echo, exchange, kubelet, wait_for};

/// `e` gives back what comes; anything else brings short lines as fast as they are taken, each a frame of its own.
fn serve(mut stream: TcpStream) {
    stream.set_nodelay(true).expect("a TCP socket");
    let mut first = [0; 1];
    stream.read_exact(&mut first).expect("a byte");
    match &first {
        b"e" => echo(stream),
        // Each thread of this kubelet ends when its reader is reset or the test is over.
        _ => while stream.write_all(&[b'x'; 64]).is_ok() {},
    }
}

fn stalled(rig: &Rig, count: usize) -> Vec<UnixStream> {
    let open = |_| {
        let mut stream = rig.connected();
        stream.write_all(b"l").expect("sent");
        stream
    };
    (0..count).map(open).collect()
}

fn bystander(rig: &Rig) -> std::time::Duration {
    let mut stream = rig.connected();
    stream.write_all(b"e").expect("sent");
    let mut slowest = std::time::Duration::ZERO;
    for number in 0..200 {
        let began = Instant::now();
        exchange(&mut stream, &format!("request {number}\n"));
        slowest = slowest.max(began.elapsed());
    }
    slowest
}

#[test]
fn a_hundred_stalled_readers_of_short_lines_cost_a_bystander_nothing_but_time() {
    let rig = Rig::linked();
    kubelet(&rig, serve);
    let link = rig.link_id();
    let stalled = stalled(&rig, 100);
    // 100 windows of 256 KiB: all have come and nobody reads.
    wait_for("the windows are full", || {
        (rig.metric("server.sock", "tunnel_buffered_bytes") > 100.0 * 200_000.0).then_some(())
    });
    let slowest = bystander(&rig);
    println!("200 requests beside 100 stalled readers, the slowest took {slowest:?}");
    assert_eq!(rig.link_id(), link, "the link stands");
    let buffered = rig.metric("server.sock", "tunnel_buffered_bytes");
    assert!(buffered <= 64.0 * 1024.0 * 1024.0, "{buffered}");
    assert_eq!(rig.metric("server.sock", "tunnel_streams_reset_total"), 0.0);
    drop(stalled);
    wait_for("what they held is free", || {
        (rig.metric("server.sock", "tunnel_buffered_bytes") == 0.0).then_some(())
    });
    wait_for("and they are gone", || (rig.metric("agent.sock", "tunnel_streams") == 0.0).then_some(()));
}

#[test]
fn beyond_the_budget_the_longest_stalled_are_reset_and_the_link_stays() {
    let rig = Rig::linked();
    kubelet(&rig, serve);
    let link = rig.link_id();
    let _stalled = stalled(&rig, 230);
    wait_for("some are reset", || {
        (rig.metric("server.sock", "tunnel_streams_reset_total") >= 1.0).then_some(())
    });
    let slowest = bystander(&rig);
    println!("200 requests beside 230 stalled readers, the slowest took {slowest:?}");
    assert_eq!(rig.link_id(), link, "the link stands");
    let buffered = rig.metric("server.sock", "tunnel_buffered_bytes");
    assert!(buffered <= 64.0 * 1024.0 * 1024.0, "{buffered}");
    let log = rig.log("server");
    assert!(log.contains("its reader has stopped") && log.contains("node-1:10250"), "{log}");
}

#[test]
fn readers_that_leave_with_data_under_way_do_not_end_the_link() {
    let rig = Rig::linked();
    let together = Arc::new(Barrier::new(101));
    let gate = Arc::clone(&together);
    kubelet(&rig, move |mut stream| {
        stream.read_exact(&mut [0; 1]).expect("a byte");
        gate.wait();
        gate.wait();
        // A reader that has left ends it.
        let _ = (0..100).try_for_each(|_| stream.write_all(&[b'x'; 1024]));
    });
    let link = rig.link_id();
    let server = rig.server.as_ref().expect("it runs");
    // HTTP/2's count of frames that came for forgotten streams never goes down, so that 1500 may leave in parts.
    for wave in 0..15 {
        let mut leaving: Vec<_> = (0..100).map(|_| rig.connected()).collect();
        for stream in &mut leaving {
            stream.write_all(b"s").expect("sent");
        }
        together.wait();
        // What the kubelet says now waits at the server's door until the readers have left.
        let before = rig.metric("agent.sock", "tunnel_bytes_total");
        server.signal(Signal::SIGSTOP);
        together.wait();
        wait_for("data is under way", || {
            (rig.metric("agent.sock", "tunnel_bytes_total") >= before + 2_000_000.0).then_some(())
        });
        drop(leaving);
        server.signal(Signal::SIGCONT);
        wait_for("all are gone", || (rig.metric("server.sock", "tunnel_streams") == 0.0).then_some(()));
        let number = rig.status()["links"][0]["id"].as_u64();
        assert_eq!(number, Some(link), "after wave {wave}: {}", rig.log("server"));
    }
    wait_for("at the edge, too", || (rig.metric("agent.sock", "tunnel_streams") == 0.0).then_some(()));
    assert_eq!(rig.link_id(), link, "the link stands: {}", rig.log("server"));
}
