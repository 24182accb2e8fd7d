//! How a process ends: Running, then Draining under a deadline, then Stopped. Every phase can be awaited.
//!
//! A signal only begins the drain. Work that must not be cut takes a [`Hold`]; the process stops when the last
//! one is dropped or when the deadline has passed, whichever comes first. A second signal stops at once.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

/// Where the process stands. Phases only ever advance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Accepts work.
    Running,
    /// Accepts nothing new; what was begun may end until the deadline.
    Draining,
    /// Everything ends now.
    Stopped,
}

impl Phase {
    /// The word for logs and status pages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// All work had ended.
    Complete,
    /// The deadline had passed, or a second signal came, with this many pieces of work still open.
    Cut {
        /// How many [`Hold`]s were alive.
        open: usize,
    },
}

#[derive(Debug, Clone, Copy)]
struct State {
    phase: Phase,
    deadline: Option<Instant>,
    holds: usize,
}

/// The process's end, shared: every part holds a clone.
#[derive(Debug, Clone)]
pub struct Shutdown {
    state: watch::Sender<State>,
    grace: Duration,
}

impl Shutdown {
    /// Running. `grace` is how long a drain may take before open work is cut.
    #[must_use]
    pub fn new(grace: Duration) -> Self {
        let state = State { phase: Phase::Running, deadline: None, holds: 0 };
        Self { state: watch::Sender::new(state), grace }
    }

    /// Where the process stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.state.borrow().phase
    }

    /// When open work will be cut; `None` while running.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.state.borrow().deadline
    }

    /// Begins the drain; the deadline counts from the first call.
    pub fn drain(&self) {
        let deadline = Instant::now() + self.grace;
        self.state.send_if_modified(|state| {
            let begins = state.phase == Phase::Running;
            if begins {
                state.phase = Phase::Draining;
                state.deadline = Some(deadline);
            }
            begins
        });
    }

    /// Ends everything now, from any phase.
    pub fn stop(&self) {
        self.state
            .send_if_modified(|state| std::mem::replace(&mut state.phase, Phase::Stopped) != Phase::Stopped);
    }

    /// Returns once the drain has begun (at once if it had).
    pub async fn draining(&self) {
        self.reached(|state| state.phase >= Phase::Draining).await;
    }

    /// Returns once everything ends.
    pub async fn stopped(&self) {
        self.reached(|state| state.phase == Phase::Stopped).await;
    }

    /// Returns once open work is to be cut: stopped, or draining and past the deadline.
    pub async fn expired(&self) {
        self.draining().await;
        let deadline = self.deadline().unwrap_or_else(Instant::now);
        // A timer that has fired says nothing about which came first; both mean "cut".
        let _ = tokio::time::timeout_at(deadline, self.stopped()).await;
    }

    /// Waits until a drain that has begun is over: no [`Hold`] is alive, the deadline has passed, or [`Self::stop`]
    /// was called. Then the phase is Stopped.
    pub async fn drained(&self) -> Drained {
        self.draining().await;
        let deadline = self.deadline().unwrap_or_else(Instant::now);
        let idle = self.reached(|state| state.holds == 0 || state.phase == Phase::Stopped);
        let _ = tokio::time::timeout_at(deadline, idle).await;
        let open = self.state.borrow().holds;
        self.stop();
        if open == 0 { Drained::Complete } else { Drained::Cut { open } }
    }

    /// Marks work that a drain waits for; drop it when the work has ended.
    #[must_use]
    pub fn hold(&self) -> Hold {
        self.state.send_modify(|state| state.holds += 1);
        Hold { state: self.state.clone() }
    }

    /// Lets SIGTERM and SIGINT begin the drain, and a second one stop at once. Must be called on a runtime.
    ///
    /// # Errors
    /// The system refused a signal handler.
    pub fn on_signal(&self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                if shutdown.phase() == Phase::Running {
                    tracing::info!(signal = name, grace = ?shutdown.grace, "draining");
                    shutdown.drain();
                } else {
                    tracing::warn!(signal = name, "a second signal: stopping at once");
                    shutdown.stop();
                    return;
                }
            }
        });
        Ok(())
    }

    async fn reached(&self, condition: impl FnMut(&State) -> bool) {
        // The sender lives in `self`, so the channel cannot close while this waits.
        let _ = self.state.subscribe().wait_for(condition).await;
    }
}

/// Work that a drain waits for.
#[derive(Debug)]
pub struct Hold {
    state: watch::Sender<State>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.state.send_modify(|state| state.holds = state.holds.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn a_drain_ends_when_the_last_hold_is_dropped() {
        let shutdown = Shutdown::new(LONG);
        let (first, second) = (shutdown.hold(), shutdown.hold());
        shutdown.drain();
        drop(first);
        assert_eq!(shutdown.phase(), Phase::Draining);
        drop(second);
        assert_eq!(shutdown.drained().await, Drained::Complete);
        assert_eq!(shutdown.phase(), Phase::Stopped);
    }

    #[tokio::test]
    async fn work_that_outlives_the_deadline_is_cut_and_counted() {
        let shutdown = Shutdown::new(Duration::ZERO);
        let _work = (shutdown.hold(), shutdown.hold());
        shutdown.drain();
        shutdown.expired().await;
        assert_eq!(shutdown.drained().await, Drained::Cut { open: 2 });
        shutdown.stopped().await;
    }

    #[tokio::test]
    async fn the_deadline_counts_from_the_first_call_and_phases_never_go_back() {
        let shutdown = Shutdown::new(LONG);
        assert_eq!((shutdown.phase(), shutdown.deadline()), (Phase::Running, None));
        shutdown.drain();
        let deadline = shutdown.deadline();
        shutdown.drain();
        assert_eq!(shutdown.deadline(), deadline);
        shutdown.stop();
        shutdown.drain();
        assert_eq!(shutdown.phase(), Phase::Stopped);
    }

    #[tokio::test]
    async fn a_clone_on_another_task_sees_every_phase() {
        let shutdown = Shutdown::new(LONG);
        let other = shutdown.clone();
        let watcher = tokio::spawn(async move {
            other.draining().await;
            let seen = other.phase();
            other.stop();
            seen
        });
        tokio::task::yield_now().await;
        shutdown.drain();
        shutdown.stopped().await;
        assert_eq!(watcher.await.expect("the watcher ends"), Phase::Draining);
    }

    #[tokio::test]
    async fn a_stop_while_work_is_open_ends_the_wait_before_the_deadline() {
        let shutdown = Shutdown::new(LONG);
        let _work = shutdown.hold();
        shutdown.drain();
        shutdown.stop();
        assert_eq!(shutdown.drained().await, Drained::Cut { open: 1 });
    }
}
