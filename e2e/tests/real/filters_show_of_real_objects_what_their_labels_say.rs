//! Each filter on the real API server: what its client gets through the hub by LIST, GET, WATCH and WatchList is what
//! the cloud holds with that filter's own change and no other; with the cloud, without it, and after a restart.
//! The clients are an unmodified kubectl with the identities that the filters are for.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::lab::{ClaimedNode, NodePart, Nodes, wait_until};
use proto_kube::list::split_list;
use proto_kube::media_type::Format;
use proto_kube::object::scan;
use serde_json::{Value, json};

use super::client::{Client, ClientPair, Door, apply, kubeconfig, tls};

/// Turns a hang into a failure.
const LIMIT: Duration = Duration::from_secs(60);
const PORT: u16 = 10261;
/// The namespace of this test's Services.
const SPACE: &str = "eyot-filters";
/// Who is shown less: the accounts' namespace and name.
const PROXY: (&str, &str) = ("kube-system", "kube-proxy");
const FLANNEL: (&str, &str) = ("kube-flannel", "flannel");

/// Objects by `NAMESPACE/NAME`.
type State = BTreeMap<String, Value>;

fn account(account: (&str, &str)) -> [Value; 2] {
    let (namespace, name) = account;
    [
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name, "namespace": namespace } }),
        json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": { "name": format!("{SPACE}-{name}") },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": SPACE },
            "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": namespace }] }),
    ]
}

/// Namespaces, rights, and OpenYurt's kind of pools, as far as filters read it.
fn world() -> Vec<Value> {
    let namespace =
        |name: &str| json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
    let mut objects = vec![
        namespace(SPACE),
        namespace(FLANNEL.0),
        json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": SPACE },
            "rules": [{ "apiGroups": ["", "discovery.k8s.io"], "verbs": ["get", "list", "watch"],
                "resources": ["services", "endpointslices", "nodes"] }] }),
        json!({ "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": { "name": "nodepools.apps.openyurt.io" },
            "spec": { "group": "apps.openyurt.io", "scope": "Cluster",
                "names": { "plural": "nodepools", "singular": "nodepool", "kind": "NodePool", "listKind": "NodePoolList" },
                "versions": [{ "name": "v1beta2", "served": true, "storage": true, "subresources": { "status": {} },
                    "schema": { "openAPIV3Schema": { "type": "object",
                        "x-kubernetes-preserve-unknown-fields": true } } }] } }),
    ];
    objects.extend(account(PROXY));
    objects.extend(account(FLANNEL));
    objects
}

fn service(name: &str, kind: &str, annotation: (&str, &str)) -> Value {
    json!({ "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": SPACE, "annotations": { annotation.0: annotation.1 } },
        "spec": { "type": kind, "ports": [{ "name": "http", "port": 80 }] } })
}

/// What each filter has to do with. The node and `beside` are in pool `hangzhou`.
fn objects(node: &str) -> Vec<Value> {
    let endpoint =
        |number: u8, node: &str| json!({ "addresses": [format!("10.99.0.{number}")], "nodeName": node });
    vec![
        json!({ "apiVersion": "apps.openyurt.io/v1beta2", "kind": "NodePool", "metadata": { "name": "hangzhou" } }),
        service("web", "ClusterIP", ("openyurt.io/topologyKeys", "openyurt.io/nodepool")),
        service("near", "NodePort", ("nodeport.openyurt.io/listen", "hangzhou")),
        service("far", "NodePort", ("nodeport.openyurt.io/listen", "-hangzhou,*")),
        service("cloud", "LoadBalancer", ("svc.openyurt.io/discard", "true")),
        json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": { "name": "web-1", "namespace": SPACE, "labels": { "kubernetes.io/service-name": "web" } },
            "ports": [{ "name": "http", "port": 8080 }],
            "endpoints": [endpoint(1, node), endpoint(2, "beside"), endpoint(3, "elsewhere")] }),
        json!({ "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "kube-proxy", "namespace": "kube-system" },
            "data": { "config.conf": "clientConnection:\n  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf\n",
                "kubeconfig.conf": "kubeconfig: stays" } }),
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": pod(node), "namespace": "kube-system" },
            "spec": { "nodeName": node, "serviceAccountName": "kube-proxy", "tolerations": [{ "operator": "Exists" }],
                "terminationGracePeriodSeconds": 0,
                "volumes": [{ "name": "config", "configMap": { "name": "kube-proxy" } }],
                "containers": [{ "name": "main", "image": "eyot.io/lab/busybox:1", "env": [
                    { "name": "KUBERNETES_SERVICE_HOST", "value": "10.96.0.1" },
                    { "name": "KUBERNETES_SERVICE_PORT", "value": "443" },
                    { "name": "OTHER", "value": "10.96.0.1" }] }] } }),
    ]
}

fn pod(node: &str) -> String {
    format!("filtered-{node}")
}

/// What the command prints, or what it complains about.
fn run(mut command: Command, words: &[&str]) -> Result<String, String> {
    let output = command.args(words).output().expect("kubectl runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// The hub of the claimed node, told an address for pods; told as before when this goes.
struct Led<'a> {
    node: &'a ClaimedNode,
    former: String,
    address: Ipv4Addr,
}

impl<'a> Led<'a> {
    fn new(node: &'a ClaimedNode) -> Self {
        let status = node.lab().status().expect("the lab stands");
        let address = status.nodes.iter().find(|known| known.name == node.name()).expect("claimed").address;
        let led = Self { node, former: fs::read_to_string(config(node)).expect("the lab wrote it"), address };
        let mut settings: Value = serde_json::from_str(&led.former).expect("JSON is written");
        let reached = format!("{address}:{PORT}");
        settings["listen"].as_array_mut().expect("a list").push(reached.clone().into());
        settings["filters"] = json!({ "hubAddress": reached });
        fs::write(config(node), settings.to_string()).expect("the folder is writable");
        node.lab().restart(node.name(), NodePart::Hub).expect("its configuration is good");
        led
    }
}

impl Drop for Led<'_> {
    fn drop(&mut self) {
        fs::write(config(self.node), &self.former).expect("the folder is writable");
        if let Err(error) = self.node.lab().restart(self.node.name(), NodePart::Hub) {
            // A panic in a drop would hide the test's own.
            eprintln!("{}: the hub does not start: {error}", self.node.name());
        }
    }
}

fn config(node: &ClaimedNode) -> PathBuf {
    node.lab().node_file(node.name(), "hub.yaml")
}

/// One client of the hub.
struct Viewer<'a> {
    node: &'a ClaimedNode,
    file: String,
    token: String,
}

impl<'a> Viewer<'a> {
    fn kubelet(node: &'a ClaimedNode) -> Self {
        Self { node, file: "kubelet.kubeconfig".to_owned(), token: String::new() }
    }

    fn account(node: &'a ClaimedNode, (namespace, name): (&str, &str)) -> Self {
        let create = ["create", "token", name, "-n", namespace, "--duration=1h"];
        let token = run(node.lab().kubectl().expect("kubectl"), &create).expect("a token");
        let mut config = kubeconfig(&node.lab().node_file(node.name(), "admin.kubeconfig"));
        config["users"][0]["user"] = json!({ "token": token.trim() });
        let file = format!("{name}.kubeconfig");
        fs::write(node.lab().node_file(node.name(), &file), config.to_string()).expect("writable");
        Self { node, file, token: token.trim().to_owned() }
    }

    fn command(&self) -> Command {
        self.node.lab().node_kubectl(self.node.name(), &self.file).expect("kubectl")
    }

    fn raw(&self, path: &str) -> Result<String, String> {
        run(self.command(), &["get", "--raw", path])
    }
}

/// The objects of a list, each as it would stand alone.
fn listed(text: &str) -> State {
    let list: Value = serde_json::from_str(text).expect("JSON");
    state(list["items"].as_array().expect("a list").iter().cloned())
}

fn state(objects: impl Iterator<Item = Value>) -> State {
    let plain = |mut object: Value| {
        let members = object.as_object_mut().expect("an object");
        members.retain(|name, _| name != "kind" && name != "apiVersion");
        let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
        (format!("{}/{}", text("namespace"), text("name")), object)
    };
    objects.map(plain).collect()
}

/// What the events of a stream leave; its bookmark came.
fn folded(text: &str) -> Option<State> {
    let mut held = State::new();
    let mut is_whole = false;
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).expect("JSON");
        let object = event["object"].clone();
        match event["type"].as_str() {
            Some("ADDED" | "MODIFIED") => held.extend(state([object].into_iter())),
            Some("DELETED") => state([object].into_iter()).keys().for_each(|key| drop(held.remove(key))),
            Some("BOOKMARK") => is_whole = true,
            _ => panic!("{event}"),
        }
    }
    is_whole.then_some(held)
}

/// Changes the cloud's object as the filters of a client should; false for one that is hidden.
type Filtered<'a> = Box<dyn Fn(&str, &mut Value) -> bool + 'a>;

/// One filter, its client, and what it makes of some objects.
struct Case<'a> {
    filter: &'static str,
    viewer: &'a Viewer<'a>,
    /// Of the resource in all namespaces, or as its client may list it.
    path: String,
    /// `NAMESPACE/NAME` and the path of each object that is compared.
    objects: Vec<(String, String)>,
    filtered: Filtered<'a>,
}

impl Case<'_> {
    /// What the client should be shown of what the cloud holds now.
    fn expected(&self) -> State {
        let lab = self.viewer.node.lab();
        let path = &self.path;
        let text = run(lab.kubectl().expect("kubectl"), &["get", "--raw", path]).expect("the cloud answers");
        let mut held = self.compared(listed(&text));
        held.retain(|key, object| (self.filtered)(key, object));
        held
    }

    fn compared(&self, mut held: State) -> State {
        held.retain(|key, _| self.objects.iter().any(|(wanted, _)| wanted == key));
        held
    }

    fn with(&self, query: &str) -> String {
        format!("{}{}{query}", self.path, if self.path.contains('?') { '&' } else { '?' })
    }

    /// What the client is shown, by each way of asking.
    fn shown(&self) -> Result<Vec<(String, State)>, String> {
        let mut ways = Vec::new();
        for path in [self.path.clone(), self.with("resourceVersion=0"), self.with("limit=500")] {
            ways.push((path.clone(), self.compared(listed(&self.viewer.raw(&path)?))));
        }
        let stream = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
                      &allowWatchBookmarks=true&timeoutSeconds=1";
        let held = folded(&self.viewer.raw(&self.with(stream))?).ok_or("no bookmark")?;
        ways.push(("WatchList".to_owned(), self.compared(held)));
        let mut gets = Vec::new();
        for (_, path) in &self.objects {
            match self.viewer.raw(path) {
                Ok(text) => gets.push(serde_json::from_str(&text).expect("JSON")),
                Err(complaint) if complaint.contains("NotFound") => {}
                Err(complaint) => return Err(complaint),
            }
        }
        ways.push(("GET".to_owned(), state(gets.into_iter())));
        Ok(ways)
    }

    /// By every way the client is shown `expected`, the moment's delay of a cache aside.
    fn check(&self, when: &str, expected: impl Fn() -> State) {
        let mut differences = Vec::new();
        let agrees = wait_until(LIMIT, || {
            let want = expected();
            differences = match self.shown() {
                Ok(ways) => ways.into_iter().filter(|(_, held)| *held != want).collect(),
                Err(complaint) => vec![(complaint, State::new())],
            };
            differences.is_empty()
        });
        assert!(agrees, "{} {when}: {differences:#?} should be {:#?}", self.filter, expected());
    }
}

fn unmanaged(object: &mut Value) {
    object["metadata"].as_object_mut().expect("metadata").remove("managedFields");
}

/// `NAMESPACE/NAME` with the path of the object.
fn named(api: &str, resource: &str, namespace: &str, name: &str) -> (String, String) {
    let scope = if namespace.is_empty() { String::new() } else { format!("namespaces/{namespace}/") };
    (format!("{namespace}/{name}"), format!("{api}/{scope}{resource}/{name}"))
}

const CORE: &str = "/api/v1";
const DISCOVERY: &str = "/apis/discovery.k8s.io/v1";

fn proxy_cases<'a>(proxy: &'a Viewer<'a>, hub: &Led<'_>) -> [Case<'a>; 3] {
    let (node, address) = (proxy.node.name().to_owned(), hub.address.to_string());
    let service = |name: &str| named(CORE, "services", SPACE, name);
    [
        Case {
            filter: "discardcloudservice, nodeportisolation, managedfields",
            viewer: proxy,
            path: format!("{CORE}/services"),
            objects: ["web", "near", "far", "cloud"].map(service).into(),
            filtered: Box::new(|key, object| {
                unmanaged(object);
                !key.ends_with("/far") && !key.ends_with("/cloud")
            }),
        },
        Case {
            filter: "servicetopology",
            viewer: proxy,
            path: format!("{DISCOVERY}/endpointslices"),
            objects: vec![named(DISCOVERY, "endpointslices", SPACE, "web-1")],
            filtered: Box::new(move |_, object| {
                unmanaged(object);
                let near =
                    |endpoint: &Value| endpoint["nodeName"] == *node || endpoint["nodeName"] == "beside";
                object["endpoints"].as_array_mut().expect("a list").retain(near);
                true
            }),
        },
        Case {
            filter: "forwardkubesvctraffic",
            viewer: proxy,
            path: format!("{DISCOVERY}/endpointslices"),
            objects: vec![named(DISCOVERY, "endpointslices", "default", "kubernetes")],
            filtered: Box::new(move |_, object| {
                unmanaged(object);
                object["endpoints"] = json!([{ "addresses": [address], "conditions": { "ready": true } }]);
                object["ports"][0]["port"] = PORT.into();
                true
            }),
        },
    ]
}

fn kubelet_cases<'a>(kubelet: &'a Viewer<'a>, hub: &Led<'_>) -> [Case<'a>; 3] {
    let (node, address) = (kubelet.node.name(), hub.address.to_string());
    let host = address.clone();
    [
        Case {
            filter: "masterservice",
            viewer: kubelet,
            path: format!("{CORE}/services"),
            objects: vec![
                named(CORE, "services", "default", "kubernetes"),
                named(CORE, "services", SPACE, "cloud"),
            ],
            filtered: Box::new(move |key, object| {
                if key == "default/kubernetes" {
                    object["spec"]["clusterIP"] = address.clone().into();
                    object["spec"]["clusterIPs"] = json!([address]);
                    object["spec"]["ports"][0]["port"] = PORT.into();
                }
                true
            }),
        },
        Case {
            filter: "inclusterconfig",
            viewer: kubelet,
            path: format!(
                "{CORE}/namespaces/kube-system/configmaps?fieldSelector=metadata.name%3Dkube-proxy"
            ),
            objects: vec![named(CORE, "configmaps", "kube-system", "kube-proxy")],
            filtered: Box::new(|_, object| {
                let text = object["data"]["config.conf"]
                    .as_str()
                    .expect("a text")
                    .replace("kubeconfig", "#kubeconfig");
                // The path of the file is no key.
                object["data"]["config.conf"] = text.replace("/#kubeconfig", "/kubeconfig").into();
                true
            }),
        },
        Case {
            filter: "serviceenvupdater",
            viewer: kubelet,
            path: format!("{CORE}/pods?fieldSelector=spec.nodeName%3D{node}"),
            objects: vec![named(CORE, "pods", "kube-system", &pod(node))],
            filtered: Box::new(move |_, object| {
                let environment = &mut object["spec"]["containers"][0]["env"];
                environment[0]["value"] = host.clone().into();
                environment[1]["value"] = PORT.to_string().into();
                true
            }),
        },
    ]
}

fn node_case<'a>(flannel: &'a Viewer<'a>) -> Case<'a> {
    let name = flannel.node.name();
    Case {
        filter: "nodeheartbeats",
        viewer: flannel,
        path: format!("{CORE}/nodes"),
        objects: vec![named(CORE, "nodes", "", name)],
        filtered: Box::new(|_, object| {
            unmanaged(object);
            for condition in object["status"]["conditions"].as_array_mut().into_iter().flatten() {
                condition["lastHeartbeatTime"] = Value::Null;
            }
            true
        }),
    }
}

fn cloud(node: &ClaimedNode, words: &[&str]) -> String {
    run(node.lab().kubectl().expect("kubectl"), words).unwrap_or_else(|why| panic!("{words:?}: {why}"))
}

fn make(node: &ClaimedNode) {
    let name = node.name();
    apply(node.lab(), &world());
    cloud(node, &["wait", "--for=condition=established", "crd/nodepools.apps.openyurt.io", "--timeout=60s"]);
    cloud(node, &["delete", "pod", &pod(name), "-n", "kube-system", "--ignore-not-found", "--force"]);
    apply(node.lab(), &objects(name));
    let status = json!({ "status": { "nodes": [name, "beside"] } }).to_string();
    cloud(node, &["patch", "nodepool", "hangzhou", "--subresource=status", "--type=merge", "-p", &status]);
    beat(node, "2026-01-01T00:00:00Z");
}

/// A heartbeat of the node, and nothing else.
fn beat(node: &ClaimedNode, time: &str) {
    let status = json!({ "status": { "conditions": [{ "type": "EyotTest", "status": "True", "reason": "Test",
        "lastHeartbeatTime": time, "lastTransitionTime": "2026-01-01T00:00:00Z" }] } });
    cloud(node, &["patch", "node", node.name(), "--subresource=status", "-p", &status.to_string()]);
}

#[test]
fn each_filter_shows_what_the_cloud_holds_but_for_its_own_change() {
    let test = "each_filter_shows_what_the_cloud_holds_but_for_its_own_change";
    let Some(node) = ClaimedNode::claim(test, env!("CARGO_BIN_EXE_eyot"), false) else { return };
    make(&node);
    let led = Led::new(&node);
    let (proxy, flannel) = (Viewer::account(&node, PROXY), Viewer::account(&node, FLANNEL));
    let kubelet = Viewer::kubelet(&node);
    let cases: Vec<Case<'_>> = proxy_cases(&proxy, &led)
        .into_iter()
        .chain(kubelet_cases(&kubelet, &led))
        .chain([node_case(&flannel)])
        .collect();
    for case in &cases {
        case.check("online", || case.expected());
    }
    protobuf_is_filtered_too(&node, &proxy);
    let mut watch = Watch::open(&proxy, &format!("{DISCOVERY}/namespaces/{SPACE}/endpointslices?watch=true"));
    watch.sees("10.99.0.1", "10.99.0.3");
    a_change_of_topology_is_told(&node, &mut watch);
    heartbeats_alone_are_not_told(&node, &flannel);

    // A node that nobody looks after is changed once, and then stays as it is.
    cloud(&node, &["wait", "--for=condition=Ready=Unknown", "node", node.name(), "--timeout=120s"]);
    let expected: Vec<State> = cases.iter().map(Case::expected).collect();
    for (case, want) in cases.iter().zip(&expected) {
        case.check("before the cut", || want.clone());
    }
    node.lab().cut(&Nodes::One(node.name().to_owned())).expect("cut");
    assert!(wait_until(LIMIT, || warns(&proxy)), "the hub notices the cut");
    for when in ["while cut", "after a restart while cut"] {
        for (case, want) in cases.iter().zip(&expected) {
            case.check(when, || want.clone());
        }
        node.lab().restart(node.name(), NodePart::Hub).expect("a hub with a store is ready while cut");
    }
    node.lab().heal(&Nodes::One(node.name().to_owned())).expect("healed");
    for case in &cases {
        case.check("after the heal", || case.expected());
    }
    for kind in ["pod", "configmap"] {
        let name = if kind == "pod" { pod(node.name()) } else { "kube-proxy".to_owned() };
        cloud(&node, &["delete", kind, &name, "-n", "kube-system", "--force"]);
    }
    cloud(&node, &["delete", "namespace", SPACE, FLANNEL.0, "--wait=false"]);
    cloud(&node, &["delete", "crd", "nodepools.apps.openyurt.io"]);
}

/// Whether answers are marked as the node's own.
fn warns(viewer: &Viewer<'_>) -> bool {
    let path = format!("{CORE}/services");
    let output = viewer.command().args(["get", "--raw", &path]).output().expect("kubectl runs");
    String::from_utf8_lossy(&output.stderr).contains("Warning: cut off")
}

/// The same in protobuf, as kube-proxy itself asks.
fn protobuf_is_filtered_too(node: &ClaimedNode, proxy: &Viewer<'_>) {
    let no_pair: Option<&ClientPair> = None;
    let token = format!("Bearer {}", proxy.token);
    let client =
        Client::new(Door::hub(node), tls(node.lab(), no_pair, "h2"), Some(&token), "kube-proxy/test");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for (path, shown, hidden) in [
        (format!("{CORE}/namespaces/{SPACE}/services"), vec!["near", "web"], "far"),
        (format!("{DISCOVERY}/namespaces/{SPACE}/endpointslices"), vec!["web-1"], "10.99.0.3"),
    ] {
        for query in ["", "?resourceVersion=0"] {
            let accept = [("accept", "application/vnd.kubernetes.protobuf")];
            let answer = runtime.block_on(client.send("GET", &format!("{path}{query}"), &accept, ""));
            let body = answer.expect("an answer").body;
            let (_, items) = split_list(Format::PROTOBUF, &body).expect("a protobuf list");
            let name = |raw: &bytes::Bytes| scan(Format::PROTOBUF, raw).expect("an object").name.into_owned();
            let mut names: Vec<String> = items.iter().map(name).collect();
            names.sort();
            assert_eq!(names, shown, "{path}{query}");
            let canary = hidden.as_bytes();
            assert!(
                !body.windows(canary.len()).any(|window| window == canary),
                "{path}{query} shows {hidden}"
            );
        }
    }
}

/// A running watch, its output in a file.
struct Watch {
    child: std::process::Child,
    output: tempfile::NamedTempFile,
}

impl Watch {
    fn open(viewer: &Viewer<'_>, path: &str) -> Self {
        let output = tempfile::NamedTempFile::new().expect("a file");
        let mut command = viewer.command();
        let into: File = output.reopen().expect("the same file");
        command.args(["get", "--raw", path]).stdin(Stdio::null()).stdout(into);
        Self { child: command.spawn().expect("kubectl starts"), output }
    }

    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.output.path()).expect("the file is there");
        text.lines().map(str::to_owned).collect()
    }

    /// The last event comes to hold the one and not the other.
    fn sees(&mut self, this: &str, not: &str) {
        let holds = |line: &String| line.contains(this) && !line.contains(not);
        let seen = wait_until(LIMIT, || self.lines().last().is_some_and(holds));
        assert!(seen, "no event with {this} and without {not} at the end of {:?}", self.lines());
        assert!(self.child.try_wait().expect("it is ours").is_none(), "the watch goes on");
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn a_change_of_topology_is_told(node: &ClaimedNode, watch: &mut Watch) {
    let annotate =
        |value: &str| cloud(node, &["annotate", "service", "web", "-n", SPACE, "--overwrite", value]);
    annotate("openyurt.io/topologyKeys=kubernetes.io/hostname");
    watch.sees("10.99.0.1", "10.99.0.2");
    annotate("openyurt.io/topologyKeys-");
    watch.sees("10.99.0.3", "no such text");
    annotate("openyurt.io/topologyKeys=openyurt.io/nodepool");
    watch.sees("10.99.0.2", "10.99.0.3");
}

/// Other parts of the cluster may change the node meanwhile; what is told must show a change then.
fn heartbeats_alone_are_not_told(node: &ClaimedNode, flannel: &Viewer<'_>) {
    let one = format!("{CORE}/nodes?fieldSelector=metadata.name%3D{}", node.name());
    let watch = Watch::open(flannel, &format!("{one}&watch=true"));
    assert!(wait_until(LIMIT, || !watch.lines().is_empty()), "the node is told");
    for minute in 1..4 {
        beat(node, &format!("2026-01-01T00:0{minute}:00Z"));
    }
    cloud(node, &["label", "node", node.name(), "--overwrite", "eyot.io/beats=over"]);
    let is_over = || watch.lines().last().is_some_and(|line| line.contains(r#""eyot.io/beats":"over""#));
    assert!(wait_until(LIMIT, is_over), "the label is told");
    cloud(node, &["label", "node", node.name(), "eyot.io/beats-"]);
    let unversioned = |line: String| {
        let mut event: Value = serde_json::from_str(&line).expect("JSON");
        event["object"]["metadata"].as_object_mut().expect("metadata").remove("resourceVersion");
        event["object"].clone()
    };
    let told: Vec<Value> = watch.lines().into_iter().map(unversioned).collect();
    assert!(told.windows(2).all(|pair| pair[0] != pair[1]), "an event without news: {told:#?}");
}
