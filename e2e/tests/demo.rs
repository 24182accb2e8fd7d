//! The demo ends without violations, repeats with its seed, and a kill -9 of it leaves no process and no folder.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

fn demo(temporary: &Path, seed: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eyot"));
    command.args(["demo", "--nodes", "1", "--minutes", "0.2", "--json", "--seed", seed]);
    command.env("TMPDIR", temporary).stdin(Stdio::null());
    command
}

fn verdict(temporary: &Path, seed: &str) -> Value {
    let output = demo(temporary, seed).output().expect("the demo runs");
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}\n{text}");
    serde_json::from_str(&text).expect("JSON")
}

/// Processes of this demo: its hubs' command lines name files in its temporary folder.
fn hubs_of(temporary: &Path) -> Vec<String> {
    let folder = temporary.to_str().expect("the path is UTF-8");
    let processes = fs::read_dir("/proc").expect("there is /proc");
    processes
        .flatten()
        .filter_map(|process| fs::read(process.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains("hub") && line.contains(folder))
        .collect()
}

/// Returns once the demo has synced: hubs and clients run.
fn wait_until_synced(demo: &mut Child) {
    let lines = BufReader::new(demo.stderr.take().expect("stderr is piped")).lines();
    let mut said = lines.map_while(Result::ok).inspect(|line| eprintln!("{line}"));
    assert!(said.any(|line| line.contains("synced")), "the demo ended before it had synced");
}

#[test]
fn a_seed_repeats_schedule_and_verdict_and_the_bill_is_counted() {
    let temporary = tempfile::tempdir().expect("a folder");
    let (first, second) = (verdict(temporary.path(), "11"), verdict(temporary.path(), "11"));
    for part in ["seed", "schedule", "verdict", "violations"] {
        assert_eq!(first[part], second[part], "{part}");
    }
    assert_eq!(first["verdict"], "ok", "{}", first["violations"]);
    let number = |path: &str| first.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path}"));
    assert!(number("/withHubs/nodes/0/offline/served") > 0, "a hub serves while cut off");
    assert_eq!(number("/withoutHubs/nodes/0/offline/served"), 0, "without one nobody does");
    assert_eq!(number("/withHubs/nodes/0/relistsAfterHealing"), 0, "a hub goes on where it was");
    assert!(number("/withoutHubs/nodes/0/relistsAfterHealing") > 0, "restarted clients list again");
    for world in ["withHubs", "withoutHubs"] {
        let bodies = first[world]["bodyBytes"].as_object().expect("classes");
        let bodies: u64 = bodies.values().filter_map(Value::as_u64).sum();
        assert!(bodies > 0 && bodies <= number(&format!("/{world}/wireBytes")), "{world}: {bodies}");
    }
    let left: Vec<_> = fs::read_dir(temporary.path()).expect("the folder").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_kill_leaves_no_process_and_the_next_start_sweeps_the_folder() {
    let temporary = tempfile::tempdir().expect("a folder");
    let start = || {
        let mut command = demo(temporary.path(), "3");
        let mut child =
            command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("the demo starts");
        wait_until_synced(&mut child);
        assert_eq!(hubs_of(temporary.path()).len(), 1);
        child
    };
    let gone = || {
        while !hubs_of(temporary.path()).is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    let folders = || fs::read_dir(temporary.path()).expect("the folder").count();
    let end = |signal: &str, mut child: Child| {
        let kill = Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill runs");
        assert!(kill.success());
        let status = child.wait().expect("the demo ends");
        gone();
        status
    };
    end("-KILL", start());
    assert_eq!(folders(), 1, "nobody could remove it");
    let second = start();
    assert_eq!(folders(), 1, "the dead demo's folder is swept, the living one's stands");
    assert_eq!(end("-INT", second).code(), Some(130));
    assert_eq!(folders(), 0, "one that is interrupted cleans up itself");
}
