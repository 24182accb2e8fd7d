//! A principal's place among the requests in flight. It is held until the answer's body has ended, because until then
//! the answer takes memory or a stream of the cloud's.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use edge_hub_core::identity::Principal;
use http::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use proto_kube::request_info::{RequestInfo, Verb};

use crate::{
    hub::Hub,
    listen::client::Running,
    upstream::{Body, BoxError},
};

/// How long a request takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Until it is answered, which is soon.
    Short,
    /// For as long as its client wants. kube-apiserver's limits on requests in flight do not count these either: a
    /// kubelet has a watch for each ConfigMap and Secret that its pods mount.
    Stream,
}

impl Kind {
    /// Of a request, by what it asks for; an upgrade lasts as a watch does.
    pub(super) fn of(info: &RequestInfo, is_upgrade: bool) -> Self {
        let is_stream = match info {
            RequestInfo::Resource(request) => {
                let subresource = request.subresource.as_deref();
                request.verb == Verb::Watch
                    || request.verb == Verb::Get && subresource == Some("log")
                    || subresource == Some("proxy")
            }
            RequestInfo::NonResource(_) => false,
        };
        if is_stream || is_upgrade { Self::Stream } else { Self::Short }
    }
}

/// A principal's place among the requests in flight.
pub(super) struct Slot {
    count: Arc<AtomicUsize>,
    /// Its connection is in use for as long.
    _running: Option<Running>,
}

impl Slot {
    /// A place for a request of this user, if one is free. This node's own streams have no limit of their own: each
    /// takes one of its connection's, and its kubelet does not choose how many objects its pods mount.
    pub(super) fn take_of(hub: &Hub, user: &Principal, kind: Kind) -> Option<Self> {
        let limits = &hub.site.config.file.limits;
        let in_flight = hub.shares.in_flight.of(user);
        match kind {
            Kind::Short => Self::take(&in_flight.short, limits.requests_per_principal),
            Kind::Stream if *user == hub.site.node => Self::take(&in_flight.streams, usize::MAX),
            Kind::Stream => Self::take(&in_flight.streams, limits.watches_per_principal),
        }
    }

    /// A place, if one is free.
    pub(super) fn take(count: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        if count.fetch_add(1, Ordering::Relaxed) >= limit {
            count.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self { count: Arc::clone(count), _running: None })
    }

    /// The place of a request on this connection.
    pub(super) fn on(mut self, running: Running) -> Self {
        self._running = Some(running);
        self
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The answer, which keeps `held` until its body has ended or is given up.
pub(super) fn hold<H: Send + Unpin + 'static>(response: Response<Body>, held: H) -> Response<Body> {
    response.map(|body| Holding { body, held: Some(held) }.boxed_unsync())
}

struct Holding<H> {
    body: Body,
    held: Option<H>,
}

impl<H: Unpin> HttpBody for Holding<H> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let next = Pin::new(&mut self.body).poll_frame(context);
        if matches!(next, Poll::Ready(None | Some(Err(_)))) {
            self.held = None;
        }
        next
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::full;

    #[tokio::test]
    async fn a_slot_is_held_until_the_body_has_ended_or_is_given_up() {
        let count = Arc::new(AtomicUsize::new(0));
        let held = |_| {
            let slot = Slot::take(&count, 2)?;
            Some(hold(Response::new(full("body")), slot))
        };
        let mut answers: Vec<_> = (0..3).map(held).collect();
        assert!(answers[0].is_some() && answers[1].is_some() && answers[2].is_none());
        drop(answers.remove(0));
        assert_eq!(count.load(Ordering::Relaxed), 1);
        let mut body = answers.remove(0).expect("an answer").into_body();
        assert_eq!(body.size_hint().exact(), Some(4));
        assert!(body.frame().await.is_some_and(|frame| frame.is_ok()));
        assert_eq!(count.load(Ordering::Relaxed), 1, "more might come");
        assert!(body.frame().await.is_none());
        assert_eq!(count.load(Ordering::Relaxed), 0);
    }
}
