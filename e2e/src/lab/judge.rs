//! Go programs of ours around an unmodified client-go: the judge with its informers, built once for each version, and
//! `connect`, which connects into pods.
//!
//! Each stands in a cache folder of its own, so that a change of it builds nothing else anew.

use std::path::PathBuf;

use super::assets::{Module, build_program, cache_root, lock};
use super::error::{LabError, Result};

/// Programs of one source file, built in one cache folder.
struct Programs {
    prefix: &'static str,
    source: &'static str,
    modules: &'static [Module],
}

const JUDGES: Programs =
    Programs { prefix: "judge", source: include_str!("../../judge/main.go"), modules: &JUDGE_MODULES };

const CONNECT: Programs = Programs {
    prefix: "connect",
    source: include_str!("../../connect/main.go"),
    modules: &[Module {
        name: "connect",
        go_mod: include_str!("../../connect/go.mod"),
        go_sum: include_str!("../../connect/go.sum"),
        versioned: "k8s.io/client-go",
        tags: "",
        programs: &[("connect", ".")],
    }],
};

const JUDGE_MODULES: [Module; 3] = [
    Module {
        name: "judge-0.33",
        go_mod: include_str!("../../judge/v0.33.mod"),
        go_sum: include_str!("../../judge/v0.33.sum"),
        versioned: "k8s.io/client-go",
        tags: "",
        programs: &[("judge-0.33", ".")],
    },
    Module {
        name: "judge-0.35",
        go_mod: include_str!("../../judge/v0.35.mod"),
        go_sum: include_str!("../../judge/v0.35.sum"),
        versioned: "k8s.io/client-go",
        tags: "",
        programs: &[("judge-0.35", ".")],
    },
    Module {
        name: "judge-0.37",
        go_mod: include_str!("../../judge/go.mod"),
        go_sum: include_str!("../../judge/go.sum"),
        versioned: "k8s.io/client-go",
        tags: "",
        programs: &[("judge-0.37", ".")],
    },
];

/// One of these programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judge {
    /// `judge-0.33` and so on, with the minor version of client-go; or `connect`.
    pub name: &'static str,
    /// The program, absolute. Its own header says what it takes and tells.
    pub program: PathBuf,
}

/// Finds the judges of all versions, oldest first, without building anything; `Err` inside names those not built yet.
pub fn locate_judges() -> Result<std::result::Result<Vec<Judge>, Vec<&'static str>>> {
    JUDGES.locate()
}

/// As [`locate_judges`], the program that connects into pods; `connect/main.go` says what it takes and tells.
pub fn locate_connect() -> Result<std::result::Result<Vec<Judge>, Vec<&'static str>>> {
    CONNECT.locate()
}

/// Builds the judges and `connect` where they are missing, with progress lines on stderr; a minute cold, needs Go 1.26.
pub fn build_judges() -> Result<Vec<Judge>> {
    let mut built = JUDGES.build()?;
    built.extend(CONNECT.build()?);
    Ok(built)
}

impl Programs {
    fn locate(&self) -> Result<std::result::Result<Vec<Judge>, Vec<&'static str>>> {
        let bin = self.folder()?.join("bin");
        let judge = |module: &Module| Judge { name: module.name, program: bin.join(module.name) };
        let all: Vec<Judge> = self.modules.iter().map(judge).collect();
        let missing: Vec<&str> =
            all.iter().filter(|judge| !judge.program.is_file()).map(|judge| judge.name).collect();
        Ok(if missing.is_empty() { Ok(all) } else { Err(missing) })
    }

    fn build(&self) -> Result<Vec<Judge>> {
        let folder = self.folder()?;
        if let Ok(judges) = self.locate()? {
            return Ok(judges);
        }
        std::fs::create_dir_all(&folder).map_err(LabError::io("create", &folder))?;
        let _lock = lock(&folder)?;
        for module in self.modules {
            // Another build may have made it while this one waited for the lock.
            if folder.join("bin").join(module.name).is_file() {
                continue;
            }
            let source = folder.join("src").join(module.name);
            std::fs::create_dir_all(&source).map_err(LabError::io("create", &source))?;
            let path = source.join("main.go");
            std::fs::write(&path, self.source).map_err(LabError::io("write", &path))?;
            for (program, package) in module.programs {
                build_program(module, program, package, &folder)?;
            }
        }
        self.locate()?.map_err(|missing| LabError::Missing(format!("{}: built but gone", missing.join(", "))))
    }

    /// The cache folder of this content of program and module files.
    fn folder(&self) -> Result<PathBuf> {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        let files = self.modules.iter().flat_map(|module| [module.go_mod, module.go_sum]);
        for part in files.chain([self.source]) {
            context.update(part.as_bytes());
            context.update(&[0]);
        }
        let hash = super::hex::hex(&context.finish().as_ref()[..6]);
        Ok(cache_root()?.join(format!("{}-{hash}", self.prefix)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_judge_has_the_client_go_that_its_name_says() {
        for module in &JUDGE_MODULES {
            let minor = module.name.trim_start_matches("judge-");
            let wanted = format!("k8s.io/client-go v{minor}.");
            assert!(module.go_mod.contains(&wanted), "{}: no {wanted}", module.name);
        }
    }
}
