//! Work inside a network namespace: commands, sockets, settings, and who runs there.

use std::fs::File;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::command::{run, run_unchecked};
use super::error::Result;

/// Sets a kernel setting of the namespace, such as `net/ipv4/ip_forward`.
pub(crate) fn set(namespace: &str, setting: &str, value: &str) -> Result<()> {
    run(inside(namespace).args(["tee", &format!("/proc/sys/{setting}")]), value).map(drop)
}

/// Does `work` inside a network namespace, such as one of [`super::NodeStatus`], and returns what came of it. Sockets made
/// there stay there.
///
/// Errors: no such namespace; no right to enter it; those of `work`. A panic of `work` is the caller's.
pub fn in_namespace<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    let namespace = File::open(Path::new("/run/netns").join(namespace))?;
    // Only a whole thread can change its namespace.
    let thread = thread::Builder::new().spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    })?;
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// A command that runs its further arguments inside `namespace`.
pub(crate) fn inside(namespace: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}")).arg("--");
    command
}

pub(super) fn batch(namespace: Option<&str>, lines: &str) -> Result<()> {
    let mut ip = Command::new("ip");
    if let Some(namespace) = namespace {
        ip.args(["-n", namespace]);
    }
    run(ip.args(["-batch", "-"]), lines).map(drop)
}

/// The processes whose network namespace is `namespace`, whoever started them.
pub(crate) fn processes_inside(namespace: &str) -> Vec<i32> {
    let listed = run_unchecked(Command::new("ip").args(["netns", "pids", namespace]), "");
    let text = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().filter_map(|line| line.trim().parse().ok()).collect()
}
