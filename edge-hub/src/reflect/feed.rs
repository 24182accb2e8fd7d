//! A collection of the pool: fed by a coordinator, or by this node's own link while there is none, and from the one to the
//! other at the version that is held.

use std::{sync::Arc, time::Duration};

use edge_hub_core::{
    collection::{Change, Envelope, Object},
    reflector::Reflector,
    source::{FRESH, SILENT_FEED},
};
use proto::{
    backoff::Backoff,
    coordinator::{Changes, Encoding, Frame, Kind, Progress, Reason, Said, Snapshot, Start, VERSION},
};
use proto_kube::{media_type, object::TypeMeta, watch::EventType};
use tonic::Streaming;

use super::{Driver, Gathered, MAX_OBJECTS, wire::object_from};
use crate::{
    clock::random,
    collections::{
        cell::{Cell, Phase},
        label::Label,
    },
    hub::Hub,
    pool::Pool,
};

/// How often an orphan asks for a coordinator: 125-250 ms at first, never more than 2 s.
const SEARCH: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(2));
/// How often a collection that goes on by its own link looks for a coordinator.
const RETURN: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(8));
/// How often it is looked whether somebody can pay now.
const NO_SPONSOR_CHECK: Duration = Duration::from_secs(15);

/// A subscription that has begun, and is fresh.
struct Open {
    node: Box<str>,
    stream: Streaming<Frame>,
    envelope: Envelope,
}

/// Why there is no subscription at any coordinator.
struct Closed {
    /// How far a coordinator is that reads its first state.
    filling: Option<u64>,
}

impl Driver {
    /// Follows a coordinator until it is lost, or looks for one, or goes on by the own link until there is one.
    pub(super) async fn pool_turn(&mut self, pool: &Arc<Pool>) {
        let mut link = self.hub.site.link.subscribe();
        link.borrow_and_update();
        let mut attempt = 0;
        loop {
            match search(&self.hub, pool, &self.cell).await {
                Ok(open) => {
                    if self.follow(open).await {
                        return;
                    }
                }
                Err(Closed { filling: Some(filled) }) => self.keeper.handle_filling(self.now(), filled),
                Err(Closed { filling: None }) => {}
            }
            let now = self.now();
            if now >= self.keeper.direct_at() && self.hub.site.is_connected() {
                return self.go_direct(pool).await;
            }
            let pause = tokio::time::sleep(SEARCH.delay(attempt, random()));
            attempt += 1;
            tokio::select! {
                () = pause => {}
                changed = link.changed() => {
                    if changed.is_ok() && link.borrow_and_update().is_connected() {
                        let holds = self.holds_state();
                        self.keeper.handle_healed(self.now(), holds, random());
                    }
                }
            }
        }
    }

    fn now(&self) -> Duration {
        self.hub.site.clock.now().monotonic
    }

    fn holds_state(&self) -> bool {
        self.cell.with(|inner| inner.collection.is_complete())
    }

    /// By this node's own link, from the version that is held, until a coordinator is back.
    async fn go_direct(&mut self, pool: &Arc<Pool>) {
        let held = self.cell.with(|inner| inner.collection.resume_from()).unwrap_or(0);
        tracing::info!(collection = %Label(&self.cell.spec), held, "no coordinator; going on by the own link");
        self.reflector = Reflector::new(self.hub.site.config.protocol(), held);
        self.gathered = Gathered::default();
        if self.alone {
            // A doubt that came meanwhile was of this version, too.
            self.reflector.doubt();
        }
        let back = returned(Arc::clone(&self.hub), Arc::clone(pool), Arc::clone(&self.cell));
        let mut back = std::pin::pin!(back);
        let cell = Arc::clone(&self.cell);
        let open = loop {
            tokio::select! {
                open = back.as_mut() => break open,
                () = self.cloud_turn() => {}
                () = cell.attention.notified(), if self.pauses() => self.reflector.nudge(),
                () = tokio::time::sleep(NO_SPONSOR_CHECK), if cell.best_sponsor().is_none() => {}
            }
        };
        self.gathered = Gathered::default();
        self.follow(open).await;
    }

    /// Returns whether the feed delivered anything. One that did not moves no date: it is looked for as before.
    async fn follow(&mut self, open: Open) -> bool {
        let Open { node, mut stream, envelope } = open;
        tracing::info!(collection = %Label(&self.cell.spec), by = %node, "fed by a coordinator");
        self.gathered = Gathered::default();
        // What pauses is the way to the cloud, which this is not: a new client must not end the stream.
        self.reflector = Reflector::new(self.hub.site.config.protocol(), 0);
        self.cell.change(|inner| {
            inner.fed_by = Some(node.clone());
            inner.given_up = false;
            if inner.collection.is_complete() {
                inner.phase = Phase::Live;
            }
        });
        let (mut rolled_back, mut delivered) = (false, false);
        let why = loop {
            let frame = match tokio::time::timeout(SILENT_FEED, stream.message()).await {
                Err(_) => break "it fell silent".to_owned(),
                Ok(Err(status)) => break status.message().to_owned(),
                Ok(Ok(None)) => break "it ended the stream".to_owned(),
                Ok(Ok(Some(frame))) => frame,
            };
            let is_whole = match &frame.said {
                Some(Said::Snapshot(snapshot)) => snapshot.last,
                Some(Said::Changes(_) | Said::Progress(_)) => true,
                _ => false,
            };
            let taken = match frame.said {
                // Of a newer version, or said before.
                None | Some(Said::Start(_)) => Ok(()),
                Some(Said::Snapshot(snapshot)) => self.take_part(snapshot, &envelope, &mut rolled_back).await,
                Some(Said::Changes(changes)) => self.take_changes(changes).await,
                Some(Said::Progress(progress)) => self.take_progress(progress),
                Some(Said::Rollback(_)) => {
                    rolled_back = true;
                    self.gathered.objects.clear();
                    Ok(())
                }
                Some(Said::Refused(refused)) => Err(refused.text),
            };
            if let Err(why) = taken {
                break why;
            }
            if is_whole && !delivered && self.holds_state() {
                delivered = true;
                // Also where the feed goes on at the version that is held, and sends no state.
                self.hub.collections.drop_narrower(&self.cell);
            }
        };
        tracing::info!(collection = %Label(&self.cell.spec), by = %node, why, "the coordinator is lost");
        self.gathered = Gathered::default();
        self.cell.change(|inner| inner.fed_by = None);
        if delivered {
            let holds = self.holds_state();
            self.keeper.handle_lost(self.now(), holds, random());
        }
        delivered
    }

    async fn take_part(
        &mut self,
        snapshot: Snapshot,
        envelope: &Envelope,
        rolled_back: &mut bool,
    ) -> Result<(), String> {
        let held: usize = self.gathered.objects.iter().map(|object| object.raw.len()).sum();
        let more: usize = snapshot.objects.iter().map(bytes::Bytes::len).sum();
        let limit = self.hub.site.config.file.limits.list_mib * 1024 * 1024;
        if self.gathered.objects.len() + snapshot.objects.len() > MAX_OBJECTS || held + more > limit {
            return Err("it sent more than limits.listMib or a million objects".to_owned());
        }
        for raw in snapshot.objects {
            let object = object_from(self.cell.spec.format, raw, self.hub.site.clock.now());
            self.gathered.objects.push(object.map_err(|_| "it sent what is no object".to_owned())?);
        }
        if !snapshot.last {
            return Ok(());
        }
        let objects = std::mem::take(&mut self.gathered.objects);
        let is_reset = std::mem::take(rolled_back);
        self.hub.collections.prepare_versions(&self.cell).await;
        let changes = self.take_state(snapshot.version, envelope.clone(), objects, is_reset)?;
        self.save(changes);
        self.enter_live();
        Ok(())
    }

    /// Swaps a whole state in at once, so that nobody ever sees half of it.
    fn take_state(
        &self,
        version: u64,
        envelope: Envelope,
        objects: Vec<Object>,
        is_reset: bool,
    ) -> Result<Vec<Change>, String> {
        let now = self.hub.site.clock.now();
        self.cell.change(|inner| {
            let held = inner.collection.upstream_version();
            if held <= version {
                let taken = inner.collection.replace(now, version, envelope, objects);
                return taken.map_err(|error| error.to_string());
            }
            if !is_reset {
                return Err(format!("its state at {version} is older than what is held, {held}"));
            }
            tracing::warn!(collection = %Label(&self.cell.spec), held, version,
                "the cloud was set back to an older state; clients must list again");
            Ok(inner.collection.reset(now, version, envelope, objects))
        })
    }

    async fn take_changes(&mut self, changes: Changes) -> Result<(), String> {
        let mut events = Vec::with_capacity(changes.changes.len());
        for change in changes.changes {
            let kind = match change.kind() {
                Kind::Put => EventType::Modified,
                Kind::Deleted => EventType::Deleted,
                Kind::Unknown => return Err("it sent a change of an unknown kind".to_owned()),
            };
            let object = object_from(self.cell.spec.format, change.object, self.hub.site.clock.now());
            events.push((kind, object.map_err(|_| "it sent what is no object".to_owned())?));
        }
        self.hub.collections.prepare_versions(&self.cell).await;
        let now = self.hub.site.clock.now();
        let saved = self.cell.change(|inner| {
            let mut saved = Vec::new();
            for (kind, object) in events {
                saved.extend(inner.collection.apply(now, kind, object));
            }
            if changes.upto > inner.collection.upstream_version() {
                saved.extend(inner.collection.bookmark(now, changes.upto));
            }
            saved
        });
        self.save(saved);
        Ok(())
    }

    fn take_progress(&mut self, progress: Progress) -> Result<(), String> {
        let age = Duration::from_millis(progress.age_ms);
        if age > FRESH {
            return Err(format!("its own watch was lost {age:?} ago"));
        }
        let now = self.hub.site.clock.now();
        let is_news = self.cell.with(|inner| {
            // No store and no reader is to be woken for it.
            if age.is_zero() {
                inner.collection.touch(now);
            }
            inner.collection.is_complete() && progress.version > inner.collection.upstream_version()
        });
        if is_news {
            let saved = self.cell.change(|inner| inner.collection.bookmark(now, progress.version));
            self.save(saved);
        }
        Ok(())
    }
}

/// Asks each coordinator once.
async fn search(hub: &Hub, pool: &Pool, cell: &Cell) -> Result<Open, Closed> {
    let mut filling = None;
    for coordinator in &pool.coordinators {
        let held = cell.with(|inner| inner.collection.resume_from()).unwrap_or(0);
        let outcome = match coordinator.subscribe(&cell.spec, held).await {
            Ok(stream) => begin(cell, stream).await,
            Err(why) => Err((why, None)),
        };
        match outcome {
            Ok((stream, envelope)) => {
                coordinator.note(None);
                return Ok(Open { node: coordinator.member.node.clone(), stream, envelope });
            }
            Err((why, filled)) => {
                hub.site.metrics.refused_feeds.inc();
                let by = &coordinator.member.node;
                if filled.is_none() && coordinator.note(Some(&why)) {
                    tracing::warn!(%by, why, "no feed from a coordinator of the pool");
                }
                tracing::debug!(collection = %Label(&cell.spec), %by, why, "no feed");
                filling = filling.max(filled);
            }
        }
    }
    Err(Closed { filling })
}

/// Waits for a coordinator that is back and fresh.
async fn returned(hub: Arc<Hub>, pool: Arc<Pool>, cell: Arc<Cell>) -> Open {
    let mut attempt = 0;
    loop {
        tokio::time::sleep(RETURN.delay(attempt, random())).await;
        attempt += 1;
        if let Ok(open) = search(&hub, &pool, &cell).await {
            return open;
        }
    }
}

/// Hears the first word of a subscription. The error is why it is none, and how far the coordinator is if it is filling.
async fn begin(
    cell: &Cell,
    mut stream: Streaming<Frame>,
) -> Result<(Streaming<Frame>, Envelope), (String, Option<u64>)> {
    let first = match tokio::time::timeout(SILENT_FEED, stream.message()).await {
        Err(_) => return Err(("it says nothing".to_owned(), None)),
        Ok(Err(status)) => return Err((status.message().to_owned(), None)),
        Ok(Ok(frame)) => frame.and_then(|frame| frame.said),
    };
    match first {
        Some(Said::Start(start)) => match envelope(cell, &start) {
            Ok(envelope) => Ok((stream, envelope)),
            Err(why) => Err((why, None)),
        },
        Some(Said::Refused(refused)) => {
            let is_filling = refused.reason() == Reason::Filling;
            let filled = is_filling.then_some(refused.progress);
            Err((refused.text, filled))
        }
        _ => Err(("it does not begin as the protocol has it".to_owned(), None)),
    }
}

fn envelope(cell: &Cell, start: &Start) -> Result<Envelope, String> {
    let encoding = match cell.spec.format.encoding {
        media_type::Encoding::Protobuf => Encoding::Protobuf,
        media_type::Encoding::Json => Encoding::Json,
    };
    if start.protocol != VERSION || start.encoding() != encoding {
        return Err("it speaks another version or encoding".to_owned());
    }
    let age = Duration::from_millis(start.age_ms);
    if age > FRESH {
        return Err(format!("its own watch was lost {age:?} ago"));
    }
    let type_meta = TypeMeta::new(start.api_version.as_str(), start.kind.as_str());
    Ok(Envelope { type_meta, list_kind: start.list_kind.as_str().into(), columns: None })
}
