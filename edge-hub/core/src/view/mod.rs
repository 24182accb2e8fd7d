//! The watch view: one client's stream as a cursor into a collection.
//!
//! A view owns no queue. It reads the collection's event ring at its own pace, so a slow reader costs nothing and
//! blocks nobody; one that falls off the ring is led on by `resume` where that is honest, and told 410 where not.

mod frame;
mod resume;
mod switch;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto_kube::media_type::Format;
use proto_kube::status::Status;
use proto_kube::watch::EventType;

use crate::clock::Now;
use crate::collection::{Collection, Lens, Object, Refusal, RingEvent, Selection, with_version};
use crate::filter::{Chain, FilterError, Inputs};
use crate::projection::ProjectionError;
use frame::Encoder;
use resume::{Replayed, replay_since};
use switch::switch;

/// Time between two bookmarks of a quiet stream.
pub const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);
/// How long before its end a stream gets a last bookmark.
pub const LAST_BOOKMARK: Duration = Duration::from_secs(2);
/// A stream that ends earlier makes client libraries start over with a full list.
pub const SHORTEST_STREAM: Duration = Duration::from_secs(1);

/// What a client asked for.
#[derive(Clone, Debug)]
pub struct WatchRequest {
    /// Which objects.
    pub selection: Selection,
    /// `None` when absent; 0 is any.
    pub resource_version: Option<u64>,
    /// `sendInitialEvents`, where the client said it.
    pub send_initial_events: Option<bool>,
    /// `allowWatchBookmarks`.
    pub allow_bookmarks: bool,
    /// The stream ends cleanly after this long.
    pub timeout: Duration,
    /// The collection's own format, or one that can be made of it.
    pub format: Format,
}

/// What a stream does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send these bytes: exactly one frame.
    Frame(Bytes),
    /// Nothing to send before the collection's revision changes or this monotonic time comes.
    Idle {
        /// Since the process's origin.
        until: Duration,
    },
    /// End the stream cleanly.
    End,
}

/// What goes out before the events of the ring.
#[derive(Debug)]
enum Backlog {
    /// The state at the time of opening, as ADDED in key order.
    Snapshot { objects: Arc<[Arc<Object>]>, next: usize },
    /// What changed since a version that the ring no longer reaches.
    Replay(std::vec::IntoIter<Replayed>),
    /// What a change of filter inputs changes for the client, as it sees it.
    Switch(std::vec::IntoIter<(EventType, Object)>),
}

/// One client's stream.
#[derive(Debug)]
pub struct WatchView {
    lens: Lens,
    /// Other inputs than the lens's under which the client may have got what it holds.
    doubts: Vec<Arc<Inputs>>,
    encoder: Encoder,
    allow_bookmarks: bool,
    generation: u64,
    backlog: Option<Backlog>,
    /// Resource version of the marked bookmark that follows the snapshot.
    marker: Option<u64>,
    /// Sequence of the next event to read.
    cursor: u64,
    /// The client has, or will have after the backlog, everything up to this resource version; never goes back.
    position: u64,
    /// The client's version was beyond the collection's, and still is.
    is_ahead: bool,
    opened: Duration,
    deadline: Duration,
    last_bookmark: Duration,
    final_bookmark: Option<Duration>,
    relists_seen: u64,
    ended: bool,
}

/// Why a stream breaks off with an ERROR event.
enum Break {
    Refused(Refusal),
    Encode(ProjectionError),
}

impl From<Refusal> for Break {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<ProjectionError> for Break {
    fn from(error: ProjectionError) -> Self {
        Self::Encode(error)
    }
}

impl From<FilterError> for Break {
    fn from(error: FilterError) -> Self {
        Self::Refused(error.into())
    }
}

/// Opens a stream on a collection for a client that sees every object as it is.
///
/// # Errors
/// A [`Refusal`], before anything was sent. `Expired` goes to the client as a 200 with one ERROR event; for
/// `TooLargeResourceVersion` and `Incomplete` the shell may wait for the collection and try again.
pub fn open(collection: &Collection, request: WatchRequest, now: Now) -> Result<WatchView, Refusal> {
    open_filtered(collection, request, Chain::default(), now)
}

/// Opens a stream on a collection for a client behind filters; the empty chain shows every object as it is.
///
/// # Errors
/// As [`open`]. Moreover `Incomplete` while the inputs that the chain reads are not known to the collection, and
/// `Unfilterable` when an object cannot be filtered.
pub fn open_filtered(
    collection: &Collection,
    request: WatchRequest,
    chain: Chain,
    now: Now,
) -> Result<WatchView, Refusal> {
    if !collection.is_complete() {
        return Err(Refusal::Incomplete);
    }
    let lens = Lens::new(collection, &request.selection, chain)?;
    let encoder = Encoder::new(collection.spec(), request.format)?;
    let current = collection.resource_version();
    let mut since = request.resource_version.unwrap_or(0);
    if request.send_initial_events == Some(true) && collection.is_foreign(since) {
        // Not older than what nobody upstream ever reached: the whole state is sent anyway.
        since = 0;
    }
    let opened = now.monotonic;
    let deadline = opened.saturating_add(request.timeout);
    let mut view = WatchView {
        lens,
        doubts: Vec::new(),
        encoder,
        allow_bookmarks: request.allow_bookmarks,
        generation: collection.generation(),
        backlog: None,
        marker: None,
        cursor: collection.ring().next_sequence(),
        position: current,
        is_ahead: since > current,
        opened,
        deadline,
        last_bookmark: opened,
        final_bookmark: Some(deadline.saturating_sub(LAST_BOOKMARK.min(request.timeout / 2))),
        relists_seen: collection.relists(),
        ended: false,
    };
    match (request.send_initial_events, since) {
        (Some(true), _) if since > current => {
            return Err(Refusal::TooLargeResourceVersion { requested: since, current });
        }
        (Some(true), _) => {
            view.backlog = Some(Backlog::Snapshot { objects: collection.snapshot(), next: 0 });
            view.marker = request.allow_bookmarks.then_some(current);
        }
        (None, 0) => view.backlog = Some(Backlog::Snapshot { objects: collection.snapshot(), next: 0 }),
        (Some(false), 0) => {}
        (_, since) => view.start_after(collection, since)?,
    }
    Ok(view)
}

impl WatchView {
    /// The next thing to do. To be called again at once after a frame was taken by the client.
    pub fn poll(&mut self, collection: &Collection, now: Now) -> Step {
        if self.ended {
            return Step::End;
        }
        self.encoder.set_now(now);
        if self.generation != collection.generation() {
            let refusal = Refusal::Expired { requested: self.position, oldest: collection.horizon() };
            return self.break_off(&refusal.into());
        }
        if now.monotonic >= self.deadline {
            self.ended = true;
            return Step::End;
        }
        match self.next_frame(collection, now) {
            Ok(Some(frame)) => Step::Frame(frame),
            Ok(None) => Step::Idle { until: self.next_wake(collection) },
            Err(why) => self.break_off(&why),
        }
    }

    /// Ends the stream cleanly as soon as a client can bear it, after a last bookmark; for a shutdown.
    pub fn finish(&mut self, now: Now) {
        self.deadline = self.deadline.min(now.monotonic.max(self.opened + SHORTEST_STREAM) + SHORTEST_STREAM);
        self.final_bookmark = self.final_bookmark.map(|_| now.monotonic);
    }

    /// Everything up to this resource version was delivered, or will be with the backlog.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    fn next_frame(&mut self, collection: &Collection, now: Now) -> Result<Option<Bytes>, Break> {
        if self.is_ahead {
            self.await_collection(collection)?;
        }
        loop {
            if let Some(frame) = self.next_of_backlog(collection)? {
                return Ok(Some(frame));
            }
            if let Some(version) = self.marker.take() {
                self.last_bookmark = now.monotonic;
                return Ok(Some(self.encoder.bookmark(collection.envelope(), version, true)));
            }
            if self.take_over_inputs(collection)? {
                continue;
            }
            let ring = collection.ring();
            if let Some(event) = ring.get(self.cursor) {
                self.cursor += 1;
                if self.is_ahead && collection.is_own(event.resource_version) {
                    // It has what upstream told until then, but not what the hub said meanwhile.
                    return Err(
                        Refusal::Expired { requested: self.position, oldest: collection.horizon() }.into()
                    );
                }
                if event.resource_version <= self.position {
                    continue;
                }
                self.position = event.resource_version;
                if let Some(frame) = self.translate(collection, event)? {
                    return Ok(Some(frame));
                }
            } else if self.cursor < ring.next_sequence() {
                self.continue_after(collection, self.position)?;
            } else {
                return Ok(self.bookmark_if_due(collection, now));
            }
        }
    }

    /// Starts a client that says that it has everything up to `since`.
    ///
    /// A version that a relist jumped over is good only if it came from this collection: then it is an event's own. A
    /// client that got it elsewhere may hold objects that came and went unseen here, whose end nobody would tell it.
    fn start_after(&mut self, collection: &Collection, since: u64) -> Result<(), Refusal> {
        if collection.is_foreign(since) {
            return Err(Refusal::Expired { requested: since, oldest: collection.resource_version() });
        }
        if let Some(jump) = collection.ring().jump_over(since)
            && !collection.has_told(since)
        {
            return Err(Refusal::Expired { requested: since, oldest: jump.to });
        }
        let Some(epochs) = collection.epochs().filter(|_| self.lens.reads_inputs()) else {
            return self.continue_after(collection, since);
        };
        let expired = || Refusal::Expired { requested: since, oldest: epochs.since() };
        let mut held_under = epochs.at(since, self.lens.chain());
        let oldest = if held_under.is_empty() { return Err(expired()) } else { held_under.remove(0) };
        self.lens = self.lens.under(&oldest);
        self.doubts = held_under;
        self.continue_after(collection, since)?;
        // Cut in a replay past the change of inputs, the client would come back as one that was told of it.
        if self.backlog.is_some() && self.is_outdated(collection) && self.position > epochs.since() {
            return Err(expired());
        }
        Ok(())
    }

    /// Whether the client may hold what it got under other inputs than those of now.
    fn is_outdated(&self, collection: &Collection) -> bool {
        self.lens.reads_inputs()
            && collection
                .epochs()
                .is_some_and(|epochs| !self.doubts.is_empty() || !self.lens.is_under(epochs.current()))
    }

    /// Takes over the inputs of now, with the events that tell the client what they change; false where they are the
    /// ones it knows. Before that, nothing from after the change was sent, so a client that resumes from after it
    /// knows of it.
    fn take_over_inputs(&mut self, collection: &Collection) -> Result<bool, Break> {
        // Ahead of the collection no state is known; it has nothing to send before it has come that far.
        let epochs = collection.epochs().filter(|_| !self.is_ahead && self.is_outdated(collection));
        let Some(epochs) = epochs else { return Ok(false) };
        let ring = collection.ring();
        if let Some(jump) = ring.jump_over(self.position) {
            match ring.get(self.cursor) {
                // Amid the events of a relist no state is known; they came before the change.
                Some(event) if event.resource_version <= jump.to => return Ok(false),
                // What comes next is not before the change. The client was told all of the relist, and stands at its
                // end.
                Some(_) => self.position = jump.to,
                None if self.cursor == ring.next_sequence() => self.position = jump.to,
                None => {}
            }
        }
        let mut former = std::mem::take(&mut self.doubts);
        former.extend(self.lens.inputs().cloned());
        let events = switch(collection, &self.lens, &former, epochs.current(), self.position)?;
        self.lens = self.lens.under(epochs.current());
        self.backlog = Some(Backlog::Switch(events.into_iter()));
        Ok(true)
    }

    /// Places the cursor right after `since`, with a replay where the ring does not reach back.
    fn continue_after(&mut self, collection: &Collection, since: u64) -> Result<(), Refusal> {
        self.position = since;
        if let Some(sequence) = collection.ring().sequence_after(since) {
            self.cursor = sequence;
            return Ok(());
        }
        let replay = replay_since(collection, &self.lens, since)?;
        self.backlog = Some(Backlog::Replay(replay.into_iter()));
        self.position = collection.resource_version();
        self.cursor = collection.ring().next_sequence();
        Ok(())
    }

    /// Waits for the collection to reach a client that is ahead of it, by events: its version came from elsewhere, so a
    /// relist that jumps over it ends the stream.
    fn await_collection(&mut self, collection: &Collection) -> Result<(), Refusal> {
        if collection.upstream_version() < self.position && !collection.is_foreign(self.position) {
            return Ok(());
        }
        self.is_ahead = false;
        if collection.is_foreign(self.position) {
            return Err(Refusal::Expired { requested: self.position, oldest: collection.horizon() });
        }
        match collection.ring().jump_over(self.position) {
            Some(jump) => Err(Refusal::Expired { requested: self.position, oldest: jump.to }),
            None => Ok(()),
        }
    }

    fn next_of_backlog(&mut self, collection: &Collection) -> Result<Option<Bytes>, Break> {
        let envelope = collection.envelope();
        match &mut self.backlog {
            None => return Ok(None),
            Some(Backlog::Snapshot { objects, next }) => {
                while let Some(object) = objects.get(*next) {
                    *next += 1;
                    if let Some(seen) = self.lens.see(object)? {
                        return Ok(Some(self.encoder.encode(envelope, EventType::Added, &seen.raw)?));
                    }
                }
            }
            Some(Backlog::Replay(events)) => {
                for (event_type, object) in events {
                    // Only what the client sees was put there, but a filter decides how.
                    if let Some(seen) = self.lens.see(&object)? {
                        return Ok(Some(self.encoder.encode(envelope, event_type, &seen.raw)?));
                    }
                }
            }
            Some(Backlog::Switch(events)) => {
                if let Some((event_type, object)) = events.next() {
                    return Ok(Some(self.encoder.encode(envelope, event_type, &object.raw)?));
                }
            }
        }
        self.backlog = None;
        Ok(None)
    }

    /// The event as this client sees it: entering its selector or coming out of hiding is ADDED, leaving or
    /// being hidden is DELETED with the last state that it saw, carrying the new resource version.
    fn translate(&mut self, collection: &Collection, event: &RingEvent) -> Result<Option<Bytes>, Break> {
        let (envelope, format) = (collection.envelope(), collection.spec().format);
        let is_deletion = event.event_type == EventType::Deleted;
        let before = match &event.previous {
            Some(previous) => self.lens.see(previous)?,
            None => None,
        };
        let after = if is_deletion { None } else { self.lens.see(&event.object)? };
        let frame = match (before, after) {
            (None, None) => return Ok(None),
            (Some(before), Some(after))
                if self.lens.is_quiet()
                    && with_version(format, &before, after.resource_version).as_ref() == Some(&*after) =>
            {
                return Ok(None);
            }
            (Some(_), Some(Cow::Borrowed(_))) => self.encoder.event(collection, event)?,
            (None, Some(Cow::Borrowed(_))) if event.event_type == EventType::Added => {
                self.encoder.event(collection, event)?
            }
            (None, Some(after)) => self.encoder.encode(envelope, EventType::Added, &after.raw)?,
            (Some(_), Some(after)) => self.encoder.encode(envelope, EventType::Modified, &after.raw)?,
            (Some(Cow::Borrowed(_)), None) if is_deletion && self.lens.leaves(&event.object)? => {
                self.encoder.event(collection, event)?
            }
            (Some(before), None) => {
                let left = with_version(format, &before, event.resource_version).ok_or_else(|| {
                    Refusal::Expired { requested: self.position, oldest: collection.resource_version() }
                })?;
                self.encoder.encode(envelope, EventType::Deleted, &left.raw)?
            }
        };
        Ok(Some(frame))
    }

    /// Called when everything was delivered, so the collection's resource version is the client's, unless the
    /// client is ahead of the collection.
    fn bookmark_if_due(&mut self, collection: &Collection, now: Now) -> Option<Bytes> {
        let current = collection.resource_version();
        if current < self.position {
            return None;
        }
        self.position = current;
        if !self.allow_bookmarks {
            return None;
        }
        let is_last = self.final_bookmark.is_some_and(|at| at <= now.monotonic);
        let after_relist = self.relists_seen != collection.relists();
        if !is_last && !after_relist && now.monotonic < self.last_bookmark + BOOKMARK_PERIOD {
            return None;
        }
        if is_last {
            self.final_bookmark = None;
        }
        self.relists_seen = collection.relists();
        self.last_bookmark = now.monotonic;
        Some(self.encoder.bookmark(collection.envelope(), current, false))
    }

    fn next_wake(&self, collection: &Collection) -> Duration {
        if !self.allow_bookmarks || collection.resource_version() < self.position {
            return self.deadline;
        }
        let periodic = self.last_bookmark + BOOKMARK_PERIOD;
        let next = self.final_bookmark.map_or(periodic, |last| last.min(periodic));
        next.min(self.deadline)
    }

    fn break_off(&mut self, why: &Break) -> Step {
        self.ended = true;
        let status = match why {
            Break::Refused(refusal) => refusal.status(),
            Break::Encode(error) => Status::internal(&format!("a cached object cannot be encoded: {error}")),
        };
        Step::Frame(self.encoder.error(&status))
    }
}
