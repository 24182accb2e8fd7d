//! In a dual-stack cluster everything holds for both families: pods of different nodes, the Service and names; and a pod
//! whose sandbox dies while its node is cut off has new addresses of both in what the hub tells and kube-proxy does.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::lab::{Lab, Nodes, UpOptions, in_namespace, real_or_skip, wait_until};
use serde_json::Value;

/// Turns a hang into a failure, where nothing shorter is promised.
const LIMIT: Duration = Duration::from_secs(90);

/// The promise is 2 s from the hub's word to the rules of kube-proxy; three times that is a failure.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(6);

/// Where the cluster's DNS server listens beside its IPv4 address.
const DNS_SERVER: &str = "fd00:10:96::a";

const NODE: &str = "node-1";
const OTHER: &str = "node-2";

/// How a pod asks for a name's address of each family.
const RESOLVE: [&str; 2] = ["resolve", "resolve6"];

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

/// The names and addresses of the pods of `app` on `node`; IPv4 first.
fn pods(lab: &Lab, app: &str, node: &str) -> Vec<(String, Vec<IpAddr>)> {
    let words = format!("get pods -n default -l app={app} --field-selector spec.nodeName={node}");
    let list = cloud(lab, &words)["items"].as_array().cloned().unwrap_or_default();
    list.iter()
        .map(|pod| {
            let name = pod["metadata"]["name"].as_str().expect("a name").to_owned();
            let listed = pod["status"]["podIPs"].as_array().into_iter().flatten();
            let addresses = listed.filter_map(|each| each["ip"].as_str()?.parse().ok());
            (name, addresses.collect())
        })
        .collect()
}

/// The page of whoever answers at `target`, fetched by the pod `from` of `node`; empty if nobody does.
fn fetch(lab: &Lab, node: &str, from: &str, target: (IpAddr, u16)) -> String {
    lab.run_in_pod(node, from, &["fetch", &SocketAddr::from(target).to_string()]).unwrap_or_default()
}

/// A hub that refuses tells nothing.
fn told(lab: &Lab) -> Vec<IpAddr> {
    lab.endpoints_told(NODE, "web").unwrap_or_default()
}

fn is_in_rules(lab: &Lab, address: IpAddr) -> bool {
    lab.kube_proxy_sends_to(NODE, address).expect("nft answers")
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
        let target = SocketAddr::from((address, 6443));
        let connect = move || Ok(TcpStream::connect_timeout(&target, Duration::from_secs(2)).is_ok());
        in_namespace(&node.namespace, connect).expect("root may enter it")
    };
    [connect(cloud), connect(segments.into())]
}

/// What the DNS server answers for the Service's name over IPv6, asked by the pod `from` of `node`.
fn resolved_over_ipv6(lab: &Lab, node: &str, from: &str) -> String {
    let resolved = lab.run_in_pod(node, from, &["resolve6", "web", DNS_SERVER]).unwrap_or_default();
    resolved.trim().to_owned()
}

/// Pods of both nodes reach each other, and the Service and its name work.
fn everything_works(lab: &Lab, services: &[IpAddr]) {
    for (from, to) in [(NODE, OTHER), (OTHER, NODE)] {
        let (agent, _) = pods(lab, "agent", from).remove(0);
        let (target, addresses) = pods(lab, "agent", to).remove(0);
        assert_eq!(addresses.len(), 2, "{addresses:?}");
        for address in addresses {
            // Nobody has asked whether it listens yet: it has no readiness probe.
            promised(LIMIT, &format!("{from} reaches {address}"), || {
                fetch(lab, from, &agent, (address, 8080)).contains(&target)
            });
        }
        for (service, resolve) in services.iter().zip(RESOLVE) {
            for node in [NODE, OTHER] {
                let (web, _) = pods(lab, "web", node).remove(0);
                promised(LIMIT, "the Service reaches its pods of every node", || {
                    fetch(lab, from, &agent, (*service, 80)).contains(&web)
                });
            }
            promised(LIMIT, "the name has the Service's address", || {
                let resolved = lab.run_in_pod(from, &agent, &[resolve, "web"]).unwrap_or_default();
                resolved.trim() == service.to_string()
            });
        }
        promised(LIMIT, "names resolve over IPv6", || {
            resolved_over_ipv6(lab, from, &agent) == services[1].to_string()
        });
    }
}

/// Kills the sandbox of `web` while cut and returns its new addresses, when hub and kube-proxy know them.
fn moves_while_cut(lab: &Lab, web: &str, before: &[IpAddr]) -> Vec<IpAddr> {
    lab.kill_sandbox(NODE, web).expect("it runs");
    let mut now = Vec::new();
    let took = promised(LIMIT, "the pod comes back at other addresses", || {
        now = lab.own_addresses(NODE, web);
        now.len() == 2 && now.iter().all(|address| !before.contains(address))
    });
    eprintln!(
        "a pod whose sandbox was killed ran again after {took:?}, at {now:?} and no longer at {before:?}"
    );
    promised(LIMIT, "the hub tells both new addresses", || {
        let told = told(lab);
        now.iter().all(|address| told.contains(address))
    });
    let took = promised(FOLLOWS_WITHIN, "the rules of kube-proxy follow in both families", || {
        now.iter().zip(before).all(|(new, old)| is_in_rules(lab, *new) && !is_in_rules(lab, *old))
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
    let services: Vec<IpAddr> =
        serde_json::from_value(service["spec"]["clusterIPs"].clone()).expect("addresses");
    assert_eq!(services.len(), 2, "{services:?}");
    everything_works(&lab, &services);
    promised(LIMIT, "the node reaches the cloud by both families", || reaches_cloud(&lab) == [true; 2]);

    let (web, before) = pods(&lab, "web", NODE).remove(0);
    let (agent, _) = pods(&lab, "agent", NODE).remove(0);
    for address in &before {
        promised(LIMIT, "kube-proxy knows the pod", || is_in_rules(&lab, *address));
    }
    let asked = lab.requests(NODE).expect("the hub has a log").len();
    lab.cut(&Nodes::from(NODE)).expect("cut");
    assert_eq!(reaches_cloud(&lab), [false; 2], "a cut swallows both families");
    let now = moves_while_cut(&lab, &web, &before);
    for service in &services {
        promised(LIMIT, "the Service reaches the pod at its new address", || {
            fetch(&lab, NODE, &agent, (*service, 80)).contains(&web)
        });
    }
    promised(LIMIT, "names resolve while cut", || {
        resolved_over_ipv6(&lab, NODE, &agent) == services[1].to_string()
    });
    assert!(lab.is_cut(NODE).expect("nft answers"), "all of this happened while cut");
    let of_cloud = || lab.endpoints_in_cloud("web").expect("the cloud answers");
    let known = of_cloud();
    assert!(now.iter().all(|address| !known.contains(address)), "the cloud does not know yet: {known:?}");

    lab.heal(&Nodes::All).expect("healed");
    promised(LIMIT, "the cloud's word is the hub's", || {
        let of_cloud = of_cloud();
        // Two pods have two addresses each.
        of_cloud.len() == 4 && now.iter().all(|address| of_cloud.contains(address)) && of_cloud == told(&lab)
    });
    assert!(now.iter().all(|address| is_in_rules(&lab, *address)));
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
