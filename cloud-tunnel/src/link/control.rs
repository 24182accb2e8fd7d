//! The control stream of a link, alike at both ends: it drives the core's state machine until the link is over.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use cloud_tunnel_core::link::{Action, End, Link};
use h2::{Ping, PingPong, RecvStream, SendStream};
use proto::tunnel::{Hello, MAX_STREAMS, VERSION, VERSION_MIN};

use super::socket::LastHeard;
use super::stream::Streams;
use crate::clock::{self, Clock};

/// How long the streams of a draining link may go on.
pub const DRAIN_GRACE: Duration = Duration::from_secs(30);

/// What a link is made of at either end.
#[derive(Debug)]
pub struct Ends {
    /// The own half of the control stream.
    pub send: SendStream<Bytes>,
    /// The other end's half.
    pub recv: RecvStream,
    /// The connection's PINGs.
    pub ping: PingPong,
    /// When its last byte came.
    pub heard: LastHeard,
}

/// What an end wants to know of its link.
#[derive(Debug)]
pub enum Event {
    /// New streams may come from here on.
    Up {
        /// The version that both speak.
        version: u32,
        /// How the other end introduced itself.
        peer: Hello,
    },
    /// No new streams on this link: this end drains, or the other one does, which says why.
    Drains(String),
}

/// How this end introduces itself on the link `id`.
#[must_use]
pub fn hello(id: String, pool: &str) -> Hello {
    Hello {
        version_min: VERSION_MIN,
        version_max: VERSION,
        id,
        boot: u64::try_from(clock::unix().as_nanos()).unwrap_or(u64::MAX),
        max_streams: MAX_STREAMS,
        pool: pool.to_owned(),
        features: Vec::new(),
    }
}

/// Runs the link until its end. `drain` resolves, with the reason, when this end wants no new streams.
pub async fn run(
    own: Hello,
    mut ends: Ends,
    streams: &Streams,
    clock: Clock,
    drain: impl Future<Output = &'static str>,
    mut tell: impl FnMut(Event),
) -> End {
    let mut link = Link::new(clock.now(), own);
    let (mut drain, mut draining) = (pin!(drain), false);
    loop {
        link.heard(ends.heard.at());
        if streams.open() == 0 {
            link.idle();
        }
        while let Some(action) = link.poll(clock.now()) {
            match action {
                // A few hundred bytes that no window delays; an error shows as the end of the other half.
                Action::Send(control) => drop(ends.send.send_data(control.to_frame().into(), false)),
                // One that is under way already asks as well.
                Action::Ping => drop(ends.ping.send_ping(Ping::opaque())),
                Action::Up { version, peer } => tell(Event::Up { version, peer }),
                Action::PeerDrains { reason, .. } => tell(Event::Drains(reason)),
                Action::Close(end) => {
                    drop(ends.send.send_data(Bytes::new(), true));
                    return end;
                }
            }
        }
        let look = streams.enforce();
        let timeout = link.poll_timeout().into_iter().chain(look).min().unwrap_or_default();
        tokio::select! {
            data = ends.recv.data() => match data {
                Some(Ok(bytes)) => {
                    link.received(clock.now(), &bytes);
                    let _ = ends.recv.flow_control().release_capacity(bytes.len());
                }
                Some(Err(error)) => link.control_ended(Some(error.to_string())),
                None => link.control_ended(None),
            },
            // Its arrival is a byte that was heard; asking for it lets the next PING go.
            pong = poll_fn(|cx| ends.ping.poll_pong(cx)) => {
                if let Err(error) = pong {
                    link.control_ended(Some(error.to_string()));
                }
            }
            reason = &mut drain, if !draining => {
                draining = true;
                link.drain(clock.now(), DRAIN_GRACE, reason);
                tell(Event::Drains(reason.to_owned()));
            }
            () = streams.changed() => {}
            () = tokio::time::sleep_until(clock.instant(timeout)) => {}
        }
    }
}
