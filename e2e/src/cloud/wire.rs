//! One accepted TCP connection whose link can fall silent or be reset, with its bytes counted.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

const UP: u8 = 0;
const SILENT: u8 = 1;
const RESET: u8 = 2;

/// The switch of one connection, shared with whoever cuts it.
#[derive(Debug, Default)]
pub(super) struct Switch {
    state: AtomicU8,
    wakers: Mutex<Vec<Waker>>,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
}

impl Switch {
    pub(super) fn set_silent(&self, silent: bool) {
        self.change(if silent { SILENT } else { UP });
    }

    /// Whoever drops the connection now sends RST instead of FIN.
    pub(super) fn set_reset(&self) {
        self.change(RESET);
    }

    /// Nothing passes at the moment.
    pub(super) fn is_silent(&self) -> bool {
        self.state.load(Ordering::SeqCst) == SILENT
    }

    fn change(&self, state: u8) {
        self.state.store(state, Ordering::SeqCst);
        for waker in std::mem::take(&mut *self.wakers.lock().unwrap_or_else(PoisonError::into_inner)) {
            waker.wake();
        }
    }

    /// Ready when bytes may pass.
    fn poll_open(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if self.state.load(Ordering::SeqCst) == UP {
            return Poll::Ready(Ok(()));
        }
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner).push(cx.waker().clone());
        // Looked at again after the waker is in place, or a change in between would be missed.
        match self.state.load(Ordering::SeqCst) {
            UP => Poll::Ready(Ok(())),
            SILENT => Poll::Pending,
            _ => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }
}

/// The connection. While its link is silent nothing is read and nothing leaves, as when packets are
/// dropped; what was pending goes on when the link comes back.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    switch: Arc<Switch>,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, switch: Arc<Switch>) -> Self {
        Self { stream, switch }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.switch.state.load(Ordering::SeqCst) == RESET {
            // A socket that is gone already needs no reset.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(self.switch.poll_open(cx))?;
        let before = buf.filled().len();
        let result = std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        self.switch.bytes_in.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(result)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.switch.poll_open(cx))?;
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.switch.bytes_out.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.switch.poll_open(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
