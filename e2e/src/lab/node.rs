//! A whole node: its own containerd and an unmodified kubelet that knows only what its kubeconfig names.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::address::Subnet;
use super::assets::Assets;
use super::certificates::{Authority, KeyPairFiles, LIFETIME, Subject};
use super::command::run;
use super::error::{LabError, Result};
use super::objects::{POD_PROGRAM, SANDBOX_IMAGE};
use super::process::{Processes, Start};
use super::{control_group, image, probe, samples};

/// How long containerd may take until it answers.
const CONTAINERD_LIMIT: Duration = Duration::from_secs(60);

/// How long a kubelet may take until it answers its own health check.
const KUBELET_LIMIT: Duration = Duration::from_secs(120);

/// A node with a kubelet.
pub(crate) struct Node<'a> {
    /// The lab's folder.
    pub(crate) dir: &'a Path,
    /// The lab's id.
    pub(crate) lab_id: &'a str,
    /// The node's name.
    pub(crate) name: &'a str,
    /// The node's number, counted from 1.
    pub(crate) index: u8,
    /// The node's network namespace.
    pub(crate) namespace: &'a str,
    /// The lab's addresses.
    pub(crate) subnet: Subnet,
    /// The binaries.
    pub(crate) assets: &'a Assets,
    /// The lab's process table.
    pub(crate) processes: &'a Processes,
}

/// The main container of a pod, as containerd knows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Container {
    /// The pod's name.
    pub pod: String,
    /// Its id, new at each restart.
    pub id: String,
    /// Whether its process runs.
    pub running: bool,
}

/// The archive with the images of the lab's pods; made once, imported by every node.
pub(crate) fn image_archive(dir: &Path) -> PathBuf {
    dir.join("images").join("lab.tar")
}

fn unused_image_archive(dir: &Path) -> PathBuf {
    dir.join("images").join("unused.tar")
}

/// Makes the image archives.
pub(crate) fn prepare_images(dir: &Path) -> Result<()> {
    image::write_archive(&image_archive(dir), image::PODS)?;
    image::write_archive(&unused_image_archive(dir), image::UNUSED)
}

impl Node<'_> {
    fn folder(&self) -> PathBuf {
        self.dir.join("nodes").join(self.name)
    }

    fn containerd_socket(&self) -> PathBuf {
        self.folder().join("containerd.sock")
    }

    /// The name of containerd's process record.
    pub(crate) fn containerd_process(&self) -> String {
        format!("{}.containerd", self.name)
    }

    /// The name of the kubelet's process record.
    pub(crate) fn kubelet_process(&self) -> String {
        format!("{}.kubelet", self.name)
    }

    fn serving(&self) -> KeyPairFiles {
        KeyPairFiles::at(&self.folder(), "kubelet-serving")
    }

    /// Makes a certificate for the kubelet's own port that holds for `lifetime`; returns its end.
    pub(crate) fn issue_serving(
        &self,
        authority: &Authority,
        lifetime: time::Duration,
    ) -> Result<time::OffsetDateTime> {
        let addresses = self.subnet.node_addresses(self.index);
        let name = format!("system:node:{}", self.name);
        let subject = Subject::Server { name: &name, dns: &[self.name], addresses: &addresses };
        authority.issue_for(&subject, &self.serving(), lifetime)
    }

    /// Writes the configuration of containerd, CNI and kubelet, and makes the kubelet's serving certificate.
    pub(crate) fn prepare(&self, authority: &Authority, pki: &Path) -> Result<()> {
        let folder = self.folder();
        for part in ["cni", "manifests", "pod-logs", "kubelet"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).map_err(LabError::io("create", &path))?;
        }
        self.issue_serving(authority, LIFETIME)?;
        let serving = self.serving();
        let control_group = control_group::create(self.lab_id, self.name)?;
        for (file, content) in [
            ("containerd.toml", self.containerd_config()),
            ("cni/10-bridge.conflist", self.cni_config()),
            ("kubelet.yaml", self.kubelet_config(&serving, &pki.join("ca.crt"), &control_group)),
            // The machine's own resolvers cannot be reached from the namespace.
            ("resolv.conf", String::new()),
            ("manifests/fixed.json", samples::static_pod().to_string()),
        ] {
            let path = folder.join(file);
            fs::write(&path, content).map_err(LabError::io("write", path))?;
        }
        Ok(())
    }

    /// Starts containerd, waits until it answers and, if it has none yet, gives it the lab's images.
    pub(crate) fn start_containerd(&self) -> Result<()> {
        let name = self.containerd_process();
        self.processes.start(Start {
            name: &name,
            namespace: self.namespace,
            program: self.assets.path("containerd")?,
            arguments: vec![
                "--config".to_owned(),
                self.folder().join("containerd.toml").display().to_string(),
            ],
            environment: vec![("PATH".to_owned(), self.search_path())],
        })?;
        let list = ["-n", "k8s.io", "images", "list", "-q"];
        let mut images = String::new();
        self.processes.wait_ready(&name, CONTAINERD_LIMIT, || {
            images = self.ctr(&list).map_err(|error| error.to_string())?;
            Ok(())
        })?;
        if !images.contains(SANDBOX_IMAGE) {
            self.import(&image_archive(self.dir))?;
            // They come from no registry: one that was collected would never come back.
            for (name, _) in image::PODS {
                self.ctr(&["-n", "k8s.io", "images", "label", name, "io.cri-containerd.pinned=pinned"])?;
            }
        }
        Ok(())
    }

    fn import(&self, archive: &Path) -> Result<()> {
        let archive = archive.display().to_string();
        self.ctr(&["-n", "k8s.io", "images", "import", &archive]).map(drop)
    }

    /// Gives the node the image `name` of `archive`, which its kubelet must not collect: it comes from no registry.
    pub(crate) fn import_pinned(&self, archive: &Path, name: &str) -> Result<()> {
        self.import(archive)?;
        self.ctr(&["-n", "k8s.io", "images", "label", name, "io.cri-containerd.pinned=pinned"]).map(drop)
    }

    /// Gives the node an image that no pod uses and nobody has pinned.
    pub(crate) fn import_unused_image(&self) -> Result<()> {
        self.import(&unused_image_archive(self.dir))
    }

    /// The names of the images that containerd has.
    pub(crate) fn images(&self) -> Result<Vec<String>> {
        let listed = self.ctr(&["-n", "k8s.io", "images", "list", "-q"])?;
        Ok(listed.lines().filter(|name| !name.starts_with("sha256:")).map(str::to_owned).collect())
    }

    /// Starts the kubelet; returns when its own health check answers.
    pub(crate) fn start_kubelet(&self) -> Result<()> {
        let kubeconfig = self.folder().join("kubelet.kubeconfig");
        self.launch_kubelet(vec![format!("--kubeconfig={}", kubeconfig.display())])?;
        self.processes.wait_ready(&self.kubelet_process(), KUBELET_LIMIT, || self.healthy())
    }

    /// Starts a kubelet that has no certificate and asks for one by `bootstrap.kubeconfig`. Until it has one it answers
    /// no health check, so that nothing is waited for.
    pub(crate) fn start_joining_kubelet(&self) -> Result<()> {
        let folder = self.folder();
        self.launch_kubelet(vec![
            format!("--bootstrap-kubeconfig={}", folder.join("bootstrap.kubeconfig").display()),
            format!("--kubeconfig={}", folder.join("kubelet/joined.kubeconfig").display()),
            "--rotate-certificates".to_owned(),
        ])
    }

    fn launch_kubelet(&self, mut arguments: Vec<String>) -> Result<()> {
        let folder = self.folder();
        let node_ip: Vec<String> =
            self.subnet.node_addresses(self.index).iter().map(IpAddr::to_string).collect();
        arguments.extend([
            format!("--config={}", folder.join("kubelet.yaml").display()),
            format!("--root-dir={}", folder.join("kubelet").display()),
            format!("--cert-dir={}", folder.join("kubelet/pki").display()),
            format!("--hostname-override={}", self.name),
            format!("--node-ip={}", node_ip.join(",")),
            "--v=2".to_owned(),
        ]);
        let start = Start {
            name: &self.kubelet_process(),
            namespace: self.namespace,
            program: self.assets.path("kubelet")?,
            arguments,
            environment: vec![("PATH".to_owned(), self.search_path())],
        };
        self.processes.start(start).map(drop)
    }

    /// Whether the kubelet's own health check says ok; it listens in the node's namespace only.
    pub(crate) fn healthy(&self) -> std::result::Result<(), String> {
        probe::inside(self.namespace, SocketAddr::from((Ipv4Addr::LOCALHOST, 10_248)), "/healthz")
    }

    /// The main containers of all pods, dead ones too.
    pub(crate) fn containers(&self) -> Result<Vec<Container>> {
        let filter = "labels.\"io.kubernetes.container.name\"==main";
        let listed = self.ctr(&["-n", "k8s.io", "containers", "list", "-q", filter])?;
        let tasks = self.ctr(&["-n", "k8s.io", "tasks", "list"])?;
        let running = running_tasks(&tasks);
        let mut containers = Vec::new();
        for id in listed.lines().map(str::trim).filter(|id| !id.is_empty()) {
            // One that is removed meanwhile is none.
            let Ok(info) = self.ctr(&["-n", "k8s.io", "containers", "info", id]) else { continue };
            let info: serde_json::Value = serde_json::from_str(&info)
                .map_err(|error| LabError::Invalid(format!("ctr containers info {id}: {error}")))?;
            let pod = info["Labels"]["io.kubernetes.pod.name"].as_str().unwrap_or_default().to_owned();
            containers.push(Container { pod, id: id.to_owned(), running: running.contains(id) });
        }
        Ok(containers)
    }

    /// The running main container of `pod`.
    pub(crate) fn running(&self, pod: &str) -> Result<Container> {
        let found =
            self.containers()?.into_iter().find(|container| container.running && container.pod == pod);
        found.ok_or_else(|| LabError::Invalid(format!("no container of {pod} runs on {}", self.name)))
    }

    /// Kills the main container of `pod` with SIGKILL.
    pub(crate) fn kill_pod(&self, pod: &str) -> Result<()> {
        let alive = self.running(pod)?;
        self.ctr(&["-n", "k8s.io", "tasks", "kill", "-s", "SIGKILL", &alive.id]).map(drop)
    }

    /// Kills the sandbox of `pod` with SIGKILL: its network is gone, and the next one has another address.
    pub(crate) fn kill_sandbox(&self, pod: &str) -> Result<()> {
        let filter =
            format!("labels.\"io.cri-containerd.kind\"==sandbox,labels.\"io.kubernetes.pod.name\"=={pod}");
        let listed = self.ctr(&["-n", "k8s.io", "containers", "list", "-q", &filter])?;
        let tasks = self.ctr(&["-n", "k8s.io", "tasks", "list"])?;
        let running = running_tasks(&tasks);
        let alive = listed.lines().map(str::trim).find(|id| running.contains(*id));
        let alive =
            alive.ok_or_else(|| LabError::Invalid(format!("no sandbox of {pod} runs on {}", self.name)))?;
        self.ctr(&["-n", "k8s.io", "tasks", "kill", "-s", "SIGKILL", alive]).map(drop)
    }

    /// Runs the image's own program with `arguments` in the main container of `pod` and returns what it prints.
    pub(crate) fn run_in_pod(&self, pod: &str, arguments: &[&str]) -> Result<String> {
        let alive = self.running(pod)?;
        let nanoseconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let exec_id = format!("lab-{}-{nanoseconds}", std::process::id());
        let exec = ["-n", "k8s.io", "tasks", "exec", "--exec-id", &exec_id, &alive.id, POD_PROGRAM];
        self.ctr(&[&exec, arguments].concat())
    }

    /// Runs ctr against the node's containerd.
    pub(crate) fn ctr(&self, arguments: &[&str]) -> Result<String> {
        let mut ctr = Command::new(self.assets.path("ctr")?);
        ctr.arg("--address").arg(self.containerd_socket()).args(arguments);
        run(&mut ctr, "")
    }

    /// The lab's binaries first: containerd finds its shim by name.
    fn search_path(&self) -> String {
        let path = std::env::var("PATH").unwrap_or_default();
        format!("{}:{path}:/usr/sbin:/sbin", self.dir.join("bin").display())
    }

    fn containerd_config(&self) -> String {
        let folder = self.folder();
        let at = |part: &str| toml_string(&folder.join(part));
        let runtime = "plugins.'io.containerd.cri.v1.runtime'";
        format!(
            "version = 3
root = {root}
state = {state}

[grpc]
  address = {socket}

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '{SANDBOX_IMAGE}'

[{runtime}]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  enable_cdi = false

[{runtime}.cni]
  bin_dirs = ['/usr/lib/cni']
  conf_dir = {cni}

[{runtime}.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'

[{runtime}.containerd.runtimes.runc.options]
  SystemdCgroup = false
  Root = {runc}

# One socket at a fixed path of the machine; a second node would collide with it.
[plugins.'io.containerd.nri.v1.nri']
  disable = true

[plugins.'io.containerd.internal.v1.opt']
  path = {opt}
",
            root = at("containerd/root"),
            state = at("containerd/state"),
            socket = toml_string(&self.containerd_socket()),
            cni = at("cni"),
            runc = at("runc"),
            opt = at("containerd/opt"),
        )
    }

    fn cni_config(&self) -> String {
        let families = self.subnet.families();
        let ranges = families.pod_networks_of(self.index);
        let ranges: Vec<_> = ranges.iter().map(|network| json!([{ "subnet": network }])).collect();
        let routes: Vec<_> = families.default_routes().iter().map(|route| json!({ "dst": route })).collect();
        let ipam = json!({
            "type": "host-local",
            "dataDir": self.folder().join("cni-addresses"),
            "ranges": ranges,
            "routes": routes,
        });
        let bridge = json!({
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": true,
            "hairpinMode": true,
            "ipam": ipam,
        });
        json!({ "cniVersion": "1.0.0", "name": "eyot-lab", "plugins": [bridge] }).to_string()
    }

    fn kubelet_config(&self, serving: &KeyPairFiles, client_ca: &Path, control_group: &str) -> String {
        let folder = self.folder();
        let config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": "0.0.0.0",
            "authentication": {
                "anonymous": { "enabled": false },
                // The kubelet's own memory is kept short, so that who calls it meets what the hub says.
                "webhook": { "enabled": true, "cacheTTL": "1s" },
                "x509": { "clientCAFile": client_ca },
            },
            "authorization": {
                "mode": "Webhook",
                "webhook": { "cacheAuthorizedTTL": "1s", "cacheUnauthorizedTTL": "1s" },
            },
            "tlsCertFile": serving.certificate,
            "tlsPrivateKeyFile": serving.key,
            "containerRuntimeEndpoint": format!("unix://{}", self.containerd_socket().display()),
            "staticPodPath": folder.join("manifests"),
            "podLogsDir": folder.join("pod-logs"),
            "volumePluginDir": folder.join("kubelet/volume-plugins"),
            "resolvConf": folder.join("resolv.conf"),
            "clusterDomain": "cluster.local",
            "clusterDNS": self.subnet.families().dns_addresses(),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": control_group,
            // Version 1 still runs on many edge machines; a kubelet since 1.35 refuses it unless told otherwise.
            "failCgroupV1": false,
            "failSwapOn": false,
            "enforceNodeAllocatable": [],
            // When it starts and every five minutes the kubelet collects each image that no container uses and nobody
            // has pinned, however young.
            "imageMinimumGCAge": "1ns",
            "imageMaximumGCAge": "2ns",
            "evictionHard": { "memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%" },
            "makeIPTablesUtilChains": false,
        });
        serde_json::to_string_pretty(&config).expect("strings and lists are JSON")
    }
}

/// The ids in ctr's table of tasks (id, process id, state) whose process runs.
fn running_tasks(tasks: &str) -> BTreeSet<&str> {
    let rows = tasks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|words| words.last() == Some(&"RUNNING")).filter_map(|words| words.first().copied()).collect()
}

/// A path as a TOML string; JSON's escapes are TOML's, too.
fn toml_string(path: &Path) -> String {
    json!(path).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_without_a_running_task_is_dead() {
        let tasks = "TASK    PID     STATUS    \naa      12      RUNNING\nbb      13      STOPPED\n";
        assert_eq!(running_tasks(tasks).into_iter().collect::<Vec<_>>(), ["aa"]);
    }

    #[test]
    fn a_path_with_quotes_stays_one_toml_string() {
        assert_eq!(toml_string(Path::new("/a \"b\"\\c")), r#""/a \"b\"\\c""#);
    }
}
