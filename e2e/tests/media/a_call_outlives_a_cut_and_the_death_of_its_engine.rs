//! The node is cut: frames go on and a new viewer comes in. Its engine is killed, still cut: the kubelet starts it again
//! from the hub's store at the same port, and the page plays on without a reload. Healed: the pod is what it was.

use std::time::{Duration, Instant};

use e2e::lab::{EnginePod, Grant, Lab, NodePart, Nodes, UpOptions, real_or_skip, wait_until};
use serde_json::Value;

use crate::browser::{Browser, packages_or_skip};

const NAME: &str = "a_call_outlives_a_cut_and_the_death_of_its_engine";
const NODE: &str = "node-1";
/// Turns a hang into a failure, where nothing shorter is promised.
const LIMIT: Duration = Duration::from_secs(90);
/// How long the cut lasts while frames are counted, in seconds.
const CUT_SECONDS: u64 = 20;

/// A lab that goes down with the test.
struct Stage {
    lab: Lab,
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = Lab::down(self.lab.dir()) {
            eprintln!("{NAME}: not taken down: {error}");
        }
    }
}

impl Stage {
    fn up(dir: &std::path::Path) -> Self {
        let own = i32::try_from(std::process::id()).expect("a process id");
        let options = UpOptions {
            kubelets: true,
            program: Some(env!("CARGO_BIN_EXE_eyot").into()),
            bound_to: Some(own),
            verbose: true,
            ..UpOptions::new(dir.to_owned(), 1)
        };
        Self { lab: Lab::up(&options).unwrap_or_else(|error| panic!("{NAME}: the lab: {error}")) }
    }

    fn settings(&self, engine: std::net::SocketAddr, subject: &str, what: &str) -> String {
        let everything = vec!["*".to_owned()];
        let token = self.lab.media_token(&Grant {
            subject: subject.to_owned(),
            room: "hall".to_owned(),
            publish: if what.contains("publish") { everything.clone() } else { Vec::new() },
            play: everything,
            lifetime: Duration::from_secs(600),
        });
        let token = token.expect("the lab has a key");
        format!(
            "engine=http://{engine}&room=hall&stream=cam&token={token}&{what}&width=320&height=240&fps=15"
        )
    }

    fn pod(&self) -> EnginePod {
        let mut pods = self.lab.media_pods().expect("kubectl");
        assert_eq!(pods.len(), 1, "{pods:?}");
        pods.pop().expect("one")
    }

    fn running(&self) -> Vec<String> {
        let containers = self.lab.media_containers(NODE).unwrap_or_default();
        containers.into_iter().filter(|each| each.running).map(|each| each.id).collect()
    }

    fn is_ready(&self) -> bool {
        let mut kubectl = self.lab.kubectl().expect("kubectl");
        let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
        let output = kubectl.args(["get", "node", NODE, "-o", path]).output().expect("it runs");
        String::from_utf8_lossy(&output.stdout) == "True"
    }
}

fn frames(page: &Value) -> u64 {
    page["playing"]["frames"].as_u64().unwrap_or_default()
}

/// Waits for the first frame of a page and returns how long that took.
fn plays(browser: &mut Browser, page: &str, what: &str) -> Duration {
    let began = Instant::now();
    let mut last = Value::Null;
    let found = wait_until(LIMIT, || {
        last = browser.read(page);
        last["playing"]["live"] == true && frames(&last) > 0
    });
    assert!(found, "{what}: not within {LIMIT:?}: {last}");
    began.elapsed()
}

/// Cuts the node, and looks at the frames of each second.
fn cut(stage: &Stage, browser: &mut Browser) {
    stage.lab.cut(&Nodes::One(NODE.to_owned())).expect("cut");
    let mut counted = vec![frames(&browser.read("call"))];
    let cut = Instant::now();
    for second in 1..=CUT_SECONDS {
        // Not synchronisation: the promise is one of each second.
        std::thread::sleep(Duration::from_secs(second).saturating_sub(cut.elapsed()));
        counted.push(frames(&browser.read("call")));
    }
    let page = browser.read("call");
    let playing = &page["playing"];
    eprintln!(
        "{NAME}: {CUT_SECONDS} s cut, frames {counted:?}, {} freezes of {} s in all",
        playing["freezes"], playing["frozen"]
    );
    assert!(counted.windows(2).all(|pair| pair[1] > pair[0]), "they rise in each second: {counted:?}");
    assert_eq!((&playing["sessions"], &page["publishing"]["sessions"]), (&1.into(), &1.into()), "{page}");
}

/// Kills the engine's container and waits until the page plays by the next one.
fn kill(stage: &Stage, browser: &mut Browser) {
    let containers = stage.running();
    assert_eq!(containers.len(), 1);
    stage.lab.kill(NODE, NodePart::MediaEngine).expect("it runs");
    let killed = Instant::now();
    let again = || stage.running().iter().any(|id| !containers.contains(id));
    assert!(wait_until(LIMIT, again), "the kubelet starts the engine again while cut");
    eprintln!("{NAME}: the engine's container ran again {:?} after SIGKILL", killed.elapsed());
    let mut page = Value::Null;
    let back = wait_until(LIMIT, || {
        page = browser.read("call");
        page["playing"]["sessions"] == 2 && page["publishing"]["sessions"] == 2 && frames(&page) > 0
    });
    assert!(back, "the page plays again: {page}");
    eprintln!(
        "{NAME}: the page played again {:?} after SIGKILL; gaps in ms: published {}, played {}",
        killed.elapsed(),
        page["publishing"]["gaps"],
        page["playing"]["gaps"]
    );
    assert_eq!(page["loads"], 1, "without a reload");
    assert!(stage.lab.is_cut(NODE).expect("nft answers"), "all of this happened before the heal");
}

/// Heals the node: the pod is what it was, and nobody in the call sees anything.
fn heal(stage: &Stage, browser: &mut Browser, before: &EnginePod) {
    let running = stage.running();
    stage.lab.heal(&Nodes::All).expect("healed");
    let healed = Instant::now();
    assert!(wait_until(LIMIT, || stage.is_ready()), "the node is Ready again");
    let known = || {
        let pod = stage.pod();
        pod.restarts == before.restarts + 1 && pod.ready
    };
    assert!(wait_until(LIMIT, known), "the cloud knows of the one restart: {:?}", stage.pod());
    eprintln!("{NAME}: the cloud knew all of it {:?} after healing", healed.elapsed());
    let after = stage.pod();
    assert_eq!((&after.uid, &after.node, &after.name), (&before.uid, &before.node, &before.name));
    assert_eq!(stage.running(), running, "healing starts nothing anew");
    let count = frames(&browser.read("call"));
    assert!(wait_until(LIMIT, || frames(&browser.read("call")) > count), "the call goes on");
    let page = browser.read("call");
    assert_eq!((&page["playing"]["sessions"], &page["loads"]), (&2.into(), &1.into()), "{page}");
}

#[test]
fn a_call_outlives_a_cut_and_the_death_of_its_engine() {
    let Some(modules) = packages_or_skip(NAME) else { return };
    let Some(_) = real_or_skip(NAME, true) else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let stage = Stage::up(&folder.path().join("lab"));
    let began = Instant::now();
    let engine = stage.lab.start_media(NODE).unwrap_or_else(|error| panic!("{NAME}: the engine: {error}"));
    eprintln!("{NAME}: the engine's pod is ready after {:?}", began.elapsed());
    let before = stage.pod();

    let mut browser = Browser::start(&modules);
    browser.open("call", &stage.settings(engine, "ann", "publish=1&play=1"));
    let took = plays(&mut browser, "call", "the page plays what it publishes");
    eprintln!("{NAME}: first frame {took:?} after the page was opened");

    cut(&stage, &mut browser);
    browser.open("second", &stage.settings(engine, "bob", "play=1"));
    let took = plays(&mut browser, "second", "a second viewer gets in while cut");
    eprintln!("{NAME}: a second viewer's first frame came {took:?} after its page was opened");
    browser.close("second");

    kill(&stage, &mut browser);
    heal(&stage, &mut browser, &before);
    browser.close("call");

    browser.open("h264", &stage.settings(engine, "ann", "publish=1&play=1&codec=H264"));
    plays(&mut browser, "h264", "another codec");
    let page = browser.read("h264");
    assert_eq!(
        (&page["publishing"]["codec"], &page["playing"]["codec"]),
        (&"H264".into(), &"H264".into()),
        "{page}"
    );
}
