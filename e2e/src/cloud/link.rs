//! One listener of the cloud: accept, refuse, or accept and never answer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use super::control::Shared;
use super::serve;
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
    wanted: watch::Sender<LinkState>,
    applied: watch::Sender<LinkState>,
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

    fn change_connections(&self, change: impl FnOnce(&mut BTreeMap<u64, Arc<Connection>>)) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut connections);
        self.count.send_replace(connections.len());
    }
}

/// Accept until the cloud goes.
pub(super) async fn accept(shared: Arc<Shared>, link: Arc<Link>, listener: TcpListener) {
    let mut listener = Some(listener);
    let mut wanted = link.wanted.subscribe();
    let mut serial = 0_u64;
    loop {
        let state = *wanted.borrow_and_update();
        match state {
            LinkState::Refused => listener = None,
            LinkState::Up | LinkState::BlackHole => {
                if listener.is_none() {
                    listener = rebind(link.address).await;
                }
                for connection in link.open() {
                    connection.switch.set_silent(state == LinkState::BlackHole);
                }
            }
        }
        link.applied.send_replace(state);
        loop {
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() { return; }
                    break;
                }
                () = shared.stopped() => return,
                stream = accept_one(listener.as_ref()) => {
                    serial += 1;
                    adopt(&shared, &link, serial, stream, state);
                }
            }
        }
    }
}

async fn accept_one(listener: Option<&TcpListener>) -> TcpStream {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        // An error of accept concerns one connection that went before it was ours.
        if let Ok((stream, _)) = listener.accept().await {
            return stream;
        }
    }
}

/// The address was ours until the cut, so only another process can hold it now.
async fn rebind(address: SocketAddr) -> Option<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => Some(listener),
        Err(error) => {
            tracing::error!(%address, %error, "the model cloud cannot listen again");
            None
        }
    }
}

fn adopt(shared: &Arc<Shared>, link: &Arc<Link>, serial: u64, stream: TcpStream, state: LinkState) {
    let connection = Arc::new(Connection::default());
    connection.switch.set_silent(state == LinkState::BlackHole);
    link.change_connections(|all| {
        all.insert(serial, connection.clone());
    });
    let (shared, link) = (shared.clone(), link.clone());
    tokio::spawn(async move {
        serve::connection(&shared, &link, &connection, stream).await;
        shared.count_wire(&connection.switch);
        link.change_connections(|all| {
            all.remove(&serial);
        });
    });
}
