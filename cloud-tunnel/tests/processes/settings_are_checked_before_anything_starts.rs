//! `--check-config` names what is wrong; a door or listener that cannot be made ends the process with a code of its own.

use std::process::{Command, Output};

use crate::rig::Rig;

const SERVER: &str = env!("CARGO_BIN_EXE_tunnel-server");
const AGENT: &str = env!("CARGO_BIN_EXE_tunnel-agent");

fn run(program: &str, rig: &Rig, config: &str, check: bool) -> (i32, String) {
    let mut command = Command::new(program);
    command.arg("--config").arg(rig.path(config)).args(check.then_some("--check-config"));
    let Output { status, stdout, stderr } = command.output().expect("built for this test");
    let said = [stdout, stderr].concat();
    (status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn good_settings_are_said_to_be_good_and_change_nothing() {
    let rig = Rig::new();
    for (program, config) in [(SERVER, "server.yaml"), (AGENT, "agent.yaml")] {
        let (code, said) = run(program, &rig, config, true);
        assert_eq!((code, said.contains("is good")), (0, true), "{said}");
    }
    assert!(!rig.path("door.sock").exists());
}

#[test]
fn a_missing_file_is_named_and_worth_another_start() {
    let rig = Rig::new();
    std::fs::remove_file(rig.path("ca.crt")).expect("removed");
    for (program, config) in [(SERVER, "server.yaml"), (AGENT, "agent.yaml")] {
        let (code, said) = run(program, &rig, config, true);
        assert_eq!((code, said.contains("ca.crt")), (69, true), "{said}");
    }
    for (program, config, key) in [(SERVER, "server.yaml", "server.key"), (AGENT, "agent.yaml", "node-1.key")]
    {
        std::fs::remove_file(rig.path(key)).expect("removed");
        let (code, said) = run(program, &rig, config, false);
        assert_eq!((code, said.contains(key)), (69, true), "{said}");
        std::fs::write(rig.path(key), "no PEM").expect("written");
        assert_eq!(run(program, &rig, config, false).0, 78, "what is there and wrong stays wrong");
    }
    assert_eq!(run(SERVER, &rig, "none.yaml", false).0, 78);
    assert_eq!(Command::new(AGENT).arg("--confg").output().expect("runs").status.code(), Some(64));
}

#[test]
fn a_door_that_cannot_be_made_is_71_with_its_path_and_a_taken_port_69() {
    let rig = Rig::new();
    let mut config = rig.server_config();
    // A file stands where the door's folder should.
    config["doors"]["httpConnect"] = rig.path("ca.crt/door.sock").display().to_string().into();
    std::fs::write(rig.path("bad.yaml"), config.to_string()).expect("written");
    let (code, said) = run(SERVER, &rig, "bad.yaml", false);
    assert_eq!((code, said.contains("ca.crt/door.sock")), (71, true), "{said}");

    let _taken = std::net::TcpListener::bind(rig.listen).expect("free");
    let (code, said) = run(SERVER, &rig, "server.yaml", false);
    assert_eq!((code, said.contains(&rig.listen.to_string())), (69, true), "{said}");
}
