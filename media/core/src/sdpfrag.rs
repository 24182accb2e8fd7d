//! Fragments of SDP that carry ICE alone: candidates that trickle in after the offer, and the credentials of a restart.
//!
//! Sources: RFC 8840 s4 and s9 (`application/trickle-ice-sdpfrag`), RFC 8839 s5 (attributes), RFC 9725 s4.3.

use std::net::IpAddr;

/// Largest fragment, in bytes: as an offer.
pub const MAX_FRAGMENT_BYTES: usize = 64 * 1024;
/// Most lines of one.
const MAX_LINES: usize = 500;

/// What is wrong with a fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FragmentFault {
    /// A line is no attribute or m-line.
    #[error("a line of the fragment is neither `a=` nor `m=`")]
    Syntax,
    /// It does not end.
    #[error("the fragment has more than 500 lines or 64 KiB")]
    TooLong,
    /// Two different values, where all m-lines share one transport.
    #[error("the fragment has two different `a=ice-ufrag` or `a=ice-pwd`; all tracks share one transport")]
    Credentials,
    /// Credentials that RFC 8839 does not allow.
    #[error("`a=ice-ufrag` has 4 to 256 and `a=ice-pwd` 22 to 256 letters, digits, `+` or `/`")]
    CredentialSyntax,
}

/// Credentials of the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name.
    pub ufrag: Box<str>,
    /// The password.
    pub pwd: Box<str>,
}

/// A fragment as it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Credentials, if it has both.
    pub credentials: Option<Credentials>,
    /// Candidates for UDP with an address that stands for itself.
    pub usable: usize,
    /// Candidates for TCP, and those by a name (mDNS), which are skipped.
    pub skipped: usize,
}

/// Reads a fragment. This side is ICE-lite and answers whoever proves to have the password, so candidates change nothing and
/// are only counted.
///
/// # Errors
/// [`FragmentFault`].
pub fn parse(text: &str) -> Result<Fragment, FragmentFault> {
    if text.len() > MAX_FRAGMENT_BYTES || text.lines().count() > MAX_LINES {
        return Err(FragmentFault::TooLong);
    }
    let mut fragment = Fragment::default();
    let (mut ufrag, mut pwd) = (None, None);
    for line in text.lines().filter(|line| !line.is_empty()) {
        let Some(attribute) = line.strip_prefix("a=") else {
            if line.starts_with("m=") {
                continue;
            }
            return Err(FragmentFault::Syntax);
        };
        let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
        let value = value.trim();
        match name {
            "ice-ufrag" | "ice-pwd" => {
                let known = if name == "ice-ufrag" { &mut ufrag } else { &mut pwd };
                if known.is_some_and(|known| known != value) {
                    return Err(FragmentFault::Credentials);
                }
                *known = Some(value);
            }
            "candidate" if is_usable(value) => fragment.usable += 1,
            "candidate" => fragment.skipped += 1,
            _ => {}
        }
    }
    if let Some((ufrag, pwd)) = ufrag.zip(pwd) {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
        let fits = |text: &str, least| (least..=256).contains(&text.len()) && text.bytes().all(allowed);
        if !fits(ufrag, 4) || !fits(pwd, 22) {
            return Err(FragmentFault::CredentialSyntax);
        }
        fragment.credentials = Some(Credentials { ufrag: ufrag.into(), pwd: pwd.into() });
    }
    Ok(fragment)
}

/// The credentials of an offer that was checked: those of its first track, or of its session.
#[must_use]
pub fn of_offer(offer: &str) -> Credentials {
    let first =
        |name: &str| offer.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    Credentials { ufrag: first("a=ice-ufrag:").into(), pwd: first("a=ice-pwd:").into() }
}

/// `FOUNDATION COMPONENT TRANSPORT PRIORITY ADDRESS PORT typ ...`
fn is_usable(candidate: &str) -> bool {
    let mut words = candidate.split_ascii_whitespace().skip(2);
    let udp = words.next().is_some_and(|transport| transport.eq_ignore_ascii_case("udp"));
    udp && words.nth(1).is_some_and(|address| address.parse::<IpAddr>().is_ok())
}

/// The offer as it would have been with other credentials.
#[must_use]
pub fn with_credentials(offer: &str, credentials: &Credentials) -> String {
    let mut out = String::with_capacity(offer.len());
    for line in offer.lines() {
        match line.split_once(':').map(|(name, _)| name) {
            Some("a=ice-ufrag") => out.extend(["a=ice-ufrag:", &credentials.ufrag]),
            Some("a=ice-pwd") => out.extend(["a=ice-pwd:", &credentials.pwd]),
            _ => out.push_str(line),
        }
        out.push_str("\r\n");
    }
    out
}

/// What an answer says of ICE, as a fragment: the part of its session, and of its first m-line, whose transport is everyone's.
#[must_use]
pub fn of_answer(answer: &str) -> String {
    const KEPT: [&str; 8] =
        ["ice-lite", "ice-options", "group", "mid", "ice-ufrag", "ice-pwd", "candidate", "end-of-candidates"];
    let mut out = String::new();
    let mut tracks = 0;
    for line in answer.lines() {
        tracks += usize::from(line.starts_with("m="));
        if tracks > 1 {
            break;
        }
        let attribute = line.strip_prefix("a=").map(|a| a.split(':').next().unwrap_or(a));
        if line.starts_with("m=") || attribute.is_some_and(|name| KEPT.contains(&name)) {
            out.extend([line, "\r\n"]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PWD: &str = "0123456789abcdefghij+/";

    fn credentials() -> Credentials {
        Credentials { ufrag: "abcd".into(), pwd: PWD.into() }
    }

    #[test]
    fn a_fragment_has_credentials_and_candidates() {
        let text = format!(
            "a=ice-options:trickle ice2\r\na=group:BUNDLE 0 1\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n\
             a=ice-ufrag:abcd\r\na=ice-pwd:{PWD}\r\n\
             a=candidate:1 1 UDP 2122252543 192.0.2.2 50000 typ host\r\n\
             a=candidate:2 1 udp 2122252543 6e3a.local 50001 typ host\r\n\
             a=candidate:3 1 TCP 1518280447 192.0.2.2 9 typ host tcptype active\r\n\
             a=candidate:broken\r\na=end-of-candidates\r\n"
        );
        let expected = Fragment { credentials: Some(credentials()), usable: 1, skipped: 3 };
        assert_eq!(parse(&text), Ok(expected));
        assert_eq!(
            parse("a=candidate:1 1 udp 1 ::1 5 typ host\n").map(|f| (f.usable, f.credentials)),
            Ok((1, None))
        );
        assert_eq!(parse(""), Ok(Fragment::default()));
    }

    #[test]
    fn each_fault_is_named() {
        let pair = |ufrag: &str, pwd: &str| format!("a=ice-ufrag:{ufrag}\r\na=ice-pwd:{pwd}\r\n");
        for (text, fault) in [
            ("v=0\r\n".to_owned(), FragmentFault::Syntax),
            ("{}".to_owned(), FragmentFault::Syntax),
            ("a=x\n".repeat(501), FragmentFault::TooLong),
            (format!("a={}", "x".repeat(MAX_FRAGMENT_BYTES)), FragmentFault::TooLong),
            (pair("abcd", PWD) + &pair("abce", PWD), FragmentFault::Credentials),
            (pair("abc", PWD), FragmentFault::CredentialSyntax),
            (pair("abcd", "short"), FragmentFault::CredentialSyntax),
            (pair("ab d", PWD), FragmentFault::CredentialSyntax),
        ] {
            assert_eq!(parse(&text), Err(fault), "{text:.40}");
        }
    }

    #[test]
    fn an_offer_gets_other_credentials_and_an_answer_is_cut_to_its_ice() {
        let offer =
            "v=0\r\na=ice-ufrag:old1\r\na=ice-pwd:old\r\nm=audio 9 X 0\r\na=mid:0\r\na=ice-ufrag:old1\r\n";
        assert_eq!(of_offer(offer), Credentials { ufrag: "old1".into(), pwd: "old".into() });
        let expected = format!(
            "v=0\r\na=ice-ufrag:abcd\r\na=ice-pwd:{PWD}\r\nm=audio 9 X 0\r\na=mid:0\r\na=ice-ufrag:abcd\r\n"
        );
        assert_eq!(with_credentials(offer, &credentials()), expected);
        let answer = "v=0\r\ns=-\r\na=group:BUNDLE 0 1\r\na=ice-lite\r\na=fingerprint:x\r\nm=audio 9 X 0\r\nc=IN IP4 0.0.0.0\r\n\
                      a=mid:0\r\na=ice-ufrag:u\r\na=ice-pwd:p\r\na=candidate:1\r\na=end-of-candidates\r\na=rtpmap:1\r\n\
                      m=video 9 X 1\r\na=mid:1\r\na=ice-ufrag:u\r\n";
        let fragment = "a=group:BUNDLE 0 1\r\na=ice-lite\r\nm=audio 9 X 0\r\na=mid:0\r\na=ice-ufrag:u\r\na=ice-pwd:p\r\n\
                        a=candidate:1\r\na=end-of-candidates\r\n";
        assert_eq!(of_answer(answer), fragment);
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(lines in prop::collection::vec("(a=(ice-ufrag|ice-pwd|candidate|mid):[a-z0-9 .]{0,30})|[amv]=.{0,20}", 0..30)) {
            let text = lines.join("\r\n");
            if let Ok(fragment) = parse(&text) {
                let candidates = lines.iter().filter(|line| line.starts_with("a=candidate")).count();
                prop_assert_eq!(fragment.usable + fragment.skipped, candidates);
            }
        }
    }
}
