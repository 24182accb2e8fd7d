//! The event ring: the recent history of a collection, read by every watch view through a cursor of its own.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use proto_kube::media_type::{Encoding, Form, Format};
use proto_kube::watch::EventType;

use super::object::Object;

/// Bookkeeping that one event costs beside the bytes of its objects; rounded up.
const EVENT_OVERHEAD: usize = 256;

/// One change of one object, kept for the views that have not read it yet.
#[derive(Debug)]
pub struct RingEvent {
    /// Position in the collection's history in this process; each event has the next number.
    pub sequence: u64,
    /// Resource version after the event; rises strictly from event to event.
    pub resource_version: u64,
    /// Added, Modified or Deleted, as an unfiltered view sees it.
    pub event_type: EventType,
    /// State after the event; for Deleted the last state, carrying the deletion's resource version.
    pub object: Arc<Object>,
    /// State before the event; `None` where the key did not exist.
    pub previous: Option<Arc<Object>>,
    /// Monotonic time at which the event became known here.
    pub at: Duration,
    /// What unfiltered views in the collection's own format send of it.
    frame: OnceLock<Bytes>,
    /// What views in the formats made of that one send, by [`place`]; most collections have none.
    derived: OnceLock<Box<[OnceLock<Bytes>; DERIVED_FORMATS]>>,
}

/// Formats that are made of another one: JSON, and metadata alone in both encodings.
const DERIVED_FORMATS: usize = 3;

fn place(derived: Format) -> usize {
    match (derived.encoding, derived.form) {
        (Encoding::Json, Form::PartialMetadata) => 1,
        (Encoding::Json, _) => 0,
        (Encoding::Protobuf, _) => 2,
    }
}

impl RingEvent {
    /// Bytes this event may come to hold: its object, the frame in its own format, and the previous state.
    fn cost(&self) -> usize {
        let previous = self.previous.as_ref().map_or(0, |object| object.raw.len());
        EVENT_OVERHEAD + 2 * self.object.raw.len() + previous
    }

    /// Bytes of the frames that were made in other formats.
    fn derived_bytes(&self) -> usize {
        let frames = self.derived.get().into_iter().flat_map(|frames| frames.iter());
        frames.filter_map(OnceLock::get).map(Bytes::len).sum()
    }
}

/// How much history is kept. The newest event is always kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingLimits {
    /// Events.
    pub events: usize,
    /// Bytes of objects, previous states and encoded frames together.
    pub bytes: usize,
    /// Age of the oldest event.
    pub age: Duration,
    /// How long the events of a relist stay whatever they cost: all of them come at once, and views narrower than
    /// the collection must read them here or start over. They are bounded by the size of the collection.
    pub relist_grace: Duration,
}

impl Default for RingLimits {
    fn default() -> Self {
        Self {
            events: 10_000,
            bytes: 4 << 20,
            age: Duration::from_secs(600),
            relist_grace: Duration::from_secs(30),
        }
    }
}

/// Relists remembered.
const JUMPS: usize = 64;

/// One relist: the history jumped from one state to a later one, and between the two no exact state is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Jump {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// The recent events, oldest first. Sequences are contiguous; resource versions rise strictly.
#[derive(Debug)]
pub(crate) struct Ring {
    limits: RingLimits,
    events: VecDeque<Arc<RingEvent>>,
    next_sequence: u64,
    bytes: usize,
    /// Bytes of derived frames; readers make them, who change nothing else.
    derived_bytes: AtomicUsize,
    /// Every event after this resource version is in the ring.
    floor: u64,
    /// Relists, oldest first; remembered longer than their events.
    jumps: VecDeque<Jump>,
    /// Events from this sequence on stay until the time beside it.
    grace: Option<(u64, Duration)>,
}

impl Ring {
    pub(crate) fn new(limits: RingLimits, floor: u64) -> Self {
        Self {
            limits,
            events: VecDeque::new(),
            next_sequence: 0,
            bytes: 0,
            derived_bytes: AtomicUsize::new(0),
            floor,
            jumps: VecDeque::new(),
            grace: None,
        }
    }

    /// Forgets all events; the history begins anew at `floor`. Sequences go on, so old cursors are seen to be old.
    pub(crate) fn restart(&mut self, floor: u64) {
        self.events.clear();
        self.jumps.clear();
        self.grace = None;
        self.bytes = 0;
        self.derived_bytes = AtomicUsize::new(0);
        self.floor = floor;
    }

    /// Appends an event. `object.resource_version` is the event's, above every earlier one.
    pub(crate) fn push(
        &mut self,
        at: Duration,
        event_type: EventType,
        object: Arc<Object>,
        previous: Option<Arc<Object>>,
    ) {
        let event = RingEvent {
            sequence: self.next_sequence,
            resource_version: object.resource_version,
            event_type,
            object,
            previous,
            at,
            frame: OnceLock::new(),
            derived: OnceLock::new(),
        };
        debug_assert!(self.events.back().is_none_or(|last| last.resource_version < event.resource_version));
        self.next_sequence += 1;
        self.bytes += event.cost();
        self.events.push_back(Arc::new(event));
    }

    /// Notes that the history jumped from one resource version to another, and that the events from `first` on stand
    /// for the jump.
    pub(crate) fn note_jump(&mut self, from: u64, to: u64, first: u64, now: Duration) {
        self.jumps.push_back(Jump { from, to });
        if self.jumps.len() > JUMPS {
            self.jumps.pop_front();
        }
        self.grace = Some((first, now + self.limits.relist_grace));
    }

    /// Drops what exceeds the limits.
    pub(crate) fn trim(&mut self, now: Duration) {
        if self.grace.is_some_and(|(_, until)| until <= now) {
            self.grace = None;
        }
        while self.events.len() > 1 {
            let Some(oldest) = self.events.front() else { break };
            let protected = self.grace.is_some_and(|(first, _)| first <= oldest.sequence);
            let too_much = self.events.len() > self.limits.events || self.bytes() > self.limits.bytes;
            let too_old = now.saturating_sub(oldest.at) > self.limits.age;
            if !(too_old || too_much && !protected) {
                break;
            }
            self.floor = oldest.resource_version;
            self.bytes -= oldest.cost();
            self.derived_bytes.fetch_sub(oldest.derived_bytes(), Ordering::Relaxed);
            self.events.pop_front();
        }
    }

    /// The event with this sequence; `None` when it is not in the ring.
    pub(crate) fn get(&self, sequence: u64) -> Option<&Arc<RingEvent>> {
        let index = sequence.checked_sub(self.first_sequence())?;
        self.events.get(usize::try_from(index).ok()?)
    }

    /// Sequence of the oldest event held, or of the next one when none is.
    pub(crate) fn first_sequence(&self) -> u64 {
        self.events.front().map_or(self.next_sequence, |event| event.sequence)
    }

    /// Sequence that the next event will get.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Sequence of the first event after `resource_version`; `None` when such events may have left the ring.
    pub(crate) fn sequence_after(&self, resource_version: u64) -> Option<u64> {
        if resource_version < self.floor {
            return None;
        }
        let index = self.events.partition_point(|event| event.resource_version <= resource_version);
        Some(self.first_sequence() + u64::try_from(index).ok()?)
    }

    /// The relist that jumped over `resource_version`.
    pub(crate) fn jump_over(&self, resource_version: u64) -> Option<Jump> {
        let over = |jump: &&Jump| jump.from < resource_version && resource_version < jump.to;
        self.jumps.iter().find(over).copied()
    }

    /// Whether an event had exactly this version.
    pub(crate) fn has_event_at(&self, resource_version: u64) -> bool {
        self.events.binary_search_by_key(&resource_version, |event| event.resource_version).is_ok()
    }

    /// Events after `resource_version`, newest first; `None` when the ring cannot tell the exact state at that point.
    pub(crate) fn undo_to(&self, resource_version: u64) -> Option<impl Iterator<Item = &Arc<RingEvent>>> {
        if resource_version < self.floor || self.jump_over(resource_version).is_some() {
            return None;
        }
        Some(self.events.iter().rev().take_while(move |event| event.resource_version > resource_version))
    }

    /// Events held, oldest first.
    pub(crate) fn events(&self) -> impl Iterator<Item = &Arc<RingEvent>> {
        self.events.iter()
    }

    /// The event as an unfiltered view sends it, in a derived format or (`None`) in the collection's own: made by the
    /// first that asks, kept for all others.
    ///
    /// # Errors
    /// Whatever `make` gives.
    pub(crate) fn frame<E>(
        &self,
        event: &RingEvent,
        derived: Option<Format>,
        make: impl FnOnce() -> Result<Bytes, E>,
    ) -> Result<Bytes, E> {
        let slot = match derived {
            None => &event.frame,
            Some(format) => &event.derived.get_or_init(Box::default)[place(format)],
        };
        if let Some(made) = slot.get() {
            return Ok(made.clone());
        }
        let made = make()?;
        if slot.set(made.clone()).is_ok() && derived.is_some() {
            self.derived_bytes.fetch_add(made.len(), Ordering::Relaxed);
        }
        Ok(made)
    }

    /// Bytes held, as the limits count them.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes + self.derived_bytes.load(Ordering::Relaxed)
    }

    /// Events held.
    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }
}
