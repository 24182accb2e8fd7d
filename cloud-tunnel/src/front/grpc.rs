//! The door of konnectivity's protocol over a unix socket: gRPC's `ProxyService`, one dial a stream, many streams a
//! connection, for a kube-apiserver whose egress selector says `GRPC`.
//!
//! gRPC here is HTTP/2 with five bytes before each message and a status in the trailers, so the library that carries the
//! link carries this, too: it leaves it to this file when a client gets its credit back. The protocol has no half-close:
//! whichever end closes, the connection is over.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cloud_tunnel_core::packet::{self, Conversation, Event, MAX_DATA_BYTES, Violation};
use cloud_tunnel_core::route::Refusal;
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use proto::konnectivity::PROXY_METHOD;
use proto::tunnel::{MAX_FRAME_BYTES, STREAM_WINDOW, printable};
use tokio::net::{UnixListener, UnixStream};

use super::{ACCEPT_PAUSE, ANSWER_LIMIT, Door, HEAD_LIMIT, MOST_STRANGERS};
use crate::link::held::Held;
use crate::link::socket::Socket;
use crate::link::strangers::{Stranger, Strangers};
use crate::link::stream;
use crate::link::table::Dialled;
use crate::metrics::Way;

/// The name of this door in metrics.
const DOOR: &str = "grpc";
/// Streams of one connection.
const MOST_STREAMS: u32 = 1024;
/// All streams of a connection may have their whole windows under way.
const CONNECTION_WINDOW: u32 = MOST_STREAMS * STREAM_WINDOW;
/// How long bytes that came before a close may take to be taken.
const LINGER: Duration = Duration::from_secs(5);
/// gRPC's statuses.
const OK: u8 = 0;
const DEADLINE_EXCEEDED: u8 = 4;
const UNIMPLEMENTED: u8 = 12;

/// Takes connections until the process stops: while it drains each dial is refused.
pub async fn serve(door: Arc<Door>, listener: UnixListener) {
    let strangers = Strangers::new(MOST_STRANGERS);
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                let door = Arc::clone(&door);
                strangers.spawn(|stranger| async move {
                    if let Err(error) = connection(door, client, stranger).await {
                        tracing::debug!(error, "a connection of the gRPC door ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection of the gRPC door");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(door: Arc<Door>, client: UnixStream, stranger: Stranger) -> Result<(), String> {
    let handshake = server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME_BYTES)
        .max_header_list_size(16 * 1024)
        .max_concurrent_streams(MOST_STREAMS)
        .handshake::<_, Bytes>(client);
    let handshake = tokio::time::timeout(HEAD_LIMIT, handshake).await;
    let mut connection = handshake.map_err(|_| "no HTTP/2 in 5 s")?.map_err(|error| error.to_string())?;
    let first = tokio::time::timeout(HEAD_LIMIT, connection.accept()).await.map_err(|_| "no call in 5 s")?;
    drop(stranger);
    let mut next = first;
    while let Some(call) = next {
        let (request, respond) = call.map_err(|error| error.to_string())?;
        let door = Arc::clone(&door);
        tokio::spawn(async move { door.call(request, respond).await });
        next = connection.accept().await;
    }
    Ok(())
}

impl Door {
    async fn call(&self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        if request.method() != Method::POST || request.uri().path() != PROXY_METHOD {
            let mut response = response();
            response.headers_mut().extend(status(UNIMPLEMENTED, "only /ProxyService/Proxy is served here"));
            // A client that has left is told nothing, here and below.
            let _ = respond.send_response(response, true);
            return;
        }
        let Ok(mut send) = respond.send_response(response(), false) else { return };
        let mut client = Client { recv: request.into_body(), conversation: Conversation::default(), owed: 0 };
        let target = match tokio::time::timeout(HEAD_LIMIT, client.next()).await {
            Ok(Ok(Event::Dial(target))) => target,
            Ok(Ok(Event::BadDial(reason))) => {
                self.metrics.head_refused(DOOR, 400);
                let refused = client.conversation.refused(Refusal::new(400, reason).to_string());
                return last(&mut send, refused, OK, "").await;
            }
            Ok(Ok(_)) | Ok(Err(Ended::Left)) => return,
            Ok(Err(Ended::Violation(violation))) => {
                self.metrics.head_refused(DOOR, 400);
                return last(&mut send, Bytes::new(), Violation::CODE, &violation.to_string()).await;
            }
            Err(_) => {
                return last(&mut send, Bytes::new(), DEADLINE_EXCEEDED, "no dial came in 5 s").await;
            }
        };
        let began = self.clock.now();
        let dialled = tokio::select! {
            dialled = self.reach(&target) => dialled,
            // Whatever the client says before there is an answer ends its dial.
            said = client.next() => {
                self.metrics.dialled(DOOR, 499, self.clock.now() - began);
                if let Err(Ended::Violation(violation)) = said {
                    last(&mut send, Bytes::new(), Violation::CODE, &violation.to_string()).await;
                }
                return;
            }
        };
        let took = self.clock.now() - began;
        match dialled {
            Ok(dialled) => {
                self.metrics.dialled(DOOR, 200, took);
                tracing::debug!(%target, ?took, "dialled");
                let _hold = self.shutdown.hold();
                tokio::select! {
                    () = splice(self.number(), dialled, client, &mut send) => {}
                    () = self.shutdown.stopped() => {}
                }
            }
            Err(refusal) => {
                self.metrics.dialled(DOOR, refusal.status, took);
                tracing::info!(%target, answer = %refusal, ?took, "dial refused");
                let refused = client.conversation.refused(refusal.to_string());
                last(&mut send, refused, OK, "").await;
            }
        }
    }
}

/// Carries one connection to its end. A pair of sockets stands between the packets and the stream of the link, so that
/// one splice has the rules of both doors.
async fn splice(connection: i64, dialled: Dialled, mut client: Client, send: &mut SendStream<Bytes>) {
    let Ok((near, far)) = UnixStream::pair() else {
        let refused = client.conversation.refused("503 tunnel-server is out of file descriptors".to_owned());
        return last(send, refused, OK, "").await;
    };
    let opened = client.conversation.opened(connection);
    let carried = stream::carry(
        Socket::Unix(far),
        dialled.send,
        dialled.recv,
        &dialled.ticket,
        Bytes::new(),
        Way::ToEdge,
    );
    let bridged = async move {
        let near = Socket::Unix(near);
        if send_all(send, opened).await.is_err() {
            return;
        }
        let ended = {
            let (mut down, mut up) = (pin!(down(connection, &near, send)), pin!(up(&mut client, &near)));
            tokio::select! {
                () = &mut down => Ok(()),
                ended = &mut up => ended,
            }
        };
        drop(near);
        match ended {
            Ok(()) => last(send, packet::closed(connection), OK, "").await,
            Err(Ended::Violation(violation)) => {
                last(send, Bytes::new(), Violation::CODE, &violation.to_string()).await;
            }
            Err(Ended::Left) => {}
        }
    };
    tokio::join!(carried, bridged);
}

/// A client's half of a call.
struct Client {
    recv: RecvStream,
    conversation: Conversation,
    /// Bytes that were taken and whose credit was not given back.
    owed: usize,
}

/// Why nothing more comes from a client.
enum Ended {
    /// It reset the call, closed its half of it, or its connection broke.
    Left,
    /// It broke the protocol.
    Violation(Violation),
}

impl Client {
    /// What the client says next. Nothing is lost when this is dropped.
    async fn next(&mut self) -> Result<Event, Ended> {
        loop {
            if let Some(event) = self.conversation.poll().map_err(Ended::Violation)? {
                return Ok(event);
            }
            // A message may be larger than the window.
            self.give_back();
            self.take().await?;
        }
    }

    /// Takes one frame: at once, because the library ends connections where small frames pile up.
    async fn take(&mut self) -> Result<(), Ended> {
        match self.recv.data().await {
            Some(Ok(bytes)) => {
                self.owed += bytes.len();
                self.conversation.received(&bytes);
                Ok(())
            }
            Some(Err(_)) | None => Err(Ended::Left),
        }
    }

    fn give_back(&mut self) {
        // An error means that the call is over, which the next frame says.
        let _ = self.recv.flow_control().release_capacity(std::mem::take(&mut self.owed));
    }
}

/// From the client to the socket, until the client closes or leaves; what it sent before is written first.
async fn up(client: &mut Client, socket: &Socket) -> Result<(), Ended> {
    let mut held = Held::default();
    loop {
        let event = client.conversation.poll().map_err(Ended::Violation)?;
        match event {
            Some(Event::Bytes(bytes)) => {
                held.push(bytes);
                continue;
            }
            Some(_) => break,
            None => {}
        }
        if held.is_empty() {
            client.give_back();
        }
        let slices = held.slices();
        tokio::select! {
            taken = client.take() => taken?,
            written = socket.write(&slices), if !held.is_empty() => {
                // The other end is gone: `down` reads its end.
                let Ok(count) = written else { return std::future::pending().await };
                drop(slices);
                held.taken(count);
            }
        }
    }
    let rest = async {
        while !held.is_empty() {
            let Ok(count) = socket.write(&held.slices()).await else { return };
            held.taken(count);
        }
    };
    let _ = tokio::time::timeout(LINGER, rest).await;
    Ok(())
}

/// From the socket to the client, until the socket's end.
async fn down(connection: i64, socket: &Socket, send: &mut SendStream<Bytes>) {
    loop {
        if socket.readable().await.is_err() {
            return;
        }
        // Not before there is something: an idle connection holds no buffer.
        let mut chunk = BytesMut::with_capacity(MAX_DATA_BYTES);
        match socket.try_read(&mut chunk) {
            Ok(0) => return,
            Ok(read) => {
                debug_assert!(read <= MAX_DATA_BYTES);
                if send_all(send, packet::data(connection, chunk.freeze())).await.is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Sends `bytes` as the client's window allows.
async fn send_all(send: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        send.reserve_capacity(bytes.len());
        while send.capacity() == 0 {
            match poll_fn(|cx| send.poll_capacity(cx)).await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Err(Reason::CANCEL.into()),
            }
        }
        let part = send.capacity().min(bytes.len());
        send.send_data(bytes.split_to(part), false)?;
    }
    Ok(())
}

/// The last message of a call, and its status.
async fn last(send: &mut SendStream<Bytes>, message: Bytes, code: u8, text: &str) {
    if !matches!(tokio::time::timeout(ANSWER_LIMIT, send_all(send, message)).await, Ok(Ok(()))) {
        return send.send_reset(Reason::CANCEL);
    }
    let _ = send.send_trailers(status(code, text));
}

fn response() -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

fn status(code: u8, text: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("grpc-status", HeaderValue::from(u16::from(code)));
    if let Ok(text) = HeaderValue::from_str(&printable(text).replace('%', "?")) {
        headers.insert("grpc-message", text);
    }
    headers
}
