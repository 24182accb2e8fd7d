//! Accepts connections of one listener while its link is up, and lets go of them as the link wants.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};

use super::link::{Connection, Link, LinkState};
use super::serve;
use super::shared::Shared;

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
