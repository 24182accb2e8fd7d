//! A whole node: its own containerd and an unmodified kubelet that knows only what its kubeconfig names.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use super::assets::Assets;
use super::certificates::{Authority, KeyPairFiles, Subject};
use super::command::run;
use super::error::{LabError, Result};
use super::objects::{SANDBOX_IMAGE, pod_name};
use super::process::{Processes, Start};
use super::{control_group, image, network, probe, samples};

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
    /// The node's address on the lab's subnet.
    pub(crate) address: Ipv4Addr,
    /// The binaries.
    pub(crate) assets: &'a Assets,
    /// The lab's process table.
    pub(crate) processes: &'a Processes,
}

/// A container of a pod, as containerd knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its id, new at each restart.
    pub id: String,
    /// Whether its process runs.
    pub running: bool,
}

/// The archive with the images of the lab's pods; made once, imported by every node.
pub(crate) fn image_archive(dir: &Path) -> PathBuf {
    dir.join("images").join("lab.tar")
}

/// Makes the image archive.
pub(crate) fn prepare_images(dir: &Path) -> Result<()> {
    image::write_archive(&image_archive(dir))
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

    /// Writes the configuration of containerd, CNI and kubelet, and makes the kubelet's serving certificate.
    pub(crate) fn prepare(&self, authority: &Authority, pki: &Path) -> Result<()> {
        let folder = self.folder();
        for part in ["cni", "manifests", "pod-logs", "kubelet"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).map_err(LabError::io("create", &path))?;
        }
        let serving = KeyPairFiles::at(&folder, "kubelet-serving");
        let addresses: [IpAddr; 1] = [self.address.into()];
        let name = format!("system:node:{}", self.name);
        authority
            .issue(&Subject::Server { name: &name, dns: &[self.name], addresses: &addresses }, &serving)?;
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
            let archive = image_archive(self.dir).display().to_string();
            self.ctr(&["-n", "k8s.io", "images", "import", &archive])?;
        }
        Ok(())
    }

    /// Starts the kubelet; returns when its own health check answers.
    pub(crate) fn start_kubelet(&self) -> Result<()> {
        let folder = self.folder();
        let name = self.kubelet_process();
        self.processes.start(Start {
            name: &name,
            namespace: self.namespace,
            program: self.assets.path("kubelet")?,
            arguments: vec![
                format!("--config={}", folder.join("kubelet.yaml").display()),
                format!("--kubeconfig={}", folder.join("kubelet.kubeconfig").display()),
                format!("--root-dir={}", folder.join("kubelet").display()),
                format!("--cert-dir={}", folder.join("kubelet/pki").display()),
                format!("--hostname-override={}", self.name),
                format!("--node-ip={}", self.address),
                "--v=2".to_owned(),
            ],
            environment: vec![("PATH".to_owned(), self.search_path())],
        })?;
        self.processes.wait_ready(&name, KUBELET_LIMIT, || self.healthy())
    }

    /// Whether the kubelet's own health check says ok; it listens in the node's namespace only.
    pub(crate) fn healthy(&self) -> std::result::Result<(), String> {
        probe::inside(self.namespace, SocketAddr::from((Ipv4Addr::LOCALHOST, 10_248)), "/healthz")
    }

    /// The main containers of the node's ordinary pod, dead ones too.
    pub(crate) fn pod_containers(&self) -> Result<Vec<Container>> {
        let filter = format!(
            "labels.\"io.kubernetes.pod.name\"=={},labels.\"io.kubernetes.container.name\"==main",
            pod_name(self.name)
        );
        let listed = self.ctr(&["-n", "k8s.io", "containers", "list", "-q", &filter])?;
        let tasks = self.ctr(&["-n", "k8s.io", "tasks", "list"])?;
        Ok(containers(&listed, &tasks))
    }

    /// Kills the main container of the node's ordinary pod with SIGKILL.
    pub(crate) fn kill_pod(&self) -> Result<()> {
        let Some(alive) = self.pod_containers()?.into_iter().find(|container| container.running) else {
            return Err(LabError::Invalid(format!(
                "no container of {} runs on {}",
                pod_name(self.name),
                self.name
            )));
        };
        self.ctr(&["-n", "k8s.io", "tasks", "kill", "-s", "SIGKILL", &alive.id]).map(drop)
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
        let ipam = json!({
            "type": "host-local",
            "dataDir": self.folder().join("cni-addresses"),
            "ranges": [[{ "subnet": network::pod_network(self.index) }]],
            "routes": [{ "dst": "0.0.0.0/0" }],
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
            "clusterDNS": [network::DNS_ADDRESS],
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": control_group,
            // Version 1 still runs on many edge machines; a kubelet since 1.35 refuses it unless told otherwise.
            "failCgroupV1": false,
            "failSwapOn": false,
            "enforceNodeAllocatable": [],
            // Images come from no registry: one that was collected would never come back.
            "imageGCHighThresholdPercent": 100,
            "evictionHard": { "memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%" },
            "makeIPTablesUtilChains": false,
        });
        serde_json::to_string_pretty(&config).expect("strings and lists are JSON")
    }
}

/// Joins ctr's list of container ids with its table of tasks (id, process id, state).
fn containers(listed: &str, tasks: &str) -> Vec<Container> {
    let running = |id: &str| {
        tasks.lines().any(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some(id) && words.next_back() == Some("RUNNING")
        })
    };
    let ids = listed.lines().map(str::trim).filter(|id| !id.is_empty());
    ids.map(|id| Container { id: id.to_owned(), running: running(id) }).collect()
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
        let found = containers("aa\nbb\ncc\n", tasks);
        let running: Vec<_> =
            found.iter().map(|container| (container.id.as_str(), container.running)).collect();
        assert_eq!(running, [("aa", true), ("bb", false), ("cc", false)]);
    }

    #[test]
    fn a_path_with_quotes_stays_one_toml_string() {
        assert_eq!(toml_string(Path::new("/a \"b\"\\c")), r#""/a \"b\"\\c""#);
    }
}
