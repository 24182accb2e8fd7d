//! Keeps what is known of rights as the cloud has it: asks again in the background about what is in use, and lets go of
//! every Secret and ConfigMap that no pod of this node names any more.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use edge_hub_core::{access::AccessKey, identity::Principal, node_rights::Named};
use proto_kube::request_info::{RequestInfo, Verb};
use tokio::{sync::Notify, task::JoinSet};

use crate::{collections::cell::Cell, hub::Hub, store::BlobClass, sync::lock};

/// How often it is looked what is due. A change of this node's pods, or of the link, does not wait for that.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Reviews of rights in use within that time, and how many are in flight at once: the bound of what rights cost the API
/// server, however many there are.
const REVIEWS: usize = 40;
const AT_ONCE: usize = 4;
/// Names of one look that the cloud is asked about because no pod of this node names them.
const NAMES: usize = 64;
/// A name that is allowed nonetheless is asked about again after the first and at most after the second of these: what
/// the API server knows of pods lags a little.
const FIRST_DOUBT: Duration = Duration::from_secs(5);
const LONGEST_DOUBT: Duration = Duration::from_secs(60);

/// Something that the node itself read by its name.
struct Kept {
    kind: Named,
    namespace: Box<str>,
    name: Box<str>,
    /// Where it is kept as a collection.
    cell: Option<Arc<Cell>>,
}

/// When a name was asked about last, and when it may be again.
struct Doubt {
    asked: Duration,
    pause: Duration,
}

/// Runs until the hub drains.
pub async fn run(hub: Arc<Hub>) {
    let news = Notify::new();
    tokio::select! {
        () = hub.site.shutdown.draining() => {}
        () = follow(&hub, &news) => {}
        () = ask(&hub, &news) => {}
    }
}

/// Takes note of the link and of this node's pods.
async fn follow(hub: &Arc<Hub>, news: &Notify) {
    let mut link = hub.site.link.subscribe();
    let mut impaired = hub.site.impaired_since.subscribe();
    let [_, pods] = hub.site.own_specs();
    let Some(pods) = hub.collections.cell_or_new(&pods) else { return std::future::pending().await };
    let mut progress = pods.subscribe();
    loop {
        let connected = link.borrow_and_update().is_connected();
        // A server that fails requests cannot be asked either.
        let answers = connected && impaired.borrow_and_update().is_none();
        progress.borrow_and_update();
        lock(&hub.authorizer.access).handle_link(hub.site.clock.now(), answers);
        hub.authorizer.node_rights.take_over(&pods, connected);
        news.notify_one();
        let changed = tokio::select! {
            changed = link.changed() => changed,
            changed = impaired.changed() => changed,
            changed = progress.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Asks the cloud what has to be asked.
async fn ask(hub: &Arc<Hub>, news: &Notify) {
    let mut doubts = BTreeMap::new();
    loop {
        if hub.site.is_connected() {
            let_go(hub, &mut doubts).await;
            renew(hub).await;
        }
        tokio::select! {
            () = news.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Asks again about what is in use, and writes what was said in one go.
async fn renew(hub: &Arc<Hub>) {
    let is_sure = |principal: &Principal, key: &AccessKey| hub.authorizer.is_sure(principal, key);
    let due = lock(&hub.authorizer.access).due(hub.site.clock.now(), REVIEWS, is_sure);
    let mut changes = Vec::new();
    for some in due.chunks(AT_ONCE) {
        let mut asked = JoinSet::new();
        for (principal, key) in some.iter().cloned() {
            let hub = Arc::clone(hub);
            asked
                .spawn(async move { (hub.authorizer.review_access(&principal, &key).await, principal, key) });
        }
        for (said, principal, key) in asked.join_all().await {
            if let Some(allowed) = said {
                changes.extend(lock(&hub.authorizer.access).renew(
                    hub.site.clock.now(),
                    &principal,
                    &key,
                    allowed,
                ));
            }
        }
    }
    hub.site.save_records(BlobClass::Access, changes);
}

/// A node keeps no Secret and no ConfigMap that it may not read any more: the way to it is ended, its later readers are
/// refused, and what is held is forgotten, in memory and in the store.
async fn let_go(hub: &Hub, doubts: &mut BTreeMap<AccessKey, Doubt>) {
    let now = hub.site.clock.now().monotonic;
    doubts.retain(|_, doubt| now.saturating_sub(doubt.asked) <= 2 * LONGEST_DOUBT);
    let mut kept: BTreeMap<AccessKey, Vec<Kept>> = BTreeMap::new();
    for one in kept_by_name(hub) {
        let lacks = hub.authorizer.node_rights.read(|own| own.lacks(one.kind, &one.namespace, &one.name));
        let key = get_access(&one);
        let may_ask = doubts.get(&key).is_none_or(|doubt| now.saturating_sub(doubt.asked) >= doubt.pause);
        if lacks && may_ask {
            kept.entry(key).or_default().push(one);
        }
    }
    for (key, kept) in kept.into_iter().take(NAMES) {
        let pause = doubts.get(&key).map_or(FIRST_DOUBT, |doubt| (doubt.pause * 2).min(LONGEST_DOUBT));
        // The Node authorizer knows a way more than this node's pods tell, and others may allow it, too.
        let said = hub.authorizer.ask_access(&hub.site.node, &key).await;
        doubts.insert(key.clone(), Doubt { asked: hub.site.clock.now().monotonic, pause });
        if said != Some(false)
            || lock(&hub.authorizer.access).is_allowed_to_another(hub.site.clock.now(), &hub.site.node, &key)
        {
            continue;
        }
        for one in kept {
            tracing::debug!(kind = ?one.kind, namespace = ?one.namespace, name = ?one.name, "no pod of this node names it any more");
            match &one.cell {
                Some(cell) => discard(hub, cell),
                None => hub.documents.forget_single(&path(&one)),
            }
        }
    }
}

fn path(one: &Kept) -> String {
    let resource = match one.kind {
        Named::Secret => "secrets",
        Named::ConfigMap => "configmaps",
    };
    format!("/api/v1/namespaces/{}/{resource}/{}", one.namespace, one.name)
}

/// The right to GET it.
fn get_access(one: &Kept) -> AccessKey {
    let request = RequestInfo::parse("GET", &path(one), None).expect("a path of names that came in one");
    AccessKey::of(&request, "", "")
}

/// The Secrets and ConfigMaps that are kept one by one, and that nobody but the node pays for.
fn kept_by_name(hub: &Hub) -> Vec<Kept> {
    let mut kept = Vec::new();
    for cell in hub.collections.cells() {
        let spec = &cell.spec;
        let kind = Named::of_resource(&spec.gvr.group, &spec.gvr.resource);
        let (Some(kind), Some(namespace), Some(name)) =
            (kind, spec.namespace.clone(), spec.fields.single_name())
        else {
            continue;
        };
        if !cell.is_paid_by_another(&hub.site.node) {
            let name = name.into();
            kept.push(Kept { kind, namespace, name, cell: Some(Arc::clone(&cell)) });
        }
    }
    for path in hub.documents.single_paths() {
        let Ok(RequestInfo::Resource(request)) = RequestInfo::parse("GET", &path, None) else { continue };
        let kind = Named::of_resource(&request.gvr.group, &request.gvr.resource);
        if let (Some(kind), Verb::Get, Some(namespace), Some(name)) =
            (kind, request.verb, request.namespace, request.name)
        {
            kept.push(Kept { kind, namespace, name, cell: None });
        }
    }
    kept
}

/// Ends a collection of the node's alone, with its readers, and forgets its data.
fn discard(hub: &Hub, cell: &Arc<Cell>) {
    for verb in [Verb::List, Verb::Watch] {
        hub.authorizer.record_access(&hub.site.node, &AccessKey::of_collection(&cell.spec, verb), false);
    }
    hub.collections.remove(cell);
}
