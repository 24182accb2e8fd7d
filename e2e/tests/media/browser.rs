//! A headless Chromium whose pages are calls, driven by `e2e/browser/call.mjs` line by line.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use e2e::lab::{cache_root, skip};
use serde_json::Value;

/// Debian's.
const CHROMIUM: &str = "/usr/bin/chromium";

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("e2e stands in the workspace")
}

/// A running browser; it ends with its standard input.
pub(crate) struct Browser {
    process: Child,
    input: ChildStdin,
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
        let mut node = Command::new("node");
        node.arg(repository().join("e2e/browser/call.mjs"));
        node.arg(repository().join("media/src/page.html")).arg(modules);
        let mut process =
            node.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("node is there since above");
        let input = process.stdin.take().expect("piped");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        let mut browser = Self { process, input, output };
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

    pub(crate) fn close(&mut self, name: &str) {
        self.ask(&format!("close {name}"));
    }

    fn ask(&mut self, line: &str) -> Value {
        writeln!(self.input, "{line}").expect("the browser runs");
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
        // Node ends the browser by itself where it can; whatever hangs must not outlive the test.
        let _ = writeln!(self.input, "end");
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
