//! What a token allows: one room, and in it which streams may be published and played. Checked without the network.
//!
//! The signature is the shell's to check, against a key set that is read from a file.

use std::time::Duration;

use proto::jwt::numeric_date;
use serde::Deserialize;

use crate::StreamName;

/// By how much the clocks of issuer and engine may differ.
pub const CLOCK_SKEW: Duration = Duration::from_secs(60);
/// Most streams that a list names.
const MAX_STREAMS: usize = 256;
/// Longest `sub`, in bytes.
const MAX_SUBJECT_BYTES: usize = 256;

/// The claims that an engine reads; others are ignored. Times are unix seconds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Claims {
    /// Who holds the token. A publisher with the same subject takes a stream over.
    #[serde(default)]
    pub sub: Box<str>,
    /// Not valid after. A token without an end is refused: it could not be taken back.
    #[serde(default, deserialize_with = "numeric_date")]
    pub exp: Option<u64>,
    /// Not valid before.
    #[serde(default, deserialize_with = "numeric_date")]
    pub nbf: Option<u64>,
    /// The one room that the token is for.
    #[serde(default)]
    pub room: Box<str>,
    /// Streams that may be published: names, or `*`.
    #[serde(default)]
    pub publish: Vec<Box<str>>,
    /// Streams that may be played: names, or `*`.
    #[serde(default)]
    pub play: Vec<Box<str>>,
    /// Whether the streams of the room may be listed.
    #[serde(default)]
    pub list: bool,
}

/// What a request wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish<'a> {
    /// Publish a stream.
    Publish(&'a StreamName),
    /// Play a stream.
    Play(&'a StreamName),
    /// List streams.
    List,
    /// Change a session of the same subject.
    Session,
}

/// Why a token does not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It ended, or has no end.
    #[error("the token ended {seconds} s ago by this engine's clock; 60 s are allowed between clocks")]
    Expired {
        /// How long ago.
        seconds: u64,
    },
    /// It begins later.
    #[error("the token begins in {seconds} s by this engine's clock; 60 s are allowed between clocks")]
    NotYet {
        /// How far ahead.
        seconds: u64,
    },
    /// A claim is missing or out of bounds.
    #[error("{0}")]
    Malformed(&'static str),
    /// Another room.
    #[error("the token is for another room")]
    Room,
    /// The room is right, the stream or the verb is not.
    #[error("the token does not allow to {0}")]
    Stream(&'static str),
}

impl Denied {
    /// Whether a token of the same issuer and subject could do (401), or this one is right and allows too little (403).
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        matches!(self, Self::Expired { .. } | Self::NotYet { .. } | Self::Malformed(_))
    }
}

impl Claims {
    /// Whether these claims allow `wish` at `now`, the time since 1970.
    ///
    /// # Errors
    /// [`Denied`] says why not.
    pub fn allow(&self, wish: Wish<'_>, now: Duration) -> Result<(), Denied> {
        let (now, skew) = (now.as_secs(), CLOCK_SKEW.as_secs());
        let end = self.exp.ok_or(Denied::Malformed("the token has no end: `exp` is missing"))?;
        if now >= end.saturating_add(skew) {
            return Err(Denied::Expired { seconds: now.saturating_sub(end) });
        }
        if let Some(begin) = self.nbf
            && now.saturating_add(skew) < begin
        {
            return Err(Denied::NotYet { seconds: begin.saturating_sub(now) });
        }
        if self.sub.is_empty() || self.sub.len() > MAX_SUBJECT_BYTES {
            return Err(Denied::Malformed("the token names no subject of at most 256 bytes: `sub`"));
        }
        if self.publish.len() > MAX_STREAMS || self.play.len() > MAX_STREAMS {
            return Err(Denied::Malformed("the token lists more than 256 streams"));
        }
        let (name, streams, verb) = match wish {
            Wish::Publish(name) => (name, &self.publish, "publish this stream"),
            Wish::Play(name) => (name, &self.play, "play this stream"),
            Wish::Session => return Ok(()),
            Wish::List if self.list => return Ok(()),
            Wish::List => return Err(Denied::Stream("list streams")),
        };
        if self.room != name.room {
            return Err(Denied::Room);
        }
        let named = |stream: &str| stream == "*" || *stream == *name.stream;
        if streams.iter().any(|stream| named(stream)) { Ok(()) } else { Err(Denied::Stream(verb)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000_000);

    fn claims() -> Claims {
        Claims {
            sub: "ann".into(),
            exp: Some(1_000_100),
            nbf: None,
            room: "hall".into(),
            publish: vec!["cam".into()],
            play: vec!["*".into()],
            list: false,
        }
    }

    fn name(room: &str, stream: &str) -> StreamName {
        StreamName { room: room.into(), stream: stream.into() }
    }

    #[test]
    fn a_token_allows_what_it_names_and_nothing_else() {
        let (cam, other, elsewhere) = (name("hall", "cam"), name("hall", "other"), name("attic", "cam"));
        let claims = claims();
        assert_eq!(claims.allow(Wish::Publish(&cam), NOW), Ok(()));
        assert_eq!(claims.allow(Wish::Play(&other), NOW), Ok(()));
        let denied = claims.allow(Wish::Publish(&other), NOW).expect_err("not named");
        assert_eq!((denied.clone(), denied.is_invalid()), (Denied::Stream("publish this stream"), false));
        assert_eq!(claims.allow(Wish::Play(&elsewhere), NOW), Err(Denied::Room));
        assert_eq!(claims.allow(Wish::List, NOW), Err(Denied::Stream("list streams")));
        assert_eq!(Claims { list: true, ..claims }.allow(Wish::List, NOW), Ok(()));
    }

    #[test]
    fn a_token_holds_from_its_begin_to_its_end_give_or_take_a_minute() {
        let cam = name("hall", "cam");
        let at =
            |exp: Option<u64>, nbf: Option<u64>| Claims { exp, nbf, ..claims() }.allow(Wish::Play(&cam), NOW);
        assert_eq!(at(Some(999_941), None), Ok(()));
        assert_eq!(at(Some(999_940), None), Err(Denied::Expired { seconds: 60 }));
        assert_eq!(at(Some(2_000_000), Some(1_000_060)), Ok(()));
        assert_eq!(at(Some(2_000_000), Some(1_000_061)), Err(Denied::NotYet { seconds: 61 }));
        assert!(at(None, None).expect_err("no end").is_invalid());
        assert_eq!(at(Some(u64::MAX), None), Ok(()), "no overflow");
    }

    #[test]
    fn a_token_without_a_subject_or_with_too_much_is_refused() {
        let cam = name("hall", "cam");
        for claims in [
            Claims { sub: "".into(), ..claims() },
            Claims { sub: "a".repeat(257).into(), ..claims() },
            Claims { play: vec!["x".into(); 257], ..claims() },
        ] {
            assert!(matches!(claims.allow(Wish::Play(&cam), NOW), Err(Denied::Malformed(_))));
        }
    }
}
