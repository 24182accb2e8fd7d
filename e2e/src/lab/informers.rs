//! Running judges and what they tell: informers of an unmodified client-go that hold collections, each in a process of its
//! own, and the waiting for what they should hold. Nothing here sleeps: every report of a judge wakes who waits.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

/// One resource as one principal may see it.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Collection {
    /// Tells it from the others of the same judge.
    pub name: String,
    /// The file that names server and principal.
    pub kubeconfig: PathBuf,
    /// The API group; empty for the core.
    pub group: String,
    /// The API version: `v1`.
    pub version: String,
    /// The resource in the plural.
    pub resource: String,
    /// The namespace; empty for all, and for what has none.
    pub namespace: String,
    /// As in a request; empty for none.
    pub field_selector: String,
    /// Whether the objects' resourceVersions are left out of what is compared.
    pub without_versions: bool,
}

/// The cache of one collection by one kind of client in one judge: the names of the three, judge first.
pub type CacheName = (String, String, String);

/// What all judges of one [`Board`] have told so far.
#[derive(Debug, Default)]
pub struct Told {
    /// Every digest that a cache had since it was synced, newest last, and its newest report.
    pub caches: BTreeMap<CacheName, (Vec<String>, Value)>,
    /// What was answered to `dump`.
    pub dumps: BTreeMap<CacheName, Value>,
    /// The judges that have ended.
    pub ended: Vec<String>,
}

impl Told {
    /// What this cache holds now, as a digest; `None` until it has synced.
    pub fn digest(&self, judge: &str, client: &str, collection: &str) -> Option<&str> {
        let name = (judge.to_owned(), client.to_owned(), collection.to_owned());
        self.caches.get(&name).and_then(|(digests, _)| digests.last()).map(String::as_str)
    }

    fn take(&mut self, judge: &str, line: Value) {
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        let name = (judge.to_owned(), text("client"), text("collection"));
        if line["is"] == "dump" {
            self.dumps.insert(name, line);
        } else {
            let cache = self.caches.entry(name).or_default();
            cache.0.push(text("digest"));
            cache.1 = line;
        }
    }
}

/// Where the reports of judges meet the test, which waits for them.
#[derive(Debug, Default)]
pub struct Board {
    told: Mutex<Told>,
    changed: Condvar,
}

impl Board {
    /// Looks at what has been told.
    ///
    /// # Panics
    /// If a judge does not speak JSON.
    pub fn look<T>(&self, at: impl FnOnce(&Told) -> T) -> T {
        at(&self.told.lock().expect("no reader panics"))
    }

    /// Waits until `missing`, which names what is not as it should be yet, is empty; returns how long that took.
    ///
    /// # Panics
    /// With what is missing when that takes longer than `limit`, or when a judge ends meanwhile.
    pub fn wait(
        &self,
        what: &str,
        limit: Duration,
        mut missing: impl FnMut(&Told) -> Vec<String>,
    ) -> Duration {
        let started = Instant::now();
        let mut told = self.told.lock().expect("no reader panics");
        loop {
            let missing = missing(&told);
            if missing.is_empty() {
                eprintln!("{what}: after {:.1} s", started.elapsed().as_secs_f64());
                return started.elapsed();
            }
            assert!(told.ended.is_empty(), "{what}: ended by themselves: {:?}", told.ended);
            let left = limit.saturating_sub(started.elapsed());
            assert!(!left.is_zero(), "{what}: not within {limit:?}:\n{}", missing.join("\n"));
            told = self.changed.wait_timeout(told, left).expect("no reader panics").0;
        }
    }

    fn tell(&self, change: impl FnOnce(&mut Told)) {
        change(&mut self.told.lock().expect("no reader panics"));
        self.changed.notify_all();
    }
}

/// One running judge. It is killed when dropped, so that a test that fails leaves none behind.
#[derive(Debug)]
pub struct Informers {
    name: String,
    caches: Vec<(String, String)>,
    child: Child,
    stdin: ChildStdin,
    log: PathBuf,
}

impl Informers {
    /// Starts a judge by `command` (its program, in whatever namespace, with the variables that switch client-go) that
    /// holds each of `collections` by each kind of client in `clients`, reports to `board` under `name` and complains to
    /// `log`. To the API server its name is `user_agent` and the kind of client.
    ///
    /// # Errors
    /// It cannot be started, or the log not be made.
    pub fn start(
        mut command: Command,
        board: &Arc<Board>,
        (name, user_agent): (&str, &str),
        clients: &[&str],
        collections: &[Collection],
        log: &Path,
    ) -> std::io::Result<Informers> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(log)?).spawn()?;
        let stdout = child.stdout.take().expect("stdout was piped");
        let (board, judge) = (Arc::clone(board), name.to_owned());
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                board.tell(|told| {
                    told.take(&judge, serde_json::from_str(&line).expect("a judge speaks JSON"))
                });
            }
            board.tell(|told| told.ended.push(judge));
        });
        let stdin = child.stdin.take().expect("stdin was piped");
        let caches = clients.iter().flat_map(|client| {
            collections.iter().map(|collection| ((*client).to_owned(), collection.name.clone()))
        });
        let caches = caches.collect();
        let mut judge = Informers { name: name.to_owned(), caches, child, stdin, log: log.to_owned() };
        judge.say(
            &json!({ "clients": clients, "userAgent": user_agent, "collections": collections }).to_string(),
        );
        Ok(judge)
    }

    /// The name that it reports under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its caches: kind of client, collection.
    pub fn caches(&self) -> &[(String, String)] {
        &self.caches
    }

    /// Its caches that do not hold exactly what the caches of the same names in the judge `reference` hold now.
    pub fn apart(&self, told: &Told, reference: &str) -> Vec<String> {
        let mut apart = Vec::new();
        for (client, collection) in &self.caches {
            let held = told.digest(&self.name, client, collection);
            let wanted = told.digest(reference, client, collection);
            if held.is_none() || held != wanted {
                apart
                    .push(format!("{} {client} {collection}: {held:?}, the cloud has {wanted:?}", self.name));
            }
        }
        apart
    }

    /// Tells it a command.
    ///
    /// # Panics
    /// If it has ended.
    pub fn say(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").unwrap_or_else(|error| panic!("{}: {error}", self.name));
    }

    /// Ends it in good order; how it ended, and all that client-go complained about.
    ///
    /// # Errors
    /// Its log cannot be read.
    pub fn stop(mut self) -> std::io::Result<(ExitStatus, String)> {
        self.say("stop");
        Ok((self.child.wait()?, std::fs::read_to_string(&self.log)?))
    }
}

impl Drop for Informers {
    fn drop(&mut self) {
        // Nothing happens to one that has ended in good order.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
