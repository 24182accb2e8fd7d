//! Unmodified client-go informers beside a scenario: some through a node's hub, one straight at the cloud, which says what
//! the others must hold in the end.

use std::process::Command;
use std::sync::Arc;

use e2e::lab::{Board, Collection, Informers, Judge, Lab, judges_or_skip};

use crate::stage::{LIMIT, NODE, Stage};

/// The clients that hold every collection.
const CLIENTS: [&str; 3] = ["typed-protobuf", "typed-json", "dynamic"];

/// The name of the informers that stand at the cloud.
const CLOUD: &str = "cloud";

/// What is held: name, group, resource, field selector; all in the namespace `default`.
pub(crate) type Kind = (&'static str, &'static str, &'static str, &'static str);

/// The informers of one test.
pub(crate) struct Watchers<'a> {
    lab: &'a Lab,
    test: &'static str,
    judge: Judge,
    kinds: Vec<Kind>,
    board: Arc<Board>,
    running: Vec<Informers>,
}

impl<'a> Watchers<'a> {
    /// Starts the informers at the cloud; `None` after saying why, where they are not built.
    pub(crate) fn beside(stage: &'a Stage, test: &'static str, kinds: &[Kind]) -> Option<Watchers<'a>> {
        let judge = judges_or_skip(test)?.pop().expect("there is one for each version of client-go");
        let board = Arc::default();
        let mut watchers =
            Watchers { lab: stage, test, judge, kinds: kinds.to_vec(), board, running: Vec::new() };
        watchers.start(CLOUD, false);
        Some(watchers)
    }

    /// Starts informers named `name` on the node, as an administrator behind its hub, and waits until they have synced.
    pub(crate) fn start_on_node(&mut self, name: &'static str) {
        self.start(name, true);
        self.board.wait(&format!("{name} synced"), LIMIT, |told| {
            let new = self.running.last().expect("it was just started");
            let caches = new.caches().iter();
            let missing =
                caches.filter(|(client, collection)| told.digest(name, client, collection).is_none());
            missing.map(|cache| format!("{name}: {cache:?} has not synced")).collect()
        });
    }

    fn start(&mut self, name: &'static str, on_node: bool) {
        let kubeconfig = match on_node {
            true => self.lab.node_file(NODE, "admin.kubeconfig"),
            false => self.lab.admin_kubeconfig(),
        };
        let collections = self.kinds.iter().map(|(name, group, resource, fields)| Collection {
            name: (*name).to_owned(),
            kubeconfig: kubeconfig.clone(),
            group: (*group).to_owned(),
            version: "v1".to_owned(),
            resource: (*resource).to_owned(),
            namespace: "default".to_owned(),
            field_selector: (*fields).to_owned(),
            // A hub that told endpoints which the cloud did not know goes on with versions of its own.
            without_versions: *resource == "endpointslices",
        });
        let log = self.lab.dir().join("logs").join(format!("{}-{name}.log", self.test));
        let mut command = match on_node {
            true => self.lab.command(NODE, &self.judge.program).expect("the node stands"),
            false => Command::new(&self.judge.program),
        };
        command
            .env("KUBE_FEATURE_WatchListClient", "true")
            .env("KUBE_WATCHLIST_INCONSISTENCY_DETECTOR", "true");
        let agent = format!("eyot-watcher-{name}");
        let collections: Vec<Collection> = collections.collect();
        let started = Informers::start(command, &self.board, (name, &agent), &CLIENTS, &collections, &log);
        self.running.push(started.expect("a built program starts"));
    }

    /// What the informers `name` hold of `collection` by the first kind of client.
    pub(crate) fn digest(&self, name: &str, collection: &str) -> String {
        let digest = self.board.look(|told| told.digest(name, CLIENTS[0], collection).map(str::to_owned));
        digest.expect("it has synced")
    }

    /// Waits until the informers `name` hold exactly what those named `reference` hold.
    pub(crate) fn agree(&self, name: &str, reference: &str) {
        let judge = self.running.iter().find(|judge| judge.name() == name).expect("it was started");
        let what = format!("{name} holds what {reference} holds");
        self.board.wait(&what, LIMIT, |told| judge.apart(told, reference));
    }

    /// Waits until all informers on the node hold exactly what the cloud has, and ends them in good order: neither they nor
    /// client-go's own inconsistency detector had anything to complain about.
    pub(crate) fn end_where_the_cloud_is(self) {
        self.board.wait("every informer holds what the cloud has", LIMIT, |told| {
            self.running.iter().flat_map(|judge| judge.apart(told, CLOUD)).collect()
        });
        for judge in self.running {
            let name = judge.name().to_owned();
            let (status, log) = judge.stop().expect("it was started here");
            assert!(status.success(), "{name}: {status}:\n{log}");
            assert!(log.contains("onsistency check"), "{name}: the detector compared nothing:\n{log}");
        }
    }
}
