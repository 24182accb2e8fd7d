//! The head of a CONNECT request as kube-apiserver writes it to its egress proxy, and the head of the answer.
//!
//! The answer's reason phrase is what kubectl shows, so every refusal is a sentence that names the node.

use std::fmt;

use proto::tunnel::printable;

/// The longest request line, in bytes, without its end.
pub const MAX_LINE_BYTES: usize = 4 * 1024;
/// The longest head, in bytes, with its end.
pub const MAX_HEAD_BYTES: usize = 8 * 1024;
/// The longest host name, in bytes: that of DNS.
const MAX_HOST_BYTES: usize = 253;

/// Where a CONNECT wants to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// A name, or an address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Why a head was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// It is no CONNECT of HTTP/1; answered with 400.
    #[error("{0}")]
    Malformed(&'static str),
    /// It does not end within its bound; answered with 431.
    #[error("the head is larger than {MAX_HEAD_BYTES} bytes, or its first line than {MAX_LINE_BYTES}")]
    TooLarge,
}

impl HeadError {
    /// The status that tells a client.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::TooLarge => 431,
        }
    }
}

/// Reads the head of a request from the bytes that came so far: the target and the head's length, or `None` while its
/// end is missing. The one entry for bytes of this door.
///
/// # Errors
/// [`HeadError`].
pub fn parse(bytes: &[u8]) -> Result<Option<(Target, usize)>, HeadError> {
    let window = &bytes[..bytes.len().min(MAX_HEAD_BYTES)];
    let line_end = window.iter().position(|byte| *byte == b'\n');
    let line = match line_end {
        Some(end) => &window[..end],
        None => window,
    };
    if line.len() > MAX_LINE_BYTES {
        return Err(HeadError::TooLarge);
    }
    // Whoever speaks another protocol is told so at its first bytes and not after five seconds.
    let start = b"CONNECT ";
    let seen = line.len().min(start.len());
    if line[..seen] != start[..seen] {
        return Err(HeadError::Malformed("only CONNECT HOST:PORT HTTP/1.1 is understood here"));
    }
    let Some(head_end) = window.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if bytes.len() >= MAX_HEAD_BYTES { Err(HeadError::TooLarge) } else { Ok(None) };
    };
    let line = line.strip_suffix(b"\r").ok_or(HeadError::Malformed("the first line has no CRLF"))?;
    let target = request_line(line)?;
    fields(&window[line.len() + 2..head_end + 2])?;
    Ok(Some((target, head_end + 4)))
}

fn request_line(line: &[u8]) -> Result<Target, HeadError> {
    let line = std::str::from_utf8(line).map_err(|_| HeadError::Malformed("the first line is not ASCII"))?;
    let mut words = line.split(' ');
    let (_, authority, version) = (words.next(), words.next(), words.next());
    if words.next().is_some() || !matches!(version, Some("HTTP/1.1" | "HTTP/1.0")) {
        return Err(HeadError::Malformed("the first line is not CONNECT HOST:PORT HTTP/1.1"));
    }
    parse_authority(authority.unwrap_or_default())
        .ok_or(HeadError::Malformed("CONNECT needs HOST:PORT with a port of 1 to 65535"))
}

/// Each line is `name: value` and holds no control character.
fn fields(lines: &[u8]) -> Result<(), HeadError> {
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let line = line.strip_suffix(b"\r").ok_or(HeadError::Malformed("a header line has no CRLF"))?;
        let colon = line.iter().position(|byte| *byte == b':');
        let name = &line[..colon.unwrap_or(0)];
        let token = !name.is_empty()
            && name.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.!#$%&'*+^`|~".contains(b));
        if !token || line.iter().any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f) {
            return Err(HeadError::Malformed("a header line is not NAME: VALUE"));
        }
    }
    Ok(())
}

/// `HOST:PORT`, an IPv6 address in brackets; `None` for anything else.
#[must_use]
pub fn parse_authority(authority: &str) -> Option<Target> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once("]:")?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, port)
        }
        None => authority.split_once(':')?,
    };
    let bracketed = authority.starts_with('[');
    let of_host =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte) || (bracketed && byte == b':');
    let well_formed = !host.is_empty() && host.len() <= MAX_HOST_BYTES && host.bytes().all(of_host);
    let digits = (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| *port != 0 && digits)?;
    well_formed.then(|| Target { host: host.to_ascii_lowercase(), port })
}

/// The head of the answer. kube-apiserver takes a byte behind it for an error, so nothing else may be in the same write.
#[must_use]
pub fn answer(status: u16, reason: &str) -> Vec<u8> {
    let reason = printable(reason);
    if status == 200 {
        return format!("HTTP/1.1 200 {reason}\r\n\r\n").into_bytes();
    }
    format!("HTTP/1.1 {status} {reason}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What kube-apiserver 1.36 writes.
    const REAL: &[u8] = b"CONNECT node-1:10250 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

    fn target(host: &str, port: u16) -> Target {
        Target { host: host.to_owned(), port }
    }

    #[test]
    fn the_real_clients_head_is_read_also_in_pieces() {
        assert_eq!(parse(REAL), Ok(Some((target("node-1", 10250), REAL.len()))));
        for end in 0..REAL.len() {
            assert_eq!(parse(&REAL[..end]), Ok(None), "{end}");
        }
        let more = [REAL, b"\x16\x03\x01"].concat();
        assert_eq!(parse(&more), Ok(Some((target("node-1", 10250), REAL.len()))));
    }

    #[test]
    fn what_is_no_connect_is_refused_at_once() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x16\x03\x01\x02\x00",
            b"CONNECTS",
            b"connect node-1:1 HTTP/1.1\r\n\r\n",
            b"CONNECT node-1 HTTP/1.1\r\n\r\n",
            b"CONNECT node-1:0 HTTP/1.1\r\n\r\n",
            b"CONNECT node-1:65536 HTTP/1.1\r\n\r\n",
            b"CONNECT node-1:+1 HTTP/1.1\r\n\r\n",
            b"CONNECT :1 HTTP/1.1\r\n\r\n",
            b"CONNECT fe80::1:10250 HTTP/1.1\r\n\r\n",
            b"CONNECT node-1:1 HTTP/2\r\n\r\n",
            b"CONNECT node-1:1  HTTP/1.1\r\n\r\n",
            b"CONNECT node-1:1 HTTP/1.1\n\r\n\r\n",
            b"CONNECT node-1:1 HTTP/1.1\r\nno colon\r\n\r\n",
            b"CONNECT node-1:1 HTTP/1.1\r\na: \x01\r\n\r\n",
            b"CONNECT node\x00-1:1 HTTP/1.1\r\n\r\n",
        ] {
            let refused = parse(bytes);
            assert!(
                matches!(refused, Err(HeadError::Malformed(_))),
                "{:?}: {refused:?}",
                bytes.escape_ascii()
            );
        }
    }

    #[test]
    fn a_head_that_does_not_end_is_refused_at_its_bound() {
        let long_line = [b"CONNECT ".to_vec(), vec![b'a'; MAX_LINE_BYTES]].concat();
        assert_eq!(parse(&long_line), Err(HeadError::TooLarge));
        let head = [&b"CONNECT node-1:1 HTTP/1.1\r\na: "[..], &vec![b'b'; MAX_HEAD_BYTES]].concat();
        assert_eq!(parse(&head), Err(HeadError::TooLarge));
        assert_eq!(parse(&head[..MAX_HEAD_BYTES - 1]), Ok(None));
        assert_eq!(HeadError::TooLarge.status(), 431);
    }

    #[test]
    fn addresses_are_targets_too_and_print_as_they_were_read() {
        let v6 = parse_authority("[fd00::1]:443").expect("an address");
        assert_eq!((v6.host.as_str(), v6.to_string().as_str()), ("fd00::1", "[fd00::1]:443"));
        assert_eq!(parse_authority("10.96.0.1:443"), Some(target("10.96.0.1", 443)));
        assert_eq!(parse_authority("Node-1:10250"), Some(target("node-1", 10250)));
    }

    #[test]
    fn an_answer_is_one_line_whatever_its_reason() {
        let answer = answer(503, "no link to node-1\r\nX: y");
        let text = String::from_utf8(answer).expect("ASCII");
        assert!(text.starts_with("HTTP/1.1 503 no link to node-1??X: y\r\n"), "{text}");
        assert_eq!(super::answer(200, "connected"), b"HTTP/1.1 200 connected\r\n\r\n");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_read_beyond_its_bound(bytes in proptest::collection::vec(any::<u8>(), 0..9000)) {
            if let Ok(Some((_, length))) = parse(&bytes) {
                prop_assert!(length <= MAX_HEAD_BYTES && length <= bytes.len());
            }
        }

        #[test]
        fn a_mutated_head_is_read_as_its_beginning_is(at in 0..REAL.len(), byte: u8, end in 0..REAL.len()) {
            let mut bytes = REAL.to_vec();
            bytes[at] = byte;
            // What was refused once stays refused, what was read stays read: no later byte changes an answer.
            match parse(&bytes[..end]) {
                Err(error) => prop_assert_eq!(parse(&bytes), Err(error)),
                Ok(Some(read)) => prop_assert_eq!(parse(&bytes), Ok(Some(read))),
                Ok(None) => {}
            }
        }
    }
}
