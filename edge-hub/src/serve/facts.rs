//! What is known that bears on one request, gathered for its plan.

use std::{sync::Arc, time::Duration};

use edge_hub_core::{
    access::{Access, AccessKey},
    collection::{CollectionSpec, Lookup},
    offline::Holding,
    plan::{Candidate, Facts, Fetch, Tried},
    standing::Standing,
};
use http::Response;
use proto_kube::{
    list_options::{GetOptions, ListOptions},
    media_type::{Encoding, Format},
    object::ObjectKey,
    request_info::{RequestInfo, ResourceRequest, Verb},
    selector::{FieldSelector, LabelSelector},
    status::Status,
};

use super::{call::Call, call::resource_access, discovery::discovery_key};
use crate::{
    collections::cell::{Cell, Phase},
    documents::single_key,
    sync::lock,
    upstream::Body,
};

/// What a read of objects says beside its path.
#[derive(Clone)]
pub(super) enum Wish {
    /// LIST or WATCH.
    Collection {
        /// As they were sent.
        options: ListOptions,
        /// The version that is asked for.
        version: Option<u64>,
    },
    /// GET.
    Object(GetOptions),
}

/// What came of the steps so far, beside what a plan looks at.
#[derive(Default)]
pub(super) struct Trail {
    /// What a plan looks at.
    pub(super) tried: Tried,
    /// The collection that was fetched for this very request.
    pub(super) fetched: Option<Arc<Cell>>,
    /// Of which collection `tried` says how its fetch ended.
    pub(super) collected: Option<CollectionSpec>,
    /// The answer was thrown away once, for a collection that was begun.
    pub(super) went_back: bool,
    /// What came of passing it on, where that need not be the answer.
    pub(super) instead: Option<Response<Body>>,
}

/// One candidate with what is needed to answer from it.
pub(super) struct Source {
    pub(super) cell: Arc<Cell>,
    /// The client's format that it can be shown in.
    pub(super) shown: Format,
    /// What is asked for, as a collection of its own.
    pub(super) wanted: CollectionSpec,
}

/// The facts of one moment.
pub(super) struct Gathered {
    /// One for each of `candidates`.
    pub(super) sources: Vec<Source>,
    /// What would be fetched for this request.
    pub(super) meant: Option<CollectionSpec>,
    /// The same without anything that is not asked for.
    pub(super) wanted: Option<CollectionSpec>,
    /// Under what a whole answer to this is kept, and the format of that, where it is an object.
    pub(super) document: Option<(String, Option<Format>)>,
    candidates: Vec<Candidate>,
    access: Access,
    fields: String,
    is_uncollectable: bool,
    may_collect: bool,
    document_unix: Option<Duration>,
    own_node: bool,
    own_lease: bool,
}

impl Gathered {
    fn nothing(access: Access) -> Self {
        Self {
            sources: Vec::new(),
            meant: None,
            wanted: None,
            document: None,
            candidates: Vec::new(),
            access,
            fields: String::new(),
            is_uncollectable: false,
            may_collect: false,
            document_unix: None,
            own_node: false,
            own_lease: false,
        }
    }

    /// Under what a discovery document is kept.
    pub(super) fn discovery(&self) -> Option<&str> {
        self.document.as_ref().filter(|(_, format)| format.is_none()).map(|(key, _)| key.as_str())
    }

    /// As a plan has them.
    pub(super) fn facts(&self, call: &Call, trail: &Trail) -> Facts<'_> {
        let mut tried = trail.tried;
        // Of a kind that turned out to be newer than this program another collection is meant.
        if trail.collected != self.meant {
            tried.collected = None;
        }
        Facts {
            cloud: call.hub.site.cloud(),
            access: self.access,
            fields: &self.fields,
            is_uncollectable: self.is_uncollectable,
            may_collect: self.may_collect,
            is_widened: self.meant != self.wanted,
            candidates: &self.candidates,
            document_unix: self.document_unix,
            own_node: self.own_node,
            own_lease: self.own_lease,
            tried,
        }
    }
}

pub(super) fn spec(request: &ResourceRequest, options: &ListOptions, format: Format) -> CollectionSpec {
    CollectionSpec {
        gvr: request.gvr.clone(),
        namespace: request.namespace.clone(),
        labels: options.labels.clone(),
        fields: options.fields.clone(),
        format,
    }
}

/// The collection of the one object that is asked for.
pub(super) fn named_spec(request: &ResourceRequest, format: Format) -> CollectionSpec {
    CollectionSpec {
        gvr: request.gvr.clone(),
        namespace: request.namespace.clone(),
        labels: LabelSelector::default(),
        fields: FieldSelector::for_name(request.name.as_deref().unwrap_or_default()),
        format,
    }
}

pub(super) fn key(request: &ResourceRequest) -> ObjectKey {
    ObjectKey {
        namespace: request.namespace.clone().unwrap_or_default(),
        name: request.name.clone().unwrap_or_default(),
    }
}

impl Call {
    /// What a read of objects says beside its path.
    ///
    /// # Errors
    /// The words of the hub for what it does not understand.
    pub(super) fn wish(&self, request: &ResourceRequest) -> Result<Wish, Status> {
        if request.verb == Verb::Get {
            return Ok(Wish::Object(GetOptions::parse(self.query())?));
        }
        let options = ListOptions::for_request(request, self.query())?;
        let version = options.parsed_rv()?;
        Ok(Wish::Collection { options, version })
    }

    /// The facts for anything but a read of objects.
    pub(super) fn gather_other(&self, info: &RequestInfo) -> Gathered {
        let access = self.access_offline(&AccessKey::of(info, "", ""), None);
        let mut gathered = Gathered::nothing(access);
        match info {
            RequestInfo::Resource(_) => {
                gathered.own_node = self.hub.collections.holds_own_node();
                gathered.own_lease = lock(&self.hub.lease).is_held();
            }
            RequestInfo::NonResource(request) => {
                let key = discovery_key(request, &self.head.uri, self.accept());
                gathered.document_unix =
                    key.as_ref().and_then(|key| Some(self.hub.documents.get(key)?.fetched_unix));
                gathered.document = key.map(|key| (key, None));
            }
        }
        gathered
    }

    /// The facts for a read of objects.
    pub(super) fn gather(
        &self,
        request: &ResourceRequest,
        wish: &Wish,
        formats: &[Format],
        trail: &Trail,
    ) -> Gathered {
        let looks_offline = !self.hub.site.is_connected() || trail.tried.failure.is_some();
        match (wish, looks_offline) {
            (Wish::Collection { options, .. }, true) => self.gather_held(request, options, formats),
            (Wish::Collection { options, .. }, false) => self.gather_online(request, options, formats, trail),
            (Wish::Object(options), looks_offline) => {
                // Of any other version the age is a promise that only the cloud can keep, whatever is held.
                let is_asked = looks_offline || options.resource_version.as_deref() == Some("0");
                self.gather_object(request, if is_asked { formats } else { &[] }, looks_offline)
            }
        }
    }

    /// Online: what covers the collection that would be fetched, in the format that the client wants most.
    fn gather_online(
        &self,
        request: &ResourceRequest,
        options: &ListOptions,
        formats: &[Format],
        trail: &Trail,
    ) -> Gathered {
        let mut gathered = Gathered::nothing(Access::Unknown);
        let Some(mut shown) = formats.first().copied() else { return gathered };
        if trail.tried.json {
            shown.encoding = Encoding::Json;
        }
        gathered.fields = options.fields.to_string();
        // A kind that turns out to be newer than this program is held in another format from then on.
        for _ in 0..2 {
            let wanted = spec(request, options, self.hub.collections.held_for(&request.gvr, shown));
            gathered.access = self.known(&AccessKey::of_collection(&wanted, request.verb));
            gathered.is_uncollectable = self.is_the_clouds(&wanted, request.verb);
            gathered.may_collect = self.may_have_collected(&wanted, request.verb);
            // What selectors only exclude from is fetched without them, where the cloud lets this client.
            let whole = self.whole(&wanted).filter(|_| !trail.tried.narrowed);
            let meant = whole.unwrap_or_else(|| wanted.clone());
            let of_pool = self.hub.collections.pool_cell(&wanted);
            (gathered.candidates, gathered.sources) = (Vec::new(), Vec::new());
            for cell in self.hub.collections.covering(&meant) {
                let is_fetched_for_this =
                    trail.fetched.as_ref().is_some_and(|fetched| Arc::ptr_eq(fetched, &cell));
                // Who may have all of it may have a part of it by the same verb.
                let access = match self.known(&AccessKey::of_collection(&cell.spec, request.verb)) {
                    Access::Allowed => Access::Allowed,
                    Access::Denied | Access::Unknown => gathered.access,
                };
                gathered.candidates.push(Candidate {
                    access,
                    of_pool: of_pool.as_ref().is_some_and(|pool| Arc::ptr_eq(pool, &cell)),
                    is_meant: cell.spec == meant,
                    is_fetched_for_this,
                    ..self.candidate(&cell, shown, None)
                });
                gathered.sources.push(Source { cell, shown, wanted: wanted.clone() });
            }
            gathered.wanted = Some(wanted);
            gathered.meant = Some(meant);
            if gathered.candidates.iter().all(|candidate| candidate.can_show) {
                break;
            }
        }
        gathered
    }

    /// While the cloud does not answer: every collection that covers what is asked for, in every format that the client
    /// takes, the one to be believed first at the front.
    fn gather_held(&self, request: &ResourceRequest, options: &ListOptions, formats: &[Format]) -> Gathered {
        let mut gathered = Gathered::nothing(Access::Unknown);
        gathered.fields = options.fields.to_string();
        let holdings = self.holdings(&request.gvr, formats);
        let covering = |held| {
            let wanted = spec(request, options, held);
            (self.hub.collections.covering(&wanted), wanted)
        };
        for (source, standing) in self.ranked(&holdings, covering) {
            let access = AccessKey::of_collection(&source.wanted, request.verb);
            gathered.candidates.push(Candidate {
                access: self.access_offline(&access, Some(&source.cell)),
                standing,
                ..self.candidate(&source.cell, source.shown, None)
            });
            gathered.sources.push(source);
        }
        let wanted = holdings.first().map(|(_, held)| spec(request, options, *held));
        if let Some(wanted) = wanted {
            gathered.access = self.known(&AccessKey::of_collection(&wanted, request.verb));
            gathered.meant = Some(self.whole(&wanted).unwrap_or_else(|| wanted.clone()));
            gathered.wanted = Some(wanted);
        }
        gathered
    }

    /// What may hold one object, and the whole answer that was kept of it.
    fn gather_object(&self, request: &ResourceRequest, formats: &[Format], looks_offline: bool) -> Gathered {
        let access = resource_access(request);
        let mut gathered = Gathered::nothing(Access::Unknown);
        let key = key(request);
        let holdings = match formats.first() {
            _ if looks_offline => self.holdings(&request.gvr, formats),
            Some(format) => vec![(*format, self.hub.collections.held_for(&request.gvr, *format))],
            None => Vec::new(),
        };
        let near = |held| {
            let wanted = named_spec(request, held);
            (self.hub.collections.covering_object(&wanted, &key), wanted)
        };
        for (source, standing) in self.ranked(&holdings, near) {
            gathered.candidates.push(Candidate {
                access: self.access_offline(&access, Some(&source.cell)),
                standing,
                ..self.candidate(&source.cell, source.shown, Some(&key))
            });
            gathered.sources.push(source);
        }
        if looks_offline {
            gathered.access = self.access_offline(&access, None);
            let kept = formats.iter().find_map(|format| {
                let key = single_key(&self.head.uri, *format);
                Some((self.hub.documents.get(&key)?.fetched_unix, key, *format))
            });
            // The newest says how old the candidates may be; the most wanted is what is shown.
            gathered.document_unix = kept.as_ref().and_then(|_| self.kept_at(formats));
            gathered.document = kept.map(|(_, key, format)| (key, Some(format)));
        } else {
            gathered.access = self.known(&access);
        }
        gathered
    }

    fn known(&self, access: &AccessKey) -> Access {
        match self.may(access) {
            Some(true) => Access::Allowed,
            Some(false) => Access::Denied,
            None => Access::Unknown,
        }
    }

    /// What can be said of a collection by itself.
    fn candidate(&self, cell: &Cell, shown: Format, key: Option<&ObjectKey>) -> Candidate {
        let can_show = self.project(cell, shown).is_some();
        let object = key.filter(|_| can_show).map_or(Holding::Unknown, |key| self.holding(cell, key));
        let (is_complete, fetch, heard_unix) = cell.with(|inner| {
            let fetch = match inner.phase {
                Phase::Live => Fetch::Live,
                Phase::Refused(..) | Phase::JsonOnly => Fetch::Refused,
                Phase::Syncing | Phase::Retired => Fetch::Behind,
            };
            (inner.collection.is_complete(), fetch, inner.collection.synced_unix())
        });
        Candidate {
            access: Access::Unknown,
            of_pool: false,
            is_meant: false,
            is_complete,
            fetch,
            can_show,
            is_fetched_for_this: false,
            object,
            standing: Standing { followed: true, exact: true, format: 0, heard_unix },
        }
    }

    /// What a collection knows of an object, as this client is shown it.
    fn holding(&self, cell: &Cell, key: &ObjectKey) -> Holding {
        let is_named = cell.spec.labels.is_empty() && cell.spec.fields.single_name() == Some(&*key.name);
        self.give_inputs(cell);
        cell.with(|inner| match inner.collection.get_filtered(key, &self.chain) {
            // The refusal is the answer.
            Ok(Lookup::Found(_)) | Err(_) => Holding::Present,
            // A collection of just this name knows that it is gone.
            Ok(Lookup::Unknown) if is_named && inner.collection.is_complete() => Holding::Absent,
            Ok(Lookup::Absent) => Holding::Absent,
            Ok(Lookup::Unknown) => Holding::Unknown,
        })
    }

    /// The collections for each format that the client takes, with the format held for it, as they stand.
    fn ranked(
        &self,
        holdings: &[(Format, Format)],
        cells: impl Fn(Format) -> (Vec<Arc<Cell>>, CollectionSpec),
    ) -> Vec<(Source, Standing)> {
        let silent_since = self.hub.site.silent_since();
        let mut ranked: Vec<(Source, Standing)> = Vec::new();
        for (format, (shown, held)) in holdings.iter().enumerate() {
            let (cells, wanted) = cells(*held);
            for cell in cells {
                let (heard_unix, ended) = cell.with(|inner| {
                    let ended = matches!(inner.phase, Phase::Retired | Phase::Refused(..));
                    (inner.collection.synced_unix(), ended)
                });
                let followed = Standing::was_followed(ended, heard_unix, silent_since);
                let standing = Standing { followed, exact: cell.spec == wanted, format, heard_unix };
                ranked.push((Source { cell, shown: *shown, wanted: wanted.clone() }, standing));
            }
        }
        ranked.sort_by_key(|(_, standing)| standing.rank());
        ranked
    }

    /// When the cloud's answer for this very object was kept whole last, in a format that the client takes.
    fn kept_at(&self, formats: &[Format]) -> Option<Duration> {
        let fetched = |format: &Format| {
            Some(self.hub.documents.get(&single_key(&self.head.uri, *format))?.fetched_unix)
        };
        formats.iter().filter_map(fetched).max()
    }
}
