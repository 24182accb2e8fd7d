//! logs, logs -f, exec, port-forward, cp and the node's proxy, by the real kubectl, on both nodes, over one connection.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::ops::Deref as _;
use std::process::Command;
use std::time::Instant;

use crate::stage::{LIMIT, NODES, Stage};

/// What is copied, in bytes.
const COPIED: usize = 20 * 1024 * 1024;

#[test]
fn kubectl_works_through_the_nat() {
    let Some(stage) = Stage::claim("kubectl_works_through_the_nat") else { return };
    for node in NODES {
        let pod = format!("eyot-lab-{node}");
        let told = stage.cloud(&["logs", &pod]);
        assert!(told.contains(&format!("of {pod} on {node}")), "{told}");
        let starts = stage.cloud(&["exec", &pod, "--", "/eyot-pod", "cat", "/state/starts"]);
        assert!(starts.trim().parse::<u64>().is_ok_and(|starts| starts > 0), "{starts}");
        let healthy = stage.cloud(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/healthz")]);
        assert_eq!(healthy.trim(), "ok");
        let summary = stage.cloud(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/stats/summary")]);
        assert!(summary.contains(&format!("\"nodeName\": \"{node}\"")), "{summary:.300}");
        forwarded_and_followed(&stage, &pod);
    }
    copied(&stage);

    let connections = stage.tunnel_connections().expect("conntrack lists");
    assert_eq!(connections.len(), 1, "{connections:#?}");
    println!("the router: {}", connections[0]);
    let status = stage.deref().status().expect("the lab's status");
    for node in &status.nodes {
        let route = ["-n", &status.namespace, "route", "get", &node.address.to_string()];
        let output = Command::new("ip").args(route).output().expect("ip starts");
        assert!(!output.status.success(), "the cloud has a route to {}: {output:?}", node.name);
    }
}

/// A port-forward to `pod` brings its page, and `logs -f` the line that the pod writes about it.
fn forwarded_and_followed(stage: &Stage, pod: &str) {
    let mut follow = stage.start(&["logs", "-f", "--tail=0", pod]);
    let mut forward = stage.start(&["port-forward", pod, ":8080"]);
    let mut said = BufReader::new(forward.0.stdout.take().expect("piped"));
    let mut line = String::new();
    said.read_line(&mut line).expect("kubectl says where");
    // Forwarding from 127.0.0.1:PORT -> 8080
    let port = line.split_whitespace().nth(2).and_then(|address| address.rsplit(':').next());
    let port: u16 = port.and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("{line}"));
    let mark = format!("/followed-{}", std::process::id());
    // `logs -f` tells of no moment from which on it follows: pages are asked for until one is told.
    let lines = BufReader::new(follow.0.stdout.take().expect("piped")).lines();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send(line)));
    let began = Instant::now();
    loop {
        let mut page = TcpStream::connect(("127.0.0.1", port)).expect("kubectl listens");
        page.set_read_timeout(Some(LIMIT)).expect("a time-out");
        write!(page, "GET {mark} HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n").expect("sent");
        let mut answer = String::new();
        page.read_to_string(&mut answer).expect("to its end");
        assert!(answer.contains(&format!("\"pod\":\"{pod}\"")), "{answer}");
        if let Ok(line) = told.recv_timeout(std::time::Duration::from_secs(1)) {
            assert!(line.contains(&mark), "{line}");
            return;
        }
        assert!(began.elapsed() < LIMIT, "logs -f shows nothing");
    }
}

/// 20 MB there and back, and they are the same.
fn copied(stage: &Stage) {
    let words = (1..=COPIED as u64 / 8).map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29));
    let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    let (there, back) = (stage.dir().join("there.bin"), stage.dir().join("back.bin"));
    fs::write(&there, &bytes).expect("the lab's folder takes files");
    let began = Instant::now();
    stage.cloud(&["cp", &there.display().to_string(), "default/eyot-lab-node-2:/state/copied.bin"]);
    let up = began.elapsed();
    stage.cloud(&["cp", "default/eyot-lab-node-2:/state/copied.bin", &back.display().to_string()]);
    println!("cp of {COPIED} bytes: {up:?} there, {:?} back (debug builds)", began.elapsed() - up);
    assert!(fs::read(&back).expect("it came") == bytes, "what came back is what was sent");
}
