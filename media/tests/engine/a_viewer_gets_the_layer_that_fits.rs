//! Simulcast: which layer a viewer gets, when it goes to another one, and what it hears of them.

use std::time::{Duration, Instant};

use crate::{
    peer::{Peer, talk},
    rig::Engine,
};

const WHIP: &str = "/whip/hall/cam";
const WHEP: &str = "/whep/hall/cam";

/// A publisher that sends a large and a small layer, 50 packets a second each, and a viewer.
struct Stage {
    engine: Engine,
    publisher: Peer,
    viewer: Peer,
    next: Instant,
}

impl Stage {
    fn new() -> Self {
        let engine = Engine::start();
        let mut publisher = Peer::publish_layers(&engine, WHIP, "ann", &["h", "l"]);
        talk(&mut [&mut publisher], "the publisher connects", |peers| peers[0].connected);
        publisher.send_layer("h", 1000);
        publisher.send_layer("l", 100);
        let viewer = Peer::play(&engine, WHEP);
        Self { engine, publisher, viewer, next: Instant::now() }
    }

    /// Sends of these layers until the viewer has what it should; returns how long that took.
    fn until(&mut self, layers: &[&str], what: &str, holds: impl Fn(&Peer) -> bool) -> Duration {
        let began = Instant::now();
        let next = &mut self.next;
        talk(&mut [&mut self.publisher, &mut self.viewer], what, |peers| {
            let now = Instant::now();
            if now >= *next {
                for layer in layers {
                    peers[0].send_layer(layer, if *layer == "h" { 1000 } else { 100 });
                }
                *next = (*next + Duration::from_millis(20)).max(now);
            }
            holds(peers[1])
        });
        began.elapsed()
    }

    fn choose(&self, body: &str) -> u16 {
        let path = format!("{}/layer", self.viewer.session);
        self.engine.ask("POST", &path, &[("content-type", "application/json")], body.as_bytes()).status
    }
}

#[test]
fn the_engine_agrees_on_layers_and_pauses_what_is_paused() {
    let engine = Engine::start();
    let layered = Peer::layered_offer(&["h", "l"]);
    let token = engine.issuer.everything("ann");
    let answer = engine.offer(WHIP, &token, &layered);
    for line in ["a=rid:h recv", "a=rid:l recv", "a=simulcast:recv h;l"] {
        assert!(answer.body.contains(&format!("{line}\r\n")), "{line}: {}", answer.body);
    }
    let paused = layered.replace("send h;l", "send h;~l");
    assert_ne!(paused, layered);
    let answer = engine.offer("/whip/hall/other", &token, &paused);
    assert!(answer.body.contains("a=simulcast:recv h;~l\r\n"), "{}", answer.body);
    let many = engine.offer("/whip/hall/third", &token, &Peer::layered_offer(&["a", "b", "c", "d", "e"]));
    assert_eq!((many.status, many.detail().contains("4 layers")), (406, true));
}

#[test]
fn a_viewer_goes_where_it_wants_and_away_from_what_stops_without_a_gap() {
    let mut stage = Stage::new();
    let mut events = stage.engine.listen(&stage.viewer);
    stage.until(&["h", "l"], "the large layer fits", |viewer| {
        viewer.received.len() > 20 && viewer.layers_since(viewer.received.len() - 10) == "h"
    });
    let heard = events.until(|line| line.starts_with("data: {\"") && line.contains("encodingId"));
    assert!(heard.contains("\"h\"") && heard.contains("\"l\"") && heard.contains("active"), "{heard}");

    assert_eq!(stage.choose("{\"encodingId\": \"l\"}"), 200);
    stage.until(&["h", "l"], "the small one was chosen", |viewer| {
        viewer.layers_since(viewer.received.len() - 10) == "l"
    });
    assert_eq!(stage.choose("{\"encodingId\": \"h\"}"), 200);
    stage.until(&["h", "l"], "the large one was chosen", |viewer| {
        viewer.layers_since(viewer.received.len() - 10) == "h"
    });
    let left =
        stage.until(&["l"], "a layer that stops is left", |viewer| viewer.layers_since(0).ends_with('l'));
    eprintln!("a layer that stopped was left after {left:?}");
    assert!(left < 3 * Duration::from_millis(500), "{left:?}");
    stage.until(&["h", "l"], "and taken again", |viewer| viewer.layers_since(0).ends_with("lh"));

    let sequences: Vec<u64> = stage.viewer.received.iter().map(|(sequence, ..)| *sequence).collect();
    assert!(sequences.windows(2).all(|pair| pair[1] == pair[0] + 1), "{sequences:?}");
    let times: Vec<u32> = stage.viewer.received.iter().map(|(_, time, _)| *time).collect();
    assert!(times.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) < 90_000 * 2), "{times:?}");
    let mut before = 0;
    for (_, _, payload) in &stage.viewer.received {
        assert!(payload[2] == before || payload[1] == 0, "each layer begins with a key frame");
        before = payload[2];
    }
    assert!(stage.engine.metric("media_layer_switches_total") >= 4.0);
}

#[test]
fn a_choice_that_is_none_is_refused() {
    let stage = Stage::new();
    assert_eq!(stage.choose("h"), 400);
    assert_eq!(stage.choose("{\"encodingId\": 5}"), 400);
    assert_eq!(stage.choose("{\"encodingId\": \"gone\"}"), 200, "the engine chooses meanwhile");
    let path = format!("{}/layer", stage.publisher.session);
    let json = [("content-type", "application/json")];
    assert_eq!(stage.engine.ask("POST", &path, &json, b"{}").status, 404, "a publisher gets none");
    assert_eq!(stage.engine.ask("POST", &path, &[], b"{}").status, 415);
    assert_eq!(stage.engine.ask("GET", &path, &[], b"").status, 405);
}
