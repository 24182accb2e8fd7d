//! One listener of the cloud: accept, refuse, or accept and never answer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};

use super::wire::Switch;

/// What the way to a replica is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// It works.
    Up,
    /// Connections are refused; open ones were reset.
    Refused,
    /// Packets vanish: open connections are silent, new ones are accepted and get no answer.
    /// When the link is up again both go on.
    BlackHole,
}

/// An open connection, as the link sees it.
#[derive(Debug, Default)]
pub(super) struct Connection {
    pub(super) switch: Arc<Switch>,
    pub(super) kill: Notify,
    pub(super) go_away: Notify,
}

/// A listener and its connections.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) address: SocketAddr,
    pub(super) replica: usize,
    pub(super) wanted: watch::Sender<LinkState>,
    pub(super) applied: watch::Sender<LinkState>,
    connections: Mutex<BTreeMap<u64, Arc<Connection>>>,
    count: watch::Sender<usize>,
}

impl Link {
    pub(super) fn new(address: SocketAddr, replica: usize) -> Self {
        Self {
            address,
            replica,
            wanted: watch::Sender::new(LinkState::Up),
            applied: watch::Sender::new(LinkState::Up),
            connections: Mutex::default(),
            count: watch::Sender::new(0),
        }
    }

    /// Change the link and wait until the change holds; with `Refused` until every connection is gone.
    pub(super) async fn set(&self, state: LinkState) {
        self.wanted.send_replace(state);
        let mut applied = self.applied.subscribe();
        // The senders live as long as `self`, so the waits cannot fail.
        let _ = applied.wait_for(|s| *s == state).await;
        if state == LinkState::Refused {
            self.reset_all();
            let mut count = self.count.subscribe();
            let _ = count.wait_for(|n| *n == 0).await;
        }
    }

    /// Reset all connections; new ones are accepted.
    pub(super) fn reset_all(&self) {
        for connection in self.open() {
            connection.switch.set_reset();
            connection.kill.notify_one();
        }
    }

    /// Close all connections gracefully (HTTP/2: GOAWAY).
    pub(super) fn go_away_all(&self) {
        for connection in self.open() {
            connection.go_away.notify_one();
        }
    }

    pub(super) fn open(&self) -> Vec<Arc<Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(super) fn change_connections(&self, change: impl FnOnce(&mut BTreeMap<u64, Arc<Connection>>)) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut connections);
        self.count.send_replace(connections.len());
    }
}
