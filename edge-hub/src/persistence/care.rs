//! Looks after the store while the hub runs: says when the disk hangs or refuses, ends a process whose engine hangs
//! though the disk answers, fills a store that had to begin anew, takes in what one gives back late, and lets collections
//! forget what grew too old.

use std::{fs, io::Write as _, path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::{mpsc::UnboundedReceiver, oneshot};

use crate::{
    hub::Hub,
    persistence::{records, restore},
    store::{Attempt, BlobKey, Refill, StoreHealth},
};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A disk operation that takes longer hangs. Closing an engine and opening it anew, which is one operation, may take 40 s.
const HUNG_AFTER: Duration = Duration::from_secs(60);
const EXPIRE_EVERY: u32 = 60;

/// What can be said of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Changes reach the disk.
    Good,
    /// The directory could not be opened yet: everything is in memory alone.
    MemoryOnly,
    /// A disk operation does not end; changes wait in memory.
    Hangs,
    /// The disk refuses; changes wait in memory.
    Refuses,
}

impl Condition {
    /// Of a store with this health.
    #[must_use]
    pub fn of(health: &StoreHealth) -> Self {
        match health {
            health if health.memory_only => Self::MemoryOnly,
            health if health.busy > HUNG_AFTER => Self::Hangs,
            health if health.full || health.failed || health.last_error.is_some() => Self::Refuses,
            _ => Self::Good,
        }
    }

    /// Its word in /status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::MemoryOnly => "memoryOnly",
            Self::Hangs => "hangs",
            Self::Refuses => "refuses",
        }
    }
}

/// Whether a new process would be of use. While cut never: it would have only what is on disk. On a disk that hangs it
/// would open nothing. What is left is an engine that hangs by itself.
fn should_restart(condition: Condition, disk_answers: bool, is_connected: bool) -> bool {
    condition == Condition::Hangs && disk_answers && is_connected
}

/// Runs until the hub drains. `attempts` are those at the directory that the start did not wait for, which had what was
/// stored already or not.
pub async fn run(hub: Arc<Hub>, attempts: UnboundedReceiver<Attempt>, has_stored: bool) {
    let taking_in = tokio::spawn(take_in(Arc::clone(&hub), attempts, has_stored));
    let mut turn: u32 = 0;
    let mut told = Condition::Good;
    let mut probe: Option<oneshot::Receiver<()>> = None;
    let mut disk_answers = false;
    loop {
        tokio::select! {
            () = hub.site.shutdown.draining() => return taking_in.abort(),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        turn = turn.wrapping_add(1);
        let health = hub.site.store.health();
        let condition = Condition::of(&health);
        if std::mem::replace(&mut told, condition) != condition {
            tell(condition, &health);
        }
        if condition == Condition::Hangs {
            let asked = probe
                .get_or_insert_with(|| probe_disk(hub.site.config.file.state_directory.join("disk-probe")));
            disk_answers |= asked.try_recv().is_ok();
            if should_restart(condition, disk_answers, hub.site.is_connected()) {
                tracing::error!(busy = ?health.busy, "the store's engine hangs though the disk answers; the process ends so that it can start afresh");
                std::process::abort();
            }
        } else {
            (probe, disk_answers) = (None, false);
        }
        if let Some(refill) = hub.site.store.needs_refill() {
            tracing::warn!(?refill, "the store begins anew and is filled from memory");
            fill(&hub, &refill);
        }
        if turn.is_multiple_of(EXPIRE_EVERY) {
            expire(&hub);
        }
    }
}

fn tell(condition: Condition, health: &StoreHealth) {
    let error = health.last_error.as_deref().unwrap_or_default();
    match condition {
        Condition::Good => tracing::info!("the store takes changes again"),
        Condition::MemoryOnly => {
            tracing::error!(
                error,
                "the store cannot be opened: everything is served from memory, and a restart loses it"
            )
        }
        Condition::Hangs => {
            tracing::error!(busy = ?health.busy, "the disk hangs: everything is served from memory, and a restart loses what is newer than the disk")
        }
        Condition::Refuses => {
            tracing::error!(error, "the disk refuses: changes wait in memory, and a restart loses them")
        }
    }
}

/// Writes a small file to see whether the disk answers, on a thread that may hang with it.
fn probe_disk(path: PathBuf) -> oneshot::Receiver<()> {
    let (answers, asked) = oneshot::channel();
    let write = move || {
        let mut file = fs::File::create(&path)?;
        file.write_all(b"eyot").and_then(|()| file.sync_all())?;
        fs::remove_file(&path)
    };
    let spawned = std::thread::Builder::new().name("disk-probe".into()).spawn(move || {
        if write().is_ok() {
            // Nobody waits any more when the store came back by itself.
            let _ = answers.send(());
        }
    });
    if let Err(error) = spawned {
        tracing::warn!(%error, "no thread to probe the disk with");
    }
    asked
}

/// Takes in what the store gives back after the start.
async fn take_in(hub: Arc<Hub>, mut attempts: UnboundedReceiver<Attempt>, mut has_stored: bool) {
    while let Some(attempt) = attempts.recv().await {
        match attempt {
            Attempt::Open(recovered) if !has_stored => restore::take_in(&hub, recovered),
            // What was read of it before is the same, and what came since waits in the store's queue.
            Attempt::Open(_) => {}
            Attempt::Read(recovered) => {
                restore::take_in(&hub, recovered);
                has_stored = true;
            }
            Attempt::Waits(error) => tracing::warn!(error, "the store cannot be opened yet"),
            Attempt::Failed(error) => {
                tracing::error!(%error, "the store will not be opened in this process")
            }
        }
    }
}

fn expire(hub: &Hub) {
    let now = hub.site.clock.now();
    for cell in hub.collections.cells() {
        let changes = cell.with(|inner| inner.collection.expire(now));
        if !changes.is_empty() {
            hub.site.store.apply(&cell.spec, changes);
        }
    }
}

fn fill(hub: &Hub, refill: &Refill) {
    let now = hub.site.clock.now();
    for spec in &refill.collections {
        // What is no longer held must not come back with the next start.
        let changes =
            hub.collections.cell(spec).map(|cell| cell.with(|inner| inner.collection.all_changes(now)));
        let changes = changes.filter(|changes| !changes.is_empty());
        hub.site.store.apply(spec, changes.unwrap_or_else(|| vec![edge_hub_core::collection::Change::Reset]));
    }
    for class in &refill.blobs {
        for (key, value) in records::of(hub, *class) {
            hub.site.store.put(BlobKey { class: *class, key: key.into() }, value);
        }
    }
    hub.site.store.blobs_refilled();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_engine_that_hangs_on_a_disk_that_answers_is_worth_a_new_process_and_never_while_cut() {
        for disk_answers in [false, true] {
            for is_connected in [false, true] {
                for condition in
                    [Condition::Good, Condition::MemoryOnly, Condition::Hangs, Condition::Refuses]
                {
                    let expected = condition == Condition::Hangs && disk_answers && is_connected;
                    assert_eq!(should_restart(condition, disk_answers, is_connected), expected);
                }
            }
        }
    }

    #[test]
    fn a_store_is_called_what_it_is() {
        let good = StoreHealth { busy: HUNG_AFTER, ..StoreHealth::default() };
        assert_eq!(Condition::of(&good), Condition::Good);
        let hangs = StoreHealth { busy: HUNG_AFTER + Duration::from_millis(1), ..good.clone() };
        assert_eq!(Condition::of(&hangs), Condition::Hangs);
        assert_eq!(Condition::of(&StoreHealth { memory_only: true, ..hangs }), Condition::MemoryOnly);
        let refuses = StoreHealth { last_error: Some("Read-only file system (EROFS)".into()), ..good };
        assert_eq!(Condition::of(&refuses), Condition::Refuses);
    }

    #[tokio::test]
    async fn a_disk_that_answers_is_heard_and_one_that_refuses_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk-probe");
        probe_disk(path.clone()).await.unwrap();
        assert!(!path.exists(), "nothing is left behind");
        probe_disk(folder.path().join("missing/disk-probe")).await.unwrap_err();
    }
}
