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
    let mut engine = Engine::start_with("drainLimit: 10m\n");
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
    terminate(&engine);
    assert_eq!(engine.process.wait().expect("it ends").code(), Some(0));
    talk(&mut [&mut publisher], "it is told goodbye", |peers| peers[0].closed);
}
