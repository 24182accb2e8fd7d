//! The two kinds of socket that a stream ends in, and what a link notes of its own: when its last byte came.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::{TcpStream, UnixStream};

use crate::clock::Clock;

/// How long sent bytes may stay unacknowledged until the kernel gives the connection up.
const USER_TIMEOUT: Duration = Duration::from_secs(3);
/// The same on a connection to a kubelet, whose network is near: a node that restarts its network is no dead one.
const DIALLED_USER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection to a kubelet is silent until it is probed, how often, and how many probes may stay unanswered.
const PROBE_AFTER: Duration = Duration::from_secs(15);
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBES: u32 = 3;
/// How much of a link's bytes the kernel takes ahead of the wire: what waits above it can still be overtaken.
const NOT_SENT_LOW_WATER: u32 = 16 * 1024;

/// Where a stream ends: at the API server's connection, or at the kubelet's.
#[derive(Debug)]
pub enum Socket {
    /// A unix socket.
    Unix(UnixStream),
    /// A TCP connection.
    Tcp(TcpStream),
}

impl Socket {
    async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match self {
            Self::Unix(socket) => socket.ready(interest).await,
            Self::Tcp(socket) => socket.ready(interest).await,
        }
    }

    /// Returns when a read is worth trying.
    ///
    /// # Errors
    /// Those of the system.
    pub async fn readable(&self) -> io::Result<()> {
        self.ready(Interest::READABLE).await.map(drop)
    }

    /// Reads what is there into the room that `buffer` has; 0 is the end.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is there; those of the system.
    pub fn try_read(&self, buffer: &mut bytes::BytesMut) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.try_read_buf(buffer),
            Self::Tcp(socket) => socket.try_read_buf(buffer),
        }
    }

    /// Writes some of `slices` once the socket takes any; returns how many bytes.
    ///
    /// # Errors
    /// Those of the system.
    pub async fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        loop {
            self.ready(Interest::WRITABLE).await?;
            let written = match self {
                Self::Unix(socket) => socket.try_write_vectored(slices),
                Self::Tcp(socket) => socket.try_write_vectored(slices),
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }

    /// Tells the other side that nothing more comes; it may still send.
    pub fn close_write(&self) {
        // One that has gone already needs no word.
        let _ = match self {
            Self::Unix(socket) => SockRef::from(socket).shutdown(Shutdown::Write),
            Self::Tcp(socket) => SockRef::from(socket).shutdown(Shutdown::Write),
        };
    }

    /// Whether the other side is gone altogether: it neither sends nor reads any more. Known of unix sockets only; a TCP
    /// connection shows that at the next write.
    pub async fn is_gone(&self) -> bool {
        match self {
            Self::Unix(socket) => {
                // The close and the end of its bytes arrive in one event, so that this does not wait for long.
                let ready = socket.ready(Interest::WRITABLE);
                tokio::time::timeout(Duration::from_millis(1), ready)
                    .await
                    .is_ok_and(|ready| ready.is_ok_and(Ready::is_write_closed))
            }
            Self::Tcp(_) => false,
        }
    }

    /// Returns when the other side has closed before it sent anything; never if it sends something.
    pub async fn hung_up(&self) {
        if self.spoken().await.is_ok_and(|bytes| bytes > 0) {
            std::future::pending().await
        }
    }

    /// Returns when something waits to be read, and leaves it there; 0 is the end.
    ///
    /// # Errors
    /// Those of the system.
    pub async fn spoken(&self) -> io::Result<usize> {
        let mut byte = [MaybeUninit::uninit()];
        loop {
            self.readable().await?;
            // tokio's readiness stays from the read before until an attempt in `try_io` finds nothing.
            let peeked = match self {
                Self::Unix(socket) => {
                    socket.try_io(Interest::READABLE, || SockRef::from(socket).peek(&mut byte))
                }
                Self::Tcp(socket) => {
                    socket.try_io(Interest::READABLE, || SockRef::from(socket).peek(&mut byte))
                }
            };
            match peeked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }

    /// Closes in a way that the other side can tell from a good end, where the socket's kind has one.
    pub fn abort(self) {
        if let Self::Tcp(socket) = &self {
            // The kernel then sends RST instead of FIN.
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
    }
}

/// Sets what a link's TCP connection needs.
///
/// # Errors
/// Those of the system.
pub fn prepare(socket: &TcpStream) -> io::Result<Breaker> {
    socket.set_nodelay(true)?;
    let options = SockRef::from(socket);
    options.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    options.set_tcp_notsent_lowat(NOT_SENT_LOW_WATER)?;
    Ok(Breaker(socket.as_fd().try_clone_to_owned()?))
}

/// Sets what a connection to a kubelet needs: what a person types does not wait for more of it, and a host that is
/// gone without a word is noticed within 30 s also by a stream on which nothing is said.
///
/// # Errors
/// Those of the system.
pub fn prepare_dialled(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let options = SockRef::from(socket);
    options.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY).with_retries(PROBES),
    )?;
    options.set_tcp_user_timeout(Some(DIALLED_USER_TIMEOUT))
}

/// A hold on a link's connection below TLS and HTTP/2, for the case that it is dead.
#[derive(Debug)]
pub struct Breaker(OwnedFd);

impl Breaker {
    /// Lets the kernel close with RST. A FIN would wait behind what nobody acknowledges; where only the way back is cut,
    /// the RST still arrives, and the other end need not wait for its own silence.
    pub fn break_off(&self) {
        // A connection that is closed already has nothing to say.
        let _ = SockRef::from(&self.0).set_linger(Some(Duration::ZERO));
    }
}

/// When the last byte of a connection came.
#[derive(Clone, Debug)]
pub struct LastHeard {
    clock: Clock,
    micros: Arc<AtomicU64>,
}

impl LastHeard {
    /// The time of the last byte, by the clock that it was made with.
    #[must_use]
    pub fn at(&self) -> Duration {
        Duration::from_micros(self.micros.load(Ordering::Relaxed))
    }

    fn note(&self) {
        let micros = u64::try_from(self.clock.now().as_micros()).unwrap_or(u64::MAX);
        self.micros.store(micros, Ordering::Relaxed);
    }
}

/// A connection that notes when bytes come.
#[derive(Debug)]
pub struct Listening<S> {
    inner: S,
    heard: LastHeard,
}

impl<S> Listening<S> {
    /// Notes from here on.
    #[must_use]
    pub fn new(inner: S, clock: Clock) -> (Self, LastHeard) {
        let heard = LastHeard { clock, micros: Arc::default() };
        heard.note();
        (Self { inner, heard: heard.clone() }, heard)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Listening<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.heard.note();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Listening<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_to_a_kubelet_is_probed_and_given_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let socket = TcpStream::connect(address).await.expect("it listens");
        prepare_dialled(&socket).expect("options of every Linux");
        let options = SockRef::from(&socket);
        assert!(options.keepalive().expect("read") && options.tcp_nodelay().expect("read"));
        assert_eq!(options.tcp_keepalive_time().expect("read"), PROBE_AFTER);
        assert_eq!(options.tcp_keepalive_interval().expect("read"), PROBE_EVERY);
        assert_eq!(options.tcp_keepalive_retries().expect("read"), PROBES);
        assert_eq!(options.tcp_user_timeout().expect("read"), Some(DIALLED_USER_TIMEOUT));
    }
}
