//! The shared lab of pools as these tests see it: what the API server was asked, what coordinator and hubs counted, and
//! informers of client-go on every node of the pool.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use e2e::lab::{Board, ClaimedLab, Collection, Informers, Lab, judges_or_skip, wait_until};
use proto::coordinator::POOL_KINDS;
use serde_json::{Value, json};

/// The nodes of the pool, the coordinator's first.
pub(crate) const POOL: [&str; 3] = ["node-1", "node-2", "node-3"];
/// Where the coordinator runs.
pub(crate) const COORDINATOR: &str = "node-1";
/// The one node of the other pool.
pub(crate) const OTHER: &str = "node-4";
/// Turns a hang into a failure, where nothing shorter is promised.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);
/// The name of the informers that stand at the cloud.
const CLOUD: &str = "cloud";
const CLIENTS: [&str; 1] = ["typed-protobuf"];

/// The slice that these tests change. Nothing else knows its Service.
const SLICE: &str = "eyot-pools-test";

pub(crate) struct Stage {
    lab: ClaimedLab,
}

impl Deref for Stage {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        self.lab.lab()
    }
}

/// A request to the API server for one of the pool's kinds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Asked {
    pub(crate) user: String,
    pub(crate) agent: String,
    pub(crate) verb: String,
    pub(crate) resource: String,
    pub(crate) stage: String,
    pub(crate) address: String,
}

impl Stage {
    /// Waits for the lab, and until the coordinator feeds every hub of its pool; `None` where there can be no lab.
    pub(crate) fn claim(test: &str) -> Option<Stage> {
        let stage = Stage { lab: ClaimedLab::claim_pools(test, env!("CARGO_BIN_EXE_eyot"))? };
        stage.promised(LIMIT, "every hub of the pool is fed", || stage.all_fed());
        stage
            .promised(LIMIT, "every node is Ready", || stage.nodes().iter().all(|node| stage.is_ready(node)));
        Some(stage)
    }

    /// Looks until `holds` and returns how long that took; panics with `what` when it does not within `limit`.
    pub(crate) fn promised(&self, limit: Duration, what: &str, holds: impl FnMut() -> bool) -> Duration {
        let started = Instant::now();
        assert!(wait_until(limit, holds), "not within {limit:?}: {what}\n{}", self.scene());
        started.elapsed()
    }

    fn scene(&self) -> String {
        let hubs = POOL.map(|node| format!("{node}: {:?}", self.sources(node)));
        let coordinator =
            self.coordinator_says(COORDINATOR, "/status").unwrap_or_else(|error| error.to_string());
        format!("{}\n{coordinator}", hubs.join("\n"))
    }

    /// kubectl of the administrator, straight to the API server; it must succeed.
    pub(crate) fn cloud(&self, words: &str) -> String {
        output(self.kubectl().expect("kubectl").args(words.split(' ')))
    }

    pub(crate) fn cloud_json(&self, words: &str) -> Value {
        serde_json::from_str(&self.cloud(&format!("{words} -o json"))).expect("kubectl writes JSON")
    }

    /// Whether the cloud believes that `node` is Ready.
    pub(crate) fn is_ready(&self, node: &str) -> bool {
        let node = self.cloud_json(&format!("get node {node}"));
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|each| each["type"] == "Ready" && each["status"] == "True")
    }

    /// Name, uid, node and restarts of every pod.
    pub(crate) fn pods(&self) -> BTreeSet<(String, String, String, u64)> {
        let list = self.cloud_json("get pods -n default");
        let pod = |pod: &Value| {
            let text = |path: &str| pod.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
            let restarts = pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or_default();
            (text("/metadata/name"), text("/metadata/uid"), text("/spec/nodeName"), restarts)
        };
        list["items"].as_array().expect("a list").iter().map(pod).collect()
    }

    /// Which coordinator feeds each of the pool's collections on `node`; empty where none does.
    pub(crate) fn sources(&self, node: &str) -> BTreeMap<String, String> {
        // A hub that is being restarted has nothing to say.
        let status = self.hub_status(node).unwrap_or_default();
        let collections = status["collections"].as_array().cloned().unwrap_or_default();
        let of_pool = collections.iter().filter(|each| each.get("fedBy").is_some());
        let source = |each: &Value| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            (text(&each["collection"]), text(&each["fedBy"]))
        };
        of_pool.map(source).collect()
    }

    pub(crate) fn all_fed(&self) -> bool {
        POOL.iter().all(|node| self.count_sources(node, COORDINATOR) == POOL_KINDS.len())
    }

    pub(crate) fn none_fed(&self) -> bool {
        POOL.iter().all(|node| self.count_sources(node, "") == POOL_KINDS.len())
    }

    fn count_sources(&self, node: &str, source: &str) -> usize {
        self.sources(node).values().filter(|fed_by| *fed_by == source).count()
    }

    /// All requests for the pool's kinds since `from` bytes of the audit log.
    pub(crate) fn asked_since(&self, from: usize) -> Vec<Asked> {
        let log = std::fs::read_to_string(self.audit_log()).expect("the API server writes it");
        let lines = log[from..].lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let asked = |line: Value| {
            let text = |path: &str| line.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
            let asked = Asked {
                user: text("/user/username"),
                agent: text("/userAgent"),
                verb: text("/verb"),
                resource: text("/objectRef/resource"),
                stage: text("/stage"),
                address: text("/sourceIPs/0"),
            };
            let is_of_pool = POOL_KINDS.iter().any(|(_, _, resource)| *resource == asked.resource);
            let is_read = ["list", "watch"].contains(&asked.verb.as_str());
            (is_of_pool && is_read).then_some(asked)
        };
        lines.filter_map(asked).collect()
    }

    /// The length of the audit log, at the end of a line.
    pub(crate) fn audit_mark(&self) -> usize {
        let log = std::fs::read_to_string(self.audit_log()).expect("the API server writes it");
        log.rfind('\n').map_or(0, |end| end + 1)
    }

    /// The addresses of the pool's nodes.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let status = self.status().expect("the lab stands");
        let of_pool = status.nodes.iter().filter(|node| POOL.contains(&node.name.as_str()));
        of_pool.map(|node| node.address.to_string()).collect()
    }

    /// What coordinator and hubs of the pool received from the cloud of the pool's kinds so far, in bytes of bodies.
    pub(crate) fn upstream_bytes(&self) -> u64 {
        let coordinator = self.coordinator_says(COORDINATOR, "/metrics").expect("it runs");
        let hubs = POOL.map(|node| self.hub_metrics(node).expect("it runs"));
        let of = |text: &str| -> u64 {
            let kinds = POOL_KINDS
                .map(|(_, _, resource)| format!("upstream_bytes_total{{resource=\"{resource}\"}} "));
            let values = text.lines().filter_map(|line| {
                kinds.iter().find_map(|kind| line.split_once(kind.as_str()))?.1.parse::<u64>().ok()
            });
            values.sum()
        };
        of(&coordinator) + hubs.iter().map(|text| of(text)).sum::<u64>()
    }

    /// Gives the slice `times` new states, each with another address.
    pub(crate) fn change_slices(&self, times: usize, seed: usize) {
        for turn in 0..times {
            let address = format!("10.250.{}.{}", (seed + turn) / 250 % 250, (seed + turn) % 250 + 1);
            let slice = json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": SLICE,
                    "namespace": "default",
                    "labels": { "kubernetes.io/service-name": SLICE },
                },
                "addressType": "IPv4",
                "ports": [{ "name": "http", "port": 80 }],
                "endpoints": [{ "addresses": [address], "conditions": { "ready": true } }],
            });
            let mut kubectl = self.kubectl().expect("kubectl");
            let applied = kubectl.args(["apply", "--server-side", "--force-conflicts", "-f", "-"]);
            e2e_apply(applied, &slice.to_string());
        }
    }
}

fn e2e_apply(command: &mut Command, input: &str) {
    use std::io::Write as _;
    use std::process::Stdio;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    child.stdin.take().expect("it was piped").write_all(input.as_bytes()).expect("kubectl reads it");
    let output = child.wait_with_output().expect("kubectl ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn output(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Unmodified client-go informers of the pool's kinds: at the cloud, and behind each hub of the pool.
pub(crate) struct Watchers {
    board: Arc<Board>,
    running: Vec<Informers>,
}

impl Watchers {
    /// Starts them; `None` after saying why, where they are not built.
    pub(crate) fn start(stage: &Stage, test: &str) -> Option<Watchers> {
        let judge = judges_or_skip(test)?.pop().expect("there is one for each version of client-go");
        let board: Arc<Board> = Arc::default();
        let mut running = Vec::new();
        for name in std::iter::once(CLOUD).chain(POOL) {
            let (mut command, kubeconfig) = match name {
                CLOUD => (Command::new(&judge.program), stage.admin_kubeconfig()),
                node => (
                    stage.command(node, &judge.program).expect("the node stands"),
                    stage.node_file(node, "admin.kubeconfig"),
                ),
            };
            command.env("KUBE_FEATURE_WatchListClient", "true");
            let collection = |(group, version, resource): &(&str, &str, &str)| Collection {
                name: (*resource).to_owned(),
                kubeconfig: kubeconfig.clone(),
                group: (*group).to_owned(),
                version: (*version).to_owned(),
                resource: (*resource).to_owned(),
                ..Collection::default()
            };
            let collections: Vec<Collection> = POOL_KINDS.iter().map(collection).collect();
            let log = stage.dir().join("logs").join(format!("{test}-{name}.log"));
            let agent = format!("eyot-watcher-{name}");
            let names = (name, agent.as_str());
            let started = Informers::start(command, &board, names, &CLIENTS, &collections, &log);
            running.push(started.expect("a built program starts"));
        }
        let watchers = Watchers { board, running };
        watchers.agree("informers on all nodes have synced");
        Some(watchers)
    }

    /// Waits until each informer holds exactly what the one at the cloud holds, versions too.
    pub(crate) fn agree(&self, what: &str) -> Duration {
        self.board.wait(what, LIMIT, |told| {
            self.running.iter().flat_map(|judge| judge.apart(told, CLOUD)).collect()
        })
    }

    /// What the cloud's own informer holds of the slices.
    pub(crate) fn slices(&self) -> String {
        self.board
            .look(|told| told.digest(CLOUD, CLIENTS[0], "endpointslices").unwrap_or_default().to_owned())
    }

    /// Waits until the cloud's own informer holds something else of the slices than `before`.
    pub(crate) fn moved(&self, before: &str) {
        self.board.wait("the cloud has moved on", LIMIT, |told| {
            let is_same = told.digest(CLOUD, CLIENTS[0], "endpointslices") == Some(before);
            is_same.then(|| "the slices are as before".to_owned()).into_iter().collect()
        });
    }

    pub(crate) fn stop(self) {
        for judge in self.running {
            let name = judge.name().to_owned();
            let (status, log) = judge.stop().expect("it was started here");
            assert!(status.success(), "{name}: {status}:\n{log}");
        }
    }
}

/// The lists of clients on `node` since `from` requests were on record.
pub(crate) fn client_lists(stage: &Stage, node: &str, from: usize) -> Vec<String> {
    let requests = stage.requests(node).expect("the hub has a log");
    let of_pool = |uri: &str| POOL_KINDS.iter().any(|(_, _, resource)| uri.contains(&format!("/{resource}")));
    let lists = requests[from..].iter().filter(|request| request.is_list() && of_pool(&request.uri));
    lists.map(|request| format!("{node}: {} {}", request.program(), request.uri)).collect()
}

pub(crate) fn request_count(stage: &Stage, node: &str) -> usize {
    stage.requests(node).expect("the hub has a log").len()
}
