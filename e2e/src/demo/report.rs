//! The bill: what was counted at the clients, in the model cloud's records and at its sockets.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::objects::node_name;
use super::plan::Step;
use super::tally::Requests;
use super::world::World;
use crate::cloud::model::{Gvr, RequestRecord};

/// Everything that `--json` prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) seed: u64,
    pub(super) nodes: usize,
    pub(super) seconds: f64,
    /// `ok` or `violated`.
    pub(super) verdict: &'static str,
    pub(super) violations: Vec<String>,
    pub(super) schedule: Vec<Step>,
    pub(super) with_hubs: Bill,
    pub(super) without_hubs: Bill,
}

/// One of the two worlds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Bill {
    nodes: Vec<NodeBill>,
    /// Bodies of requests and answers by class, both ways.
    body_bytes: BTreeMap<&'static str, u64>,
    /// All that passed the cloud's sockets, TLS included, both ways.
    wire_bytes: u64,
    requests_at_cloud: usize,
    /// Running watches that the schedule broke.
    broken_watches: usize,
    /// From a change in the cloud to a client's copy, while the node was not cut.
    delay_online_ms: Delay,
    /// How far behind the cloud the answers to GET were while the node was cut.
    reads_offline: Staleness,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeBill {
    name: String,
    online: Requests,
    offline: Requests,
    failures: BTreeMap<String, u64>,
    /// Watch events that brought an object to a client.
    events: usize,
    /// Collections that clients fetched whole, over the whole run.
    client_lists: usize,
    /// Collections that the cloud sent whole after the link came back.
    relists_after_healing: usize,
    /// From the heal until every copy was the cloud's state and all that had been promised to the node was in the
    /// cloud; null when that never was so.
    caught_up_ms: Option<u128>,
    /// The node's own Events that were confirmed to it while it was cut off. That they are in the cloud is judged.
    own_events_taken_offline: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Delay {
    events: usize,
    median: u128,
    longest: u128,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Staleness {
    /// Answers to GET of the own Node.
    reads: usize,
    /// Of these, those that the cloud had changed meanwhile.
    behind: usize,
    /// The longest time by which one was behind.
    longest_ms: u128,
}

const COLLECTIONS: &str = "whole collections";
const CHANGES: &str = "watch events";
const READS: &str = "single reads";
const LEASES: &str = "node leases";
const STATUS: &str = "node status";
const EVENTS: &str = "node events";
const ACCESS: &str = "who is it, who may";
const OTHER: &str = "other";
const CLASSES: [&str; 8] = [COLLECTIONS, CHANGES, READS, LEASES, STATUS, EVENTS, ACCESS, OTHER];

fn class(record: &RequestRecord) -> &'static str {
    let resource = record.gvr.as_ref().map_or("", |gvr| gvr.resource.as_str());
    match (resource, record.verb.as_str()) {
        ("leases", _) => LEASES,
        ("events", _) => EVENTS,
        ("tokenreviews" | "subjectaccessreviews", _) => ACCESS,
        (_, "list") => COLLECTIONS,
        (_, "watch") => CHANGES,
        ("nodes", "patch") => STATUS,
        ("", _) => OTHER,
        (_, "get") => READS,
        _ => OTHER,
    }
}

/// The bytes of a request and its answer by class: a WatchList is a collection first and events afterwards.
fn classes(record: &RequestRecord) -> [(&'static str, u64); 2] {
    let initial = record.initial_bytes.min(record.bytes_out);
    [(COLLECTIONS, initial), (class(record), record.bytes_in + record.bytes_out - initial)]
}

impl Bill {
    /// Count what a world has cost.
    pub(super) fn new(world: &World) -> Self {
        let records: Vec<RequestRecord> =
            world.cloud.records().into_iter().filter(|record| record.user_agent != "demo-setup").collect();
        let mut body_bytes: BTreeMap<&'static str, u64> = CLASSES.map(|class| (class, 0)).into();
        for record in &records {
            for (class, bytes) in classes(record) {
                *body_bytes.entry(class).or_default() += bytes;
            }
        }
        let (received, sent) = world.cloud.wire_bytes();
        Self {
            nodes: (0..world.nodes.len()).map(|node| NodeBill::new(world, node, &records)).collect(),
            body_bytes,
            wire_bytes: received + sent,
            requests_at_cloud: records.len(),
            broken_watches: world.broken,
            delay_online_ms: Delay::new(world),
            reads_offline: Staleness::new(world),
        }
    }

    /// How many requests failed in this way, on all nodes.
    fn failed(&self, begin: &str, end: &str) -> u64 {
        let all = self.nodes.iter().flat_map(|node| &node.failures);
        all.filter(|(text, _)| text.starts_with(begin) && text.ends_with(end)).map(|(_, times)| times).sum()
    }

    /// What passed the sockets and was no body: TLS, HTTP heads, pings.
    fn around_bodies(&self) -> u64 {
        self.wire_bytes.saturating_sub(self.body_bytes.values().sum())
    }
}

impl NodeBill {
    fn new(world: &World, node: usize, records: &[RequestRecord]) -> Self {
        let held = &world.nodes[node];
        let counts = held.tally.counts();
        let mark = held.healed.map_or(u64::MAX, |(mark, _)| mark);
        let relist = |r: &&RequestRecord| {
            r.order >= mark && r.replica == node && r.is_full_transfer() && r.status == 200
        };
        Self {
            name: node_name(node),
            online: counts.online,
            offline: counts.offline,
            failures: counts.failures.clone(),
            events: counts.shown.len(),
            client_lists: counts.lists.len(),
            relists_after_healing: records.iter().filter(relist).count(),
            caught_up_ms: held.caught_up.map(|time| time.as_millis()),
            own_events_taken_offline: counts.posted_offline,
        }
    }
}

impl Delay {
    fn new(world: &World) -> Self {
        let mut all = Vec::new();
        for node in &world.nodes {
            let (Some((_, healed)), Some(cut)) = (node.healed, node.cut) else { continue };
            for shown in &node.tally.counts().shown {
                let Some(changed) = world.changed.get(&shown.held.revision) else { continue };
                if shown.came < cut || *changed > healed {
                    all.push(shown.came.saturating_duration_since(*changed).as_millis());
                }
            }
        }
        all.sort_unstable();
        let at = |index: usize| all.get(index).copied().unwrap_or(0);
        Self { events: all.len(), median: at(all.len() / 2), longest: at(all.len().saturating_sub(1)) }
    }
}

impl Staleness {
    fn new(world: &World) -> Self {
        let nodes = Gvr::core("nodes");
        let (mut reads, mut behind) = (0, Vec::new());
        for (index, node) in world.nodes.iter().enumerate() {
            let name = node_name(index);
            for read in &node.tally.counts().offline_reads {
                reads += 1;
                // While cut only the schedule changes a Node, so the time of its next state is known.
                let next = world.cloud.look(|cloud| {
                    let mut later = cloud.store().events(&nodes, read.revision, u64::MAX);
                    later.find(|event| event.key.1 == name).map(|event| event.revision)
                });
                let changed = next.and_then(|revision| world.changed.get(&revision));
                behind.extend(changed.filter(|at| **at < read.came).map(|at| (read.came - *at).as_millis()));
            }
        }
        Self { reads, behind: behind.len(), longest_ms: behind.iter().copied().max().unwrap_or(0) }
    }
}

impl Report {
    /// The table for people, lines of at most 80 columns.
    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write_staleness(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "\n{:<32} {:>14} {:>14}", "STALENESS", "with hubs", "without")?;
        let mut row = |name: &str, of: &dyn Fn(&Bill) -> String| {
            writeln!(text, "  {name:<30} {:>14} {:>14}", of(&self.with_hubs), of(&self.without_hubs))
        };
        row("change to copy, online: median", &|bill| format!("{} ms", bill.delay_online_ms.median))?;
        row("                       longest", &|bill| format!("{} ms", bill.delay_online_ms.longest))?;
        row("reads answered while cut off", &|bill| bill.reads_offline.reads.to_string())?;
        row("  of them behind the cloud", &|bill| {
            of(bill.reads_offline.reads, bill.reads_offline.behind.to_string())
        })?;
        row("  behind by at most", &|bill| {
            of(bill.reads_offline.behind, seconds(bill.reads_offline.longest_ms))
        })
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let (with, without) = (&self.with_hubs, &self.without_hubs);
        writeln!(
            text,
            "{:<20} {:^15} {:^15} {:>7} {:>8} {:>9}",
            "", "online", "cut off", "events", "relists", "caught up"
        )?;
        writeln!(
            text,
            "{:<20} {:>7} {:>7} {:>7} {:>7} {:>7} {:>8} {:>9}",
            "REQUESTS", "served", "failed", "served", "failed", "to node", "of cloud", "in"
        )?;
        for (hub, direct) in with.nodes.iter().zip(&without.nodes) {
            for (node, how) in [(hub, "with a hub"), (direct, "without")] {
                let name = if how == "without" { "" } else { node.name.as_str() };
                let caught_up = node.caught_up_ms.map_or_else(|| "never".to_owned(), seconds);
                writeln!(
                    text,
                    "{name:<9}{how:<11} {:>7} {:>7} {:>7} {:>7} {:>7} {:>8} {:>9}",
                    node.online.served,
                    node.online.failed,
                    node.offline.served,
                    node.offline.failed,
                    node.events,
                    node.relists_after_healing,
                    caught_up
                )?;
            }
        }
        writeln!(
            text,
            "Failed with hubs while cut off: {} of {} are status reports, refused with 503\n\
             because nobody in the cloud has seen them. Online: {} of {} are 409 for a Lease\n\
             that the hub had already renewed in the cloud.",
            with.failed("cut off: PATCH", ": 503"),
            with.failed("cut off", ""),
            with.failed("online: PUT", ": 409"),
            with.failed("online", "")
        )?;
        writeln!(text, "\n{:<32} {:>14} {:>14}", "BYTES OVER ALL LINKS", "with hubs", "without")?;
        let mut row = |name: &str, a: u64, b: u64| writeln!(text, "  {name:<30} {a:>14} {b:>14}");
        for class in CLASSES {
            let of = |bill: &Bill| bill.body_bytes.get(class).copied().unwrap_or(0);
            row(class, of(with), of(without))?;
        }
        row("TLS, HTTP heads, pings", with.around_bodies(), without.around_bodies())?;
        row("all, at the cloud's sockets", with.wire_bytes, without.wire_bytes)?;
        self.write_staleness(text)?;
        match self.violations.len() {
            0 => writeln!(
                text,
                "\nNo violations: every copy is what the cloud holds, no revision went back,\n\
                 no list was empty, nothing was deleted that the cloud had not deleted, no write\n\
                 was made up."
            ),
            n => {
                writeln!(text, "\n{n} VIOLATIONS")?;
                self.violations.iter().try_for_each(|violation| writeln!(text, "  {violation}"))
            }
        }
    }
}

fn of(count: usize, text: String) -> String {
    if count == 0 { "-".to_owned() } else { text }
}

fn seconds(milliseconds: u128) -> String {
    format!("{}.{} s", milliseconds / 1000, milliseconds % 1000 / 100)
}
