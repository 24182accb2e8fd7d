//! A server, an agent, and the two ends that they connect.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

/// Turns a hang into a failure.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// In this time each dial is answered, three times over.
pub(crate) const ANSWERED: Duration = Duration::from_secs(15);
/// In this time a dead end is noticed, three times over.
pub(crate) const NOTICED: Duration = Duration::from_secs(9);

/// A certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signed").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Writes `STEM.crt` and `STEM.key`; the certificate is `name`'s and holds for the names of `dns`.
    pub(crate) fn issue(&self, folder: &Path, stem: &str, name: &str, dns: &[&str]) {
        let names: Vec<String> = dns.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        std::fs::write(folder.join(format!("{stem}.crt")), certificate.pem()).expect("written");
        std::fs::write(folder.join(format!("{stem}.key")), key.serialize_pem()).expect("written");
    }
}

/// A process that does not outlive its test.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().try_into().expect("an id")), signal).expect("it runs");
    }

    /// Its exit code once it has ended.
    pub(crate) fn ended(&mut self) -> i32 {
        wait_for("the process ends", || self.0.try_wait().expect("it is ours"));
        self.0.wait().expect("it has ended").code().unwrap_or(-1)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Everything of one test.
pub(crate) struct Rig {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) authority: Authority,
    /// Where the kubelet of node-1 is: a loopback address of this test alone.
    pub(crate) kubelet: SocketAddr,
    pub(crate) listen: SocketAddr,
    pub(crate) server: Option<Process>,
    pub(crate) agent: Option<Process>,
}

impl Rig {
    /// Certificates and configurations; nothing runs.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(10);
        let [.., high, low] = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(127, high.max(1), low, NEXT.fetch_add(2, Ordering::Relaxed));
        let folder = tempfile::tempdir().expect("a temporary folder");
        let authority = Authority::new();
        std::fs::write(folder.path().join("ca.crt"), &authority.pem).expect("written");
        authority.issue(folder.path(), "server", "tunnel-server", &["tunnel-server"]);
        authority.issue(folder.path(), "node-1", "system:node:node-1", &[]);
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let listen = free.local_addr().expect("bound");
        let rig =
            Self { folder, authority, kubelet: (address, 10250).into(), listen, server: None, agent: None };
        rig.configure("node-1");
        rig
    }

    /// Server, agent, and a link between them.
    pub(crate) fn linked() -> Self {
        let mut rig = Self::new();
        rig.start_server();
        rig.start_agent();
        rig.wait_link();
        rig
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn server_config(&self) -> Value {
        json!({
            "listen": [self.listen.to_string()],
            "serving": { "certificate": self.path("server.crt"), "key": self.path("server.key") },
            "clientCA": self.path("ca.crt"),
            "pool": { "name": "hangzhou", "nodes": ["node-1", "node-2"] },
            "doors": { "httpConnect": self.path("door.sock") },
            "adminSocket": self.path("server.sock"),
        })
    }

    /// Writes both configurations; the agent shows the certificate `credential`.
    pub(crate) fn configure(&self, credential: &str) {
        let std::net::IpAddr::V4(address) = self.kubelet.ip() else { unreachable!("made of IPv4") };
        let [a, b, c, d] = address.octets();
        let agent = json!({
            "nodeName": "node-1",
            "pool": "hangzhou",
            "servers": [self.listen.to_string()],
            "serverName": "tunnel-server",
            "serverCA": self.path("ca.crt"),
            "credential": {
                "certificate": self.path(&format!("{credential}.crt")),
                "key": self.path(&format!("{credential}.key")),
            },
            "nodes": [
                { "name": "node-1", "address": address },
                { "name": "node-2", "address": Ipv4Addr::new(a, b, c, d + 1) },
            ],
            "adminSocket": self.path("agent.sock"),
        });
        std::fs::write(self.path("server.yaml"), self.server_config().to_string()).expect("written");
        std::fs::write(self.path("agent.yaml"), agent.to_string()).expect("written");
    }

    pub(crate) fn spawn(&self, program: &str, config: &str) -> Process {
        let log =
            std::fs::File::options().create(true).append(true).open(self.path(&format!("{config}.log")));
        let mut command = Command::new(program);
        command.arg("--config").arg(self.path(config)).stdin(Stdio::null()).stdout(Stdio::null());
        Process(command.stderr(log.expect("a log")).spawn().expect("built for this test"))
    }

    pub(crate) fn start_server(&mut self) {
        self.server = None;
        self.server = Some(self.spawn(env!("CARGO_BIN_EXE_tunnel-server"), "server.yaml"));
        wait_for("the server is ready", || {
            self.ask("server.sock", "/readyz").filter(|(code, _)| *code == 200)
        });
    }

    pub(crate) fn start_agent(&mut self) {
        self.agent = None;
        self.agent = Some(self.spawn(env!("CARGO_BIN_EXE_tunnel-agent"), "agent.yaml"));
    }

    pub(crate) fn wait_link(&self) {
        wait_for("the link is up", || {
            (self.status()["links"].as_array().is_some_and(|links| !links.is_empty())).then_some(())
        });
    }

    pub(crate) fn log(&self, program: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{program}.yaml.log"))).unwrap_or_default()
    }

    /// What a process answers on its admin socket.
    pub(crate) fn ask(&self, socket: &str, route: &str) -> Option<(u16, String)> {
        proto_daemon::admin::fetch(&self.path(socket), route, LIMIT).ok()
    }

    /// What the server says of itself.
    pub(crate) fn status(&self) -> Value {
        let answer = self.ask("server.sock", "/status").map(|(_, body)| body).unwrap_or_default();
        serde_json::from_str(&answer).unwrap_or_default()
    }

    /// The number of the link that new streams take.
    pub(crate) fn link_id(&self) -> u64 {
        let links = self.status()["links"].as_array().cloned().unwrap_or_default();
        links.last().and_then(|link| link["id"].as_u64()).expect("a link")
    }

    /// A metric of a process, summed over its labels.
    pub(crate) fn metric(&self, socket: &str, name: &str) -> f64 {
        let (_, text) = self.ask(socket, "/metrics").expect("it runs");
        let lines = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    pub(crate) fn knock(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path("door.sock")).expect("the door is open");
        stream.set_read_timeout(Some(LIMIT)).expect("a time-out");
        stream.set_write_timeout(Some(LIMIT)).expect("a time-out");
        stream
    }

    /// Dials as kube-apiserver does: the first line of the answer, and the stream behind its head.
    pub(crate) fn dial(&self, target: &str) -> (String, UnixStream) {
        let mut stream = self.knock();
        write!(stream, "CONNECT {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").expect("the server listens");
        (answer(&mut stream), stream)
    }

    /// A stream to node-1.
    pub(crate) fn connected(&self) -> UnixStream {
        let (answer, stream) = self.dial("node-1:10250");
        assert_eq!(answer, "HTTP/1.1 200 connected", "{}", self.log("server"));
        stream
    }
}

/// The first line of an answer; reads its head and not a byte more.
pub(crate) fn answer(stream: &mut UnixStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned()
}

/// Listens in the place of the kubelet of node-1 and gives each connection to `serve` on a thread of its own.
pub(crate) fn kubelet(rig: &Rig, serve: impl Fn(TcpStream) + Send + Clone + 'static) {
    let listener = TcpListener::bind(rig.kubelet).expect("a loopback address of this test alone");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            stream.set_read_timeout(Some(LIMIT)).expect("a time-out");
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream));
        }
    });
}

/// Gives back what comes, until its end.
pub(crate) fn echo(mut stream: TcpStream) {
    let mut copy = stream.try_clone().expect("a descriptor");
    let _ = std::io::copy(&mut stream, &mut copy);
    let _ = copy.shutdown(std::net::Shutdown::Write);
}

/// One line there and back.
pub(crate) fn exchange(stream: &mut UnixStream, line: &str) {
    stream.write_all(line.as_bytes()).expect("sent");
    let mut back = vec![0; line.len()];
    stream.read_exact(&mut back).expect("it comes back");
    assert_eq!(back, line.as_bytes());
}

/// Looks until `found` finds something.
pub(crate) fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(started.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
