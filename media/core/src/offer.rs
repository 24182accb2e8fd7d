//! Whether an SDP offer can make a whole session, before a WebRTC library sees it: half sessions are not answered.
//!
//! Sources: RFC 9725 s4.4, draft-ietf-wish-whep-04 s4.2, RFC 8866, RFC 8829, RFC 9143 (BUNDLE).

use std::collections::BTreeSet;

use crate::{Role, TrackKind};

/// Largest offer, in bytes.
pub const MAX_OFFER_BYTES: usize = 64 * 1024;
/// Most lines of an offer.
const MAX_LINES: usize = 2000;
/// Most layers of simulcast; browsers send three.
const MAX_LAYERS: usize = 4;

/// Why an offer is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfferFault {
    /// No SDP, or broken SDP: 400.
    #[error("{0}")]
    NotSdp(&'static str),
    /// More or less than one session can be: 406.
    #[error("{0}")]
    NotAcceptable(&'static str),
    /// It could never connect: 422.
    #[error("{0}")]
    CannotWork(&'static str),
}

#[derive(Debug, Default)]
struct Section<'a> {
    kind: Option<TrackKind>,
    mid: Option<&'a str>,
    direction: Option<&'a str>,
    fingerprint: bool,
    ufrag: bool,
    password: bool,
    setup: Option<&'a str>,
}

/// Checks the offer and returns it as it is to be answered. A viewer sends no layers, so it need not describe any.
///
/// # Errors
/// [`OfferFault`].
pub fn check(offer: &str, role: Role) -> Result<String, OfferFault> {
    if offer.len() > MAX_OFFER_BYTES {
        return Err(OfferFault::NotSdp("the offer is larger than 64 KiB"));
    }
    if !offer.starts_with("v=0\r\n") && !offer.starts_with("v=0\n") {
        return Err(OfferFault::NotSdp("the body is no SDP: it does not begin with `v=0`"));
    }
    if offer.lines().count() > MAX_LINES {
        return Err(OfferFault::NotSdp("the offer has more than 2000 lines"));
    }
    let sections = sections(offer)?;
    let (session, media) = sections.split_first().expect("the lines before the first m-line are one");
    tracks(media)?;
    bundle(offer, media)?;
    let has = |one: fn(&Section<'_>) -> bool| one(session) || media.iter().all(one);
    if !has(|section| section.fingerprint) {
        return Err(OfferFault::CannotWork("no `a=fingerprint`: media is encrypted by DTLS-SRTP only"));
    }
    if !has(|section| section.ufrag) || !has(|section| section.password) {
        return Err(OfferFault::CannotWork("no `a=ice-ufrag` and `a=ice-pwd`"));
    }
    if sections.iter().any(|section| section.setup.is_some_and(|setup| setup == "passive")) {
        return Err(OfferFault::CannotWork("`a=setup:passive`: this side waits for the client's DTLS, too"));
    }
    let wanted = match role {
        Role::Publisher => ["sendonly", "sendrecv"],
        Role::Viewer => ["recvonly", "sendrecv"],
    };
    for section in media {
        let direction = section.direction.or(session.direction).unwrap_or("sendrecv");
        if !wanted.contains(&direction) {
            return Err(OfferFault::NotAcceptable(match role {
                Role::Publisher => "a publisher's tracks are `sendonly`",
                Role::Viewer => "a viewer's tracks are `recvonly`",
            }));
        }
    }
    let layers = offer.lines().filter(|line| line.starts_with("a=rid:")).count();
    if role == Role::Publisher && layers > MAX_LAYERS {
        return Err(OfferFault::NotAcceptable("more than 4 layers of simulcast"));
    }
    Ok(with_plain_ends(offer, role == Role::Publisher))
}

/// The rids that the offer pauses (RFC 8853 s5.1: `~`).
fn paused(offer: &str) -> Vec<&str> {
    let lists = offer.lines().filter_map(|line| line.strip_prefix("a=simulcast:send "));
    let rids = lists.flat_map(|list| list.split(' ').next().unwrap_or_default().split([';', ',']));
    rids.filter_map(|rid| rid.trim().strip_prefix('~')).collect()
}

/// The answer, in which the layers that the offer pauses are paused, too.
#[must_use]
pub fn with_paused_layers(answer: &str, offer: &str) -> String {
    let paused = paused(offer);
    if paused.is_empty() {
        return answer.to_owned();
    }
    let mark = |rid: &str| if paused.contains(&rid) { format!("~{rid}") } else { rid.to_owned() };
    let line = |line: &str| match line.strip_prefix("a=simulcast:recv ") {
        Some(rids) => {
            let rids: Vec<String> = rids.split(';').map(|rid| mark(rid.trim_start_matches('~'))).collect();
            format!("a=simulcast:recv {}\r\n", rids.join(";"))
        }
        None => format!("{line}\r\n"),
    };
    answer.lines().map(line).collect()
}

fn sections(offer: &str) -> Result<Vec<Section<'_>>, OfferFault> {
    let mut sections = vec![Section::default()];
    for line in offer.lines() {
        let (name, value) = match line.strip_prefix("a=") {
            Some(attribute) => attribute.split_once(':').unwrap_or((attribute, "")),
            None => match line.strip_prefix("m=") {
                Some(media) => ("m", media),
                None => continue,
            },
        };
        let value = value.trim();
        let section = sections.last_mut().expect("it began with one");
        match name {
            "m" => {
                let kind = match value.split(' ').next() {
                    Some("audio") => Some(TrackKind::Audio),
                    Some("video") => Some(TrackKind::Video),
                    _ => None,
                };
                sections.push(Section { kind, ..Section::default() });
            }
            "mid" if section.mid.is_some() => return Err(OfferFault::NotSdp("an m-line has two `a=mid`")),
            "mid" => section.mid = Some(value),
            "sendonly" | "recvonly" | "sendrecv" | "inactive" => section.direction = Some(name),
            "fingerprint" => section.fingerprint = true,
            "ice-ufrag" => section.ufrag = true,
            "ice-pwd" => section.password = true,
            "setup" => section.setup = Some(value),
            _ => {}
        }
    }
    Ok(sections)
}

fn tracks(media: &[Section<'_>]) -> Result<(), OfferFault> {
    if media.is_empty() {
        return Err(OfferFault::NotAcceptable("the offer has no media"));
    }
    let mut kinds = BTreeSet::new();
    for section in media {
        let Some(kind) = section.kind else {
            return Err(OfferFault::NotAcceptable("an m-line is neither audio nor video"));
        };
        if !kinds.insert(kind) {
            return Err(OfferFault::NotAcceptable("two audio or two video tracks; a stream has one of each"));
        }
    }
    Ok(())
}

fn bundle(offer: &str, media: &[Section<'_>]) -> Result<(), OfferFault> {
    let group = offer.lines().find_map(|line| line.strip_prefix("a=group:BUNDLE"));
    let group: BTreeSet<&str> = group.unwrap_or_default().split_whitespace().collect();
    let mut mids = BTreeSet::new();
    for section in media {
        let Some(mid) = section.mid.filter(|mid| !mid.is_empty()) else {
            return Err(OfferFault::NotAcceptable(
                "an m-line has no `a=mid`: tracks share one transport by BUNDLE",
            ));
        };
        if !mids.insert(mid) {
            return Err(OfferFault::NotSdp("two m-lines have the same `a=mid`"));
        }
        if !group.contains(mid) {
            return Err(OfferFault::NotAcceptable("not every m-line is in `a=group:BUNDLE`"));
        }
    }
    Ok(())
}

fn with_plain_ends(offer: &str, with_layers: bool) -> String {
    let mut kept = String::with_capacity(offer.len());
    let layered = |line: &str| line.starts_with("a=simulcast:") || line.starts_with("a=rid:");
    for line in offer.lines().filter(|line| with_layers || !layered(line)) {
        kept.push_str(line);
        kept.push_str("\r\n");
    }
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn offer() -> String {
        let track = |kind: &str, mid: &str| {
            format!(
                "m={kind} 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=mid:{mid}\r\na=ice-ufrag:abcd\r\n\
                 a=ice-pwd:0123456789012345678901\r\na=fingerprint:sha-256 00\r\na=setup:actpass\r\na=sendonly\r\n"
            )
        };
        let (audio, video) = (track("audio", "0"), track("video", "1"));
        format!("v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n{audio}{video}")
    }

    #[test]
    fn a_whole_offer_is_taken_with_a_publishers_layers_alone() {
        let layers = "a=rid:h send\r\na=rid:l send\r\na=simulcast:send h;~l\r\n";
        let layered = format!("{}{layers}", offer());
        assert_eq!(check(&layered, Role::Publisher), Ok(layered.clone()));
        let viewer = layered.replace("sendonly", "recvonly");
        assert_eq!(check(&viewer, Role::Viewer), Ok(offer().replace("sendonly", "recvonly")));
        assert!(check(&format!("{layered}{}", "a=rid:x send\r\n".repeat(3)), Role::Publisher).is_err());
        let answer = "v=0\r\na=rid:h recv\r\na=simulcast:recv h;l\r\n";
        assert_eq!(with_paused_layers(answer, &layered), answer.replace(";l", ";~l"));
        assert_eq!(with_paused_layers(answer, &offer()), answer);
        let unix = offer().replace('\r', "").replace("sendonly", "sendrecv");
        assert!(check(&unix, Role::Viewer).is_ok());
    }

    #[test]
    fn each_fault_is_named_and_has_its_status() {
        let video = offer().find("m=video").map(|at| offer()[at..].to_owned()).expect("there is one");
        type Kind = fn(&OfferFault) -> bool;
        let not_sdp: Kind = |fault| matches!(fault, OfferFault::NotSdp(_));
        let not_acceptable: Kind = |fault| matches!(fault, OfferFault::NotAcceptable(_));
        let cannot_work: Kind = |fault| matches!(fault, OfferFault::CannotWork(_));
        for (text, kind, words) in [
            ("hello".to_owned(), not_sdp, "v=0"),
            (String::new(), not_sdp, "v=0"),
            (format!("{}{}", offer(), "a=x\r\n".repeat(2000)), not_sdp, "2000"),
            (offer().replace("a=mid:1", "a=mid:0"), not_sdp, "same"),
            (offer().replace("a=mid:1", "a=mid:1\r\na=mid:2"), not_sdp, "two `a=mid`"),
            ("v=0\r\ns=-\r\n".to_owned(), not_acceptable, "no media"),
            (format!("{}{}", offer(), video.replace("mid:1", "mid:2")), not_acceptable, "one of each"),
            (offer().replace("m=audio", "m=application"), not_acceptable, "neither"),
            (offer().replace("BUNDLE 0 1", "BUNDLE 0"), not_acceptable, "BUNDLE"),
            (offer().replace("a=mid:1\r\n", ""), not_acceptable, "a=mid"),
            (offer().replace("a=sendonly", "a=recvonly"), not_acceptable, "sendonly"),
            (offer().replace("a=fingerprint", "a=f"), cannot_work, "fingerprint"),
            (offer().replace("a=ice-pwd", "a=p"), cannot_work, "ice-pwd"),
            (offer().replace("setup:actpass", "setup:passive"), cannot_work, "passive"),
        ] {
            let fault = check(&text, Role::Publisher).expect_err(words);
            assert!(kind(&fault) && fault.to_string().contains(words), "{words}: {fault:?}");
        }
        assert!(check(&offer(), Role::Viewer).is_err(), "who sends does not play");
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(lines in prop::collection::vec("[amvo]=[a-zA-Z:/ 0-9-]{0,30}", 0..30)) {
            let _ = check(&format!("v=0\r\n{}", lines.join("\r\n")), Role::Viewer);
        }
    }
}
