//! The unmodified Kubernetes binaries that a lab runs: found through the envtest variables, or built from their Go
//! modules into a cache folder. The module files travel inside this program, so a copied binary can build them too.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::command;
use super::error::{LabError, Result};

/// One Go module file pair and the programs that it builds.
pub(super) struct Module {
    pub(super) name: &'static str,
    pub(super) go_mod: &'static str,
    pub(super) go_sum: &'static str,
    /// The module whose version is stamped into the programs.
    pub(super) versioned: &'static str,
    pub(super) tags: &'static str,
    /// (file name, Go package).
    pub(super) programs: &'static [(&'static str, &'static str)],
}

/// Kubernetes and what it stands on.
const KUBERNETES: [Module; 3] = [
    Module {
        name: "etcd",
        go_mod: include_str!("../../kube/etcd/go.mod"),
        go_sum: include_str!("../../kube/etcd/go.sum"),
        versioned: "go.etcd.io/etcd/server/v3",
        tags: "",
        programs: &[("etcd", "go.etcd.io/etcd/server/v3")],
    },
    Module {
        name: "kubernetes",
        go_mod: include_str!("../../kube/kubernetes/go.mod"),
        go_sum: include_str!("../../kube/kubernetes/go.sum"),
        versioned: "k8s.io/kubernetes",
        tags: "",
        programs: &[
            ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
            ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
            ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
            ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
            ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
        ],
    },
    Module {
        name: "containerd",
        go_mod: include_str!("../../kube/containerd/go.mod"),
        go_sum: include_str!("../../kube/containerd/go.sum"),
        versioned: "github.com/containerd/containerd/v2",
        tags: "no_btrfs no_devmapper no_zfs",
        programs: &[
            ("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
            ("containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"),
            ("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
        ],
    },
];

/// In a cache folder of its own, so that a change of CoreDNS never builds Kubernetes anew, nor the other way round.
const COREDNS: [Module; 1] = [Module {
    name: "coredns",
    go_mod: include_str!("../../kube/coredns/go.mod"),
    go_sum: include_str!("../../kube/coredns/go.sum"),
    versioned: "github.com/coredns/coredns",
    tags: "",
    programs: &[("coredns", "github.com/coredns/coredns")],
}];

/// All modules, by the prefix of the cache folder that they share.
const FOLDERS: [(&str, &[Module]); 2] = [("kube", &KUBERNETES), ("coredns", &COREDNS)];

/// What a control plane without kubelets needs.
pub(crate) const CONTROL_PLANE: [&str; 5] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"];

/// What each whole node needs beside the control plane.
pub(crate) const NODE: [&str; 6] =
    ["kubelet", "kube-proxy", "coredns", "containerd", "containerd-shim-runc-v2", "ctr"];

/// Where the binaries stand: program name to absolute path.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Assets {
    paths: BTreeMap<String, PathBuf>,
}

/// The programs that are neither pointed at by a variable nor built yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingAssets(pub Vec<&'static str>);

impl fmt::Display for MissingAssets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} not built yet (`eyot lab assets` builds them)", self.0.join(", "))
    }
}

impl Assets {
    /// Finds `programs` without building anything.
    ///
    /// For each, the first that holds wins: `TEST_ASSET_<NAME>` (upper case, dashes as underscores), a file of that
    /// name in `KUBEBUILDER_ASSETS`, the cache folder. Errors: a variable that names no file.
    pub fn locate(programs: &[&'static str]) -> Result<std::result::Result<Assets, MissingAssets>> {
        let root = cache_root()?;
        let mut found = Assets::default();
        let mut missing = Vec::new();
        for program in programs {
            let cache = folder_of(&root, program);
            match find(program, &cache, |name| std::env::var_os(name).map(PathBuf::from))? {
                Some(path) => drop(found.paths.insert((*program).to_owned(), path)),
                None => missing.push(*program),
            }
        }
        Ok(if missing.is_empty() { Ok(found) } else { Err(MissingAssets(missing)) })
    }

    /// Finds `programs` and builds those that are missing, with progress lines on stderr.
    ///
    /// Cold, all of them take about six minutes on two cores and 2 GB of memory; warm, seconds. Two builds at the
    /// same time wait for each other.
    pub fn build(programs: &[&'static str]) -> Result<Assets> {
        let Err(missing) = Assets::locate(programs)? else { return Self::located(programs) };
        let root = cache_root()?;
        for (prefix, modules) in FOLDERS {
            let all =
                modules.iter().flat_map(|module| module.programs.iter().map(move |each| (module, each)));
            let wanted: Vec<_> = all.filter(|(_, (program, _))| missing.0.contains(program)).collect();
            if wanted.is_empty() {
                continue;
            }
            let cache = folder(&root, prefix, modules);
            std::fs::create_dir_all(&cache).map_err(LabError::io("create", &cache))?;
            let _lock = lock(&cache)?;
            for (module, (program, package)) in wanted {
                // Another build may have made it while this one waited for the lock.
                if !cache.join("bin").join(program).exists() {
                    build_program(module, program, package, &cache)?;
                }
            }
        }
        Self::located(programs)
    }

    fn located(programs: &[&'static str]) -> Result<Assets> {
        Assets::locate(programs)?.map_err(|missing| LabError::Missing(missing.to_string()))
    }

    /// The absolute path of `program`, or [`LabError::Missing`].
    pub fn path(&self, program: &str) -> Result<&Path> {
        self.paths
            .get(program)
            .map(PathBuf::as_path)
            .ok_or_else(|| LabError::Missing(format!("{program} (`eyot lab assets` builds it)")))
    }

    /// Every program with its path, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.paths.iter().map(|(name, path)| (name.as_str(), path.as_path()))
    }
}

/// Every program that the lab knows to build, in the order in which it builds them.
pub fn all_programs() -> Vec<&'static str> {
    modules().flat_map(|module| module.programs.iter().map(|(name, _)| *name)).collect()
}

fn modules() -> impl Iterator<Item = &'static Module> {
    FOLDERS.into_iter().flat_map(|(_, modules)| modules)
}

/// The folder for everything that is built once: `$EYOT_CACHE`, else `$XDG_CACHE_HOME/eyot`, else `~/.cache/eyot`.
///
/// Below it stands one folder per content of some module files, so that a changed version never meets old binaries.
pub fn cache_root() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let root = set("EYOT_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|folder| folder.join("eyot")))
        .or_else(|| set("HOME").map(|folder| folder.join(".cache/eyot")))
        .ok_or_else(|| {
            LabError::Missing(
                "a cache folder: set EYOT_CACHE (neither XDG_CACHE_HOME nor HOME is set)".into(),
            )
        })?;
    std::path::absolute(&root).map_err(LabError::io("resolve", &root))
}

fn folder(root: &Path, prefix: &str, modules: &[Module]) -> PathBuf {
    root.join(format!("{prefix}-{}", module_hash(modules)))
}

/// The cache folder of the modules that build `program`.
fn folder_of(root: &Path, program: &str) -> PathBuf {
    let builds = |modules: &[Module]| {
        modules.iter().any(|module| module.programs.iter().any(|(name, _)| *name == program))
    };
    let (prefix, modules) = FOLDERS.into_iter().find(|(_, modules)| builds(modules)).unwrap_or(FOLDERS[0]);
    folder(root, prefix, modules)
}

/// The first 12 hex digits of the SHA-256 over the files of `modules`.
fn module_hash(modules: &[Module]) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for module in modules {
        for part in [module.name, module.tags, module.go_mod, module.go_sum] {
            context.update(part.as_bytes());
            context.update(&[0]);
        }
    }
    super::hex::hex(&context.finish().as_ref()[..6])
}

fn find(program: &str, cache: &Path, variable: impl Fn(&str) -> Option<PathBuf>) -> Result<Option<PathBuf>> {
    let name = format!("TEST_ASSET_{}", program.to_uppercase().replace('-', "_"));
    if let Some(path) = variable(&name).filter(|path| !path.as_os_str().is_empty()) {
        if !path.is_file() {
            return Err(LabError::Missing(format!("{name} names {}, which is no file", path.display())));
        }
        return Ok(Some(std::path::absolute(&path).map_err(LabError::io("resolve", &path))?));
    }
    let folders = variable("KUBEBUILDER_ASSETS").into_iter().chain([cache.join("bin")]);
    for candidate in folders.map(|folder| folder.join(program)) {
        if candidate.is_file() {
            let path = std::path::absolute(&candidate).map_err(LabError::io("resolve", &candidate))?;
            return Ok(Some(path));
        }
    }
    Ok(None)
}

pub(super) fn lock(cache: &Path) -> Result<nix::fcntl::Flock<std::fs::File>> {
    use nix::fcntl::{Flock, FlockArg};
    let path = cache.join("build.lock");
    let file = std::fs::File::create(&path).map_err(LabError::io("create", &path))?;
    let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => return Ok(lock),
        Err((file, _)) => file,
    };
    eprintln!("waiting for another build of the same assets to end");
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| LabError::Io {
        what: "lock",
        path,
        source: errno.into(),
    })
}

/// Builds one program of `module` from `CACHE/src/MODULE` into `CACHE/bin`.
pub(super) fn build_program(module: &Module, program: &str, package: &str, cache: &Path) -> Result<()> {
    let source = cache.join("src").join(module.name);
    let bin = cache.join("bin");
    for folder in [&source, &bin] {
        std::fs::create_dir_all(folder).map_err(LabError::io("create", folder))?;
    }
    for (file, content) in [("go.mod", module.go_mod), ("go.sum", module.go_sum)] {
        std::fs::write(source.join(file), content).map_err(LabError::io("write", source.join(file)))?;
    }
    let version = required_version(module.go_mod, module.versioned).unwrap_or("v0.0.0");
    // Built beside its place and renamed: a build that was killed never leaves half a program under the name.
    let partial = bin.join(format!(".{program}.partial"));
    let mut go = Command::new("go");
    go.current_dir(&source)
        .envs([("CGO_ENABLED", "0"), ("GOFLAGS", ""), ("GOWORK", "off"), ("GOOS", ""), ("GOARCH", "")])
        .args(["build", "-v", "-trimpath", "-tags", module.tags, "-ldflags", &linker_flags(module, version)])
        .arg("-o")
        .arg(&partial)
        .arg(package);
    let started = Instant::now();
    run_with_progress(&mut go, &format!("{program} {version}"), started)?;
    let target = bin.join(program);
    std::fs::rename(&partial, &target).map_err(LabError::io("rename", &partial))?;
    let megabytes = std::fs::metadata(&target).map_or(0, |meta| meta.len() / 1_000_000);
    eprintln!("built {program} {version}: {megabytes} MB in {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Strips debug data and stamps the version that clients see; without the stamp a server reports v0.0.0.
fn linker_flags(module: &Module, version: &str) -> String {
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or("0"), numbers.next().unwrap_or("0"));
    let stamp = match module.name {
        "kubernetes" => {
            let package = "k8s.io/component-base/version";
            format!(
                " -X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
            )
        }
        "containerd" => format!(" -X {}/version.Version={version}", module.versioned),
        _ => String::new(),
    };
    format!("-s -w{stamp}")
}

/// The version that a go.mod requires of `module`.
fn required_version<'a>(go_mod: &'a str, module: &str) -> Option<&'a str> {
    go_mod.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word == "require");
        (words.next() == Some(module)).then(|| words.next()).flatten().filter(|word| word.starts_with('v'))
    })
}

/// Runs `go build -v`, counting the packages that it names on stderr.
fn run_with_progress(go: &mut Command, what: &str, started: Instant) -> Result<()> {
    let failed = |go: &Command, status: String, stderr: String| LabError::Command {
        command: command::describe(go),
        status,
        stderr,
    };
    go.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = go.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => LabError::Missing(
            "Go 1.26 or later on the PATH, to build the Kubernetes binaries; or point KUBEBUILDER_ASSETS or \
             TEST_ASSET_* at ready ones"
                .to_owned(),
        ),
        _ => failed(go, "not started".to_owned(), error.to_string()),
    })?;
    let stderr = child.stderr.take().expect("stderr was set to a pipe above");
    let (sender, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(std::io::Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let mut progress = Progress::new(what, started);
    let mut said = Vec::new();
    loop {
        match lines.recv_timeout(progress.period) {
            Ok(line) if is_package(&line) => progress.packages += 1,
            Ok(line) => said.push(line),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
        progress.show();
    }
    progress.end();
    let status = child.wait().map_err(|error| failed(go, "lost".to_owned(), error.to_string()))?;
    reader.join().expect("the reader only forwards lines");
    if status.success() {
        return Ok(());
    }
    Err(failed(go, status.to_string(), command::tail(&said.join("\n"), 2000)))
}

/// Whether a line of `go build -v` is the name of a package that is being compiled.
fn is_package(line: &str) -> bool {
    !line.is_empty() && !line.contains(' ') && !line.starts_with('#') && !line.contains(".go:")
}

/// One line on a terminal that keeps being rewritten; in a log, one line every 15 seconds.
struct Progress<'a> {
    what: &'a str,
    started: Instant,
    shown: Instant,
    period: Duration,
    packages: u32,
    terminal: bool,
}

impl<'a> Progress<'a> {
    fn new(what: &'a str, started: Instant) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let period = if terminal { Duration::from_millis(500) } else { Duration::from_secs(15) };
        eprintln!("building {what}");
        Progress { what, started, shown: started, period, packages: 0, terminal }
    }

    fn show(&mut self) {
        if self.shown.elapsed() < self.period {
            return;
        }
        self.shown = Instant::now();
        let seconds = self.started.elapsed().as_secs();
        let text = format!("  {}: {} packages compiled, {seconds} s", self.what, self.packages);
        let mut stderr = std::io::stderr();
        // Progress is a courtesy: a closed stderr must not stop the build.
        let _ = if self.terminal { write!(stderr, "\r{text}\x1b[K") } else { writeln!(stderr, "{text}") };
    }

    fn end(&self) {
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program_file(folder: &Path, name: &str) -> PathBuf {
        std::fs::create_dir_all(folder).expect("folder");
        let path = folder.join(name);
        std::fs::write(&path, "").expect("file");
        path
    }

    #[test]
    fn the_variable_of_one_program_wins_over_the_folder_and_the_folder_over_the_cache() {
        let root = tempfile::tempdir().expect("temporary folder");
        let cache = root.path().join("cache");
        let kubebuilder = root.path().join("kubebuilder");
        let cached = program_file(&cache.join("bin"), "kube-apiserver");
        let in_folder = program_file(&kubebuilder, "kube-apiserver");
        let named = program_file(root.path(), "my-apiserver");

        let look = |variables: &[(&str, &Path)]| {
            find("kube-apiserver", &cache, |name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, path)| path.to_path_buf())
            })
        };
        assert_eq!(look(&[]).expect("found"), Some(cached));
        assert_eq!(look(&[("KUBEBUILDER_ASSETS", &kubebuilder)]).expect("found"), Some(in_folder));
        let both = [("KUBEBUILDER_ASSETS", kubebuilder.as_path()), ("TEST_ASSET_KUBE_APISERVER", &named)];
        assert_eq!(look(&both).expect("found"), Some(named));
    }

    #[test]
    fn a_variable_that_names_no_file_is_an_error_and_not_a_fallback() {
        let root = tempfile::tempdir().expect("temporary folder");
        program_file(&root.path().join("bin"), "etcd");
        let wrong = |name: &str| (name == "TEST_ASSET_ETCD").then(|| PathBuf::from("/nowhere/etcd"));
        let error = find("etcd", root.path(), wrong).expect_err("no such file");
        assert!(error.to_string().contains("TEST_ASSET_ETCD"), "{error}");
    }

    #[test]
    fn every_program_is_a_tool_of_its_module_and_has_a_version() {
        for module in modules() {
            for (program, package) in module.programs {
                let listed =
                    module.go_mod.lines().any(|line| line.trim().trim_start_matches("tool ") == *package);
                assert!(listed, "{program}: no tool directive for {package}");
            }
            assert!(required_version(module.go_mod, module.versioned).is_some(), "{}", module.name);
        }
        let all = all_programs();
        assert!(CONTROL_PLANE.iter().chain(&NODE).all(|program| all.contains(program)));
    }

    #[test]
    fn package_names_are_told_from_complaints() {
        assert!(is_package("k8s.io/apiserver/pkg/storage/etcd3"));
        assert!(!is_package("# k8s.io/apiserver/pkg/storage"));
        assert!(!is_package("pkg/storage/x.go:3:1: undefined: y"));
        assert!(!is_package("go: downloading k8s.io/api v0.36.3"));
    }
}
