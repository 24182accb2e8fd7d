//! GET, LIST and WATCH of resources: from a collection where that is honest, from the cloud where it is there.

use std::{sync::Arc, time::Duration};

use edge_hub_core::{
    access::AccessKey,
    collection::{CollectionSpec, Lookup, Refusal},
    documents::Document,
    offline::{Held, Holding},
    projection::Projection,
    view::{WatchRequest, open_filtered},
};
use http::Response;
use proto_kube::{
    list_options::{GetOptions, ListOptions, VersionMatch},
    media_type::Format,
    object::ObjectKey,
    request_info::{RequestInfo, ResourceRequest, Verb},
    selector::{FieldSelector, LabelSelector},
    status::Status,
};

use super::{
    answer, call::Call, call::resource_access, formats::selection, standing::Candidate, stream::WatchBody,
};
use crate::{
    cell::{Cell, Phase},
    clock::random,
    documents::single_key,
    upstream::Body,
};

/// How long kube-apiserver waits for a resource version that it has not reached.
pub(super) const CATCH_UP: Duration = Duration::from_secs(3);
/// Watches that a client gave no time-out for, in seconds; kube-apiserver takes between one and two of these.
const WATCH_SECONDS: u64 = 1800;

/// A collection that a request may be answered from.
pub(super) struct Ready {
    pub(super) cell: Arc<Cell>,
    pub(super) projection: Projection,
    /// The collection was fetched for this very request, after it came.
    pub(super) fetched_for_this: bool,
}

pub(super) enum Found {
    Ready(Ready),
    /// Nothing that may be used: let the cloud answer.
    Forward,
    /// A refusal of our own.
    Refused(Status),
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

impl Call {
    pub(super) async fn list_or_watch(self, request: ResourceRequest) -> Response<Body> {
        let connected = self.hub.site.is_connected();
        let options = match ListOptions::for_request(&request, self.query()) {
            Ok(options) => options,
            // The server words its own refusals best.
            Err(_) if connected => return self.forward_resource(request).await,
            Err(status) => return answer::refuse(&status),
        };
        let version = match options.parsed_rv() {
            Ok(version) => version,
            Err(_) if connected => return self.forward_resource(request).await,
            Err(status) => return answer::refuse(&status),
        };
        let formats = match self.formats(&request, options.include_object) {
            Ok(formats) => formats,
            // The server asks who may before it looks at what is wished for.
            Err(_) if connected => return self.forward_resource(request).await,
            Err(status) => return answer::refuse(&status),
        };
        let found = if connected {
            match formats.first() {
                Some(format) => self.find_online(&request, &options, version, *format).await,
                None => Found::Forward,
            }
        } else {
            self.find_offline(&request, &options, &formats)
        };
        match found {
            Found::Forward => self.forward_resource(request).await,
            Found::Refused(status) => answer::refuse(&status),
            Found::Ready(ready) if request.verb == Verb::Watch => {
                self.watch(ready, &request, &options, version).await
            }
            Found::Ready(ready) => self.list(ready, request, options, version).await,
        }
    }

    /// Who may list or watch a whole collection may see each object of it.
    pub(super) fn may_read_all_of(&self, cell: &Cell) -> bool {
        [Verb::List, Verb::Watch]
            .iter()
            .any(|verb| self.may(&AccessKey::of_collection(&cell.spec, *verb)) == Some(true))
    }

    /// While cut: any complete collection that this principal was allowed to read before.
    fn find_offline(&self, request: &ResourceRequest, options: &ListOptions, formats: &[Format]) -> Found {
        if options.continue_token.is_some() {
            return Found::Refused(Status::expired_message(
                "the list cannot be continued while the node is cut off from the cloud; start it again",
            ));
        }
        let info = RequestInfo::Resource(request.clone());
        let fields = options.fields.to_string();
        let now = self.hub.site.clock.now().monotonic;
        let mut refused = None;
        let holdings = self.holdings(&request.gvr, formats);
        for Candidate { cell, shown, .. } in self.candidates(&holdings, |held| spec(request, options, held)) {
            let wanted = spec(request, options, cell.spec.format);
            let access = AccessKey::of_collection(&wanted, request.verb);
            let Some(projection) = self.project(&cell, shown) else { continue };
            let held = Held {
                access: self.access_offline(&access, Some(&cell)),
                fields: &fields,
                collection_complete: cell.with(|inner| inner.collection.is_complete()),
                ..Held::default()
            };
            match self.decide_offline(&info, &held) {
                Ok(_) => {
                    self.support(&cell, &wanted);
                    return Found::Ready(Ready { cell, projection, fetched_for_this: false });
                }
                Err(status) => refused = refused.or(Some(status)),
            }
        }
        if let Some(status) = refused {
            return Found::Refused(status);
        }
        // Somebody asked: fetch it as soon as the cloud is back.
        let wanted =
            self.holdings(&request.gvr, formats).first().map(|(_, held)| spec(request, options, *held));
        if let Some(wanted) = wanted.map(|wanted| self.whole(&wanted).unwrap_or(wanted))
            && self.may(&AccessKey::of_collection(&wanted, request.verb)) == Some(true)
            && self.hub.collections.may_wait_for_more(&self.principal)
            && let Some(cell) = self.hub.collections.cell_or_new(&wanted)
        {
            cell.sponsor(&self.principal, self.credential.clone(), now);
        }
        match self.decide_offline(&info, &Held { fields: &fields, ..Held::default() }) {
            Err(status) => Found::Refused(status),
            Ok(_) => Found::Refused(Refusal::Incomplete.status()),
        }
    }

    async fn list(
        self,
        ready: Ready,
        request: ResourceRequest,
        options: ListOptions,
        version: Option<u64>,
    ) -> Response<Body> {
        let connected = self.hub.site.is_connected();
        let selection = selection(&request, &options);
        let exact = match (options.version_match, version) {
            (Some(VersionMatch::Exact), Some(version)) => Some(version),
            // An old client's way to say Exact.
            (None, Some(version)) if version > 0 && options.limit.is_some_and(|limit| limit > 0) => {
                Some(version)
            }
            _ => None,
        };
        if connected && version.is_none() && !ready.fetched_for_this {
            // "Most recent" is a promise that only the cloud can keep.
            return self.forward_resource(request).await;
        }
        self.give_inputs(&ready.cell);
        let outcome = ready.cell.with(|inner| {
            let collection = &inner.collection;
            let listing = match exact {
                Some(version) => collection.state_at_filtered(version, &selection, &self.chain),
                None => collection.list_filtered(&selection, &self.chain),
            };
            let behind = exact.is_none() && version.is_some_and(|version| !collection.has_reached(version));
            let listing = match (listing, version) {
                (Ok(_), Some(requested)) if behind => Err(Refusal::TooLargeResourceVersion {
                    requested,
                    current: collection.resource_version(),
                }),
                (listing, _) => listing,
            };
            listing.map(|listing| {
                (listing, collection.envelope().clone(), collection.staleness(self.hub.site.clock.now()))
            })
        });
        match outcome {
            // Only the cloud gives out what continues a list. Version 0 has no pages there either.
            Ok((listing, ..))
                if connected && version != Some(0) && options.is_more_than_a_page(listing.objects.len()) =>
            {
                self.forward_resource(request).await
            }
            Ok((listing, envelope, age)) => {
                self.hub.site.metrics.served_from_cache.inc();
                let listing = self.as_of_now(&ready.cell, &envelope, listing);
                answer::list(ready.projection, &envelope, listing, self.staleness(age))
            }
            Err(_) if connected => self.forward_resource(request).await,
            Err(refusal) => answer::refuse(&refusal.status()),
        }
    }

    async fn watch(
        self,
        ready: Ready,
        request: &ResourceRequest,
        options: &ListOptions,
        version: Option<u64>,
    ) -> Response<Body> {
        let watch = WatchRequest {
            selection: selection(request, options),
            resource_version: version,
            send_initial_events: options.send_initial_events,
            allow_bookmarks: options.allow_bookmarks,
            timeout: options
                .timeout
                .filter(|timeout| !timeout.is_zero())
                .unwrap_or_else(|| Duration::from_secs(WATCH_SECONDS + random() % WATCH_SECONDS)),
            format: ready.projection.shown(),
        };
        let format = watch.format;
        let reader = ready.cell.enter();
        let mut progress = ready.cell.subscribe();
        let patience = tokio::time::Instant::now() + CATCH_UP;
        loop {
            let now = self.hub.site.clock.now();
            self.give_inputs(&ready.cell);
            let outcome = ready.cell.with(|inner| {
                let age = inner.collection.staleness(now);
                let view = open_filtered(&inner.collection, watch.clone(), self.chain.clone(), now);
                view.map(|view| (view, age))
            });
            match outcome {
                Ok((view, age)) => {
                    let staleness = self.staleness(age);
                    let held = self.hub.filters.hold_inputs(&self.chain);
                    let body = WatchBody::body(Arc::clone(&self.hub), reader, view, held);
                    return answer::stream(format, body, staleness);
                }
                Err(refusal @ Refusal::Expired { .. }) => {
                    let event = proto_kube::watch::encode_error(format.encoding, &refusal.status());
                    return answer::stream(format, crate::upstream::full(event), self.staleness(None));
                }
                Err(refusal @ Refusal::TooLargeResourceVersion { .. }) => {
                    if tokio::time::timeout_at(patience, progress.changed()).await.is_err() {
                        return answer::refuse(&refusal.status());
                    }
                }
                Err(refusal) => return answer::refuse(&refusal.status()),
            }
        }
    }

    pub(super) async fn get(self, request: ResourceRequest) -> Response<Body> {
        let connected = self.hub.site.is_connected();
        let options = match GetOptions::parse(self.query()) {
            Ok(options) => options,
            Err(_) if connected => return self.forward_resource(request).await,
            Err(status) => return answer::refuse(&status),
        };
        let formats = match self.formats(&request, options.include_object) {
            Ok(formats) => formats,
            // The server asks who may before it looks at what is wished for.
            Err(_) if connected => return self.forward_resource(request).await,
            Err(status) => return answer::refuse(&status),
        };
        if connected {
            // Any other version is a promise of freshness that only the cloud can keep.
            let from_cache = options.resource_version.as_deref() == Some("0");
            let answer =
                formats.first().filter(|_| from_cache).and_then(|format| self.get_live(&request, *format));
            return match answer {
                Some(response) => response,
                // From then on the hub keeps that object by a list-watch of its own.
                None => self.forward_resource(request).await,
            };
        }
        self.get_offline(&request, &formats)
    }

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

    /// Online, `resourceVersion=0`: a collection whose watch stands, for who may see it.
    fn get_live(&self, request: &ResourceRequest, format: Format) -> Option<Response<Body>> {
        let key = Self::key(request);
        // Unknown is no yes: then the cloud answers, and what it says is remembered.
        if self.may(&resource_access(request)) != Some(true) {
            return None;
        }
        let held = self.hub.collections.held_for(&request.gvr, format);
        let cells = self.hub.collections.covering_object(&Self::named_spec(request, held), &key);
        let live = cells.into_iter().filter(|cell| cell.with(|inner| inner.phase == Phase::Live));
        for cell in live {
            if let (Holding::Present, Some(response)) = self.look_up(&cell, &key, format) {
                return Some(self.counted(response));
            }
        }
        None
    }

    /// What a cell knows of a key, and the answer if it holds it.
    fn look_up(&self, cell: &Cell, key: &ObjectKey, shown: Format) -> (Holding, Option<Response<Body>>) {
        let Some(projection) = self.project(cell, shown) else { return (Holding::Unknown, None) };
        let now = self.hub.site.clock.now();
        let named = cell.spec.labels.is_empty() && cell.spec.fields.single_name() == Some(&*key.name);
        self.give_inputs(cell);
        cell.with(|inner| {
            let collection = &inner.collection;
            let found = match collection.get_filtered(key, &self.chain) {
                Ok(found) => found,
                Err(refusal) => return (Holding::Present, Some(answer::refuse(&refusal.status()))),
            };
            match found {
                Lookup::Found(object) => {
                    let staleness = self.staleness(collection.staleness(now));
                    let object = self.told_now(cell, collection.envelope(), &object);
                    let response = answer::object(projection, collection.envelope(), &object, staleness);
                    (Holding::Present, Some(response))
                }
                // A collection of just this name knows that it is gone.
                Lookup::Unknown if named && collection.is_complete() => (Holding::Absent, None),
                Lookup::Absent => (Holding::Absent, None),
                Lookup::Unknown => (Holding::Unknown, None),
            }
        })
    }

    fn get_offline(&self, request: &ResourceRequest, formats: &[Format]) -> Response<Body> {
        let info = RequestInfo::Resource(request.clone());
        let key = Self::key(request);
        let exact = resource_access(request);
        let (mut refused, kept_at) = (None, self.kept_at(formats));
        let holdings = self.holdings(&request.gvr, formats);
        for candidate in self.candidates_for(&holdings, &key, |held| Self::named_spec(request, held)) {
            let Candidate { cell, shown, standing } = &candidate;
            if kept_at.is_some_and(|kept_at| standing.is_older_than(kept_at)) {
                break;
            }
            let (object, response) = self.look_up(cell, &key, *shown);
            let object = candidate.known(object);
            if object == Holding::Unknown {
                continue;
            }
            let access = self.access_offline(&exact, Some(cell));
            let held = Held { access, object, followed: standing.followed, ..Held::default() };
            match (self.decide_offline(&info, &held), response) {
                (Ok(_), Some(response)) => return self.counted(response),
                (Ok(_), None) => {}
                (Err(status), _) => refused = refused.or(Some(status)),
            }
        }
        match refused {
            // What these collections say is newer than the answer that was kept whole.
            Some(status) => answer::refuse(&status),
            None => self.get_from_documents(request, formats),
        }
    }

    fn get_from_documents(&self, request: &ResourceRequest, formats: &[Format]) -> Response<Body> {
        let kept =
            |format: &Format| Some((*format, self.hub.documents.get(&single_key(&self.head.uri, *format))?));
        let found = formats.iter().find_map(kept);
        let held = Held {
            access: self.access_offline(&resource_access(request), None),
            object: if found.is_some() { Holding::Present } else { Holding::Unknown },
            ..Held::default()
        };
        let decision = self.decide_offline(&RequestInfo::Resource(request.clone()), &held);
        match (decision, found) {
            (Ok(_), Some((format, document))) => {
                let age = self.hub.site.clock.now().unix.saturating_sub(document.fetched_unix);
                self.hub.site.metrics.served_from_cache.inc();
                match self.shown(request, format, &document.body) {
                    Ok(body) => {
                        let shown = Document { body, ..document };
                        answer::document(&shown, None, self.staleness(Some(age)))
                    }
                    Err(status) => answer::refuse(&status),
                }
            }
            (Err(status), _) => answer::refuse(&status),
            (Ok(_), None) => answer::refuse(&super::forward::cut_off("no copy of that is kept on this node")),
        }
    }
}
