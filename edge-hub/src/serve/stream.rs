//! Bodies that the hub makes itself: a watch stream (a cursor, no queue), and a list in chunks, as held or made anew.

use std::{
    collections::VecDeque,
    future::Future as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use edge_hub_core::{
    collection::Object,
    projection::Projection,
    view::{Step, WatchView},
};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use proto_kube::{
    list::{ListHead, encode_list},
    object::TypeMeta,
};

use crate::{
    collections::cell::Reader,
    filters::InUse,
    hub::Hub,
    upstream::{Body, BoxError},
};

/// One client's watch.
pub(super) struct WatchBody {
    hub: Arc<Hub>,
    reader: Reader,
    view: WatchView,
    pause: Pin<Box<tokio::time::Sleep>>,
    draining: Pin<Box<dyn Future<Output = ()> + Send>>,
    finishing: bool,
    refusals: u64,
    /// Keeps what its filters read.
    _held: Option<InUse>,
}

impl WatchBody {
    /// A stream that shows `view`.
    #[must_use]
    pub(super) fn body(hub: Arc<Hub>, reader: Reader, view: WatchView, held: Option<InUse>) -> Body {
        hub.site.metrics.open_watches.inc();
        let shutdown = hub.site.shutdown.clone();
        let refusals = reader.cell.with(|inner| inner.refusals);
        let body = Self {
            hub,
            reader,
            view,
            pause: Box::pin(tokio::time::sleep(std::time::Duration::ZERO)),
            draining: Box::pin(async move { shutdown.draining().await }),
            finishing: false,
            refusals,
            _held: held,
        };
        body.boxed_unsync()
    }
}

impl HttpBody for WatchBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            let now = this.hub.site.clock.now();
            let (view, reader) = (&mut this.view, &this.reader);
            if !this.finishing && this.draining.as_mut().poll(context).is_ready() {
                // A client bears a clean end; a reset would cost it a full list.
                view.finish(now);
                this.finishing = true;
            }
            let (finishing, refusals) = (&mut this.finishing, this.refusals);
            let step = reader.cell.with(|inner| {
                if !*finishing && inner.refusals != refusals {
                    view.finish(now);
                    *finishing = true;
                }
                let step = view.poll(&inner.collection, now);
                if matches!(step, Step::Idle { .. }) {
                    reader.park(inner, context.waker());
                }
                step
            });
            match step {
                Step::Frame(frame) => {
                    this.hub.site.metrics.watch_events.inc();
                    return Poll::Ready(Some(Ok(Frame::data(frame))));
                }
                Step::End => return Poll::Ready(None),
                Step::Idle { until } => {
                    this.pause.as_mut().reset(this.hub.site.clock.instant(until));
                    if this.pause.as_mut().poll(context).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

impl Drop for WatchBody {
    fn drop(&mut self) {
        self.reader.touch(self.hub.site.clock.now().monotonic);
        self.hub.site.metrics.open_watches.dec();
    }
}

/// A body of many pieces whose length is known: a list is never copied together.
pub(super) struct Chunks {
    pieces: VecDeque<Bytes>,
    left: u64,
}

/// Pieces smaller than this are joined before they are sent.
const SEND_BYTES: usize = 16 * 1024;

impl Chunks {
    /// A body of these pieces, in order.
    #[must_use]
    pub(super) fn body(pieces: Vec<Bytes>) -> Body {
        let left = pieces.iter().map(|piece| u64::try_from(piece.len()).unwrap_or(0)).sum();
        Self { pieces: pieces.into(), left }.boxed_unsync()
    }
}

/// A JSON list whose items are made while it is sent, so that it is never whole in memory.
pub(super) struct MadeList {
    projection: Projection,
    type_meta: TypeMeta,
    objects: std::vec::IntoIter<Arc<Object>>,
    /// What stands before the first item; gone once it was sent.
    start: Option<Bytes>,
    /// What stands after the last item; empty once it was sent.
    end: Bytes,
}

impl MadeList {
    /// A body of `head` and these objects, each of type `type_meta`.
    #[must_use]
    pub(super) fn body(
        projection: Projection,
        type_meta: TypeMeta,
        head: &ListHead,
        objects: Vec<Arc<Object>>,
    ) -> Body {
        let mut around = encode_list(projection.shown(), head, std::iter::empty()).into_iter();
        let (start, end) = (around.next(), around.next().unwrap_or_default());
        Self { projection, type_meta, objects: objects.into_iter(), start, end }.boxed_unsync()
    }
}

impl HttpBody for MadeList {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.end.is_empty() {
            return Poll::Ready(None);
        }
        let mut made = bytes::BytesMut::with_capacity(SEND_BYTES);
        while made.len() < SEND_BYTES {
            let start = self.start.take();
            let Some(object) = self.objects.next() else {
                made.extend_from_slice(&start.unwrap_or_default());
                made.extend_from_slice(&std::mem::take(&mut self.end));
                break;
            };
            made.extend_from_slice(start.as_deref().unwrap_or(b","));
            match self.projection.item(&self.type_meta, &object.raw) {
                Ok(item) => made.extend_from_slice(&item),
                // A list that breaks off is none; a shorter one would be a lie.
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
        Poll::Ready(Some(Ok(Frame::data(made.freeze()))))
    }
}

impl HttpBody for Chunks {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(mut next) = self.pieces.pop_front() else { return Poll::Ready(None) };
        if next.len() < SEND_BYTES && !self.pieces.is_empty() {
            let mut joined = bytes::BytesMut::with_capacity(SEND_BYTES);
            joined.extend_from_slice(&next);
            while let Some(piece) = self.pieces.front()
                && joined.len() + piece.len() <= SEND_BYTES
            {
                joined.extend_from_slice(piece);
                self.pieces.pop_front();
            }
            next = joined.freeze();
        }
        self.left = self.left.saturating_sub(u64::try_from(next.len()).unwrap_or(0));
        Poll::Ready(Some(Ok(Frame::data(next))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
