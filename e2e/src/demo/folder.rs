//! The demo's temporary folder, and the janitor: a small process that makes it and removes it, however the demo ends.
//!
//! The janitor reads a pipe that the demo and its hubs hold open. When the last of them is gone, by kill -9 perhaps, the
//! pipe ends and the folder goes. If the janitor was killed, too, the next demo removes the folder: a living janitor
//! holds a lock on a file inside; a folder whose lock is free belongs to nobody.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// The file that this process runs, also after a build has put another one in its place.
pub(super) const THIS_PROGRAM: &str = "/proc/self/exe";
const PREFIX: &str = "eyot-demo-";
const LOCK: &str = "lock";
/// Between a folder's birth and its lock lies a moment; without a lock it counts as dead after this time.
const BIRTH: Duration = Duration::from_mins(10);

/// A folder that is removed when this value is dropped and every process that was given [`Folder::hold`] has ended.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    janitor: Child,
    pipe: Option<ChildStdin>,
}

impl Folder {
    /// Start a janitor, which removes what killed demos left below `parent` and makes a folder there.
    ///
    /// # Errors
    /// When the janitor cannot be started or cannot make the folder.
    pub(super) fn new(parent: &Path) -> io::Result<Self> {
        let mut janitor = Command::new(THIS_PROGRAM)
            .arg0("eyot")
            .arg("janitor")
            .arg(parent)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Whatever a terminal sends to the demo is not for the one who cleans up after it.
            .process_group(0)
            .spawn()?;
        let pipe = janitor.stdin.take();
        let mut line = String::new();
        if let Some(said) = janitor.stdout.take() {
            BufReader::new(said).read_line(&mut line)?;
        }
        let path = PathBuf::from(line.trim_end_matches('\n'));
        if !path.is_absolute() {
            return Err(io::Error::other("the process that makes it said nothing"));
        }
        Ok(Self { path, janitor, pipe })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What a process that uses the folder has to hold open.
    ///
    /// # Errors
    /// When this process may open nothing more.
    pub(super) fn hold(&self) -> io::Result<OwnedFd> {
        let pipe = self.pipe.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        pipe.as_fd().try_clone_to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.pipe = None;
        // An error means that it is gone already.
        let _ = self.janitor.wait();
    }
}

/// The life of a janitor. Prints the folder's path, then waits until stdin ends.
///
/// # Errors
/// When the folder cannot be made, and when it cannot be removed.
pub(crate) fn janitor(parent: &Path) -> io::Result<()> {
    sweep(parent);
    let (folder, _lock) = make(parent)?;
    // A demo that is gone already cannot read it; then stdin has ended, too.
    let _ = writeln!(io::stdout(), "{}", folder.path().display());
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
    folder.close()
}

fn make(parent: &Path) -> io::Result<(TempDir, File)> {
    let parent = fs::canonicalize(parent)?;
    let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
    // Locked under another name first, so that nobody finds the lock free.
    let unborn = folder.path().join("lock.new");
    let lock = File::create_new(&unborn)?;
    lock.lock()?;
    fs::rename(unborn, folder.path().join(LOCK))?;
    Ok((folder, lock))
}

/// Removes this user's folders whose demo and janitor are gone. What cannot be removed is left to the next one.
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
        let (living, lock) = make(parent.path()).unwrap();
        let dead = parent.path().join("eyot-demo-dead");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join(LOCK), "").unwrap();
        let foreign = parent.path().join("other");
        fs::create_dir(&foreign).unwrap();
        sweep(parent.path());
        assert!(living.path().exists() && foreign.exists());
        assert!(!dead.exists());
        drop(lock);
        sweep(parent.path());
        assert!(!living.path().exists());
    }
}
