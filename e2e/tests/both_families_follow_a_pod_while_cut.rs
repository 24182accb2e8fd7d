//! In a dual-stack cluster everything holds for both families: pods of different nodes, the Service and names; and a pod
//! whose sandbox dies while its node is cut off has new addresses of both in what the hub tells and kube-proxy does.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::lab::{Lab, Nodes, UpOptions, real_or_skip, wait_until};
use serde_json::Value;

/// Turns a hang into a failure, where nothing shorter is promised.
const LIMIT: Duration = Duration::from_secs(90);

/// The promise is 2 s from the hub's word to the rules of kube-proxy; three times that is a failure.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(6);

/// Where the cluster's DNS server listens beside its IPv4 address.
const DNS_SERVER: &str = "fd00:10:96::a";

const NODE: &str = "node-1";
const OTHER: &str = "node-2";

/// The families as EndpointSlices, nft's tables and the lab's pods call them.
const FAMILIES: [(&str, &str, &str); 2] = [("IPv4", "ip", "resolve"), ("IPv6", "ip6", "resolve6")];

const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices?labelSelector=%21service.kubernetes.io%2Fheadless\
                      &resourceVersion=0&timeoutSeconds=1&watch=true";

fn up(dir: &Path) -> Lab {
    let options = UpOptions {
        kubelets: true,
        dual_stack: true,
        program: Some(env!("CARGO_BIN_EXE_eyot").into()),
        bound_to: Some(i32::try_from(std::process::id()).expect("Linux process ids fit an i32")),
        ..UpOptions::new(dir, 2)
    };
    Lab::up(&options).expect("a lab comes up")
}

/// What the hub itself has to say, at the end of its log: the folder goes with the test.
fn hub_log(lab: &Lab) -> String {
    let log = std::fs::read_to_string(lab.dir().join(format!("logs/{NODE}.hub.log"))).unwrap_or_default();
    let own: Vec<&str> = log.lines().filter(|line| !line.contains("edge_hub::request")).collect();
    own[own.len().saturating_sub(60)..].join("\n")
}

/// Looks until `holds` and returns how long that took; panics with `what` when it does not within `limit`.
fn promised(limit: Duration, what: &str, holds: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    assert!(wait_until(limit, holds), "not within {limit:?}: {what}");
    started.elapsed()
}

/// What the cloud has, by the administrator.
fn cloud(lab: &Lab, words: &str) -> Value {
    let mut kubectl = lab.kubectl().expect("kubectl");
    let output = kubectl.args(words.split(' ')).args(["-o", "json"]).output().expect("it starts");
    assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("kubectl writes JSON")
}

/// The names and addresses of the pods of `app` on `node`.
fn pods(lab: &Lab, app: &str, node: &str) -> Vec<(String, Vec<String>)> {
    let words = format!("get pods -n default -l app={app} --field-selector spec.nodeName={node}");
    let list = cloud(lab, &words)["items"].as_array().cloned().unwrap_or_default();
    let texts = |list: &Value, key: &str| -> Vec<String> {
        let each = list.as_array().into_iter().flatten();
        each.filter_map(|item| item[key].as_str().map(str::to_owned)).collect()
    };
    list.iter()
        .map(|pod| {
            let name = pod["metadata"]["name"].as_str().expect("a name").to_owned();
            (name, texts(&pod["status"]["podIPs"], "ip"))
        })
        .collect()
}

/// The page of whoever answers at `target`, fetched by the pod `from` of `node`; empty if nobody does.
fn fetch(lab: &Lab, node: &str, from: &str, target: &str) -> String {
    lab.run_in_pod(node, from, &["fetch", target]).unwrap_or_default()
}

fn host(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// The ready addresses behind the Service `web` of one family in slices.
fn ready(slices: impl IntoIterator<Item = Value>, family: &str) -> Vec<String> {
    let slices = slices.into_iter().filter(|slice| slice["addressType"] == family);
    let endpoints = slices.flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default());
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true);
    let mut addresses: Vec<String> =
        ready.filter_map(|endpoint| endpoint["addresses"][0].as_str().map(str::to_owned)).collect();
    addresses.sort();
    addresses
}

/// The same as the hub tells kube-proxy's user, by the very question that kube-proxy asks.
fn told(lab: &Lab, family: &str) -> Vec<String> {
    let mut kubectl = lab.node_kubectl(NODE, "kube-proxy.kubeconfig").expect("kubectl");
    let output = kubectl.args(["get", "--raw", SLICES]).output().expect("kubectl starts");
    let mut slices = std::collections::BTreeMap::new();
    let events = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
    for event in events.map_while(Result::ok) {
        let object = event["object"].clone();
        if object["metadata"]["labels"]["kubernetes.io/service-name"] == "web" {
            let name = object["metadata"]["name"].to_string();
            slices.insert(name, (event["type"] != "DELETED").then_some(object));
        }
    }
    ready(slices.into_values().flatten(), family)
}

fn of_cloud(lab: &Lab, family: &str) -> Vec<String> {
    let list = cloud(lab, "get endpointslices -n default -l kubernetes.io/service-name=web");
    ready(list["items"].as_array().cloned().unwrap_or_default(), family)
}

/// Whether kube-proxy of the node sends the Service's traffic of one family to this address.
fn is_in_rules(lab: &Lab, table: &str, address: &str) -> bool {
    let mut nft = lab.command(NODE, "nft").expect("a command in the node's namespace");
    let output = nft.args(["list", "table", table, "kube-proxy"]).output().expect("nft starts");
    let rules = String::from_utf8_lossy(&output.stdout).into_owned();
    rules.lines().any(|line| line.contains(" dnat ") && line.contains(&format!(" {address} . ")))
}

/// The pod's own addresses, by the file that the kubelet gives each of its containers; IPv4 first.
fn own_addresses(lab: &Lab, pod: &str) -> Vec<String> {
    let hosts = lab.run_in_pod(NODE, pod, &["cat", "/etc/hosts"]).unwrap_or_default();
    let lines = hosts.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let own = lines.filter(|words| words.get(1) == Some(&pod)).map(|words| words[0].to_owned());
    let mut own: Vec<String> = own.collect();
    own.sort_by_key(|address| address.contains(':'));
    own
}

/// Whether the API server takes connections from the node at its address of either family.
fn reaches_cloud(lab: &Lab) -> [bool; 2] {
    let status = lab.status().expect("status");
    let node = &status.nodes[0];
    let cloud: IpAddr = {
        let server = status.api_server.trim_start_matches("https://").trim_end_matches(":6443");
        server.parse().expect("an address")
    };
    let Some(IpAddr::V6(own)) = node.address_v6 else { panic!("{node:?}") };
    let mut segments = own.segments();
    segments[7] = 1;
    let connect = |address: IpAddr| {
        inside(&node.namespace, move || {
            TcpStream::connect_timeout(&SocketAddr::from((address, 6443)), Duration::from_secs(2)).is_ok()
        })
    };
    [connect(cloud), connect(segments.into())]
}

/// Runs `work` in a network namespace: only a whole thread can change its own.
fn inside<T: Send + 'static>(namespace: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let namespace = std::fs::File::open(Path::new("/run/netns").join(namespace)).expect("it is there");
    let thread = std::thread::spawn(move || {
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("root may enter it");
        work()
    });
    thread.join().expect("the work ends well")
}

/// What the DNS server answers for the Service's name over IPv6, asked by the pod `from` of `node`.
fn resolved_over_ipv6(lab: &Lab, node: &str, from: &str) -> String {
    let resolved = lab.run_in_pod(node, from, &["resolve6", "web", DNS_SERVER]).unwrap_or_default();
    resolved.trim().to_owned()
}

/// Pods of both nodes reach each other, and the Service and its name work.
fn everything_works(lab: &Lab, services: &[String]) {
    for (from, to) in [(NODE, OTHER), (OTHER, NODE)] {
        let (agent, _) = pods(lab, "agent", from).remove(0);
        let (target, addresses) = pods(lab, "agent", to).remove(0);
        assert_eq!(addresses.len(), 2, "{addresses:?}");
        for address in addresses {
            // Nobody has asked whether it listens yet: it has no readiness probe.
            promised(LIMIT, &format!("{from} reaches {address}"), || {
                fetch(lab, from, &agent, &format!("{}:8080", host(&address))).contains(&target)
            });
        }
        for (service, (_, _, resolve)) in services.iter().zip(FAMILIES) {
            for node in [NODE, OTHER] {
                let (web, _) = pods(lab, "web", node).remove(0);
                promised(LIMIT, "the Service reaches its pods of every node", || {
                    fetch(lab, from, &agent, &host(service)).contains(&web)
                });
            }
            promised(LIMIT, "the name has the Service's address", || {
                let resolved = lab.run_in_pod(from, &agent, &[resolve, "web"]).unwrap_or_default();
                resolved.trim() == service
            });
        }
        promised(LIMIT, "names resolve over IPv6", || resolved_over_ipv6(lab, from, &agent) == services[1]);
    }
}

/// Kills the sandbox of `web` while cut and returns its new addresses, when hub and kube-proxy know them.
fn moves_while_cut(lab: &Lab, web: &str, before: &[String]) -> Vec<String> {
    lab.kill_sandbox(NODE, web).expect("it runs");
    let mut now = Vec::new();
    let took = promised(LIMIT, "the pod comes back at other addresses", || {
        now = own_addresses(lab, web);
        now.len() == 2 && now.iter().all(|address| !before.contains(address))
    });
    eprintln!(
        "a pod whose sandbox was killed ran again after {took:?}, at {now:?} and no longer at {before:?}"
    );
    promised(LIMIT, "the hub tells both new addresses", || {
        FAMILIES.iter().zip(&now).all(|((family, ..), address)| told(lab, family).contains(address))
    });
    let took = promised(FOLLOWS_WITHIN, "the rules of kube-proxy follow in both families", || {
        let mut moves = FAMILIES.iter().zip(now.iter().zip(before));
        moves.all(|((_, table, _), (new, old))| is_in_rules(lab, table, new) && !is_in_rules(lab, table, old))
    });
    eprintln!("kube-proxy followed {took:?} after the hub had told it, at most");
    now
}

#[test]
fn both_families_follow_a_pod_while_cut() {
    if real_or_skip("both_families_follow_a_pod_while_cut", true).is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let dir = folder.path().join("lab");
    let lab = up(&dir);
    let service = cloud(&lab, "get service web -n default");
    let services: Vec<String> =
        serde_json::from_value(service["spec"]["clusterIPs"].clone()).expect("addresses");
    assert_eq!(services.len(), 2, "{services:?}");
    everything_works(&lab, &services);
    promised(LIMIT, "the node reaches the cloud by both families", || reaches_cloud(&lab) == [true; 2]);

    let (web, before) = pods(&lab, "web", NODE).remove(0);
    let (agent, _) = pods(&lab, "agent", NODE).remove(0);
    for ((_, table, _), address) in FAMILIES.iter().zip(&before) {
        promised(LIMIT, "kube-proxy knows the pod", || is_in_rules(&lab, table, address));
    }
    let asked = lab.requests(NODE).expect("the hub has a log").len();
    lab.cut(&Nodes::from(NODE)).expect("cut");
    assert_eq!(reaches_cloud(&lab), [false; 2], "a cut swallows both families");
    let now = moves_while_cut(&lab, &web, &before);
    for service in &services {
        promised(LIMIT, "the Service reaches the pod at its new address", || {
            fetch(&lab, NODE, &agent, &host(service)).contains(&web)
        });
    }
    promised(LIMIT, "names resolve while cut", || resolved_over_ipv6(&lab, NODE, &agent) == services[1]);
    assert!(lab.is_cut(NODE).expect("nft answers"), "all of this happened while cut");
    let ((family, ..), moved) = (FAMILIES[1], &now[1]);
    assert!(!of_cloud(&lab, family).contains(moved), "the cloud does not know yet");

    lab.heal(&Nodes::All).expect("healed");
    for ((family, table, _), address) in FAMILIES.iter().zip(&now) {
        promised(LIMIT, "the cloud's word is the hub's", || {
            let of_cloud = of_cloud(&lab, family);
            of_cloud.contains(address) && of_cloud.len() == 2 && of_cloud == told(&lab, family)
        });
        assert!(is_in_rules(&lab, table, address));
    }
    everything_works(&lab, &services);
    let requests = lab.requests(NODE).expect("the hub has a log");
    let agents = ["kube-proxy", "kubelet", "coredns"];
    let lists: Vec<_> = requests[asked..]
        .iter()
        .filter(|request| request.is_list() && agents.contains(&request.program()))
        .map(|request| format!("{} {}", request.program(), request.uri))
        .collect();
    assert!(lists.is_empty(), "no client lists again: {lists:#?}\n{}", hub_log(&lab));
    Lab::down(&dir).expect("down");
}
