//! What an operator writes, and what the coordinator makes of it: unknown keys are refused, every value is checked before
//! anything starts.

use std::{net::SocketAddr, path::PathBuf};

use proto::member::Member;
use proto_daemon::{api_server::ApiServer, telemetry::LogConfig, tls::CertificateFiles};
use serde::Deserialize;

/// The file as an operator writes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ConfigFile {
    /// The pool.
    pub pool: String,
    /// The node that this coordinator runs on.
    pub node_name: String,
    /// Where members find it on the pool's LAN (mutual TLS).
    pub listen: Vec<SocketAddr>,
    /// This node's member certificate and key; it names `eyot://POOL/NODE`.
    pub member: CertificateFiles,
    /// The pool's authority, which signs the certificates of its members.
    #[serde(rename = "memberCA")]
    pub member_ca: PathBuf,
    /// The API servers, `https://host:port`, in order of preference. Members are relayed to these and to nothing else.
    pub api_servers: Vec<String>,
    /// CA bundle that signed the API servers' certificates.
    #[serde(rename = "apiServerCA")]
    pub api_server_ca: PathBuf,
    /// The coordinator's own client certificate, user `eyot:pool-coordinator:POOL:NODE`.
    pub credential: CertificateFiles,
    /// Unix socket for /livez, /readyz, /metrics and /status.
    #[serde(default = "default_admin")]
    pub admin_socket: PathBuf,
    /// Bounds on what members may ask for.
    #[serde(default)]
    pub limits: LimitsFile,
    /// Log format and level.
    #[serde(default)]
    pub log: LogConfig,
}

/// Bounds.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct LimitsFile {
    /// Connections at a time.
    pub connections: usize,
    /// Of these by one member.
    pub connections_per_member: usize,
    /// Subscriptions at a time; one member has an eighth of them, from 8 to 64.
    pub subscriptions: usize,
    /// Relayed connections at a time; one member has an eighth of them, at least one.
    pub relays: usize,
    /// Largest list that is taken from the cloud, in MiB.
    pub list_mib: usize,
}

impl Default for LimitsFile {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_member: 64,
            subscriptions: 4096,
            relays: 1024,
            list_mib: 64,
        }
    }
}

fn default_admin() -> PathBuf {
    PathBuf::from("/run/eyot-pool/pool-coordinator.sock")
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

/// Settings that can work.
#[derive(Debug)]
pub struct Config {
    /// The file's values.
    pub file: ConfigFile,
    /// Who this coordinator is in its pool.
    pub member: Member,
    /// The API servers, parsed.
    pub servers: Vec<ApiServer>,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`], naming the key.
    pub fn load(path: &std::path::Path) -> Result<Self, ConfigError> {
        Self::try_from(proto_daemon::config::load::<ConfigFile>(path)?)
    }

    /// The user that the credential must name: the cloud's rights and its audit log know the coordinator by it.
    #[must_use]
    pub fn user(&self) -> String {
        format!("eyot:pool-coordinator:{}:{}", self.member.pool, self.member.node)
    }
}

impl TryFrom<ConfigFile> for Config {
    type Error = ConfigError;

    fn try_from(file: ConfigFile) -> Result<Self, ConfigError> {
        if !proto::member::is_name(&file.pool) {
            return Err(refuse("pool", "must be the pool's name, a lower-case DNS name"));
        }
        let member = Member::new(&file.pool, &file.node_name)
            .map_err(|_| refuse("nodeName", "must be the name of this node's Node object"))?;
        if file.listen.is_empty() {
            return Err(refuse(
                "listen",
                "needs at least one address of the LAN, for example 10.0.0.11:10262",
            ));
        }
        if file.api_servers.is_empty() {
            return Err(refuse("apiServers", "needs at least one URL, for example https://10.0.0.1:6443"));
        }
        let limits = file.limits;
        let bounds = [
            limits.connections,
            limits.connections_per_member,
            limits.subscriptions,
            limits.relays,
            limits.list_mib,
        ];
        if bounds.contains(&0) {
            return Err(refuse("limits", "each must be at least 1"));
        }
        let servers = file.api_servers.iter().map(|url| ApiServer::parse(url));
        let servers = servers.collect::<Result<_, _>>().map_err(|why| refuse("apiServers", why))?;
        Ok(Self { file, member, servers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "pool: a\nnodeName: n1\nlisten: ['10.0.0.11:10262']\nmember: {certificate: /c, key: /k}\n\
        memberCA: /m\napiServers: ['https://10.0.0.1:6443']\napiServerCA: /ca\ncredential: {certificate: /c, key: /k}\n";

    fn parse(text: &str) -> Result<Config, String> {
        let directory = tempfile::tempdir().expect("a temporary folder");
        let path = directory.path().join("config.yaml");
        std::fs::write(&path, text).expect("the file is written");
        Config::load(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn the_smallest_file_is_enough() {
        let config = parse(GOOD).expect("valid");
        assert_eq!(config.user(), "eyot:pool-coordinator:a:n1");
        assert_eq!(config.member.to_string(), "eyot://a/n1");
        assert_eq!(config.servers[0].authority.as_str(), "10.0.0.1:6443");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, needle) in [
            (GOOD.replace("https", "http"), "apiServers"),
            (GOOD.replace("pool: a", "pool: A"), "pool"),
            (GOOD.replace("nodeName: n1", "nodeName: ''"), "nodeName"),
            (GOOD.replace("['10.0.0.11:10262']", "[]"), "listen"),
            (GOOD.replace("memberCA", "memberca"), "memberca"),
            (format!("{GOOD}limits: {{relays: 0}}\n"), "limits"),
            (format!("{GOOD}kinds: [secrets]\n"), "kinds"),
        ] {
            let error = parse(&text).expect_err("refused");
            assert!(error.contains(needle), "{error} should name {needle}");
        }
    }
}
