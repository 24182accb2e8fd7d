//! A cloud, a node's hub in front of it, and clients that behave like informers.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use e2e::cloud::client::{Client, WatchStream};
use e2e::cloud::model::{Gvr, RequestRecord, Rule};
use e2e::cloud::pki::{Authority, Identity};
use e2e::cloud::{CloudControl, LinkState};
use edge_hub::clock::Clock;
use edge_hub::config::Config;
use http::header::USER_AGENT;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use proto_daemon::shutdown::Shutdown;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// What tests' clients call themselves; the hub's own requests carry another name.
pub(crate) const CLIENT: &str = "test-client";
pub(crate) const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub(crate) const POD_USER: &str = "system:serviceaccount:default:reader";
pub(crate) const NODE_USER: &str = "system:node:n1";

static HUBS: AtomicU8 = AtomicU8::new(0);

/// Nothing here waits on time; the bound only turns a hang into a failure.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(120), test).await.expect("the test hangs");
    });
}

struct RunningHub {
    thread: JoinHandle<()>,
    shutdown: Shutdown,
    kill: oneshot::Sender<()>,
}

pub(crate) struct Rig {
    pub(crate) cloud: CloudControl,
    pub(crate) authority: Authority,
    pub(crate) node: Identity,
    pub(crate) folder: TempDir,
    pub(crate) servers: Vec<SocketAddr>,
    pub(crate) hub_address: SocketAddr,
    hub: Option<RunningHub>,
    protocol: &'static str,
    filters: Value,
    limits: Value,
    has_own_authority: bool,
    hub_for_pods: Option<SocketAddr>,
    idle_watch: Option<Duration>,
}

impl Rig {
    /// A cloud with node n1, a pod on it whose ServiceAccount may read ConfigMaps, and ConfigMaps a and b.
    pub(crate) fn new() -> Self {
        // Ignored when another test of this process was first: the provider is the same.
        proto_daemon::tls::install_provider();
        let authority = Authority::new("test").expect("an authority");
        let cloud = CloudControl::start(&authority, &["127.0.0.1"]).expect("a cloud");
        for object in [
            ("nodes", json!({"metadata": {"name": "n1"}})),
            ("serviceaccounts", json!({"metadata": {"name": "reader", "namespace": "default"}})),
            (
                "pods",
                json!({"metadata": {"name": "p", "namespace": "default"},
                "spec": {"nodeName": "n1", "serviceAccountName": "reader"}}),
            ),
        ] {
            cloud.create(&Gvr::core(object.0), object.1).expect("the name is free");
        }
        cloud
            .allow(Rule::allow(POD_USER, &["get", "list", "watch"], &["configmaps"]).in_namespace("default"));
        let node = authority.node("n1").expect("a certificate");
        let folder = tempfile::tempdir().expect("a folder");
        let mut rig = Self {
            cloud,
            authority,
            node,
            folder,
            servers: Vec::new(),
            hub_address: own_address(),
            hub: None,
            protocol: "list",
            filters: json!({}),
            limits: json!({}),
            has_own_authority: false,
            hub_for_pods: None,
            idle_watch: None,
        };
        rig.put("a", "1");
        rig.put("b", "1");
        rig.add_server(0);
        rig
    }

    /// One more API server that shows this replica's state.
    pub(crate) fn add_server(&mut self, replica: usize) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        self.servers.push(self.cloud.listen(listener, replica).expect("a listener"));
    }

    /// The hub will fetch collections by WatchList.
    pub(crate) fn use_watch_list(&mut self) {
        self.protocol = "watchList";
    }

    /// What the hub's configuration says of filters.
    pub(crate) fn set_filters(&mut self, filters: Value) {
        self.filters = filters;
    }

    /// What the hub's configuration says of limits.
    pub(crate) fn set_limits(&mut self, limits: Value) {
        self.limits = limits;
    }

    /// The hub's certificate is of its own authority, not of the cluster's.
    pub(crate) fn use_own_authority(&mut self) {
        self.has_own_authority = true;
    }

    /// The certificate of the hub's own authority.
    pub(crate) fn own_authority(&self) -> String {
        std::fs::read_to_string(self.own_authority_path()).expect("the hub made it")
    }

    fn own_authority_path(&self) -> std::path::PathBuf {
        self.folder.path().join("state/pki/ca.crt")
    }

    fn roots_of_hub(&self) -> Arc<rustls::RootCertStore> {
        match self.has_own_authority {
            true => {
                let own = proto_daemon::tls::load_roots(&self.own_authority_path());
                Arc::new(own.expect("the hub's authority"))
            }
            false => self.authority.roots().expect("roots"),
        }
    }

    /// Pods are told to reach the hub at this address. Nobody listens there: it is only written into objects.
    pub(crate) fn lead_pods_to(&mut self, address: &str) {
        self.hub_for_pods = Some(address.parse().expect("an address"));
    }

    /// Watches that nobody needs end this soon, which no operator may ask for.
    pub(crate) fn end_idle_watches_after(&mut self, idle: Duration) {
        self.idle_watch = Some(idle);
    }

    /// Create or change a ConfigMap in the cloud.
    pub(crate) fn put(&self, name: &str, value: &str) {
        let gvr = Gvr::core("configmaps");
        if self.cloud.merge(&gvr, "default", name, &json!({"data": {"v": value}})).is_err() {
            let object = json!({"metadata": {"name": name, "namespace": "default"}, "data": {"v": value}});
            self.cloud.create(&gvr, object).expect("the name is free");
        }
    }

    pub(crate) fn remove(&self, name: &str) {
        self.cloud.delete(&Gvr::core("configmaps"), "default", name).expect("it exists");
    }

    fn configuration(&self) -> Config {
        let folder = self.folder.path();
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("a file");
        let serving = self.authority.server(&[&self.hub_address.ip().to_string()]).expect("a certificate");
        for (name, text) in [
            ("ca.pem", &self.authority.pem()),
            ("node.pem", &self.node.certificate_pem),
            ("node.key", &self.node.key_pem),
            ("serving.pem", &serving.certificate_pem),
            ("serving.key", &serving.key_pem),
        ] {
            write(name, text);
        }
        let servers: Vec<String> = self.servers.iter().map(|s| format!("https://{s}")).collect();
        let at = |name: &str| folder.join(name);
        let mut text = json!({
            "nodeName": "n1", "listen": [self.hub_address], "apiServers": servers, "apiServerCA": at("ca.pem"),
            "credential": {"certificate": at("node.pem"), "key": at("node.key")},
            "serving": {"certificate": at("serving.pem"), "key": at("serving.key")},
            "stateDirectory": at("state"), "adminSocket": at("admin.sock"), "upstreamProtocol": self.protocol,
            "filters": self.filters, "limits": self.limits,
        });
        if self.has_own_authority {
            text["serving"] = Value::Null;
        }
        write("hub.yaml", &text.to_string());
        let mut config = Config::load(Path::new(&folder.join("hub.yaml"))).expect("good settings");
        // A test without root has loopback only, which is refused as an address for pods.
        config.file.filters.hub_address = self.hub_for_pods;
        config.file.idle_watch = self.idle_watch.unwrap_or(config.file.idle_watch);
        config
    }

    /// Start the hub on its own thread and wait until it accepts connections.
    pub(crate) async fn start_hub(&mut self) {
        assert!(self.hub.is_none(), "the hub runs");
        let config = self.configuration();
        let shutdown = Shutdown::new(Duration::from_secs(10));
        let (kill, killed) = oneshot::channel();
        let drain = shutdown.clone();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    result = edge_hub::run::run(config, Clock::start(), drain) => result.expect("the hub starts"),
                    _ = killed => {}
                }
            });
        });
        self.hub = Some(RunningHub { thread, shutdown, kill });
        let address = self.hub_address;
        eventually(async || tokio::net::TcpStream::connect(address).await.ok()).await;
    }

    /// Stop the hub as SIGTERM does.
    pub(crate) async fn stop_hub(&mut self) {
        let hub = self.hub.take().expect("the hub runs");
        hub.shutdown.drain();
        join(hub.thread).await;
    }

    /// Stop the hub with all its tasks where they are.
    pub(crate) async fn kill_hub(&mut self) {
        let hub = self.hub.take().expect("the hub runs");
        // The receiver is there as long as the thread runs.
        let _ = hub.kill.send(());
        join(hub.thread).await;
    }

    /// Everything that the stopped hub kept is lost.
    pub(crate) fn lose_state(&self) {
        assert!(self.hub.is_none(), "the hub runs");
        std::fs::remove_dir_all(self.folder.path().join("state")).expect("it had a state");
    }

    /// Where the hub keeps what outlives it.
    pub(crate) fn state_folder(&self) -> std::path::PathBuf {
        self.folder.path().join("state")
    }

    /// Cut the way to every API server and wait until the hub says that it is cut off.
    pub(crate) async fn cut(&self, state: LinkState) {
        self.cloud.set_all_links(state).await;
        eventually(async || (self.status().await["link"]["connected"] == false).then_some(())).await;
    }

    /// Wait until the hub says that it has the cloud.
    pub(crate) async fn heal_seen(&self) {
        eventually(async || (self.status().await["link"]["connected"] == true).then_some(())).await;
    }

    /// What the hub tells its operator; null while its socket is not there.
    pub(crate) async fn status(&self) -> Value {
        match self.admin("/status").await {
            Some(body) => serde_json::from_slice(&body).expect("JSON"),
            None => Value::Null,
        }
    }

    /// What the hub counts.
    pub(crate) async fn metrics(&self) -> String {
        let body = self.admin("/metrics").await.expect("the hub runs");
        String::from_utf8(body.to_vec()).expect("text")
    }

    async fn admin(&self, path: &str) -> Option<Bytes> {
        let socket = tokio::net::UnixStream::connect(self.folder.path().join("admin.sock")).await.ok()?;
        let (mut sender, driver) =
            hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.expect("HTTP over the socket");
        tokio::spawn(driver);
        let request = http::Request::get(path).header("host", "hub").body(Empty::<Bytes>::new());
        let answer = sender.send_request(request.expect("a request")).await.expect("an answer");
        Some(answer.into_body().collect().await.expect("a body").to_bytes())
    }

    pub(crate) async fn heal(&self) {
        self.cloud.set_all_links(LinkState::Up).await;
    }

    pub(crate) fn client(&self, identity: Option<&Identity>) -> Client {
        let roots = self.roots_of_hub();
        Client::new(self.hub_address, &self.hub_address.ip().to_string(), roots, identity)
            .expect("a client")
            .with_header(USER_AGENT, CLIENT)
    }

    /// A client of the hub that expects its certificate to be for this name or address, and has no credential.
    pub(crate) fn nobody_at(&self, name: &str) -> Client {
        Client::new(self.hub_address, name, self.roots_of_hub(), None).expect("a client")
    }

    /// A client of the hub with the node's own certificate.
    pub(crate) fn kubelet(&self) -> Client {
        self.client(Some(&self.node))
    }

    /// A client of the hub with a certificate of this node or another, in force `days` from now; negative for the past.
    pub(crate) fn kubelet_in(&self, node: &str, begins: time::Duration) -> Client {
        self.client(Some(&self.authority.node_in(node, begins).expect("a certificate")))
    }

    /// A client of the hub with no credential.
    pub(crate) fn nobody(&self) -> Client {
        self.client(None)
    }

    /// A client of the hub with somebody else's certificate.
    pub(crate) fn stranger(&self) -> Client {
        self.client(Some(&self.authority.client("admin", "system:masters").expect("a certificate")))
    }

    /// A client of the hub with a real token of the pod's ServiceAccount.
    pub(crate) fn pod(&self) -> Client {
        self.pod_since(Duration::ZERO)
    }

    /// The same with a token that was made so long ago. It was good for an hour.
    pub(crate) fn pod_since(&self, ago: Duration) -> Client {
        self.client(None).with_token(&self.pod_token(ago))
    }

    /// A client of the API server itself with a token of the pod's ServiceAccount: what the hub is compared with.
    pub(crate) fn direct_pod(&self) -> Client {
        self.direct(None).with_token(&self.pod_token(Duration::ZERO))
    }

    /// A client of the API server itself.
    pub(crate) fn direct(&self, identity: Option<&Identity>) -> Client {
        let roots = self.authority.roots().expect("roots");
        Client::new(self.servers[0], "127.0.0.1", roots, identity)
            .expect("a client")
            .with_header(USER_AGENT, CLIENT)
    }

    fn pod_token(&self, ago: Duration) -> String {
        self.token(ago, &json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}}))
    }

    /// A real token of the pod's ServiceAccount for a TokenRequest of this `spec`, made so long ago.
    pub(crate) fn token(&self, ago: Duration, spec: &Value) -> String {
        // Straight from the core: the token is the kubelet's business, not this test's.
        let path = "/api/v1/namespaces/default/serviceaccounts/reader/token";
        let mut request = e2e::cloud::model::Request::new(
            e2e::cloud::model::Identity::Certificate(e2e::cloud::model::Principal::node("n1")),
            "POST",
            path,
        );
        request.body = json!({ "spec": spec }).to_string().into();
        request.user_agent = CLIENT.into();
        let answer = self.cloud.with(|cloud, now| cloud.handle(now.saturating_sub(ago), &request));
        let e2e::cloud::model::AnswerKind::Full { response, .. } = answer.kind else {
            panic!("a watch is no token")
        };
        let document: Value = serde_json::from_slice(&response.body).expect("JSON");
        document["status"]["token"].as_str().expect("a token").to_owned()
    }

    /// Requests since a mark that carried a whole collection of this resource, by the hub and by clients.
    pub(crate) fn transfers(&self, mark: u64, resource: &str) -> (usize, usize) {
        let is = |r: &RequestRecord| {
            r.is_full_transfer() && r.gvr.as_ref().is_some_and(|g| g.resource == resource)
        };
        let all: Vec<RequestRecord> = self.cloud.records_since(mark).into_iter().filter(is).collect();
        let clients = all.iter().filter(|r| r.user_agent == CLIENT).count();
        (all.len() - clients, clients)
    }
}

/// Where tokens for the pod's ServiceAccount are asked for.
pub(crate) const TOKEN: &str = "/api/v1/namespaces/default/serviceaccounts/reader/token";

/// A TokenRequest for the pod, as its kubelet sends it.
pub(crate) fn token_request(audience: &str) -> Value {
    json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": {
        "audiences": [audience], "expirationSeconds": 3607,
        "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"},
    }})
}

async fn join(thread: JoinHandle<()>) {
    let ended = tokio::task::spawn_blocking(|| thread.join()).await.expect("the runtime runs");
    ended.expect("the hub's thread does not panic");
}

/// A loopback address of this process alone, so that a restarted hub finds its port free.
fn own_address() -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    let serial = HUBS.fetch_add(1, Ordering::SeqCst);
    (IpAddr::V4(Ipv4Addr::new(127, high, low, serial + 2)), 10261).into()
}

/// Ask until there is an answer: for what another process shows only when asked.
pub(crate) async fn eventually<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What of an object an informer keeps.
pub(crate) type Show = fn(&Value) -> String;

/// Keeps a copy of a collection by WatchList, then WATCH, as client-go does.
pub(crate) struct Informer {
    client: Client,
    path: String,
    show: Show,
    /// Name to what is shown of the object.
    pub(crate) cache: BTreeMap<String, String>,
    pub(crate) resource_version: String,
    stream: Option<WatchStream>,
    /// How often it had to start from nothing.
    pub(crate) full_syncs: usize,
    /// How often it was told to come again (429).
    pub(crate) refusals: usize,
    /// Whether it starts from nothing when it is told to, as client-go does, or calls that a failure.
    pub(crate) may_sync_again: bool,
}

impl Informer {
    /// Of the ConfigMaps' `data.v`.
    pub(crate) fn new(client: Client) -> Self {
        Self::of(client, CONFIG_MAPS, |object| object["data"]["v"].as_str().unwrap_or_default().to_owned())
    }

    pub(crate) fn of(client: Client, path: &str, show: Show) -> Self {
        Self {
            client,
            path: path.to_owned(),
            show,
            cache: BTreeMap::new(),
            resource_version: String::new(),
            stream: None,
            full_syncs: 0,
            refusals: 0,
            may_sync_again: false,
        }
    }

    /// Follow the stream until the cache is as wanted.
    pub(crate) async fn until(&mut self, wanted: &[(&str, &str)]) {
        let wanted: BTreeMap<String, String> =
            wanted.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        while self.resource_version.is_empty() || self.cache != wanted {
            self.step().await;
        }
    }

    /// As [`Self::until`], and looks at each state on the way there.
    pub(crate) async fn until_each(&mut self, wanted: &[(&str, &str)], mut look: impl FnMut(&str, &str)) {
        let wanted: BTreeMap<String, String> =
            wanted.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        while self.resource_version.is_empty() || self.cache != wanted {
            self.step().await;
            self.cache.iter().for_each(|(name, value)| look(name, value));
        }
    }

    /// Takes one event, or connects.
    pub(crate) async fn turn(&mut self) {
        self.step().await;
    }

    /// Closes its watch; it goes on from there with the next step.
    pub(crate) fn disconnect(&mut self) {
        self.stream = None;
    }

    async fn step(&mut self) {
        let Some(stream) = &mut self.stream else { return self.connect().await };
        match stream.next().await {
            Ok(Some(event)) => self.apply(&event),
            // A clean end, or a hub that went: client-go opens the next watch where this one ended.
            Ok(None) | Err(_) => self.stream = None,
        }
    }

    async fn connect(&mut self) {
        let common = "watch=true&allowWatchBookmarks=true&timeoutSeconds=300";
        let path = if self.resource_version.is_empty() {
            self.full_syncs += 1;
            self.cache.clear();
            format!("{common}&sendInitialEvents=true&resourceVersionMatch=NotOlderThan")
        } else {
            format!("{common}&resourceVersion={}", self.resource_version)
        };
        let separator = if self.path.contains('?') { '&' } else { '?' };
        let path = format!("{}{separator}{path}", self.path);
        let client = self.client.clone();
        let mut refusals = 0;
        let stream = eventually(async || match client.watch(&path).await {
            Ok(stream) if stream.status == 429 => {
                refusals += 1;
                None
            }
            Ok(stream) => Some(stream),
            // The hub is not there: ECONNREFUSED costs a client nothing.
            Err(_) => None,
        })
        .await;
        self.refusals += refusals;
        assert_eq!(stream.status, 200, "client-go would list again");
        self.stream = Some(stream);
    }

    fn apply(&mut self, event: &Value) {
        let object = &event["object"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let version = text(&object["metadata"]["resourceVersion"]);
        let key = text(&object["metadata"]["name"]);
        match event["type"].as_str() {
            Some("ADDED" | "MODIFIED") => {
                self.cache.insert(key, (self.show)(object));
            }
            Some("DELETED") => {
                self.cache.remove(&key);
            }
            Some("BOOKMARK") => {
                self.resource_version = version;
                return;
            }
            Some("ERROR") if self.may_sync_again => {
                self.resource_version.clear();
                self.stream = None;
                return;
            }
            _ => panic!("client-go would list again after {event}"),
        }
        // Before the marked bookmark no revision may be taken.
        if !self.resource_version.is_empty() {
            let (held, new): (u64, u64) = (self.resource_version.parse().unwrap(), version.parse().unwrap());
            assert!(new >= held, "the stream went back from {held} to {new}");
            self.resource_version = version;
        }
    }
}
