//! An unmodified kubectl through the hub: everything while the cloud is there; while it is not, what the node knows,
//! marked as such, and an honest refusal of the rest; and after the heal as if nothing had been.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use e2e::lab::{ClaimedNode, NodePart, Nodes, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::{audit, audit_end};

/// Turns a hang into a failure.
const LIMIT: Duration = Duration::from_secs(60);
/// A cut is seen within 3 s; a request that was on its way then is answered from the store right after. Three times that.
const NOTICED_WITHIN: Duration = Duration::from_secs(9);

/// One user's kubectl on the node.
struct Kubectl<'a> {
    node: &'a ClaimedNode,
    file: &'static str,
}

fn utf8(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Kubectl<'_> {
    fn run(&self, arguments: &[&str], stdin: &str) -> Output {
        let mut kubectl =
            self.node.lab().node_kubectl(self.node.name(), self.file).expect("the lab has kubectl");
        kubectl.args(arguments).arg("--request-timeout=60s");
        let mut child = kubectl
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        // A kubectl that reads no stdin may have ended already.
        let _ = child.stdin.take().expect("it is piped").write_all(stdin.as_bytes());
        child.wait_with_output().expect("kubectl ends")
    }

    /// What it prints; it must succeed.
    fn ok(&self, words: &str) -> String {
        self.ok_with(words, "")
    }

    fn ok_with(&self, words: &str, stdin: &str) -> String {
        let output = self.run(&words.split(' ').collect::<Vec<_>>(), stdin);
        assert!(output.status.success(), "{} {words}: {}", self.file, utf8(&output.stderr));
        utf8(&output.stdout)
    }

    /// What it complains about; it must fail.
    fn fails(&self, words: &str, stdin: &str) -> String {
        let output = self.run(&words.split(' ').collect::<Vec<_>>(), stdin);
        assert!(!output.status.success(), "{} {words}: {}", self.file, utf8(&output.stdout));
        utf8(&output.stderr)
    }

    /// What it prints while cut: it must succeed and say how old the answer is.
    fn stale(&self, words: &str) -> String {
        let output = self.run(&words.split(' ').collect::<Vec<_>>(), "");
        let complaint = utf8(&output.stderr);
        assert!(output.status.success(), "{} {words}: {complaint}", self.file);
        assert!(complaint.contains("Warning: cut off from the cloud"), "{} {words}: {complaint}", self.file);
        utf8(&output.stdout)
    }

    /// A write while cut: refused at once, in words that are true, without a second try.
    fn refused_write(&self, words: &str, stdin: &str) {
        let started = Instant::now();
        let complaint = self.fails(&format!("{words} -v=6"), stdin);
        let writes = ["verb=\"POST\"", "verb=\"PATCH\"", "verb=\"PUT\"", "verb=\"DELETE\""];
        let is_write =
            |line: &&str| line.contains("Response") && writes.iter().any(|verb| line.contains(verb));
        let tries = complaint.lines().filter(is_write).count();
        eprintln!("while cut: `{words}` was refused after {:?}, {tries} writes sent", started.elapsed());
        assert!(complaint.contains("cut off"), "{words}: {complaint}");
        assert!(tries <= 1, "{words}: tried {tries} times: {complaint}");
    }

    fn watch(&self, words: &str) -> Watcher {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out");
        let output = File::create(&path).expect("a file");
        let mut kubectl =
            self.node.lab().node_kubectl(self.node.name(), self.file).expect("the lab has kubectl");
        kubectl
            .args(words.split(' '))
            .stdin(Stdio::null())
            .stderr(output.try_clone().expect("a file"))
            .stdout(output);
        Watcher { child: kubectl.spawn().expect("kubectl starts"), path, _folder: folder }
    }
}

/// A `kubectl get -w` that runs on.
struct Watcher {
    child: Child,
    path: PathBuf,
    _folder: TempDir,
}

impl Watcher {
    fn sees(&mut self, what: &str) {
        let seen = || fs::read_to_string(&self.path).is_ok_and(|text| text.contains(what));
        let found = wait_until(LIMIT, seen);
        assert!(found, "no {what:?} in: {}", fs::read_to_string(&self.path).unwrap_or_default());
        assert!(self.child.try_wait().expect("it is ours").is_none(), "the watch goes on after {what:?}");
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config_map(name: &str, value: &str) -> String {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": "default" },
            "data": { "value": value } })
    .to_string()
}

/// A kind of the test's own, one for each node: tests run side by side.
fn custom_kind(node: &str) -> (String, String) {
    let group = format!("{node}.eyot.test");
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("lamps.{group}") },
        "spec": { "group": group, "scope": "Namespaced",
            "names": { "plural": "lamps", "singular": "lamp", "kind": "Lamp", "listKind": "LampList" },
            "versions": [{ "name": "v1", "served": true, "storage": true,
                "additionalPrinterColumns":
                    [{ "name": "Watts", "type": "integer", "jsonPath": ".spec.watts" }],
                "schema": { "openAPIV3Schema": { "type": "object", "properties": { "spec":
                    { "type": "object", "properties": { "watts": { "type": "integer" } } } } } } }] },
    });
    (group, definition.to_string())
}

fn lamp(group: &str, watts: u32) -> String {
    json!({ "apiVersion": format!("{group}/v1"), "kind": "Lamp",
            "metadata": { "name": "desk", "namespace": "default" }, "spec": { "watts": watts } })
    .to_string()
}

fn holds(text: &str, what: &[&str]) {
    for word in what {
        assert!(text.contains(word), "no {word:?} in: {text}");
    }
}

#[test]
fn kubectl_works_through_the_hub() {
    let test = "kubectl_works_through_the_hub";
    let Some(node) = ClaimedNode::claim(test, env!("CARGO_BIN_EXE_eyot"), false) else { return };
    let [admin, pod, kubelet] = ["admin.kubeconfig", "pod.kubeconfig", "kubelet.kubeconfig"]
        .map(|file| Kubectl { node: &node, file });
    let name = node.name();
    for client in [&admin, &pod] {
        read_and_write(client, &format!("{name}-{}", client.file));
    }
    reads_of_each_user(&admin, &pod, &kubelet, name);
    custom_resources(&admin, name);
}

fn read_and_write(client: &Kubectl<'_>, map: &str) {
    client.ok(&format!("delete configmap {map} --ignore-not-found"));
    client.ok_with("create -f -", &config_map(map, "created"));
    holds(&client.ok(&format!("get configmap {map}")), &["NAME", "DATA", "AGE", map]);
    holds(&client.ok("get configmaps -o wide"), &["NAME", "DATA", map]);
    holds(&client.ok(&format!("get configmap {map} -o yaml")), &["kind: ConfigMap", "value: created"]);
    let read = || -> Value {
        serde_json::from_str(&client.ok(&format!("get configmap {map} -o json"))).expect("it is JSON")
    };
    assert_eq!(read()["data"], json!({ "value": "created" }));
    holds(&client.ok(&format!("describe configmap {map}")), &["Name:", map, "created"]);

    let mut watch = client.watch(&format!("get configmap {map} -w -o jsonpath={{.data.value}};"));
    watch.sees("created;");
    client.ok_with("apply -f -", &config_map(map, "applied"));
    watch.sees("applied;");
    client.ok_with("apply --server-side --force-conflicts -f -", &config_map(map, "server-side"));
    watch.sees("server-side;");
    client.ok(&format!("patch configmap {map} -p {{\"data\":{{\"value\":\"strategic\"}}}}"));
    client.ok(&format!("patch configmap {map} --type=merge -p {{\"data\":{{\"value\":\"merged\"}}}}"));
    watch.sees("merged;");
    let json_patch = r#"[{"op":"add","path":"/data/more","value":"x"}]"#;
    client.ok(&format!("patch configmap {map} --type=json -p {json_patch}"));
    assert_eq!(read()["data"], json!({ "value": "merged", "more": "x" }));
    client.ok(&format!("label configmap {map} colour=green"));
    holds(&client.ok("get configmaps -l colour=green"), &[map]);
    client.ok(&format!("wait --for=jsonpath={{.data.more}}=x configmap/{map} --timeout=30s"));
    client.ok(&format!("delete configmap {map}"));
    client.ok(&format!("wait --for=delete configmap/{map} --timeout=30s"));
    holds(&client.fails(&format!("get configmap {map}"), ""), &["NotFound"]);
}

fn reads_of_each_user(admin: &Kubectl<'_>, pod: &Kubectl<'_>, kubelet: &Kubectl<'_>, name: &str) {
    assert_eq!(admin.ok("auth can-i list secrets -A"), "yes\n");
    assert_eq!(utf8(&pod.run(&["auth", "can-i", "list", "secrets"], "").stdout), "no\n");
    holds(&pod.fails("get secrets", ""), &["Forbidden", "eyot-lab-pod"]);
    holds(&kubelet.fails("get pods", ""), &["Forbidden"]);
    holds(&kubelet.ok(&format!("get node {name} -o wide")), &["NAME", name]);
    let own = format!("get pods -A --field-selector spec.nodeName={name}");
    holds(&kubelet.ok(&own), &[&format!("eyot-lab-{name}")]);
    holds(&admin.ok("get nodes"), &["node-1", "node-2"]);
    holds(&admin.ok(&format!("describe node {name}")), &["Name:", name, "Non-terminated Pods:"]);
    for client in [admin, pod] {
        holds(&client.ok("get pods,services"), &[&format!("eyot-lab-{name}"), "kubernetes"]);
        holds(&client.ok("api-resources"), &["configmaps", "deployments"]);
        holds(&client.ok("explain pod.spec.nodeName"), &["nodeName"]);
        holds(&client.ok("get --raw /version"), &["gitVersion"]);
    }
    // There is no kubelet behind this node: the server's own words come through, upgrades among them.
    let pod_name = format!("eyot-lab-{name}");
    holds(&admin.fails(&format!("logs {pod_name}"), ""), &["no preferred addresses found"]);
    holds(&admin.fails(&format!("exec {pod_name} -- true"), ""), &["no preferred addresses found"]);
}

fn custom_resources(admin: &Kubectl<'_>, name: &str) {
    let (group, definition) = custom_kind(name);
    admin.ok_with("apply -f -", &definition);
    admin.ok(&format!("wait --for=condition=established crd/lamps.{group} --timeout=60s"));
    admin.ok_with("apply -f -", &lamp(&group, 40));
    let mut watch = admin.watch(&format!("get lamps.{group} -w"));
    watch.sees("40");
    admin.ok_with("apply --server-side --force-conflicts -f -", &lamp(&group, 60));
    watch.sees("60");
    holds(&admin.ok(&format!("get lamps.{group}")), &["NAME", "WATTS", "desk", "60"]);
    holds(&admin.ok(&format!("describe lamp.{group} desk")), &["Kind:", "Lamp", "60"]);
    holds(&admin.ok(&format!("get lamp.{group} desk -o yaml")), &["watts: 60"]);
    admin.ok(&format!("delete crd lamps.{group}"));
}

#[test]
fn kubectl_is_answered_while_cut_and_its_watch_outlives_the_cut() {
    let test = "kubectl_is_answered_while_cut_and_its_watch_outlives_the_cut";
    let Some(node) = ClaimedNode::claim(test, env!("CARGO_BIN_EXE_eyot"), false) else { return };
    let [admin, pod] = ["admin.kubeconfig", "pod.kubeconfig"].map(|file| Kubectl { node: &node, file });
    let (lab, name) = (node.lab(), node.name());
    let this = Nodes::One(name.to_owned());
    let maps = [format!("{name}-kept"), format!("{name}-gone"), format!("{name}-new")];
    let [kept, gone, new] = &maps;
    let (group, definition) = custom_kind(name);
    admin.ok(&format!("delete configmap {kept} {gone} {new} --ignore-not-found"));
    admin.ok_with("apply -f -", &definition);
    admin.ok(&format!("wait --for=condition=established crd/lamps.{group} --timeout=60s"));
    admin.ok_with("apply -f -", &lamp(&group, 40));
    for map in [kept, gone] {
        pod.ok_with("create -f -", &config_map(map, "before"));
    }
    // What is read while the cloud is there is what the node knows later.
    let reads: Vec<(&Kubectl<'_>, String, String)> = vec![
        (&pod, "get configmaps".to_owned(), kept.clone()),
        (&pod, format!("get configmap {kept} -o yaml"), "value: before".to_owned()),
        (&pod, "get configmaps -o yaml".to_owned(), "value: before".to_owned()),
        (&pod, "get pods".to_owned(), format!("eyot-lab-{name}")),
        (&pod, format!("describe pod eyot-lab-{name}"), format!("eyot-lab-{name}")),
        (&pod, format!("describe configmap {kept}"), "before".to_owned()),
        (&admin, "get nodes -o wide".to_owned(), name.to_owned()),
        (&admin, format!("describe node {name}"), "Non-terminated Pods:".to_owned()),
        (&admin, format!("get lamps.{group}"), "40".to_owned()),
        (&admin, format!("describe lamp.{group} desk"), "Watts:".to_owned()),
        (&admin, "get pods -A".to_owned(), format!("eyot-lab-{name}")),
    ];
    for (client, words, expected) in &reads {
        holds(&client.ok(words), &[expected]);
    }
    let columns = "custom-columns=N:.metadata.name,V:.data.value";
    let mut watch = pod.watch(&format!("get configmaps -w -o {columns}"));
    watch.sees(kept);

    lab.cut(&this).expect("cut");
    let noticed = Instant::now();
    let warned = || utf8(&pod.run(&["get", "configmaps"], "").stderr).contains("Warning: cut off");
    assert!(wait_until(LIMIT, warned), "the hub notices the cut");
    let noticed = noticed.elapsed();
    eprintln!("kubectl was warned {noticed:?} after the cut");
    assert!(noticed < NOTICED_WITHIN, "a request in flight hung for {noticed:?}");
    for (client, words, expected) in &reads {
        holds(&client.stale(words), &[expected]);
    }
    refusals(&admin, &pod, kept, &group);
    lab.restart(name, NodePart::Hub).expect("a hub with a store is ready while cut");
    for (client, words, expected) in &reads {
        holds(&client.stale(words), &[expected]);
    }
    let mut second = pod.watch(&format!("get configmaps -w -o {columns}"));
    second.sees(kept);
    refusals(&admin, &pod, kept, &group);
    heal_and_follow(&node, &maps, &mut second);
    drop(watch);
    for (client, words, expected) in &reads {
        holds(&client.ok(words), &[expected.replace("before", "after").as_str()]);
    }
    pod.ok(&format!("delete configmap {kept} {new}"));
    admin.ok(&format!("delete crd lamps.{group}"));
}

fn refusals(admin: &Kubectl<'_>, pod: &Kubectl<'_>, map: &str, group: &str) {
    pod.refused_write("create -f -", &config_map("written-while-cut", "x"));
    pod.refused_write(&format!("patch configmap {map} --type=merge -p {{\"data\":{{\"value\":\"x\"}}}}"), "");
    pod.refused_write(&format!("delete configmap {map}"), "");
    pod.refused_write(&format!("label configmap {map} colour=red"), "");
    admin.refused_write("apply -f -", &lamp(group, 80));
    admin.refused_write("apply --server-side -f -", &lamp(group, 80));
    // The server refused this before, or it was never asked: either way no Secret is shown.
    pod.fails("get secret mounted --request-timeout=10s", "");
}

/// What happened in the cloud during the cut comes as events to a watch that was opened before the heal, and the
/// client lists nothing.
fn heal_and_follow(node: &ClaimedNode, [kept, gone, new]: &[String; 3], watch: &mut Watcher) {
    let (lab, name) = (node.lab(), node.name());
    let cloud = |words: &str| {
        let output = lab.kubectl().expect("kubectl").args(words.split(' ')).output().expect("kubectl runs");
        assert!(output.status.success(), "{words}: {}", utf8(&output.stderr));
    };
    cloud(&format!("patch configmap {kept} --type=merge -p {{\"data\":{{\"value\":\"after\"}}}}"));
    cloud(&format!("delete configmap {gone}"));
    cloud(&format!("create configmap {new} --from-literal=value=fresh"));
    let from = audit_end(lab);
    lab.heal(&Nodes::One(name.to_owned())).expect("healed");
    let started = Instant::now();
    watch.sees("after");
    watch.sees("fresh");
    eprintln!("what changed during the cut reached the watch {:?} after the heal", started.elapsed());
    cloud(&format!("patch configmap {new} --type=merge -p {{\"data\":{{\"value\":\"later\"}}}}"));
    watch.sees("later");
    let status = lab.status().expect("the lab stands");
    let this =
        status.nodes.iter().find(|known| known.name == name).expect("it was claimed").address.to_string();
    let lists = audit(lab, from)
        .into_iter()
        .filter(|asked| asked.source == this && asked.agent.starts_with("kubectl") && asked.verb == "list");
    assert_eq!(
        lists.map(|asked| asked.uri).collect::<Vec<_>>(),
        Vec::<String>::new(),
        "the client listed nothing"
    );
}
