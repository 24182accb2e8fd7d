//! `eyot demo`: three nodes live through a cut, and the bill for it.
//!
//! Two model clouds go through one seeded schedule of changes, faults and cuts: one with a real edge-hub process on
//! every node, one whose clients talk to it directly. All figures are counted, none is computed from an assumption.

mod backoff;
mod error;
mod folder;
mod hub_process;
mod informer;
mod judge;
mod node;
mod objects;
mod plan;
mod protobuf;
mod report;
mod screen;
mod tally;
mod world;

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

pub use self::error::DemoError;
use self::error::SYNC_LIMIT;
use self::folder::Folder;
use self::hub_process::HubProcess;
use self::objects::node_name;
use self::plan::{Action, Step};
use self::report::{Bill, Report};
use self::screen::{NodeRow, Screen};
use self::tally::Requests;
use self::world::World;
use crate::cloud::pki::{Authority, Identity};

/// How often copies are compared with the cloud.
const LOOK: Duration = Duration::from_millis(100);
/// As after SIGINT in a shell.
const INTERRUPTED: u8 = 130;

/// The words of `eyot demo`.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Repeat a run: the same seed gives the same schedule, faults and verdict [default: from the clock]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    nodes: u8,
    /// How long the schedule is
    #[arg(long, value_name = "MINUTES", default_value_t = 0.6, value_parser = minutes)]
    minutes: f64,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

fn minutes(text: &str) -> Result<f64, String> {
    let wrong = "a number from 0.15 to 60 is needed".to_owned();
    text.parse().ok().filter(|value| (0.15..=60.0).contains(value)).ok_or(wrong)
}

/// Run the demo: progress on stderr, the table or JSON on stdout. Exit status 0 without violations, 1 with some or
/// after an error that stderr explains, 130 when interrupted.
#[must_use]
pub fn run(options: &Options) -> ExitCode {
    // Ignored when somebody was first: the provider is the same.
    proto_daemon::tls::install_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = runtime
        .map_err(|source| DemoError::Io { what: "start a runtime", source })
        .and_then(|runtime| runtime.block_on(until_interrupted(options)));
    match outcome {
        Ok(Some(report)) => {
            let text = if options.json {
                serde_json::to_string_pretty(&report).expect("numbers and strings are JSON") + "\n"
            } else {
                format!("\n{}", report.table())
            };
            match io::stdout().write_all(text.as_bytes()) {
                // A reader that went away is no failure.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    complain(&format!("cannot write to stdout: {error}"));
                    ExitCode::FAILURE
                }
                _ if report.violations.is_empty() => ExitCode::SUCCESS,
                _ => ExitCode::FAILURE,
            }
        }
        Ok(None) => {
            complain("interrupted");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// The life of the process that keeps the demo's folder. Exit status 0, or 1 after an error that stderr explains.
#[must_use]
pub fn run_janitor(parent: &Path) -> ExitCode {
    match folder::janitor(parent) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("the demo's temporary folder in {}: {error}", parent.display()));
            ExitCode::FAILURE
        }
    }
}

/// A terminal that hung up cannot be told anything.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "eyot: {text}");
}

async fn until_interrupted(options: &Options) -> Result<Option<Report>, DemoError> {
    let catch = |kind| signal(kind).map_err(|source| DemoError::Io { what: "catch signals", source });
    let mut interrupt = catch(SignalKind::interrupt())?;
    let mut terminate = catch(SignalKind::terminate())?;
    let mut hang_up = catch(SignalKind::hangup())?;
    let folder = Folder::new(&std::env::temp_dir())
        .map_err(|source| DemoError::Io { what: "make a temporary folder", source })?;
    let seed = options.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| u64::from(now.subsec_micros()))
    });
    let mut demo = Demo::new(seed, options, &folder)?;
    let outcome = tokio::select! {
        report = demo.play() => report.map(Some),
        _ = interrupt.recv() => Ok(None),
        _ = terminate.recv() => Ok(None),
        _ = hang_up.recv() => Ok(None),
    };
    demo.end().await;
    outcome
}

struct Demo {
    seed: u64,
    length: Duration,
    /// When the schedule began.
    start: Option<Instant>,
    steps: Vec<Step>,
    with_hubs: World,
    without_hubs: World,
    hubs: Vec<HubProcess>,
    screen: Screen,
}

impl Demo {
    fn new(seed: u64, options: &Options, folder: &Folder) -> Result<Self, DemoError> {
        let nodes = usize::from(options.nodes);
        let length = Duration::from_secs_f64(options.minutes * 60.0);
        let length_ms = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        let mut screen = Screen::new(length);
        let seconds = length.as_secs();
        screen.line(&format!(
            "seed {seed}: {nodes} nodes, {seconds} s, all clients twice: behind a hub and without"
        ));
        let authority = Authority::new("eyot-demo")?;
        let identities: Vec<Identity> =
            (0..nodes).map(|node| authority.node(&node_name(node))).collect::<Result<_, _>>()?;
        let listens: Vec<SocketAddr> = (0..options.nodes).map(hub_address).collect();
        let with_hubs = World::new(&authority, &identities, Some(&listens))?;
        let without_hubs = World::new(&authority, &identities, None)?;
        let mut hubs = Vec::new();
        for (node, identity) in identities.iter().enumerate() {
            let link = with_hubs.nodes[node].link;
            let name = node_name(node);
            hubs.push(HubProcess::start(folder, &name, listens[node], link, &authority, identity)?);
        }
        let steps = plan::plan(seed, nodes, length_ms);
        Ok(Self { seed, length, start: None, steps, with_hubs, without_hubs, hubs, screen })
    }

    /// Sync, then the schedule, then the last state everywhere.
    async fn play(&mut self) -> Result<Report, DemoError> {
        for node in 0..self.hubs.len() {
            self.hubs[node].listening().await?;
            self.with_hubs.start_clients(node).await;
            self.without_hubs.start_clients(node).await;
        }
        let missing = self.settle().await?;
        if missing.iter().flatten().flatten().next().is_some() {
            return Err(DemoError::NotSynced { missing: format!("{missing:?}") });
        }
        let taken = self.screen.restart_clock().as_secs_f64();
        self.screen.line(&format!("synced in {taken:.1} s: every client holds what the cloud holds"));
        let start = Instant::now();
        self.start = Some(start);
        for step in self.steps.clone() {
            self.wait_until(start + Duration::from_millis(step.at_ms)).await?;
            self.act(&step.action).await?;
        }
        self.wait_until(start + self.length).await?;
        self.screen.line("the schedule is over: the last state comes in");
        self.with_hubs.stop_chores().await;
        self.without_hubs.stop_chores().await;
        let [with, without] = self.settle().await?;
        self.with_hubs.stop_clients().await;
        self.without_hubs.stop_clients().await;
        self.screen.clear();
        Ok(self.report(&with, &without))
    }

    fn report(&self, with: &[BTreeMap<String, String>], without: &[BTreeMap<String, String>]) -> Report {
        let mut violations = judge::judge(&self.with_hubs, with);
        let direct = judge::judge(&self.without_hubs, without);
        violations.extend(direct.into_iter().map(|text| format!("without a hub: {text}")));
        Report {
            seed: self.seed,
            nodes: self.hubs.len(),
            seconds: self.length.as_secs_f64(),
            verdict: if violations.is_empty() { "ok" } else { "violated" },
            violations,
            schedule: self.steps.clone(),
            with_hubs: Bill::new(&self.with_hubs),
            without_hubs: Bill::new(&self.without_hubs),
        }
    }

    /// Wait until every node holds what the cloud holds; what still differs at the limit, by world and node.
    async fn settle(&mut self) -> Result<[Vec<BTreeMap<String, String>>; 2], DemoError> {
        let limit = Instant::now() + SYNC_LIMIT;
        let nodes = self.hubs.len();
        loop {
            let all = |world: &World| -> Vec<_> { (0..nodes).map(|node| world.differences(node)).collect() };
            let left = [all(&self.with_hubs), all(&self.without_hubs)];
            if left.iter().flatten().all(BTreeMap::is_empty) || Instant::now() >= limit {
                return Ok(left);
            }
            self.wait_until(Instant::now() + LOOK).await?;
        }
    }

    /// Let time pass, and look after hubs, copies and the screen meanwhile.
    async fn wait_until(&mut self, moment: Instant) -> Result<(), DemoError> {
        loop {
            for hub in &mut self.hubs {
                hub.check()?;
            }
            self.with_hubs.look_for_recovery();
            self.without_hubs.look_for_recovery();
            if self.screen.is_live() {
                let rows: Vec<NodeRow> = (0..self.hubs.len()).map(|node| self.row(node)).collect();
                let phase = self.phase();
                self.screen.show(&phase, &rows);
            }
            if Instant::now() >= moment {
                return Ok(());
            }
            tokio::time::sleep_until(moment.min(Instant::now() + LOOK)).await;
        }
    }

    async fn act(&mut self, action: &Action) -> Result<(), DemoError> {
        match action {
            Action::Put(object) => {
                self.with_hubs.put(object)?;
                self.without_hubs.put(object)?;
            }
            Action::Remove(object) => {
                self.with_hubs.remove(object)?;
                self.without_hubs.remove(object)?;
            }
            Action::Break { node, how } => {
                self.say(*node, &format!("the watches of Services break ({how:?})"));
                self.with_hubs.break_streams(*node, *how);
                self.without_hubs.break_streams(*node, *how);
            }
            Action::Cut { node } => {
                self.say(*node, "the link is cut: packets vanish");
                self.with_hubs.cut(*node).await;
                self.without_hubs.cut(*node).await;
            }
            Action::RestartHub { node, kill } => {
                let how = if *kill { "SIGKILL" } else { "SIGTERM" };
                self.say(*node, &format!("the hub gets {how} and starts again, still cut off"));
                self.hubs[*node].restart(*kill).await?;
            }
            Action::RestartClient { node } => {
                self.say(*node, "all clients start again with empty hands, still cut off");
                self.with_hubs.start_clients(*node).await;
                self.without_hubs.start_clients(*node).await;
            }
            Action::Heal { node } => {
                self.say(*node, "the link is back");
                self.with_hubs.heal(*node).await;
                self.without_hubs.heal(*node).await;
            }
        }
        Ok(())
    }

    fn row(&self, node: usize) -> NodeRow {
        let all = |world: &World| {
            let counts = world.nodes[node].tally.counts();
            Requests {
                served: counts.online.served + counts.offline.served,
                failed: counts.online.failed + counts.offline.failed,
            }
        };
        NodeRow {
            name: node_name(node),
            cut: self.with_hubs.nodes[node].tally.is_cut(),
            sides: [all(&self.with_hubs), all(&self.without_hubs)],
        }
    }

    /// What goes on and when it ends, in words.
    fn phase(&self) -> String {
        let Some(start) = self.start else { return "1 of 4: everybody fetches the first state".to_owned() };
        let now = start.elapsed();
        let next = |wanted: fn(&Action) -> bool| {
            let step = self
                .steps
                .iter()
                .find(|step| wanted(&step.action) && u128::from(step.at_ms) > now.as_millis());
            step.map(|step| Duration::from_millis(step.at_ms).saturating_sub(now).as_secs_f64().ceil())
        };
        let cut = next(|action| matches!(action, Action::Cut { .. }));
        let heal = next(|action| matches!(action, Action::Heal { .. }));
        match (cut, heal) {
            _ if now > self.length => "4 of 4: the last state comes in".to_owned(),
            (Some(cut), _) => format!("2 of 4: all is well, the next link is cut in {cut:.0} s"),
            (None, Some(heal)) => format!("3 of 4: cut off, the next link comes back in {heal:.0} s"),
            (None, None) => "4 of 4: the links are back, everybody catches up".to_owned(),
        }
    }

    fn say(&mut self, node: usize, text: &str) {
        self.screen.line(&format!("{}: {text}", node_name(node)));
    }

    /// End everything that runs.
    async fn end(&mut self) {
        self.screen.clear();
        for hub in &mut self.hubs {
            hub.end(true).await;
        }
    }
}

/// A loopback address of this process alone, so that a restarted hub finds its port free.
fn hub_address(node: u8) -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    (IpAddr::V4(Ipv4Addr::new(127, high, low, node + 2)), 10261).into()
}
