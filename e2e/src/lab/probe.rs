//! Asking a process of the lab how it is: one plain HTTP GET over a unix socket, or over TCP inside a namespace.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::namespace;

/// How long a local process may take to answer.
const LIMIT: Duration = Duration::from_secs(5);

/// The most of an answer that is read, in bytes.
const LARGEST_ANSWER: u64 = 64 * 1024;

/// Whether GET `path` over the unix socket `socket` answers 200; the error is the answer.
pub(crate) fn unix(socket: &Path, path: &str) -> Result<(), String> {
    unix_body(socket, path).map(drop)
}

/// The body of the answer 200 to GET `path` over the unix socket `socket`; the error is any other answer.
pub(crate) fn unix_body(socket: &Path, path: &str) -> Result<String, String> {
    let asked = || {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        get(stream, path)
    };
    judge(path, asked())
}

/// Whether GET `path` at `address` inside the network namespace `namespace` answers 200; the error is the answer.
pub(crate) fn inside(namespace: &str, address: SocketAddr, path: &str) -> Result<(), String> {
    let asked = || {
        let path = path.to_owned();
        namespace::in_namespace(namespace, move || {
            let stream = TcpStream::connect_timeout(&address, LIMIT)?;
            stream.set_read_timeout(Some(LIMIT))?;
            stream.set_write_timeout(Some(LIMIT))?;
            get(stream, &path)
        })
    };
    judge(path, asked()).map(drop)
}

fn get(mut stream: impl Read + Write, path: &str) -> std::io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LARGEST_ANSWER).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn judge(path: &str, answer: std::io::Result<String>) -> Result<String, String> {
    let answer = answer.map_err(|error| format!("GET {path}: {error}"))?;
    if answer.starts_with("HTTP/1.") && answer.split_whitespace().nth(1) == Some("200") {
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        return Ok(body.unwrap_or_default());
    }
    Err(format!("GET {path}: {}", answer.replace("\r\n", "\n").trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn answer_once(answer: &'static str) -> Result<(), String> {
        let folder = tempfile::tempdir().expect("temporary folder");
        let socket = folder.path().join("admin.sock");
        let listener = UnixListener::bind(&socket).expect("bound");
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("a whole request");
                request.extend(byte);
            }
            stream.write_all(answer.as_bytes()).expect("answered");
            String::from_utf8_lossy(&request).into_owned()
        });
        let judged = unix(&socket, "/readyz");
        assert!(server.join().expect("served").starts_with("GET /readyz HTTP/1.1\r\n"));
        judged
    }

    #[test]
    fn only_200_is_yes_and_a_no_is_told_in_the_servers_words() {
        assert_eq!(answer_once("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"), Ok(()));
        let no = answer_once("HTTP/1.1 503 Service Unavailable\r\n\r\nstore: not ready").expect_err("503");
        assert!(no.contains("store: not ready"), "{no}");
        assert!(answer_once("200 garbage").is_err());
    }

    #[test]
    fn a_socket_that_nobody_holds_is_a_no() {
        assert!(unix(Path::new("/nowhere/admin.sock"), "/readyz").is_err());
    }
}
