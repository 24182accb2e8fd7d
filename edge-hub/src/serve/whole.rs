//! Bodies that are read whole, a client's before it is decided on and the cloud's before it is kept, within what their
//! user may have of the memory for them. An answer for which there is no room is passed on as it comes.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response, header, response::Parts};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use proto_kube::status::Status;

use super::{answer, call::Call, slot};
use crate::{
    shares::Held,
    upstream::{Body, BoxError, UpstreamBody, decode::inflate_for, hop::strip_hop_headers},
};

/// Largest body of a write, as kube-apiserver has it.
const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;
/// Largest body of a request for a stream, which has none.
const MAX_STREAM_BODY_BYTES: usize = 4 * 1024;
/// How long either side may pause inside a body.
pub(super) const BODY_PATIENCE: Duration = Duration::from_secs(15);
/// How long a client may take for its whole body; kube-apiserver ends requests after as long.
const BODY_DEADLINE: Duration = Duration::from_secs(60);
/// Largest answer that is read whole. None that is larger is kept.
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;
/// An answer that is longer, or of a length that is not known, takes so much while it is passed on: what the two
/// connections hold of it when its client does not read.
const PASSING_BYTES: usize = 256 * 1024;
/// Shorter ones are not counted.
const SHORT_BYTES: u64 = 64 * 1024;

/// The body of a request that is decided on by what it says.
pub(super) async fn body(mut body: Incoming, kind: slot::Kind, held: &mut Held) -> Result<Bytes, Status> {
    let largest = if kind == slot::Kind::Stream { MAX_STREAM_BODY_BYTES } else { MAX_BODY_BYTES };
    let deadline = tokio::time::Instant::now() + BODY_DEADLINE;
    let too_large = || Status::request_entity_too_large(&format!("the body is larger than {largest} bytes"));
    let mut whole = BytesMut::new();
    loop {
        let patience = deadline.min(tokio::time::Instant::now() + BODY_PATIENCE);
        let frame = match tokio::time::timeout_at(patience, body.frame()).await {
            Err(_) => return Err(Status::bad_request("the body made no progress, or took too long")),
            Ok(None) => return Ok(whole.freeze()),
            Ok(Some(Err(error))) => return Err(Status::bad_request(error.to_string())),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > largest {
            return Err(too_large());
        }
        held.grow_to(whole.len() + data.len())?;
        whole.extend_from_slice(&data);
    }
}

impl Call {
    /// Reads an answer whole, unpacked, so that it can be kept. It counts for its user for as long as any part of it is
    /// in use: who keeps it makes a copy.
    ///
    /// # Errors
    /// What to answer instead: the same as a stream, where it is too large to be read whole, or a refusal.
    pub(super) async fn read_answer(
        &self,
        response: Response<UpstreamBody>,
    ) -> Result<(Parts, Bytes), Response<Body>> {
        self.read_answer_of(response, MAX_ANSWER_BYTES).await
    }

    /// Reads an answer of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Call::read_answer`].
    pub(super) async fn read_answer_of(
        &self,
        response: Response<UpstreamBody>,
        limit: usize,
    ) -> Result<(Parts, Bytes), Response<Body>> {
        let broken = || answer::refuse(&Status::service_unavailable("the answer of the cloud broke off"));
        let (mut head, mut body) = response.into_parts();
        strip_hop_headers(&mut head.headers);
        let mut inflate = inflate_for(&head.headers).ok_or_else(broken)?;
        let mut held = self.hub.shares.buffers.of(&self.principal);
        let (mut first, mut size) = (VecDeque::new(), 0);
        loop {
            let frame = tokio::time::timeout(BODY_PATIENCE, body.frame()).await.map_err(|_| broken())?;
            let Some(frame) = frame else { break };
            let Ok(chunk) = frame.map_err(|_| broken())?.into_data() else { continue };
            size += chunk.len();
            first.push_back(chunk);
            if size > limit || held.grow_to(size).is_err() {
                return Err(self.pass_on(head, first, Some(body), held));
            }
        }
        let packed = joined(&first, size);
        let is_packed = head.headers.contains_key(header::CONTENT_ENCODING);
        if !is_packed {
            // Filters may make another length of it.
            head.headers.remove(header::CONTENT_LENGTH);
            return Ok((head, held.of(packed)));
        }
        // How much comes out of it is known only afterwards: room for all that may come, as far as there is any.
        let most = (1..=4).map(|part| limit / part).find(|most| held.grow_to(size + most).is_ok());
        let plain = most.and_then(|most| inflate.whole(packed, most).ok());
        let Some(plain) = plain else { return Err(self.pass_on(head, first, None, held)) };
        drop(first);
        forget_packing(&mut head.headers);
        held.shrink_to(plain.len());
        Ok((head, held.of(plain)))
    }

    /// The answer as the cloud sent it. Not what filters would have to look into.
    fn pass_on(
        &self,
        head: Parts,
        first: VecDeque<Bytes>,
        rest: Option<UpstreamBody>,
        held: Held,
    ) -> Response<Body> {
        if !self.chain.is_empty() {
            return answer::refuse(&Status::too_many_requests(
                "there is no room at this node's hub to look into an answer as large as this one",
                1,
            ));
        }
        Response::from_parts(head, Passing { first, rest, held: Some(held) }.boxed_unsync())
    }

    /// The answer as it comes, streamed. A long one takes room for what of it the connections hold.
    pub(super) fn relay(&self, response: Response<UpstreamBody>) -> Response<Body> {
        let (mut head, rest) = response.into_parts();
        strip_hop_headers(&mut head.headers);
        let is_long = rest.size_hint().upper().is_none_or(|length| length > SHORT_BYTES);
        let mut held = None;
        if is_long && self.is_short_read() {
            let mut room = self.hub.shares.buffers.of(&self.principal);
            if let Err(status) = room.grow_to(PASSING_BYTES) {
                return answer::refuse(&status);
            }
            held = Some(room);
        }
        Response::from_parts(head, Passing { first: VecDeque::new(), rest: Some(rest), held }.boxed_unsync())
    }
}

fn joined(pieces: &VecDeque<Bytes>, size: usize) -> Bytes {
    if pieces.len() == 1 {
        return pieces[0].clone();
    }
    let mut whole = BytesMut::with_capacity(size);
    for piece in pieces {
        whole.extend_from_slice(piece);
    }
    whole.freeze()
}

fn forget_packing(headers: &mut HeaderMap) {
    headers.remove(header::CONTENT_ENCODING);
    headers.remove(header::CONTENT_LENGTH);
}

/// An answer of which the first pieces are here already.
struct Passing {
    first: VecDeque<Bytes>,
    rest: Option<UpstreamBody>,
    held: Option<Held>,
}

impl HttpBody for Passing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(piece) = self.first.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if let Some(held) = &mut self.held {
            held.shrink_to(PASSING_BYTES);
        }
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        Pin::new(rest).poll_frame(context).map_err(Into::into)
    }
}
