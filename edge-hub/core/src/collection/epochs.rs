//! The inputs of a collection's filters, and from which of its resource versions on which of them counted.

use std::collections::VecDeque;
use std::sync::Arc;

use proto_kube::gvr::GroupVersionResource;
use serde::{Deserialize, Serialize};

use crate::filter::{Chain, Inputs};
use crate::record::{self, DamagedRecord};

/// Former inputs remembered; a client from before them starts over.
const FORMER_INPUTS: usize = 8;
/// Bytes of the record that a restart reads; former inputs beyond that are not kept.
const RECORD_BYTES: usize = 256 * 1024;

/// Inputs, and the versions of the collection from and until which they counted. Both ends belong to them, because
/// nobody knows whether a client at the last version was already told of the change.
type Span<I> = (I, u64, u64);

/// The inputs of a collection's filters, and the ones before.
#[derive(Debug)]
pub(crate) struct Epochs {
    pub(super) current: Arc<Inputs>,
    /// Resource version of the collection when they took effect.
    since: u64,
    former: VecDeque<Span<Arc<Inputs>>>,
    /// The highest version at which a client was given what these filters made of the cloud's own answer.
    pub(super) told: u64,
}

/// [`Epochs`] as they are stored.
#[derive(Serialize, Deserialize)]
struct Record<I> {
    current: I,
    since: u64,
    former: Vec<Span<I>>,
}

impl Epochs {
    pub(super) fn new(inputs: Arc<Inputs>, since: u64) -> Self {
        Self { current: inputs, since, former: VecDeque::new(), told: 0 }
    }

    pub(super) fn change(&mut self, inputs: Arc<Inputs>, now: u64) {
        let now = now.max(self.told);
        let former = std::mem::replace(&mut self.current, inputs);
        self.former.push_back((former, self.since, now));
        self.since = now;
        if self.former.len() > FORMER_INPUTS {
            self.former.pop_front();
        }
    }

    pub(super) fn record(&self, gvr: &GroupVersionResource) -> Option<Vec<u8>> {
        let former = self.former.iter().map(|(inputs, from, until)| (inputs.only_for(gvr), *from, *until));
        let (current, mut former) = (self.current.only_for(gvr), former.collect::<Vec<Span<Inputs>>>());
        loop {
            let former_now = former.iter().map(|(inputs, from, until)| (inputs, *from, *until)).collect();
            let record = Record { current: &current, since: self.since, former: former_now };
            let text = record::encode(&record, b"");
            if text.len() <= RECORD_BYTES {
                return Some(text);
            }
            if former.is_empty() {
                return None;
            }
            former.remove(0);
        }
    }

    pub(super) fn restore(text: &[u8]) -> Result<Self, DamagedRecord> {
        let (record, _) = record::decode::<Record<Inputs>>(text)?;
        let former = record.former.into_iter().map(|(inputs, from, until)| (Arc::new(inputs), from, until));
        Ok(Self {
            current: Arc::new(record.current),
            since: record.since,
            former: former.collect(),
            told: record.since,
        })
    }

    pub(crate) fn current(&self) -> &Arc<Inputs> {
        &self.current
    }

    pub(crate) fn since(&self) -> u64 {
        self.since
    }

    /// The inputs under which a client of this chain may have got what it holds at this version, oldest first: those
    /// that counted then and all since, because a slow reader is sent what is old under the inputs of the day. Empty
    /// when they are not known any more, or when nothing was shown then.
    pub(crate) fn at(&self, version: u64, chain: &Chain) -> Vec<Arc<Inputs>> {
        let former = self.former.iter().filter(|(_, _, until)| version <= *until);
        let spans = former.map(|(inputs, from, _)| (inputs, *from)).chain([(&self.current, self.since)]);
        let mut shown = spans.filter(|(inputs, _)| can_show(chain, inputs)).peekable();
        match shown.peek() {
            Some((_, from)) if *from <= version => shown.map(|(inputs, _)| Arc::clone(inputs)).collect(),
            _ => Vec::new(),
        }
    }

    /// The inputs that counted at this version in the end; `None` when they are not known, or nothing was shown then.
    pub(super) fn counted_at(&self, version: u64, chain: &Chain) -> Option<&Arc<Inputs>> {
        let former = self.former.iter().rev().find(|(_, from, _)| *from <= version);
        let counted = match former {
            _ if self.since <= version => Some(&self.current),
            former => former.map(|(inputs, ..)| inputs),
        };
        counted.filter(|inputs| can_show(chain, inputs))
    }
}

/// Whether a client of this chain can be shown anything under these inputs.
pub(super) fn can_show(chain: &Chain, inputs: &Inputs) -> bool {
    inputs.is_complete() || !chain.reads_sources()
}
