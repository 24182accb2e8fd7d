//! A link with a delay is as long as it says, both ways; with jitter its packets overtake one another and without it they
//! do not. Healing lets all that is under way arrive, kill -9 of what delays it leaves a link that works, and the bytes
//! are counted as exactly as ever.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use e2e::lab::{Cut, Delay, HubKind, Lab, Nodes, Slow, Swept, UpOptions, real_or_skip, wait_until};
use nix::sched::{CloneFlags, setns};

/// Turns a hang into a failure.
const LIMIT: Duration = Duration::from_secs(60);

/// How many datagrams one series has.
const SERIES: u32 = 200;

const NODE: &str = "node-1";
const OTHER: &str = "node-2";

/// A lab of links and nothing that sends over them by itself.
struct Links {
    lab: Lab,
    cloud: (String, IpAddr),
    nodes: Vec<(String, IpAddr)>,
}

impl Links {
    fn up(dir: &Path) -> Links {
        let options = UpOptions {
            hub: HubKind::None,
            controllers: false,
            program: Some(env!("CARGO_BIN_EXE_eyot").into()),
            bound_to: Some(i32::try_from(std::process::id()).expect("Linux process ids fit an i32")),
            ..UpOptions::new(dir, 2)
        };
        let lab = Lab::up(&options).expect("a lab comes up");
        let status = lab.status().expect("status");
        let address = status.api_server.trim_start_matches("https://").trim_end_matches(":6443");
        let cloud = (status.namespace.clone(), address.parse().expect("an address"));
        let nodes = status.nodes.iter().map(|node| (node.namespace.clone(), node.address.into())).collect();
        Links { lab, cloud, nodes }
    }

    fn node(&self) -> &(String, IpAddr) {
        &self.nodes[0]
    }

    fn slow(&self, mean: u64, jitter: u64) {
        let delay =
            Delay::new(Duration::from_millis(mean), Duration::from_millis(jitter)).expect("in bounds");
        self.lab
            .slow(&Nodes::from(NODE), &Slow { rate: None, delay: Some(delay) })
            .expect("the link becomes slow");
    }

    fn heal(&self) {
        self.lab.heal(&Nodes::All).expect("healed");
    }

    fn record(&self) -> PathBuf {
        self.lab.dir().join(format!("run/{NODE}.delay.json"))
    }

    /// The rules of both namespaces that send packets to a queue.
    fn rules(&self) -> Vec<String> {
        let mut rules = Vec::new();
        for namespace in [&self.cloud.0, &self.node().0] {
            for program in ["iptables", "ip6tables"] {
                let shown = Command::new("ip")
                    .args(["netns", "exec", namespace, program, "-t", "raw", "-S"])
                    .output()
                    .expect("ip runs");
                let shown = String::from_utf8(shown.stdout).expect("rules are ASCII");
                rules.extend(shown.lines().filter(|line| line.contains("NFQUEUE")).map(str::to_owned));
            }
        }
        rules
    }
}

/// Runs `work` in a network namespace: only a whole thread can change its own.
fn inside<T: Send + 'static>(namespace: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let namespace = File::open(Path::new("/run/netns").join(namespace)).expect("it is there");
    let thread = std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may enter it");
        work()
    });
    thread.join().expect("the work ends well")
}

/// How long a TCP connection from `namespace` to the API server takes: one round trip.
fn connect(links: &Links, namespace: &str) -> Duration {
    let address = SocketAddr::from((links.cloud.1, 6443));
    inside(namespace, move || {
        let started = Instant::now();
        TcpStream::connect_timeout(&address, LIMIT).expect("the API server listens");
        started.elapsed()
    })
}

fn fastest_connect(links: &Links, namespace: &str) -> Duration {
    (0..5).map(|_| connect(links, namespace)).min().expect("five")
}

/// A socket in `to`, and one in `from` that sends to it.
fn datagrams(from: &(String, IpAddr), to: &(String, IpAddr)) -> (UdpSocket, UdpSocket) {
    let bound = |place: &(String, IpAddr)| {
        let address = SocketAddr::from((place.1, 0));
        let socket = inside(&place.0, move || UdpSocket::bind(address)).expect("a free port");
        socket.set_read_timeout(Some(LIMIT)).expect("not zero");
        socket
    };
    let (sender, receiver) = (bound(from), bound(to));
    sender.connect(receiver.local_addr().expect("bound")).expect("connected");
    (sender, receiver)
}

fn send(sender: &UdpSocket, numbers: std::ops::Range<u32>) {
    for number in numbers {
        sender.send(&number.to_be_bytes()).expect("sent");
    }
}

fn receive(receiver: &UdpSocket, count: u32) -> Vec<u32> {
    let mut bytes = [0; 4];
    let mut next = || receiver.recv(&mut bytes).map(|_| u32::from_be_bytes(bytes)).expect("another datagram");
    (0..count).map(|_| next()).collect()
}

/// Whether nothing is left of a process but what its parent, this test, has not asked for.
fn has_ended(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
}

/// Sends the series between both places and returns the order in which it arrives.
fn arrival(from: &(String, IpAddr), to: &(String, IpAddr)) -> Vec<u32> {
    let (sender, receiver) = datagrams(from, to);
    send(&sender, 0..SERIES);
    receive(&receiver, SERIES)
}

fn is_whole(series: &[u32]) -> bool {
    let mut sorted = series.to_vec();
    sorted.sort_unstable();
    sorted == (0..SERIES).collect::<Vec<_>>()
}

fn a_delay_is_as_long_as_it_says(links: &Links) {
    let before = fastest_connect(links, &links.nodes[0].0);
    links.slow(100, 0);
    let (slow, other) = (fastest_connect(links, &links.node().0), fastest_connect(links, &links.nodes[1].0));
    eprintln!(
        "a connection took {before:?}, {slow:?} with 100 ms each way; meanwhile {other:?} from {OTHER}"
    );
    assert!(slow >= Duration::from_millis(200), "{slow:?}");
    assert!(other < Duration::from_millis(200), "the link of {OTHER} is as it was: {other:?}");
    // Between nodes the packets pass one slow link, there and back.
    let (from, to) = (links.nodes[1].clone(), links.node().clone());
    let started = Instant::now();
    let (there, here) = datagrams(&from, &to);
    send(&there, 0..1);
    assert_eq!(receive(&here, 1), [0]);
    assert!(started.elapsed() >= Duration::from_millis(100), "{:?}", started.elapsed());

    // It belongs to the link: a reboot of the node and a cut leave it.
    links.lab.reboot(NODE).expect("rebooted");
    links.lab.cut(&Nodes::from(NODE)).expect("cut");
    let cloud = SocketAddr::from((links.cloud.1, 6443));
    let cut = inside(&links.node().0, move || TcpStream::connect_timeout(&cloud, Duration::from_secs(1)));
    assert!(cut.is_err(), "nothing passes a cut");
    let slow = slow_again(links);
    assert!(slow >= Duration::from_millis(200), "{slow:?}");

    links.heal();
    let healed = fastest_connect(links, &links.node().0);
    eprintln!("healed: {healed:?}");
    assert!(healed < Duration::from_millis(200), "{healed:?}");
    assert_eq!(links.rules(), [""; 0]);
}

/// Takes back the cut alone, as a newer one that swallows nothing would, and looks at the delay.
fn slow_again(links: &Links) -> Duration {
    let nothing = Cut { port: Some(1), ..Cut::default() };
    links.lab.cut_partly(&Nodes::from(NODE), &nothing).expect("the newest takes the older one's place");
    fastest_connect(links, &links.node().0)
}

fn jitter_reorders_and_nothing_else_does(links: &Links) {
    let (node, cloud) = (links.node(), &links.cloud);
    let sorted: Vec<u32> = (0..SERIES).collect();
    for (from, to) in [(node, cloud), (cloud, node)] {
        links.slow(50, 0);
        assert_eq!(arrival(from, to), sorted, "one delay for all keeps the order");
        // The newest takes the place of the older one.
        links.slow(60, 50);
        let mixed = arrival(from, to);
        assert!(is_whole(&mixed), "{mixed:?}");
        let overtaken = mixed.windows(2).filter(|pair| pair[0] > pair[1]).count();
        eprintln!("60 ± 50 ms: {overtaken} of {SERIES} packets came after one that was sent later");
        assert!(overtaken > 0);
    }
    links.heal();
}

fn what_is_under_way_survives_the_healing(links: &Links) {
    for (from, to) in [(links.node(), &links.cloud), (&links.cloud, links.node())] {
        links.slow(30_000, 0);
        let (sender, receiver) = datagrams(from, to);
        let started = Instant::now();
        send(&sender, 0..SERIES);
        receiver.set_nonblocking(true).expect("a socket");
        assert!(receiver.recv(&mut [0; 4]).is_err(), "it is under way");
        receiver.set_nonblocking(false).expect("a socket");
        links.heal();
        assert_eq!(receive(&receiver, SERIES), (0..SERIES).collect::<Vec<_>>());
        assert!(started.elapsed() < Duration::from_secs(30), "not before its time: {:?}", started.elapsed());
    }
}

/// A transfer that the kill meets on its way arrives whole, and what is sent after it arrives without a resend.
fn a_killed_delay_leaves_a_link_that_works(links: &Links) {
    links.slow(100, 20);
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(links.record()).expect("a record")).expect("JSON");
    let pid = record["pid"].as_i64().expect("a process id").to_string();
    let (address, (say, told)) = (links.cloud.1, mpsc::channel());
    let cloud = links.cloud.0.clone();
    let server = std::thread::spawn(move || {
        inside(&cloud, move || {
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
        let (sent, node) = (sent.clone(), links.node().0.clone());
        std::thread::spawn(move || {
            inside(&node, move || {
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
    for (from, to) in [(links.node(), &links.cloud), (&links.cloud, links.node())] {
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
    a_delay_is_as_long_as_it_says(&links);
    jitter_reorders_and_nothing_else_does(&links);
    what_is_under_way_survives_the_healing(&links);
    a_killed_delay_leaves_a_link_that_works(&links);
    bytes_are_counted_exactly(&links);

    links.slow(1000, 0);
    let record = fs::read_to_string(links.record()).expect("a record");
    let pid = serde_json::from_str::<serde_json::Value>(&record).expect("JSON")["pid"].to_string();
    fs::remove_file(links.record()).expect("it stood there");
    Lab::down(&dir).expect("down");
    assert!(has_ended(&pid), "it is ended without a record, too");
    assert_eq!(Lab::down(&dir).expect("twice is once"), Swept::default());
}
