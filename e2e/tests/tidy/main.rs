//! The house rules as a test: who may import whom, what a core may never hold, and how a file looks.
//!
//! Each rule collects every offence before it fails, so that one run names them all.

mod imports;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What may stand at the top. Files whose name begins with a dot may, too.
const TOP_LEVEL: [&str; 12] = [
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "cloud-tunnel",
    "deploy",
    "e2e",
    "edge-hub",
    "media",
    "pool-coordinator",
    "proto",
];
/// What builds leave behind; never read, never committed.
const BUILD_OUTPUT: [&str; 4] = ["target", ".git", ".cache", "e2e/kube/bin"];
const GROUND: [&str; 3] = ["proto", "proto-daemon", "proto-kube"];
const HOUSES: [&str; 4] = ["cloud-tunnel", "edge-hub", "media", "pool-coordinator"];
/// A core decides; whatever brings a socket, a clock or a runtime with it stays in the shell.
const NEVER_IN_A_CORE: [&str; 6] = ["hyper", "mio", "rustls", "sled", "str0m", "tokio"];
/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 9] =
    ["base", "common", "helper", "helpers", "manager", "managers", "misc", "util", "utils"];
const MAX_FILE_LINES: usize = 600;
const MAX_MAIN_LINES: usize = 40;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("e2e stands in the workspace").to_owned()
}

/// Every file of the repository with its path relative to the root.
fn files() -> Vec<(String, PathBuf)> {
    let (root, mut found, mut folders) = (root(), Vec::new(), vec![root()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the repository is readable") {
            let path = entry.expect("the repository is readable").path();
            let relative = path.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned();
            let built = BUILD_OUTPUT
                .iter()
                .any(|output| relative == *output || relative.ends_with(&format!("/{output}")));
            // In a worktree `.git` is a file that names the main repository.
            if path.is_symlink() || built && (path.is_dir() || relative == ".git") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push((relative, path));
            }
        }
    }
    found.sort();
    found
}

fn rust_files() -> impl Iterator<Item = (String, String)> {
    files()
        .into_iter()
        .filter(|(name, _)| name.ends_with(".rs"))
        .map(|(name, path)| (name, fs::read_to_string(path).expect("Rust is UTF-8")))
}

/// The part of a file that is not its tests, which stand at its end.
fn without_tests(text: &str) -> &str {
    let tests = text.match_indices("\n#[cfg(test)]\n").find(|(at, mark)| {
        let next = text[at + mark.len()..].lines().find(|line| !line.starts_with("#["));
        next.is_some_and(|line| line.starts_with("mod ") && line.ends_with('{'))
    });
    tests.map_or(text, |(at, _)| &text[..=at])
}

fn is_test_file(name: &str) -> bool {
    name.contains("/tests/") || name.ends_with("/tests.rs") || name.contains("/benches/")
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(arguments)
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo writes UTF-8")
}

/// One package of the workspace.
struct Package {
    name: String,
    folder: String,
    manifest: PathBuf,
    /// Which packages of the workspace it names, in any table.
    arrows: BTreeSet<String>,
}

fn packages() -> Vec<Package> {
    let text = cargo(&["metadata", "--no-deps", "--format-version", "1", "--offline"]);
    let metadata: Value = serde_json::from_str(&text).expect("cargo writes JSON");
    let root = root();
    let strings = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let packages = metadata["packages"].as_array().expect("cargo lists packages");
    packages
        .iter()
        .map(|package| {
            let manifest = PathBuf::from(strings(package, "manifest_path"));
            let folder = manifest.parent().and_then(|folder| folder.strip_prefix(&root).ok());
            let dependencies = package["dependencies"].as_array().expect("cargo lists dependencies");
            Package {
                name: strings(package, "name"),
                folder: folder.expect("a member stands below the root").to_string_lossy().into_owned(),
                arrows: dependencies
                    .iter()
                    .filter(|d| d["path"].is_string())
                    .map(|d| strings(d, "name"))
                    .collect(),
                manifest,
            }
        })
        .collect()
}

/// The floor plan: whether `from` may import `to`.
fn may_import(from: &str, to: &str) -> bool {
    let core_of = |house: &str| format!("{house}-core");
    if from == "e2e" {
        return true;
    }
    // TLS among members of a pool names them as the contract among our processes does.
    if from == "proto-daemon" {
        return to == "proto";
    }
    if from == "e2e-sim" {
        return ["proto", "proto-kube"].contains(&to) || HOUSES.iter().any(|house| core_of(house) == to);
    }
    // The model of the cloud judges what reads Kubernetes' wire format here; with our own reader in it, a mistake of
    // that reader would go unseen. So it falls through and may import nothing of ours.
    HOUSES.iter().any(|house| {
        let shell = from == *house && (to == core_of(house) || GROUND.contains(&to));
        let core = from == core_of(house) && ["proto", "proto-kube"].contains(&to);
        shell || core
    })
}

fn assert_clean(offences: &[String]) {
    assert!(offences.is_empty(), "\n{}\n", offences.join("\n"));
}

#[test]
fn a_package_is_named_by_its_path_with_dashes() {
    let offences: Vec<String> = packages()
        .iter()
        .filter(|package| package.folder.replace('/', "-") != package.name)
        .map(|package| format!("{} is named {}", package.folder, package.name))
        .collect();
    assert_clean(&offences);
}

#[test]
fn no_arrow_leads_upward_or_from_house_to_house() {
    let mut offences = Vec::new();
    for package in packages() {
        for to in package.arrows.iter().filter(|to| !may_import(&package.name, to)) {
            offences.push(format!("{} must not import {to}", package.name));
        }
    }
    assert_clean(&offences);
}

#[test]
fn no_circle_leads_from_a_file_back_to_it() {
    let mut offences = Vec::new();
    for package in packages() {
        let source = format!("{}/src/", package.folder);
        let files: Vec<(String, String)> = rust_files()
            .filter_map(|(name, text)| {
                let below = name.strip_prefix(&source)?;
                // A program's own file is a crate of its own.
                let is_program = below == "main.rs" || below.starts_with("bin/");
                (!is_program && !is_test_file(&name)).then(|| (below.to_owned(), text))
            })
            .collect();
        let files = files.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        let circles = imports::Crate::read(files).expect("the workspace compiles").circles();
        offences.extend(
            circles.iter().map(|circle| format!("{}: a circle of {}", package.name, circle.join(", "))),
        );
    }
    assert_clean(&offences);
}

#[test]
fn the_floor_plan_forbids_what_it_should() {
    for (from, to) in [
        ("edge-hub", "media"),
        ("edge-hub-core", "proto-daemon"),
        ("edge-hub-core", "edge-hub"),
        ("edge-hub", "media-core"),
        ("proto-kube", "proto"),
        ("proto-daemon", "proto-kube"),
        ("edge-hub", "e2e"),
        ("e2e-sim", "edge-hub"),
        ("e2e-cloud", "proto-kube"),
    ] {
        assert!(!may_import(from, to), "{from} -> {to}");
    }
    for (from, to) in
        [("edge-hub", "edge-hub-core"), ("edge-hub-core", "proto-kube"), ("e2e-sim", "edge-hub-core")]
    {
        assert!(may_import(from, to), "{from} -> {to}");
    }
}

#[test]
fn no_core_and_no_pure_ground_holds_a_runtime_or_a_socket() {
    let mut offences = Vec::new();
    for package in packages() {
        if !(package.name.ends_with("-core") || package.name == "proto" || package.name == "proto-kube") {
            continue;
        }
        let tree = ["tree", "--offline", "--edges", "normal", "--prefix", "none", "--format", "{p}", "-p"];
        let tree = cargo(&[&tree[..], &[&package.name]].concat());
        let held: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
        assert!(held.contains(package.name.as_str()), "cargo tree shows the package itself: {tree}");
        for forbidden in NEVER_IN_A_CORE.iter().filter(|name| held.contains(**name)) {
            offences.push(format!(
                "{} holds {forbidden}: cargo tree -p {} -i {forbidden}",
                package.name, package.name
            ));
        }
    }
    assert_clean(&offences);
}

#[test]
fn every_manifest_takes_lints_and_versions_from_the_root() {
    let mut offences = Vec::new();
    for package in packages() {
        let manifest = fs::read_to_string(&package.manifest).expect("a manifest is readable");
        if !manifest.contains("[lints]\nworkspace = true\n") {
            offences.push(format!("{}: no `[lints] workspace = true`", package.name));
        }
        let mut table = "";
        for line in manifest.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            if line.starts_with('[') {
                table = line;
            } else if table.contains("dependencies]") && !line.contains("workspace = true") {
                offences.push(format!("{}: {line}: name the version in the root's Cargo.toml", package.name));
            }
        }
    }
    assert_clean(&offences);
}

#[test]
fn every_rust_file_opens_by_saying_what_it_is_for() {
    let offences: Vec<String> = rust_files()
        .filter(|(_, text)| {
            text.lines().next().and_then(|line| line.strip_prefix("//! ")).is_none_or(|l| l.len() < 10)
        })
        .map(|(name, _)| format!("{name}: the first line is no `//!` sentence"))
        .collect();
    assert_clean(&offences);
}

#[test]
fn no_rust_file_outgrows_its_reader() {
    let mut offences = Vec::new();
    for (name, text) in rust_files() {
        let lines = without_tests(&text).lines().count();
        let limit = if name.ends_with("src/main.rs") { MAX_MAIN_LINES } else { MAX_FILE_LINES };
        if lines > limit {
            offences.push(format!("{name}: {lines} lines without tests, {limit} are allowed"));
        }
    }
    assert_clean(&offences);
}

#[test]
fn no_file_or_folder_has_a_name_that_says_nothing() {
    let offences: Vec<String> = files()
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| {
            name.split('/').filter_map(|part| part.split('.').next()).any(|part| EMPTY_NAMES.contains(&part))
        })
        .collect();
    assert_clean(&offences);
}

#[test]
fn nothing_unplanned_stands_at_the_top() {
    let mut offences = Vec::new();
    for entry in fs::read_dir(root()).expect("the repository is readable") {
        let name = entry.expect("the repository is readable").file_name().to_string_lossy().into_owned();
        let planned = name.starts_with('.') || TOP_LEVEL.contains(&name.as_str());
        if !planned && name != "target" {
            offences.push(name);
        }
    }
    assert_clean(&offences);
}

#[test]
fn the_readme_names_only_files_that_are_there() {
    let readme = fs::read_to_string(root().join("README.md")).expect("the README is readable");
    let named: Vec<&str> = readme.split('`').skip(1).step_by(2).filter(|word| word.contains('/')).collect();
    let ours = |word: &&&str| TOP_LEVEL.contains(&word.split('/').next().unwrap_or_default());
    let paths: Vec<&&str> = named.iter().filter(ours).collect();
    assert!(paths.len() > 10, "the README names where things are: {paths:?}");
    let missing = paths.into_iter().filter(|path| !root().join(path).exists());
    assert_clean(&missing.map(|path| format!("README.md: {path} is not there")).collect::<Vec<_>>());
}

/// Put together from halves, so that this file does not hold what it forbids.
fn forbidden_words() -> Vec<(String, &'static str)> {
    let registry = "a registry's host: the client's configuration names it";
    let machine = "a path of one machine";
    let promise = "unfinished work: finish it or leave it out";
    [
        (["crates", ".io"], registry),
        (["proxy.", "golang.org"], registry),
        (["sum.", "golang.org"], registry),
        (["/wo", "rk/"], machine),
        (["/root", "/"], machine),
        (["to", "do!("], promise),
        (["unimple", "mented!("], promise),
        (["for", " now"], promise),
        (["place", "holder"], promise),
        (["TO", "DO"], promise),
        (["FIX", "ME"], promise),
        (["#[ign", "ore]"], "a test that is left out says why: `#[ignore = \"..\"]`"),
    ]
    .into_iter()
    .map(|(halves, why)| (halves.concat(), why))
    .collect()
}

#[test]
fn no_file_holds_a_forbidden_word() {
    let words = forbidden_words();
    let mut offences = Vec::new();
    for (name, path) in files() {
        // Written by tools, which must name where things come from.
        if ["Cargo.lock", "go.sum", "go.mod"].iter().any(|file| name.ends_with(file)) {
            continue;
        }
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            for (word, why) in words.iter().filter(|(word, _)| line.contains(word.as_str())) {
                offences.push(format!("{name}:{}: {word:?} is {why}", number + 1));
            }
        }
    }
    assert_clean(&offences);
}

#[test]
fn a_process_never_gives_up_without_a_reason() {
    let mut offences = Vec::new();
    for (name, text) in rust_files().filter(|(name, _)| !is_test_file(name)) {
        for (number, line) in without_tests(&text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or(line);
            if code.contains(".unwrap()") {
                offences.push(format!("{name}:{}: `.unwrap()`: say why it holds with `.expect`", number + 1));
            }
        }
    }
    assert_clean(&offences);
}

/// `key = value` lines outside of lists; enough for files that hold nothing else.
fn scalar_keys(text: &str) -> BTreeMap<&str, &str> {
    text.lines()
        .filter(|line| !line.starts_with(['#', ' ', ']']))
        .filter_map(|line| line.split_once(" = "))
        .filter(|(_, value)| !value.starts_with('['))
        .collect()
}

#[test]
fn a_cores_clippy_file_repeats_the_roots_keys() {
    let read = |path: PathBuf| {
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let outer = read(root().join(".clippy.toml"));
    let wanted = scalar_keys(&outer);
    assert!(!wanted.is_empty(), "the root holds keys");
    let mut offences = Vec::new();
    for package in packages().iter().filter(|package| package.name.ends_with("-core")) {
        let inner = read(root().join(&package.folder).join(".clippy.toml"));
        let found = scalar_keys(&inner);
        for (key, value) in wanted.iter().filter(|(key, value)| found.get(*key) != Some(*value)) {
            offences.push(format!("{}/.clippy.toml: {key} = {value} of the root is missing", package.folder));
        }
        for ban in ["std::time::Instant::now", "std::time::SystemTime::now", "std::collections::HashMap"] {
            if !inner.contains(ban) {
                offences.push(format!("{}/.clippy.toml: {ban} is not banned", package.folder));
            }
        }
    }
    assert_clean(&offences);
}

#[test]
fn what_stands_before_the_tests_is_what_is_counted() {
    let file =
        "//! A file.\nfn a() {}\n\n#[cfg(test)]\nuse x;\n\n#[cfg(test)]\n#[allow(y)]\nmod tests {\n}\n";
    assert_eq!(without_tests(file), "//! A file.\nfn a() {}\n\n#[cfg(test)]\nuse x;\n\n");
    assert_eq!(without_tests("fn a() {}\n#[cfg(test)]\nmod tests;\nfn b() {}\n").lines().count(), 4);
}
