//! Unmodified client-go informers come up from a restarted hub while the cloud is away, hold what the cloud held, and
//! follow the cloud again after the heal at the price of no LIST.
//!
//! Every client-go version × WatchList on and off × kind of client is a process of its own, with the inconsistency
//! detector of client-go switched on. What each must hold is told by a reference: the same client of the same version,
//! straight at the API server, alive all the time.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use e2e::lab::{
    Board, CacheName, Collection, Informers, Judge, Lab, NodePart, Nodes, Told, UpOptions, judges_or_skip,
};
use serde_json::Value;

const NODE: &str = "node-1";
const CLIENTS: [&str; 4] = ["typed-protobuf", "typed-json", "dynamic", "metadata"];
/// Turns a hang into a failure; nothing is measured by it.
const LIMIT: Duration = Duration::from_secs(120);

/// Name, principal, group, version, resource, namespace, field selector.
const COLLECTIONS: [(&str, &str, &str, &str, &str, &str); 5] = [
    ("own-pods", "kubelet", "", "pods", "", "spec.nodeName=node-1"),
    ("own-node", "kubelet", "", "nodes", "", "metadata.name=node-1"),
    ("services", "kubelet", "", "services", "", ""),
    ("endpointslices", "pod", "discovery.k8s.io", "endpointslices", "", ""),
    ("configmaps", "pod", "", "configmaps", "default", ""),
];

/// One running judge.
struct Process {
    informers: Informers,
    /// The client-go version, which is the name of the reference to compare with.
    version: &'static str,
    watch_list: bool,
}

impl Process {
    fn name(&self) -> &str {
        self.informers.name()
    }

    fn caches(&self) -> &[(String, String)] {
        self.informers.caches()
    }

    /// Ends it in good order; a panic of the detector or a failure of any kind shows here.
    fn stop(self) {
        let (name, caches) = (self.name().to_owned(), self.caches().len());
        let (status, log) = self.informers.stop().expect("it was started here");
        assert!(status.success(), "{name}: {status}:\n{log}");
        let checked = log.matches("onsistency check").count();
        let wanted = if self.watch_list { caches } else { 0 };
        assert_eq!(checked, wanted, "{name}: WatchLists compared with an Exact list");
        let refused: Vec<&str> = log.lines().filter(|line| line.contains("ailed to list")).collect();
        assert!(refused.is_empty(), "{name}: {refused:#?}");
    }
}

/// A lab with the processes that hold its collections.
struct World {
    lab: Lab,
    board: Arc<Board>,
}

impl Drop for World {
    fn drop(&mut self) {
        // The lab also ends by itself with this process; a panic in a drop would hide the test's own.
        let _ = Lab::down(self.lab.dir());
        if !std::thread::panicking() {
            // The logs are worth something after a failure only.
            let _ = fs::remove_dir_all(self.lab.dir());
        }
    }
}

impl World {
    /// Starts a judge; `through_hub` puts it on the node, else it is a reference straight at the API server.
    fn start(
        &self,
        judge: &Judge,
        name: &str,
        clients: &[&'static str],
        watch_list: bool,
        through_hub: bool,
    ) -> Process {
        let file = |principal: &str| match through_hub {
            true => self.lab.node_file(NODE, &format!("{principal}.kubeconfig")),
            false => self.lab.admin_kubeconfig(),
        };
        let collections =
            COLLECTIONS.map(|(name, principal, group, resource, namespace, fields)| Collection {
                name: name.to_owned(),
                kubeconfig: file(principal),
                group: group.to_owned(),
                version: "v1".to_owned(),
                resource: resource.to_owned(),
                namespace: namespace.to_owned(),
                field_selector: fields.to_owned(),
                without_versions: false,
            });
        // The audit log tells the clients that are judged from the references by this.
        let agent = format!("eyot-{}-{name}", if through_hub { "client" } else { "reference" });
        let log = self.lab.dir().join("logs").join(format!("{name}.log"));
        let mut command = match through_hub {
            true => self.lab.command(NODE, &judge.program).expect("the node stands"),
            false => Command::new(&judge.program),
        };
        command
            .env("KUBE_FEATURE_WatchListClient", watch_list.to_string())
            .env("KUBE_WATCHLIST_INCONSISTENCY_DETECTOR", "true");
        let informers = Informers::start(command, &self.board, (name, &agent), clients, &collections, &log);
        Process { informers: informers.expect("a built program starts"), version: judge.name, watch_list }
    }

    /// Waits until `missing` is empty.
    fn wait(&self, what: &str, missing: impl FnMut(&Told) -> Vec<String>) {
        self.board.wait(what, LIMIT, missing);
    }

    fn kubectl(&self, arguments: &[&str]) {
        let output = self.lab.kubectl().expect("built").args(arguments).output().expect("kubectl starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments:?}: {said}");
    }
}

/// The caches that do not hold exactly what the reference of their version holds now.
fn apart(told: &Told, processes: &[Process]) -> Vec<String> {
    processes.iter().flat_map(|process| process.informers.apart(told, process.version)).collect()
}

/// The references that do not know yet that the configmaps became so many by so many events of each kind.
fn behind(told: &Told, references: &[Process], objects: i64, updated: i64, deleted: i64) -> Vec<String> {
    let mut behind = Vec::new();
    for reference in references {
        for client in CLIENTS {
            let name = (reference.name().to_owned(), client.to_owned(), "configmaps".to_owned());
            let last = told.caches.get(&name).map_or(&Value::Null, |(_, last)| last);
            if last["objects"] != objects || last["updated"] != updated || last["deleted"] != deleted {
                behind.push(format!("{name:?}: {last}"));
            }
        }
    }
    behind
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).expect("the API server writes its audit log").len()
}

/// Verb, user agent and collection of every request in the audit log after `from`.
fn audit(path: &Path, from: u64) -> Vec<(String, String, String)> {
    let mut file = File::open(path).expect("the API server writes its audit log");
    file.seek(SeekFrom::Start(from)).expect("it only grows");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("JSON is UTF-8");
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    lines
        .map(|line| {
            let line: Value = serde_json::from_str(line).expect("one JSON object a line");
            let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            let uri = text("requestURI");
            let (path, query) = uri.split_once('?').unwrap_or((&uri, ""));
            let selector =
                query.split('&').find(|part| part.starts_with("fieldSelector=")).unwrap_or_default();
            // A WatchList is a LIST by another name.
            let whole = text("verb") == "list"
                || query.contains("sendInitialEvents=true") && text("stage") == "ResponseStarted";
            let verb = if whole { "list".to_owned() } else { text("verb") };
            (verb, text("userAgent"), format!("{path}?{selector}"))
        })
        .collect()
}

/// After the heal no client has listed at the cloud, and the hub each collection once at most.
fn check_audit(world: &World, from: u64) {
    let asked = audit(&world.lab.audit_log(), from);
    let whole = audit(&world.lab.audit_log(), 0);
    let reference_lists =
        whole.iter().filter(|(verb, agent, _)| verb == "list" && agent.starts_with("eyot-reference-"));
    assert!(reference_lists.count() > 0, "the audit log knows LISTs of client-go by their user agent");
    let by_clients: Vec<_> = asked.iter().filter(|(_, agent, _)| agent.starts_with("eyot-client-")).collect();
    let lists: Vec<_> = by_clients.iter().filter(|(verb, ..)| verb == "list").collect();
    assert!(lists.is_empty(), "LISTs of clients at the cloud after the heal: {lists:#?}");
    let of_hub: Vec<_> = asked.iter().filter(|(_, agent, _)| agent.starts_with("edge-hub/")).collect();
    assert!(!of_hub.is_empty(), "the audit log knows the hub by its user agent");
    let mut lists: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, _, collection) in of_hub.iter().filter(|(verb, ..)| verb == "list") {
        *lists.entry(collection).or_default() += 1;
    }
    let (clients, hub, listed) = (by_clients.len(), of_hub.len(), lists.values().sum::<usize>());
    eprintln!("after the heal the cloud saw {clients} requests of clients, {hub} of the hub, {listed} LISTs");
    // Clients of protobuf, JSON and PartialObjectMetadata are served from one collection.
    let often: Vec<_> = lists.iter().filter(|(_, count)| **count > 1).collect();
    assert!(often.is_empty(), "more than one LIST per collection: {often:?}");
}

/// Both readings of every cache agree: what the store holds, and what the events of the handler add up to.
fn check_dumps(world: &World, processes: &mut [Process]) {
    for process in &mut *processes {
        process.informers.say("dump");
    }
    let wanted: usize = processes.iter().map(|process| process.caches().len()).sum();
    world.wait("every cache told what it holds", |told| {
        let given = told.dumps.len();
        if given == wanted { Vec::new() } else { vec![format!("{given} of {wanted} dumps")] }
    });
    world.board.look(|told| {
        for (name, dump) in &told.dumps {
            assert_eq!(dump["store"], dump["events"], "{name:?}: the store is not what the events add up to");
        }
    });
}

/// Each cache that came up while cut holds a state that the cloud had at the cut or between `pinned` and the cut.
fn check_offline(world: &World, pinned: &BTreeMap<CacheName, usize>, fresh: &[Process]) {
    let check = |told: &Told, process: &Process| {
        for (client, collection) in process.caches() {
            let held = told.digest(process.name(), client, collection).expect("it has synced");
            let reference = (process.version.to_owned(), client.clone(), collection.clone());
            let known = &told.caches[&reference].0[pinned[&reference]..];
            assert!(
                known.iter().any(|digest| digest == held),
                "{} {client} {collection}: holds {held}, the cloud had {known:?}",
                process.name()
            );
        }
        eprintln!("{}: synced offline, equal to the cloud", process.name());
    };
    world.board.look(|told| fresh.iter().for_each(|process| check(told, process)));
}

fn config_map(name: &str, value: &str) -> Vec<String> {
    ["create", "configmap", name, &format!("--from-literal=key={value}")].map(str::to_owned).into()
}

fn seed(world: &World) {
    for name in ["kept", "changed-cut", "changed-healed", "deleted-cut", "deleted-healed"] {
        let words = config_map(name, "seed");
        world.kubectl(&words.iter().map(String::as_str).collect::<Vec<_>>());
    }
    world.kubectl(&["create", "service", "clusterip", "judged", "--tcp=80:8080"]);
}

/// A create, an update and a delete, straight at the cloud. The names end in `when`.
fn change(world: &World, when: &str) {
    let words = config_map(&format!("created-{when}"), "new");
    world.kubectl(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let changed = format!("changed-{when}");
    world.kubectl(&["patch", "configmap", &changed, "--type=merge", "-p", r#"{"data":{"key":"changed"}}"#]);
    world.kubectl(&["delete", "configmap", &format!("deleted-{when}")]);
}

fn start_fresh(world: &World, judges: &[Judge]) -> Vec<Process> {
    let mut fresh = Vec::new();
    for judge in judges {
        for watch_list in [true, false] {
            for client in CLIENTS {
                let mode = if watch_list { "watchlist" } else { "list" };
                // The kind of client is the end of the user agent anyway; the log file needs it as well.
                let name = format!("{}-{mode}-{client}", judge.name);
                fresh.push(world.start(judge, &name, &[client], watch_list, true));
            }
        }
    }
    fresh
}

/// From now on the caches hold what the cloud has; where the history of each reference stands is returned.
fn pin(world: &World, references: &[Process], online: &[Process]) -> BTreeMap<CacheName, usize> {
    let mut pinned = BTreeMap::new();
    world.wait("clients hold online what the cloud has", |told| {
        let mut missing = behind(told, references, 6, 0, 0);
        missing.extend(apart(told, online));
        if missing.is_empty() {
            let ends = told.caches.iter().map(|(name, (digests, _))| (name.clone(), digests.len() - 1));
            pinned = ends.collect();
        }
        missing
    });
    pinned
}

#[test]
fn every_client_go_informer_syncs_offline_from_a_restarted_hub_and_heals_without_a_list() {
    let test = "every_client_go_informer_syncs_offline_from_a_restarted_hub_and_heals_without_a_list";
    let Some(judges) = judges_or_skip(test) else { return };
    let own = std::process::id();
    let dir = std::env::temp_dir().join(format!("eyot-judges-{own}"));
    let lab = Lab::up(&UpOptions {
        program: Some(env!("CARGO_BIN_EXE_eyot").into()),
        bound_to: Some(i32::try_from(own).expect("Linux process ids fit an i32")),
        ..UpOptions::new(dir, 1)
    });
    let world = World { lab: lab.expect("the lab stands"), board: Arc::default() };
    let node = Nodes::One(NODE.to_owned());
    seed(&world);
    let references: Vec<Process> =
        judges.iter().map(|judge| world.start(judge, judge.name, &CLIENTS, false, false)).collect();
    // The newest and the oldest read everything once; they then live through the cut and the hub's restart.
    let (oldest, newest) = (&judges[0], &judges[judges.len() - 1]);
    let mut clients = vec![
        world.start(newest, "judge-online-watchlist", &CLIENTS, true, true),
        world.start(oldest, "judge-online-list", &CLIENTS, false, true),
    ];
    let pinned = pin(&world, &references, &clients);

    world.lab.cut(&node).expect("cut");
    world.lab.restart(NODE, NodePart::Hub).expect("a hub with a store is ready while cut");
    let fresh = start_fresh(&world, &judges);
    world.wait("all caches of all fresh clients synced offline", |told| {
        let missing = |process: &Process| {
            let caches = process.caches().iter();
            let missing = caches.filter(|(client, name)| told.digest(process.name(), client, name).is_none());
            missing.map(|cache| format!("{} {cache:?} has not synced", process.name())).collect::<Vec<_>>()
        };
        fresh.iter().flat_map(missing).collect()
    });
    check_offline(&world, &pinned, &fresh);
    clients.extend(fresh);

    change(&world, "cut");
    assert!(world.lab.is_cut(NODE).expect("nft answers"), "all of this happened before the heal");
    let healed_at = length(&world.lab.audit_log());
    world.lab.heal(&node).expect("healed");
    change(&world, "healed");
    world.wait("all clients hold what the cloud has after the heal", |told| {
        let mut missing = behind(told, &references, 6, 2, 2);
        missing.extend(apart(told, &clients));
        missing
    });
    check_audit(&world, healed_at);
    check_dumps(&world, &mut clients);
    world.board.look(|told| assert_eq!(told.ended, [""; 0], "ended by themselves"));
    clients.into_iter().chain(references).for_each(Process::stop);
}
