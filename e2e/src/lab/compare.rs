//! The bill: what the link of one node carries with a hub and without, side by side, through the same story.
//!
//! Two labs stand at the same time, one with hubs and one whose nodes talk to the API server themselves; each step
//! happens to both at once and is measured over the same time, so that what the machine does meanwhile weighs on both.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use super::command::run;
use super::error::{LabError, Result};
use super::objects::POD_NAMESPACE;
use super::{HubKind, Lab, Nodes, UpOptions, wait_until};

/// The node whose link is measured.
const NODE: &str = "node-1";

/// How often an endpoint changes in the step of that name.
const FLIPS: usize = 400;

/// The Service whose one endpoint changes.
const SERVICE: &str = "flips";

/// How long after `up` the labs are left alone before anything is measured: starting is not idling.
const REST: Duration = Duration::from_secs(30);

/// Over how long the flips, a reboot and a heal are measured.
const WINDOW: Duration = Duration::from_secs(90);

/// How long a reboot or a heal may take until all is as before.
const RECOVERY_LIMIT: Duration = Duration::from_secs(80);

/// The longest idle time and cut.
const MOST_MINUTES: f64 = 120.0;

/// What to compare.
#[derive(Debug, Clone)]
pub struct CompareOptions {
    /// The folder for both labs, `hub` and `none` below it.
    pub dir: PathBuf,
    /// The `eyot` program that runs the hubs; the running one if none is given.
    pub program: Option<PathBuf>,
    /// How long the nodes idle, and how long they are cut off, in minutes: more than 0, at most 120.
    pub minutes: f64,
}

/// One line of the bill.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// What happened.
    pub what: String,
    /// Over how long, in seconds.
    pub seconds: f64,
    /// Bytes both ways over the node's link with a hub.
    pub hub_bytes: u64,
    /// The same without.
    pub native_bytes: u64,
    /// The most that the hub may need.
    pub allowed_bytes: u64,
    /// Whether it needed no more.
    pub kept: bool,
}

/// How much more than the native node a hub may need.
#[derive(Debug, Clone, Copy)]
enum Promise {
    /// So many bytes a second.
    PerSecond(f64),
    /// So many times as much.
    Times(f64),
}

impl Promise {
    fn allowed(self, native_bytes: u64, seconds: f64) -> u64 {
        let native = native_bytes as f64;
        let allowed = match self {
            Promise::PerSecond(more) => native + more * seconds,
            Promise::Times(times) => native * times,
        };
        // Positive and far below the largest integer: counted bytes of minutes.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let allowed = allowed.floor() as u64;
        allowed
    }
}

/// One step, done to one lab.
type Step = fn(&Lab, Duration) -> Result<()>;

/// Builds both labs, lives through the story and returns the bill. Takes both labs down, however it ends.
///
/// Errors: those of [`Lab::up`]; minutes out of range; a lab that does not recover.
pub fn compare(options: &CompareOptions) -> Result<Vec<Row>> {
    if !(options.minutes > 0.0 && options.minutes <= MOST_MINUTES) {
        return Err(LabError::Invalid(format!("--minutes must be above 0 and at most {MOST_MINUTES}")));
    }
    let dirs = [options.dir.join("hub"), options.dir.join("none")];
    let result = story(options, &dirs);
    let downs = dirs.each_ref().map(|dir| Lab::down(dir));
    let rows = result?;
    downs.into_iter().collect::<Result<Vec<_>>>()?;
    Ok(rows)
}

fn story(options: &CompareOptions, dirs: &[PathBuf; 2]) -> Result<Vec<Row>> {
    let own = i32::try_from(std::process::id()).expect("Linux process ids fit an i32");
    let up = |dir: &PathBuf, hub: HubKind| {
        Lab::up(&UpOptions {
            kubelets: true,
            hub,
            program: options.program.clone(),
            bound_to: Some(own),
            verbose: true,
            ..UpOptions::new(dir, 2)
        })
    };
    let labs = [up(&dirs[0], HubKind::EdgeHub)?, up(&dirs[1], HubKind::None)?];
    both(&labs, make_service)?;
    eprintln!("both labs stand; resting {} s", REST.as_secs());
    thread::sleep(REST);
    let long = Duration::from_secs_f64(options.minutes * 60.0);
    let minutes = options.minutes;
    let steps: [(String, Duration, Duration, Promise, Step); 4] = [
        (format!("idle for {minutes} min"), Duration::ZERO, long, Promise::PerSecond(150.0), idle),
        (format!("{FLIPS} changes of an endpoint"), Duration::ZERO, WINDOW, Promise::Times(1.01), flip),
        ("reboot of the node".to_owned(), Duration::ZERO, WINDOW, Promise::Times(1.01), reboot),
        (format!("heal after {minutes} min of churn"), long, WINDOW, Promise::Times(1.01), heal),
    ];
    let mut rows = Vec::new();
    for (what, cut, window, promise, step) in steps {
        eprintln!("{what} ...");
        if !cut.is_zero() {
            both(&labs, |lab| churn_while_cut(lab, cut))?;
        }
        let [hub_bytes, native_bytes] = both(&labs, |lab| measure(lab, window, step))?;
        let seconds = window.as_secs_f64();
        let allowed_bytes = promise.allowed(native_bytes, seconds);
        let kept = hub_bytes <= allowed_bytes;
        eprintln!(
            "{what}: {native_bytes} B without a hub, {hub_bytes} B with one, {allowed_bytes} B allowed"
        );
        rows.push(Row { what, seconds, hub_bytes, native_bytes, allowed_bytes, kept });
    }
    Ok(rows)
}

/// Does the same to both labs at the same time.
fn both<T: Send>(labs: &[Lab; 2], work: impl Fn(&Lab) -> Result<T> + Sync) -> Result<[T; 2]> {
    let [first, second] = labs;
    thread::scope(|scope| {
        let other = scope.spawn(|| work(second));
        let first = work(first);
        let second = other.join().expect("a step reports by its result");
        Ok([first?, second?])
    })
}

/// The bytes on the node's link while `step` happens, over exactly `window`.
fn measure(lab: &Lab, window: Duration, step: Step) -> Result<u64> {
    let before = lab.traffic(NODE)?;
    let started = Instant::now();
    step(lab, window)?;
    thread::sleep(window.saturating_sub(started.elapsed()));
    Ok(lab.traffic(NODE)?.since(&before).bytes())
}

fn idle(_: &Lab, _: Duration) -> Result<()> {
    Ok(())
}

fn flip(lab: &Lab, _: Duration) -> Result<()> {
    flips(lab, FLIPS)
}

fn reboot(lab: &Lab, _: Duration) -> Result<()> {
    lab.reboot(NODE)?;
    recovered(lab)
}

fn heal(lab: &Lab, _: Duration) -> Result<()> {
    lab.heal(&Nodes::from(NODE))?;
    recovered(lab)
}

/// Ten changes of the endpoint every ten seconds, and of what a pod has mounted, while the node is cut off.
fn churn_while_cut(lab: &Lab, length: Duration) -> Result<()> {
    lab.cut(&Nodes::from(NODE))?;
    let started = Instant::now();
    for round in 0_u32.. {
        if started.elapsed() >= length {
            return Ok(());
        }
        flips(lab, 10)?;
        let value = json!({ "data": { "value": format!("round-{round}") } }).to_string();
        let patch = ["patch", "configmap", "settings", "-n", POD_NAMESPACE, "--type=merge", "-p", &value];
        run(lab.kubectl()?.args(patch), "")?;
        let next = Duration::from_secs(10) * (round + 1);
        thread::sleep(next.min(length).saturating_sub(started.elapsed()));
    }
    Ok(())
}

/// Waits until the node is Ready and all its pods run.
fn recovered(lab: &Lab) -> Result<()> {
    let ready = || -> Result<bool> {
        let nodes = get(lab, &["get", "node", NODE])?;
        let pods = get(lab, &["get", "pods", "-n", POD_NAMESPACE])?;
        let pods = pods["items"].as_array().is_some_and(|pods| pods.iter().all(is_ready));
        Ok(is_ready(&nodes) && pods)
    };
    let mut last = Ok(false);
    if wait_until(RECOVERY_LIMIT, || {
        last = ready();
        matches!(last, Ok(true))
    }) {
        return Ok(());
    }
    last?;
    Err(LabError::NotReady {
        what: format!("{NODE} of the lab in {}", lab.dir().display()),
        seconds: RECOVERY_LIMIT.as_secs(),
        detail: "the node or one of its pods is not Ready".to_owned(),
    })
}

fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|each| each["type"] == "Ready" && each["status"] == "True"))
}

fn get(lab: &Lab, words: &[&str]) -> Result<Value> {
    let text = run(lab.kubectl()?.args(words).args(["-o", "json"]), "")?;
    serde_json::from_str(&text).map_err(|error| LabError::Invalid(format!("kubectl {words:?}: {error}")))
}

fn make_service(lab: &Lab) -> Result<()> {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": SERVICE, "namespace": POD_NAMESPACE },
        "spec": { "ports": [{ "name": "http", "port": 80 }] },
    });
    super::objects::apply(lab.kubectl()?, &[service, slice(0)])
}

/// The one slice of the Service; its endpoint is ready in every second version.
fn slice(version: usize) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": SERVICE, "namespace": POD_NAMESPACE,
            "labels": { "kubernetes.io/service-name": SERVICE },
            "annotations": { "eyot.io/version": version.to_string() },
        },
        "endpoints": [{ "addresses": ["10.244.9.9"], "conditions": { "ready": version.is_multiple_of(2) } }],
        "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }],
    })
}

/// Changes the endpoint `count` times, one after the other, with one kubectl.
fn flips(lab: &Lab, count: usize) -> Result<()> {
    let items: Vec<Value> = (1..=count).map(slice).collect();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    run(lab.kubectl()?.args(["replace", "-f", "-"]), &list.to_string()).map(drop)
}

/// The bill as a table.
pub fn table(rows: &[Row]) -> String {
    let mut table = format!(
        "{:<34} {:>14} {:>14} {:>14}  {}\n",
        "ONE NODE'S LINK", "NATIVE", "HUB", "ALLOWED", "PROMISE"
    );
    for row in rows {
        let verdict = if row.kept { "kept" } else { "BROKEN" };
        table.push_str(&format!(
            "{:<34} {:>12} B {:>12} B {:>12} B  {verdict}\n",
            row.what, row.native_bytes, row.hub_bytes, row.allowed_bytes
        ));
    }
    table.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_measured_against_the_native_node() {
        assert_eq!(Promise::PerSecond(150.0).allowed(1000, 10.0), 2500);
        assert_eq!(Promise::Times(1.01).allowed(1000, 10.0), 1010);
        assert_eq!(Promise::Times(1.01).allowed(0, 10.0), 0);
    }

    #[test]
    fn every_version_of_the_slice_differs_from_the_one_before() {
        assert_ne!(slice(1)["endpoints"], slice(2)["endpoints"]);
        assert_ne!(slice(1), slice(3));
    }

    #[test]
    fn a_broken_promise_shows() {
        let row = |kept| Row {
            what: "idle".to_owned(),
            seconds: 1.0,
            hub_bytes: 2,
            native_bytes: 1,
            allowed_bytes: 1,
            kept,
        };
        assert!(table(&[row(false)]).contains("BROKEN"));
        assert!(!table(&[row(true)]).contains("BROKEN"));
    }
}
