//! `--check-config` finds what would stop the hub, names it, and exits with a code that an operator may rely on.

use std::{
    path::Path,
    process::{Command, Output},
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

const OK: i32 = 0;
const USAGE: i32 = 64;
const CONFIG: i32 = 78;

fn check(folder: &Path, text: &str) -> Output {
    let file = folder.join("edge-hub.yaml");
    std::fs::write(&file, text).expect("the folder is writable");
    Command::new(env!("CARGO_BIN_EXE_edge-hub"))
        .arg("--check-config")
        .arg("--config")
        .arg(&file)
        .output()
        .expect("the program was built for this test")
}

/// A CA and a pair that it signed, as an operator would have them.
fn pki(folder: &Path) {
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = ca.self_signed(&ca_key).expect("signed");
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec!["a".to_owned()])
        .expect("a name")
        .signed_by(&key, &issuer)
        .expect("signed");
    for (name, text) in
        [("ca.crt", certificate.pem()), ("node.crt", leaf.pem()), ("node.key", key.serialize_pem())]
    {
        std::fs::write(folder.join(name), text).expect("the folder is writable");
    }
}

fn config(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "nodeName: a\napiServers: ['https://127.0.0.1:6443']\napiServerCA: {folder}/ca.crt\n\
         credential: {{certificate: {folder}/node.crt, key: {folder}/node.key}}\nstateDirectory: {folder}/state\n"
    )
}

#[test]
fn a_good_configuration_is_said_to_be_good() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    pki(folder.path());
    let output = check(folder.path(), &config(folder.path()));
    assert_eq!(output.status.code(), Some(OK), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("is good"));
    assert!(!folder.path().join("state").exists(), "a check changes nothing");
}

#[test]
fn each_mistake_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    pki(folder.path());
    let good = config(folder.path());
    for (text, needle) in [
        (good.replace("nodeName: a", "nodName: a"), "nodName"),
        (good.replace("https://127", "http://127"), "apiServers"),
        (good.replace("ca.crt", "missing.crt"), "missing.crt"),
        (good.replace("node.key", "ca.crt"), "ca.crt"),
        (format!("{good}atRestKey: /does/not/exist\n"), "/does/not/exist"),
        (format!("{good}listen: ['here']\n"), "listen"),
        (format!("{good}filters: {{hubAddress: '127.0.0.1:10261'}}\n"), "filters.hubAddress"),
        (
            format!("{good}filters: {{rules: [{{user: jo, resource: pods, filter: masterservice}}]}}\n"),
            "services",
        ),
        (
            format!("{good}filters: {{rules: [{{user: jo, resource: pods, filter: other}}]}}\n"),
            "filters.rules",
        ),
    ] {
        let output = check(folder.path(), &text);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(CONFIG), "{needle}: {said}");
        assert!(said.contains(needle), "{said} should name {needle}");
    }
}

#[test]
fn wrong_arguments_are_a_usage_error() {
    let output = Command::new(env!("CARGO_BIN_EXE_edge-hub")).arg("--confg").output().expect("runs");
    assert_eq!(output.status.code(), Some(USAGE));
}
