//! `down` removes a lab of whole nodes wholly, in the middle of faults and after kill -9: of parts of it, and of the very
//! command that was building it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::lab::{Cut, Delay, Lab, NodePart, Nodes, Slow, Swept, UpOptions, real_or_skip, wait_until};

/// Turns a hang into a failure.
const LIMIT: Duration = Duration::from_secs(120);

/// What of a lab is left in the system: mounts below its folder, control groups, namespaces, processes.
fn left(dir: &Path, id: &str) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("proc is mounted");
    let below = format!(" {}/", dir.display());
    let mut left: Vec<String> =
        mounts.lines().filter(|line| line.contains(&below)).map(str::to_owned).collect();
    for hierarchy in fs::read_dir("/sys/fs/cgroup").expect("cgroups are mounted").flatten() {
        let group = hierarchy.path().join("eyot").join(id);
        left.extend(group.exists().then(|| group.display().to_string()));
    }
    for namespace in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = namespace.file_name().to_string_lossy().into_owned();
        left.extend(name.contains(id).then_some(name));
    }
    for process in fs::read_dir("/proc").expect("proc is mounted").flatten() {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        // What waits for the end of this test, to take the lab down, ends with it.
        let guard = command.contains("--after-process");
        let ours = command.contains(&*dir.to_string_lossy()) || command.contains(&format!("eyot-{id}-"));
        left.extend((ours && !guard).then_some(command));
    }
    left
}

#[test]
fn in_the_middle_of_faults() {
    if real_or_skip("in_the_middle_of_faults", true).is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let dir = folder.path().join("lab");
    let options = UpOptions {
        kubelets: true,
        program: Some(env!("CARGO_BIN_EXE_eyot").into()),
        bound_to: Some(i32::try_from(std::process::id()).expect("Linux process ids fit an i32")),
        ..UpOptions::new(&dir, 1)
    };
    let lab = Lab::up(&options).expect("a lab comes up");
    let id = lab.status().expect("status").id;
    let node = Nodes::from("node-1");
    lab.cut_partly(&node, &Cut { percent: 30, ..Cut::default() }).expect("cut");
    let delay = Delay::new(Duration::from_millis(100), Duration::from_millis(20)).expect("in bounds");
    let slow = Slow { rate: Some("256kbit".to_owned()), delay: Some(delay) };
    lab.slow(&node, &slow).expect("slow");
    lab.kill("node-1", NodePart::Containerd).expect("killed");
    lab.kill("node-1", NodePart::Hub).expect("killed");
    lab.freeze("node-1").expect("frozen");
    let swept = Lab::down(&dir).expect("down");
    assert!(swept.processes > 10 && swept.namespaces == 2 && swept.mounts > 5, "{swept:?}");
    assert_eq!(left(&dir, &id), [""; 0]);
    assert_eq!(Lab::down(&dir).expect("twice is once"), Swept::default());
}

#[test]
fn of_the_command_that_builds_it() {
    if real_or_skip("of_the_command_that_builds_it", true).is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let dir = folder.path().join("lab");
    let mut up = Command::new(env!("CARGO_BIN_EXE_eyot"))
        .args(["lab", "up", "--nodes", "1", "--dir"])
        .arg(&dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("eyot starts");
    let started = dir.join("run/node-1.kube-proxy.json");
    assert!(wait_until(LIMIT, || started.exists()), "the node starts");
    up.kill().expect("it still builds");
    up.wait().expect("it was killed");
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.join("lab.json")).expect("a record")).expect("JSON");
    assert_eq!(record["complete"], false, "it was killed on the way");
    let id = record["id"].as_str().expect("an id");
    Lab::down(&dir).expect("down");
    assert_eq!(left(&dir, id), [""; 0]);
}
