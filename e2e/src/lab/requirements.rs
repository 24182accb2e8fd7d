//! What a machine must have before a lab can stand on it, and how a test that needs one says that it was skipped.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use super::assets::{Assets, CONTROL_PLANE, MissingAssets, NODE};
use super::error::Result;
use super::image;
use super::judge::{Judge, locate_connect, locate_judges};

/// The system's tools that every lab calls, and the package that most distributions have them in.
const TOOLS: [(&str, &str); 4] =
    [("ip", "iproute2"), ("nft", "nftables"), ("nsenter", "util-linux"), ("setsid", "util-linux")];

/// The tools that nodes with a kubelet need beside them.
const NODE_TOOLS: [(&str, &str); 2] = [("runc", "runc"), ("conntrack", "conntrack")];

/// What is missing on this machine to run a lab, binaries aside; one phrase each.
pub fn missing(kubelets: bool) -> Vec<String> {
    let mut missing = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        missing.push("root (network namespaces and nftables)".to_owned());
    }
    let node_tools = NODE_TOOLS.iter().filter(|_| kubelets);
    for (tool, package) in TOOLS.iter().chain(node_tools) {
        if !on_path(tool) {
            missing.push(format!("`{tool}` (package {package})"));
        }
    }
    if kubelets && !Path::new("/usr/lib/cni/bridge").exists() {
        missing.push("the CNI plugins in /usr/lib/cni (package containernetworking-plugins)".to_owned());
    }
    if kubelets && !image::is_there() {
        missing.push("a static C library (libc.a) when this program was built".to_owned());
    }
    missing
}

/// The binaries for a test that needs a real Kubernetes, or `None` after saying by [`skip`] why there are none.
pub fn real_or_skip(name: &str, kubelets: bool) -> Option<Assets> {
    let why = match look(kubelets) {
        Ok(Ok(assets)) => return Some(assets),
        Ok(Err(why)) => why,
        Err(error) => error.to_string(),
    };
    skip(name, &why);
    None
}

/// As [`real_or_skip`] without kubelets, and the judges of every client-go version.
pub fn judges_or_skip(name: &str) -> Option<Vec<Judge>> {
    real_or_skip(name, false)?;
    found_or_skip(name, locate_judges())
}

/// As [`real_or_skip`] with kubelets, and the program that connects into pods.
pub fn connect_or_skip(name: &str) -> Option<Judge> {
    real_or_skip(name, true)?;
    found_or_skip(name, locate_connect())?.pop()
}

fn found_or_skip(
    name: &str,
    found: Result<std::result::Result<Vec<Judge>, Vec<&'static str>>>,
) -> Option<Vec<Judge>> {
    let why = match found {
        Ok(Ok(judges)) => return Some(judges),
        Ok(Err(missing)) => MissingAssets(missing).to_string(),
        Err(error) => error.to_string(),
    };
    skip(name, &why);
    None
}

/// Says why the test `name` is skipped.
///
/// The line `skipped: NAME: why` goes straight to stderr, past the test harness's capture, so that it can be counted.
/// With `EYOT_REQUIRE_REAL=1` (as CI sets it) something missing is a failure instead: this panics.
pub fn skip(name: &str, why: &str) {
    assert!(
        std::env::var_os("EYOT_REQUIRE_REAL").is_none_or(|value| value != "1"),
        "{name} may not be skipped here (EYOT_REQUIRE_REAL=1): {why}"
    );
    // In one write, so that tests beside each other do not mix their lines. Nothing is lost if the line cannot be
    // written: the test counts as passed either way.
    let _ = std::io::stderr().write_all(format!("skipped: {name}: {why}\n").as_bytes());
}

fn look(kubelets: bool) -> Result<std::result::Result<Assets, String>> {
    let machine = missing(kubelets);
    if !machine.is_empty() {
        return Ok(Err(format!("this machine lacks {}", machine.join(", "))));
    }
    let mut programs = CONTROL_PLANE.to_vec();
    if kubelets {
        programs.extend(NODE);
    }
    Ok(Assets::locate(&programs)?.map_err(|missing| missing.to_string()))
}

fn on_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(tool).is_file());
    // ip answers itself where PATH lacks /sbin but the shell would still find it.
    found || Command::new(tool).arg("--help").output().is_ok()
}
