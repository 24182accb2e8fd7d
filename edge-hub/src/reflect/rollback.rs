//! Whether the cloud was set back to an older state, as restoring etcd from a backup does. kube-apiserver does not say so
//! on a watch: one that was opened above the server's own version stays silent until the sequence has passed it, and then
//! goes on with events of another history.
//!
//! Resource versions are etcd's revisions, the same sequence for every kind that kube-apiserver keeps. So after each new
//! connection one list that is consistent, and finds nothing, tells where the sequence stands. A collection that is ahead
//! of that is asked about by itself, because aggregated API servers and Events may have a store of their own; what is
//! ahead of its own kind, too, is fetched anew.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use edge_hub_core::{collection::CollectionSpec, reflector::SILENT_WATCH};
use http::{Request, StatusCode, header};
use proto_kube::{
    gvr::GroupVersionResource,
    list::split_list,
    media_type::{Form, Format},
    selector::LabelSelector,
};

use crate::{
    collections::{
        cell::{Cell, Phase},
        label::Label,
    },
    hub::Hub,
    reflect::target,
    upstream::{Credential, empty, read_all},
};

/// How long the answer may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(15);
/// Pause before a question that was not answered is asked again: API servers come back before their etcd does. It
/// doubles up to the longest one.
const RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// One object without its spec and status.
const MAX_ANSWER_BYTES: usize = 3 * 1024 * 1024;
/// A label that every kubelet sets, with a value that none sets: it selects nothing.
const NOTHING: &str = "kubernetes.io/hostname=";

/// Looks after each new connection, and when a watch fell silent, until the hub drains.
pub async fn run(hub: Arc<Hub>) {
    loop {
        tokio::select! {
            () = hub.site.shutdown.draining() => return,
            () = hub.site.reconnected.notified() => {}
            () = tokio::time::sleep(SILENT_WATCH) => if !is_any_silent(&hub) { continue },
        }
        let mut pause = RETRY;
        while hub.site.is_connected() && !look(&hub).await {
            tokio::select! {
                () = hub.site.shutdown.draining() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = LONGEST_RETRY.min(pause * 2);
        }
    }
}

/// Whether a collection that somebody reads has heard nothing for longer than a bookmark takes.
fn is_any_silent(hub: &Hub) -> bool {
    let (now, idle) = (hub.site.clock.now(), hub.site.config.file.idle_watch);
    hub.site.is_connected()
        && hub.collections.cells().iter().filter(|cell| !cell.is_idle(now.monotonic, idle)).any(|cell| {
            cell.with(|inner| {
                let is_followed = matches!(inner.phase, Phase::Live | Phase::Syncing);
                is_followed && inner.collection.staleness(now).is_some_and(|age| age > SILENT_WATCH)
            })
        })
}

/// What the cloud says of its version.
enum Word {
    /// It is this one.
    At(u64),
    /// It does not say so to this client, and will not if it is asked again.
    Refused,
    /// It did not answer, or not now.
    Nothing,
}

/// Returns whether the cloud said where it stands, or that it will not.
async fn look(hub: &Arc<Hub>) -> bool {
    // Before the question is sent: what comes meanwhile is newer than the answer.
    let mut held: Vec<(Arc<Cell>, u64)> = hub
        .collections
        .cells()
        .into_iter()
        .filter_map(|cell| Some((cell.with(|inner| inner.collection.resume_from())?, cell)))
        .map(|(version, cell)| (cell, version))
        .collect();
    let [mut own_node, _] = hub.site.own_specs();
    own_node.labels = LabelSelector::parse(NOTHING).unwrap_or_default();
    let stands_at = match version_of(hub, &own_node, &Credential::Node).await {
        Word::At(version) => version,
        // Then each kind is asked about by itself.
        Word::Refused => 0,
        Word::Nothing => return false,
    };
    held.retain(|(_, version)| *version > stands_at);
    let mut of_kind: BTreeMap<GroupVersionResource, Option<u64>> = BTreeMap::new();
    for (cell, version) in held {
        let gvr = &cell.spec.gvr;
        if !of_kind.contains_key(gvr) {
            let credential = cell.best_sponsor().map(|(_, credential)| credential);
            let answer = match &credential {
                Some(credential) => version_of(hub, &cell.spec, credential).await,
                None => Word::Refused,
            };
            let version = match answer {
                Word::At(version) => Some(version),
                // An aggregated API server may be away for as long as it likes.
                Word::Refused | Word::Nothing => None,
            };
            of_kind.insert(gvr.clone(), version);
        }
        // Where nobody can ask about the kind now, the list of the next reader tells, if there is reason to doubt at all.
        let of_this = of_kind.get(gvr).copied().flatten();
        if of_this.map_or(stands_at > 0, |stands_at| version > stands_at) {
            tracing::warn!(collection = %Label(&cell.spec), held = version, stands_at,
                "the cloud is at an older version than what is held; it is fetched anew");
            cell.doubted.notify_one();
        }
    }
    true
}

/// The resource version of a consistent read of at most one object.
async fn version_of(hub: &Hub, spec: &CollectionSpec, credential: &Credential) -> Word {
    let format = Format { form: Form::PartialMetadata, ..spec.format };
    let request = Request::get(target(spec, &[("limit", "1".to_owned())]))
        .header(header::ACCEPT, format.accept_list())
        .header(header::USER_AGENT, crate::USER_AGENT)
        .body(empty());
    let Ok(request) = request else { return Word::Refused };
    let Ok(answer) = hub.site.send(credential, request, ASK_TIMEOUT).await else {
        return Word::Nothing;
    };
    let (head, body) = answer.into_parts();
    if head.status != StatusCode::OK {
        let is_final = head.status.is_client_error() && head.status != StatusCode::TOO_MANY_REQUESTS;
        return if is_final { Word::Refused } else { Word::Nothing };
    }
    let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let Some(format) = content_type.and_then(Format::from_content_type) else { return Word::Refused };
    let Ok(body) = read_all(body, MAX_ANSWER_BYTES, ASK_TIMEOUT).await else { return Word::Nothing };
    let version = split_list(format, &body).ok().and_then(|(head, _)| head.resource_version.parse().ok());
    version.map_or(Word::Refused, Word::At)
}
