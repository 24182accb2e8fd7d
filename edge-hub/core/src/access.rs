//! What each principal may read, as the API server said: believed online for a minute, while cut as it stood at the cut.
//!
//! A right that was taken away is gone within [`ALLOWED_VALIDITY`]. What is in use is asked about again before that, in
//! the background ([`AccessMemory::due`]), so that no request waits for it. A cut freezes what was confirmed within
//! [`FROZEN_VALIDITY`] of connected time before it: time without the cloud makes no word older, since none could be
//! asked about, and a link that comes for seconds takes nothing from anybody.
//!
//! Keys are exact. RBAC would allow to conclude that who may list all pods may get one of them; other authorizers
//! need not agree, and field-selector authorization does not, so nothing is concluded here: each distinct request
//! is asked about once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proto_kube::request_info::{RequestInfo, Verb};
use serde::{Deserialize, Serialize};

use crate::budget::{Budget, Limits};
use crate::clock::Now;
use crate::collection::CollectionSpec;
use crate::identity::{Details, Principal};
use crate::record::{self, DamagedRecord, RecordChange};

/// How long an allowance holds while the API server can be asked again.
pub const ALLOWED_VALIDITY: Duration = Duration::from_secs(60);
/// Connected time since it was said, within which an allowance still holds at a cut.
pub const FROZEN_VALIDITY: Duration = Duration::from_secs(5 * 60);
/// An allowance that was used within [`BUSY`] is asked about again at this age, before it ends.
const RENEW_BUSY: Duration = Duration::from_secs(40);
const BUSY: Duration = Duration::from_secs(2 * 60);
/// An allowance that was used within [`IN_USE`], as by a watch that is still open, is kept good for a cut.
const RENEW_IN_USE: Duration = Duration::from_secs(3 * 60);
const IN_USE: Duration = Duration::from_secs(60 * 60);
/// Allowances in doubt that are asked about again; others are when they are needed.
const DOUBTED: usize = 256;
/// How long a denial holds while the API server can be asked again.
pub const DENIED_VALIDITY: Duration = Duration::from_secs(30);
/// A word that is only said again is written again this long after it was written last: so its age after a restart is
/// too great by no more than this.
const REWRITE_AFTER: Duration = Duration::from_secs(2 * 60);

/// One exact thing that may be allowed. Absent parts are empty texts, as in a SubjectAccessReview.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AccessKey {
    /// An API resource.
    Resource {
        /// The RBAC verb.
        verb: Box<str>,
        /// API group; empty for the core group.
        group: Box<str>,
        /// API version.
        version: Box<str>,
        /// Plural resource name.
        resource: Box<str>,
        /// Subresource.
        subresource: Box<str>,
        /// Namespace; empty for all namespaces or a cluster-scoped resource.
        namespace: Box<str>,
        /// Object name; empty for a collection.
        name: Box<str>,
        /// Label selector in canonical text.
        labels: Box<str>,
        /// Field selector in canonical text.
        fields: Box<str>,
    },
    /// A path outside the resource API.
    NonResource {
        /// The lower-case method.
        verb: Box<str>,
        /// The path.
        path: Box<str>,
    },
    /// One of these, asked about a user with a uid or with extra: what was said holds for exactly that user.
    Of {
        /// The uid and the extra.
        details: Details,
        /// What may be allowed.
        key: Box<AccessKey>,
    },
}

impl AccessKey {
    /// The key of a request. `labels` and `fields` are the canonical selector texts of a LIST or WATCH, else empty.
    pub fn of(request: &RequestInfo, labels: &str, fields: &str) -> Self {
        let text = |part: &Option<Box<str>>| part.clone().unwrap_or_default();
        match request {
            RequestInfo::NonResource(request) => {
                Self::NonResource { verb: request.verb.clone(), path: request.path.clone() }
            }
            RequestInfo::Resource(request) => Self::Resource {
                verb: request.verb.as_str().into(),
                group: request.gvr.group.clone(),
                version: request.gvr.version.clone(),
                resource: request.gvr.resource.clone(),
                subresource: text(&request.subresource),
                namespace: text(&request.authorization_namespace),
                name: text(&request.name),
                labels: labels.into(),
                fields: fields.into(),
            },
        }
    }

    /// The key of the LIST or WATCH of a whole collection.
    pub fn of_collection(spec: &CollectionSpec, verb: Verb) -> Self {
        Self::Resource {
            verb: verb.as_str().into(),
            group: spec.gvr.group.clone(),
            version: spec.gvr.version.clone(),
            resource: spec.gvr.resource.clone(),
            subresource: Box::default(),
            namespace: spec.namespace.clone().unwrap_or_default(),
            // A request for a single name is authorized for that name.
            name: spec.fields.single_name().unwrap_or_default().into(),
            labels: spec.labels.to_string().into(),
            fields: spec.fields.to_string().into(),
        }
    }

    /// Whether this is to list or watch a whole collection, without a selector.
    fn is_collection(&self) -> bool {
        matches!(self, Self::Resource { verb, name, labels, fields, .. }
            if matches!(&**verb, "list" | "watch") && name.is_empty() && labels.is_empty() && fields.is_empty())
    }

    /// Whether this is about the same resource as `other`, in its namespace or, where that names none, in any; and about
    /// the same object, where that names one.
    fn is_under(&self, other: &Self) -> bool {
        let (
            Self::Resource { group, resource, namespace, name, .. },
            Self::Resource {
                group: other_group,
                resource: other_resource,
                namespace: other_namespace,
                name: other_name,
                ..
            },
        ) = (self, other)
        else {
            return false;
        };
        let covers = |wide: &str, narrow: &str| wide.is_empty() || wide == narrow;
        (group, resource) == (other_group, other_resource)
            && covers(other_namespace, namespace)
            && covers(other_name, name)
    }
}

/// Stands for every selection; no selector reads like that.
const ANY_SELECTION: &str = "*";

impl AccessKey {
    /// The key under which a no to this selection of a collection is kept; `None` for what selects nothing.
    fn of_any_selection(&self) -> Option<Self> {
        let mut any = self.clone();
        let selectors = match &mut any {
            Self::Resource { labels, fields, .. } => [labels, fields],
            Self::Of { key, .. } => match &mut **key {
                Self::Resource { labels, fields, .. } => [labels, fields],
                _ => return None,
            },
            Self::NonResource { .. } => return None,
        };
        if selectors.iter().all(|selector| selector.is_empty()) {
            return None;
        }
        for selector in selectors {
            *selector = ANY_SELECTION.into();
        }
        Some(any)
    }

    /// The texts of the key, in bytes.
    fn bytes(&self) -> usize {
        match self {
            Self::Resource {
                verb,
                group,
                version,
                resource,
                subresource,
                namespace,
                name,
                labels,
                fields,
            } => [verb, group, version, resource, subresource, namespace, name, labels, fields]
                .iter()
                .map(|text| text.len())
                .sum(),
            Self::NonResource { verb, path } => verb.len() + path.len(),
            Self::Of { details, key } => {
                let values =
                    details.extra.iter().flat_map(|(name, values)| std::iter::once(name).chain(values));
                details.uid.len() + values.map(|text| text.len() + 24).sum::<usize>() + key.bytes()
            }
        }
    }
}

/// Whether the API server can be asked now.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It can: old words are asked about again.
    Online,
    /// It cannot: the memory is frozen.
    Cut,
}

/// What is known of a principal's access.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// The API server allows it.
    Allowed,
    /// The API server denies it.
    Denied,
    /// Not known. Online: send a SubjectAccessReview. Cut: 503, since nobody can say.
    Unknown,
}

#[derive(Debug)]
struct Entry {
    allowed: bool,
    /// On the monotonic clock of this process; `None` for one from before a restart.
    learned: Option<Duration>,
    /// Since 1970, as the store has it; `None` for a record of a version that did not write it.
    written: Option<Duration>,
    /// Its age in connected time when this process came to know it, and the connected time of this process then.
    age_before: Duration,
    online: Duration,
    /// Last use, on the monotonic clock; the beginning for one from before a restart.
    used_at: Duration,
}

/// Where a word is from.
#[derive(Copy, Clone, Debug)]
enum Source {
    /// The API server said so at this moment, to a request or about one.
    Request(Now),
    /// The API server said so at this moment, and nobody waited for it.
    Renewal(Now),
    /// The store: when it was written, and its age in connected time.
    Store(Option<Duration>, Duration),
}

type OfPrincipal = BTreeMap<Arc<AccessKey>, Entry>;

/// What an entry takes beside the texts of its key.
const ENTRY_BYTES: usize = 192;

#[derive(Serialize, Deserialize)]
struct RecordHead {
    principal: Principal,
    key: AccessKey,
    allowed: bool,
    #[serde(default)]
    written_seconds: Option<u64>,
}

/// The record of an allowance.
fn put(principal: &Principal, key: &AccessKey, written: Option<Duration>) -> RecordChange {
    let written_seconds = written.map(|written| written.as_secs());
    let head = RecordHead { principal: principal.clone(), key: key.clone(), allowed: true, written_seconds };
    RecordChange::Put { key: store_key(principal, key), value: record::encode(&head, &[]) }
}

/// The bounds of a node's memory, in bytes: about 20 000 entries in all, and an eighth of them of one principal.
pub const ACCESS_BYTES: Limits = Limits { total: 8 << 20, of_one_user: 1 << 20, reserve: 0 };

/// The memory, within a [`Budget`]: what was said of this node itself makes room for nobody else.
///
/// **A no is not written**, since it costs whoever asks nothing: where a yes is in the store it is removed, and after a
/// restart nothing is known. A no to a selection of a collection is kept for all its selections, except for this node,
/// whose rights depend on them: a client may make up any number of them.
///
/// **A yes that turns into a no**, and a new no to a whole collection, say that rights may have been taken away: what else
/// was allowed of the same resource, in the same namespace or below, is forgotten, because a cut would keep it. It is
/// asked about again at once.
///
/// **While cut** the last word on exactly this key counts, as it stood at the cut: one that was *allowed* and not too old
/// by then stays allowed however long the cut lasts, one whose last word is *denied* stays denied, and all else is
/// unknown. Entries leave only when newer ones need their room, which a cut brings none of.
#[derive(Debug)]
pub struct AccessMemory {
    principals: BTreeMap<Arc<Principal>, OfPrincipal>,
    budget: Budget<(Arc<Principal>, Arc<AccessKey>)>,
    node: Principal,
    /// Connected time of this process up to the last cut, and since when it is connected again.
    online_before: Duration,
    online_since: Option<Duration>,
    /// Forgotten for a refusal beside them.
    doubted: Vec<(Principal, AccessKey)>,
}

impl AccessMemory {
    /// An empty memory of bytes, of the node `node`.
    pub fn new(limits: Limits, node: Principal) -> Self {
        Self {
            principals: BTreeMap::new(),
            budget: Budget::new(limits, node.clone()),
            node,
            online_before: Duration::ZERO,
            online_since: None,
            doubted: Vec::new(),
        }
    }

    /// The API server can be asked from now on, or no longer.
    pub fn handle_link(&mut self, now: Now, connected: bool) {
        self.online_before = self.online(now);
        self.online_since = connected.then_some(now.monotonic);
    }

    /// Connected time of this process.
    fn online(&self, now: Now) -> Duration {
        self.online_before
            + self.online_since.map_or(Duration::ZERO, |since| now.monotonic.saturating_sub(since))
    }

    /// Whether the word still holds at a cut that begins now, or held at the one that lasts.
    fn is_frozen(&self, now: Now, entry: &Entry) -> bool {
        let age = entry.age_before.saturating_add(self.online(now).saturating_sub(entry.online));
        age <= FROZEN_VALIDITY
    }

    /// The allowances that should be asked about now, at most `limit`, those in doubt first and then the oldest. What is
    /// said of them comes back by [`AccessMemory::renew`]. Not those for which `is_sure` says that the hub knows itself.
    pub fn due(
        &mut self,
        now: Now,
        limit: usize,
        is_sure: impl Fn(&Principal, &AccessKey) -> bool,
    ) -> Vec<(Principal, AccessKey)> {
        let mut due = std::mem::take(&mut self.doubted);
        self.doubted = due.split_off(due.len().min(limit));
        let mut aged = Vec::new();
        for (principal, of) in &self.principals {
            for (key, entry) in of {
                let unused = now.monotonic.saturating_sub(entry.used_at);
                let renew_at = if unused <= BUSY { RENEW_BUSY } else { RENEW_IN_USE };
                let age =
                    entry.learned.map_or(Duration::MAX, |learned| now.monotonic.saturating_sub(learned));
                // Of a user with details only a kubelet asks, which is answered by the cloud or with an age.
                let is_ours = !matches!(**key, AccessKey::Of { .. });
                let is_alive = entry.learned.is_some() || self.is_frozen(now, entry);
                if entry.allowed && is_ours && is_alive && unused <= IN_USE && age >= renew_at {
                    aged.push((std::cmp::Reverse(age), principal, key));
                }
            }
        }
        aged.retain(|(_, principal, key)| !is_sure(principal, key));
        aged.sort_unstable();
        let more = aged.into_iter().map(|(_, principal, key)| ((**principal).clone(), (**key).clone()));
        due.extend(more.take(limit.saturating_sub(due.len())));
        due
    }

    /// The API server said so just now of what was [due](AccessMemory::due).
    pub fn renew(
        &mut self,
        now: Now,
        principal: &Principal,
        key: &AccessKey,
        allowed: bool,
    ) -> Vec<RecordChange> {
        self.insert(principal, key, allowed, Source::Renewal(now))
    }

    /// The API server's last word, however old: for an answer that says its age.
    pub fn last_word(&self, principal: &Principal, key: &AccessKey) -> Option<bool> {
        Some(self.entry(principal, key)?.allowed)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.budget.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.budget.is_empty()
    }

    /// Whether `principal` may do `key`.
    pub fn check(&mut self, now: Now, reach: Reach, principal: &Principal, key: &AccessKey) -> Access {
        let Some(entry) = self.entry(principal, key) else { return Access::Unknown };
        let allowed = entry.allowed;
        let validity = if allowed { ALLOWED_VALIDITY } else { DENIED_VALIDITY };
        let age = entry.learned.map(|learned| now.monotonic.saturating_sub(learned));
        let holds = match reach {
            Reach::Online => age.is_some_and(|age| age <= validity),
            Reach::Cut => !allowed || self.is_frozen(now, entry),
        };
        self.touch(now, principal, key);
        if !holds {
            return Access::Unknown;
        }
        if allowed { Access::Allowed } else { Access::Denied }
    }

    /// Whether the cloud is known to allow anybody but `principal` to read this very object by its name.
    pub fn is_allowed_to_another(&self, now: Now, principal: &Principal, object: &AccessKey) -> bool {
        let others = self.principals.iter().filter(|(other, _)| ***other != *principal);
        others
            .flat_map(|(_, of)| of)
            .any(|(key, entry)| entry.allowed && self.is_frozen(now, entry) && key.is_under(object))
    }

    /// How long ago the API server said what [`AccessMemory::check`] finds; never too little. `None` if it is not known.
    pub fn age(&self, now: Now, principal: &Principal, key: &AccessKey) -> Option<Duration> {
        let entry = self.entry(principal, key)?;
        let since_start = entry.learned.map(|learned| now.monotonic.saturating_sub(learned));
        since_start.or_else(|| entry.written.map(|written| now.unix.saturating_sub(written)))
    }

    /// A SubjectAccessReview said so just now.
    pub fn learn(
        &mut self,
        now: Now,
        principal: &Principal,
        key: &AccessKey,
        allowed: bool,
    ) -> Vec<RecordChange> {
        self.insert(principal, key, allowed, Source::Request(now))
    }

    /// Every entry as a record, for a store that begins anew.
    pub fn records(&self) -> Vec<RecordChange> {
        let entries = self.principals.iter().flat_map(|(principal, of)| {
            let allowed = of.iter().filter(|(_, entry)| entry.allowed);
            allowed.map(move |(key, entry)| put(principal, key, entry.written))
        });
        entries.collect()
    }

    /// Takes a record over from the store, of a process that heard from the API server last at `last_contact` (since
    /// 1970). It counts while cut, if it is not too old by then; online the API server is asked again first.
    ///
    /// # Errors
    /// [`DamagedRecord`] if it is none of this memory's.
    pub fn restore(
        &mut self,
        value: &[u8],
        last_contact: Duration,
    ) -> Result<Vec<RecordChange>, DamagedRecord> {
        let (head, _) = record::decode::<RecordHead>(value)?;
        let written = head.written_seconds.map(Duration::from_secs);
        let age = written.map_or(Duration::MAX, |written| last_contact.saturating_sub(written));
        let changes = self.insert(&head.principal, &head.key, head.allowed, Source::Store(written, age));
        Ok(changes.into_iter().filter(|change| matches!(change, RecordChange::Remove { .. })).collect())
    }

    fn insert(
        &mut self,
        principal: &Principal,
        key: &AccessKey,
        allowed: bool,
        source: Source,
    ) -> Vec<RecordChange> {
        let (learned, said, age_before, online) = match source {
            Source::Request(now) | Source::Renewal(now) => {
                (Some(now.monotonic), Some(now.unix), Duration::ZERO, self.online(now))
            }
            Source::Store(written, age) => (None, written, age, Duration::ZERO),
        };
        let shared = match self.principals.get_key_value(principal) {
            Some((shared, _)) => Arc::clone(shared),
            None => Arc::new(principal.clone()),
        };
        let mut changes = Vec::new();
        let asked = key;
        let wide = if allowed || *principal == self.node { None } else { key.of_any_selection() };
        let had_yes = self.entry_of(principal, asked).is_some_and(|held| held.allowed);
        if wide.is_some() {
            changes.extend(self.forget(principal, asked));
        } else if let Some(any) = key.of_any_selection() {
            // A no to another selection that is older than this yes says no more.
            self.forget(principal, &any);
        }
        let key = wide.as_ref().unwrap_or(key);
        let of = self.principals.entry(Arc::clone(&shared)).or_default();
        let key = of.get_key_value(key).map_or_else(|| Arc::new(key.clone()), |(key, _)| Arc::clone(key));
        // What the store has of the same word stays there for a while.
        let kept = of.get(&key).filter(|held| held.allowed == allowed).and_then(|held| held.written);
        let kept = kept.filter(|kept| said.is_none_or(|said| said.saturating_sub(*kept) < REWRITE_AFTER));
        let written = kept.or(said);
        let used_at = match (source, of.get(&key)) {
            (Source::Request(now), _) | (Source::Renewal(now), None) => now.monotonic,
            (Source::Renewal(_), Some(held)) => held.used_at,
            (Source::Store(..), _) => Duration::ZERO,
        };
        let entry = Entry { allowed, learned, written, age_before, online, used_at };
        let previous = of.insert(Arc::clone(&key), entry);
        let had_yes = had_yes || previous.as_ref().is_some_and(|previous| previous.allowed);
        let is_news = learned.is_some() && previous.as_ref().is_none_or(|previous| previous.allowed);
        let is_taken_away = !allowed && (had_yes || is_news && key.is_collection());
        if allowed && (previous.is_none() || kept.is_none()) {
            changes.push(put(principal, &key, written));
        } else if !allowed && previous.is_some_and(|previous| previous.allowed) {
            changes.push(RecordChange::Remove { key: store_key(principal, &key) });
        }
        if is_taken_away {
            changes.extend(self.forget_allowed_beside(principal, asked));
        }
        let size = key.bytes() + ENTRY_BYTES;
        for (owner, key) in self.budget.put(&(shared, key), principal, size) {
            changes.extend(self.forget(&owner, &key));
        }
        changes
    }

    /// What is known of exactly this, or of the selections of the collection that it is one of.
    fn entry(&self, principal: &Principal, key: &AccessKey) -> Option<&Entry> {
        let of = self.principals.get(principal)?;
        of.get(key).or_else(|| of.get(&key.of_any_selection()?))
    }

    fn entry_of(&self, principal: &Principal, key: &AccessKey) -> Option<&Entry> {
        self.principals.get(principal)?.get(key)
    }

    fn forget_allowed_beside(&mut self, principal: &Principal, denied: &AccessKey) -> Vec<RecordChange> {
        let Some(of) = self.principals.get(principal) else { return Vec::new() };
        let is_beside = |key: &AccessKey, entry: &Entry| entry.allowed && key.is_under(denied);
        let beside = of.iter().filter(|(key, entry)| is_beside(key, entry));
        let gone: Vec<_> = beside.map(|(key, _)| Arc::clone(key)).collect();
        let room = DOUBTED.saturating_sub(self.doubted.len());
        self.doubted.extend(gone.iter().take(room).map(|key| (principal.clone(), (**key).clone())));
        gone.iter().filter_map(|key| self.forget(principal, key)).collect()
    }

    /// Forgets a word, and has its record removed if it has one.
    fn forget(&mut self, principal: &Principal, key: &AccessKey) -> Option<RecordChange> {
        let (shared, _) = self.principals.get_key_value(principal)?;
        let shared = Arc::clone(shared);
        let of = self.principals.get_mut(principal)?;
        let (key, entry) = of.remove_entry(key)?;
        if of.is_empty() {
            self.principals.remove(principal);
        }
        let removed = RecordChange::Remove { key: store_key(principal, &key) };
        self.budget.remove(&(shared, key));
        entry.allowed.then_some(removed)
    }

    fn touch(&mut self, now: Now, principal: &Principal, key: &AccessKey) {
        let Some((shared, _)) = self.principals.get_key_value(principal) else { return };
        let shared = Arc::clone(shared);
        let Some(of) = self.principals.get_mut(principal) else { return };
        let wide = if of.contains_key(key) { None } else { key.of_any_selection() };
        let Some((key, _)) = of.get_key_value(wide.as_ref().unwrap_or(key)) else { return };
        let key = Arc::clone(key);
        if let Some(entry) = of.get_mut(&key) {
            entry.used_at = now.monotonic;
        }
        self.budget.touch(&(shared, key));
    }
}

fn store_key(principal: &Principal, key: &AccessKey) -> Vec<u8> {
    let mut bytes = principal.to_key();
    serde_json::to_writer(&mut bytes, key).expect("a plain enum of texts, written to memory");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rights_that_were_taken_away_take_what_hangs_on_them() {
        let mut memory = AccessMemory::new(ACCESS_BYTES, Principal::node("a"));
        let jo = Principal::new("jo", ["g"]);
        let of = |verb: &str, resource: &str, namespace: &str, name: &str| AccessKey::Resource {
            verb: verb.into(),
            group: "".into(),
            version: "v1".into(),
            resource: resource.into(),
            subresource: "".into(),
            namespace: namespace.into(),
            name: name.into(),
            labels: "".into(),
            fields: "".into(),
        };
        let list = of("list", "secrets", "a", "");
        let beside = [of("get", "secrets", "a", "s"), of("watch", "secrets", "a", "")];
        let others =
            [of("get", "secrets", "b", "s"), of("get", "configmaps", "a", "s"), of("get", "pods", "", "")];
        // The same no once more takes nothing: who may get need not be allowed to list.
        memory.learn(at(0), &jo, &list, false);
        for key in beside.iter().chain(&others) {
            memory.learn(at(1), &jo, key, true);
        }
        memory.learn(at(2), &jo, &list, false);
        let allowed =
            |memory: &mut AccessMemory, key| memory.check(at(3), Reach::Cut, &jo, key) == Access::Allowed;
        assert!(beside.iter().chain(&others).all(|key| allowed(&mut memory, key)));
        memory.learn(at(4), &jo, &list, true);
        let changes = memory.learn(at(5), &jo, &list, false);
        assert_eq!(memory.due(at(5), 9, |_, _| false), beside.clone().map(|key| (jo.clone(), key)));
        let removed = changes.iter().filter(|change| matches!(change, RecordChange::Remove { .. }));
        assert_eq!(removed.count(), beside.len() + 1);
        for key in &beside {
            assert_eq!(memory.check(at(6), Reach::Cut, &jo, key), Access::Unknown);
        }
        assert!(others.iter().all(|key| allowed(&mut memory, key)));
        assert_eq!(memory.check(at(6), Reach::Cut, &jo, &list), Access::Denied);
        assert_eq!(memory.len(), 1 + others.len());
    }

    fn at(monotonic: u64) -> Now {
        Now { monotonic: Duration::from_secs(monotonic), unix: Duration::from_secs(1_795_521_600) }
    }

    fn key(path: &str, labels: &str, fields: &str) -> AccessKey {
        let request = RequestInfo::parse("GET", path, None).expect("a valid path");
        AccessKey::of(&request, labels, fields)
    }

    fn pods() -> AccessKey {
        key("/api/v1/namespaces/media/pods", "", "")
    }

    fn jo() -> Principal {
        Principal::new("jo", ["system:authenticated"])
    }

    fn memory() -> AccessMemory {
        AccessMemory::new(ACCESS_BYTES, Principal::node("a"))
    }

    #[test]
    fn online_an_allowance_holds_a_minute_and_a_denial_thirty_seconds() {
        let mut memory = memory();
        memory.learn(at(0), &jo(), &pods(), true);
        assert_eq!(memory.check(at(60), Reach::Online, &jo(), &pods()), Access::Allowed);
        assert_eq!(memory.check(at(61), Reach::Online, &jo(), &pods()), Access::Unknown);
        memory.learn(at(700), &jo(), &pods(), false);
        assert_eq!(memory.check(at(730), Reach::Online, &jo(), &pods()), Access::Denied);
        assert_eq!(memory.check(at(731), Reach::Online, &jo(), &pods()), Access::Unknown);
    }

    #[test]
    fn a_refused_collection_puts_what_was_allowed_of_it_in_doubt() {
        let mut memory = memory();
        let one = key("/api/v1/namespaces/media/pods/engine-0", "", "");
        let elsewhere = key("/api/v1/namespaces/other/pods/engine-0", "", "");
        memory.learn(at(0), &jo(), &one, true);
        memory.learn(at(0), &jo(), &elsewhere, true);
        let changes = memory.learn(at(1), &jo(), &pods(), false);
        assert!(changes.contains(&RecordChange::Remove { key: store_key(&jo(), &one) }));
        for reach in [Reach::Online, Reach::Cut] {
            assert_eq!(memory.check(at(2), reach, &jo(), &one), Access::Unknown);
            assert_eq!(memory.check(at(2), reach, &jo(), &elsewhere), Access::Allowed);
        }
        // It is asked about without anybody waiting, and back if it still holds.
        assert_eq!(memory.due(at(2), 9, |_, _| false), [(jo(), one.clone())]);
        memory.renew(at(3), &jo(), &one, true);
        assert_eq!(memory.check(at(4), Reach::Cut, &jo(), &one), Access::Allowed);
        // A selector that is refused says nothing of the rest.
        memory.learn(at(5), &jo(), &key("/api/v1/namespaces/media/pods", "", "spec.nodeName=a"), false);
        assert_eq!(memory.check(at(6), Reach::Cut, &jo(), &one), Access::Allowed);
    }

    #[test]
    fn what_is_in_use_is_renewed_before_it_ends_and_what_is_not_is_left_alone() {
        let mut memory = memory();
        memory.handle_link(at(0), true);
        memory.learn(at(0), &jo(), &pods(), true);
        let all = |_: &Principal, _: &AccessKey| false;
        assert_eq!(memory.due(at(39), 9, all), []);
        assert_eq!(memory.due(at(40), 9, all), [(jo(), pods())]);
        assert_eq!(memory.due(at(40), 9, |_, _| true), [], "the hub knows itself");
        memory.renew(at(41), &jo(), &pods(), true);
        assert_eq!(memory.check(at(100), Reach::Online, &jo(), &pods()), Access::Allowed);
        // Used at 100 s last, as by a watch that stays open: asked about every three minutes, for an hour.
        let mut asked = Vec::new();
        for second in (221..2 * 3600).step_by(10) {
            for (principal, key) in memory.due(at(second), 9, all) {
                asked.push(second);
                memory.renew(at(second), &principal, &key, true);
            }
        }
        assert!(asked.windows(2).all(|pair| pair[1] - pair[0] == 180), "{asked:?}");
        assert!(asked.last().is_some_and(|last| (3500..=3700).contains(last)), "{asked:?}");
        assert_eq!(memory.check(at(7200), Reach::Cut, &jo(), &pods()), Access::Unknown);
    }

    #[test]
    fn a_cut_freezes_rights_as_they_stood_and_only_connected_time_makes_them_older() {
        let mut memory = memory();
        memory.handle_link(at(0), true);
        memory.learn(at(0), &jo(), &pods(), true);
        memory.handle_link(at(60), false);
        let hour = 3600;
        assert_eq!(memory.check(at(24 * hour), Reach::Cut, &jo(), &pods()), Access::Allowed);
        // A link that comes for seconds, in which nothing could be asked, takes nothing.
        memory.handle_link(at(24 * hour), true);
        assert_eq!(memory.check(at(24 * hour), Reach::Online, &jo(), &pods()), Access::Unknown);
        memory.handle_link(at(24 * hour + 5), false);
        assert_eq!(memory.check(at(48 * hour), Reach::Cut, &jo(), &pods()), Access::Allowed);
        // One that lasts without the word being confirmed does.
        memory.handle_link(at(48 * hour), true);
        memory.handle_link(at(48 * hour + 236), false);
        assert_eq!(memory.check(at(49 * hour), Reach::Cut, &jo(), &pods()), Access::Unknown);
    }

    #[test]
    fn while_cut_a_word_that_stood_holds_for_ever() {
        let mut memory = memory();
        let year = 365 * 24 * 3600;
        memory.learn(at(0), &jo(), &pods(), true);
        assert_eq!(memory.check(at(year), Reach::Cut, &jo(), &pods()), Access::Allowed);
        memory.learn(at(1), &jo(), &pods(), false);
        assert_eq!(memory.check(at(year), Reach::Cut, &jo(), &pods()), Access::Denied);
        let nodes = key("/api/v1/nodes", "", "");
        assert_eq!(memory.check(at(year), Reach::Cut, &jo(), &nodes), Access::Unknown);
    }

    #[test]
    fn nothing_is_concluded_from_a_neighbour() {
        let mut memory = memory();
        memory.learn(at(0), &jo(), &key("/api/v1/pods", "", ""), true);
        memory.learn(at(0), &jo(), &pods(), true);
        let neighbours = [
            key("/api/v1/namespaces/media/pods/engine-0", "", ""),
            key("/api/v1/namespaces/media/pods", "app=engine", ""),
            key("/api/v1/namespaces/media/pods", "", "spec.nodeName=a"),
            key("/api/v1/namespaces/other/pods", "", ""),
            key("/api/v1/namespaces/media/secrets", "", ""),
            key("/api/v1/watch/namespaces/media/pods", "", ""),
            key("/apis/x/v1/namespaces/media/pods", "", ""),
            key("/version", "", ""),
        ];
        for neighbour in neighbours {
            assert_eq!(memory.check(at(1), Reach::Cut, &jo(), &neighbour), Access::Unknown, "{neighbour:?}");
        }
        let same_user_other_groups = Principal::new("jo", ["admins"]);
        assert_eq!(memory.check(at(1), Reach::Cut, &same_user_other_groups, &pods()), Access::Unknown);
    }

    #[test]
    fn a_restored_word_counts_while_cut_only() {
        let changes = memory().learn(at(100), &jo(), &pods(), true);
        let [RecordChange::Put { value, .. }] = changes.as_slice() else { panic!("one record: {changes:?}") };
        let mut restored = memory();
        let contact = |seconds| at(0).unix + Duration::from_secs(seconds);
        assert_eq!(restored.restore(value, contact(300)), Ok(Vec::new()));
        assert_eq!(restored.check(at(0), Reach::Cut, &jo(), &pods()), Access::Allowed);
        assert_eq!(restored.check(at(0), Reach::Online, &jo(), &pods()), Access::Unknown);
        assert_eq!(restored.restore(b"not a record", contact(0)), Err(DamagedRecord));
        // It is asked about as soon as there is somebody to ask.
        assert_eq!(restored.due(at(1), 9, |_, _| false), [(jo(), pods())]);
        let later = Now { monotonic: Duration::ZERO, unix: at(0).unix + Duration::from_secs(500) };
        assert_eq!(restored.age(later, &jo(), &pods()), Some(Duration::from_secs(500)));
        let old = String::from_utf8(value.clone()).expect("a line of JSON");
        let old = old.replace(",\"written_seconds\":1795521600", "");
        assert!(!old.contains("1795521600"), "{old}");
        // One that was too old at the cut, or that nobody knows the age of, counts no more.
        for (value, contact) in [(value.as_slice(), contact(301)), (old.as_bytes(), contact(0))] {
            let mut restored = super::tests::memory();
            assert_eq!(restored.restore(value, contact), Ok(Vec::new()));
            assert_eq!(restored.check(at(0), Reach::Cut, &jo(), &pods()), Access::Unknown);
            assert_eq!(restored.due(at(1), 9, |_, _| false), []);
            assert_eq!(restored.last_word(&jo(), &pods()), Some(true));
        }
    }

    #[test]
    fn only_a_changed_word_is_written() {
        let mut memory = memory();
        assert_eq!(memory.learn(at(0), &jo(), &pods(), true).len(), 1);
        assert_eq!(memory.learn(at(300), &jo(), &pods(), true).len(), 0);
        assert_eq!(memory.check(at(360), Reach::Online, &jo(), &pods()), Access::Allowed);
        assert_eq!(memory.learn(at(361), &jo(), &pods(), false).len(), 1);
    }

    #[test]
    fn a_word_has_the_age_of_its_last_saying_and_is_written_again_after_two_minutes() {
        let mut memory = memory();
        let moment = |seconds| Now { unix: at(0).unix + Duration::from_secs(seconds), ..at(seconds) };
        assert_eq!(memory.age(moment(0), &jo(), &pods()), None);
        assert_eq!(memory.learn(moment(0), &jo(), &pods(), true).len(), 1);
        assert_eq!(memory.learn(moment(119), &jo(), &pods(), true).len(), 0);
        assert_eq!(memory.age(moment(125), &jo(), &pods()), Some(Duration::from_secs(6)));
        assert_eq!(memory.learn(moment(120), &jo(), &pods(), true).len(), 1);
        assert_eq!(memory.learn(moment(121), &jo(), &pods(), true).len(), 0);
    }

    fn room_for(total: usize, of_one_user: usize) -> Limits {
        let each = key("/api/v1/pods", "a=b", "").bytes() + ENTRY_BYTES;
        Limits { total: total * each, of_one_user: of_one_user * each, reserve: 0 }
    }

    #[test]
    fn a_greedy_principal_displaces_its_own_entries_and_whoever_has_most_makes_room() {
        let mut memory = AccessMemory::new(room_for(5, 3), Principal::node("a"));
        let object = |number: u32| key(&format!("/api/v1/nodes/n{number}"), "", "");
        memory.learn(at(0), &Principal::node("a"), &object(0), true);
        for number in 1..=4 {
            memory.learn(at(0), &jo(), &object(number), true);
        }
        assert_eq!(memory.len(), 4);
        let [one, two] = ["1", "2"].map(|name| Principal::new(name, ["g"]));
        memory.learn(at(0), &one, &object(1), true);
        let changes = memory.learn(at(0), &two, &object(1), true);
        assert!(changes.contains(&RecordChange::Remove { key: store_key(&jo(), &object(2)) }));
        for number in 0..4 {
            memory.learn(at(0), &Principal::node("a"), &object(number), true);
        }
        let mut allowed = |who: &Principal, number| {
            memory.check(at(0), Reach::Cut, who, &object(number)) == Access::Allowed
        };
        assert!((0..4).all(|number| allowed(&Principal::node("a"), number)));
        assert_eq!([3, 4].map(|number| allowed(&jo(), number)), [false, false]);
    }

    #[test]
    fn a_no_costs_no_write_and_is_one_for_all_selections_of_a_collection() {
        let mut memory = memory();
        for number in 0..100 {
            let changes = memory.learn(at(0), &jo(), &key("/api/v1/pods", &format!("k{number}"), ""), false);
            assert_eq!(changes, []);
        }
        assert_eq!((memory.len(), memory.records()), (1, Vec::new()));
        assert_eq!(memory.check(at(1), Reach::Cut, &jo(), &key("/api/v1/pods", "other", "")), Access::Denied);
        assert_eq!(memory.check(at(1), Reach::Cut, &jo(), &key("/api/v1/pods", "", "")), Access::Unknown);
        // The rights of a node depend on what it selects.
        let node = Principal::node("a");
        memory.learn(at(0), &node, &key("/api/v1/pods", "", "spec.nodeName=b"), false);
        let own = key("/api/v1/pods", "", "spec.nodeName=a");
        assert_eq!(memory.check(at(1), Reach::Cut, &node, &own), Access::Unknown);
        // A newer yes to one of them is heard.
        memory.learn(at(2), &jo(), &key("/api/v1/pods", "k1", ""), true);
        assert_eq!(memory.check(at(2), Reach::Cut, &jo(), &key("/api/v1/pods", "k1", "")), Access::Allowed);
    }

    proptest! {
        /// Whatever happened, nobody is allowed what the API server did not allow them last, on exactly that key.
        #[test]
        fn the_last_word_on_this_very_key_decides(
            story in proptest::collection::vec((0_usize..3, 0_usize..4, 0_u8..3), 0..120),
        ) {
            let limits = room_for(8, 3);
            let mut memory = AccessMemory::new(limits, Principal::node("a"));
            let principals = [jo(), Principal::new("jo", ["admins"]), Principal::node("a")];
            let keys = [pods(), key("/api/v1/pods", "", ""), key("/api/v1/pods", "a=b", ""), key("/version", "", "")];
            let mut last = BTreeMap::new();
            for (now, (who, what, step)) in (0_u64..).zip(story) {
                let (principal, key) = (&principals[who], &keys[what]);
                if step < 2 {
                    let allowed = step == 0;
                    memory.learn(at(now), principal, key, allowed);
                    last.insert((who, what), allowed);
                }
                let expected = match last.get(&(who, what)) {
                    None => Access::Unknown,
                    Some(true) => Access::Allowed,
                    Some(false) => Access::Denied,
                };
                for reach in [Reach::Cut, Reach::Online] {
                    let found = memory.check(at(now), reach, principal, key);
                    // It may have made room for others, or be too old; then it is asked about again.
                    prop_assert!(found == expected || (step == 2 && found == Access::Unknown));
                }
                prop_assert!(memory.budget.size() <= limits.total);
                let held: usize = memory.principals.values().map(BTreeMap::len).sum();
                prop_assert_eq!(held, memory.len());
            }
        }
    }
}
