//! SIGTERM makes a tombstone: no new streams, viewers of old ones still come, and the process ends when nobody is left.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use str0m::media::Direction;

use crate::{
    peer::{Peer, Pictures, talk},
    rig::Engine,
};

fn terminate(engine: &Engine) {
    let pid = i32::try_from(engine.process.id()).expect("a process id");
    kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it runs");
}

fn wait_for_tombstone(engine: &Engine) {
    talk(&mut [], "it is told to end", |_| engine.status()["state"] == "tombstone");
}

#[test]
fn an_engine_without_calls_ends_at_once() {
    let mut engine = Engine::start();
    terminate(&engine);
    assert_eq!(engine.process.wait().expect("it ends").code(), Some(0));
}

#[test]
fn calls_go_on_until_their_end_and_no_new_one_begins() {
    let mut engine = Engine::start_with("drainLimit: 10m\nquiet: 100ms\n");
    let mut publisher = Peer::publish(&engine, "/whip/hall/cam", "ann");
    talk(&mut [&mut publisher], "the publisher connects", |peers| peers[0].connected);
    publisher.send(true);
    terminate(&engine);
    wait_for_tombstone(&engine);
    assert_ne!(engine.probe("/readyz").0, Some(0));
    assert_eq!(engine.probe("/livez").0, Some(0));
    let offer = Peer::new(Direction::SendOnly, Pictures::Vp8).offer;
    let other = engine.offer("/whip/hall/other", &engine.issuer.everything("ann"), &offer);
    assert_eq!((other.status, other.header("retry-after").is_some()), (503, true));
    let mut viewer = Peer::play(&engine, "/whep/hall/cam");
    talk(&mut [&mut publisher, &mut viewer], "a viewer still comes", |peers| {
        let key_frame = peers[0].asked > 0;
        peers[0].send(key_frame);
        peers[1].received.len() > 5
    });
    for session in [&viewer.session, &publisher.session] {
        assert_eq!(engine.ask("DELETE", session, &[], b"").status, 200);
    }
    assert_eq!(engine.process.wait().expect("it ends").code(), Some(0));
}

#[test]
fn at_the_deadline_who_is_left_is_told_goodbye() {
    let mut engine = Engine::start_with("drainLimit: 200ms\n");
    let mut publisher = Peer::publish(&engine, "/whip/hall/cam", "ann");
    talk(&mut [&mut publisher], "the publisher connects", |peers| peers[0].connected);
    publisher.send(true);
    let viewer = Peer::play(&engine, "/whep/hall/cam");
    let mut events = engine.listen(&viewer);
    assert_eq!(events.next(), "active");
    terminate(&engine);
    assert_eq!(events.next(), "moved");
    assert_eq!(engine.process.wait().expect("it ends").code(), Some(0));
    talk(&mut [&mut publisher], "it is told goodbye", |peers| peers[0].closed);
}

#[test]
fn an_operators_tombstone_is_kept_over_a_restart_and_is_no_end_of_the_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("state");
    let mut engine = Engine::start_with(&format!("quiet: 100ms\nstateFile: {}\n", file.display()));
    let mut publisher = Peer::publish(&engine, "/whip/hall/cam", "ann");
    talk(&mut [&mut publisher], "the publisher connects", |peers| peers[0].connected);
    let kept = |word: &str| {
        talk(&mut [], "the state is written", |_| {
            std::fs::read_to_string(&file).is_ok_and(|text| text.trim() == word)
        });
    };
    kept("allocated");
    assert!(engine.tombstone());
    wait_for_tombstone(&engine);
    assert_eq!(engine.probe("/state").1, "{\"state\":\"tombstone\"}");
    kept("tombstone");
    assert_eq!(engine.ask("GET", &publisher.session, &[], b"").status, 204, "nobody is cut off");
    engine.kill();
    engine.start_again();
    // Nobody came back: the engine that was to end has ended, and says so as often as it is started.
    for _ in 0..2 {
        let over = |_: &mut [&mut Peer]| engine.status()["state"] == "waiting-to-be-deleted";
        talk(&mut [], "it may be removed", over);
        kept("waiting-to-be-deleted");
        let offer = Peer::new(Direction::SendOnly, Pictures::Vp8).offer;
        assert_eq!(engine.offer("/whip/hall/cam", &engine.issuer.everything("ann"), &offer).status, 503);
        assert_eq!(engine.probe("/livez").0, Some(0), "it runs");
        engine.kill();
        engine.start_again();
    }
    terminate(&engine);
    assert_eq!(engine.process.wait().expect("it ends").code(), Some(0));
}

#[test]
fn a_viewer_hears_when_its_publisher_comes_and_goes() {
    let engine = Engine::start();
    let mut publisher = Peer::publish(&engine, "/whip/hall/cam", "ann");
    let viewer = Peer::play(&engine, "/whep/hall/cam");
    let mut events = engine.listen(&viewer);
    assert_eq!(events.next(), "inactive");
    talk(&mut [&mut publisher], "the publisher connects", |peers| peers[0].connected);
    publisher.send(true);
    assert_eq!(events.next(), "active");
    assert_eq!(engine.ask("DELETE", &publisher.session, &[], b"").status, 200);
    assert_eq!(events.next(), "inactive");
    let more: Vec<_> = (0..3).map(|_| engine.listen(&viewer)).collect();
    let path = viewer.session.replace("/session/", "/events/");
    assert_eq!(engine.ask("GET", &path, &[], b"").status, 429, "a fifth one");
    drop(more);
    assert_eq!(engine.ask("DELETE", &viewer.session, &[], b"").status, 200);
    assert_eq!(events.next(), "", "the stream ends with the session");
    assert_eq!(engine.ask("GET", &path, &[], b"").status, 404);
}
