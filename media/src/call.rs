//! What HTTP and the engine say to each other: offers and their answers, and what there is.

use std::net::IpAddr;

use media_core::{Role, SessionId, StreamName, sdpfrag::Fragment, whip::IfMatch};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::Serialize;

/// An offer that is to be answered. Whoever sends it has checked the token.
#[derive(Debug)]
pub struct Offer {
    /// Publisher or viewer.
    pub role: Role,
    /// Of which stream.
    pub stream: StreamName,
    /// Who asks, as the token says.
    pub subject: Box<str>,
    /// The offer.
    pub sdp: String,
    /// Where the request came from.
    pub address: IpAddr,
}

/// What an offer was answered with.
#[derive(Debug)]
pub struct Opened {
    /// The new session.
    pub session: SessionId,
    /// The SDP answer.
    pub sdp: String,
    /// What stands in the strong `ETag`: it names this ICE session.
    pub tag: String,
}

/// What a PATCH brings. Whoever sends it has checked the token.
#[derive(Debug)]
pub struct Patch {
    /// For which session.
    pub session: SessionId,
    /// Who asks.
    pub subject: Box<str>,
    /// Candidates for the present ICE session, or a restart.
    pub if_match: IfMatch,
    /// The body.
    pub fragment: Fragment,
}

/// What a PATCH was answered with.
#[derive(Debug)]
pub enum Patched {
    /// The candidates were taken in.
    Taken,
    /// ICE begins anew.
    Restarted {
        /// Our new credentials and candidates, as a fragment of SDP.
        fragment: String,
        /// The new tag.
        tag: String,
    },
}

/// A stream as `/streams` and `/status` show it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamStatus {
    /// The room.
    pub room: Box<str>,
    /// Its name.
    pub stream: Box<str>,
    /// Whether its publisher is live.
    pub live: bool,
    /// How many play it.
    pub viewers: usize,
    /// The codecs that its packets have.
    pub codecs: Vec<&'static str>,
}

/// What the worker was doing last.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Sessions of any state.
    pub sessions: usize,
    /// Every stream.
    pub streams: Vec<StreamStatus>,
}

/// 2 to 5 seconds, at random: who was refused at once does not come back at once.
#[must_use]
pub fn retry_after() -> u8 {
    let mut byte = [0];
    // Without randomness all wait alike, which is no harm.
    let _ = SystemRandom::new().fill(&mut byte);
    2 + byte[0] % 4
}
