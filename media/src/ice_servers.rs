//! TURN and STUN servers that clients are told of, with credentials by time and a shared secret.
//!
//! Sources: RFC 9725 s4.6 (`Link`), the TURN REST API (draft-uberti-behave-turn-rest-00) as coturn's `use-auth-secret` has it.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

use crate::crypto;

/// Longest secret, in bytes.
const MAX_SECRET_BYTES: u64 = 1024;

/// Servers as an operator writes them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct IceServerFile {
    /// `stun:`, `turn:` or `turns:` URLs (RFC 7064, RFC 7065).
    pub urls: Vec<String>,
    /// The secret that the servers share with the engine (coturn: `static-auth-secret`); read again for each session.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// How long credentials hold.
    #[serde(default = "default_lifetime", with = "humantime_serde")]
    pub lifetime: Duration,
}

fn default_lifetime() -> Duration {
    Duration::from_hours(12)
}

impl IceServerFile {
    /// What is wrong with it, if anything.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        if self.urls.is_empty() {
            return Some(
                "urls is empty; write for example `turn:turn.example:3478?transport=udp`".to_owned(),
            );
        }
        for url in &self.urls {
            let scheme = url.split(':').next().unwrap_or_default();
            let plain =
                |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b',');
            if !url.contains(':')
                || !url.bytes().all(plain)
                || !["stun", "stuns", "turn", "turns"].contains(&scheme)
            {
                return Some(format!("{url:?} is no stun: or turn: URL"));
            }
            if scheme.starts_with("turn") != self.secret_file.is_some() {
                return Some("turn: needs secretFile, stun: has none; write them as two entries".to_owned());
            }
        }
        None
    }
}

/// The servers, and the secrets as they were read last.
pub struct IceServers {
    servers: Vec<(IceServerFile, Mutex<Vec<u8>>)>,
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut secret = Vec::new();
    File::open(path)?.take(MAX_SECRET_BYTES + 1).read_to_end(&mut secret)?;
    while secret.last().is_some_and(u8::is_ascii_whitespace) {
        secret.pop();
    }
    if secret.is_empty() || secret.len() as u64 > MAX_SECRET_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a secret has 1 to 1024 bytes"));
    }
    Ok(secret)
}

impl IceServers {
    /// Reads the secrets of `servers`.
    ///
    /// # Errors
    /// A file cannot be read; it is named.
    pub fn load(servers: Vec<IceServerFile>) -> Result<Self, String> {
        let load = |server: IceServerFile| {
            let named = |path: &Path| read(path).map_err(|error| format!("{}: {error}", path.display()));
            let secret = server.secret_file.as_deref().map_or(Ok(Vec::new()), named)?;
            Ok((server, Mutex::new(secret)))
        };
        Ok(Self { servers: servers.into_iter().map(load).collect::<Result<_, String>>()? })
    }

    /// A value of the header `Link` for each URL, for the session of `subject` at `now`, the time since 1970.
    pub fn links(&self, subject: &str, now: Duration) -> Vec<String> {
        let mut links = Vec::new();
        for (server, secret) in &self.servers {
            let Some(path) = &server.secret_file else {
                links.extend(server.urls.iter().map(|url| format!("<{url}>; rel=\"ice-server\"")));
                continue;
            };
            let mut secret = secret.lock().unwrap_or_else(PoisonError::into_inner);
            match read(path) {
                Ok(new) => *secret = new,
                // The former one may still hold.
                Err(error) => tracing::warn!(path = %path.display(), %error, "cannot read the TURN secret"),
            }
            let (user, password) = credentials(&secret, subject, now + server.lifetime);
            links.extend(server.urls.iter().map(|url| {
                format!(
                    "<{url}>; rel=\"ice-server\"; username=\"{user}\"; credential=\"{password}\"; \
                     credential-type=\"password\""
                )
            }));
        }
        links
    }
}

/// `EXPIRY:WHO`, in unix seconds, and its HMAC-SHA1 in base64.
fn credentials(secret: &[u8], subject: &str, expiry: Duration) -> (String, String) {
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let who: String = subject.chars().filter(plain).take(64).collect();
    let user = format!("{}:{who}", expiry.as_secs());
    let password = STANDARD.encode(crypto::hmac_sha1(secret, &[user.as_bytes()]));
    (user, password)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(urls: &[&str], secret: Option<&Path>) -> IceServerFile {
        IceServerFile {
            urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            secret_file: secret.map(Path::to_owned),
            lifetime: Duration::from_secs(600),
        }
    }

    #[test]
    fn credentials_are_what_coturn_computes() {
        // printf %s 1700000600:ann | openssl dgst -sha1 -hmac north -binary | base64
        let (user, password) = credentials(b"north", "a\"n n", Duration::from_secs(1_700_000_600));
        assert_eq!((user.as_str(), password.as_str()), ("1700000600:ann", "7frJsC9X1ENSUqDpiZimUxlaSY8="));
    }

    #[test]
    fn each_url_is_a_link_and_a_new_secret_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        std::fs::write(&path, "north\n").expect("written");
        let turn = server(&["turn:192.0.2.1:3478?transport=udp", "turns:192.0.2.1:5349"], Some(&path));
        let servers = IceServers::load(vec![server(&["stun:192.0.2.1"], None), turn]).expect("read");
        let links = servers.links("ann", Duration::from_secs(1_700_000_000));
        assert_eq!(links[0], "<stun:192.0.2.1>; rel=\"ice-server\"");
        assert_eq!(
            links[1],
            "<turn:192.0.2.1:3478?transport=udp>; rel=\"ice-server\"; username=\"1700000600:ann\"; \
             credential=\"7frJsC9X1ENSUqDpiZimUxlaSY8=\"; credential-type=\"password\""
        );
        assert_eq!(links.len(), 3);
        std::fs::write(&path, "south").expect("written");
        assert_ne!(servers.links("ann", Duration::from_secs(1_700_000_000))[1], links[1]);
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(servers.links("ann", Duration::ZERO).len(), 3, "the former one stays");
        assert!(
            IceServers::load(vec![server(&["turn:a"], Some(&path))]).is_err_and(|e| e.contains("secret"))
        );
    }

    #[test]
    fn each_mistake_is_named() {
        let path = Path::new("/s");
        for (urls, secret, words) in [
            (&[][..], None, "empty"),
            (&["http://a"], None, "no stun"),
            (&["turn:a\">"], Some(path), "no stun"),
            (&["turn:a"], None, "secretFile"),
            (&["stun:a"], Some(path), "secretFile"),
        ] {
            let fault = server(urls, secret).fault();
            assert!(fault.as_ref().is_some_and(|fault| fault.contains(words)), "{fault:?}");
        }
        assert_eq!(server(&["turn:a", "turns:b?transport=tcp"], Some(path)).fault(), None);
    }
}
