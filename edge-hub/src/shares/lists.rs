//! Lists that come from the cloud for a collection, and whose turn it is to read a large one.

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Turns of large lists.
pub(super) struct Lists(Semaphore);

impl Default for Lists {
    fn default() -> Self {
        Self(Semaphore::new(1))
    }
}

impl Lists {
    /// One turn; waits for those before.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.0.acquire().await.ok()
    }
}

/// A list that came whole.
pub struct List<'a> {
    /// As it came.
    pub packed: Bytes,
    /// Most bytes that it may have unpacked.
    pub most: usize,
    /// To be kept until the collection has taken what it wants.
    pub turn: Option<SemaphorePermit<'a>>,
}

/// Why a list was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// The connection died, or fell silent.
    #[error("the list broke off")]
    Broken,
    /// It is larger than any may be.
    #[error("the list is larger than limits.listMib")]
    TooLarge,
    /// It is larger than what its user may still have collected.
    #[error("the user has as many bytes of objects as limits.objectsMib leaves to one")]
    Share,
}
