//! The demo ends without violations, repeats with its seed, and leaves no process and no folder however it is ended.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

/// Turns a hang into a failure.
const PATIENCE: Duration = Duration::from_secs(120);

fn demo(temporary: &Path, seed: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eyot"));
    command.args(["demo", "--nodes", "1", "--minutes", "0.2", "--json", "--seed", seed]);
    command.env("TMPDIR", temporary).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn verdict(demo: Child) -> Value {
    let output = demo.wait_with_output().expect("the demo ends");
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}\n{text}");
    serde_json::from_str(&text).expect("JSON")
}

/// The demo's janitor and hubs: their command lines name its temporary folder. By process id.
fn processes_of(temporary: &Path) -> Vec<(i32, String)> {
    let folder = temporary.to_str().expect("the path is UTF-8");
    let processes = fs::read_dir("/proc").expect("there is /proc").flatten();
    let all = processes.filter_map(|process| {
        let id = process.file_name().to_str()?.parse().ok()?;
        let line = fs::read(process.path().join("cmdline")).ok()?;
        Some((id, String::from_utf8_lossy(&line).replace('\0', " ")))
    });
    all.filter(|(_, line)| line.contains(folder)).collect()
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    assert!(e2e::lab::wait_until(PATIENCE, condition), "{what}: not within {PATIENCE:?}");
}

/// Start the demo and return once it has said `word`.
fn start_until(temporary: &Path, word: &str) -> Child {
    let mut child = demo(temporary, "3").spawn().expect("the demo starts");
    let lines = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
    let mut said = lines.map_while(Result::ok).inspect(|line| eprintln!("{line}"));
    assert!(said.any(|line| line.contains(word)), "the demo ended before it said {word:?}");
    child
}

fn kill(signal: &str, process: i32) {
    let kill = Command::new("kill").args([signal, &process.to_string()]).status().expect("kill runs");
    assert!(kill.success());
}

fn id(child: &Child) -> i32 {
    child.id().try_into().expect("a process id is small")
}

fn entries(temporary: &Path) -> usize {
    fs::read_dir(temporary).expect("the folder").count()
}

#[test]
fn a_seed_repeats_schedule_and_verdict_and_the_bill_is_counted() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    // Both at once: the loopback addresses of two demos differ, too.
    let running = [0, 1].map(|n| demo(folders[n].path(), "11").spawn().expect("the demo starts"));
    let [first, second] = running.map(verdict);
    for part in ["seed", "schedule", "verdict", "violations"] {
        assert_eq!(first[part], second[part], "{part}");
    }
    assert_eq!(first["verdict"], "ok", "{}", first["violations"]);
    let number = |path: &str| first.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path}"));
    assert!(number("/withHubs/nodes/0/offline/served") > 0, "a hub serves while cut off");
    assert!(number("/withHubs/readsOffline/reads") > 0, "reads, too");
    assert_eq!(number("/withoutHubs/nodes/0/offline/served"), 0, "without one nobody does");
    assert_eq!(number("/withHubs/nodes/0/relistsAfterHealing"), 0, "a hub goes on where it was");
    assert!(number("/withoutHubs/nodes/0/relistsAfterHealing") > 0, "restarted clients list again");
    for world in ["withHubs", "withoutHubs"] {
        let bodies = first[world]["bodyBytes"].as_object().expect("classes");
        let bodies: u64 = bodies.values().filter_map(Value::as_u64).sum();
        assert!(number(&format!("/{world}/brokenWatches")) > 0, "{world}: the schedule breaks watches");
        assert!(bodies > 0 && bodies <= number(&format!("/{world}/wireBytes")), "{world}: {bodies}");
    }
    for folder in &folders {
        assert_eq!(processes_of(folder.path()), []);
        assert_eq!(entries(folder.path()), 0);
    }
}

#[test]
fn however_it_is_ended_it_leaves_no_process_and_no_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let temporary = folder.path();
    let nothing_is_left = || {
        wait_until("hubs and janitor end", || processes_of(temporary).is_empty());
        assert_eq!(entries(temporary), 0);
    };
    let mut demo = start_until(temporary, "synced");
    assert_eq!(processes_of(temporary).len(), 2, "a hub and the janitor");
    kill("-KILL", id(&demo));
    demo.wait().expect("the demo ends");
    nothing_is_left();

    for (signal, word) in [("-TERM", "seed"), ("-INT", "synced")] {
        let mut demo = start_until(temporary, word);
        kill(signal, id(&demo));
        assert_eq!(demo.wait().expect("the demo ends").code(), Some(130), "{signal}");
        nothing_is_left();
    }

    let mut demo = start_until(temporary, "synced");
    let janitor = processes_of(temporary).into_iter().find(|(_, line)| line.contains("janitor"));
    kill("-KILL", janitor.expect("there is a janitor").0);
    kill("-KILL", id(&demo));
    demo.wait().expect("the demo ends");
    wait_until("the hub ends", || processes_of(temporary).is_empty());
    assert_eq!(entries(temporary), 1, "nobody was there to remove it");
    let mut demo = start_until(temporary, "seed");
    assert_eq!(entries(temporary), 1, "the dead demo's folder is swept, the living one's stands");
    kill("-HUP", id(&demo));
    assert_eq!(demo.wait().expect("the demo ends").code(), Some(130));
    nothing_is_left();
}
