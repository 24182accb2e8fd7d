//! What can happen to a collection and its clients, drawn at random.

use edge_hub_core::collection::Selection;
use proptest::prelude::*;

use crate::support::labelled;

#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// Create or update a pod upstream.
    Write {
        name: u8,
        app: u8,
        skip: u64,
    },
    /// Delete it upstream.
    Delete {
        name: u8,
        skip: u64,
    },
    /// The upstream watch brings this many events.
    Deliver(usize),
    /// The upstream watch says that it is up to date.
    Bookmark,
    /// The upstream watch was reset to an older version and brings known events again.
    Redeliver(usize),
    /// History upstream is compacted: the hub lists.
    Relist,
    /// A lagging replica answers a list.
    OldRelist,
    /// The hub stops and starts.
    Restart,
    /// A client comes.
    Open {
        kind: Kind,
        streamed: bool,
    },
    /// A client comes that got its state from the API server itself, which may be ahead of the hub. When a relist jumps
    /// over its version, 410 is the honest word.
    OpenAhead(Kind),
    /// A client reads some frames.
    Read {
        client: usize,
        frames: usize,
    },
    /// A client's connection breaks; it resumes.
    Cut(usize),
    Wait(u64),
    /// A list of exactly this far back.
    Exact {
        back: u64,
        kind: Kind,
    },
}

/// Which pods a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    All,
    AppA,
    Name,
}

impl Kind {
    pub(crate) fn selection(self) -> Selection {
        match self {
            Self::All => Selection::default(),
            Self::AppA => labelled("app=a"),
            Self::Name => Selection { name: Some("p0".into()), ..Selection::default() },
        }
    }

    pub(crate) fn wants(self, name: &str, app: &str) -> bool {
        match self {
            Self::All => true,
            Self::AppA => app == "a",
            Self::Name => name == "p0",
        }
    }
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::All), Just(Kind::AppA), Just(Kind::Name)]
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (0..5u8, 0..2u8, 1..3u64).prop_map(|(name, app, skip)| Op::Write { name, app, skip }),
        6 => (0..5u8, 1..3u64).prop_map(|(name, skip)| Op::Delete { name, skip }),
        8 => (1..6usize).prop_map(Op::Deliver),
        2 => Just(Op::Bookmark),
        1 => (1..4usize).prop_map(Op::Redeliver),
        2 => Just(Op::Relist),
        1 => Just(Op::OldRelist),
        1 => Just(Op::Restart),
        3 => (kind(), any::<bool>()).prop_map(|(kind, streamed)| Op::Open { kind, streamed }),
        2 => kind().prop_map(Op::OpenAhead),
        8 => (0..8usize, 1..6usize).prop_map(|(client, frames)| Op::Read { client, frames }),
        2 => (0..8usize).prop_map(Op::Cut),
        2 => (1..90u64).prop_map(Op::Wait),
        2 => (0..12u64, kind()).prop_map(|(back, kind)| Op::Exact { back, kind }),
    ]
}
