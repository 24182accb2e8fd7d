//! The demo's temporary folder: removed at the end, and after a kill -9 by the next demo that starts.
//!
//! A running demo holds a lock on a file inside; a folder whose lock is free belongs to nobody.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

const PREFIX: &str = "eyot-demo-";
const LOCK: &str = "lock";
/// Between a folder's birth and its lock lies a moment; without a lock it counts as dead after this time.
const BIRTH: Duration = Duration::from_mins(10);

/// A folder that lives as long as this value.
#[derive(Debug)]
pub(super) struct Folder {
    folder: TempDir,
    /// Held, never read: the lock ends with the process, however it ends.
    _lock: File,
}

impl Folder {
    /// Remove what killed demos left, then make a folder below `parent`.
    ///
    /// # Errors
    /// When the folder or its lock cannot be made.
    pub(super) fn new(parent: &Path) -> io::Result<Self> {
        sweep(parent);
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
        // Locked under another name first, so that nobody finds the lock free.
        let unborn = folder.path().join("lock.new");
        let lock = File::create_new(&unborn)?;
        lock.lock()?;
        fs::rename(unborn, folder.path().join(LOCK))?;
        Ok(Self { folder, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes this user's folders whose demo is gone. What cannot be removed is left to the next one.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && path
                .symlink_metadata()
                .is_ok_and(|found| found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw());
        if ours && is_dead(&path) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

fn is_dead(folder: &Path) -> bool {
    match File::open(folder.join(LOCK)) {
        Ok(lock) => lock.try_lock().is_ok(),
        Err(_) => {
            let born = folder.metadata().and_then(|found| found.modified());
            born.is_ok_and(|born| born.elapsed().is_ok_and(|age| age > BIRTH))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_demos_folder_is_swept_and_a_living_ones_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let living = Folder::new(parent.path()).unwrap();
        let dead = parent.path().join("eyot-demo-dead");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join(LOCK), "").unwrap();
        let foreign = parent.path().join("other");
        fs::create_dir(&foreign).unwrap();
        let next = Folder::new(parent.path()).unwrap();
        assert!(living.path().exists() && next.path().exists() && foreign.exists());
        assert!(!dead.exists());
        let path = living.path().to_owned();
        drop(living);
        assert!(!path.exists());
    }
}
