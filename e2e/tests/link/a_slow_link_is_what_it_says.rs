//! A link with a delay is as long as it says, both ways; with jitter its packets overtake one another and without it they
//! do not. Healing lets all that is under way arrive, kill -9 of what delays it leaves a link that works, and the bytes
//! are counted as exactly as ever.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use e2e::lab::{Cut, Delay, Lab, Nodes, Slow, Swept, real_or_skip, wait_until};

use nix::sys::socket::{setsockopt, sockopt};

use crate::rig::{
    Ends, LIMIT, Links, NODE, OTHER, Place, SERIES, arrival, datagrams, inside, is_whole, receive, send,
};

/// How long the fastest of five TCP connections to the API server takes: one round trip.
fn connect(from: &Place, cloud: &Place) -> Duration {
    let address = SocketAddr::from((cloud.1, 6443));
    inside(&from.0, move || {
        let timed = || {
            let started = Instant::now();
            TcpStream::connect_timeout(&address, LIMIT).expect("the API server listens");
            started.elapsed()
        };
        (0..5).map(|_| timed()).min().expect("five")
    })
}

/// Whether nothing is left of a process but what its parent, this test, has not asked for.
fn has_ended(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
}

fn a_delay_is_as_long_as_it_says(links: &Links, Ends { cloud, node, other }: &Ends) {
    let (once, twice) = (Duration::from_millis(100), Duration::from_millis(200));
    let before = connect(node, cloud);
    links.slow(100, 0);
    assert!(links.lab.is_slow(NODE).expect("tc answers") && !links.lab.is_slow(OTHER).expect("tc answers"));
    let (slow, beside) = (connect(node, cloud), connect(other, cloud));
    eprintln!(
        "a connection took {before:?}, {slow:?} with 100 ms each way; meanwhile {beside:?} from {OTHER}"
    );
    assert!(slow >= twice, "{slow:?}");
    assert!(beside < twice, "the link of {OTHER} is as it was: {beside:?}");
    // Between nodes the packets pass one slow link.
    let (sender, receiver) = datagrams(other, node);
    let started = Instant::now();
    send(&sender, 0..1);
    assert_eq!(receive(&receiver, 1), [0]);
    assert!(started.elapsed() >= once, "{:?}", started.elapsed());

    // It belongs to the link: a reboot of the node and a cut leave it.
    links.lab.reboot(NODE).expect("rebooted");
    links.lab.cut(&Nodes::from(NODE)).expect("cut");
    let address = SocketAddr::from((cloud.1, 6443));
    let cut = inside(&node.0, move || TcpStream::connect_timeout(&address, Duration::from_secs(1)));
    assert!(cut.is_err(), "nothing passes a cut");
    let elsewhere = Cut { port: Some(1), ..Cut::default() };
    links.lab.cut_partly(&Nodes::from(NODE), &elsewhere).expect("the newest takes the older one's place");
    let slow = connect(node, cloud);
    assert!(slow >= twice, "{slow:?}");

    links.heal();
    let healed = connect(node, cloud);
    eprintln!("healed: {healed:?}");
    assert!(healed < twice && !links.lab.is_slow(NODE).expect("tc answers"), "{healed:?}");
    assert_eq!(links.rules(), [""; 0]);
}

fn jitter_reorders_and_nothing_else_does(links: &Links, Ends { cloud, node, .. }: &Ends) {
    let sorted: Vec<u32> = (0..SERIES).collect();
    for (from, to) in [(node, cloud), (cloud, node)] {
        links.slow(50, 0);
        assert_eq!(arrival(from, to), sorted, "one delay for all keeps the order");
        // The newest takes the place of the older one.
        links.slow(60, 50);
        let mixed = arrival(from, to);
        assert!(is_whole(&mixed), "{mixed:?}");
        let overtaken = mixed.windows(2).filter(|pair| pair[0] > pair[1]).count();
        eprintln!("60 ± 50 ms: {overtaken} of {SERIES} packets came right after one that was sent later");
        assert!(overtaken > 0);
    }
    links.heal();
}

fn what_is_under_way_survives_the_healing(links: &Links, Ends { cloud, node, .. }: &Ends) {
    for (from, to) in [(node, cloud), (cloud, node)] {
        links.slow(30_000, 0);
        let (sender, receiver) = datagrams(from, to);
        let started = Instant::now();
        send(&sender, 0..SERIES);
        receiver.set_nonblocking(true).expect("a socket");
        assert!(receiver.recv(&mut [0; 4]).is_err(), "it is under way");
        receiver.set_nonblocking(false).expect("a socket");
        links.heal();
        assert_eq!(receive(&receiver, SERIES), (0..SERIES).collect::<Vec<_>>());
        assert!(started.elapsed() < Duration::from_secs(30), "only in its time: {:?}", started.elapsed());
    }
}

/// No more than so many packets are held each way; those that come then are neither held nor lost.
fn what_is_too_much_to_hold_passes_at_once(links: &Links, Ends { cloud, node, .. }: &Ends) {
    let (held, more) = (16_384, 1000);
    for (from, to) in [(node, cloud), (cloud, node)] {
        links.slow(30_000, 0);
        let (sender, receiver) = datagrams(from, to);
        setsockopt(&receiver, sockopt::RcvBufForce, &(64 << 20)).expect("root may");
        send(&sender, 0..held + more);
        let passed = receive(&receiver, more);
        // A packet that the kernels sent each other may have taken the place of one of these.
        assert!(passed.iter().all(|number| *number >= held - 100), "{passed:?}");
        links.heal();
        let mut all = [passed, receive(&receiver, held)].concat();
        all.sort_unstable();
        assert!(all == (0..held + more).collect::<Vec<_>>(), "none is lost and none comes twice");
    }
}

/// A transfer that the kill meets on its way arrives whole, and what is sent after it arrives without a resend.
fn a_killed_delay_leaves_a_link_that_works(links: &Links, Ends { cloud, node, .. }: &Ends) {
    links.slow(100, 20);
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(links.record()).expect("a record")).expect("JSON");
    let pid = record["pid"].as_i64().expect("a process id").to_string();
    let (address, (say, told)) = (cloud.1, mpsc::channel());
    let namespace = cloud.0.clone();
    let server = std::thread::spawn(move || {
        inside(&namespace, move || {
            let listener = TcpListener::bind((address, 0)).expect("a free port");
            say.send(listener.local_addr().expect("bound").port()).expect("the test waits");
            let mut received = Vec::new();
            listener.accept().expect("the client").0.read_to_end(&mut received).expect("all of it");
            received
        })
    });
    let port = told.recv_timeout(LIMIT).expect("it listens");
    let sent: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_be_bytes).collect();
    let client = {
        let (sent, namespace) = (sent.clone(), node.0.clone());
        std::thread::spawn(move || {
            inside(&namespace, move || {
                TcpStream::connect((address, port)).expect("the server").write_all(&sent).expect("sent");
            });
        })
    };
    let before = links.lab.traffic(NODE).expect("counters").sent_bytes;
    let under_way = || links.lab.traffic(NODE).expect("counters").sent_bytes > before + 20_000;
    assert!(wait_until(LIMIT, under_way), "the transfer runs");
    assert!(Command::new("kill").args(["-9", &pid]).status().expect("kill runs").success());
    assert!(wait_until(LIMIT, || has_ended(&pid)), "it is gone");
    assert!(!links.rules().is_empty(), "nobody has removed the rules");
    assert!(!links.lab.is_slow(NODE).expect("tc answers"), "as nothing delays it");
    for (from, to) in [(node, cloud), (cloud, node)] {
        assert_eq!(arrival(from, to), (0..SERIES).collect::<Vec<_>>());
    }
    client.join().expect("it has sent all");
    assert!(server.join().expect("it has received all") == sent);
    links.heal();
    assert_eq!(links.rules(), [""; 0]);
}

fn bytes_are_counted_exactly(links: &Links) {
    links.slow(100, 0);
    let counted = links.lab.calibrate(NODE).expect("counted to the byte");
    eprintln!("1 MiB over 100 ms: {} bytes in {} packets", counted.received_bytes, counted.received_packets);
    let delay = Delay::new(Duration::from_millis(50), Duration::ZERO).expect("in bounds");
    let slow = Slow { rate: Some("10mbit".to_owned()), delay: Some(delay) };
    links.lab.slow(&Nodes::from(NODE), &slow).expect("slow");
    let started = Instant::now();
    links.lab.calibrate(NODE).expect("counted to the byte");
    eprintln!("and over 50 ms at 10 Mbit/s, in {:?} with a first transfer", started.elapsed());
    links.heal();
}

#[test]
fn a_slow_link_is_what_it_says() {
    if real_or_skip("a_slow_link_is_what_it_says", false).is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let dir = folder.path().join("lab");
    let links = Links::up(&dir);
    for ends in &links.families {
        a_delay_is_as_long_as_it_says(&links, ends);
        jitter_reorders_and_nothing_else_does(&links, ends);
        what_is_under_way_survives_the_healing(&links, ends);
        what_is_too_much_to_hold_passes_at_once(&links, ends);
        a_killed_delay_leaves_a_link_that_works(&links, ends);
    }
    bytes_are_counted_exactly(&links);

    links.slow(1000, 0);
    let record = fs::read_to_string(links.record()).expect("a record");
    let pid = serde_json::from_str::<serde_json::Value>(&record).expect("JSON")["pid"].to_string();
    fs::remove_file(links.record()).expect("it stood there");
    Lab::down(&dir).expect("down");
    assert!(has_ended(&pid), "it is ended without a record, too");
    assert_eq!(Lab::down(&dir).expect("twice is once"), Swept::default());
}
