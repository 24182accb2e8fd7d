//! The key at rest: 32 bytes from a file, and the subkeys that are made from it for each purpose.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use ring::{
    aead::{AES_256_GCM, LessSafeKey, UnboundKey},
    hkdf::{self, KeyType},
    hmac,
    rand::{SecureRandom, SystemRandom},
};

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file system refused.
    #[error("key file {}", .0.display())]
    Io(PathBuf, #[source] std::io::Error),
    /// The file does not hold 32 bytes.
    #[error("key file {} must hold exactly 32 bytes", .0.display())]
    Length(PathBuf),
    /// The file can be read or written by users who are neither owner nor group.
    #[error("key file {} has mode {:o}: others must not have access to it", .0.display(), .1)]
    Exposed(PathBuf, u32),
    /// The operating system gave no randomness.
    #[error("no randomness to make a key from")]
    Random,
}

/// The root of everything sealed in a store directory. Its bytes never leave it.
#[derive(Clone)]
pub struct AtRestKey {
    root: hkdf::Prk,
}

impl AtRestKey {
    /// From 32 bytes, for instance unsealed by a TPM.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self { root: hkdf::Salt::new(hkdf::HKDF_SHA256, b"eyot edge-hub store 1").extract(bytes) }
    }

    /// From a file of exactly 32 bytes (also a systemd credential).
    ///
    /// # Errors
    /// The file is missing, of another length, or open to others.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let io = |error| KeyError::Io(path.to_owned(), error);
        let file = File::open(path).map_err(io)?;
        let mode = file.metadata().map_err(io)?.mode() & 0o7777;
        if mode & 0o007 != 0 {
            return Err(KeyError::Exposed(path.to_owned(), mode));
        }
        let mut bytes = Vec::with_capacity(33);
        file.take(33).read_to_end(&mut bytes).map_err(io)?;
        let bytes: [u8; 32] =
            bytes.as_slice().try_into().map_err(|_wrong_length| KeyError::Length(path.to_owned()))?;
        Ok(Self::from_bytes(&bytes))
    }

    /// From a file, which is made with a random key and mode 0600 when it does not exist.
    ///
    /// # Errors
    /// As `load`; `Random`.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        if !path.try_exists().map_err(|error| KeyError::Io(path.to_owned(), error))? {
            Self::create(path)?;
        }
        Self::load(path)
    }

    fn create(path: &Path) -> Result<(), KeyError> {
        let mut bytes = [0u8; 32];
        SystemRandom::new().fill(&mut bytes).map_err(|_no_randomness| KeyError::Random)?;
        let io = |error| KeyError::Io(path.to_owned(), error);
        // Written aside and linked: a crash leaves no half key, and a key made by somebody else meanwhile wins.
        let temporary = path.with_extension(format!("new-{}", std::process::id()));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(io)?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(io)?;
        let linked = fs::hard_link(&temporary, path);
        fs::remove_file(&temporary).map_err(io)?;
        match linked {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(io(error)),
            _ => sync_parent(path).map_err(io),
        }
    }

    /// The AEAD key of one purpose.
    pub(super) fn aead(&self, purpose: &[&[u8]]) -> LessSafeKey {
        let unbound = UnboundKey::new(&AES_256_GCM, &self.derive(purpose)).expect("AES-256 takes 32 bytes");
        LessSafeKey::new(unbound)
    }

    /// The MAC key of one purpose.
    pub(super) fn mac(&self, purpose: &[&[u8]]) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.derive(purpose))
    }

    fn derive(&self, purpose: &[&[u8]]) -> [u8; 32] {
        struct Length;
        impl KeyType for Length {
            fn len(&self) -> usize {
                32
            }
        }
        let mut out = [0u8; 32];
        self.root
            .expand(purpose, Length)
            .and_then(|okm| okm.fill(&mut out))
            .expect("32 bytes are within what HKDF-SHA256 gives");
        out
    }
}

impl fmt::Debug for AtRestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AtRestKey(..)")
    }
}

/// Makes the creation, renaming or removal of `path` durable.
pub(super) fn sync_parent(path: &Path) -> std::io::Result<()> {
    let parent =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_missing_key_is_made_once_and_for_the_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        AtRestKey::load_or_create(&path).unwrap();
        let first = fs::read(&path).unwrap();
        AtRestKey::load_or_create(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), first);
        assert_eq!(first.len(), 32);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_bad_key_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        assert!(matches!(AtRestKey::load(&path), Err(KeyError::Io(..))));
        fs::write(&path, [7u8; 33]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(AtRestKey::load(&path), Err(KeyError::Length(_))));
        fs::write(&path, [7u8; 32]).unwrap();
        assert!(AtRestKey::load(&path).is_ok());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(AtRestKey::load(&path), Err(KeyError::Exposed(_, 0o644))));
    }

    #[test]
    fn purposes_do_not_share_a_key() {
        let key = AtRestKey::from_bytes(&[1; 32]);
        assert_ne!(key.derive(&[b"journal"]), key.derive(&[b"snapshot"]));
        assert_ne!(key.derive(&[b"journal"]), AtRestKey::from_bytes(&[2; 32]).derive(&[b"journal"]));
    }
}
