//! `--check-config` finds what would stop the engine, names it, and exits with a code that an operator may rely on.

use std::{
    path::Path,
    process::{Command, Output},
};

use crate::rig::{Engine, Issuer};

fn check(folder: &Path, text: &str) -> Output {
    let file = folder.join("engine.yaml");
    std::fs::write(&file, text).expect("the folder is writable");
    let mut command = Command::new(env!("CARGO_BIN_EXE_media-engine"));
    command.arg("--check-config").arg("--config").arg(&file).output().expect("the program was built")
}

#[test]
fn each_mistake_is_named_and_a_good_file_is_said_to_be_good() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let keys = folder.path().join("jwks.json");
    std::fs::write(&keys, Issuer::new("k", 1).key_set()).expect("written");
    let good = format!("tokens: {{keys: {}}}\n", keys.display());
    let output = check(folder.path(), &good);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("is good"));
    let (empty, broken) = (folder.path().join("empty.json"), folder.path().join("broken.json"));
    std::fs::write(&empty, r#"{"keys":[]}"#).expect("written");
    std::fs::write(&broken, "{").expect("written");
    for (text, needle) in [
        (good.replace("keys:", "key:"), "key"),
        (good.replace("jwks.json", "missing.json"), "missing.json"),
        (good.replace("jwks.json", "empty.json"), "no key"),
        (good.replace("jwks.json", "broken.json"), "no JWKS"),
        (format!("{good}media: {{listen: '0.0.0.0:7000'}}\n"), "media.candidate"),
    ] {
        let output = check(folder.path(), &text);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{needle}: {said}");
        assert!(said.contains(needle), "{said} should name {needle}");
    }
}

#[test]
fn wrong_arguments_are_a_usage_error_and_a_probe_of_nobody_is_unavailable() {
    let engine = env!("CARGO_BIN_EXE_media-engine");
    let output = Command::new(engine).arg("--confg").output().expect("runs");
    assert_eq!(output.status.code(), Some(64));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ask = |arguments: &[&str]| Command::new(engine).args(arguments).output().expect("runs").status.code();
    let socket = folder.path().join("s").display().to_string();
    assert_eq!(ask(&["--admin-socket", &socket, "--probe", "/livez"]), Some(69));
    assert_eq!(ask(&["--probe", "/livez"]), Some(64), "which engine?");
    assert_eq!(ask(&["--check-config"]), Some(64), "which file?");
}

#[test]
fn a_broken_edit_of_the_configuration_fails_no_probe_of_a_running_engine() {
    let engine = Engine::start();
    std::fs::write(engine.config(), "media: {listen: nonsense").expect("written");
    std::fs::remove_file(engine.folder.path().join("jwks.json")).expect("it was there");
    assert_eq!((engine.probe("/livez").0, engine.probe("/readyz").0), (Some(0), Some(0)));
}
