//! One watch stream: what it has sent, what it owes, when it wants to be looked at again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use crate::encoding::{Form, Format};
use crate::options::ListOptions;
use crate::resource::ResourceKind;
use crate::server::Cloud;
use crate::status::Status;
use crate::store::{Event, EventType};

/// Time between bookmarks.
pub(crate) const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);
/// A last bookmark goes out so long before the deadline.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);
/// A replica waits so long to become fresh enough.
const FRESH_WAIT: Duration = Duration::from_secs(3);
/// Length of a watch without `timeoutSeconds`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    /// The replica has to reach a revision before the initial events may go out.
    Fresh { revision: u64, until: Duration },
    /// Events after `sent`.
    Live,
    /// Nothing more.
    Ended,
}

/// The state of one watch; poll it whenever the cloud or the clock moved.
#[derive(Debug)]
pub struct WatchCursor {
    kind: ResourceKind,
    format: Format,
    replica: usize,
    namespace: Option<String>,
    options: ListOptions,
    phase: Phase,
    sent: u64,
    marks: bool,
    columns_sent: bool,
    next_bookmark: Duration,
    deadline: Duration,
    bookmarks_asked: u64,
    definition: u64,
    refusal: Option<Status>,
}

impl WatchCursor {
    pub(crate) fn new(
        cloud: &Cloud,
        now: Duration,
        replica: usize,
        kind: &ResourceKind,
        format: Format,
        namespace: Option<String>,
        options: ListOptions,
    ) -> Self {
        let visible = cloud.visible(replica);
        let deadline = now + options.timeout.unwrap_or(DEFAULT_TIMEOUT);
        let until = now + FRESH_WAIT;
        let requested = options.resource_version;
        let mut refusal = None;
        // What the stream starts with: RunWatchSemantics of the API server in five lines.
        let (phase, sent) = match (requested, options.send_initial_events) {
            (Some(n @ 1..), None | Some(false)) if n < cloud.store().compacted() => {
                refusal = Some(Status::expired_watch(n, cloud.store().compacted()));
                (Phase::Live, n)
            }
            (Some(n @ 1..), None | Some(false)) => (Phase::Live, n),
            (_, Some(false)) => (Phase::Live, visible),
            (Some(0), _) => (Phase::Fresh { revision: 0, until }, 0),
            (Some(n), Some(true)) => (Phase::Fresh { revision: n, until }, 0),
            (_, _) => (Phase::Fresh { revision: cloud.store().revision(), until }, 0),
        };
        let marks = options.send_initial_events == Some(true) && options.allow_bookmarks;
        Self {
            kind: kind.clone(),
            format,
            replica,
            namespace,
            options,
            phase,
            sent,
            marks,
            columns_sent: false,
            next_bookmark: now + BOOKMARK_PERIOD,
            deadline,
            bookmarks_asked: cloud.bookmarks_asked(),
            definition: cloud.registry().definition(&kind.gvr),
            refusal,
        }
    }

    /// True once nothing more will come.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// True until the stream has been given the state that it begins with; false at once if it begins with none.
    #[must_use]
    pub fn is_starting(&self) -> bool {
        matches!(self.phase, Phase::Fresh { .. })
    }

    /// When the clock alone will make the next frame due.
    #[must_use]
    pub fn wake_at(&self) -> Duration {
        let mut wake = self.deadline;
        if let Phase::Fresh { until, .. } = self.phase {
            wake = wake.min(until);
        }
        if self.options.allow_bookmarks { wake.min(self.next_bookmark) } else { wake }
    }

    /// End the stream without a further frame.
    pub fn end(&mut self) {
        self.phase = Phase::Ended;
    }

    /// The frame that ends a stream with an error.
    pub fn error(&mut self, status: &Status) -> Bytes {
        self.phase = Phase::Ended;
        self.format.error(status)
    }

    /// A bookmark frame for right now, whatever the client asked for; faults cut it in half.
    #[must_use]
    pub fn spare_frame(&self, now: Duration) -> Bytes {
        self.format.bookmark(&self.kind, self.sent, false, now, false)
    }

    /// The frames that are due.
    pub fn poll(&mut self, cloud: &Cloud, now: Duration) -> Vec<Bytes> {
        let mut frames = Vec::new();
        if self.is_ended() {
            return frames;
        }
        if cloud.registry().definition(&self.kind.gvr) != self.definition {
            // The server makes the storage of the kind anew, and the watches of the former one end.
            self.phase = Phase::Ended;
            return frames;
        }
        if let Some(status) = self.refusal.take() {
            frames.push(self.error(&status));
            return frames;
        }
        let visible = cloud.visible(self.replica);
        if let Phase::Fresh { revision, until } = self.phase {
            if visible >= revision {
                self.initial(cloud, visible, now, &mut frames);
            } else if now >= until {
                frames.push(self.error(&Status::too_large_resource_version(revision, visible)));
                return frames;
            }
        }
        if self.phase == Phase::Live {
            self.changes(cloud, visible, now, &mut frames);
            self.bookmarks(cloud, now, &mut frames);
        }
        if self.format.form == Form::PartialMetadataList && !frames.is_empty() {
            // The server cannot write a single object as a list of metadata, and ends.
            self.phase = Phase::Ended;
            return Vec::new();
        }
        if now >= self.deadline {
            self.phase = Phase::Ended;
        }
        frames
    }

    fn initial(&mut self, cloud: &Cloud, visible: u64, now: Duration, frames: &mut Vec<Bytes>) {
        let snapshot = cloud.store().snapshot(&self.kind.gvr, visible).unwrap_or_default();
        for (key, object) in &snapshot {
            if self.selects(&key.0, object) {
                frames.push(self.frame("ADDED", object, now));
            }
        }
        self.sent = visible;
        self.phase = Phase::Live;
        if self.marks {
            let columns = std::mem::replace(&mut self.columns_sent, true);
            frames.push(self.format.bookmark(&self.kind, visible, true, now, !columns));
        }
    }

    fn changes(&mut self, cloud: &Cloud, visible: u64, now: Duration, frames: &mut Vec<Bytes>) {
        if self.sent < cloud.store().compacted() && self.sent < visible {
            // The stream lagged behind a compaction: its history is gone.
            let status = Status::expired_watch(self.sent, cloud.store().compacted());
            frames.push(self.error(&status));
            return;
        }
        for event in cloud.store().events(&self.kind.gvr, self.sent, visible) {
            if let Some((event_type, object)) = self.project(event) {
                frames.push(self.frame(event_type, &object, now));
            }
        }
        self.sent = self.sent.max(visible);
    }

    fn bookmarks(&mut self, cloud: &Cloud, now: Duration, frames: &mut Vec<Bytes>) {
        let asked =
            std::mem::replace(&mut self.bookmarks_asked, cloud.bookmarks_asked()) != cloud.bookmarks_asked();
        if !self.options.allow_bookmarks || self.is_ended() || !(asked || now >= self.next_bookmark) {
            return;
        }
        let last = self.deadline.saturating_sub(LAST_BOOKMARK);
        self.next_bookmark = now + BOOKMARK_PERIOD;
        if now < last {
            self.next_bookmark = self.next_bookmark.min(last);
        }
        let columns = std::mem::replace(&mut self.columns_sent, true);
        frames.push(self.format.bookmark(&self.kind, self.sent, false, now, !columns));
    }

    /// The event as this stream's selectors see it.
    fn project(&self, event: &Event) -> Option<(&'static str, Arc<Value>)> {
        let namespace = &event.key.0;
        let before = event.previous.as_ref().filter(|p| self.selects(namespace, p));
        if event.event_type == EventType::Deleted {
            return before.map(|_| ("DELETED", event.object.clone()));
        }
        match (before, self.selects(namespace, &event.object)) {
            (Some(_), true) => Some(("MODIFIED", event.object.clone())),
            (None, true) => Some(("ADDED", event.object.clone())),
            (Some(previous), false) => {
                let mut last = (**previous).clone();
                last["metadata"]["resourceVersion"] = event.revision.to_string().into();
                Some(("DELETED", Arc::new(last)))
            }
            (None, false) => None,
        }
    }

    fn selects(&self, namespace: &str, object: &Value) -> bool {
        self.namespace.as_ref().is_none_or(|n| n == namespace)
            && self.options.labels.matches(object)
            && self.options.fields.matches(object)
    }

    fn frame(&mut self, event_type: &str, object: &Value, now: Duration) -> Bytes {
        let columns =
            matches!(self.format.form, Form::Table(_)) && !std::mem::replace(&mut self.columns_sent, true);
        self.format.event(&self.kind, event_type, object, now, columns)
    }
}
