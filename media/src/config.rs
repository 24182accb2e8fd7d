//! What an operator writes, and what the engine makes of it: unknown keys are refused, defaults are sane, the rest is
//! checked before anything starts.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use proto_daemon::telemetry::LogConfig;
use serde::Deserialize;

use crate::ice_servers::IceServerFile;

/// The file as an operator writes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ConfigFile {
    /// Where WHIP and WHEP are spoken.
    #[serde(default)]
    pub http: HttpFile,
    /// Where media comes and goes.
    #[serde(default)]
    pub media: MediaFile,
    /// Whose tokens let in. Without it nobody needs one, and the engine listens on loopback alone.
    #[serde(default)]
    pub tokens: Option<TokensFile>,
    /// Origins whose pages may speak with the engine; `*` for any.
    #[serde(default = "any_origin")]
    pub cors: Vec<String>,
    /// TURN and STUN servers that clients are told of.
    #[serde(default)]
    pub ice_servers: Vec<IceServerFile>,
    /// Bounds on what clients may take.
    #[serde(default)]
    pub limits: LimitsFile,
    /// How long calls may go on after SIGTERM; below the pod's `terminationGracePeriodSeconds` by 5 s.
    #[serde(default = "default_drain", with = "humantime_serde")]
    pub drain_limit: Duration,
    /// How long a tombstone without sessions waits for one before it may be removed.
    #[serde(default = "default_quiet", with = "humantime_serde")]
    pub quiet: Duration,
    /// Keeps the engine's state over a restart of its container; without it a restart begins anew.
    #[serde(default)]
    pub state_file: Option<PathBuf>,
    /// Unix socket for /livez, /readyz, /metrics and /status.
    #[serde(default = "default_admin")]
    pub admin_socket: PathBuf,
    /// Log format and level.
    #[serde(default)]
    pub log: LogConfig,
}

/// The part `http`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct HttpFile {
    /// Address and TCP port.
    pub listen: SocketAddr,
}

impl Default for HttpFile {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 7080)) }
    }
}

/// The part `media`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct MediaFile {
    /// Address and UDP port.
    pub listen: SocketAddr,
    /// The address under which clients reach that port, if it is not the one that is listened on.
    pub candidate: Option<IpAddr>,
}

impl Default for MediaFile {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 7000)), candidate: None }
    }
}

/// The part `tokens`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TokensFile {
    /// A JWKS document with the keys that sign tokens; read again when it changes.
    pub keys: PathBuf,
}

/// The part `limits`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct LimitsFile {
    /// Sessions at a time.
    pub sessions: usize,
    /// HTTP connections at a time.
    pub connections: usize,
    /// Those of one address.
    pub connections_per_address: usize,
}

impl Default for LimitsFile {
    fn default() -> Self {
        Self { sessions: 1000, connections: 512, connections_per_address: 64 }
    }
}

fn any_origin() -> Vec<String> {
    vec!["*".to_owned()]
}

fn default_drain() -> Duration {
    Duration::from_secs(25)
}

fn default_quiet() -> Duration {
    Duration::from_secs(30)
}

fn default_admin() -> PathBuf {
    PathBuf::from("/run/eyot/media-engine.sock")
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file.
    #[error(transparent)]
    File(#[from] proto_daemon::config::ConfigError),
    /// A value that does not fit another.
    #[error("{key}: {reason}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong, and what to write.
        reason: String,
    },
}

/// The settings, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// As written.
    pub file: ConfigFile,
    /// Where HTTP listens in fact.
    pub http: SocketAddr,
    /// Where media listens in fact.
    pub media: SocketAddr,
    /// The address that answers name to clients.
    pub candidate: IpAddr,
}

impl Config {
    /// Reads and checks the file. `candidate`, from the command line, comes before the file's.
    ///
    /// # Errors
    /// [`ConfigError`] names the key.
    pub fn load(path: &Path, candidate: Option<IpAddr>) -> Result<Self, ConfigError> {
        Self::check(proto_daemon::config::load(path)?, candidate)
    }

    fn check(file: ConfigFile, candidate: Option<IpAddr>) -> Result<Self, ConfigError> {
        let value = |key, reason: &str| ConfigError::Value { key, reason: reason.to_owned() };
        file.log.check().map_err(|error| value("log.level", &error.to_string()))?;
        let LimitsFile { sessions, connections, connections_per_address } = file.limits;
        if [sessions, connections, connections_per_address].contains(&0) {
            return Err(value("limits", "0 lets nobody in; write at least 1"));
        }
        if let Some(origin) = file.cors.iter().find(|origin| !is_origin(origin)) {
            let reason =
                format!("{origin:?} is no origin; write `*` or, for example, `https://calls.example`");
            return Err(ConfigError::Value { key: "cors", reason });
        }
        if let Some(reason) = file.ice_servers.iter().find_map(IceServerFile::fault) {
            return Err(ConfigError::Value { key: "iceServers", reason });
        }
        let mut candidate = candidate.or(file.media.candidate).unwrap_or_else(|| file.media.listen.ip());
        let (mut http, mut media) = (file.http.listen, file.media.listen);
        if file.tokens.is_none() {
            let keep = |address: IpAddr| if address.is_loopback() { address } else { [127, 0, 0, 1].into() };
            http.set_ip(keep(http.ip()));
            media.set_ip(keep(media.ip()));
            candidate = media.ip();
        }
        if candidate.is_unspecified() {
            let reason =
                "clients cannot reach an unspecified address; write media.candidate, or give --candidate";
            return Err(value("media.candidate", reason));
        }
        if candidate.is_ipv4() != media.is_ipv4() {
            return Err(value("media.candidate", "it is of another family than media.listen"));
        }
        Ok(Self { file, http, media, candidate })
    }

    /// Whether listeners were moved to loopback, because nobody needs a token.
    #[must_use]
    pub fn is_narrowed(&self) -> bool {
        self.http != self.file.http.listen || self.media != self.file.media.listen
    }
}

fn is_origin(origin: &str) -> bool {
    let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    let bare = |host: &str| !host.is_empty() && !host.contains(['/', ' ', '?', '#', '*']) && host.is_ascii();
    origin == "*" || host.is_some_and(bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, candidate: Option<&str>) -> Result<Config, ConfigError> {
        let file = proto_daemon::config::parse(Path::new("x.yaml"), text)?;
        Config::check(file, candidate.map(|address| address.parse().expect("an address")))
    }

    const TOKENS: &str = "tokens: {keys: /k}\n";

    #[test]
    fn without_tokens_only_loopback_is_listened_on() {
        let config =
            load("http: {listen: '0.0.0.0:80'}\nmedia: {listen: '10.0.0.1:81'}", None).expect("good");
        assert_eq!((config.http, config.media), (([127, 0, 0, 1], 80).into(), ([127, 0, 0, 1], 81).into()));
        assert!(config.is_narrowed() && config.candidate.is_loopback());
        assert!(!load("log: {}", None).expect("good").is_narrowed());
    }

    #[test]
    fn the_command_lines_candidate_comes_first() {
        let text = format!("{TOKENS}media: {{listen: '0.0.0.0:7000', candidate: 10.0.0.1}}");
        let of = |candidate| load(&text, candidate).expect("good").candidate.to_string();
        assert_eq!((of(None), of(Some("10.0.0.2"))), ("10.0.0.1".to_owned(), "10.0.0.2".to_owned()));
    }

    #[test]
    fn each_mistake_is_named() {
        for (text, needle) in [
            (format!("{TOKENS}media: {{listen: '0.0.0.0:7000'}}"), "media.candidate"),
            (format!("{TOKENS}media: {{listen: '0.0.0.0:7000', candidate: '::1'}}"), "family"),
            ("cors: [calls.example]".to_owned(), "origin"),
            ("cors: ['https://*.example']".to_owned(), "origin"),
            ("iceServers: [{urls: ['turn:a']}]".to_owned(), "secretFile"),
            ("limits: {sessions: 0}".to_owned(), "limits"),
            ("limits: {session: 1}".to_owned(), "session"),
            ("log: {level: 'info,x=loud'}".to_owned(), "loud"),
            ("drainLimit: 5 parsecs".to_owned(), "drainLimit"),
        ] {
            let error = load(&text, None).expect_err(needle).to_string();
            assert!(error.contains(needle), "{error} should name {needle}");
        }
    }
}
