//! Opens a store beside a hub that need not wait for it: on the store's own thread, again and again while the disk hangs
//! or refuses. Until it is open, changes wait in memory as they do while a disk is full. What cannot be written but can
//! be read is read once, from a copy elsewhere.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{
    Store,
    engine::told,
    key::KeyError,
    queue::Shared,
    recovery::{self, Paths, journal},
    types::{Recovered, StoreError, StoreOptions},
    writer::{Writer, size_of},
};

/// Time between attempts at a directory that cannot be opened.
const REOPEN: Duration = Duration::from_secs(1);
/// The same while another process holds it: one that was killed may still be writing.
const LOCKED: Duration = Duration::from_millis(50);
/// How long that is no failure yet.
const PREDECESSOR_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of an engine that are copied to be read, into what is memory as a rule; beyond that the boot snapshot is read.
const MAX_COPY: u64 = 256 << 20;

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum Unopened {
    /// The key: another attempt finds the same.
    #[error("atRestKey: {0}")]
    Key(#[from] KeyError),
    /// The directory.
    #[error("stateDirectory: {0}")]
    Store(#[from] StoreError),
}

impl Unopened {
    /// Whether nothing but the operator can mend it.
    fn is_final(&self) -> bool {
        matches!(self, Self::Key(_) | Self::Store(StoreError::WrongKey(_)))
    }

    fn text(&self) -> String {
        match self {
            Self::Store(StoreError::Io { action, path, source }) => {
                format!("{action} {}: {}", path.display(), told(source))
            }
            other => other.to_string(),
        }
    }

    fn is_refused_write(&self) -> bool {
        matches!(self, Self::Store(StoreError::Io { source, .. })
            if matches!(source.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied))
    }
}

/// How an attempt to open the directory ended.
#[derive(Debug)]
pub enum Attempt {
    /// It is open; what it held.
    Open(Recovered),
    /// It cannot be written, but this could be read of it. Told once at most.
    Read(Recovered),
    /// Nothing could be had; it is tried again. Told once.
    Waits(String),
    /// There will be no further attempt.
    Failed(Unopened),
}

impl Store {
    /// Starts the store's thread, which asks `prepare` for the options, opens the directory as [`Store::open`] does, and
    /// tries again while that fails. `scratch` names a folder that may be made for reading what cannot be written; it is
    /// emptied before and removed after.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn start(
        scratch: PathBuf,
        prepare: impl Fn() -> Result<StoreOptions, Unopened> + Send + 'static,
    ) -> Result<(Self, UnboundedReceiver<Attempt>), StoreError> {
        let shared = Arc::new(Shared::default());
        shared.note(|health| health.memory_only = true);
        let (tell, attempts) = unbounded_channel();
        let opening =
            Opening { shared: Arc::clone(&shared), scratch, tell, has_told: false, has_read: false };
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || opening.run(prepare))
            .map_err(StoreError::io("start the thread of", "store"))?;
        Ok((Self { shared, thread: Mutex::new(Some(thread)) }, attempts))
    }
}

struct Opening {
    shared: Arc<Shared>,
    scratch: PathBuf,
    tell: UnboundedSender<Attempt>,
    has_told: bool,
    has_read: bool,
}

impl Opening {
    fn run(mut self, prepare: impl Fn() -> Result<StoreOptions, Unopened>) {
        let begun = Instant::now();
        loop {
            self.shared.busy(true);
            let prepared = prepare();
            let opened = prepared.and_then(|options| match recovery::open(&options) {
                Ok(opened) => Ok((options, opened)),
                Err(error) => {
                    let error = Unopened::from(error);
                    self.read(&options, &error);
                    Err(error)
                }
            });
            self.shared.busy(false);
            match opened {
                Ok((options, (opened, recovered))) => {
                    self.shared.note(|health| {
                        health.memory_only = false;
                        health.last_error = None;
                    });
                    self.tell(Attempt::Open(recovered));
                    return Writer::new(options, opened, self.shared).run();
                }
                Err(error) => {
                    let text = error.text();
                    self.shared.note(|health| health.last_error = Some(text.clone()));
                    if error.is_final() {
                        self.tell(Attempt::Failed(error));
                        return self.shared.closed();
                    }
                    let is_locked = matches!(error, Unopened::Store(StoreError::Locked(_)));
                    let is_predecessors = is_locked && begun.elapsed() < PREDECESSOR_LIMIT;
                    if !is_predecessors && !std::mem::replace(&mut self.has_told, true) {
                        self.tell(Attempt::Waits(text));
                    }
                    if self.shared.is_closed_within(if is_predecessors { LOCKED } else { REOPEN }) {
                        return self.shared.closed();
                    }
                }
            }
        }
    }

    fn tell(&self, attempt: Attempt) {
        // The receiver is gone with the hub; the thread is told that by `close`.
        drop(self.tell.send(attempt));
    }

    /// A file system that became read-only, as ext4 does after an I/O error, still holds what a node needs.
    fn read(&mut self, options: &StoreOptions, error: &Unopened) {
        if self.has_read || !error.is_refused_write() {
            return;
        }
        let copied = read_copy(options, &self.scratch);
        drop(fs::remove_dir_all(&self.scratch));
        match copied {
            Ok(recovered) => {
                (self.has_read, self.has_told) = (true, true);
                self.tell(Attempt::Read(recovered));
            }
            Err(error) => tracing::warn!(%error, "what the store holds cannot be read either"),
        }
    }
}

/// What a directory holds that cannot be written: engines open only what they may write, so it is copied. Its records
/// stay sealed.
fn read_copy(options: &StoreOptions, scratch: &Path) -> Result<Recovered, StoreError> {
    let io = |path: &Path| StoreError::io("copy", path.to_owned());
    if scratch.exists() {
        fs::remove_dir_all(scratch).map_err(io(scratch))?;
    }
    fs::create_dir_all(scratch).map_err(io(scratch))?;
    let (from, to) = (Paths::new(&options.directory), Paths::new(scratch));
    for name in ["key-check", "boot-snapshot"] {
        let file = options.directory.join(name);
        if file.exists() {
            fs::copy(&file, scratch.join(name)).map_err(io(&file))?;
        }
    }
    let engine = from.engine();
    if engine.exists() && size_of(&engine) <= MAX_COPY {
        copy_folder(&engine, &to.engine()).map_err(io(&engine))?;
    } else if engine.exists() {
        // The journal goes on from the snapshot.
        fs::create_dir_all(to.engine()).map_err(io(scratch))?;
        let path = journal(&engine);
        fs::copy(&path, journal(&to.engine())).map_err(io(&path))?;
    }
    let (opened, recovered) =
        recovery::open(&StoreOptions { directory: scratch.to_owned(), ..options.clone() })?;
    drop(recovery::close(opened.live, options));
    Ok(recovered)
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
