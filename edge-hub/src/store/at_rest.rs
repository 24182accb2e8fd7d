//! What keeps the node's copy of Secrets on this node: the folder of the state, the key that seals it, no core dumps.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use crate::store::{AtRestKey, KeyError};

/// The credential of that name, where systemd hands one over (`ImportCredential=` of the unit), is the key at rest.
const CREDENTIAL: &str = "edge-hub.at-rest-key";
/// Where systemd puts credentials.
pub const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";
/// The key that the hub makes itself, in its state directory.
const OWN_KEY: &str = "at-rest.key";
const OWNER_ONLY: u32 = 0o700;

/// Where the key at rest is: the file that the configuration names, else systemd's credential where there is one.
#[must_use]
pub fn key_path(configured: Option<&Path>, credentials: Option<&OsStr>) -> Option<PathBuf> {
    let handed_over =
        || credentials.map(|folder| Path::new(folder).join(CREDENTIAL)).filter(|path| path.exists());
    configured.map(Path::to_owned).or_else(handed_over)
}

/// The key at rest from `path`, else the one in the state directory, which is made there where there is none.
///
/// # Errors
/// As [`AtRestKey::load`] and [`AtRestKey::load_or_create`].
pub fn key(path: Option<&Path>, state: &Path) -> Result<AtRestKey, KeyError> {
    if let Some(path) = path {
        return AtRestKey::load(path);
    }
    let own = state.join(OWN_KEY);
    let key = AtRestKey::load_or_create(&own)?;
    tracing::warn!(path = %own.display(), "the key at rest lies beside the data that it seals: who has the disk has both. Keep \
        it elsewhere: a systemd credential named {CREDENTIAL}, or atRestKey in the configuration");
    Ok(key)
}

/// Makes the state directory, for its owner alone whatever the umask, and takes from others what they had of one that
/// is there.
///
/// # Errors
/// When it can neither be made nor be read. One of somebody else's is used as it is, with a warning.
pub fn make_private(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(OWNER_ONLY).create(folder)?;
    let mode = fs::metadata(folder)?.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    if let Err(error) = fs::set_permissions(folder, Permissions::from_mode(OWNER_ONLY)) {
        tracing::warn!(path = %folder.display(), %error, "the state directory is open to others and cannot be closed");
    }
    Ok(())
}

/// No core dump of this process, and no look into its memory by another of its user's: Secrets are in it.
pub fn forbid_dumps() {
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(%error, "core dumps of this process cannot be forbidden; they hold Secrets");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").permissions().mode() & 0o777
    }

    #[test]
    fn the_state_directory_is_its_owners_alone_made_or_found() {
        let outer = tempfile::tempdir().expect("a folder");
        let state = outer.path().join("state");
        make_private(&state).expect("it can be made");
        assert_eq!(mode(&state), 0o700);
        fs::set_permissions(&state, Permissions::from_mode(0o755)).expect("its owner may");
        make_private(&state).expect("it is there");
        assert_eq!(mode(&state), 0o700);
        let file = outer.path().join("file");
        fs::write(&file, "").expect("a file");
        make_private(&file).expect_err("no folder");
    }

    #[test]
    fn the_key_is_the_configured_one_then_the_credential_then_the_hubs_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let (configured, credentials) = (Path::new("/etc/eyot/key"), folder.path().as_os_str());
        assert_eq!(key_path(None, None), None);
        assert_eq!(key_path(None, Some(credentials)), None, "systemd handed none over");
        let credential = folder.path().join(CREDENTIAL);
        fs::write(&credential, [7; 32]).expect("a file");
        fs::set_permissions(&credential, Permissions::from_mode(0o400)).expect("its owner may");
        assert_eq!(key_path(None, Some(credentials)), Some(credential.clone()));
        assert_eq!(key_path(Some(configured), Some(credentials)).as_deref(), Some(configured));
        key(Some(&credential), folder.path()).expect("32 bytes");
        assert!(!folder.path().join(OWN_KEY).exists(), "no key beside the data");
        key(None, folder.path()).expect("it is made");
        assert_eq!(mode(&folder.path().join(OWN_KEY)), 0o600);
    }
}
