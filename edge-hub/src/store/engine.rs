//! What the store asks of a storage engine: to keep bytes under keys. All promises on integrity and
//! atomicity are made above it, so any ordered key-value engine fits; tests compare two of them.

use std::path::Path;

/// One write. Keys are at most 64 bytes, values at most 64 KiB and some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets a value.
    Put(Box<[u8]>, Vec<u8>),
    /// Removes a key, whether it exists or not.
    Delete(Box<[u8]>),
}

impl Op {
    /// The key it writes.
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }

    /// Bytes of key and value.
    pub fn size(&self) -> usize {
        match self {
            Self::Put(key, value) => key.len() + value.len(),
            Self::Delete(key) => key.len(),
        }
    }
}

/// An error of the system with the name that its manuals know it by: `Read-only file system (EROFS)`.
pub(super) fn told(error: &std::io::Error) -> String {
    match error.raw_os_error().map(nix::errno::Errno::from_raw) {
        Some(errno) => format!("{} ({errno:?})", errno.desc()),
        None => error.to_string(),
    }
}

/// Why an engine could not do something.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No space left on the device.
    #[error("no space left: {0}")]
    Full(String),
    /// Anything else; the engine is not used any further.
    #[error("{0}")]
    Broken(String),
}

impl EngineError {
    /// From an IO error, keeping apart what a bigger disk would cure.
    pub fn from_io(error: &std::io::Error) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        match error.kind() {
            StorageFull | QuotaExceeded => Self::Full(told(error)),
            _ => Self::Broken(told(error)),
        }
    }
}

/// An ordered key-value engine in a directory of its own, used by one thread at a time. It may panic: every
/// call happens under `catch_unwind`, and after an error or a panic it is dropped and opened again.
pub trait Engine: Send {
    /// Visits every pair whose key starts with `prefix`, in the order of keys.
    ///
    /// # Errors
    /// Something could not be read.
    fn scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), EngineError>;

    /// Writes in order; at most 128 KiB per call (or a single bigger pair), so that it need not be split.
    ///
    /// # Errors
    /// Nothing is known about what was written.
    fn write(&mut self, batch: &[Op]) -> Result<(), EngineError>;

    /// Makes every earlier write survive a power cut.
    ///
    /// # Errors
    /// Nothing is known about what is on disk.
    fn sync(&mut self) -> Result<(), EngineError>;
}

/// Opens, or creates, the engine of a directory that exists.
pub type EngineOpener = fn(&Path) -> Result<Box<dyn Engine>, EngineError>;
