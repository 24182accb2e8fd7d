//! The words of the `eyot` command and what it prints. stdout carries answers, stderr progress and complaints.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use self::words::{Dir, say};
use crate::lab::{
    Assets, Certificate, CompareOptions, Cut, Delay, HubKind, HubOptions, Lab, LabError, NodePart, Nodes,
    Slow, Status, UpOptions, Way, all_programs, build_judges, cache_root,
};

mod daemon;
mod help;
mod media;
mod words;

use help::{DEMO_ABOUT, DEMO_JSON, LAB_ABOUT, LAB_EXAMPLE, SLOW_EXAMPLE};

/// Edge autonomy for Kubernetes node pools: see it in a minute, or try it in a lab on one machine.
#[derive(Debug, Parser)]
#[command(name = "eyot", version, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Top,
}

#[derive(Debug, Subcommand)]
enum Top {
    /// A real Kubernetes whose nodes can be cut off, on this machine
    #[command(subcommand, long_about = LAB_ABOUT, after_help = LAB_EXAMPLE)]
    Lab(LabCommand),
    /// Three nodes live through a cut, and the bill for it; needs nothing but this program
    #[command(long_about = DEMO_ABOUT, after_long_help = DEMO_JSON)]
    Demo(crate::demo::Options),
    #[command(flatten)]
    Daemon(daemon::Daemon),
    /// Make the demo's folder below a folder, and remove it when stdin ends; the demo starts this
    #[command(hide = true)]
    Janitor { parent: PathBuf },
    /// Be the delay of a node's link until SIGTERM; the lab starts this
    #[command(hide = true)]
    Delay {
        #[command(flatten)]
        link: crate::lab::Link,
        #[arg(long, value_parser = Delay::parse_time)]
        mean: Duration,
        #[arg(long, value_parser = Delay::parse_time)]
        jitter: Duration,
    },
}

/// A part of a node that can be left out of a lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Kubelet,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Build the Kubernetes binaries that a lab runs, into a cache folder
    ///
    /// The folder is $EYOT_CACHE, else $XDG_CACHE_HOME/eyot, else ~/.cache/eyot. A program named by
    /// TEST_ASSET_<NAME> (such as TEST_ASSET_KUBE_APISERVER) or present in the folder KUBEBUILDER_ASSETS is used as
    /// it is and not built. Prints one line per program: name and path.
    Assets,
    /// Start a lab; returns when the API server and every hub are ready
    Up {
        #[command(flatten)]
        dir: Dir,
        /// How many nodes (1 to 200); they are named node-1, node-2 ...
        #[arg(long, value_name = "N", default_value_t = 2)]
        nodes: u8,
        /// Put the nodes in pools: one in each of pool-2 ... pool-P, the others in pool-1, which has a coordinator
        #[arg(long, value_name = "P", default_value_t = 0)]
        pools: u8,
        /// Leave a part of every node out
        #[arg(long, value_name = "PART", value_enum)]
        without: Vec<Part>,
        /// What stands between the nodes and the API server
        #[arg(long, value_enum, default_value = "edge-hub")]
        hub: HubKind,
        /// Give nodes, pods, Services and the DNS server IPv6 addresses (ULA) beside those of IPv4, which come first
        #[arg(long)]
        dual_stack: bool,
        /// Put the nodes behind a router with NAT; the API server reaches them by the tunnel that node-1 dials
        #[arg(long)]
        tunnel: bool,
    },
    /// Cut a node off from the cloud: packets vanish without a reset; all of them, both ways, unless told otherwise
    Cut {
        /// A node's name, or `all`
        node: String,
        /// Only what comes from the cloud (in) or goes there (out)
        #[arg(long, value_enum, value_name = "WAY")]
        one_way: Option<Way>,
        /// Only TCP and UDP with this port at either end; 6443 is the API server's, 10250 the kubelet's
        #[arg(long, value_name = "PORT")]
        port: Option<u16>,
        /// Only this many of a hundred packets, at random
        #[arg(long, value_name = "PERCENT", default_value_t = 100, value_parser = clap::value_parser!(u8).range(1..=100))]
        percent: u8,
        #[command(flatten)]
        dir: Dir,
    },
    /// Slow a node's link down, each way: no more than a rate, a delay, or both
    ///
    /// Whatever passes the link is slow, pods of different nodes too. The newest slow takes the place of an older one;
    /// `heal` ends it, and what was under way goes on at once, in order. It stays through cuts, freezes and reboots.
    #[command(after_help = SLOW_EXAMPLE)]
    Slow {
        /// A node's name, or `all`
        node: String,
        /// The rate, such as 256kbit or 10mbit; what comes faster waits up to 400 ms and is then dropped
        #[arg(long, value_name = "RATE", required_unless_present = "delay")]
        rate: Option<String>,
        /// How long each packet is under way, such as 150ms or 2s, at most 60s; a round trip takes two of it
        #[arg(long, value_name = "TIME", value_parser = Delay::parse_time)]
        delay: Option<Duration>,
        /// By how much the delay differs at random, packet by packet, so that packets overtake one another
        #[arg(long, value_name = "TIME", value_parser = Delay::parse_time, requires = "delay")]
        jitter: Option<Duration>,
        #[command(flatten)]
        dir: Dir,
    },
    /// Stop every process of a node where it stands, containers too, as a host that hangs; `heal` lets them go on
    Freeze {
        /// The node's name
        node: String,
        #[command(flatten)]
        dir: Dir,
    },
    /// Restart a whole node: all processes and containers killed, the disk kept, everything started as at boot; a cut
    /// stays
    Reboot {
        /// The node's name
        node: String,
        #[command(flatten)]
        dir: Dir,
    },
    /// End what cut, slow and freeze did
    Heal {
        /// A node's name, or `all`
        #[arg(default_value = "all")]
        node: String,
        #[command(flatten)]
        dir: Dir,
    },
    /// End a process of a node by SIGTERM and start it again; returns when it is ready
    Restart {
        /// The node's name
        node: String,
        /// Which part of it
        #[arg(value_enum)]
        part: NodePart,
        /// Of a hub: so many seconds is its clock ahead of the machine's, until it is started again
        #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
        clock_offset: Option<i64>,
        #[command(flatten)]
        dir: Dir,
    },
    /// Put a new certificate in the place of a node's, which holds as long as you say; nothing is restarted
    Renew {
        /// The node's name
        node: String,
        /// Which certificate
        #[arg(value_enum)]
        certificate: Certificate,
        /// How long it holds from now
        #[arg(long, value_name = "SECONDS", default_value_t = 31_536_000)]
        seconds: u64,
        #[command(flatten)]
        dir: Dir,
    },
    /// Kill a part of a node by SIGKILL and leave it dead; `restart` starts it again, a pod comes back by its kubelet
    Kill {
        /// The node's name
        node: String,
        /// Which part of it
        #[arg(value_enum)]
        part: NodePart,
        #[command(flatten)]
        dir: Dir,
    },
    /// Run a command inside a node's network namespace
    ///
    /// The lab's binaries (kubectl and the rest) are on its PATH and KUBECONFIG is not set. It inherits stdin,
    /// stdout and stderr, and its exit status is the one of eyot.
    Exec {
        /// The node's name
        node: String,
        #[command(flatten)]
        dir: Dir,
        /// The command and its arguments, after `--`
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Show the bytes that crossed each node's link since the lab began
    ///
    /// Counted at the node's end with Ethernet headers (14 bytes a packet) and without segmentation offload: what a
    /// wire would have carried; `up` proves that on a known transfer. The classes are the API server's port, the
    /// kubelet's port, pods of different nodes, and the rest.
    Traffic {
        #[command(flatten)]
        dir: Dir,
        /// As one JSON object: node name to {link, api, kubelet, pods, other}, each with receivedBytes, sentBytes,
        /// receivedPackets and sentPackets
        #[arg(long)]
        json: bool,
    },
    /// Print the bill of one node's link, with a hub beside without one: idling, 400 changes of an endpoint, a reboot, a
    /// heal after churn
    ///
    /// Builds two labs side by side, takes the same steps in both at once, and takes them down. With the ten minutes
    /// of the promises it runs for half an hour. Exit status 1 if a promise is broken.
    Compare {
        /// How long the nodes idle, and how long they are cut off
        #[arg(long, value_name = "MINUTES", default_value_t = 10.0)]
        minutes: f64,
        /// A folder for both labs
        #[arg(long, value_name = "DIR", default_value = "eyot-compare")]
        dir: PathBuf,
        /// As one JSON list of {what, seconds, hubBytes, nativeBytes, allowedBytes, kept}
        #[arg(long)]
        json: bool,
    },
    /// Show what the clients of a node have asked its hub, alike requests as one line
    Requests {
        /// The node's name
        node: String,
        #[command(flatten)]
        dir: Dir,
        /// As a JSON list of {program, method, path, query, accept, contentType, count}
        #[arg(long)]
        json: bool,
    },
    Media(media::Arguments),
    /// Show which parts run, are ready, are cut off, are slow
    Status {
        #[command(flatten)]
        dir: Dir,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// End every process of the lab and remove its namespaces, mounts and files; the logs stay
    ///
    /// Works after a crash or kill -9 of anything, twice in a row, and on a folder without a lab.
    Down {
        #[command(flatten)]
        dir: Dir,
        /// First wait until this process has ended
        #[arg(long, hide = true, requires = "created")]
        after_process: Option<i32>,
        /// Only the lab made at this time
        #[arg(long, hide = true)]
        created: Option<u64>,
    },
}

/// Runs the `eyot` command with `arguments` (the program's name first); returns its exit status: 0, 1 for a failure
/// that stderr explains, 2 for words that it does not know; for `exec`, that of the command.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter().peekable();
    if arguments.peek().is_some_and(|name| daemon::is_engine(name)) {
        return daemon::media_engine(arguments.skip(1));
    }
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // A closed terminal cannot be told anything.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let command = match cli.command {
        Top::Daemon(daemon) => return daemon.run(),
        Top::Demo(options) => return crate::demo::run(&options),
        Top::Janitor { parent } => return crate::demo::run_janitor(&parent),
        Top::Delay { link, mean, jitter } => {
            let delay = Delay::new(mean, jitter).map_err(LabError::Invalid);
            return finish(delay.and_then(|delay| crate::lab::run_delay(&link, delay)));
        }
        Top::Lab(command) => command,
    };
    finish(run_lab(command))
}

fn finish(result: Result<(), LabError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("eyot: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_lab(command: LabCommand) -> Result<(), LabError> {
    match command {
        LabCommand::Assets => assets(),
        LabCommand::Up { dir, nodes, pools, without, hub, dual_stack, tunnel } => {
            let kubelets = !without.contains(&Part::Kubelet);
            up(&UpOptions {
                kubelets,
                pools,
                hub,
                dual_stack,
                tunnel,
                verbose: true,
                ..UpOptions::new(dir.dir, nodes)
            })
        }
        LabCommand::Cut { node, one_way, port, percent, dir } => {
            let lab = Lab::open(&dir.dir)?;
            let cut = Cut { way: one_way.unwrap_or_default(), port, percent };
            lab.cut_partly(&Nodes::from(node.as_str()), &cut)?;
            say(&format!("cut: {node}; `eyot lab heal {node} --dir {}` ends it", lab.dir().display()));
            Ok(())
        }
        LabCommand::Slow { node, rate, delay, jitter, dir } => {
            let delay = delay.map(|mean| Delay::new(mean, jitter.unwrap_or_default())).transpose();
            slow(&dir, &node, &Slow { rate, delay: delay.map_err(LabError::Invalid)? })
        }
        LabCommand::Freeze { node, dir } => {
            let lab = Lab::open(&dir.dir)?;
            lab.freeze(&node)?;
            say(&format!("frozen: {node}; `eyot lab heal {node} --dir {}` ends it", lab.dir().display()));
            Ok(())
        }
        LabCommand::Reboot { node, dir } => {
            Lab::open(&dir.dir)?.reboot(&node)?;
            say(&format!("rebooted: {node}; its kubelet is healthy"));
            Ok(())
        }
        LabCommand::Heal { node, dir } => {
            Lab::open(&dir.dir)?.heal(&Nodes::from(node.as_str()))?;
            say(&format!("healed: {node}"));
            Ok(())
        }
        LabCommand::Restart { node, part, clock_offset, dir } => restart(&dir, &node, part, clock_offset),
        LabCommand::Renew { node, certificate, seconds, dir } => {
            let lifetime = std::time::Duration::from_secs(seconds);
            let end = Lab::open(&dir.dir)?.renew(&node, certificate, lifetime)?;
            say(&format!("renewed: it ends at {end}"));
            Ok(())
        }
        LabCommand::Kill { node, part, dir } => {
            let lab = Lab::open(&dir.dir)?;
            lab.kill(&node, part)?;
            say(&format!("killed: the {} of {node}", word(part)));
            if !matches!(part, NodePart::Pod | NodePart::MediaEngine) {
                let dir = lab.dir().display();
                say(&format!("`eyot lab restart {node} {} --dir {dir}` starts it again", word(part)));
            }
            Ok(())
        }
        LabCommand::Exec { node, dir, command } => exec(&dir, &node, &command),
        LabCommand::Traffic { dir, json } => traffic(&dir, json),
        LabCommand::Compare { minutes, dir, json } => compare(minutes, dir, json),
        LabCommand::Requests { node, dir, json } => requests(&dir, &node, json),
        LabCommand::Media(arguments) => media::run(arguments),
        LabCommand::Status { dir, json } => status(&dir, json),
        LabCommand::Down { dir, after_process: Some(process), created, .. } => {
            crate::lab::down_after(&dir.dir, process, created.unwrap_or_default())
        }
        LabCommand::Down { dir, .. } => down(&dir),
    }
}

fn slow(dir: &Dir, node: &str, slow: &Slow) -> Result<(), LabError> {
    let lab = Lab::open(&dir.dir)?;
    lab.slow(&Nodes::from(node), slow)?;
    let delay = slow.delay.map(|delay| format!("{delay} under way"));
    let words: Vec<String> = slow.rate.clone().into_iter().chain(delay).collect();
    let (words, dir) = (words.join(", "), lab.dir().display());
    say(&format!("slow: {node}, {words} each way; `eyot lab heal {node} --dir {dir}` ends it"));
    Ok(())
}

fn restart(dir: &Dir, node: &str, part: NodePart, clock_offset: Option<i64>) -> Result<(), LabError> {
    let lab = Lab::open(&dir.dir)?;
    match (part, clock_offset) {
        (_, None) => lab.restart(node, part)?,
        (NodePart::Hub, Some(clock_offset)) => {
            lab.restart_hub(node, &HubOptions { clock_offset, ..HubOptions::default() })?;
        }
        _ => return Err(LabError::Invalid("only a hub has a --clock-offset".to_owned())),
    }
    say(&format!("restarted: the {} of {node} is ready", word(part)));
    Ok(())
}

fn assets() -> Result<(), LabError> {
    eprintln!("building into {}", cache_root()?.display());
    let mut lines = String::new();
    for (name, path) in Assets::build(&all_programs())?.iter() {
        lines.push_str(&format!("{name} {}\n", path.display()));
    }
    for judge in build_judges()? {
        lines.push_str(&format!("{} {}\n", judge.name, judge.program.display()));
    }
    say(lines.trim_end());
    Ok(())
}

fn up(options: &UpOptions) -> Result<(), LabError> {
    let lab = Lab::up(options)?;
    let dir = lab.dir().display();
    let node = lab.nodes().first().map_or("node-1", String::as_str);
    say(&format!(
        "The lab in {dir} is ready: {} nodes ({}), API server {}.

Try:
  export LAB={dir}
  kubectl() {{ $LAB/bin/kubectl \"$@\"; }}
  kubectl --kubeconfig $LAB/admin.kubeconfig get nodes,pods -o wide       # straight to the API server
  eyot lab exec {node} --dir $LAB -- kubectl --kubeconfig $LAB/nodes/{node}/kubelet.kubeconfig get node {node} -w &
  eyot lab cut {node} --dir $LAB          # a black hole between {node} and the cloud
  eyot lab restart {node} hub --dir $LAB  # the hub serves from its store
  eyot lab status --dir $LAB
  eyot lab heal --dir $LAB
  eyot lab down --dir $LAB",
        lab.nodes().len(),
        lab.nodes().join(", "),
        lab.api_server(),
    ));
    Ok(())
}

/// The part as it is written on the command line.
fn word(part: NodePart) -> String {
    part.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Becomes the command: its stdio, its signals and its exit status are then nobody else's.
fn exec(dir: &Dir, node: &str, command: &[OsString]) -> Result<(), LabError> {
    let (program, arguments) = command.split_first().expect("clap requires at least one word after --");
    let mut inside = Lab::open(&dir.dir)?.command(node, program)?;
    let error = inside.args(arguments).exec();
    Err(LabError::Io { what: "start", path: program.into(), source: error })
}

fn traffic(dir: &Dir, json: bool) -> Result<(), LabError> {
    let lab = Lab::open(&dir.dir)?;
    let mut rows = serde_json::Map::new();
    let mut table = format!(
        "{:<12} {:<8} {:>16} {:>16} {:>12} {:>12}\n",
        "NODE", "CLASS", "RECEIVED", "SENT", "PACKETS IN", "OUT"
    );
    for node in lab.nodes() {
        let traffic = lab.traffic_by_class(node)?;
        for (class, part) in [
            ("all", traffic.link),
            ("api", traffic.api),
            ("kubelet", traffic.kubelet),
            ("pods", traffic.pods),
            ("other", traffic.other),
        ] {
            table.push_str(&format!(
                "{node:<12} {class:<8} {:>14} B {:>14} B {:>12} {:>12}\n",
                part.received_bytes, part.sent_bytes, part.received_packets, part.sent_packets
            ));
        }
        rows.insert(node.clone(), serde_json::to_value(traffic).expect("integers are JSON"));
    }
    say(if json { serde_json::Value::Object(rows).to_string() } else { table.trim_end().to_owned() }.as_str());
    Ok(())
}

fn requests(dir: &Dir, node: &str, json: bool) -> Result<(), LabError> {
    let shapes = crate::lab::shapes(&Lab::open(&dir.dir)?.requests(node)?);
    if json {
        say(&serde_json::to_string_pretty(&shapes).expect("names and numbers are JSON"));
        return Ok(());
    }
    let mut table =
        format!("{:<12} {:>6} {:<7} {}\n", "CLIENT", "TIMES", "METHOD", "PATH, QUERY AND WHAT IT ACCEPTS");
    for shape in shapes {
        let query = if shape.query.is_empty() { String::new() } else { format!("?{}", shape.query) };
        table.push_str(&format!(
            "{:<12} {:>6} {:<7} {}{query}  {}\n",
            shape.program, shape.count, shape.method, shape.path, shape.accept
        ));
    }
    say(table.trim_end());
    Ok(())
}

fn compare(minutes: f64, dir: PathBuf, json: bool) -> Result<(), LabError> {
    let rows = crate::lab::compare(&CompareOptions { dir, program: None, minutes })?;
    let text = || serde_json::to_string_pretty(&rows).expect("names and numbers are JSON");
    say(&if json { text() } else { crate::lab::table(&rows) });
    match rows.iter().filter(|row| !row.kept).count() {
        0 => Ok(()),
        broken => Err(LabError::Invalid(format!("{broken} of {} promises broken", rows.len()))),
    }
}

fn status(dir: &Dir, json: bool) -> Result<(), LabError> {
    let status = Lab::open(&dir.dir)?.status()?;
    if json {
        say(&serde_json::to_string_pretty(&status).expect("names and numbers are JSON"));
    } else {
        say(&status_text(&status));
    }
    Ok(())
}

fn status_text(status: &Status) -> String {
    let mut text =
        format!("lab {} in {}, API server {}\n", status.id, status.dir.display(), status.api_server);
    let mut row = |place: &str, link: &str, name: &str, state: String| {
        text.push_str(&format!("{place:<12} {link:<10} {name:<26} {state}\n"));
    };
    row("WHERE", "LINK", "PROCESS", "STATE".to_owned());
    let state = |process: &crate::lab::ProcessStatus| match (process.pid, process.ready) {
        (None, _) => "dead".to_owned(),
        (Some(pid), Some(false)) => format!("not ready (pid {pid})"),
        (Some(pid), Some(true)) => format!("ready (pid {pid})"),
        (Some(pid), None) => format!("running (pid {pid})"),
    };
    for process in &status.cloud {
        row("cloud", "", &process.name, state(process));
    }
    for node in &status.nodes {
        let link = match (node.cut, node.slow) {
            (false, false) => "up",
            (false, true) => "slow",
            (true, false) => "CUT",
            (true, true) => "CUT, slow",
        };
        if node.processes.is_empty() {
            row(&node.name, link, "-", "no processes of its own".to_owned());
        }
        for process in &node.processes {
            row(&node.name, link, &process.name, state(process));
        }
    }
    text.trim_end().to_owned()
}

fn down(dir: &Dir) -> Result<(), LabError> {
    let swept = Lab::down(&dir.dir)?;
    if swept == crate::lab::Swept::default() {
        say(&format!("nothing of a lab was left in {}", dir.dir.display()));
    } else {
        say(&format!(
            "down: {} processes ended, {} namespaces and {} mounts removed; the logs stay in {}",
            swept.processes,
            swept.namespaces,
            swept.mounts,
            dir.dir.join("logs").display()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_words_hang_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_words_that_testers_rely_on_are_understood() {
        for line in [
            "eyot lab assets",
            "eyot lab up --nodes 3 --dir /tmp/l --without kubelet",
            "eyot lab up --nodes 3 --dir /tmp/l --without kubelet --hub none",
            "eyot lab up --dual-stack --dir /tmp/l",
            "eyot lab up --pools 2 --nodes 4 --dir /tmp/l",
            "eyot lab kill node-1 coordinator --dir /tmp/l",
            "eyot coordinator --config /tmp/l/coordinator.yaml --check-config",
            "eyot lab cut node-1 --dir /tmp/l",
            "eyot lab cut all --dir /tmp/l",
            "eyot lab cut node-1 --one-way in --port 6443 --percent 30 --dir /tmp/l",
            "eyot lab slow node-1 --rate 256kbit --dir /tmp/l",
            "eyot lab slow node-1 --rate 1mbit --delay 150ms --jitter 50ms --dir /tmp/l",
            "eyot lab slow all --delay 2s --dir /tmp/l",
            "eyot lab freeze node-1 --dir /tmp/l",
            "eyot lab reboot node-1 --dir /tmp/l",
            "eyot lab kill node-1 kube-proxy --dir /tmp/l",
            "eyot lab restart node-1 coredns --dir /tmp/l",
            "eyot lab heal --dir /tmp/l",
            "eyot lab heal node-1 --dir /tmp/l",
            "eyot lab restart node-1 hub --dir /tmp/l",
            "eyot lab kill node-1 hub --dir /tmp/l",
            "eyot lab kill node-1 pod --dir /tmp/l",
            "eyot lab restart node-1 kubelet --dir /tmp/l",
            "eyot lab exec node-1 --dir /tmp/l -- kubectl get pods --kubeconfig x",
            "eyot lab exec --dir /tmp/l node-1 -- true",
            "eyot lab traffic --json --dir /tmp/l",
            "eyot lab status --json --dir /tmp/l",
            "eyot lab requests node-1 --json --dir /tmp/l",
            "eyot lab media node-1 --dir /tmp/l",
            "eyot lab kill node-1 media-engine --dir /tmp/l",
            "eyot lab media node-1 --subject bob --play cam --token --dir /tmp/l",
            "eyot media-engine --config /tmp/m.yaml --check-config",
            "eyot lab compare --minutes 0.5 --json --dir /tmp/l",
            "eyot lab down --dir /tmp/l",
            "eyot demo",
            "eyot demo --seed 7 --nodes 2 --minutes 0.2 --json",
            "eyot hub --exit-with-parent --config /tmp/d/hub.yaml",
            "eyot hub --config /tmp/l/hub.yaml --check-config",
        ] {
            let parsed = Cli::try_parse_from(line.split(' '));
            assert!(
                parsed.is_ok(),
                "{line}: {}",
                parsed.err().map(|error| error.to_string()).unwrap_or_default()
            );
        }
    }

    #[test]
    fn a_command_without_its_node_is_refused() {
        for line in [
            "eyot demo --minutes 0",
            "eyot demo --nodes 0",
            "eyot lab cut",
            "eyot lab cut node-1 --percent 0",
            "eyot lab slow node-1",
            "eyot lab slow node-1 --rate 1mbit --jitter 50ms",
            "eyot lab slow node-1 --delay 150",
            "eyot lab exec node-1",
            "eyot lab restart node-1 sun",
            "eyot lab",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
