//! What a client hears of its session while it goes on, as server-sent events.
//!
//! Source: the WHEP group's extension for server-sent events; the HTML standard s9.2 (`text/event-stream`).

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use tokio::{
    sync::mpsc,
    time::{Interval, MissedTickBehavior, interval},
};

/// Most listeners of one session.
pub const MAX_LISTENERS: usize = 4;
/// Events that wait for one listener; one that does not read hears no more.
pub const QUEUE: usize = 16;
/// How often a comment is sent, so that proxies and clients see that the stream is alive.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// The events that an engine has, as the `Link` of a session names them.
pub const NAMES: &str = "active,inactive,layers,moved";

/// Something that a session's owner wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEvent {
    /// The stream's publisher sends.
    Active,
    /// The stream waits for its publisher.
    Inactive,
    /// The layers of the stream, and which of them packets come of: a JSON document.
    Layers(String),
    /// The engine ends and the session with it: begin anew, elsewhere.
    Moved,
}

impl SessionEvent {
    fn frame(&self) -> Bytes {
        Bytes::from_static(match self {
            Self::Active => b"event: active\ndata: {}\n\n",
            Self::Inactive => b"event: inactive\ndata: {}\n\n",
            Self::Moved => b"event: moved\ndata: {}\n\n",
            Self::Layers(document) => return format!("event: layers\ndata: {document}\n\n").into(),
        })
    }
}

/// The body of an answer: all of it, or events until the session ends. What it holds is let go with it.
pub struct AnswerBody<H> {
    content: Content,
    _held: Option<H>,
}

enum Content {
    Whole(Full<Bytes>),
    Events(mpsc::Receiver<SessionEvent>, Interval),
}

/// A body before it is known what it holds.
pub enum Unheld {
    /// All of it.
    Whole(Full<Bytes>),
    /// Events.
    Events(mpsc::Receiver<SessionEvent>),
}

impl Default for Unheld {
    fn default() -> Self {
        Self::Whole(Full::default())
    }
}

impl Unheld {
    /// The same, holding `held` until its end.
    pub fn holding<H>(self, held: H) -> AnswerBody<H> {
        let content = match self {
            Self::Whole(full) => Content::Whole(full),
            Self::Events(events) => {
                let mut beat = interval(HEARTBEAT);
                beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
                Content::Events(events, beat)
            }
        };
        AnswerBody { content, _held: Some(held) }
    }
}

impl<H: Unpin> Body for AnswerBody<H> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.get_mut().content {
            Content::Whole(full) => Pin::new(full).poll_frame(context),
            Content::Events(events, beat) => match events.poll_recv(context) {
                Poll::Ready(event) => Poll::Ready(event.map(|event| Ok(Frame::data(event.frame())))),
                Poll::Pending => beat.poll_tick(context).map(|_| {
                    let comment = Bytes::from_static(b": \n\n");
                    Some(Ok(Frame::data(comment)))
                }),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(full) => full.is_end_stream(),
            Content::Events(..) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(full) => full.size_hint(),
            Content::Events(..) => SizeHint::default(),
        }
    }
}
