//! Runs the list-watch of one kind at the cloud: sends what the reflector decides and feeds what comes back into the copy.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use pool_coordinator_core::{Envelope, Item, What};
use proto_kube::{
    inflate::{Inflate, InflateError},
    list::{ListHead, split_list},
    media_type::{Form, Format},
    object::scan,
    reflector::{Failure, Next, Protocol, Reflector, SILENT_WATCH, STALLED_FRAME, STALLED_LIST},
    watch::{EventType, WatchDecoder, WatchEvent, read_error},
};

use crate::{clock::random, cloud::Connection, coordinator::Coordinator, feed::Feed, metrics::Metrics};

/// How the four kinds are fetched and told on.
pub const FORMAT: Format = Format::PROTOBUF;
/// How the cloud is asked for its version: one object without its spec and status.
const METADATA: Format = Format { form: Form::PartialMetadata, ..FORMAT };
/// Such an answer.
const MAX_ANSWER_BYTES: usize = 3 * 1024 * 1024;
/// One object on a watch; kube-apiserver refuses larger writes.
const MAX_FRAME_BYTES: usize = 8 * 1024 * 1024;
/// Objects of one kind.
const MAX_OBJECTS: usize = 1_000_000;
/// A refusal's body that is read for the log.
const MAX_REFUSAL_BYTES: usize = 16 * 1024;
/// A kind that the cloud refuses is asked for again after this long: somebody may have mended the rights.
const REFUSED_RETRY: Duration = Duration::from_secs(20);
/// A dead connection is found this long after it died.
const BLIND_FOR: Duration = Duration::from_secs(3);
/// Shortest time between two readings because of a member that is ahead.
const DOUBT_EVERY: Duration = Duration::from_secs(60);

/// Follows `feed` until the process drains.
pub async fn run(coordinator: Arc<Coordinator>, feed: Arc<Feed>) {
    let shutdown = coordinator.shutdown.clone();
    let driver = Driver {
        reflector: Reflector::new(Protocol::List, 0),
        gathered: Gathered::default(),
        doubted_at: None,
        confirmed_by: None,
        coordinator,
        feed,
    };
    tokio::select! {
        () = shutdown.draining() => {}
        () = driver.run() => {}
    }
}

/// Pages of a list until they are complete.
#[derive(Default)]
struct Gathered {
    items: Vec<Item>,
    envelope: Option<Envelope>,
    /// When the first page was asked for.
    asked: Duration,
    /// The connection that the first page came by.
    by: Option<Connection>,
}

struct Driver {
    coordinator: Arc<Coordinator>,
    feed: Arc<Feed>,
    reflector: Reflector,
    gathered: Gathered,
    doubted_at: Option<Duration>,
    /// The connection by which the cloud said last that it is not at an older version than what is held.
    confirmed_by: Option<Connection>,
}

impl Driver {
    async fn run(mut self) {
        loop {
            self.turn().await;
        }
    }

    fn now(&self) -> Duration {
        self.coordinator.clock.now().monotonic
    }

    async fn turn(&mut self) {
        let outcome = match self.reflector.next(self.coordinator.clock.now(), random()) {
            Next::Wait(until) => {
                return tokio::time::sleep_until(self.coordinator.clock.instant(until)).await;
            }
            Next::Parked => {
                tokio::time::sleep(REFUSED_RETRY).await;
                return self.reflector.nudge();
            }
            Next::List(query) => self.list(&query).await,
            Next::Watch { query, .. } => self.watch(&query).await,
        };
        let Err(failure) = outcome else { return };
        tracing::debug!(kind = %self.feed.gvr, ?failure, "upstream request failed");
        if self.reflector.handle_failure(self.coordinator.clock.now(), &failure, random()) {
            self.gathered = Gathered::default();
        }
    }

    async fn request(
        &self,
        query: &[(&'static str, String)],
        accept: &'static str,
        compress: bool,
    ) -> Result<http::Response<Incoming>, Failure> {
        let pairs = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        let target = format!("{}?{pairs}", self.feed.gvr.path(None, None, None));
        let request = Request::get(target)
            .header(header::ACCEPT, accept)
            .header(header::ACCEPT_ENCODING, if compress { "gzip" } else { "identity" })
            .header(header::USER_AGENT, crate::USER_AGENT)
            .body(Empty::new())
            .map_err(|_| Failure::BadAnswer)?;
        self.coordinator.metrics.upstream_requests.inc();
        let response = self.coordinator.cloud.get(request).await.map_err(|error| {
            tracing::debug!(kind = %self.feed.gvr, %error, "the cloud did not answer");
            Failure::Transport
        })?;
        if response.status().is_success() {
            check_format(response.headers())?;
            return Ok(response);
        }
        Err(self.refusal(response).await)
    }

    /// Reads the refusal and says what it means for the reflector.
    async fn refusal(&self, response: http::Response<Incoming>) -> Failure {
        let (head, body) = response.into_parts();
        let retry_after = retry_after(&head.headers);
        let body = self.read(body, MAX_REFUSAL_BYTES).await.unwrap_or_default();
        let code = head.status.as_u16();
        if matches!(code, 401 | 403 | 404 | 406) {
            let text = String::from_utf8_lossy(&body);
            let hint = match code {
                401 => "is `credential` signed by an authority that the API server trusts, and in date?",
                403 => "apply deploy/pool-coordinator-rbac.yaml",
                _ => "does this API server have the kind?",
            };
            tracing::warn!(kind = %self.feed.gvr, code, hint, answer = %text, "the cloud refuses this kind");
            self.feed.change(|inner| inner.refused = Some(format!("the cloud answers {code}; {hint}")));
        }
        if code == 401 {
            // A renewed certificate is shown with a new connection only.
            self.coordinator.cloud.renew().await;
        }
        Failure::Status { code, retry_after }
    }

    fn count(&self, bytes: usize) {
        let resource = Metrics::of(&self.feed.gvr.resource);
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.coordinator.metrics.upstream_bytes.get_or_create(&resource).inc_by(bytes);
    }

    /// A body of at most `limit` bytes that makes progress.
    async fn read(&self, mut body: Incoming, limit: usize) -> Result<Bytes, Failure> {
        let mut whole = BytesMut::new();
        loop {
            match tokio::time::timeout(STALLED_LIST, body.frame()).await {
                Err(_) | Ok(Some(Err(_))) => return Err(Failure::Transport),
                Ok(None) => return Ok(whole.freeze()),
                Ok(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    self.count(data.len());
                    if whole.len() + data.len() > limit {
                        tracing::debug!(kind = %self.feed.gvr, limit, "an answer is larger than limits.listMib");
                        return Err(Failure::TooLarge);
                    }
                    whole.extend_from_slice(&data);
                    let came = u64::try_from(data.len()).unwrap_or(0);
                    self.feed.with(|inner| inner.filling = inner.filling.saturating_add(came));
                }
            }
        }
    }

    async fn list(&mut self, query: &[(&'static str, String)]) -> Result<(), Failure> {
        if !query.iter().any(|(key, _)| *key == "continue") {
            self.gathered = Gathered { asked: self.now(), ..Gathered::default() };
        }
        let response = self.request(query, FORMAT.accept_list(), true).await?;
        self.gathered.by = self.gathered.by.or_else(|| connection_of(&response));
        let encoding = response.headers().get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes);
        let mut inflate = Inflate::for_encoding(encoding).ok_or(Failure::BadAnswer)?;
        let limit = self.coordinator.limits.list_mib * 1024 * 1024;
        let packed = self.read(response.into_body(), limit).await?;
        let body = inflate.whole(packed, limit).map_err(|error| match error {
            InflateError::TooLarge(_) => Failure::TooLarge,
            InflateError::Damaged(_) => Failure::BadAnswer,
        })?;
        self.take_page(&body, limit)
    }

    fn take_page(&mut self, body: &Bytes, limit: usize) -> Result<(), Failure> {
        let (head, items) = split_list(FORMAT, body).map_err(|error| {
            tracing::warn!(kind = %self.feed.gvr, %error, "list cannot be read");
            Failure::BadAnswer
        })?;
        if self.gathered.items.len() + items.len() > MAX_OBJECTS {
            return Err(Failure::BadAnswer);
        }
        let version: u64 = head.resource_version.parse().map_err(|_| Failure::BadAnswer)?;
        for raw in items {
            self.gathered.items.push(item(raw)?);
        }
        self.gathered.envelope.get_or_insert_with(|| envelope(&head));
        self.reflector.handle_page(&head.continue_token, body.len(), limit);
        if head.continue_token.is_empty() {
            self.take_over(version)?;
        }
        Ok(())
    }

    /// All is gathered: swap it in at once, so that nobody ever sees half a state.
    fn take_over(&mut self, version: u64) -> Result<(), Failure> {
        let Gathered { items, envelope, asked, by } = std::mem::take(&mut self.gathered);
        let envelope = envelope.ok_or(Failure::BadAnswer)?;
        let (now, consistent) = (self.now(), self.reflector.list_is_consistent());
        self.feed.change(|inner| {
            let held = inner.replica.version();
            if version < held && !consistent {
                return Err(Failure::Older);
            }
            if version < held {
                tracing::warn!(kind = %self.feed.gvr, held, version,
                    "the cloud was set back to an older state; members take it over");
                inner.replica.reset(now, asked, version, envelope, items);
                return Ok(());
            }
            let asked = consistent.then_some(asked);
            inner.replica.replace(now, asked, version, envelope, items).map_err(|_| Failure::Older)
        })?;
        if consistent {
            self.confirmed_by = by;
        }
        self.reflector.handle_synced(version);
        tracing::debug!(kind = %self.feed.gvr, version, "synced");
        Ok(())
    }

    async fn watch(&mut self, query: &[(&'static str, String)]) -> Result<(), Failure> {
        if self.confirmed_by.is_none() && !self.confirm().await? {
            self.reflector.doubt();
            return Ok(());
        }
        let response = self.request(query, FORMAT.accept_object(), false).await?;
        if connection_of(&response) != self.confirmed_by {
            // Another server may be behind the new connection, or the same one with another state.
            self.confirmed_by = None;
            return Err(Failure::Transport);
        }
        self.feed.change(|inner| {
            inner.lost_at = None;
            inner.refused = None;
        });
        let opened = self.now();
        let outcome = self.events(response.into_body()).await;
        if outcome == Err(Failure::Transport) {
            // The connection is another one then; or the watch fell silent, as one above the cloud's own version does.
            self.confirmed_by = None;
        }
        let now = self.coordinator.clock.now();
        // A connection that broke was dead for a while before that showed; one that was closed was not.
        let blind = if outcome.is_err() { BLIND_FOR } else { Duration::ZERO };
        self.feed.change(|inner| inner.lost_at = Some(now.monotonic.saturating_sub(blind)));
        outcome?;
        self.reflector.handle_clean_end(now, now.monotonic.saturating_sub(opened), random());
        Ok(())
    }

    /// Asks the cloud for its version, by a consistent read of at most one object. Returns whether that is at least the
    /// version that is held; `false` after etcd was restored from a backup. kube-apiserver does not say so on a watch: one
    /// that is opened above the server's own version stays silent until the sequence has passed it.
    async fn confirm(&mut self) -> Result<bool, Failure> {
        let response = self.request(&[("limit", "1".to_owned())], METADATA.accept_list(), false).await?;
        let by = connection_of(&response);
        let body = self.read(response.into_body(), MAX_ANSWER_BYTES).await?;
        let (head, _) = split_list(METADATA, &body).map_err(|_| Failure::BadAnswer)?;
        let stands_at: u64 = head.resource_version.parse().map_err(|_| Failure::BadAnswer)?;
        // No watch runs meanwhile, so that this is also what was held when the question was sent.
        let held = self.feed.with(|inner| inner.replica.version());
        if stands_at < held {
            tracing::warn!(kind = %self.feed.gvr, held, stands_at,
                "the cloud is at an older version than what is held; it is read anew");
            return Ok(false);
        }
        self.confirmed_by = by;
        Ok(true)
    }

    async fn events(&mut self, mut body: Incoming) -> Result<(), Failure> {
        let mut decoder = WatchDecoder::new(FORMAT, MAX_FRAME_BYTES);
        let feed = Arc::clone(&self.feed);
        let mut heard_at = tokio::time::Instant::now();
        loop {
            let patience = if decoder.is_mid_frame() { STALLED_FRAME } else { SILENT_WATCH };
            // The deadline counts from the last frame: members that doubt each second must not put it off.
            let frame = tokio::select! {
                frame = tokio::time::timeout_at(heard_at + patience, body.frame()) => frame,
                () = feed.doubt.notified() => {
                    if self.is_doubt_due() {
                        tracing::info!(kind = %feed.gvr, "a member is ahead of the cloud; its newest state is read");
                        self.reflector.doubt();
                        return Ok(());
                    }
                    continue;
                }
            };
            heard_at = tokio::time::Instant::now();
            let data = match frame {
                Err(_) => {
                    tracing::info!(kind = %self.feed.gvr, ?patience, "the watch fell silent");
                    return Err(Failure::Transport);
                }
                Ok(Some(Err(_))) => return Err(Failure::Transport),
                Ok(None) if decoder.is_mid_frame() => return Err(Failure::Transport),
                Ok(None) => return Ok(()),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => data,
                    Err(_) => continue,
                },
            };
            self.count(data.len());
            decoder.push(&data);
            self.take_events(&mut decoder)?;
        }
    }

    fn is_doubt_due(&mut self) -> bool {
        let now = self.now();
        let is_due = self.doubted_at.is_none_or(|last| now.saturating_sub(last) >= DOUBT_EVERY);
        if is_due {
            self.doubted_at = Some(now);
        }
        is_due
    }

    fn take_events(&mut self, decoder: &mut WatchDecoder) -> Result<(), Failure> {
        let mut batch = Vec::new();
        let outcome = loop {
            match decoder.next() {
                Ok(Some(event)) => match step(event) {
                    Ok(step) => batch.push(step),
                    Err(failure) => break Err(failure),
                },
                Ok(None) => break Ok(()),
                Err(error) => {
                    tracing::warn!(kind = %self.feed.gvr, %error, "watch frame cannot be read");
                    break Err(Failure::BadAnswer);
                }
            }
        };
        // What came before a bad frame is good.
        if !batch.is_empty() {
            self.coordinator.metrics.upstream_events.inc_by(u64::try_from(batch.len()).unwrap_or(0));
            let now = self.now();
            let version = self.feed.change(|inner| {
                for step in batch {
                    match step {
                        Step::Event(what, item) => inner.replica.apply(now, what, item),
                        Step::Bookmark(version) => inner.replica.bookmark(now, version),
                    }
                }
                inner.replica.version()
            });
            self.reflector.handle_progress(version);
        }
        outcome
    }
}

enum Step {
    Event(What, Item),
    Bookmark(u64),
}

fn step(event: WatchEvent) -> Result<Step, Failure> {
    let what = match event.event_type {
        EventType::Error => {
            let code = read_error(FORMAT.encoding, &event.raw).map(|error| error.code).unwrap_or_default();
            let code = if code == 0 { 500 } else { code };
            return Err(Failure::Status { code, retry_after: None });
        }
        EventType::Bookmark => {
            let meta = scan(FORMAT, &event.raw).map_err(|_| Failure::BadAnswer)?;
            let version = meta.resource_version.parse().map_err(|_| Failure::BadAnswer)?;
            return Ok(Step::Bookmark(version));
        }
        EventType::Added | EventType::Modified => What::Put,
        EventType::Deleted => What::Deleted,
    };
    Ok(Step::Event(what, item(event.raw)?))
}

fn item(raw: Bytes) -> Result<Item, Failure> {
    let meta = scan(FORMAT, &raw).map_err(|_| Failure::BadAnswer)?;
    let (key, version) = (meta.key(), meta.resource_version.parse().map_err(|_| Failure::BadAnswer)?);
    Ok(Item { key, version, raw })
}

fn envelope(head: &ListHead) -> Envelope {
    let list_kind = head.type_meta.kind.clone();
    let kind = list_kind.strip_suffix("List").unwrap_or(&list_kind).into();
    Envelope { api_version: head.type_meta.api_version.clone(), kind, list_kind }
}

/// What is told on is what came, so it must have come as it is told on.
fn check_format(headers: &HeaderMap) -> Result<(), Failure> {
    let offered = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let format = Format::from_content_type(offered).ok_or(Failure::BadAnswer)?;
    if format.encoding == FORMAT.encoding { Ok(()) } else { Err(Failure::BadAnswer) }
}

fn connection_of(response: &http::Response<Incoming>) -> Option<Connection> {
    response.extensions().get().copied()
}

/// `Retry-After` in seconds.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}
