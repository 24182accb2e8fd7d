//! Answers from a collection, and from what was kept whole.

use std::{sync::Arc, time::Duration};

use edge_hub_core::{
    collection::{Lookup, Refusal},
    documents::Document,
    projection::Projection,
    view::{WatchRequest, open_filtered},
};
use http::{Response, header};
use proto_kube::{
    list_options::{ListOptions, VersionMatch},
    request_info::{RequestInfo, ResourceRequest, Verb},
    status::Status,
};

use super::{
    answer,
    call::Call,
    facts::{Gathered, Source, Wish, key},
    formats::selection,
    stream::WatchBody,
};
use crate::{
    clock::random,
    collections::cell::Cell,
    upstream::{Body, full},
};

/// How long kube-apiserver waits for a resource version that it has not reached.
pub(super) const CATCH_UP: Duration = Duration::from_secs(3);
/// Watches that a client gave no time-out for, in seconds; kube-apiserver takes between one and two of these.
const WATCH_SECONDS: u64 = 1800;

/// A collection that a request is answered from, and how.
struct Ready<'a> {
    cell: &'a Arc<Cell>,
    projection: Projection,
}

impl Call {
    /// Answers a read of objects from this candidate.
    ///
    /// # Errors
    /// Why it cannot after all, in words for a client that nobody else can answer.
    pub(super) async fn serve(
        &self,
        request: &ResourceRequest,
        wish: &Wish,
        source: &Source,
    ) -> Result<Response<Body>, Status> {
        let projection =
            self.project(&source.cell, source.shown).ok_or_else(|| Refusal::Incomplete.status())?;
        let ready = Ready { cell: &source.cell, projection };
        match wish {
            Wish::Object(_) => self.get(&ready, request),
            Wish::Collection { options, version } => {
                self.support(&source.cell, &source.wanted);
                if request.verb == Verb::Watch {
                    self.watch(&ready, request, options, *version).await
                } else {
                    self.list(&ready, request, options, *version)
                }
            }
        }
    }

    fn list(
        &self,
        ready: &Ready<'_>,
        request: &ResourceRequest,
        options: &ListOptions,
        version: Option<u64>,
    ) -> Result<Response<Body>, Status> {
        let selection = selection(request, options);
        let exact = match (options.version_match, version) {
            (Some(VersionMatch::Exact), Some(version)) => Some(version),
            // An old client's way to say Exact.
            (None, Some(version)) if version > 0 && options.limit.is_some_and(|limit| limit > 0) => {
                Some(version)
            }
            _ => None,
        };
        self.give_inputs(ready.cell);
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
        let (listing, envelope, age) = outcome.map_err(|refusal| refusal.status())?;
        // Only the cloud gives out what continues a list. Version 0 has no pages there either.
        if !self.is_left_alone() && version != Some(0) && options.is_more_than_a_page(listing.objects.len()) {
            return Err(Refusal::Incomplete.status());
        }
        let listing = self.as_of_now(ready.cell, &envelope, listing);
        Ok(self.counted(answer::list(ready.projection, &envelope, listing, self.staleness(age))))
    }

    async fn watch(
        &self,
        ready: &Ready<'_>,
        request: &ResourceRequest,
        options: &ListOptions,
        version: Option<u64>,
    ) -> Result<Response<Body>, Status> {
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
            self.give_inputs(ready.cell);
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
                    return Ok(answer::stream(format, body, staleness));
                }
                Err(refusal @ Refusal::Expired { .. }) => {
                    let event = proto_kube::watch::encode_error(format.encoding, &refusal.status());
                    return Ok(answer::stream(format, full(event), self.staleness(None)));
                }
                Err(refusal @ Refusal::TooLargeResourceVersion { .. }) => {
                    if tokio::time::timeout_at(patience, progress.changed()).await.is_err() {
                        return Err(refusal.status());
                    }
                }
                Err(refusal) => return Err(refusal.status()),
            }
        }
    }

    fn get(&self, ready: &Ready<'_>, request: &ResourceRequest) -> Result<Response<Body>, Status> {
        let now = self.hub.site.clock.now();
        self.give_inputs(ready.cell);
        ready.cell.with(|inner| {
            let collection = &inner.collection;
            let found = collection.get_filtered(&key(request), &self.chain);
            // It may have gone since the facts were gathered.
            let Lookup::Found(object) = found.map_err(|refusal| refusal.status())? else {
                return Err(Refusal::Incomplete.status());
            };
            let staleness = self.staleness(collection.staleness(now));
            let object = self.told_now(ready.cell, collection.envelope(), &object);
            Ok(self.counted(answer::object(ready.projection, collection.envelope(), &object, staleness)))
        })
    }

    /// Answers with what was kept whole.
    pub(super) fn serve_document(&self, info: &RequestInfo, gathered: &Gathered) -> Response<Body> {
        let kept = gathered.document.as_ref();
        let found = kept.and_then(|(key, format)| Some((self.hub.documents.get(key)?, *format)));
        let Some((document, format)) = found else { return answer::refuse(&not_kept()) };
        let age = self.hub.site.clock.now().unix.saturating_sub(document.fetched_unix);
        let staleness = self.staleness(Some(age));
        let response = match (info, format) {
            (RequestInfo::Resource(request), Some(format)) => {
                match self.shown(request, format, &document.body) {
                    Ok(body) => answer::document(&Document { body, ..document }, None, staleness),
                    Err(status) => return answer::refuse(&status),
                }
            }
            _ => answer::document(&document, self.header(header::IF_NONE_MATCH), staleness),
        };
        self.counted(response)
    }
}

fn not_kept() -> Status {
    answer::cut_off("no copy of that is kept on this node")
}
