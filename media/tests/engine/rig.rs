//! One engine on ports of its own, tokens that it takes, and a client that speaks bare HTTP.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

/// Turns a hang into a failure, where nothing shorter is promised.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// An issuer of tokens.
pub(crate) struct Issuer {
    key: Ed25519KeyPair,
    id: &'static str,
}

impl Issuer {
    pub(crate) fn new(id: &'static str, seed: u8) -> Self {
        Self { key: Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a key"), id }
    }

    pub(crate) fn key_set(&self) -> String {
        let point = URL_SAFE_NO_PAD.encode(self.key.public_key().as_ref());
        json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": point }] }).to_string()
    }

    /// A token with these claims; those that every token needs are added where they are missing.
    pub(crate) fn token(&self, mut claims: Value) -> String {
        for (name, value) in [("sub", json!("ann")), ("exp", json!(now() + 600)), ("room", json!("hall"))] {
            if claims[name].is_null() {
                claims[name] = value;
            }
        }
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let input = format!("{}.{}", part(&json!({ "alg": "EdDSA", "kid": self.id })), part(&claims));
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(self.key.sign(input.as_bytes())))
    }

    pub(crate) fn everything(&self, subject: &str) -> String {
        self.token(json!({ "sub": subject, "publish": ["*"], "play": ["*"], "list": true }))
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// A running engine; killed with the test.
pub(crate) struct Engine {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) issuer: Issuer,
    pub(crate) http: SocketAddr,
    pub(crate) media: SocketAddr,
    pub(crate) process: Child,
}

fn free_ports() -> (SocketAddr, SocketAddr) {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    (tcp, udp)
}

impl Engine {
    /// An engine that takes tokens of its issuer.
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// The same with more lines in its configuration.
    pub(crate) fn start_with(more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let issuer = Issuer::new("k1", 1);
        let (http, media) = free_ports();
        let path = folder.path().display();
        std::fs::write(folder.path().join("jwks.json"), issuer.key_set()).expect("written");
        let config = format!(
            "http: {{listen: '{http}'}}\nmedia: {{listen: '{media}'}}\ntokens: {{keys: {path}/jwks.json}}\n\
             adminSocket: {path}/admin.sock\n{more}"
        );
        std::fs::write(folder.path().join("engine.yaml"), config).expect("written");
        let process = spawn(folder.path());
        let engine = Self { folder, issuer, http, media, process };
        engine.wait_ready();
        engine
    }

    fn wait_ready(&self) {
        let end = Instant::now() + LIMIT;
        while self.probe("/readyz").0 != Some(0) {
            assert!(Instant::now() < end, "not ready within {LIMIT:?}");
        }
    }

    /// SIGKILL, and another process with the same settings.
    pub(crate) fn kill_and_start_again(&mut self) {
        self.kill();
        self.process = spawn(self.folder.path());
        self.wait_ready();
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ended");
    }

    /// Another process with the same settings, which lives and may not be ready.
    pub(crate) fn start_again(&mut self) {
        self.process = spawn(self.folder.path());
        let end = Instant::now() + LIMIT;
        while self.probe("/livez").0 != Some(0) {
            assert!(Instant::now() < end, "not live within {LIMIT:?}");
        }
    }

    /// `--tombstone`: whether the engine took it.
    pub(crate) fn tombstone(&self) -> bool {
        let mut command = Command::new(env!("CARGO_BIN_EXE_media-engine"));
        command.arg("--admin-socket").arg(self.folder.path().join("admin.sock")).arg("--tombstone");
        command.status().expect("it runs").success()
    }

    /// Listens to what happens to the session of `peer`.
    pub(crate) fn listen(&self, peer: &crate::peer::Peer) -> Events {
        let path = peer.session.replace("/session/", "/events/");
        let mut stream = self.connect();
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        stream.write_all(&request("GET", &path, &[], b"")).expect("it listens");
        let mut events = Events { lines: BufReader::new(stream).lines() };
        let head = events.until(|line| line.starts_with("content-type: "));
        assert_eq!(head, "content-type: text/event-stream");
        events
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("engine.yaml")
    }

    /// All that its processes have logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).expect("it was started")
    }

    /// What `--probe` ends with and prints.
    pub(crate) fn probe(&self, route: &str) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_media-engine"));
        command.arg("--admin-socket").arg(self.folder.path().join("admin.sock")).args(["--probe", route]);
        let output = command.output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.probe("/status").1).expect("JSON")
    }

    /// The value of one line of the metrics; 0 if it is not there.
    pub(crate) fn metric(&self, line: &str) -> f64 {
        let text = self.probe("/metrics").1;
        let found = text.lines().find_map(|each| each.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or_default()
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.http).expect("it listens")
    }

    /// Sends one request and reads the answer to its end.
    pub(crate) fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        ask(self.connect(), &request(method, path, headers, body))
    }

    pub(crate) fn ask_raw(&self, request: &[u8]) -> Answer {
        ask(self.connect(), request)
    }

    /// POSTs an offer with a token.
    pub(crate) fn offer(&self, path: &str, token: &str, sdp: &str) -> Answer {
        self.offer_by(self.connect(), path, token, sdp)
    }

    /// PATCHes a session as `subject`.
    pub(crate) fn patch(&self, path: &str, subject: &str, if_match: Option<&str>, body: &str) -> Answer {
        self.patch_by(path, &self.issuer.everything(subject), if_match, body)
    }

    /// The same with this token.
    pub(crate) fn patch_by(&self, path: &str, token: &str, if_match: Option<&str>, body: &str) -> Answer {
        let bearer = format!("Bearer {token}");
        let mut headers =
            vec![("content-type", "application/trickle-ice-sdpfrag"), ("authorization", bearer.as_str())];
        headers.extend(if_match.map(|tag| ("if-match", tag)));
        self.ask("PATCH", path, &headers, body.as_bytes())
    }

    /// The same by a connection that the test made.
    pub(crate) fn offer_by(&self, stream: TcpStream, path: &str, token: &str, sdp: &str) -> Answer {
        let bearer = format!("Bearer {token}");
        let headers = [("content-type", "application/sdp"), ("authorization", bearer.as_str())];
        ask(stream, &request("POST", path, &headers, sdp.as_bytes()))
    }
}

fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    [head.as_bytes(), body].concat()
}

fn ask(mut stream: TcpStream, request: &[u8]) -> Answer {
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    // One that refuses early may close while this still writes; its answer is what counts.
    let _ = stream.write_all(request);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    Answer::parse(&String::from_utf8_lossy(&bytes))
}

impl Drop for Engine {
    fn drop(&mut self) {
        // It may have ended by itself, as the test wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("the engine's log:\n{}", self.log());
        }
    }
}

fn spawn(folder: &Path) -> Child {
    let log = File::options().create(true).append(true).open(folder.join("log")).expect("writable");
    let mut command = Command::new(env!("CARGO_BIN_EXE_media-engine"));
    command
        .arg("--config")
        .arg(folder.join("engine.yaml"))
        .stderr(log)
        .spawn()
        .expect("the program was built")
}

/// A stream of events.
pub(crate) struct Events {
    lines: std::io::Lines<BufReader<TcpStream>>,
}

impl Events {
    /// The next line that is wanted; nothing at the end of the stream.
    pub(crate) fn until(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        let lines = self.lines.by_ref().take(100).map_while(Result::ok);
        lines.into_iter().find(|line| wanted(line)).unwrap_or_default()
    }

    /// The name of the next event; nothing at the end of the stream.
    pub(crate) fn next(&mut self) -> String {
        self.until(|line| line.starts_with("event: ")).trim_start_matches("event: ").to_owned()
    }
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default();
        Self { status, head: head.to_owned(), body: body.to_owned() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    /// Every value of a header that may come more than once.
    pub(crate) fn headers(&self, name: &str) -> Vec<String> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.trim().to_owned())
            .collect()
    }

    /// The `detail` of a problem, after a look at what every problem must have.
    pub(crate) fn detail(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        assert_eq!(
            self.header("access-control-allow-origin"),
            Some("*"),
            "errors are readable, too: {self:?}"
        );
        let problem: Value = serde_json::from_str(&self.body).expect("JSON");
        assert_eq!(problem["status"], self.status);
        problem["detail"].as_str().expect("text").to_owned()
    }
}
