//! What can be done with a lab, by whoever holds one: each act is carried out by a file of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::address::Names;
use super::agents::Agents;
use super::cloud::Cloud;
use super::cut::{self, Cut};
use super::error::{LabError, Result};
use super::fault::{self, Slow};
use super::hub::Hub;
use super::media::{self, EnginePod, Grant};
use super::node::{Container, Node};
use super::objects;
use super::process::Processes;
use super::request::{self, Answer, Request};
use super::state::{self, HubKind, State};
use super::status::{self, Status};
use super::sweep::{self, Swept};
use super::traffic::{self, LinkTraffic, Traffic};
use super::tunnel::{self, Tunnel};
use super::up::{self, UpOptions};
use super::{Lab, Nodes, namespace, router};

impl Lab {
    /// Builds a lab in `options.dir`; returns when the API server and every hub are ready.
    ///
    /// Errors leave no process, namespace or mount behind; the logs stay in `DIR/logs`.
    pub fn up(options: &UpOptions) -> Result<Lab> {
        up::up(options)
    }

    /// The lab that stands in `dir`.
    ///
    /// Errors: [`LabError::NoLab`]; a lab whose `up` was killed on the way.
    pub fn open(dir: &Path) -> Result<Lab> {
        let dir = state::absolute(dir)?;
        let state = State::read(&dir)?.ok_or_else(|| LabError::NoLab(dir.clone()))?;
        if !state.complete {
            return Err(LabError::Invalid(format!(
                "the lab in {0} is half built; `eyot lab down --dir {0}` removes it",
                dir.display()
            )));
        }
        Ok(Lab::of(dir, state))
    }

    pub(super) fn of(dir: PathBuf, state: State) -> Lab {
        let (names, processes) = (Names::new(&state.id), Processes::new(&dir, &state.id));
        Lab { dir, state, names, processes }
    }

    /// Ends and removes whatever is left of the lab in `dir`, whole, half built or crashed. Nothing there is no error.
    pub fn down(dir: &Path) -> Result<Swept> {
        let dir = state::absolute(dir)?;
        let _lock = if dir.is_dir() { Some(state::lock(&dir)?) } else { None };
        // A record that cannot be read must not keep a lab alive: its id follows from the path.
        let recorded = State::read(&dir).ok().flatten().map(|state| state.id);
        sweep::sweep(&dir, &recorded.unwrap_or_else(|| state::lab_id(&dir)))
    }

    /// The lab's folder, absolute.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The nodes' names, in order.
    pub fn nodes(&self) -> &[String] {
        &self.state.nodes
    }

    /// The API server's URL, from the host and from every node.
    pub fn api_server(&self) -> String {
        self.cloud_of(&self.names.cloud()).server()
    }

    /// `DIR/admin.kubeconfig`: the administrator, straight to the API server, from the host's namespace.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
    }

    /// `DIR/nodes/NODE/FILE`, such as `kubelet.kubeconfig`, `pod.kubeconfig`, `admin.kubeconfig`, `hub.sock`.
    pub fn node_file(&self, node: &str, file: &str) -> PathBuf {
        self.dir.join("nodes").join(node).join(file)
    }

    /// What the API server was asked, by whom: one JSON object a line (`audit.k8s.io/v1`, level Metadata). A watch
    /// has a line when it begins and one when it ends.
    pub fn audit_log(&self) -> PathBuf {
        self.dir.join("logs/audit.log")
    }

    /// Lets the cloud forget every revision before the present one: watches, exact lists and continue tokens from
    /// before expire. Its API server starts again on the way.
    pub fn forget(&self) -> Result<()> {
        self.cloud_of(&self.names.cloud()).forget()
    }

    /// The path of one of the lab's binaries, such as `kubectl`.
    pub fn asset(&self, program: &str) -> Result<PathBuf> {
        self.state.assets.path(program).map(Path::to_owned)
    }

    /// A kubectl with the administrator's rights, straight to the API server.
    pub fn kubectl(&self) -> Result<Command> {
        self.cloud_of(&self.names.cloud()).kubectl()
    }

    /// A command that runs `program` inside the node's namespace, with the lab's binaries on its PATH.
    pub fn command(&self, node: &str, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        self.check(node)?;
        let mut command = namespace::inside(&self.names.node(node));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.dir.join("bin")).chain(std::env::split_paths(&path));
        let joined = std::env::join_paths(folders)
            .map_err(|error| LabError::Invalid(format!("{}: {error}", self.dir.display())))?;
        command.arg(program).env("PATH", joined).env_remove("KUBECONFIG");
        // kubectl caches discovery per server address, and every node's hub has the same one.
        command.env("KUBECACHEDIR", self.node_file(node, "kubectl-cache"));
        Ok(command)
    }

    /// A kubectl inside the node's namespace with the node's `FILE` as kubeconfig, such as `pod.kubeconfig`.
    pub fn node_kubectl(&self, node: &str, file: &str) -> Result<Command> {
        let mut kubectl = self.command(node, self.state.assets.path("kubectl")?)?;
        kubectl.arg("--kubeconfig").arg(self.node_file(node, file));
        Ok(kubectl)
    }

    /// Cuts nodes off from the cloud: a black hole both ways, no resets.
    pub fn cut(&self, nodes: &Nodes) -> Result<()> {
        self.cut_partly(nodes, &Cut::default())
    }

    /// Swallows what `cut` says of what passes between nodes and the cloud, in place of an older cut.
    pub fn cut_partly(&self, nodes: &Nodes, cut: &Cut) -> Result<()> {
        let subnet = self.state.subnet;
        self.chosen(nodes)?.iter().try_for_each(|node| cut::cut(&self.names.node(node), subnet, cut))
    }

    /// Makes the links of nodes slow, in place of an older slowness. Everything that passes them is meant, pods of
    /// different nodes too, but for ARP and neighbour discovery, which are not delayed.
    pub fn slow(&self, nodes: &Nodes, slow: &Slow) -> Result<()> {
        self.chosen(nodes)?.iter().try_for_each(|node| fault::slow(self, node, slow))
    }

    /// Ends what [`Lab::cut`], [`Lab::slow`] and [`Lab::freeze`] did to nodes.
    pub fn heal(&self, nodes: &Nodes) -> Result<()> {
        for node in self.chosen(nodes)? {
            cut::heal(&self.names.node(&node))?;
            fault::unslow(self, &node)?;
            fault::thaw(self, &node);
        }
        Ok(())
    }

    /// Stops every process of a node where it stands, containers too, as a host that hangs would.
    pub fn freeze(&self, node: &str) -> Result<()> {
        self.check(node)?;
        fault::freeze(self, node);
        Ok(())
    }

    /// As [`Lab::reboot`], but nothing that the hub, the kubelet or containerd wrote is left: a node that was never here
    /// before, with its credentials.
    pub fn reinstall(&self, node: &str) -> Result<()> {
        self.check(node)?;
        fault::reinstall(self, node)
    }

    /// Restarts a whole node as a power cycle would: every process and container killed, what a disk holds kept,
    /// everything started again in the order of a boot. A cut stays. Returns when the kubelet is healthy.
    pub fn reboot(&self, node: &str) -> Result<()> {
        self.check(node)?;
        fault::reboot(self, node)
    }

    /// The first half of [`Lab::reboot`]: the node stands still until [`Lab::power_on`].
    pub fn power_off(&self, node: &str) -> Result<()> {
        self.check(node)?;
        let _lock = state::lock_node(&self.dir, node)?;
        fault::power_off(self, node)
    }

    /// The second half of [`Lab::reboot`].
    pub fn power_on(&self, node: &str) -> Result<()> {
        self.check(node)?;
        let _lock = state::lock_node(&self.dir, node)?;
        fault::power_on(self, node)
    }

    /// Whether the node is cut off.
    pub fn is_cut(&self, node: &str) -> Result<bool> {
        self.check(node)?;
        cut::is_cut(&self.names.node(node))
    }

    /// Whether the node's link has a rate or a delay now. One whose delay was killed is as fast as any.
    pub fn is_slow(&self, node: &str) -> Result<bool> {
        self.check(node)?;
        fault::is_slow(self, node)
    }

    /// What crossed the node's link so far.
    pub fn traffic(&self, node: &str) -> Result<LinkTraffic> {
        self.check(node)?;
        traffic::link(&self.names.node(node))
    }

    /// Sends a known megabyte through the node's link, while nothing else may pass it, and fails unless the link counted it
    /// to the byte; once for each family of addresses. Returns what it counted of IPv4.
    pub fn calibrate(&self, node: &str) -> Result<LinkTraffic> {
        self.check(node)?;
        let (switch, node) = (self.names.switch(self.state.subnet), self.names.node(node));
        let mut counted = LinkTraffic::default();
        if self.state.subnet.is_private() {
            return traffic::calibrate(&switch, self.state.subnet.gateway().into(), &node);
        }
        // IPv4 comes first.
        for address in self.state.subnet.cloud_addresses().into_iter().rev() {
            counted = traffic::calibrate(&switch, address, &node)?;
        }
        Ok(counted)
    }

    /// What crossed the node's link so far, by class.
    pub fn traffic_by_class(&self, node: &str) -> Result<Traffic> {
        self.check(node)?;
        traffic::read(&self.names.node(node))
    }

    /// The main containers of the node's ordinary pod, dead ones too, asked of its containerd: true also while cut.
    pub fn pod_containers(&self, node: &str) -> Result<Vec<Container>> {
        let mut containers = self.containers(node)?;
        containers.retain(|container| container.pod == objects::pod_name(node));
        Ok(containers)
    }

    /// The main containers of all pods of the node, dead ones too, asked of its containerd: true also while cut.
    pub fn containers(&self, node: &str) -> Result<Vec<Container>> {
        self.node_of(node, &self.names.node(node))?.containers()
    }

    /// Gives `node` an image that no pod uses, `eyot.io/lab/unused:1`, for its kubelet to collect.
    pub fn import_unused_image(&self, node: &str) -> Result<()> {
        self.node_of(node, &self.names.node(node))?.import_unused_image()
    }

    /// The names of the images on `node`, asked of its containerd.
    pub fn images(&self, node: &str) -> Result<Vec<String>> {
        self.node_of(node, &self.names.node(node))?.images()
    }

    /// Kills the main container of `pod` on `node` with SIGKILL; its kubelet starts it again.
    pub fn kill_pod(&self, node: &str, pod: &str) -> Result<()> {
        self.node_of(node, &self.names.node(node))?.kill_pod(pod)
    }

    /// Kills the sandbox of `pod` on `node`: the kubelet makes a new one, with another address.
    pub fn kill_sandbox(&self, node: &str, pod: &str) -> Result<()> {
        self.node_of(node, &self.names.node(node))?.kill_sandbox(pod)
    }

    /// Runs the image's own program in `pod` on `node`, by containerd alone, and returns what it prints: `resolve NAME`,
    /// `fetch HOST`, `cat FILE`.
    pub fn run_in_pod(&self, node: &str, pod: &str, arguments: &[&str]) -> Result<String> {
        self.node_of(node, &self.names.node(node))?.run_in_pod(pod, arguments)
    }

    /// Puts a media engine on `node` by the manifests of `deploy/`, or leaves the one that is there; returns where it speaks
    /// HTTP when it is ready.
    pub fn start_media(&self, node: &str) -> Result<std::net::SocketAddr> {
        media::start(self, node)
    }

    /// The pods of media engines.
    pub fn media_pods(&self) -> Result<Vec<EnginePod>> {
        media::pods(self)
    }

    /// The containers of the media engine of `node`, dead ones too, asked of its containerd: true also while cut.
    pub fn media_containers(&self, node: &str) -> Result<Vec<Container>> {
        media::containers(self, node)
    }

    /// A token that the media engines of this lab take.
    pub fn media_token(&self, grant: &Grant) -> Result<String> {
        media::token(self, grant)
    }

    /// A kubectl from here to the kubelet's own port, for its `--raw` paths, with the administrator's token.
    pub fn kubelet_kubectl(&self, node: &str) -> Result<Command> {
        let index = self.check(node)?;
        let mut kubectl = Command::new(self.state.assets.path("kubectl")?);
        kubectl.env_remove("KUBECONFIG").arg("--kubeconfig").arg(self.node_file(node, "admin.kubeconfig"));
        kubectl.arg("--server").arg(self.kubelet_server(index));
        Ok(kubectl)
    }

    /// A command that runs `words` in `pod` on `node` and forwards its port, with the administrator's token, straight at the
    /// kubelet; `program` is `connect`, which says what it tells.
    pub fn kubelet_connect(&self, node: &str, program: &Path, pod: &str, words: &[&str]) -> Result<Command> {
        let index = self.check(node)?;
        let mut connect = Command::new(program);
        connect.arg(self.node_file(node, "admin.kubeconfig")).arg(self.kubelet_server(index));
        connect.arg(format!("{}/{pod}/main", objects::POD_NAMESPACE)).arg(objects::POD_PORT.to_string());
        connect.args(words);
        Ok(connect)
    }

    pub(super) fn kubelet_server(&self, index: u8) -> String {
        format!("https://{}:10250", self.state.subnet.node(index))
    }

    /// What the node's clients have asked its hub since the hub's log began, in order.
    pub fn requests(&self, node: &str) -> Result<Vec<Request>> {
        let namespace = self.names.node(node);
        request::read(&self.processes.log(&self.hub_of(node, &namespace)?.process()))
    }

    /// What the node's hub has answered since its log began, in order.
    pub fn answers(&self, node: &str) -> Result<Vec<Answer>> {
        let namespace = self.names.node(node);
        request::read_answers(&self.processes.log(&self.hub_of(node, &namespace)?.process()))
    }

    /// The state of every part, as it is now.
    pub fn status(&self) -> Result<Status> {
        status::status(self)
    }

    /// The program that runs the hubs: this one if it is `eyot`, which may be newer than the one that built the lab.
    pub(super) fn program(&self) -> PathBuf {
        let own = std::env::current_exe().ok();
        own.filter(|path| path.file_name().is_some_and(|name| name == "eyot"))
            .unwrap_or_else(|| self.state.program.clone())
    }

    pub(super) fn cloud_of<'a>(&'a self, namespace: &'a str) -> Cloud<'a> {
        Cloud {
            dir: &self.dir,
            namespace,
            subnet: self.state.subnet,
            whole_nodes: self.state.kubelets,
            tunnel: self.state.tunnel,
            assets: &self.state.assets,
            processes: &self.processes,
        }
    }

    /// Whether the tunnel's agent runs on `node`.
    pub(super) fn has_agent(&self, node: &str) -> bool {
        self.state.tunnel && self.state.nodes.first().is_some_and(|first| first == node)
    }

    /// The tunnel; an error if the lab has none.
    pub(super) fn tunnel<'a>(&'a self, cloud: &'a str, edge: &'a str) -> Result<Tunnel<'a>> {
        if !self.state.tunnel {
            return Err(LabError::Invalid("this lab was started without --tunnel".to_owned()));
        }
        let (subnet, nodes) = (self.state.subnet, &self.state.nodes);
        Ok(Tunnel { dir: &self.dir, cloud, edge, subnet, nodes, processes: &self.processes })
    }

    /// The established connections that the pool's router translates towards the tunnel-server, one line of
    /// `conntrack -L` each.
    pub fn tunnel_connections(&self) -> Result<Vec<String>> {
        self.tunnel("", "")?;
        router::established(&self.names, self.state.subnet.cloud(), tunnel::PORT)
    }

    /// The sockets of the tunnel: the door of kube-apiserver, and where server and agent tell of themselves.
    pub fn tunnel_sockets(&self) -> Result<[PathBuf; 3]> {
        let tunnel = self.tunnel("", "")?;
        Ok([tunnel.door(), tunnel.server_socket(), tunnel.agent_socket()])
    }

    /// The node's hub; an error if the lab has none.
    pub(super) fn hub_of<'a>(&'a self, node: &'a str, namespace: &'a str) -> Result<Hub<'a>> {
        let index = self.check(node)?;
        if self.state.hub == HubKind::None {
            return Err(LabError::Invalid(
                "this lab was started with --hub none: its nodes have no hub".to_owned(),
            ));
        }
        let address = self.state.subnet.node(index);
        let pool = self.pool_section(node)?;
        Ok(Hub { dir: &self.dir, node, namespace, address, processes: &self.processes, pool })
    }

    /// The node's kubelet and containerd; an error if the lab has none.
    pub(super) fn node_of<'a>(&'a self, name: &'a str, namespace: &'a str) -> Result<Node<'a>> {
        let index = self.check(name)?;
        if !self.state.kubelets {
            return Err(LabError::Invalid("this lab was started with --without kubelet".to_owned()));
        }
        Ok(Node {
            dir: &self.dir,
            lab_id: &self.state.id,
            name,
            index,
            namespace,
            subnet: self.state.subnet,
            assets: &self.state.assets,
            processes: &self.processes,
        })
    }

    /// The node's kube-proxy and CoreDNS; an error if the lab has none.
    pub(super) fn agents_of<'a>(&'a self, node: &'a str, namespace: &'a str) -> Result<Agents<'a>> {
        self.node_of(node, namespace)?;
        Ok(Agents {
            dir: &self.dir,
            node,
            namespace,
            families: self.state.subnet.families(),
            assets: &self.state.assets,
            processes: &self.processes,
        })
    }

    /// The node's number, counted from 1.
    pub(super) fn check(&self, node: &str) -> Result<u8> {
        (1..).zip(&self.state.nodes).find(|(_, known)| *known == node).map(|(index, _)| index).ok_or_else(
            || LabError::UnknownNode { name: node.to_owned(), known: self.state.nodes.join(", ") },
        )
    }

    pub(super) fn chosen(&self, nodes: &Nodes) -> Result<Vec<String>> {
        match nodes {
            Nodes::All => Ok(self.state.nodes.clone()),
            Nodes::One(name) => self.check(name).map(|_| vec![name.clone()]),
        }
    }
}

/// Waits until the process `pid` has ended, however it ends, then takes down the lab in `dir` if it is still the one
/// that was made at `created` (as its record says).
pub fn down_after(dir: &Path, pid: i32, created: u64) -> Result<()> {
    up::down_after(dir, pid, created)
}
