//! The cloud: etcd, kube-apiserver, kube-controller-manager and kube-scheduler in the cloud's namespace.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::address::Subnet;
use super::assets::Assets;
use super::certificates::{Authority, KeyPairFiles, Subject, create_service_account_key};
use super::command::run_unchecked;
use super::error::{LabError, Result};
use super::history;
use super::kubeconfig::{self, Credential};
use super::process::{Processes, Start};
use super::tunnel;

/// How long one part of the control plane may take to become ready.
const START_LIMIT: Duration = Duration::from_secs(120);

/// The first address of the Service range: `kubernetes.default` of every pod.
const SERVICE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// Who asked for what, one line for each finished request and one for each watch that began.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
";

/// The names of the cloud's processes, in the order in which they start.
pub(crate) const PROCESSES: [&str; 4] =
    ["cloud.etcd", "cloud.kube-apiserver", "cloud.kube-controller-manager", "cloud.kube-scheduler"];

/// Everything that the cloud's processes need to start.
pub(crate) struct Cloud<'a> {
    /// The lab's folder.
    pub(crate) dir: &'a Path,
    /// The network namespace.
    pub(crate) namespace: &'a str,
    /// The lab's addresses; everybody reaches the API server by the cloud's first one.
    pub(crate) subnet: Subnet,
    /// Whether the nodes have kubelets.
    pub(crate) whole_nodes: bool,
    /// Whether the API server reaches the nodes by the tunnel.
    pub(crate) tunnel: bool,
    /// The binaries.
    pub(crate) assets: &'a Assets,
    /// The lab's process table.
    pub(crate) processes: &'a Processes,
}

impl Cloud<'_> {
    /// The API server's URL.
    pub(crate) fn server(&self) -> String {
        format!("https://{}:6443", self.subnet.cloud())
    }

    fn audit_policy(&self) -> PathBuf {
        self.dir.join("audit-policy.yaml")
    }

    fn pki(&self) -> PathBuf {
        self.dir.join("pki")
    }

    fn pki_file(&self, name: &str) -> String {
        self.pki().join(name).display().to_string()
    }

    /// Makes the cloud's certificates and kubeconfigs, `DIR/admin.kubeconfig` among them.
    pub(crate) fn prepare(&self, authority: &Authority) -> Result<()> {
        let pki = self.pki();
        create_service_account_key(&pki)?;
        let dns = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
        ];
        let mut addresses = self.subnet.cloud_addresses();
        addresses.extend([SERVICE_ADDRESS, Ipv4Addr::LOCALHOST].map(IpAddr::from));
        let server = Subject::Server { name: "kube-apiserver", dns: &dns, addresses: &addresses };
        authority.issue(&server, &KeyPairFiles::at(&pki, "kube-apiserver"))?;
        let clients = [
            ("kube-apiserver-kubelet-client", "kube-apiserver-kubelet-client", &["system:masters"][..]),
            ("kube-controller-manager", "system:kube-controller-manager", &[]),
            ("kube-scheduler", "system:kube-scheduler", &[]),
            ("admin", "kubernetes-admin", &["system:masters"]),
        ];
        for (stem, user, groups) in clients {
            authority.issue(&Subject::Client { user, groups }, &KeyPairFiles::at(&pki, stem))?;
        }
        for (path, stem) in [
            (self.dir.join("admin.kubeconfig"), "admin"),
            (pki.join("kube-controller-manager.kubeconfig"), "kube-controller-manager"),
            (pki.join("kube-scheduler.kubeconfig"), "kube-scheduler"),
        ] {
            let files = KeyPairFiles::at(&pki, stem);
            let credential = Credential::Certificate(&files);
            kubeconfig::write(&path, &self.server(), authority.pem(), "default", &credential)?;
        }
        Ok(())
    }

    /// Starts etcd and the API server; returns when the API server is ready.
    pub(crate) fn start(&self) -> Result<()> {
        let data = self.dir.join("etcd");
        fs::create_dir_all(&data).map_err(LabError::io("create", &data))?;
        let policy = self.audit_policy();
        fs::write(&policy, AUDIT_POLICY).map_err(LabError::io("write", &policy))?;
        self.launch("etcd", self.etcd_arguments(&data))?;
        self.start_api_server()
    }

    fn start_api_server(&self) -> Result<()> {
        self.launch_api_server()?;
        self.processes.wait_ready("cloud.kube-apiserver", START_LIMIT, || {
            // The API server retries a missing etcd in silence: the process to blame is named here.
            if self.processes.running("cloud.etcd").is_none() {
                return Err(format!("etcd has ended, see {}", self.processes.log("cloud.etcd").display()));
            }
            self.ask(&["get", "--raw", "/readyz"])
        })
    }

    fn launch_api_server(&self) -> Result<()> {
        if !self.tunnel {
            return self.launch("kube-apiserver", self.apiserver_arguments());
        }
        // Nodes' names resolve for this process alone: it sees another /etc/hosts, in a mount namespace of its own that
        // ends with it. Neither unshare nor sh forks: the child's id is the API server's.
        let mount = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
        let hosts = tunnel::api_server_files(self.dir).hosts.display().to_string();
        let program = self.assets.path("kube-apiserver")?.display().to_string();
        let words = ["--mount", "--propagation", "private", "--", "sh", "-c", mount, &hosts, &program];
        let arguments = words.into_iter().map(str::to_owned).chain(self.apiserver_arguments()).collect();
        self.processes
            .start(Start {
                name: "cloud.kube-apiserver",
                namespace: self.namespace,
                program: Path::new("unshare"),
                arguments,
                environment: Vec::new(),
            })
            .map(drop)
    }

    /// Starts kube-controller-manager and kube-scheduler, and does not wait for them.
    pub(crate) fn start_controllers(&self) -> Result<()> {
        self.launch("kube-controller-manager", self.controller_manager_arguments())?;
        self.launch("kube-scheduler", self.scheduler_arguments())
    }

    /// Waits until the controllers work.
    pub(crate) fn wait_controllers(&self) -> Result<()> {
        self.processes.wait_ready("cloud.kube-controller-manager", START_LIMIT, || {
            // Pods are refused until the default ServiceAccount exists, which a controller makes.
            self.ask(&["get", "serviceaccount", "default", "-n", "default", "-o", "name"])
        })
    }

    /// A kubectl with the administrator's own certificate, from the host's namespace.
    pub(crate) fn kubectl(&self) -> Result<Command> {
        let mut kubectl = Command::new(self.assets.path("kubectl")?);
        kubectl.env_remove("KUBECONFIG").arg("--kubeconfig").arg(self.dir.join("admin.kubeconfig"));
        // Discovery of a former lab on the same address must not be believed.
        kubectl.env("KUBECACHEDIR", self.dir.join("kubectl-cache"));
        self.processes.mark(&mut kubectl);
        Ok(kubectl)
    }

    /// Lets etcd forget every revision before the present one, as the API server does every five minutes, and starts
    /// the API server again, whose cache remembers more.
    pub(crate) fn forget(&self) -> Result<()> {
        self.processes.stop("cloud.kube-apiserver");
        history::compact(self.namespace)?;
        self.start_api_server()
    }

    fn ask(&self, arguments: &[&str]) -> std::result::Result<(), String> {
        let mut kubectl = self.kubectl().map_err(|error| error.to_string())?;
        let output = run_unchecked(kubectl.args(arguments), "").map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }

    fn launch(&self, program: &str, arguments: Vec<String>) -> Result<()> {
        self.processes
            .start(Start {
                name: &format!("cloud.{program}"),
                namespace: self.namespace,
                program: self.assets.path(program)?,
                arguments,
                environment: Vec::new(),
            })
            .map(drop)
    }

    fn etcd_arguments(&self, data: &Path) -> Vec<String> {
        let flags = [
            "--name=lab",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--initial-advertise-peer-urls=http://127.0.0.1:2380",
            "--initial-cluster=lab=http://127.0.0.1:2380",
            // A lab is thrown away: nothing in it needs to survive a power cut.
            "--unsafe-no-fsync",
            "--log-level=warn",
        ];
        let mut arguments: Vec<String> = flags.map(str::to_owned).into();
        arguments.push(format!("--data-dir={}", data.display()));
        arguments
    }

    fn apiserver_arguments(&self) -> Vec<String> {
        let flags = [
            "--etcd-servers=http://127.0.0.1:2379",
            "--secure-port=6443",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--anonymous-auth=false",
            "--enable-bootstrap-token-auth",
            // There is one API server at a fixed address; no lease has to say so.
            "--endpoint-reconciler-type=none",
        ];
        let mut arguments: Vec<String> = flags.map(str::to_owned).into();
        if self.tunnel {
            let egress = tunnel::api_server_files(self.dir).egress;
            arguments.push(format!("--egress-selector-config-file={}", egress.display()));
            // The tunnel goes by names: two pools may have the same addresses.
            arguments.push("--kubelet-preferred-address-types=Hostname,InternalIP".to_owned());
        } else {
            // Otherwise logs and exec look the node's name up in DNS.
            arguments.push("--kubelet-preferred-address-types=InternalIP".to_owned());
        }
        if self.whole_nodes {
            // A pod's token ends when it says so, and not a year later. Without kubelets the defaults are what is of
            // interest.
            arguments.push("--service-account-extend-token-expiration=false".to_owned());
        }
        let families = self.subnet.families();
        arguments.push(format!("--bind-address={}", families.any_address()));
        arguments.push(format!("--service-cluster-ip-range={}", families.service_networks()));
        arguments.push(format!("--advertise-address={}", self.subnet.cloud()));
        arguments.push(format!("--audit-policy-file={}", self.audit_policy().display()));
        arguments.push(format!("--audit-log-path={}", self.dir.join("logs/audit.log").display()));
        for (flag, file) in [
            ("tls-cert-file", "kube-apiserver.crt"),
            ("tls-private-key-file", "kube-apiserver.key"),
            ("client-ca-file", "ca.crt"),
            ("service-account-key-file", "service-account.pub"),
            ("service-account-signing-key-file", "service-account.key"),
            ("kubelet-client-certificate", "kube-apiserver-kubelet-client.crt"),
            ("kubelet-client-key", "kube-apiserver-kubelet-client.key"),
            ("kubelet-certificate-authority", "ca.crt"),
        ] {
            arguments.push(format!("--{flag}={}", self.pki_file(file)));
        }
        arguments
    }

    fn controller_manager_arguments(&self) -> Vec<String> {
        let flags = [
            "--leader-elect=false",
            "--use-service-account-credentials",
            "--allocate-node-cidrs",
            "--node-monitor-grace-period=20s",
        ];
        let mut arguments: Vec<String> = flags.map(str::to_owned).into();
        let families = self.subnet.families();
        arguments.push(format!("--cluster-cidr={}", families.pod_networks()));
        arguments.push(format!("--service-cluster-ip-range={}", families.service_networks()));
        for (flag, file) in [
            ("kubeconfig", "kube-controller-manager.kubeconfig"),
            ("service-account-private-key-file", "service-account.key"),
            ("root-ca-file", "ca.crt"),
            ("cluster-signing-cert-file", "ca.crt"),
            ("cluster-signing-key-file", "ca.key"),
        ] {
            arguments.push(format!("--{flag}={}", self.pki_file(file)));
        }
        arguments
    }

    fn scheduler_arguments(&self) -> Vec<String> {
        vec![
            "--leader-elect=false".to_owned(),
            format!("--kubeconfig={}", self.pki_file("kube-scheduler.kubeconfig")),
        ]
    }
}
