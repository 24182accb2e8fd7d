//! A lab of links that nothing sends over by itself, and what tests send: datagrams with numbers, from any of its
//! namespaces to any other, by either family of addresses.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::lab::{Delay, HubKind, Lab, Nodes, Slow, UpOptions, in_namespace};

/// Turns a hang into a failure.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// How many datagrams one series has.
pub(crate) const SERIES: u32 = 200;

pub(crate) const NODE: &str = "node-1";
pub(crate) const OTHER: &str = "node-2";

/// A namespace, and one address in it.
pub(crate) type Place = (String, IpAddr);

/// The places of a lab by addresses of one family.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) cloud: Place,
    pub(crate) node: Place,
    pub(crate) other: Place,
}

/// The lab.
pub(crate) struct Links {
    pub(crate) lab: Lab,
    /// By IPv4 and by IPv6.
    pub(crate) families: [Ends; 2],
}

impl Links {
    pub(crate) fn up(dir: &Path) -> Links {
        let options = UpOptions {
            hub: HubKind::None,
            controllers: false,
            dual_stack: true,
            program: Some(env!("CARGO_BIN_EXE_eyot").into()),
            bound_to: Some(i32::try_from(std::process::id()).expect("Linux process ids fit an i32")),
            ..UpOptions::new(dir, 2)
        };
        let lab = Lab::up(&options).expect("a lab comes up");
        let status = lab.status().expect("status");
        let cloud = status.api_server.trim_start_matches("https://").trim_end_matches(":6443");
        let place = |index: usize| {
            let node = &status.nodes[index];
            let v6 = node.address_v6.expect("both families");
            [(node.namespace.clone(), node.address.into()), (node.namespace.clone(), v6)]
        };
        let ([node_v4, node_v6], [other_v4, other_v6]) = (place(0), place(1));
        let cloud_v4 = (status.namespace.clone(), cloud.parse().expect("an address"));
        let cloud_v6 = (status.namespace.clone(), first_of_network(node_v6.1));
        let families = [
            Ends { cloud: cloud_v4, node: node_v4, other: other_v4 },
            Ends { cloud: cloud_v6, node: node_v6, other: other_v6 },
        ];
        Links { lab, families }
    }

    pub(crate) fn slow(&self, mean: u64, jitter: u64) {
        let delay =
            Delay::new(Duration::from_millis(mean), Duration::from_millis(jitter)).expect("in bounds");
        self.lab
            .slow(&Nodes::from(NODE), &Slow { rate: None, delay: Some(delay) })
            .expect("the link becomes slow");
    }

    pub(crate) fn heal(&self) {
        self.lab.heal(&Nodes::All).expect("healed");
    }

    /// Where the lab keeps which process delays the link.
    pub(crate) fn record(&self) -> PathBuf {
        self.lab.dir().join(format!("run/{NODE}.delay.json"))
    }

    /// The rules of both namespaces that send packets to a queue.
    pub(crate) fn rules(&self) -> Vec<String> {
        let mut rules = Vec::new();
        for (namespace, _) in [&self.families[0].cloud, &self.families[0].node] {
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

/// The cloud's address in the network of a node's.
fn first_of_network(node: IpAddr) -> IpAddr {
    let IpAddr::V6(node) = node else { panic!("{node} is of IPv4") };
    let mut segments = node.segments();
    segments[7] = 1;
    IpAddr::from(segments)
}

/// Does `work` in a network namespace.
pub(crate) fn inside<T: Send + 'static>(namespace: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    in_namespace(namespace, move || Ok(work())).expect("root may enter it")
}

/// A socket in `to`, and one in `from` that sends to it.
pub(crate) fn datagrams(from: &Place, to: &Place) -> (UdpSocket, UdpSocket) {
    let bound = |place: &Place| {
        let address = SocketAddr::from((place.1, 0));
        let socket = inside(&place.0, move || UdpSocket::bind(address)).expect("a free port");
        socket.set_read_timeout(Some(LIMIT)).expect("not zero");
        socket
    };
    let (sender, receiver) = (bound(from), bound(to));
    sender.connect(receiver.local_addr().expect("bound")).expect("connected");
    (sender, receiver)
}

pub(crate) fn send(sender: &UdpSocket, numbers: Range<u32>) {
    for number in numbers {
        sender.send(&number.to_be_bytes()).expect("sent");
    }
}

pub(crate) fn receive(receiver: &UdpSocket, count: u32) -> Vec<u32> {
    let mut bytes = [0; 4];
    let mut next = || receiver.recv(&mut bytes).map(|_| u32::from_be_bytes(bytes)).expect("another datagram");
    (0..count).map(|_| next()).collect()
}

/// Sends the series between both places and returns the order in which it arrives.
pub(crate) fn arrival(from: &Place, to: &Place) -> Vec<u32> {
    let (sender, receiver) = datagrams(from, to);
    send(&sender, 0..SERIES);
    receive(&receiver, SERIES)
}

pub(crate) fn is_whole(series: &[u32]) -> bool {
    let mut sorted = series.to_vec();
    sorted.sort_unstable();
    sorted == (0..SERIES).collect::<Vec<_>>()
}
