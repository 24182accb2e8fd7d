//! The gRPC service of members: a subscription becomes a stream of frames that the member draws.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use pool_coordinator_core::Subscription;
use proto::{
    coordinator::{
        Encoding, Frame, MAX_MESSAGE_BYTES, Reason, Refused, SUBSCRIBE, Said, SubscribeRequest, VERSION,
        agree,
    },
    member::Member,
};
use tokio::sync::mpsc;
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{BoxFuture, tokio_stream::Stream},
    server::{Grpc, ServerStreamingService},
};
use tonic_prost::ProstCodec;

use crate::{coordinator::Coordinator, feed::Feed, room::Place};

/// When a member that is refused for good asks again, in milliseconds.
const LONG_RETRY_MS: u64 = 10_000;
/// When a member asks again of a coordinator that is full or ending, in milliseconds.
const SHORT_RETRY_MS: u64 = 1000;

/// Answers one call of `member`; `None` if that is no method of this service.
pub async fn answer(
    coordinator: &Arc<Coordinator>,
    member: &Member,
    request: http::Request<hyper::body::Incoming>,
) -> Option<http::Response<Body>> {
    if request.uri().path() != SUBSCRIBE {
        return None;
    }
    let codec = ProstCodec::<Frame, SubscribeRequest>::default();
    let mut grpc =
        Grpc::new(codec).max_decoding_message_size(64 * 1024).max_encoding_message_size(MAX_MESSAGE_BYTES);
    let service = Subscribe { coordinator: Arc::clone(coordinator), member: member.clone() };
    Some(grpc.server_streaming(service, request).await)
}

struct Subscribe {
    coordinator: Arc<Coordinator>,
    member: Member,
}

impl ServerStreamingService<SubscribeRequest> for Subscribe {
    type Response = Frame;
    type ResponseStream = Frames;
    type Future = BoxFuture<Response<Frames>, Status>;

    fn call(&mut self, request: Request<SubscribeRequest>) -> Self::Future {
        let frames = open(&self.coordinator, &self.member, &request.into_inner());
        Box::pin(std::future::ready(Ok(Response::new(frames))))
    }
}

fn open(coordinator: &Arc<Coordinator>, member: &Member, request: &SubscribeRequest) -> Frames {
    let (sender, receiver) = mpsc::channel(1);
    match feed_for(coordinator, member, request) {
        Ok((feed, place)) => {
            let resume = request.resume_version;
            tracing::debug!(%member, kind = %feed.gvr, resume, "subscribed");
            let subscription = Subscription::new(resume, Encoding::Protobuf);
            tokio::spawn(tell(Arc::clone(coordinator), feed, place, subscription, sender));
        }
        Err(refused) => {
            tracing::debug!(%member, text = refused.text, "subscription refused");
            // The channel has room for one, and nobody else has its end.
            let _ = sender.try_send(Ok(Frame::of(Said::Refused(refused))));
        }
    }
    Frames(receiver)
}

fn feed_for(
    coordinator: &Coordinator,
    member: &Member,
    request: &SubscribeRequest,
) -> Result<(Arc<Feed>, Place), Refused> {
    let refuse = |reason: Reason, text: String, retry_after_ms| Refused {
        reason: reason.into(),
        text,
        retry_after_ms,
        progress: 0,
    };
    if agree(request.version_min, request.version_max).is_none() {
        let text = format!(
            "this coordinator speaks version {VERSION} of the protocol, the member {} to {}; upgrade the older of both",
            request.version_min, request.version_max
        );
        return Err(refuse(Reason::Protocol, text, LONG_RETRY_MS));
    }
    let found = coordinator.feed(&request.group, &request.version, &request.resource);
    let Some(feed) = found else {
        let name: String = request.resource.chars().take(80).collect();
        return Err(refuse(Reason::NotServed, format!("{name} is not kept for the pool"), LONG_RETRY_MS));
    };
    let refused = feed.with(|inner| inner.refused.clone().filter(|_| !inner.replica.is_complete()));
    if let Some(why) = refused {
        return Err(refuse(Reason::NotServed, why, LONG_RETRY_MS));
    }
    match coordinator.subscription_room.take(member) {
        Ok(place) => Ok((Arc::clone(feed), place)),
        Err(full) => Err(refuse(Reason::Full, full.to_string(), SHORT_RETRY_MS)),
    }
}

/// Says what there is to say whenever the member has room for it.
async fn tell(
    coordinator: Arc<Coordinator>,
    feed: Arc<Feed>,
    _place: Place,
    mut subscription: Subscription,
    sender: mpsc::Sender<Result<Frame, Status>>,
) {
    let mut changed = feed.subscribe();
    let shutdown = coordinator.shutdown.clone();
    while !subscription.is_over() {
        let permit = tokio::select! {
            permit = sender.reserve() => permit,
            () = shutdown.draining() => return,
        };
        let Ok(permit) = permit else { return };
        changed.borrow_and_update();
        if let Some(frame) = feed.poll(&mut subscription, coordinator.clock.now().monotonic) {
            coordinator.metrics.frames.inc();
            permit.send(Ok(frame));
            continue;
        }
        drop(permit);
        tokio::select! {
            _ = changed.changed() => {}
            () = tokio::time::sleep_until(coordinator.clock.instant(subscription.due())) => {}
            () = sender.closed() => return,
            () = shutdown.draining() => {
                let text = "this coordinator is ending".to_owned();
                let reason = Reason::Draining.into();
                let refused = Refused { reason, text, retry_after_ms: SHORT_RETRY_MS, progress: 0 };
                // Without room the member learns it by the end of the stream.
                let _ = sender.try_send(Ok(Frame::of(Said::Refused(refused))));
                return;
            }
        }
    }
}

/// The frames of one subscription.
struct Frames(mpsc::Receiver<Result<Frame, Status>>);

impl Stream for Frames {
    type Item = Result<Frame, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}
