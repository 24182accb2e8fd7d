//! The shared lab as these tests see it: kubectl, requests without kubectl, and what the tunnel says of itself.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::ops::Deref;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use e2e::lab::{ClaimedLab, Lab, NodePart, wait_until};
use proto_daemon::admin;
use proto_daemon::tls::{self, CertificateFiles, ReloadingResolver};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::{Value, json};

/// Turns a hang into a failure, where nothing shorter is promised.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// A dial is answered in 5 s, and a dead link noticed in 3 s; three times that.
pub(crate) const ANSWERED: Duration = Duration::from_secs(15);
pub(crate) const NOTICED: Duration = Duration::from_secs(9);

pub(crate) const NODES: [&str; 2] = ["node-1", "node-2"];

/// A connection to the API server that was not made by kubectl.
pub(crate) type Connection = StreamOwned<ClientConnection, TcpStream>;

/// The lab, held by one test.
pub(crate) struct Stage {
    lab: ClaimedLab,
    tls: Arc<ClientConfig>,
}

impl Deref for Stage {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        self.lab.lab()
    }
}

/// A process that does not outlive its test.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Stage {
    /// Waits for the lab and its link; `None` where there can be no lab.
    pub(crate) fn claim(test: &str) -> Option<Stage> {
        let lab = ClaimedLab::claim_tunnel(test, env!("CARGO_BIN_EXE_eyot"))?;
        let pki = lab.lab().dir().join("pki");
        let files = CertificateFiles { certificate: pki.join("admin.crt"), key: pki.join("admin.key") };
        let own = ReloadingResolver::new(files).expect("the administrator's certificate");
        let roots = tls::load_roots(&pki.join("ca.crt")).expect("the lab's authority");
        let mut config = tls::client_config(roots, Some(own)).expect("settings");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stage = Stage { lab, tls: Arc::new(config) };
        stage.server_is_up();
        stage.linked();
        Some(stage)
    }

    /// Starts the server again if a test that failed has left it dead.
    fn server_is_up(&self) {
        if self.ask(1).is_none() {
            self.restart("cloud", NodePart::TunnelServer).expect("it starts");
        }
    }

    /// Waits for the link, and returns how long that took.
    pub(crate) fn linked(&self) -> Duration {
        let up = || self.status()["links"].as_array().is_some_and(|links| !links.is_empty());
        self.promised(LIMIT, "the link is up", up)
    }

    /// Looks until `holds` and returns how long that took; panics with `what` when it does not within `limit`.
    pub(crate) fn promised(&self, limit: Duration, what: &str, holds: impl FnMut() -> bool) -> Duration {
        let began = Instant::now();
        let held = wait_until(limit, holds);
        assert!(held, "not within {limit:?}: {what}\nthe tunnel: {}", self.status());
        began.elapsed()
    }

    fn ask(&self, socket: usize) -> Option<Value> {
        let sockets = self.tunnel_sockets().expect("a lab with a tunnel");
        let (_, body) = admin::fetch(&sockets[socket], "/status", LIMIT).ok()?;
        serde_json::from_str(&body).ok()
    }

    /// What the tunnel-server says of itself.
    pub(crate) fn status(&self) -> Value {
        self.ask(1).unwrap_or_default()
    }

    /// The link that new streams take.
    pub(crate) fn link(&self) -> Value {
        let links = self.status()["links"].as_array().cloned().unwrap_or_default();
        links.last().cloned().expect("a link")
    }

    /// kubectl of the administrator; it must succeed.
    pub(crate) fn cloud(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// kubectl of the administrator, to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        self.kubectl().expect("kubectl").args(words).output().expect("kubectl starts")
    }

    /// kubectl of the administrator, with its output read by the test.
    pub(crate) fn start(&self, words: &[&str]) -> Running {
        let mut kubectl: Command = self.kubectl().expect("kubectl");
        kubectl.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(kubectl.spawn().expect("kubectl starts"))
    }

    /// A pod on `node` that has told much and goes on; waits until it has.
    pub(crate) fn chatty(&self, node: &str) -> String {
        let name = format!("chatty-{node}");
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "namespace": "default" },
            "spec": {
                "nodeName": node,
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": false,
                "containers": [{
                    "name": "main",
                    "image": "eyot.io/lab/pod:1",
                    "imagePullPolicy": "Never",
                    // 4 MiB of lines, and then some more each second.
                    "command": ["/eyot-pod", "chat", "65536", "20"],
                }],
            },
        });
        let file = self.dir().join(format!("{name}.json"));
        std::fs::write(&file, pod.to_string()).expect("the lab's folder takes files");
        self.cloud(&["apply", "-f", &file.display().to_string()]);
        self.cloud(&["wait", "--for=condition=Ready", "pod", &name, "--timeout=60s"]);
        let log = format!("/api/v1/namespaces/default/pods/{name}/log?tailLines=1");
        self.promised(LIMIT, "the pod has told its lines", || {
            let line = self.get(&log).expect("an answer");
            line.trim_start_matches('0').trim().parse::<u64>().is_ok_and(|number| number >= 65_536)
        });
        name
    }

    /// A connection to the API server on which `path` was asked for and nothing read.
    pub(crate) fn ask_for(&self, path: &str) -> Connection {
        let url = self.api_server();
        let authority = url.trim_start_matches("https://").to_owned();
        let host = authority.split(':').next().expect("a host").to_owned();
        let socket = TcpStream::connect(&authority).expect("the API server listens");
        socket.set_read_timeout(Some(LIMIT)).expect("a time-out");
        // What a reader that has stopped leaves to the kernel must not be what is measured.
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBuf, &8192)
            .expect("a small buffer");
        let name = host.try_into().expect("an address");
        let tls = ClientConnection::new(Arc::clone(&self.tls), name).expect("settings");
        let mut connection = StreamOwned::new(tls, socket);
        write!(connection, "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n")
            .expect("sent");
        connection
    }

    /// The body of the answer to GET `path`, without kubectl; an error is the whole answer.
    pub(crate) fn get(&self, path: &str) -> Result<String, String> {
        let mut answer = Vec::new();
        let read = self.ask_for(path).read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("{read:?}: {answer}"))?;
        if !head.starts_with("HTTP/1.1 200 ") {
            return Err(answer);
        }
        if !head.to_lowercase().contains("transfer-encoding: chunked") {
            return Ok(body.to_owned());
        }
        let (mut rest, mut text) = (body, String::new());
        while let Some((size, chunk)) = rest.split_once("\r\n") {
            let size = usize::from_str_radix(size.trim(), 16).map_err(|_| answer.clone())?;
            text.push_str(chunk.get(..size).ok_or_else(|| answer.clone())?);
            rest = chunk.get(size + 2..).unwrap_or_default();
        }
        Ok(text)
    }
}
