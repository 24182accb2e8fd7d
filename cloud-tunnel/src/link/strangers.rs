//! Connections that have not said yet what they want. A flood of them pushes out its own, oldest first, and never those
//! that have.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, PoisonError};

use tokio::task::AbortHandle;

/// The connections of one listener that are strangers still.
#[derive(Debug)]
pub struct Strangers {
    most: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    tasks: BTreeMap<u64, Option<AbortHandle>>,
}

/// One of them; dropping it, or [`Known`]'s call, takes it off the list.
#[derive(Debug)]
pub struct Stranger {
    list: std::sync::Arc<Strangers>,
    id: u64,
}

impl Strangers {
    /// A list that holds at most `most`.
    #[must_use]
    pub fn new(most: usize) -> std::sync::Arc<Self> {
        std::sync::Arc::new(Self { most, waiting: Mutex::default() })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `serve` for a new connection on a task of its own; it drops its [`Stranger`] as soon as it is known.
    pub fn spawn<F>(self: &std::sync::Arc<Self>, serve: impl FnOnce(Stranger) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let id = {
            let mut waiting = self.lock();
            waiting.next += 1;
            let id = waiting.next;
            waiting.tasks.insert(id, None);
            id
        };
        let task = tokio::spawn(serve(Stranger { list: std::sync::Arc::clone(self), id }));
        let oldest = {
            let mut waiting = self.lock();
            // A task that was quick is off the list already.
            if let Some(slot) = waiting.tasks.get_mut(&id) {
                *slot = Some(task.abort_handle());
            }
            if waiting.tasks.len() > self.most { waiting.tasks.pop_first() } else { None }
        };
        // Its drop takes the lock again.
        if let Some((_, Some(oldest))) = oldest {
            oldest.abort();
        }
    }

    /// How many there are now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().tasks.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.list.lock().tasks.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_flood_pushes_out_its_oldest_and_never_one_that_is_known() {
        let strangers = Strangers::new(2);
        let (done, mut ended) = tokio::sync::mpsc::unbounded_channel();
        struct Tell(u32, tokio::sync::mpsc::UnboundedSender<u32>);
        impl Drop for Tell {
            fn drop(&mut self) {
                let _ = self.1.send(self.0);
            }
        }
        let (told, hear) = tokio::sync::oneshot::channel::<()>();
        let first = Tell(0, done.clone());
        strangers.spawn(|stranger| async move {
            let _first = first;
            drop(stranger);
            let _ = told.send(());
            std::future::pending::<()>().await;
        });
        hear.await.expect("the first is known");
        for number in 1..5 {
            let tell = Tell(number, done.clone());
            strangers.spawn(|stranger| async move {
                let _held = (tell, stranger);
                std::future::pending::<()>().await;
            });
        }
        assert_eq!((ended.recv().await, ended.recv().await), (Some(1), Some(2)));
        assert_eq!(strangers.len(), 2);
    }
}
