//! A cloud, a coordinator, two hubs of its pool, and clients that behave like informers.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use e2e::cloud::CloudControl;
use e2e::cloud::client::{Client, WatchStream};
use e2e::cloud::model::{Gvr, RequestRecord, Rule};
use e2e::cloud::pki::{Authority, Identity};
use edge_hub::pool::Coordinator;
use http::header::USER_AGENT;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::coordinator::POOL_KINDS;
use proto::member::Member;
use proto_daemon::tls::CertificateFiles;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The nodes of the pool; the coordinator runs on the first.
pub(crate) const NODES: [&str; 2] = ["n1", "n2"];
/// What the coordinator and the hubs call themselves to the cloud.
const COORDINATOR_AGENT: &str = "pool-coordinator/";
const HUB_AGENT: &str = "edge-hub/";
const CLIENT: &str = "test-client";
const SERVICES: &str = "/api/v1/services";

static RIGS: AtomicU8 = AtomicU8::new(0);

/// Nothing here waits on time; the bound only turns a hang into a failure.
pub(crate) fn run(test: impl Future<Output = ()>) {
    proto_daemon::tls::install_provider();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(120), test).await.expect("the test hangs");
    });
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

/// The authority of a pool.
pub(crate) struct PoolAuthority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl PoolAuthority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Writes certificate and key of the member `uri` below `folder`.
    pub(crate) fn issue(&self, folder: &Path, stem: &str, uri: &str) -> CertificateFiles {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("ASCII"))];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let files = CertificateFiles {
            certificate: folder.join(format!("{stem}.crt")),
            key: folder.join(format!("{stem}.key")),
        };
        std::fs::write(&files.certificate, certificate.pem()).expect("a file");
        std::fs::write(&files.key, key.serialize_pem()).expect("a file");
        files
    }
}

/// A process that does not outlive the test.
struct Process(Child);

impl Process {
    fn start(command: &str, config: &Path) -> Self {
        let mut program = Command::new(env!("CARGO_BIN_EXE_eyot"));
        program.arg(command);
        Self::run(program, config)
    }

    fn run(mut program: Command, config: &Path) -> Self {
        let log = std::fs::File::create(config.with_extension("log")).expect("a log");
        let child = program
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn();
        Self(child.expect("the program starts"))
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).expect("fits");
        kill(Pid::from_raw(pid), signal).expect("the child is ours");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A stopped process ends by this, too.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) struct Rig {
    pub(crate) cloud: CloudControl,
    authority: Authority,
    pub(crate) pool: PoolAuthority,
    identities: BTreeMap<&'static str, Identity>,
    folder: TempDir,
    /// Each node's own way to the cloud; the coordinator goes by the first one's.
    servers: Vec<SocketAddr>,
    ip: IpAddr,
    coordinator: Option<Process>,
    hubs: Vec<Process>,
}

impl Rig {
    /// A cloud with two nodes and the Services a and b; nothing of ours runs yet.
    pub(crate) fn new() -> Self {
        let authority = Authority::new("test").expect("an authority");
        let cloud = CloudControl::start(&authority, &["127.0.0.1"]).expect("a cloud");
        let (mut identities, mut servers) = (BTreeMap::new(), Vec::new());
        for (replica, node) in NODES.into_iter().enumerate() {
            cloud.create(&Gvr::core("nodes"), json!({"metadata": {"name": node}})).expect("the name is free");
            let user = format!("system:node:{node}");
            let kinds = POOL_KINDS.map(|(_, _, resource)| resource);
            cloud.allow(Rule::allow(&user, &["get", "list", "watch"], &kinds));
            identities.insert(node, authority.node(node).expect("a certificate"));
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            servers.push(cloud.listen(listener, replica).expect("a listener"));
        }
        let kinds = POOL_KINDS.map(|(_, _, resource)| resource);
        cloud.allow(Rule::allow("eyot:pool-coordinator:a:n1", &["get", "list", "watch"], &kinds));
        let [.., high, low] = std::process::id().to_be_bytes();
        let serial = RIGS.fetch_add(1, Ordering::SeqCst);
        let rig = Self {
            cloud,
            authority,
            pool: PoolAuthority::new(),
            identities,
            folder: tempfile::tempdir().expect("a folder"),
            servers,
            ip: IpAddr::V4(Ipv4Addr::new(127, high, low, 100 + serial)),
            coordinator: None,
            hubs: Vec::new(),
        };
        rig.put("a", "1");
        rig.put("b", "1");
        rig
    }

    /// As [`Rig::new`], with the coordinator and the hubs of both nodes fed by it.
    pub(crate) async fn whole() -> Self {
        let mut rig = Self::new();
        rig.start_coordinator().await;
        rig.start_hubs().await;
        rig.all_fed().await;
        rig
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    }

    pub(crate) fn coordinator_address(&self) -> SocketAddr {
        (self.ip, 10262).into()
    }

    pub(crate) fn server(&self, node: usize) -> SocketAddr {
        self.servers[node]
    }

    fn hub_address(&self, node: usize) -> SocketAddr {
        (self.ip, 10270 + u16::try_from(node).expect("two")).into()
    }

    /// Starts it and waits until it holds every kind.
    pub(crate) async fn start_coordinator(&mut self) {
        let identity = self.authority.client("eyot:pool-coordinator:a:n1", "eyot:pool-coordinators");
        let identity = identity.expect("a certificate");
        let member = self.pool.issue(self.path(), "coordinator-member", "eyot://a/n1");
        let config = json!({
            "pool": "a", "nodeName": "n1", "listen": [self.coordinator_address()],
            "member": {"certificate": member.certificate, "key": member.key},
            "memberCA": self.write("pool.pem", &self.pool.pem),
            "apiServers": [format!("https://{}", self.servers[0])],
            "apiServerCA": self.write("ca.pem", &self.authority.pem()),
            "credential": {
                "certificate": self.write("coordinator.pem", &identity.certificate_pem),
                "key": self.write("coordinator.key", &identity.key_pem),
            },
            "adminSocket": self.path().join("pool.sock"),
        });
        let config = self.write("coordinator.yaml", &config.to_string());
        self.coordinator = Some(Process::start("coordinator", &config));
        let socket = self.path().join("pool.sock");
        eventually(async || {
            let answer = proto_daemon::admin::fetch(&socket, "/readyz", Duration::from_secs(5));
            answer.ok().filter(|(status, _)| *status == 200)
        })
        .await;
    }

    /// Ends it where it is.
    pub(crate) fn kill_coordinator(&mut self) {
        drop(self.coordinator.take().expect("it runs"));
    }

    pub(crate) fn signal_coordinator(&self, signal: Signal) {
        self.coordinator.as_ref().expect("it runs").signal(signal);
    }

    pub(crate) async fn start_hubs(&mut self) {
        self.start_hubs_with(None, &NODES).await;
    }

    /// Starts the hubs by another program, if one is named; only those of `pooled` are told of the pool. Each runs from a
    /// file of its own, so that they share no memory.
    pub(crate) async fn start_hubs_with(&mut self, program: Option<OsString>, pooled: &[&str]) {
        for (index, node) in NODES.into_iter().enumerate() {
            let config = self.hub_config(index, node, pooled.contains(&node));
            self.hubs.push(match &program {
                None => Process::start("hub", &config),
                Some(program) => {
                    let own = self.path().join(format!("{node}-hub"));
                    std::fs::copy(program, &own).expect("EYOT_HUB_PROGRAM names a program");
                    Process::run(Command::new(own), &config)
                }
            });
            let address = self.hub_address(index);
            eventually(async || tokio::net::TcpStream::connect(address).await.ok()).await;
        }
    }

    /// The memory of a hub in bytes: resident, shared pages divided by their users.
    pub(crate) fn hub_memory(&self, index: usize) -> u64 {
        let path = format!("/proc/{}/smaps_rollup", self.hubs[index].0.id());
        let text = std::fs::read_to_string(path).expect("the hub runs");
        let kibibytes = text.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB"));
        kibibytes.and_then(|number| number.trim().parse::<u64>().ok()).expect("a number") * 1024
    }

    /// Whether the coordinator feeds every collection of the pool on this node.
    pub(crate) fn is_fed(&self, node: &str) -> bool {
        self.sources(node) == vec![json!("n1"); POOL_KINDS.len()]
    }

    fn hub_config(&self, index: usize, node: &str, pooled: bool) -> PathBuf {
        let identity = &self.identities[node];
        let serving = self.authority.server(&[&self.ip.to_string()]).expect("a certificate");
        let member = self.pool.issue(self.path(), &format!("{node}-member"), &format!("eyot://a/{node}"));
        let mut config = json!({
            "nodeName": node, "listen": [self.hub_address(index)],
            "apiServers": [format!("https://{}", self.servers[index])],
            "apiServerCA": self.write("ca.pem", &self.authority.pem()),
            "credential": {
                "certificate": self.write(&format!("{node}.pem"), &identity.certificate_pem),
                "key": self.write(&format!("{node}.key"), &identity.key_pem),
            },
            "serving": {
                "certificate": self.write(&format!("{node}-serving.pem"), &serving.certificate_pem),
                "key": self.write(&format!("{node}-serving.key"), &serving.key_pem),
            },
            "stateDirectory": self.path().join(format!("{node}-state")),
            "adminSocket": self.path().join(format!("{node}.sock")),
        });
        if pooled {
            config["pool"] = json!({
                "name": "a",
                "coordinators": [{"node": "n1", "address": self.coordinator_address()}],
                "member": {"certificate": member.certificate, "key": member.key},
                "memberCA": self.write("pool.pem", &self.pool.pem),
            });
        }
        self.write(&format!("{node}.yaml"), &config.to_string())
    }

    pub(crate) fn status(&self, node: &str) -> Value {
        let socket = self.path().join(format!("{node}.sock"));
        let answer = proto_daemon::admin::fetch(&socket, "/status", Duration::from_secs(5));
        answer.ok().and_then(|(_, body)| serde_json::from_str(&body).ok()).unwrap_or_default()
    }

    /// Who feeds the pool's collections of `node`: one entry for each.
    fn sources(&self, node: &str) -> Vec<Value> {
        let status = self.status(node);
        let collections = status["collections"].as_array().cloned().unwrap_or_default();
        collections.iter().filter_map(|each| each.get("fedBy").cloned()).collect()
    }

    /// Waits until the coordinator feeds every collection of every hub.
    pub(crate) async fn all_fed(&self) {
        self.sources_are(&json!("n1")).await;
    }

    /// Waits until nobody feeds any.
    pub(crate) async fn none_fed(&self) {
        self.sources_are(&Value::Null).await;
    }

    async fn sources_are(&self, wanted: &Value) {
        eventually(async || {
            let is = |node: &&str| self.sources(node) == vec![wanted.clone(); POOL_KINDS.len()];
            NODES.iter().all(is).then_some(())
        })
        .await;
    }

    /// Create or change a Service in the cloud.
    pub(crate) fn put(&self, name: &str, value: &str) {
        let gvr = Gvr::core("services");
        let labels = json!({"metadata": {"labels": {"v": value}}});
        if self.cloud.merge(&gvr, "default", name, &labels).is_err() {
            let object = json!({
                "metadata": {"name": name, "namespace": "default", "labels": {"v": value}},
                "spec": {"clusterIP": "None", "selector": {"app": name}},
            });
            self.cloud.create(&gvr, object).expect("the name is free");
        }
    }

    pub(crate) fn remove(&self, name: &str) {
        self.cloud.delete(&Gvr::core("services"), "default", name).expect("it exists");
    }

    /// An informer of Services behind the hub of a node, as its kubelet.
    pub(crate) fn informer(&self, node: usize) -> Informer {
        let address = self.hub_address(node);
        let roots = self.authority.roots().expect("roots");
        let client =
            Client::new(address, &address.ip().to_string(), roots, Some(&self.identities[NODES[node]]));
        Informer::new(client.expect("a client").with_header(USER_AGENT, CLIENT))
    }

    /// The coordinator as a member with these certificate files would meet it.
    pub(crate) fn dial(&self, files: &CertificateFiles, wanted: &str) -> Coordinator {
        let roots = proto_daemon::tls::load_roots(&self.path().join("pool.pem")).expect("an authority");
        let own = proto_daemon::tls::ReloadingResolver::new(files.clone()).expect("a pair");
        let wanted = Member::parse(wanted).expect("a member");
        let tls = proto_daemon::member::client_config(roots, own, wanted.clone()).expect("settings");
        Coordinator::new(wanted, &self.coordinator_address().to_string(), Arc::new(tls))
    }

    /// Lists and watches of the pool's kinds since a mark by hubs, and by the coordinator: (lists, all).
    pub(crate) fn asked(&self, mark: u64) -> [(usize, usize); 2] {
        let is_of_pool = |record: &RequestRecord| {
            let gvr = record.gvr.as_ref();
            gvr.is_some_and(|gvr| POOL_KINDS.iter().any(|(_, _, resource)| gvr.resource == *resource))
        };
        let records: Vec<_> = self.cloud.records_since(mark).into_iter().filter(is_of_pool).collect();
        [HUB_AGENT, COORDINATOR_AGENT].map(|agent| {
            let own = records.iter().filter(|record| record.user_agent.starts_with(agent));
            (own.clone().filter(|record| record.is_full_transfer()).count(), own.count())
        })
    }
}

/// Keeps a copy of the Services by WatchList, then WATCH, as client-go does.
pub(crate) struct Informer {
    client: Client,
    cache: BTreeMap<String, String>,
    version: u64,
    synced: bool,
    stream: Option<WatchStream>,
    /// How often it began with the whole state.
    pub(crate) full_syncs: usize,
    /// Whether it begins anew when it is told to, as client-go does, or calls that a failure.
    pub(crate) may_sync_again: bool,
}

impl Informer {
    fn new(client: Client) -> Self {
        Self {
            client,
            cache: BTreeMap::new(),
            version: 0,
            synced: false,
            stream: None,
            full_syncs: 0,
            may_sync_again: false,
        }
    }

    /// Follow the stream until the copy is as wanted.
    pub(crate) async fn until(&mut self, wanted: &[(&str, &str)]) {
        let wanted: BTreeMap<String, String> =
            wanted.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        while !self.synced || self.cache != wanted {
            self.step().await;
        }
    }

    async fn step(&mut self) {
        let Some(stream) = &mut self.stream else { return self.connect().await };
        match stream.next().await {
            Ok(Some(event)) => self.apply(&event),
            Ok(None) | Err(_) => self.stream = None,
        }
    }

    async fn connect(&mut self) {
        let common = "watch=true&allowWatchBookmarks=true&timeoutSeconds=300";
        let path = match self.synced {
            false => {
                self.cache.clear();
                format!("{SERVICES}?{common}&sendInitialEvents=true&resourceVersionMatch=NotOlderThan")
            }
            true => format!("{SERVICES}?{common}&resourceVersion={}", self.version),
        };
        let client = self.client.clone();
        let stream = eventually(async || client.watch(&path).await.ok().filter(|s| s.status != 429)).await;
        assert_eq!(stream.status, 200, "client-go would list again");
        self.stream = Some(stream);
    }

    fn apply(&mut self, event: &Value) {
        let object = &event["object"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let version: u64 = text(&object["metadata"]["resourceVersion"]).parse().unwrap_or_default();
        let name = text(&object["metadata"]["name"]);
        match event["type"].as_str() {
            Some("ADDED" | "MODIFIED") => {
                self.cache.insert(name, text(&object["metadata"]["labels"]["v"]));
            }
            Some("DELETED") => {
                self.cache.remove(&name);
            }
            Some("BOOKMARK") => {
                // The first one ends the initial events.
                self.full_syncs += usize::from(!self.synced);
                self.synced = true;
            }
            Some("ERROR") if self.may_sync_again => {
                (self.synced, self.version, self.stream) = (false, 0, None);
                return;
            }
            _ => panic!("client-go would list again after {event}"),
        }
        if self.synced {
            assert!(version >= self.version, "the stream went back from {} to {version}", self.version);
            self.version = version;
        }
    }
}
