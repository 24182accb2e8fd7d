//! One stream of a link, spliced to a socket: both directions, half-closes and aborts passed on.
//!
//! Towards the socket every frame is taken out of HTTP/2 at once and its credit given back when the socket took the
//! bytes. Towards the link a byte is read from the socket only to be sent: an idle stream holds no credit and no buffer.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cloud_tunnel_core::budget::{Budget, StreamId};
use cloud_tunnel_core::class::{Class, Meter};
use h2::{Reason, RecvStream, SendStream};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tokio::sync::{Notify, oneshot};

use super::held::Held;
use super::socket::Socket;
use crate::clock::Clock;
use crate::metrics::{Metrics, Way};

/// How much is read from a socket at a time, at least and at most.
const SMALLEST_READ: usize = 4 * 1024;
const LARGEST_READ: usize = 64 * 1024;
/// How long the far side may take to end by itself after the near one is gone altogether.
const LINGER: Duration = Duration::from_secs(5);

/// The streams of one link: how many, and what waits in them.
#[derive(Debug)]
pub struct Streams {
    most: usize,
    clock: Clock,
    metrics: Metrics,
    open: AtomicUsize,
    /// When a byte of any stream moved last, in microseconds by the clock.
    moved: AtomicU64,
    next: Mutex<StreamId>,
    budget: Mutex<Waiting>,
    /// Told when the last stream ended, and when the budget must be looked at by the clock.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    budget: Budget,
    resets: BTreeMap<StreamId, oneshot::Sender<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Streams {
    /// None yet; at most `most` at a time.
    #[must_use]
    pub fn new(most: usize, clock: Clock, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            most,
            clock,
            metrics,
            open: AtomicUsize::new(0),
            moved: AtomicU64::new(0),
            next: Mutex::new(0),
            budget: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// How many are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// When a byte of any stream moved last.
    #[must_use]
    pub fn last_moved(&self) -> Duration {
        Duration::from_micros(self.moved.load(Ordering::Relaxed))
    }

    /// The bytes that wait for their readers.
    #[must_use]
    pub fn buffered(&self) -> u64 {
        lock(&self.budget).budget.total()
    }

    /// A place for one more; `None` if the link is full.
    pub fn enter(self: &Arc<Self>, class: Class, name: String) -> Option<Ticket> {
        let entered = self
            .open
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |open| (open < self.most).then_some(open + 1));
        entered.ok()?;
        let id = {
            let mut next = lock(&self.next);
            *next += 1;
            *next
        };
        Some(Ticket { tally: Tally::new(&self.metrics, class), streams: Arc::clone(self), id, name })
    }

    /// Waits until the last stream has ended or a stream began to wait beyond the budget.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Resets whom the budget names at this time, and says when to look again.
    pub fn enforce(&self) -> Option<Duration> {
        let now = self.clock.now();
        self.account(|waiting| {
            while let Some(stream) = waiting.budget.whom_to_reset(now) {
                if let Some(reset) = waiting.resets.remove(&stream) {
                    // It may have ended in this very moment.
                    let _ = reset.send(());
                }
            }
            waiting.budget.next_look()
        })
    }

    fn came(&self, stream: StreamId, bytes: usize) {
        let now = self.clock.now();
        let (before, after) = self.account(|waiting| {
            let before = waiting.budget.next_look().is_some();
            waiting.budget.came(now, stream, bytes);
            (before, waiting.budget.next_look().is_some())
        });
        if after {
            self.enforce();
        }
        // Whoever looks by the clock must learn that there is something to look at.
        if after && !before {
            self.changed.notify_one();
        }
    }

    fn taken(&self, stream: StreamId, bytes: usize) {
        let now = self.clock.now();
        self.account(|waiting| waiting.budget.taken(now, stream, bytes));
    }

    /// Changes the budget and lets the gauge follow.
    fn account<T>(&self, change: impl FnOnce(&mut Waiting) -> T) -> T {
        let mut waiting = lock(&self.budget);
        let before = number(waiting.budget.total());
        let changed = change(&mut waiting);
        self.metrics.buffered().inc_by(number(waiting.budget.total()) - before);
        changed
    }

    fn watch(&self, stream: StreamId) -> oneshot::Receiver<()> {
        let (reset, was_reset) = oneshot::channel();
        lock(&self.budget).resets.insert(stream, reset);
        was_reset
    }
}

fn number(value: u64) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

/// A place among the streams of a link.
#[derive(Debug)]
pub struct Ticket {
    streams: Arc<Streams>,
    id: StreamId,
    tally: Tally,
    /// For the log: the node and what was dialled.
    name: String,
}

impl Ticket {
    fn moved(&self, way: Way, bytes: usize) {
        let now = self.streams.clock.now();
        self.streams.moved.store(u64::try_from(now.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.tally.moved(now, way, bytes);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.streams.account(|waiting| {
            waiting.budget.ended(self.id);
            waiting.resets.remove(&self.id);
        });
        if self.streams.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.streams.changed.notify_one();
        }
    }
}

/// What one stream adds to the counters.
#[derive(Debug)]
struct Tally {
    metrics: Metrics,
    state: Mutex<(Class, Meter)>,
    gauge: Mutex<Gauge>,
    bytes: Mutex<[Counter; 2]>,
}

impl Tally {
    fn new(metrics: &Metrics, class: Class) -> Self {
        let gauge = metrics.streams(class);
        gauge.inc();
        Self {
            metrics: metrics.clone(),
            state: Mutex::new((class, Meter::new(Duration::ZERO))),
            gauge: Mutex::new(gauge),
            bytes: Mutex::new([metrics.bytes(Way::ToEdge, class), metrics.bytes(Way::ToCloud, class)]),
        }
    }

    fn moved(&self, now: Duration, way: Way, bytes: usize) {
        let mut state = lock(&self.state);
        let (class, meter) = &mut *state;
        let judged = if *class == Class::Control { Class::Control } else { meter.moved(now, bytes) };
        if judged != *class {
            *class = judged;
            let mut gauge = lock(&self.gauge);
            gauge.dec();
            *gauge = self.metrics.streams(judged);
            gauge.inc();
            *lock(&self.bytes) =
                [self.metrics.bytes(Way::ToEdge, judged), self.metrics.bytes(Way::ToCloud, judged)];
        }
        lock(&self.bytes)[usize::from(way == Way::ToCloud)].inc_by(bytes as u64);
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        lock(&self.gauge).dec();
    }
}

/// Why a stream ended before both sides had said all.
#[derive(Debug)]
enum Broken {
    /// The link, or the far side of it, ended the stream.
    Far,
    /// The socket failed, or its other side is gone.
    Near,
    /// The budget named it.
    Budget,
    /// The near side is gone and the far one did not end by itself.
    Lingered,
}

/// Splices `socket` and a stream until both directions have ended or one is broken. `first` are bytes that were read
/// from the socket already; `out` is the direction from the socket to the link.
pub async fn carry(
    socket: Socket,
    mut send: SendStream<Bytes>,
    mut recv: RecvStream,
    ticket: &Ticket,
    first: Bytes,
    out: Way,
) {
    let back = if out == Way::ToEdge { Way::ToCloud } else { Way::ToEdge };
    let broken = {
        let mut outward = pin!(outward(&socket, &mut send, ticket, first, out));
        let mut inward = pin!(inward(&socket, &mut recv, ticket, back));
        tokio::select! {
            ended = &mut outward => match ended {
                Ok(Near::Gone) => {
                    tokio::time::timeout(LINGER, inward).await.unwrap_or(Err(Broken::Lingered))
                }
                Ok(Near::There) => inward.await,
                Err(broken) => Err(broken),
            },
            ended = &mut inward => match ended {
                Ok(()) => outward.await.map(drop),
                Err(broken) => Err(broken),
            },
        }
    };
    let Err(broken) = broken else { return };
    let reason = match broken {
        // What the far side ended needs no word back.
        Broken::Far => return socket.abort(),
        Broken::Near => "peer_gone",
        Broken::Lingered => "lingered",
        Broken::Budget => {
            tracing::warn!(
                stream = ticket.name,
                "reset: its reader has stopped and the link's buffers are full"
            );
            "budget"
        }
    };
    ticket.streams.metrics.stream_reset(reason);
    send.send_reset(Reason::CANCEL);
    socket.abort();
}

/// Whether the near side can still be told something.
enum Near {
    There,
    Gone,
}

async fn outward(
    socket: &Socket,
    send: &mut SendStream<Bytes>,
    ticket: &Ticket,
    first: Bytes,
    way: Way,
) -> Result<Near, Broken> {
    let tally = |bytes: usize| ticket.moved(way, bytes);
    if !first.is_empty() {
        tally(first.len());
        push(socket, send, first).await?;
    }
    let mut size = SMALLEST_READ;
    loop {
        tokio::select! {
            readable = socket.readable() => readable.map_err(|_| Broken::Near)?,
            _ = poll_fn(|cx| send.poll_reset(cx)) => return Err(Broken::Far),
        }
        // Not before there is something: an idle stream holds no buffer.
        let mut chunk = BytesMut::with_capacity(size);
        match socket.try_read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => {
                tally(read);
                size = (2 * read).clamp(SMALLEST_READ, LARGEST_READ);
                push(socket, send, compact(chunk)).await?;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(Broken::Near),
        }
    }
    send.send_data(Bytes::new(), true).map_err(|_| Broken::Far)?;
    Ok(if socket.is_gone().await { Near::Gone } else { Near::There })
}

/// The bytes of a read. HTTP/2 keeps what waits for the wire in pieces as they came, and a keystroke would keep a
/// whole read buffer alive; the copy of what fills less than half of one has exactly its own size.
fn compact(chunk: BytesMut) -> Bytes {
    if chunk.len() < chunk.capacity() / 2 { Bytes::copy_from_slice(&chunk) } else { chunk.freeze() }
}

/// Sends `bytes` as the windows allow; returns when the link has taken all of them, or when `socket`'s other side is
/// gone and the link has taken nothing for [`LINGER`]: nobody is left whom the far side could keep waiting.
async fn push(socket: &Socket, send: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<(), Broken> {
    while !bytes.is_empty() {
        send.reserve_capacity(bytes.len());
        while send.capacity() == 0 {
            match tokio::time::timeout(LINGER, poll_fn(|cx| send.poll_capacity(cx))).await {
                Ok(Some(Ok(_))) => break,
                Ok(Some(Err(_)) | None) => return Err(Broken::Far),
                Err(_) if socket.is_gone().await => return Err(Broken::Lingered),
                Err(_) => {}
            }
        }
        let part = send.capacity().min(bytes.len());
        if part > 0 {
            send.send_data(bytes.split_to(part), false).map_err(|_| Broken::Far)?;
        }
    }
    Ok(())
}

async fn inward(socket: &Socket, recv: &mut RecvStream, ticket: &Ticket, way: Way) -> Result<(), Broken> {
    let (streams, id) = (&ticket.streams, ticket.id);
    let (mut held, mut ended) = (Held::default(), false);
    let mut reset = streams.watch(id);
    loop {
        if ended && held.is_empty() {
            socket.close_write();
            return Ok(());
        }
        let slices = held.slices();
        tokio::select! {
            biased;
            _ = &mut reset => return Err(Broken::Budget),
            frame = recv.data(), if !ended => match frame {
                Some(Ok(frame)) => {
                    drop(slices);
                    if !frame.is_empty() {
                        streams.came(id, frame.len());
                        held.push(frame);
                    }
                }
                Some(Err(_)) => return Err(Broken::Far),
                None => ended = true,
            },
            written = socket.write(&slices), if !held.is_empty() => {
                let Ok(count) = written else { return Err(Broken::Near) };
                drop(slices);
                held.taken(count);
                streams.taken(id, count);
                ticket.moved(way, count);
                // An error means that the stream is over, which the next frame says.
                let _ = recv.flow_control().release_capacity(count);
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keystroke_that_waits_for_the_wire_holds_no_read_buffer() {
        let read = |length: usize| {
            let mut chunk = BytesMut::with_capacity(SMALLEST_READ);
            chunk.extend_from_slice(&vec![b'x'; length]);
            let bytes = compact(chunk);
            assert_eq!(bytes.len(), length);
            bytes.try_into_mut().expect("its only owner").capacity()
        };
        assert_eq!((read(1), read(1000)), (1, 1000));
        assert_eq!(read(SMALLEST_READ), SMALLEST_READ);
    }
}
