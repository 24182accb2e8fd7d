//! The pool's copy of one kind: the objects, and by version what happened since the copy began, so that a member can go
//! on from any state that it holds.
//!
//! Bytes and versions are the API server's own. The history is kept per object: its newest state, and each of its ends.
//! It is bounded; a member that was away for longer is given the whole state, which costs the LAN and not the link.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use proto_kube::object::ObjectKey;

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `metadata.resourceVersion`; `raw` carries the same.
    pub version: u64,
    /// As the API server sent it.
    pub raw: Bytes,
}

/// What a kind is called: the same for every object of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// `apiVersion` of one object.
    pub api_version: Box<str>,
    /// `kind` of one object.
    pub kind: Box<str>,
    /// `kind` of their list.
    pub list_kind: Box<str>,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It is now as said.
    Put,
    /// It is gone; its last state carries the version of its end.
    Deleted,
}

/// How much of the past is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Ends of objects.
    pub ends: usize,
    /// Bytes of their last states.
    pub end_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { ends: 4096, end_bytes: 4 << 20 }
    }
}

/// A list that is older than what is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the list at resource version {offered} is older than what is held, {held}")]
pub struct Older {
    /// Version of the copy.
    pub held: u64,
    /// Version of the list.
    pub offered: u64,
}

#[derive(Debug)]
struct Held {
    version: u64,
    raw: Bytes,
}

/// The copy.
#[derive(Debug)]
pub struct Replica {
    envelope: Envelope,
    objects: BTreeMap<ObjectKey, Held>,
    /// By version: objects that changed after the horizon, as they are now, and the ends of those that are gone.
    log: BTreeMap<(u64, ObjectKey), (What, Bytes)>,
    limits: Limits,
    ends: usize,
    end_bytes: usize,
    bytes: usize,
    version: u64,
    /// Who holds a state from here on can be told what happened since.
    horizon: u64,
    complete: bool,
    /// Rises when the cloud was set back.
    generation: u64,
    /// When the cloud last said something, and when the newest read was asked for that told its very newest state.
    heard_at: Duration,
    consistent_at: Option<Duration>,
    snapshot: OnceLock<Arc<[Bytes]>>,
}

impl Replica {
    /// Nothing is known.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            envelope: Envelope::default(),
            objects: BTreeMap::new(),
            log: BTreeMap::new(),
            limits,
            ends: 0,
            end_bytes: 0,
            bytes: 0,
            version: 0,
            horizon: 0,
            complete: false,
            generation: 0,
            heard_at: Duration::ZERO,
            consistent_at: None,
            snapshot: OnceLock::new(),
        }
    }

    /// Whether this is all of it. Before, nobody is told anything.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The copy is the state at this resource version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Who holds a state at this version or a later one needs no whole state.
    #[must_use]
    pub fn horizon(&self) -> u64 {
        self.horizon
    }

    /// How often the cloud was set back.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What the kind is called.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Bytes of all objects, those of the ends that are remembered not counted.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the cloud last said something.
    pub(crate) fn heard_at(&self) -> Duration {
        self.heard_at
    }

    /// When the newest read was asked for that told the cloud's newest state.
    pub(crate) fn consistent_at(&self) -> Option<Duration> {
        self.consistent_at
    }

    /// A whole list. Where it differs from what is held nobody knows what happened in between, and members are given the
    /// whole state; where it does not, nothing happened. `asked` is when the list was asked for, if it is the newest state
    /// of the cloud and not that of a replica which may lag.
    ///
    /// # Errors
    /// [`Older`]; nothing changes then.
    pub fn replace(
        &mut self,
        now: Duration,
        asked: Option<Duration>,
        version: u64,
        envelope: Envelope,
        items: Vec<Item>,
    ) -> Result<(), Older> {
        if self.complete && version < self.version {
            return Err(Older { held: self.version, offered: version });
        }
        let is_news = !self.complete || !self.is_same(&items);
        self.envelope = envelope;
        if is_news {
            self.take(version, items);
        }
        self.version = version;
        self.complete = true;
        self.heard_at = now;
        self.consistent_at = asked.or(self.consistent_at);
        Ok(())
    }

    /// The whole state after the cloud was set back; members are told so.
    pub fn reset(
        &mut self,
        now: Duration,
        asked: Duration,
        version: u64,
        envelope: Envelope,
        items: Vec<Item>,
    ) {
        self.envelope = envelope;
        self.take(version, items);
        self.version = version;
        self.complete = true;
        self.generation += 1;
        self.heard_at = now;
        self.consistent_at = Some(asked);
    }

    fn is_same(&self, items: &[Item]) -> bool {
        let held = |item: &Item| self.objects.get(&item.key).is_some_and(|held| held.version == item.version);
        items.len() == self.objects.len() && items.iter().all(held)
    }

    fn take(&mut self, version: u64, items: Vec<Item>) {
        self.objects.clear();
        self.log.clear();
        (self.ends, self.end_bytes, self.bytes) = (0, 0, 0);
        for item in items {
            // A slice of the list would keep the whole list in memory for as long as one object lives.
            self.put(item.key, item.version, Bytes::copy_from_slice(&item.raw));
        }
        self.horizon = version;
        self.snapshot.take();
    }

    fn put(&mut self, key: ObjectKey, version: u64, raw: Bytes) {
        self.bytes += raw.len();
        if let Some(former) = self.objects.insert(key, Held { version, raw }) {
            self.bytes -= former.raw.len();
        }
    }

    /// One event. What is not newer than the copy was known already.
    pub fn apply(&mut self, now: Duration, what: What, item: Item) {
        self.heard_at = now;
        if !self.complete || item.version <= self.version {
            return;
        }
        self.version = item.version;
        self.snapshot.take();
        let Item { key, version, raw } = item;
        let former = self.objects.get(&key).map(|held| held.version);
        if let Some(former) = former {
            self.log.remove(&(former, key.clone()));
        }
        match what {
            What::Put => {
                self.log.insert((version, key.clone()), (What::Put, raw.clone()));
                self.put(key, version, raw);
            }
            What::Deleted => {
                let Some(held) = self.objects.remove(&key) else { return };
                self.bytes -= held.raw.len();
                (self.ends, self.end_bytes) = (self.ends + 1, self.end_bytes + raw.len());
                self.log.insert((version, key), (What::Deleted, raw));
                self.trim();
            }
        }
    }

    /// Everything up to `version` was said.
    pub fn bookmark(&mut self, now: Duration, version: u64) {
        self.heard_at = now;
        if self.complete {
            self.version = self.version.max(version);
        }
    }

    fn trim(&mut self) {
        while self.ends > self.limits.ends || self.end_bytes > self.limits.end_bytes {
            let Some(((version, _), (what, raw))) = self.log.pop_first() else { return };
            self.horizon = self.horizon.max(version);
            if what == What::Deleted {
                (self.ends, self.end_bytes) = (self.ends - 1, self.end_bytes - raw.len());
            }
        }
    }

    /// What happened after `version`, in order, each with its own version. Whoever holds the state at `version`, which
    /// must not be below the horizon, holds the present one after it.
    pub fn changes_after(&self, version: u64) -> impl Iterator<Item = (u64, What, &Bytes)> {
        // An empty key is the first of the next version.
        let first = ObjectKey { namespace: "".into(), name: "".into() };
        let log = self.log.range((version.saturating_add(1), first)..);
        log.map(|((version, _), (what, raw))| (*version, *what, raw))
    }

    /// All objects as they are now, shared by all who ask at this state.
    #[must_use]
    pub fn snapshot(&self) -> Arc<[Bytes]> {
        let all = || self.objects.values().map(|held| held.raw.clone()).collect();
        Arc::clone(self.snapshot.get_or_init(all))
    }
}
