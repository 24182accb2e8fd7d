//! The pure core of the media engine: rooms, sessions, tokens' claims and what is forwarded to whom. No clock, no socket.
//!
//! Times are [`std::time::Duration`]s since the engine's start; the shell brings them, the randomness and every packet.

pub mod admission;
pub mod cache;
pub mod claims;
pub mod forward;
pub mod keyframe;
pub mod layer;
pub mod offer;
pub mod room;
pub mod sdpfrag;
pub mod session;
pub mod state;
pub mod whip;

/// Which of the two a track is. A stream has at most one of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrackKind {
    /// Sound.
    Audio,
    /// Pictures.
    Video,
}

impl TrackKind {
    /// Both, sound first.
    pub const ALL: [Self; 2] = [Self::Audio, Self::Video];
}

/// Whether a session brings media or takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// By WHIP.
    Publisher,
    /// By WHEP.
    Viewer,
}

impl Role {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Publisher, Self::Viewer];

    /// The word for logs, metrics and status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publisher => "publisher",
            Self::Viewer => "viewer",
        }
    }
}

/// One session of one engine: 128 random bits, which is all that its owner has to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u128);

impl SessionId {
    /// The id as a path of the engine names it: 32 hex digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        digits.then(|| u128::from_str_radix(text, 16).ok()).flatten().map(Self)
    }
}

impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A stream by its room and its name, each of `[A-Za-z0-9._-]{1,64}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamName {
    /// The room.
    pub room: Box<str>,
    /// The stream in it.
    pub stream: Box<str>,
}

impl std::fmt::Display for StreamName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.room, self.stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written_and_nothing_else_is() {
        let id = SessionId(0x0123_4567);
        assert_eq!(SessionId::parse(&id.to_string()), Some(id));
        for wrong in ["", "12", "+0000000000000000000000000000001", "0000000000000000000000000000000G"] {
            assert_eq!(SessionId::parse(wrong), None, "{wrong}");
        }
    }
}
