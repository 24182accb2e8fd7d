//! Answer bodies: whole, in pieces, or a watch stream, with the faults that hit them on the way.

use std::convert::Infallible;
use std::io::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use e2e_cloud::{Fault, Status, WatchCursor};
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body::Frame;
use tokio::sync::mpsc;

use super::link::Connection;
use super::shared::Shared;

/// A body fed by a task.
pub(super) struct Piped {
    pieces: mpsc::Receiver<Bytes>,
}

impl http_body::Body for Piped {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.pieces.poll_recv(cx).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// What a task writes to a body.
pub(super) struct Writer {
    shared: Arc<Shared>,
    order: u64,
    pieces: mpsc::Sender<Bytes>,
    connection: Arc<Connection>,
    /// Bytes that the HTTP layer took while the link was silent: counted when it is not, never if the client has gone.
    waiting: AtomicUsize,
}

/// The client has gone.
struct Gone;

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, order: u64, connection: Arc<Connection>) -> (Self, Piped) {
        // One piece at a time: what is counted as sent is in the hands of the HTTP layer.
        let (sender, pieces) = mpsc::channel(1);
        let waiting = AtomicUsize::new(0);
        (Self { shared, order, pieces: sender, connection, waiting }, Piped { pieces })
    }

    async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        let length = bytes.len();
        self.pieces.send(bytes).await.map_err(|_| Gone)?;
        self.waiting.fetch_add(length, Ordering::Relaxed);
        self.count();
        Ok(())
    }

    /// Count what has left.
    fn count(&self) {
        if !self.connection.switch.is_silent() && !self.pieces.is_closed() {
            self.shared.count_sent(self.order, self.waiting.swap(0, Ordering::Relaxed));
        }
    }

    /// Send nothing more until the client goes.
    async fn stall(&self) {
        self.pieces.closed().await;
    }
}

/// One gzip member.
pub(super) fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("writing to memory");
    encoder.finish().expect("writing to memory").into()
}

/// Send a whole body under a fault.
pub(super) async fn full(writer: Writer, body: Bytes, fault: Fault) {
    let half = body.slice(..body.len() / 2);
    // A client that goes early is no concern of the cloud.
    match fault {
        Fault::StallMidFrame => {
            if writer.send(half).await.is_ok() {
                writer.stall().await;
            }
        }
        Fault::Truncate => drop(writer.send(half).await),
        Fault::SlowBody { chunk_bytes, pause } => {
            for piece in body.chunks(chunk_bytes.max(1)) {
                if writer.send(Bytes::copy_from_slice(piece)).await.is_err() {
                    break;
                }
                tokio::time::sleep(pause).await;
            }
        }
        _ => drop(writer.send(body).await),
    }
}

/// What a fault means for the stream that it hit.
enum Next {
    Continue,
    End,
}

/// Run a watch stream until it ends, the client goes or a fault stops it.
pub(super) async fn stream(
    writer: Writer,
    mut cursor: Box<WatchCursor>,
    compress: bool,
    connection: Arc<Connection>,
) {
    let shared = writer.shared.clone();
    let mut changes = shared.changes();
    loop {
        changes.borrow_and_update();
        writer.count();
        let now = shared.now();
        let starting = cursor.is_starting();
        let frames = cursor.poll(&shared.core(), now);
        if starting && !cursor.is_starting() {
            shared.note_initial(writer.order, frames.iter().map(Bytes::len).sum());
        }
        let fault = shared.take_stream_fault(writer.order);
        if let Some(fault) = fault {
            let Next::Continue = hit(&writer, &mut cursor, &frames, &fault, compress, &connection).await
            else {
                break;
            };
        } else if flush(&writer, &frames, compress).await.is_err() {
            break;
        }
        if cursor.is_ended() {
            break;
        }
        let wait = cursor.wake_at().saturating_sub(shared.now());
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep(wait.max(Duration::from_millis(1))) => {}
            () = writer.pieces.closed() => break,
        }
    }
    shared.close_stream(writer.order);
}

/// Send frames as one flush.
async fn flush(writer: &Writer, frames: &[Bytes], compress: bool) -> Result<(), Gone> {
    if frames.is_empty() {
        return Ok(());
    }
    let joined = frames.concat();
    writer.send(if compress { gzip(&joined) } else { joined.into() }).await
}

async fn hit(
    writer: &Writer,
    cursor: &mut WatchCursor,
    frames: &[Bytes],
    fault: &Fault,
    compress: bool,
    connection: &Connection,
) -> Next {
    match fault {
        Fault::StallMidFrame | Fault::Truncate => {
            // What was due goes out first; the last frame, or else a bookmark, is cut in half.
            let (whole, last) = match frames.split_last() {
                Some((last, whole)) => (whole, last.clone()),
                None => (frames, cursor.spare_frame(writer.shared.now())),
            };
            let mut all = whole.to_vec();
            all.push(last.slice(..last.len() / 2));
            let sent = flush(writer, &all, compress).await;
            if *fault == Fault::StallMidFrame && sent.is_ok() {
                writer.stall().await;
            }
            Next::End
        }
        Fault::Hang => {
            writer.stall().await;
            Next::End
        }
        Fault::Reset => {
            connection.switch.set_reset();
            connection.kill.notify_one();
            Next::End
        }
        Fault::End => Next::End,
        Fault::Status { code, .. } | Fault::ErrorEvent { code } => {
            let mut all = frames.to_vec();
            all.push(cursor.error(&Status::with_code(*code, None)));
            // A client that goes early is no concern of the cloud.
            drop(flush(writer, &all, compress).await);
            Next::End
        }
        Fault::GoAway => {
            connection.go_away.notify_one();
            if flush(writer, frames, compress).await.is_ok() { Next::Continue } else { Next::End }
        }
        Fault::SlowBody { chunk_bytes, pause } => {
            let joined = frames.concat();
            for piece in joined.chunks((*chunk_bytes).max(1)) {
                if writer.send(Bytes::copy_from_slice(piece)).await.is_err() {
                    return Next::End;
                }
                tokio::time::sleep(*pause).await;
            }
            Next::Continue
        }
    }
}
