//! What a lab remembers on disk (`DIR/lab.json`), so that any later command, and `down` after a crash, knows it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::address::Subnet;
use super::assets::Assets;
use super::error::{LabError, Result};

/// What stands between a node's components and the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum HubKind {
    /// An edge-hub on every node.
    EdgeHub,
    /// Nothing: kubeconfigs of the nodes point at the API server. The baseline to compare with.
    None,
}

/// The record of one lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct State {
    /// Six hex digits, made from the folder's path.
    pub(crate) id: String,
    /// When `up` began, in nanoseconds since 1970: tells two labs apart that stood in one folder.
    pub(crate) created: u64,
    /// Whether `up` came to its end.
    pub(crate) complete: bool,
    pub(crate) subnet: Subnet,
    /// Names, the node number 1 first.
    pub(crate) nodes: Vec<String>,
    pub(crate) hub: HubKind,
    pub(crate) kubelets: bool,
    /// How many pools there are; 0 where nobody asked for any.
    #[serde(default)]
    pub(crate) pools: u8,
    /// Whether the nodes stand behind NAT and the API server reaches them by the tunnel.
    #[serde(default)]
    pub(crate) tunnel: bool,
    pub(crate) assets: Assets,
    /// The `eyot` program, which runs the hubs.
    pub(crate) program: PathBuf,
}

impl State {
    fn path(dir: &Path) -> PathBuf {
        dir.join("lab.json")
    }

    /// Reads the record; `None` if there is no lab in `dir`.
    pub(crate) fn read(dir: &Path) -> Result<Option<State>> {
        let path = State::path(dir);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LabError::io("read", path)(error)),
        };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|error| LabError::Invalid(format!("{}: {error}", path.display())))
    }

    /// Writes the record in one step.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let text =
            serde_json::to_string_pretty(self).expect("the record holds no map with keys that are not text");
        super::certificates::write_private(&State::path(dir), &text)
    }
}

/// The lab's id: six hex digits of the SHA-256 of its folder's absolute path.
pub(crate) fn lab_id(dir: &Path) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, dir.as_os_str().as_encoded_bytes());
    super::hex::hex(&digest.as_ref()[..3])
}

/// The folder's absolute path without links, also when the folder is gone.
pub(crate) fn absolute(dir: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(dir).map_err(LabError::io("resolve", dir))?;
    if let Ok(real) = path.canonicalize() {
        return Ok(real);
    }
    match (path.parent().and_then(|parent| parent.canonicalize().ok()), path.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.join(name)),
        _ => Ok(path),
    }
}

/// How long a process that was killed may hold the lock of a lab by a child that has not begun its own program yet.
const LAST_CHILD: Duration = Duration::from_secs(2);

/// Holds the lab in `dir` for one command; the lock ends with the process, however that ends, and with the last child that it
/// was about to start.
pub(crate) fn lock(dir: &Path) -> Result<Flock<File>> {
    let path = dir.join("lab.lock");
    let mut file = File::create(&path).map_err(LabError::io("create", &path))?;
    let until = Instant::now() + LAST_CHILD;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => return Ok(held),
            Err((back, _)) if Instant::now() < until => file = back,
            Err(_) => return Err(LabError::Busy(dir.to_owned())),
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Holds one node while its processes change; waits for whoever holds it. Other nodes may change at the same time.
pub(crate) fn lock_node(dir: &Path, node: &str) -> Result<Flock<File>> {
    let path = dir.join("nodes").join(node).join("node.lock");
    let file = File::create(&path).map_err(LabError::io("create", &path))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| LabError::Io {
        what: "lock",
        path,
        source: errno.into(),
    })
}

/// Holds all labs of this machine while one chooses its subnet and takes it.
pub(crate) fn lock_subnets() -> Result<Flock<File>> {
    let path = Path::new("/run/eyot-subnets.lock");
    let file = File::create(path).map_err(LabError::io("create", path))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| LabError::Io {
        what: "lock",
        path: path.to_owned(),
        source: errno.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_gone_keeps_its_id() {
        let root = tempfile::tempdir().expect("temporary folder");
        let dir = root.path().join("lab");
        fs::create_dir(&dir).expect("created");
        let before = lab_id(&absolute(&dir).expect("path"));
        fs::remove_dir(&dir).expect("removed");
        assert_eq!(lab_id(&absolute(&dir).expect("path")), before);
        assert_eq!(before.len(), 6);
        assert_ne!(lab_id(&absolute(&root.path().join("other")).expect("path")), before);
    }

    #[test]
    fn a_second_command_on_one_lab_is_told_so() {
        let root = tempfile::tempdir().expect("temporary folder");
        let held = lock(root.path()).expect("first");
        assert!(matches!(lock(root.path()), Err(LabError::Busy(_))));
        drop(held);
        assert!(lock(root.path()).is_ok());
    }

    #[test]
    fn no_record_is_no_lab_and_a_broken_one_is_an_error() {
        let root = tempfile::tempdir().expect("temporary folder");
        assert!(State::read(root.path()).expect("nothing there").is_none());
        fs::write(root.path().join("lab.json"), "{").expect("written");
        assert!(State::read(root.path()).is_err());
    }
}
