//! Taking a lab down from what stands on disk and in the kernel: it trusts no record to be complete, because the
//! command that would have written it may have been killed. It touches nothing that does not carry the lab's id.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

use super::address::Names;
use super::control_group;
use super::error::{LabError, Result};
use super::process::{Identity, Processes, kill_all};
use super::{namespace, network};

/// What a lab makes inside its folder, beside its logs and its lock. The record comes last: until all else is gone,
/// a second `down` still knows the lab.
const CONTENT: [&str; 10] = [
    "admin.kubeconfig",
    "bin",
    "cloud",
    "etcd",
    "images",
    "kubectl-cache",
    "nodes",
    "pki",
    "run",
    "lab.json",
];

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Processes that were ended.
    pub processes: usize,
    /// Network namespaces that were deleted.
    pub namespaces: usize,
    /// Mounts that were undone.
    pub mounts: usize,
}

/// Ends and removes everything of the lab `lab_id` that stood in `dir`. Nothing left is no error.
pub(crate) fn sweep(dir: &Path, lab_id: &str) -> Result<Swept> {
    let names = Names::new(lab_id);
    let processes = Processes::new(dir, lab_id);
    let mut swept = Swept::default();
    // Killing a shim or a shell may leave children that only then show up under a namespace or a control group.
    for _ in 0..5 {
        let found = everything(&processes, &names, lab_id);
        if found.is_empty() {
            break;
        }
        swept.processes += found.len();
        let stubborn = kill_all(&found);
        if !stubborn.is_empty() {
            let ids: Vec<String> = stubborn.iter().map(|process| process.pid.to_string()).collect();
            return Err(LabError::Invalid(format!("these processes survive SIGKILL: {}", ids.join(", "))));
        }
    }
    remove_shim_sockets(dir);
    swept.mounts = unmount_below(dir)?;
    swept.namespaces = network::namespaces(&names).len();
    network::remove(&names)?;
    control_group::remove(lab_id);
    for entry in CONTENT {
        remove(&dir.join(entry))?;
    }
    Ok(swept)
}

/// Every live process of the lab, except this one and those that it was called by.
fn everything(processes: &Processes, names: &Names, lab_id: &str) -> Vec<Identity> {
    let mut found = processes.all();
    let inside = network::namespaces(names);
    let ids = inside.iter().flat_map(|namespace| namespace::processes_inside(namespace));
    found.extend(ids.chain(control_group::processes(lab_id)).filter_map(Identity::of));
    let own = own_line();
    let mut seen = BTreeSet::new();
    found.retain(|process| !own.contains(&process.pid) && seen.insert(process.pid));
    found
}

/// This process and its ancestors: a shell inside a node's namespace may call `down`, too.
pub(crate) fn own_line() -> BTreeSet<i32> {
    let mut line = BTreeSet::new();
    let mut pid = i32::try_from(std::process::id()).expect("Linux process ids fit an i32");
    while pid > 0 && line.insert(pid) {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { break };
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        pid = parent.unwrap_or(0);
    }
    line
}

/// Removes the sockets of the lab's container shims. They stand at a place of the whole machine, whatever containerd
/// is told; only the shims' own notes below the lab's folder say which are ours.
fn remove_shim_sockets(dir: &Path) {
    entries(&dir.join("nodes")).iter().for_each(|node| remove_shim_sockets_of(node));
}

/// The same for the node whose folder is `node`.
pub(crate) fn remove_shim_sockets_of(node: &Path) {
    let shims = node.join("containerd/state/io.containerd.runtime.v2.task/k8s.io");
    for note in entries(&shims).into_iter().map(|shim| shim.join("bootstrap.json")) {
        let note =
            fs::read(note).ok().and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok());
        let address = note.as_ref().and_then(|note| note["address"].as_str());
        let socket = address.and_then(|address| address.strip_prefix("unix://")).map(Path::new);
        // A shim that ended in good order has removed it itself.
        if let Some(socket) = socket.filter(|socket| socket.starts_with("/run/containerd/s")) {
            let _ = fs::remove_file(socket);
        }
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Lazily undoes every mount below `dir`, the latest first; returns how many.
pub(crate) fn unmount_below(dir: &Path) -> Result<usize> {
    let mut count = 0;
    // Mounts may be stacked and may propagate: look again until none is left.
    for _ in 0..10 {
        let text = fs::read_to_string("/proc/self/mountinfo")
            .map_err(LabError::io("read", "/proc/self/mountinfo"))?;
        let points: Vec<PathBuf> =
            text.lines().filter_map(mount_point).filter(|point| inside(point, dir)).collect();
        if points.is_empty() {
            break;
        }
        for point in points.iter().rev() {
            if umount2(point, MntFlags::MNT_DETACH).is_ok() {
                count += 1;
            }
        }
    }
    Ok(count)
}

fn inside(point: &Path, dir: &Path) -> bool {
    point != dir && point.starts_with(dir)
}

/// The mount point of one line of mountinfo; blanks in it are written as octal escapes.
fn mount_point(line: &str) -> Option<PathBuf> {
    let field = line.split(' ').nth(4)?;
    let plain = field.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\");
    Some(PathBuf::from(plain))
}

fn remove(path: &Path) -> Result<()> {
    let result = match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    result.map_err(LabError::io("remove", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_below_the_folder_are_undone() {
        let line = "36 35 98:0 /x /tmp/my\\040lab/nodes/a rw,noatime master:1 - ext4 /dev/root rw";
        let point = mount_point(line).expect("five fields");
        assert!(inside(&point, Path::new("/tmp/my lab")));
        assert!(!inside(&point, Path::new("/tmp/my")));
        assert!(!inside(Path::new("/tmp/lab"), Path::new("/tmp/lab")));
    }

    #[test]
    fn a_sweep_leaves_what_the_lab_did_not_make() {
        let dir = tempfile::tempdir().expect("temporary folder");
        fs::create_dir_all(dir.path().join("nodes/node-1")).expect("made");
        fs::create_dir_all(dir.path().join("logs")).expect("made");
        fs::write(dir.path().join("notes.txt"), "mine").expect("made");
        for entry in CONTENT {
            remove(&dir.path().join(entry)).expect("removed");
        }
        assert!(!dir.path().join("nodes").exists());
        assert!(dir.path().join("logs").exists() && dir.path().join("notes.txt").exists());
    }

    #[test]
    fn the_caller_is_spared() {
        let line = own_line();
        assert!(line.contains(&i32::try_from(std::process::id()).expect("fits")));
        assert!(line.contains(&nix::unistd::getppid().as_raw()));
    }
}
