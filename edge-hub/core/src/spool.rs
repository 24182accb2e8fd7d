//! Events that were posted while the cloud was cut: kept in order, bounded, and replayed when it is back.
//!
//! A 201 says only what is true: the event is in a durable queue. The answer is the posted object with its name; it
//! has no uid and no resourceVersion, for nobody has given it one. A record goes out under the identity that posted
//! it and no other, at most once in effect (its name is fixed, so a second try meets 409), slowly, oldest first.
//! A PATCH of an event gets 404 while cut, upon which the client posts it whole; that replaces the older record. Where
//! the first version had reached the cloud before the cut, what is new goes out as a patch ([`crate::recount`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use proto_kube::gvr::GroupVersionResource;
use proto_kube::media_type::Encoding;
use proto_kube::request_info::ResourceRequest;
use serde::{Deserialize, Serialize};

use crate::body::{BodyError, Document, GENERATE_NAME, NAME, NAMESPACE};
use crate::clock::Now;
use crate::identity::Principal;
use crate::record::{self, DamagedRecord, RecordChange};
use crate::recount;

/// Longest event that is spooled, in bytes.
pub const MAX_EVENT_BYTES: usize = 64 * 1024;
/// Query parameters that do not change what is asked for; `dryRun`, above all, is not among them.
const HARMLESS_PARAMETERS: [&str; 4] = ["fieldManager", "fieldValidation", "pretty", "timeout"];
const MAX_QUERY_BYTES: usize = 1024;
const MAX_NAME_BYTES: usize = 253;
/// What the API server appends to `generateName`: five of these, without vowels and look-alikes.
const SUFFIX_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LAST_BACKOFF: Duration = Duration::from_secs(60);
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Bounds of an [`EventSpool`] and the pace of its replay.
#[derive(Copy, Clone, Debug)]
pub struct SpoolLimits {
    /// Most events in all.
    pub events: usize,
    /// Most bytes of events in all; a single event is always taken.
    pub bytes: usize,
    /// Most events of one principal.
    pub events_per_principal: usize,
    /// Most bytes of events of one principal; a single event is always taken.
    pub bytes_per_principal: usize,
    /// Events replayed per second on average; at least 1.
    pub replay_per_second: u32,
    /// Events replayed at once after a pause; at least 1.
    pub replay_burst: u32,
}

impl Default for SpoolLimits {
    fn default() -> Self {
        Self {
            events: 5_000,
            bytes: 8 << 20,
            events_per_principal: 2_000,
            bytes_per_principal: 4 << 20,
            replay_per_second: 5,
            replay_burst: 10,
        }
    }
}

/// Why an event was not taken; the answer is a 503.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpoolRefusal {
    /// The body is no usable Event.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The request asks for more than to store an event in a namespace.
    #[error("the request cannot be kept for later")]
    Request,
}

/// A taken event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpooledEvent {
    /// The encoding of `body`: that of the request.
    pub encoding: Encoding,
    /// The body of the 201: the posted object, with name and namespace filled in.
    pub body: Bytes,
    /// To be durable before the 201 is sent.
    pub changes: Vec<RecordChange>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct RecordHead {
    id: u64,
    principal: Principal,
    gvr: GroupVersionResource,
    namespace: Box<str>,
    name: Box<str>,
    query: Option<Box<str>>,
    encoding: Encoding,
}

#[derive(Debug)]
struct Record {
    head: RecordHead,
    body: Bytes,
}

#[derive(Debug, Default)]
struct OfPrincipal {
    ids: BTreeSet<u64>,
    bytes: usize,
    in_flight: Option<u64>,
    /// Not before this moment on the monotonic clock.
    retry_at: Duration,
    failures: u32,
}

/// An event to be posted now, under the identity of `principal` and no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// To be handed back in [`EventSpool::answered`].
    pub id: u64,
    /// Whose event it is.
    pub principal: Principal,
    /// Path and query of the POST.
    pub path_and_query: String,
    /// Encoding of the body.
    pub encoding: Encoding,
    /// The body.
    pub body: Bytes,
    /// Path of the event itself, for where the answer is 409: an earlier version of it is there.
    pub object_path: String,
    /// What this version adds to an earlier one, as a JSON merge patch, if anything.
    pub recount: Option<Bytes>,
}

/// What the replay does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayStep {
    /// Post this; the next step may be asked for at once.
    Send(Box<Replay>),
    /// Ask again at this moment of the monotonic clock, or after an answer.
    WaitUntil(Duration),
    /// Nothing can be sent until a post, an answer or another credential comes.
    Idle,
}

/// What came of a replayed post.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum ReplayOutcome {
    /// The API server answered.
    Answered {
        /// The HTTP status code.
        code: u16,
        /// Its `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The link failed.
    NoAnswer,
}

/// What became of all events, for the metrics.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct SpoolCounts {
    /// Taken, replacements included.
    pub taken: u64,
    /// Replaced by a newer version of themselves.
    pub replaced: u64,
    /// Stored by the API server (or found there already).
    pub delivered: u64,
    /// Refused by the API server for good.
    pub refused: u64,
    /// Dropped, the oldest first, for lack of room.
    pub overflowed: u64,
}

/// The spool.
#[derive(Debug)]
pub struct EventSpool {
    records: BTreeMap<u64, Record>,
    principals: BTreeMap<Principal, OfPrincipal>,
    bytes: usize,
    next_id: u64,
    limits: SpoolLimits,
    counts: SpoolCounts,
    /// The bucket, as the moment at which it would be full again (generic cell rate algorithm).
    full_at: Duration,
}

impl EventSpool {
    /// An empty spool.
    pub fn new(limits: SpoolLimits) -> Self {
        Self {
            records: BTreeMap::new(),
            principals: BTreeMap::new(),
            bytes: 0,
            next_id: 0,
            limits,
            counts: SpoolCounts::default(),
            full_at: Duration::ZERO,
        }
    }

    /// Number of events waiting.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether no event is waiting.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether events of this principal wait.
    pub fn holds_of(&self, principal: &Principal) -> bool {
        self.principals.get(principal).is_some_and(|of| !of.ids.is_empty())
    }

    /// Bytes of the events waiting.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What became of all events since the process started.
    pub fn counts(&self) -> SpoolCounts {
        self.counts
    }

    /// Takes a `POST .../events`. `randomness` makes the suffix of a generated name.
    ///
    /// # Errors
    /// [`SpoolRefusal`], to be answered with 503.
    pub fn post(
        &mut self,
        principal: &Principal,
        request: &ResourceRequest,
        query: Option<&str>,
        encoding: Encoding,
        body: &Bytes,
        randomness: u64,
    ) -> Result<SpooledEvent, SpoolRefusal> {
        let namespace = request.namespace.as_deref().ok_or(SpoolRefusal::Request)?;
        let query = query.filter(|query| !query.is_empty());
        if query.is_some_and(|query| !is_harmless(query)) {
            return Err(SpoolRefusal::Request);
        }
        let (name, body) = complete(&request.gvr, namespace, encoding, body, randomness)?;
        let head = RecordHead {
            id: self.next_id,
            principal: principal.clone(),
            gvr: request.gvr.clone(),
            namespace: namespace.into(),
            name,
            query: query.map(Into::into),
            encoding,
        };
        self.next_id += 1;
        self.counts.taken += 1;
        let mut changes = self.remove_older_version(&head);
        changes.push(RecordChange::Put { key: store_key(head.id), value: record::encode(&head, &body) });
        let id = head.id;
        self.insert(Record { head, body: body.clone() });
        changes.extend(self.make_room(principal, id));
        Ok(SpooledEvent { encoding, body, changes })
    }

    /// Every waiting event as a record, for a store that begins anew.
    pub fn records(&self) -> Vec<RecordChange> {
        let put = |(id, held): (&u64, &Record)| RecordChange::Put {
            key: store_key(*id),
            value: record::encode(&held.head, &held.body),
        };
        self.records.iter().map(put).collect()
    }

    /// Takes a record over from the store.
    ///
    /// # Errors
    /// [`DamagedRecord`] if it is none of this spool's.
    pub fn restore(&mut self, value: &[u8]) -> Result<(), DamagedRecord> {
        let (head, body) = record::decode::<RecordHead>(value)?;
        if self.records.contains_key(&head.id) || head.id == u64::MAX || body.len() > 2 * MAX_EVENT_BYTES {
            return Err(DamagedRecord);
        }
        self.next_id = self.next_id.max(head.id + 1);
        self.insert(Record { head, body: Bytes::copy_from_slice(body) });
        Ok(())
    }

    /// What to do now that the cloud is back: one event at a time of each principal for which `has_credential`, the
    /// oldest first, at the pace of the limits.
    pub fn poll(&mut self, now: Now, has_credential: &dyn Fn(&Principal) -> bool) -> ReplayStep {
        let now = now.monotonic;
        let mut wait: Option<Duration> = None;
        let mut oldest: Option<u64> = None;
        for (principal, of) in &self.principals {
            let Some(&first) = of.ids.first().filter(|_| of.in_flight.is_none()) else { continue };
            if !has_credential(principal) {
                continue;
            }
            if of.retry_at > now {
                wait = Some(wait.map_or(of.retry_at, |wait| wait.min(of.retry_at)));
            } else {
                oldest = Some(oldest.map_or(first, |oldest| oldest.min(first)));
            }
        }
        let Some(id) = oldest else { return wait.map_or(ReplayStep::Idle, ReplayStep::WaitUntil) };
        let interval = Duration::from_secs(1) / self.limits.replay_per_second.max(1);
        let earliest = self.full_at.saturating_sub(interval * (self.limits.replay_burst.max(1) - 1));
        if now < earliest {
            return ReplayStep::WaitUntil(earliest);
        }
        let Some(replay) = self.replay(id) else { return ReplayStep::Idle };
        self.full_at = self.full_at.max(now) + interval;
        ReplayStep::Send(Box::new(replay))
    }

    /// Takes the outcome of a replayed post.
    ///
    /// 2xx and 409 AlreadyExists: done. 401 (the credential is to blame, not the event), 408, 429, 5xx and no answer:
    /// later again, after 1 s to 60 s or `Retry-After`. Every other answer would be the same next time: dropped.
    pub fn answered(&mut self, now: Now, id: u64, outcome: ReplayOutcome) -> Vec<RecordChange> {
        let Some(principal) = self.records.get(&id).map(|record| record.head.principal.clone()) else {
            // Replaced or dropped while under way.
            for of in self.principals.values_mut().filter(|of| of.in_flight == Some(id)) {
                of.in_flight = None;
            }
            self.principals.retain(|_, of| !of.ids.is_empty() || of.in_flight.is_some());
            return Vec::new();
        };
        let Some(of) = self.principals.get_mut(&principal) else { return Vec::new() };
        of.in_flight = of.in_flight.filter(|in_flight| *in_flight != id);
        let retry_after = match outcome {
            ReplayOutcome::NoAnswer => None,
            ReplayOutcome::Answered { code: 401 | 408 | 429 | 500.., retry_after } => retry_after,
            ReplayOutcome::Answered { code, .. } => {
                of.failures = 0;
                let stored = matches!(code, 200..=299 | 409);
                let count = if stored { &mut self.counts.delivered } else { &mut self.counts.refused };
                *count += 1;
                return self.remove(id).into_iter().collect();
            }
        };
        let backoff = FIRST_BACKOFF.saturating_mul(1 << of.failures.min(6)).min(LAST_BACKOFF);
        of.failures = of.failures.saturating_add(1);
        of.retry_at = now.monotonic + backoff.max(retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER));
        Vec::new()
    }

    fn replay(&mut self, id: u64) -> Option<Replay> {
        let Record { head, body } = self.records.get(&id)?;
        self.principals.get_mut(&head.principal)?.in_flight = Some(id);
        let mut path_and_query = head.gvr.path(Some(&head.namespace), None, None);
        if let Some(query) = &head.query {
            path_and_query.push('?');
            path_and_query.push_str(query);
        }
        Some(Replay {
            id,
            principal: head.principal.clone(),
            path_and_query,
            encoding: head.encoding,
            body: body.clone(),
            object_path: head.gvr.path(Some(&head.namespace), Some(&head.name), None),
            recount: recount::merge_patch(&head.gvr, head.encoding, body, 2 * MAX_EVENT_BYTES),
        })
    }

    fn insert(&mut self, record: Record) {
        let of = self.principals.entry(record.head.principal.clone()).or_default();
        of.ids.insert(record.head.id);
        of.bytes += record.body.len();
        self.bytes += record.body.len();
        self.records.insert(record.head.id, record);
    }

    fn remove(&mut self, id: u64) -> Option<RecordChange> {
        let record = self.records.remove(&id)?;
        self.bytes -= record.body.len();
        if let Some(of) = self.principals.get_mut(&record.head.principal) {
            of.ids.remove(&id);
            of.bytes -= record.body.len();
            if of.ids.is_empty() && of.in_flight.is_none() {
                self.principals.remove(&record.head.principal);
            }
        }
        Some(RecordChange::Remove { key: store_key(id) })
    }

    fn remove_older_version(&mut self, head: &RecordHead) -> Vec<RecordChange> {
        let of = self.principals.get(&head.principal);
        let older = of.into_iter().flat_map(|of| &of.ids).copied().find(|id| {
            self.records.get(id).is_some_and(|Record { head: other, .. }| {
                (&other.name, &other.namespace, &other.gvr) == (&head.name, &head.namespace, &head.gvr)
            })
        });
        let removed = older.and_then(|id| self.remove(id));
        self.counts.replaced += u64::from(removed.is_some());
        removed.into_iter().collect()
    }

    /// Drops the oldest of the poster, then of whoever holds most, so that nobody crowds the others out. What was
    /// just taken (`keep`) stays: its 201 is on the way.
    fn make_room(&mut self, principal: &Principal, keep: u64) -> Vec<RecordChange> {
        let mut changes = Vec::new();
        let limits = self.limits;
        while self.principals.get(principal).is_some_and(|of| {
            of.ids.len() > limits.events_per_principal.max(1)
                || (of.bytes > limits.bytes_per_principal && of.ids.len() > 1)
        }) {
            changes.extend(self.drop_oldest_of(principal));
        }
        while self.records.len() > limits.events.max(1) || self.bytes > limits.bytes {
            let others =
                self.principals.iter().filter(|(_, of)| of.ids.first().is_some_and(|id| *id != keep));
            let largest = others.max_by_key(|(_, of)| (of.bytes, of.ids.len()));
            let Some(largest) = largest.map(|(principal, _)| principal.clone()) else { break };
            changes.extend(self.drop_oldest_of(&largest));
        }
        changes
    }

    fn drop_oldest_of(&mut self, principal: &Principal) -> Option<RecordChange> {
        let oldest = self.principals.get(principal).and_then(|of| of.ids.first().copied())?;
        self.counts.overflowed += 1;
        self.remove(oldest)
    }
}

/// The event's name and its body with name and namespace filled in, as the API server would.
fn complete(
    gvr: &GroupVersionResource,
    namespace: &str,
    encoding: Encoding,
    body: &Bytes,
    randomness: u64,
) -> Result<(Box<str>, Bytes), SpoolRefusal> {
    let api_version = gvr.api_version();
    let parse = |body| Document::parse(encoding, body, MAX_EVENT_BYTES + 1024, &api_version, "Event");
    if body.len() > MAX_EVENT_BYTES {
        return Err(BodyError::TooLarge.into());
    }
    let mut completed = body.clone();
    let document = parse(body)?;
    let name: Box<str> = match document.text(NAME)? {
        Some(name) => name.into(),
        None => {
            let base = document.text(GENERATE_NAME)?.ok_or(BodyError::Field("metadata.name"))?;
            let name = generated_name(&base, randomness);
            completed = document.with_text(NAME, &name)?.into();
            name.into()
        }
    };
    if !is_subdomain(&name) {
        return Err(BodyError::Field("metadata.name").into());
    }
    match document.text(NAMESPACE)? {
        Some(found) if found == namespace => {}
        Some(_) => return Err(BodyError::Field("metadata.namespace").into()),
        None => completed = parse(&completed)?.with_text(NAMESPACE, namespace)?.into(),
    }
    Ok((name, completed))
}

fn generated_name(base: &str, mut randomness: u64) -> String {
    let room = MAX_NAME_BYTES - SUFFIX_LENGTH;
    let mut name = base[..base.floor_char_boundary(room)].to_owned();
    for _ in 0..SUFFIX_LENGTH {
        let at = usize::try_from(randomness % 27).expect("under 27");
        randomness /= 27;
        name.push(char::from(SUFFIX_ALPHABET[at]));
    }
    name
}

fn is_subdomain(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= MAX_NAME_BYTES
        && name.split('.').all(|label| {
            label.bytes().all(|byte| inner(byte) || byte == b'-')
                && label.bytes().next().is_some_and(inner)
                && label.bytes().next_back().is_some_and(inner)
        })
}

fn is_harmless(query: &str) -> bool {
    query.len() <= MAX_QUERY_BYTES
        && query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
        && query
            .split('&')
            .all(|pair| HARMLESS_PARAMETERS.contains(&pair.split_once('=').map_or(pair, |(name, _)| name)))
}

/// Big-endian, so that the store's order is the order of posting.
fn store_key(id: u64) -> Vec<u8> {
    id.to_be_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::tests::{envelope, message};
    use proptest::prelude::*;
    use proto_kube::request_info::RequestInfo;

    fn at(milliseconds: u64) -> Now {
        Now { monotonic: Duration::from_millis(milliseconds), unix: Duration::ZERO }
    }

    fn request(path: &str) -> ResourceRequest {
        match RequestInfo::parse("POST", path, None).expect("valid") {
            RequestInfo::Resource(request) => request,
            RequestInfo::NonResource(_) => panic!("{path} is a resource"),
        }
    }

    fn media() -> ResourceRequest {
        request("/api/v1/namespaces/media/events")
    }

    fn event(name: &str, count: u32) -> Bytes {
        format!(
            r#"{{"kind":"Event","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"media"}},"count":{count}}}"#
        )
        .into()
    }

    fn take(spool: &mut EventSpool, principal: &Principal, name: &str) -> SpooledEvent {
        spool.post(principal, &media(), None, Encoding::Json, &event(name, 1), 0).expect("taken")
    }

    fn node() -> Principal {
        Principal::node("a")
    }

    fn send(spool: &mut EventSpool, now: Now) -> Replay {
        match spool.poll(now, &|_| true) {
            ReplayStep::Send(replay) => *replay,
            step => panic!("nothing to send: {step:?}"),
        }
    }

    fn code(code: u16) -> ReplayOutcome {
        ReplayOutcome::Answered { code, retry_after: None }
    }

    #[test]
    fn the_answer_is_the_posted_object() {
        let mut spool = EventSpool::new(SpoolLimits::default());
        let taken = take(&mut spool, &node(), "engine-0.1");
        assert_eq!((taken.encoding, taken.body), (Encoding::Json, event("engine-0.1", 1)));
        let replay = send(&mut spool, at(0));
        assert_eq!(replay.principal, node());
        assert_eq!(replay.path_and_query, "/api/v1/namespaces/media/events");
        assert_eq!(replay.body, event("engine-0.1", 1));
    }

    #[test]
    fn a_generated_name_is_fixed_before_the_answer() {
        let mut spool = EventSpool::new(SpoolLimits::default());
        let body = Bytes::from_static(br#"{"metadata":{"generateName":"engine-"},"reason":"x"}"#);
        let taken = spool.post(&node(), &media(), Some("fieldManager=k"), Encoding::Json, &body, 1 + 27 * 2);
        let expected = br#"{"metadata":{"namespace":"media","name":"engine-cdbbb","generateName":"engine-"},"reason":"x"}"#;
        assert_eq!(taken.expect("taken").body, &expected[..]);
        let replay = send(&mut spool, at(0));
        assert_eq!(replay.path_and_query, "/api/v1/namespaces/media/events?fieldManager=k");
        assert_eq!(replay.body, &expected[..]);
    }

    #[test]
    fn a_protobuf_event_stays_protobuf() {
        let metadata = message(&[(2, b"engine-")]);
        let body = envelope("v1", "Event", &message(&[(1, &metadata), (99, b"future")]));
        let mut spool = EventSpool::new(SpoolLimits::default());
        let taken = spool.post(&node(), &media(), None, Encoding::Protobuf, &body.into(), 0).expect("taken");
        let metadata = message(&[(2, b"engine-"), (1, b"engine-bbbbb"), (3, b"media")]);
        assert_eq!(taken.body, envelope("v1", "Event", &message(&[(1, &metadata), (99, b"future")])));
    }

    #[test]
    fn what_cannot_be_kept_honestly_is_refused() {
        let mut spool = EventSpool::new(SpoolLimits::default());
        let good = event("e", 1);
        let mut refused = |path: &str, query: Option<&str>, body: &[u8]| {
            let body = Bytes::copy_from_slice(body);
            spool.post(&node(), &request(path), query, Encoding::Json, &body, 0).expect_err("refused")
        };
        const PATH: &str = "/api/v1/namespaces/media/events";
        assert_eq!(refused(PATH, Some("dryRun=All"), &good), SpoolRefusal::Request);
        assert_eq!(refused(PATH, Some("fieldManager=x&dry%52un=All"), &good), SpoolRefusal::Request);
        assert_eq!(refused("/api/v1/events", None, &good), SpoolRefusal::Request);
        for (path, body, error) in [
            ("/api/v1/namespaces/other/events", &good[..], BodyError::Field("metadata.namespace")),
            ("/apis/events.k8s.io/v1/namespaces/media/events", &good[..], BodyError::OtherKind),
            (PATH, br#"{"kind":"Event","metadata":{}}"#, BodyError::Field("metadata.name")),
            (PATH, br#"{"metadata":{"name":"../x"}}"#, BodyError::Field("metadata.name")),
            (PATH, br#"{"kind":"Pod"}"#, BodyError::OtherKind),
            (PATH, b"{", BodyError::Malformed),
            (PATH, &[b' '; MAX_EVENT_BYTES + 1], BodyError::TooLarge),
        ] {
            assert_eq!(refused(path, None, body), SpoolRefusal::Body(error), "{path}");
        }
        assert!(spool.is_empty());
    }

    #[test]
    fn a_newer_version_of_an_event_replaces_the_older() {
        let mut spool = EventSpool::new(SpoolLimits::default());
        take(&mut spool, &node(), "e");
        take(&mut spool, &node(), "f");
        let newer = spool.post(&node(), &media(), None, Encoding::Json, &event("e", 2), 0).expect("taken");
        assert!(newer.changes.contains(&RecordChange::Remove { key: store_key(0) }));
        assert_eq!((spool.len(), spool.counts().replaced), (2, 1));
        let first = send(&mut spool, at(0));
        assert_eq!(first.body, event("f", 1));
        spool.answered(at(0), first.id, code(201));
        assert_eq!(send(&mut spool, at(0)).body, event("e", 2));
    }

    #[test]
    fn an_event_goes_out_only_while_its_own_principal_has_a_credential() {
        let mut spool = EventSpool::new(SpoolLimits::default());
        let engine = Principal::service_account("media", "engine");
        take(&mut spool, &engine, "theirs");
        assert_eq!(spool.poll(at(0), &|principal| *principal == node()), ReplayStep::Idle);
        take(&mut spool, &node(), "ours");
        let ReplayStep::Send(replay) = spool.poll(at(0), &|principal| *principal == node()) else {
            panic!("the node has a credential");
        };
        assert_eq!((replay.principal, replay.body), (node(), event("ours", 1)));
        assert_eq!(send(&mut spool, at(0)).principal, engine);
    }

    #[test]
    fn the_replay_keeps_order_and_pace() {
        let limits = SpoolLimits { replay_per_second: 2, replay_burst: 2, ..SpoolLimits::default() };
        let mut spool = EventSpool::new(limits);
        for name in ["a", "b", "c", "d"] {
            take(&mut spool, &node(), name);
        }
        let mut sent = Vec::new();
        for (now, expected) in [(0, "a"), (0, "b"), (500, "c"), (1000, "d")] {
            if now > 0 {
                let before = spool.poll(at(now - 1), &|_| true);
                assert_eq!(before, ReplayStep::WaitUntil(Duration::from_millis(now)));
            }
            let replay = send(&mut spool, at(now));
            assert_eq!(replay.body, event(expected, 1));
            assert_eq!(spool.answered(at(now), replay.id, code(201)).len(), 1);
            sent.push(replay.id);
        }
        assert!(sent.is_sorted() && spool.is_empty() && spool.bytes() == 0);
        assert_eq!(spool.poll(at(2000), &|_| true), ReplayStep::Idle);
    }

    #[test]
    fn answers_decide_between_done_dropped_and_later() {
        for (outcome, counts) in [
            (code(201), Some((1, 0))),
            (code(409), Some((1, 0))),
            (code(400), Some((0, 1))),
            (code(403), Some((0, 1))),
            (code(404), Some((0, 1))),
            (code(422), Some((0, 1))),
            (code(401), None),
            (code(429), None),
            (code(500), None),
            (code(503), None),
            (ReplayOutcome::NoAnswer, None),
        ] {
            let mut spool = EventSpool::new(SpoolLimits::default());
            take(&mut spool, &node(), "e");
            let replay = send(&mut spool, at(0));
            assert_eq!(spool.poll(at(0), &|_| true), ReplayStep::Idle, "it is under way");
            spool.answered(at(0), replay.id, outcome);
            match counts {
                Some((delivered, refused)) => {
                    assert!(spool.is_empty(), "{outcome:?}");
                    assert_eq!((spool.counts().delivered, spool.counts().refused), (delivered, refused));
                }
                None => {
                    let wait = ReplayStep::WaitUntil(Duration::from_secs(1));
                    assert_eq!(spool.poll(at(0), &|_| true), wait, "{outcome:?}");
                    assert_eq!(send(&mut spool, at(1000)).id, replay.id);
                }
            }
        }
    }

    #[test]
    fn failures_back_off_and_retry_after_is_heard() {
        let mut spool = EventSpool::new(SpoolLimits::default());
        take(&mut spool, &node(), "e");
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..8 {
            let replay = send(&mut spool, at(now));
            spool.answered(at(now), replay.id, ReplayOutcome::NoAnswer);
            let ReplayStep::WaitUntil(next) = spool.poll(at(now), &|_| true) else { panic!("must wait") };
            waits.push((next - Duration::from_millis(now)).as_secs());
            now = u64::try_from(next.as_millis()).expect("small");
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        let replay = send(&mut spool, at(now));
        let hour = Some(Duration::from_secs(3600));
        spool.answered(at(now), replay.id, ReplayOutcome::Answered { code: 429, retry_after: hour });
        let until = Duration::from_millis(now) + LONGEST_RETRY_AFTER;
        assert_eq!(spool.poll(at(now), &|_| true), ReplayStep::WaitUntil(until));
    }

    #[test]
    fn an_answer_for_a_replaced_event_frees_its_principal() {
        let mut spool = EventSpool::new(SpoolLimits::default());
        take(&mut spool, &node(), "e");
        let replay = send(&mut spool, at(0));
        take(&mut spool, &node(), "e");
        assert_eq!(spool.poll(at(0), &|_| true), ReplayStep::Idle);
        assert_eq!(spool.answered(at(0), replay.id, code(201)), []);
        assert_ne!(send(&mut spool, at(0)).id, replay.id);
    }

    #[test]
    fn the_oldest_make_room_and_are_counted() {
        let limits = SpoolLimits { events: 4, events_per_principal: 3, ..SpoolLimits::default() };
        let mut spool = EventSpool::new(limits);
        let (noisy, quiet) = (Principal::new("noisy", ["g"]), node());
        take(&mut spool, &quiet, "q0");
        for number in 0..4 {
            take(&mut spool, &noisy, &format!("n{number}"));
        }
        assert_eq!((spool.len(), spool.counts().overflowed), (4, 1), "the noisy one loses its own first");
        take(&mut spool, &quiet, "q1");
        let left: Vec<_> = spool.records.values().map(|record| &*record.head.name).collect();
        assert_eq!(left, ["q0", "n2", "n3", "q1"]);
    }

    #[test]
    fn what_was_just_taken_is_never_what_makes_room() {
        let limits = SpoolLimits { events: 1, bytes: 1, bytes_per_principal: 1, ..SpoolLimits::default() };
        let mut spool = EventSpool::new(limits);
        take(&mut spool, &node(), "e");
        assert_eq!(spool.len(), 1, "even if it alone is too large");
        let engine = Principal::service_account("media", "engine");
        take(&mut spool, &engine, "a-longer-name");
        assert_eq!((spool.len(), send(&mut spool, at(0)).principal), (1, engine));
    }

    #[test]
    fn a_restored_spool_goes_on_where_it_was() {
        let mut spool = EventSpool::new(SpoolLimits::default());
        let mut restored = EventSpool::new(SpoolLimits::default());
        for name in ["a", "b"] {
            for change in take(&mut spool, &node(), name).changes {
                let RecordChange::Put { value, .. } = change else { panic!("only puts") };
                restored.restore(&value).expect("own record");
                assert_eq!(restored.restore(&value), Err(DamagedRecord), "twice the same");
            }
        }
        take(&mut restored, &node(), "c");
        for name in ["a", "b", "c"] {
            let replay = send(&mut restored, at(0));
            assert_eq!(replay.body, event(name, 1));
            restored.answered(at(0), replay.id, code(201));
        }
        assert_eq!(restored.restore(b"\n\n"), Err(DamagedRecord));
    }

    proptest! {
        #[test]
        fn any_story_keeps_the_bounds(story in proptest::collection::vec((0_u8..3, 0_u8..6, 0_u16..600), 0..80)) {
            let limits = SpoolLimits { events: 6, events_per_principal: 4, ..SpoolLimits::default() };
            let mut spool = EventSpool::new(limits);
            let (mut under_way, mut now) = (Vec::new(), 0);
            for (who, what, number) in story {
                let principal = Principal::new(format!("p{who}"), ["g"]);
                now += 100;
                match what {
                    0..3 => { take(&mut spool, &principal, &format!("e{number}")); }
                    3 => if let ReplayStep::Send(replay) = spool.poll(at(now), &|_| true) { under_way.push(replay.id) },
                    _ => if let Some(id) = under_way.pop() { spool.answered(at(now), id, code(number)); },
                }
                prop_assert!(spool.len() <= 6);
                let held: usize = spool.records.values().map(|record| record.body.len()).sum();
                prop_assert_eq!(spool.bytes(), held);
                prop_assert!(spool.principals.values().all(|of| !of.ids.is_empty() || of.in_flight.is_some()));
                let ids: usize = spool.principals.values().map(|of| of.ids.len()).sum();
                prop_assert_eq!(ids, spool.len());
            }
        }
    }
}
