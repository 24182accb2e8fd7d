//! The HTTP face of an engine: which request asks for what, and what is answered where it cannot be.
//!
//! Sources: RFC 9725 (WHIP), draft-ietf-wish-whep-04 (WHEP), RFC 9110, RFC 9457 (problem details).

use std::borrow::Cow;

use crate::{
    Role, SessionId, StreamName, claims::Denied, offer::OfferFault, room::Conflict, sdpfrag::FragmentFault,
};

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `/`: the page.
    Page,
    /// `/whip/ROOM/STREAM` or `/whep/ROOM/STREAM`.
    Endpoint(Role, StreamName),
    /// `/session/ID`; the id may be none that was ever given.
    Session(Option<SessionId>),
    /// `/session/ID/layer`: which layer a viewer gets.
    Layer(Option<SessionId>),
    /// `/events/ID`: what happens to a session.
    Events(Option<SessionId>),
    /// `/streams` or `/streams/ROOM/STREAM`.
    Streams(Option<StreamName>),
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The page.
    Page,
    /// A new session.
    Open(Role, StreamName),
    /// The end of a session.
    Close(SessionId),
    /// More candidates for a session, or new ICE credentials.
    Patch(SessionId),
    /// Whether a session is there.
    Probe(SessionId),
    /// Another layer for a viewer.
    Choose(SessionId),
    /// What happens to a session from now on.
    Listen(SessionId),
    /// A list of streams.
    List(Option<StreamName>),
    /// What an endpoint takes, or may a page of another origin ask.
    Options,
    /// Nothing: GET on an endpoint is answered without content.
    Nothing,
}

/// An answer that says no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The short name of the kind, for metrics.
    pub reason: &'static str,
    /// What is wrong, and what to do.
    pub detail: Cow<'static, str>,
    /// The header `Allow` of 405.
    pub allow: Option<&'static str>,
    /// The header `Retry-After`, in seconds.
    pub retry_after: Option<u8>,
}

impl Refusal {
    /// A refusal with this status and detail.
    #[must_use]
    pub fn new(status: u16, reason: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, reason, detail: detail.into(), allow: None, retry_after: None }
    }

    /// The same, to be tried again after so many seconds.
    #[must_use]
    pub fn retry_after(self, seconds: u8) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    fn not_found() -> Self {
        Self::new(404, "not_found", "nothing is here; streams are /whip/ROOM/STREAM and /whep/ROOM/STREAM")
    }

    /// No session has this id, or it is over.
    #[must_use]
    pub fn no_session() -> Self {
        Self::new(404, "no_session", "this session is over, or was never here: begin again by POST")
    }

    /// The session's place was taken by its own subject.
    #[must_use]
    pub fn taken_over() -> Self {
        Self::new(410, "taken_over", "a newer session of the same subject publishes this stream")
    }

    /// The tag in `If-Match` is not that of the session's present ICE credentials.
    #[must_use]
    pub fn another_tag() -> Self {
        let detail =
            "`If-Match` names another ICE session than the present one; restart with `If-Match: \"*\"`";
        Self::new(412, "tag", detail)
    }

    /// New credentials without the word that they are wanted, or the word without them.
    #[must_use]
    pub fn no_restart() -> Self {
        let detail = "`If-Match: \"*\"` restarts ICE and needs a new `a=ice-ufrag` and `a=ice-pwd`; candidates need the tag";
        Self::new(400, "fragment", detail)
    }

    /// No token, or one that does not hold.
    #[must_use]
    pub fn unauthorized(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(401, "token", detail)
    }

    /// The body is larger than 64 KiB.
    #[must_use]
    pub fn too_large() -> Self {
        Self::new(413, "too_large", "an offer has at most 64 KiB")
    }

    /// The body did not come in time.
    #[must_use]
    pub fn too_slow() -> Self {
        Self::new(408, "too_slow", "the request did not come within 10 s")
    }

    /// Too many requests of one address.
    #[must_use]
    pub fn too_many_requests() -> Self {
        Self::new(429, "rate", "more than 100 requests a second come from this address").retry_after(1)
    }

    /// Too many listen to one session's events.
    #[must_use]
    pub fn too_many_listeners() -> Self {
        Self::new(429, "listeners", "4 requests listen to this session's events already").retry_after(5)
    }

    /// Too many unfinished sessions of one address.
    #[must_use]
    pub fn too_many_half_open() -> Self {
        Self::new(429, "half_open", "32 sessions of this address are not live yet").retry_after(1)
    }

    /// The engine is full.
    #[must_use]
    pub fn full(retry_after: u8) -> Self {
        Self::new(503, "full", "this engine has as many sessions as it may have").retry_after(retry_after)
    }

    /// The engine ends.
    #[must_use]
    pub fn ends(retry_after: u8) -> Self {
        Self::new(503, "tombstone", "this engine ends and takes no new streams").retry_after(retry_after)
    }

    /// No codec in common.
    #[must_use]
    pub fn no_codec(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(406, "codec", detail)
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        if denied.is_invalid() {
            Self::unauthorized(denied.to_string())
        } else {
            Self::new(403, "right", denied.to_string())
        }
    }
}

impl From<Conflict> for Refusal {
    fn from(conflict: Conflict) -> Self {
        match conflict {
            Conflict::Taken => Self::new(409, "taken", conflict.to_string()),
            Conflict::Nobody => Self::new(409, "nobody_publishes", conflict.to_string()).retry_after(1),
        }
    }
}

impl From<FragmentFault> for Refusal {
    fn from(fault: FragmentFault) -> Self {
        let status = if fault == FragmentFault::TooLong { 413 } else { 400 };
        Self::new(status, "fragment", fault.to_string())
    }
}

impl From<OfferFault> for Refusal {
    fn from(fault: OfferFault) -> Self {
        let status = match fault {
            OfferFault::NotSdp(_) => 400,
            OfferFault::NotAcceptable(_) => 406,
            OfferFault::CannotWork(_) => 422,
        };
        Self::new(status, "offer", fault.to_string())
    }
}

/// The content type of a PATCH.
pub const FRAGMENT_TYPE: &str = "application/trickle-ice-sdpfrag";

fn is_essence(content_type: Option<&str>, expected: &str) -> bool {
    let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case(expected)
}

/// What `If-Match` of a PATCH says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// `*`: the ICE session shall be another one.
    Restart,
    /// The strong tags, without their quotes. Weak ones match nothing (RFC 9110 s13.1.1).
    Tags(Vec<Box<str>>),
}

impl IfMatch {
    /// Reads the header. RFC 9725 writes `"*"` with quotes; clients send both.
    ///
    /// # Errors
    /// 428 without the header, 400 with one that cannot be read.
    pub fn parse(header: Option<&str>) -> Result<Self, Refusal> {
        let missing = || {
            let detail =
                "a PATCH needs `If-Match`: the session's `ETag` for candidates, `\"*\"` for a restart";
            Refusal::new(428, "tag", detail)
        };
        let header = header.ok_or_else(missing)?.trim();
        if matches!(header, "*" | "\"*\"") {
            return Ok(Self::Restart);
        }
        let strong = |tag: &str| {
            let tag = tag.strip_prefix('"')?.strip_suffix('"')?;
            (!tag.contains('"')).then(|| Box::from(tag))
        };
        let mut tags = Vec::new();
        for tag in header.split(',').map(str::trim) {
            match strong(tag) {
                Some(tag) => tags.push(tag),
                None if tag.strip_prefix("W/").and_then(strong).is_some() => {}
                None => return Err(Refusal::new(400, "tag", "`If-Match` is no list of tags in quotes")),
            }
        }
        Ok(Self::Tags(tags))
    }
}

fn name(text: &str) -> Option<Box<str>> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    ((1..=64).contains(&text.len()) && text.bytes().all(allowed)).then(|| text.into())
}

/// What `path` (without its query) names, if anything.
#[must_use]
pub fn target(path: &str) -> Option<Target> {
    let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    let stream = |room, stream| Some(StreamName { room: name(room)?, stream: name(stream)? });
    match parts[..] {
        [""] => Some(Target::Page),
        ["whip", room, of] => Some(Target::Endpoint(Role::Publisher, stream(room, of)?)),
        ["whep", room, of] => Some(Target::Endpoint(Role::Viewer, stream(room, of)?)),
        ["session", id, "layer"] => Some(Target::Layer(SessionId::parse(id))),
        ["events", id] => Some(Target::Events(SessionId::parse(id))),
        ["session", id] => Some(Target::Session(SessionId::parse(id))),
        ["streams"] => Some(Target::Streams(None)),
        ["streams", room, of] => Some(Target::Streams(Some(stream(room, of)?))),
        _ => None,
    }
}

/// What a request asks for, by its method, path and content type.
///
/// # Errors
/// 404, 405 with `Allow`, or 415.
pub fn action(method: &str, path: &str, content_type: Option<&str>) -> Result<Action, Refusal> {
    let target = target(path).ok_or_else(Refusal::not_found)?;
    let reads = matches!(method, "GET" | "HEAD");
    let allow = match &target {
        Target::Page | Target::Streams(_) | Target::Events(_) => "GET, HEAD, OPTIONS",
        Target::Endpoint(..) => "POST, GET, HEAD, OPTIONS",
        Target::Layer(_) => "POST, OPTIONS",
        Target::Session(_) => "PATCH, DELETE, GET, HEAD, OPTIONS",
    };
    match target {
        _ if method == "OPTIONS" => Ok(Action::Options),
        Target::Page if reads => Ok(Action::Page),
        Target::Streams(stream) if reads => Ok(Action::List(stream)),
        Target::Endpoint(..) if reads => Ok(Action::Nothing),
        Target::Endpoint(role, stream) if method == "POST" => {
            if is_essence(content_type, "application/sdp") {
                Ok(Action::Open(role, stream))
            } else {
                Err(Refusal::new(415, "content_type", "an offer has `Content-Type: application/sdp`"))
            }
        }
        Target::Layer(id) if method == "POST" => {
            if is_essence(content_type, "application/json") {
                id.map(Action::Choose).ok_or_else(Refusal::no_session)
            } else {
                let detail = "a choice has `Content-Type: application/json` and names an `encodingId`";
                Err(Refusal::new(415, "content_type", detail))
            }
        }
        Target::Events(id) if method == "GET" => id.map(Action::Listen).ok_or_else(Refusal::no_session),
        Target::Events(_) if reads => Ok(Action::Nothing),
        Target::Session(id) if reads => id.map(Action::Probe).ok_or_else(Refusal::no_session),
        Target::Session(id) if method == "PATCH" => {
            if is_essence(content_type, FRAGMENT_TYPE) {
                id.map(Action::Patch).ok_or_else(Refusal::no_session)
            } else {
                let detail = "candidates and restarts have `Content-Type: application/trickle-ice-sdpfrag`";
                Err(Refusal::new(415, "content_type", detail))
            }
        }
        Target::Session(id) if method == "DELETE" => id.map(Action::Close).ok_or_else(Refusal::no_session),
        _ => {
            let detail = "this method has no meaning here; `Allow` names those that have";
            Err(Refusal { allow: Some(allow), ..Refusal::new(405, "method", detail) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SDP: Option<&str> = Some("application/sdp");

    fn cam() -> StreamName {
        StreamName { room: "hall".into(), stream: "cam.1".into() }
    }

    #[test]
    fn each_request_asks_for_what_the_documents_say() {
        let id = SessionId(1);
        let (session, events) = (format!("/session/{id}"), format!("/events/{id}"));
        for (method, path, expected) in [
            ("POST", "/whip/hall/cam.1", Action::Open(Role::Publisher, cam())),
            ("POST", "/whep/hall/cam.1", Action::Open(Role::Viewer, cam())),
            ("OPTIONS", "/whip/hall/cam.1", Action::Options),
            ("GET", "/whip/hall/cam.1", Action::Nothing),
            ("HEAD", "/whep/hall/cam.1", Action::Nothing),
            ("DELETE", &session, Action::Close(id)),
            ("GET", &session, Action::Probe(id)),
            ("OPTIONS", "/whep/hall/cam.1", Action::Options),
            ("OPTIONS", &session, Action::Options),
            ("GET", &events, Action::Listen(id)),
            ("GET", "/streams", Action::List(None)),
            ("GET", "/streams/hall/cam.1", Action::List(Some(cam()))),
            ("GET", "/", Action::Page),
        ] {
            assert_eq!(action(method, path, SDP), Ok(expected), "{method} {path}");
        }
        assert!(action("POST", "/whip/hall/cam", Some("Application/SDP; charset=utf-8")).is_ok());
        assert_eq!(action("PATCH", &session, Some(FRAGMENT_TYPE)), Ok(Action::Patch(id)));
        let layer = format!("{session}/layer");
        assert_eq!(action("POST", &layer, Some("application/json")), Ok(Action::Choose(id)));
        assert_eq!(action("POST", &layer, SDP).map_err(|refusal| refusal.status), Err(415));
    }

    #[test]
    fn if_match_is_a_restart_or_strong_tags() {
        let tags = |tags: &[&str]| Ok(IfMatch::Tags(tags.iter().map(|tag| Box::from(*tag)).collect()));
        for (header, expected) in [
            ("*", Ok(IfMatch::Restart)),
            ("\"*\"", Ok(IfMatch::Restart)),
            ("\"a\"", tags(&["a"])),
            ("\"a\", W/\"b\", \"c\"", tags(&["a", "c"])),
            ("W/\"b\"", tags(&[])),
        ] {
            assert_eq!(IfMatch::parse(Some(header)), expected, "{header}");
        }
        for (header, status) in [(None, 428), (Some("a"), 400), (Some(""), 400), (Some("\"a\"b\""), 400)] {
            assert_eq!(IfMatch::parse(header).map_err(|refusal| refusal.status), Err(status), "{header:?}");
        }
    }

    #[test]
    fn what_has_no_meaning_is_refused_with_its_status() {
        let long = format!("/whip/hall/{}", "a".repeat(65));
        for (method, path, content_type, status) in [
            ("POST", "/whip/hall/cam", None, 415),
            ("POST", "/whip/hall/cam", Some("application/json"), 415),
            ("PUT", "/whip/hall/cam", SDP, 405),
            ("PATCH", "/session/00000000000000000000000000000001", SDP, 415),
            ("PATCH", "/session/1", Some(FRAGMENT_TYPE), 404),
            ("PATCH", "/whip/hall/cam", Some(FRAGMENT_TYPE), 405),
            ("POST", "/", SDP, 405),
            ("DELETE", "/session/12", None, 404),
            ("POST", "/whip/hall", SDP, 404),
            ("POST", "/whip/hall/a%2Fb", SDP, 404),
            ("POST", "/whip/hall/", SDP, 404),
            ("POST", "/whip/hall/cam/", SDP, 404),
            ("POST", &long, SDP, 404),
            ("POST", "*", SDP, 404),
        ] {
            let refusal = action(method, path, content_type).expect_err(path);
            assert_eq!((refusal.status, refusal.allow.is_some()), (status, status == 405), "{method} {path}");
        }
    }

    #[test]
    fn a_token_that_holds_but_allows_too_little_is_403_and_others_401() {
        assert_eq!(Refusal::from(Denied::Room).status, 403);
        assert_eq!(Refusal::from(Denied::Expired { seconds: 70 }).status, 401);
        assert_eq!(Refusal::from(Conflict::Nobody).retry_after, Some(1));
    }
}
