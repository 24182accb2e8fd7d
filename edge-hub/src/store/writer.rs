//! The store's own thread: takes groups from the queue and makes them durable, and looks after the engine
//! (checkpoints, boot snapshot, compaction, want of space, giving a file up after a failed fsync).

mod room;
mod snapshot;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use edge_hub_core::collection::CollectionSpec;

use super::{
    engine::{Engine, EngineError, Op},
    frames::{FRAME, FrameWriter, Frames},
    index::{Delta, Index},
    key::sync_parent,
    queue::{Group, Shared, Work},
    record::Codec,
    recovery::{
        self, Live, Opened, Paths, applied_op, apply_frames, filled, finish_swap, fresh, fresh_to_fill,
        guarded, journal, journal_key, rebuilding,
    },
    reserve::Reserve,
    seal::SealError,
    types::{BlobClass, StoreOptions},
};

/// Journal bytes after which the engine is made durable.
const CHECKPOINT_BYTES: u64 = 1 << 20;
/// Quiet time after which it is made durable anyway, so that the next open has nothing to replay.
const CHECKPOINT_IDLE: Duration = Duration::from_secs(5);
/// Time between attempts after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Size of the files over live bytes from which they are written anew.
const AMPLIFICATION: u64 = 4;
/// What a record takes beside its own bytes: its key, and its share of sled's nodes. Without it files of many short
/// records would be written anew again and again, for nothing.
const RECORD: u64 = 256;
/// By so much sled's file grows; whatever is written needs this much room.
const SEGMENT: u64 = 1 << 19;
/// Without this much nothing at all is written: sled begins a segment when one is full, and rewrites whole nodes of its
/// tree, large values and all, for the smallest change: a batch of 150 kB was seen to take 1.8 MB. It must never meet the
/// end of the disk: it panics then, or never answers.
const LEAST_ROOM: u64 = 5 * SEGMENT;
/// Room that a commit leaves alone while the reserve is used up: dropping what is evictable may still be written then.
const LAST_GUARD: u64 = 6 * SEGMENT;
/// Room that a commit leaves alone.
const GUARD: u64 = 7 * SEGMENT;
/// What goes first when there is no room, in this order.
const EVICTABLE: [BlobClass; 3] = [BlobClass::Event, BlobClass::Discovery, BlobClass::Single];

/// Why a group is not durable.
#[derive(Debug)]
enum CommitError {
    /// No space; nothing changed.
    Full(String),
    /// The fsync failed: what is in the file now is unknown and stays so.
    Sync(String),
    /// Something else, perhaps gone at the next attempt.
    Other(String),
}

impl From<SealError> for CommitError {
    fn from(error: SealError) -> Self {
        Self::Other(error.to_string())
    }
}

impl From<io::Error> for CommitError {
    fn from(error: io::Error) -> Self {
        match EngineError::from_io(&error) {
            EngineError::Full(why) => Self::Full(why),
            EngineError::Broken(why) => Self::Other(why),
        }
    }
}

/// The state of the thread.
pub(super) struct Writer {
    options: StoreOptions,
    paths: Paths,
    codec: Codec,
    shared: Arc<Shared>,
    reserve: Reserve,
    /// `None` while the engine cannot be opened.
    live: Option<Live>,
    garbage: Vec<Op>,
    repair: bool,
    /// Collections that are not on disk although they were once applied.
    lost: BTreeSet<CollectionSpec>,
    /// What the engine held when it was last closed.
    known: Vec<CollectionSpec>,
    retry: Option<Instant>,
    /// When to try to take the reserve again.
    space_check: Option<Instant>,
    /// When the last group was committed that no checkpoint covers.
    unchecked: Option<Instant>,
    snapshot_due: Option<Instant>,
    last_snapshot: Option<Instant>,
    evictions: u64,
    /// Classes of blobs that were dropped for want of space, to be asked for when there is some.
    dropped: Vec<BlobClass>,
    /// Collections that were, to be asked for at the same time.
    dropped_collections: Vec<CollectionSpec>,
    full: bool,
    lock: File,
}

impl Writer {
    pub(super) fn new(options: StoreOptions, opened: Opened, shared: Arc<Shared>) -> Self {
        let paths = Paths::new(&options.directory);
        let codec = Codec::new(&options.key);
        let quarantined = opened.garbage.len() as u64;
        shared.note(|health| {
            health.quarantined = quarantined;
            health.live_bytes = opened.live.index.live_bytes();
            health.bytes_on_disk = size_of(&paths.engine());
        });
        Self {
            paths,
            codec,
            shared,
            reserve: opened.reserve,
            live: Some(opened.live),
            garbage: opened.garbage,
            repair: opened.repair,
            lost: BTreeSet::new(),
            known: Vec::new(),
            retry: None,
            space_check: None,
            unchecked: None,
            snapshot_due: None,
            last_snapshot: None,
            evictions: 0,
            dropped: Vec::new(),
            dropped_collections: Vec::new(),
            full: false,
            lock: opened.lock,
            options,
        }
    }

    /// Runs until the store is closed.
    pub(super) fn run(mut self) {
        self.settle();
        loop {
            match self.shared.next(self.retry, self.timer()) {
                Work::Commit(group) => {
                    self.shared.busy(true);
                    let went_well = self.commit_or_give_back(group);
                    self.shared.busy(false);
                    if !went_well && self.shared.is_closing() {
                        break;
                    }
                }
                Work::Timer => {
                    self.shared.busy(true);
                    self.on_timer();
                    self.shared.busy(false);
                }
                Work::Close => {
                    self.checkpoint();
                    self.write_snapshot();
                    break;
                }
                Work::Abandon => break,
            }
        }
        self.drop_engine();
        let Self { shared, lock, .. } = self;
        drop(lock);
        shared.closed();
    }

    /// After opening: cut damage out of the engine, and take the reserve.
    fn settle(&mut self) {
        let garbage = std::mem::take(&mut self.garbage);
        if std::mem::take(&mut self.repair) {
            let repaired = self.write_group(0, |live, codec, emit| {
                garbage.into_iter().for_each(&mut *emit);
                live.stage_repair(codec, emit)
            });
            if let Err(error) = repaired {
                self.failed(&error);
            }
        }
        self.take_reserve();
    }

    fn timer(&self) -> Option<Instant> {
        let checkpoint = self.unchecked.map(|since| since + CHECKPOINT_IDLE);
        let reopen = self.retry.filter(|_| self.live.is_none());
        checkpoint.into_iter().chain(self.snapshot_due).chain(reopen).chain(self.space_check).min()
    }

    fn on_timer(&mut self) {
        let now = Instant::now();
        if self.live.is_none() && self.retry.is_some_and(|at| at <= now) {
            self.retry = None;
            self.ensure_engine();
        }
        if self.space_check.is_some_and(|at| at <= now) {
            self.take_reserve();
        }
        if self.unchecked.is_some_and(|since| since + CHECKPOINT_IDLE <= now) {
            self.checkpoint();
        }
        if self.snapshot_due.is_some_and(|at| at <= now) {
            self.write_snapshot();
        }
    }

    fn commit_or_give_back(&mut self, mut group: Group) -> bool {
        let sequence = group.sequence;
        if self.full {
            // What could be dropped again in a moment does not get the last room.
            let before = group.blobs.len();
            group.blobs.retain(|key, value| {
                let kept = value.is_none() || !EVICTABLE.contains(&key.class);
                if !kept && !self.dropped.contains(&key.class) {
                    self.dropped.push(key.class);
                }
                kept
            });
            self.evictions += (before - group.blobs.len()) as u64;
        }
        let mut outcome = self.commit(&group);
        if matches!(outcome, Err(CommitError::Full(_))) {
            outcome = self.commit_in_small_room(&group, outcome);
        }
        match outcome {
            Ok(()) => {
                self.retry = None;
                let (full, evicted) = (self.full, self.evictions);
                self.shared.note(|health| {
                    health.full = full;
                    health.evicted = evicted;
                    health.last_error = None;
                });
                // Before the ticket, so that who waits for it sees that nothing is wanted any more.
                self.refilled(&group);
                self.shared.committed(sequence);
                self.after_commit();
                true
            }
            Err(error) => {
                self.retry = Some(Instant::now() + RETRY);
                self.shared.give_back(group, error.text().to_owned());
                self.failed(&error);
                false
            }
        }
    }

    fn commit(&mut self, group: &Group) -> Result<(), CommitError> {
        // The journal, the engine and its old segments; at most, for much of it will pack.
        let needed = if self.full { LAST_GUARD } else { GUARD } + 3 * group.bytes();
        let room = self.reserve.room();
        if room < needed {
            return Err(CommitError::Full(format!("{room} bytes of room where {needed} are needed")));
        }
        let lost = std::mem::take(&mut self.lost);
        let done = self.write_group(0, |index, codec, emit| index.stage(codec, group, &lost, emit));
        self.lost = lost;
        done
    }

    /// Stages a group, makes it durable in the journal, and brings it into the engine, if there is room for `spare`
    /// bytes beside what sled may take.
    fn write_group(
        &mut self,
        spare: u64,
        stage: impl FnOnce(&Index, &Codec, &mut dyn FnMut(Op)) -> Result<Delta, SealError>,
    ) -> Result<(), CommitError> {
        let room = self.reserve.room();
        let needed = LEAST_ROOM + spare;
        if room < needed {
            return Err(CommitError::Full(format!("{room} bytes of room where {needed} are needed")));
        }
        if !self.ensure_engine() {
            return Err(CommitError::Other("the engine is not open".into()));
        }
        let Some(live) = &mut self.live else {
            return Err(CommitError::Other("the engine is not open".into()));
        };
        let (length, before) = (live.journal.length(), live.journal.sequence());
        let mut small = Some(Vec::new());
        let mut bytes = 0;
        let mut writer = live.journal.group();
        let delta = stage(&live.index, &self.codec, &mut |op| {
            writer.push(&op);
            bytes += op.size();
            if let Some(ops) = small.as_mut().filter(|_| bytes < FRAME) {
                ops.push(op);
            } else {
                small = None;
            }
        });
        let delta = match delta {
            Ok(delta) => delta,
            Err(error) => {
                writer.abandon()?;
                return Err(error.into());
            }
        };
        writer.finish()?;
        if let Err(error) = live.journal.sync() {
            return match CommitError::from(error) {
                // Blocks that were to be found late. What was synced before is not touched by taking this back.
                CommitError::Full(why) => {
                    live.journal.roll_back_to(length, before)?;
                    Err(CommitError::Full(why))
                }
                CommitError::Sync(why) | CommitError::Other(why) => Err(CommitError::Sync(why)),
            };
        }
        live.index.accept(&self.codec, delta);
        // From here on it is durable, whatever the engine says.
        let (engine, journal, codec) = (&mut live.engine, &live.journal, &self.codec);
        let applied = guarded(|| match small {
            Some(mut ops) => {
                ops.push(applied_op(codec, journal.sequence(), &ops)?);
                engine.write(&ops)
            }
            None => {
                let frames =
                    Frames { base: 0, last: journal.sequence(), length: journal.length(), damaged: None };
                let path = recovery::journal(&self.paths.engine());
                apply_frames(&mut **engine, codec, &path, &journal_key(&self.options.key), &frames, before)
            }
        });
        if let Err(error) = applied {
            self.engine_failed(&error);
        }
        self.unchecked = Some(Instant::now());
        Ok(())
    }

    fn after_commit(&mut self) {
        let now = Instant::now();
        if self.snapshot_due.is_none() {
            let due = self.last_snapshot.map_or(now, |last| last + self.options.snapshot_interval);
            self.snapshot_due = Some(due);
        }
        if self.live.as_ref().is_some_and(|live| live.journal.length() > CHECKPOINT_BYTES) {
            self.checkpoint();
        }
    }

    /// Makes the engine durable and begins an empty journal.
    fn checkpoint(&mut self) {
        let Some(live) = &mut self.live else { return };
        self.unchecked = None;
        let (engine, sequence) = (&mut live.engine, live.journal.sequence());
        if let Err(error) = guarded(|| engine.sync()) {
            if matches!(error, EngineError::Full(_)) {
                return self.engine_failed(&error);
            }
            // After a failed fsync the file may lack anything, and a second try would only seem to succeed.
            return self.give_up_file(&error.to_string());
        }
        let path = journal(&self.paths.engine());
        match FrameWriter::create(&path, journal_key(&self.options.key), sequence) {
            Ok(journal) => live.journal = journal,
            // The old one goes on.
            Err(error) => self.shared.note(|health| health.last_error = Some(error.to_string())),
        }
        self.measure_and_compact();
    }

    fn measure_and_compact(&mut self) {
        let Some(live) = &self.live else { return };
        let (on_disk, live_bytes) = (size_of(&self.paths.engine()), live.index.live_bytes());
        let needed = live_bytes + RECORD * live.index.live_records();
        self.shared.note(|health| {
            health.bytes_on_disk = on_disk;
            health.live_bytes = live_bytes;
        });
        if live_bytes > self.options.max_bytes {
            self.evict_one();
        }
        let room = self.reserve.room() > GUARD + 2 * needed;
        if room && on_disk > self.options.compaction_floor && on_disk / AMPLIFICATION > needed {
            self.compact();
        }
    }

    /// Writes everything live into a new engine and swaps the folders. The old one stays until the new is durable.
    fn compact(&mut self) {
        let Some(live) = &mut self.live else { return };
        let next = self.paths.next_engine();
        let sequence = live.journal.sequence();
        let old = &live.engine;
        let copied = guarded(|| {
            let Live { mut engine, journal, .. } =
                fresh(self.options.engine, &self.options.key, &next, sequence)?;
            copy(&**old, &mut *engine)?;
            engine.sync()?;
            drop((engine, journal));
            Ok(())
        });
        if let Err(error) = copied {
            drop(fs::remove_dir_all(&next));
            return self.shared.note(|health| health.last_error = Some(format!("compaction: {error}")));
        }
        self.drop_engine();
        let (engine, former) = (self.paths.engine(), self.paths.former_engine());
        // Between the two renames only `engine.new` exists, and that is what the next open then takes.
        let swapped = fs::rename(&engine, &former)
            .and_then(|()| sync_parent(&engine))
            .and_then(|()| finish_swap(&self.paths));
        if let Err(error) = swapped {
            self.shared.note(|health| health.last_error = Some(format!("compaction: {error}")));
        }
        self.ensure_engine();
        self.shared.note(|health| health.bytes_on_disk = size_of(&engine));
    }

    /// Opens the engine again when it is not open; a broken one is given up.
    fn ensure_engine(&mut self) -> bool {
        if self.live.is_some() {
            return true;
        }
        match recovery::reopen(&self.options) {
            Ok(live) => {
                let suspect: Vec<CollectionSpec> = live.index.suspects().cloned().collect();
                self.lost.extend(suspect.iter().cloned());
                self.shared.want(suspect, &[]);
                self.live = Some(live);
            }
            // On a full disk an engine fails in every way; it is judged when there is room again.
            Err(EngineError::Full(why) | EngineError::Broken(why))
                if self.full || self.reserve.room() < GUARD =>
            {
                self.use_reserve();
                self.retry = Some(Instant::now() + RETRY);
                self.shared.note(|health| health.last_error = Some(why));
            }
            Err(EngineError::Full(why) | EngineError::Broken(why)) => self.give_up_file(&why),
        }
        self.live.is_some()
    }

    /// Closes the engine and remembers what it held.
    fn drop_engine(&mut self) {
        if let Some(live) = self.live.take() {
            self.known = live.index.specs().cloned().collect();
            if let Err(error) = recovery::close(live, &self.options) {
                self.shared.note(|health| health.last_error = Some(format!("closing the engine: {error}")));
            }
        }
    }

    fn engine_failed(&mut self, error: &EngineError) {
        // Opening it anew brings it up to the journal.
        self.drop_engine();
        if matches!(error, EngineError::Full(_)) {
            self.use_reserve();
        }
        self.shared.note(|health| health.last_error = Some(error.to_string()));
        self.ensure_engine();
    }

    fn failed(&mut self, error: &CommitError) {
        match error {
            CommitError::Sync(why) => self.give_up_file(why),
            CommitError::Full(_) | CommitError::Other(_) => {}
        }
    }

    /// Moves the file aside, begins a fresh one and asks for everything again. The boot snapshot stays as it is
    /// until that has come, and a marker keeps the next start from taking the half-filled file for the truth.
    fn give_up_file(&mut self, why: &str) {
        self.drop_engine();
        let known = std::mem::take(&mut self.known);
        self.lost.extend(known.iter().cloned());
        self.shared.want(known, &BlobClass::ALL);
        self.shared.note(|health| {
            health.failed = true;
            health.last_error = Some(why.to_owned());
        });
        let begun = recovery::quarantine(&self.paths)
            .map_err(|error| EngineError::from_io(&error))
            .and_then(|_aside| fresh_to_fill(&self.options, 0));
        match begun {
            Ok(live) => self.live = Some(live),
            Err(_) => self.retry = Some(Instant::now() + RETRY),
        }
    }

    fn refilled(&mut self, group: &Group) {
        let mut whole = self.shared.refilled(None);
        for (spec, pending) in &group.collections {
            if pending.reset && self.lost.remove(spec) {
                whole = self.shared.refilled(Some(spec));
            }
        }
        let marker = rebuilding(&self.paths.engine());
        if whole && marker.exists() {
            self.checkpoint();
            let filled = filled(&self.paths);
            self.shared.note(|health| match filled {
                Ok(()) => health.failed = false,
                Err(error) => health.last_error = Some(error.to_string()),
            });
        }
    }
}

impl CommitError {
    fn text(&self) -> &str {
        match self {
            Self::Full(why) | Self::Sync(why) | Self::Other(why) => why,
        }
    }
}

fn copy(from: &dyn Engine, to: &mut dyn Engine) -> Result<(), EngineError> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    let mut outcome = Ok(());
    from.scan(&[], &mut |key, value| {
        let op = Op::Put(key.into(), value.to_vec());
        bytes += op.size();
        batch.push(op);
        if bytes >= FRAME && outcome.is_ok() {
            outcome = to.write(&batch);
            batch.clear();
            bytes = 0;
        }
    })?;
    outcome?;
    to.write(&batch)
}

/// Bytes of all files below a folder.
pub(super) fn size_of(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
