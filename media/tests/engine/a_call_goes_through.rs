//! Who publishes is seen by who plays: late viewers, a publisher that comes again or vanishes, an engine that is killed.

use serde_json::json;

use crate::{
    peer::{Peer, talk},
    rig::Engine,
};

const WHIP: &str = "/whip/hall/cam";
const WHEP: &str = "/whep/hall/cam";

/// Lets the publisher send, a key frame when it is asked, until each viewer has `count` packets.
fn flow(peers: &mut [&mut Peer], count: usize) {
    let mut asked = peers[0].asked;
    talk(peers, "packets reach every viewer", |peers| {
        let publisher = &mut peers[0];
        let key_frame = publisher.asked > asked;
        asked = publisher.asked;
        publisher.send(key_frame);
        peers[1..].iter().all(|viewer| viewer.received.len() >= count)
    });
}

fn live(engine: &Engine, path: &str, subject: &str) -> Peer {
    let mut publisher = Peer::publish(engine, path, subject);
    talk(&mut [&mut publisher], "the publisher connects", |peers| peers[0].connected);
    publisher.send(true);
    publisher
}

fn viewer(engine: &Engine, publisher: &mut Peer) -> Peer {
    let mut viewer = Peer::play(engine, WHEP);
    talk(&mut [publisher, &mut viewer], "the viewer connects", |peers| peers[1].connected);
    viewer
}

/// Numbers rise by one, and so do those that the publisher gave.
fn assert_whole(viewer: &Peer) {
    let sequences: Vec<u64> = viewer.received.iter().map(|(sequence, ..)| *sequence).collect();
    assert!(sequences.windows(2).all(|pair| pair[1] == pair[0] + 1), "{sequences:?}");
    assert!(sequences[0] < 1 << 15, "{sequences:?}");
}

#[test]
fn viewers_get_every_packet_from_a_key_frame_on() {
    let engine = Engine::start();
    let mut publisher = live(&engine, WHIP, "ann");
    let mut early = viewer(&engine, &mut publisher);
    flow(&mut [&mut publisher, &mut early], 50);
    let mut late = viewer(&engine, &mut publisher);
    flow(&mut [&mut publisher, &mut early, &mut late], 50);
    for viewer in [&early, &late] {
        assert_whole(viewer);
        assert_eq!(viewer.received[0].2[1], 0, "it begins with a key frame");
        assert!(viewer.numbers().windows(2).all(|pair| pair[1] == pair[0] + 1), "nothing is missing");
    }
    let mut status = engine.status();
    talk(&mut [&mut publisher], "the status has all three sessions", |_| {
        status = engine.status();
        status["sessions"] == 3
    });
    assert_eq!(status["state"], "allocated");
    let stream = json!({ "room": "hall", "stream": "cam", "live": true, "viewers": 2, "codecs": ["VP8"] });
    assert_eq!(status["streams"], json!([stream]));
    let bearer = format!("Bearer {}", engine.issuer.everything("ann"));
    let listed = engine.ask("GET", "/streams/hall/cam", &[("authorization", &bearer)], b"");
    assert_eq!(
        (listed.status, serde_json::from_str::<serde_json::Value>(&listed.body).ok()),
        (200, Some(stream))
    );
    let elsewhere = engine.issuer.token(json!({ "room": "attic", "list": true }));
    let bearer = format!("Bearer {elsewhere}");
    for (path, status, body) in [("/streams", 200, Some("[]")), ("/streams/hall/cam", 404, None)] {
        let listed = engine.ask("GET", path, &[("authorization", &bearer)], b"");
        assert_eq!(listed.status, status, "{path}");
        assert!(body.is_none_or(|body| listed.body == body), "a token shows its own room: {listed:?}");
    }
    assert_eq!(engine.ask("DELETE", &late.session, &[], b"").status, 200);
    assert_eq!(engine.ask("DELETE", &late.session, &[], b"").status, 404, "the second time");
    talk(&mut [&mut late], "it is told goodbye", |peers| peers[0].closed);
    assert_eq!(engine.ask("GET", &early.session, &[], b"").status, 204);
}

#[test]
fn a_viewer_in_the_middle_of_a_short_group_asks_nobody() {
    let engine = Engine::start();
    let mut publisher = live(&engine, WHIP, "ann");
    let mut early = viewer(&engine, &mut publisher);
    flow(&mut [&mut publisher, &mut early], 10);
    publisher.send(true);
    let asked = publisher.asked;
    let mut late = viewer(&engine, &mut publisher);
    for _ in 0..10 {
        publisher.send(false);
    }
    talk(&mut [&mut publisher, &mut early, &mut late], "the group and what follows", |peers| {
        peers[2].received.len() >= 11
    });
    assert_whole(&late);
    assert_eq!(late.received[0].2[1], 0, "it begins with a key frame");
    assert!(late.numbers().windows(2).all(|pair| pair[1] == pair[0] + 1), "nothing is missing");
    assert_eq!(publisher.asked, asked, "the publisher was left alone");
}

#[test]
fn whoever_asks_a_publisher_is_asked_for_two_key_frames_a_second_at_most() {
    let engine = Engine::start();
    let mut publisher = live(&engine, WHIP, "ann");
    let mut viewer = viewer(&engine, &mut publisher);
    flow(&mut [&mut publisher, &mut viewer], 5);
    let (before, began) = (publisher.asked, std::time::Instant::now());
    // 200 requests, and no key frame for any.
    for _ in 0..200 {
        viewer.ask_for_key_frame();
        publisher.send(false);
        talk(&mut [&mut publisher, &mut viewer], "a moment passes", |_| true);
    }
    talk(&mut [&mut publisher, &mut viewer], "it is asked", |peers| peers[0].asked > before + 1);
    let (asked, half_seconds) = (publisher.asked - before, began.elapsed().as_millis() / 500);
    assert!(asked as u128 <= half_seconds + 1, "{asked} in {:?}", began.elapsed());
}

#[test]
fn the_same_subject_takes_over_without_a_seam() {
    let engine = Engine::start();
    let mut first = live(&engine, WHIP, "ann");
    let mut viewer = viewer(&engine, &mut first);
    flow(&mut [&mut first, &mut viewer], 20);
    let mut second = live(&engine, WHIP, "ann");
    talk(&mut [&mut first], "the first one is told goodbye", |peers| peers[0].closed);
    let gone = engine.ask("GET", &first.session, &[], b"");
    assert_eq!((gone.status, gone.detail().contains("same subject")), (410, true), "it learns why");
    let count = viewer.received.len();
    flow(&mut [&mut second, &mut viewer], count + 20);
    assert_whole(&viewer);
    let times: Vec<u32> = viewer.received.iter().map(|(_, time, _)| *time).collect();
    assert!(times.windows(2).all(|pair| pair[1] > pair[0]), "time goes on: {times:?}");
    let other = engine.offer(WHIP, &engine.issuer.everything("bob"), &second.offer);
    assert_eq!((other.status, other.detail().contains("another subject")), (409, true));
}

#[test]
fn viewers_wait_for_a_publisher_that_vanished() {
    let engine = Engine::start();
    let mut publisher = live(&engine, WHIP, "ann");
    let mut viewer = viewer(&engine, &mut publisher);
    flow(&mut [&mut publisher, &mut viewer], 5);
    assert_eq!(engine.ask("DELETE", &publisher.session, &[], b"").status, 200);
    drop(publisher);
    assert_eq!(engine.ask("GET", &viewer.session, &[], b"").status, 204, "it may stay");
    let mut again = live(&engine, WHIP, "ann");
    let count = viewer.received.len();
    flow(&mut [&mut again, &mut viewer], count + 5);
    assert_whole(&viewer);
}

#[test]
fn after_sigkill_clients_come_back_to_the_same_ports() {
    let mut engine = Engine::start();
    let mut publisher = live(&engine, WHIP, "ann");
    let mut before = viewer(&engine, &mut publisher);
    flow(&mut [&mut publisher, &mut before], 5);
    engine.kill_and_start_again();
    assert_eq!(engine.ask("GET", &before.session, &[], b"").status, 404, "it knows nobody");
    let nobody = engine.offer(WHEP, &engine.issuer.everything("eve"), &before.offer);
    assert_eq!((nobody.status, nobody.header("retry-after")), (409, Some("1")));
    let mut publisher = live(&engine, WHIP, "ann");
    let mut after = viewer(&engine, &mut publisher);
    flow(&mut [&mut publisher, &mut after], 20);
    assert_whole(&after);
}
