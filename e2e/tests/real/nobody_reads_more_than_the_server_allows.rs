//! Random requests from five principals and from strangers: through the hub nobody learns what the real API server
//! would not tell him, nothing reaches the cloud under another name, and strangers get 401. While cut off, too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use e2e::lab::{ClaimedNode, Lab, Nodes};
use http::StatusCode;
use proto_kube::list::split_list;
use proto_kube::media_type::{Encoding, Format};
use proto_kube::object::scan;
use proto_kube::watch::{EventType, WatchDecoder, read_error};
use rcgen::{CertificateParams, DnType, Issuer, KeyPair};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::client::{Answer, Client, ClientPair, Door, apply, audit, audit_end, kubeconfig, text, tls};
use super::random_request::{RandomRequest, Shape, draw};

/// How many requests are drawn; `EYOT_REQUESTS` says otherwise.
const REQUESTS: u64 = 100_000;
/// Which ones; `EYOT_SEED` says otherwise.
const SEED: u64 = 20_261_124;
/// Who asks in turn, by the order of `principals`: those who may read something more often. A stranger comes after them.
const CROWD: [usize; 12] = [1, 3, 0, 1, 2, 3, 1, 4, 1, 3, 2, 1];
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// Requests on their way at the same time.
const WORKERS: usize = 32;
/// How often two answers that differ are fetched again before they count as different: the hub may be a moment behind.
const SETTLE_ROUNDS: u32 = 40;
const SETTLE_LIMIT: Duration = Duration::from_secs(15);
const SETTLE_PAUSE: Duration = Duration::from_millis(250);
/// So many failures say enough; more would only take time.
const ENOUGH_FAILURES: usize = 40;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Somebody whom the API server knows, at the hub and beside it.
struct Principal {
    agent: String,
    user: String,
    hub: Client,
    direct: Client,
}

/// The rights that differ: a reader of one namespace who may see a single Secret in another.
fn world() -> Vec<Value> {
    let mut objects = vec![json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "widgets.random.eyot.test" },
        "spec": { "group": "random.eyot.test", "scope": "Namespaced",
            "names": { "plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList" },
            "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema":
                { "type": "object", "x-kubernetes-preserve-unknown-fields": true } } }] },
    })];
    for namespace in ["random-a", "random-b"] {
        objects.push(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } }));
    }
    for namespace in ["random-a", "random-b", "default"] {
        let meta = |name: &str, side: &str| json!({ "name": name, "namespace": namespace, "labels": { "side": side } });
        let canary = format!("canary-{namespace}");
        for (name, side) in [("public", "left"), ("private", "right")] {
            objects.push(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(name, side),
                "data": { "text": canary } }));
        }
        for (name, side) in [("sealed", "left"), ("mounted", "right")] {
            objects.push(json!({ "apiVersion": "v1", "kind": "Secret", "metadata": meta(name, side),
                "stringData": { "text": canary } }));
        }
        objects.push(json!({ "apiVersion": "v1", "kind": "Service", "metadata": meta("front", "left"),
            "spec": { "ports": [{ "port": 80 }] } }));
    }
    let account = json!({ "name": "reader", "namespace": "random-a" });
    let subject = json!([{ "kind": "ServiceAccount", "name": "reader", "namespace": "random-a" }]);
    let rbac = "rbac.authorization.k8s.io";
    let api = format!("{rbac}/v1");
    let reads = json!(["get", "list", "watch"]);
    objects.extend([
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": account }),
        json!({ "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": "nobody", "namespace": "random-b" } }),
    ]);
    let rules = [
        (
            "random-a",
            json!([{ "apiGroups": ["", "apps", "random.eyot.test"], "verbs": reads,
            "resources": ["configmaps", "pods", "services", "deployments", "widgets"] },
            { "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["sealed"], "verbs": ["get", "watch"] }]),
        ),
        (
            "random-b",
            json!([{ "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["public"],
            "verbs": reads },
            { "apiGroups": [""], "resources": ["secrets"], "verbs": ["list"] }]),
        ),
    ];
    for (namespace, rules) in rules {
        let metadata = json!({ "name": "reader", "namespace": namespace });
        objects.push(json!({ "apiVersion": api, "kind": "Role", "metadata": metadata, "rules": rules }));
        objects.push(json!({ "apiVersion": api, "kind": "RoleBinding", "metadata": metadata,
            "roleRef": { "apiGroup": rbac, "kind": "Role", "name": "reader" }, "subjects": subject }));
    }
    objects
}

/// Objects of the kind that `world` brings along, and a pod on the node that mounts a Secret.
fn late_world(node: &str) -> Vec<Value> {
    let mut objects: Vec<Value> = ["small", "large"]
        .iter()
        .map(|name| {
            json!({ "apiVersion": "random.eyot.test/v1", "kind": "Widget",
                "metadata": { "name": name, "namespace": "random-a" }, "spec": { "canary": "canary-random-a" } })
        })
        .collect();
    objects.push(json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "keeper", "namespace": "random-b" },
        "spec": { "nodeName": node, "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
            "tolerations": [{ "operator": "Exists" }],
            "containers": [{ "name": "main", "image": "eyot.io/lab/pod:1" }],
            "volumes": [{ "name": "s", "secret": { "secretName": "mounted" } }] } }));
    objects
}

fn kubectl(lab: &Lab, arguments: &[&str]) -> String {
    let output = lab.kubectl().expect("the lab has kubectl").args(arguments).output().expect("kubectl runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("kubectl speaks UTF-8")
}

fn principals(node: &ClaimedNode) -> Vec<Principal> {
    let (lab, name) = (node.lab(), node.name());
    let make = |short: &str, user: String, pair: Option<&ClientPair>, token: Option<String>| {
        let agent = format!("random-{name}/{short}");
        let header = token.map(|token| format!("Bearer {}", token.trim()));
        let tls = tls(lab, pair, "h2");
        let client = |door| Client::new(door, Arc::clone(&tls), header.as_deref(), &agent);
        Principal {
            hub: client(Door::hub(node)),
            direct: client(Door::api_server(lab)),
            agent: agent.clone(),
            user,
        }
    };
    let kubelet = ClientPair::of(&lab.node_file(name, "kubelet.kubeconfig"));
    let minted = |namespace: &str, account: &str| {
        Some(kubectl(lab, &["create", "token", "-n", namespace, account, "--duration=2h"]))
    };
    let pod = text(&kubeconfig(&lab.node_file(name, "pod.kubeconfig")), "/users/0/user/token");
    let admin = text(&kubeconfig(&lab.node_file(name, "admin.kubeconfig")), "/users/0/user/token");
    let account = |namespace: &str, account: &str| format!("system:serviceaccount:{namespace}:{account}");
    vec![
        make("kubelet", format!("system:node:{name}"), Some(&kubelet), None),
        make("admin", account("eyot-lab", "admin"), None, Some(admin)),
        make("pod", account("default", "eyot-lab-pod"), None, Some(pod)),
        make("reader", account("random-a", "reader"), None, minted("random-a", "reader")),
        make("nobody", account("random-b", "nobody"), None, minted("random-b", "nobody")),
    ]
}

/// A certificate that the API server itself would accept, but whose key this node does not hold.
fn foreign_pair(lab: &Lab, user: &str) -> ClientPair {
    let read =
        |name: &str| fs::read_to_string(lab.dir().join("pki").join(name)).expect("the lab's authority");
    let authority_key = KeyPair::from_pem(&read("ca.key")).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(&read("ca.crt"), authority_key).expect("an authority");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, user);
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, &issuer).expect("signed");
    ClientPair { certificate: certificate.pem().into_bytes(), key: key.serialize_pem().into_bytes() }
}

/// Those whom nobody knows.
fn strangers(node: &ClaimedNode) -> Vec<Client> {
    let (lab, name) = (node.lab(), node.name());
    let token = text(&kubeconfig(&lab.node_file(name, "admin.kubeconfig")), "/users/0/user/token");
    let (claims, signature) = token.rsplit_once('.').expect("a token has three parts");
    let turned: String = signature.chars().rev().collect();
    let unsigned = format!("Bearer {claims}.");
    let forged = format!("Bearer {claims}.{turned}");
    let foreign = foreign_pair(lab, "system:node:somebody-else");
    let client = |pair: Option<&ClientPair>, header: Option<&str>| {
        Client::new(Door::hub(node), tls(lab, pair, "h2"), header, &format!("random-{name}/stranger"))
    };
    vec![
        client(None, None),
        client(None, Some("Bearer nonsense")),
        client(None, Some(&forged)),
        client(None, Some(&unsigned)),
        client(None, Some("Basic YWRtaW46YWRtaW4=")),
        client(Some(&foreign), None),
    ]
}

/// The objects of a list, a Table or one object, by namespace and name. Of a row only the object counts: the age of a
/// thing changes while one looks.
fn by_name(value: Value) -> BTreeMap<String, Value> {
    let rows = |rows: &[Value]| rows.iter().filter_map(|row| row.get("object").cloned()).collect();
    let items: Vec<Value> = match (value.get("items"), value.get("rows")) {
        (Some(Value::Array(items)), _) => items.clone(),
        (_, Some(Value::Array(found))) => rows(found),
        (Some(Value::Null), _) | (_, Some(Value::Null)) => Vec::new(),
        _ => vec![value],
    };
    let key = |item: &Value| {
        let of = |field: &str| {
            item.pointer(&format!("/metadata/{field}")).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        format!("{}/{}", of("namespace"), of("name"))
    };
    items.into_iter().map(|item| (key(&item), item)).collect()
}

fn objects(answer: &Answer) -> Option<BTreeMap<String, Value>> {
    if answer.media_type() != PROTOBUF {
        return serde_json::from_slice(&answer.body).ok().map(by_name);
    }
    match split_list(Format::PROTOBUF, &answer.body) {
        Ok((_, items)) => items.iter().map(|item| opaque(item)).collect(),
        // One object.
        Err(_) => Some(BTreeMap::from([(String::new(), STANDARD.encode(&answer.body).into())])),
    }
}

/// An object in protobuf: its name, and its bytes as they are.
fn opaque(raw: &[u8]) -> Option<(String, Value)> {
    let key = scan(Format::PROTOBUF, raw).ok()?.key();
    Some((format!("{}/{}", key.namespace, key.name), STANDARD.encode(raw).into()))
}

fn folded_protobuf(answer: &Answer) -> Option<Result<BTreeMap<String, Value>, u64>> {
    let mut held = BTreeMap::new();
    let mut decoder = WatchDecoder::new(Format::PROTOBUF, answer.body.len());
    decoder.push(&answer.body);
    while let Some(event) = decoder.next().ok()? {
        match event.event_type {
            EventType::Bookmark => {}
            EventType::Error => {
                return Some(Err(read_error(Encoding::Protobuf, &event.raw).ok()?.code.into()));
            }
            EventType::Deleted => drop(held.remove(&opaque(&event.raw)?.0)),
            EventType::Added | EventType::Modified => held.extend([opaque(&event.raw)?]),
        }
    }
    Some(Ok(held))
}

/// The objects that a watch leaves its client with, or the code of its ERROR event.
fn folded(answer: &Answer) -> Option<Result<BTreeMap<String, Value>, u64>> {
    if answer.media_type() == PROTOBUF {
        return folded_protobuf(answer);
    }
    let mut held = BTreeMap::new();
    for line in answer.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let event: Value = serde_json::from_slice(line).ok()?;
        let object = event.get("object")?.clone();
        match event.get("type").and_then(Value::as_str)? {
            "BOOKMARK" => {}
            "ERROR" => return Some(Err(object.get("code").and_then(Value::as_u64).unwrap_or(0))),
            "DELETED" => by_name(object).keys().for_each(|key| drop(held.remove(key))),
            _ => held.extend(by_name(object)),
        }
    }
    Some(Ok(held))
}

/// How two answers to the same request compare.
#[derive(Debug, PartialEq)]
enum Verdict {
    Same,
    /// Not the same; the hub may be behind for a moment.
    Differs(String),
    /// The hub said what the server refuses. Nothing excuses that.
    Leak(String),
}

/// Kinds without namespaces have no field for it: the server says so, the hub finds nothing, which is true as well.
fn names_no_field(request: &RandomRequest, hub: &Answer, direct: &Answer) -> bool {
    let nothing = match request.shape {
        Shape::Watch => folded(hub) == Some(Ok(BTreeMap::new())),
        _ => objects(hub).is_some_and(|held| held.is_empty()),
    };
    direct.status == StatusCode::BAD_REQUEST
        && request.path.contains("fieldSelector=metadata.namespace")
        && nothing
}

fn compare(request: &RandomRequest, hub: &Answer, direct: &Answer) -> Verdict {
    if hub.status.is_success() && !direct.status.is_success() {
        if names_no_field(request, hub, direct) {
            return Verdict::Same;
        }
        let told = format!("the hub answered {} where the server says {}", hub.status, direct.status);
        let refused = matches!(direct.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        return if refused { Verdict::Leak(told) } else { Verdict::Differs(told) };
    }
    // The hub refuses a path that walks up or has an empty part before it asks who may; the server the other way round.
    let is_odd = ["/../", "%2e", "//"].iter().any(|part| request.path.contains(part));
    let refused = matches!(hub.status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND);
    if is_odd && refused && !direct.status.is_success() {
        return Verdict::Same;
    }
    if hub.status != direct.status {
        let body = String::from_utf8_lossy(&hub.body[..hub.body.len().min(300)]).into_owned();
        return Verdict::Differs(format!("{} instead of {}: {body}", hub.status, direct.status));
    }
    if !hub.status.is_success() || request.shape == Shape::Other || request.impersonates() {
        return Verdict::Same;
    }
    if hub.media_type() != direct.media_type() {
        return Verdict::Differs(format!("{} instead of {}", hub.media_type(), direct.media_type()));
    }
    let same = match request.shape {
        Shape::Watch => match (folded(hub), folded(direct)) {
            // The hub remembers longer than the server: it resumes a watch where the server has forgotten.
            (Some(Ok(_)), Some(Err(410))) => true,
            // Since a version of long ago: whoever keeps less history shows fewer steps of it, or sends to list anew.
            (Some(Ok(_) | Err(410)), Some(Ok(_))) if request.query("resourceVersion") == Some("1") => true,
            (hub, direct) => hub == direct,
        },
        _ => match (objects(hub), objects(direct)) {
            // A page of the server may be a whole list of the hub's.
            (Some(hub), Some(direct)) if request.query("limit") == Some("1") => {
                direct.iter().all(|(key, value)| hub.get(key) == Some(value))
            }
            (hub, direct) => hub == direct,
        },
    };
    if same { Verdict::Same } else { Verdict::Differs("the bodies differ".to_owned()) }
}

/// Everything the workers share.
struct Run {
    principals: Vec<Principal>,
    strangers: Vec<Client>,
    seed: u64,
    requests: u64,
    next: AtomicU64,
    /// What the server said before: the world of the test stands still, so the same question has the same answer.
    said: Mutex<BTreeMap<(usize, RandomRequest), Arc<Answer>>>,
    settled: AtomicUsize,
    answered_while_cut: AtomicUsize,
    statuses: Mutex<BTreeMap<u16, usize>>,
    failures: Mutex<Vec<String>>,
}

impl Run {
    fn new(node: &ClaimedNode) -> Arc<Self> {
        Arc::new(Run {
            principals: principals(node),
            strangers: strangers(node),
            seed: setting("EYOT_SEED", SEED),
            requests: setting("EYOT_REQUESTS", REQUESTS),
            next: AtomicU64::new(0),
            said: Mutex::default(),
            settled: AtomicUsize::new(0),
            answered_while_cut: AtomicUsize::new(0),
            statuses: Mutex::default(),
            failures: Mutex::default(),
        })
    }

    async fn fail(&self, number: u64, who: &str, request: &RandomRequest, why: &str) {
        let RandomRequest { method, path, headers, .. } = request;
        let failure = format!("#{number} {who}: {method} {path} {headers:?}: {why}");
        eprintln!("{failure}");
        self.failures.lock().await.push(failure);
    }

    async fn hub(&self, who: &Client, request: &RandomRequest) -> Result<Answer, String> {
        let answer = who.send(request.method, &request.path, &request.headers, request.body).await;
        let answer = answer.map_err(|error| format!("no answer of the hub: {error}"))?;
        *self.statuses.lock().await.entry(answer.status.as_u16()).or_default() += 1;
        Ok(answer)
    }

    async fn direct(&self, who: usize, request: &RandomRequest, anew: bool) -> Result<Arc<Answer>, String> {
        let key = (who, request.clone());
        if !anew && let Some(answer) = self.said.lock().await.get(&key) {
            return Ok(Arc::clone(answer));
        }
        let direct = &self.principals[who].direct;
        let answer = direct.send(request.method, &request.path, &request.headers, request.body).await;
        let answer = Arc::new(answer.map_err(|error| format!("no answer of the server: {error}"))?);
        self.said.lock().await.insert(key, Arc::clone(&answer));
        Ok(answer)
    }

    /// Asks both; a difference has to go away within a bounded number of rounds.
    async fn check_online(&self, who: usize, request: &RandomRequest) -> Result<(), String> {
        let principal = &self.principals[who];
        let mut last = String::new();
        let started = Instant::now();
        for round in 0..=SETTLE_ROUNDS {
            if round > 0 {
                if started.elapsed() > SETTLE_LIMIT {
                    break;
                }
                self.settled.fetch_add(usize::from(round == 1), Ordering::Relaxed);
                tokio::time::sleep(SETTLE_PAUSE).await;
            }
            let hub = self.hub(&principal.hub, request).await?;
            let direct = self.direct(who, request, round > 0).await?;
            match compare(request, &hub, &direct) {
                Verdict::Same => return Ok(()),
                Verdict::Leak(why) => return Err(why),
                Verdict::Differs(why) => last = why,
            }
        }
        Err(format!("{last}, also {:?} later", started.elapsed()))
    }

    /// While cut the hub may know less than the server, never more.
    async fn check_cut(&self, who: usize, request: &RandomRequest) -> Result<(), String> {
        let hub = self.hub(&self.principals[who].hub, request).await?;
        if !hub.status.is_success() {
            return Ok(());
        }
        self.answered_while_cut.fetch_add(1, Ordering::Relaxed);
        let direct = self.direct(who, request, false).await?;
        if names_no_field(request, &hub, &direct) {
            return Ok(());
        }
        if !direct.status.is_success() {
            return Err(format!("answered while cut, but the server says {}", direct.status));
        }
        let (told, allowed) = match request.shape {
            Shape::Other => return Ok(()),
            Shape::Watch => {
                let plain =
                    RandomRequest { shape: Shape::List, path: request.plain_list(), ..request.clone() };
                let list = self.direct(who, &plain, false).await?;
                // Who may watch but not list is compared by the watch itself.
                let allowed = if list.status.is_success() {
                    objects(&list)
                } else {
                    folded(&direct).and_then(Result::ok)
                };
                (folded(&hub).and_then(Result::ok), allowed)
            }
            // The hub has no pages: what may be read is the whole list.
            Shape::List if request.query("limit").is_some() => {
                let whole = RandomRequest { path: request.plain_list(), ..request.clone() };
                (objects(&hub), objects(&*self.direct(who, &whole, false).await?))
            }
            _ => (objects(&hub), objects(&direct)),
        };
        let (Some(told), Some(allowed)) = (told, allowed) else { return Ok(()) };
        let extra: BTreeSet<_> = told.keys().filter(|key| !allowed.contains_key(*key)).collect();
        if extra.is_empty() {
            Ok(())
        } else {
            Err(format!("told of {extra:?}, which the server does not show"))
        }
    }

    async fn one(&self, number: u64, cut: bool) {
        let request = draw(self.seed, number);
        let crowd = CROWD.len() + 1;
        let turn = usize::try_from(number).expect("64 bits") % crowd;
        if turn == crowd - 1 {
            let stranger =
                &self.strangers[usize::try_from(number).expect("64 bits") / crowd % self.strangers.len()];
            let outcome = match self.hub(stranger, &request).await {
                Ok(answer) if answer.status == StatusCode::UNAUTHORIZED => Ok(()),
                // While cut nobody can be asked about a token that was never seen.
                Ok(answer) if cut && answer.status == StatusCode::SERVICE_UNAVAILABLE => Ok(()),
                Ok(answer) => Err(format!("a stranger got {}", answer.status)),
                Err(error) => Err(error),
            };
            if let Err(why) = outcome {
                self.fail(number, "stranger", &request, &why).await;
            }
            return;
        }
        let who = CROWD[turn];
        let outcome =
            if cut { self.check_cut(who, &request).await } else { self.check_online(who, &request).await };
        if let Err(why) = outcome {
            self.fail(number, &self.principals[who].agent, &request, &why).await;
        }
    }

    async fn all(self: &Arc<Self>, until: u64, cut: bool) {
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| {
                let run = Arc::clone(self);
                tokio::spawn(async move {
                    loop {
                        let number = run.next.fetch_add(1, Ordering::Relaxed);
                        if number >= until || run.failures.lock().await.len() >= ENOUGH_FAILURES {
                            return;
                        }
                        run.one(number, cut).await;
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.await.expect("a worker does not panic");
        }
        self.next.store(until, Ordering::Relaxed);
    }

    async fn report(&self, what: &str, started: Instant) {
        let statuses = std::mem::take(&mut *self.statuses.lock().await);
        let asked: usize = statuses.values().sum();
        let seconds = started.elapsed().as_secs_f64();
        eprintln!("{what}: {asked} requests to the hub in {seconds:.0} s; answers by status: {statuses:?}");
        let failures = std::mem::take(&mut *self.failures.lock().await);
        let shown = failures.iter().take(ENOUGH_FAILURES).map(String::as_str).collect::<Vec<_>>().join("\n");
        assert!(failures.is_empty(), "{what}: {} of {asked} went wrong:\n{shown}", failures.len());
    }
}

/// By the server's own word: whoever asked is whom he was taken for.
fn check_audit(node: &ClaimedNode, run: &Run, from: u64) {
    let status = node.lab().status().expect("the lab stands");
    let this = status.nodes.iter().find(|known| known.name == node.name()).expect("it was claimed");
    let (address, mut through_hub) = (this.address.to_string(), 0_usize);
    for asked in audit(node.lab(), from) {
        let what = || format!("{} {} as {} ({})", asked.verb, asked.uri, asked.user, asked.agent);
        assert!(!asked.agent.ends_with("/stranger"), "a stranger reached the cloud: {}", what());
        let Some(principal) = run.principals.iter().find(|principal| principal.agent == asked.agent) else {
            continue;
        };
        assert_eq!(asked.user, principal.user, "{}", what());
        if asked.source == address {
            through_hub += 1;
        }
        let wished = ["system:admin", "system:serviceaccount:random-a:reader"];
        assert!(asked.impersonated.as_deref().is_none_or(|user| wished.contains(&user)), "{}", what());
    }
    eprintln!("the audit log: {through_hub} requests came through the hub, each as its own client");
    assert!(through_hub > 0, "the audit log knows the clients by their user agents");
}

#[test]
fn nobody_reads_more_than_the_server_allows() {
    let name = "nobody_reads_more_than_the_server_allows";
    let Some(node) = ClaimedNode::claim(name, env!("CARGO_BIN_EXE_eyot"), false) else { return };
    let lab = node.lab();
    apply(lab, &world());
    kubectl(lab, &["wait", "--for=condition=established", "crd/widgets.random.eyot.test", "--timeout=60s"]);
    kubectl(lab, &["wait", "--for=create", "sa/default", "-n", "random-b", "--timeout=60s"]);
    apply(lab, &late_world(node.name()));
    let from = audit_end(lab);
    let run = Run::new(&node);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");

    let started = Instant::now();
    runtime.block_on(run.all(run.requests, false));
    let (asked, settled) = (runtime.block_on(run.said.lock()).len(), run.settled.load(Ordering::Relaxed));
    eprintln!("{asked} different questions to the server; {settled} answers were a moment behind it");
    runtime.block_on(run.report("online", started));
    check_audit(&node, &run, from);

    lab.cut(&Nodes::One(node.name().to_owned())).expect("cut");
    let started = Instant::now();
    // The same requests again: what was asked before the cut is what the hub may know.
    run.next.store(0, Ordering::Relaxed);
    runtime.block_on(run.all((run.requests / 10).max(1), true));
    let answered = run.answered_while_cut.load(Ordering::Relaxed);
    eprintln!("while cut {answered} requests were answered from the store");
    runtime.block_on(run.report("while cut", started));
    assert!(answered > 0, "a hub that answers nothing proves nothing");
}
