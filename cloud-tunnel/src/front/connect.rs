//! The door HTTPConnect over a unix socket: one connection a dial, as kube-apiserver's egress selector makes them.
//!
//! kube-apiserver 1.36 waits for ever for the answer, so that each is given within 5 s. It shows the reason phrase to
//! the user. It takes a byte behind the head for an error: the head is a write of its own, and nothing follows until the
//! client has sent something or 50 ms have passed.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cloud_tunnel_core::connect::{self, HeadError, MAX_HEAD_BYTES, Target};
use cloud_tunnel_core::route::Refusal;
use tokio::net::{UnixListener, UnixStream};

use super::{ACCEPT_PAUSE, ANSWER_LIMIT, Door, HEAD_LIMIT, MOST_STRANGERS};
use crate::link::socket::Socket;
use crate::link::strangers::{Stranger, Strangers};
use crate::link::stream;
use crate::metrics::Way;

/// The name of this door in metrics.
const DOOR: &str = "http_connect";
/// How long the head stays alone when the client sends nothing.
const ALONE: Duration = Duration::from_millis(50);

/// Takes connections until the process stops: while it drains each dial is answered with 503.
pub async fn serve(door: Arc<Door>, listener: UnixListener) {
    let strangers = Strangers::new(MOST_STRANGERS);
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                let door = Arc::clone(&door);
                strangers.spawn(|stranger| async move { door.dial(client, stranger).await });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a dial");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Door {
    async fn dial(&self, client: UnixStream, stranger: Stranger) {
        let client = Socket::Unix(client);
        let head = tokio::time::timeout(HEAD_LIMIT, read_head(&client)).await;
        drop(stranger);
        let (target, first) = match head {
            Ok(Ok(head)) => head,
            Ok(Err(Unread::Refused(error))) => {
                self.metrics.head_refused(DOOR, error.status());
                return refuse(&client, &Refusal::new(error.status(), error.to_string())).await;
            }
            // Nothing came in time, or the client left: there is nobody to answer.
            Ok(Err(Unread::Left)) | Err(_) => return,
        };
        let began = self.clock.now();
        let dialled = tokio::select! {
            dialled = self.reach(&target) => dialled,
            () = client.hung_up(), if first.is_empty() => return self.metrics.dialled(DOOR, 499, self.clock.now() - began),
        };
        let took = self.clock.now() - began;
        let dialled = match dialled {
            Ok(dialled) => dialled,
            Err(refusal) => {
                self.metrics.dialled(DOOR, refusal.status, took);
                tracing::info!(%target, answer = %refusal, ?took, "dial refused");
                return refuse(&client, &refusal).await;
            }
        };
        self.metrics.dialled(DOOR, 200, took);
        tracing::debug!(%target, ?took, "dialled");
        let _hold = self.shutdown.hold();
        let head = connect::answer(200, "connected");
        let answered = tokio::time::timeout(ANSWER_LIMIT, write_all(&client, &head)).await;
        if !matches!(answered, Ok(Ok(()))) {
            return;
        }
        if first.is_empty() {
            let _ = tokio::time::timeout(ALONE, client.spoken()).await;
        }
        let carried = stream::carry(client, dialled.send, dialled.recv, &dialled.ticket, first, Way::ToEdge);
        tokio::select! {
            () = carried => {}
            () = self.shutdown.stopped() => {}
        }
    }
}

/// Why there is no head.
enum Unread {
    Refused(HeadError),
    Left,
}

/// Reads the head, and what the client sent behind it.
async fn read_head(client: &Socket) -> Result<(Target, Bytes), Unread> {
    let mut bytes = BytesMut::with_capacity(1024);
    loop {
        client.readable().await.map_err(|_| Unread::Left)?;
        if bytes.capacity() == bytes.len() {
            bytes.reserve(1024);
        }
        match client.try_read(&mut bytes) {
            Ok(0) => return Err(Unread::Left),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return Err(Unread::Left),
        }
        if let Some((target, length)) = connect::parse(&bytes).map_err(Unread::Refused)? {
            return Ok((target, bytes.split_off(length).freeze()));
        }
        debug_assert!(bytes.len() < MAX_HEAD_BYTES, "the parser bounds what it waits for");
    }
}

async fn refuse(client: &Socket, refusal: &Refusal) {
    let answer = connect::answer(refusal.status, &refusal.reason);
    // A client that has left is told nothing.
    let _ = tokio::time::timeout(ANSWER_LIMIT, write_all(client, &answer)).await;
}

async fn write_all(client: &Socket, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = client.write(&[IoSlice::new(bytes)]).await?;
        bytes = &bytes[written..];
    }
    Ok(())
}
