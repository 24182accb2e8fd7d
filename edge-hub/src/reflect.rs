//! Runs the upstream list-watch of one collection: sends what the reflector decides, feeds what comes back into the
//! collection, wakes its readers and hands the changes to the store.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use edge_hub_core::{
    collection::{Change, CollectionSpec, Object},
    definition::{DefinitionDoubt, Ended},
    identity::Principal,
    reflector::{Failure, Next, Reflector, SILENT_WATCH, STALLED_FRAME, STALLED_LIST},
    source::SourceKeeper,
};
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use proto_kube::{
    media_type::{Encoding, Format},
    object::scan,
    request_info::Verb,
    watch::{EventType, WatchDecoder, WatchEvent, bookmark_marks_initial_events_end, read_error},
};
use tokio::sync::mpsc::UnboundedReceiver;

mod feed;
mod follow;
mod pause;
pub mod rollback;
mod wire;

use self::wire::{Gathered, Page, PageError, envelope_of_event, envelope_of_list, object_from, read_page};
use crate::{
    clock::random,
    collections::{
        cell::{Cell, Phase},
        label::Label,
    },
    hub::Hub,
    shares::{List, ListError},
    upstream::{Credential, UpstreamBody, decode::inflate_for, empty, read_all},
};

/// How long the head of an answer may take while the link stands.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// One object on a watch; kube-apiserver refuses larger writes.
const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;
/// Objects of one collection.
const MAX_OBJECTS: usize = 1_000_000;
/// A refusal's body that is kept for the clients.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;
/// How often a quiet watch looks whether anybody still needs it.
const IDLE_CHECK: Duration = Duration::from_secs(15);

/// Drives each cell that comes, for as long as the hub lives.
pub async fn run_each(hub: Arc<Hub>, mut wants_reflector: UnboundedReceiver<Arc<Cell>>) {
    while let Some(cell) = wants_reflector.recv().await {
        tokio::spawn(run(Arc::clone(&hub), cell));
    }
}

/// Drives `cell` until the hub drains.
async fn run(hub: Arc<Hub>, cell: Arc<Cell>) {
    let held = cell.with(|inner| inner.collection.resume_from()).unwrap_or(0);
    let mut driver = Driver {
        reflector: Reflector::new(hub.site.config.protocol(), held),
        gathered: Gathered::default(),
        definition: DefinitionDoubt::new(&cell.spec.gvr, held > 0),
        keeper: SourceKeeper::new(hub.site.clock.now().monotonic, held > 0, random()),
        alone: false,
        hub,
        cell,
    };
    let draining = driver.hub.site.shutdown.clone();
    let attention = Arc::clone(&driver.cell);
    loop {
        tokio::select! {
            () = draining.draining() => return,
            () = attention.stopped() => return,
            () = driver.turn() => {}
            () = attention.doubted.notified() => driver.doubt(),
            () = attention.wider.notified() => {}
            // A new sponsor may end a pause; it must not cut a request short.
            () = attention.attention.notified(), if driver.pauses() => driver.reflector.nudge(),
        }
    }
}

struct Driver {
    hub: Arc<Hub>,
    cell: Arc<Cell>,
    reflector: Reflector,
    gathered: Gathered,
    /// Of a pool's collection: when it may go on by this node's own link.
    keeper: SourceKeeper,
    /// What is held may be of another history than the server's: it is for this collection to find out, which follows nobody
    /// meanwhile.
    alone: bool,
    /// Of a custom kind: whether what the server shows of its objects may have changed.
    definition: DefinitionDoubt,
}

impl Driver {
    fn pauses(&self) -> bool {
        matches!(self.reflector.next(self.hub.site.clock.now(), 0), Next::Wait(_) | Next::Parked)
    }

    fn doubt(&mut self) {
        self.end_following();
        self.alone = true;
        self.reflector.doubt();
    }

    /// One request or one pause.
    async fn turn(&mut self) {
        let idle = self.hub.site.config.file.idle_watch;
        if self.cell.is_idle(self.hub.site.clock.now().monotonic, idle) {
            self.end_following();
            self.cell.change(|inner| inner.phase = Phase::Retired);
            return self.cell.attention.notified().await;
        }
        match self.hub.pool.clone().filter(|pool| pool.specs().contains(&self.cell.spec)) {
            Some(pool) => self.pool_turn(&pool).await,
            None => match self.hub.collections.wider_than(&self.cell).filter(|_| !self.alone) {
                Some(wider) => self.follow_wider(&wider).await,
                None => {
                    self.end_following();
                    self.cloud_turn().await;
                }
            },
        }
    }

    /// One request to the cloud, or one pause.
    async fn cloud_turn(&mut self) {
        if self.wait_for_link().await {
            // The next turn knows whether it is a pause that somebody new may end.
            return;
        }
        let Some((principal, credential)) = self.cell.best_sponsor() else {
            return self.await_sponsor().await;
        };
        if let Some(seed) = self.cell.with(|inner| inner.seed.take()) {
            self.reflector.seed(seed);
        }
        let now = self.hub.site.clock.now();
        if !self.reflector.is_parked() && self.definition.take(now.monotonic) {
            self.reflector.recheck();
        }
        match self.reflector.next(now, random()) {
            Next::Wait(until) => tokio::time::sleep_until(self.hub.site.clock.instant(until)).await,
            Next::Parked => std::future::pending().await,
            Next::List(query) => {
                if let Err(failure) = self.list(&principal, &credential, &query).await {
                    self.fail(&failure);
                }
            }
            Next::Watch { query, initial } => {
                let outcome = self.watch(&principal, &credential, &query, initial).await;
                let lived = self.hub.site.clock.now().monotonic.saturating_sub(now.monotonic);
                self.definition.handle_end(Ended::of(outcome.is_ok(), asked_length(&query), lived));
                if let Err(failure) = outcome {
                    self.fail(&failure);
                }
            }
        }
    }

    fn fail(&mut self, failure: &Failure) {
        let now = self.hub.site.clock.now();
        tracing::debug!(collection = %Label(&self.cell.spec), ?failure, "upstream request failed");
        if self.reflector.handle_failure(now, failure, random()) {
            self.gathered = Gathered::default();
        }
        let complete = self.cell.with(|inner| inner.collection.is_complete());
        // Whoever waits for a first state hears the server's own words now; a server that answers 5xx is asked again.
        // A page that is too large is asked for by halves; it is told only when the reflector gives that up.
        let gave_up = *failure == Failure::TooLarge && self.pauses();
        let tell = !complete && (*failure == Failure::BadAnswer || gave_up);
        if tell {
            self.hub.collections.note_uncacheable(&self.cell.spec);
        }
        self.cell.change(|inner| {
            if tell {
                inner.phase = Phase::Refused(StatusCode::BAD_GATEWAY, Bytes::new());
            } else if inner.phase == Phase::Live {
                inner.phase = Phase::Syncing;
            }
        });
    }

    async fn request(
        &self,
        credential: &Credential,
        query: &[(&'static str, String)],
        accept: &'static str,
        compress: bool,
    ) -> Result<http::Response<UpstreamBody>, Failure> {
        let request = Request::get(target(&self.cell.spec, query))
            .header(header::ACCEPT, accept)
            .header(header::ACCEPT_ENCODING, if compress { "gzip" } else { "identity" })
            .header(header::USER_AGENT, crate::USER_AGENT)
            .body(empty())
            .map_err(|_| Failure::BadAnswer)?;
        self.hub.site.metrics.upstream_lists_and_watches.inc();
        self.hub.site.send(credential, request, HEAD_TIMEOUT).await.map_err(|error| {
            tracing::debug!(collection = %Label(&self.cell.spec), %error, "the cloud did not answer");
            Failure::Transport
        })
    }

    /// Reads the refusal, remembers it for the clients, and says what it means for the reflector.
    async fn refusal(
        &self,
        principal: &Principal,
        credential: &Credential,
        response: http::Response<UpstreamBody>,
        is_list: bool,
    ) -> Failure {
        let (head, body) = response.into_parts();
        let retry_after = retry_after(&head.headers);
        let body = read_all(body, MAX_REFUSAL_BYTES, STALLED_LIST).await.unwrap_or_default();
        let code = head.status.as_u16();
        // A watch with initial events may be too new for the server; of a list these words are final.
        let invalid = is_list && matches!(code, 400 | 422);
        if invalid || matches!(code, 401 | 403 | 404 | 405 | 406) {
            if code == 403 {
                let verb = if is_list { Verb::List } else { Verb::Watch };
                self.hub.authorizer.note_refused(principal, &self.cell.spec, verb);
            }
            let others = matches!(code, 401 | 403) && self.cell.dismiss_sponsor(principal, credential);
            if others {
                return Failure::Status { code: 429, retry_after: None };
            }
            self.cell.change(|inner| {
                inner.phase = Phase::Refused(head.status, body);
                inner.refusals += 1;
            });
            self.hub.collections.forget_refused(&self.cell);
        }
        Failure::Status { code, retry_after }
    }

    async fn list(
        &mut self,
        principal: &Principal,
        credential: &Credential,
        query: &[(&'static str, String)],
    ) -> Result<(), Failure> {
        let response = self.request(credential, query, self.cell.spec.format.accept_list(), true).await?;
        if !response.status().is_success() {
            return Err(self.refusal(principal, credential, response, true).await);
        }
        self.check_format(response.headers())?;
        let inflate = inflate_for(response.headers()).ok_or(Failure::BadAnswer)?;
        let hub = Arc::clone(&self.hub);
        let held = self.gathered.bytes();
        let read = hub.shares.read_list(response, (&self.cell.spec, principal), held, STALLED_LIST).await;
        let List { packed, most, turn } = read.map_err(|error| {
            match error {
                ListError::Broken => return Failure::Transport,
                ListError::TooLarge => return Failure::TooLarge,
                ListError::Share => {}
            }
            tracing::warn!(collection = %Label(&self.cell.spec), %error, "the list is not kept");
            Failure::BadAnswer
        })?;
        self.hub.site.metrics.count_upstream(&self.cell.spec.gvr.resource, packed.len());
        let now = self.hub.site.clock.now();
        let page = read_page(self.cell.spec.format, inflate, packed, most, now).await.map_err(|error| {
            if let PageError::TooLarge(_) = error {
                return Failure::TooLarge;
            }
            tracing::warn!(collection = %Label(&self.cell.spec), %error, "list cannot be read");
            Failure::BadAnswer
        })?;
        self.hub.authorizer.note_own_success(principal, &self.cell.spec, Verb::List);
        if !query.iter().any(|(key, _)| *key == "continue") {
            self.gathered = Gathered::default();
        }
        self.hub.collections.prepare_versions(&self.cell).await;
        let taken = self.take_page(page, most);
        drop(turn);
        taken
    }

    fn take_page(&mut self, page: Page, most: usize) -> Result<(), Failure> {
        let Page { head, objects, bytes } = page;
        if self.gathered.objects.len() + objects.len() > MAX_OBJECTS {
            return Err(Failure::BadAnswer);
        }
        let resource_version: u64 = head.resource_version.parse().map_err(|_| Failure::BadAnswer)?;
        self.gathered.objects.extend(objects);
        if self.gathered.envelope.is_none() {
            self.gathered.envelope = Some(envelope_of_list(&head));
        }
        self.reflector.handle_page(&head.continue_token, bytes, most);
        if head.continue_token.is_empty() {
            self.take_over(resource_version)?;
        }
        Ok(())
    }

    /// All is gathered: swap it in at once, so that nobody ever sees half a state.
    fn take_over(&mut self, resource_version: u64) -> Result<(), Failure> {
        let Gathered { objects, envelope } = std::mem::take(&mut self.gathered);
        let envelope = envelope.ok_or(Failure::BadAnswer)?;
        let now = self.hub.site.clock.now();
        let consistent = self.reflector.list_is_consistent();
        let changes = self.cell.change(|inner| {
            let held = inner.collection.upstream_version();
            if held <= resource_version {
                let outcome = inner.collection.replace(now, resource_version, envelope, objects);
                return outcome.map_err(|_| Failure::Older);
            }
            if !consistent {
                return Err(Failure::Older);
            }
            tracing::warn!(collection = %Label(&self.cell.spec), held, resource_version,
                "the cloud was set back to an older state; clients must list again");
            Ok(inner.collection.reset(now, resource_version, envelope, objects))
        })?;
        self.reflector.handle_synced(resource_version);
        self.save(changes);
        self.hub.collections.weigh(&self.cell);
        tracing::debug!(collection = %Label(&self.cell.spec), resource_version, "synced");
        Ok(())
    }

    async fn watch(
        &mut self,
        principal: &Principal,
        credential: &Credential,
        query: &[(&'static str, String)],
        initial: bool,
    ) -> Result<(), Failure> {
        // Only the initial events are worth packing, and only servers from 1.37 on do it.
        let response =
            self.request(credential, query, self.cell.spec.format.accept_object(), initial).await?;
        if !response.status().is_success() {
            return Err(self.refusal(principal, credential, response, false).await);
        }
        self.check_format(response.headers())?;
        let mut inflate = inflate_for(response.headers()).ok_or(Failure::BadAnswer)?;
        self.hub.authorizer.note_own_success(principal, &self.cell.spec, Verb::Watch);
        if initial {
            // What a stream that broke off had told may be deleted since, and this one will not say so.
            self.gathered = Gathered::default();
        } else {
            self.enter_live();
        }
        let opened = self.hub.site.clock.now().monotonic;
        let mut stream = WatchStream {
            body: response.into_body(),
            decoder: WatchDecoder::new(self.cell.spec.format, MAX_FRAME_BYTES),
            gathering: initial,
        };
        loop {
            let Some(chunk) = self.next_chunk(&mut stream).await? else { break };
            let plain = inflate.push(&chunk).map_err(|_| Failure::BadAnswer)?;
            self.hub.site.metrics.count_upstream(&self.cell.spec.gvr.resource, chunk.len());
            self.hub.site.metrics.upstream_watch_bytes.inc_by(u64::try_from(chunk.len()).unwrap_or(0));
            stream.decoder.push(&plain);
            self.hub.collections.prepare_versions(&self.cell).await;
            self.take_events(&mut stream)?;
            if self.cell.is_idle(self.hub.site.clock.now().monotonic, self.hub.site.config.file.idle_watch) {
                return Ok(());
            }
        }
        let now = self.hub.site.clock.now();
        self.reflector.handle_clean_end(now, now.monotonic.saturating_sub(opened), random());
        if stream.decoder.is_mid_frame() || stream.gathering {
            return Err(Failure::Transport);
        }
        Ok(())
    }

    fn enter_live(&mut self) {
        self.alone = false;
        let now = self.hub.site.clock.now();
        self.cell.change(|inner| {
            inner.phase = Phase::Live;
            inner.given_up = false;
            inner.collection.touch(now);
        });
        self.hub.collections.offer_to_narrower(&self.cell);
    }

    /// The next bytes of a watch; `None` at its clean end or when nobody needs it any more.
    async fn next_chunk(&self, stream: &mut WatchStream) -> Result<Option<Bytes>, Failure> {
        let patience = if stream.decoder.is_mid_frame() { STALLED_FRAME } else { SILENT_WATCH };
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let pause = deadline.min(tokio::time::Instant::now() + IDLE_CHECK);
            match tokio::time::timeout_at(pause, stream.body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Err(_))) => return Err(Failure::Transport),
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Err(_) if tokio::time::Instant::now() >= deadline => {
                    tracing::info!(collection = %Label(&self.cell.spec), ?patience, "the watch fell silent");
                    return Err(Failure::Transport);
                }
                Err(_) => {
                    let now = self.hub.site.clock.now().monotonic;
                    if self.cell.is_idle(now, self.hub.site.config.file.idle_watch) {
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn take_events(&mut self, stream: &mut WatchStream) -> Result<(), Failure> {
        let mut batch = Vec::new();
        let outcome = loop {
            match stream.decoder.next() {
                Ok(Some(event)) => match self.classify(stream, event) {
                    Ok(Some(step)) => batch.push(step),
                    Ok(None) => {}
                    Err(failure) => break Err(failure),
                },
                Ok(None) => break Ok(()),
                Err(error) => {
                    tracing::warn!(collection = %Label(&self.cell.spec), %error, "watch frame cannot be read");
                    break Err(Failure::BadAnswer);
                }
            }
        };
        // What came before a bad frame is good.
        let is_news = !batch.is_empty();
        self.apply(batch);
        if is_news {
            self.hub.collections.weigh(&self.cell);
        }
        outcome
    }

    /// What one event asks for; `None` when it only adds to a state that is being gathered.
    fn classify(&mut self, stream: &mut WatchStream, event: WatchEvent) -> Result<Option<Step>, Failure> {
        let format = self.cell.spec.format;
        match event.event_type {
            EventType::Error => {
                let code = error_code(format.encoding, &event.raw);
                Err(Failure::Status { code, retry_after: None })
            }
            EventType::Bookmark => {
                let meta = scan(format, &event.raw).map_err(|_| Failure::BadAnswer)?;
                let resource_version: u64 = meta.resource_version.parse().map_err(|_| Failure::BadAnswer)?;
                if stream.gathering {
                    if bookmark_marks_initial_events_end(format, &event.raw) {
                        stream.gathering = false;
                        if self.gathered.envelope.is_none() {
                            self.gathered.envelope = Some(envelope_of_event(&event));
                        }
                        self.take_over(resource_version)?;
                        self.enter_live();
                    }
                    return Ok(None);
                }
                Ok(Some(Step::Bookmark(resource_version)))
            }
            kind => {
                let object = object_from(format, event.raw.clone(), self.hub.site.clock.now())?;
                if stream.gathering {
                    if self.gathered.envelope.is_none() {
                        self.gathered.envelope = Some(envelope_of_event(&event));
                    }
                    if self.gathered.objects.len() >= MAX_OBJECTS {
                        return Err(Failure::BadAnswer);
                    }
                    self.gathered.objects.push(object);
                    return Ok(None);
                }
                Ok(Some(Step::Event(kind, object)))
            }
        }
    }

    fn apply(&mut self, batch: Vec<Step>) {
        if batch.is_empty() {
            return;
        }
        let now = self.hub.site.clock.now();
        self.hub.site.metrics.upstream_events.inc_by(u64::try_from(batch.len()).unwrap_or(0));
        let (changes, resource_version) = self.cell.change(|inner| {
            let mut changes = Vec::new();
            for step in batch {
                changes.extend(match step {
                    Step::Event(kind, object) => inner.collection.apply(now, kind, object),
                    Step::Bookmark(resource_version) => inner.collection.bookmark(now, resource_version),
                });
            }
            (changes, inner.collection.upstream_version())
        });
        self.reflector.handle_progress(resource_version);
        self.save(changes);
    }

    fn save(&self, changes: Vec<Change>) {
        for change in &changes {
            if let Change::Delete(gone) = change {
                let key = &gone.object.key;
                let namespace = (!key.namespace.is_empty()).then_some(&*key.namespace);
                let path = self.cell.spec.gvr.path(namespace, Some(&key.name), None);
                self.hub.documents.forget_single(&path);
            }
        }
        if !changes.is_empty() {
            self.hub.site.store.apply(&self.cell.spec, changes);
        }
    }

    /// A server without protobuf for this kind answers JSON; then the collection is the wrong one.
    fn check_format(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let offered =
            headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let format = Format::from_content_type(offered).ok_or(Failure::BadAnswer)?;
        let wanted = self.cell.spec.format;
        if format.encoding == wanted.encoding {
            return Ok(());
        }
        if wanted.encoding == Encoding::Protobuf && format.encoding == Encoding::Json {
            self.hub.collections.note_json_only(&self.cell.spec.gvr);
            self.cell.change(|inner| inner.phase = Phase::JsonOnly);
            return Err(Failure::Status { code: 406, retry_after: None });
        }
        Err(Failure::BadAnswer)
    }
}

enum Step {
    Event(EventType, Object),
    Bookmark(u64),
}

struct WatchStream {
    body: UpstreamBody,
    decoder: WatchDecoder,
    /// Initial events are still coming.
    gathering: bool,
}

/// Path and query of a request for this collection.
pub(crate) fn target(spec: &CollectionSpec, query: &[(&'static str, String)]) -> String {
    let mut pairs = form_urlencoded::Serializer::new(String::new());
    if !spec.fields.is_empty() {
        pairs.append_pair("fieldSelector", &spec.fields.to_string());
    }
    if !spec.labels.is_empty() {
        pairs.append_pair("labelSelector", &spec.labels.to_string());
    }
    for (key, value) in query {
        pairs.append_pair(key, value);
    }
    format!("{}?{}", spec.gvr.path(spec.namespace.as_deref(), None, None), pairs.finish())
}

/// How long the server is asked to keep a watch open.
fn asked_length(query: &[(&'static str, String)]) -> Duration {
    let seconds =
        query.iter().find(|(key, _)| *key == "timeoutSeconds").and_then(|(_, text)| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or_default())
}

/// The code of an ERROR event's Status; 500 when it cannot be read.
fn error_code(encoding: Encoding, raw: &[u8]) -> u16 {
    let code = read_error(encoding, raw).map(|error| error.code).unwrap_or_default();
    if code == 0 { StatusCode::INTERNAL_SERVER_ERROR.as_u16() } else { code }
}

/// `Retry-After` in seconds.
#[must_use]
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 =
        headers.get(header::RETRY_AFTER).map(HeaderValue::to_str)?.ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}
