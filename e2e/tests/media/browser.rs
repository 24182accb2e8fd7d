//! A headless Chromium whose pages are calls, driven by `e2e/browser/call.mjs` line by line.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use e2e::lab::{cache_root, skip, wait_until};
use serde_json::Value;

/// Debian's.
const CHROMIUM: &str = "/usr/bin/chromium";
/// How long it may take to close.
const END_LIMIT: Duration = Duration::from_secs(10);

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("e2e stands in the workspace")
}

/// One browser at a time: two make each other's figures wrong.
static TURN: Mutex<()> = Mutex::new(());

/// A running browser; it ends with its standard input.
pub(crate) struct Browser {
    _turn: MutexGuard<'static, ()>,
    process: Child,
    /// Its end is the browser's; there until then.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// Where the packages of this lock file are, as `.ci/run` puts them.
fn modules() -> PathBuf {
    let lock = std::fs::read(repository().join("e2e/browser/package-lock.json")).expect("it is committed");
    let digest = ring::digest::digest(&ring::digest::SHA256, &lock);
    let name: String = digest.as_ref()[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    cache_root().expect("a cache folder").join(format!("browser-{name}"))
}

/// The folder of the packages, or `None` after saying what this machine lacks.
pub(crate) fn packages_or_skip(test: &str) -> Option<PathBuf> {
    let modules = modules();
    let has_node = Command::new("node").arg("--version").output().is_ok();
    let why = if !Path::new(CHROMIUM).exists() {
        "no /usr/bin/chromium (package chromium)".to_owned()
    } else if !has_node {
        "no `node` (package nodejs)".to_owned()
    } else if !modules.join("node_modules/playwright-core").is_dir() {
        let folder = modules.display();
        format!(
            "no node packages: copy e2e/browser/package*.json to {folder} and run `npm ci --ignore-scripts` there"
        )
    } else {
        return Some(modules);
    };
    skip(test, &why);
    None
}

impl Browser {
    pub(crate) fn start(modules: &Path) -> Self {
        // Whoever failed while it had its turn has left nothing half done here.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut node = Command::new("node");
        node.arg(repository().join("e2e/browser/call.mjs"));
        node.arg(repository().join("media/src/page.html")).arg(modules);
        let mut process =
            node.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("node is there since above");
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().expect("piped"));
        let mut browser = Self { _turn: turn, process, input, output };
        eprintln!("chromium {}", browser.answer()["version"]);
        browser
    }

    /// Opens a page of this name with these settings.
    pub(crate) fn open(&mut self, name: &str, settings: &str) {
        self.ask(&format!("open {name} {settings}"));
    }

    /// What the calls of a page tell.
    pub(crate) fn read(&mut self, name: &str) -> Value {
        self.ask(&format!("read {name}"))
    }

    /// New ICE credentials for what a page plays.
    pub(crate) fn restart(&mut self, name: &str) {
        self.ask(&format!("restart {name}"));
    }

    /// The layer of this rid for what a page plays.
    pub(crate) fn choose(&mut self, name: &str, rid: &str) {
        self.ask(&format!("choose {name} {rid}"));
    }

    pub(crate) fn close(&mut self, name: &str) {
        self.ask(&format!("close {name}"));
    }

    fn ask(&mut self, line: &str) -> Value {
        let input = self.input.as_mut().expect("piped");
        writeln!(input, "{line}").expect("the browser runs");
        let answer = self.answer();
        assert!(answer["error"].is_null(), "{line}: {answer}");
        answer
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the browser runs");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.input.take());
        let ended = wait_until(END_LIMIT, || matches!(self.process.try_wait(), Ok(Some(_))));
        if !ended {
            // What hangs must not outlive the test; Chromium ends with the pipe to it.
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}
