//! A file that only takes up room: sled cannot even open its file on a full disk, so 6 MiB are held for that moment.
//! And the look at how much room there is, for sled is best not told of a full disk: it panics, or never answers.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::seal;

const NAME: &str = "reserve";
pub(super) const BYTES: usize = 6 << 20;

/// The reserve of a store directory.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    held: bool,
}

impl Reserve {
    /// Starts without one: an earlier run's is released, because the engine is about to be opened.
    pub(super) fn released(directory: &Path) -> Self {
        let mut reserve = Self { path: directory.join(NAME), held: true };
        reserve.release();
        reserve
    }

    /// Gives the room back to the file system; returns whether there was any.
    pub(super) fn release(&mut self) -> bool {
        let held = std::mem::take(&mut self.held);
        // Not being there is as good; anything else will show in the next write.
        fs::remove_file(&self.path).is_ok() && held
    }

    /// Bytes that an ordinary user can still write to the file system; without an answer, plenty.
    #[allow(clippy::useless_conversion, reason = "the numbers are narrower on 32 bit targets")]
    pub(super) fn room(&self) -> u64 {
        let folder = self.path.parent().unwrap_or(&self.path);
        nix::sys::statvfs::statvfs(folder).map_or(u64::MAX, |found| {
            u64::from(found.blocks_available()).saturating_mul(u64::from(found.fragment_size()))
        })
    }

    /// Takes the room again when there is some.
    pub(super) fn take(&mut self) -> io::Result<()> {
        if self.held {
            return Ok(());
        }
        // Random, so that a compressing file system really sets the blocks aside.
        let block = seal::random::<4096>().map_err(io::Error::other)?;
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
        let written = (0..BYTES / block.len()).try_for_each(|_| file.write_all(&block));
        match written {
            Ok(()) => self.held = true,
            Err(_) => drop(fs::remove_file(&self.path)),
        }
        written
    }
}
