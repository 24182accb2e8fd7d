//! Opening a store: the engine in a thread that may die, the journal on top, every record verified; and what
//! happens when that fails: the engine is moved aside and the boot snapshot takes its place.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::mpsc,
    time::Duration,
};

use ring::{aead::LessSafeKey, hmac};

use super::{
    engine::{Engine, EngineError, EngineOpener, Op},
    frames::{self, FrameWriter, Frames},
    index::Index,
    key::{AtRestKey, sync_parent},
    record::{self, Codec, MANIFEST, META, key_of_meta},
    reserve::Reserve,
    scan::{Scan, scan},
    types::{Recovered, StoreError, StoreOptions},
};

/// File and folder names of a store.
pub(super) struct Paths {
    directory: PathBuf,
}

impl Paths {
    pub(super) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }
    pub(super) fn engine(&self) -> PathBuf {
        self.directory.join("engine")
    }
    /// The engine that compaction builds.
    pub(super) fn next_engine(&self) -> PathBuf {
        self.directory.join("engine.new")
    }
    pub(super) fn snapshot(&self) -> PathBuf {
        self.directory.join("boot-snapshot")
    }
    /// The engine that compaction has replaced.
    pub(super) fn former_engine(&self) -> PathBuf {
        self.directory.join("engine.old")
    }
    fn quarantine(&self, number: u64) -> PathBuf {
        self.directory.join(format!("quarantine-{number}"))
    }
}

/// Inside an engine's folder.
pub(super) fn database(engine: &Path) -> PathBuf {
    engine.join("db")
}
pub(super) fn journal(engine: &Path) -> PathBuf {
    engine.join("journal")
}
/// Its presence says that the folder was begun after a failure and has not been refilled yet.
pub(super) fn rebuilding(engine: &Path) -> PathBuf {
    engine.join("rebuilding")
}

/// What the writer starts from.
pub(super) struct Opened {
    /// Held for as long as the store lives.
    pub(super) lock: File,
    pub(super) reserve: Reserve,
    pub(super) live: Live,
    /// Keys of damaged records.
    pub(super) garbage: Vec<Op>,
    /// Something was found damaged: the sums on disk have to be put right.
    pub(super) repair: bool,
}

/// An open engine with its journal and index.
pub(super) struct Live {
    pub(super) engine: Box<dyn Engine>,
    pub(super) journal: FrameWriter,
    pub(super) index: Index,
}

/// Opens the directory.
pub(super) fn open(options: &StoreOptions) -> Result<(Opened, Recovered), StoreError> {
    let directory = &options.directory;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(StoreError::io("create", directory))?;
    let lock = lock(directory)?;
    check_key(directory, &options.key)?;
    let reserve = Reserve::released(directory);
    let paths = Paths::new(directory);
    finish_swap(&paths).map_err(StoreError::io("swap engines in", directory))?;
    let mut notes = Vec::new();
    let first = if rebuilding(&paths.engine()).exists() {
        Err(EngineError::Broken("it was never filled again after an earlier failure".into()))
    } else if !paths.engine().exists() && paths.snapshot().exists() {
        Err(EngineError::Broken("it is gone".into()))
    } else {
        open_engine(options)
    };
    let (live, scan) = match first {
        Ok(opened) => opened,
        Err(EngineError::Full(why)) => return Err(StoreError::Engine(why)),
        Err(EngineError::Broken(why)) => {
            let aside = quarantine(&paths).map_err(StoreError::io("move aside", paths.engine()))?;
            notes.push(format!("the engine could not be opened ({why}) and was moved aside"));
            restore(options, &paths, aside.as_deref(), &mut notes)?
        }
    };
    let Scan { index, mut recovered, garbage } = scan;
    let repair = !recovered.quarantined.is_empty();
    notes.append(&mut recovered.quarantined);
    recovered.quarantined = notes;
    Ok((Opened { lock, reserve, live: Live { index, ..live }, garbage, repair }, recovered))
}

fn lock(directory: &Path) -> Result<File, StoreError> {
    let path = directory.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(StoreError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(StoreError::Locked(directory.to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(StoreError::io("lock", &path)(error)),
    }
}

/// Compares the key with the four copies of its fingerprint. A damaged file is written anew; past a verdict, too: with a wrong key nothing would open then, and everything would be moved aside, not lost.
fn check_key(directory: &Path, key: &AtRestKey) -> Result<(), StoreError> {
    const COPIES: usize = 4;
    let path = directory.join("key-check");
    let own = hmac::sign(&key.mac(&[b"key check"]), b"eyot");
    match fs::read(&path) {
        Ok(found) => {
            let copies: Vec<&[u8]> = found.chunks(own.as_ref().len()).collect();
            if copies.len() == COPIES && copies.iter().all(|copy| *copy == own.as_ref()) {
                return Ok(());
            }
            let twice = |copy: &&&[u8]| copies.iter().filter(|other| other == copy).count() > 1;
            let other = copies.iter().find(twice).is_some_and(|copy| copy.iter().any(|byte| *byte != 0));
            if other && !copies.contains(&own.as_ref()) {
                return Err(StoreError::WrongKey(directory.to_owned()));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(StoreError::io("read", &path)(error)),
    }
    let temporary = directory.join("key-check.new");
    let write = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&own.as_ref().repeat(COPIES))?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        sync_parent(&path)
    };
    write().map_err(StoreError::io("write", &path))
}

/// Ends a swap of engines that a crash interrupted: between its two renames there is no `engine`.
pub(super) fn finish_swap(paths: &Paths) -> io::Result<()> {
    let (engine, next, former) = (paths.engine(), paths.next_engine(), paths.former_engine());
    match (engine.exists(), next.exists()) {
        (false, true) => fs::rename(&next, &engine).and_then(|()| sync_parent(&engine))?,
        (true, true) => fs::remove_dir_all(&next)?,
        _ => {}
    }
    if former.exists() { fs::remove_dir_all(&former) } else { Ok(()) }
}

/// Moves the engine aside and keeps the two youngest of those.
pub(super) fn quarantine(paths: &Paths) -> io::Result<Option<PathBuf>> {
    let mut numbers: Vec<u64> = fs::read_dir(&paths.directory)?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("quarantine-")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    let next = numbers.last().map_or(0, |last| last + 1);
    while numbers.len() > 1 {
        fs::remove_dir_all(paths.quarantine(numbers.remove(0)))?;
    }
    if !paths.engine().exists() {
        return Ok(None);
    }
    let aside = paths.quarantine(next);
    fs::rename(paths.engine(), &aside)?;
    sync_parent(&aside)?;
    Ok(Some(aside))
}

/// Opens a new, empty engine in `folder`, with a journal that begins after `sequence`.
pub(super) fn fresh(
    opener: EngineOpener,
    key: &AtRestKey,
    folder: &Path,
    sequence: u64,
) -> Result<Live, EngineError> {
    let io = |error: io::Error| EngineError::from_io(&error);
    DirBuilder::new().recursive(true).mode(0o700).create(database(folder)).map_err(io)?;
    let engine = guarded(|| opener(&database(folder)))?;
    let journal = FrameWriter::create(&journal(folder), journal_key(key), sequence).map_err(io)?;
    sync_parent(folder).map_err(io)?;
    Ok(Live { engine, journal, index: Index::default() })
}

/// As `fresh`, with a mark on it that says that its contents are still to come.
pub(super) fn fresh_to_fill(options: &StoreOptions, sequence: u64) -> Result<Live, EngineError> {
    let folder = Paths::new(&options.directory).engine();
    let marker = rebuilding(&folder);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .and_then(|()| File::create(&marker))
        .and_then(|file| file.sync_all())
        .and_then(|()| sync_parent(&marker))
        .and_then(|()| sync_parent(&folder))
        .map_err(|error| EngineError::from_io(&error))?;
    fresh(options.engine, &options.key, &folder, sequence)
}

/// Takes that mark away.
pub(super) fn filled(paths: &Paths) -> io::Result<()> {
    let marker = rebuilding(&paths.engine());
    fs::remove_file(&marker).and_then(|()| sync_parent(&marker))
}

/// Runs something of an engine, which may panic.
pub(super) fn guarded<T>(run: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(EngineError::Broken(format!("the engine panicked: {text}")))
    })
}

pub(super) fn journal_key(key: &AtRestKey) -> LessSafeKey {
    key.aead(&[b"journal"])
}

pub(super) fn snapshot_key(key: &AtRestKey) -> LessSafeKey {
    key.aead(&[b"boot snapshot"])
}

/// Opens the engine that is there (or a new one) in a thread of its own: it may panic, or never come back.
fn open_engine(options: &StoreOptions) -> Result<(Live, Scan), EngineError> {
    let folder = Paths::new(&options.directory).engine();
    let (opener, key) = (options.engine, options.key.clone());
    in_thread(options.open_timeout, move || {
        if !journal(&folder).exists() && !database(&folder).exists() {
            return Ok((fresh(opener, &key, &folder, 0)?, Scan::default()));
        }
        open_and_scan(opener, &key, &folder)
    })
}

/// Opens the engine again after it failed, bringing it up to the journal.
pub(super) fn reopen(options: &StoreOptions) -> Result<Live, EngineError> {
    finish_swap(&Paths::new(&options.directory)).map_err(|error| EngineError::from_io(&error))?;
    open_engine(options).map(|(live, scan)| Live { index: scan.index, ..live })
}

/// Closes an engine, which writes once more: after a failed write it may panic, or never come back. Then it is left to
/// itself with its file, which whoever opens next finds taken and gives up.
pub(super) fn close(live: Live, options: &StoreOptions) -> Result<(), EngineError> {
    // Less than an opening: together they must not look like a writer that hangs.
    in_thread(options.open_timeout / 3, move || {
        drop(live);
        Ok(())
    })
}

fn in_thread<T: Send + 'static>(
    timeout: Duration,
    run: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name("store-engine".into())
        .spawn(move || {
            // The receiver is gone when this took too long; what was opened is then closed again.
            drop(sender.send(guarded(run)));
        })
        .map_err(|error| EngineError::Broken(error.to_string()))?;
    receiver
        .recv_timeout(timeout)
        .unwrap_or_else(|_| Err(EngineError::Broken("it did not answer in time".into())))
}

fn open_and_scan(opener: EngineOpener, key: &AtRestKey, folder: &Path) -> Result<(Live, Scan), EngineError> {
    let io = |error: io::Error| EngineError::from_io(&error);
    DirBuilder::new().recursive(true).mode(0o700).create(database(folder)).map_err(io)?;
    let mut engine = opener(&database(folder))?;
    let codec = Codec::new(key);
    let (path, journal_key) = (journal(folder), journal_key(key));
    let found = frames::read(&path, &journal_key);
    let (before, _) = applied(&*engine, &codec)?;
    let frames = found.unwrap_or_default();
    apply_frames(&mut *engine, &codec, &path, &journal_key, &frames, before)?;
    let (applied, tag) = applied(&*engine, &codec)?;
    // Older than what a checkpoint once vouched for, or without the journal that could tell.
    let doubt = if found.is_none() {
        Some("the journal is lost")
    } else if before < frames.base {
        Some("the engine fell back behind its last checkpoint")
    } else if frames.damaged.is_some_and(|good| good > applied) {
        Some("the journal is damaged in the middle")
    } else {
        None
    };
    let scan = scan(&*engine, &codec, doubt, Some(tag))?;
    let journal = if found.is_some() && applied <= frames.last {
        FrameWriter::resume(&path, journal_key, frames.length, frames.last).map_err(io)?
    } else {
        engine.sync()?;
        FrameWriter::create(&path, journal_key, applied.max(frames.last)).map_err(io)?
    };
    Ok((Live { engine, journal, index: Index::default() }, scan))
}

/// Brings the groups after `after` from a file of frames into an engine.
pub(super) fn apply_frames(
    engine: &mut dyn Engine,
    codec: &Codec,
    path: &Path,
    key: &LessSafeKey,
    frames: &Frames,
    after: u64,
) -> Result<(), EngineError> {
    let mut manifest = Vec::new();
    frames::replay(path, key, frames, after, |sequence, last, mut ops| {
        manifest.extend(ops.iter().filter(|op| op.key()[0] == MANIFEST).cloned());
        if last {
            ops.push(applied_op(codec, sequence, &std::mem::take(&mut manifest))?);
        }
        engine.write(&ops)
    })
}

/// The write that says up to which frame the journal has been applied, and by which manifest. `ops` are those of
/// the group; its manifest is the last of them.
pub(super) fn applied_op(codec: &Codec, sequence: u64, ops: &[Op]) -> Result<Op, EngineError> {
    let tag = ops.iter().rev().find_map(|op| match op {
        Op::Put(key, value) if key[0] == MANIFEST => Some(record::tag_of(value)),
        _ => None,
    });
    let sealed = codec
        .seal_small(&key_of_meta(), (sequence, tag.unwrap_or_default()))
        .map_err(|error| EngineError::Broken(error.to_string()))?;
    Ok(Op::Put(Box::new(key_of_meta()), sealed))
}

fn applied(engine: &dyn Engine, codec: &Codec) -> Result<(u64, u128), EngineError> {
    let mut sealed = None;
    engine.scan(&[META], &mut |key, value| {
        if key == key_of_meta() {
            sealed = Some(value.to_vec());
        }
    })?;
    Ok(sealed.and_then(|sealed| codec.open_small(&key_of_meta(), sealed)).unwrap_or_default())
}

/// Starts from the boot snapshot, and from the old journal where it goes on from there.
fn restore(
    options: &StoreOptions,
    paths: &Paths,
    aside: Option<&Path>,
    notes: &mut Vec<String>,
) -> Result<(Live, Scan), StoreError> {
    let broken = |error: EngineError| StoreError::Engine(error.to_string());
    let (key, codec) = (&options.key, Codec::new(&options.key));
    let snapshot_key = snapshot_key(key);
    let snapshot = frames::read(&paths.snapshot(), &snapshot_key).filter(|frames| frames.last > frames.base);
    let journal_key = journal_key(key);
    let old = aside.map(journal).and_then(|path| Some((frames::read(&path, &journal_key)?, path)));
    let never_refilled = aside.is_some_and(|aside| rebuilding(aside).exists());
    let mut rolled_back = true;
    let base = snapshot.map_or(0, |frames| frames.base);
    let last = base.max(old.as_ref().map_or(0, |(frames, _)| frames.last));
    let live = fresh_to_fill(options, last).map_err(broken)?;
    let Live { mut engine, journal, .. } = live;
    if let Some(snapshot) = snapshot {
        guarded(|| {
            apply_frames(&mut *engine, &codec, &paths.snapshot(), &snapshot_key, &snapshot, snapshot.base)
        })
        .map_err(broken)?;
        if let Some((frames, path)) = &old
            && frames.base <= base
            && !never_refilled
        {
            guarded(|| apply_frames(&mut *engine, &codec, path, &journal_key, frames, base))
                .map_err(broken)?;
            rolled_back = frames.damaged.is_some();
        }
        notes.push(format!(
            "started from the boot snapshot{}",
            if rolled_back { ", which is older than what was lost" } else { "" }
        ));
    }
    let scan = guarded(|| {
        let mut scan = scan(&*engine, &codec, None, None)?;
        for collection in &mut scan.recovered.collections {
            collection.rolled_back = rolled_back;
        }
        scan.recovered.blobs_in_doubt = rolled_back;
        // What the journal added in part, and a manifest of what is there now.
        let mut ops = std::mem::take(&mut scan.garbage);
        scan.index
            .stage_repair(&codec, &mut |op| ops.push(op))
            .map_err(|error| EngineError::Broken(error.to_string()))?;
        ops.push(applied_op(&codec, last, &ops)?);
        for batch in ops.chunks(64) {
            engine.write(batch)?;
        }
        engine.sync()?;
        Ok(scan)
    })
    .map_err(broken)?;
    filled(paths).map_err(StoreError::io("finish", paths.engine()))?;
    Ok((Live { engine, journal, index: Index::default() }, scan))
}
