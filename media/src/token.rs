//! Who may do what: tokens are checked against a key set in a file, which is read again when it changes. No network.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use media_core::{
    claims::{Claims, Wish},
    whip::Refusal,
};
use proto::jwt::{Jwt, JwtError, KeySet, MAX_KEY_SET_BYTES};
use proto_daemon::signature;

/// Why the key set could not be read.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file.
    #[error("{}: cannot read the key set: {source}; check tokens.keys", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its content.
    #[error("{}: no JWKS: {source}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: JwtError,
    },
    /// No key in it can sign tokens.
    #[error("{}: no key for EdDSA, ES256 or RS256 in it", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// What tells one version of a file from the next. The kubelet swaps a link, so inode and time are both new.
type Stamp = (u64, u64, i64, i64);

struct Loaded {
    keys: Arc<KeySet>,
    /// The version that was read.
    stamp: Option<Stamp>,
    /// The version that could not be, which is said once.
    failed: Option<Option<Stamp>>,
}

/// The keys whose tokens are taken.
pub struct TokenKeys {
    path: PathBuf,
    loaded: Mutex<Loaded>,
}

impl TokenKeys {
    /// Reads the key set at `path`.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn load(path: &Path) -> Result<Self, KeysError> {
        let stamp = stamp(path);
        let keys = Arc::new(read(path)?);
        // Who starts without a key has most likely not written it yet.
        if keys.keys.is_empty() {
            return Err(KeysError::Empty { path: path.to_owned() });
        }
        Ok(Self { path: path.to_owned(), loaded: Mutex::new(Loaded { keys, stamp, failed: None }) })
    }

    /// The present keys. A file that cannot be read leaves the former ones in place, and is tried again by the next request;
    /// one that can be read and holds no key takes them all back.
    fn keys(&self) -> Arc<KeySet> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamp(&self.path);
        if now != loaded.stamp {
            match read(&self.path) {
                Ok(keys) => {
                    (loaded.stamp, loaded.failed) = (now, None);
                    tracing::info!(path = %self.path.display(), keys = keys.keys.len(), "the key set is new");
                    loaded.keys = Arc::new(keys);
                }
                Err(error) => {
                    if loaded.failed.replace(now) != Some(now) {
                        tracing::warn!(%error, "the former key set stays");
                    }
                }
            }
        }
        Arc::clone(&loaded.keys)
    }

    /// What the token in an `Authorization` header says, if it allows `wish` at `now` (the time since 1970).
    ///
    /// # Errors
    /// 401 or 403.
    pub fn check(
        &self,
        authorization: Option<&str>,
        wish: Wish<'_>,
        now: Duration,
    ) -> Result<Claims, Refusal> {
        let token = authorization.and_then(|header| {
            let (scheme, token) = header.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
        });
        let token = token.ok_or_else(|| Refusal::unauthorized("no `Authorization: Bearer TOKEN`"))?;
        let jwt: Jwt<'_, Claims> =
            Jwt::parse(token).map_err(|error| Refusal::unauthorized(format!("the token: {error}")))?;
        let keys = self.keys();
        let mut candidates = keys.candidates(jwt.key_id.as_deref(), jwt.algorithm).peekable();
        if candidates.peek().is_none() {
            return Err(Refusal::unauthorized("the token: unknown key id, or no key for its algorithm"));
        }
        let holds = candidates.any(|key| {
            let components = key.public.components();
            signature::holds(jwt.algorithm.name(), components, jwt.signing_input, &jwt.signature)
        });
        if !holds {
            return Err(Refusal::unauthorized("the token: its signature does not hold"));
        }
        jwt.claims.allow(wish, now)?;
        Ok(jwt.claims)
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
}

fn read(path: &Path) -> Result<KeySet, KeysError> {
    let failed = |source| KeysError::Read { path: path.to_owned(), source };
    let mut document = Vec::new();
    let limit = MAX_KEY_SET_BYTES as u64 + 1;
    fs::File::open(path).map_err(failed)?.take(limit).read_to_end(&mut document).map_err(failed)?;
    KeySet::parse(&document).map_err(|source| KeysError::Invalid { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const KEYS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    #[test]
    fn an_empty_set_is_taken_and_one_that_cannot_be_read_is_tried_again() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (path, real) = (folder.path().join("jwks.json"), folder.path().join("real.json"));
        fs::write(&real, KEYS).expect("written");
        symlink(&real, &path).expect("linked");
        let keys = TokenKeys::load(&path).expect("one key");
        assert_eq!(keys.keys().keys.len(), 1);
        // A folder has a stamp, too, and reading it fails.
        fs::remove_file(&real).expect("it was there");
        fs::create_dir(&real).expect("made");
        assert_eq!(keys.keys().keys.len(), 1, "the former key stays");
        assert_ne!(
            keys.loaded.lock().expect("whole").stamp,
            stamp(&path),
            "what was not read is tried again"
        );
        fs::remove_dir(&real).expect("it was there");
        fs::write(&real, r#"{"keys":[]}"#).expect("written");
        assert_eq!(keys.keys().keys.len(), 0, "who empties the set takes every token back");
        assert!(matches!(TokenKeys::load(&path), Err(KeysError::Empty { .. })));
    }
}
