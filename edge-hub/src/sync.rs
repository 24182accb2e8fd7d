//! How this crate takes a lock.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A lock whose holder never panics half-way through a change; a poisoned one is still whole.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
