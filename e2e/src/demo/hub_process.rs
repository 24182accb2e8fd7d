//! The edge-hub of one node as a process of its own, which cannot outlive the demo.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::error::DemoError;
use super::folder::{Folder, THIS_PROGRAM};
use crate::cloud::pki::{Authority, Identity};

/// How long a hub may take to drain before it is killed.
const DRAIN_LIMIT: Duration = Duration::from_secs(12);

/// A running hub.
#[derive(Debug)]
pub(super) struct HubProcess {
    folder: PathBuf,
    node: String,
    listen: SocketAddr,
    /// The janitor sees by this that the hub is gone.
    hold: OwnedFd,
    /// The hub ends when its stdin closes, and the kernel closes that even after a kill -9 of the demo.
    child: Child,
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> DemoError {
    move |source| DemoError::Io { what, source }
}

impl HubProcess {
    /// Write the hub's files below `folder` and start it.
    ///
    /// # Errors
    /// When a file cannot be written or the process not started.
    pub(super) fn start(
        folder: &Folder,
        node: &str,
        listen: SocketAddr,
        server: SocketAddr,
        authority: &Authority,
        identity: &Identity,
    ) -> Result<Self, DemoError> {
        let hold = folder.hold().map_err(failed("share a pipe"))?;
        let folder = folder.path().join(node);
        fs::create_dir(&folder).map_err(failed("make a hub's folder"))?;
        let serving = authority.server(&[&listen.ip().to_string()])?;
        let at = |name: &str| folder.join(name);
        let config = json!({
            "nodeName": node, "listen": [listen], "apiServers": [format!("https://{server}")],
            "apiServerCA": at("ca.pem"),
            "credential": {"certificate": at("node.pem"), "key": at("node.key")},
            "serving": {"certificate": at("serving.pem"), "key": at("serving.key")},
            "stateDirectory": at("state"), "adminSocket": at("admin.sock"),
        });
        for (name, text) in [
            ("ca.pem", &authority.pem()),
            ("node.pem", &identity.certificate_pem),
            ("node.key", &identity.key_pem),
            ("serving.pem", &serving.certificate_pem),
            ("serving.key", &serving.key_pem),
            ("hub.yaml", &config.to_string()),
        ] {
            fs::write(at(name), text).map_err(failed("write a hub's files"))?;
        }
        let child = spawn(&folder, &hold)?;
        Ok(Self { folder, node: node.to_owned(), listen, hold, child })
    }

    /// Wait until the hub accepts connections.
    ///
    /// # Errors
    /// When it ends instead.
    pub(super) async fn listening(&mut self) -> Result<(), DemoError> {
        while TcpStream::connect(self.listen).await.is_err() {
            self.check()?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// End the hub, by SIGKILL or by SIGTERM, and start it again on the same store.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub(super) async fn restart(&mut self, by_kill: bool) -> Result<(), DemoError> {
        self.end(by_kill).await;
        self.child = spawn(&self.folder, &self.hold)?;
        Ok(())
    }

    /// End the hub and wait until it is gone.
    pub(super) async fn end(&mut self, by_kill: bool) {
        if !by_kill && let Some(Ok(pid)) = self.child.id().map(i32::try_from) {
            // One that is gone already needs no signal.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            if tokio::time::timeout(DRAIN_LIMIT, self.child.wait()).await.is_ok() {
                return;
            }
        }
        let _ = self.child.kill().await;
    }

    /// An error with the hub's last words, if it has ended by itself.
    ///
    /// # Errors
    /// [`DemoError::Hub`].
    pub(super) fn check(&mut self) -> Result<(), DemoError> {
        let Ok(Some(status)) = self.child.try_wait() else { return Ok(()) };
        let log = fs::read_to_string(self.folder.join("hub.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(8).collect();
        let log = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
        Err(DemoError::Hub { node: self.node.clone(), status, log })
    }
}

fn spawn(folder: &Path, hold: &OwnedFd) -> Result<Child, DemoError> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join("hub.log"))
        .map_err(failed("open a hub's log"))?;
    let hold = hold.try_clone().map_err(failed("share a pipe"))?;
    Command::new(THIS_PROGRAM)
        .arg0("eyot")
        .args(["hub", "--exit-with-parent", "--config"])
        .arg(folder.join("hub.yaml"))
        .stdin(Stdio::piped())
        // A hub writes to stderr alone, so its stdout can be the janitor's pipe.
        .stdout(hold)
        .stderr(log)
        // Ctrl-C at a terminal is for the demo, which ends its hubs itself.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(failed("start a hub"))
}
