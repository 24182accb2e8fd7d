//! The shared lab as these tests see it: what the cloud says, what runs, and how long a promise took.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::lab::{ClaimedLab, Lab, wait_until};
use serde_json::Value;

/// The node that most tests cut; the other one stays with the cloud.
pub(crate) const NODE: &str = "node-1";
pub(crate) const OTHER: &str = "node-2";

/// Turns a hang into a failure, where nothing shorter is promised.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

/// The promised time to a Ready node after healing is 12 s; three times that, for a machine that does other things too.
pub(crate) const READY_WITHIN: Duration = Duration::from_secs(36);

/// Whether the scenarios run at their full length: `EYOT_FULL_LENGTH=1`. What CI runs is the same, shorter.
pub(crate) fn full_length() -> bool {
    std::env::var_os("EYOT_FULL_LENGTH").is_some_and(|value| value == "1")
}

/// The lab, held by one test, with all its pods up.
pub(crate) struct Stage {
    lab: ClaimedLab,
}

impl Deref for Stage {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        self.lab.lab()
    }
}

/// A pod as the cloud has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) node: String,
    pub(crate) app: String,
    pub(crate) restarts: u64,
    pub(crate) ready: bool,
    /// Not told to end.
    pub(crate) wanted: bool,
    /// The id of its main container, as containerd has it.
    pub(crate) container: String,
}

impl Stage {
    /// Waits for the lab, and until whatever the last test did has settled; `None` where there can be no lab.
    pub(crate) fn claim(test: &str) -> Option<Stage> {
        let stage = Stage { lab: ClaimedLab::claim(test, env!("CARGO_BIN_EXE_eyot"))? };
        stage.promised(LIMIT, "the lab settles", || stage.is_settled());
        Some(stage)
    }

    /// Looks until `holds` and returns how long that took; panics with `what` when it does not within `limit`.
    pub(crate) fn promised(&self, limit: Duration, what: &str, holds: impl FnMut() -> bool) -> Duration {
        let started = Instant::now();
        assert!(wait_until(limit, holds), "not within {limit:?}: {what}\n{}", self.scene());
        started.elapsed()
    }

    /// What a person would look at when a promise is broken.
    fn scene(&self) -> String {
        let mut scene = format!("{:#?}\n", self.pods());
        for node in self.nodes() {
            scene.push_str(&format!("{node}: {:?}\n", self.containers(node)));
        }
        scene
    }

    /// kubectl of the administrator, straight to the API server; it must succeed.
    pub(crate) fn cloud(&self, words: &str) -> String {
        output(self.kubectl().expect("kubectl").args(words.split(' ')), words)
    }

    pub(crate) fn cloud_json(&self, words: &str) -> Value {
        serde_json::from_str(&self.cloud(&format!("{words} -o json"))).expect("kubectl writes JSON")
    }

    /// The pods of the namespace `default`, by name.
    pub(crate) fn pods(&self) -> Vec<Pod> {
        let list = self.cloud_json("get pods -n default");
        let mut pods: Vec<Pod> = list["items"].as_array().expect("a list").iter().map(pod).collect();
        pods.sort();
        pods
    }

    /// The names of the pods that the cloud has on `node`.
    pub(crate) fn pods_on(&self, node: &str) -> Vec<String> {
        self.pods().into_iter().filter(|pod| pod.node == node).map(|pod| pod.name).collect()
    }

    /// The pod of `app` on `node`.
    pub(crate) fn pod_of(&self, app: &str, node: &str) -> String {
        let found = self.pods().into_iter().find(|pod| pod.app == app && pod.node == node && pod.wanted);
        found.unwrap_or_else(|| panic!("no pod of {app} on {node}")).name
    }

    /// The ids of the running main containers of `node` by pod, asked of its containerd.
    pub(crate) fn running(&self, node: &str) -> BTreeMap<String, String> {
        // While containerd starts it answers nobody, and nobody can say what runs.
        let containers = self.containers(node).unwrap_or_default();
        containers.into_iter().filter(|each| each.running).map(|each| (each.pod, each.id)).collect()
    }

    /// Whether every pod of `pods` runs on `node`.
    pub(crate) fn all_run(&self, node: &str, pods: &[String]) -> bool {
        let running = self.running(node);
        pods.iter().all(|pod| running.contains_key(pod))
    }

    /// Whether the cloud believes that `node` is Ready.
    pub(crate) fn is_ready(&self, node: &str) -> bool {
        let node = self.cloud_json(&format!("get node {node}"));
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let tainted = node["spec"]["taints"].as_array().is_some_and(|taints| !taints.is_empty());
        !tainted && conditions.iter().any(|each| each["type"] == "Ready" && each["status"] == "True")
    }

    /// Whether both nodes are Ready, all pods that should be there are, ready, and no others, and the cloud knows the very
    /// containers that run.
    pub(crate) fn is_settled(&self) -> bool {
        let pods = self.pods();
        let web = self.cloud_json("get deployment web -n default");
        let replicas = web["spec"]["replicas"].as_u64().unwrap_or_default();
        let count = |app: &str| pods.iter().filter(|pod| pod.app == app).count() as u64;
        self.nodes().iter().all(|node| self.is_ready(node))
            && pods.iter().all(|pod| pod.ready && pod.wanted)
            && count("web") == replicas
            && web["status"]["observedGeneration"] == web["metadata"]["generation"]
            && web["status"]["updatedReplicas"] == replicas
            && [count("agent"), count("fixed"), count("eyot-lab")] == [2, 2, 2]
            && self.nodes().iter().all(|node| {
                let known = pods.iter().filter(|pod| pod.node == *node);
                self.running(node) == known.map(|pod| (pod.name.clone(), pod.container.clone())).collect()
            })
    }

    /// Two replicas again, one on each node, as other tests want it: which of more are left is nobody's promise.
    pub(crate) fn respread(&self) {
        self.cloud("scale deployment web -n default --replicas=0");
        self.promised(LIMIT, "none is left", || !self.pods().iter().any(|pod| pod.app == "web"));
        self.cloud("scale deployment web -n default --replicas=2");
        self.promised(LIMIT, "the lab settles", || self.is_settled());
    }

    /// Whether the cloud knows of the pods of `node` what its kubelet does: a cut finds no status on its way.
    pub(crate) fn has_told_all(&self, node: &str) -> bool {
        let Ok(known) = self.kubelet_get(node, "/pods") else { return false };
        let known: serde_json::Value = serde_json::from_str(&known).expect("a PodList");
        let told = self.cloud_json(&format!("get pods -A --field-selector=spec.nodeName={node}"));
        statuses(&known) == statuses(&told)
    }

    /// GETs from the kubelet's own port with the administrator's token; the error is what was complained about.
    pub(crate) fn kubelet_get(&self, node: &str, path: &str) -> Result<String, String> {
        finish(self.kubelet_kubectl(node).expect("kubectl").args(["get", "--raw", path]))
    }

    /// As [`Stage::kubelet_get`], whatever certificate the kubelet shows.
    pub(crate) fn kubelet_get_unverified(&self, node: &str, path: &str) -> Result<String, String> {
        let flag = "--insecure-skip-tls-verify";
        finish(self.kubelet_kubectl(node).expect("kubectl").args([flag, "get", "--raw", path]))
    }

    /// POSTs an empty body to the kubelet's own port.
    pub(crate) fn kubelet_post(&self, node: &str, path: &str) -> Result<String, String> {
        finish(self.kubelet_kubectl(node).expect("kubectl").args([
            "create",
            "--raw",
            path,
            "-f",
            "/dev/null",
        ]))
    }

    /// Who asked the hub of `node` for a whole collection since `from` requests were on record, by program.
    pub(crate) fn lists_since(&self, node: &str, from: usize) -> Vec<String> {
        let requests = self.requests(node).expect("the hub has a log");
        let lists = requests[from..].iter().filter(|request| request.is_list());
        lists.map(|request| format!("{} {}", request.program(), request.uri)).collect()
    }

    pub(crate) fn request_count(&self, node: &str) -> usize {
        self.requests(node).expect("the hub has a log").len()
    }

    /// The names of pods whose uid or restarts are others now, those that came and those that went.
    pub(crate) fn changed(&self, before: &[Pod]) -> BTreeSet<String> {
        let identity = |pod: &Pod| (pod.name.clone(), pod.uid.clone(), pod.restarts);
        let (before, now): (BTreeSet<_>, BTreeSet<_>) =
            (before.iter().map(identity).collect(), self.pods().iter().map(identity).collect());
        before.symmetric_difference(&now).map(|(name, ..)| name.clone()).collect()
    }
}

fn pod(object: &Value) -> Pod {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let status = &object["status"];
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    Pod {
        name: text("/metadata/name"),
        uid: text("/metadata/uid"),
        node: text("/spec/nodeName"),
        app: text("/metadata/labels/app"),
        restarts: status["containerStatuses"][0]["restartCount"].as_u64().unwrap_or_default(),
        ready: conditions.iter().any(|each| each["type"] == "Ready" && each["status"] == "True"),
        wanted: object["metadata"]["deletionTimestamp"].is_null(),
        container: text("/status/containerStatuses/0/containerID").replace("containerd://", ""),
    }
}

fn output(command: &mut Command, what: &str) -> String {
    finish(command).unwrap_or_else(|error| panic!("{what}: {error}"))
}

fn finish(command: &mut Command) -> Result<String, String> {
    let output = command.output().expect("it starts");
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// Of each pod that is no static one, what its kubelet says of it: phase, addresses, conditions, which containers are ready.
fn statuses(pods: &serde_json::Value) -> std::collections::BTreeMap<String, serde_json::Value> {
    let pods = pods["items"].as_array().expect("a list");
    let own = pods.iter().filter(|pod| pod["metadata"]["annotations"]["kubernetes.io/config.hash"].is_null());
    let status = |pod: &serde_json::Value| {
        let status = &pod["status"];
        let each = |list: &str, keys: [&str; 2]| -> Vec<serde_json::Value> {
            let list = status[list].as_array().cloned().unwrap_or_default();
            list.iter().map(|entry| serde_json::json!([entry[keys[0]], entry[keys[1]]])).collect()
        };
        serde_json::json!([
            status["phase"],
            status["podIPs"],
            each("conditions", ["type", "status"]),
            each("containerStatuses", ["name", "ready"]),
        ])
    };
    let uid = |pod: &serde_json::Value| pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    own.map(|pod| (uid(pod), status(pod))).collect()
}
