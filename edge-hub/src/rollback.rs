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
    cell::{Cell, Phase},
    hub::Hub,
    reflect::{Label, target},
    upstream::{Credential, empty, read_all},
};

/// How long the answer may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(15);
/// Pause before a question that was not answered is asked again: API servers come back before their etcd does.
const RETRY: Duration = Duration::from_secs(2);
/// One object without its spec and status.
const MAX_ANSWER_BYTES: usize = 3 * 1024 * 1024;
/// A label that every kubelet sets, with a value that none sets: it selects nothing.
const NOTHING: &str = "kubernetes.io/hostname=";

/// Looks after each new connection, and when a watch fell silent, until the hub drains.
pub async fn run(hub: Arc<Hub>) {
    loop {
        tokio::select! {
            () = hub.shutdown.draining() => return,
            () = hub.reconnected.notified() => {}
            () = tokio::time::sleep(SILENT_WATCH) => if !is_any_silent(&hub) { continue },
        }
        while hub.is_connected() && !look(&hub).await {
            tokio::select! {
                () = hub.shutdown.draining() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }
}

/// Whether a collection that somebody reads has heard nothing for longer than a bookmark takes.
fn is_any_silent(hub: &Hub) -> bool {
    let (now, idle) = (hub.clock.now(), hub.config.file.idle_watch);
    hub.is_connected()
        && hub.cells().iter().filter(|cell| !cell.is_idle(now.monotonic, idle)).any(|cell| {
            cell.with(|inner| {
                let is_followed = matches!(inner.phase, Phase::Live | Phase::Syncing);
                is_followed && inner.collection.staleness(now).is_some_and(|age| age > SILENT_WATCH)
            })
        })
}

/// Returns whether the cloud said where it stands.
async fn look(hub: &Arc<Hub>) -> bool {
    // Before the question is sent: what comes meanwhile is newer than the answer.
    let mut held: Vec<(Arc<Cell>, u64)> = hub
        .cells()
        .into_iter()
        .filter_map(|cell| Some((cell.with(|inner| inner.collection.resume_from())?, cell)))
        .map(|(version, cell)| (cell, version))
        .collect();
    let [mut own_node, _] = hub.own_specs();
    own_node.labels = LabelSelector::parse(NOTHING).unwrap_or_default();
    let Some(stands_at) = version_of(hub, &own_node, &Credential::Node).await else { return false };
    held.retain(|(_, version)| *version > stands_at);
    let mut of_kind: BTreeMap<GroupVersionResource, Option<u64>> = BTreeMap::new();
    for (cell, version) in held {
        let gvr = &cell.spec.gvr;
        if !of_kind.contains_key(gvr) {
            let credential = cell.best_sponsor().map(|(_, credential)| credential);
            let answer = match &credential {
                Some(credential) => version_of(hub, &cell.spec, credential).await,
                None => None,
            };
            of_kind.insert(gvr.clone(), answer);
        }
        // Where nobody can ask about the kind now, the list of the next reader tells.
        if of_kind.get(gvr).copied().flatten().is_none_or(|stands_at| version > stands_at) {
            tracing::warn!(collection = %Label(&cell.spec), held = version, stands_at,
                "the cloud is at an older version than what is held; it is fetched anew");
            cell.doubted.notify_one();
        }
    }
    true
}

/// The resource version of a consistent read of at most one object; `None` where the cloud does not say.
async fn version_of(hub: &Hub, spec: &CollectionSpec, credential: &Credential) -> Option<u64> {
    let format = Format { form: Form::PartialMetadata, ..spec.format };
    let request = Request::get(target(spec, &[("limit", "1".to_owned())]))
        .header(header::ACCEPT, format.accept_list())
        .header(header::USER_AGENT, crate::USER_AGENT)
        .body(empty())
        .ok()?;
    let answer = hub.upstream.send(credential, request, ASK_TIMEOUT).await.ok()?;
    if answer.status() != StatusCode::OK {
        return None;
    }
    let content_type = answer.headers().get(header::CONTENT_TYPE)?.to_str().ok()?;
    let format = Format::from_content_type(content_type)?;
    let body = read_all(answer.into_body(), MAX_ANSWER_BYTES, ASK_TIMEOUT).await.ok()?;
    let (head, _) = split_list(format, &body).ok()?;
    head.resource_version.parse().ok()
}
