//! What an operator writes for either program, and what they make of it: unknown keys are refused, the rest is checked
//! before anything starts.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use cloud_tunnel_core::allow::AllowList;
use cloud_tunnel_core::route::Pool;
use proto_daemon::telemetry::LogConfig;
use proto_daemon::tls::CertificateFiles;
use rustls_pki_types::ServerName;
use serde::Deserialize;

use crate::link::dial::Server;

/// The longest name of a node or a pool, in bytes: that of a DNS name.
const MAX_NAME_BYTES: usize = 253;

/// The server's file as an operator writes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServerFile {
    /// Addresses where agents arrive (TLS 1.3).
    #[serde(default = "default_listen")]
    pub listen: Vec<SocketAddr>,
    /// The server's certificate and key; agents check its name.
    pub serving: CertificateFiles,
    /// Who signs the certificates of agents, subject `system:node:NAME`: the cluster's CA.
    #[serde(rename = "clientCA")]
    pub client_ca: PathBuf,
    /// The pool that this server leads to.
    pub pool: PoolFile,
    /// The doors for API servers.
    #[serde(default)]
    pub doors: DoorsFile,
    /// Unix socket for /livez, /readyz, /metrics and /status.
    #[serde(default = "default_server_admin")]
    pub admin_socket: PathBuf,
    /// Log format and level.
    #[serde(default)]
    pub log: LogConfig,
}

/// A pool as the server knows it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PoolFile {
    /// Its name, for people.
    pub name: String,
    /// The names of its Node objects; dials go to these and only their certificates may bring up a link.
    pub nodes: Vec<String>,
}

/// The doors of the server.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DoorsFile {
    /// Unix socket of the protocol `HTTPConnect`, which kube-apiserver's EgressSelectorConfiguration names.
    #[serde(default = "default_http_connect")]
    pub http_connect: PathBuf,
}

impl Default for DoorsFile {
    fn default() -> Self {
        Self { http_connect: default_http_connect() }
    }
}

/// The agent's file as an operator writes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AgentFile {
    /// Name of the Node object that this agent runs on; its certificate's subject is `system:node:NAME`.
    pub node_name: String,
    /// The pool's name, for logs and metrics.
    pub pool: String,
    /// The tunnel-servers, `HOST:PORT`, in order of preference.
    pub servers: Vec<String>,
    /// The name in the servers' certificates, where it is not HOST.
    #[serde(default)]
    pub server_name: Option<String>,
    /// Who signs the servers' certificates.
    #[serde(rename = "serverCA")]
    pub server_ca: PathBuf,
    /// This node's client certificate and key.
    pub credential: CertificateFiles,
    /// The nodes whose kubelets may be dialled for the cloud, and no other.
    pub nodes: Vec<NodeFile>,
    /// Unix socket for /livez, /readyz, /metrics and /status.
    #[serde(default = "default_agent_admin")]
    pub admin_socket: PathBuf,
    /// Log format and level.
    #[serde(default)]
    pub log: LogConfig,
}

/// A node of the agent's pool.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NodeFile {
    /// The name of its Node object.
    pub name: String,
    /// Its address on the pool's own network.
    pub address: IpAddr,
}

fn default_listen() -> Vec<SocketAddr> {
    vec![SocketAddr::from(([0, 0, 0, 0], 10264))]
}

fn default_http_connect() -> PathBuf {
    PathBuf::from("/run/eyot-tunnel/http-connect.sock")
}

fn default_server_admin() -> PathBuf {
    PathBuf::from("/run/eyot-tunnel/tunnel-server.sock")
}

fn default_agent_admin() -> PathBuf {
    PathBuf::from("/run/eyot-tunnel-agent/tunnel-agent.sock")
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

/// Settings of the server that can work.
#[derive(Debug)]
pub struct ServerConfig {
    /// The file's values.
    pub file: ServerFile,
    /// The pool.
    pub pool: Pool,
}

/// Settings of the agent that can work.
#[derive(Debug)]
pub struct AgentConfig {
    /// The file's values.
    pub file: AgentFile,
    /// The servers, with the names that their certificates must have.
    pub servers: Vec<Server>,
    /// What may be dialled.
    pub allow: AllowList,
}

impl ServerConfig {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`], naming the key.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file: ServerFile = proto_daemon::config::load(path)?;
        if file.listen.is_empty() {
            return Err(refuse("listen", "name at least one address, such as 0.0.0.0:10264"));
        }
        name("pool.name", &file.pool.name)?;
        names("pool.nodes", file.pool.nodes.iter().map(String::as_str))?;
        absolute("doors.httpConnect", &file.doors.http_connect)?;
        absolute("adminSocket", &file.admin_socket)?;
        if file.admin_socket == file.doors.http_connect {
            return Err(refuse("adminSocket", "is the door's socket, too; give it a path of its own"));
        }
        log(&file.log)?;
        let pool = Pool::new(file.pool.name.clone(), file.pool.nodes.iter().cloned());
        Ok(Self { file, pool })
    }
}

impl AgentConfig {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`], naming the key.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file: AgentFile = proto_daemon::config::load(path)?;
        name("nodeName", &file.node_name)?;
        name("pool", &file.pool)?;
        names("nodes", file.nodes.iter().map(|node| node.name.as_str()))?;
        if let Some(node) = file.nodes.iter().find(|node| !is_host_address(node.address)) {
            let address = node.address;
            return Err(refuse("nodes", format!("{address} of {} is no address of a node", node.name)));
        }
        absolute("adminSocket", &file.admin_socket)?;
        log(&file.log)?;
        if file.servers.is_empty() {
            return Err(refuse("servers", "name at least one server, HOST:PORT"));
        }
        let servers = file.servers.iter().map(|address| server(address, file.server_name.as_deref()));
        let servers = servers.collect::<Result<_, _>>()?;
        let allow = AllowList::new(file.nodes.iter().map(|node| (node.name.clone(), node.address)));
        Ok(Self { servers, allow, file })
    }
}

/// Whether a node can have this address.
fn is_host_address(address: IpAddr) -> bool {
    !(address.is_unspecified() || address.is_multicast())
}

fn server(address: &str, name: Option<&str>) -> Result<Server, ConfigError> {
    let target = cloud_tunnel_core::connect::parse_authority(address);
    let target = target.ok_or_else(|| {
        refuse("servers", format!("{address:?}: write HOST:PORT, such as tunnel.example.com:10264"))
    })?;
    let (key, name) = name.map_or(("servers", target.host.as_str()), |name| ("serverName", name));
    let name = ServerName::try_from(name.to_owned())
        .map_err(|_| refuse(key, format!("{name:?} is no name that a certificate can have")))?;
    Ok(Server { address: target.to_string(), name })
}

fn name(key: &'static str, name: &str) -> Result<(), ConfigError> {
    let of_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(of_name) {
        return Err(refuse(
            key,
            format!("{name:?}: use lower-case letters, digits, '-' and '.', as Kubernetes does"),
        ));
    }
    Ok(())
}

fn names<'a>(key: &'static str, list: impl Iterator<Item = &'a str>) -> Result<(), ConfigError> {
    let mut seen = BTreeSet::new();
    for each in list {
        name(key, each)?;
        if !seen.insert(each) {
            return Err(refuse(key, format!("{each} is named twice")));
        }
    }
    if seen.is_empty() { Err(refuse(key, "name at least one node")) } else { Ok(()) }
}

fn absolute(key: &'static str, path: &Path) -> Result<(), ConfigError> {
    if path.is_absolute() { Ok(()) } else { Err(refuse(key, "write an absolute path")) }
}

fn log(log: &LogConfig) -> Result<(), ConfigError> {
    log.check().map_err(|error| refuse("log.level", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str = "serving: {certificate: /c, key: /k}\nclientCA: /ca\npool: {name: hangzhou, nodes: [node-1, node-2]}\n";
    const AGENT: &str = "nodeName: node-1\npool: hangzhou\nservers: ['tunnel.example.com:10264']\nserverCA: /ca\n\
        credential: {certificate: /c, key: /k}\nnodes: [{name: node-1, address: 192.168.77.11}]\n";

    fn written<T>(text: &str, load: impl Fn(&Path) -> Result<T, ConfigError>) -> Result<T, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("config.yaml");
        std::fs::write(&path, text).expect("the file is written");
        load(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn the_smallest_files_are_enough() {
        let server = written(SERVER, ServerConfig::load).expect("valid");
        assert!(server.pool.has("node-2"));
        assert_eq!(server.file.listen, default_listen());
        let agent = written(AGENT, AgentConfig::load).expect("valid");
        assert_eq!((agent.servers[0].address.as_str(), agent.allow.len()), ("tunnel.example.com:10264", 1));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, needle) in [
            (format!("{SERVER}listen: []\n"), "listen"),
            (format!("{SERVER}lisen: []\n"), "lisen"),
            (SERVER.replace("hangzhou", "Hangzhou City"), "pool.name"),
            (SERVER.replace("[node-1, node-2]", "[]"), "pool.nodes"),
            (SERVER.replace("node-2", "node-1"), "node-1 is named twice"),
            (format!("{SERVER}doors: {{httpConnect: here.sock}}\n"), "doors.httpConnect"),
            (format!("{SERVER}doors: {{httpConnect: /s}}\nadminSocket: /s\n"), "adminSocket"),
            (format!("{SERVER}log: {{level: 'info,x=loud'}}\n"), "log.level"),
        ] {
            let error = written(&text, ServerConfig::load).expect_err("refused");
            assert!(error.contains(needle), "{error} should name {needle}");
        }
        for (text, needle) in [
            (AGENT.replace(":10264", ""), "servers"),
            (AGENT.replace("['tunnel.example.com:10264']", "[]"), "servers"),
            (format!("{AGENT}serverName: 'a b'\n"), "serverName"),
            (AGENT.replace("192.168.77.11", "0.0.0.0"), "nodes"),
            (AGENT.replace("192.168.77.11", "here"), "nodes"),
            (AGENT.replace("nodeName: node-1", "nodeName: ''"), "nodeName"),
        ] {
            let error = written(&text, AgentConfig::load).expect_err("refused");
            assert!(error.contains(needle), "{error} should name {needle}");
        }
    }
}
