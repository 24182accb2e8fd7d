//! How a connection to an API server comes to be: by this node's own link, or through a coordinator of its pool, which
//! passes bytes on. TLS is the hub's own, end to end, either way.

use std::{
    io,
    net::SocketAddr,
    os::fd::AsFd as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use proto_daemon::api_server::ApiServer;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::pool::Coordinator;

/// Head start of the preferred server over the next one, and of the own link over a coordinator.
const STAGGER: Duration = Duration::from_millis(300);

/// Which way a connection takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// This node's own link.
    Direct,
    /// Through the coordinator of this place in the configuration.
    Relayed(usize),
}

/// Which ways a new connection may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// That of the probed connection.
    Current,
    /// Any; the own link has a head start.
    Any,
    /// The own link.
    Direct,
}

/// What to try: after which time, which way, which server. `order` names the servers, the preferred one first; `current` is
/// the way of the probed connection.
pub(super) fn attempts(
    order: impl Iterator<Item = usize>,
    relays: usize,
    way: Way,
    current: Route,
) -> Vec<(Duration, Route, usize)> {
    let mut attempts = Vec::new();
    for (turn, index) in order.enumerate() {
        let routes = std::iter::once(Route::Direct).chain((0..relays).map(Route::Relayed));
        for (place, candidate) in routes.enumerate() {
            let is_meant = match way {
                Way::Any => true,
                Way::Direct => candidate == Route::Direct,
                Way::Current => candidate == current,
            };
            let steps = if way == Way::Any { turn + place } else { turn };
            let delay = STAGGER.saturating_mul(u32::try_from(steps).unwrap_or(u32::MAX));
            attempts.extend(is_meant.then_some((delay, candidate, index)));
        }
    }
    attempts
}

/// What carries the TLS of an API server.
pub enum Socket {
    /// This node's own link.
    Direct(TcpStream),
    /// A stream through a coordinator.
    Relayed(Box<TokioIo<Upgraded>>),
}

/// A connection to an API server.
pub(super) struct Dialled {
    /// TLS, verified.
    pub(super) stream: TlsStream<Socket>,
    /// The socket beneath it once more, to shut it.
    pub(super) socket: std::net::TcpStream,
}

/// By this node's own link.
pub(super) async fn direct(server: &ApiServer, config: Arc<rustls::ClientConfig>) -> io::Result<Dialled> {
    let mut last = io::Error::other("the name has no address");
    for address in tokio::net::lookup_host((server.host(), server.port())).await?.collect::<Vec<SocketAddr>>()
    {
        match TcpStream::connect(address).await {
            Ok(tcp) => {
                tcp.set_nodelay(true)?;
                let socket = tcp.as_fd().try_clone_to_owned()?.into();
                return secure(server, config, Socket::Direct(tcp), socket).await;
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Through a coordinator.
pub(super) async fn relayed(
    coordinator: &Coordinator,
    server: &ApiServer,
    config: Arc<rustls::ClientConfig>,
) -> io::Result<Dialled> {
    let host = server.host();
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let (upgraded, socket) = coordinator.relay(&format!("{host}:{}", server.port())).await?;
    secure(server, config, Socket::Relayed(Box::new(TokioIo::new(upgraded))), socket).await
}

/// The other end of an idle connection is asked after 30 s, and the connection ends when three questions were not answered.
pub(super) fn keep_alive(socket: &std::net::TcpStream) -> io::Result<()> {
    let asked = TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    SockRef::from(socket).set_tcp_keepalive(&asked)
}

async fn secure(
    server: &ApiServer,
    config: Arc<rustls::ClientConfig>,
    carrier: Socket,
    socket: std::net::TcpStream,
) -> io::Result<Dialled> {
    let stream = TlsConnector::from(config).connect(server.name.clone(), carrier).await?;
    Ok(Dialled { stream, socket })
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Direct(tcp) => Pin::new(tcp).poll_read(context, buffer),
            Self::Relayed(stream) => Pin::new(stream.as_mut()).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Direct(tcp) => Pin::new(tcp).poll_write(context, bytes),
            Self::Relayed(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Direct(tcp) => Pin::new(tcp).poll_flush(context),
            Self::Relayed(stream) => Pin::new(stream.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Direct(tcp) => Pin::new(tcp).poll_shutdown(context),
            Self::Relayed(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Direct(tcp) => Pin::new(tcp).poll_write_vectored(context, parts),
            Self::Relayed(stream) => Pin::new(stream.as_mut()).poll_write_vectored(context, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Direct(tcp) => tcp.is_write_vectored(),
            Self::Relayed(stream) => stream.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_link_is_ahead_of_coordinators_and_the_preferred_server_of_the_others() {
        let tried = attempts([1, 0].into_iter(), 2, Way::Any, Route::Direct);
        let at =
            |route, index| tried.iter().find(|each| each.1 == route && each.2 == index).map(|each| each.0);
        assert_eq!(tried.len(), 6);
        assert_eq!(at(Route::Direct, 1), Some(Duration::ZERO));
        assert_eq!(at(Route::Direct, 0), Some(STAGGER));
        assert_eq!(at(Route::Relayed(0), 1), Some(STAGGER));
        assert_eq!(at(Route::Relayed(1), 0), Some(STAGGER * 3));
    }

    #[test]
    fn what_follows_the_probed_connection_takes_its_way_alone_and_at_once() {
        let relayed = attempts([0].into_iter(), 2, Way::Current, Route::Relayed(1));
        assert_eq!(relayed, [(Duration::ZERO, Route::Relayed(1), 0)]);
        assert_eq!(
            attempts([0].into_iter(), 2, Way::Direct, Route::Relayed(1)),
            [(Duration::ZERO, Route::Direct, 0)]
        );
        assert_eq!(attempts([0].into_iter(), 0, Way::Any, Route::Direct).len(), 1, "a hub without a pool");
    }
}
