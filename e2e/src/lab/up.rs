//! Building a lab from nothing, in the order in which its parts need one another.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::address::{Families, Names, Subnet};
use super::agents::Agent;
use super::assets::{Assets, CONTROL_PLANE, NODE};
use super::certificates::{Authority, LIFETIME};
use super::cloud::Cloud;
use super::command::run;
use super::error::{LabError, Result};
use super::hub::{Hub, READY_LIMIT};
use super::kubeconfig::{self, Credential};
use super::network;
use super::objects;
use super::state::{self, HubKind, State};
use super::{Lab, node, node_certificate, requirements, samples, sweep};

/// The most nodes that a lab may have; the addresses of a /24 are the limit.
const MOST_NODES: u8 = 200;

/// The longest folder path, in bytes: below it stand unix sockets, whose paths may have 107 bytes. The longest is
/// `/nodes/node-200/hub.sock`, and with a kubelet `/nodes/node-200/kubelet/pod-resources/kubelet.sock`.
const fn longest_dir(kubelets: bool) -> usize {
    if kubelets { 57 } else { 80 }
}

/// How long all nodes, and then all pods, may take to be Ready, in seconds.
const NODES_READY_SECONDS: u32 = 180;

/// How long the tokens in the kubeconfigs hold, in seconds: a day.
const TOKEN_SECONDS: u32 = 86_400;

/// What lab to build.
#[derive(Debug, Clone)]
pub struct UpOptions {
    /// The folder for everything that the lab writes; made if it does not exist.
    pub dir: PathBuf,
    /// How many nodes: 1 to 200, named `node-1` and so on.
    pub nodes: u8,
    /// How many pools the nodes are in: 1 to as many as there are nodes. 0: nobody speaks of pools.
    pub pools: u8,
    /// Whether each node has a kubelet and a containerd.
    pub kubelets: bool,
    /// What stands between the nodes and the API server.
    pub hub: HubKind,
    /// Whether kube-controller-manager and kube-scheduler run. Without them nobody but the caller changes an object.
    pub controllers: bool,
    /// Whether nodes, pods and Services have IPv6 addresses beside those of IPv4.
    pub dual_stack: bool,
    /// Whether the nodes stand behind NAT and the API server reaches them by the tunnel.
    pub tunnel: bool,
    /// The `eyot` program that runs the hubs; the running one if none is given.
    pub program: Option<PathBuf>,
    /// Take the lab down by itself when the process with this id ends, however it ends.
    pub bound_to: Option<i32>,
    /// Say each step on stderr.
    pub verbose: bool,
}

impl UpOptions {
    /// A lab of `nodes` nodes without kubelets in `dir`.
    pub fn new(dir: impl Into<PathBuf>, nodes: u8) -> Self {
        UpOptions {
            dir: dir.into(),
            nodes,
            pools: 0,
            kubelets: false,
            hub: HubKind::EdgeHub,
            controllers: true,
            dual_stack: false,
            tunnel: false,
            program: None,
            bound_to: None,
            verbose: false,
        }
    }
}

pub(super) fn up(options: &UpOptions) -> Result<Lab> {
    let steps = Steps { started: Instant::now(), verbose: options.verbose };
    check(options)?;
    fs::create_dir_all(&options.dir).map_err(LabError::io("create", &options.dir))?;
    let dir = state::absolute(&options.dir)?;
    let longest = longest_dir(options.kubelets);
    if dir.as_os_str().len() > longest {
        return Err(LabError::Invalid(format!(
            "the path {} is too long: unix sockets stand below it; use one of at most {longest} bytes",
            dir.display()
        )));
    }
    let _lock = state::lock(&dir)?;
    if State::read(&dir)?.is_some() {
        return Err(LabError::AlreadyUp(dir));
    }
    let program = match &options.program {
        Some(path) => path.clone(),
        None => std::env::current_exe().map_err(LabError::io("find", "the running program"))?,
    };
    let mut programs = CONTROL_PLANE.to_vec();
    if options.kubelets {
        programs.extend(NODE);
    }
    let assets = Assets::build(&programs)?;
    let id = state::lab_id(&dir);
    // A lab whose record was lost may still stand under this id.
    sweep::sweep(&dir, &id)?;
    let result = build(options, &dir, &id, assets, program, &steps);
    if result.is_err() {
        // The first error is the one to tell; what a sweep cannot remove, `down` names again.
        let _ = sweep::sweep(&dir, &id);
    }
    result
}

fn check(options: &UpOptions) -> Result<()> {
    if options.nodes == 0 || options.nodes > MOST_NODES {
        return Err(LabError::Invalid(format!(
            "a lab has 1 to {MOST_NODES} nodes, and {} were asked for",
            options.nodes
        )));
    }
    if options.pools > options.nodes || options.pools > 0 && options.hub == HubKind::None {
        return Err(LabError::Invalid(format!(
            "{} pools need as many nodes and a hub on each; {} nodes were asked for",
            options.pools, options.nodes
        )));
    }
    if options.tunnel && (options.dual_stack || !options.kubelets || options.pools > 0) {
        let what = match options {
            UpOptions { dual_stack: true, .. } => "has IPv4 alone",
            UpOptions { kubelets: false, .. } => "needs kubelets",
            _ => "is one pool already, and has no coordinator",
        };
        return Err(LabError::Invalid(format!("a lab with a tunnel {what}")));
    }
    let missing = requirements::missing(options.kubelets);
    if missing.is_empty() { Ok(()) } else { Err(LabError::Missing(missing.join(", "))) }
}

fn build(
    options: &UpOptions,
    dir: &Path,
    id: &str,
    assets: Assets,
    program: PathBuf,
    steps: &Steps,
) -> Result<Lab> {
    let names = Names::new(id);
    fresh_logs(dir)?;
    link_assets(dir, &assets, &program)?;
    let mut state = wire(options, dir, id, assets, program)?;
    if let Some(process) = options.bound_to {
        start_guard(dir, &state, process)?;
    }
    steps.done(&format!(
        "{} network namespaces, the cloud at {}",
        state.nodes.len() + 1,
        state.subnet.cloud()
    ));

    let namespace = names.cloud();
    let lab = Lab::of(dir.to_owned(), state.clone());
    calibrate(&lab, steps)?;
    let cloud = lab.cloud_of(&namespace);
    let authority = Authority::create(&dir.join("pki"))?;
    cloud.prepare(&authority)?;
    steps.done("certificates");
    start_tunnel_server(&lab, &authority, steps)?;
    cloud.start()?;
    if options.controllers {
        cloud.start_controllers()?;
    }
    steps.done("etcd and kube-apiserver ready");
    populate(&lab, &cloud, &state)?;
    steps.done("Nodes and ServiceAccounts made");
    state.nodes.iter().try_for_each(|node| node_files(&lab, &cloud, &authority, node))?;
    if !state.kubelets {
        make_pods(&lab, &cloud, &authority)?;
    }
    steps.done("kubeconfigs written");
    start_edge(&lab, &cloud, &authority, steps)?;
    if options.controllers {
        cloud.wait_controllers()?;
        steps.done("kube-controller-manager and kube-scheduler work");
    }
    if state.kubelets {
        start_nodes(&lab, &cloud, &authority, steps)?;
    }
    state.complete = true;
    state.write(dir)?;
    Ok(Lab::of(dir.to_owned(), state))
}

/// Chooses a subnet, writes the record of the lab, and makes its namespaces and links.
fn wire(options: &UpOptions, dir: &Path, id: &str, assets: Assets, program: PathBuf) -> Result<State> {
    let nodes: Vec<String> = (1..=options.nodes).map(|number| format!("node-{number}")).collect();
    let _subnets = state::lock_subnets()?;
    let families = if options.dual_stack { Families::DualStack } else { Families::Ipv4 };
    let seed = u16::from_str_radix(&id[..4], 16).expect("an id is six hex digits");
    let subnet = Subnet::choose(seed, families)?;
    let state = State {
        id: id.to_owned(),
        created: now_nanoseconds(),
        complete: false,
        subnet: if options.tunnel { subnet.behind_router() } else { subnet },
        nodes,
        hub: options.hub,
        kubelets: options.kubelets,
        pools: options.pools,
        tunnel: options.tunnel,
        assets,
        program,
    };
    state.write(dir)?;
    network::build(&Names::new(id), state.subnet, &state.nodes)?;
    Ok(state)
}

/// Starts what stands between nodes and cloud: coordinators, the tunnel's agent, hubs.
fn start_edge(lab: &Lab, cloud: &Cloud<'_>, authority: &Authority, steps: &Steps) -> Result<()> {
    let state = &lab.state;
    if state.pools > 0 {
        super::pool::start(lab, cloud.kubectl()?, authority, &cloud.server())?;
        steps.done(&format!("{} pools, and a coordinator on {}", state.pools, state.nodes[0]));
    }
    start_tunnel_agent(lab, steps)?;
    if state.hub == HubKind::EdgeHub { start_hubs(lab, cloud, authority, steps) } else { Ok(()) }
}

/// Empties the logs of a former lab in the same folder, so that their end belongs to this one.
fn fresh_logs(dir: &Path) -> Result<()> {
    let logs = dir.join("logs");
    if logs.exists() {
        fs::remove_dir_all(&logs).map_err(LabError::io("empty", &logs))?;
    }
    fs::create_dir_all(&logs).map_err(LabError::io("create", &logs))
}

/// `DIR/bin` holds every binary under its own name, for the PATH of `eyot lab exec`.
fn link_assets(dir: &Path, assets: &Assets, program: &Path) -> Result<()> {
    let bin = dir.join("bin");
    fs::create_dir_all(&bin).map_err(LabError::io("create", &bin))?;
    for (name, path) in assets.iter().chain([("eyot", program)]) {
        let link = bin.join(name);
        std::os::unix::fs::symlink(path, &link).map_err(LabError::io("link", &link))?;
    }
    Ok(())
}

/// Puts accounts and Nodes into the API server.
fn populate(lab: &Lab, cloud: &Cloud<'_>, state: &State) -> Result<()> {
    objects::apply(cloud.kubectl()?, &objects::accounts())?;
    let families = state.subnet.families();
    let numbered = (1..).zip(&state.nodes);
    let mut nodes: Vec<Value> =
        numbered.map(|(index, name)| objects::node(name, &families.pod_networks_of(index))).collect();
    for (node, name) in nodes.iter_mut().zip(&state.nodes) {
        if let Some(pool) = lab.pool(name)? {
            super::pool::label(node, &pool);
        }
    }
    objects::apply(cloud.kubectl()?, &nodes)?;
    if !state.kubelets {
        return Ok(());
    }
    let statuses: Vec<Value> = state.nodes.iter().map(|name| objects::node_status(name)).collect();
    objects::apply_status(cloud.kubectl()?, &statuses)
}

/// Makes the ordinary pods, and each node's `pod.kubeconfig` with a token that is bound to its own.
fn make_pods(lab: &Lab, cloud: &Cloud<'_>, authority: &Authority) -> Result<()> {
    let pods: Vec<Value> = lab.state.nodes.iter().map(|name| objects::pod(name)).collect();
    objects::apply(cloud.kubectl()?, &pods)?;
    for node in &lab.state.nodes {
        let bound = objects::pod_name(node);
        let pod = objects::token(
            cloud.kubectl()?,
            objects::POD_NAMESPACE,
            objects::POD_ACCOUNT,
            Some(("Pod", &bound)),
            TOKEN_SECONDS,
        )?;
        let path = lab.node_file(node, "pod.kubeconfig");
        let server = server(lab, cloud);
        kubeconfig::write(&path, &server, authority.pem(), objects::POD_NAMESPACE, &Credential::Token(&pod))?;
    }
    Ok(())
}

/// The URL by which the components of a node reach the API.
pub(super) fn server(lab: &Lab, cloud: &Cloud<'_>) -> String {
    match lab.state.hub {
        HubKind::EdgeHub => Hub::server(),
        HubKind::None => cloud.server(),
    }
}

/// The node's certificate and its kubeconfigs: two, and with a kubelet one for each agent.
fn node_files(lab: &Lab, cloud: &Cloud<'_>, authority: &Authority, node: &str) -> Result<()> {
    let folder = lab.dir.join("nodes").join(node);
    fs::create_dir_all(&folder).map_err(LabError::io("create", &folder))?;
    let server = server(lab, cloud);
    node_certificate::issue(&folder, node, &server, authority, LIFETIME)?;
    let admin = objects::token(cloud.kubectl()?, "eyot-lab", "admin", None, TOKEN_SECONDS)?;
    let credential = Credential::Token(&admin);
    kubeconfig::write(&folder.join("admin.kubeconfig"), &server, authority.pem(), "default", &credential)?;
    let agents = Agent::ALL.iter().filter(|_| lab.state.kubelets);
    for agent in agents {
        let token = objects::token(
            cloud.kubectl()?,
            objects::SYSTEM_NAMESPACE,
            agent.name(),
            Some(("Node", node)),
            TOKEN_SECONDS,
        )?;
        let credential = Credential::Token(&token);
        let path = folder.join(agent.kubeconfig());
        kubeconfig::write(&path, &server, authority.pem(), "default", &credential)?;
    }
    Ok(())
}

/// Proves that each node's link counts to the byte.
fn calibrate(lab: &Lab, steps: &Steps) -> Result<()> {
    for node in &lab.state.nodes {
        let counted = lab.calibrate(node)?;
        let (bytes, packets) = (counted.received_bytes, counted.received_packets);
        steps.done(&format!(
            "{node}: 1 MiB crossed the link as {bytes} bytes in {packets} packets, counted exactly"
        ));
    }
    Ok(())
}

/// Starts the tunnel's end in the cloud, where the lab has one: before the API server, which dials by it.
fn start_tunnel_server(lab: &Lab, authority: &Authority, steps: &Steps) -> Result<()> {
    if !lab.state.tunnel {
        return Ok(());
    }
    let cloud = lab.names.cloud();
    let tunnel = lab.tunnel(&cloud, "")?;
    tunnel.prepare_server(authority)?;
    tunnel.start_server(&lab.state.program)?;
    steps.done("tunnel-server ready");
    Ok(())
}

/// Starts the tunnel's end on the first node, where the lab has one, and waits for the link.
fn start_tunnel_agent(lab: &Lab, steps: &Steps) -> Result<()> {
    if !lab.state.tunnel {
        return Ok(());
    }
    let edge = lab.names.node(&lab.state.nodes[0]);
    let tunnel = lab.tunnel("", &edge)?;
    tunnel.prepare_agent()?;
    tunnel.start_agent(&lab.state.program)?;
    tunnel.wait_link()?;
    steps.done("the tunnel's link is up");
    Ok(())
}

/// Starts all hubs, then waits for each: they start at the same time.
fn start_hubs(lab: &Lab, cloud: &Cloud<'_>, authority: &Authority, steps: &Steps) -> Result<()> {
    let namespaces: Vec<String> = lab.state.nodes.iter().map(|node| lab.names.node(node)).collect();
    let mut hubs = Vec::new();
    for (node, namespace) in lab.state.nodes.iter().zip(&namespaces) {
        let hub = lab.hub_of(node, namespace)?;
        hub.prepare(authority, &cloud.server(), &lab.dir.join("pki"))?;
        hub.start(&lab.state.program)?;
        hubs.push(hub);
    }
    hubs.iter().try_for_each(|hub| hub.wait_ready(READY_LIMIT))?;
    steps.done(&format!("{} edge-hubs ready", hubs.len()));
    Ok(())
}

/// Starts containerd, kubelet and agents of every node; returns when all nodes are Ready and all sample pods run.
fn start_nodes(lab: &Lab, cloud: &Cloud<'_>, authority: &Authority, steps: &Steps) -> Result<()> {
    node::prepare_images(&lab.dir)?;
    for name in &lab.state.nodes {
        let namespace = lab.names.node(name);
        let node = lab.node_of(name, &namespace)?;
        node.prepare(authority, &lab.dir.join("pki"))?;
        let agents = lab.agents_of(name, &namespace)?;
        agents.prepare()?;
        node.start_containerd()?;
        node.start_kubelet()?;
        Agent::ALL.iter().try_for_each(|agent| agents.start(*agent))?;
    }
    steps.done("containerd, kubelet, kube-proxy and CoreDNS run on every node");
    let limit = format!("--timeout={NODES_READY_SECONDS}s");
    run(cloud.kubectl()?.args(["wait", "--for=condition=Ready", "node", "--all", &limit]), "")?;
    steps.done("all nodes Ready");
    // Not before: a kubelet that has not told its capacity yet refuses a pod that is bound to it, for ever.
    make_pods(lab, cloud, authority)?;
    objects::apply(cloud.kubectl()?, &samples::objects(lab.state.nodes.len()))?;
    for name in &lab.state.nodes {
        let namespace = lab.names.node(name);
        let agents = lab.agents_of(name, &namespace)?;
        Agent::ALL.iter().try_for_each(|agent| agents.wait_ready(*agent))?;
    }
    steps.done("kube-proxy and CoreDNS have synced");
    let deployment = format!("deployment/{}", samples::DEPLOYMENT);
    let daemon_set = format!("daemonset/{}", samples::DAEMON_SET);
    for workload in [deployment, daemon_set] {
        let arguments = ["rollout", "status", "-n", objects::POD_NAMESPACE, &workload, &limit];
        run(cloud.kubectl()?.args(arguments), "")?;
    }
    let fixed: Vec<String> =
        lab.state.nodes.iter().map(|node| format!("pod/{}-{node}", samples::STATIC_POD)).collect();
    let created = ["wait", "--for=create", "-n", objects::POD_NAMESPACE, &limit];
    run(cloud.kubectl()?.args(created).args(&fixed), "")?;
    let pods = ["wait", "--for=condition=Ready", "pod", "--all", "-n", objects::POD_NAMESPACE, &limit];
    run(cloud.kubectl()?.args(pods), "")?;
    steps.done("all sample pods Running");
    Ok(())
}

/// Starts a process that waits for the end of `process` and then takes the lab down. It carries no mark of the lab,
/// so that a sweep does not end the sweeper.
fn start_guard(dir: &Path, state: &State, process: i32) -> Result<()> {
    Command::new("setsid")
        .arg(&state.program)
        .args(["lab", "down", "--after-process", &process.to_string()])
        .args(["--created", &state.created.to_string(), "--dir"])
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map(drop)
        .map_err(LabError::io("start", &state.program))
}

/// Waits for the end of the process `pid`, then takes the lab down if it is still the one made at `created`, and its
/// logs with it unless `EYOT_KEEP_LOGS=1`.
pub(super) fn down_after(dir: &Path, pid: i32, created: u64) -> Result<()> {
    let process = super::process::Identity::of(pid);
    while process.is_some_and(super::process::Identity::is_alive) {
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    let dir = state::absolute(dir)?;
    match State::read(&dir)? {
        Some(state) if state.created == created => Lab::down(&dir)?,
        _ => return Ok(()),
    };
    if std::env::var_os("EYOT_KEEP_LOGS").is_none_or(|value| value != "1") {
        fs::remove_dir_all(&dir).map_err(LabError::io("remove", &dir))?;
    }
    Ok(())
}

fn now_nanoseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Tells each step with the time since the start.
struct Steps {
    started: Instant,
    verbose: bool,
}

impl Steps {
    fn done(&self, what: &str) {
        if self.verbose {
            eprintln!("[{:5.1} s] {what}", self.started.elapsed().as_secs_f64());
        }
    }
}
