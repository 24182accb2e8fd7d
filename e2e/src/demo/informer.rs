//! A client that keeps a copy of a collection as client-go does, and watches that it is not lied to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::tally::Tally;
use crate::cloud::client::{Client, WatchStream};
use crate::cloud::model::{Gvr, Key};

/// How long an answer's head may take; client-go's dial and TLS limits are as long.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How long to wait before the next attempt; client-go begins at 0.8 s.
const BACKOFF: Duration = Duration::from_millis(800);

/// What is watched, and how.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    /// Who watches what, for people: `kubelet: services`.
    pub(super) id: String,
    pub(super) gvr: Gvr,
    /// Path of the collection.
    pub(super) path: &'static str,
    /// Field selector, escaped, or nothing.
    pub(super) selector: String,
    /// The first state comes by WatchList instead of LIST.
    pub(super) watch_list: bool,
}

/// Key of an object and the object without its type, which lists leave out.
pub(super) fn entry(object: &Value) -> (Key, Value) {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    let mut bare = object.clone();
    if let Some(fields) = bare.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    ((text("namespace"), text("name")), bare)
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn uid(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

/// Why a stream was left.
enum Left {
    /// It ended or broke: go on from the last revision.
    Resume,
    /// The history is gone: start from nothing.
    Restart,
}

/// One informer.
pub(super) struct Informer {
    client: Client,
    watched: Watched,
    tally: Arc<Tally>,
    /// The last revision seen; `None` before the first state.
    revision: Option<u64>,
    /// The first state while it comes in by WatchList.
    coming: BTreeMap<Key, Value>,
}

impl Informer {
    pub(super) fn new(client: Client, watched: Watched, tally: Arc<Tally>) -> Self {
        tally.counts().caches.insert(watched.id.clone(), None);
        Self { client, watched, tally, revision: None, coming: BTreeMap::new() }
    }

    /// Keep the copy until the task is aborted.
    pub(super) async fn run(mut self) {
        loop {
            if self.revision.is_none() && !self.watched.watch_list && !self.list().await {
                tokio::time::sleep(BACKOFF).await;
                continue;
            }
            match self.watch().await {
                Left::Resume => tokio::time::sleep(BACKOFF).await,
                Left::Restart => self.revision = None,
            }
        }
    }

    async fn list(&mut self) -> bool {
        let cut = self.tally.is_cut();
        let path = format!("{}?{}limit=500&resourceVersion=0", self.watched.path, self.watched.selector);
        let answer = tokio::time::timeout(HEAD_LIMIT, self.client.get(&path)).await;
        let status = answer.as_ref().ok().and_then(|answer| answer.as_ref().ok()).map(|(status, _)| *status);
        self.tally.count(cut, &format!("list {}", self.watched.gvr.resource), status);
        let Ok(Ok((200, list))) = answer else { return false };
        let state = list["items"].as_array().into_iter().flatten().map(entry).collect();
        self.replace(state, version(&list));
        true
    }

    /// A whole first state is there.
    fn replace(&mut self, state: BTreeMap<Key, Value>, revision: u64) {
        let id = &self.watched.id;
        if state.is_empty() {
            self.tally.violation(format!("{id}: an empty list, but the collection is never empty"));
        }
        let mut counts = self.tally.counts();
        counts.client_lists += 1;
        // What a new list lacks, its reader takes for deleted.
        let held = counts.caches.get_mut(id).and_then(Option::take).unwrap_or_default();
        for (key, object) in held.iter().filter(|(key, _)| !state.contains_key(*key)) {
            counts.gone.push((uid(object), format!("{id}: {}", key.1)));
        }
        counts.caches.insert(id.clone(), Some(state));
        self.revision = Some(revision);
    }

    async fn watch(&mut self) -> Left {
        let cut = self.tally.is_cut();
        let common =
            format!("{}watch=true&allowWatchBookmarks=true&timeoutSeconds=480", self.watched.selector);
        let path = match self.revision {
            Some(revision) => format!("{}?{common}&resourceVersion={revision}", self.watched.path),
            None => format!(
                "{}?{common}&sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
                self.watched.path
            ),
        };
        let answer = tokio::time::timeout(HEAD_LIMIT, self.client.watch(&path)).await;
        let stream = answer.ok().and_then(Result::ok);
        let status = stream.as_ref().map(|stream| stream.status);
        self.tally.count(cut, &format!("watch {}", self.watched.gvr.resource), status);
        let Some(mut stream) = stream.filter(|stream| stream.status == 200) else {
            return if status == Some(410) { Left::Restart } else { Left::Resume };
        };
        self.coming.clear();
        self.read(&mut stream).await
    }

    async fn read(&mut self, stream: &mut WatchStream) -> Left {
        loop {
            match stream.next().await {
                Ok(Some(event)) if event["type"] == "ERROR" => {
                    return if event["object"]["code"] == 410 { Left::Restart } else { Left::Resume };
                }
                Ok(Some(event)) => self.apply(&event),
                Ok(None) | Err(_) => return Left::Resume,
            }
        }
    }

    fn apply(&mut self, event: &Value) {
        let object = &event["object"];
        let new = version(object);
        let (key, bare) = entry(object);
        let Some(held) = self.revision else {
            if event["type"] != "BOOKMARK" {
                self.coming.insert(key, bare);
            } else if object["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true" {
                let state = std::mem::take(&mut self.coming);
                self.replace(state, new);
            }
            return;
        };
        let id = &self.watched.id;
        if new < held {
            self.tally.violation(format!("{id}: the stream went back from revision {held} to {new}"));
        }
        self.revision = Some(new);
        if event["type"] == "BOOKMARK" {
            return;
        }
        let mut counts = self.tally.counts();
        counts.events += 1;
        counts.deliveries.push((new, Instant::now()));
        let deleted = event["type"] == "DELETED";
        if deleted {
            counts.gone.push((uid(object), format!("{id}: {}", key.1)));
        }
        let cache = counts.caches.entry(id.clone()).or_default().get_or_insert_default();
        if deleted {
            cache.remove(&key);
        } else {
            cache.insert(key, bare);
        }
    }
}
