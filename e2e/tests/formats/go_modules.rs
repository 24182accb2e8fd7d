//! The Go modules that the lab builds Kubernetes from, as they stand in the module cache.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::lab::skip;

/// The modules whose kinds kube-apiserver serves as protobuf.
const MODULES: [&str; 4] =
    ["k8s.io/api", "k8s.io/apiextensions-apiserver", "k8s.io/apimachinery", "k8s.io/kube-aggregator"];

/// Where each module stands.
#[derive(Clone)]
pub(crate) struct GoModules {
    /// Module path to (version, folder).
    modules: BTreeMap<String, (String, PathBuf)>,
}

impl GoModules {
    /// Downloads what is missing; `None` after saying why the test `name` is skipped.
    pub(crate) fn or_skip(name: &str) -> Option<Self> {
        match Self::find() {
            Ok(modules) => Some(modules),
            Err(why) => {
                skip(name, &why);
                None
            }
        }
    }

    fn find() -> Result<Self, String> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("kube/kubernetes");
        // In a copy: go may write to the module files.
        let copy = tempfile::tempdir().map_err(|error| error.to_string())?;
        for name in ["go.mod", "go.sum"] {
            std::fs::copy(source.join(name), copy.path().join(name)).map_err(|error| error.to_string())?;
        }
        let output = Command::new("go")
            .current_dir(copy.path())
            .envs([("GOFLAGS", ""), ("GOWORK", "off")])
            .args(["mod", "download", "-json"])
            .args(MODULES)
            .output()
            .map_err(|error| format!("`go` (Go 1.26): {error}"))?;
        if !output.status.success() {
            return Err(format!("go mod download: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        let mut modules = BTreeMap::new();
        for found in serde_json::Deserializer::from_slice(&output.stdout).into_iter::<serde_json::Value>() {
            let found = found.map_err(|error| format!("go mod download: {error}"))?;
            let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
            modules.insert(text("Path"), (text("Version"), PathBuf::from(text("Dir"))));
        }
        match MODULES.iter().find(|module| !modules.contains_key(**module)) {
            Some(missing) => Err(format!("go mod download does not say where {missing} is")),
            None => Ok(Self { modules }),
        }
    }

    /// The folder of a Go package, e.g. `k8s.io/api/apps/v1`.
    pub(crate) fn package(&self, package: &str) -> Option<PathBuf> {
        self.modules.iter().find_map(|(module, (_, folder))| {
            let rest = package.strip_prefix(module.as_str())?;
            Some(folder.join(rest.strip_prefix('/')?))
        })
    }

    /// Every module with its version and folder.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &str, &Path)> {
        self.modules
            .iter()
            .map(|(module, (version, folder))| (module.as_str(), version.as_str(), folder.as_path()))
    }
}
