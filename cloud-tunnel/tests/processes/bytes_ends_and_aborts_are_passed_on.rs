//! A stream is what a TCP connection would be: all bytes, the half-close of either side, and an abort that is one.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::rig::{LIMIT, Rig, echo, kubelet, wait_for};

#[test]
fn megabytes_cross_both_ways_at_once_and_each_half_ends_by_itself() {
    let rig = Rig::linked();
    kubelet(&rig, echo);
    let stream = rig.connected();
    let sent: Vec<u8> = (0..8_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut writer = stream.try_clone().expect("a descriptor");
    let copy = sent.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&copy).expect("taken");
        writer.shutdown(Shutdown::Write).expect("half closed");
    });
    let mut received = Vec::new();
    let mut reader = stream;
    reader.read_to_end(&mut received).expect("to its end");
    writing.join().expect("written");
    assert!(received == sent, "{} of {} bytes came back", received.len(), sent.len());
    wait_for("the stream is gone", || (rig.metric("server.sock", "tunnel_streams") == 0.0).then_some(()));
    assert_eq!(rig.metric("server.sock", "tunnel_streams_reset_total"), 0.0);
    assert_eq!(rig.metric("server.sock", "tunnel_buffered_bytes"), 0.0);
}

#[test]
fn the_answers_head_is_alone_until_the_client_has_spoken_or_a_moment_has_passed() {
    let rig = Rig::linked();
    kubelet(&rig, |mut stream| {
        stream.write_all(b"the kubelet speaks first").expect("sent");
        std::thread::sleep(Duration::from_millis(1));
    });
    let mut stream = rig.knock();
    let asked = Instant::now();
    stream.write_all(b"CONNECT node-1:10250 HTTP/1.1\r\n\r\n").expect("sent");
    let mut buffer = [0; 4096];
    let length = stream.read(&mut buffer).expect("an answer");
    assert_eq!(&buffer[..length], b"HTTP/1.1 200 connected\r\n\r\n", "one write, and nothing behind it");
    let mut rest = [0; 1];
    stream.read_exact(&mut rest).expect("the kubelet's first byte");
    // The moment begins behind the question, so that no slow machine makes it shorter.
    assert!(asked.elapsed() >= Duration::from_millis(50), "{:?}", asked.elapsed());
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("to its end");
    assert_eq!(rest, b"he kubelet speaks first");
}

#[test]
fn a_kubelet_that_breaks_off_is_seen_at_the_door_and_a_client_that_leaves_at_the_kubelet() {
    let rig = Rig::linked();
    let (told, hear) = mpsc::channel();
    kubelet(&rig, move |mut stream| {
        let mut first = [0; 1];
        stream.read_exact(&mut first).expect("a byte");
        if first == *b"x" {
            // Unread bytes make the close a reset.
            let _ = stream.peek(&mut [0; 1]);
            return;
        }
        // Writing for ever shows at last that nobody is there.
        let ended =
            std::iter::repeat_with(|| stream.write_all(&[b'y'; 4096])).take(100_000).find_map(Result::err);
        let _ = told.send(ended.map(|error| error.kind()));
    });
    let mut broken = rig.connected();
    broken.write_all(b"xyz").expect("sent");
    let mut rest = Vec::new();
    let _ = broken.read_to_end(&mut rest);
    assert!(rest.is_empty());

    let mut leaving = rig.connected();
    leaving.write_all(b"l").expect("sent");
    leaving.read_exact(&mut [0; 4096]).expect("bytes come");
    drop(leaving);
    let ended = hear.recv_timeout(LIMIT).expect("the kubelet is told");
    assert!(ended.is_some(), "a write fails");
    wait_for("no stream is left", || (rig.metric("server.sock", "tunnel_streams") == 0.0).then_some(()));
    wait_for("at the edge neither", || (rig.metric("agent.sock", "tunnel_streams") == 0.0).then_some(()));
}

#[test]
fn a_client_that_leaves_while_its_upload_is_blocked_ends_its_stream() {
    let rig = Rig::linked();
    let (hold, held) = mpsc::channel();
    kubelet(&rig, move |stream| {
        // Kept open and never read.
        let _ = hold.send(stream);
    });
    let mut client = rig.connected();
    client.set_write_timeout(Some(Duration::from_secs(1))).expect("a time-out");
    while client.write_all(&[b'u'; 64 * 1024]).is_ok() {}
    assert_eq!(rig.metric("server.sock", "tunnel_streams"), 1.0);
    drop(client);
    wait_for("the stream is gone", || (rig.metric("server.sock", "tunnel_streams") == 0.0).then_some(()));
    wait_for("at the edge, too", || (rig.metric("agent.sock", "tunnel_streams") == 0.0).then_some(()));
    drop(held);
}
