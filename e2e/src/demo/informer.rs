//! A client that keeps a copy of a collection as client-go's reflector does, and watches that it is not lied to.
//!
//! What it asks, when it lists again and how long it waits are those of client-go: a stream that ends or is reset is
//! taken up where it was; a refused connection and 429 are waited out; after anything else the collection is fetched
//! whole.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE};
use http_body_util::BodyExt as _;

use super::backoff::Backoff;
use super::protobuf::{self, Frame, Held};
use super::tally::{Collection, Listed, Shown, Tally};
use crate::cloud::client::{Client, ClientError, WatchStream};
use crate::cloud::model::{Gvr, Key};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// A stream that ends without a frame in so short a time is a failure.
const VERY_SHORT: Duration = Duration::from_secs(1);

/// What is watched, and how.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    /// Who watches what, for people: `node-1 kubelet: services`.
    pub(super) id: String,
    pub(super) gvr: Gvr,
    /// Path of the collection.
    pub(super) path: &'static str,
    /// Field selector, escaped, or nothing.
    pub(super) selector: String,
    /// The first state comes by WatchList instead of LIST.
    pub(super) watch_list: bool,
}

/// Why a request or a stream came to nothing, and what client-go does then.
enum Stop {
    /// The stream is over, or its connection was closed: watch on from the last revision.
    Ended,
    /// Nobody listens, or asks for patience: the same again, later.
    Later,
    /// The history is gone.
    Expired,
    /// Anything else: fetch the collection again, later.
    Failed,
}

impl Stop {
    fn from_code(code: u64) -> Self {
        match code {
            429 => Self::Later,
            410 => Self::Expired,
            _ => Self::Failed,
        }
    }
}

/// A running watch.
struct Stream {
    watch: WatchStream,
    buffer: BytesMut,
    opened: Instant,
    frames: u64,
}

impl Stream {
    /// The next frame, without the length before it.
    async fn next(&mut self) -> Result<Bytes, Stop> {
        loop {
            if let Some(head) = self.buffer.first_chunk::<4>() {
                let length = usize::try_from(u32::from_be_bytes(*head)).map_err(|_| Stop::Failed)?;
                if self.buffer.len() - 4 >= length {
                    self.frames += 1;
                    return Ok(self.buffer.split_to(4 + length).freeze().slice(4..));
                }
            }
            match self.watch.chunk().await {
                Ok(Some(bytes)) => self.buffer.extend_from_slice(&bytes),
                // A connection given up for its silence is a failure; one that is closed or reset is only an end.
                Err(ClientError::Http(error)) if error.is_timeout() => return Err(Stop::Failed),
                Ok(None) | Err(_) if self.frames == 0 && self.opened.elapsed() < VERY_SHORT => {
                    return Err(Stop::Failed);
                }
                Ok(None) | Err(_) => return Err(Stop::Ended),
            }
        }
    }
}

/// One informer.
pub(super) struct Informer {
    client: Client,
    watched: Watched,
    tally: Arc<Tally>,
    backoff: Backoff,
    /// The last revision seen; `None` before the first state.
    revision: Option<u64>,
    /// The server has forgotten that revision.
    expired: bool,
}

impl Informer {
    pub(super) fn new(client: Client, watched: Watched, tally: Arc<Tally>) -> Self {
        tally.counts().copies.insert(watched.id.clone(), None);
        let seed = watched.id.bytes().fold(0, |sum: u64, byte| sum.wrapping_mul(31) + u64::from(byte));
        let client = client.with_header(ACCEPT, PROTOBUF);
        Self { client, watched, tally, backoff: Backoff::new(seed), revision: None, expired: false }
    }

    /// Keep the copy until the task is aborted.
    pub(super) async fn run(mut self) {
        loop {
            let stream = if self.watched.watch_list { self.watch_list().await } else { None };
            if stream.is_some() || self.list().await {
                self.follow(stream).await;
            }
            self.backoff.pause().await;
        }
    }

    /// Fetch the collection whole by LIST; true when it is there.
    async fn list(&mut self) -> bool {
        loop {
            let from = match self.revision {
                _ if self.expired => "limit=500".to_owned(),
                None => "limit=500&resourceVersion=0".to_owned(),
                Some(revision) => format!("resourceVersion={revision}"),
            };
            match self.ask_list(&from).await {
                Ok((revision, items)) => {
                    self.replace(items.into_iter().collect(), revision);
                    return true;
                }
                Err(Stop::Expired) if !self.expired => self.expired = true,
                Err(_) => return false,
            }
        }
    }

    async fn ask_list(&self, from: &str) -> Result<(u64, Vec<(Key, Held)>), Stop> {
        let begun = self.tally.begin();
        let path = format!("{}?{}{from}", self.watched.path, self.watched.selector);
        let exchange = async {
            let response = self.client.send("GET", &path, "", Bytes::new()).await.ok()?;
            let status = response.status().as_u16();
            Some((status, response.into_body().collect().await.ok()?.to_bytes()))
        };
        let answer = exchange.await;
        let status = answer.as_ref().map(|(status, _)| *status);
        self.tally.count(begun, &format!("list {}", self.watched.gvr.resource), status);
        match answer {
            Some((200, body)) => protobuf::list(body).ok_or_else(|| self.unreadable("list")),
            Some((status, _)) => Err(Stop::from_code(status.into())),
            None => Err(Stop::Failed),
        }
    }

    fn unreadable(&self, what: &str) -> Stop {
        self.tally.violation(format!("{}: a {what} is not the protobuf it should be", self.watched.id));
        Stop::Failed
    }

    /// Fetch the collection whole by WatchList; the stream goes on with what changes.
    async fn watch_list(&mut self) -> Option<Stream> {
        loop {
            let from = match self.revision {
                Some(revision) if !self.expired => format!("&resourceVersion={revision}"),
                _ => String::new(),
            };
            let query = format!("sendInitialEvents=true&resourceVersionMatch=NotOlderThan{from}");
            let first = async {
                let mut stream = self.open(&query).await?;
                let (state, revision) = self.first_state(&mut stream).await?;
                Ok((stream, state, revision))
            };
            match first.await {
                Ok((stream, state, revision)) => {
                    self.replace(state, revision);
                    return Some(stream);
                }
                Err(Stop::Later) => self.backoff.pause().await,
                Err(Stop::Expired) if !self.expired => self.expired = true,
                Err(_) => return None,
            }
        }
    }

    async fn first_state(&self, stream: &mut Stream) -> Result<(Collection, u64), Stop> {
        let mut state = BTreeMap::new();
        loop {
            match self.frame(stream).await? {
                Frame::Put(key, held) => drop(state.insert(key, held)),
                Frame::Deleted(key, _) => drop(state.remove(&key)),
                Frame::Bookmark { revision, initial_end: true } => return Ok((state, revision)),
                Frame::Bookmark { .. } => {}
                Frame::Error(code) => return Err(Stop::from_code(code)),
            }
        }
    }

    async fn frame(&self, stream: &mut Stream) -> Result<Frame, Stop> {
        protobuf::frame(stream.next().await?).ok_or_else(|| self.unreadable("watch event"))
    }

    async fn open(&self, query: &str) -> Result<Stream, Stop> {
        let begun = self.tally.begin();
        let Watched { path, selector, gvr, .. } = &self.watched;
        let path = format!("{path}?{selector}watch=true&allowWatchBookmarks=true&timeoutSeconds=480&{query}");
        let answer = self.client.watch(&path).await;
        let status = answer.as_ref().ok().map(|stream| stream.status);
        self.tally.count(begun, &format!("watch {}", gvr.resource), status);
        match answer {
            Ok(watch) if watch.status == 200 => {
                let kind = watch.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
                if !kind.is_some_and(|kind| kind.starts_with(PROTOBUF)) {
                    return Err(self.unreadable("watch"));
                }
                Ok(Stream { watch, buffer: BytesMut::new(), opened: Instant::now(), frames: 0 })
            }
            Ok(watch) => Err(Stop::from_code(watch.status.into())),
            Err(ClientError::Connect(error)) if error.kind() == ErrorKind::ConnectionRefused => {
                Err(Stop::Later)
            }
            Err(_) => Err(Stop::Failed),
        }
    }

    /// A whole collection is there.
    fn replace(&mut self, state: Collection, revision: u64) {
        let id = &self.watched.id;
        if state.is_empty() {
            self.tally.violation(format!("{id}: an empty list, but the collection is never empty"));
        }
        if let Some(held) = self.revision.filter(|held| revision < *held) {
            self.tally.violation(format!("{id}: a list went back from revision {held} to {revision}"));
        }
        let mut counts = self.tally.counts();
        counts.lists.push(Listed { id: id.clone(), revision, state: state.clone() });
        counts.copies.insert(id.clone(), Some(state));
        self.revision = Some(revision);
        self.expired = false;
    }

    /// Apply what changes until the collection has to be fetched again.
    async fn follow(&mut self, mut stream: Option<Stream>) {
        loop {
            let from = format!("resourceVersion={}", self.revision.unwrap_or(0));
            let opened = match stream.take() {
                Some(stream) => Ok(stream),
                None => self.open(&from).await,
            };
            let stop = match opened {
                Ok(mut stream) => self.read(&mut stream).await,
                Err(stop) => stop,
            };
            match stop {
                Stop::Ended => {}
                Stop::Later => self.backoff.pause().await,
                Stop::Expired | Stop::Failed => return,
            }
        }
    }

    async fn read(&mut self, stream: &mut Stream) -> Stop {
        loop {
            match self.frame(stream).await {
                Ok(Frame::Put(key, held)) => self.apply(key, held, false),
                Ok(Frame::Deleted(key, held)) => self.apply(key, held, true),
                Ok(Frame::Bookmark { revision, .. }) => {
                    let seen = self.revision.unwrap_or(0);
                    if revision < seen {
                        self.went_back(seen, revision);
                    }
                    self.revision = Some(revision);
                }
                Ok(Frame::Error(code)) => return Stop::from_code(code),
                Err(stop) => return stop,
            }
        }
    }

    fn went_back(&self, from: u64, to: u64) {
        self.tally.violation(format!("{}: the stream went from revision {from} to {to}", self.watched.id));
    }

    fn apply(&mut self, key: Key, held: Held, deleted: bool) {
        let seen = self.revision.unwrap_or(0);
        if held.revision <= seen {
            self.went_back(seen, held.revision);
        }
        self.revision = Some(held.revision);
        let Watched { id, gvr, .. } = &self.watched;
        let mut counts = self.tally.counts();
        let copy = counts.copies.entry(id.clone()).or_default().get_or_insert_default();
        if deleted {
            copy.remove(&key);
        } else {
            copy.insert(key.clone(), held.clone());
        }
        let came = Instant::now();
        counts.shown.push(Shown { id: id.clone(), gvr: gvr.clone(), key, held, deleted, came });
    }
}
