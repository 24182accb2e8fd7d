//! A hundred people pause `kubectl logs -f` of a chatty pod; everybody else goes on, on the same link.

use std::io::Read as _;
use std::time::{Duration, Instant};

use crate::stage::{LIMIT, Stage};

#[test]
fn a_bystander_does_not_notice_a_hundred_stalled_readers() {
    let name = "a_bystander_does_not_notice_a_hundred_stalled_readers";
    let Some(stage) = Stage::claim(name) else { return };
    let pod = stage.chatty("node-2");
    let (took, slowest) = requests(&stage, 20);
    println!("20 requests alone in {took:?}, the slowest {slowest:?}");
    let before = stage.link();
    let path = format!("/api/v1/namespaces/default/pods/{pod}/log?follow=true");
    let mut stalled: Vec<_> = (0..100).map(|_| stage.ask_for(&path)).collect();
    for connection in &mut stalled {
        let mut head = [0; 12];
        connection.read_exact(&mut head).expect("it begins");
        assert_eq!(&head, b"HTTP/1.1 200");
    }
    let full = |link: &serde_json::Value| link["bufferedBytes"].as_u64().unwrap_or_default() > 100 * 200_000;
    let took = stage.promised(LIMIT, "the readers' windows are full", || full(&stage.link()));
    println!("100 stalled after {took:?}: {}", stage.link());

    let (took, slowest) = requests(&stage, 200);
    println!("200 requests beside them in {took:?}, the slowest {slowest:?}");
    let told = stage.cloud(&["logs", "eyot-lab-node-2", "--limit-bytes=5"]);
    assert_eq!(told, "start");

    let after = stage.link();
    assert_eq!(after["id"], before["id"], "the link stands: {after}");
    assert!(after["streams"].as_u64().is_some_and(|streams| streams >= 100), "{after}");
    assert!(after["bufferedBytes"].as_u64().is_some_and(|bytes| bytes <= 64 << 20), "{after}");
    drop(stalled);
    let freed = || stage.link()["bufferedBytes"] == 0;
    let took = stage.promised(LIMIT, "what they held is free", freed);
    println!("free {took:?} after they left: {}", stage.link());
    stage.cloud(&["delete", "pod", &pod, "--now"]);
}

/// So many requests for logs of both nodes, one after the other: how long all took, and the slowest.
fn requests(stage: &Stage, count: u32) -> (Duration, Duration) {
    let (began, mut slowest) = (Instant::now(), Duration::ZERO);
    for number in 0..count {
        let node = 1 + number % 2;
        let path = format!("/api/v1/namespaces/default/pods/eyot-lab-node-{node}/log?limitBytes=5");
        let asked = Instant::now();
        assert_eq!(stage.get(&path).expect("the bystander is served"), "start");
        slowest = slowest.max(asked.elapsed());
    }
    (began.elapsed(), slowest)
}
