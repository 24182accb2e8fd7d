//! The program of the lab's pods: a page about itself, a sandbox that waits, a name's addresses, another pod's page.
//!
//! It needs nothing but the standard library and is linked statically: it is all that the lab's image holds.

mod tar;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// How long a peer may be silent.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most of a request or an answer that is read, in bytes.
const LARGEST: u64 = 64 * 1024;
/// Where the page is served.
const PORT: u16 = 8080;
/// On an emptyDir: lives as long as the pod, through restarts of its container.
const STARTS: &str = "/state/starts";
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

const USAGE: &str = "\
usage: eyot-pod serve            a page about this pod on port 8080
       eyot-pod pause            wait until killed
       eyot-pod resolve NAME [SERVER]     the name's IPv4 addresses, one a line
       eyot-pod resolve6 NAME [SERVER]    the name's IPv6 addresses, one a line
       eyot-pod fetch HOST[:PORT][/PATH], an IPv6 address in brackets
       eyot-pod cat FILE
       eyot-pod chat LINES RATE  so many lines of 64 bytes on stdout, then RATE a second
       eyot-pod tar ..., also as `tar`: what kubectl cp asks for";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let called = std::env::args().next().unwrap_or_default();
    let is_tar = Path::new(&called).file_name().is_some_and(|name| name == "tar");
    let done = match words.as_slice() {
        words if is_tar => tar::run(words),
        ["tar", words @ ..] => tar::run(words),
        ["serve"] => serve(),
        ["pause"] => pause(),
        ["resolve", name, server @ ..] => resolve(name, Record::A, server).map(print_lines),
        ["resolve6", name, server @ ..] => resolve(name, Record::Aaaa, server).map(print_lines),
        ["fetch", target] => fetch(target).map(|body| println!("{body}")),
        ["chat", lines, rate] => chat(lines, rate),
        ["cat", file] => read(file).map(|text| print!("{text}")),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(64);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("eyot-pod: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print_lines(addresses: Vec<IpAddr>) {
    addresses.iter().for_each(|address| println!("{address}"));
}

type Outcome<T> = Result<T, String>;

fn read(file: impl AsRef<Path>) -> Outcome<String> {
    let file = file.as_ref();
    fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))
}

fn pause() -> ! {
    loop {
        std::thread::park();
    }
}

/// Prints numbered lines for ever: `lines` of them as fast as they are taken, then `rate` a second.
fn chat(lines: &str, rate: &str) -> Outcome<()> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text}: no number"));
    let (lines, rate) = (number(lines)?, number(rate)?.clamp(1, 1000));
    let mut output = std::io::stdout().lock();
    for line in 0.. {
        writeln!(output, "{line:063}").map_err(|error| error.to_string())?;
        if line >= lines {
            std::thread::sleep(Duration::from_secs(1) / u32::try_from(rate).unwrap_or(1));
        }
    }
    Ok(())
}

/// Counts this start and serves one page to one client at a time, for ever.
fn serve() -> Outcome<()> {
    let starts = read(STARTS).ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0) + 1;
    // Without the volume every start is the first, which the page then says.
    let _ = fs::write(STARTS, starts.to_string());
    let (pod, node) = (variable("POD"), variable("NODE"));
    println!("start {starts} of {pod} on {node}");
    // That of IPv6 takes connections of IPv4, too; a kernel without IPv6 has none.
    let any = [SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)), (Ipv4Addr::UNSPECIFIED, PORT).into()];
    let listener = TcpListener::bind(&any[..]).map_err(|error| format!("port {PORT}: {error}"))?;
    for stream in listener.incoming() {
        let answered = stream.and_then(|stream| answer(stream, &page(&pod, &node, starts)));
        match answered {
            Ok(line) => println!("{line}"),
            Err(error) => println!("a client went away: {error}"),
        }
    }
    Ok(())
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// Answers any request with `page`; returns the request's first line.
fn answer(mut stream: TcpStream, page: &str) -> std::io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    // To its end: a connection that is closed over unread bytes is reset, and the answer lost.
    while !request.ends_with(b"\r\n\r\n") {
        let mut piece = [0; 4096];
        let length = stream.read(&mut piece)?;
        request.extend_from_slice(&piece[..length]);
        if length == 0 || request.len() as u64 > LARGEST {
            return Err(std::io::Error::other("no request"));
        }
    }
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        page.len()
    );
    stream.write_all((head + page).as_bytes())?;
    Ok(String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_owned())
}

/// What this pod knows, as it is now: files are read anew for each page.
fn page(pod: &str, node: &str, starts: u64) -> String {
    let file = |path: &str| read(path).map_or_else(|_| "null".to_owned(), |text| quoted(text.trim()));
    let claims = read(TOKEN).ok().and_then(|token| claims(&token)).unwrap_or_else(|| "null".to_owned());
    format!(
        "{{\"pod\":{},\"node\":{},\"starts\":{starts},\"setting\":{},\"credential\":{},\"claims\":{claims}}}",
        quoted(pod),
        quoted(node),
        file("/etc/eyot/settings/value"),
        file("/etc/eyot/credentials/value"),
    )
}

/// The claims of a token as they stand in it, unverified; `None` for what is no token.
fn claims(token: &str) -> Option<String> {
    let text = String::from_utf8(base64url(token.trim().split('.').nth(1)?)?).ok()?;
    text.starts_with('{').then_some(text)
}

fn base64url(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut held) = (0_u32, 0_u32);
    for letter in text.bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xfff;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
        }
    }
    Some(bytes)
}

/// `text` as a JSON string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            control if control.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(control))),
            plain => quoted.push(plain),
        }
    }
    quoted.push('"');
    quoted
}

/// GETs `HOST[:PORT][/PATH]` and returns the body.
fn fetch(target: &str) -> Outcome<String> {
    let (authority, path) = target.split_once('/').unwrap_or((target, ""));
    let (host, port) = host_and_port(authority)?;
    let addresses = match host.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => resolve(host, Record::A, &[])?,
    };
    let address = *addresses.first().ok_or_else(|| format!("{host} has no address"))?;
    let asked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let request = format!("GET /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(LARGEST).read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = asked().map_err(|error| format!("{address}:{port}: {error}"))?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.split_whitespace().nth(1) == Some("200") => Ok(body.to_owned()),
        _ => Err(format!("{address}:{port}: {}", answer.lines().next().unwrap_or("no answer"))),
    }
}

/// The parts of `HOST[:PORT]`; an IPv6 address stands in brackets.
fn host_and_port(authority: &str) -> Outcome<(&str, u16)> {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let port = port.unwrap_or("80");
    Ok((host, port.parse().map_err(|_| format!("{port}: no port"))?))
}

/// Which addresses a name is asked for.
#[derive(Clone, Copy)]
enum Record {
    A = 1,
    Aaaa = 28,
}

/// The addresses of `name` of one family, by the search list of `/etc/resolv.conf`: the C library's own resolver loads shared
/// objects, which a static program cannot count on. `servers` take the place of those that stand there.
fn resolve(name: &str, record: Record, servers: &[&str]) -> Outcome<Vec<IpAddr>> {
    let config = read("/etc/resolv.conf")?;
    let mut last = format!("{name}: no name server in /etc/resolv.conf");
    let known: Vec<&str> = config.lines().filter_map(|line| line.strip_prefix("nameserver ")).collect();
    for candidate in candidates(name, &config) {
        for server in if servers.is_empty() { &known } else { servers } {
            match ask(server.trim(), &candidate, record) {
                Ok(addresses) if !addresses.is_empty() => return Ok(addresses),
                Ok(_) => last = format!("{name}: no address"),
                Err(error) => last = format!("{name}: {server}: {error}"),
            }
        }
    }
    Err(last)
}

/// The full names to ask for: `name` below each search domain, then itself.
fn candidates(name: &str, config: &str) -> Vec<String> {
    if name.ends_with('.') {
        return vec![name.to_owned()];
    }
    let search = config.lines().filter_map(|line| line.strip_prefix("search ")).next_back().unwrap_or("");
    let below = search.split_whitespace().map(|domain| format!("{name}.{}.", domain.trim_end_matches('.')));
    below.chain([format!("{name}.")]).collect()
}

/// One question by UDP, asked twice at most. No address and no such name are the same here.
fn ask(server: &str, name: &str, record: Record) -> std::io::Result<Vec<IpAddr>> {
    let server: IpAddr = server.parse().map_err(std::io::Error::other)?;
    let any =
        if server.is_ipv6() { IpAddr::from(Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect((server, 53))?;
    let question = question(name, record).ok_or_else(|| std::io::Error::other("no DNS name"))?;
    let mut answer = [0; 4096];
    socket.send(&question)?;
    let length = socket.recv(&mut answer).or_else(|_| {
        socket.send(&question)?;
        socket.recv(&mut answer)
    })?;
    addresses(&answer[..length]).ok_or_else(|| std::io::Error::other("a broken answer"))
}

/// A query for `name`, which ends with a dot.
fn question(name: &str, record: Record) -> Option<Vec<u8>> {
    let mut packet = vec![0x65, 0x79, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?;
        packet.push(length);
        packet.extend(label.bytes());
    }
    packet.extend([0, 0, record as u8, 0, 1]);
    Some(packet)
}

/// The addresses in an answer, of the family that was asked for; `None` for a packet that ends in the middle.
fn addresses(packet: &[u8]) -> Option<Vec<IpAddr>> {
    let count = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let (questions, answers) = (count(4)?, count(6)?);
    let mut at = 12;
    for _ in 0..questions {
        at = after_name(packet, at)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..answers {
        at = after_name(packet, at)?;
        let (kind, length) = (count(at)?, usize::from(count(at + 8)?));
        let data = packet.get(at + 10..at + 10 + length)?;
        if kind == Record::A as u16 {
            found.extend(<[u8; 4]>::try_from(data).map(IpAddr::from));
        } else if kind == Record::Aaaa as u16 {
            found.extend(<[u8; 16]>::try_from(data).map(IpAddr::from));
        }
        at += 10 + length;
    }
    Some(found)
}

fn after_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            pointer if pointer >= 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_the_middle_of_a_token() {
        assert_eq!(claims("e30.eyJzdWIiOiLDvCJ9.c2ln\n").as_deref(), Some("{\"sub\":\"ü\"}"));
        assert_eq!(claims("no token"), None);
        assert_eq!(claims("a.!!.c"), None);
    }

    #[test]
    fn what_is_quoted_is_json() {
        assert_eq!(quoted("a\"b\\c\n"), "\"a\\\"b\\\\c\\u000a\"");
    }

    #[test]
    fn names_are_searched_below_each_domain_and_then_as_they_are() {
        let config = "nameserver 10.96.0.10\nsearch default.svc.cluster.local svc.cluster.local\n";
        assert_eq!(
            candidates("web", config),
            ["web.default.svc.cluster.local.", "web.svc.cluster.local.", "web."]
        );
        assert_eq!(candidates("web.", config), ["web."]);
    }

    #[test]
    fn an_answer_yields_its_addresses_and_a_cut_one_nothing() {
        let v6: Ipv6Addr = "fd00:10:96::5".parse().expect("an address");
        let a = [&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4][..], &[10, 96, 1, 2]].concat();
        let aaaa = [&[0xc0, 12, 0, 28, 0, 1, 0, 0, 0, 5, 0, 16][..], &v6.octets()].concat();
        for (record, answer, address) in
            [(Record::A, a, IpAddr::from([10, 96, 1, 2])), (Record::Aaaa, aaaa, v6.into())]
        {
            let mut packet = question("web.", record).expect("a name");
            packet[7] = 1;
            packet.extend(answer);
            assert_eq!(addresses(&packet), Some(vec![address]));
            for end in 0..packet.len() {
                assert_eq!(addresses(&packet[..end]), None, "{end}");
            }
        }
        assert_eq!(question("a..b.", Record::A), None);
    }

    #[test]
    fn a_host_may_have_a_port_and_an_ipv6_address_brackets() {
        assert_eq!(host_and_port("web"), Ok(("web", 80)));
        assert_eq!(host_and_port("web:8080"), Ok(("web", 8080)));
        assert_eq!(host_and_port("[fd00::1]"), Ok(("fd00::1", 80)));
        assert_eq!(host_and_port("[fd00::1]:8080"), Ok(("fd00::1", 8080)));
        assert!(host_and_port("web:http").is_err());
    }
}
