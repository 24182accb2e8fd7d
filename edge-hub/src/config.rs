//! What an operator writes, and what the hub makes of it: unknown keys are refused, defaults are sane, the rest is
//! checked before anything starts.

mod filters;
mod pool;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use edge_hub_core::{reflector::Protocol, token::ExpiredToken};
use proto_daemon::{telemetry::LogConfig, tls::CertificateFiles};
use serde::Deserialize;

pub use self::filters::FiltersFile;
pub use self::pool::{CoordinatorFile, PoolFile};
use crate::upstream::Server;

/// Largest `stateDirectory` unless the file says otherwise, in MiB.
const DEFAULT_STATE_MIB: u64 = 512;

/// The file as an operator writes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ConfigFile {
    /// Name of the Node object that this hub serves.
    pub node_name: String,
    /// Addresses to listen on (TLS); loopback by default.
    #[serde(default = "default_listen")]
    pub listen: Vec<SocketAddr>,
    /// The API servers, `https://host:port`, in order of preference.
    pub api_servers: Vec<String>,
    /// CA bundle that signed the API servers' certificates.
    #[serde(rename = "apiServerCA")]
    pub api_server_ca: PathBuf,
    /// This node's client certificate and key (subject `system:node:NAME`).
    pub credential: CertificateFiles,
    /// CA bundle for clients' certificates; the API servers' CA when absent.
    #[serde(default, rename = "clientCA")]
    pub client_ca: Option<PathBuf>,
    /// The hub's own serving certificate; a per-node CA is made under the state directory when absent.
    #[serde(default)]
    pub serving: Option<CertificateFiles>,
    /// Where data, keys and the boot snapshot live.
    #[serde(default = "default_state")]
    pub state_directory: PathBuf,
    /// 32 bytes that seal the data at rest; made under the state directory when absent.
    #[serde(default)]
    pub at_rest_key: Option<PathBuf>,
    /// Largest size of the data on disk, packed, in MiB.
    #[serde(default = "default_state_mib")]
    pub state_limit_mib: u64,
    /// Unix socket for /livez, /readyz, /metrics and /status.
    #[serde(default = "default_admin")]
    pub admin_socket: PathBuf,
    /// What is allowed while the cloud is away.
    #[serde(default)]
    pub offline: OfflineFile,
    /// What some clients are shown differently.
    #[serde(default)]
    pub filters: FiltersFile,
    /// The pool of this node and its coordinators; without it the hub is on its own.
    #[serde(default)]
    pub pool: Option<PoolFile>,
    /// How collections are fetched: `list` or `watchList`.
    #[serde(default)]
    pub upstream_protocol: ProtocolName,
    /// How long an upstream watch that nobody reads is kept, for example `10m`.
    #[serde(default = "default_idle", with = "humantime_serde")]
    pub idle_watch: Duration,
    /// Bounds on what clients may ask for.
    #[serde(default)]
    pub limits: LimitsFile,
    /// Log format and level.
    #[serde(default)]
    pub log: LogConfig,
}

/// The offline policies.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OfflineFile {
    /// Users admitted while cut when their token's signature holds, even if no pod of this node is bound to it; they
    /// may read whatever the hub holds, so name operators here and nobody else.
    #[serde(default)]
    pub admit: Vec<String>,
    /// What to do with a token that expired while cut: `serve` (default) or `deny`.
    #[serde(default)]
    pub expired_token: ExpiredToken,
}

/// How the first state of a collection is fetched.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProtocolName {
    /// LIST, then WATCH.
    #[default]
    List,
    /// WATCH with initial events.
    WatchList,
}

/// Bounds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct LimitsFile {
    /// Connections at a time.
    pub connections: usize,
    /// Requests in flight of one principal, without watches, logs and upgrades.
    pub requests_per_principal: usize,
    /// Watches, logs and upgrades of one principal. It does not hold for this node itself.
    pub watches_per_principal: usize,
    /// Collections with an upstream watch of their own.
    pub collections: usize,
    /// Largest answer that is taken from the cloud for the cache, in MiB, and the most that lists which are filtered on
    /// their way to clients take together.
    pub list_mib: usize,
    /// Memory of one collection's event ring, in KiB.
    pub ring_kib: usize,
    /// Memory for requests' bodies and answers that are read whole, until clients have read them, in MiB. One user may
    /// have a quarter, and a quarter is this node's alone.
    pub buffers_mib: usize,
    /// Memory for objects of all collections, in MiB. One user may have an eighth; this node may have all.
    pub objects_mib: usize,
    /// Users whose collections count as this node's own, because its traffic depends on them.
    pub node_users: Vec<String>,
}

impl Default for LimitsFile {
    fn default() -> Self {
        Self {
            connections: 2048,
            requests_per_principal: 1024,
            watches_per_principal: 4096,
            collections: 2048,
            list_mib: 64,
            ring_kib: 1024,
            buffers_mib: 32,
            objects_mib: 256,
            node_users: NODE_USERS.map(String::from).to_vec(),
        }
    }
}

/// What programs the traffic of a node is called where kubeadm installs it.
const NODE_USERS: [&str; 3] = [
    "system:kube-proxy",
    "system:serviceaccount:kube-system:kube-proxy",
    "system:serviceaccount:kube-system:coredns",
];

fn default_listen() -> Vec<SocketAddr> {
    vec![SocketAddr::from(([127, 0, 0, 1], 10261))]
}

fn default_state() -> PathBuf {
    PathBuf::from("/var/lib/eyot/edge-hub")
}

fn default_state_mib() -> u64 {
    DEFAULT_STATE_MIB
}

fn default_admin() -> PathBuf {
    PathBuf::from("/run/eyot/edge-hub.sock")
}

fn default_idle() -> Duration {
    Duration::from_mins(10)
}

/// Why the settings were refused; the text says what to change.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file itself.
    #[error(transparent)]
    File(#[from] proto_daemon::config::ConfigError),
    /// A key has a value that cannot work.
    #[error("{key}: {reason}")]
    Value {
        /// The key in the file.
        key: &'static str,
        /// What is wrong and what to do.
        reason: String,
    },
}

fn refuse(key: &'static str, reason: impl Into<String>) -> ConfigError {
    ConfigError::Value { key, reason: reason.into() }
}

/// Settings that can work: every value is checked.
#[derive(Debug)]
pub struct Config {
    /// The file's values.
    pub file: ConfigFile,
    /// The API servers, parsed.
    pub servers: Vec<Server>,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`], naming the key.
    pub fn load(path: &std::path::Path) -> Result<Self, ConfigError> {
        Self::try_from(proto_daemon::config::load::<ConfigFile>(path)?)
    }

    /// CA bundle for clients' certificates.
    #[must_use]
    pub fn client_ca(&self) -> &std::path::Path {
        self.file.client_ca.as_deref().unwrap_or(&self.file.api_server_ca)
    }

    /// Where the hub's own authority lies, which signs its serving certificate unless the operator gave one.
    #[must_use]
    pub fn own_pki(&self) -> std::path::PathBuf {
        self.file.state_directory.join("pki")
    }

    /// The reflectors' protocol.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        match self.file.upstream_protocol {
            ProtocolName::List => Protocol::List,
            ProtocolName::WatchList => Protocol::WatchList,
        }
    }
}

impl TryFrom<ConfigFile> for Config {
    type Error = ConfigError;

    fn try_from(file: ConfigFile) -> Result<Self, ConfigError> {
        if !is_dns_subdomain(&file.node_name) {
            let why = "must be the name of this node's Node object: 1 to 253 lower-case letters, digits, '-' and '.'";
            return Err(refuse("nodeName", why));
        }
        if file.listen.is_empty() {
            return Err(refuse("listen", "needs at least one address, for example 127.0.0.1:10261"));
        }
        if file.api_servers.is_empty() {
            return Err(refuse("apiServers", "needs at least one URL, for example https://10.0.0.1:6443"));
        }
        if !file.state_directory.is_absolute() {
            return Err(refuse("stateDirectory", "must be an absolute path"));
        }
        if file.state_limit_mib < 16 {
            return Err(refuse("stateLimitMib", "must be at least 16"));
        }
        let limits = &file.limits;
        if [limits.connections, limits.requests_per_principal, limits.watches_per_principal].contains(&0) {
            let why = "connections, requestsPerPrincipal and watchesPerPrincipal must be at least 1";
            return Err(refuse("limits", why));
        }
        if limits.buffers_mib < 4 || limits.objects_mib < 16 {
            let why = "buffersMib must be at least 4 (a body may have 3 MiB), and objectsMib at least 16";
            return Err(refuse("limits", why));
        }
        if file.idle_watch < Duration::from_secs(30) {
            return Err(refuse("idleWatch", "must be at least 30s, or each read would list again"));
        }
        file.filters.check(&file.listen)?;
        if let Some(pool) = &file.pool {
            pool.check(&file.node_name).map_err(|(key, reason)| refuse(key, reason))?;
        }
        let servers = file.api_servers.iter().map(|url| Server::parse(url));
        let servers = servers.collect::<Result<_, _>>().map_err(|why| refuse("apiServers", why))?;
        Ok(Self { file, servers })
    }
}

/// Whether this can be the name of a Node (RFC 1123, as kube-apiserver checks it).
fn is_dns_subdomain(name: &str) -> bool {
    let is_label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(inner)
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "nodeName: a\napiServers: ['https://10.0.0.1:6443']\napiServerCA: /ca\ncredential: {certificate: /c, key: /k}\n";

    const POOL: &str = "pool: {name: a, coordinators: [{node: n1, address: '10.0.0.11:10262'}], \
        member: {certificate: /c, key: /k}, memberCA: /m}\n";

    fn parse(text: &str) -> Result<Config, String> {
        let directory = tempfile::tempdir().expect("a temporary folder");
        let path = directory.path().join("config.yaml");
        std::fs::write(&path, text).expect("the file is written");
        Config::load(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn the_smallest_file_is_enough() {
        let config = parse(GOOD).expect("valid");
        assert_eq!(config.file.listen, default_listen());
        assert_eq!(config.client_ca(), std::path::Path::new("/ca"));
        assert_eq!(config.servers[0].authority.as_str(), "10.0.0.1:6443");
        assert!(config.file.pool.is_none());
        let pool = parse(&format!("{GOOD}{POOL}")).expect("valid").file.pool.expect("it is named");
        assert_eq!(pool.coordinators[0].address, "10.0.0.11:10262");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, needle) in [
            (GOOD.replace("https", "http"), "apiServers"),
            (GOOD.replace("nodeName: a", "nodeName: ''"), "nodeName"),
            (GOOD.replace("nodeName: a", "nodeName: 'a,b'"), "nodeName"),
            (GOOD.replace("nodeName: a", "nodeName: Node-1"), "nodeName"),
            (format!("{GOOD}listen: []\n"), "listen"),
            (format!("{GOOD}lisen: []\n"), "lisen"),
            (format!("{GOOD}stateDirectory: here\n"), "stateDirectory"),
            (format!("{GOOD}idleWatch: 1s\n"), "idleWatch"),
            (format!("{GOOD}filters: {{hubAddress: '127.0.0.1:10261'}}\n"), "filters.hubAddress"),
            (format!("{GOOD}{}", POOL.replace("name: a", "name: A")), "pool.name"),
            (format!("{GOOD}{}", POOL.replace("10.0.0.11:10262", "10.0.0.11")), "pool.coordinators"),
            (format!("{GOOD}{}", POOL.replace("node: n1, ", "")), "node"),
            (format!("{GOOD}{}", POOL.replace("memberCA", "ca")), "ca"),
            (
                format!("{GOOD}filters: {{rules: [{{user: jo, resource: pods, filter: all}}]}}\n"),
                "filters.rules",
            ),
        ] {
            let error = parse(&text).expect_err("refused");
            assert!(error.contains(needle), "{error} should name {needle}");
        }
    }
}
