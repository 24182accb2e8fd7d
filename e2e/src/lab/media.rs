//! A media engine on a node of a lab: the manifests of `deploy/`, an image that is made on the spot, and tokens.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proto_daemon::config;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

use super::command::run;
use super::error::{LabError, Result};
use super::{Container, Lab, image, objects};

/// The image of the engine; the nodes import it from an archive.
const IMAGE: &str = "eyot.io/lab/media-engine:1";
/// Where the engine stands in its image. `eyot` is the engine when it is called by this name.
const PROGRAM: &str = "/media-engine";
/// What operators apply.
const MANIFESTS: &str = include_str!("../../../deploy/media.yaml");
/// The namespace and the name of all of it.
const NAMESPACE: &str = "media";
const NAME: &str = "media-engine";
/// The label of nodes that have an engine.
const LABEL: &str = "eyot.io/media=true";
/// The engine's port for WHIP and WHEP.
const HTTP_PORT: u16 = 7080;
/// How long the engine may take from its manifest until it is ready, in seconds.
const READY_SECONDS: u16 = 120;
/// The id of the lab's key.
const KEY_ID: &str = "lab";

/// What a token of the lab allows.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Who holds it.
    pub subject: String,
    /// The one room.
    pub room: String,
    /// Streams that may be published; `*` for all.
    pub publish: Vec<String>,
    /// Streams that may be played; `*` for all.
    pub play: Vec<String>,
    /// How long it holds.
    pub lifetime: Duration,
}

/// An engine's pod, as the cloud has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnginePod {
    /// Its name.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// Its node.
    pub node: String,
    /// How often its container was started again.
    pub restarts: u64,
    /// Whether it is ready.
    pub ready: bool,
}

/// Puts an engine on `node`, or leaves the one that is there; returns where it speaks HTTP when it is ready.
pub(crate) fn start(lab: &Lab, node: &str) -> Result<SocketAddr> {
    let archive = prepare_image(lab)?;
    let namespace = lab.names.node(node);
    lab.node_of(node, &namespace)?.import_pinned(&archive, IMAGE)?;
    objects::apply(lab.kubectl()?, &manifests(lab)?)?;
    run(lab.kubectl()?.args(["label", "node", node, "--overwrite", LABEL]), "")?;
    let limit = format!("--timeout={READY_SECONDS}s");
    let daemon_set = format!("daemonset/{NAME}");
    // The set knows of its nodes a moment after they have the label, and has rolled out to none until then.
    let selector = format!("app.kubernetes.io/name={NAME}");
    let field = format!("--field-selector=spec.nodeName={node}");
    let appeared = super::wait_until(Duration::from_secs(READY_SECONDS.into()), || {
        pods(lab).is_ok_and(|pods| pods.iter().any(|pod| pod.node == node))
    });
    if !appeared {
        return Err(LabError::Invalid(format!("{daemon_set} made no pod on {node}: describe it by kubectl")));
    }
    let wait = ["wait", "--for=condition=Ready", "pod", "-n", NAMESPACE, "-l", &selector, &field, &limit];
    run(lab.kubectl()?.args(wait), "")?;
    address(lab, node)
}

/// Where the engine of `node` speaks HTTP.
pub(crate) fn address(lab: &Lab, node: &str) -> Result<SocketAddr> {
    Ok(SocketAddr::from((lab.state.subnet.node(lab.check(node)?), HTTP_PORT)))
}

/// The engines' pods.
pub(crate) fn pods(lab: &Lab) -> Result<Vec<EnginePod>> {
    let text = run(lab.kubectl()?.args(["get", "pods", "-n", NAMESPACE, "-o", "json"]), "")?;
    let list: Value = serde_json::from_str(&text)
        .map_err(|error| LabError::Invalid(format!("kubectl get pods: no JSON: {error}")))?;
    Ok(list["items"].as_array().into_iter().flatten().map(pod).collect())
}

fn pod(object: &Value) -> EnginePod {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let status = &object["status"]["containerStatuses"][0];
    EnginePod {
        name: text("/metadata/name"),
        uid: text("/metadata/uid"),
        node: text("/spec/nodeName"),
        restarts: status["restartCount"].as_u64().unwrap_or_default(),
        ready: status["ready"] == true,
    }
}

/// The containers of the engine of `node`, dead ones too, asked of its containerd: true also while cut.
pub(crate) fn containers(lab: &Lab, node: &str) -> Result<Vec<Container>> {
    let mut containers = lab.containers(node)?;
    containers.retain(|container| container.pod.starts_with(NAME));
    Ok(containers)
}

/// Kills the engine of `node` by SIGKILL; its kubelet starts it again.
pub(crate) fn kill(lab: &Lab, node: &str) -> Result<()> {
    let running = containers(lab, node)?.into_iter().find(|container| container.running);
    let running = running.ok_or_else(|| {
        LabError::Invalid(format!("no media engine runs on {node}; `eyot lab media {node}` starts one"))
    })?;
    lab.kill_pod(node, &running.pod)
}

/// A token that every engine of the lab takes.
pub(crate) fn token(lab: &Lab, grant: &Grant) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let claims = json!({
        "sub": grant.subject,
        "exp": (now + grant.lifetime).as_secs(),
        "room": grant.room,
        "publish": grant.publish,
        "play": grant.play,
        "list": true,
    });
    let header = json!({ "alg": "EdDSA", "kid": KEY_ID });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let input = format!("{}.{}", part(&header), part(&claims));
    let signature = key(lab)?.sign(input.as_bytes());
    Ok(format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// The lab's key for tokens, made at its first use.
fn key(lab: &Lab) -> Result<Ed25519KeyPair> {
    let path = lab.dir.join("pki/media-tokens.pk8");
    let broken = |_| LabError::Invalid(format!("{}: no Ed25519 key; remove it", path.display()));
    if !path.exists() {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(broken)?;
        fs::write(&path, document.as_ref()).map_err(LabError::io("write", &path))?;
    }
    let document = fs::read(&path).map_err(LabError::io("read", &path))?;
    Ed25519KeyPair::from_pkcs8(&document)
        .map_err(|error| LabError::Invalid(format!("{}: {error}; remove it", path.display())))
}

/// What `deploy/media.yaml` says, with the lab's image and key. The container has the name by which a lab finds it.
fn manifests(lab: &Lab) -> Result<Vec<Value>> {
    let parse = |text| config::parse(Path::new("deploy/media.yaml"), text).expect("a test reads it, too");
    let mut objects: Vec<Value> = MANIFESTS.split("\n---\n").map(parse).collect();
    let point = URL_SAFE_NO_PAD.encode(key(lab)?.public_key().as_ref());
    let keys = json!({ "keys": [
        { "kty": "OKP", "crv": "Ed25519", "kid": KEY_ID, "use": "sig", "alg": "EdDSA", "x": point },
    ] });
    for object in &mut objects {
        if object["metadata"]["name"] == "media-tokens" {
            object["data"]["jwks.json"] = keys.to_string().into();
        }
        if object["kind"] == "DaemonSet" {
            let container = &mut object["spec"]["template"]["spec"]["containers"][0];
            container["name"] = "main".into();
            container["image"] = IMAGE.into();
            container["imagePullPolicy"] = "Never".into();
        }
    }
    Ok(objects)
}

/// Makes the archive of the engine's image, unless this very program has made it.
fn prepare_image(lab: &Lab) -> Result<PathBuf> {
    let program = lab.program();
    let folder = lab.dir.join("images");
    let (archive, bare) = (folder.join("media-engine.tar"), folder.join("media-engine"));
    let age = |path: &Path| fs::metadata(path).and_then(|found| found.modified()).ok();
    if age(&archive).zip(age(&program)).is_some_and(|(made, source)| made >= source) {
        return Ok(archive);
    }
    fs::create_dir_all(&folder).map_err(LabError::io("create", &folder))?;
    // Most of a program that was built for tests is what debuggers want.
    let mut strip = Command::new("strip");
    let stripped = run(strip.arg("-s").arg("-o").arg(&bare).arg(&program), "");
    if stripped.is_err() {
        fs::copy(&program, &bare).map_err(LabError::io("copy", &program))?;
    }
    let mut files = vec![(PROGRAM.to_owned(), bare)];
    files.extend(libraries(&program)?.into_iter().map(|path| (path.display().to_string(), path)));
    image::write_program_archive(&archive, IMAGE, &files)?;
    Ok(archive)
}

/// The libraries that the program needs at run time, its loader among them, where the loader looks for them.
fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let listed = run(Command::new("ldd").arg(program), "")?;
    Ok(library_paths(&listed))
}

fn library_paths(listed: &str) -> BTreeSet<PathBuf> {
    // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)`, `/lib64/ld-linux-x86-64.so.2 (0x...)`, `linux-vdso.so.1 (0x...)`
    let words = listed.lines().filter_map(|line| line.split_whitespace().rev().nth(1));
    words.filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_libraries_of_a_program_are_those_that_have_a_path() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let paths: Vec<_> = library_paths(listed).into_iter().collect();
        assert_eq!(
            paths,
            [Path::new("/lib/x86_64-linux-gnu/libc.so.6"), Path::new("/lib64/ld-linux-x86-64.so.2")]
        );
        assert!(library_paths("\tstatically linked\n").is_empty());
    }
}
