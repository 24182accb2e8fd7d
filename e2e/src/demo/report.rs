//! The bill: what was counted at the clients, in the model cloud's records and at its sockets.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::objects::node_name;
use super::plan::Step;
use super::tally::Requests;
use super::world::World;
use crate::cloud::model::RequestRecord;

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
    /// From a change in the cloud to a client's copy, while the node was not cut.
    delay_online_ms: Delay,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeBill {
    name: String,
    online: Requests,
    offline: Requests,
    failures: BTreeMap<String, u64>,
    events: u64,
    /// Collections that clients fetched whole, over the whole run.
    client_lists: u64,
    /// Collections that the cloud sent whole after the link came back.
    relists_after_healing: usize,
    /// From the heal until every copy was the cloud's state; null when that never was so.
    caught_up_ms: Option<u128>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Delay {
    events: usize,
    median: u128,
    longest: u128,
}

const LISTS: &str = "lists";
const WATCHES: &str = "watch streams";
const READS: &str = "single reads";
const LEASES: &str = "node leases";
const STATUS: &str = "node status";
const ACCESS: &str = "who is it, who may";
const CLASSES: [&str; 6] = [LISTS, WATCHES, READS, LEASES, STATUS, ACCESS];

fn class(record: &RequestRecord) -> &'static str {
    match record.gvr.as_ref().map_or("", |gvr| gvr.resource.as_str()) {
        "leases" => LEASES,
        "tokenreviews" | "subjectaccessreviews" => ACCESS,
        _ if record.is_full_transfer() => LISTS,
        _ if record.is_watch() => WATCHES,
        _ if record.verb == "get" => READS,
        _ => STATUS,
    }
}

impl Bill {
    /// Count what a world has cost.
    pub(super) fn new(world: &World) -> Self {
        let records: Vec<RequestRecord> =
            world.cloud.records().into_iter().filter(|record| record.user_agent != "demo-setup").collect();
        let mut body_bytes: BTreeMap<&'static str, u64> = CLASSES.map(|class| (class, 0)).into();
        for record in &records {
            *body_bytes.entry(class(record)).or_default() += record.bytes_in + record.bytes_out;
        }
        let (received, sent) = world.cloud.wire_bytes();
        Self {
            nodes: (0..world.nodes.len()).map(|node| NodeBill::new(world, node, &records)).collect(),
            body_bytes,
            wire_bytes: received + sent,
            requests_at_cloud: records.len(),
            delay_online_ms: Delay::new(world),
        }
    }

    /// Of all requests that failed while cut off, those that a hub refused because they are reports to the cloud.
    fn refusals(&self) -> (u64, u64) {
        let refused = |text: &str| text.starts_with("cut off: PATCH") && text.ends_with(": 503");
        let all = self.nodes.iter().flat_map(|node| &node.failures);
        let refused = all.filter(|(text, _)| refused(text)).map(|(_, times)| times).sum();
        (refused, self.nodes.iter().map(|node| node.offline.failed).sum())
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
            events: counts.events,
            client_lists: counts.client_lists,
            relists_after_healing: records.iter().filter(relist).count(),
            caught_up_ms: held.caught_up.map(|time| time.as_millis()),
        }
    }
}

impl Delay {
    fn new(world: &World) -> Self {
        let mut all = Vec::new();
        for node in &world.nodes {
            let (Some((_, healed)), Some(cut)) = (node.healed, node.cut) else { continue };
            for (revision, came) in &node.tally.counts().deliveries {
                let Some(changed) = world.changed.get(revision) else { continue };
                if *came < cut || *changed > healed {
                    all.push(came.saturating_duration_since(*changed).as_millis());
                }
            }
        }
        all.sort_unstable();
        let at = |index: usize| all.get(index).copied().unwrap_or(0);
        Self { events: all.len(), median: at(all.len() / 2), longest: at(all.len().saturating_sub(1)) }
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
        let (refused, failed) = with.refusals();
        writeln!(
            text,
            "With hubs, {refused} of the {failed} that failed while cut off are status reports, refused"
        )?;
        writeln!(text, "with 503 at once, because nobody in the cloud has seen them.")?;
        writeln!(text, "\n{:<32} {:>14} {:>14}", "BYTES OVER ALL LINKS", "with hubs", "without")?;
        let mut row = |name: &str, a: u64, b: u64| writeln!(text, "  {name:<30} {a:>14} {b:>14}");
        for class in CLASSES {
            let of = |bill: &Bill| bill.body_bytes.get(class).copied().unwrap_or(0);
            row(class, of(with), of(without))?;
        }
        row("TLS, HTTP heads, pings", with.around_bodies(), without.around_bodies())?;
        row("all, at the cloud's sockets", with.wire_bytes, without.wire_bytes)?;
        writeln!(text, "\n{:<32} {:>14} {:>14}", "CHANGE TO COPY, ONLINE", "with hubs", "without")?;
        let (a, b) = (&with.delay_online_ms, &without.delay_online_ms);
        writeln!(text, "  {:<30} {:>11} ms {:>11} ms", "median", a.median, b.median)?;
        writeln!(text, "  {:<30} {:>11} ms {:>11} ms", "longest", a.longest, b.longest)?;
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

fn seconds(milliseconds: u128) -> String {
    format!("{}.{} s", milliseconds / 1000, milliseconds % 1000 / 100)
}
