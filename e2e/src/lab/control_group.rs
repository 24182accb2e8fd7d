//! The control groups of a lab: `eyot/LAB/NODE` in every hierarchy of version 1, or in the one of version 2.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::{LabError, Result};

const ROOT: &str = "/sys/fs/cgroup";

/// What a kubelet needs of version 2.
const CONTROLLERS: [&str; 6] = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"];

/// Makes the node's group in every hierarchy, so that a kubelet can take it as its root.
///
/// Returns the path that the kubelet knows it by.
pub(crate) fn create(lab_id: &str, node: &str) -> Result<String> {
    let path = format!("eyot/{lab_id}/{node}");
    for hierarchy in hierarchies(Path::new(ROOT)) {
        let folder = hierarchy.join(&path);
        fs::create_dir_all(&folder).map_err(LabError::io("create", &folder))?;
        inherit_cpuset(&hierarchy, &path)?;
        delegate(&hierarchy, &path)?;
    }
    Ok(format!("/{path}"))
}

/// The folders of the lab in every hierarchy that has one.
pub(crate) fn folders(lab_id: &str) -> Vec<PathBuf> {
    let path = Path::new("eyot").join(lab_id);
    let candidates = hierarchies(Path::new(ROOT)).into_iter().map(|hierarchy| hierarchy.join(&path));
    candidates.filter(|folder| folder.is_dir()).collect()
}

/// The processes of the lab's groups.
pub(crate) fn processes(lab_id: &str) -> Vec<i32> {
    folders(lab_id).iter().flat_map(|folder| processes_below(folder)).collect()
}

/// The processes of one node's groups.
pub(crate) fn processes_of(lab_id: &str, node: &str) -> Vec<i32> {
    folders(lab_id).iter().flat_map(|folder| processes_below(&folder.join(node))).collect()
}

fn processes_below(folder: &Path) -> Vec<i32> {
    let listed = |group: &PathBuf| fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let texts: Vec<String> = descendants(folder).iter().map(listed).collect();
    texts.iter().flat_map(|text| text.lines()).filter_map(|line| line.parse().ok()).collect()
}

/// Removes one node's groups; they must be empty.
pub(crate) fn remove_node(lab_id: &str, node: &str) {
    folders(lab_id).iter().for_each(|folder| remove_below(&folder.join(node)));
}

fn remove_below(folder: &Path) {
    for group in descendants(folder).iter().rev() {
        // A group that will not go holds a process of somebody else; it is left to them.
        let _ = fs::remove_dir(group);
    }
}

/// Removes the lab's groups; they must be empty.
pub(crate) fn remove(lab_id: &str) {
    for folder in folders(lab_id) {
        remove_below(&folder);
        if let Some(parent) = folder.parent() {
            // Fails, as it should, while another lab stands.
            let _ = fs::remove_dir(parent);
        }
    }
}

/// Every hierarchy below `root`: the root itself on version 2, else each folder in it (links are aliases).
fn hierarchies(root: &Path) -> Vec<PathBuf> {
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    let entries = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.is_dir() && !path.is_symlink()).collect()
}

/// On version 1 a new cpuset is empty, and a process cannot enter an empty one: copies the values down.
fn inherit_cpuset(hierarchy: &Path, path: &str) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let Ok(value) = fs::read_to_string(hierarchy.join(file)) else { continue };
        let mut folder = hierarchy.to_owned();
        for part in path.split('/') {
            folder.push(part);
            let target = folder.join(file);
            if fs::read_to_string(&target).is_ok_and(|present| present.trim().is_empty()) {
                fs::write(&target, value.trim()).map_err(LabError::io("write", &target))?;
            }
        }
    }
    Ok(())
}

/// On version 2 a group has only the controllers that the group above gives to its children: gives them down to the
/// node's own group, whose kubelet gives them on. Version 1 has no such files.
fn delegate(hierarchy: &Path, path: &str) -> Result<()> {
    let Ok(present) = fs::read_to_string(hierarchy.join("cgroup.controllers")) else { return Ok(()) };
    let wanted = CONTROLLERS.iter().filter(|name| present.split_whitespace().any(|word| word == **name));
    let given: Vec<String> = wanted.map(|name| format!("+{name}")).collect();
    let mut folder = hierarchy.to_owned();
    for part in path.split('/') {
        let target = folder.join("cgroup.subtree_control");
        fs::write(&target, given.join(" ")).map_err(LabError::io("write", &target))?;
        folder.push(part);
    }
    Ok(())
}

/// `folder` and all folders below it, the deepest last.
fn descendants(folder: &Path) -> Vec<PathBuf> {
    let mut all = vec![folder.to_owned()];
    let mut next = 0;
    while let Some(current) = all.get(next).cloned() {
        let entries = fs::read_dir(current).into_iter().flatten().flatten();
        all.extend(entries.map(|entry| entry.path()).filter(|path| path.is_dir() && !path.is_symlink()));
        next += 1;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_has_one_hierarchy_and_version_1_one_per_folder() {
        let root = tempfile::tempdir().expect("temporary folder");
        fs::create_dir(root.path().join("cpu")).expect("made");
        fs::create_dir(root.path().join("memory")).expect("made");
        std::os::unix::fs::symlink(root.path().join("cpu"), root.path().join("cpu,cpuacct")).expect("made");
        assert_eq!(hierarchies(root.path()).len(), 2);
        fs::write(root.path().join("cgroup.controllers"), "cpu memory").expect("made");
        assert_eq!(hierarchies(root.path()), [root.path()]);
    }

    #[test]
    fn version_2_gives_its_controllers_down_to_the_node_and_version_1_nothing() {
        let root = tempfile::tempdir().expect("temporary folder");
        let path = "eyot/lab/node-1";
        fs::create_dir_all(root.path().join(path)).expect("made");
        delegate(root.path(), path).expect("nothing to do");
        assert!(!root.path().join("cgroup.subtree_control").exists());
        fs::write(root.path().join("cgroup.controllers"), "cpuset cpu io memory pids rdma misc\n")
            .expect("made");
        delegate(root.path(), path).expect("given");
        for folder in ["", "eyot", "eyot/lab"] {
            let file = root.path().join(folder).join("cgroup.subtree_control");
            assert_eq!(
                fs::read_to_string(file).expect("written"),
                "+cpuset +cpu +io +memory +pids",
                "{folder}"
            );
        }
        assert!(!root.path().join(path).join("cgroup.subtree_control").exists(), "that is the kubelet's own");
    }

    #[test]
    fn an_empty_cpuset_is_filled_from_above_at_every_level() {
        let root = tempfile::tempdir().expect("temporary folder");
        for folder in ["", "eyot", "eyot/lab"] {
            fs::create_dir_all(root.path().join(folder)).expect("made");
            for file in ["cpuset.cpus", "cpuset.mems"] {
                fs::write(
                    root.path().join(folder).join(file),
                    if folder.is_empty() { "0-1\n" } else { "\n" },
                )
                .expect("made");
            }
        }
        inherit_cpuset(root.path(), "eyot/lab").expect("copied");
        assert_eq!(fs::read_to_string(root.path().join("eyot/lab/cpuset.mems")).expect("there"), "0-1");
    }
}
