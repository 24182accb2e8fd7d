//! What can happen to two collections of slices, to a node's pods and to their clients, drawn at random.

use proptest::prelude::*;

#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// The cloud writes a slice, after this many writes of other kinds.
    Write {
        slice: u8,
        skip: u64,
    },
    Delete {
        slice: u8,
        skip: u64,
    },
    /// The upstream watch of a collection brings this many events.
    Deliver {
        of: usize,
        count: usize,
    },
    Bookmark(usize),
    Relist(usize),
    /// The collection is filled whatever it holds.
    Reset(usize),
    /// The kubelet patches a pod's status while cut.
    Patch {
        pod: u8,
        ip: Option<u8>,
        ready: bool,
    },
    /// The cloud learns of the pod.
    Know {
        pod: u8,
    },
    /// The link stands for long enough to end the overlay.
    Outlast,
    /// The hub is killed and starts again.
    Restart,
    Open {
        of: usize,
        streamed: bool,
    },
    /// A client that lists at the cloud and watches here.
    OpenFromCloud(usize),
    Read {
        client: usize,
        frames: usize,
    },
    /// A client's connection breaks; it comes again, perhaps to another collection.
    Cut {
        client: usize,
        to: usize,
    },
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        10 => (0..4u8, 1..4u64).prop_map(|(slice, skip)| Op::Write { slice, skip }),
        3 => (0..4u8, 1..4u64).prop_map(|(slice, skip)| Op::Delete { slice, skip }),
        8 => (0..2usize, 1..5usize).prop_map(|(of, count)| Op::Deliver { of, count }),
        3 => (0..2usize).prop_map(Op::Bookmark),
        2 => (0..2usize).prop_map(Op::Relist),
        1 => (0..2usize).prop_map(Op::Reset),
        8 => (0..3u8, proptest::option::weighted(0.8, 1..4u8), any::<bool>())
            .prop_map(|(pod, ip, ready)| Op::Patch { pod, ip, ready }),
        3 => (0..3u8).prop_map(|pod| Op::Know { pod }),
        1 => Just(Op::Outlast),
        1 => Just(Op::Restart),
        4 => (0..2usize, any::<bool>()).prop_map(|(of, streamed)| Op::Open { of, streamed }),
        1 => (0..2usize).prop_map(Op::OpenFromCloud),
        8 => (0..8usize, 1..6usize).prop_map(|(client, frames)| Op::Read { client, frames }),
        4 => (0..8usize, 0..2usize).prop_map(|(client, to)| Op::Cut { client, to }),
    ]
}
